//! Our own ring. Round trips and streams over the bare writer and reader; fan-in and waiting over inbox and outbox.

use crate::case::{Case, Test};
use crate::channel::{Channel, Duplex, Patience, SAMPLES_MAX, Samples, WARM_UP};
use crate::error::{Error, Result};
use crate::peer::{End, Handed, Handover, Peer, Reference};
use shard_runtime::frame::Header;
use shard_runtime::id::{LinkId, PortId, SessionId};
use shard_runtime::inbox::{Inbound, Inbox, Receiver};
use shard_runtime::memory::Memory;
use shard_runtime::outbox::{Outbound, Outbox};
use shard_runtime::region::Region;
use shard_runtime::ring::{Ring, RingError, RingReader, RingWriter, SendError};
use shard_runtime::wake::{BELL_BYTES, Bell, Ringer};
use std::os::fd::OwnedFd;

/// The size of each link's ring in the fan-in tests, in bytes.
const FANIN_RING_BYTES: usize = 16 << 10;
/// The bytes of a loaned message that are touched.
const TOUCHED_BYTES: usize = 8;
const HEADER: Header = Header::new(SessionId::new(1, 1), PortId(0));

pub(super) struct RingPeer {
    name: &'static str,
    loaned: bool,
}

impl RingPeer {
    pub(super) const COPIED: Self = Self { name: "ring", loaned: false };
    pub(super) const LOANED: Self = Self { name: "ring-loan", loaned: true };

    fn end(&self, case: &Case, memory: &Memory, near: bool) -> Box<dyn End> {
        let layout = Layout::of(case);
        match case.test {
            Test::RoundTrip | Test::Stream if self.loaned => {
                let channel = Loaned { bare: layout.bare(memory, near), bytes: case.bytes };
                Box::new(Duplex::new(channel, TOUCHED_BYTES))
            }
            Test::RoundTrip | Test::Stream => Box::new(Duplex::new(layout.bare(memory, near), case.bytes)),
            _ => Box::new(layout.node(memory, near)),
        }
    }
}

impl Peer for RingPeer {
    fn name(&self) -> &'static str {
        self.name
    }

    fn about(&self) -> &'static str {
        if self.loaned {
            "our ring, loaned, 8 B touched"
        } else {
            "our ring; fan-in and wake-up through inbox and outbox"
        }
    }

    fn takes(&self, case: &Case) -> bool {
        // A loan is one frame of at most half the ring.
        !self.loaned || case.test == Test::RoundTrip
    }

    fn reference(&self, case: &Case) -> Reference {
        if self.loaned { Reference::line(case) } else { Reference::usual(self.name, case) }
    }

    fn open(&self, case: &Case) -> Result<(Box<dyn End>, Handover)> {
        let layout = Layout::of(case);
        let region = Region::create("shard-bench", layout.bytes()).map_err(Error::peer("ring"))?;
        let memory = region.map(true).map_err(Error::peer("ring"))?;
        layout.prepare(&memory);
        let handed = Handed::descriptors([OwnedFd::from(region)]);
        Ok((self.end(case, &memory, true), Handover::Process(handed)))
    }

    fn join(&self, case: &Case, mut handed: Handed) -> Result<Box<dyn End>> {
        let fd = handed.descriptors.pop().ok_or_else(|| Error::Control("the region is missing".into()))?;
        let region = Region::receive(fd, Layout::of(case).bytes()).map_err(Error::peer("ring"))?;
        let memory = region.map(true).map_err(Error::peer("ring"))?;
        Ok(self.end(case, &memory, false))
    }
}

/// One region for all: two bells, the rings towards the far end, the ring back.
pub(super) struct Layout {
    case: Case,
    capacity: usize,
}

impl Layout {
    pub(super) fn of(case: &Case) -> Self {
        let fanin = matches!(case.test, Test::IdlePoll | Test::FanInRoundTrip | Test::HotLink);
        let capacity = if fanin { FANIN_RING_BYTES } else { super::ring_bytes(case) };
        Self { case: *case, capacity }
    }

    pub(super) fn bytes(&self) -> usize {
        self.ring_at(self.case.links + 1)
    }

    fn ring_at(&self, link: usize) -> usize {
        2 * BELL_BYTES + link * Ring::region_bytes(self.capacity)
    }

    pub(super) fn ring(&self, memory: &Memory, link: usize) -> Ring {
        Ring::new(memory.part(self.ring_at(link), Ring::region_bytes(self.capacity)), self.capacity)
    }

    pub(super) fn bell(memory: &Memory, near: bool) -> Memory {
        memory.part(if near { 0 } else { BELL_BYTES }, BELL_BYTES)
    }

