//! What the core promises, one test each.

use crate::application::{application, pair, single};
use crate::rig::{MS, Rig};
use shard_composer::core::{
    BACKOFF_MAX_MS, BACKOFF_MIN_MS, CLOSE_TIMEOUT_MS, CompositionId, Death, Effect, End, Event, Exit,
    KillReason, LINKS_MAX, Loss, OPEN_TIMEOUT_MS, QUARANTINE_AFTER_FAILURES, QUARANTINE_MS, Refusal,
    RequestId, SessionState, ShardState, Tier, WIRE_TRIES_MAX,
};
use shard_runtime::id::{ComponentId, SessionId};
use shardkit::application::SCALE_DOWN_DELAY_MS_DEFAULT;

#[test]
fn a_warm_session_is_opened_with_no_other_effect() {
    let mut rig = Rig::new(&pair((1, 2, 2), (1, 2, 2)));
    rig.opens = false;
    let before = rig.effects.len();
    rig.request(0);
    let effects = rig.effects[before..].to_vec();
    assert!(matches!(effects[..], [Effect::Open { .. }, Effect::Open { .. }]), "{effects:?}");
    for effect in effects {
        let Effect::Open { session, shard } = effect else { unreachable!() };
        assert!(rig.ready(RequestId(1)).is_none(), "ready before all have acknowledged");
        rig.tell(Event::Opened { session, shard });
    }
    assert_eq!(rig.cold_shards(RequestId(1)), Some(0));
}

#[test]
fn no_new_shard_is_opened_while_an_open_one_has_room() {
    let mut rig = Rig::new(&single(3, 3, 3));
    let first: Vec<_> = (0..3).map(|_| rig.compose()).collect();
    let shard = rig.shards_of(first[0]);
    assert!(first.iter().all(|&s| rig.shards_of(s) == shard));
    let second = rig.compose();
    assert_ne!(rig.shards_of(second), shard, "the first shard is full");
    rig.end(first[1]);
    let third = rig.compose();
    assert_eq!(rig.shards_of(third), shard, "the one that was full a moment ago is the fullest with room");
}

#[test]
fn an_open_shard_outside_the_known_cells_is_taken_before_an_idle_one() {
    // The hub's wires make sets that nobody formed as cells: a2 goes with b1 as well as with b2.
    let app = application()
        .component("hub", 100, 1, 1)
        .component("a", 3, 4, 4)
        .component("b", 4, 4, 4)
        .calls("a", "hub")
        .calls("b", "hub")
        .composition("all", &["hub", "a", "b"])
        .done();
    let mut rig = Rig::new(&app);
    for _ in 0..12 {
        let request = rig.request(1_000);
        assert!(rig.ready(request).is_some());
    }
    let open = |component: u16| {
        rig.core.shards().filter(|s| s.component == ComponentId(component) && s.sessions > 0).count()
    };
    assert_eq!((open(1), open(2)), (4, 3), "12 sessions fill 4 shards of 3 and 3 shards of 4");
}

#[test]
fn shards_with_room_are_wired_when_no_cell_has_room() {
    let app = application()
        .component("a", 1, 1, 1)
        .component("b", 1, 2, 2)
        .calls("a", "b")
        .composition("pair", &["a", "b"])
        .composition("b alone", &["b"])
        .done();
    let mut rig = Rig::new(&app);
    let alone = rig.request_of(1, 0);
    let taken = rig.shards_of(rig.ready(alone).unwrap());
    rig.wires = false;
    let launches = rig.launches();
    let pair = rig.request(1_000);
    let session = match rig.ready(pair) {
        Some(session) => session,
        None => {
            let wire = match rig.effects.last() {
                Some(&Effect::Wire { wire, .. }) => wire,
                other => panic!("{other:?}"),
            };
            assert_eq!(rig.core.sessions().filter(|s| s.state == SessionState::Wiring).count(), 1);
            rig.tell(Event::Wired { wire });
            rig.ready(pair).unwrap()
        }
    };
    assert!(rig.shards_of(session).iter().all(|s| !taken.contains(s)));
    assert_eq!(rig.launches(), launches, "nothing was launched: a wire was missing, not a shard");
}

