//! The table of limits on recorded trees of the kernel's files.

use crate::probe::Tree;
use shard_composer::resources::limits::{Facts, Limit, State, Tried, limits};
use shard_composer::resources::{Gpu, GpuInstance, Inventory};
use shard_runtime::isolation::{Absent, Measure, Probed};
use std::path::Path;

/// What control groups hold.
const HELD: [&str; 6] =
    ["cpu.weight", "memory.max", "pids.max", "rdma.max", "cgroup.freeze", "cpuset.cpus.partition"];

fn tried(what: &'static str, mend: Option<&str>) -> Tried {
    Tried { what, evidence: format!("{what}: tried"), mend: mend.map(str::to_owned) }
}

/// Each measure of isolation, done or refused with this number.
fn probed(errno: Option<i32>) -> Vec<Probed> {
    let probed = |measure| Probed { measure, absent: errno.map(|errno| Absent { measure, errno }) };
    Measure::ALL.into_iter().map(probed).collect()
}

/// A process that may do much, on a host with everything that no file tells.
fn facts() -> Facts {
    Facts {
        groups: HELD.map(|what| tried(what, None)).into(),
        isolation: Ok(probed(None)),
        memlock_bytes: None,
        real_time: tried("real-time priority", None),
        interrupts: tried("IRQ affinity", None),
        pidfd: true,
        membarrier: true,
        landlock: Some(4),
        gpus: Err("libnvidia-ml.so.1: cannot open shared object file".into()),
        rdma: Ok("rxe0, the only one".into()),
    }
}

fn table(tree: &Tree, facts: &Facts) -> Vec<Limit> {
    limits(tree.root(), &Inventory::read(tree.root(), None), facts)
}

fn find<'a>(table: &'a [Limit], what: &str) -> &'a Limit {
    table.iter().find(|limit| limit.what == what).unwrap_or_else(|| panic!("{what} is not in the table"))
}

