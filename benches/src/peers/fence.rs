//! What it costs to ask after every message whether the receiver is parked, the classic way: store, fence, look.

use super::{limit::only_memory, ring_bytes};
use crate::bare::ring::{RingPair, Shape};
use crate::case::{Case, Test};
use crate::channel::{Channel, Duplex};
use crate::error::Result;
use crate::memory::Shared;
use crate::peer::{End, Handed, Handover, Peer};
use std::sync::atomic::{Ordering, fence};

pub(super) struct Fence;

impl Peer for Fence {
    fn name(&self) -> &'static str {
        "fence"
    }

    fn about(&self) -> &'static str {
        "bare ring that asks with a full fence after each message"
    }

    fn takes(&self, case: &Case) -> bool {
        case.test == Test::AskParked
    }

    fn open(&self, case: &Case) -> Result<(Box<dyn End>, Handover)> {
        near(case, |ring| Asking { ring, order: || fence(Ordering::SeqCst) })
    }

    fn join(&self, case: &Case, handed: Handed) -> Result<Box<dyn End>> {
        far(case, handed)
    }
}

/// Opens a ring that publishes message by message; `asking` makes it ask.
pub(super) fn near<F: Fn() + 'static>(
    case: &Case,
    asking: impl FnOnce(RingPair) -> Asking<F>,
) -> Result<(Box<dyn End>, Handover)> {
    let memory = Shared::create(RingPair::memory_bytes(shape(case)))?;
    let handed = Handed::descriptors([memory.descriptor()?]);
    let near = Duplex::new(asking(RingPair::near(&memory, shape(case))), case.bytes);
    Ok((Box::new(near), Handover::Process(handed)))
}

/// The far end never parks in this test, so it is the bare ring.
pub(super) fn far(case: &Case, handed: Handed) -> Result<Box<dyn End>> {
    Ok(Box::new(Duplex::new(RingPair::far(&only_memory(handed)?, shape(case)), case.bytes)))
}

fn shape(case: &Case) -> Shape {
    Shape::new(case.bytes, ring_bytes(case), 1)
}

/// A ring whose sender looks after each message whether the receiver sleeps. `order` keeps the look behind the store.
pub(super) struct Asking<F> {
    pub(super) ring: RingPair,
    pub(super) order: F,
}

impl<F: Fn()> Channel for Asking<F> {
    #[inline]
    fn send(&mut self, payload: &[u8]) -> Result<()> {
        self.ring.send(payload)?;
        (self.order)();
        assert!(self.ring.parked().load(Ordering::Relaxed) == 0, "nobody parks in this test");
        Ok(())
    }

    #[inline]
    fn try_receive(&mut self, payload: &mut [u8]) -> Result<bool> {
        self.ring.try_receive(payload)
    }
}
