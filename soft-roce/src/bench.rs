//! Our links beside what the fabric can do, in one run: every peer in every round, medians over the rounds.
//!
//! Each peer is two programs, inside of one guest or on two. Latencies are half round trips, as perftest reports them.
//! The limit is `ib_write_lat` of the same size, or `ib_write_bw`; the ratio is ours to its of the same round, so a
//! stream is better above 1 and a round trip below. `bare` writes as many bytes as the frame has, without a ring.

use crate::devices::address;
use crate::measure::Measured;
use crate::shard::Kind;
use crate::{Authority, Bed, Command, Guest, Layout, demo, host};
use anyhow::{Context, Result};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::process;
use std::time::{Duration, Instant};

const SIZES: [usize; 3] = [64, 1024, 4096];
const STREAM_BYTES: usize = 64 << 10;
const TIMEOUT: Duration = Duration::from_secs(120);
const START: Duration = Duration::from_secs(30);
/// Rounds that differ by more than this were not left alone.
const STEADY: f64 = 2.0;
/// The cores of the program that sends first and of the one that waits: wandering would drown differences.
const CORES: [u32; 2] = [0, 1];
/// Where the program that waits for the other listens.
const PORT: u16 = 7100;

/// One figure of one round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Case {
    peer: &'static str,
    pattern: &'static str,
    size: usize,
}

impl Case {
    /// What its figures are compared with.
    fn limit(self) -> Self {
        Self { peer: if self.pattern == RTT { "ib_write_lat" } else { "ib_write_bw" }, ..self }
    }
}

const RTT: &str = "rtt";
const STREAM: &str = "stream";

/// A row of the table, and a line of JSON: the fields of `shard-bench -- local`.
#[derive(Debug, Serialize)]
struct Row {
    peer: &'static str,
    pattern: &'static str,
    metric: Option<&'static str>,
    size: usize,
    links: usize,
    p50_ns: Option<u64>,
    p99_ns: Option<u64>,
    p999_ns: Option<u64>,
    msgs_per_s: f64,
    ratio_to_limit: Option<f64>,
    /// Beyond the limit, in nanoseconds per message or half round trip.
    extra_ns: Option<f64>,
    limit: Option<&'static str>,
    limit_size: usize,
    limit_links: usize,
    limit_ns: Option<f64>,
}

/// Where it is measured.
struct Bench<'a> {
    bed: &'a Bed,
    /// Waits for the other.
    passive: &'a Guest,
    /// Sends first.
    active: &'a Guest,
    /// The end of the wire at which the passive one listens.
    end: u8,
    ibverbs: Option<&'a Path>,
    count: u32,
}

/// Boots guests, measures in them and prints what was found.
///
/// # Errors
/// A guest can't be had, or a peer does not run.
pub fn run(bed: &mut Bed, layout: Layout, json: bool, quick: bool) -> Result<()> {
    let ibverbs = build_ibverbs_peer()
        .inspect_err(|error| eprintln!("skipped: the peer ibverbs can't be built here: {error:#}"))
        .ok();
    if let Some(folder) = ibverbs.as_ref().and_then(|program| program.parent()) {
        bed.keep(folder);
    }
    let bed = &*bed;
    let guests = bed.boot(layout)?;
    let authority = Authority::new()?;
    guests.iter().try_for_each(|guest| authority.introduce(guest).map(drop))?;
    let (active, passive) = (guests.first().context("no guest")?, guests.last().context("no guest")?);
    let (rounds, count) = if quick { (2, 1000) } else { (9, 2000) };
    let ibverbs = ibverbs.as_deref();
    let bench = Bench { bed, passive, active, end: guests.len() as u8, ibverbs, count };

    let mut cases: Vec<Case> = vec![Case { peer: "control", pattern: RTT, size: 8 }];
    for size in SIZES {
        for peer in ["ib_write_lat", "ib_send_lat", "ibverbs", "bare", "ring", "shardkit"] {
            if peer != "ibverbs" || ibverbs.is_some() {
                cases.push(Case { peer, pattern: RTT, size });
            }
        }
    }
    for peer in ["ib_write_bw", "ring", "shardkit"] {
        cases.push(Case { peer, pattern: STREAM, size: STREAM_BYTES });
    }
    let mut found: Vec<Vec<Measured>> = vec![Vec::new(); cases.len()];
    let start = Instant::now();
    for round in 1..=rounds {
        for (case, found) in cases.iter().zip(&mut found) {
            let measured = bench
                .measure(*case)
                .with_context(|| format!("{} {} of {} bytes", case.peer, case.pattern, case.size))?;
            found.push(measured);
        }
        eprintln!("round {round} of {rounds}, {:.0} s", start.elapsed().as_secs_f64());
    }
    let rows = rows(&cases, &found);
    if json {
        rows.iter().try_for_each(|row| serde_json::to_string(row).map(|line| println!("{line}")))?;
    } else {
        table(bed, layout, &rows);
    }
    let control: Vec<_> = found[0].iter().map(|measured| measured.p50_ns as f64).collect();
    let (least, most) =
        control.iter().fold((f64::MAX, 0f64), |(least, most), ns| (least.min(*ns), most.max(*ns)));
    if most > STEADY * least {
        eprintln!(
            "doubtful: the control took {least:.0} to {most:.0} ns, so this machine was not left alone"
        );
    }
    Ok(())
}

