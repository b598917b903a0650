//! What is measured together: groups of pairs that take turns, round by round.

use crate::case::{Case, FANIN_LINKS, HOT_LINKS, Pattern, SIZES, Test};
use crate::peer::{LIMIT, Peer, Reference};

/// The payload of the fan-in and wake-up tests, in bytes.
const SMALL_BYTES: usize = 64;

/// Which part of everything is wanted; an empty list means all.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Names of peers; the limit is always measured.
    pub peers: Vec<String>,
    /// Patterns.
    pub patterns: Vec<Pattern>,
    /// Payload sizes of `rtt` and `stream`, in bytes.
    pub sizes: Vec<usize>,
}

fn wants<T: PartialEq>(list: &[T], item: &T) -> bool {
    list.is_empty() || list.contains(item)
}

/// One pair in a group.
#[derive(Clone, Copy)]
pub struct Entry<'a> {
    /// What is measured.
    pub peer: &'a dyn Peer,
    /// How.
    pub case: Case,
    /// Only here because others are divided by it; it has its row in another group.
    pub only_reference: bool,
}

impl Entry<'_> {
    /// Whether this is what another entry is divided by.
    pub fn is(&self, reference: &Reference) -> bool {
        self.peer.name() == reference.peer && self.case == reference.case
    }
}

/// The groups that the selection asks for, in the order of the tables.
pub fn groups<'a>(peers: &'a [Box<dyn Peer>], selection: &Selection) -> Vec<Vec<Entry<'a>>> {
    let cases = case_groups().into_iter().filter(|group| {
        let case = group[0];
        let sized = matches!(case.test, Test::RoundTrip | Test::Stream);
        wants(&selection.patterns, &case.test.pattern()) && (!sized || wants(&selection.sizes, &case.bytes))
    });
    let groups = cases.map(|cases| group(peers, selection, &cases));
    groups.filter(|group| !group.is_empty()).collect()
}

/// Cases that are measured side by side.
fn case_groups() -> Vec<Vec<Case>> {
    let small = |test, links| Case { test, bytes: SMALL_BYTES, links };
    let mut groups = Vec::new();
    groups.extend(SIZES.map(|bytes| vec![Case::new(Test::RoundTrip, bytes)]));
    groups.extend(SIZES.map(|bytes| vec![Case::new(Test::Stream, bytes)]));
    for test in [Test::IdlePoll, Test::FanInRoundTrip] {
        groups.extend(FANIN_LINKS.map(|links| vec![small(test, 1), small(test, links)]));
    }
    groups.push(vec![small(Test::HotLink, 1), small(Test::HotLink, HOT_LINKS)]);
    groups.push(vec![small(Test::WakeUp, 1)]);
    groups.push(vec![small(Test::AskParked, 1)]);
    groups
}

fn group<'a>(peers: &'a [Box<dyn Peer>], selection: &Selection, cases: &[Case]) -> Vec<Entry<'a>> {
    let mut entries: Vec<Entry<'a>> = Vec::new();
    for peer in
        peers.iter().filter(|peer| peer.name() == LIMIT || wants(&selection.peers, &peer.name().to_owned()))
    {
        for case in cases.iter().filter(|case| peer.takes(case)) {
            // A single link of the fan-in tests is the limit's own case, and what one hot link is held against.
            let single = cases.len() > 1 && case.links == 1;
            let wanted = !single || peer.name() == LIMIT || case.test == Test::HotLink;
            if wanted {
                entries.push(Entry { peer: peer.as_ref(), case: *case, only_reference: false });
            }
        }
    }
    add_references(peers, &mut entries);
    entries
}

/// Every entry's reference has to run in the same rounds.
fn add_references<'a>(peers: &'a [Box<dyn Peer>], entries: &mut Vec<Entry<'a>>) {
    for reference in entries.iter().map(|entry| entry.peer.reference(&entry.case)).collect::<Vec<_>>() {
        if !entries.iter().any(|entry| entry.is(&reference)) {
            let peer =
                peers.iter().find(|peer| peer.name() == reference.peer).expect("a reference is a peer");
            entries.insert(0, Entry { peer: peer.as_ref(), case: reference.case, only_reference: true });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers;

    #[test]
    fn every_entry_runs_beside_what_it_is_divided_by() {
        let peers = peers::all();
        for group in groups(&peers, &Selection::default()) {
            for entry in &group {
                let reference = entry.peer.reference(&entry.case);
                assert!(
                    group.iter().any(|other| other.is(&reference)),
                    "{} in {}",
                    entry.peer.name(),
                    entry.case
                );
            }
        }
    }

    #[test]
    fn a_selection_leaves_out_what_it_does_not_name_but_never_the_limit() {
        let peers = peers::all();
        let selection =
            Selection { peers: vec!["rtrb".into()], patterns: vec![Pattern::Rtt], sizes: vec![1_024] };
        let groups = groups(&peers, &selection);
        let names: Vec<_> = groups.iter().flatten().map(|entry| entry.peer.name()).collect();
        assert_eq!(names, ["limit", "rtrb"]);
    }
}
