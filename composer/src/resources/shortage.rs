//! Why something could not be given: what is missing, how much, and what is free.

use shardkit::manifest::parts::show_bytes;
use std::fmt;

/// A thing of which there may be too little.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resource {
    /// Processors that nobody else has.
    Processors,
    /// Of the processors that nobody has for itself, thousandths of one.
    Share,
    /// Memory, in bytes.
    Memory,
    /// Memory in huge pages of one size, in bytes.
    HugePages,
    /// Memory of one GPU, or of one instance, in bytes.
    GpuMemory,
    /// Bandwidth of one NIC, in bits a second.
    Bandwidth,
}

/// A resource of which there is too little.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Missing {
    /// Which.
    pub resource: Resource,
    /// So much is needed in one place.
    pub needed: u64,
    /// So much can be had in one place.
    pub free: u64,
}

/// Nothing was given, because not everything could be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Shortage {
    /// Whose needs can't be met, by their position among those that were asked for.
    pub at: usize,
    /// How many were asked for.
    pub of: usize,
    /// The host that comes nearest.
    pub host: String,
    /// What that host has too little of, beside the others that were asked for. Never empty.
    pub missing: Vec<Missing>,
    /// Whether it is proved that there is no way. A single one always is; of many it may be that the search was given up.
    pub proved: bool,
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "host `{}` has too little: needed ", self.host)?;
        for (at, missing) in self.missing.iter().enumerate() {
            write!(f, "{}{missing}", if at > 0 { "; " } else { "" })?;
        }
        match (self.of, self.proved) {
            (1, _) => Ok(()),
            (of, true) => write!(f, " (number {} of {of} that are to be there together)", self.at + 1),
            (of, false) => {
                write!(
                    f,
                    " (number {} of {of} that are to be there together; not every way was tried)",
                    self.at + 1
                )
            }
        }
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (needed, free) = (self.needed, self.free);
        let bytes = [needed, free].map(show_bytes);
        match self.resource {
            Resource::Processors => write!(f, "{needed} processors of its own, {free} can be had"),
            Resource::Share => {
                write!(f, "{needed} thousandths of the shared processors, {free} can be had")
            }
            Resource::Memory => write!(f, "{} of memory, {} is free", bytes[0], bytes[1]),
            Resource::HugePages => write!(f, "{} in huge pages of one size, {} is free", bytes[0], bytes[1]),
            Resource::GpuMemory => write!(f, "{} of one GPU, {} is free", bytes[0], bytes[1]),
            Resource::Bandwidth => write!(
                f,
                "{needed} bit/s of one NIC, {free} bit/s is free{}",
                if free == 0 {
                    "; a NIC whose speed is not known promises none: declare it in a host file"
                } else {
                    ""
                }
            ),
        }
    }
}
