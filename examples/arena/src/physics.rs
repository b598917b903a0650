//! A match: rapier moves the bodies, this file keeps the rules.
//!
//! Invariant: a match is a function of its seed, its joins and the inputs before each step. Nothing here reads a clock,
//! iterates over a hash map or trusts a number that came in: [`Match::digest`](MatchReport::digest) proves it.

use crate::Vec2;
use crate::auth::{TicketError, TicketKey};
use crate::map::{CORNER, Map};
use crate::messages::*;
use rapier2d::prelude::*;
use serde::{Deserialize, Serialize};
use std::hash::{Hash, Hasher};

/// The radius of a player.
pub const PLAYER_RADIUS_M: f32 = 0.45;
/// The radius of a drum.
pub const DRUM_RADIUS_M: f32 = 0.5;
/// The longest match.
pub const TICKS_MAX: u32 = 3_600 * TICK_HZ;
/// The most shots in flight in one match; beyond it weapons stay silent.
pub const SHOTS_MAX: usize = 256;
/// A player who sends nothing for this long lets go of everything.
pub const INPUT_HOLD_TICKS: u32 = TICK_HZ / 2;
/// What bringing a player down is worth.
pub const FRAG_POINTS: u16 = 5;

const DT_S: f32 = 1.0 / TICK_HZ as f32;
const ACCELERATION_M_S2: f32 = 38.0;
const DASH_M_S: f32 = 11.0;
const DASH_COOLDOWN_TICKS: u32 = 2 * TICK_HZ;
const RESPAWN_TICKS: u32 = 2 * TICK_HZ;
const PICKUP_TICKS: u32 = 9 * TICK_HZ;
const HEART_HEALTH: f32 = 45.0;
const BOT_NAMES: [&str; PLAYERS_MAX] =
    ["vega", "rigel", "lyra", "atria", "mira", "deneb", "altair", "castor"];

/// Embedder to physics, or the manifest's: what kind of match it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MatchConfig {
    /// The seed of the map and of everything else that is left to chance.
    pub seed: u64,
    /// How long it lasts, at most [`TICKS_MAX`].
    pub ticks: u32,
    /// How many play, at most [`PLAYERS_MAX`]; bots take the seats that nobody joined for.
    pub players: usize,
}

impl Default for MatchConfig {
    fn default() -> Self {
        Self { seed: 1, ticks: 30 * TICK_HZ, players: 6 }
    }
}

/// Why a player can't join.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// The ticket is no good.
    #[error(transparent)]
    Ticket(#[from] TicketError),
    /// Too late.
    #[error("the match has started; join another one")]
    Started,
    /// No seat left.
    #[error("all {0} seats are taken; join another match")]
    Full(usize),
    /// Joined before.
    #[error("player {} has a seat already", .0.0)]
    Twice(PlayerId),
    /// Too long a name.
    #[error("the name of player {} has more than {NAME_BYTES_MAX} bytes; take a shorter one", .0.0)]
    Name(PlayerId),
}

struct Fighter {
    seat: Seat,
    body: RigidBodyHandle,
    input: Input,
    /// The tick until which the input holds.
    input_until: u32,
    aim: Vec2,
    health: f32,
    /// The ticks at which it can shoot, dash and be back again.
    shoot_at: u32,
    dash_at: u32,
    down_until: Option<u32>,
    standing: Standing,
}

struct Shot {
    seat: usize,
    at: Vec2,
    velocity: Vec2,
    left_m: f32,
    bounces: u8,
}

struct Pickup {
    at: Point,
    kind: PickupKind,
    ready_at: u32,
}

/// One match, from its first join to its report.
pub struct Match {
    config: MatchConfig,
    map: Map,
    physics: PhysicsWorld,
    fighters: Vec<Fighter>,
    drums: Vec<RigidBodyHandle>,
    shots: Vec<Shot>,
    pickups: Vec<Pickup>,
    tick: u32,
    started: bool,
    digest: Fnv,
}

