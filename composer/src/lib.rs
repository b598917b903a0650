//! The composer: who runs where and who talks to whom.
//!
//! An embedding program starts a [`Composer`] for a manifest, asks it for [`Session`]s, and talks to their shards
//! through the ports that the manifest gives the embedder. The program `shardctl` uses this public interface alone.
//!
//! ```no_run
//! use shard_composer::Composer;
//! use shardkit::prelude::*;
//! use std::time::Duration;
//!
//! # fn main() -> Result<()> {
//! let composer = Composer::start("echo.toml")?;
//! composer.wait_warm(Duration::from_secs(5))?;
//! let ask = composer.output::<Bytes, Bytes>("ask")?;
//!
//! let session = composer.compose("default")?;
//! session.send(&ask, &Bytes(b"hello".to_vec()))?;
//! let mail = session.receive(Duration::from_secs(1))?;
//! assert_eq!(mail.message().payload(), b"hello");
//! # Ok(()) }
//! ```
//!
//! Inside, [`core`] decides, without clock or I/O; a thin shell carries out what it decides.
#![forbid(unsafe_code)]

mod affinity;
mod asker;
mod awake;
mod backoff;
pub mod backtest;
mod builder;
mod composer;
pub mod core;
mod embed;
mod explain;
mod family;
mod folders;
mod freezer;
mod groups;
mod history;
mod host;
mod hub;
mod inner;
mod interrupts;
mod launcher;
mod load;
pub mod oci;
pub mod policy;
mod processes;
mod realtime;
mod relay;
pub mod resources;
mod said;
pub mod scaler;
mod session;
mod shell;
pub mod trace;

pub use asker::Asker;
pub use awake::LATENCY_DEVICE;
pub use builder::{Builder, StartError};
pub use composer::{COMPOSE_TIMEOUT, ComposeError, Composer, LinkEnd, NotWarm, SessionInfo, ShardInfo};
pub use embed::{MAIL_MAX, Mail, ReceiveError};
pub use explain::{
    DeedExplanation, PoolExplanation, SessionExplanation, ShardExplanation, StartExplanation, StepExplanation,
};
pub use folders::own_folder;
pub use hub::Ending;
pub use inner::{STARTS_MAX, Source, Start};
pub use launcher::{LauncherError, take_over};
pub use session::Session;
