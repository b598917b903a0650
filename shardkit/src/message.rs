//! What a handler gets: a message, and what else can happen to a shard.

use crate::codec::{Codec, Wire};
use crate::error::CodecError;
use shard_runtime::id::{LinkId, PortId, SessionId};
use shard_runtime::session::Refused;

/// What a message is to its receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It came through this input.
    Input(PortId),
    /// It answers something that was sent through this output.
    Reply(PortId),
}

/// The number of a call, which its answer carries too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CallId(pub(crate) u64);

/// A message, whole, in memory that nobody else can change.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    pub(crate) session: SessionId,
    pub(crate) kind: Kind,
    pub(crate) link: LinkId,
    /// The port as it stands in the frame: the receiver's input, for a reply the replier's.
    pub(crate) port: PortId,
    pub(crate) call: Option<CallId>,
    pub(crate) payload: &'a [u8],
}

impl<'a> Message<'a> {
    /// The session that it belongs to. It is open in this shard.
    pub fn session(&self) -> SessionId {
        self.session
    }

    /// The bytes.
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// Whether it is an answer to something that this shard sent.
    pub fn is_reply(&self) -> bool {
        matches!(self.kind, Kind::Reply(_))
    }

    /// The call that it makes or answers, if it was sent as one.
    pub fn call(&self) -> Option<CallId> {
        self.call
    }

    /// The link that it came over.
    pub fn link(&self) -> LinkId {
        self.link
    }

    /// A copy that can be kept.
    pub fn to_owned(&self) -> OwnedMessage {
        OwnedMessage {
            session: self.session,
            kind: self.kind,
            link: self.link,
            port: self.port,
            call: self.call,
            payload: self.payload.to_vec(),
        }
    }

    /// The bytes as a `T`, whatever port they came through.
    ///
    /// # Errors
    /// When they are no `T`.
    pub fn decode<T: Wire>(&self) -> Result<T, CodecError> {
        T::Codec::decode(self.payload)
    }
}

/// A message with its own copy of the bytes.
#[derive(Clone, Debug)]
pub struct OwnedMessage {
    session: SessionId,
    kind: Kind,
    link: LinkId,
    port: PortId,
    call: Option<CallId>,
    payload: Vec<u8>,
}

impl OwnedMessage {
    /// The message, as handlers and ports take it.
    pub fn as_message(&self) -> Message<'_> {
        Message {
            session: self.session,
            kind: self.kind,
            link: self.link,
            port: self.port,
            call: self.call,
            payload: &self.payload,
        }
    }
}

/// A beat of the fixed rate that the manifest gives (`tick_hz`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tick {
    /// Its number, from 0. Numbers of skipped ticks are left out.
    pub number: u64,
    /// The time between two ticks, in nanoseconds.
    pub period_ns: u64,
    /// How late it is, in nanoseconds.
    pub late_ns: u64,
    /// How many ticks before it were skipped because the shard was late by more than a period.
    pub missed: u64,
}

/// A message of ours that its receiver refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// The session that it belonged to.
    pub session: SessionId,
    /// The receiver's input that it was for.
    pub port: PortId,
    /// Why.
    pub why: Refused,
}
