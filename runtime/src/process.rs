//! Starting a shard's process. (What runs a container is started in [`crate::contain`].)
//!
//! The composer's launch helper forks and execs ([`spawn`]): the child gets one descriptor, its control socket, and is
//! isolated if it is to be ([`crate::isolation`]). A zygote, which has one thread, forks a copy of itself
//! ([`fork_sibling`]): the child has what the zygote has, and the same parent, the launch helper. Either way the child
//! dies with the helper.
//!
//! Invariant: between fork and exec there are system calls only, on what was prepared before.

use crate::control::{CONTROL_ENV, CONTROL_FD, LAUNCHER_ENV, PROTOCOL_VERSION};
use crate::isolation::{self, Absent, Enter, FIRST_FD, Identity, Isolation, Measure, Outcome};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{
    Pid, PidfdFlags, Resource, Rlimit, Signal, WaitId, WaitIdOptions, geteuid, getrlimit, pidfd_open,
    setrlimit, waitid,
};
use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

/// What to start.
pub struct Spawn<'a> {
    /// The program's file. It is not searched for.
    pub program: &'a Path,
    /// Its arguments.
    pub args: &'a [String],
    /// Environment variables, on top of the inherited ones: all, or, in isolation, those in [`INHERITED`].
    pub env: &'a [(String, String)],
    /// The shard's end of its control socket.
    pub control: BorrowedFd<'a>,
    /// Where it prints to (output, errors); `None` throws it away. Not to what others print to: who shares an open file can
    /// shut it, cut it off, or have it fail for them.
    pub output: Option<[BorrowedFd<'a>; 2]>,
    /// What keeps it from the rest of the host; `None` for nothing.
    pub isolation: Option<&'a Isolation>,
    /// Whose namespaces it is put into, without being the first process of any ([`anchor`]); `None` for new ones.
    pub anchor: Option<&'a Spawned>,
    /// The folder of the control group (v2) in which it begins; `None` for that of this process.
    pub cgroup: Option<BorrowedFd<'a>>,
    /// In isolation, the highest real-time priority that it may have, as far as this process may have it.
    pub realtime: u32,
}

/// A started process. It is not reaped when this is dropped: its parent calls [`reap`].
pub struct Spawned {
    /// The process.
    pub pid: u32,
    /// A descriptor that becomes readable when the process ends.
    pub pidfd: OwnedFd,
    /// The measures of its isolation that this host does not allow.
    pub absent: Vec<Absent>,
}

/// Starts a shard's process.
///
/// # Errors
/// What the kernel says: no such program, not executable, no process left, no such control group.
pub fn spawn(spawn: &Spawn<'_>) -> io::Result<Spawned> {
    let Spawn { program, args, env, .. } = *spawn;
    start(Some((Image::new(program, args, env, spawn.isolation.is_some())?, spawn.control)), spawn)
}

/// Starts a process that does nothing but hold the namespaces of a zygote and its shards, for [`Spawn::anchor`].
///
/// The first process of a pid namespace can't give its children away, as a zygote does; and when it ends, all others
/// in there do. So the first is this one, which runs no program.
///
/// # Errors
/// As [`spawn`].
pub fn anchor(isolation: &Isolation) -> io::Result<Spawned> {
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    let control = null.as_fd();
    let (program, isolation) = (Path::new(""), Some(isolation));
    let (args, env, output, anchor, cgroup, realtime) = (&[], &[], None, None, None, REALTIME_TRIED);
    start(None, &Spawn { program, args, env, control, output, isolation, anchor, cgroup, realtime })
}

/// An anchor does nothing, so it may have the least; the composer tries with one whether it may be given.
const REALTIME_TRIED: u32 = 1;

