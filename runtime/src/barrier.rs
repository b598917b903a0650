//! An asymmetric fence: nearly free on the side that runs for every message, dear on the side that goes to sleep.
//!
//! Two threads each write one word and then read the other's. At least one must see the other's write. A full fence
//! on both sides does it and costs every message about a hundred nanoseconds; `membarrier` lets the rare side pay
//! for both, by making every processor that runs a registered process execute a fence at that moment.
//! (membarrier(2), `MEMBARRIER_CMD_GLOBAL_EXPEDITED`.)
//!
//! Invariant: [`light`] paired with [`heavy`] orders like two full fences. Where the kernel has no membarrier, or
//! may not have told us so, [`light`] *is* a full fence.

use crate::sync::{Ordering, fence};

#[cfg(not(loom))]
mod kernel {
    use rustix::thread::{MembarrierCommand, MembarrierQuery, membarrier, membarrier_query};
    use std::sync::atomic::{AtomicU8, Ordering};

    const UNKNOWN: u8 = 0;
    const ABSENT: u8 = 1;
    const REGISTERED: u8 = 2;
    static STATE: AtomicU8 = AtomicU8::new(UNKNOWN);

    /// Registers this process once; says whether membarrier may be relied on.
    pub(super) fn register() -> bool {
        // Relaxed: registering twice does no harm, and the state never goes back.
        match STATE.load(Ordering::Relaxed) {
            UNKNOWN => {
                let query = membarrier_query();
                let there = query.contains(MembarrierQuery::GLOBAL_EXPEDITED)
                    && membarrier(MembarrierCommand::RegisterGlobalExpedited).is_ok();
                STATE.store(if there { REGISTERED } else { ABSENT }, Ordering::Relaxed);
                there
            }
            state => state == REGISTERED,
        }
    }

    /// Whatever was registered is not this process.
    pub(super) fn forget() {
        STATE.store(UNKNOWN, Ordering::Relaxed);
    }

    #[inline(always)]
    pub(super) fn registered() -> bool {
        STATE.load(Ordering::Relaxed) == REGISTERED
    }

    pub(super) fn everyone() -> bool {
        register() && membarrier(MembarrierCommand::GlobalExpedited).is_ok()
    }
}

/// Gets the asymmetric fence ready for this process: every process that owns an end of a link does it first.
/// Returns whether the kernel has it; without, everything works, at the price of a full fence a message.
pub fn register() -> bool {
    #[cfg(not(loom))]
    return kernel::register();
    #[cfg(loom)]
    true
}

/// The same for a process that was forked from one which may have done it: what the kernel knows of that one need not
/// hold for its copy. A process that never registered stays so.
pub(crate) fn renew() {
    #[cfg(not(loom))]
    if kernel::registered() {
        kernel::forget();
        kernel::register();
    }
}

/// The cheap side: between a store and the load of a word that the other side writes before [`heavy`].
#[inline(always)]
pub fn light() {
    #[cfg(not(loom))]
    if kernel::registered() {
        // The compiler must not reorder; the processor is fenced from afar.
        std::sync::atomic::compiler_fence(Ordering::SeqCst);
        return;
    }
    fence(Ordering::SeqCst);
}

/// The dear side: after it, every store that a [`light`] side made before its fence is visible here, and every
/// [`light`] side that comes later sees the stores made before this.
///
/// Returns whether it reached the other processes; if not, only those that fence themselves are ordered.
#[cold]
pub fn heavy() -> bool {
    fence(Ordering::SeqCst);
    #[cfg(not(loom))]
    return kernel::everyone();
    #[cfg(loom)]
    true
}
