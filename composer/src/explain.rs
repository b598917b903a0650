//! Explanations: why a session got its shards, and why a pool has the size it has, in words and for programs.
//!
//! Invariant: everything here is read from what the core noted when it decided; nothing is guessed afterwards.

use crate::core::{Core, Deed, PoolView, SessionState, Tier, Tiers};
use serde::Serialize;
use shard_runtime::id::{ComponentId, SessionId};
use shardkit::application::Application;
use std::fmt;

/// So many of a pool's latest deeds are told.
const LATEST_MAX: usize = 40;

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
    /// From which tiers its shards came, in words.
    pub tiers: String,
    /// Its shards.
    pub shards: Vec<ShardExplanation>,
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
    waiting_second: Option<f64>,
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
    Some(SessionExplanation {
        session: session.to_string(),
        composition: application.compositions[usize::from(told.composition.0)].name.clone(),
        state: state.map_or("over".into(), |state: SessionState| format!("{state:?}").to_lowercase()),
        asked_ago_s: seconds(told.asked_ns, now_ns),
        waited_us: us(told.asked_ns, told.claimed_ns),
        wired_us: us(told.claimed_ns, told.opened_ns),
        opened_us: us(told.opened_ns, told.ready_ns),
        waiting_cost: waiting_second.map(|price| price * seconds(told.asked_ns, told.ready_ns)),
        tiers: tiers.to_string(),
        shards,
    })
}

/// Why a pool has the size it has. `why` says it of its target.
///
/// # Panics
/// If the application has no such component.
pub(crate) fn pool(
    core: &Core,
    application: &Application,
    component: ComponentId,
    now_ns: u64,
    why: String,
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
    let deeds = core.records().filter(|record| record.component == component).take(LATEST_MAX);
    let quarantined = core
        .records()
        .find(|r| r.component == component && matches!(r.deed, Deed::Quarantined(_) | Deed::Ready { .. }))
        .filter(|record| matches!(record.deed, Deed::Quarantined(_)));
    let held_up = (failures > 0 && retry_ns > now_ns).then(|| {
        let left_s = seconds(now_ns, retry_ns);
        let what = if quarantined.is_some() { "quarantined" } else { "backing off" };
        format!("{what} for {left_s:.1} s more: {failures} shards in a row did not come up")
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
        starts: starts
            .map(|(tier, cost)| StartExplanation {
                tier: tier.to_string(),
                count: cost.count,
                mean_ms: ms(cost.mean_ns),
                last_ms: ms(cost.last_ns),
            })
            .collect(),
        held_up,
        latest: deeds
            .map(|record| DeedExplanation {
                ago_s: seconds(record.at_ns, now_ns),
                shard: record.shard.map(|shard| shard.0),
                what: record.deed.to_string(),
            })
            .collect(),
    }
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
        for of in &self.starts {
            writeln!(
                f,
                "  tier {:<8} {:>6} times, {:.2} ms on the average, {:.2} ms the last time",
                of.tier, of.count, of.mean_ms, of.last_ms
            )?;
        }
        if let Some(held_up) = &self.held_up {
            writeln!(f, "  {held_up}")?;
        }
        for of in &self.latest {
            let shard = of.shard.map(|shard| format!("shard {shard}")).unwrap_or_default();
            writeln!(f, "  {:>9.1} s ago  {shard:<11} {}", of.ago_s, of.what)?;
        }
        Ok(())
    }
}
