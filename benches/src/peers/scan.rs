//! Fan-in the plain way: a bare ring for each link, and a poll that looks at every one of them.

use super::limit::only_memory;
use crate::bare::ring::{BATCH, Consumer, Producer, Shape};
use crate::case::{Case, Test};
use crate::channel::{Channel, Duplex};
use crate::error::Result;
use crate::memory::Shared;
use crate::peer::{End, Handed, Handover, Peer};
use std::rc::Rc;

/// The size of each link's ring, in bytes.
pub(super) const RING_BYTES: usize = 16 << 10;

pub(super) struct Scan;

impl Peer for Scan {
    fn name(&self) -> &'static str {
        "scan"
    }

    fn about(&self) -> &'static str {
        "bare rings, every one looked at in turn"
    }

    fn takes(&self, case: &Case) -> bool {
        matches!(case.test, Test::IdlePoll | Test::FanInRoundTrip | Test::HotLink)
    }

    fn open(&self, case: &Case) -> Result<(Box<dyn End>, Handover)> {
        let shape = shape(case);
        let memory = Shared::create((case.links + 1) * shape.memory_bytes())?;
        let handed = Handed::descriptors([memory.descriptor()?]);
        let channel = Near {
            case: *case,
            outgoing: (0..case.links)
                .map(|link| Producer::new(&memory, ring_at(shape, link), shape))
                .collect(),
            incoming: Consumer::new(&memory, ring_at(shape, case.links), shape),
            link: 0,
        };
        Ok((Box::new(Duplex::new(channel, case.bytes)), Handover::Process(handed)))
    }

    fn join(&self, case: &Case, handed: Handed) -> Result<Box<dyn End>> {
        let (shape, memory) = (shape(case), only_memory(handed)?);
        let channel = Far {
            incoming: consumers(case, &memory, shape),
            outgoing: Producer::new(&memory, ring_at(shape, case.links), shape),
            at: 0,
            drained: 0,
        };
        Ok(Box::new(Duplex::new(channel, case.bytes)))
    }
}

/// Each link's ring has this shape.
pub(super) fn shape(case: &Case) -> Shape {
    Shape::new(case.bytes, RING_BYTES, BATCH)
}

/// Ring after ring; the one for answers is the last.
pub(super) fn ring_at(shape: Shape, link: usize) -> usize {
    link * shape.memory_bytes()
}

/// The receiving ends of all links.
pub(super) fn consumers(case: &Case, memory: &Rc<Shared>, shape: Shape) -> Vec<Consumer> {
    (0..case.links).map(|link| Consumer::new(memory, ring_at(shape, link), shape)).collect()
}

struct Near {
    case: Case,
    outgoing: Vec<Producer>,
    incoming: Consumer,
    /// The link that was sent on last.
    link: usize,
}

impl Channel for Near {
    #[inline]
    fn send(&mut self, payload: &[u8]) -> Result<()> {
        self.link = self.case.link_of(payload.first_chunk().copied().map_or(0, u64::from_le_bytes));
        self.outgoing[self.link].push(payload).map(|_| ())
    }

    #[inline]
    fn flush(&mut self) -> Result<()> {
        self.outgoing[self.link].publish();
        Ok(())
    }

    #[inline]
    fn try_receive(&mut self, payload: &mut [u8]) -> Result<bool> {
        Ok(self.incoming.pop(payload))
    }
}

struct Far {
    incoming: Vec<Consumer>,
    outgoing: Producer,
    /// The link to look at next.
    at: usize,
    /// Messages read from it in a row; at most a batch, so that no link starves the others.
    drained: u64,
}

impl Channel for Far {
    #[inline]
    fn send(&mut self, payload: &[u8]) -> Result<()> {
        self.outgoing.push(payload).map(|_| ())
    }

    #[inline]
    fn flush(&mut self) -> Result<()> {
        self.outgoing.publish();
        Ok(())
    }

    #[inline]
    fn try_receive(&mut self, payload: &mut [u8]) -> Result<bool> {
        for _ in 0..self.incoming.len() {
            if self.drained < BATCH && self.incoming[self.at].pop(payload) {
                self.drained += 1;
                return Ok(true);
            }
            self.drained = 0;
            self.at = if self.at + 1 == self.incoming.len() { 0 } else { self.at + 1 };
        }
        Ok(false)
    }
}
