//! From what is written to the resolved application: values get their limits, names become positions.
//!
//! Invariant: an application that comes out keeps the promises of [`crate::application`].

use super::at::{At, Named};
use super::calls::{self, Calls};
use super::error::{Problem, did_you_mean};
use super::raw::{self, Amount, Whole};
use super::{EMBEDDER, quantity};
use crate::application::*;
use shard_runtime::id::{ComponentId, PortId};
use std::collections::{HashMap, HashSet};

/// Checks all of a manifest and builds its application.
pub(super) fn resolve(raw: &raw::Manifest) -> Result<Application, Problem> {
    check_name(&raw.application.name, "application")?;
    check_components(raw)?;
    let mut ends = Vec::new();
    for (name, component) in &raw.component.0 {
        ends.push(End { component: self::component(name, component)?, outputs: &component.outputs });
    }
    if let Some(embedder) = &raw.embedder {
        ends.push(End { component: self::embedder(embedder)?, outputs: &embedder.outputs });
    }

    let names = Names::new(&ends);
    let mut calls = Calls::default();
    let mut wired = Vec::new();
    for (at, end) in ends.iter().enumerate() {
        let from = ComponentId(at as u16);
        let outputs = end.outputs.0.iter();
        let outputs: Result<_, _> =
            outputs.map(|(name, output)| names.output(from, name, output, &mut calls)).collect();
        wired.push(outputs?);
    }
    let embedder = raw.embedder.is_some().then(|| ComponentId(raw.component.0.len() as u16));
    let components =
        ends.into_iter().zip(wired).map(|(end, outputs)| Component { outputs, ..end.component }).collect();
    let mut application = Application {
        name: raw.application.name.value.clone(),
        components,
        compositions: Vec::new(),
        embedder,
    };
    if !raw.application.cycles {
        calls.forbid_circles(&application)?;
    }
    application.compositions = calls::compositions(&raw.composition, &application, &calls)?;
    Ok(application)
}

fn check_components(raw: &raw::Manifest) -> Result<(), Problem> {
    let Some((last, _)) = raw.component.0.last() else {
        let cure = "add one: `[component.NAME]` with a `program`";
        return Err(Problem::at(&raw.application.name.span, "the application has no components", cure));
    };
    let ends = raw.component.0.len() + usize::from(raw.embedder.is_some());
    check_count(&last.span, ends, COMPONENTS_MAX, "components, the embedder among them")?;
    for (name, _) in &raw.component.0 {
        check_name(name, "component")?;
        if name.value == EMBEDDER {
            let cure =
                "give it another name, or write `[embedder]` for the end that the embedding program holds";
            return Err(Problem::at(
                &name.span,
                "no component can be named `embedder`: the name is taken",
                cure,
            ));
        }
    }
    Ok(())
}

/// The application's or a component's name, or a port's: short, and safe in file names and logs.
pub(super) fn check_name(name: &At<String>, kind: &str) -> Result<(), Problem> {
    let text = &name.value;
    let letters = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
    if text.len() > NAME_BYTES_MAX {
        let what = format!("the {kind}'s name is {} bytes long", text.len());
        return Err(Problem::at(&name.span, what, format!("use at most {NAME_BYTES_MAX}")));
    }
    if !text.starts_with(|c: char| c.is_ascii_lowercase()) || !text.chars().all(letters) {
        let what = format!(
            "`{text}` can't be the name of {} {kind}",
            if kind == "application" { "an" } else { "a" }
        );
        return Err(Problem::at(
            &name.span,
            what,
            "use lower-case letters, digits, `-` and `_`, beginning with a letter",
        ));
    }
    Ok(())
}

fn check_count(span: &super::error::Span, count: usize, max: usize, what: &str) -> Result<(), Problem> {
    if count <= max {
        return Ok(());
    }
    Err(Problem::at(span, format!("there are {count} {what}"), format!("use at most {max}")))
}

/// A component whose outputs still wait until every input is known.
struct End<'a> {
    component: Component,
    outputs: &'a Named<raw::Output>,
}