impl Match {
    /// An empty match on the map of its seed. What is too large in `config` is cut to its maximum.
    pub fn new(config: MatchConfig) -> Self {
        let config = MatchConfig {
            ticks: config.ticks.clamp(1, TICKS_MAX),
            players: config.players.clamp(1, PLAYERS_MAX),
            ..config
        };
        let map = Map::new(config.seed);
        let mut physics = PhysicsWorld { gravity: Vec2::ZERO, ..PhysicsWorld::default() };
        physics.integration_parameters.dt = DT_S;
        build_walls(&mut physics, &map);
        let drum = |p: &Point| {
            let body =
                RigidBodyBuilder::dynamic().translation(p.metres()).linear_damping(2.5).lock_rotations();
            let shape = ColliderBuilder::ball(DRUM_RADIUS_M).density(0.0).mass(60.0).restitution(0.6);
            physics.insert(body, shape).0
        };
        let drums = map.drums.iter().map(drum).collect();
        let kind = |n: usize| if n.is_multiple_of(3) { PickupKind::Heart } else { PickupKind::Star };
        let pickups = map
            .pickups
            .iter()
            .enumerate()
            .map(|(n, &at)| Pickup { at, kind: kind(n / 2), ready_at: 0 })
            .collect();
        let (fighters, shots) = Default::default();
        Self {
            config,
            map,
            physics,
            fighters,
            drums,
            shots,
            pickups,
            tick: 0,
            started: false,
            digest: Fnv::default(),
        }
    }

    /// Gives a player a seat.
    ///
    /// # Errors
    /// If the ticket is no good at `now_ms`, the match has started or is full, or the player is in it already.
    pub fn join(&mut self, join: &Join, key: &TicketKey, now_ms: u64) -> Result<(), JoinError> {
        let player = key.check(&join.ticket, now_ms)?;
        if self.started {
            return Err(JoinError::Started);
        }
        if self.fighters.len() >= self.config.players {
            return Err(JoinError::Full(self.config.players));
        }
        if self.seat_of(player).is_some() {
            return Err(JoinError::Twice(player));
        }
        if join.name.len() > NAME_BYTES_MAX {
            return Err(JoinError::Name(player));
        }
        self.seat(Seat { player, name: join.name.clone(), loadout: bounded(join.loadout) });
        Ok(())
    }

    /// Fills the free seats with bots and begins.
    pub fn start(&mut self) -> Start {
        let mut inventory = crate::inventory::Inventory::default();
        for n in 0..(self.config.players - self.fighters.len()) as u32 {
            let (player, name) = (PlayerId::bot(n), BOT_NAMES[n as usize].to_string());
            inventory.grant_starter(player);
            self.seat(Seat { player, name, loadout: inventory.loadout(player) });
        }
        self.started = true;
        let seats = self.fighters.iter().map(|f| f.seat.clone()).collect();
        Start { seed: self.config.seed, ticks: self.config.ticks, map: self.map.clone(), seats }
    }

    /// Takes an input. It holds until the player's next one, but no longer than [`INPUT_HOLD_TICKS`]. One that is
    /// older than the last, not finite or from nobody in this match is ignored.
    pub fn input(&mut self, input: &Input) {
        let Some(at) = self.seat_of(input.player) else { return };
        let fighter = &mut self.fighters[at];
        let finite = input.direction.iter().chain(&input.aim).all(|x| x.is_finite());
        if finite && input.seq > fighter.input.seq {
            fighter.input = *input;
            fighter.input_until = self.tick + INPUT_HOLD_TICKS;
        }
    }

    /// Whether the match has had all its ticks.
    pub fn is_over(&self) -> bool {
        self.tick >= self.config.ticks
    }

    /// One tick: 1/60 s. What it returns is the world after it.
    pub fn step(&mut self) -> World {
        for at in 0..self.fighters.len() {
            self.respawn(at);
            self.drive(at);
            self.shoot(at);
        }
        self.physics.step();
        self.fly_shots();
        self.collect();
        self.tick += 1;
        let world = self.world();
        world.hash(&mut self.digest);
        world
    }

