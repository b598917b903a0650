//! The arena: a small multiplayer game backend as five components.
//!
//! A session is a match. [`auth`] hands out tickets, [`inventory`] keeps what players own, [`physics`] runs the match
//! at 60 ticks a second, [`ai`] plays the empty seats and [`render`] draws. What they tell each other is in
//! [`messages`]. Each of these is a plain struct with one value per match or per shard, and knows nothing of how messages
//! travel; [`components`] makes shards of them.
//!
//! Invariant: everything is a function of what came in. Time is a parameter and chance comes from a seed, so the
//! same inputs make the same match, bit for bit.

#![forbid(unsafe_code)]

pub mod ai;
pub mod auth;
pub mod components;
pub mod inventory;
pub mod map;
pub mod messages;
pub mod physics;
pub mod render;

/// A vector in the plane: metres in the arena (x to the right, y down), pixels on a canvas.
pub use rapier2d::math::Vector as Vec2;