fn start(program: Option<(Image, BorrowedFd<'_>)>, spawn: &Spawn<'_>) -> io::Result<Spawned> {
    let (image, control) = program.map(|(image, control)| (image, high(control))).unzip();
    let (going, go) = pipe()?;
    let (report, reporting) = pipe()?;
    let (told, telling) = pipe()?;
    let mut outcome = [0; Measure::COUNT];
    for absent in spawn.anchor.iter().flat_map(|anchor| &anchor.absent) {
        outcome[absent.measure as usize] = absent.errno;
    }
    let prepared = Prepared {
        null: high(rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?)?,
        control: control.transpose()?,
        parent: high(pidfd_open(rustix::process::getpid(), PidfdFlags::empty())?)?,
        anchor: spawn.anchor.map(Anchor::open).transpose()?,
        enter: spawn.isolation.map(Isolation::ready).transpose()?,
        own_number: spawn.anchor.map(|_| own_number()).transpose()?,
        image,
        going,
        go,
        reporting,
        telling,
        output: high_output(spawn.output)?,
        realtime: getrlimit(Resource::Rtprio).maximum.unwrap_or(u64::MAX).min(spawn.realtime.into()),
        outcome,
    };
    let (flags, mut forked) = fork(&prepared, spawn.cgroup, &mut outcome)?;
    let Prepared { going, go, reporting, telling, enter, .. } = prepared;
    drop((going, reporting, telling));
    let mut started = let_go(&forked, flags, enter.as_ref(), go, &mut outcome);
    if spawn.anchor.is_some() && started.is_ok() {
        started = follow(told, &mut forked);
    }
    if let Err(error) = started.and_then(|()| hear(report, &mut outcome)) {
        // It has ended, or ends as soon as it hears nothing.
        let _ = rustix::process::pidfd_send_signal(&forked.pidfd, Signal::KILL);
        let _ = reap(forked.pidfd.as_fd());
        return Err(error);
    }
    let mut absent = enter.map(|enter| enter.absent).unwrap_or_default();
    let failed = Measure::ALL.into_iter().zip(outcome).filter(|(_, errno)| *errno != 0);
    absent.extend(failed.map(|(measure, errno)| Absent { measure, errno }));
    Ok(Spawned { absent, ..forked })
}

/// What the new process needs until its program runs.
struct Prepared<'a> {
    /// `None` for an anchor, which runs none and has no socket.
    image: Option<Image>,
    control: Option<OwnedFd>,
    enter: Option<Enter<'a>>,
    anchor: Option<Anchor>,
    /// The number in its pid namespace of a process that joins an anchor.
    own_number: Option<libc::pid_t>,
    null: OwnedFd,
    parent: OwnedFd,
    /// It waits on this until it may begin.
    going: OwnedFd,
    go: OwnedFd,
    /// What became of each measure, and of exec.
    reporting: OwnedFd,
    /// The number of the process that it has put into its anchor's namespaces.
    telling: OwnedFd,
    output: Option<[OwnedFd; 2]>,
    realtime: u64,
    /// What is known of its anchor's namespaces.
    outcome: Outcome,
}

/// The namespaces that a process is put into.
struct Anchor {
    pidfd: OwnedFd,
    /// Its root, which is not that of its mount namespace where the forking process has a root of its own (chroot).
    root: OwnedFd,
}

impl Anchor {
    fn open(anchor: &Spawned) -> io::Result<Self> {
        // It was reaped by nobody, so the number is its own.
        let path = format!("/proc/{}/root", anchor.pid);
        let root = rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { pidfd: high(&anchor.pidfd)?, root: high(root)? })
    }
}

/// A process that joins an anchor is not in its pid namespace, but a second one is that it forks in its stead.
fn follow(told: OwnedFd, forked: &mut Spawned) -> io::Result<()> {
    let mut number = [0; 4];
    if File::from(told).read_exact(&mut number).is_err() {
        // Its report says why there is none.
        return Ok(());
    }
    let pid = i32::from_ne_bytes(number);
    let second = Pid::from_raw(pid).ok_or(Errno::SRCH)?;
    // It is a child of this process and not reaped, so its number is its own.
    let pidfd = pidfd_open(second, PidfdFlags::empty())?;
    let first = std::mem::replace(forked, Spawned { pid: pid as u32, pidfd, absent: Vec::new() });
    reap(first.pidfd.as_fd())?;
    Ok(())
}

/// So many numbers before the last one are tried for a zygote.
const NUMBERS_TRIED: libc::pid_t = 16;

/// The number of a zygote in its pid namespace: the last one that there is. The C library of a shard that is forked from
/// it goes on to take it for the number of the shard's first thread, and compares it with those of its other threads. They
/// are counted from 1 in the shard's own pid namespace, so they must not come to it.
fn own_number() -> io::Result<libc::pid_t> {
    let most = std::fs::read_to_string("/proc/sys/kernel/pid_max")?;
    let most: libc::pid_t = most.trim().parse().map_err(|_| io::ErrorKind::InvalidData)?;
    Ok(most - 1)
}

