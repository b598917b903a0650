//! The hub: the core and the control links to the shards, under one lock.
//!
//! A claim runs on the thread that asks for it: it locks the hub, lets the core decide, writes the openings into the
//! shards' control rings and polls for their acknowledgements. What is slow (launching, wiring, ending) is handed to
//! the shell's thread. Acknowledgements that nobody waits for are taken by the clerk's thread, which sleeps on the
//! hub's bell.
//!
//! Invariant: whoever gives the lock back has armed the control links, so that whatever comes wakes the clerk, or some
//! thread comes back at once to poll them; and wakes the shards that were rung. Nobody is woken under the lock: a shard that wakes
//! may take the core from whoever woke it, and others would wait for the lock meanwhile.

use crate::core::{CompositionId, Core, Effect, End, Event, Loss, Refusal, RequestId, Tiers, WireEnd};
use crate::embed::Embed;
use crate::said::said;
use crate::scaler::{Passed, Scaler, Target};
use shard_runtime::clock;
use shard_runtime::control::COMPOSER_LINK;
use shard_runtime::frame::{Flags, Header};
use shard_runtime::id::{ComponentId, LinkId, SessionId, ShardId};
use shard_runtime::inbox::{Inbound, Inbox, Receiver};
use shard_runtime::outbox::{Outbound, Outbox};
use shard_runtime::ring::RingError;
use shard_runtime::session::{Open, Verb};
use shard_runtime::wake::{Bell, LINKS_MAX, Sleepers};
use shardkit::application::Application;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// A session that is ready, as the one who asked for it gets it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ready {
    pub(crate) session: SessionId,
    pub(crate) tiers: Tiers,
}

/// Why a session that was ready is over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ending {
    /// A shard was lost, or the composer shuts down.
    #[error("the session was lost: {0}")]
    Lost(Loss),
    /// A shard of it asked for the end, or failed on one of its messages.
    #[error("shard {shard} of `{component}` ended the session: {reason}")]
    ByShard {
        /// The shard.
        shard: ShardId,
        /// Its component.
        component: String,
        /// What it said.
        reason: String,
    },
    /// It was ended by its user.
    #[error("the session was ended by its user")]
    ByUser,
}

/// What the hub leaves to the shell.
#[derive(Debug)]
pub(crate) enum Slow {
    /// An effect of the core.
    Effect(Effect),
    /// A shard has said what is wrong with it.
    Fault { shard: ShardId, fault: String },
    /// The core was asked to shut down by another thread.
    ShutDown,
}

/// So many frames a shard may send that nobody asked for (it may end sessions, and tell of handlers that fail), and so
/// many again each second.
const UNASKED_MAX: u32 = 2_048;
/// So many it may send for each session that it is asked to open or close: its answer, and that the session is to end.
const ANSWERS: u32 = 2;
/// So many lines that a shard has a say in are written each second.
const LINES_MAX: u32 = 16;
const SECOND_NS: u64 = 1_000_000_000;

/// How much a shard may say over its control link, so that it can neither keep the others from the hub nor fill the log.
#[derive(Clone, Copy, Default)]
struct Allowance {
    frames: u32,
    lines: u32,
    since_ns: u64,
    /// It has broken the protocol: what else it said is not listened to.
    deaf: bool,
}

impl Allowance {
    fn refill(&mut self) {
        let now_ns = clock::now_ns();
        if now_ns.saturating_sub(self.since_ns) >= SECOND_NS {
            let deaf = self.deaf;
            *self = Self { frames: UNASKED_MAX.max(self.frames), lines: LINES_MAX, since_ns: now_ns, deaf };
        }
    }

    /// One less of the frames, or of the lines. False if there are none left.
    fn take(&mut self, of: impl Fn(&mut Self) -> &mut u32) -> bool {
        if *of(self) == 0 {
            self.refill();
        }
        let left = of(self);
        let taken = *left > 0;
        *left -= u32::from(taken);
        taken
    }

    fn take_frame(&mut self) -> bool {
        self.take(|left| &mut left.frames)
    }

    fn take_line(&mut self) -> bool {
        self.take(|left| &mut left.lines)
    }
}

/// What came over a control link.
struct Ack {
    link: LinkId,
    verb: Option<Verb>,
    session: SessionId,
    text: String,
}

#[derive(Default)]
struct Acks {
    list: Vec<Ack>,
    broken: Vec<(LinkId, RingError)>,
}

