//! Rings, links, fan-in, waiting and statistics: the data plane of the shard runtime.

pub mod barrier;
pub mod cache;
#[cfg(not(loom))]
pub mod clock;
#[cfg(all(feature = "conformance", not(loom)))]
pub mod conformance;
#[cfg(not(loom))]
pub mod contain;
#[cfg(not(loom))]
pub mod control;
mod copy;
pub mod frame;
pub mod id;
pub mod inbox;
#[cfg(not(loom))]
pub mod isolation;
pub mod memory;
#[cfg(all(loom, test))]
mod models;
pub mod outbox;
#[cfg(not(loom))]
pub mod process;
#[cfg(not(loom))]
pub mod rate;
#[cfg(not(loom))]
pub mod rdma;
#[cfg(not(loom))]
pub mod realtime;
pub mod region;
#[cfg(not(loom))]
pub mod remote;
pub mod ring;
#[cfg(not(loom))]
pub mod secure;
pub mod session;
#[cfg(not(loom))]
pub mod slice;
#[cfg(not(loom))]
pub mod stats;
mod sync;
#[cfg(not(loom))]
pub mod tcp;
#[cfg(not(loom))]
pub mod topology;
#[cfg(not(loom))]
pub mod verbs;
pub mod wake;
