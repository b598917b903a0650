//! The wires: a pair of links between two ends, who waits for it, and the tables of links at its ends.
//!
//! Invariants: a wire stands in the table of links of both its ends for as long as it is there; two shards have at
//! most one wire; a slot in a table of links is taken again only after the `Unwire` of the wire that had it.

use super::Core;
use super::cells::CellRef;
use super::event::{Effect, End, WireEnd, WireId};
use super::list::NONE;
use super::refusal::{Death, Loss};
use super::shape::EmbedderCall;
use super::shards::Link;
use super::{LINKS_MAX, WIRE_TRIES_MAX};
use shard_runtime::id::{ComponentId, LinkId, SessionId, ShardId};

/// Who goes on when a wire is up.
#[derive(Clone, Copy, Debug)]
pub(super) enum Waiter {
    /// A cell of a composition.
    Cell(u16, CellRef),
    /// A session that holds its shards already.
    Session(SessionId),
    /// A shard that waits for the embedder.
    Shard(u32),
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Side {
    /// The shard; `NONE` for the embedder.
    pub(super) shard: u32,
    pub(super) link: LinkId,
}

#[derive(Debug)]
pub(super) struct Wire {
    pub(super) generation: u32,
    pub(super) in_use: bool,
    pub(super) up: bool,
    pub(super) sides: [Side; 2],
    pub(super) waiters: Vec<Waiter>,
}

/// All wires.
#[derive(Debug, Default)]
pub(super) struct Wires {
    pub(super) table: Vec<Wire>,
    free: Vec<u32>,
}

impl Wires {
    pub(super) fn count(&self) -> usize {
        self.table.len() - self.free.len()
    }

    pub(super) fn id(&self, at: u32) -> WireId {
        WireId(u64::from(self.table[at as usize].generation) << 32 | u64::from(at))
    }

    fn find(&self, id: WireId) -> Option<u32> {
        let wire = self.table.get(id.0 as u32 as usize)?;
        (wire.in_use && wire.generation == (id.0 >> 32) as u32).then_some(id.0 as u32)
    }

    fn add(&mut self, sides: [Side; 2]) -> u32 {
        let at = self.free.pop().unwrap_or(self.table.len() as u32);
        if at as usize == self.table.len() {
            self.table.push(Wire { generation: 0, in_use: false, up: false, sides, waiters: Vec::new() });
        }
        let wire = &mut self.table[at as usize];
        wire.in_use = true;
        wire.up = false;
        wire.sides = sides;
        wire.generation += 1;
        at
    }

    fn remove(&mut self, at: u32) -> Vec<Waiter> {
        let wire = &mut self.table[at as usize];
        wire.in_use = false;
        // A place whose generations are used up is not used again.
        if wire.generation < u32::MAX {
            self.free.push(at);
        }
        std::mem::take(&mut wire.waiters)
    }
}

impl Core {
    /// The link from `a` to `b`, seen from `a`, up or not.
    pub(super) fn link_between(&self, a: u32, b: u32) -> Option<(LinkId, &Link)> {
        let (of_a, of_b) = (&self.shards.get(a).wires, &self.shards.get(b).wires);
        // The shorter table is searched: a shard that many share has a long one, its partners have not.
        if of_a.len() <= of_b.len() {
            let at = of_a.iter().position(|l| l.peer == b && l.wire != NONE)?;
            return Some((LinkId(at as u16), &of_a[at]));
        }
        let link = of_b.iter().find(|l| l.peer == a && l.wire != NONE)?;
        let sides = &self.wires.table[link.wire as usize].sides;
        let side = if sides[0].shard == a { sides[0] } else { sides[1] };
        Some((side.link, &of_a[usize::from(side.link.0)]))
    }

    /// Whether messages can go between two shards.
    pub(super) fn is_wired(&self, a: u32, b: u32) -> bool {
        self.link_between(a, b).is_some_and(|(_, l)| l.up)
    }

    /// Wires two shards of `set`. If one of them has [`LINKS_MAX`] links, one goes that no session uses and that
    /// does not lead into `set`; `None` if there is none.
    pub(super) fn connect(
        &mut self,
        caller: u32,
        callee: u32,
        set: &[u32],
        effects: &mut Vec<Effect>,
    ) -> Option<u32> {
        assert!(self.link_between(caller, callee).is_none(), "two shards have one wire");
        for shard in [caller, callee] {
            if self.shards.get(shard).wire_count() >= LINKS_MAX {
                let unused = self.unused_wire(shard, set)?;
                self.dissolve_cells_over(unused);
                self.unwire(unused, None, effects);
            }
        }
        let sides = [caller, callee].map(|shard| Side { shard, link: self.take_link(shard) });
        Some(self.add_wire(sides, effects))
    }

