//! The manifest: a TOML text that declares an application. Read, checked as a whole, and resolved into an
//! [`Application`] before anything starts.
//!
//! ```
//! use shardkit::manifest::Manifest;
//!
//! let manifest = Manifest::parse(
//!     r#"
//!     [application]
//!     name = "arena"
//!
//!     [component.auth]
//!     program = "arena"
//!     args = ["auth"]
//!     capacity = 64
//!     in.login = { type = "Login", reply = "Verdict", max = "4KiB" }
//!
//!     [component.physics]
//!     program = "arena"
//!     tick_hz = 60.0
//!     cores = 1
//!     wait = "spin"
//!     in.move = "Move"
//!     out.world = { to = ["render.world", "embedder.world"], ring = "1MiB" }
//!
//!     [component.render]
//!     program = "arena"
//!     in.world = "World"
//!
//!     [embedder]
//!     in.world = "World"
//!     out.login = "auth.login"
//!     out.move = "physics.move"
//!
//!     [composition.match]
//!     entry = ["auth", "physics"]
//!     "#,
//!     "arena.toml",
//! )?;
//! let application = manifest.application();
//! let names: Vec<_> = application.compositions[0].components.iter().map(|id| &application.component(*id).name).collect();
//! assert_eq!(names, ["auth", "physics", "render"]);
//!
//! let error = Manifest::parse("[application]\nname = 'arena'\n[component.ai]\nprogramm = 'ai'", "arena.toml").unwrap_err();
//! assert!(error.to_string().starts_with("arena.toml:4:1: unknown key `programm`; did you mean `program`?"));
//! # Ok::<(), shardkit::manifest::ManifestError>(())
//! ```
//!
//! # The format
//!
//! TOML, at most [`MANIFEST_BYTES_MAX`]. An unknown key is an error. Names are lower-case letters, digits, `-` and `_`,
//! begin with a letter and have at most 64 bytes. One entry opens at most 32 tables and lists within each other. A size is a number of bytes or a text: `"512B"`, `"64KiB"`, `"64MiB"`,
//! `"1GiB"`, `"1TiB"`, or decimal with `kB`, `MB`, `GB`, `TB`. The JSON schema that [`schema`] gives says the same to
//! an editor.
//!
//! `[application]`, required:
//!
//! | key | default | meaning |
//! | --- | --- | --- |
//! | `name` | required | the application's name, in logs and file names |
//! | `idle_latency_us` | the kernel's choice | how long a sleeping processor of this host may take to wake. 0 keeps them from sleeping: shards that sleep wake in half to two thirds of the time, and the idle processors use as much power as busy ones. Needs the right to write `/dev/cpu_dma_latency` |
//! | `oci_runtime` | `crun` | the OCI runtime that runs images: the name or the path of a crun |
//! | `cycles` | `false` | whether components may call each other in a circle; calls to the embedder never count |
//!
//! `[component.NAME]`, at least one:
//!
//! | key | default | meaning |
//! | --- | --- | --- |
//! | `program` | required, or `image` | what a shard runs: see [`resolve_program`] |
//! | `image` | none | the OCI image or bundle that a shard runs in a container, instead of a program: `"oci:PATH"`, relative to the manifest's folder; a folder with an image layout or a bundle, or an archive in image layout or of `docker save`. Not with `zygote`, `allow`, `gpu_memory` or `isolation = "none"` |
//! | `args` | `[]` | the arguments after the program's name; of an image, instead of its own after the entry point, if there are any |
//! | `env` | `{}` | environment variables. Of the composer's own an isolated shard inherits `PATH`, `LANG`, `LC_ALL`, `TZ`, `TERM`, `RUST_LOG` and `RUST_BACKTRACE` alone, one that is not isolated all; of an image, on top of its own alone |
//! | `capacity` | `1` | sessions per shard, 1 to 65536 |
//! | `warm` | `1` | shards kept running and wired before anyone asks, 0 to 100000 |
//! | `max` | `warm`, at least 1 | never more shards than this, 1 to 100000 |
//! | `frozen` | `0` | of the shards that nobody needs, so many are frozen before others end |
//! | `scale_down_delay_ms` | `10000` | how long a shard that nobody needs may be idle before it is frozen or ends |
//! | `after` | `"return"` | what becomes of a shard when the last session that it holds is over: `"return"`, `"scrub"`, `"restart"` |
//! | `scale` | no limits | see below |
//! | `cores` | `0` | cores of its own that one shard needs; 0 shares the others: one that sleeps is at home on one of them, and roams over all while it works a lot |
//! | `share` | `0` | of the cores that nobody owns, so much that one shard needs: `0.25` is a quarter of one. Where they do not suffice, shards weigh in proportion to that; one without weighs as a tenth of a core |
//! | `memory` | `0` | memory that one shard needs, and all that it gets where the host has control groups; a size; 0 sets no limit |
//! | `huge_pages` | `0` | memory in huge pages that one shard needs, besides `memory`; a size |
//! | `processes` | `64` | processes and threads that one shard may have, 8 to 4194304 |
//! | `realtime` | none | the real-time priority (`SCHED_FIFO`) of a shard's own thread, 1 to 49, where the host allows it; only with `cores`, not with `image`, nor with `wait = "spin"` |
//! | `gpu_memory` | `0` | GPU memory that one shard needs; a size |
//! | `bandwidth` | no bound | bandwidth to other nodes that one shard needs, and all that its links send together: bits a second, 1000 at least, or `"1Gbit/s"` (`bit/s`, `kbit/s`, `Mbit/s`, `Gbit/s`, `Tbit/s`) |
//! | `disk_read`, `disk_write` | `0` | the most that one shard may read from, or write to, each disk below its program, `allow.read` and `allow.write`: bytes a second, or `"50MiB/s"`; 0 sets no bound. Where the host has control groups |
//! | `wait` | `{ spin_us = 50 }` | when there is nothing to do: `"spin"`, `"park"`, `"spin-then-park"`, or for how many microseconds it polls before it sleeps |
//! | `tick_hz` | never | how often `on_tick` runs, per second: more than 0, at most 10000 |
//! | `start_timeout_ms` | `5000` | from its launch until it is ready |
//! | `stop_timeout_ms` | `1000` | from being asked to end until it is gone |
//! | `after` | `"return"` | what becomes of a shard when its last session has ended: `"return"` to the pool as it is, `"scrub"` ([`Shard::on_scrub`](crate::Shard::on_scrub)) before it returns, `"restart"` |
//! | `zygote` | `false` | whether its shards are forked from one process that was initialised once: see [`run`](crate::run) for what that asks of the program |
//! | `isolation` | `"native"` | what keeps its shards from the rest of the host: `"native"` ([`isolation`](shard_runtime::isolation)), or `"none"` |
//! | `allow` | nothing | what isolated shards may reach all the same, see below |
//! | `config` | `{}` | any table: the program finds it in its configuration |
//! | `in.PORT` | none | inputs |
//! | `out.PORT` | none | outputs |
//!
//! `in.PORT`, in short the type alone (`login = "Login"`):
//!
//! | key | default | meaning |
//! | --- | --- | --- |
//! | `type` | required | the type of its messages |
//! | `reply` | none | the type of its replies |
//! | `max` | `"64KiB"` | the largest message, 1 byte to 64 MiB |
//!
//! `out.PORT`, in short the destination or a list of them (`world = "render.world"`):
//!
//! | key | default | meaning |
//! | --- | --- | --- |
//! | `to` | required | a destination `component.port`, or a list; a message goes to each. They must agree on type and reply. The embedder's inputs are `embedder.port` |
//! | `type` | the destinations' | if given, it must be the destinations' |
//! | `reply` | the destinations' | if given, it must be the destinations' |
//! | `ring` | `"256KiB"` | the size of the ring under the link, a power of two from 4 KiB to 64 MiB; the largest of a link's ports wins |
//!
//! `[embedder]`, optional: the end that the embedding program itself holds, with `in` and `out` as above. In the
//! [`Application`] it is the last component, named `embedder`, without a program.
//!
//! `[pool]`, optional: once a bin of time a policy says how many shards of each component are to be ready, between its
//! `warm` and its `max`. Without it each keeps as many as its `warm` says.
//!
//! | key | default | meaning |
//! | --- | --- | --- |
//! | `policy` | `"expected-cost"` | `"expected-cost"`, `"hybrid"`, `"reactive"`, `"headroom"`, `"headroom-PERCENT"`, `"keep-alive-BINS"`, `"fixed-buffer-PLACES"` |
//! | `bin_s` | `60` | the length of a bin, in seconds |
//! | `history` | none | a file in which the policy's memory survives a restart |
//! | `prices` | `{ core_hour = 0.04, gib_hour = 0.005, gpu_gib_hour = 0.1, waiting_second = 0.01 }` | what things cost, in any one currency |
//!
//! `scale` of a component, the limits of its pool:
//!
//! | key | default | meaning |
//! | --- | --- | --- |
//! | `buffer` | `0` | so many places more than are in use, at least |
//! | `fraction` | `0` | so large a part more than is in use, at least |
//! | `step_up`, `step_down` | any | at most so many shards more, or fewer, from one bin to the next |
//! | `budget_hour` | any | what its warm shards may cost an hour |
//! | `schedule` | `[]` | windows of time with other limits: `{ days = ["fri", "sat"], from = "20:00", to = "02:00", floor = 4, ceiling = 9 }`, in UTC |
//!
//! `allow` of a component (`[component.NAME.allow]`), each list with at most 64 entries:
//!
//! | key | default | meaning |
//! | --- | --- | --- |
//! | `read` | `[]` | files and folders that its shards may read and execute, besides the program, `/usr` and what the dynamic loader needs |
//! | `write` | `[]` | files and folders that they may also write |
//! | `devices` | `[]` | device nodes that they may use, besides `/dev/null` and its like |
//! | `network` | `false` | whether they have the host's network |
//! | `rdma` | `false` | whether they have links over RDMA: the host's network namespace and `/dev/infiniband`, but no sockets |
//! | `syscalls` | `[]` | system calls besides those that every shard may make, by name |
//!
//! Where the composer is root, a shard runs as a user that owns nothing, unless `read` or `write` name something: then it
//! is the composer's user, without its powers.
//!
//! `[generic.NAME]`, programs in which several components are linked (see [`run_any`](crate::run_any)). Some of a
//! program's processes wait, and become shards of whichever of these components is asked for, without being started
//! first:
//!
//! | key | default | meaning |
//! | --- | --- | --- |
//! | `program`, `args`, `env` | as above | as for a component |
//! | `components` | required | what its processes can become; a component is in one generic program at most, and all in one are isolated alike |
//! | `spares` | `"auto"` | how many processes wait: a number from 0 to 256, or `"auto"` for as many as the policy of `[pool]` chooses in each bin; one, without `[pool]` or with a policy that does not forecast |
//! | `spares_max` | `16` | the most that the policy may choose, 0 to 256; only with `spares = "auto"` |
//!
//! `[composition.NAME]`, the kinds of session. Without any there is one, named `default`:
//!
//! | key | default | meaning |
//! | --- | --- | --- |
//! | `entry` | those that the embedder calls, or else those that nobody calls, or else all | its components, together with everything they call |
//! | `idle_timeout_s` | for ever | how long nobody may use a session before it ends |

