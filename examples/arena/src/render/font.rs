//! Text: a stroke font on a grid of 5 × 7 points, drawn as lines, so it is sharp at every size.
//!
//! Invariant: every character has a width; those without a glyph are drawn as a space. Small letters are capitals.

use super::canvas::{Canvas, Colour, capsule, cover};
use crate::Vec2;

/// The strokes of a character: lines between grid points, written as pairs of column and row.
fn strokes(c: char) -> &'static str {
    match c.to_ascii_uppercase() {
        'A' => "062046 1434",
        'B' => "00063645443303 3342413000",
        'C' => "4130100105163645",
        'D' => "00062644422000",
        'E' => "40000646 0333",
        'F' => "400006 0333",
        'G' => "41301001051636454323",
        'H' => "0006 4046 0343",
        'I' => "2026 1030 1636",
        'J' => "4045361605",
        'K' => "0006 400346",
        'L' => "000646",
        'M' => "0600234046",
        'N' => "06004640",
        'O' => "100105163645413010",
        'P' => "06003041423303",
        'Q' => "100105163645413010 2446",
        'R' => "06003041423303 2346",
        'S' => "413010010213334445361605",
        'T' => "0040 2026",
        'U' => "000516364540",
        'V' => "002640",
        'W' => "0016223640",
        'X' => "0046 4006",
        'Y' => "002340 2326",
        'Z' => "00400646",
        '0' => "100105163645413010 1432",
        '1' => "112026 1636",
        '2' => "01103041420646",
        '3' => "0110304142334445361605 3313",
        '4' => "36300444",
        '5' => "400002324345361605",
        '6' => "413010010516364544331304",
        '7' => "004026",
        '8' => "13020110304142331304051636454433",
        '9' => "051636454130100102133342",
        '.' => "2626",
        ',' => "2516",
        ':' => "2222 2525",
        '-' => "1333",
        '+' => "1333 2224",
        '/' => "0640",
        '#' => "1016 3036 0242 0444",
        '\'' => "2021",
        '·' => "2323",
        '_' => "0646",
        '×' => "1135 3115",
        '%' => "0640 0000 4646",
        _ => "",
    }
}

/// How text is set at a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// It begins there.
    Left,
    /// Its middle is there.
    Centre,
    /// It ends there.
    Right,
}

/// The width of `text` with capitals `height` pixels high, in pixels.
pub fn width(text: &str, height: f32) -> f32 {
    (text.chars().count() as f32 * 6.0 - 2.0).max(0.0) * height / 6.0
}

impl Canvas {
    /// Writes `text` with capitals `height` pixels high; `at` is on its upper edge.
    pub fn text(&mut self, text: &str, at: Vec2, align: Align, height: f32, colour: Colour, opacity: f32) {
        let unit = height / 6.0;
        let shift = match align {
            Align::Left => 0.0,
            Align::Centre => width(text, height) / 2.0,
            Align::Right => width(text, height),
        };
        let radius = (height * 0.062).max(0.55);
        for (n, c) in text.chars().enumerate() {
            let corner = at + Vec2::new(n as f32 * 6.0 * unit - shift, 0.0);
            let point =
                |pair: &[u8]| corner + Vec2::new(f32::from(pair[0] - b'0'), f32::from(pair[1] - b'0')) * unit;
            let lines: Vec<[Vec2; 2]> = strokes(c)
                .split_whitespace()
                .flat_map(|stroke| stroke.as_bytes().chunks(2).zip(stroke.as_bytes()[2..].chunks(2)))
                .map(|(a, b)| [point(a), point(b)])
                .collect();
            let nearest = |p| lines.iter().map(|[a, b]| capsule(p, *a, *b, radius)).fold(f32::MAX, f32::min);
            let margin = Vec2::splat(radius + 1.0);
            let most = corner + Vec2::new(4.0, 6.0) * unit;
            self.lay(corner - margin, most + margin, colour, |p| opacity * cover(nearest(p)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stroke_stays_on_its_grid() {
        for c in (' '..='~').chain(['·', '×']) {
            for stroke in strokes(c).split_whitespace() {
                assert!(stroke.len() >= 4 && stroke.len().is_multiple_of(2), "{c}: {stroke}");
                assert!(
                    stroke
                        .as_bytes()
                        .chunks(2)
                        .all(|p| (b'0'..b'5').contains(&p[0]) && (b'0'..b'7').contains(&p[1]))
                );
            }
        }
    }
}
