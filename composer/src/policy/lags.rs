//! What happened so many bins after a layer was busy: where a period shows.
//!
//! Each lag has the chance that a busy bin so long ago means one now, and one where the neighbours of that bin count,
//! too. Lags are reckoned with eight at a time, and one row of both tables fills a cache line: with ten thousand kinds
//! the lines that are touched are what a decision costs. What a lane does not take part in is left out by choosing, not
//! by branching; which lags are set is not foreseeable.
//!
//! Invariant: where no lag of a row is set, the row is not touched.

use serde::{Deserialize, Serialize};
use shard_runtime::cache::expect_write;
use std::array;

/// Lags that are looked at, in bins: the bits of a history.
const LAGS: usize = 128;
/// Lags that are reckoned with together.
const LANES: usize = 8;
const ROWS: usize = LAGS / LANES;
/// Outcomes that the chance of a lag remembers.
pub(super) const OUTCOMES: u8 = 30;

/// Something of each lane.
type Lanes<T> = [T; LANES];
/// All bits of the lanes that take part, none of the others.
type Mask = Lanes<u32>;

/// The chances of a row of lags, as in [`Chance`](super::chance::Chance).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[repr(align(64))]
struct Means {
    exact: Lanes<f32>,
    near: Lanes<f32>,
}

/// How many outcomes each of them has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Seen {
    exact: Lanes<u8>,
    near: Lanes<u8>,
}

/// The chances of all lags of a layer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Lags {
    means: [Means; ROWS],
    seen: [Seen; ROWS],
}

/// What the best lags say of the next bin: how often a busy bin so long ago meant one now, drawn towards never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct BestLags {
    pub(super) best: f32,
    /// The outcomes of the best; of the shortest, where several are as good.
    pub(super) seen: f32,
    pub(super) second: f32,
    /// The best where neighbours count.
    pub(super) near: f32,
}

impl Lags {
    /// Asks for the memory that [`learn`](Self::learn) touches after this history.
    pub(super) fn expect(&self, before: u128) {
        let rows = smeared(before | before << 1).to_le_bytes();
        for (row, _) in rows.iter().enumerate().filter(|&(_, &lanes)| lanes != 0) {
            expect_write(&self.means[row]);
            expect_write(&self.seen[row]);
        }
    }

    /// The lags that were set learn the outcome; of those that are set then, the best. Bit k of a history: whether the
    /// layer was busy k + 1 bins before.
    pub(super) fn learn(&mut self, outcome: f32, before: u128, then: u128) -> BestLags {
        // Bytes, since there are as many lanes as a byte has bits.
        let [learns, learns_near] = [before, smeared(before)].map(u128::to_le_bytes);
        let [set, set_near] = [then, smeared(then)].map(u128::to_le_bytes);
        let mut largest = Largest::default();
        for (row, (means, seen)) in self.means.iter_mut().zip(&mut self.seen).enumerate() {
            if learns_near[row] != 0 {
                learn(&mut means.exact, &mut seen.exact, outcome, mask(learns[row]));
                learn(&mut means.near, &mut seen.near, outcome, mask(learns_near[row]));
            }
            if set_near[row] != 0 {
                let exact = low(&means.exact, &seen.exact, mask(set[row]));
                largest.add(row as u32, exact, low(&means.near, &seen.near, mask(set_near[row])));
            }
        }
        let (best, lag) = largest.best();
        let seen = if best > 0.0 { self.seen[lag / LANES].exact[lag % LANES] } else { 0 };
        let near = largest.near.into_iter().fold(0.0, f32::max);
        BestLags { best, seen: f32::from(seen), second: largest.second(), near }
    }
}

/// Each bit with its neighbours.
fn smeared(set: u128) -> u128 {
    set | set << 1 | set >> 1
}

/// The masks of all sets of lanes, as bits.
static MASKS: [Mask; 1 << LANES] = {
    let mut masks = [[0; LANES]; 1 << LANES];
    let mut at = 0;
    while at < LANES << LANES {
        let (lanes, lane) = (at / LANES, at % LANES);
        if lanes >> lane & 1 == 1 {
            masks[lanes][lane] = u32::MAX;
        }
        at += 1;
    }
    masks
};

fn mask(lanes: u8) -> &'static Mask {
    &MASKS[usize::from(lanes)]
}

