//! A shard that misbehaves as its first argument says, so that tests can see what happens. Also the launch helper of
//! the tests' composers, and a program that embeds one.

use rustix::io::Errno;
use rustix::process::{PidfdFlags, Resource, Rlimit, WaitOptions, getrlimit, setrlimit};
use shard_composer::Composer;
use shard_runtime::control::{
    COMPOSER_LINK, ControlSocket, FromShard, PROTOCOL_VERSION, Packet, ToShard, Wire as WireMessage,
};
use shard_runtime::region::Region;
use shard_runtime::ring::Ring;
use shardkit::Components;
use shardkit::manifest::Manifest;
use shardkit::prelude::*;
use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Echoes, or fails in one of several ways. Asked for `made in` it names the process in which it was initialised.
struct Misfit {
    way: String,
    made_in: u32,
    forked_into: u32,
    stained: bool,
    /// What takes time to build.
    table: Vec<u64>,
}

impl Misfit {
    fn new(way: &str, config: &Config) -> Result<Self> {
        let settings: HashMap<String, String> = config.get().unwrap_or_default();
        if let Some(log) = settings.get("log") {
            let mut log = OpenOptions::new().create(true).append(true).open(log)?;
            writeln!(log, "{way}")?;
        }
        let words = settings.get("table_mib").map_or(Ok(0), |mib| mib.parse::<u64>())? << 17;
        let table = (0..words).map(|word| word.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31)).collect();
        let is_zygote = config.shard().0 == u32::MAX;
        if way == "stuck" && is_zygote {
            forever();
        }
        if way == "stray" && is_zygote {
            leave_stray();
        }
        if way == "threads" {
            std::thread::spawn(|| forever());
        }
        Ok(Self { way: way.into(), made_in: std::process::id(), forked_into: 0, stained: false, table })
    }
}

impl Shard for Misfit {
    fn on_open(&mut self, _: SessionId, _: &mut Context<'_>) -> Result<()> {
        if self.way == "refuse" { Err(Error::new("not today")) } else { Ok(()) }
    }

    fn on_fork(&mut self, config: &Config) -> Result<()> {
        self.forked_into = config.shard().0;
        Ok(())
    }

    fn on_scrub(&mut self, _: &mut Context<'_>) -> Result<()> {
        if self.stained { Err(Error::new("a stain is left")) } else { Ok(()) }
    }

    fn on_message(&mut self, message: Message<'_>, ctx: &mut Context<'_>) -> Result<()> {
        match message.payload() {
            b"made in" => {
                let answer = format!("{} {} {}", self.way, self.made_in, self.forked_into);
                return Ok(ctx.reply(&message, answer.as_bytes())?);
            }
            b"random" => {
                let answer = ctx.random().to_string();
                return Ok(ctx.reply(&message, answer.as_bytes())?);
            }
            b"table" => {
                let sum = self.table.iter().fold(0u64, |sum, word| sum.wrapping_add(*word));
                return Ok(ctx.reply(&message, sum.to_string().as_bytes())?);
            }
            b"climb" => return Ok(ctx.reply(&message, climb().join(" ").as_bytes())?),
            b"stain" => self.stained = true,
            b"burn" => {
                let start = Instant::now();
                while start.elapsed() < Duration::from_millis(20) {
                    std::hint::spin_loop();
                }
            }
            _ => {}
        }
        match self.way.as_str() {
            "fail" => Err(Error::new("the handler failed")),
            "panic" => panic!("as asked"),
            "slow" => {
                std::thread::sleep(Duration::from_micros(5));
                Ok(ctx.reply(&message, message.payload())?)
            }
            _ => Ok(ctx.reply(&message, message.payload())?),
        }
    }
}

fn main() -> Result<()> {
    shard_composer::take_over();
    let way = std::env::args().nth(1).unwrap_or_default();
    match way.as_str() {
        "exit" => std::process::exit(3),
        "hang" => forever(),
        "mute" => {
            let control = control();
            control.send(&FromShard::Hello { version: PROTOCOL_VERSION, pid: std::process::id() }, &[])?;
            forever()
        }
        "hang-up" => {
            let control = control();
            control.send(&FromShard::Hello { version: PROTOCOL_VERSION, pid: std::process::id() }, &[])?;
            drop(control);
            forever()
        }
        "version" => {
            control().send(&FromShard::Hello { version: PROTOCOL_VERSION + 1, pid: 1 }, &[])?;
            forever()
        }
        "garbage" => {
            let control = control();
            rustix::net::send(&control, &[0xff; 64], rustix::net::SendFlags::empty())?;
            forever()
        }
        "flood" | "generous" | "scribble" | "thief" => by_hand(&way),
        "embed" => embed(),
        "embed-tiers" => embed_tiers(),
        "embed-warm" => embed_warm(true),
        "embed-zygote" => embed_zygote(),
        "embed-loud" => embed_warm(false),
        "any" => shardkit::run_any(
            Components::new()
                .with("one", |config| Misfit::new("one", config))
                .with("two", |config| Misfit::new("two", config)),
        ),
        "few-descriptors" => start_with_few(Resource::Nofile),
        "few-threads" => start_with_few(Resource::Nproc),
        _ => shardkit::run(|config| Misfit::new(&way, config)),
    }
}

