//! The inbox: every link that a shard receives from, polled and waited for at a cost that does not grow with the
//! number of idle ones.
//!
//! Links are *hot*, polled each time, or *armed*, silent until their producer rings (see [`crate::wake`]). A link
//! becomes hot when it rings and is armed again when it stays empty while others are polled, or when the shard goes
//! to sleep.
//!
//! Invariant: a link that is neither hot nor armed has a bit in the bell. So nothing waits unseen; what a hostile
//! peer rubs out of the bell is found by the sweep.

use crate::frame::{Flags, Header};
use crate::id::LinkId;
use crate::outbox::Outbox;
use crate::ring::{Ring, RingError, RingReader};
#[cfg(not(loom))]
use crate::wake::Sleeper;
use crate::wake::{Bell, LINKS_MAX, Mode, Ringer, SWEEP_NS};

/// How many links are polled at the most.
const HOT_MAX: usize = 64;
/// So many hot links are kept even when they are silent: polling them costs less than ringing.
const HOT_KEPT: usize = 2;
/// A hot link is armed again when its empty polls times the number of hot links pass this.
const SILENT_POLLS_MAX: u32 = 1 << 14;
/// How many empty rounds pass between two looks at silent hot links.
const HOUSEKEEPING_ROUNDS: u32 = 256;
/// A link that gave so many messages since it was armed need not fence any more.
const RELAX_AFTER: u32 = 256;
/// How many messages of one link are taken in a round, so that no link starves the others.
pub const DRAIN_MESSAGES_MAX: usize = 64;

/// Room up to this part of the ring may be given back a moment later.
const ROOM_KEPT_PART: u64 = 16;

/// How a shard waits when it has nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitStrategy {
    /// Poll for ever.
    Spin,
    /// Poll for this many nanoseconds, then sleep.
    SpinThenPark {
        /// Nanoseconds of polling.
        spin_ns: u64,
    },
    /// Sleep at once.
    Park,
}

/// Who gets what arrives.
pub trait Receiver {
    /// A message, whole, in a private copy.
    fn message(&mut self, link: LinkId, header: &Header, payload: &[u8]);
    /// A round on one link is over: a good moment to flush what was sent in answer.
    fn drained(&mut self, link: LinkId, messages: usize);
    /// The link broke the rules and is closed; nothing more comes from it.
    fn broken(&mut self, link: LinkId, error: RingError);
    /// Asked before each message: whether it had better stay in its ring for now.
    #[inline(always)]
    fn pauses(&self) -> bool {
        false
    }
}

/// The receiving half of a link.
pub struct Inbound {
    reader: RingReader,
    /// The producer's bell, for when it waits for room.
    producer: Ringer,
    message_bytes_max: usize,
    /// The fragments so far of a message that is not whole yet.
    assembly: Vec<u8>,
    /// The header of that message.
    assembling: Option<Header>,
    heat: Heat,
    messages: u64,
    bytes: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Heat {
    hot: bool,
    silent_polls: u32,
    /// The producer is known to fence itself.
    careful: bool,
    since_armed: u32,
}

/// What counts say of a link's receiving half.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// Messages handed over.
    pub messages: u64,
    /// Their payloads' bytes.
    pub bytes: u64,
}

impl Inbound {
    /// A link whose frames `reader` reads; `producer` is the bell of whoever writes them. Messages of more than
    /// `message_bytes_max` break the link.
    pub fn new(reader: RingReader, producer: Ringer, message_bytes_max: usize) -> Self {
        let heat = Heat { hot: false, silent_polls: 0, careful: true, since_armed: 0 };
        let (assembly, assembling) = (Vec::new(), None);
        Self { reader, producer, message_bytes_max, assembly, assembling, heat, messages: 0, bytes: 0 }
    }

    /// The ring's reader.
    pub fn reader(&mut self) -> &mut RingReader {
        &mut self.reader
    }

    /// What was counted.
    pub fn received(&self) -> Received {
        Received { messages: self.messages, bytes: self.bytes }
    }

