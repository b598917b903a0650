//! The processors that a thread may use, and lists of processors as the kernel writes them.

use rustix::thread::{CpuSet, sched_setaffinity};
use std::io;

/// Parses the kernel's lists of numbers, such as `0-3,8`. What it can't read it leaves out.
pub fn parse_list(text: &str) -> Vec<usize> {
    let mut numbers = Vec::new();
    for part in text.trim().split(',').filter(|part| !part.is_empty()) {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(from), Ok(to)) = (from.trim().parse::<usize>(), to.trim().parse::<usize>())
            && to < CpuSet::MAX_CPU
        {
            numbers.extend(from..=to);
        }
    }
    numbers
}

/// The processors that the calling thread may run on, in order of their numbers; never empty.
pub fn allowed() -> Vec<usize> {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    let mut ids: Vec<usize> = cores.into_iter().map(|core| core.id).collect();
    ids.sort_unstable();
    if ids.is_empty() {
        ids.push(0);
    }
    ids
}

/// Pins the calling thread to one processor. False if the kernel refused.
pub fn pin(core: usize) -> bool {
    core_affinity::set_for_current(core_affinity::CoreId { id: core })
}

/// Lets the calling thread run on these processors and no others.
///
/// # Errors
/// If the kernel refuses, as it does for an empty list.
pub fn allow(cores: &[usize]) -> io::Result<()> {
    let mut set = CpuSet::new();
    cores.iter().filter(|core| **core < CpuSet::MAX_CPU).for_each(|core| set.set(*core));
    Ok(sched_setaffinity(None, &set)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_the_kernel_are_read() {
        assert_eq!(parse_list("0-3,8\n"), [0, 1, 2, 3, 8]);
        assert_eq!(parse_list(""), Vec::<usize>::new());
        assert_eq!(parse_list("x,2-,3"), [3]);
        assert_eq!(parse_list("0-99999999999"), Vec::<usize>::new());
    }

    #[test]
    fn this_host_has_a_core_that_a_thread_can_be_pinned_to() {
        let first = allowed()[0];
        assert!(std::thread::spawn(move || pin(first)).join().unwrap());
    }
}
