//! Pictures of a match: a frame of a moment, and a tile of the whole.
//!
//! Invariant: a player has one colour, that of its seat, in every picture.

use super::canvas::{Canvas, Colour, Image, capsule, cover, haze, slab};
use super::font::{Align, width};
use crate::Vec2;
use crate::map::{HEIGHT_M, Map, WIDTH_M};
use crate::messages::*;
use crate::physics::{DRUM_RADIUS_M, PLAYER_RADIUS_M};

/// Pixels of a picture for a metre of the field.
pub const SCALE: f32 = 20.0;
/// The width of a frame and of a tile, in pixels.
pub const WIDTH: usize = (WIDTH_M * SCALE) as usize;
/// The height of the field in a picture, in pixels.
pub const FIELD: usize = (HEIGHT_M * SCALE) as usize;
/// The height of the score board above a frame, in pixels.
pub const BOARD: usize = 44;
/// The height of the standings below a tile, in pixels.
pub const LEGEND: usize = 156;

/// For how many worlds a fall is shown.
const BURST_WORLDS: usize = 6;
const INK: Colour = Colour([0.0035, 0.0048, 0.0095]);
const PALETTE: [u32; PLAYERS_MAX] =
    [0x22d3ee, 0xff4d8d, 0xffc53d, 0x7c5cff, 0x4ade80, 0xff7a3c, 0xd46bff, 0x5b9dff];

/// The colour of a seat.
pub fn colour(seat: usize) -> Colour {
    Colour::srgb(PALETTE[seat % PALETTE.len()])
}

/// Where a place of the field is in the picture of the field.
pub fn pixel(place: Vec2) -> Vec2 {
    place * SCALE
}

/// The empty field: floor, blocks and the light on them.
pub fn field(map: &Map) -> Canvas {
    let mut canvas = Canvas::new(WIDTH, FIELD, Colour::BLACK);
    let (size, floor, dim) = (canvas.size(), Colour::srgb(0x1c2740), Colour::srgb(0x0b0f1c));
    canvas.lay(Vec2::ZERO, size, floor, |_| 1.0);
    canvas.lay(Vec2::ZERO, size, dim, |p| (((p - size / 2.0) / size).length() * 1.75).powi(2).min(1.0));
    let line = Colour::srgb(0x3b4f80);
    let grid = |x: f32| (0.5 - ((x / (2.0 * SCALE)).fract() - 0.5).abs()) * 2.0 * SCALE;
    canvas.lay(Vec2::ZERO, size, line, |p| 0.22 * (1.0 - grid(p.x).min(grid(p.y))).clamp(0.0, 1.0));
    for pad in &map.pickups {
        canvas.ring(pixel(pad.metres()), 8.0, 1.2, 1.0, line, 0.5);
    }
    for b in &map.blocks {
        block(&mut canvas, pixel(b.centre.metres()), pixel(b.half.metres()));
    }
    let edge = |p: Vec2| slab(p, size / 2.0, size / 2.0, 0.0).abs();
    canvas.light(Vec2::ZERO, size, Colour::srgb(0x4f7cff), |p| 0.5 * haze(edge(p), 14.0));
    canvas.lay(Vec2::ZERO, size, Colour::srgb(0x86a8ff), |p| 0.9 * (1.5 - edge(p)).clamp(0.0, 1.0));
    canvas
}

fn block(canvas: &mut Canvas, centre: Vec2, half: Vec2) {
    let (fall, soft) = (Vec2::new(5.0, 7.0), 12.0);
    let reach = half + Vec2::splat(soft + 8.0);
    let shadow = |p| 0.75 * haze(slab(p, centre + fall, half - 3.0, 4.0), soft);
    canvas.lay(centre - reach, centre + reach, Colour::BLACK, shadow);
    canvas.slab(centre, half, 4.0, Colour::srgb(0x7f9be0), 1.0);
    canvas.slab(centre, half - 1.2, 3.0, Colour::srgb(0x2a3761), 1.0);
    // The top face catches light from the upper left.
    let lit = |p: Vec2| {
        let up = ((centre - p) / half.max_element()).dot(Vec2::new(0.4, 0.9)).clamp(-1.0, 1.0);
        (0.32 + 0.3 * up) * cover(slab(p, centre, half - 2.0, 3.0))
    };
    canvas.lay(centre - half, centre + half, Colour::srgb(0x5f78bd), lit);
}

