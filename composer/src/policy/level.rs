//! How much is wanted of a busy kind: a forecast of the next level of a series, and how far off it may be.
//!
//! Levels are ln(1 + demand). The increment of the level is regressed online on its own past: the last increments, the
//! distance to moving averages, what happened a day and a week ago and what is usual at this time of the week. Two
//! ridge regressions (Hoerl and Kennedy, 1970) with a short and a long memory are averaged. Each keeps the matrix of
//! information, not its inverse, which would grow without bound under forgetting. The residuals, in units of a spread that follows the
//! recent ones, make an empirical distribution around the forecast.

use super::residuals::Residuals;
use super::season::{Calendar, Season};
use super::state::BINS_MAX;
use nalgebra::{SMatrix, SVector};
use serde::{Deserialize, Serialize};

/// What the increment is regressed on.
const FEATURES: usize = 13;
/// After so many bins an observation counts for a third: a short and a long memory.
const MEMORIES: [f64; 2] = [150.0, 1500.0];
const RIDGE: f64 = 0.03;
/// Weights are solved for once in so many bins; they change slowly, and this is the dear step.
const SOLVED_EVERY: u64 = 4;
/// A residual is learned from as if it were no more than so many times the usual one.
const CLIPPED_AT: f32 = 4.0;
/// The largest increment that is forecast: a factor of e.
const INCREMENT_MAX: f32 = 1.0;
/// Rates of the moving averages of the level.
const AVERAGES: [f32; 3] = [0.4, 0.12, 0.06];
/// Rates of the moving averages of the residuals' size.
const SPREADS: [f32; 3] = [0.25, 0.03, 0.003];
/// The residuals' size before any was seen.
const SPREAD_FIRST: f32 = 0.3;
/// A whole number of slots can't be forecast to better than this.
const SPREAD_MIN_SLOTS: f32 = 0.3;
/// A forecast is rounded up from this part of a slot.
const ROUNDED_UP_FROM: f32 = 0.3;

/// Ways to expect a spread from the residuals before: quick, steady, slow.
pub(super) const SCALES: usize = 3;

/// The past of a series and the forecast of its next bin.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Level {
    bins: u64,
    season: Option<Season>,
    /// The levels of the last bins, the latest first.
    last: [f32; 3],
    averages: [f32; AVERAGES.len()],
    features: SVector<f64, FEATURES>,
    regressions: [Regression; MEMORIES.len()],
    /// The forecast level.
    center: f32,
    /// How large the residuals were, of late and for long.
    sizes: [f32; SPREADS.len()],
    /// The spread that is expected, and the residuals in its units.
    spreads: [f32; SCALES],
    residuals: [Residuals; SCALES],
}

/// A ridge regression that forgets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Regression {
    information: SMatrix<f64, FEATURES, FEATURES>,
    moment: SVector<f64, FEATURES>,
    weights: SVector<f64, FEATURES>,
}

impl Regression {
    fn new() -> Self {
        Self { information: SMatrix::zeros(), moment: SVector::zeros(), weights: SVector::zeros() }
    }

    fn learn(&mut self, features: &SVector<f64, FEATURES>, outcome: f64, memory: f64) {
        let kept = 1.0 - 1.0 / memory;
        self.information.ger(1.0, features, features, kept);
        self.moment.axpy(outcome, features, kept);
    }

    fn solve(&mut self) {
        let ridged = self.information + SMatrix::identity() * RIDGE;
        // It is positive definite by the ridge; if rounding says otherwise, the weights stay.
        if let Some(factors) = ridged.cholesky() {
            self.weights = factors.solve(&self.moment);
        }
    }
}

impl Level {
    /// A series of which nothing is known.
    pub(super) fn new(calendar: Option<Calendar>) -> Self {
        Self {
            bins: 0,
            season: calendar.map(Season::new),
            last: [0.0; 3],
            averages: [0.0; AVERAGES.len()],
            features: SVector::zeros(),
            regressions: std::array::from_fn(|_| Regression::new()),
            center: 0.0,
            sizes: [SPREAD_FIRST; SPREADS.len()],
            spreads: [SPREAD_FIRST; SCALES],
            residuals: std::array::from_fn(|_| Residuals::new()),
        }
    }

