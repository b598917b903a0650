//! The ring against a model, and against peers that write whatever they like. Proptest prints what failed and keeps
//! its seed.

use proptest::prelude::*;
use shard_runtime::frame::{Flags, Header};
use shard_runtime::id::{LinkId, PortId, SessionId};
use shard_runtime::inbox::{Inbound, Inbox, Receiver};
use shard_runtime::memory::Memory;
use shard_runtime::outbox::{Outbound, Outbox};
use shard_runtime::ring::{Ring, RingError, RingReader, RingWriter, SendError};
use shard_runtime::wake::{Bell, Ringer, create_bell};
use std::collections::VecDeque;

const CAPACITY: usize = 4096;

/// Both ends of a ring, each with a mapping of its own. `polled` rings go home.
fn ends(polled: bool) -> (RingWriter, RingReader, Memory) {
    let region = Ring::create("test", CAPACITY).unwrap();
    let map = || region.map(true).unwrap();
    let memory = map();
    if polled {
        memory.word(384).store(0, std::sync::atomic::Ordering::Relaxed);
    }
    (RingWriter::new(Ring::new(map(), CAPACITY)), RingReader::new(Ring::new(map(), CAPACITY)), memory)
}

#[derive(Clone, Debug)]
enum Step {
    /// Write a message of so many bytes, each of this value.
    Write(usize, u8),
    /// Lend and commit a message.
    Lend(usize, u8),
    Publish,
    /// Read up to so many frames.
    Read(usize),
    Release,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0usize..1400, any::<u8>()).prop_map(|(len, byte)| Step::Write(len, byte)),
        1 => (0usize..2000, any::<u8>()).prop_map(|(len, byte)| Step::Lend(len, byte)),
        2 => Just(Step::Publish),
        3 => (1usize..20).prop_map(Step::Read),
        2 => Just(Step::Release),
    ]
}

/// A payload that looks like commit words all over, so that a stale byte would be taken for a frame.
fn payload(len: usize, byte: u8) -> Vec<u8> {
    let word = (u64::from(byte) % 60 + 16).to_le_bytes();
    word.iter().copied().cycle().take(len).collect()
}

