//! A host of a test: what a shard has of links to other hosts.
#![allow(dead_code, reason = "each test uses its part")]

use shard_runtime::frame::Header;
use shard_runtime::id::{LinkId, PortId, SessionId};
use shard_runtime::inbox::{Inbound, Inbox, Receiver};
use shard_runtime::outbox::{Outbound, Outbox};
use shard_runtime::rdma::Rdma;
use shard_runtime::remote::{End, LinkKey, News, Remote, RemoteKind, RemoteLink};
use shard_runtime::ring::{Ring, RingError, RingReader, RingWriter, SendError};
use shard_runtime::secure::Identity;
use shard_runtime::wake::{Bell, create_bell};
use std::time::{Duration, Instant};

/// Nothing takes longer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
const MESSAGE_BYTES_MAX: usize = 4_000;

pub(crate) struct Host {
    pub(crate) inbox: Inbox,
    pub(crate) outbox: Outbox,
    pub(crate) remote: Remote,
    pub(crate) ups: u32,
    pub(crate) downs: Vec<String>,
    pub(crate) sent: u32,
    pub(crate) got: u32,
}

pub(crate) fn without_rdma() -> Result<Rdma, String> {
    Err("no device in this test".into())
}

pub(crate) fn key(number: u8) -> LinkKey {
    LinkKey([number; 16])
}

pub(crate) fn link(kind: RemoteKind, node: &str, end: End) -> RemoteLink {
    RemoteLink { key: key(1), kind, node: node.into(), end }
}

/// The payload of a message: its number, and as many bytes as it says.
pub(crate) fn payload(number: u32) -> Vec<u8> {
    let len = 4 + number as usize * 37 % (MESSAGE_BYTES_MAX / 4);
    let mut bytes = vec![number as u8; len];
    bytes[..4].copy_from_slice(&number.to_le_bytes());
    bytes
}

/// Checks that messages come in order, each once, whole.
struct Sink<'a> {
    got: &'a mut u32,
}

impl Receiver for Sink<'_> {
    fn message(&mut self, _: LinkId, header: &Header, bytes: &[u8]) {
        assert_eq!(header.session, SessionId::new(*self.got, 1), "a message is lost, twice or out of order");
        assert!(bytes == payload(*self.got), "message {} is torn", self.got);
        *self.got += 1;
    }

    fn drained(&mut self, _: LinkId, _: usize) {}

    fn broken(&mut self, link: LinkId, error: RingError) {
        panic!("{link:?}: {error}");
    }
}

impl Host {
    pub(crate) fn new(identity: Identity, rdma: Result<Rdma, String>) -> Self {
        let inbox = Inbox::new(Bell::map(&create_bell("bell").unwrap()).unwrap());
        let remote = Remote::new(identity, rdma).unwrap();
        Self { inbox, outbox: Outbox::new(), remote, ups: 0, downs: Vec::new(), sent: 0, got: 0 }
    }

    /// A pair of links with rings of `capacity`.
    pub(crate) fn attach(&mut self, id: LinkId, what: RemoteLink, capacity: usize) {
        let ring = || Ring::new(Ring::create("ring", capacity).unwrap().map(true).unwrap(), capacity);
        self.outbox.attach(id, Outbound::carried(RingWriter::new(ring()), MESSAGE_BYTES_MAX));
        let reader = RingReader::vouched(ring());
        self.inbox.attach(id, Inbound::new(reader, self.inbox.ringer(), MESSAGE_BYTES_MAX));
        self.remote.attach(id, what);
    }

    /// Sends the next message, if there is room.
    pub(crate) fn send(&mut self, id: LinkId) -> bool {
        let header = Header::new(SessionId::new(self.sent, 1), PortId(0));
        match self.outbox.send(id, header, &payload(self.sent)).unwrap() {
            Ok(()) => self.sent += 1,
            Err(SendError::Full) => return false,
            Err(error) => panic!("{error}"),
        }
        true
    }

    pub(crate) fn turn(&mut self) -> bool {
        self.outbox.flush();
        let news = self.remote.carry(&mut self.inbox, &mut self.outbox);
        self.inbox.poll(&mut Sink { got: &mut self.got });
        self.hear();
        news
    }

    pub(crate) fn hear(&mut self) {
        while let Some((_, news)) = self.remote.take_news() {
            match news {
                News::Up => self.ups += 1,
                News::Down(error) => self.downs.push(error.to_string()),
                News::Closed(error) => panic!("closed: {error}"),
            }
        }
    }
}

pub(crate) fn until(host: &mut Host, mut done: impl FnMut(&mut Host) -> bool) {
    let start = Instant::now();
    while !done(host) {
        host.turn();
        assert!(start.elapsed() < PATIENCE, "waited in vain");
    }
}

/// Sends `count` messages each way, a few at a time, and sees that they come.
pub(crate) fn pump(
    left: &mut Host,
    right: &mut Host,
    id: LinkId,
    count: u32,
    mut between: impl FnMut(&mut Host, &mut Host),
) {
    let mut start = (Instant::now(), 0);
    while left.got < count || right.got < count || left.outbox.waits() || right.outbox.waits() {
        let got = [right.got, left.got];
        for (host, peer_got) in [&mut *left, &mut *right].into_iter().zip(got) {
            // Not more than a few hundred ahead, so that a break finds frames in all places.
            while host.sent < count && host.sent < peer_got + 300 && host.send(id) {}
        }
        let (left, right) = (&mut *left, &mut *right);
        left.turn();
        right.turn();
        between(left, right);
        if left.got + right.got != start.1 {
            start = (Instant::now(), left.got + right.got);
        }
        assert!(
            start.0.elapsed() < PATIENCE,
            "of {count} messages {} and {} came; sent {} and {}; {:?} {:?}",
            left.got,
            right.got,
            left.sent,
            right.sent,
            left.downs,
            right.downs
        );
    }
}
