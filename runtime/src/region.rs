//! Regions: sealed, nameless shared memory.
//!
//! A region is a memfd, sized and sealed against shrink, grow and further sealing before anyone else gets it. It has
//! no name in the file system: it is gone when the last process that holds it is. Whoever receives one checks size
//! and seals before mapping it, so a peer can't make it vanish under the mapping by truncating it.
//!
//! Seals don't stop a peer from punching holes; then we read zeros, which no reader takes for a frame.

use crate::memory::{Memory, PAGE_BYTES};
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::{Advice, MapFlags, ProtFlags};
use std::ffi::c_void;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;

/// The largest region, in bytes.
pub const REGION_BYTES_MAX: usize = 1 << 30;

const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

/// Why a region can't be made or used.
#[derive(Debug, thiserror::Error)]
pub enum RegionError {
    /// The size is no multiple of a page, is zero, or is too large.
    #[error(
        "a region of {bytes} bytes is not possible: use a multiple of {PAGE_BYTES}, at most {REGION_BYTES_MAX}"
    )]
    Size {
        /// What was asked for.
        bytes: usize,
    },
    /// The descriptor that came is no sealed memory file of the announced size.
    #[error(
        "the descriptor is not the announced region: {what}; the sender is broken or hostile, so drop its link"
    )]
    Foreign {
        /// What differs.
        what: String,
    },
    /// The kernel said no.
    #[error("the kernel refused to {doing} a region of {bytes} bytes: {source}")]
    Kernel {
        /// What was being done.
        doing: &'static str,
        /// The region's size.
        bytes: usize,
        /// Its answer.
        source: io::Error,
    },
}

/// A sealed memory file: see the head of this file.
#[derive(Debug)]
pub struct Region {
    fd: OwnedFd,
    bytes: usize,
}

impl Region {
    /// Makes a region of `bytes` bytes, all zero. `label` shows up in `/proc/PID/maps`, nowhere else.
    ///
    /// # Errors
    /// A size that is no multiple of a page or too large; a refusal of the kernel.
    pub fn create(label: &str, bytes: usize) -> Result<Self, RegionError> {
        check_size(bytes)?;
        let kernel =
            |doing| move |e: rustix::io::Errno| RegionError::Kernel { doing, bytes, source: e.into() };
        let fd = rustix::fs::memfd_create(label, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
            .map_err(kernel("create"))?;
        rustix::fs::ftruncate(&fd, bytes as u64).map_err(kernel("size"))?;
        rustix::fs::fcntl_add_seals(&fd, SEALS).map_err(kernel("seal"))?;
        Ok(Self { fd, bytes })
    }

    /// Takes a region that another process sent and that should have `bytes` bytes.
    ///
    /// # Errors
    /// [`RegionError::Foreign`] if it is not sealed or of another size.
    pub fn receive(fd: OwnedFd, bytes: usize) -> Result<Self, RegionError> {
        check_size(bytes)?;
        let foreign = |what: String| RegionError::Foreign { what };
        let seals =
            rustix::fs::fcntl_get_seals(&fd).map_err(|e| foreign(format!("it has no seals ({e})")))?;
        if !seals.contains(SEALS) {
            return Err(foreign(format!("it is sealed {seals:?}, not {SEALS:?}")));
        }
        let size = rustix::fs::fstat(&fd).map_err(|e| foreign(format!("it has no size ({e})")))?.st_size;
        if size != bytes as i64 {
            return Err(foreign(format!("it has {size} bytes, not {bytes}")));
        }
        Ok(Self { fd, bytes })
    }

    /// The size in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Another descriptor of the same region.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn duplicate(&self) -> Result<Self, RegionError> {
        let fd = self.fd.try_clone().map_err(|source| RegionError::Kernel {
            doing: "duplicate the descriptor of",
            bytes: self.bytes,
            source,
        })?;
        Ok(Self { fd, bytes: self.bytes })
    }

    /// A descriptor through which the region can be read and mapped, never written: for watchers.
    ///
    /// # Errors
    /// When `/proc` is not mounted or the process has no descriptor left.
    pub fn read_only(&self) -> Result<OwnedFd, RegionError> {
        use std::os::fd::AsRawFd;
        let path = format!("/proc/self/fd/{}", self.fd.as_raw_fd());
        rustix::fs::open(
            path,
            rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        )
        .map_err(|e| RegionError::Kernel { doing: "reopen", bytes: self.bytes, source: e.into() })
    }

    /// Maps it for reading and writing. With `touch` all its pages are there before this returns, so nobody faults
    /// on the way of a message; without, a page costs nothing until it is used.
    ///
    /// # Errors
    /// A refusal of the kernel: no address space, or no memory.
    #[cfg(not(loom))]
    pub fn map(&self, touch: bool) -> Result<Memory, RegionError> {
        let mapping = Mapping::new(self.fd.as_fd(), self.bytes, ProtFlags::READ | ProtFlags::WRITE)?;
        if touch {
            mapping.populate()?;
        }
        Ok(mapping.into_memory())
    }
}

impl AsFd for Region {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<Region> for OwnedFd {
    fn from(region: Region) -> OwnedFd {
        region.fd
    }
}

fn check_size(bytes: usize) -> Result<(), RegionError> {
    let possible = bytes > 0 && bytes.is_multiple_of(PAGE_BYTES) && bytes <= REGION_BYTES_MAX;
    if possible { Ok(()) } else { Err(RegionError::Size { bytes }) }
}

/// Owns the address range; unmaps it at the end.
#[cfg(not(loom))]
pub(crate) struct Mapping {
    base: NonNull<c_void>,
    bytes: usize,
}

#[cfg(not(loom))]
impl Mapping {
    pub(crate) fn new(fd: BorrowedFd<'_>, bytes: usize, protection: ProtFlags) -> Result<Self, RegionError> {
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
        let base =
            unsafe { rustix::mm::mmap(std::ptr::null_mut(), bytes, protection, MapFlags::SHARED, fd, 0) }
                .map_err(|e| RegionError::Kernel { doing: "map", bytes, source: e.into() })?;
        let base = NonNull::new(base).expect("the kernel never maps at address zero by itself");
        Ok(Self { base, bytes })
    }

    fn populate(&self) -> Result<(), RegionError> {
        // SAFETY: the range is ours and stays mapped; populating it changes no byte.
        let done = unsafe { rustix::mm::madvise(self.base.as_ptr(), self.bytes, Advice::LinuxPopulateWrite) };
        match done {
            // Before Linux 5.14: the pages come at their first use.
            Ok(()) | Err(rustix::io::Errno::INVAL) => Ok(()),
            Err(e) => Err(RegionError::Kernel { doing: "populate", bytes: self.bytes, source: e.into() }),
        }
    }

    pub(crate) fn into_memory(self) -> Memory {
        let (base, bytes) = (self.base.cast(), self.bytes);
        // SAFETY: page aligned and valid for `bytes` while the mapping lives, which the memory owns from here on;
        // nothing else in this process refers to it.
        unsafe { Memory::new(base, bytes, Arc::new(self)) }
    }
}

// SAFETY: an address range belongs to the process, not to a thread.
#[cfg(not(loom))]
unsafe impl Send for Mapping {}
// SAFETY: as above; a `Mapping` itself gives no access to the bytes.
#[cfg(not(loom))]
unsafe impl Sync for Mapping {}

#[cfg(not(loom))]
impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `new` and nobody can use it any more: the owner is going.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr(), self.bytes) };
    }
}
