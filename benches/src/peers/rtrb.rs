//! rtrb: rings of bytes between two threads; it has no way to lie in shared memory.
//!
//! With many links the far end looks at every ring in turn.

use super::ring_bytes;
use crate::case::{Case, Test};
use crate::channel::{Channel, Duplex, Patience};
use crate::error::Result;
use crate::peer::{End, Handed, Handover, Peer};
use ::rtrb::{Consumer, Producer, RingBuffer};

/// A ring of a fan-in, in bytes: a thousand of them should not fill the memory.
const FANIN_RING_BYTES: usize = 16 << 10;

pub(super) struct Rtrb;

impl Peer for Rtrb {
    fn name(&self) -> &'static str {
        "rtrb"
    }

    fn about(&self) -> &'static str {
        "rings of bytes between two threads, published message by message"
    }

    fn takes(&self, case: &Case) -> bool {
        !matches!(case.test, Test::WakeUp | Test::AskParked)
    }

    fn open(&self, case: &Case) -> Result<(Box<dyn End>, Handover)> {
        let case = *case;
        let bytes =
            if case.test == Test::HotLink || case.links > 1 { FANIN_RING_BYTES } else { ring_bytes(&case) };
        let capacity = bytes.max(2 * case.bytes) / case.bytes * case.bytes;
        let (near_out, far_in): (Vec<_>, Vec<_>) = (0..case.links).map(|_| RingBuffer::new(capacity)).unzip();
        let (far_out, near_in) = RingBuffer::new(capacity);
        let near = Duplex::new(Rings::new(case, near_out, vec![near_in]), case.bytes);
        let far = Rings::new(Case { links: 1, ..case }, vec![far_out], far_in);
        let far = move || Ok(Box::new(Duplex::new(far, case.bytes)) as Box<dyn End>);
        Ok((Box::new(near), Handover::Thread(Box::new(far))))
    }

    fn join(&self, _case: &Case, _handed: Handed) -> Result<Box<dyn End>> {
        unreachable!("its far end is a thread")
    }
}

struct Rings {
    case: Case,
    outgoing: Vec<Producer<u8>>,
    incoming: Vec<Consumer<u8>>,
    /// The ring to look at next.
    at: usize,
}

impl Rings {
    fn new(case: Case, outgoing: Vec<Producer<u8>>, incoming: Vec<Consumer<u8>>) -> Self {
        Self { case, outgoing, incoming, at: 0 }
    }
}

impl Channel for Rings {
    #[inline]
    fn send(&mut self, payload: &[u8]) -> Result<()> {
        let link = match &self.outgoing[..] {
            [_] => 0,
            _ => self.case.link_of(payload.first_chunk().copied().map_or(0, u64::from_le_bytes)),
        };
        let mut patience = Patience::default();
        while self.outgoing[link].push_entire_slice(payload).is_err() {
            patience.wait()?;
        }
        Ok(())
    }

    #[inline]
    fn try_receive(&mut self, payload: &mut [u8]) -> Result<bool> {
        for _ in 0..self.incoming.len() {
            let ring = self.at;
            self.at = if ring + 1 == self.incoming.len() { 0 } else { ring + 1 };
            if self.incoming[ring].pop_entire_slice(payload).is_ok() {
                // Goes on with this ring: a burst is read as one. A ring that never runs dry would starve the others,
                // which are idle here.
                self.at = ring;
                return Ok(true);
            }
        }
        Ok(false)
    }
}
