//! The test rig: a whole manifest inside one process and one thread, deterministically.
//!
//! Every component gets one shard, made by the closure that [`run`](crate::run) takes. The rings between them are
//! real ones, and sessions open and close by the real protocol; the rig plays the composer and the embedder. Time
//! is virtual: it moves only in [`Rig::run_for`].
//!
//! ```
//! use shardkit::{manifest::Manifest, prelude::*, rig::Rig};
//!
//! struct Desk { work: Out<Bytes, Bytes>, answer: Out<Bytes> }
//!
//! impl Shard for Desk {
//!     fn on_message(&mut self, message: Message<'_>, ctx: &mut Context<'_>) -> Result<()> {
//!         let value: Bytes = message.decode()?;
//!         if message.is_reply() {
//!             ctx.send(&self.answer, message.session(), &value)?;
//!         } else {
//!             ctx.send(&self.work, message.session(), &value)?;
//!         }
//!         Ok(())
//!     }
//! }
//!
//! struct Worker;
//!
//! impl Shard for Worker {
//!     fn on_message(&mut self, message: Message<'_>, ctx: &mut Context<'_>) -> Result<()> {
//!         Ok(ctx.reply(&message, &message.payload().to_ascii_uppercase())?)
//!     }
//! }
//!
//! const MANIFEST: &str = r#"
//!     [application]
//!     name = "shop"
//!     [component.desk]
//!     program = "desk"
//!     in.ask = "bytes"
//!     out.work = "worker.job"
//!     out.answer = "embedder.answer"
//!     [component.worker]
//!     program = "worker"
//!     in.job = { type = "bytes", reply = "bytes" }
//!     [embedder]
//!     in.answer = "bytes"
//!     out.ask = "desk.ask"
//! "#;
//!
//! # fn main() -> Result<()> {
//! let manifest = Manifest::parse(MANIFEST, "shop.toml")?;
//! let desk = |config: &Config| {
//!     Ok(Desk { work: config.output("work")?, answer: config.output("answer")? })
//! };
//! let mut rig = Rig::new(&manifest).seed(7).shard("desk", desk).shard("worker", |_| Ok(Worker)).build()?;
//! let session = rig.open("default")?;
//! let ask = rig.output::<Bytes, NoReply>("ask")?;
//! rig.send(session, &ask, &Bytes(b"hammer".to_vec()))?;
//! rig.run_until_idle();
//! assert_eq!(rig.receive(session).unwrap().as_message().payload(), b"HAMMER");
//! rig.close(session)?;
//! # Ok(()) }
//! ```
//!
//! Invariant: a run is a function of the manifest, the factories, the calls on the rig and the seed. The seed decides
//! in which order the ends are polled and what [`Context::random`](crate::Context::random) gives. A test that panics
//! prints it; with [`SEED_ENV`] set, the run is repeated.

mod composer;
mod error;
mod node;

pub use error::RigError;
pub use shard_runtime::stats::Counter;

use crate::application::{Application, Destination};
use crate::codec::Wire;
use crate::config::Config;
use crate::desk::Clock;
use crate::error::Result;
use crate::manifest::Manifest;
use crate::message::{CallId, OwnedMessage, Rejected};
use crate::port::{In, Out};
use crate::shard::Shard;
use composer::{CONTROL_MESSAGE_BYTES_MAX, CONTROL_RING_BYTES, ComposerEnd, Told};
use node::{Clerk, Mail, Node};
use shard_runtime::control::COMPOSER_LINK;
use shard_runtime::id::{ComponentId, LinkId, SessionId, ShardId};
use shard_runtime::ring::Ring;
use shard_runtime::session::{Open, Verb};
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The environment variable that sets every rig's seed.
pub const SEED_ENV: &str = "SHARD_SEED";
/// After so many rounds without rest, shards keep each other busy for ever, or block each other.
pub const ROUNDS_MAX: usize = 100_000;
/// So many deliveries are kept in the trace; later ones are not recorded.
pub const TRACE_MAX: usize = 1 << 20;
/// A rig rests after so many rounds in which nothing happened.
const QUIET_ROUNDS: usize = 2;

