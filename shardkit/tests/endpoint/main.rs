//! What an endpoint promises, shown with endpoints over real rings.

mod back_pressure;
#[path = "../house/mod.rs"]
mod house;

use house::{House, application};
use shard_runtime::frame::{Flags, Header};
use shard_runtime::id::{ComponentId, LinkId, PortId};
use shard_runtime::inbox::Receiver;
use shard_runtime::ring::RingError;
use shard_runtime::session::{Open, Verb};
use shard_runtime::stats::{Counter, SAMPLE_EVERY, Timing};
use shardkit::application::After;
use shardkit::prelude::*;
use shardkit::{OwnedMessage, Refused};

const SESSION: SessionId = SessionId::new(3, 1);
const SMALL_RING: usize = 4096;

/// Keeps what happens to it.
#[derive(Default)]
struct Record {
    messages: Vec<OwnedMessage>,
    rejected: Vec<Rejected>,
    opened: Vec<SessionId>,
    closed: Vec<SessionId>,
}

impl Shard for Record {
    fn on_message(&mut self, message: Message<'_>, _: &mut Context<'_>) -> Result<()> {
        self.messages.push(message.to_owned());
        Ok(())
    }

    fn on_open(&mut self, session: SessionId, _: &mut Context<'_>) -> Result<()> {
        self.opened.push(session);
        Ok(())
    }

    fn on_close(&mut self, session: SessionId, _: &mut Context<'_>) {
        self.closed.push(session);
    }

    fn on_rejected(&mut self, rejected: Rejected, _: &mut Context<'_>) {
        self.rejected.push(rejected);
    }
}

impl Record {
    fn numbers(&self) -> Vec<u64> {
        self.messages.iter().map(|message| number(message.as_message().payload())).collect()
    }
}

fn numbered(number: u64) -> Bytes {
    Bytes(number.to_le_bytes().to_vec())
}

fn number(payload: &[u8]) -> u64 {
    u64::from_le_bytes(*payload.first_chunk().unwrap())
}

/// Answers with what came, and keeps what it could not answer.
#[derive(Default)]
struct Echo {
    failed: Vec<SendError>,
}

impl Shard for Echo {
    fn on_message(&mut self, message: Message<'_>, ctx: &mut Context<'_>) -> Result<()> {
        if let Err(error) = ctx.reply(&message, message.payload()) {
            self.failed.push(error);
        }
        Ok(())
    }
}

// Several destinations.

const FAN: &str = r#"
[application]
name = "fan"
[component.source]
program = "source"
out.all = ["left.in", "middle.in", "right.in"]
[component.left]
program = "left"
in.in = "bytes"
[component.middle]
program = "middle"
in.in = "bytes"
[component.right]
program = "right"
in.in = "bytes"
"#;
const RECEIVERS: [&str; 3] = ["left", "middle", "right"];

fn send(house: &mut House, from: &str, port: &Out<Bytes>, value: &Bytes) -> Result<(), SendError> {
    let mut ctx = house.end(from).context();
    let sent = ctx.send(port, SESSION, value);
    ctx.flush();
    sent
}

#[test]
fn every_destination_of_a_port_gets_each_message_once_and_in_order() {
    let mut house = House::new(application(FAN), SMALL_RING);
    house.open(SESSION, &["source", "left", "middle", "right"]);
    let all = house.config("source").output("all").unwrap();
    let mut records = [Record::default(), Record::default(), Record::default()];
    for n in 0..500 {
        send(&mut house, "source", &all, &numbered(n)).unwrap();
    }
    for _ in 0..500 {
        house.end("source").poll(&mut Record::default());
        for (name, record) in RECEIVERS.into_iter().zip(&mut records) {
            house.drain(name, record);
        }
    }
    for (name, record) in RECEIVERS.into_iter().zip(&records) {
        assert_eq!(record.numbers(), (0..500).collect::<Vec<_>>(), "{name}");
    }
    assert_eq!(house.page("source").counter(Counter::MessagesOut), 1500);
}

