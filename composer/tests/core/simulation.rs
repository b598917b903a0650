//! A world in which everything takes a random time and anything may fail at any step, played from a seed.
//!
//! `SHARD_SEED=7 cargo test -p shard-composer --test core simulation` plays one world again; with `SHARD_SEEDS=500`
//! the first 500 are played.

use crate::application::application;
use crate::rig::MS;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use shard_composer::core::{
    CompositionId, Core, Effect, End, Event, Exit, LINKS_MAX, Refusal, RequestId, ShardState, Tier, WireEnd,
    WireId,
};
use shard_composer::resources::{Missing, Resource, Shortage};
use shard_runtime::id::{ComponentId, LinkId, SessionId, ShardId};
use shardkit::application::{After, Application};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const SESSIONS: u64 = 20_000;

/// What is going to happen.
#[derive(Clone, Debug)]
enum Happening {
    /// Something that the core is told.
    Told(Event),
    /// A shard says something, unless it has died before.
    Said(ShardId, Event),
    /// A wire is made at both ends, unless one of them has died before.
    Wired(WireId),
    /// The host is asked for the parts of what is to be launched together.
    Asked(Vec<(ShardId, ComponentId)>),
    /// A user comes.
    Arrival,
    /// Someone changes a component's target.
    Target,
    /// Someone drains a shard.
    Drain,
    /// A shard's load is reported.
    Load,
    /// A shard dies.
    Death(ShardId, Exit),
}

#[derive(Default)]
struct Shard {
    holds: BTreeSet<SessionId>,
    /// A shard says things in order.
    last_said_ns: u64,
    asked_to_end: bool,
    frozen: bool,
    /// The part of the host that it has.
    part: u32,
}

struct World {
    core: Core,
    app: Application,
    rng: StdRng,
    now_ns: u64,
    agenda: BTreeMap<(u64, u64), Happening>,
    planned: u64,
    shards: BTreeMap<ShardId, Shard>,
    wires: BTreeMap<WireId, [WireEnd; 2]>,
    links: BTreeMap<(End, LinkId), WireId>,
    /// What is to be launched together, as far as it has been heard.
    set: Vec<(ShardId, ComponentId)>,
    /// What the host has, and what a shard of each component needs of it.
    room: u32,
    parts: Vec<u32>,
    /// Requests without an answer, and until when they wait.
    asked: BTreeMap<RequestId, u64>,
    ready: BTreeSet<SessionId>,
    seen: BTreeSet<SessionId>,
    arrivals: u64,
    counts: Counts,
    failure_rate: f64,
    arrival_ns: u64,
    session_ns: u64,
    finished: bool,
}

#[derive(Debug, Default)]
struct Counts {
    events: u64,
    ready: u64,
    cold: u64,
    lost: u64,
    refused: u64,
    deaths: u64,
    frozen: u64,
    thawed: u64,
    drained: u64,
    loads: u64,
    idle: u64,
    /// Sets that there was no room for, and requests that were told.
    no_room: u64,
    short: u64,
}

fn random_application(rng: &mut StdRng) -> Application {
    let names = ["a", "b", "c", "d", "e"];
    let count = rng.random_range(1..=names.len());
    let names = &names[..count];
    let mut made = application();
    for name in names {
        let capacity = [1, 1, 2, 3, 5, 40][rng.random_range(0..6)];
        let warm = rng.random_range(0..5);
        let max: u32 = (warm + rng.random_range(0..5)).max(1);
        made = made.component(name, capacity, warm, max);
        let component = made.last();
        component.shards.frozen = rng.random_range(0..=max - warm);
        component.shards.scale_down_delay_ms = [1, 5, 50, 10_000][rng.random_range(0..4)];
        component.after = [After::Return, After::Scrub, After::Restart][rng.random_range(0..3)];
    }
    let embedder = rng.random_bool(0.5);
    if embedder {
        made = made.embedder();
    }
    let mut calls = BTreeSet::new();
    for (at, caller) in names.iter().enumerate() {
        for callee in names {
            if caller < callee && rng.random_bool(0.5) || rng.random_bool(0.05) && caller != callee {
                calls.insert((*caller, *callee));
                made = made.calls(caller, callee);
            }
        }
        if embedder && (at == 0 || rng.random_bool(0.3)) {
            let to = rng.random_bool(0.8);
            made = if to { made.calls("embedder", caller) } else { made.calls(caller, "embedder") };
        }
    }
    for composition in 0..rng.random_range(1..=3) {
        let mut chosen = BTreeSet::from([names[rng.random_range(0..count)]]);
        while let Some(&(_, callee)) = calls.iter().find(|(a, b)| chosen.contains(a) && !chosen.contains(b)) {
            chosen.insert(callee);
        }
        let chosen: Vec<_> = chosen.into_iter().collect();
        made = made.composition(&format!("composition {composition}"), &chosen);
    }
    made.done()
}