/// One message that was handed to a shard, or to the embedder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// When, in nanoseconds of the virtual clock.
    pub at_ns: u64,
    /// To which component.
    pub component: ComponentId,
    /// Its session.
    pub session: SessionId,
    /// Whether it is an answer.
    pub is_reply: bool,
    /// Its bytes.
    pub payload: Vec<u8>,
}

#[derive(Default)]
pub(crate) struct Trace(Vec<Delivery>);

impl Trace {
    fn push(&mut self, delivery: Delivery) {
        if self.0.len() < TRACE_MAX {
            self.0.push(delivery);
        }
    }
}

type Factory = Box<dyn FnOnce(&Config) -> Result<Box<dyn Shard>>>;

/// A rig that is being put together: see [`Rig::new`].
pub struct Builder {
    application: Application,
    factories: BTreeMap<String, Factory>,
    wrong: Option<String>,
    seed: u64,
    ring_bytes: Option<usize>,
}

impl Builder {
    /// Sets the seed; 0 without. [`SEED_ENV`] wins over it.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Gives every ring between shards this capacity in bytes, instead of the manifest's: small ones show what
    /// back-pressure does.
    #[must_use]
    pub fn ring_bytes(mut self, bytes: usize) -> Self {
        self.ring_bytes = Some(bytes);
        self
    }

    /// Says how the shard of a component is made.
    #[must_use]
    pub fn shard<S: Shard + 'static>(
        mut self,
        component: &str,
        make: impl FnOnce(&Config) -> Result<S> + 'static,
    ) -> Self {
        let factory: Factory = Box::new(|config| Ok(Box::new(make(config)?)));
        let known = self.application.find(component).is_some_and(|id| Some(id) != self.application.embedder);
        if !known || self.factories.insert(component.into(), factory).is_some() {
            self.wrong.get_or_insert_with(|| component.into());
        }
        self
    }

    /// Makes and connects the shards.
    ///
    /// # Errors
    /// When components have no factory (all are named), a factory fails, or the ring size is impossible.
    pub fn build(mut self) -> Result<Rig, RigError> {
        self.check()?;
        let seed = std::env::var(SEED_ENV).ok().and_then(|text| text.parse().ok()).unwrap_or(self.seed);
        let now_ns = Arc::new(AtomicU64::new(0));
        let (trace, mail) = (Rc::new(RefCell::new(Trace::default())), Rc::new(RefCell::new(Mail::default())));
        let mut random = seed;
        let mut nodes = Vec::new();
        for (component, id) in self.application.components.iter().zip(0..) {
            let id = ComponentId(id);
            let shard: Box<dyn Shard> = match self.factories.remove(&component.name) {
                Some(make) => make(&Config::new(ShardId(u32::from(id.0)), component.clone()))
                    .map_err(|error| RigError::Make { component: component.name.clone(), error })?,
                None => Box::new(Clerk(Rc::clone(&mail))),
            };
            let clock = Clock::Virtual(Arc::clone(&now_ns));
            nodes.push(Node::new(id, component.clone(), shard, Rc::clone(&trace), clock, draw(&mut random))?);
        }
        let mut rig = Rig {
            composer: ComposerEnd::new()?,
            links: HashMap::new(),
            application: self.application,
            nodes,
            sessions: BTreeMap::new(),
            mail,
            trace,
            now_ns,
            seed,
            random,
            reports: Vec::new(),
        };
        rig.wire(self.ring_bytes)?;
        Ok(rig)
    }

    fn check(&self) -> Result<(), RigError> {
        if let Some(name) = &self.wrong {
            return Err(RigError::Component(name.clone()));
        }
        if let Some(bytes) = self.ring_bytes.filter(|bytes| !Ring::possible(*bytes)) {
            return Err(RigError::RingBytes(bytes));
        }
        let has_program = self.application.components.iter().filter(|component| component.program.is_some());
        let missing = has_program.filter(|component| !self.factories.contains_key(&component.name));
        let missing: Vec<_> = missing.map(|component| format!("`{}`", component.name)).collect();
        if missing.is_empty() { Ok(()) } else { Err(RigError::Missing(missing.join(", "))) }
    }
}

