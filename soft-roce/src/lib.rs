//! A test bed with real soft-RoCE: guests that boot Debian's stock kernel with `rdma_rxe` under QEMU, on any machine.
//!
//! A [`Bed`] holds what booting needs: packages, a kernel, an initial file system. It boots [`Guest`]s in a
//! [`Layout`]; a guest sees the host's files read-only, so freshly built programs run in it as they are.
//! [`devices`] makes and removes the RDMA devices, in a guest or on this very host.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! use soft_roce::{Bed, Command, Layout};
//! let bed = Bed::prepare(std::env::current_exe()?)?;
//! let guests = bed.boot(Layout::Single)?;
//! let exit = guests[0].run(Command::new("ibv_devinfo"))?;
//! assert_eq!(exit.code, Some(0));
//! # Ok(()) }
//! ```

pub mod agent;
mod bed;
pub mod bench;
pub mod demo;
pub mod devices;
mod doctor;
mod guest;
mod host;
mod identity;
mod kernel;
pub mod measure;
pub mod shard;
pub mod suite;
mod wire;

pub use bed::{Bed, Layout};
pub use doctor::doctor;
pub use guest::{Exit, Guest, Running};
pub use identity::Authority;
pub use wire::Command;
