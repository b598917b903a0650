//! The scaler: once a bin of time, from the demand of each component to how many of its shards are to be ready, how
//! many may be frozen, and how many processes of each generic program are to wait.
//!
//! The same policy code that a backtest runs decides; the manifest's limits bound it. The composer tells the demand, the
//! time of day and what starts have cost, and hands the targets to the core.
//!
//! Invariant: no clock and no I/O in here. What is saved and restored goes on as if it had not stopped, and never for an
//! application whose components are others.

use crate::core::{PoolView, Tier};
use crate::policy::{
    Bound, Budget, Choice, Forecast, Frozen, Generic, Held, LimitState, Limited, Limits, LimitsError, Moment,
    Needs, Policy, PriceError, Prices, UnknownPolicy, Wants, Weekdays, Window, WrongBin,
};
use serde::{Deserialize, Serialize};
use shard_runtime::id::ComponentId;
use shardkit::application::{Application, Component, Spares};
use shardkit::pool::Pool;

/// What a cold start is taken to last before one was measured, in seconds.
const COLD_START_S: f64 = 0.1;
/// What a thaw is taken to cost of a cold start before one was measured.
const THAW_PART: f64 = 0.05;
/// What a start from a spare is taken to cost of a cold one before both were measured.
const GENERIC_PART: f64 = 0.3;
/// An idle shard that shares its processors uses about so much memory, where the manifest says nothing.
const IDLE_BYTES: u64 = 4 << 20;
const GIB: f64 = (1u64 << 30) as f64;
/// After a pause of more bins than this the pause is taken for one bin.
const CATCH_UP_BINS: u64 = 120;

/// Why the pools of a manifest can't be scaled.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ScaleError {
    /// There is no such policy.
    #[error("`pool.policy`: {0}")]
    Policy(#[from] UnknownPolicy),
    /// The bin can't be used.
    #[error("`pool.bin_s`: {0}")]
    Bin(#[from] WrongBin),
    /// The limits of a component contradict themselves.
    #[error("the limits of component `{component}`: {source}")]
    Limits {
        /// The component.
        component: String,
        /// What is wrong.
        source: LimitsError,
    },
    /// Prices and needs of a component can't be reckoned with.
    #[error("what a shard of component `{component}` costs: {source}")]
    Price {
        /// The component.
        component: String,
        /// What is wrong.
        source: PriceError,
    },
}

/// How many shards of a component there are to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Of which component.
    pub component: ComponentId,
    /// So many that take sessions.
    pub ready: u32,
    /// So many frozen ones at the most.
    pub frozen: u32,
}

/// What the scaler is told of a component when a bin ends.
#[derive(Clone, Copy, Debug)]
pub struct Passed {
    /// The most places that were held or wanted at a time.
    pub demand: u32,
    /// What it has of shards.
    pub pool: PoolView,
    /// How many shards more the host has room for; `None` if nothing limits them.
    pub room: Option<u32>,
}

/// A component's pool.
#[derive(Clone, Debug)]
struct Scaled {
    component: ComponentId,
    name: String,
    capacity: u32,
    shards_max: u32,
    frozen_max: u32,
    /// Its shards are made from spares: it is in a generic program, and has no zygote, which would be asked first.
    from_spares: bool,
    needs: Needs,
    limits: LimitState,
    now: Limited,
    target: Target,
}

/// A generic program whose spares the policy chooses.
#[derive(Clone, Debug)]
struct Spared {
    /// Which of the application's.
    generic: usize,
    max: u32,
    /// The positions of those of its components' pools whose shards are made from spares.
    pools: Vec<usize>,
    now: u32,
    /// What the last bin decided, if the policy forecasts.
    held: Option<Held>,
}

/// See the head of this file.
#[derive(Clone, Debug)]
pub struct Scaler {
    policy: Policy,
    prices: Prices,
    pools: Vec<Scaled>,
    spared: Vec<Spared>,
    demand: Vec<u32>,
    bin_ns: u64,
    next_ns: u64,
}

/// What survives a restart.
#[derive(Serialize, Deserialize)]
struct Saved {
    components: Vec<String>,
    policy: Vec<u8>,
}

