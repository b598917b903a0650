//! The production core at internet scale: 100,000 shards, a million sessions, arrivals, ends and deaths.
//!
//! ```text
//! cargo run --release -p shard-composer --example scale              all worlds, under a minute
//! cargo run --release -p shard-composer --example scale -- --quick   the same, a hundredth of the size
//! cargo run --release -p shard-composer --example scale -- --world arena --shards 500000
//! ```
//!
//! Each world is filled, then sessions come and go and shards die, then it is asked for one session after the other
//! until it refuses. What is printed is what the core itself takes, timed from outside: the core has no clock. The
//! rest of the world answers at once and costs nothing.
//!
//! Invariant: what happens depends on the seed alone, and after each world the core's books are audited.

use clap::{Parser, ValueEnum};
use hdrhistogram::Histogram;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use shard_composer::core::{CompositionId, Core, Effect, Event, Exit, RequestId, SESSIONS_MAX};
use shard_runtime::id::{ComponentId, PortId, SessionId, ShardId};
use shardkit::application::{
    After, Application, Component, Composition, Destination, Needs, Output, Program, Shards, Wait,
};
use shardkit::pool::Scale;
use std::hint::black_box;
use std::process::Command;
use std::time::{Duration, Instant};

/// Virtual time from one operation to the next: 100,000 operations a second.
const STEP_NS: u64 = 10_000;
/// How long a request may wait.
const WAIT_NS: u64 = 1_000_000_000;
const OPERATIONS_PER_DEATH: u64 = 500;
const OPERATIONS_PER_TICK: u64 = 100;
const COST_NS_MAX: u64 = 100_000_000_000;
/// How often a world that is full is asked for one session more.
const OVERLOADS: u64 = 200;

#[derive(Parser)]
#[command(about = "The production core with 100,000 shards and a million sessions")]
struct Args {
    /// Shards in all.
    #[arg(long, default_value_t = 100_000)]
    shards: u32,
    /// Sessions at a time.
    #[arg(long, default_value_t = 1_000_000)]
    sessions: u32,
    /// Claims and releases once the world is full.
    #[arg(long, default_value_t = 400_000)]
    operations: u64,
    /// Everything that is left to chance follows from it.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// A hundredth of everything.
    #[arg(long)]
    quick: bool,
    /// Only this world.
    #[arg(long)]
    world: Option<World>,
}

/// Compositions of five components, of which physics calls the other four. All share `auth`.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum World {
    /// Two components that many sessions share, three that fewer share. The capacities divide each other.
    Arena,
    /// The same with capacities that don't: sets run full in one shard and have room in another.
    Uneven,
    /// As many components as an application may have: 63 compositions, each with four of its own.
    Many,
    /// Every shard holds one session.
    Private,
    /// One shard of `auth` for everyone: it runs out of links.
    Hub,
    /// The arena in a program that embeds the composer: the program runs out of links.
    Embedded,
}

impl World {
    fn compositions(self) -> u16 {
        if matches!(self, World::Many) { 63 } else { 1 }
    }

    /// Capacity and number of shards of `auth`, `inventory`, `physics`, `ai` and `render`, over all compositions.
    fn components(self, shards: u32, sessions: u32) -> [(u32, u32); 5] {
        // A hundredth more places than sessions.
        let for_all = |capacity: u32| (sessions + sessions / 100).div_ceil(capacity).max(1);
        // The smallest capacity with which the shards hold all sessions, if two components have eight times of it.
        let holds = |&many: &u32| 3 * for_all(many) + 2 * for_all(8 * many) <= shards;
        let many = (1..=8_192).find(holds).unwrap_or(8_192);
        let shared = |few: u32| {
            let few = (few, for_all(few));
            let many = (many, (shards.saturating_sub(2 * few.1) / 3).max(1));
            [few, few, many, many, many]
        };
        match self {
            World::Arena | World::Embedded | World::Many => shared(8 * many),
            World::Uneven => shared(8 * many - 7),
            World::Private => [(1, shards / 5); 5],
            World::Hub => {
                let many = (many, shards / 4);
                [(65_536, 1), many, many, many, many]
            }
        }
    }

