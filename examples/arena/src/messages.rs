//! What the components tell each other.
//!
//! Invariant: every message is small and says nothing that its receiver has to look up elsewhere. Snapshots are in
//! whole centimetres, so they are compact on the wire and two equal matches compare equal.

use crate::{Vec2, map::Map, physics::MatchConfig};
use serde::{Deserialize, Serialize};
use shardkit::Wire;
use shardkit::codec::{Pod, Postcard};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// How often physics ticks, per second.
pub const TICK_HZ: u32 = 60;
/// The most players in one match.
pub const PLAYERS_MAX: usize = 8;
/// The longest player name, in bytes.
pub const NAME_BYTES_MAX: usize = 16;

/// A player: an account, or a bot that fills a seat.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
#[repr(transparent)]
pub struct PlayerId(pub u32);

impl PlayerId {
    const BOT: u32 = 1 << 31;

    /// The `number`-th bot of a match.
    pub const fn bot(number: u32) -> Self {
        Self(Self::BOT | number)
    }

    /// Whether this is a bot rather than an account.
    pub const fn is_bot(self) -> bool {
        self.0 & Self::BOT != 0
    }
}

/// A place, or a velocity per second, in whole centimetres.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Point {
    /// To the right.
    pub x_cm: i16,
    /// Downwards.
    pub y_cm: i16,
}

impl Point {
    /// The nearest point to `metres`.
    pub fn new(metres: Vec2) -> Self {
        Self { x_cm: (metres.x * 100.0).round() as i16, y_cm: (metres.y * 100.0).round() as i16 }
    }

    /// In metres.
    pub fn metres(self) -> Vec2 {
        Vec2::new(f32::from(self.x_cm), f32::from(self.y_cm)) / 100.0
    }
}

/// A unit vector in two bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Heading {
    x: i8,
    y: i8,
}

impl Heading {
    /// The nearest heading to the unit vector `direction`.
    pub fn new(direction: Vec2) -> Self {
        Self { x: (direction.x * 127.0) as i8, y: (direction.y * 127.0) as i8 }
    }

    /// As a unit vector; zero only for the default heading.
    pub fn unit(self) -> Vec2 {
        Vec2::new(f32::from(self.x), f32::from(self.y)).normalize_or_zero()
    }
}

/// Embedder to auth: who wants in.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Login {
    /// The account's name.
    pub name: String,
    /// Its password.
    pub password: String,
}

/// Auth's reply to a [`Login`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// Name and password are right.
    Ok(Ticket),
    /// One of the two is wrong; which one is nobody's business.
    Denied,
    /// Too many failures for this name.
    Throttled {
        /// When to try again, in milliseconds from now.
        retry_ms: u64,
    },
}

/// What auth signs: this player has logged in. Checked with [`crate::auth::TicketKey::check`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket {
    /// Who.
    pub player: PlayerId,
    /// Until when, in milliseconds of the clock that auth was given.
    pub expires_ms: u64,
    /// Auth's signature over the two.
    pub mac: [u8; 32],
}

/// An item: one thing, owned by exactly one player.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ItemId(pub u32);

/// Embedder to inventory: look at, or change, what a player has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadoutRequest {
    /// The player's ticket.
    pub ticket: Ticket,
    /// What to do before the reply is made.
    pub action: Action,
}

/// What a [`LoadoutRequest`] does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// Nothing.
    Show,
    /// Wear this item in its slot, instead of what is worn there.
    Equip(ItemId),
    /// Take this item off.
    Unequip(ItemId),
    /// Give items away: all of them or, on any error, none.
    Transfer {
        /// To whom.
        to: PlayerId,
        /// What.
        items: Vec<ItemId>,
    },
}

/// Inventory's reply to a [`LoadoutRequest`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum LoadoutReply {
    /// Done; this is what the player has now.
    Ok {
        /// What it brings to a match.
        loadout: Loadout,
        /// What it owns.
        items: Vec<ItemId>,
    },
    /// Not done; nothing changed.
    Refused(String),
}

/// What a player's items amount to in a match.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Loadout {
    /// Top speed.
    pub speed_m_s: f32,
    /// Mass: what knockback and collisions have to move.
    pub mass_kg: f32,
    /// Damage that it takes to go down.
    pub health: f32,
    /// The weapon.
    pub weapon: Weapon,
}

/// What a shot does.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Weapon {
    /// Ticks between two shots.
    pub cooldown_ticks: u16,
    /// How far a shot flies.
    pub range_m: f32,
    /// How fast it flies.
    pub speed_m_s: f32,
    /// What it takes from the health of whom it hits.
    pub damage: f32,
    /// What it adds to their momentum.
    pub knockback_n_s: f32,
    /// How often it bounces off a wall.
    pub bounces: u8,
}

impl Default for Weapon {
    fn default() -> Self {
        Weapon {
            cooldown_ticks: 16,
            range_m: 13.0,
            speed_m_s: 19.0,
            damage: 16.0,
            knockback_n_s: 140.0,
            bounces: 1,
        }
    }
}

impl Default for Loadout {
    fn default() -> Self {
        Loadout { speed_m_s: 5.5, mass_kg: 80.0, health: 100.0, weapon: Weapon::default() }
    }
}

/// Embedder to physics: a player takes a seat, before the match starts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Join {
    /// The player's ticket.
    pub ticket: Ticket,
    /// The name to show, at most [`NAME_BYTES_MAX`] bytes.
    pub name: String,
    /// What it brings, as inventory replied.
    pub loadout: Loadout,
}

/// Physics' reply to a [`Join`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum JoinReply {
    /// The player has a seat.
    Seated,
    /// It has none, for this reason.
    Refused(String),
}

