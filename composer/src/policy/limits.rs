//! What an operator and a host allow: from the number that a policy wants to the number that a pool gets.
//!
//! In this order: a buffer beyond what is in use, floor and ceiling (those of the time of day, where there are such), the
//! scale-down delay, the largest step up or down, the budget, the host's room. Later ones have the last word: room and budget
//! are never exceeded, steps are kept unless these two force it.
//!
//! Invariant: the number follows from the numbers before it and the moment alone. Zero is a number like any other.

use super::window::WindowMax;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The most windows of a schedule.
pub const WINDOWS_MAX: usize = 64;
/// The longest scale-down delay, in bins.
const DELAY_BINS_MAX: u32 = 1_000_000;
const MINUTES_PER_DAY: u16 = 1440;

/// The limits of one pool, in slots.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// Never fewer.
    pub floor: u32,
    /// Never more.
    pub ceiling: u32,
    /// As many more than were wanted in the last bin, at least.
    pub buffer: u32,
    /// As large a part more than was wanted in the last bin, at least, rounded up: 0.25 is a quarter more.
    pub buffer_fraction: f64,
    /// Times at which other floors and ceilings hold. Where several do, the last one counts.
    pub windows: Vec<Window>,
    /// At most as many more from one bin to the next; at least 1.
    pub step_up_max: u32,
    /// At most as many fewer from one bin to the next; at least 1.
    pub step_down_max: u32,
    /// Only as many as were too many for so many bins in a row go.
    pub scale_down_delay_bins: u32,
    /// What may be spent on warm slots, in money an hour; and what one costs, from
    /// [`Prices::slot_hour`](super::Prices::slot_hour).
    pub budget: Option<Budget>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            floor: 0,
            ceiling: u32::MAX,
            buffer: 0,
            buffer_fraction: 0.0,
            windows: Vec::new(),
            step_up_max: u32::MAX,
            step_down_max: u32::MAX,
            scale_down_delay_bins: 0,
            budget: None,
        }
    }
}

/// Money for a pool.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Budget {
    /// What may be spent an hour.
    pub per_hour: f64,
    /// What a warm slot costs an hour.
    pub slot_hour: f64,
}

impl Budget {
    fn slots(&self) -> u32 {
        // Saturates where slots are free.
        if self.slot_hour == 0.0 { u32::MAX } else { (self.per_hour / self.slot_hour) as u32 }
    }
}

/// Days of the week.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Weekdays(u8);

impl Weekdays {
    /// Every day.
    pub const ALL: Self = Self(0b111_1111);
    /// Monday to Friday.
    pub const WORKING: Self = Self(0b001_1111);

    /// Some days: 0 is Monday, 6 is Sunday; others do not exist.
    pub fn new(days: impl IntoIterator<Item = u8>) -> Self {
        Self(days.into_iter().filter(|&day| day < 7).fold(0, |set, day| set | 1 << day))
    }

    fn has(self, day: u8) -> bool {
        self.0 >> (day % 7) & 1 == 1
    }
}

/// A time of day on some days at which another floor and another ceiling hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// The days on which it begins.
    pub days: Weekdays,
    /// Its begin, in minutes since midnight.
    pub from_minute: u16,
    /// Its end, in minutes since midnight; on the next day if it is not after the begin.
    pub to_minute: u16,
    /// The floor.
    pub floor: Option<u32>,
    /// The ceiling.
    pub ceiling: Option<u32>,
}

impl Window {
    fn holds(&self, weekday: u8, minute: u16) -> bool {
        let today = self.days.has(weekday);
        if self.from_minute < self.to_minute {
            today && (self.from_minute..self.to_minute).contains(&minute)
        } else {
            today && minute >= self.from_minute || self.days.has(weekday % 7 + 6) && minute < self.to_minute
        }
    }
}

/// Limits that contradict themselves.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{what} is {value}; it must be {must}")]
pub struct LimitsError {
    what: String,
    value: String,
    must: String,
}

impl Limits {
    /// Checks the limits, and begins with an empty pool.
    pub fn start(self) -> Result<LimitState, LimitsError> {
        self.check()?;
        let targets = WindowMax::new(self.scale_down_delay_bins.saturating_add(1));
        Ok(LimitState { limits: self, bins: 0, slots: 0, targets })
    }