    /// Takes up to [`DRAIN_MESSAGES_MAX`] messages, at most a quarter of the ring.
    #[inline(always)]
    fn drain(
        &mut self,
        id: LinkId,
        scratch: &mut Vec<u8>,
        receiver: &mut impl Receiver,
    ) -> Result<usize, RingError> {
        let stop = self.reader.position() + self.reader.ring().capacity() as u64 / 4;
        let mut taken = 0;
        while taken < DRAIN_MESSAGES_MAX && self.reader.position() < stop && !receiver.pauses() {
            let Some(frame) = self.reader.take()? else { break };
            let header = frame.header();
            if header.flags.has(Flags::MORE) || self.assembling.is_some() {
                let (position, len) = (frame.position(), frame.len());
                if self.assembly.len() + len > self.message_bytes_max {
                    return Err(RingError::MessageLength { bytes_max: self.message_bytes_max });
                }
                frame.append_to(&mut self.assembly);
                // A fragment's room goes back at once, so that its producer can write the next.
                self.give_room();
                if let Some(whole) = self.assemble(header, position)? {
                    self.count(self.assembly.len());
                    receiver.message(id, &whole, &self.assembly);
                    self.assembly.clear();
                    taken += 1;
                }
                continue;
            }
            if frame.len() > self.message_bytes_max {
                return Err(RingError::MessageLength { bytes_max: self.message_bytes_max });
            }
            scratch.clear();
            frame.append_to(scratch);
            self.count(scratch.len());
            taken += 1;
            receiver.message(id, &header, scratch);
        }
        // A little room waits for the next empty look: an answer should not queue behind this store.
        if self.reader.unreleased() > self.reader.ring().capacity() as u64 / ROOM_KEPT_PART {
            self.give_room();
        }
        Ok(taken)
    }

    /// Gives the room of what was read back to the producer.
    #[inline(always)]
    fn give_room(&mut self) {
        if self.reader.release() {
            self.producer.room();
        }
    }

    /// Joins a fragment to those before it; gives the message's header when it was the last.
    #[inline(never)]
    fn assemble(&mut self, header: Header, position: u64) -> Result<Option<Header>, RingError> {
        let first = *self.assembling.get_or_insert(header);
        if first.session != header.session || first.port != header.port {
            return Err(RingError::Fragment { position });
        }
        if header.flags.has(Flags::MORE) {
            return Ok(None);
        }
        self.assembling = None;
        Ok(Some(Header { flags: first.flags.without(Flags::MORE), ..first }))
    }

    #[inline(always)]
    fn count(&mut self, bytes: usize) {
        self.messages += 1;
        self.bytes += bytes as u64;
    }

    /// Whether it has something to read.
    #[inline(always)]
    fn ready(&self) -> bool {
        self.reader.ready()
    }

    fn ring(&self) -> &Ring {
        self.reader.ring()
    }
}

/// All links that a shard receives from: see the head of this file.
pub struct Inbox {
    bell: Bell,
    links: Vec<Option<Box<Inbound>>>,
    hot: Vec<LinkId>,
    scratch: Vec<u8>,
    empty_rounds: u32,
    sweep_next: usize,
    idle_since_ns: u64,
    swept_ns: u64,
    called_in: bool,
    /// If set, only this link is read; what comes on the others stays in their rings.
    only: Option<LinkId>,
    parks: u64,
    finds: u64,
}

impl Inbox {
    /// Without links.
    pub fn new(bell: Bell) -> Self {
        crate::barrier::register();
        Self {
            bell,
            links: Vec::new(),
            hot: Vec::with_capacity(LINKS_MAX),
            scratch: Vec::with_capacity(crate::ring::FRAGMENT_BYTES_MAX as usize),
            empty_rounds: 0,
            sweep_next: 0,
            idle_since_ns: 0,
            swept_ns: 0,
            called_in: false,
            only: None,
            parks: 0,
            finds: 0,
        }
    }

    /// A ringer of this inbox's bell, for other threads of this process.
    pub fn ringer(&self) -> Ringer {
        self.bell.ringer()
    }

