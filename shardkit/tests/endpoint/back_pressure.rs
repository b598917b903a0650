//! Full rings: who pauses, on whom, and that nothing is lost.

use super::*;

const RELAY: &str = r#"
[application]
name = "relay"
[component.source]
program = "source"
out.to = "relay.in"
[component.relay]
program = "relay"
in.in = "bytes"
out.to = "sink.in"
[component.sink]
program = "sink"
in.in = "bytes"
"#;

/// Sends on what comes, and keeps the numbers of what it could not send on.
struct Relay {
    to: Out<Bytes>,
    refused: Vec<u64>,
}

impl Shard for Relay {
    fn on_message(&mut self, message: Message<'_>, ctx: &mut Context<'_>) -> Result<()> {
        if let Err(error) = ctx.send(&self.to, message.session(), &message.decode()?) {
            assert_eq!(error, SendError::Full);
            self.refused.push(number(message.payload()));
        }
        Ok(())
    }

    fn on_tick(&mut self, _: Tick, ctx: &mut Context<'_>) -> Result<()> {
        while ctx.send(&self.to, SESSION, &numbered(0)).is_ok() {}
        Ok(())
    }
}

impl Relay {
    fn of(house: &House, name: &str) -> Self {
        Self { to: house.config(name).output("to").unwrap(), refused: vec![] }
    }
}

/// Messages of `bytes` come to the relay, `burst` in a round, while the sink sleeps; then the sink wakes. Returns the
/// numbers of those that the relay could not send on.
fn stall(burst: usize, bytes: usize) -> Vec<u64> {
    let case = format!("{burst} of {bytes} bytes in a round");
    let mut house = House::new(application(RELAY), 64 << 10);
    house.open(SESSION, &["source", "relay", "sink"]);
    let to: Out<Bytes> = house.config("source").output("to").unwrap();
    let (mut relay, mut sink) = (Relay::of(&house, "relay"), Record::default());
    let message = |n: u64| Bytes([n.to_le_bytes().as_slice(), &vec![1; bytes - 8]].concat());
    let link = u64::from(house.link("relay", "sink").0);
    let (mut n, mut full) = (0, false);
    while !full || house.page("relay").counter(Counter::PausedOn) == 0 {
        for _ in 0..burst {
            full = house.end("source").context().send(&to, SESSION, &message(n)).is_err();
            n += u64::from(!full);
        }
        assert!(n < 100_000, "{case}: the relay never pauses");
        house.end("source").poll(&mut Record::default());
        house.end("relay").poll(&mut relay);
    }
    let taken = house.page("relay").counter(Counter::MessagesIn);
    assert!(taken < n, "{case}: the relay took all {n}");
    for _ in 0..1000 {
        assert_eq!(house.end("relay").poll(&mut relay), 0, "{case}: a paused shard takes nothing");
        assert_eq!(house.page("relay").counter(Counter::PausedOn), link + 1, "{case}");
    }
    assert_eq!(house.page("relay").counter(Counter::MessagesIn), taken, "{case}");
    assert!(house.page("relay").counter(Counter::OutboxWaiting) > 0, "{case}");
    for _ in 0..n + 1_000 {
        house.drain("sink", &mut sink);
        house.end("relay").poll(&mut relay);
        house.end("source").poll(&mut Record::default());
    }
    let due: Vec<u64> = (0..n).filter(|n| !relay.refused.contains(n)).collect();
    assert_eq!(sink.numbers(), due, "{case}: what was taken arrives, in order");
    assert!(sink.messages.iter().all(|message| message.as_message().payload().len() == bytes), "{case}");
    for name in ["source", "relay"] {
        assert_eq!(house.page(name).counter(Counter::PausedOn), 0, "{case}: {name}");
        assert_eq!(house.page(name).counter(Counter::OutboxWaiting), 0, "{case}: {name}");
    }
    relay.refused
}

#[test]
fn a_shard_whose_outbox_is_full_takes_nothing_is_never_refused_says_on_whom_it_waits_and_loses_nothing() {
    for (burst, bytes) in [(1, 8), (10, 8), (64, 8), (7, 1000), (3, 60_000)] {
        let refused = stall(burst, bytes);
        assert!(refused.is_empty(), "{burst} of {bytes} bytes in a round: {refused:?}");
    }
}