fn component(name: &At<String>, raw: &raw::Component) -> Result<Component, Problem> {
    check_ports(&raw.inputs, &raw.outputs)?;
    Ok(Component {
        name: name.value.clone(),
        program: Some(program(raw)?),
        capacity: whole(&raw.capacity, "capacity", 1, CAPACITY_MAX.into())? as u32,
        shards: shards(raw)?,
        needs: Needs {
            cores: whole(&raw.cores, "cores", 0, CORES_MAX.into())? as u32,
            memory_bytes: bytes(&raw.memory, "memory")?,
            gpu_memory_bytes: bytes(&raw.gpu_memory, "gpu_memory")?,
            bandwidth_bits_per_s: amount(
                &raw.bandwidth,
                "bandwidth",
                quantity::BITS_PER_S,
                "a number of bits a second, or a text like \"1Gbit/s\"",
            )?,
        },
        wait: wait(&raw.wait)?,
        tick_hz: raw.tick_hz.as_ref().map(tick_hz).transpose()?,
        inputs: inputs(&raw.inputs)?,
        outputs: Vec::new(),
        start_timeout_ms: whole(&raw.start_timeout_ms, "start_timeout_ms", 1, TIMEOUT_MS_MAX)?,
        stop_timeout_ms: whole(&raw.stop_timeout_ms, "stop_timeout_ms", 1, TIMEOUT_MS_MAX)?,
        config_json: config_json(raw.config.as_ref())?,
    })
}

/// The embedder as a component: ports, and nothing that anyone would run.
fn embedder(raw: &raw::Embedder) -> Result<Component, Problem> {
    check_ports(&raw.inputs, &raw.outputs)?;
    Ok(Component {
        name: EMBEDDER.to_owned(),
        program: None,
        capacity: CAPACITY_MAX,
        shards: Shards { warm: 0, max: 0 },
        needs: Needs::default(),
        wait: Wait::SpinThenPark { spin_us: SPIN_US_DEFAULT },
        tick_hz: None,
        inputs: inputs(&raw.inputs)?,
        outputs: Vec::new(),
        start_timeout_ms: 0,
        stop_timeout_ms: 0,
        config_json: "{}".to_owned(),
    })
}

fn program(raw: &raw::Component) -> Result<Program, Problem> {
    let span = &raw.program.span;
    if raw.program.value.is_empty() {
        return Err(Problem::at(span, "`program` is empty", "name the program that a shard runs"));
    }
    let env = raw.env.0.iter().map(|(name, value)| (&name.span, name.value.as_str(), value.as_str()));
    if let Some((span, name, _)) = env.clone().find(|(_, name, _)| name.is_empty() || name.contains('=')) {
        return Err(Problem::at(
            span,
            format!("`{name}` can't be an environment variable"),
            "use a name without `=`",
        ));
    }
    let args = raw.args.iter().map(|arg| (&arg.span, "", arg.value.as_str()));
    let mut bytes = 0;
    for (span, name, value) in std::iter::once((span, "", raw.program.value.as_str())).chain(args).chain(env)
    {
        if name.contains('\0') || value.contains('\0') {
            return Err(Problem::at(span, "the kernel takes no zero byte here", "leave the `\\u0000` out"));
        }
        bytes += name.len() + value.len() + 1;
    }
    if bytes > PROGRAM_BYTES_MAX {
        let what = format!("program, arguments and environment take {bytes} bytes");
        return Err(Problem::at(
            span,
            what,
            format!("use at most {PROGRAM_BYTES_MAX}; put more into a file"),
        ));
    }
    Ok(Program {
        path: raw.program.value.clone().into(),
        args: raw.args.iter().map(|arg| arg.value.clone()).collect(),
        env: raw.env.0.iter().map(|(name, value)| (name.value.clone(), value.clone())).collect(),
    })
}

fn shards(raw: &raw::Component) -> Result<Shards, Problem> {
    let warm = whole(&raw.warm, "warm", 0, SHARDS_MAX.into())? as u32;
    let max = match &raw.max {
        Some(max) => whole(max, "max", 1, SHARDS_MAX.into())? as u32,
        None => warm.max(1),
    };
    if warm > max {
        let what = format!("`warm` is {warm}, but `max` is only {max}");
        return Err(Problem::at(&raw.warm.span, what, "lower `warm`, or raise `max`"));
    }
    Ok(Shards { warm, max })
}

fn wait(raw: &raw::Wait) -> Result<Wait, Problem> {
    match raw {
        raw::Wait::SpinUs(us) => {
            Ok(Wait::SpinThenPark { spin_us: whole(us, "spin_us", 0, SPIN_US_MAX.into())? as u32 })
        }
        raw::Wait::Named(word) => match word.value.as_str() {
            "spin" => Ok(Wait::Spin),
            "spin-then-park" => Ok(Wait::SpinThenPark { spin_us: SPIN_US_DEFAULT }),
            "park" => Ok(Wait::Park),
            other => {
                let known = ["spin", "spin-then-park", "park"];
                let cure = did_you_mean(other, "way", known.into_iter());
                Err(Problem::at(&word.span, format!("there is no way to wait named `{other}`"), cure))
            }
        },
    }
}

