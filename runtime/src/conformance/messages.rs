//! Checks of messages: their order, their number, their size, their tags, and when they are seen.
//!
//! Invariant: what an outbox took arrives once, in order and as it was; what it refused never does.

use super::pair::*;
use super::{End, LinkKind, PATIENCE};
use crate::frame::{FRAME_ALIGN, Flags, HEADER_BYTES, Header};
use crate::id::{LinkId, PortId, SessionId};
use crate::ring::{Ring, SendError};
use proptest::prelude::*;
use std::time::Instant;

/// Messages keep their order, whatever their sizes, while both ends are at work at the same time.
pub(super) fn messages_arrive_in_the_order_in_which_they_were_sent<K: LinkKind>(kind: &K) {
    const MESSAGES: u32 = 10_000;
    let seed = seed();
    let len = |number: u32| {
        let mut random = Random(seed ^ u64::from(number));
        let most = if number.is_multiple_of(50) { 9_000 } else { 200 };
        random.below(most)
    };
    for capacity in [SMALL, 64 << 10] {
        let send = |end: &mut End<K::Carrier>| {
            for number in 0..MESSAGES {
                insist(kind, end, header(number), &payload(number, len(number)));
                if number % 7 < 3 {
                    end.outbox.flush();
                    kind.carry(end);
                }
            }
            empty(kind, end);
        };
        let receive = |end: &mut End<K::Carrier>| {
            let (mut sink, mut next, start) = (Sink::default(), 0, Instant::now());
            while next < MESSAGES {
                kind.carry(end);
                if end.inbox.poll(&mut sink) == 0 {
                    std::thread::yield_now();
                }
                for (_, head, bytes) in sink.got.drain(..) {
                    assert_eq!(head, header(next), "out of order");
                    assert!(bytes == payload(next, len(next)), "message {next} has another payload");
                    next += 1;
                }
                assert_eq!(sink.broken, []);
                assert!(start.elapsed() < PATIENCE, "waited in vain for message {next}");
            }
            kind.carry(end);
        };
        on_two_threads(kind, &mut kind.connect(1, capacity, 9_000), send, receive);
    }
}

