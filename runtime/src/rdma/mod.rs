//! What carries links by RDMA: one queue pair for each link, or for a pair of links, one each way.
//!
//! ```text
//!  sender                                              receiver
//!  outbox ─▶ staging ring ═══ WRITE_WITH_IMM: frames ═══▶ ring ─▶ inbox
//!               ▲                at the same positions,     │
//!               └───── SEND_WITH_IMM: room, grants ◀────────┘
//!                      the immediate holds a position and grants
//! ```
//!
//! The sender writes its frames into a staging ring of its own; they travel at the same positions into the ring that
//! the receiver reads. The order in which a WRITE's bytes are placed is not promised (IBA vol. 1, chapter 9,
//! "transaction ordering"), but its completion at the receiver comes after all of them. So the completion is what vouches: its
//! immediate says up to where. Room comes back the same way, a quarter of the ring at a time, or as soon as a sender
//! that finds its ring full asks for it. How many messages may be under way says `rdma/window.rs`.
//!
//! Invariant: the reader is vouched for exactly what completions have reported, in order, without a gap. After a
//! queue pair broke, it is drained and destroyed; a new one, with new keys, goes on from what the receiver says that it
//! received: nothing is lost, nothing comes twice, nothing is torn.
//!
//! All that the peer can reach is the data of the one ring that it writes. What it says in immediates is checked like
//! a head in shared memory.

mod window;

use crate::id::LinkId;
use crate::inbox::{Inbound, Inbox};
use crate::outbox::{Outbound, Outbox};
use crate::rate::Meter;
use crate::ring::{DATA_AT, Ring};
use crate::verbs::{
    Batch, Completion, Completions, Depth, Device, DeviceError, Domain, Kind, QueuePair, Registration,
    RemoteQueuePair, Status, VerbsError, Work,
};
use crate::wake::LINKS_MAX;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};
use window::{FRAMES_MAX, RECEIVES, Use, Window};

/// What both ends must speak.
pub const RDMA_VERSION: u16 = 1;
/// Positions travel in units of a frame's alignment.
const UNIT: u64 = crate::frame::FRAME_ALIGN;
/// So much goes with one request at the most, so that the receiver can begin to read.
const RUN_BYTES_MAX: u64 = 64 << 10;
/// So many requests that send may be under way; one more marks the end of a queue pair.
const SENDS_MAX: u32 = 14;
const SENDS: u32 = SENDS_MAX + 1;
/// Every so many requests, one reports its success.
const SIGNAL_EVERY: u32 = SENDS_MAX / 2;
// Software RoCE holds 32,767 completions in a queue: enough for all links that a shard can have.
const _: () = assert!((SENDS + RECEIVES) as usize * LINKS_MAX <= 32_767);
/// A queue pair that broke is drained within this time, or its device is gone.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
/// So many batches of completions are taken in one go, so that fast peers do not keep the shard here.
const BATCHES_MAX: usize = 8;

/// A link that broke. It may go on over a new queue pair, unless the peer broke the rules.
#[derive(Debug, thiserror::Error)]
pub enum RdmaError {
    /// There is no device for it.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A call failed.
    #[error(transparent)]
    Verbs(#[from] VerbsError),
    /// A request failed.
    #[error("the queue pair broke: {0}")]
    Status(Status),
    /// The device, or its port, is gone.
    #[error("the queue pair broke: {0}")]
    Gone(String),
    /// The peer is of another release.
    #[error(
        "the peer speaks version {theirs} of RDMA links, this is {RDMA_VERSION}: run the same release on both hosts"
    )]
    Version {
        /// Its version.
        theirs: u16,
    },
    /// The peer offers a ring that is not the one agreed on.
    #[error(
        "the peer offers a ring of {theirs} bytes where {ours} were agreed on: its endpoint message is wrong; the link is refused"
    )]
    RingBytes {
        /// What it says.
        theirs: u64,
        /// What was agreed on.
        ours: u64,
    },
    /// The ring is larger than immediates can tell.
    #[error(
        "a ring of {bytes} bytes is too large for RDMA: {RING_BYTES_MAX} at the most; make it smaller in the manifest"
    )]
    RingTooLarge {
        /// Its size.
        bytes: usize,
    },
    /// The peer says something of itself that can't be.
    #[error("the peer's endpoint message is impossible: {0}; the link is refused")]
    Impossible(&'static str),
    /// The peer says that it received what was not sent, or gave back.
    #[error(
        "the peer says that it received up to {theirs}, which is not between {from} and {to}; the link is closed"
    )]
    Received {
        /// What it says.
        theirs: u64,
        /// What it gave back.
        from: u64,
        /// What was sent.
        to: u64,
    },
    /// An immediate that no peer of ours sends.
    #[error(
        "the peer broke the link: immediate {immediate:#010x}, {what}; the link is closed, restart the shard at its other end"
    )]
    Immediate {
        /// The immediate.
        immediate: u32,
        /// What is wrong with it.
        what: &'static str,
    },
}