    /// How the match stands.
    pub fn report(&self) -> MatchReport {
        let mut standings: Vec<Standing> = self.fighters.iter().map(|f| f.standing.clone()).collect();
        standings.sort_by_key(|s| (u16::MAX - s.score, u16::MAX - s.frags, s.deaths, s.seat));
        MatchReport { ticks: self.tick, standings, digest: self.digest.finish() }
    }

    fn seat_of(&self, player: PlayerId) -> Option<usize> {
        self.fighters.iter().position(|f| f.seat.player == player)
    }

    fn seat(&mut self, seat: Seat) {
        let at = self.fighters.len();
        let place = self.map.spawns[at % self.map.spawns.len()].metres();
        let body = RigidBodyBuilder::dynamic().translation(place).lock_rotations().can_sleep(false);
        let shape = ColliderBuilder::ball(PLAYER_RADIUS_M).density(0.0).mass(seat.loadout.mass_kg);
        let shape = shape.friction(0.1).restitution(0.4).user_data(at as u128 + 1);
        let (body, _) = self.physics.insert(body, shape);
        let (direction, aim) = ([0.0; 2], (CORNER / 2.0 - place).normalize());
        let input = Input { player: seat.player, seq: 0, direction, aim: aim.into(), buttons: Buttons(0) };
        let standing = Standing {
            player: seat.player,
            seat: at as u8,
            name: seat.name.clone(),
            score: 0,
            frags: 0,
            deaths: 0,
            shots: 0,
            hits: 0,
            distance_m: 0.0,
        };
        let (health, input_until, shoot_at, dash_at) = (seat.loadout.health, 0, 0, 0);
        let down_until = None;
        let fighter =
            Fighter { seat, body, input, input_until, aim, health, shoot_at, dash_at, down_until, standing };
        self.fighters.push(fighter);
    }

    fn place(&self, at: usize) -> Vec2 {
        self.physics.bodies[self.fighters[at].body].translation()
    }

    /// Brings a player back, where it is loneliest, once its time is over.
    fn respawn(&mut self, at: usize) {
        if self.fighters[at].down_until.is_none_or(|until| self.tick < until) {
            return;
        }
        let others: Vec<Vec2> = (0..self.fighters.len())
            .filter(|&n| self.fighters[n].down_until.is_none())
            .map(|n| self.place(n))
            .collect();
        let loneliness = |p: Vec2| others.iter().map(|o| o.distance(p)).fold(f32::MAX, f32::min);
        let spawns = self.map.spawns.iter().map(|p| p.metres());
        let place =
            spawns.max_by(|a, b| loneliness(*a).total_cmp(&loneliness(*b))).expect("a map has spawns");
        let fighter = &mut self.fighters[at];
        fighter.down_until = None;
        fighter.health = fighter.seat.loadout.health;
        let body = &mut self.physics.bodies[fighter.body];
        body.set_enabled(true);
        body.set_translation(place, true);
        body.set_linvel(Vec2::ZERO, true);
    }

    /// Pushes a player towards the velocity that it wants.
    fn drive(&mut self, at: usize) {
        let fighter = &mut self.fighters[at];
        let body = &mut self.physics.bodies[fighter.body];
        if fighter.down_until.is_some() {
            return;
        }
        let held = self.tick < fighter.input_until;
        let wish = if held { Vec2::from(fighter.input.direction).clamp_length_max(1.0) } else { Vec2::ZERO };
        fighter.aim = Vec2::from(fighter.input.aim).try_normalize().unwrap_or(fighter.aim);
        // A limit on the push, not on the speed: who is hit hard slides before it has a grip again.
        let lack = wish * fighter.seat.loadout.speed_m_s - body.linvel();
        let mut push = lack.clamp_length_max(ACCELERATION_M_S2 * DT_S);
        if held
            && fighter.input.buttons.has(Buttons::DASH)
            && self.tick >= fighter.dash_at
            && wish != Vec2::ZERO
        {
            push += wish.normalize() * DASH_M_S;
            fighter.dash_at = self.tick + DASH_COOLDOWN_TICKS;
        }
        body.apply_impulse(push * body.mass(), true);
        fighter.standing.distance_m += body.linvel().length() * DT_S;
    }

