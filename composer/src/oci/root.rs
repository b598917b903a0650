//! Writing beneath one folder, and nowhere else.
//!
//! Invariant: every path is resolved by the kernel with the folder as its root (`openat2(2)`, `RESOLVE_IN_ROOT`), so that
//! no link in it, whoever made it, leads out; and the last part of a path is never followed.

use super::error::OciError;
use super::limits::DEPTH_MAX;
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, fchmod, fstat, linkat, mkdirat, openat, openat2,
    statat, symlinkat, unlinkat,
};
use rustix::io::Errno;
use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// Folders that are walked into at once, at most: each takes a descriptor.
const WALK_MAX: usize = 2 * DEPTH_MAX;

/// The inodes of files that are to stay.
pub(super) type Kept = HashSet<u64>;

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
        Ok(Self { fd, path: path.to_owned() })
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
    pub(super) fn empty(&self, kept: &Kept) -> Result<(), OciError> {
        let top = Path::new("");
        empty(self.readable().map_err(self.error(top))?, kept, 0).map_err(self.error(top))
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
    pub(super) fn make_folder(&self) -> Result<u64, OciError> {
        if self.kind() != Some(FileType::Directory) {
            self.remove(&Kept::new())?;
            mkdirat(&self.folder, self.name, Mode::from_raw_mode(0o755)).map_err(self.error())?;
        }
        self.inode()
    }

    /// A new file in the place of whatever was there.
    pub(super) fn make_file(&self, executable: bool) -> Result<(File, u64), OciError> {
        self.remove(&Kept::new())?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file =
            openat(&self.folder, self.name, flags, Mode::from_raw_mode(0o600)).map_err(self.error())?;
        let mode = if executable { 0o555 } else { 0o444 };
        fchmod(&file, Mode::from_raw_mode(mode)).map_err(self.error())?;
        Ok((file.into(), self.inode()?))
    }

    pub(super) fn make_symlink(&self, target: &Path) -> Result<u64, OciError> {
        self.remove(&Kept::new())?;
        symlinkat(target, &self.folder, self.name).map_err(self.error())?;
        self.inode()
    }

    /// Another name of a file.
    pub(super) fn make_hard_link(&self, of: &Place<'_>) -> Result<u64, OciError> {
        let same = self.inode().is_ok_and(|inode| of.inode().is_ok_and(|other| other == inode));
        if !same {
            self.remove(&Kept::new())?;
            linkat(&of.folder, of.name, &self.folder, self.name, AtFlags::empty()).map_err(self.error())?;
        }
        self.inode()
    }

    /// Removes what is there, with all below, except for what is to be kept.
    pub(super) fn remove(&self, kept: &Kept) -> Result<(), OciError> {
        remove(self.folder.as_fd(), self.name, kept, 0).map_err(self.error())
    }

    /// Removes what is in this folder, except for what is to be kept.
    pub(super) fn empty(&self, kept: &Kept) -> Result<(), OciError> {
        match open_folder(self.folder.as_fd(), self.name) {
            Ok(folder) => empty(folder, kept, 0).map_err(self.error()),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(()),
            Err(error) => Err(self.error()(error)),
        }
    }
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

fn remove(above: BorrowedFd<'_>, name: &OsStr, kept: &Kept, depth: usize) -> Result<(), Errno> {
    let stat = match statat(above, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(()),
        other => other?,
    };
    let keep = kept.contains(&stat.st_ino);
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return if keep { Ok(()) } else { unlinkat(above, name, AtFlags::empty()) };
    }
    empty(open_folder(above, name)?, kept, depth)?;
    if keep {
        return Ok(());
    }
    match unlinkat(above, name, AtFlags::REMOVEDIR) {
        Err(Errno::NOTEMPTY) if !kept.is_empty() => Ok(()),
        other => other,
    }
}

fn empty(folder: OwnedFd, kept: &Kept, depth: usize) -> Result<(), Errno> {
    if depth == WALK_MAX {
        return Err(Errno::NAMETOOLONG);
    }
    for name in names(&folder)? {
        remove(folder.as_fd(), &name, kept, depth + 1)?;
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
        let _ = remove(above.as_fd(), name, &Kept::new(), 0);
    }
}
