//! What a session costs in memory: nothing, once the tables have grown.

use crate::application::application;
use shard_composer::core::{CompositionId, Core, Effect, Event, RequestId};
use shard_runtime::id::SessionId;
use std::collections::VecDeque;

/// Tells the core, answers at once what it wants done, and returns the session that came to be ready.
fn tell(core: &mut Core, effects: &mut Vec<Effect>, event: Event) -> Option<SessionId> {
    effects.clear();
    core.handle(1, event, effects);
    let (mut at, mut ready) = (0, None);
    while at < effects.len() {
        let answer = match effects[at] {
            Effect::Launch { shard, .. } => Event::ShardReady { shard },
            Effect::Wire { wire, .. } => Event::Wired { wire },
            Effect::Open { session, shard } => Event::Opened { session, shard },
            Effect::Close { session, shard } => Event::Closed { session, shard },
            Effect::SessionReady { session, .. } => {
                ready = Some(session);
                at += 1;
                continue;
            }
            _ => {
                at += 1;
                continue;
            }
        };
        core.handle(1, answer, effects);
        at += 1;
    }
    ready
}

#[test]
fn composing_from_warm_shards_allocates_nothing() {
    let app = application()
        .component("auth", 64, 1, 1)
        .component("inventory", 16, 4, 4)
        .component("physics", 1, 64, 64)
        .component("ai", 4, 16, 16)
        .component("render", 1, 64, 64)
        .calls("physics", "auth")
        .calls("physics", "inventory")
        .calls("physics", "ai")
        .calls("physics", "render")
        .composition("match", &["auth", "inventory", "physics", "ai", "render"])
        .done();
    let (mut core, mut effects, mut open) =
        (Core::new(&app), Vec::with_capacity(64), VecDeque::with_capacity(64));
    tell(&mut core, &mut effects, Event::Start);
    effects.reserve(64);
    let composition = CompositionId(0);
    // As many sessions are open as `target` says, or soon will be.
    let mut turns = |core: &mut Core, turns: usize, target: fn(usize) -> usize| {
        for turn in 0..turns {
            if open.len() > target(turn) {
                tell(core, &mut effects, Event::SessionEnded { session: open.pop_front().unwrap() });
            } else {
                let request = RequestId(turn as u64);
                open.extend(tell(
                    core,
                    &mut effects,
                    Event::SessionRequested { request, composition, deadline_ns: 0 },
                ));
            }
            std::hint::black_box(core.next_deadline());
        }
    };
    let growing = allocation_counter::measure(|| turns(&mut core, 64, |_| 64));
    assert!(growing.count_total > 0, "the tables grow while every place is taken for the first time");
    turns(&mut core, 64, |_| 0);
    let info = allocation_counter::measure(|| turns(&mut core, 10_000, |turn| turn / 7 % 64));
    assert_eq!(info.count_total, 0, "{info:?}");
}
