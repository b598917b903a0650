//! The processors of this host, as the kernel tells: which there are, which are isolated, which we may use.

use rustix::thread::{CpuSet, sched_setaffinity};
use std::path::Path;
use std::{fs, io};

/// A processor as the kernel schedules on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Core {
    /// Its number.
    pub id: usize,
    /// The NUMA node that it belongs to.
    pub node: usize,
    /// The processors that share its execution units, itself included.
    pub siblings: Vec<usize>,
    /// Whether the kernel keeps other work off it (`isolcpus`, or an isolated cpuset partition).
    pub isolated: bool,
}

/// The processors that this process may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    /// In order of their numbers; never empty.
    pub cores: Vec<Core>,
}

impl Topology {
    /// Reads it from the kernel. What can't be read is taken as the plainest case: one node, no siblings.
    pub fn read() -> Self {
        let allowed = core_affinity::get_core_ids().unwrap_or_default();
        let mut ids: Vec<usize> = allowed.into_iter().map(|core| core.id).collect();
        if ids.is_empty() {
            ids.push(0);
        }
        Self::read_from(Path::new("/sys/devices/system"), ids)
    }

    fn read_from(system: &Path, ids: Vec<usize>) -> Self {
        let list = |path: String| parse_list(&fs::read_to_string(system.join(path)).unwrap_or_default());
        let isolated = list("cpu/isolated".into());
        let nodes: Vec<(usize, Vec<usize>)> = list("node/online".into())
            .into_iter()
            .map(|node| (node, list(format!("node/node{node}/cpulist"))))
            .collect();
        let core = |id: usize| {
            let mut siblings = list(format!("cpu/cpu{id}/topology/thread_siblings_list"));
            if siblings.is_empty() {
                siblings.push(id);
            }
            let node = nodes.iter().find(|(_, cores)| cores.contains(&id)).map_or(0, |(node, _)| *node);
            Core { id, node, siblings, isolated: isolated.contains(&id) }
        };
        let mut cores: Vec<Core> = ids.into_iter().map(core).collect();
        cores.sort_by_key(|core| core.id);
        Self { cores }
    }
}

/// Parses the kernel's lists of numbers, such as `0-3,8`. What it can't read it leaves out.
pub fn parse_list(text: &str) -> Vec<usize> {
    let mut numbers = Vec::new();
    for part in text.trim().split(',').filter(|part| !part.is_empty()) {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(from), Ok(to)) = (from.trim().parse::<usize>(), to.trim().parse::<usize>())
            && to < CpuSet::MAX_CPU
        {
            numbers.extend(from..=to);
        }
    }
    numbers
}

/// The processors that the calling thread may run on, in order of their numbers; never empty.
pub fn allowed() -> Vec<usize> {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    let mut ids: Vec<usize> = cores.into_iter().map(|core| core.id).collect();
    ids.sort_unstable();
    if ids.is_empty() {
        ids.push(0);
    }
    ids
}

/// Pins the calling thread to one processor. False if the kernel refused.
pub fn pin(core: usize) -> bool {
    core_affinity::set_for_current(core_affinity::CoreId { id: core })
}

/// Lets the calling thread run on these processors and no others.
///
/// # Errors
/// If the kernel refuses, as it does for an empty list.
pub fn allow(cores: &[usize]) -> io::Result<()> {
    let mut set = CpuSet::new();
    cores.iter().filter(|core| **core < CpuSet::MAX_CPU).for_each(|core| set.set(*core));
    Ok(sched_setaffinity(None, &set)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_the_kernel_are_read() {
        assert_eq!(parse_list("0-3,8\n"), [0, 1, 2, 3, 8]);
        assert_eq!(parse_list(""), Vec::<usize>::new());
        assert_eq!(parse_list("x,2-,3"), [3]);
        assert_eq!(parse_list("0-99999999999"), Vec::<usize>::new());
    }

    #[test]
    fn nodes_siblings_and_isolation_come_from_the_kernels_files() {
        let folder = std::env::temp_dir().join(format!("shard-topology-{}", std::process::id()));
        let write = |path: &str, text: &str| {
            let path = folder.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("cpu/isolated", "2-3\n");
        write("node/online", "0-1\n");
        write("node/node0/cpulist", "0-1\n");
        write("node/node1/cpulist", "2-3\n");
        write("cpu/cpu2/topology/thread_siblings_list", "2,3\n");
        let topology = Topology::read_from(&folder, vec![2, 0]);
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!(topology.cores[0], Core { id: 0, node: 0, siblings: vec![0], isolated: false });
        assert_eq!(topology.cores[1], Core { id: 2, node: 1, siblings: vec![2, 3], isolated: true });
    }

    #[test]
    fn this_host_has_a_core_that_a_thread_can_be_pinned_to() {
        let topology = Topology::read();
        let first = topology.cores[0].id;
        assert!(std::thread::spawn(move || pin(first)).join().unwrap());
    }
}
