//! What is measured inside of guests: two programs, each with its own end of a pair of links.
//!
//! They tell each other of their ends over TCP without any proof: for guests, where nobody else is.

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use hdrhistogram::Histogram;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use shard_runtime::frame::{FRAME_ALIGN, HEADER_BYTES, Header};
use shard_runtime::id::{LinkId, PortId, SessionId};
use shard_runtime::inbox::{Inbound, Inbox, Receiver};
use shard_runtime::outbox::{Outbound, Outbox};
use shard_runtime::rdma::{Rdma, RdmaEnd};
use shard_runtime::ring::{Ring, RingError, RingReader, RingWriter, SendError};
use shard_runtime::verbs::{
    Batch, Completions, Depth, Domain, QueuePair, Registration, RemoteQueuePair, Status, Wish, Work, choose,
};
use shard_runtime::wake::{Bell, create_bell};
use std::hint;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const LINK: LinkId = LinkId(0);
const RING: usize = 4 << 20;
const MESSAGE_BYTES_MAX: usize = 1 << 20;
const LONGEST_NS: u64 = 60_000_000_000;
const PATIENCE: Duration = Duration::from_secs(120);
const REST: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum What {
    /// Messages there and back over our link, one at a time.
    Rtt,
    /// Messages one way, as many as go.
    Stream,
    /// As `rtt`, by bare requests of our calls, without a ring: what the device costs for as many bytes as a frame has.
    Bare,
    /// A word in shared memory, there and back: how steady the guest is.
    Control,
}

/// What the measuring program is told.
#[derive(Debug, Args)]
pub struct MeasureArguments {
    /// What.
    #[arg(value_enum)]
    what: What,
    /// How many bytes a message has.
    #[arg(long, default_value_t = 64)]
    bytes: usize,
    /// How many messages.
    #[arg(long, default_value_t = 1000)]
    count: u64,
    /// Waits there for the other program, then echoes or takes.
    #[arg(long, conflicts_with = "connect")]
    listen: Option<SocketAddr>,
    /// Connects there, then sends.
    #[arg(long)]
    connect: Option<SocketAddr>,
}

/// Half round trips in nanoseconds (median, 99 and 99.9 of a hundred), and messages a second.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Measured {
    /// Median.
    pub p50_ns: u64,
    /// 99 of a hundred.
    pub p99_ns: u64,
    /// 99.9 of a hundred.
    pub p999_ns: u64,
    /// Messages a second, one way.
    pub messages_per_s: f64,
}

struct Side {
    inbox: Inbox,
    outbox: Outbox,
    rdma: Rdma,
    got: u64,
    /// Sleeps while nothing comes: the device is software and works on these cores, too.
    rests: bool,
}

struct Count<'a>(&'a mut u64, Option<RingError>);

impl Receiver for Count<'_> {
    fn message(&mut self, _: LinkId, _: &Header, payload: &[u8]) {
        hint::black_box(payload);
        *self.0 += 1;
    }

    fn drained(&mut self, _: LinkId, _: usize) {}

    fn broken(&mut self, _: LinkId, error: RingError) {
        self.1 = Some(error);
    }
}

impl Side {
    fn new() -> Result<Self> {
        let mut inbox = Inbox::new(Bell::map(&create_bell("bell")?)?);
        let mut outbox = Outbox::new();
        let ring = || -> Result<Ring> { Ok(Ring::new(Ring::create("ring", RING)?.map(true)?, RING)) };
        outbox.attach(LINK, Outbound::carried(RingWriter::new(ring()?), MESSAGE_BYTES_MAX));
        inbox.attach(LINK, Inbound::new(RingReader::vouched(ring()?), inbox.ringer(), MESSAGE_BYTES_MAX));
        Ok(Self { inbox, outbox, rdma: Rdma::open(&choose(&Wish::default())?, 1)?, got: 0, rests: false })
    }

    /// Connected to the other program's.
    fn connected(other: &mut Other) -> Result<Self> {
        let mut side = Self::new()?;
        let (outbox, inbox) = (&mut side.outbox, &mut side.inbox);
        other.say(&side.rdma.prepare(LINK, outbox.get_mut(LINK), inbox.get_mut(LINK))?)?;
        let end: RdmaEnd = other.hear()?;
        side.rdma.connect(LINK, outbox.get_mut(LINK), &end)?;
        other.say(&())?;
        other.hear::<()>()?;
        side.rdma.start(LINK);
        other.lines.get_ref().set_nonblocking(true)?;
        Ok(side)
    }

