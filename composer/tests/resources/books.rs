//! Books that a test keeps on its own of what was given away: they know nothing of how the allocator counts.

use shard_composer::resources::{Grant, Inventory};
use shardkit::application::Needs;
use std::collections::{BTreeMap, BTreeSet};

/// What everybody has of some hosts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Books {
    processors: BTreeSet<(usize, u32)>,
    /// By host and node: shares and memory; by size of pages too: pages.
    shares: BTreeMap<(usize, usize), u64>,
    memory: BTreeMap<(usize, usize), u64>,
    pages: BTreeMap<(usize, usize, u64), u64>,
    gpus: BTreeMap<(usize, usize, Option<usize>), u64>,
    nics: BTreeMap<(usize, usize), u64>,
}

impl Books {
    /// Writes a grant down, or (`back`) out again.
    ///
    /// # Panics
    /// If something is given twice or comes back twice.
    pub(crate) fn write(&mut self, grant: &Grant, back: bool) {
        let host = grant.host();
        let add = |sum: &mut u64, amount: u64| {
            *sum = if back { sum.checked_sub(amount).expect("it was given") } else { *sum + amount };
        };
        for part in grant.parts() {
            for &id in &part.processors {
                let new = if back {
                    self.processors.remove(&(host, id))
                } else {
                    self.processors.insert((host, id))
                };
                assert!(new, "processor {id} twice");
            }
            let node = (host, part.node());
            add(self.shares.entry(node).or_default(), part.share_millicores);
            add(self.memory.entry(node).or_default(), part.memory_bytes);
            if let Some(pages) = part.huge_pages {
                add(self.pages.entry((host, part.node(), pages.page_bytes)).or_default(), pages.count);
            }
        }
        if let Some(gpu) = grant.gpu() {
            add(self.gpus.entry((host, gpu.device, gpu.instance)).or_default(), gpu.amount);
        }
        if let Some(nic) = grant.nic() {
            add(self.nics.entry((host, nic.device)).or_default(), nic.amount);
        }
    }

    /// Whether a host gave no more than it has.
    pub(crate) fn check(&self, at: usize, host: &Inventory) {
        let mut shared = 0;
        for (position, node) in host.nodes.iter().enumerate() {
            let own = node.processors.iter().filter(|p| self.processors.contains(&(at, p.id))).count();
            let left = node.processors.len() - own;
            shared += left;
            assert!(
                self.share(at, position) <= 1000 * left as u64,
                "shares beyond the processors of node {position}"
            );
            assert!(self.memory(at, position) <= node.memory_bytes, "memory of node {position}");
            for pages in &node.huge_pages {
                assert!(
                    self.pages(at, position, pages.page_bytes) <= pages.count,
                    "huge pages of node {position}"
                );
            }
        }
        assert!(shared > 0, "no processor is shared");
        for (position, gpu) in host.gpus.iter().enumerate() {
            let whole = self.gpu(at, position, None);
            assert!(whole <= if gpu.instances.is_empty() { gpu.memory_bytes } else { 0 }, "GPU {position}");
            for (instance, part) in gpu.instances.iter().enumerate() {
                assert!(self.gpu(at, position, Some(instance)) <= part.memory_bytes, "instance {instance}");
            }
        }
        for (position, nic) in host.nics.iter().enumerate() {
            assert!(self.nic(at, position) <= nic.bits_per_s.unwrap_or(0), "NIC {position}");
        }
    }

    /// Whether a grant is what was needed.
    pub(crate) fn suits(grant: &Grant, needs: &Needs) {
        assert_eq!(grant.processors().count(), needs.cores as usize);
        assert_eq!(grant.share_millicores(), u64::from(needs.share_millicores));
        assert_eq!(grant.memory_bytes(), needs.memory_bytes);
        assert!(grant.huge_pages_bytes() >= needs.huge_pages_bytes);
        let sizes: BTreeSet<u64> =
            grant.parts().iter().filter_map(|part| part.huge_pages).map(|pages| pages.page_bytes).collect();
        assert!(sizes.len() <= 1, "huge pages of one size");
        assert!(grant.gpu().map_or(0, |gpu| gpu.amount) >= needs.gpu_memory_bytes);
        assert_eq!(grant.nic().map_or(0, |nic| nic.amount), needs.bandwidth_bits_per_s);
    }

