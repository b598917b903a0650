//! What the kernel of this host can hold a shard to: each limit is enforced, emulated or absent, with the evidence and
//! with what to type where it is absent.
//!
//! *Enforced*: the kernel, or the device, does it, and this process may ask it to. *Emulated*: it is done by other means
//! that a shard could evade. *Absent*: nothing holds a shard to it; what it was given is counted and no more.
//!
//! Invariant: whatever is not enforced comes with what would mend it, and nothing is changed by looking.

use super::inventory::{Gpu, Inventory};
use super::probe::gpus;
use rustix::fs::{Access, access};
use rustix::process::{Resource, getrlimit};
use serde::Serialize;
use shard_runtime::verbs::{Wish, choose};
use shard_runtime::{barrier, isolation};
use std::fs;
use std::path::{Path, PathBuf};

/// So much memory has to be lockable: that of the rings of some RDMA links.
const LOCKABLE_BYTES_MIN: u64 = 64 << 20;
/// The capability to set priorities, by its number.
const CAP_SYS_NICE: u32 = 23;

/// How well a limit holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// The kernel or the device holds a shard to it.
    Enforced,
    /// It is done by means that a shard could evade.
    Emulated,
    /// Nothing holds a shard to it.
    Absent,
}

/// A limit, and how well it holds here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Limit {
    /// Which.
    pub what: &'static str,
    /// How well it holds.
    pub state: State,
    /// What was seen, and where.
    pub evidence: String,
    /// What to type, or to boot with, where it is not enforced.
    pub mend: Option<String>,
}

/// What no file tells.
#[derive(Clone, Debug)]
pub struct Facts {
    /// How much memory may be locked, in bytes; `None` for any.
    pub memlock_bytes: Option<u64>,
    /// The highest real-time priority; `None` for any.
    pub real_time_priority: Option<u64>,
    /// Whether a process has a descriptor.
    pub pidfd: bool,
    /// Whether the kernel gives a fence to those who do not ask for one.
    pub membarrier: bool,
    /// The version of Landlock's interface, if it is there.
    pub landlock: Option<u32>,
    /// The GPUs, or why there are none.
    pub gpus: Result<Vec<Gpu>, String>,
    /// The RDMA device that would be used, or why there is none.
    pub rdma: Result<String, String>,
}

impl Facts {
    /// As they are for this process.
    pub fn gather() -> Self {
        let pidfd =
            rustix::process::pidfd_open(rustix::process::getpid(), rustix::process::PidfdFlags::empty());
        let rdma = choose(&Wish::default());
        Self {
            memlock_bytes: getrlimit(Resource::Memlock).current,
            real_time_priority: getrlimit(Resource::Rtprio).current,
            pidfd: pidfd.is_ok(),
            membarrier: barrier::register(),
            landlock: u32::try_from(isolation::landlock_abi()).ok().filter(|version| *version > 0),
            gpus: gpus(Path::new("/")),
            rdma: rdma.map(|device| device.why().to_owned()).map_err(|error| error.to_string()),
        }
    }
}

/// The limits of a host: from the files under a root, from what was found there, and from what no file tells.
pub fn limits(root: &Path, inventory: &Inventory, facts: &Facts) -> Vec<Limit> {
    let host = Host { root, groups: Groups::read(root) };
    vec![
        host.core_isolation(inventory),
        host.controller(
            "cpu.weight",
            "cpu",
            "of the processors that are shared a shard takes what it can get",
        ),
        host.controller(
            "memory.max",
            "memory",
            "a shard's memory is counted when it is launched and not watched",
        ),
        host.controller("pids.max", "pids", "a shard may start processes without end"),
        host.controller("io.max", "io", "a shard may use disks as it likes"),
        host.controller("rdma.max", "rdma", "a shard may use up an RDMA device's handles"),
        host.huge_pages(inventory),
        memlock(facts),
        host.user_namespaces(),
        host.seccomp(),
        host.landlock(facts),
        held("pidfd", facts.pidfd, "pidfd_open", "Linux 5.3 or newer; without it nothing runs"),
        held(
            "membarrier",
            facts.membarrier,
            "membarrier, global expedited",
            "Linux 4.16 or newer; without it every message costs a full fence",
        ),
        host.gpu(facts),
        match &facts.rdma {
            Ok(device) => enforced("RDMA device", device.clone()),
            Err(why) => absent(
                "RDMA device",
                why.clone(),
                "links to other hosts are of kind tcp; for RDMA in software: modprobe rdma_rxe && rdma link add rxe0 type rxe netdev eth0",
            ),
        },
        bandwidth(inventory),
        host.interrupts(inventory),
        host.real_time(facts),
    ]
}

