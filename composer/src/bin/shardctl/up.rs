//! `shardctl up`: runs an application in the foreground and answers the other verbs over a local socket.

use crate::listener::{self, Listener};
use crate::local::{Answer, LinkRow, Question, SessionRow, ShardRow, parse_session, socket_path};
use crate::{Failure, ManifestArg, Outcome, log};
use clap::Args;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use shard_composer::{Composer, LinkEnd, Session};
use shard_runtime::control::{ControlSocket, Packet};
use shard_runtime::id::{SessionId, ShardId};
use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

#[derive(Args)]
pub(crate) struct Up {
    #[command(flatten)]
    manifest: ManifestArg,
    /// Where the other verbs find this application.
    #[arg(long)]
    socket: Option<PathBuf>,
    /// A host file: what it says of this host overrides what is found.
    #[arg(long)]
    host: Option<PathBuf>,
    /// Log as JSON, one object a line.
    #[arg(long)]
    json_logs: bool,
    /// What to log, as in `info` or `shard_composer=debug`.
    #[arg(long, default_value = "info")]
    log: String,
    /// Throw away what the shards print.
    #[arg(long)]
    quiet: bool,
}

impl Up {
    pub(crate) fn run(self) -> Outcome {
        let manifest = self.manifest.read()?;
        log(&self.log, self.json_logs)?;
        let name = manifest.application().name.clone();
        let path = match self.socket {
            Some(path) => path,
            None => socket_path(&name)?,
        };
        let listener = Listener::bind(&path)?;
        raise_descriptors();
        let mut signals =
            signal_hook::iterator::Signals::new([signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM])
                .map_err(Failure::run)?;
        let composer = Composer::builder(manifest)
            .host_file(self.host.as_ref())
            .quiet(self.quiet)
            .start()
            .map_err(Failure::usage)?;
        tracing::info!(application = name, socket = %path.display(), "up");

        let server = Arc::new(Server { composer: composer.clone(), sessions: Mutex::default() });
        let serving = Arc::clone(&server);
        let socket = listener.socket.try_clone().map_err(Failure::run)?;
        // It ends with the process: it only ever waits for the next question.
        std::thread::Builder::new()
            .name("server".into())
            .spawn(move || serving.serve(&socket))
            .map_err(Failure::run)?;
        let watched = composer.clone();
        let handle = signals.handle();
        std::thread::Builder::new()
            .name("watch".into())
            .spawn(move || {
                while !watched.is_finished() {
                    std::thread::sleep(Duration::from_millis(100));
                }
                handle.close();
            })
            .map_err(Failure::run)?;

        let signal = signals.forever().next();
        let by_signal = signal.is_some();
        tracing::info!(signal, "shutting down");
        server.sessions.lock().unwrap_or_else(PoisonError::into_inner).clear();
        composer.shut_down();
        drop(listener);
        if by_signal { Ok(()) } else { Err(Failure::run("the composer ended by itself; the log says why")) }
    }
}

/// Each shard takes some descriptors: as many as this user may have are better than as many as are usual.
fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    // It is raised no further than everyone may.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

struct Server {
    composer: Composer,
    /// Sessions that were composed for someone outside.
    sessions: Mutex<HashMap<SessionId, Session>>,
}

impl Server {
    fn serve(self: &Arc<Self>, listener: &OwnedFd) -> ! {
        loop {
            let socket = listener::accept(listener);
            let server = Arc::clone(self);
            // A slow asker keeps nobody waiting. Without a thread it is turned away.
            let _ = std::thread::Builder::new()
                .name("asker".into())
                .spawn(move || server.answer(&ControlSocket::from_fd(socket)));
        }
    }

    fn answer(&self, socket: &ControlSocket) {
        let mut packet = Packet::new();
        while let Ok((question, _)) = socket.receive::<Question>(&mut packet) {
            let (answer, page) = self.find(question);
            let fds: Vec<BorrowedFd<'_>> = page.iter().map(AsFd::as_fd).collect();
            if socket.send(&answer, &fds).is_err() {
                return;
            }
        }
    }

