//! A zygote: a process in which a component was initialised once, and which is forked for each of its shards.
//!
//! Invariant: it has one thread, so whatever is forked from it is whole. It holds the control socket of none of its
//! children, and they do not hold its own: the end of each is seen by whoever is at the other side.

use crate::error::{Error, Result};
use crate::runner::{EXIT_ORPHAN, Told, say};
use shard_runtime::control::{ControlError, ControlSocket, FromShard, ToShard};
use shard_runtime::process::{ForkError, Forked, fork_sibling};
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// Forks a shard whenever the composer asks for one. Returns in the shards, with what each was told; the zygote itself
/// ends in here.
pub(crate) fn serve(told: Told) -> Result<Told> {
    let Told { control, mut packet, .. } = told;
    let threads = shard_runtime::process::threads()?;
    if threads != 1 {
        let refused = Err(Error::new(format!(
            "component started threads in its initialisation ({threads} run), so it can't be forked: remove `zygote = true`"
        )));
        return say(&control, refused);
    }
    control.send(&FromShard::Ready, &[])?;
    loop {
        let process = match control.receive::<ToShard>(&mut packet) {
            Ok((ToShard::Fork { process }, fds)) => (process, fds),
            Ok((ToShard::Stop, _)) => std::process::exit(0),
            Ok(_) => {
                return say(&control, Err(Error::new("the composer asks a zygote for what only shards do")));
            }
            Err(ControlError::Closed) => std::process::exit(EXIT_ORPHAN),
            Err(error) => return say(&control, Err(error)),
        };
        let (process, fds) = process;
        if let Some(child) = fork(&control, process, fds)? {
            drop(control);
            return Told::wait_on(Arc::new(child), packet);
        }
    }
}

/// Forks one shard. Its control socket in the shard, nothing in the zygote.
fn fork(control: &ControlSocket, process: u64, fds: Vec<OwnedFd>) -> Result<Option<ControlSocket>> {
    let [theirs] = <[OwnedFd; 1]>::try_from(fds)
        .map_err(|fds| Error::new(format!("a fork came with {} descriptors instead of 1", fds.len())))?;
    // What was printed and not written yet would be written by both.
    let _ = std::io::stdout().flush();
    match fork_sibling() {
        Ok(Forked::Child) => return Ok(Some(ControlSocket::from_fd(theirs))),
        Ok(Forked::Parent(child)) => {
            control.send(&FromShard::Forked { process }, &[child.pidfd.as_fd()])?;
        }
        Err(error) => {
            let errno = match error {
                ForkError::Io(error) => error.raw_os_error().unwrap_or(0),
                ForkError::Threads(_) => rustix::io::Errno::BUSY.raw_os_error(),
            };
            control.send(&FromShard::NotForked { process, errno }, &[])?;
        }
    }
    Ok(None)
}
