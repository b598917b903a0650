//! A session as an embedding program holds it.
//!
//! Invariant: the core hears of its end exactly once, from [`Session::end`] or from the drop.

use crate::composer::Composer;
use crate::core::Tiers;
use crate::embed::{Embed, Mail, ReceiveError};
use crate::hub::Ending;
use shard_runtime::clock;
use shard_runtime::id::SessionId;
use shardkit::{CallId, In, Out, SendError, Wire};
use std::time::Duration;

/// A session: one user's run of the application. It ends when this is dropped.
///
/// It holds a clone of its [`Composer`], so the composer runs as long as any session is held. Where nothing else
/// holds the composer, dropping the last session ends it and waits for its shards to be gone; call
/// [`Composer::shut_down`] to end it earlier.
pub struct Session {
    id: SessionId,
    tiers: Tiers,
    composer: Composer,
    ended: bool,
}

impl Session {
    pub(crate) fn new(id: SessionId, tiers: Tiers, composer: Composer) -> Self {
        Self { id, tiers, composer, ended: false }
    }

    /// Its id.
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// From which tiers its shards came.
    pub fn tiers(&self) -> Tiers {
        self.tiers
    }

    /// How many of its shards had to be started for it: 0 if all were warm.
    pub fn cold_shards(&self) -> u16 {
        self.tiers.started()
    }

    fn embed(&self) -> Result<&Embed, SendError> {
        self.composer.inner().embed.as_deref().ok_or(SendError::NotComposed)
    }

    /// Sends a value through an output of the embedder. It leaves at once.
    ///
    /// # Errors
    /// See [`SendError`].
    pub fn send<T: Wire, R: Wire>(&self, port: &Out<T, R>, value: &T) -> Result<(), SendError> {
        self.embed()?.send(port, self.id, value)
    }

    /// Sends a value as a call: its answer carries the number that is returned.
    ///
    /// # Errors
    /// See [`SendError`].
    pub fn call<T: Wire, R: Wire>(&self, port: &Out<T, R>, value: &T) -> Result<CallId, SendError> {
        self.embed()?.call(port, self.id, value)
    }

    /// Answers a message that came through an input of the embedder.
    ///
    /// # Errors
    /// See [`SendError`].
    pub fn answer<T: Wire, R: Wire>(&self, port: &In<T, R>, mail: &Mail, value: &R) -> Result<(), SendError> {
        self.embed()?.answer(port, mail, value)
    }

    /// The next message of this session, waiting for it up to `timeout`.
    ///
    /// # Errors
    /// [`ReceiveError::Timeout`], a refusal of something that was sent, or the session's end.
    pub fn receive(&self, timeout: Duration) -> Result<Mail, ReceiveError> {
        self.on_embed(|embed| embed.receive(self.id, timeout))
    }

    /// As [`receive`](Self::receive), polling without giving the core away: for programs with a core to spare.
    ///
    /// # Errors
    /// As [`receive`](Self::receive).
    pub fn receive_spinning(&self, timeout: Duration) -> Result<Mail, ReceiveError> {
        self.on_embed(|embed| embed.receive_spinning(self.id, timeout))
    }

    /// The next message if one is there already.
    pub fn try_receive(&self) -> Option<Result<Mail, ReceiveError>> {
        self.composer.inner().embed.as_deref().and_then(|embed| embed.try_receive(self.id))
    }

    fn on_embed(
        &self,
        then: impl FnOnce(&Embed) -> Result<Mail, ReceiveError>,
    ) -> Result<Mail, ReceiveError> {
        match self.composer.inner().embed.as_deref() {
            Some(embed) => then(embed),
            None => Err(self.ending().map_or(ReceiveError::Timeout, ReceiveError::Over)),
        }
    }

    /// Why the session is over; `None` while it runs.
    pub fn ending(&self) -> Option<Ending> {
        self.composer.inner().lock().ending(self.id)
    }

    /// Ends the session and waits, up to `timeout`, until all its shards have let go of it. False if they have not:
    /// then the composer goes on waiting.
    pub fn end(mut self, timeout: Duration) -> bool {
        self.ended = true;
        let (inner, start_ns) = (self.composer.inner(), clock::now_ns());
        let until_ns = clock::after(start_ns, timeout);
        let mut hub = inner.lock();
        hub.end(self.id);
        // Not given back meanwhile: with armed links the shards would wake the clerk for what this thread polls for.
        inner.wait_until(hub, start_ns, until_ns, |hub| {
            let late = clock::now_ns() >= until_ns || hub.finished;
            let gone = hub.is_gone(self.id);
            (gone || late).then_some(gone)
        })
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let inner = self.composer.inner();
        let mut hub = inner.lock();
        hub.end(self.id);
        inner.unlock(hub);
    }
}
