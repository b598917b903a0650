//! What people ask of systems that hand out warm servers, each as a test. The numbers are issues of Agones.
//!
//! What is shown elsewhere stands with all the others in the table of SPECIFICATION.md, section Pools.

use crate::application::{pair, single};
use crate::rig::{MS, Rig};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use shard_composer::core::{Effect, End, Event, LOAD_LIMIT_PERMILLE, Refusal, RequestId, ShardState};
use shard_runtime::id::{SessionId, ShardId};
use shardkit::application::SCALE_DOWN_DELAY_MS_DEFAULT;
use std::collections::{BTreeMap, BTreeSet};

/// #4142, #2788. Places count as taken until the shard has let go, in whatever order the shards answer.
#[test]
fn under_load_nobody_hears_none_available_while_there_is_room() {
    let mut rng = StdRng::seed_from_u64(crate::seed(4142));
    let mut rig = Rig::new(&pair((4, 5, 5), (4, 5, 5)));
    (rig.opens, rig.closes) = (false, false);
    rig.forget_effects();
    let (mut open, mut answers) = (Vec::new(), Vec::new());
    let (mut refused, mut served) = (0, 0);
    for _ in 0..20_000 {
        match rng.random_range(0..10) {
            0..3 => {
                let has_room = |of| rig.live(of).iter().any(|&s| rig.core.shard(s).unwrap().sessions < 4);
                let has_room = has_room(0) && has_room(1);
                let request = rig.request(0);
                match rig.failed(request) {
                    None => assert!(has_room),
                    Some(Refusal::NoRoom { .. }) => {
                        assert!(!has_room, "a shard of each has room");
                        refused += 1;
                    }
                    // Both have room, no two that are wired have: wires are made, the next one who asks is served.
                    Some(Refusal::NotWired { .. }) => {
                        let again = rig.request(0);
                        assert_eq!(rig.failed(again), None);
                    }
                    other => panic!("{other:?}"),
                }
            }
            3..5 if !open.is_empty() => rig.end(open.swap_remove(rng.random_range(0..open.len()))),
            _ if !answers.is_empty() => rig.tell(answers.swap_remove(rng.random_range(0..answers.len()))),
            _ => {}
        }
        for effect in &rig.effects {
            match *effect {
                Effect::Open { session, shard } => answers.push(Event::Opened { session, shard }),
                Effect::Close { session, shard } => answers.push(Event::Closed { session, shard }),
                Effect::SessionReady { session, .. } => {
                    open.push(session);
                    served += 1;
                }
                _ => {}
            }
        }
        rig.forget_effects();
    }
    println!("{served} served, {refused} refused");
    assert!(served > 1_000 && refused > 100);
}

/// #2145.
#[test]
fn a_request_waits_for_an_empty_pool_until_its_deadline_and_no_longer() {
    let mut rig = Rig::new(&single(1, 0, 2));
    rig.starts = false;
    let [short, long] = [20, 40].map(|wait_ms| rig.request(wait_ms));
    rig.pass_ms(19);
    assert_eq!(rig.failed(short), None);
    rig.pass_ms(1);
    assert!(matches!(rig.failed(short), Some(Refusal::NoRoom { .. })));
    rig.pass_ms(10);
    let shard = rig.live(0)[0];
    rig.tell(Event::ShardReady { shard });
    assert_eq!(rig.shards_of(rig.ready(long).expect("the shard came in time")), [shard]);
}

/// #3661. Nobody has to ask again which place was taken, or what is left beside it.
#[test]
fn the_answer_to_a_claim_names_the_place_that_it_took() {
    const PLACES: u32 = 8;
    let mut rig = Rig::new(&pair((PLACES, 1, 1), (PLACES, 1, 1)));
    let mut taken = BTreeSet::new();
    for held in 1..=PLACES {
        let session = rig.compose();
        assert!(taken.insert(session.index()), "the place of {session:?} is somebody else's");
        let [a, b] = rig.shards_of(session)[..] else { panic!("a pair has two shards") };
        for (own, partner) in [(a, b), (b, a)] {
            let route = rig.core.routes(session, own).next().expect("a way to the partner");
            assert_eq!(route.end, End::Shard(partner));
            let view = rig.core.shard(own).unwrap();
            assert_eq!((view.sessions, view.capacity), (held, PLACES), "counted with the answer");
        }
    }
}

