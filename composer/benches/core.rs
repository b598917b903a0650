//! How many sessions a second the core can compose and end, on one core, with 10,000 shards there.
//!
//! One turn is a claim and a release of a composition of five components with all that belongs to it: the request,
//! five acknowledgements, the end, five acknowledgements.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use shard_composer::core::{CompositionId, Core, Effect, Event, RequestId};
use shard_runtime::id::{ComponentId, PortId, SessionId};
use shardkit::application::{
    After, Application, Component, Composition, Destination, Needs, Output, Program, Shards, Wait,
};
use shardkit::pool::Scale;
use std::collections::VecDeque;
use std::hint::black_box;

/// Five components in a chain, each with a capacity and a number of warm shards.
fn application(components: [(u32, u32); 5]) -> Application {
    let component = |at: usize, (capacity, warm): (u32, u32)| Component {
        name: format!("component-{at}"),
        program: Some(Program { path: "true".into(), args: vec![], env: vec![] }),
        capacity,
        shards: Shards::between(warm, warm),
        needs: Needs::default(),
        wait: Wait::Park,
        tick_hz: None,
        inputs: vec![],
        outputs: (at < 4).then(|| to(at + 1)).into_iter().collect(),
        start_timeout_ms: 1_000,
        stop_timeout_ms: 1_000,
        after: After::Return,
        scale: Scale::default(),
        zygote: false,
        isolation: None,
        config_json: "{}".into(),
    };
    let components = components.into_iter().enumerate().map(|(at, c)| component(at, c)).collect();
    let ids = (0..5).map(ComponentId).collect();
    let compositions = vec![Composition { name: "all".into(), components: ids, idle_timeout_ms: None }];
    Application {
        name: "bench".into(),
        components,
        compositions,
        embedder: None,
        pool: None,
        generics: vec![],
        idle_latency_us: None,
        oci_runtime: None,
    }
}

fn to(component: usize) -> Output {
    Output {
        name: "next".into(),
        ty: "Bytes".into(),
        reply: None,
        message_bytes_max: 64,
        to: vec![Destination { component: ComponentId(component as u16), input: PortId(0) }],
        ring_bytes: 4096,
    }
}

/// The core in a world where everything is answered at once.
struct Bench {
    core: Core,
    effects: Vec<Effect>,
    open: VecDeque<SessionId>,
    now_ns: u64,
}

impl Bench {
    fn new(application: &Application) -> Self {
        let mut bench =
            Self { core: Core::new(application), effects: vec![], open: VecDeque::new(), now_ns: 1 };
        bench.tell(Event::Start);
        bench
    }

    fn tell(&mut self, event: Event) {
        self.now_ns += 1;
        self.core.handle(self.now_ns, event, &mut self.effects);
        let mut at = 0;
        while at < self.effects.len() {
            let answer = match self.effects[at] {
                Effect::Launch { shard, .. } => Some(Event::ShardReady { shard }),
                Effect::Wire { wire, .. } => Some(Event::Wired { wire }),
                Effect::Open { session, shard } => Some(Event::Opened { session, shard }),
                Effect::Close { session, shard } => Some(Event::Closed { session, shard }),
                Effect::SessionReady { session, .. } => {
                    self.open.push_back(session);
                    None
                }
                _ => None,
            };
            if let Some(answer) = answer {
                self.core.handle(self.now_ns, answer, &mut self.effects);
            }
            at += 1;
        }
        self.effects.clear();
    }

    fn compose(&mut self) {
        let composition = CompositionId(0);
        self.tell(Event::SessionRequested { request: RequestId(0), composition, deadline_ns: 0 });
    }

    fn end(&mut self) {
        let session = self.open.pop_front().expect("a session is open");
        self.tell(Event::SessionEnded { session });
    }
}

fn claims_and_releases(c: &mut Criterion) {
    let shapes = [
        // 10,000 shards, each for one session.
        ("private", [(1, 2000); 5], 2000),
        // 10,000 shards of which a few are shared by many sessions.
        ("shared", [(1000, 8), (250, 32), (4, 1960), (1, 4000), (1, 4000)], 4000),
        // 10,000 shards of equal capacity.
        ("packed", [(16, 2000); 5], 32_000),
    ];
    let mut group = c.benchmark_group("claim and release");
    group.throughput(Throughput::Elements(1));
    for (name, components, sessions) in shapes {
        for load_percent in [0, 50, 100] {
            let mut bench = Bench::new(&application(components));
            // The release comes first, so that a full system has room for the claim.
            (0..(sessions * load_percent / 100).max(1)).for_each(|_| bench.compose());
            group.bench_function(BenchmarkId::new(name, format!("{load_percent}% full")), |b| {
                b.iter(|| {
                    bench.end();
                    bench.compose();
                });
            });
            assert_eq!(bench.open.len(), (sessions * load_percent / 100).max(1), "a claim was refused");
        }
    }
    group.finish();

    let mut bench = Bench::new(&application([(1, 2000); 5]));
    bench.compose();
    c.bench_function("next deadline", |b| b.iter(|| black_box(bench.core.next_deadline())));
}

criterion_group!(benches, claims_and_releases);
criterion_main!(benches);
