//! What control groups hold shards to on this host, found by doing what a composer does for one, and undone again.
//!
//! Invariant: a limit counts as held only if the kernel gave back what was written. Afterwards the tree is as it was, but
//! for what a composer needs that was started meanwhile. Nothing that another composer left is touched.

use super::place::{Place, limits_of};
use super::refusal::{Refusal, Refusals};
use super::{Disks, Groups, Limits};
use crate::processes::ProcessId;
use crate::resources::limits::Tried;
use std::fs;
use std::path::{Path, PathBuf};

/// The limits that are written: any that a group can have.
fn limits(cores: Vec<usize>) -> Limits {
    let disks = Disks::below(64 << 20, 64 << 20, [Path::new("/proc/self/exe")]);
    Limits { memory_bytes: 64 << 20, processes: 64, beside: 0, weight: 250, cores, rdma: Some(true), disks }
}
/// What is looked at: the controller and its file.
const FILES: [(&str, &str); 5] = [
    ("cpu", "cpu.weight"),
    ("memory", "memory.max"),
    ("pids", "pids.max"),
    ("io", "io.max"),
    ("rdma", "rdma.max"),
];
const PARTITION: &str = "cpuset.cpus.partition";

/// Tries all of them. `cores` are processors that are an isolated partition for a moment; without any that is not tried.
pub(crate) fn tried(cores: Vec<usize>) -> Vec<Tried> {
    let mut refusals = Refusals::quiet();
    let place = Place::make(&mut refusals).inspect_err(|error| refusals.no_groups(error)).ok();
    let mut groups = Groups::at(place, refusals);
    let process = ProcessId(0);
    groups.make(process, limits(Vec::new()));
    let mut tried = vec![groups.freezes(process)];
    tried.extend(FILES.iter().map(|(controller, file)| groups.holds(process, controller, file)));
    groups.remove(process);
    if !cores.is_empty() {
        tried.push(groups.isolates(ProcessId(1), cores));
    }
    groups.undo();
    tried
}

impl Groups {
    fn group_of(&self, process: ProcessId) -> Option<PathBuf> {
        self.table.get(&process).map(|group| group.path.clone())
    }

    fn refusal(&self, limit: &str) -> Refusal {
        let unknown = || Refusal { seen: "it was not tried".into(), mend: String::new() };
        self.refusals.of(limit).cloned().unwrap_or_else(unknown)
    }

    fn freezes(&self, process: ProcessId) -> Tried {
        let what = "cgroup.freeze";
        let Some(group) = self.group_of(process) else { return Tried::refused(what, self.refusal(what)) };
        let events = || text(&group.join("cgroup.events"));
        let frozen = self.freeze(process, true) && events().contains("frozen 1");
        if frozen && self.freeze(process, false) {
            return Tried::held(what, format!("{}: it was frozen and thawed", group.display()));
        }
        let seen = format!("{}: {}", group.join("cgroup.events").display(), events());
        Tried::refused(what, Refusal { seen, mend: "a kernel of 5.2 or newer".into() })
    }

    /// Whether the kernel gives back what was written.
    fn holds(&self, process: ProcessId, controller: &str, what: &'static str) -> Tried {
        let limit = limits_of(controller);
        let group = self.group_of(process).filter(|_| self.refusals.of(limit).is_none());
        let Some(file) = group.map(|group| group.join(what)) else {
            return Tried::refused(what, self.refusal(limit));
        };
        let now = text(&file);
        let written =
            limits(Vec::new()).files(&self.devices).into_iter().filter(|(_, file, _)| *file == what);
        let missing = written
            .map(|(.., text)| text)
            .find(|text| !now.lines().any(|line| line.starts_with(text.as_str())));
        match missing {
            Some(wanted) => {
                let seen = format!("{}: {now:?} instead of {wanted:?}", file.display());
                Tried::refused(what, Refusal { seen, ..self.refusal(limit) })
            }
            None if now.is_empty() && what == "io.max" => {
                let mut refusals = Refusals::quiet();
                limits(Vec::new()).disks.without.iter().for_each(|path| refusals.no_disk(path));
                let none = Refusal { seen: "there is no disk".into(), mend: String::new() };
                Tried::refused(what, refusals.any().cloned().unwrap_or(none))
            }
            None if now.is_empty() => Tried::held(what, format!("{}: there is no device", file.display())),
            None => Tried::held(what, format!("{}: {}", file.display(), now.replace('\n', ", "))),
        }
    }

    fn isolates(&mut self, process: ProcessId, cores: Vec<usize>) -> Tried {
        self.make(process, limits(cores));
        let partition =
            self.group_of(process).and_then(|group| Some(group.parent()?.join("cpuset.cpus.partition")));
        let state = partition.as_ref().map(|file| text(file));
        let tried = match (partition, state.as_deref()) {
            (Some(file), Some("isolated")) => Tried::held(PARTITION, format!("{}: isolated", file.display())),
            _ => Tried::refused(PARTITION, self.refusal(limits_of("cpuset"))),
        };
        self.remove(process);
        tried
    }

    /// Leaves the tree as it was before the place was taken.
    fn undo(mut self) {
        for group in std::mem::take(&mut self.table).into_values() {
            let _ = fs::remove_dir(group.path);
        }
        self.partition = super::Partition::default();
        if let Some(place) = self.place.take() {
            place.undo();
        }
    }
}

impl Tried {
    fn held(what: &'static str, evidence: String) -> Self {
        Self { what, evidence, mend: None }
    }

    fn refused(what: &'static str, refusal: Refusal) -> Self {
        Self { what, evidence: refusal.seen, mend: Some(refusal.mend) }
    }
}

fn text(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_default().trim().to_owned()
}
