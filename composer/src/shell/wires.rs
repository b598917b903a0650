//! Wires between shards: two rings, made here and given to both ends.
//!
//! Invariant: a wire counts once all its ends have said that they have it. What breaks the rules of a link is killed: it is
//! never mended.

use super::{CONTROL_MESSAGE_BYTES_MAX, LaunchError, Shell};
use crate::core::{End, Event, WireEnd, WireId};
use crate::embed::Embed;
use crate::hub::{Hub, shard_of, slot};
use shard_runtime::clock;
use shard_runtime::control::{ToShard, Wire};
use shard_runtime::id::{ComponentId, LinkId, ShardId};
use shard_runtime::ring::Ring;
use shard_runtime::stats::Counter;
use shardkit::open_wire;
use std::os::fd::{AsFd, BorrowedFd};

/// So often it is told what was refused, in nanoseconds.
const REFUSALS_EVERY_NS: u64 = 1_000_000_000;
/// A session ends while messages are under way, but not so many …
const REFUSED_MAX: u64 = 65_536;
/// … and not so many times in a row.
const FLOODS_MAX: u32 = 2;

/// A wire that waits for its ends to say that they have it.
pub(super) struct Pending {
    pub(super) ends: [WireEnd; 2],
    pub(super) missing: Vec<(ShardId, LinkId)>,
}

impl Shell {
    pub(super) fn wire(&mut self, wire: WireId, ends: [WireEnd; 2]) {
        match self.try_wire(ends) {
            Ok(missing) => {
                let pending = Pending { ends, missing };
                if pending.missing.is_empty() {
                    self.tell(Event::Wired { wire });
                } else {
                    self.wiring.insert(wire, pending);
                }
            }
            Err(error) => {
                let [a, b] = ends.map(|end| Hub::name(end.end));
                tracing::error!(?wire, a, b, %error, "wiring failed");
                self.tell(Event::WireFailed { wire });
            }
        }
    }

    /// Makes both rings and gives them to both ends. Returns which shards still have to say that they have them.
    fn try_wire(&mut self, [a, b]: [WireEnd; 2]) -> Result<Vec<(ShardId, LinkId)>, LaunchError> {
        let sizes = [self.sizes(a.component, b.component), self.sizes(b.component, a.component)];
        let rings = [Ring::create("shard-ring", sizes[0].ring)?, Ring::create("shard-ring", sizes[1].ring)?];
        let mut missing = Vec::new();
        for (mine, peer, incoming, outgoing) in [(a, b, 1, 0), (b, a, 0, 1)] {
            let wire = Wire {
                link: slot(mine),
                peer_link: slot(peer),
                component: peer.component,
                shard: shard_of(peer),
                in_ring_bytes: sizes[incoming].ring as u32,
                out_ring_bytes: sizes[outgoing].ring as u32,
                in_message_bytes_max: sizes[incoming].message,
                out_message_bytes_max: sizes[outgoing].message,
            };
            let bell = self.bell(peer)?;
            match mine.end {
                End::Shard(shard) => {
                    let process = self.process_of(shard).ok_or(LaunchError::NoLauncher)?;
                    let fds = [rings[incoming].as_fd(), rings[outgoing].as_fd(), bell];
                    process.expect_wire();
                    process.socket.send(&ToShard::Wire(wire), &fds)?;
                    missing.push((shard, wire.link));
                }
                End::Embedder => {
                    let embed = self.inner.embed.as_ref().ok_or(LaunchError::NoEmbedder)?;
                    let bell = bell.try_clone_to_owned()?;
                    let fds =
                        vec![rings[incoming].duplicate()?.into(), rings[outgoing].duplicate()?.into(), bell];
                    let (inbound, outbound) =
                        open_wire(&wire, fds).map_err(|error| LaunchError::Spec(error.to_string()))?;
                    embed.detach(wire.link);
                    embed.attach(wire.link, wire.component, inbound, outbound);
                }
            }
        }
        Ok(missing)
    }

