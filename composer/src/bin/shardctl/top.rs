//! `shardctl top`: live tables of shards and links, read from the shards' statistics pages. The shards notice nothing of
//! it.

use crate::local::{Answer, LinkRow, Question, ShardRow, Target};
use crate::{Failure, Outcome};
use clap::Args;
use ratatui::crossterm::event::{self, Event, KeyCode};
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Modifier, Style};
use ratatui::widgets::{Cell, Row, Table};
use shard_runtime::id::LinkId;
use shard_runtime::stats::{Counter, Histogram, LinkCounts, StatsReader, Timing};
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

const COLUMNS: [&str; 15] = [
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
    "held",
    "paused on",
];
const LINK_COLUMNS: [&str; 6] = ["from", "to", "messages/s", "MB/s", "ring full", "waiting"];

type ShardCells = [String; COLUMNS.len()];
type LinkCells = [String; LINK_COLUMNS.len()];

/// What is known from earlier looks.
#[derive(Default)]
struct Known {
    pages: HashMap<u32, Page>,
    links: HashMap<LinkRow, (Instant, LinkCounts)>,
}

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
            [Counter::MessagesIn, Counter::MessagesOut, Counter::BytesIn, Counter::Parks, Counter::HeldNs];
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
        let mut known = Known::default();
        self.look(&mut known)?;
        if self.once {
            std::thread::sleep(interval);
            let (shards, links) = self.look(&mut known)?;
            print_text(&COLUMNS, &shards);
            println!();
            print_text(&LINK_COLUMNS, &links);
            return Ok(());
        }
        let mut terminal = ratatui::try_init().map_err(Failure::run)?;
        let outcome = self.watch(&mut terminal, &mut known, interval);
        ratatui::restore();
        outcome
    }

    fn watch(
        &self,
        terminal: &mut ratatui::DefaultTerminal,
        known: &mut Known,
        interval: Duration,
    ) -> Outcome {
        loop {
            let (shards, links) = self.look(known)?;
            let draw = |frame: &mut ratatui::Frame<'_>| {
                let heights = [Constraint::Length(shards.len() as u16 + 2), Constraint::Fill(1)];
                let [above, below] = Layout::vertical(heights).areas(frame.area());
                let widths = [6, 16, 10, 8, 9, 10, 10, 9, 11, 10, 11, 10, 9, 6, 20];
                frame.render_widget(table(&COLUMNS, &shards, &widths), above);
                frame.render_widget(table(&LINK_COLUMNS, &links, &[20, 20, 12, 9, 10, 8]), below);
            };
            terminal.draw(draw).map_err(Failure::run)?;
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

    /// A row for each shard and each link, with rates since the last look; the busiest links first.
    fn look(&self, known: &mut Known) -> Result<(Vec<ShardCells>, Vec<LinkCells>), Failure> {
        let strange =
            || Failure::run("the answer is none to this question; use the same release on both sides");
        let (Answer::Ps { shards, .. }, _) = self.target.ask(&Question::Ps)? else { return Err(strange()) };
        let (Answer::Links(mut links), _) = self.target.ask(&Question::Links)? else { return Err(strange()) };
        known.pages.retain(|id, _| shards.iter().any(|shard| shard.id == *id));
        for shard in &shards {
            if !known.pages.contains_key(&shard.id)
                && let Ok((Answer::Page, fds)) = self.target.ask(&Question::Page { shard: shard.id })
                && let Some(page) = fds.first().and_then(|fd| StatsReader::map(fd.as_fd()).ok())
            {
                let seen = Seen::now(&page);
                known.pages.insert(shard.id, Page { page, seen });
            }
        }
        links.sort_by(|a, b| (&a.from, &a.to).cmp(&(&b.from, &b.to)));
        let rows =
            shards.iter().map(|shard| shard_row(shard, known.pages.get_mut(&shard.id), &links)).collect();
        known.links.retain(|link, _| links.contains(link));
        let mut rates: Vec<(f64, LinkCells)> =
            links.iter().filter_map(|link| link_row(link, known)).collect();
        rates.sort_by(|(a, _), (b, _)| b.total_cmp(a));
        Ok((rows, rates.into_iter().map(|(_, cells)| cells).collect()))
    }
}

fn shard_row(shard: &ShardRow, page: Option<&mut Page>, links: &[LinkRow]) -> ShardCells {
    let mut cells = ShardCells::default();
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
    // Of the time, so much its bandwidth held something back.
    cells[13] = match rate(4) / 1e9 {
        0.0 => "-".into(),
        part => format!("{:.0} %", part.min(1.0) * 100.0),
    };
    cells[14] = match page.page.counter(Counter::PausedOn) {
        0 => "-".into(),
        link => links
            .iter()
            .find(|row| row.sends && row.shard == shard.id && u64::from(row.link) + 1 == link)
            .map_or_else(|| format!("link {}", link - 1), |row| row.to.clone()),
    };
    page.seen = now;
    cells
}

/// The link's rate and its row; `None` as long as its page is not there.
fn link_row(link: &LinkRow, known: &mut Known) -> Option<(f64, LinkCells)> {
    let counts = known.pages.get(&link.shard)?.page.link(LinkId(link.link));
    let now = Instant::now();
    let (then, before) = known.links.insert(link.clone(), (now, counts)).unwrap_or((now, counts));
    let seconds = now.duration_since(then).as_secs_f64().max(1e-3);
    let of = |counts: &LinkCounts| {
        if link.sends {
            (counts.messages_out, counts.bytes_out)
        } else {
            (counts.messages_in, counts.bytes_in)
        }
    };
    let ((messages, bytes), (messages_before, bytes_before)) = (of(&counts), of(&before));
    let rate = messages.saturating_sub(messages_before) as f64 / seconds;
    let megabytes = bytes.saturating_sub(bytes_before) as f64 / seconds / 1e6;
    // Only the sender knows how often its ring was full.
    let [full, waiting] =
        [counts.full, counts.waiting].map(|count| if link.sends { count.to_string() } else { "-".into() });
    let (messages, bytes) = (format!("{rate:.0}"), format!("{megabytes:.2}"));
    Some((rate, [link.from.clone(), link.to.clone(), messages, bytes, full, waiting]))
}

fn time(ns: u64) -> String {
    match ns {
        0..10_000 => format!("{ns} ns"),
        10_000..10_000_000 => format!("{:.1} µs", ns as f64 / 1e3),
        _ => format!("{:.1} ms", ns as f64 / 1e6),
    }
}

fn table<const N: usize>(
    columns: &[&'static str; N],
    rows: &[[String; N]],
    widths: &[u16; N],
) -> Table<'static> {
    let header = Row::new(columns.map(Cell::from)).style(Style::new().add_modifier(Modifier::BOLD));
    let rows: Vec<Row<'_>> = rows.iter().map(|cells| Row::new(cells.clone().map(Cell::from))).collect();
    Table::new(rows, widths.map(Constraint::Length)).header(header)
}

fn print_text<const N: usize>(columns: &[&str; N], rows: &[[String; N]]) {
    let all: Vec<[String; N]> =
        std::iter::once(columns.map(String::from)).chain(rows.iter().cloned()).collect();
    let width = |column: usize| all.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    for row in &all {
        let line: Vec<String> =
            row.iter().enumerate().map(|(at, cell)| format!("{cell:<width$}", width = width(at))).collect();
        println!("{}", line.join("  ").trim_end());
    }
}
