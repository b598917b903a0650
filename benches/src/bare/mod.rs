//! The bare shared memory that the limits are made of: nothing that could be left out, and no checks.

pub mod page;
pub mod ring;
