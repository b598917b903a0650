//! The manifest as it is written: one struct for each table, every value with its place. The JSON schema is made from
//! these, so their comments are what an editor shows.
//!
//! Invariant: a key that is not here is an error; so is a value of the wrong type. Whether values make sense is for
//! `resolve` to say.

use super::at::{At, Form, HasForms, Named};
use crate::application::{
    ALLOWED_MAX, BANDWIDTH_BITS_PER_S_MIN, CAPACITY_MAX, CORES_MAX, IDLE_LATENCY_US_MAX, IDLE_TIMEOUT_S_MAX,
    NAME_BYTES_MAX, PROCESSES_DEFAULT, PROCESSES_MAX, PROCESSES_MIN, REALTIME_MAX,
    SCALE_DOWN_DELAY_MS_DEFAULT, SHARDS_MAX, SPARES_MAX, SPIN_US_DEFAULT, SPIN_US_MAX, TICK_HZ_MAX,
    TIMEOUT_MS_MAX,
};
use crate::pool::{BIN_S_MAX, BIN_S_MIN, FRACTION_MAX, PRICE_MAX, WINDOWS_MAX};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserializer, Error, Unexpected};
use serde::{Deserialize, Serialize};
use std::{borrow::Cow, collections::BTreeMap, fmt, marker::PhantomData};

/// A manifest: the components of an application, what each needs, and which others each one calls.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(super) struct Manifest {
    pub(super) application: Application,
    /// The components, by name. At least one.
    #[serde(default)]
    pub(super) component: Named<Component>,
    /// The end that the embedding program itself holds.
    pub(super) embedder: Option<Embedder>,
    /// How pools follow demand. Without it each component keeps as many shards as its `warm` says.
    pub(super) pool: Option<Pool>,
    /// The kinds of session, by name. Without any there is one, named `default`.
    #[serde(default)]
    pub(super) composition: Named<Composition>,
    /// Programs in which several components are linked, by name.
    #[serde(default)]
    pub(super) generic: Named<Generic>,
}

/// The application as a whole.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(super) struct Application {
    /// Its name, in logs and file names.
    #[schemars(extend("pattern" = "^[a-z][a-z0-9_-]*$"), length(max = NAME_BYTES_MAX))]
    pub(super) name: At<String>,
    /// Whether components may call each other in a circle.
    #[serde(default)]
    pub(super) cycles: bool,
    /// How long a sleeping processor of the host may take to wake, in microseconds. 0 keeps all of them from sleeping:
    /// they poll while they are idle.
    #[schemars(range(max = IDLE_LATENCY_US_MAX))]
    pub(super) idle_latency_us: Option<At<Whole>>,
    /// The OCI runtime that runs images: its name or its path. Without it `crun`, if that is in `PATH`.
    #[schemars(length(min = 1))]
    pub(super) oci_runtime: Option<At<String>>,
}

