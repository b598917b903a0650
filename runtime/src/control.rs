//! The control protocol: what a composer and a shard say to each other over the shard's one inherited socket.
//!
//! The socket is a Unix seqpacket pair. A packet is one message in postcard's format; descriptors ride along. Nothing
//! of a session's messages goes this way: only the shard's start, its links, and its end.
//!
//! ```text
//! shard                                  composer
//!   Hello  (protocol version, pid)  ──▶
//!                                   ◀──  Welcome (who it is)  + bell, statistics page
//!                                   ◀──  Wire (link 0, to the composer)  + two rings, a bell
//!   Ready                           ──▶
//!                                   ◀──  Wire (a link pair)   + two rings, the peer's bell
//!   Wired                           ──▶
//!   Broken (link, error)            ──▶      at any time
//!                                   ◀──  Unwire, Stop         at any time
//!
//! zygote                                 composer
//!   Hello                           ──▶
//!                                   ◀──  Zygote (its component)
//!   Ready                           ──▶
//!                                   ◀──  Fork (number)        + the new shard's end of its control socket
//!   Forked (number)                 ──▶                       + the new shard's pidfd
//! ```
//!
//! What has said Hello and was not welcomed yet can still become a shard of any component that is linked into its
//! program.
//!
//! Invariant: a packet that does not decode, is of another version, or lacks its descriptors ends the connection
//! with an error that says so. Either side treats the end of the connection as the death of the other.

use crate::id::{ComponentId, LinkId, ShardId};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The version of this protocol and of all layouts in shared memory. Both sides must have the same.
pub const PROTOCOL_VERSION: u32 = 2;
/// The largest packet, in bytes.
pub const PACKET_BYTES_MAX: usize = 128 << 10;
/// The largest [`Welcome::spec`]: it shares its packet with the processors' numbers.
pub const SPEC_BYTES_MAX: usize = PACKET_BYTES_MAX - (8 << 10);
/// The most descriptors that a packet carries.
pub const DESCRIPTORS_MAX: usize = 4;
/// The descriptor that a shard inherits.
pub const CONTROL_FD: i32 = 3;
/// The environment variable that tells a program that it is a shard; its value is the protocol's version.
pub const CONTROL_ENV: &str = "SHARD_CONTROL";
/// The environment variable that tells a program that it is to be the composer's launch helper.
pub const LAUNCHER_ENV: &str = "SHARD_LAUNCHER";
/// The link to the composer, on which sessions are opened and closed.
pub const COMPOSER_LINK: LinkId = LinkId(0);
/// What stands for the composer where a wire names its peer's component.
pub const COMPOSER_COMPONENT: ComponentId = ComponentId(u16::MAX);

/// What a composer says to a shard.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ToShard {
    /// Who the shard is. With it come its bell and its statistics page.
    Welcome(Welcome),
    /// A pair of links to one peer. With it come the ring to read, the ring to write and the peer's bell.
    Wire(Wire),
    /// The peer of this link is gone.
    Unwire {
        /// The link.
        link: LinkId,
    },
    /// The process is no shard: it makes one, and forks it whenever it is asked to.
    Zygote(Zygote),
    /// To a zygote: fork a shard. With it comes the new shard's end of its control socket.
    Fork {
        /// Which of the composer's processes it is.
        process: u64,
    },
    /// End: no session is left. The shard finishes what it does and exits with 0.
    Stop,
}

/// Who a shard is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Welcome {
    /// Its number.
    pub shard: ShardId,
    /// Its component.
    pub component: ComponentId,
    /// What the manifest says of the component, in a form that the SDK knows.
    pub spec: Vec<u8>,
    /// The processor that its thread pins itself to: one that it has for itself, or a shared one where it is at home.
    pub core: Option<u32>,
    /// The processors for its other threads: the rest of its own, or those that nobody has for itself. For the shard
    /// itself too if it has none of its own.
    pub shared_cores: Vec<u32>,
    /// How long it may poll before it sleeps, in microseconds: 0 for not at all, `u32::MAX` for ever.
    pub spin_us: u32,
}

/// What a zygote makes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Zygote {
    /// Its component.
    pub component: ComponentId,
    /// As [`Welcome::spec`].
    pub spec: Vec<u8>,
}

