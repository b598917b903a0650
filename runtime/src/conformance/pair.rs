//! What checks are made of: two ends driven by one thread or two, messages that can be told apart, seeds.
//!
//! Invariant: nothing here waits for longer than [`PATIENCE`], and nothing reads a clock to judge a kind's speed.

use super::{End, Ends, LinkKind, PATIENCE};
use crate::frame::{CommitWord, FRAME_ALIGN, Flags, HEADER_BYTES, Header};
use crate::id::{LinkId, PortId, SessionId};
use crate::inbox::Receiver;
use crate::ring::{Loan, RingError, SendError};
use crate::sync::{AtomicU64, Ordering};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestRunner};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Instant;

/// So many turns bring whatever should not have come.
pub(super) const QUIET_TURNS: usize = 20;
/// The link that most checks use.
pub(super) const LINK: LinkId = LinkId(0);
/// The smallest ring: its edge is never far.
pub(super) const SMALL: usize = crate::ring::CAPACITY_MIN;

/// How long a failing case is made smaller.
const SHRINKING_MS: u32 = 10_000;

/// Two ends at work on one thread, and what came so far.
pub(super) struct Pair<'a, K: LinkKind> {
    pub(super) kind: &'a K,
    pub(super) ends: Ends<K::Carrier>,
    pub(super) sink: Sink,
}

/// Notes what arrives.
#[derive(Default)]
pub(super) struct Sink {
    pub(super) got: VecDeque<(LinkId, Header, Vec<u8>)>,
    pub(super) broken: Vec<(LinkId, RingError)>,
}

impl Receiver for Sink {
    fn message(&mut self, link: LinkId, header: &Header, payload: &[u8]) {
        self.got.push_back((link, *header, payload.to_vec()));
    }

    fn drained(&mut self, _: LinkId, _: usize) {}

    fn broken(&mut self, link: LinkId, error: RingError) {
        self.broken.push((link, error));
    }
}

impl<'a, K: LinkKind> Pair<'a, K> {
    pub(super) fn new(kind: &'a K, links: u16, capacity: usize, message_bytes_max: usize) -> Self {
        Self { kind, ends: kind.connect(links, capacity, message_bytes_max), sink: Sink::default() }
    }

    pub(super) fn send(&mut self, link: LinkId, header: Header, payload: &[u8]) -> Result<(), SendError> {
        self.ends.sender.outbox.send(link, header, payload).expect("the link is there")
    }

    /// Sends message `number` with `len` bytes of its own.
    pub(super) fn send_number(&mut self, number: u32, len: usize) -> Result<(), SendError> {
        self.send(LINK, header(number), &payload(number, len))
    }

    /// Lends message `number`, filled back to front in two pieces.
    pub(super) fn lend(&mut self, header: Header, bytes: &[u8]) -> Result<(), SendError> {
        let half = bytes.len() / 2;
        let fill = |loan: &mut Loan<'_>| {
            loan.write(half, &bytes[half..]);
            loan.write(0, &bytes[..half]);
        };
        self.ends.sender.outbox.send_loan(LINK, header, bytes.len(), fill).expect("the link is there")
    }

    /// Carries what is published, without publishing more, and has the receiver look.
    pub(super) fn carry(&mut self) {
        self.kind.carry(&mut self.ends.sender);
        self.kind.carry(&mut self.ends.receiver);
        self.ends.receiver.inbox.poll(&mut self.sink);
        self.kind.carry(&mut self.ends.receiver);
    }

    /// Publishes what was sent, and carries it.
    pub(super) fn turn(&mut self) {
        self.ends.sender.outbox.flush();
        self.carry();
    }

    /// Takes turns until `done`.
    pub(super) fn until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let start = Instant::now();
        while !done(self) {
            self.turn();
            assert!(start.elapsed() < PATIENCE, "waited in vain until {what}; {} came", self.sink.got.len());
        }
    }

    /// The next messages are these numbers with these sizes, and nothing else comes.
    pub(super) fn expect(&mut self, expected: impl IntoIterator<Item = (u32, usize)>) {
        for (number, len) in expected {
            self.expect_one(LINK, header(number), &payload(number, len));
        }
        self.expect_quiet();
    }

    pub(super) fn expect_one(&mut self, link: LinkId, header: Header, payload: &[u8]) {
        self.until(&format!("{header:?} comes"), |pair| !pair.sink.got.is_empty());
        let (from, head, bytes) = self.sink.got.pop_front().expect("it just came");
        assert_eq!((from, head, bytes.len()), (link, header, payload.len()));
        // Not `assert_eq`: nobody wants to read a megabyte.
        assert!(bytes == payload, "{header:?}: the payload of {} bytes is another", bytes.len());
        assert_eq!(self.sink.broken, [], "a link broke");
    }

    pub(super) fn expect_quiet(&mut self) {
        (0..QUIET_TURNS).for_each(|_| self.turn());
        assert!(self.sink.got.is_empty(), "something came that was not sent: {:?}", self.sink.got[0].1);
        assert_eq!(self.sink.broken, [], "a link broke");
        assert_eq!(self.ends.sender.outbox.take_broken(), None, "a link broke");
    }

    /// Where the sender writes next.
    pub(super) fn position(&mut self, link: LinkId) -> u64 {
        self.ends.sender.outbox.get_mut(link).expect("the link is there").writer().position()
    }

    /// Fills the ring up to `offset`, in one batch, and has it read.
    pub(super) fn advance_to(&mut self, offset: usize) {
        // A single frame may take the sender elsewhere: a quiet ring goes home.
        for _ in 0..4 {
            let mut at = self.position(LINK) as usize % SMALL;
            let mut frames = 0;
            while at != offset % SMALL {
                // In two frames at least, neither of which leaves the ring.
                let left = offset.wrapping_sub(at) % SMALL;
                let half = (left / 2).next_multiple_of(FRAME_ALIGN as usize);
                let bytes = half.min(SMALL - at).min(480);
                self.send(LINK, header(0), &vec![0; bytes - HEADER_BYTES]).expect("there is room");
                at = (at + bytes) % SMALL;
                frames += 1;
            }
            if frames == 0 {
                return;
            }
            self.until("the ring is at an offset", |pair| pair.sink.got.len() == frames);
            self.sink.got.clear();
        }
        panic!("the sender does not come to offset {offset}");
    }
}

