//! A software rasteriser: a canvas of linear light, shapes given by their distance, light that adds up.
//!
//! Invariant: a shape touches no pixel outside the box that it was painted with, and a box is cut to the canvas, so
//! nothing drawn anywhere can fail.

use crate::Vec2;

/// A colour in linear light; parts above 1 are brighter than white and glow.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Colour(pub [f32; 3]);

impl Colour {
    /// White.
    pub const WHITE: Colour = Colour([1.0; 3]);
    /// Black.
    pub const BLACK: Colour = Colour([0.0; 3]);

    /// The colour of an sRGB code such as `0xff8800`.
    pub fn srgb(code: u32) -> Self {
        Colour([16, 8, 0].map(|shift| (f32::from((code >> shift) as u8) / 255.0).powf(2.2)))
    }

    /// Brighter or darker by `factor`.
    pub fn times(self, factor: f32) -> Self {
        Colour(self.0.map(|part| part * factor))
    }

    /// Some of this and some of `other`: 0 is all this, 1 is all other.
    pub fn mix(self, other: Colour, share: f32) -> Self {
        Colour(std::array::from_fn(|n| self.0[n] + (other.0[n] - self.0[n]) * share))
    }
}

/// A picture: RGBA, 8 bits each, sRGB, rows from the top.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// In pixels.
    pub width: usize,
    /// In pixels.
    pub height: usize,
    /// Four bytes a pixel.
    pub rgba: Vec<u8>,
}

impl Image {
    /// The colour at a pixel.
    ///
    /// # Panics
    /// If it is outside.
    pub fn at(&self, x: usize, y: usize) -> [u8; 4] {
        let at = (y * self.width + x) * 4;
        [0, 1, 2, 3].map(|n| self.rgba[at + n])
    }

    /// Copies `other` to where its top left corner is at (`x`, `y`). What is outside is cut off.
    pub fn paste(&mut self, other: &Image, x: usize, y: usize) {
        let width = other.width.min(self.width.saturating_sub(x)) * 4;
        for row in 0..other.height.min(self.height.saturating_sub(y)) {
            let (to, from) = (((y + row) * self.width + x) * 4, row * other.width * 4);
            self.rgba[to..to + width].copy_from_slice(&other.rgba[from..from + width]);
        }
    }
}

/// How far, in pixels, `p` is outside a disc; negative inside.
pub fn disc(p: Vec2, centre: Vec2, radius: f32) -> f32 {
    p.distance(centre) - radius
}

/// How far `p` is outside a line with round ends.
pub fn capsule(p: Vec2, a: Vec2, b: Vec2, radius: f32) -> f32 {
    let (from, way) = (p - a, b - a);
    let along = (from.dot(way) / way.length_squared().max(1e-6)).clamp(0.0, 1.0);
    from.distance(way * along) - radius
}

/// How far `p` is outside a rectangle with round corners.
pub fn slab(p: Vec2, centre: Vec2, half: Vec2, corner: f32) -> f32 {
    let q = (p - centre).abs() - half + Vec2::splat(corner);
    q.max(Vec2::ZERO).length() + q.max_element().min(0.0) - corner
}

/// A distance as anti-aliased coverage.
pub fn cover(distance: f32) -> f32 {
    (0.5 - distance).clamp(0.0, 1.0)
}

/// A distance as light that fades to nothing over `reach` pixels.
pub fn haze(distance: f32, reach: f32) -> f32 {
    let left = (1.0 - distance.max(0.0) / reach).max(0.0);
    left * left * left
}

/// A canvas of linear light.
#[derive(Clone)]
pub struct Canvas {
    width: usize,
    height: usize,
    pixels: Vec<[f32; 3]>,
}

impl Canvas {
    /// All in one colour.
    pub fn new(width: usize, height: usize, colour: Colour) -> Self {
        Self { width, height, pixels: vec![colour.0; width * height] }
    }

    /// Its size in pixels.
    pub fn size(&self) -> Vec2 {
        Vec2::new(self.width as f32, self.height as f32)
    }

    /// Lays `colour` over the pixels of the box from `least` to `most`, as opaque as `opacity` says at each.
    pub fn lay(&mut self, least: Vec2, most: Vec2, colour: Colour, opacity: impl Fn(Vec2) -> f32) {
        self.each(least, most, |p, pixel| *pixel = Colour(*pixel).mix(colour, opacity(p)).0);
    }

    /// Adds light of `colour` to the pixels of the box, as strong as `strength` says at each.
    pub fn light(&mut self, least: Vec2, most: Vec2, colour: Colour, strength: impl Fn(Vec2) -> f32) {
        self.each(least, most, |p, pixel| {
            let strength = strength(p);
            pixel.iter_mut().zip(colour.0).for_each(|(pixel, part)| *pixel += part * strength);
        });
    }

    /// A disc.
    pub fn disc(&mut self, centre: Vec2, radius: f32, colour: Colour, opacity: f32) {
        let reach = Vec2::splat(radius + 1.0);
        self.lay(centre - reach, centre + reach, colour, |p| opacity * cover(disc(p, centre, radius)));
    }

