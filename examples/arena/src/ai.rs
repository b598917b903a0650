//! The bots: they see what everyone sees, a [`World`], and press the same buttons.
//!
//! Invariant: what a squad does follows from its [`Start`] and the worlds it was shown, in their order. A bot's errors
//! of aim come from the match's seed.

use crate::Vec2;
use crate::map::{HEIGHT_M, Map, WIDTH_M};
use crate::messages::*;
use crate::physics::PLAYER_RADIUS_M;
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// The side of a cell of the grid on which bots find their way.
pub const CELL_M: f32 = 0.5;
/// How far bots keep from blocks and walls.
const MARGIN_M: f32 = PLAYER_RADIUS_M + 0.1;
/// Ticks between two looks at the map; the bots take turns.
const PLAN_TICKS: u32 = 16;
const COLUMNS: usize = (WIDTH_M / CELL_M) as usize;
const ROWS: usize = (HEIGHT_M / CELL_M) as usize;

/// The grid on which bots find their way around blocks.
pub struct Grid {
    map: Map,
    free: Vec<bool>,
}

impl Grid {
    /// The grid of `map`.
    pub fn new(map: &Map) -> Self {
        let free = (0..COLUMNS * ROWS).map(|cell| map.is_free(centre(cell), MARGIN_M)).collect();
        Self { map: map.clone(), free }
    }

    /// Whether a player can walk straight from one place to the other.
    pub fn walks(&self, from: Vec2, to: Vec2) -> bool {
        self.map.sees(from, to, MARGIN_M - 0.05)
    }

    /// The places to walk through from `from` to `to`, the last one first; empty if there is no way. A* on eight
    /// neighbours, no cutting of corners.
    pub fn path(&self, from: Vec2, to: Vec2) -> Vec<Vec2> {
        let (Some(first), Some(last)) = (self.nearest_free(from), self.nearest_free(to)) else {
            return Vec::new();
        };
        let mut cost = vec![u32::MAX; self.free.len()];
        let mut before = vec![first; self.free.len()];
        let mut open = BinaryHeap::from([(Reverse(distance(first, last)), first)]);
        cost[first] = 0;
        while let Some((_, cell)) = open.pop() {
            if cell == last {
                break;
            }
            for (next, step) in self.neighbours(cell) {
                let new = cost[cell] + step;
                if new < cost[next] {
                    cost[next] = new;
                    before[next] = cell;
                    open.push((Reverse(new + distance(next, last)), next));
                }
            }
        }
        if cost[last] == u32::MAX {
            return Vec::new();
        }
        let back = std::iter::successors(Some(last), |&cell| (cell != first).then(|| before[cell]));
        std::iter::once(to).chain(back.map(centre)).collect()
    }

    fn nearest_free(&self, place: Vec2) -> Option<usize> {
        let cell = cell(place);
        if self.free[cell] {
            return Some(cell);
        }
        let free = (0..self.free.len()).filter(|&c| self.free[c]);
        free.min_by(|a, b| centre(*a).distance_squared(place).total_cmp(&centre(*b).distance_squared(place)))
    }

    fn neighbours(&self, cell: usize) -> impl Iterator<Item = (usize, u32)> {
        const STEPS: [(isize, isize); 8] =
            [(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1)];
        let (x, y) = ((cell % COLUMNS) as isize, (cell / COLUMNS) as isize);
        let free = move |x: isize, y: isize| {
            let inside = (0..COLUMNS as isize).contains(&x) && (0..ROWS as isize).contains(&y);
            inside && self.free[y as usize * COLUMNS + x as usize]
        };
        STEPS
            .into_iter()
            .filter(move |&(dx, dy)| free(x + dx, y + dy) && free(x + dx, y) && free(x, y + dy))
            .map(move |(dx, dy)| {
                let step = if dx != 0 && dy != 0 { 14 } else { 10 };
                ((y + dy) as usize * COLUMNS + (x + dx) as usize, step)
            })
    }
}

fn cell(place: Vec2) -> usize {
    let (x, y) = ((place.x / CELL_M).max(0.0) as usize, (place.y / CELL_M).max(0.0) as usize);
    y.min(ROWS - 1) * COLUMNS + x.min(COLUMNS - 1)
}

fn centre(cell: usize) -> Vec2 {
    Vec2::new((cell % COLUMNS) as f32 + 0.5, (cell / COLUMNS) as f32 + 0.5) * CELL_M
}

/// The length of the shortest way on an empty grid, where a straight step is 10 and a diagonal one 14.
fn distance(a: usize, b: usize) -> u32 {
    let (dx, dy) = ((a % COLUMNS).abs_diff(b % COLUMNS), (a / COLUMNS).abs_diff(b / COLUMNS));
    (10 * dx.max(dy) + 4 * dx.min(dy)) as u32
}

