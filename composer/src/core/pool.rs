//! The shards' lives: launched to keep the warm ones and to serve those who wait, lost, stopped, replaced.
//!
//! Invariant: a component has as many live shards as its `warm` says, or as those who wait need, or `max`; fewer
//! only for as long as it backs off after shards that failed before they were ready.

use super::event::{Effect, Exit, KillReason};
use super::refusal::{Death, Loss, Name};
use super::shards::{Class, ShardState};
use super::{BACKOFF_MAX_MS, BACKOFF_MIN_MS, Core, NS_PER_MS};
use shard_runtime::id::{ComponentId, LinkId, SessionId, ShardId};

impl Core {
    /// Launches what is missing.
    pub(super) fn refill(&mut self, now_ns: u64, effects: &mut Vec<Effect>) {
        for component in 0..self.shape.components.len() as u16 {
            while self.wants_launch(component) && self.shards.stock(component).retry_ns <= now_ns {
                if !self.launch(now_ns, component, effects) {
                    break;
                }
            }
        }
    }

    /// Whether one more shard of a component is to be launched as soon as its back-off allows it.
    pub(super) fn wants_launch(&self, component: u16) -> bool {
        let (shape, stock) = (&self.shape.components[usize::from(component)], self.shards.stock(component));
        let may = self.is_running()
            && (stock.shards.len() as u32) < shape.max
            && (shape.embedder.is_none() || self.has_embedder_link())
            // A component that fails to start is tried with one shard at a time.
            && (stock.failures == 0 || stock.starting.is_empty());
        may && (stock.live() < shape.warm || self.supply(component) < self.demand(component))
    }

    /// The places that the shards of a component have, or will have once they have started.
    pub(super) fn supply(&self, component: u16) -> u64 {
        let stock = self.shards.stock(component);
        let capacity = self.shape.components[usize::from(component)].capacity;
        u64::from(stock.room) + u64::from(stock.starting.len()) * u64::from(capacity)
    }

    /// How many requests in the queues need a place of this component, without those that some other component
    /// could not serve with all the shards it may have.
    pub(super) fn demand(&self, component: u16) -> u64 {
        let compositions = &self.shape.components[usize::from(component)].compositions;
        let queues =
            compositions.iter().map(|&(c, _)| (c, u64::from(self.requests.queues[usize::from(c)].len())));
        queues
            .filter(|&(_, waiting)| waiting > 0)
            .map(|(c, waiting)| waiting.min(self.supply_at_most(c)))
            .sum()
    }

    /// How many sessions of a composition there could be, on top of those that there are, with every component at
    /// its `max`.
    fn supply_at_most(&self, composition: u16) -> u64 {
        let at_most = |component: u16| {
            let (shape, stock) =
                (&self.shape.components[usize::from(component)], self.shards.stock(component));
            let more = shape.max.saturating_sub(stock.shards.len() as u32);
            self.supply(component) + u64::from(more) * u64::from(shape.capacity)
        };
        let levels = &self.shape.compositions[usize::from(composition)].levels;
        levels.iter().map(|l| at_most(l.component)).min().unwrap_or(0)
    }

    pub(super) fn launched(&mut self, id: ShardId, pid: u32) {
        if let Some(at) = self.shards.find(id) {
            self.shards.get_mut(at).pid = pid;
        }
    }

    pub(super) fn shard_ready(&mut self, now_ns: u64, id: ShardId, effects: &mut Vec<Effect>) {
        let Some(at) = self.shards.find(id) else { return };
        let shard = self.shards.get(at);
        // A second word of the same shard, or one that crossed the order to end, changes nothing.
        if shard.class != Class::Starting || shard.wire_count() > 0 {
            return;
        }
        match self.shape.components[usize::from(shard.component)].embedder {
            Some(call) => self.connect_embedder(at, call, effects),
            None => self.usable(now_ns, at, effects),
        }
    }

    /// A shard can take sessions from now on.
    pub(super) fn usable(&mut self, now_ns: u64, at: u32, effects: &mut Vec<Effect>) {
        if self.shards.get(at).class != Class::Starting {
            return;
        }
        self.shards.set_timer(at, u64::MAX);
        self.shards.become_ready(at, now_ns);
        let component = self.shards.get(at).component;
        let stock = self.shards.stock_mut(component);
        stock.failures = 0;
        stock.last_failure = None;
        for n in 0..self.shape.components[usize::from(component)].compositions.len() {
            let (composition, _) = self.shape.components[usize::from(component)].compositions[n];
            self.show_spare(composition, at);
            self.form_cells(composition, effects);
        }
        self.unsettled = true;
    }

    pub(super) fn embedder_failed(&mut self, now_ns: u64, at: u32, effects: &mut Vec<Effect>) {
        self.kill(now_ns, at, KillReason::NoEmbedder, effects);
    }

    pub(super) fn shard_hung(&mut self, now_ns: u64, id: ShardId, effects: &mut Vec<Effect>) {
        if let Some(at) = self.shards.find(id) {
            self.kill(now_ns, at, KillReason::Hung, effects);
        }
    }

    /// A shard has let go of a session, but can't be trusted to have forgotten it.
    pub(super) fn scrub_failed(
        &mut self,
        now_ns: u64,
        session: SessionId,
        id: ShardId,
        effects: &mut Vec<Effect>,
    ) {
        self.closed(now_ns, session, id, effects);
        if let Some(at) = self.shards.find(id) {
            self.kill(now_ns, at, KillReason::ScrubFailed, effects);
        }
    }

