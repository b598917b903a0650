//! Our links beside what the fabric can do, in one run: every peer in every round, medians over the rounds.
//!
//! Latencies are half round trips, as perftest reports them. The limit is `ib_write_lat` of the same size, or
//! `ib_write_bw`; the ratio is ours to its, so a stream is better above 1 and a round trip below.

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
/// Rounds that differ by more than this were not left alone.
const STEADY: f64 = 2.0;

/// One figure of one round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Case {
    peer: &'static str,
    pattern: &'static str,
    size: usize,
}

/// A row of the table, and a line of JSON.
#[derive(Debug, Serialize)]
struct Row {
    peer: &'static str,
    pattern: &'static str,
    size: usize,
    p50_ns: Option<u64>,
    p99_ns: Option<u64>,
    p999_ns: Option<u64>,
    msgs_per_s: Option<f64>,
    ratio_to_limit: Option<f64>,
}

/// Boots a guest, measures in it and prints what was found.
///
/// # Errors
/// A guest can't be had, or a peer does not run.
pub fn run(bed: &mut Bed, json: bool, quick: bool) -> Result<()> {
    let ibverbs = build_ibverbs_peer()
        .inspect_err(|error| eprintln!("skipped: the peer ibverbs can't be built here: {error:#}"))
        .ok();
    if let Some(folder) = ibverbs.as_ref().and_then(|program| program.parent()) {
        bed.keep(folder);
    }
    let bed = &*bed;
    let guests = bed.boot(Layout::Single)?;
    let guest = &guests[0];
    Authority::new()?.introduce(guest)?;
    let (rounds, count) = if quick { (2, 500) } else { (7, 1000) };
    let mut cases: Vec<Case> = vec![Case { peer: "control", pattern: "rtt", size: 8 }];
    for size in SIZES {
        for peer in ["ib_write_lat", "ib_send_lat", "ibverbs", "ring", "shardkit"] {
            if peer == "ibverbs" && ibverbs.is_none() {
                continue;
            }
            cases.push(Case { peer, pattern: "rtt", size });
        }
    }
    for peer in ["ib_write_bw", "ring", "shardkit"] {
        cases.push(Case { peer, pattern: "stream", size: STREAM_BYTES });
    }
    let mut found: Vec<Vec<Measured>> = vec![Vec::new(); cases.len()];
    let start = Instant::now();
    for round in 1..=rounds {
        for (case, found) in cases.iter().zip(&mut found) {
            let measured = measure(bed, guest, ibverbs.as_deref(), *case, count)
                .with_context(|| format!("{} {} of {} bytes", case.peer, case.pattern, case.size))?;
            found.push(measured);
        }
        eprintln!("round {round} of {rounds}, {:.0} s", start.elapsed().as_secs_f64());
    }
    let rows = rows(&cases, &found);
    if json {
        rows.iter().try_for_each(|row| serde_json::to_string(row).map(|line| println!("{line}")))?;
    } else {
        table(bed, &rows);
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

fn measure(bed: &Bed, guest: &Guest, ibverbs: Option<&Path>, case: Case, count: u32) -> Result<Measured> {
    let size = case.size.to_string();
    match (case.peer, case.pattern) {
        ("control", _) => ours(bed, guest, "control", &size, 20_000),
        ("ring", "rtt") => ours(bed, guest, "rtt", &size, count),
        ("ring", _) => ours(bed, guest, "stream", &size, count),
        ("ibverbs", _) => {
            let program = ibverbs.context("it was not built")?.to_string_lossy().into_owned();
            let exit = guest.spawn(Command::new(program).args([&size, &count.to_string(), "1"]))?;
            line_of_json(&exit.wait(TIMEOUT)?.ok()?.out)
        }
        ("shardkit", pattern) => shardkit(bed, guest, pattern, &size, count),
        (program, "rtt") => {
            let row = perftest(guest, program, &size, count)?;
            // Bytes, iterations, least, most, typical, average, deviation, 99, 99.9 of a hundred: microseconds.
            let ns = |at: usize| row.get(at).map(|us| (us * 1000.0) as u64).context("too short a row");
            let messages_per_s = 1e6 / (2.0 * row.get(5).context("too short a row")?);
            Ok(Measured { p50_ns: ns(4)?, p99_ns: ns(7)?, p999_ns: ns(8)?, messages_per_s })
        }
        (program, _) => {
            let row = perftest(guest, program, &size, count)?;
            // Bytes, iterations, peak, average in mebibytes a second, millions of messages a second.
            let mib_per_s = row.get(3).context("too short a row")?;
            let messages_per_s = mib_per_s * (1 << 20) as f64 / case.size as f64;
            Ok(Measured { p50_ns: 0, p99_ns: 0, p999_ns: 0, messages_per_s })
        }
    }
}

/// Our link between two threads of one process.
fn ours(bed: &Bed, guest: &Guest, what: &str, bytes: &str, count: u32) -> Result<Measured> {
    let command =
        Command::new(bed.agent()).args(["measure", what, "--bytes", bytes, "--count", &count.to_string()]);
    line_of_json(&guest.spawn(command)?.wait(TIMEOUT)?.ok()?.out)
}

fn line_of_json(lines: &[String]) -> Result<Measured> {
    Ok(serde_json::from_str(lines.last().context("it printed nothing")?)?)
}

/// The safe crate `ibverbs` wants more to be built than the workspace may: so its program is a package of its own.
fn build_ibverbs_peer() -> Result<PathBuf> {
    host::install_packages(&["cmake", "libclang-14-dev", "pkg-config", "libnl-3-dev", "libnl-route-3-dev"])?;
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

/// Two shards in processes of their own, from handler to handler.
fn shardkit(bed: &Bed, guest: &Guest, pattern: &str, bytes: &str, count: u32) -> Result<Measured> {
    let window = if pattern == "rtt" { "1" } else { "32" };
    let asker =
        ["--spin", "--bytes", bytes, "--count", &count.to_string(), "--window", window, "--ring", "4194304"];
    let plan = demo::Plan {
        asker: asker.map(str::to_owned).to_vec(),
        echo: ["--spin", "--ring", "4194304"].map(str::to_owned).to_vec(),
    };
    let name = guest.name();
    let _echo = demo::start_echo(bed, guest, 1, name, Kind::Rdma, &plan)?;
    let found = demo::findings(demo::start_asker(bed, guest, 1, name, Kind::Rdma, &plan)?.wait(TIMEOUT)?)?;
    let [p50, p99, p999, _] = found.rtt_ns.map(|ns| ns / 2);
    // Each message goes there and comes back: a stream each way.
    Ok(Measured { p50_ns: p50, p99_ns: p99, p999_ns: p999, messages_per_s: found.messages_per_s })
}

/// The last row of numbers that a program of perftest prints.
fn perftest(guest: &Guest, program: &str, bytes: &str, count: u32) -> Result<Vec<f64>> {
    let own = format!("{program} --ib-dev rxe0 --gid-index 1 --iters {count} --size {bytes} --CPU-freq");
    // The first does not say when it listens: the second tries again.
    let line = format!(
        "{own} >/dev/null 2>&1 & for i in 1 2 3 4 5; do sleep 0.5; {own} {} && break; done; wait",
        address(1)
    );
    let exit = guest.spawn(Command::shell(line))?.wait(TIMEOUT)?.ok()?;
    last_row(&exit.out).with_context(|| format!("{program} printed no figures:\n{}", exit.out.join("\n")))
}

fn last_row(lines: &[String]) -> Option<Vec<f64>> {
    let numbers =
        |line: &String| line.split_whitespace().map(str::parse).collect::<Result<Vec<f64>, _>>().ok();
    lines.iter().rev().filter_map(numbers).find(|row| row.len() >= 4)
}

fn rows(cases: &[Case], found: &[Vec<Measured>]) -> Vec<Row> {
    let median = |mut values: Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let of = |at: usize, value: fn(&Measured) -> f64| median(found[at].iter().map(value).collect());
    let limit = |case: &Case| {
        let peer = if case.pattern == "rtt" { "ib_write_lat" } else { "ib_write_bw" };
        cases.iter().position(|other| *other == Case { peer, ..*case })
    };
    let row = |(at, case): (usize, &Case)| {
        let is_rtt = case.pattern == "rtt";
        let ratio = limit(case).map(|limit| {
            if is_rtt {
                of(at, |m| m.p50_ns as f64) / of(limit, |m| m.p50_ns as f64)
            } else {
                of(at, |m| m.messages_per_s) / of(limit, |m| m.messages_per_s)
            }
        });
        let time = |value: fn(&Measured) -> f64| is_rtt.then(|| of(at, value) as u64);
        Row {
            peer: case.peer,
            pattern: case.pattern,
            size: case.size,
            p50_ns: time(|m| m.p50_ns as f64),
            p99_ns: time(|m| m.p99_ns as f64),
            p999_ns: time(|m| m.p999_ns as f64),
            msgs_per_s: Some(of(at, |m| m.messages_per_s).round()),
            ratio_to_limit: ratio.map(|ratio| (ratio * 1000.0).round() / 1000.0),
        }
    };
    cases.iter().enumerate().map(row).collect()
}

fn table(bed: &Bed, rows: &[Row]) {
    println!(
        "half round trips and streams inside one guest, kernel {}, {}",
        bed.kernel_version(),
        bed.acceleration()
    );
    println!(
        "{:<14}{:<8}{:>7}{:>11}{:>11}{:>11}{:>12}{:>8}",
        "peer", "pattern", "bytes", "p50 µs", "p99 µs", "p99.9 µs", "messages/s", "ratio"
    );
    let us = |ns: Option<u64>| ns.map_or("–".into(), |ns| format!("{:.1}", ns as f64 / 1000.0));
    for row in rows {
        println!(
            "{:<14}{:<8}{:>7}{:>11}{:>11}{:>11}{:>12}{:>8}",
            row.peer,
            row.pattern,
            row.size,
            us(row.p50_ns),
            us(row.p99_ns),
            us(row.p999_ns),
            row.msgs_per_s.map_or("–".into(), |rate| format!("{rate:.0}")),
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
