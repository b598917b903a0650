//! The table of shards, and what each component has of them.
//!
//! Invariants: a shard that takes sessions is in its component's list of idle shards when it holds none, in the
//! list of open ones when it has room, in neither when it is full. `room` counts the free places of them all. Among
//! the open ones those that are strained come last.

use super::event::{KillReason, Tier};
use super::list::{Linked, Links, List, NONE};
use super::refusal::Death;
use super::shape::Shape;
use super::{LOAD_FULL_PERMILLE, LOAD_LIMIT_PERMILLE};
use shard_runtime::id::{ComponentId, LinkId, SessionId, ShardId};
use std::collections::{BTreeMap, BTreeSet};

/// What a shard means to the next session: those with room first, in the order in which they are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Class {
    /// It holds sessions and has room.
    Open = 0,
    /// It holds sessions and has places, but works so much for them that one more would be too much for it.
    Strained,
    /// It takes sessions and holds none.
    Idle,
    /// It has no room.
    Full,
    /// It takes no sessions yet: it starts.
    Starting,
    /// It takes no sessions until it is thawed.
    Frozen,
    /// It takes no more sessions, and ends when those that it holds are over.
    Leaving,
    /// It takes no sessions any more: it ends.
    Ending,
}

impl Class {
    pub(super) fn has_room(self) -> bool {
        self <= Class::Idle
    }
}

/// Where a shard is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShardState {
    /// Its process starts up, or is being wired to the embedder.
    Launching,
    /// It takes sessions.
    Ready,
    /// It has its memory and no processor, until it is needed.
    Frozen,
    /// It takes no more sessions; it was asked to end, or killed.
    Draining,
}

/// A wire as one of its ends sees it. Its position in the end's list is its [`LinkId`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    /// The wire's place in the table of wires; `NONE` for a slot that is free.
    pub(super) wire: u32,
    /// The shard at the other end; `NONE` for the embedder.
    pub(super) peer: u32,
    pub(super) up: bool,
}

/// A place of a shard in a tree of cells.
#[derive(Clone, Copy, Debug)]
pub(super) struct NodeRef {
    pub(super) composition: u16,
    pub(super) node: u32,
}

#[derive(Debug)]
pub(super) struct Shard {
    pub(super) id: ShardId,
    pub(super) component: u16,
    pub(super) class: Class,
    pub(super) in_use: bool,
    pub(super) capacity: u32,
    pub(super) launched_ns: u64,
    /// When it came into its state.
    pub(super) since_ns: u64,
    /// When it last became idle.
    pub(super) idle_ns: u64,
    /// The members (see `sessions`) that hold it.
    pub(super) holders: Vec<u32>,
    pub(super) nodes: Vec<NodeRef>,
    pub(super) wires: Vec<Link>,
    pub(super) free_links: Vec<u16>,
    /// Its slot in the embedder's table of links, if it has a wire to there.
    pub(super) embedder_link: Option<LinkId>,
    pub(super) killed: Option<KillReason>,
    /// The composition that it was launched for, if it was for one.
    pub(super) wanted_by: Option<u16>,
    pub(super) timer_ns: u64,
    pub(super) pid: u32,
    /// How it came into being, and when.
    pub(super) from: Tier,
    pub(super) ready_ns: u64,
    /// When it was thawed last; 0 if never.
    pub(super) thawed_ns: u64,
    /// Whether it has held a session.
    pub(super) used: bool,
    /// The last session that it held, once it is idle.
    pub(super) last_session: SessionId,
    /// How much of its time it worked when that was last reported, in thousandths …
    pub(super) load_permille: u32,
    /// … and for how many sessions. It counts until the shard is idle.
    load_sessions: u32,
    at_component: u32,
    links: Links,
}

impl Shard {
    /// How warm it was for whoever asked at `asked_ns`.
    pub(super) fn tier(&self, asked_ns: u64) -> Tier {
        match self {
            _ if self.ready_ns > asked_ns => self.from,
            _ if self.thawed_ns != 0 && self.thawed_ns >= asked_ns => Tier::Frozen,
            _ => Tier::Ready,
        }
    }

    pub(super) fn state(&self) -> ShardState {
        match self.class {
            Class::Starting => ShardState::Launching,
            Class::Frozen => ShardState::Frozen,
            Class::Leaving | Class::Ending => ShardState::Draining,
            _ => ShardState::Ready,
        }
    }

