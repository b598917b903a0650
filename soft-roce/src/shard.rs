//! The two shards that the demonstration and the fault tests run, one on each host: one asks, the other echoes.
//!
//! Every message has a number and belongs to one of a few sessions. Both ends check that numbers come one after the
//! other, so a message that is lost, comes twice or out of order ends the program with an error.

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use shard_runtime::id::{LinkId, SessionId, ShardId};
use shard_runtime::inbox::{Inbound, WaitStrategy};
use shard_runtime::outbox::Outbound;
use shard_runtime::rdma::Rdma;
use shard_runtime::remote::{End, LinkKey, News, Remote, RemoteKind, RemoteLink};
use shard_runtime::ring::{Ring, RingReader, RingWriter};
use shard_runtime::secure::Identity;
use shard_runtime::verbs::{Wish, choose};
use shard_runtime::wake::{Bell, create_bell};
use shardkit::manifest::Manifest;
use shardkit::prelude::{Bytes, Context as Desk, In, Message, Out, SessionId as Session, Shard};
use shardkit::{Config, Endpoint};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

const MANIFEST: &str = r#"
[application]
name = "two-hosts"

[component.echo]
program = "soft-roce"
capacity = 64

[component.echo.in]
ask = { type = "bytes", reply = "bytes", max = "256 KiB" }

[component.asker]
program = "soft-roce"
capacity = 64

[component.asker.out]
ask = "echo.ask"
"#;

const LINK: LinkId = LinkId(1);
const SESSIONS: u32 = 8;
const KEY: LinkKey = LinkKey(*b"asker meets echo");
const NUMBER_BYTES: usize = 8;
/// So long nothing may come while something is due.
const PATIENCE: Duration = Duration::from_secs(120);

/// How a link between the hosts is carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// RDMA.
    Rdma,
    /// Encrypted TCP.
    Tcp,
}

impl From<Kind> for RemoteKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Rdma => Self::Rdma,
            Kind::Tcp => Self::Tcp,
        }
    }
}

/// What a shard is told.
#[derive(Debug, Args)]
pub struct ShardArguments {
    /// Listens there and echoes.
    #[arg(long, conflicts_with = "connect", required_unless_present = "connect")]
    listen: Option<SocketAddr>,
    /// Connects there and asks.
    #[arg(long)]
    connect: Option<SocketAddr>,
    /// The name of the node at the other end.
    #[arg(long)]
    peer: String,
    /// How the link is carried.
    #[arg(long, value_enum)]
    link: Kind,
    /// The RDMA device; any if none.
    #[arg(long)]
    device: Option<String>,
    /// The folder with `certificate.pem`, `key.pem` and `roots.pem`.
    #[arg(long)]
    identity: PathBuf,
    /// How many messages.
    #[arg(long, default_value_t = 1000)]
    count: u64,
    /// How many bytes each.
    #[arg(long, default_value_t = 64)]
    bytes: usize,
    /// How many may be under way: 1 measures round trips.
    #[arg(long, default_value_t = 1)]
    window: u64,
    /// The ring's size.
    #[arg(long, default_value_t = 1 << 20)]
    ring: usize,
    /// Forces the queue pair into the state ERROR each time that so many more messages came back.
    #[arg(long)]
    break_every: Option<u64>,
    /// Polls and never sleeps.
    #[arg(long)]
    spin: bool,
    /// Replies, or takes replies, that are a number alone, and looks at no other byte: for streams one way.
    #[arg(long)]
    brief: bool,
}

/// The asking shard tells each time that so many more messages came back.
pub const TELL_EVERY: u64 = 900;

/// What the asking shard found, printed as one line of JSON.
#[derive(Debug, Serialize, Deserialize)]
pub struct Findings {
    /// `rdma` or `tcp`.
    pub link: String,
    /// Messages that went there and came back.
    pub messages: u64,
    /// Payload of each.
    pub bytes: usize,
    /// Round trips in nanoseconds: median, 99 and 99.9 of a hundred, the longest.
    pub rtt_ns: [u64; 4],
    /// Messages a second, there and back.
    pub messages_per_s: f64,
    /// How often the link came up.
    pub ups: u32,
    /// Why it went down, each time.
    pub downs: Vec<String>,
    /// The histogram: upper bounds in nanoseconds, and how many round trips.
    pub histogram: Vec<(u64, u64)>,
}

/// Echoes, and checks the numbers.
struct Echo {
    brief: bool,
    next: u64,
    wrong: Option<String>,
}

