//! The live table: how each match stands and what each shard does, drawn over itself in a terminal, and as a line now
//! and then where there is none.
//!
//! Invariant: it only looks. The shards' numbers come from their statistics pages, which costs them nothing.

use super::board::{Board, Stage, Standing};
use arena::messages::TICK_HZ;
use shard_composer::{Composer, ShardInfo};
use shard_runtime::id::ShardId;
use shard_runtime::stats::{Counter, StatsReader, Timing};
use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write as _};
use std::thread;
use std::time::{Duration, Instant};

const TERMINAL_PERIOD: Duration = Duration::from_millis(500);
const LINE_PERIOD: Duration = Duration::from_secs(2);
/// How often it looks whether all is over.
const LOOK: Duration = Duration::from_millis(50);
/// The most matches that the table lists, so that it fits a terminal.
const ROWS_MAX: usize = 16;

const BOLD: &str = "\x1b[1m";
const DIM: &str = "\x1b[2m";
const PLAIN: &str = "\x1b[0m";

/// Shows the board until `over` says so.
pub(super) fn show_until(composer: &Composer, board: &Board, over: impl Fn() -> bool) {
    let terminal = io::stdout().is_terminal();
    let period = if terminal { TERMINAL_PERIOD } else { LINE_PERIOD };
    let mut view = View::default();
    let mut next = Instant::now() + period;
    while !over() {
        thread::sleep(LOOK);
        if Instant::now() >= next {
            next += period;
            view.show(composer, board, terminal);
        }
    }
    view.show(composer, board, terminal);
}

/// What was shown last: rates are differences.
#[derive(Default)]
struct View {
    lines: usize,
    events: usize,
    at: Option<Instant>,
    shards: HashMap<ShardId, [u64; 3]>,
    inputs: Vec<u64>,
}

impl View {
    fn show(&mut self, composer: &Composer, board: &Board, terminal: bool) {
        let since = self.at.replace(Instant::now()).unwrap_or(board.begin);
        let seconds = since.elapsed().as_secs_f64().max(1e-3);
        let mut text = String::new();
        if terminal && self.lines > 0 {
            // Back to the table's first line, and everything below it away.
            let _ = write!(text, "\x1b[{}A\x1b[J", self.lines);
        }
        for (at, event) in board.events_since(self.events) {
            self.events += 1;
            let _ = writeln!(text, "{:6.1} s  {event}", at.as_secs_f64());
        }
        let body =
            if terminal { self.table(composer, board, seconds) } else { self.line(composer, board, seconds) };
        self.lines = body.lines().count();
        // Without wrapping, a line is a line on a narrow terminal too.
        let _ = if terminal { write!(text, "\x1b[?7l{body}\x1b[?7h") } else { write!(text, "{body}") };
        // Nobody reads any more, perhaps; the matches go on all the same.
        let mut out = io::stdout().lock();
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }

    fn table(&mut self, composer: &Composer, board: &Board, seconds: f64) -> String {
        let standings: Vec<Standing> = board.slots.iter().map(|slot| slot.standing()).collect();
        let inputs = self.input_rates(board, seconds);
        let mut text = format!(
            "\n{BOLD}arena{PLAIN}  {:5.1} s  {}\n\n",
            board.begin.elapsed().as_secs_f64(),
            count(&standings)
        );
        let _ = writeln!(
            text,
            "{DIM}match  state    {:14}  {:>11}  {:16} inputs/s  composed  people{PLAIN}",
            "", "time", "leader"
        );
        for (n, standing) in standings.iter().enumerate().take(ROWS_MAX) {
            text += &match_row(n + 1, standing, inputs[n]);
        }
        if standings.len() > ROWS_MAX {
            let _ = writeln!(text, "{DIM}       and {} more{PLAIN}", standings.len() - ROWS_MAX);
        }
        let _ = writeln!(
            text,
            "\n{DIM}shard           sessions       in/s      out/s  ticks/s   tick late p99    transit p50        p99{PLAIN}"
        );
        for shard in composer.shards() {
            if let Some(stats) = composer.stats(shard.id) {
                text += &self.shard_row(&shard, &stats, seconds);
            }
        }
        let _ = writeln!(text, "\n{DIM}the moment in a picture: {}{PLAIN}", board.live_picture.display());
        text
    }

