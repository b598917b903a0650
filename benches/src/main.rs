//! The program `shard-bench`: the command line of the measurements.

use clap::{Args, Parser, Subcommand};
use shard_bench::case::{Pattern, SIZES};
use shard_bench::channel::Samples;
use shard_bench::cores::{self, Cores};
use shard_bench::error::{Error, Result};
use shard_bench::machine::Timer;
use shard_bench::peer::LIMIT;
use shard_bench::plan::{self, Selection};
use shard_bench::run::Runner;
use shard_bench::{compose, far, isolation, launch, machine, peers, report};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// How long everything may take, in seconds, and how many rounds that is divided into.
const FULL: (u64, usize) = (220, 25);
const QUICK: (u64, usize) = (38, 9);

/// Measures the runtime against its limits and its peers.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Between two cores of this machine
    Local(Local),
    /// What it takes to start a shard, isolated or not
    Launch {
        /// So many of each kind
        #[arg(long, default_value_t = 300)]
        rounds: usize,
    },
    /// What isolation and control groups cost a message between two shards
    Isolation {
        /// So many rounds
        #[arg(long, default_value_t = 25)]
        rounds: usize,
    },
    /// A session over five shards that sleep, beside five bare processes that are woken
    Compose {
        /// So many rounds
        #[arg(long, default_value_t = 300)]
        rounds: usize,
    },
    /// A shard of that measurement
    #[command(name = compose::SHARD, hide = true)]
    ComposedShard,
    /// A bare process of it
    #[command(name = compose::BARE, hide = true)]
    WokenProcess,
    /// A shard of the measurement of isolation
    #[command(name = isolation::SUBCOMMAND, hide = true)]
    IsolatedShard,
    /// A process that is started to be measured
    #[command(name = launch::SUBCOMMAND, hide = true)]
    Launched,
    /// The other end of a measurement
    #[command(name = far::SUBCOMMAND, hide = true)]
    FarEnd { core: usize },
}

#[derive(Args)]
struct Local {
    /// One JSON object a line instead of tables; the header goes to standard error
    #[arg(long)]
    json: bool,
    /// End within 50 s instead of 4 min
    #[arg(long)]
    quick: bool,
    /// Only these, and the limit
    #[arg(long, value_delimiter = ',')]
    peers: Vec<String>,
    /// Only these
    #[arg(long, value_delimiter = ',')]
    patterns: Vec<Pattern>,
    /// Only these payload sizes, in bytes, of rtt and stream
    #[arg(long, value_delimiter = ',')]
    sizes: Vec<usize>,
    /// Take this long, in seconds
    #[arg(long)]
    seconds: Option<u64>,
}

fn main() -> ExitCode {
    // It is the launch helper of the composer that some measurements hold.
    shard_composer::take_over();
    let result = match Cli::parse().command {
        Command::Local(options) => local(options),
        Command::Launch { rounds } => launch::run(rounds).map_err(Error::system("start a process")),
        Command::Isolation { rounds } => isolation::run(rounds),
        Command::Compose { rounds } => compose::run(rounds),
        Command::ComposedShard => compose::shard(),
        Command::WokenProcess => compose::woken(),
        Command::IsolatedShard => isolation::shard(),
        Command::Launched => launch::launched().map_err(Error::system("say the first word")),
        Command::FarEnd { core } => far::process_main(core),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("shard-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn local(options: Local) -> Result<()> {
    let (seconds, rounds) = if options.quick { QUICK } else { FULL };
    let deadline = Instant::now() + Duration::from_secs(options.seconds.unwrap_or(seconds));
    let peers = peers::all();
    let known: Vec<_> = peers.iter().map(|peer| peer.name().to_owned()).collect();
    check("peer", &options.peers, &known)?;
    check("size", &options.sizes, &SIZES)?;
    let cores = Cores::choose()?;
    cores::pin(cores.near)?;
    let clock = quanta::Clock::new();
    let timer = Timer::measure(&clock);
    let header = machine::describe(cores, timer, rounds);
    if options.json {
        eprintln!("{header}")
    } else {
        println!("{header}")
    }

    let selection = Selection { peers: options.peers, patterns: options.patterns, sizes: options.sizes };
    let groups = plan::groups(&peers, &selection);
    let mut pairs_left = groups.iter().map(Vec::len).sum();
    let mut runner = Runner::new(cores, rounds, deadline, Samples::new(clock, timer.step_ns));
    for group in &groups {
        let outcome = runner.group(group, pairs_left);
        pairs_left -= group.len();
        if options.json {
            outcome.rows.iter().for_each(|row| println!("{}", report::json(row)));
        } else {
            print!("{}", report::table(&outcome.rows));
        }
        outcome.missing.iter().for_each(|missing| eprintln!("{}", report::missing(missing)));
    }
    if !options.json {
        println!();
        let wanted = |name| {
            selection.peers.is_empty() || selection.peers.iter().any(|peer| peer == name) || name == LIMIT
        };
        peers
            .iter()
            .filter(|peer| wanted(peer.name()))
            .for_each(|peer| println!("{:<20}{}", peer.name(), peer.about()));
    }
    Ok(())
}

/// Refuses what is not in the list, and says what is.
fn check<T: PartialEq + std::fmt::Display>(what: &str, wanted: &[T], known: &[T]) -> Result<()> {
    match wanted.iter().find(|wanted| !known.contains(wanted)) {
        None => Ok(()),
        Some(unknown) => {
            let known: Vec<_> = known.iter().map(T::to_string).collect();
            Err(Error::Usage(format!("no {what} {unknown}; there are {}", known.join(", "))))
        }
    }
}
