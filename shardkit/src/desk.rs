//! The desk: everything of an end but its inbox. It knows the ports, the open sessions and the links, and sends.
//!
//! Invariant: a message leaves only on a link that the session's opening named for the port's destination, or, as a
//! reply, on the link that the message came over.

use crate::application::{Component, Destination};
use crate::error::SendError;
use crate::message::{CallId, Kind, Message, Rejected};
use crate::sessions::{NO_LINK, Open, Sessions};
use shard_runtime::clock;
use shard_runtime::control::{COMPOSER_COMPONENT, COMPOSER_LINK};
use shard_runtime::frame::{Flags, Header};
use shard_runtime::id::{ComponentId, LinkId, PortId, SessionId, ShardId};
use shard_runtime::outbox::Outbox;
use shard_runtime::ring::Loan;
use shard_runtime::session::{Refused, Rejection, Verb};
use shard_runtime::stats::{Counter, SAMPLE_EVERY, Stats};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Where time comes from.
#[derive(Clone)]
pub(crate) enum Clock {
    /// The host's monotonic clock.
    Monotonic,
    /// A clock that a test turns.
    #[cfg_attr(not(feature = "rig"), allow(dead_code))]
    Virtual(Arc<AtomicU64>),
}

impl Clock {
    #[inline]
    pub(crate) fn now_ns(&self) -> u64 {
        match self {
            Clock::Monotonic => clock::now_ns(),
            // Relaxed: the rig turns it in the thread that reads it.
            Clock::Virtual(now_ns) => now_ns.load(Ordering::Relaxed),
        }
    }
}

/// See the head of this file.
pub(crate) struct Desk {
    pub(crate) shard: ShardId,
    pub(crate) component: Component,
    pub(crate) outbox: Outbox,
    pub(crate) sessions: Sessions,
    pub(crate) stats: Option<Stats>,
    pub(crate) clock: Clock,
    /// Encoded values pass through here, so that sending allocates nothing.
    pub(crate) scratch: Vec<u8>,
    /// All outputs' destinations, one after the other …
    destinations: Vec<Destination>,
    /// … and where each output's begin; one more entry ends the last.
    first: Vec<usize>,
    /// Which component is at the other end of each link.
    peers: Vec<Option<ComponentId>>,
    /// The handler that was timed last took long.
    pub(crate) slow: bool,
    /// Answers leave one by one: handlers are slow, or messages come one by one. Then looking for the next one first
    /// would cost the answer the transfer of a cache line.
    pub(crate) prompt: bool,
    calls: u64,
    sent: u64,
    random: u64,
    /// How many messages were refused, by the link on which they came, since this was last asked.
    refused: Vec<(LinkId, u64)>,
}

impl Desk {
    pub(crate) fn new(
        shard: ShardId,
        component: Component,
        stats: Option<Stats>,
        clock: Clock,
        seed: u64,
    ) -> Self {
        let mut first = vec![0];
        let mut destinations = Vec::new();
        for output in &component.outputs {
            destinations.extend(output.to.iter().copied());
            first.push(destinations.len());
        }
        Self {
            shard,
            component,
            outbox: Outbox::new(),
            sessions: Sessions::default(),
            stats,
            clock,
            scratch: Vec::with_capacity(4096),
            destinations,
            first,
            peers: Vec::new(),
            slow: false,
            prompt: true,
            calls: 0,
            sent: 0,
            random: seed,
            refused: Vec::new(),
        }
    }

    #[inline(always)]
    pub(crate) fn count(&self, counter: Counter, more: u64) {
        if let Some(stats) = &self.stats {
            stats.add(counter, more);
        }
    }

    pub(crate) fn set(&self, counter: Counter, value: u64) {
        if let Some(stats) = &self.stats {
            stats.set(counter, value);
        }
    }

    pub(crate) fn set_peer(&mut self, link: LinkId, component: Option<ComponentId>) {
        let at = usize::from(link.0);
        if self.peers.len() <= at {
            self.peers.resize(at + 1, None);
        }
        self.peers[at] = component;
    }

