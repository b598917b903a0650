//! The inventory as it is read from recorded trees of the kernel's files.

use shard_composer::resources::{Allocator, HugePages, Inventory, Nic};
use shardkit::application::Needs;
use std::fs;
use tempfile::TempDir;

/// A tree of files under a root.
pub(crate) struct Tree(TempDir);

impl Tree {
    pub(crate) fn new(files: &[(&str, &str)]) -> Self {
        let tree = Self(tempfile::tempdir().unwrap());
        files.iter().for_each(|(path, text)| tree.write(path, text));
        tree
    }

    pub(crate) fn write(&self, path: &str, text: &str) {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub(crate) fn root(&self) -> &std::path::Path {
        self.0.path()
    }

    fn read(&self) -> Inventory {
        Inventory::read(self.root(), None)
    }
}

const CPU: &str = "sys/devices/system/cpu";
const NODE: &str = "sys/devices/system/node";

/// Two nodes with four cores of two processors each; 7 and 15 are offline, 3 and 11 isolated by the boot parameter, 14 by
/// a partition.
fn two_nodes() -> Tree {
    let tree = Tree::new(&[
        ("sys/devices/system/cpu/online", "0-6,8-14\n"),
        ("sys/devices/system/cpu/isolated", "3,11\n"),
        ("sys/fs/cgroup/cpuset.cpus.isolated", "14\n"),
        ("sys/devices/system/node/online", "0-1\n"),
        ("sys/devices/system/node/node0/cpulist", "0-3,8-11\n"),
        ("sys/devices/system/node/node1/cpulist", "4-6,12-14\n"),
        ("sys/devices/system/node/node0/distance", "10 21\n"),
        ("sys/devices/system/node/node1/distance", "21 10\n"),
        (
            "sys/devices/system/node/node0/meminfo",
            "Node 0 MemTotal:       33554432 kB\nNode 0 MemFree: 1 kB\n",
        ),
        ("sys/devices/system/node/node1/meminfo", "Node 1 MemTotal:       16777216 kB\n"),
        ("sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages", "512\n"),
        ("sys/devices/system/node/node1/hugepages/hugepages-1048576kB/nr_hugepages", "2\n"),
        ("sys/class/net/lo/speed", "\n"),
        ("sys/class/net/eth0/device/numa_node", "1\n"),
        ("sys/class/net/eth0/speed", "100000\n"),
        ("sys/class/net/eth1/device/numa_node", "-1\n"),
        ("sys/class/net/eth1/speed", "-1\n"),
        ("sys/class/infiniband/mlx5_0/device/net/eth0/x", ""),
        ("sys/class/infiniband/mlx5_1/device/numa_node", "0\n"),
        ("sys/class/infiniband/mlx5_1/ports/1/rate", "200 Gb/sec (4X HDR)\n"),
        ("sys/class/infiniband/rxe0/parent", "eth1\n"),
        ("sys/class/infiniband/rxe0/ports/1/rate", "2.5 Gb/sec (1X SDR)\n"),
    ]);
    for id in 0..16 {
        let (first, second) = (id % 8, id % 8 + 8);
        tree.write(&format!("{CPU}/cpu{id}/topology/thread_siblings_list"), &format!("{first},{second}\n"));
        tree.write(&format!("{CPU}/cpu{id}/cache/index0/level"), "1\n");
        tree.write(&format!("{CPU}/cpu{id}/cache/index0/shared_cpu_list"), &format!("{first},{second}\n"));
        tree.write(&format!("{CPU}/cpu{id}/cache/index3/level"), "3\n");
        let cache = if id % 8 < 4 { "0-3,8-11" } else { "4-7,12-15" };
        tree.write(&format!("{CPU}/cpu{id}/cache/index3/shared_cpu_list"), cache);
    }
    tree
}

#[test]
fn two_nodes_with_siblings_offline_and_isolated_processors_are_read() {
    let host = two_nodes().read();
    host.check().unwrap();
    let ids = |node: usize| host.nodes[node].processors.iter().map(|p| p.id).collect::<Vec<_>>();
    assert_eq!((ids(0), ids(1)), (vec![0, 1, 2, 3, 8, 9, 10, 11], vec![4, 5, 6, 12, 13, 14]));
    let cores: Vec<_> = host.nodes[1].processors.iter().map(|p| (p.core, p.cache)).collect();
    assert_eq!(cores, [(4, 4), (5, 4), (6, 4), (4, 4), (5, 4), (6, 4)]);
    let isolated: Vec<_> = host.processors().filter(|p| p.isolated).map(|p| p.id).collect();
    assert_eq!(isolated, [3, 11, 14]);
    assert_eq!(host.nodes[0].distances, [10, 21]);
    assert_eq!(host.nodes[0].memory_bytes, 32 << 30);
    assert_eq!(host.nodes[1].memory_bytes, 13 << 30, "3 GiB of it are huge pages");
    let sizes = [(2 << 20, 512), (1 << 30, 2)].map(|(page_bytes, count)| HugePages { page_bytes, count });
    assert_eq!(host.nodes[1].huge_pages, sizes);
    let nic = |name: &str, rdma: Option<&str>, node, bits_per_s| Nic {
        name: name.into(),
        rdma: rdma.map(Into::into),
        node,
        bits_per_s,
    };
    let nics = [
        nic("eth0", Some("mlx5_0"), Some(1), Some(100_000_000_000)),
        nic("eth1", Some("rxe0"), None, None),
        nic("mlx5_1", Some("mlx5_1"), Some(0), Some(200_000_000_000)),
    ];
    assert_eq!(host.nics, nics);

    let mut allocator = Allocator::new(vec![host]).unwrap();
    let grant = allocator.allocate(&Needs { cores: 2, ..Needs::default() }).unwrap();
    assert_eq!(grant.processors().collect::<Vec<_>>(), [3, 11], "a whole isolated core");
}

#[test]
fn only_what_this_process_may_use_is_given_out() {
    let host = Inventory::read(two_nodes().root(), Some(&[2, 5, 7, 99]));
    assert_eq!(host.processors().map(|p| p.id).collect::<Vec<_>>(), [2, 5], "7 is offline, 99 is not there");
}

#[test]
fn a_host_without_numa_is_one_node() {
    let tree = Tree::new(&[
        ("sys/devices/system/cpu/online", "0-1\n"),
        ("proc/meminfo", "MemTotal:        1048576 kB\n"),
        ("sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "256\n"),
    ]);
    let host = tree.read();
    assert_eq!(host.nodes.len(), 1);
    assert_eq!((host.processors().count(), host.memory_bytes()), (2, 512 << 20));
}

#[test]
fn garbage_in_the_kernels_files_is_taken_as_the_plainest_case() {
    for garbage in
        ["", "\0\0", "-1", "x", "99999999999999999999999", "0-", "0-4294967295", "1,1,1", "0-3\n4-5"]
    {
        let tree = two_nodes();
        for path in [
            format!("{CPU}/online"),
            format!("{CPU}/isolated"),
            format!("{CPU}/cpu1/topology/thread_siblings_list"),
            format!("{CPU}/cpu1/cache/index3/level"),
            format!("{CPU}/cpu2/cache/index3/shared_cpu_list"),
            format!("{NODE}/online"),
            format!("{NODE}/node0/cpulist"),
            format!("{NODE}/node1/cpulist"),
            format!("{NODE}/node0/distance"),
            format!("{NODE}/node0/meminfo"),
            format!("{NODE}/node1/hugepages/hugepages-2048kB/nr_hugepages"),
            format!("{NODE}/node1/hugepages/hugepages-{garbage}kB/nr_hugepages").replace(['\0', '\n'], ""),
            "sys/class/net/eth0/device/numa_node".into(),
            "sys/class/net/eth0/speed".into(),
            "sys/class/infiniband/mlx5_1/ports/1/rate".into(),
        ] {
            tree.write(&path, garbage);
            let host = tree.read();
            host.check().unwrap_or_else(|error| panic!("{path}: {error}"));
            drop(Allocator::new(vec![host]).unwrap().allocate(&Needs::default()).unwrap());
        }
    }
    let nothing = Tree::new(&[]).read();
    nothing.check().unwrap();
    assert_eq!(nothing.processors().count(), 1);
}
