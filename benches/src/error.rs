//! What can go wrong in a measurement: one enum, each variant with what to do about it.

use std::io;

/// A measurement that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused something.
    #[error("{what}: {cause}")]
    System {
        /// What was asked for.
        what: &'static str,
        /// What the kernel said.
        cause: io::Error,
    },
    /// The other end did nothing for [`PATIENCE_S`](crate::channel::PATIENCE_S) seconds.
    #[error("the other end was silent for {0} s while this one waited: it died, or lost a message")]
    Stalled(u64),
    /// A payload arrived that is not the one that was sent.
    #[error("message {expected} arrived damaged or out of order: its stamp is {found}")]
    Damaged {
        /// The number of the message that should have come.
        expected: u64,
        /// The number it carries.
        found: u64,
    },
    /// A peer's own library refused something.
    #[error("{peer}: {cause}")]
    Peer {
        /// The peer's name.
        peer: &'static str,
        /// What its library said.
        cause: String,
    },
    /// The far end reported an error.
    #[error("far end: {0}")]
    Far(String),
    /// The two ends of the control socket disagree; both are this program, so it is a defect of it.
    #[error("control socket: {0}")]
    Control(String),
    /// The command line asks for something that there is not.
    #[error("{0}")]
    Usage(String),
}

/// The result of everything here.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Wraps the error of a kernel call: `.map_err(Error::system("memfd_create"))`.
    pub fn system<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> Error {
        move |cause| Error::System { what, cause: cause.into() }
    }

    /// Wraps the error of a peer's library.
    pub fn peer<E: std::fmt::Debug>(peer: &'static str) -> impl FnOnce(E) -> Error {
        move |cause| Error::Peer { peer, cause: format!("{cause:?}") }
    }
}

/// Wraps the error of a composer or of a shard that is measured: `.map_err(failed)`.
pub fn failed(error: impl std::fmt::Display) -> Error {
    Error::Far(error.to_string())
}