mod allow;
mod at;
mod calls;
mod error;
mod image;
mod limits;
mod needs;
mod nesting;
mod pool;
mod ports;
mod program;
mod quantity;
mod raw;
mod resolve;

pub use error::ManifestError;
pub use needs::Host;
pub use program::{ProgramError, ProgramTrouble, resolve_program};

/// What a manifest's reader is made of, for readers of other files that are to speak like it.
#[doc(hidden)]
pub mod parts {
    pub use super::at::{At, Named};
    pub use super::error::{Problem, Span, did_you_mean, from_toml};
    pub use super::limits::{amount, bytes, check_count, check_name, whole};
    pub use super::nesting::check_nesting;
    pub use super::quantity::{BITS_PER_S, BYTES, parse, show_bytes};
    pub use super::raw::{Amount, Whole};
    pub use super::read_file;
}

use crate::application::Application;
use error::Problem;
use schemars::generate::SchemaSettings;
use std::io::Read;
use std::{fs::File, path::Path, path::PathBuf};

/// The largest manifest, in bytes.
pub const MANIFEST_BYTES_MAX: usize = 1 << 20;

/// The name that the embedder has among the components.
const EMBEDDER: &str = "embedder";

/// Reads a file of which `what` errors say that it is, and no more of it than one byte beyond `bytes_max`: enough to see
/// that it is too large.
#[doc(hidden)]
pub fn read_file(path: &Path, what: &str, bytes_max: usize) -> Result<Vec<u8>, ManifestError> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(bytes_max as u64 + 1).read_to_end(&mut bytes));
    read.map_err(|error| {
        ManifestError::of_file(path, format!("the {what} can't be read: {error}"), "name a file that can")
    })?;
    Ok(bytes)
}