    /// Whether one of the hosts has room for these needs: all ways to spread the processors are tried.
    pub(crate) fn has_room(&self, hosts: &[Inventory], needs: &Needs) -> bool {
        hosts.iter().enumerate().any(|(at, host)| self.host_has_room(at, host, needs))
    }

    fn host_has_room(&self, at: usize, host: &Inventory, needs: &Needs) -> bool {
        let nodes = || host.nodes.iter().enumerate();
        let memory: u64 = nodes().map(|(n, node)| node.memory_bytes - self.memory(at, n)).sum();
        let mut sizes: Vec<u64> =
            host.nodes.iter().flat_map(|n| n.huge_pages.iter().map(|p| p.page_bytes)).collect();
        sizes.dedup();
        let pages = |size: u64| -> u64 {
            nodes()
                .flat_map(|(n, node)| node.huge_pages.iter().map(move |p| (n, p)))
                .filter(|(_, p)| p.page_bytes == size)
                .map(|(n, p)| p.count - self.pages(at, n, size))
                .sum()
        };
        let huge = needs.huge_pages_bytes;
        let gpu = |position: usize| {
            let gpu = &host.gpus[position];
            let whole = gpu.instances.is_empty()
                && gpu.memory_bytes - self.gpu(at, position, None) >= needs.gpu_memory_bytes;
            let mut instances = gpu.instances.iter().enumerate();
            whole
                || instances.any(|(i, part)| {
                    self.gpu(at, position, Some(i)) == 0 && part.memory_bytes >= needs.gpu_memory_bytes
                })
        };
        let nic =
            |n: usize| host.nics[n].bits_per_s.unwrap_or(0) - self.nic(at, n) >= needs.bandwidth_bits_per_s;
        let free: Vec<(u64, u64)> = nodes()
            .map(|(n, node)| {
                let own = node.processors.iter().filter(|p| self.processors.contains(&(at, p.id))).count();
                ((node.processors.len() - own) as u64, self.share(at, n))
            })
            .collect();
        needs.memory_bytes <= memory
            && (huge == 0 || sizes.iter().any(|&size| huge.div_ceil(size) <= pages(size)))
            && (needs.gpu_memory_bytes == 0 || (0..host.gpus.len()).any(gpu))
            && (needs.bandwidth_bits_per_s == 0 || (0..host.nics.len()).any(nic))
            && can_spread(&free, needs.cores.into(), needs.share_millicores.into(), 0)
    }

    fn share(&self, host: usize, node: usize) -> u64 {
        self.shares.get(&(host, node)).copied().unwrap_or(0)
    }

    fn memory(&self, host: usize, node: usize) -> u64 {
        self.memory.get(&(host, node)).copied().unwrap_or(0)
    }

    fn pages(&self, host: usize, node: usize, size: u64) -> u64 {
        self.pages.get(&(host, node, size)).copied().unwrap_or(0)
    }

    fn gpu(&self, host: usize, gpu: usize, instance: Option<usize>) -> u64 {
        self.gpus.get(&(host, gpu, instance)).copied().unwrap_or(0)
    }

    fn nic(&self, host: usize, nic: usize) -> u64 {
        self.nics.get(&(host, nic)).copied().unwrap_or(0)
    }
}

/// Whether cores and a share can come from nodes, each with its free processors and the shares that were promised of
/// them; `kept` counts the processors that stay shared on the nodes before.
fn can_spread(nodes: &[(u64, u64)], cores: u64, share: u64, kept: u64) -> bool {
    let Some((&(free, promised), rest)) = nodes.split_first() else {
        return cores == 0 && share == 0 && kept > 0;
    };
    (0..=cores.min(free)).any(|own| {
        let Some(left) = (1000 * (free - own)).checked_sub(promised) else { return false };
        // A share may be divided at will: as much of it here as there is room for leaves the most elsewhere.
        can_spread(rest, cores - own, share - share.min(left), kept + free - own)
    })
}