    fn check(&self) -> Result<(), LimitsError> {
        let wrong = |what: String, value: String, must: String| Err(LimitsError { what, value, must });
        if self.floor > self.ceiling {
            return wrong(
                "the floor".into(),
                self.floor.to_string(),
                format!("at most the ceiling, {}", self.ceiling),
            );
        }
        if self.step_up_max == 0 || self.step_down_max == 0 {
            return wrong(
                "a step limit".into(),
                "0".into(),
                "at least 1: a pool that can't move is a fixed one".into(),
            );
        }
        if !(0.0..=1e6).contains(&self.buffer_fraction) {
            let must = "a number from 0 to 1,000,000".into();
            return wrong("the buffer's fraction".into(), self.buffer_fraction.to_string(), must);
        }
        if self.scale_down_delay_bins > DELAY_BINS_MAX {
            let must = format!("at most {DELAY_BINS_MAX} bins");
            return wrong("the scale-down delay".into(), self.scale_down_delay_bins.to_string(), must);
        }
        if self.windows.len() > WINDOWS_MAX {
            let must = format!("at most {WINDOWS_MAX} (WINDOWS_MAX)");
            return wrong("the number of windows".into(), self.windows.len().to_string(), must);
        }
        for (at, window) in self.windows.iter().enumerate() {
            let last = window.from_minute.max(window.to_minute);
            if last > MINUTES_PER_DAY || window.from_minute == MINUTES_PER_DAY {
                let must = format!("before {MINUTES_PER_DAY} minutes since midnight");
                return wrong(format!("the time of window {at}"), last.to_string(), must);
            }
            let (floor, ceiling) = (window.floor.unwrap_or(0), window.ceiling.unwrap_or(u32::MAX));
            if floor > ceiling {
                return wrong(
                    format!("the floor of window {at}"),
                    floor.to_string(),
                    format!("at most its ceiling, {ceiling}"),
                );
            }
        }
        for (what, value) in self
            .budget
            .iter()
            .flat_map(|budget| [("the budget", budget.per_hour), ("the price of a slot", budget.slot_hour)])
        {
            if !(value.is_finite() && value >= 0.0) {
                return wrong(what.into(), value.to_string(), "a number that is not negative".into());
            }
        }
        Ok(())
    }

    /// Floor and ceiling at a time, and whether a window set each.
    fn at(&self, weekday: u8, minute: u16) -> [(u32, bool); 2] {
        let (mut floor, mut ceiling) = ((self.floor, false), (self.ceiling, false));
        for window in self.windows.iter().filter(|window| window.holds(weekday, minute)) {
            floor = window.floor.map_or(floor, |slots| (slots, true));
            ceiling = window.ceiling.map_or(ceiling, |slots| (slots, true));
        }
        [floor, ceiling]
    }
}

/// What the limits need to know of a bin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// Slots that were wanted in the bin that has passed.
    pub demand: u32,
    /// The time of day, in minutes since midnight.
    pub minute: u16,
    /// The day: 0 is Monday.
    pub weekday: u8,
    /// How many slots more would fit on the hosts beside those that the pool has; `None` if nothing limits them.
    pub room: Option<u32>,
}

/// Which limit set the number: the last one that changed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Bound {
    /// None: it is what the policy wants.
    Policy,
    /// The buffer beyond what is in use.
    Buffer,
    /// The floor.
    Floor,
    /// The ceiling.
    Ceiling,
    /// The floor of a window of the schedule.
    WindowFloor,
    /// The ceiling of a window of the schedule.
    WindowCeiling,
    /// The scale-down delay.
    ScaleDownDelay,
    /// The largest step up.
    StepUp,
    /// The largest step down.
    StepDown,
    /// The budget.
    Budget,
    /// The hosts' room.
    Room,
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Policy => "what the policy wants",
            Self::Buffer => "the buffer beyond what is in use",
            Self::Floor => "the floor",
            Self::Ceiling => "the ceiling",
            Self::WindowFloor => "the floor of this time of day",
            Self::WindowCeiling => "the ceiling of this time of day",
            Self::ScaleDownDelay => "kept for the scale-down delay",
            Self::StepUp => "the largest step up",
            Self::StepDown => "the largest step down",
            Self::Budget => "all that the budget pays for",
            Self::Room => "all that the hosts have room for",
        })
    }
}