/// #4650. There is no moment at which a shard counts a session and may be stopped, or counts none and may not.
#[test]
fn the_count_and_the_state_of_a_shard_change_in_one_step() {
    for claim_first in [true, false] {
        let mut rig = Rig::new(&single(8, 0, 1));
        let request = rig.request(1_000);
        let first = rig.ready(request).unwrap();
        let shard = rig.shards_of(first)[0];
        rig.end(first);
        assert_eq!(rig.core.shard(shard).unwrap().sessions, 0);
        rig.pass_ms(SCALE_DOWN_DELAY_MS_DEFAULT - 1);
        // Its time is up, and somebody comes in the same instant.
        rig.now_ns += MS;
        assert_eq!(rig.core.next_deadline(), Some(rig.now_ns));
        if claim_first {
            let session = rig.compose();
            assert_ne!(
                rig.core.next_deadline(),
                Some(rig.now_ns),
                "a shard that is taken has no time to be up"
            );
            rig.tell(Event::Tick);
            assert!(!rig.has(Effect::Stop { shard }), "it was taken first");
            assert_eq!(rig.shards_of(session), [shard]);
        } else {
            rig.stops = false;
            rig.tell(Event::Tick);
            assert!(rig.has(Effect::Stop { shard }), "its time was up first");
            let late = rig.request(0);
            assert!(rig.failed(late).is_some(), "a shard that ends takes nobody");
        }
    }
}

/// #2372, #2209.
#[test]
fn at_any_load_scale_down_takes_the_starting_ones_then_the_longest_idle_and_none_in_use() {
    let mut rng = StdRng::seed_from_u64(crate::seed(2372));
    let mut app = single(3, 1, 12);
    app.components[0].start_timeout_ms = 3_600_000;
    let mut rig = Rig::new(&app);
    rig.starts = false;
    let mut open: Vec<SessionId> = Vec::new();
    let mut idle_since: BTreeMap<ShardId, u64> = BTreeMap::new();
    let mut stops = [0, 0];
    for step in 0..3_000 {
        let busy = step / 300 % 2 == 0;
        let starting: Vec<_> =
            rig.core.shards().filter(|s| s.state == ShardState::Launching).map(|s| s.id).collect();
        match rng.random_range(0..8) {
            0..3 if busy => _ = rig.request(2_000),
            0..3 if !open.is_empty() => rig.end(open.swap_remove(rng.random_range(0..open.len()))),
            3 if !starting.is_empty() => {
                let shard = starting[rng.random_range(0..starting.len())];
                rig.tell(Event::ShardReady { shard });
            }
            _ => {}
        }
        rig.now_ns += rng.random_range(0..1_500) * MS;
        let before: BTreeMap<_, _> = rig.core.shards().map(|s| (s.id, s)).collect();
        for shard in before.values() {
            match shard.sessions {
                0 if shard.state == ShardState::Ready => _ = idle_since.entry(shard.id).or_insert(rig.now_ns),
                _ => _ = idle_since.remove(&shard.id),
            }
        }
        open.extend(ready(&rig));
        rig.forget_effects();
        rig.tell(Event::Tick);
        let stopped: Vec<ShardId> = rig
            .effects
            .iter()
            .filter_map(|e| match *e {
                Effect::Stop { shard } => Some(shard),
                _ => None,
            })
            .collect();
        let is_starting = |shard: &ShardId| before[shard].state == ShardState::Launching;
        assert!(stopped.is_sorted_by_key(|s| !is_starting(s)), "the starting ones go first");
        for (at, shard) in stopped.iter().enumerate() {
            assert_eq!(before[shard].sessions, 0, "{shard:?} holds a session");
            stops[usize::from(is_starting(shard))] += 1;
            if !is_starting(shard) {
                let left = idle_since.iter().filter(|(s, _)| !stopped[..at].contains(s));
                let longest = left.map(|(_, &since)| since).min().unwrap();
                assert_eq!(idle_since[shard], longest, "another has been idle longer than {shard:?}");
            }
        }
        stopped.iter().for_each(|shard| _ = idle_since.remove(shard));
        open.extend(ready(&rig));
        rig.forget_effects();
    }
    println!("{} idle and {} starting ones were stopped", stops[0], stops[1]);
    assert!(stops[0] > 20 && stops[1] > 5, "{stops:?}");
}

