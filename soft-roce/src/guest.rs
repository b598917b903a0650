//! One guest: a QEMU process, the programs that run in it, and what they say.
//!
//! Invariant: the guest does not outlive this value, nor this process.

use crate::agent::PORT;
use crate::kernel::Kernel;
use crate::wire::{Command, FromAgent, ToAgent};
use anyhow::{Context, Result, bail};
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{self, Child, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A program in a guest has ended by then, unless another time is given.
const RUN_TIMEOUT: Duration = Duration::from_secs(600);
/// QEMU opens its sockets within this time.
const SOCKET_TIMEOUT: Duration = Duration::from_secs(10);
const MEMORY_MB: u32 = 1024;
const CORES: u32 = 2;
/// RoCE's largest packet, 4,096 bytes, and its headers.
const WIRE_MTU: u32 = 4200;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Acceleration {
    Kvm,
    Emulated,
}

/// What a guest is started with.
pub(crate) struct Boot<'a> {
    pub(crate) name: &'a str,
    pub(crate) kernel: &'a Kernel,
    pub(crate) acceleration: Acceleration,
    pub(crate) agent: &'a Path,
    pub(crate) kept: &'a [std::path::PathBuf],
    /// An end of the wire to another guest.
    pub(crate) wire: Option<WireEnd>,
}

/// An end of a wire: each datagram is an Ethernet frame.
pub(crate) struct WireEnd {
    pub(crate) socket: OwnedFd,
    pub(crate) host: u8,
}

/// A guest that runs. Dropping it ends it.
#[derive(Debug)]
pub struct Guest {
    name: String,
    qemu: Mutex<Child>,
    port: Mutex<UnixStream>,
    news: Arc<Mutex<News>>,
    hello: Receiver<FromAgent>,
    folder: TempDir,
}

/// Who waits for which program's news.
#[derive(Debug, Default)]
struct News {
    last_id: u32,
    readers: HashMap<u32, Sender<FromAgent>>,
}

/// A program that runs in a guest.
#[derive(Debug)]
pub struct Running<'a> {
    guest: &'a Guest,
    id: u32,
    program: String,
    news: Receiver<FromAgent>,
    out: Vec<String>,
    err: Vec<String>,
}

/// How a program in a guest ended, and what it said.
#[derive(Debug, Clone)]
pub struct Exit {
    /// Its program and arguments.
    pub program: String,
    /// Its exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// The lines of its standard output.
    pub out: Vec<String>,
    /// The lines of its standard error.
    pub err: Vec<String>,
}

impl Exit {
    /// Itself, if the program succeeded.
    ///
    /// # Errors
    /// The program failed: what it said.
    pub fn ok(self) -> Result<Self> {
        if self.code == Some(0) {
            return Ok(self);
        }
        let how = match (self.code, self.signal) {
            (Some(code), _) => format!("exit code {code}"),
            (None, signal) => format!("signal {}", signal.unwrap_or_default()),
        };
        bail!(
            "`{}` in the guest ended with {how}\n{}\n{}",
            self.program,
            self.out.join("\n"),
            self.err.join("\n")
        )
    }
}

