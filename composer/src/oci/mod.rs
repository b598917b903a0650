//! OCI images: reading, unpacking, running and making them, without a daemon and without a network.
//!
//! An image is a stack of layers and a configuration, each named by its digest. It is read from a folder or an archive
//! (`image`), unpacked once into a cache (`cache`), and run from there by an installed OCI runtime with a
//! configuration that this module writes (`bundle`, `runtime`). `build` makes an image from a component's binary.
//!
//! Invariant: what an archive says is taken for hostile. Nothing is written outside the folder that it is unpacked into,
//! nothing is used whose digest was not checked, and everything has a named maximum ([`Limits`]).

mod archive;
mod build;
mod bundle;
mod cache;
mod digest;
mod elf;
mod error;
mod image;
mod limits;
mod root;
mod runtime;
mod seccomp;
mod store;
mod unpack;

pub use build::{Order, build};
pub use cache::{Cache, Unpacked};
pub use error::OciError;
pub use image::{Image, Layer};
pub use limits::Limits;
pub use runtime::{RUNTIME_ENV, Runtime};

pub(crate) use bundle::{Container, ContainerPlace, prepare};