#[test]
fn a_request_waits_in_order_until_its_deadline() {
    let mut rig = Rig::new(&single(1, 1, 1));
    let held = rig.compose();
    let requests: Vec<_> = [50, 10, 50].into_iter().map(|wait_ms| rig.request(wait_ms)).collect();
    assert_eq!(rig.core.waiting_count(), 3);
    let now = rig.request(0);
    assert!(matches!(rig.failed(now), Some(Refusal::NoRoom { running: 1, max: 1, .. })));
    rig.pass_ms(9);
    assert_eq!(rig.failed(requests[1]), None);
    rig.pass_ms(1);
    let reason = rig.failed(requests[1]).expect("its deadline has come").to_string();
    assert!(reason.contains("echo") && reason.contains("at most 1"), "{reason}");
    rig.end(held);
    let first = rig.ready(requests[0]).expect("the first comes first");
    assert_eq!(rig.ready(requests[2]), None);
    rig.end(first);
    assert!(rig.ready(requests[2]).is_some());
    assert_eq!(rig.core.waiting_count(), 0);
}

#[test]
fn the_slot_returns_with_the_claim() {
    let mut rig = Rig::new(&pair((1, 1, 1), (2, 1, 1)));
    rig.closes = false;
    let session = rig.compose();
    let shards = rig.shards_of(session);
    rig.end(session);
    rig.tell(Event::Closed { session, shard: shards[0] });
    assert!(rig.core.session(session).is_some(), "one shard still holds it");
    rig.tell(Event::Closed { session, shard: shards[1] });
    assert!(rig.has(Effect::SessionClosed { session }) && rig.core.session(session).is_none());
    assert!(rig.core.shards().all(|s| s.sessions == 0));
    rig.compose();
}

#[test]
fn a_place_is_free_only_after_the_shard_has_let_go() {
    let mut rig = Rig::new(&single(1, 1, 1));
    rig.closes = false;
    let session = rig.compose();
    let shard = rig.shards_of(session)[0];
    rig.end(session);
    let early = rig.request(0);
    assert!(matches!(rig.failed(early), Some(Refusal::NoRoom { .. })));
    rig.tell(Event::Closed { session, shard });
    rig.compose();
}

#[test]
fn what_is_missing_is_launched_and_the_session_is_cold() {
    let mut rig = Rig::new(&pair((1, 1, 3), (1, 0, 3)));
    rig.starts = false;
    let request = rig.request(1_000);
    let Some(&Effect::Launch { shard, component, .. }) = rig.effects.last() else {
        panic!("nothing launched")
    };
    assert_eq!(component, ComponentId(1));
    rig.pass_ms(5);
    rig.tell(Event::ShardReady { shard });
    assert_eq!(rig.cold_shards(request), Some(1));
}

#[test]
fn nothing_is_launched_for_those_whom_another_component_cannot_serve() {
    let mut rig = Rig::new(&pair((1, 1, 1), (1, 1, 50)));
    rig.compose();
    let launches = rig.launches();
    for _ in 0..20 {
        rig.request(1_000);
    }
    assert_eq!(rig.launches(), launches, "a is at its max, so more of b would help nobody");
}

#[test]
fn scale_down_never_takes_a_shard_that_holds_a_session() {
    let mut rig = Rig::new(&single(1, 1, 8));
    let requests: Vec<_> = (0..8).map(|_| rig.request(1_000)).collect();
    let sessions: Vec<_> = requests.into_iter().map(|r| rig.ready(r).unwrap()).collect();
    assert_eq!(rig.live(0).len(), 8);
    let shards: Vec<_> = sessions.iter().map(|&s| rig.shards_of(s)[0]).collect();
    for &session in &sessions[2..5] {
        rig.end(session);
        rig.pass_ms(1);
    }
    rig.pass_ms(SCALE_DOWN_DELAY_MS_DEFAULT - 4);
    assert_eq!(rig.live(0).len(), 8, "not yet");
    rig.pass_ms(1);
    assert!(rig.has(Effect::Stop { shard: shards[2] }), "the longest idle goes first");
    assert_eq!(rig.live(0).len(), 7);
    rig.pass_ms(10 * SCALE_DOWN_DELAY_MS_DEFAULT);
    assert_eq!(rig.live(0), [shards[0], shards[1], shards[5], shards[6], shards[7]]);
    for &session in sessions[..2].iter().chain(&sessions[5..]) {
        rig.end(session);
    }
    rig.pass_ms(10 * SCALE_DOWN_DELAY_MS_DEFAULT);
    assert_eq!(rig.live(0).len(), 1, "the warm one stays");
}

