//! Loom models: every interleaving of small scenes, played by the code that runs in production.
//!
//! `RUSTFLAGS="--cfg loom" LOOM_MAX_PREEMPTIONS=2 cargo test -p shard-runtime --release --lib models`
//!
//! The asymmetric fence is modelled as two full fences, which is what it promises; that the kernel keeps the promise
//! is for `tests/wake_stress.rs`. A lost wake-up shows as a spin that loom gives up on.

use crate::frame::Header;
use crate::id::{LinkId, PortId, SessionId};
use crate::inbox::{Inbound, Inbox, Receiver};
use crate::memory::Memory;
use crate::outbox::{Outbound, Outbox};
use crate::ring::{Ring, RingError, RingReader, RingWriter, SendError};
use crate::wake::{BELL_BYTES, Bell, Ringer};
use loom::thread;

const CAPACITY: usize = 256;
const HEADER: Header = Header::new(SessionId::new(1, 1), PortId(0));

fn ring() -> (Ring, Memory) {
    let memory = Memory::zeroed(Ring::region_bytes(CAPACITY));
    let ring = Ring::new(memory.clone(), CAPACITY);
    ring.identify();
    (ring, memory)
}

/// Two messages fill the ring, the third comes around to where the first was.
#[test]
fn frames_arrive_once_in_order_and_whole_through_a_lap() {
    loom::model(|| {
        let (_, memory) = ring();
        let mut writer = RingWriter::new(Ring::new(memory.clone(), CAPACITY));
        let mut reader = RingReader::new(Ring::new(memory, CAPACITY));
        let producer = thread::spawn(move || {
            for number in 1..=3u64 {
                loop {
                    match writer.loan(HEADER, 96) {
                        Ok(mut loan) => {
                            loan.write(0, &number.to_le_bytes());
                            loan.write(88, &number.to_le_bytes());
                            break loan.commit();
                        }
                        Err(SendError::Full) => thread::yield_now(),
                        Err(error) => panic!("{error}"),
                    }
                }
            }
        });
        let mut next = 1u64;
        while next <= 3 {
            let mut ends = [[0; 8]; 2];
            match reader.take().expect("a sound ring") {
                Some(frame) => {
                    frame.read(0, &mut ends[0]);
                    frame.read(88, &mut ends[1]);
                }
                None => {
                    reader.release();
                    thread::yield_now();
                    continue;
                }
            }
            assert_eq!(ends, [next.to_le_bytes(); 2]);
            reader.release();
            next += 1;
        }
        producer.join().expect("the producer ends");
    });
}

/// A batch of two is seen whole or not at all, and never beyond its end.
#[test]
fn a_batch_appears_at_once() {
    loom::model(|| {
        let (_, memory) = ring();
        let mut writer = RingWriter::new(Ring::new(memory.clone(), CAPACITY));
        let mut reader = RingReader::new(Ring::new(memory, CAPACITY));
        let producer = thread::spawn(move || {
            for number in 1..=2u64 {
                writer.write(HEADER, &number.to_le_bytes(), &mut 0).expect("there is room");
            }
            writer.publish();
        });
        let mut got = 0;
        for _ in 0..3 {
            let mut bytes = [0; 8];
            if let Some(frame) = reader.take().expect("a sound ring") {
                frame.read(0, &mut bytes);
                got += 1;
                assert_eq!(u64::from_le_bytes(bytes), got);
            } else {
                assert_ne!(got, 1, "half a batch was seen");
            }
        }
        producer.join().expect("the producer ends");
    });
}

struct Count(u64);

impl Receiver for Count {
    fn message(&mut self, _: LinkId, _: &Header, _: &[u8]) {
        self.0 += 1;
    }

    fn drained(&mut self, _: LinkId, _: usize) {}

    fn broken(&mut self, _: LinkId, error: RingError) {
        panic!("{error}");
    }
}

/// The consumer goes to sleep while the producer sends: it gets the message, or is woken for it. The link is as it
/// is at first (careful), or as it is after many messages (relaxed: the producer makes no fence of its own).
fn sleep_while_a_message_is_sent(relaxed: bool) {
    loom::model(move || {
        let (_, memory) = ring();
        let bell = Memory::zeroed(BELL_BYTES);
        let ringer = Ringer::new(bell.clone());
        let writer = RingWriter::new(Ring::new(memory.clone(), CAPACITY));
        let mut outbound = Outbound::new(writer, ringer.clone(), LinkId(0), 64);
        let mut inbox = Inbox::new(Bell::new(bell));
        inbox.attach(LinkId(0), Inbound::new(RingReader::new(Ring::new(memory, CAPACITY)), ringer, 64));
        if relaxed {
            inbox.relax_all();
        }
        let producer = thread::spawn(move || {
            outbound.send(HEADER, &[7; 8]).expect("there is room");
            outbound.flush().expect("a sound ring");
        });
        let (mut count, mut outbox) = (Count(0), Outbox::new());
        while count.0 == 0 {
            if inbox.poll(&mut count) == 0
                && inbox.prepare_to_park(&mut outbox)
                && inbox.bell().prepare_to_park()
            {
                while inbox.bell().still_parked() {
                    thread::yield_now();
                }
            }
        }
        producer.join().expect("the producer ends");
    });
}

#[test]
fn no_wake_up_is_lost_between_looking_and_sleeping() {
    sleep_while_a_message_is_sent(false);
}

#[test]
fn no_wake_up_is_lost_on_a_link_without_fences() {
    sleep_while_a_message_is_sent(true);
}

/// Two producers ring at once: both links are heard.
#[test]
fn no_bell_is_lost_when_two_ring_at_once() {
    loom::model(|| {
        let memory = Memory::zeroed(BELL_BYTES);
        let bell = Bell::new(memory.clone());
        let ringers = [Ringer::new(memory.clone()), Ringer::new(memory)];
        let threads: Vec<_> = (0u16..)
            .zip(ringers)
            .map(|(link, ringer)| thread::spawn(move || ringer.ring(LinkId(link))))
            .collect();
        let mut heard = 0u64;
        bell.answer(|link| heard |= 1 << link.0);
        threads.into_iter().for_each(|thread| thread.join().expect("a ringer ends"));
        bell.answer(|link| heard |= 1 << link.0);
        assert_eq!(heard, 0b11);
    });
}
