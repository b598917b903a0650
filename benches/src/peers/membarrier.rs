//! What it costs to ask after every message whether the receiver is parked if the receiver, before it parks, has the
//! kernel run the fence on the sender's core: store, look.

use super::fence::{Asking, far, near};
use crate::case::{Case, Test};
use crate::error::{Error, Result};
use crate::peer::{End, Handed, Handover, Peer};
use rustix::thread::{MembarrierCommand, MembarrierQuery, membarrier, membarrier_query};
use std::sync::atomic::{Ordering, compiler_fence};

pub(super) struct Membarrier;

impl Peer for Membarrier {
    fn name(&self) -> &'static str {
        "membarrier"
    }

    fn about(&self) -> &'static str {
        "bare ring that asks without a fence; the parking side would pay for it"
    }

    fn takes(&self, case: &Case) -> bool {
        case.test == Test::AskParked && membarrier_query().contains(MembarrierQuery::GLOBAL_EXPEDITED)
    }

    fn open(&self, case: &Case) -> Result<(Box<dyn End>, Handover)> {
        membarrier(MembarrierCommand::RegisterGlobalExpedited)
            .map_err(Error::system("membarrier registration"))?;
        near(case, |ring| Asking { ring, order: || compiler_fence(Ordering::SeqCst) })
    }

    fn join(&self, case: &Case, handed: Handed) -> Result<Box<dyn End>> {
        far(case, handed)
    }
}