fn header(number: u32) -> Header {
    Header::new(SessionId::new(number, 1), PortId(number as u16))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read_once_in_order_and_nothing_before_it_is_published(
        polled: bool,
        steps in prop::collection::vec(step(), 1..200),
    ) {
        let (mut writer, mut reader, _) = ends(polled);
        let mut written: VecDeque<(u32, Vec<u8>)> = VecDeque::new();
        let mut visible = 0usize;
        let mut number = 0;
        // A message whose first fragments are in the ring must go on before any other.
        let mut unfinished: Option<(u32, Vec<u8>, usize)> = None;
        let mut assembled = Vec::new();
        for step in steps {
            match step {
                Step::Write(len, byte) => {
                    let (n, bytes, mut sent) = unfinished.take().unwrap_or_else(|| {
                        number += 1;
                        (number, payload(len, byte), 0)
                    });
                    match writer.write(header(n), &bytes, &mut sent) {
                        Ok(()) => written.push_back((n, bytes)),
                        Err(SendError::Full) if sent > 0 => unfinished = Some((n, bytes, sent)),
                        Err(SendError::Full) => {}
                        Err(error) => return Err(TestCaseError::fail(error.to_string())),
                    }
                }
                Step::Lend(len, byte) if unfinished.is_none() => {
                    let bytes = payload(len, byte);
                    match writer.loan(header(number + 1), len) {
                        Ok(mut loan) => {
                            loan.write(0, &bytes);
                            loan.commit();
                            number += 1;
                            written.push_back((number, bytes));
                            visible = written.len();
                        }
                        Err(SendError::Full) => {}
                        Err(error) => return Err(TestCaseError::fail(error.to_string())),
                    }
                }
                Step::Lend(..) => {}
                Step::Publish => {
                    writer.publish();
                    visible = written.len();
                }
                Step::Read(most) => {
                    for _ in 0..most {
                        let Some(frame) = reader.take().map_err(|e| TestCaseError::fail(e.to_string()))? else { break };
                        let head = frame.header();
                        frame.append_to(&mut assembled);
                        if head.flags.has(Flags::MORE) {
                            continue;
                        }
                        let (n, bytes) = written.pop_front().expect("a frame that nobody wrote");
                        visible = visible.saturating_sub(1);
                        prop_assert_eq!(head.session, SessionId::new(n, 1));
                        prop_assert_eq!(&assembled, &bytes);
                        assembled.clear();
                    }
                }
                Step::Release => { reader.release(); }
            }
        }
        // In the end everything arrives.
        loop {
            if let Some((n, bytes, mut sent)) = unfinished.take() {
                match writer.write(header(n), &bytes, &mut sent) {
                    Ok(()) => written.push_back((n, bytes)),
                    Err(_) => unfinished = Some((n, bytes, sent)),
                }
            }
            writer.publish();
            let mut progress = false;
            while let Some(frame) = reader.take().map_err(|e| TestCaseError::fail(e.to_string()))? {
                progress = true;
                frame.append_to(&mut assembled);
                if !frame.header().flags.has(Flags::MORE) {
                    let (_, bytes) = written.pop_front().expect("a frame that nobody wrote");
                    prop_assert_eq!(&assembled, &bytes);
                    assembled.clear();
                }
            }
            reader.release();
            if unfinished.is_none() && !progress {
                break;
            }
        }
        prop_assert!(written.is_empty(), "{} messages are lost", written.len());
    }

    #[test]
    fn a_hostile_producer_gets_a_named_error_and_never_a_panic(
        scribbles in prop::collection::vec((0usize..(4096 + CAPACITY) / 8, any::<u64>(), any::<bool>()), 1..60),
        polls in 1usize..40,
    ) {
        let bells = [create_bell("a").unwrap(), create_bell("b").unwrap()];
        let (mut writer, reader, memory) = ends(true);
        let mut inbox = Inbox::new(Bell::map(&bells[0]).unwrap());
        inbox.attach(LinkId(3), Inbound::new(reader, Ringer::map(&bells[1]).unwrap(), 1000));
        let mut sent = 0;
        let _ = writer.write(header(1), &payload(300, 1), &mut sent);
        writer.publish();
        let mut sink = Sink::default();
        for (at, (word, value, plausible)) in scribbles.into_iter().enumerate() {
            // Half of the words look like commit words: small lengths, known flags.
            let value = if plausible { value & 0x003f_ffff_0000_0fff } else { value };
            memory.word(word * 8).store(value, std::sync::atomic::Ordering::Release);
            if at % polls == 0 {
                inbox.poll(&mut sink);
            }
        }
        for _ in 0..polls {
            inbox.poll(&mut sink);
        }
        prop_assert!(sink.broken <= 1, "a link breaks once");
        prop_assert!(sink.largest <= 1000, "a message of {} bytes came through", sink.largest);
    }

    #[test]
    fn a_hostile_consumer_gets_a_named_error_and_never_a_panic(
        heads in prop::collection::vec(any::<u64>(), 1..40),
        len in 0usize..900,
    ) {
        let (mut writer, _, memory) = ends(true);
        for head in heads {
            memory.word(256).store(head, std::sync::atomic::Ordering::Release);
            let mut sent = 0;
            let bytes = payload(len, 3);
            match writer.write(header(1), &bytes, &mut sent) {
                Ok(()) | Err(SendError::Full) => writer.publish(),
                Err(SendError::Broken(RingError::Head { .. })) => break,
                Err(error) => return Err(TestCaseError::fail(error.to_string())),
            }
        }
    }

    #[test]
    fn an_outbox_keeps_the_order_through_full_rings_and_loses_nothing(
        sizes in prop::collection::vec(0usize..9000, 1..120),
        drains in prop::collection::vec(any::<bool>(), 120),
    ) {
        let bells = [create_bell("a").unwrap(), create_bell("b").unwrap()];
        let (writer, reader, _) = ends(false);
        let (mut inbox, mut outbox) = (Inbox::new(Bell::map(&bells[0]).unwrap()), Outbox::new());
        inbox.attach(LinkId(0), Inbound::new(reader, Ringer::map(&bells[1]).unwrap(), 9000));
        outbox.attach(LinkId(0), Outbound::new(writer, Ringer::map(&bells[0]).unwrap(), LinkId(0), 9000));
        let mut sink = Sink::default();
        let mut expected = Vec::new();
        for (number, (size, drain)) in sizes.into_iter().zip(drains).enumerate() {
            let sent = outbox.send(LinkId(0), header(number as u32), &payload(size, number as u8)).unwrap();
            match sent {
                Ok(()) => expected.push((number as u16, size)),
                Err(SendError::Full) => {}
                Err(error) => return Err(TestCaseError::fail(error.to_string())),
            }
            if drain {
                outbox.flush();
                inbox.poll(&mut sink);
            }
        }
        // A round that brings no message may have brought a part of one.
        let mut quiet = 0;
        while quiet < 16 {
            outbox.flush();
            quiet = if inbox.poll(&mut sink) == 0 && !outbox.waits() { quiet + 1 } else { 0 };
        }
        prop_assert_eq!(sink.got, expected);
        prop_assert_eq!(sink.broken, 0);
    }
}

#[test]
fn a_ring_of_nothing_but_padding_is_refused_and_keeps_nobody_busy() {
    let (_, mut reader, memory) = ends(true);
    // One padding frame that fills the whole ring, so that its end is its beginning.
    memory.word(4096).store(CAPACITY as u64 | 1 << 48, std::sync::atomic::Ordering::Release);
    assert!(matches!(reader.take().err(), Some(RingError::CommitWord { .. })));
}

/// Notes what arrives.
#[derive(Default)]
struct Sink {
    got: Vec<(u16, usize)>,
    largest: usize,
    broken: usize,
}

impl Receiver for Sink {
    fn message(&mut self, _: LinkId, header: &Header, payload: &[u8]) {
        self.got.push((header.port.0, payload.len()));
        self.largest = self.largest.max(payload.len());
    }

    fn drained(&mut self, _: LinkId, _: usize) {}

    fn broken(&mut self, _: LinkId, _: RingError) {
        self.broken += 1;
    }
}