impl RdmaError {
    /// Whether the peer broke the rules: then the link is closed for good.
    pub fn is_lie(&self) -> bool {
        !matches!(self, Self::Device(_) | Self::Verbs(_) | Self::Status(_) | Self::Gone(_))
    }
}

/// What the peer must know to connect. It travels over an authenticated connection only: whoever has it can write
/// into the ring.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RdmaEnd {
    /// [`RDMA_VERSION`].
    pub version: u16,
    /// The queue pair.
    pub pair: RemoteQueuePair,
    /// The ring that the peer writes; none where it only reads.
    pub ring: Option<RemoteRing>,
    /// How many frames may be under way to us.
    pub window: u32,
    /// Up to here frames have been received.
    pub received: u64,
}

/// A ring's data in another host's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteRing {
    /// The address of its first byte.
    pub address: u64,
    /// The key that allows to write it.
    pub key: u32,
    /// Its size.
    pub bytes: u64,
}

/// What a message's immediate says.
///
/// ```text
///  31     27 26 25                        0
/// ┌─────────┬──┬───────────────────────────┐
/// │ grants  │? │ position, in units of 16  │
/// └─────────┴──┴───────────────────────────┘
/// ```
///
/// With frames, the position is where they end. In a note, everything before it may be overwritten; or, with the bit
/// `?`, the sender asks to be told when that holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Immediate(u32);

const POSITION_BITS: u32 = 26;
const ASK: u32 = 1 << POSITION_BITS;
const GRANTS_AT: u32 = POSITION_BITS + 1;
/// A position is found again from its lowest bits: rings are smaller than what those can tell apart.
const RING_BYTES_MAX: u64 = UNIT << (POSITION_BITS - 1);
const _: () = assert!(RECEIVES < 1 << (u32::BITS - GRANTS_AT));

impl Immediate {
    fn new(position: u64, ask: bool, grants: u32) -> Self {
        let position = (position / UNIT) as u32 & (ASK - 1);
        Self(grants << GRANTS_AT | if ask { ASK } else { 0 } | position)
    }

    /// The position at or after `base` that it can mean.
    fn position_after(self, base: u64) -> u64 {
        let ahead = u64::from(self.0).wrapping_sub(base / UNIT) & u64::from(ASK - 1);
        base + ahead * UNIT
    }

    fn asks(self) -> bool {
        self.0 & ASK != 0
    }

    fn grants(self) -> u32 {
        self.0 >> GRANTS_AT
    }
}

/// All RDMA links of a shard: one completion queue, one thing to wait for.
pub struct Rdma {
    device: Device,
    completions: Arc<Completions>,
    links: Vec<Option<Box<Link>>>,
    /// Links that have something to do.
    active: Vec<LinkId>,
    /// Completions that came while another link was drained.
    stashed: VecDeque<Completion>,
    broken: Vec<(LinkId, RdmaError)>,
    generation: u32,
    came: Vec<LinkId>,
}

/// One link, or a pair of them.
struct Link {
    pair: Option<QueuePair>,
    staging: Option<Registration>,
    ring: Option<Registration>,
    target: Option<RemoteRing>,
    generation: u32,
    message_bytes_max: u64,
    window: Window,
    /// It receives.
    connected: bool,
    /// It sends.
    started: bool,
    active: bool,
    came: bool,
    /// Something came of its queue pair since it was pinged last.
    heard: bool,

    // What goes out.
    /// Up to here frames were handed to the device.
    sent: u64,
    /// So much more, of a frame that is too large for one request.
    ahead: u64,
    /// Up to here the device is done with them.
    done: u64,
    /// Up to here the peer gave room back.
    told: u64,
    /// Up to here the writer was given room.
    given: u64,
    /// What the peer was asked for.
    asked: u64,
    posted: u32,
    finished: u32,
    unsignalled: u32,
    /// Requests that report: their number, and `sent` behind them.
    reports: VecDeque<(u32, u64)>,

