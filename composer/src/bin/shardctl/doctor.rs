//! `shardctl doctor`: what this host offers to shards, what is missing, and what to type.

use crate::Outcome;
use clap::Args;
use rustix::process::{Resource, getrlimit};
use serde::Serialize;
use shard_composer::oci::Runtime;
use shard_runtime::region::Region;
use shard_runtime::topology::Topology;
use shard_runtime::verbs::{Wish, choose};
use std::fs;

#[derive(Args)]
pub(crate) struct Doctor {
    /// Print one JSON object a line.
    #[arg(long)]
    json: bool,
}

/// A thing that was looked at.
#[derive(Serialize)]
struct Finding {
    what: &'static str,
    state: State,
    found: String,
    /// What to type to mend it, if it is not as it should be.
    mend: Option<&'static str>,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Ok,
    Weak,
    Missing,
}

impl Doctor {
    pub(crate) fn run(self) -> Outcome {
        for finding in findings() {
            if self.json {
                println!("{}", serde_json::json!(finding));
                continue;
            }
            let state = match finding.state {
                State::Ok => "ok",
                State::Weak => "weak",
                State::Missing => "missing",
            };
            println!("{state:<8} {:<16} {}", finding.what, finding.found);
            if let Some(mend) = finding.mend {
                println!("{:25} {mend}", "");
            }
        }
        Ok(())
    }
}

fn findings() -> Vec<Finding> {
    let topology = Topology::read();
    let isolated = topology.cores.iter().filter(|core| core.isolated).count();
    let nodes: std::collections::BTreeSet<usize> = topology.cores.iter().map(|core| core.node).collect();
    let shared_units = topology.cores.iter().any(|core| core.siblings.len() > 1);
    let mut all = vec![
        finding(
            "cores",
            topology.cores.len() >= 2,
            State::Weak,
            format!(
                "{} usable on {} NUMA node(s){}",
                topology.cores.len(),
                nodes.len(),
                if shared_units { ", with siblings that share a core" } else { "" }
            ),
            "shards that share a core sleep instead of polling: round trips take tens of microseconds",
        ),
        finding(
            "isolation",
            isolated > 0,
            State::Weak,
            format!("{isolated} isolated cores"),
            "boot with isolcpus=2-7 nohz_full=2-7 rcu_nocbs=2-7 (all cores but the first two) for steady tails",
        ),
    ];
    let huge = number_after("/proc/meminfo", "HugePages_Total:").unwrap_or(0);
    all.push(finding(
        "huge pages",
        huge > 0,
        State::Weak,
        format!("{huge} reserved; rings use pages of 4 KiB"),
        "sysctl vm.nr_hugepages=64; worth it for rings of many MiB only",
    ));
    let memlock = getrlimit(Resource::Memlock).current;
    let enough = memlock.is_none_or(|bytes| bytes >= 64 << 20);
    let found = memlock.map_or("unlimited".into(), |bytes| format!("{} KiB", bytes >> 10));
    all.push(finding(
        "locked memory",
        enough,
        State::Weak,
        found,
        "ulimit -l unlimited, or LimitMEMLOCK=infinity in the unit; the rings of RDMA links are locked",
    ));
    let rdma = choose(&Wish::default());
    all.push(finding(
        "RDMA",
        rdma.is_ok(),
        State::Weak,
        rdma.map_or_else(|error| error.to_string(), |device| device.why().to_owned()),
        "links to other hosts are of kind tcp; `cargo run -p soft-roce -- doctor` tells how to have RDMA in software",
    ));
    let files = getrlimit(Resource::Nofile).current;
    let enough = files.is_none_or(|count| count >= 8192);
    let found = files.map_or("unlimited".into(), |count| count.to_string());
    all.push(finding(
        "open files",
        enough,
        State::Weak,
        found,
        "ulimit -n 65536; a shard takes about 6 descriptors of the composer",
    ));
    all.push(finding(
        "membarrier",
        shard_runtime::barrier::register(),
        State::Missing,
        "global expedited: sending asks no fence of an awake shard".into(),
        "needs Linux 4.16; without it every message costs a full fence",
    ));
    all.push(finding(
        "sealed memory",
        Region::create("doctor", 4096).is_ok(),
        State::Missing,
        "memfd with seals".into(),
        "needs Linux 3.17 and a sandbox that allows memfd_create; without it nothing runs",
    ));
    let pidfd = rustix::process::pidfd_open(rustix::process::getpid(), rustix::process::PidfdFlags::empty());
    all.push(finding(
        "pidfd",
        pidfd.is_ok(),
        State::Missing,
        "a shard's end is noticed at once".into(),
        "needs Linux 5.3; without it nothing runs",
    ));
    let v2 = fs::metadata("/sys/fs/cgroup/cgroup.controllers").is_ok();
    let found = if v2 { "version 2" } else { "version 1, or none" };
    all.push(finding(
        "cgroups",
        v2,
        State::Weak,
        found.into(),
        "boot with systemd.unified_cgroup_hierarchy=1; limits on shards will need version 2",
    ));
    let runtime = Runtime::find(None, None);
    all.push(finding(
        "containers",
        runtime.is_ok(),
        State::Weak,
        runtime.map_or_else(|_| "no OCI runtime".to_owned(), |runtime| runtime.to_string()),
        "apt-get install crun, or name a runtime in SHARD_OCI_RUNTIME; only components with `image` need it",
    ));
    let governor =
        fs::read_to_string("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").unwrap_or_default();
    if !governor.is_empty() {
        all.push(finding(
            "frequency",
            governor.trim() == "performance",
            State::Weak,
            governor.trim().into(),
            "cpupower frequency-set -g performance",
        ));
    }
    all
}

fn finding(what: &'static str, well: bool, otherwise: State, found: String, mend: &'static str) -> Finding {
    let state = if well { State::Ok } else { otherwise };
    Finding { what, state, found, mend: (!well).then_some(mend) }
}

/// The number behind a name in one of the kernel's tables.
fn number_after(file: &str, name: &str) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_not_well_comes_with_what_to_type() {
        for finding in findings() {
            assert_eq!(finding.state == State::Ok, finding.mend.is_none(), "{}", finding.what);
        }
    }
}
