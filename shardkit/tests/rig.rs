//! What the test rig promises, and through it the endpoint.

use shardkit::manifest::Manifest;
use shardkit::prelude::*;
use shardkit::rig::{Delivery, Rig, RigError};
use std::time::Duration;

const MANIFEST: &str = r#"
[application]
name = "echo"
[component.echo]
program = "echo"
capacity = 2
tick_hz = 10.0
[component.echo.in]
ask = { type = "bytes", reply = "bytes" }
[embedder.out]
ask = "echo.ask"
"#;

struct Echo;

impl Shard for Echo {
    fn on_message(&mut self, message: Message<'_>, ctx: &mut Context<'_>) -> Result<()> {
        if message.payload() == b"fail" {
            return Err(Error::new("told to fail"));
        }
        Ok(ctx.reply(&message, message.payload())?)
    }

    fn on_tick(&mut self, _: Tick, _: &mut Context<'_>) -> Result<()> {
        Err(Error::new("tick"))
    }
}

fn rig(seed: u64) -> Rig {
    let manifest = Manifest::parse(MANIFEST, "test.toml").unwrap();
    Rig::new(&manifest).seed(seed).ring_bytes(4096).shard("echo", |_| Ok(Echo)).build().unwrap()
}

fn run(seed: u64) -> Vec<Delivery> {
    let mut rig = rig(seed);
    let session = rig.open("default").unwrap();
    let ask = rig.output::<Bytes, Bytes>("ask").unwrap();
    for n in 0..200u8 {
        rig.send(session, &ask, &Bytes(vec![n; 50])).unwrap();
    }
    rig.run_until_idle();
    for n in 0..200u8 {
        assert_eq!(rig.receive(session).unwrap().as_message().payload(), [n; 50]);
    }
    rig.trace()
}

#[test]
fn small_rings_keep_the_order_and_a_seed_repeats_its_run() {
    let trace = run(7);
    assert_eq!(trace.len(), 400);
    assert_eq!(trace, run(7));
}

#[test]
fn a_message_larger_than_the_ring_arrives_whole_and_its_answer_has_the_calls_number() {
    let mut rig = rig(1);
    let session = rig.open("default").unwrap();
    let ask = rig.output::<Bytes, Bytes>("ask").unwrap();
    let call = rig.call(session, &ask, &Bytes(vec![3; 20_000])).unwrap();
    rig.run_until_idle();
    let answer = rig.receive(session).unwrap();
    assert_eq!(answer.as_message().call(), Some(call));
    assert_eq!(ask.answer(&answer.as_message()).unwrap().unwrap().0, vec![3; 20_000]);
}

#[test]
fn a_full_shard_refuses_and_takes_again_after_a_close() {
    let mut rig = rig(2);
    let first = rig.open("default").unwrap();
    rig.open("default").unwrap();
    assert!(matches!(rig.open("default"), Err(RigError::Refused { .. })));
    rig.close(first).unwrap();
    rig.open("default").unwrap();
}

#[test]
fn errors_and_deaths_end_sessions_with_a_reason() {
    let mut rig = rig(3);
    let (a, b) = (rig.open("default").unwrap(), rig.open("default").unwrap());
    let ask = rig.output::<Bytes, Bytes>("ask").unwrap();
    rig.send(a, &ask, &Bytes(b"fail".to_vec())).unwrap();
    rig.run_until_idle();
    assert_eq!((rig.ending(a), rig.ending(b)), (Some("told to fail"), None));
    rig.kill("echo").unwrap();
    assert!(rig.ending(b).unwrap().contains("died"));
    assert!(matches!(rig.send(b, &ask, &Bytes(vec![])), Err(RigError::Over { .. })));
}

#[test]
fn ticks_fire_in_virtual_time_only() {
    let mut rig = rig(4);
    rig.run_until_idle();
    assert_eq!(rig.reports().len(), 0);
    rig.run_for(Duration::from_millis(350));
    assert_eq!(rig.reports().len(), 3);
}

#[test]
fn missing_factories_and_wrong_ports_are_named() {
    let manifest = Manifest::parse(MANIFEST, "test.toml").unwrap();
    let error = Rig::new(&manifest).build().err().unwrap().to_string();
    assert!(error.contains("`echo`"), "{error}");
    let error = rig(5).output::<Bytes, NoReply>("ask").err().unwrap().to_string();
    assert!(error.contains("no reply"), "{error}");
    let error = rig(5).output::<Bytes, Bytes>("nothing").err().unwrap().to_string();
    assert!(error.contains("`nothing`") && error.contains("`ask`"), "{error}");
}
