//! Rows for people, as a table, and for programs, as one JSON object a line.

use crate::case::{Case, Pattern, Test};
use crate::run::{Missing, Row};
use serde::Serialize;
use std::fmt::Write;

/// A row as a program reads it. What does not apply is null.
#[derive(Debug, Serialize)]
struct JsonRow<'a> {
    peer: &'a str,
    pattern: Pattern,
    /// Which test of `fanin` or `wake`.
    metric: Option<&'a str>,
    /// Payload, in bytes.
    size: usize,
    /// Links into the receiver, of which all but one are idle at any moment.
    links: usize,
    p50_ns: Option<f64>,
    p99_ns: Option<f64>,
    p999_ns: Option<f64>,
    msgs_per_s: Option<f64>,
    ratio_to_limit: f64,
    /// Beyond the limit, in nanoseconds per message, poll or round trip.
    extra_ns: f64,
    /// What `ratio_to_limit` is a ratio to: peer, payload and links.
    limit: &'a str,
    limit_size: usize,
    limit_links: usize,
    limit_ns: f64,
}

/// The value at a quantile; 0 for none.
pub fn quantile(values: impl Iterator<Item = f64>, quantile: f64) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let at = (values.len().saturating_sub(1) as f64 * quantile).round() as usize;
    values.get(at).copied().unwrap_or(0.0)
}

/// One line of JSON.
pub fn json(row: &Row) -> String {
    let (limit, limit_case) = row.reference;
    let test = row.case.test;
    let json = JsonRow {
        peer: row.peer,
        pattern: test.pattern(),
        metric: test.metric(),
        size: row.case.bytes,
        links: row.case.links,
        p50_ns: row
            .percentiles_ns
            .map(|p| p.p50)
            .or((test == Test::IdlePoll).then_some(round(row.each_ns, 100.0))),
        p99_ns: row.percentiles_ns.map(|p| p.p99),
        p999_ns: row.percentiles_ns.map(|p| p.p999),
        msgs_per_s: (test != Test::IdlePoll).then_some(round(1e9 / row.each_ns, 1.0)),
        ratio_to_limit: round(row.ratio, 1_000.0),
        extra_ns: round(row.extra_ns, 100.0),
        limit,
        limit_size: limit_case.bytes,
        limit_links: limit_case.links,
        limit_ns: round(row.reference_ns, 100.0),
    };
    serde_json::to_string(&json).expect("a struct of numbers and text is JSON")
}

/// Rounds to `1 / parts`.
fn round(value: f64, parts: f64) -> f64 {
    (value * parts).round() / parts
}

/// A table of one group's rows.
pub fn table(rows: &[Row]) -> String {
    let mut text = String::new();
    let Some(case) = rows.iter().map(|row| row.case).max_by_key(|case| case.links) else {
        return text;
    };
    let heads = match case.test {
        Test::RoundTrip | Test::FanInRoundTrip | Test::WakeUp => ["p50", "p99", "p99.9"],
        Test::IdlePoll => ["a poll", "", ""],
        Test::Stream | Test::HotLink | Test::AskParked => ["a message", "rate", ""],
    };
    let [first, second, third] = heads;
    let title = title(&case);
    let _ =
        writeln!(text, "\n{title:<28}{first:>11}{second:>13}{third:>11}{:>9}{:>12}  limit", "ratio", "limit");
    for row in rows {
        let _ = writeln!(text, "{}", line(row, &case));
    }
    text
}

fn title(case: &Case) -> String {
    match case.test {
        Test::RoundTrip => format!("rtt, {} B", case.bytes),
        Test::Stream => format!("stream, {} B", case.bytes),
        Test::IdlePoll => format!("fanin, idle, {} links", case.links),
        Test::FanInRoundTrip => format!("fanin, rtt, {} links", case.links),
        Test::HotLink => format!("fanin, 1 hot of {} links", case.links),
        Test::WakeUp => "wake, rtt".to_owned(),
        Test::AskParked => "wake, \"are you parked?\"".to_owned(),
    }
}

fn line(row: &Row, of: &Case) -> String {
    let name = match row.case.links {
        1 if of.links > 1 => format!("{}, 1 link", row.peer),
        _ => row.peer.to_owned(),
    };
    let figures = match row.percentiles_ns {
        Some(p) => [time(p.p50), time(p.p99), time(p.p999)],
        None if row.case.test == Test::IdlePoll => [time(row.each_ns), String::new(), String::new()],
        None => [time(row.each_ns), rate(row.each_ns), String::new()],
    };
    let [first, second, third] = figures;
    let limit = time(row.reference_ns);
    let against = against(row);
    format!("  {name:<26}{first:>11}{second:>13}{third:>11}{:>9.2}{limit:>12}  {against}", row.ratio)
}

/// What a row is held against, where that is not plain from the table.
fn against(row: &Row) -> String {
    let (peer, case) = row.reference;
    if case.bytes != row.case.bytes {
        format!("{peer}, {} B", case.bytes)
    } else if case.links != row.case.links {
        format!("{peer}, 1 link")
    } else {
        peer.to_owned()
    }
}

fn time(ns: f64) -> String {
    match ns {
        ..100.0 => format!("{ns:.1} ns"),
        ..10_000.0 => format!("{ns:.0} ns"),
        _ => format!("{:.1} µs", ns / 1e3),
    }
}

fn rate(each_ns: f64) -> String {
    format!("{:.3} M/s", 1e3 / each_ns)
}

/// A line for something that could not be measured.
pub fn missing(missing: &Missing) -> String {
    format!("not measured: {}, {}: {}", missing.peer, missing.case, missing.why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::Percentiles;

    #[test]
    fn a_json_row_has_the_promised_fields_and_null_where_they_do_not_apply() {
        let case = Case::new(Test::Stream, 64);
        let row = Row {
            peer: "ring",
            case,
            percentiles_ns: None,
            each_ns: 20.0,
            ratio: 1.25,
            extra_ns: 4.0,
            reference: ("limit", case),
            reference_ns: 16.0,
        };
        let stream: serde_json::Value = serde_json::from_str(&json(&row)).expect("JSON");
        assert_eq!(stream["pattern"], "stream");
        assert_eq!(stream["msgs_per_s"], 50_000_000.0);
        assert!(stream["p50_ns"].is_null() && stream["p99_ns"].is_null() && stream["p999_ns"].is_null());
        let percentiles_ns = Some(Percentiles { p50: 1.0, p99: 2.0, p999: 3.0 });
        let row = Row { case: Case::new(Test::RoundTrip, 64), percentiles_ns, ..row };
        let round_trip: serde_json::Value = serde_json::from_str(&json(&row)).expect("JSON");
        assert_eq!((&round_trip["peer"], &round_trip["size"]), (&"ring".into(), &64.into()));
        assert_eq!((&round_trip["p999_ns"], &round_trip["ratio_to_limit"]), (&3.0.into(), &1.25.into()));
    }
}