impl Scaler {
    /// The scaler of an application whose manifest has a `[pool]`, beginning at `now_ns`.
    ///
    /// # Errors
    /// See [`ScaleError`].
    pub fn new(application: &Application, pool: &Pool, now_ns: u64) -> Result<Self, ScaleError> {
        let choice: Choice = pool.policy.parse()?;
        let mut policy = Policy::new(choice, pool.bin_s)?;
        let prices = Prices {
            core_hour: pool.prices.core_hour,
            gib_hour: pool.prices.gib_hour,
            // The manifest asks for memory of GPUs, so that is the unit.
            gpu_hour: pool.prices.gpu_gib_hour,
            waiting_second: pool.prices.waiting_second,
        };
        let mut pools = Vec::new();
        let components = application.components.iter().enumerate();
        for (at, component) in components.filter(|(_, component)| component.program.is_some()) {
            let needs = needs(component, COLD_START_S);
            let wrong = |source| ScaleError::Price { component: component.name.clone(), source };
            policy.add(prices.cold_price(&needs, pool.bin_s).map_err(wrong)?);
            let slot_hour = prices.slot_hour(&needs).map_err(wrong)?;
            let limits = limits(component, slot_hour).start();
            let limits = limits
                .map_err(|source| ScaleError::Limits { component: component.name.clone(), source })?
                .holding(slots(component.shards.warm, component.capacity));
            let target = Target {
                component: ComponentId(at as u16),
                ready: component.shards.warm,
                frozen: component.shards.frozen,
            };
            pools.push(Scaled {
                component: target.component,
                name: component.name.clone(),
                capacity: component.capacity,
                shards_max: component.shards.max,
                frozen_max: component.shards.frozen,
                from_spares: !component.zygote,
                needs,
                limits,
                now: Limited { slots: slots(target.ready, component.capacity), bound: Bound::Floor },
                target,
            });
        }
        let bin_ns = (pool.bin_s * 1e9) as u64;
        let spared = spared(application, &pools);
        Ok(Self {
            policy,
            prices,
            pools,
            spared,
            demand: Vec::new(),
            bin_ns,
            next_ns: now_ns.saturating_add(bin_ns),
        })
    }

    /// When the bin ends.
    pub fn due_ns(&self) -> u64 {
        self.next_ns
    }

    /// Takes in the bin that has passed, and decides for the one that begins. `minute` is the minute of the day in UTC,
    /// `weekday` 0 for Monday; `passed` tells of each component. Returns what has changed.
    pub fn decide(
        &mut self,
        now_ns: u64,
        (weekday, minute): (u8, u16),
        mut passed: impl FnMut(ComponentId) -> Passed,
    ) -> Vec<Target> {
        let bin_ns = self.bin_ns.max(1);
        let late = now_ns.saturating_sub(self.next_ns) / bin_ns;
        self.next_ns = self.next_ns.saturating_add((late + 1) * bin_ns);
        let told: Vec<Passed> = self.pools.iter().map(|pool| passed(pool.component)).collect();
        self.demand.clear();
        self.demand.extend(told.iter().map(|told| told.demand));
        for (kind, (pool, told)) in self.pools.iter_mut().zip(&told).enumerate() {
            pool.needs.cold_start_s = cold_start_s(&told.pool);
            // Needs and prices were checked at the start; what was measured is finite.
            if let Ok(price) = self.prices.cold_price(&pool.needs, self.policy.bin_s()) {
                self.policy.set_cold_price(kind, price);
            }
        }
        // Nobody looked while the composer was stopped: what was held then is taken for what is held now.
        for _ in 0..=if late > CATCH_UP_BINS { 0 } else { late } {
            self.policy.decide(&self.demand);
        }
        let mut changed = Vec::new();
        for (kind, (pool, told)) in self.pools.iter_mut().zip(&told).enumerate() {
            let (wanted, frozen) = pool.split(&self.policy, kind, &told.pool, &self.prices);
            let room = told.room.map(|shards| shards.saturating_mul(pool.capacity));
            pool.now = pool.limits.apply(wanted, Moment { demand: told.demand, minute, weekday, room });
            let ready = pool.now.slots.div_ceil(pool.capacity);
            let target = Target { component: pool.component, ready, frozen };
            if std::mem::replace(&mut pool.target, target) != target {
                changed.push(target);
            }
        }
        for spared in &mut self.spared {
            spared.held = spared.choose(&self.policy, &self.prices, &self.pools, &told);
            // Without a forecast it stays as it was at first.
            spared.now = spared.held.map_or(spared.now, |held| held.shards);
        }
        changed
    }

    /// How many processes of a generic program are to wait, by its position in the application; `None` if the manifest
    /// says it.
    pub fn spares(&self, generic: usize) -> Option<u32> {
        self.spared.iter().find(|spared| spared.generic == generic).map(|spared| spared.now)
    }

