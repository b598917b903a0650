//! Pools that follow demand, sessions that nobody uses and shards that are drained, with real processes.

use shard_composer::core::{LOAD_LIMIT_PERMILLE, ShardState, Tier};
use shard_composer::{Composer, Ending, ReceiveError, Session};
use shard_tests::{PATIENCE, manifest_text, ready_shard, start, wait_until};
use shardkit::manifest::Manifest;
use shardkit::prelude::Bytes;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

fn misfit() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_misfit"))
}

/// One composer at a time: tests that count processes would see each other's.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn in_state(composer: &Composer, state: ShardState) -> usize {
    composer.shards().into_iter().filter(|shard| shard.state == state).count()
}

fn compose(composer: &Composer, count: usize) -> Vec<Session> {
    (0..count).map(|_| composer.compose("echo").unwrap_or_else(|error| panic!("{error}"))).collect()
}

#[test]
fn a_pool_grows_with_demand_shrinks_without_and_says_why() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let extra = "warm = 1\nmax = 6\nscale_down_delay_ms = 50\nscale = { buffer = 1, step_down = 2 }";
    let text = manifest_text(misfit(), &["echo"], extra)
        + "[pool]\npolicy = \"keep-alive-2\"\nbin_s = 0.2\nhistory = \"history\"\n";
    let start = || {
        let manifest = Manifest::parse(&text, folder.path().join("pools.toml")).unwrap();
        Composer::builder(manifest).launcher(misfit()).quiet(true).start().unwrap()
    };
    let composer = start();
    composer.wait_warm(PATIENCE).unwrap();
    let sessions = compose(&composer, 3);
    wait_until("there is one more than are in use", || in_state(&composer, ShardState::Ready) == 4);
    let pool = composer.explain_pools().remove(0);
    assert_eq!((pool.target, pool.sessions), (4, 3), "{pool}");
    assert!(pool.why.contains("keep-alive-2 wants 3") && pool.why.contains("the buffer"), "{}", pool.why);
    assert!(pool.latest.iter().any(|deed| deed.what.contains("launched: 4 are to be ready")), "{pool}");
    let told = composer.explain(sessions[2].id()).expect("it was composed");
    assert!(told.shards[0].tier == Tier::Cold.to_string() && told.waiting_cost.is_some(), "{told}");
    drop(sessions);
    wait_until("the floor and the buffer are left", || in_state(&composer, ShardState::Ready) == 1);
    composer.shut_down();

    // What was learned is there again, and another manifest does not get it.
    assert!(folder.path().join("history").is_file());
    let again = start();
    let why = again.explain_pools().remove(0).why;
    assert!(!why.contains("has not ended yet"), "{why}");
}

#[test]
fn what_nobody_needs_is_frozen_and_the_next_session_gets_it_thawed() {
    let _alone = alone();
    let extra = "warm = 0\nmax = 1\nfrozen = 1\nscale_down_delay_ms = 20";
    let composer = start(misfit(), &manifest_text(misfit(), &["echo"], extra));
    let ask = composer.output::<Bytes, Bytes>("echo").unwrap();
    for round in 0..3 {
        let session = composer.compose("echo").unwrap_or_else(|error| panic!("{error}"));
        let tier = if round == 0 { Tier::Cold } else { Tier::Frozen };
        assert_eq!(session.tiers().of(tier), 1, "{}", session.tiers());
        session.send(&ask, &Bytes(b"awake?".to_vec())).unwrap();
        let mail = session.receive(PATIENCE).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(mail.message().payload(), b"awake?");
        drop(session);
        wait_until("it is frozen again", || in_state(&composer, ShardState::Frozen) == 1);
    }
}

#[test]
fn a_session_that_nobody_uses_ends_with_an_error_and_one_that_is_used_goes_on() {
    let _alone = alone();
    let text = manifest_text(misfit(), &["echo"], "capacity = 2");
    let text = text.replace("[composition.echo]\n", "[composition.echo]\nidle_timeout_s = 1\n");
    let composer = start(misfit(), &text);
    let ask = composer.output::<Bytes, Bytes>("echo").unwrap();
    let sessions = compose(&composer, 2);
    let [used, idle] = &sessions[..] else { panic!("two were composed") };
    wait_until("the idle one ends", || {
        used.send(&ask, &Bytes(b"x".to_vec())).unwrap();
        idle.ending().is_some()
    });
    let Some(Ending::Lost(loss)) = idle.ending() else { panic!("{:?}", idle.ending()) };
    assert!(loss.to_string().contains("idle_timeout_s"), "{loss}");
    assert!(matches!(idle.receive(Duration::ZERO), Err(ReceiveError::Over(_))));
    assert_eq!(used.ending(), None);
}

#[test]
fn a_drained_shard_ends_with_its_sessions_and_at_its_deadline_they_end_with_it() {
    let _alone = alone();
    let composer = start(misfit(), &manifest_text(misfit(), &["echo"], "capacity = 2\nmax = 2"));
    let old = ready_shard(&composer, "echo");
    let gone = |shard| !composer.shards().iter().any(|info| info.id == shard);
    let session = composer.compose("echo").unwrap();
    assert!(composer.drain(old.id, PATIENCE));
    let other = composer.compose("echo").unwrap();
    let shards = |session: &Session| {
        composer.sessions().into_iter().find(|info| info.id == session.id()).unwrap().shards
    };
    assert_eq!(shards(&session), [old.id]);
    assert_ne!(shards(&other), [old.id], "a drained shard takes none");
    drop(session);
    wait_until("the drained shard ends with its last session", || gone(old.id));
    assert_eq!(other.ending(), None);

    let [next] = shards(&other)[..] else { panic!("one component") };
    assert!(composer.drain(next, Duration::from_millis(30)));
    wait_until("its session ends at the deadline", || other.ending().is_some());
    assert!(other.ending().unwrap().to_string().contains("was drained"), "{:?}", other.ending());
    wait_until("and the shard with it", || gone(next));
    assert!(!composer.drain(next, Duration::ZERO), "it is gone");
}

