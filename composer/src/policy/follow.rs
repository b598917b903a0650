//! Following the best expert: each kind does what would have cost least of late.
//!
//! What each expert would have cost follows from the demand alone, whoever was followed. A kind's own costs are
//! noisy where it is rarely wanted, so those of all its like are added, at the weight of a few such kinds. Follow the
//! leader on discounted losses; see Cesa-Bianchi and Lugosi, "Prediction, Learning, and Games", 2006, chapter 2.

use serde::{Deserialize, Serialize};

/// What is left of a cost after a bin, for one kind and for all.
const OWN_KEPT: f32 = 0.99;
const POOL_KEPT: f32 = 0.995;
/// The pool counts as much as this many kinds.
const POOL_WEIGHT: f32 = 3.0;

/// What `N` experts cost all kinds of a sort.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Pool {
    costs: Vec<f32>,
    kinds: u32,
}

impl Pool {
    pub(super) fn new(experts: usize) -> Self {
        Self { costs: vec![0.0; experts], kinds: 0 }
    }

    pub(super) fn fits(&self, experts: usize) -> bool {
        self.costs.len() == experts
    }

    /// Begins a bin.
    pub(super) fn begin(&mut self) {
        self.costs.iter_mut().for_each(|cost| *cost *= POOL_KEPT);
        self.kinds = 0;
    }
}

/// What each expert says of a kind, and what it has cost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Following {
    says: Vec<u32>,
    costs: Vec<f32>,
    followed: u8,
}

impl Following {
    /// Follows the expert `first` as long as all are as good.
    pub(super) fn new(experts: usize, first: usize) -> Self {
        Self { says: vec![0; experts], costs: vec![0.0; experts], followed: first as u8 }
    }

    pub(super) fn fits(&self, experts: usize) -> bool {
        self.says.len() == experts && self.costs.len() == experts && usize::from(self.followed) < experts
    }

    /// Takes in what was wanted in the bin that the experts spoke of.
    pub(super) fn learn(&mut self, pool: &mut Pool, demand: u32, cold_price: f64) {
        pool.kinds += 1;
        for ((said, own), all) in self.says.iter().zip(&mut self.costs).zip(&mut pool.costs) {
            let (idle, cold) = (said.saturating_sub(demand), demand.saturating_sub(*said));
            let cost = idle as f32 + cold_price as f32 * cold as f32;
            *own = *own * OWN_KEPT + cost;
            *all += cost;
        }
    }

    /// What the experts say of the next bin; the one to follow is chosen.
    pub(super) fn choose(&mut self, pool: &Pool, says: impl IntoIterator<Item = u32>) -> u32 {
        let share = POOL_WEIGHT / (pool.kinds.max(1) as f32);
        let cost = |at: usize| self.costs[at] + share * pool.costs[at];
        let mut best = usize::from(self.followed);
        for at in 0..self.costs.len() {
            if cost(at) < cost(best) {
                best = at;
            }
        }
        self.followed = best as u8;
        self.says.iter_mut().zip(says).for_each(|(said, says)| *said = says);
        self.says[best]
    }

    pub(super) fn followed(&self) -> usize {
        usize::from(self.followed)
    }
}
