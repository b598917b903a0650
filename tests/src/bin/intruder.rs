//! A shard that was taken over, and tries to get out. Asked over a session it does what the message says and answers what
//! came of it; called with the name of an attack it begins on its own. Called otherwise, it echoes.

use rustix::fs::FallocateFlags;
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags};
use rustix::net::{AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketType};
use rustix::process::{Pid, Signal};
use shard_runtime::control::{
    COMPOSER_LINK, ControlSocket, FromShard, PROTOCOL_VERSION, Packet, ToShard, Wire as WireMessage,
};
use shard_runtime::frame::{Flags, Header};
use shard_runtime::id::{PortId, SessionId};
use shard_runtime::region::Region;
use shard_runtime::session::Verb;
use shard_runtime::wake::BELL_BYTES;
use shardkit::prelude::*;
use std::fs::{self, OpenOptions};
use std::io::{IoSlice, Write};
use std::mem::MaybeUninit;
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// So often a process is forked at the most: far more than it is allowed to have.
const FORKS_MAX: usize = 4_000;
/// So much is allocated at the most, in MiB: far more than it may have.
const ALLOCATED_MIB_MAX: usize = 512;

struct Intruder;

impl Shard for Intruder {
    fn on_message(&mut self, message: Message<'_>, ctx: &mut Context<'_>) -> Result<()> {
        let asked = String::from_utf8_lossy(message.payload()).into_owned();
        let (verb, what) = asked.split_once(' ').unwrap_or((&asked, ""));
        let number = || what.parse::<i32>().ok().and_then(Pid::from_raw).ok_or(Errno::INVAL);
        let answer = match verb {
            "read" => told(fs::read(what).map(|bytes| format!("done: {} bytes", bytes.len()))),
            "write" => {
                let file = OpenOptions::new().create(true).append(true).open(what);
                told(file.and_then(|mut file| file.write_all(b"x")))
            }
            "remove" => told(fs::remove_file(what)),
            "connect" => told(TcpStream::connect(what)),
            "connect-abstract" => {
                let address = SocketAddr::from_abstract_name(what)?;
                told(UnixStream::connect_addr(&address))
            }
            "signal" => told(number().and_then(|pid| rustix::process::kill_process(pid, Signal::KILL))),
            "trace" => told(trace(what.parse()?)),
            "descriptors" => told(descriptors()),
            "leave-children" => {
                told((0..3).try_for_each(|_| Command::new("/bin/sleep").arg("1000").spawn().map(drop)))
            }
            "fork" => told::<_, Errno>(Ok(fork_without_end())),
            "hoard" => told(hoard()),
            "netlink" => told(rustix::net::socket(AddressFamily::NETLINK, SocketType::RAW, None)),
            verb if verb.starts_with("rdma-") => told(shard_tests::rdma::ask(verb, what)),
            "allocate" => told::<_, Errno>(Ok(allocate_without_end())),
            "spin" => told::<_, Errno>(Ok(spin_everywhere())),
            "datagram" => told(send_datagram(what)),
            "forget-parent" => told(rustix::process::set_parent_process_death_signal(None)),
            "watch" => told(rustix::fs::inotify::init(rustix::fs::inotify::CreateFlags::CLOEXEC)),
            "mode" => told(fs::set_permissions(what, fs::Permissions::from_mode(0o600))),
            "sockets" => told(list_sockets()),
            "host-name" => told(rustix::system::sethostname(what.as_bytes())),
            _ => asked,
        };
        Ok(ctx.reply(&message, answer.as_bytes())?)
    }

    fn on_rejected(&mut self, rejected: shardkit::Rejected, ctx: &mut Context<'_>) {
        ctx.end(rejected.session, &format!("what it sent was refused: {}", rejected.why));
    }
}

/// What came of it, as text that begins with `done` only if it was.
fn told<T: std::fmt::Debug, E: std::fmt::Display>(result: std::result::Result<T, E>) -> String {
    match result {
        Ok(what) => format!("done: {what:?}"),
        Err(error) => format!("refused: {error}"),
    }
}

fn trace(pid: i32) -> std::result::Result<(), Errno> {
    // SAFETY: it takes numbers only; the process that it stops is not this one.
    let traced = unsafe { libc::ptrace(libc::PTRACE_ATTACH, pid, 0, 0) };
    if traced < 0 { Err(Errno::ACCESS) } else { Ok(()) }
}

