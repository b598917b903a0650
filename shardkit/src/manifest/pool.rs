//! The manifest's `[pool]`, and `scale` of its components.

use super::at::At;
use super::error::{Problem, did_you_mean};
use super::limits::{check_count, whole};
use super::raw;
use crate::application::SHARDS_MAX;
use crate::pool::{
    BIN_S_MAX, BIN_S_MIN, DAYS, FRACTION_MAX, MINUTES_PER_DAY, PRICE_MAX, Pool, Prices, Scale, WINDOWS_MAX,
    Window,
};

/// Policies that the composer has, those with a number by what stands before it.
const POLICIES: [&str; 8] = [
    "expected-cost",
    "hybrid",
    "reactive",
    "headroom",
    "headroom-10",
    "keep-alive-10",
    "fixed-buffer-2",
    "fixed-buffer-0",
];

pub(super) fn pool(raw: &raw::Pool) -> Result<Pool, Problem> {
    let prices = &raw.prices;
    let price = |price: &At<raw::Number>, key: &str| number(price, key, 0.0, PRICE_MAX);
    Ok(Pool {
        policy: policy(&raw.policy)?,
        bin_s: number(&raw.bin_s, "bin_s", BIN_S_MIN, BIN_S_MAX)?,
        history: raw.history.as_ref().map(|path| path.value.clone().into()),
        prices: Prices {
            core_hour: price(&prices.core_hour, "core_hour")?,
            gib_hour: price(&prices.gib_hour, "gib_hour")?,
            gpu_gib_hour: price(&prices.gpu_gib_hour, "gpu_gib_hour")?,
            waiting_second: price(&prices.waiting_second, "waiting_second")?,
        },
    })
}

fn policy(name: &At<String>) -> Result<String, Problem> {
    let numbered = ["headroom-", "keep-alive-", "fixed-buffer-"];
    let has_number = |prefix: &str| {
        name.value.strip_prefix(prefix).is_some_and(|n| n.parse::<u32>().is_ok_and(|n| n <= 1_000_000))
    };
    let is_known = POLICIES.contains(&name.value.as_str()) || numbered.into_iter().any(has_number);
    if is_known && name.value != "keep-alive-0" {
        return Ok(name.value.clone());
    }
    let cure = did_you_mean(&name.value, "policy", POLICIES.into_iter().take(7));
    Err(Problem::at(&name.span, format!("there is no policy named `{}`", name.value), cure))
}

pub(super) fn scale(raw: &raw::Scale) -> Result<Scale, Problem> {
    let step = |step: &Option<At<raw::Whole>>, key: &str| {
        step.as_ref().map(|step| whole(step, key, 1, SHARDS_MAX.into()).map(|n| n as u32)).transpose()
    };
    let budget = raw.budget_hour.as_ref();
    if let Some(last) = raw.schedule.last() {
        check_count(&last.from.span, raw.schedule.len(), WINDOWS_MAX, "windows in the schedule")?;
    }
    Ok(Scale {
        buffer: whole(&raw.buffer, "buffer", 0, u32::MAX.into())? as u32,
        fraction: number(&raw.fraction, "fraction", 0.0, FRACTION_MAX)?,
        step_up: step(&raw.step_up, "step_up")?,
        step_down: step(&raw.step_down, "step_down")?,
        budget_hour: budget.map(|budget| number(budget, "budget_hour", 0.0, PRICE_MAX)).transpose()?,
        schedule: raw.schedule.iter().map(window).collect::<Result<_, _>>()?,
    })
}

fn window(raw: &raw::Window) -> Result<Window, Problem> {
    let shards = |n: &Option<At<raw::Whole>>, key: &str| {
        n.as_ref().map(|n| whole(n, key, 0, SHARDS_MAX.into()).map(|n| n as u32)).transpose()
    };
    let (floor, ceiling) = (shards(&raw.floor, "floor")?, shards(&raw.ceiling, "ceiling")?);
    if let (Some(low), Some(high), Some(at)) = (floor, ceiling, &raw.floor)
        && low > high
    {
        let what = format!("`floor` is {low}, but `ceiling` is only {high}");
        return Err(Problem::at(&at.span, what, "lower `floor`, or raise `ceiling`"));
    }
    let day = |day: &At<String>| {
        let found = DAYS.iter().position(|known| *known == day.value);
        found.map(|at| at as u8).ok_or_else(|| {
            let cure = did_you_mean(&day.value, "day", DAYS.into_iter());
            Problem::at(&day.span, format!("there is no day named `{}`", day.value), cure)
        })
    };
    let days = match &raw.days {
        None => (0..DAYS.len() as u8).collect(),
        Some(days) => days.iter().map(day).collect::<Result<_, _>>()?,
    };
    Ok(Window { days, from_minute: time(&raw.from)?, to_minute: time(&raw.to)?, floor, ceiling })
}

/// `HH:MM` in minutes since midnight.
fn time(text: &At<String>) -> Result<u16, Problem> {
    let parts = text.value.split_once(':').filter(|(hours, minutes)| hours.len() == 2 && minutes.len() == 2);
    let parts = parts.and_then(|(h, m)| Some((h.parse::<u16>().ok()?, m.parse::<u16>().ok()?)));
    let minutes = parts.filter(|&(_, minutes)| minutes < 60).map(|(hours, minutes)| hours * 60 + minutes);
    minutes.filter(|&minutes| minutes < MINUTES_PER_DAY).ok_or_else(|| {
        let what = format!("`{}` is no time of day", text.value);
        Problem::at(&text.span, what, "write hours and minutes in UTC, from \"00:00\" to \"23:59\"")
    })
}

fn number(raw: &At<raw::Number>, key: &str, min: f64, max: f64) -> Result<f64, Problem> {
    let value = raw.value.0;
    // Written so that NaN is refused too.
    if value >= min && value <= max {
        return Ok(value);
    }
    Err(Problem::at(&raw.span, format!("`{key}` is {value}"), format!("use a number from {min} to {max}")))
}