/// A manifest that is right: it has passed every check that needs no host.
#[derive(Clone, Debug)]
pub struct Manifest {
    file: PathBuf,
    text: String,
    raw: raw::Manifest,
    application: Application,
}

impl Manifest {
    /// Reads and checks the manifest in the file `path`.
    ///
    /// # Errors
    /// If the file can't be read, is larger than [`MANIFEST_BYTES_MAX`] or no UTF-8, or anything in it is wrong.
    pub fn read(path: impl AsRef<Path>) -> Result<Self, ManifestError> {
        let path = path.as_ref();
        Self::parse_bytes(&read_file(path, "manifest", MANIFEST_BYTES_MAX)?, path)
    }

    /// Checks a manifest that was read by other means. `file_name` is what errors call it; the folder that it is in
    /// counts as the manifest's.
    ///
    /// Any text whatever gives a manifest or an error: it never panics, and the time it takes is bounded.
    ///
    /// # Errors
    /// If the text is larger than [`MANIFEST_BYTES_MAX`], or anything in it is wrong.
    pub fn parse(text: &str, file_name: impl AsRef<Path>) -> Result<Self, ManifestError> {
        let file = file_name.as_ref();
        if text.len() > MANIFEST_BYTES_MAX {
            return Err(too_large(file));
        }
        match parse_text(text) {
            Ok((raw, application)) => {
                Ok(Self { file: file.to_owned(), text: text.to_owned(), raw, application })
            }
            Err(problem) => Err(ManifestError::of_problem(file, text, problem)),
        }
    }