#[test]
fn a_destination_that_the_composition_lacks_is_an_error_and_the_others_still_get_the_message() {
    for missing in RECEIVERS {
        let mut house = House::new(application(FAN), SMALL_RING);
        let members: Vec<&str> = ["source"].into_iter().chain(RECEIVERS).filter(|n| *n != missing).collect();
        house.open(SESSION, &members);
        let all = house.config("source").output("all").unwrap();
        assert_eq!(send(&mut house, "source", &all, &numbered(8)), Err(SendError::NotComposed), "{missing}");
        for name in RECEIVERS {
            let mut record = Record::default();
            house.drain(name, &mut record);
            let due = if name == missing { vec![] } else { vec![8] };
            assert_eq!(record.numbers(), due, "{name} while {missing} is missing");
        }
    }
}

#[test]
fn a_full_destination_refuses_alone_and_loses_nothing_that_it_took() {
    for full in RECEIVERS {
        let mut house = House::new(application(FAN), SMALL_RING);
        house.open(SESSION, &["source", "left", "middle", "right"]);
        let all = house.config("source").output("all").unwrap();
        let mut records = [Record::default(), Record::default(), Record::default()];
        let (mut taken, mut refused) = (Vec::new(), Vec::new());
        let mut n = 0;
        while refused.len() < 100 {
            match send(&mut house, "source", &all, &numbered(n)) {
                Ok(()) => taken.push(n),
                Err(error) => {
                    assert_eq!(error, SendError::Full);
                    refused.push(n);
                }
            }
            n += 1;
            for (name, record) in RECEIVERS.into_iter().zip(&mut records) {
                if name != full {
                    house.drain(name, record);
                }
            }
        }
        let page = house.page("source");
        assert_eq!(page.counter(Counter::MessagesOut), 3 * n - 100, "what was refused was not sent");
        for _ in 0..n {
            house.end("source").poll(&mut Record::default());
            for (name, record) in RECEIVERS.into_iter().zip(&mut records) {
                house.drain(name, record);
            }
        }
        for (name, record) in RECEIVERS.into_iter().zip(&records) {
            let due = if name == full { taken.clone() } else { (0..n).collect() };
            assert_eq!(record.numbers(), due, "{name} while {full} is full");
        }
    }
}

// Loans.

const LEND: &str = r#"
[application]
name = "lend"
[component.camera]
program = "camera"
out.frame = "screen.frame"
out.both = ["screen.frame", "disk.frame"]
[component.screen]
program = "screen"
in.frame = { type = "bytes", max = "3KiB" }
[component.disk]
program = "disk"
in.frame = { type = "bytes", max = "3KiB" }
"#;

fn lending() -> House {
    let mut house = House::new(application(LEND), SMALL_RING);
    house.open(SESSION, &["camera", "screen", "disk"]);
    house
}

#[test]
fn lent_bytes_arrive_between_what_was_sent_before_and_after() {
    let mut house = lending();
    let frame: Out<Bytes> = house.config("camera").output("frame").unwrap();
    let mut ctx = house.end("camera").context();
    ctx.send(&frame, SESSION, &numbered(1)).unwrap();
    let lent = ctx.lend(&frame, SESSION, 1000, |loan| {
        assert_eq!(loan.len(), 1000);
        loan.write(0, &[2; 400]);
        loan.write(400, &[3; 600]);
    });
    lent.unwrap();
    ctx.send(&frame, SESSION, &numbered(4)).unwrap();
    ctx.flush();
    let mut screen = Record::default();
    house.drain("screen", &mut screen);
    let came: Vec<Vec<u8>> = screen.messages.iter().map(|m| m.as_message().payload().to_vec()).collect();
    assert_eq!(came, [numbered(1).0, [[2; 400].as_slice(), &[3; 600]].concat(), numbered(4).0]);
    assert_eq!(house.page("camera").counter(Counter::MessagesOut), 3);
}