fn four_processors() -> Tree {
    Tree::new(&[
        ("sys/devices/system/cpu/online", "0-3\n"),
        ("sys/devices/system/cpu/isolated", "\n"),
        ("proc/meminfo", "MemTotal: 1048576 kB\n"),
        ("sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "0\n"),
        ("proc/self/ns/user", ""),
        ("proc/sys/user/max_user_namespaces", "15000\n"),
        ("proc/sys/kernel/seccomp/actions_avail", "kill_process errno allow\n"),
    ])
}

#[test]
fn a_host_with_version_2_of_control_groups_enforces_what_its_controllers_can() {
    let tree = four_processors();
    tree.write("sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory pids rdma\n");
    tree.write("proc/self/cgroup", "0::/user/shards\n");
    tree.write("sys/fs/cgroup/user/shards/cgroup.controllers", "cpuset cpu memory pids\n");
    tree.write("sys/fs/cgroup/user/shards/cgroup.subtree_control", "\n");
    tree.write("sys/devices/system/cpu/isolated", "2-3\n");
    tree.write("sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "64\n");
    let table = table(&tree, &facts());
    for what in [
        "core isolation",
        "cpu.weight",
        "memory.max",
        "pids.max",
        "huge pages",
        "locked memory",
        "cgroup.freeze",
        "user namespace",
        "system call filter",
        "Landlock ruleset",
        "pidfd",
        "membarrier",
        "RDMA device",
        "IRQ affinity",
        "real-time priority",
    ] {
        assert_eq!(find(&table, what).state, State::Enforced, "{:?}", find(&table, what));
    }
    assert_eq!(find(&table, "core isolation").evidence, "/sys/devices/system/cpu/isolated: 2-3");
    let memory = find(&table, "memory.max");
    assert_eq!(memory.evidence, "memory.max: tried");
    let io = find(&table, "io.max");
    assert_eq!(io.state, State::Absent);
    assert_eq!(io.mend.as_deref(), Some("echo +io > /sys/fs/cgroup/user/cgroup.subtree_control"));
}

#[test]
fn a_limit_that_the_kernel_did_not_take_is_absent_whatever_its_files_promise() {
    let tree = four_processors();
    tree.write("sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory pids rdma\n");
    tree.write("proc/self/cgroup", "0::/\n");
    let refused = |what| Tried {
        what,
        evidence: format!("/sys/fs/cgroup/shards-7-0/0/{what}: Permission denied"),
        mend: Some("run it elsewhere".into()),
    };
    let denied = Facts { groups: HELD.map(refused).into(), isolation: Err("no".into()), ..facts() };
    let table = table(&tree, &denied);
    for what in ["cpu.weight", "memory.max", "pids.max", "rdma.max"] {
        let limit = find(&table, what);
        assert_eq!((limit.state, limit.mend.as_deref()), (State::Absent, Some("run it elsewhere")));
        assert!(limit.evidence.contains("Permission denied"), "{}", limit.evidence);
    }
    let cores = find(&table, "core isolation");
    assert_eq!(cores.state, State::Emulated);
    assert!(cores.evidence.contains("cpuset.cpus.partition: Permission denied"), "{}", cores.evidence);
    assert!(cores.mend.as_ref().unwrap().starts_with("run it elsewhere; or boot with isolcpus="));
    assert_eq!(find(&table, "cgroup.freeze").state, State::Emulated);
    assert_eq!(find(&table, "isolation").state, State::Absent);
}

#[test]
fn a_host_with_version_1_of_control_groups_says_so_and_what_to_boot_with() {
    let tree = four_processors();
    for controller in ["cpu", "cpuset", "memory", "pids"] {
        tree.write(&format!("sys/fs/cgroup/{controller}/tasks"), "");
    }
    let table = table(&tree, &Facts { groups: Vec::new(), ..facts() });
    for what in ["cpu.weight", "memory.max", "pids.max", "io.max", "rdma.max"] {
        let limit = find(&table, what);
        assert_eq!(limit.state, State::Absent);
        assert!(
            limit.evidence.starts_with("/sys/fs/cgroup: version 1 (cpu cpuset memory pids); "),
            "{}",
            limit.evidence
        );
        assert!(limit.mend.as_ref().unwrap().contains("cgroup_no_v1=all"));
    }
    let cores = find(&table, "core isolation");
    assert_eq!(cores.state, State::Emulated);
    assert_eq!(
        cores.mend.as_deref(),
        Some("boot with isolcpus=managed_irq,domain,1-3 nohz_full=1-3 rcu_nocbs=1-3")
    );
}

#[test]
fn what_is_absent_comes_with_its_evidence_and_what_to_type() {
    let tree = Tree::new(&[
        ("proc/self/ns/user", ""),
        ("proc/sys/user/max_user_namespaces", "0\n"),
        ("sys/kernel/security/lsm", "capability,apparmor\n"),
    ]);
    let nothing = Facts {
        groups: Vec::new(),
        isolation: Ok(probed(Some(1))),
        memlock_bytes: Some(8 << 20),
        real_time: tried("real-time priority", Some("ulimit -r 49")),
        interrupts: tried("IRQ affinity", Some("as root")),
        pidfd: false,
        membarrier: false,
        landlock: None,
        gpus: Err("no library".into()),
        rdma: Err("no device".into()),
    };
    let table = table(&tree, &nothing);
    for limit in &table {
        let emulated = ["core isolation", "cgroup.freeze"].contains(&limit.what);
        let expected = if emulated { State::Emulated } else { State::Absent };
        assert_eq!(limit.state, expected, "{limit:?}");
        assert!(limit.mend.is_some() && !limit.evidence.is_empty(), "{limit:?}");
    }
    assert_eq!(
        find(&table, "user namespace").mend.as_deref(),
        Some("sysctl -w user.max_user_namespaces=10000")
    );
    assert!(
        find(&table, "Landlock ruleset").mend.as_ref().unwrap().ends_with("lsm=landlock,capability,apparmor")
    );
    assert_eq!(find(&table, "locked memory").evidence, "RLIMIT_MEMLOCK is 8192 KiB");
    assert_eq!(find(&table, "GPU memory").evidence, "NVML: no library");
    assert_eq!(find(&table, "real-time priority").mend.as_deref(), Some("ulimit -r 49"));
}

#[test]
fn bandwidth_is_held_by_the_senders_own_links_where_a_nics_speed_is_known() {
    let tree = four_processors();
    let before = table(&tree, &facts());
    assert_eq!(find(&before, "bandwidth").state, State::Absent);
    tree.write("sys/class/net/eth0/device/uevent", "");
    assert_eq!(find(&table(&tree, &facts()), "bandwidth").state, State::Absent);
    tree.write("sys/class/net/eth0/speed", "10000\n");
    let after = table(&tree, &facts());
    let bandwidth = find(&after, "bandwidth");
    assert_eq!(bandwidth.state, State::Emulated);
    assert!(bandwidth.evidence.starts_with("eth0: 10000 Mbit/s; a token bucket in the shard's own links"));
}

#[test]
fn a_gpu_is_held_by_its_instances_or_by_mps_and_otherwise_only_counted() {
    let tree = four_processors();
    let gpu = |instances| Gpu { name: "GPU-1".into(), node: None, memory_bytes: 80 << 30, instances };
    let instance = GpuInstance { name: "MIG-1".into(), memory_bytes: 10 << 30 };
    let state = |instances| {
        let facts = Facts { gpus: Ok(vec![gpu(instances)]), ..facts() };
        find(&table(&tree, &facts), "GPU memory").state
    };
    assert_eq!(state(vec![instance]), State::Enforced);
    assert_eq!(state(Vec::new()), State::Absent);
    tree.write("tmp/nvidia-mps/control", "");
    assert_eq!(state(Vec::new()), State::Enforced);
}

#[test]
fn whatever_is_not_enforced_on_this_host_comes_with_what_to_type() {
    for limit in limits(Path::new("/"), &Inventory::probe(), &Facts::gather()) {
        assert_eq!(limit.state == State::Enforced, limit.mend.is_none(), "{limit:?}");
        assert!(!limit.evidence.is_empty(), "{limit:?}");
    }
}