/// A component: its program, its needs and its ports.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a table")]
#[schemars(extend("oneOf" = [{ "required": ["program"] }, { "required": ["image"] }]))]
pub(super) struct Component {
    /// The program of a shard. With a slash: relative to the manifest's folder. Without: searched beside the manifest,
    /// beside the running executable, in the folder above that, then in `PATH`. Either this or `image`.
    #[schemars(length(min = 1))]
    pub(super) program: Option<At<String>>,
    /// The OCI image or bundle that a shard runs in a container, instead of a program: `oci:PATH`, relative to the
    /// manifest's folder. A folder or an archive.
    #[schemars(extend("pattern" = "^oci:."))]
    pub(super) image: Option<At<String>>,
    /// The arguments after the program's name, or after the image's entry point.
    #[serde(default)]
    pub(super) args: Vec<At<String>>,
    /// Environment variables on top of the inherited ones.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, String>")]
    pub(super) env: Named<String>,
    /// Sessions that one shard may hold.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = CAPACITY_MAX))]
    pub(super) capacity: At<Whole>,
    /// Shards kept running and wired before anyone asks.
    #[serde(default = "one")]
    #[schemars(range(min = 0, max = SHARDS_MAX))]
    pub(super) warm: At<Whole>,
    /// Never more shards than this. The default is `warm`, but at least 1.
    #[schemars(range(min = 1, max = SHARDS_MAX))]
    pub(super) max: Option<At<Whole>>,
    /// Of the shards that nobody needs, so many are frozen before others end: they keep their memory and have no processor.
    #[serde(default = "zero")]
    #[schemars(range(min = 0, max = SHARDS_MAX))]
    pub(super) frozen: At<Whole>,
    /// How long a shard that nobody needs may be idle before it is frozen or ends, in milliseconds.
    #[serde(default = "scale_down_delay")]
    #[schemars(range(min = 1, max = TIMEOUT_MS_MAX))]
    pub(super) scale_down_delay_ms: At<Whole>,
    /// The limits of its pool, for a policy that follows demand.
    pub(super) scale: Option<Scale>,
    /// Cores of its own that one shard needs; 0 shares the cores that nobody owns.
    #[serde(default = "zero")]
    #[schemars(range(min = 0, max = CORES_MAX))]
    pub(super) cores: At<Whole>,
    /// Of the cores that nobody owns, so many, or such a part of one, that one shard needs: 0.25 is a quarter.
    #[serde(default = "nothing")]
    #[schemars(range(min = 0, max = CORES_MAX))]
    pub(super) share: At<Number>,
    /// Memory that one shard needs.
    #[serde(default = "no_bytes")]
    pub(super) memory: At<Amount>,
    /// Memory in huge pages that one shard needs, besides the other.
    #[serde(default = "no_bytes")]
    pub(super) huge_pages: At<Amount>,
    /// The most processes and threads that one shard may have.
    #[serde(default = "processes")]
    #[schemars(range(min = PROCESSES_MIN, max = PROCESSES_MAX))]
    pub(super) processes: At<Whole>,
    /// The real-time priority (`SCHED_FIFO`) of a shard's own thread, where the host allows it. Only with cores of its own, and
    /// not for one that polls for ever.
    #[schemars(range(min = 1, max = REALTIME_MAX))]
    pub(super) realtime: Option<At<Whole>>,
    /// GPU memory that one shard needs.
    #[serde(default = "no_bytes")]
    pub(super) gpu_memory: At<Amount>,
    /// Bandwidth to other nodes that one shard needs, and all that it gets. Without it: as much as there is.
    #[schemars(with = "Option<Bandwidth>")]
    pub(super) bandwidth: Option<At<Amount>>,
    /// The most that one shard may read from each disk below what it can reach, a second.
    #[serde(default = "no_bytes")]
    #[schemars(schema_with = "disk_schema")]
    pub(super) disk_read: At<Amount>,
    /// The most that it may write to each of them, a second.
    #[serde(default = "no_bytes")]
    #[schemars(schema_with = "disk_schema")]
    pub(super) disk_write: At<Amount>,
    /// How a shard waits when it has nothing to do.
    #[serde(default)]
    pub(super) wait: Wait,
    /// How often `on_tick` runs, per second. Without it: never.
    #[schemars(range(max = TICK_HZ_MAX), extend("exclusiveMinimum" = 0))]
    pub(super) tick_hz: Option<At<Number>>,
    /// How long a shard may take from its launch until it is ready, in milliseconds.
    #[serde(default = "start_timeout")]
    #[schemars(range(min = 1, max = TIMEOUT_MS_MAX))]
    pub(super) start_timeout_ms: At<Whole>,
    /// How long a shard may take to end after it was asked to, in milliseconds.
    #[serde(default = "stop_timeout")]
    #[schemars(range(min = 1, max = TIMEOUT_MS_MAX))]
    pub(super) stop_timeout_ms: At<Whole>,
    /// What becomes of a shard when its last session has ended.
    #[serde(default = "returns")]
    #[schemars(schema_with = "after_schema")]
    pub(super) after: At<String>,
    /// Whether its shards are forked from one process that was initialised once. Only for a component whose
    /// initialisation starts no thread and leaves nothing that two processes must not share.
    #[serde(default)]
    pub(super) zygote: bool,
    /// What keeps its shards from the rest of the host: `native`, or `none`.
    #[serde(default = "native")]
    #[schemars(schema_with = "isolation_schema")]
    pub(super) isolation: At<String>,
    /// What its shards may reach besides the rings that they are handed.
    pub(super) allow: Option<At<Allow>>,
    /// Anything: the program finds it in its configuration.
    #[schemars(with = "Option<BTreeMap<String, serde_json::Value>>")]
    pub(super) config: Option<At<toml::Table>>,
    /// Where messages arrive, by name.
    #[serde(default, rename = "in")]
    pub(super) inputs: Named<Input>,
    /// Where messages leave, by name.
    #[serde(default, rename = "out")]
    pub(super) outputs: Named<Output>,
}

