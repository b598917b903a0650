//! The bots as a shard: a world comes, and their inputs go back as its answer.

use super::or_skip;
use crate::ai::Squad;
use crate::messages::{BotInputs, Start, World};
use shardkit::prelude::*;

pub(super) struct AiShard {
    squads: SessionMap<Squad>,
    start: In<Start>,
    world: In<World, BotInputs>,
}

impl AiShard {
    pub(super) fn new(config: &Config) -> Result<Self> {
        let (start, world) = (config.input("start")?, config.input("world")?);
        Ok(Self { squads: SessionMap::default(), start, world })
    }
}

impl Shard for AiShard {
    fn on_message(&mut self, message: Message<'_>, ctx: &mut Context<'_>) -> Result<()> {
        if let Some(world) = self.world.read(&message)? {
            let Some(squad) = self.squads.get_mut(&message.session()) else { return Ok(()) };
            or_skip(ctx.answer(&self.world, &message, &squad.think(&world)))?;
        } else if let Some(start) = self.start.read(&message)? {
            self.squads.insert(message.session(), Squad::new(&start));
        }
        Ok(())
    }

    fn on_close(&mut self, session: SessionId, _: &mut Context<'_>) {
        self.squads.remove(&session);
    }
}
