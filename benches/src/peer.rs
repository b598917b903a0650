//! What the harness knows of the things it measures: a [`Peer`] opens a pair of [`End`]s, one here and one on
//! another core, and the harness tells both what to do, round after round.
//!
//! A peer that moves bytes implements [`Channel`](crate::channel::Channel) and gets its ends from
//! [`Duplex`](crate::channel::Duplex). One with a shape of its own, such as a handler that is called, implements
//! [`End`] itself.

use crate::case::{Case, Test};
use crate::channel::Samples;
use crate::error::Result;
use std::os::fd::OwnedFd;

/// One way of carrying messages between two cores.
pub trait Peer: Sync {
    /// Its name, on the command line and in every row.
    fn name(&self) -> &'static str;

    /// What it is and how it is used here, in a few words; says so if its ends are threads of one process.
    fn about(&self) -> &'static str;

    /// Whether it takes part in this case.
    fn takes(&self, case: &Case) -> bool;

    /// What its figure in this case is divided by; see [`Reference::usual`].
    fn reference(&self, case: &Case) -> Reference {
        Reference::usual(self.name(), case)
    }

    /// Opens the near end, and says what the far end needs.
    fn open(&self, case: &Case) -> Result<(Box<dyn End>, Handover)>;

    /// Opens the far end in its own process. Only called if [`Peer::open`] gave [`Handover::Process`].
    fn join(&self, case: &Case, handed: Handed) -> Result<Box<dyn End>>;
}

/// One end of an open pair. Messages and their numbers go on from round to round.
pub trait End {
    /// Makes `count` round trips and some to warm up, and notes how long each took.
    fn round_trips(&mut self, count: u64, samples: &mut Samples) -> Result<()>;

    /// Answers as many messages as [`End::round_trips`] sends.
    fn echo(&mut self, count: u64) -> Result<()>;

    /// Sends `count` messages and waits until the other end has acknowledged the last.
    fn send_all(&mut self, count: u64) -> Result<()>;

    /// Receives what [`End::send_all`] sends, and acknowledges the last.
    fn receive_all(&mut self, count: u64) -> Result<()>;

    /// Polls `count` times while nothing arrives.
    fn idle_polls(&mut self, count: u64) -> Result<()>;
}

/// How the far end comes to its place.
pub enum Handover {
    /// Another process joins with these.
    Process(Handed),
    /// Another thread calls this: for what cannot leave the process.
    Thread(FarThread),
}

/// Opens the far end on the thread that it will live on.
pub type FarThread = Box<dyn FnOnce() -> Result<Box<dyn End>> + Send>;

/// What the far process gets from the near one.
#[derive(Default)]
pub struct Handed {
    /// Descriptors, in an order that the peer knows.
    pub descriptors: Vec<OwnedFd>,
    /// Anything else, such as the name of a service.
    pub argument: String,
}

impl Handed {
    /// Descriptors only.
    pub fn descriptors(descriptors: impl Into<Vec<OwnedFd>>) -> Self {
        Self { descriptors: descriptors.into(), argument: String::new() }
    }

    /// A name only.
    pub fn argument(argument: impl Into<String>) -> Self {
        Self { descriptors: Vec::new(), argument: argument.into() }
    }
}

/// The figure that another one is divided by, taken in the same rounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Reference {
    /// Whose figure.
    pub peer: &'static str,
    /// In which case.
    pub case: Case,
}

/// The peer that is the bare limit of every test.
pub const LIMIT: &str = "limit";
/// The payload whose round trip is the limit of everything that fits into a line or two.
const LINE_BYTES: usize = 64;

impl Reference {
    /// The limit of the same case, with two exceptions: a round trip of less than 64 B is held against 64 B, and
    /// one hot link among many against a single link of the same peer.
    pub fn usual(peer: &'static str, case: &Case) -> Self {
        match case.test {
            Test::HotLink => Self { peer, case: Case { links: 1, ..*case } },
            Test::RoundTrip if case.bytes < LINE_BYTES => Self::line(case),
            Test::IdlePoll | Test::FanInRoundTrip => Self { peer: LIMIT, case: Case { links: 1, ..*case } },
            _ => Self { peer: LIMIT, case: *case },
        }
    }

    /// The limit at 64 B, whatever the size: for loaned messages, whose cost does not depend on it.
    pub fn line(case: &Case) -> Self {
        Self { peer: LIMIT, case: Case { bytes: LINE_BYTES, ..*case } }
    }
}
