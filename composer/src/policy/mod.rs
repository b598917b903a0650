//! The pool policy: how many slots of each component are to be warm in the next bin of time.
//!
//! A **kind** is a component, a **slot** a place for a session in one of its shards, a **bin** a stretch of time whose
//! length the caller chooses. Once a bin the caller tells a [`Policy`] the demand of the bin that has passed, and is told
//! how many slots to have warm in the one that begins; [`Limits`] bound that number by what an operator allows.
//!
//! ```
//! use shard_composer::policy::{Choice, Limits, Moment, Policy};
//!
//! let mut policy = Policy::new(Choice::ExpectedCost, 60.0).unwrap();
//! let physics = policy.add(30.0); // a cold start costs as much as 30 slots that idle for a minute
//! let mut limits = Limits { floor: 1, ceiling: 64, ..Limits::default() }.start().unwrap();
//! for demand in [0, 0, 3, 2, 0, 0, 3] {
//!     let wanted = policy.decide(&[demand])[physics];
//!     let pool = limits.apply(wanted, Moment { demand, ..Moment::default() });
//!     println!("{} slots: {}; {}", pool.slots, pool.bound, policy.reason(physics));
//! }
//! let saved = policy.save(); // survives a restart
//! assert!(Policy::restore(&saved).is_ok());
//! ```
//!
//! Invariant: a decision depends on the demand that was told, in its order, and on nothing else: no clock, no I/O, no
//! randomness, no thread. So a backtest runs what production runs, and a saved policy goes on as if it had not stopped.

mod array;
mod chance;
mod choice;
mod expected;
mod follow;
mod forecast;
mod hybrid;
mod lags;
mod level;
mod limits;
mod price;
mod reason;
mod recurrence;
mod residuals;
mod season;
mod state;
mod tiers;
mod window;

pub use choice::{CHOICE_MAX, Choice, HEADROOM_PERCENT, UnknownPolicy};
pub use expected::Expert;
pub use forecast::Forecast;
pub use limits::{
    Bound, Budget, LimitState, Limited, Limits, LimitsError, Moment, WINDOWS_MAX, Weekdays, Window,
};
pub use price::{Needs, PriceError, Prices};
pub use reason::{ForecastReason, Reason};
pub use state::{RestoreError, STATE_VERSION};
pub use tiers::{Frozen, Generic, Held, Spare, Tiers, Wants};

use expected::Expected;
use hybrid::Hybrid;
use serde::{Deserialize, Serialize};
use window::WindowMax;

/// The most kinds of one policy.
pub const KINDS_MAX: usize = 100_000;
/// The least and the most that a cold start may cost, in idle slot-bins.
pub const COLD_PRICE_MIN: f64 = 1e-3;
/// See [`COLD_PRICE_MIN`].
pub const COLD_PRICE_MAX: f64 = 1e9;
/// The shortest and the longest bin, in seconds.
pub const BIN_S_MIN: f64 = 1e-3;
/// See [`BIN_S_MIN`].
pub const BIN_S_MAX: f64 = 1e7;

/// Decides for all kinds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Policy {
    choice: Choice,
    bin_s: f64,
    /// Bins that have passed.
    bins: u64,
    model: Model,
    /// By kind.
    cold_prices: Vec<f64>,
    wanted: Vec<u32>,
}

/// What a policy remembers, by kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Model {
    Nothing,
    KeepAlive(Vec<WindowMax>),
    Hybrid(Vec<Hybrid>),
    Expected(Box<Expected>),
}

/// The length of a bin can't be used.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("a bin of {0} s; it must be between {BIN_S_MIN} s and {BIN_S_MAX} s, as a minute is")]
pub struct WrongBin(pub f64);

impl Policy {
    /// A policy without kinds, for bins of so many seconds.
    pub fn new(choice: Choice, bin_s: f64) -> Result<Self, WrongBin> {
        if !(BIN_S_MIN..=BIN_S_MAX).contains(&bin_s) {
            return Err(WrongBin(bin_s));
        }
        let model = match choice {
            Choice::FixedBuffer(_) | Choice::Headroom(_) | Choice::Reactive => Model::Nothing,
            Choice::KeepAlive(_) => Model::KeepAlive(Vec::new()),
            Choice::Hybrid => Model::Hybrid(Vec::new()),
            Choice::ExpectedCost => Model::Expected(Box::new(Expected::new(bin_s))),
        };
        Ok(Self { choice, bin_s, bins: 0, model, cold_prices: Vec::new(), wanted: Vec::new() })
    }

