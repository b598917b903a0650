//! What `ps` and `top` see: read-only, in a stable order, without a copy of anything.

use super::event::{CompositionId, Tier, Tiers, WireEnd};
use super::sessions::SessionState;
use super::shards::{Shard, ShardState, StartCost};
use super::{Core, KillReason, RequestId};
use shard_runtime::id::{ComponentId, SessionId, ShardId};

/// A shard as people see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardView {
    /// Its id.
    pub id: ShardId,
    /// Which component it is an instance of.
    pub component: ComponentId,
    /// Where it is in its life.
    pub state: ShardState,
    /// How many sessions it holds, those that open or close included.
    pub sessions: u32,
    /// How many it can hold.
    pub capacity: u32,
    /// When it came into its state.
    pub since_ns: u64,
    /// Its process id; 0 until it is known.
    pub pid: u32,
    /// Why it was killed, if it was.
    pub killed: Option<KillReason>,
    /// How much of its time it worked for its sessions when that was last reported, in thousandths.
    pub load_permille: u32,
}

/// A session as people see it.
#[derive(Clone, Copy, Debug)]
pub struct SessionView<'a> {
    /// Its id.
    pub id: SessionId,
    /// What it is composed of.
    pub composition: CompositionId,
    /// Where it is in its life.
    pub state: SessionState,
    /// When it came into its state.
    pub since_ns: u64,
    /// The request that it was made for.
    pub request: RequestId,
    /// From which tiers its shards came.
    pub tiers: Tiers,
    core: &'a Core,
}

impl<'a> SessionView<'a> {
    /// Its shards.
    pub fn shards(&self) -> impl Iterator<Item = ShardId> + use<'a> {
        self.core.sessions.members(self.id.index()).map(|m| m.id)
    }
}

/// The shards of a component that can take a session, or will, as people see them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolView {
    /// Of which component.
    pub component: ComponentId,
    /// So many are to take sessions …
    pub target: u32,
    /// … and so many may be frozen.
    pub frozen_target: u32,
    /// So many take sessions.
    pub ready: u32,
    /// So many of them hold none.
    pub idle: u32,
    /// So many start.
    pub starting: u32,
    /// So many are frozen.
    pub frozen: u32,
    /// So many sessions are held.
    pub held: u32,
    /// So many shards in a row failed to start.
    pub failures: u32,
    /// Before this time none is started.
    pub retry_ns: u64,
    /// How long it took until one took sessions, by [`Tier`].
    pub costs: [StartCost; Tier::ALL.len()],
}

impl Core {
    /// What a component has of shards; `None` for one that the application does not have.
    pub fn pool(&self, component: ComponentId) -> Option<PoolView> {
        let stock = self.shards.stocks.get(usize::from(component.0))?;
        Some(PoolView {
            component,
            target: stock.target,
            frozen_target: stock.frozen_target,
            ready: stock.ready,
            idle: stock.idle.len(),
            starting: stock.starting.len(),
            frozen: stock.frozen.len(),
            held: stock.held,
            failures: stock.failures,
            retry_ns: stock.retry_ns,
            costs: stock.costs,
        })
    }

    /// All shards that are not gone, by id.
    pub fn shards(&self) -> impl Iterator<Item = ShardView> {
        self.shards.iter().map(|(_, shard)| view(shard))
    }

    /// The shard of this id, if it is not gone.
    pub fn shard(&self, id: ShardId) -> Option<ShardView> {
        self.shards.find(id).map(|at| view(self.shards.get(at)))
    }

    /// The sessions that a shard holds, those that open or close included.
    pub fn sessions_of(&self, id: ShardId) -> impl Iterator<Item = SessionId> {
        let at = self.shards.find(id);
        let holders = at.into_iter().flat_map(|at| &self.shards.get(at).holders);
        holders.map(|member| self.session_at(self.sessions.session_of(*member)).id)
    }

    /// All sessions that are not gone, by slot.
    pub fn sessions(&self) -> impl Iterator<Item = SessionView<'_>> {
        (0u32..).zip(&self.sessions.table).filter(|(_, s)| s.in_use).map(|(at, _)| self.session_at(at))
    }

    /// The session of this id, if it is not gone.
    pub fn session(&self, id: SessionId) -> Option<SessionView<'_>> {
        self.sessions.find(id).map(|at| self.session_at(at))
    }

    /// How many sessions there are, those that open or close included.
    pub fn session_count(&self) -> usize {
        self.sessions.in_use
    }

    /// Both ends of every wire that is up, by slot.
    pub fn wires(&self) -> impl Iterator<Item = [WireEnd; 2]> {
        let up = self.wires.table.iter().filter(|wire| wire.in_use && wire.up);
        up.map(|wire| wire.sides.map(|side| self.wire_end(side)))
    }

    /// How many requests wait, for room or for wires.
    pub fn waiting_count(&self) -> usize {
        self.requests.count()
    }

    /// How many wires there are.
    pub fn wire_count(&self) -> usize {
        self.wires.count()
    }

    /// How many cells of a composition there are, those that are being wired included; 0 for a composition that
    /// the application does not have.
    pub fn cell_count(&self, composition: CompositionId) -> u32 {
        self.cells.get(usize::from(composition.0)).map_or(0, |c| c.count())
    }

    fn session_at(&self, at: u32) -> SessionView<'_> {
        let session = &self.sessions.table[at as usize];
        SessionView {
            id: SessionId::new(at, session.generation),
            composition: CompositionId(session.ask.composition),
            state: session.state,
            since_ns: session.since_ns,
            request: session.ask.request,
            tiers: session.tiers,
            core: self,
        }
    }
}

fn view(shard: &Shard) -> ShardView {
    ShardView {
        id: shard.id,
        component: ComponentId(shard.component),
        state: shard.state(),
        sessions: shard.holders.len() as u32,
        capacity: shard.capacity,
        since_ns: shard.since_ns,
        pid: shard.pid,
        killed: shard.killed,
        load_permille: shard.load_permille,
    }
}

impl Core {
    /// Who is at the other end of a link, by the slot in the table of links of `end`.
    pub fn peer_of(&self, end: super::End, link: shard_runtime::id::LinkId) -> Option<super::End> {
        match end {
            super::End::Embedder => {
                let found = self.shards.iter().find(|(_, shard)| shard.embedder_link == Some(link));
                found.map(|(_, shard)| super::End::Shard(shard.id))
            }
            super::End::Shard(id) => {
                let link = self.shards.get(self.shards.find(id)?).wires.get(usize::from(link.0))?;
                if link.wire == super::list::NONE {
                    return None;
                }
                let shard = (link.peer != super::list::NONE).then(|| self.shards.get(link.peer).id);
                Some(shard.map_or(super::End::Embedder, super::End::Shard))
            }
        }
    }
}
