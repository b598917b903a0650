//! What a decision costs: 10,000 kinds, once for a bin.

use criterion::{Criterion, criterion_group, criterion_main};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use shard_composer::policy::{Choice, Policy};
use std::hint::black_box;

const KINDS: usize = 10_000;
/// Bins that pass before it is measured, and that are then played again and again.
const BINS: usize = 480;
const SEED: u64 = 1;

/// A policy with a past, and the demand of some bins; of every hundred kinds so many are busy series, the others are
/// timers and rare ones.
fn past(busy_percent: usize) -> (Policy, Vec<Vec<u32>>) {
    let mut random = StdRng::seed_from_u64(SEED);
    let mut policy = Policy::new(Choice::ExpectedCost, 60.0).expect("a minute is a bin");
    let mut kinds: Vec<(bool, usize, f64)> = Vec::new();
    for kind in 0..KINDS {
        policy.add(30.0);
        let period = [1, 2, 5, 5, 5, 10, 15, 60][random.random_range(0..8)];
        let rate = 10_f64.powf(random.random_range(-3.0..0.0));
        kinds.push((kind % 100 < busy_percent, if kind % 2 == 0 { period } else { 0 }, rate));
    }
    let mut bin = |at: usize| -> Vec<u32> {
        let demand = kinds.iter().map(|&(busy, period, rate)| match (busy, period) {
            (true, _) => random.random_range(50..100),
            (false, 0) => u32::from(random.random_bool(rate)),
            (false, period) => u32::from(at.is_multiple_of(period)),
        });
        demand.collect()
    };
    let bins: Vec<Vec<u32>> = (0..BINS).map(&mut bin).collect();
    for demand in &bins {
        black_box(policy.decide(demand));
    }
    (policy, bins)
}

fn decisions(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("policy");
    group.sample_size(20);
    for (name, busy_percent) in
        [("10,000 kinds, rare and timers", 0), ("10,000 kinds, a tenth of them busy series", 10)]
    {
        let (mut policy, bins) = past(busy_percent);
        let mut at = 0;
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                at = (at + 1) % BINS;
                black_box(policy.decide(&bins[at]));
            });
        });
    }
    group.finish();
}

criterion_group!(benches, decisions);
criterion_main!(benches);