fn forever() -> ! {
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

/// Forks a sibling as zygotes do, which ends at once, and tells nobody.
fn leave_stray() {
    let flags = libc::CLONE_PARENT | libc::CLONE_PIDFD | libc::CLONE_NEWUSER | libc::CLONE_NEWPID;
    let mut pidfd = -1;
    // SAFETY: as fork(2); the child ends at once.
    if unsafe { libc::syscall(libc::SYS_clone, flags, 0, &raw mut pidfd, 0, 0) } == 0 {
        // SAFETY: it ends the child.
        unsafe { libc::_exit(0) }
    }
}

/// Tries what leads out of a container. Names what the kernel did.
fn climb() -> Vec<&'static str> {
    use rustix::net::{AddressFamily, SocketType, netlink, socket};
    let mut done = Vec::new();
    let mut note = |what, worked: bool| done.extend(worked.then_some(what));
    for (what, flag) in [("new-users", libc::CLONE_NEWUSER), ("new-net", libc::CLONE_NEWNET)] {
        // SAFETY: as fork(2); the child ends at once.
        let forked = unsafe { libc::syscall(libc::SYS_clone, flag | libc::SIGCHLD, 0, 0, 0, 0) };
        if forked == 0 {
            // SAFETY: it ends the child.
            unsafe { libc::_exit(0) }
        }
        note(what, forked > 0);
    }
    note("machine-socket", socket(AddressFamily::VSOCK, SocketType::STREAM, None).is_ok());
    let diag = socket(AddressFamily::NETLINK, SocketType::DGRAM, Some(netlink::SOCK_DIAG));
    note("all-sockets", diag.is_ok());
    note("ip", socket(AddressFamily::INET6, SocketType::STREAM, None).is_ok());
    note("routes", socket(AddressFamily::NETLINK, SocketType::DGRAM, None).is_ok());
    done
}

fn control() -> ControlSocket {
    ControlSocket::from_fd(shard_runtime::process::take_control().expect("a control socket"))
}

/// Joins by hand. `scribble`: as soon as it has a link it writes nonsense over the whole ring, header page included.
/// `generous`: it gives descriptors away. `flood`: it never stops talking. `thief`: as a zygote it says that its parent
/// is its child.
fn by_hand(way: &str) -> Result<()> {
    let control = control();
    let gifts = if way == "generous" { vec![control.as_fd(); 4] } else { vec![] };
    control.send(&FromShard::Hello { version: PROTOCOL_VERSION, pid: std::process::id() }, &gifts)?;
    if way == "flood" {
        loop {
            control.send(&FromShard::Wired { link: COMPOSER_LINK }, &[])?;
        }
    }
    let mut packet = Packet::new();
    loop {
        let (message, fds) = control.receive::<ToShard>(&mut packet)?;
        match message {
            ToShard::Wire(wire) if wire.link == COMPOSER_LINK => control.send(&FromShard::Ready, &gifts)?,
            ToShard::Wire(wire) => {
                control.send(&FromShard::Wired { link: wire.link }, &gifts)?;
                if way == "scribble" {
                    // The composer has nothing to do any more: only the broken link can wake it.
                    std::thread::sleep(Duration::from_millis(200));
                    write_nonsense(&wire, fds)?;
                }
            }
            ToShard::Stop => return Ok(()),
            ToShard::Zygote(_) => control.send(&FromShard::Ready, &[])?,
            ToShard::Fork { process } => {
                let parent = rustix::process::getppid().expect("a parent");
                let pidfd = rustix::process::pidfd_open(parent, PidfdFlags::empty())?;
                control.send(&FromShard::Forked { process }, &[pidfd.as_fd()])?;
            }
            _ => {}
        }
    }
}

fn write_nonsense(wire: &WireMessage, mut fds: Vec<OwnedFd>) -> Result<()> {
    let bell = Region::receive(fds.remove(2), shard_runtime::wake::BELL_BYTES)?;
    let capacity = wire.out_ring_bytes as usize;
    let region = Region::receive(fds.remove(1), Ring::region_bytes(capacity))?;
    let memory = region.map(true)?;
    for offset in (0..memory.len()).step_by(8) {
        memory.word(offset).store(0x5bad_5bad_5bad_5bad, Ordering::Release);
    }
    shard_runtime::wake::Ringer::map(&bell)?.ring(wire.peer_link);
    Ok(())
}

