//! The shell: one thread that carries out what is slow, and turns what happens in the world into events.
//!
//! It owns the launch helper and the composer's processes, their control sockets and pidfds, and waits on all of them
//! with mio. What the core decides comes over a channel, in order. Where a shard comes from is the shell's choice: the
//! cheapest that is at hand (`sources`).
//!
//! What a shard needs of the host is its own from before it is started until it was reaped. Shards that are launched as a
//! set get their parts of the host all together, or none is started; the core is told what is missing and waits.
//!
//! Invariant: for every `Launch` the core hears exactly one `ShardExited` or `NoRoom` in the end, for every `Wire` one `Wired` or
//! `WireFailed` unless one of its ends is gone.

mod homes;
mod limits;
mod loads;
mod sources;
mod told;
mod wires;

use crate::core::{Effect, End, Event, Exit, KillReason, Tier, WireId};
use crate::freezer::Freezer;
use crate::groups::{Groups, Limits};
use crate::history::History;
use crate::host::{Host, free_memory_bytes, owns_processors, time_of_week};
use crate::hub::Slow;
use crate::inner::{Inner, Page, Start};
use crate::interrupts::Interrupts;
use crate::launcher::{FromLauncher, Launcher, ToLauncher};
use crate::load::Gauge;
use crate::oci::Container;
use crate::processes::{Process, ProcessId, Processes, Role, What};
use crate::realtime::Realtime;
use crate::resources::{Grant, Shortage};
use crate::said::said;
use crate::scaler::Scaler;
use homes::Home;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use rustix::process::Signal;
use shard_runtime::clock;
use shard_runtime::control::{
    COMPOSER_COMPONENT, COMPOSER_LINK, ControlError, FromShard, PROTOCOL_VERSION, Packet, ToShard, Welcome,
    Wire, close_aside,
};
use shard_runtime::id::{ComponentId, LinkId, ShardId};
use shard_runtime::isolation::Absent;
use shard_runtime::region::Region;
use shard_runtime::ring::Ring;
use shard_runtime::stats::{Stats, StatsReader};
use shard_runtime::wake::create_bell;
use shardkit::application::Needs;
use shardkit::open_wire;
use sources::Sources;
use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use told::tell_of;
use wires::{Pending, mirror};

pub(crate) const WAKER: Token = Token(0);
const LAUNCHER: Token = Token(1);
const GROUPS: Token = Token(2);

/// The rings between composer and shard carry a few small frames for each session.
const CONTROL_RING_BYTES: usize = 16 << 10;
const CONTROL_MESSAGE_BYTES_MAX: u32 = 2048;
/// The longest that the shell sleeps without looking at the core's deadlines.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A shard as the shell sees it.
struct Shard {
    component: ComponentId,
    /// None as long as it waits for a zygote.
    process: Option<ProcessId>,
    /// Its part of the host.
    grant: Grant,
    from: Tier,
    bell: Region,
    stats: Region,
    link: LinkId,
    welcomed: bool,
    launched_ns: u64,
    /// It may use the processor with nothing to do.
    polls: bool,
    /// Where its thread is woken, if it sleeps and has no processor of its own.
    home: Option<Home>,
    /// Watches its load, while it has sessions.
    gauge: Option<Gauge>,
    /// How many messages it has refused, as far as that was told.
    refused: u64,
    /// For so many looks in a row it has flooded the embedder with what is refused.
    floods: u32,
}

/// See the head of this file.
pub(crate) struct Shell {
    inner: Arc<Inner>,
    poll: Poll,
    slow: crossbeam::channel::Receiver<Slow>,
    launcher: Option<Launcher>,
    programs: Vec<Option<Executable>>,
    quiet: bool,
    processes: Processes,
    sources: Sources,
    shards: HashMap<ShardId, Shard>,
    freezer: Freezer,
    /// The core was told to end everything: nothing is started any more.
    ending: bool,
    wiring: HashMap<WireId, Pending>,
    packet: Packet,
    embed_bell: Option<Region>,
    hub_bell: Region,
    host: Host,
    /// What is to be launched together, as far as it has been heard.
    set: Vec<(ShardId, ComponentId)>,
    /// Which processors are shared has changed.
    shared_changed: bool,
    /// Whether some composition lets its sessions end when nobody uses them.
    has_idle_timeouts: bool,
    /// The shards whose loads matter, in the order of their turns, and when the next turns are. Some may be gone.
    watched: VecDeque<ShardId>,
    loads_due_ns: u64,
    /// When it is told next what was refused.
    refusals_due_ns: u64,
    /// Where the scaler's memory is kept.
    history: Option<History>,
    told_absent: HashSet<Absent>,
    realtime: Realtime,
    /// None if they go where they went before.
    interrupts: Option<Interrupts>,
}

