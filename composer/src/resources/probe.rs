//! What a host has, read from the kernel's files and, for GPUs, from NVML.
//!
//! Invariant: whatever the files hold, an inventory comes out that passes its check, unless there is no processor at all.
//! What can't be read is taken as the plainest case: one node, no siblings, no device.

use super::inventory::{DEVICES_MAX, Gpu, HugePages, Inventory, Nic, Node, PROCESSORS_MAX, Processor};
use super::nvml;
use shard_runtime::topology::{allowed, parse_list};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The most memory that is believed, in bytes.
const BYTES_MAX: u64 = 1 << 50;
/// The highest speed that is believed, in bits a second.
const BITS_PER_S_MAX: u64 = 10_000_000_000_000;

impl Inventory {
    /// What this host has for this process.
    pub fn probe() -> Self {
        let root = Path::new("/");
        let gpus = gpus(root).unwrap_or_default();
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Self { host, gpus, ..Self::read(root, Some(&allowed())) }
    }

    /// What the kernel's files under a root tell (`sys` and `proc`), without GPUs. Of the processors only those that are
    /// `allowed`, if that is given.
    pub fn read(root: &Path, allowed: Option<&[usize]>) -> Self {
        let tree = Tree { root };
        let nodes = tree.nodes(allowed);
        let known = |node: &u32| nodes.iter().any(|known| known.id == *node);
        let mut nics = tree.nics();
        nics.truncate(DEVICES_MAX);
        nics.iter_mut().for_each(|nic| nic.node = nic.node.filter(known));
        Self { host: "this host".into(), nodes, gpus: Vec::new(), nics }
    }
}

/// The GPUs with their instances, as NVML tells.
///
/// # Errors
/// Why there are none, in words.
pub fn gpus(root: &Path) -> Result<Vec<Gpu>, String> {
    let tree = Tree { root };
    nvml::gpus(|bus| tree.node_of(&format!("sys/bus/pci/devices/{}", nvml::pci_folder(bus))))
}

struct Tree<'a> {
    root: &'a Path,
}

