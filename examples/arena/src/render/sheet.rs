//! The picture at the end of a run: every match as a tile.
//!
//! Invariant: however many matches there were, the sheet shows at most [`TILES_MAX`] of them and says how many there
//! were.

use super::canvas::{Canvas, Colour, Image};
use super::font::Align;
use super::scene::{FIELD, LEGEND, WIDTH, colour};
use crate::Vec2;
use crate::messages::{MatchReport, TICK_HZ};

/// The most matches on one sheet.
pub const TILES_MAX: usize = 24;

const GAP: usize = 28;
const HEAD: usize = 116;
const TITLE: usize = 34;

/// Composes a sheet of matches, each with its report and its tile.
pub fn contact_sheet(matches: &[(MatchReport, Image)]) -> Image {
    let shown = &matches[..matches.len().min(TILES_MAX)];
    let columns = (1..=4).find(|n| n * n >= shown.len()).unwrap_or(4);
    let rows = shown.len().div_ceil(columns).max(1);
    let (wide, high) = (WIDTH + GAP, TITLE + FIELD + LEGEND + GAP);
    let mut canvas = Canvas::new(columns * wide + GAP, HEAD + rows * high + GAP / 2, Colour::srgb(0x0a0d18));
    head(&mut canvas, matches);
    let corner = |n: usize| (GAP + n % columns * wide, HEAD + n / columns * high);
    for (n, (report, _)) in shown.iter().enumerate() {
        let (x, y) = corner(n);
        title(&mut canvas, n, report, Vec2::new(x as f32, y as f32));
    }
    let mut sheet = canvas.develop();
    for (n, (_, tile)) in shown.iter().enumerate() {
        let (x, y) = corner(n);
        sheet.paste(tile, x, y + TITLE);
    }
    sheet
}

fn head(canvas: &mut Canvas, matches: &[(MatchReport, Image)]) {
    let size = canvas.size();
    let reach = Vec2::new(size.x, 260.0);
    let dawn = |p: Vec2| 0.10 * (1.0 - p.y / 260.0).max(0.0).powi(2);
    canvas.light(Vec2::ZERO, reach, Colour::srgb(0x4f7cff), dawn);
    let (left, right) = (GAP as f32, size.x - GAP as f32);
    canvas.text("arena", Vec2::new(left, 32.0), Align::Left, 38.0, Colour::WHITE.times(1.3), 1.0);
    let standings = || matches.iter().flat_map(|(report, _)| &report.standings);
    let seconds = matches.iter().map(|(report, _)| report.ticks).sum::<u32>() / TICK_HZ;
    let (shots, hits) = (standings().map(|s| s.shots).sum::<u32>(), standings().map(|s| s.hits).sum::<u32>());
    let frags: u32 = standings().map(|s| u32::from(s.frags)).sum();
    let facts = [
        format!("{} matches · {} players · {seconds} s played", matches.len(), standings().count()),
        format!("{shots} shots · {hits} hits · {frags} frags"),
    ];
    let roomy = size.x > 900.0;
    for (n, fact) in facts.iter().enumerate() {
        let (y, height) = (36.0 + 20.0 * n as f32, if roomy { 10.0 } else { 7.0 });
        canvas.text(fact, Vec2::new(right, y), Align::Right, height, Colour::WHITE, 0.65 - 0.2 * n as f32);
    }
    canvas.line(Vec2::new(left, 92.0), Vec2::new(right, 92.0), 1.0, Colour::WHITE, 0.15);
}

fn title(canvas: &mut Canvas, n: usize, report: &MatchReport, at: Vec2) {
    let y = 10.0;
    let text = format!("match {}", n + 1);
    canvas.text(&text, at + Vec2::new(0.0, y), Align::Left, 11.0, Colour::WHITE, 0.9);
    let length = format!("{:.1} s", report.ticks as f32 / TICK_HZ as f32);
    canvas.text(&length, at + Vec2::new(110.0, y + 2.0), Align::Left, 8.0, Colour::WHITE, 0.4);
    if let Some(winner) = report.standings.first() {
        let own = colour(winner.seat.into());
        let text = format!("{} wins", winner.name);
        canvas.text(&text, at + Vec2::new(WIDTH as f32, y), Align::Right, 11.0, own.times(1.4), 1.0);
    }
}
