//! `soft-roce`: boots guests with RDMA devices and runs programs, tests, the demonstration and the benchmark in them.

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use soft_roce::devices::{self, Setup};
use soft_roce::measure::{self, MeasureArguments};
use soft_roce::shard::{self, Kind, ShardArguments};
use soft_roce::{Bed, Command, Layout, agent, bench, demo, suite};
use std::env;
use std::process::ExitCode;

/// The exit code of `test` where there can be no guests: nothing failed, and nothing passed.
const NO_GUESTS: u8 = 3;

/// A test bed with real soft-RoCE.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Shows what this machine has for RDMA and for guests, and what is missing.
    Doctor,
    /// Boots guests and runs a program in the first one.
    Run {
        /// How guests and devices are arranged.
        #[arg(long, value_enum, default_value = "single")]
        layout: Layout,
        /// The program and its arguments.
        #[arg(required = true, trailing_var_arg = true)]
        command: Vec<String>,
    },
    /// Makes software RDMA devices on this very host.
    Up {
        /// Which devices.
        #[arg(long, value_enum, default_value = "single")]
        layout: Layout,
        /// With `--layout pair`: which of the two hosts this is.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
        host: u8,
        /// A device on this interface instead.
        #[arg(long)]
        interface: Option<String>,
    },
    /// Removes the software RDMA devices of this host.
    Down,
    /// Boots two hosts, runs a shard in each, and shows how long messages between them take.
    Demo {
        /// How the link between them is carried.
        #[arg(long, value_enum, default_value = "rdma")]
        link: Kind,
        /// How many messages.
        #[arg(long, default_value_t = 1000)]
        count: u64,
    },
    /// Runs every test that needs a guest.
    Test {
        /// Only those whose names contain this.
        #[arg(default_value = "")]
        filter: String,
    },
    /// Measures our links beside perftest's programs.
    Bench {
        /// Inside of one guest (`single`), or between two (`pair`).
        #[arg(long, value_enum, default_value = "single")]
        layout: Layout,
        /// Print one JSON object a line.
        #[arg(long)]
        json: bool,
        /// Fewer rounds: ends within about a minute and a half.
        #[arg(long)]
        quick: bool,
    },
    /// The guest's half.
    #[command(hide = true)]
    Agent,
    /// What is measured inside of a guest.
    #[command(hide = true)]
    Measure(MeasureArguments),
    /// One of the shards of the demonstration.
    #[command(hide = true)]
    Shard(ShardArguments),
}

fn main() -> ExitCode {
    match run(Arguments::parse().verb) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("soft-roce: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(verb: Verb) -> Result<ExitCode> {
    match verb {
        Verb::Doctor => soft_roce::doctor(),
        Verb::Run { layout, command } => return run_in_guest(layout, command),
        Verb::Up { layout, host, interface } => {
            let setup = match (interface, layout) {
                (Some(interface), _) => Setup::On { interface },
                (None, Layout::Single) => Setup::Dummy,
                (None, Layout::Veth) => Setup::Veth,
                (None, Layout::Pair) => Setup::Wire { host },
            };
            devices::up(&setup)?;
            println!("{}", devices::names().join(" "));
        }
        Verb::Down => println!("removed: {}", devices::down()?.join(" ")),
        Verb::Demo { link, count } => demo::run(&Bed::prepare(env::current_exe()?)?, link, count)?,
        Verb::Test { filter } => return test(&filter),
        Verb::Bench { layout, json, quick } => {
            bench::run(&mut Bed::prepare(env::current_exe()?)?, layout, json, quick)?;
        }
        Verb::Measure(arguments) => measure::run(&arguments)?,
        Verb::Agent => agent::serve()?,
        Verb::Shard(arguments) => shard::run(&arguments)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn test(filter: &str) -> Result<ExitCode> {
    let mut bed = match Bed::prepare(env::current_exe()?) {
        Ok(bed) => bed,
        Err(error) => {
            let names = suite::names();
            println!("no guest can be had here: {error:#}");
            println!("NOT run: {} tests in guests: {}", names.len(), names.join(", "));
            return Ok(ExitCode::from(NO_GUESTS));
        }
    };
    suite::run(&mut bed, filter)?;
    Ok(ExitCode::SUCCESS)
}

fn run_in_guest(layout: Layout, command: Vec<String>) -> Result<ExitCode> {
    let bed = Bed::prepare(env::current_exe()?)?;
    let guests = bed.boot(layout)?;
    let mut words = command.into_iter();
    let program = words.next().context("no program")?;
    let folder = env::current_dir()?.to_string_lossy().into_owned();
    let exit = guests[0].run(Command::new(program).args(words).folder(folder))?;
    exit.out.iter().for_each(|line| println!("{line}"));
    exit.err.iter().for_each(|line| eprintln!("{line}"));
    Ok(ExitCode::from(exit.code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)))
}
