//! How typed messages become bytes: a small trait, and three ways.
//!
//! A type that travels says its name and its codec, once:
//!
//! ```
//! use shardkit::prelude::*;
//!
//! #[derive(Serialize, Deserialize)]
//! struct Login { name: String, password: String }
//!
//! impl Wire for Login {
//!     const NAME: &'static str = "Login";
//!     type Codec = Postcard;
//! }
//! ```
//!
//! The name is what the manifest's ports declare; it is compared when a port is opened, not for every message.

use crate::error::CodecError;
use serde::{Serialize, de::DeserializeOwned};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// A type that travels through ports.
pub trait Wire: Sized {
    /// Its name in the manifest.
    const NAME: &'static str;
    /// How it becomes bytes.
    type Codec: Codec<Self>;
}

/// A way to turn values into bytes and back.
pub trait Codec<T> {
    /// Gives the value's bytes to `with`. `scratch` may be used for them; it keeps its room from call to call.
    ///
    /// # Errors
    /// When the value can't be encoded.
    fn encode<R>(value: &T, scratch: &mut Vec<u8>, with: impl FnOnce(&[u8]) -> R) -> Result<R, CodecError>;

    /// Makes the value from its bytes.
    ///
    /// # Errors
    /// When the bytes are none of the type's. They come from another process, so nothing is taken for granted.
    fn decode(bytes: &[u8]) -> Result<T, CodecError>;
}

/// The default: serde through postcard, a compact format with a specification.
pub struct Postcard;

impl<T: Wire + Serialize + DeserializeOwned> Codec<T> for Postcard {
    #[inline]
    fn encode<R>(value: &T, scratch: &mut Vec<u8>, with: impl FnOnce(&[u8]) -> R) -> Result<R, CodecError> {
        let mut room = scratch.capacity().max(256);
        loop {
            scratch.resize(room, 0);
            match postcard::to_slice(value, scratch) {
                Ok(bytes) => return Ok(with(bytes)),
                Err(postcard::Error::SerializeBufferFull) => room *= 2,
                Err(_) => return Err(CodecError::Refused { ty: T::NAME }),
            }
        }
    }

    #[inline]
    fn decode(bytes: &[u8]) -> Result<T, CodecError> {
        postcard::from_bytes(bytes).map_err(|_| CodecError::Malformed { ty: T::NAME, bytes: bytes.len() })
    }
}

/// Plain old data: the value's memory is the message. No encoding at all; both ends must be the same kind of machine.
pub struct Pod;

impl<T: Wire + FromBytes + IntoBytes + Immutable> Codec<T> for Pod {
    #[inline(always)]
    fn encode<R>(value: &T, _scratch: &mut Vec<u8>, with: impl FnOnce(&[u8]) -> R) -> Result<R, CodecError> {
        Ok(with(value.as_bytes()))
    }

    #[inline(always)]
    fn decode(bytes: &[u8]) -> Result<T, CodecError> {
        T::read_from_bytes(bytes).map_err(|_| CodecError::Malformed { ty: T::NAME, bytes: bytes.len() })
    }
}

/// Bytes as they are.
pub struct Raw;

impl Codec<Bytes> for Raw {
    #[inline(always)]
    fn encode<R>(
        value: &Bytes,
        _scratch: &mut Vec<u8>,
        with: impl FnOnce(&[u8]) -> R,
    ) -> Result<R, CodecError> {
        Ok(with(&value.0))
    }

    #[inline(always)]
    fn decode(bytes: &[u8]) -> Result<Bytes, CodecError> {
        Ok(Bytes(bytes.to_vec()))
    }
}

/// A message without a type of its own: `bytes` in the manifest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bytes(pub Vec<u8>);

impl Wire for Bytes {
    const NAME: &'static str = "bytes";
    type Codec = Raw;
}

/// The type of replies where there are none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoReply {}

impl Wire for NoReply {
    const NAME: &'static str = "";
    type Codec = NoCodec;
}

/// The codec of what never travels.
pub struct NoCodec;

impl Codec<NoReply> for NoCodec {
    fn encode<R>(value: &NoReply, _: &mut Vec<u8>, _: impl FnOnce(&[u8]) -> R) -> Result<R, CodecError> {
        match *value {}
    }

    fn decode(bytes: &[u8]) -> Result<NoReply, CodecError> {
        Err(CodecError::Malformed { ty: NoReply::NAME, bytes: bytes.len() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Note(String);

    impl Wire for Note {
        const NAME: &'static str = "Note";
        type Codec = Postcard;
    }

    #[test]
    fn a_value_larger_than_the_scratch_is_encoded_whole() {
        let note = Note("x".repeat(10_000));
        let mut scratch = Vec::new();
        let bytes = Postcard::encode(&note, &mut scratch, <[u8]>::to_vec).unwrap();
        assert_eq!(<Postcard as Codec<Note>>::decode(&bytes).unwrap(), note);
    }

    #[test]
    fn bytes_of_something_else_are_an_error_that_names_the_type() {
        let error = <Postcard as Codec<Note>>::decode(&[200, 1, 2]).unwrap_err();
        assert!(error.to_string().contains("`Note`"), "{error}");
    }
}
