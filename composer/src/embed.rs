//! The embedder's end: the program that holds the composer talks to its shards through the same rings as they do.
//!
//! Messages that come are filed by session; whoever holds the session takes them. The polling is done by the thread
//! that wants something, on its own time; when nobody does, the mail clerk's thread sleeps on the bell and files
//! what comes.
//!
//! Invariant: whoever gives the lock back has armed the links. The lock is never held while anyone sleeps. A link that
//! breaks wakes the shell.

use crate::hub::Ending;
use shard_runtime::clock;
use shard_runtime::id::{ComponentId, LinkId, SessionId, ShardId};
use shard_runtime::inbox::{Inbound, WaitStrategy};
use shard_runtime::outbox::Outbound;
use shard_runtime::ring::RingError;
use shard_runtime::wake::{Bell, SWEEP_NS, Sleeper};
use shardkit::application::Component;
use shardkit::{
    CallId, Config, Context, Endpoint, In, Message, Out, Rejected, Result, SendError, SessionMap, Shard, Wire,
};
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

/// How many messages may wait for the holder of one session. While so many wait, the embedder takes nothing more:
/// back-pressure for the shards, until they are taken.
pub const MAIL_MAX: usize = 65_536;

/// How long to wait before looking again whether a full box was read.
const FULL_WAIT_NS: u64 = 1_000_000;
/// The mail clerk gives the lock back after so many rounds that brought something.
const ROUNDS_MAX: usize = 64;
/// So many rounds a spinning receiver makes before it offers the lock to others.
const SPIN_ROUNDS: u32 = 256;
/// How long a receiver polls before it leaves the waiting to the clerk.
const POLL_NS: u64 = 50_000;

/// A message that came for a session of the embedding program.
#[derive(Debug)]
pub struct Mail {
    message: shardkit::OwnedMessage,
}

impl Mail {
    /// The message, for [`In::read`] and [`Out::answer`].
    pub fn message(&self) -> Message<'_> {
        self.message.as_message()
    }
}

/// What can come instead of a message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReceiveError {
    /// Nothing came in time.
    #[error("nothing came within the time given")]
    Timeout,
    /// A message that this program sent was refused.
    #[error("a message was refused: {}", .0.why)]
    Rejected(Rejected),
    /// The session is over.
    #[error(transparent)]
    Over(#[from] Ending),
}

#[derive(Default)]
struct Pigeonhole {
    mail: VecDeque<Mail>,
    rejected: VecDeque<Rejected>,
    over: Option<Ending>,
    /// When the embedding program last sent something, or took something.
    used_ns: u64,
    /// How long it may not.
    idle_ns: Option<u64>,
}

/// What the endpoint hands messages to: one box for each session.
#[derive(Default)]
struct Boxes {
    boxes: SessionMap<Pigeonhole>,
    filed: bool,
    full: bool,
}

impl Shard for Boxes {
    fn on_message(&mut self, message: Message<'_>, _: &mut Context<'_>) -> Result<()> {
        if let Some(to) = self.boxes.get_mut(&message.session()) {
            to.mail.push_back(Mail { message: message.to_owned() });
            self.full |= to.mail.len() >= MAIL_MAX;
            self.filed = true;
        }
        Ok(())
    }

    fn on_rejected(&mut self, rejected: Rejected, _: &mut Context<'_>) {
        if let Some(to) = self.boxes.get_mut(&rejected.session) {
            to.rejected.push_back(rejected);
            self.filed = true;
        }
    }
}

struct State {
    endpoint: Endpoint,
    boxes: Boxes,
    broken: Vec<(LinkId, RingError)>,
    shell: Arc<mio::Waker>,
    /// How many threads sleep until something is filed.
    waiters: usize,
    stop: bool,
}

/// See the head of this file.
pub(crate) struct Embed {
    state: Mutex<State>,
    sleeper: Sleeper,
    filed: Condvar,
    config: Config,
}