    pub(super) fn fits(&self) -> bool {
        self.bins <= BINS_MAX
            && self.residuals.iter().all(Residuals::fits)
            && self.season.as_ref().is_none_or(Season::fits)
    }

    /// Takes in the demand of the bin that was forecast, and forecasts the next.
    pub(super) fn push(&mut self, demand: u32) {
        let level = (1.0 + demand as f32).ln();
        // The first bins only fill the features.
        if self.bins > 2 {
            self.learn(level);
        }
        if let Some(season) = &mut self.season {
            season.push(level);
        }
        self.bins += 1;
        for (average, rate) in self.averages.iter_mut().zip(AVERAGES) {
            *average += (level - *average) * rate.max(1.0 / self.bins as f32);
        }
        self.last = [level, self.last[0], self.last[1]];
        self.forecast(demand);
    }

    fn learn(&mut self, level: f32) {
        let residual = level - self.center;
        for (residuals, spread) in self.residuals.iter_mut().zip(self.spreads) {
            residuals.learn(residual / spread);
        }
        for (size, rate) in self.sizes.iter_mut().zip(SPREADS) {
            *size += (residual.abs() - *size) * rate.max(1.0 / self.bins as f32);
        }
        let clip = CLIPPED_AT * self.sizes[2];
        let outcome = f64::from(self.center - self.last[0] + residual.clamp(-clip, clip));
        for (regression, memory) in self.regressions.iter_mut().zip(MEMORIES) {
            regression.learn(&self.features, outcome, memory);
        }
    }

    fn forecast(&mut self, demand: u32) {
        let [level, before, earlier] = self.last;
        let [quick, steady, slow] = self.averages.map(|average| level - average);
        let [mut day, mut week, mut usual] = [[0.0; 2]; 3];
        let mut week_next = 0.0;
        if let Some(season) = &self.season {
            if let Some([then, next, _]) = season.day_ago() {
                day = [next - then, level - then];
            }
            if let Some([then, next, after]) = season.week_ago() {
                week = [next - then, level - then];
                week_next = after - next;
            }
            if let Some([then, next, _]) = season.usual() {
                usual = [next - then, level - then];
            }
        }
        let features: [f32; FEATURES] = [
            0.1,
            level - before,
            before - earlier,
            quick,
            steady,
            slow,
            week[0],
            week[1],
            day[0],
            day[1],
            usual[0],
            usual[1],
            week_next,
        ];
        self.features = SVector::from(features.map(f64::from));
        if self.bins.is_multiple_of(SOLVED_EVERY) {
            self.regressions.iter_mut().for_each(Regression::solve);
        }
        let increments =
            self.regressions.iter().map(|regression| regression.weights.dot(&self.features) as f32);
        let increment = increments.sum::<f32>() / MEMORIES.len() as f32;
        self.center = level + increment.clamp(-INCREMENT_MAX, INCREMENT_MAX);
        let [quick, steady, slow] = self.sizes;
        let least = SPREAD_MIN_SLOTS / (1.0 + demand as f32);
        self.spreads =
            [(quick * steady).sqrt(), steady, (steady * slow).sqrt()].map(|spread| spread.max(least));
    }

    /// The slots that are exceeded with these chances.
    pub(super) fn exceeded_with<const N: usize>(&self, scale: usize, chances: [f32; N]) -> [u32; N] {
        self.residuals[scale].exceeded_with(chances).map(|residual| self.slots(scale, residual))
    }

    /// From few slots to many: so many, and the chance of more.
    pub(super) fn steps(&self, scale: usize) -> impl Iterator<Item = (u32, f64)> {
        self.residuals[scale].steps().map(move |(residual, chance)| (self.slots(scale, residual), chance))
    }

    fn slots(&self, scale: usize, residual: f32) -> u32 {
        let slots = (self.center + self.spreads[scale] * residual).exp() - 1.0;
        // Saturates: the largest demand is far below what u32 holds.
        (slots + 1.0 - ROUNDED_UP_FROM).max(0.0) as u32
    }
}
