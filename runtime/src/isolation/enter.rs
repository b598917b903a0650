//! From the fork to the program: what a shard's process does to itself before it is one.
//!
//! Invariant: system calls on what was prepared, nothing else: no allocation, no lock, no panic. So it does not matter
//! what other threads the forking process has. A measure that fails is noted and the next one is taken.

use super::root::{BINDS_MAX, Make};
use super::{Absent, Isolation, Measure, NOBODY, Ruleset, TASKS_MAX, TMP_BYTES, ZYGOTE_TASKS_MAX};
use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount, mount_change,
    mount_move, move_mount, open_tree, unmount,
};
use rustix::process::{Gid, Resource, Rlimit, Uid, getegid, geteuid, getrlimit, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, UnshareFlags, clear_ambient_capability_set, set_capabilities,
    set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};
use seccompiler::BpfProgram;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, RawFd};

/// What the forking process opens for the new one gets numbers from here on, so that none is where another belongs.
pub(crate) const FIRST_FD: RawFd = 16;

/// Who a shard runs as. The numbers are the same inside and outside of its user namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Identity {
    /// That of this process.
    pub(crate) fn own() -> Self {
        Self { uid: geteuid().as_raw(), gid: getegid().as_raw() }
    }
}

/// What became of each measure: 0, or the number of the kernel's error.
pub(crate) type Outcome = [i32; Measure::COUNT];

/// What one process needs to isolate itself.
pub(crate) struct Enter<'a> {
    isolation: &'a Isolation,
    ruleset: Ruleset,
    /// What it may do in the folders that are made for it alone.
    own_access: u64,
    tmp_options: CString,
    forked_by: Identity,
    /// What is known to be absent before it begins.
    pub(crate) absent: Vec<Absent>,
}

impl<'a> Enter<'a> {
    pub(super) fn new(
        isolation: &'a Isolation,
        ruleset: Ruleset,
        own_access: u64,
        absent: Vec<Absent>,
    ) -> io::Result<Self> {
        let ruleset = ruleset.map(|fd| rustix::io::fcntl_dupfd_cloexec(fd, FIRST_FD)).transpose()?;
        let tmp_options = format!("mode=1777,size={TMP_BYTES},nr_inodes=4096");
        let tmp_options = CString::new(tmp_options).unwrap_or_default();
        Ok(Self { isolation, ruleset, own_access, tmp_options, forked_by: Identity::own(), absent })
    }

    pub(crate) fn namespaces(&self) -> u64 {
        self.isolation.namespaces()
    }

    pub(crate) fn identity(&self) -> Identity {
        self.isolation.identity
    }

