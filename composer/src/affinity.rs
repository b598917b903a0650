//! Keeps processors that somebody has for itself free of the other shards' threads.
//!
//! A shard goes to its processors by itself when it is welcomed. What those who came before it may use changes then, so
//! their threads are moved from outside. A thread that left its place by itself is not watched: only the kernel's
//! control groups hold it.

use crate::family::family;
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::fs;

/// Moves the threads of a process, and of all below it, that are not on its `own` processors alone to `others`.
pub(crate) fn confine(pid: u32, own: &[u32], others: &[u32]) {
    let others = set(others);
    // A process or thread that is gone needs no place.
    let tasks = family(pid).into_iter().flat_map(|pid| fs::read_dir(format!("/proc/{pid}/task")));
    for entry in tasks.flatten().flatten() {
        let thread = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
        let Some(thread) = thread else { continue };
        let Ok(now) = sched_getaffinity(Some(thread)) else { continue };
        let mut foreign = now;
        own.iter().for_each(|id| foreign.unset(*id as usize));
        if foreign.count() > 0 && now != others {
            let _ = sched_setaffinity(Some(thread), &others);
        }
    }
}

fn set(processors: &[u32]) -> CpuSet {
    let mut set = CpuSet::new();
    processors.iter().map(|id| *id as usize).filter(|id| *id < CpuSet::MAX_CPU).for_each(|id| set.set(id));
    set
}
