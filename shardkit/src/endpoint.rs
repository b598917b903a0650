//! An endpoint: an inbox and a desk, for whoever owns the loop: a shard's process, a program that embeds the
//! composer, the test rig.
//!
//! Invariant: handlers run only inside [`Endpoint::poll`] and [`Endpoint::tick`], on the caller's thread.

use crate::application::{After, Component};
use crate::context::Context;
use crate::desk::{Clock, Desk, cut};
use crate::error::Error;
use crate::message::{CallId, Kind, Message, Tick};
use crate::shard::Shard;
use crate::watch::Watch;
use shard_runtime::control::COMPOSER_LINK;
use shard_runtime::frame::{Flags, Header};
use shard_runtime::id::{ComponentId, LinkId, SessionId, ShardId};
use shard_runtime::inbox::{Inbound, Inbox, Receiver, WaitStrategy};
use shard_runtime::outbox::Outbound;
use shard_runtime::rate::Rate;
use shard_runtime::remote::{News, Remote, RemoteLink};
use shard_runtime::ring::RingError;
use shard_runtime::session::{Open, Refused, Verb};
use shard_runtime::stats::{Counter, LinkCounts, SAMPLE_EVERY, Stats, Timing};
use shard_runtime::wake::{Bell, Ringer, Sleeper};

/// So many rounds pass between two updates of the statistics page's link counts.
const PUBLISH_ROUNDS: u64 = 4096;
/// A shard that sleeps and wakes updates its page no more often than this.
const PUBLISH_NS: u64 = 10_000_000;
/// So many messages may be answered before the answers leave, while handlers are quick.
const FLUSH_MESSAGES_MAX: u32 = 16;
/// A handler that takes longer is slow: its answer leaves at once.
const SLOW_HANDLER_NS: u64 = 1_000;

/// See the head of this file.
pub struct Endpoint {
    inbox: Inbox,
    desk: Desk,
    rounds: u64,
    /// It has a program of its own: it is not the one that embeds the composer.
    is_shard: bool,
    /// Some queue of the outbox was full when it was last looked at.
    paused: bool,
    published_ns: u64,
    broken: Vec<(LinkId, RingError)>,
    /// Links to other hosts, if it has any, and who wakes it for them.
    remote: Option<Box<(Remote, Watch)>>,
}

impl Endpoint {
    /// An endpoint of a component, without links.
    pub fn new(shard: ShardId, component: Component, bell: Bell, stats: Option<Stats>) -> Self {
        let seed = shard_runtime::clock::now_ns() ^ u64::from(shard.0) << 32;
        Self::with_clock(shard, component, bell, stats, Clock::Monotonic, seed)
    }

    pub(crate) fn with_clock(
        shard: ShardId,
        component: Component,
        bell: Bell,
        stats: Option<Stats>,
        clock: Clock,
        seed: u64,
    ) -> Self {
        let is_shard = component.program.is_some();
        let desk = Desk::new(shard, component, stats, clock, seed);
        let (inbox, broken) = (Inbox::new(bell), Vec::new());
        Self { inbox, desk, rounds: 0, is_shard, paused: false, published_ns: 0, broken, remote: None }
    }

    /// The component that this is an end of.
    pub fn component(&self) -> &Component {
        &self.desk.component
    }

