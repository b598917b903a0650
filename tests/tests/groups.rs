//! Control groups hold shards to what they may use, read back from the kernel, and stop those that want more while their
//! neighbours go on, with real processes.
//!
//! Where this process can make no such groups there is nothing to read back; the tests say so and pass. With
//! `SHARD_GROUPS=required` in the environment, as in the guests of the test bed, they fail instead.

use rustix::process::Signal;
use shard_composer::Composer;
use shard_composer::core::Tier;
use shard_tests::attack::{Attack, Felt, ask};
use shard_tests::{
    alive, cpu_ticks, embedder, image_of, kill, manifest_text, ready_shard, sources, start, wait_until,
};
use shardkit::manifest::Manifest;
use shardkit::prelude::Bytes;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

fn intruder() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_intruder"))
}

/// A manifest of these components, with time enough to start on an emulated processor.
fn manifest(ways: &[&str], extra: &str) -> String {
    manifest_text(intruder(), ways, extra).replace("start_timeout_ms = 1000", "start_timeout_ms = 20000")
}

/// An intruder beside a neighbour.
fn attack(way: &str, extra: &str) -> Attack {
    Attack::begin(intruder(), &manifest(&[way, "echo"], extra))
}

/// A composer with these components.
fn composer(ways: &[&str], extra: &str) -> Composer {
    start(intruder(), &manifest(ways, extra))
}

/// Where the groups of version 2 are mounted.
fn mount() -> &'static Path {
    let unified = Path::new("/sys/fs/cgroup/unified");
    if unified.join("cgroup.controllers").exists() { unified } else { Path::new("/sys/fs/cgroup") }
}

/// The group of a process.
fn group(pid: u32) -> PathBuf {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let path = text.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    mount().join(path)
}

/// The group that a shard has for itself, once it is in it: what a zygote forked is moved there.
fn own_group(pid: u32) -> PathBuf {
    let mut found = group(pid);
    wait_until("it has a group of its own", || {
        found = group(pid);
        let strangers = processes(&found).into_iter().filter(|other| *other != pid);
        strangers.into_iter().all(|other| shard_tests::parent(other) == Some(pid))
    });
    found
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn processes(group: &Path) -> Vec<u32> {
    read(group.join("cgroup.procs")).lines().filter_map(|pid| pid.parse().ok()).collect()
}

/// One composer at a time. `None`, with a reason printed, where a shard's group has not all of these files.
fn alone(files: &[&str]) -> Option<MutexGuard<'static, ()>> {
    static ONE: Mutex<()> = Mutex::new(());
    static FILES: OnceLock<Vec<String>> = OnceLock::new();
    let alone = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let there = FILES.get_or_init(|| {
        let composer = composer(&["echo"], "");
        let group = group(ready_shard(&composer, "echo").pid);
        let own = group.parent().is_some_and(|parent| {
            parent.file_name().is_some_and(|name| name.to_string_lossy().starts_with("shards-"))
        });
        let entries = fs::read_dir(&group).into_iter().flatten().flatten();
        if own {
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
        } else {
            Vec::new()
        }
    });
    let missing: Vec<_> = files.iter().filter(|file| !there.iter().any(|there| there == *file)).collect();
    if missing.is_empty() {
        return Some(alone);
    }
    println!("not tested: the groups of shards have no {missing:?} here");
    assert!(
        std::env::var_os("SHARD_GROUPS").is_none(),
        "control groups are required, and {missing:?} is missing"
    );
    None
}

/// The folder with an image of the intruder. `None`, with a reason printed, where no OCI runtime runs it.
fn image() -> Option<&'static Path> {
    static PLACE: OnceLock<Option<tempfile::TempDir>> = OnceLock::new();
    PLACE.get_or_init(|| image_of(intruder())).as_ref().map(tempfile::TempDir::path)
}

