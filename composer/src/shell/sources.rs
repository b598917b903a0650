//! Where shards come from besides their programs: spares of generic programs, and zygotes.
//!
//! A shard is taken from what is at hand: from its component's zygote if that is ready, from a spare that waits, else
//! its program is started. A spare that was taken is replaced. How many wait is the manifest's number or the scaler's.
//!
//! Invariant: nobody waits for a source that has failed. A launch waits for a zygote only while that starts for the
//! first time, because it would take no longer by itself; when the zygote dies, what it owes is started cold. A source
//! that fails is started again, later each time.

use super::{Executable, LaunchError, Shell, errno};
use crate::backoff::Backoff;
use crate::core::{Exit, Tier};
use crate::inner::Source;
use crate::launcher::{Launch, ToLauncher};
use crate::oci::Container;
use crate::processes::{ProcessId, Role};
use rustix::io::Errno;
use shard_runtime::clock;
use shard_runtime::control::{ControlSocket, FromShard, ToShard, Zygote as ZygoteMessage};
use shard_runtime::id::{ComponentId, ShardId};
use shard_runtime::isolation::{Absent, Measure};
use shardkit::application::{Allow, Application, Program};
use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

/// The processes of a generic program that are no shards yet.
pub(super) struct Spares {
    path: PathBuf,
    wanted: usize,
    /// Started, but not heard of yet.
    starting: Vec<ProcessId>,
    /// They wait, the oldest first.
    waiting: VecDeque<ProcessId>,
    /// They were one too many and are being ended.
    dismissed: Vec<ProcessId>,
    backoff: Backoff,
}

/// The zygote of a component.
pub(super) struct Zygote {
    component: ComponentId,
    state: State,
    /// Some shard is to be made from it.
    wanted: bool,
    /// Shards that wait until it is ready.
    waiting: Vec<ShardId>,
    /// Processes that it was asked to fork and has not answered for.
    forking: Vec<ProcessId>,
    backoff: Backoff,
    /// What this host refuses it.
    absent: Vec<Absent>,
    /// It has said itself why it ends.
    has_failed: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Down,
    Starting(ProcessId),
    Ready(ProcessId),
}

/// See the head of this file.
pub(super) struct Sources {
    /// By generic program.
    spares: Vec<Spares>,
    zygotes: Vec<Zygote>,
    /// What is shown of them is not what they are.
    changed: bool,
}

/// What the kernel says where there is no user namespace to be had.
const NO_NAMESPACE: [Errno; 3] = [Errno::PERM, Errno::NOSPC, Errno::USERS];
/// How a program ends that the dynamic loader could not put together.
const NOT_LOADED: i32 = 127;
const NOT_LOADED_HINT: &str =
    " (so does a program whose libraries it can't reach: name their folder in `allow.read`)";

/// What is refused, and what would mend it.
fn told(refused: &Absent) -> String {
    format!("{refused}; to mend it: {}", refused.mend())
}

impl Spares {
    /// The next one that is too many: one that still starts, else the youngest.
    fn dismiss(&mut self) -> Option<ProcessId> {
        if self.starting.len() + self.waiting.len() <= self.wanted {
            return None;
        }
        let spare = self.starting.pop().or_else(|| self.waiting.pop_back())?;
        self.dismissed.push(spare);
        Some(spare)
    }
}

impl Sources {
    /// `paths` are those of the generic programs.
    pub(super) fn new(application: &Application, paths: Vec<PathBuf>) -> Self {
        let spares = application.generics.iter().zip(paths).map(|(generic, path)| Spares {
            path,
            wanted: generic.spares.first() as usize,
            starting: Vec::new(),
            waiting: VecDeque::new(),
            dismissed: Vec::new(),
            backoff: Backoff::default(),
        });
        let ids = (0..application.components.len()).map(|at| ComponentId(at as u16));
        let zygotes = ids.filter(|id| application.component(*id).zygote).map(|component| Zygote {
            component,
            state: State::Down,
            wanted: application.component(component).shards.warm > 0,
            waiting: Vec::new(),
            forking: Vec::new(),
            backoff: Backoff::default(),
            absent: Vec::new(),
            has_failed: false,
        });
        Self { spares: spares.collect(), zygotes: zygotes.collect(), changed: true }
    }