const CYCLE: &str = r#"
[application]
name = "cycle"
cycles = true
[component.ping]
program = "ping"
in.in = "bytes"
out.to = "pong.in"
[component.pong]
program = "pong"
in.in = "bytes"
out.to = "ping.in"
"#;

#[test]
fn a_cycle_of_paused_shards_shows_in_both_pages_and_is_over_when_one_of_them_is_gone() {
    let mut house = House::new(application(CYCLE), SMALL_RING);
    house.open(SESSION, &["ping", "pong"]);
    let (mut ping, mut pong) = (Relay::of(&house, "ping"), Relay::of(&house, "pong"));
    // Both send of their own accord until they can't any more.
    let tick = Tick { number: 0, period_ns: 1, late_ns: 0, missed: 0 };
    house.end("ping").tick(&mut ping, tick);
    house.end("pong").tick(&mut pong, tick);
    let (to_pong, to_ping) = (house.link("ping", "pong"), house.link("pong", "ping"));
    for _ in 0..1000 {
        assert_eq!(house.end("ping").poll(&mut ping) + house.end("pong").poll(&mut pong), 0);
        assert_eq!(house.page("ping").counter(Counter::PausedOn), u64::from(to_pong.0) + 1);
        assert_eq!(house.page("pong").counter(Counter::PausedOn), u64::from(to_ping.0) + 1);
    }
    // Messages wait for both, and keep neither awake. The composer is heard all the same, and closes the session.
    assert!(house.end("ping").prepare_to_park(), "what it does not take keeps it awake");
    house.tell("ping", Verb::Close, SESSION, &[]);
    assert_eq!(house.drain("ping", &mut ping), 1, "a paused shard hears the composer");
    assert_eq!(house.told(), [("ping".into(), Verb::Closed, SESSION, String::new())]);
    // It ends `pong`: `ping` loses its link to it, and takes what comes again.
    house.end("ping").detach(to_pong);
    assert!(!house.end("ping").prepare_to_park(), "it sleeps although it has room");
    house.tell("ping", Verb::Close, SESSION, &[]);
    assert_eq!(house.drain("ping", &mut ping), 1);
    assert_eq!(house.told().len(), 1);
    assert_eq!(house.page("ping").counter(Counter::PausedOn), 0);
    assert_eq!(house.page("ping").counter(Counter::OutboxWaiting), 0);
}

const EMBEDDED: &str = r#"
[application]
name = "embedded"
[component.echo]
program = "echo"
in.ask = { type = "bytes", reply = "bytes" }
[embedder]
out.ask = "echo.ask"
"#;

#[test]
fn a_program_that_sends_until_it_is_refused_and_then_reads_gets_every_answer_in_order() {
    let mut house = House::new(application(EMBEDDED), SMALL_RING);
    house.open(SESSION, &["echo", "embedder"]);
    let ask: Out<Bytes, Bytes> = house.config("embedder").output("ask").unwrap();
    let (mut echo, mut program) = (Echo::default(), Record::default());
    let mut n = 0;
    // It reads nothing, so that the shard pauses in the end.
    loop {
        let mut ctx = house.end("embedder").context();
        if let Err(error) = ctx.send(&ask, SESSION, &numbered(n)) {
            assert_eq!(error, SendError::Full);
            break;
        }
        ctx.flush();
        n += 1;
        assert!(n < 100_000, "the shard never pauses");
        house.end("echo").poll(&mut echo);
    }
    assert_eq!(house.end("echo").poll(&mut echo), 0);
    assert_ne!(house.page("echo").counter(Counter::PausedOn), 0);
    // Now it reads.
    for _ in 0..n {
        house.end("embedder").poll(&mut program);
        house.end("echo").poll(&mut echo);
    }
    assert_eq!(program.numbers(), (0..n).collect::<Vec<_>>());
    assert!(echo.failed.is_empty());
    assert_eq!(house.page("echo").counter(Counter::PausedOn), 0);
}
