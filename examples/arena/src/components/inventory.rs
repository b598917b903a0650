//! Inventory as a shard: it checks the ticket, acts, and says what the player brings to a match.

use super::now_ms;
use crate::auth::TicketKey;
use crate::inventory::Inventory;
use crate::messages::{LoadoutReply, LoadoutRequest};
use shardkit::prelude::*;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct InventoryConfig {
    secret: String,
}

pub(super) struct InventoryShard {
    inventory: Inventory,
    key: TicketKey,
    loadout: In<LoadoutRequest, LoadoutReply>,
}

impl InventoryShard {
    pub(super) fn new(config: &Config) -> Result<Self> {
        let InventoryConfig { secret } = config.get()?;
        let (inventory, key) = (Inventory::default(), TicketKey::new(&secret));
        Ok(Self { inventory, key, loadout: config.input("loadout")? })
    }
}

impl Shard for InventoryShard {
    fn on_message(&mut self, message: Message<'_>, ctx: &mut Context<'_>) -> Result<()> {
        let Some(request) = self.loadout.read(&message)? else { return Ok(()) };
        let reply = self.inventory.answer(&request, &self.key, now_ms(ctx));
        Ok(ctx.answer(&self.loadout, &message, &reply)?)
    }
}
