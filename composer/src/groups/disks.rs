//! The disks below files: what `io.max` bounds is a whole disk, by its number.

use rustix::fs::{major, minor, stat, statfs};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// `tmpfs`, whose files are memory.
const TMPFS: i64 = 0x0102_1994;

/// How fast a process may read and write the disks below what it can reach.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Disks {
    /// In bytes a second; 0 for as fast as it can.
    pub(super) read: u64,
    /// In bytes a second; 0 for as fast as it can.
    pub(super) write: u64,
    /// The disks, as `MAJOR:MINOR`.
    pub(super) disks: BTreeSet<String>,
    /// What is on no disk that the kernel could bound.
    pub(super) without: Vec<PathBuf>,
}

impl Disks {
    /// These bounds on the disks below these paths.
    pub(crate) fn below<'a>(read: u64, write: u64, paths: impl IntoIterator<Item = &'a Path>) -> Self {
        let mut this = Self { read, write, ..Self::default() };
        if read == 0 && write == 0 {
            return this;
        }
        for path in paths {
            // What is not there is not read, and what is memory is on no disk.
            let Ok(about) = statfs(path) else { continue };
            if about.f_type == TMPFS {
                continue;
            }
            match disk_of(path) {
                Some(disk) => drop(this.disks.insert(disk)),
                None => this.without.push(path.to_path_buf()),
            }
        }
        this
    }

    /// The lines of `io.max`.
    pub(super) fn lines(&self) -> impl Iterator<Item = String> {
        let text = |bound: u64| if bound == 0 { "max".to_owned() } else { bound.to_string() };
        let (read, write) = (text(self.read), text(self.write));
        self.disks.iter().map(move |disk| format!("{disk} rbps={read} wbps={write}"))
    }
}

/// The disk on which a file is.
fn disk_of(path: &Path) -> Option<String> {
    let device = stat(path).ok()?.st_dev;
    let (mut major_number, mut minor_number) = (major(device), minor(device));
    if major_number == 0 {
        // A file system with a number of its own, as btrfs has: where it was mounted from.
        let source = stat(source_of(minor_number)?.as_str()).ok()?.st_rdev;
        (major_number, minor_number) = (major(source), minor(source));
    }
    let number = format!("{major_number}:{minor_number}");
    let entry = fs::canonicalize(format!("/sys/dev/block/{number}")).ok()?;
    if !entry.join("partition").exists() {
        return Some(number);
    }
    fs::read_to_string(entry.parent()?.join("dev")).ok().map(|whole| whole.trim().to_owned())
}

/// Where a file system without a device of its own was mounted from, if that is a device.
fn source_of(minor: u32) -> Option<String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let line = mounts.lines().find(|line| line.split(' ').nth(2) == Some(format!("0:{minor}").as_str()))?;
    let source = line.split_once(" - ")?.1.split(' ').nth(1)?;
    source.starts_with("/dev/").then(|| source.to_owned())
}