/// The numbers of all descriptors, and what can be opened anew through those of others.
fn descriptors() -> std::io::Result<String> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir("/proc/self/fd")? {
        numbers.push(entry?.file_name().to_string_lossy().into_owned());
    }
    let opened =
        ["/proc/1/fd/1", "/proc/self/fd/1", "/proc/self/fd/2", "/proc/self/exe", "/dev/tty", "/dev/mem"];
    let opened = opened.into_iter().filter(|path| OpenOptions::new().write(true).open(path).is_ok());
    Ok(format!("{} {}", numbers.join(","), opened.collect::<Vec<_>>().join(",")))
}

fn fork_without_end() -> usize {
    for forked in 0..FORKS_MAX {
        // SAFETY: the child makes one system call for ever.
        unsafe {
            match libc::fork() {
                0 => loop {
                    libc::pause();
                },
                ..0 => return forked,
                _ => {}
            }
        }
    }
    FORKS_MAX
}

fn allocate_without_end() -> usize {
    let mut kept = Vec::new();
    while kept.len() < ALLOCATED_MIB_MAX {
        kept.push(vec![1_u8; 1 << 20]);
    }
    std::hint::black_box(kept).len()
}

/// Starts threads that do nothing for ever, some for each processor.
fn spin_everywhere() -> usize {
    let threads = 4 * std::thread::available_parallelism().map_or(1, usize::from);
    for _ in 0..threads {
        std::thread::spawn(|| {
            loop {
                std::hint::spin_loop();
            }
        });
    }
    threads
}

/// Starts a process that is nobody's child any more, before anyone knows of this one.
fn fork_early() -> std::io::Result<()> {
    Command::new("setsid").args(["--fork", "sleep", "1000"]).status().map(drop)
}