/// Where to aim to hit, with a shot of `speed_m_s`, what is at `offset` and moves with `velocity`.
pub fn lead(offset: Vec2, velocity: Vec2, speed_m_s: f32) -> Vec2 {
    // |offset + velocity t| = speed t, solved for the earliest t after now.
    let a = speed_m_s * speed_m_s - velocity.length_squared();
    let b = offset.dot(velocity);
    let root = (b * b + a * offset.length_squared()).max(0.0).sqrt();
    let time_s = if a > 0.0 { (b + root) / a } else { 0.0 };
    (offset + velocity * time_s).normalize_or(Vec2::X)
}

struct Bot {
    seat: usize,
    seq: u32,
    rng: StdRng,
    enemy: Option<usize>,
    /// What is left of the way to the goal, the next place last.
    path: Vec<Vec2>,
    /// Which way round it circles its enemy: 1 or -1.
    side: f32,
    aim_error: f32,
    /// Where it was when it last looked at the map.
    seen_at: Vec2,
}

/// The bots of one match.
pub struct Squad {
    grid: Grid,
    seats: Vec<Seat>,
    bots: Vec<Bot>,
}

impl Squad {
    /// The bots among the seats of `start`.
    pub fn new(start: &Start) -> Self {
        let bot = |seat: usize| Bot {
            seat,
            seq: 0,
            rng: StdRng::seed_from_u64(start.seed ^ (seat as u64 + 1) << 32),
            enemy: None,
            path: Vec::new(),
            side: 1.0,
            aim_error: 0.0,
            seen_at: Vec2::ZERO,
        };
        let bots =
            (0..start.seats.len()).filter(|&seat| start.seats[seat].player.is_bot()).map(bot).collect();
        Self { grid: Grid::new(&start.map), seats: start.seats.clone(), bots }
    }

    /// Whether there is nobody to think for.
    pub fn is_empty(&self) -> bool {
        self.bots.is_empty()
    }

    /// What the bots do about `world`. One that has not all the players of the match gets no inputs.
    pub fn think(&mut self, world: &World) -> BotInputs {
        let bots = if world.players.len() == self.seats.len() { self.bots.as_mut_slice() } else { &mut [] };
        let inputs = bots.iter_mut().map(|bot| bot.think(world, &self.grid, &self.seats)).collect();
        BotInputs { tick: world.tick, inputs }
    }
}

impl Bot {
    fn think(&mut self, world: &World, grid: &Grid, seats: &[Seat]) -> Input {
        let me = &world.players[self.seat];
        let (here, weapon) = (me.at.metres(), seats[self.seat].loadout.weapon);
        if (world.tick + 5 * self.seat as u32).is_multiple_of(PLAN_TICKS) {
            self.plan(world, grid, here);
        }
        let enemy = self.enemy.map(|n| &world.players[n]).filter(|e| e.health > 0);
        let (mut direction, mut aim, mut fire) = (self.follow(grid, here), me.aim.unit(), false);
        if let Some(enemy) = enemy {
            let offset = enemy.at.metres() - here;
            let velocity = (enemy.velocity.metres() - me.velocity.metres() * 0.25).clamp_length_max(12.0);
            aim = lead(offset, velocity, weapon.speed_m_s);
            aim = (aim + aim.perp() * self.aim_error).normalize();
            let near = offset.length() < weapon.range_m * 0.95;
            fire = near && grid.map.sees(here, here + offset, 0.1);
            if fire && me.health > 30 {
                direction = self.circle(grid, here, offset, weapon.range_m);
            }
        }
        let dodge = dodge(world, self.seat, here);
        let direction = dodge.unwrap_or(direction);
        self.seq += 1;
        let buttons =
            Buttons(0).with(Buttons::FIRE, fire).with(Buttons::DASH, dodge.is_some() && me.dash_ready);
        Input { player: me.player, seq: self.seq, direction: direction.into(), aim: aim.into(), buttons }
    }

    /// Chooses an enemy and a goal, and the way there.
    fn plan(&mut self, world: &World, grid: &Grid, here: Vec2) {
        let me = &world.players[self.seat];
        self.aim_error = self.rng.random_range(-0.11..0.11);
        if self.rng.random_ratio(1, 4) {
            self.side = -self.side;
        }
        // Near is good, wounded is better, and the leader is worth a walk.
        let worth = |n: usize| {
            let other = &world.players[n];
            let lead = f32::from(other.score) - f32::from(me.score);
            let loyal = if self.enemy == Some(n) { 2.0 } else { 0.0 };
            loyal + lead.max(0.0) * 0.15 - other.at.metres().distance(here) - f32::from(other.health) * 0.05
        };
        let others = (0..world.players.len()).filter(|&n| n != self.seat && world.players[n].health > 0);
        self.enemy = others.max_by(|&a, &b| worth(a).total_cmp(&worth(b)));
        let prey = self.enemy.map(|n| world.players[n].at.metres());
        let goal = if me.health < 40 { nearest(world, here, PickupKind::Heart) } else { None };
        let star = nearest(world, here, PickupKind::Star);
        let star = star.filter(|s| prey.is_none_or(|p| p.distance(here) > s.distance(here)));
        let goal = goal.or(star).or(prey).unwrap_or(here);
        self.path = grid.path(here, goal);
        let stuck = self.path.len() > 2 && here.distance(self.seen_at) < 0.1;
        self.seen_at = here;
        if stuck {
            self.path =
                vec![here + Vec2::new(self.rng.random_range(-2.0..2.0), self.rng.random_range(-2.0..2.0))];
        }
    }

