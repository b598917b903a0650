//! The summary at the end of a run: who won, what composing cost, and what went over the links.

use super::play::Outcome;
use super::table::span;
use arena::messages::TICK_HZ;
use shard_composer::Composer;
use shard_runtime::stats::{Counter, Histogram, Timing};
use shardkit::prelude::*;
use std::time::Duration;

/// How the matches went.
pub(super) fn print_matches(results: &[Result<Outcome>], took: Duration) {
    let done: Vec<&Outcome> = results.iter().flatten().collect();
    println!("\n{} of {} matches played in {:.1} s", done.len(), results.len(), took.as_secs_f64());
    for (n, result) in results.iter().enumerate() {
        match result {
            Ok(outcome) => print_match(outcome),
            Err(error) => println!("  match {:>3}  not played to its end: {error}", n + 1),
        }
    }
}

fn print_match(outcome: &Outcome) {
    let standings = &outcome.report.standings;
    let place = |at: usize| standings.get(at).map_or(String::new(), |s| format!("{} {}", s.name, s.score));
    let (shots, hits) =
        (standings.iter().map(|s| s.shots).sum::<u32>(), standings.iter().map(|s| s.hits).sum::<u32>());
    println!(
        "  match {:>3}  {:>4.1} s  {:16} before {:16} {:>3} shots, {:>3} hits, {:>4} inputs of people",
        outcome.number,
        f64::from(outcome.report.ticks) / f64::from(TICK_HZ),
        place(0),
        place(1),
        shots,
        hits,
        outcome.inputs,
    );
}

/// How fast it started: the shards, sessions that nobody played, and the matches.
pub(super) fn print_starting(results: &[Result<Outcome>], warm: Duration, rehearsal: &[Duration]) {
    println!("\nready       five components after {}", show(Some(&warm)));
    let quantile = |times: &[Duration], share: usize| {
        let at = (times.len() * share / 100).min(times.len().saturating_sub(1));
        show(times.get(at))
    };
    println!(
        "composed    {} sessions one after the other: p50 {}, p99 {}, max {}",
        rehearsal.len(),
        quantile(rehearsal, 50),
        quantile(rehearsal, 99),
        show(rehearsal.last()),
    );
    let done: Vec<&Outcome> = results.iter().flatten().collect();
    let mut times: Vec<Duration> = done.iter().map(|o| o.composed).collect();
    times.sort_unstable();
    let warm = done.iter().filter(|o| o.cold_shards == 0).count();
    println!(
        "            {} matches among running ones: p50 {}, max {}; {warm} warm, {} cold",
        done.len(),
        quantile(&times, 50),
        show(times.last()),
        done.len() - warm,
    );
}

fn show(time: Option<&Duration>) -> String {
    span(time.map(|time| time.as_nanos() as u64))
}

/// What went over the links, by component. The shards still run, so their pages can be read.
pub(super) fn print_components(composer: &Composer) {
    println!(
        "\ncomponent   messages in        out     ticks  missed   late p99   handler p50   transit p50        p99"
    );
    let shards = composer.shards();
    let mut all = 0;
    for component in composer.application().components.iter().filter(|c| c.program.is_some()) {
        let of_it = shards.iter().filter(|s| s.component == component.name);
        let pages: Vec<_> = of_it.filter_map(|s| composer.stats(s.id)).collect();
        let sum = |counter: Counter| pages.iter().map(|page| page.counter(counter)).sum::<u64>();
        let merged = |timing: Timing| {
            let mut merged = Histogram::default();
            pages.iter().for_each(|page| merged.merge(&page.histogram(timing)));
            merged
        };
        let (transit, late, handler) =
            (merged(Timing::Transit), merged(Timing::TickLate), merged(Timing::Handler));
        all += sum(Counter::MessagesIn);
        println!(
            "{:11} {:>11} {:>10} {:>9} {:>7} {:>10} {:>13} {:>13} {:>10}",
            component.name,
            sum(Counter::MessagesIn),
            sum(Counter::MessagesOut),
            sum(Counter::Ticks),
            sum(Counter::TicksMissed),
            span(late.quantile_ns(0.99)),
            span(handler.quantile_ns(0.5)),
            span(transit.quantile_ns(0.5)),
            span(transit.quantile_ns(0.99)),
        );
    }
    println!("{all} messages came to shards; one in 64 is timed\n");
}
