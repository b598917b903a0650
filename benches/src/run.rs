//! Runs a plan: opens a group's pairs, lets them take turns for some rounds, and hands out the medians.
//!
//! Drift of the machine hits all pairs of a group alike, because a round visits every one of them; a ratio is taken
//! within each round, and its median over the rounds is what is reported. Rounds are as long as the wall clock
//! allows, so that everything ends in the time that was asked for.

use crate::case::{Case, Yield};
use crate::channel::{SAMPLES_MAX, Samples};
use crate::control::{Control, Order};
use crate::cores::Cores;
use crate::error::Result;
use crate::far::Far;
use crate::peer::{End, Handover};
use crate::plan::Entry;
use hdrhistogram::Histogram;
use std::time::{Duration, Instant};

/// The first guess at how many messages make a round; doubled until a round is long enough to extrapolate from.
const FIRST_COUNT: u64 = 64;
/// A round of this length tells how long others will take.
const LONG_ENOUGH: Duration = Duration::from_micros(500);
/// The most messages of one round.
const COUNT_MAX: u64 = 1 << 24;
/// The longest time that a histogram tells from a longer one.
const TIME_NS_MAX: u64 = 60_000_000_000;

/// A row of the report.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Who.
    pub peer: &'static str,
    /// What.
    pub case: Case,
    /// Medians over the rounds of each round's percentiles; only of tests that time each message.
    pub percentiles_ns: Option<Percentiles>,
    /// The time for one message or poll, on average: the median over the rounds.
    pub each_ns: f64,
    /// Its figure by that of its reference, in the same round: the median over the rounds.
    pub ratio: f64,
    /// Its figure minus that of its reference, in the same round: the median over the rounds.
    pub extra_ns: f64,
    /// Its reference: who, and in which case.
    pub reference: (&'static str, Case),
    /// Its reference's figure, in nanoseconds.
    pub reference_ns: f64,
}

/// Percentiles of round trips, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Percentiles {
    /// The median.
    pub p50: f64,
    /// The 99th percentile.
    pub p99: f64,
    /// The 99.9th percentile.
    pub p999: f64,
}

/// What one round gave.
#[derive(Clone, Copy)]
struct Round {
    percentiles: Option<Percentiles>,
    each_ns: f64,
}

impl Round {
    /// The figure that ratios are made of.
    fn figure(&self) -> f64 {
        self.percentiles.map_or(self.each_ns, |percentiles| percentiles.p50)
    }
}

/// An open pair. The fields are dropped in this order: the near end, then the socket, so the far end ends.
struct Pair<'a> {
    entry: Entry<'a>,
    near: Box<dyn End>,
    control: Control,
    _far: Far,
    count: u64,
    rounds: Vec<Round>,
}

impl<'a> Pair<'a> {
    fn open(entry: Entry<'a>, cores: Cores) -> Result<Self> {
        let (near, handover) = entry.peer.open(&entry.case)?;
        let (control, socket) = Control::pair()?;
        let far = match handover {
            Handover::Process(handed) => {
                let far = Far::spawn_process(cores.far, socket)?;
                let peer = entry.peer.name().to_owned();
                let order = Order::Join { peer, case: entry.case, argument: handed.argument };
                control.send(&order, &handed.descriptors)?;
                far
            }
            Handover::Thread(open) => Far::spawn_thread(cores.far, socket, entry.case, open),
        };
        control.ready()?;
        Ok(Self { entry, near, control, _far: far, count: FIRST_COUNT, rounds: Vec::new() })
    }

    /// Finds how many messages take about `slice`.
    fn calibrate(&mut self, slice: Duration, samples: &mut Samples) -> Result<()> {
        loop {
            let start = Instant::now();
            let round = self.round(samples)?;
            if start.elapsed() >= LONG_ENOUGH.min(slice) || self.count >= COUNT_MAX {
                let most = if round.percentiles.is_some() { SAMPLES_MAX as u64 } else { COUNT_MAX };
                self.count = ((slice.as_nanos() as f64 / round.each_ns) as u64).clamp(FIRST_COUNT, most);
                return Ok(());
            }
            self.count *= 2;
        }
    }

