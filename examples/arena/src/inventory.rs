//! What players own, and what it makes of them in a match.
//!
//! Invariant: an item lies in exactly one bag, once, and what is worn lies in the wearer's bag. Every change checks
//! first and acts afterwards, so a refused one has changed nothing.

use crate::auth::TicketKey;
use crate::messages::{Action, ItemId, Loadout, LoadoutReply, LoadoutRequest, PlayerId, Weapon};
use std::collections::BTreeMap;

/// The most items in one bag.
pub const ITEMS_MAX: usize = 32;

/// Where an item is worn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Slot {
    /// In the hand.
    Weapon,
    /// On the body.
    Armour,
    /// On the feet.
    Boots,
}

/// What an item is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Weapon: quick and light.
    Pulse,
    /// Weapon: slow, far and hard.
    Rail,
    /// Weapon: short, bouncing, and it throws people across the room.
    Hammer,
    /// Armour: heavy and tough.
    Plate,
    /// Armour: a little of everything.
    Weave,
    /// Boots: fast.
    Sprinters,
    /// Boots: hard to push.
    Anchors,
}

impl Kind {
    /// Where it is worn.
    pub const fn slot(self) -> Slot {
        match self {
            Kind::Pulse | Kind::Rail | Kind::Hammer => Slot::Weapon,
            Kind::Plate | Kind::Weave => Slot::Armour,
            Kind::Sprinters | Kind::Anchors => Slot::Boots,
        }
    }

    fn apply(self, to: &mut Loadout) {
        let weapon = |cooldown_ticks, range_m, speed_m_s, damage, knockback_n_s, bounces| Weapon {
            cooldown_ticks,
            range_m,
            speed_m_s,
            damage,
            knockback_n_s,
            bounces,
        };
        match self {
            Kind::Pulse => to.weapon = weapon(11, 11.0, 18.0, 13.0, 90.0, 1),
            Kind::Rail => to.weapon = weapon(50, 24.0, 34.0, 50.0, 260.0, 0),
            Kind::Hammer => to.weapon = weapon(28, 8.0, 15.0, 27.0, 520.0, 2),
            Kind::Plate => {
                (to.mass_kg, to.health, to.speed_m_s) = (to.mass_kg + 35.0, 150.0, to.speed_m_s - 0.7)
            }
            Kind::Weave => (to.mass_kg, to.health) = (to.mass_kg + 8.0, 120.0),
            Kind::Sprinters => to.speed_m_s += 1.2,
            Kind::Anchors => to.mass_kg += 30.0,
        }
    }
}

/// Why a change was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InventoryError {
    /// Not in this bag.
    #[error("player {} does not own item {}; choose one of its own", .0.0, .1.0)]
    NotOwned(PlayerId, ItemId),
    /// Worn items stay.
    #[error("item {} is worn; unequip it first", .0.0)]
    Worn(ItemId),
    /// Listed more than once.
    #[error("item {} is listed twice; list it once", .0.0)]
    Twice(ItemId),
    /// To oneself.
    #[error("player {} can't give to itself; name another player", .0.0)]
    ToItself(PlayerId),
    /// Has no bag.
    #[error("player {} has no bag here; it has to log in once", .0.0)]
    Stranger(PlayerId),
    /// No room.
    #[error("the bag of player {} would hold more than {ITEMS_MAX} items; make room first", .0.0)]
    Full(PlayerId),
}

#[derive(Default)]
struct Bag {
    items: BTreeMap<ItemId, Kind>,
    worn: BTreeMap<Slot, ItemId>,
}

/// The bags of one inventory shard.
#[derive(Default)]
pub struct Inventory {
    bags: BTreeMap<PlayerId, Bag>,
    items: u32,
}

impl Inventory {
    /// Answers a request at `now_ms`; a player who is new here gets a [starter](Self::grant_starter) first.
    pub fn answer(&mut self, request: &LoadoutRequest, key: &TicketKey, now_ms: u64) -> LoadoutReply {
        let done = key.check(&request.ticket, now_ms).map_err(|e| e.to_string()).and_then(|player| {
            self.grant_starter(player);
            self.act(player, &request.action).map_err(|e| e.to_string())?;
            Ok(LoadoutReply::Ok { loadout: self.loadout(player), items: self.items(player) })
        });
        done.unwrap_or_else(LoadoutReply::Refused)
    }

