//! Backtests: what a policy would have cost over a recorded demand.
//!
//! The accounting: in a bin that wants D slots of a kind while w are warm, max(0, D − w) start cold and max(0, w − D) are
//! idle. A slot is prestarted where w is above both what was warm and what was wanted in the bin before. At a price of R
//! idle slot-bins a cold start, the cost is idle + R · cold; if starts are charged with s slot-bins each, s · (prestart +
//! cold) comes on top. Policies run from the first bin; only the bins that are scored count.
//!
//! With frozen slots, demand beyond w is met by thawing as long as there are any; with generic ones, what is still not
//! met takes those. Both cost their part of a cold start, and are counted by themselves.
//!
//! Invariant: the policy is asked for a bin before it is told of it, and never told of a later one.

mod plot;
mod score;

pub use plot::{History, PlotError};
pub use score::{Bound, START_PRICE, Score};

use crate::policy::{Choice, Policy, Spare, Tiers, WrongBin};
use crate::trace::Trace;
use std::ops::Range;

/// What is run over a trace.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// The policy.
    pub policy: Choice,
    /// What a cold start costs, in idle slot-bins.
    pub cold_price: f64,
    /// Tiers beyond ready and cold. Only a policy that forecasts freezes.
    pub tiers: Tiers,
}

/// One bin of a backtest, summed over all kinds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bin {
    /// Slots wanted.
    pub demand: u64,
    /// Slots ready before they were wanted.
    pub ready: u64,
    /// Slots frozen.
    pub frozen: u64,
    /// Generic slots.
    pub generic: u64,
    /// Slots started cold.
    pub cold: u64,
}

/// Runs a policy over a trace and scores the bins in `scored`; `each` sees every bin up to their end.
pub fn run(
    trace: &Trace,
    setting: Setting,
    scored: Range<usize>,
    mut each: impl FnMut(usize, Bin),
) -> Result<Score, WrongBin> {
    let Setting { policy, cold_price, tiers } = setting;
    let kinds = trace.kinds();
    let mut policy = Policy::new(policy, trace.bin_s())?;
    for _ in kinds {
        policy.add(cold_price);
    }
    let mut score = Score::default();
    let mut demand = vec![0; kinds.len()];
    let mut pools: Vec<Pool> =
        policy.wanted().iter().map(|&ready| Pool { ready, frozen: 0, before: 0 }).collect();
    let (mut spare, mut generic) = (Spare::default(), 0);
    for bin in 0..scored.end.min(trace.bins()) {
        let (mut now, mut whole) = (Score::default(), Bin { generic: u64::from(generic), ..Bin::default() });
        for ((pool, demand), kind) in pools.iter_mut().zip(&mut demand).zip(kinds) {
            *demand = kind.demand[bin];
            now.meet(pool, *demand);
            whole.ready += u64::from(pool.ready);
            whole.frozen += u64::from(pool.frozen);
        }
        let missed = now.cold;
        now.meet_generic(generic);
        (whole.demand, whole.cold) = (now.demand, now.cold);
        each(bin, whole);
        if bin >= scored.start {
            score.add(&now);
        }
        if let Some(costs) = tiers.generic {
            generic = spare.decide(costs, u32::try_from(missed).unwrap_or(u32::MAX), cold_price);
            let price = spare.cold_price(costs, cold_price);
            (0..kinds.len()).for_each(|kind| policy.set_cold_price(kind, price));
        }
        policy.decide(&demand);
        for (kind, pool) in pools.iter_mut().enumerate() {
            pool.before = pool.ready.max(demand[kind]);
            (pool.ready, pool.frozen) = match tiers.frozen.zip(policy.forecast(kind)) {
                Some((costs, forecast)) => costs.split(&forecast, policy.cold_price(kind)),
                None => (policy.wanted()[kind], 0),
            };
        }
    }
    Ok(score)
}

/// The slots of one kind in one bin.
struct Pool {
    ready: u32,
    frozen: u32,
    /// What was ready or wanted in the bin before.
    before: u32,
}

impl Score {
    fn meet(&mut self, pool: &Pool, demand: u32) {
        let beyond = demand.saturating_sub(pool.ready);
        let thawed = beyond.min(pool.frozen);
        self.demand += u64::from(demand);
        self.cold += u64::from(beyond - thawed);
        self.idle += u64::from(pool.ready.saturating_sub(demand));
        self.prestart += u64::from(pool.ready.saturating_sub(pool.before));
        self.thawed += u64::from(thawed);
        self.frozen_idle += u64::from(pool.frozen - thawed);
    }

    fn meet_generic(&mut self, generic: u32) {
        let taken = self.cold.min(u64::from(generic));
        self.cold -= taken;
        self.specialised += taken;
        self.generic_idle += u64::from(generic) - taken;
    }
}
