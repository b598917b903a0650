//! The allocator: exact, all or nothing, near together, and true when it says that there is too little.

use crate::books::Books;
use crate::{declared, seed};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use shard_composer::resources::{Allocator, Grant, Inventory, Missing, Resource};
use shardkit::application::Needs;

const GIB: u64 = 1 << 30;
/// Operations of the long random test.
const OPERATIONS: u32 = 1_000_000;

fn cores(cores: u32) -> Needs {
    Needs { cores, ..Needs::default() }
}

fn allocator(text: &str) -> Allocator {
    Allocator::new(vec![declared(text)]).unwrap()
}

fn take(allocator: &mut Allocator, needs: &Needs) -> Vec<u32> {
    allocator.allocate(needs).unwrap().processors().collect()
}

#[test]
fn isolated_processors_go_first_and_one_stays_shared() {
    let mut allocator = allocator("probe = false\n[node.0]\nprocessors = '0-3'\nisolated = '2'");
    let [first, second, third] = [(); 3].map(|()| allocator.allocate(&cores(1)).unwrap());
    let ids = [&first, &second, &third].map(|grant| grant.processors().next().unwrap());
    assert_eq!(ids, [2, 1, 3]);
    let shortage = allocator.allocate(&cores(1)).unwrap_err();
    assert_eq!(shortage.missing, [Missing { resource: Resource::Processors, needed: 1, free: 0 }]);
    assert!(shortage.proved);
    assert_eq!(allocator.shared(0), [0]);
    allocator.release(second);
    assert_eq!(take(&mut allocator, &cores(1)), [1]);
}

#[test]
fn whole_cores_go_first_and_what_is_less_comes_from_a_core_in_use() {
    let siblings = "siblings = ['0,4', '1,5', '2,6', '3,7']";
    let mut allocator = allocator(&format!("probe = false\n[node.0]\nprocessors = '0-7'\n{siblings}"));
    assert_eq!(take(&mut allocator, &cores(2)), [1, 5]);
    assert_eq!(take(&mut allocator, &cores(1)), [2]);
    assert_eq!(take(&mut allocator, &cores(3)), [3, 7, 6]);
    assert_eq!(take(&mut allocator, &cores(1)), [0]);
    assert_eq!(allocator.shared(0), [4]);
}

#[test]
fn all_comes_from_one_node_if_it_can_and_from_the_nearest_otherwise() {
    let node = |id: u32, first: u32, distances: &str| {
        format!(
            "[node.{id}]\nprocessors = '{first}-{}'\nmemory = '8GiB'\ndistances = {distances}\n",
            first + 3
        )
    };
    let text = "probe = false\n".to_owned()
        + &node(0, 0, "[10, 40, 20]")
        + &node(1, 4, "[40, 10, 30]")
        + &node(2, 8, "[20, 30, 10]")
        + "[gpu.a]\nnode = 1\nmemory = '8GiB'\n[gpu.b]\nnode = 2\nmemory = '16GiB'\n[nic.x]\nnode = 1\nspeed = '1Gbit/s'";
    let mut allocator = allocator(&text);
    let needs = Needs {
        cores: 2,
        memory_bytes: GIB,
        gpu_memory_bytes: GIB,
        bandwidth_bits_per_s: 1000,
        ..Needs::default()
    };
    let near = allocator.allocate(&needs).unwrap();
    assert_eq!(near.parts().iter().map(|part| part.node()).collect::<Vec<_>>(), [1], "where GPU and NIC are");
    assert_eq!(near.gpu().unwrap().device, 0);
    allocator.release(near);
    let large = Needs { gpu_memory_bytes: 9 * GIB, bandwidth_bits_per_s: 0, ..needs };
    let grant = allocator.allocate(&large).unwrap();
    assert_eq!((grant.parts()[0].node(), grant.gpu().unwrap().device), (2, 1));
    allocator.release(grant);

    let wide = allocator.allocate(&Needs { cores: 6, memory_bytes: 9 * GIB, ..Needs::default() }).unwrap();
    let nodes: Vec<_> = wide.parts().iter().map(|part| (part.node(), part.processors.len())).collect();
    assert_eq!(nodes, [(0, 4), (2, 2)], "20 apart, the others are 30 and 40 apart");
    assert_eq!(wide.memory_bytes(), 9 * GIB);
}

