//! What isolation and control groups cost a message: round trips between two real shards, in turns with and without, and
//! beside it what a run differs from another of its own kind.
//!
//! Three pairs of shards live at once and sleep when it is not their turn: two that are isolated and have control groups,
//! and one that has neither. Where a host has no such groups for shards, the pairs differ in isolation alone, and the
//! result says so.

use crate::error::{Error, Result, failed};
use crate::report::quantile;
use serde::Serialize;
use shard_composer::{Composer, Session};
use shardkit::manifest::Manifest;
use shardkit::prelude::*;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The hidden command of the shards that are measured.
pub const SUBCOMMAND: &str = "isolated-shard";
/// Round trips of one turn.
const ROUND_TRIPS: u32 = 20_000;
/// Rounds before those that count.
const WARM_UP: usize = 2;
/// Longer nothing takes.
const PATIENCE: Duration = Duration::from_secs(20);
const PAYLOAD_BYTES: usize = 64;
/// The pairs, by the name that their shards' names begin with: isolated, isolated, not.
const PAIRS: [&str; 3] = ["one", "other", "bare"];

/// A line of the result.
#[derive(Serialize)]
struct Line<'a> {
    what: &'a str,
    /// Payload, in bytes.
    size: usize,
    rounds: usize,
    /// Medians over the rounds of each round's percentiles, of the pair that is named first.
    p50_ns: f64,
    p99_ns: f64,
    /// Of the pair that is named second.
    beside_p50_ns: f64,
    beside_p99_ns: f64,
    /// The first's p50 by the second's in the same round: the median over the rounds, and the middle half.
    ratio: f64,
    ratio_low: f64,
    ratio_high: f64,
    /// Whether the shards of the first have a control group of their own, and those of the second have none.
    groups: bool,
}

/// Measures in so many rounds, and prints one JSON object for isolated against not, and one for isolated against isolated.
///
/// # Errors
/// When the shards can't be started, or one does not answer.
pub fn run(rounds: usize) -> Result<()> {
    let me = std::env::current_exe().map_err(Error::system("find this program"))?;
    let host = host_file()?;
    let composer = Composer::builder(Manifest::parse(&manifest(&me), "isolation.toml").map_err(failed)?)
        .launcher(&me)
        .host_file(Some(&host.0))
        .start()
        .map_err(failed)?;
    composer.wait_warm(PATIENCE).map_err(failed)?;
    let sessions = PAIRS.map(|pair| composer.compose(pair));
    let [one, other, bare] = sessions;
    let sessions = [one.map_err(failed)?, other.map_err(failed)?, bare.map_err(failed)?];
    let groups = leave_groups(&composer)?;
    let mut measured: [Vec<[f64; 2]>; 3] = Default::default();
    for round in 0..WARM_UP + rounds {
        // Whoever comes first in a round finds the cores as the last one left them.
        for turn in 0..PAIRS.len() {
            let at = (round + turn) % PAIRS.len();
            let percentiles = turn_of(&composer, &sessions[at], PAIRS[at])?;
            if round >= WARM_UP {
                measured[at].push(percentiles);
            }
        }
    }
    for (what, first, second) in [("isolated/bare", 0, 2), ("isolated/isolated", 0, 1)] {
        let line = line(what, &measured[first], &measured[second], groups && second == 2);
        println!("{}", serde_json::to_string(&line).expect("text and numbers are JSON"));
    }
    Ok(())
}

/// A file that goes with this.
struct HostFile(PathBuf);

impl Drop for HostFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// A host with processors for all shards: otherwise they would not poll, and what is measured would be the kernel's way to
/// wake them. Only one pair works at a time.
fn host_file() -> Result<HostFile> {
    let path = std::env::temp_dir().join(format!("shard-bench-host-{}.toml", std::process::id()));
    fs::write(&path, "probe = false\n[node.0]\nprocessors = \"0-15\"\nmemory = \"4GiB\"\n")
        .map_err(Error::system("write a host file"))?;
    Ok(HostFile(path))
}

fn manifest(me: &Path) -> String {
    let mut text = String::from("[application]\nname = \"isolation\"\n");
    for pair in PAIRS {
        let isolation = if pair == "bare" { "isolation = \"none\"" } else { "" };
        for end in ["near", "far"] {
            text += &format!(
                "[component.{pair}-{end}]\nprogram = \"{}\"\nargs = [\"{SUBCOMMAND}\"]\nwarm = 1\nmax = 1\n\
                 wait = {{ spin_us = 2000 }}\n{isolation}\n\
                 [component.{pair}-{end}.in]\nask = {{ type = \"bytes\", reply = \"bytes\", max = \"1KiB\" }}\n",
                me.display()
            );
        }
        text += &format!(
            "[component.{pair}-near.out]\nfar = {{ to = \"{pair}-far.ask\", ring = \"64KiB\" }}\n\
             [composition.{pair}]\nentry = [\"{pair}-near\"]\n"
        );
    }
    text += "[embedder.out]\n";
    for pair in PAIRS {
        text += &format!("{pair} = {{ to = \"{pair}-near.ask\", ring = \"16KiB\" }}\n");
    }
    text
}

