//! What a host has.
//!
//! Invariant: an inventory that passed [`Inventory::check`] has a processor, no processor, node, GPU or NIC twice, and
//! sums that fit 64 bits.

use serde::Serialize;
use std::collections::BTreeSet;

/// The most NUMA nodes of a host.
pub const NODES_MAX: usize = 64;
/// The most processors of a host; their numbers are below it, too.
pub const PROCESSORS_MAX: usize = 8_192;
/// The most GPUs of a host, instances of one GPU, NICs of a host, and sizes of huge pages of a node.
pub const DEVICES_MAX: usize = 256;
/// The most that a host may have of anything that is counted in bytes or bits a second.
const AMOUNT_MAX: u64 = 1 << 56;
/// How far nodes are from each other where nobody says, as the kernel counts it.
const DISTANCE_FAR: u32 = 20;
/// How far a node is from itself, as the kernel counts it.
const DISTANCE_NEAR: u32 = 10;

/// What a host has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Inventory {
    /// The host's name.
    pub host: String,
    /// By NUMA node, in order of their numbers.
    pub nodes: Vec<Node>,
    /// The GPUs.
    pub gpus: Vec<Gpu>,
    /// The ways out of the host.
    pub nics: Vec<Nic>,
}

/// A NUMA node. A host without NUMA is one node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Node {
    /// The kernel's number.
    pub id: u32,
    /// How far the host's nodes are, in their order; empty for the usual distances.
    pub distances: Vec<u32>,
    /// The processors that may be used, in order of their numbers.
    pub processors: Vec<Processor>,
    /// Its memory without that of huge pages.
    pub memory_bytes: u64,
    /// Its huge pages by size, the smallest first.
    pub huge_pages: Vec<HugePages>,
}

/// A processor as the kernel schedules on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Processor {
    /// The kernel's number.
    pub id: u32,
    /// The physical core: the lowest number among the processors that share its execution units.
    pub core: u32,
    /// The last cache: the lowest number among the processors that share it.
    pub cache: u32,
    /// Whether the kernel keeps other work off it (`isolcpus`, or an isolated cpuset partition).
    pub isolated: bool,
}

/// Huge pages of one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct HugePages {
    /// The size of one.
    pub page_bytes: u64,
    /// How many there are.
    pub count: u64,
}

/// A GPU.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Gpu {
    /// Its name: the UUID that its driver gives it, or what a host file calls it.
    pub name: String,
    /// The NUMA node that it hangs on, if that is known.
    pub node: Option<u32>,
    /// Its memory.
    pub memory_bytes: u64,
    /// The instances that it is divided into. If there are any, only they can be had.
    pub instances: Vec<GpuInstance>,
}

/// A part of a GPU with memory and processors of its own (MIG).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GpuInstance {
    /// Its name: the UUID that its driver gives it, or what a host file calls it.
    pub name: String,
    /// Its memory.
    pub memory_bytes: u64,
}

/// A way out of the host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Nic {
    /// The network interface, or the RDMA device that has none.
    pub name: String,
    /// Its RDMA device.
    pub rdma: Option<String>,
    /// The NUMA node that it hangs on, if that is known.
    pub node: Option<u32>,
    /// Its speed; `None` if nobody knows, and then no bandwidth can be promised.
    pub bits_per_s: Option<u64>,
}

/// What is wrong with an inventory.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("host `{host}`: {what}")]
pub struct InventoryError {
    /// The host.
    pub host: String,
    /// What is wrong, and what would be right.
    pub what: String,
}

impl Inventory {
    /// A host that has nothing: what a host file begins with that says all.
    pub fn empty() -> Self {
        Self::default()
    }

    /// All processors, node by node.
    pub fn processors(&self) -> impl Iterator<Item = &Processor> {
        self.nodes.iter().flat_map(|node| &node.processors)
    }

    /// Its memory without that of huge pages.
    pub fn memory_bytes(&self) -> u64 {
        self.nodes.iter().map(|node| node.memory_bytes).sum()
    }

    /// Its memory in huge pages.
    pub fn huge_pages_bytes(&self) -> u64 {
        let sizes = self.nodes.iter().flat_map(|node| &node.huge_pages);
        sizes.map(|pages| pages.page_bytes.saturating_mul(pages.count)).sum()
    }