    // What comes in.
    /// Up to here frames arrived.
    received: u64,
    /// What the peer was told of room.
    head_told: u64,
    /// What the peer asked for.
    wanted: Option<u64>,
    /// Receive requests that the device has.
    receiving: u32,
}

impl Rdma {
    /// For up to `links_max` links on a device.
    ///
    /// # Errors
    /// The device can't hold the completions of so many.
    pub fn open(device: &Device, links_max: usize) -> Result<Self, VerbsError> {
        let links_max = links_max.clamp(1, LINKS_MAX) as u32;
        let completions = Completions::new(device.context(), links_max * (SENDS + RECEIVES))?;
        Ok(Self {
            device: device.clone(),
            completions,
            links: Vec::new(),
            active: Vec::with_capacity(links_max as usize),
            stashed: VecDeque::new(),
            broken: Vec::new(),
            generation: 0,
            came: Vec::new(),
        })
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Makes a queue pair for a link, or a new one for a link that broke, and says what the peer must know of it.
    /// `outbound` is the link whose frames go out over it, `inbound` the one whose frames come in.
    ///
    /// # Errors
    /// The device refuses: too many queue pairs, too little memory that may be locked.
    pub fn prepare(
        &mut self,
        id: LinkId,
        outbound: Option<&mut Outbound>,
        inbound: Option<&mut Inbound>,
    ) -> Result<RdmaEnd, RdmaError> {
        self.disconnect(id);
        let domain = Domain::new(self.device.context())?;
        let register = |ring: &Ring, remote| {
            let bytes = ring.capacity();
            if bytes as u64 > RING_BYTES_MAX {
                return Err(RdmaError::RingTooLarge { bytes });
            }
            Ok(Registration::new(&domain, ring.memory(), DATA_AT, bytes, remote)?)
        };
        let staging = outbound.map(|link| register(link.writer().ring(), false)).transpose()?;
        let ring = inbound.map(|link| register(link.reader().ring(), true)).transpose()?;
        let depth = Depth { send: SENDS, receive: RECEIVES };
        let pair = QueuePair::new(&self.device, &domain, &self.completions, depth, random()?)?;
        self.generation += 1;
        let at = usize::from(id.0);
        if self.links.len() <= at {
            self.links.resize_with(at + 1, || None);
        }
        let link = self.links[at].get_or_insert_with(|| Box::new(Link::new()));
        link.begin(self.generation, pair, staging, ring);
        link.message_bytes_max = u64::from(self.device.message_bytes_max());
        link.post_receives(id, RECEIVES)?;
        Ok(link.describe())
    }

    /// Connects a link that was prepared to the peer's end. It receives from then on, and sends after
    /// [`start`](Self::start).
    ///
    /// # Errors
    /// The peer is of another release, or lies; or there is no way to it.
    ///
    /// # Panics
    /// If the link was not prepared.
    pub fn connect(
        &mut self,
        id: LinkId,
        outbound: Option<&mut Outbound>,
        peer: &RdmaEnd,
    ) -> Result<(), RdmaError> {
        let link = self.links[usize::from(id.0)].as_deref_mut().expect("a link that was prepared");
        link.connect(outbound, peer)
    }

    /// Lets a connected link send: the peer's end is connected, too.
    pub fn start(&mut self, id: LinkId) {
        if let Some(link) = self.links.get_mut(usize::from(id.0)).and_then(Option::as_deref_mut) {
            link.started = link.connected;
        }
        self.activate(id);
    }

    /// Tells that frames of a link were published, or that it lacks room.
    #[inline]
    pub fn published(&mut self, id: LinkId) {
        self.activate(id);
    }

    /// Puts a link's queue pair into the state ERROR, as a fault would; what follows tells that the link broke.
    pub fn break_off(&mut self, id: LinkId) {
        let link = self.links.get(usize::from(id.0)).and_then(Option::as_deref);
        if let Some(pair) = link.and_then(|link| link.pair.as_ref()) {
            // A device that refuses is broken already.
            let _ = pair.break_off();
        }
    }

    /// Breaks a link's queue pair, drains and destroys it. What had not arrived is sent again over the next one.
    pub fn disconnect(&mut self, id: LinkId) {
        let Some(link) = self.links.get_mut(usize::from(id.0)).and_then(Option::as_deref_mut) else { return };
        let Some(pair) = link.pair.take() else { return };
        let before = link.received;
        // What was received before counts: it comes out of the queue before what is flushed.
        if pair.break_off().is_ok() {
            let marker = Work { id: link.mark(id), from: None, to: None, immediate: None, signalled: true };
            let mut marked = pair.post(&[marker]).is_err();
            let generation = link.generation;
            let mut drain = |completion: Completion, stashed: &mut VecDeque<Completion>| {
                let (of, of_generation, receive, is_marker) = unpack(completion.id);
                if (of, of_generation) != (id, generation) {
                    stashed.push_back(completion);
                    return false;
                }
                if receive {
                    link.late(&completion);
                }
                marked |= is_marker;
                marked && link.receiving == 0
            };
            let mut stashed = VecDeque::new();
            let mut drained = false;
            for completion in self.stashed.drain(..) {
                drained |= drain(completion, &mut stashed);
            }
            let deadline = Instant::now() + DRAIN_TIMEOUT;
            let mut batch = Batch::default();
            while !drained && Instant::now() < deadline && self.completions.poll(&mut batch).is_ok() {
                batch.by_ref().for_each(|completion| drained |= drain(completion, &mut stashed));
            }
            self.stashed = stashed;
        }
        drop(pair);
        (link.staging, link.ring) = (None, None);
        (link.connected, link.started) = (false, false);
        // Nobody will send it again: the next round hands it over.
        if link.received != before && !std::mem::replace(&mut link.came, true) {
            self.came.push(id);
        }
    }

    /// Forgets a link.
    pub fn remove(&mut self, id: LinkId) {
        self.disconnect(id);
        if let Some(link) = self.links.get_mut(usize::from(id.0)) {
            *link = None;
        }
        self.active.retain(|active| *active != id);
        self.broken.retain(|(broken, _)| *broken != id);
    }

    /// Moves what there is, both ways, without waiting. True if something came: a reason not to sleep. The inbox knows
    /// which links to look at.
    ///
    /// What was published goes first, and what came is handed over last, so that nothing stands between the device and
    /// the shard in either direction.
    #[inline]
    pub fn carry(&mut self, inbox: &mut Inbox, outbox: &mut Outbox) -> bool {
        self.carry_within(inbox, outbox, None)
    }

    /// As [`carry`](Self::carry), with frames going out only as the meter allows. A link that the meter has in line goes on
    /// when it is due and [`published`](Self::published) says so.
    #[inline]
    pub fn carry_within(
        &mut self,
        inbox: &mut Inbox,
        outbox: &mut Outbox,
        mut meter: Option<&mut Meter>,
    ) -> bool {
        let mut news = false;
        let mut at = 0;
        while at < self.active.len() {
            let id = self.active[at];
            match self.serve(id, inbox, outbox, meter.as_deref_mut(), &mut news) {
                Ok(true) => at += 1,
                Ok(false) => {
                    self.active.swap_remove(at);
                    if let Some(link) = self.links[usize::from(id.0)].as_deref_mut() {
                        link.active = false;
                    }
                }
                Err(error) => {
                    self.fail(id, error);
                    at += 1;
                }
            }
        }
        news |= self.take_completions();
        while let Some(id) = self.came.pop() {
            news = true;
            if let Err(error) = self.hand_over(id, inbox) {
                self.fail(id, error);
            }
        }
        news
    }

    /// Lets the inbox read what came.
    fn hand_over(&mut self, id: LinkId, inbox: &mut Inbox) -> Result<(), RdmaError> {
        let Some(link) = self.links[usize::from(id.0)].as_deref_mut() else { return Ok(()) };
        link.came = false;
        let Some(inbound) = inbox.get_mut(id) else { return Ok(()) };
        let reader = inbound.reader();
        if link.received > reader.room_to() {
            let immediate = Immediate::new(link.received, false, 0).0;
            return Err(RdmaError::Immediate { immediate, what: "frames where there was no room" });
        }
        reader.vouch(link.received);
        inbox.expect(id);
        Ok(())
    }

    /// Asks a link's device whether the peer's still answers. A link that carries nothing notices nothing otherwise.
    pub fn ping(&mut self, id: LinkId) {
        let Some(link) = self.links.get_mut(usize::from(id.0)).and_then(Option::as_deref_mut) else { return };
        // Whoever sends, or reports our requests as done, is there.
        if !std::mem::take(&mut link.heard)
            && link.started
            && link.room_for_sends()
            && let Err(error) = link.ping(id)
        {
            self.fail(id, error);
        }
    }

    /// Makes the descriptor readable when something comes from now on. Carry once more before sleeping.
    ///
    /// # Errors
    /// The device failed.
    pub fn arm(&self) -> Result<(), VerbsError> {
        self.completions.take_events();
        self.completions.arm()
    }

    /// Looks whether the device is gone: then all links broke. To be called now and then; it asks the system.
    pub fn look_after_device(&mut self) {
        while let Some(event) = self.device.context().take_event() {
            if !event.is_fatal() {
                continue;
            }
            self.fail_all(&format!("{}: {event}", self.device.context().name()));
        }
    }

    /// A link that broke. It carries nothing until it is prepared and connected again.
    pub fn take_broken(&mut self) -> Option<(LinkId, RdmaError)> {
        self.broken.pop()
    }

    fn activate(&mut self, id: LinkId) {
        if let Some(link) = self.links.get_mut(usize::from(id.0)).and_then(Option::as_deref_mut)
            && !std::mem::replace(&mut link.active, true)
        {
            self.active.push(id);
        }
    }

    #[cold]
    fn fail(&mut self, id: LinkId, error: RdmaError) {
        if let Some(link) = self.links[usize::from(id.0)].as_deref_mut()
            && std::mem::replace(&mut link.connected, false)
        {
            link.started = false;
            if let Some(pair) = &link.pair {
                // The device may be gone; then there is nothing left to break.
                let _ = pair.break_off();
            }
            self.broken.push((id, error));
        }
    }

    /// True if there were any.
    #[inline]
    fn take_completions(&mut self) -> bool {
        let mut any = false;
        while let Some(completion) = self.stashed.pop_front() {
            any = true;
            self.complete(&completion);
        }
        let mut batch = Batch::default();
        for _ in 0..BATCHES_MAX {
            if let Err(error) = self.completions.poll(&mut batch) {
                self.fail_all(&error.to_string());
                return true;
            }
            for completion in &mut batch {
                any = true;
                self.complete(&completion);
            }
            if !batch.is_full() {
                break;
            }
        }
        any
    }

    #[cold]
    pub(crate) fn fail_all(&mut self, reason: &str) {
        for at in 0..self.links.len() {
            self.fail(LinkId(at as u16), RdmaError::Gone(reason.to_owned()));
        }
    }

    #[inline]
    fn complete(&mut self, completion: &Completion) {
        let (id, generation, receive, _) = unpack(completion.id);
        let Some(link) = self.links.get_mut(usize::from(id.0)).and_then(Option::as_deref_mut) else { return };
        if link.generation != generation {
            return;
        }
        link.receiving -= u32::from(receive);
        link.heard = true;
        if !link.connected {
            return;
        }
        let before = link.received;
        let result = if completion.status != Status::SUCCESS {
            Err(RdmaError::Status(completion.status))
        } else if receive {
            link.take(completion)
        } else {
            link.report();
            Ok(())
        };
        if link.received != before && !std::mem::replace(&mut link.came, true) {
            self.came.push(id);
        }
        match result {
            Ok(()) => self.activate(id),
            Err(error) => self.fail(id, error),
        }
    }

    /// Does what a link has to do. False when nothing is left.
    #[inline]
    fn serve(
        &mut self,
        id: LinkId,
        inbox: &mut Inbox,
        outbox: &mut Outbox,
        meter: Option<&mut Meter>,
        news: &mut bool,
    ) -> Result<bool, RdmaError> {
        let Some(link) = self.links[usize::from(id.0)].as_deref_mut() else { return Ok(false) };
        if !link.started {
            return Ok(false);
        }
        let mut busy = false;
        // Frames first: they carry grants.
        if let Some(outbound) = outbox.get_mut(id) {
            busy |= link.send(id, outbound, meter, news)?;
        }
        let head = inbox.get_mut(id).map_or(link.received, |inbound| inbound.reader().ring().head());
        Ok(busy | link.answer(id, head)?)
    }
}

impl AsFd for Rdma {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.completions.as_fd()
    }
}

