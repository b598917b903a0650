//! On the way of a message nothing is allocated.

use shard_runtime::frame::Header;
use shard_runtime::id::{LinkId, PortId, SessionId};
use shard_runtime::inbox::{Inbound, Inbox, Receiver};
use shard_runtime::outbox::{Outbound, Outbox};
use shard_runtime::ring::{Ring, RingError, RingReader, RingWriter};
use shard_runtime::wake::{Bell, Ringer, create_bell};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: everything is handed to the system's allocator; counting does not touch the memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

#[derive(Default)]
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

#[test]
fn a_message_is_sent_and_received_without_an_allocation() {
    const CAPACITY: usize = 256 << 10;
    let bells = [create_bell("a").unwrap(), create_bell("b").unwrap()];
    let region = Ring::create("ring", CAPACITY).unwrap();
    let ring = || Ring::new(region.map(true).unwrap(), CAPACITY);
    let (mut inbox, mut outbox) = (Inbox::new(Bell::map(&bells[0]).unwrap()), Outbox::new());
    inbox.attach(LinkId(0), Inbound::new(RingReader::new(ring()), Ringer::map(&bells[1]).unwrap(), 100_000));
    outbox.attach(
        LinkId(0),
        Outbound::new(RingWriter::new(ring()), Ringer::map(&bells[0]).unwrap(), LinkId(0), 100_000),
    );
    let mut count = Count::default();
    let payload = vec![3; 100_000];
    let header = Header::new(SessionId::new(1, 1), PortId(0));
    for size in [40, 64, 1024, 4096, 65_536, 100_000] {
        let mut round = || {
            outbox.send(LinkId(0), header, &payload[..size]).unwrap().unwrap();
            outbox.flush();
            inbox.poll(&mut count);
            inbox.poll(&mut count);
            inbox.park(&mut outbox, Some(0));
        };
        // The first ones make the buffers as large as they will be.
        (0..10).for_each(|_| round());
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        (0..1_000).for_each(|_| round());
        assert_eq!(ALLOCATIONS.load(Ordering::Relaxed) - before, 0, "at {size} bytes");
    }
    assert_eq!(count.0, 6 * 1_010);
}