/// A pair of links, one each way, between the receiver of this and one peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wire {
    /// The pair's number at the receiver.
    pub link: LinkId,
    /// The pair's number at the peer: the bit in its bell.
    pub peer_link: LinkId,
    /// The peer's component.
    pub component: ComponentId,
    /// The peer, if it is a shard and not the program that holds the composer.
    pub shard: Option<ShardId>,
    /// The size of the ring to read, in bytes of data.
    pub in_ring_bytes: u32,
    /// The size of the ring to write.
    pub out_ring_bytes: u32,
    /// The largest message that comes.
    pub in_message_bytes_max: u32,
    /// The largest message that goes.
    pub out_message_bytes_max: u32,
}

/// What a shard says to its composer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromShard {
    /// The first message.
    Hello {
        /// [`PROTOCOL_VERSION`] as the shard was built with it.
        version: u32,
        /// Its process.
        pid: u32,
    },
    /// It can take sessions; or, from a zygote, fork.
    Ready,
    /// From a zygote: the shard is there. With it comes its pidfd.
    Forked {
        /// As it was named in [`ToShard::Fork`].
        process: u64,
    },
    /// From a zygote: the shard could not be forked.
    NotForked {
        /// As it was named in [`ToShard::Fork`].
        process: u64,
        /// The number of the kernel's error.
        errno: i32,
    },
    /// It uses the link from now on.
    Wired {
        /// The link.
        link: LinkId,
    },
    /// A peer broke the rules on this link, and the shard closed it.
    Broken {
        /// The link.
        link: LinkId,
        /// What happened.
        error: String,
    },
    /// It cannot start, or can't go on, and exits.
    Failed {
        /// Why.
        reason: String,
    },
}

/// Why a control connection ended.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The other side is gone.
    #[error("the other end of the control socket is gone")]
    Closed,
    /// The kernel said no.
    #[error("the control socket failed: {0}")]
    Io(#[from] io::Error),
    /// What came is no message of this protocol.
    #[error(
        "what came over the control socket is no message of protocol version {PROTOCOL_VERSION} ({0}); build both sides from the same release"
    )]
    Garbled(String),
    /// A message is too large to send.
    #[error(
        "a control message of {bytes} bytes is larger than {PACKET_BYTES_MAX}; make the component's configuration or its list of ports smaller"
    )]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
}

/// Room for one packet. Whoever receives keeps it from one message to the next, for all sockets that it listens to.
pub struct Packet {
    room: Box<[u8]>,
}

impl Packet {
    /// Room for the largest packet.
    pub fn new() -> Self {
        Self { room: vec![0; PACKET_BYTES_MAX].into() }
    }
}

impl Default for Packet {
    fn default() -> Self {
        Self::new()
    }
}

/// One end of a control connection.
#[derive(Debug)]
pub struct ControlSocket {
    fd: OwnedFd,
}