    /// Three items for a player who has no bag yet, worn; which ones depends on the player.
    pub fn grant_starter(&mut self, player: PlayerId) {
        if self.bags.contains_key(&player) {
            return;
        }
        let n = player.0 as usize;
        let weapon = [Kind::Pulse, Kind::Rail, Kind::Hammer][n % 3];
        let armour = [Kind::Plate, Kind::Weave][n / 3 % 2];
        let boots = [Kind::Sprinters, Kind::Anchors][n / 2 % 2];
        for kind in [weapon, armour, boots] {
            let granted = self.grant(player, kind).and_then(|item| self.equip(player, item));
            granted.expect("a new bag has room");
        }
    }

    /// A new item for `player`.
    ///
    /// # Errors
    /// If the bag is full.
    pub fn grant(&mut self, player: PlayerId, kind: Kind) -> Result<ItemId, InventoryError> {
        let bag = self.bags.entry(player).or_default();
        if bag.items.len() >= ITEMS_MAX {
            return Err(InventoryError::Full(player));
        }
        self.items += 1;
        bag.items.insert(ItemId(self.items), kind);
        Ok(ItemId(self.items))
    }

    /// Wears `item` in its slot, instead of what is there.
    ///
    /// # Errors
    /// If the player does not own it.
    pub fn equip(&mut self, player: PlayerId, item: ItemId) -> Result<(), InventoryError> {
        let bag = self.bags.get_mut(&player).ok_or(InventoryError::NotOwned(player, item))?;
        let kind = bag.items.get(&item).ok_or(InventoryError::NotOwned(player, item))?;
        bag.worn.insert(kind.slot(), item);
        Ok(())
    }

    /// Takes `item` off; one that is not worn stays so.
    ///
    /// # Errors
    /// If the player does not own it.
    pub fn unequip(&mut self, player: PlayerId, item: ItemId) -> Result<(), InventoryError> {
        let bag = self.bags.get_mut(&player).ok_or(InventoryError::NotOwned(player, item))?;
        let kind = bag.items.get(&item).ok_or(InventoryError::NotOwned(player, item))?;
        if bag.worn.get(&kind.slot()) == Some(&item) {
            bag.worn.remove(&kind.slot());
        }
        Ok(())
    }

    /// Gives `items` away: all of them, or none.
    ///
    /// # Errors
    /// If any is not owned, worn or listed twice, or if the receiver has no bag or no room.
    pub fn transfer(&mut self, from: PlayerId, to: PlayerId, items: &[ItemId]) -> Result<(), InventoryError> {
        if from == to {
            return Err(InventoryError::ToItself(from));
        }
        for (at, &item) in items.iter().enumerate() {
            let bag = self.bags.get(&from).filter(|bag| bag.items.contains_key(&item));
            let bag = bag.ok_or(InventoryError::NotOwned(from, item))?;
            if bag.worn.values().any(|&worn| worn == item) {
                return Err(InventoryError::Worn(item));
            }
            if items[..at].contains(&item) {
                return Err(InventoryError::Twice(item));
            }
        }
        let room = self.bags.get(&to).map(|bag| ITEMS_MAX - bag.items.len());
        if room.ok_or(InventoryError::Stranger(to))? < items.len() {
            return Err(InventoryError::Full(to));
        }
        for item in items {
            let kind = self.bags.get_mut(&from).and_then(|bag| bag.items.remove(item));
            self.bags.get_mut(&to).zip(kind).map(|(bag, kind)| bag.items.insert(*item, kind));
        }
        Ok(())
    }

    /// What the player owns.
    pub fn items(&self, player: PlayerId) -> Vec<ItemId> {
        self.bags.get(&player).map_or_else(Vec::new, |bag| bag.items.keys().copied().collect())
    }

