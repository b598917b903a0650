//! What a process may use at the most, and how the kernel is told.

use shard_runtime::contain::PROCESSES_BESIDE;
use shardkit::application::Component;

/// Every shard weighs the same where the processors do not suffice; it is what the kernel gives a new group.
pub(super) const WEIGHT: u32 = 100;
/// The heaviest that a group can be.
pub(super) const WEIGHT_MAX: usize = 10_000;
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
    /// Cores that are its alone.
    pub(crate) cores: Vec<usize>,
    /// Whether it may use RDMA devices; `None` if nobody has said so.
    pub(crate) rdma: Option<bool>,
}

impl Limits {
    /// Those of a component's shards, with these processors of their own.
    pub(crate) fn of(component: &Component, cores: Vec<usize>) -> Self {
        Self {
            memory_bytes: component.needs.memory_bytes,
            processes: component.needs.processes,
            beside: if component.is_image() { PROCESSES_BESIDE } else { 0 },
            cores,
            rdma: component.isolation.as_ref().map(|allow| allow.rdma),
        }
    }

    /// What suffices for either.
    pub(crate) fn or(self, other: Self) -> Self {
        let no_limit = self.memory_bytes == 0 || other.memory_bytes == 0;
        Self {
            memory_bytes: if no_limit { 0 } else { self.memory_bytes.max(other.memory_bytes) },
            processes: self.processes.max(other.processes),
            beside: self.beside.max(other.beside),
            cores: Vec::new(),
            rdma: self.rdma.zip(other.rdma).map(|(one, other)| one || other),
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
            ("cpu", "cpu.weight", WEIGHT.to_string()),
        ];
        if let Some(rdma) = self.rdma {
            let (handles, objects) = if rdma { (RDMA_HANDLES_MAX, RDMA_OBJECTS_MAX) } else { (0, 0) };
            let lines =
                devices.iter().map(|device| format!("{device} hca_handle={handles} hca_object={objects}"));
            files.extend(lines.map(|line| ("rdma", "rdma.max", line)));
        }
        files
    }
}

/// The RDMA devices of this host.
pub(super) fn devices() -> Vec<String> {
    let entries = std::fs::read_dir("/sys/class/infiniband").into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}