/// What an isolated shard may reach besides the rings that it is handed.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(super) struct Allow {
    /// Files and folders that it may read and execute: whole paths.
    #[serde(default)]
    #[schemars(length(max = ALLOWED_MAX))]
    pub(super) read: Vec<At<String>>,
    /// Files and folders that it may also write: whole paths.
    #[serde(default)]
    #[schemars(length(max = ALLOWED_MAX))]
    pub(super) write: Vec<At<String>>,
    /// Device nodes that it may use: whole paths.
    #[serde(default)]
    #[schemars(length(max = ALLOWED_MAX))]
    pub(super) devices: Vec<At<String>>,
    /// Whether it has the host's network.
    #[serde(default)]
    pub(super) network: bool,
    /// Whether it has links over RDMA: the host's network namespace and the device's nodes, but no sockets.
    #[serde(default)]
    pub(super) rdma: bool,
    /// System calls besides those that every shard may make, by name.
    #[serde(default)]
    #[schemars(length(max = ALLOWED_MAX))]
    pub(super) syscalls: Vec<At<String>>,
}

/// How pools follow demand: once a bin of time a policy says how many shards of each component are to be ready.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(super) struct Pool {
    /// The policy: `expected-cost`, `hybrid`, `reactive`, `headroom`, `headroom-PERCENT`, `keep-alive-BINS` or
    /// `fixed-buffer-PLACES`.
    #[serde(default = "policy")]
    pub(super) policy: At<String>,
    /// How often it decides: the length of a bin, in seconds.
    #[serde(default = "bin")]
    #[schemars(range(min = BIN_S_MIN, max = BIN_S_MAX))]
    pub(super) bin_s: At<Number>,
    /// A file in which the policy's memory survives a restart; relative to the manifest's folder.
    pub(super) history: Option<At<String>>,
    /// What things cost, in any one currency.
    #[serde(default)]
    pub(super) prices: Prices,
}

/// What things cost, in any one currency.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(super) struct Prices {
    /// A core for an hour.
    #[schemars(range(min = 0, max = PRICE_MAX))]
    pub(super) core_hour: At<Number>,
    /// A gibibyte of memory for an hour.
    #[schemars(range(min = 0, max = PRICE_MAX))]
    pub(super) gib_hour: At<Number>,
    /// A gibibyte of GPU memory for an hour.
    #[schemars(range(min = 0, max = PRICE_MAX))]
    pub(super) gpu_gib_hour: At<Number>,
    /// A second that a user waits.
    #[schemars(range(min = 0, max = PRICE_MAX))]
    pub(super) waiting_second: At<Number>,
}

impl Default for Prices {
    fn default() -> Self {
        // About what a cloud asks for a core and for memory; a user's hour of waiting is worth about 30.
        let [core_hour, gib_hour, gpu_gib_hour, waiting_second] = [0.04, 0.005, 0.1, 0.01].map(number);
        Self { core_hour, gib_hour, gpu_gib_hour, waiting_second }
    }
}

