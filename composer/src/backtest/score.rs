//! What a policy did, what that costs, and what no policy can do without.

use crate::policy::Tiers;
use crate::trace::Trace;
use std::ops::Range;

/// What a start costs where starts are charged, in idle slot-bins.
pub const START_PRICE: f64 = 1.0;

/// What a policy did over the scored bins, summed over kinds and bins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Score {
    /// Slots wanted.
    pub demand: u64,
    /// Those of them that started cold.
    pub cold: u64,
    /// Slots ready that nobody wanted.
    pub idle: u64,
    /// Slots that were made ready ahead of demand.
    pub prestart: u64,
    /// Slots wanted that were frozen.
    pub thawed: u64,
    /// Slots frozen that nobody wanted.
    pub frozen_idle: u64,
    /// Slots wanted that a generic shard became.
    pub specialised: u64,
    /// Generic slots that nobody wanted.
    pub generic_idle: u64,
}

impl Score {
    /// Cold starts in per cent of the demand; 0 if there was none.
    pub fn cold_percent(&self) -> f64 {
        100.0 * self.cold as f64 / (self.demand as f64).max(1.0)
    }

    /// The cost in idle slot-bins, at a price of a cold start.
    pub fn cost(&self, cold_price: f64, tiers: &Tiers) -> f64 {
        let mut cost = self.idle as f64 + self.generic_idle as f64 + cold_price * self.cold as f64;
        if let Some(frozen) = tiers.frozen {
            let thaw_price = frozen.cold_part * cold_price;
            cost += frozen.idle_part * self.frozen_idle as f64 + thaw_price * self.thawed as f64;
        }
        if let Some(generic) = tiers.generic {
            cost += generic.cold_part * cold_price * self.specialised as f64;
        }
        cost
    }

    /// The cost in idle slot-bins where every start costs [`START_PRICE`] more.
    pub fn start_charged_cost(&self, cold_price: f64, tiers: &Tiers) -> f64 {
        let starts = self.prestart + self.cold + self.specialised;
        self.cost(cold_price, tiers) + START_PRICE * starts as f64
    }

    pub(super) fn add(&mut self, more: &Self) {
        self.demand += more.demand;
        self.cold += more.cold;
        self.idle += more.idle;
        self.prestart += more.prestart;
        self.thawed += more.thawed;
        self.frozen_idle += more.frozen_idle;
        self.specialised += more.specialised;
        self.generic_idle += more.generic_idle;
    }
}

/// What even a policy that knows the future needs, without frozen and generic slots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bound {
    /// How often a slot was wanted again after idle bins: each costs a start, or as many bins of staying warm.
    pub gaps: u64,
    /// Slots that were wanted for the first time: no policy that looks at the past can have them warm.
    pub first_arrivals: u64,
}

impl Bound {
    /// Looks at the demand of the scored bins, slot by slot. A gap of g − 1 idle bins costs min(g − 1, s), for s = 1 one
    /// slot-bin.
    pub fn of(trace: &Trace, scored: Range<usize>) -> Self {
        let mut bound = Self::default();
        for kind in trace.kinds() {
            // By slot: the last bin that wanted so many.
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

    /// The least start-charged cost.
    pub fn start_charged_cost(&self, cold_price: f64) -> f64 {
        START_PRICE * self.gaps as f64 + (cold_price + START_PRICE) * self.first_arrivals as f64
    }
}
