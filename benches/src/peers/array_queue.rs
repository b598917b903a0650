//! crossbeam's `ArrayQueue` between two threads: the bounded queue without the channel around it.

use super::{by_size, ring_bytes};
use crate::case::{Case, Test};
use crate::channel::{Channel, Duplex, Patience};
use crate::error::Result;
use crate::peer::{End, Handed, Handover, Peer};
use ::crossbeam::queue::ArrayQueue;
use std::sync::Arc;

/// The fewest messages that a queue holds.
const MESSAGES_MIN: usize = 16;

pub(super) struct ArrayQueuePeer;

impl Peer for ArrayQueuePeer {
    fn name(&self) -> &'static str {
        "array-queue"
    }

    fn about(&self) -> &'static str {
        "crossbeam's bounded queue between two threads, the payload moved by value"
    }

    fn takes(&self, case: &Case) -> bool {
        matches!(case.test, Test::RoundTrip | Test::Stream)
    }

    fn open(&self, case: &Case) -> Result<(Box<dyn End>, Handover)> {
        by_size!(case.bytes, open(case))
    }

    fn join(&self, _case: &Case, _handed: Handed) -> Result<Box<dyn End>> {
        unreachable!("its far end is a thread")
    }
}

fn open<const N: usize>(case: &Case) -> Result<(Box<dyn End>, Handover)> {
    let messages = (ring_bytes(case) / N).max(MESSAGES_MIN);
    let [to_far, to_near] = [(); 2].map(|()| Arc::new(ArrayQueue::<[u8; N]>::new(messages)));
    let near = Duplex::new(Both { outgoing: to_far.clone(), incoming: to_near.clone() }, N);
    let far = Both { outgoing: to_near, incoming: to_far };
    let far = move || Ok(Box::new(Duplex::new(far, N)) as Box<dyn End>);
    Ok((Box::new(near), Handover::Thread(Box::new(far))))
}

struct Both<const N: usize> {
    outgoing: Arc<ArrayQueue<[u8; N]>>,
    incoming: Arc<ArrayQueue<[u8; N]>>,
}

impl<const N: usize> Channel for Both<N> {
    #[inline]
    fn send(&mut self, payload: &[u8]) -> Result<()> {
        let mut message: [u8; N] = payload.try_into().expect("the case's size");
        let mut patience = Patience::default();
        while let Err(back) = self.outgoing.push(message) {
            message = back;
            patience.wait()?;
        }
        Ok(())
    }

    #[inline]
    fn try_receive(&mut self, payload: &mut [u8]) -> Result<bool> {
        match self.incoming.pop() {
            Some(message) => {
                payload.copy_from_slice(&message);
                Ok(true)
            }
            None => Ok(false),
        }
    }
}
