//! The allocator: gives out parts of hosts, and takes them back.
//!
//! Of the hosts that have what is asked for, the fullest gives it: the one whose remaining room is least, each resource
//! weighed by how scarce it has become on all hosts together. So what is left over stays in few large pieces, and hosts
//! become empty again where components come and go. Of unused hosts the largest is opened. It is counted in integers.
//!
//! One NUMA node of a host in use is preferred, then one of an unused host, then several nodes, the nearest to each other.
//!
//! Invariant: what is given is free, what comes back is exactly what was given, and "too little" is said only if it is
//! true. No clock, no I/O, no chance: the same calls give the same grants.

use super::grant::Grant;
use super::inventory::{Inventory, InventoryError};
use super::room::{Choice, Fit, Room, WEIGHED, weighed};
use super::search::{Found, search};
use super::shortage::Shortage;
use shardkit::application::Needs;
use std::cmp::Reverse;

/// What a host has on average, in units.
const UNIT: u64 = 1 << 12;
/// The weight of the scarcest resource.
const WEIGHT: u128 = 1 << 16;

/// See the head of this file.
#[derive(Clone, Debug)]
pub struct Allocator {
    rooms: Vec<Room>,
    /// What all hosts had at first, of the resources that are weighed.
    had: [u128; WEIGHED],
    /// What is left of it.
    left: [u128; WEIGHED],
    /// In such parts room and needs are counted: a [`UNIT`]th of what a host has on average.
    units: [u64; WEIGHED],
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
            had.iter_mut().zip(room.left.weighed()).for_each(|(sum, one)| *sum += u128::from(one));
        }
        let parts = UNIT * rooms.len().max(1) as u64;
        let units = had.map(|had| u64::try_from(had / u128::from(parts)).unwrap_or(u64::MAX).max(1));
        Ok(Self { rooms, had, left: had, units })
    }

    /// Gives what one component needs.
    ///
    /// # Errors
    /// If no host has it.
    pub fn allocate(&mut self, needs: &Needs) -> Result<Grant, Shortage> {
        match self.choose(needs) {
            Some(host) => Ok(self.take(host, needs, None)),
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
            if let Some(host) = self.choose(one) {
                grants.push(self.take(host, one, None));
                continue;
            }
            let mut shortage = Shortage { at: order[at], of: needs.len(), ..self.shortage(one) };
            grants.drain(..).for_each(|grant| self.release(grant));
            match search(&self.rooms, &sorted) {
                Found::All(way) => {
                    let way = sorted.iter().zip(way);
                    grants.extend(way.map(|(needs, (host, choice))| self.take(host, needs, Some(choice))));
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

    fn take(&mut self, host: usize, needs: &Needs, choice: Option<Choice>) -> Grant {
        let weights = self.weights(needs);
        self.on(host, |room| {
            let way = room.way(needs, choice, &weights).expect("the host was found to have it");
            room.take(host, needs, &way)
        })
    }

    /// Changes a host, and keeps the sums.
    fn on<T>(&mut self, host: usize, change: impl FnOnce(&mut Room) -> T) -> T {
        let room = &mut self.rooms[host];
        let before = room.left.weighed();
        let changed = change(room);
        let after = room.left.weighed();
        for (sum, (before, after)) in self.left.iter_mut().zip(before.into_iter().zip(after)) {
            *sum = *sum - u128::from(before) + u128::from(after);
        }
        changed
    }

    fn choose(&self, needs: &Needs) -> Option<usize> {
        let weights = self.weights(needs);
        let mut best: Option<((Fit, bool, u128), usize)> = None;
        for (host, room) in self.rooms.iter().enumerate() {
            let Some(fit) = room.fit(needs) else { continue };
            let unused = room.is_unused();
            if best.is_some_and(|((best_fit, best_unused, _), _)| (best_fit, best_unused) < (fit, unused)) {
                continue;
            }
            let left = self.in_units(room.left.weighed());
            let left: u128 = weights.iter().zip(left).map(|(weight, left)| weight * u128::from(left)).sum();
            // Of unused hosts the largest: so fewer are needed.
            let key = (fit, unused, if unused { u128::MAX - left } else { left });
            if best.is_none_or(|(best, _)| key < best) {
                best = Some((key, host));
            }
        }
        best.map(|(_, host)| host)
    }

    /// The weights of the resources: how much of each would be gone, compared with the one that is scarcest.
    fn weights(&self, needs: &Needs) -> [u128; WEIGHED] {
        let mut gone = weighed(needs).map(u128::from);
        for (at, gone) in gone.iter_mut().enumerate() {
            *gone = ((*gone + self.had[at] - self.left[at]) << 20).checked_div(self.had[at]).unwrap_or(0);
        }
        let most = gone.into_iter().max().unwrap_or(0).max(1);
        gone.map(|gone| gone * WEIGHT / most)
    }

    fn in_units(&self, mut amounts: [u64; WEIGHED]) -> [u64; WEIGHED] {
        for (amount, unit) in amounts.iter_mut().zip(self.units) {
            *amount /= unit;
        }
        amounts
    }

    /// How large needs are: their largest part, in units.
    fn size(&self, needs: &Needs) -> u64 {
        self.in_units(weighed(needs)).into_iter().max().unwrap_or(0)
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
