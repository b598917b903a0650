//! The far end: a process of its own, or a thread, that does what its control socket says until that closes.

use crate::case::{Case, Test};
use crate::control::{Answer, Control, Order};
use crate::cores;
use crate::error::{Error, Result};
use crate::peer::{End, FarThread, Handed};
use crate::peers;
use rustix::process::Signal;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The hidden subcommand under which this program runs as a far end.
pub const SUBCOMMAND: &str = "far-end";
/// How long a far process may take to end when its socket is closed, in milliseconds.
const END_MS: u64 = 500;

/// A running far end; ends when this is dropped.
pub enum Far {
    /// A process.
    Process(Child),
    /// A thread, until it is joined.
    Thread(Option<JoinHandle<()>>),
}

impl Far {
    /// Starts this program again, on `core`, with `socket` as its standard input.
    pub fn spawn_process(core: usize, socket: OwnedFd) -> Result<Self> {
        let mut command = Command::new("/proc/self/exe");
        command.arg(SUBCOMMAND).arg(core.to_string()).stdin(Stdio::from(socket));
        command.spawn().map(Far::Process).map_err(Error::system("starting /proc/self/exe"))
    }

    /// Starts a thread on `core`.
    pub fn spawn_thread(core: usize, socket: OwnedFd, case: Case, open: FarThread) -> Self {
        Far::Thread(Some(std::thread::spawn(move || {
            let control = Control::new(socket);
            report(&control, || {
                cores::pin(core)?;
                let mut end = open()?;
                serve(&control, &case, end.as_mut())
            });
        })))
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        match self {
            Far::Process(child) => end_process(child),
            // Its patience is bounded, so this returns. A panic in it was reported when the socket closed.
            Far::Thread(thread) => drop(thread.take().map(JoinHandle::join)),
        }
    }
}

/// Its socket is closed: gives it a moment to remove what it has on disk, then kills it.
fn end_process(child: &mut Child) {
    let deadline = Instant::now() + Duration::from_millis(END_MS);
    while Instant::now() < deadline {
        if matches!(child.try_wait(), Ok(Some(_)) | Err(_)) {
            return;
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    // Both fail only if it is gone already.
    let _ = child.kill();
    let _ = child.wait();
}

/// The life of a far process: the control socket is its standard input.
pub fn process_main(core: usize) -> Result<()> {
    // Ends with its parent even while it polls; if that is gone already, the socket says so.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).map_err(Error::system("prctl"))?;
    let socket = std::io::stdin().as_fd().try_clone_to_owned().map_err(Error::system("dup"))?;
    let control = Control::new(socket);
    report(&control, || {
        cores::pin(core)?;
        let Some((Order::Join { peer, case, argument }, descriptors)) = control.receive()? else {
            return Ok(());
        };
        let known = peers::all();
        let peer = known.iter().find(|known| known.name() == peer);
        let peer = peer.ok_or_else(|| Error::Control("a peer that this program does not know".into()))?;
        let mut end = peer.join(&case, Handed { descriptors, argument })?;
        serve(&control, &case, end.as_mut())
    });
    Ok(())
}

/// Tells the harness if the work failed. If it is gone, nobody is left to tell.
fn report(control: &Control, work: impl FnOnce() -> Result<()>) {
    if let Err(error) = work() {
        let _ = control.send(&Answer::Failed(error.to_string()), &[]);
    }
}

/// Takes part in round after round until the socket closes.
fn serve(control: &Control, case: &Case, end: &mut dyn End) -> Result<()> {
    control.send(&Answer::Ready, &[])?;
    while let Some((order, _)) = control.receive()? {
        let Order::Round { count } = order else {
            return Err(Error::Control("joined twice".into()));
        };
        control.send(&Answer::Ready, &[])?;
        let start = Instant::now();
        match case.test {
            Test::RoundTrip | Test::FanInRoundTrip | Test::WakeUp => end.echo(count)?,
            Test::Stream | Test::HotLink | Test::AskParked => end.receive_all(count)?,
            Test::IdlePoll => end.idle_polls(count)?,
        }
        control.send(&Answer::Done { elapsed_ns: start.elapsed().as_nanos() as u64 }, &[])?;
    }
    Ok(())
}
