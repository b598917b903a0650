//! `shardctl replay`: real arrivals. Composes and ends sessions as a trace says, faster by a factor.

use crate::bench::{record, times};
use crate::{Failure, ManifestArg, Outcome};
use clap::Args;
use shard_composer::core::{Tier, Tiers};
use shard_composer::trace::{Arrival, read_arrivals};
use shard_composer::{COMPOSE_TIMEOUT, Composer, Session};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::{Duration, Instant};

#[derive(Args)]
pub(crate) struct Replay {
    #[command(flatten)]
    manifest: ManifestArg,
    /// A CSV file with a header: columns `start` (or `start_timestamp`) or `end` (or `end_timestamp`), and
    /// `duration`, in seconds. Other columns are ignored.
    #[arg(long)]
    trace: PathBuf,
    /// How much faster than the trace.
    #[arg(long, default_value_t = 1.0)]
    speed: f64,
    /// Which composition; the first by default.
    #[arg(long)]
    composition: Option<String>,
    /// Print one JSON object as the last line.
    #[arg(long)]
    json: bool,
}

/// What became of an arrival.
enum Served {
    Done { composed: Duration, tiers: Tiers },
    Refused(String),
    Failed(String),
}

impl Replay {
    pub(crate) fn run(self) -> Outcome {
        if !(self.speed.is_finite() && self.speed > 0.0) {
            return Err(Failure::usage(format!("--speed is {}; it must be a positive number", self.speed)));
        }
        let arrivals = read_arrivals(&self.trace).map_err(Failure::usage)?;
        let manifest = self.manifest.read()?;
        let first = manifest.application().compositions[0].name.clone();
        let composition = self.composition.clone().unwrap_or(first);
        let composer = Composer::builder(manifest).quiet(true).start().map_err(Failure::usage)?;
        composer.wait_warm(Duration::from_secs(30)).map_err(Failure::run)?;
        let outcomes = play(&composer, &composition, &arrivals, self.speed);
        self.report(&outcomes)
    }

    fn report(&self, outcomes: &[Served]) -> Outcome {
        let mut compose = times();
        let (mut warm, mut cold, mut refused, mut failed) = (0, 0, 0, 0);
        let mut shards = [0u64; Tier::ALL.len()];
        for outcome in outcomes {
            match outcome {
                Served::Done { composed, tiers } => {
                    record(&mut compose, *composed);
                    if tiers.started() > 0 {
                        cold += 1
                    } else {
                        warm += 1
                    }
                    for (count, tier) in shards.iter_mut().zip(Tier::ALL) {
                        *count += u64::from(tiers.of(tier));
                    }
                }
                Served::Refused(why) => {
                    refused += 1;
                    eprintln!("refused: {why}");
                }
                Served::Failed(why) => {
                    failed += 1;
                    eprintln!("failed: {why}");
                }
            }
        }
        let us = |quantile| compose.value_at_quantile(quantile) as f64 / 1e3;
        let (p50, p99, max) = (us(0.5), us(0.99), us(1.0));
        let sessions = warm + cold;
        println!("{sessions} sessions served, {failed} failed, {refused} refused; {warm} warm, {cold} cold");
        let of_tiers: Vec<_> =
            Tier::ALL.iter().zip(shards).map(|(tier, count)| format!("{count} {tier}")).collect();
        println!("shards   {}", of_tiers.join(", "));
        println!("compose  p50 {p50:.1} µs, p99 {p99:.1} µs, max {max:.1} µs");
        if self.json {
            let line = serde_json::json!({
                "sessions": sessions, "failed": failed, "refused": refused, "compose_p50_us": p50,
                "compose_p99_us": p99, "compose_max_us": max, "warm": warm, "cold": cold,
                "tiers": serde_json::Map::from_iter(
                    Tier::ALL.iter().zip(shards).map(|(tier, count)| (tier.to_string(), count.into()))
                ),
            });
            println!("{line}");
        }
        if failed + refused > 0 { Err(Failure::run("not every session was served")) } else { Ok(()) }
    }
}

/// Plays the trace as an event-driven backend would: this thread asks when somebody arrives and takes the answers, so that
/// no arrival waits for another; a second one ends sessions, in the order of their ends.
fn play(composer: &Composer, composition: &str, arrivals: &[Arrival], speed: f64) -> Vec<Served> {
    let begin = Instant::now();
    let at = |seconds: f64| begin + Duration::from_secs_f64(seconds / speed);
    let (ready, to_end) = mpsc::channel();
    std::thread::scope(|scope| {
        let ender = scope.spawn(|| end_all(to_end));
        let mut outcomes = Vec::new();
        let mut asker = composer.asker();
        let mut next = arrivals.iter().enumerate().peekable();
        while next.peek().is_some() || asker.waiting() > 0 {
            let now = Instant::now();
            while let Some((number, arrival)) = next.next_if(|(_, arrival)| at(arrival.start_s) <= now) {
                let ends = at(arrival.start_s + arrival.duration_s);
                if let Err(error) = asker.ask(composition, COMPOSE_TIMEOUT, (number, ends, Instant::now())) {
                    outcomes.push(Served::Refused(error.to_string()));
                }
            }
            let arrives = next.peek().map_or(now + COMPOSE_TIMEOUT, |(_, arrival)| at(arrival.start_s));
            if asker.waiting() == 0 {
                std::thread::sleep(arrives.saturating_duration_since(now));
            } else if let Some(((number, at, asked), answer)) = asker.next(arrives - now) {
                match answer {
                    // The ender lives until this thread drops its sender.
                    Ok(session) => {
                        let _ = ready.send(Ending { at, number, took: asked.elapsed(), session });
                    }
                    Err(error) => outcomes.push(Served::Refused(error.to_string())),
                }
            }
        }
        drop(ready);
        outcomes.extend(ender.join().expect("it only ends sessions"));
        outcomes
    })
}

/// Ends sessions when it is time, until no more come.
fn end_all(sessions: mpsc::Receiver<Ending>) -> Vec<Served> {
    let mut outcomes = Vec::new();
    let mut open = BinaryHeap::new();
    loop {
        let now = Instant::now();
        while open.peek().is_some_and(|Reverse(ending): &Reverse<Ending>| ending.at <= now) {
            let Reverse(ending) = open.pop().expect("it was just looked at");
            outcomes.push(end(ending));
        }
        let wake = open.peek().map_or(now + COMPOSE_TIMEOUT, |Reverse(ending)| ending.at);
        match sessions.recv_timeout(wake.saturating_duration_since(now)) {
            Ok(ending) => open.push(Reverse(ending)),
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) if open.is_empty() => return outcomes,
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                std::thread::sleep(wake.saturating_duration_since(now));
            }
        }
    }
}

fn end(ending: Ending) -> Served {
    if let Some(why) = ending.session.ending() {
        return Served::Failed(why.to_string());
    }
    let tiers = ending.session.tiers();
    drop(ending.session);
    Served::Done { composed: ending.took, tiers }
}

/// An open session and when it is to end.
struct Ending {
    at: Instant,
    number: usize,
    took: Duration,
    session: Session,
}

impl PartialEq for Ending {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Ending {}

impl PartialOrd for Ending {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Ending {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}