#[test]
fn an_instance_of_a_gpu_is_given_as_a_whole_and_only_instances_are_where_there_are_some() {
    let text = "probe = false\n[node.0]\nprocessors = '0-1'\n\
                [gpu.a]\nmemory = '80GiB'\ninstances = { small = '10GiB', large = '20GiB' }";
    let mut allocator = allocator(text);
    let needs = |gib| Needs { gpu_memory_bytes: gib * GIB, ..Needs::default() };
    assert_eq!(allocator.room(&needs(5)), Some(2));
    let grant = allocator.allocate(&needs(5)).unwrap();
    assert_eq!(grant.gpu().map(|gpu| (gpu.instance, gpu.amount)), Some((Some(0), 10 * GIB)));
    assert_eq!(allocator.room(&needs(11)), Some(1));
    let shortage = allocator.allocate(&needs(40)).unwrap_err();
    assert_eq!(
        shortage.missing,
        [Missing { resource: Resource::GpuMemory, needed: 40 * GIB, free: 20 * GIB }]
    );
    allocator.release(grant);
}

#[test]
fn a_composition_gets_all_or_nothing_and_the_shortage_says_what_is_missing() {
    let text = "probe = false\nhost = 'small'\n[node.0]\nprocessors = '0-4'\nmemory = '4GiB'\n\
                [nic.eth0]\n[nic.eth1]\nspeed = '10Gbit/s'";
    let mut allocator = allocator(text);
    let fresh = format!("{allocator:?}");
    let needs = [
        Needs { memory_bytes: GIB, ..cores(2) },
        Needs { memory_bytes: 4 * GIB, share_millicores: 500, ..cores(0) },
        Needs { bandwidth_bits_per_s: 1, ..cores(1) },
    ];
    let shortage = allocator.allocate_all(&needs).unwrap_err();
    assert_eq!((shortage.at, shortage.of, shortage.proved), (1, 3, true));
    assert_eq!(shortage.missing, [Missing { resource: Resource::Memory, needed: 4 * GIB, free: 3 * GIB }]);
    assert_eq!(
        shortage.to_string(),
        "host `small` has too little: needed 4 GiB of memory, 3 GiB is free (number 2 of 3 that are to be there together)"
    );
    assert_eq!(format!("{allocator:?}"), fresh, "nothing was given");

    let grants = allocator.allocate_all(&[needs[0], needs[2]]).unwrap();
    assert_eq!(grants.iter().map(|grant| grant.processors().count()).collect::<Vec<_>>(), [2, 1]);
    assert_eq!(grants[1].nic().unwrap().device, 1, "the other's speed is not known");
    grants.into_iter().for_each(|grant| allocator.release(grant));
    assert_eq!(format!("{allocator:?}"), fresh, "all came back");
}

#[test]
fn a_way_is_found_where_placing_the_largest_first_finds_none() {
    let gpu = |name: &str, gib: u32| format!("[gpu.{name}]\nmemory = '{gib}GiB'\n");
    let text = "probe = false\n[node.0]\nprocessors = '0-1'\n".to_owned() + &gpu("a", 12) + &gpu("b", 11);
    let mut allocator = allocator(&text);
    let needs = [6, 5, 4, 4, 4].map(|gib| Needs { gpu_memory_bytes: gib * GIB, ..Needs::default() });
    let grants = allocator.allocate_all(&needs).unwrap();
    assert_eq!(grants.len(), 5);
    let at = grants.iter().map(|grant| grant.gpu().unwrap().device).collect::<Vec<_>>();
    assert_eq!(at, [1, 1, 0, 0, 0]);
    grants.into_iter().for_each(|grant| allocator.release(grant));
}

#[test]
fn the_room_for_more_is_what_can_be_given() {
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    for _ in 0..300 {
        let hosts = small_hosts(&mut random);
        let mut allocator = Allocator::new(hosts).unwrap();
        for _ in 0..random.random_range(0..4) {
            let _ = allocator.allocate(&small_needs(&mut random)).map(drop);
        }
        let needs = small_needs(&mut random);
        let Some(room) = allocator.room(&needs) else { continue };
        let given = (0..).take_while(|_| allocator.allocate(&needs).map(drop).is_ok());
        let given = given.count() as u64;
        // Shares that come with processors may break up what would be whole processors elsewhere.
        let both = needs.cores > 0 && needs.share_millicores > 0;
        assert!(given == room || both && given < room, "{given} of {room}: {needs:?} of {allocator:?}");
    }
}

