//! A recount of everything that the core keeps twice. For tests: it costs time in proportion to what there is.

use super::Core;
use super::list::NONE;
use super::sessions::{Hold, SessionState};
use super::shards::{Class, Shard};
use std::collections::BTreeSet;

macro_rules! ensure {
    ($holds:expr, $($what:tt)+) => {
        if !$holds {
            return Err(format!($($what)+));
        }
    };
}

impl Core {
    /// Recounts everything that the core keeps twice.
    ///
    /// # Errors
    /// The first thing that does not agree, in words.
    pub fn check_invariants(&self) -> Result<(), String> {
        self.check_shards()?;
        self.check_stocks()?;
        self.check_sessions()?;
        self.check_wires()?;
        self.check_cells()?;
        self.check_requests()
    }

    /// Checks that everything has come back: no shard, session, request, wire or cell is left.
    ///
    /// # Errors
    /// What is left, in words.
    pub fn check_empty(&self) -> Result<(), String> {
        ensure!(self.shards.is_empty(), "shards are left: {:?}", self.shards().collect::<Vec<_>>());
        ensure!(self.sessions.in_use == 0, "{} sessions are left", self.sessions.in_use);
        ensure!(self.requests.count() == 0, "{} requests are left", self.requests.count());
        ensure!(self.wires.count() == 0, "{} wires are left", self.wires.count());
        ensure!(self.cells.iter().all(|c| c.count() == 0), "cells are left");
        ensure!(self.shards.timers.is_empty(), "timers are left");
        ensure!(self.embedder_links_free.len() == super::LINKS_MAX, "links of the embedder are left");
        Ok(())
    }

    fn check_shards(&self) -> Result<(), String> {
        for (at, shard) in self.shards.iter() {
            let (id, held) = (shard.id, shard.holders.len() as u32);
            ensure!(shard.in_use, "{id:?} is listed and not in use");
            ensure!(held <= shard.capacity, "{id:?} holds {held} sessions of at most {}", shard.capacity);
            let class = match shard.class {
                _ if !shard.takes_sessions() => shard.class,
                _ if held == 0 => Class::Idle,
                _ if held == shard.capacity => Class::Full,
                _ if shard.is_strained() => Class::Strained,
                _ => Class::Open,
            };
            ensure!(shard.class == class, "{id:?} is {:?} with {held} sessions", shard.class);
            ensure!(held > 0 || shard.load_permille == 0, "{id:?} holds nothing and has a load");
            ensure!(shard.takes_sessions() || shard.nodes.is_empty(), "{id:?} is {class:?} and in a cell");
            ensure!(
                shard.takes_sessions() || class == Class::Leaving || held == 0,
                "{id:?} is {class:?} and holds a session"
            );
            for (place, &member) in shard.holders.iter().enumerate() {
                let m = &self.sessions.members[member as usize];
                ensure!(
                    m.shard == at && m.place as usize == place,
                    "{id:?} holds a member that is not its own"
                );
                ensure!(m.hold != Hold::Gone, "{id:?} holds a member that has gone");
            }
        }
        Ok(())
    }

    fn check_stocks(&self) -> Result<(), String> {
        for (component, stock) in (0u16..).zip(&self.shards.stocks) {
            let name = &self.shape.components[usize::from(component)].name;
            let all = || self.shards.iter().map(|(_, s)| s).filter(|s| s.component == component);
            let count = |of: fn(&Shard) -> bool| all().filter(|s| of(s)).count() as u32;
            ensure!(stock.shards.len() == all().count(), "{name}: shards are miscounted");
            ensure!(
                stock.shards.len() as u32 <= self.shape.components[usize::from(component)].max,
                "{name}: too many"
            );
            ensure!(stock.ready == count(|s| s.takes_sessions()), "{name}: ready ones are miscounted");
            ensure!(
                stock.starting.len() == count(|s| s.class == Class::Starting),
                "{name}: starting, miscounted"
            );
            ensure!(
                stock.idle.len() == count(|s| s.class == Class::Idle),
                "{name}: idle ones are miscounted"
            );
            ensure!(
                stock.open.len() == count(|s| matches!(s.class, Class::Open | Class::Strained)),
                "{name}: open ones are miscounted"
            );
            ensure!(
                stock.frozen.len() == count(|s| s.class == Class::Frozen),
                "{name}: frozen ones are miscounted"
            );
            ensure!(
                stock.held as usize == all().map(|s| s.holders.len()).sum::<usize>(),
                "{name}: sessions are miscounted"
            );
            ensure!(stock.room == all().map(|s| s.room()).sum::<u32>(), "{name}: room is miscounted");
            let mut open = stock.open.iter(&self.shards.table).map(|s| self.shards.get(s).class);
            ensure!(open.by_ref().is_sorted(), "{name}: a strained shard is before one that is not");
            let idle: Vec<u64> =
                stock.idle.iter(&self.shards.table).map(|s| self.shards.get(s).idle_ns).collect();
            ensure!(idle.is_sorted(), "{name}: the longest idle is not first");
        }
        Ok(())
    }

