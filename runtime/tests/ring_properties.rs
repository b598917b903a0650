//! The ring against a model. Proptest prints what failed and keeps its seed. What every kind of link promises on top
//! of a ring, hostile peers included, is the conformance suite's.

use proptest::prelude::*;
use shard_runtime::frame::{Flags, Header};
use shard_runtime::id::{PortId, SessionId};
use shard_runtime::ring::{Ring, RingReader, RingWriter, SendError};
use std::collections::VecDeque;

const CAPACITY: usize = 4096;

/// Both ends of a ring, each with a mapping of its own. `polled` rings go home.
fn ends(polled: bool) -> (RingWriter, RingReader) {
    let region = Ring::create("test", CAPACITY).unwrap();
    let map = || region.map(true).unwrap();
    if polled {
        map().word(384).store(0, std::sync::atomic::Ordering::Relaxed);
    }
    (RingWriter::new(Ring::new(map(), CAPACITY)), RingReader::new(Ring::new(map(), CAPACITY)))
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
        let (mut writer, mut reader) = ends(polled);
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
}
