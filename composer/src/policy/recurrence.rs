//! When something is wanted again: the chance that a layer is busy in the next bin.
//!
//! A layer is "at least j slots are wanted". Several views each give a chance that they have learned: the hazard by age
//! since the layer was busy, the best lag of a period, what followed the same few last bins, what follows gaps that
//! relate so to the age. Views that one layer learns alone are drawn towards what all layers have learned. The views
//! are mixed in the logistic domain by weights that all layers share and that follow the gradient of the coding cost
//! online, as in Mahoney, "Adaptive Weighing of Context Models for Lossless Data Compression", 2005.
//!
//! Invariant: `learn` is called once a bin, after `predict` for this bin; what was predicted is what is learned from.

use super::chance::{Chance, chance_of, log_odds};
use super::lags::{BestLags, Lags, OUTCOMES};
use serde::{Deserialize, Serialize};
use shard_runtime::cache::expect_write;
use std::array;

/// Ages that a layer has a hazard of its own for, in bins.
const AGES: usize = 64;
/// Outcomes that a chance of one layer and one of all layers remembers.
const OWN_OUTCOMES: f32 = OUTCOMES as f32;
const ALL_OUTCOMES: f32 = 400.0;
/// How fast the mixing weights are learned, and what each is at first. Their sum is above 1: views that agree are
/// evidence together.
const MIX_RATE: f32 = 0.0007;
const MIX_FIRST: f32 = 0.17;
/// Steps to which a chance is rounded where it is a context.
const STEPS: usize = 16;
/// How many of the last bins a layer, and all layers together, tell apart.
const OWN_BITS: usize = 6;
const ALL_BITS: usize = 10;
/// The parts of contexts: buckets of ages and gaps, relations of an age to a gap.
const BUCKETS: usize = 16;
const RELATIONS: usize = 8;
const SIZES: usize = 10;
const AGE_BUCKETS: usize = AGES + 8;

/// The views that are mixed.
const VIEWS: usize = 9;
/// Layers that were busy once, a few times, often: each has its mixing weights.
const CLASSES: usize = 3;

/// What all layers have learned together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Population {
    all: Chance,
    size_age: Vec<Chance>,
    recent: Vec<Chance>,
    relation: Vec<Chance>,
    lag: Vec<Chance>,
    two_lags: Vec<Chance>,
    near_lag: Vec<Chance>,
    joint: Vec<Chance>,
    pace: Vec<Chance>,
    weights: [[f32; VIEWS]; CLASSES],
}

impl Population {
    pub(super) fn new() -> Self {
        let table = |len| vec![Chance::default(); len];
        Self {
            all: Chance::default(),
            size_age: table(SIZES * AGE_BUCKETS),
            recent: table((1 << ALL_BITS) * 4),
            relation: table(RELATIONS * RELATIONS * BUCKETS * 2),
            lag: table(STEPS * 8),
            two_lags: table(STEPS * STEPS),
            near_lag: table(STEPS * STEPS),
            joint: table(STEPS * STEPS),
            pace: table(BUCKETS * BUCKETS * BUCKETS),
            weights: [[MIX_FIRST; VIEWS]; CLASSES],
        }
    }

    /// Whether all tables have the length that this version gives them.
    pub(super) fn fits(&self) -> bool {
        let lens = |p: &Self| {
            [&p.size_age, &p.recent, &p.relation, &p.lag, &p.two_lags, &p.near_lag, &p.joint, &p.pace]
                .map(Vec::len)
        };
        lens(self) == lens(&Self::new())
    }
}

/// Where a prediction stands in the tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Contexts {
    class: u8,
    gap: u8,
    size_age: u16,
    recent: u16,
    relation: u16,
    lag: u16,
    two_lags: u16,
    near_lag: u16,
    joint: u16,
    pace: u16,
}

/// One layer of one kind: what each bin reads and writes of it, and its tables.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Layer {
    /// The bins in which it was busy first and last.
    first: u64,
    last: u64,
    times: u32,
    /// From the busy bin before `last` to `last`, and the one before that, in bins; 0 if there is none.
    gaps: [u32; 2],
    /// Bit k: whether it was busy k + 1 bins before the one that is predicted.
    history: u128,
    /// The rate of busy bins, of late and over its life.
    fast: f32,
    slow: f32,
    best_lags: BestLags,
    /// Those of the tables by age, last bins and gap that the next bin meets: read while the tables are at hand.
    own: Own,
    /// Of the prediction that waits for its outcome.
    at: Contexts,
    views: [f32; VIEWS],
    chance: f32,
    tables: Box<Tables>,
}

/// What one layer alone has learned, of which a bin touches little.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Tables {
    lags: Lags,
    #[serde(with = "super::array")]
    at_age: [Chance; AGES + 1],
    #[serde(with = "super::array")]
    after: [Chance; 1 << OWN_BITS],
    #[serde(with = "super::array")]
    by_gap: [Chance; BUCKETS * BUCKETS],
}

