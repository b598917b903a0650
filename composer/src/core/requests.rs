//! The requests that wait: in order of arrival, each until its deadline.
//!
//! Invariant: a request that waits is in the queue of its composition, or has a session that is being wired; it
//! leaves the table when it is answered or its session is opened.

use super::WAITING_MAX;
use super::event::RequestId;
use super::list::{Linked, Links, List};
use std::collections::BTreeSet;

/// What was asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ask {
    pub(super) request: RequestId,
    pub(super) composition: u16,
    pub(super) arrived_ns: u64,
    pub(super) deadline_ns: u64,
    /// The order of arrival; 0 before it is known.
    pub(super) number: u64,
    /// How often a session was opened for it in vain.
    pub(super) opened_in_vain: u8,
}

#[derive(Debug)]
pub(super) struct Request {
    pub(super) ask: Ask,
    /// The session that is being wired for it.
    pub(super) session: Option<u32>,
    failed_tries: u8,
    links: Links,
}

impl Linked for Request {
    fn links(&self) -> &Links {
        &self.links
    }
    fn links_mut(&mut self) -> &mut Links {
        &mut self.links
    }
}

/// All requests that wait.
#[derive(Debug)]
pub(super) struct Requests {
    pub(super) table: Vec<Request>,
    /// By composition.
    pub(super) queues: Vec<List>,
    pub(super) deadlines: BTreeSet<(u64, u32)>,
    free: Vec<u32>,
    /// How many are in the queues.
    pub(super) queued: usize,
    next_number: u64,
}

impl Requests {
    pub(super) fn new(compositions: usize) -> Self {
        Self {
            table: Vec::new(),
            queues: vec![List::EMPTY; compositions],
            deadlines: BTreeSet::new(),
            free: Vec::new(),
            queued: 0,
            next_number: 0,
        }
    }

    /// How many wait, in a queue or for wires.
    pub(super) fn count(&self) -> usize {
        self.deadlines.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.count() >= WAITING_MAX
    }

    /// The next place in the order of arrival.
    pub(super) fn next_number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    /// A request, where it belongs in its queue: behind those that came before.
    pub(super) fn add(&mut self, ask: Ask) -> u32 {
        let at = self.free.pop().unwrap_or(self.table.len() as u32);
        let request = Request { ask, session: None, failed_tries: 0, links: Links::ALONE };
        match self.table.get_mut(at as usize) {
            Some(old) => *old = request,
            None => self.table.push(request),
        }
        self.deadlines.insert((ask.deadline_ns, at));
        self.queue(at);
        at
    }

    fn queue(&mut self, at: u32) {
        let Ask { number, composition, .. } = self.table[at as usize].ask;
        let queue = &mut self.queues[usize::from(composition)];
        if queue.last().is_none_or(|last| self.table[last as usize].ask.number < number) {
            queue.push_last(&mut self.table, at);
        } else {
            queue.insert(&mut self.table, at, |other| other.ask.number > number);
        }
        self.queued += 1;
    }

    /// Takes a request out of its queue: its shards are chosen, and are being wired.
    pub(super) fn leave_queue(&mut self, at: u32, session: u32) {
        self.unqueue(at);
        self.table[at as usize].session = Some(session);
    }

    /// Puts a request back where it was in the queue: before those that came later.
    pub(super) fn back_to_queue(&mut self, at: u32) {
        self.table[at as usize].session = None;
        self.queue(at);
    }

    /// Forgets a request: it was answered, or its session is being opened.
    pub(super) fn remove(&mut self, at: u32) {
        if self.table[at as usize].session.is_none() {
            self.unqueue(at);
        }
        let deadline_ns = self.table[at as usize].ask.deadline_ns;
        self.deadlines.remove(&(deadline_ns, at));
        self.free.push(at);
    }

    pub(super) fn count_failed_try(&mut self, at: u32) -> u8 {
        let request = &mut self.table[at as usize];
        request.failed_tries += 1;
        request.failed_tries
    }

    /// The request that has waited longest for a composition, and its number in the order of arrival.
    pub(super) fn head(&self, composition: usize) -> Option<(u64, u32)> {
        let at = self.queues[composition].first()?;
        Some((self.table[at as usize].ask.number, at))
    }

    fn unqueue(&mut self, at: u32) {
        let composition = self.table[at as usize].ask.composition;
        self.queues[usize::from(composition)].remove(&mut self.table, at);
        self.queued -= 1;
    }
}
