//! Scaling down: which shards go when nobody needs them any more.
//!
//! Invariant: what goes is beyond the component's target, holds no session, and is not needed by a request that
//! waits. Shards that still start go first, then the one that has been idle longest. One that was ready is frozen if
//! there may be one more that is; of those that are frozen beyond what there may be, the one that has been longest ends.

use super::Core;
use super::event::Effect;
use super::record::Why;
use super::shards::Class;

impl Core {
    /// Freezes or stops what nobody has needed for as long as its component's scale-down delay.
    pub(super) fn scale_down(&mut self, now_ns: u64, effects: &mut Vec<Effect>) {
        for component in 0..self.shape.components.len() as u16 {
            while let Some((shard, _)) = self.surplus(component).filter(|&(_, at_ns)| at_ns <= now_ns) {
                let stock = self.shards.stock(component);
                if self.shards.get(shard).class == Class::Idle
                    && stock.frozen.len() < stock.frozen_target
                    && self.shards.get(shard).wires().all(|wire| wire.up)
                {
                    self.freeze(now_ns, shard, effects);
                } else {
                    let for_ns = now_ns.saturating_sub(self.shards.get(shard).idle_ns);
                    self.stop(now_ns, shard, Why::Idle { for_ns }, effects);
                }
            }
            while let Some(shard) = self.frozen_beyond(component) {
                let for_ns = now_ns.saturating_sub(self.shards.get(shard).idle_ns);
                self.stop(now_ns, shard, Why::Idle { for_ns }, effects);
            }
        }
    }

    /// The next shard of a component to be stopped, and when, if nothing else happens.
    pub(super) fn surplus(&self, component: u16) -> Option<(u32, u64)> {
        let (shape, stock) = (&self.shape.components[usize::from(component)], self.shards.stock(component));
        let not_needed = stock.live() > stock.target
            && self.supply(component) >= self.demand(component) + u64::from(shape.capacity);
        if !not_needed || !self.is_running() {
            return None;
        }
        let starting = stock.starting.first().map(|at| (at, self.shards.get(at).launched_ns));
        let idle = stock.idle.first().map(|at| (at, self.shards.get(at).idle_ns));
        let (shard, since_ns) = starting.or(idle)?;
        Some((shard, since_ns.saturating_add(shape.idle_stop_ns)))
    }

    /// A frozen shard that is one too many.
    fn frozen_beyond(&self, component: u16) -> Option<u32> {
        let stock = self.shards.stock(component);
        if stock.frozen.len() > stock.frozen_target { stock.frozen.first() } else { None }
    }
}