impl Bench<'_> {
    fn measure(&self, case: Case) -> Result<Measured> {
        let (size, count) = (case.size.to_string(), self.count.to_string());
        let own = |program: String, arguments: &[&str]| {
            let at = format!("{}:{PORT}", address(self.end));
            let command = Command::new(program).args(arguments.iter().copied().map(str::to_owned));
            (command, at)
        };
        match (case.peer, case.pattern) {
            ("control", _) => {
                let command = Command::new(self.bed.agent()).args(["measure", "control", "--count", "20000"]);
                line_of_json(&self.active.spawn(command)?.wait(TIMEOUT)?.ok()?.out)
            }
            ("ring" | "bare", pattern) => {
                let what = if case.peer == "bare" { "bare" } else { pattern };
                let (command, at) =
                    own(self.bed.agent(), &["measure", what, "--bytes", &size, "--count", &count]);
                self.pair(command.clone().args(["--listen", &at]), command.args(["--connect", &at]))
            }
            ("ibverbs", _) => {
                let program = self.ibverbs.context("it was not built")?.to_string_lossy().into_owned();
                let (command, at) = own(program, &[&size, &count, "1"]);
                self.pair(command.clone().args(["listen", &at]), command.args(["connect", &at]))
            }
            ("shardkit", pattern) => self.shardkit(pattern, &size, &count),
            (program, RTT) => {
                let row = self.perftest(program, &size, &count)?;
                // Bytes, iterations, least, most, typical, average, deviation, 99, 99.9 of a hundred: microseconds.
                let ns = |at: usize| row.get(at).map(|us| (us * 1000.0) as u64).context("too short a row");
                let messages_per_s = 1e6 / (2.0 * row.get(5).context("too short a row")?);
                Ok(Measured { p50_ns: ns(4)?, p99_ns: ns(7)?, p999_ns: ns(8)?, messages_per_s })
            }
            (program, _) => {
                let row = self.perftest(program, &size, &count)?;
                // Bytes, iterations, peak, average in mebibytes a second, millions of messages a second.
                let mib_per_s = row.get(3).context("too short a row")?;
                let messages_per_s = mib_per_s * (1 << 20) as f64 / case.size as f64;
                Ok(Measured { p50_ns: 0, p99_ns: 0, p999_ns: 0, messages_per_s })
            }
        }
    }

    /// Two programs, of which the one that connects prints the figures.
    fn pair(&self, listens: Command, connects: Command) -> Result<Measured> {
        let mut passive = self.passive.spawn(listens.pinned(CORES[1]))?;
        passive.line("listening", START)?;
        let exit = self.active.spawn(connects.pinned(CORES[0]))?.wait(TIMEOUT)?.ok()?;
        passive.wait(TIMEOUT)?.ok()?;
        line_of_json(&exit.out)
    }

    /// Two shards, from handler to handler. Of a stream the replies are brief.
    fn shardkit(&self, pattern: &str, bytes: &str, count: &str) -> Result<Measured> {
        let mut common = vec!["--spin", "--ring", "4194304"];
        let mut asker = vec!["--bytes", bytes, "--count", count];
        if pattern == STREAM {
            common.push("--brief");
            asker.extend(["--window", "64"]);
        }
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let plan = demo::Plan {
            asker: words(&[asker, common.clone()].concat()),
            echo: words(&common),
            cores: Some(CORES),
        };
        let (passive, active) = (self.passive, self.active);
        let _echo = demo::start_echo(self.bed, passive, self.end, active.name(), Kind::Rdma, &plan)?;
        let asker = demo::start_asker(self.bed, active, self.end, passive.name(), Kind::Rdma, &plan)?;
        let found = demo::findings(asker.wait(TIMEOUT)?)?;
        let [p50, p99, p999, _] = found.rtt_ns.map(|ns| ns / 2);
        Ok(Measured { p50_ns: p50, p99_ns: p99, p999_ns: p999, messages_per_s: found.messages_per_s })
    }

    /// The last row of numbers that a program of perftest prints.
    fn perftest(&self, program: &str, bytes: &str, count: &str) -> Result<Vec<f64>> {
        let own = format!("{program} --ib-dev rxe0 --gid-index 1 --iters {count} --size {bytes} --CPU-freq");
        // The first does not say when it listens: the second tries again.
        let tries = format!(
            "for i in 1 2 3 4 5 6 7 8; do sleep 0.5; {own} {} && exit 0; done; exit 1",
            address(self.end)
        );
        let server = self.passive.spawn(Command::shell(own).pinned(CORES[1]))?;
        let exit = self.active.spawn(Command::shell(tries).pinned(CORES[0]))?.wait(TIMEOUT)?.ok()?;
        server.wait(TIMEOUT)?.ok()?;
        last_row(&exit.out).with_context(|| format!("{program} printed no figures:\n{}", exit.out.join("\n")))
    }
}