/// How a session stands.
struct Held {
    components: Vec<ComponentId>,
    /// How many shards have yet to say that it is open.
    opening: usize,
    refused: Option<RigError>,
    over: Option<String>,
}

/// See the head of this module.
pub struct Rig {
    application: Application,
    composer: ComposerEnd,
    nodes: Vec<Node>,
    /// The link of the first to the second.
    links: HashMap<(ComponentId, ComponentId), LinkId>,
    sessions: BTreeMap<SessionId, Held>,
    mail: Rc<RefCell<Mail>>,
    trace: Rc<RefCell<Trace>>,
    now_ns: Arc<AtomicU64>,
    seed: u64,
    random: u64,
    reports: Vec<String>,
}

impl Rig {
    /// Begins a rig for a manifest.
    #[expect(clippy::new_ret_no_self, reason = "a rig is built in steps")]
    pub fn new(manifest: &Manifest) -> Builder {
        Builder {
            application: manifest.application().clone(),
            factories: BTreeMap::new(),
            wrong: None,
            seed: 0,
            ring_bytes: None,
        }
    }

    /// Opens a session of a composition and waits until every shard has taken it.
    ///
    /// # Errors
    /// When there is no such composition, or a shard refuses.
    pub fn open(&mut self, composition: &str) -> Result<SessionId, RigError> {
        let at = self.application.compositions.iter().position(|c| c.name == composition);
        let at = at.ok_or_else(|| RigError::Composition(composition.into()))?;
        let components = self.application.compositions[at].components.clone();
        if let Some(dead) = components.iter().find(|id| self.node(**id).dead) {
            return Err(RigError::Refused {
                component: self.name(*dead),
                reason: "its shard is dead".into(),
            });
        }
        let session = SessionId::new(self.sessions.len() as u32, 1);
        let opening = components.len();
        let mut members = components.clone();
        members.extend(self.application.embedder);
        if let Some(embedder) = self.application.embedder {
            let routes = self.routes(embedder, &members);
            self.node_mut(embedder).endpoint.open(session, at as u16, routes.into_iter());
        }
        let mut payload = Vec::new();
        for id in &components {
            Open::encode(at as u16, self.routes(*id, &members).into_iter(), &mut payload);
            self.composer.tell(LinkId(id.0), Verb::Open, session, &payload);
        }
        self.sessions.insert(session, Held { components, opening, refused: None, over: None });
        self.run_while(|rig| {
            rig.round();
            rig.sessions[&session].opening > 0
        });
        if let Some(refused) = self.sessions.get_mut(&session).and_then(|held| held.refused.take()) {
            self.end(session, &refused.to_string());
            return Err(refused);
        }
        Ok(session)
    }

    /// Closes a session everywhere.
    ///
    /// # Errors
    /// When it is over already.
    pub fn close(&mut self, session: SessionId) -> Result<(), RigError> {
        self.must_be_open(session)?;
        self.end(session, "it was closed");
        self.run_until_idle();
        Ok(())
    }

    /// Why a session is over; `None` while it is open.
    pub fn ending(&self, session: SessionId) -> Option<&str> {
        self.sessions.get(&session)?.over.as_deref()
    }

    /// One of the embedder's outputs.
    ///
    /// # Errors
    /// When the manifest has no embedder, or no such port with these types.
    pub fn output<T: Wire, R: Wire>(&self, name: &str) -> Result<Out<T, R>, RigError> {
        Ok(self.config()?.output(name)?)
    }

    /// One of the embedder's inputs.
    ///
    /// # Errors
    /// As [`output`](Self::output).
    pub fn input<T: Wire, R: Wire>(&self, name: &str) -> Result<In<T, R>, RigError> {
        Ok(self.config()?.input(name)?)
    }

