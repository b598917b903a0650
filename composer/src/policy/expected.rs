//! `expected-cost`: as many slots as cost least by a forecast.
//!
//! Where a cold start costs R idle slots, the cheapest number is the one that is exceeded with a chance of 1 / (1 + R)
//! (the newsvendor's quantile). A kind that never wanted more than [`LAYERS_MAX`] slots is forecast layer by layer, by
//! when each recurs; one that did, by its level. The chance may be off, and the experts that are followed correct it:
//! each takes the odds for larger or smaller than forecast.

use super::KINDS_MAX;
use super::chance::{chance_of, log_odds};
use super::follow::{Following, Pool};
use super::forecast::Forecast;
use super::level::{Level, SCALES};
use super::recurrence::{Layer, Population};
use super::season::Calendar;
use serde::{Deserialize, Serialize};

/// Up to this demand each slot is a layer of its own.
const LAYERS_MAX: u32 = 4;
/// What experts multiply the odds by.
const FACTORS: [f32; 5] = [0.25, 0.5, 1.0, 2.0, 4.0];
/// The expert that takes the odds as they are.
const PLAIN: usize = 2;
/// Experts of a kind with a level: a spread and a factor each, and a factor for how likely it recurs at all.
const LEVEL_EXPERTS: usize = (SCALES + 1) * FACTORS.len();
/// The first of the latter.
const RECURS: usize = SCALES * FACTORS.len();
/// How many of the last busy bins say how much is wanted when it recurs.
const SIZES: usize = 4;

/// So many kinds before it is a kind's turn, its memory is asked for.
const EXPECTED_AHEAD: usize = 4;

/// All kinds, and what they have learned together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Expected {
    calendar: Option<Calendar>,
    population: Population,
    layered: Pool<{ FACTORS.len() }>,
    levelled: Pool<LEVEL_EXPERTS>,
    kinds: Vec<Kind>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Kind {
    cold_price: f64,
    /// What follows from the price: see [`thresholds`].
    thresholds: [f32; FACTORS.len()],
    layers: Layers,
    /// Of a kind without a level.
    following: Following<{ FACTORS.len() }>,
    level: Option<Box<Levelled>>,
}

/// Busy where at least 1, 2, … slots are wanted; of a kind with a level there is only the first. Most kinds have no more,
/// so that one lies in the kind itself: kinds are gone through in their order.
///
/// Invariant: without a first there are no others.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Layers {
    first: Option<Layer>,
    others: Vec<Layer>,
}

impl Layers {
    fn len(&self) -> u32 {
        u32::from(self.first.is_some()) + self.others.len() as u32
    }

    fn iter(&self) -> impl Iterator<Item = &Layer> {
        self.first.iter().chain(&self.others)
    }

    fn iter_mut(&mut self) -> impl Iterator<Item = &mut Layer> {
        self.first.iter_mut().chain(&mut self.others)
    }

    fn push(&mut self, layer: Layer) {
        match self.first {
            None => self.first = Some(layer),
            Some(_) => self.others.push(layer),
        }
    }

    /// How many are busy with more than this chance.
    fn recurring(&self, threshold: f32) -> u32 {
        self.iter().map(|layer| u32::from(layer.chance() > threshold)).sum()
    }

    fn fits(&self, len_max: u32, bins: u64) -> bool {
        self.len() <= len_max
            && (self.first.is_some() || self.others.is_empty())
            && self.iter().all(|layer| layer.fits(bins))
    }
}

/// A kind that has wanted more slots than it may have layers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Levelled {
    level: Level,
    /// The demand of the last busy bins.
    sizes: [u32; SIZES],
    following: Following<LEVEL_EXPERTS>,
}

impl Expected {
    pub(super) fn new(bin_s: f64) -> Self {
        Self {
            calendar: Calendar::new(bin_s),
            population: Population::new(),
            layered: Pool::new(),
            levelled: Pool::new(),
            kinds: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, cold_price: f64) {
        let following = Following::new(PLAIN);
        let thresholds = thresholds(cold_price);
        self.kinds.push(Kind { cold_price, thresholds, layers: Layers::default(), following, level: None });
    }

    pub(super) fn set_cold_price(&mut self, kind: usize, cold_price: f64) {
        self.kinds[kind].cold_price = cold_price;
        self.kinds[kind].thresholds = thresholds(cold_price);
    }

    /// Whether it can have come from this version.
    pub(super) fn fits(&self, bin_s: f64, bins: u64) -> bool {
        self.calendar == Calendar::new(bin_s)
            && self.population.fits()
            && self.kinds.len() <= KINDS_MAX
            && self.kinds.iter().all(|kind| kind.fits(bins))
    }

    pub(super) fn len(&self) -> usize {
        self.kinds.len()
    }

    /// Takes in the demand of the bin `now`, and says what is wanted in the next.
    pub(super) fn decide(&mut self, now: u64, demand: &[u32], wanted: &mut [u32]) {
        self.layered.begin();
        self.levelled.begin();
        for (at, &demand) in demand.iter().enumerate() {
            if let Some(kind) = self.kinds.get(at + EXPECTED_AHEAD) {
                kind.layers.iter().for_each(|layer| layer.expect(now));
            }
            let kind = &mut self.kinds[at];
            match &mut kind.level {
                None => kind.following.learn(&mut self.layered, demand, kind.cold_price),
                Some(level) => level.following.learn(&mut self.levelled, demand, kind.cold_price),
            }
            kind.learn(&mut self.population, self.calendar, now, demand);
        }
        for (kind, wanted) in self.kinds.iter_mut().zip(wanted) {
            kind.layers.iter_mut().for_each(|layer| layer.predict(&self.population, now + 1));
            *wanted = kind.decide(&self.layered, &self.levelled);
        }
    }

    /// The forecast of the bin that has begun, as the expert sees it whom the kind follows.
    pub(super) fn forecast(&self, kind: usize) -> Forecast {
        self.kinds[kind].forecast()
    }

    /// Whom the kind follows.
    pub(super) fn expert(&self, kind: usize) -> Expert {
        let kind = &self.kinds[kind];
        let followed = kind.followed();
        let odds_factor = FACTORS[followed % FACTORS.len()];
        match &kind.level {
            None => Expert::Recurrence { odds_factor },
            Some(_) if followed >= RECURS => Expert::Recurrence { odds_factor },
            Some(_) => Expert::Level { spread: SPREADS[followed / FACTORS.len()], odds_factor },
        }
    }
}

/// The names of the ways to expect a spread.
const SPREADS: [&str; SCALES] = ["quick", "steady", "slow"];

/// Whose forecast a kind follows: the one that would have cost least of late.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Expert {
    /// When each slot was wanted before: by age, period and pattern.
    Recurrence {
        /// What the odds of being wanted are multiplied by.
        odds_factor: f32,
    },
    /// The level of the series and how far off its forecasts were.
    Level {
        /// How quickly the spread follows the last residuals.
        spread: &'static str,
        /// What the odds of more are multiplied by.
        odds_factor: f32,
    },
}

