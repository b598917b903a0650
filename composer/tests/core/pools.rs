//! Pools: targets, frozen shards, what becomes of a shard after its session, draining, and what was done and why.

use crate::application::{application, pair, single};
use crate::rig::{MS, Rig};
use shard_composer::core::{Deed, Effect, Event, Loss, RequestId, ShardState, Tier, Why};
use shard_runtime::id::{ComponentId, ShardId};
use shardkit::application::{After, Application};

const ECHO: ComponentId = ComponentId(0);

fn target(rig: &mut Rig, ready: u32, frozen: u32) {
    rig.tell(Event::Target { component: ECHO, ready, frozen });
}

fn in_state(rig: &Rig, state: ShardState) -> Vec<ShardId> {
    rig.core.shards().filter(|s| s.state == state).map(|s| s.id).collect()
}

#[test]
fn a_target_is_kept_between_floor_and_ceiling() {
    let mut rig = Rig::new(&single(1, 2, 5));
    for (ready, expected) in [(4, 4), (100, 5), (0, 2), (3, 3)] {
        target(&mut rig, ready, 0);
        rig.pass_ms(11_000);
        assert_eq!(in_state(&rig, ShardState::Ready).len(), expected, "target {ready}");
    }
}

/// One component whose shards that nobody needs are frozen.
fn freezing(warm: u32, max: u32, frozen: u32) -> Application {
    let mut app = pair((1, warm, max), (1, warm, max));
    app.components.iter_mut().for_each(|c| c.shards.frozen = frozen);
    app
}

#[test]
fn what_nobody_needs_is_frozen_before_it_ends_and_is_thawed_before_anything_is_launched() {
    let mut rig = Rig::new(&freezing(1, 4, 2));
    let sessions: Vec<_> = (0..4).map(|_| rig.request(1_000)).collect::<Vec<_>>();
    let sessions: Vec<_> = sessions.into_iter().map(|r| rig.ready(r).expect("there is room")).collect();
    sessions.into_iter().for_each(|session| rig.end(session));
    rig.pass_ms(10_001);
    assert_eq!(in_state(&rig, ShardState::Ready).len(), 2);
    assert_eq!(in_state(&rig, ShardState::Frozen).len(), 4, "two of each");
    let launched = rig.launches();
    // One from the ready pair, one from a frozen one, at once.
    for tier in [Tier::Ready, Tier::Frozen] {
        let request = rig.request(0);
        let tiers = rig.tiers(request).unwrap_or_else(|| panic!("{:?}", rig.failed(request)));
        assert_eq!((tiers.of(tier), tiers.started()), (2, 0), "{tiers}");
    }
    assert_eq!(rig.launches(), launched);
    // Its wires were kept.
    assert_eq!(in_state(&rig, ShardState::Frozen).len(), 2);
}

#[test]
fn a_frozen_shard_is_thawed_before_it_is_asked_to_end() {
    let mut rig = Rig::new(&freezing(0, 1, 1));
    let request = rig.request(1_000);
    let session = rig.ready(request).unwrap();
    rig.end(session);
    rig.pass_ms(10_001);
    let frozen = in_state(&rig, ShardState::Frozen);
    assert_eq!(frozen.len(), 2);
    rig.tell(Event::ShutDown);
    for shard in frozen {
        let at = |effect: &Effect| rig.effects.iter().rposition(|e| e == effect).expect("it was done");
        assert!(at(&Effect::Thaw { shard }) < at(&Effect::Stop { shard }));
    }
    assert!(rig.has(Effect::Finished));
}

#[test]
fn a_frozen_shard_that_dies_is_forgotten_and_the_next_one_serves() {
    let mut rig = Rig::new(&freezing(0, 2, 2));
    let sessions: Vec<_> = (0..2).map(|_| rig.request(1_000)).collect();
    let sessions: Vec<_> = sessions.into_iter().map(|r| rig.ready(r).unwrap()).collect();
    sessions.into_iter().for_each(|session| rig.end(session));
    rig.pass_ms(10_001);
    let dead = in_state(&rig, ShardState::Frozen)[0];
    rig.exit(dead);
    let request = rig.request(0);
    assert!(rig.ready(request).is_some(), "{:?}", rig.failed(request));
}

#[test]
fn a_shard_is_replaced_after_its_session_if_its_component_says_so() {
    let mut app = single(2, 1, 1);
    app.components[0].after = After::Restart;
    let mut rig = Rig::new(&app);
    let (a, b) = (rig.compose(), rig.compose());
    let [shard] = rig.shards_of(a)[..] else { panic!("one component") };
    rig.end(a);
    assert!(!rig.has(Effect::Stop { shard }), "it still holds one");
    rig.end(b);
    assert!(rig.has(Effect::Stop { shard }));
    let next = rig.compose();
    assert_ne!(rig.shards_of(next), [shard]);
}

