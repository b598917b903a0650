//! The least that carries a message and its answer: a shared page with a flag for each direction.
//!
//! The writer copies the payload, then stores its number in the flag; the reader polls the flag, then copies the
//! payload out. There is no flow control: the ends take turns.

use crate::channel::Channel;
use crate::error::Result;
use crate::memory::{Area, LINE_BYTES, PAGE_BYTES, Shared, Word};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Where the payload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload {
    /// In the lines after the flag's.
    Beside,
    /// In the flag's own line; at most [`IN_LINE_BYTES_MAX`].
    InLine,
}

/// What fits beside the flag in its line.
pub const IN_LINE_BYTES_MAX: usize = LINE_BYTES - size_of::<u64>();

/// Which of the two ends this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The one that opened the memory.
    Near,
    /// The one that joined.
    Far,
}

/// One end of the page.
pub struct FlagPage {
    outgoing: Direction,
    incoming: Direction,
}

struct Direction {
    flag: Word<AtomicU64>,
    payload: Area,
    count: u64,
}

impl FlagPage {
    /// The memory that it takes.
    pub fn memory_bytes(payload_bytes: usize) -> usize {
        2 * Self::direction_bytes(payload_bytes)
    }

    fn direction_bytes(payload_bytes: usize) -> usize {
        (LINE_BYTES + payload_bytes).next_multiple_of(PAGE_BYTES)
    }

    /// This side's end.
    pub fn new(memory: &Rc<Shared>, payload: Payload, payload_bytes: usize, side: Side) -> Self {
        let direction = |at| Direction {
            flag: memory.word(at),
            payload: match payload {
                Payload::Beside => memory.area(at + LINE_BYTES, payload_bytes),
                Payload::InLine => memory.area(at + size_of::<u64>(), payload_bytes.min(IN_LINE_BYTES_MAX)),
            },
            count: 0,
        };
        let (to_far, to_near) = (direction(0), direction(Self::direction_bytes(payload_bytes)));
        match side {
            Side::Near => Self { outgoing: to_far, incoming: to_near },
            Side::Far => Self { outgoing: to_near, incoming: to_far },
        }
    }
}

impl Channel for FlagPage {
    #[inline]
    fn send(&mut self, payload: &[u8]) -> Result<()> {
        let to = &mut self.outgoing;
        to.payload.write(0, payload);
        to.count += 1;
        // Pairs with the acquire in `try_receive`: who sees the number sees the payload.
        to.flag.store(to.count, Ordering::Release);
        Ok(())
    }

    #[inline]
    fn try_receive(&mut self, payload: &mut [u8]) -> Result<bool> {
        let from = &mut self.incoming;
        // Pairs with the release in `send`.
        if from.flag.load(Ordering::Acquire) == from.count {
            return Ok(false);
        }
        from.payload.read(0, payload);
        from.count += 1;
        Ok(true)
    }
}