/// A moment of a match: `worlds` ends with it and begins a little earlier, for the trails.
pub fn frame(field: &Canvas, seats: &[Seat], worlds: &[World]) -> Image {
    let mut canvas = field.clone();
    let Some(world) = worlds.last() else { return canvas.develop() };
    for seat in 0..seats.len() {
        let fade = 1.0 / worlds.len() as f32;
        let lines = trail(worlds, seat).map(|(n, a, b)| (a, b, 0.55 * (n as f32 * fade).powi(2)));
        canvas.trail(lines, 3.0, 9.0, colour(seat));
    }
    world.pickups.iter().for_each(|p| pickup(&mut canvas, p, world.tick));
    world.drums.iter().for_each(|d| drum(&mut canvas, pixel(d.metres())));
    world.shots.iter().for_each(|s| shot(&mut canvas, s));
    for (seat, view) in world.players.iter().enumerate() {
        match fall_of(worlds, seat) {
            Some((age, place)) => burst(&mut canvas, pixel(place), age, colour(seat)),
            None if view.health > 0 => player(&mut canvas, view, seat),
            None => {}
        }
    }
    for (view, seat) in world.players.iter().zip(seats).filter(|(view, _)| view.health > 0) {
        label(&mut canvas, &seat.name, pixel(view.at.metres()), 7.0);
    }
    with_board(&canvas, seats, world)
}

/// The lines of a player's way through `worlds`, with their position there; none where it came back from the dead.
fn trail(worlds: &[World], seat: usize) -> impl Iterator<Item = (usize, Vec2, Vec2)> {
    worlds.windows(2).enumerate().filter_map(move |(n, pair)| {
        let (before, after) = (pair[0].players.get(seat)?, pair[1].players.get(seat)?);
        let alive = before.health > 0 && after.health > 0;
        alive.then(|| (n + 1, pixel(before.at.metres()), pixel(after.at.metres())))
    })
}

/// Where a player that is down fell, and how many worlds ago, if it was lately.
fn fall_of(worlds: &[World], seat: usize) -> Option<(usize, Vec2)> {
    let view = |age: usize| worlds.iter().nth_back(age)?.players.get(seat);
    let age = (0..BURST_WORLDS).find(|&age| view(age + 1).is_some_and(|v| v.health > 0))?;
    view(age).filter(|v| v.health == 0).map(|v| (age, v.at.metres()))
}

fn player(canvas: &mut Canvas, view: &PlayerView, seat: usize) {
    let (at, r, own) = (pixel(view.at.metres()), PLAYER_RADIUS_M * SCALE, colour(seat));
    let reach = Vec2::splat(2.5 * r);
    let below = at + Vec2::new(3.0, 5.0);
    canvas.lay(below - reach, below + reach, Colour::BLACK, |p| 0.7 * haze(p.distance(below) - r * 0.6, r));
    canvas.glow(at, 3.6 * r, own.times(0.45));
    let aim = view.aim.unit();
    canvas.line(at + aim * r * 0.7, at + aim * r * 1.75, 5.0, Colour::BLACK, 0.6);
    canvas.line(at + aim * r * 0.7, at + aim * r * 1.7, 3.0, own.mix(Colour::WHITE, 0.6), 1.0);
    canvas.disc(at, r + 1.0, Colour::BLACK, 0.6);
    canvas.disc(at, r, own, 1.0);
    // A sphere: darker below, a highlight above.
    let (low, high) = (at + Vec2::new(2.5, 4.0), at - Vec2::new(3.0, 3.5));
    let inside = move |p: Vec2| cover(p.distance(at) - r);
    canvas.lay(at - r, at + r, own.times(0.25), |p| {
        inside(p) * (p.distance(high) / (2.2 * r)).powi(2).min(1.0)
    });
    canvas.lay(at - r, at + r, Colour::WHITE, |p| inside(p) * 0.75 * haze(p.distance(high), r * 0.9));
    canvas.light(at - r, at + r, own, |p| inside(p) * 0.3 * haze(p.distance(low), r));
    let health = f32::from(view.health) / 100.0;
    let tint = Colour::srgb(0xff3355).mix(Colour::srgb(0x59f29a), health);
    canvas.ring(at, r + 4.5, 2.4, 1.0, Colour::BLACK, 0.55);
    canvas.ring(at, r + 4.5, 2.0, health, tint, 1.0);
    if view.dash_ready {
        canvas.disc(at + Vec2::new(0.0, r + 10.0), 1.6, Colour::WHITE, 0.8);
    }
}