impl Tree<'_> {
    fn text(&self, path: &str) -> String {
        fs::read_to_string(self.root.join(path)).unwrap_or_default()
    }

    fn list(&self, path: &str) -> Vec<usize> {
        parse_list(&self.text(path))
    }

    fn number<T: std::str::FromStr>(&self, path: &str) -> Option<T> {
        self.text(path).trim().parse().ok()
    }

    /// The names in a folder, sorted.
    fn names(&self, path: &str) -> Vec<String> {
        let entries = fs::read_dir(self.root.join(path)).into_iter().flatten().flatten();
        let mut names: Vec<String> =
            entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        names
    }

    fn nodes(&self, allowed: Option<&[usize]>) -> Vec<Node> {
        let system = "sys/devices/system";
        let mut online: BTreeSet<usize> = self.list(&format!("{system}/cpu/online")).into_iter().collect();
        if online.is_empty() {
            online.extend(allowed.unwrap_or(&[0]));
        }
        if let Some(allowed) = allowed {
            online.retain(|id| allowed.contains(id));
        }
        let mut isolated = self.list(&format!("{system}/cpu/isolated"));
        isolated.extend(self.list("sys/fs/cgroup/cpuset.cpus.isolated"));

        let mut ids: Vec<usize> = self.list(&format!("{system}/node/online"));
        ids.sort_unstable();
        ids.dedup();
        ids.truncate(super::NODES_MAX);
        let mut nodes: Vec<Node> = ids.iter().map(|&id| self.node(id, &mut online, &isolated)).collect();
        if nodes.is_empty() {
            let huge_pages = self.huge_pages("sys/kernel/mm/hugepages");
            nodes.push(Node { huge_pages, ..Node::default() });
        }
        // Of one node the host's own sum is more exact: memory that was plugged in counts there at once.
        if let ([only], Some(bytes)) = (nodes.as_mut_slice(), memory(&self.text("proc/meminfo"))) {
            only.memory_bytes = without(bytes, &only.huge_pages);
        }
        // What no node claims belongs to the first.
        let mut rest: Vec<Processor> =
            online.iter().filter_map(|&id| self.processor(id, &isolated)).collect();
        nodes[0].processors.append(&mut rest);
        nodes[0].processors.sort_by_key(|processor| processor.id);
        // Distances count by position, so they must name every node.
        let count = nodes.len();
        nodes.iter_mut().filter(|node| node.distances.len() != count).for_each(|node| node.distances.clear());
        nodes
    }

    /// A node, with those of its processors that are in `online`; they are taken out.
    fn node(&self, id: usize, online: &mut BTreeSet<usize>, isolated: &[usize]) -> Node {
        let folder = format!("sys/devices/system/node/node{id}");
        let mut processors: Vec<Processor> = self
            .list(&format!("{folder}/cpulist"))
            .into_iter()
            .filter(|processor| online.remove(processor))
            .filter_map(|processor| self.processor(processor, isolated))
            .collect();
        processors.sort_by_key(|processor| processor.id);
        let distances = self.text(&format!("{folder}/distance"));
        let distances: Result<Vec<u32>, _> = distances.split_whitespace().map(str::parse).collect();
        let huge_pages = self.huge_pages(&format!("{folder}/hugepages"));
        let memory_bytes = memory(&self.text(&format!("{folder}/meminfo"))).unwrap_or(0);
        Node {
            id: id as u32,
            distances: distances.unwrap_or_default(),
            processors,
            memory_bytes: without(memory_bytes, &huge_pages),
            huge_pages,
        }
    }

    fn processor(&self, id: usize, isolated: &[usize]) -> Option<Processor> {
        let folder = format!("sys/devices/system/cpu/cpu{id}");
        let least = |path: String| {
            let list = self.list(&path);
            list.contains(&id).then(|| list.into_iter().min()).flatten()
        };
        let core = least(format!("{folder}/topology/thread_siblings_list")).unwrap_or(id);
        let caches = (0..8).map(|index| format!("{folder}/cache/index{index}"));
        let levels = caches.filter_map(|cache| Some((self.number::<u32>(&format!("{cache}/level"))?, cache)));
        let last = levels.max_by_key(|(level, _)| *level);
        let cache = last.and_then(|(_, cache)| least(format!("{cache}/shared_cpu_list"))).unwrap_or(core);
        let isolated = isolated.contains(&id);
        (id < PROCESSORS_MAX).then_some(Processor {
            id: id as u32,
            core: core as u32,
            cache: cache as u32,
            isolated,
        })
    }

    fn huge_pages(&self, folder: &str) -> Vec<HugePages> {
        let names = self.names(folder);
        let sizes = names.iter().filter_map(|name| {
            let kib: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
            let page_bytes = kib.checked_mul(1024).filter(|bytes| (1..=BYTES_MAX).contains(bytes))?;
            let count: u64 = self.number(&format!("{folder}/{name}/nr_hugepages"))?;
            (count.checked_mul(page_bytes)? <= BYTES_MAX).then_some(HugePages { page_bytes, count })
        });
        let mut sizes: Vec<HugePages> = sizes.take(DEVICES_MAX).collect();
        sizes.sort_by_key(|pages| pages.page_bytes);
        sizes
    }

    fn nics(&self) -> Vec<Nic> {
        let mut nics: Vec<Nic> = Vec::new();
        for name in self.names("sys/class/net") {
            let folder = format!("sys/class/net/{name}");
            // Bridges, tunnels and the like lead out of the host through something else.
            if !self.exists(&format!("{folder}/device")) {
                continue;
            }
            let node = self.node_of(&format!("{folder}/device"));
            let mbit: Option<u64> = self.number(&format!("{folder}/speed"));
            let bits_per_s = mbit.and_then(|mbit| mbit.checked_mul(1_000_000)).filter(believable);
            nics.push(Nic { name, rdma: None, node, bits_per_s });
        }
        for device in self.names("sys/class/infiniband") {
            let folder = format!("sys/class/infiniband/{device}");
            let rate = || {
                let ports = self.names(&format!("{folder}/ports"));
                ports.iter().filter_map(|port| rate(&self.text(&format!("{folder}/ports/{port}/rate")))).max()
            };
            // A device in software names its interface; one in hardware has it beside itself.
            let parent = self.text(&format!("{folder}/parent")).trim().to_owned();
            let beside = self.names(&format!("{folder}/device/net"));
            match nics.iter_mut().find(|nic| nic.name == parent || beside.contains(&nic.name)) {
                Some(nic) => {
                    nic.bits_per_s = nic.bits_per_s.or_else(|| if parent.is_empty() { rate() } else { None });
                    nic.rdma = Some(device);
                }
                None => {
                    let node = self.node_of(&format!("{folder}/device"));
                    let bits_per_s = if parent.is_empty() { rate() } else { None };
                    nics.push(Nic { name: device.clone(), rdma: Some(device), node, bits_per_s });
                }
            }
        }
        nics.sort_by(|a, b| a.name.cmp(&b.name));
        nics.dedup_by(|a, b| a.name == b.name);
        nics
    }

    fn exists(&self, path: &str) -> bool {
        let path: PathBuf = self.root.join(path);
        path.exists()
    }

    /// The NUMA node of a device; the kernel says -1 where it knows none.
    fn node_of(&self, folder: &str) -> Option<u32> {
        self.number(&format!("{folder}/numa_node"))
    }
}