    /// Checks a manifest of which not even its encoding is known; otherwise like [`Manifest::parse`].
    ///
    /// # Errors
    /// As for [`Manifest::parse`], and if the bytes are no UTF-8.
    pub fn parse_bytes(bytes: &[u8], file_name: impl AsRef<Path>) -> Result<Self, ManifestError> {
        let file = file_name.as_ref();
        if bytes.len() > MANIFEST_BYTES_MAX {
            return Err(too_large(file));
        }
        let text = std::str::from_utf8(bytes).map_err(|error| {
            let span = error.valid_up_to()..error.valid_up_to() + 1;
            let problem = Problem::at(&span, "the file is not UTF-8 from here on", "save it as UTF-8");
            ManifestError::of_problem(file, &String::from_utf8_lossy(bytes), problem)
        })?;
        Self::parse(text, file)
    }

    /// The application that it declares.
    pub fn application(&self) -> &Application {
        &self.application
    }

    /// The application that it declares, without a copy.
    pub fn into_application(self) -> Application {
        self.application
    }

    /// The file it came from, as it was named.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The folder that its programs are relative to; empty for the current one.
    pub fn folder(&self) -> &Path {
        self.file.parent().unwrap_or(Path::new(""))
    }

    fn error(&self, problem: Problem) -> ManifestError {
        ManifestError::of_problem(&self.file, &self.text, problem)
    }
}

fn parse_text(text: &str) -> Result<(raw::Manifest, Application), Problem> {
    nesting::check_nesting(text)?;
    let raw: raw::Manifest = toml::from_str(text).map_err(|error| error::from_toml(&error))?;
    let application = resolve::resolve(&raw)?;
    Ok((raw, application))
}

fn too_large(file: &Path) -> ManifestError {
    let what = format!("the manifest is larger than {}", quantity::show_bytes(MANIFEST_BYTES_MAX as u64));
    ManifestError::of_file(file, what, "make it smaller; a component's data belongs into files of its own")
}

/// The JSON schema of the format (draft 2020-12), for editors.
pub fn schema() -> serde_json::Value {
    let settings = SchemaSettings::draft2020_12().for_deserialize().with_transform(without_null);
    settings.into_generator().into_root_schema_for::<raw::Manifest>().into()
}

/// TOML has no null: a key that may be missing is not one that may be null.
fn without_null(schema: &mut schemars::Schema) {
    if let Some(serde_json::Value::Array(types)) = schema.get_mut("type") {
        types.retain(|ty| ty != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            schema.insert("type".to_owned(), only);
        }
    }
    if let Some(serde_json::Value::Array(forms)) = schema.get_mut("anyOf") {
        forms.retain(|form| form.get("type").is_none_or(|ty| ty != "null"));
        if let [only] = forms.as_slice() {
            let only = only.clone();
            schema.remove("anyOf");
            schema.as_object_mut().into_iter().for_each(|object| {
                object.extend(only.as_object().cloned().unwrap_or_default());
            });
        }
    }
    schemars::transform::transform_subschemas(&mut without_null, schema);
}