/// Each message is handed over once, in batches of all sizes, and both ends count the same.
pub(super) fn each_message_is_handed_over_exactly_once<K: LinkKind>(kind: &K) {
    for capacity in [SMALL, 64 << 10] {
        let mut pair = Pair::new(kind, 1, capacity, 9_000);
        let (mut number, mut bytes) = (0, 0);
        for batch in 1..=200 {
            let numbers = number..number + batch;
            let len = |number: u32| if number.is_multiple_of(97) { 8_999 } else { number as usize % 60 };
            for number in numbers.clone() {
                pair.send_number(number, len(number)).expect("the queue has room");
                bytes += len(number) as u64;
            }
            pair.expect(numbers.map(|number| (number, len(number))));
            number += batch;
        }
        let sent = pair.ends.sender.outbox.iter().next().expect("the link is there").1.sent();
        let received = pair.ends.receiver.inbox.iter().next().expect("the link is there").1.received();
        assert_eq!((sent.messages, sent.bytes, sent.waiting), (number.into(), bytes, 0));
        assert_eq!((received.messages, received.bytes), (number.into(), bytes));
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// Send so many bytes, as a copy.
    Send(usize),
    /// Send so many bytes, as a loan.
    Lend(usize),
    /// Flush, carry nothing.
    Flush,
    /// Carry and look.
    Carry,
    /// The receiver gets ready to sleep.
    Arm,
}

/// Random steps against a model: what was taken arrives, in order, once; what was refused never does.
pub(super) fn whatever_the_steps_what_was_taken_arrives_once_in_order<K: LinkKind>(kind: &K) {
    let step = prop_oneof![
        5 => (0usize..300).prop_map(Step::Send),
        2 => (0usize..9_000).prop_map(Step::Send),
        2 => (0usize..2_032).prop_map(Step::Lend),
        3 => Just(Step::Flush),
        4 => Just(Step::Carry),
        1 => Just(Step::Arm),
    ];
    // A busy link is polled, and its ring goes home.
    let case = (any::<bool>(), prop::collection::vec(step, 1..200));
    random(100, case, |(busy, steps)| {
        let mut pair = Pair::new(kind, 1, SMALL, 9_000);
        let (mut number, mut expected) = (0, Vec::new());
        let warm = if busy { 300 } else { 0 };
        let singles = std::iter::repeat_n([Step::Send(24), Step::Flush, Step::Carry], warm).flatten();
        for step in singles.chain(steps) {
            let sent = match step {
                Step::Send(len) => pair.send(LINK, header(number), &imitation(number, len)),
                Step::Lend(len) => pair.lend(header(number), &imitation(number, len)),
                Step::Flush => {
                    pair.ends.sender.outbox.flush();
                    continue;
                }
                Step::Carry => {
                    pair.carry();
                    continue;
                }
                Step::Arm => {
                    let End { inbox, outbox, .. } = &mut pair.ends.receiver;
                    inbox.prepare_to_park(outbox);
                    continue;
                }
            };
            if let (true, Step::Send(len) | Step::Lend(len)) = (taken(sent), step) {
                expected.push((number, len));
                number += 1;
            }
        }
        for (number, len) in expected {
            pair.expect_one(LINK, header(number), &imitation(number, len));
        }
        pair.expect_quiet();
    });
}

/// While nobody reads, an end takes a bounded amount and then refuses, copies and loans alike. What it took comes
/// out, what it refused does not, and when room has come it goes on.
pub(super) fn a_full_ring_is_back_pressure_and_loses_nothing<K: LinkKind>(kind: &K) {
    for (capacity, len) in [(SMALL, 24), (SMALL, 900), (64 << 10, 5_000), (64 << 10, 100_000)] {
        let mut pair = Pair::new(kind, 1, capacity, 100_000);
        let mut next = 0;
        for _ in 0..3 {
            let first = next;
            while taken(pair.send_number(next, len)) {
                next += 1;
                assert!(next - first < 100_000, "a sender that nobody reads from is never refused");
                pair.ends.sender.outbox.flush();
                pair.kind.carry(&mut pair.ends.sender);
            }
            assert_eq!(pair.lend(header(next), &[1; 8]), Err(SendError::Full), "a loan overtakes");
            assert!(pair.ends.sender.outbox.waits());
            assert_eq!(pair.ends.sender.outbox.blocked(), Some(LINK));
            pair.expect((first..next).map(|number| (number, len)));
            assert!(!pair.ends.sender.outbox.waits() && pair.ends.sender.outbox.blocked().is_none());
        }
    }
}

/// A message may be many times as large as the ring; one beyond the link's largest is refused, and small ones keep
/// their place between large ones.
pub(super) fn a_message_larger_than_the_ring_arrives_whole<K: LinkKind>(kind: &K) {
    for capacity in [SMALL, 64 << 10] {
        let most = 17 * capacity + 1;
        let mut pair = Pair::new(kind, 1, capacity, most);
        let refused = SendError::TooLarge { bytes: most + 1, bytes_max: most };
        assert_eq!(pair.send_number(0, most + 1), Err(refused));
        let sizes = [most, 0, capacity, 3 * capacity + 5, 1, 2 * capacity - 1];
        let sizes: Vec<_> = (0..).zip(sizes).collect();
        for &(number, len) in &sizes {
            pair.send_number(number, len).expect("nothing waits");
            pair.expect([(number, len)]);
        }
        for &(number, len) in &sizes {
            pair.until("there is room", |pair| taken(pair.send_number(number, len)));
        }
        pair.expect(sizes);
    }
}

/// A loan of half the ring, header and extensions included, fits wherever the ring stands, once all is read and the
/// receiver has looked again; a byte more is refused by name, and the link goes on.
pub(super) fn the_largest_loan_fits_at_every_offset_and_one_byte_more_is_refused<K: LinkKind>(kind: &K) {
    let lend_largest = |pair: &mut Pair<'_, K>, capacity: usize, flags: Flags| {
        let header = Header { call: 1, stamp_ns: 2, ..header(9) }.flagged(flags);
        let most = capacity / 2 - HEADER_BYTES - flags.extension_bytes();
        let refused = SendError::TooLarge { bytes: most + 1, bytes_max: most };
        assert_eq!(pair.lend(header, &vec![1; most + 1]), Err(refused));
        let bytes = payload(9, most);
        let what = format!("a loan fits at {}", pair.position(LINK) % capacity as u64);
        pair.until(&what, |pair| match pair.lend(header, &bytes) {
            Err(SendError::Full) => false,
            lent => lent == Ok(()) || panic!("{what}: {lent:?}"),
        });
        let arrived = if flags == Flags::NONE { self::header(9) } else { header };
        pair.expect_one(LINK, arrived, &bytes);
    };
    let extended = Flags::CALL.with(Flags::STAMP);
    let mut pair = Pair::new(kind, 1, SMALL, SMALL);
    for offset in (0..SMALL).step_by(FRAME_ALIGN as usize) {
        pair.advance_to(offset);
        lend_largest(&mut pair, SMALL, if offset.is_multiple_of(32) { Flags::NONE } else { extended });
    }
    pair.expect_quiet();
    for capacity in [8 << 10, 64 << 10, 1 << 20] {
        let mut pair = Pair::new(kind, 1, capacity, capacity);
        (0..5).for_each(|_| lend_largest(&mut pair, capacity, extended));
        pair.expect_quiet();
    }
}

