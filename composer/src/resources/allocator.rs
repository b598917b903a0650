//! The allocator: gives out parts of hosts, and takes them back.
//!
//! Of the places that have what is asked for, the fullest gives it, unless it suits the needs badly (`weigh`): so what is
//! left over stays in few large pieces that can be used, and hosts become empty again where components come and go. Of
//! unused hosts the largest is opened.
//!
//! One NUMA node of a host in use is preferred, then one of an unused host, then several nodes, the nearest to each other;
//! with its devices near, before any that suits better.
//!
//! Invariant: what is given is free, what comes back is exactly what was given, and "too little" is said only if it is
//! true. No clock, no I/O, no chance: the same calls give the same grants.

use super::grant::Grant;
use super::inventory::{Inventory, InventoryError};
use super::room::{Choice, Fit, Room, WEIGHED, Way, weighed};
use super::search::{Found, search};
use super::shortage::Shortage;
use super::weigh::{Units, Weights};
use shardkit::application::Needs;
use std::cmp::Reverse;

/// What goes before: how it fits, whether the host is unused, how far devices are, how badly it suits.
type Order = (Fit, bool, u32, u128);

/// See the head of this file.
#[derive(Clone, Debug)]
pub struct Allocator {
    rooms: Vec<Room>,
    /// What all hosts had at first, of the resources that are weighed; what those had that are in use; what is gone.
    had: [u128; WEIGHED],
    had_in_use: [u128; WEIGHED],
    gone: [u128; WEIGHED],
    /// In such parts room and needs are counted.
    units: Units,
}

impl Allocator {
    /// Gives out these hosts.
    ///
    /// # Errors
    /// If an inventory contradicts itself.
    pub fn new(hosts: Vec<Inventory>) -> Result<Self, InventoryError> {
        hosts.iter().try_for_each(Inventory::check)?;
        let rooms: Vec<Room> = hosts.iter().map(Room::new).collect();
        let mut had = [0; WEIGHED];
        for room in &rooms {
            had.iter_mut().zip(room.had).for_each(|(sum, one)| *sum += u128::from(one));
        }
        let units = Units::new(&had, rooms.len());
        Ok(Self { rooms, had, had_in_use: [0; WEIGHED], gone: [0; WEIGHED], units })
    }

    /// Gives what one component needs.
    ///
    /// # Errors
    /// If no host has it.
    pub fn allocate(&mut self, needs: &Needs) -> Result<Grant, Shortage> {
        match self.choose(needs) {
            Some((host, way)) => Ok(self.take(host, needs, &way)),
            None => Err(self.shortage(needs)),
        }
    }

    /// Gives what several components need together, in their order, or nothing.
    ///
    /// The largest are placed first. If that leaves one over, another way is searched, for a bounded number of steps.
    ///
    /// # Errors
    /// If not all can be had.
    pub fn allocate_all(&mut self, needs: &[Needs]) -> Result<Vec<Grant>, Shortage> {
        // Those with processors of their own first: shares fit wherever anything is left.
        let mut order: Vec<usize> = (0..needs.len()).collect();
        order.sort_by_cached_key(|&at| (needs[at].cores == 0, Reverse(self.size(&needs[at]))));
        let sorted: Vec<&Needs> = order.iter().map(|&at| &needs[at]).collect();
        let mut grants: Vec<Grant> = Vec::with_capacity(needs.len());
        for (at, one) in sorted.iter().enumerate() {
            if let Some((host, way)) = self.choose(one) {
                grants.push(self.take(host, one, &way));
                continue;
            }
            let mut shortage = Shortage { at: order[at], of: needs.len(), ..self.shortage(one) };
            grants.drain(..).for_each(|grant| self.release(grant));
            match search(&self.rooms, &sorted) {
                Found::All(way) => {
                    // The sums suffice if all processors are taken before any share.
                    for (needs, (host, choice)) in sorted.iter().zip(way) {
                        let needs = Needs { share_millicores: 0, ..**needs };
                        grants.push(self.take_choice(host, &needs, choice));
                    }
                    for (grant, needs) in grants.iter_mut().zip(&sorted) {
                        self.on(grant.host, |room| room.add_share(grant, needs.share_millicores.into()));
                    }
                    break;
                }
                found => {
                    shortage.proved = matches!(found, Found::None);
                    return Err(shortage);
                }
            }
        }
        let mut in_order: Vec<(usize, Grant)> = order.into_iter().zip(grants).collect();
        in_order.sort_by_key(|(at, _)| *at);
        Ok(in_order.into_iter().map(|(_, grant)| grant).collect())
    }

