//! How fast a shard may send to other hosts: a token bucket, and whose turn it is.
//!
//! ```text
//!             rate ──▶ ┌────────┐ burst
//!                      │ tokens │            carriers ask before each piece: is it paid for?
//!  link 3 ─ link 7 ──▶ └────────┘ ──▶ out    if not, the link waits in line, and its frames in its ring
//!    in line, as they asked
//! ```
//!
//! A shard has one bucket for all its links to other hosts: what it was given is a part of a NIC, whichever links it uses
//! it for, and one thread sends on all of them. What counts are the bytes of frames, with their headers and the
//! records around them; not what the network adds, nor what makes room at a peer or greets one, so that frames that come never wait
//! for frames that go.
//!
//! Invariant: in any time `t` no more than `rate · t + burst` leaves. Only where one frame is larger than the burst,
//! it is that frame instead of the burst: it goes when the bucket is full, and is paid for afterwards. Links that wait go in the
//! order in which they asked, so none waits for ever. There is no clock here: whoever asks says what time it is.

use crate::id::LinkId;
use std::collections::VecDeque;
use std::num::NonZeroU64;
use std::ops::RangeInclusive;

/// A bucket holds what its rate gives in this time: as long as a shard that shares its processor may be kept from it
/// (a tick of a kernel at 250 Hz) without falling behind its rate, and …
pub const BURST_NS: u64 = 4_000_000;
/// … no less than one run of frames, however slow it is.
pub const BURST_BYTES_MIN: u64 = 64 << 10;
/// Who waits for tokens waits so long at least: a shard wakes for many messages at once, and well before its bucket is full.
pub const PAUSE_NS: u64 = 1_000_000;
/// While others wait, a link's turn is what comes in [`PAUSE_NS`], within these bounds in bytes: the shares of links that are busy
/// differ by no more, whatever their messages' sizes. Or it is one frame, if that is larger.
pub const TURN_BYTES: RangeInclusive<u64> = 4 << 10..=64 << 10;

/// A byte's price: tokens are counted in billionths of a bit, so nothing is ever rounded.
const BYTE: i128 = 8 * 1_000_000_000;

/// How fast, in bits a second; never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rate(NonZeroU64);

impl Rate {
    /// So many bits a second; `None` for 0, which is no rate.
    pub fn from_bits_per_s(bits_per_s: u64) -> Option<Self> {
        NonZeroU64::new(bits_per_s).map(Self)
    }

    /// In bits a second.
    pub fn bits_per_s(self) -> u64 {
        self.0.get()
    }

    /// What may leave at once, in bytes, after a while without sending.
    pub fn burst_bytes(self) -> u64 {
        let bytes = u128::from(self.bits_per_s()) * u128::from(BURST_NS) / BYTE as u128;
        // No more than a rate: it fits.
        (bytes as u64).max(BURST_BYTES_MIN)
    }
}

/// A token bucket: see the head of this file.
#[derive(Debug)]
pub struct Bucket {
    rate: Rate,
    full: i128,
    /// What is there; below 0 after a frame that was larger than the burst.
    level: i128,
    now_ns: u64,
}

impl Bucket {
    /// A full one.
    pub fn new(rate: Rate, now_ns: u64) -> Self {
        let full = i128::from(rate.burst_bytes()) * BYTE;
        Self { rate, full, level: full, now_ns }
    }

    /// It is so late now. A clock that stands still, or goes back, brings nothing; one that jumps ahead fills the bucket and no
    /// more.
    pub fn turn_to(&mut self, now_ns: u64) {
        let elapsed_ns = now_ns.saturating_sub(self.now_ns);
        self.now_ns = now_ns;
        let missing = (self.full - self.level) as u128;
        let comes = u128::from(elapsed_ns) * u128::from(self.rate.bits_per_s());
        self.level += comes.min(missing) as i128;
    }

    /// How many bytes are paid for.
    pub fn bytes(&self) -> u64 {
        (self.level.max(0) / BYTE) as u64
    }

    /// Whether a piece of so many bytes may leave now.
    pub fn allows(&self, bytes: u64) -> bool {
        self.level >= self.price_to_begin(bytes)
    }

    /// When a piece of so many bytes may leave, if nothing else does; now if it may already.
    pub fn ready_ns(&self, bytes: u64) -> u64 {
        let missing = (self.price_to_begin(bytes) - self.level).max(0) as u128;
        let wait_ns = missing.div_ceil(u128::from(self.rate.bits_per_s()));
        self.now_ns.saturating_add(u64::try_from(wait_ns).unwrap_or(u64::MAX))
    }