    /// Whether the composer is at the other end. An embedding program has no link to it, and a shard at the number of one.
    pub(crate) fn is_composer(&self, link: LinkId) -> bool {
        let peer = self.peers.get(usize::from(link.0)).copied().flatten();
        link == COMPOSER_LINK && peer.is_none_or(|component| component == COMPOSER_COMPONENT)
    }

    /// Messages sent so far; those that were refused are none.
    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    pub(crate) fn next_call(&mut self) -> CallId {
        self.calls += 1;
        CallId(self.calls)
    }

    /// A header for a message of ours; one in [`SAMPLE_EVERY`] says when it was sent.
    #[inline(always)]
    fn header(&mut self, session: SessionId, port: PortId, flags: Flags, call: u64) -> Header {
        let mut header = Header { port, flags, session, call, stamp_ns: 0 };
        if (self.sent + 1).is_multiple_of(SAMPLE_EVERY) {
            header.flags = flags.with(Flags::STAMP);
            header.stamp_ns = self.clock.now_ns();
        }
        header
    }

    #[inline(always)]
    pub(crate) fn send(
        &mut self,
        output: PortId,
        session: SessionId,
        flags: Flags,
        call: u64,
        bytes: &[u8],
    ) -> Result<(), SendError> {
        let at = usize::from(output.0);
        let bytes_max = self.component.outputs[at].message_bytes_max as usize;
        if bytes.len() > bytes_max {
            return Err(SendError::TooLarge { bytes: bytes.len(), bytes_max });
        }
        let (from, to) = (self.first[at], self.first[at + 1]);
        let mut result = Ok(());
        for destination in from..to {
            let sent = self.send_to(destination, session, flags, call, bytes);
            if result.is_ok() {
                result = sent;
            }
        }
        result
    }

    #[inline(always)]
    fn send_to(
        &mut self,
        destination: usize,
        session: SessionId,
        flags: Flags,
        call: u64,
        bytes: &[u8],
    ) -> Result<(), SendError> {
        let link = self.route(destination, session)?;
        let header = self.header(session, self.destinations[destination].input, flags, call);
        self.post(link, header, bytes).inspect(|()| self.sent += 1)
    }

    #[inline(always)]
    fn route(&mut self, destination: usize, session: SessionId) -> Result<LinkId, SendError> {
        let open = self.sessions.get(session).ok_or(SendError::UnknownSession)?;
        match open.destinations[destination] {
            NO_LINK => Err(SendError::NotComposed),
            link => Ok(link),
        }
    }

    #[inline(always)]
    fn post(&mut self, link: LinkId, header: Header, bytes: &[u8]) -> Result<(), SendError> {
        match self.outbox.send(link, header, bytes) {
            Some(sent) => sent.map_err(SendError::from_ring),
            None => Err(SendError::LinkGone),
        }
    }

    #[inline(always)]
    pub(crate) fn reply(&mut self, message: &Message<'_>, bytes: &[u8]) -> Result<(), SendError> {
        if !matches!(message.kind, Kind::Input(_)) {
            return Err(SendError::NoReply);
        }
        if self.sessions.get(message.session).is_none() {
            return Err(SendError::UnknownSession);
        }
        let (flags, call) = match message.call {
            Some(call) => (Flags::REPLY.with(Flags::CALL), call.0),
            None => (Flags::REPLY, 0),
        };
        let header = self.header(message.session, message.port, flags, call);
        self.post(message.link, header, bytes).inspect(|()| self.sent += 1)
    }

