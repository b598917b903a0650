//! Single invocations, one a row, with a begin or an end and a duration: the Azure Functions trace of 2021.
//!
//! Reading as demand: an invocation takes a slot from its begin until before its end, one of no duration for its begin
//! alone; a bin's demand is the most slots taken at a time during the bin. Rows may come in any order; time begins with
//! the earliest begin. A kind is a value of `func`, or of `app`; without either column there is one.

use super::table::Table;
use super::{BINS_MAX, CELLS_MAX, KINDS_MAX, Kind, SLOTS_MAX, Trace, TraceError};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The most arrivals of a trace.
pub const ARRIVALS_MAX: usize = 10_000_000;
/// The latest begin and the longest duration, in seconds: a hundred years.
const SECONDS_MAX: f64 = 3.2e9;

/// An invocation, or a session.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Arrival {
    /// When it begins, in seconds since the first one.
    pub start_s: f64,
    /// How long it lasts, in seconds.
    pub duration_s: f64,
}

/// Reads a trace of arrivals, sorted by start; the first is at 0. Needs a column `duration` and one of `start`,
/// `start_timestamp`, `end`, `end_timestamp`; other columns are ignored.
pub fn read_arrivals(path: &Path) -> Result<Vec<Arrival>, TraceError> {
    let file = path.display().to_string();
    let input = File::open(path).map_err(|source| TraceError::Open { file: file.clone(), source })?;
    let mut arrivals = Vec::new();
    rows(&mut Table::open(&file, input)?, None, |arrival, _| arrivals.push(arrival))?;
    arrivals.sort_by(|a, b| a.start_s.total_cmp(&b.start_s));
    let first_s = arrivals.first().ok_or(TraceError::Empty { file })?.start_s;
    arrivals.iter_mut().for_each(|arrival| arrival.start_s -= first_s);
    Ok(arrivals)
}

/// Calls `each` for every row, with the text of the column `kind`.
fn rows<R: Read>(
    table: &mut Table<R>,
    kind: Option<usize>,
    mut each: impl FnMut(Arrival, &str),
) -> Result<(), TraceError> {
    let start = table.position(&["start", "start_timestamp"]);
    let end = table.position(&["end", "end_timestamp"]);
    let duration = table.position(&["duration"]);
    let (Some(duration), Some(time)) = (duration, start.or(end)) else {
        return Err(table.missing("`duration` and one of `start`, `start_timestamp`, `end`, `end_timestamp`"));
    };
    let mut read = 0;
    while table.next()? {
        read += 1;
        if read > ARRIVALS_MAX {
            return Err(TraceError::too_many_arrivals(&table.file, table.line));
        }
        let number = |column: usize, least: f64, must| {
            let parsed: Option<f64> = table.text(column).parse().ok();
            parsed.filter(|v| (least..=SECONDS_MAX).contains(v)).ok_or_else(|| table.wrong(column, must))
        };
        let duration_s = number(duration, 0.0, "a number of seconds, not negative")?;
        let time_s = number(time, -SECONDS_MAX, "a number of seconds")?;
        let start_s = if start.is_some() { time_s } else { time_s - duration_s };
        each(Arrival { start_s, duration_s }, kind.map_or("", |column| table.text(column)));
    }
    Ok(())
}

/// Reads demand per bin.
pub(super) fn bins<R: Read>(table: &mut Table<R>, bin_s: u32) -> Result<Trace, TraceError> {
    let column = table.position(&["func"]).or(table.position(&["app"]));
    // Kinds by name, so that their order does not depend on the rows' order.
    let mut by_kind: BTreeMap<String, Vec<Arrival>> = BTreeMap::new();
    rows(table, column, |arrival, name| match by_kind.get_mut(name) {
        Some(arrivals) => arrivals.push(arrival),
        None => drop(by_kind.insert(name.to_owned(), vec![arrival])),
    })?;
    if by_kind.len() > KINDS_MAX {
        return Err(TraceError::too_many_kinds(&table.file, table.line));
    }
    let all = || by_kind.values().flatten();
    let first_s = all().map(|arrival| arrival.start_s).fold(f64::INFINITY, f64::min);
    let last_s = all().map(|arrival| arrival.start_s + arrival.duration_s).fold(first_s, f64::max);
    if by_kind.is_empty() {
        return Err(TraceError::Empty { file: table.file.clone() });
    }
    let bins = ((last_s - first_s) / f64::from(bin_s)).floor() + 1.0;
    if bins > BINS_MAX as f64 {
        return Err(TraceError::too_many_bins(&table.file, table.line));
    }
    let bins = bins as usize;
    if bins * by_kind.len() > CELLS_MAX {
        return Err(TraceError::too_many_cells(&table.file, table.line));
    }
    let arrivals = all().count() as u64;
    let mut kinds = Vec::with_capacity(by_kind.len());
    for (name, arrivals) in by_kind {
        let demand = peaks(&arrivals, first_s, f64::from(bin_s), bins);
        if demand.iter().any(|&slots| slots > SLOTS_MAX) {
            return Err(TraceError::too_many_slots(&table.file, table.line));
        }
        kinds.push(Kind { name, demand });
    }
    Ok(Trace { bin_s: f64::from(bin_s), kinds, arrivals, skipped_bins: 0 })
}

/// The most slots taken at a time, by bin.
fn peaks(arrivals: &[Arrival], first_s: f64, bin_s: f64, bins: usize) -> Vec<u32> {
    // At one moment ends come first, but for those of invocations of no duration, so that these count.
    let mut steps: Vec<(f64, u8, i32)> = Vec::with_capacity(2 * arrivals.len());
    for arrival in arrivals {
        let (start_s, end_s) = (arrival.start_s - first_s, arrival.start_s - first_s + arrival.duration_s);
        steps.push((start_s, 1, 1));
        steps.push((end_s, if end_s > start_s { 0 } else { 2 }, -1));
    }
    steps.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let mut demand = vec![0_u32; bins];
    let (mut taken, mut bin) = (0_i32, 0_usize);
    for (at_s, _, step) in steps {
        let now = ((at_s / bin_s) as usize).min(bins - 1);
        // What was taken after the last step goes on until now: to the end of that bin, and through those between.
        if now > bin {
            demand[bin..now].iter_mut().for_each(|slots| *slots = (*slots).max(taken as u32));
            bin = now;
        }
        // Into this bin, too, unless the step is exactly at its begin.
        if at_s > bin as f64 * bin_s {
            demand[bin] = demand[bin].max(taken as u32);
        }
        taken += step;
        if step > 0 {
            demand[bin] = demand[bin].max(taken as u32);
        }
    }
    demand
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bins_demand_is_the_most_slots_taken_at_a_time() {
        let arrival = |start_s, duration_s| Arrival { start_s, duration_s };
        // Two overlap in bin 0; one lasts through bins 0 to 2 and ends where bin 3 begins; one has no duration.
        let arrivals = [arrival(0.0, 5.0), arrival(1.0, 29.0), arrival(45.0, 0.0)];
        assert_eq!(peaks(&arrivals, 0.0, 10.0, 6), [2, 1, 1, 0, 1, 0]);
        // One hands over to the next at a moment: one slot is enough.
        assert_eq!(peaks(&[arrival(0.0, 5.0), arrival(5.0, 5.0)], 0.0, 10.0, 2), [1, 0]);
        // Begun in a bin in which nothing else happens.
        assert_eq!(peaks(&[arrival(0.0, 10.0), arrival(3.0, 60.0)], 0.0, 10.0, 7), [2, 1, 1, 1, 1, 1, 1]);
    }
}
