//! The outbox: every link that a shard sends on, and what could not be sent yet.
//!
//! Invariant: the messages of a link leave in the order in which they were sent, each once. While a link has
//! messages waiting, new ones queue behind them. Nothing is dropped: what the bounded queue can't take is refused to
//! the sender. Nothing here blocks.

use crate::frame::Header;
use crate::id::LinkId;
use crate::ring::{RingError, RingWriter, SendError};
use crate::wake::{self, LINKS_MAX, Ringer};
use std::collections::VecDeque;

/// How many bytes may wait for one full link, on top of one message of the largest size.
pub const WAITING_BYTES_MAX: usize = 256 << 10;
/// How many messages may wait for one full link.
pub const WAITING_MESSAGES_MAX: usize = 4096;

/// The sending half of a link.
pub struct Outbound {
    writer: RingWriter,
    /// The receiver's bell, and the link's number there; none if the frames are carried to another host.
    bell: Option<(Ringer, LinkId)>,
    message_bytes_max: usize,
    waiting: Waiting,
    dirty: bool,
    /// It is among those that published something to be carried.
    listed: bool,
    frames: u64,
    bytes: u64,
    full: u64,
}

/// What counts say of a link's sending half.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Messages handed to the link.
    pub messages: u64,
    /// Their payloads' bytes.
    pub bytes: u64,
    /// How often the ring was full.
    pub full: u64,
    /// Messages that wait for room now.
    pub waiting: u64,
}

impl Outbound {
    /// A link to the owner of the bell behind `ringer`, who knows it as `peer_link`. Messages of more than
    /// `message_bytes_max` are refused.
    pub fn new(writer: RingWriter, ringer: Ringer, peer_link: LinkId, message_bytes_max: usize) -> Self {
        Self::with_bell(writer, Some((ringer, peer_link)), message_bytes_max)
    }

    /// A link whose frames something carries to another host: whoever [`Outbox::take_published`] tells.
    pub fn carried(writer: RingWriter, message_bytes_max: usize) -> Self {
        Self::with_bell(writer, None, message_bytes_max)
    }

    fn with_bell(writer: RingWriter, bell: Option<(Ringer, LinkId)>, message_bytes_max: usize) -> Self {
        Self {
            writer,
            bell,
            message_bytes_max,
            waiting: Waiting::default(),
            listed: false,
            dirty: false,
            frames: 0,
            bytes: 0,
            full: 0,
        }
    }

    /// The ring's writer.
    pub fn writer(&mut self) -> &mut RingWriter {
        &mut self.writer
    }

    /// Writes or queues a message. It is visible after [`flush`](Self::flush).
    ///
    /// # Errors
    /// [`SendError::TooLarge`] beyond the link's largest message; [`SendError::Full`] if the ring is full and the
    /// queue too; [`SendError::Broken`] if the consumer broke the ring.
    #[inline(always)]
    pub fn send(&mut self, header: Header, payload: &[u8]) -> Result<(), SendError> {
        if payload.len() > self.message_bytes_max {
            return Err(SendError::TooLarge { bytes: payload.len(), bytes_max: self.message_bytes_max });
        }
        let mut sent = 0;
        if self.waiting.is_empty() {
            match self.writer.write(header, payload, &mut sent) {
                Ok(()) => {
                    self.count(payload.len());
                    return Ok(());
                }
                Err(SendError::Full) => self.full += 1,
                Err(other) => return Err(other),
            }
        }
        self.queue(header, payload, sent)
    }

    #[inline(always)]
    fn count(&mut self, bytes: usize) {
        self.frames += 1;
        self.bytes += bytes as u64;
    }

    #[cold]
    fn queue(&mut self, header: Header, payload: &[u8], sent: usize) -> Result<(), SendError> {
        // A message whose beginning is in the ring already has to go on: it is always taken.
        if sent == 0 && !self.waiting.has_room() {
            return Err(SendError::Full);
        }
        self.waiting.push(header, payload, sent);
        self.count(payload.len());
        Ok(())
    }

    /// Whether less than half of what may wait for room does.
    pub fn waits_for_little(&self) -> bool {
        self.waiting.is_little()
    }

    /// Writes what waits, publishes, and wakes the consumer if it sleeps. True when nothing waits any more.
    ///
    /// # Errors
    /// The consumer broke the ring.
    #[inline(always)]
    pub fn flush(&mut self) -> Result<bool, RingError> {
        let done = self.publish()?;
        self.wake();
        Ok(done)
    }

    #[inline(always)]
    fn publish(&mut self) -> Result<bool, RingError> {
        let done = self.waiting.is_empty() || self.write_waiting()?;
        self.writer.publish();
        Ok(done)
    }

