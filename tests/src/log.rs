//! What the composers of this process write to their log, as `shardctl up --json-logs` does.
//!
//! Invariant: from the first [`Log::begin`] on every line is kept, in its order.

use crate::PATIENCE;
use serde_json::Value;
use std::io;
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::time::Instant;

static LINES: Mutex<Vec<Value>> = Mutex::new(Vec::new());

fn lines() -> MutexGuard<'static, Vec<Value>> {
    LINES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The log from a moment on.
#[derive(Clone, Copy, Debug)]
pub struct Log {
    from: usize,
}

impl Log {
    /// From now on.
    pub fn begin() -> Self {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            let json = tracing_subscriber::fmt().json().flatten_event(true).with_writer(|| Keep);
            json.with_max_level(tracing_subscriber::filter::LevelFilter::INFO).init();
        });
        Self { from: lines().len() }
    }

    /// All lines.
    pub fn all(&self) -> Vec<Value> {
        lines()[self.from..].to_vec()
    }

    /// The first line whose message contains `message` and whose other fields are as in `fields`: the same text, or the
    /// text is in it. Waits for it.
    ///
    /// # Panics
    /// If it does not come within [`PATIENCE`].
    pub fn line(&self, message: &str, fields: &[(&str, &str)]) -> Value {
        let start = Instant::now();
        loop {
            let all = self.all();
            if let Some(line) = all.iter().find(|line| is_it(line, message, fields)) {
                return line.clone();
            }
            let told = || all.iter().map(|line| format!("{line}\n")).collect::<String>();
            assert!(start.elapsed() < PATIENCE, "the log never says `{message}` {fields:?}:\n{}", told());
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}

fn is_it(line: &Value, message: &str, fields: &[(&str, &str)]) -> bool {
    let text = |name: &str| match &line[name] {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    text("message").contains(message) && fields.iter().all(|(name, value)| text(name).contains(value))
}

/// Takes one line with each call.
struct Keep;

impl io::Write for Keep {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        lines().push(serde_json::from_slice(line)?);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
