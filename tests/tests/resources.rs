//! What a shard is given of its host, with real processes.

use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{CpuSet, sched_getaffinity};
use shard_composer::{Composer, StartError};
use shard_tests::{PATIENCE, manifest_text, ready_shard, wait_until};
use shardkit::manifest::Manifest;
use shardkit::prelude::Bytes;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};
use tempfile::NamedTempFile;

fn misfit() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_misfit"))
}

fn start_on(host: &str, manifest: &str) -> Result<Composer, StartError> {
    let file = NamedTempFile::new().unwrap();
    fs::write(file.path(), host).unwrap();
    let manifest = Manifest::parse(manifest, "resources.toml").unwrap_or_else(|error| panic!("{error}"));
    Composer::builder(manifest).launcher(misfit()).host_file(Some(file.path())).quiet(true).start()
}

fn set(processors: &[usize]) -> CpuSet {
    let mut set = CpuSet::new();
    processors.iter().for_each(|id| set.set(*id));
    set
}

/// Where the threads of a process may run, the main one first.
fn affinities(pid: u32) -> Vec<CpuSet> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let mut threads: Vec<i32> = tasks.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    threads.sort_by_key(|thread| (*thread != pid as i32, *thread));
    threads.into_iter().filter_map(|thread| sched_getaffinity(Pid::from_raw(thread)).ok()).collect()
}

#[test]
fn a_processor_of_its_own_is_one_shards_alone_and_comes_back_after_a_kill() {
    if shard_runtime::topology::allowed() != [0, 1] {
        eprintln!("skipped: it is written for processors 0 and 1");
        return;
    }
    let text = manifest_text(misfit(), &["other", "own"], "");
    let text = text.replace("args = [\"own\"]", "args = [\"own\"]\ncores = 1");
    let composer = start_on("probe = false\n[node.0]\nprocessors = '0-1'", &text).unwrap();
    let mut before = 0;
    for _ in 0..3 {
        let (other, own) = (ready_shard(&composer, "other").pid, ready_shard(&composer, "own").pid);
        assert_ne!(own, before);
        wait_until("its own thread is alone on processor 1", || {
            let own = affinities(own);
            own.first() == Some(&set(&[1])) && own.iter().skip(1).all(|thread| *thread == set(&[0]))
        });
        wait_until("the other's threads are on processor 0", || {
            affinities(other).iter().all(|thread| *thread == set(&[0]))
        });
        before = own;
        kill_process(Pid::from_raw(own as i32).unwrap(), Signal::KILL).unwrap();
        wait_until("it is gone", || composer.shards().iter().all(|shard| shard.pid != own));
    }
}

#[test]
fn shards_that_sleep_are_at_home_on_different_processors_and_one_that_works_a_lot_roams() {
    if shard_runtime::topology::allowed() != [0, 1] {
        eprintln!("skipped: it is written for processors 0 and 1");
        return;
    }
    let sleepers = ["one", "two", "three", "four", "five", "six"];
    let names = [&sleepers[..], &["own"]].concat();
    let text = manifest_text(misfit(), &names, "wait = \"park\"\ncapacity = 4\nmax = 1");
    let text = text.replace("args = [\"own\"]", "args = [\"own\"]\ncores = 1\nwarm = 0");
    let composer = start_on("probe = false\n[node.0]\nprocessors = '0-1'", &text).unwrap();
    let pids = sleepers.map(|name| ready_shard(&composer, name).pid);
    let anywhere = set(&[0, 1]);
    let at_home = || {
        let shards = pids.map(affinities);
        let on = |processor| shards.iter().filter(|threads| threads[0] == set(&[processor])).count();
        on(0) == 3
            && on(1) == 3
            && shards.iter().flat_map(|threads| &threads[1..]).all(|thread| *thread == anywhere)
    };
    wait_until("their threads are on one processor each", at_home);

    let ports = composer.output::<Bytes, Bytes>("one").unwrap();
    let session = composer.compose("one").unwrap();
    wait_until("it roams", || {
        session.send(&ports, &Bytes(b"burn".to_vec())).unwrap();
        session.receive(PATIENCE).unwrap_or_else(|error| panic!("{error}"));
        affinities(pids[0])[0] == anywhere
    });
    wait_until("it has returned", at_home);

    let session = composer.compose("own").unwrap();
    let own = ready_shard(&composer, "own").pid;
    wait_until("all their threads are where nobody has a processor for itself", || {
        pids.into_iter().flat_map(affinities).all(|thread| thread == set(&[0]))
    });
    kill_process(Pid::from_raw(own as i32).unwrap(), Signal::KILL).unwrap();
    wait_until("they have homes again", at_home);
    assert!(session.ending().is_some());
}

