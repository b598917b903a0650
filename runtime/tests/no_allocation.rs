//! On the way of a message nothing is allocated.

use shard_runtime::control::{ControlSocket, FromShard, Packet};
use shard_runtime::frame::Header;
use shard_runtime::id::{LinkId, PortId, SessionId};
use shard_runtime::inbox::{Inbound, Inbox, Receiver};
use shard_runtime::outbox::{Outbound, Outbox};
use shard_runtime::ring::{Ring, RingError, RingReader, RingWriter};
use shard_runtime::wake::{Bell, Ringer, create_bell};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Counting;

thread_local! {
    /// Those of one thread: tests run side by side.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: everything is handed to the system's allocator; counting does not touch the memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
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
        let before = ALLOCATIONS.get();
        (0..1_000).for_each(|_| round());
        assert_eq!(ALLOCATIONS.get() - before, 0, "at {size} bytes");
    }
    assert_eq!(count.0, 6 * 1_010);
}

#[test]
fn a_control_message_is_received_without_an_allocation() {
    let (a, b) = ControlSocket::pair().unwrap();
    let mut packet = Packet::new();
    for _ in 0..100 {
        a.send(&FromShard::Ready, &[]).unwrap();
        let before = ALLOCATIONS.get();
        let (message, _) = b.receive::<FromShard>(&mut packet).unwrap();
        assert_eq!(ALLOCATIONS.get() - before, 0);
        assert_eq!(message, FromShard::Ready);
    }
}
