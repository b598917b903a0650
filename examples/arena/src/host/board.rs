//! What the threads of a run tell each other: how each match stands, and what happened on the way.

use super::plan::Plan;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The most events that are kept.
const EVENTS_MAX: usize = 32;

/// Where a match is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Stage {
    #[default]
    Waiting,
    Lobby,
    Playing,
    Drawing,
    Done,
    Failed,
}

impl Stage {
    pub(super) fn name(self) -> &'static str {
        match self {
            Stage::Waiting => "waiting",
            Stage::Lobby => "lobby",
            Stage::Playing => "playing",
            Stage::Drawing => "drawing",
            Stage::Done => "done",
            Stage::Failed => "failed",
        }
    }
}

/// How a match stands.
#[derive(Clone, Debug, Default)]
pub(super) struct Standing {
    pub(super) stage: Stage,
    pub(super) tick: u32,
    pub(super) ticks: u32,
    /// Who leads, with its score.
    pub(super) leader: Option<(String, u16)>,
    pub(super) people: Vec<&'static str>,
    pub(super) bots: usize,
    pub(super) composed: Option<Duration>,
}

/// A match on the board.
pub(super) struct Slot {
    standing: Mutex<Standing>,
    inputs: AtomicU64,
}

impl Slot {
    pub(super) fn change(&self, change: impl FnOnce(&mut Standing)) {
        change(&mut lock(&self.standing));
    }

    pub(super) fn standing(&self) -> Standing {
        lock(&self.standing).clone()
    }

    pub(super) fn count_input(&self) {
        // Relaxed: a number for people to read.
        self.inputs.fetch_add(1, Ordering::Relaxed);
    }

    /// Inputs of people so far.
    pub(super) fn inputs(&self) -> u64 {
        self.inputs.load(Ordering::Relaxed)
    }
}

/// See the head of this file.
pub(super) struct Board {
    pub(super) begin: Instant,
    pub(super) slots: Vec<Slot>,
    pub(super) live_picture: PathBuf,
    events: Mutex<Vec<(Duration, String)>>,
}

impl Board {
    pub(super) fn new(plans: &[Plan], live_picture: PathBuf) -> Self {
        let slot = |plan: &Plan| {
            let (ticks, people) = (plan.config.ticks, plan.people.clone());
            let bots = plan.config.players.saturating_sub(people.len());
            let standing = Standing { ticks, people, bots, ..Standing::default() };
            Slot { standing: Mutex::new(standing), inputs: AtomicU64::new(0) }
        };
        let (begin, slots) = (Instant::now(), plans.iter().map(slot).collect());
        Self { begin, slots, live_picture, events: Mutex::default() }
    }

    /// Notes something that people should know of.
    pub(super) fn note(&self, event: String) {
        let mut events = lock(&self.events);
        if events.len() < EVENTS_MAX {
            events.push((self.begin.elapsed(), event));
        }
    }

    /// What happened since event `seen`.
    pub(super) fn events_since(&self, seen: usize) -> Vec<(Duration, String)> {
        lock(&self.events)[seen..].to_vec()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change is whole at each step, so a panic of another holder does no harm.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