#[test]
fn a_launch_that_the_host_has_no_room_for_is_refused_by_name_and_the_others_go_on() {
    let text = manifest_text(misfit(), &["echo"], "memory = '40MiB'\nwarm = 1\nmax = 2");
    let composer = start_on("probe = false\n[node.0]\nprocessors = '0-1'\nmemory = '64MiB'", &text).unwrap();
    let first = composer.compose("echo").unwrap();
    let refused = composer.compose("echo").err().expect("there is no room for a second").to_string();
    assert!(refused.contains("needed 40 MiB of memory, 24 MiB is free"), "{refused}");
    assert!(first.ending().is_none());
}

/// Two compositions of two components each, every shard with so much memory.
fn two_pairs(memory: [&str; 4], extra: &str) -> String {
    let names = ["a", "b", "c", "d"];
    let mut text = manifest_text(misfit(), &names, extra);
    for (name, memory) in names.into_iter().zip(memory) {
        text = text
            .replace(&format!("args = [\"{name}\"]"), &format!("args = [\"{name}\"]\nmemory = \"{memory}\""));
    }
    text + "[composition.ab]\nentry = [\"a\", \"b\"]\n[composition.cd]\nentry = [\"c\", \"d\"]\n"
}

#[test]
fn a_composition_with_room_for_a_part_of_it_starts_nothing_and_is_named_and_starts_whole_when_there_is_room()
{
    let text = two_pairs(["40MiB"; 4], "warm = 0\nmax = 2");
    let host = "probe = false\n[node.0]\nprocessors = '0-1'\nmemory = '128MiB'";
    let composer = start_on(host, &text).unwrap();
    let first = composer.compose("ab").unwrap();
    let refused =
        composer.compose_within("cd", Duration::from_millis(300)).err().expect("one of two fits").to_string();
    assert!(refused.contains("needed 40 MiB of memory, 8 MiB is free"), "{refused}");
    assert!(refused.contains("number 2 of 2 that are to be there together"), "{refused}");
    assert_eq!(composer.shards().len(), 2, "nothing was started for it");
    let waiting = std::thread::spawn({
        let composer = composer.clone();
        move || composer.compose_within("cd", Duration::from_secs(20)).map(|session| session.tiers())
    });
    wait_until("it waits", || composer.waiting() > 0);
    assert_eq!(composer.shards().len(), 2, "nothing is held while it waits");
    first.end(Duration::from_secs(5));
    let tiers = waiting.join().unwrap().expect("the room has come back");
    assert_eq!(tiers.started(), 2);
}

#[test]
fn a_composition_that_is_larger_than_the_host_is_refused_at_once() {
    let text = two_pairs(["40MiB", "40MiB", "90MiB", "40MiB"], "warm = 0\nmax = 2");
    let host = "probe = false\n[node.0]\nprocessors = '0-1'\nmemory = '128MiB'";
    let composer = start_on(host, &text).unwrap();
    let asked = Instant::now();
    let refused =
        composer.compose_within("cd", Duration::from_secs(60)).err().expect("130 MiB of 128").to_string();
    assert!(asked.elapsed() < Duration::from_secs(30), "it did not wait for its deadline");
    assert!(
        refused.contains("does not fit on this host")
            && refused.contains("needed 40 MiB of memory, 38 MiB is free"),
        "{refused}"
    );
    assert!(composer.shards().is_empty());
    composer.compose("ab").unwrap();
}

#[test]
fn compositions_that_compete_for_the_same_room_all_get_it_in_turn() {
    let text = two_pairs(["40MiB"; 4], "warm = 0\nmax = 4");
    let host = "probe = false\n[node.0]\nprocessors = '0-1'\nmemory = '128MiB'";
    let composer = start_on(host, &text).unwrap();
    let players: Vec<_> = (0..4)
        .map(|player| {
            let composer = composer.clone();
            std::thread::spawn(move || {
                for round in 0..5 {
                    let name = ["ab", "cd"][(player + round) % 2];
                    composer
                        .compose_within(name, Duration::from_secs(60))
                        .unwrap_or_else(|error| panic!("{error}"))
                        .end(Duration::from_secs(5));
                }
            })
        })
        .collect();
    players.into_iter().for_each(|player| player.join().unwrap());
}

#[test]
fn warm_shards_that_do_not_fit_together_are_refused_before_anything_starts() {
    let text = manifest_text(misfit(), &["echo"], "gpu_memory = '6GiB'\nwarm = 2\nmax = 2");
    let host = "probe = false\n[node.0]\nprocessors = '0-1'\nmemory = '1GiB'\n\
                [gpu.a]\nmemory = '8GiB'\n[gpu.b]\nmemory = '5GiB'";
    let error = start_on(host, &text).err().expect("12 GiB of 13, but not on one GPU each").to_string();
    assert!(error.contains("`echo`") && error.contains("6 GiB of one GPU, 5 GiB is free"), "{error}");
    let error = start_on("[node.0]\nmemry = 1", &text).err().expect("it is wrong").to_string();
    assert!(error.contains(":2:1: unknown key `memry`; did you mean `memory`?"), "{error}");
}
