//! Reading what a digest promises.
//!
//! Invariant: [`Checked::finish`] passes if and only if all bytes up to the end were read, and they are those that the
//! digest and the size say.

use super::error::OciError;
use sha2::{Digest, Sha256};
use std::io::{self, Read};

/// The digest of bytes, as images write it.
pub(super) fn sha256(bytes: &[u8]) -> String {
    name(Sha256::new_with_prefix(bytes))
}

pub(super) fn name(hasher: Sha256) -> String {
    let mut text = "sha256:".to_owned();
    for byte in hasher.finalize() {
        text += &format!("{byte:02x}");
    }
    text
}

/// The part after `sha256:` of a digest, if it is one.
pub(super) fn hex(digest: &str) -> Option<&str> {
    let hex = digest.strip_prefix("sha256:")?;
    let well = hex.len() == 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    well.then_some(hex)
}

/// Passes on what it reads, and sees whether it is what was promised.
pub(super) struct Checked<R> {
    inner: R,
    hasher: Sha256,
    read: u64,
    digest: String,
    /// `None` if only the digest is known.
    size: Option<u64>,
}

impl<R: Read> Checked<R> {
    pub(super) fn new(inner: R, digest: &str, size: Option<u64>) -> Self {
        Self { inner, hasher: Sha256::new(), read: 0, digest: digest.to_owned(), size }
    }

    /// Reads what is left, and compares.
    pub(super) fn finish(mut self) -> Result<R, OciError> {
        io::copy(&mut self, &mut io::sink()).map_err(OciError::reading)?;
        let Self { inner, hasher, read, digest, size } = self;
        if let Some(said) = size.filter(|said| *said != read) {
            return Err(OciError::Size { blob: digest, said, found: read });
        }
        let found = name(hasher);
        if found != digest {
            return Err(OciError::Digest { blob: digest, found });
        }
        Ok(inner)
    }
}

impl<R: Read> Read for Checked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // One byte more than was said shows the lie; the rest need not be read.
        let room = self.size.map_or(u64::MAX, |said| said.saturating_add(1).saturating_sub(self.read));
        let length = buffer.len().min(usize::try_from(room).unwrap_or(usize::MAX));
        let read = self.inner.read(&mut buffer[..length])?;
        self.hasher.update(&buffer[..read]);
        self.read += read as u64;
        Ok(read)
    }
}
