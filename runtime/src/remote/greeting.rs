//! How the two ends of a link to another host meet: what they say over their authenticated stream before any frame.
//!
//! ```text
//!  connecting end                      accepting end
//!     │ ── (TLS, both prove who they are) ──│
//!     │ ── Hello: which link, its rings, ──▶│ finds the link, checks the node
//!     │     where to write                  │ connects its queue pair
//!     │ ◀── Hello, or Refused: why ──────── │
//!     │ connects its queue pair             │
//!     │ ── Ready (kind rdma) ──────────────▶│ may send now
//! ```
//!
//! Invariant: never a byte more is read from the stream than the message has, because frames may follow it.

use super::LinkKey;
use crate::rdma::RdmaEnd;
use crate::secure::Secure;
use serde::{Deserialize, Serialize};
use std::io::{self, ErrorKind, Read, Write};

/// What both ends must speak.
pub const REMOTE_VERSION: u16 = 1;
/// No message is longer.
const MESSAGE_BYTES_MAX: usize = 1024;
const LENGTH_BYTES: usize = 4;

/// How a link to another host is carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RemoteKind {
    /// By RDMA: see [`crate::rdma`].
    Rdma,
    /// Over an encrypted TCP stream: see [`crate::tcp`].
    Tcp,
}

impl std::fmt::Display for RemoteKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Rdma => "rdma",
            Self::Tcp => "tcp",
        })
    }
}

/// What an end says of its link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`REMOTE_VERSION`].
    pub version: u16,
    /// Which link.
    pub key: LinkKey,
    /// How it is carried.
    pub kind: RemoteKind,
    /// The size of the ring that this end reads; 0 if it only sends.
    pub in_ring_bytes: u64,
    /// The size of the ring that this end fills; 0 if it only receives.
    pub out_ring_bytes: u64,
    /// For kind `rdma`.
    pub rdma: Option<RdmaEnd>,
}

/// What goes over the stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Say {
    /// Who is there.
    Hello(Hello),
    /// The queue pair is connected.
    Ready,
    /// The link is not to be had, and why.
    Refused(String),
}

impl Say {
    /// Reads one from the bytes of a message, without its length.
    ///
    /// # Errors
    /// It is none.
    pub fn decode(bytes: &[u8]) -> Result<Self, &'static str> {
        match postcard::take_from_bytes(bytes) {
            Ok((say, [])) => Ok(say),
            Ok(_) => Err("there are bytes behind it"),
            Err(_) => Err("it is no message of this release"),
        }
    }

    fn encode(&self) -> Vec<u8> {
        // Neither encoding to a vector nor these types can fail.
        let bytes = postcard::to_stdvec(self).unwrap_or_default();
        let mut message = (bytes.len() as u32).to_le_bytes().to_vec();
        message.extend(bytes);
        message
    }
}

/// A stream on which two ends meet.
#[derive(Debug)]
pub(super) struct Greeting {
    pub(super) secure: Secure,
    /// The end that connected.
    pub(super) connects: bool,
    /// What it said of itself was prepared.
    pub(super) said: bool,
    pub(super) since_ns: u64,
    /// What the other end said of itself, until it was looked at.
    pub(super) heard: Option<Hello>,
    /// The other end fits, and all that is left is to send what was said.
    pub(super) agreed: bool,
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
}

impl Greeting {
    pub(super) fn new(secure: Secure, connects: bool, since_ns: u64) -> Self {
        let (incoming, outgoing) = (Vec::new(), Vec::new());
        Self { secure, connects, said: false, since_ns, heard: None, agreed: false, incoming, outgoing }
    }

    /// Sends, as soon as the peer has proved who it is.
    pub(super) fn say(&mut self, say: &Say) -> io::Result<()> {
        self.outgoing.extend(say.encode());
        self.flush()
    }

    /// Hands over what waits; true when nothing does.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        while !self.outgoing.is_empty() {
            match self.secure.write(&self.outgoing) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(taken) => drop(self.outgoing.drain(..taken)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        match self.secure.flush() {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            result => result,
        }
    }

    /// Whether all that was said is in the stream.
    pub(super) fn is_said(&self) -> bool {
        self.outgoing.is_empty()
    }

    /// What the peer says, if all of it has come.
    pub(super) fn hear(&mut self) -> io::Result<Option<Say>> {
        self.flush()?;
        loop {
            let missing = match self.incoming.first_chunk::<LENGTH_BYTES>() {
                None => LENGTH_BYTES - self.incoming.len(),
                Some(length) => {
                    let length = u32::from_le_bytes(*length) as usize;
                    if length > MESSAGE_BYTES_MAX {
                        let text = format!(
                            "the peer's message has {length} bytes; at most {MESSAGE_BYTES_MAX} are allowed"
                        );
                        return Err(io::Error::new(ErrorKind::InvalidData, text));
                    }
                    LENGTH_BYTES + length - self.incoming.len()
                }
            };
            if missing == 0 && self.incoming.len() >= LENGTH_BYTES {
                let say = Say::decode(&self.incoming[LENGTH_BYTES..]).map_err(|what| {
                    io::Error::new(ErrorKind::InvalidData, format!("the peer's message is malformed: {what}"))
                })?;
                self.incoming.clear();
                return Ok(Some(say));
            }
            let mut bytes = [0; MESSAGE_BYTES_MAX];
            match self.secure.read(&mut bytes[..missing]) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(read) => self.incoming.extend(&bytes[..read]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_heard_and_nothing_else() {
        let hello = Hello {
            version: REMOTE_VERSION,
            key: LinkKey([7; 16]),
            kind: RemoteKind::Tcp,
            in_ring_bytes: 4096,
            out_ring_bytes: 0,
            rdma: None,
        };
        for say in [Say::Hello(hello), Say::Ready, Say::Refused("no".into())] {
            let bytes = say.encode();
            assert_eq!(Say::decode(&bytes[LENGTH_BYTES..]), Ok(say));
            assert!(Say::decode(&bytes[LENGTH_BYTES..bytes.len() - 1]).is_err());
            assert!(Say::decode(&[&bytes[LENGTH_BYTES..], &[0]].concat()).is_err());
        }
    }
}
