//! The launch helper: a small process that starts shards and reaps them. One thread does that; another passes on what they
//! print (`relay`).
//!
//! The composer never forks: it lives in programs with threads and a lot of memory. It starts the helper once, and
//! asks it over a socket for each shard. The helper answers with a pidfd, by which the composer sees the end of the
//! shard within microseconds and can kill it.
//!
//! Invariant: no shard outlives its composer. When the socket ends, the helper kills and reaps all its children;
//! when the helper itself is killed, the kernel kills them (`PR_SET_PDEATHSIG`).

use crate::oci::ContainerPlace;
use crate::processes::ProcessId;
use crate::relay::Relay;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::Shutdown;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, pidfd_send_signal, waitid};
use serde::{Deserialize, Serialize};
use shard_runtime::contain::{Contain, OciRuntime, contain};
use shard_runtime::control::{ControlError, ControlSocket, LAUNCHER_ENV, Packet};
use shard_runtime::isolation::{Absent, Allow, Isolation};
use shard_runtime::process::{Ended, Spawn, Spawned, anchor, ended_child, reap, spawn};
use std::fs::Metadata;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, io};

/// What the composer asks of the helper.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ToLauncher {
    /// Start a process. With it comes its end of its control socket, and the folder of its control group if it has one.
    Launch(Box<Launch>),
    /// A zygote has forked this child of the helper. With it comes the pidfd.
    Adopt { process: ProcessId },
    /// Kill a process whose pidfd could not be received.
    Kill { process: ProcessId },
}

/// A process to start.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Launch {
    pub(crate) process: ProcessId,
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) quiet: bool,
    /// What it may reach; `None` for everything that this process can.
    pub(crate) isolation: Option<Allow>,
    /// Whether it is a zygote, which forks.
    pub(crate) zygote: bool,
    /// The highest real-time priority that it may have.
    pub(crate) realtime: u32,
    /// If the program is an OCI runtime, which runs a container: that one's place.
    pub(crate) container: Option<ContainerPlace>,
}

/// What the helper answers.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum FromLauncher {
    /// The process is there, isolated but for what this host does not allow. `outside` is the number of the error for
    /// which it is not in its control group; 0 if it is, or has none. With it comes its pidfd.
    Launched { process: ProcessId, pid: u32, absent: Vec<Absent>, outside: i32 },
    /// It could not be started, or is none of the helper's children.
    NotLaunched { process: ProcessId, errno: i32, why: String },
    /// It has ended and is reaped.
    Exited { process: ProcessId, code: Option<i32>, signal: Option<i32> },
}

/// Why there is no helper.
#[derive(Debug, thiserror::Error)]
pub enum LauncherError {
    /// Its program was not found.
    #[error(
        "no launch helper: `shardctl` is at none of {looked}; build it, or name a program with `Builder::launcher`"
    )]
    NotFound {
        /// Where it was looked for.
        looked: String,
    },
    /// It could not be started.
    #[error("the launch helper {program} could not be started: {source}")]
    NotStarted {
        /// Its program.
        program: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// This process was started as a helper and did not become one.
    #[error(
        "this process was started as a launch helper and starts a composer instead: call `shard_composer::take_over` first thing in `main`"
    )]
    Itself,
    /// A socket to it could not be made.
    #[error("no socket to the launch helper: {0}")]
    Socket(#[from] io::Error),
}

/// Becomes the launch helper if this process was started as one; returns otherwise.
///
/// A program that embeds the composer and wants to be its own helper calls this first thing in `main`, before it
/// starts threads, and names itself with [`Builder::launcher`](crate::Builder::launcher).
pub fn take_over() {
    if env::var_os(LAUNCHER_ENV).is_none() {
        return;
    }
    let code = match serve() {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("launch helper: {error}");
            1
        }
    };
    std::process::exit(code);
}

/// How long a helper may take to end. It has nothing to do but to kill and reap.
const END_WITHIN: Duration = Duration::from_secs(5);

