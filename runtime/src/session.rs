//! The session protocol: frames with [`Flags::CONTROL`](crate::frame::Flags::CONTROL), by which sessions are opened
//! and closed and messages refused.
//!
//! The frame's port is the verb, its session the session meant. Opening and closing go over the link to the composer;
//! a refusal goes back over the link on which the refused message came.
//!
//! Invariant: decoding never panics and never allocates more than the payload's own size: peers are not trusted.

use crate::id::{ComponentId, LinkId, PortId};

/// What a control frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Composer to shard: the session is open; the payload is an [`Open`].
    Open,
    /// Shard to composer: it is ready for the session's messages.
    Opened,
    /// Shard to composer: it will not take the session; the payload says why, as text.
    OpenRefused,
    /// Composer to shard: the session is over.
    Close,
    /// Shard to composer: it has let go of the session.
    Closed,
    /// Shard to sender: a message was refused; the payload is a [`Rejection`].
    Rejected,
    /// Shard to composer: end the session; the payload says why, as text.
    End,
    /// Shard to composer: it has let go of the session, but could not be scrubbed and must not be used again; the
    /// payload says why, as text.
    ScrubFailed,
}

impl Verb {
    const ALL: [Verb; 8] = [
        Verb::Open,
        Verb::Opened,
        Verb::OpenRefused,
        Verb::Close,
        Verb::Closed,
        Verb::Rejected,
        Verb::End,
        Verb::ScrubFailed,
    ];

    /// The verb as a frame's port.
    pub const fn port(self) -> PortId {
        PortId(self as u16 + 1)
    }

    /// The verb that a frame's port stands for.
    pub fn from_port(port: PortId) -> Option<Self> {
        Self::ALL.get(usize::from(port.0).checked_sub(1)?).copied()
    }
}

/// The most peers that a shard has in one session.
pub const ROUTES_MAX: usize = 255;

/// What a shard learns when a session opens: over which link it reaches which component.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Open<'a> {
    /// The composition, by its position in the application.
    pub composition: u16,
    routes: &'a [u8],
}

impl<'a> Open<'a> {
    /// Writes the payload of an [`Verb::Open`] frame into `into`, which is cleared first.
    pub fn encode(composition: u16, routes: impl Iterator<Item = (ComponentId, LinkId)>, into: &mut Vec<u8>) {
        into.clear();
        into.extend(composition.to_le_bytes());
        for (component, link) in routes {
            into.extend(component.0.to_le_bytes());
            into.extend(link.0.to_le_bytes());
        }
    }

    /// Reads the payload; `None` if it is malformed.
    pub fn decode(payload: &'a [u8]) -> Option<Self> {
        let (composition, routes) = payload.split_first_chunk::<2>()?;
        let sound = routes.len().is_multiple_of(4) && routes.len() / 4 <= ROUTES_MAX;
        sound.then_some(Self { composition: u16::from_le_bytes(*composition), routes })
    }

    /// The peers of the shard in this session and the links to them.
    pub fn routes(&self) -> impl Iterator<Item = (ComponentId, LinkId)> + 'a {
        self.routes.chunks_exact(4).map(|route| {
            let component = ComponentId(u16::from_le_bytes([route[0], route[1]]));
            (component, LinkId(u16::from_le_bytes([route[2], route[3]])))
        })
    }
}

/// Why a message was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The receiver does not have the session open, or not any more.
    #[error("the receiver has no such session open: it was never opened there, or it is closed")]
    Session,
    /// The receiver has no such input.
    #[error("the receiver has no such port: both sides must run the same manifest")]
    Port,
    /// The message is larger than the input takes.
    #[error("the message is larger than the receiver's port takes: raise the port's `max` in the manifest")]
    TooLarge,
    /// The session is not open over this link.
    #[error("the session is not bound to this link: a shard may send only to the partners of its session")]
    Link,
}

/// A message that was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The port that it was for.
    pub port: PortId,
    /// Why.
    pub why: Refused,
}

impl Rejection {
    /// The payload of a [`Verb::Rejected`] frame.
    pub fn encode(self) -> [u8; 4] {
        let [a, b] = self.port.0.to_le_bytes();
        [a, b, self.why as u8, 0]
    }

    /// Reads the payload; `None` if it is malformed.
    pub fn decode(payload: &[u8]) -> Option<Self> {
        let &[a, b, why, 0] = payload else { return None };
        let why =
            *[Refused::Session, Refused::Port, Refused::TooLarge, Refused::Link].get(usize::from(why))?;
        Some(Self { port: PortId(u16::from_le_bytes([a, b])), why })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_verb_has_a_port_of_its_own() {
        for verb in Verb::ALL {
            assert_eq!(Verb::from_port(verb.port()), Some(verb));
        }
        assert_eq!(Verb::from_port(PortId(0)), None);
        assert_eq!(Verb::from_port(PortId(9)), None);
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(composition: u16, routes in prop::collection::vec((0u16.., 0u16..), 0..=255)) {
            let routes: Vec<_> = routes.into_iter().map(|(c, l)| (ComponentId(c), LinkId(l))).collect();
            let mut bytes = Vec::new();
            Open::encode(composition, routes.iter().copied(), &mut bytes);
            let open = Open::decode(&bytes).unwrap();
            prop_assert_eq!(open.composition, composition);
            prop_assert_eq!(open.routes().collect::<Vec<_>>(), routes);
        }

        #[test]
        fn any_bytes_decode_to_something_or_nothing(bytes: Vec<u8>) {
            let _ = Open::decode(&bytes).map(|open| open.routes().count());
            let _ = Rejection::decode(&bytes).map(Rejection::encode);
        }
    }
}