    /// Puts up the process's own root. `flags` are the namespaces that it has; `becomes` whom it is to become at once,
    /// which only someone with a user namespace can.
    pub(crate) fn settle(&self, flags: u64, becomes: Option<Identity>, outcome: &mut Outcome) {
        let has = |flag: i32| flags & flag as u64 != 0;
        if has(libc::CLONE_NEWNS) {
            let mut trees = Trees([-1; BINDS_MAX]);
            let taken = self.take_hold(&mut trees);
            if let Some(identity) = becomes {
                note(outcome, Measure::Nobody, become_user(identity));
            }
            note(outcome, Measure::Root, taken.and_then(|()| self.build(&trees)));
            if has(libc::CLONE_NEWPID) && outcome[Measure::Root as usize] == 0 {
                note(outcome, Measure::Proc, mount_proc());
            }
            if outcome[Measure::Root as usize] == 0 {
                note(outcome, Measure::Root, self.turn_to());
            }
            // SAFETY: it takes nothing from anyone: no thread shares anything with this process.
            let unshared = unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWCGROUP) };
            note(outcome, Measure::Cgroup, unshared);
        } else {
            for measure in [Measure::Root, Measure::Proc, Measure::Cgroup] {
                note(outcome, measure, Err(Errno::PERM));
            }
        }
    }

    /// The same in the namespaces of another process, which has put the root up.
    pub(crate) fn settle_beside(&self, outcome: &mut Outcome) {
        // Who this process is can't be asked in here, where that user has no number.
        if self.forked_by != self.isolation.identity && outcome[Measure::User as usize] == 0 {
            note(outcome, Measure::Nobody, become_user(self.isolation.identity));
        }
    }

    /// Clones what is to be seen, before this process becomes someone who may not walk everywhere.
    fn take_hold(&self, trees: &mut Trees) -> Result<(), Errno> {
        mount_change(c"/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        for (tree, bind) in trees.0.iter_mut().zip(&self.isolation.root.binds) {
            let how = OpenTreeFlags::OPEN_TREE_CLONE
                | OpenTreeFlags::OPEN_TREE_CLOEXEC
                | OpenTreeFlags::AT_RECURSIVE;
            let opened = open_tree(CWD, bind.from.as_c_str(), how)?;
            let mut set = libc::MOUNT_ATTR_NOSUID;
            // A device takes what is written to it through a mount that can only be read, too.
            if !bind.writable || bind.device {
                set |= libc::MOUNT_ATTR_RDONLY;
            }
            if !bind.device {
                set |= libc::MOUNT_ATTR_NODEV;
            }
            set_attributes(opened.as_fd(), set, libc::AT_RECURSIVE)?;
            *tree = opened.into_raw_fd();
        }
        Ok(())
    }

    /// Builds the new root in the working folder.
    fn build(&self, trees: &Trees) -> Result<(), Errno> {
        let root = &self.isolation.root;
        let (flags, folder) = (MountFlags::NOSUID | MountFlags::NODEV, Mode::from_raw_mode(0o755));
        mount(c"tmpfs", root.base.as_c_str(), c"tmpfs", flags, c"mode=755,size=1m,nr_inodes=8192")?;
        rustix::process::chdir(root.base.as_c_str())?;
        rustix::fs::mkdir(c"tmp", folder)?;
        mount(c"tmpfs", c"tmp", c"tmpfs", flags | MountFlags::NOEXEC, self.tmp_options.as_c_str())?;
        for make in &root.make {
            let made = match make {
                Make::Folder(at) => rustix::fs::mkdir(at.as_c_str(), folder),
                Make::File(at) => {
                    let mode = Mode::from_raw_mode(0o444);
                    rustix::fs::mknodat(CWD, at.as_c_str(), FileType::RegularFile, mode, 0)
                }
                Make::Link { to, at } => rustix::fs::symlink(to.as_c_str(), at.as_c_str()),
            };
            match made {
                // What stands below a link or a mount is there once that is; if not, mounting on it says so.
                Ok(()) | Err(Errno::EXIST | Errno::NOENT) => {}
                Err(error) => return Err(error),
            }
        }
        for (tree, bind) in trees.0.iter().zip(&root.binds) {
            // SAFETY: `take_hold` opened it, and it stays open until exec.
            let tree = unsafe { BorrowedFd::borrow_raw(*tree) };
            move_mount(tree, c"", CWD, bind.at.as_c_str(), MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
        }
        Ok(())
    }

    /// Makes the working folder the root, and the old root go away.
    fn turn_to(&self) -> Result<(), Errno> {
        match rustix::process::pivot_root(c".", c".") {
            Ok(()) => unmount(c".", UnmountFlags::DETACH)?,
            // The first root of all can't be moved, but covered.
            Err(Errno::INVAL) => {
                mount_move(c".", c"/")?;
                rustix::process::chroot(c".")?;
            }
            Err(error) => return Err(error),
        }
        rustix::process::chdir(c"/")?;
        let set = libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
        let root = rustix::fs::open(c"/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        set_attributes(root.as_fd(), set, 0)
    }

    /// The measures that are the process's own. An anchor runs nothing and keeps its capabilities, which it has in its own
    /// namespaces alone: without the same ones nobody in there may look into it, and it is a copy of the forking process.
    pub(crate) fn bind_hands(&self, flags: u64, is_anchor: bool, outcome: &mut Outcome) {
        let has = |flag: i32| flags & flag as u64 != 0;
        let own_users = has(libc::CLONE_NEWUSER);
        note(outcome, Measure::Tasks, self.limit_tasks(own_users));
        if !self.isolation.zygote {
            halve_descriptors();
        }
        let mut dropped = drop_bounds();
        if !own_users && has(libc::CLONE_NEWNS) && self.isolation.identity.uid == NOBODY {
            // A composer that is root and can't have user namespaces.
            note(outcome, Measure::Nobody, become_user(self.isolation.identity));
        }
        if !is_anchor {
            dropped = drop_capabilities().and(dropped);
        }
        note(outcome, Measure::Capabilities, dropped);
        note(outcome, Measure::NoNewPrivileges, set_no_new_privs(true));
        if let Some(ruleset) = &self.ruleset {
            let own_root = outcome[Measure::Root as usize] == 0;
            note(outcome, Measure::Landlock, self.restrict(ruleset.as_fd(), own_root));
        }
    }

    /// The filter of system calls: the last before its program runs.
    pub(crate) fn filter(&self, outcome: &mut Outcome) {
        for filter in &self.isolation.filters {
            if seccompiler::apply_filter(filter).is_err() {
                note(outcome, Measure::Seccomp, Err(last_error()));
            }
        }
    }

    fn limit_tasks(&self, own_users: bool) -> Result<(), Errno> {
        let none = Rlimit { current: Some(0), maximum: Some(0) };
        // The kernel would write a core file for it, with all that the shard held.
        let _ = setrlimit(Resource::Core, none);
        if !own_users {
            // The bound would count all processes of the user.
            return Err(Errno::PERM);
        }
        let most = Some(if self.isolation.zygote { ZYGOTE_TASKS_MAX } else { TASKS_MAX });
        setrlimit(Resource::Nproc, Rlimit { current: most, maximum: most })?;
        // The kernel does not count root's.
        if self.isolation.identity.uid == 0 { Err(Errno::PERM) } else { Ok(()) }
    }

    fn restrict(&self, ruleset: BorrowedFd<'_>, own_root: bool) -> Result<(), Errno> {
        allow_beneath(ruleset, c"/proc", self.own_access)?;
        // Without a root of its own it is the host's.
        if own_root {
            allow_beneath(ruleset, c"/tmp", self.own_access)?;
        }
        // SAFETY: the descriptor is a ruleset's; the call takes nothing else.
        let done = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0) };
        if done < 0 { Err(last_error()) } else { Ok(()) }
    }
}

