//! How large an image may be.

/// The most that is taken from an image. The defaults are far above what people deliver.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Of its layers unpacked, together, in bytes.
    pub unpacked_bytes: u64,
    /// Files, folders and links in all its layers.
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
