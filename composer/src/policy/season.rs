//! What a series was a day and a week ago, and what is usual at this time of the week.
//!
//! A day is cut into at most [`CELLS_PER_DAY_MAX`] cells; a series with shorter bins is averaged over each cell, and what
//! lies between the middles of two cells is interpolated. Without a whole number of bins in a day there is no season.

use super::state::BINS_MAX;
use serde::{Deserialize, Serialize};

/// The most cells of a day: a quarter of an hour each.
const CELLS_PER_DAY_MAX: u32 = 96;
/// The fewest: the cells around a bin's time a day ago are all in the past.
const CELLS_PER_DAY_MIN: u32 = 4;
const DAY_S: f64 = 86_400.0;
const DAYS: usize = 7;
/// Cells that are kept beyond a week: those around the bin that is looked at.
const SPARE: usize = 3;
/// How much of a week's level goes into what is usual.
const USUAL_RATE: f32 = 0.3;

/// How bins make up a day.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Calendar {
    cell_bins: u32,
    cells_per_day: u32,
}

impl Calendar {
    pub(super) fn new(bin_s: f64) -> Option<Self> {
        let bins = DAY_S / bin_s;
        if !(f64::from(CELLS_PER_DAY_MIN)..=1e6).contains(&bins) || bins.fract() != 0.0 {
            return None;
        }
        let bins = bins as u32;
        let least = bins.div_ceil(CELLS_PER_DAY_MAX);
        let cell_bins = (least..=bins / CELLS_PER_DAY_MIN).find(|&cell| bins.is_multiple_of(cell))?;
        Some(Self { cell_bins, cells_per_day: bins / cell_bins })
    }

    fn day(self) -> usize {
        self.cells_per_day as usize
    }

    fn week(self) -> usize {
        self.day() * DAYS
    }
}

/// The past of one series, by cell.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Season {
    calendar: Calendar,
    /// Bins that have been taken in.
    bins: u64,
    /// The sum over the cell that is not full yet.
    sum: f32,
    /// The cells of the last week and a little more: cell c is at c modulo the length.
    cells: Vec<f32>,
    /// What is usual, by cell of the week.
    usual: Vec<f32>,
}

/// Levels of the season: at the last bin, at the next, and at the one after it.
type Levels = [f32; 3];

impl Season {
    pub(super) fn new(calendar: Calendar) -> Self {
        Self { calendar, bins: 0, sum: 0.0, cells: Vec::new(), usual: Vec::new() }
    }

    pub(super) fn fits(&self) -> bool {
        let calendar = self.calendar;
        let full = self.bins / u64::from(calendar.cell_bins.max(1));
        calendar.cell_bins > 0
            && self.bins <= BINS_MAX
            && (CELLS_PER_DAY_MIN..=CELLS_PER_DAY_MAX).contains(&calendar.cells_per_day)
            && self.cells.len() as u64 == full.min((calendar.week() + SPARE) as u64)
            && self.usual.len() as u64 == full.min(calendar.week() as u64)
    }

    pub(super) fn push(&mut self, level: f32) {
        self.sum += level;
        self.bins += 1;
        let cell_bins = u64::from(self.calendar.cell_bins);
        if !self.bins.is_multiple_of(cell_bins) {
            return;
        }
        let mean = std::mem::take(&mut self.sum) / self.calendar.cell_bins as f32;
        let cell = (self.bins / cell_bins - 1) as usize;
        let (at, len) = (cell % self.calendar.week(), self.calendar.week() + SPARE);
        match self.usual.get_mut(at) {
            Some(usual) => *usual += (mean - *usual) * USUAL_RATE,
            None => self.usual.push(mean),
        }
        match self.cells.get_mut(cell % len) {
            Some(old) => *old = mean,
            None => self.cells.push(mean),
        }
    }

    /// A day before the last bin and its next two.
    pub(super) fn day_ago(&self) -> Option<Levels> {
        self.ago(self.calendar.day())
    }

    /// A week before the last bin and its next two.
    pub(super) fn week_ago(&self) -> Option<Levels> {
        self.ago(self.calendar.week())
    }

    /// What is usual at the last bin and its next two, once two weeks have been seen.
    pub(super) fn usual(&self) -> Option<Levels> {
        let week = self.calendar.week();
        let cells = self.bins / u64::from(self.calendar.cell_bins);
        (cells > 2 * week as u64)
            .then(|| self.around(0, |cell| self.usual[cell.rem_euclid(week as i64) as usize]))
    }

    fn ago(&self, cells: usize) -> Option<Levels> {
        let full = (self.bins / u64::from(self.calendar.cell_bins)) as i64;
        // The cell before the last bin's own, so long ago, must have been there.
        let known = full >= cells as i64 + 2;
        known.then(|| self.around(cells as i64, |cell| self.cells[cell as usize % self.cells.len()]))
    }

    fn around(&self, cells_ago: i64, level: impl Fn(i64) -> f32) -> Levels {
        let cell_bins = f64::from(self.calendar.cell_bins);
        [-1.0, 0.0, 1.0].map(|ahead| {
            // Bin b lies at (b + 1/2) / cell - 1/2, counted in middles of cells.
            let at = (self.bins as f64 + ahead + 0.5) / cell_bins - 0.5;
            let (cell, part) = (at.floor() as i64 - cells_ago, at.fract() as f32);
            let here = level(cell);
            if part == 0.0 { here } else { here + (level(cell + 1) - here) * part }
        })
    }
}
