//! Memory that another process may write at any time.
//!
//! Invariant: nobody ever holds a `&T` or `&mut T` to plain bytes in here. Words are atomics; payloads are copied
//! in and out through raw pointers. Every access is inside the mapping: the safe functions check it, the unchecked
//! ones say who did.
//!
//! A peer that writes while we copy gives us arbitrary bytes, never anything worse: bytes have no invalid values,
//! and whoever interprets them has its own copy by then.

#[cfg(loom)]
pub use model::Memory;
#[cfg(not(loom))]
pub use real::Memory;

/// The bytes between two words that different cores write: two cache lines, because processors fetch them in pairs.
pub const LINE_PAIR_BYTES: usize = 128;
/// The size of a page; small in a model, where every word is watched.
pub const PAGE_BYTES: usize = if cfg!(loom) { 512 } else { 4096 };

#[cfg(not(loom))]
mod real {
    use crate::copy;
    use crate::sync::AtomicU64;
    use std::ptr::NonNull;
    use std::sync::Arc;
    use std::sync::atomic::AtomicU32;

    /// A shared mapping; clones share it, and the last one unmaps it.
    #[derive(Clone)]
    pub struct Memory {
        base: NonNull<u8>,
        len: usize,
        _owner: Arc<dyn Send + Sync>,
    }

    // SAFETY: the mapping lives as long as `_owner`, is not tied to a thread, and is accessed only through atomics
    // and raw copies whose races are part of the contract (see the head of the file).
    unsafe impl Send for Memory {}
    // SAFETY: as above; no method gives out a reference to plain bytes.
    unsafe impl Sync for Memory {}

    impl Memory {
        /// Wraps a mapping of `len` bytes at `base`, kept alive by `owner`.
        ///
        /// # Safety
        /// `base` is page aligned, valid for reads and writes of `len` bytes while `owner` lives, and nobody in this
        /// process makes references to plain bytes in it.
        pub(crate) unsafe fn new(base: NonNull<u8>, len: usize, owner: Arc<dyn Send + Sync>) -> Self {
            Self { base, len, _owner: owner }
        }

        /// The size in bytes.
        pub fn len(&self) -> usize {
            self.len
        }

        /// A part of it, which keeps the whole mapped.
        ///
        /// # Panics
        /// If the part is not inside, or does not start at a page.
        pub fn part(&self, offset: usize, len: usize) -> Self {
            let inside = offset.checked_add(len).is_some_and(|end| end <= self.len);
            assert!(
                inside && offset.is_multiple_of(super::PAGE_BYTES),
                "no part at {offset} of {}",
                self.len
            );
            // SAFETY: `offset` is inside the mapping, as just checked.
            let base = unsafe { self.base.add(offset) };
            Self { base, len, _owner: Arc::clone(&self._owner) }
        }

        /// Whether there are no bytes; a mapping always has some.
        pub fn is_empty(&self) -> bool {
            self.len == 0
        }

        /// The word at `offset`.
        ///
        /// # Panics
        /// If `offset` is not a multiple of 8 or the word is not inside.
        #[inline]
        pub fn word(&self, offset: usize) -> &AtomicU64 {
            assert!(
                offset.is_multiple_of(8) && offset + 8 <= self.len,
                "no word at {offset} of {}",
                self.len
            );
            // SAFETY: aligned and inside, as just checked.
            unsafe { self.word_unchecked(offset) }
        }

        /// The word at `offset`, unchecked.
        ///
        /// # Safety
        /// `offset` is a multiple of 8 and `offset + 8 <= self.len()`.
        #[inline(always)]
        pub unsafe fn word_unchecked(&self, offset: usize) -> &AtomicU64 {
            debug_assert!(offset.is_multiple_of(8) && offset + 8 <= self.len);
            // SAFETY: inside the mapping and aligned, as the caller promises; an atomic may be written by others.
            unsafe { AtomicU64::from_ptr(self.base.as_ptr().add(offset).cast()) }
        }

        /// The low half of the word at `offset`: what a futex waits on.
        ///
        /// # Panics
        /// As [`Memory::word`].
        #[inline]
        pub fn futex_word(&self, offset: usize) -> &AtomicU32 {
            assert!(
                offset.is_multiple_of(8) && offset + 8 <= self.len,
                "no word at {offset} of {}",
                self.len
            );
            let low = if cfg!(target_endian = "little") { offset } else { offset + 4 };
            // SAFETY: inside the mapping and aligned to 4, as just checked; an atomic may be written by others.
            unsafe { AtomicU32::from_ptr(self.base.as_ptr().add(low).cast()) }
        }

