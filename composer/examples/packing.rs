//! How well and how fast the allocator packs: 10,000 components on as few hosts as it can.
//!
//! ```text
//! cargo run --release -p shard-composer --example packing              all mixes, three seeds
//! cargo run --release -p shard-composer --example packing -- --quick   one seed, and a fifth of the components
//! cargo run --release -p shard-composer --example packing -- --mix gpu --seed 7
//! cargo run --release -p shard-composer --example packing -- --mix balanced --offline
//! ```
//!
//! A decision is timed by the clock and by the processor time of its thread: on a host with other work, what is in the
//! first and not in the second is theirs.
//!
//! # What is packed
//!
//! The needs of a component follow from four numbers that a Gaussian copula with one factor correlates:
//! `z[i] = r[i] f + sqrt(1 - r[i]²) e[i]`, with `f` and `e[i]` from the standard normal distribution and
//! `r = (0.7, 0.7, 0.6, 0.5)`. With `k` the mix's factor for a resource and `U` the normal distribution's function:
//!
//! | need | distribution |
//! | --- | --- |
//! | cores | lognormal: `0.5 k exp(z)`, 32 at most; less than one is a share, more is rounded to whole processors |
//! | memory | lognormal: `2.4 k exp(1.1 z)` GiB, 128 at most |
//! | GPU memory | Pareto, for the highest 30 % of `z`: `2.2 k v^(-1/1.6)` GiB with `v = (1 - U(z)) / 0.3`, 40 at most |
//! | bandwidth | Pareto: `0.33 k (1 - U(z))^(-1/1.5)` Gbit/s, 40 at most |
//!
//! A host has two NUMA nodes, each with 64 processors (32 cores with two siblings), 256 GiB, two GPUs of 80 GiB and a
//! NIC of 100 Gbit/s. In the mix "unequal" there are
//! as many hosts as are wanted of another kind, too: one node with 64 processors, 384 GiB and 50 Gbit/s, without GPUs.
//!
//! # The bound
//!
//! Linear programming may divide components at will. Let `x[i][h]` be the part of component `i` on host `h`, and `y[h]` how
//! much of the host is used: minimise the sum of `y`, with all parts of a component together 1, and of each resource no more
//! on a host than `y[h]` times what it has. On equal hosts the largest quotient of need and capacity, over the resources,
//! is the optimum: it is reached by spreading every component evenly over so many hosts, and with fewer the
//! constraints of that resource, summed over the hosts, can't hold. Hosts that are unequal are of two kinds; hosts of a kind
//! can be thought of as one, so `x[i]`, the part of `i` on the first kind, is what is left, and that program is solved.
//! The bound ignores that a host keeps a processor for all, that GPU memory comes from one GPU, and that cores are whole.
//!
//! How far the bound is from what can be reached shows `--offline`: it knows all components beforehand, and fills host
//! after host with the one whose needs point most in the direction of what is left there (the dot product of Panigrahy,
//! Talwar, Uyeda and Wieder, "Heuristics for vector bin packing", 2011), each resource weighed by the square of how much
//! of it is still to be placed.
//!
//! Invariant: what is packed follows from the seed alone.

use clap::Parser;
use hdrhistogram::Histogram;
use microlp::{ComparisonOp, OptimizationDirection, Problem, SolveOutcome};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rustix::time::{ClockId, clock_gettime};
use shard_composer::resources::{Allocator, Grant, HostFile, Inventory};
use shardkit::application::Needs;
use std::f64::consts::PI;
use std::time::{Duration, Instant};

const GIB: f64 = (1_u64 << 30) as f64;
const GBIT: f64 = 1e9;
const CORRELATION: [f64; 4] = [0.7, 0.7, 0.6, 0.5];
/// The mixes, with their factors of cores, memory, GPU memory and bandwidth.
const MIXES: [(&str, [f64; 4]); 7] = [
    ("memory", [1.0, 1.0, 1.0, 1.0]),
    ("cores", [2.0, 1.0, 1.0, 1.0]),
    ("gpu", [1.0, 1.0, 2.0, 1.0]),
    ("bandwidth", [1.0, 1.0, 1.0, 2.0]),
    ("unequal", [1.0, 1.0, 1.0, 1.0]),
    ("balanced", [1.32, 1.0, 1.8, 1.9]),
    ("large", [6.0, 5.0, 8.0, 9.0]),
];

