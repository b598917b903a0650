//! Copies between private memory and a ring.
//!
//! Small ones inline, and so that no address is computed from the length, only branches depend on it: the processor asks
//! for all lines of a message at once, even before the length has come (docs/adr/0010). Large ones by the C library's
//! `memcpy`, which is tuned for the processor at hand: a loop of our own was a quarter slower at 4 KiB and above between
//! distant cores (`shard-bench -- local --patterns rtt`).

use std::sync::atomic::{Ordering, compiler_fence};

/// Up to here the copy is inline.
const INLINE_BYTES_MAX: usize = 256;

/// Copies `len` bytes into shared memory.
///
/// # Safety
/// `from` is readable and `to` writable for `len` bytes; the two do not overlap.
#[inline(always)]
pub(crate) unsafe fn to_shared(from: *const u8, to: *mut u8, len: usize) {
    // SAFETY: the caller's promise.
    unsafe { copy(from, to, len) }
}

/// Copies `len` bytes out of shared memory.
///
/// # Safety
/// `from` is readable and `to` writable for `len` bytes; the two do not overlap.
#[inline(always)]
pub(crate) unsafe fn from_shared(from: *const u8, to: *mut u8, len: usize) {
    // SAFETY: the caller's promise.
    unsafe { copy(from, to, len) }
}

/// # Safety
/// `from` is readable and `to` writable for `len` bytes; the two do not overlap.
#[inline(always)]
unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    if len > INLINE_BYTES_MAX {
        // SAFETY: the caller's promise. A call that the compiler can't see through: a racing peer changes bytes,
        // not the meaning of the program.
        unsafe { libc::memcpy(to.cast(), from.cast(), len) };
        return;
    }
    // SAFETY: each access below stays inside `len` bytes: `at` grows by what was copied, as long as so much is left.
    unsafe {
        let mut at = 0;
        while at + 64 <= len {
            copy_chunk::<[u128; 4]>(from, to, at);
            at += 64;
            stay_a_loop();
        }
        while at + 16 <= len {
            copy_chunk::<u128>(from, to, at);
            at += 16;
            stay_a_loop();
        }
        if len & 8 != 0 {
            copy_chunk::<u64>(from, to, at);
            at += 8;
        }
        if len & 4 != 0 {
            copy_chunk::<u32>(from, to, at);
            at += 4;
        }
        if len & 2 != 0 {
            copy_chunk::<u16>(from, to, at);
            at += 2;
        }
        if len & 1 != 0 {
            copy_chunk::<u8>(from, to, at);
        }
    }
}

/// Keeps the compiler from making a call of `memcpy` out of a loop: that computes addresses from the length.
#[inline(always)]
fn stay_a_loop() {
    compiler_fence(Ordering::SeqCst);
}

/// # Safety
/// `at + size_of::<T>()` is inside both.
#[inline(always)]
unsafe fn copy_chunk<T: Copy>(from: *const u8, to: *mut u8, at: usize) {
    // SAFETY: the caller's promise; unaligned accesses are asked for as such.
    unsafe { to.add(at).cast::<T>().write_unaligned(from.add(at).cast::<T>().read_unaligned()) }
}

/// Asks for the cache line at `at` for writing. A hint that can't fault, whatever the address.
#[inline(always)]
pub(crate) fn prefetch_write(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch has no effect on memory and never faults.
    unsafe {
        core::arch::asm!("prefetchw [{0}]", in(reg) at, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}