/// A composer with a component `attack` in containers, with these lines in its table, and a native neighbour.
fn with_container(place: &Path, extra: &str) -> Composer {
    let [program, image] = [intruder().display().to_string(), place.join("image.tar").display().to_string()];
    let text = manifest(&["attack", "echo"], "").replacen(
        &format!("program = \"{program}\"\n"),
        &format!("image = \"oci:{image}\"\n{extra}\n"),
        1,
    );
    let manifest = Manifest::parse(&text, "groups.toml").unwrap_or_else(|error| panic!("{error}"));
    let builder =
        Composer::builder(manifest).launcher(intruder()).image_cache(place.join("cache")).quiet(true);
    builder.start().unwrap_or_else(|error| panic!("{error}"))
}

/// The process in a container, below the one that runs it.
fn inner(pid: u32) -> u32 {
    let children = |pid: u32| read(format!("/proc/{pid}/task/{pid}/children"));
    let first = |pid: u32| children(pid).split_whitespace().next().and_then(|child| child.parse().ok());
    std::iter::successors(Some(pid), |pid| first(*pid)).last().expect("there is one")
}

/// A group has these limits, 48 MiB, and nothing of the host's RDMA devices.
fn holds(group: &Path, processes: &str, weight: &str) {
    for (file, value) in [
        ("memory.max", "50331648"),
        ("memory.oom.group", "1"),
        ("pids.max", processes),
        ("cpu.weight", weight),
    ] {
        assert_eq!(read(group.join(file)), value, "{file}");
    }
    let swap = group.join("memory.swap.max");
    assert!(!swap.exists() || read(swap) == "0");
    for device in fs::read_dir("/sys/class/infiniband").into_iter().flatten().flatten() {
        let device = device.file_name().to_string_lossy().into_owned();
        assert_eq!(read(group.join("rdma.max")), format!("{device} hca_handle=0 hca_object=0"));
    }
}

/// The isolated partition that a group is in. `None`, with a reason printed, where the kernel refuses partitions.
fn partition(group: &Path) -> Option<PathBuf> {
    let partition = group.parent().unwrap().to_owned();
    println!("{}: {}", partition.display(), read(partition.join("cpuset.cpus.partition")));
    if !partition.to_string_lossy().ends_with("-cores") {
        println!("not tested: the kernel refuses partitions below this process's group");
        assert_ne!(std::env::var("SHARD_GROUPS").as_deref(), Ok("required"));
        return None;
    }
    assert_eq!(read(partition.join("cpuset.cpus.partition")), "isolated");
    Some(partition)
}

/// Has the attacker fork without end, of `processes = 32`: less than so often.
fn forks(composer: &Composer, most: u32) {
    let answer = ask(composer, "attack", "fork");
    println!("{answer}");
    let forked: u32 = answer.trim_start_matches("done: ").parse().unwrap_or_else(|_| panic!("{answer}"));
    assert!(forked > 0 && forked < most, "{answer}");
}

fn processes_are_told(composer: &Composer) {
    wait_until("it is told", || composer.fault("attack").is_some());
    let fault = composer.fault("attack").unwrap();
    assert!(fault.contains("number of processes") && fault.contains("32"), "{fault}");
}

/// How long the neighbour takes to answer.
fn neighbour(composer: &Composer, when: &str) {
    println!("neighbour, {when}: {:?}", Felt::now(composer));
}

