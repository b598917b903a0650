//! The SDK that a shard is written with.

pub mod application;
