//! Folders that are one user's, or one process's.

use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;

/// Makes a folder, with those above it, that only this user can change. False if there is one that others can change, or
/// something else: what others own they could fill.
///
/// # Errors
/// It can't be made, or not be looked at.
pub fn own_folder(folder: &Path) -> io::Result<bool> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let found = fs::symlink_metadata(folder)?;
    let mine = found.uid() == rustix::process::geteuid().as_raw();
    Ok(found.is_dir() && mine && found.mode() & 0o022 == 0)
}

/// Locks a folder for as long as what is returned lives.
///
/// # Errors
/// Another has it (`EWOULDBLOCK`), or it can't be opened.
pub(crate) fn lock_folder(folder: &Path) -> io::Result<OwnedFd> {
    let opened = open(folder, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    flock(&opened, FlockOperation::NonBlockingLockExclusive)?;
    Ok(opened)
}
