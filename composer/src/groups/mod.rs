//! Control groups (cgroup v2): what a process of the composer may use of the host, at the most.
//!
//! Each process gets a group before it is there and is in it from its first instruction on, so nothing that it starts is
//! ever outside: the OCI runtime, for instance, and the container that it runs. A process that a zygote forks is born in the
//! zygote's group and moved into its own ([`mover`]). When a process has ended, whatever it left in its group is killed, and
//! the group goes.
//!
//! Invariant: what the kernel refuses is told once ([`refusal`]) and left out; nothing that is told to be limited is
//! not. A group outlives neither its process nor, longer than until the next composer starts, its composer.

mod disks;
mod limits;
mod mover;
mod partition;
mod place;
mod refusal;
mod trial;

pub(crate) use disks::Disks;
pub(crate) use limits::Limits;
pub(crate) use trial::tried;

use crate::processes::ProcessId;
use mover::Mover;
use partition::Partition;
use place::{Place, kill, number, words};
use refusal::Refusals;
use rustix::fs::{Mode, OFlags, inotify, open};
use std::collections::HashMap;
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// See the head of this file.
pub(crate) struct Groups {
    partition: Partition,
    place: Option<Place>,
    table: HashMap<ProcessId, Group>,
    /// Groups whose processes are still dying.
    leaving: Vec<PathBuf>,
    mover: Mover,
    refusals: Refusals,
    devices: Vec<String>,
    /// Tells when a limit stops something, with the group that each number of a watch stands for.
    watch: Option<OwnedFd>,
    watched: HashMap<i32, ProcessId>,
}

struct Group {
    path: PathBuf,
    /// Where it was before.
    older: Option<PathBuf>,
    limits: Limits,
    /// Someone was told already that it has reached its number of processes.
    told: bool,
}

/// What limits did to a process and its children, and what is left of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stopped {
    /// Processes that the kernel killed because they used more memory than they may.
    pub(crate) killed: u64,
    /// How much they may use, in bytes.
    pub(crate) memory_bytes: u64,
    /// Forks that were refused.
    pub(crate) forks_refused: u64,
    /// How many processes there may be.
    pub(crate) processes: u32,
    /// Processes that are still there.
    pub(crate) left: usize,
}

impl Groups {
    /// Frees what composers left that are gone, and looks for a place of its own. To be called before the launch helper is
    /// started, which begins in this process's group, and before the host's processors are counted, some of which may
    /// come free.
    pub(crate) fn prepare() -> Self {
        let mut refusals = Refusals::default();
        let place = Place::take(&mut refusals).inspect_err(|error| refusals.no_groups(error)).ok();
        let mut groups = Self::at(place, refusals);
        groups.weigh();
        groups
    }

