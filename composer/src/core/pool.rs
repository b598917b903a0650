//! The shards' lives: launched to keep the warm ones and to serve those who wait, lost, stopped, replaced.
//!
//! Invariant: a component has as many live shards as its target says, or as those who wait need, or `max`; fewer
//! only for as long as it backs off after shards that failed before they were ready, or the host has no room (`short`). One that goes on failing is
//! quarantined: those who need it are told at once instead of waiting, and it is tried again now and then.

use super::event::{Effect, Exit, KillReason, Tier};
use super::record::{Deed, Why};
use super::refusal::{Death, Loss, Name, Refusal};
use super::shards::{Class, Shard, ShardState};
use super::{
    BACKOFF_MAX_MS, BACKOFF_MIN_MS, Core, NS_PER_MS, QUARANTINE_AFTER_FAILURES, QUARANTINE_MS,
    SHARDS_KEPT_MAX,
};
use shard_runtime::id::{ComponentId, LinkId, SessionId, ShardId};

impl Core {
    /// Thaws and launches what is missing. True if something was thawed: it takes sessions at once.
    pub(super) fn refill(&mut self, now_ns: u64, effects: &mut Vec<Effect>) -> bool {
        if !self.is_running() {
            return false;
        }
        let mut thawed = false;
        for component in 0..self.shape.components.len() as u16 {
            while let Some(why) = self.below_target(component) {
                if let Some(at) = self.shards.stock(component).frozen.last() {
                    self.thaw(now_ns, at, why, effects);
                    thawed = true;
                } else if !self.can_launch(now_ns, component)
                    || !self.launch(now_ns, component, None, why, effects)
                {
                    break;
                }
            }
        }
        // Whose first request came first is served first.
        let able = (0..self.shape.compositions.len()).filter(|&c| !self.is_short(c as u16));
        let mut waiting: Vec<(u64, u16)> =
            able.filter_map(|c| Some((self.requests.head(c)?.0, c as u16))).collect();
        waiting.sort_unstable();
        // Of each component, the places that these and those before them want.
        let mut wanted = Vec::new();
        for (_, composition) in waiting {
            wanted.resize(self.shape.components.len(), 0);
            let requests = self.requests.queues[usize::from(composition)].len();
            let requests = u64::from(requests).min(self.supply_at_most(composition));
            for level in &self.shape.compositions[usize::from(composition)].levels {
                wanted[usize::from(level.component)] += requests;
            }
            while self.start_set(now_ns, composition, &wanted, &mut thawed, effects) {}
        }
        if self.somebody_is_short() {
            self.make_room(now_ns, effects);
        }
        thawed
    }

    /// Thaws or launches one shard of each component that a composition lacks; what is launched is one set. False if
    /// there was nothing to be done, or nothing that can be.
    fn start_set(
        &mut self,
        now_ns: u64,
        composition: u16,
        wanted: &[u64],
        thawed: &mut bool,
        effects: &mut Vec<Effect>,
    ) -> bool {
        let levels = self.shape.compositions[usize::from(composition)].levels.iter();
        let mut lacking: Vec<u16> = levels.map(|level| level.component).collect();
        lacking.retain(|&component| self.supply(component) < wanted[usize::from(component)]);
        let before = lacking.len();
        lacking.retain(|&component| {
            let frozen = self.shards.stock(component).frozen.last();
            if let Some(at) = frozen {
                let requests = wanted[usize::from(component)] as u32;
                self.thaw(now_ns, at, Why::Waiting { requests }, effects);
                *thawed = true;
            }
            frozen.is_none()
        });
        let mut progress = lacking.len() < before;
        let mut last = None;
        for component in lacking {
            let why = Why::Waiting { requests: wanted[usize::from(component)] as u32 };
            if self.can_launch(now_ns, component)
                && self.launch(now_ns, component, Some(composition), why, effects)
            {
                last = Some(effects.len() - 1);
                progress = true;
            }
        }
        if let Some(Effect::Launch { more, .. }) = last.map(|at| &mut effects[at]) {
            *more = false;
        }
        progress
    }

    fn below_target(&self, component: u16) -> Option<Why> {
        let stock = self.shards.stock(component);
        let lacks = self.is_running() && !stock.short && stock.live() < stock.target;
        lacks.then_some(Why::Target { ready: stock.target })
    }

