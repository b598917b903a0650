//! Safe handles on libibverbs: what RDMA links stand on, and nothing else.
//!
//! ```text
//! Library ── Device ── Context ┬─ Completions (queue and channel)
//!  loaded     and why          └─ Domain ┬─ Registration ── Memory
//!  at run     this one                   └─ QueuePair ───── Completions
//!  time
//! ```
//!
//! Each handle keeps alive what it stands on, so things end in the order that the library demands. Work requests
//! name bytes of a [`Registration`], which are checked; the device may read or write them until the request's
//! completion, like a peer that shares the [`Memory`](crate::memory::Memory), which no one holds references into.
//!
//! Rules of the InfiniBand Architecture Specification, volume 1, are named where the code relies on them.

mod completions;
mod device;
pub mod ffi;
mod library;
mod queue_pair;
mod registration;

pub use completions::{Batch, Completion, Completions, Kind, Status};
pub use device::{Context, Device, DeviceError, Wish, choose};
pub use library::{Library, LoadError};
pub use queue_pair::{Depth, QueuePair, RemoteQueuePair, Work};
pub use registration::{Domain, Registration, Slice};

use std::io;

/// A call of the library that failed.
#[derive(Debug, thiserror::Error)]
pub enum VerbsError {
    /// The system refused a call.
    #[error("{call} failed: {error}")]
    Call {
        /// Which one.
        call: &'static str,
        /// Why.
        error: io::Error,
    },
    /// Memory can't be registered because too little of it may be locked.
    #[error(
        "{needed} bytes can't be locked for RDMA: the limit is {limit}; raise it by `ulimit -l {}`, or by LimitMEMLOCK= of the service", needed.div_ceil(1024)
    )]
    LockedMemory {
        /// The bytes that one registration needs.
        needed: u64,
        /// The limit of this process.
        limit: u64,
    },
    /// More was asked for than the device can do.
    #[error("the device grants {granted} {what}, {asked} are needed: use fewer links in one shard")]
    Limit {
        /// Of what.
        what: &'static str,
        /// Asked for.
        asked: u32,
        /// Granted.
        granted: u32,
    },
}

impl VerbsError {
    /// Of a call that returns an error's number, as most verbs do.
    fn of_number(call: &'static str, number: i32) -> Result<(), Self> {
        match number {
            0 => Ok(()),
            // Some providers return -1 and set errno.
            -1 => Err(Self::last(call)),
            number => Err(Self::Call { call, error: io::Error::from_raw_os_error(number.abs()) }),
        }
    }

    /// Of a call that sets `errno`.
    fn last(call: &'static str) -> Self {
        Self::Call { call, error: io::Error::last_os_error() }
    }
}