impl Drop for Rdma {
    fn drop(&mut self) {
        for at in 0..self.links.len() {
            self.disconnect(LinkId(at as u16));
        }
    }
}

impl Link {
    fn new() -> Self {
        Self {
            pair: None,
            staging: None,
            ring: None,
            target: None,
            generation: 0,
            message_bytes_max: 0,
            window: Window::default(),
            connected: false,
            started: false,
            active: false,
            came: false,
            heard: false,
            sent: 0,
            ahead: 0,
            done: 0,
            told: 0,
            given: 0,
            asked: 0,
            posted: 0,
            finished: 0,
            unsignalled: 0,
            reports: VecDeque::with_capacity(SENDS as usize),
            received: 0,
            head_told: 0,
            wanted: None,
            receiving: 0,
        }
    }

    fn begin(
        &mut self,
        generation: u32,
        pair: QueuePair,
        staging: Option<Registration>,
        ring: Option<Registration>,
    ) {
        (self.pair, self.staging, self.ring) = (Some(pair), staging, ring);
        self.generation = generation;
        self.window = Window::default();
        self.target = None;
        (self.posted, self.finished, self.unsignalled) = (0, 0, 0);
        self.reports.clear();
        // What was asked or told may not have arrived.
        (self.asked, self.wanted, self.ahead) = (0, None, 0);
        self.receiving = 0;
    }

