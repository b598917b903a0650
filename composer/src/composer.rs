//! The composer as an embedding program uses it.

use crate::asker::{Asker, nanoseconds};
use crate::awake::Awake;
use crate::core::{CompositionId, Effect, Refusal, SessionState, ShardState, WireEnd};
use crate::embed::Embed;
use crate::explain::{self, PoolExplanation, SessionExplanation};
use crate::groups::Groups;
use crate::history::History;
use crate::host::Host;
use crate::hub::{Hub, Ready, shard_of, slot};
use crate::inner::{Inner, Source, Start};
use crate::interrupts::Interrupts;
use crate::launcher::{Launcher, LauncherError};
use crate::oci::{Cache, Container, OciError, Runtime, prepare};
use crate::resources::{Allocator, HostFile, Inventory, InventoryError, Shortage};
use crate::scaler::{ScaleError, Scaler};
use crate::session::Session;
use crate::shell::{Executable, Parts, Shell, WAKER};
use shard_runtime::control::SPEC_BYTES_MAX;
use shard_runtime::id::{ComponentId, LinkId, SessionId, ShardId};
use shard_runtime::region::RegionError;
use shard_runtime::stats::StatsReader;
use shard_runtime::wake::{Bell, create_bell};
use shard_runtime::{barrier, clock};
use shardkit::application::{Application, Component, Needs, Program};
use shardkit::error::PortError;
use shardkit::manifest::{Host as HostNeeds, Manifest, ManifestError, ProgramError, resolve_program};
use shardkit::{In, Out, Wire};
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long [`Composer::compose`] waits for shards.
pub const COMPOSE_TIMEOUT: Duration = Duration::from_secs(10);
/// Why a composer did not start. Nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The manifest is wrong.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The host file is wrong.
    #[error(transparent)]
    HostFile(ManifestError),
    /// What the host file says and what was found contradict each other.
    #[error(transparent)]
    Inventory(#[from] InventoryError),
    /// The warm shards do not fit together, though each alone and the sums do.
    #[error("the warm shards do not fit together; with a shard of `{component}`, {shortage}")]
    Shortage {
        /// The component of the first that does not fit.
        component: String,
        /// What is missing.
        shortage: Shortage,
    },
    /// A component's program is not there.
    #[error("component `{component}`: {source}")]
    Program {
        /// The component.
        component: String,
        /// What is wrong.
        source: ProgramError,
    },
    /// A component's image can't be used, or nothing is there that runs it.
    #[error("component `{component}`: {source}")]
    Image {
        /// The component.
        component: String,
        /// What is wrong.
        source: OciError,
    },
    /// A generic program is not there.
    #[error("generic program `{generic}`: {source}")]
    Generic {
        /// Its name in the manifest.
        generic: String,
        /// What is wrong.
        source: ProgramError,
    },
    /// What a component's isolated shards may reach is not there.
    #[error("component `{component}`: `{}`, which its shards may reach, is not there: {source}; make it first, or take it out of `allow`", path.display())]
    Allowed {
        /// The component.
        component: String,
        /// The path that the manifest names.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// What a component's shards have to be told does not fit into one packet.
    #[error(
        "component `{component}`: its ports and configuration take {bytes} bytes, and {SPEC_BYTES_MAX} at most reach a shard; keep large data in a file and name that in the configuration"
    )]
    Large {
        /// The component.
        component: String,
        /// What it takes.
        bytes: usize,
    },
    /// Its pools can't be scaled.
    #[error(transparent)]
    Scale(#[from] ScaleError),
    /// There is no launch helper.
    #[error(transparent)]
    Launcher(#[from] LauncherError),
    /// Shared memory can't be had.
    #[error(transparent)]
    Region(#[from] RegionError),
    /// The kernel said no.
    #[error("the composer's event loop can't be made: {0}")]
    Io(#[from] io::Error),
}

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

/// Prepares a composer.
pub struct Builder {
    manifest: Manifest,
    launcher: Option<PathBuf>,
    host_file: Option<PathBuf>,
    oci_runtime: Option<PathBuf>,
    image_cache: Option<PathBuf>,
    quiet: bool,
}

impl Builder {
    /// Names the launch helper's program: one whose `main` begins with [`take_over`](crate::take_over). By default
    /// it is `shardctl`, looked for beside the running program and in `PATH`.
    #[must_use]
    pub fn launcher(mut self, program: impl Into<PathBuf>) -> Self {
        self.launcher = Some(program.into());
        self
    }

    /// Names a [host file](crate::resources::HostFile): what it says of this host overrides what is found.
    #[must_use]
    pub fn host_file(mut self, path: Option<impl Into<PathBuf>>) -> Self {
        self.host_file = path.map(Into::into);
        self
    }

    /// Names the OCI runtime that runs images: a name that is searched in `PATH`, or a path. By default it is what the
    /// environment's `SHARD_OCI_RUNTIME` names, or the manifest, or crun.
    #[must_use]
    pub fn oci_runtime(mut self, runtime: impl Into<PathBuf>) -> Self {
        self.oci_runtime = Some(runtime.into());
        self
    }

    /// Names the folder that images are unpacked into. By default it is the user's: [`Cache::of_user`].
    #[must_use]
    pub fn image_cache(mut self, folder: impl Into<PathBuf>) -> Self {
        self.image_cache = Some(folder.into());
        self
    }

    /// Throws away what the shards print.
    #[must_use]
    pub fn quiet(mut self, quiet: bool) -> Self {
        self.quiet = quiet;
        self
    }

    /// Starts the composer: its threads, its launch helper, and the warm shards, which come up meanwhile.
    ///
    /// # Errors
    /// See [`StartError`]. Everything is checked before anything starts.
    pub fn start(self) -> Result<Composer, StartError> {
        // First: what a composer before this one has left holds processors, perhaps.
        let groups = Groups::prepare();
        let file = self.host_file.as_ref().map(HostFile::read).transpose().map_err(StartError::HostFile)?;
        let interrupts = Interrupts::start(file.as_ref().is_some_and(HostFile::keeps_interrupts_off));
        let allocator = self.allocator(file)?;
        let (programs, generic_programs) = self.programs()?;
        self.check_sizes()?;
        self.check_allowed()?;
        let application = Arc::new(self.manifest.application().clone());
        let mut scaler = application
            .pool
            .as_ref()
            .map(|pool| Scaler::new(&application, pool, clock::now_ns()))
            .transpose()?;
        let history = application.pool.as_ref().and_then(|pool| pool.history.as_ref());
        let history = history.map(|path| History::new(self.manifest.folder().join(path)));
        if let (Some(scaler), Some(history)) = (&mut scaler, &history) {
            history.read(scaler);
        }
        barrier::register();

        let launcher = Launcher::start(self.launcher.as_deref())?;
        tracing::debug!(pid = launcher.pid(), "launch helper started");
        let poll = mio::Poll::new()?;
        let waker = Arc::new(mio::Waker::new(poll.registry(), WAKER)?);
        let (slow, slow_effects) = crossbeam::channel::unbounded();
        let hub_bell = create_bell("shard-hub")?;
        let embed_bell = application.embedder.map(|_| create_bell("shard-embedder")).transpose()?;
        let embed = match (&embed_bell, application.embedder) {
            (Some(bell), Some(id)) => {
                let component = application.component(id).clone();
                Some(Arc::new(Embed::new(component, Bell::map(bell)?, Arc::clone(&waker))))
            }
            _ => None,
        };
        let mut hub = Hub::new(
            Arc::clone(&application),
            Bell::map(&hub_bell)?,
            slow.clone(),
            Arc::clone(&waker),
            embed.clone(),
            scaler,
        );
        for (at, composition) in application.compositions.iter().enumerate() {
            let needs = composition.components.iter().map(|id| application.component(*id).needs);
            if let Err(shortage) = allocator.clone().allocate_all(&needs.collect::<Vec<_>>()).map(drop)
                && shortage.proved
            {
                let name = &composition.name;
                tracing::warn!(composition = name, %shortage, "it does not fit on this host and will be refused");
                hub.core.never_fits(CompositionId(at as u16), composition.components[shortage.at], shortage);
            }
        }
        let inner = Arc::new(Inner::new(application, hub, embed.clone(), slow, waker));
        let parts = Parts {
            poll,
            slow: slow_effects,
            launcher,
            programs,
            generic_programs,
            quiet: self.quiet,
            embed_bell,
            hub_bell,
            host: Host::new(allocator),
            history,
            groups,
            interrupts,
        };
        let shell = Shell::new(Arc::clone(&inner), parts)?;

        // On an error above, dropping the launcher ends its helper. From here on it is the shell's: an error drops the
        // handle, which ends what was started.
        let awake = inner.application.idle_latency_us.and_then(Awake::ask);
        let handle = Handle { inner: Arc::clone(&inner), threads: Mutex::default(), _awake: awake };
        handle.spawn("shell", move || shell.run())?;
        handle.spawn("clerk", move || inner.serve_acks())?;
        if let Some(embed) = embed {
            handle.spawn("mail", move || embed.serve())?;
        }
        Ok(Composer { handle: Arc::new(handle) })
    }

    /// What the host has, after it was checked that all warm shards fit.
    fn allocator(&self, file: Option<HostFile>) -> Result<Allocator, StartError> {
        let probed = || Inventory::probe();
        let inventory = match file {
            Some(file) if file.wants_probe() => file.apply(probed())?,
            Some(file) => file.apply(Inventory::empty())?,
            None => probed(),
        };
        self.manifest.check_needs(&HostNeeds {
            cores: inventory.processors().count() as u32,
            memory_bytes: inventory.memory_bytes(),
            gpu_memory_bytes: inventory.gpu_memory_bytes(),
        })?;
        let allocator = Allocator::new(vec![inventory])?;
        let needy = self.manifest.application().components.iter().filter(|c| c.needs != Needs::default());
        let warm = needy.flat_map(|component| std::iter::repeat_n(component, component.shards.warm as usize));
        let (names, needs): (Vec<_>, Vec<_>) =
            warm.map(|component| (&component.name, component.needs)).unzip();
        match allocator.clone().allocate_all(&needs) {
            Ok(_tried) => Ok(allocator),
            Err(shortage) => Err(StartError::Shortage { component: names[shortage.at].clone(), shortage }),
        }
    }

    /// Whether every shard can be told what it is.
    fn check_sizes(&self) -> Result<(), StartError> {
        for component in &self.manifest.application().components {
            let bytes = postcard::to_stdvec(component).map_or(usize::MAX, |spec| spec.len());
            if bytes > SPEC_BYTES_MAX {
                return Err(StartError::Large { component: component.name.clone(), bytes });
            }
        }
        Ok(())
    }

    /// Whether the paths are there that isolated shards may reach.
    fn check_allowed(&self) -> Result<(), StartError> {
        for component in &self.manifest.application().components {
            let allow = component.isolation.iter();
            let paths = allow.flat_map(|allow| allow.read.iter().chain(&allow.write).chain(&allow.devices));
            for path in paths {
                if let Err(source) = path.metadata() {
                    let (component, path) = (component.name.clone(), path.clone());
                    return Err(StartError::Allowed { component, path, source });
                }
            }
        }
        Ok(())
    }

    /// Where the programs are: the components' and the generic ones. Images are unpacked.
    fn programs(&self) -> Result<(Vec<Option<Executable>>, Vec<PathBuf>), StartError> {
        let (me, application) = (std::env::current_exe()?, self.manifest.application());
        let find = |program: &Program| resolve_program(program, self.manifest.folder(), &me);
        let mut ground = None;
        let component = |component: &Component| match &component.program {
            Some(program) if component.is_image() => {
                let processes = component.needs.processes;
                let found = self.container(program, processes, &mut ground).map(Executable::Container);
                let error = |source| StartError::Image { component: component.name.clone(), source };
                found.map(Some).map_err(error)
            }
            program => {
                let found = program.as_ref().map(find).transpose();
                let error = |source| StartError::Program { component: component.name.clone(), source };
                found.map(|path| path.map(Executable::Program)).map_err(error)
            }
        };
        let generic = |generic: &shardkit::application::Generic| {
            let found = find(&generic.program);
            found.map_err(|source| StartError::Generic { generic: generic.name.clone(), source })
        };
        let components: Result<_, _> = application.components.iter().map(component).collect();
        let generics: Result<_, _> = application.generics.iter().map(generic).collect();
        Ok((components?, generics?))
    }

    /// A component's image, ready to be run. What runs images and where they are kept is looked for with the first.
    fn container(
        &self,
        program: &Program,
        processes: u32,
        ground: &mut Option<(Runtime, Cache)>,
    ) -> Result<Container, OciError> {
        let image = self.manifest.folder().join(program.image().unwrap_or(&program.path));
        let image = std::path::absolute(&image).unwrap_or(image);
        if ground.is_none() {
            let by_manifest = self.manifest.application().oci_runtime.as_deref();
            let runtime = Runtime::find(self.oci_runtime.as_deref(), by_manifest)?;
            let cache = self.image_cache.as_ref().map_or_else(Cache::of_user, Cache::at)?;
            *ground = Some((runtime, cache));
        }
        let (runtime, cache) = ground.as_ref().expect("it was just looked for");
        prepare(&image, program, processes, runtime, cache)
    }
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
    fn spawn(&self, name: &str, life: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let thread = std::thread::Builder::new().name(name.into()).spawn(life)?;
        self.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
        Ok(())
    }

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
    /// Prepares a composer for a manifest.
    pub fn builder(manifest: Manifest) -> Builder {
        Builder {
            manifest,
            launcher: None,
            host_file: None,
            oci_runtime: None,
            image_cache: None,
            quiet: false,
        }
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
        let request = hub.request(at, start_ns + nanoseconds(timeout));
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
        let there = hub.drain(shard, clock::now_ns() + nanoseconds(timeout));
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