#[test]
fn a_loan_is_refused_beyond_the_port_beyond_half_the_ring_and_while_older_messages_wait() {
    let mut house = lending();
    let frame: Out<Bytes> = house.config("camera").output("frame").unwrap();
    let mut ctx = house.end("camera").context();
    let lend = |bytes, ctx: &mut Context<'_>| {
        ctx.lend(&frame, SESSION, bytes, |_| panic!("a refused loan must not be filled"))
    };
    assert_eq!(lend(3073, &mut ctx), Err(SendError::TooLarge { bytes: 3073, bytes_max: 3072 }));
    let most = SMALL_RING / 2 - 16;
    assert_eq!(lend(most + 1, &mut ctx), Err(SendError::TooLarge { bytes: most + 1, bytes_max: most }));
    assert_eq!(
        ctx.lend(&frame, SessionId::new(9, 9), 1, |_| panic!("no session, no loan")),
        Err(SendError::UnknownSession)
    );
    ctx.lend(&frame, SESSION, most, |loan| loan.write(0, &vec![7; most])).unwrap();
    while ctx.has_room(&frame, SESSION) {
        ctx.send(&frame, SESSION, &numbered(5)).unwrap();
    }
    assert_eq!(lend(1, &mut ctx), Err(SendError::Full));
    let mut screen = Record::default();
    for _ in 0..100 {
        house.drain("screen", &mut screen);
        house.end("camera").poll(&mut Record::default());
    }
    assert_eq!(screen.messages[0].as_message().payload(), vec![7; most]);
    assert_eq!(screen.messages.len() as u64, house.page("camera").counter(Counter::MessagesOut));
}

#[test]
#[should_panic(expected = "only a port with one destination can lend")]
fn lending_through_a_port_with_two_destinations_panics() {
    let mut house = lending();
    let both: Out<Bytes> = house.config("camera").output("both").unwrap();
    let _ = house.end("camera").context().lend(&both, SESSION, 8, |_| ());
}

// Refusals.

const CALL: &str = r#"
[application]
name = "call"
[component.caller]
program = "caller"
out.first = "callee.first"
out.second = "callee.second"
[component.callee]
program = "callee"
in.first = { type = "bytes", reply = "bytes" }
in.second = { type = "bytes", max = "100B" }
"#;

/// What the caller hears of a message of so many bytes through its output at `port`, which the callee refuses.
fn refusal(house: &mut House, port: u16, bytes: usize) -> Refused {
    let before = house.page("callee").counter(Counter::Refused);
    let value = Bytes(vec![0; bytes]);
    let config = house.config("caller");
    let mut ctx = house.end("caller").context();
    let sent = match port {
        0 => ctx.send::<Bytes, Bytes>(&config.output("first").unwrap(), SESSION, &value),
        _ => ctx.send::<Bytes, NoReply>(&config.output("second").unwrap(), SESSION, &value),
    };
    sent.unwrap();
    ctx.flush();
    let (mut caller, mut callee) = (Record::default(), Record::default());
    house.drain("callee", &mut callee);
    house.drain("caller", &mut caller);
    assert_eq!(callee.messages.len() + caller.messages.len(), 0, "a refused message is not handed over");
    assert_eq!(house.page("callee").counter(Counter::Refused), before + 1);
    assert_eq!(house.page("caller").counter(Counter::Refused), 0);
    let [rejected] = caller.rejected[..] else { panic!("{:?}", caller.rejected) };
    assert_eq!((rejected.session, rejected.port), (SESSION, PortId(port)));
    rejected.why
}

#[test]
fn a_message_of_a_session_that_the_receiver_never_opened_is_refused_to_its_sender() {
    let mut house = House::new(application(CALL), SMALL_RING);
    let routes = house.routes("caller", &["callee"]);
    house.end("caller").open(SESSION, 0, routes.into_iter());
    assert_eq!(refusal(&mut house, 0, 100), Refused::Session);
}

#[test]
fn a_message_of_a_session_that_the_receiver_closed_is_refused_to_its_sender() {
    let mut house = House::new(application(CALL), SMALL_RING);
    house.open(SESSION, &["caller", "callee"]);
    assert!(house.end("callee").close(SESSION));
    assert_eq!(refusal(&mut house, 0, 100), Refused::Session);
    assert_eq!(refusal(&mut house, 1, 100), Refused::Session);
}

#[test]
fn a_message_for_a_port_that_the_receiver_has_not_is_refused_to_its_sender() {
    let application = application(CALL);
    let mut components = application.components.clone();
    // The callee runs an older manifest, without the second input.
    components[1].inputs.truncate(1);
    let mut house = House::with(application, &components, SMALL_RING);
    house.open(SESSION, &["caller", "callee"]);
    assert_eq!(refusal(&mut house, 1, 100), Refused::Port);
}

