//! The measured loops, for anything that can send and receive bytes.
//!
//! They are generic over the channel, so the compiler sees through them: what is timed is the channel, not a
//! virtual call. Every payload carries its number in its first and last 8 bytes, and the receiver copies it to a
//! buffer of its own and checks both; the last payload of a round is compared whole.

use crate::error::{Error, Result};
use crate::peer::End;
use std::time::{Duration, Instant};

/// How long an end waits for the other before it gives up, in seconds.
pub const PATIENCE_S: u64 = 4;
/// Round trips at the start of each round that are not counted.
pub const WARM_UP: u64 = 16;
/// The most samples of one round.
pub const SAMPLES_MAX: usize = 1 << 20;

/// One end of something that carries bytes both ways.
pub trait Channel {
    /// Sends a copy of `payload`; may keep it back until a batch is full or [`Channel::flush`]. Waits for room.
    fn send(&mut self, payload: &[u8]) -> Result<()>;

    /// Lets go what was kept back.
    fn flush(&mut self) -> Result<()> {
        Ok(())
    }

    /// Copies the next message out, if there is one.
    fn try_receive(&mut self, payload: &mut [u8]) -> Result<bool>;

    /// Waits for the next message: polls, unless the channel sleeps.
    fn receive(&mut self, payload: &mut [u8]) -> Result<()> {
        let mut patience = Patience::default();
        while !self.try_receive(payload)? {
            patience.wait()?;
        }
        Ok(())
    }
}

/// One `pause` per empty poll, and an end to waiting for something that is dead.
#[derive(Default)]
pub struct Patience {
    polls: u32,
    since: Option<Instant>,
}

impl Patience {
    /// Looks at the clock once in so many polls, so that it does not show in what is measured.
    const POLLS_PER_LOOK: u32 = 1 << 16;

    /// Waits a moment.
    ///
    /// # Errors
    /// [`Error::Stalled`] after [`PATIENCE_S`] seconds.
    #[inline]
    pub fn wait(&mut self) -> Result<()> {
        core::hint::spin_loop();
        self.polls = self.polls.wrapping_add(1);
        if self.polls.is_multiple_of(Self::POLLS_PER_LOOK) { self.look() } else { Ok(()) }
    }

    #[cold]
    fn look(&mut self) -> Result<()> {
        let since = *self.since.get_or_insert_with(Instant::now);
        if since.elapsed() < Duration::from_secs(PATIENCE_S) {
            Ok(())
        } else {
            Err(Error::Stalled(PATIENCE_S))
        }
    }
}

/// The times of a round's round trips.
pub struct Samples {
    clock: quanta::Clock,
    step_ns: f64,
    ticks: Vec<u64>,
}

impl Samples {
    /// Room for [`SAMPLES_MAX`] samples, touched beforehand. The clock moves in steps of `step_ns`.
    pub fn new(clock: quanta::Clock, step_ns: f64) -> Self {
        let mut ticks = vec![1; SAMPLES_MAX];
        ticks.clear();
        Self { clock, step_ns, ticks }
    }

    /// The steps in which samples can differ, in nanoseconds.
    pub fn step_ns(&self) -> f64 {
        self.step_ns
    }

    /// Forgets all samples.
    pub fn clear(&mut self) {
        self.ticks.clear();
    }

    /// Times each call of `round_trip`. The end of one is the start of the next, so the clock is read once each.
    pub fn time(&mut self, count: u64, mut round_trip: impl FnMut() -> Result<()>) -> Result<()> {
        let mut before = self.clock.raw();
        for _ in 0..count.min(SAMPLES_MAX as u64) {
            round_trip()?;
            let now = self.clock.raw();
            self.ticks.push(now.saturating_sub(before));
            before = now;
        }
        Ok(())
    }

    /// All samples, in nanoseconds.
    pub fn nanoseconds(&self) -> impl Iterator<Item = u64> {
        self.ticks.iter().map(|&ticks| self.clock.delta_as_nanos(0, ticks))
    }
}

/// The two ends of a measurement over a [`Channel`].
pub struct Duplex<C> {
    channel: C,
    /// Payloads that take turns, each stamped long before its turn: a copy that starts right behind a store to its
    /// first bytes has to wait for that, and what waits would be the harness.
    outgoing: Vec<Vec<u8>>,
    incoming: Vec<u8>,
    sent: u64,
    received: u64,
}