fn small_hosts(random: &mut StdRng) -> Vec<Inventory> {
    (0..random.random_range(1..=2)).map(|_| small_host(random)).collect()
}

fn small_host(random: &mut StdRng) -> Inventory {
    let mut text = "probe = false\n".to_owned();
    for node in 0..random.random_range(1..=2) {
        let first = node * 3;
        let last = first + random.random_range(0..3);
        let (memory, pages) = (random.random_range(0..6), random.random_range(0..3));
        text += &format!(
            "[node.{node}]\nprocessors = '{first}-{last}'\nmemory = {memory}\nhuge_pages = {{ 2B = {pages}, 4B = 1 }}\n"
        );
    }
    for gpu in 0..random.random_range(0..3) {
        text += &format!("[gpu.g{gpu}]\nmemory = {}\n", random.random_range(1..7));
        if random.random_bool(0.3) {
            text += &format!("instances = {{ g{gpu}a = 2, g{gpu}b = {} }}\n", random.random_range(1..4));
        }
    }
    for nic in 0..random.random_range(0..3) {
        text += &format!("[nic.n{nic}]\nspeed = {}\n", random.random_range(1..7));
    }
    declared(&text)
}

fn small_needs(random: &mut StdRng) -> Needs {
    let mut some =
        |chance: f64, max: u64| if random.random_bool(chance) { random.random_range(1..=max) } else { 0 };
    Needs {
        cores: some(0.5, 3) as u32,
        share_millicores: 250 * some(0.5, 6) as u32,
        memory_bytes: some(0.5, 4),
        huge_pages_bytes: some(0.2, 5),
        processes: 64,
        gpu_memory_bytes: some(0.5, 4),
        bandwidth_bits_per_s: some(0.5, 4),
        ..Needs::default()
    }
}

/// Whether several needs can be met together: everything is tried, by books of what each host has.
fn can_all(hosts: &[Inventory], needs: &[Needs]) -> bool {
    fn place(left: &mut [Small], needs: &[Needs]) -> bool {
        let Some((one, rest)) = needs.split_first() else { return true };
        for host in 0..left.len() {
            for next in left[host].after(one) {
                let before = std::mem::replace(&mut left[host], next);
                if place(left, rest) {
                    return true;
                }
                left[host] = before;
            }
        }
        false
    }
    let mut left: Vec<Small> = hosts.iter().map(Small::new).collect();
    place(&mut left, needs)
}

/// What a small host has left, written out.
#[derive(Clone)]
struct Small {
    /// Free processors and promised shares.
    nodes: Vec<(u64, u64)>,
    memory: u64,
    pages: Vec<(u64, u64)>,
    /// Free, and whether it is given as a whole.
    gpus: Vec<(u64, bool)>,
    nics: Vec<u64>,
}

impl Small {
    fn new(host: &Inventory) -> Self {
        let mut pages: Vec<(u64, u64)> = vec![(2, 0), (4, 0)];
        for huge in host.nodes.iter().flat_map(|node| &node.huge_pages) {
            pages[usize::from(huge.page_bytes == 4)].1 += huge.count;
        }
        let gpus = host.gpus.iter().flat_map(|gpu| {
            let whole = gpu.instances.is_empty().then_some((gpu.memory_bytes, false));
            whole.into_iter().chain(gpu.instances.iter().map(|part| (part.memory_bytes, true)))
        });
        Self {
            nodes: host.nodes.iter().map(|node| (node.processors.len() as u64, 0)).collect(),
            memory: host.memory_bytes(),
            pages,
            gpus: gpus.collect(),
            nics: host.nics.iter().map(|nic| nic.bits_per_s.unwrap_or(0)).collect(),
        }
    }