/// Loans and copies on one link leave in the order in which they were sent; a loan brings what waited for a flush.
pub(super) fn loans_and_copies_keep_one_order<K: LinkKind>(kind: &K) {
    let mut random = Random(seed());
    for capacity in [SMALL, 64 << 10] {
        let mut pair = Pair::new(kind, 1, capacity, capacity);
        let mut expected = Vec::new();
        for number in 0..3_000 {
            let len = random.below(if number % 10 == 0 { capacity as u64 / 2 - 15 } else { 100 });
            let bytes = payload(number, len);
            let loan = random.below(2) == 0;
            let sent = if loan {
                pair.lend(header(number), &bytes)
            } else {
                pair.send(LINK, header(number), &bytes)
            };
            if taken(sent) {
                expected.push((number, len));
            }
            if number == 2_999 || random.below(20) == 0 {
                pair.expect(expected.drain(..));
            }
        }
    }
}

/// Session, port, flags, call and stamp arrive as they were sent, on copies, fragments and loans.
pub(super) fn tags_and_extensions_survive<K: LinkKind>(kind: &K) {
    let mut pair = Pair::new(kind, 1, SMALL, 3 * SMALL);
    let flags = [Flags::REPLY, Flags::CALL, Flags::STAMP, Flags::CONTROL];
    let ids = [0, 1, u64::from(u32::MAX), 1 << 32, 0x0123_4567_89ab_cdef, u64::MAX];
    for (set, at) in (0..16).flat_map(|set| (0..ids.len()).map(move |at| (set, at))) {
        let flags = flags.iter().enumerate().filter(|(bit, _)| set >> bit & 1 == 1);
        let flags = flags.fold(Flags::NONE, |all, (_, flag)| all.with(*flag));
        let [session, call, stamp_ns] = [0, 1, 2].map(|by| ids[(at + by) % ids.len()]);
        let (session, port) = (SessionId::from_bits(session), PortId(call as u16));
        let header = Header { port, flags, session, call, stamp_ns };
        let arrives = Header {
            call: if flags.has(Flags::CALL) { call } else { 0 },
            stamp_ns: if flags.has(Flags::STAMP) { stamp_ns } else { 0 },
            ..header
        };
        for len in [0, 1, 40, 2 * SMALL] {
            let bytes = payload(set as u32, len);
            pair.send(LINK, header, &bytes).expect("the ring was read");
            pair.expect_one(LINK, arrives, &bytes);
            if len <= 40 {
                pair.lend(header, &bytes).expect("the ring was read");
                pair.expect_one(LINK, arrives, &bytes);
            }
        }
    }
    pair.expect_quiet();
}

