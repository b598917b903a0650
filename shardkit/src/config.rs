//! What a shard knows of itself when it starts: its component as the manifest declares it.

use crate::application::Component;
use crate::codec::Wire;
use crate::error::{PortError, Result};
use crate::port::{In, Out};
use serde::de::DeserializeOwned;
use shard_runtime::id::{PortId, ShardId};

/// A shard's view of the manifest.
pub struct Config {
    shard: ShardId,
    component: Component,
}

impl Config {
    pub(crate) fn new(shard: ShardId, component: Component) -> Self {
        Self { shard, component }
    }

    /// The configuration of the end that an embedding program holds.
    pub fn of_embedder(component: Component) -> Self {
        Self { shard: ShardId(u32::MAX), component }
    }

    /// The shard's number.
    pub fn shard(&self) -> ShardId {
        self.shard
    }

    /// The component.
    pub fn component(&self) -> &Component {
        &self.component
    }

    /// The manifest's `config` table of this component, as a type of the author's.
    ///
    /// # Errors
    /// When the table does not fit the type; the error names the key.
    pub fn get<C: DeserializeOwned>(&self) -> Result<C> {
        Ok(serde_json::from_str(&self.component.config_json)?)
    }

    /// Opens an input.
    ///
    /// # Errors
    /// When the manifest does not declare it, or with other types.
    pub fn input<T: Wire, R: Wire>(&self, name: &str) -> Result<In<T, R>, PortError> {
        let inputs = &self.component.inputs;
        let Some(at) = inputs.iter().position(|port| port.name == name) else {
            return Err(self.unknown("input", name, inputs.iter().map(|port| port.name.as_str())));
        };
        self.check(name, &inputs[at].ty, T::NAME)?;
        self.check(name, inputs[at].reply.as_deref().unwrap_or(""), R::NAME)?;
        Ok(In::new(PortId(at as u16)))
    }

    /// Opens an output.
    ///
    /// # Errors
    /// When the manifest does not declare it, or with other types.
    pub fn output<T: Wire, R: Wire>(&self, name: &str) -> Result<Out<T, R>, PortError> {
        let outputs = &self.component.outputs;
        let Some(at) = outputs.iter().position(|port| port.name == name) else {
            return Err(self.unknown("output", name, outputs.iter().map(|port| port.name.as_str())));
        };
        self.check(name, &outputs[at].ty, T::NAME)?;
        self.check(name, outputs[at].reply.as_deref().unwrap_or(""), R::NAME)?;
        Ok(Out::new(PortId(at as u16)))
    }

    fn unknown<'a>(&self, kind: &'static str, name: &str, known: impl Iterator<Item = &'a str>) -> PortError {
        let known: Vec<String> = known.map(|port| format!("`{port}`")).collect();
        PortError::Unknown {
            component: self.component.name.clone(),
            kind,
            port: name.into(),
            known: if known.is_empty() { "none".into() } else { known.join(", ") },
        }
    }

    fn check(&self, port: &str, declared: &str, used: &str) -> Result<(), PortError> {
        if declared == used {
            return Ok(());
        }
        let show = |ty: &str| if ty.is_empty() { "no reply".to_owned() } else { ty.to_owned() };
        Err(PortError::Type {
            component: self.component.name.clone(),
            port: port.into(),
            declared: show(declared),
            used: show(used),
        })
    }
}
