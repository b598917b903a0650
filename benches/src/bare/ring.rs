//! The least that carries a stream: a ring of fixed slots that publishes in batches.
//!
//! The producer's and the consumer's counts are on lines of their own, and each side keeps a copy of the other's, so
//! it reads the other's line only when its copy says full or empty. No lengths, no headers, no checks.

use crate::channel::{Channel, Patience};
use crate::error::Result;
use crate::memory::{Area, LINE_BYTES, PAGE_BYTES, Shared, Word};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Messages that the limit of streams publishes at once.
pub const BATCH: u64 = 32;
/// The least number of slots: two batches, so that one is written while the other is read.
const SLOTS_MIN: usize = 2 * BATCH as usize;

/// The shape of a ring.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Slots; a power of two.
    slots: usize,
    /// From one slot to the next, in bytes.
    stride: usize,
    /// Messages that are published at once.
    batch: u64,
}

impl Shape {
    /// A ring of about `ring_bytes` for payloads of `payload_bytes`.
    pub fn new(payload_bytes: usize, ring_bytes: usize, batch: u64) -> Self {
        let stride = payload_bytes.next_multiple_of(size_of::<u64>());
        let slots = (ring_bytes / stride).next_power_of_two().max(SLOTS_MIN);
        Self { slots, stride, batch }
    }

    /// The memory that it takes: a page of counts, then the slots.
    pub fn memory_bytes(&self) -> usize {
        (PAGE_BYTES + self.slots * self.stride).next_multiple_of(PAGE_BYTES)
    }
}

/// The producer's count of published messages.
const TAIL_AT: usize = 0;
/// The consumer's count of messages that it is done with; not on the neighbouring line, which some cores prefetch.
const HEAD_AT: usize = 2 * LINE_BYTES;
/// Whether the consumer sleeps; on a line of its own.
const PARKED_AT: usize = 4 * LINE_BYTES;

/// The sending end.
pub struct Producer {
    tail_word: Word<AtomicU64>,
    head_word: Word<AtomicU64>,
    /// Not 0 while the consumer sleeps.
    pub parked: Word<AtomicU64>,
    data: Area,
    shape: Shape,
    tail: u64,
    published: u64,
    head_seen: u64,
}

impl Producer {
    /// The sending end of the ring at offset `at`.
    pub fn new(memory: &Rc<Shared>, at: usize, shape: Shape) -> Self {
        Self {
            tail_word: memory.word(at + TAIL_AT),
            head_word: memory.word(at + HEAD_AT),
            parked: memory.word(at + PARKED_AT),
            data: memory.area(at + PAGE_BYTES, shape.slots * shape.stride),
            shape,
            tail: 0,
            published: 0,
            head_seen: 0,
        }
    }

    /// Copies a payload in, and says whether a full batch was published. Waits for room.
    #[inline]
    pub fn push(&mut self, payload: &[u8]) -> Result<bool> {
        if self.tail - self.head_seen == self.shape.slots as u64 {
            self.wait_for_room()?;
        }
        let slot = self.tail as usize & (self.shape.slots - 1);
        self.data.write(slot * self.shape.stride, payload);
        self.tail += 1;
        let full = self.tail - self.published >= self.shape.batch;
        Ok(full && self.publish())
    }

    /// Publishes what was pushed, and says whether there was anything.
    #[inline]
    pub fn publish(&mut self) -> bool {
        if self.published == self.tail {
            return false;
        }
        self.published = self.tail;
        // Pairs with the acquire in `pop`: who sees the count sees the payloads.
        self.tail_word.store(self.tail, Ordering::Release);
        true
    }

    fn wait_for_room(&mut self) -> Result<()> {
        let mut patience = Patience::default();
        loop {
            // Pairs with the release in `pop`: the consumer has copied what is overwritten next.
            self.head_seen = self.head_word.load(Ordering::Acquire);
            if self.tail - self.head_seen < self.shape.slots as u64 {
                return Ok(());
            }
            patience.wait()?;
        }
    }
}

