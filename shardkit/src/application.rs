//! The application as the manifest declares it, resolved: names are positions, references are checked.
//!
//! Invariant: every [`ComponentId`] and [`PortId`] in an [`Application`] points at something that is there. The
//! manifest's reader is the only one who builds it, so nobody after it needs to check again.

use crate::pool::{Pool, Scale};
use serde::{Deserialize, Serialize};
use shard_runtime::id::{ComponentId, PortId};
pub use shard_runtime::isolation::Allow;
use std::path::{Path, PathBuf};

/// The largest number of sessions that one shard may hold.
pub const CAPACITY_MAX: u32 = 65_536;
/// The largest number of shards of one component on a node.
pub const SHARDS_MAX: u32 = 100_000;
/// The largest number of components in one application.
pub const COMPONENTS_MAX: usize = 256;
/// The largest number of inputs, and of outputs, of one component.
pub const PORTS_MAX: usize = 1_024;
/// The largest message that a port may declare, in bytes.
pub const MESSAGE_BYTES_MAX: u32 = 64 << 20;
/// The largest number of generic programs of one application.
pub const GENERICS_MAX: usize = 64;
/// The most spares of one generic program.
pub const SPARES_MAX: u32 = 256;
/// The most spares that a policy may choose where the manifest does not say.
pub const SPARES_AUTO_MAX_DEFAULT: u32 = 16;
/// The longest name of an application, a component, a port or a composition, in bytes.
pub const NAME_BYTES_MAX: usize = 64;
/// The longest name of a type of messages, in bytes.
pub const TYPE_BYTES_MAX: usize = 128;
/// The largest number of compositions of one application.
pub const COMPOSITIONS_MAX: usize = 256;
/// The largest number of cores of its own that a shard may ask for.
pub const CORES_MAX: u32 = 4_096;
/// The smallest bandwidth that a shard can be given, in bits a second.
pub const BANDWIDTH_BITS_PER_S_MIN: u64 = 1_000;
/// The fewest processes and threads that a shard may be limited to: it has a few threads of its own.
pub const PROCESSES_MIN: u32 = 8;
/// The most processes and threads that a shard may be allowed.
pub const PROCESSES_MAX: u32 = 1 << 22;
/// So many it may have where the manifest says nothing.
pub const PROCESSES_DEFAULT: u32 = 64;
/// The highest real-time priority that a shard may have: the kernel's threads for interrupts have 50.
pub const REALTIME_MAX: u32 = 49;
/// The fastest tick, per second.
pub const TICK_HZ_MAX: f64 = 10_000.0;
/// The longest that a shard may poll before it sleeps, in microseconds.
pub const SPIN_US_MAX: u32 = 1_000_000;
/// How long a shard polls before it sleeps where the manifest says nothing, in microseconds.
pub const SPIN_US_DEFAULT: u32 = 50;
/// How long a shard that nobody needs may be idle where the manifest says nothing, in milliseconds.
pub const SCALE_DOWN_DELAY_MS_DEFAULT: u64 = 10_000;
/// The longest time that a session may be idle, in seconds.
pub const IDLE_TIMEOUT_S_MAX: u64 = 30 * 86_400;
/// The longest time that a shard may be given to start or to stop, in milliseconds.
pub const TIMEOUT_MS_MAX: u64 = 3_600_000;
/// The smallest ring, in bytes.
pub const RING_BYTES_MIN: u32 = 4 << 10;
/// The largest ring, in bytes.
pub const RING_BYTES_MAX: u32 = 64 << 20;
/// The most paths, and the most system calls, that a component may be allowed.
pub const ALLOWED_MAX: usize = 64;
/// The most that a component's program, arguments and environment may take together, in bytes.
pub const PROGRAM_BYTES_MAX: usize = 64 << 10;
/// The most that a component's configuration may take as JSON text, in bytes.
pub const CONFIG_BYTES_MAX: usize = 64 << 10;

/// An application: components, who calls whom, and the compositions that sessions ask for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Application {
    /// Its name, in logs and file names.
    pub name: String,
    /// The components, in the manifest's order. [`ComponentId`] is the position in this list.
    pub components: Vec<Component>,
    /// The compositions, in the manifest's order; never empty.
    pub compositions: Vec<Composition>,
    /// The position of the embedder in `components`, if the manifest declares one: the end that the embedding
    /// program itself holds. It has ports, but no program and no shards.
    pub embedder: Option<ComponentId>,
    /// How pools follow demand; `None` for those that don't: each component keeps as many shards as its `warm` says.
    pub pool: Option<Pool>,
    /// Programs in which several components are linked, in the manifest's order.
    pub generics: Vec<Generic>,
    /// How long a sleeping processor of the host may take to wake, in microseconds; `None` for what the kernel does.
    pub idle_latency_us: Option<u32>,
    /// The OCI runtime that runs images: a name or a path; `None` for the first that is found.
    pub oci_runtime: Option<PathBuf>,
}

