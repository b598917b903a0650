//! The composer's end of every shard's link 0, and the pairs of rings between ends.

use shard_runtime::frame::{Flags, Header};
use shard_runtime::id::{LinkId, SessionId};
use shard_runtime::inbox::{Inbound, Inbox, Receiver};
use shard_runtime::outbox::{Outbound, Outbox};
use shard_runtime::region::RegionError;
use shard_runtime::ring::{Ring, RingError, RingReader, RingWriter};
use shard_runtime::session::Verb;
use shard_runtime::wake::{Bell, Ringer, create_bell};

/// The rings of a link to the composer.
pub(super) const CONTROL_RING_BYTES: usize = 16 << 10;
/// The largest message of the session protocol.
pub(super) const CONTROL_MESSAGE_BYTES_MAX: usize = 2048;

/// What a shard told the composer.
pub(super) struct Told {
    pub(super) link: LinkId,
    pub(super) verb: Verb,
    pub(super) session: SessionId,
    pub(super) text: String,
}

/// See the head of this file. The shard at position `n` is at link `n`.
pub(super) struct ComposerEnd {
    pub(super) inbox: Inbox,
    pub(super) outbox: Outbox,
}

impl ComposerEnd {
    pub(super) fn new() -> Result<Self, RegionError> {
        let bell = Bell::map(&create_bell("rig-composer")?)?;
        Ok(Self { inbox: Inbox::new(bell), outbox: Outbox::new() })
    }

    pub(super) fn tell(&mut self, link: LinkId, verb: Verb, session: SessionId, payload: &[u8]) {
        let header = Header::new(session, verb.port()).flagged(Flags::CONTROL);
        // A dead shard has no link; a live one reads its control ring in every round.
        let _ = self.outbox.send(link, header, payload);
        self.outbox.flush();
    }

    pub(super) fn poll(&mut self) -> Vec<Told> {
        let mut ear = Ear(Vec::new());
        self.inbox.poll(&mut ear);
        self.outbox.flush();
        ear.0
    }
}

struct Ear(Vec<Told>);

impl Receiver for Ear {
    fn message(&mut self, link: LinkId, header: &Header, payload: &[u8]) {
        if let Some(verb) = Verb::from_port(header.port) {
            let text = String::from_utf8_lossy(payload).into_owned();
            self.0.push(Told { link, verb, session: header.session, text });
        }
    }

    fn drained(&mut self, _: LinkId, _: usize) {}

    fn broken(&mut self, link: LinkId, error: RingError) {
        unreachable!("both ends of link {link} are the rig's own, yet it broke: {error}");
    }
}

/// One direction of a link: `sender` writes to `receiver`, who knows the link as `peer_link`.
pub(super) fn ring(
    capacity: usize,
    message_bytes_max: usize,
    sender: Ringer,
    receiver: Ringer,
    peer_link: LinkId,
) -> Result<(Inbound, Outbound), RegionError> {
    let region = Ring::create("rig-ring", capacity)?;
    let reader = RingReader::new(Ring::new(region.map(true)?, capacity));
    let writer = RingWriter::new(Ring::new(region.map(true)?, capacity));
    let inbound = Inbound::new(reader, sender, message_bytes_max);
    Ok((inbound, Outbound::new(writer, receiver, peer_link, message_bytes_max)))
}