/// What an isolated process inherits of this one's environment. The rest may hold secrets that are not its own.
pub const INHERITED: [&str; 7] = ["PATH", "LANG", "LC_ALL", "TZ", "TERM", "RUST_LOG", "RUST_BACKTRACE"];

/// A program, its arguments and its environment as the kernel takes them.
pub(crate) struct Image {
    program: CString,
    _texts: Vec<CString>,
    args: Vec<*const libc::c_char>,
    env: Vec<*const libc::c_char>,
}

impl Image {
    /// `env` comes on top of what is inherited: all, or, for an isolated process, what is in [`INHERITED`].
    pub(crate) fn new(
        program: &Path,
        arguments: &[String],
        env: &[(String, String)],
        isolated: bool,
    ) -> io::Result<Self> {
        let program = CString::new(program.as_os_str().as_bytes())?;
        let passes = |name: &OsStr| !isolated || INHERITED.iter().any(|known| name == *known);
        let mut vars: BTreeMap<OsString, OsString> =
            std::env::vars_os().filter(|(name, _)| passes(name)).collect();
        vars.extend(env.iter().map(|(name, value)| (name.into(), value.into())));
        vars.insert(CONTROL_ENV.into(), PROTOCOL_VERSION.to_string().into());
        vars.remove(OsStr::new(LAUNCHER_ENV));
        let vars = vars.iter().map(|(name, value)| [name.as_bytes(), b"=", value.as_bytes()].concat());
        let mut texts = Vec::new();
        let mut pointers = |text: Vec<u8>| {
            let text = CString::new(text)?;
            let pointer = text.as_ptr();
            // Its text stays where it is when it moves.
            texts.push(text);
            io::Result::Ok(pointer)
        };
        let mut args = vec![program.as_ptr()];
        for arg in arguments {
            args.push(pointers(arg.clone().into_bytes())?);
        }
        let mut env = vars.map(&mut pointers).collect::<io::Result<Vec<_>>>()?;
        args.push(ptr::null());
        env.push(ptr::null());
        Ok(Self { program, _texts: texts, args, env })
    }

    /// Becomes the program: what is in `file`, if that is there and can be run, or else the file of its path. Returns only
    /// if it can't, with the reason. Makes system calls only.
    pub(crate) fn exec(&self, file: Option<BorrowedFd<'_>>) -> Errno {
        // SAFETY: the texts and the lists of pointers to them, which end with a null, outlive the calls. The C library's
        // `execve` is the system call.
        unsafe {
            if let Some(file) = file {
                let (args, env) = (self.args.as_ptr(), self.env.as_ptr());
                let empty = c"".as_ptr();
                libc::syscall(libc::SYS_execveat, file.as_raw_fd(), empty, args, env, libc::AT_EMPTY_PATH);
            }
            libc::execve(self.program.as_ptr(), self.args.as_ptr(), self.env.as_ptr());
        }
        last_errno()
    }
}

pub(crate) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (from, to) = pipe_with(PipeFlags::CLOEXEC)?;
    Ok((high(from)?, high(to)?))
}

/// The same with a number that is not one of those that the shard's own descriptors have.
pub(crate) fn high(fd: impl AsFd) -> Result<OwnedFd, Errno> {
    fcntl_dupfd_cloexec(fd, FIRST_FD)
}

