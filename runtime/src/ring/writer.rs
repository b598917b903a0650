//! The producer's end of a ring.
//!
//! Invariant: the commit word at `position` is zero or not yet ours to publish; everything from `batch_start` to
//! `position` is invisible to the consumer until the batch's first commit word is stored. Room is reserved for a
//! frame *and* the commit word behind it, so clearing that word never touches a frame that is not read yet.

use super::{BATCH_BYTES_MAX, BATCH_FRAMES_MAX, HEAD_AT, HOME_BYTES, MODE_AT, Ring, RingError, STARVED_AT};
use crate::frame::{CommitWord, FRAME_ALIGN, Flags, HEADER_BYTES, Header, extent};
use crate::id::PortId;
use crate::sync::Ordering;

/// So many bytes are fetched ahead at the most.
const FETCH_BYTES_MAX: usize = 1024;

/// Why a frame could not be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The consumer is behind: back-pressure. Nothing was written of what did not fit; try again when it has read.
    #[error("the ring is full: wait until its consumer has read")]
    Full,
    /// The frame can never fit.
    #[error(
        "a frame of {bytes} bytes can't go through this ring in one piece: at most {bytes_max}, or send it as a message, which is cut into fragments"
    )]
    TooLarge {
        /// What was to be sent.
        bytes: usize,
        /// What fits.
        bytes_max: usize,
    },
    /// The consumer broke the ring.
    #[error(transparent)]
    Broken(#[from] RingError),
}

/// The producer's end: see the head of this file.
pub struct RingWriter {
    ring: Ring,
    /// Where the next frame goes.
    position: u64,
    /// The consumer's head as last read.
    head: u64,
    /// Where the unpublished batch starts.
    batch_start: u64,
    /// The commit word that publishes the batch; 0 when there is none.
    batch_word: u64,
    /// How many frames the batch has.
    batch_frames: u32,
    /// At this offset, think of going home.
    home_check: u64,
    /// The head at which what did not fit last will fit.
    wanted: u64,
}

impl RingWriter {
    /// The producer's end of a new ring.
    pub fn new(ring: Ring) -> Self {
        Self {
            ring,
            position: 0,
            head: 0,
            batch_start: 0,
            batch_word: 0,
            batch_frames: 0,
            home_check: HOME_BYTES,
            wanted: 0,
        }
    }

    /// The ring.
    pub fn ring(&self) -> &Ring {
        &self.ring
    }

    /// The position behind the last frame that was written, published or not.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The position behind the last frame that is visible to the consumer.
    pub fn published(&self) -> u64 {
        if self.batch_word != 0 { self.batch_start } else { self.position }
    }

    /// The head at which what did not fit last will fit; it may have come since.
    pub fn wanted(&self) -> u64 {
        self.wanted
    }

    /// The largest payload that one frame can carry, and so the largest loan.
    pub fn payload_bytes_max(&self) -> usize {
        Ring::frame_bytes_max(self.ring.capacity) as usize - HEADER_BYTES
    }

    /// The largest payload of a fragment; a longer message takes several.
    #[inline(always)]
    pub fn fragment_payload_bytes(&self) -> usize {
        Ring::fragment_bytes_max(self.ring.capacity) as usize - HEADER_BYTES - 16
    }

    /// Whether something was written and not yet published.
    #[inline(always)]
    pub fn unpublished(&self) -> bool {
        self.batch_word != 0
    }

    /// Writes a message, from byte `*sent` of its payload on, and moves `*sent` by what was written. A message of one
    /// fragment is written whole or not at all; of a longer one, as many fragments as fit. Nothing is visible before
    /// [`publish`](Self::publish), or before the batch has its limit.
    ///
    /// # Errors
    /// [`SendError::Full`] when not all fitted: the rest is sent by calling again, before any other message.
    #[inline(always)]
    pub fn write(&mut self, header: Header, payload: &[u8], sent: &mut usize) -> Result<(), SendError> {
        if *sent == 0 && payload.len() <= self.fragment_payload_bytes() {
            self.frame(header, payload)?;
            *sent = payload.len();
            return Ok(());
        }
        self.write_fragments(header, payload, sent)
    }

    #[inline(never)]
    fn write_fragments(&mut self, header: Header, payload: &[u8], sent: &mut usize) -> Result<(), SendError> {
        let most = self.fragment_payload_bytes();
        loop {
            let left = &payload[*sent..];
            let (piece, flags) =
                if left.len() > most { (&left[..most], Flags::MORE) } else { (left, Flags::NONE) };
            let mut fragment = header.flagged(flags);
            if *sent > 0 {
                // Extensions describe the message: its first fragment carries them.
                fragment.flags = fragment.flags.without(Flags::CALL).without(Flags::STAMP);
            }
            self.frame(fragment, piece)?;
            *sent += piece.len();
            if flags == Flags::NONE {
                return Ok(());
            }
            // The consumer copies this fragment while the next is filled.
            self.commit();
        }
    }

