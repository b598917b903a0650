//! Scaling down: which shards go when nobody needs them any more.
//!
//! Invariant: what goes is beyond the component's `warm`, holds no session, and is not needed by a request that
//! waits. Shards that still start go first, then the one that has been idle longest.

use super::event::Effect;
use super::{Core, IDLE_STOP_MS, NS_PER_MS};

impl Core {
    /// Stops what nobody has needed for [`IDLE_STOP_MS`].
    pub(super) fn scale_down(&mut self, now_ns: u64, effects: &mut Vec<Effect>) {
        for component in 0..self.shape.components.len() as u16 {
            while let Some((shard, _)) = self.surplus(component).filter(|&(_, at_ns)| at_ns <= now_ns) {
                self.stop(now_ns, shard, effects);
            }
        }
    }

    /// The next shard of a component to be stopped, and when, if nothing else happens.
    pub(super) fn surplus(&self, component: u16) -> Option<(u32, u64)> {
        let (shape, stock) = (&self.shape.components[usize::from(component)], self.shards.stock(component));
        let not_needed = stock.live() > shape.warm
            && self.supply(component) >= self.demand(component) + u64::from(shape.capacity);
        if !not_needed || !self.is_running() {
            return None;
        }
        let starting = stock.starting.first().map(|at| (at, self.shards.get(at).launched_ns));
        let idle = stock.idle.first().map(|at| (at, self.shards.get(at).idle_ns));
        let (shard, since_ns) = starting.or(idle)?;
        Some((shard, since_ns.saturating_add(IDLE_STOP_MS * NS_PER_MS)))
    }
}
