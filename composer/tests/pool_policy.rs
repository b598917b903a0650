//! The promises of the pool policy, and of trying it on recorded demand.
//!
//! Tests on public traces run where these are beside the project (`../shared/traces` from the workspace), and say so where
//! they are not. Everything else runs on demand that is made from a seed, which is printed.

use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use shard_composer::backtest::{Bound, Score, Setting, run};
use shard_composer::policy::{Choice, Limits, Moment, Policy, RestoreError, Tiers};
use shard_composer::trace::{Kind, Reading, Trace, TraceError};
use std::path::{Path, PathBuf};

const CHOICES: [&str; 6] =
    ["fixed-buffer-3", "keep-alive-7", "headroom", "hybrid", "reactive", "expected-cost"];

/// A policy, its cold starts and its idle slot-bins.
type Figures = (&'static str, u64, u64);

fn choice(name: &str) -> Choice {
    name.parse().unwrap()
}

/// The public traces, if they are here.
fn public(file: &str) -> Option<Trace> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/traces").join(file);
    if !path.exists() {
        eprintln!("skipped: {file} is not beside the project");
        return None;
    }
    Some(Trace::read(&path, Reading::default()).unwrap())
}

fn second_half(trace: &Trace, name: &str, cold_price: f64) -> Score {
    let setting = Setting { policy: choice(name), cold_price, tiers: Tiers::default() };
    run(trace, setting, trace.bins() / 2..trace.bins(), |_, _| {}).unwrap()
}

fn cost(score: &Score, cold_price: f64) -> f64 {
    score.cost(cold_price, &Tiers::default())
}

/// Demand of many sorts: timers, bursts, a day's wave, rare ones, one that never comes.
fn demand(seed: u64, bins: usize) -> Vec<Vec<u32>> {
    eprintln!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let timer = (0..bins).map(|bin| u32::from(bin % 7 == 3)).collect();
    let rare = (0..bins).map(|_| u32::from(random.random_bool(0.01))).collect();
    let few = (0..bins).map(|_| random.random_range(0..4)).collect();
    let wave = (0..bins)
        .map(|bin| {
            let level = 60.0 + 40.0 * (bin as f64 / 48.0 * std::f64::consts::TAU).sin();
            (level * random.random_range(0.9..1.1)) as u32
        })
        .collect();
    let burst = (0..bins).map(|bin| if bin % 90 < 5 { random.random_range(50..500) } else { 0 }).collect();
    vec![timer, rare, few, wave, burst, vec![0; bins]]
}

/// All decisions of a policy over a demand, and the policy at the end.
fn decisions(
    mut policy: Policy,
    demand: &[Vec<u32>],
    bins: std::ops::Range<usize>,
) -> (Vec<Vec<u32>>, Policy) {
    let wanted = bins.map(|bin| {
        let now: Vec<u32> = demand.iter().map(|kind| kind[bin]).collect();
        policy.decide(&now).to_vec()
    });
    (wanted.collect(), policy)
}

fn policy(name: &str, kinds: usize) -> Policy {
    let mut policy = Policy::new(choice(name), 1800.0).unwrap();
    (0..kinds).for_each(|kind| assert_eq!(policy.add(10.0 * (kind + 1) as f64), kind));
    policy
}