impl Tables {
    fn new() -> Self {
        Self {
            lags: Lags::default(),
            at_age: [Chance::default(); AGES + 1],
            after: [Chance::default(); 1 << OWN_BITS],
            by_gap: [Chance::default(); BUCKETS * BUCKETS],
        }
    }
}

impl Layer {
    /// A layer that was busy for the first time in the bin `now`.
    pub(super) fn new(now: u64) -> Self {
        Self {
            first: now,
            last: now,
            times: 1,
            gaps: [0; 2],
            history: 1,
            fast: 0.0,
            slow: 0.0,
            best_lags: BestLags::default(),
            own: Own::default(),
            at: Contexts::default(),
            views: [0.0; VIEWS],
            chance: 0.0,
            tables: Box::new(Tables::new()),
        }
    }

    /// Whether it can have come from this version, `now` bins after the begin.
    pub(super) fn fits(&self, now: u64) -> bool {
        let at = self.at;
        let within = |at: u16, len: usize| usize::from(at) < len;
        self.first <= self.last
            && self.last < now
            && usize::from(at.class) < CLASSES
            && within(at.size_age, SIZES * AGE_BUCKETS)
            && within(at.recent, (1 << ALL_BITS) * 4)
            && within(at.relation, RELATIONS * RELATIONS * BUCKETS * 2)
            && within(at.lag, STEPS * 8)
            && [at.two_lags, at.near_lag, at.joint].iter().all(|&at| within(at, STEPS * STEPS))
            && within(at.pace, BUCKETS * BUCKETS * BUCKETS)
    }

    /// The chance that it is busy in the bin that was predicted last.
    pub(super) fn chance(&self) -> f32 {
        self.chance
    }

    /// Asks for the memory that [`learn`](Self::learn) touches in the bin `now`.
    pub(super) fn expect(&self, now: u64) {
        let age = now - self.last;
        let tables = &*self.tables;
        tables.lags.expect(self.history);
        // The next age's is its neighbour; so are both of the next last bins.
        if let Some(chance) = tables.at_age.get(age as usize) {
            expect_write(chance);
        }
        expect_write(&tables.after[self.own_bits()]);
        expect_write(&tables.after[self.own_bits() << 1 & ((1 << OWN_BITS) - 1)]);
        expect_write(&tables.by_gap[usize::from(self.at.gap)]);
        expect_write(&tables.by_gap[self.gap_context(u32::try_from(age + 1).unwrap_or(u32::MAX))]);
    }

    /// Learns whether it was busy in the bin `now`.
    pub(super) fn learn(&mut self, population: &mut Population, now: u64, busy: bool) {
        let outcome = f32::from(u8::from(busy));
        let at = self.at;
        let error = outcome - self.chance;
        let weights = &mut population.weights[usize::from(at.class)];
        weights.iter_mut().zip(&self.views).for_each(|(weight, view)| *weight += MIX_RATE * error * view);
        population.all.learn(busy, 10.0 * ALL_OUTCOMES);
        for (table, at) in [
            (&mut population.size_age, at.size_age),
            (&mut population.recent, at.recent),
            (&mut population.relation, at.relation),
            (&mut population.lag, at.lag),
            (&mut population.two_lags, at.two_lags),
            (&mut population.near_lag, at.near_lag),
            (&mut population.joint, at.joint),
            (&mut population.pace, at.pace),
        ] {
            table[usize::from(at)].learn(busy, ALL_OUTCOMES);
        }
        let age = now - self.last;
        let own_bits = self.own_bits();
        let tables = &mut *self.tables;
        let mut own = self.own;
        for chance in [&mut own.at_age, &mut own.after, &mut own.by_gap] {
            chance.learn(busy, OWN_OUTCOMES);
        }
        if let Some(chance) = tables.at_age.get_mut(age as usize) {
            *chance = own.at_age;
        }
        tables.by_gap[usize::from(at.gap)] = own.by_gap;
        tables.after[own_bits] = own.after;
        self.fast += (outcome - self.fast) / 16.0;
        self.slow += (outcome - self.slow) / ((now - self.first + 1) as f32).min(200.0);
        let before = self.history;
        self.history = before << 1 | u128::from(busy);
        // What is learned at the lags and what the next bin takes from them, in one pass while they are in the cache.
        self.best_lags = tables.lags.learn(outcome, before, self.history);
        if busy {
            self.gaps = [u32::try_from(age).unwrap_or(u32::MAX), self.gaps[0]];
            self.last = now;
            self.times = self.times.saturating_add(1);
        }
        let age = u32::try_from(now + 1 - self.last).unwrap_or(u32::MAX);
        self.own = Own {
            // Without a chance of this age there is none seen.
            at_age: self.tables.at_age.get(age as usize).copied().unwrap_or_default(),
            after: self.tables.after[self.own_bits()],
            by_gap: self.tables.by_gap[self.gap_context(age)],
        };
    }

