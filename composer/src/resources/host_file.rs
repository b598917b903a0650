//! The host file: what a host has, as a person declares it, for what can't be probed or is not to be given out.
//!
//! TOML, at most [`HOST_FILE_BYTES_MAX`]; errors are as those of a manifest. What it says overrides what was probed, key by
//! key: a table of a node, GPU or NIC that was found changes what it names; another is added.
//!
//! ```toml
//! host = "rack-7"             # the host's name
//! probe = true                # false: what is not declared here is not there
//! keep_interrupts_off = false # true: devices' interrupts are kept off the cores that shards have for themselves
//!
//! [node.0]                    # a NUMA node, by the kernel's number
//! processors = "0-15"         # those that may be given out
//! isolated = "2-15"           # those off which the kernel keeps other work
//! siblings = ["0,8", "1,9"]   # those that share execution units; the others share them with nobody
//! memory = "60GiB"            # without that of huge pages
//! huge_pages = { 2MiB = 512 } # how many, by size
//! distances = [10, 21]        # to all nodes of the host, in order
//!
//! [gpu.first]
//! node = 0
//! memory = "80GiB"
//! instances = { a = "10GiB" } # if it is divided: only these can be had
//!
//! [nic.eth0]
//! node = 0
//! speed = "25Gbit/s"          # what may be promised of it
//! rdma = "mlx5_0"             # its RDMA device
//! ```
//!
//! Invariant: any bytes are a host file or an error, in bounded time.

use super::inventory::{
    DEVICES_MAX, Gpu, GpuInstance, HugePages, Inventory, InventoryError, NODES_MAX, Nic, Node,
    PROCESSORS_MAX, Processor,
};
use serde::Deserialize;
use shardkit::manifest::ManifestError;
use shardkit::manifest::parts::{
    Amount, At, BITS_PER_S, BYTES, Named, Problem, Whole, amount, bytes, check_count, check_nesting,
    from_toml, parse, read_file, whole,
};
use std::path::Path;

/// The largest host file, in bytes.
pub const HOST_FILE_BYTES_MAX: usize = 1 << 20;

/// A host file that is right.
#[derive(Clone, Debug)]
pub struct HostFile {
    host: Option<String>,
    probe: bool,
    keep_interrupts_off: bool,
    nodes: Vec<(u32, NodeChange)>,
    gpus: Vec<(String, GpuChange)>,
    nics: Vec<(String, NicChange)>,
}

#[derive(Clone, Debug)]
struct NodeChange {
    processors: Option<Vec<u32>>,
    isolated: Option<Vec<u32>>,
    siblings: Option<Vec<Vec<u32>>>,
    memory_bytes: Option<u64>,
    huge_pages: Option<Vec<HugePages>>,
    distances: Option<Vec<u32>>,
}

#[derive(Clone, Debug)]
struct GpuChange {
    node: Option<u32>,
    memory_bytes: Option<u64>,
    instances: Option<Vec<GpuInstance>>,
}

#[derive(Clone, Debug)]
struct NicChange {
    node: Option<u32>,
    bits_per_s: Option<u64>,
    rdma: Option<String>,
}

/// The file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
struct Raw {
    host: Option<At<String>>,
    probe: Option<bool>,
    #[serde(default)]
    keep_interrupts_off: bool,
    #[serde(default)]
    node: Named<RawNode>,
    #[serde(default)]
    gpu: Named<RawGpu>,
    #[serde(default)]
    nic: Named<RawNic>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
struct RawNode {
    processors: Option<At<String>>,
    isolated: Option<At<String>>,
    siblings: Option<Vec<At<String>>>,
    memory: Option<At<Amount>>,
    huge_pages: Option<Named<At<Whole>>>,
    distances: Option<Vec<At<Whole>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
struct RawGpu {
    node: Option<At<Whole>>,
    memory: Option<At<Amount>>,
    instances: Option<Named<At<Amount>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
struct RawNic {
    node: Option<At<Whole>>,
    speed: Option<At<Amount>>,
    rdma: Option<At<String>>,
}

impl HostFile {
    /// Reads and checks the file at `path`.
    ///
    /// # Errors
    /// If it can't be read, is larger than [`HOST_FILE_BYTES_MAX`] or no UTF-8, or anything in it is wrong.
    pub fn read(path: impl AsRef<Path>) -> Result<Self, ManifestError> {
        let path = path.as_ref();
        let text = String::from_utf8(read_file(path, "host file", HOST_FILE_BYTES_MAX)?)
            .map_err(|_| ManifestError::of_file(path, "the host file is not UTF-8", "save it as UTF-8"))?;
        Self::parse(&text, path)
    }

