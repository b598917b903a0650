//! `shardctl top`: a live table, read from the shards' statistics pages. The shards notice nothing of it.

use crate::local::{Answer, Question, ShardRow, Target};
use crate::{Failure, Outcome};
use clap::Args;
use ratatui::crossterm::event::{self, Event, KeyCode};
use ratatui::layout::Constraint;
use ratatui::style::{Modifier, Style};
use ratatui::widgets::{Cell, Row, Table};
use shard_runtime::stats::{Counter, Histogram, StatsReader, Timing};
use std::collections::HashMap;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

#[derive(Args)]
pub(crate) struct Top {
    #[command(flatten)]
    target: Target,
    /// Print one table as text, and end.
    #[arg(long)]
    once: bool,
    /// Milliseconds between two looks.
    #[arg(long, default_value_t = 500)]
    interval_ms: u64,
}

const COLUMNS: [&str; 14] = [
    "shard",
    "component",
    "state",
    "pid",
    "sessions",
    "in/s",
    "out/s",
    "MB/s in",
    "transit p50",
    "p99",
    "handler p50",
    "p99",
    "parks/s",
    "full",
];

/// A shard's page, and what it said at the last look.
struct Page {
    page: StatsReader,
    seen: Seen,
}

struct Seen {
    at: Instant,
    counters: [u64; 5],
    transit: Histogram,
    handler: Histogram,
}

impl Seen {
    fn now(page: &StatsReader) -> Self {
        let counters =
            [Counter::MessagesIn, Counter::MessagesOut, Counter::BytesIn, Counter::Parks, Counter::RingsFull];
        Self {
            at: Instant::now(),
            counters: counters.map(|counter| page.counter(counter)),
            transit: page.histogram(Timing::Transit),
            handler: page.histogram(Timing::Handler),
        }
    }
}

impl Top {
    pub(crate) fn run(self) -> Outcome {
        let interval = Duration::from_millis(self.interval_ms.max(50));
        let mut pages = HashMap::new();
        self.look(&mut pages)?;
        if self.once {
            std::thread::sleep(interval);
            let rows = self.look(&mut pages)?;
            print_text(&rows);
            return Ok(());
        }
        let mut terminal = ratatui::try_init().map_err(Failure::run)?;
        let outcome = self.watch(&mut terminal, &mut pages, interval);
        ratatui::restore();
        outcome
    }

    fn watch(
        &self,
        terminal: &mut ratatui::DefaultTerminal,
        pages: &mut HashMap<u32, Page>,
        interval: Duration,
    ) -> Outcome {
        loop {
            let rows = self.look(pages)?;
            terminal.draw(|frame| frame.render_widget(table(&rows), frame.area())).map_err(Failure::run)?;
            let until = Instant::now() + interval;
            while event::poll(until.saturating_duration_since(Instant::now())).map_err(Failure::run)? {
                if let Event::Key(key) = event::read().map_err(Failure::run)?
                    && matches!(key.code, KeyCode::Char('q' | 'c') | KeyCode::Esc)
                {
                    return Ok(());
                }
            }
        }
    }

    /// A row for each shard, with rates since the last look.
    fn look(&self, pages: &mut HashMap<u32, Page>) -> Result<Vec<[String; 14]>, Failure> {
        let (Answer::Ps { shards, .. }, _) = self.target.ask(&Question::Ps)? else {
            return Err(Failure::run(
                "the answer is none to this question; use the same release on both sides",
            ));
        };
        pages.retain(|id, _| shards.iter().any(|shard| shard.id == *id));
        for shard in &shards {
            if !pages.contains_key(&shard.id)
                && let Ok((Answer::Page, fds)) = self.target.ask(&Question::Page { shard: shard.id })
                && let Some(page) = fds.first().and_then(|fd| StatsReader::map(fd.as_fd()).ok())
            {
                let seen = Seen::now(&page);
                pages.insert(shard.id, Page { page, seen });
            }
        }
        Ok(shards.iter().map(|shard| row(shard, pages.get_mut(&shard.id))).collect())
    }
}

fn row(shard: &ShardRow, page: Option<&mut Page>) -> [String; 14] {
    let mut cells = [const { String::new() }; 14];
    cells[0] = shard.id.to_string();
    cells[1] = shard.component.clone();
    cells[2] = shard.state.clone();
    cells[3] = shard.pid.to_string();
    cells[4] = format!("{}/{}", shard.sessions, shard.capacity);
    let Some(page) = page else { return cells };
    let now = Seen::now(&page.page);
    let seconds = now.at.duration_since(page.seen.at).as_secs_f64().max(1e-3);
    let rate = |at: usize| now.counters[at].saturating_sub(page.seen.counters[at]) as f64 / seconds;
    cells[5] = format!("{:.0}", rate(0));
    cells[6] = format!("{:.0}", rate(1));
    cells[7] = format!("{:.2}", rate(2) / 1e6);
    let (transit, handler) = (now.transit.since(&page.seen.transit), now.handler.since(&page.seen.handler));
    for (at, histogram, quantile) in
        [(8, &transit, 0.5), (9, &transit, 0.99), (10, &handler, 0.5), (11, &handler, 0.99)]
    {
        cells[at] = histogram.quantile_ns(quantile).map_or("-".into(), time);
    }
    cells[12] = format!("{:.0}", rate(3));
    cells[13] = now.counters[4].to_string();
    page.seen = now;
    cells
}

fn time(ns: u64) -> String {
    match ns {
        0..10_000 => format!("{ns} ns"),
        10_000..10_000_000 => format!("{:.1} µs", ns as f64 / 1e3),
        _ => format!("{:.1} ms", ns as f64 / 1e6),
    }
}

fn table(rows: &[[String; 14]]) -> Table<'static> {
    let widths = [6, 16, 10, 8, 9, 10, 10, 9, 11, 10, 11, 10, 9, 7].map(Constraint::Length);
    let header = Row::new(COLUMNS.map(Cell::from)).style(Style::new().add_modifier(Modifier::BOLD));
    Table::new(rows.iter().map(|cells| Row::new(cells.clone().map(Cell::from))).collect::<Vec<_>>(), widths)
        .header(header)
}

fn print_text(rows: &[[String; 14]]) {
    let all: Vec<[String; 14]> =
        std::iter::once(COLUMNS.map(String::from)).chain(rows.iter().cloned()).collect();
    let width = |column: usize| all.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    for row in &all {
        let line: Vec<String> =
            row.iter().enumerate().map(|(at, cell)| format!("{cell:<width$}", width = width(at))).collect();
        println!("{}", line.join("  ").trim_end());
    }
}