    pub(super) fn takes_sessions(&self) -> bool {
        self.state() == ShardState::Ready
    }

    /// How many sessions more it can hold, if it takes any.
    pub(super) fn room(&self) -> u32 {
        if self.takes_sessions() { self.capacity - self.holders.len() as u32 } else { 0 }
    }

    /// Whether one session more would take it beyond [`LOAD_LIMIT_PERMILLE`], if it costs as much as those that it
    /// held when its load was reported did on the average.
    pub(super) fn is_strained(&self) -> bool {
        if self.load_permille == 0 {
            return false;
        }
        let next = self.holders.len() as u64 + 1;
        u64::from(self.load_permille) * next > u64::from(LOAD_LIMIT_PERMILLE) * u64::from(self.load_sessions)
    }

    pub(super) fn wires(&self) -> impl Iterator<Item = &Link> {
        self.wires.iter().filter(|l| l.wire != NONE)
    }

    pub(super) fn wire_count(&self) -> usize {
        self.wires.len() - self.free_links.len()
    }
}

impl Linked for Shard {
    fn links(&self) -> &Links {
        &self.links
    }
    fn links_mut(&mut self) -> &mut Links {
        &mut self.links
    }
}

/// What a component has of shards.
#[derive(Debug)]
pub(super) struct Stock {
    /// All of its shards that are not gone.
    pub(super) shards: Vec<u32>,
    /// Those that start, the one that was launched first at the front.
    pub(super) starting: List,
    /// Those that hold no session, the one that has been idle longest at the front.
    pub(super) idle: List,
    /// Those that hold sessions and have room, the one that was full last at the front; those that are strained last.
    pub(super) open: List,
    /// Those that are frozen, the one that has been longest at the front.
    pub(super) frozen: List,
    /// So many are to take sessions, or to start …
    pub(super) target: u32,
    /// … and so many are kept frozen at the most.
    pub(super) frozen_target: u32,
    /// How many sessions they hold, and the most that they held, or that were wanted, since this was last asked.
    pub(super) held: u32,
    pub(super) peak: u32,
    pub(super) ready: u32,
    /// The free places of all shards that take sessions.
    pub(super) room: u32,
    /// How many shards failed to start, one after the other.
    pub(super) failures: u32,
    /// No launch before this time.
    pub(super) retry_ns: u64,
    pub(super) last_failure: Option<Death>,
    /// The host had no room for one more that its target asked for.
    pub(super) short: bool,
    /// How long it took until one took sessions, by tier.
    pub(super) costs: [StartCost; Tier::ALL.len()],
}

/// How long it took until shards took sessions, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StartCost {
    /// How many there were.
    pub count: u64,
    /// The last one.
    pub last_ns: u64,
    /// A moving average: each counts an eighth.
    pub mean_ns: u64,
}

impl StartCost {
    const NONE: StartCost = StartCost { count: 0, last_ns: 0, mean_ns: 0 };

    pub(super) fn add(&mut self, took_ns: u64) {
        self.mean_ns = if self.count == 0 { took_ns } else { self.mean_ns - self.mean_ns / 8 + took_ns / 8 };
        self.last_ns = took_ns;
        self.count += 1;
    }
}

impl Stock {
    const EMPTY: Stock = Stock {
        shards: Vec::new(),
        starting: List::EMPTY,
        idle: List::EMPTY,
        open: List::EMPTY,
        frozen: List::EMPTY,
        target: 0,
        frozen_target: 0,
        held: 0,
        peak: 0,
        ready: 0,
        room: 0,
        failures: 0,
        retry_ns: 0,
        last_failure: None,
        short: false,
        costs: [StartCost::NONE; Tier::ALL.len()],
    };

    /// Shards that take sessions or will.
    pub(super) fn live(&self) -> u32 {
        self.starting.len() + self.ready
    }

    pub(super) fn has_room(&self) -> bool {
        self.room > 0
    }
}

/// All shards.
#[derive(Debug)]
pub(super) struct Shards {
    pub(super) table: Vec<Shard>,
    pub(super) stocks: Vec<Stock>,
    /// When a shard must have started or ended, by time.
    pub(super) timers: BTreeSet<(u64, u32)>,
    by_id: BTreeMap<ShardId, u32>,
    free: Vec<u32>,
    next_id: u32,
}

