//! The entries of a tar archive, one after the other, as a hostile one may have them.
//!
//! Invariant: an entry takes no more memory than [`EXTENSION_BYTES_MAX`] lets it, whatever its header says. What an entry
//! is called is what was written, not yet a path that may be used.

use super::error::OciError;
use super::limits::{EXTENSION_BYTES_MAX, PATH_BYTES_MAX};
use std::ffi::OsString;
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use tar::EntryType;

/// One entry.
pub(super) struct Entry<'a, R: Read> {
    pub(super) path: PathBuf,
    /// What a link leads to.
    pub(super) target: Option<PathBuf>,
    pub(super) kind: EntryType,
    pub(super) mode: u32,
    pub(super) size: u64,
    /// Where its content begins in the archive.
    pub(super) offset: u64,
    pub(super) content: tar::Entry<'a, R>,
}

/// What is said of the next entry ahead of it.
#[derive(Default)]
struct Ahead {
    path: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
}

/// Calls `each` for every entry, until it fails.
pub(super) fn for_each<R: Read>(
    entries: tar::Entries<'_, R>,
    mut each: impl FnMut(Entry<'_, R>) -> Result<(), OciError>,
) -> Result<(), OciError> {
    let mut ahead = Ahead::default();
    for entry in entries.raw(true) {
        let mut entry = entry.map_err(OciError::reading)?;
        let kind = entry.header().entry_type();
        match kind {
            EntryType::GNULongName => ahead.path = Some(text(&extension(&mut entry)?)),
            EntryType::GNULongLink => ahead.target = Some(text(&extension(&mut entry)?)),
            EntryType::XHeader => extended(&extension(&mut entry)?, &mut ahead)?,
            EntryType::XGlobalHeader => drop(extension(&mut entry)?),
            kind => {
                let said = std::mem::take(&mut ahead);
                each(Entry {
                    path: path(said.path.unwrap_or_else(|| entry.path_bytes().into_owned()))?,
                    target: said
                        .target
                        .or_else(|| entry.link_name_bytes().map(|name| name.into_owned()))
                        .map(path)
                        .transpose()?,
                    kind,
                    mode: entry.header().mode().map_err(OciError::damaged)?,
                    size: entry.header().entry_size().map_err(OciError::damaged)?,
                    offset: entry.raw_file_position(),
                    content: entry,
                })?;
            }
        }
    }
    Ok(())
}

/// The content of an entry that speaks of the next one.
fn extension<R: Read>(entry: &mut tar::Entry<'_, R>) -> Result<Vec<u8>, OciError> {
    let size = entry.header().entry_size().map_err(OciError::damaged)?;
    if size > EXTENSION_BYTES_MAX {
        return Err(OciError::damaged(format!("an entry's extension has {size} bytes")));
    }
    let mut bytes = Vec::new();
    entry.read_to_end(&mut bytes).map_err(OciError::reading)?;
    Ok(bytes)
}

fn text(bytes: &[u8]) -> Vec<u8> {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default().to_vec()
}

/// The records of a `pax` header.
fn extended(bytes: &[u8], ahead: &mut Ahead) -> Result<(), OciError> {
    for record in tar::PaxExtensions::new(bytes) {
        let record = record.map_err(OciError::damaged)?;
        match record.key_bytes() {
            b"path" => ahead.path = Some(record.value_bytes().to_vec()),
            b"linkpath" => ahead.target = Some(record.value_bytes().to_vec()),
            // Another size than the header's would have two readers see two archives.
            b"size" => return Err(OciError::damaged("an entry has two sizes")),
            key if key.starts_with(b"GNU.sparse") => {
                return Err(OciError::damaged("a file with holes, which no image has"));
            }
            // Times, owners and attributes count for nothing here.
            _ => {}
        }
    }
    Ok(())
}

fn path(bytes: Vec<u8>) -> Result<PathBuf, OciError> {
    if bytes.len() > PATH_BYTES_MAX || bytes.contains(&0) {
        return Err(OciError::damaged("an entry's name is too long, or has a zero byte"));
    }
    Ok(OsString::from_vec(bytes).into())
}
