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
pub(super) struct Pool<const N: usize> {
    #[serde(with = "super::array")]
    costs: [f32; N],
    kinds: u32,
}

impl<const N: usize> Pool<N> {
    pub(super) fn new() -> Self {
        Self { costs: [0.0; N], kinds: 0 }
    }

    /// Begins a bin.
    pub(super) fn begin(&mut self) {
        self.costs.iter_mut().for_each(|cost| *cost *= POOL_KEPT);
        self.kinds = 0;
    }
}

/// What each expert says of a kind, and what it has cost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Following<const N: usize> {
    #[serde(with = "super::array")]
    says: [u32; N],
    #[serde(with = "super::array")]
    costs: [f32; N],
    followed: u8,
}

impl<const N: usize> Following<N> {
    /// Follows the expert `first` as long as all are as good.
    pub(super) fn new(first: usize) -> Self {
        Self { says: [0; N], costs: [0.0; N], followed: first as u8 }
    }

    pub(super) fn fits(&self) -> bool {
        usize::from(self.followed) < N
    }

    /// Takes in what was wanted in the bin that the experts spoke of.
    pub(super) fn learn(&mut self, pool: &mut Pool<N>, demand: u32, cold_price: f64) {
        pool.kinds += 1;
        for ((said, own), all) in self.says.iter().zip(&mut self.costs).zip(&mut pool.costs) {
            let (idle, cold) = (said.saturating_sub(demand), demand.saturating_sub(*said));
            let cost = idle as f32 + cold_price as f32 * cold as f32;
            *own = *own * OWN_KEPT + cost;
            *all += cost;
        }
    }

    /// What the experts say of the next bin; the one to follow is chosen.
    pub(super) fn choose(&mut self, pool: &Pool<N>, says: impl IntoIterator<Item = u32>) -> u32 {
        let share = POOL_WEIGHT / (pool.kinds.max(1) as f32);
        let cost = |at: usize| self.costs[at] + share * pool.costs[at];
        let mut best = usize::from(self.followed);
        for at in 0..N {
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
