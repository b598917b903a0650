//! Whose a line of the log is, and what is kept of a process that failed.
//!
//! Invariant: a line about a process has its shard, its component and the sessions that it is in, as far as it has any.

use super::Shell;
use crate::processes::{ProcessId, Role};
use shard_runtime::id::ShardId;

/// Writes a line about a process: `tell_of!(LEVEL, self.of(PROCESS), FIELD …, "message")`.
macro_rules! tell_of {
    ($level:ident, $of:expr, $($rest:tt)+) => {{
        let of = $of;
        tracing::$level!(
            who = of.who, shard = of.shard, component = of.component, sessions = of.sessions, $($rest)+
        );
    }};
}
pub(super) use tell_of;

/// Of whom a line of the log is.
pub(super) struct Of {
    pub(super) who: String,
    pub(super) shard: Option<tracing::field::DisplayValue<ShardId>>,
    pub(super) component: String,
    pub(super) sessions: String,
}

impl Shell {
    /// Of whom a line is that is about a process.
    pub(super) fn of(&self, id: ProcessId) -> Of {
        let application = &self.inner.application;
        let (shard, component) = match self.processes.get(id).map(|process| process.role) {
            Some(Role::Shard(shard)) => (Some(shard), self.name(shard)),
            Some(Role::Zygote(id)) => (None, application.component(id).name.clone()),
            Some(Role::Spare(_)) | None => (None, String::new()),
        };
        let sessions = shard.map(|shard| self.sessions_of(shard)).unwrap_or_default();
        Of { who: self.who(id), shard: shard.map(tracing::field::display), component, sessions }
    }

    /// The sessions that a shard is in, as people write them.
    pub(super) fn sessions_of(&self, shard: ShardId) -> String {
        let hub = self.inner.lock();
        hub.core.sessions_of(shard).map(|session| session.to_string()).collect::<Vec<_>>().join(" ")
    }

    /// Whoever a process is, for people.
    pub(super) fn who(&self, id: ProcessId) -> String {
        let application = &self.inner.application;
        match self.processes.get(id).map(|process| process.role) {
            Some(Role::Shard(shard)) => format!("shard {shard} of `{}`", self.name(shard)),
            Some(Role::Spare(at)) => format!("spare of `{}`", application.generics[at].name),
            Some(Role::Zygote(id)) => format!("zygote of `{}`", application.component(id).name),
            None => "nobody".into(),
        }
    }

    pub(super) fn note_fault(&self, id: ProcessId, fault: String) {
        match self.processes.get(id).map(|process| process.role) {
            Some(Role::Shard(shard)) => self.inner.note_fault(shard, fault),
            Some(Role::Zygote(component)) => self.inner.note_fault_of(component, fault),
            Some(Role::Spare(_)) | None => {}
        }
    }

    pub(super) fn name(&self, shard: ShardId) -> String {
        let component = self.shards.get(&shard).map(|entry| entry.component);
        component.map(|id| self.inner.application.component(id).name.clone()).unwrap_or_default()
    }
}
