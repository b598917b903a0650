//! The sessions: from the claim, over the acknowledgements, to the last shard that has let go.
//!
//! ```text
//! Wiring ──▶ Opening ──▶ Ready ──▶ Closing ──▶ gone
//!    │          └────────────────────▲
//!    └──▶ back to the queue: nothing was opened yet
//! ```
//!
//! Invariants: a session holds a place on each of its shards from its first phase on, and gives a place back only
//! when that shard has said that nothing of the session is left there, or has ended. An id is never used again.

use super::event::{Effect, KillReason, Route, Tier, Tiers};
use super::list::{Linked, Links, List, NONE};
use super::refusal::{Loss, Refusal};
use super::requests::Ask;
use super::{CLOSE_TIMEOUT_MS, Core, End, NS_PER_MS, OPEN_TIMEOUT_MS, OPEN_TRIES_MAX, SESSIONS_MAX};
use shard_runtime::id::{ComponentId, LinkId, SessionId, ShardId};

/// Where a session is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionState {
    /// Its shards are chosen; some are still being wired to each other.
    Wiring,
    /// Its shards were told; not all have acknowledged.
    Opening,
    /// Messages may flow.
    Ready,
    /// It has ended; not all of its shards have let go.
    Closing,
}

/// The place of a session on one shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hold {
    /// The shard does not know of it yet.
    Reserved,
    Opening,
    Open,
    Closing,
    /// Given back.
    Gone,
}

#[derive(Debug)]
pub(super) struct Member {
    pub(super) shard: u32,
    pub(super) id: ShardId,
    pub(super) session: u32,
    /// Its position among the shard's holders.
    pub(super) place: u32,
    pub(super) hold: Hold,
    /// How warm the shard was.
    pub(super) tier: Tier,
}

#[derive(Debug)]
pub(super) struct Session {
    pub(super) generation: u32,
    pub(super) in_use: bool,
    pub(super) state: SessionState,
    /// How many of its shards still hold it.
    pub(super) held: u16,
    /// What it waits for: wires while it is wiring, acknowledgements while it opens.
    pub(super) pending: u16,
    pub(super) tiers: Tiers,
    /// Its members are `members[first..first + levels]`.
    pub(super) first: u32,
    /// What it was made for.
    pub(super) ask: Ask,
    pub(super) claimed_ns: u64,
    pub(super) opened_ns: u64,
    /// Its request in the table of requests, while it is wiring.
    pub(super) waiting: u32,
    pub(super) since_ns: u64,
    links: Links,
}

impl Session {
    pub(super) fn id(&self, at: u32) -> SessionId {
        SessionId::new(at, self.generation)
    }
}

impl Linked for Session {
    fn links(&self) -> &Links {
        &self.links
    }
    fn links_mut(&mut self) -> &mut Links {
        &mut self.links
    }
}

/// All sessions.
#[derive(Debug)]
pub(super) struct Sessions {
    pub(super) table: Vec<Session>,
    pub(super) members: Vec<Member>,
    /// Those that open, and those that close, the oldest first: their time-outs need no timers.
    pub(super) opening: List,
    pub(super) closing: List,
    pub(super) in_use: usize,
    free: Vec<u32>,
    /// `free_blocks[levels]`: where members of that many can go.
    free_blocks: Vec<Vec<u32>>,
}

