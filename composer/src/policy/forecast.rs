//! A forecast: how likely each demand is.

/// The distribution of the demand of one kind in the next bin.
///
/// Invariant: steps rise in slots and fall in chance.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Forecast {
    /// So many slots, and the chance that at least as many are wanted; it is the same for all numbers down to the step
    /// before.
    steps: Vec<(u32, f64)>,
}

impl Forecast {
    /// A forecast from numbers of slots, each with the chance that at least as many are wanted. Numbers that do not
    /// rise are left out; chances are brought into their order.
    pub fn new(at_least: impl IntoIterator<Item = (u32, f64)>) -> Self {
        let mut steps: Vec<(u32, f64)> = Vec::new();
        for (slots, chance) in at_least {
            let (before, most) = steps.last().copied().unwrap_or((0, 1.0));
            if slots > before {
                steps.push((slots, chance.clamp(0.0, most)));
            }
        }
        Self { steps }
    }

    /// The chance that at least so many slots are wanted.
    pub fn at_least(&self, slots: u32) -> f64 {
        if slots == 0 {
            return 1.0;
        }
        let at = self.steps.partition_point(|&(step, _)| step < slots);
        self.steps.get(at).map_or(0.0, |&(_, chance)| chance)
    }

    /// The smallest number of slots that is enough with this chance.
    pub fn quantile(&self, chance: f64) -> u32 {
        let at = self.steps.partition_point(|&(_, more)| more > 1.0 - chance);
        if at == 0 { 0 } else { self.steps[at - 1].0 }
    }

    /// The mean demand.
    pub fn mean(&self) -> f64 {
        self.expected_cold(0)
    }

    /// How many slots are expected to be wanted beyond those that are warm.
    pub fn expected_cold(&self, warm: u32) -> f64 {
        let mut below = 0;
        let mut cold = 0.0;
        for &(slots, chance) in &self.steps {
            cold += chance * f64::from(slots.saturating_sub(warm.max(below)));
            below = slots;
        }
        cold
    }

    /// How many of the warm slots are expected not to be wanted.
    pub fn expected_idle(&self, warm: u32) -> f64 {
        // What is warm is either wanted or idle; what is wanted is either warm or cold.
        (f64::from(warm) - (self.mean() - self.expected_cold(warm))).max(0.0)
    }

    /// The demand beyond `covered` slots in groups of so many (shards, of a component whose shards have so many slots), at
    /// most `groups_max` of them.
    ///
    /// # Panics
    ///
    /// If a group has no slots.
    pub fn beyond(&self, covered: u32, slots_per_group: u32, groups_max: u32) -> Self {
        assert!(slots_per_group > 0, "a group has slots");
        let least = |group: u32| {
            covered.saturating_add((group - 1).saturating_mul(slots_per_group)).saturating_add(1)
        };
        let groups = (1..=groups_max).map(|group| (group, self.at_least(least(group))));
        Self::new(groups.take_while(|&(_, chance)| chance > 0.0))
    }

    /// The sum of demands that do not depend on each other; what is more than `slots_max` is taken for that.
    pub fn sum(forecasts: impl IntoIterator<Item = Self>, slots_max: u32) -> Self {
        let slots_max = slots_max as usize;
        // The chance of exactly so many.
        let mut exactly = vec![1.0];
        for forecast in forecasts {
            let mut sum = vec![0.0; (exactly.len() + forecast.most() as usize).min(slots_max + 1)];
            let mut add = |slots: usize, chance: f64| {
                exactly
                    .iter()
                    .enumerate()
                    .for_each(|(other, also)| sum[(other + slots).min(slots_max)] += also * chance);
            };
            let mut below = (0, 1.0);
            for (slots, at_least) in forecast.steps {
                add(below.0, below.1 - at_least);
                below = (slots as usize, at_least);
            }
            add(below.0, below.1);
            exactly = sum;
        }
        let mut at_least = 1.0;
        Self::new((1..).zip(exactly.iter().take(exactly.len() - 1)).map(|(slots, chance)| {
            at_least -= chance;
            (slots, at_least)
        }))
    }

