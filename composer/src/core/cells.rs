//! The cells of one composition, in a tree that knows at any time which one to take next.
//!
//! ```text
//! level 0, the largest capacity       auth 1
//!                                    /      \
//! level 1                      physics 2    physics 3        a path from the root to a leaf is a cell
//! ```
//!
//! A shard that many cells share stands near the root, in one node for all of them. So when it fills up or gets
//! room one node changes, however many cells it is in. Each node has a *rank*: how many idle shards a session
//! would have to take on the best path from here down, or "blocked" where a shard has no room. Nodes lie in
//! their parent's buckets by rank, those that changed last first: a node that was full a moment ago is the
//! fullest that has room, and it is the first to be filled again. A node whose best path goes over a strained shard
//! is strained, and lies behind all those of its bucket that are not: it is taken where no other of its rank is.
//!
//! Invariant: a node's rank, and whether it is strained, follow from its own class and its children; a node has a
//! cell below it.

use super::list::{Linked, Links, List, NONE};
use super::shards::Class;

const ROOT: u32 = 0;

/// A cell: the leaf that its path ends in. The generation tells it from a later cell in the same place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CellRef {
    pub(super) leaf: u32,
    pub(super) generation: u32,
}

/// How many idle shards a path takes, and whether it takes a strained one: what is less is taken first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rank(u16);

impl Rank {
    const BEST: Rank = Rank(0);

    fn new(idle: usize) -> Self {
        Rank(2 * idle as u16)
    }

    /// The rank of the path that begins with a shard of this class, which has room, and goes on like this.
    fn over(self, class: Class) -> Self {
        let class = class as u16;
        Rank((self.0 + (class & 2)) | (class & 1))
    }

    fn idle(self) -> usize {
        usize::from(self.0 / 2)
    }

    fn is_strained(self) -> bool {
        self.0 % 2 == 1
    }
}

#[derive(Debug)]
struct Node {
    shard: u32,
    parent: u32,
    level: u16,
    rank: Rank,
    class: Class,
    /// For a leaf: how many wires of the cell are not up yet.
    missing: u32,
    /// How many leaves are below, a leaf itself included; 0 when the node is not in use.
    cells: u32,
    generation: u32,
    links: Links,
}

impl Linked for Node {
    fn links(&self) -> &Links {
        &self.links
    }
    fn links_mut(&mut self) -> &mut Links {
        &mut self.links
    }
}

/// The cells of one composition.
#[derive(Debug)]
pub(super) struct Cells {
    levels: u16,
    nodes: Vec<Node>,
    /// `buckets[node * stride + rank]`: the children of a node by rank.
    buckets: Vec<List>,
    free: Vec<u32>,
    /// How many nodes are strained.
    strained: u32,
}

impl Cells {
    pub(super) fn new(levels: usize) -> Self {
        let levels = u16::try_from(levels).expect("a composition has at most COMPONENTS_MAX components");
        let mut cells =
            Self { levels, nodes: Vec::new(), buckets: Vec::new(), free: Vec::new(), strained: 0 };
        cells.push_node();
        cells
    }

    /// How many cells there are, wired or not.
    pub(super) fn count(&self) -> u32 {
        self.nodes[ROOT as usize].cells
    }

    /// Whether some cell has room in every shard.
    pub(super) fn any_has_room(&self) -> bool {
        self.best(ROOT) != self.blocked()
    }

    /// The best cell with room: its shards in the order of the levels, and whether none of them is idle or strained.
    pub(super) fn pick(&self, set: &mut Vec<u32>) -> Option<bool> {
        let best = self.best(ROOT);
        if best == self.blocked() {
            return None;
        }
        set.clear();
        let mut at = ROOT;
        let mut rank = best;
        loop {
            at = self.bucket(at, rank.idle()).first().expect("a rank comes from a child");
            set.push(self.nodes[at as usize].shard);
            if set.len() == usize::from(self.levels) {
                return Some(best == Rank::BEST);
            }
            rank = self.best(at);
        }
    }

    /// The parent of a node, for whoever keeps the list of a shard's nodes.
    pub(super) fn is_child(&self, at: u32, parent: Option<u32>) -> bool {
        self.nodes[at as usize].parent == parent.unwrap_or(ROOT)
    }

    /// How many cells go through a node.
    pub(super) fn cells_below(&self, at: u32) -> u32 {
        self.nodes[at as usize].cells
    }