    fn shoot(&mut self, at: usize) {
        let fighter = &mut self.fighters[at];
        let pulled = self.tick < fighter.input_until && fighter.input.buttons.has(Buttons::FIRE);
        let able =
            fighter.down_until.is_none() && self.tick >= fighter.shoot_at && self.shots.len() < SHOTS_MAX;
        if !(pulled && able) {
            return;
        }
        let weapon = fighter.seat.loadout.weapon;
        fighter.shoot_at = self.tick + u32::from(weapon.cooldown_ticks);
        fighter.standing.shots += 1;
        let body = &mut self.physics.bodies[fighter.body];
        let velocity = fighter.aim * weapon.speed_m_s + body.linvel() * 0.25;
        body.apply_impulse(-fighter.aim * weapon.knockback_n_s * 0.2, true);
        let at = body.translation();
        let seat = fighter.standing.seat.into();
        self.shots.push(Shot { seat, at, velocity, left_m: weapon.range_m, bounces: weapon.bounces });
    }

    /// Moves the shots along rays, so that none is too fast to hit.
    fn fly_shots(&mut self) {
        let mut shots = std::mem::take(&mut self.shots);
        shots.retain_mut(|shot| self.fly(shot));
        self.shots = shots;
    }

    /// Whether the shot flies on.
    fn fly(&mut self, shot: &mut Shot) -> bool {
        let own = self.fighters[shot.seat].body;
        let ray = Ray::new(shot.at, shot.velocity);
        let filter = QueryFilter::new().exclude_rigid_body(own);
        let Some((collider, hit)) = self.physics.cast_ray_and_get_normal(&ray, DT_S, true, filter) else {
            shot.at += shot.velocity * DT_S;
            shot.left_m -= shot.velocity.length() * DT_S;
            return shot.left_m > 0.0;
        };
        let collider = &self.physics.colliders[collider];
        let (target, body) = (collider.user_data as usize, collider.parent());
        let knock = shot.velocity.normalize() * self.fighters[shot.seat].seat.loadout.weapon.knockback_n_s;
        let body = body.and_then(|body| self.physics.bodies.get_mut(body));
        if let Some(body) = body {
            body.apply_impulse(knock, true);
        } else if shot.bounces > 0 {
            shot.bounces -= 1;
            // A hair off the wall, or the next ray would start inside it.
            shot.at += shot.velocity * hit.time_of_impact + hit.normal * 0.01;
            shot.velocity -= 2.0 * shot.velocity.dot(hit.normal) * hit.normal;
            return true;
        }
        if let Some(target) = target.checked_sub(1) {
            self.hurt(shot.seat, target);
        }
        false
    }

    fn hurt(&mut self, by: usize, target: usize) {
        let damage = self.fighters[by].seat.loadout.weapon.damage;
        self.fighters[by].standing.hits += 1;
        let fighter = &mut self.fighters[target];
        fighter.health -= damage;
        if fighter.health > 0.0 || fighter.down_until.is_some() {
            return;
        }
        fighter.down_until = Some(self.tick + RESPAWN_TICKS);
        fighter.standing.deaths += 1;
        self.physics.bodies[fighter.body].set_enabled(false);
        let winner = &mut self.fighters[by].standing;
        winner.frags += 1;
        winner.score = winner.score.saturating_add(FRAG_POINTS);
    }

    fn collect(&mut self) {
        for at in 0..self.fighters.len() {
            let place = self.place(at);
            let fighter = &mut self.fighters[at];
            for pickup in &mut self.pickups {
                let near = pickup.at.metres().distance(place) < PLAYER_RADIUS_M + 0.5;
                if !near || fighter.down_until.is_some() || self.tick < pickup.ready_at {
                    continue;
                }
                pickup.ready_at = self.tick + PICKUP_TICKS;
                match pickup.kind {
                    PickupKind::Heart => {
                        fighter.health = (fighter.health + HEART_HEALTH).min(fighter.seat.loadout.health);
                    }
                    PickupKind::Star => fighter.standing.score = fighter.standing.score.saturating_add(1),
                }
            }
        }
    }