/// Embeds a composer for the manifest that comes by the standard input, has its shard leave children, says so, and
/// waits to be killed.
fn embed() -> Result<()> {
    let me = std::env::current_exe()?;
    let composer = shard_tests::start(&me, &std::io::read_to_string(std::io::stdin())?);
    let port = composer.output::<Bytes, Bytes>("attack")?;
    let session = composer.compose("attack").map_err(|error| Error::new(error.to_string()))?;
    session.send(&port, &Bytes(b"leave-children".to_vec()))?;
    session.receive(shard_tests::PATIENCE).map_err(|error| Error::new(error.to_string()))?;
    println!("{}", shard_tests::ready_shard(&composer, "attack").pid);
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

/// As many descriptors as a packet can carry, sent to itself and never received, until the kernel says no. They count for
/// its user, as do those of all shards.
fn hoard() -> std::io::Result<usize> {
    let (ours, theirs) = ControlSocket::pair()?;
    ours.set_nonblocking()?;
    let mut packets = 0;
    let error = loop {
        if let Err(error) = pour(&ours, &[0], &[ours.as_fd(); POURED]) {
            break error;
        }
        packets += 1;
    };
    // It keeps them as long as it lives.
    std::mem::forget((ours, theirs));
    println!("{packets} packets: {error}");
    Ok(packets * POURED)
}

/// So many descriptors are sent at once: as many as the kernel takes.
const POURED: usize = 253;

/// Sends a packet with descriptors, whatever the protocol says.
fn pour(socket: &ControlSocket, packet: &[u8], fds: &[BorrowedFd<'_>]) -> std::io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(POURED))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
    rustix::net::sendmsg(socket, &[IoSlice::new(packet)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Joins by hand, and attacks what it was handed as soon as it is wired to the embedder and to all its partners.
fn by_hand(way: &str) -> Result<()> {
    let control = ControlSocket::from_fd(shard_runtime::process::take_control().expect("a control socket"));
    control.send(&FromShard::Hello { version: PROTOCOL_VERSION, pid: std::process::id() }, &[])?;
    let mut packet = Packet::new();
    let (mut held, mut has_embedder, mut has_partner) = (Vec::new(), false, false);
    loop {
        let (message, fds) = control.receive::<ToShard>(&mut packet)?;
        match message {
            ToShard::Welcome(_) => held.extend(fds),
            ToShard::Wire(wire) if wire.link == COMPOSER_LINK => {
                control.send(&FromShard::Ready, &[])?;
                match way {
                    "flood-composer" | "babble" => return flood_composer(&wire, fds, way == "babble"),
                    "foreign-end" => return end_others_sessions(&wire, fds),
                    _ => held.extend(fds),
                }
            }
            ToShard::Wire(wire) if way == "accuse" => {
                control.send(&FromShard::Wired { link: wire.link }, &[])?;
                if wire.shard.is_some() {
                    control.send(&FromShard::Broken { link: wire.link, error: "a lie".into() }, &[])?;
                }
            }
            ToShard::Wire(wire) if matches!(way, "scribble" | "flood-partner") => {
                control.send(&FromShard::Wired { link: wire.link }, &[])?;
                has_embedder |= wire.shard.is_none();
                has_partner |= wire.shard.is_some();
                if way == "flood-partner" && wire.shard.is_some() {
                    return flood(&wire, fds, false);
                }
                held.extend(fds);
                if has_embedder && has_partner {
                    return scribble(&held);
                }
            }
            ToShard::Wire(wire) => {
                control.send(&FromShard::Wired { link: wire.link }, &[])?;
                match way {
                    "flood" => return flood(&wire, fds, true),
                    "give" => loop {
                        control.send(&FromShard::Wired { link: wire.link }, &[fds[0].as_fd()])?;
                    },
                    "pour" => loop {
                        pour(&control, b"\x01", &[fds[0].as_fd(); POURED])?;
                    },
                    "linger" => {
                        let stream = stuffed()?;
                        pour(&control, b"\x01", &[stream.as_fd(); 8])?;
                        drop(stream);
                        loop {
                            std::thread::sleep(Duration::from_secs(3600));
                        }
                    }
                    "deaf" => loop {
                        std::thread::sleep(Duration::from_secs(3600));
                    },
                    "maul" => {
                        let reason = fds.iter().map(maul).collect::<Vec<_>>().join(" ");
                        control.send(&FromShard::Failed { reason }, &[])?;
                    }
                    "rub" => rub(fds)?,
                    _ => send_on_others_sessions(&wire, fds)?,
                }
            }
            ToShard::Stop => return Ok(()),
            _ => {}
        }
    }
}

/// A stream to itself, full to the brim: who closes it last waits for a minute.
fn stuffed() -> Result<TcpStream> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let mut stream = TcpStream::connect(listener.local_addr()?)?;
    // Nobody reads from it, and it is there until this process ends.
    std::mem::forget(listener.accept()?);
    rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::from_secs(60)))?;
    stream.set_nonblocking(true)?;
    while stream.write(&[0; 4096]).is_ok() {}
    Ok(stream)
}

/// Does to a region all that the seals and the filter are to keep it from. Names what it could do.
fn maul(fd: &OwnedFd) -> String {
    let bytes = rustix::fs::fstat(fd).map_or(0, |stat| stat.st_size as u64);
    let page = 4096;
    let mut done = Vec::new();
    let mut note = |what: &'static str, result: std::result::Result<(), Errno>| {
        if result.is_ok() {
            done.push(what);
        }
    };
    note("shrunk", rustix::fs::ftruncate(fd, 0));
    note("grown", rustix::fs::ftruncate(fd, bytes + page));
    let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    note("punched", rustix::fs::fallocate(fd, hole, 0, page));
    note("allocated", rustix::fs::fallocate(fd, FallocateFlags::empty(), 0, bytes + page));
    note("unsealed", rustix::fs::fcntl_add_seals(fd, rustix::fs::SealFlags::WRITE));
    let (access, kind) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
    // SAFETY: a new mapping, which nobody else knows of and nothing reads.
    let removed = unsafe {
        rustix::mm::mmap(std::ptr::null_mut(), bytes as usize, access, kind, fd, 0)
            .and_then(|at| rustix::mm::madvise(at, page as usize, Advice::LinuxRemove))
    };
    note("removed", removed);
    if done.is_empty() { format!("{bytes}:nothing") } else { format!("{bytes}:{}", done.join("+")) }
}

/// Writes zeros over the neighbour's bell, wake words and all, again and again.
fn rub(mut fds: Vec<OwnedFd>) -> Result<()> {
    let memory = Region::receive(fds.remove(2), BELL_BYTES)?.map(true)?;
    loop {
        for offset in (0..memory.len()).step_by(8) {
            memory.word(offset).store(0, Ordering::Release);
        }
        std::thread::sleep(Duration::from_micros(20));
    }
}

/// Writes random words over all that it was handed, again and again.
fn scribble(held: &[OwnedFd]) -> Result<()> {
    let seed = std::env::var("SHARD_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1_u64);
    let mut random = seed;
    let mut regions = Vec::new();
    for fd in held {
        let bytes = rustix::fs::fstat(fd)?.st_size as usize;
        regions.push(Region::receive(fd.try_clone()?, bytes)?.map(true)?);
    }
    loop {
        for memory in &regions {
            for offset in (0..memory.len()).step_by(8) {
                // SplitMix64.
                random = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let word = (random ^ (random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                memory.word(offset).store(word ^ (word >> 31), Ordering::Release);
            }
        }
    }
}

/// Says to the composer, without end, that a handler has failed; or what is no word of a shard's.
fn flood_composer(wire: &WireMessage, fds: Vec<OwnedFd>, babbles: bool) -> Result<()> {
    let (_inbound, mut outbound) = shardkit::open_wire(wire, fds)?;
    let header = Header::new(SessionId::NONE, if babbles { Verb::Open.port() } else { Verb::End.port() });
    loop {
        // A full ring is the composer's answer.
        let _ = outbound.send(header.flagged(Flags::CONTROL), b"no reason");
        outbound.flush()?;
    }
}

/// Asks the composer to end every session that there may be, now and then.
fn end_others_sessions(wire: &WireMessage, fds: Vec<OwnedFd>) -> Result<()> {
    let (_inbound, mut outbound) = shardkit::open_wire(wire, fds)?;
    loop {
        for index in 0..16 {
            let header = Header::new(SessionId::new(index, 1), Verb::End.port()).flagged(Flags::CONTROL);
            let _ = outbound.send(header, b"not mine");
        }
        outbound.flush()?;
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Sends large and small messages without end on sessions that are not its own, and reads nothing.
fn flood(wire: &WireMessage, fds: Vec<OwnedFd>, also_words: bool) -> Result<()> {
    let (_inbound, mut outbound) = shardkit::open_wire(wire, fds)?;
    let large = vec![7; 2_000];
    let mut round = 0_u32;
    loop {
        round = round.wrapping_add(1);
        let header = Header::new(SessionId::new(round % 16, round / 16 % 8), PortId(0));
        let header = if also_words && round.is_multiple_of(7) {
            Header { port: Verb::Rejected.port(), ..header }.flagged(Flags::CONTROL)
        } else {
            header
        };
        let _ = outbound.send(header, &large[..if round.is_multiple_of(3) { large.len() } else { 8 }]);
        outbound.flush()?;
    }
}

/// Sends to the embedder on every session that there may be: messages, answers, and what only the composer says.
fn send_on_others_sessions(wire: &WireMessage, fds: Vec<OwnedFd>) -> Result<()> {
    let (_inbound, mut outbound) = shardkit::open_wire(wire, fds)?;
    let verbs = [Verb::Close, Verb::Closed, Verb::End, Verb::Rejected];
    loop {
        for (index, generation) in (0..16).flat_map(|index| (0..8).map(move |generation| (index, generation)))
        {
            let session = SessionId::new(index, generation);
            let message = Header::new(session, PortId(0));
            let frames = [message, message.flagged(Flags::REPLY)].into_iter();
            let words = verbs.iter().map(|verb| Header::new(session, verb.port()).flagged(Flags::CONTROL));
            for header in frames.chain(words) {
                // A full ring is the embedder's answer to a flood.
                let _ = outbound.send(header, b"not mine");
            }
            outbound.flush()?;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Sends a datagram to a name of the host's, from a socket that was never asked for one.
fn send_datagram(name: &str) -> std::io::Result<usize> {
    let (socket, _other) = std::os::unix::net::UnixDatagram::pair()?;
    socket.send_to_addr(b"x", &SocketAddr::from_abstract_name(name)?)
}

/// Opens what tells of all sockets in its network namespace.
fn list_sockets() -> std::result::Result<OwnedFd, Errno> {
    use rustix::net::{AddressFamily, SocketType, netlink, socket};
    socket(AddressFamily::NETLINK, SocketType::DGRAM, Some(netlink::SOCK_DIAG))
}

fn main() -> Result<()> {
    shard_composer::take_over();
    let way = std::env::args().nth(1).unwrap_or_default();
    match way.as_str() {
        "embed" => embed(),
        "early" => {
            fork_early()?;
            shardkit::run(|_| Ok(Intruder))
        }
        "accuse" | "linger" | "deaf" | "maul" | "rub" | "foreign" | "flood" | "flood-composer" | "babble"
        | "flood-partner" | "give" | "pour" | "foreign-end" | "scribble" => by_hand(&way),
        "any" => shardkit::run_any(shardkit::Components::new().with("spare", |_| Ok(Intruder))),
        _ => shardkit::run(|_| Ok(Intruder)),
    }
}