    /// A piece of so many bytes leaves.
    pub fn take(&mut self, bytes: u64) {
        debug_assert!(self.allows(bytes), "{bytes} bytes leave that nobody has paid for");
        self.level -= i128::from(bytes) * BYTE;
    }

    fn price_to_begin(&self, bytes: u64) -> i128 {
        (i128::from(bytes) * BYTE).min(self.full)
    }
}

/// A shard's bucket, and the links that wait for it.
#[derive(Debug)]
pub struct Meter {
    bucket: Bucket,
    turn_bytes: u64,
    line: VecDeque<Place>,
    /// When the first in line is to ask again.
    due_ns: u64,
    held_ns: u64,
}

/// A link that waits.
#[derive(Debug)]
struct Place {
    id: LinkId,
    /// Its next piece.
    least: u64,
    /// All that it has.
    wants: u64,
}

impl Meter {
    /// With a full bucket, and nobody in line.
    pub fn new(rate: Rate, now_ns: u64) -> Self {
        let comes = u128::from(rate.bits_per_s()) * u128::from(PAUSE_NS) / BYTE as u128;
        let turn_bytes = (comes as u64).clamp(*TURN_BYTES.start(), *TURN_BYTES.end());
        let (bucket, line) = (Bucket::new(rate, now_ns), VecDeque::new());
        Self { bucket, turn_bytes, line, due_ns: u64::MAX, held_ns: 0 }
    }

    /// Its rate.
    pub fn rate(&self) -> Rate {
        self.bucket.rate
    }

    /// It is so late now.
    pub fn turn_to(&mut self, now_ns: u64) {
        if !self.line.is_empty() {
            self.held_ns = self.held_ns.saturating_add(now_ns.saturating_sub(self.bucket.now_ns));
            if now_ns < self.bucket.now_ns {
                // What is due was said by a clock that has gone back.
                self.due_ns = now_ns;
            }
        }
        self.bucket.turn_to(now_ns);
    }

    /// How many bytes a link may send now that has `wants` of them, and `least` in its next piece: no fewer than those. Or
    /// `None`: it is in line from now on, if it was not yet.
    pub fn allows(&mut self, id: LinkId, least: u64, wants: u64) -> Option<u64> {
        if self.line.is_empty() && self.bucket.allows(least) {
            return Some(self.bucket.bytes().max(least));
        }
        match self.line.iter_mut().find(|place| place.id == id) {
            Some(place) => (place.least, place.wants) = (least, wants),
            None => self.line.push_back(Place { id, least, wants }),
        }
        if self.line[0].id != id {
            return None;
        }
        if !self.bucket.allows(self.turn_of_first()) {
            let ready_ns = self.bucket.ready_ns(self.turn_of_first());
            self.due_ns = ready_ns.max(self.bucket.now_ns.saturating_add(PAUSE_NS));
            return None;
        }
        let most = if self.line.len() > 1 { self.turn_bytes } else { u64::MAX };
        Some(self.bucket.bytes().min(most).max(least))
    }

    /// What the first in line waits for: its next piece, or a whole turn if others wait and it has as much.
    fn turn_of_first(&self) -> u64 {
        let others = self.line.len() > 1;
        self.line.front().map_or(0, |first| {
            if others { first.wants.min(self.turn_bytes).max(first.least) } else { first.least }
        })
    }

    /// A link sends so many bytes, no more than it was allowed to. If it wants more, it asks again, behind those that wait.
    pub fn take(&mut self, id: LinkId, bytes: u64) {
        self.bucket.take(bytes);
        self.leave(id);
    }

    /// A link has nothing to send now, or something else that it waits for: it leaves the line.
    pub fn leave(&mut self, id: LinkId) {
        let Some(place) = self.line.iter().position(|place| place.id == id) else { return };
        self.line.remove(place);
        if place == 0 {
            let nobody = self.line.is_empty();
            self.due_ns = if nobody { u64::MAX } else { self.bucket.ready_ns(self.turn_of_first()) };
        }
    }

    /// The link that is to ask again now.
    pub fn due(&self) -> Option<LinkId> {
        (self.bucket.now_ns >= self.due_ns).then(|| self.line.front().map(|first| first.id))?
    }

    /// When a link is to ask again; `u64::MAX` while none waits.
    pub fn due_ns(&self) -> u64 {
        self.due_ns
    }

