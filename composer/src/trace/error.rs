//! Why a trace can't be used.

use super::{ARRIVALS_MAX, BINS_MAX, CELLS_MAX, KINDS_MAX, SLOTS_MAX};

/// Why a trace can't be used: the file, the line, what is there and what would be right.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TraceError {
    /// The file can't be opened.
    #[error("{file}: {source}")]
    Open {
        /// The file.
        file: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// Reading failed, or the text is no CSV.
    #[error("{file}: {source}")]
    Csv {
        /// The file.
        file: String,
        /// What the reader says, with its line.
        source: csv::Error,
    },
    /// The header belongs to no format.
    #[error(
        "{file}:1: the header is of no known format; it has {found}. Known are: `HashFunction` with columns `1`, `2`, …; \
         `duration` with `start` or `end`; `timestamp` or `period` with columns of counts; `time_s` with columns of slots"
    )]
    Header {
        /// The file.
        file: String,
        /// The columns that are there.
        found: String,
    },
    /// A column that the format needs is missing.
    #[error("{file}:1: the header has no column {missing}; it has {found}")]
    Columns {
        /// The file.
        file: String,
        /// What is missing.
        missing: &'static str,
        /// The columns that are there.
        found: String,
    },
    /// A row is longer or shorter than the header.
    #[error(
        "{file}:{line}: there are {found} fields where the header has {header}; is a column missing, or a comma too many?"
    )]
    Fields {
        /// The file.
        file: String,
        /// The line.
        line: u64,
        /// Fields in the row.
        found: usize,
        /// Fields in the header.
        header: usize,
    },
    /// A value is not what its column holds.
    #[error("{file}:{line}: {column} is `{value}`; it must be {must}")]
    Value {
        /// The file.
        file: String,
        /// The line.
        line: u64,
        /// The column.
        column: String,
        /// What is there.
        value: String,
        /// What would be right.
        must: &'static str,
    },
    /// Time stands still or goes back.
    #[error(
        "{file}:{line}: {value} is not later than the row before; sort the rows by time, and keep one for each point in time"
    )]
    Order {
        /// The file.
        file: String,
        /// The line.
        line: u64,
        /// The time that is there.
        value: String,
    },
    /// Two steps of time can't be of the same series.
    #[error(
        "{file}:{line}: the step of time to this row is {step_s} s, no multiple of the usual {bin_s} s; give every row a time on the grid"
    )]
    Step {
        /// The file.
        file: String,
        /// The line.
        line: u64,
        /// The step that is there, in seconds.
        step_s: f64,
        /// The commonest step, in seconds.
        bin_s: f64,
    },
    /// There is a header and nothing else, or only one point in time.
    #[error("{file} has too few rows: a trace needs at least one row, a series at least two")]
    Empty {
        /// The file.
        file: String,
    },
    /// A limit is exceeded.
    #[error("{file}:{line}: more than {max} {what}; split the trace, or take larger bins or units")]
    TooMany {
        /// The file.
        file: String,
        /// The line.
        line: u64,
        /// Of what there is too much.
        what: &'static str,
        /// The limit.
        max: usize,
    },
}

impl TraceError {
    pub(super) fn too_many_kinds(file: &str, line: u64) -> Self {
        Self::TooMany { file: file.into(), line, what: "kinds (KINDS_MAX)", max: KINDS_MAX }
    }

    pub(super) fn too_many_bins(file: &str, line: u64) -> Self {
        Self::TooMany { file: file.into(), line, what: "bins (BINS_MAX)", max: BINS_MAX }
    }

    pub(super) fn too_many_cells(file: &str, line: u64) -> Self {
        Self::TooMany { file: file.into(), line, what: "kinds times bins (CELLS_MAX)", max: CELLS_MAX }
    }

    pub(super) fn too_many_slots(file: &str, line: u64) -> Self {
        Self::TooMany {
            file: file.into(),
            line,
            what: "slots in one bin (SLOTS_MAX)",
            max: SLOTS_MAX as usize,
        }
    }

    pub(super) fn too_many_arrivals(file: &str, line: u64) -> Self {
        Self::TooMany { file: file.into(), line, what: "arrivals (ARRIVALS_MAX)", max: ARRIVALS_MAX }
    }
}
