//! Every launch, limit, denial and kill is in the structured log, with the shard, the session and the reason: each kind
//! is driven once, with real processes, and read from the JSON lines.

use rustix::process::Signal;
use serde_json::Value;
use shard_composer::{Composer, Session};
use shard_runtime::isolation::{Measure, probe};
use shard_tests::attack::ask_on;
use shard_tests::log::Log;
use shard_tests::{kill, manifest_text, ready_shard, start, wait_until};
use shardkit::prelude::Bytes;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

const MISFIT: &str = env!("CARGO_BIN_EXE_misfit");
const INTRUDER: &str = env!("CARGO_BIN_EXE_intruder");

/// One composer at a time: they write to one log.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A composer with one component of a program, and its log.
fn begin(program: &str, way: &str, extra: &str) -> (Composer, Log) {
    let (program, log) = (Path::new(program), Log::begin());
    (start(program, &manifest_text(program, &[way], extra)), log)
}

fn text(line: &Value, field: &str) -> String {
    match &line[field] {
        Value::String(text) => text.clone(),
        Value::Null => panic!("no {field} in {line}"),
        other => other.to_string(),
    }
}

/// The line, of a shard of this component, with a reason; prints it.
fn told(log: &Log, message: &str, component: &str, reason: &str) -> Value {
    let line = log.line(message, &[("component", component), ("reason", reason)]);
    println!("{line}");
    assert!(text(&line, "shard").parse::<u32>().is_ok(), "{line}");
    line
}

/// A session is over, and the log says which, which shard's fault it was, and why.
fn session_is_told(log: &Log, session: &Session, component: &str, reason: &str) {
    wait_until("it is over", || session.ending().is_some());
    let line = told(log, "session", component, reason);
    assert_eq!(text(&line, "session"), session.id().to_string(), "{line}");
}

fn send(composer: &Composer, session: &Session, component: &str, what: &str) {
    let port = composer.output::<Bytes, Bytes>(component).unwrap();
    session.send(&port, &Bytes(what.into())).unwrap();
}

#[test]
fn a_launch_and_its_limits_are_in_the_log_with_their_reason() {
    let _alone = alone();
    let (composer, log) = begin(MISFIT, "echo", "max = 2\nmemory = \"64MiB\"\nprocesses = 20");
    let shard = ready_shard(&composer, "echo");
    let id = shard.id.to_string();
    let launched = told(&log, "shard is launched", "echo", "1 are to be ready");
    assert_eq!(text(&launched, "shard"), id);
    let limits = log.line("its limits", &[("component", "echo"), ("shard", &id)]);
    println!("{limits}");
    assert_eq!((&limits["memory_bytes"], &limits["processes"]), (&(64_u64 << 20).into(), &20.into()));
    assert_eq!(limits["pid"], shard.pid);
    assert!(limits["isolated"].as_bool().is_some() && limits["held_by"].is_string(), "{limits}");
    log.line("shard ready", &[("component", "echo"), ("shard", &id)]);
    // A limit or a measure that this host does not have is told with what would mend it.
    for line in log.all().iter().filter(|line| text(line, "message").starts_with("this host does not")) {
        println!("{line}");
        assert!(line["mend"].as_str().is_some_and(|mend| !mend.is_empty()), "{line}");
    }
    // One that its session needs says so, too.
    let session = composer.compose("echo").unwrap();
    let _second = composer.compose("echo").unwrap();
    told(&log, "shard is launched", "echo", "waiting");
    drop(session);
}

