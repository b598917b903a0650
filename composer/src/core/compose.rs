//! Composing: which shards a request gets.
//!
//! 1. The best cell with room, straight from the tree. If it would take an idle shard, an open one that has room
//!    and is wired to the rest of the set takes its place.
//! 2. No cell has room: any set that is wired and has room. It becomes a cell.
//! 3. No such set: one is wired from shards that have room, open ones first. The request waits for the wires.
//! 4. A component has no shard with room: the request waits in its queue, and what it lacks is launched as one set, if
//!    there may be one more of each.
//!
//! A *mispack* is a claim that takes an idle shard while another shard of the same component is open, has room and
//! is wired to all partners that the idle one has in the set. There is none: step 1 and 2 end only when no such
//! shard is left, and step 3 takes an idle shard only of a component that has no open one with room to wire.
//!
//! Sessions weigh what they use. A shard whose load says that one session more, as heavy as those that it holds are on
//! the average, would take it beyond `LOAD_LIMIT_PERMILLE` is *strained*: it is taken only where no other open shard
//! fits. Load orders the open ones, no more: a strained shard has room, so it still goes before an idle one.

use super::cells::CellRef;
use super::event::{CompositionId, Effect, RequestId};
use super::list::{List, NONE};
use super::refusal::Refusal;
use super::requests::Ask;
use super::shape::{Level, Neighbour};
use super::shards::{Class, NodeRef};
use super::wires::Waiter;
use super::{CELLS_BEYOND_PLACES_MAX, Core, LINKS_MAX, SEARCH_STEPS_MAX};
use shard_runtime::id::ShardId;

/// How many shards without a wire to the rest of a set are looked at before one of them is wired.
const WIRE_CANDIDATES_MAX: usize = 64;

impl Core {
    pub(super) fn session_requested(
        &mut self,
        now_ns: u64,
        request: RequestId,
        composition: CompositionId,
        deadline_ns: u64,
        effects: &mut Vec<Effect>,
    ) {
        let number = self.requests.next_number();
        let ask = Ask {
            request,
            composition: composition.0,
            arrived_ns: now_ns,
            deadline_ns,
            number,
            opened_in_vain: 0,
        };
        if let Err(reason) = self.admit(ask, effects) {
            effects.push(Effect::RequestFailed { request, reason });
        }
    }

    fn admit(&mut self, ask: Ask, effects: &mut Vec<Effect>) -> Result<(), Refusal> {
        let at = usize::from(ask.composition);
        if self.is_ending() {
            return Err(Refusal::ShuttingDown);
        }
        if at >= self.shape.compositions.len() {
            return Err(Refusal::UnknownComposition(ask.composition));
        }
        if let Some(never) = &self.never[at] {
            return Err(never.clone());
        }
        if self.sessions.is_full() {
            return Err(Refusal::TooManySessions);
        }
        let first_in_line = self.requests.queues[at].is_empty();
        if first_in_line && self.find_set(ask.composition) {
            self.claim_set(ask.arrived_ns, ask, effects);
            return Ok(());
        }
        if first_in_line
            && self.thaw_for(ask.arrived_ns, ask.composition, effects)
            && self.find_set(ask.composition)
        {
            self.claim_set(ask.arrived_ns, ask, effects);
            return Ok(());
        }
        if let Some(reason) = self.quarantine(ask.arrived_ns, ask.composition) {
            return Err(reason);
        }
        if ask.deadline_ns <= ask.arrived_ns {
            if first_in_line && self.missing_component(ask.composition).is_none() {
                self.wire_for_next_time(ask.composition, effects);
            }
            return Err(self.why_not(ask.composition));
        }
        if self.requests.is_full() {
            return Err(Refusal::TooManyWaiting);
        }
        self.requests.add(ask);
        self.count_demand(ask.composition);
        Ok(())
    }