/// Embeds a composer, says which processes there are, and does nothing more.
fn embed() -> Result<()> {
    let me = std::env::current_exe()?;
    let composer = shard_tests::start(&me, &shard_tests::manifest_text(&me, &["echo", "hang"], ""));
    shard_tests::ready_shard(&composer, "echo");
    // Ready shards' numbers may come a moment after their first words.
    shard_tests::wait_until("all processes are known", || {
        composer.shards().iter().all(|shard| shard.pid != 0)
    });
    let pids: Vec<String> = composer.shards().iter().map(|shard| shard.pid.to_string()).collect();
    println!("{}", pids.join(" "));
    forever()
}

/// As [`embed`], with shards of every tier, one of them frozen. The manifest is on standard input.
fn embed_tiers() -> Result<()> {
    let me = std::env::current_exe()?;
    let composer = shard_tests::start(&me, &std::io::read_to_string(std::io::stdin())?);
    composer.wait_warm(shard_tests::PATIENCE)?;
    shard_tests::sources(&composer);
    let shards = composer.shards();
    composer.freeze(shards[0].id);
    shard_tests::wait_until("it is frozen", || shard_tests::is_frozen(shards[0].pid));
    let pids = shards.iter().map(|shard| shard.pid);
    let pids = pids.chain(composer.sources().into_iter().map(|source| source.pid));
    println!("{}", pids.map(|pid| pid.to_string()).collect::<Vec<_>>().join(" "));
    forever()
}

/// As [`embed`], with the warm shards of the manifest on standard input and images in the folder that is named. If it is
/// not quiet, it asks one of them something.
fn embed_warm(quiet: bool) -> Result<()> {
    let manifest = Manifest::parse(&std::io::read_to_string(std::io::stdin())?, "warm.toml")?;
    let images = std::env::args_os().nth(2).unwrap_or_default();
    let builder = Composer::builder(manifest).launcher(std::env::current_exe()?).image_cache(images);
    let builder = builder.host_file(std::env::var_os("SHARD_HOST_FILE"));
    let composer = builder.quiet(quiet).start()?;
    composer.wait_warm(shard_tests::PATIENCE)?;
    println!("warm");
    if !quiet {
        let port = composer.output::<Bytes, Bytes>("echo")?;
        let session = composer.compose("default")?;
        session.send(&port, &Bytes(b"?".to_vec()))?;
        forever()
    }
    forever()
}

/// As [`embed`], with the component `echo` of the manifest on standard input, which has a zygote: says what that sees of
/// the host, and what is wrong with it, once a shard is ready.
fn embed_zygote() -> Result<()> {
    let me = std::env::current_exe()?;
    let composer = shard_tests::start(&me, &std::io::read_to_string(std::io::stdin())?);
    shard_tests::ready_shard(&composer, "echo");
    shard_tests::wait_until("it says why", || composer.fault("echo").is_some());
    let zygote = shard_tests::sources(&composer)[0].pid;
    let root = std::fs::read_dir(format!("/proc/{zygote}/root"))?.flatten();
    let mut names: Vec<_> = root.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    println!("{}; {}", names.join(" "), composer.fault("echo").unwrap_or_default());
    forever()
}

/// Starts a composer with one more of a resource each time, until it has enough, and says why it failed until then.
/// Nothing may be left of a start that failed.
fn start_with_few(resource: Resource) -> Result<()> {
    let me = std::env::current_exe()?;
    let manifest =
        Manifest::parse(&shard_tests::manifest_text(&me, &["echo"], "warm = 0\nmax = 1"), "few.toml")?;
    let start = || Composer::builder(manifest.clone()).launcher(&me).quiet(true).start();
    // What is made once in a process is made now.
    drop(start()?);
    let (descriptors, threads) = (shard_tests::descriptors(), shard_tests::threads());
    let enough = getrlimit(resource);
    for limit in 1..100_000 {
        setrlimit(resource, Rlimit { current: Some(limit), ..enough })?;
        let started = start();
        setrlimit(resource, enough)?;
        let Err(error) = started else { return Ok(()) };
        println!("with {limit}: {error}");
        assert_eq!(rustix::process::wait(WaitOptions::NOHANG).err(), Some(Errno::CHILD), "a process is left");
        assert_eq!(shard_tests::descriptors(), descriptors, "a descriptor is left");
        shard_tests::wait_until("its threads are gone", || shard_tests::threads() == threads);
    }
    Err(Error::new("there is never enough"))
}
