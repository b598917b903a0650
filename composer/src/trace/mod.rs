//! Recorded demand: what the policies are tried on, and what `shardctl replay` plays.
//!
//! Invariant: a [`Trace`] has at least one kind and one bin, and every kind has the demand of every bin. What can't
//! be read without a guess is an error that names the file, the line, what is there and what would be right.
//!
//! The format is found by the header:
//!
//! | header | content | a bin |
//! | --- | --- | --- |
//! | `HashFunction` and columns `1`, `2`, … | counts per minute, one function a row (Azure Functions 2019) | 60 s |
//! | `duration` and `start` or `end` (or `start_timestamp`, `end_timestamp`) | one invocation a row, in seconds (Azure Functions 2021) | as asked, or 60 s |
//! | `timestamp` or `period`, then one or more columns | one point in time a row, one kind a column | the commonest step |
//! | `time_s`, then one or more columns | the plain format: as above, time in seconds, demand in slots | the commonest step |

mod arrivals;
mod counts;
mod error;
mod series;
mod table;

pub use arrivals::{ARRIVALS_MAX, Arrival, read_arrivals};
pub use error::TraceError;

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::num::NonZeroU32;
use std::path::Path;
use std::str::FromStr;
use table::Table;

/// The most kinds in a trace.
pub const KINDS_MAX: usize = 100_000;
/// The most bins in a trace.
pub const BINS_MAX: usize = 4_000_000;
/// The most cells of a trace: kinds times bins.
pub const CELLS_MAX: usize = 200_000_000;
/// The most slots that one kind may want in one bin.
pub const SLOTS_MAX: u32 = 1_000_000;

/// How counts become slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// A bin with any count above 0 wants one slot.
    Busy,
    /// A slot serves this many of a bin's count: the demand is the count divided by it, rounded up.
    PerSlot(NonZeroU32),
}

impl Unit {
    fn slots(self, count: u64) -> u64 {
        match self {
            Self::Busy => count.min(1),
            Self::PerSlot(served) => count.div_ceil(u64::from(served.get())),
        }
    }
}

impl FromStr for Unit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "busy" {
            return Ok(Self::Busy);
        }
        let served =
            text.parse().map_err(|_| format!("`{text}` is neither `busy` nor a whole number above 0"))?;
        Ok(Self::PerSlot(served))
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Busy => f.write_str("busy"),
            Self::PerSlot(served) => write!(f, "{served}"),
        }
    }
}

/// How a file is to be read where it leaves a choice. The default is the format's own.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reading {
    /// How counts become slots: `busy` for the counts of Azure 2019, 100 a slot for series with a `timestamp` or
    /// `period`, 1 for the plain format. Invocations with a duration take a slot each.
    pub unit: Option<Unit>,
    /// The length of a bin in seconds, for invocations. The other formats say it themselves.
    pub bin_s: Option<NonZeroU32>,
}

/// One row of demand: a component, a function, a site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kind {
    /// What the trace calls it.
    pub name: String,
    /// Slots wanted, by bin.
    pub demand: Vec<u32>,
}

/// Demand of some kinds over the same bins of time.
#[derive(Clone, Debug, PartialEq)]
pub struct Trace {
    bin_s: f64,
    kinds: Vec<Kind>,
    arrivals: u64,
    skipped_bins: usize,
}

impl Trace {
    /// Reads a file.
    pub fn read(path: &Path, reading: Reading) -> Result<Self, TraceError> {
        let name = path.display().to_string();
        match File::open(path) {
            Ok(file) => Self::parse(&name, file, reading),
            Err(source) => Err(TraceError::Open { file: name, source }),
        }
    }

    /// Reads what `input` gives; `name` is what errors call it.
    pub fn parse(name: &str, input: impl Read, reading: Reading) -> Result<Self, TraceError> {
        let mut table = Table::open(name, input)?;
        let trace = if table.has("HashFunction") {
            counts::read(&mut table, reading.unit.unwrap_or(Unit::Busy))?
        } else if table.has("duration") {
            arrivals::bins(&mut table, reading.bin_s.map_or(60, NonZeroU32::get))?
        } else if let Some(column) = table.position(&["timestamp", "period"]) {
            const HUNDRED: NonZeroU32 = NonZeroU32::new(100).expect("it is not 0");
            series::read(&mut table, column, reading.unit.unwrap_or(Unit::PerSlot(HUNDRED)))?
        } else if let Some(column) = table.position(&["time_s"]) {
            series::read(&mut table, column, reading.unit.unwrap_or(Unit::PerSlot(NonZeroU32::MIN)))?
        } else {
            return Err(table.unknown_header());
        };
        if trace.kinds.is_empty() || trace.bins() == 0 {
            return Err(TraceError::Empty { file: name.into() });
        }
        Ok(trace)
    }

    /// A trace from what was made elsewhere.
    ///
    /// # Panics
    ///
    /// If there is no kind or no bin, or if kinds differ in their number of bins.
    pub fn new(bin_s: f64, kinds: Vec<Kind>) -> Self {
        let bins = kinds.first().expect("a trace has at least one kind").demand.len();
        assert!(bins > 0 && kinds.iter().all(|kind| kind.demand.len() == bins), "every kind has every bin");
        let arrivals = kinds.iter().flat_map(|kind| &kind.demand).map(|&demand| u64::from(demand)).sum();
        Self { bin_s, kinds, arrivals, skipped_bins: 0 }
    }

    /// The length of a bin in seconds.
    pub fn bin_s(&self) -> f64 {
        self.bin_s
    }

    /// The number of bins, at least 1.
    pub fn bins(&self) -> usize {
        self.kinds[0].demand.len()
    }

    /// The kinds, at least one.
    pub fn kinds(&self) -> &[Kind] {
        &self.kinds
    }

    /// What the file counted: invocations, requests. For a trace that was made from slots: their sum.
    pub fn arrivals(&self) -> u64 {
        self.arrivals
    }

    /// How many bins the file leaves out between its first and its last row. They are not bins of the trace: rows
    /// that follow each other are taken for neighbours.
    pub fn skipped_bins(&self) -> usize {
        self.skipped_bins
    }
}
