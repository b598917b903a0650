//! Watches how much the shards work, and tells the core.
//!
//! Only a shard that holds sessions is watched, and only one that may hold several, whose load orders sessions, or that has a
//! home, which it leaves when it works a lot. All take turns, and a bound on how many are looked at in one go keeps the shell
//! free for those who wait for it.

use super::Shell;
use crate::core::Event;
use crate::family::family;
use crate::host::{owns_processors, processor_time_ns};
use crate::load::{Gauge, Reading};
use shard_runtime::clock;
use shard_runtime::id::{ComponentId, ShardId};
use shard_runtime::stats::Counter;
use std::sync::Arc;

/// How often shards are looked at whose window may be over, in nanoseconds.
const LOOK_EVERY_NS: u64 = 100_000_000;
/// So many are at a time.
const LOOKS_MAX: usize = 128;

impl Shell {
    /// Tells the core the loads of the shards whose window is over.
    pub(super) fn look_at_loads(&mut self) {
        let now_ns = clock::now_ns();
        if now_ns < self.loads_due_ns {
            return;
        }
        self.loads_due_ns = now_ns + LOOK_EVERY_NS;
        let mut loads = Vec::new();
        for _ in 0..LOOKS_MAX.min(self.watched.len()) {
            let Some(shard) = self.watched.pop_front() else { break };
            let Some(entry) = self.shards.get(&shard) else { continue };
            if entry.gauge.is_none_or(|gauge| gauge.is_due(now_ns)) {
                loads.extend(self.look_at(shard, now_ns));
                self.weigh_home(shard);
            }
            self.watched.push_back(shard);
        }
        if loads.is_empty() {
            return;
        }
        let mut hub = self.inner.lock();
        loads.into_iter().for_each(|load| hub.handle(load));
        self.inner.unlock(hub);
    }

    /// A shard that is launched takes its turns from now on, if its load matters to anybody.
    pub(super) fn watch(&mut self, shard: ShardId) {
        let Some(entry) = self.shards.get(&shard) else { return };
        if !owns_processors(&entry.grant) || self.may_hold_several(entry.component) {
            self.watched.push_back(shard);
        }
    }

    fn look_at(&mut self, shard: ShardId, now_ns: u64) -> Option<Event> {
        let page = self.inner.pages().get(&shard).map(|page| Arc::clone(&page.reader))?;
        let pid = self.process_of(shard).map(|process| process.pid);
        let component = self.shards.get(&shard)?.component;
        let in_container = self.inner.application.component(component).is_image();
        let entry = self.shards.get_mut(&shard)?;
        if page.counter(Counter::Sessions) == 0 {
            entry.gauge = None;
            return None;
        }
        let processor_ns = pid.filter(|_| !entry.polls).and_then(|pid| {
            // Of a container this process is only the OCI runtime.
            if in_container {
                Some(family(pid).into_iter().filter_map(processor_time_ns).sum())
            } else {
                processor_time_ns(pid)
            }
        });
        let reading = Reading::of(&page, processor_ns);
        let Some(gauge) = &mut entry.gauge else {
            entry.gauge = Some(Gauge::new(now_ns, reading));
            return None;
        };
        let permille = gauge.read(now_ns, reading)?;
        self.may_hold_several(component).then_some(Event::Load { shard, permille })
    }

    fn may_hold_several(&self, component: ComponentId) -> bool {
        self.inner.application.component(component).capacity > 1
    }
}
