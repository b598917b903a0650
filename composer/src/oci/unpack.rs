//! One layer, put over those below it.
//!
//! Invariant: nothing is written but through a [`Root`]; and no more than the budget allows, however small the archive.
//!
//! Owners, times and attributes are left out, and modes are reduced to whether a file can be executed: a container has one
//! user, and its files are read-only.

use super::archive::{self, Entry};
use super::error::OciError;
use super::limits::Budget;
use super::root::{Keep, Kept, Root, parts};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};
use tar::EntryType;

/// What such a name begins with says that something below is not there.
const WHITEOUT: &[u8] = b".wh.";
/// The name that says that nothing below is there.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// How much of a file is copied at once.
const COPY_BYTES: usize = 128 << 10;

/// Stops a stream that is longer than all that is allowed: what follows an archive's end costs time too.
pub(super) struct Bounded<'a, R> {
    pub(super) inner: R,
    pub(super) budget: &'a Budget,
}

impl<R: Read> Read for Bounded<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.budget.take_stream(read as u64).map_err(io::Error::other)?;
        Ok(read)
    }
}

/// Puts the entries of an archive into a folder, and removes what they say is gone.
pub(super) fn apply<R: Read>(
    entries: tar::Entries<'_, R>,
    root: &Root,
    budget: &Budget,
) -> Result<(), OciError> {
    let mut made = Kept::new();
    archive::for_each(entries, |entry| {
        budget.take_entry()?;
        put(entry, root, budget, &mut made)
    })
}

fn put<R: Read>(entry: Entry<'_, R>, root: &Root, budget: &Budget, made: &mut Kept) -> Result<(), OciError> {
    let path = entry.path.clone();
    let mut at = parts(&path)?;
    let last = at.last().copied().unwrap_or_default();
    if last.as_bytes().starts_with(WHITEOUT) {
        at.pop();
        return white_out(last, &mut at, root, &Keep { made, budget }, &path);
    }
    let Some(place) = root.place(&at, made)? else {
        // The root itself, which is there.
        return if entry.kind.is_dir() { Ok(()) } else { Err(OciError::Outside { entry: path }) };
    };
    let inode = match entry.kind {
        EntryType::Directory => place.make_folder(root)?,
        EntryType::Regular | EntryType::Continuous => {
            let (file, inode) = place.make_file(entry.mode & 0o111 != 0)?;
            fill(file, entry, budget)?;
            inode
        }
        EntryType::Symlink => {
            let target = entry.target.unwrap_or_default();
            check_symlink(&path, at.len(), &target)?;
            place.make_symlink(&target)?
        }
        EntryType::Link => {
            let target = entry.target.unwrap_or_default();
            let outside = |_| OciError::LinkOutside { entry: path.clone(), target: target.clone() };
            let of = root.find(&parts(&target).map_err(outside)?)?.filter(|of| of.is_file());
            let nothing = || OciError::LinkToNothing { entry: path.clone(), target: target.clone() };
            place.make_hard_link(&of.ok_or_else(nothing)?)?
        }
        other => return Err(OciError::Kind { entry: path, kind: name_of(other) }),
    };
    made.insert(inode);
    Ok(())
}

/// Copies a file's content.
fn fill<R: Read>(mut file: File, entry: Entry<'_, R>, budget: &Budget) -> Result<(), OciError> {
    let (mut content, mut left) = (entry.content, entry.size);
    let mut buffer = vec![0; COPY_BYTES.min(usize::try_from(left).unwrap_or(COPY_BYTES)).max(1)];
    loop {
        let read = content.read(&mut buffer).map_err(OciError::reading)?;
        if read == 0 {
            break;
        }
        budget.take_bytes(read as u64)?;
        left = left.saturating_sub(read as u64);
        file.write_all(&buffer[..read]).map_err(OciError::io(&entry.path))?;
    }
    if left > 0 {
        return Err(OciError::damaged(format!("`{}` lacks {left} bytes", entry.path.display())));
    }
    Ok(())
}

/// A link may lead to whatever place the container has, written from its root; but not up and out.
fn check_symlink(path: &Path, depth: usize, target: &Path) -> Result<(), OciError> {
    let outside = || OciError::LinkOutside { entry: path.to_owned(), target: target.to_owned() };
    if target.as_os_str().is_empty() {
        return Err(OciError::LinkToNothing { entry: path.to_owned(), target: target.to_owned() });
    }
    let mut depth = if target.is_absolute() { 0 } else { depth - 1 };
    for part in target.components() {
        match part {
            Component::ParentDir => depth = depth.checked_sub(1).ok_or_else(outside)?,
            Component::Normal(_) => depth += 1,
            _ => {}
        }
    }
    Ok(())
}

fn white_out<'a>(
    mark: &'a OsStr,
    at: &mut Vec<&'a OsStr>,
    root: &Root,
    keep: &Keep<'_>,
    path: &Path,
) -> Result<(), OciError> {
    if mark.as_bytes() == OPAQUE {
        return match root.find(at)? {
            Some(folder) => folder.empty(keep),
            None if at.is_empty() => root.empty(keep),
            None => Ok(()),
        };
    }
    let gone = OsStr::from_bytes(&mark.as_bytes()[WHITEOUT.len()..]);
    if gone.is_empty() || gone == "." || gone == ".." {
        return Err(OciError::Outside { entry: path.to_owned() });
    }
    at.push(gone);
    root.find(at)?.map_or(Ok(()), |place| place.remove_but(keep))
}

fn name_of(kind: EntryType) -> String {
    match kind {
        EntryType::Char | EntryType::Block => "a device".into(),
        EntryType::Fifo => "a pipe".into(),
        EntryType::GNUSparse => "a file with holes".into(),
        other => format!("of the type {:?}", char::from(other.as_byte())),
    }
}