    /// Checks a text; `file_name` is what errors call it.
    ///
    /// # Errors
    /// As for [`read`](Self::read).
    pub fn parse(text: &str, file_name: impl AsRef<Path>) -> Result<Self, ManifestError> {
        let file = file_name.as_ref();
        if text.len() > HOST_FILE_BYTES_MAX {
            let what = format!("the host file has more than {HOST_FILE_BYTES_MAX} bytes");
            return Err(ManifestError::of_file(file, what, "declare what the host has, and nothing else"));
        }
        let parsed = || {
            check_nesting(text)?;
            checked(toml::from_str(text).map_err(|error| from_toml(&error))?)
        };
        parsed().map_err(|problem| ManifestError::of_problem(file, text, problem))
    }

    /// Whether the host is to be probed, too.
    pub fn wants_probe(&self) -> bool {
        self.probe
    }

    /// Whether the interrupts of devices are to be kept off the cores that shards have for themselves.
    pub fn keeps_interrupts_off(&self) -> bool {
        self.keep_interrupts_off
    }

    /// What the host has: what this file says, and otherwise what was probed.
    ///
    /// # Errors
    /// If the two together contradict themselves.
    pub fn apply(&self, probed: Inventory) -> Result<Inventory, InventoryError> {
        let mut inventory = if self.probe { probed } else { Inventory::empty() };
        match &self.host {
            Some(host) => inventory.host.clone_from(host),
            None if inventory.host.is_empty() => inventory.host = "this host".into(),
            None => {}
        }
        for (id, change) in &self.nodes {
            change.apply(entry(
                &mut inventory.nodes,
                |node| node.id == *id,
                || Node { id: *id, ..Node::default() },
            ));
        }
        inventory.nodes.sort_by_key(|node| node.id);
        for (name, change) in &self.gpus {
            let new = || Gpu { name: name.clone(), ..Gpu::default() };
            change.apply(entry(&mut inventory.gpus, |gpu| gpu.name == *name, new));
        }
        for (name, change) in &self.nics {
            let new = || Nic { name: name.clone(), ..Nic::default() };
            change.apply(entry(&mut inventory.nics, |nic| nic.name == *name, new));
        }
        inventory.check()?;
        Ok(inventory)
    }
}

fn entry<T>(list: &mut Vec<T>, is: impl Fn(&T) -> bool, new: impl FnOnce() -> T) -> &mut T {
    let at = list.iter().position(is).unwrap_or_else(|| {
        list.push(new());
        list.len() - 1
    });
    &mut list[at]
}

impl NodeChange {
    fn apply(&self, node: &mut Node) {
        if let Some(ids) = &self.processors {
            let known = |id: u32| node.processors.iter().find(|processor| processor.id == id).copied();
            let plain = |id| Processor { id, core: id, cache: self.cache(id), isolated: false };
            node.processors = ids.iter().map(|&id| known(id).unwrap_or_else(|| plain(id))).collect();
        }
        if let Some(isolated) = &self.isolated {
            node.processors
                .iter_mut()
                .for_each(|processor| processor.isolated = isolated.contains(&processor.id));
        }
        if let Some(groups) = &self.siblings {
            for processor in &mut node.processors {
                let group = groups.iter().find(|group| group.contains(&processor.id));
                processor.core = group.and_then(|group| group.iter().min().copied()).unwrap_or(processor.id);
            }
        }
        node.memory_bytes = self.memory_bytes.unwrap_or(node.memory_bytes);
        if let Some(huge_pages) = &self.huge_pages {
            node.huge_pages.clone_from(huge_pages);
        }
        if let Some(distances) = &self.distances {
            node.distances.clone_from(distances);
        }
    }

