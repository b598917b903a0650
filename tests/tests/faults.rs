//! Every fault that a shard, a manifest or a kill can bring about on one host, with real processes.

use rustix::process::Signal;
use shard_composer::{ComposeError, Composer, Ending, ReceiveError, StartError};
use shard_runtime::control::SPEC_BYTES_MAX;
use shard_tests::{
    PATIENCE, alive, descriptors, embedder, kill, manifest_text, ready_shard, start, wait_until,
};
use shardkit::SendError;
use shardkit::manifest::Manifest;
use shardkit::prelude::Bytes;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

fn misfit() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_misfit"))
}

/// One composer at a time: tests that count descriptors would see each other's.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A session over `way` answers what it is asked.
fn echoes(composer: &Composer, way: &str) {
    let ask = composer.output::<Bytes, Bytes>(way).unwrap();
    let session = composer.compose(way).unwrap_or_else(|error| panic!("{error}"));
    session.send(&ask, &Bytes(b"still there?".to_vec())).unwrap();
    let mail = session.receive(PATIENCE).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(mail.message().payload(), b"still there?");
}

#[test]
fn a_missing_program_is_named_and_nothing_starts() {
    let _alone = alone();
    let text = manifest_text(Path::new("/nowhere/to/be/found"), &["echo"], "");
    let error = Composer::builder(Manifest::parse(&text, "faults.toml").unwrap())
        .launcher(misfit())
        .start()
        .err()
        .expect("it can't start")
        .to_string();
    assert!(error.contains("`echo`") && error.contains("/nowhere/to/be/found"), "{error}");
}

#[test]
fn needs_that_the_host_cannot_meet_are_refused_before_anything_starts() {
    let _alone = alone();
    let text = manifest_text(misfit(), &["echo"], "cores = 900");
    let manifest = Manifest::parse(&text, "faults.toml").unwrap();
    let error =
        Composer::builder(manifest).launcher(misfit()).start().err().expect("it can't start").to_string();
    assert!(error.contains("faults.toml:") && error.contains("900"), "{error}");
}

#[test]
fn a_configuration_that_no_packet_holds_is_refused_before_anything_starts() {
    let _alone = alone();
    let config = format!("config = {{ text = \"{}\" }}", "x".repeat(60 << 10));
    let ports = (0..1000).map(|port| format!("port-{port} = \"{}\"\n", "t".repeat(64)));
    let at = "[component.echo.in]\n";
    let text = manifest_text(misfit(), &["echo"], &config);
    let text = text.replace(at, &(at.to_owned() + &ports.collect::<String>()));
    let manifest = Manifest::parse(&text, "faults.toml").unwrap_or_else(|error| panic!("{error}"));
    let component = &manifest.application().components[0];
    assert_eq!(component.name, "echo");
    let bytes = component.config_json.len() + component.inputs.iter().map(|i| i.ty.len()).sum::<usize>();
    // The first thing that is started is the launch helper, and there is none.
    let nowhere = Path::new("/nowhere/to/be/found");
    let started = Composer::builder(manifest).launcher(nowhere).start();
    let error = started.err().expect("it can't start");
    let StartError::Large { component, bytes: told } = &error else { panic!("{error}") };
    assert!(component == "echo" && *told > bytes && *told > SPEC_BYTES_MAX, "{error}");
    let words = ["`echo`", &told.to_string(), &SPEC_BYTES_MAX.to_string(), "name that in the configuration"];
    assert!(words.iter().all(|word| error.to_string().contains(word)), "{error}");
}

/// Runs the program in one way as a user whom limits bind. Returns what it says.
fn unprivileged(way: &str) -> String {
    let mut command = Command::new(misfit());
    let folder = tempfile::tempdir().unwrap();
    if rustix::process::getuid().is_root() {
        // The build folder may be closed to others.
        let program = folder.path().join("misfit");
        std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        std::fs::copy(misfit(), &program).unwrap();
        command = Command::new(program);
        command.uid(65_534).gid(65_534);
    }
    let output = command.arg(way).output().expect("it runs");
    let [said, errors] =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(output.status.success(), "{way}: {said}{errors}");
    said
}

#[test]
fn a_start_that_fails_half_way_leaves_no_process_no_thread_and_no_descriptor() {
    let _alone = alone();
    // The launch helper and three threads; and many more descriptors than that.
    for way in ["few-threads", "few-descriptors"] {
        let said = unprivileged(way);
        assert!(said.lines().count() >= 4, "{way}: {said}");
    }
}