#[test]
fn a_shard_that_still_starts_is_stopped_before_an_idle_one() {
    let mut app = single(1, 0, 8);
    app.components[0].start_timeout_ms = 100_000;
    let mut rig = Rig::new(&app);
    let first = rig.request(1_000);
    rig.starts = false;
    rig.request(10);
    let starting = *rig.live(0).last().unwrap();
    rig.pass_ms(10);
    let idle = rig.shards_of(rig.ready(first).unwrap())[0];
    rig.end(rig.ready(first).unwrap());
    rig.pass_ms(SCALE_DOWN_DELAY_MS_DEFAULT * 3);
    let stops: Vec<_> = rig.effects.iter().filter(|e| matches!(e, Effect::Stop { .. })).collect();
    assert_eq!(stops, [&Effect::Stop { shard: starting }, &Effect::Stop { shard: idle }]);
}

#[test]
fn a_crashing_component_backs_off_and_the_rest_goes_on() {
    let app = application()
        .component("good", 1, 1, 1)
        .component("bad", 1, 3, 3)
        .composition("good", &["good"])
        .composition("bad", &["bad"])
        .done();
    let mut rig = Rig::new_without_answers(&app);
    rig.tell(Event::Start);
    let good = rig.live(0)[0];
    rig.tell(Event::ShardReady { shard: good });
    (rig.opens, rig.closes, rig.stops) = (true, true, true);
    assert_eq!(rig.live(1).len(), 3);
    for shard in rig.live(1) {
        rig.tell(Event::ShardExited { shard, how: Exit::NotStarted(2) });
    }
    let waiting = rig.request_of(1, 60_000);
    let mut backoff_ms = BACKOFF_MIN_MS;
    for _ in 1..QUARANTINE_AFTER_FAILURES {
        assert_eq!(rig.failed(waiting), None);
        assert_eq!(rig.live(1).len(), 0, "it backs off");
        rig.pass_ms(backoff_ms - 1);
        assert_eq!(rig.live(1).len(), 0, "for {backoff_ms} ms");
        rig.pass_ms(1);
        assert_eq!(rig.live(1).len(), 1, "then it is tried with one shard");
        let shard = rig.live(1)[0];
        rig.tell(Event::ShardExited { shard, how: Exit::Code(1) });
        backoff_ms = (backoff_ms * 2).min(BACKOFF_MAX_MS);
        let session = rig.compose();
        rig.end(session);
    }
    let reason = rig.failed(waiting).expect("nobody waits for a quarantined component").to_string();
    assert!(reason.contains("bad is quarantined") && reason.contains("exited with code 1"), "{reason}");
    let at_once = rig.request_of(1, 60_000);
    assert!(matches!(rig.failed(at_once), Some(Refusal::Quarantined { .. })), "{:?}", rig.failed(at_once));
    let session = rig.compose();
    rig.end(session);
    rig.starts = true;
    rig.pass_ms(QUARANTINE_MS - 1);
    assert_eq!(rig.live(1).len(), 0, "it is left alone");
    rig.pass_ms(1);
    if let Some(&shard) = rig.live(1).first() {
        rig.tell(Event::ShardReady { shard });
    }
    assert_eq!(rig.live(1).len(), 3, "once one is ready, the others follow at once");
}

#[test]
fn a_shard_that_hangs_in_start_up_is_killed_and_named() {
    let mut rig = Rig::new_without_answers(&single(1, 1, 1));
    rig.tell(Event::Start);
    let shard = rig.live(0)[0];
    rig.tell(Event::Launched { shard, pid: 7, from: Tier::Cold });
    let request = rig.request(5_000);
    rig.pass_ms(999);
    assert_eq!(rig.killed(shard), None);
    rig.pass_ms(1);
    assert_eq!(rig.killed(shard), Some(KillReason::StartTimeout));
    rig.exit(shard);
    rig.pass_ms(5_000);
    let reason = rig.failed(request).unwrap().to_string();
    assert!(reason.contains("start_timeout_ms"), "{reason}");
}

