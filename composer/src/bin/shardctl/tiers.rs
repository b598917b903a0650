//! `shardctl bench --tiers`: what a shard costs, by where it comes from.

use crate::bench::{record, times};
use crate::{Failure, Outcome};
use hdrhistogram::Histogram;
use rustix::process::{Pid, Signal, kill_process};
use shard_composer::core::{ShardState, Tier};
use shard_composer::{Composer, ShardInfo};
use shardkit::application::Component;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a shard is left alone after it was frozen, so that it surely is.
const FREEZE_TAKES: Duration = Duration::from_millis(5);

type Times = BTreeMap<Tier, Histogram<u64>>;

/// Measures every component that has exactly one warm shard: that shard is killed again and again, and the next one
/// comes from what is at hand; then it is frozen and thawed, and composed into a session. Where there is none to kill
/// there is nothing to measure.
pub(crate) fn measure(composer: &Composer, count: usize, json: bool) -> Outcome {
    if !json {
        println!(
            "from its launch until it is ready; frozen: from the thaw until a session is composed; ready: without one"
        );
        println!(
            "{:<16} {:<8} {:>6} {:>10} {:>10} {:>10}",
            "component", "tier", "count", "p50 µs", "p99 µs", "max µs"
        );
    }
    let components = composer.application().components.clone();
    for component in components.iter().filter(|c| c.program.is_some() && c.shards.warm == 1) {
        let mut times = Times::new();
        for _ in 0..count {
            start_anew(composer, component, &mut times)?;
        }
        for tier in [Tier::Ready, Tier::Frozen] {
            for _ in 0..count {
                compose(composer, component, tier, &mut times)?;
            }
        }
        for (tier, times) in &times {
            show(&component.name, *tier, times, json);
        }
    }
    Ok(())
}

/// Kills the component's shard and waits for the next one.
fn start_anew(composer: &Composer, component: &Component, times: &mut Times) -> Outcome {
    until("all spares and zygotes wait", || composer.sources().iter().all(|source| source.waiting))?;
    let old = ready(composer, component)?;
    // It may have ended by itself.
    let _ = Pid::from_raw(old.pid as i32).map(|pid| kill_process(pid, Signal::KILL));
    until("the next shard is ready", || find(composer, component).is_some_and(|shard| shard.id != old.id))?;
    if let Some(start) = composer.starts(&component.name).last() {
        record(times.entry(start.tier).or_insert_with(self::times), start.took);
    }
    Ok(())
}

/// Composes a session with the component's shard, which was frozen before if `tier` says so.
fn compose(composer: &Composer, component: &Component, tier: Tier, times: &mut Times) -> Outcome {
    let application = composer.application();
    let has = |composition: &&shardkit::application::Composition| {
        composition.components.iter().any(|id| application.component(*id).name == component.name)
    };
    let Some(composition) = application.compositions.iter().find(has) else { return Ok(()) };
    let shard = ready(composer, component)?;
    if tier == Tier::Frozen {
        composer.freeze(shard.id);
        std::thread::sleep(FREEZE_TAKES);
    }
    let start = Instant::now();
    if tier == Tier::Frozen {
        composer.thaw(shard.id);
    }
    let session = composer.compose(&composition.name).map_err(Failure::run)?;
    record(times.entry(tier).or_insert_with(self::times), start.elapsed());
    if !session.end(PATIENCE) {
        return Err(Failure::run(format!("a session of `{}` did not end", composition.name)));
    }
    Ok(())
}

fn ready(composer: &Composer, component: &Component) -> Result<ShardInfo, Failure> {
    until("a shard is ready", || find(composer, component).is_some())?;
    find(composer, component).ok_or_else(|| Failure::run(format!("`{}` has no shard", component.name)))
}

fn find(composer: &Composer, component: &Component) -> Option<ShardInfo> {
    let is_ready = |shard: &ShardInfo| {
        shard.component == component.name && shard.state == ShardState::Ready && shard.pid != 0
    };
    composer.shards().into_iter().find(is_ready)
}

fn until(what: &str, mut done: impl FnMut() -> bool) -> Outcome {
    let start = Instant::now();
    while !done() {
        if start.elapsed() >= PATIENCE {
            return Err(Failure::run(format!("after {PATIENCE:?} still not: {what}")));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

fn show(component: &str, tier: Tier, times: &Histogram<u64>, json: bool) {
    let [p50, p99, max] = [0.5, 0.99, 1.0].map(|quantile| times.value_at_quantile(quantile) as f64 / 1e3);
    let count = times.len();
    if json {
        let tier = tier.to_string();
        let figures = serde_json::json!({
            "component": component, "tier": tier, "count": count, "p50_us": p50, "p99_us": p99, "max_us": max,
        });
        println!("{figures}");
    } else {
        let tier = tier.to_string();
        println!("{component:<16} {tier:<8} {count:>6} {p50:>10.0} {p99:>10.0} {max:>10.0}");
    }
}
