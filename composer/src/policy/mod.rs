//! The pool policy: how many slots of each component are to be warm in the next bin of time.
//!
//! A **kind** is a component, a **slot** a place for a session in one of its shards, a **bin** a stretch of time whose
//! length the caller chooses. Once a bin the caller tells a [`Policy`] the demand of the bin that has passed, and is told
//! how many slots to have warm in the one that begins.
//!
//! Invariant: a decision depends on the demand that was told, in its order, and on nothing else: no clock, no I/O, no
//! randomness, no thread. So a backtest runs what production runs, and a saved policy goes on as if it had not stopped.

mod choice;
mod hybrid;
mod window;

pub use choice::{CHOICE_MAX, Choice, HEADROOM_PERCENT, UnknownPolicy};

use hybrid::Hybrid;
use serde::{Deserialize, Serialize};
use window::WindowMax;

/// The most kinds of one policy.
pub const KINDS_MAX: usize = 100_000;

/// Decides for all kinds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Policy {
    choice: Choice,
    /// Bins that have passed.
    bins: u64,
    model: Model,
    wanted: Vec<u32>,
}

/// What a policy remembers, by kind.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Model {
    Nothing,
    KeepAlive(Vec<WindowMax>),
    Hybrid(Vec<Hybrid>),
}

impl Policy {
    /// A policy without kinds.
    pub fn new(choice: Choice) -> Self {
        let model = match choice {
            Choice::FixedBuffer(_) | Choice::Headroom(_) | Choice::Reactive => Model::Nothing,
            Choice::KeepAlive(_) => Model::KeepAlive(Vec::new()),
            Choice::Hybrid | Choice::ExpectedCost => Model::Hybrid(Vec::new()),
        };
        Self { choice, bins: 0, model, wanted: Vec::new() }
    }

    /// Adds a kind whose cold start costs as much as `cold_price` slots that are warm and idle for a bin. Returns its
    /// index: the first is 0.
    pub fn add(&mut self, _cold_price: f64) -> usize {
        match &mut self.model {
            Model::Nothing => {}
            Model::KeepAlive(kinds) => {
                let Choice::KeepAlive(bins) = self.choice else { unreachable!("the model is the choice's") };
                kinds.push(WindowMax::new(bins));
            }
            Model::Hybrid(kinds) => kinds.push(Hybrid::default()),
        }
        self.wanted.push(if let Choice::FixedBuffer(slots) = self.choice { slots } else { 0 });
        self.wanted.len() - 1
    }

    /// Takes in the demand of the bin that has passed, in slots by kind, and decides for the one that begins.
    pub fn decide(&mut self, demand: &[u32]) -> &[u32] {
        assert_eq!(demand.len(), self.wanted.len(), "a demand for each kind");
        let now = self.bins;
        let kinds = self.wanted.iter_mut().zip(demand).enumerate();
        match (&mut self.model, self.choice) {
            (Model::KeepAlive(windows), _) => {
                kinds.for_each(|(kind, (wanted, &demand))| *wanted = windows[kind].push(now, demand));
            }
            (Model::Hybrid(hybrids), _) => {
                kinds.for_each(|(kind, (wanted, &demand))| *wanted = hybrids[kind].decide(now, demand));
            }
            (Model::Nothing, Choice::Headroom(percent)) => {
                kinds.for_each(|(_, (wanted, &demand))| *wanted = headroom(demand, percent));
            }
            (Model::Nothing, Choice::FixedBuffer(_)) => {}
            (Model::Nothing, _) => kinds.for_each(|(_, (wanted, &demand))| *wanted = demand),
        }
        self.bins += 1;
        &self.wanted
    }

    /// How many slots are to be warm in the bin that has begun, by kind.
    pub fn wanted(&self) -> &[u32] {
        &self.wanted
    }
}

/// So many per cent more, rounded up.
fn headroom(demand: u32, percent: u32) -> u32 {
    let more = u64::from(demand) * (100 + u64::from(percent));
    u32::try_from(more.div_ceil(100)).unwrap_or(u32::MAX)
}