fn enforced(what: &'static str, evidence: impl Into<String>) -> Limit {
    Limit { what, state: State::Enforced, evidence: evidence.into(), mend: None }
}

fn absent(what: &'static str, evidence: impl Into<String>, mend: impl Into<String>) -> Limit {
    Limit { what, state: State::Absent, evidence: evidence.into(), mend: Some(mend.into()) }
}

fn held(what: &'static str, there: bool, call: &str, needs: &str) -> Limit {
    if there { enforced(what, format!("{call} works")) } else { absent(what, format!("{call} fails"), needs) }
}

fn memlock(facts: &Facts) -> Limit {
    let found = facts.memlock_bytes.map_or("RLIMIT_MEMLOCK is unlimited".into(), |bytes| {
        format!("RLIMIT_MEMLOCK is {} KiB", bytes >> 10)
    });
    if facts.memlock_bytes.is_none_or(|bytes| bytes >= LOCKABLE_BYTES_MIN) {
        return enforced("locked memory", found);
    }
    absent(
        "locked memory",
        found,
        "ulimit -l unlimited, or LimitMEMLOCK=infinity in the unit: rings of RDMA links are locked",
    )
}

/// A component's `bandwidth`. No kernel and no device is asked to hold it: see docs/adr/0017.
fn bandwidth(inventory: &Inventory) -> Limit {
    let what = "bandwidth";
    let known = inventory.nics.iter().filter_map(|nic| Some((&nic.name, nic.bits_per_s?)));
    let known: Vec<String> =
        known.map(|(name, bits_per_s)| format!("{name}: {} Mbit/s", bits_per_s / 1_000_000)).collect();
    if known.is_empty() {
        return absent(
            what,
            format!(
                "no speed is known of {} NICs: none of it can be given, and nobody who needs some is started",
                inventory.nics.len()
            ),
            "`[nic.NAME]` with its `speed` in a host file",
        );
    }
    Limit {
        what,
        state: State::Emulated,
        evidence: format!(
            "{}; a token bucket in the shard's own links to other hosts, RDMA and TCP together; what else a shard with \
             `network` or `rdma` in its `allow` sends is not held",
            known.join(", ")
        ),
        mend: Some(
            "for all TCP of a host together, as root: tc qdisc replace dev NIC root tbf rate RATE burst 1mb latency 50ms"
                .into(),
        ),
    }
}

struct Host<'a> {
    root: &'a Path,
    groups: Groups,
}

/// What kind of control groups there are.
enum Groups {
    /// Version 2: the own group, the controllers that it may give on, and whether this process may make groups below it.
    Two {
        group: PathBuf,
        controllers: Vec<String>,
        writable: bool,
    },
    /// Version 1: the controllers that are mounted.
    One {
        controllers: Vec<String>,
    },
    None,
}

