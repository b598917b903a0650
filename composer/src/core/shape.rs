//! What the core knows of the application: fixed at the start, every reference a position.

use super::refusal::Name;
use super::{LINKS_MAX, NS_PER_MS};
use shard_runtime::id::ComponentId;
use shardkit::application::{After, Application};

/// The application as the core sees it.
#[derive(Debug)]
pub(super) struct Shape {
    pub(super) components: Vec<ComponentShape>,
    pub(super) compositions: Vec<CompositionShape>,
    pub(super) embedder: Option<ComponentId>,
}

/// A component as the core sees it.
#[derive(Debug)]
pub(super) struct ComponentShape {
    pub(super) name: Name,
    pub(super) capacity: u32,
    pub(super) warm: u32,
    pub(super) max: u32,
    /// So many that nobody needs are frozen before others end.
    pub(super) frozen: u32,
    /// How long a shard beyond the target may be idle.
    pub(super) idle_stop_ns: u64,
    /// Whether its shards serve one session, or one lot of sessions, and are replaced.
    pub(super) restarts: bool,
    pub(super) start_timeout_ns: u64,
    pub(super) stop_timeout_ns: u64,
    /// Whether each of its shards has a wire to the embedder, and if so who calls.
    pub(super) embedder: Option<EmbedderCall>,
    /// The compositions that contain it, each with its level there.
    pub(super) compositions: Vec<(u16, u16)>,
}

/// Who calls whom between the embedder and a component.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EmbedderCall {
    Embedder,
    Component,
}

/// A composition as the core sees it.
///
/// Its components are ordered by falling capacity: this is the order of the levels in the tree of cells, with the
/// shards that many cells share near the root.
#[derive(Debug)]
pub(super) struct CompositionShape {
    pub(super) name: Name,
    pub(super) levels: Vec<Level>,
}

/// A component within a composition.
#[derive(Debug)]
pub(super) struct Level {
    pub(super) component: u16,
    /// In how many cells a shard takes part ahead of time: as many as it takes to use its capacity up.
    pub(super) places: u32,
    pub(super) neighbours: Vec<Neighbour>,
}

/// A component of the same composition that calls or is called.
#[derive(Clone, Copy, Debug)]
pub(super) struct Neighbour {
    pub(super) level: u16,
    /// Whether the level that lists this neighbour is the wire's caller.
    pub(super) calls: bool,
}

impl Shape {
    pub(super) fn new(application: &Application) -> Self {
        let pairs: Vec<(u16, u16)> = application.call_pairs().iter().map(|(a, b)| (a.0, b.0)).collect();
        let calls = |a: u16, b: u16| pairs.contains(&(a, b));
        let mut components: Vec<ComponentShape> = (0u16..)
            .zip(&application.components)
            .map(|(at, c)| ComponentShape {
                name: c.name.as_str().into(),
                capacity: c.capacity.max(1),
                warm: if c.program.is_some() { c.shards.warm.min(c.shards.max) } else { 0 },
                max: if c.program.is_some() { c.shards.max } else { 0 },
                frozen: c.shards.frozen,
                idle_stop_ns: c.shards.scale_down_delay_ms.max(1).saturating_mul(NS_PER_MS),
                restarts: c.after == After::Restart,
                start_timeout_ns: c.start_timeout_ms.saturating_mul(NS_PER_MS),
                stop_timeout_ns: c.stop_timeout_ms.saturating_mul(NS_PER_MS),
                embedder: application.embedder.and_then(|ComponentId(embedder)| {
                    let to = calls(embedder, at).then_some(EmbedderCall::Embedder);
                    to.or(calls(at, embedder).then_some(EmbedderCall::Component))
                }),
                compositions: Vec::new(),
            })
            .collect();
        let compositions: Vec<_> = application
            .compositions
            .iter()
            .map(|c| {
                let mut order: Vec<u16> = c.components.iter().map(|id| id.0).collect();
                order.sort_by_key(|&id| std::cmp::Reverse(components[usize::from(id)].capacity));
                CompositionShape { name: c.name.as_str().into(), levels: levels(&order, &components, calls) }
            })
            .collect();
        for (at, composition) in (0u16..).zip(&compositions) {
            for (level, l) in (0u16..).zip(&composition.levels) {
                components[usize::from(l.component)].compositions.push((at, level));
            }
        }
        Self { components, compositions, embedder: application.embedder }
    }
}

fn levels(order: &[u16], components: &[ComponentShape], calls: impl Fn(u16, u16) -> bool) -> Vec<Level> {
    let capacity = |id: u16| components[usize::from(id)].capacity;
    let least = order.iter().map(|&id| capacity(id)).min().unwrap_or(1);
    let neighbours = |a: u16| {
        let others = (0u16..).zip(order).filter(move |&(_, &b)| a != b);
        others
            .filter(|&(_, &b)| calls(a, b) || calls(b, a))
            .map(|(level, &b)| Neighbour { level, calls: calls(a, b) && (!calls(b, a) || a < b) })
            .collect()
    };
    let level = |&component: &u16| Level {
        component,
        places: capacity(component).div_ceil(least).min(LINKS_MAX as u32),
        neighbours: neighbours(component),
    };
    order.iter().map(level).collect()
}
