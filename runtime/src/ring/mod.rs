//! The ring: a bounded single-producer single-consumer queue of frames in shared memory.
//!
//! ```text
//!      0  identity      magic, version, capacity; written once by whoever makes the ring, for people and tools
//!    128  producer      starved: it waits for room
//!    256  consumer      head: all before it may be overwritten
//!    384  wake          mode: how the producer wakes the consumer (see `wake`)
//!    512  …             room for the journal's position and the link's epoch
//!   4096  data          capacity bytes, a power of two
//! ```
//!
//! A position is a count of bytes that only grows; position `p` lives at `p & (capacity - 1)` of the data. A frame
//! never wraps: padding fills the end. **There is a frame at a position where the commit word is not zero**: the
//! producer writes everything else first, clears the commit word behind the last frame, and stores the first one
//! with release. So one cache line carries a small message, nobody reads a shared tail, and bytes of an earlier lap
//! are never taken for a frame.
//!
//! **A quiet ring goes home.** While its consumer polls and keeps up, the producer of single messages skips back to
//! the start of the data every few messages, so the same few cache lines go back and forth, whatever the capacity.
//! That halves a round trip on processors that prefetch behind a reader who walks on (docs/adr/0003).
//!
//! Both sides know the capacity from whoever handed them the ring, and keep their own position. What they read from
//! the page is checked before use: a ring that breaks its rules is closed with a [`RingError`].

mod reader;
mod writer;

pub use reader::{Frame, RingReader};
pub use writer::{Loan, RingWriter, SendError};

use crate::frame::extent;
use crate::memory::{LINE_PAIR_BYTES, Memory, PAGE_BYTES};
#[cfg(not(loom))]
use crate::region::{Region, RegionError};
use crate::sync::Ordering;

/// The smallest ring, in bytes of data.
pub const CAPACITY_MIN: usize = if cfg!(loom) { 256 } else { 4096 };
/// The largest ring, in bytes of data.
pub const CAPACITY_MAX: usize = 64 << 20;

/// A message of more than this, header included, is cut into fragments, so that the consumer copies one while the
/// producer fills the next.
pub const FRAGMENT_BYTES_MAX: u64 = 8192;
/// A batch is published at the latest when it has this many bytes …
pub const BATCH_BYTES_MAX: u64 = 8192;
/// … or this many frames.
pub const BATCH_FRAMES_MAX: u32 = 128;
/// A quiet ring stays within about so many bytes.
pub const HOME_BYTES: u64 = 192;

pub(crate) const MAGIC_AT: usize = 0;
pub(crate) const VERSION_AT: usize = 8;
pub(crate) const CAPACITY_AT: usize = 16;
pub(crate) const STARVED_AT: usize = LINE_PAIR_BYTES;
pub(crate) const HEAD_AT: usize = 2 * LINE_PAIR_BYTES;
pub(crate) const MODE_AT: usize = 3 * LINE_PAIR_BYTES;
pub(crate) const DATA_AT: usize = PAGE_BYTES;

const MAGIC: u64 = u64::from_le_bytes(*b"shardrng");
const VERSION: u64 = 1;

/// What a peer did to a ring. The link is closed; nothing else is touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    /// A commit word that no producer of ours writes.
    #[error(
        "the producer broke the ring: commit word {word:#018x} at position {position}; the link is closed, restart the shard that writes it"
    )]
    CommitWord {
        /// The word.
        word: u64,
        /// Where.
        position: u64,
    },
    /// A frame that would leave the data area or is larger than any frame may be.
    #[error(
        "the producer broke the ring: a frame of {length} bytes at position {position} of a ring of {capacity}; the link is closed, restart the shard that writes it"
    )]
    FrameLength {
        /// What the frame claims.
        length: u64,
        /// Where.
        position: u64,
        /// The ring's size.
        capacity: u64,
    },
    /// A head that went back or ran ahead of what was written.
    #[error(
        "the consumer broke the ring: head {head} is not between {from} and {to}; the link is closed, restart the shard that reads it"
    )]
    Head {
        /// What stood in the page.
        head: u64,
        /// The head before.
        from: u64,
        /// The end of what was written.
        to: u64,
    },
    /// A message that has more fragments than its port allows.
    #[error("the producer sent a message of more than {bytes_max} bytes in fragments; the link is closed")]
    MessageLength {
        /// What the port allows.
        bytes_max: usize,
    },
    /// Fragments that do not belong together.
    #[error("the producer mixed fragments of two messages at position {position}; the link is closed")]
    Fragment {
        /// Where.
        position: u64,
    },
}