    fn application(self, shards: u32, sessions: u32) -> Application {
        let [auth, own @ ..] = self.components(shards, sessions);
        let mut components = vec![component("auth", auth.0, auth.1)];
        let mut compositions = vec![];
        for game in 0..self.compositions() {
            let first = components.len() as u16;
            for (name, (capacity, all)) in ["inventory", "physics", "ai", "render"].into_iter().zip(own) {
                components.push(component(name, capacity, (all / u32::from(self.compositions())).max(1)));
            }
            components[usize::from(first) + 1].outputs = [0, first, first + 2, first + 3].map(call).into();
            let ids = std::iter::once(0).chain(first..first + 4).map(ComponentId).collect();
            compositions.push(Composition {
                name: format!("match-{game}"),
                components: ids,
                idle_timeout_ms: None,
            });
        }
        let embedder = matches!(self, World::Embedded).then(|| {
            let mut embedder = component("embedder", 1, 0);
            embedder.program = None;
            embedder.outputs = vec![call(2)];
            components.push(embedder);
            ComponentId(5)
        });
        Application {
            name: "scale".into(),
            components,
            compositions,
            embedder,
            pool: None,
            generics: vec![],
            idle_latency_us: None,
            oci_runtime: None,
        }
    }
}

fn component(name: &str, capacity: u32, warm: u32) -> Component {
    Component {
        name: name.into(),
        program: Some(Program { path: "true".into(), args: vec![], env: vec![] }),
        capacity,
        shards: Shards::between(warm, warm),
        needs: Needs::default(),
        wait: Wait::Park,
        tick_hz: None,
        inputs: vec![],
        outputs: vec![],
        start_timeout_ms: 1_000,
        stop_timeout_ms: 1_000,
        after: After::Return,
        scale: Scale::default(),
        zygote: false,
        isolation: None,
        config_json: "{}".into(),
    }
}

fn call(component: u16) -> Output {
    Output {
        name: "call".into(),
        ty: "Bytes".into(),
        reply: None,
        message_bytes_max: 64,
        to: vec![Destination { component: ComponentId(component), input: PortId(0) }],
        ring_bytes: 4096,
    }
}

/// What the core is timed at.
#[derive(Clone, Copy)]
enum Decision {
    Claim,
    ClaimWhole,
    Release,
    ReleaseWhole,
    Death,
    DeathWhole,
    Tick,
    NextDeadline,
    InVain,
    Refusal,
}

impl Decision {
    const NAMES: [&str; 10] = [
        "claim: the shards are chosen, Open is said",
        "claim until ready: with five acknowledgements",
        "release: Close is said",
        "release until gone: with five acknowledgements",
        "a shard's death: its sessions end, cells change",
        "a death with closes, a new shard, wires and cells",
        "tick",
        "next_deadline",
        "an event while a request waits in vain",
        "refusal of a request that does not wait",
    ];
}

/// What each kind of decision takes.
struct Costs(Vec<Histogram<u64>>);

impl Costs {
    fn new() -> Self {
        let histogram = |_| Histogram::new_with_bounds(1, COST_NS_MAX, 3).expect("the bounds are in order");
        Self(Decision::NAMES.iter().map(histogram).collect())
    }

    fn add(&mut self, what: Decision, took: Duration) {
        self.0[what as usize].saturating_record(took.as_nanos() as u64);
    }

    /// All that claims, releases and deaths took.
    fn seconds(&self) -> f64 {
        let all =
            [Decision::ClaimWhole, Decision::ReleaseWhole, Decision::DeathWhole].map(|d| &self.0[d as usize]);
        all.iter().map(|cost| cost.mean() * cost.len() as f64 / 1e9).sum()
    }

    fn print(&self) {
        println!("  {:<50}{:>9}{:>10}{:>10}{:>12}", "microseconds in the core", "count", "p50", "p99", "max");
        let micros = |ns: u64| format!("{:.2}", ns as f64 / 1e3);
        for (name, cost) in Decision::NAMES.iter().zip(&self.0).filter(|(_, cost)| !cost.is_empty()) {
            let [p50, p99] = [0.5, 0.99].map(|quantile| micros(cost.value_at_quantile(quantile)));
            println!("  {name:<50}{:>9}{p50:>10}{p99:>10}{:>12}", cost.len(), micros(cost.max()));
        }
    }
}

/// A set from which one can be drawn by chance, and taken out by its name.
struct Places<T> {
    all: Vec<T>,
    slot: fn(T) -> usize,
    at: Vec<u32>,
}

impl<T: Copy> Places<T> {
    /// Memory for `size` of them is in use from the start, so that it does not look like the core's.
    fn new(size: usize, filler: T, slot: fn(T) -> usize) -> Self {
        let mut all = vec![filler; size];
        all.clear();
        Self { all, slot, at: vec![u32::MAX; size] }
    }

    fn insert(&mut self, item: T) {
        let slot = (self.slot)(item);
        self.at.resize(self.at.len().max(slot + 1), u32::MAX);
        self.at[slot] = self.all.len() as u32;
        self.all.push(item);
    }

