//! The queue that tells what became of requests, and the channel that wakes whoever sleeps on it.

use super::{Context, VerbsError, ffi};
use std::fmt;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::Arc;

/// So many completions are taken at once.
const BATCH: usize = 32;

/// A completion queue with its channel. All queue pairs of a shard share one.
pub struct Completions {
    pub(super) context: Arc<Context>,
    pub(super) handle: NonNull<ffi::ibv_cq>,
    channel: NonNull<ffi::ibv_comp_channel>,
    capacity: u32,
}

// SAFETY: verbs may be called from any thread; the handles are only passed to them.
unsafe impl Send for Completions {}
// SAFETY: as above; the library locks the queue while it is polled.
unsafe impl Sync for Completions {}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Completion {
    /// The number that the request was given.
    pub id: u64,
    /// The queue pair's number.
    pub queue_pair: u32,
    /// How it ended.
    pub status: Status,
    /// What it was; not to be trusted unless the status is
    /// [`Status::SUCCESS`] (ibv_poll_cq(3): only number, status and queue pair are valid then).
    pub kind: Kind,
    /// The 32 bits that came with it.
    pub immediate: u32,
}

/// What a completed request was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One of ours that sent.
    Sent,
    /// A message of the peer's.
    Received,
    /// The peer wrote to our memory and says so.
    Written,
}

/// How a request ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Status(ffi::ibv_wc_status);

impl Status {
    /// Done.
    pub const SUCCESS: Self = Self(ffi::IBV_WC_SUCCESS);
    /// Not done: the queue pair broke before.
    pub const FLUSHED: Self = Self(ffi::IBV_WC_WR_FLUSH_ERR);
    /// The peer did not answer.
    pub const NO_ANSWER: Self = Self(ffi::IBV_WC_RETRY_EXC_ERR);
    /// The peer's memory was not ours to write.
    pub const REMOTE_ACCESS: Self = Self(ffi::IBV_WC_REM_ACCESS_ERR);
    /// The peer had no receive request waiting.
    pub const NOT_READY: Self = Self(ffi::IBV_WC_RNR_RETRY_EXC_ERR);
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self.0 {
            ffi::IBV_WC_SUCCESS => "done",
            ffi::IBV_WC_LOC_LEN_ERR => "a message is longer than its buffer",
            ffi::IBV_WC_LOC_QP_OP_ERR => "the queue pair can't do that, or its device's interface is down",
            ffi::IBV_WC_LOC_PROT_ERR => "our memory is not registered for it",
            ffi::IBV_WC_WR_FLUSH_ERR => "the queue pair broke before",
            ffi::IBV_WC_BAD_RESP_ERR => "the peer answered what no peer answers",
            ffi::IBV_WC_LOC_ACCESS_ERR => "the peer wrote where it may not",
            ffi::IBV_WC_REM_INV_REQ_ERR => "the peer refused a request as invalid",
            ffi::IBV_WC_REM_ACCESS_ERR => {
                "the peer's memory is not ours to write: its key or bounds are others"
            }
            ffi::IBV_WC_REM_OP_ERR => "the peer could not do it",
            ffi::IBV_WC_RETRY_EXC_ERR => "the peer does not answer: it, its host or the wire is down",
            ffi::IBV_WC_RNR_RETRY_EXC_ERR => "the peer is never ready to receive",
            ffi::IBV_WC_FATAL_ERR => "the device failed",
            ffi::IBV_WC_RESP_TIMEOUT_ERR => "the peer took too long",
            _ => "the device reports an error",
        };
        write!(f, "{text} (status {})", self.0.0)
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Room for completions, and those that were taken, in order.
pub struct Batch {
    /// The first `taken` were written.
    entries: [MaybeUninit<ffi::ibv_wc>; BATCH],
    next: usize,
    taken: usize,
}

impl Default for Batch {
    #[inline]
    fn default() -> Self {
        Self { entries: [const { MaybeUninit::uninit() }; BATCH], next: 0, taken: 0 }
    }
}

impl Batch {
    /// Whether there may be more in the queue.
    pub fn is_full(&self) -> bool {
        self.taken == BATCH
    }
}

impl Iterator for Batch {
    type Item = Completion;