#[test]
fn each_limit_is_read_back_from_the_kernel() {
    let Some(_alone) = alone(&["memory.max", "pids.max", "cpu.weight"]) else { return };
    let text = manifest(&["cold", "forked", "spare"], "memory = \"48MiB\"\nprocesses = 20\nshare = 0.25")
        .replace("args = [\"forked\"]", "args = [\"forked\"]\nzygote = true")
        + &format!(
            "[generic.any]\nprogram = \"{}\"\nargs = [\"any\"]\ncomponents = [\"spare\"]\nspares = 1\n",
            intruder().display()
        );
    let composer = start(intruder(), &text);
    sources(&composer);
    // The first was perhaps started before there was a spare.
    kill(ready_shard(&composer, "spare").pid, Signal::KILL);
    wait_until("a spare takes its place", || {
        composer.starts("spare").last().is_some_and(|start| start.tier == Tier::Generic)
    });
    let mut groups: Vec<PathBuf> = sources(&composer).iter().map(|source| group(source.pid)).collect();
    for way in ["cold", "forked", "spare"] {
        let group = own_group(ready_shard(&composer, way).pid);
        println!("{way}: {}", group.display());
        holds(&group, "20", "250");
        let weight = group.join("io.weight");
        assert!(!weight.exists() || read(weight) == "default 250");
        groups.push(group);
    }
    let starts = composer.starts("forked");
    println!("its zygote: {:?}", composer.fault("forked"));
    println!(
        "forked: {starts:?}; cold: {:?}; spare: {:?}",
        composer.starts("cold"),
        composer.starts("spare")
    );
    assert_eq!(starts.first().map(|start| start.tier.to_string()).as_deref(), Some("zygote"));
    let count = groups.len();
    groups.sort();
    groups.dedup();
    assert_eq!(groups.len(), count, "two processes share a group");
    composer.shut_down();
    drop(composer);
    assert!(groups.iter().all(|group| !group.exists()), "a group is left");
}

#[test]
fn a_shard_with_rdma_links_may_open_devices_and_another_may_not() {
    let Some(_alone) = alone(&["rdma.max"]) else { return };
    let text =
        manifest(&["echo", "plain"], "").replace("args = [\"echo\"]", "args = [\"echo\"]\nallow.rdma = true");
    let composer = start(intruder(), &text);
    let [may, may_not] =
        ["echo", "plain"].map(|way| read(group(ready_shard(&composer, way).pid).join("rdma.max")));
    println!("{may:?} {may_not:?}");
    if Path::new("/sys/class/infiniband").exists() {
        assert!(may.contains("hca_object=4096"), "{may}");
        assert!(may_not.contains("hca_object=0"), "{may_not}");
    }
}

/// A file system on a disk, that of a file in memory. None where this process can't have one.
fn disk(folder: &Path) -> Option<PathBuf> {
    let (image, at) = (folder.join("image"), folder.join("disk"));
    fs::File::create(&image).and_then(|file| file.set_len(16 << 20)).unwrap();
    fs::create_dir(&at).unwrap();
    let done = |command: &mut Command| command.status().is_ok_and(|status| status.success());
    let made = done(Command::new("/sbin/mke2fs").arg("-q").arg(&image));
    let mounted = made && done(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&at));
    mounted.then_some(at)
}

#[test]
fn how_fast_a_shard_uses_the_disks_that_it_can_reach_is_bounded_as_it_declares() {
    let Some(_alone) = alone(&["io.max"]) else { return };
    let folder = tempfile::tempdir().unwrap();
    let Some(disk) = disk(folder.path()) else {
        println!("not tested: this process can't mount a disk");
        assert_ne!(std::env::var("SHARD_GROUPS").as_deref(), Ok("required"));
        return;
    };
    let lines =
        format!("disk_read = \"5MiB/s\"\ndisk_write = \"1MiB/s\"\nallow.write = [\"{}\"]", disk.display());
    let composer = composer(&["attack"], &lines);
    let group = group(ready_shard(&composer, "attack").pid);
    let max = read(group.join("io.max"));
    println!("{max}");
    let answer = ask(&composer, "attack", &format!("write {}/file", disk.display()));
    drop(composer);
    assert!(Command::new("umount").arg(&disk).status().unwrap().success());
    let bounds = max.lines().filter(|line| line.contains("rbps=5242880 wbps=1048576"));
    assert_eq!(bounds.count(), 1, "the program is on no disk, and the other is one: {max}");
    assert!(answer.starts_with("done"), "{answer}");
}