impl Shard for Echo {
    fn on_message(&mut self, message: Message<'_>, desk: &mut Desk<'_>) -> shardkit::Result<()> {
        check(&mut self.next, &mut self.wrong, &message, self.brief);
        let payload = message.payload();
        let reply = if self.brief { payload.get(..NUMBER_BYTES).unwrap_or(payload) } else { payload };
        Ok(desk.reply(&message, reply)?)
    }
}

/// Asks, and checks the numbers that come back.
struct Asker {
    ask: Out<Bytes, Bytes>,
    sent: Vec<Instant>,
    next: u64,
    wrong: Option<String>,
    times: Histogram<u64>,
}

impl Shard for Asker {
    fn on_message(&mut self, message: Message<'_>, _: &mut Desk<'_>) -> shardkit::Result<()> {
        let at = self.next as usize % self.sent.len();
        check(&mut self.next, &mut self.wrong, &message, false);
        self.times.saturating_record(self.sent[at].elapsed().as_nanos() as u64);
        Ok(())
    }
}

fn check(next: &mut u64, wrong: &mut Option<String>, message: &Message<'_>, brief: bool) {
    let payload = message.payload();
    let number = payload.first_chunk::<NUMBER_BYTES>().map(|bytes| u64::from_le_bytes(*bytes));
    let right = number == Some(*next)
        && message.session() == session(*next)
        && (brief || payload[NUMBER_BYTES..].iter().all(|byte| *byte == *next as u8));
    if !right && wrong.is_none() {
        *wrong = Some(format!("message {number:?} of {} came where {next} was due", message.session()));
    }
    *next += 1;
}

fn session(number: u64) -> Session {
    SessionId::new(number as u32 % SESSIONS + 1, 1)
}

/// Runs a shard to its end.
///
/// # Errors
/// A message was lost, came twice, out of order or torn; or nothing came for two minutes.
pub fn run(arguments: &ShardArguments) -> Result<()> {
    let application = Manifest::parse(MANIFEST, "two-hosts.toml")?.application().clone();
    let asks = arguments.connect.is_some();
    let [own, other] = if asks { ["asker", "echo"] } else { ["echo", "asker"] };
    let own = application.find(own).context("a component")?;
    let other = application.find(other).context("a component")?;
    let component = application.component(own).clone();
    let config = Config::of_embedder(component.clone());
    let bell = Bell::map(&create_bell("bell")?)?;
    let mut endpoint = Endpoint::new(ShardId(u32::from(own.0)), component, bell, None);
    let address = attach(&mut endpoint, arguments, other)?;
    for number in 0..SESSIONS.into() {
        endpoint.open(session(number), 0, [(other, LINK)].into_iter());
    }
    let strategy =
        if arguments.spin { WaitStrategy::Spin } else { WaitStrategy::SpinThenPark { spin_ns: 50_000 } };
    if asks {
        ask(&mut endpoint, arguments, strategy, config.output("ask")?)
    } else {
        let _: In<Bytes, Bytes> = config.input("ask")?;
        println!("listening at {address}");
        echo(&mut endpoint, strategy, arguments.brief)
    }
}

/// Gives the endpoint its link to the other host.
fn attach(
    endpoint: &mut Endpoint,
    arguments: &ShardArguments,
    other: shard_runtime::id::ComponentId,
) -> Result<String> {
    let file = |name: &str| arguments.identity.join(name);
    let identity = Identity::from_files(&file("certificate.pem"), &file("key.pem"), &file("roots.pem"))?;
    let rdma = match arguments.link {
        Kind::Tcp => Err("links of kind tcp were asked for".into()),
        Kind::Rdma => {
            let wish = Wish { device: arguments.device.clone(), address: None };
            choose(&wish)
                .map_err(|error| error.to_string())
                .and_then(|device| Rdma::open(&device, 1).map_err(|error| error.to_string()))
        }
    };
    let mut remote = Remote::new(identity, rdma)?;
    let (end, address) = match (arguments.listen, arguments.connect) {
        (Some(listen), _) => (End::Accepts, remote.listen(listen)?.to_string()),
        (_, Some(connect)) => (End::Connects(connect), String::new()),
        _ => bail!("neither --listen nor --connect"),
    };
    endpoint.set_remote(remote)?;
    let ring = || -> Result<Ring> {
        Ok(Ring::new(Ring::create("ring", arguments.ring)?.map(true)?, arguments.ring))
    };
    let bytes_max = 256 << 10;
    let inbound = Inbound::new(RingReader::vouched(ring()?), endpoint.ringer(), bytes_max);
    let outbound = Outbound::carried(RingWriter::new(ring()?), bytes_max);
    let what = RemoteLink { key: KEY, kind: arguments.link.into(), node: arguments.peer.clone(), end };
    endpoint.attach_remote(LINK, Some(other), inbound, outbound, what);
    Ok(address)
}

