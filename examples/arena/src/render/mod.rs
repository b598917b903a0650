//! Rendering: one [`Film`] per match takes the worlds as they come and makes pictures of them when asked.
//!
//! Invariant: a film's memory is bounded: beyond [`WORLDS_MAX`] worlds it keeps every second one and goes on at half
//! the pace.

pub mod canvas;
pub mod font;
pub mod scene;
mod sheet;

pub use canvas::Image;
pub use sheet::{TILES_MAX, contact_sheet};

use crate::messages::*;
use canvas::Canvas;

/// The most worlds that a film keeps.
pub const WORLDS_MAX: usize = 4_096;
/// How many worlds a frame looks back for its trails.
const TRAIL_WORLDS: usize = 18;
/// How many frames the highlights have.
const HIGHLIGHT_FRAMES: usize = 36;

/// Why a picture can't be written or read.
#[derive(Debug, thiserror::Error)]
pub enum PictureError {
    /// Not written.
    #[error("the picture can't be written as PNG: {0}; give frames of one size")]
    Encoding(#[from] png::EncodingError),
    /// Not read.
    #[error("this is not a PNG that the renderer made: {0}")]
    Decoding(#[from] png::DecodingError),
    /// Not like ours.
    #[error("the picture is not RGBA with 8 bits; only pictures of the renderer can be read")]
    Format,
}

impl Image {
    /// As PNG.
    ///
    /// # Errors
    /// If the size does not fit the bytes.
    pub fn png(&self) -> Result<Vec<u8>, PictureError> {
        animation(std::slice::from_ref(self), 1)
    }

    /// Reads a PNG that [`Image::png`] wrote; of an animation the first frame.
    ///
    /// # Errors
    /// If it is none.
    pub fn from_png(bytes: &[u8]) -> Result<Self, PictureError> {
        let mut reader = png::Decoder::new(std::io::Cursor::new(bytes)).read_info()?;
        let mut rgba = vec![0; reader.output_buffer_size().ok_or(PictureError::Format)?];
        let info = reader.next_frame(&mut rgba)?;
        if (info.color_type, info.bit_depth) != (png::ColorType::Rgba, png::BitDepth::Eight) {
            return Err(PictureError::Format);
        }
        Ok(Self { width: info.width as usize, height: info.height as usize, rgba })
    }
}

/// Images of one size as an animated PNG that repeats for ever; a single one as a plain PNG.
///
/// # Errors
/// If there is no image, or the sizes differ.
pub fn animation(images: &[Image], frames_per_s: u16) -> Result<Vec<u8>, PictureError> {
    let first = images.first().ok_or(PictureError::Format)?;
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, first.width as u32, first.height as u32);
    encoder.set_color(png::ColorType::Rgba);
    encoder.set_depth(png::BitDepth::Eight);
    if images.len() > 1 {
        encoder.set_animated(images.len() as u32, 0)?;
        encoder.set_frame_delay(1, frames_per_s)?;
    }
    let mut writer = encoder.write_header()?;
    writer.write_image_data(&first.rgba)?;
    for pair in images.windows(2) {
        writer.set_blend_op(png::BlendOp::Over)?;
        writer.write_image_data(&changes(&pair[0], &pair[1]))?;
    }
    writer.finish()?;
    Ok(bytes)
}

/// `after`, transparent where it is the same as `before`: most of a field is, and nothing compresses better.
fn changes(before: &Image, after: &Image) -> Vec<u8> {
    let pixels = before.rgba.chunks_exact(4).zip(after.rgba.chunks_exact(4));
    pixels.flat_map(|(old, new)| if old == new { &[0; 4] } else { new }).copied().collect()
}

/// What the renderer keeps of a match.
pub struct Film {
    seats: Vec<Seat>,
    field: Canvas,
    worlds: Vec<World>,
    /// It keeps every `pace`-th world that it is shown.
    pace: u32,
    seen: u32,
}

impl Film {
    /// An empty film of the match that starts.
    pub fn new(start: &Start) -> Self {
        Self {
            seats: start.seats.clone(),
            field: scene::field(&start.map),
            worlds: Vec::new(),
            pace: 1,
            seen: 0,
        }
    }

    /// Takes a world. Meant for every sixth tick or so.
    pub fn record(&mut self, world: World) {
        if self.worlds.len() >= WORLDS_MAX {
            let mut n = 0;
            self.worlds.retain(|_| (n += 1, n % 2 == 1).1);
            self.pace *= 2;
        }
        if self.seen.is_multiple_of(self.pace) {
            self.worlds.push(world);
        }
        self.seen += 1;
    }

    /// The match at the world taken last.
    pub fn image(&self) -> Image {
        self.image_at(self.worlds.len())
    }

    /// The same, to send.
    ///
    /// # Errors
    /// If it can't be encoded.
    pub fn frame(&self) -> Result<Frame, PictureError> {
        Ok(Frame { tick: self.worlds.last().map_or(0, |w| w.tick), png: self.image().png()? })
    }

    /// What is left of the match, with its report.
    ///
    /// # Errors
    /// If it can't be encoded.
    pub fn poster(&self, report: &MatchReport) -> Result<Poster, PictureError> {
        let png = scene::tile(&self.field, &self.worlds, report).png()?;
        Ok(Poster { png, highlights_png: self.highlights()? })
    }

    /// The liveliest seconds as an animated PNG.
    fn highlights(&self) -> Result<Vec<u8>, PictureError> {
        let last = self.liveliest();
        let first = last.saturating_sub(HIGHLIGHT_FRAMES);
        let images: Vec<Image> = (first..last.max(1)).map(|n| self.image_at(n + 1)).collect();
        animation(&images, 12)
    }

    /// The end of the stretch of [`HIGHLIGHT_FRAMES`] worlds in which most was scored and most was in the air.
    fn liveliest(&self) -> usize {
        let score = |w: &World| w.players.iter().map(|p| usize::from(p.score)).sum::<usize>();
        let life = |end: usize| {
            let stretch = &self.worlds[end.saturating_sub(HIGHLIGHT_FRAMES)..end];
            let gained = stretch.last().map_or(0, score) - stretch.first().map_or(0, score);
            gained * 40 + stretch.iter().map(|w| w.shots.len()).sum::<usize>()
        };
        (HIGHLIGHT_FRAMES.min(self.worlds.len())..=self.worlds.len())
            .max_by_key(|&end| life(end))
            .unwrap_or(0)
    }

    fn image_at(&self, end: usize) -> Image {
        let end = end.min(self.worlds.len());
        scene::frame(&self.field, &self.seats, &self.worlds[end.saturating_sub(TRAIL_WORLDS)..end])
    }
}
