//! The policies that there are, by name.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Slots at most in a fixed buffer, bins at most of a keep-alive, per cent at most of a headroom.
pub const CHOICE_MAX: u32 = 1_000_000;
/// The headroom of `headroom`, in per cent of the demand.
pub const HEADROOM_PERCENT: u32 = 10;

/// A policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Choice {
    /// `fixed-buffer-N`: always N slots.
    FixedBuffer(u32),
    /// `keep-alive-K`: the most slots that were wanted in one of the last K bins.
    KeepAlive(u32),
    /// `headroom`, `headroom-P`: what was wanted in the last bin, and P per cent more (10 by default), rounded up.
    Headroom(u32),
    /// `hybrid`: the hybrid histogram of "Serverless in the Wild", with a range of 60 bins.
    Hybrid,
    /// `reactive`: what was wanted in the last bin.
    Reactive,
    /// `expected-cost`: what costs least by a forecast of the demand.
    ExpectedCost,
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FixedBuffer(slots) => write!(f, "fixed-buffer-{slots}"),
            Self::KeepAlive(bins) => write!(f, "keep-alive-{bins}"),
            Self::Headroom(HEADROOM_PERCENT) => f.write_str("headroom"),
            Self::Headroom(percent) => write!(f, "headroom-{percent}"),
            Self::Hybrid => f.write_str("hybrid"),
            Self::Reactive => f.write_str("reactive"),
            Self::ExpectedCost => f.write_str("expected-cost"),
        }
    }
}

/// There is no policy of this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "there is no policy `{0}`; there are fixed-buffer-N, keep-alive-K (K of at least 1), headroom, headroom-P, hybrid, \
     reactive and expected-cost, with N, K and P of at most {CHOICE_MAX}"
)]
pub struct UnknownPolicy(String);

impl FromStr for Choice {
    type Err = UnknownPolicy;

    fn from_str(name: &str) -> Result<Self, UnknownPolicy> {
        let number = |prefix, least| {
            let number: u32 = name.strip_prefix(prefix)?.parse().ok()?;
            (least..=CHOICE_MAX).contains(&number).then_some(number)
        };
        let choice = match name {
            "headroom" => Some(Self::Headroom(HEADROOM_PERCENT)),
            "hybrid" => Some(Self::Hybrid),
            "reactive" => Some(Self::Reactive),
            "expected-cost" => Some(Self::ExpectedCost),
            _ => number("fixed-buffer-", 0)
                .map(Self::FixedBuffer)
                .or_else(|| number("keep-alive-", 1).map(Self::KeepAlive))
                .or_else(|| number("headroom-", 0).map(Self::Headroom)),
        };
        choice.ok_or_else(|| UnknownPolicy(name.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_what_its_name_says() {
        for name in [
            "fixed-buffer-0",
            "keep-alive-20",
            "headroom",
            "headroom-25",
            "hybrid",
            "reactive",
            "expected-cost",
        ] {
            assert_eq!(name.parse::<Choice>().unwrap().to_string(), name);
        }
        for name in ["", "keep-alive-0", "keep-alive-", "fixed-buffer--1", "keep-alive-99999999", "magic"] {
            let error = name.parse::<Choice>().unwrap_err().to_string();
            assert!(error.contains(&format!("`{name}`")) && error.contains("hybrid"), "{error}");
        }
    }
}
