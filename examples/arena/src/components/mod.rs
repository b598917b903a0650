//! The five components as shards: each one brings its part of the game to its ports.
//!
//! Invariant: a shard keeps one value per session and forgets it when the session closes; opening a session does no
//! work, so a match is composed in microseconds.

mod ai;
mod auth;
mod inventory;
mod physics;
mod render;

use shardkit::prelude::*;

/// The names of the components, as the program takes them for its first argument.
pub const NAMES: [&str; 5] = ["auth", "inventory", "physics", "ai", "render"];
/// What the first argument is for a process that waits until it is told which of them it is.
pub const ANY: &str = "any";

/// Runs a shard of the component of this name until its composer ends it.
///
/// # Errors
/// If there is no such component, or as [`shardkit::run`].
pub fn run(name: &str) -> Result<()> {
    match name {
        "auth" => shardkit::run(auth::AuthShard::new),
        "inventory" => shardkit::run(inventory::InventoryShard::new),
        "physics" => shardkit::run(physics::PhysicsShard::new),
        "ai" => shardkit::run(ai::AiShard::new),
        "render" => shardkit::run(render::RenderShard::new),
        ANY => shardkit::run_any(
            shardkit::Components::new()
                .with("physics", physics::PhysicsShard::new)
                .with("ai", ai::AiShard::new)
                .with("render", render::RenderShard::new),
        ),
        other => Err(Error::new(format!("there is no component `{other}`; there are {}", NAMES.join(", ")))),
    }
}

/// The shard's clock in milliseconds. It is the host's, so all components of a host agree on when a ticket expires.
fn now_ms(ctx: &Context<'_>) -> u64 {
    ctx.now_ns() / 1_000_000
}

/// Lets pass what can't be helped: a receiver that is behind misses this message, and a partner that is gone takes the
/// session with it. Right for what is soon followed by something newer.
fn or_skip(sent: Result<(), SendError>) -> Result<(), SendError> {
    match sent {
        Err(SendError::Full | SendError::LinkGone) => Ok(()),
        sent => sent,
    }
}