/// What was sent is not visible before a flush, or a loan, publishes it; then all of it is.
pub(super) fn nothing_is_visible_before_it_is_flushed_and_all_of_it_after<K: LinkKind>(kind: &K) {
    let mut pair = Pair::new(kind, 1, 64 << 10, 9_000);
    let mut number = 0;
    for batch in 1..=100 {
        let numbers = number..number + batch;
        numbers.clone().for_each(|number| pair.send_number(number, 40).expect("the ring was read"));
        (0..QUIET_TURNS).for_each(|_| pair.carry());
        assert_eq!(pair.sink.got.len(), 0, "of a batch of {batch} something is visible before its flush");
        number += batch;
        if batch.is_multiple_of(2) {
            pair.lend(header(number), &payload(number, 40)).expect("the ring was read");
            number += 1;
        } else {
            pair.ends.sender.outbox.flush();
        }
        let (start, due) = (Instant::now(), (number - numbers.start) as usize);
        while pair.sink.got.len() < due {
            pair.carry();
            assert!(
                start.elapsed() < PATIENCE,
                "of a batch of {due} only {} are visible",
                pair.sink.got.len()
            );
        }
        pair.expect((numbers.start..number).map(|number| (number, 40)));
    }
}

/// Payloads of all sizes around the edges arrive: of a word, a line, a fragment, a frame, the ring; in rings of 4 KiB
/// to 1 MiB, and in frames that end before, at and behind the ring's edge.
pub(super) fn every_size_around_an_edge_arrives<K: LinkKind>(kind: &K) {
    for capacity in [SMALL, 8 << 10, 16 << 10, 32 << 10, 64 << 10, 256 << 10, 1 << 20] {
        let mut pair = Pair::new(kind, 1, capacity, 2 * capacity + 20);
        let fragment = Ring::fragment_bytes_max(capacity as u64) as usize;
        let edges =
            [0, 16, 64, 128, fragment - 32, fragment, 2 * fragment, capacity / 2, capacity, 2 * capacity];
        // A message just below the smallest ring once lost its way.
        let sizes = edges.into_iter().flat_map(|edge| edge.saturating_sub(18)..edge + 18).chain([3_969]);
        for (number, len) in (0..).zip(sizes) {
            pair.send_number(number, len).expect("the ring was read");
            pair.expect_one(LINK, header(number), &payload(number, len));
        }
        pair.expect_quiet();
    }
    let mut pair = Pair::new(kind, 1, SMALL, SMALL);
    for before_edge in (0..=10).map(|frames| frames * FRAME_ALIGN as usize) {
        for (number, len) in (0..).zip((0..=160).step_by(4).chain([1, 15, 17, 31, 33, 47, 49])) {
            pair.advance_to(SMALL - before_edge);
            pair.send_number(number, len).expect("the ring was read");
            pair.expect_one(LINK, header(number), &payload(number, len));
        }
    }
    pair.expect_quiet();
}

/// Bytes of an earlier lap that look like commit words are not taken for frames.
pub(super) fn a_payload_that_imitates_commit_words_is_never_a_frame<K: LinkKind>(kind: &K) {
    let mut random = Random(seed());
    let mut pair = Pair::new(kind, 1, SMALL, 3 * SMALL);
    for number in 0..2_000 {
        // Large ones sow, small ones step through what was sown.
        let most = if number % 20 == 0 { 3 * SMALL } else { 70 };
        let (len, batch) = (random.below(most as u64), random.below(4));
        for copy in 0..=batch as u32 {
            let (header, bytes) = (header(number * 4 + copy), imitation(number, len));
            pair.until("there is room", |pair| taken(pair.send(LINK, header, &bytes)));
        }
        for copy in 0..=batch as u32 {
            pair.expect_one(LINK, header(number * 4 + copy), &imitation(number, len));
        }
        pair.expect_quiet();
    }
}

/// A message on each of more links than are polled at once, before the receiver looks: all come.
pub(super) fn a_burst_on_all_links_arrives<K: LinkKind>(kind: &K) {
    const LINKS: u16 = 150;
    let mut pair = Pair::new(kind, LINKS, SMALL, 100);
    for round in 0..3 {
        for link in (0..LINKS).map(LinkId) {
            pair.send(link, header(round), &payload(round, 40)).expect("there is room");
        }
        pair.ends.sender.outbox.flush();
        pair.until("all have come", |pair| pair.sink.got.len() == usize::from(LINKS));
        let mut links: Vec<_> = pair.sink.got.drain(..).map(|(link, _, _)| link).collect();
        links.sort_unstable_by_key(|link| link.0);
        assert!(links.into_iter().eq((0..LINKS).map(LinkId)), "a link is missing");
    }
}
