//! Applications, made by hand.

use shard_runtime::id::{ComponentId, PortId};
use shardkit::application::{
    After, Application, Component, Composition, Destination, Needs, Output, Program, Shards, Wait,
};
use shardkit::pool::Scale;

/// An application in the making.
pub(crate) struct Made(Application);

pub(crate) fn application() -> Made {
    Made(Application {
        name: "made".into(),
        components: vec![],
        compositions: vec![],
        embedder: None,
        pool: None,
        generics: vec![],
        idle_latency_us: None,
        oci_runtime: None,
    })
}

impl Made {
    pub(crate) fn component(mut self, name: &str, capacity: u32, warm: u32, max: u32) -> Self {
        let program = Program { path: name.into(), args: vec![], env: vec![] };
        self.0.components.push(Component {
            name: name.into(),
            program: Some(program),
            capacity,
            shards: Shards::between(warm, max),
            needs: Needs::default(),
            wait: Wait::Park,
            tick_hz: None,
            inputs: vec![],
            outputs: vec![],
            start_timeout_ms: 1_000,
            stop_timeout_ms: 500,
            after: After::Return,
            scale: Scale::default(),
            zygote: false,
            isolation: None,
            config_json: "{}".into(),
        });
        self
    }

    pub(crate) fn embedder(mut self) -> Self {
        self = self.component("embedder", 1, 0, 0);
        self.0.components.last_mut().unwrap().program = None;
        self.0.embedder = Some(ComponentId(self.0.components.len() as u16 - 1));
        self
    }

    pub(crate) fn calls(mut self, caller: &str, callee: &str) -> Self {
        let to = Destination { component: self.0.find(callee).unwrap(), input: PortId(0) };
        let caller = self.0.find(caller).unwrap();
        self.0.components[usize::from(caller.0)].outputs.push(Output {
            name: callee.into(),
            ty: "Bytes".into(),
            reply: None,
            message_bytes_max: 64,
            to: vec![to],
            ring_bytes: 4096,
        });
        self
    }

    pub(crate) fn composition(mut self, name: &str, components: &[&str]) -> Self {
        let components = components.iter().map(|c| self.0.find(c).unwrap()).collect();
        self.0.compositions.push(Composition { name: name.into(), components, idle_timeout_ms: None });
        self
    }

    /// The component that was made last.
    pub(crate) fn last(&mut self) -> &mut Component {
        self.0.components.last_mut().expect("a component was made")
    }

    pub(crate) fn done(self) -> Application {
        self.0
    }
}

/// One component, one composition.
pub(crate) fn single(capacity: u32, warm: u32, max: u32) -> Application {
    application().component("echo", capacity, warm, max).composition("echo", &["echo"]).done()
}

/// `a` calls `b`.
pub(crate) fn pair(a: (u32, u32, u32), b: (u32, u32, u32)) -> Application {
    application()
        .component("a", a.0, a.1, a.2)
        .component("b", b.0, b.1, b.2)
        .calls("a", "b")
        .composition("pair", &["a", "b"])
        .done()
}
