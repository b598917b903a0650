//! One end inside the rig: an endpoint, the shard that it serves, and the record of what was delivered to it.

use super::{Delivery, Trace};
use crate::Context;
use crate::application::Component;
use crate::desk::Clock;
use crate::endpoint::Endpoint;
use crate::error::Result;
use crate::message::{Message, OwnedMessage, Rejected, Tick};
use crate::sessions::SessionMap;
use crate::shard::Shard;
use shard_runtime::id::{ComponentId, SessionId, ShardId};
use shard_runtime::region::RegionError;
use shard_runtime::stats::{Stats, StatsReader};
use shard_runtime::wake::{Bell, Ringer, create_bell};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::rc::Rc;

/// See the head of this file.
pub(super) struct Node {
    pub(super) endpoint: Endpoint,
    pub(super) shard: Watched,
    pub(super) stats: StatsReader,
    pub(super) ticks: Option<Ticks>,
    pub(super) dead: bool,
}

impl Node {
    pub(super) fn new(
        id: ComponentId,
        component: Component,
        shard: Box<dyn Shard>,
        trace: Rc<RefCell<Trace>>,
        clock: Clock,
        seed: u64,
    ) -> Result<Self, RegionError> {
        let region = Stats::create("rig-stats")?;
        let stats = StatsReader::map(region.read_only()?.as_fd())?;
        let bell = Bell::map(&create_bell("rig-bell")?)?;
        let ticks = component.tick_hz.map(Ticks::new);
        let shard = Watched { component: id, inner: shard, trace };
        let number = ShardId(u32::from(id.0));
        let endpoint = Endpoint::with_clock(number, component, bell, Some(Stats::map(&region)?), clock, seed);
        Ok(Self { endpoint, shard, stats, ticks, dead: false })
    }

    pub(super) fn ringer(&self) -> Ringer {
        self.endpoint.ringer()
    }

    /// One round. Returns how many messages it took.
    pub(super) fn poll(&mut self) -> usize {
        if self.dead { 0 } else { self.endpoint.poll(&mut self.shard) }
    }

    pub(super) fn tick(&mut self, now_ns: u64) {
        if let Some(tick) = self.ticks.as_mut().and_then(|ticks| ticks.take(now_ns)) {
            self.endpoint.tick(&mut self.shard, tick);
        }
    }

    /// When it ticks next.
    pub(super) fn due_ns(&self) -> Option<u64> {
        self.ticks.as_ref().filter(|_| !self.dead).map(|ticks| ticks.next_ns)
    }
}

/// Ticks in virtual time: never late, never missed.
pub(super) struct Ticks {
    period_ns: u64,
    next_ns: u64,
    number: u64,
}

impl Ticks {
    fn new(hz: f64) -> Self {
        let period_ns = (1e9 / hz) as u64;
        Self { period_ns, next_ns: period_ns, number: 0 }
    }

    fn take(&mut self, now_ns: u64) -> Option<Tick> {
        if now_ns < self.next_ns {
            return None;
        }
        let tick = Tick { number: self.number, period_ns: self.period_ns, late_ns: 0, missed: 0 };
        self.number += 1;
        self.next_ns += self.period_ns;
        Some(tick)
    }
}

/// A shard, and the trace of what it was given.
pub(super) struct Watched {
    component: ComponentId,
    inner: Box<dyn Shard>,
    trace: Rc<RefCell<Trace>>,
}

impl Shard for Watched {
    fn on_message(&mut self, message: Message<'_>, ctx: &mut Context<'_>) -> Result<()> {
        self.trace.borrow_mut().push(Delivery {
            at_ns: ctx.now_ns(),
            component: self.component,
            session: message.session(),
            is_reply: message.is_reply(),
            payload: message.payload().to_vec(),
        });
        self.inner.on_message(message, ctx)
    }

    fn on_open(&mut self, session: SessionId, ctx: &mut Context<'_>) -> Result<()> {
        self.inner.on_open(session, ctx)
    }

    fn on_close(&mut self, session: SessionId, ctx: &mut Context<'_>) {
        self.inner.on_close(session, ctx);
    }

    fn on_scrub(&mut self, ctx: &mut Context<'_>) -> Result<()> {
        self.inner.on_scrub(ctx)
    }

    fn on_tick(&mut self, tick: Tick, ctx: &mut Context<'_>) -> Result<()> {
        self.inner.on_tick(tick, ctx)
    }

    fn on_rejected(&mut self, rejected: Rejected, ctx: &mut Context<'_>) {
        self.inner.on_rejected(rejected, ctx);
    }

    fn on_stop(&mut self, ctx: &mut Context<'_>) {
        self.inner.on_stop(ctx);
    }
}

/// What came for the embedder, by session.
#[derive(Default)]
pub(super) struct Mail {
    pub(super) messages: SessionMap<VecDeque<OwnedMessage>>,
    pub(super) rejected: Vec<Rejected>,
}

/// The embedder's shard: it files what comes.
pub(super) struct Clerk(pub(super) Rc<RefCell<Mail>>);

impl Shard for Clerk {
    fn on_message(&mut self, message: Message<'_>, _: &mut Context<'_>) -> Result<()> {
        self.0.borrow_mut().messages.entry(message.session()).or_default().push_back(message.to_owned());
        Ok(())
    }

    fn on_rejected(&mut self, rejected: Rejected, _: &mut Context<'_>) {
        self.0.borrow_mut().rejected.push(rejected);
    }
}