    /// Adds a link.
    ///
    /// # Panics
    /// If `id` is not below [`LINKS_MAX`] or is taken.
    pub fn attach(&mut self, id: LinkId, link: Inbound) {
        let at = usize::from(id.0);
        assert!(at < LINKS_MAX, "{id:?} is beyond the {LINKS_MAX} links of a shard");
        if self.links.len() <= at {
            self.links.resize_with(at + 1, || None);
        }
        assert!(self.links[at].is_none(), "{id:?} is taken");
        self.links[at] = Some(Box::new(link));
        // It starts hot: whatever came before it was attached is seen, and silence arms it.
        self.heat(id);
    }

    /// Removes a link.
    pub fn detach(&mut self, id: LinkId) -> Option<Box<Inbound>> {
        self.hot.retain(|hot| *hot != id);
        self.links.get_mut(usize::from(id.0))?.take()
    }

    /// The link at `id`.
    pub fn get_mut(&mut self, id: LinkId) -> Option<&mut Inbound> {
        self.links.get_mut(usize::from(id.0))?.as_deref_mut()
    }

    /// The links, with their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (LinkId, &Inbound)> {
        self.links.iter().enumerate().filter_map(|(at, link)| Some((LinkId(at as u16), link.as_deref()?)))
    }

    /// How often this inbox slept.
    pub fn parks(&self) -> u64 {
        self.parks
    }

    /// How often the sweep found a link whose bell was lost. Few of them are none: a producer that is between its
    /// frame and its bell looks the same.
    pub fn finds(&self) -> u64 {
        self.finds
    }

    /// Whether [`Ringer::call_in`] was used since the last time that this was asked.
    pub fn take_called_in(&mut self) -> bool {
        std::mem::take(&mut self.called_in)
    }

    /// Reads only this link from now on, or all again: for a shard that pauses.
    pub fn read_only(&mut self, link: Option<LinkId>) {
        self.only = link;
    }

    /// One round over the bell and the hot links. Returns how many messages were handed over.
    #[inline(always)]
    pub fn poll(&mut self, receiver: &mut impl Receiver) -> usize {
        if self.bell.rung() {
            self.answer_bell();
        }
        let mut taken = 0;
        let mut at = 0;
        while at < self.hot.len() {
            let id = self.hot[at];
            let link = self.links[usize::from(id.0)].as_deref_mut().expect("a hot link is attached");
            if !link.ready() || self.only.is_some_and(|only| only != id) {
                link.give_room();
                link.heat.silent_polls += 1;
                at += 1;
                continue;
            }
            link.heat.silent_polls = 0;
            match link.drain(id, &mut self.scratch, receiver) {
                Ok(messages) => {
                    taken += messages;
                    link.heat.since_armed += messages as u32;
                    if link.heat.careful && link.heat.since_armed >= RELAX_AFTER {
                        Self::relax(link);
                    }
                    if messages > 0 {
                        receiver.drained(id, messages);
                    }
                    at += 1;
                }
                Err(error) => {
                    self.detach(id);
                    receiver.broken(id, error);
                }
            }
        }
        if self.hot.len() > HOT_MAX {
            self.cool();
        }
        if taken == 0 {
            self.empty_rounds += 1;
            if self.empty_rounds.is_multiple_of(HOUSEKEEPING_ROUNDS) {
                self.keep_house();
            }
        } else {
            self.empty_rounds = 0;
            self.idle_since_ns = 0;
        }
        taken
    }

    /// Makes hot what rang.
    #[inline(never)]
    fn answer_bell(&mut self) {
        let mut rung_links = [0u64; LINKS_MAX / 64];
        let rung = self.bell.answer(|id| rung_links[usize::from(id.0) / 64] |= 1 << (id.0 % 64));
        // That a ring has room again needs no mark: it is tried for in each round while something waits.
        self.called_in |= rung.call_in();
        for (word, mut bits) in rung_links.into_iter().enumerate() {
            while bits != 0 {
                self.heat(LinkId((word * 64) as u16 + bits.trailing_zeros() as u16));
                bits &= bits - 1;
            }
        }
    }

    /// Makes a link hot. A bit for a link that is not there is a peer's mistake or malice, and nothing.
    fn heat(&mut self, id: LinkId) {
        let Some(link) = self.links.get_mut(usize::from(id.0)).and_then(Option::as_deref_mut) else { return };
        link.ring().disarm();
        if link.heat.hot {
            return;
        }
        link.heat.hot = true;
        link.heat.silent_polls = 0;
        self.hot.push(id);
    }

    /// The producer of a busy link need not fence any more; arming it again takes a heavy fence then.
    #[cold]
    fn relax(link: &mut Inbound) {
        if crate::barrier::register() {
            link.ring().relax();
            link.heat.careful = false;
        }
    }

    /// Arms links that are no longer hot, and makes those hot again that got something meanwhile.
    fn arm(&mut self, ids: &[LinkId]) {
        let mut heavy = false;
        for id in ids {
            let Some(link) = self.links[usize::from(id.0)].as_deref_mut() else { continue };
            link.give_room();
            heavy |= !link.heat.careful;
            link.ring().arm(link.heat.careful);
            link.heat = Heat { hot: false, silent_polls: 0, careful: true, since_armed: 0 };
        }
        if heavy {
            crate::barrier::heavy();
        } else {
            crate::sync::fence(crate::sync::Ordering::SeqCst);
        }
        for id in ids {
            if self.links[usize::from(id.0)].as_deref().is_some_and(Inbound::ready) {
                self.heat(*id);
            }
        }
    }

    /// Arms as many silent links as are hot beyond the limit. One that has something is not armed: it would be hot again
    /// at once, so a burst on all links has all of them polled until it is over.
    #[cold]
    fn cool(&mut self) {
        let mut excess = self.hot.len() - HOT_MAX;
        let mut silent: Vec<LinkId> = Vec::new();
        let links = &self.links;
        self.hot.retain(|id| {
            let is_silent =
                links[usize::from(id.0)].as_deref().is_some_and(|link| link.heat.silent_polls > 0);
            let goes = excess > 0 && is_silent;
            if goes {
                silent.push(*id);
                excess -= 1;
            }
            !goes
        });
        if !silent.is_empty() {
            self.arm(&silent);
        }
    }

    /// Arms hot links that stayed silent, and looks at one armed link that may have lost its bell.
    #[cold]
    fn keep_house(&mut self) {
        if self.hot.len() > HOT_KEPT {
            let limit = SILENT_POLLS_MAX / self.hot.len() as u32;
            let mut silent: Vec<LinkId> = Vec::new();
            let links = &self.links;
            self.hot.retain(|id| {
                let keep = links[usize::from(id.0)].as_deref().is_some_and(|l| l.heat.silent_polls <= limit);
                if !keep {
                    silent.push(*id);
                }
                keep
            });
            if !silent.is_empty() {
                self.arm(&silent);
            }
        }
        self.sweep(1);
    }

    /// Looks at the next `count` links whether their bell was rubbed out.
    fn sweep(&mut self, count: usize) {
        for _ in 0..count.min(self.links.len()) {
            self.sweep_next = (self.sweep_next + 1) % self.links.len();
            let lost = self.links[self.sweep_next].as_deref().is_some_and(|l| !l.heat.hot && l.ready());
            if lost {
                self.finds += 1;
                self.heat(LinkId(self.sweep_next as u16));
            }
        }
    }

    /// Waits as the strategy says, after a round that brought nothing, until something may have come or `until_ns`
    /// of the monotonic clock is reached. May return early. What `outbox` holds is written as soon as there is room.
    #[cfg(not(loom))]
    #[inline(always)]
    pub fn wait(&mut self, strategy: WaitStrategy, outbox: &mut Outbox, until_ns: Option<u64>) {
        if self.spins(strategy) {
            self.spin();
        } else {
            self.park(outbox, until_ns);
        }
    }

    /// Whether the strategy says to poll on after a round that brought nothing, and not to sleep.
    #[cfg(not(loom))]
    #[inline(always)]
    pub fn spins(&mut self, strategy: WaitStrategy) -> bool {
        match strategy {
            WaitStrategy::Spin => true,
            WaitStrategy::SpinThenPark { spin_ns } => {
                !self.empty_rounds.is_multiple_of(32) || !self.spun_enough(spin_ns)
            }
            WaitStrategy::Park => false,
        }
    }

    /// A moment between two rounds.
    #[cfg(not(loom))]
    #[inline(always)]
    pub fn spin(&self) {
        std::hint::spin_loop();
        std::hint::spin_loop();
    }

    #[cfg(not(loom))]
    fn spun_enough(&mut self, spin_ns: u64) -> bool {
        let now = crate::clock::now_ns();
        if self.idle_since_ns == 0 {
            self.idle_since_ns = now;
        }
        now - self.idle_since_ns >= spin_ns
    }

    /// Sleeps until a link rings, room comes, someone calls in, or the time is up.
    #[cfg(not(loom))]
    #[cold]
    pub fn park(&mut self, outbox: &mut Outbox, until_ns: Option<u64>) {
        if until_ns.is_some_and(|until| until <= crate::clock::now_ns()) || !self.prepare_to_park(outbox) {
            return;
        }
        self.sleep(until_ns);
    }

    /// Sleeps as [`park`](Self::park) does, after [`prepare_to_park`](Self::prepare_to_park) said that nothing came.
    #[cfg(not(loom))]
    pub fn sleep(&mut self, until_ns: Option<u64>) {
        let now = crate::clock::now_ns();
        let timeout_ns = until_ns.map_or(SWEEP_NS, |until| until.saturating_sub(now).min(SWEEP_NS));
        if timeout_ns > 0 {
            self.bell.park(timeout_ns);
        }
        self.idle_since_ns = 0;
        if self.bell.rung() {
            self.answer_bell();
        }
        self.sweep_if_due(now);
    }

    /// Looks at all links whether their bells were rubbed out, if the last look is long ago.
    #[cfg(not(loom))]
    fn sweep_if_due(&mut self, now_ns: u64) {
        if now_ns.saturating_sub(self.swept_ns) >= SWEEP_NS {
            self.swept_ns = now_ns;
            self.sweep(self.links.len());
        }
    }

    /// Polls `link` from now on, so that its producer does not ring: for whoever is about to wait for an answer.
    pub fn expect(&mut self, link: LinkId) {
        self.heat(link);
    }

    /// What sleeps on this inbox's bell, for a thread that does not hold the inbox while it sleeps.
    #[cfg(not(loom))]
    pub fn sleeper(&self) -> Sleeper {
        self.bell.sleeper()
    }

    /// Arms everything, so that whatever comes rings. False if something came meanwhile that would be read, or if the
    /// room came that a paused shard waits for.
    pub fn prepare_to_park(&mut self, outbox: &mut Outbox) -> bool {
        // Here, because not everyone who prepares sleeps in this inbox, and one that is flooded never sleeps.
        #[cfg(not(loom))]
        self.sweep_if_due(crate::clock::now_ns());
        let mut hot = std::mem::take(&mut self.hot);
        self.arm(&hot);
        let asleep = self.only.map_or(self.hot.is_empty(), |only| !self.hot.contains(&only));
        // Keep the vector's room: what became hot again is in the new one.
        hot.clear();
        hot.append(&mut self.hot);
        self.hot = hot;
        if asleep && outbox.ask_for_room() {
            crate::barrier::heavy();
            outbox.flush();
        }
        let asleep = asleep && (self.only.is_none() || outbox.crowded());
        self.parks += u64::from(asleep);
        asleep
    }

    /// Makes all links as they are after many messages, for models of the protocol.
    #[cfg(loom)]
    pub(crate) fn relax_all(&mut self) {
        self.links.iter_mut().flatten().for_each(|link| Self::relax(link));
    }

    /// The bell, for models of the protocol.
    #[cfg(loom)]
    pub(crate) fn bell(&self) -> &Bell {
        &self.bell
    }
}