/// Takes the bare pair out of its control groups, and tells whether all others are in one and these are not.
fn leave_groups(composer: &Composer) -> Result<bool> {
    let group = |pid: &str| {
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        text.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or_default().to_owned()
    };
    let root = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"]
        .into_iter()
        .find(|root| Path::new(root).join("cgroup.controllers").exists());
    let Some(root) = root else { return Ok(false) };
    let mut all = true;
    for shard in composer.shards() {
        let pid = shard.pid.to_string();
        if shard.component.starts_with("bare") {
            let procs = format!("{root}{}/cgroup.procs", group("self"));
            all &= fs::write(procs, &pid).is_ok() && group(&pid) == group("self");
        } else {
            all &= group(&pid).contains("/shards-");
        }
    }
    Ok(all)
}

/// Lets a pair have its turn. Returns its median and 99th percentile, in nanoseconds.
fn turn_of(composer: &Composer, session: &Session, pair: &str) -> Result<[f64; 2]> {
    let port = composer.output::<Bytes, Bytes>(pair).map_err(failed)?;
    session.send(&port, &Bytes(b"go".into())).map_err(failed)?;
    let mail = session.receive(PATIENCE).map_err(failed)?;
    let text = String::from_utf8_lossy(mail.message().payload()).into_owned();
    let numbers: Vec<f64> = text.split(' ').filter_map(|number| number.parse().ok()).collect();
    <[f64; 2]>::try_from(numbers).map_err(|_| failed(format!("{pair} says {text:?}")))
}

fn line<'a>(what: &'a str, first: &[[f64; 2]], second: &[[f64; 2]], groups: bool) -> Line<'a> {
    let of = |rounds: &[[f64; 2]], at: usize| quantile(rounds.iter().map(|round| round[at]), 0.5);
    let ratios = || first.iter().zip(second).map(|(first, second)| first[0] / second[0]);
    Line {
        what,
        size: PAYLOAD_BYTES,
        rounds: first.len(),
        p50_ns: of(first, 0),
        p99_ns: of(first, 1),
        beside_p50_ns: of(second, 0),
        beside_p99_ns: of(second, 1),
        ratio: quantile(ratios(), 0.5),
        ratio_low: quantile(ratios(), 0.25),
        ratio_high: quantile(ratios(), 0.75),
        groups,
    }
}

/// The shard that is measured, either end of a pair: a near one sends to a far one, which echoes.
///
/// # Errors
/// Without a composer.
pub fn shard() -> Result<()> {
    shardkit::run(|config| {
        let far = config.output("far").ok();
        Ok(Measured {
            far,
            sent_at: Instant::now(),
            took_ns: Vec::with_capacity(ROUND_TRIPS as usize),
            asked: None,
        })
    })
    .map_err(failed)
}

struct Measured {
    /// What it asks, if it is the near end.
    far: Option<Out<Bytes, Bytes>>,
    sent_at: Instant,
    took_ns: Vec<u64>,
    /// Who wants to know.
    asked: Option<shardkit::OwnedMessage>,
}

impl Measured {
    fn ping(&mut self, session: SessionId, ctx: &mut Context<'_>) -> shardkit::Result<()> {
        let Some(far) = &self.far else { return Ok(()) };
        self.sent_at = Instant::now();
        Ok(ctx.send(far, session, &Bytes(vec![7; PAYLOAD_BYTES]))?)
    }
}

impl Shard for Measured {
    fn on_message(&mut self, message: Message<'_>, ctx: &mut Context<'_>) -> shardkit::Result<()> {
        let Some(far) = &self.far else { return Ok(ctx.reply(&message, message.payload())?) };
        if far.answer(&message)?.is_none() {
            self.asked = Some(message.to_owned());
            return self.ping(message.session(), ctx);
        }
        self.took_ns.push(self.sent_at.elapsed().as_nanos() as u64);
        if self.took_ns.len() < ROUND_TRIPS as usize {
            return self.ping(message.session(), ctx);
        }
        self.took_ns.sort_unstable();
        let at = |part: usize| self.took_ns[self.took_ns.len() * part / 100];
        let result = format!("{} {}", at(50), at(99));
        self.took_ns.clear();
        if let Some(asked) = self.asked.take() {
            ctx.reply(&asked.as_message(), result.as_bytes())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::line;
    use crate::report::quantile;

    #[test]
    fn a_line_has_the_median_of_the_ratios_of_each_round_and_the_middle_half() {
        let first: Vec<[f64; 2]> = (1..=5).map(|n| [f64::from(n) * 10.0, 1.0]).collect();
        let line = line("x", &first, &[[10.0, 2.0]; 5], true);
        assert_eq!((line.ratio_low, line.ratio, line.ratio_high), (2.0, 3.0, 4.0));
        assert_eq!((line.p50_ns, line.beside_p50_ns, line.beside_p99_ns), (30.0, 10.0, 2.0));
        assert_eq!(quantile(std::iter::empty(), 0.5), 0.0);
    }
}
