//! The trait that a component's author implements.

use crate::config::Config;
use crate::context::Context;
use crate::error::Result;
use crate::message::{Message, Rejected, Tick};
use shard_runtime::id::SessionId;

/// One running instance of a component.
///
/// All methods run on the shard's one thread, one at a time. They should not block: what is sent leaves when the
/// handler returns, and while a handler runs nothing else of this shard does. For a replay after a failure to give
/// the same result, time and randomness are taken from the [`Context`].
pub trait Shard {
    /// A message came. An error ends its session, with the error as the reason.
    ///
    /// # Errors
    /// Whatever the author's code gives.
    fn on_message(&mut self, message: Message<'_>, ctx: &mut Context<'_>) -> Result<()>;

    /// A session opens. Its messages come after this returned. An error refuses the session.
    ///
    /// # Errors
    /// Whatever the author's code gives.
    fn on_open(&mut self, session: SessionId, ctx: &mut Context<'_>) -> Result<()> {
        let _ = (session, ctx);
        Ok(())
    }

    /// A session is over, whoever ended it. Forget everything about it: the shard may get another one right away.
    fn on_close(&mut self, session: SessionId, ctx: &mut Context<'_>) {
        let _ = (session, ctx);
    }

    /// The shard holds no session any more and is to be as if it had never held one. Called after
    /// [`on_close`](Self::on_close) if the manifest says `after = "scrub"`. An error ends the shard: it is not used again.
    ///
    /// # Errors
    /// Whatever the author's code gives.
    fn on_scrub(&mut self, ctx: &mut Context<'_>) -> Result<()> {
        let _ = ctx;
        Ok(())
    }

    /// The shard was forked from its component's zygote and now has a number of its own. Called before anything else,
    /// and only if the manifest says `zygote = true`. What two processes must not share is renewed here: random
    /// numbers, connections, positions in files.
    ///
    /// # Errors
    /// Whatever the author's code gives; the shard does not start then.
    fn on_fork(&mut self, config: &Config) -> Result<()> {
        let _ = config;
        Ok(())
    }

    /// Runs at the fixed rate that the manifest gives (`tick_hz`), if it gives one.
    ///
    /// # Errors
    /// An error is counted and reported; the shard goes on.
    fn on_tick(&mut self, tick: Tick, ctx: &mut Context<'_>) -> Result<()> {
        let _ = (tick, ctx);
        Ok(())
    }

    /// A message that this shard sent was refused by its receiver.
    fn on_rejected(&mut self, rejected: Rejected, ctx: &mut Context<'_>) {
        let _ = (rejected, ctx);
    }

    /// The shard ends. All sessions were closed before, unless its composer died.
    fn on_stop(&mut self, ctx: &mut Context<'_>) {
        let _ = ctx;
    }
}