/// The processors that a thread may run on.
fn allowed(task: &Path) -> String {
    let status = read(task.join("status"));
    status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
        .unwrap_or_default()
        .trim()
        .to_owned()
}

fn threads(pid: u32) -> Vec<PathBuf> {
    fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect()
}

#[test]
fn cores_of_a_shards_own_are_an_isolated_partition_and_come_back() {
    let Some(_alone) = alone(&["cpuset.cpus"]) else { return };
    if std::thread::available_parallelism().map_or(1, usize::from) < 2 {
        println!("not tested: there is one processor");
        return;
    }
    let before = allowed(Path::new("/proc/self"));
    for extra in ["cores = 1", "zygote = true\ncores = 1"] {
        let text = manifest(&["attack", "echo"], "")
            .replace("args = [\"attack\"]", &format!("args = [\"attack\"]\n{extra}"));
        let composer = start(intruder(), &text);
        let shard = ready_shard(&composer, "attack");
        let group = own_group(shard.pid);
        let Some(partition) = partition(&group) else { return };
        let core = read(group.join("cpuset.cpus.effective"));
        assert_eq!(core.parse::<usize>().map(|core| core.to_string()).as_deref(), Ok(&*core));
        assert!(threads(shard.pid).iter().all(|thread| allowed(thread) == core), "a thread is elsewhere");
        let others = [ready_shard(&composer, "echo").pid, std::process::id()];
        for thread in others.into_iter().flat_map(threads) {
            assert_ne!(allowed(&thread), core, "{thread:?}");
            assert!(!allowed(&thread).contains('-'), "another may run on its core");
        }
        assert_eq!(ask(&composer, "echo", "still there?"), "still there?");
        kill(shard.pid, Signal::KILL);
        wait_until("another has the core", || {
            composer.shards().iter().any(|s| s.component == "attack" && s.pid != shard.pid && s.pid != 0)
        });
        ready_shard(&composer, "attack");
        composer.shut_down();
        drop(composer);
        assert!(!partition.exists());
        assert_eq!(allowed(Path::new("/proc/self")), before, "the core has not come back");
    }
}

#[test]
fn forks_without_end_are_stopped_by_the_group_and_told() {
    let Some(_alone) = alone(&["pids.max", "pids.events"]) else { return };
    for extra in ["processes = 32", "processes = 32\nzygote = true", "processes = 32\nisolation = \"none\""] {
        let attack = attack("attack", extra);
        let composer = &attack.composer;
        let shard = ready_shard(composer, "attack");
        let group = own_group(shard.pid);
        println!("{extra:?}");
        forks(composer, 32);
        attack.felt("forks without end");
        processes_are_told(composer);
        let all = processes(&group);
        kill(shard.pid, Signal::KILL);
        wait_until("all are gone", || all.iter().all(|pid| !alive(*pid)) && !group.exists());
        let fields = [("component", "attack"), ("shard", &*shard.id.to_string()), ("limit", "32")];
        attack.log.line("as many processes as it may", &fields);
        attack.log.line("forks were refused", &fields);
        attack.log.line("its limits", &[fields[0], fields[1], ("processes", "32"), ("held_by", "pids")]);
        attack.is_over();
    }
}

#[test]
fn memory_without_end_kills_the_shard_alone_and_its_end_says_why() {
    let Some(_alone) = alone(&["memory.max", "memory.events"]) else { return };
    for extra in ["memory = \"48MiB\"", "memory = \"48MiB\"\nzygote = true"] {
        let attack = attack("attack", extra);
        let composer = &attack.composer;
        let victim = ready_shard(composer, "echo").pid;
        own_group(ready_shard(composer, "attack").pid);
        let port = composer.output::<Bytes, Bytes>("attack").unwrap();
        let session = composer.compose("attack").unwrap();
        session.send(&port, &Bytes(b"allocate".to_vec())).unwrap();
        attack.felt("allocates without end");
        wait_until("its session ends", || session.ending().is_some());
        let ending = session.ending().map(|ending| ending.to_string()).unwrap_or_default();
        println!("{ending}");
        let fault = composer.fault("attack").unwrap_or_default();
        assert!(ending.contains("memory") || fault.contains("50331648 bytes of memory"), "{ending}; {fault}");
        assert!(fault.contains("50331648 bytes of memory"), "{fault}");
        assert!(alive(victim));
        attack
            .log
            .line("used more memory than it may", &[("component", "attack"), ("max_bytes", "50331648")]);
        let session = session.id().to_string();
        attack.log.line("shard was killed by the kernel", &[("component", "attack"), ("sessions", &session)]);
        attack.is_over();
    }
}

