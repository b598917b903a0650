//! What host and agent say to each other: one JSON object a line, over a virtio serial port.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A program to be run in a guest.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Command {
    pub(crate) program: String,
    pub(crate) arguments: Vec<String>,
    pub(crate) environment: BTreeMap<String, String>,
    pub(crate) folder: Option<String>,
}

impl Command {
    /// A program by its path on the host, or by its name.
    pub fn new(program: impl Into<String>) -> Self {
        Self { program: program.into(), arguments: Vec::new(), environment: BTreeMap::new(), folder: None }
    }

    /// A line for `sh -c`.
    pub fn shell(line: impl Into<String>) -> Self {
        Self::new("sh").args(["-c".to_owned(), line.into()])
    }

    /// One more argument.
    #[must_use]
    pub fn arg(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// More arguments.
    #[must_use]
    pub fn args<A: Into<String>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// A variable of its environment.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.environment.insert(name.into(), value.into());
        self
    }

    /// Runs it on one of the guest's cores only.
    #[must_use]
    pub fn pinned(mut self, core: u32) -> Self {
        let program = std::mem::replace(&mut self.program, "taskset".to_owned());
        self.arguments.splice(0..0, ["-c".to_owned(), core.to_string(), program]);
        self
    }

    /// The folder that it runs in.
    #[must_use]
    pub fn folder(mut self, folder: impl Into<String>) -> Self {
        self.folder = Some(folder.into());
        self
    }
}

/// From the host to the agent.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ToAgent {
    Run { id: u32, command: Command },
    Signal { id: u32, signal: i32 },
    PowerOff,
}

/// From the agent to the host.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum FromAgent {
    Hello,
    Out {
        id: u32,
        line: String,
    },
    Err {
        id: u32,
        line: String,
    },
    /// The exit code, or none if a signal ended it.
    Exit {
        id: u32,
        code: Option<i32>,
        signal: Option<i32>,
    },
    /// It could not be started.
    Failed {
        id: u32,
        reason: String,
    },
}
