//! A CSV file with a header: rows of the header's length, values with the line they stand in.

use super::{SLOTS_MAX, TraceError, Unit};
use csv::StringRecord;
use std::io::Read;

/// The most columns that an error lists.
const LISTED_MAX: usize = 12;

pub(super) struct Table<R> {
    pub(super) file: String,
    pub(super) header: StringRecord,
    pub(super) row: StringRecord,
    /// The line of `row`.
    pub(super) line: u64,
    reader: csv::Reader<R>,
}

impl<R: Read> Table<R> {
    pub(super) fn open(file: &str, input: R) -> Result<Self, TraceError> {
        let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).flexible(true).from_reader(input);
        let file = file.to_owned();
        match reader.headers().cloned() {
            Ok(header) => Ok(Self { file, header, row: StringRecord::new(), line: 1, reader }),
            Err(source) => Err(TraceError::Csv { file, source }),
        }
    }

    /// The first column with one of these names, in any case.
    pub(super) fn position(&self, names: &[&str]) -> Option<usize> {
        self.header.iter().position(|column| names.iter().any(|name| column.eq_ignore_ascii_case(name)))
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.position(&[name]).is_some()
    }

    /// Reads the next row into `row`; `false` at the end.
    pub(super) fn next(&mut self) -> Result<bool, TraceError> {
        let more = self.reader.read_record(&mut self.row);
        let more = more.map_err(|source| TraceError::Csv { file: self.file.clone(), source })?;
        self.line = self.row.position().map_or(self.line, csv::Position::line);
        if more && self.row.len() != self.header.len() {
            let (found, header) = (self.row.len(), self.header.len());
            return Err(TraceError::Fields { file: self.file.clone(), line: self.line, found, header });
        }
        Ok(more)
    }

    /// The text in a column of the row.
    pub(super) fn text(&self, column: usize) -> &str {
        self.row.get(column).unwrap_or("")
    }

    /// The whole number in a column, as it is and as slots.
    pub(super) fn slots(&self, column: usize, unit: Unit) -> Result<(u64, u32), TraceError> {
        let text = self.text(column);
        // Some sources write whole numbers as `12.0`.
        let whole = text.strip_suffix(".0").unwrap_or(text);
        let count: u64 =
            whole.parse().map_err(|_| self.wrong(column, "a whole number that is not negative"))?;
        let slots = unit.slots(count);
        if slots > u64::from(SLOTS_MAX) {
            return Err(TraceError::too_many_slots(&self.file, self.line));
        }
        Ok((count, slots as u32))
    }

    /// An error about the value in a column.
    pub(super) fn wrong(&self, column: usize, must: &'static str) -> TraceError {
        TraceError::Value {
            file: self.file.clone(),
            line: self.line,
            column: self.header.get(column).unwrap_or("").into(),
            value: self.text(column).chars().take(40).collect(),
            must,
        }
    }

    pub(super) fn missing(&self, missing: &'static str) -> TraceError {
        TraceError::Columns { file: self.file.clone(), missing, found: self.columns() }
    }

    pub(super) fn unknown_header(&self) -> TraceError {
        TraceError::Header { file: self.file.clone(), found: self.columns() }
    }

    fn columns(&self) -> String {
        let mut found = self.header.iter().take(LISTED_MAX).collect::<Vec<_>>().join(", ");
        if self.header.len() > LISTED_MAX {
            found += &format!(" and {} more", self.header.len() - LISTED_MAX);
        }
        if found.is_empty() { "nothing".into() } else { found }
    }
}
