//! Starting the process of an OCI runtime, which runs a shard in a container.
//!
//! The runtime is the first process of a pid namespace of its own, and the container is in that. So whoever kills the
//! runtime kills all of the container with it, and so does the kernel when the launch helper ends: no word to the
//! runtime is needed, and none can be lost. Its state is in a file system that ends with it, so nothing is left to
//! clean up.
//!
//! ```text
//! launch helper ── OCI runtime (pid 1) ── shard (pid 1 of the container's own)
//!                       └ dies with the helper, and everyone below with it
//! ```
//!
//! Runtimes copy their own program at each start, and run the copy, so that no container can change the program through
//! `/proc`. One that runs from memory that nobody can change does without: [`OciRuntime`] copies it once.
//!
//! Invariant: all of these processes are in the container's control group from their first instruction on. A process in
//! the container has the control socket and standard streams, and no other descriptor of the helper's.

use crate::control::CONTROL_FD;
use crate::isolation::set_attributes;
use crate::process::{
    Image, Spawned, clone, close_at_exec, die_with, high, high_output, pipe, put, reap, reset_signals,
};
use rustix::fs::{
    CWD, FileType, MemfdFlags, Mode, OFlags, ResolveFlags, SealFlags, makedev, mkdir, mknodat, open, openat2,
};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change};
use rustix::process::{
    PidfdFlags, Signal, chdir, fchdir, getegid, geteuid, getpid, pidfd_open, pidfd_send_signal,
};
use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// So many descriptors, from 3 on, the runtime is to leave open to the container.
pub const PRESERVED_FDS: u32 = 1;
/// So many processes stand beside those of the container as long as it lives: the runtime.
pub const PROCESSES_BESIDE: u32 = 1;

/// Where the runtime finds its own file system in memory, in a mount namespace of its own. A user of the container's
/// can go through all folders on the way, which is not so where images are kept; and no program is here.
const PLACE: &CStr = c"/dev/shm";
/// Where the runtime finds its bundle.
pub const BUNDLE: &str = "/dev/shm/bundle";
/// Where it finds the container's files.
pub const ROOTFS: &str = "/dev/shm/rootfs";
/// Where it keeps its state.
pub const STATE: &str = "/dev/shm/state";

/// An OCI runtime's program, as it was when this was made.
pub struct OciRuntime {
    path: PathBuf,
    /// A copy that nobody can change. `None` where the kernel runs no such copies: then runtimes make their own.
    copy: Option<OwnedFd>,
}

impl OciRuntime {
    /// Copies the program.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), copy: sealed_copy(path).ok() }
    }

    /// Its file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// A file's content in memory that can be run, and not be written any more.
fn sealed_copy(path: &Path) -> io::Result<OwnedFd> {
    let (name, flags) =
        (path.file_name().unwrap_or_default(), MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING);
    let memory = match rustix::fs::memfd_create(name, flags | MemfdFlags::EXEC) {
        // A kernel before 6.3, which knows no others.
        Err(Errno::INVAL) => rustix::fs::memfd_create(name, flags)?,
        made => made?,
    };
    let mut memory = File::from(memory);
    io::copy(&mut File::open(path)?, &mut memory)?;
    // These and no others are what crun and runc look for.
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&memory, seals)?;
    Ok(memory.into())
}

/// What to start.
pub struct Contain<'a> {
    /// The OCI runtime.
    pub runtime: &'a OciRuntime,
    /// Its arguments. They have it leave descriptor [`CONTROL_FD`] to the container.
    pub args: &'a [String],
    /// The shard's end of its control socket.
    pub control: BorrowedFd<'a>,
    /// Pipes for what it prints (output, errors); `None` throws it away. Runtimes give their streams to the container's user,
    /// and a file or a device of the host would be its then.
    pub output: Option<[BorrowedFd<'a>; 2]>,
    /// The folder with the container's `config.json`; the runtime finds it as [`BUNDLE`].
    pub bundle: &'a Path,
    /// The container's files; the runtime finds them as [`ROOTFS`].
    pub rootfs: &'a Path,
    /// The folder of the control group (v2) in which all of it begins; `None` for that of this process.
    pub cgroup: Option<BorrowedFd<'a>>,
}

/// Starts an OCI runtime. What is started ends as the runtime does, with its exit code or by its signal.
///
/// # Errors
/// What the kernel says: no such program, no namespaces for this user, no process left, no such control group.
pub fn contain(contain: &Contain<'_>) -> io::Result<Spawned> {
    let text = |path: &Path| CString::new(path.as_os_str().as_bytes());
    let (report, reporting) = pipe()?;
    let prepared = Prepared {
        // Some variables have a runtime hand more to its container.
        image: Image::new(&contain.runtime.path, contain.args, &[], true)?,
        copy: contain.runtime.copy.as_ref().map(AsFd::as_fd),
        control: high(contain.control)?,
        helper: high(pidfd_open(getpid(), PidfdFlags::empty())?)?,
        output: high_output(contain.output)?,
        bundle: text(contain.bundle)?,
        rootfs: text(contain.rootfs)?,
        users: (!geteuid().is_root()).then(|| Users {
            uid_map: format!("{0} {0} 1", geteuid().as_raw()).into_bytes(),
            gid_map: format!("{0} {0} 1", getegid().as_raw()).into_bytes(),
        }),
        reporting,
    };
    let started = start_runtime(&prepared, contain.cgroup)?;
    drop(prepared);
    let mut error = [0; 4];
    match File::from(report).read_exact(&mut error) {
        // Nobody has the other end any more: the runtime runs.
        Err(_) => Ok(started),
        Ok(()) => {
            // It may have ended by itself.
            let _ = pidfd_send_signal(&started.pidfd, Signal::KILL);
            let _ = reap(started.pidfd.as_fd());
            Err(io::Error::from_raw_os_error(i32::from_ne_bytes(error)))
        }
    }
}

