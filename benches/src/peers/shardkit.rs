//! shardkit, handler to handler: typed messages through endpoints, with session checks and counters on.

use super::by_size;
use super::ring::Layout;
use crate::case::{Case, Test};
use crate::channel::{Patience, SAMPLES_MAX, Samples, TURNS, WARM_UP};
use crate::error::{Error, Result};
use crate::peer::{End, Handed, Handover, Peer};
use shard_runtime::id::{ComponentId, LinkId, PortId, SessionId, ShardId};
use shard_runtime::inbox::Inbound;
use shard_runtime::memory::Memory;
use shard_runtime::outbox::Outbound;
use shard_runtime::region::Region;
use shard_runtime::ring::{RingReader, RingWriter};
use shard_runtime::stats::Stats;
use shard_runtime::wake::{Bell, Ringer};
use shardkit::application::{After, Component, Destination, Input, Needs, Output, Shards, Wait};
use shardkit::pool::Scale;
use shardkit::prelude::*;
use shardkit::{Endpoint, Result as HandlerResult};
use std::os::fd::OwnedFd;
use zerocopy::{FromBytes, Immutable, IntoBytes};

const SESSION: SessionId = SessionId::new(1, 1);
const LINK: LinkId = LinkId(1);

pub(super) struct Shardkit;

impl Peer for Shardkit {
    fn name(&self) -> &'static str {
        "shardkit"
    }

    fn about(&self) -> &'static str {
        "the SDK, handler to handler, typed plain old data, counters on"
    }

    fn takes(&self, case: &Case) -> bool {
        matches!(case.test, Test::RoundTrip | Test::Stream | Test::WakeUp)
    }

    fn open(&self, case: &Case) -> Result<(Box<dyn End>, Handover)> {
        let layout = Layout::of(case);
        let region = Region::create("shard-bench", layout.bytes()).map_err(Error::peer("shardkit"))?;
        let memory = region.map(true).map_err(Error::peer("shardkit"))?;
        layout.identify(&memory);
        let handed = Handed::descriptors([OwnedFd::from(region)]);
        Ok((by_size!(case.bytes, end(case, &memory, true))?, Handover::Process(handed)))
    }

    fn join(&self, case: &Case, mut handed: Handed) -> Result<Box<dyn End>> {
        let fd = handed.descriptors.pop().ok_or_else(|| Error::Control("the region is missing".into()))?;
        let region = Region::receive(fd, Layout::of(case).bytes()).map_err(Error::peer("shardkit"))?;
        let memory = region.map(true).map_err(Error::peer("shardkit"))?;
        by_size!(case.bytes, end(case, &memory, false))
    }
}

/// A payload as a type.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(transparent)]
struct Blob<const N: usize>([u8; N]);

impl<const N: usize> Wire for Blob<N> {
    const NAME: &'static str = "Blob";
    type Codec = Pod;
}

/// A component that sends blobs to one like itself, and answers those that it gets.
fn component<const N: usize>() -> Component {
    let to = vec![Destination { component: ComponentId(0), input: PortId(0) }];
    let input = Input {
        name: "in".into(),
        ty: "Blob".into(),
        reply: Some("Blob".into()),
        message_bytes_max: N as u32,
    };
    let output = Output {
        name: "out".into(),
        ty: "Blob".into(),
        reply: Some("Blob".into()),
        message_bytes_max: N as u32,
        to,
        ring_bytes: 1 << 20,
    };
    Component {
        name: "blob".into(),
        program: None,
        capacity: 1,
        shards: Shards::between(0, 1),
        needs: Needs::default(),
        wait: Wait::Spin,
        tick_hz: None,
        inputs: vec![input],
        outputs: vec![output],
        start_timeout_ms: 1,
        stop_timeout_ms: 1,
        after: After::Return,
        scale: Scale::default(),
        zygote: false,
        isolation: None,
        config_json: "{}".into(),
    }
}

fn end<const N: usize>(case: &Case, memory: &Memory, near: bool) -> Result<Box<dyn End>> {
    let layout = Layout::of(case);
    let stats = Stats::create("shard-stats")
        .and_then(|region| Stats::map(&region))
        .map_err(Error::peer("shardkit"))?;
    let component = component::<N>();
    let config = shardkit::Config::of_embedder(component.clone());
    let (incoming, outgoing) = if near { (1, 0) } else { (0, 1) };
    let ringer = Ringer::new(Layout::bell(memory, !near));
    let reader = RingReader::new(layout.ring(memory, incoming));
    let writer = RingWriter::new(layout.ring(memory, outgoing));
    let bell = Bell::new(Layout::bell(memory, near));
    let mut endpoint = Endpoint::new(ShardId(u32::from(!near)), component, bell, Some(stats));
    let inbound = Inbound::new(reader, ringer.clone(), N);
    endpoint.attach(LINK, Some(ComponentId(0)), inbound, Outbound::new(writer, ringer, LINK, N));
    endpoint.open(SESSION, 0, [(ComponentId(0), LINK)].into_iter());
    let shard = Mill {
        input: config.input("in").map_err(Error::peer("shardkit"))?,
        output: config.output("out").map_err(Error::peer("shardkit"))?,
        answer: false,
        received: 0,
        damage: None,
    };
    let park = case.test == Test::WakeUp;
    let mut sdk = Sdk { endpoint, shard, blobs: [Blob([7; N]); TURNS], sent: 0, park };
    (1..=TURNS as u64).for_each(|number| sdk.stamp(number));
    Ok(Box::new(sdk))
}