    /// For how long links have waited in line, all together counted once, in nanoseconds.
    pub fn held_ns(&self) -> u64 {
        self.held_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LINKS: u16 = 5;

    fn rates() -> impl Strategy<Value = Rate> {
        let bits = prop_oneof![1u64..64, 1_000u64..40_000_000_000, u64::MAX - 9..=u64::MAX, any::<u64>()];
        bits.prop_map(|bits| Rate::from_bits_per_s(bits.max(1)).unwrap())
    }

    /// Steps of a clock: it stands still, runs, jumps.
    fn steps() -> impl Strategy<Value = Vec<(u64, u64)>> {
        let step =
            prop_oneof![Just(0), 1u64..10_000, 1u64..50_000_000, 1u64..100_000_000_000, Just(u64::MAX)];
        let bytes = prop_oneof![1u64..2_000, 1u64..200_000, 1u64..1 << 30];
        prop::collection::vec((step, bytes), 1..60)
    }

    #[test]
    fn no_rate_is_no_bound_and_a_burst_is_what_comes_in_its_time_or_one_run() {
        assert_eq!(Rate::from_bits_per_s(0), None);
        let burst = |bits| Rate::from_bits_per_s(bits).unwrap().burst_bytes();
        assert_eq!(burst(1), BURST_BYTES_MIN);
        assert_eq!(burst(1_000_000_000), 500_000);
        assert_eq!(burst(u64::MAX), (u128::from(u64::MAX) * 4 / 8_000) as u64);
    }

    proptest! {
        #[test]
        fn over_any_time_no_more_leaves_than_the_rate_gives_and_the_burst(rate in rates(), steps in steps()) {
            let mut bucket = Bucket::new(rate, 0);
            let (mut now_ns, mut left, mut largest) = (0u64, Vec::new(), rate.burst_bytes());
            for (step, bytes) in steps {
                now_ns = now_ns.saturating_add(step);
                bucket.turn_to(now_ns);
                // As much as goes, and no more than a few: at a huge rate all of them would.
                for _ in 0..4 {
                    if bucket.allows(bytes) {
                        bucket.take(bytes);
                        largest = largest.max(bytes);
                        left.push((now_ns, u128::from(bytes)));
                    }
                }
            }
            for first in 0..left.len() {
                let mut sum = 0;
                for (at, bytes) in &left[first..] {
                    sum += bytes;
                    let time = u128::from(at - left[first].0) * u128::from(rate.bits_per_s());
                    let most = time.saturating_add(u128::from(largest) * BYTE as u128);
                    prop_assert!(sum * BYTE as u128 <= most, "{sum} bytes in {} ns", at - left[first].0);
                }
            }
        }

        #[test]
        fn what_waits_goes_when_it_was_said_and_not_a_nanosecond_earlier(rate in rates(), steps in steps()) {
            let mut bucket = Bucket::new(rate, 7);
            for (_, bytes) in steps {
                let ready_ns = bucket.ready_ns(bytes);
                if ready_ns == u64::MAX {
                    break;
                }
                if ready_ns > bucket.now_ns {
                    prop_assert!(!bucket.allows(bytes));
                    bucket.turn_to(ready_ns - 1);
                    prop_assert!(!bucket.allows(bytes), "{bytes} bytes go too early");
                }
                bucket.turn_to(ready_ns);
                prop_assert!(bucket.allows(bytes), "{bytes} bytes are stuck");
                bucket.take(bytes);
            }
        }

        #[test]
        fn a_clock_that_goes_back_brings_nothing_and_holds_up_nobody(
            rate in rates(),
            back in prop::collection::vec((any::<u64>(), 1u64..100_000), 1..40),
        ) {
            let mut meter = Meter::new(rate, u64::MAX / 2);
            for (now_ns, bytes) in back {
                let before = (meter.bucket.now_ns, meter.bucket.level);
                meter.turn_to(now_ns);
                prop_assert!(now_ns > before.0 || meter.bucket.level == before.1);
                if let Some(most) = meter.allows(LinkId(1), bytes, bytes) {
                    prop_assert!(most >= bytes);
                    meter.take(LinkId(1), bytes);
                } else {
                    // From wherever the clock is now, it is a finite while.
                    prop_assert_eq!(meter.due_ns(), meter.bucket.ready_ns(bytes).max(now_ns.saturating_add(PAUSE_NS)));
                }
            }
        }

        #[test]
        fn links_that_wait_go_in_the_order_in_which_they_asked_and_all_go(
            bits in 1_000u64..100_000_000_000,
            wants in prop::collection::vec((0..LINKS, 1u64..300_000, 0u64..2_000_000), 1..80),
        ) {
            let rate = Rate::from_bits_per_s(bits).unwrap();
            let (mut meter, mut now_ns) = (Meter::new(rate, 0), 0);
            let mut wanted = [const { VecDeque::new() }; LINKS as usize];
            let mut asked = VecDeque::new();
            let ask = |meter: &mut Meter, wanted: &mut [VecDeque<u64>], link: u16, asked: &mut VecDeque<u16>| {
                while let Some(&bytes) = wanted[usize::from(link)].front() {
                    let wants = wanted[usize::from(link)].iter().sum();
                    let Some(most) = meter.allows(LinkId(link), bytes, wants) else {
                        if !asked.contains(&link) {
                            asked.push_back(link);
                        }
                        return;
                    };
                    assert!(most >= bytes);
                    assert!(asked.front().is_none_or(|first| *first == link), "{link} goes before {asked:?}");
                    asked.pop_front();
                    meter.take(LinkId(link), bytes);
                    wanted[usize::from(link)].pop_front();
                }
                meter.leave(LinkId(link));
            };
            for (link, bytes, step) in wants {
                now_ns += step;
                meter.turn_to(now_ns);
                wanted[usize::from(link)].push_back(bytes);
                ask(&mut meter, &mut wanted, link, &mut asked);
            }
            // From here on only those that are due are asked, when they are due.
            while !asked.is_empty() {
                prop_assert!(meter.due_ns() < u64::MAX, "{asked:?} wait for ever");
                now_ns = now_ns.max(meter.due_ns());
                meter.turn_to(now_ns);
                let LinkId(link) = meter.due().expect("somebody is due");
                ask(&mut meter, &mut wanted, link, &mut asked);
            }
            prop_assert_eq!((meter.due_ns(), meter.due()), (u64::MAX, None));
            prop_assert!(wanted.iter().all(VecDeque::is_empty));
        }
    }

    #[test]
    fn a_link_that_leaves_the_line_holds_up_nobody() {
        let mut meter = Meter::new(Rate::from_bits_per_s(8_000_000).unwrap(), 0);
        meter.take(LinkId(1), BURST_BYTES_MIN);
        assert_eq!(meter.allows(LinkId(1), 60_000, 60_000), None);
        assert_eq!(meter.allows(LinkId(2), 10, 10), None);
        assert_eq!(meter.due_ns(), 60_000_000, "a megabyte a second");
        meter.turn_to(1_000_000);
        meter.leave(LinkId(1));
        assert_eq!((meter.due(), meter.held_ns()), (Some(LinkId(2)), 1_000_000));
        assert_eq!(meter.allows(LinkId(2), 10, 10), Some(1_000));
    }

    #[test]
    fn who_waits_asks_again_when_the_clock_has_gone_back() {
        let mut meter = Meter::new(Rate::from_bits_per_s(8_000_000).unwrap(), 5_000_000_000);
        meter.take(LinkId(1), BURST_BYTES_MIN);
        assert_eq!(meter.allows(LinkId(1), 1_000, 1_000), None);
        meter.turn_to(1_000_000_000);
        assert_eq!(meter.due(), Some(LinkId(1)));
        assert_eq!(meter.allows(LinkId(1), 1_000, 1_000), None);
        assert_eq!(meter.due_ns(), 1_001_000_000);
    }

    #[test]
    fn busy_links_get_the_same_whatever_their_messages_sizes() {
        let mut meter = Meter::new(Rate::from_bits_per_s(8_000_000).unwrap(), 0);
        let (pieces, mut sent) = ([64, 1_000, 20_000], [0u64; 3]);
        for now_us in 0..2_000_000 {
            meter.turn_to(now_us * 1_000);
            for (at, piece) in pieces.into_iter().enumerate() {
                while let Some(most) = meter.allows(LinkId(at as u16), piece, u64::MAX) {
                    let bytes = most - most % piece;
                    meter.take(LinkId(at as u16), bytes);
                    // What the first had before anyone waited does not count.
                    sent[at] += if now_us > 0 { bytes } else { 0 };
                }
            }
        }
        // A turn of the third is one of its pieces.
        let turns = [4_096, 4_000, 20_000].map(|turn| 2_000_000 / 28_096 * turn);
        for (sent, expected) in sent.into_iter().zip(turns) {
            assert!(sent.abs_diff(expected) <= 2 * 20_000, "{sent} of {expected}");
        }
    }
}
