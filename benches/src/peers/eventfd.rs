//! Two event descriptors, blocking: the other way to sleep in the kernel, and one that sockets can be waited for with.

use crate::bare::page::Side;
use crate::case::{Case, Test};
use crate::channel::{Channel, Duplex};
use crate::error::{Error, Result};
use crate::peer::{End, Handed, Handover, Peer};
use rustix::event::EventfdFlags;
use std::os::fd::OwnedFd;

/// An event carries only a count.
const PAYLOAD_BYTES: usize = 8;

pub(super) struct EventFd;

impl Peer for EventFd {
    fn name(&self) -> &'static str {
        "eventfd"
    }

    fn about(&self) -> &'static str {
        "two event descriptors, blocking; the count is the message"
    }

    fn takes(&self, case: &Case) -> bool {
        case.test == Test::WakeUp
    }

    fn open(&self, _case: &Case) -> Result<(Box<dyn End>, Handover)> {
        let event = || rustix::event::eventfd(0, EventfdFlags::CLOEXEC).map_err(Error::system("eventfd"));
        let events = [event()?, event()?];
        let copies = [copy(&events[0])?, copy(&events[1])?];
        Ok((end(events, Side::Near), Handover::Process(Handed::descriptors(copies))))
    }

    fn join(&self, _case: &Case, handed: Handed) -> Result<Box<dyn End>> {
        let events = handed.descriptors.try_into();
        Ok(end(events.map_err(|_| Error::Control("the two events are missing".into()))?, Side::Far))
    }
}

fn copy(event: &OwnedFd) -> Result<OwnedFd> {
    event.try_clone().map_err(Error::system("dup"))
}

fn end([to_far, to_near]: [OwnedFd; 2], side: Side) -> Box<dyn End> {
    let (outgoing, incoming) = if side == Side::Near { (to_far, to_near) } else { (to_near, to_far) };
    Box::new(Duplex::new(Events { outgoing, incoming, received: 0 }, PAYLOAD_BYTES))
}

struct Events {
    outgoing: OwnedFd,
    incoming: OwnedFd,
    received: u64,
}

impl Channel for Events {
    fn send(&mut self, _payload: &[u8]) -> Result<()> {
        rustix::io::write(&self.outgoing, &1_u64.to_ne_bytes())
            .map_err(Error::system("write to an eventfd"))?;
        Ok(())
    }

    fn try_receive(&mut self, payload: &mut [u8]) -> Result<bool> {
        let mut count = [0; size_of::<u64>()];
        rustix::io::read(&self.incoming, &mut count).map_err(Error::system("read from an eventfd"))?;
        self.received += u64::from_ne_bytes(count);
        payload.copy_from_slice(&self.received.to_le_bytes());
        Ok(true)
    }
}
