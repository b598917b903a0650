//! What `shardctl up` and the other verbs say to each other over a local socket, and the verbs that only ask.

use crate::listener::is_trusted;
use crate::{Failure, Outcome};
use clap::Args;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use serde::{Deserialize, Serialize};
use shard_runtime::control::{ControlSocket, Packet};
use shard_runtime::id::SessionId;
use std::fmt;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// A question.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Question {
    Ps,
    /// Who sends to whom.
    Links,
    Compose {
        composition: Option<String>,
    },
    End {
        session: SessionId,
    },
    /// Why a session got its shards, or why a pool has its size; of all pools if nothing is named.
    Explain {
        what: Option<String>,
    },
    Drain {
        shard: u32,
        timeout_ms: u64,
    },
    /// The statistics page of a shard; it comes as a descriptor that can only be read.
    Page {
        shard: u32,
    },
}

/// Its answer.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    Ps { application: String, shards: Vec<ShardRow>, sessions: Vec<SessionRow>, waiting: u64 },
    Links(Vec<LinkRow>),
    Composed { session: SessionId, took_ns: u64, cold_shards: u16 },
    Ended,
    Explained { text: String, json: String },
    Page,
    Failed(String),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ShardRow {
    pub(crate) id: u32,
    pub(crate) component: String,
    pub(crate) state: String,
    pub(crate) pid: u32,
    pub(crate) sessions: u32,
    pub(crate) capacity: u32,
    pub(crate) since_s: f64,
}

/// One direction between two ends, and where it is counted.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct LinkRow {
    pub(crate) from: String,
    pub(crate) to: String,
    /// The shard whose statistics page counts it, and its number there.
    pub(crate) shard: u32,
    pub(crate) link: u16,
    /// Whether that shard is the one that sends.
    pub(crate) sends: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SessionRow {
    pub(crate) id: String,
    pub(crate) composition: String,
    pub(crate) state: String,
    pub(crate) shards: Vec<u32>,
    pub(crate) since_s: f64,
}

/// Which running application is meant.
#[derive(Args)]
pub(crate) struct Target {
    /// The application's name; needed where several run.
    #[arg(long)]
    app: Option<String>,
    /// The socket of `shardctl up`, if it was given one.
    #[arg(long)]
    socket: Option<PathBuf>,
}

/// The socket of an application's `shardctl up`, in a folder that only this user can change.
pub(crate) fn socket_path(application: &str) -> Result<PathBuf, Failure> {
    Ok(folder()?.join(format!("shardctl-{application}.sock")))
}

fn folder() -> Result<PathBuf, Failure> {
    let folder = match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(folder) if Path::new(&folder).is_dir() => folder.into(),
        _ => std::env::temp_dir().join(format!("shardctl-{}", rustix::process::geteuid().as_raw())),
    };
    let failed =
        |why: &dyn fmt::Display| Failure::run(format!("the sockets' folder {}: {why}", folder.display()));
    match shard_composer::own_folder(&folder) {
        Ok(true) => Ok(folder),
        Ok(false) => {
            Err(failed(&"another user can change it; set XDG_RUNTIME_DIR, or choose a --socket elsewhere"))
        }
        Err(error) => Err(failed(&error)),
    }
}

impl Target {
    fn path(&self) -> Result<PathBuf, Failure> {
        if let Some(path) = &self.socket {
            return Ok(path.clone());
        }
        if let Some(app) = &self.app {
            return socket_path(app);
        }
        let entries = std::fs::read_dir(folder()?).into_iter().flatten().flatten();
        let is_ours = |name: &str| name.starts_with("shardctl-") && name.ends_with(".sock");
        let mut found: Vec<PathBuf> =
            entries.filter(|e| is_ours(&e.file_name().to_string_lossy())).map(|e| e.path()).collect();
        match found.len() {
            1 => Ok(found.remove(0)),
            0 => Err(Failure::run("no application runs here; start one with `shardctl up MANIFEST`")),
            _ => Err(Failure::usage("several applications run here; name one with --app or --socket")),
        }
    }

    pub(crate) fn ask(&self, question: &Question) -> Result<(Answer, Vec<OwnedFd>), Failure> {
        let socket = connect(&self.path()?)?;
        socket.send(question, &[]).map_err(Failure::run)?;
        match socket.receive::<Answer>(&mut Packet::new()).map_err(Failure::run)? {
            (Answer::Failed(why), _) => Err(Failure::run(why)),
            answer => Ok(answer),
        }
    }
}

pub(crate) fn connect(path: &Path) -> Result<ControlSocket, Failure> {
    let failed = |error: rustix::io::Errno| {
        let cure = "is `shardctl up` running?";
        Failure::run(format!("no application answers at {}: {error}; {cure}", path.display()))
    };
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(failed)?;
    let address = SocketAddrUnix::new(path).map_err(failed)?;
    rustix::net::connect(&socket, &address).map_err(failed)?;
    // Root may ask whomever it names.
    if !is_trusted(&socket) && !rustix::process::geteuid().is_root() {
        let path = path.display();
        return Err(Failure::run(format!("who answers at {path} is another user, and is not believed")));
    }
    Ok(ControlSocket::from_fd(socket))
}

