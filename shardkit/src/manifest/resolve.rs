//! From what is written to the resolved application: values get their limits, names become positions.
//!
//! Invariant: an application that comes out keeps the promises of [`crate::application`].

use super::at::{At, Named};
use super::calls::{self, Calls};
use super::error::{Problem, did_you_mean};
use super::limits::{amount, bytes, check_count, check_name, whole};
use super::ports::{End, Names, check_ports, inputs};
use super::{EMBEDDER, allow, image, pool, quantity, raw};
use crate::application::*;
use crate::pool::Scale;
use shard_runtime::id::ComponentId;

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
    let embedder = raw.embedder.is_some().then_some(ComponentId(raw.component.0.len() as u16));
    let components =
        ends.into_iter().zip(wired).map(|(end, outputs)| Component { outputs, ..end.component }).collect();
    let mut application = Application {
        name: raw.application.name.value.clone(),
        components,
        compositions: Vec::new(),
        embedder,
        pool: raw.pool.as_ref().map(pool::pool).transpose()?,
        generics: Vec::new(),
        idle_latency_us: None,
        oci_runtime: raw.application.oci_runtime.as_ref().map(image::runtime).transpose()?,
    };
    if let Some(latency) = &raw.application.idle_latency_us {
        application.idle_latency_us =
            Some(whole(latency, "idle_latency_us", 0, u64::from(IDLE_LATENCY_US_MAX))? as u32);
    }
    application.generics = generics(&raw.generic, &application)?;
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
    let kind = if raw.embedder.is_some() { "components, counting the embedder" } else { "components" };
    check_count(&last.span, ends, COMPONENTS_MAX, kind)?;
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

fn component(name: &At<String>, raw: &raw::Component) -> Result<Component, Problem> {
    check_ports(&raw.inputs, &raw.outputs)?;
    Ok(Component {
        name: name.value.clone(),
        program: Some(program(image::program_or_image(name, raw)?, &raw.args, &raw.env)?),
        capacity: whole(&raw.capacity, "capacity", 1, CAPACITY_MAX.into())? as u32,
        shards: shards(raw)?,
        needs: Needs {
            cores: whole(&raw.cores, "cores", 0, CORES_MAX.into())? as u32,
            share_millicores: millicores(&raw.share)?,
            memory_bytes: bytes(&raw.memory, "memory")?,
            huge_pages_bytes: bytes(&raw.huge_pages, "huge_pages")?,
            processes: whole(&raw.processes, "processes", PROCESSES_MIN.into(), PROCESSES_MAX.into())? as u32,
            realtime: realtime(name, raw)?,
            gpu_memory_bytes: bytes(&raw.gpu_memory, "gpu_memory")?,
            bandwidth_bits_per_s: raw.bandwidth.as_ref().map(bandwidth).transpose()?.unwrap_or(0),
            disk_read_bytes_per_s: disk(&raw.disk_read, "disk_read")?,
            disk_write_bytes_per_s: disk(&raw.disk_write, "disk_write")?,
        },
        wait: wait(&raw.wait)?,
        tick_hz: raw.tick_hz.as_ref().map(tick_hz).transpose()?,
        inputs: inputs(&raw.inputs)?,
        outputs: Vec::new(),
        start_timeout_ms: whole(&raw.start_timeout_ms, "start_timeout_ms", 1, TIMEOUT_MS_MAX)?,
        stop_timeout_ms: whole(&raw.stop_timeout_ms, "stop_timeout_ms", 1, TIMEOUT_MS_MAX)?,
        after: after(&raw.after)?,
        scale: raw.scale.as_ref().map(pool::scale).transpose()?.unwrap_or_default(),
        zygote: raw.zygote,
        isolation: allow::isolation(&raw.isolation, raw.allow.as_ref())?,
        config_json: config_json(raw.config.as_ref())?,
    })
}

/// How fast a disk may be used.
fn disk(raw: &At<raw::Amount>, key: &str) -> Result<u64, Problem> {
    let cure = "a number of bytes a second, or a text like \"50MiB/s\"";
    amount(raw, key, quantity::BYTES_PER_S, cure)
}

