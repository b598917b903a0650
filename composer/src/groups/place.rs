//! Where this process may make control groups, and which controllers reach them.
//!
//! The composer's groups are in a folder below its own group, one folder a composer. It is locked as long as its
//! composer lives, whatever ends that: whoever gets the lock knows that the folder is nobody's.
//!
//! The kernel gives controllers only from groups that hold no processes. So the composer moves itself into a group
//! beside the folder, unless other processes would be left behind: then there are groups, and no limits.

use super::refusal::Refusals;
use crate::folders::lock_folder;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// The folders of composers are named so, with the number of their process and one of their own.
const PREFIX: &str = "shards-";
/// The groups that composers move themselves into, with the number of their process.
const OWN_PREFIX: &str = "composer-";
/// Killed processes are gone by then.
const GONE_WITHIN: Duration = Duration::from_secs(2);
/// So many other composers may make a folder at the same moment.
const TRIES: usize = 8;

/// The controllers that shards are limited by.
pub(super) const CONTROLLERS: [&str; 6] = ["cpuset", "cpu", "memory", "pids", "io", "rdma"];

/// A folder of groups. Dropping it kills what is in it and removes it.
pub(super) struct Folder {
    pub(super) path: PathBuf,
    _lock: OwnedFd,
}

impl Folder {
    /// Makes a folder and locks it.
    pub(super) fn make(path: PathBuf) -> io::Result<Self> {
        // Who can open a folder can lock it, and what is locked is taken for a living composer's.
        DirBuilder::new().mode(0o700).create(&path)?;
        let lock = lock_folder(&path).inspect_err(|_| {
            let _ = fs::remove_dir(&path);
        })?;
        if path.exists() {
            return Ok(Self { path, _lock: lock });
        }
        // Someone took it for left behind between the two lines above.
        Err(io::ErrorKind::NotFound.into())
    }

    /// Gives controllers on to the groups in it. Returns those that it has.
    pub(super) fn give_on(&self, controllers: &[&'static str], refusals: &mut Refusals) -> Vec<&'static str> {
        give_on(&self.path, controllers, refusals)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        free(&self.path);
    }
}

/// The composer's place in the tree.
pub(super) struct Place {
    /// The group that was this process's own before anything was made.
    pub(super) base: PathBuf,
    pub(super) folder: Folder,
    /// Those that limit the groups in the folder.
    pub(super) controllers: Vec<&'static str>,
    /// Those that the base did not give on before.
    added: Vec<&'static str>,
    /// The group into which this process has moved itself.
    aside: Option<PathBuf>,
}

impl Place {
    /// Frees what composers left that are gone, and makes a folder.
    pub(super) fn take(refusals: &mut Refusals) -> io::Result<Self> {
        free_left(&base_of(&own_group()?));
        Self::make(refusals)
    }

    /// Makes a folder.
    pub(super) fn make(refusals: &mut Refusals) -> io::Result<Self> {
        let own = own_group()?;
        let leaf = format!("{OWN_PREFIX}{}", std::process::id());
        let base = base_of(&own);
        let folder = new_folder(&base)?;
        if !folder.path.join("cgroup.freeze").exists() {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "the kernel's control groups can't be frozen",
            ));
        }
        let there = words(&base.join("cgroup.controllers"));
        let is_there = |name: &&str| there.iter().any(|controller| controller == *name);
        let (mut wanted, missing): (Vec<_>, Vec<_>) = CONTROLLERS.into_iter().partition(is_there);
        if wanted.is_empty() {
            refusals.no_controllers(&base);
        } else {
            missing.into_iter().for_each(|name| refusals.no_controller(name, &base));
        }
        let given = words(&base.join("cgroup.subtree_control"));
        let all_given = wanted.iter().all(|name| given.iter().any(|given| given == name));
        // The root of the tree may hold processes and give controllers; it is the only one without a type.
        let is_root = !base.join("cgroup.type").exists();
        let mut aside = None;
        if !all_given && !is_root && own == base {
            match move_aside(&base, &leaf) {
                Ok(group) => aside = Some(group),
                Err(error) => {
                    refusals.no_limits(&base.join("cgroup.procs"), &error);
                    wanted.clear();
                }
            }
        }
        let before = given;
        let given = give_on(&base, &wanted, refusals);
        let controllers = folder.give_on(&given, refusals);
        let is_new = |name: &&str| !before.iter().any(|before| before == name);
        let added = given.into_iter().filter(is_new).collect();
        Ok(Self { base, folder, controllers, added, aside })
    }

    /// Leaves everything as it was before.
    pub(super) fn undo(self) {
        let Self { base, folder, added, aside, .. } = self;
        drop(folder);
        for name in added {
            // A composer that was started meanwhile may need it.
            let _ = fs::write(base.join("cgroup.subtree_control"), format!("-{name}"));
        }
        if let Some(aside) = aside {
            // It fails where that composer needs it as it is; then the group goes with the next one.
            let _ = fs::write(base.join("cgroup.procs"), std::process::id().to_string());
            let _ = fs::remove_dir(aside);
        }
    }
}

/// The group in which composers make their folders, if this process is in that one.
fn base_of(own: &Path) -> PathBuf {
    match own.parent() {
        Some(parent) if is_aside(own) => parent.to_path_buf(),
        _ => own.to_path_buf(),
    }
}

