//! The largest demand of the last few bins, one step at a time.

use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// The maximum over the last `bins` values.
///
/// Invariant: values fall from front to back; the front is the maximum. A value leaves when it is too old, or when a
/// later one is at least as large.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct WindowMax {
    bins: u32,
    falling: VecDeque<(u64, u32)>,
}

impl WindowMax {
    pub(super) fn new(bins: u32) -> Self {
        Self { bins, falling: VecDeque::new() }
    }

    /// Takes in the value of the bin `now`, and says the maximum of the last `bins` of them.
    pub(super) fn push(&mut self, now: u64, value: u32) -> u32 {
        while self.falling.back().is_some_and(|&(_, earlier)| earlier <= value) {
            self.falling.pop_back();
        }
        self.falling.push_back((now, value));
        while self.falling.front().is_some_and(|&(at, _)| at.saturating_add(u64::from(self.bins)) <= now) {
            self.falling.pop_front();
        }
        self.falling.front().map_or(0, |&(_, largest)| largest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_is_the_maximum_of_the_last_values(values in prop::collection::vec(0_u32..9, 1..60), bins in 1_usize..12) {
            let mut window = WindowMax::new(bins as u32);
            for (at, &value) in values.iter().enumerate() {
                let from = (at + 1).saturating_sub(bins);
                prop_assert_eq!(window.push(at as u64, value), *values[from..=at].iter().max().unwrap());
            }
        }
    }
}
