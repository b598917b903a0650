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

use crate::map::Map;
use crate::messages::*;
use canvas::Canvas;
use std::cell::{OnceCell, RefCell};
use std::io;
use std::rc::Rc;

/// The most worlds that a film keeps.
pub const WORLDS_MAX: usize = 4_096;
/// How many worlds a frame looks back for its trails.
const TRAIL_WORLDS: usize = 18;
/// How many frames the highlights have.
const HIGHLIGHT_FRAMES: usize = 60;
/// How fast the highlights are shown: as fast as they were played, if the film has every fourth tick.
const FRAMES_PER_S: u16 = 15;

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
        Animation::new(self, 1, 1, png::Compression::Balanced)?.finish()
    }

    /// As PNG, larger and made in a tenth of the time: for pictures that travel and don't stay.
    ///
    /// # Errors
    /// As [`png`](Self::png).
    pub fn quick_png(&self) -> Result<Vec<u8>, PictureError> {
        Animation::new(self, 1, 1, png::Compression::Fast)?.finish()
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

/// An animated PNG that is made image by image and repeats for ever; one image makes a plain PNG.
struct Animation {
    writer: png::Writer<Bytes>,
    bytes: Bytes,
    last: Image,
}

impl Animation {
    /// Begins with the first of so many images.
    fn new(
        first: &Image,
        images: usize,
        frames_per_s: u16,
        compression: png::Compression,
    ) -> Result<Self, PictureError> {
        let bytes = Bytes::default();
        let mut encoder = png::Encoder::new(bytes.clone(), first.width as u32, first.height as u32);
        encoder.set_color(png::ColorType::Rgba);
        encoder.set_depth(png::BitDepth::Eight);
        encoder.set_compression(compression);
        if images > 1 {
            encoder.set_animated(images as u32, 0)?;
            encoder.set_frame_delay(1, frames_per_s)?;
        }
        let mut writer = encoder.write_header()?;
        writer.write_image_data(&first.rgba)?;
        Ok(Self { writer, bytes, last: first.clone() })
    }

    fn add(&mut self, image: &Image) -> Result<(), PictureError> {
        self.writer.set_blend_op(png::BlendOp::Over)?;
        self.writer.write_image_data(&changes(&self.last, image))?;
        self.last = image.clone();
        Ok(())
    }

    fn finish(self) -> Result<Vec<u8>, PictureError> {
        self.writer.finish()?;
        Ok(self.bytes.0.take())
    }
}

/// Where an encoder writes to, and we read when it is done.
#[derive(Clone, Default)]
struct Bytes(Rc<RefCell<Vec<u8>>>);

impl io::Write for Bytes {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// `after`, transparent where it is the same as `before`: most of a field is, and nothing compresses better.
fn changes(before: &Image, after: &Image) -> Vec<u8> {
    let pixels = before.rgba.chunks_exact(4).zip(after.rgba.chunks_exact(4));
    pixels.flat_map(|(old, new)| if old == new { &[0; 4] } else { new }).copied().collect()
}

/// What the renderer keeps of a match.
pub struct Film {
    seats: Vec<Seat>,
    map: Map,
    /// Painted when the first picture is made.
    field: OnceCell<Canvas>,
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
            map: start.map.clone(),
            field: OnceCell::new(),
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
        Ok(Frame { tick: self.worlds.last().map_or(0, |w| w.tick), png: self.image().quick_png()? })
    }

    /// What is left of the match, with its report, and its highlights if they are wanted. [`Printing`] does the same step by step.
    ///
    /// # Errors
    /// If it can't be encoded.
    pub fn poster(&self, report: &MatchReport, highlights: bool) -> Result<Poster, PictureError> {
        let mut printing = Printing::new(self, report.clone(), highlights);
        loop {
            if let Some(poster) = printing.step(self)? {
                return Ok(poster);
            }
        }
    }

    fn field(&self) -> &Canvas {
        self.field.get_or_init(|| scene::field(&self.map))
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
        scene::frame(self.field(), &self.seats, &self.worlds[end.saturating_sub(TRAIL_WORLDS)..end])
    }
}

/// A poster in the making, in many short steps, so that whoever draws can do something else between two.
pub struct Printing {
    report: MatchReport,
    stage: Stage,
    png: Vec<u8>,
    /// The worlds that the highlights still have to show.
    left: std::ops::Range<usize>,
    animation: Option<Animation>,
}

/// What is drawn next.
enum Stage {
    Field,
    Tile,
    TilePng(Image),
    Highlights,
}

impl Printing {
    /// Nothing drawn yet.
    pub fn new(film: &Film, report: MatchReport, highlights: bool) -> Self {
        let last = film.liveliest().max(1);
        let left = if highlights { last.saturating_sub(HIGHLIGHT_FRAMES)..last } else { 0..0 };
        Self { report, stage: Stage::Field, png: Vec::new(), left, animation: None }
    }

    /// Does one step. The poster, once that was the last; it is to be called no more then.
    ///
    /// # Errors
    /// If it can't be encoded.
    pub fn step(&mut self, film: &Film) -> Result<Option<Poster>, PictureError> {
        match &self.stage {
            Stage::Field => {
                film.field();
                self.stage = Stage::Tile;
            }
            Stage::Tile => {
                self.stage = Stage::TilePng(scene::tile(film.field(), &film.worlds, &self.report));
            }
            Stage::TilePng(tile) => {
                self.png = tile.quick_png()?;
                self.stage = Stage::Highlights;
            }
            Stage::Highlights => match self.left.next() {
                Some(world) => self.add_highlight(&film.image_at(world + 1))?,
                None => return self.finish().map(Some),
            },
        }
        Ok(None)
    }

    fn add_highlight(&mut self, image: &Image) -> Result<(), PictureError> {
        if let Some(animation) = &mut self.animation {
            return animation.add(image);
        }
        let images = 1 + self.left.len();
        self.animation = Some(Animation::new(image, images, FRAMES_PER_S, png::Compression::Balanced)?);
        Ok(())
    }

    fn finish(&mut self) -> Result<Poster, PictureError> {
        let highlights = self.animation.take().map(Animation::finish).transpose()?;
        Ok(Poster { png: std::mem::take(&mut self.png), highlights_png: highlights.unwrap_or_default() })
    }
}