/// The same of where a process prints to.
pub(crate) fn high_output(output: Option<[BorrowedFd<'_>; 2]>) -> io::Result<Option<[OwnedFd; 2]>> {
    let Some([output, errors]) = output else { return Ok(None) };
    Ok(Some([high(output)?, high(errors)?]))
}

/// `CLONE_INTO_CGROUP`, which needs more bits than the C library's constant has.
const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// The namespaces, by measure.
const NAMESPACES: [(Measure, i32); 6] = [
    (Measure::User, libc::CLONE_NEWUSER),
    (Measure::Mount, libc::CLONE_NEWNS),
    (Measure::Pid, libc::CLONE_NEWPID),
    (Measure::Ipc, libc::CLONE_NEWIPC),
    (Measure::Net, libc::CLONE_NEWNET),
    (Measure::Uts, libc::CLONE_NEWUTS),
];

/// Whether a process of this one got all namespaces that it was to have. Relaxed: it only ever becomes true.
static ALL_WERE_GIVEN: AtomicBool = AtomicBool::new(false);

/// Forks with as many namespaces as the host allows: all; those for which root needs no user namespace; none. Returns
/// which. In the child it does not return.
fn fork(
    prepared: &Prepared<'_>,
    cgroup: Option<BorrowedFd<'_>>,
    outcome: &mut Outcome,
) -> io::Result<(u64, Spawned)> {
    let wanted = match &prepared.enter {
        Some(enter) if prepared.anchor.is_none() => enter.namespaces(),
        _ => 0,
    };
    let without_users = if geteuid().is_root() { wanted & !(libc::CLONE_NEWUSER as u64) } else { 0 };
    let mut refusal = 0;
    for flags in [wanted, without_users, 0] {
        match clone(flags, cgroup, None) {
            Ok(Some(forked)) => {
                if flags == wanted {
                    ALL_WERE_GIVEN.store(true, Ordering::Relaxed);
                }
                for (measure, flag) in NAMESPACES {
                    if wanted & !flags & flag as u64 != 0 {
                        outcome[measure as usize] = refusal;
                    }
                }
                return Ok((flags, forked));
            }
            Ok(None) => become_shard(prepared, flags),
            // Someone in there may have used up what the user has of them: no reason to start others without.
            Err(error @ (Errno::NOSPC | Errno::USERS)) if ALL_WERE_GIVEN.load(Ordering::Relaxed) => {
                return Err(error.into());
            }
            Err(error @ (Errno::PERM | Errno::INVAL | Errno::NOSPC | Errno::NOSYS | Errno::USERS))
                if flags != 0 =>
            {
                refusal = error.raw_os_error();
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(Errno::from_raw_os_error(refusal).into())
}

/// Forks. `None` in the child, which may make nothing but system calls.
///
/// With `CLONE_PARENT` the child is that of this process's parent. `number` is what the child has in its pid namespace.
pub(crate) fn clone(
    flags: u64,
    cgroup: Option<BorrowedFd<'_>>,
    number: Option<libc::pid_t>,
) -> Result<Option<Spawned>, Errno> {
    let mut pidfd: i32 = -1;
    // SAFETY: all of its fields are numbers, for which zero is a value.
    let mut how: libc::clone_args = unsafe { std::mem::zeroed() };
    how.flags = flags | libc::CLONE_PIDFD as u64;
    how.pidfd = (&raw mut pidfd) as u64;
    if flags & libc::CLONE_PARENT as u64 == 0 {
        how.exit_signal = libc::SIGCHLD as u64;
    }
    if let Some(cgroup) = cgroup {
        how.flags |= CLONE_INTO_CGROUP;
        how.cgroup = cgroup.as_raw_fd() as u64;
    }
    if let Some(number) = &number {
        how.set_tid = ptr::from_ref(number) as u64;
        how.set_tid_size = 1;
    }
    // SAFETY: without CLONE_VM the child runs on a copy of this stack, as after fork(2), and its caller makes nothing
    // but system calls in it. `how`, `pidfd` and `number` outlive the call.
    let mut pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut how, size_of::<libc::clone_args>()) };
    if pid < 0 && last_errno() == Errno::NOSYS && cgroup.is_none() {
        // Containers hide clone3, whose flags their filters can't read.
        let flags = (how.flags | how.exit_signal) as libc::c_ulong;
        // SAFETY: as above; its first three arguments are in this order on all processors that are built for.
        pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, &raw mut pidfd, 0, 0) };
    }
    match pid {
        ..0 => Err(last_errno()),
        0 => Ok(None),
        pid => {
            // SAFETY: the kernel has just put the descriptor there, close-on-exec, and nobody else knows of it.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Some(Spawned { pid: pid as u32, pidfd, absent: Vec::new() }))
        }
    }
}

/// What the new process is told: whom it is to become.
const GO: u8 = b'g';
const GO_AS_NOBODY: u8 = b'n';

/// In the forking process: gives the new one its users, and lets it begin.
fn let_go(
    forked: &Spawned,
    flags: u64,
    enter: Option<&Enter<'_>>,
    go: OwnedFd,
    outcome: &mut Outcome,
) -> io::Result<()> {
    let mut word = GO;
    if let Some(enter) = enter.filter(|_| flags & libc::CLONE_NEWUSER as u64 != 0) {
        let own = Identity::own();
        let mapped = map_users(forked.pid, enter.identity());
        if mapped.is_ok() && enter.identity() != own {
            word = GO_AS_NOBODY;
        }
        if let Err(error) = mapped {
            let errno = error.raw_os_error().unwrap_or(Errno::PERM.raw_os_error());
            if enter.identity() != own && map_users(forked.pid, own).is_ok() {
                outcome[Measure::Nobody as usize] = errno;
            } else {
                outcome[Measure::User as usize] = errno;
            }
        }
    }
    File::from(go).write_all(&[word])
}

