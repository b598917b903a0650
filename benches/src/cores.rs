//! The two cores of a measurement: isolated ones first, never two threads of one core if it can be helped.

use crate::error::{Error, Result};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::fs;

/// Where the ends run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cores {
    /// The core of the near end.
    pub near: usize,
    /// The core of the far end; the same one if there is no other.
    pub far: usize,
}

impl Cores {
    /// Chooses among the isolated cores and those that this process may use.
    pub fn choose() -> Result<Self> {
        let allowed = sched_getaffinity(None).map_err(Error::system("sched_getaffinity"))?;
        let mut cores = isolated();
        // The first core takes most interrupts, so the last ones come first.
        cores.extend((0..CpuSet::MAX_CPU).rev().filter(|&core| allowed.is_set(core)));
        let near =
            *cores.first().ok_or_else(|| Error::Usage("this process may use no core at all".into()))?;
        let siblings = siblings(near);
        let far =
            cores.iter().find(|core| !siblings.contains(core)).or(cores.iter().find(|&&core| core != near));
        Ok(Self { near, far: far.copied().unwrap_or(near) })
    }

    /// Whether the ends have to take turns.
    pub fn is_one(self) -> bool {
        self.near == self.far
    }
}

/// Keeps the calling thread on one core.
pub fn pin(core: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(None, &set).map_err(Error::system("sched_setaffinity"))
}

/// The cores that the kernel keeps other work away from.
pub fn isolated() -> Vec<usize> {
    fs::read_to_string("/sys/devices/system/cpu/isolated").map(|list| parse_list(&list)).unwrap_or_default()
}

/// The hardware threads of `core`'s core, itself among them.
fn siblings(core: usize) -> Vec<usize> {
    let path = format!("/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list");
    fs::read_to_string(path).map(|list| parse_list(&list)).unwrap_or_else(|_| vec![core])
}

/// A list as the kernel writes it: `0,2-4`. What is not a number is left out.
fn parse_list(list: &str) -> Vec<usize> {
    let ranges = list.trim().split(',').filter_map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(first.parse().ok()?..=last.parse().ok()?)
    });
    ranges.flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::parse_list;

    #[test]
    fn the_kernels_lists_of_cores_are_understood() {
        assert_eq!(parse_list("0,2-4\n"), [0, 2, 3, 4]);
        assert!(parse_list("\n").is_empty());
    }
}
