//! Many sessions asked for from one thread, with real processes.

use shard_composer::{Asker, Composer};
use shard_tests::{PATIENCE, manifest_text, start, wait_until};
use shardkit::prelude::Bytes;
use std::collections::HashSet;
use std::path::Path;
use std::time::{Duration, Instant};

fn misfit() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_misfit"))
}

/// A composer with so many shards of so much room.
fn composer(shards: u32, capacity: u32) -> Composer {
    let extra = format!("warm = {shards}\nmax = {shards}\ncapacity = {capacity}\nwait = \"park\"");
    start(misfit(), &manifest_text(misfit(), &["echo"], &extra))
}

fn ask<T>(asker: &mut Asker<T>, timeout: Duration, tags: impl IntoIterator<Item = T>) {
    tags.into_iter().for_each(|tag| asker.ask("echo", timeout, tag).unwrap());
}

#[test]
fn what_is_asked_for_together_is_answered_each_with_its_own_tag() {
    let composer = composer(2, 8);
    let ports = composer.output::<Bytes, Bytes>("echo").unwrap();
    let mut asker = composer.asker();
    assert!(asker.next(PATIENCE).is_none(), "nothing was asked for");
    ask(&mut asker, PATIENCE, 0..16);
    assert_eq!(asker.waiting(), 16);
    let mut sessions = Vec::new();
    while let Some((tag, answer)) = asker.next(PATIENCE) {
        sessions.push((tag, answer.unwrap_or_else(|error| panic!("{error}"))));
    }
    assert_eq!(asker.waiting(), 0);
    assert_eq!(sessions.iter().map(|(tag, _)| *tag).collect::<HashSet<_>>(), (0..16).collect());
    assert_eq!(sessions.iter().map(|(_, session)| session.id()).collect::<HashSet<_>>().len(), 16);
    for (tag, session) in &sessions {
        session.send(&ports, &Bytes(vec![*tag])).unwrap();
        let mail = session.receive(PATIENCE).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(mail.message().payload(), [*tag]);
    }

    // All room is taken.
    ask(&mut asker, Duration::ZERO, [99]);
    let (tag, answer) = asker.next(PATIENCE).expect("it is refused");
    let why = answer.err().expect("nothing has room").to_string();
    assert!(tag == 99 && why.contains("no shard of echo had room"), "{tag}: {why}");
    let unknown = asker.ask("ecco", PATIENCE, 1).unwrap_err().to_string();
    assert!(unknown.contains("no composition `ecco`") && asker.waiting() == 0, "{unknown}");
}

#[test]
fn a_request_that_waits_for_room_does_not_keep_the_others_waiting() {
    let composer = composer(1, 2);
    let mut asker = composer.asker();
    ask(&mut asker, Duration::from_secs(1), ["first", "second", "late"]);
    let begin = Instant::now();
    let mut sessions: Vec<_> = (0..2).map(|_| asker.next(PATIENCE).expect("there is room for two")).collect();
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
    assert!(asker.next(Duration::ZERO).is_none(), "the third has no room");
    assert!(asker.next(Duration::from_millis(20)).is_none(), "the third has no room yet");

    // One that ends makes room for it.
    sessions.pop();
    let (tag, answer) = asker.next(PATIENCE).expect("it is answered");
    assert_eq!((tag, answer.is_ok()), ("late", true), "{:?}", answer.err());
}

#[test]
fn what_an_asker_left_behind_ends_and_its_room_comes_back() {
    let composer = composer(1, 2);
    let mut asker = composer.asker();
    ask(&mut asker, PATIENCE, [1, 2, 3, 4]);
    let held = asker.next(PATIENCE).expect("there is room");
    assert!(asker.waiting() == 3 && composer.waiting() == 2);
    drop(asker);
    // What was composed and not taken ends; what waited gets its room, and leaves it at once.
    wait_until("nobody waits", || composer.waiting() == 0);
    wait_until("one session is left", || composer.sessions().len() == 1);
    drop(held);
    wait_until("all sessions are over", || composer.sessions().is_empty());
    let room: Vec<_> = (0..2).map(|_| composer.compose_within("echo", Duration::ZERO)).collect();
    assert!(room.iter().all(Result::is_ok), "{:?}", room.into_iter().find_map(Result::err));
}

#[test]
fn what_is_open_when_the_composer_ends_is_answered() {
    let composer = composer(1, 1);
    let mut asker = composer.asker();
    ask(&mut asker, PATIENCE, [1, 2]);
    let (_, first) = asker.next(PATIENCE).expect("there is room");
    assert!(first.is_ok() && asker.waiting() == 1);
    composer.shut_down();
    let why =
        asker.next(PATIENCE).expect("it is answered").1.err().expect("nothing runs any more").to_string();
    assert!(why.contains("shut"), "{why}");
    ask(&mut asker, PATIENCE, [3]);
    assert!(asker.next(PATIENCE).is_some_and(|(_, answer)| answer.is_err()));
}
