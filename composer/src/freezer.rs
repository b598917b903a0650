//! Freezing: a shard keeps its memory and gets no processor.
//!
//! Where this process may make groups below its own control group (cgroup v2), each shard that is frozen gets one, with
//! `cgroup.freeze`. Elsewhere the shard is stopped by a signal: it does the same, but whoever may send it a signal can
//! let it go on.
//!
//! Invariant: a frozen shard can be killed, and dies with its composer, either way. What is thawed in the way in which
//! it was frozen runs again.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Signal, pidfd_send_signal};
use shard_runtime::id::ShardId;
use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// Groups are named after the process that made them.
const PREFIX: &str = "shards-";

/// See the head of this file.
pub(crate) struct Freezer {
    groups: Groups,
    /// The shards that were frozen once, and how.
    ways: HashMap<ShardId, Way>,
}

enum Groups {
    /// Nothing was frozen yet.
    Unknown,
    /// In this folder, one for each shard.
    At(PathBuf),
    /// There can be none.
    Absent,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Group,
    Signal,
}

impl Freezer {
    pub(crate) fn new() -> Self {
        Self { groups: Groups::Unknown, ways: HashMap::new() }
    }

    /// Takes the processor away from a shard. `pidfd` is that of `pid`.
    pub(crate) fn freeze(&mut self, shard: ShardId, pid: u32, pidfd: BorrowedFd<'_>) {
        if let Some(folder) = self.folder() {
            match freeze_group(&folder.join(shard.0.to_string()), pid, pidfd) {
                Ok(()) => {
                    self.ways.insert(shard, Way::Group);
                    return;
                }
                Err(error) => self.give_groups_up(&error),
            }
        }
        self.ways.insert(shard, Way::Signal);
        // It may have ended by itself.
        let _ = pidfd_send_signal(pidfd, Signal::STOP);
    }

    /// Lets a shard go on. Nothing happens to one that was not frozen.
    pub(crate) fn thaw(&mut self, shard: ShardId, pidfd: BorrowedFd<'_>) {
        match (self.ways.get(&shard), &self.groups) {
            (Some(Way::Group), Groups::At(folder)) => {
                let group = folder.join(shard.0.to_string());
                if let Err(error) = fs::write(group.join("cgroup.freeze"), "0") {
                    tracing::error!(%shard, %error, "the shard can't be thawed");
                }
            }
            (Some(Way::Signal), _) => {
                let _ = pidfd_send_signal(pidfd, Signal::CONT);
            }
            _ => {}
        }
    }

    /// A shard is gone.
    pub(crate) fn forget(&mut self, shard: ShardId) {
        if let (Some(Way::Group), Groups::At(folder)) = (self.ways.remove(&shard), &self.groups) {
            // One that can't be removed yet is removed with the folder.
            let _ = fs::remove_dir(folder.join(shard.0.to_string()));
        }
    }

    fn folder(&mut self) -> Option<PathBuf> {
        if let Groups::Unknown = self.groups {
            match make_folder() {
                Ok(folder) => self.groups = Groups::At(folder),
                Err(error) => self.give_groups_up(&error),
            }
        }
        match &self.groups {
            Groups::At(folder) => Some(folder.clone()),
            Groups::Unknown | Groups::Absent => None,
        }
    }

    fn give_groups_up(&mut self, error: &io::Error) {
        tracing::warn!(
            %error,
            "shards are frozen by SIGSTOP, because this process can't use control groups of its own; run it in a delegated cgroup v2 subtree (systemd: `Delegate=yes`)"
        );
        // What was frozen by its group before is thawed that way.
        if !self.ways.values().any(|way| *way == Way::Group) {
            self.groups = Groups::Absent;
        }
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        if let Groups::At(folder) = &self.groups {
            remove(folder);
        }
    }
}

/// Puts a process into a group of its own, which is made if it is not there, and freezes the group.
fn freeze_group(group: &Path, pid: u32, pidfd: BorrowedFd<'_>) -> io::Result<()> {
    if let Err(error) = fs::create_dir(group)
        && error.kind() != io::ErrorKind::AlreadyExists
    {
        return Err(error);
    }
    fs::write(group.join("cgroup.procs"), pid.to_string())?;
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    if poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&now)) != Ok(0) {
        // It has ended, so the number may have been another's when it was written.
        return Ok(());
    }
    fs::write(group.join("cgroup.freeze"), "1")
}