    /// Why so many processes wait that a component's shards can be made from, in words; `None` if the manifest says how
    /// many, or it has none.
    pub fn why_spares(&self, component: ComponentId) -> Option<String> {
        let kind = self.pools.iter().position(|pool| pool.component == component)?;
        let spared = self.spared.iter().find(|spared| spared.pools.contains(&kind))?;
        let now = spared.now;
        let Some(Held { missing, saving, .. }) = spared.held else {
            return Some(format!("{now} spares: nothing is forecast yet"));
        };
        Some(format!(
            "{now} spares, at most {}: {missing:.3} shards of its components are expected to be missing in a bin; a start \
             from a spare saves as much as {saving:.3} spares cost in it",
            spared.max
        ))
    }

    /// Why a component has the target that it has, in words.
    pub fn why(&self, component: ComponentId) -> Option<String> {
        let kind = self.pools.iter().position(|pool| pool.component == component)?;
        let (pool, reason) = (&self.pools[kind], self.policy.reason(kind));
        if self.policy.bins() == 0 {
            return Some(format!("the first bin of {} has not ended yet", self.policy.choice()));
        }
        Some(format!(
            "{reason}; {} places, {} a shard: {}; a cold start takes {:.1} ms",
            pool.now.slots,
            pool.capacity,
            pool.now.bound,
            pool.needs.cold_start_s * 1e3
        ))
    }

    /// What it costs to hold a shard of a component for a second, all that it needs included.
    pub fn shard_second(&self, component: ComponentId) -> Option<f64> {
        let pool = self.pools.iter().find(|pool| pool.component == component)?;
        let slot_hour = self.prices.slot_hour(&pool.needs).ok()?;
        Some(slot_hour * f64::from(pool.capacity) / 3600.0)
    }

    /// What a second of waiting costs.
    pub fn waiting_second(&self) -> f64 {
        self.prices.waiting_second
    }

    /// What it has learned, as bytes.
    pub fn save(&self) -> Vec<u8> {
        let components = self.pools.iter().map(|pool| pool.name.clone()).collect();
        let saved = Saved { components, policy: self.policy.save() };
        postcard::to_stdvec(&saved).expect("memory takes any bytes, and texts and bytes have their form")
    }

    /// Goes on with what was saved.
    ///
    /// # Errors
    /// It is damaged, or of another application, policy or bin: why, in words. Nothing changes then.
    pub fn restore(&mut self, bytes: &[u8]) -> Result<(), String> {
        let saved: Saved = postcard::from_bytes(bytes).map_err(|error| format!("it is damaged: {error}"))?;
        let policy = Policy::restore(&saved.policy).map_err(|error| error.to_string())?;
        if !saved.components.iter().eq(self.pools.iter().map(|pool| &pool.name)) {
            return Err(format!("it is of other components: {}", saved.components.join(", ")));
        }
        if policy.choice() != self.policy.choice() || policy.bin_s() != self.policy.bin_s() {
            return Err(format!("it is of policy {} with bins of {} s", policy.choice(), policy.bin_s()));
        }
        if policy.wanted().len() != self.pools.len() {
            return Err("its policy has another number of components".into());
        }
        self.policy = policy;
        Ok(())
    }
}

impl Scaled {
    /// How many places are wanted ready, and how many shards may be frozen.
    fn split(&self, policy: &Policy, kind: usize, pool: &PoolView, prices: &Prices) -> (u32, u32) {
        let wanted = policy.wanted()[kind];
        let Some(forecast) = policy.forecast(kind).filter(|_| self.frozen_max > 0) else {
            return (wanted, self.frozen_max);
        };
        let whole = prices.slot_hour(&self.needs).unwrap_or(0.0);
        let memory = prices.slot_hour(&Needs { cores: 0.0, ..self.needs }).unwrap_or(0.0);
        let thaw = pool.costs[Tier::Frozen as usize];
        let cold_part = match thaw.count {
            0 => THAW_PART,
            _ => (thaw.mean_ns as f64 / 1e9 / self.needs.cold_start_s).min(1.0),
        };
        let idle_part = if whole > 0.0 { memory / whole } else { 1.0 };
        let (ready, frozen) = Frozen { idle_part, cold_part }.split(&forecast, policy.cold_price(kind));
        // A frozen shard is no better than a ready one where holding both costs the same.
        if frozen == 0 {
            return (wanted, 0);
        }
        (ready.min(wanted), frozen.div_ceil(self.capacity).min(self.frozen_max))
    }

    /// How many shards more may be wanted than are to be ready or are frozen, at most `shards_max` of them.
    fn missing(&self, forecast: &Forecast, pool: &PoolView, shards_max: u32) -> Forecast {
        let there = self.target.ready.saturating_add(self.target.frozen.min(pool.frozen));
        let more_max = self.shards_max.saturating_sub(there).min(shards_max);
        forecast.beyond(slots(there, self.capacity), self.capacity, more_max)
    }
}