#[test]
fn a_shard_that_could_not_clean_up_is_never_used_again() {
    let mut app = single(1, 1, 1);
    app.components[0].after = After::Scrub;
    let mut rig = Rig::new(&app);
    rig.closes = false;
    let session = rig.compose();
    let [shard] = rig.shards_of(session)[..] else { panic!("one component") };
    rig.end(session);
    rig.tell(Event::ScrubFailed { session, shard });
    assert!(rig.killed(shard).is_some());
    assert!(rig.core.session(session).is_none(), "the session is over all the same");
    rig.closes = true;
    let next = rig.request(1_000);
    let next = rig.ready(next).unwrap();
    assert_ne!(rig.shards_of(next), [shard]);
}

#[test]
fn a_drained_shard_takes_no_more_sessions_and_ends_with_its_last() {
    let mut rig = Rig::new(&single(2, 1, 2));
    let session = rig.compose();
    let [shard] = rig.shards_of(session)[..] else { panic!("one component") };
    rig.tell(Event::Drain { shard, deadline_ns: rig.now_ns + 1_000 * MS });
    let other = rig.request(1_000);
    let other = rig.ready(other).expect("another takes it");
    assert_ne!(rig.shards_of(other), [shard], "it has room and takes none");
    rig.pass_ms(500);
    assert!(rig.core.session(session).is_some() && rig.lost(session).is_none());
    rig.end(session);
    assert!(rig.has(Effect::Stop { shard }) && rig.core.shard(shard).is_none());
}

#[test]
fn what_a_drained_shard_holds_at_its_deadline_ends_with_an_error() {
    let mut rig = Rig::new(&single(2, 1, 1));
    let (a, b) = (rig.compose(), rig.compose());
    let [shard] = rig.shards_of(a)[..] else { panic!("one component") };
    rig.tell(Event::Drain { shard, deadline_ns: rig.now_ns + 1_000 * MS });
    rig.pass_ms(999);
    assert_eq!(rig.lost(a), None);
    rig.pass_ms(1);
    for session in [a, b] {
        assert!(matches!(rig.lost(session), Some(Loss::Drained { .. })), "{:?}", rig.lost(session));
    }
    assert!(rig.has(Effect::Stop { shard }));
    assert_eq!(rig.live(0).len(), 1, "it was replaced");
}

#[test]
fn a_session_that_nobody_uses_ends_with_an_error() {
    let mut rig = Rig::new(&single(1, 1, 1));
    let session = rig.compose();
    rig.tell(Event::SessionIdle { session });
    assert_eq!(rig.lost(session), Some(Loss::Idle));
    assert!(rig.has(Effect::SessionClosed { session }));
}

#[test]
fn a_session_whose_shard_dies_while_it_opens_gets_another_in_its_place_in_the_order_of_arrival() {
    let mut rig = Rig::new(&single(1, 1, 1));
    rig.opens = false;
    let first = rig.request(60_000);
    let second = rig.request(60_000);
    let shard = rig.live(0)[0];
    rig.opens = true;
    rig.exit(shard);
    let session = rig.ready(first).unwrap_or_else(|| panic!("{:?}", rig.failed(first)));
    assert_ne!(rig.shards_of(session), [shard]);
    assert_eq!(rig.ready(second), None, "the one that came first goes first");
    rig.end(session);
    assert!(rig.ready(second).is_some());
}

#[test]
fn shards_that_die_again_and_again_while_a_session_opens_end_in_an_error_before_its_deadline() {
    let mut rig = Rig::new(&single(1, 1, 1));
    rig.opens = false;
    let request = rig.request(3_600_000);
    for _ in 0..10 {
        let Some(&shard) = rig.live(0).first() else { break };
        if rig.failed(request).is_none() {
            rig.exit(shard);
        }
    }
    assert!(rig.failed(request).is_some());
}

#[test]
fn the_demand_of_a_bin_is_the_most_that_was_held_or_wanted_in_it() {
    let mut rig = Rig::new(&single(2, 1, 1));
    let mut demand = Vec::new();
    let (a, b) = (rig.compose(), rig.compose());
    let waits = rig.request(60_000);
    rig.end(a);
    rig.end(b);
    rig.core.take_demand(&mut demand);
    assert_eq!(demand, [3], "two held, one waiting");
    let session = rig.ready(waits).unwrap();
    rig.end(session);
    rig.core.take_demand(&mut demand);
    assert_eq!(demand, [1], "one was held when the bin began");
    rig.core.take_demand(&mut demand);
    assert_eq!(demand, [0]);
}

