//! Everything that is tested in guests, and what came of it.
//!
//! Invariant: a test that could not be run is named, and never counts as passed.

use crate::shard::{Kind, TELL_EVERY};
use crate::{Authority, Bed, Command, Exit, Guest, Layout, demo};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{self, Stdio};
use std::time::{Duration, Instant};

/// Nothing in a guest takes longer.
const TIMEOUT: Duration = Duration::from_secs(900);
/// What the specification states: so soon a peer that died is noticed, if its host lives …
pub const PEER_NOTICED: Duration = Duration::from_secs(1);
/// … and so soon, if its host is gone.
pub const HOST_NOTICED: Duration = Duration::from_secs(5);
const SIGKILL: i32 = 9;

/// What is tested: its name, where, and how.
type Run = fn(&Suite<'_>, &[Guest]) -> Result<Vec<String>>;

const CASES: [(&str, Layout, Run); 20] = [
    ("rdma_keeps_every_promise", Layout::Single, conformance),
    ("rdma_links_under_faults", Layout::Veth, links),
    ("one_shard_sleeps_on_links_of_all_kinds", Layout::Single, mixed),
    ("rdma_is_held_to_its_rate", Layout::Single, |suite, guests| suite.tests(&guests[0], "bandwidth")),
    ("rdma_carries_between_hosts", Layout::Pair, |suite, guests| crosses(suite, guests, Kind::Rdma)),
    ("tcp_carries_between_hosts", Layout::Pair, |suite, guests| crosses(suite, guests, Kind::Tcp)),
    ("ten_thousand_cross_by_rdma_while_cut", Layout::Pair, |suite, guests| cut(suite, guests, Kind::Rdma)),
    ("ten_thousand_cross_by_tcp_while_cut", Layout::Pair, |suite, guests| cut(suite, guests, Kind::Tcp)),
    ("a_killed_peer_is_noticed_by_rdma", Layout::Pair, |suite, guests| {
        killed(suite, guests, Kind::Rdma, false)
    }),
    ("a_killed_peer_is_noticed_by_tcp", Layout::Pair, |suite, guests| {
        killed(suite, guests, Kind::Tcp, false)
    }),
    ("a_killed_host_is_noticed_by_rdma", Layout::Pair, |suite, guests| {
        killed(suite, guests, Kind::Rdma, true)
    }),
    ("a_killed_host_is_noticed_by_tcp", Layout::Pair, |suite, guests| killed(suite, guests, Kind::Tcp, true)),
    ("isolation_by_control_groups", Layout::Single, |suite, guests| {
        suite.plain_tests(&guests[0], "groups", "", "required", PLAIN)
    }),
    ("isolation_by_control_groups_of_a_subtree", Layout::Single, |suite, guests| {
        suite.plain_tests(&guests[0], "groups", "", "delegated", SUBTREE)
    }),
    ("isolation_by_control_groups_without_root", Layout::Single, |suite, guests| {
        suite.plain_tests(&guests[0], "groups", "", "delegated", USER)
    }),
    ("isolation_of_cores", Layout::Single, |suite, guests| {
        suite.plain_tests(&guests[0], "cores", "", "required", PLAIN)
    }),
    ("isolation_of_native_shards", Layout::Single, |suite, guests| {
        suite.plain_tests(&guests[0], "isolation", "", "required", PLAIN)
    }),
    ("isolation_in_containers", Layout::Single, |suite, guests| {
        suite.plain_tests(&guests[0], "oci", "", "required", PLAIN)
    }),
    ("isolation_with_rdma", Layout::Single, |suite, guests| suite.tests(&guests[0], "isolation_rdma")),
    ("isolation_and_tiers", Layout::Single, |suite, guests| {
        suite.plain_tests(&guests[0], "tiers", "", "required", PLAIN)
    }),
];

/// Nothing before it.
const PLAIN: &str = "exec";
/// Puts the shell into a group of its own with all controllers, as a service manager does for who asks for it.
const SUBTREE: &str = "cd /sys/fs/cgroup && echo '+cpuset +cpu +memory +pids +io +rdma' > cgroup.subtree_control && \
                       mkdir -p subtree && echo $$ > subtree/cgroup.procs && cd / && exec";

/// The same with an ordinary user, to whom the group belongs, as a service manager does it (`Delegate=yes`, `User=`).
const USER: &str = "cd /sys/fs/cgroup && echo '+cpuset +cpu +memory +pids +io +rdma' > cgroup.subtree_control && \
                    mkdir -p subtree && echo $$ > subtree/cgroup.procs && chown 1000:1000 subtree && \
                    cd subtree && chown 1000:1000 cgroup.procs cgroup.subtree_control cgroup.threads && cd / && \
                    exec setpriv --reuid=1000 --regid=1000 --clear-groups --";

/// What runs the cases.
struct Suite<'a> {
    bed: &'a Bed,
    programs: Vec<(String, PathBuf)>,
}