    /// As [`flush`](Self::flush), but whoever sleeps is left to the caller.
    #[cfg(not(loom))]
    fn flush_quietly(&mut self, sleepers: &mut wake::Sleepers) -> Result<bool, RingError> {
        let done = self.publish()?;
        if let Some((ringer, link)) = &self.bell
            && wake::after_publish_quietly(self.writer.ring(), ringer, *link)
        {
            sleepers.add(ringer);
        }
        Ok(done)
    }

    /// After publishing: wakes the consumer if it sleeps.
    #[inline(always)]
    fn wake(&self) {
        if let Some((ringer, link)) = &self.bell {
            wake::after_publish(self.writer.ring(), ringer, *link);
        }
    }

    /// Whether it is carried and not among those that published something.
    #[inline(always)]
    fn is_news(&mut self) -> bool {
        self.bell.is_none() && !std::mem::replace(&mut self.listed, true)
    }

    #[cold]
    fn write_waiting(&mut self) -> Result<bool, RingError> {
        while let Some((header, payload, sent)) = self.waiting.front() {
            match self.writer.write(header, payload, sent) {
                Ok(()) => self.waiting.pop(),
                Err(SendError::Broken(error)) => return Err(error),
                // `send` refuses what is too large, so only `Full` is left.
                Err(_) => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Whether another message can be sent without being refused, whatever its size up to the link's largest.
    pub fn has_room(&self) -> bool {
        self.waiting.has_room()
    }

    /// Whether nothing waits: what is sent now goes straight into the ring, as far as there is room.
    #[inline(always)]
    pub fn is_clear(&self) -> bool {
        self.waiting.is_empty()
    }

    /// What was counted.
    pub fn sent(&self) -> Sent {
        Sent {
            messages: self.frames,
            bytes: self.bytes,
            full: self.full,
            waiting: self.waiting.items.len() as u64,
        }
    }
}

/// Messages that wait for room, oldest first, their payloads in one buffer that is reused.
#[derive(Default)]
struct Waiting {
    items: VecDeque<Item>,
    bytes: VecDeque<u8>,
}

struct Item {
    header: Header,
    len: usize,
    sent: usize,
}

impl Waiting {
    #[inline(always)]
    fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    fn has_room(&self) -> bool {
        self.bytes.len() <= WAITING_BYTES_MAX && self.items.len() < WAITING_MESSAGES_MAX
    }

    fn is_little(&self) -> bool {
        self.bytes.len() <= WAITING_BYTES_MAX / 2 && self.items.len() <= WAITING_MESSAGES_MAX / 2
    }

    fn push(&mut self, header: Header, payload: &[u8], sent: usize) {
        self.bytes.extend(payload);
        self.items.push_back(Item { header, len: payload.len(), sent });
    }

    fn front(&mut self) -> Option<(Header, &[u8], &mut usize)> {
        let item = self.items.front_mut()?;
        if self.bytes.as_slices().0.len() < item.len {
            self.bytes.make_contiguous();
        }
        Some((item.header, &self.bytes.as_slices().0[..item.len], &mut item.sent))
    }

    fn pop(&mut self) {
        if let Some(item) = self.items.pop_front() {
            self.bytes.drain(..item.len);
        }
    }
}

/// All links that a shard sends on.
pub struct Outbox {
    links: Vec<Option<Box<Outbound>>>,
    /// Links with something unpublished or waiting.
    dirty: Vec<LinkId>,
    /// The queue of one of them is full.
    crowded: bool,
    /// Links that broke while they were flushed.
    broken: Vec<(LinkId, RingError)>,
    /// Carried links that published something, or lack room.
    published: Vec<LinkId>,
}

impl Default for Outbox {
    fn default() -> Self {
        Self::new()
    }
}

impl Outbox {
    /// Without links.
    pub fn new() -> Self {
        Self {
            links: Vec::new(),
            dirty: Vec::with_capacity(LINKS_MAX),
            crowded: false,
            broken: Vec::new(),
            published: Vec::new(),
        }
    }

    /// Adds a link.
    ///
    /// # Panics
    /// If `id` is not below [`LINKS_MAX`] or is taken.
    pub fn attach(&mut self, id: LinkId, link: Outbound) {
        let at = usize::from(id.0);
        assert!(at < LINKS_MAX, "{id:?} is beyond the {LINKS_MAX} links of a shard");
        if self.links.len() <= at {
            self.links.resize_with(at + 1, || None);
        }
        assert!(self.links[at].is_none(), "{id:?} is taken");
        self.links[at] = Some(Box::new(link));
    }

    /// Removes a link; what waits for it goes with it.
    pub fn detach(&mut self, id: LinkId) -> Option<Box<Outbound>> {
        self.dirty.retain(|dirty| *dirty != id);
        self.published.retain(|published| *published != id);
        let mut link = self.links.get_mut(usize::from(id.0))?.take()?;
        self.crowded = self.blocked().is_some();
        link.writer.publish();
        Some(link)
    }

    /// The link at `id`.
    #[inline(always)]
    pub fn get_mut(&mut self, id: LinkId) -> Option<&mut Outbound> {
        self.links.get_mut(usize::from(id.0))?.as_deref_mut()
    }

    /// The links, with their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (LinkId, &Outbound)> {
        self.links.iter().enumerate().filter_map(|(at, link)| Some((LinkId(at as u16), link.as_deref()?)))
    }

    /// Sends on a link. The message leaves with the next [`flush`](Self::flush) at the latest.
    ///
    /// # Errors
    /// As [`Outbound::send`]; `None` for a link that is not there.
    #[inline(always)]
    pub fn send(&mut self, id: LinkId, header: Header, payload: &[u8]) -> Option<Result<(), SendError>> {
        let link = self.links.get_mut(usize::from(id.0))?.as_deref_mut()?;
        if !link.dirty {
            link.dirty = true;
            self.dirty.push(id);
        }
        let sent = link.send(header, payload);
        if !link.is_clear() {
            self.crowded |= !link.has_room();
        }
        Some(sent)
    }

    /// Lends room on a link and sends what `fill` put there, at once.
    ///
    /// # Errors
    /// As [`RingWriter::loan`]; [`SendError::Full`] also while older messages wait. `None` for a link that is not
    /// there.
    #[inline]
    pub fn send_loan(
        &mut self,
        id: LinkId,
        header: Header,
        bytes: usize,
        fill: impl FnOnce(&mut crate::ring::Loan<'_>),
    ) -> Option<Result<(), SendError>> {
        let link = self.links.get_mut(usize::from(id.0))?.as_deref_mut()?;
        if !link.waiting.is_empty() {
            return Some(Err(SendError::Full));
        }
        let mut loan = match link.writer.loan(header, bytes) {
            Ok(loan) => loan,
            Err(error) => {
                // It may have to be asked for room.
                if link.is_news() {
                    self.published.push(id);
                }
                return Some(Err(error));
            }
        };
        fill(&mut loan);
        loan.commit();
        link.count(bytes);
        link.wake();
        if link.is_news() {
            self.published.push(id);
        }
        Some(Ok(()))
    }

    /// Publishes all that was sent, and tries again what waits.
    #[inline(always)]
    pub fn flush(&mut self) {
        if !self.dirty.is_empty() {
            self.flush_dirty(Outbound::flush);
        }
    }

    /// As [`flush`](Self::flush), but wakes nobody: the caller does, when it holds no lock any more.
    #[cfg(not(loom))]
    pub fn flush_quietly(&mut self, sleepers: &mut wake::Sleepers) {
        if !self.dirty.is_empty() {
            self.flush_dirty(|link| link.flush_quietly(sleepers));
        }
    }

    #[inline(always)]
    fn flush_dirty(&mut self, mut flush: impl FnMut(&mut Outbound) -> Result<bool, RingError>) {
        let mut kept = 0;
        self.crowded = false;
        for at in 0..self.dirty.len() {
            let id = self.dirty[at];
            let Some(link) = self.links[usize::from(id.0)].as_deref_mut() else { continue };
            let flushed = flush(link);
            if link.is_news() {
                self.published.push(id);
            }
            match flushed {
                Ok(true) => link.dirty = false,
                Ok(false) => {
                    self.crowded |= !link.has_room();
                    self.dirty[kept] = id;
                    kept += 1;
                }
                Err(error) => {
                    link.dirty = false;
                    self.broken.push((id, error));
                }
            }
        }
        self.dirty.truncate(kept);
    }

    /// A carried link that published frames, or lacks room, since it was named here last.
    #[inline(always)]
    pub fn take_published(&mut self) -> Option<LinkId> {
        let id = self.published.pop()?;
        if let Some(link) = self.get_mut(id) {
            link.listed = false;
        }
        Some(id)
    }

    /// A link that broke while it was flushed. The caller detaches it.
    pub fn take_broken(&mut self) -> Option<(LinkId, RingError)> {
        self.broken.pop()
    }

    /// Whether messages wait for room.
    #[inline(always)]
    pub fn waits(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Whether the queue of some link is full, as of its last send or flush: then its shard should take nothing new.
    #[inline(always)]
    pub fn crowded(&self) -> bool {
        self.crowded
    }

    /// The first link whose queue is full.
    pub fn blocked(&self) -> Option<LinkId> {
        self.dirty
            .iter()
            .copied()
            .find(|id| self.links[usize::from(id.0)].as_deref().is_some_and(|link| !link.has_room()))
    }

    /// Before sleeping: asks the consumers of full rings to ring when they have read. Follow it with a heavy fence
    /// and [`flush`](Self::flush): room that came before the fence is seen then, later room rings.
    pub(crate) fn ask_for_room(&mut self) -> bool {
        for id in &self.dirty {
            if let Some(link) = self.links[usize::from(id.0)].as_deref() {
                link.writer.set_starved();
            }
        }
        !self.dirty.is_empty()
    }
}