    /// Answers a request that waits with a refusal.
    pub(super) fn refuse(&mut self, now_ns: u64, at: u32, reason: Refusal, effects: &mut Vec<Effect>) {
        let request = self.requests.table[at as usize].ask.request;
        effects.push(Effect::RequestFailed { request, reason });
        let session = self.requests.table[at as usize].session;
        self.requests.remove(at);
        if let Some(session) = session {
            self.forget(now_ns, session, effects);
        }
    }

    /// Serves the requests that wait, in order of arrival. One that cannot be served holds up those for the same
    /// composition and nobody else.
    pub(super) fn serve_waiting(&mut self, now_ns: u64, effects: &mut Vec<Effect>) {
        let mut stuck = std::mem::take(&mut self.stuck);
        stuck.clear();
        stuck.resize(self.shape.compositions.len(), false);
        while self.requests.queued > 0 && !self.sessions.is_full() {
            let heads =
                (0..stuck.len()).filter(|&c| !stuck[c]).filter_map(|c| Some((self.requests.head(c)?, c)));
            let Some(((_, request), composition)) = heads.min() else { break };
            stuck[composition] = !self.serve(now_ns, request, effects);
        }
        self.stuck = stuck;
    }

    /// Refuses the requests whose deadline has come.
    pub(super) fn request_timeouts(&mut self, now_ns: u64, effects: &mut Vec<Effect>) {
        while let Some(&(deadline_ns, at)) = self.requests.deadlines.first() {
            if deadline_ns > now_ns {
                break;
            }
            let reason = self.why_not(self.requests.table[at as usize].ask.composition);
            self.refuse(now_ns, at, reason, effects);
        }
    }

    /// Forms all the cells of a composition that its shards have places for.
    pub(super) fn form_cells(&mut self, composition: u16, effects: &mut Vec<Effect>) {
        loop {
            let mut set = std::mem::take(&mut self.set);
            set.clear();
            set.extend(self.spare[usize::from(composition)].iter().map_while(|s| s.first()).map(|&(_, s)| s));
            let complete = set.len() == self.shape.compositions[usize::from(composition)].levels.len();
            let formed = complete && self.form_cell(composition, &set, effects);
            self.set = set;
            if !formed {
                return;
            }
        }
    }

    /// Takes a cell out of the tree. Its wires stay.
    pub(super) fn remove_cell(&mut self, composition: u16, leaf: u32) {
        let cells = &mut self.cells[usize::from(composition)];
        let mut set = std::mem::take(&mut self.scratch);
        set.clear();
        set.extend(cells.shards_above(leaf));
        set.iter().for_each(|&shard| self.hide_spare(composition, shard));
        let cells = &mut self.cells[usize::from(composition)];
        cells.remove_cell(leaf, |node, shard| {
            self.shards.get_mut(shard).nodes.retain(|n| n.composition != composition || n.node != node);
        });
        set.iter().for_each(|&shard| self.show_spare(composition, shard));
        self.scratch = set;
    }

    /// Takes out every cell that a shard is in.
    pub(super) fn dissolve_cells(&mut self, shard: u32) {
        while let Some(&NodeRef { composition, node }) = self.shards.get(shard).nodes.last() {
            let mut leaves = Vec::new();
            self.cells[usize::from(composition)].leaves_below(node, &mut leaves);
            leaves.into_iter().for_each(|leaf| self.remove_cell(composition, leaf));
        }
    }

    /// Tells the trees what a shard has become.
    pub(super) fn show_class(&mut self, shard: u32, class: Option<Class>) {
        let Some(class) = class else { return };
        for n in &self.shards.get(shard).nodes {
            self.cells[usize::from(n.composition)].set_class(n.node, class);
        }
    }

    /// How much of its time a shard works.
    pub(super) fn load(&mut self, id: ShardId, permille: u32) {
        let Some(at) = self.shards.find(id) else { return };
        let class = self.shards.set_load(at, permille);
        self.show_class(at, class);
    }

