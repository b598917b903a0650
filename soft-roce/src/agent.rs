//! The guest's half: runs what the host asks for and tells what comes of it.
//!
//! Invariant: all output of a program is told before its end.

use crate::wire::{Command, FromAgent, ToAgent};
use anyhow::{Context, Result};
use rustix::process::{Pid, Signal};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{self, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// The name of the serial port.
pub(crate) const PORT: &str = "soft-roce";

/// Where programs are found; the guest's first program had little use for it.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

type Port = Arc<Mutex<File>>;
type Children = Arc<Mutex<BTreeMap<u32, Pid>>>;

/// Serves the host until it asks to power off, or hangs up.
///
/// # Errors
/// There is no port to the host: this is no guest of ours.
pub fn serve() -> Result<()> {
    let file = OpenOptions::new().read(true).write(true).open(port()?).context("the port can't be opened")?;
    let lines = BufReader::new(file.try_clone()?);
    let port: Port = Arc::new(Mutex::new(file));
    let children = Children::default();
    tell(&port, &FromAgent::Hello);
    for line in lines.lines() {
        match serde_json::from_str(&line?).context("the host sent no message of ours")? {
            ToAgent::Run { id, command } => {
                let (port, children) = (Arc::clone(&port), Arc::clone(&children));
                thread::spawn(move || run(id, &command, &port, &children));
            }
            ToAgent::Signal { id, signal } => {
                let child = children.lock().unwrap_or_else(PoisonError::into_inner).get(&id).copied();
                if let (Some(child), Some(signal)) = (child, Signal::from_named_raw(signal)) {
                    // It may have ended in between.
                    let _ = rustix::process::kill_process(child, signal);
                }
            }
            ToAgent::PowerOff => break,
        }
    }
    Ok(())
}

fn port() -> Result<PathBuf> {
    for entry in
        fs::read_dir("/sys/class/virtio-ports").context("no port to a host here: this is no guest")?
    {
        let entry = entry?;
        if fs::read_to_string(entry.path().join("name")).is_ok_and(|name| name.trim() == PORT) {
            return Ok(PathBuf::from("/dev").join(entry.file_name()));
        }
    }
    anyhow::bail!("no port named {PORT} here: this is no guest of the test bed")
}

fn tell(port: &Port, message: &FromAgent) {
    let mut line = serde_json::to_vec(message).unwrap_or_default();
    line.push(b'\n');
    // A host that is gone ends the guest; nobody is left to be told.
    let _ = port.lock().unwrap_or_else(PoisonError::into_inner).write_all(&line);
}

fn run(id: u32, command: &Command, port: &Port, children: &Children) {
    let mut process = process::Command::new(&command.program);
    process.args(&command.arguments).env("PATH", PATH).envs(&command.environment);
    process.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    if let Some(folder) = &command.folder {
        process.current_dir(folder);
    }
    let mut child = match process.spawn() {
        Ok(child) => child,
        Err(error) => {
            return tell(port, &FromAgent::Failed { id, reason: format!("{}: {error}", command.program) });
        }
    };
    if let Some(pid) = Pid::from_raw(child.id() as i32) {
        children.lock().unwrap_or_else(PoisonError::into_inner).insert(id, pid);
    }
    let relays = [
        child.stdout.take().map(|out| relay(out, port, move |line| FromAgent::Out { id, line })),
        child.stderr.take().map(|err| relay(err, port, move |line| FromAgent::Err { id, line })),
    ];
    let status = child.wait();
    children.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    for relay in relays.into_iter().flatten() {
        let _ = relay.join();
    }
    match status {
        Ok(status) => {
            tell(port, &FromAgent::Exit { id, code: status.code(), signal: status.signal() });
        }
        Err(error) => tell(port, &FromAgent::Failed { id, reason: error.to_string() }),
    }
}

fn relay(
    from: impl Read + Send + 'static,
    port: &Port,
    message: impl Fn(String) -> FromAgent + Send + 'static,
) -> thread::JoinHandle<()> {
    let port = Arc::clone(port);
    thread::spawn(move || {
        let mut from = BufReader::new(from);
        let mut line = Vec::new();
        while from.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            if line.last() == Some(&b'\n') {
                line.pop();
            }
            tell(&port, &message(String::from_utf8_lossy(&line).into_owned()));
            line.clear();
        }
    })
}
