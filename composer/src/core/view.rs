//! What `ps` and `top` see: read-only, in a stable order, without a copy of anything.

use super::event::{CompositionId, WireEnd};
use super::sessions::SessionState;
use super::shards::{Shard, ShardState};
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
    /// How many of its shards were not ready yet when its request came.
    pub cold_shards: u16,
    core: &'a Core,
}

impl<'a> SessionView<'a> {
    /// Its shards.
    pub fn shards(&self) -> impl Iterator<Item = ShardId> + use<'a> {
        self.core.sessions.members(self.id.index()).map(|m| m.id)
    }
}

impl Core {
    /// All shards that are not gone, by id.
    pub fn shards(&self) -> impl Iterator<Item = ShardView> {
        self.shards.iter().map(|(_, shard)| view(shard))
    }

    /// The shard of this id, if it is not gone.
    pub fn shard(&self, id: ShardId) -> Option<ShardView> {
        self.shards.find(id).map(|at| view(self.shards.get(at)))
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
            composition: CompositionId(session.composition),
            state: session.state,
            since_ns: session.since_ns,
            request: session.request,
            cold_shards: session.cold_shards,
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