    /// One round: what a shard's loop does. True if something came.
    fn turn(&mut self) -> Result<bool> {
        let got = self.got;
        self.outbox.flush();
        while let Some(link) = self.outbox.take_published() {
            self.rdma.published(link);
        }
        let news = self.rdma.carry(&mut self.inbox, &mut self.outbox);
        let mut count = Count(&mut self.got, None);
        self.inbox.poll(&mut count);
        if let Some(error) = count.1 {
            bail!("{error}");
        }
        if let Some((_, error)) = self.rdma.take_broken() {
            bail!("{error}");
        }
        Ok(news || self.got != got)
    }

    /// One round, and sleep if there is nothing to do.
    fn step(&mut self) -> Result<()> {
        if self.turn()? || !self.rests {
            return Ok(());
        }
        self.rdma.arm()?;
        if !self.turn()? {
            poll(&mut [PollFd::new(&self.rdma, PollFlags::IN)], Some(&REST))?;
        }
        Ok(())
    }

    /// Takes turns until `done`.
    fn until(&mut self, done: impl Fn(&Self) -> bool) -> Result<()> {
        let start = Instant::now();
        let mut turns = 0u32;
        while !done(self) {
            self.step()?;
            turns = turns.wrapping_add(1);
            ensure!(!turns.is_multiple_of(4096) || start.elapsed() < PATIENCE, "nothing comes any more");
        }
        Ok(())
    }

    /// Takes turns until the other program says something.
    fn until_said<T: DeserializeOwned>(&mut self, other: &mut Other) -> Result<T> {
        let start = Instant::now();
        loop {
            if let Some(said) = other.heard()? {
                return Ok(said);
            }
            (0..64).try_for_each(|_| self.turn().map(drop))?;
            ensure!(start.elapsed() < PATIENCE, "the other program says nothing any more");
        }
    }

    fn send(&mut self, payload: &[u8]) -> Result<()> {
        let header = Header::new(SessionId::new(1, 1), PortId(0));
        loop {
            match self.outbox.send(LINK, header, payload) {
                Some(Ok(())) => return Ok(()),
                Some(Err(SendError::Full)) => self.step()?,
                Some(Err(error)) => bail!("{error}"),
                None => bail!("there is no link"),
            }
        }
    }
}

/// The other program: lines of JSON.
struct Other {
    lines: BufReader<TcpStream>,
    line: String,
}

