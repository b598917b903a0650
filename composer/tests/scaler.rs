//! The scaler: from demand to targets, pure.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use shard_composer::core::{Core, PoolView, Tier};
use shard_composer::scaler::{Passed, ScaleError, Scaler, Target};
use shard_runtime::id::ComponentId;
use shardkit::application::Application;
use shardkit::manifest::Manifest;

const BIN_NS: u64 = 60_000_000_000;
const NOON: (u8, u16) = (0, 720);

fn application(pool: &str, component: &str) -> Application {
    let text = format!(
        "[application]\nname = \"a\"\n[pool]\n{pool}\n[component.echo]\nprogram = \"echo\"\n{component}\n"
    );
    Manifest::parse(&text, "a.toml").unwrap_or_else(|error| panic!("{error}")).into_application()
}

/// A scaler whose component has what it was last told to have.
struct World {
    scaler: Scaler,
    view: PoolView,
    now_ns: u64,
    ready: u32,
    room: Option<u32>,
}

impl World {
    fn new(pool: &str, component: &str) -> Self {
        let application = application(pool, component);
        let scaler = Scaler::new(&application, application.pool.as_ref().unwrap(), 0).unwrap();
        let view = Core::new(&application).pool(ComponentId(0)).unwrap();
        Self { scaler, view, now_ns: 0, ready: application.components[0].shards.warm, room: None }
    }

    /// A bin with this demand: how many shards are to be ready in the next.
    fn bin(&mut self, demand: u32) -> u32 {
        self.at(demand, NOON)
    }

    fn at(&mut self, demand: u32, time: (u8, u16)) -> u32 {
        self.now_ns += BIN_NS;
        assert!(self.scaler.due_ns() <= self.now_ns);
        let told = Passed { demand, pool: self.view, room: self.room };
        for Target { ready, .. } in self.scaler.decide(self.now_ns, time, |_| told) {
            self.ready = ready;
        }
        assert!(self.scaler.due_ns() > self.now_ns);
        self.ready
    }
}

#[test]
fn targets_follow_the_policy_in_whole_shards_between_floor_and_ceiling() {
    let mut world = World::new("policy = \"reactive\"", "capacity = 3\nwarm = 1\nmax = 5");
    let targets: Vec<u32> = [0, 3, 4, 9, 10, 1_000_000, 0].map(|demand| world.bin(demand)).into();
    assert_eq!(targets, [1, 1, 2, 3, 4, 5, 1]);
}

#[test]
fn demand_that_jumps_a_hundredfold_moves_a_pool_by_no_more_than_its_steps() {
    for policy in ["expected-cost", "hybrid", "reactive", "headroom", "keep-alive-10"] {
        let limits = "warm = 0\nmax = 100000\nscale = { step_up = 7, step_down = 3 }";
        let mut world = World::new(&format!("policy = \"{policy}\""), limits);
        let mut before = world.ready;
        let demand = |bin: u32| match bin {
            0..100 => 10,
            100..200 => 1_000,
            _ => 0,
        };
        for bin in 0..2_000 {
            let ready = world.bin(demand(bin));
            assert!(ready <= before + 7 && before <= ready + 3, "{policy}: {before} to {ready}");
            before = ready;
        }
        assert!(before <= 3, "{policy}: {before} are kept for demand that never comes");
    }
}

/// Agones #2379, through the manifest; the rule itself is `policy/limits.rs`'s.
#[test]
fn a_pools_buffer_is_the_largest_of_absolute_fraction_and_forecast() {
    let limits = "capacity = 2\nwarm = 0\nmax = 100\nscale = { buffer = 3, fraction = 0.5 }";
    let mut world = World::new("policy = \"keep-alive-2\"", limits);
    assert_eq!(world.bin(0), 2, "three places, though nobody came");
    assert_eq!(world.bin(4), 4, "4 in use and 3 more");
    assert_eq!(world.bin(40), 30, "40 in use and half of that");
    assert_eq!(world.bin(2), 20, "40 are forecast");
    let mut world = World::new("policy = \"keep-alive-2\"", "warm = 0\nmax = 100");
    assert_eq!(world.bin(0), 0, "zero is allowed (#1782)");
}

