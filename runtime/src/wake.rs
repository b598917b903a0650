//! How a producer wakes its consumer: the wake mode of a ring and the bell of a shard.
//!
//! A consumer polls its *hot* links and nothing else. Each other link is *armed*: its ring's mode word says that the
//! producer has to ring. Ringing sets the link's bit in the consumer's bell and, if the consumer sleeps, wakes it.
//!
//! ```text
//! producer, after publishing a frame          consumer, arming a link or going to sleep
//!   (frame's commit word is stored)             store mode |= RING
//!   light fence                                 heavy fence
//!   load mode; RING? take it and ring           look at the ring again; a frame? take RING back
//! ```
//!
//! Invariant: after arming, either the consumer sees the frame or the producer sees `RING`. The light fence is
//! free where the kernel has membarrier (see [`crate::barrier`]). A consumer that sleeps often would interrupt its
//! producers with every heavy fence, so a ring can be `CAREFUL`: then its producer makes a full fence itself, and
//! arming needs only a full fence too. `CAREFUL` is set by arming and taken away from links that stay hot.
//!
//! The bell can be written by every peer of the shard, so it is a hint: the consumer sweeps all links once in a
//! while, and what a hostile peer rubbed out is late by at most [`SWEEP_NS`].

use crate::id::LinkId;
use crate::memory::{LINE_PAIR_BYTES, Memory, PAGE_BYTES};
#[cfg(not(loom))]
use crate::region::{Region, RegionError};
use crate::ring::{MODE_AT, Ring};
use crate::sync::{Ordering, fence};

/// The mode bit that asks the producer to ring.
pub(crate) const RING: u64 = 1;
/// The mode bit that asks the producer for a full fence before it looks again.
pub(crate) const CAREFUL: u64 = 2;
/// A new link is armed, and careful: nobody knows yet who polls it.
pub(crate) const MODE_AT_START: u64 = RING | CAREFUL;

/// The most links that one shard can receive from.
pub const LINKS_MAX: usize = if cfg!(loom) { 64 } else { 1024 };
const BELL_WORDS: usize = LINKS_MAX / 64;

/// How long a frame may wait at the most when a hostile peer rubbed out the bell of its link, in nanoseconds.
pub const SWEEP_NS: u64 = 250_000_000;

const PARKED_AT: usize = LINE_PAIR_BYTES;
const SUMMARY_AT: usize = LINE_PAIR_BYTES + 8;
const BITS_AT: usize = 2 * LINE_PAIR_BYTES;

/// The summary's bit for "a full ring has room again".
const ROOM: u64 = 1 << 16;
/// The summary's bit for "someone inside the process has something", such as the service thread.
const CALL_IN: u64 = 1 << 17;

/// The size of a bell's region.
pub const BELL_BYTES: usize = PAGE_BYTES;

/// The producer's side, after it published: rings if the consumer asked for it. Costs one load where it did not.
#[inline(always)]
pub(crate) fn after_publish(ring: &Ring, ringer: &Ringer, link: LinkId) {
    if after_publish_quietly(ring, ringer, link) {
        ringer.page.wake();
    }
}

/// As [`after_publish`], without waking. True if the consumer sleeps and this producer is the one who has to wake it.
#[inline(always)]
#[must_use]
pub(crate) fn after_publish_quietly(ring: &Ring, ringer: &Ringer, link: LinkId) -> bool {
    crate::barrier::light();
    // Relaxed: ordered by the fence; the value only decides whether to look closer.
    ring.header_word(MODE_AT).load(Ordering::Relaxed) != 0 && ring_if_asked(ring, ringer, link)
}

#[inline(never)]
fn ring_if_asked(ring: &Ring, ringer: &Ringer, link: LinkId) -> bool {
    // The full fence that CAREFUL asks for: between our commit word and the mode that is read below.
    fence(Ordering::SeqCst);
    let mode = ring.header_word(MODE_AT);
    // AcqRel: whoever takes RING rings, so a burst rings once.
    mode.load(Ordering::Relaxed) & RING != 0
        && mode.fetch_and(!RING, Ordering::AcqRel) & RING != 0
        && ringer.ring_quietly(link)
}

/// The consumer's side of a ring's mode.
pub(crate) trait Mode {
    /// Asks the producer to ring. Follow it with a fence, then look at the ring again. Says whether the producer is
    /// known to fence itself, so that a full fence here is enough; otherwise it takes [`crate::barrier::heavy`].
    fn arm(&self, careful_known: bool);
    /// No ringing, please: we poll.
    fn disarm(&self);
    /// No fences, please: we poll and will for a while.
    fn relax(&self);
}