#[test]
fn a_shard_that_spins_on_every_core_leaves_its_neighbours_their_share() {
    let Some(_alone) = alone(&["cpu.weight"]) else { return };
    let attack = attack("attack", "");
    let shard = ready_shard(&attack.composer, "attack");
    assert!(attack.ask("attack", "spin").starts_with("done"));
    attack.felt("spins on every core");
    kill(shard.pid, Signal::KILL);
    attack.log.line("its limits", &[("component", "attack"), ("held_by", "cpu")]);
    attack.is_over();
}

#[test]
fn a_process_that_a_shard_forks_early_is_in_its_group_and_ends_with_it() {
    let Some(_alone) = alone(&["cgroup.kill"]) else { return };
    let attack = attack("early", "isolation = \"none\"");
    let shard = ready_shard(&attack.composer, "early");
    let group = group(shard.pid);
    let all = processes(&group);
    assert_eq!(all.len(), 2, "{all:?}");
    // It lives on without the shard's group.
    let strays: Vec<u32> = all.into_iter().filter(|pid| *pid != shard.pid).collect();
    assert!(strays.iter().all(|pid| shard_tests::parent(*pid) != Some(shard.pid)));
    kill(shard.pid, Signal::KILL);
    attack.felt("forks early");
    wait_until("all are gone", || strays.iter().all(|pid| !alive(*pid)));
    wait_until("its group is gone", || !group.exists());
    attack.log.line("left processes behind", &[("component", "early"), ("left", "1")]);
    attack.is_over();
}

#[test]
fn children_that_a_shard_leaves_behind_are_killed_with_its_group() {
    let Some(_alone) = alone(&["cgroup.kill"]) else { return };
    let attack = attack("attack", "isolation = \"none\"");
    let shard = ready_shard(&attack.composer, "attack");
    assert!(attack.ask("attack", "leave-children").starts_with("done"));
    let group = group(shard.pid);
    let all = processes(&group);
    assert_eq!(all.len(), 4);
    kill(shard.pid, Signal::KILL);
    wait_until("all are gone", || all.iter().all(|pid| !alive(*pid)));
    wait_until("its group is gone", || !group.exists());
    let id = shard.id.to_string();
    attack.log.line("left processes behind", &[("component", "attack"), ("shard", &id), ("left", "3")]);
    attack.is_over();
}

#[test]
fn a_frozen_shards_children_stand_still_with_it() {
    let Some(_alone) = alone(&["cgroup.freeze"]) else { return };
    let composer = composer(&["attack", "echo"], "");
    let shard = ready_shard(&composer, "attack");
    assert!(ask(&composer, "attack", "leave-children").starts_with("done"));
    let group = group(shard.pid);
    composer.freeze(shard.id);
    let frozen = || read(group.join("cgroup.events")).contains("frozen 1");
    wait_until("its group is frozen", frozen);
    assert_eq!(ask(&composer, "echo", "still there?"), "still there?");
    composer.thaw(shard.id);
    wait_until("its group is thawed", || !frozen());
    assert_eq!(ask(&composer, "attack", "still there?"), "still there?");
}

