//! The demonstration: two hosts, a shard on each, and how long their messages take, beside what the fabric can do.

use crate::devices::address;
use crate::shard::{Findings, Kind};
use crate::{Authority, Bed, Command, Exit, Guest, Layout, Running};
use anyhow::{Context, Result};
use std::time::{Duration, Instant};

/// The port that the echoing shard listens at.
const PORT: u16 = 7000;
/// Everything is up within this time.
const START: Duration = Duration::from_secs(60);
const RUN: Duration = Duration::from_secs(600);

/// How the shards are run.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// Arguments of the asking shard beyond those that the hosts decide.
    pub asker: Vec<String>,
    /// The same for the echoing one.
    pub echo: Vec<String>,
    /// The cores of the asking and of the echoing one; any if none.
    pub cores: Option<[u32; 2]>,
}

/// Starts the echoing shard on a guest, at the given end of the wire.
///
/// # Errors
/// It does not come up.
pub fn start_echo<'a>(
    bed: &Bed,
    guest: &'a Guest,
    end: u8,
    peer: &str,
    kind: Kind,
    plan: &Plan,
) -> Result<Running<'a>> {
    let at = format!("{}:{PORT}", address(end));
    let command = shard(bed, ["--listen", &at], peer, kind, &plan.echo);
    let mut echo = guest.spawn(match plan.cores {
        Some([_, core]) => command.pinned(core),
        None => command,
    })?;
    echo.line("listening", START)?;
    Ok(echo)
}

/// Starts the asking shard.
///
/// # Errors
/// The guest is gone.
pub fn start_asker<'a>(
    bed: &Bed,
    guest: &'a Guest,
    end: u8,
    peer: &str,
    kind: Kind,
    plan: &Plan,
) -> Result<Running<'a>> {
    let at = format!("{}:{PORT}", address(end));
    let command = shard(bed, ["--connect", &at], peer, kind, &plan.asker);
    guest.spawn(match plan.cores {
        Some([core, _]) => command.pinned(core),
        None => command,
    })
}

fn shard(bed: &Bed, at: [&str; 2], peer: &str, kind: Kind, more: &[String]) -> Command {
    Command::new(bed.agent())
        .arg("shard")
        .args(at.into_iter().chain(["--peer", peer]))
        .args(["--identity", "/run/soft-roce/identity", "--link", name(kind)])
        .args(more.iter().cloned())
}

/// What the asking shard found.
///
/// # Errors
/// It ended with an error.
pub fn findings(exit: Exit) -> Result<Findings> {
    let exit = exit.ok()?;
    let line = exit.out.iter().rev().find(|line| line.starts_with('{')).context("no findings")?;
    Ok(serde_json::from_str(line)?)
}

fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Rdma => "rdma",
        Kind::Tcp => "tcp",
    }
}

/// Runs it and prints what came of it.
///
/// # Errors
/// Guests do not boot, or messages do not arrive.
pub fn run(bed: &Bed, kind: Kind, count: u64) -> Result<()> {
    let start = Instant::now();
    println!("kernel      {}, {}", bed.kernel_version(), bed.acceleration());
    let guests = bed.boot(Layout::Pair)?;
    let [left, right] = guests.as_slice() else { anyhow::bail!("two guests were to be booted") };
    println!("hosts       left and right, up after {:.1} s", start.elapsed().as_secs_f64());
    let authority = Authority::new()?;
    authority.introduce(left)?;
    authority.introduce(right)?;

    let plan = Plan { asker: vec!["--count".into(), count.to_string()], ..Plan::default() };
    let _echo = start_echo(bed, right, 2, "left", kind, &plan)?;
    let asker = start_asker(bed, left, 2, "right", kind, &plan)?;
    let found = findings(asker.wait(RUN)?)?;
    let fabric = write_latency(left, right, 64)?;
    print(&found, fabric);
    Ok(())
}

/// The typical latency that `ib_write_lat` finds between two guests, in microseconds.
fn write_latency(left: &Guest, right: &Guest, bytes: usize) -> Result<f64> {
    let measure = format!("ib_write_lat --ib-dev rxe0 --gid-index 1 --iters 300 --size {bytes} --CPU-freq");
    let _server = right.spawn(Command::shell(measure.clone()))?;
    // It does not say when it listens.
    let client =
        format!("for i in 1 2 3 4 5 6 7 8; do sleep 1; {measure} {} && exit 0; done; exit 1", address(2));
    let exit = left.run(Command::shell(client))?.ok()?;
    typical(&exit.out).context("ib_write_lat printed no figures")
}

/// The column `t_typical` of the last row that perftest prints.
pub(crate) fn typical(lines: &[String]) -> Option<f64> {
    let row = lines
        .iter()
        .rev()
        .find(|line| line.trim_start().starts_with(|first: char| first.is_ascii_digit()))?;
    row.split_whitespace().nth(4)?.parse().ok()
}

fn print(found: &Findings, fabric_us: f64) {
    let us = |ns: u64| ns as f64 / 1000.0;
    println!(
        "link        {}: {} messages of {} bytes with their sessions, there and back; {} a second",
        found.link, found.messages, found.bytes, found.messages_per_s as u64
    );
    let [p50, p99, p999, max] = found.rtt_ns.map(us);
    println!("round trip  p50 {p50:.0} µs, p99 {p99:.0} µs, p99.9 {p999:.0} µs, max {max:.0} µs");
    let most = found.histogram.iter().map(|(_, count)| *count).max().unwrap_or(1);
    for (to, count) in &found.histogram {
        let bar = "#".repeat((count * 50).div_ceil(most) as usize);
        println!("  up to {:>9.0} µs {count:>7} {bar}", us(*to));
    }
    println!(
        "one way     {:.0} µs; ib_write_lat of the same run, 64 bytes, one way: {fabric_us:.0} µs; ratio {:.2}",
        p50 / 2.0,
        p50 / 2.0 / fabric_us
    );
}
