//! Memory that two processes share: the only `unsafe` code of this crate.
//!
//! Invariant: nobody ever holds a plain reference into the mapping. Words are reached as atomics, payloads by
//! copying through raw pointers, and every handle keeps the mapping alive. A payload area that both sides touch at
//! once yields torn bytes, never anything worse; the peers' protocols see to it that they don't, and the stamps in
//! every payload show that they did.

#![allow(unsafe_code)]

use crate::error::{Error, Result};
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::{Advice, MapFlags, ProtFlags};
use shared_memory::{Shmem, ShmemConf};
use std::marker::PhantomData;
use std::ops::Deref;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, AtomicU64};

/// A cache line, in bytes.
pub const LINE_BYTES: usize = 64;
/// A page, in bytes.
pub const PAGE_BYTES: usize = 4_096;

/// A mapping that another process can have as well.
pub struct Shared {
    start: NonNull<u8>,
    bytes: usize,
    backing: Backing,
}

enum Backing {
    Memfd(OwnedFd),
    /// Unmapped, and its name removed by its creator, when this is dropped.
    Named(Shmem),
}

impl Shared {
    /// A sealed memfd of so many bytes, all zero.
    pub fn create(bytes: usize) -> Result<Rc<Self>> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let memfd = rustix::fs::memfd_create("shard-bench", flags).map_err(Error::system("memfd_create"))?;
        rustix::fs::ftruncate(&memfd, bytes.next_multiple_of(PAGE_BYTES) as u64)
            .map_err(Error::system("ftruncate"))?;
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&memfd, seals).map_err(Error::system("sealing a memfd"))?;
        Self::map(memfd)
    }

    /// The mapping of a memfd that the near process created.
    pub fn map(memfd: OwnedFd) -> Result<Rc<Self>> {
        let bytes = rustix::fs::fstat(&memfd).map_err(Error::system("fstat"))?.st_size as usize;
        // SAFETY: a fresh mapping at an address that the kernel chooses touches no memory that anyone has.
        let start = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                &memfd,
                0,
            )
        }
        .map_err(Error::system("mmap"))?;
        let start = NonNull::new(start.cast()).expect("the kernel maps nothing at address 0 unasked");
        let shared = Self { start, bytes, backing: Backing::Memfd(memfd) };
        shared.populate()?;
        Ok(Rc::new(shared))
    }

    /// A new segment of the crate `shared_memory`, all zero.
    pub fn create_named(bytes: usize) -> Result<Rc<Self>> {
        Self::from_named(ShmemConf::new().size(bytes.next_multiple_of(PAGE_BYTES)).create())
    }

    /// The segment that the near process created under this name.
    pub fn open_named(name: &str) -> Result<Rc<Self>> {
        Self::from_named(ShmemConf::new().os_id(name).open())
    }

    fn from_named(segment: Result<Shmem, shared_memory::ShmemError>) -> Result<Rc<Self>> {
        let segment = segment.map_err(Error::peer("shared_memory"))?;
        let start = NonNull::new(segment.as_ptr()).expect("a mapped segment is somewhere");
        let shared = Self { start, bytes: segment.len(), backing: Backing::Named(segment) };
        shared.populate()?;
        Ok(Rc::new(shared))
    }

    /// Fills the page table now: a fault costs microseconds, and would stand in the tail.
    fn populate(&self) -> Result<()> {
        // SAFETY: the range is this mapping; populating it changes no byte.
        unsafe { rustix::mm::madvise(self.start.as_ptr().cast(), self.bytes, Advice::LinuxPopulateWrite) }
            .map_err(Error::system("madvise(MADV_POPULATE_WRITE), which needs Linux 5.14"))
    }

    /// A duplicate of the memfd, for the far process.
    ///
    /// # Panics
    /// If this is a named segment, which has none.
    pub fn descriptor(&self) -> Result<OwnedFd> {
        match &self.backing {
            Backing::Memfd(memfd) => memfd.try_clone().map_err(Error::system("dup")),
            Backing::Named(_) => panic!("a named segment is handed over by its name"),
        }
    }

    /// The name of a named segment.
    ///
    /// # Panics
    /// If this is a memfd, which has none.
    pub fn name(&self) -> &str {
        match &self.backing {
            Backing::Named(segment) => segment.get_os_id(),
            Backing::Memfd(_) => panic!("a memfd is handed over as a descriptor"),
        }
    }

    /// The 64-bit word at offset `at`.
    pub fn word(self: &Rc<Self>, at: usize) -> Word<AtomicU64> {
        self.atomic(at)
    }

    /// The 32-bit word at offset `at`, which the kernel can wait on.
    pub fn futex(self: &Rc<Self>, at: usize) -> Word<AtomicU32> {
        self.atomic(at)
    }

    fn atomic<A>(self: &Rc<Self>, at: usize) -> Word<A> {
        assert!(at.is_multiple_of(align_of::<A>()), "a word is aligned");
        Word { at: self.pointer(at, size_of::<A>()).cast(), memory: Rc::clone(self), kind: PhantomData }
    }

    /// `bytes` bytes from offset `at` on.
    pub fn area(self: &Rc<Self>, at: usize, bytes: usize) -> Area {
        Area { start: self.pointer(at, bytes), bytes, _memory: Rc::clone(self) }
    }

    fn pointer(&self, at: usize, bytes: usize) -> NonNull<u8> {
        assert!(at.checked_add(bytes).is_some_and(|end| end <= self.bytes), "in the mapping");
        // SAFETY: the assertion above: the range lies in the mapping.
        unsafe { self.start.add(at) }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Backing::Memfd(_) = self.backing {
            // SAFETY: this is the whole mapping of `map`, and every handle to it holds an `Rc` of this, so none is left.
            // A failure can only mean a wrong address, which would be a defect here; there is nothing to do about it.
            let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.bytes) };
        }
    }
}

