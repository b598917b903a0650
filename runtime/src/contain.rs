//! Starting the process of an OCI runtime, which runs a shard in a container.
//!
//! The runtime is the first process of a pid namespace of its own, and the container is in that. So whoever kills the
//! runtime kills all of the container with it, and so does the kernel when the launch helper ends: no word to the
//! runtime is needed, and none can be lost. Its state is in a file system that ends with it, so nothing is left to
//! clean up.
//!
//! ```text
//! launch helper ── guard ── OCI runtime (pid 1) ── shard (pid 1 of the container's own)
//!                    │           └ dies with the guard, and everyone below with it
//!                    └ dies with the helper; ends as the runtime ends
//! ```
//!
//! Invariant: a process in the container has the control socket and standard streams, and no other descriptor of the
//! helper's.

use crate::control::{CONTROL_FD, LAUNCHER_ENV};
use crate::process::Spawned;
use rustix::process::{Pid, PidfdFlags, Signal, getegid, geteuid};
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::ptr;

/// So many descriptors, from 3 on, the runtime is to leave open to the container.
pub const PRESERVED_FDS: u32 = 1;

/// Where the runtime finds its own file system in memory, in a mount namespace of its own. A user of the container's
/// can go through all folders on the way, which is not so where images are kept; and no program is here.
const PLACE: &CStr = c"/dev/shm";
/// Where the runtime finds its bundle.
pub const BUNDLE: &str = "/dev/shm/bundle";
/// Where it finds the container's files.
pub const ROOTFS: &str = "/dev/shm/rootfs";
/// Where it keeps its state.
pub const STATE: &str = "/dev/shm/state";

/// What to start.
pub struct Contain<'a> {
    /// The OCI runtime's file.
    pub program: &'a Path,
    /// Its arguments. They have it leave descriptor [`CONTROL_FD`] to the container.
    pub args: &'a [String],
    /// The shard's end of its control socket.
    pub control: BorrowedFd<'a>,
    /// Whether what it prints is thrown away.
    pub quiet: bool,
    /// The folder with the container's `config.json`; the runtime finds it as [`BUNDLE`].
    pub bundle: &'a Path,
    /// The container's files; the runtime finds them as [`ROOTFS`].
    pub rootfs: &'a Path,
}

/// Starts an OCI runtime. What is started ends as the runtime does, with its exit code or by its signal.
///
/// # Errors
/// What the kernel says: no such program, no namespaces for this user, no process left.
pub fn contain(contain: &Contain<'_>) -> io::Result<Spawned> {
    let parent = rustix::process::getpid();
    let control = contain.control.as_raw_fd();
    let places = Places::new(contain)?;
    let quiet = contain.quiet;
    let mut command = Command::new(contain.program);
    command.args(contain.args).env_remove(LAUNCHER_ENV).stdin(Stdio::null());
    // SAFETY: the closure makes system calls only; it neither allocates nor takes a lock.
    unsafe { command.pre_exec(move || enter(parent, control, quiet, &places)) };
    let child = command.spawn()?;
    // The child is not reaped yet, so its number can't have been given to another process.
    let pidfd = rustix::process::pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
    Ok(Spawned { pid: child.id(), pidfd, absent: Vec::new() })
}

/// What the new process needs, made beforehand.
struct Places {
    bundle: CString,
    rootfs: CString,
    uid_map: Vec<u8>,
    gid_map: Vec<u8>,
    root: bool,
}

impl Places {
    fn new(contain: &Contain<'_>) -> io::Result<Self> {
        let text = |path: &Path| Ok::<_, io::Error>(CString::new(path.as_os_str().as_bytes())?);
        Ok(Self {
            bundle: text(contain.bundle)?,
            rootfs: text(contain.rootfs)?,
            uid_map: format!("{0} {0} 1", geteuid().as_raw()).into_bytes(),
            gid_map: format!("{0} {0} 1", getegid().as_raw()).into_bytes(),
            root: geteuid().is_root(),
        })
    }
}

