//! What is measured inside of a guest: two threads, each with its own end of a pair of links on one device.

use anyhow::{Result, bail, ensure};
use clap::{Args, ValueEnum};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use shard_runtime::frame::Header;
use shard_runtime::id::{LinkId, PortId, SessionId};
use shard_runtime::inbox::{Inbound, Inbox, Receiver};
use shard_runtime::outbox::{Outbound, Outbox};
use shard_runtime::rdma::Rdma;
use shard_runtime::ring::{Ring, RingError, RingReader, RingWriter, SendError};
use shard_runtime::verbs::{Wish, choose};
use shard_runtime::wake::{Bell, create_bell};
use std::hint;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const LINK: LinkId = LinkId(0);
const RING: usize = 4 << 20;
const MESSAGE_BYTES_MAX: usize = 1 << 20;
const LONGEST_NS: u64 = 60_000_000_000;
const PATIENCE: Duration = Duration::from_secs(120);

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum What {
    /// Messages there and back over our link, one at a time.
    Rtt,
    /// Messages one way, as many as go.
    Stream,
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
        Ok(Self { inbox, outbox, rdma: Rdma::open(&choose(&Wish::default())?, 1)?, got: 0 })
    }

    /// One round: what a shard's loop does.
    fn turn(&mut self) -> Result<()> {
        self.outbox.flush();
        while let Some(link) = self.outbox.take_published() {
            self.rdma.published(link);
        }
        self.rdma.carry(&mut self.inbox, &mut self.outbox);
        let mut count = Count(&mut self.got, None);
        self.inbox.poll(&mut count);
        if let Some(error) = count.1 {
            bail!("{error}");
        }
        if let Some((_, error)) = self.rdma.take_broken() {
            bail!("{error}");
        }
        Ok(())
    }

    /// Takes turns until `done`.
    fn until(&mut self, done: impl Fn(&Self) -> bool) -> Result<()> {
        let start = Instant::now();
        let mut turns = 0u32;
        while !done(self) {
            self.turn()?;
            turns = turns.wrapping_add(1);
            ensure!(!turns.is_multiple_of(4096) || start.elapsed() < PATIENCE, "nothing comes any more");
        }
        Ok(())
    }

    fn send(&mut self, payload: &[u8]) -> Result<()> {
        let header = Header::new(SessionId::new(1, 1), PortId(0));
        loop {
            match self.outbox.send(LINK, header, payload) {
                Some(Ok(())) => return Ok(()),
                Some(Err(SendError::Full)) => self.turn()?,
                Some(Err(error)) => bail!("{error}"),
                None => bail!("there is no link"),
            }
        }
    }
}

fn pair() -> Result<[Side; 2]> {
    let (mut a, mut b) = (Side::new()?, Side::new()?);
    let of_a = a.rdma.prepare(LINK, a.outbox.get_mut(LINK), a.inbox.get_mut(LINK))?;
    let of_b = b.rdma.prepare(LINK, b.outbox.get_mut(LINK), b.inbox.get_mut(LINK))?;
    a.rdma.connect(LINK, a.outbox.get_mut(LINK), &of_b)?;
    b.rdma.connect(LINK, b.outbox.get_mut(LINK), &of_a)?;
    a.rdma.start(LINK);
    b.rdma.start(LINK);
    Ok([a, b])
}

/// Measures, and prints one line of JSON.
///
/// # Errors
/// There is no device, or the link broke.
pub fn run(arguments: &MeasureArguments) -> Result<()> {
    let count = arguments.count;
    let payload = vec![7; arguments.bytes];
    let measured = match arguments.what {
        What::Control => control(count)?,
        What::Rtt => {
            let [mut a, mut b] = pair()?;
            let reply = payload.clone();
            let echo = thread::spawn(move || -> Result<Side> {
                for number in 0..count {
                    b.until(|side| side.got > number)?;
                    b.send(&reply)?;
                    b.turn()?;
                }
                // What the other end still has to be told goes out meanwhile.
                (0..1000).try_for_each(|_| b.turn())?;
                Ok(b)
            });
            let mut times = Histogram::new_with_bounds(1, LONGEST_NS, 3)?;
            let start = Instant::now();
            for number in 0..count {
                let sent = Instant::now();
                a.send(&payload)?;
                a.until(|side| side.got > number)?;
                times.saturating_record(sent.elapsed().as_nanos() as u64 / 2);
            }
            let took = start.elapsed();
            echo.join().map_err(|_| anyhow::anyhow!("the echo ended"))??;
            summary(&times, count as f64 / took.as_secs_f64())
        }
        What::Stream => {
            let [mut a, mut b] = pair()?;
            let start = Instant::now();
            let takes = thread::spawn(move || -> Result<(Side, Instant)> {
                b.until(|side| side.got == count)?;
                let end = Instant::now();
                (0..1000).try_for_each(|_| b.turn())?;
                Ok((b, end))
            });
            for _ in 0..count {
                a.send(&payload)?;
                a.turn()?;
            }
            a.until(|side| !side.outbox.waits())?;
            while !takes.is_finished() {
                a.turn()?;
            }
            let (_, end) = takes.join().map_err(|_| anyhow::anyhow!("the receiver ended"))??;
            let none = Histogram::new(3)?;
            summary(&none, count as f64 / (end - start).as_secs_f64())
        }
    };
    println!("{}", serde_json::to_string(&measured)?);
    Ok(())
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
