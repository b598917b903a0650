//! What was done, and why: the composer's memory for those who ask afterwards.
//!
//! Invariant: of fixed size, all of it taken at the start. The oldest goes when something new comes; noting something
//! allocates nothing.

use super::Core;
use super::event::{CompositionId, Exit, KillReason, RequestId, Tier};
use super::refusal::Death;
use super::shards::Class;
use shard_runtime::id::{ComponentId, SessionId, ShardId};
use std::collections::VecDeque;
use std::fmt;

/// So many deeds are remembered.
pub const DEEDS_MAX: usize = 16_384;
/// So many sessions are remembered, those that are over included.
pub const COMPOSED_MAX: usize = 4_096;
/// So many shards of remembered sessions are.
pub const COMPOSED_SHARDS_MAX: usize = 8 * COMPOSED_MAX;

/// Why something was done to a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The component is to have so many shards that take sessions.
    Target {
        /// How many.
        ready: u32,
    },
    /// Requests waited for a place.
    Waiting {
        /// How many.
        requests: u32,
    },
    /// Nobody needed it.
    Idle {
        /// For how long.
        for_ns: u64,
    },
    /// Its component's shards are replaced after use.
    Restart,
    /// Its part of the host is needed.
    Room,
    /// It was drained.
    Drained,
    /// The composer shuts down.
    ShutDown,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Why::Target { ready } => write!(f, "{ready} are to be ready"),
            Why::Waiting { requests } => write!(f, "{requests} waiting"),
            Why::Idle { for_ns } => write!(f, "not needed for {:.1} s", for_ns as f64 / 1e9),
            Why::Restart => f.write_str("replaced after use"),
            Why::Room => f.write_str("its part of the host is needed"),
            Why::Drained => f.write_str("drained"),
            Why::ShutDown => f.write_str("shutting down"),
        }
    }
}

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// A shard was launched.
    Launched(Why),
    /// It takes sessions.
    Ready {
        /// How it came into being.
        from: Tier,
        /// From its launch on.
        took_ns: u64,
    },
    /// It was frozen.
    Frozen(Why),
    /// It was thawed.
    Thawed(Why),
    /// It returned to its pool: the last session that it held is over.
    Returned(SessionId),
    /// It takes no more sessions, and ends when those that it holds are over.
    Draining,
    /// It was asked to end.
    Stopped(Why),
    /// It was killed.
    Killed(KillReason),
    /// It was not started: the host has no room for all that was to be launched with it.
    NoRoom,
    /// It has ended.
    Exited(Exit),
    /// A component is to have so many shards.
    Target {
        /// So many were to be ready before.
        before: u32,
        /// So many take sessions.
        ready: u32,
        /// So many are frozen at the most.
        frozen: u32,
    },
    /// A component goes on failing: it is tried again after a while.
    Quarantined(Death),
}

impl fmt::Display for Deed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Deed::Launched(why) => write!(f, "launched: {why}"),
            Deed::Ready { from, took_ns } => {
                write!(f, "ready after {:.2} ms, from tier {from}", *took_ns as f64 / 1e6)
            }
            Deed::Frozen(why) => write!(f, "frozen: {why}"),
            Deed::Thawed(why) => write!(f, "thawed: {why}"),
            Deed::Returned(session) => {
                write!(f, "returned: {session}, the last session that it held, is over")
            }
            Deed::Draining => f.write_str("takes no more sessions: it is drained"),
            Deed::Stopped(why) => write!(f, "asked to end: {why}"),
            Deed::Killed(reason) => write!(f, "killed: it {reason}"),
            Deed::NoRoom => {
                f.write_str("not started: the host has no room for all that was launched together")
            }
            Deed::Exited(how) => how.fmt(f),
            Deed::Target { before, ready, frozen } => {
                write!(f, "target: {ready} ready (was {before}), {frozen} frozen at the most")
            }
            Deed::Quarantined(how) => {
                write!(f, "quarantined: it goes on failing to start, and the last one {how}")
            }
        }
    }
}

/// Something that was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// When.
    pub at_ns: u64,
    /// With which component.
    pub component: ComponentId,
    /// With which shard, if it was one.
    pub shard: Option<ShardId>,
    /// What.
    pub deed: Deed,
}

/// A shard of a session that was composed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Composed {
    /// Which shard.
    pub shard: ShardId,
    /// Of which component.
    pub component: ComponentId,
    /// How warm it was.
    pub tier: Tier,
    /// How many sessions it held already.
    pub shared_with: u32,
    /// When its launch began, or it was thawed; meant for a shard that was not ready.
    pub began_ns: u64,
    /// When it took sessions; for one that was thawed, when the session was ready.
    pub came_ns: u64,
}

/// How a session came by its shards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// Its composition.
    pub composition: CompositionId,
    /// The request that it was made for.
    pub request: RequestId,
    /// When it was asked for.
    pub asked_ns: u64,
    /// When its shards were chosen.
    pub claimed_ns: u64,
    /// When they were told; later than `claimed_ns` if they had to be wired first.
    pub opened_ns: u64,
    /// When all had acknowledged.
    pub ready_ns: u64,
    /// Its shards.
    pub shards: Vec<Composed>,
}