    fn describe(&self) -> RdmaEnd {
        let ring = self.ring.as_ref().map(|ring| RemoteRing {
            address: ring.address(),
            key: ring.remote_key(),
            bytes: ring.len() as u64,
        });
        let pair = self.pair.as_ref().expect("a link that was prepared").local();
        RdmaEnd { version: RDMA_VERSION, pair, ring, window: FRAMES_MAX, received: self.received }
    }

    fn connect(&mut self, outbound: Option<&mut Outbound>, peer: &RdmaEnd) -> Result<(), RdmaError> {
        if peer.version != RDMA_VERSION {
            return Err(RdmaError::Version { theirs: peer.version });
        }
        if peer.window != FRAMES_MAX {
            return Err(RdmaError::Impossible("its window is none of this release's"));
        }
        if let Some(outbound) = outbound {
            let Some(target) = peer.ring else {
                return Err(RdmaError::Impossible("it offers no ring to write"));
            };
            let ring = outbound.writer().ring();
            if target.bytes != ring.capacity() as u64 {
                return Err(RdmaError::RingBytes { theirs: target.bytes, ours: ring.capacity() as u64 });
            }
            if target.address.checked_add(target.bytes).is_none() {
                return Err(RdmaError::Impossible("its ring does not end"));
            }
            let head = self.given;
            if peer.received > self.sent || peer.received < head || !peer.received.is_multiple_of(UNIT) {
                return Err(RdmaError::Received { theirs: peer.received, from: head, to: self.sent });
            }
            // From exactly there; what came after it is sent again.
            (self.sent, self.done, self.told) = (peer.received, peer.received, head);
            self.target = Some(target);
        }
        let pair = self.pair.as_ref().expect("a link that was prepared");
        pair.connect(&peer.pair)?;
        // What the peer was told of room may not have arrived.
        self.head_told = 0;
        self.connected = true;
        Ok(())
    }

