//! What the core is told, what it wants done, and the names that both use.
//!
//! The shell turns what happens in the world into [`Event`]s, and carries out every [`Effect`] in the order in
//! which it was returned. That order is part of the contract: an `Unwire` comes before a `Wire` that takes its
//! place in a table of links.

use super::record::Why;
use super::refusal::{Loss, Refusal};
use crate::resources::Shortage;
use shard_runtime::id::{ComponentId, LinkId, SessionId, ShardId};
use std::fmt;
use std::sync::Arc;

/// A request for a session. Chosen by whoever asks; the core only hands it back.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// A composition: its position in the application's list of compositions.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CompositionId(pub u16);

/// The wire between two ends: a link each way. Never reused within one composer's life.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WireId(pub(super) u64);

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "request {}", self.0)
    }
}

impl fmt::Debug for CompositionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "composition {}", self.0)
    }
}

impl fmt::Debug for WireId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "wire {}.{}", self.0 as u32, self.0 >> 32)
    }
}

/// One end of a wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum End {
    /// The program that embeds the composer.
    Embedder,
    /// A shard.
    Shard(ShardId),
}

/// One end of a wire, with its place there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WireEnd {
    /// Who.
    pub end: End,
    /// Which component it is an instance of.
    pub component: ComponentId,
    /// Its slot in this end's table of links, for both directions.
    pub link: LinkId,
}

/// One partner of a shard within a session, as [`Core::routes`](super::Core::routes) gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The component that the partner is an instance of.
    pub component: ComponentId,
    /// The partner.
    pub end: End,
    /// The slot in the shard's own table of links that leads there.
    pub link: LinkId,
}

/// How warm a shard was that a session got, or how a shard came into being.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// It waited, wired.
    Ready,
    /// It was thawed: its memory was there, it had no processor.
    Frozen,
    /// A process that could become any of several components became it.
    Generic,
    /// It was forked from its component's zygote.
    Zygote,
    /// Its program was started.
    Cold,
}

impl Tier {
    /// All of them, the warmest first.
    pub const ALL: [Tier; 5] = [Tier::Ready, Tier::Frozen, Tier::Generic, Tier::Zygote, Tier::Cold];
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Tier::Ready => "ready",
            Tier::Frozen => "frozen",
            Tier::Generic => "generic",
            Tier::Zygote => "zygote",
            Tier::Cold => "cold",
        })
    }
}

/// How many shards of a session came from each tier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tiers([u16; Tier::ALL.len()]);

impl Tiers {
    /// How many came from `tier`.
    pub fn of(self, tier: Tier) -> u16 {
        self.0[tier as usize]
    }

    /// How many had to be started: 0 is a warm start.
    pub fn started(self) -> u16 {
        [Tier::Generic, Tier::Zygote, Tier::Cold].map(|tier| self.of(tier)).into_iter().sum()
    }

    pub(crate) fn add(&mut self, tier: Tier) {
        self.0[tier as usize] += 1;
    }
}

impl fmt::Display for Tiers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let some = Tier::ALL.into_iter().filter(|&tier| self.of(tier) > 0);
        for (at, tier) in some.enumerate() {
            write!(f, "{}{} {tier}", if at > 0 { ", " } else { "" }, self.of(tier))?;
        }
        Ok(())
    }
}

/// How a shard ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It returned this exit code.
    Code(i32),
    /// This signal killed it.
    Signal(i32),
    /// The kernel killed it, because it used more memory than the so many bytes that its component declares.
    OutOfMemory {
        /// How much it might use.
        max_bytes: u64,
    },
    /// Its program could not be started, for the reason that this `errno` names.
    NotStarted(i32),
}

impl Exit {
    /// Whether the kernel ended it for a system call that no shard makes by chance.
    pub fn is_denial(self) -> bool {
        self == Exit::Signal(SIGSYS)
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Exit::Code(code) => write!(f, "exited with code {code}"),
            Exit::Signal(SIGSYS) => {
                write!(f, "was killed by signal {SIGSYS}: a system call that no shard makes by chance")
            }
            Exit::Signal(signal) => write!(f, "was killed by signal {signal}"),
            Exit::OutOfMemory { max_bytes } => {
                write!(
                    f,
                    "was killed by the kernel: it used more than the {max_bytes} bytes of memory that its component declares"
                )
            }
            Exit::NotStarted(errno) => {
                write!(f, "could not be started: {}", std::io::Error::from_raw_os_error(errno))
            }
        }
    }
}