impl Shards {
    pub(super) fn new(shape: &Shape) -> Self {
        Self {
            table: Vec::new(),
            stocks: shape
                .components
                .iter()
                .map(|c| Stock { target: c.warm, frozen_target: c.frozen, ..Stock::EMPTY })
                .collect(),
            timers: BTreeSet::new(),
            by_id: BTreeMap::new(),
            free: Vec::new(),
            next_id: 0,
        }
    }

    pub(super) fn find(&self, id: ShardId) -> Option<u32> {
        self.by_id.get(&id).copied()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// All shards that are not gone, by id.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Shard)> {
        self.by_id.values().map(|&at| (at, &self.table[at as usize]))
    }

    pub(super) fn get(&self, at: u32) -> &Shard {
        &self.table[at as usize]
    }

    pub(super) fn get_mut(&mut self, at: u32) -> &mut Shard {
        &mut self.table[at as usize]
    }

    pub(super) fn stock(&self, component: u16) -> &Stock {
        &self.stocks[usize::from(component)]
    }

    pub(super) fn stock_mut(&mut self, component: u16) -> &mut Stock {
        &mut self.stocks[usize::from(component)]
    }

    /// A new shard that starts now. `None` when there were [`u32::MAX`] of them already.
    pub(super) fn add(
        &mut self,
        component: u16,
        capacity: u32,
        embedder_link: Option<LinkId>,
        now_ns: u64,
    ) -> Option<u32> {
        let id = ShardId(self.next_id);
        self.next_id = self.next_id.checked_add(1)?;
        let at = self.free.pop().unwrap_or(self.table.len() as u32);
        let stock = &mut self.stocks[usize::from(component)];
        let mut shard = Shard {
            id,
            component,
            class: Class::Starting,
            in_use: true,
            capacity,
            launched_ns: now_ns,
            since_ns: now_ns,
            idle_ns: now_ns,
            holders: Vec::new(),
            nodes: Vec::new(),
            wires: Vec::new(),
            free_links: Vec::new(),
            embedder_link,
            killed: None,
            wanted_by: None,
            timer_ns: u64::MAX,
            pid: 0,
            from: Tier::Cold,
            ready_ns: u64::MAX,
            thawed_ns: 0,
            used: false,
            last_session: SessionId::NONE,
            load_permille: 0,
            load_sessions: 0,
            at_component: stock.shards.len() as u32,
            links: Links::ALONE,
        };
        stock.shards.push(at);
        if let Some(old) = self.table.get_mut(at as usize) {
            // The vectors of the shard that was here keep their memory.
            shard.holders = std::mem::take(&mut old.holders);
            shard.nodes = std::mem::take(&mut old.nodes);
            shard.wires = std::mem::take(&mut old.wires);
            shard.free_links = std::mem::take(&mut old.free_links);
            *old = shard;
        } else {
            self.table.push(shard);
        }
        self.by_id.insert(id, at);
        self.stocks[usize::from(component)].starting.push_last(&mut self.table, at);
        Some(at)
    }

    /// Forgets a shard that ends and that nothing refers to any more.
    pub(super) fn remove(&mut self, at: u32) {
        self.set_timer(at, u64::MAX);
        let shard = &mut self.table[at as usize];
        assert!(shard.class == Class::Ending && shard.holders.is_empty() && shard.nodes.is_empty());
        shard.in_use = false;
        shard.wires.clear();
        shard.free_links.clear();
        self.by_id.remove(&shard.id);
        let (component, place) = (shard.component, shard.at_component);
        let shards = &mut self.stocks[usize::from(component)].shards;
        shards.swap_remove(place as usize);
        if let Some(&moved) = shards.get(place as usize) {
            self.table[moved as usize].at_component = place;
        }
        self.free.push(at);
    }

    /// Sets when the core has to look at a shard again; `u64::MAX` for never.
    pub(super) fn set_timer(&mut self, at: u32, timer_ns: u64) {
        let old_ns = std::mem::replace(&mut self.table[at as usize].timer_ns, timer_ns);
        self.timers.remove(&(old_ns, at));
        if timer_ns != u64::MAX {
            self.timers.insert((timer_ns, at));
        }
    }

    /// Gives a place on a shard to a member. Returns the member's position among the shard's holders, and the
    /// shard's new class if it has changed.
    pub(super) fn hold(&mut self, at: u32, member: u32) -> (u32, Option<Class>) {
        let shard = &mut self.table[at as usize];
        shard.holders.push(member);
        shard.used = true;
        let place = shard.holders.len() as u32 - 1;
        let stock = &mut self.stocks[usize::from(shard.component)];
        stock.room -= 1;
        stock.held += 1;
        stock.peak = stock.peak.max(stock.held);
        (place, self.reclass(at))
    }

