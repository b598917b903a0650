//! `shardctl`: the composer's program. It uses the composer's public interface alone.

mod backtest;
mod bench;
mod doctor;
mod image;
mod listener;
mod local;
mod replay;
mod tiers;
mod top;
mod up;

use clap::{Args, Parser, Subcommand};
use shardkit::manifest::{Manifest, schema};
use std::path::PathBuf;
use std::process::ExitCode;

/// What every verb gives: a text for people when it fails.
type Outcome = Result<(), Failure>;

/// Why a verb failed, and the exit code for it.
struct Failure {
    text: String,
    code: u8,
}

impl Failure {
    /// Something went wrong while running.
    fn run(error: impl std::fmt::Display) -> Self {
        Self { text: error.to_string(), code: 1 }
    }

    /// The command line or the manifest is wrong.
    fn usage(error: impl std::fmt::Display) -> Self {
        Self { text: error.to_string(), code: 2 }
    }
}

/// Runs applications as shards: warm processes of their components, composed into sessions.
#[derive(Parser)]
#[command(name = "shardctl", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Run an application in the foreground, until Ctrl-C.
    Up(up::Up),
    /// List the shards and sessions of a running application.
    Ps(local::Ask),
    /// Watch a running application: a live table of shards, links and latencies.
    Top(top::Top),
    /// Compose a session of a running application; it lives until `end`.
    Compose(local::Compose),
    /// End a session.
    End(local::End),
    /// Why a session got its shards, or why a pool has the size it has.
    Explain(local::Explain),
    /// Let a shard take no more sessions, and end with those that it holds.
    Drain(local::Drain),
    /// Measure how long composing takes.
    Bench(bench::Bench),
    /// Compose and end sessions as a trace of arrivals says.
    Replay(replay::Replay),
    /// Try pool policies on a recorded demand.
    Backtest(backtest::Backtest),
    /// Print the JSON schema of manifests.
    Schema,
    /// Check a manifest.
    Check(ManifestArg),
    /// OCI images of components.
    Image(image::Image),
    /// Look at this host: what it offers, what is missing, and what to type.
    Doctor(doctor::Doctor),
}

/// The application to run.
#[derive(Args)]
struct ManifestArg {
    /// The manifest.
    manifest: PathBuf,
}

impl ManifestArg {
    fn read(&self) -> Result<Manifest, Failure> {
        Manifest::read(&self.manifest).map_err(Failure::usage)
    }
}

fn main() -> ExitCode {
    shard_composer::take_over();
    let outcome = match Cli::parse().verb {
        Verb::Up(up) => up.run(),
        Verb::Ps(ask) => ask.ps(),
        Verb::Top(top) => top.run(),
        Verb::Compose(compose) => compose.run(),
        Verb::End(end) => end.run(),
        Verb::Explain(explain) => explain.run(),
        Verb::Drain(drain) => drain.run(),
        Verb::Bench(bench) => bench.run(),
        Verb::Replay(replay) => replay.run(),
        Verb::Backtest(backtest) => backtest.run(),
        Verb::Schema => {
            println!("{:#}", schema());
            Ok(())
        }
        Verb::Check(arg) => arg.read().map(|manifest| {
            let application = manifest.application();
            println!("`{}` is well: {} components", application.name, application.components.len());
        }),
        Verb::Image(image) => image.run(),
        Verb::Doctor(doctor) => doctor.run(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // It may hold what an image or a shard says.
            let harmless = |c: char| match c == '\n' || !c.is_control() {
                true => c.to_string(),
                false => c.escape_default().to_string(),
            };
            eprintln!("shardctl: {}", failure.text.chars().map(harmless).collect::<String>());
            ExitCode::from(failure.code)
        }
    }
}

/// Starts logging: text for people, or JSON.
fn log(filter: &str, json: bool) -> Outcome {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_new(filter).map_err(Failure::usage)?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if json {
        builder.json().flatten_event(true).init();
    } else {
        builder.with_target(false).init();
    }
    Ok(())
}
