//! The composer as an embedding program uses it.

use crate::asker::Asker;
use crate::awake::Awake;
use crate::builder::{Builder, StartError};
use crate::core::{CompositionId, Effect, Refusal, SessionState, ShardState, WireEnd};
use crate::embed::Embed;
use crate::explain::{self, PoolExplanation, SessionExplanation};
use crate::hub::{Ready, shard_of, slot};
use crate::inner::{Inner, Source, Start};
use crate::session::Session;
use shard_runtime::clock;
use shard_runtime::id::{ComponentId, LinkId, SessionId, ShardId};
use shard_runtime::stats::StatsReader;
use shardkit::application::Application;
use shardkit::error::PortError;
use shardkit::manifest::Manifest;
use shardkit::{In, Out, Wire};
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long [`Composer::compose`] waits for shards.
pub const COMPOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub enum ComposeError {
    /// The manifest has no such composition.
    #[error("there is no composition `{name}`; the manifest declares {known}")]
    Unknown {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// The core refused.
    #[error("{refusal}{}", fault.as_deref().map(|fault| format!(" (last fault: {fault})")).unwrap_or_default())]
    Refused {
        /// Why.
        refusal: Refusal,
        /// What the last failed shard of the component said.
        fault: Option<String>,
    },
}

/// Not all warm shards are there in time.
#[derive(Debug, thiserror::Error)]
#[error("after {waited:?} component `{component}` has {ready} of {warm} warm shards{}", fault.as_deref().map(|fault| format!("; its last failure: {fault}")).unwrap_or_default())]
pub struct NotWarm {
    /// The component.
    pub component: String,
    /// How many shards are ready.
    pub ready: u32,
    /// How many should be.
    pub warm: u32,
    /// What its last failed shard said.
    pub fault: Option<String>,
    /// How long it was waited.
    pub waited: Duration,
}

/// A running composer. Clones share it; when the last is dropped, it ends with all its shards.
#[derive(Clone)]
pub struct Composer {
    handle: Arc<Handle>,
}

struct Handle {
    inner: Arc<Inner>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    _awake: Option<Awake>,
}

impl Handle {
    fn shut_down(&self) {
        self.inner.shut_down();
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            // A thread that panicked has said so already.
            let _ = thread.join();
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shut_down();
    }
}

/// A shard as people see it.
#[derive(Clone, Debug)]
pub struct ShardInfo {
    /// Its number.
    pub id: ShardId,
    /// Its component's name.
    pub component: String,
    /// Where it is in its life.
    pub state: ShardState,
    /// How many sessions it holds.
    pub sessions: u32,
    /// How many it can hold.
    pub capacity: u32,
    /// How much of its time it worked for them when that was last looked at, in thousandths; 0 before that.
    pub load_permille: u32,
    /// Its process; 0 until it is known.
    pub pid: u32,
    /// How long it has been in its state.
    pub since: Duration,
}

/// One end of a link as people see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkEnd {
    /// The shard; `None` for the program that holds the composer, which has no statistics page.
    pub shard: Option<ShardId>,
    /// Its component's name.
    pub component: String,
    /// The link's number there: where the shard's statistics page counts it.
    pub link: LinkId,
}

impl fmt::Display for LinkEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.shard {
            Some(shard) => write!(f, "{} {}", self.component, shard.0),
            None => f.write_str(&self.component),
        }
    }
}

/// A session as people see it.
#[derive(Clone, Debug)]
pub struct SessionInfo {
    /// Its id.
    pub id: SessionId,
    /// Its composition's name.
    pub composition: String,
    /// Where it is in its life.
    pub state: SessionState,
    /// Its shards.
    pub shards: Vec<ShardId>,
    /// How long it has been in its state.
    pub since: Duration,
}

impl Composer {
    /// A composer whose threads are still to be spawned.
    pub(crate) fn new(inner: Arc<Inner>, awake: Option<Awake>) -> Self {
        Self { handle: Arc::new(Handle { inner, threads: Mutex::default(), _awake: awake }) }
    }

    /// Starts one of its threads, which ends when the composer does.
    pub(crate) fn spawn(&self, name: &str, life: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let thread = std::thread::Builder::new().name(name.into()).spawn(life)?;
        self.handle.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
        Ok(())
    }

    /// Prepares a composer for a manifest.
    pub fn builder(manifest: Manifest) -> Builder {
        Builder::new(manifest)
    }

    /// Starts a composer for the manifest in a file.
    ///
    /// # Errors
    /// As [`Builder::start`].
    pub fn start(manifest: impl AsRef<Path>) -> Result<Self, StartError> {
        Self::builder(Manifest::read(manifest.as_ref())?).start()
    }

    /// The application.
    pub fn application(&self) -> &Application {
        &self.inner().application
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.handle.inner
    }