/// What is started for a component.
#[derive(Clone)]
pub(crate) enum Executable {
    /// A program of the host.
    Program(PathBuf),
    /// An image, in a container.
    Container(Container),
}

/// What the shell is made of.
pub(crate) struct Parts {
    pub(crate) poll: Poll,
    pub(crate) slow: crossbeam::channel::Receiver<Slow>,
    pub(crate) launcher: Launcher,
    pub(crate) programs: Vec<Option<Executable>>,
    pub(crate) generic_programs: Vec<PathBuf>,
    pub(crate) quiet: bool,
    pub(crate) embed_bell: Option<Region>,
    pub(crate) hub_bell: Region,
    pub(crate) host: Host,
    pub(crate) history: Option<History>,
    pub(crate) groups: Groups,
    pub(crate) interrupts: Option<Interrupts>,
}

/// Whatever ends the shell's thread, a panic too: nobody waits for it for ever. Its shards end with the helper, which goes
/// with the shell.
struct Over(Arc<Inner>);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.finish();
    }
}

impl Shell {
    pub(crate) fn new(inner: Arc<Inner>, parts: Parts) -> io::Result<Self> {
        let Parts {
            poll,
            slow,
            launcher,
            programs,
            generic_programs,
            quiet,
            embed_bell,
            hub_bell,
            host,
            history,
            groups,
            interrupts,
        } = parts;
        let fd = launcher.socket.as_fd().as_raw_fd();
        poll.registry().register(&mut SourceFd(&fd), LAUNCHER, Interest::READABLE)?;
        let (shards, wiring) = (HashMap::new(), HashMap::new());
        let has_idle_timeouts = inner.application.compositions.iter().any(|c| c.idle_timeout_ms.is_some());
        if let Some(watch) = groups.watch() {
            poll.registry().register(&mut SourceFd(&watch.as_raw_fd()), GROUPS, Interest::READABLE)?;
        }
        let processes = Processes::new(poll.registry().try_clone()?, groups);
        let sources = Sources::new(&inner.application, generic_programs);
        Ok(Self {
            has_idle_timeouts,
            watched: VecDeque::new(),
            loads_due_ns: 0,
            refusals_due_ns: 0,
            history,
            told_absent: HashSet::new(),
            realtime: Realtime::default(),
            interrupts,
            inner,
            poll,
            slow,
            launcher: Some(launcher),
            programs,
            quiet,
            processes,
            sources,
            shards,
            freezer: Freezer::default(),
            ending: false,
            wiring,
            packet: Packet::new(),
            embed_bell,
            hub_bell,
            host,
            set: Vec::new(),
            shared_changed: false,
        })
    }

    /// Runs until the core has finished.
    pub(crate) fn run(mut self) {
        let _over = Over(Arc::clone(&self.inner));
        self.keep_sources();
        self.tell(Event::Start);
        let mut events = Events::with_capacity(256);
        while !self.inner.lock().finished {
            let timeout = self.until_deadline();
            if let Err(error) = self.poll.poll(&mut events, Some(timeout))
                && error.kind() != io::ErrorKind::Interrupted
            {
                tracing::error!(%error, "the composer's event loop failed; it shuts down");
                self.shut_down();
            }
            let ready: Vec<Token> = events.iter().map(mio::event::Event::token).collect();
            for token in ready {
                self.ready(token);
            }
            self.obey();
            self.look_at_time();
            self.move_threads();
            self.keep_sources();
        }
        // The helper ends what is left: spares and zygotes.
        self.launcher = None;
    }

