//! crossbeam's bounded channel between two threads. It takes many senders, so it is its own fan-in.
//!
//! Not among the wake-ups: its `recv` spins and yields before it parks, so an answer that comes at once finds it awake.

use super::{by_size, ring_bytes};
use crate::case::{Case, Test};
use crate::channel::{Channel, Duplex, Patience};
use crate::error::{Error, Result};
use crate::peer::{End, Handed, Handover, Peer};
use ::crossbeam::channel::{Receiver, Sender, TryRecvError, TrySendError, bounded};

/// The fewest messages that a channel holds.
const MESSAGES_MIN: usize = 16;

pub(super) struct Crossbeam;

impl Peer for Crossbeam {
    fn name(&self) -> &'static str {
        "crossbeam"
    }

    fn about(&self) -> &'static str {
        "bounded channel between two threads, the payload moved by value"
    }

    fn takes(&self, case: &Case) -> bool {
        !matches!(case.test, Test::WakeUp | Test::AskParked)
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
    let (near_out, far_in) = bounded::<[u8; N]>(messages);
    let (far_out, near_in) = bounded::<[u8; N]>(messages);
    let near = Duplex::new(Both { outgoing: near_out, incoming: near_in }, N);
    let far = Both { outgoing: far_out, incoming: far_in };
    let far = move || Ok(Box::new(Duplex::new(far, N)) as Box<dyn End>);
    Ok((Box::new(near), Handover::Thread(Box::new(far))))
}

struct Both<const N: usize> {
    outgoing: Sender<[u8; N]>,
    incoming: Receiver<[u8; N]>,
}

impl<const N: usize> Channel for Both<N> {
    #[inline]
    fn send(&mut self, payload: &[u8]) -> Result<()> {
        let mut message: [u8; N] = payload.try_into().expect("the case's size");
        let mut patience = Patience::default();
        loop {
            match self.outgoing.try_send(message) {
                Ok(()) => return Ok(()),
                Err(TrySendError::Full(back)) => message = back,
                Err(TrySendError::Disconnected(_)) => return Err(ended()),
            }
            patience.wait()?;
        }
    }

    #[inline]
    fn try_receive(&mut self, payload: &mut [u8]) -> Result<bool> {
        match self.incoming.try_recv() {
            Ok(message) => {
                payload.copy_from_slice(&message);
                Ok(true)
            }
            Err(TryRecvError::Empty) => Ok(false),
            Err(TryRecvError::Disconnected) => Err(ended()),
        }
    }
}

fn ended() -> Error {
    Error::Far("its thread ended".into())
}