    fn remove(&mut self, item: T) {
        let at = self.at[(self.slot)(item)];
        self.all.swap_remove(at as usize);
        if let Some(&moved) = self.all.get(at as usize) {
            self.at[(self.slot)(moved)] = at;
        }
    }

    fn draw(&self, rng: &mut StdRng) -> T {
        self.all[rng.random_range(0..self.all.len())]
    }
}

/// The core, and a world that does at once what it is asked for.
struct Run {
    core: Core,
    rng: StdRng,
    compositions: u16,
    now_ns: u64,
    effects: Vec<Effect>,
    sessions: Places<SessionId>,
    shards: Places<ShardId>,
    lost: u64,
    refusals: u64,
    reason: Option<String>,
    next_request: u64,
    costs: Costs,
}

impl Run {
    fn new(application: &Application, args: &Args) -> Self {
        let filler = SessionId::from_bits(u64::MAX);
        Self {
            core: Core::new(application),
            compositions: application.compositions.len() as u16,
            rng: StdRng::seed_from_u64(args.seed),
            now_ns: 1,
            effects: Vec::with_capacity(1 << 16),
            sessions: Places::new(SESSIONS_MAX, filler, |s| s.index() as usize),
            shards: Places::new(2 * args.shards as usize, ShardId(u32::MAX), |s| s.0 as usize),
            lost: 0,
            refusals: 0,
            reason: None,
            next_request: 0,
            costs: Costs::new(),
        }
    }

    /// Tells the core, and it alone is timed.
    fn handle(&mut self, event: Event) -> Duration {
        let start = Instant::now();
        self.core.handle(self.now_ns, event, &mut self.effects);
        start.elapsed()
    }

    /// Tells the core, and answers what it wants done. What the event alone took, and what all took.
    fn tell(&mut self, event: Event) -> (Duration, Duration) {
        self.now_ns += STEP_NS;
        let first = self.handle(event);
        let mut whole = first;
        let mut at = 0;
        while at < self.effects.len() {
            let effect = self.effects[at].clone();
            at += 1;
            if let Some(answer) = self.answer(effect) {
                whole += self.handle(answer);
            }
        }
        self.effects.clear();
        (first, whole)
    }

    fn answer(&mut self, effect: Effect) -> Option<Event> {
        match effect {
            Effect::Launch { shard, .. } => {
                self.shards.insert(shard);
                return Some(Event::ShardReady { shard });
            }
            Effect::Wire { wire, .. } => return Some(Event::Wired { wire }),
            Effect::Open { session, shard } => return Some(Event::Opened { session, shard }),
            Effect::Close { session, shard } => return Some(Event::Closed { session, shard }),
            Effect::SessionReady { session, .. } => self.sessions.insert(session),
            Effect::SessionLost { session, .. } => {
                self.sessions.remove(session);
                self.lost += 1;
            }
            Effect::RequestFailed { reason, .. } => {
                self.refusals += 1;
                self.reason = Some(reason.to_string());
            }
            _ => {}
        }
        None
    }

    fn request(&mut self, wait_ns: u64) -> (Duration, Duration) {
        self.next_request += 1;
        let request = RequestId(self.next_request);
        let composition = CompositionId(self.rng.random_range(0..self.compositions));
        let deadline_ns = self.now_ns + STEP_NS + wait_ns;
        self.tell(Event::SessionRequested { request, composition, deadline_ns })
    }

    fn claim(&mut self) {
        let (first, whole) = self.request(WAIT_NS);
        self.costs.add(Decision::Claim, first);
        self.costs.add(Decision::ClaimWhole, whole);
    }

    fn release(&mut self) {
        let session = self.sessions.draw(&mut self.rng);
        self.sessions.remove(session);
        let (first, whole) = self.tell(Event::SessionEnded { session });
        self.costs.add(Decision::Release, first);
        self.costs.add(Decision::ReleaseWhole, whole);
    }

    fn die(&mut self) {
        let shard = self.shards.draw(&mut self.rng);
        self.shards.remove(shard);
        let (first, whole) = self.tell(Event::ShardExited { shard, how: Exit::Signal(9) });
        self.costs.add(Decision::Death, first);
        self.costs.add(Decision::DeathWhole, whole);
    }

    fn tick(&mut self) {
        let (first, _) = self.tell(Event::Tick);
        self.costs.add(Decision::Tick, first);
        let start = Instant::now();
        black_box(self.core.next_deadline());
        self.costs.add(Decision::NextDeadline, start.elapsed());
    }

