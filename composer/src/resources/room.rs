//! What is left of one host, and where on it something is best put.
//!
//! Cores, memory and huge pages of one need may be spread over the host's NUMA nodes; GPU memory comes from one GPU or
//! instance, bandwidth from one NIC. So a need fits exactly when the sums over the nodes suffice and one GPU, one NIC
//! and one size of huge pages do.
//!
//! Invariant: on each node the shares that were promised fit the processors that nobody has for itself, and the host
//! keeps one such processor, whatever is given away.

use super::grant::{Device, Grant, Part};
use super::inventory::{HugePages, Inventory, Node};
use super::shortage::{Missing, Resource};
use super::weigh::Weights;
use shardkit::application::Needs;
use std::cmp::Reverse;

/// The resources that are weighed against each other: thousandths of processors, memory, GPU memory, bandwidth.
pub(super) const WEIGHED: usize = 4;
/// Thousandths of a processor.
pub(super) const MILLI: u64 = 1_000;

/// See the head of this file.
#[derive(Clone, Debug)]
pub(super) struct Room {
    pub(super) name: String,
    nodes: Vec<NodeRoom>,
    /// From each node, all nodes, the nearest first, with their distances.
    near: Vec<Vec<(usize, u32)>>,
    /// The sizes of huge pages that the host has.
    page_bytes: Vec<u64>,
    gpus: Vec<Slot>,
    nics: Vec<Slot>,
    grants: usize,
    /// What it had at first, of the resources that are weighed.
    pub(super) had: [u64; WEIGHED],
    /// Follows from the above.
    pub(super) left: Left,
}

/// What the nodes of a host have together, and its devices each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Left {
    /// Processors that somebody can have for itself.
    pub(super) exclusive: u64,
    /// Thousandths of processors that are neither somebody's own nor promised.
    pub(super) millicores: u64,
    pub(super) memory_bytes: u64,
    /// Pages, by size.
    pub(super) pages: Vec<u64>,
    /// Of each GPU or instance.
    pub(super) gpus: Vec<u64>,
    /// Of each NIC.
    pub(super) nics: Vec<u64>,
}

#[derive(Clone, Debug)]
struct NodeRoom {
    cores: Vec<Core>,
    /// Processors that nobody has for itself; those that are isolated, and those not on the core of processor 0.
    free: u64,
    isolated: usize,
    not_first: usize,
    share_millicores: u64,
    memory_bytes: u64,
    /// By the host's sizes.
    pages: Vec<u64>,
}

/// A physical core.
#[derive(Clone, Debug)]
struct Core {
    processors: Vec<(u32, Taken)>,
    isolated: bool,
    /// Processor 0 is on it, which serves interrupts on most hosts.
    first: bool,
    cache: u32,
}

type Taken = bool;

/// A place on a device: a GPU's memory, an instance of it, or a NIC.
#[derive(Clone, Debug)]
struct Slot {
    device: usize,
    instance: Option<usize>,
    node: Option<usize>,
    free: u64,
}

/// Which devices, and which size of huge pages, by their positions; `None` where none is needed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) gpu: Option<usize>,
    pub(super) nic: Option<usize>,
    pub(super) pages: Option<usize>,
}

/// How something fits a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fit {
    /// All that comes from nodes can come from one.
    OneNode,
    /// It has to be spread over nodes.
    Spread,
}

/// Where on a host something is put: beginning at a node, with these devices.
#[derive(Clone, Copy, Debug)]
pub(super) struct Way {
    start: usize,
    choice: Choice,
    pub(super) fit: Fit,
    /// How far what it takes lies apart.
    pub(super) far: u32,
    /// How badly it suits what is left there.
    pub(super) misfit: u128,
}

/// Thousandths of processors that are needed in all.
pub(super) fn millicores(needs: &Needs) -> u64 {
    u64::from(needs.cores) * MILLI + u64::from(needs.share_millicores)
}

/// What is needed of the resources that are weighed.
pub(super) fn weighed(needs: &Needs) -> [u64; WEIGHED] {
    [millicores(needs), needs.memory_bytes, needs.gpu_memory_bytes, needs.bandwidth_bits_per_s]
}

impl Left {
    /// What is left of the resources that are weighed.
    pub(super) fn weighed(&self) -> [u64; WEIGHED] {
        [self.millicores, self.memory_bytes, self.gpus.iter().sum(), self.nics.iter().sum()]
    }