impl Receiver for Acks {
    fn message(&mut self, link: LinkId, header: &Header, payload: &[u8]) {
        let verb = if header.flags.has(Flags::CONTROL) { Verb::from_port(header.port) } else { None };
        let text = if payload.is_empty() { String::new() } else { said(&String::from_utf8_lossy(payload)) };
        self.list.push(Ack { link, verb, session: header.session, text });
    }

    fn drained(&mut self, _link: LinkId, _messages: usize) {}

    fn broken(&mut self, link: LinkId, error: RingError) {
        self.broken.push((link, error));
    }
}

/// See the head of this file.
pub(crate) struct Hub {
    pub(crate) core: Core,
    /// What says how many shards there are to be, if the manifest has a `[pool]`.
    pub(crate) scaler: Option<Scaler>,
    demand: Vec<u32>,
    application: Arc<Application>,
    inbox: Inbox,
    outbox: Outbox,
    /// Whose control link it is.
    owners: Vec<Option<ShardId>>,
    /// How much each may still say over it.
    allowances: Vec<Allowance>,
    links: HashMap<ShardId, LinkId>,
    answers: HashMap<RequestId, Result<Ready, Refusal>>,
    /// Requests without an answer whose asker is gone.
    withdrawn: HashSet<RequestId>,
    /// Sessions that are ready, and nobody waits for them any more.
    unwanted: Vec<SessionId>,
    endings: HashMap<SessionId, Ending>,
    effects: Vec<Effect>,
    acks: Acks,
    payload: Vec<u8>,
    /// The shards that were rung and have to be woken.
    sleepers: Sleepers,
    slow: crossbeam::channel::Sender<Slow>,
    waker: Arc<mio::Waker>,
    embed: Option<Arc<Embed>>,
    next_request: u64,
    /// Something was handed to the shell and it was not woken yet.
    shell_due: bool,
    /// An answer came, or a session changed: waiters want to know.
    pub(crate) news: bool,
    /// How many threads poll for acknowledgements.
    pub(crate) pollers: usize,
    /// How many threads sleep until there is news.
    pub(crate) waiters: usize,
    pub(crate) finished: bool,
}

impl Hub {
    pub(crate) fn new(
        application: Arc<Application>,
        bell: Bell,
        slow: crossbeam::channel::Sender<Slow>,
        waker: Arc<mio::Waker>,
        embed: Option<Arc<Embed>>,
        scaler: Option<Scaler>,
    ) -> Self {
        Self {
            core: Core::new(&application),
            scaler,
            demand: Vec::new(),
            application,
            inbox: Inbox::new(bell),
            outbox: Outbox::new(),
            owners: vec![None; LINKS_MAX],
            allowances: vec![Allowance::default(); LINKS_MAX],
            links: HashMap::new(),
            answers: HashMap::new(),
            withdrawn: HashSet::new(),
            unwanted: Vec::new(),
            endings: HashMap::new(),
            effects: Vec::new(),
            acks: Acks::default(),
            payload: Vec::new(),
            sleepers: Sleepers::default(),
            slow,
            waker,
            embed,
            next_request: 0,
            shell_due: false,
            news: false,
            pollers: 0,
            waiters: 0,
            finished: false,
        }
    }

    pub(crate) fn sleeper(&self) -> shard_runtime::wake::Sleeper {
        self.inbox.sleeper()
    }

    /// What wakes the clerk.
    pub(crate) fn ringer(&self) -> shard_runtime::wake::Ringer {
        self.inbox.ringer()
    }

    /// A free control link, for a shard that is about to be launched; `None` when all are taken.
    pub(crate) fn reserve_link(&mut self, shard: ShardId) -> Option<LinkId> {
        let at = self.owners.iter().position(Option::is_none)?;
        self.owners[at] = Some(shard);
        self.allowances[at] = Allowance::default();
        Some(LinkId(at as u16))
    }

    pub(crate) fn attach(&mut self, shard: ShardId, link: LinkId, inbound: Inbound, outbound: Outbound) {
        self.inbox.attach(link, inbound);
        self.outbox.attach(link, outbound);
        self.links.insert(shard, link);
    }

    pub(crate) fn release_link(&mut self, shard: ShardId) {
        self.links.remove(&shard);
        if let Some(at) = self.owners.iter().position(|owner| *owner == Some(shard)) {
            self.owners[at] = None;
            self.inbox.detach(LinkId(at as u16));
            self.outbox.detach(LinkId(at as u16));
        }
    }