#[test]
fn a_message_larger_than_the_receivers_port_takes_is_refused_to_its_sender() {
    let application = application(CALL);
    let mut components = application.components.clone();
    // The caller runs an older manifest, with a larger limit.
    components[0].outputs[1].message_bytes_max = 1000;
    let mut house = House::with(application, &components, SMALL_RING);
    house.open(SESSION, &["caller", "callee"]);
    assert_eq!(refusal(&mut house, 1, 101), Refused::TooLarge);
}

#[test]
fn a_message_of_a_session_that_is_open_but_not_with_this_sender_is_refused() {
    let mut house = House::new(application(CALL), SMALL_RING);
    let routes = house.routes("caller", &["callee"]);
    house.end("caller").open(SESSION, 0, routes.into_iter());
    house.end("callee").open(SESSION, 0, std::iter::empty());
    assert_eq!(refusal(&mut house, 0, 100), Refused::Link);
}

// Openings and closings.

/// Opens the session in the callee as the composer does.
fn open_callee(house: &mut House, shard: &mut impl Shard) {
    let mut payload = Vec::new();
    Open::encode(0, house.routes("callee", &["caller"]).into_iter(), &mut payload);
    house.tell("callee", Verb::Open, SESSION, &payload);
    house.drain("callee", shard);
    assert_eq!(house.told(), [told(Verb::Opened, "")]);
}

fn told(verb: Verb, text: &str) -> house::Told {
    ("callee".into(), verb, SESSION, text.into())
}

#[test]
fn a_session_that_is_closed_twice_is_closed_once_and_acknowledged_twice() {
    let mut house = House::new(application(CALL), SMALL_RING);
    let mut callee = Record::default();
    open_callee(&mut house, &mut callee);
    for _ in 0..2 {
        house.tell("callee", Verb::Close, SESSION, &[]);
    }
    house.drain("callee", &mut callee);
    assert_eq!((callee.opened, callee.closed), (vec![SESSION], vec![SESSION]));
    assert_eq!(house.told(), [told(Verb::Closed, ""), told(Verb::Closed, "")]);
    assert_eq!(house.page("callee").counter(Counter::Sessions), 0);
    assert_eq!(house.page("callee").counter(Counter::SessionsOpened), 1);
}

/// Ends its session at every message and at the closing, and counts closings.
#[derive(Default)]
struct Quitter {
    closed: usize,
}

impl Shard for Quitter {
    fn on_message(&mut self, message: Message<'_>, ctx: &mut Context<'_>) -> Result<()> {
        ctx.end(message.session(), "enough");
        Ok(())
    }

    fn on_close(&mut self, session: SessionId, ctx: &mut Context<'_>) {
        self.closed += 1;
        ctx.end(session, "again");
    }
}

#[test]
fn an_end_that_crosses_with_the_composers_close_closes_the_session_once() {
    let mut house = House::new(application(CALL), SMALL_RING);
    let mut callee = Quitter::default();
    open_callee(&mut house, &mut callee);
    let routes = house.routes("caller", &["callee"]);
    house.end("caller").open(SESSION, 0, routes.into_iter());
    let second = house.config("caller").output("second").unwrap();
    send(&mut house, "caller", &second, &numbered(1)).unwrap();
    house.end("callee").context().end(SESSION, "first");
    house.end("callee").context().flush();
    // The composer closes before it hears of the end, and once more when it does.
    house.tell("callee", Verb::Close, SESSION, &[]);
    house.drain("callee", &mut callee);
    let ends = house.told().into_iter().filter(|(_, verb, ..)| *verb == Verb::End).count();
    assert!(ends >= 2, "{ends} ends crossed");
    house.tell("callee", Verb::Close, SESSION, &[]);
    house.drain("callee", &mut callee);
    assert_eq!(callee.closed, 1);
    assert_eq!(house.told(), [told(Verb::Closed, "")]);
}

/// Has to be scrubbed, and fails to be if it is stained.
#[derive(Default)]
struct Slate {
    stained: bool,
    calls: Vec<&'static str>,
}

impl Shard for Slate {
    fn on_message(&mut self, _: Message<'_>, _: &mut Context<'_>) -> Result<()> {
        Ok(())
    }

    fn on_close(&mut self, _: SessionId, _: &mut Context<'_>) {
        self.calls.push("close");
    }

