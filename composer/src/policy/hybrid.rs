//! The hybrid histogram policy: Shahrad et al., "Serverless in the Wild: Characterizing and Optimizing the Serverless
//! Workload at a Large Cloud Provider", USENIX ATC 2020.
//!
//! Demand is cut into layers: layer j is busy in a bin that wants at least j slots. Each layer has a histogram of its
//! idle gaps. From the 5th to the 99th percentile after an arrival, with a margin, it is warm; before and after not.

use serde::{Deserialize, Serialize};

/// Gaps of at least this many bins are out of range.
const RANGE: usize = 60;
/// How long a layer is warm if nothing is known of its gaps.
const UNKNOWN_BINS: u32 = 20;

/// One kind's layers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Hybrid {
    layers: Vec<Layer>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Layer {
    /// The last bin in which it was busy.
    last: u64,
    /// How often it was idle for so many bins between two busy ones.
    #[serde(with = "super::array")]
    gaps: [u32; RANGE],
    /// The sums of `gaps` and of their squares.
    in_range: u64,
    squares: u64,
    out_of_range: u64,
    /// Warm from the first to the last of these ages, in bins since it was busy.
    window: (u32, u32),
}

impl Hybrid {
    /// Whether it can be `now` bins old.
    pub(super) fn fits(&self, now: u64) -> bool {
        self.layers.iter().all(|layer| layer.last < now)
    }

    /// Takes in the demand of the bin `now`, and says how many slots are to be warm in the next one.
    pub(super) fn decide(&mut self, now: u64, demand: u32) -> u32 {
        for at in 0..demand as usize {
            match self.layers.get_mut(at) {
                Some(layer) => layer.busy(now),
                None => self.layers.push(Layer::new(now)),
            }
        }
        self.layers.iter().map(|layer| u32::from(layer.is_warm(now + 1))).sum()
    }
}

impl Layer {
    fn new(now: u64) -> Self {
        let window = (1, UNKNOWN_BINS);
        Self { last: now, gaps: [0; RANGE], in_range: 0, squares: 0, out_of_range: 0, window }
    }

    fn is_warm(&self, at: u64) -> bool {
        let age = at - self.last;
        (u64::from(self.window.0)..=u64::from(self.window.1)).contains(&age)
    }

    fn busy(&mut self, now: u64) {
        let gap = now - self.last - 1;
        self.last = now;
        match self.gaps.get_mut(gap as usize) {
            Some(count) => {
                self.in_range += 1;
                self.squares += 2 * u64::from(*count) + 1;
                *count += 1;
            }
            None => self.out_of_range += 1,
        }
        self.window = self.window();
    }

    fn window(&self) -> (u32, u32) {
        if self.in_range < 2 {
            self.window
        } else if self.out_of_range > self.in_range {
            (1, UNKNOWN_BINS)
        } else if 12 * self.squares < self.in_range * self.in_range {
            // The counts' coefficient of variation is below 2: 60 squares < 5 sum².
            (1, RANGE as u32)
        } else {
            // In floating point, where 1.1 · 10 is more than 11: the figures that this policy is known by were made so.
            let from = (0.9 * f64::from(self.percentile(5) + 1)).floor();
            let to = (1.1 * f64::from(self.percentile(99) + 1)).ceil();
            ((from as u32).max(1), to as u32)
        }
    }

    /// The smallest gap such that at least so many per cent are no longer.
    fn percentile(&self, percent: u64) -> u32 {
        let mut seen = 0;
        for (gap, &count) in self.gaps.iter().enumerate() {
            seen += u64::from(count);
            if 100 * seen >= percent * self.in_range {
                return gap as u32;
            }
        }
        RANGE as u32 - 1
    }
}
