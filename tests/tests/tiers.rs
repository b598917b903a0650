//! The tiers between a shard that is ready and one that is started from its program, with real processes.

use rustix::process::Signal;
use shard_composer::core::{ShardState, Tier};
use shard_composer::{Composer, Session};
use shard_tests::{
    PATIENCE, alive, cpu_ticks, descriptors, embedder, is_frozen, kill, manifest_text, parent, ready_shard,
    sources, start, wait_until,
};
use shardkit::prelude::Bytes;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

fn misfit() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_misfit"))
}

/// One composer at a time: tests that count descriptors would see each other's.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A generic program whose processes become `one` or `two`.
fn generic(program: &str, spares: u32) -> String {
    format!(
        "[generic.any]\nprogram = \"{}\"\nargs = [\"{program}\"]\ncomponents = [\"one\", \"two\"]\nspares = {spares}\n",
        misfit().display()
    )
}

fn ask(composer: &Composer, session: &Session, way: &str, question: &str) -> String {
    let port = composer.output::<Bytes, Bytes>(way).unwrap();
    session.send(&port, &Bytes(question.into())).unwrap();
    let mail = session.receive(PATIENCE).unwrap_or_else(|error| panic!("{error}"));
    String::from_utf8_lossy(mail.message().payload()).into_owned()
}

/// A new session of one component, and the process that serves it.
fn session_on(composer: &Composer, way: &str) -> (Session, u32) {
    let session = composer.compose(way).unwrap_or_else(|error| panic!("{error}"));
    let shard =
        composer.sessions().into_iter().find(|info| info.id == session.id()).expect("it is there").shards[0];
    let mut pid = 0;
    wait_until("its process is known", || {
        pid = composer.shards().into_iter().find(|info| info.id == shard).map_or(0, |info| info.pid);
        pid != 0
    });
    (session, pid)
}

/// The number that a process has for itself, in the pid namespace that it is in.
fn own_number(pid: u32) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it is there");
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:")).expect("it has numbers");
    numbers.split_whitespace().next_back().expect("one at least").to_owned()
}

fn tiers(composer: &Composer, component: &str) -> Vec<Tier> {
    composer.starts(component).into_iter().map(|start| start.tier).collect()
}

fn ready_pids(composer: &Composer, component: &str) -> Vec<u32> {
    let is = |info: &shard_composer::ShardInfo| {
        info.component == component && info.state == ShardState::Ready && info.pid != 0
    };
    composer.shards().into_iter().filter(is).map(|info| info.pid).collect()
}

// Generic shards.

#[test]
fn a_spare_becomes_what_is_asked_for_and_the_next_one_is_started() {
    let _alone = alone();
    let before = descriptors();
    let text = manifest_text(misfit(), &["one", "two", "echo"], "warm = 0\nmax = 2") + &generic("any", 2);
    let composer = start(misfit(), &text);
    let spares = sources(&composer);
    assert!(
        spares.len() == 2 && spares.iter().all(|spare| spare.tier == Tier::Generic && spare.name == "any")
    );
    for way in ["two", "one"] {
        let pids: Vec<u32> = sources(&composer).iter().map(|spare| spare.pid).collect();
        let (session, pid) = session_on(&composer, way);
        assert!(pids.contains(&pid), "{way} is not one of the spares");
        assert!(ask(&composer, &session, way, "made in").starts_with(way));
        assert_eq!(tiers(&composer, way), [Tier::Generic]);
        wait_until("the spare is replaced", || {
            let now = sources(&composer);
            now.len() == 2 && now.iter().all(|spare| spare.pid != pid)
        });
    }
    // What is in no generic program is started from its own.
    let (_session, _) = session_on(&composer, "echo");
    assert_eq!(tiers(&composer, "echo"), [Tier::Cold]);
    let pids: Vec<u32> = composer.shards().iter().map(|shard| shard.pid).collect();
    let pids: Vec<u32> = pids.into_iter().chain(sources(&composer).iter().map(|spare| spare.pid)).collect();
    assert_eq!(pids.len(), 5);
    drop(_session);
    drop(composer);
    assert!(pids.iter().all(|pid| !alive(*pid)), "a process is left");
    assert_eq!(descriptors(), before);
}