fn tick_hz(raw: &At<raw::Number>) -> Result<f64, Problem> {
    let hz = raw.value.0;
    // Written so that NaN is refused too.
    if hz > 0.0 && hz <= TICK_HZ_MAX {
        return Ok(hz);
    }
    let cure = format!("use more than 0 and at most {TICK_HZ_MAX}, or leave it out for no ticks");
    Err(Problem::at(&raw.span, format!("`tick_hz` is {hz}"), cure))
}

fn whole(raw: &At<Whole>, key: &str, min: u64, max: u64) -> Result<u64, Problem> {
    let value = raw.value.0;
    u64::try_from(value).ok().filter(|value| (min..=max).contains(value)).ok_or_else(|| {
        Problem::at(
            &raw.span,
            format!("`{key}` is {value}"),
            format!("use a whole number from {min} to {max}"),
        )
    })
}

fn amount(raw: &At<Amount>, key: &str, units: &[(&str, u64)], cure: &str) -> Result<u64, Problem> {
    let (amount, shown) = match &raw.value {
        Amount::Number(number) => (u64::try_from(*number).ok(), number.to_string()),
        Amount::Text(text) => (quantity::parse(text, units), format!("{text:?}")),
    };
    amount.ok_or_else(|| Problem::at(&raw.span, format!("`{key}` can't be {shown}"), format!("write {cure}")))
}

fn bytes(raw: &At<Amount>, key: &str) -> Result<u64, Problem> {
    amount(
        raw,
        key,
        quantity::BYTES,
        "a number of bytes, or a text like \"64MiB\" (B, KiB, MiB, GiB, TiB, kB, MB, GB, TB)",
    )
}

fn bytes_between(raw: &At<Amount>, key: &str, min: u32, max: u32) -> Result<u32, Problem> {
    let bytes = bytes(raw, key)?;
    u32::try_from(bytes).ok().filter(|bytes| (min..=max).contains(bytes)).ok_or_else(|| {
        let [bytes, min, max] = [bytes, min.into(), max.into()].map(quantity::show_bytes);
        Problem::at(&raw.span, format!("`{key}` is {bytes}"), format!("use between {min} and {max}"))
    })
}

/// The `config` table as JSON text.
fn config_json(config: Option<&At<toml::Table>>) -> Result<String, Problem> {
    let Some(config) = config else { return Ok("{}".to_owned()) };
    let Some(json) = json(toml::Value::Table(config.value.clone())) else {
        let what = "`config` holds a number that JSON does not know (`nan` or `inf`)";
        return Err(Problem::at(&config.span, what, "write it as a text"));
    };
    let json = json.to_string();
    if json.len() > CONFIG_BYTES_MAX {
        let what = format!("`config` takes {} bytes as JSON", json.len());
        return Err(Problem::at(
            &config.span,
            what,
            format!("use at most {CONFIG_BYTES_MAX}; put more into a file"),
        ));
    }
    Ok(json)
}

/// `None` for what JSON can't hold. A date becomes a text.
fn json(value: toml::Value) -> Option<serde_json::Value> {
    Some(match value {
        toml::Value::String(text) => text.into(),
        toml::Value::Integer(value) => value.into(),
        toml::Value::Float(value) => serde_json::Number::from_f64(value)?.into(),
        toml::Value::Boolean(value) => value.into(),
        toml::Value::Datetime(date) => date.to_string().into(),
        toml::Value::Array(values) => values.into_iter().map(json).collect::<Option<Vec<_>>>()?.into(),
        toml::Value::Table(table) => {
            let entries: Option<serde_json::Map<_, _>> =
                table.into_iter().map(|(k, v)| Some((k, json(v)?))).collect();
            entries?.into()
        }
    })
}