/// The names of all cases.
pub fn names() -> Vec<&'static str> {
    CASES.iter().map(|(name, ..)| *name).collect()
}

/// Builds the programs that run in guests and runs the cases whose names contain `filter`; the output of each is kept
/// in `target/soft-roce`.
///
/// # Errors
/// A case failed, or could not be run; all have been tried by then.
pub fn run(bed: &mut Bed, filter: &str) -> Result<()> {
    let programs = build()?;
    for (_, program) in &programs {
        bed.keep(program.parent().context("a program without a folder")?);
    }
    let suite = Suite { bed, programs };
    let kept = PathBuf::from("target/soft-roce");
    fs::create_dir_all(&kept)?;
    let mut failed = Vec::new();
    for (name, layout, case) in CASES.iter().filter(|(name, ..)| name.contains(filter)) {
        let start = Instant::now();
        let outcome = suite.bed.boot(*layout).and_then(|guests| {
            let outcome = case(&suite, &guests);
            // What a failure leaves on the consoles may say more.
            outcome.map_err(|error| {
                let consoles =
                    guests.iter().map(|guest| format!("\nconsole of {}:\n{}", guest.name(), guest.console()));
                anyhow::anyhow!("{error:#}{}", consoles.collect::<String>())
            })
        });
        let took = start.elapsed().as_secs_f64();
        let file = kept.join(format!("{name}.log"));
        match outcome {
            Ok(lines) => {
                fs::write(&file, lines.join("\n"))?;
                println!("test {name} ... ok ({took:.0} s)");
            }
            Err(error) => {
                fs::write(&file, format!("{error:#}"))?;
                println!("test {name} ... FAILED ({took:.0} s)\n{error:#}\n");
                failed.push(*name);
            }
        }
    }
    println!("the guests' output is in {}", kept.display());
    ensure!(failed.is_empty(), "failed in guests: {}", failed.join(", "));
    Ok(())
}

/// The programs of tests that run in guests.
const PROGRAMS: [&str; 10] = [
    "bandwidth",
    "conformance_rdma",
    "cores",
    "groups",
    "isolation",
    "isolation_rdma",
    "mixed_links",
    "oci",
    "rdma_links",
    "tiers",
];

/// Builds the tests that run in guests: as `cargo test --workspace --all-features` does, so that what that has built is used.
fn build() -> Result<Vec<(String, PathBuf)>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = process::Command::new(cargo)
        .args(["test", "--no-run", "--message-format=json", "--workspace", "--all-features"])
        .args(PROGRAMS.iter().flat_map(|program| ["--test", program]))
        .stderr(Stdio::inherit())
        .output()
        .context("cargo can't be started")?;
    ensure!(output.status.success(), "the tests can't be built");
    let mut programs = Vec::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let Ok(message) = serde_json::from_str::<serde_json::Value>(line) else { continue };
        if let (Some(name), Some(path)) = (message["target"]["name"].as_str(), message["executable"].as_str())
        {
            programs.push((name.to_owned(), PathBuf::from(path)));
        }
    }
    Ok(programs)
}

impl Suite<'_> {
    /// Runs a program of tests, all of it, one test after the other.
    fn tests(&self, guest: &Guest, name: &str) -> Result<Vec<String>> {
        let program = self.programs.iter().find(|(of, _)| of == name).map(|(_, path)| path);
        let program: &Path = program.with_context(|| format!("the tests {name} were not built"))?;
        let command = Command::new(program.to_string_lossy())
            .args(["--ignored", "--test-threads=1", "--nocapture"])
            .env("RUST_BACKTRACE", "1");
        let exit = guest.spawn(command)?.wait(TIMEOUT)?.ok()?;
        let ran = exit.out.iter().any(|line| line.contains("test result: ok") && !line.contains(" 0 passed"));
        ensure!(ran, "no test was run:\n{}", exit.out.join("\n"));
        Ok(exit.out)
    }

    /// Runs the ordinary tests of a program whose names contain `filter`, one after the other, with what stands before a
    /// program in a shell's line, `before`. `groups` is what they know of the guest's control groups.
    fn plain_tests(
        &self,
        guest: &Guest,
        name: &str,
        filter: &str,
        groups: &str,
        before: &str,
    ) -> Result<Vec<String>> {
        let program = self.programs.iter().find(|(of, _)| of == name).map(|(_, path)| path);
        let program = program.with_context(|| format!("the tests {name} were not built"))?;
        let line = format!("{before} {} --test-threads=1 --nocapture {filter}", program.display());
        let command = Command::shell(line).env("RUST_BACKTRACE", "1").env("SHARD_GROUPS", groups);
        let exit = guest.spawn(command)?.wait(TIMEOUT)?.ok()?;
        let ran = exit.out.iter().any(|line| line.contains("test result: ok") && !line.contains(" 0 passed"));
        ensure!(ran, "no test was run:\n{}", exit.out.join("\n"));
        Ok(exit.out)
    }

    fn introduce(&self, guests: &[Guest]) -> Result<()> {
        let authority = Authority::new()?;
        guests.iter().try_for_each(|guest| authority.introduce(guest).map(drop))
    }
}

