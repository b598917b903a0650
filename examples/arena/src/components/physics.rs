//! Physics as a shard: it seats the players, steps every match at the tick's rate, and shows each tick to who needs it.
//!
//! Invariant: a match goes from its lobby to its report once, whether anybody plays or not.

use super::{now_ms, or_skip};
use crate::auth::TicketKey;
use crate::messages::*;
use crate::physics::{Match, MatchConfig};
use shardkit::prelude::*;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PhysicsConfig {
    secret: String,
    /// A match that nobody begins begins by itself after so long.
    lobby_ms: u64,
    /// The renderer sees every so many ticks.
    film_ticks: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Lobby { until_ms: u64 },
    Playing,
    Over,
}

struct Room {
    stage: Stage,
    config: MatchConfig,
    /// Made when it is needed first: an arena takes longer to build than a session to compose.
    game: Option<Box<Match>>,
    /// Whether anyone joined: only then does the embedder want to see the world.
    people: bool,
    bots: bool,
}

impl Room {
    fn game(&mut self) -> &mut Match {
        self.game.get_or_insert_with(|| Box::new(Match::new(self.config.clone())))
    }
}

struct Ports {
    config: In<MatchConfig>,
    join: In<Join, JoinReply>,
    begin: In<Begin>,
    input: In<Input>,
    start: Out<Start>,
    bots: Out<World, BotInputs>,
    film: Out<World>,
    world: Out<World>,
    report: Out<MatchReport>,
}

pub(super) struct PhysicsShard {
    rooms: SessionMap<Room>,
    ports: Ports,
    key: TicketKey,
    config: PhysicsConfig,
}

impl PhysicsShard {
    pub(super) fn new(config: &Config) -> Result<Self> {
        let ports = Ports {
            config: config.input("config")?,
            join: config.input("join")?,
            begin: config.input("begin")?,
            input: config.input("input")?,
            start: config.output("start")?,
            bots: config.output("bots")?,
            film: config.output("film")?,
            world: config.output("world")?,
            report: config.output("report")?,
        };
        let config: PhysicsConfig = config.get()?;
        Ok(Self { rooms: SessionMap::default(), ports, key: TicketKey::new(&config.secret), config })
    }
}

impl Shard for PhysicsShard {
    fn on_open(&mut self, session: SessionId, ctx: &mut Context<'_>) -> Result<()> {
        let stage = Stage::Lobby { until_ms: now_ms(ctx) + self.config.lobby_ms };
        let config = MatchConfig { seed: ctx.random(), ..MatchConfig::default() };
        self.rooms.insert(session, Room { stage, config, game: None, people: false, bots: false });
        Ok(())
    }

    fn on_message(&mut self, message: Message<'_>, ctx: &mut Context<'_>) -> Result<()> {
        let Some(room) = self.rooms.get_mut(&message.session()) else { return Ok(()) };
        if let Some(input) = self.ports.input.read(&message)? {
            room.game().input(&input);
        } else if let Some(bots) = self.ports.bots.answer(&message)? {
            bots.inputs.iter().for_each(|input| room.game().input(input));
        } else if let Some(config) = self.ports.config.read(&message)? {
            // Once the arena stands it is too late to want another one.
            if room.game.is_none() {
                room.config = config;
            }
        } else if let Some(join) = self.ports.join.read(&message)? {
            let seated = room.game().join(&join, &self.key, now_ms(ctx));
            room.people |= seated.is_ok();
            let reply = seated.map_or_else(|e| JoinReply::Refused(e.to_string()), |()| JoinReply::Seated);
            ctx.answer(&self.ports.join, &message, &reply)?;
        } else if self.ports.begin.is(&message) {
            begin(room, &self.ports, message.session(), ctx)?;
        }
        Ok(())
    }

    fn on_tick(&mut self, _: Tick, ctx: &mut Context<'_>) -> Result<()> {
        let now_ms = now_ms(ctx);
        for (&session, room) in &mut self.rooms {
            let done = match room.stage {
                Stage::Lobby { until_ms } if now_ms >= until_ms => begin(room, &self.ports, session, ctx),
                Stage::Playing => step(room, &self.ports, self.config.film_ticks, session, ctx),
                Stage::Lobby { .. } | Stage::Over => Ok(()),
            };
            if let Err(error) = done {
                room.stage = Stage::Over;
                ctx.end(session, &error.to_string());
            }
            // Its bots think while the next match is stepped.
            ctx.flush();
        }
        Ok(())
    }

    fn on_close(&mut self, session: SessionId, _: &mut Context<'_>) {
        self.rooms.remove(&session);
    }
}

fn begin(room: &mut Room, ports: &Ports, session: SessionId, ctx: &mut Context<'_>) -> Result<(), SendError> {
    if !matches!(room.stage, Stage::Lobby { .. }) {
        return Ok(());
    }
    let start = room.game().start();
    room.bots = start.seats.iter().any(|seat| seat.player.is_bot());
    room.stage = Stage::Playing;
    ctx.send(&ports.start, session, &start)
}

/// One tick of one match.
fn step(
    room: &mut Room,
    ports: &Ports,
    film_ticks: u32,
    session: SessionId,
    ctx: &mut Context<'_>,
) -> Result<(), SendError> {
    let world = room.game().step();
    if room.people {
        or_skip(ctx.send(&ports.world, session, &world))?;
    }
    if room.bots {
        or_skip(ctx.send(&ports.bots, session, &world))?;
    }
    if world.tick.is_multiple_of(film_ticks.max(1)) {
        or_skip(ctx.send(&ports.film, session, &world))?;
    }
    if room.game().is_over() {
        room.stage = Stage::Over;
        ctx.send(&ports.report, session, &room.game().report())?;
    }
    Ok(())
}