        /// Copies `bytes` to `offset`.
        ///
        /// # Safety
        /// `offset + bytes.len() <= self.len()`.
        #[inline(always)]
        pub unsafe fn copy_in(&self, offset: usize, bytes: &[u8]) {
            debug_assert!(offset + bytes.len() <= self.len);
            // SAFETY: the source is ours, the target is inside the mapping; a racing peer is in the contract.
            unsafe { copy::to_shared(bytes.as_ptr(), self.base.as_ptr().add(offset), bytes.len()) }
        }

        /// Copies `into.len()` bytes from `offset`.
        ///
        /// # Safety
        /// `offset + into.len() <= self.len()`.
        #[inline(always)]
        pub unsafe fn copy_out(&self, offset: usize, into: &mut [u8]) {
            debug_assert!(offset + into.len() <= self.len);
            // SAFETY: the target is ours, the source is inside the mapping; a racing peer is in the contract.
            unsafe { copy::from_shared(self.base.as_ptr().add(offset), into.as_mut_ptr(), into.len()) }
        }

        /// Appends `len` bytes from `offset` to `into`, which needs no zeroing first.
        ///
        /// # Safety
        /// `offset + len <= self.len()`.
        #[inline(always)]
        pub unsafe fn append_to(&self, offset: usize, len: usize, into: &mut Vec<u8>) {
            debug_assert!(offset + len <= self.len);
            into.reserve(len);
            // SAFETY: the source is inside the mapping, `reserve` made room for `len` bytes behind the vector's
            // length, and after the copy they are initialised.
            unsafe {
                copy::from_shared(self.base.as_ptr().add(offset), into.as_mut_ptr().add(into.len()), len);
                into.set_len(into.len() + len);
            }
        }

        /// Asks for the lines of `[offset, offset + bytes)` for writing. A hint: it may do nothing.
        #[inline(always)]
        pub fn prefetch_write(&self, offset: usize, bytes: usize) {
            let end = (offset + bytes).min(self.len);
            let mut at = offset;
            while at < end {
                copy::prefetch_write(self.base.as_ptr().wrapping_add(at));
                at += 64;
            }
        }

        /// A pointer to `offset`, for the `unsafe` views.
        ///
        /// # Panics
        /// If `offset` is outside.
        pub fn as_ptr(&self, offset: usize) -> *mut u8 {
            assert!(offset <= self.len, "no byte at {offset} of {}", self.len);
            // SAFETY: inside the mapping or one past its end, as just checked.
            unsafe { self.base.as_ptr().add(offset) }
        }
    }
}

#[cfg(loom)]
mod model {
    use crate::sync::{AtomicU64, Ordering};
    use std::sync::Arc;

    /// Words that loom watches, in place of a mapping. Payload bytes are words too, accessed relaxed.
    #[derive(Clone)]
    pub struct Memory {
        words: Arc<Vec<AtomicU64>>,
    }

    impl Memory {
        /// Zeroed memory of `len` bytes, a multiple of 8.
        pub fn zeroed(len: usize) -> Self {
            Self { words: Arc::new((0..len / 8).map(|_| AtomicU64::new(0)).collect()) }
        }

        /// The size in bytes.
        pub fn len(&self) -> usize {
            self.words.len() * 8
        }

        /// The word at `offset`.
        pub fn word(&self, offset: usize) -> &AtomicU64 {
            &self.words[offset / 8]
        }

        /// The word at `offset`.
        ///
        /// # Safety
        /// As the real one.
        pub unsafe fn word_unchecked(&self, offset: usize) -> &AtomicU64 {
            self.word(offset)
        }

        /// Copies `bytes`, padded to whole words, to `offset`.
        ///
        /// # Safety
        /// As the real one.
        pub unsafe fn copy_in(&self, offset: usize, bytes: &[u8]) {
            for (at, chunk) in bytes.chunks(8).enumerate() {
                let mut word = [0; 8];
                word[..chunk.len()].copy_from_slice(chunk);
                self.word(offset + at * 8).store(u64::from_le_bytes(word), Ordering::Relaxed);
            }
        }

        /// Copies `into.len()` bytes from `offset`.
        ///
        /// # Safety
        /// As the real one.
        pub unsafe fn copy_out(&self, offset: usize, into: &mut [u8]) {
            for (at, chunk) in into.chunks_mut(8).enumerate() {
                let word = self.word(offset + at * 8).load(Ordering::Relaxed).to_le_bytes();
                chunk.copy_from_slice(&word[..chunk.len()]);
            }
        }

        /// Nothing to fetch in a model.
        pub fn prefetch_write(&self, _offset: usize, _bytes: usize) {}

        /// Appends `len` bytes from `offset` to `into`.
        ///
        /// # Safety
        /// As the real one.
        pub unsafe fn append_to(&self, offset: usize, len: usize, into: &mut Vec<u8>) {
            let start = into.len();
            into.resize(start + len, 0);
            // SAFETY: as the caller promises.
            unsafe { self.copy_out(offset, &mut into[start..]) }
        }
    }
}