    /// Wires a shard that starts to the embedder.
    pub(super) fn connect_embedder(&mut self, shard: u32, call: EmbedderCall, effects: &mut Vec<Effect>) {
        let link = self.shards.get(shard).embedder_link.expect("a link was kept for it when it was launched");
        let embedder = Side { shard: NONE, link };
        let shard_side = Side { shard, link: self.take_link(shard) };
        let sides = match call {
            EmbedderCall::Embedder => [embedder, shard_side],
            EmbedderCall::Component => [shard_side, embedder],
        };
        let wire = self.add_wire(sides, effects);
        self.wires.table[wire as usize].waiters.push(Waiter::Shard(shard));
    }

    pub(super) fn wired(&mut self, now_ns: u64, id: WireId, effects: &mut Vec<Effect>) {
        let Some(at) = self.wires.find(id) else { return };
        let wire = &mut self.wires.table[at as usize];
        if std::mem::replace(&mut wire.up, true) {
            return;
        }
        for side in wire.sides.into_iter().filter(|s| s.shard != NONE) {
            self.shards.get_mut(side.shard).wires[usize::from(side.link.0)].up = true;
        }
        let mut waiters = std::mem::take(&mut self.wires.table[at as usize].waiters);
        for waiter in waiters.drain(..) {
            match waiter {
                Waiter::Cell(composition, cell) => self.cells[usize::from(composition)].wire_is_up(cell),
                Waiter::Session(session) => self.wire_of_session_is_up(now_ns, session, effects),
                Waiter::Shard(shard) => self.usable(now_ns, shard, effects),
            }
        }
        self.wires.table[at as usize].waiters = waiters;
    }

    pub(super) fn wire_failed(&mut self, now_ns: u64, id: WireId, effects: &mut Vec<Effect>) {
        let Some(at) = self.wires.find(id) else { return };
        if self.wires.table[at as usize].up {
            return;
        }
        for side in self.wires.table[at as usize].sides.into_iter().filter(|s| s.shard != NONE) {
            self.give_link_back(side);
        }
        for waiter in self.wires.remove(at) {
            self.give_up_on_wire(now_ns, waiter, effects);
        }
    }

    /// Takes out a wire that a shard says is broken, and ends the sessions that need it. Who says so takes no others, and ends
    /// when those that it has are over: wired again it could say so again, without end. What is wired to the embedder stays:
    /// that one sees for itself.
    pub(super) fn link_broken(
        &mut self,
        now_ns: u64,
        witness: ShardId,
        link: LinkId,
        effects: &mut Vec<Effect>,
    ) {
        let Some(at) = self.shards.find(witness) else { return };
        let Some(&Link { wire, peer, .. }) = self.shards.get(at).wires.get(usize::from(link.0)) else {
            return;
        };
        if wire == NONE || peer == NONE {
            return;
        }
        let loss = Loss::LinkBroken { shard: self.shards.get(peer).id, component: self.name_of(peer) };
        let held = self.shards.get(at).holders.iter().map(|&member| self.sessions.session_of(member));
        let both: Vec<SessionId> = held
            .filter(|&session| self.sessions.members(session).any(|member| member.shard == peer))
            .map(|session| self.sessions.table[session as usize].id(session))
            .collect();
        self.back_off(now_ns, at, Death::AtOdds, effects);
        self.drain(now_ns, witness, u64::MAX, effects);
        self.dissolve_cells_over(wire);
        for waiter in self.unwire(wire, None, effects) {
            self.give_up_on_wire(now_ns, waiter, effects);
        }
        for session in both {
            if let Some(session) = self.sessions.find(session) {
                self.lose(now_ns, session, &loss, effects);
            }
        }
    }

    /// Takes every wire of a shard that is gone out of the tables of its partners.
    pub(super) fn unwire_all(&mut self, now_ns: u64, shard: u32, effects: &mut Vec<Effect>) {
        for slot in 0..self.shards.get(shard).wires.len() {
            let wire = self.shards.get(shard).wires[slot].wire;
            if wire == NONE {
                continue;
            }
            for waiter in self.unwire(wire, Some(shard), effects) {
                self.give_up_on_wire(now_ns, waiter, effects);
            }
        }
    }