    /// Whether one more shard of a component is needed, and may be had.
    fn lacks(&self, component: u16) -> bool {
        let waits =
            || self.is_running() && self.supply(component) < self.demand_of(component, |c| !self.is_short(c));
        self.below_target(component).is_some() || waits()
    }

    fn can_launch(&self, now_ns: u64, component: u16) -> bool {
        self.may_launch(component) && self.shards.stock(component).retry_ns <= now_ns
    }

    fn may_launch(&self, component: u16) -> bool {
        let (shape, stock) = (&self.shape.components[usize::from(component)], self.shards.stock(component));
        (stock.shards.len() as u32) < shape.max
            && (shape.embedder.is_none() || self.has_embedder_link())
            // A component that fails to start is tried with one shard at a time.
            && (stock.failures == 0 || stock.starting.is_empty())
    }

    /// Whether one more shard of a component is to be launched as soon as its back-off allows it.
    pub(super) fn wants_launch(&self, component: u16) -> bool {
        self.may_launch(component) && self.lacks(component)
    }

    /// Gives a frozen shard its processor back. It takes sessions from now on.
    fn thaw(&mut self, now_ns: u64, at: u32, why: Why, effects: &mut Vec<Effect>) {
        let shard = self.shards.get(at).id;
        effects.push(Effect::Thaw { shard });
        self.shards.thaw(at, now_ns);
        self.note(now_ns, at, Deed::Thawed(why));
        self.join(at, effects);
    }

    /// Takes the processor from an idle shard; its cells go, its wires stay.
    pub(super) fn freeze(&mut self, now_ns: u64, at: u32, effects: &mut Vec<Effect>) {
        let idle_ns = now_ns.saturating_sub(self.shards.get(at).idle_ns);
        self.note_return(at);
        self.leave(now_ns, at, Class::Frozen);
        effects.push(Effect::Freeze { shard: self.shards.get(at).id });
        self.note(now_ns, at, Deed::Frozen(Why::Idle { for_ns: idle_ns }));
    }

    /// Thaws what it takes to serve a session of a composition now. True if every component then has room.
    pub(super) fn thaw_for(&mut self, now_ns: u64, composition: u16, effects: &mut Vec<Effect>) -> bool {
        let levels = |core: &Self| core.shape.compositions[usize::from(composition)].levels.len();
        let component = |core: &Self, level: usize| {
            core.shape.compositions[usize::from(composition)].levels[level].component
        };
        let can =
            |core: &Self, c: u16| core.shards.stock(c).has_room() || !core.shards.stock(c).frozen.is_empty();
        if !self.is_running() || !(0..levels(self)).all(|level| can(self, component(self, level))) {
            return false;
        }
        for level in 0..levels(self) {
            let component = component(self, level);
            let stock = self.shards.stock(component);
            if !stock.has_room()
                && let Some(at) = stock.frozen.last()
            {
                self.thaw(now_ns, at, Why::Waiting { requests: 1 }, effects);
            }
        }
        true
    }

    /// A component is to have so many shards.
    pub(super) fn set_target(&mut self, now_ns: u64, component: ComponentId, ready: u32, frozen: u32) {
        let Some(shape) = self.shape.components.get(usize::from(component.0)) else { return };
        let ready = ready.clamp(shape.warm, shape.max.max(shape.warm));
        let frozen = frozen.min(shape.max.min(SHARDS_KEPT_MAX));
        let stock = self.shards.stock_mut(component.0);
        if (stock.target, stock.frozen_target) != (ready, frozen) {
            let before = stock.target;
            (stock.target, stock.frozen_target) = (ready, frozen);
            self.note_component(now_ns, component.0, Deed::Target { before, ready, frozen });
        }
        self.unsettled = true;
    }

    /// The most places that were held or wanted at a time since this was last asked, by component.
    pub fn take_demand(&mut self, into: &mut Vec<u32>) {
        into.clear();
        for component in 0..self.shape.components.len() as u16 {
            let waiting = self.waiting_for(component);
            let stock = self.shards.stock_mut(component);
            let now = stock.held.saturating_add(waiting);
            into.push(stock.peak.max(now));
            stock.peak = now;
        }
    }

