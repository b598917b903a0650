//! Series over time: a column of time, and a column for each kind. The public series of web sites and of taxis are
//! such, and so is the plain format.
//!
//! Reading: the bin is the commonest step from one row to the next. A row that is left out is no bin; rows that follow
//! each other are taken for neighbours, and [`Trace::skipped_bins`] says how many were left out.

use super::table::Table;
use super::{BINS_MAX, CELLS_MAX, KINDS_MAX, Kind, Trace, TraceError, Unit};
use std::collections::BTreeMap;
use std::io::Read;

/// Steps are compared in milliseconds.
const MS_PER_S: f64 = 1e3;

pub(super) fn read<R: Read>(table: &mut Table<R>, time: usize, unit: Unit) -> Result<Trace, TraceError> {
    if table.header.len() < 2 {
        return Err(table.missing("of demand beside the time"));
    }
    if table.header.len() - 1 > KINDS_MAX {
        return Err(TraceError::too_many_kinds(&table.file, 1));
    }
    let columns: Vec<usize> = (0..table.header.len()).filter(|&column| column != time).collect();
    let names = columns.iter().map(|&column| table.header[column].to_owned());
    let mut kinds: Vec<Kind> = names.map(|name| Kind { name, demand: Vec::new() }).collect();
    // The steps of time, with the line where each was first seen and how often.
    let mut steps_ms: BTreeMap<u64, (u64, usize)> = BTreeMap::new();
    let (mut before_s, mut bins, mut arrivals) = (None, 0, 0_u64);
    while table.next()? {
        bins += 1;
        if bins > BINS_MAX {
            return Err(TraceError::too_many_bins(&table.file, table.line));
        }
        if bins * columns.len() > CELLS_MAX {
            return Err(TraceError::too_many_cells(&table.file, table.line));
        }
        let at_s = seconds(table.text(time))
            .ok_or_else(|| table.wrong(time, "a number of seconds, or a time like `2014-07-01 00:30:00`"))?;
        if let Some(step_s) = before_s.map(|before_s: f64| at_s - before_s) {
            let step_ms = (step_s * MS_PER_S).round();
            if step_ms < 1.0 {
                let (file, value) = (table.file.clone(), table.text(time).to_owned());
                return Err(TraceError::Order { file, line: table.line, value });
            }
            steps_ms.entry(step_ms as u64).or_insert((table.line, 0)).1 += 1;
        }
        before_s = Some(at_s);
        for (kind, &column) in kinds.iter_mut().zip(&columns) {
            let (count, slots) = table.slots(column, unit)?;
            arrivals = arrivals.saturating_add(count);
            kind.demand.push(slots);
        }
    }
    // The shortest of the commonest.
    let usual = steps_ms.iter().max_by_key(|&(&step_ms, &(_, seen))| (seen, std::cmp::Reverse(step_ms)));
    let (&bin_ms, _) = usual.ok_or_else(|| TraceError::Empty { file: table.file.clone() })?;
    let bin_s = bin_ms as f64 / MS_PER_S;
    let mut skipped_bins = 0;
    for (&step_ms, &(line, seen)) in &steps_ms {
        if step_ms % bin_ms != 0 {
            let step_s = step_ms as f64 / MS_PER_S;
            return Err(TraceError::Step { file: table.file.clone(), line, step_s, bin_s });
        }
        skipped_bins += (step_ms / bin_ms - 1) as usize * seen;
    }
    Ok(Trace { bin_s, kinds, arrivals, skipped_bins })
}

/// A number of seconds, or a date with a time of day.
fn seconds(text: &str) -> Option<f64> {
    let number: Option<f64> = text.parse().ok().filter(|s: &f64| s.abs() < 1e12);
    number.or_else(|| calendar(text))
}

/// `YYYY-MM-DD` with `HH:MM` or `HH:MM:SS` after a space or a `T`, to seconds of the epoch.
fn calendar(text: &str) -> Option<f64> {
    let (date, time) = text.split_once([' ', 'T'])?;
    let mut date = date.splitn(3, '-').map(|part| part.parse::<u32>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let mut time = time.trim_end_matches('Z').splitn(3, ':');
    let (hour, minute) = (time.next()?.parse::<u32>().ok()?, time.next()?.parse::<u32>().ok()?);
    let second: f64 = time.next().unwrap_or("0").parse().ok()?;
    let right = (1..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && hour < 24
        && minute < 60
        && (0.0..61.0).contains(&second);
    right.then(|| {
        let day_s = f64::from(days(year, month, day)) * 86_400.0;
        day_s + f64::from(hour * 3600 + minute * 60) + second
    })
}

/// Days since 1970-01-01 in the Gregorian calendar: `days_from_civil` of Howard Hinnant, "chrono-Compatible Low-Level
/// Date Algorithms".
fn days(year: u32, month: u32, day: u32) -> i32 {
    let (year, month, day) = (year as i32 - i32::from(month <= 2), month as i32, day as i32);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_a_number_of_seconds() {
        assert_eq!(seconds("1970-01-01 00:00:00"), Some(0.0));
        assert_eq!(seconds("2014-07-01T00:30:00Z"), Some(1_404_174_600.0));
        assert_eq!(seconds("2000-02-29 23:59"), Some(951_868_740.0));
        assert_eq!(seconds("12.5"), Some(12.5));
        for wrong in ["", "NaN", "inf", "2014-13-01 00:00", "2014-07-01", "yesterday", "2014-07-01 25:00"] {
            assert_eq!(seconds(wrong), None, "{wrong}");
        }
    }
}