    /// Whether needs fit that name no device.
    pub(super) fn fits_nodes(&self, needs: &Needs) -> bool {
        u64::from(needs.cores) <= self.exclusive
            && millicores(needs) <= self.millicores
            && needs.memory_bytes <= self.memory_bytes
    }
}

impl Room {
    /// All that a host has. The inventory was checked.
    pub(super) fn new(inventory: &Inventory) -> Self {
        let mut page_bytes: Vec<u64> = inventory
            .nodes
            .iter()
            .flat_map(|node| node.huge_pages.iter().map(|pages| pages.page_bytes))
            .collect();
        page_bytes.sort_unstable();
        page_bytes.dedup();
        let count = inventory.nodes.len();
        let near = |from| {
            let mut near: Vec<(usize, u32)> =
                (0..count).map(|to| (to, inventory.distance(from, to))).collect();
            near.sort_by_key(|&(to, distance)| (to != from, distance, to));
            near
        };
        let node = |id: Option<u32>| inventory.nodes.iter().position(|node| Some(node.id) == id);
        let gpus = inventory.gpus.iter().enumerate().flat_map(|(device, gpu)| {
            let slot = move |instance, free| Slot { device, instance, node: node(gpu.node), free };
            let whole = gpu.instances.is_empty().then(|| slot(None, gpu.memory_bytes));
            let instances = gpu.instances.iter().enumerate();
            whole.into_iter().chain(instances.map(move |(at, part)| slot(Some(at), part.memory_bytes)))
        });
        let nics = inventory.nics.iter().enumerate().map(|(device, nic)| Slot {
            device,
            instance: None,
            node: node(nic.node),
            free: nic.bits_per_s.unwrap_or(0),
        });
        let mut room = Self {
            name: inventory.host.clone(),
            nodes: inventory.nodes.iter().map(|node| NodeRoom::new(node, &page_bytes)).collect(),
            near: (0..count).map(near).collect(),
            gpus: gpus.collect(),
            nics: nics.collect(),
            page_bytes,
            grants: 0,
            had: [0; WEIGHED],
            left: Left::default(),
        };
        room.sum();
        room.had = room.left.weighed();
        room
    }

    /// Whether nobody has anything of it.
    pub(super) fn is_unused(&self) -> bool {
        self.grants == 0
    }

    /// The processors that nobody has for itself.
    pub(super) fn shared(&self) -> impl Iterator<Item = (usize, u32)> {
        self.nodes.iter().enumerate().flat_map(|(at, node)| node.free().map(move |id| (at, id)))
    }

    /// Pages of one size that hold so many bytes.
    pub(super) fn pages(&self, size: usize, bytes: u64) -> u64 {
        bytes.div_ceil(self.page_bytes[size])
    }

    /// How many sizes of huge pages there are.
    pub(super) fn page_sizes(&self) -> usize {
        self.page_bytes.len()
    }

