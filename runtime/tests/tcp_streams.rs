//! What a stream holds inside, in either direction, is never forgotten: who waits by what the carrier says gets
//! everything.

mod authority;

use authority::Authority;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt;
use shard_runtime::frame::Header;
use shard_runtime::id::{LinkId, PortId, SessionId};
use shard_runtime::inbox::{Inbound, Inbox, Receiver};
use shard_runtime::outbox::{Outbound, Outbox};
use shard_runtime::ring::{Ring, RingError, RingReader, RingWriter};
use shard_runtime::secure::Secure;
use shard_runtime::tcp::{Stream, Tcp, prepare};
use shard_runtime::wake::{Bell, create_bell};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

const LINK: LinkId = LinkId(0);
const HEADER: Header = Header::new(SessionId::new(1, 1), PortId(0));
const DEADLINE: Duration = Duration::from_secs(5);

/// One end with a link each way.
struct End {
    inbox: Inbox,
    outbox: Outbox,
    tcp: Tcp,
    got: usize,
}

struct Count<'a>(&'a mut usize);

impl Receiver for Count<'_> {
    fn message(&mut self, _: LinkId, _: &Header, _: &[u8]) {
        *self.0 += 1;
    }

    fn drained(&mut self, _: LinkId, _: usize) {}

    fn broken(&mut self, _: LinkId, error: RingError) {
        panic!("{error}");
    }
}

impl End {
    fn new(capacity: usize, stream: impl Stream + 'static) -> Self {
        let mut inbox = Inbox::new(Bell::map(&create_bell("bell").unwrap()).unwrap());
        let mut outbox = Outbox::new();
        let ring = || Ring::new(Ring::create("ring", capacity).unwrap().map(true).unwrap(), capacity);
        outbox.attach(LINK, Outbound::new(RingWriter::new(ring()), inbox.ringer(), LINK, 1000));
        inbox.attach(LINK, Inbound::new(RingReader::vouched(ring()), inbox.ringer(), 1000));
        let mut tcp = Tcp::new();
        tcp.connect(stream).unwrap();
        Self { inbox, outbox, tcp, got: 0 }
    }

    fn send(&mut self, payload: &[u8]) -> bool {
        matches!(self.outbox.send(LINK, HEADER, payload), Some(Ok(())))
    }

    /// Carries until the carrier says that a sleep is safe.
    fn carry(&mut self) {
        while self.tcp.carry(self.outbox.get_mut(LINK), self.inbox.get_mut(LINK)).unwrap() {
            self.inbox.expect(LINK);
            while self.inbox.poll(&mut Count(&mut self.got)) > 0 {}
        }
    }

    /// Sleeps until the socket tells; false if it does not.
    fn sleep(&self) -> bool {
        let flags = if self.tcp.waits() { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
        let socket = self.tcp.stream().unwrap();
        poll(&mut [PollFd::new(socket, flags)], Some(&Timespec { tv_sec: 1, tv_nsec: 0 })) != Ok(0)
    }

    fn head(&mut self) -> u64 {
        self.outbox.get_mut(LINK).unwrap().writer().ring().head()
    }
}

fn streams() -> [TcpStream; 2] {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    [stream, listener.accept().unwrap().0]
}

fn proven([of_a, of_b]: [TcpStream; 2]) -> [Secure; 2] {
    let authority = Authority::new();
    let mut a = Secure::connect(of_a, &authority.identity("a"), "b").unwrap();
    let mut b = Secure::accept(of_b, &authority.identity("b")).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| a.handshake(DEADLINE).unwrap());
        b.handshake(DEADLINE).unwrap();
    });
    [a, b]
}

fn record(kind: u32, position: u64) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &[0; 4], &position.to_le_bytes()].concat()
}

/// A stream that has taken everything from its socket, and gives it away piece by piece.
#[derive(Debug)]
struct Hoard {
    socket: TcpStream,
    held: Vec<u8>,
}

impl Read for Hoard {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let piece = self.held.len().min(to.len()).min(10);
        if piece == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        to[..piece].copy_from_slice(&self.held[..piece]);
        self.held.drain(..piece);
        Ok(piece)
    }
}

impl Write for Hoard {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        self.socket.write(from)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream for Hoard {
    fn socket(&self) -> &TcpStream {
        &self.socket
    }

    fn waits(&self, more: bool) -> bool {
        more
    }
}

#[test]
fn what_a_stream_holds_inside_is_read_before_anyone_sleeps() {
    const HEADS: u64 = 200;
    let [socket, _peer] = streams();
    let mut end = End::new(64 << 10, Hoard { socket, held: record(1, 0) });
    (0..HEADS).for_each(|_| assert!(end.send(&[])));
    end.outbox.flush();
    end.carry();
    let socket = end.tcp.disconnect().unwrap().socket().try_clone().unwrap();
    let held = std::iter::once(record(1, HEADS * 16)).chain((1..=HEADS).map(|count| record(4, count * 16)));
    end.tcp.connect(Hoard { socket, held: held.flatten().collect() }).unwrap();
    end.carry();
    assert_eq!(end.head(), HEADS * 16, "slept over heads");
}

/// Two ends whose sockets take little. The first sends messages one by one while the other does not read, `count` or
/// until it has to wait; how many.
fn send_into_small_sockets(count: usize) -> ([End; 2], usize) {
    let small = streams();
    for stream in &small {
        sockopt::set_socket_send_buffer_size(stream, 32 << 10).unwrap();
        sockopt::set_socket_recv_buffer_size(stream, 32 << 10).unwrap();
    }
    let [mut a, mut b] = proven(small).map(|stream| End::new(8 << 20, stream));
    b.carry();
    a.carry();
    let mut sent = 0;
    while sent < count && !a.tcp.waits() {
        assert!(a.send(&[7; 900]));
        a.outbox.flush();
        a.carry();
        sent += 1;
    }
    ([a, b], sent)
}

#[test]
fn a_stream_that_holds_bytes_back_waits_for_its_socket() {
    let (_, most) = send_into_small_sockets(7000);
    assert!(most < 7000, "it never waits");
    // The message that fills the sockets is taken by the stream, and not all of it by its socket.
    for count in [most - 1, most] {
        let ([mut a, mut b], sent) = send_into_small_sockets(count);
        thread::scope(|scope| {
            scope.spawn(|| {
                // From now on it carries only while it waits.
                while a.tcp.waits() {
                    a.sleep();
                    a.carry();
                }
            });
            while b.got < sent {
                assert!(b.sleep(), "{} of {sent} messages came", b.got);
                b.carry();
            }
        });
    }
}

#[test]
fn a_dead_peer_is_noticed_within_seconds() {
    let [stream, _other] = streams();
    prepare(&stream).unwrap();
    let second = Duration::from_secs(1);
    assert!(sockopt::socket_keepalive(&stream).unwrap());
    assert_eq!(sockopt::tcp_keepidle(&stream).unwrap(), second);
    assert_eq!(sockopt::tcp_keepintvl(&stream).unwrap(), second);
    assert_eq!(sockopt::tcp_keepcnt(&stream).unwrap(), 3);
    assert_eq!(sockopt::tcp_user_timeout(&stream).unwrap(), 3000);
    assert!(stream.nodelay().unwrap());
}