impl std::fmt::Display for Expert {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let odds_factor = match self {
            Self::Recurrence { odds_factor } => {
                f.write_str("recurrence")?;
                odds_factor
            }
            Self::Level { spread, odds_factor } => {
                write!(f, "level, {spread} spread")?;
                odds_factor
            }
        };
        if *odds_factor == 1.0 { Ok(()) } else { write!(f, ", odds times {odds_factor}") }
    }
}

impl Kind {
    fn fits(&self, bins: u64) -> bool {
        self.cold_price.is_finite()
            && self.layers.fits(self.layers_max(), bins)
            && self.following.fits()
            && self.level.as_ref().is_none_or(|level| level.level.fits() && level.following.fits())
    }

    fn layers_max(&self) -> u32 {
        if self.level.is_some() { 1 } else { LAYERS_MAX }
    }

    fn followed(&self) -> usize {
        self.level.as_ref().map_or(self.following.followed(), |level| level.following.followed())
    }

    fn learn(&mut self, population: &mut Population, calendar: Option<Calendar>, now: u64, demand: u32) {
        for (at, layer) in self.layers.iter_mut().enumerate() {
            layer.learn(population, now, demand > at as u32);
        }
        if self.level.is_none() && demand > LAYERS_MAX {
            let following = Following::new(FACTORS.len() + PLAIN);
            let level = Levelled { level: Level::new(calendar), sizes: [0; SIZES], following };
            self.level = Some(Box::new(level));
            self.layers.others = Vec::new();
        }
        while self.layers.len() < demand.min(self.layers_max()) {
            self.layers.push(Layer::new(now));
        }
        if let Some(levelled) = &mut self.level {
            levelled.level.push(demand);
            if demand > 0 {
                levelled.sizes.rotate_right(1);
                levelled.sizes[0] = demand;
            }
        }
    }

    fn decide(&mut self, layered: &Pool<{ FACTORS.len() }>, levelled: &Pool<LEVEL_EXPERTS>) -> u32 {
        let recurring = self.thresholds.map(|threshold| self.layers.recurring(threshold));
        let Some(of) = &mut self.level else {
            return self.following.choose(layered, recurring);
        };
        let size = of.size();
        let level = &of.level;
        let by_level = (0..SCALES).flat_map(|scale| level.exceeded_with(scale, self.thresholds));
        of.following.choose(levelled, by_level.chain(recurring.map(|layers| layers * size)))
    }

    fn forecast(&self) -> Forecast {
        let followed = self.followed();
        let factor = FACTORS[followed % FACTORS.len()];
        let of = |chance: f32| f64::from(chance_of(log_odds(chance) + factor.ln()));
        match &self.level {
            None => Forecast::new((1..).zip(self.layers.iter().map(|layer| of(layer.chance())))),
            Some(levelled) if followed >= RECURS => {
                Forecast::new(self.layers.iter().map(|layer| (levelled.size(), of(layer.chance()))))
            }
            Some(levelled) => {
                // The chance of more than a step is that of at least the next.
                let mut more = 1.0;
                Forecast::new(
                    levelled
                        .level
                        .steps(followed / FACTORS.len())
                        .map(move |(slots, chance)| (slots, std::mem::replace(&mut more, of(chance as f32)))),
                )
            }
        }
    }
}

impl Levelled {
    /// How much is wanted when it recurs.
    fn size(&self) -> u32 {
        self.sizes.iter().copied().max().unwrap_or(0)
    }
}

/// The forecast chances above which a slot pays, by expert: a chance times a factor in odds is above a threshold where the
/// chance is above the threshold over the factor.
fn thresholds(cold_price: f64) -> [f32; FACTORS.len()] {
    let chance = 1.0 / (1.0 + cold_price);
    FACTORS.map(|factor| chance_of(log_odds(chance as f32) - factor.ln()))
}