/// The receiving end.
pub struct Consumer {
    tail_word: Word<AtomicU64>,
    head_word: Word<AtomicU64>,
    data: Area,
    shape: Shape,
    head: u64,
    tail_seen: u64,
}

impl Consumer {
    /// The receiving end of the ring at offset `at`.
    pub fn new(memory: &Rc<Shared>, at: usize, shape: Shape) -> Self {
        Self {
            tail_word: memory.word(at + TAIL_AT),
            head_word: memory.word(at + HEAD_AT),
            data: memory.area(at + PAGE_BYTES, shape.slots * shape.stride),
            shape,
            head: 0,
            tail_seen: 0,
        }
    }

    /// Copies the next payload out, if there is one. Hands space back when it has read all that it knew of.
    #[inline]
    pub fn pop(&mut self, payload: &mut [u8]) -> bool {
        if self.head == self.tail_seen {
            // Pairs with the release in `publish`.
            self.tail_seen = self.tail_word.load(Ordering::Acquire);
            if self.head == self.tail_seen {
                return false;
            }
        }
        let slot = self.head as usize & (self.shape.slots - 1);
        self.data.read(slot * self.shape.stride, payload);
        self.head += 1;
        if self.head == self.tail_seen {
            // Pairs with the acquire in `wait_for_room`: the payloads are copied out before their slots are free.
            self.head_word.store(self.head, Ordering::Release);
        }
        true
    }
}

/// A ring each way.
pub struct RingPair {
    outgoing: Producer,
    incoming: Consumer,
}

impl RingPair {
    /// The memory that it takes.
    pub fn memory_bytes(shape: Shape) -> usize {
        2 * shape.memory_bytes()
    }

    /// The near end.
    pub fn near(memory: &Rc<Shared>, shape: Shape) -> Self {
        let incoming = Consumer::new(memory, shape.memory_bytes(), shape);
        Self { outgoing: Producer::new(memory, 0, shape), incoming }
    }

    /// The far end.
    pub fn far(memory: &Rc<Shared>, shape: Shape) -> Self {
        let incoming = Consumer::new(memory, 0, shape);
        Self { outgoing: Producer::new(memory, shape.memory_bytes(), shape), incoming }
    }

    /// The word that says whether the other end's consumer sleeps.
    pub fn parked(&self) -> &AtomicU64 {
        &self.outgoing.parked
    }
}

impl Channel for RingPair {
    #[inline]
    fn send(&mut self, payload: &[u8]) -> Result<()> {
        self.outgoing.push(payload).map(|_| ())
    }

    #[inline]
    fn flush(&mut self) -> Result<()> {
        self.outgoing.publish();
        Ok(())
    }

    #[inline]
    fn try_receive(&mut self, payload: &mut [u8]) -> Result<bool> {
        Ok(self.incoming.pop(payload))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_shows_whole_or_not_at_all_and_a_lap_keeps_the_order() -> Result<()> {
        let shape = Shape::new(8, 0, BATCH);
        let memory = Shared::create(RingPair::memory_bytes(shape))?;
        let (mut near, mut far) = (RingPair::near(&memory, shape), RingPair::far(&memory, shape));
        let mut payload = [0; 8];
        let (mut sent, mut received) = (0_u64, 0_u64);
        for _lap in 0..5 {
            for _ in 0..BATCH - 1 {
                near.send(&sent.to_le_bytes())?;
                sent += 1;
                assert!(!far.try_receive(&mut payload)?, "an unfinished batch is not seen");
            }
            near.send(&sent.to_le_bytes())?;
            sent += 1;
            while far.try_receive(&mut payload)? {
                assert_eq!(u64::from_le_bytes(payload), received);
                received += 1;
            }
            assert_eq!(sent, received);
        }
        Ok(())
    }
}