fn shot(canvas: &mut Canvas, shot: &ShotView) {
    let (at, own) = (pixel(shot.at.metres()), colour(shot.seat.into()));
    let tail = at - pixel(shot.velocity.metres()) * 0.035;
    let margin = Vec2::splat(10.0);
    let shape = |p| 0.9 * haze(capsule(p, tail, at, 0.5), 9.0);
    canvas.light(at.min(tail) - margin, at.max(tail) + margin, own, shape);
    canvas.line(tail, at, 2.2, own.mix(Colour::WHITE, 0.7).times(1.6), 1.0);
}

fn pickup(canvas: &mut Canvas, pickup: &PickupView, tick: u32) {
    let at = pixel(pickup.at.metres());
    let pulse = 1.0 + 0.2 * ((tick % 60) as f32 / 60.0 - 0.5).abs();
    match pickup.kind {
        PickupKind::Heart => {
            let tint = Colour::srgb(0x59f29a);
            canvas.glow(at, 22.0 * pulse, tint.times(0.5));
            for arm in [Vec2::X, Vec2::Y] {
                canvas.line(at - arm * 4.5, at + arm * 4.5, 4.0 * pulse, tint.times(1.3), 1.0);
            }
        }
        PickupKind::Star => {
            let tint = Colour::srgb(0xffd76a);
            canvas.glow(at, 22.0 * pulse, tint.times(0.5));
            let reach = Vec2::splat(9.0);
            let spark = move |p: Vec2| ((p - at).abs().powf(0.6).dot(Vec2::ONE) - 3.4 * pulse) * 1.4;
            canvas.lay(at - reach, at + reach, tint.times(1.5), |p| cover(spark(p)));
        }
    }
}

fn drum(canvas: &mut Canvas, at: Vec2) {
    let r = DRUM_RADIUS_M * SCALE;
    let (below, reach) = (at + Vec2::new(3.0, 5.0), Vec2::splat(2.5 * r));
    canvas.lay(below - reach, below + reach, Colour::BLACK, |p| 0.6 * haze(p.distance(below) - r * 0.6, r));
    canvas.disc(at, r, Colour::srgb(0x8a93a8), 1.0);
    canvas.disc(at, r - 1.5, Colour::srgb(0x434b5e), 1.0);
    canvas.ring(at, r - 4.5, 1.5, 1.0, Colour::srgb(0x8a93a8), 0.8);
}

fn burst(canvas: &mut Canvas, at: Vec2, age: usize, own: Colour) {
    let age = age as f32 / BURST_WORLDS as f32;
    canvas.glow(at, 60.0 - 20.0 * age, own.times(2.2 * (1.0 - age)));
    canvas.ring(at, 8.0 + 34.0 * age, 4.0 * (1.0 - age) + 0.5, 1.0, own.mix(Colour::WHITE, 0.5), 1.0 - age);
}