/// A folder below this process's own group. Those of composers that are gone are removed.
fn make_folder() -> io::Result<PathBuf> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let own = own_group()?;
    for entry in fs::read_dir(&own)?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let maker = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        if maker.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            remove(&entry.path());
        }
    }
    // Relaxed: only the number matters.
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let folder = own.join(format!("{PREFIX}{}-{number}", std::process::id()));
    fs::create_dir(&folder)?;
    if folder.join("cgroup.freeze").exists() {
        return Ok(folder);
    }
    let _ = fs::remove_dir(&folder);
    Err(io::Error::new(io::ErrorKind::Unsupported, "the kernel's control groups can't be frozen"))
}

/// Removes a folder of groups; what is still in use stays.
fn remove(folder: &Path) {
    for group in fs::read_dir(folder).into_iter().flatten().flatten() {
        let _ = fs::remove_dir(group.path());
    }
    let _ = fs::remove_dir(folder);
}

/// Where this process's own group (cgroup v2) is mounted.
fn own_group() -> io::Result<PathBuf> {
    let groups = fs::read_to_string("/proc/self/cgroup")?;
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let found = groups.lines().find_map(|line| line.strip_prefix("0::")).and_then(|group| {
        mounts.lines().find_map(|line| {
            let (place, kind) = line.split_once(" - ")?;
            let mut fields = place.split(' ').skip(3);
            let (root, point) = (fields.next()?, fields.next()?);
            let inside = group.strip_prefix(root.trim_end_matches('/'))?;
            kind.starts_with("cgroup2 ").then(|| Path::new(point).join(inside.trim_start_matches('/')))
        })
    });
    found.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no cgroup v2 file system is mounted"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{Pid, PidfdFlags, pidfd_open};
    use std::os::fd::AsFd;
    use std::process::{Child, Command};
    use std::thread::sleep;
    use std::time::Duration;

    /// The processor time that a process has had, in clock ticks.
    fn used(pid: u32) -> u64 {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }

    fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
        for _ in 0..2_000 {
            if done() {
                return;
            }
            sleep(Duration::from_millis(2));
        }
        panic!("still not: {what}");
    }

    fn busy() -> Child {
        Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap()
    }

    fn check(mut freezer: Freezer) {
        let (shard, mut child) = (ShardId(3), busy());
        let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).unwrap();
        wait_until("it works", || used(child.id()) > 2);
        for _ in 0..2 {
            freezer.freeze(shard, child.id(), pidfd.as_fd());
            sleep(Duration::from_millis(20));
            let before = used(child.id());
            sleep(Duration::from_millis(100));
            assert_eq!(used(child.id()), before, "it works while it is frozen");
            freezer.thaw(shard, pidfd.as_fd());
            wait_until("it works again", || used(child.id()) > before);
        }
        freezer.freeze(shard, child.id(), pidfd.as_fd());
        pidfd_send_signal(&pidfd, Signal::KILL).unwrap();
        child.wait().unwrap();
        freezer.forget(shard);
        let folder = if let Groups::At(folder) = &freezer.groups { Some(folder.clone()) } else { None };
        drop(freezer);
        assert!(folder.is_none_or(|folder| !folder.exists()), "a group is left");
    }

    #[test]
    fn groups_of_a_composer_that_is_gone_are_removed_by_the_next_one() {
        let Ok(own) = own_group() else { return };
        let mut gone = Command::new("true").spawn().unwrap();
        gone.wait().unwrap();
        let left = own.join(format!("{PREFIX}{}-0", gone.id()));
        if fs::create_dir(&left).and_then(|()| fs::create_dir(left.join("7"))).is_err() {
            println!("this process can't make groups");
            return;
        }
        drop(Freezer { groups: Groups::At(make_folder().unwrap()), ways: HashMap::new() });
        assert!(!left.exists());
    }

    #[test]
    fn what_is_frozen_by_a_signal_stands_still_goes_on_and_can_be_killed() {
        check(Freezer { groups: Groups::Absent, ways: HashMap::new() });
    }

    #[test]
    fn what_is_frozen_as_the_host_allows_stands_still_goes_on_and_can_be_killed() {
        let mut freezer = Freezer::new();
        println!("by its group: {}", freezer.folder().is_some());
        check(freezer);
    }
}
