//! How well needs suit what is left of a place.
//!
//! Resources are weighed by how scarce they have become on the hosts in use: one that is nearly as scarce as the scarcest counts, one of which
//! there is plenty hardly does. What is left of a place counts against it, and more the less of it components of this
//! shape could use: whoever fills a place in the proportions of what it has leaves nothing there that can't be used
//! because something else has run out.
//!
//! Invariant: integers only, so the same amounts give the same order everywhere.

use super::room::{WEIGHED, weighed};
use shardkit::application::Needs;

/// What a host has on average, in units.
const UNIT: u64 = 1 << 16;
/// The weight of the scarcest resource, in bits.
const WEIGHT_BITS: u32 = 16;
/// A weight is scarcity to this power: nine tenths as scarce counts a quarter, half as scarce nothing.
const SCARCITY_POWER: u32 = 12;
/// A whole part, in bits.
const PART_BITS: u32 = 10;
const WHOLE: u64 = 1 << PART_BITS;
/// What can be used counts by its part to this power: high enough for the fullest to be left where it suits badly, low
/// enough for hosts to become empty where components come and go.
const PART_POWER: u32 = 5;

/// In which parts the resources of some hosts are counted.
#[derive(Clone, Debug)]
pub(super) struct Units([u64; WEIGHED]);

/// See the head of this file.
#[derive(Clone, Debug)]
pub(super) struct Weights<'a> {
    units: &'a Units,
    weights: [u64; WEIGHED],
    needs: [u64; WEIGHED],
}

impl Units {
    /// Of so many hosts that have this together.
    pub(super) fn new(had: &[u128; WEIGHED], hosts: usize) -> Self {
        let parts = u128::from(UNIT) * hosts.max(1) as u128;
        Self(had.map(|had| u64::try_from(had / parts).unwrap_or(u64::MAX).max(1)))
    }

    pub(super) fn count(&self, mut amounts: [u64; WEIGHED]) -> [u64; WEIGHED] {
        for (amount, unit) in amounts.iter_mut().zip(self.0) {
            *amount /= unit;
        }
        amounts
    }
}

impl<'a> Weights<'a> {
    /// For needs, where so much is gone of what hosts had.
    pub(super) fn new(
        units: &'a Units,
        needs: &Needs,
        had: &[u128; WEIGHED],
        gone: &[u128; WEIGHED],
    ) -> Self {
        let needed = weighed(needs).map(u128::from);
        let part = |at: usize| ((needed[at] + gone[at]) << 20).checked_div(had[at]).unwrap_or(0);
        let gone: [u128; WEIGHED] = std::array::from_fn(part);
        let most = gone.into_iter().max().unwrap_or(0).max(1);
        let weights = gone.map(|gone| {
            let scarcity = (gone << WEIGHT_BITS) / most;
            (1..SCARCITY_POWER).fold(scarcity, |weight, _| (weight * scarcity) >> WEIGHT_BITS) as u64
        });
        Self { units, weights, needs: units.count(weighed(needs)) }
    }

    /// What is left of a place, by weight.
    pub(super) fn left(&self, left: [u64; WEIGHED]) -> u64 {
        self.sum(&self.units.count(left))
    }

    /// How badly a place suits of which so much is left: the least is the best.
    pub(super) fn misfit(&self, left: [u64; WEIGHED]) -> u128 {
        let left = self.units.count(left);
        let whole = self.sum(&left);
        let counts = |at: &usize| self.weights[*at] > 0 && self.needs[*at] > 0;
        // So often would the needs be met until something has run out, and such a part of what is left be used.
        let times = (0..WEIGHED).filter(counts).map(|at| (left[at] << PART_BITS) / self.needs[at]).min();
        let used = times.map_or(WHOLE, |times| {
            let met = u128::from(times) * u128::from(self.sum(&self.needs));
            met.checked_div(whole.into()).unwrap_or(0) as u64
        });
        let used = u128::from(used.clamp(1, WHOLE).pow(PART_POWER));
        (u128::from(whole) << (PART_BITS * PART_POWER)) / used
    }

    fn sum(&self, amounts: &[u64; WEIGHED]) -> u64 {
        self.weights.iter().zip(amounts).map(|(weight, amount)| weight * amount).sum()
    }
}
