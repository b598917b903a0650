//! The program as people run it: real processes, short runs.

use std::process::{Command, Output};

/// The only reason for which something may stay unmeasured.
const ONE_CORE: &str = "it needs two cores";

fn shard_bench(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_shard-bench")).args(arguments).output().expect("the program starts")
}

fn lines(output: &Output) -> Vec<serde_json::Value> {
    let text = std::str::from_utf8(&output.stdout).expect("text");
    text.lines().map(|line| serde_json::from_str(line).expect("one object a line")).collect()
}

#[test]
fn every_pattern_gives_the_limit_or_says_why_not() {
    let output = shard_bench(&["local", "--json", "--seconds", "1", "--peers", "limit", "--sizes", "64"]);
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaints}");
    let rows = lines(&output);
    for pattern in ["rtt", "stream", "fanin", "wake"] {
        let measured = rows.iter().any(|row| row["pattern"] == pattern && row["peer"] == "limit");
        assert!(measured || complaints.contains(ONE_CORE), "{pattern}: {complaints}");
    }
    assert!(
        rows.iter().filter(|row| row["limit_links"] == row["links"]).all(|row| row["ratio_to_limit"] == 1.0)
    );
}

#[test]
fn every_peer_carries_messages_of_every_size_it_takes() {
    let output = shard_bench(&["local", "--json", "--seconds", "3", "--quick", "--patterns", "rtt,stream"]);
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaints}");
    let failed = complaints.lines().find(|line| line.contains("not measured") && !line.contains(ONE_CORE));
    assert_eq!(failed, None);
}

#[test]
fn an_unknown_peer_is_named_with_those_that_there_are() {
    let output = shard_bench(&["local", "--peers", "zeromq"]);
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(complaints.contains("no peer zeromq") && complaints.contains("iceoryx2"), "{complaints}");
}

#[test]
fn one_core_is_enough_to_end_and_to_say_what_needs_two() {
    let program = env!("CARGO_BIN_EXE_shard-bench");
    let run =
        Command::new("taskset").args(["-c", "0", program, "local", "--json", "--seconds", "1"]).output();
    let Ok(output) = run else {
        eprintln!("not tested: there is no taskset here");
        return;
    };
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaints}");
    assert!(complaints.contains(ONE_CORE), "{complaints}");
    assert!(lines(&output).iter().any(|row| row["pattern"] == "wake"));
}