    /// The processors that are declared together share a cache.
    fn cache(&self, id: u32) -> u32 {
        self.processors.as_deref().and_then(|ids| ids.first().copied()).unwrap_or(id)
    }
}

impl GpuChange {
    fn apply(&self, gpu: &mut Gpu) {
        gpu.node = self.node.or(gpu.node);
        gpu.memory_bytes = self.memory_bytes.unwrap_or(gpu.memory_bytes);
        if let Some(instances) = &self.instances {
            gpu.instances.clone_from(instances);
        }
    }
}

impl NicChange {
    fn apply(&self, nic: &mut Nic) {
        nic.node = self.node.or(nic.node);
        nic.bits_per_s = self.bits_per_s.or(nic.bits_per_s);
        nic.rdma = self.rdma.clone().or_else(|| nic.rdma.take());
    }
}

fn checked(raw: Raw) -> Result<HostFile, Problem> {
    if let Some((last, _)) = raw.node.0.last() {
        check_count(&last.span, raw.node.0.len(), NODES_MAX, "nodes")?;
    }
    for (last, count, what) in [
        (raw.gpu.0.last().map(|(name, _)| name), raw.gpu.0.len(), "GPUs"),
        (raw.nic.0.last().map(|(name, _)| name), raw.nic.0.len(), "NICs"),
    ] {
        if let Some(last) = last {
            check_count(&last.span, count, DEVICES_MAX, what)?;
        }
    }
    let host = raw.host.as_ref().map(check_text).transpose()?;
    let nodes: Result<_, Problem> =
        raw.node.0.iter().map(|(id, raw)| Ok((node_id(id)?, node(raw)?))).collect();
    let gpus: Result<_, Problem> =
        raw.gpu.0.iter().map(|(name, raw)| Ok((check_text(name)?, gpu(raw)?))).collect();
    let nics: Result<_, Problem> =
        raw.nic.0.iter().map(|(name, raw)| Ok((check_text(name)?, nic(raw)?))).collect();
    Ok(HostFile {
        host,
        probe: raw.probe.unwrap_or(true),
        keep_interrupts_off: raw.keep_interrupts_off,
        nodes: nodes?,
        gpus: gpus?,
        nics: nics?,
    })
}

/// Names of hosts and devices end up in logs and tables.
fn check_text(text: &At<String>) -> Result<String, Problem> {
    let printable = |c: char| c.is_ascii_graphic();
    if (1..=128).contains(&text.value.len()) && text.value.chars().all(printable) {
        return Ok(text.value.clone());
    }
    Err(Problem::at(
        &text.span,
        "this can't be a name",
        "use 1 to 128 letters, digits and signs, without spaces",
    ))
}

fn node_id(id: &At<String>) -> Result<u32, Problem> {
    let number = id.value.parse::<u16>().ok().filter(|number| number.to_string() == id.value);
    number.map(u32::from).ok_or_else(|| {
        let what = format!("`{}` can't be a node", id.value);
        Problem::at(&id.span, what, "use the kernel's number, as in `[node.0]`")
    })
}

fn node(raw: &RawNode) -> Result<NodeChange, Problem> {
    let siblings = raw.siblings.as_ref().map(|groups| groups.iter().map(list).collect::<Result<_, _>>());
    let huge_pages =
        raw.huge_pages.as_ref().map(|sizes| sizes.0.iter().map(huge_pages).collect::<Result<_, _>>());
    let distance = |raw| Ok(whole(raw, "distances", 1, 255)? as u32);
    let distances =
        raw.distances.as_ref().map(|all| all.iter().map(distance).collect::<Result<_, Problem>>());
    Ok(NodeChange {
        processors: raw.processors.as_ref().map(list).transpose()?,
        isolated: raw.isolated.as_ref().map(list).transpose()?,
        siblings: siblings.transpose()?,
        memory_bytes: raw.memory.as_ref().map(|memory| bytes(memory, "memory")).transpose()?,
        huge_pages: huge_pages.transpose()?,
        distances: distances.transpose()?,
    })
}

fn huge_pages((size, count): &(At<String>, At<Whole>)) -> Result<HugePages, Problem> {
    let page_bytes = parse(&size.value, BYTES).filter(|bytes| bytes.is_power_of_two()).ok_or_else(|| {
        let what = format!("`{}` can't be the size of a huge page", size.value);
        Problem::at(
            &size.span,
            what,
            "write a power of two with its unit, as in `huge_pages = { 2MiB = 512 }`",
        )
    })?;
    Ok(HugePages { page_bytes, count: whole(count, &size.value, 0, u32::MAX.into())? })
}

fn gpu(raw: &RawGpu) -> Result<GpuChange, Problem> {
    let instance = |(name, memory): &(At<String>, At<Amount>)| {
        Ok(GpuInstance { name: check_text(name)?, memory_bytes: bytes(memory, &name.value)? })
    };
    let instances =
        raw.instances.as_ref().map(|all| all.0.iter().map(instance).collect::<Result<_, Problem>>());
    Ok(GpuChange {
        node: node_of(raw.node.as_ref())?,
        memory_bytes: raw.memory.as_ref().map(|memory| bytes(memory, "memory")).transpose()?,
        instances: instances.transpose()?,
    })
}

fn nic(raw: &RawNic) -> Result<NicChange, Problem> {
    let cure = "a number of bits a second, or a text like \"25Gbit/s\"";
    let speed = raw.speed.as_ref().map(|speed| amount(speed, "speed", BITS_PER_S, cure));
    Ok(NicChange {
        node: node_of(raw.node.as_ref())?,
        bits_per_s: speed.transpose()?,
        rdma: raw.rdma.as_ref().map(check_text).transpose()?,
    })
}

fn node_of(raw: Option<&At<Whole>>) -> Result<Option<u32>, Problem> {
    raw.map(|raw| Ok(whole(raw, "node", 0, u16::MAX.into())? as u32)).transpose()
}

/// A list of processors as the kernel writes them: `0-3,8`.
fn list(text: &At<String>) -> Result<Vec<u32>, Problem> {
    let number = |text: &str| text.trim().parse::<u32>().ok().filter(|id| (*id as usize) < PROCESSORS_MAX);
    let mut ids = Vec::new();
    for part in text.value.split(',') {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        match (number(from), number(to)) {
            (Some(from), Some(to)) if from <= to && ids.len() <= PROCESSORS_MAX => ids.extend(from..=to),
            _ => {
                let what = format!("{:?} is no list of processors", text.value);
                let cure =
                    format!("write numbers below {PROCESSORS_MAX} and ranges of them, as in \"0-3,8\"");
                return Err(Problem::at(&text.span, what, cure));
            }
        }
    }
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}