    pub(super) fn prepare(&self, memory: &Memory) {
        // A bare ring without inbox stays as it is: zeroed, which says that its consumer polls.
        if !matches!(self.case.test, Test::RoundTrip | Test::Stream) {
            self.identify(memory);
        }
    }

    pub(super) fn identify(&self, memory: &Memory) {
        (0..=self.case.links).for_each(|link| self.ring(memory, link).identify());
    }

    fn bare(&self, memory: &Memory, near: bool) -> Bare {
        let (out, back) = if near { (0, 1) } else { (1, 0) };
        shard_runtime::barrier::register();
        Bare {
            writer: RingWriter::new(self.ring(memory, out)),
            reader: RingReader::new(self.ring(memory, back)),
            filled: 0,
            unreleased: 0,
        }
    }

    fn node(&self, memory: &Memory, near: bool) -> Node {
        let links = self.case.links;
        let mut inbox = Inbox::new(Bell::new(Self::bell(memory, near)));
        let mut outbox = Outbox::new();
        let ringer = Ringer::new(Self::bell(memory, !near));
        let (outgoing, incoming) =
            if near { (0..links, links..links + 1) } else { (links..links + 1, 0..links) };
        for (at, ring) in outgoing.enumerate() {
            let writer = RingWriter::new(self.ring(memory, ring));
            let id = LinkId(at as u16);
            outbox.attach(id, Outbound::new(writer, ringer.clone(), id, self.case.bytes));
        }
        for (at, ring) in incoming.enumerate() {
            let reader = RingReader::new(self.ring(memory, ring));
            inbox.attach(LinkId(at as u16), Inbound::new(reader, ringer.clone(), self.case.bytes));
        }
        let payload = (0..self.case.bytes).map(|at| (at * 31) as u8).collect();
        Node { case: self.case, inbox, outbox, payload, sent: 0, received: 0 }
    }
}

/// Writer and reader, nothing around them.
struct Bare {
    writer: RingWriter,
    reader: RingReader,
    /// The bytes so far of a message that comes in fragments.
    filled: usize,
    unreleased: u32,
}

/// Room goes back to the writer once in so many messages, or when there is nothing to read.
const RELEASE_EVERY: u32 = 32;

impl Channel for Bare {
    #[inline]
    fn send(&mut self, payload: &[u8]) -> Result<()> {
        let mut sent = 0;
        let mut patience = Patience::default();
        loop {
            match self.writer.write(HEADER, payload, &mut sent) {
                Ok(()) => return Ok(()),
                Err(SendError::Full) => patience.wait()?,
                Err(error) => return Err(Error::peer("ring")(error)),
            }
        }
    }

    #[inline]
    fn flush(&mut self) -> Result<()> {
        self.writer.publish();
        Ok(())
    }

    #[inline]
    fn try_receive(&mut self, payload: &mut [u8]) -> Result<bool> {
        while let Some(frame) = self.reader.take().map_err(Error::peer("ring"))? {
            if self.filled == 0 && frame.len() == payload.len() {
                frame.read(0, payload);
            } else {
                let (from, to) = (self.filled, self.filled + frame.len());
                if to > payload.len() {
                    return Err(Error::Damaged { expected: payload.len() as u64, found: to as u64 });
                }
                frame.read(0, &mut payload[from..to]);
                if to < payload.len() {
                    self.filled = to;
                    self.release();
                    continue;
                }
                self.filled = 0;
            }
            self.unreleased += 1;
            if self.unreleased >= RELEASE_EVERY {
                self.release();
            }
            return Ok(true);
        }
        self.release();
        Ok(false)
    }
}

impl Bare {
    fn release(&mut self) {
        self.unreleased = 0;
        self.reader.release();
    }
}

/// Messages that are filled in the ring and looked at in the ring.
struct Loaned {
    bare: Bare,
    bytes: usize,
}

impl Channel for Loaned {
    #[inline]
    fn send(&mut self, payload: &[u8]) -> Result<()> {
        let mut patience = Patience::default();
        loop {
            match self.bare.writer.loan(HEADER, self.bytes) {
                Ok(mut loan) => {
                    loan.write(0, payload);
                    loan.commit();
                    return Ok(());
                }
                Err(SendError::Full) => patience.wait()?,
                Err(error) => return Err(Error::peer("ring")(error)),
            }
        }
    }

    #[inline]
    fn try_receive(&mut self, payload: &mut [u8]) -> Result<bool> {
        if let Some(frame) = self.bare.reader.take().map_err(Error::peer("ring"))? {
            frame.read(0, payload);
            return Ok(true);
        }
        self.bare.release();
        Ok(false)
    }
}

