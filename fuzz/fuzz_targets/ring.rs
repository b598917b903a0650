//! A peer that writes whatever it likes over a ring and a bell, while its owner polls. No panic, nothing read outside,
//! no message beyond the limit.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shard_runtime::frame::Header;
use shard_runtime::id::LinkId;
use shard_runtime::inbox::{Inbound, Inbox, Receiver};
use shard_runtime::memory::Memory;
use shard_runtime::ring::{Ring, RingError, RingReader};
use shard_runtime::wake::{Bell, Ringer, create_bell};
use std::cell::RefCell;
use std::sync::atomic::Ordering;

const CAPACITY: usize = 4096;
const MESSAGE_BYTES_MAX: usize = 1500;

struct World {
    ring: Memory,
    bell: Memory,
    producer: Memory,
}

struct Sink;

impl Receiver for Sink {
    fn message(&mut self, _: LinkId, _: &Header, payload: &[u8]) {
        assert!(payload.len() <= MESSAGE_BYTES_MAX);
    }

    fn drained(&mut self, _: LinkId, _: usize) {}

    fn broken(&mut self, _: LinkId, _: RingError) {}
}

thread_local! {
    // The memory is made once: what an earlier run left in it is as hostile as anything.
    static WORLD: RefCell<World> = RefCell::new({
        let map = |region: shard_runtime::region::Region| region.map(true).unwrap();
        World {
            ring: map(Ring::create("fuzz", CAPACITY).unwrap()),
            bell: map(create_bell("fuzz").unwrap()),
            producer: map(create_bell("fuzz").unwrap()),
        }
    });
}

fuzz_target!(|data: &[u8]| {
    WORLD.with_borrow(|world| {
        let mut inbox = Inbox::new(Bell::new(world.bell.clone()));
        let reader = RingReader::new(Ring::new(world.ring.clone(), CAPACITY));
        inbox.attach(LinkId(5), Inbound::new(reader, Ringer::new(world.producer.clone()), MESSAGE_BYTES_MAX));
        // Records of 10 bytes: where, and what; the lowest bits say into what, and whether to poll then.
        for record in data.chunks_exact(10) {
            let at = usize::from(u16::from_le_bytes([record[0], record[1]]));
            let word = u64::from_le_bytes([
                record[2], record[3], record[4], record[5], record[6], record[7], record[8], record[9],
            ]);
            let memory = if at & 1 == 0 { &world.ring } else { &world.bell };
            memory.word((at >> 2) * 8 % memory.len()).store(word, Ordering::Release);
            if at & 2 == 0 {
                inbox.poll(&mut Sink);
            }
        }
        inbox.poll(&mut Sink);
        inbox.poll(&mut Sink);
    });
});
