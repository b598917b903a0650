//! Explanations: why a session got its shards, and why a pool has the size it has, in words and for programs.
//!
//! Invariant: everything here is read from what the core noted when it decided; nothing is guessed afterwards.

use crate::core::{Composed, Core, Deed, PoolView, Record, SessionState, Tier, Tiers};
use crate::scaler::Scaler;
use serde::Serialize;
use shard_runtime::id::{ComponentId, SessionId};
use shardkit::application::Application;
use std::fmt;

/// So many of a pool's latest deeds are told …
const LATEST_MAX: usize = 40;
/// … so many of them returns of shards that are idle.
const RETURNS_TOLD_MAX: usize = 10;

/// Why a session got its shards.
#[derive(Clone, Debug, Serialize)]
pub struct SessionExplanation {
    /// The session.
    pub session: String,
    /// Its composition.
    pub composition: String,
    /// Where it is in its life; `over` if it is.
    pub state: String,
    /// How long ago it was asked for, in seconds.
    pub asked_ago_s: f64,
    /// From the request until its shards were chosen, in microseconds: 0 if they were there.
    pub waited_us: f64,
    /// From then on until they were wired to each other: 0 if they were.
    pub wired_us: f64,
    /// From then on until all had acknowledged.
    pub opened_us: f64,
    /// What the wait cost, if the manifest has prices.
    pub waiting_cost: Option<f64>,
    /// What all steps cost together, if the manifest has prices: the wait, and what was held while shards started.
    pub cost: Option<f64>,
    /// What was done, in order of its begin.
    pub steps: Vec<StepExplanation>,
    /// From which tiers its shards came, in words.
    pub tiers: String,
    /// Its shards.
    pub shards: Vec<ShardExplanation>,
}

/// One step of composing a session. The start of a shard lies within the claim that waits for it, or began before.
#[derive(Clone, Debug, Serialize)]
pub struct StepExplanation {
    /// What was done, in words.
    pub what: String,
    /// When it began, from the request on, in microseconds; less than 0 for what had begun before.
    pub began_us: f64,
    /// How long it took, in microseconds.
    pub took_us: f64,
    /// What it cost, if the manifest has prices: of the claim, the wires and the opening, that the user waited; of a
    /// shard's start, that all that the shard needs was held.
    pub cost: Option<f64>,
}

/// Why a session got this shard.
#[derive(Clone, Debug, Serialize)]
pub struct ShardExplanation {
    /// The shard.
    pub shard: u32,
    /// Its component.
    pub component: String,
    /// How warm it was.
    pub tier: String,
    /// How many other sessions it held.
    pub shared_with: u32,
    /// In words.
    pub why: String,
}

/// Why a pool has the size it has.
#[derive(Clone, Debug, Serialize)]
pub struct PoolExplanation {
    /// The component.
    pub component: String,
    /// So many are to take sessions.
    pub target: u32,
    /// So many do.
    pub ready: u32,
    /// So many of them hold none.
    pub idle: u32,
    /// So many start.
    pub starting: u32,
    /// So many are frozen.
    pub frozen: u32,
    /// So many may be.
    pub frozen_target: u32,
    /// So many sessions are held.
    pub sessions: u32,
    /// Why the target is what it is.
    pub why: String,
    /// Why so many processes wait that its shards can be made from, if the policy chooses that.
    pub spares: Option<String>,
    /// What it takes until a shard takes sessions, by tier, as measured here.
    pub starts: Vec<StartExplanation>,
    /// Why none is started, if none is.
    pub held_up: Option<String>,
    /// What was done last, the latest first.
    pub latest: Vec<DeedExplanation>,
}

/// What it takes until a shard takes sessions.
#[derive(Clone, Debug, Serialize)]
pub struct StartExplanation {
    /// The tier.
    pub tier: String,
    /// How many there were.
    pub count: u64,
    /// A moving average, in milliseconds.
    pub mean_ms: f64,
    /// The last one.
    pub last_ms: f64,
    /// What it costs on the average to hold the shard meanwhile, if the manifest has prices.
    pub cost: Option<f64>,
}

/// Something that was done.
#[derive(Clone, Debug, Serialize)]
pub struct DeedExplanation {
    /// How long ago, in seconds.
    pub ago_s: f64,
    /// The shard, if it was one.
    pub shard: Option<u32>,
    /// What, and why.
    pub what: String,
    /// What it cost, for a start, if the manifest has prices.
    pub cost: Option<f64>,
}