    /// All that may be left after one need was met.
    fn after(&self, needs: &Needs) -> Vec<Self> {
        let Some(memory) = self.memory.checked_sub(needs.memory_bytes) else { return Vec::new() };
        let mut all = vec![Self { memory, ..self.clone() }];
        let each =
            |all: Vec<Self>, ways: &dyn Fn(&Self) -> Vec<Self>| all.iter().flat_map(ways).collect::<Vec<_>>();
        if needs.gpu_memory_bytes > 0 {
            all = each(all, &|small| {
                let fit = (0..small.gpus.len()).filter(|&at| small.gpus[at].0 >= needs.gpu_memory_bytes);
                fit.map(|at| {
                    let mut next = small.clone();
                    next.gpus[at].0 =
                        if next.gpus[at].1 { 0 } else { next.gpus[at].0 - needs.gpu_memory_bytes };
                    next
                })
                .collect()
            });
        }
        if needs.bandwidth_bits_per_s > 0 {
            all = each(all, &|small| {
                let fit = (0..small.nics.len()).filter(|&at| small.nics[at] >= needs.bandwidth_bits_per_s);
                fit.map(|at| {
                    let mut next = small.clone();
                    next.nics[at] -= needs.bandwidth_bits_per_s;
                    next
                })
                .collect()
            });
        }
        if needs.huge_pages_bytes > 0 {
            all = each(all, &|small| {
                let count = |at: usize| needs.huge_pages_bytes.div_ceil(small.pages[at].0);
                let fit = (0..2).filter(|&at| small.pages[at].1 >= count(at));
                fit.map(|at| {
                    let mut next = small.clone();
                    next.pages[at].1 -= count(at);
                    next
                })
                .collect()
            });
        }
        each(all, &|small| small.spread(needs))
    }

    /// All ways to take processors and a share from the (at most two) nodes, the share by quarters of a processor.
    fn spread(&self, needs: &Needs) -> Vec<Self> {
        let mut all = Vec::new();
        let (cores, share) = (u64::from(needs.cores), u64::from(needs.share_millicores));
        let other = self.nodes.len() > 1;
        for own in if other { 0..=cores } else { cores..=cores } {
            for part in (0..=share).step_by(250).filter(|part| other || *part == share) {
                let mut next = self.clone();
                let mut taken = vec![(own, part), (cores - own, share - part)];
                taken.truncate(next.nodes.len());
                let fits = next.nodes.iter_mut().zip(&taken).all(|(node, (own, part))| {
                    let free = node.0.checked_sub(*own);
                    *node = (free.unwrap_or(0), node.1 + part);
                    free.is_some() && node.1 <= 1000 * node.0
                });
                if fits && next.nodes.iter().any(|node| node.0 > 0) {
                    all.push(next);
                }
            }
        }
        all
    }
}

#[test]
fn a_shortage_is_said_only_where_trying_everything_finds_no_way() {
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let (mut met, mut short) = (0, 0);
    for _ in 0..1_500 {
        let hosts = small_hosts(&mut random);
        let needs: Vec<Needs> = (0..random.random_range(1..=3)).map(|_| small_needs(&mut random)).collect();
        let mut allocator = Allocator::new(hosts.clone()).unwrap();
        let possible = can_all(&hosts, &needs);
        match allocator.allocate_all(&needs) {
            Ok(grants) => {
                assert!(possible, "{needs:?} of {hosts:?}");
                let mut books = Books::default();
                for (grant, needs) in grants.iter().zip(&needs) {
                    books.write(grant, false);
                    Books::suits(grant, needs);
                }
                hosts.iter().enumerate().for_each(|(at, host)| books.check(at, host));
                grants.into_iter().for_each(|grant| allocator.release(grant));
                met += 1;
            }
            Err(shortage) => {
                assert!(!possible && shortage.proved, "{shortage}: {needs:?} of {hosts:?}");
                assert!(!shortage.missing.is_empty());
                short += 1;
            }
        }
        assert_eq!(format!("{allocator:?}"), format!("{:?}", Allocator::new(hosts).unwrap()));
    }
    assert!(met > 100 && short > 100, "{met} met, {short} not");
}

