//! Where and when a figure was taken: the first line of every report.

use crate::cores::{Cores, isolated};
use std::fs;
use std::process::{Command, Stdio};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// How many reads of the clock its cost and step are taken from.
const TIMER_READS: u32 = 10_000;

/// What is known of the clock.
#[derive(Clone, Copy, Debug)]
pub struct Timer {
    /// One read, in nanoseconds.
    pub cost_ns: f64,
    /// The least difference between two reads that are not equal, in nanoseconds.
    pub step_ns: f64,
}

impl Timer {
    /// Reads the clock many times.
    pub fn measure(clock: &quanta::Clock) -> Self {
        let start = Instant::now();
        for _ in 0..TIMER_READS {
            std::hint::black_box(clock.raw());
        }
        let cost_ns = start.elapsed().as_nanos() as f64 / f64::from(TIMER_READS);
        let reads: Vec<u64> = (0..TIMER_READS).map(|_| clock.raw()).collect();
        let steps = reads.windows(2).map(|pair| clock.delta_as_nanos(pair[0], pair[1]));
        Self { cost_ns, step_ns: step_ns(steps) }
    }
}

/// The step of a clock, from the differences of reads that follow each other.
///
/// A read takes nanoseconds, so one that shows no time passed came from a clock that stood still in between: the
/// least real difference is its step. If none did, the clock is finer than a read, and a nanosecond is all that
/// is kept of a sample anyway.
fn step_ns(differences: impl Iterator<Item = u64>) -> f64 {
    let (still, moved): (Vec<u64>, Vec<u64>) = differences.partition(|&ns| ns == 0);
    if still.is_empty() { 1.0 } else { moved.into_iter().min().unwrap_or(1) as f64 }
}

/// The header's lines.
pub fn describe(cores: Cores, timer: Timer, rounds: usize) -> String {
    let uname = rustix::system::uname();
    let alone = [cores.near, cores.far].iter().all(|core| isolated().contains(core));
    let places = match (cores.is_one(), alone) {
        (true, _) => format!("core {} only", cores.near),
        (_, true) => format!("cores {} and {}, isolated", cores.near, cores.far),
        (_, false) => format!("cores {} and {}, not isolated", cores.near, cores.far),
    };
    format!(
        "shard-bench {version}, {date}; Linux {kernel}, {cpu}; {places}\n\
         median of {rounds} interleaved rounds; the timer costs {:.1} ns a sample, which is not subtracted, and moves in steps of \
         {:.1} ns",
        timer.cost_ns,
        timer.step_ns,
        version = version(),
        date = today(),
        kernel = uname.release().to_string_lossy(),
        cpu = cpu_model(),
    )
}

fn cpu_model() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    model.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, model)| model.trim().to_owned())
}

/// As `git describe` names the tree, if this runs in one.
fn version() -> String {
    let git = Command::new("git")
        .args(["describe", "--always", "--dirty", "--tags"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stderr(Stdio::null())
        .output();
    let named =
        git.ok().filter(|git| git.status.success()).and_then(|git| String::from_utf8(git.stdout).ok());
    named.map_or_else(|| env!("CARGO_PKG_VERSION").to_owned(), |name| name.trim().to_owned())
}

fn today() -> String {
    let days = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() / 86_400);
    let (year, month, day) = civil(days as i64);
    format!("{year}-{month:02}-{day:02}")
}

/// The date so many days after 1970-01-01. Years begin in March here, so that a leap day is the last day of a year.
fn civil(days: i64) -> (i64, i64, i64) {
    const DAYS_IN_400_YEARS: i64 = 146_097;
    const DAYS_FROM_YEAR_0_TO_1970: i64 = 719_468;
    let days = days + DAYS_FROM_YEAR_0_TO_1970;
    let (era, day_of_era) = (days.div_euclid(DAYS_IN_400_YEARS), days.rem_euclid(DAYS_IN_400_YEARS));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::{civil, step_ns};

    #[test]
    fn a_clock_is_coarse_only_if_it_was_seen_to_stand_still() {
        assert_eq!(step_ns([10, 0, 10, 20].into_iter()), 10.0);
        assert_eq!(step_ns([8, 9, 12].into_iter()), 1.0);
    }

    #[test]
    fn days_become_dates() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(19_782), (2024, 2, 29));
        assert_eq!(civil(20_454), (2026, 1, 1));
    }
}