    fn until_deadline(&self) -> Duration {
        let deadline_ns = self.inner.lock().core.next_deadline();
        let left = deadline_ns.map(|at| Duration::from_nanos(at.saturating_sub(clock::now_ns())));
        left.unwrap_or(LOOK_EVERY).min(LOOK_EVERY)
    }

    fn look_at_time(&mut self) {
        self.processes.groups.sweep();
        self.look_at_bin();
        self.look_for_idle_sessions();
        self.look_at_loads();
        self.look_at_refusals();
        let due = self.inner.lock().core.next_deadline().is_some_and(|at| at <= clock::now_ns());
        if due {
            self.tell(Event::Tick);
            self.obey();
        }
    }

    /// Has the pools' targets decided when a bin of time is over.
    fn look_at_bin(&mut self) {
        let now_ns = clock::now_ns();
        if self.inner.lock().bin_ends_ns().is_none_or(|at_ns| at_ns > now_ns) {
            return;
        }
        // The kernel is asked before the hub is taken: claims wait for that lock.
        let free_memory_bytes = free_memory_bytes();
        let application = &self.inner.application;
        let mut hub = self.inner.lock();
        hub.scale(now_ns, time_of_week(), |id| {
            self.host.room(&application.component(id).needs, free_memory_bytes)
        });
        let saved = self.history.as_ref().and(hub.scaler.as_ref()).map(Scaler::save);
        for (at, generic) in application.generics.iter().enumerate() {
            if let Some(wanted) = hub.scaler.as_ref().and_then(|scaler| scaler.spares(at)) {
                tracing::debug!(generic = generic.name, wanted, "spares");
                self.sources.want_spares(at, wanted);
            }
        }
        self.inner.unlock(hub);
        if let (Some(saved), Some(history)) = (saved, &self.history) {
            history.write(&saved);
        }
        self.obey();
    }

    fn look_for_idle_sessions(&self) {
        let Some(embed) = self.inner.embed.as_deref().filter(|_| self.has_idle_timeouts) else { return };
        for session in embed.idle() {
            self.tell(Event::SessionIdle { session });
        }
    }

    fn tell(&self, event: Event) {
        let mut hub = self.inner.lock();
        hub.handle(event);
        self.inner.unlock(hub);
    }

    /// Carries out what the core left to the shell.
    fn obey(&mut self) {
        while let Ok(slow) = self.slow.try_recv() {
            match slow {
                Slow::Effect(effect) => self.carry_out(effect),
                Slow::Fault { shard, fault } => self.inner.note_fault(shard, fault),
                Slow::ShutDown => self.shut_down(),
            }
        }
    }