    /// Whether another host's sizes of pages and places on GPUs are of the same sort, one by one.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        let instances =
            |room: &Self| room.gpus.iter().map(|slot| slot.instance.is_some()).collect::<Vec<_>>();
        self.page_bytes == other.page_bytes && instances(self) == instances(other)
    }

    /// Whether a GPU's place is given as a whole.
    pub(super) fn is_instance(&self, gpu: usize) -> bool {
        self.gpus[gpu].instance.is_some()
    }

    fn sum(&mut self) {
        let free: u64 = self.nodes.iter().map(|node| node.free).sum();
        let exclusive: u64 = self.nodes.iter().map(NodeRoom::exclusive).sum();
        self.left.exclusive = exclusive.min(free.saturating_sub(1));
        self.left.millicores = self.nodes.iter().map(NodeRoom::millicores).sum();
        self.left.memory_bytes = self.nodes.iter().map(|node| node.memory_bytes).sum();
        self.left.pages.clear();
        let sizes = 0..self.page_bytes.len();
        self.left.pages.extend(sizes.map(|size| self.nodes.iter().map(|node| node.pages[size]).sum::<u64>()));
        self.left.gpus.clear();
        self.left.gpus.extend(self.gpus.iter().map(|slot| slot.free));
        self.left.nics.clear();
        self.left.nics.extend(self.nics.iter().map(|slot| slot.free));
    }

    /// The size of huge pages with the least waste among those of which there are enough; of equals the largest.
    fn best_pages(&self, bytes: u64, free: &[u64]) -> Option<usize> {
        let sizes = (0..self.page_bytes.len()).filter(|&size| self.pages(size, bytes) <= free[size]);
        sizes.min_by_key(|&size| (self.pages(size, bytes) * self.page_bytes[size], Reverse(size)))
    }

    fn node_fits(&self, node: usize, needs: &Needs, pages: Option<usize>) -> bool {
        let node = &self.nodes[node];
        let bytes = needs.huge_pages_bytes;
        millicores(needs) <= node.millicores()
            && needs.memory_bytes <= node.memory_bytes
            && match pages {
                _ if bytes == 0 => true,
                Some(size) => self.pages(size, bytes) <= node.pages[size],
                None => self.best_pages(bytes, &node.pages).is_some(),
            }
    }

    /// Whether the sums over the nodes, one GPU, one NIC and one size of huge pages suffice.
    fn fits(&self, needs: &Needs) -> bool {
        let left = &self.left;
        let device = |need: u64, free: &[u64]| need == 0 || free.iter().any(|free| *free >= need);
        left.fits_nodes(needs)
            && device(needs.gpu_memory_bytes, &left.gpus)
            && device(needs.bandwidth_bits_per_s, &left.nics)
            && (needs.huge_pages_bytes == 0 || self.best_pages(needs.huge_pages_bytes, &left.pages).is_some())
    }

    /// The best way to put something on this host; `None` if it does not fit. With a choice, that one is kept to, and
    /// it was checked that it fits.
    pub(super) fn way(&self, needs: &Needs, choice: Option<Choice>, weights: &Weights<'_>) -> Option<Way> {
        if choice.is_none() && !self.fits(needs) {
            return None;
        }
        let fixed_pages = choice.and_then(|choice| choice.pages);
        let devices = |start: usize| {
            choice.unwrap_or_else(|| Choice {
                gpu: self.nearest(&self.gpus, needs.gpu_memory_bytes, start),
                nic: self.nearest(&self.nics, needs.bandwidth_bits_per_s, start),
                pages: None,
            })
        };
        let far = |start: usize, choice: &Choice| {
            let gpu = choice.gpu.map_or(0, |at| self.distance(start, &self.gpus[at]));
            gpu + choice.nic.map_or(0, |at| self.distance(start, &self.nics[at]))
        };
        let fitting = (0..self.nodes.len()).filter(|&node| self.node_fits(node, needs, fixed_pages));
        let ways = fitting.map(|start| {
            let (room, devices) = (&self.nodes[start], devices(start));
            let far = far(start, &devices);
            let misfit = weights.misfit(self.left_near(start, &devices));
            ((room.lack(needs.cores), far, misfit), start, devices)
        });
        if let Some(((_, far, misfit), start, devices)) = ways.min_by_key(|(key, ..)| *key) {
            let pages =
                fixed_pages.or_else(|| self.best_pages(needs.huge_pages_bytes, &self.nodes[start].pages));
            let choice = self.finished(devices, pages, needs);
            return Some(Way { start, choice, fit: Fit::OneNode, far, misfit });
        }
        let pages = fixed_pages.or_else(|| self.best_pages(needs.huge_pages_bytes, &self.left.pages));
        let misfit = weights.misfit(self.left.weighed());
        let ways = (0..self.nodes.len()).map(|start| {
            let choice = self.finished(devices(start), pages, needs);
            let over: u32 = self.spread(needs, start, &choice).iter().map(|(_, distance, _)| *distance).sum();
            Way { start, choice, fit: Fit::Spread, far: over + far(start, &choice), misfit }
        });
        ways.min_by_key(|way| (way.far, way.start))
    }

    /// What is left on a node, and on the devices that are as near to it as those chosen.
    fn left_near(&self, node: usize, devices: &Choice) -> [u64; WEIGHED] {
        let left = |slots: &[Slot], chosen: Option<usize>| {
            let far = chosen.map_or(0, |at| self.distance(node, &slots[at]));
            slots.iter().filter(|slot| self.distance(node, slot) <= far).map(|slot| slot.free).sum()
        };
        let room = &self.nodes[node];
        let devices = [left(&self.gpus, devices.gpu), left(&self.nics, devices.nic)];
        [room.millicores(), room.memory_bytes, devices[0], devices[1]]
    }

    fn finished(&self, devices: Choice, pages: Option<usize>, needs: &Needs) -> Choice {
        Choice { pages: pages.filter(|_| needs.huge_pages_bytes > 0), ..devices }
    }

    /// The nearest place with enough; of equals the one with the least left.
    fn nearest(&self, slots: &[Slot], need: u64, start: usize) -> Option<usize> {
        let fitting = (0..slots.len()).filter(|&at| need > 0 && slots[at].free >= need);
        fitting.min_by_key(|&at| (self.distance(start, &slots[at]), slots[at].free, at))
    }

    /// How much further a device is than the node's own are; 0 where nobody knows.
    fn distance(&self, from: usize, slot: &Slot) -> u32 {
        let near = &self.near[from];
        let of = |to: usize| near.iter().find(|(node, _)| *node == to).map(|(_, distance)| *distance);
        slot.node.and_then(of).map_or(0, |distance| distance.saturating_sub(near[0].1))
    }

    /// What each node gives, the nearest to the start first: as much as it can of what the nearer ones could not.
    fn spread(&self, needs: &Needs, start: usize, choice: &Choice) -> Vec<(usize, u32, Given)> {
        let mut need = Given {
            cores: needs.cores.into(),
            share: needs.share_millicores.into(),
            memory_bytes: needs.memory_bytes,
            pages: choice.pages.map_or(0, |size| self.pages(size, needs.huge_pages_bytes)),
        };
        // The host keeps a shared processor; where a share was promised it has one anyway.
        let mut parts = Vec::new();
        for &(at, distance) in &self.near[start] {
            let node = &self.nodes[at];
            let cores = need.cores.min(node.exclusive());
            let given = Given {
                cores,
                share: need.share.min(node.millicores() - cores * MILLI),
                memory_bytes: need.memory_bytes.min(node.memory_bytes),
                pages: choice.pages.map_or(0, |size| need.pages.min(node.pages[size])),
            };
            need = Given {
                cores: need.cores - given.cores,
                share: need.share - given.share,
                memory_bytes: need.memory_bytes - given.memory_bytes,
                pages: need.pages - given.pages,
            };
            if at == start || given != Given::default() {
                parts.push((at, distance, given));
            }
        }
        assert!(need == Given::default(), "what fits the sums of a host's nodes can be spread over them");
        parts
    }

    /// Gives something away.
    ///
    /// # Panics
    /// If the way is not one of this room as it is.
    pub(super) fn take(&mut self, host: usize, needs: &Needs, way: &Way) -> Grant {
        let mut parts = Vec::new();
        for (at, _, given) in self.spread(needs, way.start, &way.choice) {
            let node = &mut self.nodes[at];
            let huge_pages = way.choice.pages.filter(|_| given.pages > 0).map(|size| {
                node.pages[size] -= given.pages;
                HugePages { page_bytes: self.page_bytes[size], count: given.pages }
            });
            node.share_millicores += given.share;
            node.memory_bytes -= given.memory_bytes;
            parts.push(Part {
                node: at,
                processors: node.take_processors(given.cores as usize),
                share_millicores: given.share,
                memory_bytes: given.memory_bytes,
                huge_pages,
            });
        }
        let gpu = way.choice.gpu.map(|at| self.gpus[at].take(needs.gpu_memory_bytes));
        let nic = way.choice.nic.map(|at| self.nics[at].take(needs.bandwidth_bits_per_s));
        self.grants += 1;
        self.sum();
        Grant { host, parts, gpu, nic }
    }

    /// Gives a share to whoever has a grant already, the nearest to it first.
    ///
    /// # Panics
    /// If the host has less than that.
    pub(super) fn add_share(&mut self, grant: &mut Grant, mut share: u64) {
        for &(at, _) in &self.near[grant.parts[0].node] {
            let node = &mut self.nodes[at];
            let given = share.min(node.millicores());
            share -= given;
            node.share_millicores += given;
            match grant.parts.iter_mut().find(|part| part.node == at) {
                Some(part) => part.share_millicores += given,
                None if given > 0 => {
                    grant.parts.push(Part { node: at, share_millicores: given, ..Part::default() });
                }
                None => {}
            }
        }
        assert!(share == 0, "a share that fits the sums of a host's nodes can be spread over them");
        self.sum();
    }

    /// Takes back what was given.
    ///
    /// # Panics
    /// If it was given by another allocator, and this one has not given it.
    pub(super) fn give_back(&mut self, grant: Grant) {
        for part in grant.parts {
            let node = &mut self.nodes[part.node];
            part.processors.iter().for_each(|id| node.give_back_processor(*id));
            node.share_millicores = node
                .share_millicores
                .checked_sub(part.share_millicores)
                .expect("a share that was promised comes back");
            node.memory_bytes += part.memory_bytes;
            if let Some(pages) = part.huge_pages {
                let size = self.page_bytes.binary_search(&pages.page_bytes);
                node.pages[size.expect("pages of this host come back")] += pages.count;
            }
        }
        for (slots, device) in [(&mut self.gpus, grant.gpu), (&mut self.nics, grant.nic)] {
            let Some(device) = device else { continue };
            let of = |slot: &&mut Slot| (slot.device, slot.instance) == (device.device, device.instance);
            slots.iter_mut().find(of).expect("a device of this host comes back").free += device.amount;
        }
        self.grants = self.grants.checked_sub(1).expect("what was given comes back once");
        self.sum();
    }

    /// What there is too little of.
    pub(super) fn missing(&self, needs: &Needs) -> Vec<Missing> {
        let left = &self.left;
        let max = |free: &[u64]| free.iter().copied().max().unwrap_or(0);
        let pages = (0..self.page_bytes.len()).map(|size| self.page_bytes[size] * left.pages[size]);
        let share = needs.share_millicores.into();
        let own = u64::from(needs.cores) * MILLI;
        let amounts = [
            (Resource::Processors, needs.cores.into(), left.exclusive),
            (Resource::Share, share, left.millicores.saturating_sub(own)),
            (Resource::Memory, needs.memory_bytes, left.memory_bytes),
            (Resource::GpuMemory, needs.gpu_memory_bytes, max(&left.gpus)),
            (Resource::Bandwidth, needs.bandwidth_bits_per_s, max(&left.nics)),
        ];
        let short = amounts.into_iter().filter(|(_, needed, free)| needed > free);
        let mut missing: Vec<Missing> =
            short.map(|(resource, needed, free)| Missing { resource, needed, free }).collect();
        let huge = needs.huge_pages_bytes;
        if huge > 0 && self.best_pages(huge, &left.pages).is_none() {
            let free = pages.max().unwrap_or(0);
            missing.push(Missing { resource: Resource::HugePages, needed: huge, free });
        }
        missing
    }

    /// How many more with these needs fit; `u64::MAX` if nothing that they need is short.
    pub(super) fn count(&self, needs: &Needs) -> u64 {
        let left = &self.left;
        let each = |free: u64, need: u64| free.checked_div(need).unwrap_or(u64::MAX);
        let nodes = each(left.exclusive, needs.cores.into())
            .min(each(left.millicores, millicores(needs)))
            .min(each(left.memory_bytes, needs.memory_bytes));
        let places =
            |slots: &[Slot], need: u64| match need {
                0 => u64::MAX,
                need => slots
                    .iter()
                    .map(|slot| {
                        if slot.instance.is_some() { u64::from(slot.free >= need) } else { slot.free / need }
                    })
                    .sum(),
            };
        let sizes = 0..self.page_bytes.len();
        let huge = match needs.huge_pages_bytes {
            0 => u64::MAX,
            bytes => sizes.map(|size| left.pages[size] / self.pages(size, bytes)).sum(),
        };
        nodes
            .min(places(&self.gpus, needs.gpu_memory_bytes))
            .min(places(&self.nics, needs.bandwidth_bits_per_s))
            .min(huge)
    }
}