    /// Writes one frame into the batch.
    #[inline(always)]
    fn frame(&mut self, header: Header, payload: &[u8]) -> Result<(), SendError> {
        let prefix = HEADER_BYTES + header.flags.extension_bytes();
        let length = (prefix + payload.len()) as u64;
        self.reserve(length)?;
        self.open_frame(length);
        let at = self.ring.data_offset(self.position);
        if header.flags.extended() {
            self.write_extensions(&header);
        }
        // SAFETY: `reserve` made sure that `length` bytes from here lie before the edge of the data.
        unsafe { self.ring.memory.copy_in(at + prefix, payload) };
        self.close_frame(length, &header);
        Ok(())
    }

    #[inline(never)]
    fn write_extensions(&mut self, header: &Header) {
        let mut at = self.position + HEADER_BYTES as u64;
        for (flag, value) in [(Flags::CALL, header.call), (Flags::STAMP, header.stamp_ns)] {
            if header.flags.has(flag) {
                self.ring.data_word(at).store(value, Ordering::Relaxed);
                at += 8;
            }
        }
    }

    /// Makes sure that a frame of `length` bytes and the commit word behind it fit at `position`, writing padding
    /// if the edge is too near.
    #[inline(always)]
    fn reserve(&mut self, length: u64) -> Result<(), SendError> {
        let need = extent(length);
        if need > self.ring.to_edge(self.position) {
            self.pad(length)?;
        }
        self.room_for(need)
    }

    /// Whether `bytes` and a commit word behind them are free.
    #[inline(always)]
    fn room_for(&mut self, bytes: u64) -> Result<(), SendError> {
        let end = self.position + bytes + FRAME_ALIGN;
        if end - self.head > self.ring.capacity {
            self.refresh_head()?;
            if end - self.head > self.ring.capacity {
                self.wanted = end - self.ring.capacity;
                self.publish();
                return Err(SendError::Full);
            }
        }
        Ok(())
    }

    #[inline(never)]
    fn pad(&mut self, length: u64) -> Result<(), SendError> {
        let most = Ring::frame_bytes_max(self.ring.capacity);
        if extent(length) > most {
            let (bytes, bytes_max) = (length as usize - HEADER_BYTES, most as usize - HEADER_BYTES);
            return Err(SendError::TooLarge { bytes, bytes_max });
        }
        let gap = self.ring.to_edge(self.position);
        self.room_for(gap)?;
        self.open_frame(gap);
        let padding = Header::new(crate::id::SessionId::NONE, PortId(0)).flagged(Flags::PADDING);
        self.close_frame(gap, &padding);
        Ok(())
    }

    #[inline(never)]
    fn refresh_head(&mut self) -> Result<(), RingError> {
        // Acquire: pairs with the reader's release of `head`, so its copies out are done before we overwrite.
        let head = self.ring.header_word(HEAD_AT).load(Ordering::Acquire);
        let to = if self.batch_word != 0 { self.batch_start } else { self.position };
        if head < self.head || head > to {
            return Err(RingError::Head { head, from: self.head, to });
        }
        self.head = head;
        Ok(())
    }

    /// Starts a frame. For a batch's first frame the next commit word is cleared now, before the payload is copied:
    /// fetching its line overlaps with the copy.
    #[inline(always)]
    fn open_frame(&mut self, length: u64) {
        if self.batch_word == 0 {
            let next = self.position + extent(length);
            self.ring.data_word(next).store(0, Ordering::Relaxed);
        }
    }

    /// Ends a frame: its word waits as the batch's first, or goes in now, invisible behind the first.
    #[inline(always)]
    fn close_frame(&mut self, length: u64, header: &Header) {
        let word = CommitWord::new(length as u32, header.port, header.flags).0;
        self.ring.data_word(self.position + 8).store(header.session.to_bits(), Ordering::Relaxed);
        if self.batch_word == 0 {
            self.batch_word = word;
            self.batch_start = self.position;
            self.batch_frames = 1;
            self.position += extent(length);
        } else {
            self.ring.data_word(self.position).store(word, Ordering::Relaxed);
            self.batch_frames += 1;
            self.position += extent(length);
            if self.batch_frames >= BATCH_FRAMES_MAX || self.position - self.batch_start >= BATCH_BYTES_MAX {
                self.commit();
            }
        }
    }

    /// Stores the batch's first commit word.
    #[inline(always)]
    fn commit(&mut self) {
        if self.batch_word == 0 {
            return;
        }
        if self.batch_frames > 1 {
            // The word behind the first frame was cleared when the batch began; since then a frame took its place.
            self.ring.data_word(self.position).store(0, Ordering::Relaxed);
        }
        // Release: headers, payloads and the cleared word come before it; pairs with the reader's acquire.
        self.ring.data_word(self.batch_start).store(self.batch_word, Ordering::Release);
        self.batch_word = 0;
    }

    /// Makes all that was written visible, and gets ready for a message like it. The caller wakes the consumer (see
    /// [`crate::wake`]).
    #[inline(always)]
    pub fn publish(&mut self) {
        if self.batch_word == 0 {
            return;
        }
        self.commit();
        if self.batch_frames == 1 {
            self.settle();
        }
    }

