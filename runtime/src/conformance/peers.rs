//! Checks of peers: what becomes of a link whose other end sleeps, dies, lies or is cut off.
//!
//! Invariant: a peer's sleep loses nothing, its death tears nothing, its lie costs the one link on which it lied.

use super::pair::*;
use super::{End, Interruption, LinkKind, PATIENCE};
use crate::frame::{CommitWord, FRAME_ALIGN, Flags, extent};
use crate::id::{LinkId, PortId};
use crate::ring::{DATA_AT, HEAD_AT, Ring, RingError, SendError};
use crate::sync::{AtomicU64, Ordering};
use crate::wake::SWEEP_NS;
use proptest::prelude::*;
use std::time::{Duration, Instant};

/// What comes so late was found by a sweep: its wake-up is lost.
const LATE: Duration = Duration::from_nanos(SWEEP_NS / 2);
/// The largest message on a link whose peer lies.
const LIE_BYTES_MAX: usize = 1_000;

/// A receiver that sleeps, or is about to, is woken by what arrives; not by a sweep.
pub(super) fn a_receiver_that_parks_is_woken<K: LinkKind>(kind: &K) {
    what_came_before_the_sleep_keeps_it_away(kind);
    const ROUNDS: u32 = 400;
    // Bursts make a link busy, so that it is armed another way afterwards.
    let burst = |round: u32| if round.is_multiple_of(40) { 400u32 } else { 1 };
    let seen = &AtomicU64::new(0);
    let mut random = Random(seed());
    let send = |end: &mut End<K::Carrier>| {
        let mut sent = 0;
        for round in 0..ROUNDS {
            for _ in 0..burst(round) {
                insist(kind, end, header(round), &[]);
                sent += 1;
            }
            let start = Instant::now();
            while seen.load(Ordering::Acquire) < sent {
                end.outbox.flush();
                kind.carry(end);
                std::thread::yield_now();
                assert!(start.elapsed() < PATIENCE, "round {round} does not arrive");
            }
            assert!(start.elapsed() < LATE, "in round {round} a wake-up was lost: {:?}", start.elapsed());
            std::thread::sleep(Duration::from_micros(random.below(200) as u64));
        }
    };
    let receive = |end: &mut End<K::Carrier>| {
        let all = (0..ROUNDS).map(|round| u64::from(burst(round))).sum();
        let (mut sink, mut taken, mut start) = (Sink::default(), 0, Instant::now());
        while taken < all {
            kind.carry(end);
            let came = end.inbox.poll(&mut sink) as u64;
            kind.carry(end);
            if came == 0 {
                kind.park(end);
                assert!(start.elapsed() < PATIENCE, "waited in vain: {taken} of {all} came");
                continue;
            }
            (taken, start) = (taken + came, Instant::now());
            seen.store(taken, Ordering::Release);
        }
    };
    let mut ends = kind.connect(1, SMALL, 100);
    on_two_threads(kind, &mut ends, send, receive);
    assert!(ends.receiver.inbox.parks() > 0, "it never slept");
}

/// A message that nobody rang for, as its link was polled, and then the receiver goes to sleep.
fn what_came_before_the_sleep_keeps_it_away<K: LinkKind>(kind: &K) {
    let mut pair = Pair::new(kind, 1, SMALL, 100);
    for number in 0..300 {
        pair.send_number(number, 40).expect("the ring was read");
        let sleeps = [0, 1, 299].contains(&number);
        if sleeps {
            pair.ends.sender.outbox.flush();
            kind.carry(&mut pair.ends.sender);
            let asleep = Instant::now();
            while pair.sink.got.is_empty() {
                kind.park(&mut pair.ends.receiver);
                pair.carry();
                assert!(asleep.elapsed() < LATE, "message {number} was slept over");
            }
        }
        pair.expect_one(LINK, header(number), &payload(number, 40));
    }
}

/// A sender that sleeps while its messages wait is woken when the receiver gives room back.
pub(super) fn a_sender_that_starves_is_told_of_room<K: LinkKind>(kind: &K) {
    const ROUNDS: u32 = 20;
    let bytes = &payload(7, 6 * SMALL);
    let send = |end: &mut End<K::Carrier>| {
        for round in 0..ROUNDS {
            insist(kind, end, header(round), bytes);
            let start = Instant::now();
            while end.outbox.waits() {
                end.outbox.flush();
                kind.carry(end);
                if !end.outbox.waits() {
                    break;
                }
                let asleep = Instant::now();
                kind.park(end);
                let slept = asleep.elapsed();
                assert!(slept < LATE, "in round {round} nobody told of room: {slept:?}");
                assert!(start.elapsed() < PATIENCE, "round {round} does not leave");
            }
        }
    };
    let receive = |end: &mut End<K::Carrier>| {
        let (mut sink, mut random, start) = (Sink::default(), Random(seed()), Instant::now());
        while sink.got.len() < ROUNDS as usize {
            std::thread::sleep(Duration::from_micros(random.below(300) as u64));
            kind.carry(end);
            end.inbox.poll(&mut sink);
            kind.carry(end);
            assert_eq!(sink.broken, []);
            assert!(start.elapsed() < PATIENCE, "{} of {ROUNDS} came", sink.got.len());
        }
        assert!(sink.got.iter().all(|(_, _, got)| got == bytes), "a message is torn");
    };
    let mut ends = kind.connect(1, SMALL, bytes.len());
    on_two_threads(kind, &mut ends, send, receive);
    assert!(ends.sender.inbox.parks() > 0, "it never starved");
}