#[test]
fn a_program_that_never_becomes_a_shard_is_named_and_the_rest_goes_on() {
    let _alone = alone();
    for (way, says) in [
        ("exit", "exited with code 3"),
        ("hang", "start_timeout_ms"),
        ("mute", "start_timeout_ms"),
        ("hang-up", "killed by signal 9"),
        ("version", "protocol version 3"),
        ("garbage", "did not keep to the protocol"),
        ("garbage", "no message of protocol version"),
        ("flood", "said all that there is to say"),
    ] {
        let composer = start(misfit(), &manifest_text(misfit(), &["echo", way], ""));
        ready_shard(&composer, "echo");
        let cold = composer.wait_warm(Duration::from_millis(20)).expect_err("it can't be warm");
        assert_eq!(cold.component, way);
        let error =
            composer.compose_within(way, Duration::from_millis(1500)).err().expect("no session").to_string();
        assert!(error.contains(way) && error.contains(says), "{way}: {error}");
        echoes(&composer, "echo");
    }
}

#[test]
fn a_shard_that_scribbles_over_its_ring_loses_its_link_and_nobody_else_notices() {
    let _alone = alone();
    let composer = start(misfit(), &manifest_text(misfit(), &["echo", "scribble"], ""));
    let echo = ready_shard(&composer, "echo");
    // It is killed for what it does, launched again, killed again, with growing pauses.
    let first = composer.shards().iter().find(|s| s.component == "scribble").map(|s| s.id);
    wait_until("the scribbler is killed", || {
        composer.shards().iter().all(|s| s.component != "scribble" || Some(s.id) != first)
    });
    assert!(alive(echo.pid));
    echoes(&composer, "echo");
}

#[test]
fn descriptors_that_a_shard_sends_are_not_kept() {
    let _alone = alone();
    let composer = start(misfit(), &manifest_text(misfit(), &["echo"], ""));
    ready_shard(&composer, "echo");
    echoes(&composer, "echo");
    let few = descriptors();
    drop(composer);
    let composer = start(misfit(), &manifest_text(misfit(), &["generous"], ""));
    wait_until("it is told", || {
        composer.fault("generous").is_some_and(|fault| fault.contains("4 descriptors"))
    });
    wait_until("what came is closed", || descriptors() <= few);
}

#[test]
fn a_session_keeps_its_composer_running() {
    let _alone = alone();
    let composer = start(misfit(), &manifest_text(misfit(), &["echo"], ""));
    let shard = ready_shard(&composer, "echo");
    let ask = composer.output::<Bytes, Bytes>("echo").unwrap();
    let session = composer.compose("echo").unwrap();
    drop(composer);
    session.send(&ask, &Bytes(vec![1])).unwrap();
    assert_eq!(session.receive(PATIENCE).unwrap().message().payload(), [1]);
    drop(session);
    assert!(!alive(shard.pid));
}

#[test]
fn a_full_ring_is_back_pressure_and_loses_nothing() {
    let _alone = alone();
    let composer = start(misfit(), &manifest_text(misfit(), &["slow"], ""));
    composer.wait_warm(PATIENCE).unwrap();
    let ask = composer.output::<Bytes, Bytes>("slow").unwrap();
    let session = composer.compose("slow").unwrap();
    let (mut sent, mut received, mut full) = (0u64, 0u64, 0u64);
    while received < 20_000 {
        while sent < 20_000 {
            let mut message = vec![7; 200];
            message[..8].copy_from_slice(&sent.to_le_bytes());
            match session.send(&ask, &Bytes(message)) {
                Ok(()) => sent += 1,
                Err(SendError::Full) => {
                    full += 1;
                    break;
                }
                Err(error) => panic!("{error}"),
            }
        }
        let mail = session.receive(PATIENCE).unwrap_or_else(|error| panic!("after {received}: {error}"));
        let number = mail.message().payload().first_chunk().map(|n| u64::from_le_bytes(*n));
        assert_eq!(number, Some(received), "in order, each once");
        received += 1;
    }
    assert!(full > 0, "the ring was never full: the test shows nothing");
}

#[test]
fn a_killed_shard_is_noticed_its_sessions_end_with_an_error_and_nothing_is_left() {
    let _alone = alone();
    let composer = start(misfit(), &manifest_text(misfit(), &["echo"], "capacity = 4"));
    composer.wait_warm(PATIENCE).unwrap();
    let mut before = None;
    for round in 0..20 {
        let shard = ready_shard(&composer, "echo");
        let session = composer.compose("echo").unwrap();
        if round == 2 {
            before = Some(descriptors());
        }
        kill(shard.pid, Signal::KILL);
        let took = wait_until("the session ends", || session.ending().is_some());
        assert!(matches!(session.ending(), Some(Ending::Lost(_))), "{:?}", session.ending());
        if round == 0 {
            println!("noticed after {took:?}");
        }
        assert!(matches!(session.receive(PATIENCE), Err(ReceiveError::Over(_))));
        drop(session);
        wait_until("the process is gone", || !alive(shard.pid));
    }
    ready_shard(&composer, "echo");
    echoes(&composer, "echo");
    wait_until("all descriptors are given back", || descriptors() <= before.unwrap_or(0) + 2);
}

