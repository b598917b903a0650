//! Statistics pages: what a shard counts, in shared memory that anyone may read while it runs.
//!
//! ```text
//!      0  identity     magic, version
//!    128  counters     one word each, see `Counter`
//!   4096  histograms   one after the other, see `Timing`
//!   then  links        8 words each, see `LinkCounts`
//!   then  …            room for the journal's position
//! ```
//!
//! Invariant: one thread writes, with plain loads and stores of whole words, so a reader never sees half a number
//! and never makes the writer wait. Readers get the page read-only. Numbers of one page may be a moment apart.

use crate::id::LinkId;
use crate::memory::{LINE_PAIR_BYTES, Memory, PAGE_BYTES};
use crate::region::{Mapping, Region, RegionError};
use crate::sync::Ordering;
use crate::wake::LINKS_MAX;
use rustix::mm::ProtFlags;
use std::os::fd::BorrowedFd;

const MAGIC: u64 = u64::from_le_bytes(*b"shardsta");
const VERSION: u64 = 1;
const COUNTERS_AT: usize = LINE_PAIR_BYTES;
const HISTOGRAMS_AT: usize = PAGE_BYTES;

/// Bits of precision of a histogram: 16 steps for each doubling, so a value is off by 6 % at the most.
const STEP_BITS: u32 = 4;
const STEPS: usize = 1 << STEP_BITS;
/// The largest value that a histogram tells apart: about 18 minutes in nanoseconds.
const EXPONENT_MAX: u32 = 40;
const BUCKETS: usize = (EXPONENT_MAX - STEP_BITS + 2) as usize * STEPS;
const HISTOGRAM_BYTES: usize = (BUCKETS + 2) * 8;

const LINKS_AT: usize =
    (HISTOGRAMS_AT + Timing::ALL.len() * HISTOGRAM_BYTES).next_multiple_of(LINE_PAIR_BYTES);
const LINK_BYTES: usize = 64;
/// The size of a statistics region.
pub const STATS_BYTES: usize = (LINKS_AT + LINKS_MAX * LINK_BYTES).next_multiple_of(PAGE_BYTES);

/// One in so many messages is timed; counters count all.
pub const SAMPLE_EVERY: u64 = 64;

/// A number that a shard counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Counter {
    /// Rounds of the shard's loop: while it moves, the shard lives.
    Beats,
    /// Messages that the shard's handler took.
    MessagesIn,
    /// Messages that it sent.
    MessagesOut,
    /// Bytes of the payloads that came.
    BytesIn,
    /// Bytes of the payloads that went.
    BytesOut,
    /// Sessions that are open now.
    Sessions,
    /// Sessions that were ever opened.
    SessionsOpened,
    /// Messages refused: unknown session, unknown port, not decodable.
    Refused,
    /// Handlers that gave an error.
    HandlerErrors,
    /// Ticks that ran.
    Ticks,
    /// Ticks that were skipped because the shard was late.
    TicksMissed,
    /// How often the shard slept.
    Parks,
    /// How often a ring to send on was full.
    RingsFull,
    /// Messages that wait in the outbox now.
    OutboxWaiting,
    /// The link that makes the shard pause now, plus one; 0 while it does not pause.
    PausedOn,
    /// The processor that the shard ran on when it last looked, plus one.
    Core,
    /// Frames that waited because their bell was lost, found by the sweep.
    SweepFinds,
    /// How long its ticks took together, in nanoseconds.
    TicksNs,
    /// For how long frames to other hosts waited because its bandwidth holds it back, in nanoseconds.
    HeldNs,
}

impl Counter {
    /// All, in the page's order.
    pub const ALL: [Counter; 19] = [
        Counter::Beats,
        Counter::MessagesIn,
        Counter::MessagesOut,
        Counter::BytesIn,
        Counter::BytesOut,
        Counter::Sessions,
        Counter::SessionsOpened,
        Counter::Refused,
        Counter::HandlerErrors,
        Counter::Ticks,
        Counter::TicksMissed,
        Counter::Parks,
        Counter::RingsFull,
        Counter::OutboxWaiting,
        Counter::PausedOn,
        Counter::Core,
        Counter::SweepFinds,
        Counter::TicksNs,
        Counter::HeldNs,
    ];

    const fn offset(self) -> usize {
        COUNTERS_AT + self as usize * 8
    }
}

/// A duration that is put into a histogram, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Timing {
    /// From a message's send to its hand-over; sampled.
    Transit,
    /// A handler's run; sampled.
    Handler,
    /// How late a tick began.
    TickLate,
}

impl Timing {
    /// All, in the page's order.
    pub const ALL: [Timing; 3] = [Timing::Transit, Timing::Handler, Timing::TickLate];

    const fn offset(self) -> usize {
        HISTOGRAMS_AT + self as usize * HISTOGRAM_BYTES
    }
}