/// Where a ring lives: its memory and the capacity that we know, whatever the page says.
#[derive(Clone)]
pub struct Ring {
    memory: Memory,
    capacity: u64,
}

impl Ring {
    /// How large a region must be for a ring of `capacity` bytes of data.
    pub const fn region_bytes(capacity: usize) -> usize {
        DATA_AT + capacity
    }

    /// Whether a ring can have this many bytes of data: a power of two from [`CAPACITY_MIN`] to [`CAPACITY_MAX`].
    pub const fn possible(capacity: usize) -> bool {
        capacity.is_power_of_two() && capacity >= CAPACITY_MIN && capacity <= CAPACITY_MAX
    }

    /// Makes the region of a ring: sealed, zeroed, its identity written, its consumer taken as asleep.
    ///
    /// # Errors
    /// As [`Region::create`].
    ///
    /// # Panics
    /// If the capacity is not [`possible`](Ring::possible).
    #[cfg(not(loom))]
    pub fn create(label: &str, capacity: usize) -> Result<Region, RegionError> {
        assert!(Self::possible(capacity), "a ring of {capacity} bytes is not possible");
        let region = Region::create(label, Self::region_bytes(capacity))?;
        Self::new(region.map(false)?, capacity).identify();
        Ok(region)
    }

    /// Takes a mapping of [`Ring::region_bytes`] bytes as a ring of `capacity` bytes of data.
    ///
    /// # Panics
    /// If the capacity is not possible or the memory has another size: both are ours to get right.
    pub fn new(memory: Memory, capacity: usize) -> Self {
        assert!(Self::possible(capacity), "a ring of {capacity} bytes is not possible");
        assert_eq!(memory.len(), Self::region_bytes(capacity), "the memory is not that ring's");
        Self { memory, capacity: capacity as u64 }
    }

    /// Writes the identity and arms the wake mode. Once, before anyone else has the ring; [`Ring::create`] has done
    /// it.
    pub fn identify(&self) {
        self.memory.word(MAGIC_AT).store(MAGIC, Ordering::Relaxed);
        self.memory.word(VERSION_AT).store(VERSION, Ordering::Relaxed);
        self.memory.word(CAPACITY_AT).store(self.capacity, Ordering::Relaxed);
        self.memory.word(MODE_AT).store(crate::wake::MODE_AT_START, Ordering::Release);
    }

    /// The bytes of data.
    pub fn capacity(&self) -> usize {
        self.capacity as usize
    }

    /// The memory.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// The largest frame: half the ring, so that padding and frame always fit one after the other.
    #[inline(always)]
    pub(crate) const fn frame_bytes_max(capacity: u64) -> u64 {
        capacity / 2
    }

    /// The largest fragment: small enough that several are under way at once.
    #[inline(always)]
    pub(crate) const fn fragment_bytes_max(capacity: u64) -> u64 {
        let quarter = capacity / 4;
        if quarter < FRAGMENT_BYTES_MAX { quarter } else { FRAGMENT_BYTES_MAX }
    }

    /// The word of the data area at `position`.
    #[inline(always)]
    pub(crate) fn data_word(&self, position: u64) -> &crate::sync::AtomicU64 {
        debug_assert!(position.is_multiple_of(8));
        // SAFETY: the masked position is below the capacity and a multiple of 8; `new` checked that the memory
        // holds the header page and the capacity.
        unsafe { self.memory.word_unchecked(self.data_offset(position)) }
    }

