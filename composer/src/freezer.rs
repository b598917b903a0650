//! Freezing: a shard keeps its memory and gets no processor.
//!
//! Its control group is frozen, with all that it has started. Where it has none it is stopped by a signal, with all below it:
//! that does the same, but whoever may send it a signal can let it go on.
//!
//! Invariant: a frozen shard can be killed, and dies with its composer, either way. What is thawed in the way in which
//! it was frozen runs again.

use crate::family;
use crate::groups::Groups;
use crate::processes::ProcessId;
use rustix::process::Signal;
use std::collections::HashSet;
use std::os::fd::BorrowedFd;

/// See the head of this file.
#[derive(Default)]
pub(crate) struct Freezer {
    /// Those that were frozen by a signal.
    stopped: HashSet<ProcessId>,
}

impl Freezer {
    /// Takes the processor away from a process.
    pub(crate) fn freeze(&mut self, groups: &Groups, process: ProcessId, pid: u32, pidfd: BorrowedFd<'_>) {
        if !groups.freeze(process, true) {
            self.stopped.insert(process);
            family::signal(pid, pidfd, Signal::STOP);
        }
    }

    /// Lets a process go on. Nothing happens to one that was not frozen.
    pub(crate) fn thaw(&mut self, groups: &Groups, process: ProcessId, pid: u32, pidfd: BorrowedFd<'_>) {
        if self.stopped.remove(&process) {
            family::signal(pid, pidfd, Signal::CONT);
        } else {
            groups.freeze(process, false);
        }
    }

    /// A process is gone.
    pub(crate) fn forget(&mut self, process: ProcessId) {
        self.stopped.remove(&process);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::groups::{Disks, Limits};
    use rustix::process::{Pid, PidfdFlags, kill_process, pidfd_open};
    use std::fs;
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::process::{Child, Command, Stdio};
    use std::thread::sleep;
    use std::time::Duration;

    /// The processor time that a process has had, in clock ticks.
    fn used(pid: u32) -> u64 {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }

    fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
        for _ in 0..2_000 {
            if done() {
                return;
            }
            sleep(Duration::from_millis(2));
        }
        panic!("still not: {what}");
    }

    fn check(mut groups: Groups) {
        let (process, mut freezer) = (ProcessId(3), Freezer::default());
        // What works is below it, and is started when it is in its group.
        let mut child: Child = Command::new("sh")
            .args(["-c", "read _; (while :; do :; done) & wait"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let (cores, disks) = (Vec::new(), Disks::default());
        let limits =
            Limits { memory_bytes: 0, processes: 8, beside: 0, weight: 100, cores, rdma: None, disks };
        if let Some(group) = groups.make(process, limits) {
            let procs = format!("/proc/self/fd/{}/cgroup.procs", std::os::fd::AsRawFd::as_raw_fd(&group));
            fs::write(procs, child.id().to_string()).unwrap();
        }
        let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).unwrap();
        child.stdin.take().unwrap().write_all(b"go\n").unwrap();
        let below = || family::family(child.id())[1..].first().copied();
        wait_until("something is below it", || below().is_some());
        let below = below().unwrap();
        wait_until("it works", || used(below) > 2);
        for _ in 0..2 {
            freezer.freeze(&groups, process, child.id(), pidfd.as_fd());
            sleep(Duration::from_millis(20));
            let before = used(below);
            sleep(Duration::from_millis(100));
            assert_eq!(used(below), before, "it works while it is frozen");
            freezer.thaw(&groups, process, child.id(), pidfd.as_fd());
            wait_until("it works again", || used(below) > before);
        }
        freezer.freeze(&groups, process, child.id(), pidfd.as_fd());
        for pid in [below, child.id()] {
            kill_process(Pid::from_raw(pid as i32).unwrap(), Signal::KILL).unwrap();
        }
        child.wait().unwrap();
        freezer.forget(process);
        groups.remove(process);
    }

    #[test]
    fn what_is_frozen_by_a_signal_stands_still_goes_on_and_can_be_killed() {
        check(Groups::absent());
    }

    #[test]
    fn what_is_frozen_as_the_host_allows_stands_still_goes_on_and_can_be_killed() {
        check(Groups::prepare());
    }
}