    /// After a single message: goes home if it is time, and asks for the lines that one like it will fill. The
    /// stores of the next message would wait for them one after the other. The line at `position` is left alone:
    /// the consumer polls it.
    #[inline(always)]
    fn settle(&mut self) {
        let bytes = self.position - self.batch_start;
        if self.position & (self.ring.capacity - 1) >= self.home_check {
            self.go_home(bytes);
        }
        let ahead = (self.ring.data_offset(self.position) + 64) & !63;
        self.ring.memory.prefetch_write(ahead, (bytes as usize).min(FETCH_BYTES_MAX));
    }

    /// Skips to the start of the data if the consumer polls and keeps up and what was published was one frame, of
    /// `bytes`.
    ///
    /// The room that is skipped comes back when the consumer has passed it, so a consumer that sleeps or lags is
    /// never skipped ahead of: a burst would find the ring full. And another frame like this one must fit at home
    /// without asking the consumer again.
    #[inline(never)]
    fn go_home(&mut self, bytes: u64) {
        let offset = self.position & (self.ring.capacity - 1);
        if offset < 2 * bytes + FRAME_ALIGN {
            self.home_check = 2 * bytes + FRAME_ALIGN;
            return;
        }
        let polled = self.ring.header_word(MODE_AT).load(Ordering::Relaxed) == 0;
        // A broken head is found, and reported, when room is needed.
        let keeps_up = polled && self.refresh_head().is_ok() && self.head >= self.batch_start;
        let gap = self.ring.to_edge(self.position);
        if !keeps_up || self.room_for(gap).is_err() {
            // Ask again when twice as far, or at home after the edge.
            self.home_check = if offset < self.ring.capacity / 2 { offset * 2 } else { HOME_BYTES };
            return;
        }
        self.home_check = HOME_BYTES;
        let skip = CommitWord::new(gap as u32, PortId(0), Flags::PADDING).0;
        let at = self.position;
        self.position += gap;
        self.ring.data_word(self.position).store(0, Ordering::Relaxed);
        // Release: the cleared word at home comes before it.
        self.ring.data_word(at).store(skip, Ordering::Release);
    }

    /// Lends `bytes` of the ring to be filled in place. The message is sent by [`Loan::commit`]; a loan that is
    /// dropped sends nothing.
    ///
    /// # Errors
    /// [`SendError::TooLarge`] above half the ring, [`SendError::Full`] without room.
    #[inline]
    pub fn loan(&mut self, header: Header, bytes: usize) -> Result<Loan<'_>, SendError> {
        let prefix = HEADER_BYTES + header.flags.extension_bytes();
        let length = (prefix + bytes) as u64;
        let most = Ring::frame_bytes_max(self.ring.capacity);
        if extent(length) > most {
            return Err(SendError::TooLarge { bytes, bytes_max: most as usize - prefix });
        }
        self.reserve(length)?;
        self.open_frame(length);
        Ok(Loan { writer: self, header, prefix, bytes })
    }

    /// Marks the ring as waited for by its producer. The consumer that gives room back will look. Follow it with
    /// [`crate::barrier::heavy`] and [`has_room`](Self::has_room).
    pub(crate) fn set_starved(&self) {
        self.ring.header_word(STARVED_AT).store(1, Ordering::Relaxed);
    }

    /// Whether room came since the last time that the ring was full.
    ///
    /// # Errors
    /// A head that breaks the ring.
    pub fn has_room(&mut self) -> Result<bool, RingError> {
        let before = self.head;
        self.refresh_head()?;
        Ok(self.head != before)
    }
}

/// Room in the ring for one message, to be filled in place.
///
/// The consumer can read and, if it is hostile, write these bytes while they are filled. So nothing here gives a
/// reference to them.
pub struct Loan<'a> {
    writer: &'a mut RingWriter,
    header: Header,
    prefix: usize,
    bytes: usize,
}

impl Loan<'_> {
    /// The size of the loan.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Whether the loan has no bytes.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Copies `from` to `offset` of the message.
    ///
    /// # Panics
    /// If it does not fit.
    #[inline]
    pub fn write(&mut self, offset: usize, from: &[u8]) {
        assert!(
            offset <= self.bytes && from.len() <= self.bytes - offset,
            "{} bytes at {offset} leave a loan of {}",
            from.len(),
            self.bytes
        );
        let at = self.writer.ring.data_offset(self.writer.position) + self.prefix + offset;
        // SAFETY: inside the loan, as just checked, and the loan is inside the data, as `reserve` checked.
        unsafe { self.writer.ring.memory.copy_in(at, from) };
    }

    /// The first byte of the loan, for code that fills it in place, such as a renderer.
    ///
    /// Valid for [`len`](Self::len) bytes while the loan lives. Make no reference from it: a hostile consumer can
    /// write there at any time.
    #[cfg(not(loom))]
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        self.writer.ring.memory.as_ptr(self.writer.ring.data_offset(self.writer.position) + self.prefix)
    }

    /// Sends it, with what was written before it; the caller wakes the consumer.
    #[inline]
    pub fn commit(self) {
        if self.header.flags.extended() {
            self.writer.write_extensions(&self.header);
        }
        self.writer.close_frame((self.prefix + self.bytes) as u64, &self.header);
        self.writer.publish();
    }
}