    /// Lists a shard among those that have places for cells of a composition.
    pub(super) fn show_spare(&mut self, composition: u16, shard: u32) {
        if let Some((level, free)) = self.free_places(composition, shard) {
            self.spare[usize::from(composition)][level].insert((free, shard));
        }
    }

    pub(super) fn hide_spare(&mut self, composition: u16, shard: u32) {
        if let Some((level, free)) = self.free_places(composition, shard) {
            self.spare[usize::from(composition)][level].remove(&(free, shard));
        }
    }

    /// How many cells more of a composition a shard has places for; `None` for none.
    pub(super) fn free_places(&self, composition: u16, at: u32) -> Option<(usize, u32)> {
        let shard = self.shards.get(at);
        let component = &self.shape.components[usize::from(shard.component)];
        let &(_, level) = component.compositions.iter().find(|(c, _)| *c == composition)?;
        let places = self.shape.compositions[usize::from(composition)].levels[usize::from(level)].places;
        let nodes = shard.nodes.iter().filter(|n| n.composition == composition);
        let taken: u32 = nodes.map(|n| self.cells[usize::from(composition)].cells_below(n.node)).sum();
        (shard.takes_sessions() && taken < places).then(|| (usize::from(level), places - taken))
    }

    /// The first component of a composition that has no shard with room.
    pub(super) fn missing_component(&self, composition: u16) -> Option<u16> {
        let levels = &self.shape.compositions[usize::from(composition)].levels;
        levels.iter().map(|l| l.component).find(|&c| !self.shards.stock(c).has_room())
    }

    fn why_not(&self, composition: u16) -> Refusal {
        let Some(component) = self.missing_component(composition) else {
            return Refusal::NotWired {
                composition: self.shape.compositions[usize::from(composition)].name.clone(),
            };
        };
        if let Some(short) = self.shortage(composition) {
            return short;
        }
        let (shape, stock) = (&self.shape.components[usize::from(component)], self.shards.stock(component));
        Refusal::NoRoom {
            component: shape.name.clone(),
            running: stock.live(),
            max: shape.max,
            failing: stock.last_failure.filter(|_| stock.failures > 0),
        }
    }

    /// Claims shards for a request that waits, or has them wired for it. False if it has to go on waiting.
    fn serve(&mut self, now_ns: u64, request: u32, effects: &mut Vec<Effect>) -> bool {
        let ask = self.requests.table[request as usize].ask;
        if self.find_set(ask.composition) {
            self.requests.remove(request);
            self.claim_set(now_ns, ask, effects);
            return true;
        }
        if self.missing_component(ask.composition).is_some() {
            return false;
        }
        self.choose_set(ask.composition);
        let set = std::mem::take(&mut self.set);
        let wired = self.wire_set(ask.composition, &set, effects);
        if wired {
            let session = self.claim(now_ns, ask, &set);
            self.wait_for_wires(now_ns, session, request, &set, effects);
        }
        self.set = set;
        wired
    }

    /// Opens a session on `self.set`.
    fn claim_set(&mut self, now_ns: u64, ask: Ask, effects: &mut Vec<Effect>) {
        let set = std::mem::take(&mut self.set);
        let session = self.claim(now_ns, ask, &set);
        self.set = set;
        self.open(now_ns, session, effects);
    }

    /// Leaves in `self.set` the shards to take: wired, with room, and no mispack. False if there are none.
    fn find_set(&mut self, composition: u16) -> bool {
        let mut set = std::mem::take(&mut self.set);
        let picked = self.cells[usize::from(composition)].pick(&mut set);
        let found = picked.is_some()
            || self.missing_component(composition).is_none() && self.search_set(composition, &mut set);
        // A set without an idle or a strained shard cannot be improved.
        let improved = found && picked != Some(true) && self.improve(composition, &mut set);
        if improved || found && picked.is_none() {
            self.add_cell(composition, &set, 0);
        }
        self.set = set;
        found
    }

