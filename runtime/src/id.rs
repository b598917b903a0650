//! Names of things that cross process boundaries, as newtypes: a bare integer never stands for one of them.

use core::fmt;
use serde::{Deserialize, Serialize};

/// A session: one user's run of the application.
///
/// An index into the composer's session table and the generation of that slot, so an id is never reused while
/// anyone may still hold it. Generation 0 is never given out: [`SessionId::NONE`] stands for "no session".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct SessionId(u64);

impl SessionId {
    /// No session: the tag of frames that belong to the links themselves.
    pub const NONE: SessionId = SessionId(0);

    /// The session in slot `index`, incarnation `generation`.
    pub const fn new(index: u32, generation: u32) -> Self {
        Self((generation as u64) << 32 | index as u64)
    }

    /// The slot in the session table.
    pub const fn index(self) -> u32 {
        self.0 as u32
    }

    /// The incarnation of the slot; 0 only in [`SessionId::NONE`].
    pub const fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// The id as it stands in a frame's header.
    pub const fn to_bits(self) -> u64 {
        self.0
    }

    /// The id that a frame's header carries. Any bits are an id; whether it is open is for the receiver to check.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// Whether this is [`SessionId::NONE`].
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.index(), self.generation())
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "session {self}")
    }
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $int:ty, $word:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub $int);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($word, " {}"), self.0)
            }
        }
    };
}

id!(
    /// A shard: one running instance of a component. Never reused within one composer's life.
    ShardId, u32, "shard"
);
id!(
    /// A component: its position in the application's list of components.
    ComponentId, u16, "component"
);
id!(
    /// A link of one shard: its slot in that shard's table of links, the same slot for both directions of a pair.
    LinkId, u16, "link"
);
id!(
    /// A port of a component: its position in the component's list of inputs or of outputs.
    PortId, u16, "port"
);
