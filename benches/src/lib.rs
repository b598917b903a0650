//! Measures the runtime against the limits of the machine and against its peers, in one interleaved run.
//!
//! ```sh
//! cargo run --release -p shard-bench -- local --quick
//! ```
//!
//! - [`case`]: what can be measured: tests, payload sizes, numbers of links.
//! - [`peer`]: what the harness knows of the things it measures; [`channel`]: the measured loops.
//! - [`peers`]: everything that is measured, one file each. The first is the limit, made of [`bare`] shared
//!   [`memory`].
//! - [`plan`]: who is measured beside whom; [`run`]: rounds, ratios and medians; [`report`]: tables and JSON;
//!   [`machine`]: where and when.
//! - [`launch`]: what it takes to start a shard, isolated or not; [`isolation`]: what that costs a message afterwards;
//!   [`compose`]: a session over shards that sleep.
//! - [`far`]: the other end, in a process of its own on another of the [`cores`], which a [`control`] socket steers.

#![deny(unsafe_code)]

pub mod bare;
pub mod case;
pub mod channel;
pub mod compose;
pub mod control;
pub mod cores;
pub mod error;
pub mod far;
pub mod isolation;
pub mod launch;
pub mod machine;
pub mod memory;
pub mod peer;
pub mod peers;
pub mod plan;
pub mod report;
pub mod run;