    /// Takes back what was given.
    ///
    /// # Panics
    /// If another allocator gave it, and this one notices.
    pub fn release(&mut self, grant: Grant) {
        let host = grant.host;
        self.on(host, |room| room.give_back(grant));
    }

    /// How many more with these needs fit; `None` if nothing that they need is short. Of needs that ask for both
    /// processors and a share it may be fewer.
    pub fn room(&self, needs: &Needs) -> Option<u64> {
        let count = self.rooms.iter().map(|room| room.count(needs)).fold(0, u64::saturating_add);
        (count < u64::MAX).then_some(count)
    }

    /// The processors of a host that nobody has for itself; those of the grant's nodes alone, if there are any.
    pub fn shared_near(&self, grant: &Grant) -> Vec<u32> {
        let near = |node: usize| grant.parts.iter().any(|part| part.node == node);
        let shared = || self.rooms[grant.host].shared();
        let here: Vec<u32> = shared().filter(|(node, _)| near(*node)).map(|(_, id)| id).collect();
        if here.is_empty() { shared().map(|(_, id)| id).collect() } else { here }
    }

    /// The processors of a host that nobody has for itself. Never empty.
    pub fn shared(&self, host: usize) -> Vec<u32> {
        self.rooms[host].shared().map(|(_, id)| id).collect()
    }

    /// How many hosts somebody has something of.
    pub fn hosts_in_use(&self) -> usize {
        self.rooms.iter().filter(|room| !room.is_unused()).count()
    }

    fn take(&mut self, host: usize, needs: &Needs, way: &Way) -> Grant {
        self.on(host, |room| room.take(host, needs, way))
    }

    fn take_choice(&mut self, host: usize, needs: &Needs, choice: Choice) -> Grant {
        let way = self.rooms[host].way(needs, Some(choice), &self.weights(needs));
        self.take(host, needs, &way.expect("the host was found to have it"))
    }

    /// Changes a host, and keeps the sums.
    fn on<T>(&mut self, host: usize, change: impl FnOnce(&mut Room) -> T) -> T {
        let room = &mut self.rooms[host];
        let (left, was_unused) = (room.left.weighed(), room.is_unused());
        let changed = change(room);
        for (at, (before, after)) in left.into_iter().zip(room.left.weighed()).enumerate() {
            self.gone[at] = self.gone[at] + u128::from(before) - u128::from(after);
            let had = u128::from(room.had[at]);
            match (was_unused, room.is_unused()) {
                (true, false) => self.had_in_use[at] += had,
                (false, true) => self.had_in_use[at] -= had,
                _ => {}
            }
        }
        changed
    }

    /// The host that is to give it, and where on it.
    fn choose(&self, needs: &Needs) -> Option<(usize, Way)> {
        let weights = self.weights(needs);
        let mut best: Option<(Order, usize, Way)> = None;
        for (host, room) in self.rooms.iter().enumerate() {
            let unused = room.is_unused();
            // Of unused hosts the largest: so fewer are needed.
            let largest = unused.then(|| u128::from(u64::MAX - weights.left(room.left.weighed())));
            let at_best = (Fit::OneNode, unused, 0, largest.unwrap_or(0));
            if best.is_some_and(|(best, ..)| best <= at_best) {
                continue;
            }
            let Some(way) = room.way(needs, None, &weights) else { continue };
            let key = (way.fit, unused, way.far, largest.unwrap_or(way.misfit));
            if best.is_none_or(|(best, ..)| key < best) {
                best = Some((key, host, way));
            }
        }
        best.map(|(_, host, way)| (host, way))
    }

    fn weights(&self, needs: &Needs) -> Weights<'_> {
        // What unused hosts have too much of is not why those in use are full.
        let none = self.had_in_use == [0; WEIGHED];
        let had = if none { &self.had } else { &self.had_in_use };
        Weights::new(&self.units, needs, had, &self.gone)
    }

    /// How large needs are: their largest part, in units.
    fn size(&self, needs: &Needs) -> u64 {
        self.units.count(weighed(needs)).into_iter().max().unwrap_or(0)
    }

    fn shortage(&self, needs: &Needs) -> Shortage {
        let short = self.rooms.iter().map(|room| (room, room.missing(needs)));
        let nearest = short.min_by_key(|(_, missing)| {
            // The fewest resources, then the largest part of them that is there.
            let part = |free: u64, needed: u64| u128::from(free) * 1000 / u128::from(needed.max(1));
            let there = missing.iter().map(|missing| part(missing.free, missing.needed)).min();
            (missing.len(), Reverse(there))
        });
        let (host, missing) = nearest.map(|(room, missing)| (room.name.clone(), missing)).unwrap_or_default();
        Shortage { at: 0, of: 1, host, missing, proved: true }
    }
}