impl Mode for Ring {
    fn arm(&self, careful_known: bool) {
        let bits = if careful_known { RING } else { RING | CAREFUL };
        self.header_word(MODE_AT).fetch_or(bits, Ordering::AcqRel);
    }

    fn disarm(&self) {
        let mode = self.header_word(MODE_AT);
        if mode.load(Ordering::Relaxed) & RING != 0 {
            mode.fetch_and(!RING, Ordering::AcqRel);
        }
    }

    fn relax(&self) {
        self.header_word(MODE_AT).fetch_and(!CAREFUL, Ordering::AcqRel);
    }
}

/// A page by which the peers of a shard wake it: one bit a link, a summary, and the word that it sleeps on.
#[derive(Clone)]
struct BellPage {
    memory: Memory,
}

impl BellPage {
    fn new(memory: Memory) -> Self {
        assert_eq!(memory.len(), BELL_BYTES, "the memory is not a bell's");
        Self { memory }
    }

    #[cfg(not(loom))]
    fn map(region: &Region) -> Result<Self, RegionError> {
        Ok(Self::new(region.map(true)?))
    }

    fn summary(&self) -> &crate::sync::AtomicU64 {
        // SAFETY: a constant inside the page, which `new` checked, and a multiple of 8.
        unsafe { self.memory.word_unchecked(SUMMARY_AT) }
    }

    /// Sets a bit of the summary and wakes the sleeper.
    fn signal(&self, bit: u64) {
        if self.signal_quietly(bit) {
            self.wake();
        }
    }

    /// Sets a bit of the summary. True if the owner sleeps and the caller is the one who has to wake it.
    #[must_use]
    fn signal_quietly(&self, bit: u64) -> bool {
        // Release: the bits of the links come before it; pairs with the acquire in `answer`.
        self.summary().fetch_or(bit, Ordering::Release);
        // Between the summary and `parked`: pairs with the fence in `prepare_to_park`, which has the other order.
        fence(Ordering::SeqCst);
        let parked = self.memory.word(PARKED_AT);
        parked.load(Ordering::Relaxed) != 0 && parked.swap(0, Ordering::AcqRel) != 0
    }

    #[cfg(not(loom))]
    fn wake(&self) {
        use rustix::thread::futex;
        // It fails only for a bad address, and the page is mapped.
        let _ = futex::wake(self.memory.futex_word(PARKED_AT), futex::Flags::empty(), 1);
    }

    #[cfg(loom)]
    fn wake(&self) {}
}

/// Makes the region of a shard's bell.
///
/// # Errors
/// As [`Region::create`].
#[cfg(not(loom))]
pub fn create_bell(label: &str) -> Result<Region, RegionError> {
    Region::create(label, BELL_BYTES)
}

/// The peers' side of a bell.
#[derive(Clone)]
pub struct Ringer {
    page: BellPage,
}

impl Ringer {
    /// The ringer of a bell in `memory`.
    ///
    /// # Panics
    /// If the memory has not [`BELL_BYTES`].
    pub fn new(memory: Memory) -> Self {
        Self { page: BellPage::new(memory) }
    }

    /// Maps a bell.
    ///
    /// # Errors
    /// A refusal of the kernel.
    #[cfg(not(loom))]
    pub fn map(region: &Region) -> Result<Self, RegionError> {
        Ok(Self { page: BellPage::map(region)? })
    }

    /// Something arrived on `link`, by the bell owner's numbering.
    #[cold]
    pub fn ring(&self, link: LinkId) {
        if self.ring_quietly(link) {
            self.page.wake();
        }
    }

    /// As [`ring`](Self::ring), without waking. True if the owner sleeps and the caller has to wake it.
    #[cold]
    #[must_use]
    fn ring_quietly(&self, link: LinkId) -> bool {
        let word = usize::from(link.0) / 64 % BELL_WORDS;
        self.page.memory.word(BITS_AT + word * 8).fetch_or(1 << (link.0 % 64), Ordering::AcqRel);
        self.page.signal_quietly(1 << word)
    }

    /// A ring that the bell's owner writes to has room again.
    #[cold]
    pub fn room(&self) {
        self.page.signal(ROOM);
    }

    /// Something inside the owner's process wants its attention.
    #[cold]
    pub fn call_in(&self) {
        self.page.signal(CALL_IN);
    }
}

/// Sleepers whose bells were rung, and whom somebody has to wake: for a producer that holds a lock while it publishes,
/// and wakes after it gave the lock back.
///
/// Nobody else wakes them. Whoever forgets them here leaves them asleep until their next sweep.
#[cfg(not(loom))]
#[derive(Default)]
pub struct Sleepers {
    pages: Vec<BellPage>,
}

