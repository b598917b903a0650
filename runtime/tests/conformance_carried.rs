//! The suite on a model of kinds whose frames are carried: the sender writes a ring of its own, from which bytes go
//! to the same positions of the receiver's, and heads come back. It shows that the suite fits such kinds, and that
//! an interruption is survived where the sender goes on from what had arrived.

use shard_runtime::conformance::{End, Ends, Interruption, LinkKind, run_all};
use shard_runtime::id::LinkId;
use shard_runtime::inbox::{Inbound, Inbox};
use shard_runtime::memory::Memory;
use shard_runtime::outbox::{Outbound, Outbox};
use shard_runtime::ring::{Ring, RingReader, RingWriter};
use shard_runtime::wake::{Bell, Ringer, create_bell};
use std::sync::atomic::Ordering;

/// Where a ring's head stands.
const HEAD_AT: usize = 256;
/// Where its data begins.
const DATA_AT: usize = 4096;

/// Two ends on one host that behave as if they were on two.
struct Carried;

/// What one end of a link carries from and to.
struct Route {
    from: Ring,
    to: Memory,
    /// Up to here it has arrived.
    carried: u64,
}

struct Carrier {
    routes: Vec<Route>,
    /// The other end's bell.
    bell: Ringer,
    carries_frames: bool,
    broken: bool,
}

impl Route {
    /// Moves the frames between `carried` and the tail; the first commit word comes last, if it comes.
    fn frames(&mut self, broken: bool) -> bool {
        let Ok(tail) = self.from.find_tail(self.carried) else { return false };
        if tail == self.carried {
            return false;
        }
        let at = |position: u64| DATA_AT + (position % self.from.capacity() as u64) as usize;
        let copy = |position: u64, order: Ordering| {
            let word = self.from.memory().word(at(position)).load(Ordering::Relaxed);
            self.to.word(at(position)).store(word, order);
        };
        self.to.word(at(tail)).store(0, Ordering::Relaxed);
        for position in (self.carried + 8..tail).step_by(8) {
            copy(position, Ordering::Relaxed);
        }
        if broken {
            return false;
        }
        copy(self.carried, Ordering::Release);
        self.carried = tail;
        true
    }

    fn head(&mut self) -> bool {
        let head = self.from.head();
        if head == self.carried {
            return false;
        }
        self.to.word(HEAD_AT).store(head, Ordering::Release);
        self.carried = head;
        true
    }
}

fn set_broken(ends: &mut Ends<Carrier>, broken: bool) {
    ends.sender.carrier.broken = broken;
    ends.receiver.carrier.broken = broken;
}

impl LinkKind for Carried {
    type Carrier = Carrier;

    const NAME: &'static str = "carried";

    const INTERRUPTION: Option<Interruption<Self>> = Some(Interruption {
        break_off: |_, ends| set_broken(ends, true),
        restore: |_, ends| set_broken(ends, false),
    });

    fn connect(&self, links: u16, capacity: usize, message_bytes_max: usize) -> Ends<Carrier> {
        let bells = [create_bell("sender").unwrap(), create_bell("receiver").unwrap()];
        let mut ends = [0, 1].map(|me| End {
            inbox: Inbox::new(Bell::map(&bells[me]).unwrap()),
            outbox: Outbox::new(),
            rings: Vec::new(),
            carrier: Carrier {
                routes: Vec::new(),
                bell: Ringer::map(&bells[1 - me]).unwrap(),
                carries_frames: me == 0,
                broken: false,
            },
        });
        let [sender, receiver] = &mut ends;
        for link in (0..links).map(LinkId) {
            let regions = ["staging", "ring"].map(|label| Ring::create(label, capacity).unwrap());
            let memory = |at: usize| regions[at].map(true).unwrap();
            let ring = |at: usize| Ring::new(memory(at), capacity);
            let bell = sender.carrier.bell.clone();
            sender
                .outbox
                .attach(link, Outbound::new(RingWriter::new(ring(0)), bell, link, message_bytes_max));
            let bell = receiver.carrier.bell.clone();
            receiver.inbox.attach(link, Inbound::new(RingReader::new(ring(1)), bell, message_bytes_max));
            for (me, end) in [&mut *sender, &mut *receiver].into_iter().enumerate() {
                end.rings.push(memory(me));
                end.carrier.routes.push(Route { from: ring(me), to: memory(1 - me), carried: 0 });
            }
        }
        let [sender, receiver] = ends;
        Ends { sender, receiver }
    }

    fn carry(&self, end: &mut End<Carrier>) {
        let Carrier { routes, bell, carries_frames, broken } = &mut end.carrier;
        for (link, route) in (0..).map(LinkId).zip(routes) {
            if *carries_frames && route.frames(*broken) {
                bell.ring(link);
            } else if !*carries_frames && !*broken && route.head() {
                bell.room();
            }
        }
    }
}

#[test]
fn carried_frames_keep_every_promise() {
    run_all(&Carried);
}
