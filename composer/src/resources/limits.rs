//! What the kernel of this host can hold a shard to: each limit is enforced, emulated or absent, with the evidence and
//! with what to type where it is absent.
//!
//! *Enforced*: the kernel, or the device, does it, and this process may ask it to. *Emulated*: it is done by other means
//! that a shard could evade. *Absent*: nothing holds a shard to it; what it was given is counted and no more.
//!
//! What can be tried is tried, as the composer does it, and counts as enforced only if the kernel then says so.
//!
//! Invariant: whatever is not enforced comes with what would mend it, and what was tried is undone.

use super::inventory::{Gpu, Inventory};
use super::probe::gpus;
use crate::{groups, interrupts, realtime};
use rustix::process::{Resource, getrlimit};
use serde::Serialize;
use shard_runtime::isolation::{Absent, Measure, Probed};
use shard_runtime::topology::allowed;
use shard_runtime::verbs::{Wish, choose};
use shard_runtime::{barrier, isolation};
use std::fs;
use std::path::{Path, PathBuf};

/// So much memory has to be lockable: that of the rings of some RDMA links.
const LOCKABLE_BYTES_MIN: u64 = 64 << 20;

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

/// What came of asking the kernel for a limit as the composer does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tried {
    /// Which, by the kernel's name for it.
    pub what: &'static str,
    /// What the kernel said, and where.
    pub evidence: String,
    /// What would mend it; `None` if the kernel does it.
    pub mend: Option<String>,
}