/// How many sessions there can be at a time, about.
fn places(app: &Application) -> u32 {
    let of = |c: &ComponentId| app.component(*c).capacity * app.component(*c).shards.max;
    app.compositions.iter().flat_map(|c| &c.components).map(of).min().unwrap()
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let app = random_application(&mut rng);
        let session_ns = rng.random_range(MS..30 * MS);
        let parts: Vec<u32> = app.components.iter().map(|_| rng.random_range(1..=3)).collect();
        // Half of the hosts have room for all that there may be; no other is smaller than a composition.
        let part = |id: &ComponentId| parts[usize::from(id.0)];
        let least =
            app.compositions.iter().map(|c| c.components.iter().map(part).sum::<u32>()).max().unwrap();
        let room = if rng.random_bool(0.5) { u32::MAX } else { least + rng.random_range(0..8) };
        // From a system that is mostly idle to one that is asked for more than it has.
        let load = rng.random_range(0.2..1.3) * places(&app) as f64;
        Self {
            core: Core::new(&app),
            app,
            now_ns: 0,
            agenda: BTreeMap::new(),
            planned: 0,
            shards: BTreeMap::new(),
            wires: BTreeMap::new(),
            links: BTreeMap::new(),
            set: vec![],
            room,
            parts,
            asked: BTreeMap::new(),
            ready: BTreeSet::new(),
            seen: BTreeSet::new(),
            arrivals: 0,
            counts: Counts::default(),
            failure_rate: [0.0, 0.001, 0.01, 0.05][rng.random_range(0..4)],
            arrival_ns: (session_ns as f64 / load) as u64,
            session_ns,
            finished: false,
            rng,
        }
    }

    fn run(&mut self) {
        self.plan(0, Happening::Told(Event::Start));
        self.plan(MS, Happening::Arrival);
        self.plan(MS, Happening::Target);
        self.plan(MS, Happening::Drain);
        self.plan(MS, Happening::Load);
        while self.counts.ready < SESSIONS && self.arrivals < 3 * SESSIONS {
            self.step();
        }
        self.plan(0, Happening::Told(Event::ShutDown));
        while !self.finished {
            self.step();
        }
        assert!(self.asked.is_empty(), "without an answer: {:?}", self.asked);
        assert!(self.ready.is_empty(), "neither ended nor lost: {:?}", self.ready);
        assert!(self.shards.is_empty(), "left behind: {:?}", self.shards.keys());
        assert!(self.links.is_empty(), "left in a table of links: {:?}", self.links);
        self.core.check_empty().unwrap();
    }

    /// Lets the next thing happen: of the agenda, or the tick that the core wants.
    fn step(&mut self) {
        let next_ns = self.agenda.first_key_value().map(|(&(at_ns, _), _)| at_ns);
        match self.core.next_deadline() {
            Some(at_ns) if next_ns.is_none_or(|next_ns| at_ns < next_ns) => {
                self.now_ns = self.now_ns.max(at_ns);
                self.tell(Event::Tick);
                let next_ns = self.core.next_deadline();
                assert!(next_ns.is_none_or(|next_ns| next_ns > self.now_ns), "a tick that does nothing");
            }
            _ => {
                let ((at_ns, _), happening) = self.agenda.pop_first().expect("something is always to come");
                self.now_ns = self.now_ns.max(at_ns);
                self.happen(happening);
            }
        }
    }

    fn plan(&mut self, after_ns: u64, happening: Happening) {
        self.planned += 1;
        self.agenda.insert((self.now_ns + after_ns, self.planned), happening);
    }

    /// A shard says something after a while, but not before what it said earlier.
    fn say(&mut self, id: ShardId, after_ns: u64, event: Event) {
        let at_ns = self.now_ns + after_ns;
        let Some(shard) = self.shards.get_mut(&id) else { return };
        shard.last_said_ns = shard.last_said_ns.max(at_ns);
        let after_ns = shard.last_said_ns - self.now_ns;
        self.plan(after_ns, Happening::Said(id, event));
    }

    fn fails(&mut self) -> bool {
        let rate = self.failure_rate;
        self.rng.random_bool(rate)
    }

    fn some_ns(&mut self, max_ns: u64) -> u64 {
        self.rng.random_range(1..=max_ns)
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Told(event) => self.tell(event),
            Happening::Said(shard, event) => {
                let Some(speaker) = self.shards.get_mut(&shard) else { return };
                match event {
                    Event::Opened { session, .. } => assert!(speaker.holds.insert(session)),
                    Event::Closed { session, .. } | Event::ScrubFailed { session, .. } => {
                        assert!(speaker.holds.remove(&session) || self.failure_rate > 0.0)
                    }
                    _ => {}
                }
                self.tell(event);
            }
            Happening::Wired(wire) => self.make_wire(wire),
            Happening::Asked(set) => self.ask(set),
            Happening::Arrival => self.arrive(),
            Happening::Target => self.aim(),
            Happening::Drain => self.drain(),
            Happening::Load => self.report_load(),
            Happening::Death(shard, how) => {
                if self.shards.remove(&shard).is_some() {
                    self.counts.deaths += 1;
                    self.links.retain(|(end, _), _| *end != End::Shard(shard));
                    self.tell(Event::ShardExited { shard, how });
                }
            }
        }
    }

    fn arrive(&mut self) {
        self.arrivals += 1;
        let request = RequestId(self.arrivals);
        let composition = CompositionId(self.rng.random_range(0..self.app.compositions.len()) as u16);
        let wait_ns = if self.rng.random_bool(0.2) { 0 } else { self.some_ns(200 * MS) };
        let deadline_ns = self.now_ns + wait_ns;
        self.asked.insert(request, deadline_ns);
        self.tell(Event::SessionRequested { request, composition, deadline_ns });
        let after_ns = self.some_ns(2 * self.arrival_ns);
        self.plan(after_ns, Happening::Arrival);
    }

    /// A component gets another target, now and then one far beyond what it may have.
    fn aim(&mut self) {
        let component = ComponentId(self.rng.random_range(0..self.app.components.len()) as u16);
        let ready = [0, 1, 3, 1_000_000][self.rng.random_range(0..4)];
        let frozen = [0, 1, 1_000_000][self.rng.random_range(0..3)];
        self.tell(Event::Target { component, ready, frozen });
        let after_ns = self.some_ns(50 * self.arrival_ns);
        self.plan(after_ns, Happening::Target);
    }

    fn drain(&mut self) {
        let shards: Vec<ShardId> = self.shards.keys().copied().collect();
        if !shards.is_empty() {
            let shard = shards[self.rng.random_range(0..shards.len())];
            let deadline_ns = self.now_ns + self.some_ns(2 * self.session_ns);
            self.tell(Event::Drain { shard, deadline_ns });
            self.counts.drained += 1;
        }
        let after_ns = self.some_ns(400 * self.arrival_ns);
        self.plan(after_ns, Happening::Drain);
    }

    /// Any shard reports any load: one that is gone, starts, is frozen or holds nothing, too.
    fn report_load(&mut self) {
        let shard = match self.shards.keys().copied().collect::<Vec<_>>() {
            shards if shards.is_empty() || self.rng.random_bool(0.01) => ShardId(self.rng.random()),
            shards => shards[self.rng.random_range(0..shards.len())],
        };
        let permille = [0, self.rng.random_range(0..=1_000), 1_000, u32::MAX][self.rng.random_range(0..4)];
        self.tell(Event::Load { shard, permille });
        self.counts.loads += 1;
        let after_ns = self.some_ns(4 * self.arrival_ns);
        self.plan(after_ns, Happening::Load);
    }

    fn make_wire(&mut self, wire: WireId) {
        let Some(ends) = self.wires.get(&wire).copied() else { return };
        let alive = |end: End| match end {
            End::Embedder => true,
            End::Shard(id) => self.shards.contains_key(&id),
        };
        let both = ends.iter().all(|e| alive(e.end) && self.links.get(&(e.end, e.link)) == Some(&wire));
        if both && !self.fails() {
            return self.tell(Event::Wired { wire });
        }
        self.wires.remove(&wire);
        self.links.retain(|_, w| *w != wire);
        self.tell(Event::WireFailed { wire });
    }

    fn tell(&mut self, event: Event) {
        self.counts.events += 1;
        let mut effects = Vec::new();
        self.core.handle(self.now_ns, event.clone(), &mut effects);
        for effect in effects {
            self.carry_out(effect);
        }
        if let Err(what) = self.core.check_invariants() {
            panic!("after {event:?}: {what}");
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Launch { shard, component, more, .. } => {
                assert!(self.shards.insert(shard, Shard::default()).is_none(), "{shard:?} came twice");
                self.set.push((shard, component));
                if !more {
                    let (set, after_ns) = (std::mem::take(&mut self.set), self.some_ns(MS / 5));
                    self.plan(after_ns, Happening::Asked(set));
                }
            }
            Effect::Wire { wire, caller, callee } => {
                for end in [caller, callee] {
                    assert!(usize::from(end.link.0) < LINKS_MAX);
                    let taken = self.links.insert((end.end, end.link), wire);
                    assert_eq!(taken, None, "{end:?} is taken");
                    if let End::Shard(shard) = end.end {
                        assert!(!self.shards[&shard].frozen, "{shard:?} is frozen and is wired");
                    }
                }
                self.wires.insert(wire, [caller, callee]);
                let after_ns = self.some_ns(MS / 2);
                self.plan(after_ns, Happening::Wired(wire));
            }
            Effect::Unwire { wire, at } => {
                assert_eq!(
                    self.links.remove(&(at.end, at.link)),
                    Some(wire),
                    "{at:?} does not have {wire:?}"
                );
            }
            Effect::Open { session, shard } => self.open(session, shard),
            Effect::Close { session, shard } => {
                let after_ns = self.some_ns(MS / 5);
                let scrubs = self
                    .core
                    .shard(shard)
                    .is_some_and(|s| self.app.component(s.component).after == After::Scrub);
                if scrubs && self.fails() {
                    self.say(shard, after_ns, Event::ScrubFailed { session, shard });
                } else if !self.fails() {
                    self.say(shard, after_ns, Event::Closed { session, shard });
                }
            }
            Effect::Freeze { shard } => {
                let cold = self.shards.get_mut(&shard).expect("a shard that is frozen is there");
                assert!(cold.holds.is_empty(), "{shard:?} is frozen and holds {:?}", cold.holds);
                assert!(!std::mem::replace(&mut cold.frozen, true), "{shard:?} is frozen twice");
                self.counts.frozen += 1;
            }
            Effect::Thaw { shard } => {
                let cold = self.shards.get_mut(&shard).expect("a shard that is thawed is there");
                assert!(std::mem::replace(&mut cold.frozen, false), "{shard:?} is thawed and was not frozen");
                self.counts.thawed += 1;
            }
            Effect::Stop { shard } => {
                let stopped = self.shards.get_mut(&shard).expect("a shard that is stopped is there");
                assert!(stopped.holds.is_empty(), "{shard:?} is stopped and holds {:?}", stopped.holds);
                assert!(!stopped.frozen, "{shard:?} is frozen and can't hear that it is to end");
                stopped.asked_to_end = true;
                if !self.fails() {
                    let after_ns = self.some_ns(10 * MS);
                    self.plan(after_ns, Happening::Death(shard, Exit::Code(0)));
                }
            }
            // The core does not freeze yet.
            Effect::Kill { shard, .. } => {
                let after_ns = self.some_ns(MS);
                self.plan(after_ns, Happening::Death(shard, Exit::Signal(9)));
            }
            Effect::SessionReady { request, session, tiers } => {
                assert!(self.asked.remove(&request).is_some(), "{request:?} has a second answer");
                assert!(self.ready.insert(session));
                self.counts.ready += 1;
                self.counts.cold += u64::from(tiers.started() > 0);
                let after_ns = self.some_ns(2 * self.session_ns);
                if self.rng.random_bool(0.05) {
                    self.counts.idle += 1;
                    self.plan(after_ns, Happening::Told(Event::SessionIdle { session }));
                } else {
                    self.plan(after_ns, Happening::Told(Event::SessionEnded { session }));
                }
            }
            Effect::RequestFailed { request, reason } => {
                let deadline_ns = self.asked.remove(&request).expect("a request has one answer");
                self.counts.short += u64::from(matches!(reason, Refusal::Short { .. }));
                if matches!(reason, Refusal::NoRoom { .. } | Refusal::Short { .. } | Refusal::NotWired { .. })
                {
                    assert!(
                        deadline_ns <= self.now_ns,
                        "{request:?} was refused before its deadline: {reason}"
                    );
                }
                self.counts.refused += 1;
            }
            Effect::SessionLost { session, .. } => {
                assert!(self.ready.remove(&session), "{session:?} is lost twice");
                self.counts.lost += 1;
            }
            Effect::SessionClosed { session } => {
                self.ready.remove(&session);
                let holder = self.shards.iter().find(|(_, s)| s.holds.contains(&session));
                let dying =
                    |id: ShardId| self.core.shard(id).is_some_and(|s| s.state == ShardState::Draining);
                assert!(
                    holder.is_none_or(|(id, _)| dying(*id)),
                    "{session:?} is closed, {:?} holds it",
                    holder.map(|h| h.0)
                );
            }
            Effect::Finished => self.finished = true,
        }
    }

    /// All of a set get their parts of the host and start, or none does.
    fn ask(&mut self, mut set: Vec<(ShardId, ComponentId)>) {
        // Some may have been ended since.
        let shards: Vec<ShardId> = set.iter().map(|(shard, _)| *shard).collect();
        set.retain(|(shard, _)| self.shards.get(shard).is_some_and(|shard| !shard.asked_to_end));
        let needed: u32 = set.iter().map(|(_, component)| self.parts[usize::from(component.0)]).sum();
        let given: u32 = self.shards.values().map(|shard| shard.part).sum();
        let free = self.room - given;
        if needed <= free {
            for (shard, component) in set {
                self.shards.get_mut(&shard).expect("it was kept").part = self.parts[usize::from(component.0)];
                self.launch(shard, component);
            }
            return;
        }
        self.counts.no_room += 1;
        shards.iter().for_each(|shard| drop(self.shards.remove(shard)));
        let missing = vec![Missing { resource: Resource::Memory, needed: needed.into(), free: free.into() }];
        let shortage = Shortage { at: 0, of: shards.len(), host: "simulated".into(), missing, proved: true };
        self.tell(Event::NoRoom { shards, shortage: Arc::new(shortage) });
    }

    fn launch(&mut self, shard: ShardId, component: ComponentId) {
        assert!(self.app.component(component).program.is_some());
        if self.fails() {
            return self.plan(1, Happening::Death(shard, Exit::NotStarted(2)));
        }
        let (launched_ns, ready_ns) = (self.some_ns(MS), self.some_ns(20 * MS));
        self.say(shard, launched_ns, Event::Launched { shard, pid: shard.0 + 1, from: Tier::Cold });
        if !self.fails() {
            self.say(shard, launched_ns + ready_ns, Event::ShardReady { shard });
        }
        if self.failure_rate > 0.0 {
            let after_ns = self.some_ns((20.0 * MS as f64 / self.failure_rate) as u64);
            let hangs = self.fails();
            let end = if hangs {
                Happening::Told(Event::ShardHung { shard })
            } else {
                Happening::Death(shard, Exit::Signal(11))
            };
            self.plan(after_ns, end);
            if self.fails() {
                let (after_ns, link) = (after_ns / 2, LinkId(self.rng.random_range(0..3)));
                self.plan(after_ns, Happening::Told(Event::LinkBroken { witness: shard, link }));
            }
        }
    }

    fn open(&mut self, session: SessionId, shard: ShardId) {
        let first = self.core.session(session).expect("it is there").shards().next() == Some(shard);
        assert!(!first || self.seen.insert(session), "{session:?} came before");
        self.check_routes(session, shard);
        let holder = self.shards.get(&shard).expect("a shard that is opened is there");
        assert!(!holder.asked_to_end, "{shard:?} was asked to end and is opened");
        assert!(!holder.frozen, "{shard:?} is frozen and is opened");
        let after_ns = self.some_ns(MS / 5);
        let refuses = self.fails();
        match refuses {
            true => self.say(shard, after_ns, Event::OpenRefused { session, shard }),
            false if self.fails() => {}
            false => self.say(shard, after_ns, Event::Opened { session, shard }),
        }
    }

    /// Each route of a shard leads over a wire that is there to the partner that it names.
    fn check_routes(&self, session: SessionId, shard: ShardId) {
        let own = self.core.shard(shard).unwrap().component;
        let mut expected: BTreeSet<ComponentId> = BTreeSet::new();
        let set: Vec<_> = self.core.session(session).unwrap().shards().collect();
        let mut components: Vec<_> = set.iter().map(|&s| self.core.shard(s).unwrap().component).collect();
        components.extend(self.app.embedder);
        for (a, b) in self
            .app
            .call_pairs()
            .into_iter()
            .filter(|(a, b)| components.contains(a) && components.contains(b))
        {
            if a == own {
                expected.insert(b);
            }
            if b == own {
                expected.insert(a);
            }
        }
        let mut seen = BTreeSet::new();
        for route in self.core.routes(session, shard) {
            let wire = self.links.get(&(End::Shard(shard), route.link)).expect("a route has a link");
            let ends = self.wires[wire].map(|e| e.end);
            assert!(
                ends.contains(&End::Shard(shard)) && ends.contains(&route.end),
                "{route:?} leads elsewhere"
            );
            if let End::Shard(partner) = route.end {
                assert!(
                    set.contains(&partner) && self.core.shard(partner).unwrap().component == route.component
                );
            }
            assert!(seen.insert(route.component));
        }
        assert_eq!(seen, expected, "the routes of {shard:?} in {session:?}");
    }
}

fn play(seed: u64) {
    println!("SHARD_SEED={seed}");
    let mut world = World::new(seed);
    world.run();
    println!("seed {seed}: {:?} in {} simulated ms", world.counts, world.now_ns / MS);
}

#[test]
fn every_request_has_one_answer_and_everything_comes_back() {
    if std::env::var_os("SHARD_SEED").is_some() {
        return play(crate::seed(0));
    }
    let seeds = std::env::var("SHARD_SEEDS").map_or(6, |n| n.parse().expect("SHARD_SEEDS is a number"));
    (1..=seeds).for_each(play);
}
