//! Asking for memory before it is needed.
//!
//! Invariant: a hint. Nothing is read or written, whatever happens to it.

use crate::copy::prefetch_write;

/// The bytes of a cache line.
const LINE_BYTES: usize = 64;

/// Asks for the cache lines of a value that is about to be written. Worth it where several values lie scattered in more
/// memory than the caches hold, and are known before they are needed.
#[inline(always)]
pub fn expect_write<T>(value: &T) {
    let at = std::ptr::from_ref(value).cast::<u8>();
    let first = at.addr() & (LINE_BYTES - 1);
    for line in (0..first + size_of::<T>()).step_by(LINE_BYTES) {
        prefetch_write(at.wrapping_sub(first).wrapping_add(line));
    }
}
