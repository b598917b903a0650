//! What a shard with cores of its own may ask for besides, read back from the kernel, with real processes: real-time priority,
//! and cores without interrupts.
//!
//! Where this process may not do so the tests say it and pass. With `SHARD_GROUPS=required` in the environment, as in the
//! guests of the test bed, they fail instead. Interrupts are the host's: without that variable they are left alone.

use rustix::process::Signal;
use shard_composer::{Composer, core::Tier};
use shard_tests::{PATIENCE, embedder, kill, manifest_text, ready_shard, wait_until};
use shardkit::manifest::Manifest;
use shardkit::prelude::Bytes;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

fn intruder() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_intruder"))
}

/// Composers that give cores away, one at a time. `None`, with a reason printed, where there is only one processor.
fn alone() -> Option<MutexGuard<'static, ()>> {
    static ONE: Mutex<()> = Mutex::new(());
    if std::thread::available_parallelism().map_or(1, usize::from) < 2 {
        println!("not tested: there is one processor");
        return None;
    }
    Some(ONE.lock().unwrap_or_else(PoisonError::into_inner))
}

fn required() -> bool {
    std::env::var_os("SHARD_GROUPS").is_some_and(|groups| groups == "required")
}

/// One component with a core of its own, and these lines besides.
fn manifest(extra: &str) -> String {
    manifest_text(intruder(), &["attack"], &format!("cores = 1\n{extra}"))
        .replace("start_timeout_ms = 1000", "start_timeout_ms = 20000")
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// Policy and priority of each thread, its number first: 0 and 0 is an ordinary one, 1 is `SCHED_FIFO`.
fn policies(pid: u32) -> Vec<(u32, String, String)> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let mut all: Vec<_> = tasks
        .map(|task| {
            let stat = read(task.path().join("stat"));
            let fields: Vec<_> =
                stat.rsplit(')').next().unwrap().split_whitespace().map(str::to_owned).collect();
            let number = task.file_name().to_string_lossy().parse().unwrap();
            (number, fields[38].clone(), fields[37].clone())
        })
        .collect();
    all.sort();
    all
}

#[test]
fn a_shard_that_asks_for_real_time_priority_has_it_and_what_it_starts_has_not() {
    let Some(_alone) = alone() else { return };
    for (extra, from) in [("realtime = 10", Tier::Cold), ("realtime = 10\nzygote = true", Tier::Zygote)] {
        let composer = shard_tests::start(intruder(), &manifest(extra));
        let shard = ready_shard(&composer, "attack");
        println!("{extra:?}: {:?}", composer.starts("attack"));
        assert!(!required() || composer.starts("attack").first().is_some_and(|start| start.tier == from));
        let of_main = |pid: u32| policies(pid).into_iter().find(|(thread, ..)| *thread == pid);
        if !may_set_priorities() {
            println!("not tested: this process may not set priorities");
            assert!(!required());
            assert_eq!(of_main(shard.pid), Some((shard.pid, "0".into(), "0".into())));
            return;
        }
        wait_until("its thread has it", || of_main(shard.pid) == Some((shard.pid, "1".into(), "10".into())));
        let others = policies(shard.pid).into_iter().filter(|(thread, ..)| *thread != shard.pid);
        others.for_each(|(_, policy, priority)| assert_eq!((policy.as_str(), priority.as_str()), ("0", "0")));
        let port = composer.output::<Bytes, Bytes>("attack").unwrap();
        let session = composer.compose("attack").unwrap();
        session.send(&port, &Bytes(b"leave-children".to_vec())).unwrap();
        let mail = session.receive(PATIENCE).unwrap();
        assert!(mail.message().payload().starts_with(b"done"));
        let children = read(format!("/proc/{0}/task/{0}/children", shard.pid));
        println!("children: {children}");
        for child in children.split_whitespace().map(|pid| pid.parse().unwrap()) {
            assert_eq!(of_main(child), Some((child, "0".into(), "0".into())), "a child has inherited it");
        }
        // It may not give itself more.
        let limits = read(format!("/proc/{}/limits", shard.pid));
        let line = limits.lines().find(|line| line.starts_with("Max realtime priority")).unwrap();
        assert!(
            line.split_whitespace().skip(3).all(|limit| limit.parse::<u32>().is_ok_and(|limit| limit <= 10))
        );
    }
}

/// Whether a thread of this process can be given it.
fn may_set_priorities() -> bool {
    let tried = Command::new("sleep").arg("1000").spawn();
    let mut tried = tried.expect("`sleep` starts");
    let given = shard_runtime::realtime::give_realtime(tried.id(), 1);
    tried.kill().unwrap();
    tried.wait().unwrap();
    given.is_ok()
}

/// Where each interrupt may go, and those to come.
fn interrupts() -> BTreeMap<String, String> {
    let entries = fs::read_dir("/proc/irq").into_iter().flatten().flatten();
    let lists = entries.map(|entry| entry.path().join("smp_affinity_list")).filter(|file| file.exists());
    let files = lists.chain(["/proc/irq/default_smp_affinity".into()]);
    files.map(|file| (file.display().to_string(), read(&file))).collect()
}

fn start_with_host_file(folder: &Path) -> Composer {
    let file = folder.join("host.toml");
    fs::write(&file, "keep_interrupts_off = true").unwrap();
    let manifest = Manifest::parse(&manifest(""), "cores.toml").unwrap();
    let builder = Composer::builder(manifest).launcher(intruder()).host_file(Some(&file)).quiet(true);
    builder.start().unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn interrupts_are_kept_off_a_shards_own_cores_and_come_back_as_they_were() {
    let Some(_alone) = alone() else { return };
    if !required() {
        println!("not tested: the interrupts are this host's");
        return;
    }
    let before = interrupts();
    println!("before: {before:?}");
    let folder = tempfile::tempdir().unwrap();
    let check = |what: &str| {
        let (now, file) = (interrupts(), "/proc/irq/default_smp_affinity");
        println!("{what}: {now:?}");
        let last = shard_runtime::topology::allowed().into_iter().max();
        assert!(now[file] != before[file], "{last:?}");
        let moved = now.iter().filter(|(file, list)| before.get(*file) != Some(*list)).count();
        assert!(moved > 1, "no interrupt was moved");
    };
    let composer = start_with_host_file(folder.path());
    ready_shard(&composer, "attack");
    check("beside a shard");
    composer.shut_down();
    drop(composer);
    assert_eq!(interrupts(), before);

    // The same, but killed.
    let mut misfit = Command::new(env!("CARGO_BIN_EXE_misfit"));
    let host = folder.path().join("host.toml");
    let (mut killed, line) = embedder(misfit.arg("embed-warm").env("SHARD_HOST_FILE", &host), &manifest(""));
    assert_eq!(line.trim(), "warm");
    check("beside the shard of another");
    kill(killed.id(), Signal::KILL);
    killed.wait().unwrap();
    check("after it was killed");
    // One that does not ask for it, too.
    drop(shard_tests::start(intruder(), &manifest("")));
    assert_eq!(interrupts(), before);
}