/// Gives a new user namespace its only user and group.
fn map_users(pid: u32, identity: Identity) -> io::Result<()> {
    let write = |file: &str, text: &str| std::fs::write(format!("/proc/{pid}/{file}"), text);
    if !geteuid().is_root() {
        // The kernel wants it so: a group that is left could be one that keeps someone out.
        write("setgroups", "deny")?;
    }
    write("gid_map", &format!("{0} {0} 1", identity.gid))?;
    write("uid_map", &format!("{0} {0} 1", identity.uid))
}

/// Hears what became of the measures, and whether the program runs.
fn hear(report: OwnedFd, outcome: &mut Outcome) -> io::Result<()> {
    let mut bytes = Vec::new();
    File::from(report).read_to_end(&mut bytes)?;
    let mut numbers =
        bytes.chunks_exact(4).map(|bytes| i32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
    let mut heard = 0;
    for (known, errno) in outcome.iter_mut().zip(numbers.by_ref()) {
        if *known == 0 {
            *known = errno;
        }
        heard += 1;
    }
    match (heard, numbers.next()) {
        (Measure::COUNT, None) => Ok(()),
        (Measure::COUNT, Some(errno)) => Err(io::Error::from_raw_os_error(errno)),
        _ => Err(io::ErrorKind::BrokenPipe.into()),
    }
}

pub(crate) fn last_errno() -> Errno {
    // SAFETY: the C library's own number of this thread.
    Errno::from_raw_os_error(unsafe { *libc::__errno_location() })
}

/// In the new process: isolates itself, binds itself to its parent's life, keeps nothing open but standard streams and
/// the control socket, and runs its program.
fn become_shard(prepared: &Prepared<'_>, flags: u64) -> ! {
    let mut outcome = prepared.outcome;
    let done = try_become_shard(prepared, flags, &mut outcome);
    let mut report = [0_i32; Measure::COUNT + 1];
    report[..Measure::COUNT].copy_from_slice(&outcome);
    let mut length = Measure::COUNT;
    if let Err(error) = done {
        report[length] = error.raw_os_error();
        length += 1;
    }
    let report_fd = prepared.reporting.as_raw_fd();
    // SAFETY: system calls on memory and descriptors that outlive them.
    unsafe {
        libc::write(report_fd, report.as_ptr().cast(), length * 4);
        if done.is_ok() {
            let Some(image) = &prepared.image else { hold() };
            let error = image.exec(None).raw_os_error();
            libc::write(report_fd, (&raw const error).cast(), 4);
        }
        libc::_exit(127)
    }
}

/// What an anchor does: nothing, with nothing open, until it is killed.
fn hold() -> ! {
    // SAFETY: system calls on numbers; the process uses none of its descriptors again. Children that it inherits in
    // its pid namespace are reaped by the kernel.
    unsafe {
        libc::signal(libc::SIGCHLD, libc::SIG_IGN);
        libc::close_range(0, u32::MAX, 0);
        loop {
            libc::pause();
        }
    }
}

/// Goes into the namespaces of an anchor, and to its root. Returns in the process that is in all of them.
fn join(
    anchor: &Anchor,
    telling: &OwnedFd,
    namespaces: u64,
    number: Option<libc::pid_t>,
) -> Result<(), Errno> {
    // SAFETY: the process has one thread, as one that was just forked has.
    if unsafe { libc::setns(anchor.pidfd.as_raw_fd(), namespaces as i32) } < 0 {
        return Err(last_errno());
    }
    if namespaces & libc::CLONE_NEWNS as u64 != 0 {
        rustix::process::fchdir(&anchor.root)?;
        rustix::process::chroot(c".")?;
    }
    let parent = libc::CLONE_PARENT as u64;
    let number = number.filter(|_| namespaces & libc::CLONE_NEWPID as u64 != 0);
    // Predecessors that were not reaped yet have the last ones.
    let mut cloned = Err(Errno::EXIST);
    for tried in number.into_iter().flat_map(|last| (last - NUMBERS_TRIED..=last).rev()) {
        if matches!(cloned, Err(Errno::EXIST)) {
            cloned = clone(parent, None, Some(tried));
        }
    }
    let second = match cloned {
        // The kernel gives no number away.
        Err(_) => clone(parent, None, None)?,
        Ok(second) => second,
    };
    let Some(second) = second else { return Ok(()) };
    let pid = second.pid.to_ne_bytes();
    // SAFETY: system calls; nothing of the process that this one is a copy of may run.
    unsafe {
        libc::write(telling.as_raw_fd(), pid.as_ptr().cast(), pid.len());
        libc::_exit(0)
    }
}

fn try_become_shard(prepared: &Prepared<'_>, flags: u64, outcome: &mut Outcome) -> Result<(), Errno> {
    reset_signals();
    // SAFETY: a system call on a number. So the end of the parent is the end of the pipe.
    unsafe { libc::close(prepared.go.as_raw_fd()) };
    let mut word = [0];
    if rustix::io::read(&prepared.going, &mut word)? == 0 {
        return Err(Errno::PIPE);
    }
    if let Some(enter) = &prepared.enter {
        // A terminal's signals, and what is typed into it, are not for a shard.
        let _ = rustix::process::setsid();
        let mut flags = flags;
        match &prepared.anchor {
            Some(anchor) => {
                flags = enter.namespaces();
                flags |= libc::CLONE_NEWCGROUP as u64;
                for (measure, flag) in
                    NAMESPACES.into_iter().chain([(Measure::Cgroup, libc::CLONE_NEWCGROUP)])
                {
                    if outcome[measure as usize] != 0 {
                        flags &= !(flag as u64);
                    }
                }
                join(anchor, &prepared.telling, flags, prepared.own_number)?;
                enter.settle_beside(outcome);
            }
            None => enter.settle(flags, (word == [GO_AS_NOBODY]).then(|| enter.identity()), outcome),
        }
        let most = Some(prepared.realtime);
        // It is no more than before, so it can't be refused.
        let _ = setrlimit(Resource::Rtprio, Rlimit { current: most, maximum: most });
        enter.bind_hands(flags, prepared.image.is_none(), outcome);
    }
    // After the last change of user or capabilities, which would clear it.
    die_with(&prepared.parent)?;
    let control = prepared.control.as_ref().map(|control| (control, CONTROL_FD));
    let [output, errors] =
        prepared.output.as_ref().map_or([&prepared.null; 2], |[output, errors]| [output, errors]);
    for (fd, number) in [(&prepared.null, 0), (output, 1), (errors, 2)].into_iter().chain(control) {
        put(fd, number)?;
    }
    close_at_exec(CONTROL_FD + 1)?;
    if let Some(enter) = &prepared.enter {
        enter.filter(outcome);
    }
    Ok(())
}

/// Signals as a program expects them.
pub(crate) fn reset_signals() {
    // SAFETY: system calls on memory of this stack.
    unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
    }
}

