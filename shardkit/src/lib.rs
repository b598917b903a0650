//! shardkit: what a shard is written with.
//!
//! A component's author implements [`Shard`] and hands it to [`run`]. Everything else (which process, which core,
//! which links) is the composer's business.
//!
//! ```
//! use shardkit::prelude::*;
//!
//! struct Echo;
//!
//! impl Shard for Echo {
//!     fn on_message(&mut self, message: Message<'_>, ctx: &mut Context<'_>) -> Result<()> {
//!         Ok(ctx.reply(&message, message.payload())?)
//!     }
//! }
//!
//! # fn start() -> Result<()> {
//! shardkit::run(|_config| Ok(Echo))
//! # }
//! ```
//!
//! # The tour
//!
//! 1. **Ports.** The manifest declares a component's inputs and outputs with their types. The closure given to
//!    [`run`] opens them by name from its [`Config`]; [`In`] reads, [`Out`] sends.
//! 2. **Messages.** A type that travels implements [`Wire`]: a name and a codec, [`Postcard`](codec::Postcard) for
//!    anything that serde knows, [`Pod`](codec::Pod) for plain old data.
//! 3. **Sessions.** Every message belongs to one. `on_open` and `on_close` frame it; [`SessionMap`] keeps what a
//!    shard knows of each.
//! 4. **Sending never blocks.** What a handler sends leaves when it returns. A full ring fills the outbox, a full
//!    outbox gives [`SendError::Full`] and pauses the shard.
//! 5. **Ticks.** `tick_hz` in the manifest runs `on_tick` at a fixed rate.
//! 6. **Tests.** With the feature `rig`, a whole manifest runs inside one test, deterministically: see `rig`.
//!
//! Authors who own their loop use [`Runner`] instead of [`run`].
#![forbid(unsafe_code)]

pub mod application;
pub mod codec;
mod config;
mod context;
mod desk;
mod endpoint;
pub mod error;
#[cfg(feature = "manifest")]
pub mod manifest;
mod message;
pub mod pool;
mod port;
#[cfg(feature = "rig")]
pub mod rig;
mod runner;
mod sessions;
mod shard;
mod watch;
mod zygote;

pub use codec::{NoReply, Wire};
pub use config::Config;
pub use context::Context;
pub use endpoint::Endpoint;
pub use error::{Error, Result, SendError};
pub use message::{CallId, Message, OwnedMessage, Rejected, Tick};
pub use port::{In, Out};
pub use runner::{Components, EXIT_ORPHAN, ORPHAN_GRACE, Runner, open_wire, run, run_any};
pub use sessions::SessionMap;
pub use shard::Shard;
pub use shard_runtime::id::{SessionId, ShardId};
pub use shard_runtime::ring::Loan;
pub use shard_runtime::session::Refused;

/// What a shard's source begins with.
pub mod prelude {
    pub use crate::codec::{Bytes, Pod, Postcard};
    pub use crate::{
        CallId, Config, Context, Error, In, Message, NoReply, Out, Rejected, Result, SendError, SessionId,
        SessionMap, Shard, ShardId, Tick, Wire,
    };
    pub use serde::{Deserialize, Serialize};
}
