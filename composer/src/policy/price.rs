//! From money to the price of a cold start: how many idle slot-bins a wait is worth.

/// What things cost, in any one currency.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prices {
    /// A core for an hour.
    pub core_hour: f64,
    /// A gibibyte of memory for an hour.
    pub gib_hour: f64,
    /// A whole GPU for an hour.
    pub gpu_hour: f64,
    /// A second that a user waits.
    pub waiting_second: f64,
}

/// What one warm shard of a component holds, and what its cold start takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Needs {
    /// Cores. A shard that shares cores holds what it uses of them while it is idle.
    pub cores: f64,
    /// Memory, in gibibytes.
    pub memory_gib: f64,
    /// GPUs; a part of one is a part of its memory.
    pub gpus: f64,
    /// Sessions that it can hold.
    pub capacity: u32,
    /// How long a user waits for a cold start, in seconds, as measured.
    pub cold_start_s: f64,
}

/// Prices or needs that can't be reckoned with.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("{what} is {value}; it must be {must}")]
pub struct PriceError {
    what: &'static str,
    value: f64,
    must: &'static str,
}

const SECONDS_PER_HOUR: f64 = 3600.0;

impl Prices {
    /// What it costs to hold one slot of a component warm for an hour.
    pub fn slot_hour(&self, needs: &Needs) -> Result<f64, PriceError> {
        for (what, value) in [
            ("the price of a core-hour", self.core_hour),
            ("the price of a GiB-hour", self.gib_hour),
            ("the price of a GPU-hour", self.gpu_hour),
            ("the price of a second of waiting", self.waiting_second),
            ("the number of cores", needs.cores),
            ("the memory in GiB", needs.memory_gib),
            ("the number of GPUs", needs.gpus),
            ("the cold start in seconds", needs.cold_start_s),
            ("the capacity", f64::from(needs.capacity)),
        ] {
            if !(value.is_finite() && value >= 0.0) {
                return Err(PriceError { what, value, must: "a number that is not negative" });
            }
        }
        if needs.capacity == 0 {
            return Err(PriceError { what: "the capacity", value: 0.0, must: "at least 1" });
        }
        let shard_hour =
            self.core_hour * needs.cores + self.gib_hour * needs.memory_gib + self.gpu_hour * needs.gpus;
        Ok(shard_hour / f64::from(needs.capacity))
    }

    /// The price of a cold start in slots that are warm and idle for a bin of so many seconds: what
    /// [`Policy::add`](super::Policy::add) asks for. Infinite where holding costs nothing.
    pub fn cold_price(&self, needs: &Needs, bin_s: f64) -> Result<f64, PriceError> {
        let slot_hour = self.slot_hour(needs)?;
        if !(bin_s.is_finite() && bin_s > 0.0) {
            return Err(PriceError { what: "the length of a bin in seconds", value: bin_s, must: "above 0" });
        }
        let waiting = self.waiting_second * needs.cold_start_s;
        let idle = slot_hour * bin_s / SECONDS_PER_HOUR;
        Ok(if waiting == 0.0 { 0.0 } else { waiting / idle })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cold_start_is_worth_the_idle_slots_that_the_wait_would_pay() {
        let prices = Prices { core_hour: 0.04, gib_hour: 0.005, gpu_hour: 2.0, waiting_second: 0.001 };
        let needs = Needs { cores: 1.0, memory_gib: 4.0, gpus: 0.0, capacity: 2, cold_start_s: 1.5 };
        // A slot costs (0.04 + 0.02) / 2 = 0.03 an hour, 0.0005 a minute; the wait costs 0.0015.
        assert!((prices.cold_price(&needs, 60.0).unwrap() - 3.0).abs() < 1e-9);
        let free = Needs { cores: 0.0, memory_gib: 0.0, ..needs };
        assert_eq!(prices.cold_price(&free, 60.0), Ok(f64::INFINITY));
        let error = prices.cold_price(&Needs { memory_gib: -1.0, ..needs }, 60.0).unwrap_err();
        assert_eq!(error.to_string(), "the memory in GiB is -1; it must be a number that is not negative");
        assert!(prices.cold_price(&Needs { capacity: 0, ..needs }, 60.0).is_err());
    }
}