impl ControlSocket {
    /// A connected pair.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (a, b) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Self { fd: a }, Self { fd: b }))
    }

    /// Takes a descriptor as a control socket.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self { fd }
    }

    /// Makes calls return at once instead of waiting, with [`io::ErrorKind::WouldBlock`].
    ///
    /// # Errors
    /// When the descriptor is no socket.
    pub fn set_nonblocking(&self) -> io::Result<()> {
        let flags = rustix::fs::fcntl_getfl(&self.fd)?;
        Ok(rustix::fs::fcntl_setfl(&self.fd, flags | rustix::fs::OFlags::NONBLOCK)?)
    }

    /// Sends a message with descriptors.
    ///
    /// # Errors
    /// The other side is gone, the message is too large, or the socket is full and does not wait.
    pub fn send<T: Serialize>(&self, message: &T, fds: &[BorrowedFd<'_>]) -> Result<(), ControlError> {
        let packet = postcard::to_stdvec(message).map_err(|e| ControlError::Garbled(e.to_string()))?;
        if packet.len() > PACKET_BYTES_MAX {
            return Err(ControlError::TooLarge { bytes: packet.len() });
        }
        assert!(fds.len() <= DESCRIPTORS_MAX, "a packet carries at most {DESCRIPTORS_MAX} descriptors");
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(fds));
        }
        match rustix::net::sendmsg(&self.fd, &[IoSlice::new(&packet)], &mut control, SendFlags::NOSIGNAL) {
            Ok(_) => Ok(()),
            Err(Errno::PIPE | Errno::CONNRESET) => Err(ControlError::Closed),
            Err(error) => Err(ControlError::Io(error.into())),
        }
    }

    /// Receives a message and its descriptors. What comes with an error is closed.
    ///
    /// # Errors
    /// The other side is gone, nothing is there and the socket does not wait, or what came is garbled.
    pub fn receive<T: DeserializeOwned>(
        &self,
        packet: &mut Packet,
    ) -> Result<(T, Vec<OwnedFd>), ControlError> {
        let received = self.receive_packet(packet)?;
        if received.lost_descriptors {
            close_aside(received.fds);
            let what = format!(
                "more than {DESCRIPTORS_MAX} descriptors came with it, or this process has none left"
            );
            return Err(ControlError::Garbled(what));
        }
        match decode(&packet.room[..received.bytes]) {
            Ok(message) => Ok((message, received.fds)),
            Err(error) => {
                close_aside(received.fds);
                Err(error)
            }
        }
    }

    /// As [`receive`](Self::receive), from someone who is trusted: where this process has no descriptors left for those
    /// that came, the message comes without any.
    ///
    /// # Errors
    /// As [`receive`](Self::receive).
    pub fn receive_as_can_be<T: DeserializeOwned>(
        &self,
        packet: &mut Packet,
    ) -> Result<(T, Vec<OwnedFd>), ControlError> {
        let mut received = self.receive_packet(packet)?;
        if received.lost_descriptors {
            received.fds.clear();
        }
        Ok((decode(&packet.room[..received.bytes])?, received.fds))
    }

    fn receive_packet(&self, packet: &mut Packet) -> Result<Received, ControlError> {
        // Room for all that a packet can have: what has none the kernel closes at once, and that may take long.
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(KERNEL_DESCRIPTORS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let got = loop {
            let into = &mut [IoSliceMut::new(&mut packet.room)];
            match rustix::net::recvmsg(&self.fd, into, &mut control, RecvFlags::CMSG_CLOEXEC) {
                Ok(got) => break got,
                Err(Errno::INTR) => {}
                Err(Errno::CONNRESET) => return Err(ControlError::Closed),
                Err(error) => return Err(ControlError::Io(error.into())),
            }
        };
        let mut fds = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                fds.extend(rights);
            }
        }
        if got.bytes == 0 {
            close_aside(fds);
            return Err(ControlError::Closed);
        }
        if got.flags.contains(ReturnFlags::TRUNC) {
            close_aside(fds);
            return Err(ControlError::Garbled(format!("it is larger than {PACKET_BYTES_MAX} bytes")));
        }
        // The room for descriptors is rounded up, so the kernel alone does not keep the limit.
        let lost_descriptors = got.flags.contains(ReturnFlags::CTRUNC) || fds.len() > DESCRIPTORS_MAX;
        Ok(Received { bytes: got.bytes, fds, lost_descriptors })
    }
}

/// The most descriptors that the kernel takes with a packet (`SCM_MAX_FD`).
const KERNEL_DESCRIPTORS_MAX: usize = 253;

/// Closes what came from someone who is not trusted, on a thread of its own: who closes a socket last has to wait as long
/// as its maker has set (`SO_LINGER`).
pub fn close_aside(fds: Vec<OwnedFd>) {
    if !fds.is_empty() {
        // Without a thread it is done here.
        let _ = std::thread::Builder::new().name("closer".into()).spawn(move || drop(fds));
    }
}

/// What came in a packet.
struct Received {
    bytes: usize,
    fds: Vec<OwnedFd>,
    /// Not all that were sent are here.
    lost_descriptors: bool,
}

/// What a packet says.
///
/// # Errors
/// [`ControlError::Garbled`] for anything that is not one whole message.
pub fn decode<T: DeserializeOwned>(packet: &[u8]) -> Result<T, ControlError> {
    match postcard::take_from_bytes(packet) {
        Ok((message, [])) => Ok(message),
        Ok((_, rest)) => Err(ControlError::Garbled(format!("{} bytes follow it", rest.len()))),
        Err(error) => Err(ControlError::Garbled(error.to_string())),
    }
}

impl ControlSocket {
    /// Closes it, on a thread of its own if something was sent that nobody has received: see [`close_aside`].
    pub fn close(self) {
        let (mut byte, how) = ([0], RecvFlags::PEEK | RecvFlags::DONTWAIT);
        if rustix::net::recv(&self.fd, &mut byte, how).is_ok_and(|(_, bytes)| bytes > 0) {
            close_aside(vec![self.fd]);
        }
    }
}