/// What a node gives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Given {
    cores: u64,
    share: u64,
    memory_bytes: u64,
    pages: u64,
}

impl Slot {
    fn take(&mut self, need: u64) -> Device {
        let amount = if self.instance.is_some() { self.free } else { need };
        self.free = self.free.checked_sub(amount.max(need)).expect("only what is free is given away");
        Device { device: self.device, instance: self.instance, amount }
    }
}

impl NodeRoom {
    fn new(node: &Node, page_bytes: &[u64]) -> Self {
        let mut cores: Vec<(u32, Core)> = Vec::new();
        for processor in &node.processors {
            let at = cores.iter().position(|(core, _)| *core == processor.core).unwrap_or_else(|| {
                let core = Core {
                    processors: Vec::new(),
                    isolated: processor.isolated,
                    first: false,
                    cache: processor.cache,
                };
                cores.push((processor.core, core));
                cores.len() - 1
            });
            let core = &mut cores[at].1;
            core.processors.push((processor.id, false));
            core.isolated &= processor.isolated;
            core.first |= processor.id == 0;
        }
        let pages = |size: &u64| {
            let of = node.huge_pages.iter().filter(|pages| pages.page_bytes == *size);
            of.map(|pages| pages.count).sum()
        };
        let free = node.processors.len() as u64;
        let mut room = Self {
            cores: cores.into_iter().map(|(_, core)| core).collect(),
            free,
            isolated: 0,
            not_first: 0,
            share_millicores: 0,
            memory_bytes: node.memory_bytes,
            pages: page_bytes.iter().map(pages).collect(),
        };
        room.count();
        room
    }

