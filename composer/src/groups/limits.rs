//! What a process may use at the most, and how the kernel is told.

use super::disks::Disks;
use shard_runtime::contain::PROCESSES_BESIDE;
use shardkit::application::{Component, Needs};
use std::path::{Path, PathBuf};

/// What the kernel gives a new group: so much weighs a shard that asks for no part of the processors.
pub(super) const WEIGHT: u32 = 100;
/// The heaviest that a group can be; the lightest is 1.
pub(super) const WEIGHT_MAX: u32 = 10_000;
/// Each thousandth of a processor that a shard was given weighs so much. So the least that can be asked for has the least
/// weight, and ten processors the most.
const WEIGHT_PER_MILLICORE: u32 = 1;
/// How often a shard with RDMA links may open each device …
const RDMA_HANDLES_MAX: u32 = 8;
/// … and how many objects (queue pairs, completion queues, registrations …) it may have on each.
const RDMA_OBJECTS_MAX: u32 = 4_096;

/// See the head of this file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Memory, in bytes; 0 for no limit. What it touches first counts as its own, rings included.
    pub(crate) memory_bytes: u64,
    /// Processes and threads.
    pub(crate) processes: u32,
    /// So many more, which are not its own: those that run a container.
    pub(crate) beside: u32,
    /// What it weighs where the processors do not suffice for all: in proportion to those that it was given.
    pub(crate) weight: u32,
    /// Cores that are its alone.
    pub(crate) cores: Vec<usize>,
    /// Whether it may use RDMA devices; `None` if nobody has said so.
    pub(crate) rdma: Option<bool>,
    /// How fast it may use disks.
    pub(crate) disks: Disks,
}

impl Limits {
    /// Those of a component's shards, with these processors of their own. `program` is the file that they run.
    pub(crate) fn of(component: &Component, program: Option<&Path>, cores: Vec<usize>) -> Self {
        let allowed = component.isolation.iter().flat_map(|allow| allow.read.iter().chain(&allow.write));
        let paths = allowed.map(PathBuf::as_path).chain(program);
        let (read, write) = (component.needs.disk_read_bytes_per_s, component.needs.disk_write_bytes_per_s);
        Self {
            memory_bytes: component.needs.memory_bytes,
            processes: component.needs.processes,
            beside: if component.is_image() { PROCESSES_BESIDE } else { 0 },
            weight: weight(&component.needs),
            cores,
            rdma: component.isolation.as_ref().map(|allow| allow.rdma),
            disks: Disks::below(read, write, paths),
        }
    }

    /// What suffices for either.
    pub(crate) fn or(self, other: Self) -> Self {
        let no_limit = self.memory_bytes == 0 || other.memory_bytes == 0;
        Self {
            memory_bytes: if no_limit { 0 } else { self.memory_bytes.max(other.memory_bytes) },
            processes: self.processes.max(other.processes),
            beside: self.beside.max(other.beside),
            weight: self.weight.max(other.weight),
            cores: Vec::new(),
            rdma: self.rdma.zip(other.rdma).map(|(one, other)| one || other),
            disks: Disks::default(),
        }
    }

    /// What is to be written: the controller, its file, the text.
    pub(super) fn files(&self, devices: &[String]) -> Vec<(&'static str, &'static str, String)> {
        let memory = if self.memory_bytes == 0 { "max".into() } else { self.memory_bytes.to_string() };
        let swap = if self.memory_bytes == 0 { "max" } else { "0" };
        let mut files = vec![
            ("memory", "memory.max", memory),
            ("memory", "memory.swap.max", swap.into()),
            // Half a shard is worth nothing.
            ("memory", "memory.oom.group", "1".into()),
            ("pids", "pids.max", self.processes.saturating_add(self.beside).to_string()),
            ("cpu", "cpu.weight", self.weight.to_string()),
            ("io", "io.weight", format!("default {}", self.weight)),
        ];
        files.extend(self.disks.lines().map(|line| ("io", "io.max", line)));
        if let Some(rdma) = self.rdma {
            let (handles, objects) = if rdma { (RDMA_HANDLES_MAX, RDMA_OBJECTS_MAX) } else { (0, 0) };
            let lines =
                devices.iter().map(|device| format!("{device} hca_handle={handles} hca_object={objects}"));
            files.extend(lines.map(|line| ("rdma", "rdma.max", line)));
        }
        files
    }
}

/// The weight of a shard with these needs.
pub(super) fn weight(needs: &Needs) -> u32 {
    let given = needs.cores.saturating_mul(1000).saturating_add(needs.share_millicores);
    if given == 0 { WEIGHT } else { given.saturating_mul(WEIGHT_PER_MILLICORE).clamp(1, WEIGHT_MAX) }
}

/// The RDMA devices of this host.
pub(super) fn devices() -> Vec<String> {
    let entries = std::fs::read_dir("/sys/class/infiniband").into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}