    /// The largest demand that has a chance.
    fn most(&self) -> u32 {
        self.steps.last().map_or(0, |&(slots, _)| slots)
    }

    /// The number of slots that costs least, where a cold start costs as much as `cold_price` idle slots.
    pub fn cheapest(&self, cold_price: f64) -> u32 {
        self.quantile(cold_price / (1.0 + cold_price))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forecast_is_a_distribution() {
        let forecast = Forecast::new([(1, 0.9), (3, 0.5), (4, 0.1)]);
        let at_least: Vec<f64> = (0..6).map(|slots| forecast.at_least(slots)).collect();
        assert_eq!(at_least, [1.0, 0.9, 0.5, 0.5, 0.1, 0.0]);
        assert_eq!([0.05, 0.3, 0.6, 0.95].map(|chance| forecast.quantile(chance)), [0, 1, 3, 4]);
        assert!((forecast.mean() - 2.0).abs() < 1e-12);
        assert!((forecast.expected_cold(2) - 0.6).abs() < 1e-12);
        assert!((forecast.expected_idle(2) - 0.6).abs() < 1e-12);
    }

    #[test]
    fn demand_beyond_what_is_covered_comes_in_groups() {
        let forecast = Forecast::new([(1, 0.9), (3, 0.5), (4, 0.1), (9, 0.05)]);
        let at_least = |forecast: &Forecast| [1, 2, 3, 4].map(|slots| forecast.at_least(slots));
        assert_eq!(at_least(&forecast.beyond(0, 1, 9)), [0.9, 0.5, 0.5, 0.1]);
        assert_eq!(at_least(&forecast.beyond(3, 1, 9)), [0.1, 0.05, 0.05, 0.05]);
        assert_eq!(at_least(&forecast.beyond(1, 3, 9)), [0.5, 0.05, 0.05, 0.0]);
        assert_eq!(
            at_least(&forecast.beyond(1, 3, 1)),
            [0.5, 0.0, 0.0, 0.0],
            "no more shards than there may be"
        );
        assert_eq!(at_least(&forecast.beyond(u32::MAX, 9, 9)), [0.0; 4]);
    }

    #[test]
    fn the_sum_of_forecasts_has_the_chances_of_all_pairs() {
        let (one, other) = (Forecast::new([(1, 0.5), (3, 0.2)]), Forecast::new([(1, 0.4), (2, 0.1)]));
        let exactly = |forecast: &Forecast, slots| forecast.at_least(slots) - forecast.at_least(slots + 1);
        let sum = Forecast::sum([one.clone(), other.clone()], 100);
        for slots in 1..8 {
            let pairs = (0..8).flat_map(|a| (0..8).map(move |b| (a, b))).filter(|(a, b)| a + b >= slots);
            let chance: f64 = pairs.map(|(a, b)| exactly(&one, a) * exactly(&other, b)).sum();
            assert!((sum.at_least(slots) - chance).abs() < 1e-12, "{slots}");
        }
        assert!((sum.mean() - one.mean() - other.mean()).abs() < 1e-12);
        let cut = Forecast::sum([one, other], 2);
        assert!((cut.at_least(2) - sum.at_least(2)).abs() < 1e-12 && cut.at_least(3) == 0.0);
        assert_eq!(Forecast::sum([], 9), Forecast::default());
        assert_eq!(Forecast::sum([Forecast::new([(5, 1.0)])], 0), Forecast::default());
    }

    #[test]
    fn the_cheapest_number_of_slots_costs_least() {
        let forecast = Forecast::new([(1, 0.9), (2, 0.6), (5, 0.2), (9, 0.01)]);
        for price in [0.1, 1.0, 3.0, 10.0, 200.0] {
            let cost = |warm| forecast.expected_idle(warm) + price * forecast.expected_cold(warm);
            let least = (0..12).map(cost).fold(f64::INFINITY, f64::min);
            assert!(cost(forecast.cheapest(price)) < least + 1e-9, "{price}");
        }
    }
}
