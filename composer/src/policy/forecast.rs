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
    fn the_cheapest_number_of_slots_costs_least() {
        let forecast = Forecast::new([(1, 0.9), (2, 0.6), (5, 0.2), (9, 0.01)]);
        for price in [0.1, 1.0, 3.0, 10.0, 200.0] {
            let cost = |warm| forecast.expected_idle(warm) + price * forecast.expected_cold(warm);
            let least = (0..12).map(cost).fold(f64::INFINITY, f64::min);
            assert!(cost(forecast.cheapest(price)) < least + 1e-9, "{price}");
        }
    }
}