/// The limits of a component's pool, on top of its `warm` and `max`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(super) struct Scale {
    /// So many places more than are in use, at least.
    #[serde(default = "zero")]
    #[schemars(range(min = 0, max = u32::MAX))]
    pub(super) buffer: At<Whole>,
    /// So large a part more than is in use, at least: 0.25 is a quarter more.
    #[serde(default = "nothing")]
    #[schemars(range(min = 0, max = FRACTION_MAX))]
    pub(super) fraction: At<Number>,
    /// At most so many shards more from one bin to the next.
    #[schemars(range(min = 1, max = SHARDS_MAX))]
    pub(super) step_up: Option<At<Whole>>,
    /// At most so many shards fewer from one bin to the next.
    #[schemars(range(min = 1, max = SHARDS_MAX))]
    pub(super) step_down: Option<At<Whole>>,
    /// What its warm shards may cost an hour.
    #[schemars(range(min = 0, max = PRICE_MAX))]
    pub(super) budget_hour: Option<At<Number>>,
    /// Times at which other floors and ceilings hold; where several do, the last one counts.
    #[serde(default)]
    #[schemars(length(max = WINDOWS_MAX))]
    pub(super) schedule: Vec<Window>,
}

/// A time of day on some days, in UTC.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(super) struct Window {
    /// The days on which it begins: `mon`, `tue`, `wed`, `thu`, `fri`, `sat`, `sun`. Without it: every day.
    #[schemars(length(min = 1, max = 7))]
    pub(super) days: Option<Vec<At<String>>>,
    /// Its begin, as in `08:00`.
    #[schemars(extend("pattern" = "^([01][0-9]|2[0-3]):[0-5][0-9]$"))]
    pub(super) from: At<String>,
    /// Its end; on the next day if it is not after the begin.
    #[schemars(extend("pattern" = "^([01][0-9]|2[0-3]):[0-5][0-9]$"))]
    pub(super) to: At<String>,
    /// So many shards at least.
    #[schemars(range(min = 0, max = SHARDS_MAX))]
    pub(super) floor: Option<At<Whole>>,
    /// So many at the most.
    #[schemars(range(min = 0, max = SHARDS_MAX))]
    pub(super) ceiling: Option<At<Whole>>,
}

/// The end that the embedding program itself holds: ports, but no program and no shards.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(super) struct Embedder {
    /// Where messages arrive, by name.
    #[serde(default, rename = "in")]
    pub(super) inputs: Named<Input>,
    /// Where messages leave, by name.
    #[serde(default, rename = "out")]
    pub(super) outputs: Named<Output>,
}

/// A kind of session: the components that it takes.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(super) struct Composition {
    /// Components that it takes, together with everything they call. The default is those that the embedder calls, or
    /// else those that nobody calls, or else all.
    #[schemars(length(min = 1))]
    pub(super) entry: Option<At<Vec<At<String>>>>,
    /// How long nobody may use a session before it ends, in seconds. Without it: for ever.
    #[schemars(range(min = 1, max = IDLE_TIMEOUT_S_MAX))]
    pub(super) idle_timeout_s: Option<At<Whole>>,
}

/// A program in which several components are linked: some of its processes wait, and become shards of whichever
/// component is asked for.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(super) struct Generic {
    /// The program, found as a component's is.
    #[schemars(length(min = 1))]
    pub(super) program: At<String>,
    /// The arguments after the program's name.
    #[serde(default)]
    pub(super) args: Vec<At<String>>,
    /// Environment variables on top of the inherited ones.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, String>")]
    pub(super) env: Named<String>,
    /// What its processes can become.
    #[schemars(length(min = 1))]
    pub(super) components: At<Vec<At<String>>>,
    /// How many processes wait: a number, or `auto` for as many as the policy of `[pool]` chooses in each bin.
    #[serde(default = "auto")]
    #[schemars(schema_with = "spares_schema")]
    pub(super) spares: At<Amount>,
    /// The most that the policy may choose. Only with `spares = "auto"`; the default is 16.
    #[schemars(range(min = 0, max = SPARES_MAX))]
    pub(super) spares_max: Option<At<Whole>>,
}