impl Guest {
    /// Starts QEMU; the guest boots meanwhile.
    pub(crate) fn start(boot: Boot<'_>) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("soft-roce-").tempdir()?;
        let at = |name: &str| folder.path().join(name);
        let share = at("share");
        fs::create_dir(&share)?;
        fs::write(share.join("name"), boot.name)?;
        fs::write(share.join("agent"), format!("{}\n", boot.agent.display()))?;
        let kept: String = boot.kept.iter().map(|path| format!("{}\n", path.display())).collect();
        fs::write(share.join("kept"), kept)?;

        // The guest ends with us, however we end.
        let mut qemu = process::Command::new("setpriv");
        qemu.args([
            "--pdeathsig",
            "KILL",
            "qemu-system-x86_64",
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
        ]);
        qemu.args(["-display", "none", "-machine", "q35"]);
        match boot.acceleration {
            Acceleration::Kvm => qemu.args(["-accel", "kvm", "-cpu", "host"]),
            // Without ERMS: the string instructions that it advertises are emulated byte by byte. Without PCLMULQDQ: the
            // checksum of packets by it takes longer, emulated, than by a table, and from 80 bytes on that is most of a
            // short message's time.
            Acceleration::Emulated => {
                qemu.args(["-accel", "tcg,thread=multi", "-cpu", "max,-erms,-pclmulqdq"])
            }
        };
        qemu.args(["-smp", &CORES.to_string(), "-m", &MEMORY_MB.to_string()]);
        qemu.arg("-kernel").arg(&boot.kernel.image).arg("-initrd").arg(&boot.kernel.initial_files);
        qemu.args(["-append", "console=ttyS0 quiet panic=-1 tsc=reliable no_timer_check mitigations=off"]);
        qemu.arg("-chardev").arg(format!("file,id=console,path={}", at("console").display()));
        qemu.args(["-serial", "chardev:console", "-device", "virtio-serial-pci"]);
        qemu.arg("-chardev").arg(format!("socket,id=port,server=on,wait=off,path={}", at("port").display()));
        qemu.args(["-device", &format!("virtserialport,chardev=port,name={PORT}")]);
        let export = |id: &str, path: &Path, more: &str| {
            let path = path.display().to_string().replace(',', ",,");
            format!("local,id={id},path={path},security_model=none,multidevs=remap{more}")
        };
        qemu.arg("-fsdev").arg(export("root", Path::new("/"), ",readonly=on"));
        qemu.args(["-device", "virtio-9p-pci,fsdev=root,mount_tag=root"]);
        qemu.arg("-fsdev").arg(export("results", &share, ""));
        qemu.args(["-device", "virtio-9p-pci,fsdev=results,mount_tag=results"]);
        match boot.wire {
            Some(WireEnd { socket, host }) => {
                // Handed over as the standard input, which is the descriptor 0 there.
                qemu.args(["-netdev", "dgram,id=wire,local.type=fd,local.str=0"]).stdin(socket);
                let mac = format!("52:54:00:00:00:{host:02x}");
                qemu.arg("-device").arg(format!("virtio-net-pci,netdev=wire,mac={mac},host_mtu={WIRE_MTU}"));
            }
            None => {
                qemu.stdin(Stdio::null());
            }
        }
        let mut qemu = qemu
            .stdout(Stdio::null())
            .stderr(fs::File::create(at("qemu"))?)
            .spawn()
            .context("QEMU can't be started")?;

        let port = match connect(&at("port"), &mut qemu) {
            Ok(port) => port,
            Err(error) => {
                let _ = qemu.kill();
                let _ = qemu.wait();
                let said = fs::read_to_string(at("qemu")).unwrap_or_default();
                return Err(error.context(format!("QEMU said: {}", said.trim())));
            }
        };
        let news = Arc::<Mutex<News>>::default();
        let (hello_to, hello) = unbounded();
        news.lock().unwrap_or_else(PoisonError::into_inner).readers.insert(0, hello_to);
        let lines = BufReader::new(port.try_clone()?);
        let readers = Arc::clone(&news);
        thread::spawn(move || listen(lines, &readers));
        Ok(Self {
            name: boot.name.to_owned(),
            qemu: Mutex::new(qemu),
            port: Mutex::new(port),
            news,
            hello,
            folder,
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The guest's folder that host and guest both write: in the guest it is `/run/soft-roce`.
    pub fn share(&self) -> std::path::PathBuf {
        self.folder.path().join("share")
    }

    pub(crate) fn await_agent(&self, timeout: Duration) -> Result<()> {
        match self.hello.recv_timeout(timeout) {
            Ok(_) => Ok(()),
            Err(_) => bail!(
                "guest {} did not boot within {} s; the end of its console:\n{}",
                self.name,
                timeout.as_secs(),
                self.console()
            ),
        }
    }

    /// Runs a program to its end.
    ///
    /// # Errors
    /// It can't be started, or has not ended within ten minutes, or the guest ended. A program that fails is an
    /// [`Exit`] like any other.
    pub fn run(&self, command: Command) -> Result<Exit> {
        self.spawn(command)?.wait(RUN_TIMEOUT)
    }

    /// Starts a program.
    ///
    /// # Errors
    /// The guest is gone.
    pub fn spawn(&self, command: Command) -> Result<Running<'_>> {
        let (sender, news) = unbounded();
        let id = {
            let mut all = self.news.lock().unwrap_or_else(PoisonError::into_inner);
            all.last_id += 1;
            let id = all.last_id;
            all.readers.insert(id, sender);
            id
        };
        let program = std::iter::once(command.program.as_str())
            .chain(command.arguments.iter().map(String::as_str))
            .collect::<Vec<_>>()
            .join(" ");
        self.tell(&ToAgent::Run { id, command })?;
        Ok(Running { guest: self, id, program, news, out: Vec::new(), err: Vec::new() })
    }

    /// Ends the guest as a power cut does.
    pub fn kill(&self) {
        let mut qemu = self.qemu.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = qemu.kill();
        let _ = qemu.wait();
    }

    /// The last lines of its console.
    pub fn console(&self) -> String {
        let console = fs::read(self.folder.path().join("console")).unwrap_or_default();
        let console = String::from_utf8_lossy(&console);
        let lines: Vec<_> = console.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    fn tell(&self, message: &ToAgent) -> Result<()> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        let mut port = self.port.lock().unwrap_or_else(PoisonError::into_inner);
        port.write_all(&line).with_context(|| format!("guest {} is gone", self.name))
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // Nothing in the guest outlives it; there is nothing that it would have to save.
        self.kill();
    }
}

impl Running<'_> {
    /// Waits until the program ends.
    ///
    /// # Errors
    /// It has not ended by then, or the guest ended, or the program could not be started.
    pub fn wait(mut self, timeout: Duration) -> Result<Exit> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(exit) = self.next(deadline, "end")? {
                return Ok(exit);
            }
        }
    }

    /// Waits for a line of its standard output that holds `text`, and returns it.
    ///
    /// # Errors
    /// As [`wait`](Self::wait); also when the program ends before it says so.
    pub fn line(&mut self, text: &str, timeout: Duration) -> Result<String> {
        let deadline = Instant::now() + timeout;
        let mut seen = 0;
        loop {
            if let Some(line) = self.out[seen..].iter().find(|line| line.contains(text)) {
                return Ok(line.clone());
            }
            seen = self.out.len();
            if let Some(exit) = self.next(deadline, &format!("say `{text}`"))? {
                bail!("`{}` ended without saying `{text}`: {exit:?}", self.program);
            }
        }
    }

    /// Sends the program a signal.
    ///
    /// # Errors
    /// The guest is gone.
    pub fn signal(&self, signal: i32) -> Result<()> {
        self.guest.tell(&ToAgent::Signal { id: self.id, signal })
    }

    fn next(&mut self, deadline: Instant, what: &str) -> Result<Option<Exit>> {
        match self.news.recv_deadline(deadline) {
            Ok(FromAgent::Out { line, .. }) => self.out.push(line),
            Ok(FromAgent::Err { line, .. }) => self.err.push(line),
            Ok(FromAgent::Exit { code, signal, .. }) => {
                let (out, err) = (std::mem::take(&mut self.out), std::mem::take(&mut self.err));
                return Ok(Some(Exit { program: self.program.clone(), code, signal, out, err }));
            }
            Ok(FromAgent::Failed { reason, .. }) => bail!("`{}` can't be run: {reason}", self.program),
            Ok(FromAgent::Hello) => {}
            Err(error) => bail!(
                "`{}` in guest {} did not {what}: {}\nout: {}\nerr: {}\nconsole: {}",
                self.program,
                self.guest.name,
                if error == RecvTimeoutError::Timeout { "its time is over" } else { "the guest ended" },
                self.out.join("\n"),
                self.err.join("\n"),
                self.guest.console()
            ),
        }
        Ok(None)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.guest.news.lock().unwrap_or_else(PoisonError::into_inner).readers.remove(&self.id);
        // One that has ended does not feel it.
        let _ = self.signal(rustix::process::Signal::KILL.as_raw());
    }
}