    /// Lets the core take an event in, and carries out what it wants.
    pub(crate) fn handle(&mut self, event: Event) {
        self.core.handle(clock::now_ns(), event, &mut self.effects);
        self.carry_out();
        while let Some(session) = self.unwanted.pop() {
            self.core.handle(clock::now_ns(), Event::SessionEnded { session }, &mut self.effects);
            self.carry_out();
        }
    }

    /// Asks for a session. The answer comes with [`take_answer`](Self::take_answer).
    pub(crate) fn request(&mut self, composition: CompositionId, deadline_ns: u64) -> RequestId {
        let request = RequestId(self.next_request);
        self.next_request += 1;
        self.handle(Event::SessionRequested { request, composition, deadline_ns });
        request
    }

    pub(crate) fn take_answer(&mut self, request: RequestId) -> Option<Result<Ready, Refusal>> {
        self.answers.remove(&request)
    }

    /// The answers to those requests that are `mine`.
    pub(crate) fn take_answers(
        &mut self,
        mut mine: impl FnMut(RequestId) -> bool,
    ) -> Vec<(RequestId, Result<Ready, Refusal>)> {
        self.answers.extract_if(|request, _| mine(*request)).collect()
    }

    /// Nobody wants the answer any more: a session that comes of it, or came, ends.
    pub(crate) fn withdraw(&mut self, request: RequestId) {
        match self.answers.remove(&request) {
            Some(Ok(ready)) => self.end(ready.session),
            Some(Err(_)) => {}
            None => {
                self.withdrawn.insert(request);
            }
        }
    }

    /// Ends a session for its user.
    pub(crate) fn end(&mut self, session: SessionId) {
        self.handle(Event::SessionEnded { session });
        self.endings.remove(&session);
    }

    /// Why a session is over, if it is; `None` while it runs.
    pub(crate) fn ending(&self, session: SessionId) -> Option<Ending> {
        self.endings.get(&session).cloned()
    }

    /// Whether all shards of a session have let go of it.
    pub(crate) fn is_gone(&self, session: SessionId) -> bool {
        self.core.session(session).is_none()
    }

    /// Lets a shard take no more sessions, and end by `deadline_ns` at the latest. False if there is no such shard.
    pub(crate) fn drain(&mut self, shard: ShardId, deadline_ns: u64) -> bool {
        let there = self.core.shard(shard).is_some();
        self.handle(Event::Drain { shard, deadline_ns });
        there
    }

    /// When the scaler's bin ends.
    pub(crate) fn bin_ends_ns(&self) -> Option<u64> {
        self.scaler.as_ref().map(Scaler::due_ns)
    }

    /// Lets the scaler decide, and the core know. `room` tells how many shards more of a component the host has room
    /// for.
    pub(crate) fn scale(&mut self, now_ns: u64, at: (u8, u16), room: impl Fn(ComponentId) -> Option<u32>) {
        let Some(scaler) = self.scaler.as_mut() else { return };
        self.core.take_demand(&mut self.demand);
        let targets = scaler.decide(now_ns, at, |component| Passed {
            demand: self.demand[usize::from(component.0)],
            pool: self.core.pool(component).expect("the scaler's components are the application's"),
            room: room(component),
        });
        for Target { component, ready, frozen } in targets {
            let name = &self.application.component(component).name;
            let why = self.scaler.as_ref().and_then(|scaler| scaler.why(component)).unwrap_or_default();
            tracing::info!(component = name, ready, frozen, why, "target");
            self.handle(Event::Target { component, ready, frozen });
        }
    }

    fn carry_out(&mut self) {
        let mut effects = std::mem::take(&mut self.effects);
        for effect in effects.drain(..) {
            self.carry_out_one(effect);
        }
        // Nothing below `handle` runs the core, so nothing was added meanwhile.
        self.effects = effects;
        self.outbox.flush_quietly(&mut self.sleepers);
        if std::mem::take(&mut self.shell_due) {
            // It fails only when the shell is gone, and then there is nothing to wake.
            let _ = self.waker.wake();
        }
    }

