//! One shard with links of all kinds polls them in one round, and sleeps on all of them at once.

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use shard_runtime::id::{ComponentId, LinkId, SessionId, ShardId};
use shard_runtime::inbox::{Inbound, WaitStrategy};
use shard_runtime::outbox::Outbound;
use shard_runtime::rdma::Rdma;
use shard_runtime::remote::{End, LinkKey, News, Remote, RemoteKind, RemoteLink};
use shard_runtime::ring::{Ring, RingReader, RingWriter};
use shard_runtime::secure::Identity;
use shard_runtime::verbs::{Wish, choose};
use shard_runtime::wake::{Bell, SWEEP_NS, create_bell};
use shardkit::application::Application;
use shardkit::manifest::Manifest;
use shardkit::prelude::{Bytes, Context, Message, Out, Shard};
use shardkit::{Config, Endpoint};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const MANIFEST: &str = r#"
[application]
name = "mixed"

[component.echo]
program = "echo"
capacity = 8

[component.echo.in]
ask = { type = "bytes", reply = "bytes" }

[component.asker]
program = "asker"
capacity = 8

[component.asker.out]
ask = "echo.ask"
"#;

const RING: usize = 64 << 10;
const MESSAGE_BYTES_MAX: usize = 64 << 10;
const PATIENCE: Duration = Duration::from_secs(60);
/// A shard that nobody wakes looks for itself after a while: an answer that came earlier was woken for.
const LATE: Duration = Duration::from_nanos(SWEEP_NS * 4 / 5);
const OWN_LINK: LinkId = LinkId(1);
const ROUNDS: u64 = 40;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Shm,
    Remote(RemoteKind),
}