#[test]
fn the_simple_policies_print_the_known_figures_to_the_last_digit() {
    let table: [(&str, u64, &[Figures]); 3] = [
        (
            "azure2019-100/invocations.csv",
            5_810,
            &[
                ("keep-alive-1", 2_098, 2_096),
                ("keep-alive-10", 217, 7_750),
                ("keep-alive-20", 96, 9_150),
                ("keep-alive-60", 26, 11_647),
                ("hybrid", 45, 6_102),
                ("reactive", 2_098, 2_096),
            ],
        ),
        (
            "worldcup98_per_minute.csv",
            10_407_534,
            &[
                ("keep-alive-1", 172_889, 172_986),
                ("keep-alive-10", 47_519, 778_326),
                ("keep-alive-20", 38_793, 1_196_379),
                ("keep-alive-60", 32_385, 2_581_079),
                ("hybrid", 77_982, 485_179),
                ("headroom", 6_342, 1_075_445),
            ],
        ),
        (
            "nyc_taxi.csv",
            782_781,
            &[
                ("keep-alive-1", 32_856, 32_776),
                ("keep-alive-10", 18_840, 246_148),
                ("keep-alive-20", 6_294, 359_329),
                ("keep-alive-60", 1_469, 482_627),
                ("hybrid", 2_460, 443_812),
                ("headroom", 13_323, 93_855),
            ],
        ),
    ];
    for (file, demand, figures) in table {
        let Some(trace) = public(file) else { continue };
        for &(name, cold, idle) in figures {
            let score = second_half(&trace, name, 10.0);
            assert_eq!((score.demand, score.cold, score.idle), (demand, cold, idle), "{file}: {name}");
        }
    }
}

#[test]
fn expected_cost_keeps_its_promise_on_rare_functions() {
    let Some(trace) = public("azure2019-100/invocations.csv") else { return };
    let bound = Bound::of(&trace, trace.bins() / 2..trace.bins());
    let hybrid = second_half(&trace, "hybrid", 1.0);
    for (price, of_hybrid, of_bound) in [(10.0, 0.55, 2.3), (30.0, 0.70, 2.8), (100.0, 0.85, 3.3)] {
        let ours = second_half(&trace, "expected-cost", price);
        let ratio = cost(&ours, price) / cost(&hybrid, price);
        assert!(ratio <= of_hybrid, "price {price}: {ratio:.3} of the hybrid's cost");
        let ratio = ours.start_charged_cost(price, &Tiers::default()) / bound.start_charged_cost(price);
        assert!(ratio <= of_bound, "price {price}: {ratio:.3} of the bound");
        assert!(cost(&ours, price) <= cost(&second_half(&trace, "keep-alive-10", price), price));
    }
}

#[test]
fn expected_cost_keeps_its_promise_on_busy_series() {
    let simple = ["keep-alive-1", "keep-alive-10", "keep-alive-20", "keep-alive-60", "headroom"];
    for (file, must) in [("worldcup98_per_minute.csv", 1.0), ("nyc_taxi.csv", 0.40)] {
        let Some(trace) = public(file) else { continue };
        let simple = simple.map(|name| second_half(&trace, name, 1.0));
        for price in [10.0, 30.0, 100.0] {
            let ours = cost(&second_half(&trace, "expected-cost", price), price);
            let best = simple.iter().map(|score| cost(score, price)).fold(f64::INFINITY, f64::min);
            assert!(ours <= must * best, "{file}, price {price}: {:.3} of the best simple rule", ours / best);
            assert!(ours <= cost(&simple[1], price), "{file}, price {price}: more than keep-alive-10");
        }
    }
}

#[test]
fn at_as_many_cold_starts_expected_cost_holds_fewer_idle_slots() {
    for (file, cold_max, idle_max) in
        [("azure2019-100/invocations.csv", 45, 4_150), ("worldcup98_per_minute.csv", 47_519, 505_911)]
    {
        let Some(trace) = public(file) else { continue };
        let prices = (0..=36).map(|step| 10_f64.powf(f64::from(step) / 12.0));
        let least = prices
            .map(|price| second_half(&trace, "expected-cost", price))
            .filter(|score| score.cold <= cold_max)
            .map(|score| score.idle)
            .min();
        assert!(least.is_some_and(|idle| idle <= idle_max), "{file}: {least:?} idle");
    }
}

