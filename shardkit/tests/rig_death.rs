//! What the rig shows of a shard that dies.

use shardkit::manifest::Manifest;
use shardkit::prelude::*;
use shardkit::rig::{Counter, Rig, RigError};
use std::cell::RefCell;
use std::rc::Rc;

const MANIFEST: &str = r#"
[application]
name = "trio"
[component.front]
program = "front"
capacity = 8
in.ask = { type = "bytes", reply = "bytes" }
out.work = "worker.work"
[component.worker]
program = "worker"
capacity = 8
in.work = "bytes"
[component.echo]
program = "echo"
capacity = 8
in.ask = { type = "bytes", reply = "bytes" }
[embedder]
out.ask = "front.ask"
out.echo = "echo.ask"
[composition.all]
entry = ["front", "echo"]
[composition.echo]
entry = ["echo"]
"#;

type Log = Rc<RefCell<Vec<SessionId>>>;

/// Answers, and keeps which sessions were closed.
struct Echo(Log);

impl Shard for Echo {
    fn on_message(&mut self, message: Message<'_>, ctx: &mut Context<'_>) -> Result<()> {
        Ok(ctx.reply(&message, message.payload())?)
    }

    fn on_close(&mut self, session: SessionId, _: &mut Context<'_>) {
        self.0.borrow_mut().push(session);
    }
}

struct Trio {
    rig: Rig,
    front: Log,
    worker: Log,
    echo: Log,
}

fn trio() -> Trio {
    let logs = [Log::default(), Log::default(), Log::default()];
    let [front, worker, echo] = logs.clone().map(Echo);
    let manifest = Manifest::parse(MANIFEST, "test.toml").unwrap();
    let rig = Rig::new(&manifest).shard("front", |_| Ok(front)).shard("worker", |_| Ok(worker));
    let rig = rig.shard("echo", |_| Ok(echo)).build().unwrap();
    let [front, worker, echo] = logs;
    Trio { rig, front, worker, echo }
}

#[test]
fn the_partners_of_a_dead_shard_see_their_sessions_end_once_and_others_go_on() {
    let Trio { mut rig, front, worker, echo } = trio();
    let (a, b) = (rig.open("all").unwrap(), rig.open("all").unwrap());
    let apart = rig.open("echo").unwrap();
    rig.kill("worker").unwrap();
    rig.run_until_idle();
    for log in [&front, &echo] {
        assert_eq!(*log.borrow(), [a, b]);
    }
    assert!(worker.borrow().is_empty(), "the dead see nothing");
    for session in [a, b] {
        assert_eq!(rig.ending(session), Some("the shard of component `worker` died"));
        assert!(matches!(rig.close(session), Err(RigError::Over { .. })));
    }
    assert_eq!(rig.ending(apart), None);
    assert_eq!(rig.counter("front", Counter::Sessions), Some(0));
    assert_eq!(rig.counter("echo", Counter::Sessions), Some(1));
    // A second death changes nothing.
    rig.kill("worker").unwrap();
    rig.run_until_idle();
    assert_eq!(front.borrow().len(), 2);

    let ask = rig.output::<Bytes, Bytes>("echo").unwrap();
    rig.send(apart, &ask, &Bytes(vec![5])).unwrap();
    rig.run_until_idle();
    assert_eq!(rig.receive(apart).unwrap().as_message().payload(), [5]);
}

#[test]
fn no_session_opens_with_a_dead_shard_and_one_without_it_does() {
    let Trio { mut rig, front, .. } = trio();
    rig.kill("worker").unwrap();
    match rig.open("all") {
        Err(RigError::Refused { component, .. }) => assert_eq!(component, "worker"),
        other => panic!("{other:?}"),
    }
    rig.open("echo").unwrap();
    assert!(front.borrow().is_empty());
    assert_eq!(rig.counter("front", Counter::SessionsOpened), Some(0));
}

#[test]
fn what_a_dead_shard_had_not_taken_is_gone_and_nothing_of_it_is_delivered() {
    let Trio { mut rig, .. } = trio();
    let session = rig.open("all").unwrap();
    let ask = rig.output::<Bytes, Bytes>("ask").unwrap();
    rig.send(session, &ask, &Bytes(vec![1])).unwrap();
    rig.kill("front").unwrap();
    rig.run_until_idle();
    assert!(rig.trace().is_empty(), "{:?}", rig.trace());
    assert!(rig.receive(session).is_none());
    assert!(rig.take_rejected().is_empty());
}

/// Can't be scrubbed.
struct Stained;

impl Shard for Stained {
    fn on_message(&mut self, message: Message<'_>, ctx: &mut Context<'_>) -> Result<()> {
        Ok(ctx.reply(&message, message.payload())?)
    }

    fn on_scrub(&mut self, _: &mut Context<'_>) -> Result<()> {
        Err(Error::new("a stain is left"))
    }
}

#[test]
fn a_shard_that_fails_its_scrub_is_not_used_again_and_says_why() {
    let manifest = "[application]\nname = 'solo'\n[component.echo]\nprogram = 'echo'\nafter = 'scrub'\n\
                    in.ask = { type = 'bytes', reply = 'bytes' }\n[embedder]\nout.ask = 'echo.ask'";
    let manifest = Manifest::parse(manifest, "test.toml").unwrap();
    let mut rig = Rig::new(&manifest).shard("echo", |_| Ok(Stained)).build().unwrap();
    let session = rig.open("default").unwrap();
    rig.close(session).unwrap();
    rig.run_until_idle();
    assert_eq!(rig.reports(), ["echo: scrub failed: a stain is left"]);
    assert!(rig.open("default").is_err(), "it is used again");
}