/// A real-time priority. Nothing else runs beside such a thread while it works, so its core has to be its own; and one that
/// always works is stopped by the kernel for a part of each second.
fn realtime(name: &At<String>, raw: &raw::Component) -> Result<u32, Problem> {
    let Some(realtime) = &raw.realtime else { return Ok(0) };
    let priority = whole(realtime, "realtime", 1, REALTIME_MAX.into())? as u32;
    let refuse = |what: String, cure| Err(Problem::at(&realtime.span, what, cure));
    if raw.image.is_some() {
        let what =
            format!("component `{}` is an image, and a container has no real-time priority", name.value);
        return refuse(what, "leave `realtime` out");
    }
    if raw.cores.value.0 == 0 {
        let what =
            format!("`realtime` of `{}` would hold up all others on the cores that it shares", name.value);
        return refuse(what, "give it cores of its own, such as `cores = 1`, or leave `realtime` out");
    }
    if matches!(wait(&raw.wait)?, Wait::Spin) {
        let what = format!(
            "`{}` polls for ever, and with `realtime` the kernel would stop it in each second",
            name.value
        );
        return refuse(what, "write another `wait`, or leave `realtime` out");
    }
    Ok(priority)
}

/// A shard that may send next to nothing is one whose unit was forgotten.
fn bandwidth(raw: &At<raw::Amount>) -> Result<u64, Problem> {
    let cure = "a number of bits a second, or a text like \"1Gbit/s\"";
    let bits_per_s = amount(raw, "bandwidth", quantity::BITS_PER_S, cure)?;
    if bits_per_s >= BANDWIDTH_BITS_PER_S_MIN {
        return Ok(bits_per_s);
    }
    Err(Problem::at(
        &raw.span,
        format!("`bandwidth` is {bits_per_s} bit/s"),
        "use at least 1 kbit/s, or leave it out: then a shard sends as much as it can",
    ))
}

/// A part of the shared cores. What is less than a thousandth counts as one.
fn millicores(raw: &At<raw::Number>) -> Result<u32, Problem> {
    let cores = raw.value.0;
    if (0.0..=f64::from(CORES_MAX)).contains(&cores) {
        return Ok((cores * 1000.0).ceil() as u32);
    }
    let cure = format!("use a number from 0 to {CORES_MAX}");
    Err(Problem::at(&raw.span, format!("`share` is {cores}"), cure))
}

/// The embedder as a component: ports, and nothing that anyone would run.
fn embedder(raw: &raw::Embedder) -> Result<Component, Problem> {
    check_ports(&raw.inputs, &raw.outputs)?;
    Ok(Component {
        name: EMBEDDER.to_owned(),
        program: None,
        capacity: CAPACITY_MAX,
        shards: Shards::between(0, 0),
        needs: Needs::default(),
        wait: Wait::SpinThenPark { spin_us: SPIN_US_DEFAULT },
        tick_hz: None,
        inputs: inputs(&raw.inputs)?,
        outputs: Vec::new(),
        start_timeout_ms: 0,
        stop_timeout_ms: 0,
        after: After::Return,
        scale: Scale::default(),
        zygote: false,
        isolation: None,
        config_json: "{}".to_owned(),
    })
}