    fn carry_out_one(&mut self, effect: Effect) {
        match effect {
            Effect::Open { session, shard } => self.open(session, shard),
            Effect::Close { session, shard } => self.close(session, shard),
            Effect::SessionReady { request, session, tiers } => {
                self.session_ready(request, session, tiers);
            }
            Effect::RequestFailed { request, reason } => {
                tracing::info!(?request, %reason, "request failed");
                if !self.withdrawn.remove(&request) {
                    self.answers.insert(request, Err(reason));
                    self.news = true;
                }
            }
            Effect::SessionLost { session, reason } => {
                let of = match &reason {
                    Loss::ShardLost { shard, component, .. }
                    | Loss::LinkBroken { shard, component }
                    | Loss::Drained { shard, component } => {
                        Some((tracing::field::display(shard), component.to_string()))
                    }
                    Loss::Idle | Loss::ShuttingDown => None,
                };
                let (shard, component) = of.unzip();
                tracing::warn!(%session, shard, component, %reason, "session lost");
                self.session_over(session, Ending::Lost(reason));
            }
            Effect::SessionClosed { session } => {
                tracing::debug!(%session, "session closed");
                if let Some(embed) = &self.embed {
                    embed.close(session);
                }
                self.news = true;
            }
            slow => {
                let _ = self.slow.send(Slow::Effect(slow));
                self.shell_due = true;
            }
        }
    }

    fn session_ready(&mut self, request: RequestId, session: SessionId, tiers: Tiers) {
        tracing::debug!(%session, %tiers, "session ready");
        if self.withdrawn.remove(&request) {
            self.unwanted.push(session);
            return;
        }
        if let Some(embed) = &self.embed {
            let composition = self.core.session(session).map_or(0, |view| view.composition.0);
            let routes = self.core.embedder_routes(session).map(|route| (route.component, route.link));
            let idle_ms = self.application.compositions[usize::from(composition)].idle_timeout_ms;
            let idle_ns = idle_ms.map(|ms| ms.saturating_mul(1_000_000));
            embed.open(session, composition, routes.collect(), idle_ns);
        }
        self.answers.insert(request, Ok(Ready { session, tiers }));
        self.news = true;
    }

    fn session_over(&mut self, session: SessionId, ending: Ending) {
        if let Some(embed) = &self.embed {
            embed.end(session, &ending);
        }
        self.endings.insert(session, ending);
        self.news = true;
    }

    fn open(&mut self, session: SessionId, shard: ShardId) {
        let Some(link) = self.links.get(&shard).copied() else { return };
        let composition = self.core.session(session).map_or(0, |view| view.composition.0);
        let routes = self.core.routes(session, shard).map(|route| (route.component, at_shard(route.link)));
        let mut payload = std::mem::take(&mut self.payload);
        Open::encode(composition, routes, &mut payload);
        self.expect(link);
        self.send(link, Verb::Open, session, &payload);
        self.payload = payload;
    }

    fn close(&mut self, session: SessionId, shard: ShardId) {
        if let Some(link) = self.links.get(&shard).copied() {
            self.expect(link);
            self.send(link, Verb::Close, session, &[]);
        }
    }

    /// A shard is about to be asked something.
    fn expect(&mut self, link: LinkId) {
        let allowance = &mut self.allowances[usize::from(link.0)];
        allowance.frames = allowance.frames.saturating_add(ANSWERS);
        self.inbox.expect(link);
    }

    fn send(&mut self, link: LinkId, verb: Verb, session: SessionId, payload: &[u8]) {
        let header = Header::new(session, verb.port()).flagged(Flags::CONTROL);
        if let Some(Err(error)) = self.outbox.send(link, header, payload) {
            // The core's time-out for the acknowledgement ends a shard that does not read its control ring.
            tracing::warn!(%link, %session, %error, "control ring refused a frame");
        }
    }

    /// Takes what the shards acknowledged. Returns how much came.
    pub(crate) fn poll(&mut self) -> usize {
        let taken = self.inbox.poll(&mut self.acks);
        if taken > 0 || !self.acks.broken.is_empty() {
            self.take_acks();
        } else if self.outbox.waits() {
            self.outbox.flush_quietly(&mut self.sleepers);
        }
        taken
    }

    /// The shards that were rung: whoever takes them gives the lock back and wakes them.
    pub(crate) fn take_sleepers(&mut self) -> Option<Sleepers> {
        (!self.sleepers.is_empty()).then(|| std::mem::take(&mut self.sleepers))
    }

    fn take_acks(&mut self) {
        let mut acks = std::mem::take(&mut self.acks);
        for ack in acks.list.drain(..) {
            if let Some(shard) = self.owners[usize::from(ack.link.0)] {
                self.take_ack(shard, ack);
            }
        }
        for (link, error) in acks.broken.drain(..) {
            if let Some(shard) = self.owners[usize::from(link.0)] {
                self.break_off(shard, link, error.to_string());
            }
        }
        self.acks = acks;
    }

