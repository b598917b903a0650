//! iceoryx2, publish–subscribe and event, between two processes. One service each way.
//!
//! Copied: the payload is written into a loaned sample and copied out of the received one. Loaned: only the first 8
//! bytes of a sample of the full size are written and read.

use crate::case::{Case, Test};
use crate::channel::{Channel, Duplex};
use crate::error::{Error, Result};
use crate::peer::{End, Handed, Handover, Peer, Reference};
use iceoryx2::port::listener::Listener;
use iceoryx2::port::notifier::Notifier;
use iceoryx2::port::publisher::Publisher;
use iceoryx2::port::subscriber::Subscriber;
use iceoryx2::prelude::*;
use rustix::process::{Resource, Rlimit};
use std::sync::atomic::{AtomicU32, Ordering};

/// Samples that a subscriber's buffer holds.
const BUFFER_SAMPLES: usize = 64;
/// The same where there are many publishers, each of which has its own memory.
const FANIN_BUFFER_SAMPLES: usize = 8;
/// The most publishers: each of them takes several descriptors and files of its own.
const LINKS_MAX: usize = 256;
/// The bytes of a loaned sample that are touched.
const TOUCHED_BYTES: usize = 8;

pub(super) struct Iceoryx {
    name: &'static str,
    loaned: bool,
}

impl Iceoryx {
    pub(super) const COPIED: Self = Self { name: "iceoryx2", loaned: false };
    pub(super) const LOANED: Self = Self { name: "iceoryx2-loan", loaned: true };

    fn end(&self, case: &Case, name: &str, near: bool) -> Result<Box<dyn End>> {
        let ports = Ports::open(case, name, near)?;
        let touched = if self.loaned { TOUCHED_BYTES } else { case.bytes };
        if self.loaned {
            Ok(Box::new(Duplex::new(Loaned(ports), touched)))
        } else {
            Ok(Box::new(Duplex::new(Copied(ports), touched)))
        }
    }
}

impl Peer for Iceoryx {
    fn name(&self) -> &'static str {
        self.name
    }

    fn about(&self) -> &'static str {
        if self.loaned {
            "publish-subscribe, loaned, 8 B touched"
        } else {
            "publish-subscribe, payload copied"
        }
    }

    fn takes(&self, case: &Case) -> bool {
        let test = match case.test {
            Test::RoundTrip | Test::Stream => true,
            Test::IdlePoll | Test::FanInRoundTrip => !self.loaned,
            _ => false,
        };
        test && case.links <= LINKS_MAX
    }

    fn reference(&self, case: &Case) -> Reference {
        match case.test {
            Test::RoundTrip if self.loaned => Reference::line(case),
            _ => Reference::usual(self.name, case),
        }
    }

    fn open(&self, case: &Case) -> Result<(Box<dyn End>, Handover)> {
        let name = unique_name();
        Ok((self.end(case, &name, true)?, Handover::Process(Handed::argument(name))))
    }

    fn join(&self, case: &Case, handed: Handed) -> Result<Box<dyn End>> {
        self.end(case, &handed.argument, false)
    }
}

