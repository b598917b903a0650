//! Memory that the device may read or write, and the domain that bounds who may.

use super::{Context, VerbsError, ffi};
use crate::memory::Memory;
use std::ptr::NonNull;
use std::sync::Arc;

/// A protection domain: a key of one domain is worth nothing on a queue pair of another (IBA vol. 1, chapter
/// 10, "protection domains"). Every link has its own, because keys can be guessed.
pub struct Domain {
    pub(super) context: Arc<Context>,
    pub(super) handle: NonNull<ffi::ibv_pd>,
}

// SAFETY: verbs may be called from any thread; the handle is only passed to them.
unsafe impl Send for Domain {}
// SAFETY: as above.
unsafe impl Sync for Domain {}

impl Domain {
    /// A new one.
    ///
    /// # Errors
    /// The device has no more.
    pub fn new(context: &Arc<Context>) -> Result<Arc<Self>, VerbsError> {
        // SAFETY: the context is alive, and held below.
        let handle = unsafe { (context.library.ibv_alloc_pd)(context.handle.as_ptr()) };
        let handle = NonNull::new(handle).ok_or_else(|| VerbsError::last("ibv_alloc_pd"))?;
        Ok(Arc::new(Self { context: Arc::clone(context), handle }))
    }
}

impl Drop for Domain {
    fn drop(&mut self) {
        // SAFETY: allocated by `new`, freed once; registrations and queue pairs hold it and are gone.
        unsafe { (self.context.library.ibv_dealloc_pd)(self.handle.as_ptr()) };
    }
}

/// A part of a mapping that the device may use. It stays mapped and locked until this is dropped; a key of a dropped
/// registration is refused by the device.
pub struct Registration {
    domain: Arc<Domain>,
    handle: NonNull<ffi::ibv_mr>,
    memory: Memory,
    offset: usize,
    len: usize,
}

// SAFETY: as for the domain.
unsafe impl Send for Registration {}
// SAFETY: as for the domain.
unsafe impl Sync for Registration {}

impl Registration {
    /// Registers `len` bytes of `memory` from `offset` on. The device may always read them for what we send; the
    /// peer may write them if `remote`, and never read them.
    ///
    /// # Errors
    /// Too little memory may be locked: the error names how much is needed.
    ///
    /// # Panics
    /// If the part is not inside: ours to get right.
    pub fn new(
        domain: &Arc<Domain>,
        memory: &Memory,
        offset: usize,
        len: usize,
        remote: bool,
    ) -> Result<Self, VerbsError> {
        assert!(
            offset <= memory.len() && len <= memory.len() - offset,
            "no part at {offset} of {}",
            memory.len()
        );
        // Remote writing demands local writing (ibv_reg_mr(3)).
        let access = if remote { ffi::IBV_ACCESS_LOCAL_WRITE | ffi::IBV_ACCESS_REMOTE_WRITE } else { 0 };
        // SAFETY: the bytes are mapped while `memory`, which is held below, lives.
        let handle = unsafe {
            (domain.context.library.ibv_reg_mr)(
                domain.handle.as_ptr(),
                memory.as_ptr(offset).cast(),
                len,
                access as i32,
            )
        };
        let Some(handle) = NonNull::new(handle) else {
            let error = VerbsError::last("ibv_reg_mr");
            return Err(match &error {
                VerbsError::Call { error: io, .. }
                    if matches!(io.raw_os_error(), Some(libc::ENOMEM | libc::EAGAIN)) =>
                {
                    locked_memory(len).unwrap_or(error)
                }
                _ => error,
            });
        };
        Ok(Self { domain: Arc::clone(domain), handle, memory: memory.clone(), offset, len })
    }

    /// The bytes' number.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The address of its first byte, as the peer has to name it.
    pub fn address(&self) -> u64 {
        self.memory.as_ptr(self.offset) as u64
    }

    /// The key that lets the peer write here.
    pub fn remote_key(&self) -> u32 {
        // SAFETY: the registration is alive.
        unsafe { (*self.handle.as_ptr()).rkey }
    }

    /// `len` of its bytes from `at` on, to be sent.
    ///
    /// # Panics
    /// If they are not inside.
    #[inline]
    pub fn slice(&self, at: usize, len: usize) -> Slice {
        assert!(at <= self.len && len <= self.len - at, "no {len} bytes at {at} of {}", self.len);
        // SAFETY: the registration is alive.
        let key = unsafe { (*self.handle.as_ptr()).lkey };
        Slice(ffi::ibv_sge { addr: self.address() + at as u64, length: len as u32, lkey: key })
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // SAFETY: registered by `new`, freed once. The device refuses the key from now on, also for requests that are
        // under way (IBA vol. 1, chapter 10, "deregistering"), so the memory may be unmapped after it.
        unsafe { (self.domain.context.library.ibv_dereg_mr)(self.handle.as_ptr()) };
    }
}

/// Bytes of a registration. If that is dropped before the request is done, the device refuses the request.
#[derive(Clone, Copy)]
pub struct Slice(pub(super) ffi::ibv_sge);

/// What is needed, if it is the limit of locked memory that refused.
fn locked_memory(len: usize) -> Option<VerbsError> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Memlock).current?;
    let locked = std::fs::read_to_string("/proc/self/status").ok()?;
    let pinned = locked
        .lines()
        .find_map(|line| line.strip_prefix("VmPin:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    let needed = pinned.unwrap_or(0) * 1024 + len as u64;
    (needed > limit).then_some(VerbsError::LockedMemory { needed, limit })
}
