//! The monotonic clock, the same for all processes of a host.

use std::time::Duration;

/// Nanoseconds of `CLOCK_MONOTONIC`. No system call: the kernel maps the clock into the process.
#[inline]
pub fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// The moment that is `time` after `start_ns`; for a time without end one that never comes, and that can still be added to.
#[inline]
pub fn after(start_ns: u64, time: Duration) -> u64 {
    start_ns.saturating_add(time.as_nanos().min(u128::from(u64::MAX / 2)) as u64)
}