/// A number of slots, and what set it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Limited {
    /// How many slots the pool is to have.
    pub slots: u32,
    /// What set the number.
    pub bound: Bound,
}

/// Limits with what they remember: the last number, and those that were too many.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LimitState {
    limits: Limits,
    bins: u64,
    slots: u32,
    targets: WindowMax,
}

impl LimitState {
    /// Begins with as many slots as a pool has already.
    pub fn holding(mut self, slots: u32) -> Self {
        self.slots = slots;
        self
    }

    /// The limits.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// From what a policy wants for the bin that begins to what the pool gets. Called once a bin.
    pub fn apply(&mut self, wanted: u32, moment: Moment) -> Limited {
        let limits = &self.limits;
        let mut now = Limited { slots: wanted, bound: Bound::Policy };
        // Saturates for any fraction that passed the check.
        let part = (f64::from(moment.demand) * limits.buffer_fraction).ceil() as u32;
        let buffer = limits.buffer.max(part);
        if buffer > 0 {
            now.at_least(moment.demand.saturating_add(buffer), Bound::Buffer);
        }
        let [(floor, floor_of_window), (ceiling, ceiling_of_window)] =
            limits.at(moment.weekday, moment.minute);
        now.at_least(floor, if floor_of_window { Bound::WindowFloor } else { Bound::Floor });
        now.at_most(ceiling, if ceiling_of_window { Bound::WindowCeiling } else { Bound::Ceiling });
        let kept = self.targets.push(self.bins, now.slots);
        self.bins += 1;
        // What is not there any more can't be kept.
        now.at_least(kept.min(self.slots), Bound::ScaleDownDelay);
        now.at_most(self.slots.saturating_add(limits.step_up_max), Bound::StepUp);
        now.at_least(self.slots.saturating_sub(limits.step_down_max), Bound::StepDown);
        if let Some(budget) = limits.budget {
            now.at_most(budget.slots(), Bound::Budget);
        }
        if let Some(room) = moment.room {
            now.at_most(self.slots.saturating_add(room), Bound::Room);
        }
        self.slots = now.slots;
        now
    }
}

impl Limited {
    fn at_least(&mut self, slots: u32, bound: Bound) {
        if self.slots < slots {
            *self = Self { slots, bound };
        }
    }