    fn shut_down(&mut self) {
        self.ending = true;
        self.tell(Event::ShutDown);
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Launch { shard, component, why, more } => {
                let name = &self.inner.application.component(component).name;
                tracing::info!(%shard, component = name, reason = %why, "shard is launched");
                self.set.push((shard, component));
                if !more {
                    self.launch_set();
                }
            }
            Effect::Wire { wire, caller, callee } => self.wire(wire, [caller, callee]),
            Effect::Unwire { wire, at } => self.unwire(wire, at),
            Effect::Stop { shard } => self.stop(shard),
            Effect::Freeze { shard } => self.freeze(shard),
            Effect::Thaw { shard } => self.thaw(shard),
            Effect::Kill { shard, reason } => self.kill(shard, reason),
            Effect::Finished => self.inner.lock().finished = true,
            other => tracing::error!(?other, "the hub left an effect to the shell that is its own"),
        }
    }

    // Launching.

    /// Gives all of a set their parts of the host and starts them, or tells the core that there is no room.
    fn launch_set(&mut self) {
        let set = std::mem::take(&mut self.set);
        let needs: Vec<Needs> =
            set.iter().map(|(_, component)| self.inner.application.component(*component).needs).collect();
        match self.host.take_all(&needs) {
            Ok(grants) => {
                for ((shard, component), grant) in set.into_iter().zip(grants) {
                    if let Err(error) = self.try_launch(shard, component, grant) {
                        self.not_launched(shard, component, &error);
                    }
                }
            }
            Err(shortage) => self.no_room(&set, shortage),
        }
    }

    fn no_room(&mut self, set: &[(ShardId, ComponentId)], shortage: Shortage) {
        let lacking = set[shortage.at].1;
        let component = &self.inner.application.component(lacking).name;
        tracing::warn!(shards = set.len(), component, %shortage, "the host has no room; none of the set is started");
        self.inner.note_fault_of(lacking, format!("there is no room for it: {shortage}"));
        let shards = set.iter().map(|(shard, _)| *shard).collect();
        self.tell(Event::NoRoom { shards, shortage: Arc::new(shortage) });
    }

    fn not_launched(&mut self, shard: ShardId, component: ComponentId, error: &LaunchError) {
        let name = &self.inner.application.component(component).name;
        tracing::error!(%shard, component = name, %error, "launch failed");
        self.forget(shard);
        self.tell(Event::ShardExited { shard, how: Exit::NotStarted(errno(error)) });
    }

    /// Makes what a shard needs beside its part of the host, and gets it a process.
    fn try_launch(
        &mut self,
        shard: ShardId,
        component: ComponentId,
        grant: Grant,
    ) -> Result<(), LaunchError> {
        let name = &self.inner.application.component(component).name;
        tracing::debug!(%shard, component = name, ?grant, "launching, with its part of the host");
        self.shared_changed |= owns_processors(&grant);
        let made = || {
            let link = self.inner.lock().reserve_link(shard).ok_or(LaunchError::NoLink)?;
            Ok((link, create_bell("shard-bell")?, Stats::create("shard-stats")?))
        };
        let (link, bell, stats) = match made() {
            Ok(made) => made,
            Err(error) => {
                self.host.give_back(grant);
                return Err(error);
            }
        };
        let entry = Shard {
            component,
            process: None,
            from: Tier::Cold,
            bell,
            stats,
            link,
            grant,
            welcomed: false,
            launched_ns: clock::now_ns(),
            polls: true,
            home: None,
            gauge: None,
            refused: 0,
            floods: 0,
        };
        self.shards.insert(shard, entry);
        self.watch(shard);
        self.start_at_hand(shard, component)
    }

    /// Gets a process for a shard from the cheapest source that is at hand.
    fn start_at_hand(&mut self, shard: ShardId, component: ComponentId) -> Result<(), LaunchError> {
        if self.take_fork(shard, component) || self.take_spare(shard, component) {
            return Ok(());
        }
        let process = self.start_program(Role::Shard(shard), component)?;
        if let Some(entry) = self.shards.get_mut(&shard) {
            entry.process = Some(process);
        }
        Ok(())
    }

    /// A shard has its process.
    fn launched(&self, shard: ShardId, process: ProcessId) {
        let pid = self.processes.get(process).map_or(0, |process| process.pid);
        let from = self.shards.get(&shard).map_or(Tier::Cold, |entry| entry.from);
        let Limits { memory_bytes, processes, weight, cores, rdma, disks, beside: _ } =
            self.limits(Role::Shard(shard));
        let held_by = self.processes.groups.holding(process);
        let component = self.name(shard);
        let isolated = self
            .shards
            .get(&shard)
            .is_some_and(|entry| self.inner.application.component(entry.component).isolation.is_some());
        tracing::info!(
            %shard, component, pid, %from, isolated, memory_bytes, processes, weight, ?cores, ?rdma,
            ?disks, ?held_by, "shard has its process and its limits"
        );
        self.tell(Event::Launched { shard, pid, from });
    }

    fn ready(&mut self, token: Token) {
        match token {
            WAKER => self.look_at_broken_links(),
            LAUNCHER => self.hear_launcher(),
            GROUPS => self.look_at_groups(),
            token => match Processes::what(token) {
                What::Word(process) => self.hear(process),
                What::End(process) => self.ended(process),
            },
        }
    }

    fn hear_launcher(&mut self) {
        while let Some(launcher) = &self.launcher {
            match launcher.socket.receive_as_can_be::<FromLauncher>(&mut self.packet) {
                Ok((message, fds)) => self.heard_launcher(message, fds),
                Err(error) if would_block(&error) => return,
                Err(error) => return self.lost_launcher(&error),
            }
        }
    }

    fn heard_launcher(&mut self, message: FromLauncher, mut fds: Vec<OwnedFd>) {
        match message {
            FromLauncher::Launched { process, pid, absent, outside } => {
                self.tell_absent(process, &absent);
                if outside != 0 {
                    self.processes.groups.outside(process, &io::Error::from_raw_os_error(outside));
                }
                let Some(pidfd) = fds.pop() else { return self.no_descriptor_for(process) };
                self.processes.started(process, pid, pidfd);
                match self.processes.get(process).map(|process| process.role) {
                    Some(Role::Shard(shard)) => {
                        if self.shards.get(&shard).is_some_and(|entry| entry.from == Tier::Zygote) {
                            self.regroup(process);
                        }
                        self.launched(shard, process);
                    }
                    Some(Role::Zygote(component)) => {
                        self.sources.refused(component, absent);
                        self.sources.show();
                    }
                    Some(Role::Spare(_)) => self.sources.show(),
                    None => {}
                }
            }
            FromLauncher::NotLaunched { process, errno, why } => {
                tracing::error!(who = self.who(process), error = why, "could not be started");
                if let Some(Role::Zygote(component)) = self.processes.get(process).map(|process| process.role)
                {
                    self.inner.note_fault_of(component, format!("its zygote could not be started: {why}"));
                    self.sources.has_failed(component);
                }
                if !self.disowned(process) {
                    self.exited(process, Exit::NotStarted(errno));
                }
            }
            FromLauncher::Exited { process, code, signal } => {
                self.exited(process, signal.map_or(Exit::Code(code.unwrap_or(-1)), Exit::Signal));
            }
        }
    }

    /// A process is there, and this one has no descriptor left to know it by: its end is heard of.
    fn no_descriptor_for(&mut self, process: ProcessId) {
        let who = self.who(process);
        tracing::error!(
            who,
            "it is killed: this process has no descriptor left; raise its limit (ulimit -n)"
        );
        if let Some(launcher) = &self.launcher {
            // If the helper is gone that is heard of, too.
            let _ = launcher.socket.send(&ToLauncher::Kill { process }, &[]);
        }
    }

    /// Without the helper its children are dead too: the kernel kills them, unless they have asked it not to.
    fn lost_launcher(&mut self, error: &ControlError) {
        tracing::error!(%error, "the launch helper is gone, and all shards with it; the composer shuts down");
        if let Some(launcher) = self.launcher.take() {
            let fd = launcher.socket.as_fd().as_raw_fd();
            let _ = self.poll.registry().deregister(&mut SourceFd(&fd));
        }
        self.shut_down();
        let killed = Exit::Signal(Signal::KILL.as_raw());
        for process in self.processes.ids() {
            self.processes.kill(process);
            self.exited(process, killed);
        }
        let shards: Vec<ShardId> = self.shards.keys().copied().collect();
        for shard in shards {
            self.shard_exited(shard, killed);
        }
    }

    /// Measures of isolation that this host does not allow are told once each.
    fn tell_absent(&mut self, process: ProcessId, absent: &[Absent]) {
        for absent in absent {
            if self.told_absent.insert(*absent) {
                tracing::warn!(
                    who = self.who(process),
                    measure = %absent.measure,
                    error = %std::io::Error::from_raw_os_error(absent.errno),
                    mend = absent.mend(),
                    "this host does not allow a measure of isolation; shards run without it"
                );
            }
        }
    }

    // A shard's words.

    fn hear(&mut self, id: ProcessId) {
        while let Some(process) = self.processes.get(id) {
            match process.receive(&mut self.packet) {
                Ok((message, fds)) => self.heard(id, message, fds),
                Err(error) if would_block(&error) => return,
                // Whoever has the other end is the zygote, not the shard: its own end says more.
                Err(ControlError::Closed) if self.sources.owed(id) => return self.processes.turn_away(id),
                Err(error) => {
                    if matches!(error, ControlError::Closed) {
                        self.hung_up(id);
                    } else {
                        self.condemn(id, &error.to_string());
                    }
                    // Its end is told by the helper, who knows how it ended.
                    self.processes.turn_away(id);
                    return;
                }
            }
        }
    }

    /// Gives a message to whom its sender is. Only one of a zygote's comes with a descriptor.
    fn heard(&mut self, id: ProcessId, message: FromShard, fds: Vec<OwnedFd>) {
        let Some(role) = self.processes.get(id).map(|process| process.role) else { return };
        let owed = matches!((role, &message), (Role::Zygote(_), FromShard::Forked { .. }));
        if !fds.is_empty() && !owed {
            self.condemn(id, &format!("{} descriptors came with a message that has none", fds.len()));
            close_aside(fds);
            return self.processes.turn_away(id);
        }
        if let FromShard::Hello { version, pid } = message {
            if version != PROTOCOL_VERSION {
                return self.refuse_version(id, version);
            }
            tracing::debug!(who = self.who(id), pid, "hello");
        }
        match role {
            Role::Shard(shard) => self.heard_shard(shard, id, message),
            Role::Spare(generic) => self.heard_spare(generic, id, message),
            Role::Zygote(component) => self.heard_zygote(component, id, message, fds),
        }
    }

    fn refuse_version(&mut self, id: ProcessId, version: u32) {
        self.condemn(id, &format!(
            "speaks protocol version {version}, the composer {PROTOCOL_VERSION}; build it with this release of shardkit"
        ));
    }

    fn heard_shard(&mut self, shard: ShardId, process: ProcessId, message: FromShard) {
        let component = self.name(shard);
        match message {
            FromShard::Hello { .. } => {
                if let Err(error) = self.welcome(shard) {
                    if matches!(error, LaunchError::Control(ControlError::Closed)) {
                        return self.hung_up(process);
                    }
                    self.condemn(process, &format!("it could not be welcomed: {error}"));
                }
            }
            FromShard::Ready => {
                self.shard_ready(shard);
            }
            FromShard::Wired { link } => self.wired_at(shard, link),
            FromShard::Broken { link, error } => {
                // Its first is the composer's, which sees by itself when it is broken.
                if let Some(link) = link.0.checked_sub(1) {
                    self.break_link(End::Shard(shard), LinkId(link), &said(&error));
                }
            }
            FromShard::Failed { reason } => {
                let reason = said(&reason);
                tracing::error!(%shard, component, reason, "shard failed");
                self.inner.note_fault(shard, reason);
            }
            FromShard::Forked { .. } | FromShard::NotForked { .. } => {
                self.condemn(process, "a shard said what only a zygote can say");
            }
        }
    }

    fn shard_ready(&mut self, shard: ShardId) {
        let pid = self.process_of(shard).map(|process| process.pid);
        let Some(entry) = self.shards.get_mut(&shard) else { return };
        if let (Some(home), Some(pid)) = (&mut entry.home, pid) {
            home.begin(pid);
        }
        let took = Duration::from_nanos(clock::now_ns() - entry.launched_ns);
        let (component, from) = (entry.component, entry.from);
        tracing::info!(%shard, component = self.name(shard), %from, ?took, "shard ready");
        // It may have been told of processors that have been given away since.
        self.shared_changed = true;
        self.inner.note_start(component, Start { tier: from, took });
        self.hurry(shard);
        self.tell(Event::ShardReady { shard });
    }

    fn welcome(&mut self, shard: ShardId) -> Result<(), LaunchError> {
        let entry = self.shards.get_mut(&shard).ok_or(LaunchError::NoLauncher)?;
        if std::mem::replace(&mut entry.welcomed, true) {
            return Err(LaunchError::Twice);
        }
        let process = entry.process.and_then(|process| self.processes.get(process));
        let socket = &process.ok_or(LaunchError::NoLauncher)?.socket;
        let spec = self.inner.application.component(entry.component);
        let grant = &entry.grant;
        let (core, shared_cores) = self.host.processors(grant);
        let spin_us = self.host.spin_us(spec.wait, grant);
        entry.polls = spin_us > 0;
        entry.home = (core.is_none() && !entry.polls).then(|| Home::new(grant, &mut self.host));
        let welcome = Welcome {
            shard,
            component: entry.component,
            spec: postcard::to_stdvec(spec).map_err(|error| LaunchError::Spec(error.to_string()))?,
            core: core.or_else(|| entry.home.as_ref()?.processor()),
            shared_cores,
            spin_us,
        };
        socket.send(&ToShard::Welcome(welcome), &[entry.bell.as_fd(), entry.stats.as_fd()])?;

        let rings = [CONTROL_RING_BYTES; 2];
        let [to_shard, from_shard] =
            [Ring::create("shard-control", rings[0])?, Ring::create("shard-control", rings[1])?];
        let wire = Wire {
            link: COMPOSER_LINK,
            peer_link: entry.link,
            component: COMPOSER_COMPONENT,
            shard: None,
            in_ring_bytes: rings[0] as u32,
            out_ring_bytes: rings[1] as u32,
            in_message_bytes_max: CONTROL_MESSAGE_BYTES_MAX,
            out_message_bytes_max: CONTROL_MESSAGE_BYTES_MAX,
        };
        let fds = [to_shard.as_fd(), from_shard.as_fd(), self.hub_bell.as_fd()];
        socket.send(&ToShard::Wire(wire), &fds)?;
        let mirrored = mirror(&wire, entry.link, entry.component, Some(shard));
        let fds = vec![from_shard.into(), to_shard.into(), entry.bell.duplicate()?.into()];
        let (inbound, outbound) =
            open_wire(&mirrored, fds).map_err(|error| LaunchError::Spec(error.to_string()))?;
        let descriptor = entry.stats.read_only()?;
        let reader = Arc::new(StatsReader::map(descriptor.as_fd())?);
        self.inner.pages().insert(shard, Page { reader, descriptor });
        let mut hub = self.inner.lock();
        hub.attach(shard, entry.link, inbound, outbound);
        self.inner.unlock(hub);
        Ok(())
    }

    /// A welcome has not arrived: the shard will get another process.
    fn unwelcome(&mut self, shard: ShardId) {
        if let Some(entry) = self.shards.get_mut(&shard) {
            entry.welcomed = false;
            entry.home.take().into_iter().for_each(|home| home.give_back(&mut self.host));
            entry.process = None;
            entry.from = Tier::Cold;
        }
    }

    fn process_of(&self, shard: ShardId) -> Option<&Process> {
        self.processes.get(self.shards.get(&shard)?.process?)
    }

    // Ending.

    fn stop(&mut self, shard: ShardId) {
        tracing::debug!(%shard, component = self.name(shard), "stopping");
        match self.process_of(shard).map(|process| process.socket.send(&ToShard::Stop, &[])) {
            Some(Ok(())) => {}
            Some(Err(error)) => {
                let component = self.name(shard);
                tracing::warn!(%shard, component, reason = %error, "shard can't be asked to end and is killed");
                self.kill_now(shard);
            }
            None => self.kill_now(shard),
        }
    }

    fn kill(&mut self, shard: ShardId, reason: KillReason) {
        tracing::warn!(%shard, component = self.name(shard), %reason, "shard is killed");
        self.kill_now(shard);
    }

    fn kill_now(&mut self, shard: ShardId) {
        let Some(process) = self.shards.get(&shard).map(|entry| entry.process) else { return };
        if let Some(zygote) = self.sources.debtor(shard, process) {
            tracing::warn!(%shard, component = self.name(shard), "its zygote does not answer and is killed");
            self.processes.kill(zygote);
        }
        match process {
            Some(process) => self.processes.kill(process),
            // It waits for a zygote, so there is nothing to kill.
            None => self.shard_exited(shard, Exit::Signal(Signal::KILL.as_raw())),
        }
    }

    fn freeze(&mut self, shard: ShardId) {
        if let Some(id) = self.shards.get(&shard).and_then(|entry| entry.process)
            && let Some(process) = self.processes.get(id)
            && let Some(pidfd) = &process.pidfd
        {
            self.freezer.freeze(&self.processes.groups, id, process.pid, pidfd.as_fd());
        }
    }

    fn thaw(&mut self, shard: ShardId) {
        if let Some(id) = self.shards.get(&shard).and_then(|entry| entry.process)
            && let Some(process) = self.processes.get(id)
            && let Some(pidfd) = &process.pidfd
        {
            self.freezer.thaw(&self.processes.groups, id, process.pid, pidfd.as_fd());
        }
    }

    /// The pidfd says that the process is over, sooner than the helper can: its sessions end now. How it ended is in
    /// the helper's word that follows at once.
    fn ended(&mut self, process: ProcessId) {
        self.processes.ended(process);
        self.hear(process);
    }

    /// A process is gone: reaped, or never started.
    fn exited(&mut self, id: ProcessId, how: Exit) {
        // Its last words may still be in the socket.
        self.hear(id);
        let how = self.tell_stopped(id, how);
        self.freezer.forget(id);
        let Some(process) = self.processes.remove(id) else { return };
        let lived_ns = clock::now_ns() - process.started_ns;
        match process.role {
            Role::Shard(shard) => self.shard_exited(shard, how),
            Role::Spare(generic) => self.spare_exited(generic, id, lived_ns, how),
            Role::Zygote(component) => self.zygote_exited(component, lived_ns, how),
        }
    }

    fn shard_exited(&mut self, shard: ShardId, how: Exit) {
        let component = self.name(shard);
        let state = self.inner.lock().core.shard(shard).map(|view| view.state);
        let sessions = self.sessions_of(shard);
        if how.is_denial() {
            tracing::error!(%shard, component, ?state, sessions, reason = %how, "shard {how}");
        } else {
            tracing::info!(%shard, component, ?state, sessions, reason = %how, "shard {how}");
        }
        self.forget(shard);
        self.tell(Event::ShardExited { shard, how });
        self.inner.pages().remove(&shard);
    }

    fn forget(&mut self, shard: ShardId) {
        if let Some(entry) = self.shards.remove(&shard) {
            if let Some(process) = entry.process {
                self.processes.remove(process);
            }
            self.shared_changed |= owns_processors(&entry.grant);
            entry.home.into_iter().for_each(|home| home.give_back(&mut self.host));
            self.host.give_back(entry.grant);
        }
        self.sources.give_up(shard);
        let mut hub = self.inner.lock();
        hub.release_link(shard);
        self.inner.unlock(hub);
        self.wiring.retain(|_, pending| pending.ends.iter().all(|end| end.end != End::Shard(shard)));
    }

    /// A process has done what none does that keeps to the protocol: it is killed, and a shard's sessions end with it.
    fn condemn(&mut self, id: ProcessId, reason: &str) {
        if self.processes.get(id).is_some_and(|process| process.doomed) {
            // What it has said before it died is no news.
            return;
        }
        let reason = &said(reason);
        tell_of!(error, self.of(id), reason, "process does not keep to the protocol and is killed");
        self.note_fault(id, reason.to_owned());
        match self.processes.get(id).map(|process| process.role) {
            Some(Role::Shard(shard)) => self.tell(Event::BrokeProtocol { shard }),
            Some(Role::Spare(_) | Role::Zygote(_)) | None => {}
        }
        self.processes.kill(id);
    }

    /// A process has closed its end of its control socket. One that exits does not feel it; one that lives on ends.
    fn hung_up(&mut self, id: ProcessId) {
        if self.processes.get(id).is_some_and(Process::runs) {
            let reason = "it has closed its control socket";
            tell_of!(info, self.of(id), reason, "process exits, or is killed");
        }
        self.processes.kill(id);
    }
}

fn would_block(error: &ControlError) -> bool {
    matches!(error, ControlError::Io(error) if error.kind() == io::ErrorKind::WouldBlock)
}

/// Why a shard could not be launched, welcomed or wired.
#[derive(Debug, thiserror::Error)]
enum LaunchError {
    #[error("the component has no program")]
    NoProgram,
    #[error(
        "{} shards run already, as many as one composer has control links for",
        shard_runtime::wake::LINKS_MAX
    )]
    NoLink,
    #[error("the shard or the launch helper is gone")]
    NoLauncher,
    #[error("the application has no embedder")]
    NoEmbedder,
    #[error("it said hello twice")]
    Twice,
    #[error("{0}")]
    Spec(String),
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error(transparent)]
    Region(#[from] shard_runtime::region::RegionError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

fn errno(error: &LaunchError) -> i32 {
    match error {
        LaunchError::Io(error) => error.raw_os_error().unwrap_or(0),
        LaunchError::NoLink => rustix::io::Errno::MFILE.raw_os_error(),
        _ => rustix::io::Errno::IO.raw_os_error(),
    }
}