/// An input. The short form is its type alone: `login = "Login"`.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "At<Form<InputTable>>")]
pub(super) struct Input {
    pub(super) ty: At<String>,
    pub(super) reply: Option<At<String>>,
    pub(super) max: At<Amount>,
}

/// An input.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename = "Input")]
pub(super) struct InputTable {
    /// The type of its messages, by name: both ends must agree.
    #[serde(rename = "type")]
    ty: At<String>,
    /// The type of the replies, if it gives any.
    reply: Option<At<String>>,
    /// The largest message that it takes.
    #[serde(default = "message_max")]
    max: At<Amount>,
}

/// An output. The short form is its destination or destinations alone: `world = "render.world"`.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "At<Form<OutputTable>>")]
pub(super) struct Output {
    pub(super) to: At<Vec<At<String>>>,
    pub(super) ty: Option<At<String>>,
    pub(super) reply: Option<At<String>>,
    pub(super) ring: At<Amount>,
}

/// An output.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename = "Output")]
pub(super) struct OutputTable {
    /// Where a message goes, to every one of these: inputs, written `component.port`.
    to: Destinations,
    /// The type of its messages, by name. The default is the destinations' type.
    #[serde(rename = "type")]
    ty: Option<At<String>>,
    /// The type of the replies that come back. The default is what the destinations reply.
    reply: Option<At<String>>,
    /// The size of the ring under the link: a power of two between 4 KiB and 64 MiB.
    #[serde(default = "ring")]
    ring: At<Amount>,
}

/// One destination, or several.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "At<Form<NoTable>>")]
struct Destinations(At<Vec<At<String>>>);

/// Stands where a table is never right.
#[derive(Deserialize)]
struct NoTable {}

/// How a shard waits: a word, or how long it polls.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "At<Form<WaitTable>>")]
pub(super) enum Wait {
    Named(At<String>),
    SpinUs(At<Whole>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WaitTable {
    spin_us: At<Whole>,
}

impl Default for Wait {
    fn default() -> Self {
        Self::SpinUs(At::nowhere(Whole(i64::from(SPIN_US_DEFAULT))))
    }
}

/// A whole number.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Whole(pub i64);

/// A number, whole or not.
#[derive(Clone, Copy, Debug)]
pub(super) struct Number(pub(super) f64);

/// A number in the base unit, or a text with a unit.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum Amount {
    /// In the base unit.
    Number(i64),
    /// With its unit.
    Text(String),
}

fn whole(value: i64) -> At<Whole> {
    At::nowhere(Whole(value))
}

fn amount(text: &str) -> At<Amount> {
    At::nowhere(Amount::Text(text.to_owned()))
}

fn auto() -> At<Amount> {
    amount("auto")
}

fn number(value: f64) -> At<Number> {
    At::nowhere(Number(value))
}

fn nothing() -> At<Number> {
    number(0.0)
}

fn policy() -> At<String> {
    At::nowhere("expected-cost".into())
}

fn bin() -> At<Number> {
    number(60.0)
}

fn zero() -> At<Whole> {
    whole(0)
}

fn one() -> At<Whole> {
    whole(1)
}

fn scale_down_delay() -> At<Whole> {
    whole(SCALE_DOWN_DELAY_MS_DEFAULT as i64)
}

fn start_timeout() -> At<Whole> {
    whole(5000)
}

fn processes() -> At<Whole> {
    whole(PROCESSES_DEFAULT.into())
}

fn stop_timeout() -> At<Whole> {
    whole(1000)
}

fn returns() -> At<String> {
    At::nowhere("return".to_owned())
}

fn native() -> At<String> {
    At::nowhere("native".to_owned())
}

fn no_bytes() -> At<Amount> {
    At::nowhere(Amount::Number(0))
}

fn message_max() -> At<Amount> {
    amount("64KiB")
}

fn ring() -> At<Amount> {
    amount("256KiB")
}

impl TryFrom<At<Form<InputTable>>> for Input {
    type Error = WrongForm<InputTable>;

