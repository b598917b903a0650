//! The OCI runtime that is installed: crun.
//!
//! Invariant: it leaves a container in the control group that it was started in itself, which is the composer's to choose.
//! Of those that are there crun alone can be told so.

use super::error::OciError;
use shard_runtime::contain::{BUNDLE, PRESERVED_FDS, STATE};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fmt};

/// Names the OCI runtime, before the manifest does.
pub const RUNTIME_ENV: &str = "SHARD_OCI_RUNTIME";
/// What is looked for, and what one that is named says first of itself.
const KNOWN: &str = "crun";

/// A runtime that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Runtime {
    path: PathBuf,
    /// What it says of itself.
    version: String,
}

impl Runtime {
    /// The one that is named by the program, else by the environment's `SHARD_OCI_RUNTIME`, else by the manifest, else the
    /// one in `PATH`.
    ///
    /// # Errors
    /// If none is there, or what is named is not there, does not run, or is not crun.
    pub fn find(by_program: Option<&Path>, by_manifest: Option<&Path>) -> Result<Self, OciError> {
        let from_env = env::var_os(RUNTIME_ENV).filter(|name| !name.is_empty()).map(PathBuf::from);
        let named = by_program.map(Path::to_owned).or(from_env);
        let runtime = match named.or_else(|| by_manifest.map(Path::to_owned)) {
            Some(name) => Self::look(name.as_os_str()).ok_or_else(|| OciError::NoRuntime {
                looked: format!("`{}` is not there, or does not run", name.display()),
            }),
            None => Self::look(KNOWN.as_ref())
                .ok_or_else(|| OciError::NoRuntime { looked: format!("`{KNOWN}` is not in `PATH`") }),
        }?;
        if runtime.version.starts_with(KNOWN) {
            Ok(runtime)
        } else {
            Err(OciError::Unfit { runtime: runtime.to_string() })
        }
    }

    fn look(name: &OsStr) -> Option<Self> {
        let places: Vec<PathBuf> = if Path::new(name).components().count() > 1 {
            vec![std::path::absolute(name).ok()?]
        } else {
            env::split_paths(&env::var_os("PATH")?).map(|folder| folder.join(name)).collect()
        };
        places.into_iter().filter(|place| place.is_file()).find_map(|path| {
            let said = Command::new(&path).arg("--version").stdin(Stdio::null()).output().ok()?;
            let text = String::from_utf8_lossy(&said.stdout);
            let version = text.lines().next().filter(|_| said.status.success())?.trim().to_owned();
            Some(Self { path, version })
        })
    }

    /// Its program.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The arguments that run a bundle in the foreground.
    pub(super) fn arguments(&self) -> Vec<String> {
        let mut arguments = ["--root", STATE].map(String::from).to_vec();
        arguments.push("--cgroup-manager=disabled".to_owned());
        arguments.extend(["run", "--bundle", BUNDLE].map(String::from));
        arguments.extend(["--preserve-fds".to_owned(), PRESERVED_FDS.to_string()]);
        // It sees no other container, so they may all have the same name.
        arguments.push("shard".to_owned());
        arguments
    }
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.version, self.path.display())
    }
}
