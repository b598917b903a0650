//! Resources: what hosts have, and who has been given which part of it.
//!
//! An [`Inventory`] says what a host has. It is probed from the kernel's files and, for GPUs, from NVML ([`probe`]); a
//! host file says what can't be probed ([`HostFile`]). The [`Allocator`] gives out parts of inventories, exactly. What
//! the kernel of this host can enforce of that is in [`limits`].
//!
//! ```
//! use shard_composer::resources::{Allocator, HostFile, Inventory};
//! use shardkit::application::Needs;
//!
//! let text = "probe = false\n[node.0]\nprocessors = '0-3'\nmemory = '8GiB'\n[gpu.a]\nmemory = '16GiB'";
//! let inventory = HostFile::parse(text, "host.toml")?.apply(Inventory::empty())?;
//! let mut allocator = Allocator::new(vec![inventory])?;
//!
//! let needs = Needs { cores: 2, gpu_memory_bytes: 10 << 30, ..Needs::default() };
//! let grant = allocator.allocate(&needs)?;
//! assert_eq!(grant.processors().collect::<Vec<_>>(), [1, 2]);
//!
//! let shortage = allocator.allocate(&needs).unwrap_err();
//! assert!(shortage.to_string().contains("2 processors of its own, 1 can be had"), "{shortage}");
//! allocator.release(grant);
//! assert!(allocator.allocate(&needs).is_ok());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod allocator;
mod grant;
mod host_file;
mod inventory;
pub mod limits;
mod nvml;
pub mod probe;
mod room;
mod search;
mod shortage;
mod weigh;

pub use allocator::Allocator;
pub use grant::{Device, Grant, Part};
pub use host_file::{HOST_FILE_BYTES_MAX, HostFile};
pub use inventory::{
    DEVICES_MAX, Gpu, GpuInstance, HugePages, Inventory, InventoryError, NODES_MAX, Nic, Node,
    PROCESSORS_MAX, Processor,
};
pub use shortage::{Missing, Resource, Shortage};