    fn zygote(&mut self, component: ComponentId) -> Option<&mut Zygote> {
        self.zygotes.iter_mut().find(|zygote| zygote.component == component)
    }

    /// What this host refuses a zygote's process.
    pub(super) fn refused(&mut self, component: ComponentId, absent: Vec<Absent>) {
        if let Some(zygote) = self.zygote(component) {
            zygote.absent = absent;
        }
    }

    /// It is known why a zygote ends.
    pub(super) fn has_failed(&mut self, component: ComponentId) {
        if let Some(zygote) = self.zygote(component) {
            zygote.has_failed = true;
        }
    }

    /// Something of what is shown has changed.
    pub(super) fn show(&mut self) {
        self.changed = true;
    }

    /// So many spares of a generic program are to wait.
    pub(super) fn want_spares(&mut self, generic: usize, wanted: u32) {
        self.spares[generic].wanted = wanted as usize;
    }

    /// A shard ends that may still wait for its zygote.
    pub(super) fn give_up(&mut self, shard: ShardId) {
        for zygote in &mut self.zygotes {
            zygote.waiting.retain(|waiting| *waiting != shard);
        }
    }

    /// Whether a zygote was asked for this process and has not answered yet.
    pub(super) fn owed(&self, process: ProcessId) -> bool {
        self.zygotes.iter().any(|zygote| zygote.forking.contains(&process))
    }

    /// The zygote that a shard waits for: to be ready, or to fork this process.
    pub(super) fn debtor(&self, shard: ShardId, process: Option<ProcessId>) -> Option<ProcessId> {
        let owes = |zygote: &&Zygote| {
            zygote.waiting.contains(&shard) || process.is_some_and(|id| zygote.forking.contains(&id))
        };
        match self.zygotes.iter().find(owes)?.state {
            State::Starting(zygote) | State::Ready(zygote) => Some(zygote),
            State::Down => None,
        }
    }
}

impl Shell {
    /// Starts what is missing of spares and zygotes, as far as its back-off allows, ends spares that are too many, and
    /// shows what there is.
    pub(super) fn keep_sources(&mut self) {
        if self.ending || self.launcher.is_none() {
            return;
        }
        let now_ns = clock::now_ns();
        for at in 0..self.sources.spares.len() {
            while self.sources.spares[at].starting.len() + self.sources.spares[at].waiting.len()
                < self.sources.spares[at].wanted
                && self.sources.spares[at].backoff.is_over(now_ns)
            {
                self.start_spare(at);
            }
            while let Some(spare) = self.sources.spares[at].dismiss() {
                self.sources.changed = true;
                self.processes.kill(spare);
            }
        }
        for at in 0..self.sources.zygotes.len() {
            let zygote = &self.sources.zygotes[at];
            if zygote.wanted && zygote.state == State::Down && zygote.backoff.is_over(now_ns) {
                self.start_zygote(at);
            }
        }
        if std::mem::take(&mut self.sources.changed) {
            self.inner.show_sources(self.source_list());
        }
    }

