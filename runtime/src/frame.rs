//! Frames: the header that every message carries through a ring.
//!
//! ```text
//!  0        4      6      8               16
//!  +--------+------+------+---------------+-----------+--------------------+
//!  | length | port | flags|    session    | extension |  payload …         |
//!  +--------+------+------+---------------+-----------+--------------------+
//!   \____ the commit word ____/             0 to 16 bytes, as the flags say
//! ```
//!
//! The length counts header, extensions and payload, without the filling up to the next multiple of 16. It is never
//! zero in a frame, so the first 8 bytes are the commit word: zero means that there is no frame yet.

use crate::id::{PortId, SessionId};

/// Frames start at multiples of this, and the header has this size.
pub const FRAME_ALIGN: u64 = 16;
/// The size of the header.
pub const HEADER_BYTES: usize = 16;

/// What a frame is, as bits in its header.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Flags(pub u16);

impl Flags {
    /// A plain message in one frame.
    pub const NONE: Flags = Flags(0);
    /// Filling up to the ring's edge; carries nothing.
    pub const PADDING: Flags = Flags(1);
    /// More fragments of the same message follow.
    pub const MORE: Flags = Flags(1 << 1);
    /// An answer: the port is the input that the request went to.
    pub const REPLY: Flags = Flags(1 << 2);
    /// An extension of 8 bytes follows the header: the correlation of a call and its reply.
    pub const CALL: Flags = Flags(1 << 3);
    /// An extension of 8 bytes follows: when the frame was sent, in nanoseconds of the monotonic clock.
    pub const STAMP: Flags = Flags(1 << 4);
    /// For the link itself: the port is a verb of the session protocol, not a port of the component.
    pub const CONTROL: Flags = Flags(1 << 5);

    /// The bits that have a meaning. A frame with any other is refused.
    const KNOWN: u16 = 0b11_1111;

    /// Whether all bits of `other` are set.
    #[inline(always)]
    pub const fn has(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both.
    #[inline(always)]
    #[must_use]
    pub const fn with(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }

    /// These without those of `other`.
    #[inline(always)]
    #[must_use]
    pub const fn without(self, other: Flags) -> Flags {
        Flags(self.0 & !other.0)
    }

    /// Whether extensions stand between header and payload.
    #[inline(always)]
    pub(crate) const fn extended(self) -> bool {
        self.0 & (Self::CALL.0 | Self::STAMP.0) != 0
    }

    /// How many bytes of extensions stand between header and payload.
    #[inline(always)]
    pub const fn extension_bytes(self) -> usize {
        (self.has(Flags::CALL) as usize + self.has(Flags::STAMP) as usize) * 8
    }

    #[inline(always)]
    const fn known(self) -> bool {
        self.0 & !Self::KNOWN == 0
    }
}

/// The header's meaning, apart from the length.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// The port that the message is for.
    pub port: PortId,
    /// What it is.
    pub flags: Flags,
    /// The session that it belongs to.
    pub session: SessionId,
    /// The call that it makes or answers; in the frame only where [`Flags::CALL`] is set.
    pub call: u64,
    /// When it was sent; in the frame only where [`Flags::STAMP`] is set.
    pub stamp_ns: u64,
}

impl Header {
    /// A plain message of `session` for `port`.
    #[inline(always)]
    pub const fn new(session: SessionId, port: PortId) -> Self {
        Self { port, flags: Flags::NONE, session, call: 0, stamp_ns: 0 }
    }

    /// The same with more flags.
    #[inline(always)]
    #[must_use]
    pub const fn flagged(mut self, flags: Flags) -> Self {
        self.flags = self.flags.with(flags);
        self
    }
}

/// The commit word: length, port and flags in one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct CommitWord(pub(crate) u64);

impl CommitWord {
    #[inline(always)]
    pub(crate) const fn new(length: u32, port: PortId, flags: Flags) -> Self {
        Self(length as u64 | (port.0 as u64) << 32 | (flags.0 as u64) << 48)
    }

    #[inline(always)]
    pub(crate) const fn length(self) -> u64 {
        self.0 & 0xffff_ffff
    }

    #[inline(always)]
    pub(crate) const fn port(self) -> PortId {
        PortId((self.0 >> 32) as u16)
    }

    #[inline(always)]
    pub(crate) const fn flags(self) -> Flags {
        Flags((self.0 >> 48) as u16)
    }

    /// Whether the word may stand in a ring: known flags, a length that holds header and extensions and, but for
    /// padding, is at most `length_max`.
    #[inline(always)]
    pub(crate) const fn plausible(self, length_max: u64) -> bool {
        let least = (HEADER_BYTES + self.flags().extension_bytes()) as u64;
        let short = self.length() <= length_max || self.flags().has(Flags::PADDING);
        self.flags().known() && self.length() >= least && short
    }
}

/// How many bytes of a ring a frame of `length` takes.
#[inline(always)]
pub(crate) const fn extent(length: u64) -> u64 {
    (length + FRAME_ALIGN - 1) & !(FRAME_ALIGN - 1)
}