    /// How many requests in the queues need a place of this component.
    fn waiting_for(&self, component: u16) -> u32 {
        let compositions = &self.shape.components[usize::from(component)].compositions;
        compositions.iter().map(|&(c, _)| self.requests.queues[usize::from(c)].len()).sum()
    }

    /// Notes what those who wait make of the demand.
    pub(super) fn count_demand(&mut self, composition: u16) {
        for level in 0..self.shape.compositions[usize::from(composition)].levels.len() {
            let component = self.shape.compositions[usize::from(composition)].levels[level].component;
            let waiting = self.waiting_for(component);
            let stock = self.shards.stock_mut(component);
            stock.peak = stock.peak.max(stock.held.saturating_add(waiting));
        }
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
        self.demand_of(component, |_| true)
    }

    fn demand_of(&self, component: u16, counts: impl Fn(u16) -> bool) -> u64 {
        let compositions = &self.shape.components[usize::from(component)].compositions;
        let queues = compositions.iter().filter(|(c, _)| counts(*c));
        let waiting = queues.map(|&(c, _)| (c, u64::from(self.requests.queues[usize::from(c)].len())));
        waiting
            .filter(|&(_, waiting)| waiting > 0)
            .map(|(c, waiting)| waiting.min(self.supply_at_most(c)))
            .sum()
    }

    /// How many sessions of a composition there could be, on top of those that there are, with every component at
    /// its `max`; where the host has no room for more, with the shards that there are.
    fn supply_at_most(&self, composition: u16) -> u64 {
        let short = self.is_short(composition);
        let at_most = |component: u16| {
            let (shape, stock) =
                (&self.shape.components[usize::from(component)], self.shards.stock(component));
            let more = if short { 0 } else { shape.max.saturating_sub(stock.shards.len() as u32) };
            self.supply(component) + u64::from(more) * u64::from(shape.capacity)
        };
        let levels = &self.shape.compositions[usize::from(composition)].levels;
        levels.iter().map(|l| at_most(l.component)).min().unwrap_or(0)
    }

