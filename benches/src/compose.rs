//! What it takes to compose a session over five shards that sleep, beside the least that it could take: five bare processes
//! that are woken, with nothing around them. In turns, so that both meet the same machine: back to back, and after a pause in
//! which the caches go cold.

use crate::error::{Error, Result, failed};
use crate::memory::{LINE_BYTES, PAGE_BYTES, Shared, Word};
use crate::report::quantile;
use rustix::process::Signal;
use rustix::thread::futex;
use serde::Serialize;
use shard_composer::Composer;
use shardkit::manifest::Manifest;
use shardkit::prelude::*;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// The hidden command of the shards.
pub const SHARD: &str = "composed-shard";
/// The hidden command of the bare processes.
pub const BARE: &str = "woken-process";
/// Longer nothing takes.
const PATIENCE: Duration = Duration::from_secs(20);
/// So many shards, and so many bare processes.
const FIVE: usize = 5;
/// So many sessions are asked for together.
const TOGETHER: usize = 16;
/// The pauses before each composition.
const PAUSES: [Duration; 2] = [Duration::ZERO, Duration::from_millis(20)];
/// Rounds before those that count.
const WARM_UP: usize = 10;

/// A line of the result. Times in microseconds.
#[derive(Serialize)]
struct Line {
    what: &'static str,
    /// The pause before, in milliseconds.
    pause_ms: u128,
    rounds: usize,
    p50_us: f64,
    p99_us: f64,
    /// Of the five bare processes.
    bare_p50_us: f64,
    bare_p99_us: f64,
    /// Ours by the bare five in the same round: the median over the rounds, and the middle half.
    ratio: f64,
    ratio_low: f64,
    ratio_high: f64,
}

/// Measures in so many rounds, and prints JSON objects for each pause: of one session, of one over shards that are not isolated,
/// and of each of sixteen that are asked for together.
///
/// # Errors
/// When a process can't be started, or one does not answer.
pub fn run(rounds: usize) -> Result<()> {
    let me = std::env::current_exe().map_err(Error::system("find this program"))?;
    let composer = start(&me, "")?;
    let trusting = start(&me, "isolation = \"none\"\n")?;
    let mut bare = (0..FIVE).map(|_| Bare::start()).collect::<Result<Vec<_>>>()?;
    for pause in PAUSES {
        let mut took: [Vec<f64>; 4] = Default::default();
        for round in 0..WARM_UP + rounds {
            let mut turn = |at: usize, measure: &mut dyn FnMut() -> Result<f64>| {
                std::thread::sleep(pause);
                let us = measure()?;
                if round >= WARM_UP {
                    took[at].push(us);
                }
                Ok(())
            };
            turn(0, &mut || wake(&mut bare))?;
            turn(1, &mut || compose(&composer))?;
            turn(2, &mut || compose(&trusting))?;
            turn(3, &mut || compose_together(&composer))?;
        }
        for (what, at) in
            [("one session", 1), ("one session, shards not isolated", 2), ("each of 16 together", 3)]
        {
            let line = line(what, pause, &took[at], &took[0]);
            println!("{}", serde_json::to_string(&line).expect("text and numbers are JSON"));
        }
    }
    Ok(())
}

/// A composer with five warm shards that are declared with `extra`.
fn start(me: &Path, extra: &str) -> Result<Composer> {
    let manifest = Manifest::parse(&manifest(me, extra), "compose.toml").map_err(failed)?;
    let composer = Composer::builder(manifest).launcher(me).start().map_err(failed)?;
    composer.wait_warm(PATIENCE).map_err(failed)?;
    Ok(composer)
}

fn manifest(me: &Path, extra: &str) -> String {
    let mut text = String::from("[application]\nname = \"compose\"\nidle_latency_us = 0\n");
    for at in 0..FIVE {
        text += &format!(
            "[component.c{at}]\nprogram = \"{}\"\nargs = [\"{SHARD}\"]\nwarm = 1\nmax = 1\ncapacity = 64\nwait = \"park\"\n{extra}\
             [component.c{at}.in]\nask = {{ type = \"bytes\", max = \"1KiB\" }}\n",
            me.display()
        );
    }
    text += "[embedder.out]\n";
    for at in 0..FIVE {
        text += &format!("c{at} = {{ to = \"c{at}.ask\", ring = \"16KiB\" }}\n");
    }
    text
}

fn microseconds(time: Duration) -> f64 {
    time.as_nanos() as f64 / 1e3
}