fn with_board(field: &Canvas, seats: &[Seat], world: &World) -> Image {
    let mut board = Canvas::new(WIDTH, BOARD, INK);
    let column = WIDTH as f32 / seats.len().max(1) as f32;
    let best = world.players.iter().map(|p| p.score).max().unwrap_or(0);
    for (n, (seat, view)) in seats.iter().zip(&world.players).enumerate() {
        let (left, own) = (Vec2::new(n as f32 * column, 0.0), colour(n));
        let lead = best > 0 && view.score == best;
        if lead {
            board.glow(left + Vec2::new(column / 2.0, 40.0), column * 0.6, own.times(0.25));
        }
        let bright = if view.health > 0 { 1.0 } else { 0.35 };
        let score = view.score.to_string();
        let room = column - 26.0 - width(&score, 11.0);
        let height = (7.0 * room / width(&seat.name, 7.0).max(1.0)).min(7.0);
        let middle = left + Vec2::new(10.0, 14.0 - height / 2.0);
        board.text(&seat.name, middle, Align::Left, height, Colour::WHITE, 0.75 * bright);
        board.text(&score, left + Vec2::new(column - 10.0, 8.5), Align::Right, 11.0, own.times(1.2), bright);
        bar(&mut board, left + Vec2::new(10.0, 31.0), column - 20.0, f32::from(view.health) / 100.0, own);
    }
    stack(&[board.develop(), field.develop()])
}

fn bar(canvas: &mut Canvas, left: Vec2, width: f32, share: f32, own: Colour) {
    let right = |share: f32| left + Vec2::new(width * share, 0.0);
    canvas.line(left, right(1.0), 4.0, Colour::WHITE, 0.1);
    if share > 0.0 {
        canvas.line(left, right(share), 4.0, own, 1.0);
    }
}

/// A whole match: every way that was gone, every fall, and how it ended.
pub fn tile(field: &Canvas, worlds: &[World], report: &MatchReport) -> Image {
    let mut canvas = field.clone();
    let size = canvas.size();
    canvas.lay(Vec2::ZERO, size, Colour::BLACK, |_| 0.35);
    let seats = report.standings.len();
    for seat in 0..seats {
        let last = worlds.len().max(2) as f32 - 1.0;
        let lines = trail(worlds, seat).map(|(n, a, b)| (a, b, 0.15 + 0.85 * (n as f32 / last).powi(2)));
        canvas.trail(lines, 2.2, 12.0, colour(seat));
    }
    for (seat, pair) in (0..seats).flat_map(|seat| worlds.windows(2).map(move |pair| (seat, pair))) {
        let views = pair[0].players.get(seat).zip(pair[1].players.get(seat));
        if let Some((_, after)) = views.filter(|(before, after)| before.health > 0 && after.health == 0) {
            cross(&mut canvas, pixel(after.at.metres()), colour(seat));
        }
    }
    let winner = report.standings.first().map(|s| usize::from(s.seat));
    let end = worlds.last().into_iter().flat_map(|w| w.players.iter().enumerate());
    for (seat, view) in end.filter(|(_, view)| view.health > 0) {
        player(&mut canvas, view, seat);
        if winner == Some(seat) {
            canvas.ring(pixel(view.at.metres()), 20.0, 1.5, 1.0, Colour::WHITE, 0.9);
        }
    }
    let end =
        report.standings.iter().filter_map(|s| Some((s, worlds.last()?.players.get(usize::from(s.seat))?)));
    for (standing, view) in end.filter(|(_, view)| view.health > 0) {
        label(&mut canvas, &standing.name, pixel(view.at.metres()), 8.0);
    }
    stack(&[canvas.develop(), legend(worlds, report).develop()])
}

/// A player's name above it, moved as far as it takes to stay in the picture.
fn label(canvas: &mut Canvas, name: &str, at: Vec2, height: f32) {
    let half = Vec2::new(width(name, height) / 2.0 + 5.0, height / 2.0 + 3.5);
    let middle = (at - Vec2::new(0.0, 26.0)).max(half).min(canvas.size() - half);
    canvas.slab(middle, half, 6.0, INK, 0.55);
    canvas.text(name, middle - Vec2::new(0.0, height / 2.0), Align::Centre, height, Colour::WHITE, 0.95);
}

