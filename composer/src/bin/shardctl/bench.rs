//! `shardctl bench`: how long composing and ending take.

use crate::{Failure, ManifestArg, Outcome, tiers};
use clap::Args;
use hdrhistogram::Histogram;
use shard_composer::Composer;
use std::time::{Duration, Instant};

/// Sessions at the start that are not counted.
const WARM_UP: usize = 200;

const SESSION_COUNT: usize = 10_000;
const TIER_COUNT: usize = 200;

#[derive(Args)]
pub(crate) struct Bench {
    #[command(flatten)]
    manifest: ManifestArg,
    /// Which composition; the first by default.
    #[arg(long, conflicts_with = "tiers")]
    composition: Option<String>,
    /// Measure instead how long it takes to get a shard, by tier. Every component with `warm = 1` is measured: its shard
    /// is killed again and again.
    #[arg(long)]
    tiers: bool,
    /// How many sessions, or, with `--tiers`, how many times each; 10000 and 200 by default.
    #[arg(long)]
    count: Option<usize>,
    /// Print JSON: one object, or, with `--tiers`, one a line.
    #[arg(long)]
    json: bool,
}

impl Bench {
    pub(crate) fn run(self) -> Outcome {
        let manifest = self.manifest.read()?;
        let first = manifest.application().compositions[0].name.clone();
        let composition = self.composition.unwrap_or(first);
        let composer = Composer::builder(manifest).quiet(true).start().map_err(Failure::usage)?;
        composer.wait_warm(Duration::from_secs(30)).map_err(Failure::run)?;

        if self.tiers {
            return tiers::measure(&composer, self.count.unwrap_or(TIER_COUNT), self.json);
        }
        let count = self.count.unwrap_or(SESSION_COUNT);
        let (mut compose, mut end) = (times(), times());
        for round in 0..WARM_UP + count {
            let start = Instant::now();
            let session = composer.compose(&composition).map_err(Failure::run)?;
            let composed = start.elapsed();
            let start = Instant::now();
            if !session.end(Duration::from_secs(5)) {
                return Err(Failure::run("a session did not end within 5 s"));
            }
            if round >= WARM_UP {
                record(&mut compose, composed);
                record(&mut end, start.elapsed());
            }
        }
        let us = |times: &Histogram<u64>, quantile| times.value_at_quantile(quantile) as f64 / 1e3;
        let figures = [us(&compose, 0.5), us(&compose, 0.99), us(&compose, 1.0), us(&end, 0.5)];
        if self.json {
            let [p50, p99, max, end] = figures;
            println!(
                "{}",
                serde_json::json!({
                    "composition": composition, "sessions": count, "compose_p50_us": p50,
                    "compose_p99_us": p99, "compose_max_us": max, "end_p50_us": end,
                })
            );
        } else {
            let [p50, p99, max, end] = figures;
            println!("{count} sessions of `{composition}`");
            println!("compose  p50 {p50:.2} µs, p99 {p99:.2} µs, max {max:.0} µs");
            println!("end      p50 {end:.2} µs");
        }
        Ok(())
    }
}

/// The longest duration that is told apart, in nanoseconds: ten minutes.
const TIME_NS_MAX: u64 = 600_000_000_000;

/// Durations in nanoseconds, to three digits.
pub(crate) fn times() -> Histogram<u64> {
    Histogram::new_with_max(TIME_NS_MAX, 3).expect("the bounds are possible")
}

/// Puts a duration in.
pub(crate) fn record(times: &mut Histogram<u64>, time: Duration) {
    times.saturating_record(time.as_nanos().min(u128::from(u64::MAX)) as u64);
}