    fn find(&self, question: Question) -> (Answer, Option<OwnedFd>) {
        let answer = match question {
            Question::Ps => self.ps(),
            Question::Links => self.links(),
            Question::Compose { composition } => self.compose(composition),
            Question::End { session } => {
                let held = self.sessions.lock().unwrap_or_else(PoisonError::into_inner).remove(&session);
                match held {
                    Some(_) => Answer::Ended,
                    None => Answer::Failed(format!(
                        "session {session} was not composed with `shardctl compose`, or is over"
                    )),
                }
            }
            Question::Explain { what } => self.explain(what.as_deref()),
            Question::Drain { shard, timeout_ms } => {
                match self.composer.drain(ShardId(shard), Duration::from_millis(timeout_ms)) {
                    true => Answer::Ended,
                    false => Answer::Failed(format!("there is no shard {shard}; `shardctl ps` lists them")),
                }
            }
            Question::Page { shard } => {
                return match self.composer.stats_descriptor(ShardId(shard)) {
                    Some(page) => (Answer::Page, Some(page)),
                    None => {
                        (Answer::Failed(format!("shard {shard} has no statistics page: it is gone")), None)
                    }
                };
            }
        };
        (answer, None)
    }

    fn explain(&self, what: Option<&str>) -> Answer {
        let explained = |text: String, json: serde_json::Result<String>| match json {
            Ok(json) => Answer::Explained { text, json },
            Err(error) => Answer::Failed(error.to_string()),
        };
        if let Some(session) = what.and_then(parse_session) {
            return match self.composer.explain(session) {
                Some(told) => explained(told.to_string(), serde_json::to_string(&told)),
                None => Answer::Failed(format!("session {session} was never ready, or is forgotten")),
            };
        }
        let mut pools = self.composer.explain_pools();
        match what {
            Some(name) => pools.retain(|pool| pool.component == name),
            // Of all of them, a few deeds each: an answer has to fit into a packet.
            None => pools.iter_mut().for_each(|pool| pool.latest.truncate(5)),
        }
        if pools.is_empty() {
            let what = what.unwrap_or_default();
            return Answer::Failed(format!(
                "`{what}` is neither a session (one looks like 3.1) nor a component"
            ));
        }
        let text: Vec<String> = pools.iter().map(ToString::to_string).collect();
        explained(text.join("\n"), serde_json::to_string(&pools))
    }

    fn links(&self) -> Answer {
        let row = |[from, to]: [LinkEnd; 2]| {
            let (shard, link, sends) = match (from.shard, to.shard) {
                (Some(shard), _) => (shard, from.link, true),
                (None, Some(shard)) => (shard, to.link, false),
                (None, None) => return None,
            };
            let (from, to) = (from.to_string(), to.to_string());
            Some(LinkRow { from, to, shard: shard.0, link: link.0, sends })
        };
        Answer::Links(self.composer.links().into_iter().filter_map(row).collect())
    }

    fn ps(&self) -> Answer {
        let shards = self.composer.shards().into_iter().map(|s| ShardRow {
            id: s.id.0,
            component: s.component,
            state: format!("{:?}", s.state).to_lowercase(),
            pid: s.pid,
            sessions: s.sessions,
            capacity: s.capacity,
            since_s: s.since.as_secs_f64(),
        });
        let sessions = self.composer.sessions().into_iter().map(|s| SessionRow {
            id: s.id.to_string(),
            composition: s.composition,
            state: format!("{:?}", s.state).to_lowercase(),
            shards: s.shards.iter().map(|id| id.0).collect(),
            since_s: s.since.as_secs_f64(),
        });
        Answer::Ps {
            application: self.composer.application().name.clone(),
            shards: shards.collect(),
            sessions: sessions.collect(),
            waiting: self.composer.waiting() as u64,
        }
    }

    fn compose(&self, composition: Option<String>) -> Answer {
        let first = || self.composer.application().compositions[0].name.clone();
        let start = Instant::now();
        match self.composer.compose(&composition.unwrap_or_else(first)) {
            Ok(session) => {
                let took_ns = start.elapsed().as_nanos() as u64;
                let (id, cold_shards) = (session.id(), session.cold_shards());
                self.sessions.lock().unwrap_or_else(PoisonError::into_inner).insert(id, session);
                Answer::Composed { session: id, took_ns, cold_shards }
            }
            Err(error) => Answer::Failed(error.to_string()),
        }
    }
}