    /// Sends as the embedder.
    ///
    /// # Errors
    /// When the session is over, or the message can't be sent.
    pub fn send<T: Wire, R: Wire>(
        &mut self,
        session: SessionId,
        port: &Out<T, R>,
        value: &T,
    ) -> Result<(), RigError> {
        self.must_be_open(session)?;
        let mut ctx = self.embedder()?.endpoint.context();
        ctx.send(port, session, value)?;
        ctx.flush();
        Ok(())
    }

    /// Calls as the embedder: the answer carries the number that is returned.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn call<T: Wire, R: Wire>(
        &mut self,
        session: SessionId,
        port: &Out<T, R>,
        value: &T,
    ) -> Result<CallId, RigError> {
        self.must_be_open(session)?;
        let mut ctx = self.embedder()?.endpoint.context();
        let call = ctx.call(port, session, value)?;
        ctx.flush();
        Ok(call)
    }

    /// The next message that came for the embedder in a session, in their order.
    pub fn receive(&mut self, session: SessionId) -> Option<OwnedMessage> {
        self.mail.borrow_mut().messages.get_mut(&session)?.pop_front()
    }

    /// Messages of the embedder that were refused, since this was last asked.
    pub fn take_rejected(&mut self) -> Vec<Rejected> {
        std::mem::take(&mut self.mail.borrow_mut().rejected)
    }

    /// Runs until nobody has anything to do. Time stands still.
    ///
    /// # Panics
    /// After [`ROUNDS_MAX`] rounds.
    pub fn run_until_idle(&mut self) {
        let mut quiet = 0;
        self.run_while(|rig| {
            quiet = if rig.round() == 0 { quiet + 1 } else { 0 };
            quiet < QUIET_ROUNDS
        });
    }

    /// Lets virtual time pass. Ticks run in the order of their times, and between two of them everything that is to
    /// do is done.
    ///
    /// # Panics
    /// As [`run_until_idle`](Self::run_until_idle).
    pub fn run_for(&mut self, time: Duration) {
        let end_ns = self.now_ns() + time.as_nanos() as u64;
        self.run_until_idle();
        while let Some(due_ns) = self.nodes.iter().filter_map(Node::due_ns).min().filter(|due| *due <= end_ns)
        {
            self.now_ns.store(due_ns, Ordering::Relaxed);
            for at in self.shuffled() {
                let node = &mut self.nodes[at];
                if node.due_ns().is_some_and(|at_ns| at_ns <= due_ns) {
                    node.tick(due_ns);
                }
            }
            self.run_until_idle();
        }
        self.now_ns.store(end_ns, Ordering::Relaxed);
    }

    /// Kills the shard of a component, as a SIGKILL would: its sessions end, its partners lose their links to it.
    ///
    /// # Errors
    /// When there is no such component, or it has no shard.
    pub fn kill(&mut self, component: &str) -> Result<(), RigError> {
        let id = self.application.find(component).filter(|id| Some(*id) != self.application.embedder);
        let id = id.ok_or_else(|| RigError::Component(component.into()))?;
        self.node_mut(id).dead = true;
        self.composer.inbox.detach(LinkId(id.0));
        self.composer.outbox.detach(LinkId(id.0));
        let lost: Vec<(ComponentId, LinkId)> = self
            .links
            .iter()
            .filter(|((_, to), _)| *to == id)
            .map(|((from, _), link)| (*from, *link))
            .collect();
        for (partner, link) in lost {
            self.node_mut(partner).endpoint.detach(link);
        }
        self.links.retain(|(from, to), _| *from != id && *to != id);
        let hit = self.sessions.iter().filter(|(_, held)| held.components.contains(&id));
        for session in hit.map(|(session, _)| *session).collect::<Vec<_>>() {
            self.end(session, &format!("the shard of component `{component}` died"));
        }
        Ok(())
    }

    /// The virtual time, in nanoseconds since the rig was built.
    pub fn now_ns(&self) -> u64 {
        self.now_ns.load(Ordering::Relaxed)
    }

    /// The seed of this run.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// All deliveries so far, in their order.
    pub fn trace(&self) -> Vec<Delivery> {
        self.trace.borrow().0.clone()
    }

    /// What shards reported that concerns no session: errors of ticks.
    pub fn reports(&self) -> &[String] {
        &self.reports
    }

    /// A counter of a component's statistics page; `None` without such a component.
    pub fn counter(&mut self, component: &str, counter: Counter) -> Option<u64> {
        let id = self.application.find(component)?;
        self.node_mut(id).endpoint.publish_counts();
        Some(self.node(id).stats.counter(counter))
    }

    fn config(&self) -> Result<Config, RigError> {
        let id = self.application.embedder.ok_or(RigError::NoEmbedder)?;
        Ok(Config::of_embedder(self.application.component(id).clone()))
    }

    fn embedder(&mut self) -> Result<&mut Node, RigError> {
        let id = self.application.embedder.ok_or(RigError::NoEmbedder)?;
        Ok(self.node_mut(id))
    }

    fn node(&self, id: ComponentId) -> &Node {
        &self.nodes[usize::from(id.0)]
    }

    fn node_mut(&mut self, id: ComponentId) -> &mut Node {
        &mut self.nodes[usize::from(id.0)]
    }

    fn name(&self, id: ComponentId) -> String {
        self.application.component(id).name.clone()
    }

    fn must_be_open(&self, session: SessionId) -> Result<(), RigError> {
        let reason = match self.sessions.get(&session) {
            Some(Held { over: None, .. }) => return Ok(()),
            Some(Held { over: Some(reason), .. }) => reason.clone(),
            None => "this rig never opened it".into(),
        };
        Err(RigError::Over { session, reason })
    }

    fn routes(&self, from: ComponentId, members: &[ComponentId]) -> Vec<(ComponentId, LinkId)> {
        members.iter().filter_map(|to| self.links.get(&(from, *to)).map(|link| (*to, *link))).collect()
    }

    fn end(&mut self, session: SessionId, reason: &str) {
        let Some(held) = self.sessions.get_mut(&session).filter(|held| held.over.is_none()) else { return };
        held.over = Some(reason.into());
        for id in held.components.clone() {
            self.composer.tell(LinkId(id.0), Verb::Close, session, &[]);
        }
        if let Ok(embedder) = self.embedder() {
            embedder.endpoint.close(session);
        }
    }

    fn heard(&mut self, told: Told) {
        let Told { link, verb, session, text } = told;
        if session.is_none() {
            self.reports.push(format!("{}: {text}", self.name(ComponentId(link.0))));
            return;
        }
        match verb {
            Verb::End => self.end(session, &text),
            Verb::Opened | Verb::OpenRefused => {
                let component = self.name(ComponentId(link.0));
                let Some(held) = self.sessions.get_mut(&session) else { return };
                held.opening = held.opening.saturating_sub(1);
                if verb == Verb::OpenRefused {
                    held.refused.get_or_insert(RigError::Refused { component, reason: text });
                }
            }
            // As the composer does: what could not be scrubbed is not used again.
            Verb::ScrubFailed => {
                let component = ComponentId(link.0);
                self.reports.push(format!("{}: scrub failed: {text}", self.name(component)));
                // It has just spoken, so it is there.
                let _ = self.kill(&self.name(component));
            }
            _ => {}
        }
    }

    /// Polls everybody once, in an order that the seed gives. Returns how much happened.
    fn round(&mut self) -> usize {
        let mut happened = 0;
        for at in self.shuffled() {
            happened += self.nodes[at].poll();
            if let Some((link, error)) = self.nodes[at].endpoint.take_broken() {
                panic!("link {link} of {} broke: {error}", self.nodes[at].endpoint.component().name);
            }
            let node = &mut self.nodes[at];
            happened += usize::from(!node.dead && node.endpoint.context().desk.outbox.waits());
        }
        for told in self.composer.poll() {
            happened += 1;
            self.heard(told);
        }
        happened
    }

    fn run_while(&mut self, mut more: impl FnMut(&mut Self) -> bool) {
        for _ in 0..ROUNDS_MAX {
            if !more(self) {
                return;
            }
        }
        let mut blocked = Vec::new();
        for node in &mut self.nodes {
            if node.endpoint.context().desk.outbox.waits() {
                blocked.push(node.endpoint.component().name.clone());
            }
        }
        panic!(
            "the rig found no rest in {ROUNDS_MAX} rounds: shards keep sending to each other, or block each other; \
             waiting for room: [{}]",
            blocked.join(", ")
        );
    }

    /// Every node's position, in an order that the seed gives (Fisher and Yates).
    fn shuffled(&mut self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.nodes.len()).collect();
        for at in (1..order.len()).rev() {
            order.swap(at, (draw(&mut self.random) % (at as u64 + 1)) as usize);
        }
        order
    }

    fn wire(&mut self, ring_bytes: Option<usize>) -> Result<(), RigError> {
        for at in 0..self.nodes.len() {
            let id = ComponentId(at as u16);
            if Some(id) != self.application.embedder {
                self.wire_composer(id)?;
            }
        }
        for (from, to) in self.application.call_pairs() {
            if !self.links.contains_key(&(from, to)) {
                self.wire_pair(from, to, ring_bytes)?;
            }
        }
        Ok(())
    }

    fn wire_composer(&mut self, id: ComponentId) -> Result<(), RigError> {
        let (shard, composer) = (self.node(id).ringer(), self.composer.inbox.ringer());
        let (bytes, max) = (CONTROL_RING_BYTES, CONTROL_MESSAGE_BYTES_MAX);
        let (inbound, tell) = composer::ring(bytes, max, composer.clone(), shard.clone(), COMPOSER_LINK)?;
        let (hear, outbound) = composer::ring(bytes, max, shard, composer, LinkId(id.0))?;
        self.composer.inbox.attach(LinkId(id.0), hear);
        self.composer.outbox.attach(LinkId(id.0), tell);
        self.node_mut(id).endpoint.attach(COMPOSER_LINK, None, inbound, outbound);
        Ok(())
    }

    fn wire_pair(&mut self, a: ComponentId, b: ComponentId, bytes: Option<usize>) -> Result<(), RigError> {
        let (manifest_bytes, message_bytes_max) = self.sizes(a, b);
        let bytes = bytes.unwrap_or(manifest_bytes);
        let next = |of| LinkId(self.links.keys().filter(|(from, _)| *from == of).count() as u16 + 1);
        let (a_link, b_link) = (next(a), next(b));
        let (a_bell, b_bell) = (self.node(a).ringer(), self.node(b).ringer());
        let (b_in, a_out) = composer::ring(bytes, message_bytes_max, a_bell.clone(), b_bell.clone(), b_link)?;
        let (a_in, b_out) = composer::ring(bytes, message_bytes_max, b_bell, a_bell, a_link)?;
        self.node_mut(a).endpoint.attach(a_link, Some(b), a_in, a_out);
        self.node_mut(b).endpoint.attach(b_link, Some(a), b_in, b_out);
        self.links.extend([((a, b), a_link), ((b, a), b_link)]);
        Ok(())
    }

    /// The largest ring and the largest message of any output between the two.
    fn sizes(&self, a: ComponentId, b: ComponentId) -> (usize, usize) {
        let leads = |to: &[Destination], id| to.iter().any(|to| to.component == id);
        let both = [(a, b), (b, a)].into_iter().flat_map(|(from, to)| {
            self.application.component(from).outputs.iter().filter(move |output| leads(&output.to, to))
        });
        both.fold((0, CONTROL_MESSAGE_BYTES_MAX), |(ring, message), output| {
            (ring.max(output.ring_bytes as usize), message.max(output.message_bytes_max as usize))
        })
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the rig's seed was {}; {SEED_ENV}={} repeats the run", self.seed, self.seed);
        }
    }
}

/// A number drawn from a generator's state (SplitMix64).
fn draw(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