    fn source_list(&self) -> Vec<Source> {
        let info = |process: ProcessId, tier, name: &str, waiting| {
            let pid = self.processes.get(process).map_or(0, |process| process.pid);
            Source { tier, name: name.to_owned(), pid, waiting }
        };
        let mut list = Vec::new();
        for (spares, generic) in self.sources.spares.iter().zip(&self.inner.application.generics) {
            list.extend(spares.waiting.iter().map(|p| info(*p, Tier::Generic, &generic.name, true)));
            list.extend(spares.starting.iter().map(|p| info(*p, Tier::Generic, &generic.name, false)));
        }
        for zygote in &self.sources.zygotes {
            let name = &self.inner.application.component(zygote.component).name;
            match zygote.state {
                State::Down => {}
                State::Starting(process) => list.push(info(process, Tier::Zygote, name, false)),
                State::Ready(process) => list.push(info(process, Tier::Zygote, name, true)),
            }
        }
        list
    }

    // Starting.

    /// Starts a program in the role that a process is to have.
    pub(super) fn start_process(
        &mut self,
        role: Role,
        executable: Executable,
        program: &Program,
        isolation: Option<Allow>,
    ) -> Result<ProcessId, LaunchError> {
        let (process, theirs) = self.processes.add(role)?;
        let quiet = self.quiet;
        let zygote = matches!(role, Role::Zygote(_));
        let realtime = self.realtime_of(role);
        let group = self.processes.groups.make(process, self.limits(role));
        let launch = match executable {
            Executable::Program(path) => {
                let (args, env) = (program.args.clone(), program.env.clone());
                let container = None;
                Launch { process, program: path, args, env, quiet, isolation, zygote, realtime, container }
            }
            // Arguments and environment are in its configuration.
            Executable::Container(Container { runtime, arguments, place }) => {
                let (program, args, env, container) = (runtime, arguments, Vec::new(), Some(place));
                Launch { process, program, args, env, quiet, isolation: None, zygote, realtime, container }
            }
        };
        let launch = ToLauncher::Launch(Box::new(launch));
        let fds: Vec<_> = [theirs.as_fd()].into_iter().chain(group.as_ref().map(AsFd::as_fd)).collect();
        let launcher = self.launcher.as_ref().ok_or(LaunchError::NoLauncher);
        match launcher.and_then(|launcher| Ok(launcher.socket.send(&launch, &fds)?)) {
            Ok(()) => Ok(process),
            Err(error) => {
                self.processes.remove(process);
                Err(error)
            }
        }
    }

    fn start_spare(&mut self, at: usize) {
        let application = std::sync::Arc::clone(&self.inner.application);
        let generic = &application.generics[at];
        let path = self.sources.spares[at].path.clone();
        self.sources.changed = true;
        // What it can become is isolated alike.
        let isolation = application.component(generic.components[0]).isolation.clone();
        match self.start_process(Role::Spare(at), Executable::Program(path), &generic.program, isolation) {
            Ok(process) => self.sources.spares[at].starting.push(process),
            Err(error) => {
                let wait = self.sources.spares[at].backoff.failed(clock::now_ns(), 0);
                tracing::error!(generic = generic.name, %error, ?wait, "a spare could not be started");
            }
        }
    }

    fn start_zygote(&mut self, at: usize) {
        let component = self.sources.zygotes[at].component;
        self.sources.changed = true;
        self.sources.zygotes[at].has_failed = false;
        match self.start_program(Role::Zygote(component), component) {
            Ok(process) => self.sources.zygotes[at].state = State::Starting(process),
            Err(error) => {
                let wait = self.sources.zygotes[at].backoff.failed(clock::now_ns(), 0);
                let component = self.inner.application.component(component).name.clone();
                tracing::error!(component, %error, ?wait, "the zygote could not be started");
                self.disappoint(at);
            }
        }
    }

    /// Starts a component's own program.
    pub(super) fn start_program(
        &mut self,
        role: Role,
        component: ComponentId,
    ) -> Result<ProcessId, LaunchError> {
        let application = std::sync::Arc::clone(&self.inner.application);
        let isolation = application.component(component).isolation.clone();
        let program = application.component(component).program.as_ref().ok_or(LaunchError::NoProgram)?;
        let executable = self.programs[usize::from(component.0)].clone().ok_or(LaunchError::NoProgram)?;
        self.start_process(role, executable, program, isolation)
    }