fn check_ports(inputs: &Named<raw::Input>, outputs: &Named<raw::Output>) -> Result<(), Problem> {
    let inputs: Vec<_> = inputs.0.iter().map(|(name, _)| name).collect();
    let outputs: Vec<_> = outputs.0.iter().map(|(name, _)| name).collect();
    for (ports, kind) in [(&inputs, "inputs"), (&outputs, "outputs")] {
        if let Some(last) = ports.last() {
            check_count(&last.span, ports.len(), PORTS_MAX, kind)?;
        }
    }
    let mut seen = HashSet::new();
    for name in inputs.into_iter().chain(outputs) {
        check_name(name, "port")?;
        if !seen.insert(&name.value) {
            let what = format!("`{}` is the name of an input and of an output", name.value);
            return Err(Problem::at(&name.span, what, "name each port of a component differently"));
        }
    }
    Ok(())
}

fn check_type(ty: &At<String>) -> Result<String, Problem> {
    if ty.value.len() > TYPE_BYTES_MAX {
        let what = format!("the type's name is {} bytes long", ty.value.len());
        return Err(Problem::at(&ty.span, what, format!("use at most {TYPE_BYTES_MAX}")));
    }
    if ty.value.is_empty() || !ty.value.chars().all(|c| c.is_ascii_graphic()) {
        let what = format!("`{}` can't be the name of a type", ty.value);
        return Err(Problem::at(
            &ty.span,
            what,
            "write what the type's `Wire::NAME` says: ASCII, without spaces",
        ));
    }
    Ok(ty.value.clone())
}

fn inputs(raw: &Named<raw::Input>) -> Result<Vec<Input>, Problem> {
    let input = |(name, raw): &(At<String>, raw::Input)| {
        Ok(Input {
            name: name.value.clone(),
            ty: check_type(&raw.ty)?,
            reply: raw.reply.as_ref().map(check_type).transpose()?,
            message_bytes_max: bytes_between(&raw.max, "max", 1, MESSAGE_BYTES_MAX)?,
        })
    };
    raw.0.iter().map(input).collect()
}

/// Every component and input by its name, to resolve what outputs point at.
struct Names<'a> {
    ends: &'a [End<'a>],
    components: HashMap<&'a str, ComponentId>,
    inputs: HashMap<(ComponentId, &'a str), PortId>,
}

