//! The conformance suite: what every kind of link promises, as checks that any kind can be put through.
//!
//! A kind takes part by implementing [`LinkKind`]: it makes links between an outbox and an inbox, and says how bytes
//! are carried, if they must be. [`run_all`] does the rest:
//!
//! ```text
//!   End (the sender's)                                  End (the receiver's)
//!   outbox ── ring it writes ── carry … carry ──▶ ring it reads ── inbox
//!          ◀──────────────── head, room ───────────────
//! ```
//!
//! Invariant: a check uses nothing but the two boxes, the one ring format (see [`crate::ring`]), and the trait. So
//! what passes on one kind means the same on all. A check is named after the promise that it holds a kind to, panics
//! when the promise is broken, and waits for what must come for no longer than [`PATIENCE`]. Random checks print
//! their seed; `SHARD_SEED` plays it again.

mod messages;
mod pair;
mod peers;

use crate::id::LinkId;
use crate::inbox::Inbox;
use crate::memory::Memory;
use crate::outbox::Outbox;
use crate::sync::Ordering;
use messages::*;
use peers::*;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

/// How long a check waits for what must come.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A kind of link, as the suite sees it.
pub trait LinkKind: Sized + Sync {
    /// What an end needs, beside its boxes, to carry frames: `()` where they are stored right into the other's ring.
    type Carrier: Send;

    /// The kind's name: `shm`, `rdma` or `tcp`.
    const NAME: &'static str;

    /// How a link of this kind is broken and restored; `None` where nothing but an end's death breaks it.
    const INTERRUPTION: Option<Interruption<Self>> = None;

    /// Makes `links` links from one sender to one receiver, numbered from 0 at both ends, with rings of `capacity`
    /// bytes. Messages of up to `message_bytes_max` go through.
    fn connect(&self, links: u16, capacity: usize, message_bytes_max: usize) -> Ends<Self::Carrier>;

    /// Moves what waits at an end towards the other: frames at the sender's, heads at the receiver's. May move only
    /// a part, and never waits; the suite calls again until what it expects has come.
    fn carry(&self, _end: &mut End<Self::Carrier>) {}

    /// Sleeps until something may have come for this end.
    fn park(&self, end: &mut End<Self::Carrier>) {
        end.inbox.park(&mut end.outbox, None);
    }

    /// A lie of the other end's: stores `word` at byte `at` of what it can write of a link's ring, as `end` has it,
    /// and lets `end` look there.
    fn scribble(&self, end: &mut End<Self::Carrier>, link: LinkId, at: usize, word: u64) {
        end.rings[usize::from(link.0)].word(at).store(word, Ordering::Release);
    }

    /// The process that owns this end dies: nothing is flushed, nothing is closed.
    fn kill(&self, end: End<Self::Carrier>) {
        drop(end);
    }
}

/// How links are broken in mid-stream, and restored.
pub struct Interruption<K: LinkKind> {
    /// Breaks all links between the two: what is on its way is lost. Both ends live on.
    pub break_off: fn(&K, &mut Ends<K::Carrier>),
    /// Restores them. What was sent before goes on from where the receiver stands.
    pub restore: fn(&K, &mut Ends<K::Carrier>),
}

/// One end of the links under test: what a shard has of them.
pub struct End<C> {
    /// What it receives with, and sleeps on.
    pub inbox: Inbox,
    /// What it sends with.
    pub outbox: Outbox,
    /// Its rings, by the links' numbers: at the receiver those that it reads, at the sender those that it writes.
    pub rings: Vec<Memory>,
    /// What carries its frames.
    pub carrier: C,
}

/// Both ends.
pub struct Ends<C> {
    /// The one whose outbox is used.
    pub sender: End<C>,
    /// The one whose inbox is used.
    pub receiver: End<C>,
}

macro_rules! checks {
    ($kind:ident: $($check:ident),* $(,)?) => {
        [$((stringify!($check), $check as fn(&$kind))),*]
    };
}

/// Runs all checks and prints which. `SHARD_CHECK` picks those whose name contains it.
///
/// # Panics
/// If the kind breaks a promise; the other checks have run by then.
pub fn run_all<K: LinkKind>(kind: &K) {
    let checks = checks!(K:
        messages_arrive_in_the_order_in_which_they_were_sent,
        each_message_is_handed_over_exactly_once,
        whatever_the_steps_what_was_taken_arrives_once_in_order,
        a_full_ring_is_back_pressure_and_loses_nothing,
        a_message_larger_than_the_ring_arrives_whole,
        the_largest_loan_fits_at_every_offset_and_one_byte_more_is_refused,
        loans_and_copies_keep_one_order,
        tags_and_extensions_survive,
        nothing_is_visible_before_it_is_flushed_and_all_of_it_after,
        every_size_around_an_edge_arrives,
        a_payload_that_imitates_commit_words_is_never_a_frame,
        a_burst_on_all_links_arrives,
        a_receiver_that_parks_is_woken,
        a_sender_that_starves_is_told_of_room,
        what_was_published_before_its_sender_died_is_read_and_nothing_torn,
        a_receiver_that_dies_is_back_pressure,
        a_sender_that_lies_loses_only_its_link,
        a_receiver_that_lies_loses_only_its_link,
        whatever_is_scribbled_costs_at_most_one_link,
        an_interrupted_link_goes_on_where_it_stopped,
    );
    let chosen = std::env::var("SHARD_CHECK").unwrap_or_default();
    let mut failed = Vec::new();
    for (name, check) in checks.into_iter().filter(|(name, _)| name.contains(&chosen)) {
        println!("{}: {name}", K::NAME);
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| check(kind))) {
            failed.push((name, panic));
        }
    }
    let names: Vec<_> = failed.iter().map(|(name, _)| *name).collect();
    if let Some((_, panic)) = failed.pop() {
        eprintln!("{} breaks what it promises: {}", K::NAME, names.join(", "));
        resume_unwind(panic);
    }
}