    /// Listens to a shard no more that has broken the rules of its control link, and has it killed.
    fn break_off(&mut self, shard: ShardId, link: LinkId, error: String) {
        if std::mem::replace(&mut self.allowances[usize::from(link.0)].deaf, true) {
            return;
        }
        tracing::error!(%shard, component = self.component_of(shard), %link, error, "control link broken");
        self.inbox.detach(link);
        self.outbox.detach(link);
        let _ = self.slow.send(Slow::Fault { shard, fault: format!("broke its control link: {error}") });
        self.shell_due = true;
        self.handle(Event::BrokeProtocol { shard });
    }

    fn component_of(&self, shard: ShardId) -> String {
        let view = self.core.shard(shard);
        view.map(|view| self.application.component(view.component).name.clone()).unwrap_or_default()
    }

    fn take_ack(&mut self, shard: ShardId, ack: Ack) {
        let session = ack.session;
        let allowance = &mut self.allowances[usize::from(ack.link.0)];
        if allowance.deaf {
            return;
        }
        if !allowance.take_frame() {
            let what = format!("it says more than {UNASKED_MAX} things a second that nobody asked for");
            return self.break_off(shard, ack.link, what);
        }
        match ack.verb {
            Some(Verb::Opened) => self.handle(Event::Opened { session, shard }),
            Some(Verb::Closed) => self.handle(Event::Closed { session, shard }),
            Some(Verb::ScrubFailed) => {
                let component = self.component_of(shard);
                tracing::error!(
                    %session, %shard, component, reason = ack.text, "scrub failed; the shard is not used again"
                );
                let _ = self.slow.send(Slow::Fault { shard, fault: format!("scrub failed: {}", ack.text) });
                self.handle(Event::ScrubFailed { session, shard });
            }
            Some(Verb::OpenRefused) => {
                if allowance.take_line() {
                    let (component, reason) = (self.component_of(shard), ack.text);
                    tracing::warn!(%session, %shard, component, reason, "shard refused the session");
                }
                self.handle(Event::OpenRefused { session, shard });
            }
            Some(Verb::End) => self.end_by_shard(session, shard, ack),
            _ => {
                let what = format!("it sent {:?}, which only a composer or a partner says", ack.verb);
                self.break_off(shard, ack.link, what);
            }
        }
    }

    /// A shard wants the end of a session. Only of one that it is in: its word counts for no other.
    fn end_by_shard(&mut self, session: SessionId, shard: ShardId, ack: Ack) {
        let (component, reason) = (self.component_of(shard), ack.text);
        let told = self.allowances[usize::from(ack.link.0)].take_line();
        if session.is_none() {
            if told {
                tracing::warn!(%shard, component, reason, "handler failed");
            }
            return;
        }
        let member = self.core.session(session).is_some_and(|view| view.shards().any(|id| id == shard));
        if !member {
            if told {
                tracing::warn!(%shard, component, %session, "shard tried to end a session that is not its own");
            }
            return;
        }
        tracing::info!(%session, %shard, component, reason, "session ended by shard");
        self.session_over(session, Ending::ByShard { shard, component, reason });
        self.handle(Event::SessionEnded { session });
    }

    /// Takes the memory of sleepers back that were woken.
    pub(crate) fn put_back(&mut self, woken: Sleepers) {
        if self.sleepers.is_empty() {
            self.sleepers = woken;
        }
    }

    /// Arms the control links. False if something came meanwhile.
    pub(crate) fn rest(&mut self) -> bool {
        self.inbox.prepare_to_park(&mut self.outbox)
    }

    /// The end that an effect names, as people read it.
    pub(crate) fn name(end: End) -> String {
        match end {
            End::Embedder => "embedder".into(),
            End::Shard(shard) => format!("shard {shard}"),
        }
    }
}

/// A slot in a shard's own table of links: its first is the composer's.
pub(crate) fn at_shard(link: LinkId) -> LinkId {
    LinkId(link.0 + COMPOSER_LINK.0 + 1)
}

/// The number that this end knows its link by.
pub(crate) fn slot(end: WireEnd) -> LinkId {
    match end.end {
        End::Embedder => end.link,
        End::Shard(_) => at_shard(end.link),
    }
}

/// The shard of this end; `None` for the embedder.
pub(crate) fn shard_of(end: WireEnd) -> Option<ShardId> {
    match end.end {
        End::Embedder => None,
        End::Shard(shard) => Some(shard),
    }
}