    #[inline]
    fn next(&mut self) -> Option<Completion> {
        let entry = self.entries[..self.taken].get(self.next)?;
        self.next += 1;
        // SAFETY: the library has written as many as it counts.
        let entry = unsafe { entry.assume_init_ref() };
        let kind = match entry.opcode {
            ffi::IBV_WC_RECV => Kind::Received,
            ffi::IBV_WC_RECV_RDMA_WITH_IMM => Kind::Written,
            _ => Kind::Sent,
        };
        // SAFETY: both variants are 32 bits; the value is ours only for the kinds that carry it.
        let immediate = u32::from_be(unsafe { entry.__bindgen_anon_1.imm_data });
        let status = Status(entry.status);
        Some(Completion { id: entry.wr_id, queue_pair: entry.qp_num, status, kind, immediate })
    }
}

impl Completions {
    /// A queue for up to `capacity` completions that have not been taken: as many as all requests that can be under
    /// way, because a queue that overflows is lost with all that
    /// stands on it (IBA vol. 1, chapter 10, "completion queue": an overrun puts it into error).
    ///
    /// # Errors
    /// More than the device can do.
    pub fn new(context: &Arc<Context>, capacity: u32) -> Result<Arc<Self>, VerbsError> {
        let granted = context.completions_max();
        if capacity > granted {
            return Err(VerbsError::Limit { what: "completions in one queue", asked: capacity, granted });
        }
        let verbs = context.library;
        // SAFETY: the context is alive, and held below.
        let channel = unsafe { (verbs.ibv_create_comp_channel)(context.handle.as_ptr()) };
        let channel = NonNull::new(channel).ok_or_else(|| VerbsError::last("ibv_create_comp_channel"))?;
        // SAFETY: context and channel are alive; the channel is destroyed after the queue.
        let handle = unsafe {
            (verbs.ibv_create_cq)(
                context.handle.as_ptr(),
                capacity as i32,
                std::ptr::null_mut(),
                channel.as_ptr(),
                0,
            )
        };
        let Some(handle) = NonNull::new(handle) else {
            let error = VerbsError::last("ibv_create_cq");
            // SAFETY: made above, used by nothing.
            unsafe { (verbs.ibv_destroy_comp_channel)(channel.as_ptr()) };
            return Err(error);
        };
        let completions = Self { context: Arc::clone(context), handle, channel, capacity };
        rustix::io::ioctl_fionbio(completions.as_fd(), true)
            .map_err(|error| VerbsError::Call { call: "ioctl(FIONBIO)", error: error.into() })?;
        Ok(Arc::new(completions))
    }

    /// How many completions it holds.
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Takes what is there into `batch`, as much as fits; what was in it is forgotten.
    ///
    /// # Errors
    /// The device failed.
    #[inline]
    pub fn poll(&self, batch: &mut Batch) -> Result<(), VerbsError> {
        (batch.next, batch.taken) = (0, 0);
        // SAFETY: the queue is alive; there is room for so many.
        let taken = unsafe {
            ffi::ibv_poll_cq(self.handle.as_ptr(), BATCH as i32, batch.entries.as_mut_ptr().cast())
        };
        match usize::try_from(taken) {
            Ok(taken) => batch.taken = taken.min(BATCH),
            Err(_) => {
                let error = std::io::Error::from_raw_os_error(taken.abs());
                return Err(VerbsError::Call { call: "ibv_poll_cq", error });
            }
        }
        Ok(())
    }

    /// Makes the channel readable when the next completion comes. One that came before does not count, so poll once
    /// more before sleeping (ibv_req_notify_cq(3)).
    ///
    /// # Errors
    /// The device failed.
    pub fn arm(&self) -> Result<(), VerbsError> {
        // SAFETY: the queue is alive.
        VerbsError::of_number("ibv_req_notify_cq", unsafe { ffi::ibv_req_notify_cq(self.handle.as_ptr(), 0) })
    }

    /// Takes the events of the channel, so that it is readable again only for new ones.
    pub fn take_events(&self) {
        let (mut queue, mut of) = (std::ptr::null_mut(), std::ptr::null_mut());
        let verbs = self.context.library;
        // SAFETY: the channel is alive, its descriptor does not block, the pointers are written.
        while unsafe { (verbs.ibv_get_cq_event)(self.channel.as_ptr(), &raw mut queue, &raw mut of) } == 0 {
            // SAFETY: one event of our queue. Not acknowledged, it would hold up the queue's end for ever.
            unsafe { (verbs.ibv_ack_cq_events)(queue, 1) };
        }
    }
}

impl AsFd for Completions {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the channel is alive as long as this borrow; its descriptor is never replaced.
        unsafe { BorrowedFd::borrow_raw((*self.channel.as_ptr()).fd) }
    }
}

impl Drop for Completions {
    fn drop(&mut self) {
        self.take_events();
        let verbs = self.context.library;
        // SAFETY: made by `new`, freed once, the queue before its channel; queue pairs hold this and are gone.
        unsafe {
            (verbs.ibv_destroy_cq)(self.handle.as_ptr());
            (verbs.ibv_destroy_comp_channel)(self.channel.as_ptr());
        }
    }
}
