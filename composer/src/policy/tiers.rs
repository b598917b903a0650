//! How many slots to hold in which tier: ready, frozen, or generic.
//!
//! A frozen slot keeps its memory but no CPU: it costs a part of a ready one, and meeting demand from it costs a part of a
//! cold start. A generic shard is warm and can become any kind: meeting demand from it costs a part of a cold start, too.
//! Of both, the number that is cheapest in expectation is held.

use super::{COLD_PRICE_MAX, Forecast};
use serde::{Deserialize, Serialize};

/// The tiers beyond ready and cold, with what was measured for them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tiers {
    /// Frozen slots.
    pub frozen: Option<Frozen>,
    /// Generic shards.
    pub generic: Option<Generic>,
}

/// What a frozen slot costs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Frozen {
    /// To hold it for a bin, as a part of a ready one.
    pub idle_part: f64,
    /// To thaw it for a session, as a part of a cold start.
    pub cold_part: f64,
}

impl Frozen {
    /// How many slots to have ready, and how many frozen beyond them.
    ///
    /// The n-th slot is wanted with the chance p of a demand of at least n. Ready, it costs 1 − p; frozen, the idle part of
    /// that and p times the price of thawing; cold, p times the price of a cold start.
    pub fn split(&self, forecast: &Forecast, cold_price: f64) -> (u32, u32) {
        let thaw_price = self.cold_part * cold_price;
        // Ready beats frozen where p · thaw > (1 − p)(1 − idle part); frozen beats cold where p (R − thaw) > (1 − p) · idle part.
        let ready_odds = thaw_price / (1.0 - self.idle_part).max(f64::MIN_POSITIVE);
        let frozen_odds = (cold_price - thaw_price) / self.idle_part.max(f64::MIN_POSITIVE);
        // Where freezing serves nobody, ready slots compete with cold ones.
        if frozen_odds <= ready_odds {
            return (forecast.cheapest(cold_price), 0);
        }
        let ready = forecast.cheapest(ready_odds);
        (ready, forecast.cheapest(frozen_odds).saturating_sub(ready))
    }
}

/// What a generic shard costs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Generic {
    /// To turn it into the kind that is wanted, as a part of a cold start.
    pub cold_part: f64,
}

/// What one kind may want of generic shards that can become any of several.
#[derive(Clone, Debug, PartialEq)]
pub struct Wants {
    /// How many more shards of the kind are wanted than there are.
    pub missing: Forecast,
    /// What a cold start saves by a generic shard, in generic shards that are held for a bin.
    pub saving: f64,
}

/// How many generic shards to hold, and why.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Held {
    /// So many.
    pub shards: u32,
    /// So many shards are expected to be missing in a bin, of all kinds.
    pub missing: f64,
    /// What a cold start of these saves on average by a generic shard, in generic shards that are held for a bin.
    pub saving: f64,
}

impl Generic {
    /// How many generic shards to hold, at most `shards_max`, for kinds whose demands do not depend on each other.
    ///
    /// The n-th one is taken with the chance that at least n shards are missing, of whichever kinds. It saves what a cold
    /// start of these kinds saves on average, weighed by how many of each are expected to be missing.
    pub fn hold(wants: &[Wants], shards_max: u32) -> Held {
        let missing: f64 = wants.iter().map(|kind| kind.missing.mean()).sum();
        let saved: f64 = wants.iter().map(|kind| kind.missing.mean() * kind.saving.max(0.0)).sum();
        if missing <= 0.0 || saved <= 0.0 {
            return Held { missing: missing.max(0.0), ..Held::default() };
        }
        // Where holding costs nothing, it saves without bound.
        let saving = (saved / missing).min(COLD_PRICE_MAX);
        let all = Forecast::sum(wants.iter().map(|kind| kind.missing.clone()), shards_max);
        Held { shards: all.cheapest(saving), missing, saving }
    }
}

/// After so many bins what was missed counts for a third.
const REMEMBERED_BINS: f64 = 500.0;
/// The most generic slots.
const GENERIC_MAX: usize = 10_000;

/// How many generic slots to hold: learned from how many slots of all kinds were missed, bin by bin.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Spare {
    /// By number of slots missed in a bin: how often.
    missed: Vec<f64>,
    slots: u32,
}

impl Spare {
    /// Takes in how many slots of all kinds were wanted in a bin and not there of their own kind, and says how many
    /// generic slots to hold in the next.
    pub fn decide(&mut self, generic: Generic, missed: u32, cold_price: f64) -> u32 {
        let missed = (missed as usize).min(GENERIC_MAX);
        self.missed.iter_mut().for_each(|weight| *weight *= 1.0 - 1.0 / REMEMBERED_BINS);
        self.missed.resize(self.missed.len().max(missed + 1), 0.0);
        self.missed[missed] += 1.0;
        let total: f64 = self.missed.iter().sum();
        let mut at_least = total;
        let steps = (0..).zip(&self.missed).map(|(slots, weight)| {
            let chance = at_least / total;
            at_least -= weight;
            (slots, chance)
        });
        self.slots = Forecast::new(steps).cheapest(cold_price * (1.0 - generic.cold_part));
        self.slots
    }