impl Sessions {
    pub(super) fn new(levels_max: usize) -> Self {
        Self {
            table: Vec::new(),
            members: Vec::new(),
            opening: List::EMPTY,
            closing: List::EMPTY,
            in_use: 0,
            free: Vec::new(),
            free_blocks: vec![Vec::new(); levels_max + 1],
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.free.is_empty() && self.table.len() >= SESSIONS_MAX
    }

    pub(super) fn find(&self, id: SessionId) -> Option<u32> {
        let session = self.table.get(id.index() as usize)?;
        (session.in_use && session.generation == id.generation()).then_some(id.index())
    }

    /// The session that a member belongs to.
    pub(super) fn session_of(&self, member: u32) -> u32 {
        self.members[member as usize].session
    }

    /// The positions of a session's members.
    pub(super) fn places(&self, session: u32, levels: usize) -> std::ops::Range<u32> {
        let first = self.table[session as usize].first;
        first..first + levels as u32
    }

    /// The members of a session.
    pub(super) fn members(&self, session: u32) -> impl Iterator<Item = &Member> {
        let first = self.table[session as usize].first as usize;
        self.members[first..].iter().take_while(move |m| m.session == session)
    }

    fn add(&mut self, levels: usize, ask: Ask, now_ns: u64) -> u32 {
        let at = self.free.pop().unwrap_or(self.table.len() as u32);
        let first = self.free_blocks[levels].pop().unwrap_or_else(|| self.push_block(levels));
        let generation = self.table.get(at as usize).map_or(0, |s| s.generation) + 1;
        let session = Session {
            generation,
            in_use: true,
            state: SessionState::Wiring,
            held: 0,
            pending: 0,
            tiers: Tiers::default(),
            first,
            ask,
            claimed_ns: now_ns,
            opened_ns: now_ns,
            waiting: NONE,
            since_ns: now_ns,
            links: Links::ALONE,
        };
        match self.table.get_mut(at as usize) {
            Some(old) => *old = session,
            None => self.table.push(session),
        }
        self.in_use += 1;
        at
    }

    fn push_block(&mut self, levels: usize) -> u32 {
        let first = self.members.len() as u32;
        let empty = || Member {
            shard: NONE,
            id: ShardId(NONE),
            session: NONE,
            place: 0,
            hold: Hold::Gone,
            tier: Tier::Ready,
        };
        self.members.extend((0..levels).map(|_| empty()));
        first
    }

    fn remove(&mut self, at: u32, levels: usize) {
        for place in self.places(at, levels) {
            self.members[place as usize].session = NONE;
        }
        let session = &mut self.table[at as usize];
        session.in_use = false;
        self.free_blocks[levels].push(session.first);
        // A slot whose generations are used up is not used again.
        if session.generation < u32::MAX {
            self.free.push(at);
        }
        self.in_use -= 1;
    }

    fn set_state(&mut self, at: u32, state: SessionState, now_ns: u64) {
        let session = &mut self.table[at as usize];
        session.since_ns = now_ns;
        match std::mem::replace(&mut session.state, state) {
            SessionState::Opening => self.opening.remove(&mut self.table, at),
            SessionState::Closing => self.closing.remove(&mut self.table, at),
            SessionState::Wiring | SessionState::Ready => {}
        }
        match state {
            SessionState::Opening => self.opening.push_last(&mut self.table, at),
            SessionState::Closing => self.closing.push_last(&mut self.table, at),
            SessionState::Wiring | SessionState::Ready => {}
        }
    }

    /// When the oldest session that opens or closes has taken too long.
    pub(super) fn next_deadline(&self) -> Option<u64> {
        let after = |list: &List, timeout_ms: u64| {
            list.first().map(|at| self.table[at as usize].since_ns.saturating_add(timeout_ms * NS_PER_MS))
        };
        let opening = after(&self.opening, OPEN_TIMEOUT_MS);
        opening.into_iter().chain(after(&self.closing, CLOSE_TIMEOUT_MS)).min()
    }
}

impl Core {
    /// Takes a place on every shard of `set` for a new session, which nobody is told of yet.
    pub(super) fn claim(&mut self, now_ns: u64, ask: Ask, set: &[u32]) -> u32 {
        let session = self.sessions.add(set.len(), ask, now_ns);
        let places = self.sessions.places(session, set.len());
        let mut tiers = Tiers::default();
        for (member, &shard) in places.zip(set) {
            let (place, class) = self.shards.hold(shard, member);
            self.show_class(shard, class);
            let (id, tier) = (self.shards.get(shard).id, self.shards.get(shard).tier(ask.arrived_ns));
            tiers.add(tier);
            self.sessions.members[member as usize] =
                Member { shard, id, session, place, hold: Hold::Reserved, tier };
        }
        let record = &mut self.sessions.table[session as usize];
        record.held = set.len() as u16;
        record.tiers = tiers;
        session
    }

    /// Tells every shard of a session.
    pub(super) fn open(&mut self, now_ns: u64, session: u32, effects: &mut Vec<Effect>) {
        let record = &mut self.sessions.table[session as usize];
        record.pending = record.held;
        record.opened_ns = now_ns;
        let id = record.id(session);
        self.sessions.set_state(session, SessionState::Opening, now_ns);
        for member in self.members_of(session) {
            let member = &mut self.sessions.members[member as usize];
            member.hold = Hold::Opening;
            effects.push(Effect::Open { session: id, shard: member.id });
        }
    }

