//! Typed ports: what a shard holds to read and to send messages of a type.
//!
//! A port is opened once, by name, from [`Config`](crate::Config); name and type are checked against the manifest
//! there. Afterwards it is a number.

use crate::codec::{Codec, NoReply, Wire};
use crate::error::CodecError;
use crate::message::{Kind, Message};
use shard_runtime::id::PortId;
use std::marker::PhantomData;

/// Where messages of type `T` arrive, to be answered with an `R`.
#[derive(Debug)]
pub struct In<T, R = NoReply> {
    pub(crate) id: PortId,
    types: PhantomData<fn() -> (T, R)>,
}

/// Where messages of type `T` leave, answered with an `R`.
#[derive(Debug)]
pub struct Out<T, R = NoReply> {
    pub(crate) id: PortId,
    types: PhantomData<fn() -> (T, R)>,
}

impl<T, R> Clone for In<T, R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T, R> Copy for In<T, R> {}

impl<T, R> Clone for Out<T, R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T, R> Copy for Out<T, R> {}

impl<T: Wire, R: Wire> In<T, R> {
    pub(crate) fn new(id: PortId) -> Self {
        Self { id, types: PhantomData }
    }

    /// Whether the message came through this port.
    #[inline(always)]
    pub fn is(&self, message: &Message<'_>) -> bool {
        message.kind == Kind::Input(self.id)
    }

    /// The message's value if it came through this port, `None` if through another.
    ///
    /// # Errors
    /// When the bytes are no `T`: the sender is built differently, or broken.
    #[inline(always)]
    pub fn read(&self, message: &Message<'_>) -> Result<Option<T>, CodecError> {
        if self.is(message) { T::Codec::decode(message.payload).map(Some) } else { Ok(None) }
    }
}

impl<T: Wire, R: Wire> Out<T, R> {
    pub(crate) fn new(id: PortId) -> Self {
        Self { id, types: PhantomData }
    }

    /// Whether the message is an answer to something sent through this port.
    #[inline(always)]
    pub fn is_answer(&self, message: &Message<'_>) -> bool {
        message.kind == Kind::Reply(self.id)
    }

    /// The answer's value if the message answers something sent through this port, `None` otherwise.
    ///
    /// # Errors
    /// When the bytes are no `R`: the other side is built differently, or broken.
    #[inline(always)]
    pub fn answer(&self, message: &Message<'_>) -> Result<Option<R>, CodecError> {
        if self.is_answer(message) { R::Codec::decode(message.payload).map(Some) } else { Ok(None) }
    }
}