/// What the new processes need, made beforehand.
struct Prepared<'a> {
    image: Image,
    copy: Option<BorrowedFd<'a>>,
    control: OwnedFd,
    helper: OwnedFd,
    output: Option<[OwnedFd; 2]>,
    bundle: CString,
    rootfs: CString,
    /// Root needs no user namespace out here; the container has one.
    users: Option<Users>,
    reporting: OwnedFd,
}

struct Users {
    uid_map: Vec<u8>,
    gid_map: Vec<u8>,
}

/// Says why there is no runtime, and ends.
fn give_up(prepared: &Prepared<'_>, error: Errno) -> ! {
    let number = error.raw_os_error();
    // SAFETY: system calls on memory of this stack and a number; nothing of the process that this one is a copy of may run.
    unsafe {
        libc::write(prepared.reporting.as_raw_fd(), (&raw const number).cast(), size_of_val(&number));
        libc::_exit(127)
    }
}

/// Forks what becomes the runtime.
fn start_runtime(prepared: &Prepared<'_>, cgroup: Option<BorrowedFd<'_>>) -> Result<Spawned, Errno> {
    let users = if prepared.users.is_some() { libc::CLONE_NEWUSER } else { 0 };
    match clone((users | libc::CLONE_NEWNS | libc::CLONE_NEWPID) as u64, cgroup, None)? {
        Some(runtime) => Ok(runtime),
        None => {
            let Err(error) = become_runtime(prepared);
            give_up(prepared, error)
        }
    }
}

/// In the first process of the new namespaces.
fn become_runtime(prepared: &Prepared<'_>) -> Result<Infallible, Errno> {
    reset_signals();
    if let Some(users) = &prepared.users {
        write(c"/proc/self/setgroups", b"deny")?;
        write(c"/proc/self/uid_map", &users.uid_map)?;
        write(c"/proc/self/gid_map", &users.gid_map)?;
    }
    die_with(&prepared.helper)?;
    mount_change(c"/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount(c"proc", c"/proc", c"proc", flags, None)?;
    // What is shown in it may be below the place that it hides.
    let shown = [&prepared.bundle, &prepared.rootfs].map(|file| open_as_named(file));
    // Device nodes work in it, for the one below.
    mount(c"tmpfs", PLACE, c"tmpfs", MountFlags::NOSUID, c"mode=755,size=1m")?;
    for (shown, place) in shown.into_iter().zip([c"/dev/shm/bundle", c"/dev/shm/rootfs"]) {
        mkdir(place, Mode::from_raw_mode(0o755))?;
        fchdir(shown?)?;
        mount_bind(c".", place)?;
        // What stands in it is its maker's word. A kernel before 5.12 believes it.
        let place = open(place, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let _ = set_attributes(place.as_fd(), libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOSUID, 0);
    }
    chdir(c"/")?;
    // Runtimes refuse a host that has both versions of control groups; a container has none of its own. The second one is
    // covered: to unmount it would wait for every processor. It may not be there.
    let _ = mount_bind(PLACE, c"/sys/fs/cgroup/unified");
    // Runtimes give the streams to the container's user. This is not the host's device, so that one stays root's. Without
    // the right to make one there is none to give the host's away either.
    let (own, mode) = (c"/dev/shm/null", Mode::from_raw_mode(0o666));
    let made = mknodat(CWD, own, FileType::CharacterDevice, mode, makedev(1, 3));
    let null = if made.is_ok() { own } else { c"/dev/null" };
    let null = high(open(null, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?)?;
    put(&null, 0)?;
    for stream in 1..=2 {
        let output = prepared.output.as_ref().map(|output| &output[stream as usize - 1]);
        put(output.unwrap_or(&null), stream)?;
    }
    put(&prepared.control, CONTROL_FD)?;
    close_at_exec(CONTROL_FD + 1)?;
    Err(prepared.image.exec(prepared.copy))
}

/// Opens a folder whose name was looked up before: no link on the way is followed, for its owner may have put one there.
fn open_as_named(path: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    match openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS) {
        // Before Linux 5.6.
        Err(Errno::NOSYS) => open(path, flags, Mode::empty()),
        opened => opened,
    }
}

/// Writes a text that is taken whole or not at all.
fn write(file: &CStr, text: &[u8]) -> Result<(), Errno> {
    let file = open(file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(file, text).map(drop)
}
