//! Wakes a shard that sleeps when something comes from another host.
//!
//! A shard sleeps on one thing: its bell, in shared memory, which its peers on this host ring. Sockets and completion
//! channels can't ring it. So a thread waits for them in the shard's stead, and calls in.
//!
//! Invariant: the thread calls in at most once for each [`Watch::arm`], so a shard that is busy is left alone.

use rustix::event::{EventfdFlags, epoll, eventfd};
use shard_runtime::wake::Ringer;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

/// The thread waits and calls in: it needs next to no stack.
const STACK_BYTES: usize = 64 << 10;
const WATCHED: u64 = 0;
const END: u64 = 1;

/// See the head of this file.
pub(crate) struct Watch {
    epoll: Arc<OwnedFd>,
    watched: OwnedFd,
    end: OwnedFd,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Watches a descriptor for the owner of the bell.
    pub(crate) fn start(watched: OwnedFd, ringer: Ringer) -> io::Result<Self> {
        let epoll = Arc::new(epoll::create(epoll::CreateFlags::CLOEXEC)?);
        let end = eventfd(0, EventfdFlags::CLOEXEC)?;
        let data = epoll::EventData::new_u64;
        epoll::add(&epoll, &watched, data(WATCHED), epoll::EventFlags::ONESHOT)?;
        epoll::add(&epoll, &end, data(END), epoll::EventFlags::IN)?;
        let waits = Arc::clone(&epoll);
        let thread = thread::Builder::new().name("watch".into()).stack_size(STACK_BYTES);
        let thread = thread.spawn(move || wait(&waits, &ringer))?;
        Ok(Self { epoll, watched, end, thread: Some(thread) })
    }

    /// Calls in when something comes, once. What is there already counts.
    pub(crate) fn arm(&self) -> io::Result<()> {
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ONESHOT;
        epoll::modify(self.epoll.as_fd(), &self.watched, epoll::EventData::new_u64(WATCHED), flags)?;
        Ok(())
    }
}

fn wait(epoll: &OwnedFd, ringer: &Ringer) {
    let mut events = Vec::with_capacity(2);
    loop {
        events.clear();
        match epoll::wait(epoll, rustix::buffer::spare_capacity(&mut events), None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return,
        }
        for event in &events {
            match event.data.u64() {
                WATCHED => ringer.call_in(),
                _ => return,
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = rustix::io::write(&self.end, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
