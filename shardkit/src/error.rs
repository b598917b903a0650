//! Errors: one type that any error of an author turns into, and the named ones of the SDK.

use shard_runtime::ring::SendError as RingSendError;
use std::fmt;

/// What handlers and `main` return.
pub type Result<T = (), E = Error> = std::result::Result<T, E>;

/// Any error, so that `?` works in handlers on errors of every library.
///
/// It shows the chain of causes, also as `Debug`, so that a `main` that returns it prints something readable.
pub struct Error(Box<dyn std::error::Error + Send + Sync>);

impl Error {
    /// An error from a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into().into())
    }

    /// The error inside, if it is of this type.
    pub fn downcast_ref<E: std::error::Error + 'static>(&self) -> Option<&E> {
        self.0.downcast_ref()
    }
}

impl<E: std::error::Error + Send + Sync + 'static> From<E> for Error {
    fn from(error: E) -> Self {
        Self(Box::new(error))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a message could not be sent. Nothing of it left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The session is not open here: it never was, or it is closed.
    #[error("the session is not open in this shard: it never was, or it is closed")]
    UnknownSession,
    /// The session's composition has no shard of the component that the port leads to.
    #[error(
        "the session's composition does not contain the component that this port leads to; name it in the composition's `entry`"
    )]
    NotComposed,
    /// The link to the partner is gone: its shard died, or broke the rules.
    #[error("the link to the partner is gone; the session will be ended")]
    LinkGone,
    /// The message is larger than the receiving port allows.
    #[error(
        "a message of {bytes} bytes is larger than the {bytes_max} that the port allows; raise its `max` in the manifest"
    )]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The port's limit.
        bytes_max: usize,
    },
    /// Ring and outbox are full: the receiver is far behind. Send less, or later.
    #[error("the receiver is behind and the outbox is full; send less, or try again later")]
    Full,
    /// The value can't be encoded.
    #[error("the value can't be encoded: {0}")]
    Encode(CodecError),
    /// The message that is answered is a reply itself.
    #[error("only a message that came through an input can be answered")]
    NoReply,
}

impl SendError {
    pub(crate) fn from_ring(error: RingSendError) -> Self {
        match error {
            RingSendError::Full => Self::Full,
            RingSendError::TooLarge { bytes, bytes_max } => Self::TooLarge { bytes, bytes_max },
            RingSendError::Broken(_) => Self::LinkGone,
        }
    }
}

/// Why bytes are no message of a type, or a value gives no bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The bytes are no value of the type.
    #[error("{bytes} bytes are no `{ty}`; both ends must be built with the same type")]
    Malformed {
        /// The type's name.
        ty: &'static str,
        /// How many bytes there were.
        bytes: usize,
    },
    /// The value can't be written, because its `Serialize` says so.
    #[error("a `{ty}` refused to be serialized")]
    Refused {
        /// The type's name.
        ty: &'static str,
    },
}

/// Why a typed port can't be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// The manifest declares no such port for this component.
    #[error("component `{component}` has no {kind} `{port}` in the manifest; it has {known}")]
    Unknown {
        /// The component.
        component: String,
        /// `input` or `output`.
        kind: &'static str,
        /// The port that was asked for.
        port: String,
        /// Those that there are.
        known: String,
    },
    /// The manifest gives the port another type.
    #[error(
        "port `{port}` of component `{component}` carries `{declared}` by the manifest, but the program uses `{used}`; make them agree"
    )]
    Type {
        /// The component.
        component: String,
        /// The port.
        port: String,
        /// The manifest's type.
        declared: String,
        /// The program's type.
        used: String,
    },
}
