//! The host's parts: what a composition lacks is started whole or not at all, and nobody holds anything while waiting.

use crate::application::{application, pair};
use crate::rig::Rig;
use shard_composer::core::{Deed, Effect, Event, Refusal, ShardState};
use shard_runtime::id::ComponentId;
use shardkit::application::Application;

/// Two compositions of two components each; nothing is warm, and what is idle would stay for 10 s.
fn rivals() -> Application {
    let mut made = application();
    for name in ["a", "b", "c", "d"] {
        made = made.component(name, 1, 0, 4);
    }
    made.calls("a", "b").calls("c", "d").composition("ab", &["a", "b"]).composition("cd", &["c", "d"]).done()
}

fn started(rig: &Rig) -> usize {
    rig.core.shards().filter(|shard| shard.state == ShardState::Ready).count()
}

#[test]
fn a_composition_that_there_is_room_for_in_part_starts_nothing_and_is_refused_at_its_deadline_by_name() {
    let mut rig = Rig::new(&rivals());
    rig.room = Some(3);
    let first = rig.request_of(0, 1_000);
    assert!(rig.ready(first).is_some());
    let second = rig.request_of(1, 50);
    assert_eq!(started(&rig), 2, "there is room for one of two");
    assert!(rig.core.shards().all(|shard| shard.state == ShardState::Ready), "nothing is left of the others");
    rig.pass_ms(49);
    assert_eq!(rig.failed(second), None);
    rig.pass_ms(1);
    let refusal = rig.failed(second).expect("its deadline has come");
    assert!(matches!(&refusal, Refusal::Short { component, .. } if &**component == "d"), "{refusal}");
    assert!(
        refusal.to_string().contains("there is no room for d, host `rig` has too little: needed 2"),
        "{refusal}"
    );
}

#[test]
fn what_an_ended_session_leaves_idle_ends_at_once_where_another_composition_needs_its_room() {
    let mut rig = Rig::new(&rivals());
    rig.room = Some(3);
    let first = rig.request_of(0, 1_000);
    let session = rig.ready(first).unwrap();
    let second = rig.request_of(1, 1_000);
    rig.pass_ms(10);
    rig.end(session);
    assert!(rig.ready(second).is_some(), "{:?}", rig.core.shards().collect::<Vec<_>>());
    assert_eq!(started(&rig), 2);
}

#[test]
fn two_compositions_that_share_a_component_never_wait_for_each_other() {
    let app = application().component("a", 1, 0, 4).component("b", 1, 0, 4).component("c", 1, 0, 4);
    let app =
        app.composition("ab", &["a", "b"]).composition("bc", &["b", "c"]).composition("ca", &["c", "a"]);
    let mut rig = Rig::new(&app.done());
    rig.room = Some(2);
    let requests: Vec<_> = (0..30).map(|n| rig.request_of(n % 3, 10_000)).collect();
    for _ in 0..requests.len() {
        let open = requests.iter().filter_map(|request| rig.ready(*request));
        let open: Vec<_> = open.filter(|session| rig.core.session(*session).is_some()).collect();
        assert_eq!(open.len(), 1, "one at a time has room, and one always has");
        rig.end(open[0]);
    }
    assert!(
        requests.iter().all(|request| rig.ready(*request).is_some()),
        "all were served within their deadlines"
    );
}

#[test]
fn a_request_that_is_being_served_keeps_its_shards_while_the_next_one_is_short() {
    let mut rig = Rig::new(&pair((1, 0, 4), (1, 0, 4)));
    rig.room = Some(3);
    rig.starts = false;
    let [first, second] = [(); 2].map(|()| rig.request(1_000));
    let starting: Vec<_> = rig.core.shards().map(|shard| shard.id).collect();
    assert_eq!(starting.len(), 2, "those of the first");
    assert!(!rig.effects.iter().any(|effect| matches!(effect, Effect::Stop { .. })));
    starting.into_iter().for_each(|shard| rig.tell(Event::ShardReady { shard }));
    let session = rig.ready(first).expect("both of its shards came up");
    rig.end(session);
    assert!(rig.ready(second).is_some());
}

#[test]
fn a_target_that_there_is_no_room_for_is_tried_again_when_room_comes_back() {
    let mut rig = Rig::new(&rivals());
    rig.room = Some(2);
    let first = rig.request_of(0, 1_000);
    let session = rig.ready(first).unwrap();
    let before = rig.launches();
    rig.tell(Event::Target { component: ComponentId(2), ready: 2, frozen: 0 });
    rig.pass_ms(5_000);
    assert_eq!(rig.launches(), before + 2, "each is tried once");
    rig.end(session);
    rig.pass_ms(20_000);
    assert_eq!(rig.live(2).len(), 2);
    assert!(rig.core.records().any(|record| record.deed == Deed::NoRoom));
}