#[test]
fn a_schedule_the_hosts_room_and_a_budget_bound_the_target() {
    let night = "scale = { schedule = [{ from = \"22:00\", to = \"06:00\", floor = 4, ceiling = 6 }] }";
    let mut world = World::new("policy = \"reactive\"", &format!("warm = 1\nmax = 50\n{night}"));
    assert_eq!(world.at(0, (2, 23 * 60)), 4);
    assert_eq!(world.at(40, (3, 60)), 6);
    assert_eq!(world.at(40, (3, 6 * 60)), 40);
    assert!(world.scaler.why(ComponentId(0)).unwrap().contains("reactive wants 40"));
    world.room = Some(2);
    assert_eq!(world.at(50, NOON), 42, "the host has room for two more");
    assert!(world.scaler.why(ComponentId(0)).unwrap().contains("hosts have room"));

    let priced = "policy = \"reactive\"\nprices = { core_hour = 1, gib_hour = 0 }";
    let mut world = World::new(priced, "cores = 2\nmax = 50\nscale = { budget_hour = 7 }");
    assert_eq!(world.bin(40), 3, "a shard costs 2 an hour");
}

#[test]
fn a_dearer_wait_keeps_more_shards_ready() {
    let ready = |waiting_second: f64| {
        let pool = format!("prices = {{ core_hour = 1, waiting_second = {waiting_second} }}");
        let mut world = World::new(&pool, "cores = 1\nwarm = 0\nmax = 1000");
        // One session every tenth minute.
        (0..600u32).map(|bin| world.bin(u32::from(bin.is_multiple_of(10)))).skip(300).sum::<u32>()
    };
    let [cheap, dear] = [0.001, 10.0].map(ready);
    assert!(cheap < dear, "{cheap} shard-bins where waiting is cheap, {dear} where it is dear");
}

/// Two components that are dear to be held ready, in one generic program.
struct Spared {
    scaler: Scaler,
    view: PoolView,
    now_ns: u64,
}

impl Spared {
    fn new(pool: &str, component: &str, generic: &str) -> Self {
        let prices = "prices = { core_hour = 0, gib_hour = 1 }";
        let component = |name| {
            format!(
                "[component.{name}]\nprogram = \"p\"\nwarm = 0\nmax = 4\nmemory = \"1GiB\"\n{component}\n"
            )
        };
        let text = format!(
            "[application]\nname = \"a\"\n[pool]\n{prices}\n{pool}\n{}{}[generic.any]\nprogram = \"p\"\ncomponents = [\"one\", \"two\"]\n{generic}\n",
            component("one"),
            component("two")
        );
        let application =
            Manifest::parse(&text, "a.toml").unwrap_or_else(|error| panic!("{error}")).into_application();
        let scaler = Scaler::new(&application, application.pool.as_ref().unwrap(), 0).unwrap();
        let view = Core::new(&application).pool(ComponentId(0)).unwrap();
        Self { scaler, view, now_ns: 0 }
    }

    fn bin(&mut self, demand: [u32; 2]) -> Option<u32> {
        self.now_ns += BIN_NS;
        let pool = self.view;
        self.scaler.decide(self.now_ns, NOON, |ComponentId(at)| Passed {
            demand: demand[usize::from(at)],
            pool,
            room: None,
        });
        self.scaler.spares(0)
    }

    /// The spares after some bins in which each component is wanted now and then, by itself.
    fn busy(&mut self) -> Vec<u32> {
        let mut random = StdRng::seed_from_u64(1);
        let bins = (0..400).map(|_| [0; 2].map(|_: u32| u32::from(random.random_bool(0.4))));
        bins.map(|demand| self.bin(demand).unwrap()).skip(200).collect()
    }
}

