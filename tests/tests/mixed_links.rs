//! One shard with links of all kinds polls them in one round, sleeps on all of them at once, and is held to its bandwidth on
//! those to other hosts.

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use shard_runtime::id::{ComponentId, LinkId, SessionId, ShardId};
use shard_runtime::inbox::{Inbound, WaitStrategy};
use shard_runtime::outbox::Outbound;
use shard_runtime::rate::Rate;
use shard_runtime::rdma::Rdma;
use shard_runtime::remote::{End, LinkKey, News, Remote, RemoteKind, RemoteLink};
use shard_runtime::ring::{Ring, RingReader, RingWriter};
use shard_runtime::secure::Identity;
use shard_runtime::stats::{Counter, Stats, StatsReader};
use shard_runtime::verbs::{Wish, choose};
use shard_runtime::wake::{Bell, SWEEP_NS, create_bell};
use shardkit::application::Application;
use shardkit::manifest::Manifest;
use shardkit::prelude::{Bytes, Context, Message, Out, Shard};
use shardkit::{Config, Endpoint};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
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

[component.teller]
program = "teller"
capacity = 8
bandwidth = "16Mbit/s"

[component.teller.out]
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

/// Takes what is told, in order, from each session; says how many bytes came from other hosts.
struct Hears<'a> {
    numbers: [u64; 3],
    bytes: &'a AtomicU64,
    messages: &'a AtomicU64,
}

impl Shard for Hears<'_> {
    fn on_message(&mut self, message: Message<'_>, _: &mut Context<'_>) -> shardkit::Result<()> {
        let (at, payload) = (usize::from(message.link().0) - 1, message.payload());
        assert_eq!(payload[..8], self.numbers[at].to_le_bytes(), "lost, twice or out of order");
        self.numbers[at] += 1;
        self.messages.fetch_add(1, Ordering::Relaxed);
        if at > 0 {
            self.bytes.fetch_add(payload.len() as u64, Ordering::Relaxed);
        }
        Ok(())
    }
}

#[test]
fn a_component_is_held_to_its_bandwidth_on_all_its_links_to_other_hosts_together_and_sleeps_between() {
    const TOLD_BYTES: usize = 2_000;
    let manifest = Manifest::parse(MANIFEST, "mixed.toml").unwrap();
    let application = manifest.application();
    let [echo, teller] = ["echo", "teller"].map(|name| application.find(name).unwrap());
    let [of_echo, of_teller] = identities();
    let mut hub = endpoint(application, "echo");
    let mut hub_remote = remote(of_echo, &[]);
    let address = hub_remote.listen("127.0.0.1:0".parse().unwrap()).unwrap();
    hub.set_remote(hub_remote).unwrap();
    let page = Stats::create("page").unwrap();
    let bell = Bell::map(&create_bell("bell").unwrap()).unwrap();
    let stats = Some(Stats::map(&page).unwrap());
    let mut end = Endpoint::new(ShardId(9), application.component(teller).clone(), bell, stats);
    end.set_remote(remote(of_teller, &[])).unwrap();
    let links = [LinkId(1), LinkId(2), LinkId(3)];
    shared(&mut hub, links[0], echo, &mut end, links[0], teller);
    for link in &links[1..] {
        let what = |node: &str, end| RemoteLink {
            key: LinkKey([link.0 as u8; 16]),
            kind: RemoteKind::Tcp,
            node: node.into(),
            end,
        };
        carried(&mut hub, *link, teller, what("asker", End::Accepts));
        carried(&mut end, *link, echo, what("echo", End::Connects(address)));
    }
    let sessions = links.map(|link| SessionId::new(u32::from(link.0), 1));
    for (session, link) in sessions.into_iter().zip(links) {
        hub.open(session, 0, [(teller, link)].into_iter());
        end.open(session, 0, [(echo, link)].into_iter());
    }
    let out =
        Config::of_embedder(application.component(teller).clone()).output::<Bytes, Bytes>("ask").unwrap();
    let (bytes, messages, done) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    let rate = Rate::from_bits_per_s(16_000_000).unwrap();
    let start = Instant::now();
    thread::scope(|scope| {
        let hears = scope.spawn(|| {
            let mut shard = Hears { numbers: [0; 3], bytes: &bytes, messages: &messages };
            while !done.load(Ordering::Relaxed) {
                if hub.poll(&mut shard) == 0 {
                    hub.wait(WaitStrategy::Park, Some(shard_runtime::clock::now_ns() + 5_000_000));
                }
            }
            shard.numbers
        });
        let tells = scope.spawn(|| {
            let (mut sent, mut shard) = ([0u64; 3], Asker { answers: 0 });
            let told = |number: u64| {
                let mut told = vec![0; TOLD_BYTES];
                told[..8].copy_from_slice(&number.to_le_bytes());
                Bytes(told)
            };
            while start.elapsed() < Duration::from_secs(1) {
                // Fewer on the local link, which nothing holds back.
                for (at, session) in sessions.into_iter().enumerate() {
                    while (at > 0 || sent[0] < 5_000)
                        && end.context().send(&out, session, &told(sent[at])).is_ok()
                    {
                        sent[at] += 1;
                    }
                }
                end.poll(&mut shard);
                end.wait(WaitStrategy::Park, None);
            }
            while messages.load(Ordering::Relaxed) < sent.iter().sum() && start.elapsed() < PATIENCE {
                end.poll(&mut shard);
                end.wait(WaitStrategy::Park, None);
            }
            end.publish_counts();
            sent
        });
        while !tells.is_finished() {
            let came = bytes.load(Ordering::Relaxed);
            let most = rate.burst_bytes() + (start.elapsed().as_micros() * 2) as u64;
            assert!(came <= most, "{came} bytes came where {most} may leave");
            assert!(start.elapsed() < PATIENCE, "{came} bytes came");
            thread::sleep(Duration::from_millis(1));
        }
        let sent = tells.join().unwrap();
        done.store(true, Ordering::Relaxed);
        assert_eq!(hears.join().unwrap(), sent);
        println!("{sent:?} came");
    });
    let reader = StatsReader::map(page.read_only().unwrap().as_fd()).unwrap();
    let [held_ns, rounds] = [Counter::HeldNs, Counter::Beats].map(|counter| reader.counter(counter));
    assert!(held_ns > 500_000_000, "the page says that it was held for {held_ns} ns");
    // It would make millions if it looked again and again whether there are tokens.
    assert!(rounds < 50_000, "{rounds} rounds in {:?}", start.elapsed());
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
