//! The host as the shell gives it out: to each shard what it needs, or the reason why not.

use crate::resources::{Allocator, Grant, Shortage};
use shardkit::application::{Needs, Wait};
use std::collections::BTreeMap;
use std::time::SystemTime;

/// The only host of the shell's allocator.
const HERE: usize = 0;

/// See the head of this file.
///
/// Invariant: at least one processor is shared, so that a spinning shard never starves the composer.
#[derive(Debug)]
pub(crate) struct Host {
    allocator: Allocator,
    /// Shards without a processor of their own.
    sharers: usize,
    /// How many shards are at home on a processor.
    homes: BTreeMap<u32, usize>,
}

impl Host {
    /// `allocator` has this host alone.
    pub(crate) fn new(allocator: Allocator) -> Self {
        Self { allocator, sharers: 0, homes: BTreeMap::new() }
    }

    /// What several shards need that are to be there together, in their order, or nothing.
    pub(crate) fn take_all(&mut self, needs: &[Needs]) -> Result<Vec<Grant>, Shortage> {
        let grants = self.allocator.allocate_all(needs)?;
        self.sharers += grants.iter().filter(|grant| !owns_processors(grant)).count();
        Ok(grants)
    }

    /// A shard is gone.
    pub(crate) fn give_back(&mut self, grant: Grant) {
        self.sharers -= usize::from(!owns_processors(&grant));
        self.allocator.release(grant);
    }

    /// How many shards more with these needs there is room for; `None` if nothing that they need is short. What the
    /// shards were given bounds it, and what others have left of the memory: `free_memory_bytes`, if that is known.
    pub(crate) fn room(&self, needs: &Needs, free_memory_bytes: Option<u64>) -> Option<u32> {
        let by_memory = free_memory_bytes.and_then(|bytes| bytes.checked_div(needs.memory_bytes));
        let shards = self.allocator.room(needs).into_iter().chain(by_memory).min()?;
        Some(u32::try_from(shards).unwrap_or(u32::MAX))
    }

    /// The processor of a shard's thread, if it has one of its own, and those of its other threads: the rest of its own,
    /// or else those that nobody has for itself, of its NUMA nodes if it was promised a part of them.
    pub(crate) fn processors(&self, grant: &Grant) -> (Option<u32>, Vec<u32>) {
        let mut own = grant.processors();
        let (first, rest) = (own.next(), own.collect::<Vec<_>>());
        if !rest.is_empty() {
            (first, rest)
        } else if first.is_some() || grant.share_millicores() > 0 {
            (first, self.allocator.shared_near(grant))
        } else {
            (None, self.shared())
        }
    }

    /// A home for a shard that shares processors and sleeps when it has nothing to do: of those that it may use, the one
    /// that the fewest are at home on. None if there is no choice. It goes back with [`leave`](Self::leave).
    pub(crate) fn settle(&mut self, grant: &Grant) -> Option<u32> {
        let (own, shared) = self.processors(grant);
        if own.is_some() || shared.len() < 2 {
            return None;
        }
        let home = shared.into_iter().min_by_key(|id| self.homes.get(id).copied().unwrap_or(0))?;
        *self.homes.entry(home).or_default() += 1;
        Some(home)
    }

    /// A shard is at home there no more.
    pub(crate) fn leave(&mut self, home: u32) {
        if let Some(count) = self.homes.get_mut(&home) {
            *count -= 1;
        }
    }

    /// The processors that nobody has for itself.
    pub(crate) fn shared(&self) -> Vec<u32> {
        self.allocator.shared(HERE)
    }

    /// How long a shard may poll before it sleeps, in microseconds. Never where polling would take the core from
    /// someone who has work to do.
    pub(crate) fn spin_us(&self, wait: Wait, grant: &Grant) -> u32 {
        let (own, crowded) = (owns_processors(grant), self.sharers >= self.shared().len());
        match wait {
            Wait::Park => 0,
            Wait::Spin if own => u32::MAX,
            Wait::SpinThenPark { spin_us } if own || !crowded => spin_us.min(u32::MAX - 1),
            Wait::Spin if !crowded => SPIN_SHARED_US,
            _ => 0,
        }
    }
}

