//! How pools follow demand, as the manifest declares it: the policy, what things cost, and the limits of each component.
//!
//! Invariant: what comes out of the manifest's reader is within the bounds that are named here.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The shortest bin, in seconds.
pub const BIN_S_MIN: f64 = 0.1;
/// The longest bin, in seconds.
pub const BIN_S_MAX: f64 = 86_400.0;
/// The highest price, and the largest budget.
pub const PRICE_MAX: f64 = 1e9;
/// The most windows of a component's schedule.
pub const WINDOWS_MAX: usize = 64;
/// The largest part of what is in use that a buffer may be.
pub const FRACTION_MAX: f64 = 1_000.0;
/// The minutes of a day.
pub const MINUTES_PER_DAY: u16 = 1_440;
/// The days of a week, as a schedule names them; the first is number 0.
pub const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// The policy of all pools, and what things cost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pool {
    /// The policy's name.
    pub policy: String,
    /// How often it decides: the length of a bin, in seconds.
    pub bin_s: f64,
    /// Where its memory survives a restart; as the manifest writes it, relative to the manifest's folder.
    pub history: Option<PathBuf>,
    /// What things cost.
    pub prices: Prices,
}

/// What things cost, in any one currency.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prices {
    /// A core for an hour.
    pub core_hour: f64,
    /// A gibibyte of memory for an hour.
    pub gib_hour: f64,
    /// A gibibyte of GPU memory for an hour.
    pub gpu_gib_hour: f64,
    /// A second that a user waits.
    pub waiting_second: f64,
}

/// The limits of a component's pool, on top of its `warm` and `max`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Scale {
    /// So many places more than are in use, at least.
    pub buffer: u32,
    /// So large a part more than is in use, at least.
    pub fraction: f64,
    /// At most so many shards more from one bin to the next; `None` for any number.
    pub step_up: Option<u32>,
    /// At most so many shards fewer.
    pub step_down: Option<u32>,
    /// What its warm shards may cost an hour.
    pub budget_hour: Option<f64>,
    /// Times at which other floors and ceilings hold; where several do, the last one counts.
    pub schedule: Vec<Window>,
}

/// A time of day on some days, in UTC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// The days on which it begins, as positions in [`DAYS`].
    pub days: Vec<u8>,
    /// Its begin, in minutes since midnight.
    pub from_minute: u16,
    /// Its end; on the next day if it is not after the begin.
    pub to_minute: u16,
    /// So many shards at least.
    pub floor: Option<u32>,
    /// So many at the most.
    pub ceiling: Option<u32>,
}