/// In the child, before exec: becomes the guard, and returns in the guard's own child, which becomes the runtime.
fn enter(helper: Pid, control: RawFd, quiet: bool, places: &Places) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    if rustix::process::getppid() != Some(helper) {
        // The helper died before the line above.
        return Err(io::ErrorKind::BrokenPipe.into());
    }
    // SAFETY: system calls on numbers; between fork and exec no owner of a descriptor can be confused by them. The
    // standard library's own descriptor for reporting errors of exec is closed by exec itself.
    unsafe {
        if control == CONTROL_FD {
            check(libc::fcntl(control, libc::F_SETFD, 0))?;
        } else {
            check(libc::dup2(control, CONTROL_FD))?;
        }
        check(libc::close_range(CONTROL_FD as u32 + 1, u32::MAX, libc::CLOSE_RANGE_CLOEXEC as i32))?;
        if !places.root {
            // Root needs no user namespace here; the container has one.
            check(libc::unshare(libc::CLONE_NEWUSER))?;
            write(c"/proc/self/setgroups", b"deny")?;
            write(c"/proc/self/uid_map", &places.uid_map)?;
            write(c"/proc/self/gid_map", &places.gid_map)?;
        }
        check(libc::unshare(libc::CLONE_NEWNS | libc::CLONE_NEWPID))?;
    }
    let guard = rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty())?;
    let said = if quiet { None } else { Some([pipe()?, pipe()?]) };
    // SAFETY: this process has one thread, as one that was just forked has, and the child makes system calls only.
    match unsafe { libc::fork() } {
        ..0 => Err(io::Error::last_os_error()),
        0 => {
            become_first(&guard, quiet, places)?;
            for ([_, write], stream) in said.into_iter().flatten().zip(1..) {
                // SAFETY: system calls on numbers; the pipes' own are closed by exec.
                unsafe { check(libc::dup2(write, stream))? };
            }
            // Not inherited, but closed by exec alone.
            std::mem::forget(guard);
            Ok(())
        }
        runtime => stand_guard(runtime, said.map(|said| said.map(|[read, _]| read))),
    }
}

fn pipe() -> io::Result<[RawFd; 2]> {
    let mut ends = [0; 2];
    // SAFETY: the memory is large enough for two numbers.
    unsafe { check(libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC))? };
    Ok(ends)
}

/// In the first process of the new namespace.
fn become_first(guard: &rustix::fd::OwnedFd, quiet: bool, places: &Places) -> io::Result<()> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    if poll(&mut [PollFd::new(guard, PollFlags::IN)], Some(&now)) != Ok(0) {
        // It died before the line above; its number can't be asked for from in here.
        return Err(io::ErrorKind::BrokenPipe.into());
    }
    // SAFETY: system calls on texts that outlive them.
    unsafe {
        let none = ptr::null();
        check(libc::mount(none, c"/".as_ptr(), none, libc::MS_REC | libc::MS_PRIVATE, none.cast()))?;
        let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
        check(libc::mount(c"proc".as_ptr(), c"/proc".as_ptr(), c"proc".as_ptr(), flags, none.cast()))?;
        // What is shown in it may be below the place that it hides.
        let bundle = check(libc::open(places.bundle.as_ptr(), libc::O_PATH | libc::O_CLOEXEC))?;
        let rootfs = check(libc::open(places.rootfs.as_ptr(), libc::O_PATH | libc::O_CLOEXEC))?;
        let (tmpfs, options) = (c"tmpfs".as_ptr(), c"mode=755,size=1m".as_ptr());
        // Device nodes work in it, for the one below.
        check(libc::mount(tmpfs, PLACE.as_ptr(), tmpfs, libc::MS_NOSUID, options.cast()))?;
        for (fd, place) in [(bundle, c"/dev/shm/bundle"), (rootfs, c"/dev/shm/rootfs")] {
            check(libc::mkdir(place.as_ptr(), 0o755))?;
            check(libc::fchdir(fd))?;
            check(libc::mount(c".".as_ptr(), place.as_ptr(), none, libc::MS_BIND, none.cast()))?;
        }
        check(libc::chdir(c"/".as_ptr()))?;
        // Runtimes refuse a host that has both versions of control groups; a container has none of its own. The second
        // one is covered: to unmount it would wait for every processor. It may not be there.
        let unified = c"/sys/fs/cgroup/unified".as_ptr();
        libc::mount(PLACE.as_ptr(), unified, none, libc::MS_BIND, none.cast());
        // Runtimes give the streams to the container's user. This is not the host's device, so that one stays root's.
        // Without the right to make one there is none to give the host's away either.
        let null = c"/dev/shm/null";
        if libc::mknod(null.as_ptr(), libc::S_IFCHR | 0o666, libc::makedev(1, 3)) == 0 {
            redirect(null, quiet)?;
        } else {
            redirect(c"/dev/null", quiet)?;
        }
    }
    Ok(())
}

