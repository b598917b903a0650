//! libibverbs, found at run time: a program starts without it, and learns why RDMA is not to be had.

use super::ffi::{self, Verbs};
use std::sync::OnceLock;

/// The file's name on all systems of today.
const FILE: &str = "libibverbs.so.1";

/// Why there is no libibverbs.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LibraryError {
    /// It is not there, or lacks a function.
    #[error(
        "libibverbs can't be loaded ({reason}): install rdma-core (on Debian: apt-get install libibverbs1 ibverbs-providers), or use links of kind tcp"
    )]
    NotThere {
        /// What the loader said.
        reason: String,
    },
    /// It can't make this process safe to fork.
    #[error("libibverbs can't be initialised: ibv_fork_init failed with {number}")]
    Fork {
        /// The error's number.
        number: i32,
    },
}

/// The loaded library.
pub struct Library {
    verbs: Verbs,
}

impl Library {
    /// Loads it, once in a process.
    ///
    /// # Errors
    /// It is not there, lacks a function, or refuses.
    pub fn get() -> Result<&'static Self, LibraryError> {
        static LIBRARY: OnceLock<Result<Library, LibraryError>> = OnceLock::new();
        LIBRARY.get_or_init(Self::load).as_ref().map_err(LibraryError::clone)
    }

    fn load() -> Result<Self, LibraryError> {
        // SAFETY: libibverbs is a library of the system; loading it runs its initialisers, which have no demands.
        // The functions have the types of its header, which `tests/verbs-layout` compares.
        let verbs = unsafe { Verbs::new(FILE) };
        let verbs = verbs.map_err(|error| LibraryError::NotThere { reason: error.to_string() })?;
        // Before anything is registered: otherwise a fork's copy-on-write would move pages from under the device.
        // SAFETY: no demands.
        match unsafe { verbs.ibv_fork_init() } {
            0 => Ok(Self { verbs }),
            number => Err(LibraryError::Fork { number }),
        }
    }

    pub(super) fn verbs(&self) -> &Verbs {
        &self.verbs
    }
}

/// The four calls that the C header inlines: they go through the device's own table, without the library.
///
/// # Safety
/// As the C functions: the handle is alive, lists are well formed.
pub(super) unsafe fn poll_cq(cq: *mut ffi::ibv_cq, count: usize, into: *mut ffi::ibv_wc) -> i32 {
    // SAFETY: a live queue points to its live context, whose table the provider has filled.
    unsafe {
        match (*(*cq).context).ops.poll_cq {
            Some(poll) => poll(cq, count as i32, into),
            None => -libc::ENOSYS,
        }
    }
}

/// See [`poll_cq`].
///
/// # Safety
/// As there.
pub(super) unsafe fn req_notify_cq(cq: *mut ffi::ibv_cq) -> i32 {
    // SAFETY: as in `poll_cq`.
    unsafe {
        match (*(*cq).context).ops.req_notify_cq {
            Some(notify) => notify(cq, 0),
            None => libc::ENOSYS,
        }
    }
}

/// See [`poll_cq`].
///
/// # Safety
/// As there; `list` is a list of requests.
pub(super) unsafe fn post_send(qp: *mut ffi::ibv_qp, list: *mut ffi::ibv_send_wr) -> i32 {
    let mut bad = std::ptr::null_mut();
    // SAFETY: as in `poll_cq`.
    unsafe {
        match (*(*qp).context).ops.post_send {
            Some(post) => post(qp, list, &raw mut bad),
            None => libc::ENOSYS,
        }
    }
}

/// See [`poll_cq`].
///
/// # Safety
/// As there; `list` is a list of requests.
pub(super) unsafe fn post_recv(qp: *mut ffi::ibv_qp, list: *mut ffi::ibv_recv_wr) -> i32 {
    let mut bad = std::ptr::null_mut();
    // SAFETY: as in `poll_cq`.
    unsafe {
        match (*(*qp).context).ops.post_recv {
            Some(post) => post(qp, list, &raw mut bad),
            None => libc::ENOSYS,
        }
    }
}