/// The shard on both ends: checks each blob, and answers it if it is to.
struct Mill<const N: usize> {
    input: In<Blob<N>, Blob<N>>,
    output: Out<Blob<N>, Blob<N>>,
    answer: bool,
    received: u64,
    damage: Option<Error>,
}

impl<const N: usize> Shard for Mill<N> {
    #[inline]
    fn on_message(&mut self, message: Message<'_>, ctx: &mut Context<'_>) -> HandlerResult<()> {
        let done = self.take(&message, ctx);
        if let Err(error) = &done {
            self.damage = Some(Error::Peer { peer: "shardkit", cause: error.to_string() });
        }
        done
    }
}

impl<const N: usize> Mill<N> {
    #[inline]
    fn take(&mut self, message: &Message<'_>, ctx: &mut Context<'_>) -> HandlerResult<()> {
        self.received += 1;
        if let Some(blob) = self.input.read(message)? {
            self.check(&blob);
            if self.answer {
                ctx.answer(&self.input, message, &blob)?;
            }
        } else if let Some(blob) = self.output.answer(message)? {
            self.check(&blob);
        }
        Ok(())
    }

    #[inline]
    fn check(&mut self, Blob(bytes): &Blob<N>) {
        let stamps = (bytes.first_chunk(), bytes.last_chunk());
        let (first, last) =
            (stamps.0.map(|s| u64::from_le_bytes(*s)), stamps.1.map(|s| u64::from_le_bytes(*s)));
        if first != Some(self.received) || last != Some(self.received) {
            self.damage = Some(Error::Damaged { expected: self.received, found: first.unwrap_or(0) });
        }
    }
}

struct Sdk<const N: usize> {
    endpoint: Endpoint,
    shard: Mill<N>,
    blobs: [Blob<N>; TURNS],
    sent: u64,
    park: bool,
}

impl<const N: usize> Sdk<N> {
    #[inline]
    fn send(&mut self) -> Result<()> {
        self.sent += 1;
        let mut patience = Patience::default();
        let mut context = self.endpoint.context();
        while !context.has_room(&self.shard.output, SESSION) {
            context.flush();
            patience.wait()?;
        }
        let blob = &self.blobs[self.sent as usize % TURNS];
        context.send(&self.shard.output, SESSION, blob).map_err(Error::peer("shardkit"))?;
        self.stamp(self.sent + TURNS as u64);
        Ok(())
    }

    /// Numbers a blob long before its turn, as [`Duplex`](crate::channel::Duplex) does.
    #[inline]
    fn stamp(&mut self, number: u64) {
        let (Blob(blob), stamp) = (&mut self.blobs[number as usize % TURNS], number.to_le_bytes());
        blob[..8].copy_from_slice(&stamp);
        blob[N - 8..].copy_from_slice(&stamp);
    }

    /// Polls until the last answer is in the ring whole: the rest of a long one may wait for room.
    fn drain(&mut self) -> Result<()> {
        let mut patience = Patience::default();
        while !self.endpoint.context().has_room(&self.shard.output, SESSION) {
            self.endpoint.poll(&mut self.shard);
            patience.wait()?;
        }
        self.endpoint.context().flush();
        Ok(())
    }

    #[inline]
    fn receive_until(&mut self, received: u64) -> Result<()> {
        let mut patience = Patience::default();
        while self.shard.received < received && self.shard.damage.is_none() {
            if self.endpoint.poll(&mut self.shard) == 0 {
                if self.park {
                    self.endpoint.park(None);
                } else {
                    patience.wait()?;
                }
            }
        }
        self.shard.damage.take().map_or(Ok(()), Err)
    }
}

impl<const N: usize> End for Sdk<N> {
    fn round_trips(&mut self, count: u64, samples: &mut Samples) -> Result<()> {
        let mut round_trip = || {
            self.send()?;
            self.endpoint.context().flush();
            self.receive_until(self.sent)
        };
        for _ in 0..WARM_UP {
            round_trip()?;
        }
        samples.time(count, round_trip)
    }

    fn echo(&mut self, count: u64) -> Result<()> {
        self.shard.answer = true;
        self.receive_until(self.shard.received + WARM_UP + count.min(SAMPLES_MAX as u64))?;
        self.drain()
    }

    fn send_all(&mut self, count: u64) -> Result<()> {
        for _ in 0..count {
            self.send()?;
        }
        self.endpoint.context().flush();
        self.receive_until(self.shard.received + 1)
    }

    fn receive_all(&mut self, count: u64) -> Result<()> {
        self.shard.answer = false;
        self.receive_until(self.shard.received + count)?;
        self.send()?;
        self.endpoint.context().flush();
        Ok(())
    }

    fn idle_polls(&mut self, count: u64) -> Result<()> {
        for _ in 0..count {
            self.endpoint.poll(&mut self.shard);
        }
        Ok(())
    }
}