    /// A ring of the given width, from the top clockwise round to `share` of the circle.
    pub fn ring(&mut self, centre: Vec2, radius: f32, width: f32, share: f32, colour: Colour, opacity: f32) {
        let reach = Vec2::splat(radius + width + 1.0);
        self.lay(centre - reach, centre + reach, colour, |p| {
            let from = p - centre;
            let turn = from.x.atan2(-from.y) / std::f32::consts::TAU;
            let ends = (share - turn.rem_euclid(1.0)) * radius * std::f32::consts::TAU;
            let ends = if share >= 1.0 { 1.0 } else { (ends + 0.5).clamp(0.0, 1.0) };
            opacity * ends * cover((from.length() - radius).abs() - width / 2.0)
        });
    }

    /// A line with round ends.
    pub fn line(&mut self, a: Vec2, b: Vec2, width: f32, colour: Colour, opacity: f32) {
        let reach = Vec2::splat(width / 2.0 + 1.0);
        let shape = |p| opacity * cover(capsule(p, a, b, width / 2.0));
        self.lay(a.min(b) - reach, a.max(b) + reach, colour, shape);
    }

    /// A rectangle with round corners.
    pub fn slab(&mut self, centre: Vec2, half: Vec2, corner: f32, colour: Colour, opacity: f32) {
        let reach = half + Vec2::ONE;
        self.lay(centre - reach, centre + reach, colour, |p| opacity * cover(slab(p, centre, half, corner)));
    }

    /// Light around a point.
    pub fn glow(&mut self, centre: Vec2, radius: f32, colour: Colour) {
        let reach = Vec2::splat(radius);
        self.light(centre - reach, centre + reach, colour, |p| haze(p.distance(centre), radius));
    }

    /// Light along many lines, each with a strength. Where lines meet the strongest counts: a trail has no knots.
    pub fn trail(
        &mut self,
        lines: impl Iterator<Item = (Vec2, Vec2, f32)>,
        core: f32,
        reach: f32,
        colour: Colour,
    ) {
        let mut layer = vec![[0.0_f32; 2]; self.pixels.len()];
        for (a, b, strength) in lines {
            let margin = Vec2::splat(core + reach);
            for (at, p) in self.within(a.min(b) - margin, a.max(b) + margin) {
                let distance = capsule(p, a, b, core / 2.0);
                layer[at][0] = layer[at][0].max(strength * cover(distance));
                layer[at][1] = layer[at][1].max(strength * haze(distance, reach));
            }
        }
        for (pixel, [core, halo]) in self.pixels.iter_mut().zip(layer) {
            let strength = 0.75 * core + 0.3 * halo;
            pixel.iter_mut().zip(colour.0).for_each(|(pixel, part)| *pixel += part * strength);
        }
    }

    /// The picture that a screen shows: light beyond white spills into the other colours, as it does on film.
    pub fn develop(&self) -> Image {
        // The eye's curve as a table over the square root of light, which is nearly that curve already.
        const STEPS: f32 = 4095.0;
        let code = |n: u16| ((f32::from(n) / STEPS).powf(2.0 / 2.2) * 255.0 + 0.5) as u8;
        let codes: Vec<u8> = (0..=STEPS as u16).map(code).collect();
        let mut rgba = Vec::with_capacity(4 * self.pixels.len());
        for light in &self.pixels {
            let spill = (light.iter().copied().fold(0.0, f32::max) - 1.0).max(0.0) * 0.3;
            let [r, g, b] = light.map(|part| codes[(shoulder(part + spill).sqrt() * STEPS) as usize]);
            rgba.extend_from_slice(&[r, g, b, 255]);
        }
        Image { width: self.width, height: self.height, rgba }
    }

    fn each(&mut self, least: Vec2, most: Vec2, mut paint: impl FnMut(Vec2, &mut [f32; 3])) {
        for (at, p) in self.within(least, most) {
            paint(p, &mut self.pixels[at]);
        }
    }

    /// The pixels of a box: their places in `pixels` and their centres.
    fn within(&self, least: Vec2, most: Vec2) -> impl Iterator<Item = (usize, Vec2)> + use<> {
        let width = self.width;
        let cut = |x: f32, most: usize| (x.max(0.0) as usize).min(most);
        let columns = cut(least.x, width)..cut(most.x.ceil(), width);
        (cut(least.y, self.height)..cut(most.y.ceil(), self.height)).flat_map(move |y| {
            columns.clone().map(move |x| (y * width + x, Vec2::new(x as f32 + 0.5, y as f32 + 0.5)))
        })
    }
}

/// Bends what is bright towards white instead of cutting it off.
fn shoulder(light: f32) -> f32 {
    const KNEE: f32 = 0.6;
    if light <= KNEE {
        light.max(0.0)
    } else {
        KNEE + (1.0 - KNEE) * (1.0 - ((KNEE - light) / (1.0 - KNEE)).exp())
    }
}