/// A name that no other run and no other case has.
fn unique_name() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("shard-bench/{}/{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

fn node() -> Result<Node<ipc::Service>> {
    set_log_level(LogLevel::Fatal);
    NodeBuilder::new().create::<ipc::Service>().map_err(Error::peer("iceoryx2"))
}

fn service_name(name: &str, towards: &str) -> Result<ServiceName> {
    ServiceName::new(&format!("{name}/{towards}")).map_err(Error::peer("iceoryx2"))
}

type Bytes = [u8];

struct Ports {
    case: Case,
    outgoing: Vec<Publisher<ipc::Service, Bytes, ()>>,
    incoming: Subscriber<ipc::Service, Bytes, ()>,
    _node: Node<ipc::Service>,
}

impl Ports {
    fn open(case: &Case, name: &str, near: bool) -> Result<Self> {
        allow_many_descriptors()?;
        let node = node()?;
        let to_far = Self::service(&node, case, name, "far", case.links)?;
        let to_near = Self::service(&node, case, name, "near", 1)?;
        let (out_service, in_service, links) =
            if near { (&to_far, &to_near, case.links) } else { (&to_near, &to_far, 1) };
        let incoming = in_service.subscriber_builder().create().map_err(Error::peer("iceoryx2"))?;
        let outgoing = (0..links).map(|_| {
            let builder = out_service.publisher_builder().initial_max_slice_len(case.bytes);
            let builder = builder.backpressure_strategy(BackpressureStrategy::RetryUntilDelivered);
            builder.create().map_err(Error::peer("iceoryx2"))
        });
        Ok(Self { case: *case, outgoing: outgoing.collect::<Result<_>>()?, incoming, _node: node })
    }

    fn service(
        node: &Node<ipc::Service>,
        case: &Case,
        name: &str,
        towards: &str,
        publishers: usize,
    ) -> Result<iceoryx2::service::port_factory::publish_subscribe::PortFactory<ipc::Service, Bytes, ()>>
    {
        let buffer = if case.links > 1 { FANIN_BUFFER_SAMPLES } else { BUFFER_SAMPLES };
        let builder = node.service_builder(&service_name(name, towards)?).publish_subscribe::<Bytes>();
        let builder = builder.max_publishers(publishers).max_subscribers(1).max_nodes(2).history_size(0);
        let builder = builder.subscriber_max_buffer_size(buffer).enable_safe_overflow(false);
        builder.open_or_create().map_err(Error::peer("iceoryx2"))
    }

    #[inline]
    fn publisher(&self, payload: &[u8]) -> &Publisher<ipc::Service, Bytes, ()> {
        match &self.outgoing[..] {
            [only] => only,
            many => &many[self.case.link_of(payload.first_chunk().copied().map_or(0, u64::from_le_bytes))],
        }
    }
}

/// Raises the limit of open descriptors to what is allowed: a service with many publishers opens many.
fn allow_many_descriptors() -> Result<()> {
    let maximum = rustix::process::getrlimit(Resource::Nofile).maximum;
    let limit = Rlimit { current: maximum, maximum };
    rustix::process::setrlimit(Resource::Nofile, limit).map_err(Error::system("raising RLIMIT_NOFILE"))
}

struct Copied(Ports);

impl Channel for Copied {
    #[inline]
    fn send(&mut self, payload: &[u8]) -> Result<()> {
        let sample =
            self.0.publisher(payload).loan_slice_uninit(payload.len()).map_err(Error::peer("iceoryx2"))?;
        sample.write_from_slice(payload).send().map_err(Error::peer("iceoryx2"))?;
        Ok(())
    }

    #[inline]
    fn try_receive(&mut self, payload: &mut [u8]) -> Result<bool> {
        match self.0.incoming.receive().map_err(Error::peer("iceoryx2"))? {
            Some(sample) => {
                payload.copy_from_slice(sample.payload());
                Ok(true)
            }
            None => Ok(false),
        }
    }
}

struct Loaned(Ports);

impl Channel for Loaned {
    #[inline]
    fn send(&mut self, payload: &[u8]) -> Result<()> {
        let publisher = self.0.publisher(payload);
        let mut sample = publisher.loan_slice_uninit(self.0.case.bytes).map_err(Error::peer("iceoryx2"))?;
        for (to, from) in sample.payload_mut().iter_mut().zip(payload) {
            to.write(*from);
        }
        assume_written(sample).send().map_err(Error::peer("iceoryx2"))?;
        Ok(())
    }

    #[inline]
    fn try_receive(&mut self, payload: &mut [u8]) -> Result<bool> {
        match self.0.incoming.receive().map_err(Error::peer("iceoryx2"))? {
            Some(sample) => {
                payload.copy_from_slice(&sample.payload()[..payload.len()]);
                Ok(true)
            }
            None => Ok(false),
        }
    }
}

type Uninit = iceoryx2::sample_mut_uninit::SampleMutUninit<ipc::Service, [std::mem::MaybeUninit<u8>], ()>;

/// Takes a loaned sample as it is.
#[allow(unsafe_code)]
fn assume_written(sample: Uninit) -> iceoryx2::sample_mut::SampleMut<ipc::Service, Bytes, ()> {
    // SAFETY: the sample lies in a shared mapping, which the kernel zeroed before it gave it to anyone: every byte of
    // it has a value, whatever this program has written there since.
    unsafe { sample.assume_init() }
}

/// iceoryx2's events: what it wakes a sleeper with.
pub(super) struct IceoryxEvent;

impl Peer for IceoryxEvent {
    fn name(&self) -> &'static str {
        "iceoryx2-event"
    }

    fn about(&self) -> &'static str {
        "notifier and listener, blocking; the count is the message"
    }

    fn takes(&self, case: &Case) -> bool {
        case.test == Test::WakeUp
    }

    fn open(&self, _case: &Case) -> Result<(Box<dyn End>, Handover)> {
        let name = unique_name();
        Ok((event_end(&name, true)?, Handover::Process(Handed::argument(name))))
    }

    fn join(&self, _case: &Case, handed: Handed) -> Result<Box<dyn End>> {
        event_end(&handed.argument, false)
    }
}

struct Events {
    outgoing: Notifier<ipc::Service>,
    incoming: Listener<ipc::Service>,
    received: u64,
    _node: Node<ipc::Service>,
}

fn event_end(name: &str, near: bool) -> Result<Box<dyn End>> {
    let node = node()?;
    let service = |towards| -> Result<_> {
        let builder = node.service_builder(&service_name(name, towards)?).event();
        builder.open_or_create().map_err(Error::peer("iceoryx2"))
    };
    let (to_far, to_near) = (service("far")?, service("near")?);
    let (out_service, in_service) = if near { (&to_far, &to_near) } else { (&to_near, &to_far) };
    let incoming = in_service.listener_builder().create().map_err(Error::peer("iceoryx2"))?;
    let outgoing = out_service.notifier_builder().create().map_err(Error::peer("iceoryx2"))?;
    Ok(Box::new(Duplex::new(Events { outgoing, incoming, received: 0, _node: node }, TOUCHED_BYTES)))
}

impl Channel for Events {
    fn send(&mut self, _payload: &[u8]) -> Result<()> {
        self.outgoing.notify().map_err(Error::peer("iceoryx2"))?;
        Ok(())
    }

    fn try_receive(&mut self, payload: &mut [u8]) -> Result<bool> {
        let mut woken = false;
        self.incoming.blocking_wait(|_| woken = true).map_err(Error::peer("iceoryx2"))?;
        if woken {
            self.received += 1;
            payload.copy_from_slice(&self.received.to_le_bytes());
        }
        Ok(woken)
    }
}