/// The bytes behind `MemTotal:` in one of the kernel's tables.
fn memory(text: &str) -> Option<u64> {
    let words: Vec<&str> = text.lines().find(|line| line.contains("MemTotal:"))?.split_whitespace().collect();
    let at = words.iter().position(|word| *word == "MemTotal:")?;
    let kib: u64 = words.get(at + 1)?.parse().ok()?;
    kib.checked_mul(1024).filter(|bytes| *bytes <= BYTES_MAX)
}

/// The memory that huge pages leave.
fn without(memory_bytes: u64, huge_pages: &[HugePages]) -> u64 {
    let huge: u64 = huge_pages.iter().map(|pages| pages.page_bytes * pages.count).sum();
    memory_bytes.saturating_sub(huge)
}

/// A rate as the kernel writes it: `100 Gb/sec (4X EDR)`, `2.5 Gb/sec (1X SDR)`.
fn rate(text: &str) -> Option<u64> {
    let (number, unit) = text.trim().split_once(' ')?;
    let unit_mbit = match unit.split_whitespace().next()? {
        "Gb/sec" => 1_000,
        "Mb/sec" => 1,
        _ => return None,
    };
    let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
    let tenths = whole.parse::<u64>().ok()?.checked_mul(10)?.checked_add(part.get(..1)?.parse().ok()?)?;
    tenths.checked_mul(unit_mbit * 100_000).filter(believable)
}

fn believable(bits_per_s: &u64) -> bool {
    (1..=BITS_PER_S_MAX).contains(bits_per_s)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_as_the_kernel_writes_them() {
        assert_eq!(rate("100 Gb/sec (4X EDR)\n"), Some(100_000_000_000));
        assert_eq!(rate("2.5 Gb/sec (1X SDR)"), Some(2_500_000_000));
        for text in ["", "fast", "1 Gb", "x Gb/sec", "1.x Gb/sec", "99999999999999999999 Gb/sec", "0 Gb/sec"]
        {
            assert_eq!(rate(text), None, "{text}");
        }
    }

    #[test]
    fn this_host_has_an_inventory_that_can_be_given_out() {
        Inventory::probe().check().unwrap();
    }
}