    /// Waits until every component has its warm shards.
    ///
    /// # Errors
    /// [`NotWarm`] names the first component that has not.
    pub fn wait_warm(&self, timeout: Duration) -> Result<(), NotWarm> {
        let start = Instant::now();
        loop {
            let Err(missing) = self.missing_warm() else { return Ok(()) };
            if start.elapsed() >= timeout {
                return Err(NotWarm { waited: start.elapsed(), ..missing });
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn missing_warm(&self) -> Result<(), NotWarm> {
        let inner = self.inner();
        let shards = self.shards();
        for (at, component) in inner.application.components.iter().enumerate() {
            let warm = if component.program.is_some() { component.shards.warm } else { 0 };
            let is_ready = |s: &&ShardInfo| s.component == component.name && s.state == ShardState::Ready;
            let ready = shards.iter().filter(is_ready).count() as u32;
            if ready < warm {
                let fault = inner.fault(shard_runtime::id::ComponentId(at as u16));
                let component = component.name.clone();
                return Err(NotWarm { component, ready, warm, fault, waited: Duration::ZERO });
            }
        }
        Ok(())
    }

    /// Composes a session, waiting for shards up to [`COMPOSE_TIMEOUT`] if none are warm. For many at a time, or from an
    /// event loop, take an [`asker`](Self::asker).
    ///
    /// # Errors
    /// See [`ComposeError`].
    pub fn compose(&self, composition: &str) -> Result<Session, ComposeError> {
        self.compose_within(composition, COMPOSE_TIMEOUT)
    }

    /// Composes a session, waiting for shards up to `timeout`; with zero only warm ones will do.
    ///
    /// # Errors
    /// See [`ComposeError`].
    pub fn compose_within(&self, composition: &str, timeout: Duration) -> Result<Session, ComposeError> {
        let at = self.composition(composition)?;
        let inner = self.inner();
        let start_ns = clock::now_ns();
        let mut hub = inner.lock();
        let request = hub.request(at, clock::after(start_ns, timeout));
        let answer = inner.wait_until(hub, start_ns, u64::MAX, |hub| hub.take_answer(request));
        self.composed(answer)
    }

    /// What asks for many sessions from one thread.
    pub fn asker<T>(&self) -> Asker<T> {
        Asker::new(self.clone())
    }

    /// The composition of this name.
    pub(crate) fn composition(&self, name: &str) -> Result<CompositionId, ComposeError> {
        let compositions = &self.inner().application.compositions;
        match compositions.iter().position(|known| known.name == name) {
            Some(at) => Ok(CompositionId(at as u16)),
            None => {
                let known: Vec<_> = compositions.iter().map(|known| format!("`{}`", known.name)).collect();
                Err(ComposeError::Unknown { name: name.into(), known: known.join(", ") })
            }
        }
    }

    /// The core's answer as the one who asked gets it.
    pub(crate) fn composed(&self, answer: Result<Ready, Refusal>) -> Result<Session, ComposeError> {
        match answer {
            Ok(ready) => Ok(Session::new(ready.session, ready.tiers, self.clone())),
            Err(refusal) => Err(self.refused(refusal)),
        }
    }

    fn refused(&self, refusal: Refusal) -> ComposeError {
        let component = match &refusal {
            Refusal::NoRoom { component, .. } | Refusal::Refused { component, .. } => {
                Some(component.to_string())
            }
            _ => None,
        };
        let id = component.and_then(|name| self.inner().application.find(&name));
        ComposeError::Refused { refusal, fault: id.and_then(|id| self.inner().fault(id)) }
    }

    /// An output of the embedder: what this program sends through.
    ///
    /// # Errors
    /// When the manifest declares no such output of the embedder, or with other types.
    pub fn output<T: Wire, R: Wire>(&self, name: &str) -> Result<Out<T, R>, PortError> {
        self.embed_config(name)?.config().output(name)
    }

    /// An input of the embedder: what this program receives through.
    ///
    /// # Errors
    /// When the manifest declares no such input of the embedder, or with other types.
    pub fn input<T: Wire, R: Wire>(&self, name: &str) -> Result<In<T, R>, PortError> {
        self.embed_config(name)?.config().input(name)
    }

    fn embed_config(&self, port: &str) -> Result<&Arc<Embed>, PortError> {
        self.inner().embed.as_ref().ok_or_else(|| PortError::Unknown {
            component: "embedder".into(),
            kind: "port",
            port: port.into(),
            known: "no `[embedder]` table".into(),
        })
    }

    /// The shards, by number.
    pub fn shards(&self) -> Vec<ShardInfo> {
        let (inner, now_ns) = (self.inner(), clock::now_ns());
        let hub = inner.lock();
        let info = |view: crate::core::ShardView| ShardInfo {
            id: view.id,
            component: inner.application.component(view.component).name.clone(),
            state: view.state,
            sessions: view.sessions,
            capacity: view.capacity,
            load_permille: view.load_permille,
            pid: view.pid,
            since: Duration::from_nanos(now_ns.saturating_sub(view.since_ns)),
        };
        hub.core.shards().map(info).collect()
    }

    /// The links between shards, and to this program, one entry for each direction: who sends, who receives.
    pub fn links(&self) -> Vec<[LinkEnd; 2]> {
        let inner = self.inner();
        let hub = inner.lock();
        let info = |end: WireEnd| {
            let component = inner.application.component(end.component).name.clone();
            LinkEnd { shard: shard_of(end), component, link: slot(end) }
        };
        let both = |wire: [WireEnd; 2]| {
            let [a, b] = wire.map(info);
            [[a.clone(), b.clone()], [b, a]]
        };
        hub.core.wires().flat_map(both).collect()
    }

    /// The sessions.
    pub fn sessions(&self) -> Vec<SessionInfo> {
        let (inner, now_ns) = (self.inner(), clock::now_ns());
        let hub = inner.lock();
        let info = |view: crate::core::SessionView<'_>| SessionInfo {
            id: view.id,
            composition: inner.application.compositions[usize::from(view.composition.0)].name.clone(),
            state: view.state,
            shards: view.shards().collect(),
            since: Duration::from_nanos(now_ns.saturating_sub(view.since_ns)),
        };
        hub.core.sessions().map(info).collect()
    }

    /// How the last shards of a component came into being and how long that took, the oldest first; at most
    /// [`STARTS_MAX`](crate::STARTS_MAX) of them.
    pub fn starts(&self, component: &str) -> Vec<Start> {
        self.application().find(component).map(|id| self.inner().starts(id)).unwrap_or_default()
    }

    /// The processes that shards are made from: spares of generic programs, and zygotes.
    pub fn sources(&self) -> Vec<Source> {
        self.inner().sources()
    }

    /// What the last shard of a component, or its zygote, said that failed.
    pub fn fault(&self, component: &str) -> Option<String> {
        self.inner().fault(self.application().find(component)?)
    }

    /// Takes the processor away from a shard by hand: its memory stays, and it does nothing until it is thawed. Meant
    /// for people who measure: the composer goes on to count it as ready, and kills it if it is asked for a session
    /// and does not answer in time.
    pub fn freeze(&self, shard: ShardId) {
        self.inner().ask(Effect::Freeze { shard });
    }

    /// Lets a shard go on that was frozen by hand.
    pub fn thaw(&self, shard: ShardId) {
        self.inner().ask(Effect::Thaw { shard });
    }

    /// How many requests wait for shards.
    pub fn waiting(&self) -> usize {
        self.inner().lock().core.waiting_count()
    }

    /// The statistics page of a shard, if it runs. Reading it disturbs nobody.
    pub fn stats(&self, shard: ShardId) -> Option<Arc<StatsReader>> {
        self.inner().pages().get(&shard).map(|page| Arc::clone(&page.reader))
    }

    /// The statistics page of a shard as a descriptor that can be read and mapped, never written: for another
    /// process that watches.
    pub fn stats_descriptor(&self, shard: ShardId) -> Option<OwnedFd> {
        self.inner().pages().get(&shard).and_then(|page| page.descriptor.try_clone().ok())
    }

    /// Why a session got its shards: from which tiers, and how long each step took. `None` if it was never ready, or if
    /// [`COMPOSED_MAX`](crate::core::COMPOSED_MAX) others came after it.
    pub fn explain(&self, session: SessionId) -> Option<SessionExplanation> {
        let inner = self.inner();
        let hub = inner.lock();
        explain::session(&hub.core, &inner.application, session, clock::now_ns(), hub.scaler.as_ref())
    }

    /// Why each pool has the size it has, in the manifest's order.
    pub fn explain_pools(&self) -> Vec<PoolExplanation> {
        let (inner, now_ns) = (self.inner(), clock::now_ns());
        let hub = inner.lock();
        let components = inner.application.components.iter().enumerate();
        let pools = components.filter(|(_, component)| component.program.is_some()).map(|(at, _)| {
            let id = ComponentId(at as u16);
            explain::pool(&hub.core, &inner.application, id, now_ns, hub.scaler.as_ref())
        });
        pools.collect()
    }

    /// Lets a shard take no more sessions. It ends when those that it holds are over; what is left of them after `timeout`
    /// ends with an error. False if there is no such shard.
    pub fn drain(&self, shard: ShardId, timeout: Duration) -> bool {
        let inner = self.inner();
        let mut hub = inner.lock();
        let there = hub.drain(shard, clock::after(clock::now_ns(), timeout));
        inner.unlock(hub);
        there
    }

    /// Whether the composer has ended, by [`shut_down`](Self::shut_down) or because its launch helper died.
    pub fn is_finished(&self) -> bool {
        self.inner().lock().finished
    }

    /// Ends all sessions and all shards, and waits until they are gone.
    pub fn shut_down(&self) {
        self.handle.shut_down();
    }
}