    /// Takes back the place at position `place`. Returns the member that has moved there, and the shard's new
    /// class if it has changed.
    pub(super) fn release(&mut self, at: u32, place: u32, now_ns: u64) -> (Option<u32>, Option<Class>) {
        let shard = &mut self.table[at as usize];
        shard.holders.swap_remove(place as usize);
        let moved = shard.holders.get(place as usize).copied();
        if shard.holders.is_empty() {
            shard.idle_ns = now_ns;
            shard.load_permille = 0;
        }
        let stock = &mut self.stocks[usize::from(shard.component)];
        stock.room += u32::from(shard.takes_sessions());
        stock.held -= 1;
        (moved, self.reclass(at))
    }

    /// Takes in how much of its time a shard works for the sessions that it holds. Returns its new class if that has
    /// changed.
    pub(super) fn set_load(&mut self, at: u32, permille: u32) -> Option<Class> {
        let shard = &mut self.table[at as usize];
        let held = shard.holders.len() as u32;
        shard.load_permille = if held > 0 { permille.min(LOAD_FULL_PERMILLE) } else { 0 };
        shard.load_sessions = held;
        self.reclass(at)
    }

    /// A shard that starts takes sessions from now on.
    pub(super) fn become_ready(&mut self, at: u32, now_ns: u64) {
        let shard = &mut self.table[at as usize];
        assert!(shard.class == Class::Starting);
        shard.ready_ns = now_ns;
        self.enter(at, now_ns);
    }

    /// A frozen shard takes sessions again.
    pub(super) fn thaw(&mut self, at: u32, now_ns: u64) {
        let shard = &mut self.table[at as usize];
        assert!(shard.class == Class::Frozen);
        shard.thawed_ns = now_ns;
        self.enter(at, now_ns);
    }

    fn enter(&mut self, at: u32, now_ns: u64) {
        let shard = &mut self.table[at as usize];
        shard.since_ns = now_ns;
        shard.idle_ns = now_ns;
        let stock = &mut self.stocks[usize::from(shard.component)];
        stock.ready += 1;
        stock.room += shard.capacity;
        self.set_class(at, Class::Idle);
    }

    /// A shard takes no more sessions: it ends, will end, or is frozen, as `class` says.
    pub(super) fn depart(&mut self, at: u32, class: Class, now_ns: u64) {
        let shard = &mut self.table[at as usize];
        shard.since_ns = now_ns;
        let stock = &mut self.stocks[usize::from(shard.component)];
        stock.ready -= u32::from(shard.takes_sessions());
        stock.room -= shard.room();
        self.set_class(at, class);
    }

    fn reclass(&mut self, at: u32) -> Option<Class> {
        let shard = &self.table[at as usize];
        let class = match shard.holders.len() as u32 {
            _ if !shard.takes_sessions() => return None,
            0 => Class::Idle,
            held if held < shard.capacity && shard.is_strained() => Class::Strained,
            held if held < shard.capacity => Class::Open,
            _ => Class::Full,
        };
        (class != shard.class).then(|| self.set_class(at, class))
    }

    fn set_class(&mut self, at: u32, class: Class) -> Class {
        let shard = &mut self.table[at as usize];
        let old = std::mem::replace(&mut shard.class, class);
        let stock = &mut self.stocks[usize::from(shard.component)];
        match old {
            Class::Starting => stock.starting.remove(&mut self.table, at),
            Class::Idle => stock.idle.remove(&mut self.table, at),
            Class::Open | Class::Strained => stock.open.remove(&mut self.table, at),
            Class::Frozen => stock.frozen.remove(&mut self.table, at),
            Class::Full | Class::Leaving | Class::Ending => {}
        }
        match class {
            Class::Idle => stock.idle.push_last(&mut self.table, at),
            Class::Open => stock.open.push_first(&mut self.table, at),
            Class::Strained => stock.open.push_last(&mut self.table, at),
            Class::Frozen => stock.frozen.push_last(&mut self.table, at),
            Class::Starting | Class::Full | Class::Leaving | Class::Ending => {}
        }
        class
    }

    /// The component of a shard, as the application knows it.
    pub(super) fn component_id(&self, at: u32) -> ComponentId {
        ComponentId(self.get(at).component)
    }
}
