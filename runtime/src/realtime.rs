//! Real-time priority of one thread, given from outside.
//!
//! Invariant: what the thread starts does not inherit it.

use std::io;

/// Gives the first thread of a process a priority under `SCHED_FIFO`, 1 to 99: it runs before everything that has none, as
/// long as it wants to. The caller makes sure that the number is that process's.
///
/// # Errors
/// What the kernel says: `EPERM` without `CAP_SYS_NICE`, unless the process may have so much (`RLIMIT_RTPRIO`) and is the
/// same user's; also where its control group has no real-time share (`CONFIG_RT_GROUP_SCHED`). `EINVAL` for a priority that
/// there is not.
pub fn give_realtime(pid: u32, priority: u32) -> io::Result<()> {
    let pid = i32::try_from(pid).ok().filter(|pid| *pid > 0).ok_or(io::ErrorKind::InvalidInput)?;
    let priority = i32::try_from(priority).map_err(|_| io::ErrorKind::InvalidInput)?;
    // The kernel's `struct sched_param`; C libraries may have more in theirs, or refuse the call.
    let parameters: libc::c_int = priority;
    let policy = libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK;
    // SAFETY: the structure is as the kernel has it and outlives the call.
    let done = unsafe { libc::syscall(libc::SYS_sched_setscheduler, pid, policy, &raw const parameters) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