    /// Replaces idle shards by open ones that have room and are wired to the rest, and strained ones by those that are
    /// not, until there are none.
    fn improve(&self, composition: u16, set: &mut [u32]) -> bool {
        let mut improved = false;
        let mut level = 0;
        while level < set.len() {
            let Some(open) = self.open_shard_instead(composition, level, set) else {
                level += 1;
                continue;
            };
            set[level] = open;
            improved = true;
            // Another may fit now that did not fit the one before.
            level = 0;
        }
        improved
    }

    /// A shard with room for `level` that is wired to its partners in the set, and is to be taken before the one that
    /// is there.
    fn open_shard_instead(&self, composition: u16, level: usize, set: &[u32]) -> Option<u32> {
        let now = self.shards.get(set[level]).class;
        if now == Class::Open {
            return None;
        }
        let level = &self.shape.compositions[usize::from(composition)].levels[level];
        let class = |shard: u32| self.shards.get(shard).class;
        let open = &self.shards.stock(level.component).open;
        if open.first().is_none_or(|first| class(first) >= now) {
            return None;
        }
        let partners = || partners(level, set);
        let fits = |&shard: &u32| partners().all(|p| self.is_wired(shard, p));
        // Whoever has the fewest candidates names them: the component, or one of the partners.
        match partners().min_by_key(|&p| self.shards.get(p).wire_count()) {
            Some(p) if self.shards.get(p).wire_count() < open.len() as usize => {
                let is_open =
                    |&s: &u32| s != NONE && self.shards.get(s).component == level.component && class(s) < now;
                let mut strained = None;
                for shard in self.shards.get(p).wires().map(|l| l.peer).filter(is_open).filter(fits) {
                    if class(shard) == Class::Open {
                        return Some(shard);
                    }
                    strained = strained.or(Some(shard));
                }
                strained
            }
            _ => open.iter(&self.shards.table).take_while(|&s| class(s) < now).find(fits),
        }
    }

    /// Looks for a set that is wired and has room, beyond the cells that are known.
    fn search_set(&self, composition: u16, set: &mut Vec<u32>) -> bool {
        let levels = &self.shape.compositions[usize::from(composition)].levels;
        set.clear();
        set.resize(levels.len(), NONE);
        let mut steps = SEARCH_STEPS_MAX;
        self.search_level(composition, set, &mut steps)
    }

    fn search_level(&self, composition: u16, set: &mut [u32], steps: &mut u32) -> bool {
        let levels = &self.shape.compositions[usize::from(composition)].levels;
        // The component with the fewest candidates goes first: it prunes most.
        let open = (0..levels.len()).filter(|&l| set[l] == NONE);
        let Some(level) = open.min_by_key(|&l| self.candidate_count(&levels[l], set)) else { return true };
        for shard in self.candidates(&levels[level], set) {
            *steps = steps.saturating_sub(1);
            if *steps == 0 {
                return false;
            }
            set[level] = shard;
            if self.search_level(composition, set, steps) {
                return true;
            }
            set[level] = NONE;
        }
        false
    }

    /// The shards of a component that have room and are wired to their partners in the set, open ones first.
    fn candidates(&self, level: &Level, set: &[u32]) -> Vec<u32> {
        let partners = || partners(level, set);
        let fits = |&shard: &u32| partners().all(|p| self.is_wired(shard, p));
        let stock = self.shards.stock(level.component);
        let Some(partner) = partners().min_by_key(|&p| self.shards.get(p).wire_count()) else {
            return stock.open.iter(&self.shards.table).chain(stock.idle.iter(&self.shards.table)).collect();
        };
        let peers = self.shards.get(partner).wires().map(|l| l.peer).filter(|&s| s != NONE);
        let usable =
            |&s: &u32| self.shards.get(s).component == level.component && self.shards.get(s).class.has_room();
        let mut candidates: Vec<u32> = peers.filter(usable).filter(fits).collect();
        candidates.sort_by_key(|&s| self.shards.get(s).class);
        candidates
    }

