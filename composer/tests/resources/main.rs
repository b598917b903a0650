//! The promises of the inventory, the host file and the allocator.

mod allocator;
mod books;
mod host_file;
mod limits;
mod probe;

use shard_composer::resources::{HostFile, Inventory};

/// The host that a host file declares.
fn declared(text: &str) -> Inventory {
    let file = HostFile::parse(text, "host.toml").unwrap_or_else(|error| panic!("{error}"));
    file.apply(Inventory::empty()).unwrap_or_else(|error| panic!("{error}"))
}

/// A number from the environment, or one that is new each time; printed, so that it can be given again.
fn seed() -> u64 {
    let seed =
        std::env::var("SHARD_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    println!("SHARD_SEED={seed}");
    seed
}