#[derive(Parser)]
#[command(about = "How well and how fast the allocator packs")]
struct Args {
    /// Components.
    #[arg(long, default_value_t = 10_000)]
    components: usize,
    /// Only this seed.
    #[arg(long)]
    seed: Option<u64>,
    /// Only this mix.
    #[arg(long)]
    mix: Option<String>,
    /// One seed and a fifth of the components.
    #[arg(long)]
    quick: bool,
    /// Pack with all components known beforehand, too.
    #[arg(long)]
    offline: bool,
}

fn main() {
    let mut args = Args::parse();
    if args.quick {
        args.components /= 5;
        args.seed = args.seed.or(Some(1));
    }
    println!(
        "mix        seed  bound | online: hosts ratio | largest first: hosts ratio | after churn: bound hosts ratio | a decision by the clock: p50 p99 max | by its thread's time"
    );
    for (name, factors) in
        MIXES.into_iter().filter(|(name, _)| args.mix.as_ref().is_none_or(|mix| mix == name))
    {
        for seed in args.seed.map_or(1..=3, |seed| seed..=seed) {
            let mut world = World::new(name, factors, seed);
            world.run(name, seed, args.components, args.offline);
        }
    }
}

struct World {
    random: StdRng,
    factors: [f64; 4],
    kinds: Vec<Inventory>,
    /// How long decisions took, by the clock and by the thread's processor time.
    times: [Histogram<u64>; 2],
}

impl World {
    fn new(name: &str, factors: [f64; 4], seed: u64) -> Self {
        let node = |node: u32| {
            let (first, second) = (node * 32, 64 + node * 32);
            let siblings: Vec<String> =
                (0..32).map(|at| format!("'{},{}'", first + at, second + at)).collect();
            format!(
                "[node.{node}]\nprocessors = '{first}-{},{second}-{}'\nsiblings = [{}]\nmemory = '256GiB'\n\
                 [gpu.g{node}a]\nnode = {node}\nmemory = '80GiB'\n[gpu.g{node}b]\nnode = {node}\nmemory = '80GiB'\n\
                 [nic.n{node}]\nnode = {node}\nspeed = '100Gbit/s'\n",
                first + 31,
                second + 31,
                siblings.join(",")
            )
        };
        let other =
            "probe = false\n[node.0]\nprocessors = '0-63'\nmemory = '384GiB'\n[nic.n]\nspeed = '50Gbit/s'";
        let mut kinds = vec![declared(&format!("probe = false\n{}{}", node(0), node(1)))];
        kinds.extend((name == "unequal").then(|| declared(other)));
        let times = Histogram::new_with_bounds(1, 10_000_000_000, 3).expect("the bounds are in order");
        Self { random: StdRng::seed_from_u64(seed), factors, kinds, times: [times.clone(), times] }
    }

    fn run(&mut self, name: &str, seed: u64, components: usize, offline: bool) {
        let mut all: Vec<Needs> = (0..components).map(|_| self.needs()).collect();
        let bound = self.bound(&all);
        let count = ((bound * 1.4) as usize + 8) * self.kinds.len();
        let hosts: Vec<Inventory> = (0..count).map(|at| self.kinds[at % self.kinds.len()].clone()).collect();

        let mut allocator = Allocator::new(hosts.clone()).expect("the hosts are well");
        let mut held: Vec<(Needs, Grant)> = Vec::with_capacity(components);
        for needs in &all {
            let grant = self.decide(&mut allocator, needs);
            held.push((*needs, grant));
        }
        let online = allocator.hosts_in_use();

        for _ in 0..components {
            let at = self.random.random_range(0..held.len());
            let (_, grant) = held.swap_remove(at);
            allocator.release(grant);
            let needs = self.needs();
            let grant = self.decide(&mut allocator, &needs);
            held.push((needs, grant));
        }
        let now: Vec<Needs> = held.iter().map(|(needs, _)| *needs).collect();
        let (churn_bound, churn) = (self.bound(&now), allocator.hosts_in_use());
        held.into_iter().for_each(|(_, grant)| allocator.release(grant));
        assert_eq!(allocator.hosts_in_use(), 0, "all came back");

        let had = capacity(&self.kinds[0]);
        let part =
            |needs: &Needs| -> f64 { (0..4).map(|at| amounts(needs)[at] / had[at]).fold(0.0, f64::max) };
        all.sort_by(|a, b| part(b).total_cmp(&part(a)));
        let mut allocator = Allocator::new(hosts).expect("the hosts are well");
        let grants: Vec<Grant> =
            all.iter().map(|needs| allocator.allocate(needs).expect("there are hosts enough")).collect();
        let sorted = allocator.hosts_in_use();
        drop(grants);

        let ratio = |hosts: usize, bound: f64| hosts as f64 / bound.ceil();
        let [clock, own] = self.times.each_ref().map(|times| {
            let time = |ns| format!("{:.1?}", Duration::from_nanos(ns));
            let [p50, p99] = [0.5, 0.99].map(|q| time(times.value_at_quantile(q)));
            format!("{p50} {p99} {}", time(times.max()))
        });
        println!(
            "{name:<10} {seed:>4} {bound:>6.1} | {online:>13} {:.3} | {sorted:>20} {:.3} | {churn_bound:>18.1} {churn:>5} {:.3} | {clock:>36} | {own:>20}",
            ratio(online, bound),
            ratio(sorted, bound),
            ratio(churn, churn_bound),
        );
        if offline && self.kinds.len() == 1 {
            let hosts = self.offline(&all);
            println!("{name:<10} {seed:>4} {bound:>6.1} | offline: {hosts} {:.3}", ratio(hosts, bound));
        }
    }

