//! A process and all below it: what it has started, what that has started, and so on.
//!
//! Of a container the composer knows the process of its OCI runtime; the shard is below it.
//!
//! Invariant: a signal reaches nobody who is not below the process, though numbers of processes come again.

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::collections::HashSet;
use std::fs;
use std::os::fd::BorrowedFd;

/// So often those are looked for who were started meanwhile.
const LOOKS_MAX: usize = 16;

/// The process and all below it, each after its parent. The process alone where the kernel does not tell
/// (`CONFIG_PROC_CHILDREN`).
pub(crate) fn family(pid: u32) -> Vec<u32> {
    let mut family = vec![pid];
    let mut at = 0;
    while let Some(pid) = family.get(at) {
        for thread in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            family.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
        }
        at += 1;
    }
    family
}

/// Sends a signal that ends nobody to a process, whose pidfd this is, and to all below it, also those that are started
/// meanwhile.
pub(crate) fn signal(pid: u32, pidfd: BorrowedFd<'_>, signal: Signal) {
    // It may have ended by itself, here and below.
    let _ = pidfd_send_signal(pidfd, signal);
    let mut done = HashSet::from([pid]);
    for _ in 0..LOOKS_MAX {
        let found: Vec<u32> = family(pid).into_iter().filter(|pid| !done.contains(pid)).collect();
        if found.is_empty() {
            return;
        }
        for pid in found {
            let Some(child) = Pid::from_raw(pid as i32) else { continue };
            let Ok(pidfd) = pidfd_open(child, PidfdFlags::empty()) else { continue };
            // Asked when the pidfd is there: so it is that process's parent, whoever else had its number before.
            if parent(pid).is_some_and(|parent| done.contains(&parent)) {
                let _ = pidfd_send_signal(&pidfd, signal);
                done.insert(pid);
            }
        }
    }
}

fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name of the program, which comes before, may hold anything.
    stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse().ok()
}
