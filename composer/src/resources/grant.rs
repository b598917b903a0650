//! What somebody was given.
//!
//! Invariant: a grant can't be copied and is made by the allocator alone, so what it stands for comes back once at most.

use super::inventory::HugePages;
use serde::Serialize;

/// Parts of one host that belong to whoever holds this, until it goes back to the allocator that made it.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[must_use = "what it stands for is lost unless it goes back to the allocator"]
pub struct Grant {
    pub(super) host: usize,
    pub(super) parts: Vec<Part>,
    pub(super) gpu: Option<Device>,
    pub(super) nic: Option<Device>,
}

/// What was given of one NUMA node.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Part {
    /// The node, by its position in the inventory.
    pub(super) node: usize,
    /// Processors that nobody else has.
    pub processors: Vec<u32>,
    /// Of the processors that nobody has for itself, so much, in thousandths of one.
    pub share_millicores: u64,
    /// Memory.
    pub memory_bytes: u64,
    /// Huge pages.
    pub huge_pages: Option<HugePages>,
}

/// What was given of a GPU or a NIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Device {
    /// Which, by its position in the inventory.
    pub device: usize,
    /// Which instance of a GPU, by its position; it is given as a whole.
    pub instance: Option<usize>,
    /// How much: bytes of a GPU's memory, bits a second of a NIC.
    pub amount: u64,
}

impl Grant {
    /// The host, by its position among the allocator's inventories.
    pub fn host(&self) -> usize {
        self.host
    }

    /// By NUMA node, the main one first.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// The processors that nobody else has, the main node's first.
    pub fn processors(&self) -> impl Iterator<Item = u32> {
        self.parts.iter().flat_map(|part| part.processors.iter().copied())
    }

    /// The share of the processors that nobody has for itself, in thousandths of one.
    pub fn share_millicores(&self) -> u64 {
        self.parts.iter().map(|part| part.share_millicores).sum()
    }

    /// The memory.
    pub fn memory_bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.memory_bytes).sum()
    }

    /// The memory in huge pages, by whole pages.
    pub fn huge_pages_bytes(&self) -> u64 {
        let pages = self.parts.iter().filter_map(|part| part.huge_pages);
        pages.map(|pages| pages.page_bytes * pages.count).sum()
    }

    /// What it has of a GPU.
    pub fn gpu(&self) -> Option<Device> {
        self.gpu
    }

    /// What it has of a NIC.
    pub fn nic(&self) -> Option<Device> {
        self.nic
    }
}

impl Part {
    /// The node, by its position in the host's inventory.
    pub fn node(&self) -> usize {
        self.node
    }
}
