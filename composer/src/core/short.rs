//! What the host has no room for: compositions that wait for it, and those that it can never hold.
//!
//! What a composition lacks is launched as one set: all of it is given its part of the host, or none is started. Where
//! that can't be, the composition is *short*: the requests that it can't serve launch nothing and claim nothing, and
//! wait until their deadlines. It is tried again when a shard has ended or a place that it lacked has come back.
//!
//! Invariant: nothing is held while waiting. A set that was refused leaves nothing behind, and while a composition is
//! short, shards that nobody needs end without delay; so no two compositions can wait for what the other one keeps.

use super::Core;
use super::event::{CompositionId, Effect};
use super::record::{Deed, Why};
use super::refusal::{Name, Refusal};
use crate::resources::Shortage;
use shard_runtime::id::{ComponentId, ShardId};
use std::sync::Arc;

/// Why the last set that was launched for a composition was not started.
#[derive(Clone, Debug)]
pub(super) struct Short {
    /// What was to be launched.
    components: Vec<u16>,
    /// Which of them there was no room for.
    component: Name,
    shortage: Arc<Shortage>,
}

impl Core {
    /// A composition is never to be had: its components do not fit on the empty host together. `component` is the one
    /// that the shortage is about.
    pub fn never_fits(&mut self, composition: CompositionId, component: ComponentId, shortage: Shortage) {
        self.never[usize::from(composition.0)] = Some(Refusal::NeverFits {
            composition: self.shape.compositions[usize::from(composition.0)].name.clone(),
            component: self.shape.components[usize::from(component.0)].name.clone(),
            shortage: Arc::new(shortage),
        });
    }

    /// The host has no room for a set of shards that were to be launched together; none was started.
    pub(super) fn no_room(
        &mut self,
        now_ns: u64,
        set: &[ShardId],
        shortage: &Arc<Shortage>,
        effects: &mut Vec<Effect>,
    ) {
        let known = set.iter().filter_map(|id| self.shards.find(*id));
        let known: Vec<u32> = known.filter(|&at| self.shards.get(at).holders.is_empty()).collect();
        let Some(&first) = known.first() else { return };
        let wanted_by = self.shards.get(first).wanted_by;
        let components: Vec<u16> = known.iter().map(|&at| self.shards.get(at).component).collect();
        let lacking = set.get(shortage.at).and_then(|id| self.shards.find(*id)).unwrap_or(first);
        let component = self.name_of(lacking);
        match wanted_by {
            Some(composition) => {
                let short = Short { components, component, shortage: Arc::clone(shortage) };
                self.short[usize::from(composition)] = Some(short);
            }
            None => components.iter().for_each(|&c| self.shards.stock_mut(c).short = true),
        }
        for at in known {
            self.note(now_ns, at, Deed::NoRoom);
            self.forget_shard(now_ns, at, effects);
        }
        self.make_room(now_ns, effects);
    }

    pub(super) fn is_short(&self, composition: u16) -> bool {
        self.short[usize::from(composition)].is_some()
    }

    /// Whether a request waits for room.
    pub(super) fn somebody_is_short(&self) -> bool {
        let mut queues = self.short.iter().zip(&self.requests.queues);
        queues.any(|(short, queue)| short.is_some() && !queue.is_empty())
    }

    /// Why a composition that is short can't be had.
    pub(super) fn shortage(&self, composition: u16) -> Option<Refusal> {
        let short = self.short[usize::from(composition)].as_ref()?;
        Some(Refusal::Short {
            composition: self.shape.compositions[usize::from(composition)].name.clone(),
            component: short.component.clone(),
            shortage: Arc::clone(&short.shortage),
        })
    }

    /// A shard's part of the host has come back: whoever is short may try again.
    pub(super) fn room_came_back(&mut self) {
        self.short.fill(None);
        self.shards.stocks.iter_mut().for_each(|stock| stock.short = false);
    }

    /// A shard has a place again: a composition that lacked it lacks less.
    pub(super) fn place_came_back(&mut self, component: u16) {
        for &(composition, _) in &self.shape.components[usize::from(component)].compositions {
            let short = &mut self.short[usize::from(composition)];
            if short.as_ref().is_some_and(|short| short.components.contains(&component)) {
                *short = None;
            }
        }
    }

    /// Ends the shards that nobody needs, now, the frozen ones too.
    pub(super) fn make_room(&mut self, now_ns: u64, effects: &mut Vec<Effect>) {
        for component in 0..self.shape.components.len() as u16 {
            while let Some((shard, _)) = self.surplus(component) {
                self.stop(now_ns, shard, Why::Room, effects);
            }
            while let Some(frozen) = self.shards.stock(component).frozen.first() {
                self.stop(now_ns, frozen, Why::Room, effects);
            }
        }
    }
}