#[test]
fn a_million_random_operations_give_nothing_twice_and_lose_nothing() {
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let text = |isolated: &str| {
        format!(
            "probe = false\n[node.0]\nprocessors = '0-7'\nisolated = '{isolated}'\nsiblings = ['0,4','1,5','2,6','3,7']\n\
             memory = '16GiB'\nhuge_pages = {{ 2MiB = 512, 1GiB = 2 }}\n\
             [node.1]\nprocessors = '8-15'\nmemory = '8GiB'\nhuge_pages = {{ 2MiB = 100 }}\n\
             [gpu.a]\nnode = 0\nmemory = '16GiB'\n[gpu.b]\nnode = 1\nmemory = '16GiB'\n\
             instances = {{ x = '4GiB', y = '12GiB' }}\n[nic.e]\nnode = 1\nspeed = '10Gbit/s'\n[nic.f]\nspeed = '1Gbit/s'"
        )
    };
    let hosts = vec![declared(&text("2-3,6-7")), declared(&text("1")), declared(&text("0"))];
    let mut allocator = Allocator::new(hosts.clone()).unwrap();
    let (fresh, mut books, mut held) = (format!("{allocator:?}"), Books::default(), Vec::<Grant>::new());
    let (mut given, mut refused, mut groups_given, mut groups_refused) = (0, 0, 0, 0);
    let needs = |random: &mut StdRng| {
        let mut some =
            |chance: f64, max: u64| if random.random_bool(chance) { random.random_range(1..=max) } else { 0 };
        Needs {
            cores: some(0.3, 5) as u32,
            share_millicores: some(0.4, 1500) as u32,
            memory_bytes: some(0.7, 3 * GIB),
            huge_pages_bytes: some(0.1, GIB),
            processes: 64,
            gpu_memory_bytes: some(0.3, 8 * GIB),
            bandwidth_bits_per_s: some(0.4, 3_000_000_000),
            ..Needs::default()
        }
    };
    for operation in 0..OPERATIONS {
        if random.random_bool(0.1) {
            // A composition: all of it or nothing.
            let group: Vec<Needs> = (0..random.random_range(2..=5)).map(|_| needs(&mut random)).collect();
            let before = books.clone();
            match allocator.allocate_all(&group) {
                Ok(grants) => {
                    assert_eq!(grants.len(), group.len());
                    for (grant, needs) in grants.into_iter().zip(&group) {
                        books.write(&grant, false);
                        Books::suits(&grant, needs);
                        books.check(grant.host(), &hosts[grant.host()]);
                        held.push(grant);
                    }
                    groups_given += 1;
                }
                Err(shortage) => {
                    let one = &group[shortage.at];
                    assert!(
                        shortage.of == group.len() && !shortage.missing.is_empty(),
                        "{shortage}: {one:?}"
                    );
                    // Nothing is missing from the books: what there was room for, one by one, still has it.
                    if let Ok(grant) = allocator.allocate(one) {
                        assert!(before.has_room(&hosts, one), "operation {operation}, {one:?}");
                        allocator.release(grant);
                    } else {
                        assert!(!before.has_room(&hosts, one), "operation {operation}, {one:?}");
                    }
                    groups_refused += 1;
                }
            }
        } else if held.is_empty() || random.random_bool(0.52) {
            let needs = needs(&mut random);
            match allocator.allocate(&needs) {
                Ok(grant) => {
                    books.write(&grant, false);
                    Books::suits(&grant, &needs);
                    books.check(grant.host(), &hosts[grant.host()]);
                    held.push(grant);
                    given += 1;
                }
                Err(shortage) => {
                    assert!(!books.has_room(&hosts, &needs), "operation {operation}, {needs:?}: {shortage}");
                    refused += 1;
                }
            }
        } else {
            let grant = held.swap_remove(random.random_range(0..held.len()));
            books.write(&grant, true);
            allocator.release(grant);
        }
    }
    assert!(given > OPERATIONS / 10 && refused > OPERATIONS / 100, "{given} given, {refused} refused");
    let groups = (groups_given, groups_refused);
    assert!(
        groups.0 > OPERATIONS / 100 && groups.1 > OPERATIONS / 100,
        "compositions: {groups:?} given, refused"
    );
    held.shuffle(&mut random);
    held.drain(..).for_each(|grant| allocator.release(grant));
    assert_eq!(format!("{allocator:?}"), fresh, "all came back");
}