    /// Adds a kind whose cold start costs as much as `cold_price` slots that are warm and idle for a bin; see
    /// [`Prices::cold_price`]. Returns its index: the first is 0. A price beyond [`COLD_PRICE_MIN`] and
    /// [`COLD_PRICE_MAX`], or none, is taken for the nearest of them.
    ///
    /// # Panics
    ///
    /// If there are [`KINDS_MAX`] kinds.
    pub fn add(&mut self, cold_price: f64) -> usize {
        assert!(self.wanted.len() < KINDS_MAX, "a policy has at most KINDS_MAX = {KINDS_MAX} kinds");
        let cold_price = usable(cold_price);
        match (&mut self.model, self.choice) {
            (Model::KeepAlive(kinds), Choice::KeepAlive(bins)) => kinds.push(WindowMax::new(bins)),
            (Model::Hybrid(kinds), _) => kinds.push(Hybrid::default()),
            (Model::Expected(model), _) => model.add(cold_price),
            _ => {}
        }
        self.cold_prices.push(cold_price);
        self.wanted.push(if let Choice::FixedBuffer(slots) = self.choice { slots } else { 0 });
        self.wanted.len() - 1
    }

    /// Says anew what a cold start of a kind costs, for instance when more of them have been measured.
    ///
    /// # Panics
    ///
    /// If there is no such kind.
    pub fn set_cold_price(&mut self, kind: usize, cold_price: f64) {
        self.cold_prices[kind] = usable(cold_price);
        if let Model::Expected(model) = &mut self.model {
            model.set_cold_price(kind, usable(cold_price));
        }
    }

    /// Takes in the demand of the bin that has passed, in slots by kind, and decides for the one that begins.
    ///
    /// # Panics
    ///
    /// If there is not one demand for each kind.
    pub fn decide(&mut self, demand: &[u32]) -> &[u32] {
        assert_eq!(demand.len(), self.wanted.len(), "one demand for each kind");
        let now = self.bins;
        let kinds = self.wanted.iter_mut().zip(demand);
        match (&mut self.model, self.choice) {
            (Model::KeepAlive(windows), _) => {
                kinds.zip(windows).for_each(|((wanted, &demand), window)| *wanted = window.push(now, demand));
            }
            (Model::Hybrid(hybrids), _) => {
                kinds
                    .zip(hybrids)
                    .for_each(|((wanted, &demand), hybrid)| *wanted = hybrid.decide(now, demand));
            }
            (Model::Expected(model), _) => model.decide(now, demand, &mut self.wanted),
            (Model::Nothing, Choice::Headroom(percent)) => {
                kinds.for_each(|(wanted, &demand)| *wanted = headroom(demand, percent));
            }
            (Model::Nothing, Choice::FixedBuffer(_)) => {}
            (Model::Nothing, _) => kinds.for_each(|(wanted, &demand)| *wanted = demand),
        }
        self.bins += 1;
        &self.wanted
    }

    /// How many slots are to be warm in the bin that has begun, by kind.
    pub fn wanted(&self) -> &[u32] {
        &self.wanted
    }

    /// How likely each demand of a kind is in the bin that has begun. Only `expected-cost` forecasts.
    ///
    /// # Panics
    ///
    /// If there is no such kind.
    pub fn forecast(&self, kind: usize) -> Option<Forecast> {
        let Model::Expected(model) = &self.model else { return None };
        Some(model.forecast(kind))
    }

    /// Why as many slots of a kind are wanted as are.
    ///
    /// # Panics
    ///
    /// If there is no such kind.
    pub fn reason(&self, kind: usize) -> Reason {
        let (wanted, cold_price) = (self.wanted[kind], self.cold_prices[kind]);
        let expert = match &self.model {
            Model::Expected(model) => Some(model.expert(kind)),
            _ => None,
        };
        Reason::new(self.choice, wanted, cold_price, expert.zip(self.forecast(kind)))
    }

    /// Which policy it is.
    pub fn choice(&self) -> Choice {
        self.choice
    }

    /// The length of a bin, in seconds.
    pub fn bin_s(&self) -> f64 {
        self.bin_s
    }

    /// How many bins have passed.
    pub fn bins(&self) -> u64 {
        self.bins
    }

    /// What a cold start of a kind costs, in idle slot-bins.
    ///
    /// # Panics
    ///
    /// If there is no such kind.
    pub fn cold_price(&self, kind: usize) -> f64 {
        self.cold_prices[kind]
    }
}

/// So many per cent more, rounded up.
fn headroom(demand: u32, percent: u32) -> u32 {
    let more = u64::from(demand) * (100 + u64::from(percent));
    u32::try_from(more.div_ceil(100)).unwrap_or(u32::MAX)
}

/// The nearest price that can be reckoned with.
fn usable(cold_price: f64) -> f64 {
    if cold_price.is_nan() { COLD_PRICE_MIN } else { cold_price.clamp(COLD_PRICE_MIN, COLD_PRICE_MAX) }
}