fn seconds(from_ns: u64, to_ns: u64) -> f64 {
    to_ns.saturating_sub(from_ns) as f64 / 1e9
}

/// Why a session got its shards; `None` if it was never ready or is forgotten.
pub(crate) fn session(
    core: &Core,
    application: &Application,
    session: SessionId,
    now_ns: u64,
    scaler: Option<&Scaler>,
) -> Option<SessionExplanation> {
    let told = core.explain(session)?;
    let mut tiers = Tiers::default();
    let shards = told.shards.iter().map(|of| {
        tiers.add(of.tier);
        let shared = match of.shared_with {
            0 => "nobody else was on it".to_owned(),
            n => format!("it held {n} other sessions and had room, so no further one was opened"),
        };
        let why = match of.tier {
            Tier::Ready => format!("it waited, wired; {shared}"),
            Tier::Frozen => format!("no ready one had room, and it was frozen; {shared}"),
            tier => format!("no warm one had room: started for it, from tier {tier}; {shared}"),
        };
        let component = application.component(of.component).name.clone();
        ShardExplanation {
            shard: of.shard.0,
            component,
            tier: of.tier.to_string(),
            shared_with: of.shared_with,
            why,
        }
    });
    let shards = shards.collect();
    let state = core.session(session).map(|view| view.state);
    let us = |from_ns, to_ns| seconds(from_ns, to_ns) * 1e6;
    let waiting = |took_s: f64| scaler.map(|scaler| scaler.waiting_second() * took_s);
    let step = |what: String, from_ns: u64, to_ns: u64, cost: Option<f64>| StepExplanation {
        what,
        began_us: (i128::from(from_ns) - i128::from(told.asked_ns)) as f64 / 1e3,
        took_us: us(from_ns, to_ns),
        cost,
    };
    let waited =
        |what: &str, from_ns, to_ns| step(what.to_owned(), from_ns, to_ns, waiting(seconds(from_ns, to_ns)));
    let started = |of: &Composed| {
        let verb = if of.tier == Tier::Frozen { "thaw" } else { "start" };
        let component = &application.component(of.component).name;
        let what = format!("{verb} of shard {} of {component}, from tier {}", of.shard, of.tier);
        let held = scaler.and_then(|scaler| scaler.shard_second(of.component));
        let cost = held.map(|price| price * seconds(of.began_ns, of.came_ns));
        step(what, of.began_ns, of.came_ns, cost)
    };
    let mut steps = vec![waited("claim", told.asked_ns, told.claimed_ns)];
    steps.extend(told.shards.iter().filter(|of| of.tier != Tier::Ready).map(started));
    steps.push(waited("wiring", told.claimed_ns, told.opened_ns));
    steps.push(waited("opening", told.opened_ns, told.ready_ns));
    steps.sort_by(|a, b| a.began_us.total_cmp(&b.began_us));
    Some(SessionExplanation {
        session: session.to_string(),
        composition: application.compositions[usize::from(told.composition.0)].name.clone(),
        state: state.map_or("over".into(), |state: SessionState| format!("{state:?}").to_lowercase()),
        asked_ago_s: seconds(told.asked_ns, now_ns),
        waited_us: us(told.asked_ns, told.claimed_ns),
        wired_us: us(told.claimed_ns, told.opened_ns),
        opened_us: us(told.opened_ns, told.ready_ns),
        waiting_cost: waiting(seconds(told.asked_ns, told.ready_ns)),
        cost: scaler.map(|_| steps.iter().filter_map(|step| step.cost).sum()),
        steps,
        tiers: tiers.to_string(),
        shards,
    })
}