    /// What a miss costs a kind, with so many generic slots there: the price to reckon its ready slots with.
    pub fn cold_price(&self, generic: Generic, cold_price: f64) -> f64 {
        let total: f64 = self.missed.iter().sum();
        // Of the slots that were missed, those that came after the generic ones were gone.
        let all: f64 = (0..).zip(&self.missed).map(|(missed, weight)| f64::from(missed) * weight).sum();
        let beyond: f64 = (0_u32..)
            .zip(&self.missed)
            .map(|(missed, weight)| f64::from(missed.saturating_sub(self.slots)) * weight)
            .sum();
        let part = if total == 0.0 || all == 0.0 { 1.0 } else { beyond / all };
        cold_price * (generic.cold_part + (1.0 - generic.cold_part) * part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_slot_is_in_the_tier_that_costs_least() {
        let forecast = Forecast::new([(1, 0.95), (2, 0.5), (3, 0.2), (4, 0.02), (5, 0.001)]);
        for price in [2.0, 10.0, 100.0, 1000.0] {
            for (idle_part, cold_part) in [(0.2, 0.05), (0.5, 0.5), (0.9, 0.9), (0.01, 0.0)] {
                let (ready, frozen) = Frozen { idle_part, cold_part }.split(&forecast, price);
                let cost = |ready: u32, held: u32| -> f64 {
                    (1..=6)
                        .map(|slot| (slot, forecast.at_least(slot)))
                        .map(|(slot, p)| match slot {
                            slot if slot <= ready => 1.0 - p,
                            slot if slot <= held => (1.0 - p) * idle_part + p * cold_part * price,
                            _ => p * price,
                        })
                        .sum()
                };
                let least = (0..=6)
                    .flat_map(|ready| (ready..=6).map(move |held| (ready, held)))
                    .map(|(ready, held)| cost(ready, held))
                    .fold(f64::INFINITY, f64::min);
                let got = cost(ready, ready + frozen);
                assert!(
                    got < least + 1e-9,
                    "price {price}, parts {idle_part} and {cold_part}: {got} > {least}"
                );
            }
        }
    }

    #[test]
    fn generic_shards_are_held_as_long_as_the_next_one_saves_more_than_it_costs() {
        let kinds = [[0.3, 0.1], [0.5, 0.01], [0.02, 0.0]].map(|chances| Forecast::new((1..).zip(chances)));
        let all = Forecast::sum(kinds.clone(), 256);
        for saving in [0.1, 1.0, 5.0, 40.0, 1000.0] {
            let wants: Vec<Wants> =
                kinds.iter().map(|missing| Wants { missing: missing.clone(), saving }).collect();
            let held = Generic::hold(&wants, 256).shards;
            let cost = |held| all.expected_idle(held) + saving * all.expected_cold(held);
            let least = (0..8).map(cost).fold(f64::INFINITY, f64::min);
            assert!(cost(held) < least + 1e-9, "{held} at {saving}");
            assert_eq!(Generic::hold(&wants, 1).shards, held.min(1));
        }
    }

    #[test]
    fn no_generic_shard_is_held_where_none_is_missing_or_nothing_is_saved() {
        let sure = Forecast::new([(1, 1.0), (2, 0.9)]);
        let wants = |missing: &Forecast, saving| Wants { missing: missing.clone(), saving };
        let held = |wants: &[Wants]| Generic::hold(wants, 9).shards;
        assert_eq!(held(&[]), 0);
        assert_eq!(held(&[wants(&Forecast::default(), 100.0)]), 0);
        assert_eq!(held(&[wants(&sure, 0.0), wants(&sure, -3.0)]), 0);
        assert_eq!(held(&[wants(&sure, 100.0)]), 2);
        assert_eq!(held(&[wants(&sure, f64::INFINITY)]), 2, "it costs nothing");
        let dear = [wants(&sure, 100.0), wants(&Forecast::new([(1, 0.5)]), 0.0)];
        assert!((1..=3).contains(&held(&dear)));
    }

    #[test]
    fn generic_slots_follow_what_was_missed() {
        let generic = Generic { cold_part: 0.2 };
        let mut spare = Spare::default();
        assert_eq!(spare.decide(generic, 0, 30.0), 0);
        for bin in 0..2000 {
            spare.decide(generic, if bin % 4 == 0 { 2 } else { 0 }, 30.0);
        }
        assert_eq!(spare.decide(generic, 0, 30.0), 2, "a quarter of the bins misses two");
        assert!((spare.cold_price(generic, 30.0) - 6.0).abs() < 0.5, "nearly every miss finds one");
        assert_eq!(spare.decide(generic, 0, 0.5), 0, "holding costs more than missing");
    }
}