fn cross(canvas: &mut Canvas, at: Vec2, own: Colour) {
    let (bright, arms) = (own.mix(Colour::WHITE, 0.65), [Vec2::new(4.0, 4.0), Vec2::new(4.0, -4.0)]);
    canvas.glow(at, 16.0, own.times(0.5));
    arms.iter().for_each(|arm| canvas.line(at - arm, at + arm, 4.0, Colour::BLACK, 0.6));
    arms.iter().for_each(|arm| canvas.line(at - arm, at + arm, 1.8, bright, 1.0));
}

/// The standings on the left, the scores over time on the right.
fn legend(worlds: &[World], report: &MatchReport) -> Canvas {
    let mut canvas = Canvas::new(WIDTH, LEGEND, INK);
    let best = f32::from(report.standings.first().map_or(1, |s| s.score).max(1));
    let row = ((LEGEND as f32 - 22.0) / report.standings.len().max(1) as f32).min(20.0);
    for (n, standing) in report.standings.iter().enumerate() {
        let (at, own) = (Vec2::new(16.0, 15.0 + n as f32 * row), colour(standing.seat.into()));
        let (bright, height) = if n == 0 { (1.0, 9.0) } else { (0.7, 8.0) };
        if n == 0 {
            canvas.slab(at + Vec2::new(160.0, 4.0), Vec2::new(170.0, row * 0.5), 6.0, own, 0.14);
        }
        canvas.disc(at + Vec2::new(3.0, 4.0), 3.5, own, 1.0);
        canvas.text(&standing.name, at + Vec2::new(14.0, 0.0), Align::Left, height, Colour::WHITE, bright);
        bar(&mut canvas, at + Vec2::new(112.0, 4.0), 100.0, f32::from(standing.score) / best, own);
        canvas.text(
            &standing.score.to_string(),
            at + Vec2::new(246.0, 0.0),
            Align::Right,
            height,
            own.times(1.3),
            1.0,
        );
        let detail = format!("{} / {}", standing.frags, standing.deaths);
        canvas.text(&detail, at + Vec2::new(322.0, 0.0), Align::Right, 7.0, Colour::WHITE, 0.4);
    }
    // The winner last, so that its line lies on top.
    let seats = report.standings.iter().rev().map(|s| usize::from(s.seat));
    chart(&mut canvas, worlds, seats, best);
    canvas
}

fn chart(canvas: &mut Canvas, worlds: &[World], seats: impl Iterator<Item = usize>, best: f32) {
    let (least, most) = (Vec2::new(362.0, 18.0), Vec2::new(WIDTH as f32 - 18.0, LEGEND as f32 - 18.0));
    for n in 0..4 {
        let y = least.y + (most.y - least.y) * n as f32 / 3.0;
        canvas.line(Vec2::new(least.x, y), Vec2::new(most.x, y), 1.0, Colour::WHITE, 0.08);
    }
    let last_tick = worlds.last().map_or(1, |w| w.tick).max(1) as f32;
    for seat in seats {
        let points: Vec<Vec2> = worlds
            .iter()
            .filter_map(|w| {
                Some(Vec2::new(w.tick as f32 / last_tick, f32::from(w.players.get(seat)?.score) / best))
            })
            .map(|p| Vec2::new(least.x + (most.x - least.x) * p.x, most.y + (least.y - most.y) * p.y))
            .collect();
        canvas.trail(points.windows(2).map(|pair| (pair[0], pair[1], 0.3)), 0.0, 8.0, colour(seat));
        points.windows(2).for_each(|pair| canvas.line(pair[0], pair[1], 1.8, colour(seat), 1.0));
    }
}

/// Pictures of the same width, one below the other.
fn stack(images: &[Image]) -> Image {
    let (width, height) = (images[0].width, images.iter().map(|i| i.height).sum());
    Image { width, height, rgba: images.iter().flat_map(|i| i.rgba.iter().copied()).collect() }
}