    fn line(&mut self, composer: &Composer, board: &Board, seconds: f64) -> String {
        let standings: Vec<Standing> = board.slots.iter().map(|slot| slot.standing()).collect();
        let inputs: f64 = self.input_rates(board, seconds).iter().sum();
        let mut messages = 0.0;
        for shard in composer.shards() {
            if let Some(stats) = composer.stats(shard.id) {
                messages += self.rates(&shard, &stats, seconds)[0];
            }
        }
        let time_s = board.begin.elapsed().as_secs_f64();
        format!("{time_s:6.1} s  {}, {inputs:.0} inputs/s, {messages:.0} messages/s\n", count(&standings))
    }

    fn input_rates(&mut self, board: &Board, seconds: f64) -> Vec<f64> {
        self.inputs.resize(board.slots.len(), 0);
        let rate = |(slot, last): (&super::board::Slot, &mut u64)| {
            let now = slot.inputs();
            (now - std::mem::replace(last, now)) as f64 / seconds
        };
        board.slots.iter().zip(&mut self.inputs).map(rate).collect()
    }

    /// Messages in, messages out and ticks, per second.
    fn rates(&mut self, shard: &ShardInfo, stats: &StatsReader, seconds: f64) -> [f64; 3] {
        let now =
            [Counter::MessagesIn, Counter::MessagesOut, Counter::Ticks].map(|counter| stats.counter(counter));
        let last = self.shards.insert(shard.id, now).unwrap_or_default();
        std::array::from_fn(|n| now[n].saturating_sub(last[n]) as f64 / seconds)
    }

    fn shard_row(&mut self, shard: &ShardInfo, stats: &StatsReader, seconds: f64) -> String {
        let [messages_in, messages_out, ticks] = self.rates(shard, stats, seconds);
        let (transit, late) = (stats.histogram(Timing::Transit), stats.histogram(Timing::TickLate));
        format!(
            "{:11} {:>3} {:>4}/{:<4} {messages_in:>9.0}  {messages_out:>9.0}  {:>7}  {:>14}  {:>13}  {:>9}\n",
            shard.component,
            shard.id.to_string(),
            shard.sessions,
            shard.capacity,
            if ticks > 0.0 { format!("{ticks:.0}") } else { "–".into() },
            span(late.quantile_ns(0.99)),
            span(transit.quantile_ns(0.5)),
            span(transit.quantile_ns(0.99)),
        )
    }
}

fn match_row(number: usize, standing: &Standing, inputs: f64) -> String {
    let Standing { stage, tick, ticks, leader, people, bots, composed } = standing;
    let leader = leader.as_ref().map_or(String::new(), |(name, score)| format!("{name} {score}"));
    let time = format!("{:.1} / {} s", f64::from(*tick) / f64::from(TICK_HZ), ticks / TICK_HZ);
    format!(
        "{number:>5}  {:8} {}  {time:>11}  {leader:16} {inputs:>8.0}  {:>8}  {}{DIM}, {bots} bots{PLAIN}\n",
        stage.name(),
        bar(*tick, *ticks),
        span(composed.map(|c| c.as_nanos() as u64)),
        people.join(" "),
    )
}

fn bar(done: u32, all: u32) -> String {
    const WIDTH: usize = 14;
    let full = (WIDTH * done as usize / all.max(1) as usize).min(WIDTH);
    format!("{}{DIM}{}{PLAIN}", "━".repeat(full), "─".repeat(WIDTH - full))
}

fn count(standings: &[Standing]) -> String {
    let stages = [Stage::Waiting, Stage::Lobby, Stage::Playing, Stage::Drawing, Stage::Done, Stage::Failed];
    let number = |stage: Stage| standings.iter().filter(|s| s.stage == stage).count();
    let named = |stage: &Stage| (number(*stage) > 0).then(|| format!("{} {}", number(*stage), stage.name()));
    format!("{} matches: {}", standings.len(), stages.iter().filter_map(named).collect::<Vec<_>>().join(", "))
}

/// A duration as people read it, or a dash where there is none.
pub(super) fn span(ns: Option<u64>) -> String {
    match ns {
        None => "–".into(),
        Some(ns) if ns < 1_000 => format!("{ns} ns"),
        Some(ns) if ns < 10_000 => format!("{:.1} µs", ns as f64 / 1e3),
        Some(ns) if ns < 1_000_000 => format!("{} µs", ns / 1_000),
        Some(ns) if ns < 1_000_000_000 => format!("{:.1} ms", ns as f64 / 1e6),
        Some(ns) => format!("{:.1} s", ns as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_has_the_unit_that_suits_it() {
        let spans =
            [None, Some(7), Some(1_234), Some(83_400), Some(1_250_000), Some(2_000_000_000)].map(span);
        assert_eq!(spans, ["–", "7 ns", "1.2 µs", "83 µs", "1.2 ms", "2.0 s"]);
    }
}