    /// The memory of its GPUs that can be had.
    pub fn gpu_memory_bytes(&self) -> u64 {
        self.gpus.iter().map(Gpu::usable_bytes).sum()
    }

    /// How far the node at one position is from the one at another, as the kernel counts.
    pub(super) fn distance(&self, from: usize, to: usize) -> u32 {
        let usual = if from == to { DISTANCE_NEAR } else { DISTANCE_FAR };
        self.nodes[from].distances.get(to).copied().unwrap_or(usual)
    }

    /// Whether it keeps the promise at the head of this file.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), InventoryError> {
        let wrong = |what: String| Err(InventoryError { host: self.host.clone(), what });
        for (what, count, max) in [
            ("nodes", self.nodes.len(), NODES_MAX),
            ("processors", self.processors().count(), PROCESSORS_MAX),
            ("GPUs", self.gpus.len(), DEVICES_MAX),
            ("NICs", self.nics.len(), DEVICES_MAX),
            (
                "instances of one GPU",
                self.gpus.iter().map(|g| g.instances.len()).max().unwrap_or(0),
                DEVICES_MAX,
            ),
            ("page sizes", self.nodes.iter().map(|n| n.huge_pages.len()).max().unwrap_or(0), DEVICES_MAX),
        ] {
            if count > max {
                return wrong(format!("there are {count} {what}; {max} at most can be given out"));
            }
        }
        if self.processors().next().is_none() {
            return wrong("it has no processor that may be used; give a node `processors = \"0-3\"`".into());
        }
        if let Some(high) = self.processors().find(|p| p.id as usize >= PROCESSORS_MAX) {
            return wrong(format!("processor {} is too high; use numbers below {PROCESSORS_MAX}", high.id));
        }
        if let Some(twice) = twice(self.processors().map(|processor| processor.id)) {
            return wrong(format!("processor {twice} is there twice; name each in one node only"));
        }
        if let Some(twice) = twice(self.nodes.iter().map(|node| node.id)) {
            return wrong(format!("node {twice} is there twice; name each once"));
        }
        let instances = self.gpus.iter().flat_map(|gpu| gpu.instances.iter().map(|instance| &instance.name));
        if let Some(twice) = twice(self.gpus.iter().map(|gpu| &gpu.name).chain(instances)) {
            return wrong(format!("the GPU or instance `{twice}` is there twice; name each once"));
        }
        if let Some(twice) = twice(self.nics.iter().map(|nic| &nic.name)) {
            return wrong(format!("the NIC `{twice}` is there twice; name each once"));
        }
        let huge = self.nodes.iter().flat_map(|node| &node.huge_pages);
        if huge.clone().any(|pages| pages.page_bytes == 0) {
            return wrong("a huge page has 0 bytes; give it its size".into());
        }
        let amounts = [
            ("memory", sum(self.nodes.iter().map(|node| node.memory_bytes))),
            ("memory in huge pages", sum(huge.map(|pages| pages.page_bytes.saturating_mul(pages.count)))),
            ("GPU memory", sum(self.gpus.iter().map(|g| g.memory_bytes.max(g.usable_bytes())))),
            ("bandwidth", sum(self.nics.iter().filter_map(|nic| nic.bits_per_s))),
        ];
        match amounts.into_iter().find(|(_, amount)| *amount > AMOUNT_MAX) {
            Some((what, _)) => wrong(format!("it has more than {AMOUNT_MAX} of {what}; write what it has")),
            None => Ok(()),
        }
    }
}

impl Gpu {
    /// The memory that can be had of it.
    fn usable_bytes(&self) -> u64 {
        match self.instances.as_slice() {
            [] => self.memory_bytes,
            instances => sum(instances.iter().map(|instance| instance.memory_bytes)),
        }
    }
}

fn sum(amounts: impl Iterator<Item = u64>) -> u64 {
    amounts.fold(0, u64::saturating_add)
}

fn twice<T: Ord + Clone>(mut all: impl Iterator<Item = T>) -> Option<T> {
    let mut seen = BTreeSet::new();
    all.find(|one| !seen.insert(one.clone()))
}
