//! The embedding program: it starts the composer, plays the people's part of every match, shows how it goes, and
//! leaves a picture.
//!
//! Invariant: whatever happens to a match, the others go on, and no shard is left when this returns.

mod board;
mod containers;
mod people;
mod plan;
mod play;
mod summary;
mod table;

use arena::render::{Image, contact_sheet};
use board::Board;
use play::{Outcome, Ports, Stopped};
use shard_composer::Composer;
use shardkit::manifest::Manifest;
use shardkit::prelude::*;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use std::{env, fs};

/// The most matches of one run: each is played by a thread of its own.
pub(crate) const MATCHES_MAX: usize = 128;
/// How long the shards may take to come up.
const WARM_TIMEOUT: Duration = Duration::from_secs(10);
/// How many sessions are composed and ended before the first match, to measure it.
const REHEARSALS: usize = 200;
/// What a shell shows for a program that Ctrl-C ended.
const EXIT_INTERRUPTED: u8 = 130;

/// What to play, and where to put what is left of it.
pub(crate) struct Order {
    pub(crate) matches: usize,
    pub(crate) seconds: Option<u32>,
    pub(crate) out: PathBuf,
    pub(crate) manifest: PathBuf,
    /// Whether the components are containers.
    pub(crate) containers: bool,
}

/// Cargo's target folder if this program lies in it, or else the current folder.
pub(crate) fn default_folder() -> Result<PathBuf> {
    let program = env::current_exe()?;
    let target = program.ancestors().skip(1).find(|folder| folder.join("CACHEDIR.TAG").exists());
    Ok(target.unwrap_or(Path::new(".")).to_path_buf())
}

/// `arena.toml` beside this program, or else where it was built from.
pub(crate) fn default_manifest() -> Result<PathBuf> {
    let beside = env::current_exe()?.with_file_name("arena.toml");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("arena.toml");
    let found = [&beside, &source].into_iter().find(|path| path.exists());
    found.cloned().ok_or_else(|| {
        let (beside, source) = (beside.display(), source.display());
        Error::new(format!("no manifest at {beside} or {source}; name it with --manifest"))
    })
}

/// Plays the matches and says how it went.
pub(crate) fn run(order: &Order) -> Result<ExitCode> {
    fs::create_dir_all(&order.out)
        .map_err(|e| Error::new(format!("no folder {} for the pictures: {e}", order.out.display())))?;
    let stop = stop_on_signals()?;
    let begin = Instant::now();
    let manifest = if order.containers {
        containers::manifest(&order.manifest, &order.out)?
    } else {
        Manifest::read(&order.manifest)?
    };
    let composer = Composer::builder(manifest).launcher(env::current_exe()?).start()?;
    composer.wait_warm(WARM_TIMEOUT)?;
    let warm = begin.elapsed();
    let rehearsal = rehearse(&composer)?;
    let ports = Ports::open(&composer)?;
    let plans = plan::matches(order.matches, order.seconds);
    let board = Board::new(&plans, order.out.join("arena-live.png"));

    let begin = Instant::now();
    let results: Vec<Result<Outcome>> = thread::scope(|scope| {
        let threads: Vec<_> = plans
            .iter()
            .map(|plan| scope.spawn(|| play::play(&composer, &ports, plan, &board, &stop)))
            .collect();
        table::show_until(&composer, &board, || threads.iter().all(|thread| thread.is_finished()));
        let panicked = || Err(Error::new("its thread panicked"));
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| panicked())).collect()
    });
    summary::print_matches(&results, begin.elapsed());
    summary::print_starting(&results, warm, &rehearsal);
    summary::print_components(&composer);
    composer.shut_down();

    save_pictures(&order.out, &results)?;
    Ok(verdict(&results))
}

/// Composes and ends sessions that nobody plays, and says how long each took to compose, the shortest first.
fn rehearse(composer: &Composer) -> Result<Vec<Duration>> {
    let compose = |_| {
        let begin = Instant::now();
        let session = composer.compose("default")?;
        let took = begin.elapsed();
        session.end(play::END_TIMEOUT);
        Ok(took)
    };
    let mut times = (0..REHEARSALS).map(compose).collect::<Result<Vec<_>>>()?;
    times.sort_unstable();
    Ok(times)
}

/// A flag that Ctrl-C and `kill` raise. Who presses Ctrl-C twice does not want to wait.
fn stop_on_signals() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        let exit = i32::from(EXIT_INTERRUPTED);
        signal_hook::flag::register_conditional_shutdown(signal, exit, Arc::clone(&stop))?;
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    Ok(stop)
}

fn save_pictures(folder: &Path, results: &[Result<Outcome>]) -> Result<()> {
    let done: Vec<&Outcome> = results.iter().flatten().collect();
    if done.is_empty() {
        return Ok(());
    }
    let tile = |o: &&Outcome| Ok((o.report.clone(), Image::from_png(&o.poster.png)?));
    let sheet = contact_sheet(&done.iter().map(tile).collect::<Result<Vec<_>>>()?);
    save(folder, "arena.png", &sheet.png()?)?;
    if let Some(lively) = done.iter().find(|o| !o.poster.highlights_png.is_empty()) {
        save(folder, "arena-highlights.png", &lively.poster.highlights_png)?;
    }
    Ok(())
}

fn save(folder: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    let path = folder.join(name);
    fs::write(&path, bytes).map_err(|e| Error::new(format!("{} can't be written: {e}", path.display())))?;
    println!("picture     {}", path.display());
    Ok(())
}

fn verdict(results: &[Result<Outcome>]) -> ExitCode {
    let errors = || results.iter().filter_map(|result| result.as_ref().err());
    if errors().any(|error| error.downcast_ref::<Stopped>().is_none()) {
        ExitCode::FAILURE
    } else if errors().next().is_some() {
        ExitCode::from(EXIT_INTERRUPTED)
    } else {
        ExitCode::SUCCESS
    }
}

/// Whether the run is to end before its time.
fn is_stopped(stop: &AtomicBool) -> bool {
    // Relaxed: nothing else is handed over with it.
    stop.load(Ordering::Relaxed)
}
