//! The consumer's end of a ring.
//!
//! Invariant: everything before `position` was handed over exactly once, in order; nothing at or after `vouched` is
//! looked at. A commit word is checked against the capacity that we know before anything it says is used. Room goes
//! back to the producer only by [`RingReader::release`], after the copies out.

use super::{HEAD_AT, Ring, RingError, STARVED_AT};
use crate::frame::{CommitWord, Flags, HEADER_BYTES, Header, extent};
use crate::id::SessionId;
use crate::sync::Ordering;

/// The consumer's end: see the head of this file.
pub struct RingReader {
    ring: Ring,
    /// Where the next frame is.
    position: u64,
    /// What the producer was told.
    released: u64,
    /// The frame before was padding: then a real one follows.
    padded: bool,
    /// How far the link's kind vouches for the bytes: all of them on shared memory, where the commit word says it.
    vouched: u64,
}

impl RingReader {
    /// The consumer's end of a new ring whose producer stores into it: every commit word counts.
    pub fn new(ring: Ring) -> Self {
        Self { ring, position: 0, released: 0, padded: false, vouched: u64::MAX }
    }

    /// The consumer's end of a ring that is filled for us piece by piece: nothing is read beyond what
    /// [`vouch`](Self::vouch) allows.
    pub fn vouched(ring: Ring) -> Self {
        Self { ring, position: 0, released: 0, padded: false, vouched: 0 }
    }

    /// Allows to read up to `position`. Never goes back.
    pub fn vouch(&mut self, position: u64) {
        self.vouched = self.vouched.max(position);
    }

    /// The ring.
    pub fn ring(&self) -> &Ring {
        &self.ring
    }

    /// The position of the next frame.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Whether a frame, or something that breaks the ring, waits.
    #[inline(always)]
    pub fn ready(&self) -> bool {
        if self.vouched != u64::MAX {
            return self.position < self.vouched;
        }
        // Relaxed: a hint. `take` loads the word again with acquire before anything is read behind it.
        self.ring.data_word(self.position).load(Ordering::Relaxed) != 0
    }

    /// The next frame, if one is there. The reader is behind it from then on; its bytes stay valid until the next
    /// [`release`](Self::release).
    ///
    /// # Errors
    /// A frame that breaks the ring. The reader stays where it is, and must not be used again.
    #[inline(always)]
    pub fn take(&mut self) -> Result<Option<Frame<'_>>, RingError> {
        loop {
            if self.position >= self.vouched {
                return Ok(None);
            }
            let start = self.position;
            let Some(word) = check(&self.ring, start)? else {
                // What is vouched for holds frames to its end.
                return if self.vouched == u64::MAX { Ok(None) } else { Err(self.refuse(CommitWord(0))) };
            };
            if extent(word.length()) > self.vouched - start {
                return Err(self.refuse(word));
            }
            if word.flags().has(Flags::PADDING) {
                // No producer of ours pads twice in a row, and a ring of padding alone would keep us here for ever.
                if std::mem::replace(&mut self.padded, true) {
                    return Err(self.refuse(word));
                }
                self.position += extent(word.length());
                continue;
            }
            self.padded = false;
            self.position += extent(word.length());
            return Ok(Some(Frame::at(&self.ring, start, word)));
        }
    }

    #[cold]
    fn refuse(&self, word: CommitWord) -> RingError {
        RingError::CommitWord { word: word.0, position: self.position }
    }

    /// Gives the room of all frames read back to the producer. Returns whether the producer waits for it: then the
    /// caller wakes it.
    #[inline(always)]
    pub fn release(&mut self) -> bool {
        if self.released == self.position {
            return false;
        }
        self.released = self.position;
        // Release: our copies out are done before the producer can see the room; pairs with its acquire.
        self.ring.header_word(HEAD_AT).store(self.position, Ordering::Release);
        crate::barrier::light();
        self.ring.header_word(STARVED_AT).load(Ordering::Relaxed) != 0 && self.take_starved()
    }

    #[inline(never)]
    fn take_starved(&mut self) -> bool {
        // AcqRel: whoever takes the mark rings, once.
        self.ring.header_word(STARVED_AT).swap(0, Ordering::AcqRel) != 0
    }

    /// The position up to which the producer has room.
    #[cfg(not(loom))]
    pub(crate) fn room_to(&self) -> u64 {
        self.released + self.ring.capacity
    }

    /// How many bytes were read whose room has not been given back.
    #[inline(always)]
    pub fn unreleased(&self) -> u64 {
        self.position - self.released
    }
}

