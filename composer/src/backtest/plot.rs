//! Demand, pool size and cold starts over time, as a picture.

use super::Bin;
use plotters::prelude::*;
use std::path::Path;

/// The points of a line at most: one for each pixel of the plot's width.
const POINTS_MAX: usize = 1_100;
const SIZE: (u32, u32) = (1_280, 720);
const DEMAND: RGBColor = RGBColor(0x33, 0x41, 0x55);
const READY: RGBColor = RGBColor(0x0d, 0x94, 0x88);
const COLD: RGBColor = RGBColor(0xdc, 0x26, 0x26);
const GRID: RGBColor = RGBColor(0xe5, 0xe7, 0xeb);
const TEXT: RGBColor = RGBColor(0x37, 0x41, 0x51);

/// A picture can't be drawn.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlotError {
    /// The file's name does not end in `.svg`.
    #[error("{0}: plots are drawn as SVG; give a file name that ends in `.svg`")]
    Format(String),
    /// Nothing was recorded.
    #[error("{0}: there are no bins to draw")]
    Empty(String),
    /// The file can't be written.
    #[error("{file}: {what}; is its folder there, and may you write to it?")]
    Write {
        /// The file.
        file: String,
        /// What went wrong.
        what: String,
    },
}

/// The bins of a backtest, to be drawn.
#[derive(Clone, Debug, Default)]
pub struct History {
    first: usize,
    bins: Vec<Bin>,
}

/// Some bins as one point.
struct Point {
    /// In days, hours or minutes.
    at: f64,
    demand: u64,
    warm: u64,
    cold: u64,
}

impl History {
    /// An empty one, whose first bin has this number.
    pub fn new(first: usize) -> Self {
        Self { first, bins: Vec::new() }
    }

    /// Adds the next bin.
    pub fn push(&mut self, bin: Bin) {
        self.bins.push(bin);
    }

    /// Checks the name before anything is run for it.
    pub fn check(file: &Path) -> Result<(), PlotError> {
        let svg = file.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("svg"));
        if svg { Ok(()) } else { Err(PlotError::Format(file.display().to_string())) }
    }

    /// Draws an SVG file: above demand and warm slots, below cold starts, each bin's largest where several share a
    /// pixel.
    pub fn draw(&self, file: &Path, title: &str, bin_s: f64) -> Result<(), PlotError> {
        Self::check(file)?;
        if self.bins.is_empty() {
            return Err(PlotError::Empty(file.display().to_string()));
        }
        let mut picture = String::new();
        let wrong = |what: String| PlotError::Write { file: file.display().to_string(), what };
        self.paint(&mut picture, title, bin_s).map_err(|error| wrong(error.to_string()))?;
        std::fs::write(file, picture).map_err(|error| wrong(error.to_string()))
    }

    fn paint(&self, picture: &mut String, title: &str, bin_s: f64) -> Result<(), Box<dyn std::error::Error>> {
        let (points, unit) = self.points(bin_s);
        let (begin, end) = (points[0].at, points[points.len() - 1].at);
        let end = if end > begin { end } else { begin + 1.0 };
        let most = points.iter().map(|point| point.demand.max(point.warm)).max().unwrap_or(0).max(1);
        let most_cold = points.iter().map(|point| point.cold).max().unwrap_or(0).max(1);

        let root = SVGBackend::with_string(picture, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        let font = |size: u32| ("sans-serif", size).into_font().color(&TEXT);
        let root = root.titled(title, font(22))?;
        let (above, below) = root.split_vertically(430);

        let mut chart = ChartBuilder::on(&above)
            .margin_left(14)
            .margin_right(24)
            .set_label_area_size(LabelAreaPosition::Left, 76)
            .set_label_area_size(LabelAreaPosition::Bottom, 28)
            .build_cartesian_2d(begin..end, 0.0..most as f64 * 1.2)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .bold_line_style(GRID)
            .light_line_style(TRANSPARENT)
            .axis_style(GRID)
            .label_style(font(14))
            .y_desc("slots")
            .y_label_formatter(&|value| format!("{value:.0}"))
            .draw()?;
        let warm = points.iter().map(|point| (point.at, point.warm as f64));
        chart
            .draw_series(AreaSeries::new(warm, 0.0, READY.mix(0.25)).border_style(READY))?
            .label("warm before they were wanted")
            .legend(|(x, y)| Rectangle::new([(x, y - 5), (x + 18, y + 5)], READY.mix(0.45).filled()));
        chart
            .draw_series(LineSeries::new(points.iter().map(|point| (point.at, point.demand as f64)), DEMAND))?
            .label("demand")
            .legend(|(x, y)| PathElement::new([(x, y), (x + 18, y)], DEMAND.stroke_width(2)));
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE.mix(0.85))
            .border_style(GRID)
            .label_font(font(14))
            .draw()?;

        let mut chart = ChartBuilder::on(&below)
            .margin_left(14)
            .margin_right(24)
            .margin_bottom(8)
            .set_label_area_size(LabelAreaPosition::Left, 76)
            .set_label_area_size(LabelAreaPosition::Bottom, 46)
            .build_cartesian_2d(begin..end, 0.0..most_cold as f64 * 1.08)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .bold_line_style(GRID)
            .light_line_style(TRANSPARENT)
            .axis_style(GRID)
            .label_style(font(14))
            .x_desc(format!("{unit} since the trace began"))
            .y_desc("cold starts a bin")
            .y_labels(5)
            .y_label_formatter(&|value| format!("{value:.0}"))
            .draw()?;
        chart.draw_series(
            points
                .iter()
                .filter(|point| point.cold > 0)
                .map(|point| PathElement::new([(point.at, 0.0), (point.at, point.cold as f64)], COLD)),
        )?;
        root.present()?;
        Ok(())
    }

    fn points(&self, bin_s: f64) -> (Vec<Point>, &'static str) {
        let span_s = self.bins.len() as f64 * bin_s;
        let (unit_s, unit) = match span_s {
            span_s if span_s > 3.0 * 86_400.0 => (86_400.0, "days"),
            span_s if span_s > 3.0 * 3_600.0 => (3_600.0, "hours"),
            _ => (60.0, "minutes"),
        };
        let together = self.bins.len().div_ceil(POINTS_MAX);
        let points = self.bins.chunks(together).enumerate().map(|(at, bins)| Point {
            at: (self.first + at * together) as f64 * bin_s / unit_s,
            demand: bins.iter().map(|bin| bin.demand).max().unwrap_or(0),
            warm: bins.iter().map(|bin| bin.ready + bin.frozen + bin.generic).max().unwrap_or(0),
            cold: bins.iter().map(|bin| bin.cold).max().unwrap_or(0),
        });
        (points.collect(), unit)
    }
}