    fn round(&mut self, samples: &mut Samples) -> Result<Round> {
        let count = self.count;
        samples.clear();
        self.control.send(&Order::Round { count }, &[])?;
        self.control.ready()?;
        let start = Instant::now();
        match self.entry.case.test.yields() {
            Yield::EachRoundTrip => self.near.round_trips(count, samples)?,
            Yield::NearTotal => self.near.send_all(count)?,
            Yield::FarTotal => {}
        }
        let here = start.elapsed();
        let there = self.control.done()?;
        let total = if self.entry.case.test.yields() == Yield::FarTotal { there } else { here };
        Ok(Round {
            percentiles: percentiles(samples.nanoseconds(), samples.step_ns()),
            each_ns: total.as_nanos() as f64 / count as f64,
        })
    }
}

fn percentiles(nanoseconds: impl Iterator<Item = u64>, step_ns: f64) -> Option<Percentiles> {
    let mut histogram =
        Histogram::<u64>::new_with_bounds(1, TIME_NS_MAX, 3).expect("bounds that are allowed");
    nanoseconds.for_each(|ns| histogram.saturating_record(ns));
    let at = |quantile| quantile_ns(&histogram, step_ns, quantile);
    Some(Percentiles { p50: at(0.5)?, p99: at(0.99)?, p999: at(0.999)? })
}

/// The value at a quantile, finer than the timer.
///
/// Some processors' counters move in steps of 10 ns, so round trips of 100 ns show a handful of values. The time of
/// a round trip falls anywhere between two steps, so its values are taken as spread evenly over one step.
fn quantile_ns(histogram: &Histogram<u64>, step_ns: f64, quantile: f64) -> Option<f64> {
    let mut before = quantile * histogram.len() as f64;
    let mut last = None;
    for seen in histogram.iter_recorded() {
        let (value, count) = (seen.value_iterated_to() as f64, seen.count_at_value() as f64);
        if before <= count {
            return Some(value + step_ns * (before / count - 0.5));
        }
        before -= count;
        last = Some(value);
    }
    last
}

/// Something that could not be measured, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Missing {
    /// Who.
    pub peer: &'static str,
    /// What.
    pub case: Case,
    /// Why.
    pub why: String,
}

/// What a group gave.
#[derive(Default)]
pub struct Outcome {
    /// A row for each pair that was measured.
    pub rows: Vec<Row>,
    /// The others.
    pub missing: Vec<Missing>,
}

/// Runs groups one after the other, all within one stretch of time.
pub struct Runner {
    cores: Cores,
    rounds: usize,
    deadline: Instant,
    samples: Samples,
}

impl Runner {
    /// A runner on two cores that ends at about `deadline` and collects into `samples`.
    pub fn new(cores: Cores, rounds: usize, deadline: Instant, samples: Samples) -> Self {
        Self { cores, rounds, deadline, samples }
    }

    /// Measures one group. `pairs_left` are the pairs of this group and all that follow: they share the time left.
    pub fn group(&mut self, entries: &[Entry<'_>], pairs_left: usize) -> Outcome {
        let mut outcome = Outcome::default();
        if self.cores.is_one() && entries.iter().any(|entry| entry.case.test.needs_two_cores()) {
            outcome.missing.extend(entries.iter().map(|entry| {
                missing(entry, "both ends poll, so it needs two cores, and this process may use only one")
            }));
            return outcome;
        }
        let time = self.deadline.saturating_duration_since(Instant::now());
        let group_end = Instant::now() + time.mul_f64(entries.len() as f64 / pairs_left.max(1) as f64);
        let mut pairs = self.open(entries, &mut outcome);
        self.calibrate(&mut pairs, group_end, &mut outcome);
        for _ in 0..self.rounds {
            retain_working(&mut pairs, &mut outcome, |pair| {
                let round = pair.round(&mut self.samples)?;
                pair.rounds.push(round);
                Ok(())
            });
        }
        outcome.rows = pairs
            .iter()
            .filter(|pair| !pair.entry.only_reference)
            .filter_map(|pair| row(pair, &pairs))
            .collect();
        outcome
    }

    fn open<'a>(&self, entries: &[Entry<'a>], outcome: &mut Outcome) -> Vec<Pair<'a>> {
        let mut pairs = Vec::new();
        for entry in entries {
            match Pair::open(*entry, self.cores) {
                Ok(pair) => pairs.push(pair),
                Err(why) => outcome.missing.push(missing(entry, &why.to_string())),
            }
        }
        pairs
    }

    /// Divides the group's time among its pairs and rounds, and finds what each can do in its slice.
    fn calibrate(&mut self, pairs: &mut Vec<Pair<'_>>, group_end: Instant, outcome: &mut Outcome) {
        // The calibration itself and the start of each round take about as long as another round.
        let slices = pairs.len() * (self.rounds + 1);
        let left = group_end.saturating_duration_since(Instant::now());
        let slice = left / slices.max(1) as u32;
        retain_working(pairs, outcome, |pair| pair.calibrate(slice, &mut self.samples));
    }
}