/// Whether a composer has moved itself into this group. What it starts may hold a composer too.
fn is_aside(group: &Path) -> bool {
    let name = group.file_name().unwrap_or_default().to_string_lossy();
    let number = name.strip_prefix(OWN_PREFIX).unwrap_or_default();
    !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
}

fn new_folder(base: &Path) -> io::Result<Folder> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let mut made = Err(io::ErrorKind::AlreadyExists.into());
    for _ in 0..TRIES {
        // Relaxed: only the number matters.
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        made = Folder::make(base.join(format!("{PREFIX}{}-{number}", std::process::id())));
        match &made {
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
                ) =>
            {
                break;
            }
            Err(_) => {}
            Ok(_) => break,
        }
    }
    made
}

/// Moves this process out of its group into one below it, so that the group holds none. Returns that one.
fn move_aside(base: &Path, leaf: &str) -> io::Result<PathBuf> {
    let aside = base.join(leaf);
    fs::create_dir(&aside)?;
    let me = std::process::id().to_string();
    let moved = fs::write(aside.join("cgroup.procs"), &me).and_then(|()| {
        let others = words(&base.join("cgroup.procs"));
        if others.is_empty() {
            return Ok(());
        }
        let _ = fs::write(base.join("cgroup.procs"), &me);
        let some: Vec<&str> = others.iter().take(4).map(String::as_str).collect();
        let why = format!("it holds {} other processes ({} …)", others.len(), some.join(", "));
        Err(io::Error::new(io::ErrorKind::ResourceBusy, why))
    });
    if moved.is_err() {
        let _ = fs::remove_dir(&aside);
    }
    moved.map(|()| aside)
}

/// Gives controllers on to the groups in a group. Returns those that were.
fn give_on(group: &Path, controllers: &[&'static str], refusals: &mut Refusals) -> Vec<&'static str> {
    let file = group.join("cgroup.subtree_control");
    let given = |name: &str| words(&file).iter().any(|given| given == name);
    let mut all = Vec::new();
    for name in controllers {
        if given(name) {
            all.push(*name);
            continue;
        }
        match fs::write(&file, format!("+{name}")) {
            Ok(()) => all.push(*name),
            Err(error) => refusals.refused(limits_of(name), &file, &error),
        }
    }
    all
}

/// What is missing without a controller.
pub(super) fn limits_of(controller: &str) -> &'static str {
    match controller {
        "cpuset" => "cores that are a shard's alone (cpuset.cpus.partition)",
        "cpu" => "a fair share of the processors (cpu.weight)",
        "memory" => "memory (memory.max)",
        "pids" => "the number of processes (pids.max)",
        "io" => "how fast disks are read and written (io.max)",
        _ => "handles of RDMA devices (rdma.max)",
    }
}

/// The words of a file; none if it can't be read.
pub(super) fn words(file: &Path) -> Vec<String> {
    fs::read_to_string(file).unwrap_or_default().split_whitespace().map(str::to_owned).collect()
}

/// The number behind a name in a file of such lines; 0 if it is not there.
pub(super) fn number(file: &Path, name: &str) -> u64 {
    let text = fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
}

/// Ends and removes what composers left that are gone.
fn free_left(base: &Path) {
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        let (name, path) = (entry.file_name().to_string_lossy().into_owned(), entry.path());
        if is_aside(&path) {
            // It goes only if nobody is in it.
            let _ = fs::remove_dir(&path);
        }
        if !name.starts_with(PREFIX) {
            continue;
        }
        let Ok(_lock) = lock_folder(&path) else { continue };
        let processes = free(&path);
        tracing::warn!(
            group = %path.display(),
            processes,
            "a composer that is gone has left control groups; its processes are killed, its groups and cores are free"
        );
    }
}

/// Kills what is in a folder of groups and removes them. Returns how many processes there were.
fn free(folder: &Path) -> usize {
    let groups: Vec<PathBuf> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect();
    let processes = groups.iter().map(|group| kill(group)).sum();
    // The cores of a partition come back when it is none any more; after its removal that takes the kernel a while.
    let partition = folder.join("cpuset.cpus.partition");
    if words(&partition).first().is_some_and(|state| state != "member") {
        let _ = fs::write(partition, "member");
    }
    let deadline = Instant::now() + GONE_WITHIN;
    loop {
        for group in &groups {
            let _ = fs::remove_dir(group);
        }
        let removed = fs::remove_dir(folder);
        if !matches!(removed, Err(error) if error.kind() == io::ErrorKind::ResourceBusy)
            || Instant::now() >= deadline
        {
            return processes;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Kills every process in a group. Returns how many there were.
pub(super) fn kill(group: &Path) -> usize {
    let processes = words(&group.join("cgroup.procs"));
    if !processes.is_empty() && fs::write(group.join("cgroup.kill"), "1").is_err() {
        // A kernel before 5.14: one after the other, which a shard that forks may outrun once or twice.
        let pids = processes.iter().filter_map(|pid| rustix::process::Pid::from_raw(pid.parse().ok()?));
        for pid in pids {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
    processes.len()
}

/// Where this process's own group (cgroup v2) is mounted.
pub(super) fn own_group() -> io::Result<PathBuf> {
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
    let path = found
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no cgroup v2 file system is mounted"))?;
    // Without the slash that the root has at its end.
    Ok(path.components().collect())
}