    fn on_scrub(&mut self, _: &mut Context<'_>) -> Result<()> {
        self.calls.push("scrub");
        if self.stained { Err(Error::new("a stain is left")) } else { Ok(()) }
    }
}

/// The callee of `CALL`, of which the manifest says what becomes of it.
fn house_with_after(after: After) -> House {
    let mut application = application(CALL);
    let callee = application.find("callee").unwrap();
    application.components[usize::from(callee.0)].after = after;
    House::new(application, SMALL_RING)
}

#[test]
fn a_shard_is_scrubbed_after_its_last_session_before_the_closing_is_acknowledged() {
    let mut house = house_with_after(After::Scrub);
    let mut callee = Slate::default();
    open_callee(&mut house, &mut callee);
    let other = SessionId::new(4, 1);
    house.end("callee").open(other, 0, std::iter::empty());
    house.tell("callee", Verb::Close, SESSION, &[]);
    house.drain("callee", &mut callee);
    assert_eq!(callee.calls, ["close"], "another session is open");
    house.tell("callee", Verb::Close, other, &[]);
    // What is not open was scrubbed before.
    house.tell("callee", Verb::Close, other, &[]);
    house.drain("callee", &mut callee);
    assert_eq!(callee.calls, ["close", "close", "scrub"]);
    let verbs: Vec<Verb> = house.told().into_iter().map(|(_, verb, ..)| verb).collect();
    assert_eq!(verbs, [Verb::Closed; 3]);
}

#[test]
fn a_scrub_that_fails_is_told_with_its_reason_instead_of_the_closing() {
    let mut house = house_with_after(After::Scrub);
    let mut callee = Slate { stained: true, ..Slate::default() };
    open_callee(&mut house, &mut callee);
    house.tell("callee", Verb::Close, SESSION, &[]);
    house.drain("callee", &mut callee);
    assert_eq!(house.told(), [told(Verb::ScrubFailed, "a stain is left")]);
}

#[test]
fn a_shard_that_returns_as_it_is_or_ends_is_not_scrubbed() {
    for after in [After::Return, After::Restart] {
        let mut house = house_with_after(after);
        let mut callee = Slate { stained: true, ..Slate::default() };
        open_callee(&mut house, &mut callee);
        house.tell("callee", Verb::Close, SESSION, &[]);
        house.drain("callee", &mut callee);
        assert_eq!(callee.calls, ["close"]);
        assert_eq!(house.told(), [told(Verb::Closed, "")]);
    }
}

/// Refuses every session.
#[derive(Default)]
struct Closed(Record);

impl Shard for Closed {
    fn on_message(&mut self, message: Message<'_>, ctx: &mut Context<'_>) -> Result<()> {
        self.0.on_message(message, ctx)
    }

    fn on_open(&mut self, _: SessionId, _: &mut Context<'_>) -> Result<()> {
        Err(Error::new("not today"))
    }

    fn on_close(&mut self, session: SessionId, ctx: &mut Context<'_>) {
        self.0.on_close(session, ctx);
    }
}

#[test]
fn a_session_that_was_refused_is_never_closed_though_its_closing_is_acknowledged() {
    let mut house = House::new(application(CALL), SMALL_RING);
    let mut callee = Closed::default();
    let mut payload = Vec::new();
    Open::encode(0, house.routes("callee", &["caller"]).into_iter(), &mut payload);
    house.tell("callee", Verb::Open, SESSION, &payload);
    house.tell("callee", Verb::Close, SESSION, &[]);
    house.drain("callee", &mut callee);
    assert_eq!(house.told(), [told(Verb::OpenRefused, "not today"), told(Verb::Closed, "")]);
    assert!(callee.0.closed.is_empty());
    assert_eq!(house.page("callee").counter(Counter::Sessions), 0);
}