/// So many descriptors a shard may have at the least.
const DESCRIPTORS_MIN: u64 = 64;

/// The clones of what is to be seen, by the position in [`super::root::Root::binds`].
struct Trees([RawFd; BINDS_MAX]);

/// Notes a measure that failed; the first failure counts.
fn note(outcome: &mut Outcome, measure: Measure, done: Result<(), Errno>) {
    let noted = &mut outcome[measure as usize];
    if let (Err(error), 0) = (done, *noted) {
        *noted = error.raw_os_error();
    }
}

fn last_error() -> Errno {
    // SAFETY: the C library's own number of this thread.
    Errno::from_raw_os_error(unsafe { *libc::__errno_location() })
}

/// Lets a shard have half as many descriptors as its composer.
///
/// Descriptors that were sent and not received yet are counted by user, and all shards are one user, perhaps the
/// composer's. Who sends one when there are more of them than it may have open itself is refused: so shards that hoard
/// them stop at half of what composers and zygotes may still send.
fn halve_descriptors() {
    let Some(most) = getrlimit(Resource::Nofile).current else { return };
    let half = Some((most / 2).max(DESCRIPTORS_MIN).min(most));
    // It can only be lowered, which everyone may.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: half, maximum: half });
}

fn mount_proc() -> Result<(), Errno> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::RDONLY;
    // A shard that was forked by a zygote sees this one, too; not the zygote in it.
    match mount(c"proc", c"proc", c"proc", flags, c"subset=pid,hidepid=ptraceable") {
        // Before Linux 5.8.
        Err(Errno::INVAL) => mount(c"proc", c"proc", c"proc", flags, c"subset=pid"),
        done => done,
    }
}