#[test]
fn a_killed_composer_leaves_no_process_behind() {
    let _alone = alone();
    let (mut embedder, line) = embedder(Command::new(misfit()).arg("embed"), "");
    let pids: Vec<u32> =
        line.split_whitespace().map(|pid| pid.parse().unwrap()).filter(|pid| *pid != 0).collect();
    assert_eq!(pids.len(), 2, "{line}");
    embedder.kill().unwrap();
    embedder.wait().unwrap();
    wait_until("all shards are gone", || pids.iter().all(|pid| !alive(*pid)));
}

#[test]
fn a_helper_that_is_none_is_named_or_killed_in_time() {
    let _alone = alone();
    let build = |helper: &Path| {
        let manifest =
            Manifest::parse(&manifest_text(misfit(), &["echo"], "warm = 0"), "faults.toml").unwrap();
        Composer::builder(manifest).launcher(helper).start()
    };
    if std::env::var_os("SHARD_LAUNCHER").is_some() {
        // The run below: started as a helper, it starts a composer.
        let error = build(misfit()).err().expect("it can't start").to_string();
        assert!(error.contains("take_over"), "{error}");
        return;
    }
    let me = std::env::current_exe().expect("this program");
    let test = "a_helper_that_is_none_is_named_or_killed_in_time";
    let run = Command::new(me).args(["--exact", test]).env("SHARD_LAUNCHER", "1").output().expect("it runs");
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stdout));

    // One that does not even look at its socket.
    let folder = tempfile::tempdir().unwrap();
    let deaf = folder.path().join("deaf");
    std::fs::write(&deaf, "#!/bin/sh\nexec sleep 1000\n").unwrap();
    std::fs::set_permissions(&deaf, std::fs::Permissions::from_mode(0o755)).unwrap();
    let composer = build(&deaf).unwrap_or_else(|error| panic!("{error}"));
    let start = std::time::Instant::now();
    drop(composer);
    assert!(start.elapsed() < PATIENCE, "it waits for a helper that is none");
}

#[test]
fn a_killed_launch_helper_ends_the_shards_and_the_composer_says_so() {
    let _alone = alone();
    let composer = start(misfit(), &manifest_text(misfit(), &["echo"], ""));
    let shard = ready_shard(&composer, "echo");
    let status = std::fs::read_to_string(format!("/proc/{}/status", shard.pid)).unwrap();
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).expect("a parent").trim();
    kill(parent.parse().unwrap(), Signal::KILL);
    wait_until("the shard is gone", || !alive(shard.pid));
    wait_until("the composer has ended", || composer.is_finished());
}

#[test]
fn a_composer_that_ends_takes_all_its_processes_along() {
    let _alone = alone();
    let before = descriptors();
    let composer = start(misfit(), &manifest_text(misfit(), &["echo"], ""));
    let shard = ready_shard(&composer, "echo");
    composer.shut_down();
    assert!(!alive(shard.pid));
    drop(composer);
    assert_eq!(descriptors(), before);
}

#[test]
fn a_handler_that_fails_ends_its_session_with_the_reason() {
    let _alone = alone();
    let composer = start(misfit(), &manifest_text(misfit(), &["fail", "refuse", "panic"], ""));
    composer.wait_warm(PATIENCE).unwrap();

    let session = composer.compose("fail").unwrap();
    session.send(&composer.output::<Bytes, Bytes>("fail").unwrap(), &Bytes(vec![1])).unwrap();
    wait_until("the session ends", || session.ending().is_some());
    let ending = session.ending().map(|ending| ending.to_string()).unwrap_or_default();
    assert!(ending.contains("`fail`") && ending.contains("the handler failed"), "{ending}");

    let error = composer.compose("refuse").err().expect("it is refused").to_string();
    assert!(error.contains("refuse"), "{error}");

    let session = composer.compose("panic").unwrap();
    session.send(&composer.output::<Bytes, Bytes>("panic").unwrap(), &Bytes(vec![1])).unwrap();
    wait_until("the session is lost", || matches!(session.ending(), Some(Ending::Lost(_))));
    drop(session);
    ready_shard(&composer, "panic");
}

