//! Atomics and fences: the real ones, or loom's when a model is checked (`RUSTFLAGS="--cfg loom"`).
//!
//! The data plane takes them from here alone, so that the code that runs in production is the code that loom
//! explores. Loom has no asymmetric fence; under loom both sides of [`crate::barrier`] are full fences.

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU64, Ordering, fence};
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicU64, Ordering, fence};