    /// Thousandths of processors that are neither somebody's own nor promised.
    fn millicores(&self) -> u64 {
        self.free * MILLI - self.share_millicores
    }

    /// Processors that shares leave for somebody to have for itself.
    fn exclusive(&self) -> u64 {
        self.millicores() / MILLI
    }

    fn free(&self) -> impl Iterator<Item = u32> {
        let all = self.cores.iter().flat_map(|core| &core.processors);
        all.filter(|(_, taken)| !taken).map(|(id, _)| *id)
    }

    /// Why so many processors would better come from another node: not all would be isolated, or processor 0 would be
    /// among them.
    fn lack(&self, cores: u32) -> (bool, bool) {
        let cores = cores as usize;
        (self.isolated < cores, cores > 0 && self.not_first < cores)
    }

    /// Counts the processors that go first.
    fn count(&mut self) {
        let count =
            |of: fn(&Core) -> bool| self.cores.iter().filter(|core| of(core)).map(Core::free).sum::<usize>();
        (self.isolated, self.not_first) = (count(|core| core.isolated), count(|core| !core.first));
    }

    /// Takes so many of the free processors. Isolated ones go first, the core of processor 0 last. Of each sort whole
    /// cores go first, with one cache if there is one with enough; what is less than a core comes from one that is
    /// in use already, so that others stay whole.
    fn take_processors(&mut self, count: usize) -> Vec<u32> {
        let mut taken = Vec::with_capacity(count);
        for (isolated, first) in [(true, false), (true, true), (false, false), (false, true)] {
            let left = count - taken.len();
            if left == 0 {
                break;
            }
            let sort = |core: &Core| core.isolated == isolated && core.first == first;
            let in_cache = |cache: u32| {
                let cores = self.cores.iter().filter(|core| sort(core) && core.cache == cache);
                cores.map(Core::free).sum::<usize>()
            };
            let mut order: Vec<(bool, usize, usize)> = (0..self.cores.len())
                .filter(|&at| sort(&self.cores[at]))
                .map(|at| {
                    // The smallest cache that has enough; else the largest.
                    let free = in_cache(self.cores[at].cache);
                    (free < left, if free < left { usize::MAX - free } else { free }, at)
                })
                .collect();
            order.sort_unstable();
            let whole = order.iter().map(|&(.., at)| at);
            for at in whole {
                let core = &mut self.cores[at];
                if core.is_whole() && core.processors.len() <= count - taken.len() {
                    core.take(core.processors.len(), &mut taken);
                }
            }
            let mut rest: Vec<usize> = order.iter().map(|&(.., at)| at).collect();
            rest.sort_by_key(|&at| self.cores[at].is_whole());
            for at in rest {
                self.cores[at].take(count - taken.len(), &mut taken);
            }
        }
        assert!(taken.len() == count, "only what is free is given away");
        self.free -= count as u64;
        self.count();
        taken
    }

    fn give_back_processor(&mut self, id: u32) {
        let mut all = self.cores.iter_mut().flat_map(|core| &mut core.processors);
        let (_, taken) = all.find(|(known, _)| *known == id).expect("a processor of this node comes back");
        assert!(std::mem::take(taken), "a processor comes back once");
        self.free += 1;
        self.count();
    }
}

impl Core {
    fn free(&self) -> usize {
        self.processors.iter().filter(|(_, taken)| !taken).count()
    }

    fn is_whole(&self) -> bool {
        self.free() == self.processors.len()
    }

    /// Takes at most so many of its processors.
    fn take(&mut self, count: usize, into: &mut Vec<u32>) {
        for (id, taken) in self.processors.iter_mut().filter(|(_, taken)| !taken).take(count) {
            *taken = true;
            into.push(*id);
        }
    }
}