    /// What handlers get.
    pub fn context(&mut self) -> Context<'_> {
        Context { desk: &mut self.desk }
    }

    /// A ringer of this endpoint's bell, for other threads.
    pub fn ringer(&self) -> Ringer {
        self.inbox.ringer()
    }

    /// Whether another thread called in since this was last asked.
    pub fn take_called_in(&mut self) -> bool {
        self.inbox.take_called_in()
    }

    /// Adds a pair of links to a peer.
    ///
    /// # Panics
    /// If the number is taken.
    pub fn attach(
        &mut self,
        link: LinkId,
        component: Option<ComponentId>,
        inbound: Inbound,
        outbound: Outbound,
    ) {
        self.inbox.attach(link, inbound);
        self.desk.outbox.attach(link, outbound);
        self.desk.set_peer(link, component);
    }

    /// Removes a pair of links. Messages that wait for it are gone, as their receiver is.
    pub fn detach(&mut self, link: LinkId) {
        if let Some(remote) = &mut self.remote {
            remote.0.detach(link);
        }
        self.inbox.detach(link);
        self.desk.outbox.detach(link);
        self.desk.set_peer(link, None);
    }

    /// Lets it have links to other hosts: `remote` makes and mends them. A thread is started that wakes the endpoint when
    /// something comes while it sleeps.
    ///
    /// If its component has bandwidth of its own, all that these links send together is held to that; otherwise `remote` keeps
    /// the rate that it has, if any.
    ///
    /// # Errors
    /// The system has no descriptor or thread left.
    pub fn set_remote(&mut self, mut remote: Remote) -> std::io::Result<()> {
        if let Some(rate) = Rate::from_bits_per_s(self.desk.component.needs.bandwidth_bits_per_s) {
            remote.set_rate(Some(rate));
        }
        let watch = Watch::start(remote.watch()?, self.ringer())?;
        self.remote = Some(Box::new((remote, watch)));
        Ok(())
    }

    /// Adds a pair of links to a peer on another host. It comes up by itself; what is sent before waits.
    ///
    /// # Panics
    /// If the number is taken, or without [`set_remote`](Self::set_remote).
    pub fn attach_remote(
        &mut self,
        link: LinkId,
        component: Option<ComponentId>,
        inbound: Inbound,
        outbound: Outbound,
        what: RemoteLink,
    ) {
        self.attach(link, component, inbound, outbound);
        self.remote.as_mut().expect("an endpoint with links to other hosts").0.attach(link, what);
    }

    /// Breaks a link to another host; it is mended, and goes on without a loss. For tests of faults.
    pub fn break_off(&mut self, link: LinkId) {
        if let Some(remote) = &mut self.remote {
            remote.0.break_off(link);
        }
    }

    /// What became of a link to another host since this was last asked.
    pub fn take_news(&mut self) -> Option<(LinkId, News)> {
        self.remote.as_mut()?.0.take_news()
    }

    /// Opens a session here, without asking anyone: for the program that holds the composer.
    pub fn open(
        &mut self,
        session: SessionId,
        composition: u16,
        routes: impl Iterator<Item = (ComponentId, LinkId)> + Clone,
    ) {
        self.desk.open(session, composition, routes);
    }

    /// Closes a session here. False if it was not open.
    pub fn close(&mut self, session: SessionId) -> bool {
        self.desk.close(session)
    }

    /// One round: takes what came, hands it to `shard`, sends what it sends. Returns how many messages were handed
    /// over. While a queue of its outbox is full a shard pauses: it hears only the composer.
    #[inline(always)]
    pub fn poll(&mut self, shard: &mut impl Shard) -> usize {
        self.rounds += 1;
        if self.desk.outbox.crowded() || self.paused {
            self.look_for_room();
        }
        let may_pause = self.is_shard && !self.paused;
        let (desk, broken) = (&mut self.desk, &mut self.broken);
        let mut dispatch = Dispatch { shard, desk, broken, unflushed: 0, may_pause };
        let taken = self.inbox.poll(&mut dispatch);
        self.desk.outbox.flush();
        if let Some(remote) = &mut self.remote {
            remote.0.carry(&mut self.inbox, &mut self.desk.outbox);
        }
        if self.rounds.is_multiple_of(PUBLISH_ROUNDS) {
            self.publish_counts();
        }
        taken
    }

    /// Writes what waits, and pauses as long as some queue is still full. A program that embeds the composer never
    /// does: it sends of its own accord, not because of what it takes, so reading lets the shards that wait for it go
    /// on.
    #[cold]
    fn look_for_room(&mut self) {
        self.desk.outbox.flush();
        let full = self.desk.outbox.blocked().filter(|_| self.is_shard);
        self.paused = full.is_some();
        self.inbox.read_only(full.map(|_| COMPOSER_LINK));
        self.desk.set(Counter::PausedOn, full.map_or(0, |link| u64::from(link.0) + 1));
    }

    /// Runs a tick.
    pub fn tick(&mut self, shard: &mut impl Shard, tick: Tick) {
        self.desk.count(Counter::Ticks, 1);
        self.desk.count(Counter::TicksMissed, tick.missed);
        if let Some(stats) = &self.desk.stats {
            stats.record(Timing::TickLate, tick.late_ns);
        }
        let start_ns = self.desk.clock.now_ns();
        if let Err(error) = shard.on_tick(tick, &mut Context { desk: &mut self.desk }) {
            self.desk.count(Counter::HandlerErrors, 1);
            self.desk.end(SessionId::NONE, &error.to_string());
        }
        self.desk.count(Counter::TicksNs, self.desk.clock.now_ns().saturating_sub(start_ns));
        self.desk.outbox.flush();
    }

    /// A link that broke: a peer did not keep the rules. It is closed already; the caller tells the composer.
    pub fn take_broken(&mut self) -> Option<(LinkId, RingError)> {
        if let Some((link, error)) = self.desk.outbox.take_broken() {
            self.broken.push((link, error));
        }
        let (link, error) = self.broken.pop()?;
        self.detach(link);
        Some((link, error))
    }

    /// How many messages were refused since this was last asked, by the link on which they came.
    pub fn take_refused(&mut self) -> Vec<(LinkId, u64)> {
        self.desk.take_refused()
    }

    /// Waits for the next thing to do, at the longest until `until_ns` of the monotonic clock. Call it after a round
    /// that brought nothing.
    #[inline(always)]
    pub fn wait(&mut self, strategy: WaitStrategy, until_ns: Option<u64>) {
        let parks = self.inbox.parks();
        if self.remote.is_none() {
            self.inbox.wait(strategy, &mut self.desk.outbox, until_ns);
        } else if self.inbox.spins(strategy) {
            self.inbox.spin();
        } else {
            self.park_for_all(until_ns);
        }
        if self.inbox.parks() != parks {
            self.publish_now_and_then();
        }
    }

    /// Sleeps until something comes from this host or another.
    #[cold]
    fn park_for_all(&mut self, until_ns: Option<u64>) {
        let Some(remote) = &mut self.remote else { return };
        let (remote, watch) = &mut **remote;
        // Preparing may publish what waited for room; that has to be carried before anyone sleeps.
        if !self.inbox.prepare_to_park(&mut self.desk.outbox)
            || !remote.prepare_to_park(&mut self.inbox, &mut self.desk.outbox)
            || watch.arm().is_err()
        {
            return;
        }
        let due_ns = remote.due_ns();
        self.inbox.sleep(Some(until_ns.map_or(due_ns, |until| until.min(due_ns))));
        remote.carry_now(&mut self.inbox, &mut self.desk.outbox);
    }

    /// A shard that sleeps a lot makes few rounds; its page must not wait for thousands of them.
    #[cold]
    fn publish_now_and_then(&mut self) {
        let now_ns = shard_runtime::clock::now_ns();
        if now_ns.saturating_sub(self.published_ns) >= PUBLISH_NS {
            self.published_ns = now_ns;
            self.publish_counts();
        }
    }

    /// What sleeps on this endpoint's bell, for a thread that does not hold the endpoint while it sleeps.
    pub fn sleeper(&self) -> Sleeper {
        self.inbox.sleeper()
    }

    /// Arms all links, so that whatever comes rings. False if something came meanwhile.
    pub fn prepare_to_park(&mut self) -> bool {
        self.inbox.prepare_to_park(&mut self.desk.outbox)
    }

    /// Sleeps until something comes or `until_ns` is reached.
    pub fn park(&mut self, until_ns: Option<u64>) {
        self.publish_counts();
        if self.remote.is_some() {
            self.park_for_all(until_ns);
        } else {
            self.inbox.park(&mut self.desk.outbox, until_ns);
        }
    }

    /// Brings the statistics page up to date.
    pub fn publish_counts(&mut self) {
        let Some(stats) = &self.desk.stats else { return };
        stats.set(Counter::Beats, self.rounds);
        stats.set(Counter::Parks, self.inbox.parks());
        stats.set(Counter::SweepFinds, self.inbox.finds());
        stats.set(Counter::MessagesOut, self.desk.sent());
        let (mut bytes_in, mut bytes_out, mut full, mut waiting) = (0, 0, 0, 0);
        let mut sent = self.desk.outbox.iter();
        for (link, inbound) in self.inbox.iter() {
            let received = inbound.received();
            let sent =
                sent.by_ref().find(|(id, _)| *id == link).map(|(_, out)| out.sent()).unwrap_or_default();
            bytes_in += received.bytes;
            bytes_out += sent.bytes;
            full += sent.full;
            waiting += sent.waiting;
            let counts = LinkCounts {
                messages_in: received.messages,
                bytes_in: received.bytes,
                messages_out: sent.messages,
                bytes_out: sent.bytes,
                full: sent.full,
                waiting: sent.waiting,
            };
            stats.set_link(link, &counts);
        }
        stats.set(Counter::BytesIn, bytes_in);
        stats.set(Counter::BytesOut, bytes_out);
        stats.set(Counter::RingsFull, full);
        stats.set(Counter::OutboxWaiting, waiting);
        if let Some(remote) = &self.remote {
            stats.set(Counter::HeldNs, remote.0.held_ns());
        }
    }
}