/// Why a pool has the size it has.
///
/// # Panics
/// If the application has no such component.
pub(crate) fn pool(
    core: &Core,
    application: &Application,
    component: ComponentId,
    now_ns: u64,
    scaler: Option<&Scaler>,
) -> PoolExplanation {
    let PoolView {
        target,
        frozen_target,
        ready,
        idle,
        starting,
        frozen,
        held,
        failures,
        retry_ns,
        costs,
        ..
    } = core.pool(component).expect("a component of the application");
    let starts = Tier::ALL.into_iter().zip(costs).filter(|(_, cost)| cost.count > 0);
    let ms = |ns: u64| ns as f64 / 1e6;
    let of_pool = |record: &&Record| record.component == component;
    let mut deeds: Vec<Record> = core.returns(component).collect();
    deeds.drain(..deeds.len().saturating_sub(RETURNS_TOLD_MAX));
    deeds.extend(core.records().filter(of_pool).take(LATEST_MAX));
    deeds.sort_by_key(|record| std::cmp::Reverse(record.at_ns));
    deeds.truncate(LATEST_MAX);
    let price = scaler.and_then(|scaler| scaler.shard_second(component));
    let start_cost = |took_ns: u64| price.map(|price| price * seconds(0, took_ns));
    let why = scaler.and_then(|scaler| scaler.why(component)).unwrap_or_else(|| {
        format!("the manifest keeps {} warm", application.component(component).shards.warm)
    });
    let spares = scaler.and_then(|scaler| scaler.why_spares(component));
    let quarantined = core
        .records()
        .find(|r| r.component == component && matches!(r.deed, Deed::Quarantined(_) | Deed::Ready { .. }))
        .filter(|record| matches!(record.deed, Deed::Quarantined(_)));
    let held_up = (failures > 0 && retry_ns > now_ns).then(|| {
        let left_s = seconds(now_ns, retry_ns);
        let what = if quarantined.is_some() { "quarantined" } else { "backing off" };
        format!("{what} for {left_s:.1} s more: {failures} shards in a row failed")
    });
    PoolExplanation {
        component: application.component(component).name.clone(),
        target,
        ready,
        idle,
        starting,
        frozen,
        frozen_target,
        sessions: held,
        why,
        spares,
        starts: starts
            .map(|(tier, cost)| StartExplanation {
                tier: tier.to_string(),
                count: cost.count,
                mean_ms: ms(cost.mean_ns),
                last_ms: ms(cost.last_ns),
                cost: start_cost(cost.mean_ns),
            })
            .collect(),
        held_up,
        latest: deeds
            .into_iter()
            .map(|record| DeedExplanation {
                ago_s: seconds(record.at_ns, now_ns),
                shard: record.shard.map(|shard| shard.0),
                what: record.deed.to_string(),
                cost: if let Deed::Ready { took_ns, .. } = record.deed { start_cost(took_ns) } else { None },
            })
            .collect(),
    }
}

/// What something cost, for people, if that is known.
fn cost(cost: Option<f64>) -> String {
    cost.map(|cost| format!(", for {cost:.3e}")).unwrap_or_default()
}

impl fmt::Display for SessionExplanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "session {} of `{}`, {}, asked for {:.1} s ago",
            self.session, self.composition, self.state, self.asked_ago_s
        )?;
        writeln!(
            f,
            "  waited {:.1} µs for shards, {:.1} µs for wires, {:.1} µs for their acknowledgements{}",
            self.waited_us,
            self.wired_us,
            self.opened_us,
            self.waiting_cost.map(|cost| format!("; the wait cost {cost:.6}")).unwrap_or_default()
        )?;
        writeln!(f, "  steps{}:", self.cost.map(|cost| format!(", {cost:.3e} in all")).unwrap_or_default())?;
        for of in &self.steps {
            writeln!(
                f,
                "    at {:>10.1} µs {:>10.1} µs  {}{}",
                of.began_us,
                of.took_us,
                of.what,
                cost(of.cost)
            )?;
        }
        writeln!(f, "  shards: {}", self.tiers)?;
        for of in &self.shards {
            writeln!(f, "    {:>5} {:<16} {:<8} {}", of.shard, of.component, of.tier, of.why)?;
        }
        Ok(())
    }
}

impl fmt::Display for PoolExplanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}: {} to be ready, {} are ({} idle), {} start, {} of at most {} frozen; {} sessions",
            self.component,
            self.target,
            self.ready,
            self.idle,
            self.starting,
            self.frozen,
            self.frozen_target,
            self.sessions
        )?;
        writeln!(f, "  why: {}", self.why)?;
        if let Some(spares) = &self.spares {
            writeln!(f, "  {spares}")?;
        }
        for of in &self.starts {
            writeln!(
                f,
                "  tier {:<8} {:>6} times, {:.2} ms on the average{}, {:.2} ms the last time",
                of.tier,
                of.count,
                of.mean_ms,
                cost(of.cost),
                of.last_ms
            )?;
        }
        if let Some(held_up) = &self.held_up {
            writeln!(f, "  {held_up}")?;
        }
        for of in &self.latest {
            let shard = of.shard.map(|shard| format!("shard {shard}")).unwrap_or_default();
            writeln!(f, "  {:>9.1} s ago  {shard:<11} {}{}", of.ago_s, of.what, cost(of.cost))?;
        }
        Ok(())
    }
}