#[cfg(not(loom))]
impl Sleepers {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    /// Wakes them all.
    pub fn wake(&mut self) {
        for page in self.pages.drain(..) {
            page.wake();
        }
    }

    pub(crate) fn add(&mut self, ringer: &Ringer) {
        self.pages.push(ringer.page.clone());
    }
}

/// Sleeps on a bell for an inbox that several threads share: one thread sleeps while another may use the inbox.
#[cfg(not(loom))]
pub struct Sleeper {
    bell: Bell,
}

#[cfg(not(loom))]
impl Sleeper {
    /// Sleeps until someone rings, at most [`SWEEP_NS`] or `timeout_ns`. Returns at once if someone rang already. The
    /// inbox was prepared (see [`Inbox::prepare_to_park`](crate::inbox::Inbox::prepare_to_park)) by whoever held it
    /// last.
    pub fn sleep(&self, timeout_ns: u64) {
        self.bell.park(timeout_ns.min(SWEEP_NS));
    }
}

/// What a bell had to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rung {
    summary: u64,
}

impl Rung {
    pub(crate) fn call_in(self) -> bool {
        self.summary & CALL_IN != 0
    }
}

/// The owner's side of a bell.
pub struct Bell {
    page: BellPage,
}

impl Bell {
    /// The bell in `memory`.
    ///
    /// # Panics
    /// If the memory has not [`BELL_BYTES`].
    pub fn new(memory: Memory) -> Self {
        Self { page: BellPage::new(memory) }
    }

    /// Maps the bell.
    ///
    /// # Errors
    /// A refusal of the kernel.
    #[cfg(not(loom))]
    pub fn map(region: &Region) -> Result<Self, RegionError> {
        Ok(Self { page: BellPage::map(region)? })
    }

    /// A ringer of the same bell, for other threads of this process.
    pub fn ringer(&self) -> Ringer {
        Ringer { page: self.page.clone() }
    }

    /// What sleeps on this bell while others use it.
    #[cfg(not(loom))]
    pub(crate) fn sleeper(&self) -> Sleeper {
        Sleeper { bell: Bell { page: self.page.clone() } }
    }

    /// Whether anyone rang. One load.
    #[inline(always)]
    pub(crate) fn rung(&self) -> bool {
        // Relaxed: a hint; `answer` takes it with acquire.
        self.page.summary().load(Ordering::Relaxed) != 0
    }

    /// Takes what was rung, and calls `link` for every link that did.
    pub(crate) fn answer(&self, mut link: impl FnMut(LinkId)) -> Rung {
        // AcqRel: pairs with `signal`, so the bits that were set before the summary are seen below.
        let summary = self.page.summary().swap(0, Ordering::AcqRel);
        for word in (0..BELL_WORDS).filter(|word| summary & (1 << word) != 0) {
            let mut bits = self.page.memory.word(BITS_AT + word * 8).swap(0, Ordering::AcqRel);
            while bits != 0 {
                link(LinkId((word * 64) as u16 + bits.trailing_zeros() as u16));
                bits &= bits - 1;
            }
        }
        Rung { summary }
    }

    /// Sleeps until someone rings or `timeout_ns` have passed. Returns at once if someone rang already.
    ///
    /// The caller has armed every link that it will not look at, fenced, and looked at it again.
    #[cfg(not(loom))]
    pub(crate) fn park(&self, timeout_ns: u64) {
        use rustix::thread::futex;
        if !self.prepare_to_park() {
            return;
        }
        let timeout = futex::Timespec {
            tv_sec: (timeout_ns / 1_000_000_000) as i64,
            tv_nsec: (timeout_ns % 1_000_000_000) as i64,
        };
        // Any outcome is a reason to look again: woken, rung just before, timed out, interrupted.
        let _ = futex::wait(self.page.memory.futex_word(PARKED_AT), futex::Flags::empty(), 1, Some(&timeout));
        self.page.memory.word(PARKED_AT).store(0, Ordering::Relaxed);
    }

    /// Says that the owner is about to sleep. False if someone rang: then it must not.
    pub(crate) fn prepare_to_park(&self) -> bool {
        let parked = self.page.memory.word(PARKED_AT);
        parked.store(1, Ordering::Relaxed);
        // Between `parked` and the summary: pairs with the fence in `signal`, which has the other order.
        fence(Ordering::SeqCst);
        if self.page.summary().load(Ordering::Relaxed) != 0 {
            parked.store(0, Ordering::Relaxed);
            return false;
        }
        true
    }

    /// Whether a sleeper that said it would is still taken for asleep: what the futex compares.
    #[cfg(loom)]
    pub(crate) fn still_parked(&self) -> bool {
        self.page.memory.word(PARKED_AT).load(Ordering::Acquire) == 1
    }
}