    fn request_id(&self, id: LinkId, receive: bool) -> u64 {
        u64::from(self.generation) << 32 | u64::from(receive) << 16 | u64::from(id.0)
    }

    fn mark(&self, id: LinkId) -> u64 {
        self.request_id(id, false) | 1 << 17
    }

    fn post_receives(&mut self, id: LinkId, count: u32) -> Result<(), RdmaError> {
        if let Some(pair) = &self.pair {
            pair.post_receives(self.request_id(id, true), count)?;
            self.receiving += count;
        }
        Ok(())
    }

    fn room_for_sends(&self) -> bool {
        self.posted.wrapping_sub(self.finished) < SENDS_MAX
    }

    /// Numbers a request that sends; says whether it has to report.
    fn count(&mut self, always: bool) -> bool {
        self.posted = self.posted.wrapping_add(1);
        self.unsignalled += 1;
        let signalled = always || self.unsignalled >= SIGNAL_EVERY;
        if signalled {
            self.unsignalled = 0;
            self.reports.push_back((self.posted, self.sent));
        }
        signalled
    }

    /// A request that reports was done, and with it all before it (IBA vol. 1, chapter 10, "send queue": requests of a reliable
    /// connection complete in order).
    fn report(&mut self) {
        if let Some((number, sent)) = self.reports.pop_front() {
            (self.finished, self.done) = (number, sent);
        }
    }