/// Hands each message to whom it is for. All readers learn of the end.
fn listen(lines: BufReader<UnixStream>, news: &Mutex<News>) {
    for line in lines.lines() {
        let Ok(line) = line else { break };
        let Ok(message) = serde_json::from_str::<FromAgent>(&line) else { continue };
        let id = match &message {
            FromAgent::Hello => 0,
            FromAgent::Out { id, .. }
            | FromAgent::Err { id, .. }
            | FromAgent::Exit { id, .. }
            | FromAgent::Failed { id, .. } => *id,
        };
        if let Some(reader) = news.lock().unwrap_or_else(PoisonError::into_inner).readers.get(&id) {
            // Nobody may wait any more.
            let _ = reader.send(message);
        }
    }
    news.lock().unwrap_or_else(PoisonError::into_inner).readers.clear();
}

fn connect(path: &Path, qemu: &mut Child) -> Result<UnixStream> {
    let deadline = Instant::now() + SOCKET_TIMEOUT;
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => return Ok(stream),
            Err(error) if Instant::now() > deadline => {
                return Err(error).context("QEMU does not open its sockets");
            }
            Err(_) => {}
        }
        if let Some(status) = qemu.try_wait()? {
            bail!("QEMU ended at once ({status})");
        }
        thread::sleep(Duration::from_millis(20));
    }
}
