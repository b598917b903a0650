//! Backtests: what a policy would have cost over a recorded demand.
//!
//! The accounting: in a bin that wants D slots of a kind while w are warm, max(0, D − w) start cold and max(0, w − D) are
//! idle. A slot is prestarted where w is above both what was warm and what was wanted in the bin before. At a price of R
//! idle slot-bins a cold start, the cost is idle + R · cold; if starts are charged with s slot-bins each, s · (prestart +
//! cold) comes on top. Policies run from the first bin; bins are scored from `from` to `to`.

use crate::policy::{Choice, Policy};
use crate::trace::Trace;
use std::ops::Range;

/// What a start costs where starts are charged, in idle slot-bins.
pub const START_PRICE: f64 = 1.0;

/// What a policy did over the scored bins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Score {
    /// Slots wanted, summed over the bins.
    pub demand: u64,
    /// Those of them that were not warm.
    pub cold: u64,
    /// Slots warm that nobody wanted, summed over the bins.
    pub idle: u64,
    /// Slots that were warmed ahead of demand.
    pub prestart: u64,
}

impl Score {
    /// Cold starts in per cent of the demand.
    pub fn cold_percent(&self) -> f64 {
        100.0 * self.cold as f64 / (self.demand as f64).max(1.0)
    }

    /// The cost in idle slot-bins, at a price of a cold start.
    pub fn cost(&self, cold_price: f64) -> f64 {
        self.idle as f64 + cold_price * self.cold as f64
    }

    /// The cost in idle slot-bins where every start costs [`START_PRICE`] more.
    pub fn start_charged_cost(&self, cold_price: f64) -> f64 {
        self.cost(cold_price) + START_PRICE * (self.prestart + self.cold) as f64
    }

    fn take(&mut self, demand: u32, wanted: u32, before: u32) {
        self.demand += u64::from(demand);
        self.cold += u64::from(demand.saturating_sub(wanted));
        self.idle += u64::from(wanted.saturating_sub(demand));
        self.prestart += u64::from(wanted.saturating_sub(before));
    }
}

/// Runs a policy over a trace; bins in `scored` count. `each` sees every bin: its number, the demand, what was warm.
pub fn run(
    trace: &Trace,
    choice: Choice,
    cold_price: f64,
    scored: Range<usize>,
    mut each: impl FnMut(usize, &[u32], &[u32]),
) -> Score {
    let kinds = trace.kinds();
    let mut policy = Policy::new(choice, trace.bin_s()).unwrap();
    for _ in kinds {
        policy.add(cold_price);
    }
    let mut score = Score::default();
    let mut demand = vec![0; kinds.len()];
    let mut wanted = policy.wanted().to_vec();
    let mut before = vec![0; kinds.len()];
    for bin in 0..scored.end.min(trace.bins()) {
        demand.iter_mut().zip(kinds).for_each(|(demand, kind)| *demand = kind.demand[bin]);
        each(bin, &demand, &wanted);
        for ((&demand, &wanted), before) in demand.iter().zip(&wanted).zip(&mut before) {
            if bin >= scored.start {
                score.take(demand, wanted, *before);
            }
            *before = wanted.max(demand);
        }
        wanted.copy_from_slice(policy.decide(&demand));
    }
    score
}

/// What no policy can do without.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bound {
    /// Starts, or bins of staying warm, between one busy bin and the next, in slot-bins at [`START_PRICE`].
    pub gaps: u64,
    /// Slots that were wanted for the first time: no policy that looks at the past can have them warm.
    pub first_arrivals: u64,
}

impl Bound {
    /// Looks at the scored bins. Of a slot that was wanted before, a gap of g − 1 idle bins costs at least
    /// min(g − 1, s).
    pub fn of(trace: &Trace, scored: Range<usize>) -> Self {
        let mut bound = Self::default();
        for kind in trace.kinds() {
            // By layer: the last bin that wanted so many slots.
            let mut last: Vec<usize> = Vec::new();
            for (bin, &demand) in kind.demand[..scored.end.min(trace.bins())].iter().enumerate() {
                let counts = u64::from(bin >= scored.start);
                let known = last.len().min(demand as usize);
                for last in &mut last[..known] {
                    bound.gaps += counts * u64::from(bin - *last > 1);
                    *last = bin;
                }
                bound.first_arrivals += counts * (demand as usize - known) as u64;
                last.resize(last.len().max(demand as usize), bin);
            }
        }
        bound
    }

    /// The least start-charged cost with the future known.
    pub fn start_charged_cost(&self, cold_price: f64) -> f64 {
        START_PRICE * self.gaps as f64 + (cold_price + START_PRICE) * self.first_arrivals as f64
    }
}
