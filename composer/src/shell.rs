//! The shell: one thread that carries out what is slow, and turns what happens in the world into events.
//!
//! It owns the launch helper, the shards' control sockets and their pidfds, and waits on all of them with mio. What
//! the core decides comes over a channel, in order.
//!
//! Invariant: for every `Launch` the core hears exactly one `ShardExited` in the end, for every `Wire` one `Wired` or
//! `WireFailed` unless one of its ends is gone. No shard keeps the shell busy: one that sends more messages than the
//! protocol has for it is killed.

use crate::core::{Effect, End, Event, Exit, KillReason, Tier, WireEnd, WireId};
use crate::embed::Embed;
use crate::host::Cores;
use crate::hub::{Hub, Slow, shard_of, slot};
use crate::inner::{Inner, Page};
use crate::launcher::{FromLauncher, Launch, Launcher};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use rustix::process::{Signal, pidfd_send_signal};
use shard_runtime::clock;
use shard_runtime::control::{
    COMPOSER_LINK, ControlError, ControlSocket, FromShard, PROTOCOL_VERSION, Packet, ToShard, Welcome, Wire,
};
use shard_runtime::id::{ComponentId, LinkId, ShardId};
use shard_runtime::region::Region;
use shard_runtime::ring::Ring;
use shard_runtime::stats::{Stats, StatsReader};
use shard_runtime::wake::create_bell;
use shardkit::open_wire;
use std::cell::Cell;
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub(crate) const WAKER: Token = Token(0);
const LAUNCHER: Token = Token(1);
/// Tokens of shards: their numbers, twice, behind the two above.
const FIRST_SHARD: usize = 2;

/// The rings between composer and shard carry a few small frames for each session.
const CONTROL_RING_BYTES: usize = 16 << 10;
const CONTROL_MESSAGE_BYTES_MAX: u32 = 2048;
/// The longest that the shell sleeps without looking at the core's deadlines.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// So many messages a shard may send at most, if it is wired to nobody: hello, ready, what it says of the link to the
/// composer, and, from either of its threads, that it failed.
const MESSAGES_MAX: u32 = 4 + MESSAGES_PER_WIRE_MAX;
/// So many more it may send for each wire: that it has it, and that it broke.
const MESSAGES_PER_WIRE_MAX: u32 = 2;

/// A shard as the shell sees it.
struct Shard {
    component: ComponentId,
    socket: ControlSocket,
    pidfd: Option<OwnedFd>,
    bell: Region,
    stats: Region,
    link: LinkId,
    core: Option<usize>,
    welcomed: bool,
    /// It is to be killed as soon as its pidfd is here.
    doomed: bool,
    launched_ns: u64,
    /// The shard's end of its socket, until it is launched.
    theirs: Option<ControlSocket>,
    /// How many messages it may still send.
    messages_left: Cell<u32>,
}

impl Shard {
    /// The shard's next message. Descriptors that come with it are closed: it has none to give.
    fn receive(&self, packet: &mut Packet) -> Result<FromShard, ControlError> {
        let (message, _) = self.socket.receive(packet)?;
        let left = self.messages_left.get().checked_sub(1);
        self.messages_left.set(left.ok_or_else(|| {
            ControlError::Garbled("the shard has said all that there is to say already".into())
        })?);
        Ok(message)
    }