/// Whether there are processors in it that nobody else has.
pub(crate) fn owns_processors(grant: &Grant) -> bool {
    grant.processors().next().is_some()
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
    use crate::resources::{HostFile, Inventory};

    fn host(processors: &str) -> Host {
        let text = format!("probe = false\n[node.0]\nprocessors = '{processors}'\nmemory = '4GiB'");
        let inventory = HostFile::parse(&text, "host.toml").unwrap().apply(Inventory::empty()).unwrap();
        Host::new(Allocator::new(vec![inventory]).unwrap())
    }

    fn take(host: &mut Host, needs: Needs) -> Grant {
        host.take_all(&[needs]).unwrap().remove(0)
    }

    #[test]
    fn a_shards_thread_gets_the_first_of_its_processors_and_its_other_threads_the_rest() {
        let mut host = host("0-4");
        let two = take(&mut host, Needs { cores: 2, ..Needs::default() });
        assert_eq!(host.processors(&two), (Some(1), vec![2]));
        let one = take(&mut host, Needs { cores: 1, ..Needs::default() });
        assert_eq!(host.processors(&one), (Some(3), vec![0, 4]));
        let none = take(&mut host, Needs::default());
        assert_eq!(host.processors(&none), (None, vec![0, 4]));
        host.give_back(two);
        assert_eq!(host.processors(&none), (None, vec![0, 1, 2, 4]));
        host.give_back(one);
        host.give_back(none);
    }

    #[test]
    fn homes_are_spread_over_the_processors_that_are_shared() {
        let mut host = host("0-3");
        let own = take(&mut host, Needs { cores: 1, ..Needs::default() });
        let shares = take(&mut host, Needs::default());
        assert_eq!(host.settle(&own), None);
        let homes: Vec<_> = (0..4).map(|_| host.settle(&shares).unwrap()).collect();
        assert_eq!(homes, [0, 2, 3, 0]);
        host.leave(2);
        assert_eq!(host.settle(&shares), Some(2));
        host.give_back(own);
        assert_eq!(host.settle(&shares), Some(1));
        let _rest = take(&mut host, Needs { cores: 3, ..Needs::default() });
        assert_eq!(host.settle(&shares), None, "the last one is everybody's");
    }

    #[test]
    fn room_is_what_was_not_given_and_what_others_left() {
        let mut host = host("0-2");
        let needs = |cores, memory_bytes| Needs { cores, memory_bytes, ..Needs::default() };
        let _held = take(&mut host, needs(1, 1 << 30));
        assert_eq!(host.room(&needs(0, 1 << 30), None), Some(3));
        assert_eq!(host.room(&needs(0, 1 << 30), Some(2 << 30)), Some(2));
        assert_eq!(host.room(&needs(1, 1 << 30), Some(8 << 30)), Some(1));
        assert_eq!(host.room(&needs(0, 0), Some(0)), None);
    }

    #[test]
    fn nobody_spins_where_there_is_no_core_for_it() {
        let mut host = host("0-2");
        let own = take(&mut host, Needs { cores: 1, ..Needs::default() });
        let shares = take(&mut host, Needs::default());
        assert_eq!(host.spin_us(Wait::SpinThenPark { spin_us: 50 }, &shares), 50);
        let _another = take(&mut host, Needs::default());
        assert_eq!(host.spin_us(Wait::SpinThenPark { spin_us: 50 }, &shares), 0);
        assert_eq!(host.spin_us(Wait::Spin, &shares), 0);
        assert_eq!(host.spin_us(Wait::Spin, &own), u32::MAX);
    }
}