    /// A message of the peer's.
    fn take(&mut self, completion: &Completion) -> Result<(), RdmaError> {
        let immediate = Immediate(completion.immediate);
        let lie = |what| Err(RdmaError::Immediate { immediate: immediate.0, what });
        if !self.window.took(immediate.grants()) {
            return lie("a grant for what was not sent");
        }
        let ring = self.ring.as_ref().map_or(0, |ring| ring.len() as u64);
        if completion.kind == Kind::Written {
            let tail = immediate.position_after(self.received);
            // More than the ring holds; whether the reader has room is for the reader to say.
            if tail == self.received || tail - self.received > ring {
                return lie("a position beyond the ring");
            }
            self.received = tail;
        } else if immediate.asks() {
            // A sender lacks room only for what lies beyond a whole ring, and what it sent before was received.
            let wanted = immediate.position_after(self.received.saturating_sub(ring));
            if wanted > self.received {
                return lie("a wish for more than was sent");
            }
            self.wanted = Some(wanted);
        } else {
            let head = immediate.position_after(self.told);
            if head > self.sent {
                return lie("room beyond what was sent");
            }
            self.told = head;
        }
        Ok(())
    }

    /// A message that came before the queue pair broke and is found while it is drained.
    fn late(&mut self, completion: &Completion) {
        self.receiving -= 1;
        if completion.status == Status::SUCCESS {
            // A lie changes nothing and is of no consequence any more: positions are checked at the next connection.
            let _ = self.take(completion);
        }
    }

    fn post(&self, work: Work) -> Result<(), RdmaError> {
        self.pair.as_ref().expect("a connected link has a queue pair").post(&[work])?;
        Ok(())
    }

    /// The immediate of the next message. With it go grants: first the requests are posted that the peer may use then.
    fn immediate(&mut self, id: LinkId, what: Use, position: u64) -> Result<Option<u32>, RdmaError> {
        let grants = self.window.sent();
        if grants > 0 {
            self.post_receives(id, grants)?;
        }
        Ok(Some(Immediate::new(position, what == Use::Ask, grants).0))
    }

    fn note(&mut self, id: LinkId, what: Use, position: u64) -> Result<(), RdmaError> {
        let immediate = self.immediate(id, what, position)?;
        let signalled = self.count(what == Use::Ask);
        self.post(Work { id: self.request_id(id, false), from: None, to: None, immediate, signalled })
    }

    fn ping(&mut self, id: LinkId) -> Result<(), RdmaError> {
        // A write of no bytes needs no key (IBA vol. 1, chapter 9, C9-88), and the peer's device answers it.
        let signalled = self.count(true);
        self.post(Work {
            id: self.request_id(id, false),
            from: None,
            to: Some((0, 0)),
            immediate: None,
            signalled,
        })
    }

    /// Tells the peer of room, and grants what no frames carried. True if there may be more to tell without anything
    /// new coming. The `head` is from memory that others write, so it may be anything.
    fn answer(&mut self, id: LinkId, head: u64) -> Result<bool, RdmaError> {
        let quarter = self.ring.as_ref().map_or(u64::MAX, |ring| ring.len() as u64 / 4);
        let asked = self.wanted.is_some_and(|wanted| head >= wanted);
        let owes = self.window.owes();
        if owes || asked || head.saturating_sub(self.head_told) >= quarter {
            let what = if owes { Use::Grant } else { Use::Room };
            if !self.window.allows(what) || !self.room_for_sends() {
                return Ok(true);
            }
            self.note(id, what, head)?;
            self.told_head(head);
        }
        // What was not read yet will give room.
        Ok(head != self.received)
    }

    fn told_head(&mut self, head: u64) {
        self.head_told = head;
        if self.wanted.is_some_and(|wanted| head >= wanted) {
            self.wanted = None;
        }
    }

