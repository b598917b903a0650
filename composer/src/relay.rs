//! What shards print, passed on to the streams of their composer.
//!
//! A shard prints into pipes of its own. If it had its composer's streams it could shut them, cut off the file behind them,
//! read what is typed into the terminal, or have them fail for the composer.
//!
//! Invariant: each stream arrives in order and whole, until its last writer is gone. Where nobody takes what arrives, those
//! who print wait, and nobody else.

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::{Errno, read, write};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::stdio::{stderr, stdout};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How much is passed on at once: what a pipe holds.
const BYTES: usize = 64 << 10;

/// See the head of this file.
pub(crate) struct Relay {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

struct Shared {
    /// The streams that the thread has not seen yet.
    new: Mutex<Vec<Stream>>,
    /// Readable if there are some, or the thread is to end when it has no streams left.
    call: OwnedFd,
    ending: AtomicBool,
}

struct Stream {
    from: OwnedFd,
    errors: bool,
}

impl Relay {
    /// Starts the thread that passes on.
    pub(crate) fn start() -> io::Result<Self> {
        let call = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let shared = Arc::new(Shared { new: Mutex::default(), call, ending: AtomicBool::new(false) });
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("relay".into()).spawn(move || pass_on(&theirs))?;
        Ok(Self { shared, thread })
    }

    /// New pipes for what a process prints (output, errors): the ends that it is to have.
    pub(crate) fn pipes(&self) -> io::Result<[OwnedFd; 2]> {
        let ([from, output], [from_errors, errors]) = (pipe()?, pipe()?);
        let mut new = self.shared.new.lock().unwrap_or_else(PoisonError::into_inner);
        new.push(Stream { from, errors: false });
        new.push(Stream { from: from_errors, errors: true });
        drop(new);
        self.shared.call();
        Ok([output, errors])
    }

    /// Ends it when the last writer is gone, at the latest after `within`.
    pub(crate) fn finish(self, within: Duration) {
        self.shared.ending.store(true, Ordering::Release);
        self.shared.call();
        let deadline = Instant::now() + within;
        while !self.thread.is_finished() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Shared {
    fn call(&self) {
        // It is full only if it is readable already.
        let _ = write(&self.call, &1_u64.to_ne_bytes());
    }
}

fn pipe() -> io::Result<[OwnedFd; 2]> {
    let (from, to) = pipe_with(PipeFlags::CLOEXEC)?;
    Ok([from, to])
}

/// The life of the thread.
fn pass_on(shared: &Shared) {
    let (mut streams, mut buffer) = (Vec::<Stream>::new(), vec![0; BYTES]);
    loop {
        let ready = {
            let mut fds = vec![PollFd::new(&shared.call, PollFlags::IN)];
            fds.extend(streams.iter().map(|stream| PollFd::new(&stream.from, PollFlags::IN)));
            // On an error nothing is ready, and it is asked again.
            let _ = poll(&mut fds, None);
            fds.iter().map(|fd| !fd.revents().is_empty()).collect::<Vec<_>>()
        };
        for at in (0..streams.len()).rev() {
            if ready[at + 1] && !streams[at].pass_on(&mut buffer) {
                streams.swap_remove(at);
            }
        }
        if ready[0] {
            let _ = read(&shared.call, &mut [0; 8]);
            streams.append(&mut shared.new.lock().unwrap_or_else(PoisonError::into_inner));
        }
        if streams.is_empty() && shared.ending.load(Ordering::Acquire) {
            return;
        }
    }
}

impl Stream {
    /// Passes on what is there. False if nothing comes any more.
    fn pass_on(&self, buffer: &mut [u8]) -> bool {
        match read(&self.from, &mut *buffer) {
            Ok(0) => false,
            Ok(bytes) => {
                let to = if self.errors { stderr() } else { stdout() };
                put(to, &buffer[..bytes]);
                true
            }
            Err(error) => error == Errno::INTR,
        }
    }
}

/// Writes all of it. What nobody takes any more is lost, as it is for any program.
fn put(to: BorrowedFd<'_>, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match write(to, bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::INTR) => {}
            // Others have the stream open, and have chosen not to wait.
            Err(Errno::AGAIN) => {
                let _ = poll(&mut [PollFd::new(&to.as_fd(), PollFlags::OUT)], None);
            }
            Err(_) => return,
        }
    }
}