/// A session that was composed, its shards by their number in the ring.
#[derive(Clone, Copy, Debug)]
struct SessionRecord {
    session: SessionId,
    composition: u16,
    request: RequestId,
    times_ns: [u64; 4],
    first: u64,
    count: u16,
}

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Records {
    deeds: VecDeque<Record>,
    sessions: VecDeque<SessionRecord>,
    shards: VecDeque<Composed>,
    /// How many shards were noted before the first that is still there.
    shards_gone: u64,
}

impl Default for Records {
    fn default() -> Self {
        Self {
            deeds: VecDeque::with_capacity(DEEDS_MAX),
            sessions: VecDeque::with_capacity(COMPOSED_MAX),
            shards: VecDeque::with_capacity(COMPOSED_SHARDS_MAX),
            shards_gone: 0,
        }
    }
}

/// Appends to a ring of at most `most` items. True if the oldest had to go.
fn push<T>(ring: &mut VecDeque<T>, most: usize, item: T) -> bool {
    let full = ring.len() == most;
    if full {
        ring.pop_front();
    }
    ring.push_back(item);
    full
}

impl Core {
    /// Notes something of a shard.
    pub(super) fn note(&mut self, at_ns: u64, at: u32, deed: Deed) {
        let (component, shard) = (self.shards.component_id(at), Some(self.shards.get(at).id));
        push(&mut self.records.deeds, DEEDS_MAX, Record { at_ns, component, shard, deed });
    }

    /// Notes the last return of a shard that leaves its pool. Those before it are forgotten: there is one a session.
    pub(super) fn note_return(&mut self, at: u32) {
        if let Some(record) = self.return_of(at) {
            push(&mut self.records.deeds, DEEDS_MAX, record);
            self.shards.get_mut(at).last_session = SessionId::NONE;
        }
    }

    /// The last return of an idle shard, unless it held no session since it came or was thawed.
    fn return_of(&self, at: u32) -> Option<Record> {
        let shard = self.shards.get(at);
        (shard.class == Class::Idle && !shard.last_session.is_none()).then(|| Record {
            at_ns: shard.idle_ns,
            component: self.shards.component_id(at),
            shard: Some(shard.id),
            deed: Deed::Returned(shard.last_session),
        })
    }

    /// Notes something of a component.
    pub(super) fn note_component(&mut self, at_ns: u64, component: u16, deed: Deed) {
        let component = ComponentId(component);
        push(&mut self.records.deeds, DEEDS_MAX, Record { at_ns, component, shard: None, deed });
    }

    /// Notes that a session is ready.
    pub(super) fn note_session(&mut self, ready_ns: u64, session: u32) {
        let s = &self.sessions.table[session as usize];
        let records = &mut self.records;
        let first = records.shards_gone + records.shards.len() as u64;
        let mut count = 0;
        for member in self.sessions.members(session) {
            let shard = self.shards.get(member.shard);
            let (began_ns, came_ns) = match member.tier {
                Tier::Frozen => (shard.thawed_ns, ready_ns),
                _ => (shard.launched_ns, shard.ready_ns),
            };
            let composed = Composed {
                shard: member.id,
                component: ComponentId(shard.component),
                tier: member.tier,
                shared_with: shard.holders.len() as u32 - 1,
                began_ns,
                came_ns,
            };
            records.shards_gone += u64::from(push(&mut records.shards, COMPOSED_SHARDS_MAX, composed));
            count += 1;
        }
        let record = SessionRecord {
            session: SessionId::new(session, s.generation),
            composition: s.ask.composition,
            request: s.ask.request,
            times_ns: [s.ask.arrived_ns, s.claimed_ns, s.opened_ns, ready_ns],
            first,
            count,
        };
        push(&mut records.sessions, COMPOSED_MAX, record);
    }

    /// The last returns of the shards of a component that are idle, the latest last.
    pub fn returns(&self, component: ComponentId) -> impl Iterator<Item = Record> {
        let stock = self.shards.stocks.get(usize::from(component.0));
        let idle = stock.into_iter().flat_map(|stock| stock.idle.iter(&self.shards.table));
        idle.filter_map(|at| self.return_of(at))
    }

    /// What was done, the latest first; the return of a shard with what it was that ended its time in the pool.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.records.deeds.iter().rev()
    }

    /// How a session came by its shards, if it was ready once and is not too long ago.
    pub fn explain(&self, session: SessionId) -> Option<Explanation> {
        let records = &self.records;
        let found = records.sessions.iter().rev().find(|record| record.session == session)?;
        let first = found.first.checked_sub(records.shards_gone)? as usize;
        let [asked_ns, claimed_ns, opened_ns, ready_ns] = found.times_ns;
        Some(Explanation {
            composition: CompositionId(found.composition),
            request: found.request,
            asked_ns,
            claimed_ns,
            opened_ns,
            ready_ns,
            shards: records.shards.range(first..first + usize::from(found.count)).copied().collect(),
        })
    }
}