/// What an image is called by: `oci:PATH`.
pub const IMAGE_PREFIX: &str = "oci:";

/// The longest that can be asked of the host's processors, in microseconds.
pub const IDLE_LATENCY_US_MAX: u32 = 1_000_000;

/// A named part of the application.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Component {
    /// Its name, unique in the application.
    pub name: String,
    /// The program and its arguments; `None` for the embedder.
    pub program: Option<Program>,
    /// How many sessions one shard may hold.
    pub capacity: u32,
    /// How many shards there are.
    pub shards: Shards,
    /// What one shard needs of its node.
    pub needs: Needs,
    /// How a shard waits when it has nothing to do.
    pub wait: Wait,
    /// How often `on_tick` runs, per second; `None` for never.
    pub tick_hz: Option<f64>,
    /// Where messages arrive. [`PortId`] is the position in this list.
    pub inputs: Vec<Input>,
    /// Where messages leave. [`PortId`] is the position in this list.
    pub outputs: Vec<Output>,
    /// How long a shard may take from its launch until it is ready, in milliseconds.
    pub start_timeout_ms: u64,
    /// How long a shard may take to end after it was asked to, in milliseconds.
    pub stop_timeout_ms: u64,
    /// What becomes of a shard when the last session that it holds is over.
    pub after: After,
    /// The limits of its pool, for a policy that follows demand.
    pub scale: Scale,
    /// Whether its shards are forked from one process that was initialised once.
    pub zygote: bool,
    /// What its isolated shards may reach; `None` if they are not isolated.
    pub isolation: Option<Allow>,
    /// What the author's program finds in its configuration: the manifest's `config` table as JSON text.
    pub config_json: String,
}

/// What becomes of a shard when its last session has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum After {
    /// It takes the next session as it is. The default.
    #[default]
    Return,
    /// It takes the next session once the author's code has scrubbed it; one that fails to is killed.
    Scrub,
    /// It ends, and another is started in its place.
    Restart,
}

/// A program in which several components are linked. Some of its processes wait, and become shards of whichever of
/// these components is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generic {
    /// Its name, unique among the generic programs.
    pub name: String,
    /// The program and its arguments.
    pub program: Program,
    /// What its processes can become. Never empty; no component is in two generic programs.
    pub components: Vec<ComponentId>,
    /// How many processes wait.
    pub spares: Spares,
}

/// How many processes of a generic program wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Spares {
    /// Always so many.
    Fixed(u32),
    /// As many as the policy of the pools chooses in each bin of time. One, if `max` allows it, where there is no policy,
    /// or one that does not forecast.
    Auto {
        /// Never more than this.
        max: u32,
    },
}

impl Spares {
    /// How many wait before a policy has chosen.
    pub fn first(self) -> u32 {
        match self {
            Self::Fixed(spares) => spares,
            Self::Auto { max } => max.min(1),
        }
    }
}

/// How a shard's program is started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// As the manifest writes it. With a slash: relative to the manifest's folder. Without: searched beside the
    /// manifest, beside the running executable, in the folder above that, then in `PATH`. For an image: `oci:PATH`.
    pub path: PathBuf,
    /// The arguments after the program's name.
    pub args: Vec<String>,
    /// Environment variables on top of the inherited ones.
    pub env: Vec<(String, String)>,
}

impl Program {
    /// The path of the OCI image or bundle that is run instead of a program, relative to the manifest's folder.
    pub fn image(&self) -> Option<&Path> {
        self.path.to_str()?.strip_prefix(IMAGE_PREFIX).map(Path::new)
    }
}

impl Component {
    /// Whether its shards run in containers.
    pub fn is_image(&self) -> bool {
        self.program.as_ref().is_some_and(|program| program.image().is_some())
    }
}

/// How many shards of a component there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shards {
    /// Kept running and wired before anyone asks.
    pub warm: u32,
    /// Never more than this.
    pub max: u32,
    /// Of those that nobody needs, so many are frozen before others end: they keep their memory and have no processor.
    pub frozen: u32,
    /// How long a shard that nobody needs may be idle before it is frozen or ends, in milliseconds.
    pub scale_down_delay_ms: u64,
}