/// Brings what arrives to the shard.
struct Dispatch<'a, S> {
    shard: &'a mut S,
    desk: &'a mut Desk,
    broken: &'a mut Vec<(LinkId, RingError)>,
    unflushed: u32,
    may_pause: bool,
}

impl<S: Shard> Receiver for Dispatch<'_, S> {
    #[inline(always)]
    fn message(&mut self, link: LinkId, header: &Header, payload: &[u8]) {
        if header.flags.has(Flags::CONTROL) {
            self.control(link, header, payload);
            return;
        }
        let why = match self.desk.sessions.get(header.session) {
            Some(open) if open.partners.contains(&link) => None,
            Some(_) => Some(Refused::Link),
            None => Some(Refused::Session),
        };
        if let Some(why) = why {
            return self.desk.reject(link, header, why);
        }
        let Some(kind) = self.desk.kind(link, header) else {
            return self.desk.reject(link, header, Refused::Port);
        };
        if let Kind::Input(port) = kind
            && payload.len() > self.desk.component.inputs[usize::from(port.0)].message_bytes_max as usize
        {
            return self.desk.reject(link, header, Refused::TooLarge);
        }
        let call = header.flags.has(Flags::CALL).then_some(CallId(header.call));
        let message = Message { session: header.session, kind, link, port: header.port, call, payload };
        if header.flags.has(Flags::STAMP) {
            self.timed(message, header.stamp_ns);
        } else {
            self.handle(message);
        }
        self.unflushed += 1;
        if self.desk.prompt || self.unflushed >= FLUSH_MESSAGES_MAX {
            self.unflushed = 0;
            self.desk.outbox.flush();
        }
    }

    #[inline(always)]
    fn drained(&mut self, _link: LinkId, messages: usize) {
        self.desk.count(Counter::MessagesIn, messages as u64);
        self.desk.prompt = self.desk.slow || messages == 1;
        self.desk.outbox.flush();
    }

    fn broken(&mut self, link: LinkId, error: RingError) {
        self.broken.push((link, error));
    }

    #[inline(always)]
    fn pauses(&self) -> bool {
        self.may_pause && self.desk.outbox.crowded()
    }
}

