//! Whether several needs can be met together: a search over which host, which devices and which pages each gets.
//!
//! What comes from nodes can be spread, so only sums count there ([`Left`]); what is searched is where the parts go that
//! can't be divided. Places that are alike are tried once.
//!
//! Invariant: "none" is said only if all ways were tried.

use super::room::{Choice, Left, Room, millicores};
use shardkit::application::Needs;

/// So many places are tried at most: under a millisecond.
const STEPS_MAX: u32 = 5_000;
/// For so many needs at most a way is searched.
const NEEDS_MAX: usize = 64;

/// What came of a search.
pub(super) enum Found {
    /// For each need, its host and what it gets there.
    All(Vec<(usize, Choice)>),
    /// There is no way.
    None,
    /// Not all ways were tried.
    GivenUp,
}

struct Search<'a> {
    rooms: &'a [Room],
    needs: &'a [&'a Needs],
    left: Vec<Left>,
    steps: u32,
    way: Vec<(usize, Choice)>,
}

/// Looks for a way to meet all these needs.
pub(super) fn search(rooms: &[Room], needs: &[&Needs]) -> Found {
    if needs.len() > NEEDS_MAX {
        return Found::GivenUp;
    }
    let left = rooms.iter().map(|room| room.left.clone()).collect();
    let mut search = Search { rooms, needs, left, steps: 0, way: Vec::with_capacity(needs.len()) };
    if search.go_on() {
        return Found::All(search.way);
    }
    if search.steps < STEPS_MAX { Found::None } else { Found::GivenUp }
}

impl Search<'_> {
    fn go_on(&mut self) -> bool {
        let Some(needs) = self.needs.get(self.way.len()) else { return true };
        for host in 0..self.rooms.len() {
            // A host that is as another was, which was tried.
            if (0..host).any(|other| self.alike(other, host)) || !self.left[host].fits_nodes(needs) {
                continue;
            }
            for choice in self.choices(host, needs) {
                self.steps += 1;
                if self.steps >= STEPS_MAX {
                    return false;
                }
                let before = self.left[host].clone();
                self.take(host, needs, choice);
                self.way.push((host, choice));
                if self.go_on() {
                    return true;
                }
                self.way.pop();
                self.left[host] = before;
            }
        }
        false
    }

    fn alike(&self, one: usize, other: usize) -> bool {
        let (a, b) = (&self.rooms[one], &self.rooms[other]);
        self.left[one] == self.left[other] && a.is_like(b)
    }

    fn choices(&self, host: usize, needs: &Needs) -> Vec<Choice> {
        let (room, left) = (&self.rooms[host], &self.left[host]);
        let gpus = places(needs.gpu_memory_bytes, &left.gpus, |at| room.is_instance(at));
        let nics = places(needs.bandwidth_bits_per_s, &left.nics, |_| false);
        let pages = match needs.huge_pages_bytes {
            0 => vec![None],
            bytes => {
                let sizes =
                    (0..room.page_sizes()).filter(|&size| room.pages(size, bytes) <= left.pages[size]);
                sizes.map(Some).collect()
            }
        };
        let mut choices = Vec::with_capacity(gpus.len() * nics.len() * pages.len());
        for &gpu in &gpus {
            for &nic in &nics {
                choices.extend(pages.iter().map(|&pages| Choice { gpu, nic, pages }));
            }
        }
        choices
    }

    fn take(&mut self, host: usize, needs: &Needs, choice: Choice) {
        let (room, left) = (&self.rooms[host], &mut self.left[host]);
        left.exclusive -= u64::from(needs.cores);
        left.millicores -= millicores(needs);
        left.memory_bytes -= needs.memory_bytes;
        if let Some(size) = choice.pages {
            left.pages[size] -= room.pages(size, needs.huge_pages_bytes);
        }
        if let Some(gpu) = choice.gpu {
            left.gpus[gpu] = if room.is_instance(gpu) { 0 } else { left.gpus[gpu] - needs.gpu_memory_bytes };
        }
        if let Some(nic) = choice.nic {
            left.nics[nic] -= needs.bandwidth_bits_per_s;
        }
    }
}

/// The places with enough, the fullest first, one of each sort; `None` alone if nothing is needed.
fn places(need: u64, free: &[u64], instance: impl Fn(usize) -> bool) -> Vec<Option<usize>> {
    if need == 0 {
        return vec![None];
    }
    let mut places: Vec<usize> = (0..free.len()).filter(|&at| free[at] >= need).collect();
    places.sort_by_key(|&at| (free[at], instance(at), at));
    places.dedup_by_key(|at| (free[*at], instance(*at)));
    places.into_iter().map(Some).collect()
}