    fn send_wire(&self, wire: Wire, fds: &[BorrowedFd<'_>]) -> Result<(), ControlError> {
        self.messages_left.set(self.messages_left.get().saturating_add(MESSAGES_PER_WIRE_MAX));
        self.socket.send(&ToShard::Wire(wire), fds)
    }
}

/// A wire that waits for its ends to say that they have it.
struct Pending {
    ends: [WireEnd; 2],
    missing: Vec<(ShardId, LinkId)>,
}

/// See the head of this file.
pub(crate) struct Shell {
    inner: Arc<Inner>,
    poll: Poll,
    slow: crossbeam::channel::Receiver<Slow>,
    launcher: Option<Launcher>,
    programs: Vec<Option<PathBuf>>,
    quiet: bool,
    shards: HashMap<ShardId, Shard>,
    wiring: HashMap<WireId, Pending>,
    packet: Packet,
    embed_bell: Option<Region>,
    hub_bell: Region,
    cores: Cores,
    /// Whether some composition lets its sessions end when nobody uses them.
    has_idle_timeouts: bool,
}

/// What the shell is made of.
pub(crate) struct Parts {
    pub(crate) poll: Poll,
    pub(crate) slow: crossbeam::channel::Receiver<Slow>,
    pub(crate) launcher: Launcher,
    pub(crate) programs: Vec<Option<PathBuf>>,
    pub(crate) quiet: bool,
    pub(crate) embed_bell: Option<Region>,
    pub(crate) hub_bell: Region,
    pub(crate) cores: Cores,
}

impl Shell {
    pub(crate) fn new(inner: Arc<Inner>, parts: Parts) -> io::Result<Self> {
        let Parts { poll, slow, launcher, programs, quiet, embed_bell, hub_bell, cores } = parts;
        let fd = launcher.socket.as_fd().as_raw_fd();
        poll.registry().register(&mut SourceFd(&fd), LAUNCHER, Interest::READABLE)?;
        let (shards, wiring) = (HashMap::new(), HashMap::new());
        let has_idle_timeouts = inner.application.compositions.iter().any(|c| c.idle_timeout_ms.is_some());
        Ok(Self {
            has_idle_timeouts,
            inner,
            poll,
            slow,
            launcher: Some(launcher),
            programs,
            quiet,
            shards,
            wiring,
            packet: Packet::new(),
            embed_bell,
            hub_bell,
            cores,
        })
    }

    /// Runs until the core has finished.
    pub(crate) fn run(mut self) {
        self.tell(Event::Start);
        let mut events = Events::with_capacity(256);
        while !self.inner.lock().finished {
            let timeout = self.until_deadline();
            if let Err(error) = self.poll.poll(&mut events, Some(timeout))
                && error.kind() != io::ErrorKind::Interrupted
            {
                tracing::error!(%error, "the composer's event loop failed; it shuts down");
                self.tell(Event::ShutDown);
            }
            let ready: Vec<Token> = events.iter().map(mio::event::Event::token).collect();
            for token in ready {
                self.ready(token);
            }
            self.obey();
            self.look_at_time();
        }
        self.launcher = None;
        self.inner.finish();
    }

    fn until_deadline(&self) -> Duration {
        let deadline_ns = self.inner.lock().core.next_deadline();
        let left = deadline_ns.map(|at| Duration::from_nanos(at.saturating_sub(clock::now_ns())));
        left.unwrap_or(LOOK_EVERY).min(LOOK_EVERY)
    }