#[test]
fn the_future_has_no_influence() {
    let (bins, cut) = (900, 600);
    let before = demand(1, bins);
    let mut after = demand(1, bins);
    let mut random = StdRng::seed_from_u64(2);
    for kind in &mut after {
        kind[cut..].iter_mut().for_each(|demand| *demand = random.random_range(0..1_000));
    }
    for name in CHOICES {
        let (one, _) = decisions(policy(name, before.len()), &before, 0..bins);
        let (other, _) = decisions(policy(name, before.len()), &after, 0..bins);
        // The decision after bin `cut` is the first that may know of what was changed.
        assert_eq!(one[..cut], other[..cut], "{name}");
        if name != "fixed-buffer-3" {
            assert_ne!(one[cut..], other[cut..], "{name}");
        }
    }
}

#[test]
fn a_policy_that_was_saved_goes_on_as_if_it_had_not_stopped() {
    let (bins, cut) = (900, 437);
    let demand = demand(3, bins);
    for name in CHOICES {
        let (whole, end) = decisions(policy(name, demand.len()), &demand, 0..bins);
        let (_, half) = decisions(policy(name, demand.len()), &demand, 0..cut);
        let restored = Policy::restore(&half.save()).unwrap();
        assert_eq!(restored, half);
        let (rest, end_of_restored) = decisions(restored, &demand, cut..bins);
        assert_eq!(whole[cut..], rest, "{name}");
        assert_eq!(end, end_of_restored, "{name}");
    }
}

#[test]
fn a_saved_policy_that_is_not_whole_is_an_error() {
    let demand = demand(4, 200);
    assert_eq!(Policy::restore(b"something"), Err(RestoreError::NotAPolicy));
    for name in CHOICES {
        let (_, policy) = decisions(policy(name, demand.len()), &demand, 0..200);
        let saved = policy.save();
        let mut other = saved.clone();
        other[8] = 99;
        assert_eq!(Policy::restore(&other), Err(RestoreError::Version { found: 99 }));
        assert!(matches!(Policy::restore(&saved[..saved.len() - 1]), Err(RestoreError::Damaged { .. })));
        let mut longer = saved.clone();
        longer.push(0);
        assert!(matches!(Policy::restore(&longer), Err(RestoreError::Damaged { .. })));
        // Whatever else is changed: an error, or a policy that works.
        let mut random = StdRng::seed_from_u64(5);
        for _ in 0..300 {
            let mut changed = saved.clone();
            let at = random.random_range(12..changed.len());
            changed[at] ^= 1 << random.random_range(0..8);
            if let Ok(mut policy) = Policy::restore(&changed) {
                let now = vec![1; policy.wanted().len()];
                (0..3).for_each(|_| drop(policy.decide(&now).to_vec()));
            }
        }
    }
}

#[test]
fn kinds_can_be_added_while_it_runs_and_one_kinds_count_is_its_own() {
    let mut policy = policy("expected-cost", 1);
    for bin in 0..200 {
        policy.decide(&[u32::from(bin % 2 == 0)]);
    }
    let new = policy.add(50.0);
    assert_eq!((new, policy.wanted()[new]), (1, 0));
    for bin in 0..100 {
        policy.decide(&[u32::from(bin % 2 == 0), 40]);
    }
    assert_eq!(policy.wanted()[0], 1, "the 101st bin is one of those that want it");
    assert_eq!(policy.wanted()[1], 40);
}