impl<S: Shard> Dispatch<'_, S> {
    #[inline(always)]
    fn handle(&mut self, message: Message<'_>) {
        let session = message.session;
        if let Err(error) = self.shard.on_message(message, &mut Context { desk: self.desk }) {
            self.failed(session, &error);
        }
    }

    /// One message in [`SAMPLE_EVERY`] says when it was sent; its handler is timed as well.
    #[inline(never)]
    fn timed(&mut self, message: Message<'_>, sent_ns: u64) {
        const { assert!(SAMPLE_EVERY > 0) };
        let start_ns = self.desk.clock.now_ns();
        self.handle(message);
        let took_ns = self.desk.clock.now_ns().saturating_sub(start_ns);
        self.desk.slow = took_ns > SLOW_HANDLER_NS;
        if let Some(stats) = &self.desk.stats {
            stats.record(Timing::Transit, start_ns.saturating_sub(sent_ns));
            stats.record(Timing::Handler, took_ns);
        }
    }

    #[cold]
    fn failed(&mut self, session: SessionId, error: &Error) {
        self.desk.count(Counter::HandlerErrors, 1);
        self.desk.end(session, &error.to_string());
    }

    fn is_partner(&mut self, session: SessionId, link: LinkId) -> bool {
        self.desk.sessions.get(session).is_some_and(|open| open.partners.contains(&link))
    }

    #[cold]
    fn control(&mut self, link: LinkId, header: &Header, payload: &[u8]) {
        match Verb::from_port(header.port) {
            // Only who is in a session can have refused one of its messages.
            Some(Verb::Rejected) if self.is_partner(header.session, link) => {
                if let Some(rejected) = Desk::rejected(header, payload) {
                    self.shard.on_rejected(rejected, &mut Context { desk: self.desk });
                }
            }
            // Only the composer opens and closes; from anyone else it is a lie.
            Some(Verb::Open) if self.desk.is_composer(link) => self.open(header.session, payload),
            Some(Verb::Close) if self.desk.is_composer(link) => self.close(header.session),
            _ => self.desk.note_refused(link),
        }
    }

    fn open(&mut self, session: SessionId, payload: &[u8]) {
        let Some(open) = Open::decode(payload) else {
            return self.desk.tell(Verb::OpenRefused, session, b"the opening is malformed");
        };
        if self.desk.sessions.len() >= self.desk.component.capacity as usize {
            return self.desk.tell(Verb::OpenRefused, session, b"the shard holds as many sessions as it may");
        }
        let routes: Vec<(ComponentId, LinkId)> = open.routes().collect();
        self.desk.open(session, open.composition, routes.iter().copied());
        match self.shard.on_open(session, &mut Context { desk: self.desk }) {
            Ok(()) => self.desk.tell(Verb::Opened, session, &[]),
            Err(error) => {
                self.desk.close(session);
                let reason = error.to_string();
                self.desk.tell(Verb::OpenRefused, session, cut(&reason).as_bytes());
            }
        }
    }

    fn close(&mut self, session: SessionId) {
        if self.desk.sessions.get(session).is_some() {
            self.shard.on_close(session, &mut Context { desk: self.desk });
            self.desk.close(session);
            if let Err(error) = self.scrub() {
                let reason = error.to_string();
                return self.desk.tell(Verb::ScrubFailed, session, cut(&reason).as_bytes());
            }
        }
        self.desk.tell(Verb::Closed, session, &[]);
    }

    /// Has the author's code forget its sessions, if the manifest wants that and the last one is closed.
    fn scrub(&mut self) -> Result<(), Error> {
        if self.desk.component.after != After::Scrub || self.desk.sessions.len() > 0 {
            return Ok(());
        }
        self.shard.on_scrub(&mut Context { desk: self.desk })
    }
}
