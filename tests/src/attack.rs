//! An attack, what a neighbour of the attacker feels of it, and what the host and the log say of it.
//!
//! Invariant: nothing here holds a neighbour to a time but for one: it answers within [`PATIENCE`]. Its medians go to the
//! standard output, one JSON object for each attack.

use crate::log::Log;
use crate::{PATIENCE, manifest_text, start};
use shard_composer::{Composer, Session};
use shardkit::prelude::Bytes;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// So often a neighbour is asked each time.
const ROUNDS: usize = 200;

/// What a shard of a component says to a message.
///
/// # Panics
/// If it does not answer.
pub fn ask_on(composer: &Composer, session: &Session, component: &str, question: &str) -> String {
    let port = composer.output::<Bytes, Bytes>(component).expect("the embedder sends to each component");
    session.send(&port, &Bytes(question.into())).unwrap_or_else(|error| panic!("{question}: {error}"));
    let mail = session.receive(PATIENCE).unwrap_or_else(|error| panic!("{question}: {error}"));
    String::from_utf8_lossy(mail.message().payload()).into_owned()
}

/// The same, in a session of its own.
///
/// # Panics
/// If it does not answer, or there is no session.
pub fn ask(composer: &Composer, component: &str, question: &str) -> String {
    let session = composer.compose(component).unwrap_or_else(|error| panic!("{error}"));
    ask_on(composer, &session, component, question)
}

/// How long a neighbour took to answer.
#[derive(Clone, Copy, Debug)]
pub struct Felt {
    /// The median.
    pub p50: Duration,
    /// The 99th percentile.
    pub p99: Duration,
}

impl Felt {
    /// Asks the component `echo`.
    ///
    /// # Panics
    /// If it does not answer, or something else.
    pub fn now(composer: &Composer) -> Self {
        let session = composer.compose("echo").unwrap_or_else(|error| panic!("{error}"));
        let mut took: Vec<Duration> = (0..ROUNDS)
            .map(|round| {
                let (start, text) = (Instant::now(), round.to_string());
                assert_eq!(ask_on(composer, &session, "echo", &text), text);
                start.elapsed()
            })
            .collect();
        took.sort_unstable();
        Self { p50: took[ROUNDS / 2], p99: took[ROUNDS * 99 / 100] }
    }
}

/// See the head of this file.
pub struct Attack {
    /// With the attacker and the neighbour `echo`.
    pub composer: Composer,
    /// From before the attacker was there.
    pub log: Log,
    quiet: [Felt; 2],
    host: BTreeMap<String, String>,
}

impl Attack {
    /// Asks the neighbour twice while nobody else is there, and then starts a composer for this manifest, with `program`
    /// as its launch helper.
    ///
    /// # Panics
    /// If anything does not start.
    pub fn begin(program: &Path, manifest: &str) -> Self {
        let host = host();
        let log = Log::begin();
        let alone = manifest_text(program, &["echo"], "").replace("_ms = 1000", "_ms = 20000");
        let alone = start(program, &alone);
        let quiet = [Felt::now(&alone), Felt::now(&alone)];
        drop(alone);
        Self { composer: start(program, manifest), log, quiet, host }
    }

    /// What a shard says to a message.
    ///
    /// # Panics
    /// As [`ask`].
    pub fn ask(&self, component: &str, question: &str) -> String {
        ask(&self.composer, component, question)
    }

    /// The neighbour's answers while the attack goes on.
    ///
    /// # Panics
    /// If it does not answer, or something else.
    pub fn felt(&self, attack: &str) -> Felt {
        let felt = Felt::now(&self.composer);
        let us = |time: Duration| time.as_secs_f64() * 1e6;
        let [one, two] = self.quiet;
        let line = serde_json::json!({
            "attack": attack,
            "quiet_p50_us": [us(one.p50), us(two.p50)], "p50_us": us(felt.p50),
            "quiet_p99_us": [us(one.p99), us(two.p99)], "p99_us": us(felt.p99),
            "p50_to_the_slower_quiet_run": us(felt.p50) / us(one.p50.max(two.p50)),
        });
        println!("{line}");
        felt
    }

    /// Asks the attacker the same again and again, all of which has to be refused, while the neighbour is asked.
    ///
    /// # Panics
    /// If something is not refused, or the neighbour does not answer.
    pub fn all_are_refused(&self, attack: &str, questions: &[String]) {
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let attacker = scope.spawn(|| {
                let session = self.composer.compose("attack").unwrap_or_else(|error| panic!("{error}"));
                for round in 0.. {
                    for question in questions {
                        let answer = ask_on(&self.composer, &session, "attack", question);
                        if round == 0 {
                            println!("{question}: {answer}");
                        }
                        assert!(answer.starts_with("refused"), "{question}: {answer}");
                    }
                    if over.load(Ordering::Relaxed) {
                        break;
                    }
                }
            });
            // The attacker ends whatever the neighbour says.
            let felt = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.felt(attack)));
            over.store(true, Ordering::Relaxed);
            attacker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            felt.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        });
        self.is_over();
    }

    /// Nothing of the host has changed since before the attack.
    ///
    /// # Panics
    /// If something has.
    pub fn is_over(&self) {
        let (before, now) = (&self.host, host());
        let names: Vec<_> = before.keys().chain(now.keys()).collect();
        for name in names {
            assert_eq!(before.get(name), now.get(name), "{name} of the host has changed");
        }
    }
}

/// What of the host nobody changes while tests run.
fn host() -> BTreeMap<String, String> {
    let mut host = BTreeMap::new();
    for folder in ["/", "/boot", "/dev", "/etc", "/home", "/root", "/usr", "/sys/class/net"] {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let mut names: Vec<_> =
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort_unstable();
        host.insert(folder.to_owned(), names.join(" "));
    }
    for file in [
        "/etc/passwd",
        "/etc/shadow",
        "/etc/group",
        "/proc/sys/kernel/hostname",
        "/proc/sys/kernel/core_pattern",
        "/proc/modules",
        "/proc/swaps",
        "/proc/sysvipc/shm",
        "/proc/sysvipc/sem",
        "/proc/sysvipc/msg",
    ] {
        let mut text = fs::read_to_string(file).unwrap_or_default();
        if file == "/proc/modules" || file == "/proc/swaps" {
            // What follows its name changes by itself.
            text = text.lines().filter_map(|line| line.split(' ').next()).collect::<Vec<_>>().join(" ");
        }
        host.insert(file.to_owned(), text);
    }
    host
}