    pub(crate) fn lend(
        &mut self,
        output: PortId,
        session: SessionId,
        bytes: usize,
        fill: impl FnOnce(&mut Loan<'_>),
    ) -> Result<(), SendError> {
        let at = usize::from(output.0);
        let bytes_max = self.component.outputs[at].message_bytes_max as usize;
        if bytes > bytes_max {
            return Err(SendError::TooLarge { bytes, bytes_max });
        }
        assert_eq!(self.first[at + 1] - self.first[at], 1, "only a port with one destination can lend");
        let destination = self.first[at];
        let link = self.route(destination, session)?;
        let header = self.header(session, self.destinations[destination].input, Flags::NONE, 0);
        match self.outbox.send_loan(link, header, bytes, fill) {
            Some(sent) => sent.map_err(SendError::from_ring).inspect(|()| self.sent += 1),
            None => Err(SendError::LinkGone),
        }
    }

    pub(crate) fn has_room(&mut self, output: PortId, session: SessionId) -> bool {
        let at = usize::from(output.0);
        (self.first[at]..self.first[at + 1]).all(|destination| {
            self.route(destination, session)
                .is_ok_and(|link| self.outbox.get_mut(link).is_some_and(|link| link.is_clear()))
        })
    }

    /// Tells the composer something about a session.
    pub(crate) fn tell(&mut self, verb: Verb, session: SessionId, payload: &[u8]) {
        let header = Header::new(session, verb.port()).flagged(Flags::CONTROL);
        // Without the composer the shard ends anyway; a full control ring means that it does not read.
        let _ = self.post(COMPOSER_LINK, header, payload);
    }

    pub(crate) fn end(&mut self, session: SessionId, reason: &str) {
        self.tell(Verb::End, session, cut(reason).as_bytes());
    }

    /// Tells a sender that its message was refused.
    #[cold]
    pub(crate) fn reject(&mut self, link: LinkId, header: &Header, why: Refused) {
        self.note_refused(link);
        // If there is little room to say so, the sender is one that does not read its answers. It must not make this shard
        // wait for it.
        if self.outbox.get_mut(link).is_some_and(|link| link.waits_for_little()) {
            let back = Header::new(header.session, Verb::Rejected.port()).flagged(Flags::CONTROL);
            let _ = self.post(link, back, &Rejection { port: header.port, why }.encode());
        }
    }

    /// Counts a message that was refused.
    #[cold]
    pub(crate) fn note_refused(&mut self, link: LinkId) {
        self.count(Counter::Refused, 1);
        match self.refused.iter_mut().find(|(of, _)| *of == link) {
            Some((_, count)) => *count += 1,
            None => self.refused.push((link, 1)),
        }
    }

    pub(crate) fn take_refused(&mut self) -> Vec<(LinkId, u64)> {
        std::mem::take(&mut self.refused)
    }

    pub(crate) fn rejected(header: &Header, payload: &[u8]) -> Option<Rejected> {
        let rejection = Rejection::decode(payload)?;
        Some(Rejected { session: header.session, port: rejection.port, why: rejection.why })
    }

    /// What a message on this link is to us; `None` if we have no such port.
    #[inline(always)]
    pub(crate) fn kind(&self, link: LinkId, header: &Header) -> Option<Kind> {
        if header.flags.has(Flags::REPLY) {
            return self.reply_kind(link, header.port);
        }
        (usize::from(header.port.0) < self.component.inputs.len()).then_some(Kind::Input(header.port))
    }

    /// The output that leads to `input` of the component at the other end.
    fn reply_kind(&self, link: LinkId, input: PortId) -> Option<Kind> {
        let component = (*self.peers.get(usize::from(link.0))?)?;
        let here = Destination { component, input };
        let output = self.component.outputs.iter().position(|output| output.to.contains(&here))?;
        Some(Kind::Reply(PortId(output as u16)))
    }

    /// Opens a session with these routes.
    pub(crate) fn open(
        &mut self,
        session: SessionId,
        composition: u16,
        routes: impl Iterator<Item = (ComponentId, LinkId)> + Clone,
    ) {
        let link_to =
            |component| routes.clone().find(|(c, _)| *c == component).map_or(NO_LINK, |(_, link)| link);
        let destinations = self.destinations.iter().map(|to| link_to(to.component)).collect();
        let partners = routes.clone().map(|(_, link)| link).collect();
        self.sessions.insert(session, Open { composition, partners, destinations });
        self.count(Counter::SessionsOpened, 1);
        self.set(Counter::Sessions, self.sessions.len() as u64);
    }

    pub(crate) fn close(&mut self, session: SessionId) -> bool {
        let was_open = self.sessions.remove(session);
        self.set(Counter::Sessions, self.sessions.len() as u64);
        was_open
    }

    pub(crate) fn random(&mut self) -> u64 {
        // SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// The longest reason that travels with an end or a refusal.
const REASON_BYTES_MAX: usize = 1024;

/// A reason, short enough to travel, and still text.
pub(crate) fn cut(reason: &str) -> &str {
    let mut end = reason.len().min(REASON_BYTES_MAX);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    &reason[..end]
}