    fn world(&self) -> World {
        let player = |f: &Fighter| {
            let body = &self.physics.bodies[f.body];
            let percent = (100.0 * f.health / f.seat.loadout.health).ceil() as u8;
            PlayerView {
                player: f.seat.player,
                at: Point::new(body.translation()),
                velocity: Point::new(body.linvel()),
                aim: Heading::new(f.aim),
                health: if f.down_until.is_some() { 0 } else { percent },
                dash_ready: self.tick >= f.dash_at,
                score: f.standing.score,
            }
        };
        let shot = |s: &Shot| ShotView {
            seat: s.seat as u8,
            at: Point::new(s.at),
            velocity: Point::new(s.velocity),
        };
        let ready = self.pickups.iter().filter(|p| self.tick >= p.ready_at);
        World {
            tick: self.tick,
            players: self.fighters.iter().map(player).collect(),
            shots: self.shots.iter().map(shot).collect(),
            drums: self.drums.iter().map(|d| Point::new(self.physics.bodies[*d].translation())).collect(),
            pickups: ready.map(|p| PickupView { at: p.at, kind: p.kind }).collect(),
        }
    }
}

fn build_walls(physics: &mut PhysicsWorld, map: &Map) {
    let mut solid = |centre: Vec2, half: Vec2| {
        let shape =
            ColliderBuilder::cuboid(half.x, half.y).translation(centre).friction(0.1).restitution(0.4);
        physics.insert_collider(shape, None);
    };
    let (middle, thick) = (CORNER / 2.0, 1.0);
    for side in [-1.0, 1.0] {
        solid(middle + Vec2::new(side * (middle.x + thick), 0.0), Vec2::new(thick, middle.y + 2.0 * thick));
        solid(middle + Vec2::new(0.0, side * (middle.y + thick)), Vec2::new(middle.x + 2.0 * thick, thick));
    }
    map.blocks.iter().for_each(|b| solid(b.centre.metres(), b.half.metres()));
}

/// A loadout comes from outside: no number in it may break the match.
fn bounded(loadout: Loadout) -> Loadout {
    let within = |x: f32, least: f32, most: f32| if x.is_finite() { x.clamp(least, most) } else { least };
    let weapon = loadout.weapon;
    Loadout {
        speed_m_s: within(loadout.speed_m_s, 1.0, 10.0),
        mass_kg: within(loadout.mass_kg, 40.0, 200.0),
        health: within(loadout.health, 1.0, 500.0),
        weapon: Weapon {
            cooldown_ticks: weapon.cooldown_ticks.max(4),
            range_m: within(weapon.range_m, 1.0, 40.0),
            speed_m_s: within(weapon.speed_m_s, 5.0, 60.0),
            damage: within(weapon.damage, 0.0, 200.0),
            knockback_n_s: within(weapon.knockback_n_s, 0.0, 1_000.0),
            bounces: weapon.bounces.min(4),
        },
    }
}

