//! How much of its time a shard works: what packing weighs its sessions by.
//!
//! Two things tell it, and the greater counts. A shard's statistics page: its messages, times what those handlers took
//! that were timed, and its ticks. And the kernel: the processor time of a process, unless the shard polls and so uses
//! the processor all the time. The page knows of handlers that wait, the kernel of what was not timed.
//!
//! Invariant: no clock and no I/O in here, and whatever a page says costs its shard's place in the order, no more.

use crate::core::LOAD_FULL_PERMILLE;
use shard_runtime::stats::{Counter, StatsReader, Timing};

/// For so long a shard is watched until its load is told, in nanoseconds.
pub(crate) const LOAD_WINDOW_NS: u64 = 1_000_000_000;
/// A load that differs from the one that was told by less than this is not told.
const CHANGE_PERMILLE: u32 = 20;

/// What was counted of a shard until a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reading {
    /// The processor time of its process; `None` for one that polls, or if the kernel does not tell.
    pub(crate) processor_ns: Option<u64>,
    /// Its messages.
    pub(crate) messages: u64,
    /// How many of its handlers were timed …
    pub(crate) timed: u64,
    /// … and how long these took together.
    pub(crate) timed_ns: u64,
    /// How long its ticks took.
    pub(crate) ticks_ns: u64,
    /// How many sessions it has open.
    pub(crate) sessions: u64,
}

impl Reading {
    /// What a statistics page says.
    pub(crate) fn of(page: &StatsReader, processor_ns: Option<u64>) -> Self {
        let handlers = page.histogram(Timing::Handler);
        Self {
            processor_ns,
            messages: page.counter(Counter::MessagesIn),
            timed: handlers.count(),
            timed_ns: handlers.sum_ns(),
            ticks_ns: page.counter(Counter::TicksNs),
            sessions: page.counter(Counter::Sessions),
        }
    }
}

/// Watches one shard.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gauge {
    at_ns: u64,
    last: Reading,
    /// What a handler takes, as measured last.
    handler_ns: u64,
    told: Option<(u32, u64)>,
    permille: u32,
}

impl Gauge {
    /// Begins to watch.
    pub(crate) fn new(now_ns: u64, reading: Reading) -> Self {
        let handler_ns = reading.timed_ns.checked_div(reading.timed).unwrap_or(0);
        Self { at_ns: now_ns, last: reading, handler_ns, told: None, permille: 0 }
    }

    /// Whether the window is over.
    pub(crate) fn is_due(&self, now_ns: u64) -> bool {
        now_ns.saturating_sub(self.at_ns) >= LOAD_WINDOW_NS
    }

    /// The load in the last window, in thousandths.
    pub(crate) fn permille(&self) -> u32 {
        self.permille
    }

    /// Takes in what was counted until now. Returns the load in the window that has passed, in thousandths, if it is
    /// news.
    pub(crate) fn read(&mut self, now_ns: u64, reading: Reading) -> Option<u32> {
        let last = std::mem::replace(&mut self.last, reading);
        let passed_ns = now_ns.saturating_sub(std::mem::replace(&mut self.at_ns, now_ns)).max(1);
        let timed = reading.timed.saturating_sub(last.timed);
        if let Some(mean_ns) = reading.timed_ns.saturating_sub(last.timed_ns).checked_div(timed) {
            self.handler_ns = mean_ns;
        }
        let handled_ns = reading.messages.saturating_sub(last.messages).saturating_mul(self.handler_ns);
        let counted_ns = handled_ns.saturating_add(reading.ticks_ns.saturating_sub(last.ticks_ns));
        let processor_ns = reading.processor_ns.zip(last.processor_ns);
        let processor_ns = processor_ns.map_or(0, |(now, then)| now.saturating_sub(then));
        let permille = counted_ns.max(processor_ns).saturating_mul(1_000) / passed_ns;
        let load = (permille.min(u64::from(LOAD_FULL_PERMILLE)) as u32, reading.sessions);
        self.permille = load.0;
        let known = self.told.is_some_and(|(permille, sessions)| {
            sessions == load.1 && permille.abs_diff(load.0) < CHANGE_PERMILLE
        });
        if known {
            return None;
        }
        self.told = Some(load);
        Some(load.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Reading =
        Reading { processor_ns: None, messages: 0, timed: 0, timed_ns: 0, ticks_ns: 0, sessions: 1 };

    fn load(first: Reading, then: Reading) -> Option<u32> {
        Gauge::new(0, first).read(LOAD_WINDOW_NS, then)
    }

    #[test]
    fn the_load_of_a_shard_that_polls_is_what_its_handlers_and_ticks_take() {
        assert_eq!(load(IDLE, IDLE), Some(0));
        // 10,000 messages, of which two took 30 µs on the average, and ticks of 200 ms.
        let busy = Reading { messages: 10_000, timed: 2, timed_ns: 60_000, ticks_ns: 200_000_000, ..IDLE };
        assert_eq!(load(IDLE, busy), Some(500));
        // None was timed in this window: they take what they took before.
        let more = Reading { messages: 20_000, ..busy };
        assert_eq!(load(busy, more), Some(300));
    }

    #[test]
    fn the_load_of_a_shard_that_sleeps_is_what_the_kernel_counts_or_its_handlers_wait() {
        let idle = Reading { processor_ns: Some(5), ..IDLE };
        let busy = Reading { processor_ns: Some(5 + LOAD_WINDOW_NS * 7 / 10), ..IDLE };
        assert_eq!(load(idle, busy), Some(700));
        let waits = Reading { messages: 8, timed: 1, timed_ns: 100_000_000, ..busy };
        assert_eq!(load(idle, waits), Some(800));
    }

    #[test]
    fn whatever_a_page_says_is_a_load_and_what_is_known_is_not_told_again() {
        let lies = Reading { messages: u64::MAX, timed: 1, timed_ns: u64::MAX, ticks_ns: u64::MAX, ..IDLE };
        assert_eq!(load(IDLE, lies), Some(LOAD_FULL_PERMILLE));
        assert_eq!(load(lies, IDLE), Some(0), "counters that go back");
        let mut gauge = Gauge::new(0, IDLE);
        assert!(!gauge.is_due(LOAD_WINDOW_NS - 1) && gauge.is_due(LOAD_WINDOW_NS));
        assert_eq!(gauge.read(LOAD_WINDOW_NS, IDLE), Some(0));
        let little = Reading { ticks_ns: 10_000_000, ..IDLE };
        assert_eq!(gauge.read(2 * LOAD_WINDOW_NS, little), None);
        let two = Reading { sessions: 2, ..little };
        assert_eq!(gauge.read(3 * LOAD_WINDOW_NS, two), Some(0), "for other sessions it is news");
    }
}
