//! Kind `tcp` keeps every promise of a link, also when its stream breaks in mid-stream and another one takes over: over
//! bare streams, and over secure ones.

mod authority;

use authority::Authority;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use shard_runtime::clock::now_ns;
use shard_runtime::conformance::{End, Ends, Interruption, LinkKind, run_all};
use shard_runtime::id::LinkId;
use shard_runtime::inbox::{Inbound, Inbox};
use shard_runtime::outbox::{Outbound, Outbox};
use shard_runtime::rate::{Meter, Rate};
use shard_runtime::ring::{Ring, RingReader, RingWriter};
use shard_runtime::secure::{Identity, Secure};
use shard_runtime::tcp::Tcp as Carrier;
use shard_runtime::wake::{Bell, create_bell};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Where a ring's data begins.
const DATA_AT: usize = 4096;
const DEADLINE: Duration = Duration::from_secs(5);

/// Two ends with a stream for each link: a secure one where they have identities; held to a rate if they have one.
#[derive(Default)]
struct Tcp {
    identities: Option<[Identity; 2]>,
    rate: Option<Rate>,
}

/// The streams of an end, and what they may send together.
struct Carriers {
    links: Vec<Carrier>,
    meter: Option<Meter>,
}

fn streams() -> [TcpStream; 2] {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    [stream, listener.accept().unwrap().0]
}

impl Tcp {
    /// A new stream for each link. `proven`: secure ones have shaken hands already; if not, carrying does it.
    fn connect_all(&self, ends: &mut Ends<Carriers>, proven: bool) {
        for (a, b) in ends.sender.carrier.links.iter_mut().zip(&mut ends.receiver.carrier.links) {
            let [of_a, of_b] = streams();
            if let Some([identity_a, identity_b]) = &self.identities {
                let mut of_a = Secure::connect(of_a, identity_a, identity_b.name()).unwrap();
                let mut of_b = Secure::accept(of_b, identity_b).unwrap();
                if proven {
                    std::thread::scope(|scope| {
                        scope.spawn(|| of_a.handshake(DEADLINE).unwrap());
                        of_b.handshake(DEADLINE).unwrap();
                    });
                }
                a.connect(of_a).unwrap();
                b.connect(of_b).unwrap();
            } else {
                a.connect(of_a).unwrap();
                b.connect(of_b).unwrap();
            }
        }
    }
}

fn end(rate: Option<Rate>) -> End<Carriers> {
    let inbox = Inbox::new(Bell::map(&create_bell("bell").unwrap()).unwrap());
    let meter = rate.map(|rate| Meter::new(rate, now_ns()));
    End { inbox, outbox: Outbox::new(), rings: Vec::new(), carrier: Carriers { links: Vec::new(), meter } }
}

/// Moves what there is; says whether messages came.
fn carry(end: &mut End<Carriers>) -> bool {
    let mut came = false;
    let Carriers { links, meter } = &mut end.carrier;
    if let Some(meter) = meter {
        meter.turn_to(now_ns());
    }
    for (link, carrier) in (0..).map(LinkId).zip(links) {
        let turn = meter.as_mut().map(|meter| (meter, link));
        match carrier.carry_within(end.outbox.get_mut(link), end.inbox.get_mut(link), turn) {
            Ok(true) => {
                end.inbox.expect(link);
                came = true;
            }
            Ok(false) => {}
            // A stream that ended is as good as one that was interrupted.
            Err(_) => leave(meter, link),
        }
    }
    came
}

/// A link without a stream waits for nothing else.
fn leave(meter: &mut Option<Meter>, link: LinkId) {
    if let Some(meter) = meter {
        meter.leave(link);
    }
}

impl LinkKind for Tcp {
    type Carrier = Carriers;

    const NAME: &'static str = "tcp";

    const INTERRUPTION: Option<Interruption<Self>> = Some(Interruption {
        break_off: |_, ends| {
            for Carriers { links, meter } in [&mut ends.sender.carrier, &mut ends.receiver.carrier] {
                for (link, carrier) in (0..).map(LinkId).zip(links) {
                    drop(carrier.disconnect());
                    leave(meter, link);
                }
            }
        },
        restore: |kind, ends| kind.connect_all(ends, false),
    });

    fn connect(&self, links: u16, capacity: usize, message_bytes_max: usize) -> Ends<Carriers> {
        let (mut sender, mut receiver) = (end(self.rate), end(self.rate));
        for link in (0..links).map(LinkId) {
            let memories =
                ["staging", "ring"].map(|label| Ring::create(label, capacity).unwrap().map(true).unwrap());
            let [staging, ring] = memories.clone().map(|memory| Ring::new(memory, capacity));
            let (bell, writer) = (sender.inbox.ringer(), RingWriter::new(staging));
            sender.outbox.attach(link, Outbound::new(writer, bell, link, message_bytes_max));
            let (bell, reader) = (receiver.inbox.ringer(), RingReader::vouched(ring));
            receiver.inbox.attach(link, Inbound::new(reader, bell, message_bytes_max));
            for (end, memory) in [&mut sender, &mut receiver].into_iter().zip(memories) {
                end.rings.push(memory);
                end.carrier.links.push(Carrier::new());
            }
        }
        let mut ends = Ends { sender, receiver };
        self.connect_all(&mut ends, true);
        ends
    }

    fn carry(&self, end: &mut End<Carriers>) {
        carry(end);
    }

    fn park(&self, end: &mut End<Carriers>) {
        // Preparing may publish what waited for room, and that has to go before anyone sleeps.
        if !end.inbox.prepare_to_park(&mut end.outbox) || carry(end) {
            return;
        }
        let flags = |carrier: &Carrier| {
            if carrier.waits() { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN }
        };
        let mut fds: Vec<PollFd<'_>> = end
            .carrier
            .links
            .iter()
            .filter_map(|carrier| Some(PollFd::new(carrier.stream()?, flags(carrier))))
            .collect();
        let due_ns = end.carrier.meter.as_ref().map_or(u64::MAX, Meter::due_ns).saturating_sub(now_ns());
        poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: due_ns.min(250_000_000) as i64 })).unwrap();
    }

    fn scribble(&self, end: &mut End<Carriers>, link: LinkId, at: usize, word: u64) {
        end.rings[usize::from(link.0)].word(at).store(word, Ordering::Release);
        if at >= DATA_AT
            && let Some(inbound) = end.inbox.get_mut(link)
        {
            // As if it had come over the stream.
            inbound.reader().vouch(u64::MAX);
            end.inbox.expect(link);
        }
    }
}

#[test]
fn tcp_keeps_every_promise() {
    run_all(&Tcp::default());
}

#[test]
fn tcp_keeps_every_promise_while_a_rate_holds_it_back() {
    run_all(&Tcp { identities: None, rate: Rate::from_bits_per_s(400_000_000) });
}

#[test]
fn tcp_keeps_every_promise_over_secure_streams() {
    let authority = Authority::new();
    let identities = ["sender", "receiver"].map(|name| authority.identity(name));
    run_all(&Tcp { identities: Some(identities), rate: None });
}