/// A session: until it is ready. Its end is not measured, but waited for.
fn compose(composer: &Composer) -> Result<f64> {
    let start = Instant::now();
    let session = composer.compose("default").map_err(failed)?;
    let took = start.elapsed();
    end(session)?;
    Ok(microseconds(took))
}

/// The median of many sessions that are asked for at once.
fn compose_together(composer: &Composer) -> Result<f64> {
    let mut asker = composer.asker();
    for _ in 0..TOGETHER {
        asker.ask("default", PATIENCE, Instant::now()).map_err(failed)?;
    }
    let (mut sessions, mut took) = (Vec::new(), Vec::new());
    while let Some((asked, answer)) = asker.next(PATIENCE) {
        took.push(microseconds(asked.elapsed()));
        sessions.push(answer.map_err(failed)?);
    }
    sessions.into_iter().try_for_each(end)?;
    Ok(quantile(took.into_iter(), 0.5))
}

fn end(session: shard_composer::Session) -> Result<()> {
    if session.end(PATIENCE) { Ok(()) } else { Err(failed("a session does not end")) }
}

/// A bare process: it sleeps until its word changes, says so, and sleeps again.
struct Bare {
    asked: Word<AtomicU32>,
    answered: Word<AtomicU32>,
    child: Child,
}

/// Where the words are.
fn words(memory: &Rc<Shared>) -> [Word<AtomicU32>; 2] {
    [memory.futex(0), memory.futex(2 * LINE_BYTES)]
}

impl Bare {
    fn start() -> Result<Self> {
        let memory = Shared::create(PAGE_BYTES)?;
        let [asked, answered] = words(&memory);
        let mut command = Command::new("/proc/self/exe");
        command.arg(BARE).stdin(Stdio::from(memory.descriptor()?));
        let child = command.spawn().map_err(Error::system("start a process"))?;
        Ok(Self { asked, answered, child })
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        // Both fail only if it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Wakes them all, and polls as a composer does until all have answered.
fn wake(bare: &mut [Bare]) -> Result<f64> {
    let start = Instant::now();
    for process in bare.iter() {
        process.asked.fetch_add(1, Ordering::AcqRel);
    }
    for process in bare.iter() {
        futex::wake(&process.asked, futex::Flags::empty(), 1).map_err(Error::system("futex wake"))?;
    }
    for process in bare.iter() {
        let asked = process.asked.load(Ordering::Relaxed);
        while process.answered.load(Ordering::Acquire) != asked {
            if start.elapsed() > PATIENCE {
                return Err(failed("a bare process does not answer"));
            }
            std::thread::yield_now();
        }
    }
    Ok(microseconds(start.elapsed()))
}

/// The life of a bare process. Its memory is its standard input.
///
/// # Errors
/// When it is not started by [`run`].
pub fn woken() -> Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).map_err(Error::system("prctl"))?;
    let memory = Shared::map(std::io::stdin().as_fd().try_clone_to_owned().map_err(Error::system("dup"))?)?;
    let [asked, answered] = words(&memory);
    let mut seen = 0;
    loop {
        // Woken, or changed before it slept, or interrupted: all a reason to look.
        let _ = futex::wait(&asked, futex::Flags::empty(), seen, None);
        seen = asked.load(Ordering::Acquire);
        answered.store(seen, Ordering::Release);
    }
}

/// The shard: it is there.
///
/// # Errors
/// Without a composer.
pub fn shard() -> Result<()> {
    struct There;
    impl Shard for There {
        fn on_message(&mut self, _: Message<'_>, _: &mut Context<'_>) -> shardkit::Result<()> {
            Ok(())
        }
    }
    shardkit::run(|_config| Ok(There)).map_err(failed)
}

fn line(what: &'static str, pause: Duration, took: &[f64], bare: &[f64]) -> Line {
    let of = |times: &[f64], part| quantile(times.iter().copied(), part);
    let ratio = |part| quantile(took.iter().zip(bare).map(|(took, bare)| took / bare), part);
    Line {
        what,
        pause_ms: pause.as_millis(),
        rounds: took.len(),
        p50_us: of(took, 0.5),
        p99_us: of(took, 0.99),
        bare_p50_us: of(bare, 0.5),
        bare_p99_us: of(bare, 0.99),
        ratio: ratio(0.5),
        ratio_low: ratio(0.25),
        ratio_high: ratio(0.75),
    }
}
