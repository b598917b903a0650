//! The composer's core under test: what it promises, one test each; how it packs, against an oracle; and whether it
//! holds together in a simulated world where everything goes wrong, and among shards that lie.

mod allocations;
mod application;
mod asked;
mod liars;
mod packing;
mod parts;
mod pools;
mod promises;
mod rig;
mod simulation;

/// The seed of a random test: `SHARD_SEED` if it is set, so that a failure can be played again.
fn seed(default: u64) -> u64 {
    let seed = std::env::var("SHARD_SEED").ok().map(|s| s.parse().expect("SHARD_SEED is a number"));
    let seed = seed.unwrap_or(default);
    println!("SHARD_SEED={seed}");
    seed
}
