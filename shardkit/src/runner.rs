//! A shard's process: it joins its composer, runs the author's code, and ends.
//!
//! The thread that calls [`run`] (or [`Runner::join`]) is the shard: pinned if the shard has a core of its own, it
//! polls, handles, ticks. A second thread, the service thread, reads the control socket off that core, maps what
//! comes, and hands it over.
//!
//! Invariant: the process does not outlive its composer. When the control socket ends, the shard gets
//! [`ORPHAN_GRACE`] to finish what it does, then the process exits.

use crate::application::Component;
use crate::config::Config;
use crate::endpoint::Endpoint;
use crate::error::{Error, Result};
use crate::message::Tick;
use crate::shard::Shard;
use crate::zygote;
use crossbeam::channel::{self, Receiver, Sender};
use shard_runtime::control::{
    COMPOSER_LINK, CONTROL_ENV, CONTROL_FD, ControlError, ControlSocket, FromShard, PROTOCOL_VERSION, Packet,
    ToShard, Welcome, Wire, decode,
};
use shard_runtime::id::{ComponentId, LinkId, ShardId};
use shard_runtime::inbox::{Inbound, WaitStrategy};
use shard_runtime::outbox::Outbound;
use shard_runtime::region::Region;
use shard_runtime::ring::{Ring, RingReader, RingWriter};
use shard_runtime::stats::{Counter, STATS_BYTES, Stats};
use shard_runtime::wake::{BELL_BYTES, Bell, Ringer};
use shard_runtime::{clock, slice, topology};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// How long a shard may go on after its composer is gone.
pub const ORPHAN_GRACE: Duration = Duration::from_millis(200);
/// The exit code of a shard whose composer is gone.
pub const EXIT_ORPHAN: i32 = 70;
/// The number of a shard that is none: of what a zygote makes.
const NO_SHARD: ShardId = ShardId(u32::MAX);
/// The service thread's stack: it maps memory and decodes small messages.
const SERVICE_STACK_BYTES: usize = 256 << 10;

/// Runs a shard until its composer ends it: makes it with `make`, then takes messages for ever.
///
/// With `zygote = true` in the manifest, `make` runs once for many shards: in a process that is then forked for each.
/// What `make` has built is there in all of them, as a copy that each may change; memory is only copied where it is
/// written. So it must not start a thread (a process with threads is not forked, and the error says so), and what
/// should differ between shards belongs into [`Shard::on_fork`]: a fork also copies the state of random number
/// generators, the seeds of hash maps, open files with their positions, and connections. [`Config::shard`] has no
/// meaning in `make` then.
///
/// # Errors
/// When the program was not started by a composer, when `make` fails, or when the control connection does.
pub fn run<S: Shard>(make: impl FnOnce(&Config) -> Result<S>) -> Result<()> {
    Runner::join(make)?.run()
}

/// Several components that are linked into one program. See [`run_any`].
#[derive(Default)]
pub struct Components {
    entries: Vec<(String, Box<Life>)>,
}

/// How a process lives once it was told what it is.
type Life = dyn FnOnce(Told) -> Result<()>;

impl Components {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the component that the manifest names so, and how its shard is made.
    #[must_use]
    pub fn with<S: Shard>(
        mut self,
        name: impl Into<String>,
        make: impl FnOnce(&Config) -> Result<S> + 'static,
    ) -> Self {
        self.entries.push((name.into(), Box::new(|told| Runner::become_told(told, make)?.run())));
        self
    }

    /// The life of the component of this name.
    fn take(&mut self, name: &str) -> Result<Box<Life>> {
        match self.entries.iter().position(|(known, _)| known == name) {
            Some(at) => Ok(self.entries.swap_remove(at).1),
            None => {
                let known: Vec<_> = self.entries.iter().map(|(known, _)| format!("`{known}`")).collect();
                Err(Error::new(format!(
                    "component `{name}` is not linked into this program, which has {}; add it with `Components::with`, or take it out of `components` in the manifest",
                    if known.is_empty() { "none".into() } else { known.join(", ") }
                )))
            }
        }
    }
}

