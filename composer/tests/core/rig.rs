//! A world in which everything happens at once, unless a test says otherwise.

use shard_composer::core::{
    CompositionId, Core, Effect, Event, Exit, KillReason, Loss, Refusal, RequestId, ShardState, Tiers,
};
use shard_composer::resources::{Missing, Resource, Shortage};
use shard_runtime::id::{ComponentId, SessionId, ShardId};
use shardkit::application::Application;
use std::collections::BTreeSet;
use std::sync::Arc;

pub(crate) const MS: u64 = 1_000_000;

/// The core, and what the world answers by itself.
pub(crate) struct Rig {
    pub(crate) core: Core,
    pub(crate) now_ns: u64,
    /// Every effect so far.
    pub(crate) effects: Vec<Effect>,
    answered: usize,
    pub(crate) starts: bool,
    pub(crate) wires: bool,
    pub(crate) opens: bool,
    pub(crate) closes: bool,
    pub(crate) stops: bool,
    /// So many shards the host has room for, if that is bounded.
    pub(crate) room: Option<usize>,
    /// The shards that have their part of it, and what is to be launched together, as far as it has been heard.
    granted: BTreeSet<ShardId>,
    set: Vec<ShardId>,
    next_request: u64,
}

impl Rig {
    /// The core for an application, started, with its warm shards ready.
    pub(crate) fn new(application: &Application) -> Self {
        let mut rig = Self::new_without_answers(application);
        (rig.starts, rig.wires, rig.opens, rig.closes, rig.stops) = (true, true, true, true, true);
        rig.tell(Event::Start);
        rig
    }

    pub(crate) fn new_without_answers(application: &Application) -> Self {
        let (starts, wires, opens, closes, stops) = (false, false, false, false, false);
        let core = Core::new(application);
        Self {
            core,
            now_ns: MS,
            effects: vec![],
            answered: 0,
            starts,
            wires,
            opens,
            closes,
            stops,
            room: None,
            granted: BTreeSet::new(),
            set: vec![],
            next_request: 0,
        }
    }

    /// Tells the core, and answers what it wants done.
    pub(crate) fn tell(&mut self, event: Event) {
        self.handle(event);
        while self.answered < self.effects.len() {
            let effect = self.effects[self.answered].clone();
            self.answered += 1;
            for answer in self.answers(effect) {
                self.handle(answer);
            }
        }
    }

    fn handle(&mut self, event: Event) {
        if let Event::ShardExited { shard, .. } = &event {
            self.granted.remove(shard);
        }
        self.core.handle(self.now_ns, event.clone(), &mut self.effects);
        if let Err(what) = self.core.check_invariants() {
            panic!("after {event:?}: {what}");
        }
    }

    fn answers(&mut self, effect: Effect) -> Vec<Event> {
        if let Effect::Launch { shard, more, .. } = effect {
            self.set.push(shard);
            return if more { vec![] } else { self.launch() };
        }
        self.answer(effect).into_iter().collect()
    }

    /// Starts all of a set or none.
    fn launch(&mut self) -> Vec<Event> {
        let shards = std::mem::take(&mut self.set);
        let free = self.room.map_or(usize::MAX, |room| room.saturating_sub(self.granted.len()));
        if shards.len() > free {
            let (needed, free) = (shards.len() as u64, free as u64);
            let missing = vec![Missing { resource: Resource::Memory, needed, free }];
            let (at, of) = (free as usize, shards.len());
            let shortage = Shortage { at, of, host: "rig".into(), missing, proved: true };
            return vec![Event::NoRoom { shards, shortage: Arc::new(shortage) }];
        }
        self.granted.extend(&shards);
        let starts = self.starts;
        shards.into_iter().filter(|_| starts).map(|shard| Event::ShardReady { shard }).collect()
    }

    fn answer(&self, effect: Effect) -> Option<Event> {
        Some(match effect {
            Effect::Wire { wire, .. } if self.wires => Event::Wired { wire },
            Effect::Open { session, shard } if self.opens => Event::Opened { session, shard },
            Effect::Close { session, shard } if self.closes => Event::Closed { session, shard },
            Effect::Stop { shard } if self.stops => Event::ShardExited { shard, how: Exit::Code(0) },
            Effect::Kill { shard, .. } if self.stops => Event::ShardExited { shard, how: Exit::Signal(9) },
            _ => return None,
        })
    }

