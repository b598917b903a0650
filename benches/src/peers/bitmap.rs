//! Fan-in with a doorbell: a bit for each link and a summary of the words that have any, so an idle poll is one load.
//!
//! The sender rings after it has published; the receiver takes the bells down before it reads. So a message whose
//! bell was taken down is seen, and one that came later rings again.

use super::limit::only_memory;
use super::scan::{consumers, ring_at, shape};
use crate::bare::ring::{BATCH, Consumer, Producer};
use crate::case::{Case, Test};
use crate::channel::{Channel, Duplex};
use crate::error::Result;
use crate::memory::{LINE_BYTES, PAGE_BYTES, Shared, Word};
use crate::peer::{End, Handed, Handover, Peer};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};

pub(super) struct Bitmap;

impl Peer for Bitmap {
    fn name(&self) -> &'static str {
        "bitmap"
    }

    fn about(&self) -> &'static str {
        "bare rings with a doorbell bitmap"
    }

    fn takes(&self, case: &Case) -> bool {
        matches!(case.test, Test::IdlePoll | Test::FanInRoundTrip | Test::HotLink)
    }

    fn open(&self, case: &Case) -> Result<(Box<dyn End>, Handover)> {
        let shape = shape(case);
        let memory = Shared::create(bells_at(case) + PAGE_BYTES)?;
        let handed = Handed::descriptors([memory.descriptor()?]);
        let channel = Near {
            case: *case,
            outgoing: (0..case.links)
                .map(|link| Producer::new(&memory, ring_at(shape, link), shape))
                .collect(),
            incoming: Consumer::new(&memory, ring_at(shape, case.links), shape),
            bells: Bells::new(case, &memory),
            link: 0,
        };
        Ok((Box::new(Duplex::new(channel, case.bytes)), Handover::Process(handed)))
    }

    fn join(&self, case: &Case, handed: Handed) -> Result<Box<dyn End>> {
        let (shape, memory) = (shape(case), only_memory(handed)?);
        let channel = Far {
            incoming: consumers(case, &memory, shape),
            outgoing: Producer::new(&memory, ring_at(shape, case.links), shape),
            bells: Bells::new(case, &memory),
            rung: vec![0; case.links.div_ceil(BITS)],
            rung_words: 0,
            at: None,
            drained: 0,
        };
        Ok(Box::new(Duplex::new(channel, case.bytes)))
    }
}

const BITS: usize = u64::BITS as usize;

fn bells_at(case: &Case) -> usize {
    ring_at(shape(case), case.links + 1)
}

struct Bells {
    /// A bit for each word of `links` that may have one.
    summary: Word<AtomicU64>,
    links: Vec<Word<AtomicU64>>,
}

impl Bells {
    fn new(case: &Case, memory: &Rc<Shared>) -> Self {
        let words_at = bells_at(case) + LINE_BYTES;
        let word = |at| memory.word(words_at + at * size_of::<u64>());
        Self {
            summary: memory.word(bells_at(case)),
            links: (0..case.links.div_ceil(BITS)).map(word).collect(),
        }
    }

    #[inline]
    fn ring(&self, link: usize) {
        // Release, after the ring's own count: who takes the bell down sees the messages that it was rung for.
        self.links[link / BITS].fetch_or(1 << (link % BITS), Ordering::Release);
        self.summary.fetch_or(1 << (link / BITS), Ordering::Release);
    }
}

struct Near {
    case: Case,
    outgoing: Vec<Producer>,
    incoming: Consumer,
    bells: Bells,
    /// The link that was sent on last.
    link: usize,
}

impl Channel for Near {
    #[inline]
    fn send(&mut self, payload: &[u8]) -> Result<()> {
        self.link = self.case.link_of(payload.first_chunk().copied().map_or(0, u64::from_le_bytes));
        if self.outgoing[self.link].push(payload)? {
            self.bells.ring(self.link);
        }
        Ok(())
    }

    #[inline]
    fn flush(&mut self) -> Result<()> {
        if self.outgoing[self.link].publish() {
            self.bells.ring(self.link);
        }
        Ok(())
    }

    #[inline]
    fn try_receive(&mut self, payload: &mut [u8]) -> Result<bool> {
        Ok(self.incoming.pop(payload))
    }
}

struct Far {
    incoming: Vec<Consumer>,
    outgoing: Producer,
    bells: Bells,
    /// The bells that were taken down and not answered yet, and which words of them are not 0.
    rung: Vec<u64>,
    rung_words: u64,
    /// The link that is being read.
    at: Option<usize>,
    /// Messages read from it in a row; at most a batch, so that no link starves the others.
    drained: u64,
}

impl Far {
    /// Takes down all bells; says whether any was up.
    #[inline]
    fn take_bells(&mut self) -> bool {
        if self.bells.summary.load(Ordering::Relaxed) == 0 {
            return false;
        }
        // Acquire pairs with the release in `ring`.
        let mut words = self.bells.summary.swap(0, Ordering::Acquire);
        self.rung_words |= words;
        while words != 0 {
            let word = words.trailing_zeros() as usize;
            words &= words - 1;
            self.rung[word] |= self.bells.links[word].swap(0, Ordering::Acquire);
        }
        true
    }

    /// The next link whose bell was rung.
    #[inline]
    fn next_rung(&mut self) -> Option<usize> {
        while self.rung_words != 0 {
            let word = self.rung_words.trailing_zeros() as usize;
            let bits = self.rung[word];
            if bits == 0 {
                self.rung_words &= self.rung_words - 1;
                continue;
            }
            self.rung[word] &= bits - 1;
            return Some(word * BITS + bits.trailing_zeros() as usize);
        }
        None
    }

    /// Puts a link that may have more behind the others.
    fn put_back(&mut self, link: usize) {
        self.rung[link / BITS] |= 1 << (link % BITS);
        self.rung_words |= 1 << (link / BITS);
    }
}

impl Channel for Far {
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
        loop {
            if let Some(link) = self.at {
                if self.drained < BATCH && self.incoming[link].pop(payload) {
                    self.drained += 1;
                    return Ok(true);
                }
                if self.drained == BATCH {
                    self.put_back(link);
                }
                (self.at, self.drained) = (None, 0);
            }
            self.at = self.next_rung();
            if self.at.is_none() && !self.take_bells() {
                return Ok(false);
            }
        }
    }
}
