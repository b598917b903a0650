//! How long a thread runs before the kernel asks who is due next.
//!
//! Whoever handles messages in microseconds wants to be due soon, not to run for long. The kernel's fair scheduler ([EEVDF])
//! lets a thread that has a shorter slice than the running one take the processor as soon as it wakes; otherwise it may wait
//! until the other's slice is over, which takes milliseconds.
//!
//! Invariant: a thread's part of the processor, its policy and its niceness stay as they are.
//!
//! [EEVDF]: https://docs.kernel.org/scheduler/sched-eevdf.html

use std::io;

/// The shortest slice that the kernel gives.
pub const SHORTEST_NS: u64 = 100_000;

/// Asks for the shortest slice for the calling thread, and for threads that it starts afterwards. Kernels before 6.12 take it
/// and do nothing; a thread with a policy of its own is left alone.
///
/// # Errors
/// What the kernel says, for example `ENOSYS` or `EPERM` where system calls are filtered.
pub fn shorten() -> io::Result<()> {
    let mut attributes = of_this_thread()?;
    if attributes.sched_policy != libc::SCHED_OTHER as u32 {
        return Ok(());
    }
    attributes.sched_runtime = SHORTEST_NS;
    // SAFETY: the structure says its own size and outlives the call.
    let done = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn of_this_thread() -> io::Result<libc::sched_attr> {
    let size = size_of::<libc::sched_attr>() as u32;
    // SAFETY: the structure is made of numbers, of which any may be zero.
    let mut attributes: libc::sched_attr = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes `size` bytes at the most, and the structure outlives the call.
    let done = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(attributes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_has_the_slice_that_it_asked_for_and_all_else_stays() {
        std::thread::spawn(|| {
            let before = of_this_thread().unwrap();
            shorten().unwrap();
            let after = of_this_thread().unwrap();
            assert_eq!((after.sched_policy, after.sched_nice), (before.sched_policy, before.sched_nice));
            // A kernel that knows no slices of a thread's own says 0.
            if before.sched_runtime > 0 {
                assert_eq!(after.sched_runtime, SHORTEST_NS);
            }
        })
        .join()
        .unwrap();
    }
}