/// What is counted for each link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkCounts {
    /// Messages received.
    pub messages_in: u64,
    /// Bytes of their payloads.
    pub bytes_in: u64,
    /// Messages sent.
    pub messages_out: u64,
    /// Bytes of their payloads.
    pub bytes_out: u64,
    /// How often the ring to send on was full.
    pub full: u64,
    /// Messages waiting for room now.
    pub waiting: u64,
}

/// The writing side: one per shard.
pub struct Stats {
    memory: Memory,
}

impl Stats {
    /// Makes the region of a statistics page.
    ///
    /// # Errors
    /// As [`Region::create`].
    pub fn create(label: &str) -> Result<Region, RegionError> {
        Region::create(label, STATS_BYTES)
    }

    /// Maps the page for writing.
    ///
    /// # Errors
    /// A refusal of the kernel.
    ///
    /// # Panics
    /// If the region is no statistics region by its size.
    pub fn map(region: &Region) -> Result<Self, RegionError> {
        assert_eq!(region.bytes(), STATS_BYTES, "the region is not a statistics page's");
        let memory = region.map(false)?;
        memory.word(0).store(MAGIC, Ordering::Relaxed);
        memory.word(8).store(VERSION, Ordering::Relaxed);
        Ok(Self { memory })
    }

    #[inline(always)]
    fn word(&self, offset: usize) -> &crate::sync::AtomicU64 {
        debug_assert!(offset + 8 <= STATS_BYTES);
        // SAFETY: all offsets come from the constants above, are multiples of 8 and below `STATS_BYTES`, which `map`
        // checked to be there.
        unsafe { self.memory.word_unchecked(offset) }
    }

    /// Adds to a counter.
    #[inline(always)]
    pub fn add(&self, counter: Counter, more: u64) {
        let word = self.word(counter.offset());
        // Relaxed, not an atomic add: this thread is the only writer.
        word.store(word.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
    }

    /// Sets a counter that goes both ways.
    #[inline(always)]
    pub fn set(&self, counter: Counter, value: u64) {
        self.word(counter.offset()).store(value, Ordering::Relaxed);
    }

    /// Puts a duration into its histogram.
    #[inline]
    pub fn record(&self, timing: Timing, value_ns: u64) {
        let bucket = self.word(timing.offset() + 16 + bucket_of(value_ns) * 8);
        bucket.store(bucket.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        let max = self.word(timing.offset());
        if value_ns > max.load(Ordering::Relaxed) {
            max.store(value_ns, Ordering::Relaxed);
        }
    }

    /// Sets what is counted for a link.
    pub fn set_link(&self, link: LinkId, counts: &LinkCounts) {
        let at = LINKS_AT + usize::from(link.0) % LINKS_MAX * LINK_BYTES;
        let values = [
            counts.messages_in,
            counts.bytes_in,
            counts.messages_out,
            counts.bytes_out,
            counts.full,
            counts.waiting,
        ];
        for (word, value) in values.into_iter().enumerate() {
            self.word(at + word * 8).store(value, Ordering::Relaxed);
        }
    }
}

/// The reading side: a page mapped read-only.
pub struct StatsReader {
    memory: Memory,
}

impl StatsReader {
    /// Maps a page for reading, from the descriptor that [`Region::read_only`] gave.
    ///
    /// # Errors
    /// A descriptor that can't be mapped or has another size.
    pub fn map(fd: BorrowedFd<'_>) -> Result<Self, RegionError> {
        let size = rustix::fs::fstat(fd).map_or(0, |stat| stat.st_size);
        if size != STATS_BYTES as i64 {
            return Err(RegionError::Foreign { what: format!("it has {size} bytes, not {STATS_BYTES}") });
        }
        Ok(Self { memory: Mapping::new(fd, STATS_BYTES, ProtFlags::READ)?.into_memory() })
    }

    fn load(&self, offset: usize) -> u64 {
        self.memory.word(offset).load(Ordering::Relaxed)
    }

    /// A counter's value now.
    pub fn counter(&self, counter: Counter) -> u64 {
        self.load(counter.offset())
    }

    /// A histogram as it is now.
    pub fn histogram(&self, timing: Timing) -> Histogram {
        let counts = (0..BUCKETS).map(|bucket| self.load(timing.offset() + 16 + bucket * 8)).collect();
        Histogram { counts, max_ns: self.load(timing.offset()) }
    }

    /// What was counted for a link.
    pub fn link(&self, link: LinkId) -> LinkCounts {
        let at = LINKS_AT + usize::from(link.0) % LINKS_MAX * LINK_BYTES;
        LinkCounts {
            messages_in: self.load(at),
            bytes_in: self.load(at + 8),
            messages_out: self.load(at + 16),
            bytes_out: self.load(at + 24),
            full: self.load(at + 32),
            waiting: self.load(at + 40),
        }
    }
}

/// A copy of a histogram.
#[derive(Clone, Debug)]
pub struct Histogram {
    counts: Vec<u64>,
    max_ns: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS], max_ns: 0 }
    }
}

impl Histogram {
    /// How many values it has.
    pub fn count(&self) -> u64 {
        // The page is its shard's to write: what it says may be nonsense.
        self.counts.iter().fold(0, |sum, n| sum.saturating_add(*n))
    }