#[test]
fn spares_go_when_nobody_comes_and_their_components_can_still_be_had() {
    let _alone = alone();
    let extra = "warm = 0\nmax = 2\nscale_down_delay_ms = 10";
    let pool = "[pool]\nbin_s = 0.1\nprices = { core_hour = 0, gib_hour = 1, waiting_second = 0.0001 }\n";
    let text = manifest_text(misfit(), &["one", "two"], extra)
        + &generic("any", 0).replace("spares = 0", "spares = \"auto\"\nspares_max = 4")
        + pool;
    let composer = start(misfit(), &text);
    // One is started before the policy knows anything. On a slow host it goes before it has a number.
    let (mut came, mut seen) = (false, Vec::new());
    wait_until("none waits where nobody comes", || {
        let now = composer.sources();
        came |= !now.is_empty();
        seen.extend(now.iter().map(|source| source.pid).filter(|pid| *pid != 0));
        came && now.is_empty()
    });
    wait_until("it has ended", || seen.iter().all(|pid| !alive(*pid)));
    // That it was dismissed counts as no failure of its program.
    let (session, _) = session_on(&composer, "one");
    assert!(ask(&composer, &session, "one", "made in").starts_with("one"));
}

#[test]
fn spares_become_more_with_demand() {
    let _alone = alone();
    // None is held ready, whatever the policy learns that a start costs here; a spare costs next to nothing.
    let extra = "warm = 0\nmax = 2\nscale_down_delay_ms = 10\n\
        scale = { schedule = [{ from = \"00:00\", to = \"00:00\", ceiling = 0 }] }";
    let pool = "[pool]\nbin_s = 0.1\nprices = { core_hour = 0, gib_hour = 0.001, waiting_second = 1 }\n";
    let text = manifest_text(misfit(), &["one", "two"], extra)
        + &generic("any", 0).replace("spares = 0", "spares = \"auto\"\nspares_max = 4")
        + pool;
    let composer = start(misfit(), &text);
    wait_until("three wait for what comes at once", || {
        let sessions: Vec<_> = ["one", "two", "one", "two"].map(|way| session_on(&composer, way)).into();
        for (session, _) in sessions {
            assert!(session.end(PATIENCE));
        }
        std::thread::sleep(Duration::from_millis(150));
        composer.sources().len() >= 3
    });
}

#[test]
fn without_a_spare_the_components_own_program_is_started() {
    let _alone = alone();
    let text = manifest_text(misfit(), &["one", "two"], "warm = 0\nmax = 2") + &generic("any", 0);
    let composer = start(misfit(), &text);
    let (session, _) = session_on(&composer, "one");
    assert!(ask(&composer, &session, "one", "made in").starts_with("one"));
    assert_eq!(tiers(&composer, "one"), [Tier::Cold]);
}

#[test]
fn a_spare_that_dies_is_replaced_and_nobody_is_affected() {
    let _alone = alone();
    let text = manifest_text(misfit(), &["one", "two"], "warm = 0\nmax = 2") + &generic("any", 1);
    // One that is launched in vain is not given up within this test.
    let composer = start(misfit(), &text.replace("= 1000", "= 60000"));
    let (session, _) = session_on(&composer, "one");
    for signal in [Signal::KILL, Signal::SEGV] {
        let spare = sources(&composer)[0].pid;
        kill(spare, signal);
        // It may be asked for before anyone knows.
        let (other, _) = session_on(&composer, "two");
        assert_eq!(ask(&composer, &other, "two", "still there?"), "still there?");
        assert!(other.end(PATIENCE));
        wait_until("it is replaced", || sources(&composer).iter().all(|now| now.pid != spare));
        assert_eq!(ask(&composer, &session, "one", "still there?"), "still there?");
        for pid in ready_pids(&composer, "two") {
            kill(pid, Signal::KILL);
        }
        wait_until("it is gone", || ready_pids(&composer, "two").is_empty());
    }
    assert!(session.ending().is_none());
}