    fn look_at_time(&mut self) {
        self.look_for_idle_sessions();
        let due = self.inner.lock().core.next_deadline().is_some_and(|at| at <= clock::now_ns());
        if due {
            self.tell(Event::Tick);
            self.obey();
        }
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
                Slow::ShutDown => self.tell(Event::ShutDown),
            }
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Launch { shard, component } => self.launch(shard, component),
            Effect::Wire { wire, caller, callee } => self.wire(wire, [caller, callee]),
            Effect::Unwire { wire, at } => self.unwire(wire, at),
            Effect::Freeze { shard } => self.freeze(shard, true),
            Effect::Thaw { shard } => self.freeze(shard, false),
            Effect::Stop { shard } => self.stop(shard),
            Effect::Kill { shard, reason } => self.kill(shard, reason),
            Effect::Finished => self.inner.lock().finished = true,
            other => tracing::error!(?other, "the hub left an effect to the shell that is its own"),
        }
    }

    // Launching.

    fn launch(&mut self, shard: ShardId, component: ComponentId) {
        if let Err(error) = self.try_launch(shard, component) {
            let name = &self.inner.application.component(component).name;
            tracing::error!(%shard, component = name, %error, "launch failed");
            self.forget(shard);
            self.tell(Event::ShardExited { shard, how: Exit::NotStarted(errno(&error)) });
        }
    }

    fn try_launch(&mut self, shard: ShardId, component: ComponentId) -> Result<(), LaunchError> {
        let spec = self.inner.application.component(component);
        let program = self.programs[usize::from(component.0)].clone().ok_or(LaunchError::NoProgram)?;
        let link = self.inner.lock().reserve_link(shard).ok_or(LaunchError::NoLink)?;
        let (ours, theirs) = ControlSocket::pair()?;
        ours.set_nonblocking()?;
        let fd = ours.as_fd().as_raw_fd();
        let token = Token(FIRST_SHARD + shard.0 as usize * 2);
        self.poll.registry().register(&mut SourceFd(&fd), token, Interest::READABLE)?;
        let entry = Shard {
            component,
            socket: ours,
            pidfd: None,
            bell: create_bell("shard-bell")?,
            stats: Stats::create("shard-stats")?,
            link,
            core: self.cores.take(spec.needs.cores),
            welcomed: false,
            doomed: false,
            launched_ns: clock::now_ns(),
            theirs: Some(theirs),
            messages_left: Cell::new(MESSAGES_MAX),
        };
        let launcher = self.launcher.as_ref().ok_or(LaunchError::NoLauncher)?;
        let declared = spec.program.as_ref().ok_or(LaunchError::NoProgram)?;
        let (args, env, quiet) = (declared.args.clone(), declared.env.clone(), self.quiet);
        let launch = Launch { shard, program, args, env, quiet };
        let theirs = entry.theirs.as_ref().map(AsFd::as_fd);
        launcher.socket.send(&launch, theirs.as_slice())?;
        self.shards.insert(shard, Shard { theirs: None, ..entry });
        tracing::debug!(%shard, component = spec.name, "launching");
        Ok(())
    }

    fn ready(&mut self, token: Token) {
        match token {
            WAKER => self.look_at_broken_links(),
            LAUNCHER => self.hear_launcher(),
            Token(number) => {
                let shard = ShardId(((number - FIRST_SHARD) / 2) as u32);
                if (number - FIRST_SHARD).is_multiple_of(2) { self.hear(shard) } else { self.ended(shard) }
            }
        }
    }

    fn hear_launcher(&mut self) {
        while let Some(launcher) = &self.launcher {
            match launcher.socket.receive::<FromLauncher>(&mut self.packet) {
                Ok((message, fds)) => self.heard_launcher(message, fds),
                Err(error) if would_block(&error) => return,
                Err(error) => return self.lost_launcher(&error),
            }
        }
    }

    fn heard_launcher(&mut self, message: FromLauncher, mut fds: Vec<OwnedFd>) {
        match message {
            FromLauncher::Launched { shard, pid } => {
                if let (Some(entry), Some(pidfd)) = (self.shards.get_mut(&shard), fds.pop()) {
                    let token = Token(FIRST_SHARD + shard.0 as usize * 2 + 1);
                    let fd = pidfd.as_raw_fd();
                    if let Err(error) =
                        self.poll.registry().register(&mut SourceFd(&fd), token, Interest::READABLE)
                    {
                        tracing::warn!(%shard, %error, "the shard's end will be noticed by its socket only");
                    }
                    entry.pidfd = Some(pidfd);
                    if entry.doomed {
                        self.kill_now(shard);
                    }
                }
                self.tell(Event::Launched { shard, pid, from: Tier::Cold });
            }
            FromLauncher::NotLaunched { shard, errno } => self.exited(shard, Exit::NotStarted(errno)),
            FromLauncher::Exited { shard, code, signal } => {
                self.exited(shard, signal.map_or(Exit::Code(code.unwrap_or(-1)), Exit::Signal));
            }
        }
    }

    /// Without the helper its children are dead too: the kernel kills them.
    fn lost_launcher(&mut self, error: &ControlError) {
        tracing::error!(%error, "the launch helper is gone, and all shards with it; the composer shuts down");
        if let Some(launcher) = self.launcher.take() {
            let fd = launcher.socket.as_fd().as_raw_fd();
            let _ = self.poll.registry().deregister(&mut SourceFd(&fd));
        }
        self.tell(Event::ShutDown);
        let shards: Vec<ShardId> = self.shards.keys().copied().collect();
        for shard in shards {
            self.exited(shard, Exit::Signal(Signal::KILL.as_raw()));
        }
    }

    // A shard's words.

    fn hear(&mut self, shard: ShardId) {
        while let Some(entry) = self.shards.get(&shard) {
            match entry.receive(&mut self.packet) {
                Ok(message) => self.heard(shard, message),
                Err(error) if would_block(&error) => return,
                Err(error) => {
                    if !matches!(error, ControlError::Closed) {
                        tracing::error!(%shard, component = self.name(shard), %error, "shard is killed");
                        self.inner.note_fault(shard, error.to_string());
                    }
                    // One that exits does not feel it; one that hung up and lives on ends.
                    self.kill_now(shard);
                    // Its end is told by the helper, who knows how it ended.
                    let fd = self.shards[&shard].socket.as_fd().as_raw_fd();
                    let _ = self.poll.registry().deregister(&mut SourceFd(&fd));
                    return;
                }
            }
        }
    }

    fn heard(&mut self, shard: ShardId, message: FromShard) {
        let component = self.name(shard);
        match message {
            FromShard::Hello { version, pid } if version == PROTOCOL_VERSION => {
                tracing::debug!(%shard, component, pid, "hello");
                if let Err(error) = self.welcome(shard) {
                    tracing::error!(%shard, component, %error, "the shard could not be welcomed and is killed");
                    self.kill_now(shard);
                }
            }
            FromShard::Hello { version, .. } => {
                tracing::error!(
                    %shard, component, version, expected = PROTOCOL_VERSION,
                    "the shard speaks another version of the protocol and is killed; build it with this release of shardkit"
                );
                self.inner.note_fault(shard, format!(
                    "speaks protocol version {version}, the composer {PROTOCOL_VERSION}; build it with this release of shardkit"
                ));
                self.kill_now(shard);
            }
            FromShard::Ready => {
                let took_us = (clock::now_ns() - self.shards[&shard].launched_ns) / 1_000;
                tracing::info!(%shard, component, took_us, "shard ready");
                self.tell(Event::ShardReady { shard });
            }
            FromShard::Wired { link } => self.wired_at(shard, link),
            FromShard::Broken { link, error } => {
                tracing::error!(%shard, component, %link, error, "link broken");
                self.break_link(shard, link, error);
            }
            FromShard::Failed { reason } => {
                tracing::error!(%shard, component, reason, "shard failed");
                self.inner.note_fault(shard, reason);
            }
        }
    }

    fn welcome(&mut self, shard: ShardId) -> Result<(), LaunchError> {
        let entry = self.shards.get_mut(&shard).ok_or(LaunchError::NoLauncher)?;
        if std::mem::replace(&mut entry.welcomed, true) {
            return Err(LaunchError::Twice);
        }
        let spec = self.inner.application.component(entry.component);
        let welcome = Welcome {
            shard,
            component: entry.component,
            spec: postcard::to_stdvec(spec).map_err(|error| LaunchError::Spec(error.to_string()))?,
            core: entry.core.map(|core| core as u32),
            shared_cores: self.cores.shared().iter().map(|core| *core as u32).collect(),
            spin_us: self.cores.spin_us(spec.wait, entry.core.is_some()),
        };
        entry.socket.send(&ToShard::Welcome(welcome), &[entry.bell.as_fd(), entry.stats.as_fd()])?;

        let rings = [CONTROL_RING_BYTES; 2];
        let [to_shard, from_shard] =
            [Ring::create("shard-control", rings[0])?, Ring::create("shard-control", rings[1])?];
        let wire = Wire {
            link: COMPOSER_LINK,
            peer_link: entry.link,
            component: ComponentId(u16::MAX),
            shard: None,
            in_ring_bytes: rings[0] as u32,
            out_ring_bytes: rings[1] as u32,
            in_message_bytes_max: CONTROL_MESSAGE_BYTES_MAX,
            out_message_bytes_max: CONTROL_MESSAGE_BYTES_MAX,
        };
        let fds = [to_shard.as_fd(), from_shard.as_fd(), self.hub_bell.as_fd()];
        entry.socket.send(&ToShard::Wire(wire), &fds)?;
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

    // Wires.

    fn wire(&mut self, wire: WireId, ends: [WireEnd; 2]) {
        match self.try_wire(ends) {
            Ok(missing) => {
                let pending = Pending { ends, missing };
                if pending.missing.is_empty() {
                    self.tell(Event::Wired { wire });
                } else {
                    self.wiring.insert(wire, pending);
                }
            }
            Err(error) => {
                let [a, b] = ends.map(|end| Hub::name(end.end));
                tracing::error!(?wire, a, b, %error, "wiring failed");
                self.tell(Event::WireFailed { wire });
            }
        }
    }

    /// Makes both rings and gives them to both ends. Returns which shards still have to say that they have them.
    fn try_wire(&mut self, [a, b]: [WireEnd; 2]) -> Result<Vec<(ShardId, LinkId)>, LaunchError> {
        let sizes = [self.sizes(a.component, b.component), self.sizes(b.component, a.component)];
        let rings = [Ring::create("shard-ring", sizes[0].ring)?, Ring::create("shard-ring", sizes[1].ring)?];
        let mut missing = Vec::new();
        for (mine, peer, incoming, outgoing) in [(a, b, 1, 0), (b, a, 0, 1)] {
            let wire = Wire {
                link: slot(mine),
                peer_link: slot(peer),
                component: peer.component,
                shard: shard_of(peer),
                in_ring_bytes: sizes[incoming].ring as u32,
                out_ring_bytes: sizes[outgoing].ring as u32,
                in_message_bytes_max: sizes[incoming].message,
                out_message_bytes_max: sizes[outgoing].message,
            };
            let bell = self.bell(peer)?;
            match mine.end {
                End::Shard(shard) => {
                    let entry = self.shards.get(&shard).ok_or(LaunchError::NoLauncher)?;
                    let fds = [rings[incoming].as_fd(), rings[outgoing].as_fd(), bell];
                    entry.send_wire(wire, &fds)?;
                    missing.push((shard, wire.link));
                }
                End::Embedder => {
                    let embed = self.inner.embed.as_ref().ok_or(LaunchError::NoEmbedder)?;
                    let bell = bell.try_clone_to_owned()?;
                    let fds =
                        vec![rings[incoming].duplicate()?.into(), rings[outgoing].duplicate()?.into(), bell];
                    let (inbound, outbound) =
                        open_wire(&wire, fds).map_err(|error| LaunchError::Spec(error.to_string()))?;
                    embed.detach(wire.link);
                    embed.attach(wire.link, wire.component, inbound, outbound);
                }
            }
        }
        Ok(missing)
    }

    fn bell(&self, end: WireEnd) -> Result<BorrowedFd<'_>, LaunchError> {
        match end.end {
            End::Embedder => self.embed_bell.as_ref().map(AsFd::as_fd).ok_or(LaunchError::NoEmbedder),
            End::Shard(shard) => {
                self.shards.get(&shard).map(|s| s.bell.as_fd()).ok_or(LaunchError::NoLauncher)
            }
        }
    }

    /// How large the ring from one component to the other has to be, and its messages may be.
    fn sizes(&self, from: ComponentId, to: ComponentId) -> Sizes {
        let application = &self.inner.application;
        let sends = |from: ComponentId, to: ComponentId| {
            let outputs = application.component(from).outputs.iter();
            outputs.filter(move |output| output.to.iter().any(|d| d.component == to))
        };
        // What is sent this way, and what answers something that was sent the other way.
        let (ahead, back) = (sends(from, to), sends(to, from).filter(|output| output.reply.is_some()));
        let mut sizes = Sizes { ring: shard_runtime::ring::CAPACITY_MIN, message: CONTROL_MESSAGE_BYTES_MAX };
        for output in ahead.chain(back) {
            sizes.ring = sizes.ring.max(output.ring_bytes as usize);
            sizes.message = sizes.message.max(output.message_bytes_max);
        }
        sizes
    }

    fn wired_at(&mut self, shard: ShardId, link: LinkId) {
        let found = self.wiring.iter_mut().find_map(|(wire, pending)| {
            let at = pending.missing.iter().position(|missing| *missing == (shard, link))?;
            pending.missing.swap_remove(at);
            Some((*wire, pending.missing.is_empty()))
        });
        if let Some((wire, true)) = found {
            self.wiring.remove(&wire);
            self.tell(Event::Wired { wire });
        }
    }

    fn unwire(&mut self, wire: WireId, at: WireEnd) {
        self.wiring.remove(&wire);
        match at.end {
            End::Embedder => {
                if let Some(embed) = &self.inner.embed {
                    embed.detach(at.link);
                }
            }
            End::Shard(shard) => {
                if let Some(entry) = self.shards.get(&shard) {
                    // If the shard is gone its end will be heard of.
                    let _ = entry.socket.send(&ToShard::Unwire { link: slot(at) }, &[]);
                }
            }
        }
    }

    /// A link that a peer broke can't be mended: the shard whose rules were broken keeps running, the one that broke
    /// them is not to be trusted and is killed.
    fn break_link(&mut self, witness: ShardId, link: LinkId, error: String) {
        let culprit = self.inner.lock().core.peer_of(End::Shard(witness), LinkId(link.0.wrapping_sub(1)));
        if let Some(End::Shard(culprit)) = culprit {
            self.inner.note_fault(culprit, format!("broke a link: {error}"));
            self.kill_now(culprit);
        }
    }

    fn look_at_broken_links(&mut self) {
        let broken = self.inner.embed.as_deref().map(Embed::take_broken).unwrap_or_default();
        for (link, error) in broken {
            let culprit = self.inner.lock().core.peer_of(End::Embedder, link);
            tracing::error!(%link, %error, ?culprit, "link to the embedder broken");
            if let Some(End::Shard(culprit)) = culprit {
                self.inner.note_fault(culprit, format!("broke a link: {error}"));
                self.kill_now(culprit);
            }
        }
    }

    // Ending.

    /// Takes its processor from a shard, or gives it back.
    fn freeze(&mut self, shard: ShardId, frozen: bool) {
        let Some(pidfd) = self.shards.get(&shard).and_then(|entry| entry.pidfd.as_ref()) else { return };
        let signal = if frozen { Signal::STOP } else { Signal::CONT };
        tracing::debug!(%shard, component = self.name(shard), frozen, "freezer");
        // It may have ended by itself.
        let _ = pidfd_send_signal(pidfd, signal);
    }

    fn stop(&mut self, shard: ShardId) {
        if let Some(entry) = self.shards.get(&shard) {
            tracing::debug!(%shard, component = self.name(shard), "stopping");
            if entry.socket.send(&ToShard::Stop, &[]).is_err() {
                self.kill_now(shard);
            }
        }
    }

    fn kill(&mut self, shard: ShardId, reason: KillReason) {
        tracing::warn!(%shard, component = self.name(shard), %reason, "shard is killed");
        self.kill_now(shard);
    }

    fn kill_now(&mut self, shard: ShardId) {
        let Some(entry) = self.shards.get_mut(&shard) else { return };
        entry.doomed = true;
        if let Some(pidfd) = &entry.pidfd {
            // It may have ended by itself.
            let _ = pidfd_send_signal(pidfd, Signal::KILL);
        }
    }

    /// The pidfd says that the process is over, sooner than the helper can: its sessions end now. How it ended is in
    /// the helper's word that follows at once.
    fn ended(&mut self, shard: ShardId) {
        if let Some(entry) = self.shards.get_mut(&shard)
            && let Some(pidfd) = entry.pidfd.take()
        {
            let fd = pidfd.as_raw_fd();
            let _ = self.poll.registry().deregister(&mut SourceFd(&fd));
        }
        self.hear(shard);
    }

    fn exited(&mut self, shard: ShardId, how: Exit) {
        // Its last words may still be in the socket.
        self.hear(shard);
        let component = self.name(shard);
        let state = self.inner.lock().core.shard(shard).map(|view| view.state);
        tracing::info!(%shard, component, ?state, "shard {how}");
        self.forget(shard);
        self.tell(Event::ShardExited { shard, how });
        self.inner.pages().remove(&shard);
    }

    fn forget(&mut self, shard: ShardId) {
        if let Some(entry) = self.shards.remove(&shard) {
            let fd = entry.socket.as_fd().as_raw_fd();
            let _ = self.poll.registry().deregister(&mut SourceFd(&fd));
            if let Some(pidfd) = &entry.pidfd {
                let fd = pidfd.as_raw_fd();
                let _ = self.poll.registry().deregister(&mut SourceFd(&fd));
            }
            self.cores.give_back(entry.core);
        }
        let mut hub = self.inner.lock();
        hub.release_link(shard);
        self.inner.unlock(hub);
        self.wiring.retain(|_, pending| pending.ends.iter().all(|end| end.end != End::Shard(shard)));
    }

    fn name(&self, shard: ShardId) -> String {
        let component = self.shards.get(&shard).map(|entry| entry.component);
        component.map(|id| self.inner.application.component(id).name.clone()).unwrap_or_default()
    }
}

struct Sizes {
    ring: usize,
    message: u32,
}

/// The same pair of links from the other end.
fn mirror(wire: &Wire, link: LinkId, component: ComponentId, shard: Option<ShardId>) -> Wire {
    Wire {
        link,
        peer_link: wire.link,
        component,
        shard,
        in_ring_bytes: wire.out_ring_bytes,
        out_ring_bytes: wire.in_ring_bytes,
        in_message_bytes_max: wire.out_message_bytes_max,
        out_message_bytes_max: wire.in_message_bytes_max,
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
