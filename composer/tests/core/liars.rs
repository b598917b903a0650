//! Shards that say anything at any time.

use crate::application::application;
use crate::rig::Rig;
use proptest::prelude::*;
use shard_composer::core::{CompositionId, Effect, Event, Exit, RequestId};
use shard_runtime::id::{LinkId, SessionId, ShardId};

/// What a shard can make the core hear, about itself; and what others do meanwhile.
#[derive(Clone, Debug)]
enum Word {
    Ready,
    Opened(SessionId),
    OpenRefused(SessionId),
    Closed(SessionId),
    Hung,
    Nonsense,
    Broken(LinkId),
    Exited,
    Requested,
    Ended(SessionId),
    Passed(u64),
}

fn words() -> impl Strategy<Value = Vec<(ShardId, Word)>> {
    let session = (0u32..6, 0u32..4).prop_map(|(index, generation)| SessionId::new(index, generation));
    let word = prop_oneof![
        3 => Just(Word::Ready),
        6 => session.clone().prop_map(Word::Opened),
        3 => session.clone().prop_map(Word::OpenRefused),
        6 => session.clone().prop_map(Word::Closed),
        1 => Just(Word::Hung),
        1 => Just(Word::Nonsense),
        1 => (0..3_u16).prop_map(|link| Word::Broken(LinkId(link))),
        1 => Just(Word::Exited),
        4 => Just(Word::Requested),
        3 => session.prop_map(Word::Ended),
        2 => (0u64..3_000).prop_map(Word::Passed),
    ];
    prop::collection::vec(((0u32..12).prop_map(ShardId), word), 1..120)
}

proptest! {
    #[test]
    fn whatever_shards_say_the_core_holds_together_and_answers_each_request_once(
        words in words(),
        answers: [bool; 5],
    ) {
        let app = application()
            .component("a", 2, 2, 3)
            .component("b", 1, 1, 3)
            .calls("a", "b")
            .composition("both", &["a", "b"])
            .done();
        let mut rig = Rig::new_without_answers(&app);
        [rig.starts, rig.wires, rig.opens, rig.closes, rig.stops] = answers;
        rig.tell(Event::Start);
        let mut requests = 0;
        // The rig looks at the core's invariants after each event.
        for (shard, word) in words {
            match word {
                Word::Ready => rig.tell(Event::ShardReady { shard }),
                Word::Opened(session) => rig.tell(Event::Opened { session, shard }),
                Word::OpenRefused(session) => rig.tell(Event::OpenRefused { session, shard }),
                Word::Closed(session) => rig.tell(Event::Closed { session, shard }),
                Word::Hung => rig.tell(Event::ShardHung { shard }),
                Word::Broken(link) => rig.tell(Event::LinkBroken { witness: shard, link }),
                Word::Nonsense => rig.tell(Event::BrokeProtocol { shard }),
                Word::Exited => rig.tell(Event::ShardExited { shard, how: Exit::Code(0) }),
                Word::Requested => {
                    requests += 1;
                    let deadline_ns = rig.now_ns + 1_000_000_000;
                    let (request, composition) = (RequestId(requests), CompositionId(0));
                    rig.tell(Event::SessionRequested { request, composition, deadline_ns });
                }
                Word::Ended(session) => rig.tell(Event::SessionEnded { session }),
                Word::Passed(ms) => rig.pass_ms(ms),
            }
        }
        rig.pass_ms(60_000);
        for request in (1..=requests).map(RequestId) {
            let ready = rig.effects.iter().filter(|e| matches!(e, Effect::SessionReady { request: r, .. } if *r == request));
            let failed = rig.effects.iter().filter(|e| matches!(e, Effect::RequestFailed { request: r, .. } if *r == request));
            prop_assert_eq!(ready.count() + failed.count(), 1, "{:?}", request);
        }
    }
}