fn line_of_json(lines: &[String]) -> Result<Measured> {
    Ok(serde_json::from_str(lines.last().context("it printed nothing")?)?)
}

/// The safe crate `ibverbs` wants more to be built than the workspace may: so its program is a package of its own.
fn build_ibverbs_peer() -> Result<PathBuf> {
    host::install_packages(&[
        "cmake",
        "libclang-14-dev",
        "libibverbs-dev",
        "pkg-config",
        "libnl-3-dev",
        "libnl-route-3-dev",
    ])?;
    let package = Path::new(env!("CARGO_MANIFEST_DIR")).join("ibverbs-peer");
    let target = std::env::current_dir()?.join("target/ibverbs-peer");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    host::run(
        process::Command::new(cargo)
            .args(["build", "--release", "--locked"])
            .current_dir(package)
            .env("CARGO_TARGET_DIR", &target)
            .env("LIBCLANG_PATH", "/usr/lib/llvm-14/lib"),
    )?;
    Ok(target.join("release/ibverbs-peer"))
}

fn last_row(lines: &[String]) -> Option<Vec<f64>> {
    let numbers =
        |line: &String| line.split_whitespace().map(str::parse).collect::<Result<Vec<f64>, _>>().ok();
    lines.iter().rev().filter_map(numbers).find(|row| row.len() >= 4)
}

fn rows(cases: &[Case], found: &[Vec<Measured>]) -> Vec<Row> {
    let row = |(case, own): (&Case, &Vec<Measured>)| {
        let is_rtt = case.pattern == RTT;
        let each_ns = |m: &Measured| if is_rtt { m.p50_ns as f64 } else { 1e9 / m.messages_per_s };
        let limit = cases.iter().position(|other| *other == case.limit()).map(|at| &found[at]);
        let with_limit = |value: fn(f64, f64) -> f64| {
            limit.map(|limit| median(own.iter().zip(limit).map(|(a, b)| value(each_ns(a), each_ns(b)))))
        };
        let ratio = with_limit(if is_rtt { |own, limit| own / limit } else { |own, limit| limit / own });
        let time =
            |value: fn(&Measured) -> u64| is_rtt.then(|| median(own.iter().map(|m| value(m) as f64)) as u64);
        Row {
            peer: case.peer,
            pattern: case.pattern,
            metric: None,
            size: case.size,
            links: 1,
            p50_ns: time(|m| m.p50_ns),
            p99_ns: time(|m| m.p99_ns),
            p999_ns: time(|m| m.p999_ns),
            msgs_per_s: median(own.iter().map(|m| m.messages_per_s)).round(),
            ratio_to_limit: ratio.map(|ratio| (ratio * 1000.0).round() / 1000.0),
            extra_ns: with_limit(|own, limit| own - limit).map(f64::round),
            limit: limit.map(|_| case.limit().peer),
            limit_size: case.size,
            limit_links: 1,
            limit_ns: limit.map(|limit| median(limit.iter().map(each_ns)).round()),
        }
    };
    cases.iter().zip(found).map(row).collect()
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn table(bed: &Bed, layout: Layout, rows: &[Row]) {
    let place = if layout == Layout::Pair { "between two guests" } else { "inside one guest" };
    println!("half round trips and streams {place}, kernel {}, {}", bed.kernel_version(), bed.acceleration());
    println!(
        "{:<14}{:<8}{:>7}{:>11}{:>11}{:>11}{:>12}{:>8}",
        "peer", "pattern", "bytes", "p50 µs", "p99 µs", "p99.9 µs", "messages/s", "ratio"
    );
    let us = |ns: Option<u64>| ns.map_or("–".into(), |ns| format!("{:.1}", ns as f64 / 1000.0));
    for row in rows {
        println!(
            "{:<14}{:<8}{:>7}{:>11}{:>11}{:>11}{:>12.0}{:>8}",
            row.peer,
            row.pattern,
            row.size,
            us(row.p50_ns),
            us(row.p99_ns),
            us(row.p999_ns),
            row.msgs_per_s,
            row.ratio_to_limit.map_or("–".into(), |ratio| format!("{ratio:.2}")),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_row_of_perftests_table_is_read() {
        let lines = [
            " #bytes #iterations    t_min[usec]    t_max[usec]  t_typical[usec]    t_avg[usec]",
            " 64      1000          19.31          4296.37      19.79    \t       71.73       \t401.16 \t\t2291.74 \t\t4296.37",
            "-----------------------------------",
        ];
        let row = last_row(&lines.map(str::to_owned)).unwrap();
        assert_eq!((row[4], row[8]), (19.79, 4296.37));
        assert!(last_row(&["no figures".to_owned()]).is_none());
    }
}