#[test]
fn each_kind_of_kill_is_in_the_log_with_its_reason_and_the_session_that_it_ended() {
    let _alone = alone();
    for (way, reason) in [
        ("hang", "start_timeout_ms"),
        ("version", "did not keep to the protocol"),
        ("garbage", "did not keep to the protocol"),
        ("flood", "did not keep to the protocol"),
        ("generous", "did not keep to the protocol"),
    ] {
        let (_composer, log) = begin(MISFIT, way, "");
        told(&log, "shard is killed", way, reason);
        told(&log, "shard was killed by signal 9", way, "signal 9");
    }

    let (composer, log) = begin(MISFIT, "scribble", "");
    let session = composer.compose("scribble").ok();
    log.line("has broken a link", &[("component", "scribble"), ("witness", "embedder")]);
    told(&log, "shard is killed", "scribble", "did not keep to the protocol");
    drop(session);

    let (composer, log) = begin(INTRUDER, "deaf", "");
    ready_shard(&composer, "deaf");
    composer.compose_within("deaf", shard_tests::PATIENCE / 4).err().expect("nobody opens it");
    told(&log, "shard is killed", "deaf", "did not answer when a session was opened");
    composer.shut_down();

    let (composer, log) = begin(MISFIT, "echo", "after = \"scrub\"");
    let session = composer.compose("echo").unwrap();
    assert_eq!(ask_on(&composer, &session, "echo", "stain"), "stain");
    drop(session);
    told(&log, "shard is killed", "echo", "could not clean up after a session");
    composer.shut_down();

    // By someone outside: it ends a session.
    let (composer, log) = begin(MISFIT, "echo", "");
    let session = composer.compose("echo").unwrap();
    kill(ready_shard(&composer, "echo").pid, Signal::KILL);
    session_is_told(&log, &session, "echo", "was killed by signal 9");
    let id = session.id().to_string();
    log.line("shard was killed by signal 9", &[("component", "echo"), ("sessions", &id)]);

    // By the composer, for what it did in a session.
    let (composer, log) = begin(MISFIT, "echo", "");
    let session = composer.compose("echo").unwrap();
    composer.drain(ready_shard(&composer, "echo").id, shard_tests::PATIENCE / 100);
    session_is_told(&log, &session, "echo", "drained");
}

#[test]
fn each_kind_of_denial_is_in_the_log_with_shard_session_and_reason() {
    let _alone = alone();
    // A session that is refused, and one that a shard ends.
    let (composer, log) = begin(MISFIT, "refuse", "");
    composer.compose_within("refuse", shard_tests::PATIENCE / 10).err().expect("it is refused");
    let line = told(&log, "shard refused the session", "refuse", "not today");
    text(&line, "session");
    let (composer, log) = begin(MISFIT, "fail", "");
    let session = composer.compose("fail").unwrap();
    send(&composer, &session, "fail", "?");
    session_is_told(&log, &session, "fail", "the handler failed");

    // What is not its own: a message, a session's end.
    let (composer, log) = begin(INTRUDER, "foreign", "");
    ready_shard(&composer, "foreign");
    let line = log.line("what the shard sent was refused", &[("component", "foreign")]);
    assert!(line["refused"].as_u64().is_some_and(|refused| refused > 0), "{line}");
    let (_composer, log) = begin(INTRUDER, "foreign-end", "");
    let line = log.line("end a session that is not its own", &[("component", "foreign-end")]);
    assert!(!text(&line, "session").is_empty() && !text(&line, "shard").is_empty());

    // A descriptor, words without end: by whom, and what.
    for (way, reason) in [("give", "descriptors"), ("pour", "descriptors")] {
        let (_composer, log) = begin(INTRUDER, way, "");
        told(&log, "process does not keep to the protocol", way, reason);
    }

    // A system call, where there are filters.
    let is_absent =
        |measure| probe().unwrap().iter().any(|probed| probed.measure == measure && probed.absent.is_some());
    if is_absent(Measure::Seccomp) {
        return println!("not tested: no filters of system calls here");
    }
    let (composer, log) = begin(INTRUDER, "attack", "");
    let session = composer.compose("attack").unwrap();
    assert_eq!(ask_on(&composer, &session, "attack", "still there?"), "still there?");
    send(&composer, &session, "attack", "trace 1");
    session_is_told(&log, &session, "attack", "a system call that no shard makes by chance");
    let line = told(&log, "shard was killed by signal 31", "attack", "a system call");
    assert_eq!(text(&line, "sessions"), session.id().to_string(), "{line}");
}
