//! `shardctl backtest`: policies over a recorded demand, with what each would have cost.

use crate::{Failure, Outcome};
use clap::Args;
use shard_composer::backtest::{Bound, Score, run};
use shard_composer::policy::Choice;
use shard_composer::trace::{Reading, Trace, Unit};
use std::num::NonZeroU32;
use std::path::PathBuf;

#[derive(Args)]
pub(crate) struct Backtest {
    /// A CSV file.
    #[arg(long, value_name = "FILE")]
    trace: PathBuf,
    /// Which policies.
    #[arg(long, value_name = "NAME", num_args = 1.., value_delimiter = ',')]
    policy: Vec<Choice>,
    /// What a cold start costs, in slots that are warm and idle for a bin.
    #[arg(long, value_name = "R", num_args = 1.., value_delimiter = ',', default_values_t = [10.0, 30.0, 100.0])]
    cold_price: Vec<f64>,
    /// The part of the trace after which bins are scored; policies run from its first bin.
    #[arg(long, value_name = "PART", default_value_t = 0.5)]
    from: f64,
    /// The part of the trace after which all ends.
    #[arg(long, value_name = "PART", default_value_t = 1.0)]
    to: f64,
    /// How counts become slots: `busy` (any count is one slot), or how much of a bin's count one slot serves.
    #[arg(long, value_name = "N|busy")]
    slots_per: Option<Unit>,
    /// The length of a bin in seconds, for traces of invocations.
    #[arg(long, value_name = "SECONDS")]
    bin_seconds: Option<NonZeroU32>,
    /// Print one JSON object a line.
    #[arg(long)]
    json: bool,
}

impl Backtest {
    pub(crate) fn run(self) -> Outcome {
        let reading = Reading { unit: self.slots_per, bin_s: self.bin_seconds };
        let trace = Trace::read(&self.trace, reading).map_err(Failure::usage)?;
        let bins = trace.bins() as f64;
        let scored = (self.from * bins) as usize..(self.to * bins) as usize;
        let bound = Bound::of(&trace, scored.clone());
        let hybrid = run(&trace, Choice::Hybrid, 1.0, scored.clone(), |_, _, _| {});
        let mut policies = self.policy.clone();
        if policies.is_empty() {
            policies = vec![
                Choice::KeepAlive(1),
                Choice::KeepAlive(10),
                Choice::KeepAlive(20),
                Choice::KeepAlive(60),
                Choice::Headroom(10),
                Choice::Hybrid,
                Choice::Reactive,
                Choice::ExpectedCost,
            ];
        }
        println!("first arrivals {} gaps {}", bound.first_arrivals, bound.gaps);
        for policy in policies {
            let mut known: Option<Score> = None;
            for &price in &self.cold_price {
                let score = match known {
                    Some(score) if !policy.heeds_price() => score,
                    _ => run(&trace, policy, price, scored.clone(), |_, _, _| {}),
                };
                known = Some(score);
                println!(
                    "{policy:16} {price:5} demand {} cold {} ({:.3}) idle {} prestart {} cost {:.0} sc {:.0} hyb {:.3} bound {:.3}",
                    score.demand,
                    score.cold,
                    score.cold_percent(),
                    score.idle,
                    score.prestart,
                    score.cost(price),
                    score.start_charged_cost(price),
                    score.cost(price) / hybrid.cost(price),
                    score.start_charged_cost(price) / bound.start_charged_cost(price)
                );
            }
        }
        Ok(())
    }
}
