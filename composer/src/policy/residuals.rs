//! How far off the forecasts of a series were: an empirical distribution that forgets.

use serde::{Deserialize, Serialize};

/// Buckets of the histogram, and how wide each is, in units of the spread that was expected.
const BUCKETS: usize = 161;
const WIDTH: f32 = 0.1;
/// After so many residuals one counts for a third.
const REMEMBERED: f32 = 4000.0;
/// Where the weight of a new residual is brought back to 1.
const WEIGHT_MAX: f32 = 1e6;

/// Residuals in units of the spread that was expected.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Residuals {
    weights: Vec<f32>,
    total: f32,
    /// What the next one weighs. It grows, so that the older ones need not be touched.
    next: f32,
}

impl Residuals {
    pub(super) fn new() -> Self {
        Self { weights: vec![0.0; BUCKETS], total: 0.0, next: 1.0 }
    }

    pub(super) fn fits(&self) -> bool {
        self.weights.len() == BUCKETS
    }

    pub(super) fn learn(&mut self, residual: f32) {
        let at = (residual / WIDTH + BUCKETS as f32 / 2.0).clamp(0.0, BUCKETS as f32 - 1.0);
        self.weights[at as usize] += self.next;
        self.total += self.next;
        self.next *= 1.0 + 1.0 / REMEMBERED;
        if self.next > WEIGHT_MAX {
            self.weights.iter_mut().for_each(|weight| *weight /= self.next);
            self.total /= self.next;
            self.next = 1.0;
        }
    }

    /// The residuals that are exceeded with these chances; the largest that was seen if a chance is smaller than can be
    /// told.
    pub(super) fn exceeded_with<const N: usize>(&self, chances: [f32; N]) -> [f32; N] {
        let mut above = chances.map(|chance| chance * (self.total + self.next));
        let mut exceeded = [0.0; N];
        let mut left = N;
        let hit = self.weights.iter().enumerate().rev().filter(|&(_, &weight)| weight > 0.0);
        for (at, &weight) in hit {
            for (above, exceeded) in above.iter_mut().zip(&mut exceeded) {
                if weight >= *above {
                    *exceeded = edge(at) + WIDTH * (1.0 - *above / weight);
                    // It is not found again.
                    *above = f32::INFINITY;
                    left -= 1;
                }
                *above -= weight;
            }
            if left == 0 {
                break;
            }
        }
        exceeded
    }

    /// From the lowest residual to the highest: the upper edge of each bucket that was hit, and the chance of more.
    pub(super) fn steps(&self) -> impl Iterator<Item = (f32, f64)> {
        let mut below = 0.0_f64;
        let total = f64::from(self.total).max(f64::MIN_POSITIVE);
        self.weights.iter().enumerate().filter(|&(_, &weight)| weight > 0.0).map(move |(at, &weight)| {
            below += f64::from(weight);
            (edge(at + 1), (1.0 - below / total).max(0.0))
        })
    }
}

/// The lower edge of a bucket.
fn edge(at: usize) -> f32 {
    (at as f32 - BUCKETS as f32 / 2.0) * WIDTH
}