impl Embed {
    pub(crate) fn new(component: Component, bell: Bell, shell: Arc<mio::Waker>) -> Self {
        let config = Config::of_embedder(component.clone());
        let endpoint = Endpoint::new(ShardId(u32::MAX), component, bell, None);
        let sleeper = endpoint.sleeper();
        let (boxes, broken) = (Boxes::default(), Vec::new());
        let state = State { endpoint, boxes, broken, shell, waiters: 0, stop: false };
        Self { state: Mutex::new(state), sleeper, filed: Condvar::new(), config }
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere while the lock was held leaves the state whole: every step below is.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(crate) fn attach(&self, link: LinkId, component: ComponentId, inbound: Inbound, outbound: Outbound) {
        let mut state = self.lock();
        state.endpoint.attach(link, Some(component), inbound, outbound);
        state.rest();
    }

    pub(crate) fn detach(&self, link: LinkId) {
        self.lock().endpoint.detach(link);
    }

    pub(crate) fn open(
        &self,
        session: SessionId,
        composition: u16,
        routes: Vec<(ComponentId, LinkId)>,
        idle_ns: Option<u64>,
    ) {
        let mut state = self.lock();
        state.endpoint.open(session, composition, routes.iter().copied());
        let used_ns = if idle_ns.is_some() { clock::now_ns() } else { 0 };
        state.boxes.boxes.insert(session, Pigeonhole { used_ns, idle_ns, ..Pigeonhole::default() });
    }

    /// The sessions that were not used for as long as they may be.
    pub(crate) fn idle(&self) -> Vec<SessionId> {
        let (state, now_ns) = (self.lock(), clock::now_ns());
        let late = |of: &Pigeonhole| {
            of.over.is_none() && of.idle_ns.is_some_and(|idle| now_ns.saturating_sub(of.used_ns) >= idle)
        };
        state.boxes.boxes.iter().filter(|(_, of)| late(of)).map(|(id, _)| *id).collect()
    }

    pub(crate) fn close(&self, session: SessionId) {
        let mut state = self.lock();
        state.endpoint.close(session);
        state.boxes.boxes.remove(&session);
        self.notify(state);
    }

    /// Gives the lock back and wakes whoever waits for mail.
    fn notify(&self, state: MutexGuard<'_, State>) {
        let waiters = state.waiters;
        drop(state);
        if waiters > 0 {
            self.filed.notify_all();
        }
    }

    pub(crate) fn end(&self, session: SessionId, ending: &Ending) {
        let mut state = self.lock();
        if let Some(of) = state.boxes.boxes.get_mut(&session) {
            of.over = Some(ending.clone());
        }
        self.notify(state);
    }

    /// Links that broke since this was last asked.
    pub(crate) fn take_broken(&self) -> Vec<(LinkId, RingError)> {
        std::mem::take(&mut self.lock().broken)
    }

    /// How many messages were refused since this was last asked, by the link on which they came.
    pub(crate) fn take_refused(&self) -> Vec<(LinkId, u64)> {
        self.lock().endpoint.take_refused()
    }

    pub(crate) fn send<T: Wire, R: Wire>(
        &self,
        port: &Out<T, R>,
        session: SessionId,
        value: &T,
    ) -> Result<(), SendError> {
        let mut state = self.lock();
        state.use_session(session);
        let sent = state.endpoint.context().send(port, session, value);
        state.endpoint.context().flush();
        sent
    }

    pub(crate) fn call<T: Wire, R: Wire>(
        &self,
        port: &Out<T, R>,
        session: SessionId,
        value: &T,
    ) -> Result<CallId, SendError> {
        let mut state = self.lock();
        state.use_session(session);
        let call = state.endpoint.context().call(port, session, value);
        state.endpoint.context().flush();
        call
    }

    pub(crate) fn answer<T: Wire, R: Wire>(
        &self,
        port: &In<T, R>,
        mail: &Mail,
        value: &R,
    ) -> Result<(), SendError> {
        let mut state = self.lock();
        state.use_session(mail.message().session());
        let sent = state.endpoint.context().answer(port, &mail.message(), value);
        state.endpoint.context().flush();
        sent
    }

    /// The next message of a session, waiting for it up to `timeout`.
    pub(crate) fn receive(&self, session: SessionId, timeout: Duration) -> Result<Mail, ReceiveError> {
        let start_ns = clock::now_ns();
        let end_ns = clock::after(start_ns, timeout);
        let poll_until_ns = end_ns.min(start_ns + POLL_NS);
        let mut state = self.lock();
        loop {
            let taken = state.poll();
            if let Some(result) = state.take(session) {
                state.rest();
                return result;
            }
            let now_ns = clock::now_ns();
            if now_ns >= end_ns {
                state.rest();
                return Err(ReceiveError::Timeout);
            }
            if taken > 0 || now_ns < poll_until_ns {
                // The shard may need this core, and other holders the lock.
                state.rest();
                drop(state);
                std::thread::yield_now();
                state = self.lock();
                continue;
            }
            let mut wait_ns = (end_ns - now_ns).min(SWEEP_NS);
            if !state.rest() {
                // Something is there that can't be taken now: a box is full, and its holder needs the lock.
                wait_ns = wait_ns.min(FULL_WAIT_NS);
            }
            state.waiters += 1;
            let woken = self.filed.wait_timeout(state, Duration::from_nanos(wait_ns));
            state = woken.unwrap_or_else(std::sync::PoisonError::into_inner).0;
            state.waiters -= 1;
        }
    }

    /// Polls for messages of a session without giving the core away, up to `timeout`: for programs with a core to
    /// spare that count nanoseconds.
    pub(crate) fn receive_spinning(
        &self,
        session: SessionId,
        timeout: Duration,
    ) -> Result<Mail, ReceiveError> {
        let end_ns = clock::after(clock::now_ns(), timeout);
        loop {
            let mut state = self.lock();
            for _ in 0..SPIN_ROUNDS {
                state.poll();
                if let Some(result) = state.take(session) {
                    state.rest();
                    return result;
                }
                state.endpoint.wait(WaitStrategy::Spin, None);
            }
            // Others get their turn with the lock; the links stay polled, because this thread comes back at once.
            if clock::now_ns() >= end_ns {
                state.rest();
                return Err(ReceiveError::Timeout);
            }
        }
    }

    /// What is there for a session already.
    pub(crate) fn try_receive(&self, session: SessionId) -> Option<Result<Mail, ReceiveError>> {
        let mut state = self.lock();
        let mut result = state.take(session);
        if result.is_none() && state.poll() > 0 {
            result = state.take(session);
        }
        state.rest();
        result
    }

    /// The mail clerk's life: files what comes while nobody else looks. Ends when [`stop`](Self::stop) is called.
    pub(crate) fn serve(&self) {
        loop {
            let mut state = self.lock();
            if state.stop {
                return;
            }
            // A peer that never stops sending must not keep the others from the lock.
            for _ in 0..ROUNDS_MAX {
                if state.poll() == 0 {
                    break;
                }
            }
            let filed = std::mem::take(&mut state.boxes.filed);
            let asleep = state.rest();
            let full = state.boxes.full;
            if filed {
                self.notify(state);
            } else {
                drop(state);
            }
            if asleep {
                self.sleeper.sleep(SWEEP_NS);
            } else if full {
                // What is there can't be taken before a holder has read.
                std::thread::sleep(Duration::from_nanos(FULL_WAIT_NS));
            } else {
                std::thread::yield_now();
            }
        }
    }

    pub(crate) fn stop(&self) {
        let mut state = self.lock();
        state.stop = true;
        state.endpoint.ringer().call_in();
    }
}

impl Pigeonhole {
    /// The clock is read only for a session that may become idle.
    fn touch(&mut self) {
        if self.idle_ns.is_some() {
            self.used_ns = clock::now_ns();
        }
    }
}

impl State {
    fn use_session(&mut self, session: SessionId) {
        if let Some(of) = self.boxes.boxes.get_mut(&session) {
            of.touch();
        }
    }

