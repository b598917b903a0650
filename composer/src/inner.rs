//! What the threads of a composer share.

use crate::core::{Effect, Event, Tier};
use crate::embed::Embed;
use crate::hub::{Hub, Slow};
use crate::said::said;
use shard_runtime::clock;
use shard_runtime::id::{ComponentId, ShardId};
use shard_runtime::stats::StatsReader;
use shard_runtime::wake::{SWEEP_NS, Sleeper};
use shardkit::application::Application;
use std::collections::{HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

/// How long an asking thread polls for the shards' acknowledgements before it sleeps.
const POLL_NS: u64 = 400_000;
/// How long of that it polls without giving the core away.
const SPIN_NS: u64 = 3_000;
/// A thread that sleeps looks again after so long, whatever happens.
const LOOK_AGAIN_NS: u64 = 50_000_000;
/// How often a polling thread tries to take the hub before it sleeps until it is free.
const AGAIN: u32 = 64;

/// Whoever gives the hub back has taken so many rounds of what came before, at the most.
const ROUNDS_MAX: usize = 64;

/// A shard's statistics page: mapped, and as a descriptor that can only be read.
pub(crate) struct Page {
    pub(crate) reader: Arc<StatsReader>,
    pub(crate) descriptor: OwnedFd,
}

/// How a shard came into being, and how long that took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// From what.
    pub tier: Tier,
    /// From the decision to have it until it was ready.
    pub took: Duration,
}

/// A process that shards are made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// What it is: [`Tier::Generic`] for a spare of a generic program, [`Tier::Zygote`] for a zygote.
    pub tier: Tier,
    /// The generic program's name, or the zygote's component.
    pub name: String,
    /// Its process; 0 until it is known.
    pub pid: u32,
    /// Whether it is ready to be used.
    pub waiting: bool,
}

/// So many of the last starts of a component are remembered.
pub const STARTS_MAX: usize = 256;

/// See the head of this file.
pub(crate) struct Inner {
    pub(crate) application: Arc<Application>,
    hub: Mutex<Hub>,
    news: Condvar,
    sleeper: Sleeper,
    pub(crate) embed: Option<Arc<Embed>>,
    pages: Mutex<HashMap<ShardId, Page>>,
    /// What the last shard of a component said that failed.
    faults: Mutex<HashMap<ComponentId, String>>,
    /// By component, the last ones.
    starts: Mutex<HashMap<ComponentId, VecDeque<Start>>>,
    sources: Mutex<Vec<Source>>,
    slow: crossbeam::channel::Sender<Slow>,
    waker: Arc<mio::Waker>,
}

impl Inner {
    pub(crate) fn new(
        application: Arc<Application>,
        hub: Hub,
        embed: Option<Arc<Embed>>,
        slow: crossbeam::channel::Sender<Slow>,
        waker: Arc<mio::Waker>,
    ) -> Self {
        Self {
            application,
            sleeper: hub.sleeper(),
            hub: Mutex::new(hub),
            news: Condvar::new(),
            embed,
            pages: Mutex::default(),
            faults: Mutex::default(),
            starts: Mutex::default(),
            sources: Mutex::default(),
            slow,
            waker,
        }
    }