/// How many payloads take turns; a power of two.
pub const TURNS: usize = 4;
/// From this size on one payload is enough: the wait does not show beside the copy.
const ONE_TURN_BYTES: usize = 4_096;

impl<C: Channel> Duplex<C> {
    /// An end that sends and receives payloads of so many bytes, at least 8. A channel that loans its messages
    /// gets 8: the bytes that are touched.
    ///
    /// # Panics
    /// If it gets fewer.
    pub fn new(channel: C, payload_bytes: usize) -> Self {
        assert!(payload_bytes >= size_of::<u64>(), "room for a stamp");
        let payload: Vec<u8> = (0..payload_bytes).map(|at| (at * 31) as u8).collect();
        let turns = if payload_bytes < ONE_TURN_BYTES { TURNS } else { 1 };
        let outgoing = vec![payload; turns];
        let mut duplex = Self { channel, outgoing, incoming: vec![0; payload_bytes], sent: 0, received: 0 };
        duplex.stamp_from(1);
        duplex
    }

    /// Numbers the next payloads, of which the first is number `stamp`.
    fn stamp_from(&mut self, stamp: u64) {
        (stamp..).take(self.outgoing.len()).for_each(|stamp| self.stamp(stamp));
    }

    /// Writes a number to both ends of the payload whose turn it will be.
    #[inline]
    fn stamp(&mut self, stamp: u64) {
        let turn = stamp as usize & (self.outgoing.len() - 1);
        let (payload, stamp) = (&mut self.outgoing[turn], stamp.to_le_bytes());
        let last = payload.len() - stamp.len();
        payload[..stamp.len()].copy_from_slice(&stamp);
        payload[last..].copy_from_slice(&stamp);
    }

    #[inline]
    fn send(&mut self) -> Result<()> {
        self.sent += 1;
        let turns = self.outgoing.len();
        self.channel.send(&self.outgoing[self.sent as usize & (turns - 1)])?;
        self.stamp(self.sent + turns as u64);
        Ok(())
    }

    #[inline]
    fn receive(&mut self) -> Result<()> {
        self.channel.receive(&mut self.incoming)?;
        self.received += 1;
        let stamps = (self.incoming.first_chunk(), self.incoming.last_chunk());
        let (Some(&first), Some(&last)) = stamps else { unreachable!("at least 8 bytes") };
        let (first, last) = (u64::from_le_bytes(first), u64::from_le_bytes(last));
        if first != self.received || last != self.received {
            let found = if first == self.received { last } else { first };
            return Err(Error::Damaged { expected: self.received, found });
        }
        Ok(())
    }

    #[inline]
    fn round_trip(&mut self) -> Result<()> {
        self.send()?;
        self.channel.flush()?;
        self.receive()
    }

    /// The last message, compared whole: both ends send the same bytes between the stamps.
    fn check_whole(&self) -> Result<()> {
        let inner = 8..self.incoming.len().saturating_sub(8).max(8);
        if self.incoming[inner.clone()] == self.outgoing[0][inner] {
            Ok(())
        } else {
            Err(Error::Damaged { expected: self.received, found: self.received })
        }
    }
}

impl<C: Channel> End for Duplex<C> {
    fn round_trips(&mut self, count: u64, samples: &mut Samples) -> Result<()> {
        for _ in 0..WARM_UP {
            self.round_trip()?;
        }
        samples.time(count, || self.round_trip())?;
        self.check_whole()
    }

    fn echo(&mut self, count: u64) -> Result<()> {
        for _ in 0..WARM_UP + count.min(SAMPLES_MAX as u64) {
            self.receive()?;
            self.channel.send(&self.incoming)?;
            self.channel.flush()?;
        }
        Ok(())
    }

    fn send_all(&mut self, count: u64) -> Result<()> {
        for _ in 0..count {
            self.send()?;
        }
        self.channel.flush()?;
        self.receive()
    }

    fn receive_all(&mut self, count: u64) -> Result<()> {
        for _ in 0..count {
            self.receive()?;
        }
        self.check_whole()?;
        self.send()?;
        self.channel.flush()
    }

    fn idle_polls(&mut self, count: u64) -> Result<()> {
        for _ in 0..count {
            if self.channel.try_receive(&mut self.incoming)? {
                return Err(Error::Damaged { expected: 0, found: self.received });
            }
        }
        Ok(())
    }
}
