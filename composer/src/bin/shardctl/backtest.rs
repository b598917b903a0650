//! `shardctl backtest`: pool policies over a recorded demand, with what each would have cost.

use crate::{Failure, Outcome};
use clap::Args;
use shard_composer::backtest::{Bound, History, Score, Setting, run};
use shard_composer::policy::{COLD_PRICE_MAX, COLD_PRICE_MIN, Choice, Frozen, Generic, Tiers};
use shard_composer::trace::{Reading, Trace, Unit};
use std::num::NonZeroU32;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Instant;

/// The policies that are run if none is named.
const POLICIES: [Choice; 9] = [
    Choice::FixedBuffer(1),
    Choice::Reactive,
    Choice::KeepAlive(1),
    Choice::KeepAlive(10),
    Choice::KeepAlive(20),
    Choice::KeepAlive(60),
    Choice::Headroom(10),
    Choice::Hybrid,
    Choice::ExpectedCost,
];
/// The simple rules: the best of them, chosen in hindsight for each price, is what policies are compared with.
const SIMPLE: [Choice; 5] = [
    Choice::KeepAlive(1),
    Choice::KeepAlive(10),
    Choice::KeepAlive(20),
    Choice::KeepAlive(60),
    Choice::Headroom(10),
];
/// Prices that `--cold-at-most` tries: from 1, so many for each power of ten, up to a thousand.
const TRIED_PER_TEN: i32 = 12;
const TRIED: i32 = 3 * TRIED_PER_TEN;

/// What `--help` says of the formats.
const FORMATS: &str = "\
Traces are CSV files with a header; the format is found by it:
  HashFunction,…,1,2,3,…     counts per minute, one function a row (Azure Functions 2019)
  …,func,end_timestamp,duration
                             one invocation a row, in seconds (Azure Functions 2021); also `start`, `end`;
                             a bin's demand is the most that run at a time during it
  timestamp,value            one point in time a row (also `period`), any number of columns with counts;
                             a time is `2014-07-01 00:30:00` or a number of seconds
  time_s,NAME,NAME,…         the plain format: the same with seconds, demand in slots, one component a column
The bin of the last two is the commonest step of time. Rows must be in the order of time. A row that is left out
is no bin: rows that follow each other are neighbours, and the output says how many were left out.

Example: two components in bins of a minute
  time_s,physics,chat
  0,12,3
  60,14,3

A cold start at price R costs as much as R slots that are warm and idle for a bin.
ratios: cost to that of `hybrid`; cost to the best of keep-alive-1, -10, -20, -60 and headroom in hindsight;
start-charged cost (every start costs 1) to the least that is possible with the future known.";

#[derive(Args)]
#[command(after_long_help = FORMATS)]
pub(crate) struct Backtest {
    /// The recorded demand: a CSV file, see below for the formats.
    #[arg(long, value_name = "FILE")]
    trace: PathBuf,
    /// Which policies: fixed-buffer-N, keep-alive-K, headroom, headroom-P (P per cent), hybrid, reactive,
    /// expected-cost. All by default, with a few Ns and Ks.
    #[arg(long, value_name = "NAME", num_args = 1.., value_delimiter = ',')]
    policy: Vec<Choice>,
    /// What a cold start costs, in slots that are warm and idle for a bin.
    #[arg(long, value_name = "R", num_args = 1.., value_delimiter = ',', value_parser = price,
          default_values_t = [10.0, 30.0, 100.0])]
    cold_price: Vec<f64>,
    /// Instead: of the prices from 1 to 1000 the one that gives the least idle slots with at most so many cold starts.
    #[arg(long, value_name = "N", conflicts_with = "cold_price")]
    cold_at_most: Option<u64>,
    /// The part of the trace after which bins are scored; policies run from its first bin.
    #[arg(long, value_name = "PART", default_value_t = 0.5, value_parser = part)]
    from: f64,
    /// The part of the trace after which it is cut off.
    #[arg(long, value_name = "PART", default_value_t = 1.0, value_parser = part)]
    to: f64,
    /// How counts become slots: `busy` (any count is one slot), or how much of a bin's count one slot serves.
    #[arg(long, value_name = "N|busy")]
    slots_per: Option<Unit>,
    /// The length of a bin in seconds, for traces of invocations; 60 by default.
    #[arg(long, value_name = "SECONDS")]
    bin_seconds: Option<NonZeroU32>,
    /// Slots can be frozen: what it costs to hold one, as a part of a ready one, and to thaw it, as a part of a cold
    /// start.
    #[arg(long, value_name = "IDLE,COLD", num_args = 0..=1, default_missing_value = "0.2,0.05", value_parser = frozen)]
    frozen: Option<Frozen>,
    /// Generic shards can become any kind: what that costs, as a part of a cold start.
    #[arg(long, value_name = "COLD", num_args = 0..=1, default_missing_value = "0.2", value_parser = generic)]
    generic: Option<Generic>,
    /// Draw demand, warm slots and cold starts of the scored bins: an SVG file of the last policy and price.
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// Print one JSON object a line.
    #[arg(long)]
    json: bool,
}