    fn at_most(&mut self, slots: u32, bound: Bound) {
        if self.slots > slots {
            *self = Self { slots, bound };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn limits() -> impl Strategy<Value = Limits> {
        let bounds = (0_u32..50, 0_u32..500, 0_u32..9, 0.0..0.9);
        (bounds, 1_u32..80, 1_u32..80, 0_u32..12, prop::option::of(0_u32..400)).prop_map(
            |((floor, more, buffer, buffer_fraction), step_up_max, step_down_max, delay, budget)| Limits {
                floor,
                ceiling: floor + more,
                buffer,
                buffer_fraction,
                step_up_max,
                step_down_max,
                scale_down_delay_bins: delay,
                budget: budget.map(|slots| Budget { per_hour: f64::from(slots), slot_hour: 1.0 }),
                ..Limits::default()
            },
        )
    }

    proptest! {
        #[test]
        fn no_limit_is_exceeded_whatever_is_wanted(
            limits in limits(),
            bins in prop::collection::vec((0_u32..10_000, 0_u32..10_000, prop::option::of(0_u32..40)), 1..60),
        ) {
            let mut state = limits.clone().start().unwrap();
            let mut before = 0;
            for (wanted, demand, room) in bins {
                let Limited { slots, bound } = state.apply(wanted, Moment { demand, room, ..Moment::default() });
                let hard = room.map_or(u32::MAX, |room| before + room).min(limits.budget.map_or(u32::MAX, |b| b.slots()));
                prop_assert!(slots <= hard);
                prop_assert!(slots <= limits.ceiling.max(before.saturating_sub(limits.step_down_max)));
                prop_assert!(slots <= before + limits.step_up_max);
                prop_assert!(slots >= before.saturating_sub(limits.step_down_max).min(hard));
                prop_assert!(slots >= limits.floor.min(before + limits.step_up_max).min(hard));
                prop_assert!(bound != Bound::Policy || slots == wanted);
                before = slots;
            }
        }

        #[test]
        fn what_is_wanted_steadily_is_reached_without_turning_back(
            limits in limits(), begin in 0_u32..600, wanted in 0_u32..600, demand in 0_u32..600,
        ) {
            let mut state = limits.start().unwrap().holding(begin);
            let numbers: Vec<u32> = (0..800)
                .map(|_| state.apply(wanted, Moment { demand, ..Moment::default() }).slots)
                .collect();
            let up = numbers.windows(2).any(|pair| pair[1] > pair[0]);
            let down = numbers.windows(2).any(|pair| pair[1] < pair[0]);
            prop_assert!(!(up && down), "{numbers:?}");
            prop_assert_eq!(numbers[700], numbers[799]);
        }
    }

    #[test]
    fn the_buffer_is_the_largest_of_absolute_fraction_and_forecast() {
        let limits = Limits { buffer: 3, buffer_fraction: 0.25, ..Limits::default() };
        let apply = |wanted, demand| {
            limits.clone().start().unwrap().apply(wanted, Moment { demand, ..Moment::default() })
        };
        assert_eq!(apply(2, 4), Limited { slots: 7, bound: Bound::Buffer });
        assert_eq!(apply(2, 100), Limited { slots: 125, bound: Bound::Buffer });
        assert_eq!(apply(200, 100), Limited { slots: 200, bound: Bound::Policy });
        // Zero is allowed.
        let none = Limits::default().start().unwrap().apply(0, Moment::default());
        assert_eq!(none, Limited { slots: 0, bound: Bound::Policy });
    }

    #[test]
    fn a_schedule_sets_floor_and_ceiling_by_the_time_of_day() {
        let evening = Window {
            days: Weekdays::new([4, 5]),
            from_minute: 20 * 60,
            to_minute: 2 * 60,
            floor: Some(10),
            ceiling: None,
        };
        let limits = Limits { ceiling: 40, windows: vec![evening], ..Limits::default() };
        let at = |weekday, minute, wanted| {
            let moment = Moment { weekday, minute, ..Moment::default() };
            limits.clone().start().unwrap().apply(wanted, moment)
        };
        assert_eq!(at(4, 20 * 60, 0), Limited { slots: 10, bound: Bound::WindowFloor });
        assert_eq!(at(6, 60, 0).slots, 10, "Saturday's goes on into Sunday");
        assert_eq!(at(4, 60, 0).slots, 0, "Thursday has none");
        assert_eq!(at(6, 2 * 60, 0).slots, 0);
        assert_eq!(at(4, 20 * 60, 50), Limited { slots: 40, bound: Bound::Ceiling });
    }

    #[test]
    fn only_what_was_too_many_for_the_whole_delay_goes() {
        let mut state = Limits { scale_down_delay_bins: 3, ..Limits::default() }.start().unwrap();
        let mut apply = |wanted| state.apply(wanted, Moment::default()).slots;
        let numbers = [5, 1, 2, 0, 0, 0, 0, 0].map(&mut apply);
        assert_eq!(numbers, [5, 5, 5, 5, 2, 2, 0, 0]);
    }

    #[test]
    fn limits_that_contradict_themselves_are_named() {
        let wrong = |limits: Limits| limits.start().unwrap_err().to_string();
        assert_eq!(
            wrong(Limits { floor: 3, ceiling: 2, ..Limits::default() }),
            "the floor is 3; it must be at most the ceiling, 2"
        );
        assert!(wrong(Limits { step_up_max: 0, ..Limits::default() }).contains("at least 1"));
        assert!(wrong(Limits { buffer_fraction: f64::NAN, ..Limits::default() }).contains("NaN"));
        let late =
            Window { days: Weekdays::ALL, from_minute: 1500, to_minute: 3, floor: None, ceiling: None };
        assert!(wrong(Limits { windows: vec![late], ..Limits::default() }).contains("window 0"));
    }
}
