//! Why a request failed or a session was lost: what, why, and the cure.

use super::event::{Exit, KillReason};
use super::{SESSIONS_MAX, WAITING_MAX};
use crate::resources::Shortage;
use shard_runtime::id::ShardId;
use std::fmt;
use std::sync::Arc;
use thiserror::Error;

/// The name of a component or a composition, shared so that an error can carry it without a copy.
pub type Name = Arc<str>;

/// Why a request for a session failed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// The application has no composition of this number.
    #[error("there is no composition {0}; ask for one that the manifest declares")]
    UnknownComposition(u16),
    /// No shard of a component had room before the deadline.
    #[error(
        "no shard of {component} had room before the deadline: {running} of at most {max} run{}; \
         wait longer, end a session, or raise its `shards.max` or `capacity`", Failing(.failing)
    )]
    NoRoom {
        /// The component that was missing.
        component: Name,
        /// How many of its shards there are.
        running: u32,
        /// How many there may be.
        max: u32,
        /// How its last shard that failed ended, if it fails.
        failing: Option<Death>,
    },
    /// The host had no room for what the composition lacked before the deadline.
    #[error(
        "{composition} could not be started whole before the deadline: there is no room for {component}, {shortage}; \
         wait longer, or end a session"
    )]
    Short {
        /// The composition that was asked for.
        composition: Name,
        /// The component that there was no room for.
        component: Name,
        /// What was missing, how much, and what was free.
        shortage: Arc<Shortage>,
    },
    /// The composition is larger than the host.
    #[error(
        "{composition} does not fit on this host, even if nobody else has anything of it: there is no room for \
         {component}, {shortage}; lower the needs of its components"
    )]
    NeverFits {
        /// The composition that was asked for.
        composition: Name,
        /// The component that there is no room for beside the others.
        component: Name,
        /// What is missing, how much, and what there is.
        shortage: Arc<Shortage>,
    },
    /// A component goes on failing to start.
    #[error(
        "{component} is quarantined: {failures} of its shards in a row failed, and the last one {how}; \
         mend it, or wait {for_ms} ms until it is tried again"
    )]
    Quarantined {
        /// The component.
        component: Name,
        /// How many failed, one after the other.
        failures: u32,
        /// How the last one ended.
        how: Death,
        /// How long it is not tried.
        for_ms: u64,
    },
    /// The shards were there, but not wired to each other before the deadline.
    #[error("the shards of {composition} were not wired to each other before the deadline; ask again")]
    NotWired {
        /// The composition that was asked for.
        composition: Name,
    },
    /// Wiring failed again and again.
    #[error("the shards of {composition} could not be wired to each other; the log names the links")]
    WiringFailed {
        /// The composition that was asked for.
        composition: Name,
    },
    /// Too many requests wait.
    #[error("{WAITING_MAX} requests wait already; ask again later, or raise `shards.max`")]
    TooManyWaiting,
    /// Too many sessions are open.
    #[error("{SESSIONS_MAX} sessions are open, the most that one composer holds; end some")]
    TooManySessions,
    /// A shard did not take the session in.
    #[error("shard {shard} of {component} refused the session; its log says why")]
    Refused {
        /// Which shard.
        shard: ShardId,
        /// Of which component.
        component: Name,
    },
    /// A shard was lost while the session was being opened.
    #[error("the session was lost while it opened: {0}")]
    Lost(Loss),
    /// The composer is shutting down.
    #[error("the composer is shutting down; ask the one that comes after it")]
    ShuttingDown,
}

/// Why a session ended without its user.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Loss {
    /// One of its shards ended.
    #[error("shard {shard} of {component} {how}; ask for a new session")]
    ShardLost {
        /// Which shard.
        shard: ShardId,
        /// Of which component.
        component: Name,
        /// How it ended.
        how: Death,
    },
    /// A link between two of its shards broke.
    #[error("a link to shard {shard} of {component} broke; ask for a new session")]
    LinkBroken {
        /// The shard at the end of it that the other one accuses.
        shard: ShardId,
        /// Of which component.
        component: Name,
    },
    /// One of its shards was drained, and its deadline came.
    #[error("shard {shard} of {component} was drained and its deadline came; ask for a new session")]
    Drained {
        /// Which shard.
        shard: ShardId,
        /// Of which component.
        component: Name,
    },
    /// Nobody used it for as long as its composition allows.
    #[error(
        "the session was idle for too long; ask for a new one, or raise the composition's `idle_timeout_s`"
    )]
    Idle,
    /// The composer is shutting down.
    #[error("the composer is shutting down")]
    ShuttingDown,
}

/// How a shard came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// By itself, or by someone outside.
    Exited(Exit),
    /// By the composer.
    Killed(KillReason),
    /// Drained, because a link between it and a partner broke: one of the two wrote what no shard writes.
    AtOdds,
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Death::Exited(exit) => exit.fmt(f),
            Death::Killed(reason) => write!(f, "{reason} and was killed"),
            Death::AtOdds => f.write_str("was drained, as a link between it and a partner broke"),
        }
    }
}

/// The part of a sentence that says how a component fails.
struct Failing<'a>(&'a Option<Death>);

impl fmt::Display for Failing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(how) => write!(f, ", and the last one failed: it {how}"),
            None => Ok(()),
        }
    }
}
