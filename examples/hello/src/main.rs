//! The first shard: it sends back what it gets.

use shardkit::prelude::*;

struct Echo;

impl Shard for Echo {
    fn on_message(&mut self, message: Message<'_>, ctx: &mut Context<'_>) -> Result<()> {
        Ok(ctx.reply(&message, message.payload())?)
    }
}

fn main() -> Result<()> {
    shardkit::run(|_config| Ok(Echo))
}
