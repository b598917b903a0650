//! A chance that is learned from what happens.

use serde::{Deserialize, Serialize};

/// No chance is taken for smaller than this, nor for nearer to 1.
const CHANCE_MIN: f32 = 1e-4;

/// How often something happened, with what is long ago forgotten: a mean of at most so many outcomes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Chance {
    mean: f32,
    seen: f32,
}

impl Chance {
    pub(super) fn learn(&mut self, happened: bool, outcomes_max: f32) {
        self.seen = (self.seen + 1.0).min(outcomes_max);
        self.mean += (f32::from(u8::from(happened)) - self.mean) / self.seen;
    }

    /// The mean as if `weight` more outcomes had been seen that were like `prior`.
    pub(super) fn with_prior(self, prior: f32, weight: f32) -> f32 {
        (self.mean * self.seen + prior * weight) / (self.seen + weight)
    }
}

/// The logarithm of the odds.
pub(super) fn log_odds(chance: f32) -> f32 {
    let chance = chance.clamp(CHANCE_MIN, 1.0 - CHANCE_MIN);
    (chance / (1.0 - chance)).ln()
}

/// The chance that has these odds.
pub(super) fn chance_of(log_odds: f32) -> f32 {
    (1.0 / (1.0 + (-log_odds).exp())).clamp(CHANCE_MIN, 1.0 - CHANCE_MIN)
}
