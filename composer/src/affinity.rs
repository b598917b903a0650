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
    arrange(pid, own, others, &[], &[]);
}

/// As [`confine`], but `these` threads go to `home`.
pub(crate) fn arrange(pid: u32, own: &[u32], others: &[u32], these: &[Pid], home: &[u32]) {
    let (others, home) = (set(others), set(home));
    for thread in threads(pid) {
        let Ok(now) = sched_getaffinity(Some(thread)) else { continue };
        let mut foreign = now;
        own.iter().for_each(|id| foreign.unset(*id as usize));
        let there = if these.contains(&thread) {
            home
        } else if foreign.count() > 0 {
            others
        } else {
            continue;
        };
        if now != there {
            let _ = sched_setaffinity(Some(thread), &there);
        }
    }
}

/// The threads of a process, and of all below it, that are on this processor alone.
pub(crate) fn only_on(pid: u32, processor: u32) -> Vec<Pid> {
    let there = set(&[processor]);
    threads(pid).filter(|thread| sched_getaffinity(Some(*thread)).is_ok_and(|now| now == there)).collect()
}

/// A process or thread that is gone needs no place.
fn threads(pid: u32) -> impl Iterator<Item = Pid> {
    let tasks = family(pid).into_iter().flat_map(|pid| fs::read_dir(format!("/proc/{pid}/task")));
    tasks.flatten().flatten().filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?))
}

fn set(processors: &[u32]) -> CpuSet {
    let mut set = CpuSet::new();
    processors.iter().map(|id| *id as usize).filter(|id| *id < CpuSet::MAX_CPU).for_each(|id| set.set(id));
    set
}