    /// Adds a node for `shard`. It has no cell until [`Cells::add_cell`].
    pub(super) fn add_node(&mut self, parent: Option<u32>, shard: u32, class: Class) -> u32 {
        let parent = parent.unwrap_or(ROOT);
        let at = self.free.pop().unwrap_or_else(|| self.push_node());
        let level = if parent == ROOT { 0 } else { self.nodes[parent as usize].level + 1 };
        let rank = self.blocked();
        let node = &mut self.nodes[at as usize];
        let generation = node.generation;
        *node =
            Node { shard, parent, level, rank, class, missing: 0, cells: 0, generation, links: Links::ALONE };
        self.push(at);
        at
    }

    /// Makes a cell of the path that ends in `leaf`, once `missing` wires are up.
    pub(super) fn add_cell(&mut self, leaf: u32, missing: u32) -> CellRef {
        self.nodes[leaf as usize].missing = missing;
        let mut at = leaf;
        while at != NONE {
            self.nodes[at as usize].cells += 1;
            at = self.nodes[at as usize].parent;
        }
        self.refresh(leaf);
        CellRef { leaf, generation: self.nodes[leaf as usize].generation }
    }

    /// Takes a cell out. `freed` is told each node that went with it, and its shard.
    pub(super) fn remove_cell(&mut self, leaf: u32, mut freed: impl FnMut(u32, u32)) {
        let mut at = leaf;
        while at != NONE {
            let Node { shard, parent, .. } = self.nodes[at as usize];
            self.nodes[at as usize].cells -= 1;
            if at != ROOT && self.nodes[at as usize].cells == 0 {
                self.unlink(at);
                self.strained -= u32::from(self.nodes[at as usize].rank.is_strained());
                self.nodes[at as usize].generation = self.nodes[at as usize].generation.wrapping_add(1);
                self.free.push(at);
                freed(at, shard);
            } else {
                self.refresh(at);
            }
            at = parent;
        }
    }

    /// One of the wires that a cell waited for is up.
    pub(super) fn wire_is_up(&mut self, cell: CellRef) {
        if self.is_there(cell) {
            self.nodes[cell.leaf as usize].missing -= 1;
            self.refresh(cell.leaf);
        }
    }

    /// Whether the cell has not been taken out.
    pub(super) fn is_there(&self, cell: CellRef) -> bool {
        let node = &self.nodes[cell.leaf as usize];
        node.generation == cell.generation && node.cells > 0
    }

    /// The shard of a node has become idle, open, strained or full.
    pub(super) fn set_class(&mut self, at: u32, class: Class) {
        self.nodes[at as usize].class = class;
        self.refresh(at);
    }

    /// The leaves below a node, itself included.
    pub(super) fn leaves_below(&self, at: u32, leaves: &mut Vec<u32>) {
        if self.is_leaf(at) {
            leaves.push(at);
            return;
        }
        for idle in 0..self.stride() {
            for child in self.bucket(at, idle).iter(&self.nodes) {
                self.leaves_below(child, leaves);
            }
        }
    }

    /// The shards of the cell that ends in `leaf`, from the leaf up.
    pub(super) fn shards_above(&self, leaf: u32) -> impl Iterator<Item = u32> {
        let mut at = leaf;
        std::iter::from_fn(move || {
            let node = &self.nodes[at as usize];
            at = node.parent;
            (node.parent != NONE).then_some(node.shard)
        })
    }

    /// The leaves of all cells that wait for a wire, or of those that do not.
    pub(super) fn leaves(&self, waiting: bool) -> impl Iterator<Item = u32> {
        let of_a_cell = move |n: &Node| n.cells > 0 && n.parent != NONE && n.level + 1 == self.levels;
        let nodes = (0u32..).zip(&self.nodes);
        nodes.filter(move |(_, n)| of_a_cell(n) && (n.missing > 0) == waiting).map(|(at, _)| at)
    }

