//! Writing beneath one folder, and nowhere else.
//!
//! Invariant: every path is resolved by the kernel with the folder as its root (`openat2(2)`, `RESOLVE_IN_ROOT`), so that
//! no link in it, whoever made it, leads out; and the last part of a path is never followed.

use super::error::OciError;
use super::limits::{Budget, DEPTH_MAX};
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, fchmod, fstat, linkat, mkdirat, openat, openat2,
    statat, symlinkat, unlinkat,
};
use rustix::io::Errno;
use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// Folders that are walked into at once, at most: each takes a descriptor.
const WALK_MAX: usize = 2 * DEPTH_MAX;

/// The inodes of files that are to stay.
pub(super) type Kept = HashSet<u64>;

/// What a layer that hides what is below it does not hide: its own files. To look at one costs as much as to unpack it,
/// or a small layer that hides the same folder again and again would take for ever.
pub(super) struct Keep<'a> {
    pub(super) made: &'a Kept,
    pub(super) budget: &'a Budget,
}

/// The parts of an entry's path, none of which leads up or to the root.
pub(super) fn parts(path: &Path) -> Result<Vec<&OsStr>, OciError> {
    let mut parts = Vec::new();
    for part in path.components() {
        match part {
            Component::Normal(part) => parts.push(part),
            Component::CurDir => {}
            _ => return Err(OciError::Outside { entry: path.to_owned() }),
        }
    }
    if parts.len() > DEPTH_MAX {
        let (what, max) = ("folders in one path", DEPTH_MAX as u64);
        return Err(OciError::TooLarge { what, max, limit: "DEPTH_MAX" });
    }
    Ok(parts)
}

/// See the head of this file.
pub(super) struct Root {
    fd: OwnedFd,
    path: PathBuf,
    /// How many folders lead to it from the host's root.
    depth: usize,
}

/// The folder of an entry, and what the entry is called there.
pub(super) struct Place<'a> {
    folder: OwnedFd,
    name: &'a OsStr,
}

impl Root {
    pub(super) fn open(path: &Path) -> Result<Self, OciError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(OciError::errno(path))?;
        let depth = depth(&fd).map_err(OciError::io(path))?;
        Ok(Self { fd, path: path.to_owned(), depth })
    }

    /// Whether there may be another folder in this one. A path is bounded; where links in the image lead it is not.
    fn check_depth(&self, folder: &OwnedFd) -> Result<(), OciError> {
        let depth = depth(folder).map_err(OciError::io(&self.path))?;
        if depth.saturating_sub(self.depth) < DEPTH_MAX {
            return Ok(());
        }
        let (what, max) = ("folders in one another", DEPTH_MAX as u64);
        Err(OciError::TooLarge { what, max, limit: "DEPTH_MAX" })
    }

    fn error(&self, path: &Path) -> impl FnOnce(Errno) -> OciError + use<> {
        OciError::errno(self.path.join(path))
    }

    /// A file that is there, to read it. Its links lead nowhere but into this folder.
    pub(super) fn read(&self, path: &Path) -> Result<File, OciError> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let file = match openat2(&self.fd, path, flags, Mode::empty(), resolve) {
            Err(Errno::NOENT) => {
                return Err(OciError::Missing { blob: path.display().to_string() });
            }
            other => other.map_err(self.error(path))?,
        };
        let stat = fstat(&file).map_err(self.error(path))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(OciError::Kind { entry: path.to_owned(), kind: "no file".into() });
        }
        Ok(file.into())
    }

    fn folder(&self, path: &Path) -> Result<OwnedFd, Errno> {
        if path.as_os_str().is_empty() {
            return self.fd.try_clone().map_err(|_| Errno::MFILE);
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        openat2(&self.fd, path, flags, Mode::empty(), resolve)
    }

    /// Where an entry is to be. Folders on the way that are missing are made.
    pub(super) fn place<'a>(
        &self,
        parts: &[&'a OsStr],
        made: &mut Kept,
    ) -> Result<Option<Place<'a>>, OciError> {
        let Some((name, above)) = parts.split_last() else { return Ok(None) };
        let path: PathBuf = above.iter().collect();
        let folder = match self.folder(&path) {
            Err(Errno::NOENT) => self.make_folders(above, made)?,
            other => other.map_err(self.error(&path))?,
        };
        Ok(Some(Place { folder, name }))
    }

    /// Where an entry is that is there already.
    pub(super) fn find<'a>(&self, parts: &[&'a OsStr]) -> Result<Option<Place<'a>>, OciError> {
        let Some((name, above)) = parts.split_last() else { return Ok(None) };
        let path: PathBuf = above.iter().collect();
        match self.folder(&path) {
            Ok(folder) => Ok(Some(Place { folder, name })),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(error) => Err(self.error(&path)(error)),
        }
    }

    fn make_folders(&self, parts: &[&OsStr], made: &mut Kept) -> Result<OwnedFd, OciError> {
        let mut path = PathBuf::new();
        let mut above = self.folder(&path).map_err(self.error(&path))?;
        for part in parts {
            path.push(part);
            above = match self.folder(&path) {
                Err(Errno::NOENT) => {
                    self.check_depth(&above)?;
                    mkdirat(&above, *part, Mode::from_raw_mode(0o755)).map_err(self.error(&path))?;
                    let folder = self.folder(&path).map_err(self.error(&path))?;
                    made.insert(fstat(&folder).map_err(self.error(&path))?.st_ino);
                    folder
                }
                other => other.map_err(self.error(&path))?,
            };
        }
        Ok(above)
    }

    /// Removes all that is in it, except for what is to be kept.
    pub(super) fn empty(&self, keep: &Keep<'_>) -> Result<(), OciError> {
        empty(self.readable().map_err(self.error(Path::new("")))?, Some(keep), 0)
    }

    fn readable(&self) -> Result<OwnedFd, Errno> {
        openat(&self.fd, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
    }

    /// Makes all folders read-only.
    pub(super) fn close(&self) -> Result<(), OciError> {
        let top = Path::new("");
        close(self.readable().map_err(self.error(top))?, 0).map_err(self.error(top))
    }
}

