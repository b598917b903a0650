//! Rings, links, fan-in, waiting and statistics: the data plane of the shard runtime.

pub mod barrier;
#[cfg(not(loom))]
pub mod clock;
mod copy;
pub mod frame;
pub mod id;
pub mod inbox;
pub mod memory;
pub mod outbox;
pub mod region;
pub mod ring;
mod sync;
pub mod wake;