/// Tells of the link; what it says is also what tests wait for.
fn hear(endpoint: &mut Endpoint, ups: &mut u32, downs: &mut Vec<String>) -> Result<()> {
    while let Some((_, news)) = endpoint.take_news() {
        match news {
            News::Up => {
                *ups += 1;
                println!("up");
            }
            News::Down(error) => {
                println!("down: {error}");
                downs.push(error.to_string());
            }
            News::Closed(error) => bail!("closed: {error}"),
        }
    }
    if let Some((link, error)) = endpoint.take_broken() {
        bail!("{link:?} broke: {error}");
    }
    Ok(())
}

fn echo(endpoint: &mut Endpoint, strategy: WaitStrategy, brief: bool) -> Result<()> {
    let mut shard = Echo { brief, next: 0, wrong: None };
    let (mut ups, mut downs) = (0, Vec::new());
    loop {
        if endpoint.poll(&mut shard) == 0 {
            hear(endpoint, &mut ups, &mut downs)?;
            endpoint.wait(strategy, None);
        }
        if let Some(wrong) = shard.wrong {
            bail!("{wrong}");
        }
    }
}

fn ask(
    endpoint: &mut Endpoint,
    arguments: &ShardArguments,
    strategy: WaitStrategy,
    ask: Out<Bytes, Bytes>,
) -> Result<()> {
    let (mut ups, mut downs) = (0, Vec::new());
    let start = Instant::now();
    let times = Histogram::new_with_bounds(1, 60_000_000_000, 3)?;
    let sent = vec![start; arguments.window as usize];
    let mut shard = Asker { ask, sent, next: 0, wrong: None, times };
    // Making the link is no part of the figures.
    while ups == 0 {
        endpoint.poll(&mut shard);
        hear(endpoint, &mut ups, &mut downs)?;
        endpoint.wait(strategy, None);
        ensure!(start.elapsed() < PATIENCE, "the link does not come up: {downs:?}");
    }
    let (start, mut progress) = (Instant::now(), (Instant::now(), 0));
    let (mut number, mut told, mut broken) = (0, 0, 0);
    let mut bytes = Bytes(vec![0; arguments.bytes.max(NUMBER_BYTES)]);
    while shard.next < arguments.count {
        while number < arguments.count && number - shard.next < arguments.window {
            if !arguments.brief {
                bytes.0.fill(number as u8);
            }
            bytes.0[..NUMBER_BYTES].copy_from_slice(&number.to_le_bytes());
            let at = number as usize % shard.sent.len();
            shard.sent[at] = Instant::now();
            match endpoint.context().send(&shard.ask, session(number), &bytes) {
                Ok(()) => number += 1,
                Err(shardkit::SendError::Full) => break,
                Err(error) => bail!("message {number}: {error}"),
            }
        }
        if endpoint.poll(&mut shard) == 0 {
            hear(endpoint, &mut ups, &mut downs)?;
            endpoint.wait(strategy, None);
        }
        if let Some(wrong) = shard.wrong {
            bail!("{wrong}");
        }
        if let Some(every) = arguments.break_every
            && shard.next / every > broken
        {
            // More came back than can have been under way at the break before: the link was up in between.
            broken = shard.next / every;
            endpoint.break_off(LINK);
        }
        if shard.next / TELL_EVERY > told {
            told = shard.next / TELL_EVERY;
            println!("{} came back", told * TELL_EVERY);
        }
        if shard.next != progress.1 {
            progress = (Instant::now(), shard.next);
        }
        ensure!(
            progress.0.elapsed() < PATIENCE,
            "nothing came for {PATIENCE:?} after {} of {} messages, {number} sent; downs: {downs:?}",
            shard.next,
            arguments.count
        );
    }
    let times = &shard.times;
    let findings = Findings {
        link: RemoteKind::from(arguments.link).to_string(),
        messages: shard.next,
        bytes: arguments.bytes,
        rtt_ns: [0.5, 0.99, 0.999, 1.0].map(|part| times.value_at_quantile(part)),
        messages_per_s: shard.next as f64 / start.elapsed().as_secs_f64(),
        ups,
        downs,
        histogram: times
            .iter_log(1000, 2.0)
            .map(|bar| (bar.value_iterated_to(), bar.count_since_last_iteration()))
            .filter(|(_, count)| *count > 0)
            .collect(),
    };
    println!("{}", serde_json::to_string(&findings)?);
    Ok(())
}
