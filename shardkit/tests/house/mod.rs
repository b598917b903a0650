//! A house: one endpoint for every component of a manifest, connected by real rings, in one thread. The test itself
//! is the composer at the other end of every link 0.

use shard_runtime::control::COMPOSER_LINK;
use shard_runtime::frame::{Flags, Header};
use shard_runtime::id::{ComponentId, LinkId, ShardId};
use shard_runtime::inbox::{Inbound, Inbox, Receiver};
use shard_runtime::outbox::{Outbound, Outbox};
use shard_runtime::ring::{Ring, RingError, RingReader, RingWriter};
use shard_runtime::session::Verb;
use shard_runtime::stats::{Stats, StatsReader};
use shard_runtime::wake::{Bell, Ringer, create_bell};
use shardkit::application::{Application, Component};
use shardkit::manifest::Manifest;
use shardkit::{Config, Endpoint, SessionId, Shard};
use std::collections::HashMap;
use std::os::fd::AsFd;

/// What a shard told the composer: who, what, about which session, why.
pub(crate) type Told = (String, Verb, SessionId, String);

/// See the head of this file.
pub(crate) struct House {
    pub(crate) application: Application,
    endpoints: Vec<Endpoint>,
    stats: Vec<StatsReader>,
    inbox: Inbox,
    outbox: Outbox,
    /// The link of the first to the second.
    links: HashMap<(u16, u16), LinkId>,
}

/// The application of a manifest.
pub(crate) fn application(manifest: &str) -> Application {
    Manifest::parse(manifest, "test.toml").unwrap().application().clone()
}

fn bell() -> Bell {
    Bell::map(&create_bell("bell").unwrap()).unwrap()
}

/// One direction: `from` rings `to`, who knows the link as `link`.
fn ring(bytes: usize, bytes_max: usize, from: &Ringer, to: &Ringer, link: LinkId) -> (Inbound, Outbound) {
    let region = Ring::create("ring", bytes).unwrap();
    let end = || Ring::new(region.map(true).unwrap(), bytes);
    let inbound = Inbound::new(RingReader::new(end()), from.clone(), bytes_max);
    (inbound, Outbound::new(RingWriter::new(end()), to.clone(), link, bytes_max))
}

impl House {
    /// Builds it with rings of `bytes` between the components.
    pub(crate) fn new(application: Application, bytes: usize) -> Self {
        let components = application.components.clone();
        Self::with(application, &components, bytes)
    }

    /// As [`new`](Self::new), but the ends take themselves for these components.
    pub(crate) fn with(application: Application, components: &[Component], bytes: usize) -> Self {
        let (mut endpoints, mut stats) = (Vec::new(), Vec::new());
        for (number, component) in components.iter().enumerate() {
            let page = Stats::create("stats").unwrap();
            stats.push(StatsReader::map(page.read_only().unwrap().as_fd()).unwrap());
            let page = Some(Stats::map(&page).unwrap());
            endpoints.push(Endpoint::new(ShardId(number as u32), component.clone(), bell(), page));
        }
        let (inbox, outbox) = (Inbox::new(bell()), Outbox::new());
        let mut house = Self { application, endpoints, stats, inbox, outbox, links: HashMap::new() };
        for at in 0..house.endpoints.len() as u16 {
            house.wire_composer(at);
        }
        for (a, b) in house.application.call_pairs() {
            if !house.links.contains_key(&(a.0, b.0)) {
                house.wire(a.0, b.0, bytes);
            }
        }
        house
    }

    fn ringer(&self, at: u16) -> Ringer {
        self.endpoints[usize::from(at)].ringer()
    }

    fn wire_composer(&mut self, at: u16) {
        let (shard, composer) = (self.ringer(at), self.inbox.ringer());
        let (to_shard, tell) = ring(16 << 10, 2048, &composer, &shard, COMPOSER_LINK);
        let (hear, to_composer) = ring(16 << 10, 2048, &shard, &composer, LinkId(at));
        self.inbox.attach(LinkId(at), hear);
        self.outbox.attach(LinkId(at), tell);
        self.endpoints[usize::from(at)].attach(COMPOSER_LINK, None, to_shard, to_composer);
    }

