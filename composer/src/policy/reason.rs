//! Why a pool has the size it has.

use super::{Choice, Expert, Forecast};
use serde::Serialize;
use std::fmt;

/// Why so many slots are wanted: what was forecast, by whom, and what it is expected to cost.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Reason {
    /// The policy.
    pub policy: String,
    /// The slots that it wants.
    pub wanted: u32,
    /// What a cold start costs, in idle slot-bins.
    pub cold_price: f64,
    /// Of a policy that forecasts.
    pub forecast: Option<ForecastReason>,
}

/// A forecast in a few numbers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ForecastReason {
    /// Whose forecast it is.
    pub expert: String,
    /// The slots that are enough with a chance of 50 %, of 90 % and of 99 %.
    pub enough_50_90_99: [u32; 3],
    /// The chance that any slot is wanted.
    pub any: f64,
    /// The chance that more slots are wanted than are to be warm.
    pub too_few: f64,
    /// What the cold starts of a bin are expected to cost, in idle slot-bins.
    pub cold_cost: f64,
    /// What holding slots that nobody wants is expected to cost in a bin, in idle slot-bins.
    pub idle_cost: f64,
}

impl Reason {
    pub(super) fn new(
        choice: Choice,
        wanted: u32,
        cold_price: f64,
        forecast: Option<(Expert, Forecast)>,
    ) -> Self {
        let forecast = forecast.map(|(expert, forecast)| ForecastReason {
            expert: expert.to_string(),
            enough_50_90_99: [0.5, 0.9, 0.99].map(|chance| forecast.quantile(chance)),
            any: forecast.at_least(1),
            too_few: forecast.at_least(wanted.saturating_add(1)),
            cold_cost: cold_price * forecast.expected_cold(wanted),
            idle_cost: forecast.expected_idle(wanted),
        });
        Self { policy: choice.to_string(), wanted, cold_price, forecast }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} wants {} warm", self.policy, self.wanted)?;
        let Some(ForecastReason { expert, enough_50_90_99, any, too_few, cold_cost, idle_cost }) =
            &self.forecast
        else {
            return Ok(());
        };
        let [half, most, nearly_all] = enough_50_90_99;
        write!(
            f,
            ": any demand {:.1} %, {half} / {most} / {nearly_all} slots enough with 50 / 90 / 99 % (by {expert}); \
             at a price of {} a cold start, too few with {:.2} % costs {cold_cost:.2} a bin, idle slots cost {idle_cost:.2}",
            100.0 * any,
            self.cold_price,
            100.0 * too_few,
        )
    }
}