fn price(text: &str) -> Result<f64, String> {
    let price = text.parse().ok().filter(|price| (COLD_PRICE_MIN..=COLD_PRICE_MAX).contains(price));
    price.ok_or_else(|| format!("a price is a number from {COLD_PRICE_MIN} to {COLD_PRICE_MAX}"))
}

fn part(text: &str) -> Result<f64, String> {
    let part = text.parse().ok().filter(|part| (0.0..=1.0).contains(part));
    part.ok_or_else(|| "a part is a number from 0 to 1".into())
}

fn frozen(text: &str) -> Result<Frozen, String> {
    let (idle, cold) = text.split_once(',').ok_or("two parts are needed, as in `0.2,0.05`")?;
    Ok(Frozen { idle_part: part(idle)?, cold_part: part(cold)? })
}

fn generic(text: &str) -> Result<Generic, String> {
    Ok(Generic { cold_part: part(text)? })
}

/// A policy at a price, with what came of it.
struct Row {
    policy: Choice,
    cold_price: f64,
    score: Score,
    seconds: f64,
}

impl Backtest {
    pub(crate) fn run(self) -> Outcome {
        if let Some(file) = &self.plot {
            History::check(file).map_err(Failure::usage)?;
        }
        let reading = Reading { unit: self.slots_per, bin_s: self.bin_seconds };
        let trace = Trace::read(&self.trace, reading).map_err(Failure::usage)?;
        let bins = trace.bins() as f64;
        let scored = (self.from * bins) as usize..(self.to * bins) as usize;
        if scored.is_empty() {
            return Err(Failure::usage(format!(
                "no bins from {} to {} of the trace's {bins}; give a `--from` below `--to`",
                self.from, self.to
            )));
        }
        let table = Table::new(&self, &trace, scored)?;
        if !self.json {
            table.head();
        }
        let policies = if self.policy.is_empty() { &POLICIES[..] } else { &self.policy };
        let mut last = None;
        for &policy in policies {
            for row in self.rows(&table, policy)? {
                if self.json {
                    table.json(&row)
                } else {
                    table.line(&row)
                }
                last = Some(row);
            }
        }
        match (&self.plot, last) {
            (Some(file), Some(row)) => table.plot(file, &row),
            _ => Ok(()),
        }
    }

    /// A policy at each of the prices, or at the one that is looked for.
    fn rows(&self, table: &Table, policy: Choice) -> Result<Vec<Row>, Failure> {
        let Some(cold_max) = self.cold_at_most else {
            return table.at_prices(policy, &self.cold_price);
        };
        let tried = (0..=TRIED).map(|step| 10_f64.powf(f64::from(step) / f64::from(TRIED_PER_TEN)));
        let rows = table.at_prices(policy, &tried.collect::<Vec<_>>())?;
        let enough = rows.into_iter().filter(|row| row.score.cold <= cold_max);
        Ok(enough.min_by_key(|row| row.score.idle).into_iter().collect())
    }
}

/// What rows are compared with, and how they are printed.
struct Table<'a> {
    options: &'a Backtest,
    trace: &'a Trace,
    scored: Range<usize>,
    tiers: Tiers,
    bound: Bound,
    hybrid: Score,
    simple: Vec<Score>,
}

impl<'a> Table<'a> {
    fn new(options: &'a Backtest, trace: &'a Trace, scored: Range<usize>) -> Result<Self, Failure> {
        let simply = |policy| {
            let setting = Setting { policy, cold_price: 1.0, tiers: Tiers::default() };
            run(trace, setting, scored.clone(), |_, _| {}).map_err(Failure::usage)
        };
        Ok(Self {
            tiers: Tiers { frozen: options.frozen, generic: options.generic },
            bound: Bound::of(trace, scored.clone()),
            hybrid: simply(Choice::Hybrid)?,
            simple: SIMPLE.into_iter().map(simply).collect::<Result<_, _>>()?,
            scored,
            options,
            trace,
        })
    }

    fn at_prices(&self, policy: Choice, prices: &[f64]) -> Result<Vec<Row>, Failure> {
        let heeds_price = policy == Choice::ExpectedCost || self.tiers.generic.is_some();
        let mut rows: Vec<Row> = Vec::new();
        for &cold_price in prices {
            let known = rows.last().filter(|_| !heeds_price).map(|row| (row.score, row.seconds));
            let (score, seconds) = match known {
                Some(known) => known,
                None => {
                    let begin = Instant::now();
                    let score = self.score(policy, cold_price, |_, _| {})?;
                    (score, begin.elapsed().as_secs_f64())
                }
            };
            rows.push(Row { policy, cold_price, score, seconds });
        }
        Ok(rows)
    }