/// FNV-1a: the same in every release, which the standard library's hasher does not promise.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Fnv(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for Fnv {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ai::Squad;
    use zerocopy::{FromBytes, IntoBytes};

    fn joined(loadout: Loadout) -> (Match, Start) {
        let key = TicketKey::new("key");
        let mut game = Match::new(MatchConfig { players: 2, ..MatchConfig::default() });
        for player in [PlayerId(1), PlayerId(2)] {
            let join = Join { ticket: key.sign(player, 1), name: "x".into(), loadout };
            game.join(&join, &key, 0).unwrap();
            assert_eq!(
                game.join(&join, &key, 0).unwrap_err(),
                if player.0 == 1 { JoinError::Twice(player) } else { JoinError::Full(2) }
            );
        }
        let start = game.start();
        (game, start)
    }

    fn input(player: u32, seq: u32, direction: [f32; 2], buttons: Buttons) -> Input {
        Input { player: PlayerId(player), seq, direction, aim: [1.0, 0.0], buttons }
    }

    #[test]
    fn the_same_seed_and_inputs_make_the_same_match() {
        let play = |seed| {
            let mut game = Match::new(MatchConfig { seed, ticks: 600, players: 8 });
            let mut squad = Squad::new(&game.start());
            while !game.is_over() {
                let world = game.step();
                squad.think(&world).inputs.iter().for_each(|input| game.input(input));
            }
            game.report()
        };
        assert_eq!(play(7), play(7));
        assert_ne!(play(7).digest, play(8).digest);
    }

    #[test]
    fn an_input_is_its_own_bytes() {
        let input = input(3, 9, [0.5, -1.0], Buttons::FIRE.with(Buttons::DASH, true));
        assert_eq!(input.as_bytes().len(), 28);
        assert_eq!(Input::read_from_bytes(input.as_bytes()).unwrap(), input);
    }

    #[test]
    fn no_input_can_break_the_world() {
        let nan = f32::NAN;
        let wild = Loadout { speed_m_s: nan, mass_kg: -1.0, health: f32::INFINITY, ..Loadout::default() };
        let (mut game, _) = joined(wild);
        for seq in 1..200 {
            game.input(&input(1, seq, [nan, f32::INFINITY], Buttons(!0)));
            game.input(&Input { aim: [0.0; 2], ..input(2, seq, [1e30, -1e30], Buttons(!0)) });
            game.input(&input(99, seq, [1.0, 0.0], Buttons(0)));
            for player in game.step().players {
                let at = player.at.metres();
                // A place that is no number would show as 0.
                assert!(at.cmpge(Vec2::splat(0.3)).all() && at.cmple(CORNER - 0.3).all(), "{player:?}");
            }
        }
        let moves = (200..260).any(|seq| {
            game.input(&input(1, seq, [0.0, 1.0], Buttons(0)));
            game.step().players[0].velocity.y_cm > 80
        });
        assert!(moves, "player 1 still answers to good inputs");
    }

    #[test]
    fn an_input_holds_for_a_while_and_an_older_one_is_ignored() {
        let (mut game, start) = joined(Loadout::default());
        game.input(&input(1, 2, [1.0, 0.0], Buttons(0)));
        game.input(&input(1, 1, [-1.0, 0.0], Buttons(0)));
        let moved = (0..20).map(|_| game.step()).last().unwrap().players[0];
        assert!(moved.at.x_cm > start.map.spawns[0].x_cm + 80 && moved.velocity.x_cm > 500, "{moved:?}");
        let stopped = (0..60).map(|_| game.step()).last().unwrap().players[0];
        assert!(stopped.velocity.x_cm.abs() < 5, "{stopped:?}");
    }

    #[test]
    fn hits_hurt_push_and_score_and_the_fallen_come_back() {
        let (mut game, _) = joined(Loadout::default());
        for (n, x) in [(0, 2.0), (1, 4.5)] {
            game.physics.bodies[game.fighters[n].body].set_translation(Vec2::new(x, 18.0), true);
        }
        let (mut fell, mut pushed) = (None, false);
        for seq in 1..400 {
            game.input(&input(1, seq, [0.0; 2], Buttons::FIRE.with(Buttons(0), seq < 300)));
            let world = game.step();
            pushed |= world.players[1].velocity.x_cm > 50;
            if fell.is_none() && world.players[1].health == 0 {
                fell = Some((seq, world.players[0].score));
            }
        }
        assert!(pushed, "a hit pushes");
        assert_eq!(fell.expect("someone falls").1, FRAG_POINTS);
        assert_eq!(game.world().players[1].health, 100, "and comes back whole");
        assert_eq!(game.report().standings[0].player, PlayerId(1));
    }
}