    /// All values together, in nanoseconds, at most 6 % too high; what a value beyond the largest bucket has more than
    /// that is missing.
    pub fn sum_ns(&self) -> u64 {
        let sums = self.counts.iter().enumerate().map(|(bucket, n)| n.saturating_mul(top_of(bucket)));
        sums.fold(0, u64::saturating_add)
    }

    /// The largest value ever, in nanoseconds.
    pub fn max_ns(&self) -> u64 {
        self.max_ns
    }

    /// The value that `fraction` (0 to 1) of all values don't exceed, in nanoseconds, at most 6 % too high; `None`
    /// without values.
    pub fn quantile_ns(&self, fraction: f64) -> Option<u64> {
        let count = self.count();
        let rank = ((count as f64 * fraction.clamp(0.0, 1.0)).ceil() as u64).max(1);
        let mut seen = 0_u64;
        for (bucket, n) in self.counts.iter().enumerate() {
            seen = seen.saturating_add(*n);
            if seen >= rank {
                return Some(top_of(bucket).min(self.max_ns.max(1)));
            }
        }
        None
    }

    /// What came since `earlier`, a copy of the same histogram.
    #[must_use]
    pub fn since(&self, earlier: &Histogram) -> Histogram {
        let counts =
            self.counts.iter().zip(&earlier.counts).map(|(now, then)| now.saturating_sub(*then)).collect();
        Histogram { counts, max_ns: self.max_ns }
    }

    /// Adds the values of another histogram.
    pub fn merge(&mut self, other: &Histogram) {
        self.counts.iter_mut().zip(&other.counts).for_each(|(mine, more)| *mine = mine.saturating_add(*more));
        self.max_ns = self.max_ns.max(other.max_ns);
    }
}

#[inline(always)]
fn bucket_of(value: u64) -> usize {
    let exponent = 63 - (value | 1).leading_zeros();
    if exponent < STEP_BITS {
        return value as usize;
    }
    let step = (value >> (exponent - STEP_BITS)) as usize & (STEPS - 1);
    (((exponent - STEP_BITS + 1) as usize) * STEPS + step).min(BUCKETS - 1)
}

/// The largest value of a bucket.
fn top_of(bucket: usize) -> u64 {
    if bucket < STEPS {
        return bucket as u64;
    }
    let shift = (bucket / STEPS - 1) as u32;
    let step = (bucket % STEPS + STEPS) as u64;
    ((step + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn a_bucket_is_never_off_by_more_than_a_sixteenth() {
        for shift in 0..40 {
            for value in [1u64 << shift, (1 << shift) + 1, (3 << shift) / 2, (2 << shift) - 1] {
                let top = top_of(bucket_of(value));
                assert!(top >= value && top - value <= value / 16, "{value} reads as {top}");
            }
        }
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn a_reader_sees_what_the_shard_counted_and_cannot_write() {
        let region = Stats::create("stats").unwrap();
        let stats = Stats::map(&region).unwrap();
        stats.add(Counter::MessagesIn, 3);
        stats.record(Timing::Handler, 1000);
        let counts = LinkCounts { messages_out: 7, ..LinkCounts::default() };
        stats.set_link(LinkId(1023), &counts);

        let fd = region.read_only().unwrap();
        let reader = StatsReader::map(fd.as_fd()).unwrap();
        assert_eq!(reader.counter(Counter::MessagesIn), 3);
        let median_ns = reader.histogram(Timing::Handler).quantile_ns(0.5).unwrap();
        assert!((1000..=1063).contains(&median_ns), "{median_ns}");
        stats.record(Timing::Handler, 3000);
        let sum_ns = reader.histogram(Timing::Handler).sum_ns();
        assert!((4000..=4250).contains(&sum_ns), "{sum_ns}");
        assert_eq!(reader.link(LinkId(1023)), counts);
        assert!(Mapping::new(fd.as_fd(), STATS_BYTES, ProtFlags::READ | ProtFlags::WRITE).is_err());
    }

    #[test]
    fn a_page_of_nonsense_reads_as_large_numbers() {
        let region = Stats::create("stats").unwrap();
        let memory = region.map(true).unwrap();
        (0..memory.len()).step_by(8).for_each(|at| memory.word(at).store(u64::MAX, Ordering::Relaxed));
        let reader = StatsReader::map(region.read_only().unwrap().as_fd()).unwrap();
        let mut nonsense = reader.histogram(Timing::Handler);
        nonsense.merge(&nonsense.clone());
        assert_eq!((nonsense.count(), nonsense.sum_ns()), (u64::MAX, u64::MAX));
        assert!(nonsense.quantile_ns(0.99).is_some());
        assert_eq!(reader.counter(Counter::Sessions), u64::MAX);
    }

    #[test]
    fn the_order_of_counters_is_the_order_of_the_page() {
        for (at, counter) in Counter::ALL.into_iter().enumerate() {
            assert_eq!(counter as usize, at);
        }
    }
}
