//! How many messages may be under way to the peer: it has a receive request waiting for each.
//!
//! ```text
//!   requests at the peer:   FRAMES_MAX for frames │ 1 for an ask │ 1 for room │ 2 for grants
//! ```
//!
//! The receiver grants what it took: along with what it sends, a few at a time, and once it owes [`GRANT`], in a message for
//! that alone. For this there is always a request: an end that can send nothing has taken little that it had to grant for, or
//! its peer owes it grants and can send them.
//!
//! Invariant: `under_way` never exceeds the requests that the peer has posted: it is never found not ready.

/// So many frames, or runs of frames, may be under way.
pub(crate) const FRAMES_MAX: u32 = 12;
/// So many are granted along with frames …
const GRANT_ALONG: u32 = FRAMES_MAX / 4;
/// … and so many at the latest.
const GRANT: u32 = FRAMES_MAX / 2;
/// So many receive requests are posted.
pub(crate) const RECEIVES: u32 = FRAMES_MAX + 4;

/// What a message is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    Frames,
    Ask,
    Room,
    Grant,
}

/// Both directions of one queue pair.
#[derive(Debug, Default)]
pub(crate) struct Window {
    under_way: u32,
    taken: u32,
}

impl Window {
    /// Whether a message may be sent now.
    pub(crate) fn allows(&self, what: Use) -> bool {
        let most = match what {
            Use::Frames => FRAMES_MAX,
            Use::Ask => FRAMES_MAX + 1,
            Use::Room => FRAMES_MAX + 2,
            Use::Grant => RECEIVES,
        };
        self.under_way < most
    }

    /// A message is sent. Returns how many it grants.
    #[must_use]
    pub(crate) fn sent(&mut self) -> u32 {
        self.under_way += 1;
        if self.taken < GRANT_ALONG { 0 } else { std::mem::take(&mut self.taken) }
    }

    /// A message of the peer's was taken. False if the peer grants what it can't have taken.
    #[must_use]
    pub(crate) fn took(&mut self, grants: u32) -> bool {
        self.taken += 1;
        match self.under_way.checked_sub(grants) {
            Some(under_way) => self.under_way = under_way,
            None => return false,
        }
        true
    }

    /// Whether a grant is due.
    pub(crate) fn owes(&self) -> bool {
        self.taken >= GRANT
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    /// One end, and what is on its way to it.
    #[derive(Default)]
    struct End {
        window: Window,
        /// For each message, whether it is frames, and what it grants.
        inbox: VecDeque<(bool, u32)>,
        frames: u32,
        to_send: u32,
    }

    /// An end does what it can: takes up to `most`, then sends, frames first.
    fn work(ends: &mut [End; 2], at: usize, most: usize) -> bool {
        let mut did = false;
        for _ in 0..most {
            let Some((frames, grants)) = ends[at].inbox.pop_front() else { break };
            assert!(ends[at].window.took(grants));
            ends[at].frames += u32::from(frames);
            did = true;
        }
        loop {
            let end = &mut ends[at];
            let frames = end.to_send > 0 && end.window.allows(Use::Frames);
            let grant = end.window.owes() && end.window.allows(Use::Grant);
            if !frames && !grant {
                return did;
            }
            end.to_send -= u32::from(frames);
            let grants = end.window.sent();
            let peer = &mut ends[1 - at].inbox;
            peer.push_back((frames, grants));
            assert!(peer.len() as u32 <= RECEIVES, "the peer was found not ready");
            did = true;
        }
    }

    proptest! {
        #[test]
        fn whatever_the_order_all_frames_arrive_and_no_end_is_found_not_ready(
            to_send in prop::array::uniform2(0u32..500),
            steps in prop::collection::vec((0usize..2, 0usize..RECEIVES as usize + 1), 0..400),
        ) {
            let mut ends = [End::default(), End::default()];
            for (end, to_send) in ends.iter_mut().zip(to_send) {
                end.to_send = to_send;
            }
            for (at, most) in steps {
                work(&mut ends, at, most);
            }
            while work(&mut ends, 0, usize::MAX) | work(&mut ends, 1, usize::MAX) {}
            prop_assert_eq!([ends[1].frames, ends[0].frames], to_send);
        }
    }

    #[test]
    fn a_grant_of_what_was_not_sent_is_noticed() {
        assert!(!Window::default().took(1));
    }
}
