//! Starting a shard's process: the one place that forks.
//!
//! Only single-threaded processes do it. The composer's launch helper forks and execs ([`spawn`]): the child gets one
//! descriptor, its control socket. A zygote forks a copy of itself ([`fork_sibling`]): the child has what the zygote
//! has, and the same parent, the launch helper. Either way the child dies with the helper.
//!
//! Invariant: whoever calls [`spawn`] keeps its own descriptor number [`CONTROL_FD`] open, so that nothing else can
//! have that number in the child before the socket takes it.

use crate::control::{CONTROL_ENV, CONTROL_FD, LAUNCHER_ENV, PROTOCOL_VERSION};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, waitid};
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

/// What to start.
pub struct Spawn<'a> {
    /// The program's file.
    pub program: &'a Path,
    /// Its arguments.
    pub args: &'a [String],
    /// Environment variables on top of the inherited ones.
    pub env: &'a [(String, String)],
    /// The shard's end of its control socket.
    pub control: BorrowedFd<'a>,
    /// Whether what it prints is thrown away.
    pub quiet: bool,
}

/// A started process. It is not reaped when this is dropped: its parent calls [`reap`].
pub struct Spawned {
    /// The process.
    pub pid: u32,
    /// A descriptor that becomes readable when the process ends.
    pub pidfd: OwnedFd,
}

/// Starts a shard's process.
///
/// # Errors
/// What the kernel says: no such program, not executable, no process left.
pub fn spawn(spawn: &Spawn<'_>) -> io::Result<Spawned> {
    let parent = rustix::process::getpid();
    let control = spawn.control.as_raw_fd();
    let mut command = Command::new(spawn.program);
    command
        .args(spawn.args)
        .envs(spawn.env.iter().map(|(name, value)| (OsStr::new(name), OsStr::new(value))))
        .env(CONTROL_ENV, PROTOCOL_VERSION.to_string())
        .env_remove(LAUNCHER_ENV)
        .stdin(Stdio::null());
    if spawn.quiet {
        command.stdout(Stdio::null()).stderr(Stdio::null());
    }
    // SAFETY: the closure makes system calls only; it neither allocates nor takes a lock.
    unsafe { command.pre_exec(move || become_shard(parent, control)) };
    let child = command.spawn()?;
    let pid = Pid::from_child(&child);
    // The child is not reaped yet, so its number can't have been given to another process.
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
    Ok(Spawned { pid: child.id(), pidfd })
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Its exit code, if it returned one.
    pub code: Option<i32>,
    /// The signal that killed it, if one did.
    pub signal: Option<i32>,
}

/// Waits for the end of a child of this process, and lets its number go.
///
/// # Errors
/// The process is no child of this one, or was reaped before.
pub fn reap(pidfd: BorrowedFd<'_>) -> io::Result<Ended> {
    loop {
        match waitid(WaitId::PidFd(pidfd), WaitIdOptions::EXITED) {
            Ok(Some(status)) => {
                return Ok(Ended { code: status.exit_status(), signal: status.terminating_signal() });
            }
            Ok(None) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Which of the two processes this is, after a fork.
pub enum Forked {
    /// The new one.
    Child,
    /// The old one.
    Parent(Spawned),
}

/// Why a process was not forked.
#[derive(Debug, thiserror::Error)]
pub enum ForkError {
    /// It has other threads: a fork would copy what they had in hand, half done, and locked for ever.
    #[error("the process has {0} threads, and only one with a single thread can be forked")]
    Threads(usize),
    /// The kernel said no.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// How many threads this process has.
///
/// # Errors
/// When `/proc` is not there.
pub fn threads() -> io::Result<usize> {
    Ok(std::fs::read_dir("/proc/self/task")?.count())
}

/// Copies this process. The copy's parent is this one's parent, which reaps it, and with which it dies.
///
/// The copy shares no memory with this process, but every descriptor that is open here. What is registered with the
/// kernel for a process (the barrier) is registered anew.
///
/// # Errors
/// [`ForkError::Threads`] if this is not the only thread; otherwise what the kernel says.
pub fn fork_sibling() -> Result<Forked, ForkError> {
    let threads = threads()?;
    if threads != 1 {
        return Err(ForkError::Threads(threads));
    }
    let parent = rustix::process::getppid();
    let mut pidfd: i32 = -1;
    // SAFETY: all of its fields are numbers, for which zero is a value.
    let mut how: libc::clone_args = unsafe { std::mem::zeroed() };
    how.flags = (libc::CLONE_PARENT | libc::CLONE_PIDFD) as u64;
    how.pidfd = (&raw mut pidfd) as u64;
    // SAFETY: without CLONE_VM the child runs on a copy of this stack, as after fork(2). There is no other thread, as
    // was just counted and nobody else can change, so every lock is free or held by the caller, in the copy too. The
    // C library is not told; all that it would do is to note the child's thread number, which it compares with that
    // of other threads of the same process alone. `how` and `pidfd` outlive the call.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut how, size_of::<libc::clone_args>()) };
    if pid < 0 {
        return Err(io::Error::last_os_error().into());
    }
    if pid == 0 {
        let bound = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
        if bound.is_err() || rustix::process::getppid() != parent {
            // Nothing would end this process; nobody waits for it either.
            // SAFETY: ends the process without running anything of the one that it is a copy of.
            unsafe { libc::_exit(1) };
        }
        crate::barrier::renew();
        return Ok(Forked::Child);
    }
    // SAFETY: the kernel has just put it there, close-on-exec, and nobody else knows of it.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Forked::Parent(Spawned { pid: pid as u32, pidfd }))
}

/// The control socket that this process inherited as [`CONTROL_FD`], once. `None` if there is none, or if it was
/// taken before.
pub fn take_control() -> Option<OwnedFd> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    // SAFETY: the descriptor is only looked at while it is borrowed.
    let borrowed = unsafe { BorrowedFd::borrow_raw(CONTROL_FD) };
    let socket = rustix::net::sockopt::socket_type(borrowed).is_ok();
    // AcqRel: whoever sets it first owns the descriptor.
    if !socket || TAKEN.swap(true, Ordering::AcqRel) {
        return None;
    }
    // SAFETY: the process inherited it for this purpose, and `TAKEN` makes sure that it has one owner.
    let fd = unsafe { OwnedFd::from_raw_fd(CONTROL_FD) };
    // What we start ourselves does not inherit it.
    let _ = rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC);
    Some(fd)
}

/// In the child, before exec: dies with its parent, keeps nothing open but standard streams and the control socket.
fn become_shard(parent: Pid, control: i32) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    if rustix::process::getppid() != Some(parent) {
        // The parent died before the line above.
        return Err(io::ErrorKind::BrokenPipe.into());
    }
    // SAFETY: system calls on numbers; between fork and exec no owner of a descriptor can be confused by them. The
    // standard library's own descriptor for reporting errors of exec is closed by exec itself.
    unsafe {
        if control == CONTROL_FD {
            if libc::fcntl(control, libc::F_SETFD, 0) < 0 {
                return Err(io::Error::last_os_error());
            }
        } else if libc::dup2(control, CONTROL_FD) < 0 {
            return Err(io::Error::last_os_error());
        }
        let flags = libc::CLOSE_RANGE_CLOEXEC as i32;
        if libc::close_range(CONTROL_FD as u32 + 1, u32::MAX, flags) < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