    /// Takes the hub. Give it back with [`unlock`](Self::unlock) after anything that may have used its links.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Hub> {
        // No step below leaves the hub half changed, so a panic of another holder does no harm.
        self.hub.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the hub for a thread that polls. Others poll too, and hold it for a microsecond: to sleep until they let go
    /// of it, and to be woken, would take longer than all else.
    fn lock_again(&self) -> MutexGuard<'_, Hub> {
        for _ in 0..AGAIN {
            match self.hub.try_lock() {
                Ok(hub) => return hub,
                Err(TryLockError::Poisoned(poisoned)) => return poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => std::thread::yield_now(),
            }
        }
        self.lock()
    }

    /// Gives the hub back: arms its links, wakes the shards that were rung, and tells the waiters if there is news for
    /// them.
    pub(crate) fn unlock(&self, mut hub: MutexGuard<'_, Hub>) {
        // Whoever polls comes back at once: armed links would only wake the clerk for what is taken anyway.
        if hub.pollers == 0 {
            Self::settle(&mut hub);
        }
        let news = std::mem::take(&mut hub.news) && hub.waiters > 0;
        let sleepers = hub.take_sleepers();
        drop(hub);
        sleepers.into_iter().for_each(|mut sleepers| sleepers.wake());
        if news {
            self.news.notify_all();
        }
    }

    /// Arms the hub's links. A shard that never stops talking keeps nobody from the lock: what it still says the clerk
    /// takes, who comes at once.
    fn settle(hub: &mut Hub) {
        for _ in 0..ROUNDS_MAX {
            if hub.rest() {
                return;
            }
            hub.poll();
        }
        hub.ringer().call_in();
    }

    /// Wakes the shards that were rung. The hub is given back meanwhile, if there are any.
    fn wake_rung<'a>(&'a self, mut hub: MutexGuard<'a, Hub>) -> MutexGuard<'a, Hub> {
        while let Some(mut sleepers) = hub.take_sleepers() {
            drop(hub);
            sleepers.wake();
            hub = self.lock_again();
            hub.put_back(sleepers);
        }
        hub
    }

    /// Takes what the shards acknowledge until `done` has what it looks for, and gives the hub back. It polls for a while
    /// from `start_ns` on, then it sleeps; `done` is asked again by `until_ns` at the latest.
    pub(crate) fn wait_until<'a, T>(
        &'a self,
        mut hub: MutexGuard<'a, Hub>,
        start_ns: u64,
        until_ns: u64,
        mut done: impl FnMut(&mut Hub) -> Option<T>,
    ) -> T {
        hub.pollers += 1;
        loop {
            if let Some(found) = done(&mut hub) {
                hub.pollers -= 1;
                self.unlock(hub);
                return found;
            }
            hub = self.wait_a_moment(hub, start_ns, until_ns);
        }
    }

    /// Takes what the shards acknowledged; if nothing came, waits a moment: the longer since `start_ns`, the less of
    /// the core it takes.
    fn wait_a_moment<'a>(
        &'a self,
        hub: MutexGuard<'a, Hub>,
        start_ns: u64,
        until_ns: u64,
    ) -> MutexGuard<'a, Hub> {
        let mut hub = self.wake_rung(hub);
        if hub.poll() > 0 {
            return hub;
        }
        let now_ns = clock::now_ns();
        let waited_ns = now_ns - start_ns;
        if waited_ns < SPIN_NS {
            std::hint::spin_loop();
        } else if waited_ns < POLL_NS {
            // The shards may need this core, and other threads the hub.
            drop(hub);
            std::thread::yield_now();
            hub = self.lock_again();
        } else {
            let left_ns = until_ns.saturating_sub(now_ns).min(LOOK_AGAIN_NS);
            hub = self.wait_for_news(hub, Duration::from_nanos(left_ns));
        }
        hub
    }

    /// Gives the hub back, waits for news, at most `timeout`, and takes it again.
    fn wait_for_news<'a>(&'a self, mut hub: MutexGuard<'a, Hub>, timeout: Duration) -> MutexGuard<'a, Hub> {
        // The links are armed even if others poll: they may stop before this one's answer comes.
        Self::settle(&mut hub);
        if let Some(mut sleepers) = hub.take_sleepers() {
            drop(hub);
            sleepers.wake();
            // News that came meanwhile told those who waited already.
            return self.lock();
        }
        if std::mem::take(&mut hub.news) {
            // It may be for this waiter as well as for others.
            self.news.notify_all();
            return hub;
        }
        hub.waiters += 1;
        hub.pollers -= 1;
        let mut hub = self.news.wait_timeout(hub, timeout).unwrap_or_else(PoisonError::into_inner).0;
        hub.waiters -= 1;
        hub.pollers += 1;
        hub
    }

    /// The clerk's life: takes what the shards acknowledge while nobody waits for it.
    pub(crate) fn serve_acks(&self) {
        loop {
            let mut hub = self.lock();
            if hub.finished {
                return;
            }
            hub.poll();
            self.unlock(hub);
            self.sleeper.sleep(SWEEP_NS);
        }
    }

    /// The shell has ended: who still waits is answered and woken.
    pub(crate) fn finish(&self) {
        let mut hub = self.lock();
        if !hub.finished {
            tracing::error!("the composer's shell ended before its time; everything ends with it");
            hub.handle(Event::ShutDown);
            hub.finished = true;
        }
        hub.ringer().call_in();
        drop(hub);
        if let Some(embed) = &self.embed {
            embed.stop();
        }
        self.news.notify_all();
    }

    pub(crate) fn shut_down(&self) {
        // It fails only when the shell is gone: then everything has ended.
        let _ = self.slow.send(Slow::ShutDown);
        let _ = self.waker.wake();
    }

    pub(crate) fn pages(&self) -> MutexGuard<'_, HashMap<ShardId, Page>> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn note_fault(&self, shard: ShardId, fault: String) {
        let component = self.lock().core.shard(shard).map(|view| view.component);
        if let Some(component) = component {
            self.note_fault_of(component, fault);
        }
    }

    pub(crate) fn note_fault_of(&self, component: ComponentId, fault: String) {
        let fault = said(&fault);
        self.faults.lock().unwrap_or_else(PoisonError::into_inner).insert(component, fault);
    }

    pub(crate) fn note_start(&self, component: ComponentId, start: Start) {
        let mut starts = self.starts.lock().unwrap_or_else(PoisonError::into_inner);
        let starts = starts.entry(component).or_default();
        if starts.len() == STARTS_MAX {
            starts.pop_front();
        }
        starts.push_back(start);
    }

    pub(crate) fn starts(&self, component: ComponentId) -> Vec<Start> {
        let starts = self.starts.lock().unwrap_or_else(PoisonError::into_inner);
        starts.get(&component).map(|starts| starts.iter().copied().collect()).unwrap_or_default()
    }

    pub(crate) fn show_sources(&self, sources: Vec<Source>) {
        *self.sources.lock().unwrap_or_else(PoisonError::into_inner) = sources;
    }

    pub(crate) fn sources(&self) -> Vec<Source> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Has the shell do something that the core did not ask for.
    pub(crate) fn ask(&self, effect: Effect) {
        // It fails only when the shell is gone: then everything has ended.
        let _ = self.slow.send(Slow::Effect(effect));
        let _ = self.waker.wake();
    }

    pub(crate) fn fault(&self, component: ComponentId) -> Option<String> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner).get(&component).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{CompositionId, Refusal};
    use shard_runtime::wake::{Bell, create_bell};
    use shardkit::manifest::Manifest;

    #[test]
    fn whoever_waits_is_told_when_the_shell_ends_before_its_time() {
        let text = "[application]\nname = \"a\"\n[component.a]\nprogram = \"/bin/true\"\n";
        let application = Arc::new(Manifest::parse(text, "a.toml").unwrap().application().clone());
        let bell = Bell::map(&create_bell("test-hub").unwrap()).unwrap();
        let poll = mio::Poll::new().unwrap();
        let waker = Arc::new(mio::Waker::new(poll.registry(), mio::Token(0)).unwrap());
        let (slow, _effects) = crossbeam::channel::unbounded();
        let hub = Hub::new(Arc::clone(&application), bell, slow.clone(), Arc::clone(&waker), None, None);
        let inner = Inner::new(application, hub, None, slow, waker);
        inner.lock().handle(Event::Start);
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| {
                let mut hub = inner.lock();
                let request = hub.request(CompositionId(0), u64::MAX);
                let start_ns = clock::now_ns();
                let late_ns = start_ns + 10_000_000_000;
                inner.wait_until(hub, start_ns, late_ns, |hub| {
                    let answer = hub.take_answer(request);
                    (answer.is_some() || clock::now_ns() >= late_ns).then_some(answer)
                })
            });
            while inner.lock().waiters == 0 && !waits.is_finished() {
                std::thread::sleep(Duration::from_millis(1));
            }
            inner.finish();
            assert!(matches!(waits.join().unwrap(), Some(Err(Refusal::ShuttingDown))));
        });
        assert!(inner.lock().finished);
    }
}