    // Spares.

    /// Makes a waiting spare the process of a shard. False if there is none for its component.
    pub(super) fn take_spare(&mut self, shard: ShardId, component: ComponentId) -> bool {
        let Some(at) = self.inner.application.generic_of(component) else { return false };
        while let Some(process) = self.sources.spares[at].waiting.pop_front() {
            self.sources.changed = true;
            let Some(spare) = self.processes.get_mut(process).filter(|spare| spare.runs()) else {
                // Its end is about to be heard of.
                continue;
            };
            spare.role = Role::Shard(shard);
            self.regroup(process);
            if let Some(entry) = self.shards.get_mut(&shard) {
                entry.process = Some(process);
                entry.from = Tier::Generic;
            }
            match self.welcome(shard) {
                Ok(()) => {
                    self.sources.spares[at].backoff.worked();
                    self.launched(shard, process);
                    return true;
                }
                Err(error) => {
                    tracing::warn!(%shard, %error, "a spare could not be welcomed and is killed");
                    // It may have said why, as the shard that it was to be.
                    self.hear(process);
                    self.unwelcome(shard);
                    if let Some(spare) = self.processes.get_mut(process) {
                        spare.role = Role::Spare(at);
                    }
                    self.processes.kill(process);
                }
            }
        }
        false
    }

    pub(super) fn heard_spare(&mut self, at: usize, process: ProcessId, message: FromShard) {
        let (name, spares) = (&self.inner.application.generics[at].name, &mut self.sources.spares[at]);
        self.sources.changed = true;
        if spares.dismissed.contains(&process) {
            return;
        }
        match message {
            FromShard::Hello { .. } if spares.starting.contains(&process) => {
                spares.starting.retain(|starting| *starting != process);
                spares.waiting.push_back(process);
            }
            FromShard::Failed { reason } => tracing::error!(generic = name, reason, "spare failed"),
            other => {
                self.condemn(process, &format!("a spare said what only a shard can say: {other:?}"));
            }
        }
    }

    pub(super) fn spare_exited(&mut self, at: usize, process: ProcessId, lived_ns: u64, how: Exit) {
        let (name, spares) = (&self.inner.application.generics[at].name, &mut self.sources.spares[at]);
        self.sources.changed = true;
        if let Some(dismissed) = spares.dismissed.iter().position(|dismissed| *dismissed == process) {
            spares.dismissed.swap_remove(dismissed);
            return;
        }
        spares.starting.retain(|starting| *starting != process);
        spares.waiting.retain(|waiting| *waiting != process);
        let wait = spares.backoff.failed(clock::now_ns(), lived_ns);
        tracing::error!(generic = name, ?wait, "a spare {how}; another will be started");
    }

    // Zygotes.

    /// Has a shard forked, or lets it wait for a zygote that starts. False if its component has no zygote, or none that
    /// is any good.
    pub(super) fn take_fork(&mut self, shard: ShardId, component: ComponentId) -> bool {
        let Some(zygote) = self.sources.zygote(component) else { return false };
        zygote.wanted = true;
        match zygote.state {
            State::Ready(process) => self.ask_for_fork(shard, component, process),
            State::Down | State::Starting(_) if zygote.backoff.has_failed() => false,
            State::Down | State::Starting(_) => {
                zygote.waiting.push(shard);
                true
            }
        }
    }

    fn ask_for_fork(&mut self, shard: ShardId, component: ComponentId, zygote: ProcessId) -> bool {
        let Ok((process, theirs)) = self.processes.add(Role::Shard(shard)) else { return false };
        if let Err(error) = self.send_fork(zygote, process, &theirs) {
            tracing::warn!(%shard, %error, "the zygote can't be asked");
            self.processes.remove(process);
            return false;
        }
        if let Some(zygote) = self.sources.zygote(component) {
            zygote.forking.push(process);
        }
        if let Some(entry) = self.shards.get_mut(&shard) {
            entry.process = Some(process);
            entry.from = Tier::Zygote;
        }
        true
    }

