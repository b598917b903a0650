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
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
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

/// How long until a session was ready.
#[derive(Clone, Copy)]
struct Took {
    /// Since the composer was asked for it.
    composed: Duration,
    /// Since it arrived: while this program composed others, it waited.
    since_arrival: Duration,
}

/// What became of an arrival.
enum Served {
    Done { took: Took, tiers: Tiers },
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
        let (mut compose, mut arrival) = (times(), times());
        let (mut warm, mut cold, mut refused, mut failed) = (0, 0, 0, 0);
        let mut shards = [0u64; Tier::ALL.len()];
        for outcome in outcomes {
            match outcome {
                Served::Done { took, tiers } => {
                    record(&mut compose, took.composed);
                    record(&mut arrival, took.since_arrival);
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
        let [compose, arrival] = [compose, arrival]
            .map(|times| [0.5, 0.99, 1.0].map(|quantile| times.value_at_quantile(quantile) as f64 / 1e3));
        let sessions = warm + cold;
        println!("{sessions} sessions served, {failed} failed, {refused} refused; {warm} warm, {cold} cold");
        let of_tiers: Vec<_> =
            Tier::ALL.iter().zip(shards).map(|(tier, count)| format!("{count} {tier}")).collect();
        println!("shards   {}", of_tiers.join(", "));
        for (since, [p50, p99, max]) in [("compose ", compose), ("arrival ", arrival)] {
            println!("{since} p50 {p50:.1} µs, p99 {p99:.1} µs, max {max:.1} µs");
        }
        if self.json {
            let line = serde_json::json!({
                "sessions": sessions, "failed": failed, "refused": refused,
                "compose_p50_us": compose[0], "compose_p99_us": compose[1], "compose_max_us": compose[2],
                "arrival_p50_us": arrival[0], "arrival_p99_us": arrival[1], "arrival_max_us": arrival[2],
                "warm": warm, "cold": cold,
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
///
/// An arrival that comes while this thread is at work counts from when it came, not from when it was seen; one that this
/// thread slept for counts from when the kernel woke it.
fn play(composer: &Composer, composition: &str, arrivals: &[Arrival], speed: f64) -> Vec<Served> {
    let begin = Instant::now();
    let at = |seconds: f64| begin + Duration::from_secs_f64(seconds / speed);
    let open = OpenSessions::default();
    std::thread::scope(|scope| {
        let ender = scope.spawn(|| open.end_all());
        let open = Adder(&open);
        let mut outcomes = Vec::new();
        let mut asker = composer.asker();
        let mut next = arrivals.iter().enumerate().peekable();
        let mut awake = begin;
        while next.peek().is_some() || asker.waiting() > 0 {
            let now = Instant::now();
            while let Some((number, arrival)) = next.next_if(|(_, arrival)| at(arrival.start_s) <= now) {
                let came = at(arrival.start_s).max(awake);
                let ends = at(arrival.start_s + arrival.duration_s);
                let request = Request { number, ends, came, asked: Instant::now() };
                if let Err(error) = asker.ask(composition, COMPOSE_TIMEOUT, request) {
                    outcomes.push(Served::Refused(error.to_string()));
                }
            }
            let arrives = next.peek().map_or(now + COMPOSE_TIMEOUT, |(_, arrival)| at(arrival.start_s));
            let mut wait = arrives - now;
            if asker.waiting() == 0 {
                std::thread::sleep(wait);
                awake = Instant::now();
                continue;
            }
            let mut more = Vec::new();
            while let Some((request, answer)) = asker.next(wait) {
                match answer {
                    Ok(session) => more.push(request.answered(session)),
                    Err(error) => outcomes.push(Served::Refused(error.to_string())),
                }
                wait = Duration::ZERO;
            }
            open.add(more);
        }
        drop(open);
        outcomes.extend(ender.join().expect("it only ends sessions"));
        outcomes
    })
}

/// The sessions that are open.
#[derive(Default)]
struct OpenSessions {
    ends: Mutex<Ends>,
    sooner: Condvar,
}

/// The next end first.
#[derive(Default)]
struct Ends {
    endings: BinaryHeap<Reverse<Ending>>,
    /// No more will come.
    complete: bool,
}

impl Ends {
    fn next(&self) -> Option<Instant> {
        self.endings.peek().map(|Reverse(ending)| ending.at)
    }
}

/// Who adds sessions. Without it no more come, whatever ended it.
struct Adder<'a>(&'a OpenSessions);

impl Adder<'_> {
    /// The ender is woken only if one of them ends before all that it knows.
    fn add(&self, more: Vec<Ending>) {
        let mut ends = self.0.lock();
        let before = ends.next();
        ends.endings.extend(more.into_iter().map(Reverse));
        if ends.next() != before {
            self.0.sooner.notify_one();
        }
    }
}

impl Drop for Adder<'_> {
    fn drop(&mut self) {
        self.0.lock().complete = true;
        self.0.sooner.notify_one();
    }
}

impl OpenSessions {
    /// Ends sessions when it is time, until no more come.
    fn end_all(&self) -> Vec<Served> {
        let mut outcomes = Vec::new();
        let mut ends = self.lock();
        loop {
            let now = Instant::now();
            ends = match ends.next() {
                None if ends.complete => return outcomes,
                None => self.sooner.wait(ends).unwrap_or_else(PoisonError::into_inner),
                Some(at) if at <= now => {
                    let Reverse(ending) = ends.endings.pop().expect("it was just looked at");
                    drop(ends);
                    outcomes.push(end(ending));
                    self.lock()
                }
                Some(at) => {
                    self.sooner.wait_timeout(ends, at - now).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    fn lock(&self) -> MutexGuard<'_, Ends> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn end(ending: Ending) -> Served {
    if let Some(why) = ending.session.ending() {
        return Served::Failed(why.to_string());
    }
    let tiers = ending.session.tiers();
    drop(ending.session);
    Served::Done { took: ending.took, tiers }
}

/// What an arrival was asked for with.
struct Request {
    number: usize,
    ends: Instant,
    came: Instant,
    asked: Instant,
}

impl Request {
    fn answered(self, session: Session) -> Ending {
        let took = Took { composed: self.asked.elapsed(), since_arrival: self.came.elapsed() };
        Ending { at: self.ends, number: self.number, took, session }
    }
}

/// An open session and when it is to end.
struct Ending {
    at: Instant,
    number: usize,
    took: Took,
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