impl Shards {
    /// From `warm` to `max`, none of them frozen, with the usual delay.
    pub const fn between(warm: u32, max: u32) -> Self {
        Self { warm, max, frozen: 0, scale_down_delay_ms: SCALE_DOWN_DELAY_MS_DEFAULT }
    }
}

/// What one shard needs of its node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Needs {
    /// Cores of its own; 0 means that it shares the cores that nobody owns.
    pub cores: u32,
    /// Of the cores that nobody owns, so much, in thousandths of a core.
    pub share_millicores: u32,
    /// Memory, in bytes.
    pub memory_bytes: u64,
    /// Memory in huge pages, in bytes, besides the other.
    pub huge_pages_bytes: u64,
    /// The most processes and threads that it may have, its own included.
    pub processes: u32,
    /// The real-time priority of its own thread, from 1 to [`REALTIME_MAX`]; 0 for none. Only with cores of its own.
    pub realtime: u32,
    /// GPU memory, in bytes.
    pub gpu_memory_bytes: u64,
    /// Bandwidth to other nodes, in bits a second; 0 for none of its own, and then nothing holds it back.
    pub bandwidth_bits_per_s: u64,
    /// It may read so much from each disk that it can reach, in bytes a second; 0 for no bound.
    pub disk_read_bytes_per_s: u64,
    /// It may write so much to each disk that it can reach, in bytes a second; 0 for no bound.
    pub disk_write_bytes_per_s: u64,
}

/// How a shard waits when it has nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wait {
    /// Polls for ever. For a shard with a core of its own.
    Spin,
    /// Polls for `spin_us`, then sleeps in the kernel until someone rings. The default.
    SpinThenPark {
        /// Microseconds of polling before it sleeps.
        spin_us: u32,
    },
    /// Sleeps at once.
    Park,
}

/// A port through which messages arrive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    /// Its name, unique among the component's ports.
    pub name: String,
    /// The type of its messages, by name: both ends must agree.
    pub ty: String,
    /// The type of the replies, if it gives any.
    pub reply: Option<String>,
    /// The largest message it takes, in bytes.
    pub message_bytes_max: u32,
}

/// A port through which messages leave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// Its name, unique among the component's ports.
    pub name: String,
    /// The type of its messages, by name.
    pub ty: String,
    /// The type of the replies that come back, if any.
    pub reply: Option<String>,
    /// The largest message that goes out, in bytes: the least of its destinations' `message_bytes_max`.
    pub message_bytes_max: u32,
    /// Where a message goes: to every one of these. Never empty.
    pub to: Vec<Destination>,
    /// The size of the ring under a link that this port uses, in bytes; the largest of a link's ports wins.
    pub ring_bytes: u32,
}

/// An input of another component.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Destination {
    /// Whose input.
    pub component: ComponentId,
    /// Which input.
    pub input: PortId,
}

/// The set of components that a kind of session needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Composition {
    /// Its name, unique among the compositions.
    pub name: String,
    /// Its components without the embedder: the entries and everything they call. Callers come before those
    /// whom they call where the calls have no cycle. Never empty.
    pub components: Vec<ComponentId>,
    /// How long nobody may use a session before it ends, in milliseconds; `None` for ever. The embedding program uses a
    /// session by sending to it and by taking what came.
    pub idle_timeout_ms: Option<u64>,
}

impl Application {
    /// The component at `id`.
    ///
    /// # Panics
    /// If `id` is not one of this application's: ids come from the application itself.
    pub fn component(&self, id: ComponentId) -> &Component {
        &self.components[usize::from(id.0)]
    }

    /// The component of this name.
    pub fn find(&self, name: &str) -> Option<ComponentId> {
        self.components.iter().position(|c| c.name == name).map(|at| ComponentId(at as u16))
    }

    /// The generic program, by its position, whose processes can become shards of a component.
    pub fn generic_of(&self, id: ComponentId) -> Option<usize> {
        self.generics.iter().position(|generic| generic.components.contains(&id))
    }

    /// The components that `id` calls, each once, in the order of its outputs.
    pub fn calls(&self, id: ComponentId) -> Vec<ComponentId> {
        let mut calls = Vec::new();
        for to in self.component(id).outputs.iter().flat_map(|o| &o.to) {
            if !calls.contains(&to.component) {
                calls.push(to.component);
            }
        }
        calls
    }

    /// The pairs (caller, called), each once. A pair gets a link each way.
    pub fn call_pairs(&self) -> Vec<(ComponentId, ComponentId)> {
        let ids = (0..self.components.len()).map(|at| ComponentId(at as u16));
        ids.flat_map(|from| self.calls(from).into_iter().map(move |to| (from, to))).collect()
    }
}