    fn try_from(form: At<Form<InputTable>>) -> Result<Self, Self::Error> {
        match form.value {
            Form::Text(ty) => Ok(Self { ty: At::new(ty, form.span), reply: None, max: message_max() }),
            Form::Table(InputTable { ty, reply, max }) => Ok(Self { ty, reply, max }),
            Form::List(_) => Err(WrongForm::list()),
        }
    }
}

impl TryFrom<At<Form<OutputTable>>> for Output {
    type Error = WrongForm<OutputTable>;

    fn try_from(form: At<Form<OutputTable>>) -> Result<Self, Self::Error> {
        let to = match form.value {
            Form::Text(to) => vec![At::new(to, form.span.clone())],
            Form::List(to) => to,
            Form::Table(OutputTable { to, ty, reply, ring }) => {
                return Ok(Self { to: to.0, ty, reply, ring });
            }
        };
        Ok(Self { to: At::new(to, form.span), ty: None, reply: None, ring: ring() })
    }
}

impl TryFrom<At<Form<NoTable>>> for Destinations {
    type Error = WrongForm<NoTable>;

    fn try_from(form: At<Form<NoTable>>) -> Result<Self, Self::Error> {
        let to = match form.value {
            Form::Text(to) => vec![At::new(to, form.span.clone())],
            Form::List(to) => to,
            Form::Table(_) => return Err(WrongForm::table()),
        };
        Ok(Self(At::new(to, form.span)))
    }
}

impl TryFrom<At<Form<WaitTable>>> for Wait {
    type Error = WrongForm<WaitTable>;

    fn try_from(form: At<Form<WaitTable>>) -> Result<Self, Self::Error> {
        match form.value {
            Form::Text(word) => Ok(Self::Named(At::new(word, form.span))),
            Form::Table(WaitTable { spin_us }) => Ok(Self::SpinUs(spin_us)),
            Form::List(_) => Err(WrongForm::list()),
        }
    }
}

impl HasForms for InputTable {
    const EXPECTED: &'static str = "the type's name or a table with `type`";
}

impl HasForms for OutputTable {
    const EXPECTED: &'static str = "a destination, a list of them, or a table with `to`";
}

impl HasForms for NoTable {
    const EXPECTED: &'static str = "a destination or a list of them";
}

impl HasForms for WaitTable {
    const EXPECTED: &'static str = "a word or a table with `spin_us`";
}

impl<'de> Deserialize<'de> for Whole {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match toml::Value::deserialize(deserializer)? {
            toml::Value::Integer(value) => Ok(Self(value)),
            other => Err(D::Error::invalid_type(unexpected(&other), &"a whole number")),
        }
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match toml::Value::deserialize(deserializer)? {
            toml::Value::Integer(value) => Ok(Self(value as f64)),
            toml::Value::Float(value) => Ok(Self(value)),
            other => Err(D::Error::invalid_type(unexpected(&other), &"a number")),
        }
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match toml::Value::deserialize(deserializer)? {
            toml::Value::Integer(value) => Ok(Self::Number(value)),
            toml::Value::String(text) => Ok(Self::Text(text)),
            other => {
                Err(D::Error::invalid_type(unexpected(&other), &"a whole number, or a text with a unit"))
            }
        }
    }
}

fn unexpected(value: &toml::Value) -> Unexpected<'_> {
    match value {
        toml::Value::String(text) => Unexpected::Str(text),
        toml::Value::Integer(value) => Unexpected::Signed(*value),
        toml::Value::Float(value) => Unexpected::Float(*value),
        toml::Value::Boolean(value) => Unexpected::Bool(*value),
        toml::Value::Datetime(_) => Unexpected::Other("date"),
        toml::Value::Array(_) => Unexpected::Seq,
        toml::Value::Table(_) => Unexpected::Map,
    }
}

