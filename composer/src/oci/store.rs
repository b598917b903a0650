//! Where an image's files are: in a folder, or in an archive that stays packed.
//!
//! Invariant: a file that is opened is a regular one, in the folder or archive and nowhere else.

use super::archive;
use super::error::OciError;
use super::limits::Limits;
use super::root::{Root, parts};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use tar::EntryType;

/// See the head of this file.
pub(super) enum Store {
    Folder(Root),
    Archive { file: Arc<File>, files: HashMap<PathBuf, Section>, links: HashMap<PathBuf, PathBuf> },
}

/// Where a file is in an archive.
#[derive(Clone, Copy)]
pub(super) struct Section {
    offset: u64,
    size: u64,
}

impl Store {
    pub(super) fn open(path: &Path, limits: &Limits) -> Result<Self, OciError> {
        if std::fs::metadata(path).map_err(OciError::io(path))?.is_dir() {
            return Ok(Self::Folder(Root::open(path)?));
        }
        let file = File::open(path).map_err(OciError::io(path))?;
        Self::archive(file, limits).map_err(|error| match error {
            // Whatever it is, it is no archive.
            OciError::Damaged { .. } => OciError::NoImage { path: path.to_owned() },
            error => error,
        })
    }

    /// Notes where everything is.
    fn archive(file: File, limits: &Limits) -> Result<Self, OciError> {
        let length = file.metadata().map_err(OciError::io(""))?.len();
        let (mut files, mut links) = (HashMap::new(), HashMap::new());
        let mut reader = tar::Archive::new(&file);
        let entries = reader.entries_with_seek().map_err(OciError::reading)?;
        archive::for_each(entries, |entry| {
            if files.len() + links.len() == limits.archive_entries {
                let (what, max) = ("files in its archive", limits.archive_entries as u64);
                return Err(OciError::TooLarge { what, max, limit: "Limits::archive_entries" });
            }
            let path: PathBuf = parts(&entry.path)?.iter().collect();
            match entry.kind {
                EntryType::Regular | EntryType::Continuous => {
                    let section = Section { offset: entry.offset, size: entry.size };
                    if section.offset.checked_add(section.size).is_none_or(|end| end > length) {
                        return Err(OciError::damaged(format!("`{}` lacks its end", path.display())));
                    }
                    files.insert(path, section);
                }
                // Old archives of `docker save` have a layer once.
                EntryType::Symlink => {
                    let target = entry.target.unwrap_or_default();
                    let beside = path.parent().unwrap_or(Path::new("")).join(&target);
                    let target =
                        flat(&beside).ok_or(OciError::LinkOutside { entry: path.clone(), target })?;
                    links.insert(path, target);
                }
                EntryType::Link => {
                    let target = entry.target.unwrap_or_default();
                    links.insert(path, parts(&target)?.iter().collect());
                }
                _ => {}
            }
            Ok(())
        })?;
        Ok(Self::Archive { file: Arc::new(file), files, links })
    }

    pub(super) fn has(&self, path: &str) -> bool {
        self.read(Path::new(path)).is_ok()
    }

    /// A file of the image.
    pub(super) fn read(&self, path: &Path) -> Result<Box<dyn Read>, OciError> {
        match self {
            Self::Folder(root) => Ok(Box::new(root.read(path)?)),
            Self::Archive { file, files, links } => {
                let missing = || OciError::Missing { blob: path.display().to_string() };
                let path = links.get(path).map_or(path, PathBuf::as_path);
                let section = *files.get(path).ok_or_else(missing)?;
                Ok(Box::new(Reader { file: Arc::clone(file), at: section.offset, left: section.size }))
            }
        }
    }

    /// The start of a file, if it is not longer than `max`.
    pub(super) fn document(&self, path: &Path, max: u64) -> Result<Vec<u8>, OciError> {
        let mut bytes = Vec::new();
        self.read(path)?.take(max + 1).read_to_end(&mut bytes).map_err(OciError::io(path))?;
        if bytes.len() as u64 > max {
            return Err(OciError::TooLarge {
                what: "bytes in one document",
                max,
                limit: "Limits::document_bytes",
            });
        }
        Ok(bytes)
    }
}

/// A path without `..`; `None` if it leads out, or from the root.
fn flat(path: &Path) -> Option<PathBuf> {
    let mut flat = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(part) => flat.push(part),
            Component::ParentDir => {
                if !flat.pop() {
                    return None;
                }
            }
            Component::CurDir => {}
            _ => return None,
        }
    }
    Some(flat)
}

/// Reads a part of a file without moving in it: several can at once.
struct Reader {
    file: Arc<File>,
    at: u64,
    left: u64,
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let read = self.file.read_at(&mut buffer[..length], self.at)?;
        self.at += read as u64;
        self.left -= read as u64;
        Ok(read)
    }
}