/// Runs a shard of whichever of these components the composer asks for, as [`run`] does.
///
/// A program that does this can be a `[generic.NAME]` of the manifest: its processes are started before it is known
/// what they will be.
///
/// ```no_run
/// # use shardkit::prelude::*;
/// # struct Auth; struct Inventory;
/// # impl Shard for Auth { fn on_message(&mut self, _: Message<'_>, _: &mut Context<'_>) -> Result<()> { Ok(()) } }
/// # impl Shard for Inventory { fn on_message(&mut self, _: Message<'_>, _: &mut Context<'_>) -> Result<()> { Ok(()) } }
/// use shardkit::{Components, run_any};
///
/// fn main() -> Result<()> {
///     run_any(Components::new().with("auth", |_config| Ok(Auth)).with("inventory", |_config| Ok(Inventory)))
/// }
/// ```
///
/// # Errors
/// As [`run`], and when the composer asks for a component that is not among them.
pub fn run_any(mut components: Components) -> Result<()> {
    let told = Told::wait()?;
    let life = told.or_say(components.take(&told.component.name))?;
    life(told)
}

/// A shard whose author owns the loop.
///
/// ```no_run
/// # use shardkit::prelude::*;
/// # struct Echo;
/// # impl Shard for Echo {
/// #     fn on_message(&mut self, _: Message<'_>, _: &mut Context<'_>) -> Result<()> { Ok(()) }
/// # }
/// # fn main() -> Result<()> {
/// let mut runner = shardkit::Runner::join(|_config| Ok(Echo))?;
/// while runner.poll()? {
///     // … something of one's own, between two rounds …
///     runner.wait();
/// }
/// # Ok(()) }
/// ```
pub struct Runner<S> {
    shard: S,
    endpoint: Endpoint,
    strategy: WaitStrategy,
    ticker: Option<Ticker>,
    commands: Receiver<Command>,
    control: Arc<ControlSocket>,
    taken: usize,
    stopped: bool,
}

/// Both directions of a link pair, ready to be used.
struct Pair {
    link: LinkId,
    component: ComponentId,
    inbound: Inbound,
    outbound: Outbound,
}

/// What the service thread hands to the shard's thread.
enum Command {
    Attach(Box<Pair>),
    Detach { link: LinkId },
    Stop,
}

/// What a process was told that it is, and over which socket.
pub(crate) struct Told {
    pub(crate) control: Arc<ControlSocket>,
    pub(crate) packet: Packet,
    component: Component,
    who: Who,
}

pub(crate) enum Who {
    Shard(Welcome, Vec<OwnedFd>),
    Zygote,
}

impl Told {
    /// Greets the composer that started this process and waits until it says what the process is.
    fn wait() -> Result<Self> {
        Self::wait_on(Arc::new(inherited_socket()?), Packet::new())
    }

    pub(crate) fn wait_on(control: Arc<ControlSocket>, mut packet: Packet) -> Result<Self> {
        control.send(&FromShard::Hello { version: PROTOCOL_VERSION, pid: std::process::id() }, &[])?;
        let told = match control.receive::<ToShard>(&mut packet)? {
            (ToShard::Welcome(welcome), fds) => {
                decode(&welcome.spec).map(|component| (component, Who::Shard(welcome, fds)))
            }
            (ToShard::Zygote(zygote), _) => decode(&zygote.spec).map(|component| (component, Who::Zygote)),
            // A process that waited and is not needed.
            (ToShard::Stop, _) => std::process::exit(0),
            _ => Err(ControlError::Garbled("it should begin with a welcome".into())),
        };
        let (component, who) = say(&control, told)?;
        Ok(Self { control, packet, component, who })
    }

    /// Hands a result on, and tells the composer if it is an error.
    fn or_say<T>(&self, result: Result<T>) -> Result<T> {
        say(&self.control, result)
    }
}