/// What the filter of system calls kills with.
const SIGSYS: i32 = rustix::process::Signal::SYS.as_raw();

/// Why the core wants a shard killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KillReason {
    /// Not ready within its component's `start_timeout_ms`.
    StartTimeout,
    /// Did not end within its component's `stop_timeout_ms` after it was asked to.
    StopTimeout,
    /// Did not acknowledge the opening of a session within [`OPEN_TIMEOUT_MS`](super::OPEN_TIMEOUT_MS).
    OpenTimeout,
    /// Did not acknowledge the closing of a session within [`CLOSE_TIMEOUT_MS`](super::CLOSE_TIMEOUT_MS).
    CloseTimeout,
    /// Its heartbeat stopped.
    Hung,
    /// It said or wrote what no shard says or writes.
    BrokeProtocol,
    /// It could not be wired to the embedder.
    NoEmbedder,
    /// It could not clean up after a session.
    ScrubFailed,
}

impl fmt::Display for KillReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            KillReason::StartTimeout => "was not ready within its start_timeout_ms",
            KillReason::StopTimeout => "did not end within its stop_timeout_ms",
            KillReason::OpenTimeout => "did not answer when a session was opened",
            KillReason::CloseTimeout => "did not answer when a session was closed",
            KillReason::Hung => "showed no heartbeat",
            KillReason::BrokeProtocol => "did not keep to the protocol",
            KillReason::NoEmbedder => "could not be wired to the embedder",
            KillReason::ScrubFailed => "could not clean up after a session",
        })
    }
}

