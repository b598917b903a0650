//! The processes that the composer has started, whatever each is at the moment: a shard, a spare that may become one,
//! a zygote that forks them.
//!
//! Invariant: a process has one number, which never comes again, from before it is started until it was reaped; what
//! it is may change meanwhile. No process keeps the shell busy: one that sends more messages than the protocol has for
//! it is refused its next.

use crate::groups::{Groups, Limits};
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Signal, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use shard_runtime::clock;
use shard_runtime::control::{ControlError, ControlSocket, FromShard, Packet};
use shard_runtime::id::{ComponentId, ShardId};
use std::cell::Cell;
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// So many messages a process may send at most, if it is wired to nobody: hello, ready, what it says of the link to
/// the composer, and, from either of its threads, that it failed.
const MESSAGES_MAX: u32 = 4 + MESSAGES_PER_WIRE_MAX;
/// So many more it may send for each wire: that it has it, and that it broke.
const MESSAGES_PER_WIRE_MAX: u32 = 2;
/// So many more a zygote may send for each shard that it was asked to fork.
const MESSAGES_PER_FORK_MAX: u32 = 1;
/// Tokens of processes begin here; the lower ones are the shell's.
const FIRST_TOKEN: usize = 3;

/// A process of the composer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct ProcessId(pub(crate) u64);

/// What a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// A shard.
    Shard(ShardId),
    /// It can become a shard of several components: those of this generic program, by its position.
    Spare(usize),
    /// It forks the shards of this component.
    Zygote(ComponentId),
}

/// What a token of the event loop stands for.
pub(crate) enum What {
    /// The process has said something.
    Word(ProcessId),
    /// It is over.
    End(ProcessId),
}

/// One process.
pub(crate) struct Process {
    pub(crate) role: Role,
    pub(crate) socket: ControlSocket,
    /// Known as soon as the launch helper has said so.
    pub(crate) pidfd: Option<OwnedFd>,
    /// 0 until it is known.
    pub(crate) pid: u32,
    pub(crate) started_ns: u64,
    /// It is to be killed as soon as its pidfd is here.
    pub(crate) doomed: bool,
    messages_left: Cell<u32>,
}

/// What is left of one that is over.
pub(crate) struct Gone {
    pub(crate) role: Role,
    pub(crate) started_ns: u64,
    pub(crate) doomed: bool,
}

impl Process {
    /// Its next message, with the descriptors that came with it.
    pub(crate) fn receive(&self, packet: &mut Packet) -> Result<(FromShard, Vec<OwnedFd>), ControlError> {
        let received = self.socket.receive(packet)?;
        let left = self.messages_left.get().checked_sub(1);
        self.messages_left.set(left.ok_or_else(|| {
            ControlError::Garbled("the shard has said all that there is to say already".into())
        })?);
        Ok(received)
    }

    /// It is about to be wired to someone, of which it may speak.
    pub(crate) fn expect_wire(&self) {
        self.expect(MESSAGES_PER_WIRE_MAX);
    }

    /// It is about to be asked for a fork, which it may answer.
    pub(crate) fn expect_fork(&self) {
        self.expect(MESSAGES_PER_FORK_MAX);
    }

    fn expect(&self, more: u32) {
        self.messages_left.set(self.messages_left.get().saturating_add(more));
    }

    /// Whether it has not ended, as far as can be known.
    pub(crate) fn runs(&self) -> bool {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let ended = |pidfd| poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&now)) != Ok(0);
        !self.doomed && !self.pidfd.as_ref().is_some_and(ended)
    }
}

/// See the head of this file.
pub(crate) struct Processes {
    table: HashMap<ProcessId, Process>,
    next: u64,
    registry: Registry,
    /// What each may use of the host.
    pub(crate) groups: Groups,
}

impl Processes {
    pub(crate) fn new(registry: Registry, groups: Groups) -> Self {
        Self { table: HashMap::new(), next: 0, registry, groups }
    }

