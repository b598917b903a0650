//! Work in progress.
pub mod core;
