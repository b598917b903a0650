//! How large an image may be, and how much of that is left while it is unpacked.

use super::error::OciError;
use std::cell::Cell;

/// The most that is taken from an image. The defaults are far above what people deliver.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Of its layers unpacked, together, in bytes.
    pub unpacked_bytes: u64,
    /// Files, folders and links in all its layers, and what has to be looked at to hide some of them.
    pub entries: u64,
    /// Layers.
    pub layers: usize,
    /// Of each of its documents (index, manifest, configuration), in bytes.
    pub document_bytes: u64,
    /// Files in the archive that it comes in.
    pub archive_entries: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            unpacked_bytes: 16 << 30,
            entries: 1 << 20,
            layers: 128,
            document_bytes: 4 << 20,
            archive_entries: 4096,
        }
    }
}

/// The longest path in an image, in bytes.
pub(super) const PATH_BYTES_MAX: usize = 4096;
/// The deepest folder in an image.
pub(super) const DEPTH_MAX: usize = 128;
/// The most that an archive may say of one entry beside its header, in bytes.
pub(super) const EXTENSION_BYTES_MAX: u64 = 64 << 10;
/// What the headers and the padding of an entry may take in an archive, at most, with what is said ahead of it.
const HEADERS_BYTES_MAX: u64 = 4 << 10;

/// What may still be unpacked.
pub(super) struct Budget {
    limits: Limits,
    bytes_left: Cell<u64>,
    entries_left: Cell<u64>,
    stream_left: Cell<u64>,
}

impl Budget {
    pub(super) fn new(limits: Limits) -> Self {
        let headers = limits.entries.saturating_mul(HEADERS_BYTES_MAX);
        Self {
            limits,
            bytes_left: Cell::new(limits.unpacked_bytes),
            entries_left: Cell::new(limits.entries),
            stream_left: Cell::new(limits.unpacked_bytes.saturating_add(headers)),
        }
    }

    pub(super) fn take_entry(&self) -> Result<(), OciError> {
        let (what, max, limit) = ("entries", self.limits.entries, "Limits::entries");
        take(&self.entries_left, 1).ok_or(OciError::TooLarge { what, max, limit })
    }

    pub(super) fn take_bytes(&self, bytes: u64) -> Result<(), OciError> {
        take(&self.bytes_left, bytes).ok_or_else(|| self.too_large())
    }

    /// Of the streams that the entries come in.
    pub(super) fn take_stream(&self, bytes: u64) -> Result<(), OciError> {
        take(&self.stream_left, bytes).ok_or_else(|| self.too_large())
    }

    fn too_large(&self) -> OciError {
        let (what, max) = ("bytes unpacked", self.limits.unpacked_bytes);
        OciError::TooLarge { what, max, limit: "Limits::unpacked_bytes" }
    }
}

fn take(left: &Cell<u64>, taken: u64) -> Option<()> {
    left.set(left.get().checked_sub(taken)?);
    Some(())
}