impl AsFd for ControlSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<ControlSocket> for OwnedFd {
    fn from(socket: ControlSocket) -> OwnedFd {
        socket.fd
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_and_its_descriptors_arrive_together() {
        let (a, b) = ControlSocket::pair().unwrap();
        a.send(&ToShard::Stop, &[a.as_fd(), b.as_fd()]).unwrap();
        let (message, fds) = b.receive::<ToShard>(&mut Packet::new()).unwrap();
        assert_eq!(message, ToShard::Stop);
        assert_eq!(fds.len(), 2);
    }

    #[test]
    fn the_end_of_the_other_side_is_told_from_an_error() {
        let (a, b) = ControlSocket::pair().unwrap();
        drop(a);
        assert!(matches!(b.receive::<ToShard>(&mut Packet::new()), Err(ControlError::Closed)));
        assert!(matches!(b.send(&FromShard::Ready, &[]), Err(ControlError::Closed)));
    }

    #[test]
    fn garbage_is_named_and_never_a_message() {
        let (a, b) = ControlSocket::pair().unwrap();
        rustix::net::send(&a, &[0xff; 40], SendFlags::empty()).unwrap();
        assert!(matches!(b.receive::<ToShard>(&mut Packet::new()), Err(ControlError::Garbled(_))));
    }

    #[test]
    fn bytes_behind_a_message_are_garbage() {
        let (a, b) = ControlSocket::pair().unwrap();
        let mut packet = postcard::to_stdvec(&FromShard::Ready).unwrap();
        packet.push(0);
        rustix::net::send(&a, &packet, SendFlags::empty()).unwrap();
        assert!(matches!(b.receive::<FromShard>(&mut Packet::new()), Err(ControlError::Garbled(_))));
    }

    #[test]
    fn descriptors_that_nobody_asked_for_are_closed_however_many_and_with_whatever_they_come() {
        let ready = postcard::to_stdvec(&FromShard::Ready).unwrap();
        let packets = [ready, vec![0xff; 40], vec![0; PACKET_BYTES_MAX + 1], vec![]];
        for (packet, count) in packets.iter().flat_map(|packet| [1, 4, 5, 64].map(|count| (packet, count))) {
            let (a, b) = ControlSocket::pair().unwrap();
            let (pipe_out, pipe_in) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::NONBLOCK).unwrap();
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            let many = vec![pipe_in.as_fd(); count];
            assert!(control.push(SendAncillaryMessage::ScmRights(&many)));
            rustix::net::sendmsg(&a, &[IoSlice::new(packet)], &mut control, SendFlags::NOSIGNAL).unwrap();
            let received = b.receive::<FromShard>(&mut Packet::new());
            let sound = packet.len() == 1 && count <= DESCRIPTORS_MAX;
            assert_eq!(received.is_ok(), sound, "{count} descriptors with {} bytes", packet.len());
            // The pipe ends when the last copy of its writing end is closed; a test that forks has copies of all, until
            // its child runs its program.
            drop((received, pipe_in));
            let patience = rustix::event::Timespec { tv_sec: 10, tv_nsec: 0 };
            let mut end = [rustix::event::PollFd::new(&pipe_out, rustix::event::PollFlags::IN)];
            rustix::event::poll(&mut end, Some(&patience)).unwrap();
            assert_eq!(rustix::io::read(&pipe_out, &mut [0; 1]), Ok(0));
        }
    }

    #[test]
    fn the_largest_packet_goes_through_as_the_kernel_is_set_up() {
        let (a, b) = ControlSocket::pair().unwrap();
        let reason = "x".repeat(PACKET_BYTES_MAX - 8);
        a.send(&FromShard::Failed { reason: reason.clone() }, &[]).unwrap();
        assert_eq!(b.receive::<FromShard>(&mut Packet::new()).unwrap().0, FromShard::Failed { reason });
    }

    #[test]
    fn a_message_that_no_packet_holds_is_refused_before_it_is_sent() {
        let (a, _b) = ControlSocket::pair().unwrap();
        let reason = "x".repeat(PACKET_BYTES_MAX + 1);
        let sent = a.send(&FromShard::Failed { reason }, &[]);
        assert!(matches!(sent, Err(ControlError::TooLarge { .. })));
    }
}