fn identities() -> [Identity; 2] {
    let mut params = CertificateParams::new([]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let roots = params.self_signed(&key).unwrap().pem();
    let issuer = Issuer::new(params, key);
    ["echo", "asker"].map(|name| {
        let key = KeyPair::generate().unwrap();
        let certificate =
            CertificateParams::new([name.to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
        Identity::from_pem(certificate.pem().as_bytes(), key.serialize_pem().as_bytes(), roots.as_bytes())
            .unwrap()
    })
}

fn endpoint(application: &Application, name: &str) -> Endpoint {
    let id = application.find(name).unwrap();
    let bell = Bell::map(&create_bell("bell").unwrap()).unwrap();
    Endpoint::new(ShardId(u32::from(id.0)), application.component(id).clone(), bell, None)
}

fn remote(identity: Identity, kinds: &[Kind]) -> Remote {
    let rdma = if kinds.contains(&Kind::Remote(RemoteKind::Rdma)) {
        Ok(Rdma::open(&choose(&Wish::default()).unwrap(), 4).unwrap())
    } else {
        Err("not asked for".to_owned())
    };
    Remote::new(identity, rdma).unwrap()
}

fn ring() -> Ring {
    Ring::new(Ring::create("ring", RING).unwrap().map(true).unwrap(), RING)
}

fn carried(end: &mut Endpoint, link: LinkId, peer: ComponentId, what: RemoteLink) {
    let inbound = Inbound::new(RingReader::vouched(ring()), end.ringer(), MESSAGE_BYTES_MAX);
    let outbound = Outbound::carried(RingWriter::new(ring()), MESSAGE_BYTES_MAX);
    end.attach_remote(link, Some(peer), inbound, outbound, what);
}

/// A pair of rings that both ends map.
fn shared(
    a: &mut Endpoint,
    a_link: LinkId,
    a_is: ComponentId,
    b: &mut Endpoint,
    b_link: LinkId,
    b_is: ComponentId,
) {
    let one_way = |from: &Endpoint, to: &Endpoint, link: LinkId| {
        let region = Ring::create("ring", RING).unwrap();
        let end = || Ring::new(region.map(true).unwrap(), RING);
        let inbound = Inbound::new(RingReader::new(end()), from.ringer(), MESSAGE_BYTES_MAX);
        (inbound, Outbound::new(RingWriter::new(end()), to.ringer(), link, MESSAGE_BYTES_MAX))
    };
    let (b_in, a_out) = one_way(a, b, b_link);
    let (a_in, b_out) = one_way(b, a, a_link);
    a.attach(a_link, Some(b_is), a_in, a_out);
    b.attach(b_link, Some(a_is), b_in, b_out);
}

struct Echo;

impl Shard for Echo {
    fn on_message(&mut self, message: Message<'_>, context: &mut Context<'_>) -> shardkit::Result<()> {
        Ok(context.reply(&message, message.payload())?)
    }
}

struct Asker {
    answers: u64,
}

impl Shard for Asker {
    fn on_message(&mut self, message: Message<'_>, _: &mut Context<'_>) -> shardkit::Result<()> {
        assert_eq!(message.payload(), self.answers.to_le_bytes());
        self.answers += 1;
        Ok(())
    }
}

/// Asks over one link, now and then, and sees that the sleeping shard at its other end is woken each time.
fn ask(mut end: Endpoint, kind: Kind, ask: &Out<Bytes, Bytes>, session: SessionId) {
    let (mut shard, mut up) = (Asker { answers: 0 }, kind == Kind::Shm);
    let start = Instant::now();
    for number in 0..ROUNDS {
        while !up {
            end.poll(&mut shard);
            up = matches!(end.take_news(), Some((_, News::Up)));
            assert!(start.elapsed() < PATIENCE, "{kind:?} does not come up");
        }
        // Long enough for both ends to be asleep, at a different moment for each kind.
        thread::sleep(Duration::from_micros(3_000 + number * 137));
        let asked = Instant::now();
        end.context().send(ask, session, &Bytes(number.to_le_bytes().to_vec())).unwrap();
        while shard.answers <= number {
            if end.poll(&mut shard) == 0 {
                end.wait(WaitStrategy::Park, None);
            }
            assert!(start.elapsed() < PATIENCE, "{kind:?}: {number} is not answered");
        }
        assert!(asked.elapsed() < LATE, "{kind:?}: {number} was answered after {:?}", asked.elapsed());
    }
    assert!(end.take_news().is_none(), "{kind:?} broke");
}

fn one_shard_serves(kinds: &[Kind]) {
    let application = Manifest::parse(MANIFEST, "mixed.toml").unwrap().application().clone();
    let [echo, asker] = ["echo", "asker"].map(|name| application.find(name).unwrap());
    let [of_echo, of_asker] = identities();
    let mut hub = endpoint(&application, "echo");
    let mut hub_remote = remote(of_echo, kinds);
    let address: SocketAddr = hub_remote.listen("127.0.0.1:0".parse().unwrap()).unwrap();
    hub.set_remote(hub_remote).unwrap();
    let out =
        Config::of_embedder(application.component(asker).clone()).output::<Bytes, Bytes>("ask").unwrap();
    let mut askers = Vec::new();
    for (number, kind) in (1u16..).zip(kinds) {
        let (link, session) = (LinkId(number), SessionId::new(u32::from(number), 1));
        let mut end = endpoint(&application, "asker");
        match *kind {
            Kind::Shm => shared(&mut hub, link, echo, &mut end, OWN_LINK, asker),
            Kind::Remote(kind) => {
                end.set_remote(remote(of_asker.clone(), kinds)).unwrap();
                let key = LinkKey([number as u8; 16]);
                let what = |node: &str, end| RemoteLink { key, kind, node: node.into(), end };
                carried(&mut hub, link, asker, what("asker", End::Accepts));
                carried(&mut end, OWN_LINK, echo, what("echo", End::Connects(address)));
            }
        }
        hub.open(session, 0, [(asker, link)].into_iter());
        end.open(session, 0, [(echo, OWN_LINK)].into_iter());
        askers.push((end, *kind, session));
    }
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let serves = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                if hub.poll(&mut Echo) == 0 {
                    hub.wait(WaitStrategy::Park, None);
                }
            }
        });
        let asking: Vec<_> = askers
            .into_iter()
            .map(|(end, kind, session)| {
                let out = &out;
                scope.spawn(move || ask(end, kind, out, session))
            })
            .collect();
        let asked: Vec<_> = asking.into_iter().map(thread::ScopedJoinHandle::join).collect();
        done.store(true, Ordering::Relaxed);
        serves.join().unwrap();
        for outcome in asked {
            outcome.unwrap();
        }
    });
}

#[test]
fn one_shard_sleeps_on_links_of_this_host_and_of_others() {
    one_shard_serves(&[Kind::Shm, Kind::Remote(RemoteKind::Tcp), Kind::Remote(RemoteKind::Tcp)]);
}

#[test]
#[ignore = "needs an RDMA device: cargo run --release -p soft-roce -- test"]
fn one_shard_sleeps_on_links_of_all_kinds() {
    one_shard_serves(&[Kind::Shm, Kind::Remote(RemoteKind::Rdma), Kind::Remote(RemoteKind::Tcp)]);
}