/// What no file tells.
#[derive(Clone, Debug)]
pub struct Facts {
    /// What control groups do.
    pub groups: Vec<Tried>,
    /// What became of each measure of isolation, or why nothing could be started with them.
    pub isolation: Result<Vec<Probed>, String>,
    /// How much memory may be locked, in bytes; `None` for any.
    pub memlock_bytes: Option<u64>,
    /// Whether a shard can be given real-time priority.
    pub real_time: Tried,
    /// Whether it can be set where interrupts go.
    pub interrupts: Tried,
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
    /// As they are for this process. It makes a control group, puts limits on it, and removes it; it takes the last
    /// processor away from everything else, and gives it back; it starts a process with all of isolation.
    pub fn gather() -> Self {
        // Of a single one nothing is left for others.
        let cores = allowed().into_iter().skip(1).last();
        let pidfd =
            rustix::process::pidfd_open(rustix::process::getpid(), rustix::process::PidfdFlags::empty());
        let rdma = choose(&Wish::default());
        Self {
            groups: groups::tried(cores.into_iter().collect()),
            isolation: isolation::probe().map_err(|error| error.to_string()),
            memlock_bytes: getrlimit(Resource::Memlock).current,
            real_time: realtime::tried(),
            interrupts: interrupts::tried(),
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
    let host = Host { root, facts, groups: Groups::read(root) };
    let mut all = vec![
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
        host.freezing(),
        host.huge_pages(inventory),
        memlock(facts),
    ];
    all.extend(host.isolation());
    all.extend([
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
        asked(&facts.interrupts, "only a host file with `keep_interrupts_off` asks for it"),
        asked(&facts.real_time, "only components with `realtime` ask for it"),
        bandwidth(inventory),
    ]);
    all
}

fn enforced(what: &'static str, evidence: impl Into<String>) -> Limit {
    Limit { what, state: State::Enforced, evidence: evidence.into(), mend: None }
}

fn absent(what: &'static str, evidence: impl Into<String>, mend: impl Into<String>) -> Limit {
    Limit { what, state: State::Absent, evidence: evidence.into(), mend: Some(mend.into()) }
}

/// A limit that is there for those who ask.
fn asked(tried: &Tried, who: &str) -> Limit {
    match &tried.mend {
        None => enforced(tried.what, format!("{}; {who}", tried.evidence)),
        Some(mend) => absent(tried.what, tried.evidence.clone(), mend.clone()),
    }
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
    facts: &'a Facts,
    groups: Groups,
}

/// What kind of control groups there are.
enum Groups {
    /// Version 2: the own group, and the controllers that it may give on.
    Two {
        group: PathBuf,
        controllers: Vec<String>,
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
            let controllers = controllers.split_whitespace().map(str::to_owned).collect();
            return Self::Two { group, controllers };
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
            Groups::Two { group, controllers } => {
                let has = controllers.iter().any(|controller| controller == name);
                let path = || self.shown(&group.join("cgroup.controllers"));
                match self.tried(what) {
                    Some(Tried { evidence, mend: None, .. }) => enforced(what, evidence.clone()),
                    Some(Tried { evidence, mend: Some(mend), .. }) if has => {
                        absent(what, format!("{evidence}; {without}"), mend.clone())
                    }
                    None if has => absent(
                        what,
                        format!("{}: {}, but nobody uses it; {without}", path(), controllers.join(" ")),
                        "nothing: the composer does not ask for it",
                    ),
                    _ => absent(
                        what,
                        format!("{}: {}: no {name}; {without}", path(), controllers.join(" ")),
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

    fn tried(&self, what: &str) -> Option<&Tried> {
        self.facts.groups.iter().find(|tried| tried.what == what)
    }

    fn freezing(&self) -> Limit {
        let what = "cgroup.freeze";
        let seen = match self.tried(what) {
            Some(Tried { evidence, mend: None, .. }) => return enforced(what, evidence.clone()),
            Some(refused) => refused.evidence.clone(),
            None => "there are no groups".into(),
        };
        let by = "shards are frozen by a signal, and what they have started is not";
        Limit { what, state: State::Emulated, evidence: format!("{seen}; {by}"), mend: Some(UNIFY.into()) }
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
        let partition = self.tried("cpuset.cpus.partition");
        if let Some(Tried { evidence, mend: None, .. }) = partition {
            return enforced(what, evidence.clone());
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
        let (seen, mend) = match partition {
            Some(Tried { evidence, mend: Some(mend), .. }) if matches!(self.groups, Groups::Two { .. }) => {
                (format!("{evidence}; {seen}"), format!("{mend}; or {boot}"))
            }
            _ => (seen, boot),
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

    /// Each measure that a shard's process takes when it is started.
    fn isolation(&self) -> Vec<Limit> {
        match &self.facts.isolation {
            Ok(probed) => probed.iter().map(|probed| self.measure(probed)).collect(),
            Err(why) => vec![absent(
                "isolation",
                format!("no process can be started with it: {why}"),
                "`isolation = \"none\"` in the manifest, or a host outside of the container",
            )],
        }
    }

    fn measure(&self, probed: &Probed) -> Limit {
        let what = probed.measure.name();
        match &probed.absent {
            Some(refused) => absent(what, refused.to_string(), self.mend(refused)),
            None => match (probed.measure, self.facts.landlock) {
                (Measure::Landlock, Some(version)) => {
                    enforced(what, format!("a process was started with it; ABI version {version}"))
                }
                _ => enforced(what, "a process was started with it"),
            },
        }
    }

    fn mend(&self, refused: &Absent) -> String {
        let list = self.text("sys/kernel/security/lsm").filter(|lsm| !lsm.is_empty());
        match (refused.measure, list) {
            (Measure::Landlock, Some(list)) => format!(
                "a kernel of 5.13 or newer with CONFIG_SECURITY_LANDLOCK=y, booted with lsm=landlock,{list}"
            ),
            _ => refused.mend_of(self.root),
        }
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
pub(crate) fn ranges(ids: &[u32]) -> String {
    let runs = ids.chunk_by(|a, b| a + 1 == *b).map(|run| match run {
        [only] => only.to_string(),
        run => format!("{}-{}", run[0], run[run.len() - 1]),
    });
    runs.collect::<Vec<_>>().join(",")
}