    /// How many hosts are needed by somebody who knows all components: see the head of this file.
    fn offline(&self, all: &[Needs]) -> usize {
        let had = capacity(&self.kinds[0]);
        let mut rest: Vec<(Needs, [f64; 4])> = all
            .iter()
            .map(|needs| (*needs, std::array::from_fn(|at| amounts(needs)[at] / had[at])))
            .collect();
        let mut hosts = 0;
        while !rest.is_empty() {
            hosts += 1;
            let sums: [f64; 4] = std::array::from_fn(|at| rest.iter().map(|(_, parts)| parts[at]).sum());
            let most = sums.into_iter().fold(0.0, f64::max);
            let weights = sums.map(|sum: f64| (sum / most).powi(2));
            let dot = |a: &[f64; 4], b: &[f64; 4]| (0..4).map(|at| weights[at] * a[at] * b[at]).sum::<f64>();
            let mut host = Allocator::new(vec![self.kinds[0].clone()]).expect("the host is well");
            let mut left = [1.0; 4];
            // Those that the host has refused it has no room for later, either.
            let mut refused = Vec::new();
            loop {
                let fit = (0..rest.len()).filter(|&one| (0..4).all(|at| rest[one].1[at] <= left[at]));
                let along =
                    |one: usize| dot(&rest[one].1, &left) / dot(&rest[one].1, &rest[one].1).sqrt().max(1e-12);
                let best = fit.map(|one| (along(one), one)).max_by(|a, b| a.0.total_cmp(&b.0));
                let Some((_, best)) = best else { break };
                let (needs, parts) = rest.swap_remove(best);
                match host.allocate(&needs) {
                    Ok(grant) if grant.parts().len() == 1 => (0..4).for_each(|at| left[at] -= parts[at]),
                    Ok(spread) => {
                        host.release(spread);
                        refused.push((needs, parts));
                    }
                    Err(_) => refused.push((needs, parts)),
                }
            }
            rest.extend(refused);
        }
        hosts
    }

    fn decide(&mut self, allocator: &mut Allocator, needs: &Needs) -> Grant {
        let (start, start_own) = (Instant::now(), own_time());
        let grant = allocator.allocate(needs).expect("there are hosts enough");
        let times = [own_time() - start_own, start.elapsed()];
        let [clock, own] = &mut self.times;
        own.saturating_record(times[0].as_nanos() as u64);
        clock.saturating_record(times[1].as_nanos() as u64);
        grant
    }

    /// What one component needs: see the head of this file.
    fn needs(&mut self) -> Needs {
        let factor = normal(&mut self.random);
        let z = CORRELATION.map(|r| r * factor + (1.0 - r * r).sqrt() * normal(&mut self.random));
        let k = self.factors;
        let cores = (0.5 * k[0] * z[0].exp()).min(32.0);
        let memory = (2.4 * k[1] * (1.1 * z[1]).exp()).min(128.0);
        let rest = (1.0 - distribution(z[2])) / 0.3;
        let gpu = if rest < 1.0 { (2.2 * k[2] * rest.max(1e-9).powf(-1.0 / 1.6)).min(40.0) } else { 0.0 };
        let bandwidth = (0.33 * k[3] * (1.0 - distribution(z[3])).max(1e-9).powf(-1.0 / 1.5)).min(40.0);
        Needs {
            cores: if cores < 1.0 { 0 } else { cores.round() as u32 },
            share_millicores: if cores < 1.0 { (cores * 1000.0) as u32 } else { 0 },
            memory_bytes: (memory * GIB) as u64,
            huge_pages_bytes: 0,
            processes: 64,
            gpu_memory_bytes: (gpu * GIB) as u64,
            bandwidth_bits_per_s: (bandwidth * GBIT) as u64,
            ..Needs::default()
        }
    }

