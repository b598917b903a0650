//! Authentication as a shard: a login comes, a verdict goes.

use super::now_ms;
use crate::auth::Auth;
use crate::messages::{Login, Verdict};
use shardkit::prelude::*;

pub(super) struct AuthShard {
    auth: Auth,
    login: In<Login, Verdict>,
}

impl AuthShard {
    pub(super) fn new(config: &Config) -> Result<Self> {
        Ok(Self { auth: Auth::demo(config.get()?)?, login: config.input("login")? })
    }
}

impl Shard for AuthShard {
    fn on_message(&mut self, message: Message<'_>, ctx: &mut Context<'_>) -> Result<()> {
        let Some(login) = self.login.read(&message)? else { return Ok(()) };
        let verdict = self.auth.login(&login, now_ms(ctx));
        Ok(ctx.answer(&self.login, &message, &verdict)?)
    }
}
