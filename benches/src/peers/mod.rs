//! Everything that is measured, one file each, and [`all`] of them in the order of the tables.
//!
//! To add a peer: a file here with a type that implements [`Peer`], and a line in [`all`].
//!
//! Aeron is not here: its Rust bindings (`rusteron-client`) build the C++ sources with CMake and run bindgen, which
//! needs libclang, and its messages go through a media driver, a process of its own. None of that is on a machine
//! with only Rust and a C compiler. (The older pure-Rust client, `aeron-rs`, needs that driver too.)

mod array_queue;
mod bitmap;
mod crossbeam;
mod eventfd;
mod fence;
mod iceoryx;
mod limit;
mod limit_line;
mod membarrier;
mod ring;
mod rtrb;
mod scan;
mod seqpacket;
mod shardkit;
mod shared_memory;

use crate::case::{Case, Test};
use crate::peer::Peer;

/// All peers; the limit is the first.
pub fn all() -> Vec<Box<dyn Peer>> {
    vec![
        Box::new(limit::Limit),
        Box::new(limit_line::LimitLine),
        Box::new(ring::RingPeer::COPIED),
        Box::new(ring::RingPeer::LOANED),
        Box::new(shardkit::Shardkit),
        Box::new(shared_memory::SharedMemory),
        Box::new(rtrb::Rtrb),
        Box::new(crossbeam::Crossbeam),
        Box::new(array_queue::ArrayQueuePeer),
        Box::new(iceoryx::Iceoryx::COPIED),
        Box::new(iceoryx::Iceoryx::LOANED),
        Box::new(iceoryx::IceoryxEvent),
        Box::new(seqpacket::Seqpacket::POLLED),
        Box::new(seqpacket::Seqpacket::BLOCKING),
        Box::new(eventfd::EventFd),
        Box::new(scan::Scan),
        Box::new(bitmap::Bitmap),
        Box::new(fence::Fence),
        Box::new(membarrier::Membarrier),
    ]
}

/// The size of a ring, in bytes, the same for everyone who can choose: small where one message is under way at a
/// time, larger for streams, largest for streams of large messages. A common choice, not each one's best: streams
/// differ more from run to run on a shared machine than from size to size.
fn ring_bytes(case: &Case) -> usize {
    match (case.test, case.bytes) {
        (Test::Stream, 1_024..) => 4 << 20,
        (Test::Stream | Test::HotLink | Test::AskParked, _) => 1 << 20,
        _ => 256 << 10,
    }
}

/// Runs `$open::<N>($argument…)` for the payload size of a case, which such peers carry in the message's type.
macro_rules! by_size {
    ($bytes:expr, $open:ident($($argument:expr),*)) => {
        match $bytes {
            40 => $open::<40>($($argument),*),
            64 => $open::<64>($($argument),*),
            1_024 => $open::<1_024>($($argument),*),
            4_096 => $open::<4_096>($($argument),*),
            65_536 => $open::<65_536>($($argument),*),
            bytes => unreachable!("{bytes} B is not one of case::SIZES"),
        }
    };
}
use by_size;