#[derive(Args)]
pub(crate) struct Ask {
    #[command(flatten)]
    target: Target,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl Ask {
    pub(crate) fn ps(self) -> Outcome {
        let (answer, _) = self.target.ask(&Question::Ps)?;
        let Answer::Ps { application, shards, sessions, waiting } = answer else {
            return Err(Failure::run(
                "the answer is none to this question; use the same release on both sides",
            ));
        };
        if self.json {
            let all = serde_json::json!({
                "application": application, "shards": shards, "sessions": sessions, "waiting": waiting,
            });
            println!("{all}");
            return Ok(());
        }
        println!(
            "{:<6} {:<16} {:<10} {:>8} {:>9} {:>9}",
            "SHARD", "COMPONENT", "STATE", "PID", "SESSIONS", "SINCE"
        );
        for s in &shards {
            let load = format!("{}/{}", s.sessions, s.capacity);
            println!(
                "{:<6} {:<16} {:<10} {:>8} {load:>9} {:>8.1}s",
                s.id, s.component, s.state, s.pid, s.since_s
            );
        }
        println!("\n{:<12} {:<16} {:<10} {:>8}  SHARDS", "SESSION", "COMPOSITION", "STATE", "SINCE");
        for s in &sessions {
            let shards = s.shards.iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
            println!("{:<12} {:<16} {:<10} {:>7.1}s  {shards}", s.id, s.composition, s.state, s.since_s);
        }
        println!("\n{waiting} requests wait");
        Ok(())
    }
}

#[derive(Args)]
pub(crate) struct Compose {
    /// Which composition; the first by default.
    composition: Option<String>,
    #[command(flatten)]
    ask: Ask,
}

impl Compose {
    pub(crate) fn run(self) -> Outcome {
        let (answer, _) = self.ask.target.ask(&Question::Compose { composition: self.composition })?;
        let Answer::Composed { session, took_ns, cold_shards } = answer else {
            return Err(Failure::run(
                "the answer is none to this question; use the same release on both sides",
            ));
        };
        let took_us = took_ns as f64 / 1e3;
        if self.ask.json {
            let id = session.to_string();
            println!(
                "{}",
                serde_json::json!({"session": id, "took_us": took_us, "cold_shards": cold_shards})
            );
        } else {
            println!("{session}");
            eprintln!("composed in {took_us:.1} µs, {cold_shards} cold shards");
        }
        Ok(())
    }
}

#[derive(Args)]
pub(crate) struct End {
    /// The session, as `compose` and `ps` print it.
    session: String,
    #[command(flatten)]
    target: Target,
}

impl End {
    pub(crate) fn run(self) -> Outcome {
        let Some(session) = parse_session(&self.session) else {
            return Err(Failure::usage(format!("`{}` is no session; one looks like 3.1", self.session)));
        };
        self.target.ask(&Question::End { session })?;
        Ok(())
    }
}

/// A session as `compose` and `ps` print it.
pub(crate) fn parse_session(text: &str) -> Option<SessionId> {
    let (index, generation) = text.split_once('.')?;
    Some(SessionId::new(index.parse().ok()?, generation.parse().ok()?))
}

#[derive(Args)]
pub(crate) struct Explain {
    /// A session, as `compose` and `ps` print it, or a component; all components by default.
    what: Option<String>,
    #[command(flatten)]
    ask: Ask,
}

impl Explain {
    pub(crate) fn run(self) -> Outcome {
        let (answer, _) = self.ask.target.ask(&Question::Explain { what: self.what })?;
        let Answer::Explained { text, json } = answer else {
            return Err(Failure::run(
                "the answer is none to this question; use the same release on both sides",
            ));
        };
        if self.ask.json {
            println!("{json}")
        } else {
            print!("{text}")
        }
        Ok(())
    }
}

#[derive(Args)]
pub(crate) struct Drain {
    /// The shard, as `ps` prints it.
    shard: u32,
    /// How long its sessions may go on, in seconds; what is left of them then ends with an error.
    #[arg(long, default_value_t = 30.0)]
    within: f64,
    #[command(flatten)]
    target: Target,
}

impl Drain {
    pub(crate) fn run(self) -> Outcome {
        if !(self.within >= 0.0 && self.within <= 1e9) {
            return Err(Failure::usage(format!("--within is {}; it must be 0 or more seconds", self.within)));
        }
        let timeout_ms = (self.within * 1e3) as u64;
        self.target.ask(&Question::Drain { shard: self.shard, timeout_ms })?;
        Ok(())
    }
}