impl Place<'_> {
    fn error(&self) -> impl FnOnce(Errno) -> OciError + use<> {
        OciError::errno(PathBuf::from(self.name))
    }

    fn inode(&self) -> Result<u64, OciError> {
        Ok(statat(&self.folder, self.name, AtFlags::SYMLINK_NOFOLLOW).map_err(self.error())?.st_ino)
    }

    fn kind(&self) -> Option<FileType> {
        let stat = statat(&self.folder, self.name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        Some(FileType::from_raw_mode(stat.st_mode))
    }

    pub(super) fn is_file(&self) -> bool {
        self.kind() == Some(FileType::RegularFile)
    }

    /// A folder, new or there already. Gives its inode.
    pub(super) fn make_folder(&self, root: &Root) -> Result<u64, OciError> {
        if self.kind() != Some(FileType::Directory) {
            root.check_depth(&self.folder)?;
            self.remove()?;
            mkdirat(&self.folder, self.name, Mode::from_raw_mode(0o755)).map_err(self.error())?;
        }
        self.inode()
    }

    /// A new file in the place of whatever was there.
    pub(super) fn make_file(&self, executable: bool) -> Result<(File, u64), OciError> {
        self.remove()?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file =
            openat(&self.folder, self.name, flags, Mode::from_raw_mode(0o600)).map_err(self.error())?;
        let mode = if executable { 0o555 } else { 0o444 };
        fchmod(&file, Mode::from_raw_mode(mode)).map_err(self.error())?;
        Ok((file.into(), self.inode()?))
    }

    pub(super) fn make_symlink(&self, target: &Path) -> Result<u64, OciError> {
        self.remove()?;
        symlinkat(target, &self.folder, self.name).map_err(self.error())?;
        self.inode()
    }

    /// Another name of a file.
    pub(super) fn make_hard_link(&self, of: &Place<'_>) -> Result<u64, OciError> {
        let same = self.inode().is_ok_and(|inode| of.inode().is_ok_and(|other| other == inode));
        if !same {
            self.remove()?;
            linkat(&of.folder, of.name, &self.folder, self.name, AtFlags::empty()).map_err(self.error())?;
        }
        self.inode()
    }

    /// Removes what is there, with all below.
    fn remove(&self) -> Result<(), OciError> {
        remove(self.folder.as_fd(), self.name, None, 0)
    }

    /// The same, except for what is to be kept.
    pub(super) fn remove_but(&self, keep: &Keep<'_>) -> Result<(), OciError> {
        remove(self.folder.as_fd(), self.name, Some(keep), 0)
    }

    /// Removes what is in this folder, except for what is to be kept.
    pub(super) fn empty(&self, keep: &Keep<'_>) -> Result<(), OciError> {
        match open_folder(self.folder.as_fd(), self.name) {
            Ok(folder) => empty(folder, Some(keep), 0),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(()),
            Err(error) => Err(self.error()(error)),
        }
    }
}