    /// The end of a wire that a side stands for.
    pub(super) fn wire_end(&self, side: Side) -> WireEnd {
        let (end, component) = match side.shard {
            NONE => (End::Embedder, self.shape.embedder.unwrap_or(ComponentId(u16::MAX))),
            shard => (End::Shard(self.shards.get(shard).id), self.shards.component_id(shard)),
        };
        WireEnd { end, component, link: side.link }
    }

    fn add_wire(&mut self, sides: [Side; 2], effects: &mut Vec<Effect>) -> u32 {
        let wire = self.wires.add(sides);
        for (side, peer) in [(sides[0], sides[1].shard), (sides[1], sides[0].shard)] {
            if side.shard != NONE {
                self.shards.get_mut(side.shard).wires[usize::from(side.link.0)] =
                    Link { wire, peer, up: false };
            }
        }
        let [caller, callee] = sides.map(|s| self.wire_end(s));
        effects.push(Effect::Wire { wire: self.wires.id(wire), caller, callee });
        wire
    }

    /// Takes a wire out of both tables of links, and tells the ends other than `gone`.
    fn unwire(&mut self, wire: u32, gone: Option<u32>, effects: &mut Vec<Effect>) -> Vec<Waiter> {
        let id = self.wires.id(wire);
        for side in self.wires.table[wire as usize].sides {
            if Some(side.shard) != gone {
                effects.push(Effect::Unwire { wire: id, at: self.wire_end(side) });
            }
            if side.shard != NONE {
                self.give_link_back(side);
            }
        }
        self.wires.remove(wire)
    }

    fn take_link(&mut self, shard: u32) -> LinkId {
        let shard = self.shards.get_mut(shard);
        let at = shard.free_links.pop().unwrap_or(shard.wires.len() as u16);
        if usize::from(at) == shard.wires.len() {
            shard.wires.push(Link { wire: NONE, peer: NONE, up: false });
        }
        LinkId(at)
    }

    fn give_link_back(&mut self, side: Side) {
        let shard = self.shards.get_mut(side.shard);
        shard.wires[usize::from(side.link.0)] = Link { wire: NONE, peer: NONE, up: false };
        shard.free_links.push(side.link.0);
    }

    fn give_up_on_wire(&mut self, now_ns: u64, waiter: Waiter, effects: &mut Vec<Effect>) {
        match waiter {
            Waiter::Cell(composition, cell) => {
                if self.cells[usize::from(composition)].is_there(cell) {
                    self.remove_cell(composition, cell.leaf);
                }
            }
            Waiter::Session(session) => self.wiring_failed(now_ns, session, WIRE_TRIES_MAX, effects),
            Waiter::Shard(shard) => self.embedder_failed(now_ns, shard, effects),
        }
    }

    /// A wire of a shard to another outside `set` that is up and that no session uses.
    fn unused_wire(&self, shard: u32, set: &[u32]) -> Option<u32> {
        let unused = |l: &&Link| {
            l.up && l.peer != NONE && !set.contains(&l.peer) && !self.share_a_session(shard, l.peer)
        };
        self.shards.get(shard).wires().find(unused).map(|l| l.wire)
    }

    fn share_a_session(&self, a: u32, b: u32) -> bool {
        let (few, other) = if self.shards.get(a).holders.len() <= self.shards.get(b).holders.len() {
            (a, b)
        } else {
            (b, a)
        };
        let sessions = self.shards.get(few).holders.iter().map(|&m| self.sessions.session_of(m));
        sessions.into_iter().any(|session| self.sessions.members(session).any(|m| m.shard == other))
    }

    /// Takes out the cells that need a wire which is about to go.
    fn dissolve_cells_over(&mut self, wire: u32) {
        let [a, b] = self.wires.table[wire as usize].sides.map(|s| s.shard);
        // The one in fewer cells has fewer leaves to look at.
        let few = if self.shards.get(a).nodes.len() >= self.shards.get(b).nodes.len() { a } else { b };
        let other = if few == a { b } else { a };
        for node in self.shards.get(few).nodes.clone() {
            let cells = &self.cells[usize::from(node.composition)];
            let mut leaves = Vec::new();
            cells.leaves_below(node.node, &mut leaves);
            leaves.retain(|&leaf| cells.shards_above(leaf).any(|s| s == other));
            for leaf in leaves {
                self.remove_cell(node.composition, leaf);
            }
        }
    }
}