/// The commit word at `position`, if there is a frame, checked against the rules of the ring.
#[inline(always)]
pub(super) fn check(ring: &Ring, position: u64) -> Result<Option<CommitWord>, RingError> {
    // Acquire: pairs with the release in `RingWriter::publish`, so header and payload are there too.
    let word = CommitWord(ring.data_word(position).load(Ordering::Acquire));
    if word.0 == 0 {
        return Ok(None);
    }
    if !word.plausible(Ring::frame_bytes_max(ring.capacity)) || extent(word.length()) > ring.to_edge(position)
    {
        return Err(refuse(ring, position, word));
    }
    Ok(Some(word))
}

#[cold]
fn refuse(ring: &Ring, position: u64, word: CommitWord) -> RingError {
    let (length, capacity) = (word.length(), ring.capacity);
    if word.plausible(u64::MAX) {
        RingError::FrameLength { length, position, capacity }
    } else {
        RingError::CommitWord { word: word.0, position }
    }
}

/// A frame in the ring. The header is our copy; the payload is still the peer's to change, so it is only copied.
pub struct Frame<'a> {
    ring: &'a Ring,
    word: CommitWord,
    start: u64,
    prefix: usize,
}

impl<'a> Frame<'a> {
    #[inline(always)]
    fn at(ring: &'a Ring, start: u64, word: CommitWord) -> Self {
        // A branch, not a sum: where the payload starts must not be computed from the word, or the processor could not
        // ask for the payload's lines before the word's own has come (docs/adr/0010).
        let prefix = if word.flags().extended() { Self::extended_prefix(word) } else { HEADER_BYTES };
        Self { ring, word, start, prefix }
    }

    /// The header, extensions included.
    #[inline(always)]
    pub fn header(&self) -> Header {
        let session = SessionId::from_bits(self.ring.data_word(self.start + 8).load(Ordering::Relaxed));
        let flags = self.word.flags();
        let mut header = Header { port: self.word.port(), flags, session, call: 0, stamp_ns: 0 };
        if flags.extended() {
            self.read_extensions(&mut header);
        }
        header
    }

    #[inline(never)]
    fn read_extensions(&self, header: &mut Header) {
        let mut at = self.start + HEADER_BYTES as u64;
        for (flag, value) in [(Flags::CALL, &mut header.call), (Flags::STAMP, &mut header.stamp_ns)] {
            if header.flags.has(flag) {
                *value = self.ring.data_word(at).load(Ordering::Relaxed);
                at += 8;
            }
        }
    }

    #[cold]
    #[inline(never)]
    fn extended_prefix(word: CommitWord) -> usize {
        HEADER_BYTES + word.flags().extension_bytes()
    }

    /// The payload's size in bytes.
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.word.length() as usize - self.prefix
    }

    /// Whether the payload is empty.
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where the frame starts.
    pub fn position(&self) -> u64 {
        self.start
    }

    /// Appends the payload to `into`.
    #[inline(always)]
    pub fn append_to(&self, into: &mut Vec<u8>) {
        let at = self.ring.data_offset(self.start) + self.prefix;
        // SAFETY: `check` made sure that the frame, by the length in our copy of the word, lies inside the data.
        unsafe { self.ring.memory.append_to(at, self.len(), into) };
    }

    /// Copies `into.len()` bytes of the payload, from `offset` on.
    ///
    /// # Panics
    /// If the payload has fewer.
    #[inline(always)]
    pub fn read(&self, offset: usize, into: &mut [u8]) {
        assert!(
            offset <= self.len() && into.len() <= self.len() - offset,
            "{} bytes at {offset} leave a payload of {}",
            into.len(),
            self.len()
        );
        let at = self.ring.data_offset(self.start) + self.prefix + offset;
        // SAFETY: inside the payload, as just checked, which is inside the data, as `check` made sure.
        unsafe { self.ring.memory.copy_out(at, into) };
    }

    /// The payload's first byte in the ring, valid for [`len`](Self::len) bytes until the reader releases.
    ///
    /// The peer can change the bytes at any time, so make no reference from it: copy, or read volatile.
    #[cfg(not(loom))]
    pub fn as_ptr(&self) -> *const u8 {
        self.ring.memory.as_ptr(self.ring.data_offset(self.start) + self.prefix)
    }
}