#[test]
fn a_dead_shard_ends_its_sessions_with_an_error_and_frees_the_others() {
    let mut rig = Rig::new(&pair((1, 2, 2), (2, 1, 1)));
    let sessions = [rig.compose(), rig.compose()];
    let [a, b] = sessions.map(|s| *rig.shards_of(s).iter().find(|s| rig.live(0).contains(s)).unwrap());
    let before = rig.launches();
    rig.exit(a);
    let loss = Loss::ShardLost { shard: a, component: "a".into(), how: Death::Exited(Exit::Signal(9)) };
    assert_eq!(rig.lost(sessions[0]), Some(loss));
    assert_eq!(rig.lost(sessions[1]), None);
    assert!(rig.has(Effect::SessionClosed { session: sessions[0] }));
    assert_eq!(rig.launches(), before + 1, "it is replaced");
    assert!(!rig.live(0).contains(&a) && rig.live(0).contains(&b));
    rig.compose();
}

#[test]
fn a_shard_that_dies_or_refuses_while_a_session_opens_fails_the_request_once() {
    for dies in [true, false] {
        let mut rig = Rig::new(&pair((1, 1, 1), (1, 1, 1)));
        rig.opens = false;
        let request = rig.request(0);
        let session = rig.core.sessions().next().unwrap().id;
        let [first, second] = rig.shards_of(session)[..] else { panic!() };
        rig.tell(Event::Opened { session, shard: first });
        match dies {
            true => rig.exit(second),
            false => rig.tell(Event::OpenRefused { session, shard: second }),
        }
        match rig.failed(request).unwrap() {
            Refusal::Lost(Loss::ShardLost { shard, .. }) if dies => assert_eq!(shard, second),
            Refusal::Refused { shard, .. } if !dies => assert_eq!(shard, second),
            other => panic!("{other:?}"),
        }
        assert!(rig.has(Effect::Close { session, shard: first }));
        assert!(!rig.has(Effect::Close { session, shard: second }));
        assert!(rig.has(Effect::SessionClosed { session }));
        rig.tell(Event::Opened { session, shard: second });
        rig.opens = true;
        rig.compose();
    }
}

#[test]
fn a_shard_that_does_not_answer_is_killed() {
    let mut rig = Rig::new(&single(2, 1, 1));
    rig.closes = false;
    let ended = rig.compose();
    let other = rig.compose();
    let shard = rig.shards_of(ended)[0];
    rig.end(ended);
    rig.pass_ms(CLOSE_TIMEOUT_MS);
    assert_eq!(rig.killed(shard), Some(KillReason::CloseTimeout));
    assert!(rig.lost(ended).is_none() && rig.lost(other).is_some());
    rig.opens = false;
    let request = rig.request(0);
    let shard = rig.live(0)[0];
    rig.pass_ms(OPEN_TIMEOUT_MS);
    assert_eq!(rig.killed(shard), Some(KillReason::OpenTimeout));
    assert!(matches!(rig.failed(request), Some(Refusal::Lost(_))));
}

#[test]
fn a_generation_is_never_reused() {
    let mut rig = Rig::new(&single(1, 1, 1));
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..1_000 {
        let session = rig.compose();
        assert!(session.generation() > 0 && seen.insert(session), "{session:?} came twice");
        rig.end(session);
    }
    let session = rig.compose();
    for old in seen {
        rig.end(old);
        rig.tell(Event::Closed { session: old, shard: rig.live(0)[0] });
    }
    assert_eq!(rig.core.session(session).unwrap().state, SessionState::Ready);
    rig.end(SessionId::NONE);
    rig.end(SessionId::from_bits(u64::MAX));
}

#[test]
fn a_shard_takes_sessions_only_once_the_embedder_is_wired_to_it() {
    let app = application()
        .component("a", 1, 1, 1)
        .component("b", 1, 1, 1)
        .embedder()
        .calls("embedder", "a")
        .calls("a", "b")
        .composition("pair", &["a", "b"])
        .done();
    let mut rig = Rig::new(&app);
    let session = rig.compose();
    let [a, b] = [rig.live(0)[0], rig.live(1)[0]];
    let ends = |shard| rig.core.routes(session, shard).map(|r| (r.component, r.end)).collect::<Vec<_>>();
    assert_eq!(ends(a), [(ComponentId(1), End::Shard(b)), (ComponentId(2), End::Embedder)]);
    assert_eq!(ends(b), [(ComponentId(0), End::Shard(a))]);
    let own: Vec<_> = rig.core.embedder_routes(session).map(|r| r.end).collect();
    assert_eq!(own, [End::Shard(a)]);

    rig.wires = false;
    rig.exit(a);
    let replaced = rig.live(0)[0];
    assert_eq!(rig.core.shard(replaced).unwrap().state, ShardState::Launching);
    let wire = rig.effects.iter().rev().find_map(|e| match *e {
        Effect::Wire { wire, caller, callee } => {
            assert_eq!((caller.end, callee.end), (End::Embedder, End::Shard(replaced)));
            Some(wire)
        }
        _ => None,
    });
    rig.tell(Event::WireFailed { wire: wire.unwrap() });
    assert_eq!(rig.killed(replaced), Some(KillReason::NoEmbedder));
}