/// Adds attributes to a mount, and with `AT_RECURSIVE` to all below it.
pub(crate) fn set_attributes(mount: BorrowedFd<'_>, set: u64, recursive: i32) -> Result<(), Errno> {
    let attributes = libc::mount_attr { attr_set: set, attr_clr: 0, propagation: 0, userns_fd: 0 };
    // SAFETY: the path is empty and ends, the structure is as large as said, and both outlive the call.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | recursive,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if done < 0 { Err(last_error()) } else { Ok(()) }
}

fn become_user(identity: Identity) -> Result<(), Errno> {
    let (uid, gid) = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
    set_thread_groups(&[])?;
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)
}

/// Takes all capabilities out of what can ever be had again.
fn drop_bounds() -> Result<(), Errno> {
    for capability in 0..64 {
        // SAFETY: it takes numbers only.
        if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability as libc::c_ulong, 0, 0, 0) } < 0 {
            return match last_error() {
                // The kernel knows no more.
                Errno::INVAL if capability > 0 => Ok(()),
                error => Err(error),
            };
        }
    }
    Ok(())
}

/// Lets all capabilities go.
fn drop_capabilities() -> Result<(), Errno> {
    let none = CapabilitySet::empty();
    clear_ambient_capability_set()?;
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })
}

/// What a zygote prepares for a shard that it is about to fork.
pub(crate) struct Fork(BpfProgram);

impl Fork {
    /// # Errors
    /// When the filter can't be compiled.
    pub(crate) fn ready() -> io::Result<Self> {
        super::filter::compile_for_fork().map(Self).map_err(io::Error::other)
    }

    /// What the shard gets besides the namespaces of the zygote.
    pub(crate) fn namespaces(&self) -> u64 {
        (libc::CLONE_NEWUSER | libc::CLONE_NEWPID) as u64
    }

    /// In the shard: gives back what a new user namespace brings with it, and what only zygotes may.
    pub(crate) fn settle(self) -> Result<(), Errno> {
        let most = Some(TASKS_MAX);
        setrlimit(Resource::Nproc, Rlimit { current: most, maximum: most })?;
        halve_descriptors();
        drop_bounds()?;
        drop_capabilities()?;
        seccompiler::apply_filter(&self.0).map_err(|_| last_error())
    }
}

/// Landlock's description of a folder and what may be done below it (`struct landlock_path_beneath_attr`).
#[repr(C, packed)]
struct PathBeneath {
    allowed_access: u64,
    parent_fd: i32,
}
/// `LANDLOCK_RULE_PATH_BENEATH`
const PATH_BENEATH: libc::c_int = 1;

/// What the crate for Landlock does with [`landlock::PathBeneath`], which allocates.
fn allow_beneath(ruleset: BorrowedFd<'_>, path: &CStr, access: u64) -> Result<(), Errno> {
    let folder = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let rule = PathBeneath { allowed_access: access, parent_fd: folder.as_raw_fd() };
    let (rule, number) = (&raw const rule, libc::SYS_landlock_add_rule);
    // SAFETY: the structure is the kernel's and outlives the call.
    let done = unsafe { libc::syscall(number, ruleset.as_raw_fd(), PATH_BENEATH, rule, 0) };
    if done < 0 { Err(last_error()) } else { Ok(()) }
}