    /// The bound of linear programming: see the head of this file.
    fn bound(&self, all: &[Needs]) -> f64 {
        match self.kinds.as_slice() {
            [kind] => {
                let had = capacity(kind);
                let needed = |at: usize| all.iter().map(|needs| amounts(needs)[at]).sum::<f64>();
                (0..4).map(|at| needed(at) / had[at]).fold(0.0, f64::max)
            }
            kinds => {
                let had: Vec<[f64; 4]> = kinds.iter().map(capacity).collect();
                let mut problem = Problem::new(OptimizationDirection::Minimize);
                let used = [(); 2].map(|()| problem.add_var(1.0, (0.0, f64::INFINITY)));
                let parts: Vec<_> = all.iter().map(|_| problem.add_var(0.0, (0.0, 1.0))).collect();
                for (at, (first_had, other_had)) in had[0].into_iter().zip(had[1]).enumerate() {
                    // In parts of what the first kind has, so that the solver meets numbers of one size.
                    let need = |needs: &Needs| amounts(needs)[at] / first_had;
                    let first = all.iter().zip(&parts).map(|(needs, part)| (*part, need(needs)));
                    let first: Vec<_> = first.chain([(used[0], -1.0)]).collect();
                    problem.add_constraint(first, ComparisonOp::Le, 0.0);
                    let rest = all.iter().zip(&parts).map(|(needs, part)| (*part, -need(needs)));
                    let rest: Vec<_> = rest.chain([(used[1], -other_had / first_had)]).collect();
                    let sum: f64 = all.iter().map(need).sum();
                    problem.add_constraint(rest, ComparisonOp::Le, -sum);
                }
                match problem.solve().expect("enough hosts hold everything") {
                    SolveOutcome::Solution(solution) => solution.objective(),
                    SolveOutcome::Interrupted(_) => unreachable!("no limit was set"),
                }
            }
        }
    }
}

/// The processor time that this thread has had.
fn own_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn declared(text: &str) -> Inventory {
    let file = HostFile::parse(text, "packing").unwrap_or_else(|error| panic!("{error}"));
    file.apply(Inventory::empty()).unwrap_or_else(|error| panic!("{error}"))
}

fn amounts(needs: &Needs) -> [f64; 4] {
    let cores = f64::from(needs.cores) + f64::from(needs.share_millicores) / 1000.0;
    [cores, needs.memory_bytes as f64, needs.gpu_memory_bytes as f64, needs.bandwidth_bits_per_s as f64]
}

fn capacity(host: &Inventory) -> [f64; 4] {
    let bandwidth: u64 = host.nics.iter().filter_map(|nic| nic.bits_per_s).sum();
    [
        host.processors().count() as f64,
        host.memory_bytes() as f64,
        host.gpu_memory_bytes() as f64,
        bandwidth as f64,
    ]
}

/// A number from the standard normal distribution (Box and Muller).
fn normal(random: &mut StdRng) -> f64 {
    let (a, b): (f64, f64) = (random.random::<f64>().max(f64::MIN_POSITIVE), random.random());
    (-2.0 * a.ln()).sqrt() * (2.0 * PI * b).cos()
}

/// The standard normal distribution's function (Abramowitz and Stegun 26.2.17, good to 7 digits).
fn distribution(x: f64) -> f64 {
    let t = 1.0 / (1.0 + 0.231_641_9 * x.abs());
    let series = [0.319_381_530, -0.356_563_782, 1.781_477_937, -1.821_255_978, 1.330_274_429];
    let sum = series.iter().rev().fold(0.0, |sum, c| (sum + c) * t);
    let tail = (-x * x / 2.0).exp() / (2.0 * PI).sqrt() * sum;
    if x > 0.0 { 1.0 - tail } else { tail }
}