    /// Sends what was published, as far as it is paid for. True if something waits that nobody tells of. Tells in `news` if
    /// room came.
    fn send(
        &mut self,
        id: LinkId,
        outbound: &mut Outbound,
        mut meter: Option<&mut Meter>,
        news: &mut bool,
    ) -> Result<bool, RdmaError> {
        let writer = outbound.writer();
        let (tail, wanted) = (writer.published(), writer.wanted());
        let ring = writer.ring();
        // The device may read until it says that it is done (IBA vol. 1, chapter 10: a buffer is the device's until
        // its completion).
        let room = self.told.min(self.done);
        if room > self.given {
            self.given = room;
            ring.set_head(room);
            *news = true;
        }
        while self.sent < tail {
            if !self.window.allows(Use::Frames) || !self.room_for_sends() {
                // It waits for its peer or the device; who waits for tokens only goes on.
                if let Some(meter) = meter {
                    meter.leave(id);
                }
                return Ok(true);
            }
            let mut most = u64::MAX;
            if let Some(meter) = &mut meter {
                let least = self.request_bytes_min(ring, tail);
                let Some(allowed) = meter.allows(id, least, tail - self.sent) else { return Ok(false) };
                most = allowed;
            }
            let bytes = self.send_run(id, ring, tail, most)?;
            if let Some(meter) = &mut meter {
                meter.take(id, bytes);
            }
        }
        if let Some(meter) = meter {
            meter.leave(id);
        }
        // The ask reports: what the peer gave back already can be used after it at the latest.
        if wanted > room && self.asked < wanted {
            if !self.window.allows(Use::Ask) || !self.room_for_sends() {
                return Ok(true);
            }
            self.asked = wanted;
            self.note(id, Use::Ask, wanted)?;
        }
        Ok(false)
    }

    /// The next frames that lie in one piece, and no more than `most` bytes behind what is ahead if one frame is not more:
    /// where they end, and how many bytes go. Of padding only the commit word goes.
    fn run(&self, ring: &Ring, tail: u64, most: u64) -> (u64, u64) {
        let from = self.sent;
        let (mut end, mut bytes) = (from, 0);
        while end < tail && bytes < RUN_BYTES_MAX {
            let (extent, padding) = ring.own_frame(end);
            let more = end - from + if padding { UNIT } else { extent };
            if bytes > self.ahead && more - self.ahead > most {
                break;
            }
            bytes = more;
            end += extent;
            if padding || ring.to_edge(end) == ring.capacity() as u64 {
                break;
            }
        }
        (end, bytes)
    }

    /// How many bytes the next request has at least.
    fn request_bytes_min(&self, ring: &Ring, tail: u64) -> u64 {
        (self.run(ring, tail, 0).1 - self.ahead).min(self.message_bytes_max)
    }

    /// Sends the next run in one request, or a part of it; says how many bytes.
    fn send_run(&mut self, id: LinkId, ring: &Ring, tail: u64, most: u64) -> Result<u64, RdmaError> {
        let from = self.sent;
        let (end, bytes) = self.run(ring, tail, most);
        let (Some(staging), Some(target)) = (&self.staging, self.target) else { return Ok(0) };
        let offset = (from & (ring.capacity() as u64 - 1)) + self.ahead;
        let now = (bytes - self.ahead).min(self.message_bytes_max);
        let slice = staging.slice(offset as usize, now as usize);
        let last = self.ahead + now == bytes;
        (self.sent, self.ahead) = if last { (end, 0) } else { (from, self.ahead + now) };
        let immediate = if last { self.immediate(id, Use::Frames, end)? } else { None };
        let signalled = self.count(false);
        self.post(Work {
            id: self.request_id(id, false),
            from: Some(slice),
            to: Some((target.address + offset, target.key)),
            immediate,
            signalled,
        })?;
        Ok(now)
    }
}

/// Link, generation, whether it is a receive, whether it is the mark of a queue pair's end.
fn unpack(id: u64) -> (LinkId, u32, bool, bool) {
    (LinkId(id as u16), (id >> 32) as u32, id & 1 << 16 != 0, id & 1 << 17 != 0)
}

fn random() -> Result<u32, VerbsError> {
    let mut bytes = [0; 4];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|error| VerbsError::Call { call: "getrandom", error: error.into() })?;
    Ok(u32::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_comes_back_from_its_low_bits() {
        for base in [0, UNIT, (1 << 30) - UNIT, 1 << 30, (1 << 40) + 48] {
            for ahead in [0, UNIT, 1 << 20, 64 << 20, RING_BYTES_MAX] {
                for (ask, grants) in [(false, 0), (true, RECEIVES), (true, 0), (false, 1)] {
                    let immediate = Immediate::new(base + ahead, ask, grants);
                    assert_eq!(immediate.position_after(base), base + ahead);
                    assert_eq!((immediate.asks(), immediate.grants()), (ask, grants));
                }
            }
        }
    }

    #[test]
    fn a_request_is_found_by_its_number() {
        let mut link = Link::new();
        link.generation = u32::MAX;
        assert_eq!(unpack(link.request_id(LinkId(1023), true)), (LinkId(1023), u32::MAX, true, false));
        assert_eq!(unpack(link.mark(LinkId(7))), (LinkId(7), u32::MAX, false, true));
    }
}