/// Hands a result on, and tells the composer if it is an error.
pub(crate) fn say<T, E: Into<Error>>(control: &ControlSocket, result: Result<T, E>) -> Result<T> {
    result.map_err(Into::into).inspect_err(|error| {
        let reason = error.to_string();
        // If the composer is gone too, there is nobody left to tell.
        let _ = control.send(&FromShard::Failed { reason }, &[]);
    })
}

impl<S: Shard> Runner<S> {
    /// Joins the composer that started this process and makes the shard.
    ///
    /// In a zygote this returns once in every shard that is forked, and never in the zygote itself.
    ///
    /// # Errors
    /// As [`run`]. The composer is told why.
    pub fn join(make: impl FnOnce(&Config) -> Result<S>) -> Result<Self> {
        Self::become_told(Told::wait()?, make)
    }

    fn become_told(told: Told, make: impl FnOnce(&Config) -> Result<S>) -> Result<Self> {
        if let Who::Shard(..) = &told.who {
            let control = Arc::clone(&told.control);
            return say(&control, Self::start(told, make));
        }
        let made = make(&Config::new(NO_SHARD, told.component.clone()));
        let mut shard = told.or_say(made)?;
        let told = zygote::serve(told)?;
        let control = Arc::clone(&told.control);
        let renew = move |config: &Config| {
            shard.on_fork(config)?;
            Ok(shard)
        };
        say(&control, Self::start(told, renew))
    }

    /// Makes the shard and all that it needs, up to its readiness.
    fn start(told: Told, make: impl FnOnce(&Config) -> Result<S>) -> Result<Self> {
        let Told { control, packet, component, who: Who::Shard(welcome, fds) } = told else {
            return Err(Error::new("the composer asks a zygote's child to be a zygote"));
        };
        let [bell, stats] = <[OwnedFd; 2]>::try_from(fds).map_err(|fds| {
            Error::new(format!("a welcome came with {} descriptors instead of 2", fds.len()))
        })?;
        let bell = Bell::map(&Region::receive(bell, BELL_BYTES)?)?;
        let stats = Stats::map(&Region::receive(stats, STATS_BYTES)?)?;
        // A refusal leaves the shard where it is: slower, not wrong. Threads of the author's start where this one is.
        let _ = topology::allow(&cores(&welcome));

        let config = Config::new(welcome.shard, component);
        let shard = make(&config)?;
        if let Some(core) = welcome.core.filter(|core| topology::pin(*core as usize)) {
            stats.set(Counter::Core, u64::from(core) + 1);
        }
        if welcome.spin_us == 0 {
            // It sleeps, and may find its processor busy. A refusal leaves it slower, not wrong.
            let _ = slice::shorten();
        }
        let endpoint = Endpoint::new(welcome.shard, config.component().clone(), bell, Some(stats));
        let commands = start_service(Arc::clone(&control), packet, endpoint.ringer(), &welcome)?;
        let mut runner = Self {
            shard,
            strategy: strategy(&welcome),
            ticker: config.component().tick_hz.map(Ticker::new),
            endpoint,
            commands,
            control: Arc::clone(&control),
            taken: 0,
            stopped: false,
        };
        runner.await_composer_link()?;
        control.send(&FromShard::Ready, &[])?;
        Ok(runner)
    }

    /// The first link is the composer's; without it no session can come.
    fn await_composer_link(&mut self) -> Result<()> {
        let command = self.commands.recv().map_err(|_| ControlError::Closed)?;
        self.obey(command)
    }

    /// One round: takes what came and runs what is due. False when the shard is to end.
    ///
    /// # Errors
    /// When the control connection failed.
    #[inline(always)]
    pub fn poll(&mut self) -> Result<bool> {
        self.taken = self.endpoint.poll(&mut self.shard);
        if let Some(ticker) = &mut self.ticker
            && let Some(tick) = ticker.due()
        {
            self.endpoint.tick(&mut self.shard, tick);
            self.taken += 1;
        }
        if self.endpoint.take_called_in() {
            self.obey_all()?;
        }
        while let Some((link, error)) = self.endpoint.take_broken() {
            self.control.send(&FromShard::Broken { link, error: error.to_string() }, &[])?;
        }
        Ok(!self.stopped)
    }