fn ready(rig: &Rig) -> impl Iterator<Item = SessionId> {
    rig.effects.iter().filter_map(|e| match *e {
        Effect::SessionReady { session, .. } => Some(session),
        _ => None,
    })
}

/// #1782.
#[test]
fn no_warm_shards_at_all_are_allowed_and_none_is_where_it_returns_to() {
    let mut rig = Rig::new(&pair((2, 0, 2), (1, 0, 4)));
    assert_eq!((rig.launches(), rig.core.next_deadline()), (0, None), "nobody asked, nothing runs");
    let requests: Vec<RequestId> = (0..3).map(|_| rig.request(1_000)).collect();
    assert_eq!((rig.live(0).len(), rig.live(1).len()), (2, 3), "as many as those who wait need");
    for request in requests {
        rig.end(rig.ready(request).unwrap());
    }
    rig.pass_ms(SCALE_DOWN_DELAY_MS_DEFAULT);
    rig.core.check_empty().unwrap();
}

/// #3826.
#[test]
fn scale_down_waits_for_its_delay_and_a_new_peak_starts_it_again() {
    let mut rig = Rig::new(&single(1, 1, 3));
    let peak = |rig: &mut Rig| {
        let requests: Vec<_> = (0..3).map(|_| rig.request(1_000)).collect();
        requests.into_iter().for_each(|request| rig.end(rig.ready(request).unwrap()));
    };
    peak(&mut rig);
    rig.pass_ms(SCALE_DOWN_DELAY_MS_DEFAULT - 1);
    assert_eq!(rig.live(0).len(), 3, "the delay is not over");
    peak(&mut rig);
    rig.pass_ms(SCALE_DOWN_DELAY_MS_DEFAULT - 1);
    assert_eq!(rig.live(0).len(), 3, "it began again with the new peak");
    rig.pass_ms(1);
    assert_eq!(rig.live(0).len(), 1);
}

/// #2114. A session weighs what it uses: a shard that has much to do for few sessions is as good as full.
#[test]
fn a_busier_shard_counts_for_more_than_its_sessions() {
    let mut rig = Rig::new(&single(4, 3, 3));
    let mut sessions: Vec<_> = (0..5).map(|_| rig.compose()).collect();
    let [full, other] = [0, 4].map(|at| rig.shards_of(sessions[at])[0]);
    // The one that was full a moment ago is filled first …
    for session in sessions.drain(..2) {
        rig.end(session);
    }
    // … unless it works so much for two sessions that a third one would be too much for it.
    rig.tell(Event::Load { shard: full, permille: LOAD_LIMIT_PERMILLE * 2 / 3 + 1 });
    for held in 1..4 {
        let session = rig.compose();
        assert_eq!(rig.shards_of(session), [other], "it holds {held} and has nothing to do");
        sessions.push(session);
    }
    // All others are full: it has room, and no new one is opened (#3992).
    let session = rig.compose();
    assert_eq!(rig.shards_of(session), [full]);
    rig.end(session);
    // It is weighed again with each report, and as its sessions end.
    for relieved in ["by a report", "by a session that ended"] {
        let session = *sessions.iter().find(|s| rig.shards_of(**s) == [other]).unwrap();
        rig.end(session);
        sessions.retain(|s| *s != session);
        if relieved == "by a report" {
            rig.tell(Event::Load { shard: full, permille: LOAD_LIMIT_PERMILLE / 2 });
        } else {
            rig.tell(Event::Load { shard: full, permille: LOAD_LIMIT_PERMILLE });
            let heavy = *sessions.iter().find(|s| rig.shards_of(**s) == [full]).unwrap();
            rig.end(heavy);
            sessions.retain(|s| *s != heavy);
        }
        let session = rig.compose();
        assert_eq!(rig.shards_of(session), [full], "{relieved}");
        sessions.push(session);
    }
}
