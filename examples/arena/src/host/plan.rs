//! Who plays when, and where.

use arena::auth::DEMO_NAMES;
use arena::messages::TICK_HZ;
use arena::physics::MatchConfig;
use std::time::Duration;

/// One match as it is meant to go.
pub(super) struct Plan {
    /// From 1.
    pub(super) number: usize,
    pub(super) config: MatchConfig,
    /// The accounts that play; bots take the other seats.
    pub(super) people: Vec<&'static str>,
    /// When it begins, from the start of the run: matches overlap, but don't coincide.
    pub(super) after: Duration,
    /// Whether its highlights are drawn.
    pub(super) highlights: bool,
    /// Whether somebody mistypes a password.
    pub(super) typo: bool,
    /// Whether a stranger tries to guess one.
    pub(super) guesser: bool,
}

/// The plans of so many matches, each so long, or by default between 16 and 20 seconds.
pub(super) fn matches(count: usize, seconds: Option<u32>) -> Vec<Plan> {
    let length_s = |n: usize| seconds.unwrap_or(16 + 2 * (n as u32 % 3));
    let mut names = DEMO_NAMES.iter().copied().cycle();
    let plan = |n: usize| Plan {
        number: n + 1,
        config: MatchConfig {
            seed: 11 + n as u64,
            ticks: length_s(n) * TICK_HZ,
            players: [6, 7, 5, 8][n % 4],
        },
        people: names.by_ref().take(3 + n % 2).collect(),
        after: Duration::from_secs(length_s(0).into()) / 12 * n as u32,
        highlights: n == 0,
        typo: n == 0,
        guesser: n == count.min(2) - 1,
    };
    (0..count).map(plan).collect()
}
