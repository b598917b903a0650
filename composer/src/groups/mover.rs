//! Moves processes into control groups that they were not born in: those that a zygote forks, and spares that get cores of
//! their own.
//!
//! The kernel holds a move up until no processor can be inside an old one: ten milliseconds, where a fork takes half of
//! one. So a thread of its own waits for that. Until then the process is held to the limits of the group in which it was
//! born, with whatever else is in there.

use crossbeam::channel::{Sender, unbounded};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::thread::JoinHandle;

/// A process, and the group that it goes into.
struct Move {
    group: PathBuf,
    pid: u32,
    pidfd: OwnedFd,
}

/// See the head of this file. Dropping it waits for the moves that it was asked for.
#[derive(Default)]
pub(super) struct Mover {
    running: Option<(Sender<Move>, JoinHandle<()>)>,
}

impl Mover {
    /// Moves a process into a group, soon. `pidfd` is that of `pid`.
    ///
    /// # Errors
    /// There can be no thread.
    pub(super) fn send(&mut self, group: PathBuf, pid: u32, pidfd: OwnedFd) -> io::Result<()> {
        if self.running.is_none() {
            let (sender, moves) = unbounded::<Move>();
            let life = move || moves.iter().for_each(|next| next.carry_out());
            self.running = Some((sender, std::thread::Builder::new().name("mover".into()).spawn(life)?));
        }
        if let Some((sender, _)) = &self.running {
            // The thread ends only after the channel.
            let _ = sender.send(Move { group, pid, pidfd });
        }
        Ok(())
    }
}

impl Drop for Mover {
    fn drop(&mut self) {
        if let Some((sender, thread)) = self.running.take() {
            drop(sender);
            // One that panicked has said so already.
            let _ = thread.join();
        }
    }
}

impl Move {
    fn carry_out(self) {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let has_ended = || poll(&mut [PollFd::new(&self.pidfd, PollFlags::IN)], Some(&now)) != Ok(0);
        // The number of one that has ended may be another's.
        if has_ended() {
            return;
        }
        if let Err(error) = fs::write(self.group.join("cgroup.procs"), self.pid.to_string())
            && !has_ended()
        {
            tracing::warn!(
                pid = self.pid,
                group = %self.group.display(),
                %error,
                "a process can't be moved into its control group; it shares the limits of the one that it was born in"
            );
        }
    }
}