#[test]
fn nobody_but_the_composer_opens_or_closes_a_session() {
    let mut house = House::new(application(CALL), SMALL_RING);
    let mut callee = Record::default();
    open_callee(&mut house, &mut callee);
    let (_, mut liar) = house.wire_raw("callee", LinkId(9), ComponentId(0));
    let other = SessionId::new(4, 1);
    for (verb, session) in [(Verb::Close, SESSION), (Verb::Open, other)] {
        let header = Header::new(session, verb.port()).flagged(Flags::CONTROL);
        liar.send(LinkId(0), header, &[0, 0]).unwrap().unwrap();
    }
    liar.flush();
    house.drain("callee", &mut callee);
    assert_eq!((callee.opened, callee.closed), (vec![SESSION], vec![]));
    assert!(house.told().is_empty());
    assert_eq!(house.page("callee").counter(Counter::Refused), 2);
}

// Stamps.

/// Keeps the headers that come.
#[derive(Default)]
struct Headers(Vec<Header>);

impl Receiver for Headers {
    fn message(&mut self, _: LinkId, header: &Header, _: &[u8]) {
        self.0.push(*header);
    }

    fn drained(&mut self, _: LinkId, _: usize) {}

    fn broken(&mut self, link: LinkId, error: RingError) {
        panic!("{link:?} broke: {error}");
    }
}

#[test]
fn one_in_sample_every_messages_says_when_it_was_sent() {
    let mut house = House::new(application(CALL), SMALL_RING);
    let (mut inbox, _outbox) = house.wire_raw("caller", LinkId(9), ComponentId(1));
    house.end("caller").open(SESSION, 0, [(ComponentId(1), LinkId(9))].into_iter());
    let second = house.config("caller").output("second").unwrap();
    let mut headers = Headers::default();
    let begin_ns = shard_runtime::clock::now_ns();
    for n in 0..10 * SAMPLE_EVERY + 5 {
        send(&mut house, "caller", &second, &numbered(n)).unwrap();
        inbox.poll(&mut headers);
    }
    let end_ns = shard_runtime::clock::now_ns();
    let stamped = |header: &Header| header.flags.has(Flags::STAMP);
    let at: Vec<usize> = (0..headers.0.len()).filter(|at| stamped(&headers.0[*at])).collect();
    let every = SAMPLE_EVERY as usize;
    assert_eq!(at, (1..=10).map(|n| n * every - 1).collect::<Vec<_>>());
    let stamps: Vec<u64> = headers.0.iter().filter(|h| stamped(h)).map(|h| h.stamp_ns).collect();
    assert!(stamps.is_sorted() && stamps[0] >= begin_ns && stamps[9] <= end_ns, "{stamps:?}");
}

#[test]
fn the_receiver_times_what_carries_a_stamp_and_nothing_else() {
    let mut house = House::new(application(CALL), SMALL_RING);
    house.open(SESSION, &["caller", "callee"]);
    let second = house.config("caller").output("second").unwrap();
    let mut callee = Record::default();
    for n in 1..=10 * SAMPLE_EVERY + 5 {
        send(&mut house, "caller", &second, &numbered(n)).unwrap();
        house.drain("callee", &mut callee);
        let page = house.page("callee");
        for timing in [Timing::Transit, Timing::Handler] {
            assert_eq!(page.histogram(timing).count(), n / SAMPLE_EVERY, "{timing:?} after {n}");
        }
    }
    assert_eq!(callee.messages.len() as u64, 10 * SAMPLE_EVERY + 5);
}

// Answers.

const ASK: &str = r#"
[application]
name = "ask"
[component.caller]
program = "caller"
out.ask = "callee.ask"
out.ask-too = "callee.ask-too"
[component.callee]
program = "callee"
in.ask = { type = "bytes", reply = "bytes" }
in.ask-too = { type = "bytes", reply = "bytes" }
"#;

fn asking() -> (House, Out<Bytes, Bytes>, Out<Bytes, Bytes>) {
    let mut house = House::new(application(ASK), SMALL_RING);
    house.open(SESSION, &["caller", "callee"]);
    let config = house.config("caller");
    (house, config.output("ask").unwrap(), config.output("ask-too").unwrap())
}

fn call(house: &mut House, port: &Out<Bytes, Bytes>, n: u64) -> CallId {
    let mut ctx = house.end("caller").context();
    let call = ctx.call(port, SESSION, &numbered(n)).unwrap();
    ctx.flush();
    call
}

fn reply(house: &mut House, to: &OwnedMessage, n: u64) -> Result<(), SendError> {
    let mut ctx = house.end("callee").context();
    let sent = ctx.reply(&to.as_message(), &numbered(n).0);
    ctx.flush();
    sent
}