/// Binds this process's life to that of its parent, whose pidfd this is: its number may mean nothing here.
///
/// # Errors
/// The parent is dead.
pub(crate) fn die_with(parent: &OwnedFd) -> Result<(), Errno> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    // It may have died before the line above.
    if poll(&mut [PollFd::new(parent, PollFlags::IN)], Some(&now))? == 0 { Ok(()) } else { Err(Errno::PIPE) }
}

/// Makes a descriptor what this number stands for, between fork and exec.
pub(crate) fn put(fd: impl AsFd, number: RawFd) -> Result<(), Errno> {
    // SAFETY: a system call on numbers; between fork and exec no owner of a descriptor can be confused by it.
    if unsafe { libc::dup2(fd.as_fd().as_raw_fd(), number) } < 0 { Err(last_errno()) } else { Ok(()) }
}

/// Has exec close all descriptors from this number on.
pub(crate) fn close_at_exec(first: RawFd) -> Result<(), Errno> {
    // SAFETY: as above.
    let done = unsafe { libc::close_range(first as u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC as i32) };
    if done < 0 { Err(last_errno()) } else { Ok(()) }
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Its exit code, if it returned one.
    pub code: Option<i32>,
    /// The signal that killed it, if one did.
    pub signal: Option<i32>,
}