#[test]
fn a_wire_that_fails_is_tried_again_and_then_told() {
    let mut rig = Rig::new(&pair((1, 1, 1), (1, 1, 1)));
    let b = rig.live(1)[0];
    rig.wires = false;
    rig.exit(b);
    let request = rig.request(1_000);
    for tries in 0..WIRE_TRIES_MAX {
        assert_eq!(rig.failed(request), None, "after {tries} tries");
        let Some(&Effect::Wire { wire, .. }) = rig.effects.iter().rfind(|e| matches!(e, Effect::Wire { .. }))
        else {
            panic!("no wire")
        };
        rig.tell(Event::WireFailed { wire });
    }
    assert!(matches!(rig.failed(request), Some(Refusal::WiringFailed { .. })));
}

#[test]
fn a_shard_with_all_its_links_taken_lets_go_of_one_that_no_session_uses() {
    let many = LINKS_MAX as u32 + 6;
    let mut rig = Rig::new(&pair((many, 1, 1), (1, many, many)));
    let wires = |rig: &Rig| rig.core.wire_count();
    assert_eq!(wires(&rig), LINKS_MAX);
    let sessions: Vec<_> = (0..LINKS_MAX).map(|_| rig.compose()).collect();
    let refused = rig.request(0);
    assert!(matches!(rig.failed(refused), Some(Refusal::NotWired { .. })), "every link is in use");
    let waits = rig.request(1_000);
    assert_eq!(rig.ready(waits), None);
    let taken = rig.shards_of(sessions[0]);
    let busy = rig.request(1_000);
    rig.end(sessions[0]);
    assert!(rig.shards_of(rig.ready(waits).unwrap()).iter().all(|s| taken.contains(s)));
    assert_eq!(rig.ready(busy), None);
    // The partner of a session that ended dies: its link is free for another.
    let gone = *rig.shards_of(sessions[1]).iter().find(|s| rig.live(1).contains(s)).unwrap();
    rig.starts = false;
    rig.exit(gone);
    assert!(rig.ready(busy).is_some());
    assert_eq!(wires(&rig), LINKS_MAX);
}

#[test]
fn shut_down_ends_everything_and_finishes_once() {
    let mut rig = Rig::new(&pair((1, 2, 2), (4, 1, 1)));
    (rig.closes, rig.stops) = (false, false);
    let (ready, _) = (rig.compose(), rig.compose());
    let waiting = rig.request(1_000);
    let shards = rig.shards_of(ready);
    rig.tell(Event::ShutDown);
    assert_eq!(rig.lost(ready), Some(Loss::ShuttingDown));
    assert_eq!(rig.failed(waiting), Some(Refusal::ShuttingDown));
    let late = rig.request(1_000);
    assert_eq!(rig.failed(late), Some(Refusal::ShuttingDown));
    assert!(!rig.has(Effect::Stop { shard: shards[0] }), "a shard that holds a session is not stopped");
    (rig.closes, rig.stops) = (true, true);
    for shard in shards {
        rig.tell(Event::Closed { session: ready, shard });
    }
    rig.pass_ms(CLOSE_TIMEOUT_MS + 1_000);
    assert_eq!(rig.effects.iter().filter(|e| **e == Effect::Finished).count(), 1);
    rig.core.check_empty().unwrap();
    assert_eq!(rig.core.next_deadline(), None);
}

#[test]
fn a_request_for_nothing_that_exists_is_refused() {
    let mut rig = Rig::new(&single(1, 1, 1));
    let request = RequestId(99);
    let composition = CompositionId(7);
    rig.tell(Event::SessionRequested { request, composition, deadline_ns: rig.now_ns + MS });
    assert_eq!(rig.failed(request), Some(Refusal::UnknownComposition(7)));
}