    /// What the player brings to a match.
    pub fn loadout(&self, player: PlayerId) -> Loadout {
        let mut loadout = Loadout::default();
        if let Some(bag) = self.bags.get(&player) {
            bag.worn.values().for_each(|item| bag.items[item].apply(&mut loadout));
        }
        loadout
    }

    fn act(&mut self, player: PlayerId, action: &Action) -> Result<(), InventoryError> {
        match action {
            Action::Show => Ok(()),
            Action::Equip(item) => self.equip(player, *item),
            Action::Unequip(item) => self.unequip(player, *item),
            Action::Transfer { to, items } => self.transfer(player, *to, items),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    impl Inventory {
        fn check(&self) {
            let mut all: Vec<ItemId> = self.bags.values().flat_map(|bag| bag.items.keys().copied()).collect();
            all.sort();
            assert!(
                all.iter().copied().eq((1..=self.items).map(ItemId)),
                "an item is lost or there twice: {all:?}"
            );
            for bag in self.bags.values() {
                assert!(bag.items.len() <= ITEMS_MAX);
                assert!(bag.worn.iter().all(|(slot, item)| bag.items[item].slot() == *slot));
            }
        }
    }

    fn action() -> impl Strategy<Value = (u32, Action)> {
        let item = || (1..70_u32).prop_map(ItemId);
        let transfer = ((1..5_u32).prop_map(PlayerId), prop::collection::vec(item(), 0..4));
        let action = prop_oneof![
            Just(Action::Show),
            item().prop_map(Action::Equip),
            item().prop_map(Action::Unequip),
            transfer.prop_map(|(to, items)| Action::Transfer { to, items }),
        ];
        (1..5_u32, action)
    }

    proptest! {
        #[test]
        fn no_item_is_ever_lost_or_there_twice(actions in prop::collection::vec(action(), 1..200)) {
            let mut inventory = Inventory::default();
            (1..4).for_each(|player| inventory.grant_starter(PlayerId(player)));
            (0..56).for_each(|n| assert!(inventory.grant(PlayerId(1 + n % 2), Kind::Weave).is_ok()));
            for (player, action) in actions {
                let before = inventory.items(PlayerId(player));
                if inventory.act(PlayerId(player), &action).is_err() {
                    prop_assert_eq!(before, inventory.items(PlayerId(player)), "a refused change changed something");
                }
                inventory.check();
            }
        }
    }

    #[test]
    fn a_transfer_moves_all_or_nothing() {
        let (a, b) = (PlayerId(1), PlayerId(2));
        let mut inventory = Inventory::default();
        inventory.grant_starter(a);
        inventory.grant_starter(b);
        let worn = inventory.items(a)[0];
        let spare = inventory.grant(a, Kind::Rail).unwrap();
        assert_eq!(inventory.transfer(a, b, &[spare, worn]), Err(InventoryError::Worn(worn)));
        assert_eq!(inventory.transfer(a, b, &[spare, spare]), Err(InventoryError::Twice(spare)));
        assert_eq!(inventory.transfer(a, a, &[spare]), Err(InventoryError::ToItself(a)));
        assert!(inventory.items(a).contains(&spare));
        assert_eq!(inventory.transfer(a, b, &[spare]), Ok(()));
        assert_eq!(inventory.equip(a, spare), Err(InventoryError::NotOwned(a, spare)));
        assert_eq!(inventory.equip(b, spare), Ok(()));
        assert_eq!(inventory.loadout(b).weapon.range_m, 24.0, "what is worn shows in the loadout");
        inventory.check();
    }

    #[test]
    fn only_a_good_ticket_gets_an_answer() {
        let (key, mut inventory) = (TicketKey::new("key"), Inventory::default());
        let mut ask = |ticket| inventory.answer(&LoadoutRequest { ticket, action: Action::Show }, &key, 0);
        assert!(matches!(ask(key.sign(PlayerId(1), 1)), LoadoutReply::Ok { items, .. } if items.len() == 3));
        assert!(matches!(ask(TicketKey::new("no").sign(PlayerId(1), 1)), LoadoutReply::Refused(_)));
    }
}
