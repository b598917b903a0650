//! The composer's pure core: who gets which shards, and when shards come and go.
//!
//! A state machine. [`Core::handle`] takes the time and an [`Event`], and returns [`Effect`]s; there is no clock,
//! no I/O, no thread and no chance inside, so the same events always give the same effects. A thin shell turns
//! what happens into events and carries the effects out. So every policy in here can be tested by simulation, with
//! the very code that runs in production.
//!
//! ```text
//! SessionRequested ─▶ claim a cell ─▶ Open to each shard ─▶ Opened from each ─▶ SessionReady
//!                       │ none has room: Wire the shards that have, or Launch what is missing
//! SessionEnded ─────▶ Close to each shard ─▶ Closed from each ─▶ SessionClosed: the places are free again
//! ```
//!
//! What a claim from warm shards costs does not depend on how many shards there are, and it allocates nothing once
//! the tables have grown to their size. How it packs, and what a mispack is, stands in `compose.rs`.

mod audit;
mod cells;
mod compose;
mod event;
mod list;
mod pool;
mod record;
mod refusal;
mod requests;
mod scale;
mod sessions;
mod shape;
mod shards;
mod short;
mod view;
mod wires;

pub use event::{
    CompositionId, Effect, End, Event, Exit, KillReason, RequestId, Route, Tier, Tiers, WireEnd, WireId,
};
pub use record::{COMPOSED_MAX, COMPOSED_SHARDS_MAX, Composed, DEEDS_MAX, Deed, Explanation, Record, Why};
pub use refusal::{Death, Loss, Name, Refusal};
pub use sessions::SessionState;
pub use shards::{ShardState, StartCost};
pub use view::{PoolView, SessionView, ShardView};

use cells::Cells;
use requests::Requests;
use sessions::Sessions;
use shape::Shape;
use shard_runtime::id::LinkId;
use shardkit::application::Application;
use shards::Shards;
use short::Short;
use std::collections::BTreeSet;
use wires::Wires;

/// The largest number of sessions at a time.
pub const SESSIONS_MAX: usize = 1 << 20;
/// The largest number of requests that wait at a time.
pub const WAITING_MAX: usize = 65_536;
/// The largest number of links of one end, the embedder included; a shard has one more, to the composer. When a shard needs one more, a wire goes that no
/// session uses; when all are in use, requests that need one more wait.
pub const LINKS_MAX: usize = shard_runtime::wake::LINKS_MAX - 1;
/// How often a request is put back into the queue after a wire failed.
pub const WIRE_TRIES_MAX: u8 = 3;
/// How many cells a shard may be in on top of those that were formed ahead of time.
pub const CELLS_BEYOND_PLACES_MAX: u32 = 16;
/// How many shards the search for a wired set looks at before new wires are made instead.
pub const SEARCH_STEPS_MAX: u32 = 100_000;
/// What a shard reports that works all the time.
pub const LOAD_FULL_PERMILLE: u32 = 1_000;
/// Packing takes a shard beyond this last among those that are open.
pub const LOAD_LIMIT_PERMILLE: u32 = 900;
/// How long a shard may take to acknowledge the opening of a session, in milliseconds.
pub const OPEN_TIMEOUT_MS: u64 = 5_000;
/// How long a shard may take to acknowledge the closing of a session, in milliseconds.
pub const CLOSE_TIMEOUT_MS: u64 = 5_000;
/// How many frozen shards of a component are kept at the most.
pub const SHARDS_KEPT_MAX: u32 = 10_000;
/// How long a component waits after its first shard that failed before it was ready, in milliseconds.
pub const BACKOFF_MIN_MS: u64 = 100;
/// How long it waits at most, in milliseconds; it doubles from one failure to the next.
pub const BACKOFF_MAX_MS: u64 = 10_000;
/// After so many failures in a row a component is quarantined.
pub const QUARANTINE_AFTER_FAILURES: u32 = 8;
/// How long a quarantined component is not tried, in milliseconds.
pub const QUARANTINE_MS: u64 = 60_000;
/// How often a session is composed again because a shard of it died while it was being opened.
pub const OPEN_TRIES_MAX: u8 = 3;

const NS_PER_MS: u64 = 1_000_000;

/// The composer's state.
#[derive(Debug)]
pub struct Core {
    shape: Shape,
    phase: Phase,
    shards: Shards,
    wires: Wires,
    /// By composition.
    cells: Vec<Cells>,
    /// By composition and level: the shards with places for more cells, those with the fewest first.
    spare: Vec<Vec<BTreeSet<(u32, u32)>>>,
    sessions: Sessions,
    requests: Requests,
    embedder_links_free: Vec<LinkId>,
    records: record::Records,
    /// By composition: why it can't be had now, or ever.
    short: Vec<Option<Short>>,
    never: Vec<Option<Refusal>>,
    /// Whether shards have come or gone since the last look at what is to be launched.
    unsettled: bool,
    /// Memory that is used again and again: the set of shards in hand, the cell in hand, compositions in hand.
    set: Vec<u32>,
    scratch: Vec<u32>,
    stuck: Vec<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    New,
    Running,
    Ending,
    Finished,
}

impl Core {
    /// The core for an application. It does nothing before [`Event::Start`].
    pub fn new(application: &Application) -> Self {
        let shape = Shape::new(application);
        let levels = |at: usize| shape.compositions[at].levels.len();
        let compositions = 0..shape.compositions.len();
        let levels_max = compositions.clone().map(levels).max().unwrap_or(0);
        Self {
            phase: Phase::New,
            shards: Shards::new(&shape),
            wires: Wires::default(),
            cells: compositions.clone().map(|at| Cells::new(levels(at))).collect(),
            spare: compositions.clone().map(|at| vec![BTreeSet::new(); levels(at)]).collect(),
            sessions: Sessions::new(levels_max),
            requests: Requests::new(compositions.len()),
            embedder_links_free: (0..LINKS_MAX as u16).rev().map(LinkId).collect(),
            records: record::Records::default(),
            short: vec![None; shape.compositions.len()],
            never: vec![None; shape.compositions.len()],
            unsettled: false,
            set: Vec::new(),
            scratch: Vec::new(),
            stuck: Vec::new(),
            shape,
        }
    }