#[test]
fn a_reason_says_what_was_forecast_and_what_it_costs() {
    let demand = demand(6, 600);
    let (_, policy) = decisions(policy("expected-cost", demand.len()), &demand, 0..600);
    for kind in 0..demand.len() {
        let (forecast, reason) = (policy.forecast(kind).unwrap(), policy.reason(kind));
        let text = reason.to_string();
        assert!(text.starts_with(&format!("expected-cost wants {} warm", policy.wanted()[kind])), "{text}");
        let why = reason.forecast.unwrap();
        assert!(why.cold_cost >= 0.0 && why.idle_cost >= 0.0 && (0.0..=1.0).contains(&why.too_few));
        // What is wanted is what the forecast that was followed says is cheapest, to within what a bucket holds.
        let total =
            |warm| forecast.expected_idle(warm) + policy.cold_price(kind) * forecast.expected_cold(warm);
        let (wanted, cheapest) = (policy.wanted()[kind], forecast.cheapest(policy.cold_price(kind)));
        assert!(total(wanted) <= 1.25 * total(cheapest) + 0.5, "kind {kind}: {wanted}, {cheapest}: {text}");
    }
    assert_eq!(Policy::new(Choice::Hybrid, 60.0).map(|mut p| p.add(1.0)), Ok(0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn demand_that_jumps_falls_silent_or_never_comes_makes_no_pool_run_away(
        low in 0_u32..20, quiet in 20_usize..200, busy in 1_usize..200, step in 1_u32..200, price in 1.0..200.0,
    ) {
        for name in ["expected-cost", "hybrid", "headroom"] {
            let mut policy = Policy::new(choice(name), 60.0).unwrap();
            policy.add(price);
            policy.add(price); // never wanted
            let mut limits = Limits { step_up_max: step, step_down_max: step, ..Limits::default() }.start().unwrap();
            let high = low.max(1) * 100;
            let (mut before, mut numbers) = (0, Vec::new());
            for bin in 0..quiet + busy + 400 {
                let demand = if bin < quiet { low } else if bin < quiet + busy { high } else { 0 };
                let wanted = policy.decide(&[demand, 0]);
                prop_assert_eq!(wanted[1], 0);
                // Never more than e times what was wanted at most, the largest rise that is forecast, and the largest residual.
                prop_assert!(u64::from(wanted[0]) <= 60 * u64::from(high), "{}: {} of {}", name, wanted[0], high);
                let slots = limits.apply(wanted[0], Moment { demand, ..Moment::default() }).slots;
                prop_assert!(slots.abs_diff(before) <= step);
                before = slots;
                numbers.push(wanted[0]);
            }
            // When demand has been silent for long, so is the policy, and it does not come back.
            let end = &numbers[quiet + busy + 300..];
            let turns = end.windows(2).filter(|pair| pair[1] > pair[0]).count();
            prop_assert!(turns <= 2, "{}: {:?}", name, end);
            prop_assert!(*end.last().unwrap() <= high / 10 + 1, "{}: {:?}", name, end);
        }
    }

    #[test]
    fn any_text_is_a_trace_or_an_error_that_names_the_file(
        header in "(HashFunction,1,2|timestamp,value|time_s,a,b|func,end_timestamp,duration|[a-z,]{0,12})",
        body in "([0-9.,:\\- \nax\"]{0,120})",
    ) {
        let text = format!("{header}\n{body}");
        match Trace::parse("some.csv", text.as_bytes(), Reading::default()) {
            Ok(trace) => prop_assert!(trace.bins() > 0 && !trace.kinds().is_empty()),
            Err(error) => prop_assert!(error.to_string().contains("some.csv"), "{}", error),
        }
    }
}

fn read(text: &str) -> Result<Trace, TraceError> {
    Trace::parse("t.csv", text.as_bytes(), Reading::default())
}

#[test]
fn every_format_is_found_by_its_header() {
    let azure = read("HashOwner,HashFunction,Trigger,7,8,9\no,f,http,0,5,1\no,g,timer,2,0,0\n").unwrap();
    assert_eq!((azure.bin_s(), azure.arrivals()), (60.0, 8));
    assert_eq!(azure.kinds()[0], Kind { name: "f".into(), demand: vec![0, 1, 1] });
    let calls = read("app,func,end_timestamp,duration\nx,f,70,30\nx,g,5,5\nx,f,61,61\n").unwrap();
    assert_eq!(calls.kinds()[0], Kind { name: "f".into(), demand: vec![2, 2] });
    assert_eq!(calls.kinds()[1].demand, [1, 0]);
    let taxi = read("timestamp,value\n2014-07-01 00:00:00,101\n2014-07-01 00:30:00,0\n").unwrap();
    assert_eq!((taxi.bin_s(), &taxi.kinds()[0].demand), (1800.0, &vec![2, 0]));
    let plain = read("time_s,physics,chat\n0,12,3\n60,14,3\n180,15,0\n240,1,1\n").unwrap();
    assert_eq!((plain.bin_s(), plain.bins(), plain.skipped_bins()), (60.0, 4, 1));
    assert_eq!(plain.kinds()[1].demand, [3, 3, 0, 1]);
}

#[test]
fn a_wrong_trace_is_an_error_with_file_line_cause_and_cure() {
    for (text, says) in [
        ("", "the header is of no known format"),
        ("a,b\n1,2\n", "t.csv:1: the header is of no known format; it has a, b"),
        ("time_s,a\n", "too few rows"),
        ("time_s,a\n0,1\n", "at least two"),
        ("time_s\n0\n1\n", "t.csv:1: the header has no column of demand beside the time"),
        ("time_s,a\n0,1\n60,-3\n", "t.csv:3: a is `-3`; it must be a whole number that is not negative"),
        ("time_s,a\n0,1\n60,x\n", "t.csv:3: a is `x`"),
        ("time_s,a\n0,1\nsoon,2\n", "t.csv:3: time_s is `soon`; it must be a number of seconds, or a time"),
        ("time_s,a\n0,1\n60,2\n30,1\n", "t.csv:4: 30 is not later than the row before; sort the rows"),
        ("time_s,a\n0,1\n0,2\n", "t.csv:3: 0 is not later"),
        ("time_s,a\n0,1\n60,2\n120,2\n130,2\n", "t.csv:5: the step of time to this row is 10 s"),
        ("time_s,a\n0,1\n60,2,7\n", "t.csv:3: there are 3 fields where the header has 2"),
        ("time_s,a\n0,1\n60,99999999\n", "t.csv:3: more than 1000000 slots in one bin (SLOTS_MAX)"),
        ("HashFunction,Trigger\nf,http\n", "no column of counts"),
        ("HashFunction,1,2,4\nf,1,1,1\n", "must follow each other"),
        ("HashFunction,1,2\n", "too few rows"),
        ("func,duration\nf,1\n", "no column `duration` and one of `start`"),
        (
            "func,start,duration\nf,1,-2\n",
            "t.csv:2: duration is `-2`; it must be a number of seconds, not negative",
        ),
        ("func,start,duration\nf,NaN,2\n", "t.csv:2: start is `NaN`"),
        ("func,start,duration\nf,0,1\nf,3000000000,1\n", "more than 4000000 bins (BINS_MAX)"),
    ] {
        let error = read(text).unwrap_err().to_string();
        assert!(error.contains("t.csv") && error.contains(says), "{text:?}: {error}");
    }
    let wide: String = (0..1_000_000).map(|column| format!(",c{column}")).collect();
    let error = read(&format!("time_s{wide}\n")).unwrap_err().to_string();
    assert_eq!(
        error,
        "t.csv:1: more than 100000 kinds (KINDS_MAX); split the trace, or take larger bins or units"
    );
    let missing = Trace::read(&PathBuf::from("/nowhere/t.csv"), Reading::default()).unwrap_err().to_string();
    assert!(missing.starts_with("/nowhere/t.csv: "), "{missing}");
}

#[test]
fn costs_are_reckoned_as_documented() {
    let demand = vec![0, 2, 0, 1, 3, 0];
    let trace = Trace::new(60.0, vec![Kind { name: "a".into(), demand }]);
    let setting = Setting { policy: choice("fixed-buffer-2"), cold_price: 10.0, tiers: Tiers::default() };
    let score = run(&trace, setting, 1..6, |_, _| {}).unwrap();
    assert_eq!((score.demand, score.cold, score.idle, score.prestart), (6, 1, 5, 0));
    assert_eq!((cost(&score, 10.0), score.start_charged_cost(10.0, &Tiers::default())), (15.0, 16.0));
    // Two slots come for the first time in bin 1, a third in bin 4; the first has one gap, the second another.
    let bound = Bound::of(&trace, 1..6);
    assert_eq!((bound.first_arrivals, bound.gaps), (3, 2));
    assert_eq!(bound.start_charged_cost(10.0), 35.0);
}