    fn score(
        &self,
        policy: Choice,
        cold_price: f64,
        each: impl FnMut(usize, shard_composer::backtest::Bin),
    ) -> Result<Score, Failure> {
        let setting = Setting { policy, cold_price, tiers: self.tiers };
        run(self.trace, setting, self.scored.clone(), each).map_err(Failure::usage)
    }

    fn head(&self) {
        let (trace, scored) = (self.trace, &self.scored);
        println!(
            "{}: {} kinds, {} bins of {} s, {} arrivals; scored: bins {} to {}",
            self.options.trace.display(),
            trace.kinds().len(),
            trace.bins(),
            trace.bin_s(),
            trace.arrivals(),
            scored.start,
            scored.end,
        );
        if trace.skipped_bins() > 0 {
            println!("left out in the file, and taken for no bins: {}", trace.skipped_bins());
        }
        println!(
            "demand {} slot-bins; {} slots were wanted for the first time, which nobody could have warm\n",
            self.hybrid.demand, self.bound.first_arrivals,
        );
        println!(
            "{:<16} {:>7} {:>9} {:>7} {:>10} {:>9} {:>12} {:>12} {:>7} {:>7} {:>7} {:>9}",
            "policy",
            "price",
            "cold",
            "%",
            "idle",
            "prestart",
            "cost",
            "with starts",
            "hybrid",
            "simple",
            "bound",
            "M arr/min",
        );
    }

    fn ratios(&self, row: &Row) -> [f64; 3] {
        let none = Tiers::default();
        let cost = row.score.cost(row.cold_price, &self.tiers);
        let simple = self.simple.iter().map(|score| score.cost(row.cold_price, &none));
        [
            cost / self.hybrid.cost(row.cold_price, &none),
            cost / simple.fold(f64::INFINITY, f64::min),
            row.score.start_charged_cost(row.cold_price, &self.tiers)
                / self.bound.start_charged_cost(row.cold_price),
        ]
    }

    /// The trace's arrivals up to the end of what was run, per minute of running.
    fn arrivals_per_minute(&self, row: &Row) -> f64 {
        let part = self.scored.end as f64 / self.trace.bins() as f64;
        self.trace.arrivals() as f64 * part / row.seconds.max(1e-9) * 60.0
    }

    fn line(&self, row: &Row) {
        let score = &row.score;
        let [hybrid, simple, bound] = self.ratios(row);
        println!(
            "{:<16} {:>7.2} {:>9} {:>7.3} {:>10} {:>9} {:>12.0} {:>12.0} {:>7.3} {:>7.3} {:>7.3} {:>9.1}",
            row.policy.to_string(),
            row.cold_price,
            score.cold,
            score.cold_percent(),
            score.idle,
            score.prestart,
            score.cost(row.cold_price, &self.tiers),
            score.start_charged_cost(row.cold_price, &self.tiers),
            hybrid,
            simple,
            bound,
            self.arrivals_per_minute(row) / 1e6,
        );
        if self.tiers.frozen.is_some() || self.tiers.generic.is_some() {
            println!(
                "{:<16} thawed {}, frozen idle {}; specialised {}, generic idle {}",
                "", score.thawed, score.frozen_idle, score.specialised, score.generic_idle,
            );
        }
    }

    fn json(&self, row: &Row) {
        let score = &row.score;
        let [hybrid, simple, bound] = self.ratios(row);
        let line = serde_json::json!({
            "policy": row.policy.to_string(),
            "cold_price": row.cold_price,
            "demand": score.demand,
            "cold": score.cold,
            "cold_percent": score.cold_percent(),
            "idle": score.idle,
            "prestart": score.prestart,
            "cost": score.cost(row.cold_price, &self.tiers),
            "start_charged_cost": score.start_charged_cost(row.cold_price, &self.tiers),
            "ratio_to_hybrid": hybrid,
            "ratio_to_simple": simple,
            "ratio_to_bound": bound,
            "first_arrivals": self.bound.first_arrivals,
            "thawed": score.thawed,
            "frozen_idle": score.frozen_idle,
            "specialised": score.specialised,
            "generic_idle": score.generic_idle,
            "skipped_bins": self.trace.skipped_bins(),
            "arrivals": self.trace.arrivals(),
            "arrivals_per_minute": self.arrivals_per_minute(row),
        });
        println!("{line}");
    }

    fn plot(&self, file: &std::path::Path, row: &Row) -> Outcome {
        let mut history = History::new(self.scored.start);
        self.score(row.policy, row.cold_price, |at, bin| {
            if at >= self.scored.start {
                history.push(bin);
            }
        })?;
        let name = self.options.trace.file_name().unwrap_or_default().display();
        let title = format!(
            "{name}: {} at a price of {} a cold start",
            row.policy,
            (row.cold_price * 100.0).round() / 100.0
        );
        history.draw(file, &title, self.trace.bin_s()).map_err(Failure::run)
    }
}
