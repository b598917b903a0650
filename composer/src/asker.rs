//! Asks for many sessions from one thread, as a backend with an event loop does.
//!
//! Invariant: each request has one answer, from [`Asker::next`], or it is withdrawn when the asker is dropped: a session
//! that comes of it after all ends at once.

use crate::composer::{ComposeError, Composer};
use crate::core::{CompositionId, RequestId};
use crate::session::Session;
use shard_runtime::clock;
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

/// Asks for many sessions from one thread. Made by [`Composer::asker`].
///
/// What is asked for together is handed in together: each shard that sleeps is woken once for all of it. Threads that call
/// [`Composer::compose`] at the same time wake the shards, and each other, once for each session.
///
/// ```no_run
/// # use std::time::Duration;
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let composer = shard_composer::Composer::start("arena.toml")?;
/// let mut asker = composer.asker();
/// for player in ["ann", "bob"] {
///     asker.ask("match", Duration::from_secs(1), player)?;
/// }
/// while let Some((player, answer)) = asker.next(Duration::from_secs(1)) {
///     println!("{player}: session {}", answer?.id());
/// }
/// # Ok(()) }
/// ```
pub struct Asker<T> {
    composer: Composer,
    /// Not handed in yet.
    asked: Vec<Asked<T>>,
    /// Handed in, and not answered.
    open: HashMap<RequestId, T>,
    /// Answered, and not yet taken.
    answered: VecDeque<(T, Result<Session, ComposeError>)>,
    /// When the last one was handed in.
    since_ns: u64,
}

struct Asked<T> {
    composition: CompositionId,
    deadline_ns: u64,
    tag: T,
}

impl<T> Asker<T> {
    pub(crate) fn new(composer: Composer) -> Self {
        Self { composer, asked: Vec::new(), open: HashMap::new(), answered: VecDeque::new(), since_ns: 0 }
    }

    /// Asks for a session, which may wait for shards up to `timeout` from now; with zero only warm ones will do. It is
    /// handed in with the next [`next`](Self::next), whose answer brings `tag` back.
    ///
    /// # Errors
    /// [`ComposeError::Unknown`], at once.
    pub fn ask(&mut self, composition: &str, timeout: Duration, tag: T) -> Result<(), ComposeError> {
        let composition = self.composer.composition(composition)?;
        let deadline_ns = clock::after(clock::now_ns(), timeout);
        self.asked.push(Asked { composition, deadline_ns, tag });
        Ok(())
    }

    /// How many requests have no answer that was taken.
    pub fn waiting(&self) -> usize {
        self.asked.len() + self.open.len() + self.answered.len()
    }

    /// Hands in what was asked for, and waits for the next answer: at most `timeout`, and not at all if nothing was asked
    /// for. `None` if none came. With a `timeout` of zero it looks once.
    ///
    /// It polls, giving the core away, for as long as warm shards need to answer; then it sleeps.
    pub fn next(&mut self, timeout: Duration) -> Option<(T, Result<Session, ComposeError>)> {
        if self.answered.is_empty() && (!self.asked.is_empty() || !self.open.is_empty()) {
            self.wait(timeout);
        }
        self.answered.pop_front()
    }

    /// Takes all answers that are there, after at least one has come or the time is up.
    fn wait(&mut self, timeout: Duration) {
        let inner = self.composer.inner();
        let now_ns = clock::now_ns();
        let until_ns = clock::after(now_ns, timeout);
        let mut hub = inner.lock();
        if !self.asked.is_empty() {
            self.since_ns = now_ns;
        }
        for Asked { composition, deadline_ns, tag } in self.asked.drain(..) {
            self.open.insert(hub.request(composition, deadline_ns), tag);
        }
        let open = &mut self.open;
        let answers = inner.wait_until(hub, self.since_ns, until_ns, |hub| {
            let late = clock::now_ns() >= until_ns;
            if late {
                // Whoever comes late for want of a core takes what came meanwhile.
                hub.poll();
            }
            let answers = hub.take_answers(|request| open.contains_key(&request));
            (late || !answers.is_empty()).then_some(answers)
        });
        for (request, answer) in answers {
            let tag = open.remove(&request).expect("it was found in there");
            self.answered.push_back((tag, self.composer.composed(answer)));
        }
    }
}

impl<T> Drop for Asker<T> {
    fn drop(&mut self) {
        if self.open.is_empty() {
            return;
        }
        let inner = self.composer.inner();
        let mut hub = inner.lock();
        for (request, _) in self.open.drain() {
            hub.withdraw(request);
        }
        inner.unlock(hub);
    }
}
