//! How long to wait before something that failed is tried again.

use crate::core::{BACKOFF_MAX_MS, BACKOFF_MIN_MS};
use std::time::Duration;

/// What has lived this long before it failed was sound.
const SOUND_NS: u64 = BACKOFF_MAX_MS * 1_000_000;

/// Invariant: the wait doubles from one failure to the next, from the core's least to the core's most.
#[derive(Default)]
pub(crate) struct Backoff {
    failures: u32,
    retry_ns: u64,
}

impl Backoff {
    /// It failed, having lived so long. Returns the wait.
    pub(crate) fn failed(&mut self, now_ns: u64, lived_ns: u64) -> Duration {
        if lived_ns >= SOUND_NS {
            self.failures = 0;
        }
        let wait_ms = (BACKOFF_MIN_MS << self.failures.min(16)).min(BACKOFF_MAX_MS);
        self.failures = self.failures.saturating_add(1);
        self.retry_ns = now_ns + wait_ms * 1_000_000;
        Duration::from_millis(wait_ms)
    }

    /// It was good for something.
    pub(crate) fn worked(&mut self) {
        self.failures = 0;
    }

    /// Whether it has ever failed since it last worked.
    pub(crate) fn has_failed(&self) -> bool {
        self.failures > 0
    }

    pub(crate) fn is_over(&self, now_ns: u64) -> bool {
        self.retry_ns <= now_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_doubles_up_to_its_most_and_begins_anew_after_a_long_life() {
        let mut backoff = Backoff::default();
        let waits: Vec<u64> = (0..9).map(|_| backoff.failed(5, 1).as_millis() as u64).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1_600, 3_200, 6_400, 10_000, 10_000]);
        assert!(!backoff.is_over(10_000_000_004) && backoff.is_over(10_000_000_005));
        assert_eq!(backoff.failed(5, SOUND_NS).as_millis(), 100);
    }
}