impl<'a> Names<'a> {
    fn new(ends: &'a [End<'a>]) -> Self {
        let mut names = Self { ends, components: HashMap::new(), inputs: HashMap::new() };
        for (at, End { component, .. }) in ends.iter().enumerate() {
            let id = ComponentId(at as u16);
            names.components.insert(&component.name, id);
            names.inputs.extend(
                component.inputs.iter().zip(0..).map(|(input, port)| ((id, &*input.name), PortId(port))),
            );
        }
        names
    }

    fn name(&self, id: ComponentId) -> &'a str {
        &self.ends[usize::from(id.0)].component.name
    }

    fn input(&self, to: Destination) -> &'a Input {
        &self.ends[usize::from(to.component.0)].component.inputs[usize::from(to.input.0)]
    }

    fn show(&self, to: Destination) -> String {
        format!("`{}.{}`", self.name(to.component), self.input(to).name)
    }

    fn output(
        &self,
        from: ComponentId,
        name: &At<String>,
        raw: &raw::Output,
        calls: &mut Calls,
    ) -> Result<Output, Problem> {
        let ring = bytes_between(&raw.ring, "ring", RING_BYTES_MIN, RING_BYTES_MAX)?;
        if !ring.is_power_of_two() {
            let what = format!("`ring` is {}, which is no power of two", quantity::show_bytes(ring.into()));
            let cure = format!("use {}", quantity::show_bytes(ring.next_power_of_two().into()));
            return Err(Problem::at(&raw.ring.span, what, cure));
        }
        let to = self.destinations(from, &name.value, &raw.to)?;
        let Some(first) = to.first().copied() else {
            let what = format!("{} sends `{}` to nobody", sender(self.name(from)), name.value);
            return Err(Problem::at(&raw.to.span, what, "name a destination: `component.port`"));
        };
        self.check_agreement(first, &to, raw)?;
        self.check_declared(first, self.name(from), name, raw)?;
        for (to, text) in to.iter().zip(&raw.to.value) {
            calls.add(from, to.component, &text.span);
        }
        let input = self.input(first);
        Ok(Output {
            name: name.value.clone(),
            ty: input.ty.clone(),
            reply: input.reply.clone(),
            message_bytes_max: to
                .iter()
                .map(|to| self.input(*to).message_bytes_max)
                .min()
                .unwrap_or(MESSAGE_BYTES_MAX),
            to,
            ring_bytes: ring,
        })
    }

    fn destinations(
        &self,
        from: ComponentId,
        port: &str,
        raw: &At<Vec<At<String>>>,
    ) -> Result<Vec<Destination>, Problem> {
        let mut seen = HashSet::new();
        let mut to = Vec::new();
        for text in &raw.value {
            let destination = self.destination(from, port, text)?;
            if !seen.insert(destination) {
                let what = format!("{} sends `{port}` to `{}` twice", sender(self.name(from)), text.value);
                return Err(Problem::at(&text.span, what, "name each destination once"));
            }
            to.push(destination);
        }
        Ok(to)
    }

    fn destination(&self, from: ComponentId, port: &str, text: &At<String>) -> Result<Destination, Problem> {
        let who = format!("{} sends `{port}` to `{}`", sender(self.name(from)), text.value);
        let Some((component, input)) = text.value.split_once('.') else {
            return Err(Problem::at(
                &text.span,
                format!("{who}, which names no input"),
                "write `component.port`",
            ));
        };
        let Some(&id) = self.components.get(component) else {
            return Err(self.unknown_component(&who, component, text));
        };
        if id == from {
            let what = format!("{who}, which is its own input");
            return Err(Problem::at(
                &text.span,
                what,
                "keep what is for itself in its state; send to others only",
            ));
        }
        let Some(&input) = self.inputs.get(&(id, input)) else {
            let known = self.ends[usize::from(id.0)].component.inputs.iter().map(|input| input.name.as_str());
            let cure = did_you_mean(input, &format!("input of `{component}`"), known);
            let what = format!("{who}, but {} has no input `{input}`", sender(component));
            return Err(Problem::at(&text.span, what, cure));
        };
        Ok(Destination { component: id, input })
    }

    fn unknown_component(&self, who: &str, component: &str, text: &At<String>) -> Problem {
        if component == EMBEDDER {
            let what = format!("{who}, but the manifest declares no embedder");
            return Problem::at(&text.span, what, "add `[embedder.in]` with this input");
        }
        let what = format!("{who}, but there is no component `{component}`");
        let known = self.ends.iter().map(|end| end.component.name.as_str());
        Problem::at(&text.span, what, did_you_mean(component, "component", known))
    }

    /// All destinations of one output must take the same type and give the same reply.
    fn check_agreement(
        &self,
        first: Destination,
        all: &[Destination],
        raw: &raw::Output,
    ) -> Result<(), Problem> {
        let wanted = self.input(first);
        for (to, text) in all.iter().zip(&raw.to.value) {
            let input = self.input(*to);
            let (a, b) = (self.show(first), self.show(*to));
            let cure = "make them agree, or send to each through an output of its own";
            if input.ty != wanted.ty {
                let what = format!("{a} takes `{}`, but {b} takes `{}`", wanted.ty, input.ty);
                return Err(Problem::at(&text.span, what, cure));
            }
            if input.reply != wanted.reply {
                let what =
                    format!("{a} replies {}, but {b} replies {}", reply(&wanted.reply), reply(&input.reply));
                return Err(Problem::at(&text.span, what, cure));
            }
        }
        Ok(())
    }

    /// What an output says of its type and reply must be what its destinations say.
    fn check_declared(
        &self,
        first: Destination,
        from: &str,
        name: &At<String>,
        raw: &raw::Output,
    ) -> Result<(), Problem> {
        let input = self.input(first);
        let (who, to) = (format!("{} sends `{}`", sender(from), name.value), self.show(first));
        if let Some(ty) = &raw.ty
            && ty.value != input.ty
        {
            let what = format!("{who} as `{}`, but {to} takes `{}`", ty.value, input.ty);
            return Err(Problem::at(
                &ty.span,
                what,
                format!("write `{}` here, or change the input", input.ty),
            ));
        }
        if let Some(expected) = &raw.reply
            && Some(&expected.value) != input.reply.as_ref()
        {
            let what = format!(
                "{who} and expects `{}` in reply, but {to} replies {}",
                expected.value,
                reply(&input.reply)
            );
            return Err(Problem::at(&expected.span, what, "change `reply` here, or at the input"));
        }
        Ok(())
    }
}

fn sender(name: &str) -> String {
    if name == EMBEDDER { "the embedder".to_owned() } else { format!("component `{name}`") }
}

fn reply(reply: &Option<String>) -> String {
    reply.as_ref().map_or_else(|| "nothing".to_owned(), |ty| format!("`{ty}`"))
}
