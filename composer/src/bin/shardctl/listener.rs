//! The local socket that `shardctl up` answers on, and who may be on its two ends.
//!
//! Invariant: of all that were started at one path, one has its lock, and with it the socket. Nobody of another user but
//! root gets an answer, and nobody is answered by one.

use crate::Failure;
use rustix::fs::{FlockOperation, Mode, OFlags, fchmod, flock, open};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::geteuid;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long nobody is let in after the kernel had no descriptor for a caller.
const PAUSE: Duration = Duration::from_millis(100);

/// The socket, and its file while this lives.
pub(crate) struct Listener {
    pub(crate) socket: OwnedFd,
    path: PathBuf,
    /// Held as long as this lives. Its file stays: whoever removed it could remove another's.
    _lock: OwnedFd,
}

impl Listener {
    /// Takes the place of a socket that nobody answers at any more; never of a live one.
    pub(crate) fn bind(path: &Path) -> Result<Self, Failure> {
        let failed = |error: io::Error| Failure::run(format!("no socket at {}: {error}", path.display()));
        let lock = take_lock(path).map_err(|error| match error {
            Errno::WOULDBLOCK => Failure::run(format!(
                "another `shardctl up` answers at {}; end it, or choose another --socket",
                path.display()
            )),
            error => failed(error.into()),
        })?;
        match fs::symlink_metadata(path) {
            Ok(found) if found.file_type().is_socket() => fs::remove_file(path).map_err(failed)?,
            Ok(_) => {
                let path = path.display();
                return Err(Failure::run(format!(
                    "{path} is a file that is no socket; choose another --socket"
                )));
            }
            Err(_) => {}
        }
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .map_err(|e| failed(e.into()))?;
        // The file is made with the socket's own mode: by path, another's file could be changed.
        fchmod(&socket, Mode::RUSR | Mode::WUSR).map_err(|e| failed(e.into()))?;
        let address = SocketAddrUnix::new(path).map_err(|e| failed(e.into()))?;
        rustix::net::bind(&socket, &address).map_err(|e| failed(e.into()))?;
        rustix::net::listen(&socket, 16).map_err(|e| failed(e.into()))?;
        Ok(Self { socket, path: path.into(), _lock: lock })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // If it is gone already, so much the better.
        let _ = fs::remove_file(&self.path);
    }
}

fn take_lock(path: &Path) -> Result<OwnedFd, Errno> {
    let mut name = path.as_os_str().to_owned();
    name.push(OsString::from(".lock"));
    let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = open(Path::new(&name), flags, Mode::RUSR | Mode::WUSR)?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    Ok(file)
}

/// The next caller that may ask.
pub(crate) fn accept(listener: &OwnedFd) -> OwnedFd {
    loop {
        match rustix::net::accept_with(listener, SocketFlags::CLOEXEC) {
            Ok(socket) if is_trusted(&socket) => return socket,
            Ok(socket) => tracing::warn!(reason = who(&socket), "a caller of another user was turned away"),
            Err(Errno::INTR | Errno::CONNABORTED) => {}
            Err(error) => {
                tracing::warn!(%error, "a caller could not be let in");
                std::thread::sleep(PAUSE);
            }
        }
    }
}

/// Whether the other end is this user's, or root's.
pub(crate) fn is_trusted(socket: &impl AsFd) -> bool {
    rustix::net::sockopt::socket_peercred(socket)
        .is_ok_and(|peer| peer.uid == geteuid() || peer.uid.is_root())
}

/// Who is at the other end, as the kernel says.
fn who(socket: &impl AsFd) -> String {
    match rustix::net::sockopt::socket_peercred(socket) {
        Ok(peer) => format!("it is process {} of user {}", peer.pid, peer.uid.as_raw()),
        Err(error) => format!("the kernel does not say who it is: {error}"),
    }
}