/// How long a zygote's word of a child may be under way.
const ADOPTED_WITHIN: Duration = Duration::from_secs(5);
/// How often it is looked for such children.
const LOOK_AGAIN: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };
/// How long what was printed last may take to be taken.
const PRINTED_WITHIN: Duration = Duration::from_secs(1);

/// The helper as the composer sees it. When this is dropped the helper ends, with what is left of its children, and is
/// reaped.
pub(crate) struct Launcher {
    pub(crate) socket: ControlSocket,
    child: Child,
}

impl Launcher {
    /// Starts the helper.
    pub(crate) fn start(program: Option<&Path>) -> Result<Self, LauncherError> {
        // A program that names itself and forgets to take over would start itself again and again.
        if env::var_os(LAUNCHER_ENV).is_some() {
            return Err(LauncherError::Itself);
        }
        let program = match program {
            Some(program) => program.to_path_buf(),
            None => find()?,
        };
        let (ours, theirs) = ControlSocket::pair()?;
        ours.set_nonblocking()?;
        let child = Command::new(&program)
            .env(LAUNCHER_ENV, "1")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .spawn()
            .map_err(|source| LauncherError::NotStarted { program, source })?;
        Ok(Self { socket: ours, child })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Launcher {
    fn drop(&mut self) {
        // The helper may be gone already.
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Both);
        let deadline = Instant::now() + END_WITHIN;
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() >= deadline {
                // A program that is no helper. The kernel ends its children with it.
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Looks for `shardctl`: the running program itself, beside it, one folder up, then in `PATH`.
fn find() -> Result<PathBuf, LauncherError> {
    let mut places = Vec::new();
    if let Ok(me) = env::current_exe() {
        if me.file_stem().is_some_and(|name| name == "shardctl") {
            return Ok(me);
        }
        places.extend(me.ancestors().skip(1).take(2).map(|folder| folder.join("shardctl")));
    }
    if let Some(path) = env::var_os("PATH") {
        places.extend(env::split_paths(&path).map(|folder| folder.join("shardctl")));
    }
    match places.iter().find(|place| is_ours(place)) {
        Some(place) => Ok(place.clone()),
        None => {
            let looked: Vec<String> = places.iter().map(|place| place.display().to_string()).collect();
            Err(LauncherError::NotFound { looked: looked.join(", ") })
        }
    }
}

/// Whether nobody but this user, root, or a group that they have chosen can have put a program there.
fn is_ours(program: &Path) -> bool {
    let (own, root) = (rustix::process::geteuid().as_raw(), 0);
    let trusted = |about: &Metadata| [own, root].contains(&about.uid()) && about.mode() & 0o002 == 0;
    let folder = program.parent().and_then(|folder| folder.metadata().ok());
    let file = program.metadata().ok().filter(Metadata::is_file);
    folder.is_some_and(|about| trusted(&about)) && file.is_some_and(|about| trusted(&about))
}

/// A child of the helper.
struct Shard {
    id: ProcessId,
    process: Spawned,
}

/// A child that is there, and why it is not in its control group; 0 if it is.
struct Started {
    process: Spawned,
    outside: i32,
}

fn serve() -> Result<(), ControlError> {
    // Ctrl-C at a terminal is for the composer, who then ends the shards one after the other.
    let _ = rustix::process::setpgid(None, None);
    let socket = ControlSocket::from_fd(io::stdin().as_fd().try_clone_to_owned()?);
    let (mut shards, mut kept) = (Vec::new(), Kept::default());
    let served = attend(&socket, &mut shards, &mut kept);
    kill_all(shards, kept.jails);
    if let Some(relay) = kept.relay {
        relay.finish(PRINTED_WITHIN);
    }
    if matches!(served, Err(ControlError::Closed)) { Ok(()) } else { served }
}

/// Does what the composer asks, until it is gone.
fn attend(socket: &ControlSocket, shards: &mut Vec<Shard>, kept: &mut Kept) -> Result<(), ControlError> {
    let mut packet = Packet::new();
    loop {
        let ended = wait(socket, shards, kept.look_again())?;
        for at in ended.shards.into_iter().rev() {
            report(socket, shards.swap_remove(at));
        }
        kept.reap_strays(shards);
        if !ended.socket {
            continue;
        }
        match socket.receive::<ToLauncher>(&mut packet)? {
            (ToLauncher::Launch(launch), fds) => shards.extend(start(socket, &launch, fds, kept)?),
            (ToLauncher::Adopt { process }, fds) => {
                let adopted = adopt(shards, &kept.jails, fds);
                shards.extend(answer(socket, process, adopted)?);
            }
            (ToLauncher::Kill { process }, _) => {
                for shard in shards.iter().filter(|shard| shard.id == process) {
                    // It may have ended by itself.
                    let _ = pidfd_send_signal(&shard.process.pidfd, Signal::KILL);
                }
            }
        }
    }
}

struct Ready {
    socket: bool,
    shards: Vec<usize>,
}

/// Waits for a word of the composer or the end of a shard, or for so long.
fn wait(socket: &ControlSocket, shards: &[Shard], within: Option<Timespec>) -> io::Result<Ready> {
    let mut fds = vec![PollFd::new(socket, PollFlags::IN)];
    fds.extend(shards.iter().map(|shard| PollFd::new(&shard.process.pidfd, PollFlags::IN)));
    loop {
        match poll(&mut fds, within.as_ref()) {
            Ok(_) => break,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let ready = |fd: &PollFd<'_>| !fd.revents().is_empty();
    let shards = (0..shards.len()).filter(|at| ready(&fds[at + 1])).collect();
    Ok(Ready { socket: ready(&fds[0]), shards })
}

/// What is prepared once, and used for each launch.
#[derive(Default)]
struct Kept {
    jails: Vec<Jail>,
    runtimes: Vec<OciRuntime>,
    relay: Option<Relay>,
    /// A child that has ended and that nobody has told of, and since when it is known.
    stray: Option<(u32, Instant)>,
}

impl Kept {
    /// How long to wait at the most: what a zygote forks may end without a word.
    fn look_again(&self) -> Option<Timespec> {
        self.jails.iter().any(|jail| jail.zygote).then_some(LOOK_AGAIN)
    }

    /// Reaps children that have ended and that nobody has told of: what a zygote has forked and not given away, because it
    /// died, or never meant to. One that is about to be adopted gets the time for it.
    fn reap_strays(&mut self, shards: &[Shard]) {
        while let Some(pid) = ended_child().filter(|pid| !is_known(*pid, shards, &self.jails)) {
            match self.stray {
                Some((known, since)) if known == pid => {
                    if since.elapsed() < ADOPTED_WITHIN {
                        return;
                    }
                    let Some(number) = Pid::from_raw(pid as i32) else { return };
                    let _ = waitid(WaitId::Pid(number), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
                    self.stray = None;
                }
                _ => {
                    self.stray = Some((pid, Instant::now()));
                    return;
                }
            }
        }
    }

    /// Where a new process prints to.
    fn output(&mut self, quiet: bool) -> io::Result<Option<[OwnedFd; 2]>> {
        if quiet {
            return Ok(None);
        }
        let relay = match self.relay.take() {
            Some(relay) => relay,
            None => Relay::start()?,
        };
        self.relay.insert(relay).pipes().map(Some)
    }
}

/// How one program is isolated.
struct Jail {
    program: PathBuf,
    allow: Allow,
    zygote: bool,
    isolation: Isolation,
    /// Holds the namespaces of a zygote and of what it forks.
    anchor: Option<Spawned>,
}

fn start(
    socket: &ControlSocket,
    launch: &Launch,
    fds: Vec<OwnedFd>,
    kept: &mut Kept,
) -> Result<Option<Shard>, ControlError> {
    let (control, group) = match &fds[..] {
        [control] => (control, None),
        [control, group] => (control, Some(group)),
        _ => return Err(ControlError::Garbled(format!("{} descriptors instead of 1 or 2", fds.len()))),
    };
    let started = kept.output(launch.quiet).and_then(|output| {
        let output = output.as_ref().map(|output| output.each_ref().map(AsFd::as_fd));
        match &launch.container {
            Some(place) => start_container(launch, place, control, output, group, &mut kept.runtimes),
            None => start_isolated(launch, control, output, group, &mut kept.jails),
        }
    });
    answer(socket, launch.process, started)
}

/// What the kernel says if a group can't be entered: it has no such call, or no such group, or this process may not.
const NOT_ENTERED: [Errno; 7] =
    [Errno::NOSYS, Errno::ACCESS, Errno::PERM, Errno::BUSY, Errno::OPNOTSUPP, Errno::NODEV, Errno::INVAL];

/// Starts something in its group, or outside if it can't be entered.
fn in_group(
    group: Option<&OwnedFd>,
    start: impl Fn(Option<BorrowedFd<'_>>) -> io::Result<Spawned>,
) -> io::Result<Started> {
    match start(group.map(AsFd::as_fd)) {
        Err(error)
            if group.is_some() && Errno::from_io_error(&error).is_some_and(|e| NOT_ENTERED.contains(&e)) =>
        {
            // If it was not for the group, this says so.
            Ok(Started { process: start(None)?, outside: error.raw_os_error().unwrap_or_default() })
        }
        started => Ok(Started { process: started?, outside: 0 }),
    }
}

fn start_container(
    launch: &Launch,
    ContainerPlace { bundle, rootfs }: &ContainerPlace,
    control: &OwnedFd,
    output: Option<[BorrowedFd<'_>; 2]>,
    group: Option<&OwnedFd>,
    runtimes: &mut Vec<OciRuntime>,
) -> io::Result<Started> {
    let known = runtimes.iter().position(|runtime| runtime.path() == launch.program);
    let at = known.unwrap_or_else(|| {
        runtimes.push(OciRuntime::new(&launch.program));
        runtimes.len() - 1
    });
    let (runtime, args, control) = (&runtimes[at], &launch.args, control.as_fd());
    in_group(group, |cgroup| contain(&Contain { runtime, args, control, output, bundle, rootfs, cgroup }))
}

fn start_isolated(
    launch: &Launch,
    control: &OwnedFd,
    output: Option<[BorrowedFd<'_>; 2]>,
    group: Option<&OwnedFd>,
    jails: &mut Vec<Jail>,
) -> io::Result<Started> {
    let jail = launch.isolation.as_ref().map(|allow| jail(launch, allow, jails)).transpose()?;
    in_group(group, |cgroup| {
        spawn(&Spawn {
            program: &launch.program,
            args: &launch.args,
            env: &launch.env,
            control: control.as_fd(),
            output,
            isolation: jail.as_ref().map(|jail| &jail.isolation),
            anchor: jail.as_ref().and_then(|jail| jail.anchor.as_ref()),
            cgroup,
            realtime: launch.realtime,
        })
    })
}

/// The isolation of what is to be started, from the last time or new.
fn jail<'a>(launch: &Launch, allow: &Allow, jails: &'a mut Vec<Jail>) -> io::Result<&'a Jail> {
    let known = jails.iter().position(|jail| {
        jail.program == launch.program && jail.allow == *allow && jail.zygote == launch.zygote
    });
    let at = match known {
        Some(at) => at,
        None => {
            let prepared = Isolation::new(allow, &launch.program, launch.zygote);
            let isolation = prepared.map_err(|error| io::Error::new(error.kind(), error.to_string()))?;
            let (program, allow) = (launch.program.clone(), allow.clone());
            jails.push(Jail { program, allow, zygote: launch.zygote, isolation, anchor: None });
            jails.len() - 1
        }
    };
    let jail = &mut jails[at];
    if let Some(ended) = jail.anchor.take_if(|anchor| has_ended(anchor)) {
        let _ = reap(ended.pidfd.as_fd());
    }
    if jail.zygote && jail.anchor.is_none() {
        jail.anchor = Some(anchor(&jail.isolation)?);
    }
    Ok(jail)
}

fn has_ended(process: &Spawned) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::new(&process.pidfd, PollFlags::IN)], Some(&now)) != Ok(0)
}

/// Takes a child that a zygote has forked. What it is comes from a process that is not trusted, so it counts only if it
/// is a child of this process, and none that is known already.
fn adopt(shards: &[Shard], jails: &[Jail], fds: Vec<OwnedFd>) -> io::Result<Started> {
    let [pidfd] = <[OwnedFd; 1]>::try_from(fds).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    waitid(WaitId::PidFd(pidfd.as_fd()), look)?;
    let pid = pid_of(&pidfd)?;
    if is_known(pid, shards, jails) {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    Ok(Started { process: Spawned { pid, pidfd, absent: Vec::new() }, outside: 0 })
}

/// Whether a child of this process is one that it has started itself, or has adopted.
fn is_known(pid: u32, shards: &[Shard], jails: &[Jail]) -> bool {
    let anchors = jails.iter().filter_map(|jail| jail.anchor.as_ref());
    shards.iter().map(|shard| &shard.process).chain(anchors).any(|process| process.pid == pid)
}

/// The number of a pidfd's process; it stays the process's own as long as nobody reaps it.
fn pid_of(pidfd: &OwnedFd) -> io::Result<u32> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()))?;
    let pid = info.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok());
    pid.ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

/// Tells the composer what became of a process.
fn answer(
    socket: &ControlSocket,
    id: ProcessId,
    started: io::Result<Started>,
) -> Result<Option<Shard>, ControlError> {
    match started {
        Ok(Started { process, outside }) => {
            let absent = process.absent.clone();
            let launched = FromLauncher::Launched { process: id, pid: process.pid, absent, outside };
            match socket.send(&launched, &[process.pidfd.as_fd()]) {
                Ok(()) => Ok(Some(Shard { id, process })),
                // The kernel counts descriptors that are under way, those of others of this user too. That is no reason for
                // the others to end.
                Err(ControlError::Io(error)) => {
                    kill_and_reap(&process);
                    not_launched(socket, id, &error)
                }
                Err(error) => {
                    kill_and_reap(&process);
                    Err(error)
                }
            }
        }
        Err(error) => not_launched(socket, id, &error),
    }
}

fn not_launched(
    socket: &ControlSocket,
    process: ProcessId,
    error: &io::Error,
) -> Result<Option<Shard>, ControlError> {
    let errno = error.raw_os_error().unwrap_or(Errno::INVAL.raw_os_error());
    socket.send(&FromLauncher::NotLaunched { process, errno, why: error.to_string() }, &[])?;
    Ok(None)
}

fn kill_and_reap(process: &Spawned) {
    // It may have ended by itself.
    let _ = pidfd_send_signal(&process.pidfd, Signal::KILL);
    let _ = reap(process.pidfd.as_fd());
}

/// Reaps a shard that has ended and says how.
fn report(socket: &ControlSocket, shard: Shard) {
    let Ended { code, signal } =
        reap(shard.process.pidfd.as_fd()).unwrap_or(Ended { code: None, signal: None });
    // If the composer is gone, the next look at the socket says so.
    let _ = socket.send(&FromLauncher::Exited { process: shard.id, code, signal }, &[]);
}

fn kill_all(shards: Vec<Shard>, jails: Vec<Jail>) {
    let anchors = jails.into_iter().filter_map(|jail| jail.anchor);
    let all: Vec<Spawned> = shards.into_iter().map(|shard| shard.process).chain(anchors).collect();
    for process in &all {
        // It may have ended by itself.
        let _ = pidfd_send_signal(&process.pidfd, Signal::KILL);
    }
    // What a zygote has forked and told nobody of. Its number is its own as long as it is not reaped.
    let me = std::process::id();
    let children = std::fs::read_to_string(format!("/proc/{me}/task/{me}/children")).unwrap_or_default();
    for child in children.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)) {
        let _ = kill_process(child, Signal::KILL);
    }
    // In whatever order: an anchor ends when all are reaped that were in its namespaces.
    while matches!(waitid(WaitId::All, WaitIdOptions::EXITED), Ok(Some(_)) | Err(Errno::INTR)) {}
}