    fn wire(&mut self, a: u16, b: u16, bytes: usize) {
        let next = |of: u16| LinkId(self.links.keys().filter(|(from, _)| *from == of).count() as u16 + 1);
        let (a_link, b_link) = (next(a), next(b));
        let (a_bell, b_bell) = (self.ringer(a), self.ringer(b));
        let (to_b, from_a) = ring(bytes, 1 << 20, &a_bell, &b_bell, b_link);
        let (to_a, from_b) = ring(bytes, 1 << 20, &b_bell, &a_bell, a_link);
        self.endpoints[usize::from(a)].attach(a_link, Some(ComponentId(b)), to_a, from_a);
        self.endpoints[usize::from(b)].attach(b_link, Some(ComponentId(a)), to_b, from_b);
        self.links.extend([((a, b), a_link), ((b, a), b_link)]);
    }

    /// Connects an end with a raw peer, which plays the shard of `component`; the end knows the link as `link`.
    pub(crate) fn wire_raw(&mut self, name: &str, link: LinkId, component: ComponentId) -> (Inbox, Outbox) {
        let (mut inbox, mut outbox) = (Inbox::new(bell()), Outbox::new());
        let (end, raw) = (self.ringer(self.at(name)), inbox.ringer());
        let (hear, outbound) = ring(64 << 10, 1 << 20, &end, &raw, LinkId(0));
        let (inbound, tell) = ring(64 << 10, 1 << 20, &raw, &end, link);
        inbox.attach(LinkId(0), hear);
        outbox.attach(LinkId(0), tell);
        self.end(name).attach(link, Some(component), inbound, outbound);
        (inbox, outbox)
    }

    fn at(&self, name: &str) -> u16 {
        self.application.find(name).unwrap().0
    }

    /// What the component's shard would be made from.
    pub(crate) fn config(&self, name: &str) -> Config {
        Config::of_embedder(self.application.components[usize::from(self.at(name))].clone())
    }

    pub(crate) fn end(&mut self, name: &str) -> &mut Endpoint {
        let at = self.at(name);
        &mut self.endpoints[usize::from(at)]
    }

    /// The component's statistics page, up to date.
    pub(crate) fn page(&mut self, name: &str) -> &StatsReader {
        self.end(name).publish_counts();
        &self.stats[usize::from(self.at(name))]
    }

    /// The link by which the first reaches the second.
    pub(crate) fn link(&self, from: &str, to: &str) -> LinkId {
        self.links[&(self.at(from), self.at(to))]
    }

    pub(crate) fn routes(&self, of: &str, members: &[&str]) -> Vec<(ComponentId, LinkId)> {
        let from = self.at(of);
        let to = members.iter().map(|name| self.at(name));
        to.filter_map(|to| Some((ComponentId(to), *self.links.get(&(from, to))?))).collect()
    }

    /// Opens a session in these ends, without asking them.
    pub(crate) fn open(&mut self, session: SessionId, members: &[&str]) {
        for name in members {
            let routes = self.routes(name, members);
            self.end(name).open(session, 0, routes.into_iter());
        }
    }

    /// Polls an end until it takes nothing more; says how much it took.
    pub(crate) fn drain(&mut self, name: &str, shard: &mut impl Shard) -> usize {
        let endpoint = self.end(name);
        std::iter::repeat_with(|| endpoint.poll(shard)).take_while(|taken| *taken > 0).sum()
    }

    /// Tells a shard something, as the composer.
    pub(crate) fn tell(&mut self, name: &str, verb: Verb, session: SessionId, payload: &[u8]) {
        let header = Header::new(session, verb.port()).flagged(Flags::CONTROL);
        self.outbox.send(LinkId(self.at(name)), header, payload).unwrap().unwrap();
        self.outbox.flush();
    }

    /// What the composer was told since this was last asked.
    pub(crate) fn told(&mut self) -> Vec<Told> {
        let mut ear = Ear(Vec::new());
        while self.inbox.poll(&mut ear) > 0 {}
        let name = |link: LinkId| self.application.components[usize::from(link.0)].name.clone();
        ear.0.into_iter().map(|(link, verb, session, text)| (name(link), verb, session, text)).collect()
    }
}

struct Ear(Vec<(LinkId, Verb, SessionId, String)>);

impl Receiver for Ear {
    fn message(&mut self, link: LinkId, header: &Header, payload: &[u8]) {
        let verb = Verb::from_port(header.port).unwrap();
        self.0.push((link, verb, header.session, String::from_utf8_lossy(payload).into_owned()));
    }

    fn drained(&mut self, _: LinkId, _: usize) {}

    fn broken(&mut self, link: LinkId, error: RingError) {
        panic!("{link:?} broke: {error}");
    }
}
