//! The real asymmetric fence, the real futex: two threads that sleep and wake each other at odd moments. A lost
//! wake-up would show as a sleep until the sweep. `SHARD_STRESS_SECONDS` makes it longer.

use shard_runtime::frame::Header;
use shard_runtime::id::{LinkId, PortId, SessionId};
use shard_runtime::inbox::{Inbound, Inbox, Receiver, WaitStrategy};
use shard_runtime::outbox::{Outbound, Outbox};
use shard_runtime::ring::{Ring, RingError, RingReader, RingWriter};
use shard_runtime::wake::{Bell, Ringer, SWEEP_NS, create_bell};
use std::time::{Duration, Instant};

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

struct Node {
    inbox: Inbox,
    outbox: Outbox,
    seen: Count,
}

/// Two nodes with a link each way.
fn nodes() -> [Node; 2] {
    const CAPACITY: usize = 4096;
    let rings = [Ring::create("a", CAPACITY).unwrap(), Ring::create("b", CAPACITY).unwrap()];
    let bells = [create_bell("a").unwrap(), create_bell("b").unwrap()];
    [0, 1].map(|me| {
        let ringer = Ringer::map(&bells[1 - me]).unwrap();
        let ring = |at: usize| Ring::new(rings[at].map(true).unwrap(), CAPACITY);
        let (mut inbox, mut outbox) = (Inbox::new(Bell::map(&bells[me]).unwrap()), Outbox::new());
        inbox.attach(LinkId(0), Inbound::new(RingReader::new(ring(me)), ringer.clone(), 4096));
        outbox.attach(LinkId(0), Outbound::new(RingWriter::new(ring(1 - me)), ringer, LinkId(0), 4096));
        Node { inbox, outbox, seen: Count(0) }
    })
}

impl Node {
    fn send(&mut self) {
        let header = Header::new(SessionId::new(1, 1), PortId(0));
        self.outbox.send(LinkId(0), header, &[1; 40]).unwrap().unwrap();
        self.outbox.flush();
    }

    /// Waits for the next message as `strategy` says, and returns how long it took.
    fn receive(&mut self, strategy: WaitStrategy) -> Duration {
        let (start, before) = (Instant::now(), self.seen.0);
        while self.seen.0 == before {
            if self.inbox.poll(&mut self.seen) == 0 {
                self.inbox.wait(strategy, &mut self.outbox, None);
            }
        }
        start.elapsed()
    }
}

#[test]
fn no_wake_up_is_lost_whenever_the_peer_goes_to_sleep() {
    let seconds = std::env::var("SHARD_STRESS_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(3);
    let [mut near, mut far] = nodes();
    let echo = std::thread::spawn(move || {
        let mut random = 1u64;
        loop {
            far.receive(strategy(&mut random));
            far.send();
            if STOP.load(std::sync::atomic::Ordering::Relaxed) {
                break;
            }
        }
    });
    let (end, mut random, mut rounds) = (Instant::now() + Duration::from_secs(seconds), 7u64, 0u64);
    let mut longest = Duration::ZERO;
    loop {
        let last = Instant::now() >= end;
        STOP.store(last, std::sync::atomic::Ordering::Relaxed);
        near.send();
        longest = longest.max(near.receive(strategy(&mut random)));
        rounds += 1;
        // Busy stretches relax the links, pauses let the peer fall asleep in the middle of things.
        if rounds.is_multiple_of(1000) {
            std::thread::sleep(Duration::from_micros(random % 300));
        }
        if last {
            break;
        }
    }
    echo.join().unwrap();
    println!(
        "{rounds} round trips, the longest {longest:?}, {} sleeps, fence {}",
        near.inbox.parks(),
        shard_runtime::barrier::register()
    );
    assert!(longest < Duration::from_nanos(SWEEP_NS / 2), "a wake-up was lost: {longest:?}");
}

static STOP: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);

/// Sometimes spins for ever, sometimes a little, sometimes not at all.
fn strategy(random: &mut u64) -> WaitStrategy {
    *random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    match (*random >> 33) % 4 {
        0 => WaitStrategy::Park,
        1 => WaitStrategy::SpinThenPark { spin_ns: 200 },
        2 => WaitStrategy::SpinThenPark { spin_ns: 3_000 },
        _ => WaitStrategy::SpinThenPark { spin_ns: 50_000 },
    }
}
