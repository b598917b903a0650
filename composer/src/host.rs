//! The host's processors as the composer gives them out, and what the host can do, as `doctor` tells.

use shard_runtime::topology::Topology;
use shardkit::application::{Needs, Wait};
use std::time::SystemTime;

/// The processors: some belong to one shard each, the others are shared by everyone else.
///
/// Invariant: at least one processor is shared, so that a spinning shard never starves the composer.
#[derive(Debug)]
pub(crate) struct Cores {
    /// All that this process may use, isolated ones first.
    all: Vec<usize>,
    taken: Vec<usize>,
    /// Shards without a processor of their own.
    sharers: usize,
}

impl Cores {
    pub(crate) fn new(topology: &Topology) -> Self {
        let mut cores: Vec<_> = topology.cores.iter().collect();
        // Processor 0 serves interrupts on most hosts: it is the last to be given away.
        cores.sort_by_key(|core| (!core.isolated, core.id == 0, core.id));
        Self { all: cores.into_iter().map(|core| core.id).collect(), taken: Vec::new(), sharers: 0 }
    }

    /// A processor for a shard that needs some of its own; `None` if it needs none, or none can be spared.
    pub(crate) fn take(&mut self, needed: u32) -> Option<usize> {
        let free = self.all.iter().copied().find(|core| !self.taken.contains(core));
        match free {
            Some(core) if needed > 0 && self.taken.len() + 1 < self.all.len() => {
                self.taken.push(core);
                Some(core)
            }
            _ => {
                self.sharers += 1;
                None
            }
        }
    }

    /// A shard is gone; `core` was what [`take`](Self::take) gave it.
    pub(crate) fn give_back(&mut self, core: Option<usize>) {
        match core {
            Some(core) => self.taken.retain(|taken| *taken != core),
            None => self.sharers -= 1,
        }
    }

    /// How many can still be given away.
    pub(crate) fn free(&self) -> u32 {
        (self.all.len() - self.taken.len()).saturating_sub(1) as u32
    }

    /// The processors that nobody has for itself.
    pub(crate) fn shared(&self) -> Vec<usize> {
        self.all.iter().copied().filter(|core| !self.taken.contains(core)).collect()
    }

    /// How long a shard may poll before it sleeps, in microseconds. Never where polling would take the core from
    /// someone who has work to do.
    pub(crate) fn spin_us(&self, wait: Wait, own_core: bool) -> u32 {
        let crowded = self.sharers >= self.shared().len();
        match wait {
            Wait::Park => 0,
            Wait::Spin if own_core => u32::MAX,
            Wait::SpinThenPark { spin_us } if own_core || !crowded => spin_us.min(u32::MAX - 1),
            Wait::Spin if !crowded => SPIN_SHARED_US,
            _ => 0,
        }
    }
}

/// What the host has to give at this moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FreeRoom {
    /// Processors that a shard can have for itself.
    pub(crate) cores: u32,
    /// Memory, in bytes; `None` if the kernel does not tell.
    pub(crate) memory_bytes: Option<u64>,
}

impl FreeRoom {
    /// How many shards with these needs fit; `None` if nothing that they need is short.
    pub(crate) fn shards(&self, needs: &Needs) -> Option<u32> {
        let by_cores = self.cores.checked_div(needs.cores);
        let by_memory = self.memory_bytes.and_then(|bytes| bytes.checked_div(needs.memory_bytes));
        let by_memory = by_memory.map(|shards| u32::try_from(shards).unwrap_or(u32::MAX));
        by_cores.into_iter().chain(by_memory).min()
    }
}

/// The memory that can be had without swapping, in bytes.
pub(crate) fn free_memory_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The processor time that a process has had, in nanoseconds, to a hundredth of a second.
pub(crate) fn processor_time_ns(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name of the program, which comes before, may hold anything.
    let mut fields = stat.rsplit(')').next()?.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    let (user, system) = (ticks()?, ticks()?);
    Some((user + system).saturating_mul(1_000_000_000 / rustix::param::clock_ticks_per_second().max(1)))
}

/// The day of the week (0 is Monday) and the minute of the day, in UTC.
pub(crate) fn time_of_week() -> (u8, u16) {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    // The epoch was a Thursday.
    let (days, minutes) = (since.as_secs() / 86_400, since.as_secs() % 86_400 / 60);
    (((days + 3) % 7) as u8, minutes as u16)
}

/// How long a shard polls that wants to spin for ever on a core that is not its own.
const SPIN_SHARED_US: u32 = 50;

#[cfg(test)]
mod tests {
    use super::*;
    use shard_runtime::topology::Core;

    fn cores(count: usize, isolated: &[usize]) -> Cores {
        let core = |id| Core { id, node: 0, siblings: vec![id], isolated: isolated.contains(&id) };
        Cores::new(&Topology { cores: (0..count).map(core).collect() })
    }

    #[test]
    fn isolated_cores_go_first_and_one_core_stays_shared() {
        let mut cores = cores(4, &[2]);
        assert_eq!(cores.take(1), Some(2));
        assert_eq!(cores.take(1), Some(1));
        assert_eq!(cores.take(1), Some(3));
        assert_eq!(cores.take(1), None);
        assert_eq!(cores.shared(), [0]);
        cores.give_back(Some(1));
        assert_eq!(cores.take(1), Some(1));
    }

    #[test]
    fn nobody_spins_where_there_is_no_core_for_it() {
        let mut cores = cores(2, &[]);
        assert_eq!(cores.take(0), None);
        assert_eq!(cores.spin_us(Wait::SpinThenPark { spin_us: 50 }, false), 50);
        assert_eq!(cores.take(0), None);
        assert_eq!(cores.spin_us(Wait::SpinThenPark { spin_us: 50 }, false), 0);
        assert_eq!(cores.spin_us(Wait::Spin, false), 0);
        assert_eq!(cores.spin_us(Wait::Spin, true), u32::MAX);
    }
}
