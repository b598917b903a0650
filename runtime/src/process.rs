//! Starting a shard's process: the one place that forks.
//!
//! Only a single-threaded process calls this (the composer's launch helper), so what runs between fork and exec may
//! allocate, though it does not. The child gets one descriptor, its control socket, and dies with its parent.
//!
//! Invariant: the caller keeps its own descriptor number [`CONTROL_FD`] open, so that nothing else can have that
//! number in the child before the socket takes it.

use crate::control::{CONTROL_ENV, CONTROL_FD, LAUNCHER_ENV, PROTOCOL_VERSION};
use rustix::process::{Pid, PidfdFlags, Signal};
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
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

/// A started process. It is not reaped when this is dropped: whoever started it waits for it.
pub struct Spawned {
    /// The process.
    pub child: Child,
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
    Ok(Spawned { child, pidfd })
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