    pub(super) fn launched(&mut self, id: ShardId, pid: u32, from: Tier) {
        if let Some(at) = self.shards.find(id) {
            let shard = self.shards.get_mut(at);
            (shard.pid, shard.from) = (pid, from);
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
        let Shard { component, from, launched_ns, .. } = *self.shards.get(at);
        let stock = self.shards.stock_mut(component);
        stock.failures = 0;
        stock.last_failure = None;
        let took_ns = now_ns.saturating_sub(launched_ns);
        stock.costs[from as usize].add(took_ns);
        self.note(now_ns, at, Deed::Ready { from, took_ns });
        self.join(at, effects);
    }

    /// A shard that takes sessions takes part in cells.
    fn join(&mut self, at: u32, effects: &mut Vec<Effect>) {
        let component = self.shards.get(at).component;
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

    pub(super) fn lost_trust(
        &mut self,
        now_ns: u64,
        id: ShardId,
        reason: KillReason,
        effects: &mut Vec<Effect>,
    ) {
        if let Some(at) = self.shards.find(id) {
            self.kill(now_ns, at, reason, effects);
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
        self.note(now_ns, at, Deed::Exited(how));
        let started = self.shards.get(at).class != Class::Starting;
        self.leave(now_ns, at, Class::Ending);
        if !started {
            self.back_off(now_ns, at, Death::Exited(how), effects);
        }
        let loss = Loss::ShardLost { shard: id, component: self.name_of(at), how: Death::Exited(how) };
        self.lose_sessions(now_ns, at, &loss, effects);
        self.room_came_back();
        self.forget_shard(now_ns, at, effects);
    }

    /// Nothing is left of a shard that holds no session.
    pub(super) fn forget_shard(&mut self, now_ns: u64, at: u32, effects: &mut Vec<Effect>) {
        self.leave(now_ns, at, Class::Ending);
        self.unwire_all(now_ns, at, effects);
        if let Some(link) = self.shards.get(at).embedder_link {
            self.give_embedder_link_back(link);
        }
        self.shards.remove(at);
        self.unsettled = true;
        self.form_cells_of(at, effects);
    }

    /// Asks a shard that holds no session to end.
    pub(super) fn stop(&mut self, now_ns: u64, at: u32, why: Why, effects: &mut Vec<Effect>) {
        if self.shards.get(at).class == Class::Ending {
            return;
        }
        let was_frozen = self.shards.get(at).class == Class::Frozen;
        self.note_return(at);
        self.leave(now_ns, at, Class::Ending);
        self.note(now_ns, at, Deed::Stopped(why));
        let shard = self.shards.get(at);
        assert!(shard.holders.is_empty(), "a shard that holds a session is not stopped");
        if was_frozen {
            // It can't hear that it is to end.
            effects.push(Effect::Thaw { shard: shard.id });
        }
        effects.push(Effect::Stop { shard: shard.id });
        let timeout_ns = self.shape.components[usize::from(shard.component)].stop_timeout_ns;
        self.shards.set_timer(at, now_ns.saturating_add(timeout_ns));
    }

    /// Has a shard killed. Its sessions end now; what it had comes back when it has exited.
    pub(super) fn kill(&mut self, now_ns: u64, at: u32, reason: KillReason, effects: &mut Vec<Effect>) {
        if self.shards.get(at).killed.is_some() {
            return;
        }
        self.note(now_ns, at, Deed::Killed(reason));
        let started = self.shards.get(at).class != Class::Starting;
        self.shards.get_mut(at).killed = Some(reason);
        self.shards.set_timer(at, u64::MAX);
        self.leave(now_ns, at, Class::Ending);
        if !started {
            self.back_off(now_ns, at, Death::Killed(reason), effects);
        }
        let shard = self.shards.get(at).id;
        effects.push(Effect::Kill { shard, reason });
        let loss = Loss::ShardLost { shard, component: self.name_of(at), how: Death::Killed(reason) };
        self.lose_sessions(now_ns, at, &loss, effects);
        self.form_cells_of(at, effects);
    }

    /// Lets a shard take no more sessions, and end when those that it holds are over.
    pub(super) fn drain(&mut self, now_ns: u64, id: ShardId, deadline_ns: u64, effects: &mut Vec<Effect>) {
        let Some(at) = self.shards.find(id) else { return };
        if self.shards.get(at).state() == ShardState::Draining {
            return;
        }
        if self.shards.get(at).holders.is_empty() {
            return self.stop(now_ns, at, Why::Drained, effects);
        }
        self.leave(now_ns, at, Class::Leaving);
        self.note(now_ns, at, Deed::Draining);
        self.shards.set_timer(at, deadline_ns);
        self.form_cells_of(at, effects);
    }

    /// A drained shard's deadline has come: what it still holds ends.
    fn end_drain(&mut self, now_ns: u64, at: u32, effects: &mut Vec<Effect>) {
        self.shards.set_timer(at, u64::MAX);
        let loss = Loss::Drained { shard: self.shards.get(at).id, component: self.name_of(at) };
        let members = self.shards.get(at).holders.clone();
        for session in members.into_iter().map(|member| self.sessions.session_of(member)).collect::<Vec<_>>()
        {
            self.lose(now_ns, session, &loss, effects);
        }
    }

    /// A shard holds no session any more: it may have had its turn.
    pub(super) fn emptied(&mut self, now_ns: u64, at: u32, last: SessionId, effects: &mut Vec<Effect>) {
        let shard = self.shards.get(at);
        if shard.class == Class::Leaving {
            self.stop(now_ns, at, Why::Drained, effects);
        } else if self.is_ending() {
            self.stop(now_ns, at, Why::ShutDown, effects);
        } else if shard.used
            && shard.class == Class::Idle
            && self.shape.components[usize::from(shard.component)].restarts
        {
            self.stop(now_ns, at, Why::Restart, effects);
        } else if shard.class == Class::Idle {
            self.shards.get_mut(at).last_session = last;
        }
    }

    /// Kills the shards that have not started, or not ended, in time.
    pub(super) fn shard_timeouts(&mut self, now_ns: u64, effects: &mut Vec<Effect>) {
        while let Some(&(at_ns, at)) = self.shards.timers.first() {
            if at_ns > now_ns {
                break;
            }
            if self.shards.get(at).class == Class::Leaving {
                self.end_drain(now_ns, at, effects);
                continue;
            }
            let starts = self.shards.get(at).state() == ShardState::Launching;
            let reason = if starts { KillReason::StartTimeout } else { KillReason::StopTimeout };
            self.kill(now_ns, at, reason, effects);
        }
    }

    pub(super) fn name_of(&self, at: u32) -> Name {
        self.shape.components[usize::from(self.shards.get(at).component)].name.clone()
    }

    /// Launches a shard: for a composition as one of a set that goes on, by itself for the target.
    fn launch(
        &mut self,
        now_ns: u64,
        component: u16,
        wanted_by: Option<u16>,
        why: Why,
        effects: &mut Vec<Effect>,
    ) -> bool {
        let shape = &self.shape.components[usize::from(component)];
        let link = shape.embedder.and_then(|_| self.take_embedder_link());
        let shape = &self.shape.components[usize::from(component)];
        let Some(at) = self.shards.add(component, shape.capacity, link, now_ns) else { return false };
        self.shards.set_timer(at, now_ns.saturating_add(shape.start_timeout_ns));
        self.shards.get_mut(at).wanted_by = wanted_by;
        let (shard, component) = (self.shards.get(at).id, ComponentId(component));
        effects.push(Effect::Launch { shard, component, why, more: wanted_by.is_some() });
        self.note(now_ns, at, Deed::Launched(why));
        true
    }

    /// Takes a shard out of everything that new sessions are made from.
    fn leave(&mut self, now_ns: u64, at: u32, class: Class) {
        if self.shards.get(at).class == Class::Ending {
            return;
        }
        self.dissolve_cells(at);
        let component = self.shards.get(at).component;
        for &(composition, _) in &self.shape.components[usize::from(component)].compositions {
            if let Some((level, free)) = self.free_places(composition, at) {
                self.spare[usize::from(composition)][level].remove(&(free, at));
            }
        }
        self.shards.depart(at, class, now_ns);
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

    /// A shard has failed before it was ready, or is not to be wired again: its component waits twice as long as the last time. Shards that
    /// were launched together count once.
    pub(super) fn back_off(&mut self, now_ns: u64, at: u32, how: Death, effects: &mut Vec<Effect>) {
        let Shard { launched_ns, component, .. } = *self.shards.get(at);
        let stock = self.shards.stock_mut(component);
        stock.last_failure = Some(how);
        if launched_ns < stock.retry_ns {
            return;
        }
        stock.failures = stock.failures.saturating_add(1);
        let quarantined = stock.failures >= QUARANTINE_AFTER_FAILURES;
        let backoff_ms = (BACKOFF_MIN_MS << (stock.failures - 1).min(16)).min(BACKOFF_MAX_MS);
        let pause_ms = if quarantined { QUARANTINE_MS } else { backoff_ms };
        stock.retry_ns = now_ns.saturating_add(pause_ms * NS_PER_MS);
        if quarantined {
            self.note_component(now_ns, component, Deed::Quarantined(how));
            self.refuse_for_quarantine(now_ns, component, effects);
        }
    }

    /// Why a composition can't be had for a while, if a component of it goes on failing and none of its shards has room.
    pub(super) fn quarantine(&self, now_ns: u64, composition: u16) -> Option<Refusal> {
        let levels = &self.shape.compositions[usize::from(composition)].levels;
        levels.iter().map(|l| l.component).find_map(|component| {
            let stock = self.shards.stock(component);
            let shut = stock.failures >= QUARANTINE_AFTER_FAILURES
                && stock.live() == 0
                && stock.frozen.is_empty()
                && now_ns < stock.retry_ns;
            shut.then(|| Refusal::Quarantined {
                component: self.shape.components[usize::from(component)].name.clone(),
                failures: stock.failures,
                how: stock.last_failure.expect("a component that fails has a last failure"),
                for_ms: (stock.retry_ns - now_ns).div_ceil(NS_PER_MS),
            })
        })
    }

    /// Tells those who wait for a component that was just quarantined.
    fn refuse_for_quarantine(&mut self, now_ns: u64, component: u16, effects: &mut Vec<Effect>) {
        for n in 0..self.shape.components[usize::from(component)].compositions.len() {
            let (composition, _) = self.shape.components[usize::from(component)].compositions[n];
            let Some(reason) = self.quarantine(now_ns, composition) else { continue };
            while let Some((_, request)) = self.requests.head(usize::from(composition)) {
                self.refuse(now_ns, request, reason.clone(), effects);
            }
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
