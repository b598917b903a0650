//! What a peer can say over a stream that is not true: each lie is a named error, closes the stream, and neither
//! panics nor makes a reader look where nothing arrived.

use proptest::prelude::*;
use shard_runtime::frame::Header;
use shard_runtime::id::{LinkId, PortId, SessionId};
use shard_runtime::inbox::{Inbound, Inbox, Receiver};
use shard_runtime::outbox::{Outbound, Outbox};
use shard_runtime::ring::{Ring, RingError, RingReader, RingWriter};
use shard_runtime::tcp::{Tcp, TcpError};
use shard_runtime::wake::{Bell, create_bell};
use std::io::Write;
use std::net::{TcpListener, TcpStream};

const CAPACITY: usize = 4096;
const LINK: LinkId = LinkId(0);
const HEADER: Header = Header::new(SessionId::new(1, 1), PortId(0));
const RESUME: u32 = 1;
const FRAMES: u32 = 2;
const SKIP: u32 = 3;
const HEAD: u32 = 4;

/// An honest end with a link each way, and the stream of a peer that is not.
struct Victim {
    inbox: Inbox,
    outbox: Outbox,
    tcp: Tcp,
    liar: TcpStream,
    got: usize,
    broken: Option<RingError>,
}

struct Count<'a>(&'a mut usize, &'a mut Option<RingError>);

impl Receiver for Count<'_> {
    fn message(&mut self, _: LinkId, _: &Header, _: &[u8]) {
        *self.0 += 1;
    }

    fn drained(&mut self, _: LinkId, _: usize) {}

    fn broken(&mut self, _: LinkId, error: RingError) {
        *self.1 = Some(error);
    }
}

impl Victim {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let liar = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        liar.set_nodelay(true).unwrap();
        let mut inbox = Inbox::new(Bell::map(&create_bell("bell").unwrap()).unwrap());
        let mut outbox = Outbox::new();
        let ring = || Ring::new(Ring::create("ring", CAPACITY).unwrap().map(true).unwrap(), CAPACITY);
        outbox.attach(LINK, Outbound::new(RingWriter::new(ring()), inbox.ringer(), LINK, 1000));
        inbox.attach(LINK, Inbound::new(RingReader::vouched(ring()), inbox.ringer(), 1000));
        let mut tcp = Tcp::new();
        tcp.connect(listener.accept().unwrap().0).unwrap();
        Self { inbox, outbox, tcp, liar, got: 0, broken: None }
    }

    /// Takes what the liar said, until it has all of it, the stream ends or the ring breaks.
    fn hear(&mut self, bytes: &[u8]) -> Result<(), TcpError> {
        self.liar.write_all(bytes).unwrap();
        for _ in 0..20 {
            if self.tcp.carry(self.outbox.get_mut(LINK), self.inbox.get_mut(LINK))? {
                self.inbox.expect(LINK);
            }
            self.inbox.poll(&mut Count(&mut self.got, &mut self.broken));
            if self.broken.is_some() {
                break;
            }
            std::thread::yield_now();
        }
        Ok(())
    }
}

fn record(kind: u32, bytes: u32, position: u64) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &bytes.to_le_bytes(), &position.to_le_bytes()].concat()
}

/// Frames of one empty message each.
fn frames(count: usize) -> Vec<u8> {
    let frame = [&16u64.to_le_bytes()[..], &HEADER.session.to_bits().to_le_bytes()].concat();
    frame.repeat(count)
}

#[test]
fn what_is_true_arrives() {
    let mut victim = Victim::new();
    let said =
        [record(RESUME, 0, 0), record(FRAMES, 48, 0), frames(3), record(FRAMES, 16, 48), frames(1)].concat();
    // Byte by byte, so that every record and every frame comes in pieces.
    said.iter().for_each(|byte| victim.hear(&[*byte]).unwrap());
    assert_eq!((victim.got, victim.broken), (4, None));
}

#[test]
fn each_lie_ends_the_stream_with_a_named_error() {
    let capacity = CAPACITY as u32;
    let lies = [
        ("a kind that there is not", record(9, 0, 0)),
        ("frames elsewhere", record(FRAMES, 16, 16)),
        ("frames of no bytes", record(FRAMES, 0, 0)),
        ("a frame and a half", record(FRAMES, 24, 0)),
        ("more frames than the ring holds", record(FRAMES, capacity + 16, 0)),
        ("padding that does not reach the edge", record(SKIP, 64, 0)),
        ("a head of what was never sent", record(HEAD, 0, 16)),
        ("more received than was sent", record(RESUME, 0, 16)),
        ("resuming twice", [record(RESUME, 0, 0), record(RESUME, 0, 0)].concat()),
    ];
    for (what, said) in lies {
        let mut victim = Victim::new();
        let error = victim.hear(&said).expect_err(what).to_string();
        assert!(error.contains("the peer broke the stream"), "{what}: {error}");
        assert!(victim.tcp.stream().is_none(), "{what}: the stream is kept");
        assert_eq!(victim.got, 0, "{what}");
    }
}

#[test]
fn a_ring_full_of_frames_that_nobody_read_takes_no_more() {
    let mut victim = Victim::new();
    let all = [record(FRAMES, CAPACITY as u32, 0), frames(CAPACITY / 16)].concat();
    victim.inbox.read_only(Some(LinkId(7)));
    victim.hear(&all).unwrap();
    assert!(victim.hear(&[record(FRAMES, 16, CAPACITY as u64), frames(1)].concat()).is_err());
    assert_eq!(victim.got, 0);
}

#[test]
fn frames_that_are_none_break_the_ring_and_not_the_reader() {
    let longer = [&1000u64.to_le_bytes()[..], &[0; 8]].concat();
    for (what, bytes) in
        [("zeros", vec![0; 32]), ("longer than what came", longer), ("noise", vec![0xff; 32])]
    {
        let mut victim = Victim::new();
        victim.hear(&[record(FRAMES, bytes.len() as u32, 0), bytes].concat()).unwrap();
        assert!(victim.broken.is_some() && victim.got == 0, "{what}: {:?}", victim.broken);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Records of any kind, size and position, frames that may be frames.
    #[test]
    fn whatever_comes_over_the_stream_nobody_panics_and_nothing_comes_that_was_not_said(
        said in proptest::collection::vec((0u32..6, 0u32..200, 0u64..200, 0usize..12), 1..12),
    ) {
        let mut victim = Victim::new();
        let mut most = 0;
        for (kind, bytes, position, count) in said {
            most += count;
            let spoken = [record(kind, bytes & !7, position & !7), frames(count)].concat();
            if victim.hear(&spoken).is_err() || victim.broken.is_some() {
                break;
            }
        }
        prop_assert!(victim.got <= most);
    }
}