    /// Predicts the bin `at`: the chance that it is busy.
    pub(super) fn predict(&mut self, population: &Population, at: u64) {
        let age = u32::try_from(at - self.last).unwrap_or(u32::MAX);
        let base = population.all.with_prior(0.1, 1.0);
        let of_all = |table: &[Chance], at: u16, prior| table[usize::from(at)].with_prior(prior, 2.0);

        // The hazard at this age: of layers of its size, then its own.
        let lived = (at - self.first) as f32;
        let size = ((self.times as f32 / (lived + 8.0)).log2() + SIZES as f32).max(0.0) as usize;
        let age_bucket = match age as usize {
            age @ 0..=AGES => age,
            _ => (AGES + bucket(age / AGES as u32)).min(AGE_BUCKETS - 1),
        };
        let size = size.min(SIZES - 1);
        let size_age = (size * AGE_BUCKETS + age_bucket) as u16;
        let of_size = of_all(&population.size_age, size_age, base);
        let own_age = self.own.at_age.with_prior(of_size, 1.0);

        let BestLags { best, seen, second, near } = self.best_lags;
        let (best_step, age_chance_step) = (step(best), step(own_age));

        let recent = (self.history as u16 & ((1 << ALL_BITS) - 1)) * 4 + (size / 3).min(3) as u16;
        let of_recent = of_all(&population.recent, recent, base);
        let [last, before] = self.gaps;
        let relations = relation(last, age) * RELATIONS + relation(before, age);
        let relation =
            (relations * BUCKETS + bucket(last).min(BUCKETS - 1)) * 2 + usize::from(last == before);
        let age_step = bucket(age).min(BUCKETS - 1);
        let often = bucket((self.slow * lived.min(200.0)) as u32).min(BUCKETS - 1);
        let of_late = bucket((self.fast * 32.0) as u32).min(BUCKETS - 1);

        self.at = Contexts {
            class: match self.times {
                0..=1 => 0,
                2..=3 => 1,
                _ => 2,
            },
            gap: self.gap_context(age) as u8,
            size_age,
            recent,
            relation: relation as u16,
            lag: (best_step * 8 + bucket(seen as u32).min(7)) as u16,
            two_lags: (best_step * STEPS + step(second)) as u16,
            near_lag: (step(near) * STEPS + best_step) as u16,
            joint: (age_chance_step * STEPS + best_step) as u16,
            pace: ((of_late * BUCKETS + often) * BUCKETS + age_step) as u16,
        };
        self.views = [
            own_age,
            of_all(&population.lag, self.at.lag, base),
            self.own.after.with_prior(of_recent, 2.0),
            of_all(&population.relation, self.at.relation, base),
            of_all(&population.joint, self.at.joint, own_age),
            of_all(&population.two_lags, self.at.two_lags, base),
            self.own.by_gap.with_prior(own_age, 1.0),
            of_all(&population.near_lag, self.at.near_lag, base),
            of_all(&population.pace, self.at.pace, base),
        ]
        .map(log_odds);
        let weights = &population.weights[usize::from(self.at.class)];
        let parts: [f32; VIEWS] = array::from_fn(|view| weights[view] * self.views[view]);
        self.chance = chance_of(parts.iter().sum());
    }

    /// Where an age and the last gap stand in the table of them.
    fn gap_context(&self, age: u32) -> usize {
        bucket(age).min(BUCKETS - 1) * BUCKETS + bucket(self.gaps[0]).min(BUCKETS - 1)
    }

    fn own_bits(&self) -> usize {
        self.history as usize & ((1 << OWN_BITS) - 1)
    }
}

/// What one layer alone has learned of a prediction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Own {
    at_age: Chance,
    after: Chance,
    by_gap: Chance,
}

/// 0, 1, 2, 3, then two for each power of two.
fn bucket(number: u32) -> usize {
    match number {
        0..=3 => number as usize,
        _ => {
            let power = number.ilog2();
            2 * power as usize + (number >> (power - 1) & 1) as usize
        }
    }
}

/// A chance rounded in the logistic domain.
fn step(chance: f32) -> usize {
    let steps = STEPS as f32;
    ((log_odds(chance) + 6.0) * (steps / 12.0)).clamp(0.0, steps - 1.0) as usize
}

/// How an age compares with a gap that was there before.
fn relation(gap: u32, age: u32) -> usize {
    match (u64::from(gap), u64::from(age)) {
        (0, _) => 0,
        (gap, age) if age * 2 < gap => 1,
        (gap, age) if age + 1 < gap => 2,
        (gap, age) if age + 1 == gap => 3,
        (gap, age) if age == gap => 4,
        (gap, age) if age == gap + 1 => 5,
        (gap, age) if age < 2 * gap => 6,
        _ => 7,
    }
}