/// What has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The first event: the warm shards are to be launched.
    Start,
    /// Someone wants a session. Answered by exactly one [`Effect::SessionReady`] or [`Effect::RequestFailed`].
    SessionRequested {
        /// The caller's name for this request.
        request: RequestId,
        /// What is to be composed.
        composition: CompositionId,
        /// How long the request may wait for shards. Not after now: it is served at once or refused at once.
        deadline_ns: u64,
    },
    /// The user is done with a session that is ready. Any other id is ignored.
    SessionEnded {
        /// Which session.
        session: SessionId,
    },
    /// Nobody has used a session that is ready for as long as its composition allows. Any other id is ignored.
    SessionIdle {
        /// Which session.
        session: SessionId,
    },
    /// A component is to have so many shards, within its floor and its ceiling.
    Target {
        /// Of which component.
        component: ComponentId,
        /// So many that take sessions.
        ready: u32,
        /// So many frozen ones at the most: what nobody needs is frozen before it is ended.
        frozen: u32,
    },
    /// A shard is to take no more sessions, and to end when those that it holds are over: by themselves, or at the
    /// deadline.
    Drain {
        /// Which shard.
        shard: ShardId,
        /// When the sessions that are left end with an error.
        deadline_ns: u64,
    },
    /// A shard's process exists.
    Launched {
        /// Which shard.
        shard: ShardId,
        /// Its process id, for people to read.
        pid: u32,
        /// How it came into being.
        from: Tier,
    },
    /// A shard has started up and can be wired.
    ShardReady {
        /// Which shard.
        shard: ShardId,
    },
    /// Shards that were to be launched together were not: the host has no room for all of them.
    NoRoom {
        /// All of them, as they were launched.
        shards: Vec<ShardId>,
        /// What is missing.
        shortage: Arc<Shortage>,
    },
    /// A shard is gone: reaped, or never started.
    ShardExited {
        /// Which shard.
        shard: ShardId,
        /// How it ended.
        how: Exit,
    },
    /// A shard's heartbeat has stopped.
    ShardHung {
        /// Which shard.
        shard: ShardId,
    },
    /// A shard has said or written what no shard says or writes: it is not to be trusted any more.
    BrokeProtocol {
        /// Which shard.
        shard: ShardId,
    },
    /// A shard says that its partner has broken the rules of a link. Its word alone does not tell which of the two has: the
    /// link goes, with the sessions that need it, and neither loses more.
    LinkBroken {
        /// Who says so.
        witness: ShardId,
        /// Its link.
        link: LinkId,
    },
    /// How much of its time a shard worked lately: what packing weighs its sessions by.
    Load {
        /// Which shard.
        shard: ShardId,
        /// In thousandths; more than [`LOAD_FULL_PERMILLE`](super::LOAD_FULL_PERMILLE) counts as that.
        permille: u32,
    },
    /// Both ends of a wire have it.
    Wired {
        /// Which wire.
        wire: WireId,
    },
    /// A wire could not be made; neither end has it.
    WireFailed {
        /// Which wire.
        wire: WireId,
    },
    /// A shard took the session in.
    Opened {
        /// Which session.
        session: SessionId,
        /// Which shard.
        shard: ShardId,
    },
    /// A shard did not take the session in, and holds nothing of it.
    OpenRefused {
        /// Which session.
        session: SessionId,
        /// Which shard.
        shard: ShardId,
    },
    /// A shard holds nothing of the session any more.
    Closed {
        /// Which session.
        session: SessionId,
        /// Which shard.
        shard: ShardId,
    },
    /// A shard has let go of a session and could not clean up after it.
    ScrubFailed {
        /// Which session.
        session: SessionId,
        /// Which shard.
        shard: ShardId,
    },
    /// Time has passed: [`Core::next_deadline`](super::Core::next_deadline) has come.
    Tick,
    /// Everything is to end. Answered by [`Effect::Finished`].
    ShutDown,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Launch a shard. Answered by `Launched` and `ShardReady`, or by `ShardExited`, or by `NoRoom`.
    Launch {
        /// The new shard.
        shard: ShardId,
        /// Of which component.
        component: ComponentId,
        /// What for.
        why: Why,
        /// The next effect is another launch of the same set: all of a set are given their parts of the host before
        /// one of them is started, or none is.
        more: bool,
    },
    /// Make a link each way between two ends. Answered by `Wired` or `WireFailed`.
    Wire {
        /// The new wire.
        wire: WireId,
        /// The end that calls. Where both call each other: the component that the manifest names first.
        caller: WireEnd,
        /// The end that is called.
        callee: WireEnd,
    },
    /// Take a wire out of the table of links of an end that lives on. Has no answer. It may come for a wire that
    /// has not been answered yet; the answer is ignored then.
    Unwire {
        /// Which wire.
        wire: WireId,
        /// The end that has to let go.
        at: WireEnd,
    },
    /// Open a session on a shard, with the partners that [`Core::routes`](super::Core::routes) gives. Answered by
    /// `Opened` or `OpenRefused`.
    Open {
        /// Which session.
        session: SessionId,
        /// Which shard.
        shard: ShardId,
    },
    /// Close a session on a shard. Answered by `Closed`, or by the shard's end.
    Close {
        /// Which session.
        session: SessionId,
        /// Which shard.
        shard: ShardId,
    },
    /// Take the processor away from a shard that holds no session; it keeps its memory and its wires. Has no answer.
    Freeze {
        /// Which shard.
        shard: ShardId,
    },
    /// Give it back. Has no answer: what was sent to the shard meanwhile waits for it.
    Thaw {
        /// Which shard.
        shard: ShardId,
    },
    /// Ask a shard to end. Answered by `ShardExited`.
    Stop {
        /// Which shard.
        shard: ShardId,
    },
    /// Kill a shard. Answered by `ShardExited` once it has been reaped.
    Kill {
        /// Which shard.
        shard: ShardId,
        /// Why.
        reason: KillReason,
    },
    /// Every shard of the session has acknowledged: messages may flow.
    SessionReady {
        /// The request that this answers.
        request: RequestId,
        /// The session.
        session: SessionId,
        /// From which tiers its shards came.
        tiers: Tiers,
    },
    /// A request has come to nothing.
    RequestFailed {
        /// The request that this answers.
        request: RequestId,
        /// Why, and what to do about it.
        reason: Refusal,
    },
    /// A session that was ready has ended without its user.
    SessionLost {
        /// Which session.
        session: SessionId,
        /// Why.
        reason: Loss,
    },
    /// Every shard has let go of the session, and its id will not come again.
    SessionClosed {
        /// Which session.
        session: SessionId,
    },
    /// The last shard has ended after a `ShutDown`.
    Finished,
}
