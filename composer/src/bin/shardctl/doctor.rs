//! `shardctl doctor`: what this host has for shards, what it can hold them to, what is missing, and what to type.
//!
//! What can be tried is tried as the composer does it, and undone.

use crate::{Failure, Outcome};
use clap::Args;
use rustix::process::{Resource, getrlimit};
use serde::Serialize;
use shard_composer::LATENCY_DEVICE;
use shard_composer::oci::Runtime;
use shard_composer::resources::limits::{Facts, Limit, State, limits};
use shard_composer::resources::{HostFile, Inventory};
use shard_runtime::region::Region;
use std::fs;
use std::path::{Path, PathBuf};

#[derive(Args)]
pub(crate) struct Doctor {
    /// Print one JSON object a line: the inventory, each limit, and what else was looked at.
    #[arg(long)]
    json: bool,
    /// A host file: what it says of this host overrides what is found.
    #[arg(long)]
    host: Option<PathBuf>,
}

/// A thing besides the limits that was looked at.
#[derive(Serialize)]
struct Finding {
    what: &'static str,
    well: bool,
    found: String,
    /// What to type to mend it, if it is not as it should be.
    mend: Option<&'static str>,
}

impl Doctor {
    pub(crate) fn run(self) -> Outcome {
        let inventory = self.inventory()?;
        let limits = limits(Path::new("/"), &inventory, &Facts::gather());
        let findings = findings(&inventory);
        if self.json {
            println!("{}", serde_json::json!({ "inventory": inventory }));
            limits.iter().for_each(|limit| println!("{}", serde_json::json!({ "limit": limit })));
            findings.iter().for_each(|finding| println!("{}", serde_json::json!({ "finding": finding })));
            return Ok(());
        }
        print_inventory(&inventory);
        println!();
        limits.iter().for_each(print_limit);
        println!();
        for finding in findings {
            println!(
                "{:<9} {:<24} {}",
                if finding.well { "ok" } else { "weak" },
                finding.what,
                finding.found
            );
            if let Some(mend) = finding.mend {
                println!("{:34} {mend}", "");
            }
        }
        Ok(())
    }

    fn inventory(&self) -> Result<Inventory, Failure> {
        let Some(path) = &self.host else { return Ok(Inventory::probe()) };
        let file = HostFile::read(path).map_err(Failure::usage)?;
        let probed = if file.wants_probe() { Inventory::probe() } else { Inventory::empty() };
        file.apply(probed).map_err(Failure::usage)
    }
}

fn print_inventory(inventory: &Inventory) {
    println!("host {}", inventory.host);
    for node in &inventory.nodes {
        let distinct = |of: fn(&shard_composer::resources::Processor) -> u32| {
            let mut all: Vec<u32> = node.processors.iter().map(of).collect();
            all.sort_unstable();
            all.dedup();
            all.len()
        };
        println!(
            "  node {:<4} {} processors on {} cores with {} last caches; {} of memory",
            node.id,
            node.processors.len(),
            distinct(|p| p.core),
            distinct(|p| p.cache),
            size(node.memory_bytes)
        );
        for processor in &node.processors {
            let isolated = if processor.isolated { ", isolated" } else { "" };
            println!(
                "    processor {:<4} core {}, cache {}{isolated}",
                processor.id, processor.core, processor.cache
            );
        }
        for pages in node.huge_pages.iter().filter(|pages| pages.count > 0) {
            println!("    huge pages     {} of {}", pages.count, size(pages.page_bytes));
        }
    }
    let at = |node: Option<u32>| node.map_or("node unknown".to_owned(), |node| format!("node {node}"));
    for gpu in &inventory.gpus {
        println!("  GPU {}: {} of memory, {}", gpu.name, size(gpu.memory_bytes), at(gpu.node));
        for instance in &gpu.instances {
            println!("    instance {}: {} of memory", instance.name, size(instance.memory_bytes));
        }
    }
    if inventory.gpus.is_empty() {
        println!("  no GPU");
    }
    for nic in &inventory.nics {
        let speed = nic.bits_per_s.map_or("speed unknown: declare it in a host file".to_owned(), |bits| {
            format!("{} Mbit/s", bits / 1_000_000)
        });
        let rdma =
            nic.rdma.as_ref().map_or("no RDMA device".to_owned(), |device| format!("RDMA device {device}"));
        println!("  NIC {}: {speed}, {}, {rdma}", nic.name, at(nic.node));
    }
}

/// A size for people, by the largest unit of which there is one.
fn size(bytes: u64) -> String {
    let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let fits = units.iter().find(|(_, shift)| bytes >> shift > 0);
    fits.map_or_else(
        || format!("{bytes} B"),
        |(name, shift)| format!("{:.1} {name}", bytes as f64 / (1_u64 << shift) as f64),
    )
}

fn print_limit(limit: &Limit) {
    let state = match limit.state {
        State::Enforced => "enforced",
        State::Emulated => "emulated",
        State::Absent => "absent",
    };
    println!("{state:<9} {:<24} {}", limit.what, limit.evidence);
    if let Some(mend) = &limit.mend {
        println!("{:34} {mend}", "");
    }
}

fn findings(inventory: &Inventory) -> Vec<Finding> {
    let count = inventory.processors().count();
    let mut all = vec![finding(
        "processors",
        count >= 2,
        format!("{count} usable"),
        "shards that share a core sleep instead of polling: round trips take tens of microseconds",
    )];
    let files = getrlimit(Resource::Nofile).current;
    all.push(finding(
        "open files",
        files.is_none_or(|count| count >= 8192),
        files.map_or("unlimited".into(), |count| count.to_string()),
        "ulimit -n 65536; a shard takes about 6 descriptors of the composer",
    ));
    all.push(finding(
        "sealed memory",
        Region::create("doctor", 4096).is_ok(),
        "memfd with seals".into(),
        "needs Linux 3.17 and a sandbox that allows memfd_create; without it nothing runs",
    ));
    let runtime = Runtime::find(None, None);
    all.push(finding(
        "containers",
        runtime.is_ok(),
        runtime.map_or_else(|_| "no OCI runtime".to_owned(), |runtime| runtime.to_string()),
        "apt-get install crun, or name a runtime in SHARD_OCI_RUNTIME; only components with `image` need it",
    ));
    let can_ask = rustix::fs::access(LATENCY_DEVICE, rustix::fs::Access::WRITE_OK).is_ok();
    let found = if can_ask { "processors can be kept from it" } else { "it can't be kept from processors" };
    all.push(finding(
        "sleep",
        can_ask,
        format!("{found}: {LATENCY_DEVICE}"),
        "run the composer as root, or give its user the device; only `idle_latency_us` needs it",
    ));
    let governor =
        fs::read_to_string("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").unwrap_or_default();
    if !governor.is_empty() {
        all.push(finding(
            "frequency",
            governor.trim() == "performance",
            governor.trim().into(),
            "cpupower frequency-set -g performance",
        ));
    }
    all
}

fn finding(what: &'static str, well: bool, found: String, mend: &'static str) -> Finding {
    Finding { what, well, found, mend: (!well).then_some(mend) }
}