    pub(super) fn shard_exited(&mut self, now_ns: u64, id: ShardId, how: Exit, effects: &mut Vec<Effect>) {
        let Some(at) = self.shards.find(id) else { return };
        if self.shards.get(at).class == Class::Starting {
            self.back_off(now_ns, at, Death::Exited(how));
        }
        self.leave(now_ns, at);
        let loss = Loss::ShardLost { shard: id, component: self.name_of(at), how: Death::Exited(how) };
        self.lose_sessions(now_ns, at, &loss, effects);
        self.unwire_all(now_ns, at, effects);
        if let Some(link) = self.shards.get(at).embedder_link {
            self.give_embedder_link_back(link);
        }
        self.shards.remove(at);
        self.unsettled = true;
        self.form_cells_of(at, effects);
    }

    /// Asks a shard that holds no session to end.
    pub(super) fn stop(&mut self, now_ns: u64, at: u32, effects: &mut Vec<Effect>) {
        if self.is_draining(at) {
            return;
        }
        self.leave(now_ns, at);
        let shard = self.shards.get(at);
        assert!(shard.holders.is_empty(), "a shard that holds a session is not stopped");
        effects.push(Effect::Stop { shard: shard.id });
        let timeout_ns = self.shape.components[usize::from(shard.component)].stop_timeout_ns;
        self.shards.set_timer(at, now_ns.saturating_add(timeout_ns));
    }

    /// Has a shard killed. Its sessions end now; what it had comes back when it has exited.
    pub(super) fn kill(&mut self, now_ns: u64, at: u32, reason: KillReason, effects: &mut Vec<Effect>) {
        if self.shards.get(at).killed.is_some() {
            return;
        }
        if self.shards.get(at).class == Class::Starting {
            self.back_off(now_ns, at, Death::Killed(reason));
        }
        self.shards.get_mut(at).killed = Some(reason);
        self.shards.set_timer(at, u64::MAX);
        self.leave(now_ns, at);
        let shard = self.shards.get(at).id;
        effects.push(Effect::Kill { shard, reason });
        let loss = Loss::ShardLost { shard, component: self.name_of(at), how: Death::Killed(reason) };
        self.lose_sessions(now_ns, at, &loss, effects);
        self.form_cells_of(at, effects);
    }

    /// Kills the shards that have not started, or not ended, in time.
    pub(super) fn shard_timeouts(&mut self, now_ns: u64, effects: &mut Vec<Effect>) {
        while let Some(&(at_ns, at)) = self.shards.timers.first() {
            if at_ns > now_ns {
                break;
            }
            let starts = self.shards.get(at).state() == ShardState::Launching;
            let reason = if starts { KillReason::StartTimeout } else { KillReason::StopTimeout };
            self.kill(now_ns, at, reason, effects);
        }
    }

    fn is_draining(&self, shard: u32) -> bool {
        self.shards.get(shard).state() == ShardState::Draining
    }

    pub(super) fn name_of(&self, at: u32) -> Name {
        self.shape.components[usize::from(self.shards.get(at).component)].name.clone()
    }

    fn launch(&mut self, now_ns: u64, component: u16, effects: &mut Vec<Effect>) -> bool {
        let shape = &self.shape.components[usize::from(component)];
        let link = shape.embedder.and_then(|_| self.take_embedder_link());
        let shape = &self.shape.components[usize::from(component)];
        let Some(at) = self.shards.add(component, shape.capacity, link, now_ns) else { return false };
        self.shards.set_timer(at, now_ns.saturating_add(shape.start_timeout_ns));
        effects.push(Effect::Launch { shard: self.shards.get(at).id, component: ComponentId(component) });
        true
    }

    /// Takes a shard out of everything that new sessions are made from.
    fn leave(&mut self, now_ns: u64, at: u32) {
        if self.is_draining(at) {
            return;
        }
        self.dissolve_cells(at);
        let component = self.shards.get(at).component;
        for &(composition, _) in &self.shape.components[usize::from(component)].compositions {
            if let Some((level, free)) = self.free_places(composition, at) {
                self.spare[usize::from(composition)][level].remove(&(free, at));
            }
        }
        self.shards.become_ending(at, now_ns);
        self.unsettled = true;
    }

    /// The partners of a shard that has left may form cells with others.
    fn form_cells_of(&mut self, at: u32, effects: &mut Vec<Effect>) {
        let component = usize::from(self.shards.get(at).component);
        for n in 0..self.shape.components[component].compositions.len() {
            let (composition, _) = self.shape.components[component].compositions[n];
            self.form_cells(composition, effects);
        }
    }

    /// A shard has failed before it was ready: its component waits twice as long as the last time. Shards that
    /// were launched together count once.
    fn back_off(&mut self, now_ns: u64, at: u32, how: Death) {
        let launched_ns = self.shards.get(at).launched_ns;
        let stock = self.shards.stock_mut(self.shards.get(at).component);
        stock.last_failure = Some(how);
        if launched_ns >= stock.retry_ns {
            let backoff_ms = (BACKOFF_MIN_MS << stock.failures.min(16)).min(BACKOFF_MAX_MS);
            stock.failures = stock.failures.saturating_add(1);
            stock.retry_ns = now_ns.saturating_add(backoff_ms * NS_PER_MS);
        }
    }

    fn has_embedder_link(&self) -> bool {
        !self.embedder_links_free.is_empty()
    }

    fn take_embedder_link(&mut self) -> Option<LinkId> {
        self.embedder_links_free.pop()
    }

    fn give_embedder_link_back(&mut self, link: LinkId) {
        self.embedder_links_free.push(link);
    }
}