fn program(program: &At<String>, args: &[At<String>], env: &Named<String>) -> Result<Program, Problem> {
    let span = &program.span;
    if program.value.is_empty() {
        return Err(Problem::at(span, "`program` is empty", "name the program that a shard runs"));
    }
    let vars = env.0.iter().map(|(name, value)| (&name.span, name.value.as_str(), value.as_str()));
    if let Some((span, name, _)) = vars.clone().find(|(_, name, _)| name.is_empty() || name.contains('=')) {
        return Err(Problem::at(
            span,
            format!("`{name}` can't be an environment variable"),
            "use a name without `=`",
        ));
    }
    let words = args.iter().map(|arg| (&arg.span, "", arg.value.as_str()));
    let mut bytes = 0;
    for (span, name, value) in std::iter::once((span, "", program.value.as_str())).chain(words).chain(vars) {
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
        path: program.value.clone().into(),
        args: args.iter().map(|arg| arg.value.clone()).collect(),
        env: env.0.iter().map(|(name, value)| (name.value.clone(), value.clone())).collect(),
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
    let frozen = whole(&raw.frozen, "frozen", 0, SHARDS_MAX.into())? as u32;
    if frozen > max - warm {
        let what = format!("`frozen` is {frozen}, but `max` leaves only {} beyond `warm`", max - warm);
        return Err(Problem::at(&raw.frozen.span, what, "lower `frozen`, or raise `max`"));
    }
    let delay = whole(&raw.scale_down_delay_ms, "scale_down_delay_ms", 1, TIMEOUT_MS_MAX)?;
    Ok(Shards { warm, max, frozen, scale_down_delay_ms: delay })
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

fn after(raw: &At<String>) -> Result<After, Problem> {
    match raw.value.as_str() {
        "return" => Ok(After::Return),
        "scrub" => Ok(After::Scrub),
        "restart" => Ok(After::Restart),
        other => {
            let cure = did_you_mean(other, "word", ["return", "scrub", "restart"].into_iter());
            Err(Problem::at(&raw.span, format!("`after` can't be `{other}`"), cure))
        }
    }
}

fn spares(raw: &raw::Generic) -> Result<Spares, Problem> {
    let text = match &raw.spares.value {
        raw::Amount::Number(number) => {
            if let Some(max) = &raw.spares_max {
                let what = format!("`spares_max` bounds what a policy chooses, but `spares` is {number}");
                return Err(Problem::at(&max.span, what, "leave it out, or write `spares = \"auto\"`"));
            }
            let number = At::new(raw::Whole(*number), raw.spares.span.clone());
            return Ok(Spares::Fixed(whole(&number, "spares", 0, SPARES_MAX.into())? as u32));
        }
        raw::Amount::Text(text) => text,
    };
    if text != "auto" {
        let cure = format!("use a whole number from 0 to {SPARES_MAX}, or `auto`");
        return Err(Problem::at(&raw.spares.span, format!("`spares` can't be `{text}`"), cure));
    }
    let max =
        raw.spares_max.as_ref().map(|max| whole(max, "spares_max", 0, SPARES_MAX.into())).transpose()?;
    Ok(Spares::Auto { max: max.map_or(SPARES_AUTO_MAX_DEFAULT, |max| max as u32) })
}

fn generics(raw: &Named<raw::Generic>, application: &Application) -> Result<Vec<Generic>, Problem> {
    if let Some((last, _)) = raw.0.last() {
        check_count(&last.span, raw.0.len(), GENERICS_MAX, "generic programs")?;
    }
    let mut generics: Vec<Generic> = Vec::new();
    for (name, raw) in &raw.0 {
        check_name(name, "generic program")?;
        let mut generic = Generic {
            name: name.value.clone(),
            program: program(&raw.program, &raw.args, &raw.env)?,
            components: Vec::new(),
            spares: spares(raw)?,
        };
        for component in &raw.components.value {
            let id = component_of(&generic, component, application)?;
            if let Some(other) = generics.iter().find(|other| other.components.contains(&id)) {
                let what = format!(
                    "`{}` is in the generic program `{}` already, and `{}` names it too",
                    component.value, other.name, generic.name
                );
                return Err(Problem::at(&component.span, what, "leave it in one of them"));
            }
            let first = generic.components.first().map(|first| application.component(*first));
            if let Some(first) = first.filter(|first| first.isolation != application.component(id).isolation)
            {
                let what = format!(
                    "`{}` and `{}` are in the generic program `{}`, but not isolated alike",
                    first.name, component.value, generic.name
                );
                let cure =
                    "give both the same `isolation` and `allow`: a process is isolated before it is either";
                return Err(Problem::at(&component.span, what, cure));
            }
            if application.component(id).is_image() {
                let what = format!("`{}` is an image, and no process becomes a container", component.value);
                return Err(Problem::at(&component.span, what, "leave it out"));
            }
            generic.components.push(id);
        }
        if generic.components.is_empty() {
            let what = format!("the generic program `{}` can become nothing", generic.name);
            return Err(Problem::at(&raw.components.span, what, "name a component in `components`"));
        }
        generics.push(generic);
    }
    Ok(generics)
}

fn component_of(
    generic: &Generic,
    name: &At<String>,
    application: &Application,
) -> Result<ComponentId, Problem> {
    let of = &generic.name;
    match application.find(&name.value) {
        Some(id) if Some(id) == application.embedder => {
            let what = format!("the generic program `{of}` names the embedder, which has no shards");
            Err(Problem::at(&name.span, what, "leave it out"))
        }
        Some(id) if generic.components.contains(&id) => {
            let what = format!("the generic program `{of}` names `{}` twice", name.value);
            Err(Problem::at(&name.span, what, "name each component once"))
        }
        Some(id) => Ok(id),
        None => {
            let what =
                format!("the generic program `{of}` names `{}`, but there is no such component", name.value);
            let known = application.components.iter().filter(|known| known.program.is_some());
            let known = known.map(|known| known.name.as_str());
            Err(Problem::at(&name.span, what, did_you_mean(&name.value, "component", known)))
        }
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
