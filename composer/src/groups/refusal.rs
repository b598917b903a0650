//! What this host does not hold shards to: told once each, with what was seen, where, and what would mend it.

use super::place::limits_of;
use std::collections::HashMap;
use std::io;
use std::path::Path;

/// See the head of this file.
#[derive(Default)]
pub(super) struct Refusals {
    told: HashMap<String, Refusal>,
    /// Who tries what there is tells it himself.
    quiet: bool,
}

/// A limit that is not there: what was seen, and what would mend it.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    pub(super) seen: String,
    pub(super) mend: String,
}

/// What to do where version 2 of control groups has no controllers, or is not there.
const UNIFY: &str = "boot with cgroup_no_v1=all systemd.unified_cgroup_hierarchy=1, or run on a host whose /sys/fs/cgroup is cgroup2";
/// What to do where the tree belongs to someone else.
const DELEGATE: &str = "run the composer in a subtree of its own: systemd-run --scope -p Delegate=yes …, or Delegate=yes in its unit";

/// What is refused with every limit.
const ALL: &str = "every limit by control groups";
const GROUPS: &str = "control groups";

impl Refusals {
    /// Those that are not logged.
    pub(super) fn quiet() -> Self {
        Self { quiet: true, ..Self::default() }
    }

    /// There are no groups at all.
    pub(super) fn no_groups(&mut self, error: &io::Error) {
        let mend = if error.kind() == io::ErrorKind::NotFound { UNIFY } else { DELEGATE };
        self.tell(GROUPS, Path::new("/sys/fs/cgroup"), &error.to_string(), mend);
    }

    /// No controller reaches this process's group: shards can be frozen and killed by their groups, and no more.
    pub(super) fn no_controllers(&mut self, base: &Path) {
        let why = "it has none that limits shards";
        self.tell(ALL, &base.join("cgroup.controllers"), why, UNIFY);
    }

    /// A controller does not reach this process's group.
    pub(super) fn no_controller(&mut self, name: &str, base: &Path) {
        let parent = base.parent().filter(|parent| parent.join("cgroup.controllers").exists());
        let mend = match parent {
            Some(parent) => format!("echo +{name} > {}/cgroup.subtree_control", parent.display()),
            None => UNIFY.to_owned(),
        };
        self.tell(limits_of(name), &base.join("cgroup.controllers"), &format!("it has no `{name}`"), &mend);
    }

    /// No group can be limited.
    pub(super) fn no_limits(&mut self, path: &Path, error: &io::Error) {
        self.refused(ALL, path, error);
    }

    /// What is read and written below a path can't be bounded.
    pub(super) fn no_disk(&mut self, path: &Path) {
        let limit = format!("{} below {}", limits_of("io"), path.display());
        let why = "it is on no disk of this host that the kernel knows";
        self.tell(
            &limit,
            path,
            why,
            "keep it on a file system of a disk (ext4, xfs, btrfs …), not on an overlay or another host's",
        );
    }

    /// The kernel refuses what was written.
    pub(super) fn refused(&mut self, limit: &str, path: &Path, error: &io::Error) {
        self.tell(limit, path, &error.to_string(), DELEGATE);
    }

    /// As [`refused`](Self::refused), with a mend of its own.
    pub(super) fn tell(&mut self, limit: &str, path: &Path, why: &str, mend: &str) {
        if self.told.contains_key(limit) {
            return;
        }
        let refusal = Refusal { seen: format!("{}: {why}", path.display()), mend: mend.to_owned() };
        self.told.insert(limit.to_owned(), refusal);
        if !self.quiet {
            tracing::warn!(
                limit,
                path = %path.display(),
                error = why,
                mend,
                "this host does not hold shards to a limit; they run without it"
            );
        }
    }

    /// Why this limit, or with it all, is not there.
    pub(super) fn of(&self, limit: &str) -> Option<&Refusal> {
        [limit, ALL, GROUPS].into_iter().find_map(|limit| self.told.get(limit))
    }

    /// Any of them.
    pub(super) fn any(&self) -> Option<&Refusal> {
        self.told.values().next()
    }

    #[cfg(test)]
    pub(super) fn has(&self, limit: &str) -> bool {
        self.told.keys().any(|told| told.contains(limit))
    }
}
