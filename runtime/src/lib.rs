//! Rings, links, fan-in, waiting and statistics: the data plane of the shard runtime.

pub mod id;