    /// How many shards there are to look at for a component, with some of its partners chosen.
    fn candidate_count(&self, level: &Level, set: &[u32]) -> usize {
        let stock = self.shards.stock(level.component);
        let of_partners = partners(level, set).map(|p| self.shards.get(p).wire_count()).min();
        of_partners.unwrap_or((stock.open.len() + stock.idle.len()) as usize)
    }

    /// Chooses shards with room, wired or not: open ones first, of these the strained last, then those that need the
    /// fewest new wires.
    ///
    /// # Panics
    /// If a component of the composition has no shard with room.
    fn choose_set(&mut self, composition: u16) {
        let levels = &self.shape.compositions[usize::from(composition)].levels;
        let mut set = std::mem::take(&mut self.set);
        set.clear();
        set.resize(levels.len(), NONE);
        for (at, level) in levels.iter().enumerate() {
            let stock = self.shards.stock(level.component);
            let list = if stock.open.is_empty() { &stock.idle } else { &stock.open };
            set[at] = self.least_to_wire(list, level, &set).expect("a component that is not missing");
        }
        self.set = set;
    }

    /// The shard of a list that needs the fewest new wires to those already in the set; the fullest of these. Whoever
    /// needs fewer than the others is wired to one in the set already, so the rest of the list need not be looked at.
    fn least_to_wire(&self, list: &List, level: &Level, set: &[u32]) -> Option<u32> {
        let class = self.shards.get(list.first()?).class;
        let listed = |&s: &u32| {
            s != NONE && self.shards.get(s).component == level.component && self.shards.get(s).class == class
        };
        let peers = partners(level, set).flat_map(|p| self.shards.get(p).wires().map(|l| l.peer));
        let front = list.iter(&self.shards.table).take(WIRE_CANDIDATES_MAX);
        let missing =
            |shard: u32| partners(level, set).filter(|&p| self.link_between(shard, p).is_none()).count();
        peers
            .filter(listed)
            .chain(front)
            .min_by_key(|&s| (self.shards.get(s).class, missing(s), self.shards.get(s).room()))
    }

    /// Makes the wires that a set lacks, and a cell of it. False if a shard has no link left.
    fn wire_set(&mut self, composition: u16, set: &[u32], effects: &mut Vec<Effect>) -> bool {
        for at in 0..set.len() {
            for n in 0..self.shape.compositions[usize::from(composition)].levels[at].neighbours.len() {
                let Neighbour { level, calls } =
                    self.shape.compositions[usize::from(composition)].levels[at].neighbours[n];
                let (caller, callee) = (set[at], set[usize::from(level)]);
                let missing = calls && self.link_between(caller, callee).is_none();
                if missing && self.connect(caller, callee, set, effects).is_none() {
                    return false;
                }
            }
        }
        let missing = self.wires_missing(composition, set).count() as u32;
        if let Some(cell) = self.add_cell(composition, set, missing) {
            let wires: Vec<u32> = self.wires_missing(composition, set).collect();
            for wire in wires {
                self.wires.table[wire as usize].waiters.push(Waiter::Cell(composition, cell));
            }
        }
        true
    }

    /// The wires between the shards of a set that are not up yet.
    fn wires_missing(&self, composition: u16, set: &[u32]) -> impl Iterator<Item = u32> {
        let levels = &self.shape.compositions[usize::from(composition)].levels;
        let calls = levels.iter().zip(set).flat_map(|(l, &s)| l.neighbours.iter().map(move |n| (s, n)));
        let pairs = calls.filter(|(_, n)| n.calls).map(|(s, n)| (s, set[usize::from(n.level)]));
        pairs.filter_map(|(a, b)| self.link_between(a, b)).filter(|(_, l)| !l.up).map(|(_, l)| l.wire)
    }