    /// The direction to the farthest place of the path that can be walked to straight.
    fn follow(&mut self, grid: &Grid, here: Vec2) -> Vec2 {
        while self.path.last().is_some_and(|p| p.distance(here) < 0.35) {
            self.path.pop();
        }
        while self.path.len() > 1 && grid.walks(here, self.path[self.path.len() - 2]) {
            self.path.pop();
        }
        self.path.last().map_or(Vec2::ZERO, |p| (*p - here).normalize_or_zero())
    }

    /// Around the enemy, at the distance that suits the weapon.
    fn circle(&mut self, grid: &Grid, here: Vec2, offset: Vec2, range_m: f32) -> Vec2 {
        let (toward, gap_m) = (offset.normalize_or_zero(), offset.length() - range_m.min(12.0) * 0.55);
        let way = (toward.perp() * self.side + toward * gap_m.clamp(-1.0, 1.0)).normalize_or_zero();
        if !grid.map.is_free(here + way, MARGIN_M) {
            self.side = -self.side;
        }
        way
    }
}

fn nearest(world: &World, here: Vec2, kind: PickupKind) -> Option<Vec2> {
    let places = world.pickups.iter().filter(|p| p.kind == kind).map(|p| p.at.metres());
    places.min_by(|a, b| a.distance_squared(here).total_cmp(&b.distance_squared(here)))
}

/// Sideways, if a shot of someone else is about to hit.
fn dodge(world: &World, seat: usize, here: Vec2) -> Option<Vec2> {
    world.shots.iter().filter(|s| usize::from(s.seat) != seat).find_map(|shot| {
        let (offset, velocity) = (here - shot.at.metres(), shot.velocity.metres());
        let time_s = offset.dot(velocity) / velocity.length_squared().max(1.0);
        let miss = offset - velocity * time_s;
        let side = miss.try_normalize().unwrap_or_else(|| velocity.perp().normalize_or(Vec2::X));
        ((0.0..0.3).contains(&time_s) && miss.length() < PLAYER_RADIUS_M + 0.2).then_some(side)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::map::Block;

    fn wall() -> Map {
        let at = |x: f32, y: f32| Point::new(Vec2::new(x, y));
        let blocks = vec![
            Block { centre: at(16.0, 9.0), half: at(0.5, 7.0) },
            Block { centre: at(13.0, 15.5), half: at(3.0, 0.5) },
        ];
        Map { blocks, spawns: Vec::new(), pickups: Vec::new(), drums: Vec::new() }
    }

    #[test]
    fn a_path_goes_around_what_is_in_the_way() {
        let grid = Grid::new(&wall());
        let (from, to) = (Vec2::new(14.0, 10.0), Vec2::new(18.0, 10.0));
        let path = grid.path(from, to);
        assert_eq!(path.first(), Some(&to));
        let clear = |leg: &[Vec2]| grid.map.sees(leg[0], leg[1], PLAYER_RADIUS_M - 0.1);
        assert!(path.windows(2).all(clear) && clear(&[*path.last().unwrap(), from]), "{path:?}");
        assert!(path.len() > 20);
    }

    #[test]
    fn a_bot_reaches_a_goal_behind_an_obstacle() {
        let seat = Seat { player: PlayerId::bot(0), name: "b".into(), loadout: Loadout::default() };
        let start = Start { seed: 1, ticks: 1, map: wall(), seats: vec![seat] };
        let (mut squad, mut at, goal) = (Squad::new(&start), Vec2::new(14.0, 10.0), Vec2::new(18.0, 10.0));
        let star = PickupView { at: Point::new(goal), kind: PickupKind::Star };
        for tick in 0..600 {
            let (velocity, aim) = (Point::default(), Heading::new(Vec2::X));
            let me = PlayerView {
                player: PlayerId::bot(0),
                at: Point::new(at),
                velocity,
                aim,
                health: 100,
                dash_ready: false,
                score: 0,
            };
            let world = World { tick, players: vec![me], pickups: vec![star], ..World::default() };
            let step = Vec2::from(squad.think(&world).inputs[0].direction) * 5.5 / 60.0;
            at += if start.map.is_free(at + step, PLAYER_RADIUS_M) { step } else { Vec2::ZERO };
        }
        assert!(at.distance(goal) < 0.6, "stuck at {at}");
    }

    #[test]
    fn a_led_shot_meets_its_target() {
        let (offset, velocity) = (Vec2::new(6.0, -2.0), Vec2::new(-1.0, 4.0));
        let aim = lead(offset, velocity, 18.0);
        let miss =
            (0..100).map(|n| n as f32 / 100.0).map(|t| (aim * 18.0 * t).distance(offset + velocity * t));
        assert!(miss.fold(f32::MAX, f32::min) < 0.2);
    }
}