    fn send_fork(
        &self,
        zygote: ProcessId,
        process: ProcessId,
        theirs: &ControlSocket,
    ) -> Result<(), LaunchError> {
        let zygote = self.processes.get(zygote).ok_or(LaunchError::NoLauncher)?;
        zygote.expect_fork();
        Ok(zygote.socket.send(&ToShard::Fork { process: process.0 }, &[theirs.as_fd()])?)
    }

    pub(super) fn heard_zygote(
        &mut self,
        component: ComponentId,
        process: ProcessId,
        message: FromShard,
        fds: Vec<OwnedFd>,
    ) {
        let name = self.inner.application.component(component).name.clone();
        match message {
            FromShard::Hello { .. } => {
                if let Err(error) = self.welcome_zygote(component, process) {
                    self.condemn(process, &format!("it could not be welcomed: {error}"));
                }
            }
            FromShard::Ready => {
                let Some(zygote) = self.sources.zygote(component) else { return };
                zygote.state = State::Ready(process);
                let waiting = std::mem::take(&mut zygote.waiting);
                self.sources.changed = true;
                tracing::info!(component = name, "zygote ready");
                for shard in waiting {
                    if !self.ask_for_fork(shard, component, process) {
                        self.start_cold(shard);
                    }
                }
            }
            FromShard::Forked { process: forked } => self.forked(component, ProcessId(forked), fds),
            FromShard::NotForked { process: forked, errno } => {
                let isolated = self.inner.application.component(component).isolation.is_some();
                // What it forks gets a user namespace of its own, and everything else by that.
                let refused = Absent { measure: Measure::User, errno };
                let error = std::io::Error::from_raw_os_error(errno);
                let namespace = NO_NAMESPACE.iter().any(|known| known.raw_os_error() == errno);
                let why = if isolated && namespace { told(&refused) } else { error.to_string() };
                tracing::warn!(
                    component = name,
                    error = why,
                    "the zygote could not fork; the shard is started cold"
                );
                self.inner.note_fault_of(
                    component,
                    format!("its zygote can't fork, so its shards are started cold: {why}"),
                );
                if self.take_owed(component, ProcessId(forked)) {
                    self.start_instead(ProcessId(forked));
                }
            }
            FromShard::Failed { reason } => {
                tracing::error!(component = name, reason, "zygote failed");
                self.sources.has_failed(component);
                self.inner.note_fault_of(component, reason);
            }
            other => {
                self.condemn(process, &format!("a zygote said what only a shard can say: {other:?}"));
            }
        }
    }

    fn welcome_zygote(&self, component: ComponentId, process: ProcessId) -> Result<(), LaunchError> {
        let spec = postcard::to_stdvec(self.inner.application.component(component));
        let spec = spec.map_err(|error| LaunchError::Spec(error.to_string()))?;
        let zygote = self.processes.get(process).ok_or(LaunchError::NoLauncher)?;
        Ok(zygote.socket.send(&ToShard::Zygote(ZygoteMessage { component, spec }), &[])?)
    }

    /// The child is there. It counts once the launch helper has found that it is its own.
    fn forked(&mut self, component: ComponentId, process: ProcessId, fds: Vec<OwnedFd>) {
        if !self.take_owed(component, process) {
            return;
        }
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        let adopt = ToLauncher::Adopt { process };
        let asked = self.launcher.as_ref().map(|launcher| launcher.socket.send(&adopt, &fds));
        if !matches!(asked, Some(Ok(()))) {
            tracing::error!("the launch helper can't be told of a forked shard");
            self.exited(process, Exit::NotStarted(rustix::io::Errno::IO.raw_os_error()));
        }
    }

