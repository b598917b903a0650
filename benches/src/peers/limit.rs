//! The limit: for each test the least that any of its kind has to do.
//!
//! Round trips: a flag and a payload beside it. Streams: a bare ring with batches of 32, unbatched where asking for
//! a parked receiver is measured. Idle polls: one look at one flag. Wake-ups: a bare futex.

use super::ring_bytes;
use crate::bare::page::{FlagPage, Payload, Side};
use crate::bare::ring::{BATCH, RingPair, Shape};
use crate::case::{Case, Test};
use crate::channel::{Channel, Duplex};
use crate::error::{Error, Result};
use crate::memory::{LINE_BYTES, PAGE_BYTES, Shared, Word};
use crate::peer::{End, Handed, Handover, LIMIT, Peer};
use rustix::io::Errno;
use rustix::thread::futex;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};

pub(super) struct Limit;

impl Peer for Limit {
    fn name(&self) -> &'static str {
        LIMIT
    }

    fn about(&self) -> &'static str {
        "bare shared page, bare ring in batches of 32, bare futex"
    }

    fn takes(&self, case: &Case) -> bool {
        case.links == 1
    }

    fn open(&self, case: &Case) -> Result<(Box<dyn End>, Handover)> {
        let memory = Shared::create(memory_bytes(case))?;
        let handed = Handed::descriptors([memory.descriptor()?]);
        Ok((end(case, &memory, Side::Near), Handover::Process(handed)))
    }

    fn join(&self, case: &Case, handed: Handed) -> Result<Box<dyn End>> {
        Ok(end(case, &only_memory(handed)?, Side::Far))
    }
}

/// The mapping of the one memfd that was handed over.
pub(super) fn only_memory(handed: Handed) -> Result<Rc<Shared>> {
    Shared::map(only_descriptor(handed)?)
}

fn only_descriptor(mut handed: Handed) -> Result<OwnedFd> {
    handed.descriptors.pop().ok_or_else(|| Error::Control("the memfd is missing".into()))
}

fn shape(case: &Case) -> Shape {
    let batch = if case.test == Test::AskParked { 1 } else { BATCH };
    Shape::new(case.bytes, ring_bytes(case), batch)
}

fn memory_bytes(case: &Case) -> usize {
    match case.test {
        Test::RoundTrip | Test::IdlePoll | Test::FanInRoundTrip => FlagPage::memory_bytes(case.bytes),
        Test::Stream | Test::HotLink | Test::AskParked => RingPair::memory_bytes(shape(case)),
        Test::WakeUp => PAGE_BYTES,
    }
}

fn end(case: &Case, memory: &Rc<Shared>, side: Side) -> Box<dyn End> {
    match case.test {
        Test::RoundTrip | Test::IdlePoll | Test::FanInRoundTrip => {
            Box::new(Duplex::new(FlagPage::new(memory, Payload::Beside, case.bytes, side), case.bytes))
        }
        Test::Stream | Test::HotLink | Test::AskParked => {
            let ring = match side {
                Side::Near => RingPair::near(memory, shape(case)),
                Side::Far => RingPair::far(memory, shape(case)),
            };
            Box::new(Duplex::new(ring, case.bytes))
        }
        Test::WakeUp => Box::new(Duplex::new(FutexPair::new(memory, side), FutexPair::PAYLOAD_BYTES)),
    }
}

/// Two counts that the ends sleep on. The count is the message: it stands in for the payload's stamp.
struct FutexPair {
    outgoing: Word<AtomicU32>,
    incoming: Word<AtomicU32>,
    received: u32,
}

impl FutexPair {
    const PAYLOAD_BYTES: usize = 8;

    fn new(memory: &Rc<Shared>, side: Side) -> Self {
        let (to_far, to_near) = (memory.futex(0), memory.futex(2 * LINE_BYTES));
        let (outgoing, incoming) = if side == Side::Near { (to_far, to_near) } else { (to_near, to_far) };
        Self { outgoing, incoming, received: 0 }
    }
}

impl Channel for FutexPair {
    fn send(&mut self, payload: &[u8]) -> Result<()> {
        let stamp = payload.first_chunk().copied().map_or(0, u32::from_le_bytes);
        // Pairs with the acquire in `try_receive`.
        self.outgoing.store(stamp, Ordering::Release);
        futex::wake(&self.outgoing, futex::Flags::empty(), 1).map_err(Error::system("futex wake"))?;
        Ok(())
    }

    fn try_receive(&mut self, payload: &mut [u8]) -> Result<bool> {
        // Pairs with the release in `send`.
        let count = self.incoming.load(Ordering::Acquire);
        if count == self.received {
            return Ok(false);
        }
        self.received = count;
        payload.copy_from_slice(&u64::from(count).to_le_bytes());
        Ok(true)
    }

    fn receive(&mut self, payload: &mut [u8]) -> Result<()> {
        while !self.try_receive(payload)? {
            match futex::wait(&self.incoming, futex::Flags::empty(), self.received, None) {
                Ok(()) | Err(Errno::AGAIN | Errno::INTR) => {}
                Err(cause) => return Err(Error::system("futex wait")(cause)),
            }
        }
        Ok(())
    }
}