    fn poll(&mut self) -> usize {
        if self.boxes.full {
            // A box is full: nothing more is taken until its holder has read.
            self.boxes.full = self.boxes.boxes.values().any(|of| of.mail.len() >= MAIL_MAX);
            if self.boxes.full {
                return 0;
            }
        }
        let taken = self.endpoint.poll(&mut self.boxes);
        while let Some(broken) = self.endpoint.take_broken() {
            self.broken.push(broken);
            // It fails only when the shell is gone: then everything has ended.
            let _ = self.shell.wake();
        }
        taken
    }

    fn take(&mut self, session: SessionId) -> Option<Result<Mail, ReceiveError>> {
        let Some(of) = self.boxes.boxes.get_mut(&session) else {
            return Some(Err(ReceiveError::Over(Ending::ByUser)));
        };
        if let Some(mail) = of.mail.pop_front() {
            of.touch();
            return Some(Ok(mail));
        }
        if let Some(rejected) = of.rejected.pop_front() {
            return Some(Err(ReceiveError::Rejected(rejected)));
        }
        of.over.clone().map(|ending| Err(ReceiveError::Over(ending)))
    }

    /// Arms the links. False if something came meanwhile.
    fn rest(&mut self) -> bool {
        self.endpoint.prepare_to_park()
    }
}