    /// Where `position` lives in the memory.
    #[inline(always)]
    pub(crate) fn data_offset(&self, position: u64) -> usize {
        DATA_AT + (position & (self.capacity - 1)) as usize
    }

    /// How far it is from `position` to the edge of the data.
    #[inline(always)]
    pub(crate) fn to_edge(&self, position: u64) -> u64 {
        self.capacity - (position & (self.capacity - 1))
    }

    /// A word of the header page.
    #[inline(always)]
    pub(crate) fn header_word(&self, at: usize) -> &crate::sync::AtomicU64 {
        debug_assert!(at < DATA_AT && at.is_multiple_of(8));
        // SAFETY: inside the header page, which `new` checked to be there, and aligned: all offsets are constants.
        unsafe { self.memory.word_unchecked(at) }
    }

    /// The frame at `position` of a ring that only we write: how much it takes, and whether it is padding.
    #[cfg(not(loom))]
    pub(crate) fn own_frame(&self, position: u64) -> (u64, bool) {
        let word = crate::frame::CommitWord(self.data_word(position).load(Ordering::Relaxed));
        (extent(word.length()), word.flags().has(crate::frame::Flags::PADDING))
    }

    /// Appends `bytes` bytes of the data from `position` on to `into`, across the edge if need be.
    #[cfg(not(loom))]
    pub(crate) fn append_data(&self, position: u64, bytes: usize, into: &mut Vec<u8>) {
        let first = bytes.min(self.to_edge(position) as usize);
        for (at, len) in [(position, first), (position + first as u64, bytes - first)] {
            assert!(len as u64 <= self.to_edge(at), "more bytes than the ring has");
            // SAFETY: `len` bytes from there lie before the edge of the data, as just checked.
            unsafe { self.memory.append_to(self.data_offset(at), len, into) };
        }
    }

    /// Copies `bytes` to `position` of the data, across the edge if need be.
    #[cfg(not(loom))]
    pub(crate) fn write_data(&self, position: u64, bytes: &[u8]) {
        let (first, rest) = bytes.split_at(bytes.len().min(self.to_edge(position) as usize));
        for (at, bytes) in [(position, first), (position + first.len() as u64, rest)] {
            assert!(bytes.len() as u64 <= self.to_edge(at), "more bytes than the ring has");
            // SAFETY: the bytes lie before the edge of the data, as just checked.
            unsafe { self.memory.copy_in(self.data_offset(at), bytes) };
        }
    }

    /// Writes the commit word of padding.
    #[cfg(not(loom))]
    pub(crate) fn write_padding(&self, position: u64, bytes: u32) {
        let word = crate::frame::CommitWord::new(bytes, crate::id::PortId(0), crate::frame::Flags::PADDING);
        self.data_word(position).store(word.0, Ordering::Relaxed);
    }

    /// Says for the consumer, who is elsewhere, how far it has given room back.
    #[cfg(not(loom))]
    pub(crate) fn set_head(&self, head: u64) {
        self.header_word(HEAD_AT).store(head, Ordering::Release);
    }

    /// Walks from `head` over the published frames and returns the position behind the last one: how a producer
    /// that takes over a ring finds where to go on, and how a tool sees the depth.
    ///
    /// # Errors
    /// A frame that breaks the ring.
    pub fn find_tail(&self, head: u64) -> Result<u64, RingError> {
        let mut position = head;
        while position - head < self.capacity {
            match reader::check(self, position)? {
                Some(word) => position += extent(word.length()),
                None => break,
            }
        }
        Ok(position)
    }

    /// The position up to which the consumer has given room back, as the page says: a hint, for people and tools.
    pub fn head(&self) -> u64 {
        self.header_word(HEAD_AT).load(Ordering::Acquire)
    }
}
