//! What is measured: a test, a payload size and a number of links make a [`Case`].

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The payload sizes that can be measured, in bytes. Some peers carry a message by its type, so it is a fixed list.
pub const SIZES: [usize; 5] = [40, 64, 1_024, 4_096, 65_536];
/// The numbers of links of the fan-in tests.
pub const FANIN_LINKS: [usize; 3] = [16, 256, 1_024];
/// The number of links of which one is hot.
pub const HOT_LINKS: usize = 1_024;

/// A group of tests, as the command line names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Pattern {
    /// A message there and one back.
    Rtt,
    /// Messages one way, as fast as they go.
    Stream,
    /// One receiver with many links.
    Fanin,
    /// Ends that sleep in the kernel, and what it costs to ask whether one does.
    Wake,
}

/// One test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Test {
    /// Both ends poll; one message there, one back.
    RoundTrip,
    /// The near end sends, the far end receives and acknowledges the last message.
    Stream,
    /// The far end polls all its links and finds nothing.
    IdlePoll,
    /// A round trip, each message over another of the far end's links.
    FanInRoundTrip,
    /// A stream over one of the far end's links, all others idle.
    HotLink,
    /// A round trip between ends that sleep in the kernel until they are woken.
    WakeUp,
    /// A stream of messages published one by one to an end that is awake but might have been parked.
    AskParked,
}

/// What a round of a test yields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Yield {
    /// A time for each round trip.
    EachRoundTrip,
    /// The near end's time for all messages.
    NearTotal,
    /// The far end's time for all polls.
    FarTotal,
}

impl Test {
    /// The pattern that it belongs to.
    pub fn pattern(self) -> Pattern {
        match self {
            Test::RoundTrip => Pattern::Rtt,
            Test::Stream => Pattern::Stream,
            Test::IdlePoll | Test::FanInRoundTrip | Test::HotLink => Pattern::Fanin,
            Test::WakeUp | Test::AskParked => Pattern::Wake,
        }
    }

    /// Its name within a pattern that has more than one test.
    pub fn metric(self) -> Option<&'static str> {
        match self {
            Test::RoundTrip | Test::Stream => None,
            Test::IdlePoll => Some("idle_poll"),
            Test::FanInRoundTrip | Test::WakeUp => Some("rtt"),
            Test::HotLink => Some("hot"),
            Test::AskParked => Some("ask"),
        }
    }

    /// What a round of it yields.
    pub fn yields(self) -> Yield {
        match self {
            Test::RoundTrip | Test::FanInRoundTrip | Test::WakeUp => Yield::EachRoundTrip,
            Test::Stream | Test::HotLink | Test::AskParked => Yield::NearTotal,
            Test::IdlePoll => Yield::FarTotal,
        }
    }

    /// Whether both ends poll at once, which takes two cores.
    pub fn needs_two_cores(self) -> bool {
        !matches!(self, Test::IdlePoll | Test::WakeUp)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Pattern::Rtt => "rtt",
            Pattern::Stream => "stream",
            Pattern::Fanin => "fanin",
            Pattern::Wake => "wake",
        })
    }
}

/// One test with its parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Case {
    /// The test.
    pub test: Test,
    /// The payload, in bytes.
    pub bytes: usize,
    /// The number of links into the far end; 1 outside the fan-in tests. A power of two.
    pub links: usize,
}

impl Case {
    /// A case with one link.
    pub fn new(test: Test, bytes: usize) -> Self {
        Self { test, bytes, links: 1 }
    }

    /// The link into the far end that message number `stamp` takes: always the same one if one is hot, else
    /// another one each time, in an order that no prefetcher guesses.
    pub fn link_of(&self, stamp: u64) -> usize {
        match self.test {
            Test::FanInRoundTrip => {
                (stamp.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as usize & (self.links - 1)
            }
            _ => self.links / 2,
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.test.pattern())?;
        if let Some(metric) = self.test.metric() {
            write!(f, " {metric}")?;
        }
        write!(f, ", {} B", self.bytes)?;
        if self.links > 1 {
            write!(f, ", {} links", self.links)?;
        }
        Ok(())
    }
}