#[test]
fn a_shard_that_dies_while_a_session_opens_costs_time_and_no_session() {
    let _alone = alone();
    let composer = start(misfit(), &manifest_text(misfit(), &["echo"], "max = 2"));
    let shard = ready_shard(&composer, "echo");
    let pid = rustix::process::Pid::from_raw(shard.pid as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    let asking = composer.clone();
    let asker = std::thread::spawn(move || asking.compose("echo").map(|session| session.id()));
    wait_until("the session opens on it", || !composer.sessions().is_empty());
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    asker.join().unwrap().unwrap_or_else(|error| panic!("{error}"));
}

/// As many sessions as it may hold are no more than it can do.
#[test]
fn sessions_go_to_the_shard_that_has_less_to_do_though_another_was_to_be_filled_first() {
    let _alone = alone();
    let composer = start(misfit(), &manifest_text(misfit(), &["echo"], "capacity = 4\nwarm = 2\nmax = 2"));
    composer.wait_warm(PATIENCE).unwrap();
    let of = |session: &Session| {
        composer.sessions().into_iter().find(|info| info.id == session.id()).unwrap().shards[0]
    };
    let mut sessions = compose(&composer, 5);
    let (busy, other) = (of(&sessions[0]), of(&sessions[4]));
    assert!(busy != other && sessions[..4].iter().all(|session| of(session) == busy));
    for session in sessions.drain(1..4) {
        assert!(session.end(PATIENCE));
    }
    let ask = composer.output::<Bytes, Bytes>("echo").unwrap();
    let (done, burning) = (AtomicBool::new(false), &sessions[0]);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // A failed assertion below ends it, too.
            let start = Instant::now();
            while !done.load(Ordering::Relaxed) && start.elapsed() < 3 * PATIENCE {
                burning.send(&ask, &Bytes(b"burn".to_vec())).unwrap();
                burning.receive(PATIENCE).unwrap_or_else(|error| panic!("{error}"));
            }
        });
        let load = |id| composer.shards().into_iter().find(|info| info.id == id).unwrap().load_permille;
        wait_until("it is seen that one of them works", || load(busy) > LOAD_LIMIT_PERMILLE / 2);
        // It was full a moment ago, so without its load it would be the first to be filled again.
        let next = compose(&composer, 3);
        assert!(next.iter().all(|session| of(session) == other), "{} and {}", load(busy), load(other));
        assert_eq!(
            of(&compose(&composer, 1)[0]),
            busy,
            "the other one is full, and none more is to be opened"
        );
        done.store(true, Ordering::Relaxed);
        drop(next);
    });
    let calm = || composer.shards().into_iter().all(|info| info.load_permille < LOAD_LIMIT_PERMILLE / 2);
    wait_until("it is seen that nobody works any more", calm);
}

#[test]
fn each_step_of_a_composition_is_told_with_its_time_and_its_cost() {
    let _alone = alone();
    let extra = "warm = 0\nmax = 1\nscale_down_delay_ms = 100\nmemory = \"1GiB\"";
    let prices = "prices = { core_hour = 0, gib_hour = 3600, waiting_second = 5 }";
    let text = manifest_text(misfit(), &["echo"], extra) + "[pool]\npolicy = \"reactive\"\n" + prices;
    let composer = start(misfit(), &text);
    let session = composer.compose("echo").unwrap();
    let told = composer.explain(session.id()).expect("it was composed");
    let steps: Vec<&str> = told.steps.iter().map(|step| step.what.as_str()).collect();
    let start = "start of shard 0 of echo, from tier cold";
    assert_eq!(steps, ["claim", start, "wiring", "opening"], "{told}");
    let [claim, start, wiring, opening] = &told.steps[..] else { unreachable!() };
    assert!(start.began_us >= claim.began_us && start.took_us <= claim.took_us + wiring.took_us, "{told}");
    let costs = [claim, start, wiring, opening].map(|step| step.cost.expect("there are prices"));
    // A shard that holds a gibibyte costs 1 a second, a user who waits 5.
    let [held, waits] = [start.took_us / 1e6, (claim.took_us + wiring.took_us + opening.took_us) * 5.0 / 1e6];
    assert!((costs[1] - held).abs() < 1e-9 && (told.waiting_cost.unwrap() - waits).abs() < 1e-6, "{told}");
    assert!((told.cost.unwrap() - costs.iter().sum::<f64>()).abs() < 1e-9, "{told}");
    assert!((told.cost.unwrap() - held - waits).abs() < 1e-6, "{told}");
    let id = session.id();
    assert!(session.end(PATIENCE));
    wait_until("it has ended", || composer.shards().is_empty());
    let pool = composer.explain_pools().remove(0);
    let what = |of: &str| pool.latest.iter().any(|deed| deed.what.contains(of));
    assert!(what("launched: 1 waiting") && what("asked to end: not needed for 0.1 s"), "{pool}");
    assert!(what(&format!("returned: {id}, the last session that it held, is over")), "{pool}");
    let launched = pool.latest.iter().find(|deed| deed.what.contains("from tier cold"));
    assert_eq!(launched.and_then(|deed| deed.cost), pool.starts[0].cost, "{pool}");
}