#[test]
fn a_generic_program_that_crashes_is_tried_now_and_then_and_the_rest_works() {
    let _alone = alone();
    let text = manifest_text(misfit(), &["one", "two"], "warm = 0\nmax = 2") + &generic("exit", 1);
    let composer = start(misfit(), &text);
    let (session, _) = session_on(&composer, "one");
    assert_eq!(tiers(&composer, "one"), [Tier::Cold]);
    let (start, mut seen) = (Instant::now(), Vec::new());
    while start.elapsed() < Duration::from_secs(1) {
        for pid in composer.sources().iter().map(|spare| spare.pid).filter(|pid| *pid != 0) {
            if !seen.contains(&pid) {
                seen.push(pid);
            }
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    assert!(seen.len() <= 5, "started {} times in a second", seen.len());
    assert_eq!(ask(&composer, &session, "one", "still there?"), "still there?");
}

#[test]
fn a_component_that_is_not_linked_into_the_generic_program_is_named() {
    let _alone = alone();
    let text =
        manifest_text(misfit(), &["one", "echo"], "warm = 0") + &generic("any", 1).replace("two", "echo");
    let composer = start(misfit(), &text);
    sources(&composer);
    // The next try may take the program of its own, and succeed. A launch that nobody waits for any more would be called
    // off before it can say anything.
    let _ = composer.compose_within("echo", PATIENCE);
    wait_until("it says so", || composer.fault("echo").is_some());
    let fault = composer.fault("echo").unwrap();
    assert!(fault.contains("`echo` is not linked") && fault.contains("`one`"), "{fault}");
}

// Zygotes.

#[test]
fn the_children_of_a_zygote_share_what_was_initialised_once() {
    let _alone = alone();
    let before = descriptors();
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let extra = format!(
        "zygote = true\nwarm = 3\nmax = 4\nconfig = {{ log = \"{}\" }}\nallow.write = [\"{}\"]",
        log.display(),
        folder.path().display()
    );
    let composer = start(misfit(), &manifest_text(misfit(), &["echo"], &extra));
    composer.wait_warm(PATIENCE).unwrap();
    let zygote = sources(&composer)[0].clone();
    assert!(zygote.tier == Tier::Zygote && zygote.name == "echo");
    let sessions: Vec<_> = (0..4).map(|_| session_on(&composer, "echo")).collect();
    assert_eq!(tiers(&composer, "echo"), [Tier::Zygote; 4]);
    assert_eq!(std::fs::read_to_string(&log).unwrap().lines().count(), 1, "initialised more than once");

    let (mut numbers, mut random) = (Vec::new(), Vec::new());
    for (session, pid) in &sessions {
        assert_ne!(*pid, zygote.pid);
        assert_eq!(parent(*pid), parent(zygote.pid), "the child of the launch helper");
        let answer = ask(&composer, session, "echo", "made in");
        let [_, made_in, shard] = answer.split(' ').collect::<Vec<_>>()[..] else { panic!("{answer}") };
        assert_eq!(made_in, own_number(zygote.pid));
        numbers.push(shard.to_owned());
        random.push(ask(&composer, session, "echo", "random"));
        let open = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
        assert!(open <= 4, "{open} descriptors: more than the standard ones and the control socket");
    }
    for mut list in [numbers, random] {
        list.sort_unstable();
        list.dedup();
        assert_eq!(list.len(), 4, "two shards have the same: {list:?}");
    }

    // One that dies is reaped, told of, and replaced, and the others go on.
    let (lost, pid) = &sessions[0];
    kill(*pid, Signal::KILL);
    wait_until("its session ends", || lost.ending().is_some());
    wait_until("it is reaped", || !Path::new(&format!("/proc/{pid}")).exists());
    assert_eq!(ask(&composer, &sessions[1].0, "echo", "still there?"), "still there?");

    let pids: Vec<u32> = sessions.iter().map(|(_, pid)| *pid).chain([zygote.pid]).collect();
    drop(sessions);
    composer.shut_down();
    drop(composer);
    assert!(pids.iter().all(|pid| !alive(*pid)), "a process is left");
    assert_eq!(descriptors(), before);
}

#[test]
fn what_a_zygote_forks_and_never_tells_of_is_reaped() {
    let _alone = alone();
    let composer = start(misfit(), &manifest_text(misfit(), &["stray"], "zygote = true\nwarm = 1"));
    let helper = parent(ready_shard(&composer, "stray").pid).unwrap();
    let zombies = || {
        let children = std::fs::read_to_string(format!("/proc/{helper}/task/{helper}/children")).unwrap();
        children.split_whitespace().filter(|child| !alive(child.parse().unwrap())).count()
    };
    assert_eq!(zombies(), 1, "there is none to reap");
    wait_until("it is reaped", || zombies() == 0);
}

#[test]
fn a_killed_zygote_leaves_its_children_running_and_launches_go_on_cold_until_there_is_another() {
    let _alone = alone();
    let composer = start(misfit(), &manifest_text(misfit(), &["echo"], "zygote = true\nwarm = 1\nmax = 8"));
    let child = ready_shard(&composer, "echo");
    let (session, _) = session_on(&composer, "echo");
    let zygote = sources(&composer)[0].pid;
    kill(zygote, Signal::KILL);
    wait_until("it is gone", || !alive(zygote));
    wait_until("it is known to be gone", || composer.sources().iter().all(|source| source.pid != zygote));
    let (other, _) = session_on(&composer, "echo");
    assert_eq!(tiers(&composer, "echo").last(), Some(&Tier::Cold));
    assert!(alive(child.pid));
    assert_eq!(ask(&composer, &session, "echo", "still there?"), "still there?");
    assert_eq!(ask(&composer, &other, "echo", "still there?"), "still there?");
    assert_ne!(sources(&composer)[0].pid, zygote);
    let (_third, _) = session_on(&composer, "echo");
    assert_eq!(tiers(&composer, "echo").last(), Some(&Tier::Zygote));
}

#[test]
fn a_zygote_with_threads_is_refused_by_name_and_its_shards_are_started_cold() {
    let _alone = alone();
    let composer = start(misfit(), &manifest_text(misfit(), &["threads"], "zygote = true"));
    let (session, _) = session_on(&composer, "threads");
    assert_eq!(ask(&composer, &session, "threads", "still there?"), "still there?");
    assert_eq!(tiers(&composer, "threads"), [Tier::Cold]);
    let fault = composer.fault("threads").expect("it says why");
    assert!(fault.contains("threads") && fault.contains("remove `zygote = true`"), "{fault}");
}

#[test]
fn a_zygote_that_does_not_answer_costs_one_start_and_no_more() {
    let _alone = alone();
    let composer = start(misfit(), &manifest_text(misfit(), &["echo"], "zygote = true\nwarm = 1\nmax = 2"));
    ready_shard(&composer, "echo");
    let zygote = sources(&composer)[0].pid;
    kill(zygote, Signal::STOP);
    let (_first, _) = session_on(&composer, "echo");
    // The second waits for `start_timeout_ms`, and then for one that is started cold.
    let (_second, _) = session_on(&composer, "echo");
    assert_eq!(tiers(&composer, "echo"), [Tier::Zygote, Tier::Cold]);
    wait_until("it is killed", || !alive(zygote));
}

#[test]
fn what_a_killed_zygote_owes_is_started_cold_at_once() {
    let _alone = alone();
    let extra = "zygote = true\nwarm = 1\nmax = 2\n";
    let text = manifest_text(misfit(), &["echo"], extra).replace("= 1000", "= 60000");
    let composer = start(misfit(), &text);
    let (_first, _) = session_on(&composer, "echo");
    let zygote = sources(&composer)[0].pid;
    kill(zygote, Signal::STOP);
    let asking = composer.clone();
    let asked = std::thread::spawn(move || asking.compose("echo").map(|_| ()));
    wait_until("it is asked", || composer.shards().len() == 2);
    std::thread::sleep(Duration::from_millis(20));
    kill(zygote, Signal::KILL);
    asked.join().expect("it answers").unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(tiers(&composer, "echo"), [Tier::Zygote, Tier::Cold]);
}

#[test]
fn a_zygote_can_give_away_only_what_it_has_forked() {
    let _alone = alone();
    let composer = start(
        misfit(),
        &manifest_text(misfit(), &["thief"], "zygote = true\nwarm = 0\nisolation = \"none\""),
    );
    let session = composer.compose("thief");
    let fault = composer.fault("thief").expect("it says why");
    assert!(fault.contains("had not forked"), "{fault}");
    let tiers = tiers(&composer, "thief");
    assert!(!tiers.is_empty() && tiers.iter().all(|tier| *tier == Tier::Cold), "{tiers:?}");
    // By hand it opens no session.
    assert!(session.is_err() && !composer.is_finished(), "the launch helper was killed");
}

#[test]
fn a_killed_launch_helper_ends_spares_zygotes_and_forked_shards_too() {
    let _alone = alone();
    let text = manifest_text(misfit(), &["one", "two"], "warm = 1") + &generic("any", 1);
    let composer = start(misfit(), &text.replacen("warm = 1", "warm = 1\nzygote = true", 1));
    composer.wait_warm(PATIENCE).unwrap();
    assert_eq!(tiers(&composer, "one"), [Tier::Zygote]);
    let pids = sources(&composer).into_iter().map(|source| source.pid);
    let pids: Vec<u32> = pids.chain(composer.shards().iter().map(|shard| shard.pid)).collect();
    assert_eq!(pids.len(), 4);
    // One that is frozen can't see that its control socket ends.
    let forked = ready_shard(&composer, "one");
    composer.freeze(forked.id);
    wait_until("it is frozen", || is_frozen(forked.pid));
    kill(parent(pids[0]).unwrap(), Signal::KILL);
    wait_until("all processes are gone", || pids.iter().all(|pid| !alive(*pid)));
    wait_until("the composer has ended", || composer.is_finished());
}

#[test]
fn a_zygote_that_never_gets_ready_is_given_up_and_its_shards_are_started_cold() {
    let _alone = alone();
    let composer = start(misfit(), &manifest_text(misfit(), &["stuck"], "zygote = true\nwarm = 0"));
    let zygote = composer.compose_within("stuck", Duration::from_millis(100)).err();
    assert!(zygote.is_some(), "a zygote that hangs gave a shard");
    let (session, _) = session_on(&composer, "stuck");
    assert_eq!(ask(&composer, &session, "stuck", "still there?"), "still there?");
    assert_eq!(tiers(&composer, "stuck"), [Tier::Cold]);
}

// Frozen shards.

#[test]
fn a_frozen_shard_uses_no_processor_answers_after_the_thaw_and_can_be_killed() {
    let _alone = alone();
    let composer = start(misfit(), &manifest_text(misfit(), &["echo"], "tick_hz = 2000.0"));
    let shard = ready_shard(&composer, "echo");
    let session = composer.compose("echo").unwrap();
    assert_eq!(ask(&composer, &session, "echo", "awake?"), "awake?");
    wait_until("it ticks", || cpu_ticks(shard.pid) > 1);
    for _ in 0..3 {
        composer.freeze(shard.id);
        wait_until("it is frozen", || is_frozen(shard.pid));
        let before = cpu_ticks(shard.pid);
        std::thread::sleep(Duration::from_millis(200));
        assert_eq!(cpu_ticks(shard.pid), before, "it works while it is frozen");
        composer.thaw(shard.id);
        assert_eq!(ask(&composer, &session, "echo", "awake?"), "awake?");
    }
    composer.freeze(shard.id);
    wait_until("it is frozen", || is_frozen(shard.pid));
    kill(shard.pid, Signal::KILL);
    wait_until("it is gone", || session.ending().is_some() && !alive(shard.pid));
    ready_shard(&composer, "echo");
}

#[test]
fn a_composer_that_ends_takes_a_frozen_shard_along() {
    let _alone = alone();
    let before = descriptors();
    let text = manifest_text(misfit(), &["echo"], "stop_timeout_ms = 100");
    let composer = start(misfit(), &text);
    let shard = ready_shard(&composer, "echo");
    composer.freeze(shard.id);
    wait_until("it is frozen", || is_frozen(shard.pid));
    composer.shut_down();
    drop(composer);
    assert!(!alive(shard.pid));
    assert_eq!(descriptors(), before);
}

#[test]
fn a_killed_composer_leaves_no_spare_no_zygote_no_forked_and_no_frozen_shard() {
    let _alone = alone();
    let text = manifest_text(misfit(), &["one", "two"], "warm = 1") + &generic("any", 2);
    let text = text.replacen("warm = 1", "warm = 1\nzygote = true", 1);
    let (mut embedder, line) = embedder(Command::new(misfit()).arg("embed-tiers"), &text);
    let pids: Vec<u32> = line.split_whitespace().map(|pid| pid.parse().unwrap()).collect();
    assert_eq!(pids.len(), 2 + 1 + 2, "{line}");
    assert!(pids.iter().all(|pid| alive(*pid)), "{line}");
    assert_eq!(pids.iter().filter(|pid| is_frozen(**pid)).count(), 1);
    embedder.kill().unwrap();
    embedder.wait().unwrap();
    wait_until("all processes are gone", || pids.iter().all(|pid| !alive(*pid)));
}

// Scrubbing.

#[test]
fn a_shard_that_fails_its_scrub_is_not_used_again_and_says_why() {
    let _alone = alone();
    let text = manifest_text(misfit(), &["echo"], "after = \"scrub\"\nwarm = 1\nmax = 1");
    let composer = start(misfit(), &text);
    let (session, clean) = session_on(&composer, "echo");
    assert!(session.end(PATIENCE));
    let (session, again) = session_on(&composer, "echo");
    assert_eq!(again, clean, "what was scrubbed is used again");
    ask(&composer, &session, "echo", "stain");
    assert!(session.end(PATIENCE), "the session ends");
    let (session, other) = session_on(&composer, "echo");
    assert_ne!(other, clean);
    assert!(!alive(clean));
    assert_eq!(composer.fault("echo").as_deref(), Some("scrub failed: a stain is left"));
    assert_eq!(ask(&composer, &session, "echo", "still there?"), "still there?");
}

#[test]
fn a_shard_is_scrubbed_only_when_its_last_session_has_ended() {
    let _alone = alone();
    let text = manifest_text(misfit(), &["echo"], "after = \"scrub\"\ncapacity = 2");
    let composer = start(misfit(), &text);
    let (first, pid) = session_on(&composer, "echo");
    let (second, _) = session_on(&composer, "echo");
    ask(&composer, &first, "echo", "stain");
    assert!(first.end(PATIENCE));
    assert!(alive(pid));
    assert_eq!(ask(&composer, &second, "echo", "still there?"), "still there?");
    assert!(second.end(PATIENCE));
    wait_until("it is killed", || !alive(pid));
}

/// In a mere chroot there are no user namespaces.
#[test]
fn a_zygote_without_user_namespaces_says_what_would_mend_it_and_sees_no_more_of_the_host() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let line = "mount --make-rprivate / && mount --rbind / \"$0\" && exec chroot \"$0\" \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", line]).arg(folder.path());
    let mut refused = Command::new("unshare");
    refused.args(["-m", "sh", "-c", line]).arg(folder.path()).args(["unshare", "-U", "echo", "possible"]);
    match refused.output() {
        Ok(tried) if tried.stdout.is_empty() && rustix::process::geteuid().is_root() => {}
        other => return println!("not tested: no such chroot can be had here: {other:?}"),
    }
    let text = manifest_text(misfit(), &["echo"], "zygote = true");
    let (mut embedder, line) = embedder(command.arg(misfit()).arg("embed-zygote"), &text);
    println!("{line}");
    let (root, fault) = line.split_once(';').unwrap_or_else(|| panic!("{line}"));
    let seen: Vec<_> = root.split(' ').filter(|name| **name == *"sys").collect();
    kill(embedder.id(), Signal::KILL);
    embedder.wait().unwrap();
    assert!(seen.is_empty(), "it sees {seen:?} of the host");
    assert!(
        fault.contains("can't fork") && fault.contains("user namespace: Operation not permitted"),
        "{fault}"
    );
    assert!(fault.contains("to mend it: "), "{fault}");
}
