//! What of isolation this host allows: asked of the kernel by starting a process with all of it.
//!
//! Invariant: the host is as before; what is started ends at once and is reaped.

use super::{Absent, Allow, Isolation, Measure};
use crate::control::ControlSocket;
use crate::process::{Spawn, reap, spawn};
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

/// What became of one measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probed {
    /// Which.
    pub measure: Measure,
    /// `None` if the kernel does it; otherwise what it says, and what would mend it.
    pub absent: Option<Absent>,
}

/// Programs that end at once, whatever they are called with.
const PROGRAMS: [&str; 2] = ["/bin/true", "/usr/bin/true"];

/// Tries every measure.
///
/// # Errors
/// When no process can be started at all.
pub fn probe() -> io::Result<Vec<Probed>> {
    let found = PROGRAMS.into_iter().map(Path::new).find(|program| program.exists());
    let program =
        found.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "there is no `true` to start"))?;
    let isolation = Isolation::new(&Allow::default(), program, false).map_err(io::Error::other)?;
    let (_ours, theirs) = ControlSocket::pair()?;
    let started = spawn(&Spawn {
        program,
        args: &[],
        env: &[],
        control: theirs.as_fd(),
        output: None,
        isolation: Some(&isolation),
        anchor: None,
        cgroup: None,
        realtime: 0,
    })?;
    reap(started.pidfd.as_fd())?;
    let absent = |measure| started.absent.iter().copied().find(|absent| absent.measure == measure);
    Ok(Measure::ALL.into_iter().map(|measure| Probed { measure, absent: absent(measure) }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_measure_is_tried_and_what_is_absent_says_why_and_what_would_mend_it() {
        let probed = probe().unwrap();
        assert_eq!(probed.len(), Measure::ALL.len());
        for Probed { measure, absent } in probed {
            match absent {
                None => println!("{measure}: yes"),
                Some(absent) => println!("{absent}; {}", absent.mend()),
            }
            assert!(absent.is_none_or(|absent| absent.errno > 0 && !absent.mend().is_empty()));
        }
    }
}