impl Other {
    fn meet(arguments: &MeasureArguments) -> Result<Self> {
        let stream = match (arguments.listen, arguments.connect) {
            (Some(address), _) => {
                let listener = TcpListener::bind(address)?;
                println!("listening");
                listener.accept()?.0
            }
            (_, Some(address)) => TcpStream::connect(address)?,
            _ => bail!("neither --listen nor --connect"),
        };
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { lines: BufReader::new(stream), line: String::new() })
    }

    fn say(&mut self, what: &impl Serialize) -> Result<()> {
        Ok(self.lines.get_mut().write_all(format!("{}\n", serde_json::to_string(what)?).as_bytes())?)
    }

    fn hear<T: DeserializeOwned>(&mut self) -> Result<T> {
        self.heard()?.context("the other program said nothing")
    }

    /// A line, if there is one.
    fn heard<T: DeserializeOwned>(&mut self) -> Result<Option<T>> {
        match self.lines.read_line(&mut self.line) {
            Ok(0) => bail!("the other program ended"),
            Ok(_) => Ok(Some(serde_json::from_str(&std::mem::take(&mut self.line))?)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// Measures. The program that connects prints one line of JSON.
///
/// # Errors
/// There is no device, or the link broke.
pub fn run(arguments: &MeasureArguments) -> Result<()> {
    let payload = vec![7; arguments.bytes];
    let measured = match (arguments.what, arguments.listen) {
        (What::Control, _) => control(arguments.count)?,
        (What::Rtt, Some(_)) => return echo(arguments, &payload),
        (What::Rtt, None) => ask(arguments, &payload)?,
        (What::Bare, Some(_)) => return bare(arguments).map(drop),
        (What::Bare, None) => bare(arguments)?,
        (What::Stream, Some(_)) => return take(arguments),
        (What::Stream, None) => stream(arguments, &payload)?,
    };
    println!("{}", serde_json::to_string(&measured)?);
    Ok(())
}

fn ask(arguments: &MeasureArguments, payload: &[u8]) -> Result<Measured> {
    let mut other = Other::meet(arguments)?;
    let mut side = Side::connected(&mut other)?;
    // What is counted is counted afterwards.
    let mut came = Vec::with_capacity(arguments.count as usize + 1);
    came.push(Instant::now());
    for number in 0..arguments.count {
        side.send(payload)?;
        side.until(|side| side.got > number)?;
        came.push(Instant::now());
    }
    other.say(&())?;
    round_trips(&came)
}

/// What came of round trips that began and ended at these times.
fn round_trips(came: &[Instant]) -> Result<Measured> {
    let mut times = Histogram::new_with_bounds(1, LONGEST_NS, 3)?;
    came.windows(2).for_each(|two| times.saturating_record((two[1] - two[0]).as_nanos() as u64 / 2));
    let took = came[came.len() - 1] - came[0];
    Ok(summary(&times, (came.len() - 1) as f64 / took.as_secs_f64()))
}

fn echo(arguments: &MeasureArguments, payload: &[u8]) -> Result<()> {
    let mut other = Other::meet(arguments)?;
    let mut side = Side::connected(&mut other)?;
    for number in 0..arguments.count {
        side.until(|side| side.got > number)?;
        side.send(payload)?;
        side.turn()?;
    }
    side.until_said(&mut other)
}

/// WRITE_WITH_IMM of a frame's bytes there and back: both programs.
fn bare(arguments: &MeasureArguments) -> Result<Measured> {
    const RECEIVED: u64 = 1;
    const REQUESTS: u32 = 16;
    let mut other = Other::meet(arguments)?;
    let device = choose(&Wish::default())?;
    let completions = Completions::new(device.context(), 2 * REQUESTS)?;
    let domain = Domain::new(device.context())?;
    let memory = Ring::create("bare", RING)?.map(true)?;
    let registration = Registration::new(&domain, &memory, 0, RING, true)?;
    let depth = Depth { send: REQUESTS, receive: REQUESTS };
    let pair = QueuePair::new(&device, &domain, &completions, depth, 1)?;
    pair.post_receives(RECEIVED, REQUESTS)?;
    other.say(&(pair.local(), registration.address(), registration.remote_key()))?;
    let (peer, address, key): (RemoteQueuePair, u64, u32) = other.hear()?;
    pair.connect(&peer)?;
    other.say(&())?;
    other.hear::<()>()?;
    let bytes = (HEADER_BYTES + arguments.bytes).next_multiple_of(FRAME_ALIGN as usize);
    let frame = Work {
        id: 0,
        from: Some(registration.slice(0, bytes)),
        to: Some((address, key)),
        immediate: Some(0),
        signalled: true,
    };
    let asks = arguments.connect.is_some();
    let mut batch = Batch::default();
    let mut times = vec![Instant::now()];
    for _ in 0..arguments.count {
        if asks {
            pair.post(&[frame])?;
        }
        let mut came = false;
        while !came {
            completions.poll(&mut batch)?;
            for completion in &mut batch {
                ensure!(completion.status == Status::SUCCESS, "{}", completion.status);
                came |= completion.id == RECEIVED;
            }
        }
        pair.post_receives(RECEIVED, 1)?;
        if !asks {
            pair.post(&[frame])?;
        }
        times.push(Instant::now());
    }
    // Nobody takes a queue pair away that the other may still hear from.
    other.say(&())?;
    other.hear::<()>()?;
    round_trips(&times)
}

fn stream(arguments: &MeasureArguments, payload: &[u8]) -> Result<Measured> {
    let mut other = Other::meet(arguments)?;
    let mut side = Side::connected(&mut other)?;
    side.rests = true;
    for _ in 0..arguments.count {
        side.send(payload)?;
        side.turn()?;
    }
    Ok(summary(&Histogram::new(3)?, side.until_said(&mut other)?))
}

/// Takes the stream and says how fast it came, from its first message to its last.
fn take(arguments: &MeasureArguments) -> Result<()> {
    let mut other = Other::meet(arguments)?;
    let mut side = Side::connected(&mut other)?;
    side.rests = true;
    side.until(|side| side.got > 0)?;
    let (start, first) = (Instant::now(), side.got);
    side.until(|side| side.got == arguments.count)?;
    other.say(&((arguments.count - first) as f64 / start.elapsed().as_secs_f64()))
}

fn summary(times: &Histogram<u64>, messages_per_s: f64) -> Measured {
    let [p50_ns, p99_ns, p999_ns] = [0.5, 0.99, 0.999].map(|part| times.value_at_quantile(part));
    Measured { p50_ns, p99_ns, p999_ns, messages_per_s }
}

fn control(count: u64) -> Result<Measured> {
    let (there, back) = (AtomicU64::new(0), AtomicU64::new(0));
    let mut times = Histogram::new_with_bounds(1, LONGEST_NS, 3)?;
    let start = Instant::now();
    thread::scope(|scope| {
        scope.spawn(|| {
            for number in 1..=count {
                while there.load(Ordering::Acquire) != number {
                    hint::spin_loop();
                }
                back.store(number, Ordering::Release);
            }
        });
        for number in 1..=count {
            let sent = Instant::now();
            there.store(number, Ordering::Release);
            while back.load(Ordering::Acquire) != number {
                hint::spin_loop();
            }
            times.saturating_record(sent.elapsed().as_nanos() as u64 / 2);
        }
    });
    Ok(summary(&times, count as f64 / start.elapsed().as_secs_f64()))
}