#[test]
fn spares_follow_the_forecast_of_all_their_components_and_go_when_it_is_over() {
    let mut world = Spared::new("", "", "");
    let why = |world: &Spared| world.scaler.why_spares(ComponentId(1)).unwrap();
    assert_eq!(world.scaler.spares(0), Some(1), "nothing is known yet");
    assert_eq!(why(&world), "1 spares: nothing is forecast yet");
    assert_eq!(world.bin([0, 0]), Some(0), "nobody was ever here");
    assert!(why(&world).starts_with("0 spares, at most"), "{}", why(&world));
    let busy = world.busy();
    let told = why(&world);
    assert!(told.starts_with(&format!("{} spares", busy.last().unwrap())), "{told}");
    let mean = f64::from(busy.iter().sum::<u32>()) / busy.len() as f64;
    assert!((1.5..2.5).contains(&mean), "{mean} where two are often missing at once");
    let over: Vec<u32> = (0..400).map(|_| world.bin([0, 0]).unwrap()).collect();
    assert_eq!(over[200..], [0; 200], "{over:?}");

    // One component alone has fewer misses at once.
    let mut alone = Spared::new("", "", "");
    let most = (0..400).map(|bin| alone.bin([u32::from(bin % 3 == 0), 0]).unwrap()).max();
    assert_eq!(most, Some(1));
}

#[test]
fn spares_are_no_more_than_the_manifest_allows_and_its_number_is_its_own() {
    assert!(Spared::new("", "", "spares_max = 1").busy().iter().all(|spares| *spares <= 1));
    assert!(Spared::new("", "", "spares_max = 0").busy().iter().all(|spares| *spares == 0));
    assert_eq!(Spared::new("", "", "spares = 3").bin([1, 1]), None);
    let mut unforeseen = Spared::new("policy = \"fixed-buffer-0\"", "", "");
    assert_eq!([[1, 1], [0, 0]].map(|demand| unforeseen.bin(demand)), [Some(1); 2], "nobody forecasts");
}

#[test]
fn no_spare_waits_for_a_component_that_is_forked_or_starts_as_fast_cold() {
    assert!(Spared::new("", "zygote = true", "").busy().iter().all(|spares| *spares == 0));
    let measured = |cold_ms: u64, generic_ms: u64| {
        let mut world = Spared::new("", "", "");
        for (tier, ms) in [(Tier::Cold, cold_ms), (Tier::Generic, generic_ms)] {
            let cost = &mut world.view.costs[tier as usize];
            (cost.count, cost.mean_ns) = (9, ms * 1_000_000);
        }
        world.busy().iter().sum::<u32>()
    };
    assert_eq!(measured(100, 100), 0);
    let [little, much] = [(100, 90), (100, 10)].map(|(cold_ms, generic_ms)| measured(cold_ms, generic_ms));
    assert!(little < much, "{little} spare-bins where one saves little, {much} where it saves much");
}

#[test]
fn what_was_learned_survives_and_goes_to_no_other_application() {
    let pool = "policy = \"keep-alive-5\"";
    let mut world = World::new(pool, "max = 9");
    world.bin(8);
    let saved = world.scaler.save();
    let mut again = World::new(pool, "max = 9");
    again.scaler.restore(&saved).unwrap();
    assert_eq!((again.bin(0), world.bin(0)), (8, 8));
    let mut other = World::new("policy = \"keep-alive-6\"", "max = 9");
    assert!(other.scaler.restore(&saved).unwrap_err().contains("keep-alive-5"));
    for damaged in [&saved[..saved.len() / 2], b"", b"rubbish that is long enough to be read as something"] {
        assert!(other.scaler.restore(damaged).is_err());
    }
    assert_eq!(other.bin(0), 1, "nothing was taken over");
}

#[test]
fn bins_that_nobody_saw_are_caught_up_with() {
    let mut world = World::new("policy = \"keep-alive-3\"", "max = 9");
    world.bin(5);
    world.now_ns += 10 * BIN_NS;
    assert_eq!(world.bin(0), 1, "ten bins without demand have passed");
    world.now_ns += 1_000_000 * BIN_NS;
    world.bin(0);
}

#[test]
fn a_bin_that_can_not_be_is_named() {
    let mut application = application("", "");
    let mut pool = application.pool.take().unwrap();
    pool.policy = "magic".into();
    let error = Scaler::new(&application, &pool, 0).unwrap_err();
    assert!(matches!(error, ScaleError::Policy(_)) && error.to_string().contains("pool.policy"), "{error}");
}