    /// Waits as the component is declared to, if the last round brought nothing.
    #[inline(always)]
    pub fn wait(&mut self) {
        if self.taken == 0 {
            let until_ns = self.ticker.as_ref().map(|ticker| ticker.next_ns);
            self.endpoint.wait(self.strategy, until_ns);
        }
    }

    /// Polls and waits until the composer ends the shard.
    ///
    /// # Errors
    /// As [`poll`](Self::poll).
    pub fn run(mut self) -> Result<()> {
        while self.poll()? {
            self.wait();
        }
        Ok(())
    }

    fn obey_all(&mut self) -> Result<()> {
        while let Ok(command) = self.commands.try_recv() {
            self.obey(command)?;
        }
        Ok(())
    }

    fn obey(&mut self, command: Command) -> Result<()> {
        match command {
            Command::Attach(pair) => {
                let Pair { link, component, inbound, outbound } = *pair;
                self.endpoint.attach(link, Some(component), inbound, outbound);
                self.control.send(&FromShard::Wired { link }, &[])?;
            }
            Command::Detach { link } => self.endpoint.detach(link),
            Command::Stop => {
                self.shard.on_stop(&mut self.endpoint.context());
                self.endpoint.publish_counts();
                self.stopped = true;
            }
        }
        Ok(())
    }
}

/// The socket that the composer left us.
fn inherited_socket() -> Result<ControlSocket> {
    if std::env::var_os(CONTROL_ENV).is_none() {
        return Err(Error::new(
            "this program is a shard: it is started by a composer, for example by `shardctl up MANIFEST`",
        ));
    }
    shard_runtime::process::take_control().map(ControlSocket::from_fd).ok_or_else(|| {
        Error::new(format!("descriptor {CONTROL_FD} is no control socket, or was taken already"))
    })
}

/// The processors of a shard's other threads.
fn cores(welcome: &Welcome) -> Vec<usize> {
    welcome.shared_cores.iter().map(|core| *core as usize).collect()
}

fn strategy(welcome: &Welcome) -> WaitStrategy {
    match welcome.spin_us {
        0 => WaitStrategy::Park,
        u32::MAX => WaitStrategy::Spin,
        spin_us => WaitStrategy::SpinThenPark { spin_ns: u64::from(spin_us) * 1_000 },
    }
}

/// Starts the thread that reads the control socket.
fn start_service(
    control: Arc<ControlSocket>,
    mut packet: Packet,
    ringer: Ringer,
    welcome: &Welcome,
) -> Result<Receiver<Command>> {
    let (sender, commands) = channel::unbounded();
    let cores = cores(welcome);
    thread::Builder::new().name("service".into()).stack_size(SERVICE_STACK_BYTES).spawn(move || {
        let _ = topology::allow(&cores);
        serve(&control, &mut packet, &ringer, &sender);
    })?;
    Ok(commands)
}

/// Reads the control socket to its end, then ends the process.
fn serve(control: &ControlSocket, packet: &mut Packet, ringer: &Ringer, commands: &Sender<Command>) {
    loop {
        let command = match control.receive::<ToShard>(packet) {
            Ok((message, fds)) => command(message, fds),
            Err(error) => Err(error.into()),
        };
        match command {
            Ok(Some(command)) => {
                let last = matches!(command, Command::Stop);
                let handed = commands.send(command).is_ok();
                ringer.call_in();
                if !handed || last {
                    break;
                }
            }
            Ok(None) => {}
            Err(error) => {
                let gone = matches!(error.downcast_ref::<ControlError>(), Some(ControlError::Closed));
                if !gone {
                    let _ = control.send(&FromShard::Failed { reason: error.to_string() }, &[]);
                }
                let _ = commands.send(Command::Stop);
                ringer.call_in();
                thread::sleep(ORPHAN_GRACE);
                std::process::exit(EXIT_ORPHAN);
            }
        }
    }
    // A stopped shard ends by itself; one that is stuck ends with its composer.
    while control.receive::<ToShard>(packet).is_ok() {}
    thread::sleep(ORPHAN_GRACE);
    std::process::exit(EXIT_ORPHAN);
}

