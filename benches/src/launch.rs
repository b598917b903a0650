//! What it takes to start a process: with nothing around it, as a shard, and as an isolated shard; in turns, so that all
//! three meet the same machine.

use hdrhistogram::Histogram;
use shard_runtime::control::{CONTROL_ENV, ControlSocket, FromShard, PROTOCOL_VERSION, Packet};
use shard_runtime::isolation::{Allow, Isolation};
use shard_runtime::process::{Spawn, reap, spawn, take_control};
use std::io::{Read, Result, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

/// The hidden command of the process that is started.
pub const SUBCOMMAND: &str = "launched";
/// Rounds before those that count: what is read from the disk is in memory then.
const WARM_UP: usize = 10;
/// No start takes longer, in nanoseconds.
const NS_MAX: u64 = 60_000_000_000;

/// Starts so many processes of each kind, and prints how long it took until each said its first word.
///
/// # Errors
/// When a process can't be started.
pub fn run(rounds: usize) -> Result<()> {
    let me = std::env::current_exe()?;
    let isolation = Isolation::new(&Allow::default(), &me, false).map_err(std::io::Error::other)?;
    let kinds: [(&str, Option<&Isolation>); 2] = [("shard", None), ("isolated shard", Some(&isolation))];
    let mut times =
        [(); 3].map(|()| Histogram::<u64>::new_with_bounds(1, NS_MAX, 3).expect("the bounds are"));
    let mut absent = Vec::new();
    for round in 0..WARM_UP + rounds {
        let mut took = [bare(&me)?, 0, 0];
        for (took, (_, isolation)) in took[1..].iter_mut().zip(kinds) {
            let start = Instant::now();
            let (ours, theirs) = ControlSocket::pair()?;
            let (args, control) = ([SUBCOMMAND.to_owned()], theirs.as_fd());
            let (output, anchor, cgroup) = (None, None, None);
            let started = spawn(&Spawn {
                program: &me,
                args: &args,
                env: &[],
                control,
                output,
                isolation,
                anchor,
                cgroup,
                realtime: 0,
            })?;
            drop(theirs);
            ours.receive::<FromShard>(&mut Packet::new()).map_err(std::io::Error::other)?;
            *took = start.elapsed().as_nanos() as u64;
            absent.clone_from(&started.absent);
            reap(started.pidfd.as_fd())?;
        }
        if round >= WARM_UP {
            for (times, took) in times.iter_mut().zip(took) {
                times.saturating_record(took);
            }
        }
    }
    println!("{rounds} starts of each, in turns, until the first word, in microseconds");
    println!("{:<24}{:>10}{:>10}{:>16}", "", "p50", "p99", "p50 beyond bare");
    let us = |times: &Histogram<u64>, part| times.value_at_quantile(part) as f64 / 1e3;
    let names = ["bare fork and exec", kinds[0].0, kinds[1].0];
    for (name, of) in names.into_iter().zip(&times) {
        let beyond = us(of, 0.5) - us(&times[0], 0.5);
        println!("{name:<24}{:>10.0}{:>10.0}{beyond:>16.0}", us(of, 0.5), us(of, 0.99));
    }
    for absent in absent {
        println!("not on this host: {absent}");
    }
    Ok(())
}

/// By the standard library, with a pipe for the first word.
fn bare(me: &Path) -> Result<u64> {
    let start = Instant::now();
    let mut child = Command::new(me).arg(SUBCOMMAND).stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let mut word = [0];
    child.stdout.take().expect("piped").read_exact(&mut word)?;
    let took = start.elapsed().as_nanos() as u64;
    child.wait()?;
    Ok(took)
}

/// The process that is started: says its first word and ends.
///
/// # Errors
/// When nobody listens.
pub fn launched() -> Result<()> {
    if std::env::var_os(CONTROL_ENV).is_some() {
        let control = ControlSocket::from_fd(take_control().expect("a control socket"));
        let hello = FromShard::Hello { version: PROTOCOL_VERSION, pid: std::process::id() };
        control.send(&hello, &[]).map_err(std::io::Error::other)?;
    } else {
        std::io::stdout().write_all(b"h")?;
        std::io::stdout().flush()?;
    }
    Ok(())
}