    /// Takes in what has happened at `now_ns`, and appends to `effects` what is to be done about it. Time does not
    /// go back from one call to the next. An event about something that is gone changes nothing.
    pub fn handle(&mut self, now_ns: u64, event: Event, effects: &mut Vec<Effect>) {
        match event {
            Event::SessionRequested { request, composition, deadline_ns } => {
                self.session_requested(now_ns, request, composition, deadline_ns, effects);
            }
            Event::Opened { session, shard } => self.opened(now_ns, session, shard, effects),
            Event::SessionEnded { session } => self.session_ended(now_ns, session, effects),
            Event::Closed { session, shard } => self.closed(now_ns, session, shard, effects),
            Event::ScrubFailed { session, shard } => self.scrub_failed(now_ns, session, shard, effects),
            Event::OpenRefused { session, shard } => self.open_refused(now_ns, session, shard, effects),
            Event::Launched { shard, pid, from } => self.launched(shard, pid, from),
            Event::ShardReady { shard } => self.shard_ready(now_ns, shard, effects),
            Event::ShardExited { shard, how } => self.shard_exited(now_ns, shard, how, effects),
            Event::NoRoom { shards, shortage } => self.no_room(now_ns, &shards, &shortage, effects),
            Event::ShardHung { shard } => self.lost_trust(now_ns, shard, KillReason::Hung, effects),
            Event::BrokeProtocol { shard } => {
                self.lost_trust(now_ns, shard, KillReason::BrokeProtocol, effects);
            }
            Event::LinkBroken { witness, link } => self.link_broken(now_ns, witness, link, effects),
            Event::Load { shard, permille } => self.load(shard, permille),
            Event::SessionIdle { session } => self.session_idle(now_ns, session, effects),
            Event::Target { component, ready, frozen } => self.set_target(now_ns, component, ready, frozen),
            Event::Drain { shard, deadline_ns } => self.drain(now_ns, shard, deadline_ns, effects),
            Event::Wired { wire } => self.wired(now_ns, wire, effects),
            Event::WireFailed { wire } => self.wire_failed(now_ns, wire, effects),
            Event::Start => self.start(),
            Event::Tick => self.tick(now_ns, effects),
            Event::ShutDown => self.shut_down(now_ns, effects),
        }
        loop {
            if self.requests.queued > 0 {
                self.serve_waiting(now_ns, effects);
            }
            if !std::mem::take(&mut self.unsettled) && self.requests.queued == 0 {
                break;
            }
            // What was thawed takes sessions at once.
            if !self.refill(now_ns, effects) {
                self.finish(effects);
                break;
            }
        }
    }

    /// When the core wants its next [`Event::Tick`]; `None` if only other events matter.
    pub fn next_deadline(&self) -> Option<u64> {
        let components = 0..self.shape.components.len() as u16;
        let launches =
            components.clone().filter(|&c| self.wants_launch(c)).map(|c| self.shards.stock(c).retry_ns);
        let surplus = components.filter_map(|c| self.surplus(c)).map(|(_, at_ns)| at_ns);
        let requests = self.requests.deadlines.first().map(|&(at_ns, _)| at_ns);
        let shards = self.shards.timers.first().map(|&(at_ns, _)| at_ns);
        let others = requests.into_iter().chain(shards).chain(self.sessions.next_deadline());
        others.chain(launches).chain(surplus).min()
    }

    fn start(&mut self) {
        if self.phase == Phase::New {
            self.phase = Phase::Running;
            self.unsettled = true;
        }
    }

    fn tick(&mut self, now_ns: u64, effects: &mut Vec<Effect>) {
        self.request_timeouts(now_ns, effects);
        self.session_timeouts(now_ns, effects);
        self.shard_timeouts(now_ns, effects);
        self.scale_down(now_ns, effects);
        self.unsettled = true;
    }

    fn shut_down(&mut self, now_ns: u64, effects: &mut Vec<Effect>) {
        if self.is_ending() {
            return;
        }
        self.phase = Phase::Ending;
        self.unsettled = true;
        for session in 0..self.sessions.table.len() as u32 {
            if self.sessions.table[session as usize].in_use {
                self.lose(now_ns, session, &Loss::ShuttingDown, effects);
            }
        }
        while let Some(&(_, at)) = self.requests.deadlines.first() {
            let request = self.requests.table[at as usize].ask.request;
            effects.push(Effect::RequestFailed { request, reason: Refusal::ShuttingDown });
            self.requests.remove(at);
        }
        let idle: Vec<u32> =
            self.shards.iter().filter(|(_, s)| s.holders.is_empty()).map(|(at, _)| at).collect();
        idle.into_iter().for_each(|at| self.stop(now_ns, at, Why::ShutDown, effects));
    }

    fn finish(&mut self, effects: &mut Vec<Effect>) {
        if self.phase == Phase::Ending && self.shards.is_empty() {
            self.phase = Phase::Finished;
            effects.push(Effect::Finished);
        }
    }

    fn is_running(&self) -> bool {
        self.phase == Phase::Running
    }

    fn is_ending(&self) -> bool {
        matches!(self.phase, Phase::Ending | Phase::Finished)
    }
}