    pub(super) fn opened(&mut self, now_ns: u64, id: SessionId, shard: ShardId, effects: &mut Vec<Effect>) {
        let Some((session, member)) = self.find_member(id, shard) else { return };
        let member = &mut self.sessions.members[member as usize];
        if member.hold != Hold::Opening {
            return;
        }
        member.hold = Hold::Open;
        let record = &mut self.sessions.table[session as usize];
        record.pending -= 1;
        if record.pending == 0 {
            let Session { ask: Ask { request, .. }, tiers, .. } = *record;
            self.sessions.set_state(session, SessionState::Ready, now_ns);
            self.count_thaws(now_ns, session);
            self.note_session(now_ns, session);
            effects.push(Effect::SessionReady { request, session: id, tiers });
        }
    }

    /// What it took from a thaw until the shard had acknowledged.
    fn count_thaws(&mut self, now_ns: u64, session: u32) {
        for member in self.members_of(session) {
            let Member { shard, tier, .. } = self.sessions.members[member as usize];
            if tier == Tier::Frozen {
                let (component, thawed_ns) =
                    (self.shards.get(shard).component, self.shards.get(shard).thawed_ns);
                let cost = &mut self.shards.stock_mut(component).costs[Tier::Frozen as usize];
                cost.add(now_ns.saturating_sub(thawed_ns));
            }
        }
    }

    pub(super) fn open_refused(
        &mut self,
        now_ns: u64,
        id: SessionId,
        shard: ShardId,
        effects: &mut Vec<Effect>,
    ) {
        let Some((session, member)) = self.find_member(id, shard) else { return };
        // A session that closes already has had its answer: this shard holds nothing of it, that is all.
        let hold = self.sessions.members[member as usize].hold;
        if !matches!(hold, Hold::Opening | Hold::Closing) {
            return;
        }
        self.give_back(now_ns, member, effects);
        if hold == Hold::Opening {
            let component = self.name_of(self.sessions.members[member as usize].shard);
            let Session { ask: Ask { request, .. }, .. } = self.sessions.table[session as usize];
            effects.push(Effect::RequestFailed { request, reason: Refusal::Refused { shard, component } });
            self.close(now_ns, session, effects);
        }
        self.drop_if_empty(session, effects);
    }

    pub(super) fn session_ended(&mut self, now_ns: u64, id: SessionId, effects: &mut Vec<Effect>) {
        let Some(session) = self.sessions.find(id) else { return };
        if self.sessions.table[session as usize].state == SessionState::Ready {
            self.close(now_ns, session, effects);
        }
    }

    pub(super) fn session_idle(&mut self, now_ns: u64, id: SessionId, effects: &mut Vec<Effect>) {
        let Some(session) = self.sessions.find(id) else { return };
        if self.sessions.table[session as usize].state == SessionState::Ready {
            self.lose(now_ns, session, &Loss::Idle, effects);
        }
    }

    pub(super) fn closed(&mut self, now_ns: u64, id: SessionId, shard: ShardId, effects: &mut Vec<Effect>) {
        let Some((session, member)) = self.find_member(id, shard) else { return };
        if self.sessions.members[member as usize].hold == Hold::Closing {
            self.give_back(now_ns, member, effects);
            self.drop_if_empty(session, effects);
        }
    }

    /// Ends every session of a shard that is lost.
    pub(super) fn lose_sessions(&mut self, now_ns: u64, shard: u32, loss: &Loss, effects: &mut Vec<Effect>) {
        while let Some(&member) = self.shards.get(shard).holders.last() {
            let session = self.sessions.session_of(member);
            self.give_back(now_ns, member, effects);
            self.lose(now_ns, session, loss, effects);
            self.drop_if_empty(session, effects);
        }
    }

    /// Ends a session for a reason that is not its user's. One that was still being opened is composed again, from other
    /// shards, if there is time.
    pub(super) fn lose(&mut self, now_ns: u64, session: u32, loss: &Loss, effects: &mut Vec<Effect>) {
        let record = &self.sessions.table[session as usize];
        let ask = record.ask;
        match record.state {
            SessionState::Wiring => return self.back_to_queue(now_ns, session, effects),
            SessionState::Opening if self.may_try_again(now_ns, ask) => {
                self.requests.add(Ask { opened_in_vain: ask.opened_in_vain + 1, ..ask });
            }
            SessionState::Opening => {
                let request = ask.request;
                effects.push(Effect::RequestFailed { request, reason: Refusal::Lost(loss.clone()) });
            }
            SessionState::Ready => {
                effects.push(Effect::SessionLost { session: record.id(session), reason: loss.clone() });
            }
            SessionState::Closing => return,
        }
        self.close(now_ns, session, effects);
    }