#[test]
fn what_a_killed_composer_left_is_freed_by_the_next_one() {
    let Some(_alone) = alone(&["cgroup.kill"]) else { return };
    let cores =
        if std::thread::available_parallelism().map_or(1, usize::from) > 1 { "cores = 1" } else { "" };
    let text = manifest(&["attack"], &format!("isolation = \"none\"\n{cores}"));
    let (mut embedder, line) = embedder(Command::new(intruder()).arg("embed"), &text);
    let shard: u32 = line.trim().parse().unwrap();
    let (group, all) = (group(shard), processes(&group(shard)));
    assert_eq!(all.len(), 4, "{all:?}");
    embedder.kill().unwrap();
    embedder.wait().unwrap();
    wait_until("the shard is gone", || !alive(shard));
    let left: Vec<u32> = all.into_iter().filter(|pid| alive(*pid)).collect();
    assert_eq!(left.len(), 3, "without this the test shows nothing");

    let partition = group.parent().unwrap().to_owned();
    println!("left: {} {}", group.display(), read(partition.join("cpuset.cpus.partition")));
    let composer = start(intruder(), &text);
    wait_until("what it left is gone", || left.iter().all(|pid| !alive(*pid)));
    assert!(!group.exists() && !partition.exists());
    let shard = ready_shard(&composer, "attack");
    let now = self::group(shard.pid).parent().unwrap().to_owned();
    assert_eq!(now.to_string_lossy().ends_with("-cores"), partition.to_string_lossy().ends_with("-cores"));
}

#[test]
fn each_limit_of_a_container_is_read_back_from_the_kernel() {
    let Some(_alone) = alone(&["memory.max", "pids.max", "cpu.weight"]) else { return };
    let Some(place) = image() else { return };
    let composer = with_container(place, "memory = \"48MiB\"\nprocesses = 20");
    let shard = ready_shard(&composer, "attack");
    let (inner, group) = (inner(shard.pid), group(inner(shard.pid)));
    assert_ne!(inner, shard.pid, "it is no container");
    println!("{}", group.display());
    let all = processes(&group);
    assert!(all.contains(&inner) && all.contains(&shard.pid), "{all:?}");
    assert!(!all.contains(&ready_shard(&composer, "echo").pid));
    // The runtime is one more.
    holds(&group, "21", "100");
    println!("in use: {} bytes, {:?}", read(group.join("memory.current")), all);
    assert_eq!(ask(&composer, "attack", "still there?"), "still there?");
    composer.shut_down();
    drop(composer);
    assert!(!group.exists(), "the group is left");
}

#[test]
fn a_container_has_cores_of_its_own_as_a_partition() {
    let Some(_alone) = alone(&["cpuset.cpus"]) else { return };
    let Some(place) = image() else { return };
    if std::thread::available_parallelism().map_or(1, usize::from) < 2 {
        println!("not tested: there is one processor");
        return;
    }
    let composer = with_container(place, "cores = 1");
    let inner = inner(ready_shard(&composer, "attack").pid);
    let group = group(inner);
    let Some(_partition) = partition(&group) else { return };
    let core = read(group.join("cpuset.cpus.effective"));
    assert!(threads(inner).iter().all(|thread| allowed(thread) == core), "a thread is elsewhere");
    for thread in threads(ready_shard(&composer, "echo").pid) {
        assert_ne!(allowed(&thread), core, "{thread:?}");
    }
}

#[test]
fn forks_without_end_in_a_container_are_stopped_and_told() {
    let Some(_alone) = alone(&["pids.max", "pids.events"]) else { return };
    let Some(place) = image() else { return };
    let composer = with_container(place, "processes = 32");
    neighbour(&composer, "quiet");
    let shard = ready_shard(&composer, "attack");
    let group = group(inner(shard.pid));
    forks(&composer, 34);
    neighbour(&composer, "beside forks");
    processes_are_told(&composer);
    let all = processes(&group);
    kill(shard.pid, Signal::KILL);
    wait_until("all are gone", || all.iter().all(|pid| !alive(*pid)) && !group.exists());
}

