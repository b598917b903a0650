//! The arena's program. Without arguments it plays: it embeds the composer, starts the five components of
//! `arena.toml` and runs several matches at once. With a component's name it is a shard of that component, which only
//! a composer can start.

mod host;

use clap::Parser;
use shardkit::prelude::*;
use std::path::PathBuf;
use std::process::ExitCode;

/// Plays a few matches at once on the runtime and draws them.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Options {
    /// Runs a shard of this component; a composer does that.
    #[arg(value_parser = clap::builder::PossibleValuesParser::new(arena::components::NAMES.into_iter().chain([arena::components::ANY])))]
    component: Option<String>,
    /// How many matches to play.
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u16).range(1..=host::MATCHES_MAX as i64))]
    matches: u16,
    /// How long each match is; by default between 16 and 20 seconds.
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u16).range(1..=3600))]
    seconds: Option<u16>,
    /// The folder for the pictures; by default cargo's target folder, or else the current one.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// The manifest; by default `arena.toml` beside this program, or else in its source.
    #[arg(long, value_name = "FILE")]
    manifest: Option<PathBuf>,
    /// Runs all components as containers, from an image of this program that it makes first.
    #[arg(long)]
    containers: bool,
}

fn main() -> ExitCode {
    // This program is its own launch helper: started as one, it does not come back from here.
    shard_composer::take_over();
    match run(Options::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("arena: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: Options) -> Result<ExitCode> {
    if let Some(component) = options.component {
        return arena::components::run(&component).map(|()| ExitCode::SUCCESS);
    }
    host::run(&host::Order {
        matches: options.matches.into(),
        seconds: options.seconds.map(u32::from),
        out: options.out.map_or_else(host::default_folder, Ok)?,
        manifest: options.manifest.map_or_else(host::default_manifest, Ok)?,
        containers: options.containers,
    })
}