/// Standard input, and if it is to be quiet the others too, from and to a file.
fn redirect(file: &CStr, quiet: bool) -> io::Result<()> {
    // SAFETY: system calls on a text that outlives them and on numbers.
    unsafe {
        let fd = check(libc::open(file.as_ptr(), libc::O_RDWR | libc::O_CLOEXEC))?;
        for stream in if quiet { 0..3 } else { 0..1 } {
            check(libc::dup2(fd, stream))?;
        }
    }
    Ok(())
}

/// Passes on what the container prints, waits for the runtime and ends as it did.
///
/// The container does not get the helper's own streams: runtimes give theirs away to the container's user, and a file or
/// a device of the host would be its then.
fn stand_guard(runtime: libc::pid_t, said: Option<[RawFd; 2]>) -> ! {
    // SAFETY: system calls on numbers and on memory of this stack; the process uses no other of its descriptors again.
    // The one that the standard library waits on has to be closed, so that its waiting ends when the runtime runs.
    unsafe {
        libc::close(0);
        match said {
            Some([out, error]) => {
                // The lowest numbers are given first, so neither is in the other's way.
                libc::dup2(out, CONTROL_FD);
                libc::dup2(error, CONTROL_FD + 1);
                libc::close_range(CONTROL_FD as u32 + 2, u32::MAX, 0);
                pass_on([(CONTROL_FD, 1), (CONTROL_FD + 1, 2)]);
            }
            None => {
                libc::close_range(1, u32::MAX, 0);
            }
        }
        let mut status = 0;
        while libc::waitpid(runtime, &raw mut status, 0) < 0 {
            if *libc::__errno_location() != libc::EINTR {
                libc::_exit(1);
            }
        }
        if libc::WIFSIGNALED(status) {
            let signal = libc::WTERMSIG(status);
            libc::signal(signal, libc::SIG_DFL);
            libc::kill(libc::getpid(), signal);
        }
        libc::_exit(libc::WEXITSTATUS(status))
    }
}

/// Copies from pipes to streams until all writers are gone.
fn pass_on(streams: [(RawFd, RawFd); 2]) {
    let mut polled = streams.map(|(from, _)| libc::pollfd { fd: from, events: libc::POLLIN, revents: 0 });
    let mut buffer = [0_u8; 4096];
    while polled.iter().any(|one| one.fd >= 0) {
        // SAFETY: system calls on memory of this stack.
        unsafe {
            if libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, -1) < 0 {
                continue;
            }
            for (one, (_, to)) in polled.iter_mut().zip(streams).filter(|(one, _)| one.revents != 0) {
                let read = libc::read(one.fd, buffer.as_mut_ptr().cast(), buffer.len());
                if read <= 0 {
                    // The kernel leaves out those below zero.
                    one.fd = -1;
                    continue;
                }
                // What nobody takes is lost, as it is for a program of the host.
                let mut written = 0;
                while written < read {
                    let more = libc::write(
                        to,
                        buffer[written as usize..].as_ptr().cast(),
                        (read - written) as usize,
                    );
                    if more <= 0 {
                        break;
                    }
                    written += more;
                }
            }
        }
    }
}

fn write(file: &CStr, text: &[u8]) -> io::Result<()> {
    // SAFETY: system calls on memory that outlives them; the descriptor is this function's own.
    unsafe {
        let fd = check(libc::open(file.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC))?;
        let written = libc::write(fd, text.as_ptr().cast(), text.len());
        let result = if written < 0 { Err(io::Error::last_os_error()) } else { Ok(()) };
        libc::close(fd);
        result
    }
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
