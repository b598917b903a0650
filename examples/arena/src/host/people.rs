//! The people, played by a script: slower than the bots, and they believe what they saw a moment ago.
//!
//! Invariant: a person knows no more than a player's own program would: the start, and the worlds it was sent.

use arena::Vec2;
use arena::ai::{Grid, lead};
use arena::messages::*;

/// Ticks between two looks at the field.
const LOOK_TICKS: u32 = 6;
/// Ticks between two decisions where to go.
const DECIDE_TICKS: u32 = 24;

/// One person at the keys.
pub(super) struct Person {
    seat: usize,
    player: PlayerId,
    weapon: Weapon,
    seq: u32,
    /// The enemy as last seen: where from here, how fast, and whether a shot could hit.
    enemy: Option<Sight>,
    path: Vec<Vec2>,
}

struct Sight {
    at: Vec2,
    velocity: Vec2,
    clear: bool,
}

impl Person {
    /// Everybody in `start` who is no bot.
    pub(super) fn all(start: &Start) -> Vec<Person> {
        let people = start.seats.iter().enumerate().filter(|(_, seat)| !seat.player.is_bot());
        people
            .map(|(at, seat)| Person {
                seat: at,
                player: seat.player,
                weapon: seat.loadout.weapon,
                seq: 0,
                enemy: None,
                path: Vec::new(),
            })
            .collect()
    }

    /// What it presses when it is shown this world.
    pub(super) fn act(&mut self, world: &World, grid: &Grid, map: &arena::map::Map) -> Option<Input> {
        let me = world.players.get(self.seat)?;
        let here = me.at.metres();
        let turn = world.tick + 7 * self.seat as u32;
        if turn.is_multiple_of(LOOK_TICKS) {
            self.look(world, here, map);
        }
        if turn.is_multiple_of(DECIDE_TICKS) {
            self.path = grid.path(here, self.goal(world, here));
        }
        let (mut direction, mut aim, mut fire) = (self.walk(here), me.velocity.metres(), false);
        if let Some(enemy) = &self.enemy {
            // A hand is never quite still.
            let sway = (world.tick as f32 * 0.13 + self.seat as f32).sin() * 0.06;
            let shot = lead(enemy.at - here, enemy.velocity, self.weapon.speed_m_s);
            aim = shot + shot.perp() * sway;
            fire = enemy.clear;
            if fire && me.health > 35 {
                let side = if (turn / 50).is_multiple_of(2) { 1.0 } else { -1.0 };
                let near_m = self.weapon.range_m.min(10.0) * 0.5;
                let close = (enemy.at.distance(here) - near_m).clamp(-1.0, 1.0);
                direction = shot.perp() * side + shot * close;
            }
        }
        self.seq += 1;
        let dash = me.health < 60 && me.dash_ready && fire;
        let buttons = Buttons(0).with(Buttons::FIRE, fire).with(Buttons::DASH, dash);
        let aim = if aim == Vec2::ZERO { Vec2::X } else { aim };
        Some(Input {
            player: self.player,
            seq: self.seq,
            direction: direction.into(),
            aim: aim.into(),
            buttons,
        })
    }

    /// Finds the nearest enemy, those in sight first.
    fn look(&mut self, world: &World, here: Vec2, map: &arena::map::Map) {
        let others = world.players.iter().enumerate().filter(|(n, p)| *n != self.seat && p.health > 0);
        let sights = others.map(|(_, other)| {
            let at = other.at.metres();
            let clear = at.distance(here) < self.weapon.range_m * 0.9 && map.sees(here, at, 0.1);
            Sight { at, velocity: other.velocity.metres().clamp_length_max(12.0), clear }
        });
        let far = |s: &Sight| s.at.distance(here) + if s.clear { 0.0 } else { 100.0 };
        self.enemy = sights.min_by(|a, b| far(a).total_cmp(&far(b)));
    }

    /// A heart if it hurts, a star if one is near, or else the enemy.
    fn goal(&self, world: &World, here: Vec2) -> Vec2 {
        let hurt = world.players[self.seat].health < 45;
        let wanted = if hurt { PickupKind::Heart } else { PickupKind::Star };
        let places = world.pickups.iter().filter(|p| p.kind == wanted).map(|p| p.at.metres());
        let near = places.min_by(|a, b| a.distance(here).total_cmp(&b.distance(here)));
        let near = near.filter(|p| hurt || p.distance(here) < 12.0);
        near.or(self.enemy.as_ref().map(|e| e.at)).unwrap_or(arena::map::CORNER / 2.0)
    }

    fn walk(&mut self, here: Vec2) -> Vec2 {
        while self.path.last().is_some_and(|place| place.distance(here) < 0.6) {
            self.path.pop();
        }
        self.path.last().map_or(Vec2::ZERO, |place| (*place - here).normalize_or_zero())
    }
}
