//! Real-time priority for the threads of shards whose components ask for it.
//!
//! It is given once a shard is ready: by then its thread is on a core of its own, where it holds up nobody.
//!
//! Invariant: where the host does not allow it, that is told once with what would mend it, and the shard runs without.

use crate::resources::limits::Tried;
use rustix::process::{Signal, pidfd_send_signal};
use shard_runtime::isolation::{Allow, Isolation};
use shard_runtime::process::{anchor, reap};
use shard_runtime::realtime::give_realtime;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

/// The capability to set priorities, by its number.
const CAP_SYS_NICE: u32 = 23;
/// Of each second a core leaves some for what has no real-time priority; here is how much.
const RUNTIME: &str = "/proc/sys/kernel/sched_rt_runtime_us";

/// See the head of this file.
#[derive(Default)]
pub(crate) struct Realtime {
    told: bool,
}

impl Realtime {
    /// Gives the first thread of a process of this component a priority.
    pub(crate) fn give(&mut self, pid: u32, priority: u32, component: &str) {
        match give_realtime(pid, priority) {
            Ok(()) => tracing::info!(component, pid, priority, "real-time priority"),
            // It has ended.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => {}
            Err(error) if !std::mem::replace(&mut self.told, true) => {
                tracing::warn!(
                    component,
                    priority,
                    %error,
                    mend = mend(),
                    "this host does not allow real-time priority; shards run without it"
                );
            }
            Err(_) => {}
        }
    }
}

/// What would let this process give it.
fn mend() -> String {
    if may_set_priorities() {
        return "boot with rt_group_sched=0 (Linux 6.16), or give the control group of the shards a share: \
                echo 950000 > /sys/fs/cgroup/cpu/GROUP/cpu.rt_runtime_us; in a container: run the composer outside"
            .into();
    }
    "run the composer with CAP_SYS_NICE (AmbientCapabilities=CAP_SYS_NICE in its unit), or as an ordinary user with \
     ulimit -r 49 (LimitRTPRIO=49)"
        .into()
}

fn may_set_priorities() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    effective >> CAP_SYS_NICE & 1 == 1
}

/// Gives it to an isolated process that does nothing, and ends that.
pub(crate) fn tried() -> Tried {
    let what = "real-time priority";
    match try_once() {
        Ok(seen) => {
            let runtime = fs::read_to_string(RUNTIME).unwrap_or_default();
            Tried { what, evidence: format!("{seen}; {RUNTIME}: {}", runtime.trim()), mend: None }
        }
        Err(error) => Tried {
            what,
            evidence: format!("sched_setscheduler on a process of a shard: {error}"),
            mend: Some(mend()),
        },
    }
}

fn try_once() -> io::Result<String> {
    let isolation = Isolation::new(&Allow::default(), Path::new("/proc/self/exe"), false);
    let process = anchor(&isolation.map_err(io::Error::other)?)?;
    let given = give_realtime(process.pid, 1);
    let stat = fs::read_to_string(format!("/proc/{}/stat", process.pid)).unwrap_or_default();
    let _ = pidfd_send_signal(&process.pidfd, Signal::KILL);
    reap(process.pidfd.as_fd())?;
    given?;
    // The 40th and 41st field; the name, which may hold anything, is the second.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let [priority, policy] = [37, 38].map(|at| fields.clone().nth(at).unwrap_or_default().to_owned());
    if (priority.as_str(), policy.as_str()) == ("1", "1") {
        return Ok("a process of a shard was given SCHED_FIFO 1, as its `stat` says".into());
    }
    Err(io::Error::other(format!("its `stat` says policy {policy}, priority {priority}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn real_time_priority_is_tried_with_a_process_of_a_shard_and_its_absence_has_a_mend() {
        let tried = tried();
        println!("{tried:?}");
        assert!(!tried.evidence.is_empty());
        assert!(tried.mend.is_none_or(|mend| !mend.is_empty()));
    }
}
