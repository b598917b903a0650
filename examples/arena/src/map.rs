//! The ground a match is fought on: a walled field with blocks, and where things begin.
//!
//! Invariant: a map looks the same from both sides (it is its own half turn), and any two blocks, or a block and the
//! wall, leave a lane of [`LANE_M`] between them, so every free place can be reached from every other.

use crate::{Vec2, messages::Point};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde::{Deserialize, Serialize};

/// The width of the field.
pub const WIDTH_M: f32 = 32.0;
/// The height of the field.
pub const HEIGHT_M: f32 = 20.0;
/// The least distance between two blocks.
pub const LANE_M: f32 = 1.8;
/// The far corner of the field.
pub const CORNER: Vec2 = Vec2::new(WIDTH_M, HEIGHT_M);

/// A solid rectangle, parallel to the walls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// Its centre.
    pub centre: Point,
    /// From its centre to its corner.
    pub half: Point,
}

impl Block {
    /// The vector to `place` from the nearest place in this block, grown by `margin_m`: zero inside.
    pub fn offset(&self, place: Vec2, margin_m: f32) -> Vec2 {
        let from = place - self.centre.metres();
        let half = self.half.metres() + Vec2::splat(margin_m);
        from - from.clamp(-half, half)
    }

    /// Whether the straight line between two places meets this block, grown by `margin_m`.
    pub fn crosses(&self, from: Vec2, to: Vec2, margin_m: f32) -> bool {
        let (centre, half) = (self.centre.metres(), self.half.metres() + Vec2::splat(margin_m));
        let (start, way) = (from - centre, to - from);
        let (mut enter, mut leave) = (0.0_f32, 1.0_f32);
        for axis in 0..2 {
            if way[axis].abs() < 1e-6 {
                if start[axis].abs() > half[axis] {
                    return false;
                }
                continue;
            }
            let (a, b) = ((-half[axis] - start[axis]) / way[axis], (half[axis] - start[axis]) / way[axis]);
            enter = enter.max(a.min(b));
            leave = leave.min(a.max(b));
        }
        enter <= leave
    }
}

/// The ground of a match.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Map {
    /// The solid blocks.
    pub blocks: Vec<Block>,
    /// Where players appear.
    pub spawns: Vec<Point>,
    /// Where pickups appear; every third one is a heart.
    pub pickups: Vec<Point>,
    /// Where the drums stand at first.
    pub drums: Vec<Point>,
}

impl Map {
    /// The map of this seed.
    pub fn new(seed: u64) -> Map {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut map = Map { blocks: Vec::new(), spawns: Vec::new(), pickups: Vec::new(), drums: Vec::new() };
        map.place_blocks(&mut rng);
        for place in [(1.1, 1.1), (1.1, 10.0), (1.1, 18.9), (13.0, 1.1)] {
            map.spawns.extend(both_sides(Vec2::from(place)).map(Point::new));
        }
        map.pickups = map.scatter(&mut rng, 4, 1.0);
        map.drums = map.scatter(&mut rng, 3, 1.2);
        map
    }

    /// Whether a disc of `radius_m` at `place` touches neither block nor wall.
    pub fn is_free(&self, place: Vec2, radius_m: f32) -> bool {
        let inside = place.cmpge(Vec2::splat(radius_m)).all() && place.cmple(CORNER - radius_m).all();
        inside && self.blocks.iter().all(|b| b.offset(place, 0.0).length() >= radius_m)
    }

    /// Whether nothing solid is within `margin_m` of the straight line between two places.
    pub fn sees(&self, from: Vec2, to: Vec2, margin_m: f32) -> bool {
        !self.blocks.iter().any(|b| b.crosses(from, to, margin_m))
    }

    fn place_blocks(&mut self, rng: &mut StdRng) {
        let middle = if rng.random() { Vec2::new(2.2, 0.6) } else { Vec2::new(0.6, 2.4) };
        self.blocks.push(Block { centre: Point::new(CORNER / 2.0), half: Point::new(middle) });
        for _ in 0..200 {
            let half = match rng.random_range(0..3) {
                0 => Vec2::new(rng.random_range(1.2..2.6), 0.5),
                1 => Vec2::new(0.5, rng.random_range(1.2..2.4)),
                _ => Vec2::splat(rng.random_range(0.7..1.2)),
            };
            let centre = Vec2::new(rng.random_range(4.0..16.0), rng.random_range(3.0..17.0));
            let fits = self.blocks.iter().all(|b| {
                let gap = b.offset(centre, 0.0).abs() - half;
                gap.max_element() >= LANE_M
            });
            let [near, far] =
                both_sides(centre).map(|centre| Block { centre: Point::new(centre), half: Point::new(half) });
            let to_wall = (centre - half).min(CORNER - centre - half).min_element();
            let to_twin = (far.offset(centre, 0.0).abs() - half).max_element();
            if fits && to_wall >= LANE_M && to_twin >= LANE_M && self.blocks.len() < 13 {
                self.blocks.extend([near, far]);
            }
        }
    }

    /// `pairs` pairs of free places, well apart from each other and from everything else.
    fn scatter(&self, rng: &mut StdRng, pairs: usize, radius_m: f32) -> Vec<Point> {
        let mut places: Vec<Vec2> = Vec::new();
        for _ in 0..400 {
            let place = Vec2::new(rng.random_range(2.0..15.0), rng.random_range(2.0..18.0));
            let taken =
                self.spawns.iter().chain(&self.pickups).map(|p| p.metres()).chain(places.iter().copied());
            let apart = taken.into_iter().all(|other| other.distance(place) > 2.5);
            if places.len() < pairs * 2 && apart && self.is_free(place, radius_m) {
                places.extend(both_sides(place));
            }
        }
        places.into_iter().map(Point::new).collect()
    }
}

/// A place and its image under the half turn of the field.
fn both_sides(place: Vec2) -> [Vec2; 2] {
    [place, CORNER - place]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_map_is_fair_and_leaves_room_for_everyone() {
        for seed in 0..300 {
            let map = Map::new(seed);
            let turned = |b: &Block| Block { centre: Point::new(CORNER - b.centre.metres()), half: b.half };
            assert!(map.blocks.iter().all(|b| map.blocks.contains(&turned(b))), "seed {seed} is unfair");
            let places = map.spawns.iter().chain(&map.pickups).chain(&map.drums);
            assert!(places.into_iter().all(|p| map.is_free(p.metres(), 0.5)), "seed {seed} blocks a place");
            assert!(map.blocks.len() >= 5 && map.pickups.len() == 8, "seed {seed} is bare: {map:?}");
        }
    }

    #[test]
    fn a_block_hides_what_is_behind_it_and_nothing_else() {
        let block = Block { centre: Point::new(Vec2::new(5.0, 5.0)), half: Point::new(Vec2::new(1.0, 1.0)) };
        assert!(block.crosses(Vec2::new(0.0, 5.0), Vec2::new(9.0, 5.5), 0.0));
        assert!(!block.crosses(Vec2::new(0.0, 5.0), Vec2::new(3.9, 5.0), 0.0));
        assert!(!block.crosses(Vec2::new(0.0, 6.4), Vec2::new(9.0, 6.4), 0.3));
        assert!(block.crosses(Vec2::new(0.0, 6.4), Vec2::new(9.0, 6.4), 0.5));
    }
}