    /// A process that is about to be started. Returns its own end of its control socket.
    pub(crate) fn add(&mut self, role: Role) -> io::Result<(ProcessId, ControlSocket)> {
        let (socket, theirs) = ControlSocket::pair()?;
        socket.set_nonblocking()?;
        let id = ProcessId(self.next);
        self.next += 1;
        let fd = socket.as_fd().as_raw_fd();
        self.registry.register(&mut SourceFd(&fd), token(id, 0), Interest::READABLE)?;
        let (started_ns, messages_left) = (clock::now_ns(), Cell::new(MESSAGES_MAX));
        let process = Process { role, socket, pidfd: None, pid: 0, started_ns, doomed: false, messages_left };
        self.table.insert(id, process);
        Ok((id, theirs))
    }

    /// The process is there. It is killed at once if that was asked for before.
    pub(crate) fn started(&mut self, id: ProcessId, pid: u32, pidfd: OwnedFd) {
        let Some(process) = self.table.get_mut(&id) else { return };
        let fd = pidfd.as_raw_fd();
        if let Err(error) = self.registry.register(&mut SourceFd(&fd), token(id, 1), Interest::READABLE) {
            tracing::warn!(pid, %error, "the process's end will be noticed by its socket only");
        }
        process.pid = pid;
        process.pidfd = Some(pidfd);
        if process.doomed {
            self.kill(id);
        }
    }

    pub(crate) fn get(&self, id: ProcessId) -> Option<&Process> {
        self.table.get(&id)
    }

    pub(crate) fn get_mut(&mut self, id: ProcessId) -> Option<&mut Process> {
        self.table.get_mut(&id)
    }

    /// Holds a process that is there to other limits.
    pub(crate) fn regroup(&mut self, id: ProcessId, limits: Limits) {
        if let Some(process) = self.table.get(&id)
            && let Some(pidfd) = &process.pidfd
        {
            self.groups.change(id, process.pid, pidfd.as_fd(), limits);
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Process> {
        self.table.values()
    }

    pub(crate) fn ids(&self) -> Vec<ProcessId> {
        self.table.keys().copied().collect()
    }

    /// Kills a process, now or as soon as it is there.
    pub(crate) fn kill(&mut self, id: ProcessId) {
        let Some(process) = self.table.get_mut(&id) else { return };
        process.doomed = true;
        if let Some(pidfd) = &process.pidfd {
            // It may have ended by itself.
            let _ = pidfd_send_signal(pidfd, Signal::KILL);
        }
    }

    /// Its words are not listened to any more.
    pub(crate) fn turn_away(&self, id: ProcessId) {
        if let Some(process) = self.table.get(&id) {
            self.deregister(&process.socket);
        }
    }

    /// Its pidfd has said all that it can say.
    pub(crate) fn ended(&mut self, id: ProcessId) {
        if let Some(pidfd) = self.table.get_mut(&id).and_then(|process| process.pidfd.take()) {
            self.deregister(&pidfd);
        }
    }

    /// The process was reaped, or never was. What it has left is killed.
    pub(crate) fn remove(&mut self, id: ProcessId) -> Option<Gone> {
        self.groups.remove(id);
        let Process { role, socket, pidfd, started_ns, doomed, .. } = self.table.remove(&id)?;
        self.deregister(&socket);
        if let Some(pidfd) = &pidfd {
            self.deregister(pidfd);
        }
        socket.close();
        Some(Gone { role, started_ns, doomed })
    }

    fn deregister(&self, fd: &impl AsFd) {
        // It may have been done before.
        let _ = self.registry.deregister(&mut SourceFd(&fd.as_fd().as_raw_fd()));
    }

    /// What a token stands for that is not the shell's own.
    pub(crate) fn what(token: Token) -> What {
        let number = token.0 - FIRST_TOKEN;
        let id = ProcessId((number / 2) as u64);
        if number.is_multiple_of(2) { What::Word(id) } else { What::End(id) }
    }
}

fn token(id: ProcessId, which: usize) -> Token {
    Token(FIRST_TOKEN + id.0 as usize * 2 + which)
}