/// An inbox and an outbox.
struct Node {
    case: Case,
    inbox: Inbox,
    outbox: Outbox,
    payload: Vec<u8>,
    sent: u64,
    received: u64,
}

/// Takes what comes, and answers it if it is to.
struct Sink<'a> {
    received: &'a mut u64,
    echo: Option<&'a mut Outbox>,
    damage: Option<Error>,
}

impl Receiver for Sink<'_> {
    #[inline]
    fn message(&mut self, _link: LinkId, _header: &Header, payload: &[u8]) {
        *self.received += 1;
        let stamps = (payload.first_chunk(), payload.last_chunk());
        let (first, last) =
            (stamps.0.map(|s| u64::from_le_bytes(*s)), stamps.1.map(|s| u64::from_le_bytes(*s)));
        if first != Some(*self.received) || last != Some(*self.received) {
            let found = if first == Some(*self.received) { last } else { first };
            self.damage = Some(Error::Damaged { expected: *self.received, found: found.unwrap_or(0) });
        }
        if let Some(outbox) = &mut self.echo {
            // One message is under way at a time, so there is room.
            let _ = outbox.send(LinkId(0), HEADER, payload);
        }
    }

    #[inline]
    fn drained(&mut self, _link: LinkId, _messages: usize) {
        if let Some(outbox) = &mut self.echo {
            outbox.flush();
        }
    }

    fn broken(&mut self, _link: LinkId, error: RingError) {
        self.damage = Some(Error::peer("ring")(error));
    }
}

impl Node {
    #[inline]
    fn poll(&mut self, echo: bool) -> Result<usize> {
        let echo = echo.then_some(&mut self.outbox);
        let mut sink = Sink { received: &mut self.received, echo, damage: None };
        let taken = self.inbox.poll(&mut sink);
        sink.damage.map_or(Ok(taken), Err)
    }

    #[inline]
    fn receive_until(&mut self, received: u64, echo: bool) -> Result<()> {
        let mut patience = Patience::default();
        while self.received < received {
            if self.poll(echo)? == 0 {
                if self.case.test == Test::WakeUp {
                    self.inbox.park(&mut self.outbox, None);
                } else {
                    patience.wait()?;
                }
            }
        }
        Ok(())
    }

    #[inline]
    fn send(&mut self) -> Result<LinkId> {
        self.sent += 1;
        let stamp = self.sent.to_le_bytes();
        let last = self.payload.len() - stamp.len();
        self.payload[..stamp.len()].copy_from_slice(&stamp);
        self.payload[last..].copy_from_slice(&stamp);
        let links = if self.outbox.get_mut(LinkId(1)).is_some() { self.case.links } else { 1 };
        let link = LinkId(if links > 1 { self.case.link_of(self.sent) as u16 } else { 0 });
        let mut patience = Patience::default();
        while self.outbox.get_mut(link).is_some_and(|link| !link.is_clear()) {
            self.outbox.flush();
            patience.wait()?;
        }
        match self.outbox.send(link, HEADER, &self.payload) {
            Some(Ok(())) => Ok(link),
            Some(Err(error)) => Err(Error::peer("ring")(error)),
            None => Err(Error::Control("the link is gone".into())),
        }
    }
}

impl End for Node {
    fn round_trips(&mut self, count: u64, samples: &mut Samples) -> Result<()> {
        let mut round_trip = || {
            self.send()?;
            self.outbox.flush();
            self.receive_until(self.sent, false)
        };
        for _ in 0..WARM_UP {
            round_trip()?;
        }
        samples.time(count, round_trip)
    }

    fn echo(&mut self, count: u64) -> Result<()> {
        let until = self.received + WARM_UP + count.min(SAMPLES_MAX as u64);
        self.receive_until(until, true)
    }

    fn send_all(&mut self, count: u64) -> Result<()> {
        for _ in 0..count {
            self.send()?;
            if self.case.test == Test::AskParked {
                self.outbox.flush();
            }
        }
        self.outbox.flush();
        self.receive_until(self.received + 1, false)
    }

    fn receive_all(&mut self, count: u64) -> Result<()> {
        self.receive_until(self.received + count, false)?;
        self.send()?;
        self.outbox.flush();
        Ok(())
    }

    fn idle_polls(&mut self, count: u64) -> Result<()> {
        for _ in 0..count {
            if self.poll(false)? > 0 {
                return Err(Error::Damaged { expected: 0, found: self.received });
            }
        }
        Ok(())
    }
}
