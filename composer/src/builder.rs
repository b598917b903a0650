//! Starts a composer: everything that can be wrong is found before anything starts.
//!
//! Invariant: a start that fails leaves nothing behind.

use crate::awake::Awake;
use crate::composer::Composer;
use crate::core::CompositionId;
use crate::embed::Embed;
use crate::groups::Groups;
use crate::history::History;
use crate::host::Host;
use crate::hub::Hub;
use crate::inner::Inner;
use crate::interrupts::Interrupts;
use crate::launcher::{Launcher, LauncherError};
use crate::oci::{Cache, Container, OciError, Runtime, prepare};
use crate::resources::{Allocator, HostFile, Inventory, InventoryError, Shortage};
use crate::scaler::{ScaleError, Scaler};
use crate::shell::{Executable, Parts, Shell, WAKER};
use shard_runtime::control::SPEC_BYTES_MAX;
use shard_runtime::region::RegionError;
use shard_runtime::wake::{Bell, create_bell};
use shard_runtime::{barrier, clock};
use shardkit::application::{Component, Needs, Program};
use shardkit::manifest::{Host as HostNeeds, Manifest, ManifestError, ProgramError, resolve_program};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

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
    pub(crate) fn new(manifest: Manifest) -> Self {
        Self { manifest, launcher: None, host_file: None, oci_runtime: None, image_cache: None, quiet: false }
    }

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
        // composer, which ends what was started.
        let awake = inner.application.idle_latency_us.and_then(Awake::ask);
        let composer = Composer::new(Arc::clone(&inner), awake);
        composer.spawn("shell", move || shell.run())?;
        composer.spawn("clerk", move || inner.serve_acks())?;
        if let Some(embed) = embed {
            composer.spawn("mail", move || embed.serve())?;
        }
        Ok(composer)
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