/// What a sender published before it died is read. Of what it was at, nothing is: a batch without its flush, a loan
/// without its commit, a message that had not gone out whole.
pub(super) fn what_was_published_before_its_sender_died_is_read_and_nothing_torn<K: LinkKind>(kind: &K) {
    let undone: [fn(&mut Pair<'_, K>); 4] = [
        |_| {},
        |pair| (100..110).for_each(|number| pair.send_number(number, 40).expect("there is room")),
        |pair| {
            let writer = pair.ends.sender.outbox.get_mut(LINK).expect("the link is there").writer();
            writer.loan(header(100), 500).expect("there is room").write(0, &[0xff; 400]);
        },
        |pair| {
            pair.send_number(100, 3 * SMALL).expect("the queue has room");
            pair.ends.sender.outbox.flush();
            pair.send_number(101, 40).expect("the queue has room");
        },
    ];
    for what in undone {
        let mut pair = Pair::new(kind, 1, SMALL, 3 * SMALL);
        let sizes: Vec<(u32, usize)> = (0..20).map(|number| (number, 30 + number as usize)).collect();
        for chunk in sizes.chunks(10) {
            chunk.iter().for_each(|&(number, len)| pair.send_number(number, len).expect("there is room"));
            if chunk[0].0 == 0 {
                pair.expect(chunk.iter().copied());
            }
        }
        pair.ends.sender.outbox.flush();
        // What is carried has left the dying host; the receiver has not looked yet.
        for _ in 0..QUIET_TURNS {
            kind.carry(&mut pair.ends.sender);
            kind.carry(&mut pair.ends.receiver);
        }
        what(&mut pair);
        kind.carry(&mut pair.ends.sender);
        let Pair { ends, mut sink, .. } = pair;
        let mut receiver = ends.receiver;
        kind.kill(ends.sender);
        let start = Instant::now();
        while sink.got.len() < 10 {
            kind.carry(&mut receiver);
            receiver.inbox.poll(&mut sink);
            assert!(start.elapsed() < PATIENCE, "of 10 messages {} are left", sink.got.len());
        }
        for _ in 0..QUIET_TURNS {
            kind.carry(&mut receiver);
            receiver.inbox.poll(&mut sink);
        }
        let got: Vec<_> = sink.got.iter().map(|(_, head, bytes)| (*head, bytes.clone())).collect();
        let sent: Vec<_> =
            sizes[10..].iter().map(|&(number, len)| (header(number), payload(number, len))).collect();
        assert_eq!(got, sent);
        assert_eq!(sink.broken, []);
        assert!(receiver.inbox.detach(LINK).is_some(), "the link is not there to be let go");
    }
}

/// A receiver that died is one that does not read: its sender is refused in the end, and can let go.
pub(super) fn a_receiver_that_dies_is_back_pressure<K: LinkKind>(kind: &K) {
    let Pair { ends, .. } = {
        let mut pair = Pair::new(kind, 1, SMALL, 1_000);
        pair.send_number(0, 100).expect("there is room");
        pair.expect([(0, 100)]);
        pair
    };
    let mut sender = ends.sender;
    kind.kill(ends.receiver);
    let mut sent = 0;
    while taken(sender.outbox.send(LINK, header(1), &[1; 1_000]).expect("the link is there")) {
        sent += 1;
        assert!(sent < 100_000, "a sender that nobody reads from is never refused");
        sender.outbox.flush();
        kind.carry(&mut sender);
    }
    assert!(sender.outbox.detach(LINK).is_some(), "the link is not there to be let go");
}

/// What a lying sender leaves in a ring, and the name that it gets.
struct Lie {
    what: &'static str,
    /// Where the receiver stands before it.
    offset: usize,
    /// Words, by their distance from there.
    words: Vec<(usize, u64)>,
    named: fn(&RingError) -> bool,
}

fn lies() -> Vec<Lie> {
    let word = |length: usize, flags: Flags| CommitWord::new(length as u32, PortId(0), flags).0;
    let lie =
        |what, offset, words: &[(usize, u64)], named| Lie { what, offset, words: words.to_vec(), named };
    let commit_word = |error: &RingError| matches!(error, RingError::CommitWord { .. });
    let frame_length = |error: &RingError| matches!(error, RingError::FrameLength { .. });
    let message_length =
        |error: &RingError| matches!(error, RingError::MessageLength { bytes_max: LIE_BYTES_MAX });
    let fragment = |error: &RingError| matches!(error, RingError::Fragment { .. });
    let behind = |length: usize| extent(length as u64) as usize;
    let part = 16 + 600;
    let (none, padding, more) = (Flags::NONE, Flags::PADDING, Flags::MORE);
    vec![
        lie("no room for a header", 64, &[(0, word(15, none))], commit_word),
        lie("no room for the extensions", 64, &[(0, word(24, Flags::CALL.with(Flags::STAMP)))], commit_word),
        lie("an unknown flag", 64, &[(0, word(32, Flags(1 << 6)))], commit_word),
        lie("all flags", 64, &[(0, word(64, Flags(u16::MAX)))], commit_word),
        lie("ones", 64, &[(0, u64::MAX)], commit_word),
        lie("more than half the ring", 64, &[(0, word(SMALL / 2 + 1, none))], frame_length),
        lie("the longest length", 64, &[(0, word(u32::MAX as usize, none))], frame_length),
        lie("over the edge", SMALL - 64, &[(0, word(65, none))], frame_length),
        lie("padding over the edge", SMALL - 64, &[(0, word(80, padding))], frame_length),
        lie("padding twice", 64, &[(0, word(16, padding)), (16, word(16, padding))], commit_word),
        lie("nothing but padding", 0, &[(0, word(SMALL, padding))], commit_word),
        lie("more than a message", 64, &[(0, word(16 + LIE_BYTES_MAX + 1, none))], message_length),
        lie(
            "more in fragments",
            64,
            &[(0, word(part, more)), (behind(part), word(part, none))],
            message_length,
        ),
        lie(
            "two messages mixed",
            64,
            &[(0, word(16, more)), (8, 1), (16, word(16, none)), (24, 2)],
            fragment,
        ),
    ]
}

/// Whatever a sender puts into a ring against the rules gets its name and costs that link; the one beside it works
/// on, and nothing more comes from the liar.
pub(super) fn a_sender_that_lies_loses_only_its_link<K: LinkKind>(kind: &K) {
    for Lie { what, offset, words, named } in lies() {
        let mut pair = Pair::new(kind, 2, SMALL, LIE_BYTES_MAX);
        pair.advance_to(offset);
        let start = pair.position(LINK);
        let at = |distance: usize| DATA_AT + (start as usize + distance) % SMALL;
        for &(distance, word) in words.iter().rev() {
            kind.scribble(&mut pair.ends.receiver, LINK, at(distance), word);
        }
        pair.until(what, |pair| !pair.sink.broken.is_empty());
        let [(link, error)] = pair.sink.broken[..] else { panic!("{what}: it broke {:?}", pair.sink.broken) };
        assert_eq!(link, LINK, "{what}: the wrong link is closed");
        assert!(named(&error), "{what} is called {error:?}");
        kind.scribble(&mut pair.ends.receiver, LINK, at(0), CommitWord::new(16, PortId(0), Flags::NONE).0);
        (0..QUIET_TURNS).for_each(|_| pair.carry());
        assert_eq!((pair.sink.got.len(), pair.sink.broken.len()), (0, 1), "{what}: the link is still read");
        assert_neighbour_works(&mut pair);
    }
}

/// Whatever head a receiver claims against the rules gets its name and costs that link; the one beside it works on.
pub(super) fn a_receiver_that_lies_loses_only_its_link<K: LinkKind>(kind: &K) {
    let heads = [
        ("a head that went back", -(FRAME_ALIGN as i64)),
        ("a head a ring back", -(SMALL as i64)),
        ("a head ahead of all", 2 * SMALL as i64),
        ("the furthest head", i64::MAX),
        ("the furthest head back", i64::MIN),
    ];
    for (what, distance) in heads {
        let mut pair = Pair::new(kind, 2, SMALL, LIE_BYTES_MAX);
        for number in 0..10 {
            pair.send_number(number, 800).expect("the ring was read");
            pair.expect([(number, 800)]);
        }
        // The sender has seen the honest head, as far as it was told: a kind may tell it late.
        let writer = pair.ends.sender.outbox.get_mut(LINK).expect("the link is there").writer();
        writer.has_room().expect("the receiver was honest so far");
        let lie = writer.ring().head().wrapping_add_signed(distance);
        let mut error = None;
        for _ in 0..2 * SMALL / 100 {
            // The honest receiver that the suite drives must not mend it.
            kind.scribble(&mut pair.ends.sender, LINK, HEAD_AT, lie);
            error = match pair.send(LINK, header(0), &[0; 100]) {
                Err(SendError::Broken(error)) => Some((LINK, error)),
                sent => {
                    taken(sent);
                    pair.ends.sender.outbox.flush();
                    pair.ends.sender.outbox.take_broken()
                }
            };
            if error.is_some() {
                break;
            }
        }
        let Some((LINK, RingError::Head { head, .. })) = error else { panic!("{what} is called {error:?}") };
        assert_eq!(head, lie, "{what}");
        assert_neighbour_works(&mut pair);
    }
}

/// Random words all over a link's memory, on both sides: never a panic, never a message beyond the largest, at most
/// that one link closed.
pub(super) fn whatever_is_scribbled_costs_at_most_one_link<K: LinkKind>(kind: &K) {
    let word = (0..Ring::region_bytes(SMALL) / 8, any::<u64>(), any::<bool>());
    let case = (prop::collection::vec(word, 1..60), prop::collection::vec(any::<u64>(), 0..4), 1usize..40);
    random(200, case, |(words, heads, polls)| {
        let mut pair = Pair::new(kind, 2, SMALL, LIE_BYTES_MAX);
        pair.send(LINK, header(1), &imitation(1, 300)).expect("there is room");
        pair.ends.sender.outbox.flush();
        for (turn, (word, value, plausible)) in words.into_iter().enumerate() {
            // Half of the words look like commit words: small lengths, known flags.
            let value = if plausible { value & 0x003f_ffff_0000_0fff } else { value };
            kind.scribble(&mut pair.ends.receiver, LINK, word * 8, value);
            if turn.is_multiple_of(polls) {
                pair.carry();
            }
        }
        (0..QUIET_TURNS).for_each(|_| pair.carry());
        for head in heads {
            kind.scribble(&mut pair.ends.sender, LINK, HEAD_AT, head);
            let sent = pair.send(LINK, header(1), &imitation(1, 900));
            if let Err(SendError::Broken(RingError::Head { .. })) = sent {
                break;
            }
            taken(sent);
            pair.ends.sender.outbox.flush();
        }
        let Sink { got, broken } = &pair.sink;
        assert!(broken.len() <= 1 && broken.iter().all(|(link, _)| *link == LINK), "{broken:?}");
        assert!(got.iter().all(|(link, _, bytes)| *link == LINK && bytes.len() <= LIE_BYTES_MAX));
        assert_neighbour_works(&mut pair);
    });
}

/// Lets go of the broken link; the one beside it carries what it should.
fn assert_neighbour_works<K: LinkKind>(pair: &mut Pair<'_, K>) {
    const NEIGHBOUR: LinkId = LinkId(1);
    pair.ends.sender.outbox.detach(LINK);
    pair.ends.receiver.inbox.detach(LINK);
    pair.sink = Sink::default();
    for number in 0..40 {
        pair.send(NEIGHBOUR, header(number), &payload(number, 500)).expect("the ring was read");
        pair.expect_one(NEIGHBOUR, header(number), &payload(number, 500));
    }
    pair.expect_quiet();
}

/// A link that breaks in mid-stream and is restored goes on from exactly where it stopped: nothing lost, nothing
/// twice, nothing torn. A kind that has no way to break promises nothing here.
pub(super) fn an_interrupted_link_goes_on_where_it_stopped<K: LinkKind>(kind: &K) {
    let Some(Interruption { break_off, restore }) = K::INTERRUPTION else {
        println!("  {} links are never interrupted", K::NAME);
        return;
    };
    let mut random = Random(seed());
    for capacity in [SMALL, 64 << 10] {
        let mut pair = Pair::new(kind, 1, capacity, 3 * SMALL);
        let (mut next, mut sent) = (0, Vec::new());
        let mut send_some = |pair: &mut Pair<'_, K>, random: &mut Random, sent: &mut Vec<(u32, usize)>| {
            for _ in 0..random.below(30) {
                let most = if random.below(8) == 0 { 3 * SMALL as u64 } else { 200 };
                let len = random.below(most);
                if taken(pair.send_number(next, len)) {
                    sent.push((next, len));
                }
                next += 1;
            }
            pair.ends.sender.outbox.flush();
        };
        for round in 0..200 {
            send_some(&mut pair, &mut random, &mut sent);
            (0..random.below(4)).for_each(|_| pair.turn());
            break_off(kind, &mut pair.ends);
            send_some(&mut pair, &mut random, &mut sent);
            (0..random.below(4)).for_each(|_| pair.turn());
            restore(kind, &mut pair.ends);
            if round % 10 == 9 {
                pair.expect(sent.drain(..));
            }
        }
    }
}