impl Spared {
    /// How many are to wait in the bin that begins; `None` if the policy does not forecast.
    fn choose(&self, policy: &Policy, prices: &Prices, pools: &[Scaled], told: &[Passed]) -> Option<Held> {
        let wants = self.pools.iter().map(|&kind| {
            let (pool, told) = (&pools[kind], &told[kind].pool);
            let missing = pool.missing(&policy.forecast(kind)?, told, self.max);
            Some(Wants { missing, saving: spare_saving(told, prices, policy.bin_s()) })
        });
        Some(Generic::hold(&wants.collect::<Option<Vec<_>>>()?, self.max))
    }
}

/// The generic programs whose spares the policy chooses.
fn spared(application: &Application, pools: &[Scaled]) -> Vec<Spared> {
    let generics = application.generics.iter().enumerate();
    let spared = generics.filter_map(|(at, generic)| {
        let Spares::Auto { max } = generic.spares else { return None };
        let is_its = |pool: &Scaled| pool.from_spares && generic.components.contains(&pool.component);
        let pools = (0..pools.len()).filter(|&kind| is_its(&pools[kind])).collect();
        Some(Spared { generic: at, max, pools, now: generic.spares.first(), held: None })
    });
    spared.collect()
}

/// What a start from a spare saves, in spares that wait for a bin: of the waiting for a cold start what is measured.
fn spare_saving(pool: &PoolView, prices: &Prices, bin_s: f64) -> f64 {
    let measured = |tier: Tier| pool.costs[tier as usize];
    let mean_s = |tier: Tier| (measured(tier).count > 0).then(|| measured(tier).mean_ns as f64 / 1e9);
    let cold_s = mean_s(Tier::Cold).unwrap_or(COLD_START_S);
    // One that was measured does not compare with one that was guessed.
    let generic_s = mean_s(Tier::Generic).filter(|_| measured(Tier::Cold).count > 0);
    let saved_s = (cold_s - generic_s.unwrap_or(GENERIC_PART * cold_s)).max(0.0);
    // Nobody yet, it has the memory of any idle process and no processor of its own.
    let memory_gib = IDLE_BYTES as f64 / GIB;
    let spare = Needs { cores: 0.0, memory_gib, gpus: 0.0, capacity: 1, cold_start_s: saved_s };
    prices.cold_price(&spare, bin_s).unwrap_or(0.0)
}

fn slots(shards: u32, capacity: u32) -> u32 {
    shards.saturating_mul(capacity)
}

/// How long a user waits where nothing is warm: the way that shards of this component come into being, as measured.
fn cold_start_s(pool: &PoolView) -> f64 {
    let started = [Tier::Generic, Tier::Zygote, Tier::Cold].map(|tier| pool.costs[tier as usize]);
    let usual = started.into_iter().max_by_key(|cost| cost.count).filter(|cost| cost.count > 0);
    usual.map_or(COLD_START_S, |cost| cost.mean_ns as f64 / 1e9)
}

fn needs(component: &Component, cold_start_s: f64) -> Needs {
    Needs {
        cores: f64::from(component.needs.cores),
        memory_gib: component.needs.memory_bytes.max(IDLE_BYTES) as f64 / GIB,
        gpus: component.needs.gpu_memory_bytes as f64 / GIB,
        capacity: component.capacity,
        cold_start_s,
    }
}

/// A component's limits, in places.
fn limits(component: &Component, slot_hour: f64) -> Limits {
    let (scale, capacity) = (&component.scale, component.capacity);
    let places = |shards: u32| slots(shards, capacity);
    Limits {
        floor: places(component.shards.warm),
        ceiling: places(component.shards.max),
        buffer: scale.buffer,
        buffer_fraction: scale.fraction,
        windows: scale
            .schedule
            .iter()
            .map(|window| Window {
                days: Weekdays::new(window.days.iter().copied()),
                from_minute: window.from_minute,
                to_minute: window.to_minute,
                floor: window.floor.map(places),
                ceiling: window.ceiling.map(places),
            })
            .collect(),
        step_up_max: scale.step_up.map_or(u32::MAX, places),
        step_down_max: scale.step_down.map_or(u32::MAX, places),
        // A shard that is idle is kept for its own delay.
        scale_down_delay_bins: 0,
        budget: scale.budget_hour.map(|per_hour| Budget { per_hour, slot_hour }),
    }
}
