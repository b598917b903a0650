//! The file in which the scaler's memory survives a restart.
//!
//! Invariant: the file is whole at any time: it is written beside its place and then put there. A file that can't be
//! used costs history, never the start.

use crate::scaler::Scaler;
use std::cell::Cell;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

/// A larger file is none of ours.
const BYTES_MAX: u64 = 256 << 20;

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct History {
    path: PathBuf,
    /// Whether a failure was told already.
    failed: Cell<bool>,
}

impl History {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, failed: Cell::new(false) }
    }

    /// Lets the scaler go on with what is there, if it can be used.
    pub(crate) fn read(&self, scaler: &mut Scaler) {
        let path = self.path.display();
        let bytes = match read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return tracing::info!(%path, "no history of demand yet");
            }
            Err(error) => {
                return tracing::warn!(%path, %error, "the history of demand can't be read; it begins anew");
            }
        };
        match scaler.restore(&bytes) {
            Ok(()) => tracing::info!(%path, "goes on with the history of demand"),
            Err(error) => tracing::warn!(%path, error, "the history of demand can't be used; it begins anew"),
        }
    }

    /// Writes what the scaler has learned. That it can't is told once.
    pub(crate) fn write(&self, bytes: &[u8]) {
        let mut beside = self.path.clone().into_os_string();
        beside.push(".new");
        let beside = PathBuf::from(beside);
        let written = fs::write(&beside, bytes).and_then(|()| fs::rename(&beside, &self.path));
        match written {
            Ok(()) => self.failed.set(false),
            Err(error) if !self.failed.replace(true) => {
                let path = self.path.display();
                tracing::warn!(%path, %error, "the history of demand can't be written; make its folder writable");
            }
            Err(_) => {}
        }
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    if fs::metadata(path)?.len() > BYTES_MAX {
        return Err(io::Error::new(ErrorKind::InvalidData, "it is too large to be one"));
    }
    fs::read(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use shardkit::manifest::Manifest;

    fn scaler(components: &str) -> Scaler {
        let text = format!("[application]\nname = \"a\"\n[pool]\n{components}");
        let application = Manifest::parse(&text, "a.toml").unwrap().into_application();
        Scaler::new(&application, application.pool.as_ref().unwrap(), 0).unwrap()
    }

    #[test]
    fn a_file_that_can_not_be_used_costs_history_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("history");
        let history = History::new(path.clone());
        let one = "[component.one]\nprogram = \"one\"\n";
        let mut kept = scaler(one);
        let before = kept.save();
        history.read(&mut kept);
        assert_eq!(kept.save(), before, "there is no file");
        for bytes in [&b""[..], b"rubbish", &scaler("[component.other]\nprogram = \"other\"\n").save()] {
            history.write(bytes);
            history.read(&mut kept);
            assert_eq!(kept.save(), before);
        }
        history.write(&before);
        assert!(kept.restore(&fs::read(&path).unwrap()).is_ok());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
        History::new(folder.path().join("no/such/folder")).write(&before);
    }
}