    /// After the effects were cleared.
    pub(crate) fn forget_answers(&mut self) {
        self.answered = self.effects.len();
    }

    /// Lets time pass, with a tick at each deadline.
    pub(crate) fn pass_ms(&mut self, ms: u64) {
        let until_ns = self.now_ns + ms * MS;
        while let Some(at_ns) = self.core.next_deadline().filter(|&at_ns| at_ns <= until_ns) {
            self.now_ns = self.now_ns.max(at_ns);
            self.tell(Event::Tick);
            let next_ns = self.core.next_deadline();
            assert!(next_ns.is_none_or(|next_ns| next_ns > self.now_ns), "a tick that does nothing");
        }
        self.now_ns = until_ns;
    }

    /// Asks for a session of composition 0.
    pub(crate) fn request(&mut self, wait_ms: u64) -> RequestId {
        self.request_of(0, wait_ms)
    }

    pub(crate) fn request_of(&mut self, composition: u16, wait_ms: u64) -> RequestId {
        self.next_request += 1;
        let request = RequestId(self.next_request);
        let deadline_ns = self.now_ns + wait_ms * MS;
        self.tell(Event::SessionRequested { request, composition: CompositionId(composition), deadline_ns });
        request
    }

    /// Asks for a session that is there at once.
    pub(crate) fn compose(&mut self) -> SessionId {
        let request = self.request(0);
        self.ready(request).unwrap_or_else(|| panic!("{:?}", self.failed(request)))
    }

    pub(crate) fn end(&mut self, session: SessionId) {
        self.tell(Event::SessionEnded { session });
    }

    pub(crate) fn exit(&mut self, shard: ShardId) {
        self.tell(Event::ShardExited { shard, how: Exit::Signal(9) });
    }

    pub(crate) fn ready(&self, of: RequestId) -> Option<SessionId> {
        self.effects.iter().find_map(|e| match *e {
            Effect::SessionReady { request, session, .. } if request == of => Some(session),
            _ => None,
        })
    }

    pub(crate) fn cold_shards(&self, of: RequestId) -> Option<u16> {
        self.tiers(of).map(Tiers::started)
    }

    pub(crate) fn tiers(&self, of: RequestId) -> Option<Tiers> {
        self.effects.iter().find_map(|e| match *e {
            Effect::SessionReady { request, tiers, .. } if request == of => Some(tiers),
            _ => None,
        })
    }

    pub(crate) fn failed(&self, of: RequestId) -> Option<Refusal> {
        self.effects.iter().find_map(|e| match e {
            Effect::RequestFailed { request, reason } if *request == of => Some(reason.clone()),
            _ => None,
        })
    }

    pub(crate) fn lost(&self, of: SessionId) -> Option<Loss> {
        self.effects.iter().find_map(|e| match e {
            Effect::SessionLost { session, reason } if *session == of => Some(reason.clone()),
            _ => None,
        })
    }

    pub(crate) fn killed(&self, of: ShardId) -> Option<KillReason> {
        self.effects.iter().find_map(|e| match *e {
            Effect::Kill { shard, reason } if shard == of => Some(reason),
            _ => None,
        })
    }

    /// Forgets the effects so far, all of which are answered.
    pub(crate) fn forget_effects(&mut self) {
        self.effects.clear();
        self.answered = 0;
    }

    pub(crate) fn has(&self, effect: Effect) -> bool {
        self.effects.contains(&effect)
    }

    pub(crate) fn shards_of(&self, session: SessionId) -> Vec<ShardId> {
        self.core.session(session).expect("the session is there").shards().collect()
    }

    pub(crate) fn live(&self, component: u16) -> Vec<ShardId> {
        let live = self.core.shards().filter(|s| s.state != ShardState::Draining);
        live.filter(|s| s.component == ComponentId(component)).map(|s| s.id).collect()
    }

    pub(crate) fn launches(&self) -> usize {
        self.effects.iter().filter(|e| matches!(e, Effect::Launch { .. })).count()
    }
}
