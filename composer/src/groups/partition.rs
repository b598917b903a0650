//! The cores that belong to one shard each: a partition of the host's processors that the kernel's scheduler keeps
//! everything else off (`cpuset.cpus.partition`).
//!
//! One partition for all of them, beside the folder of the other groups, because a partition's parent has to be one
//! too; in it a group for each shard, with its own cores. It grows and shrinks with what is given away.
//!
//! Invariant: what the kernel says is read back. A partition that it calls invalid is none, and is told as refused; then
//! shards are kept on their cores by affinity alone, and nothing is kept off them.

use super::place::{Folder, Place};
use super::refusal::Refusals;
use crate::processes::ProcessId;
use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

const LIMIT: &str = "cores that are a shard's alone (cpuset.cpus.partition)";
const MEND: &str = "run the composer in a group that is a partition root itself (cpuset.cpus.partition = root), or boot with isolcpus= for these cores";

/// See the head of this file.
#[derive(Default)]
pub(super) struct Partition {
    folder: Option<Folder>,
    /// The kernel has said no.
    refused: bool,
    held: HashMap<ProcessId, Vec<usize>>,
}

impl Partition {
    /// Makes a group for a process on cores that are its alone. `None` where there can be no such partition.
    pub(super) fn take(
        &mut self,
        place: &Place,
        process: ProcessId,
        cores: &[usize],
        refusals: &mut Refusals,
    ) -> Option<PathBuf> {
        if self.refused || !place.controllers.contains(&"cpuset") {
            return None;
        }
        self.held.insert(process, cores.to_vec());
        let group = self.make_group(place, process, cores, refusals);
        if let Err((path, why)) = &group {
            refusals.tell(LIMIT, path, why, MEND);
            self.held.remove(&process);
            if self.held.is_empty() {
                self.refused = true;
                self.folder = None;
            } else if let Some(folder) = &self.folder {
                // Back to what it was.
                let _ = fs::write(folder.path.join("cpuset.cpus"), self.list());
            }
        }
        group.ok()
    }

    fn make_group(
        &mut self,
        place: &Place,
        process: ProcessId,
        cores: &[usize],
        refusals: &mut Refusals,
    ) -> Result<PathBuf, (PathBuf, String)> {
        let list = self.list();
        if self.folder.is_none() {
            let name = place.folder.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let path = place.base.join(format!("{name}-cores"));
            self.folder = Some(Folder::make(path.clone()).map_err(seen(&path))?);
        }
        let Some(folder) = &self.folder else { return Err((place.base.clone(), "it is gone".into())) };
        isolate(&folder.path, &list)?;
        folder.give_on(&place.controllers, refusals);
        let group = folder.path.join(process.0.to_string());
        fs::create_dir(&group).map_err(seen(&group))?;
        let cpus = group.join("cpuset.cpus");
        fs::write(&cpus, join(cores.iter().copied())).map_err(seen(&cpus))?;
        Ok(group)
    }

    /// A process has no cores of its own any more.
    pub(super) fn give_back(&mut self, process: ProcessId) {
        let (Some(_), Some(folder)) = (self.held.remove(&process), &self.folder) else { return };
        let list = self.list();
        let written = if list.is_empty() {
            fs::write(folder.path.join("cpuset.cpus.partition"), "member")
        } else {
            fs::write(folder.path.join("cpuset.cpus"), list)
        };
        if let Err(error) = written {
            tracing::warn!(group = %folder.path.display(), %error, "cores that nobody needs are not given back");
        }
    }

    fn list(&self) -> String {
        join(self.held.values().flatten().copied().collect::<BTreeSet<_>>())
    }
}

fn seen(path: &Path) -> impl Fn(io::Error) -> (PathBuf, String) + use<> {
    let path = path.to_path_buf();
    move |error| (path.clone(), error.to_string())
}

/// Makes a folder an isolated partition of these cores, if it is not one, and reads back whether it is.
fn isolate(folder: &Path, list: &str) -> Result<(), (PathBuf, String)> {
    let (cpus, partition) = (folder.join("cpuset.cpus"), folder.join("cpuset.cpus.partition"));
    let state =
        || fs::read_to_string(&partition).map_err(seen(&partition)).map(|text| text.trim().to_owned());
    fs::write(&cpus, list).map_err(seen(&cpus))?;
    if state()? != "isolated" {
        fs::write(&partition, "isolated").map_err(seen(&partition))?;
    }
    let state = state()?;
    if state == "isolated" { Ok(()) } else { Err((partition.clone(), format!("it says `{state}`"))) }
}

fn join(cores: impl IntoIterator<Item = usize>) -> String {
    let cores: Vec<String> = cores.into_iter().map(|core| core.to_string()).collect();
    cores.join(",")
}