    /// Whether this is a process that a zygote has given and the launch helper does not know for its child. The zygote
    /// is not to be trusted and is killed; the shard is started cold.
    pub(super) fn disowned(&mut self, process: ProcessId) -> bool {
        let Some(Role::Shard(shard)) = self.processes.get(process).map(|process| process.role) else {
            return false;
        };
        let Some(component) = self.shards.get(&shard).filter(|s| s.from == Tier::Zygote).map(|s| s.component)
        else {
            return false;
        };
        let fault = "its zygote gave a process away that it had not forked, and is killed";
        tracing::error!(%shard, component = self.name(shard), "{fault}");
        self.inner.note_fault_of(component, fault.into());
        self.sources.has_failed(component);
        if let Some(State::Ready(zygote)) = self.sources.zygote(component).map(|zygote| zygote.state) {
            self.processes.kill(zygote);
        }
        self.start_instead(process);
        true
    }

    /// Whether the zygote owed this process; it does no longer.
    fn take_owed(&mut self, component: ComponentId, process: ProcessId) -> bool {
        let Some(zygote) = self.sources.zygote(component) else { return false };
        let at = zygote.forking.iter().position(|forking| *forking == process);
        at.map(|at| zygote.forking.swap_remove(at)).is_some()
    }

    pub(super) fn zygote_exited(&mut self, component: ComponentId, lived_ns: u64, how: Exit) {
        let name = self.inner.application.component(component).name.clone();
        let Some(at) = self.sources.zygotes.iter().position(|zygote| zygote.component == component) else {
            return;
        };
        let zygote = &mut self.sources.zygotes[at];
        zygote.state = State::Down;
        let wait = zygote.backoff.failed(clock::now_ns(), lived_ns);
        self.sources.changed = true;
        let refused: String = zygote.absent.iter().map(|absent| format!("; {}", told(absent))).collect();
        let hint = if how == Exit::Code(NOT_LOADED) { NOT_LOADED_HINT } else { "" };
        tracing::error!(
            component = name,
            ?wait,
            refused = refused.trim_start_matches("; "),
            "the zygote {how}{hint}; shards are started cold until there is another"
        );
        if !zygote.has_failed {
            let refused = if refused.is_empty() {
                refused
            } else {
                format!("; this host refuses it something{refused}")
            };
            self.inner.note_fault_of(component, format!("its zygote {how}{hint}{refused}"));
        }
        self.disappoint(at);
    }

    /// What a zygote owes is started without it.
    fn disappoint(&mut self, at: usize) {
        let zygote = &mut self.sources.zygotes[at];
        let (waiting, forking) = (std::mem::take(&mut zygote.waiting), std::mem::take(&mut zygote.forking));
        waiting.into_iter().for_each(|shard| self.start_cold(shard));
        forking.into_iter().for_each(|process| self.start_instead(process));
    }

    /// A process will not come: its shard is started cold, unless nobody wants it any more.
    fn start_instead(&mut self, process: ProcessId) {
        let Some(gone) = self.processes.remove(process) else { return };
        let Role::Shard(shard) = gone.role else { return };
        if gone.doomed {
            self.shard_exited(shard, Exit::Signal(rustix::process::Signal::KILL.as_raw()));
        } else {
            self.start_cold(shard);
        }
    }

    /// Starts the program of a shard that is known already.
    fn start_cold(&mut self, shard: ShardId) {
        let Some(entry) = self.shards.get_mut(&shard) else { return };
        entry.from = Tier::Cold;
        let component = entry.component;
        match self.start_program(Role::Shard(shard), component) {
            Ok(process) => {
                if let Some(entry) = self.shards.get_mut(&shard) {
                    entry.process = Some(process);
                }
            }
            Err(error) => {
                tracing::error!(%shard, component = self.name(shard), %error, "launch failed");
                self.shard_exited(shard, Exit::NotStarted(errno(&error)));
            }
        }
    }
}