    pub(super) fn bell(&self, end: WireEnd) -> Result<BorrowedFd<'_>, LaunchError> {
        match end.end {
            End::Embedder => self.embed_bell.as_ref().map(AsFd::as_fd).ok_or(LaunchError::NoEmbedder),
            End::Shard(shard) => {
                self.shards.get(&shard).map(|s| s.bell.as_fd()).ok_or(LaunchError::NoLauncher)
            }
        }
    }

    /// How large the ring from one component to the other has to be, and its messages may be.
    fn sizes(&self, from: ComponentId, to: ComponentId) -> Sizes {
        let application = &self.inner.application;
        let sends = |from: ComponentId, to: ComponentId| {
            let outputs = application.component(from).outputs.iter();
            outputs.filter(move |output| output.to.iter().any(|d| d.component == to))
        };
        // What is sent this way, and what answers something that was sent the other way.
        let (ahead, back) = (sends(from, to), sends(to, from).filter(|output| output.reply.is_some()));
        let mut sizes = Sizes { ring: shard_runtime::ring::CAPACITY_MIN, message: CONTROL_MESSAGE_BYTES_MAX };
        for output in ahead.chain(back) {
            sizes.ring = sizes.ring.max(output.ring_bytes as usize);
            sizes.message = sizes.message.max(output.message_bytes_max);
        }
        sizes
    }

    pub(super) fn wired_at(&mut self, shard: ShardId, link: LinkId) {
        let found = self.wiring.iter_mut().find_map(|(wire, pending)| {
            let at = pending.missing.iter().position(|missing| *missing == (shard, link))?;
            pending.missing.swap_remove(at);
            Some((*wire, pending.missing.is_empty()))
        });
        if let Some((wire, true)) = found {
            self.wiring.remove(&wire);
            self.tell(Event::Wired { wire });
        }
    }

    pub(super) fn unwire(&mut self, wire: WireId, at: WireEnd) {
        self.wiring.remove(&wire);
        match at.end {
            End::Embedder => {
                if let Some(embed) = &self.inner.embed {
                    embed.detach(at.link);
                }
            }
            End::Shard(shard) => {
                if let Some(process) = self.process_of(shard) {
                    // If the shard is gone its end will be heard of.
                    let _ = process.socket.send(&ToShard::Unwire { link: slot(at) }, &[]);
                }
            }
        }
    }

    /// A link that a peer broke can't be mended. Where the embedder says so its peer is not to be trusted and is killed. Between
    /// two shards only one's word says which of them it was: the link goes, and its sessions, and nobody is killed.
    pub(super) fn break_link(&mut self, witness: End, link: LinkId, error: &str) {
        let culprit = self.inner.lock().core.peer_of(witness, link);
        let Some(End::Shard(shard)) = culprit else { return };
        tracing::error!(
            %shard, component = self.name(shard), witness = Hub::name(witness), %link, error,
            "shard has broken a link"
        );
        self.inner.note_fault(shard, format!("broke a link: {error}"));
        match witness {
            End::Embedder => self.tell(Event::BrokeProtocol { shard }),
            End::Shard(witness) => self.tell(Event::LinkBroken { witness, link }),
        }
    }

    /// Tells which links bring messages that are refused: of a session that their sender is not in, for a port that is not
    /// there, or too large. A few are nobody's fault: a session may end while they are under way.
    pub(super) fn look_at_refusals(&mut self) {
        let now_ns = clock::now_ns();
        if now_ns < self.refusals_due_ns {
            return;
        }
        self.refusals_due_ns = now_ns + REFUSALS_EVERY_NS;
        for (link, refused) in self.inner.embed.as_deref().map(Embed::take_refused).unwrap_or_default() {
            let sender = self.inner.lock().core.peer_of(End::Embedder, link);
            if let Some(End::Shard(shard)) = sender {
                let component = self.name(shard);
                tracing::warn!(
                    %shard, component, refused, by = Hub::name(End::Embedder), "what the shard sent was refused"
                );
                let floods = self.shards.get_mut(&shard).map(|entry| &mut entry.floods);
                let Some(floods) = floods else { continue };
                *floods = if refused > REFUSED_MAX { *floods + 1 } else { 0 };
                if *floods == FLOODS_MAX
                    && let Some(process) = self.shards.get(&shard).and_then(|entry| entry.process)
                {
                    self.condemn(process, "it floods the embedder with messages that are refused");
                }
            }
        }
        let pages = self.inner.pages();
        for (by, entry) in &mut self.shards {
            let Some(page) = pages.get(by) else { continue };
            let refused = page.reader.counter(Counter::Refused);
            let more = refused.saturating_sub(std::mem::replace(&mut entry.refused, refused));
            if more > 0 {
                let component = &self.inner.application.component(entry.component).name;
                tracing::warn!(shard = %by, component, refused = more, "the shard has refused messages of its partners");
            }
        }
    }

    pub(super) fn look_at_broken_links(&mut self) {
        let broken = self.inner.embed.as_deref().map(Embed::take_broken).unwrap_or_default();
        for (link, error) in broken {
            self.break_link(End::Embedder, link, &error.to_string());
        }
    }
}

struct Sizes {
    ring: usize,
    message: u32,
}

/// The same pair of links from the other end.
pub(super) fn mirror(wire: &Wire, link: LinkId, component: ComponentId, shard: Option<ShardId>) -> Wire {
    Wire {
        link,
        peer_link: wire.link,
        component,
        shard,
        in_ring_bytes: wire.out_ring_bytes,
        out_ring_bytes: wire.in_ring_bytes,
        in_message_bytes_max: wire.out_message_bytes_max,
        out_message_bytes_max: wire.in_message_bytes_max,
    }
}