/// Waits for the end of a child of this process, and lets its number go.
///
/// # Errors
/// The process is no child of this one, or was reaped before.
pub fn reap(pidfd: BorrowedFd<'_>) -> io::Result<Ended> {
    loop {
        match waitid(WaitId::PidFd(pidfd), WaitIdOptions::EXITED) {
            Ok(Some(status)) => {
                return Ok(Ended { code: status.exit_status(), signal: status.terminating_signal() });
            }
            Ok(None) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The number of a child of this process that has ended and was not reaped, if there is one. It stays the child's until it
/// is reaped.
pub fn ended_child() -> Option<u32> {
    // SAFETY: a structure of numbers, for which zero is a value.
    let mut about: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let how = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: the structure outlives the call, which fills it in or leaves it as it is.
    let looked = unsafe { libc::waitid(libc::P_ALL, 0, &raw mut about, how) };
    // SAFETY: the kernel fills this field in for a child, and zero says that there is none.
    let pid = if looked == 0 { unsafe { about.si_pid() } } else { 0 };
    (pid > 0).then_some(pid as u32)
}

/// Which of the two processes this is, after a fork.
pub enum Forked {
    /// The new one.
    Child,
    /// The old one.
    Parent(Spawned),
}

/// Why a process was not forked.
#[derive(Debug, thiserror::Error)]
pub enum ForkError {
    /// It has other threads: a fork would copy what they had in hand, half done, and locked for ever.
    #[error("the process has {0} threads, and only one with a single thread can be forked")]
    Threads(usize),
    /// The kernel said no.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// How many threads this process has.
///
/// # Errors
/// When `/proc` is not there.
pub fn threads() -> io::Result<usize> {
    Ok(std::fs::read_dir("/proc/self/task")?.count())
}

/// Copies this process. The copy's parent is this one's parent, which reaps it, and with which it dies.
///
/// The copy shares no memory with this process, but every descriptor that is open here. What is registered with the
/// kernel for a process (the barrier) is registered anew. If this process is isolated, the copy gets a user and a pid
/// namespace of its own, so that it can reach neither this process nor other copies; the rest of its isolation it has
/// from here.
///
/// # Errors
/// [`ForkError::Threads`] if this is not the only thread; otherwise what the kernel says.
pub fn fork_sibling() -> Result<Forked, ForkError> {
    let threads = threads()?;
    if threads != 1 {
        return Err(ForkError::Threads(threads));
    }
    let parent = rustix::process::getppid();
    // A parent without a number is outside of this process's pid namespace.
    let fork = if parent.is_none() { Some(isolation::Fork::ready()?) } else { None };
    let namespaces = fork.as_ref().map_or(0, isolation::Fork::namespaces);
    // There is no other thread, as was just counted and nobody else can change, so every lock is free or held by the
    // caller, in the copy too. The C library is not told; all that it would do is to note the child's thread number,
    // which it compares with that of other threads of the same process alone (see `own_number`).
    if let Some(forked) =
        clone(libc::CLONE_PARENT as u64 | namespaces, None, None).map_err(io::Error::from)?
    {
        return Ok(Forked::Parent(forked));
    }
    let bound = fork.map_or(Ok(()), isolation::Fork::settle);
    let bound = bound.and_then(|()| rustix::process::set_parent_process_death_signal(Some(Signal::KILL)));
    if bound.is_err() || rustix::process::getppid() != parent {
        // Nothing would end this process, or hold it back; nobody waits for it either.
        // SAFETY: ends the process without running anything of the one that it is a copy of.
        unsafe { libc::_exit(1) };
    }
    crate::barrier::renew();
    Ok(Forked::Child)
}

/// The control socket that this process inherited as [`CONTROL_FD`], once. `None` if there is none, or if it was
/// taken before.
pub fn take_control() -> Option<OwnedFd> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    // SAFETY: the descriptor is only looked at while it is borrowed.
    let borrowed = unsafe { BorrowedFd::borrow_raw(CONTROL_FD) };
    let socket = rustix::net::sockopt::socket_type(borrowed).is_ok();
    // AcqRel: whoever sets it first owns the descriptor.
    if !socket || TAKEN.swap(true, Ordering::AcqRel) {
        return None;
    }
    // SAFETY: the process inherited it for this purpose, and `TAKEN` makes sure that it has one owner.
    let fd = unsafe { OwnedFd::from_raw_fd(CONTROL_FD) };
    // What we start ourselves does not inherit it.
    let _ = rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC);
    Some(fd)
}
