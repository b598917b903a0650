//! A pair of `SOCK_SEQPACKET` sockets, polled or blocking: what the kernel offers between two processes.

use crate::case::{Case, Test};
use crate::channel::{Channel, Duplex, Patience};
use crate::error::{Error, Result};
use crate::peer::{End, Handed, Handover, Peer};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use std::os::fd::OwnedFd;

pub(super) struct Seqpacket {
    name: &'static str,
    blocks: bool,
}

impl Seqpacket {
    pub(super) const POLLED: Self = Self { name: "seqpacket", blocks: false };
    pub(super) const BLOCKING: Self = Self { name: "seqpacket-blocking", blocks: true };

    fn end(&self, case: &Case, socket: OwnedFd) -> Box<dyn End> {
        let blocks = self.blocks;
        Box::new(Duplex::new(Socket { socket, blocks }, case.bytes))
    }
}

impl Peer for Seqpacket {
    fn name(&self) -> &'static str {
        self.name
    }

    fn about(&self) -> &'static str {
        if self.blocks { "socket pair, blocking" } else { "socket pair, polled" }
    }

    fn takes(&self, case: &Case) -> bool {
        match case.test {
            Test::RoundTrip | Test::Stream => true,
            Test::WakeUp => self.blocks,
            _ => false,
        }
    }

    fn open(&self, case: &Case) -> Result<(Box<dyn End>, Handover)> {
        let (near, far) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .map_err(Error::system("socketpair"))?;
        Ok((self.end(case, near), Handover::Process(Handed::descriptors([far]))))
    }

    fn join(&self, case: &Case, mut handed: Handed) -> Result<Box<dyn End>> {
        let socket =
            handed.descriptors.pop().ok_or_else(|| Error::Control("the socket is missing".into()))?;
        Ok(self.end(case, socket))
    }
}

struct Socket {
    socket: OwnedFd,
    blocks: bool,
}

impl Socket {
    fn receive_with(&self, payload: &mut [u8], flags: RecvFlags) -> Result<bool> {
        match rustix::net::recv(&self.socket, payload, flags) {
            Ok((0, _)) => Err(Error::Far("it closed the socket".into())),
            Ok(_) => Ok(true),
            Err(Errno::AGAIN) => Ok(false),
            Err(cause) => Err(Error::system("recv")(cause)),
        }
    }
}

impl Channel for Socket {
    fn send(&mut self, payload: &[u8]) -> Result<()> {
        let wait = if self.blocks { SendFlags::empty() } else { SendFlags::DONTWAIT };
        let mut patience = Patience::default();
        loop {
            match rustix::net::send(&self.socket, payload, wait | SendFlags::NOSIGNAL) {
                Ok(_) => return Ok(()),
                Err(Errno::AGAIN) => patience.wait()?,
                Err(cause) => return Err(Error::system("send")(cause)),
            }
        }
    }

    fn try_receive(&mut self, payload: &mut [u8]) -> Result<bool> {
        self.receive_with(payload, RecvFlags::DONTWAIT)
    }

    fn receive(&mut self, payload: &mut [u8]) -> Result<()> {
        let flags = if self.blocks { RecvFlags::empty() } else { RecvFlags::DONTWAIT };
        let mut patience = Patience::default();
        while !self.receive_with(payload, flags)? {
            patience.wait()?;
        }
        Ok(())
    }
}