// Not inlined, nor is `low`: by themselves they become instructions for four lanes; within the loop over rows, some lanes
// are reckoned one by one.
#[inline(never)]
fn learn(means: &mut Lanes<f32>, seen: &mut Lanes<u8>, outcome: f32, learns: &Mask) {
    for lane in 0..LANES {
        let (mean, before, learns) = (means[lane], seen[lane], learns[lane]);
        let now = before.min(OUTCOMES - 1) + 1;
        let learned = mean + (outcome - mean) / f32::from(now);
        means[lane] = f32::from_bits(learns & learned.to_bits() | !learns & mean.to_bits());
        seen[lane] = learns as u8 & now | !learns as u8 & before;
    }
}

/// The chances drawn towards never by one outcome; 0 in other lanes.
#[inline(never)]
fn low(means: &Lanes<f32>, seen: &Lanes<u8>, set: &Mask) -> Lanes<f32> {
    array::from_fn(|lane| {
        let seen = f32::from(seen[lane]);
        let low = means[lane] * seen / (seen + 1.0);
        f32::from_bits(low.to_bits() & set[lane])
    })
}

/// The largest chances so far, and in which row the largest was first, lane by lane.
#[derive(Default)]
struct Largest {
    first: Lanes<f32>,
    second: Lanes<f32>,
    at: Lanes<u32>,
    near: Lanes<f32>,
}

impl Largest {
    // One step for all lanes at a time, which compilers turn into instructions for several lanes.
    fn add(&mut self, row: u32, exact: Lanes<f32>, near: Lanes<f32>) {
        let larger: Mask = array::from_fn(|lane| u32::from(exact[lane] > self.first[lane]).wrapping_neg());
        self.at = array::from_fn(|lane| larger[lane] & row | !larger[lane] & self.at[lane]);
        let lesser: Lanes<f32> = array::from_fn(|lane| smaller(exact[lane], self.first[lane]));
        self.second = array::from_fn(|lane| greater(lesser[lane], self.second[lane]));
        self.first = array::from_fn(|lane| greater(exact[lane], self.first[lane]));
        self.near = array::from_fn(|lane| greater(near[lane], self.near[lane]));
    }

    /// The largest chance, and the shortest lag that has it.
    fn best(&self) -> (f32, usize) {
        let best = self.first.into_iter().fold(0.0, f32::max);
        let lags = (0..LANES).filter(|&lane| self.first[lane] == best);
        (best, lags.map(|lane| self.at[lane] as usize * LANES + lane).min().unwrap_or(0))
    }

    /// The next largest, which may be as large.
    fn second(&self) -> f32 {
        let mut largest = [0.0_f32; 2];
        for chance in self.first.into_iter().chain(self.second) {
            if chance > largest[0] {
                largest = [chance, largest[0]];
            } else {
                largest[1] = largest[1].max(chance);
            }
        }
        largest[1]
    }
}

// As one instruction does it; that of the library minds what is no number.
fn greater(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

fn smaller(a: f32, b: f32) -> f32 {
    if a < b { a } else { b }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// One lag by itself.
    #[derive(Clone, Copy, Default)]
    struct Plain {
        mean: f32,
        seen: f32,
    }

    impl Plain {
        fn low(self) -> f32 {
            self.mean * self.seen / (self.seen + 1.0)
        }
    }

    proptest! {
        #[test]
        fn lags_in_lanes_learn_and_compare_as_one_by_one(busy in prop::collection::vec(prop::bool::weighted(0.3), 1..300)) {
            let mut lags = Lags::default();
            let mut plain = [[Plain::default(); LAGS]; 2];
            let mut before = 1_u128;
            for busy in busy {
                let then = before << 1 | u128::from(busy);
                let outcome = f32::from(u8::from(busy));
                let got = lags.learn(outcome, before, then);
                let mut lows = [[0.0; LAGS]; 2];
                for (which, (was, is)) in [(before, then), (smeared(before), smeared(then))].into_iter().enumerate() {
                    for lag in 0..LAGS {
                        let chance = &mut plain[which][lag];
                        if was >> lag & 1 == 1 {
                            chance.seen = (chance.seen + 1.0).min(f32::from(OUTCOMES));
                            chance.mean += (outcome - chance.mean) / chance.seen;
                        }
                        lows[which][lag] = if is >> lag & 1 == 1 { chance.low() } else { 0.0 };
                    }
                }
                let [exact, near] = lows;
                let best = exact.iter().copied().fold(0.0, f32::max);
                let at = exact.iter().position(|&low| low == best).unwrap();
                let seen = if best > 0.0 { plain[0][at].seen } else { 0.0 };
                let mut sorted = exact;
                sorted.sort_by(f32::total_cmp);
                let near = near.into_iter().fold(0.0, f32::max);
                prop_assert_eq!(got, BestLags { best, seen, second: sorted[LAGS - 2], near });
                before = then;
            }
        }
    }
}
