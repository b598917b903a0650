//! Where the threads of shards belong. That of a shard that sleeps is kept on one of the shared processors, its home, as long
//! as it has little to do.
//!
//! Who composes wakes several sleeping shards one after the other. Where they are at home the kernel looks for no processor,
//! and those that are composed together are spread over all that there are. One that works a lot would hold up those that
//! have the same home while other processors are idle: it roams over all shared ones until it has little to do again.
//!
//! Invariant: a home is a processor that nobody has for itself, and it goes back to the host with its shard.

use super::{Shard, Shell};
use crate::affinity::{arrange, confine, only_on};
use crate::host::Host;
use crate::processes::Role;
use crate::resources::Grant;
use rustix::process::Pid;
use shard_runtime::id::ShardId;

/// A shard that works more than this, in thousandths of its time, roams …
const ROAMS_PERMILLE: u32 = 300;
/// … until it works less than this.
const RETURNS_PERMILLE: u32 = 150;

/// Where a shard is at home.
#[derive(Debug)]
pub(super) struct Home {
    /// None as long as there is no choice.
    processor: Option<u32>,
    /// Its thread, once it is ready.
    threads: Vec<Pid>,
    roams: bool,
}

impl Home {
    /// A home for a shard that has no processor of its own and has not begun yet.
    pub(super) fn new(grant: &Grant, host: &mut Host) -> Self {
        Self { processor: host.settle(grant), threads: Vec::new(), roams: false }
    }

    pub(super) fn processor(&self) -> Option<u32> {
        self.processor
    }

    /// Its process is ready, and its thread has pinned itself; unless that was moved meanwhile or had no home yet, and then it is
    /// taken for the process's first.
    pub(super) fn begin(&mut self, pid: u32) {
        self.threads = self.processor.map(|processor| only_on(pid, processor)).unwrap_or_default();
        if self.threads.is_empty() {
            self.threads.extend(Pid::from_raw(pid as i32));
        }
    }

    /// The shard is gone.
    pub(super) fn give_back(self, host: &mut Host) {
        self.processor.into_iter().for_each(|processor| host.leave(processor));
    }

    /// Which processors are shared has changed: it gets another home if somebody has its own for itself now, and its threads
    /// move.
    pub(super) fn keep(&mut self, pid: u32, grant: &Grant, host: &mut Host) {
        let (_, shared) = host.processors(grant);
        if let Some(lost) = self.processor.take_if(|processor| !shared.contains(processor)) {
            host.leave(lost);
        }
        if self.processor.is_none() {
            self.processor = host.settle(grant);
        }
        self.arrange(pid, &shared);
    }

    /// Roams over the `shared` processors if it works a lot, and returns when it does not any more.
    fn weigh(&mut self, permille: u32, pid: u32, shared: &[u32]) {
        let roams = permille > if self.roams { RETURNS_PERMILLE } else { ROAMS_PERMILLE };
        if std::mem::replace(&mut self.roams, roams) != roams {
            self.arrange(pid, shared);
        }
    }

    /// Sends its thread home, or lets it roam. The others run anywhere: those too that its thread has started at home.
    fn arrange(&self, pid: u32, shared: &[u32]) {
        let processor = self.processor.as_slice();
        // One that is not ready yet is at home, or not there yet.
        let own = if self.threads.is_empty() { processor } else { &[] };
        let home = if self.roams || processor.is_empty() { shared } else { processor };
        arrange(pid, own, shared, &self.threads, home);
    }
}

impl Shell {
    /// Moves the threads of all processes to where they belong, if that has changed.
    pub(super) fn move_threads(&mut self) {
        if !std::mem::take(&mut self.shared_changed) {
            return;
        }
        if let Some(interrupts) = &mut self.interrupts {
            let grants = self.shards.values().map(|shard| &shard.grant);
            interrupts.keep_off(grants.flat_map(Grant::processors).collect());
        }
        let shared = self.host.shared();
        for process in self.processes.iter().filter(|process| process.pid != 0) {
            let shard =
                if let Role::Shard(shard) = process.role { self.shards.get_mut(&shard) } else { None };
            match shard {
                Some(Shard { grant, home: Some(home), .. }) => home.keep(process.pid, grant, &mut self.host),
                Some(Shard { grant, .. }) => {
                    let own: Vec<u32> = grant.processors().collect();
                    confine(process.pid, &own, &self.host.processors(grant).1);
                }
                None => confine(process.pid, &[], &shared),
            }
        }
    }

    /// Lets a shard roam or return by the load that was measured last.
    pub(super) fn weigh_home(&mut self, shard: ShardId) {
        let Some(pid) = self.process_of(shard).map(|process| process.pid) else { return };
        let Some(entry) = self.shards.get_mut(&shard) else { return };
        let permille = entry.gauge.map_or(0, |gauge| gauge.permille());
        if let Some(home) = &mut entry.home {
            home.weigh(permille, pid, &self.host.processors(&entry.grant).1);
        }
    }
}