    fn may_try_again(&self, now_ns: u64, ask: Ask) -> bool {
        self.is_running()
            && ask.deadline_ns > now_ns
            && ask.opened_in_vain < OPEN_TRIES_MAX
            && !self.requests.is_full()
    }

    /// One of the wires that a session waits for is up.
    pub(super) fn wire_of_session_is_up(&mut self, now_ns: u64, id: SessionId, effects: &mut Vec<Effect>) {
        let Some(session) = self.sessions.find(id) else { return };
        let record = &mut self.sessions.table[session as usize];
        if record.state != SessionState::Wiring {
            return;
        }
        record.pending -= 1;
        if record.pending == 0 {
            let waiting = std::mem::replace(&mut record.waiting, NONE);
            self.requests.remove(waiting);
            self.open(now_ns, session, effects);
        }
    }

    /// One of the wires that a session waits for cannot be made.
    pub(super) fn wiring_failed(
        &mut self,
        now_ns: u64,
        id: SessionId,
        tries_max: u8,
        effects: &mut Vec<Effect>,
    ) {
        let Some(session) = self.sessions.find(id) else { return };
        let Session { state, waiting, ask: Ask { composition, request, .. }, .. } =
            self.sessions.table[session as usize];
        if state != SessionState::Wiring {
            return;
        }
        if self.requests.count_failed_try(waiting) < tries_max {
            return self.back_to_queue(now_ns, session, effects);
        }
        let composition = self.shape.compositions[usize::from(composition)].name.clone();
        effects.push(Effect::RequestFailed { request, reason: Refusal::WiringFailed { composition } });
        self.requests.remove(waiting);
        self.forget(now_ns, session, effects);
    }

    /// Takes the places of a session back that no shard was told of.
    pub(super) fn forget(&mut self, now_ns: u64, session: u32, effects: &mut Vec<Effect>) {
        for member in self.members_of(session) {
            if self.sessions.members[member as usize].hold == Hold::Reserved {
                self.give_back(now_ns, member, effects);
            }
        }
        let levels = self.levels_of(session);
        self.sessions.remove(session, levels);
    }

    /// Ends what shards should have answered long ago.
    pub(super) fn session_timeouts(&mut self, now_ns: u64, effects: &mut Vec<Effect>) {
        let overdue = |list: &List, sessions: &Sessions, timeout_ms: u64| {
            let at = list.first()?;
            let since_ns = sessions.table[at as usize].since_ns;
            (since_ns.saturating_add(timeout_ms * NS_PER_MS) <= now_ns).then_some(at)
        };
        while let Some(at) = overdue(&self.sessions.opening, &self.sessions, OPEN_TIMEOUT_MS) {
            self.kill_silent(now_ns, at, Hold::Opening, KillReason::OpenTimeout, effects);
        }
        while let Some(at) = overdue(&self.sessions.closing, &self.sessions, CLOSE_TIMEOUT_MS) {
            self.kill_silent(now_ns, at, Hold::Closing, KillReason::CloseTimeout, effects);
        }
    }

    /// Kills the shards of a session that have not answered. The session leaves its list with that.
    fn kill_silent(
        &mut self,
        now_ns: u64,
        session: u32,
        hold: Hold,
        reason: KillReason,
        effects: &mut Vec<Effect>,
    ) {
        let id = self.sessions.table[session as usize].id(session);
        for member in self.members_of(session) {
            // The first kill may have ended the session, and its members with it.
            if self.sessions.find(id).is_none() {
                return;
            }
            let Member { shard, hold: now, .. } = self.sessions.members[member as usize];
            if now == hold {
                self.kill(now_ns, shard, reason, effects);
            }
        }
    }