/// Makes of a control message what the shard's thread has to do.
fn command(message: ToShard, fds: Vec<OwnedFd>) -> Result<Option<Command>> {
    match message {
        ToShard::Wire(wire) => attach(&wire, fds).map(Some),
        ToShard::Unwire { link } if link != COMPOSER_LINK => Ok(Some(Command::Detach { link })),
        ToShard::Unwire { .. } => Ok(None),
        ToShard::Stop => Ok(Some(Command::Stop)),
        ToShard::Welcome(_) | ToShard::Zygote(_) | ToShard::Fork { .. } => {
            Err(Error::new("the composer told the shard twice what it is"))
        }
    }
}

fn attach(wire: &Wire, fds: Vec<OwnedFd>) -> Result<Command> {
    let (inbound, outbound) = open_wire(wire, fds)?;
    Ok(Command::Attach(Box::new(Pair { link: wire.link, component: wire.component, inbound, outbound })))
}

/// Maps both rings of a pair of links and the peer's bell, after checking what came.
///
/// # Errors
/// When the descriptors are not the announced regions, or the announced sizes are impossible.
pub fn open_wire(wire: &Wire, fds: Vec<OwnedFd>) -> Result<(Inbound, Outbound)> {
    let [read, write, bell] = <[OwnedFd; 3]>::try_from(fds)
        .map_err(|fds| Error::new(format!("a link came with {} descriptors instead of 3", fds.len())))?;
    let ringer = Ringer::map(&Region::receive(bell, BELL_BYTES)?)?;
    let reader = RingReader::new(open_ring(read, wire.in_ring_bytes)?);
    let writer = RingWriter::new(open_ring(write, wire.out_ring_bytes)?);
    let inbound = Inbound::new(reader, ringer.clone(), wire.in_message_bytes_max as usize);
    let outbound = Outbound::new(writer, ringer, wire.peer_link, wire.out_message_bytes_max as usize);
    Ok((inbound, outbound))
}

fn open_ring(fd: OwnedFd, capacity: u32) -> Result<Ring> {
    let capacity = capacity as usize;
    if !Ring::possible(capacity) {
        return Err(Error::new(format!("a ring of {capacity} bytes is not possible")));
    }
    let region = Region::receive(fd, Ring::region_bytes(capacity))?;
    Ok(Ring::new(region.map(true)?, capacity))
}

/// Fixed-rate ticks. A late tick runs at once; when more than one is due, all but the last are skipped and counted.
struct Ticker {
    period_ns: u64,
    next_ns: u64,
    number: u64,
}

impl Ticker {
    fn new(hz: f64) -> Self {
        let period_ns = (1e9 / hz) as u64;
        Self { period_ns, next_ns: clock::now_ns() + period_ns, number: 0 }
    }

    #[inline]
    fn due(&mut self) -> Option<Tick> {
        let now_ns = clock::now_ns();
        (now_ns >= self.next_ns).then(|| self.take(now_ns))
    }

    fn take(&mut self, now_ns: u64) -> Tick {
        let missed = (now_ns - self.next_ns) / self.period_ns;
        let due_ns = self.next_ns + missed * self.period_ns;
        let number = self.number + missed;
        self.number = number + 1;
        self.next_ns = due_ns + self.period_ns;
        Tick { number, period_ns: self.period_ns, late_ns: now_ns - due_ns, missed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_shard_skips_ticks_and_says_how_many() {
        let mut ticker = Ticker { period_ns: 100, next_ns: 1_000, number: 0 };
        let first = ticker.take(1_005);
        assert_eq!((first.number, first.missed, first.late_ns), (0, 0, 5));
        let late = ticker.take(1_350);
        assert_eq!((late.number, late.missed, late.late_ns), (3, 2, 50));
        assert_eq!(ticker.next_ns, 1_400);
    }
}