    /// Opens sessions until there are so many, or one has to wait.
    fn fill(&mut self, sessions: u32) {
        while self.sessions.all.len() < sessions as usize
            && self.core.waiting_count() == 0
            && self.reason.is_none()
        {
            self.claim();
        }
    }

    /// Those who wait give up.
    fn give_up(&mut self) {
        self.now_ns += WAIT_NS;
        self.tell(Event::Tick);
    }

    /// Sessions come and go around a number of them, and shards die.
    fn churn(&mut self, operations: u64, sessions: usize) {
        for operation in 1..=operations {
            let waiting = self.core.waiting_count();
            let missing = self.sessions.all.len() + waiting < sessions;
            if missing || self.sessions.all.is_empty() {
                self.claim()
            } else {
                self.release()
            }
            if operation % OPERATIONS_PER_DEATH == 0 {
                self.die();
            }
            if operation % OPERATIONS_PER_TICK == 0 {
                self.tick();
            }
        }
    }

    /// Asks a world that is full for more: what do those who wait cost, what those who don't, and what do they hear?
    fn overload(&mut self) {
        self.fill(u32::MAX);
        for _ in 0..OVERLOADS {
            let (took, _) = self.tell(Event::Tick);
            self.costs.add(Decision::InVain, took);
        }
        self.give_up();
        for _ in 0..OVERLOADS {
            let before = self.refusals;
            let (took, _) = self.request(0);
            let what = if self.refusals > before { Decision::Refusal } else { Decision::Claim };
            self.costs.add(what, took);
        }
    }
}

fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = text.split(' ').nth(1).and_then(|pages| pages.parse().ok());
    pages.unwrap_or(0) * rustix::param::page_size() as u64
}

fn play(world: World, args: &Args) {
    let application = world.application(args.shards, args.sessions);
    let shape = |c: &Component| format!("{} {} of {}", c.name, c.shards.warm, c.capacity);
    let shapes: Vec<_> = application.components.iter().take(5).map(shape).collect();
    println!("{world:?}: {} x ({}), seed {}", world.compositions(), shapes.join(", "), args.seed);

    let mut run = Run::new(&application, args);
    let (cold, start) = (resident_bytes(), Instant::now());
    run.tell(Event::Start);
    let (shards, warm) = (run.shards.all.len(), resident_bytes());
    let cells: u32 = (0..run.compositions).map(|c| run.core.cell_count(CompositionId(c))).sum();
    let (wires, seconds) = (run.core.wire_count(), start.elapsed().as_secs_f64());
    println!(
        "  {shards} shards, {wires} wires, {cells} cells in {seconds:.2} s, {} B a shard",
        (warm - cold) / shards as u64
    );

    let start = Instant::now();
    run.fill(args.sessions);
    let (sessions, seconds) = (run.sessions.all.len(), start.elapsed().as_secs_f64());
    let bytes = (resident_bytes() - warm) / sessions as u64;
    let more = run.core.wire_count() - wires;
    println!("  {sessions} sessions and {more} wires more in {seconds:.2} s, {bytes} B a session");
    run.costs.print();

    run.give_up();
    run.reason.take().inspect(|reason| println!("  then: {reason}"));
    (run.costs, run.refusals) = (Costs::new(), 0);
    run.churn(args.operations, sessions);
    let seconds = run.costs.seconds();
    println!(
        "  {} claims and releases: {:.0} a second; {} sessions lost with {} shards, {} refused",
        args.operations,
        args.operations as f64 / seconds,
        run.lost,
        args.operations / OPERATIONS_PER_DEATH,
        run.refusals,
    );
    run.overload();
    run.costs.print();
    println!("  full with {} sessions: {}\n", run.sessions.all.len(), run.reason.take().unwrap_or_default());
    run.core.check_invariants().expect("the books are in order");
}

fn main() {
    let mut args = Args::parse();
    if args.quick {
        (args.shards, args.sessions, args.operations) =
            (args.shards / 100, args.sessions / 100, args.operations / 100);
    }
    match args.world {
        Some(world) => play(world, &args),
        None => World::value_variants().iter().for_each(play_apart),
    }
}

/// Each world has a process of its own: what one has used of memory would hide what the next one needs.
fn play_apart(world: &World) {
    let name = world.to_possible_value().expect("no world is hidden");
    let mut command = Command::new(std::env::current_exe().expect("this program has a path"));
    command.args(std::env::args_os().skip(1)).args(["--world", name.get_name()]);
    assert!(command.status().expect("this program can be started").success(), "{world:?} failed");
}