    fn at(place: Option<Place>, refusals: Refusals) -> Self {
        let watch = place
            .as_ref()
            .and_then(|_| inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC).ok());
        Self {
            place,
            partition: Partition::default(),
            table: HashMap::new(),
            leaving: Vec::new(),
            mover: Mover::default(),
            refusals,
            devices: limits::devices(),
            watch,
            watched: HashMap::new(),
        }
    }

    /// All shards together weigh as much as one busy process on each processor would.
    fn weigh(&mut self) {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let weight = (cores as u32).saturating_mul(limits::WEIGHT).min(limits::WEIGHT_MAX);
        if let Some(place) = self.place.as_ref().filter(|place| place.controllers.contains(&"cpu")) {
            let file = place.folder.path.join("cpu.weight");
            if let Err(error) = fs::write(&file, weight.to_string()) {
                self.refusals.refused(place::limits_of("cpu"), &file, &error);
            }
        }
    }

    /// What is readable when a limit has stopped something.
    pub(crate) fn watch(&self) -> Option<BorrowedFd<'_>> {
        self.watch.as_ref().map(AsFd::as_fd)
    }

    /// Makes a group for a process that is about to be there. Returns its folder, for the launch helper; `None` where
    /// there can be none.
    pub(crate) fn make(&mut self, process: ProcessId, limits: Limits) -> Option<OwnedFd> {
        let made = self.make_folder(process, &limits)?;
        match made.and_then(|path| Ok((open_folder(&path)?, path))) {
            Ok((folder, path)) => {
                self.limit(&path, &limits);
                self.enter(process, path, limits);
                Some(folder)
            }
            Err(error) => {
                let path = self.place.as_ref().map(|place| place.folder.path.clone()).unwrap_or_default();
                self.refusals.refused("a control group of its own", &path, &error);
                None
            }
        }
    }

    fn make_folder(&mut self, process: ProcessId, limits: &Limits) -> Option<io::Result<PathBuf>> {
        let place = self.place.as_ref()?;
        if !limits.cores.is_empty() {
            let own = self.partition.take(place, process, &limits.cores, &mut self.refusals);
            if let Some(path) = own {
                return Some(Ok(path));
            }
        }
        let path = place.folder.path.join(process.0.to_string());
        match fs::create_dir(&path) {
            // It has this one already, and stays in it.
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Some(Err(error)),
            _ => Some(Ok(path)),
        }
    }

    fn enter(&mut self, process: ProcessId, path: PathBuf, limits: Limits) {
        let events = path.join("pids.events");
        if let Some(watch) = &self.watch
            && let Ok(number) = inotify::add_watch(watch, &events, inotify::WatchFlags::MODIFY)
        {
            self.watched.insert(number, process);
        }
        let older = self.table.remove(&process).map(|group| group.path).filter(|older| *older != path);
        self.table.insert(process, Group { path, older, limits, told: false });
    }

    /// A process that is there already, and has a group or not, gets these limits.
    pub(crate) fn change(&mut self, process: ProcessId, pid: u32, pidfd: BorrowedFd<'_>, limits: Limits) {
        let old = self.table.get(&process).map(|group| group.path.clone());
        if let Some(path) = old.filter(|_| limits.cores.is_empty()) {
            self.limit(&path, &limits);
            self.table.entry(process).and_modify(|group| group.limits = limits);
            return;
        }
        let Some(made) = self.make_folder(process, &limits) else { return };
        let moved = made.and_then(|path| {
            self.limit(&path, &limits);
            self.mover.send(path.clone(), pid, pidfd.try_clone_to_owned()?)?;
            Ok(path)
        });
        match moved {
            Ok(path) => self.enter(process, path, limits),
            Err(error) => {
                let path = self.place.as_ref().map(|place| place.folder.path.clone()).unwrap_or_default();
                self.refusals.refused("a control group of its own", &path, &error);
            }
        }
    }

    /// The process could not be put into its group: it has none.
    pub(crate) fn outside(&mut self, process: ProcessId, error: &io::Error) {
        if let Some(group) = self.table.get(&process) {
            self.refusals.refused(
                "a control group of its own from the first instruction",
                &group.path,
                error,
            );
        }
        self.remove(process);
    }

    fn limit(&mut self, group: &Path, limits: &Limits) {
        let Some(place) = &self.place else { return };
        for path in &limits.disks.without {
            self.refusals.no_disk(path);
        }
        for (controller, file, text) in limits.files(&self.devices) {
            if !place.controllers.contains(&controller) {
                // It was told when the place was taken.
                continue;
            }
            let file = group.join(file);
            match fs::write(&file, text) {
                // A kernel without swap has nothing to limit, and one that weighs no disk nothing to weigh.
                Err(error)
                    if error.kind() == io::ErrorKind::NotFound
                        && (file.ends_with("memory.swap.max") || file.ends_with("io.weight")) => {}
                Err(error) => self.refusals.refused(place::limits_of(controller), &file, &error),
                Ok(()) => {}
            }
        }
    }

    /// Takes the processor away from a process and its children, or gives it back. False if it has no group.
    pub(crate) fn freeze(&self, process: ProcessId, frozen: bool) -> bool {
        let Some(group) = self.table.get(&process) else { return false };
        let write = |path: &Path| fs::write(path.join("cgroup.freeze"), if frozen { "1" } else { "0" });
        let written = write(&group.path).and_then(|()| group.older.as_deref().map_or(Ok(()), write));
        if let Err(error) = &written {
            tracing::error!(group = %group.path.display(), %error, frozen, "the group can't be frozen or thawed");
        }
        written.is_ok()
    }

    /// The controllers of the kernel that hold a process to its limits.
    pub(crate) fn holding(&self, process: ProcessId) -> &[&'static str] {
        match &self.place {
            Some(place) if self.table.contains_key(&process) => &place.controllers,
            _ => &[],
        }
    }

    /// What limits did so far to a process that has a group.
    pub(crate) fn stopped(&self, process: ProcessId) -> Option<Stopped> {
        let group = self.table.get(&process)?;
        let left = words(&group.path.join("cgroup.procs")).len();
        let older = group.older.as_ref().map_or(0, |older| words(&older.join("cgroup.procs")).len());
        Some(Stopped {
            killed: number(&group.path.join("memory.events"), "oom_kill"),
            memory_bytes: group.limits.memory_bytes,
            forks_refused: number(&group.path.join("pids.events"), "max"),
            processes: group.limits.processes,
            left: left + older,
        })
    }

    /// The processes that have reached their number of processes since the last look; each once in its life.
    pub(crate) fn take_full(&mut self) -> Vec<ProcessId> {
        let Some(watch) = &self.watch else { return Vec::new() };
        let mut full = Vec::new();
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(watch, &mut buffer);
        while let Ok(event) = reader.next() {
            let process = self.watched.get(&event.wd()).copied();
            if event.events().contains(inotify::ReadFlags::IGNORED) {
                self.watched.remove(&event.wd());
            } else if let Some(group) = process.and_then(|process| self.table.get_mut(&process))
                && !std::mem::replace(&mut group.told, true)
            {
                full.extend(process);
            }
        }
        full
    }

    /// A process is gone: kills what it left, and removes its group.
    pub(crate) fn remove(&mut self, process: ProcessId) {
        let Some(group) = self.table.remove(&process) else { return };
        for path in [Some(group.path), group.older].into_iter().flatten() {
            kill(&path);
            if fs::remove_dir(&path).is_err() {
                self.leaving.push(path);
            }
        }
        self.partition.give_back(process);
    }

    /// Removes the groups whose processes have died meanwhile.
    pub(crate) fn sweep(&mut self) {
        self.leaving.retain(|path| {
            kill(path);
            fs::remove_dir(path).is_err() && path.exists()
        });
    }
}

fn open_folder(path: &Path) -> io::Result<OwnedFd> {
    Ok(open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

#[cfg(test)]
mod tests;