#[test]
fn an_answer_carries_its_calls_number_and_port_whenever_it_is_given() {
    let (mut house, ask, ask_too) = asking();
    let first = |n: u64| n.is_multiple_of(2);
    let calls: Vec<CallId> =
        (0..20).map(|n| call(&mut house, if first(n) { &ask } else { &ask_too }, n)).collect();
    let mut callee = Record::default();
    house.drain("callee", &mut callee);
    let heard: Vec<_> = callee.messages.iter().map(|message| message.as_message().call()).collect();
    assert_eq!(heard, calls.iter().copied().map(Some).collect::<Vec<_>>());
    let backwards: Vec<OwnedMessage> = callee.messages.into_iter().rev().collect();
    for question in &backwards {
        reply(&mut house, question, number(question.as_message().payload()) + 100).unwrap();
    }
    let mut caller = Record::default();
    house.drain("caller", &mut caller);
    assert_eq!(caller.numbers(), (100..120).rev().collect::<Vec<_>>());
    for answer in &caller.messages {
        let answer = answer.as_message();
        let n = number(answer.payload()) - 100;
        assert_eq!(answer.call(), Some(calls[n as usize]), "the answer to call {n}");
        assert!(answer.is_reply());
        assert_eq!((ask.is_answer(&answer), ask_too.is_answer(&answer)), (first(n), !first(n)));
    }
}

#[test]
fn an_answer_to_a_message_that_is_no_call_has_no_number() {
    let (mut house, ask, _) = asking();
    let mut ctx = house.end("caller").context();
    ctx.send(&ask, SESSION, &numbered(1)).unwrap();
    ctx.flush();
    let (mut caller, mut callee) = (Record::default(), Echo::default());
    house.drain("callee", &mut callee);
    house.drain("caller", &mut caller);
    assert_eq!(caller.messages.len(), 1);
    assert_eq!(caller.messages[0].as_message().call(), None);
}

#[test]
fn an_answer_after_the_session_closed_is_an_error_and_nothing_leaves() {
    let (mut house, ask, _) = asking();
    call(&mut house, &ask, 1);
    let mut callee = Record::default();
    house.drain("callee", &mut callee);
    house.end("callee").close(SESSION);
    assert_eq!(reply(&mut house, &callee.messages[0], 2), Err(SendError::UnknownSession));
    let mut caller = Record::default();
    assert_eq!(house.drain("caller", &mut caller), 0);
    assert_eq!(house.page("callee").counter(Counter::MessagesOut), 0);
}

#[test]
fn an_answer_to_a_caller_that_closed_the_session_comes_back_as_refused() {
    let (mut house, ask, _) = asking();
    call(&mut house, &ask, 1);
    let mut callee = Record::default();
    house.drain("callee", &mut callee);
    house.end("caller").close(SESSION);
    assert_eq!(reply(&mut house, &callee.messages[0], 2), Ok(()));
    let mut caller = Record::default();
    house.drain("caller", &mut caller);
    house.drain("callee", &mut callee);
    assert_eq!(caller.messages.len(), 0);
    let refused = Rejected { session: SESSION, port: PortId(0), why: Refused::Session };
    assert_eq!(callee.rejected, [refused]);
}

#[test]
fn an_answer_over_a_link_that_is_gone_is_an_error() {
    let (mut house, ask, _) = asking();
    call(&mut house, &ask, 1);
    let mut callee = Record::default();
    house.drain("callee", &mut callee);
    let link = house.link("callee", "caller");
    house.end("callee").detach(link);
    assert_eq!(reply(&mut house, &callee.messages[0], 2), Err(SendError::LinkGone));
    assert_eq!(house.page("callee").counter(Counter::MessagesOut), 0, "what was refused was not sent");
}

#[test]
fn an_answer_can_not_be_answered() {
    let (mut house, ask, _) = asking();
    call(&mut house, &ask, 1);
    let (mut caller, mut callee) = (Echo::default(), Echo::default());
    house.drain("callee", &mut callee);
    house.drain("caller", &mut caller);
    assert_eq!((callee.failed, caller.failed), (vec![], vec![SendError::NoReply]));
    assert_eq!(house.drain("callee", &mut Record::default()), 0);
}
