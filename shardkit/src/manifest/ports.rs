//! Ports: inputs first, then outputs, whose destinations are looked up by name among all inputs.
//!
//! Invariant: an output's destinations are there, are not its own component's, and agree on type and reply.

use super::at::{At, Named};
use super::calls::Calls;
use super::error::{Problem, did_you_mean};
use super::limits::{bytes_between, check_count, check_name};
use super::{EMBEDDER, quantity, raw};
use crate::application::*;
use shard_runtime::id::{ComponentId, PortId};
use std::collections::{HashMap, HashSet};

/// A component whose outputs still wait until every input is known.
pub(super) struct End<'a> {
    pub(super) component: Component,
    pub(super) outputs: &'a Named<raw::Output>,
}

/// Names and numbers of a component's ports.
pub(super) fn check_ports(inputs: &Named<raw::Input>, outputs: &Named<raw::Output>) -> Result<(), Problem> {
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

/// The inputs, in their order.
pub(super) fn inputs(raw: &Named<raw::Input>) -> Result<Vec<Input>, Problem> {
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
pub(super) struct Names<'a> {
    ends: &'a [End<'a>],
    components: HashMap<&'a str, ComponentId>,
    inputs: HashMap<(ComponentId, &'a str), PortId>,
}

impl<'a> Names<'a> {
    pub(super) fn new(ends: &'a [End<'a>]) -> Self {
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

    /// One output, resolved; notes in `calls` whom it calls.
    pub(super) fn output(
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
            let cure = did_you_mean(input, "input", known);
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
