//! What the shell holds processes to, and what it tells of what limits did to them.
//!
//! Invariant: a process is held to the limits of what it is, from its start or from when it becomes that.

use super::told::tell_of;
use super::{Executable, Shell};
use crate::core::Exit;
use crate::groups::Limits;
use crate::processes::{ProcessId, Role};
use crate::resources::Grant;
use rustix::process::Signal;
use shard_runtime::id::{ComponentId, ShardId};

impl Shell {
    /// What a process may use of the host.
    pub(super) fn limits(&self, role: Role) -> Limits {
        let application = &self.inner.application;
        match role {
            Role::Shard(shard) => {
                let entry = self.shards.get(&shard);
                let component = entry.map_or(ComponentId(0), |entry| entry.component);
                let grant = entry.map(|entry| &entry.grant);
                let processors = grant.into_iter().flat_map(Grant::processors).map(|id| id as usize);
                self.limits_of(component, processors.collect())
            }
            Role::Zygote(component) => self.limits_of(component, Vec::new()),
            Role::Spare(at) => {
                let components = application.generics[at].components.iter();
                let limits = components.map(|id| self.limits_of(*id, Vec::new()));
                limits.reduce(Limits::or).unwrap_or_else(|| self.limits_of(ComponentId(0), Vec::new()))
            }
        }
    }

    fn limits_of(&self, component: ComponentId, cores: Vec<usize>) -> Limits {
        let program = match &self.programs[usize::from(component.0)] {
            Some(Executable::Program(path)) => Some(path.as_path()),
            _ => None,
        };
        Limits::of(self.inner.application.component(component), program, cores)
    }

    /// The highest real-time priority that a process may have.
    pub(super) fn realtime_of(&self, role: Role) -> u32 {
        let application = &self.inner.application;
        let of = |id: ComponentId| application.component(id).needs.realtime;
        match role {
            Role::Shard(shard) => self.shards.get(&shard).map_or(0, |entry| of(entry.component)),
            Role::Zygote(component) => of(component),
            Role::Spare(at) => {
                application.generics[at].components.iter().map(|id| of(*id)).max().unwrap_or(0)
            }
        }
    }

    /// Gives a shard that is ready, and so on its own cores, the real-time priority that its component asks for.
    pub(super) fn hurry(&mut self, shard: ShardId) {
        let (priority, component) = (self.realtime_of(Role::Shard(shard)), self.name(shard));
        let process = self.shards.get(&shard).and_then(|entry| self.processes.get(entry.process?));
        if let Some(process) = process.filter(|process| priority > 0 && process.runs()) {
            self.realtime.give(process.pid, priority, &component);
        }
    }

    /// Holds a process that is there already to the limits of what it has become.
    pub(super) fn regroup(&mut self, id: ProcessId) {
        let Some(role) = self.processes.get(id).map(|process| process.role) else { return };
        let limits = self.limits(role);
        self.processes.regroup(id, limits);
    }

    /// Tells of the processes that have as many processes as they may.
    pub(super) fn look_at_groups(&mut self) {
        for id in self.processes.groups.take_full() {
            let limit = self.processes.groups.stopped(id).map_or(0, |stopped| stopped.processes);
            tell_of!(
                warn,
                self.of(id),
                limit,
                "has as many processes as it may (pids.max); more are refused"
            );
            self.note_fault(id, format!("it has reached its number of processes and threads, {limit}"));
        }
    }

    /// Tells what limits did to a process that has ended, and what it left. Returns how it ended, as far as they know more.
    pub(super) fn tell_stopped(&self, id: ProcessId, how: Exit) -> Exit {
        let Some(stopped) = self.processes.groups.stopped(id) else { return how };
        if stopped.forks_refused > 0 {
            let (limit, refused) = (stopped.processes, stopped.forks_refused);
            tell_of!(warn, self.of(id), limit, refused, "forks were refused (pids.max)");
        }
        if stopped.left > 0 {
            tell_of!(warn, self.of(id), left = stopped.left, "has left processes behind; they are killed");
        }
        if stopped.killed == 0 || stopped.memory_bytes == 0 {
            return how;
        }
        let max_bytes = stopped.memory_bytes;
        tell_of!(
            warn,
            self.of(id),
            max_bytes,
            killed = stopped.killed,
            "used more memory than it may (memory.max); the kernel has killed it"
        );
        if how != Exit::Signal(Signal::KILL.as_raw()) {
            return how;
        }
        let how = Exit::OutOfMemory { max_bytes };
        self.note_fault(id, how.to_string());
        how
    }
}
