//! The socket between the harness and a far end: what to do next, and how it went.
//!
//! Packets of JSON, descriptors beside them. A far end reads nothing else from its harness, and ends with it: the
//! socket reads end-of-file.

use crate::case::Case;
use crate::error::{Error, Result};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, sockopt,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

/// The longest packet, in bytes.
const PACKET_BYTES_MAX: usize = 4_096;
/// The most descriptors beside one packet.
const DESCRIPTORS_MAX: usize = 8;
/// How long the harness waits for a far end, in seconds: longer than a far end waits for the harness's messages.
const TIMEOUT_S: u64 = 10;

/// What the harness tells a far end.
#[derive(Debug, Serialize, Deserialize)]
pub enum Order {
    /// Join this peer's near end; only to a process, and its first order. Descriptors come beside it.
    Join {
        /// The peer's name.
        peer: String,
        /// What is measured.
        case: Case,
        /// What the near end hands over besides descriptors.
        argument: String,
    },
    /// Take part in a round of the case's test.
    Round {
        /// Messages, or polls.
        count: u64,
    },
}

/// What a far end answers.
#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    /// It has joined, or starts with the round now.
    Ready,
    /// The round is over; it took so long here.
    Done {
        /// Nanoseconds from `Ready` to here.
        elapsed_ns: u64,
    },
    /// It did not work; the far end is gone.
    Failed(String),
}

/// One end of the socket.
pub struct Control(OwnedFd);

impl Control {
    /// The harness's end and the far one.
    pub fn pair() -> Result<(Self, OwnedFd)> {
        let (near, far) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .map_err(Error::system("socketpair"))?;
        sockopt::set_socket_timeout(&near, sockopt::Timeout::Recv, Some(Duration::from_secs(TIMEOUT_S)))
            .map_err(Error::system("SO_RCVTIMEO"))?;
        Ok((Self(near), far))
    }

    /// The far end's socket.
    pub fn new(socket: OwnedFd) -> Self {
        Self(socket)
    }

    /// Sends a packet with descriptors beside it.
    pub fn send(&self, packet: &impl Serialize, descriptors: &[OwnedFd]) -> Result<()> {
        assert!(descriptors.len() <= DESCRIPTORS_MAX, "at most {DESCRIPTORS_MAX} descriptors");
        let bytes = serde_json::to_vec(packet).map_err(|cause| Error::Control(cause.to_string()))?;
        let borrowed: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut beside = SendAncillaryBuffer::new(&mut space);
        if !borrowed.is_empty() {
            beside.push(SendAncillaryMessage::ScmRights(&borrowed));
        }
        rustix::net::sendmsg(&self.0, &[IoSlice::new(&bytes)], &mut beside, SendFlags::NOSIGNAL)
            .map_err(Error::system("sendmsg"))?;
        Ok(())
    }

    /// Waits for a packet; `None` if the other end is gone.
    pub fn receive<T: DeserializeOwned>(&self) -> Result<Option<(T, Vec<OwnedFd>)>> {
        let mut bytes = [0; PACKET_BYTES_MAX];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut beside = RecvAncillaryBuffer::new(&mut space);
        let received = rustix::net::recvmsg(
            &self.0,
            &mut [IoSliceMut::new(&mut bytes)],
            &mut beside,
            RecvFlags::CMSG_CLOEXEC,
        );
        let length = match received {
            Ok(message) => message.bytes,
            Err(Errno::CONNRESET) => 0,
            Err(Errno::AGAIN) => return Err(Error::Stalled(TIMEOUT_S)),
            Err(cause) => return Err(Error::system("recvmsg")(cause)),
        };
        if length == 0 {
            return Ok(None);
        }
        let mut descriptors = Vec::new();
        for message in beside.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                descriptors.extend(received);
            }
        }
        let packet =
            serde_json::from_slice(&bytes[..length]).map_err(|cause| Error::Control(cause.to_string()))?;
        Ok(Some((packet, descriptors)))
    }

    /// Waits for the far end's answer.
    ///
    /// # Errors
    /// [`Error::Far`] if it failed or is gone.
    pub fn answer(&self) -> Result<Answer> {
        match self.receive()? {
            Some((Answer::Failed(why), _)) => Err(Error::Far(why)),
            Some((answer, _)) => Ok(answer),
            None => Err(Error::Far("it ended without a word".into())),
        }
    }

    /// Waits for [`Answer::Ready`].
    pub fn ready(&self) -> Result<()> {
        match self.answer()? {
            Answer::Ready => Ok(()),
            other => Err(Error::Control(format!("expected Ready, got {other:?}"))),
        }
    }

    /// Waits for [`Answer::Done`].
    pub fn done(&self) -> Result<Duration> {
        match self.answer()? {
            Answer::Done { elapsed_ns } => Ok(Duration::from_nanos(elapsed_ns)),
            other => Err(Error::Control(format!("expected Done, got {other:?}"))),
        }
    }
}