/// An atomic word in shared memory.
pub struct Word<A> {
    at: NonNull<A>,
    memory: Rc<Shared>,
    kind: PhantomData<A>,
}

impl<A> Deref for Word<A> {
    type Target = A;

    #[inline]
    fn deref(&self) -> &A {
        debug_assert!(self.memory.bytes > 0);
        // SAFETY: only `Shared::atomic` makes a word, for the atomic integers: in the mapping, aligned, and any bits
        // are a value. The mapping lives as long as `self.memory`. Others reach the word as an atomic too.
        unsafe { self.at.as_ref() }
    }
}

/// Bytes in shared memory.
pub struct Area {
    start: NonNull<u8>,
    bytes: usize,
    _memory: Rc<Shared>,
}

impl Area {
    /// Copies `from` to offset `at`.
    ///
    /// # Panics
    /// If that is outside of the area.
    #[inline]
    pub fn write(&mut self, at: usize, from: &[u8]) {
        assert!(at <= self.bytes && from.len() <= self.bytes - at, "in the area");
        // SAFETY: in the area by the assertion, which lies in a mapping that is alive; `from` is ordinary memory, so
        // they do not overlap. See the module's invariant for other processes.
        unsafe { self.start.add(at).copy_from_nonoverlapping(NonNull::from(from).cast(), from.len()) }
    }

    /// Copies the bytes at offset `at` out.
    ///
    /// # Panics
    /// If that is outside of the area.
    #[inline]
    pub fn read(&self, at: usize, into: &mut [u8]) {
        assert!(at <= self.bytes && into.len() <= self.bytes - at, "in the area");
        // SAFETY: as in `write`.
        unsafe { self.start.add(at).copy_to_nonoverlapping(NonNull::from(&mut *into).cast(), into.len()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering;

    #[test]
    fn two_mappings_of_one_memfd_show_the_same_bytes() -> Result<()> {
        let here = Shared::create(PAGE_BYTES)?;
        let there = Shared::map(here.descriptor()?)?;
        here.area(64, 5).write(0, b"hello");
        here.word(0).store(7, Ordering::Release);
        let mut bytes = [0; 5];
        assert_eq!(there.word(0).load(Ordering::Acquire), 7);
        there.area(64, 5).read(0, &mut bytes);
        assert_eq!(&bytes, b"hello");
        Ok(())
    }

    #[test]
    #[should_panic(expected = "in the mapping")]
    fn a_word_outside_of_the_mapping_is_refused() {
        Shared::create(PAGE_BYTES).expect("a page").word(PAGE_BYTES);
    }

    #[test]
    #[should_panic(expected = "in the area")]
    fn a_copy_beyond_an_area_is_refused() {
        Shared::create(PAGE_BYTES).expect("a page").area(0, 8).write(4, &[0; 5]);
    }
}