/// How many folders lead to one from the host's root.
fn depth(folder: &OwnedFd) -> io::Result<usize> {
    Ok(fs::read_link(format!("/proc/self/fd/{}", folder.as_raw_fd()))?.components().count())
}

fn open_folder(above: BorrowedFd<'_>, name: &OsStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(above, name, flags, Mode::empty())
}

fn names(folder: &OwnedFd) -> Result<Vec<OsString>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name != "." && name != ".." {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

fn remove(
    above: BorrowedFd<'_>,
    name: &OsStr,
    keep: Option<&Keep<'_>>,
    depth: usize,
) -> Result<(), OciError> {
    let at = |error| OciError::errno(Path::new(name))(error);
    let stat = match statat(above, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(()),
        other => other.map_err(at)?,
    };
    if let Some(keep) = keep {
        keep.budget.take_entry()?;
    }
    let stays = keep.is_some_and(|keep| keep.made.contains(&stat.st_ino));
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return if stays { Ok(()) } else { unlinkat(above, name, AtFlags::empty()).map_err(at) };
    }
    empty(open_folder(above, name).map_err(at)?, keep, depth)?;
    if stays {
        return Ok(());
    }
    match unlinkat(above, name, AtFlags::REMOVEDIR) {
        Err(Errno::NOTEMPTY) if keep.is_some_and(|keep| !keep.made.is_empty()) => Ok(()),
        other => other.map_err(at),
    }
}

fn empty(folder: OwnedFd, keep: Option<&Keep<'_>>, depth: usize) -> Result<(), OciError> {
    let at = OciError::errno(Path::new(""));
    if depth == WALK_MAX {
        return Err(at(Errno::NAMETOOLONG));
    }
    for name in names(&folder).map_err(at)? {
        remove(folder.as_fd(), &name, keep, depth + 1)?;
    }
    Ok(())
}

fn close(folder: OwnedFd, depth: usize) -> Result<(), Errno> {
    if depth == WALK_MAX {
        return Err(Errno::NAMETOOLONG);
    }
    for name in names(&folder)? {
        match open_folder(folder.as_fd(), &name) {
            Ok(below) => close(below, depth + 1)?,
            Err(Errno::NOTDIR | Errno::LOOP) => {}
            Err(error) => return Err(error),
        }
    }
    fchmod(&folder, Mode::from_raw_mode(0o555))
}

/// Removes a folder that may be read-only, with all below. What can't be removed stays.
pub(super) fn discard(folder: &Path) {
    let name = folder.file_name().unwrap_or_default();
    let Some(above) = folder.parent() else { return };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    if let Ok(above) = openat(CWD, above, flags, Mode::empty()) {
        discard_in(above.as_fd(), name);
    }
}

fn discard_in(above: BorrowedFd<'_>, name: &OsStr) {
    if unlinkat(above, name, AtFlags::empty()).is_ok() {
        return;
    }
    let Ok(folder) = open_folder(above, name) else { return };
    // Only who may write to a folder can take something out of it.
    let _ = fchmod(&folder, Mode::RWXU);
    for name in names(&folder).unwrap_or_default() {
        discard_in(folder.as_fd(), &name);
    }
    let _ = unlinkat(above, name, AtFlags::REMOVEDIR);
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{Uid, geteuid};

    #[test]
    fn what_is_thrown_away_is_gone_though_it_could_only_be_read_and_its_owner_is_not_root() {
        let place = tempfile::tempdir().unwrap();
        let whole = place.path().join("whole");
        std::thread::scope(|scope| {
            scope.spawn(|| {
                if geteuid().is_root() {
                    let nobody = Uid::from_raw(65_534);
                    rustix::fs::chown(place.path(), Some(nobody), None).unwrap();
                    rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
                }
                fs::create_dir_all(whole.join("a/b")).unwrap();
                fs::write(whole.join("a/b/file"), "").unwrap();
                Root::open(&whole).unwrap().close().unwrap();
                discard(&whole);
            });
        });
        assert!(!whole.exists());
    }
}
