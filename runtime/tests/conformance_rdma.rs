//! Kind `rdma` keeps every promise of a link, also when its queue pair breaks in mid-stream and another one takes over.
//!
//! Needs an RDMA device: `cargo run --release -p soft-roce -- test` runs it in a guest that has one.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use shard_runtime::clock::now_ns;
use shard_runtime::conformance::{End, Ends, Interruption, LinkKind, run_all};
use shard_runtime::id::LinkId;
use shard_runtime::inbox::{Inbound, Inbox};
use shard_runtime::outbox::{Outbound, Outbox};
use shard_runtime::rate::{Meter, Rate};
use shard_runtime::rdma::Rdma as QueuePairs;
use shard_runtime::ring::{Ring, RingReader, RingWriter};
use shard_runtime::verbs::{Device, Wish, choose};
use shard_runtime::wake::{Bell, create_bell};
use std::sync::atomic::Ordering;

/// Where a ring's data begins.
const DATA_AT: usize = 4096;

/// Two ends on one device with a queue pair for each link; held to a rate if they have one.
struct Rdma {
    device: Device,
    rate: Option<Rate>,
}

/// The queue pairs of an end, and what they may send together.
struct Carrier {
    rdma: QueuePairs,
    meter: Option<Meter>,
}

impl Carrier {
    fn leave(&mut self, link: LinkId) {
        if let Some(meter) = &mut self.meter {
            meter.leave(link);
        }
    }
}

fn end(kind: &Rdma, links: u16) -> End<Carrier> {
    let inbox = Inbox::new(Bell::map(&create_bell("bell").unwrap()).unwrap());
    let rdma = QueuePairs::open(&kind.device, links.into()).unwrap();
    let meter = kind.rate.map(|rate| Meter::new(rate, now_ns()));
    End { inbox, outbox: Outbox::new(), rings: Vec::new(), carrier: Carrier { rdma, meter } }
}

/// New queue pairs for all links, connected to each other.
fn connect(ends: &mut Ends<Carrier>) {
    let Ends { sender, receiver } = ends;
    for link in (0..sender.rings.len() as u16).map(LinkId) {
        let of_sender = sender.carrier.rdma.prepare(link, sender.outbox.get_mut(link), None).unwrap();
        let of_receiver = receiver.carrier.rdma.prepare(link, None, receiver.inbox.get_mut(link)).unwrap();
        sender.carrier.rdma.connect(link, sender.outbox.get_mut(link), &of_receiver).unwrap();
        receiver.carrier.rdma.connect(link, None, &of_sender).unwrap();
        sender.carrier.rdma.start(link);
        receiver.carrier.rdma.start(link);
    }
}

fn carry(end: &mut End<Carrier>) -> bool {
    while let Some(link) = end.outbox.take_published() {
        end.carrier.rdma.published(link);
    }
    let Carrier { rdma, meter } = &mut end.carrier;
    if let Some(meter) = meter {
        meter.turn_to(now_ns());
        meter.due().into_iter().for_each(|link| rdma.published(link));
    }
    let came = rdma.carry_within(&mut end.inbox, &mut end.outbox, meter.as_mut());
    // A queue pair that broke is as good as one that was interrupted.
    while let Some((link, error)) = end.carrier.rdma.take_broken() {
        println!("{link:?}: {error}");
        end.carrier.leave(link);
    }
    came
}

impl LinkKind for Rdma {
    type Carrier = Carrier;

    const NAME: &'static str = "rdma";

    const INTERRUPTION: Option<Interruption<Self>> = Some(Interruption {
        break_off: |_, ends| {
            for link in (0..ends.sender.rings.len() as u16).map(LinkId) {
                ends.sender.carrier.rdma.disconnect(link);
                ends.receiver.carrier.rdma.disconnect(link);
                ends.sender.carrier.leave(link);
            }
        },
        restore: |_, ends| connect(ends),
    });

    fn connect(&self, links: u16, capacity: usize, message_bytes_max: usize) -> Ends<Carrier> {
        let (mut sender, mut receiver) = (end(self, links), end(self, links));
        for link in (0..links).map(LinkId) {
            let memories =
                ["staging", "ring"].map(|label| Ring::create(label, capacity).unwrap().map(true).unwrap());
            let [staging, ring] = memories.clone().map(|memory| Ring::new(memory, capacity));
            sender.outbox.attach(link, Outbound::carried(RingWriter::new(staging), message_bytes_max));
            let (bell, reader) = (receiver.inbox.ringer(), RingReader::vouched(ring));
            receiver.inbox.attach(link, Inbound::new(reader, bell, message_bytes_max));
            for (end, memory) in [&mut sender, &mut receiver].into_iter().zip(memories) {
                end.rings.push(memory);
            }
        }
        let mut ends = Ends { sender, receiver };
        connect(&mut ends);
        ends
    }

    fn carry(&self, end: &mut End<Carrier>) {
        carry(end);
    }

    fn park(&self, end: &mut End<Carrier>) {
        // Preparing may publish what waited for room, and that has to go before anyone sleeps.
        if !end.inbox.prepare_to_park(&mut end.outbox) {
            return;
        }
        end.carrier.rdma.arm().unwrap();
        if carry(end) {
            return;
        }
        let mut fds = [PollFd::new(&end.carrier.rdma, PollFlags::IN)];
        let due_ns = end.carrier.meter.as_ref().map_or(u64::MAX, Meter::due_ns).saturating_sub(now_ns());
        poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: due_ns.min(250_000_000) as i64 })).unwrap();
    }

    fn scribble(&self, end: &mut End<Carrier>, link: LinkId, at: usize, word: u64) {
        end.rings[usize::from(link.0)].word(at).store(word, Ordering::Release);
        if at >= DATA_AT
            && let Some(inbound) = end.inbox.get_mut(link)
        {
            // As if it had come over the wire.
            inbound.reader().vouch(u64::MAX);
            end.inbox.expect(link);
        }
    }
}

#[test]
#[ignore = "needs an RDMA device: cargo run --release -p soft-roce -- test"]
fn rdma_keeps_every_promise() {
    let device = choose(&Wish::default()).unwrap();
    println!("{}", device.why());
    run_all(&Rdma { device, rate: None });
}

#[test]
#[ignore = "needs an RDMA device: cargo run --release -p soft-roce -- test"]
fn rdma_keeps_every_promise_while_a_rate_holds_it_back() {
    let device = choose(&Wish::default()).unwrap();
    run_all(&Rdma { device, rate: Rate::from_bits_per_s(400_000_000) });
}