#[test]
fn a_message_that_cannot_go_is_an_error_to_its_sender() {
    let _alone = alone();
    let composer = start(misfit(), &manifest_text(misfit(), &["echo"], ""));
    composer.wait_warm(PATIENCE).unwrap();
    let ask = composer.output::<Bytes, Bytes>("echo").unwrap();
    let session = composer.compose("echo").unwrap();
    let large = Bytes(vec![0; (64 << 10) + 1]);
    assert!(matches!(session.send(&ask, &large), Err(SendError::TooLarge { bytes_max: 65_536, .. })));
    // The largest that is allowed is four times the ring, and crosses it whole.
    let largest = Bytes((0..64 << 10).map(|at| at as u8).collect());
    session.send(&ask, &largest).unwrap();
    assert_eq!(session.receive(PATIENCE).unwrap().message().payload(), largest.0);
    assert!(composer.output::<Bytes, Bytes>("nothing").is_err());
    assert!(composer.compose("nothing").is_err());
}

#[test]
fn a_stopped_shard_does_not_hold_up_the_others_and_is_replaced() {
    let _alone = alone();
    let composer = start(misfit(), &manifest_text(misfit(), &["echo", "slow"], ""));
    composer.wait_warm(PATIENCE).unwrap();
    let stopped = ready_shard(&composer, "slow");
    kill(stopped.pid, Signal::STOP);
    let asking = composer.clone();
    let asked = std::thread::spawn(move || {
        let session = asking.compose("slow")?;
        let info = asking.sessions().into_iter().find(|info| info.id == session.id()).expect("it is there");
        Ok::<_, ComposeError>(info.shards)
    });
    echoes(&composer, "echo");
    let shards = asked.join().expect("it answers").unwrap_or_else(|error| panic!("{error}"));
    assert!(!shards.contains(&stopped.id), "a stopped shard took a session");
    wait_until("it is killed", || !alive(stopped.pid));
    echoes(&composer, "slow");
}

#[test]
fn sessions_fill_one_shard_before_another_opens_and_a_full_application_says_which_component() {
    let _alone = alone();
    let composer = start(misfit(), &manifest_text(misfit(), &["echo"], "capacity = 2\nwarm = 2\nmax = 2"));
    composer.wait_warm(PATIENCE).unwrap();
    let sessions: Vec<_> = (0..2).map(|_| composer.compose("echo").unwrap()).collect();
    let mut loads: Vec<u32> = composer.shards().iter().map(|shard| shard.sessions).collect();
    loads.sort_unstable();
    assert_eq!(loads, [0, 2]);
    let more: Vec<_> = (0..2).map(|_| composer.compose("echo").unwrap()).collect();
    let error = composer.compose_within("echo", Duration::from_millis(50)).err().expect("full").to_string();
    assert!(error.contains("echo") && error.contains("capacity"), "{error}");
    drop(sessions);
    drop(more);
    wait_until("all places are free", || composer.sessions().is_empty());
}

#[test]
fn a_component_without_warm_shards_is_launched_on_demand() {
    let _alone = alone();
    let composer = start(misfit(), &manifest_text(misfit(), &["echo"], "warm = 0\nmax = 1"));
    let session = composer.compose("echo").unwrap();
    assert_eq!(session.cold_shards(), 1);
}

#[test]
fn an_idle_shard_is_small_and_has_no_descriptor_to_spare() {
    let _alone = alone();
    let composer = start(misfit(), &manifest_text(misfit(), &["echo"], ""));
    let shard = ready_shard(&composer, "echo");
    let smaps = std::fs::read_to_string(format!("/proc/{}/smaps", shard.pid)).unwrap();
    let (mut own_kib, mut shared) = (0, false);
    for line in smaps.lines() {
        if line.contains("memfd:shard-") {
            shared = true;
        } else if line
            .split_whitespace()
            .next()
            .is_some_and(|word| word.contains('-') && !word.ends_with(':'))
        {
            shared = false;
        }
        if let Some(kib) = line.strip_prefix("Rss:").filter(|_| !shared) {
            own_kib += kib.trim().trim_end_matches(" kB").parse::<u64>().unwrap();
        }
    }
    println!("an idle shard has {own_kib} KiB resident without its rings");
    // The promise is for release builds.
    assert!(cfg!(debug_assertions) || own_kib <= 4096, "{own_kib} KiB");
    let open = std::fs::read_dir(format!("/proc/{}/fd", shard.pid)).unwrap().count();
    assert!(open <= 4, "{open} descriptors: more than the standard ones and the control socket");
}
