//! The sessions that are open in an end, and where each one's messages go.
//!
//! Invariant: a session is here from the moment its opening is acknowledged until its closing is; its routes name
//! links as they were when it was opened.

use shard_runtime::id::{LinkId, SessionId};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// "No link": the composition has no such component.
pub(crate) const NO_LINK: LinkId = LinkId(u16::MAX);

/// An open session.
#[derive(Debug)]
pub(crate) struct Open {
    /// The composition, by its position in the application.
    pub(crate) composition: u16,
    /// The links of the session's partners: only from these may its messages come.
    pub(crate) partners: Vec<LinkId>,
    /// For each destination of each output, in the manifest's order, the link to it, or [`NO_LINK`].
    pub(crate) destinations: Vec<LinkId>,
}

/// Session ids are given out by the composer, so nobody can choose them to collide: one multiplication will do.
#[derive(Default)]
pub struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0.rotate_left(26) ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// A map from sessions to what an author keeps for each.
pub type SessionMap<T> = HashMap<SessionId, T, BuildHasherDefault<IdHasher>>;

/// All open sessions of an end.
#[derive(Default)]
pub(crate) struct Sessions {
    slots: Vec<Option<Open>>,
    free: Vec<usize>,
    index: SessionMap<usize>,
    /// The session found last: a stream of messages is mostly of one session.
    last: Option<(SessionId, usize)>,
}

impl Sessions {
    pub(crate) fn len(&self) -> usize {
        self.index.len()
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = SessionId> + '_ {
        self.index.keys().copied()
    }

    #[inline(always)]
    pub(crate) fn get(&mut self, id: SessionId) -> Option<&Open> {
        let slot = match self.last {
            Some((last, slot)) if last == id => slot,
            _ => self.find(id)?,
        };
        self.slots[slot].as_ref()
    }

    #[inline(never)]
    fn find(&mut self, id: SessionId) -> Option<usize> {
        let slot = *self.index.get(&id)?;
        self.last = Some((id, slot));
        Some(slot)
    }

    pub(crate) fn insert(&mut self, id: SessionId, open: Open) {
        self.remove(id);
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.slots[slot] = Some(open);
        self.index.insert(id, slot);
    }

    pub(crate) fn remove(&mut self, id: SessionId) -> bool {
        self.last = None;
        let Some(slot) = self.index.remove(&id) else { return false };
        self.slots[slot] = None;
        self.free.push(slot);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(link: u16) -> Open {
        Open { composition: 0, partners: vec![LinkId(link)], destinations: vec![] }
    }

    #[test]
    fn a_closed_session_is_never_found_again_though_its_slot_is_reused() {
        let (a, b) = (SessionId::new(3, 1), SessionId::new(3, 2));
        let mut sessions = Sessions::default();
        sessions.insert(a, open(1));
        assert!(sessions.get(a).is_some());
        assert!(sessions.remove(a));
        sessions.insert(b, open(2));
        assert!(sessions.get(a).is_none());
        assert_eq!(sessions.get(b).unwrap().partners, [LinkId(2)]);
        assert!(!sessions.remove(a));
        assert_eq!(sessions.len(), 1);
    }
}