/// Drops the pairs that fail.
fn retain_working(
    pairs: &mut Vec<Pair<'_>>,
    outcome: &mut Outcome,
    mut work: impl FnMut(&mut Pair<'_>) -> Result<()>,
) {
    pairs.retain_mut(|pair| match work(pair) {
        Ok(()) => true,
        Err(why) => {
            outcome.missing.push(missing(&pair.entry, &why.to_string()));
            false
        }
    });
}

fn missing(entry: &Entry<'_>, why: &str) -> Missing {
    Missing { peer: entry.peer.name(), case: entry.case, why: why.to_owned() }
}

/// The medians of a pair; `None` if its reference failed or no round was run.
fn row(pair: &Pair<'_>, pairs: &[Pair<'_>]) -> Option<Row> {
    let reference = pair.entry.peer.reference(&pair.entry.case);
    let beside = pairs.iter().find(|other| other.entry.is(&reference))?;
    let rounds = || pair.rounds.iter().zip(&beside.rounds);
    let of = |part: fn(&Percentiles) -> f64| {
        median(pair.rounds.iter().filter_map(|r| r.percentiles.as_ref().map(part)))
    };
    let percentiles_ns = match (of(|p| p.p50), of(|p| p.p99), of(|p| p.p999)) {
        (Some(p50), Some(p99), Some(p999)) => Some(Percentiles { p50, p99, p999 }),
        _ => None,
    };
    Some(Row {
        peer: pair.entry.peer.name(),
        case: pair.entry.case,
        percentiles_ns,
        each_ns: median(pair.rounds.iter().map(|round| round.each_ns))?,
        ratio: median(rounds().map(|(own, other)| own.figure() / other.figure()))?,
        extra_ns: median(rounds().map(|(own, other)| own.figure() - other.figure()))?,
        reference: (reference.peer, reference.case),
        reference_ns: median(beside.rounds.iter().map(Round::figure))?,
    })
}

/// The middle value; the mean of the two in the middle if their number is even.
fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let (low, high) = (values.len().checked_sub(1)? / 2, values.len() / 2);
    Some((values[low] + values[high]) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::{median, percentiles};

    #[test]
    fn percentiles_are_right_from_nanoseconds_to_seconds() {
        let p = percentiles((0..1_000).map(|n| if n < 985 { 50_000 } else { 2_000_000_000 }), 1.0)
            .expect("samples");
        assert!((p.p50 / 50_000.0 - 1.0).abs() < 0.001, "{p:?}");
        assert!((p.p99 / 2e9 - 1.0).abs() < 0.001, "{p:?}");
        assert_eq!(percentiles(std::iter::empty(), 1.0), None);
    }

    #[test]
    fn a_coarse_timer_does_not_round_the_median() {
        // 104 ns, seen by a timer that steps by 10 ns: 100 six times out of ten, 110 four times.
        let p = percentiles((0..1_000).map(|n| if n % 10 < 6 { 100 } else { 110 }), 10.0).expect("samples");
        assert!((p.p50 - 104.0).abs() < 1.0, "{p:?}");
    }

    #[test]
    fn a_median_is_the_middle_and_nothing_has_none() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), Some(2.0));
        assert_eq!(median([4.0, 1.0].into_iter()), Some(2.5));
        assert_eq!(median(std::iter::empty()), None);
    }
}
