//! The limit of a small round trip: the payload in the flag's own line, so one line travels each way.

use super::limit::only_memory;
use crate::bare::page::{FlagPage, IN_LINE_BYTES_MAX, Payload, Side};
use crate::case::{Case, Test};
use crate::channel::Duplex;
use crate::error::Result;
use crate::memory::Shared;
use crate::peer::{End, Handed, Handover, Peer};
use std::rc::Rc;

pub(super) struct LimitLine;

impl Peer for LimitLine {
    fn name(&self) -> &'static str {
        "limit-line"
    }

    fn about(&self) -> &'static str {
        "bare shared line: payload of at most 56 B in the flag's own line"
    }

    fn takes(&self, case: &Case) -> bool {
        case.test == Test::RoundTrip && case.bytes <= IN_LINE_BYTES_MAX
    }

    fn open(&self, case: &Case) -> Result<(Box<dyn End>, Handover)> {
        let memory = Shared::create(FlagPage::memory_bytes(case.bytes))?;
        let handed = Handed::descriptors([memory.descriptor()?]);
        Ok((end(case, &memory, Side::Near), Handover::Process(handed)))
    }

    fn join(&self, case: &Case, handed: Handed) -> Result<Box<dyn End>> {
        Ok(end(case, &only_memory(handed)?, Side::Far))
    }
}

fn end(case: &Case, memory: &Rc<Shared>, side: Side) -> Box<dyn End> {
    Box::new(Duplex::new(FlagPage::new(memory, Payload::InLine, case.bytes, side), case.bytes))
}
