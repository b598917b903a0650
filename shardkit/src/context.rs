//! What a handler can do: send, call, reply, end a session, ask for the time.

use crate::codec::{Codec, Wire};
use crate::desk::Desk;
use crate::error::SendError;
use crate::message::{CallId, Message};
use crate::port::{In, Out};
use shard_runtime::frame::Flags;
use shard_runtime::id::{SessionId, ShardId};
use shard_runtime::ring::Loan;

/// A handler's view of its shard.
pub struct Context<'a> {
    pub(crate) desk: &'a mut Desk,
}

impl Context<'_> {
    /// Sends a value through a port, to all its destinations. It leaves when the handler returns.
    ///
    /// # Errors
    /// See [`SendError`]. With several destinations the first error is given, and the others got the message.
    #[inline(always)]
    pub fn send<T: Wire, R: Wire>(
        &mut self,
        port: &Out<T, R>,
        session: SessionId,
        value: &T,
    ) -> Result<(), SendError> {
        self.encode(value, |desk, bytes| desk.send(port.id, session, Flags::NONE, 0, bytes))
    }

    /// Sends a value as a call: its answer carries the number that is returned.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn call<T: Wire, R: Wire>(
        &mut self,
        port: &Out<T, R>,
        session: SessionId,
        value: &T,
    ) -> Result<CallId, SendError> {
        let call = self.desk.next_call();
        self.encode(value, |desk, bytes| desk.send(port.id, session, Flags::CALL, call.0, bytes))?;
        Ok(call)
    }

    /// Answers a message with bytes.
    ///
    /// # Errors
    /// As [`send`](Self::send); [`SendError::NoReply`] for a message that is an answer itself.
    #[inline(always)]
    pub fn reply(&mut self, message: &Message<'_>, bytes: &[u8]) -> Result<(), SendError> {
        self.desk.reply(message, bytes)
    }

    /// Answers a message that came through `port`.
    ///
    /// # Errors
    /// As [`reply`](Self::reply).
    #[inline(always)]
    pub fn answer<T: Wire, R: Wire>(
        &mut self,
        port: &In<T, R>,
        message: &Message<'_>,
        value: &R,
    ) -> Result<(), SendError> {
        debug_assert!(port.is(message), "the message came through another port");
        self.encode(value, |desk, bytes| desk.reply(message, bytes))
    }

    /// Lends `bytes` of the link's ring, and sends at once what `fill` puts there: no copy. For a port with one
    /// destination. A loan is one frame, of half the ring at the most.
    ///
    /// # Errors
    /// As [`send`](Self::send); [`SendError::Full`] also where a send would wait in the outbox, because a loan can't.
    ///
    /// # Panics
    /// If the port has several destinations.
    pub fn lend<T: Wire, R: Wire>(
        &mut self,
        port: &Out<T, R>,
        session: SessionId,
        bytes: usize,
        fill: impl FnOnce(&mut Loan<'_>),
    ) -> Result<(), SendError> {
        self.desk.lend(port.id, session, bytes, fill)
    }

    /// Whether what is sent through the port now goes straight into the rings, because nothing waits for room: a
    /// source that produces without being asked stops when it would not.
    pub fn has_room<T: Wire, R: Wire>(&mut self, port: &Out<T, R>, session: SessionId) -> bool {
        self.desk.has_room(port.id, session)
    }

    /// Sends now what was sent so far, from within a long handler.
    pub fn flush(&mut self) {
        self.desk.outbox.flush();
    }

    /// Asks for the end of a session. It is closed everywhere soon; until then its messages go on.
    pub fn end(&mut self, session: SessionId, reason: &str) {
        self.desk.end(session, reason);
    }

    /// The sessions that are open here, in no particular order.
    pub fn sessions(&self) -> impl Iterator<Item = SessionId> + '_ {
        self.desk.sessions.ids()
    }

    /// How many sessions are open here.
    pub fn session_count(&self) -> usize {
        self.desk.sessions.len()
    }

    /// The composition that a session was opened with, by its position in the manifest.
    pub fn composition(&mut self, session: SessionId) -> Option<u16> {
        self.desk.sessions.get(session).map(|open| open.composition)
    }

    /// Nanoseconds of the host's monotonic clock; of the test rig's own clock there.
    pub fn now_ns(&self) -> u64 {
        self.desk.clock.now_ns()
    }

    /// A number drawn at random; in the test rig from its seed.
    pub fn random(&mut self) -> u64 {
        self.desk.random()
    }

    /// This shard.
    pub fn shard(&self) -> ShardId {
        self.desk.shard
    }

    #[inline(always)]
    fn encode<T: Wire>(
        &mut self,
        value: &T,
        with: impl FnOnce(&mut Desk, &[u8]) -> Result<(), SendError>,
    ) -> Result<(), SendError> {
        let mut scratch = std::mem::take(&mut self.desk.scratch);
        let sent = T::Codec::encode(value, &mut scratch, |bytes| with(self.desk, bytes));
        self.desk.scratch = scratch;
        sent.map_err(SendError::Encode)?
    }
}
