//! The monotonic clock, the same for all processes of a host.

/// Nanoseconds of `CLOCK_MONOTONIC`. No system call: the kernel maps the clock into the process.
#[inline]
pub fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