    /// Lets a session, and the request that it is for, wait for the wires between its shards.
    fn wait_for_wires(
        &mut self,
        now_ns: u64,
        session: u32,
        request: u32,
        set: &[u32],
        effects: &mut Vec<Effect>,
    ) {
        let record = &self.sessions.table[session as usize];
        let id = shard_runtime::id::SessionId::new(session, record.generation);
        let wires: Vec<u32> = self.wires_missing(record.ask.composition, set).collect();
        if wires.is_empty() {
            // The search had gone on for SEARCH_STEPS_MAX before it came to this set.
            self.requests.remove(request);
            return self.open(now_ns, session, effects);
        }
        for &wire in &wires {
            self.wires.table[wire as usize].waiters.push(Waiter::Session(id));
        }
        let record = &mut self.sessions.table[session as usize];
        record.pending = wires.len() as u16;
        record.waiting = request;
        self.requests.leave_queue(request, session);
    }

    /// Nobody waits, but the next request is to find a cell.
    fn wire_for_next_time(&mut self, composition: u16, effects: &mut Vec<Effect>) {
        self.choose_set(composition);
        let set = std::mem::take(&mut self.set);
        self.wire_set(composition, &set, effects);
        self.set = set;
    }

    /// Makes a cell ahead of time. It never takes a wire away from another.
    fn form_cell(&mut self, composition: u16, set: &[u32], effects: &mut Vec<Effect>) -> bool {
        let levels = &self.shape.compositions[usize::from(composition)].levels;
        let has_links = set.iter().zip(levels).all(|(&shard, level)| {
            let missing = partners(level, set).filter(|&p| self.link_between(shard, p).is_none()).count();
            self.shards.get(shard).wire_count() + missing <= LINKS_MAX
        });
        has_links && self.wire_set(composition, set, effects)
    }

    /// Adds a cell to the tree, unless it is there.
    fn add_cell(&mut self, composition: u16, set: &[u32], missing: u32) -> Option<CellRef> {
        set.iter().for_each(|&shard| self.hide_spare(composition, shard));
        let cells = &mut self.cells[usize::from(composition)];
        let mut parent = None;
        let mut new = false;
        for &at in set {
            let shard = self.shards.get_mut(at);
            let known =
                shard.nodes.iter().find(|n| n.composition == composition && cells.is_child(n.node, parent));
            let node = match known {
                Some(n) => n.node,
                None => {
                    let node = cells.add_node(parent, at, shard.class);
                    shard.nodes.push(NodeRef { composition, node });
                    new = true;
                    node
                }
            };
            parent = Some(node);
        }
        let cell = new.then(|| cells.add_cell(parent.expect("a composition has a component"), missing));
        set.iter().for_each(|&shard| self.show_spare(composition, shard));
        for (level, &shard) in set.iter().enumerate() {
            self.bound_nodes(composition, level, shard, set);
        }
        cell
    }

    /// Takes out the oldest cells of a shard that has come to be in too many. It costs nothing but the search for
    /// that set the next time.
    fn bound_nodes(&mut self, composition: u16, level: usize, shard: u32, keep: &[u32]) {
        let places = self.shape.compositions[usize::from(composition)].levels[level].places;
        let nodes = || self.shards.get(shard).nodes.iter().filter(|n| n.composition == composition);
        if nodes().count() <= (places + CELLS_BEYOND_PLACES_MAX) as usize {
            return;
        }
        let cells = &self.cells[usize::from(composition)];
        let mut leaves = Vec::new();
        let oldest = nodes().next().expect("they were counted").node;
        cells.leaves_below(oldest, &mut leaves);
        leaves.retain(|&leaf| !cells.shards_above(leaf).all(|s| keep.contains(&s)));
        leaves.into_iter().for_each(|leaf| self.remove_cell(composition, leaf));
    }
}

/// The shards of a set that `level` has wires to, those that are chosen already.
fn partners<'a>(level: &'a Level, set: &'a [u32]) -> impl Iterator<Item = u32> + 'a {
    level.neighbours.iter().map(|n| set[usize::from(n.level)]).filter(|&p| p != NONE)
}