    fn check_sessions(&self) -> Result<(), String> {
        let (mut in_use, mut held) = (0, 0);
        for view in self.sessions() {
            let (at, id) = (view.id.index(), view.id);
            let session = &self.sessions.table[at as usize];
            let members: Vec<_> = self.sessions.members(at).collect();
            let holds = |hold: Hold| members.iter().filter(|m| m.hold == hold).count();
            let gone = holds(Hold::Gone);
            let levels = self.shape.compositions[usize::from(session.ask.composition)].levels.len();
            ensure!(members.len() == levels, "{id:?} has {} members of {levels}", members.len());
            ensure!(usize::from(session.held) + gone == levels, "{id:?} miscounts its shards");
            let fits = match session.state {
                SessionState::Wiring => holds(Hold::Reserved) == levels && session.pending > 0,
                SessionState::Opening => {
                    holds(Hold::Opening) == usize::from(session.pending)
                        && holds(Hold::Opening) + holds(Hold::Open) == levels
                        && session.pending > 0
                }
                SessionState::Ready => holds(Hold::Open) == levels,
                SessionState::Closing => {
                    holds(Hold::Closing) == usize::from(session.held) && session.held > 0
                }
            };
            ensure!(fits, "{id:?} is {:?} with {members:?}", session.state);
            for m in members.iter().filter(|m| m.hold != Hold::Gone) {
                let shard = self.shards.get(m.shard);
                ensure!(shard.in_use && shard.id == m.id, "{id:?} holds {:?}, which is gone", m.id);
                ensure!(
                    shard.takes_sessions() || shard.class == Class::Leaving,
                    "{id:?} holds {:?}, which takes no sessions",
                    m.id
                );
            }
            let wired = session.state == SessionState::Wiring || session.state == SessionState::Closing;
            ensure!(wired || self.is_set_wired(session.ask.composition, at), "{id:?} is not wired");
            in_use += 1;
            held += usize::from(session.held);
        }
        ensure!(in_use == self.sessions.in_use, "sessions are miscounted");
        let holders: usize = self.shards.iter().map(|(_, s)| s.holders.len()).sum();
        ensure!(holders == held, "shards hold {holders} sessions, sessions hold {held} shards");
        let count = |state| self.sessions().filter(|s| s.state == state).count() as u32;
        ensure!(
            self.sessions.opening.len() == count(SessionState::Opening),
            "opening sessions are miscounted"
        );
        ensure!(
            self.sessions.closing.len() == count(SessionState::Closing),
            "closing sessions are miscounted"
        );
        Ok(())
    }

    fn is_set_wired(&self, composition: u16, session: u32) -> bool {
        let set: Vec<u32> = self.sessions.members(session).map(|m| m.shard).collect();
        let levels = &self.shape.compositions[usize::from(composition)].levels;
        let partners =
            |l: usize| levels[l].neighbours.iter().map(|n| set[usize::from(n.level)]).collect::<Vec<_>>();
        (0..set.len()).all(|l| partners(l).into_iter().all(|p| self.is_wired(set[l], p)))
    }

    fn check_wires(&self) -> Result<(), String> {
        let mut count = 0;
        for (at, shard) in self.shards.iter() {
            let id = shard.id;
            ensure!(shard.wire_count() == shard.wires().count(), "{id:?} miscounts its links");
            ensure!(shard.wire_count() <= super::LINKS_MAX, "{id:?} has {} links", shard.wire_count());
            let peers: BTreeSet<u32> = shard.wires().map(|l| l.peer).collect();
            ensure!(peers.len() == shard.wire_count(), "{id:?} is wired to an end twice");
            for (slot, link) in shard.wires.iter().enumerate().filter(|(_, l)| l.wire != NONE) {
                let wire = &self.wires.table[link.wire as usize];
                ensure!(wire.in_use && wire.up == link.up, "{id:?} has a link of another wire");
                let own = wire.sides.iter().find(|s| s.shard == at);
                let other = wire.sides.iter().find(|s| s.shard == link.peer);
                ensure!(
                    own.is_some_and(|s| usize::from(s.link.0) == slot),
                    "{id:?} has a link of another slot"
                );
                ensure!(other.is_some(), "{id:?} has a link to another end");
                count += if link.peer == NONE { 2 } else { 1 };
            }
        }
        ensure!(count == self.wires.count() * 2, "wires are miscounted");
        Ok(())
    }

    fn check_cells(&self) -> Result<(), String> {
        for (composition, cells) in (0u16..).zip(&self.cells) {
            cells.audit(|shard| self.shards.get(shard).class)?;
            let levels = &self.shape.compositions[usize::from(composition)].levels;
            for waiting in [false, true] {
                for leaf in cells.leaves(waiting) {
                    let mut set: Vec<u32> = cells.shards_above(leaf).collect();
                    set.reverse();
                    ensure!(set.len() == levels.len(), "a cell has {} shards", set.len());
                    let pairs =
                        levels.iter().zip(&set).flat_map(|(l, &s)| l.neighbours.iter().map(move |n| (s, n)));
                    let mut pairs = pairs.map(|(s, n)| self.is_wired(s, set[usize::from(n.level)]));
                    ensure!(
                        pairs.all(|wired| wired) != waiting,
                        "a cell is {}wired",
                        if waiting { "" } else { "not " }
                    );
                }
            }
            for (level, spare) in self.spare[usize::from(composition)].iter().enumerate() {
                let free = self.shards.iter().filter_map(|(at, _)| {
                    self.free_places(composition, at).filter(|&(l, _)| l == level).map(|(_, free)| (free, at))
                });
                ensure!(
                    free.collect::<BTreeSet<_>>() == *spare,
                    "the shards with places for cells are miscounted"
                );
            }
        }
        Ok(())
    }

    fn check_requests(&self) -> Result<(), String> {
        let queued: u32 = self.requests.queues.iter().map(|q| q.len()).sum();
        ensure!(queued as usize == self.requests.queued, "requests in queues are miscounted");
        let wiring = self.sessions().filter(|s| s.state == SessionState::Wiring).count();
        ensure!(queued as usize + wiring == self.requests.count(), "requests are miscounted");
        // A request waits in its queue only for a component without room, or for links.
        for composition in (0..self.requests.queues.len()).filter(|&c| !self.requests.queues[c].is_empty()) {
            ensure!(!self.cells[composition].any_has_room(), "a request waits while a cell has room");
        }
        Ok(())
    }
}