/// Embedder to physics: everybody is here. A match that hears nothing begins by itself after a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begin;

/// Which buttons are down.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Serialize,
    Deserialize,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
#[repr(transparent)]
pub struct Buttons(pub u32);

impl Buttons {
    /// Shoot where the player aims.
    pub const FIRE: Buttons = Buttons(1);
    /// Jump ahead in the direction of movement.
    pub const DASH: Buttons = Buttons(2);

    /// Whether all of `buttons` are down.
    pub const fn has(self, buttons: Buttons) -> bool {
        self.0 & buttons.0 == buttons.0
    }

    /// These, and `buttons` if `down`.
    pub const fn with(self, buttons: Buttons, down: bool) -> Self {
        Buttons(if down { self.0 | buttons.0 } else { self.0 })
    }
}

/// Embedder or AI to physics: what a player does from now on. Plain old data: its bytes are the message.
#[derive(
    Clone, Copy, Debug, PartialEq, Serialize, Deserialize, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Input {
    /// Who.
    pub player: PlayerId,
    /// Grows with each input of a player; an older one than the last is ignored.
    pub seq: u32,
    /// Where to go; a longer vector than 1 is as good as 1.
    pub direction: [f32; 2],
    /// Where to aim; of any length but zero.
    pub aim: [f32; 2],
    /// What is pressed.
    pub buttons: Buttons,
}

/// Physics to AI and rendering: the match begins.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Start {
    /// The seed of everything that is left to chance.
    pub seed: u64,
    /// How long the match will be.
    pub ticks: u32,
    /// Where it takes place.
    pub map: Map,
    /// Who plays, in the order in which [`World::players`] lists them.
    pub seats: Vec<Seat>,
}

/// One player's place in a match.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Seat {
    /// Who.
    pub player: PlayerId,
    /// The name to show.
    pub name: String,
    /// What it brought.
    pub loadout: Loadout,
}

/// Physics to everyone: the match after a tick.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct World {
    /// Ticks since the start.
    pub tick: u32,
    /// Every player, in the order of [`Start::seats`].
    pub players: Vec<PlayerView>,
    /// The shots in flight.
    pub shots: Vec<ShotView>,
    /// The drums that players push around.
    pub drums: Vec<Point>,
    /// The pickups that lie ready.
    pub pickups: Vec<PickupView>,
}

/// One player in a [`World`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PlayerView {
    /// Who.
    pub player: PlayerId,
    /// Where.
    pub at: Point,
    /// How fast, per second.
    pub velocity: Point,
    /// Where it aims.
    pub aim: Heading,
    /// Health in percent; 0 while it is down.
    pub health: u8,
    /// Whether a dash would work now.
    pub dash_ready: bool,
    /// Points so far.
    pub score: u16,
}

/// One shot in a [`World`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ShotView {
    /// The position in [`World::players`] of who shot.
    pub seat: u8,
    /// Where.
    pub at: Point,
    /// How fast, per second.
    pub velocity: Point,
}

/// One pickup in a [`World`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PickupView {
    /// Where.
    pub at: Point,
    /// What it gives.
    pub kind: PickupKind,
}

/// What a pickup gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum PickupKind {
    /// Health.
    Heart,
    /// Points.
    Star,
}

/// AI's reply to a [`World`]: what its bots do next.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BotInputs {
    /// The tick of the world that they looked at.
    pub tick: u32,
    /// One input per bot.
    pub inputs: Vec<Input>,
}

/// Embedder to rendering: what does the match look like now?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrameRequest;

/// Rendering's reply to a [`FrameRequest`].
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frame {
    /// The tick that it shows.
    pub tick: u32,
    /// The picture as PNG.
    pub png: Vec<u8>,
}

/// Embedder to rendering: draw the match once it is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PosterRequest {
    /// Whether to draw the highlights too: a second of work.
    pub highlights: bool,
}

/// Rendering's reply to a [`PosterRequest`]: what is left of a match.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Poster {
    /// The whole match in one picture, as PNG: a tile for [`crate::render::contact_sheet`].
    pub png: Vec<u8>,
    /// Its liveliest seconds, as an animated PNG; empty where they were not asked for.
    pub highlights_png: Vec<u8>,
}

/// Physics to the embedder and rendering: the match is over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MatchReport {
    /// How long it was.
    pub ticks: u32,
    /// The players, best first.
    pub standings: Vec<Standing>,
    /// A hash over every snapshot of the match: equal for equal matches.
    pub digest: u64,
}

/// How one player did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Standing {
    /// Who.
    pub player: PlayerId,
    /// The player's position in [`Start::seats`]: its colour.
    pub seat: u8,
    /// The name to show.
    pub name: String,
    /// Points.
    pub score: u16,
    /// How many it brought down.
    pub frags: u16,
    /// How often it went down.
    pub deaths: u16,
    /// How many shots it fired.
    pub shots: u32,
    /// How many of them hit a player.
    pub hits: u32,
    /// How far it went.
    pub distance_m: f32,
}

/// The types that travel, by their names in the manifest.
macro_rules! wire {
    ($codec:ty: $($name:ident),+) => {
        $(impl Wire for $name {
            const NAME: &'static str = stringify!($name);
            type Codec = $codec;
        })+
    };
}

wire!(Pod: Input);
wire!(Postcard: Login, Verdict, LoadoutRequest, LoadoutReply, MatchConfig, Join, JoinReply, Begin, Start, World, BotInputs);
wire!(Postcard: FrameRequest, Frame, PosterRequest, Poster, MatchReport);