#[test]
fn memory_without_end_in_a_container_kills_it_alone_and_its_end_says_why() {
    let Some(_alone) = alone(&["memory.max", "memory.events"]) else { return };
    let Some(place) = image() else { return };
    let composer = with_container(place, "memory = \"48MiB\"");
    let (victim, shard) = (ready_shard(&composer, "echo").pid, ready_shard(&composer, "attack"));
    let (group, all) = (group(inner(shard.pid)), processes(&group(inner(shard.pid))));
    let port = composer.output::<Bytes, Bytes>("attack").unwrap();
    let session = composer.compose("attack").unwrap();
    session.send(&port, &Bytes(b"allocate".to_vec())).unwrap();
    neighbour(&composer, "while it allocates");
    wait_until("its session ends", || session.ending().is_some());
    wait_until("its end is told", || composer.fault("attack").is_some());
    let fault = composer.fault("attack").unwrap();
    println!("{:?}; {fault}", session.ending().map(|ending| ending.to_string()));
    assert!(fault.contains("50331648 bytes of memory"), "{fault}");
    wait_until("all of it is gone", || all.iter().all(|pid| !alive(*pid)) && !group.exists());
    assert!(alive(victim));
    assert_ne!(ready_shard(&composer, "attack").pid, shard.pid);
}

#[test]
fn a_frozen_container_stands_still_and_goes_on() {
    let Some(_alone) = alone(&["cgroup.freeze"]) else { return };
    let Some(place) = image() else { return };
    let composer = with_container(place, "");
    let shard = ready_shard(&composer, "attack");
    assert!(ask(&composer, "attack", "spin").starts_with("done"));
    let inner = inner(shard.pid);
    let group = group(inner);
    composer.freeze(shard.id);
    let frozen = || read(group.join("cgroup.events")).contains("frozen 1");
    wait_until("its group is frozen", frozen);
    let before = cpu_ticks(inner);
    neighbour(&composer, "beside a frozen container");
    assert_eq!(cpu_ticks(inner), before, "it works while it is frozen");
    composer.thaw(shard.id);
    wait_until("its group is thawed", || !frozen());
    wait_until("it works again", || cpu_ticks(inner) > before);
}

#[test]
fn what_a_container_leaves_is_killed_with_its_group() {
    let Some(_alone) = alone(&["cgroup.kill"]) else { return };
    let Some(place) = image() else { return };
    let composer = with_container(place, "");
    let shard = ready_shard(&composer, "attack");
    let group = group(inner(shard.pid));
    // Not below the container, where its namespace would end it.
    let mut stray = Command::new("sleep").arg("1000").spawn().unwrap();
    fs::write(group.join("cgroup.procs"), stray.id().to_string()).unwrap();
    kill(shard.pid, Signal::KILL);
    assert!(!stray.wait().unwrap().success(), "it was not killed");
    wait_until("its group is gone", || !group.exists());
}

#[test]
fn what_the_doctor_tries_is_undone_and_holds_what_composers_are_held_to() {
    let Some(_alone) = alone(&["memory.max"]) else { return };
    let tree = || {
        let own = group(std::process::id());
        let base = own.ancestors().nth(1).filter(|base| base.join("cgroup.procs").exists()).unwrap_or(&own);
        let entries = [&own, base].map(|folder| fs::read_dir(folder).into_iter().flatten().flatten());
        let mut names: Vec<PathBuf> = entries.into_iter().flatten().map(|entry| entry.path()).collect();
        names.sort();
        (own.clone(), names, read(base.join("cgroup.subtree_control")))
    };
    let before = tree();
    let facts = shard_composer::resources::limits::Facts::gather();
    assert_eq!(tree(), before);
    for tried in &facts.groups {
        println!("{tried:?}");
        let may_be_absent = ["io.max", "cpuset.cpus.partition"].contains(&tried.what);
        assert!(tried.mend.is_none() || may_be_absent, "{tried:?}");
    }
}
