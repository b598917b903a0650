//! What can go wrong with a rig.

use crate::error::{Error, PortError, SendError};
use shard_runtime::id::SessionId;
use shard_runtime::region::RegionError;

/// Why the rig can't do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum RigError {
    /// Components of the manifest have no factory.
    #[error("the rig has no factory for {0}; give each component one with `.shard(name, factory)`")]
    Missing(String),
    /// A name that the manifest has not, or that was given twice.
    #[error(
        "`{0}` is no component with a shard of its own in the manifest, or it was given twice; check the name"
    )]
    Component(String),
    /// A factory failed.
    #[error("the shard of `{component}` could not be made: {error}")]
    Make {
        /// The component.
        component: String,
        /// What its factory says.
        error: Error,
    },
    /// A ring size that no ring has.
    #[error("a ring of {0} bytes is not possible; use a power of two from 4096")]
    RingBytes(usize),
    /// No such composition.
    #[error("the manifest has no composition `{0}`; check the name")]
    Composition(String),
    /// A shard did not take the session.
    #[error("component `{component}` refused the session: {reason}")]
    Refused {
        /// The component.
        component: String,
        /// Why.
        reason: String,
    },
    /// The session is not open.
    #[error("session {session} is not open: {reason}")]
    Over {
        /// The session.
        session: SessionId,
        /// How it ended.
        reason: String,
    },
    /// The manifest has no embedder.
    #[error(
        "the manifest declares no embedder; add `[embedder.in]` or `[embedder.out]` to talk to its shards"
    )]
    NoEmbedder,
    /// The port can't be had.
    #[error(transparent)]
    Port(#[from] PortError),
    /// The message was not sent.
    #[error(transparent)]
    Send(#[from] SendError),
    /// The kernel gave no memory for a ring.
    #[error(transparent)]
    Region(#[from] RegionError),
}
