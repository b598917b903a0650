//! Integration tests with real processes: what they share.

pub mod attack;
pub mod log;
pub mod rdma;

use rustix::process::{Pid, Signal, kill_process};
use shard_composer::oci::{Order, Runtime, build};
use shard_composer::{Composer, ShardInfo, Source};
use shardkit::manifest::Manifest;
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a test waits for something that takes milliseconds: long enough for a crowded machine.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// A manifest's text: an application of these components, each the program `misfit` with one argument, its name
/// being the argument too, and a composition of each alone. `extra` is added to each component's table.
pub fn manifest_text(misfit: &Path, ways: &[&str], extra: &str) -> String {
    let mut text = "[application]\nname = \"faults\"\n".to_owned();
    for way in ways {
        text += &format!(
            "[component.{way}]\nprogram = \"{}\"\nargs = [\"{way}\"]\nstart_timeout_ms = 1000\n{extra}\n\
             [component.{way}.in]\n{way}-ask = {{ type = \"bytes\", reply = \"bytes\", max = \"64KiB\" }}\n\
             [composition.{way}]\nentry = [\"{way}\"]\n",
            misfit.display()
        );
    }
    text += "[embedder.out]\n";
    for way in ways {
        text += &format!("{way} = {{ to = \"{way}.{way}-ask\", ring = \"16KiB\" }}\n");
    }
    text
}

/// A folder with an image of a program, `image.tar`. `None`, with a reason printed, where no OCI runtime runs it.
///
/// # Panics
/// If it can't be made.
pub fn image_of(program: &Path) -> Option<tempfile::TempDir> {
    if let Err(error) = Runtime::find(None, None) {
        println!("not tested: {error}");
        return None;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let order = Order { program: program.to_owned(), ..Order::default() };
    build(&order, &folder.path().join("image.tar")).expect("an image");
    Some(folder)
}

/// Starts a composer for a manifest's text, with `misfit` as its launch helper.
///
/// # Panics
/// If it does not start.
pub fn start(misfit: &Path, text: &str) -> Composer {
    let manifest = Manifest::parse(text, "faults.toml").unwrap_or_else(|error| panic!("{error}"));
    Composer::builder(manifest).launcher(misfit).quiet(true).start().unwrap_or_else(|error| panic!("{error}"))
}

/// Starts a program that holds a composer, gives it a manifest's text, and hears its first line.
///
/// # Panics
/// If it does not start, or ends before it says anything.
pub fn embedder(command: &mut Command, text: &str) -> (Child, String) {
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut embedder = command.spawn().expect("the embedder starts");
    // It may read none, and have closed its end.
    let _ = embedder.stdin.take().expect("piped").write_all(text.as_bytes());
    let mut line = String::new();
    BufReader::new(embedder.stdout.take().expect("piped")).read_line(&mut line).expect("it says something");
    (embedder, line)
}

/// Sends a signal to a process.
///
/// # Panics
/// If the process is not there.
pub fn kill(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(pid as i32).expect("a process number");
    kill_process(pid, signal).expect("the process is there");
}

/// What the kernel's `status` file says of a process.
///
/// # Panics
/// If the process is not there.
pub fn status(pid: u32) -> HashMap<String, String> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process is there");
    let lines = status.lines().filter_map(|line| line.split_once(':'));
    lines.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect()
}

/// Waits until `done` holds.
///
/// # Panics
/// After [`PATIENCE`], naming `what`.
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "after {PATIENCE:?} still not: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
    start.elapsed()
}

/// Whether a process is there and not a zombie.
pub fn alive(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    status
        .rsplit(')')
        .next()
        .is_some_and(|rest| !rest.trim_start().starts_with(['Z', 'X']) && !rest.is_empty())
}

/// The shard of a component, once it is ready.
pub fn ready_shard(composer: &Composer, component: &str) -> ShardInfo {
    let find = || {
        composer.shards().into_iter().find(|s| {
            s.component == component && s.state == shard_composer::core::ShardState::Ready && s.pid != 0
        })
    };
    let mut found = None;
    wait_until("a shard is ready", || {
        found = find();
        found.is_some()
    });
    found.expect("it was just found")
}

/// The processes that shards are made from, once each has said that it can be used.
pub fn sources(composer: &Composer) -> Vec<Source> {
    let mut sources = Vec::new();
    wait_until("all sources wait", || {
        sources = composer.sources();
        !sources.is_empty() && sources.iter().all(|source| source.waiting && source.pid != 0)
    });
    sources
}

/// Whether a process is stopped, or its control group frozen.
pub fn is_frozen(pid: u32) -> bool {
    let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let stopped = read("stat").rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T'));
    let group = read("cgroup").lines().find_map(|line| Some(line.strip_prefix("0::/")?.to_owned()));
    let frozen = |root: &str| {
        let group = std::path::Path::new(root).join(group.as_deref().unwrap_or_default());
        let events = std::fs::read_to_string(group.join("cgroup.events"));
        events.is_ok_and(|events| events.lines().any(|line| line == "frozen 1"))
    };
    stopped || frozen("/sys/fs/cgroup") || frozen("/sys/fs/cgroup/unified")
}

/// The processor time that a process has had, in clock ticks.
pub fn cpu_ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
    fields.filter_map(|ticks| ticks.parse::<u64>().ok()).sum()
}

/// The process's parent.
pub fn parent(pid: u32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok())
}

/// How many threads this process has.
pub fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count)
}

/// How many descriptors this process has.
pub fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}
