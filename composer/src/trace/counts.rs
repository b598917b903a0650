//! Counts per minute, one function a row: the Azure Functions trace of 2019 ("Serverless in the Wild", ATC 2020).
//!
//! The bins are the columns whose names are whole numbers that grow by 1; the others describe the function.

use super::table::Table;
use super::{BINS_MAX, CELLS_MAX, KINDS_MAX, Kind, Trace, TraceError, Unit};
use std::io::Read;

pub(super) fn read<R: Read>(table: &mut Table<R>, unit: Unit) -> Result<Trace, TraceError> {
    let name = table.position(&["HashFunction"]).expect("the format was found by this column");
    let minute = |column: &str| column.parse::<u64>().ok();
    let first = table.header.iter().position(|column| minute(column).is_some());
    let first = first.ok_or_else(|| table.missing("of counts, named by its minute (`1`, `2`, …)"))?;
    let minutes: Vec<Option<u64>> = table.header.iter().skip(first).map(minute).collect();
    if !minutes.windows(2).all(|pair| pair[0].zip(pair[1]).is_some_and(|(a, b)| a.checked_add(1) == Some(b)))
    {
        return Err(table.missing("for every minute: those after the first must follow each other"));
    }
    if minutes.len() > BINS_MAX {
        return Err(TraceError::too_many_bins(&table.file, 1));
    }
    let (mut kinds, mut arrivals) = (Vec::new(), 0_u64);
    while table.next()? {
        if kinds.len() == KINDS_MAX {
            return Err(TraceError::too_many_kinds(&table.file, table.line));
        }
        if (kinds.len() + 1) * minutes.len() > CELLS_MAX {
            return Err(TraceError::too_many_cells(&table.file, table.line));
        }
        let mut demand = Vec::with_capacity(minutes.len());
        for column in first..table.header.len() {
            let (count, slots) = table.slots(column, unit)?;
            arrivals = arrivals.saturating_add(count);
            demand.push(slots);
        }
        kinds.push(Kind { name: table.text(name).to_owned(), demand });
    }
    Ok(Trace { bin_s: 60.0, kinds, arrivals, skipped_bins: 0 })
}