fn conformance(suite: &Suite<'_>, guests: &[Guest]) -> Result<Vec<String>> {
    suite.tests(&guests[0], "conformance_rdma")
}

fn links(suite: &Suite<'_>, guests: &[Guest]) -> Result<Vec<String>> {
    suite.tests(&guests[0], "rdma_links")
}

fn mixed(suite: &Suite<'_>, guests: &[Guest]) -> Result<Vec<String>> {
    suite.tests(&guests[0], "mixed_links")
}

fn plan(count: u32, window: u32) -> demo::Plan {
    let asker = ["--count", &count.to_string(), "--window", &window.to_string(), "--bytes", "300"];
    demo::Plan { asker: asker.map(str::to_owned).to_vec(), ..demo::Plan::default() }
}

fn crosses(suite: &Suite<'_>, guests: &[Guest], kind: Kind) -> Result<Vec<String>> {
    suite.introduce(guests)?;
    let plan = plan(2_000, 64);
    let _echo = demo::start_echo(suite.bed, &guests[1], 2, "left", kind, &plan)?;
    let exit = demo::start_asker(suite.bed, &guests[0], 2, "right", kind, &plan)?.wait(TIMEOUT)?;
    kept(exit, |found| {
        ensure!(found.ups == 1 && found.downs.is_empty(), "the link was not steady: {found:?}");
        Ok(())
    })
}

fn kept(exit: Exit, check: impl FnOnce(&crate::shard::Findings) -> Result<()>) -> Result<Vec<String>> {
    let lines = exit.out.clone();
    check(&demo::findings(exit)?)?;
    Ok(lines)
}

/// Ten cuts, each with frames under way; with RDMA one side's queue pair is forced into error in between as well.
fn cut(suite: &Suite<'_>, guests: &[Guest], kind: Kind) -> Result<Vec<String>> {
    suite.introduce(guests)?;
    let mut plan = plan(10_000, 64);
    if kind == Kind::Rdma {
        plan.asker.extend(["--break-every".to_owned(), "600".to_owned()]);
    }
    let _echo = demo::start_echo(suite.bed, &guests[1], 2, "left", kind, &plan)?;
    let mut asker = demo::start_asker(suite.bed, &guests[0], 2, "right", kind, &plan)?;
    for cut in 1..=10 {
        // Each cut waits until messages came back again after the one before, and leaves some for the last: so the link was
        // up in between, and some are always under way.
        asker.line(&format!("{} came back", cut * TELL_EVERY), TIMEOUT)?;
        guests[1].run(Command::shell("ip link set eth0 down"))?.ok()?;
        // Longer than a queue pair waits, and at times longer than a stream does.
        std::thread::sleep(Duration::from_millis(if cut % 3 == 0 { 4_500 } else { 600 }));
        guests[1].run(Command::shell("ip link set eth0 up"))?.ok()?;
    }
    kept(asker.wait(TIMEOUT)?, |found| {
        ensure!(found.messages == 10_000, "{} of 10000 came back", found.messages);
        ensure!(kind == Kind::Tcp || found.ups > 10, "the link was not broken often enough: {found:?}");
        Ok(())
    })
}

/// A peer, or its whole host, ends without a word.
fn killed(suite: &Suite<'_>, guests: &[Guest], kind: Kind, host: bool) -> Result<Vec<String>> {
    suite.introduce(guests)?;
    let plan = plan(1_000_000, 16);
    let echo = demo::start_echo(suite.bed, &guests[1], 2, "left", kind, &plan)?;
    let mut asker = demo::start_asker(suite.bed, &guests[0], 2, "right", kind, &plan)?;
    asker.line(&format!("{TELL_EVERY} came back"), TIMEOUT)?;
    let (start, bound) = (Instant::now(), if host { HOST_NOTICED } else { PEER_NOTICED });
    if host {
        guests[1].kill();
    } else {
        echo.signal(SIGKILL)?;
    }
    let why = asker.line("down:", bound * 10)?;
    let noticed = start.elapsed();
    ensure!(noticed < bound, "noticed after {noticed:?}: {why}");
    Ok(vec![format!("noticed after {noticed:?}: {why}")])
}
