//! The limit's page in a named segment of the crate `shared_memory`: shows what kind of memory a page is in does
//! not matter, only what is done with it.

use crate::bare::page::{FlagPage, Payload, Side};
use crate::case::{Case, Test};
use crate::channel::Duplex;
use crate::error::Result;
use crate::memory::Shared;
use crate::peer::{End, Handed, Handover, Peer};
use std::rc::Rc;

pub(super) struct SharedMemory;

impl Peer for SharedMemory {
    fn name(&self) -> &'static str {
        "shared_memory"
    }

    fn about(&self) -> &'static str {
        "the limit's page in a named segment"
    }

    fn takes(&self, case: &Case) -> bool {
        case.test == Test::RoundTrip
    }

    fn open(&self, case: &Case) -> Result<(Box<dyn End>, Handover)> {
        let memory = Shared::create_named(FlagPage::memory_bytes(case.bytes))?;
        let handed = Handed::argument(memory.name());
        Ok((end(case, &memory, Side::Near), Handover::Process(handed)))
    }

    fn join(&self, case: &Case, handed: Handed) -> Result<Box<dyn End>> {
        Ok(end(case, &Shared::open_named(&handed.argument)?, Side::Far))
    }
}

fn end(case: &Case, memory: &Rc<Shared>, side: Side) -> Box<dyn End> {
    Box::new(Duplex::new(FlagPage::new(memory, Payload::Beside, case.bytes, side), case.bytes))
}
