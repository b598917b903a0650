//! What the rig promises about order, rest and time.

use shardkit::application::Application;
use shardkit::manifest::Manifest;
use shardkit::prelude::*;
use shardkit::rig::{Counter, Delivery, ROUNDS_MAX, Rig};
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

const FAN: &str = r#"
[application]
name = "fan"
[component.left]
program = "left"
in.ask = { type = "bytes", reply = "bytes" }
[component.middle]
program = "middle"
in.ask = { type = "bytes", reply = "bytes" }
[component.right]
program = "right"
in.ask = { type = "bytes", reply = "bytes" }
[embedder]
out.ask = ["left.ask", "middle.ask", "right.ask"]
"#;

struct Echo;

impl Shard for Echo {
    fn on_message(&mut self, message: Message<'_>, ctx: &mut Context<'_>) -> Result<()> {
        let random = ctx.random();
        Ok(ctx.reply(&message, &random.to_le_bytes())?)
    }
}

/// A run of twenty messages to three shards that know nothing of each other, and the seed that it had.
fn fan(seed: u64) -> (u64, Vec<Delivery>, Application) {
    let manifest = Manifest::parse(FAN, "test.toml").unwrap();
    let rig = Rig::new(&manifest).seed(seed);
    let rig = rig.shard("left", |_| Ok(Echo)).shard("middle", |_| Ok(Echo)).shard("right", |_| Ok(Echo));
    let mut rig = rig.build().unwrap();
    let session = rig.open("default").unwrap();
    let ask = rig.output::<Bytes, Bytes>("ask").unwrap();
    for n in 0..20 {
        rig.send(session, &ask, &Bytes(vec![n])).unwrap();
        rig.run_until_idle();
    }
    (rig.seed(), rig.trace(), manifest.application().clone())
}

#[test]
fn a_seed_gives_one_schedule_and_another_seed_another() {
    for (a, b) in [(1, 2), (3, 4), (7, 1 << 40)] {
        let ((a, first, _), (_, again, _), (b, other, _)) = (fan(a), fan(a), fan(b));
        assert_eq!(first, again, "seed {a}");
        // One seed for both: it was set from outside.
        if a != b {
            let order = |run: &[Delivery]| run.iter().map(|delivery| delivery.component).collect::<Vec<_>>();
            assert_ne!(order(&first), order(&other), "seeds {a} and {b}");
        }
    }
}

#[test]
fn whatever_the_schedule_every_shard_gets_the_same() {
    for seed in 0..20 {
        let (seed, run, application) = fan(seed);
        for name in ["left", "middle", "right"] {
            let to = |delivery: &&Delivery| Some(delivery.component) == application.find(name);
            let got: Vec<u8> = run.iter().filter(to).map(|delivery| delivery.payload[0]).collect();
            assert_eq!(got, (0..20).collect::<Vec<_>>(), "{name} with seed {seed}");
        }
    }
}

const PAIR: &str = r#"
[application]
name = "pair"
cycles = true
[component.ping]
program = "ping"
in.in = "bytes"
out.to = "pong.in"
tick_hz = 1.0
[component.pong]
program = "pong"
in.in = "bytes"
out.to = "ping.in"
tick_hz = 1.0
[embedder]
out.to = "ping.in"
"#;

/// Sends on whatever comes; at a tick it sends until it can't any more, if it may.
struct Relay {
    to: Out<Bytes>,
    floods: bool,
    seen: usize,
}

impl Shard for Relay {
    fn on_message(&mut self, message: Message<'_>, ctx: &mut Context<'_>) -> Result<()> {
        self.seen += 1;
        assert!(self.seen <= 70 * ROUNDS_MAX, "the rig does not stop");
        Ok(ctx.send(&self.to, message.session(), &message.decode()?)?)
    }

    fn on_tick(&mut self, _: Tick, ctx: &mut Context<'_>) -> Result<()> {
        let session = ctx.sessions().next().unwrap();
        while self.floods && ctx.send(&self.to, session, &Bytes(vec![0; 8])).is_ok() {}
        Ok(())
    }
}

fn pair(floods: bool) -> Rig {
    let relay = move |config: &Config| Ok(Relay { to: config.output("to")?, floods, seen: 0 });
    let manifest = Manifest::parse(PAIR, "test.toml").unwrap();
    let rig = Rig::new(&manifest).ring_bytes(4096).shard("ping", relay).shard("pong", relay);
    rig.build().unwrap()
}

#[test]
#[should_panic(expected = "the rig found no rest in 100000 rounds")]
fn shards_that_keep_each_other_busy_for_ever_are_reported() {
    let mut rig = pair(false);
    let session = rig.open("default").unwrap();
    let to = rig.output::<Bytes, NoReply>("to").unwrap();
    rig.send(session, &to, &Bytes(vec![1])).unwrap();
    rig.run_until_idle();
}

#[test]
#[should_panic(expected = "waiting for room: [ping, pong]")]
fn shards_that_block_each_other_are_reported_by_name() {
    let mut rig = pair(true);
    rig.open("default").unwrap();
    rig.run_for(Duration::from_secs(1));
}

// Ticks.

const CLOCKS: &str = r#"
[application]
name = "clocks"
[component.slow]
program = "slow"
tick_hz = 4.0
[component.fast]
program = "fast"
tick_hz = 1000.0
[component.never]
program = "never"
"#;

type Log = Rc<RefCell<Vec<(Tick, u64)>>>;

#[derive(Clone, Default)]
struct Watch(Log);

impl Shard for Watch {
    fn on_message(&mut self, _: Message<'_>, _: &mut Context<'_>) -> Result<()> {
        Ok(())
    }

    fn on_tick(&mut self, tick: Tick, ctx: &mut Context<'_>) -> Result<()> {
        self.0.borrow_mut().push((tick, ctx.now_ns()));
        Ok(())
    }
}

#[test]
fn every_tick_comes_at_its_time_whatever_the_steps_of_the_clock() {
    let pieces_ms: [&[u64]; 4] = [&[3000], &[1, 249, 250, 2500], &[999, 1, 1, 1999], &[7; 429]];
    for pieces in pieces_ms {
        let watches = [Watch::default(), Watch::default(), Watch::default()];
        let [slow, fast, never] = watches.clone();
        let manifest = Manifest::parse(CLOCKS, "test.toml").unwrap();
        let rig = Rig::new(&manifest).shard("slow", |_| Ok(slow)).shard("fast", |_| Ok(fast));
        let mut rig = rig.shard("never", |_| Ok(never)).build().unwrap();
        for piece in pieces {
            rig.run_for(Duration::from_millis(*piece));
        }
        let total_ms: u64 = pieces.iter().sum();
        assert_eq!(rig.now_ns(), total_ms * 1_000_000);
        for (at, (name, every_ms)) in [("slow", 250), ("fast", 1)].into_iter().enumerate() {
            let log = watches[at].0.borrow();
            assert_eq!(log.len() as u64, total_ms / every_ms, "{name}");
            assert_eq!(rig.counter(name, Counter::Ticks), Some(log.len() as u64));
            assert_eq!(rig.counter(name, Counter::TicksMissed), Some(0));
            for (number, (tick, now_ns)) in log.iter().enumerate() {
                let period_ns = every_ms * 1_000_000;
                let due = Tick { number: number as u64, period_ns, late_ns: 0, missed: 0 };
                assert_eq!((*tick, *now_ns), (due, (due.number + 1) * period_ns), "{name}");
            }
        }
        assert!(watches[2].0.borrow().is_empty());
    }
}