impl Groups {
    fn read(root: &Path) -> Self {
        let mount = root.join("sys/fs/cgroup");
        if mount.join("cgroup.controllers").exists() {
            let own = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
            let own = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
            let group = mount.join(own);
            let controllers = fs::read_to_string(group.join("cgroup.controllers")).unwrap_or_default();
            let writable = access(group.join("cgroup.subtree_control"), Access::WRITE_OK).is_ok();
            let controllers = controllers.split_whitespace().map(str::to_owned).collect();
            return Self::Two { group, controllers, writable };
        }
        let known = ["cpu", "cpuset", "memory", "pids", "blkio", "rdma", "freezer"];
        let controllers: Vec<String> =
            known.into_iter().filter(|name| mount.join(name).is_dir()).map(str::to_owned).collect();
        if controllers.is_empty() { Self::None } else { Self::One { controllers } }
    }
}

/// What to do where there is no version 2 of control groups.
const UNIFY: &str = "boot with cgroup_no_v1=all systemd.unified_cgroup_hierarchy=1; without systemd: \
                     mount -t cgroup2 none /sys/fs/cgroup";

impl Host<'_> {
    /// A file's text, without the line's end; `None` if it can't be read.
    fn text(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.root.join(path)).ok().map(|text| text.trim().to_owned())
    }

    /// A path as it is on the host.
    fn shown(&self, path: &Path) -> String {
        format!("/{}", path.strip_prefix(self.root).unwrap_or(path).display())
    }

    fn controller(&self, what: &'static str, name: &str, without: &str) -> Limit {
        match &self.groups {
            Groups::Two { group, controllers, writable } => {
                let path = self.shown(&group.join("cgroup.controllers"));
                let evidence = format!("{path}: {}", controllers.join(" "));
                let has = controllers.iter().any(|controller| controller == name);
                match (has, writable) {
                    (true, true) => enforced(what, evidence),
                    (true, false) => absent(
                        what,
                        format!("{evidence}; but its cgroup.subtree_control can't be written"),
                        "systemd-run --user --scope -p Delegate=yes shardctl …, or Delegate=yes in the unit",
                    ),
                    (false, _) => absent(
                        what,
                        format!("{evidence}: no {name}; {without}"),
                        format!(
                            "echo +{name} > {}",
                            self.shown(&group.parent().unwrap_or(group).join("cgroup.subtree_control"))
                        ),
                    ),
                }
            }
            Groups::One { controllers } => absent(
                what,
                format!("/sys/fs/cgroup: version 1 ({}); {without}", controllers.join(" ")),
                UNIFY,
            ),
            Groups::None => absent(what, format!("/sys/fs/cgroup: no control groups; {without}"), UNIFY),
        }
    }

    fn core_isolation(&self, inventory: &Inventory) -> Limit {
        let what = "core isolation";
        let isolated: Vec<u32> = inventory.processors().filter(|p| p.isolated).map(|p| p.id).collect();
        if !isolated.is_empty() {
            let files = ["sys/devices/system/cpu/isolated", "sys/fs/cgroup/cpuset.cpus.isolated"];
            let seen = files
                .iter()
                .filter_map(|file| Some((file, self.text(file).filter(|text| !text.is_empty())?)));
            let seen: Vec<String> = seen.map(|(file, text)| format!("/{file}: {text}")).collect();
            let seen =
                if seen.is_empty() { format!("declared: {}", ranges(&isolated)) } else { seen.join("; ") };
            return enforced(what, seen);
        }
        let apart = apart(inventory);
        let boot = match apart.as_str() {
            "" => "a host with more processors: the first core is for all others".to_owned(),
            list => format!("boot with isolcpus=managed_irq,domain,{list} nohz_full={list} rcu_nocbs={list}"),
        };
        let seen = match self.text("sys/devices/system/cpu/isolated") {
            Some(text) => format!("/sys/devices/system/cpu/isolated: {text:?}"),
            None => "/sys/devices/system/cpu/isolated can't be read".into(),
        };
        let by = "shards are kept apart by the affinity of their threads; other programs are not";
        let mend = match &self.groups {
            Groups::Two { controllers, writable: true, .. } if controllers.iter().any(|c| c == "cpuset") => {
                format!(
                    "mkdir /sys/fs/cgroup/shards && echo {apart} > /sys/fs/cgroup/shards/cpuset.cpus && \
                 echo isolated > /sys/fs/cgroup/shards/cpuset.cpus.partition; or {boot}"
                )
            }
            _ => boot,
        };
        Limit { what, state: State::Emulated, evidence: format!("{seen}; {by}"), mend: Some(mend) }
    }

    fn huge_pages(&self, inventory: &Inventory) -> Limit {
        let what = "huge pages";
        let all =
            inventory.nodes.iter().flat_map(|node| node.huge_pages.iter().map(move |pages| (node.id, pages)));
        let there: Vec<String> = all
            .clone()
            .filter(|(_, pages)| pages.count > 0)
            .map(|(node, pages)| format!("node {node}: {} of {} KiB", pages.count, pages.page_bytes >> 10))
            .collect();
        if !there.is_empty() {
            return enforced(what, there.join(", "));
        }
        let seen = if all.count() > 0 {
            "nr_hugepages is 0 for every size"
        } else {
            "/sys/kernel/mm/hugepages is empty"
        };
        absent(
            what,
            seen,
            "sysctl vm.nr_hugepages=64; for pages of 1 GiB boot with hugepagesz=1G hugepages=4",
        )
    }

    fn user_namespaces(&self) -> Limit {
        let what = "user namespaces";
        if !self.root.join("proc/self/ns/user").exists() {
            return absent(what, "/proc/self/ns/user is not there", "a kernel with CONFIG_USER_NS=y");
        }
        for (file, never, mend) in [
            ("proc/sys/user/max_user_namespaces", "0", "sysctl user.max_user_namespaces=15000"),
            ("proc/sys/kernel/unprivileged_userns_clone", "0", "sysctl kernel.unprivileged_userns_clone=1"),
            (
                "proc/sys/kernel/apparmor_restrict_unprivileged_userns",
                "1",
                "sysctl kernel.apparmor_restrict_unprivileged_userns=0",
            ),
        ] {
            if self.text(file).as_deref() == Some(never) {
                return absent(what, format!("/{file}: {never}"), mend);
            }
        }
        let max = self.text("proc/sys/user/max_user_namespaces").unwrap_or_else(|| "not bounded".into());
        enforced(what, format!("/proc/sys/user/max_user_namespaces: {max}"))
    }

    fn seccomp(&self) -> Limit {
        match self.text("proc/sys/kernel/seccomp/actions_avail") {
            Some(actions) => {
                enforced("seccomp", format!("/proc/sys/kernel/seccomp/actions_avail: {actions}"))
            }
            None => absent(
                "seccomp",
                "/proc/sys/kernel/seccomp/actions_avail can't be read",
                "a kernel of 4.14 or newer with CONFIG_SECCOMP_FILTER=y",
            ),
        }
    }

    fn landlock(&self, facts: &Facts) -> Limit {
        if let Some(version) = facts.landlock {
            return enforced("Landlock", format!("landlock_create_ruleset: ABI version {version}"));
        }
        let lsm = self.text("sys/kernel/security/lsm");
        let seen = lsm.as_ref().map_or("landlock_create_ruleset fails".into(), |lsm| {
            format!("landlock_create_ruleset fails; /sys/kernel/security/lsm: {lsm}")
        });
        let list = lsm.filter(|lsm| !lsm.is_empty()).unwrap_or_else(|| "capability".into());
        let mend = format!(
            "a kernel of 5.13 or newer with CONFIG_SECURITY_LANDLOCK=y, booted with lsm=landlock,{list}"
        );
        absent("Landlock", seen, mend)
    }

    fn gpu(&self, facts: &Facts) -> Limit {
        let what = "GPU memory";
        let gpus = match &facts.gpus {
            Ok(gpus) if gpus.is_empty() => {
                return absent(what, "NVML works and finds no GPU", "a GPU, or `[gpu.NAME]` in a host file");
            }
            Ok(gpus) => gpus,
            Err(why) => {
                return absent(
                    what,
                    format!("NVML: {why}"),
                    "apt-get install libnvidia-ml1 beside the driver, or `[gpu.NAME]` in a host file",
                );
            }
        };
        let names: Vec<&str> = gpus.iter().map(|gpu| gpu.name.as_str()).collect();
        let pipe = "tmp/nvidia-mps/control";
        if gpus.iter().all(|gpu| !gpu.instances.is_empty()) {
            let instances: usize = gpus.iter().map(|gpu| gpu.instances.len()).sum();
            return enforced(what, format!("NVML: {} in {instances} instances (MIG)", names.join(", ")));
        }
        if self.root.join(pipe).exists() {
            return enforced(what, format!("NVML: {}; /{pipe}: MPS runs", names.join(", ")));
        }
        absent(
            what,
            format!(
                "NVML: {}; not divided, and no MPS at /{pipe}: what is given is counted, not held",
                names.join(", ")
            ),
            "nvidia-cuda-mps-control -d, or nvidia-smi -mig 1 && nvidia-smi mig -cgi 19,19 -C",
        )
    }

    fn interrupts(&self, inventory: &Inventory) -> Limit {
        let (what, file) = ("IRQ affinity", "proc/irq/default_smp_affinity");
        let Some(mask) = self.text(file) else {
            return absent(
                what,
                format!("/{file} can't be read"),
                "a host that shows /proc/irq, and not a container's view",
            );
        };
        let seen = format!("/{file}: {mask}");
        if access(self.root.join(file), Access::WRITE_OK).is_ok() {
            return enforced(what, format!("{seen}, and can be written"));
        }
        let first: Vec<u32> = first_core(inventory);
        let mend =
            format!("as root: for i in /proc/irq/*/smp_affinity_list; do echo {} > $i; done", ranges(&first));
        absent(what, seen, mend)
    }

    fn real_time(&self, facts: &Facts) -> Limit {
        let what = "real-time priority";
        let status = self.text("proc/self/status").unwrap_or_default();
        let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
        let effective = effective.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
        let runtime = self.text("proc/sys/kernel/sched_rt_runtime_us").unwrap_or_default();
        let seen = format!("/proc/sys/kernel/sched_rt_runtime_us: {runtime}");
        if effective >> CAP_SYS_NICE & 1 == 1 {
            return enforced(what, format!("/proc/self/status: CapEff has CAP_SYS_NICE; {seen}"));
        }
        match facts.real_time_priority {
            Some(0) => absent(
                what,
                format!("RLIMIT_RTPRIO is 0, no CAP_SYS_NICE; {seen}"),
                "ulimit -r 99, or LimitRTPRIO=99 in the unit",
            ),
            Some(most) => enforced(what, format!("RLIMIT_RTPRIO is {most}; {seen}")),
            None => enforced(what, format!("RLIMIT_RTPRIO is unlimited; {seen}")),
        }
    }
}

/// The processors of the core that is left to everybody else.
fn first_core(inventory: &Inventory) -> Vec<u32> {
    let first = inventory.processors().map(|processor| processor.core).min();
    let mut ids: Vec<u32> =
        inventory.processors().filter(|p| Some(p.core) == first).map(|processor| processor.id).collect();
    ids.sort_unstable();
    ids
}

/// All processors but those of the first core.
fn apart(inventory: &Inventory) -> String {
    let first = first_core(inventory);
    let mut ids: Vec<u32> = inventory.processors().map(|p| p.id).filter(|id| !first.contains(id)).collect();
    ids.sort_unstable();
    ranges(&ids)
}

/// Numbers, in order, as the kernel's lists are written.
fn ranges(ids: &[u32]) -> String {
    let runs = ids.chunk_by(|a, b| a + 1 == *b).map(|run| match run {
        [only] => only.to_string(),
        run => format!("{}-{}", run[0], run[run.len() - 1]),
    });
    runs.collect::<Vec<_>>().join(",")
}