    /// The partners of a shard within a session: those that it calls, those that call it, and the embedder if one
    /// of the two calls the other. Empty if the shard is not in the session.
    pub fn routes(&self, session: SessionId, shard: ShardId) -> impl Iterator<Item = Route> {
        let found = self.find_member(session, shard);
        found.into_iter().flat_map(move |(session, member)| {
            let record = &self.sessions.table[session as usize];
            let own = self.sessions.members[member as usize].shard;
            let levels = &self.shape.compositions[usize::from(record.ask.composition)].levels;
            let neighbours = &levels[(member - record.first) as usize].neighbours;
            let shards = neighbours.iter().filter_map(move |n| {
                let partner = &self.sessions.members[record.first as usize + usize::from(n.level)];
                let (link, _) = self.link_between(own, partner.shard)?;
                let component = ComponentId(levels[usize::from(n.level)].component);
                Some(Route { component, end: End::Shard(partner.id), link })
            });
            shards.chain(self.route_to_embedder(own))
        })
    }

    /// The shards of a session that the embedder is wired to. The links are slots in the embedder's own table.
    pub fn embedder_routes(&self, session: SessionId) -> impl Iterator<Item = Route> {
        let members = self.sessions.find(session).into_iter().flat_map(|at| self.sessions.members(at));
        members.filter_map(|m| {
            let link = self.shards.get(m.shard).embedder_link?;
            Some(Route { component: self.shards.component_id(m.shard), end: End::Shard(m.id), link })
        })
    }

    fn route_to_embedder(&self, shard: u32) -> Option<Route> {
        let component = self.shape.embedder?;
        let wires = &self.shards.get(shard).wires;
        let at = wires.iter().position(|l| l.wire != NONE && l.peer == NONE)?;
        Some(Route { component, end: End::Embedder, link: LinkId(at as u16) })
    }

    /// Has every shard that holds a session let go of it.
    fn close(&mut self, now_ns: u64, session: u32, effects: &mut Vec<Effect>) {
        let id = self.sessions.table[session as usize].id(session);
        self.sessions.set_state(session, SessionState::Closing, now_ns);
        for member in self.members_of(session) {
            let member = &mut self.sessions.members[member as usize];
            if matches!(member.hold, Hold::Opening | Hold::Open) {
                member.hold = Hold::Closing;
                effects.push(Effect::Close { session: id, shard: member.id });
            }
        }
    }

    /// Frees the place that a member has on its shard.
    fn give_back(&mut self, now_ns: u64, member: u32, effects: &mut Vec<Effect>) {
        let record = &mut self.sessions.members[member as usize];
        record.hold = Hold::Gone;
        let Member { shard, place, session, .. } = *record;
        self.sessions.table[session as usize].held -= 1;
        let (moved, class) = self.shards.release(shard, place, now_ns);
        if let Some(moved) = moved {
            self.sessions.members[moved as usize].place = place;
        }
        self.show_class(shard, class);
        self.place_came_back(self.shards.get(shard).component);
        if self.shards.get(shard).holders.is_empty() {
            let id = self.sessions.table[session as usize].id(session);
            self.emptied(now_ns, shard, id, effects);
        }
    }

    /// Frees the slot of a session that no shard holds any more.
    fn drop_if_empty(&mut self, session: u32, effects: &mut Vec<Effect>) {
        let record = &self.sessions.table[session as usize];
        if record.state == SessionState::Closing && record.in_use && record.held == 0 {
            effects.push(Effect::SessionClosed { session: record.id(session) });
            self.sessions.closing.remove(&mut self.sessions.table, session);
            let levels = self.levels_of(session);
            self.sessions.remove(session, levels);
        }
    }

    /// Puts the request of a session back into the queue: nobody was told of the session yet.
    fn back_to_queue(&mut self, now_ns: u64, session: u32, effects: &mut Vec<Effect>) {
        let waiting = self.sessions.table[session as usize].waiting;
        self.forget(now_ns, session, effects);
        self.requests.back_to_queue(waiting);
    }

    fn find_member(&self, id: SessionId, shard: ShardId) -> Option<(u32, u32)> {
        let session = self.sessions.find(id)?;
        let mut members = self.members_of(session);
        members.find(|&m| self.sessions.members[m as usize].id == shard).map(|member| (session, member))
    }

    fn members_of(&self, session: u32) -> std::ops::Range<u32> {
        self.sessions.places(session, self.levels_of(session))
    }

    fn levels_of(&self, session: u32) -> usize {
        let composition = self.sessions.table[session as usize].ask.composition;
        self.shape.compositions[usize::from(composition)].levels.len()
    }
}