/// The header of message `number`.
pub(super) fn header(number: u32) -> Header {
    Header::new(SessionId::new(number, 1), PortId(number as u16))
}

/// A payload that no other message has.
pub(super) fn payload(number: u32, len: usize) -> Vec<u8> {
    let mut random = Random(u64::from(number) << 32 | len as u64);
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend(random.next().to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Commit words all over, so that a stale byte would be taken for a frame.
pub(super) fn imitation(number: u32, len: usize) -> Vec<u8> {
    let word = CommitWord::new(16 + number % 60, PortId(0xdead), Flags::NONE).0.to_le_bytes();
    word.iter().copied().cycle().take(len).collect()
}

/// A short sequence of numbers that look random.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed ^ (mixed >> 27)
    }

    pub(super) fn below(&mut self, limit: u64) -> usize {
        (self.next() % limit) as usize
    }
}

/// The seed of a random check: `SHARD_SEED` if it is set.
pub(super) fn seed() -> u64 {
    let given = std::env::var("SHARD_SEED").ok().map(|seed| seed.parse().expect("SHARD_SEED is a number"));
    let seed = given.unwrap_or_else(crate::clock::now_ns);
    println!("  SHARD_SEED={seed}");
    seed
}

/// Puts random values of `strategy` through `check`, and names the smallest that fails.
pub(super) fn random<S: Strategy>(cases: u32, strategy: S, check: impl Fn(S::Value)) {
    let seed = seed();
    let config = Config {
        cases,
        rng_seed: RngSeed::Fixed(seed),
        failure_persistence: None,
        max_shrink_iters: 500,
        max_shrink_time: SHRINKING_MS,
        ..Config::default()
    };
    let checked = TestRunner::new(config).run(&strategy, |value| {
        check(value);
        Ok(())
    });
    if let Err(error) = checked {
        panic!("SHARD_SEED={seed}: {error}");
    }
}

/// Sends while another thread receives. `send` returns when all that it sent has left.
pub(super) fn on_two_threads<K: LinkKind>(
    kind: &K,
    ends: &mut Ends<K::Carrier>,
    send: impl FnOnce(&mut End<K::Carrier>) + Send,
    receive: impl FnOnce(&mut End<K::Carrier>),
) {
    let Ends { sender, receiver } = ends;
    let done = &AtomicU64::new(0);
    std::thread::scope(|scope| {
        let sending = scope.spawn(move || {
            send(sender);
            // What has left the outbox may not have left the host.
            while done.load(Ordering::Acquire) == 0 {
                kind.carry(sender);
                std::thread::yield_now();
            }
        });
        let received = catch_unwind(AssertUnwindSafe(|| receive(receiver)));
        done.store(1, Ordering::Release);
        for ended in [sending.join(), received] {
            ended.unwrap_or_else(|panic| resume_unwind(panic));
        }
    });
}

/// Whether a message was taken; if not, the ring was full.
pub(super) fn taken(sent: Result<(), SendError>) -> bool {
    match sent {
        Ok(()) => true,
        Err(SendError::Full) => false,
        Err(error) => panic!("{error}"),
    }
}

/// Sends until it is taken.
pub(super) fn insist<K: LinkKind>(kind: &K, end: &mut End<K::Carrier>, header: Header, payload: &[u8]) {
    let start = Instant::now();
    while !taken(end.outbox.send(LINK, header, payload).expect("the link is there")) {
        end.outbox.flush();
        kind.carry(end);
        std::thread::yield_now();
        assert!(start.elapsed() < PATIENCE, "no room came");
    }
}

/// Flushes until nothing waits.
pub(super) fn empty<K: LinkKind>(kind: &K, end: &mut End<K::Carrier>) {
    let start = Instant::now();
    while end.outbox.waits() {
        end.outbox.flush();
        kind.carry(end);
        std::thread::yield_now();
        assert!(start.elapsed() < PATIENCE, "no room came");
    }
}