#[test]
fn what_was_done_and_why_can_be_asked_afterwards() {
    let mut rig = Rig::new(&freezing(1, 2, 1));
    let warm = rig.request(1_000);
    rig.starts = false;
    let cold = rig.request(1_000);
    rig.pass_ms(3);
    for shard in in_state(&rig, ShardState::Launching) {
        rig.tell(Event::ShardReady { shard });
    }
    let (warm, cold) = (rig.ready(warm).unwrap(), rig.ready(cold).unwrap());
    rig.end(warm);
    let told = rig.core.explain(warm).expect("a session that is over is still explained");
    assert_eq!(told.request, RequestId(1));
    assert!(told.shards.iter().all(|s| s.tier == Tier::Ready) && told.shards.len() == 2, "{told:?}");
    assert!(
        told.asked_ns <= told.claimed_ns
            && told.claimed_ns <= told.opened_ns
            && told.opened_ns <= told.ready_ns
    );
    let told = rig.core.explain(cold).unwrap();
    assert!(told.shards.iter().all(|s| s.tier == Tier::Cold), "{told:?}");
    let whys = |rig: &Rig, of: fn(&Deed) -> Option<Why>| {
        rig.core.records().filter_map(|r| of(&r.deed)).collect::<Vec<_>>()
    };
    let launched = whys(&rig, |deed| if let Deed::Launched(why) = deed { Some(*why) } else { None });
    assert!(launched.contains(&Why::Target { ready: 1 }) && launched.contains(&Why::Waiting { requests: 1 }));
    rig.end(cold);
    rig.pass_ms(10_001);
    assert!(
        rig.core.records().any(|r| matches!(r.deed, Deed::Frozen(Why::Idle { for_ns: 10_000_000_000.. })))
    );
}

#[test]
fn a_shards_launch_freeze_thaw_return_and_stop_are_told_with_their_reasons() {
    let mut app = single(1, 0, 1);
    app.components[0].shards.frozen = 1;
    let mut rig = Rig::new(&app);
    rig.starts = false;
    let (asked_ns, request) = (rig.now_ns, rig.request(1_000));
    rig.pass_ms(5);
    let [shard] = rig.live(0)[..] else { panic!("one is started") };
    rig.tell(Event::ShardReady { shard });
    let first = rig.ready(request).unwrap();
    rig.end(first);
    let returned: Vec<_> = rig.core.returns(ECHO).map(|r| (r.at_ns, r.shard, r.deed)).collect();
    assert_eq!(returned, [(rig.now_ns, Some(shard), Deed::Returned(first))]);
    rig.pass_ms(10_000);
    let second = rig.compose();
    rig.pass_ms(7);
    rig.end(second);
    rig.pass_ms(1);
    target(&mut rig, 0, 0);
    rig.pass_ms(10_000);
    let mut told: Vec<_> = rig.core.records().copied().collect();
    told.reverse();
    let told: Vec<Deed> = told.into_iter().filter(|r| r.shard == Some(shard)).map(|r| r.deed).collect();
    let of = |found: fn(&Deed) -> bool| told.iter().filter(|deed| found(deed)).count();
    assert!(told.contains(&Deed::Launched(Why::Waiting { requests: 1 })), "{told:?}");
    assert!(told.contains(&Deed::Frozen(Why::Idle { for_ns: 10_000_000_000 })), "{told:?}");
    assert!(told.contains(&Deed::Thawed(Why::Waiting { requests: 1 })), "{told:?}");
    assert!(told.contains(&Deed::Returned(first)) && told.contains(&Deed::Returned(second)), "{told:?}");
    assert_eq!(of(|deed| matches!(deed, Deed::Returned(_))), 2, "{told:?}");
    assert!(told.contains(&Deed::Stopped(Why::Idle { for_ns: 10_000_000_000 })), "{told:?}");
    // How long its start and its thaw took is told with the sessions that they were for.
    let [cold] = &rig.core.explain(first).unwrap().shards[..] else { panic!("one shard") };
    assert_eq!((cold.tier, cold.began_ns, cold.came_ns), (Tier::Cold, asked_ns, asked_ns + 5 * MS));
    let frozen = rig.core.explain(second).unwrap();
    let [thawed] = &frozen.shards[..] else { panic!("one shard") };
    let expected = (Tier::Frozen, frozen.asked_ns, frozen.ready_ns);
    assert_eq!((thawed.tier, thawed.began_ns, thawed.came_ns), expected);
}

#[test]
fn what_is_remembered_has_a_bound() {
    let mut rig = Rig::new(&application().component("a", 1, 1, 1).composition("a", &["a"]).done());
    let first = rig.compose();
    rig.end(first);
    for _ in 0..shard_composer::core::COMPOSED_MAX {
        let session = rig.compose();
        rig.end(session);
        rig.effects.clear();
        rig.forget_answers();
    }
    assert_eq!(rig.core.explain(first), None);
}