/// A value in a form that it does not have; worded as serde words it.
pub(super) struct WrongForm<T> {
    found: Unexpected<'static>,
    of: PhantomData<T>,
}

impl<T> WrongForm<T> {
    fn list() -> Self {
        Self { found: Unexpected::Seq, of: PhantomData }
    }

    fn table() -> Self {
        Self { found: Unexpected::Map, of: PhantomData }
    }
}

impl<T: HasForms> fmt::Display for WrongForm<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invalid type: {}, expected {}", self.found, T::EXPECTED)
    }
}

/// Stands in the schema for an amount of bits a second.
enum Bandwidth {}

/// The schema of a type that is written in one of several ways, or by its own table.
macro_rules! schema {
    ($ty:ty, $name:literal, inline: $inline:literal, $generator:ident => $($schema:tt)+) => {
        impl JsonSchema for $ty {
            fn inline_schema() -> bool {
                $inline
            }

            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }

            fn json_schema($generator: &mut SchemaGenerator) -> Schema {
                json_schema!($($schema)+)
            }
        }
    };
}

schema!(Whole, "Whole", inline: true, _generator => { "type": "integer" });
schema!(Number, "Number", inline: true, _generator => { "type": "number" });
schema!(Amount, "Size", inline: false, _generator => {
    "description": "A number of bytes, or a text with a unit: B, KiB, MiB, GiB, TiB, kB, MB, GB or TB.",
    "anyOf": [{ "type": "integer", "minimum": 0 }, { "type": "string", "pattern": "^[0-9]+ *([KMGT]iB|[kMGT]?B)$" }],
});
schema!(Wait, "Wait", inline: false, _generator => {
    "anyOf": [
        { "enum": ["spin", "spin-then-park", "park"] },
        {
            "type": "object",
            "properties": { "spin_us": {
                "description": "Polls for so many microseconds, then sleeps until someone rings.",
                "type": "integer", "minimum": 0, "maximum": SPIN_US_MAX,
            } },
            "required": ["spin_us"],
            "additionalProperties": false,
        },
    ],
    "default": { "spin_us": SPIN_US_DEFAULT },
});
schema!(Bandwidth, "Bandwidth", inline: true, _generator => {
    "anyOf": [
        { "type": "integer", "minimum": BANDWIDTH_BITS_PER_S_MIN },
        { "type": "string", "pattern": "^[0-9]+ *[kMGT]?bit/s$" },
    ],
});
schema!(Destinations, "Destinations", inline: true, _generator => {
    "anyOf": [{ "type": "string" }, { "type": "array", "items": { "type": "string" }, "minItems": 1 }],
});
schema!(Input, "Input or type", inline: true, generator => {
    "anyOf": [
        { "description": "The type of its messages.", "type": "string" },
        generator.subschema_for::<InputTable>(),
    ],
});
schema!(Output, "Output or destinations", inline: true, generator => {
    "anyOf": [
        { "description": "Where a message goes.", "anyOf": [generator.subschema_for::<Destinations>()] },
        generator.subschema_for::<OutputTable>(),
    ],
});

fn after_schema(_generator: &mut SchemaGenerator) -> Schema {
    json_schema!({ "enum": ["return", "scrub", "restart"] })
}

fn spares_schema(_generator: &mut SchemaGenerator) -> Schema {
    json_schema!({ "anyOf": [{ "type": "integer", "minimum": 0, "maximum": SPARES_MAX }, { "const": "auto" }] })
}

fn isolation_schema(_generator: &mut SchemaGenerator) -> Schema {
    json_schema!({ "enum": ["native", "none"] })
}

fn disk_schema(_generator: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "anyOf": [{ "type": "integer", "minimum": 0 }, { "type": "string", "pattern": "^[0-9]+ *([KMGT]iB|[kMGT]?B)/s$" }],
    })
}