    /// Recounts everything that the tree keeps, and says what does not agree.
    pub(super) fn audit(&self, class_of: impl Fn(u32) -> Class) -> Result<(), String> {
        for (at, node) in (0u32..).zip(&self.nodes).skip(1).filter(|(_, n)| n.cells > 0) {
            if node.class != class_of(node.shard) {
                return Err(format!("node {at} has class {:?}, its shard has not", node.class));
            }
            if node.rank != self.rank(at) {
                return Err(format!("node {at} has {:?}, its children say {:?}", node.rank, self.rank(at)));
            }
            let bucket = self.bucket(node.parent, node.rank.idle()).iter(&self.nodes);
            if !bucket.map(|n| self.nodes[n as usize].rank.is_strained()).is_sorted() {
                return Err(format!("in the bucket of node {at} a strained one is before one that is not"));
            }
            let mut leaves = Vec::new();
            self.leaves_below(at, &mut leaves);
            if leaves.len() != node.cells as usize {
                return Err(format!("node {at} counts {} cells and has {}", node.cells, leaves.len()));
            }
        }
        let strained = self.nodes.iter().filter(|n| n.cells > 0 && n.rank.is_strained()).count();
        if strained != self.strained as usize {
            return Err(format!("{strained} nodes are strained, {} were counted", self.strained));
        }
        Ok(())
    }

    fn stride(&self) -> usize {
        usize::from(self.levels) + 2
    }

    /// The rank of a node that no session can take.
    fn blocked(&self) -> Rank {
        Rank(2 * (self.levels + 1))
    }

    fn bucket(&self, at: u32, idle: usize) -> &List {
        &self.buckets[at as usize * self.stride() + idle]
    }

    fn is_leaf(&self, at: u32) -> bool {
        at != ROOT && self.nodes[at as usize].level + 1 == self.levels
    }

    fn push_node(&mut self) -> u32 {
        let at = self.nodes.len() as u32;
        self.nodes.push(Node {
            shard: NONE,
            parent: NONE,
            level: 0,
            rank: self.blocked(),
            class: Class::Full,
            missing: 0,
            cells: 0,
            generation: 0,
            links: Links::ALONE,
        });
        self.buckets.resize(self.nodes.len() * self.stride(), List::EMPTY);
        at
    }

    /// The least rank among the children of a node.
    fn best(&self, at: u32) -> Rank {
        let from = at as usize * self.stride();
        let buckets = &self.buckets[from..from + self.stride() - 1];
        match buckets.iter().position(|b| !b.is_empty()) {
            None => self.blocked(),
            Some(idle) if self.strained == 0 => Rank::new(idle),
            Some(idle) => self.best_of(&buckets[idle]),
        }
    }

    /// The first of a bucket is strained only if all are. Cold: as a rule nobody is.
    #[cold]
    #[inline(never)]
    fn best_of(&self, bucket: &List) -> Rank {
        self.nodes[bucket.first().expect("it is not empty") as usize].rank
    }

    /// What a node's rank is to be.
    fn rank(&self, at: u32) -> Rank {
        let node = &self.nodes[at as usize];
        if !node.class.has_room() || node.missing > 0 || node.cells == 0 {
            return self.blocked();
        }
        let below = if self.is_leaf(at) { Rank::BEST } else { self.best(at) };
        if below == self.blocked() { below } else { below.over(node.class) }
    }

    /// Brings the ranks from `at` up to the root into line.
    fn refresh(&mut self, mut at: u32) {
        while at != ROOT {
            let rank = self.rank(at);
            let old = self.nodes[at as usize].rank;
            if rank == old {
                return;
            }
            self.unlink(at);
            self.nodes[at as usize].rank = rank;
            if rank.is_strained() || old.is_strained() {
                self.push_strained(at, old);
            } else {
                self.push(at);
            }
            at = self.nodes[at as usize].parent;
        }
    }

    /// Puts a node that is not strained first among those of its rank.
    fn push(&mut self, at: u32) {
        let Node { parent, rank, .. } = self.nodes[at as usize];
        let bucket = parent as usize * self.stride() + rank.idle();
        self.buckets[bucket].push_first(&mut self.nodes, at);
    }

    /// Puts a node that is strained, or was when its rank was `old`, where it belongs.
    #[cold]
    #[inline(never)]
    fn push_strained(&mut self, at: u32, old: Rank) {
        let Node { parent, rank, .. } = self.nodes[at as usize];
        self.strained -= u32::from(old.is_strained());
        if !rank.is_strained() {
            return self.push(at);
        }
        self.strained += 1;
        let bucket = parent as usize * self.stride() + rank.idle();
        self.buckets[bucket].push_last(&mut self.nodes, at);
    }

    fn unlink(&mut self, at: u32) {
        let Node { parent, rank, .. } = self.nodes[at as usize];
        let bucket = parent as usize * self.stride() + rank.idle();
        self.buckets[bucket].remove(&mut self.nodes, at);
    }
}
