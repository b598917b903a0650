//! Everything that booting needs, made ready once, and the layouts that can be booted.

use crate::guest::{Acceleration, Boot, Guest, WireEnd};
use crate::kernel::Kernel;
use crate::wire::Command;
use crate::{devices, host};
use anyhow::{Context, Result};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{env, fs};

/// A working acceleration boots a guest in a second or two.
const PROBE_TIMEOUT: Duration = Duration::from_secs(15);
/// Emulated, on a machine that is busy.
const BOOT_TIMEOUT: Duration = Duration::from_secs(180);

/// How guests and their devices are arranged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Layout {
    /// One guest; one device, `rxe0`, on an interface that leads nowhere: traffic loops back inside the device.
    Single,
    /// One guest; `rxe0` and `rxe1` at the two ends of a wire that can be cut and delayed.
    Veth,
    /// Two guests as two hosts, each with `rxe0` on one end of the wire between them.
    Pair,
}

/// What is ready for booting.
#[derive(Debug)]
pub struct Bed {
    kernel: Kernel,
    acceleration: Acceleration,
    agent: PathBuf,
    kept: Vec<PathBuf>,
}

impl Bed {
    /// Installs what is missing, fetches the kernel, finds out how guests are accelerated. `agent` is this package's
    /// program, `soft-roce`.
    ///
    /// # Errors
    /// Something can't be had; the error tells what to type.
    pub fn prepare(agent: PathBuf) -> Result<Self> {
        host::install()?;
        let cache = host::cache()?;
        let kernel = Kernel::get(&cache)?;
        let mut bed = Self { kernel, acceleration: Acceleration::Emulated, kept: kept(&agent)?, agent };
        bed.acceleration = bed.find_acceleration(&cache)?;
        Ok(bed)
    }

    /// A folder below `/tmp` or `/run` that guests shall see; all other folders they see anyway.
    pub fn keep(&mut self, folder: &Path) {
        self.kept.push(folder.to_owned());
    }

    /// The kernel's version.
    pub fn kernel_version(&self) -> &str {
        &self.kernel.version
    }

    /// How guests run here, in words.
    pub fn acceleration(&self) -> &'static str {
        match self.acceleration {
            Acceleration::Kvm => "KVM",
            Acceleration::Emulated => "emulated (TCG)",
        }
    }

    /// Boots guests and brings their devices up.
    ///
    /// # Errors
    /// A guest does not boot, or its devices do not come up; the error holds the end of its console.
    pub fn boot(&self, layout: Layout) -> Result<Vec<Guest>> {
        let booted = match layout {
            Layout::Single | Layout::Veth => vec![self.start("guest", None)?],
            Layout::Pair => {
                // Datagrams: QEMU 7.2's wire of type `stream` carried nothing in one boot of four on a busy machine.
                let (left, right) =
                    socketpair(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
                        .context("no socket for the wire between the guests")?;
                vec![
                    self.start("left", Some(WireEnd { socket: left, host: 1 }))?,
                    self.start("right", Some(WireEnd { socket: right, host: 2 }))?,
                ]
            }
        };
        booted.iter().try_for_each(|guest| guest.await_agent(BOOT_TIMEOUT))?;
        for (index, guest) in booted.iter().enumerate() {
            let devices = match layout {
                Layout::Single => devices::Setup::Dummy,
                Layout::Veth => devices::Setup::Veth,
                Layout::Pair => devices::Setup::Wire { host: index as u8 + 1 },
            };
            guest.run(Command::new(self.agent()).arg("up").args(devices.arguments()))?.ok()?;
        }
        if layout == Layout::Pair {
            let ping = format!("busybox ping -c 1 -W 1 {}", devices::address(2));
            let tries = format!("for i in 1 2 3 4 5 6 7 8 9 10; do {ping} && exit 0; done; exit 1");
            booted[0]
                .run(Command::shell(tries))?
                .ok()
                .context("the wire between the guests carries nothing")?;
        }
        Ok(booted)
    }

    /// The program that also serves in the guests.
    pub fn agent(&self) -> String {
        self.agent.to_string_lossy().into_owned()
    }

    fn start(&self, name: &str, wire: Option<WireEnd>) -> Result<Guest> {
        Guest::start(Boot {
            name,
            kernel: &self.kernel,
            acceleration: self.acceleration,
            agent: &self.agent,
            kept: &self.kept,
            wire,
        })
    }

    /// `/dev/kvm` may be there and hang for ever: only a guest that boots is a proof. The verdict is kept.
    fn find_acceleration(&mut self, cache: &Path) -> Result<Acceleration> {
        if fs::File::options().read(true).write(true).open("/dev/kvm").is_err() {
            return Ok(Acceleration::Emulated);
        }
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let verdict = cache.join(format!("kvm-{}", boot.trim()));
        if let Ok(kept) = fs::read_to_string(&verdict) {
            return Ok(if kept == "works" { Acceleration::Kvm } else { Acceleration::Emulated });
        }
        self.acceleration = Acceleration::Kvm;
        let works = self.start("probe", None).and_then(|guest| guest.await_agent(PROBE_TIMEOUT)).is_ok();
        if !works {
            eprintln!("soft-roce: KVM is there and boots no guest; guests are emulated");
        }
        fs::write(&verdict, if works { "works" } else { "hangs" })?;
        Ok(if works { Acceleration::Kvm } else { Acceleration::Emulated })
    }
}

/// What guests need of the folders that are empty in them: where the agent is, and where we work.
fn kept(agent: &Path) -> Result<Vec<PathBuf>> {
    let agent = agent.canonicalize().with_context(|| format!("{} is not there", agent.display()))?;
    Ok(agent.parent().map(Path::to_owned).into_iter().chain(env::current_dir().ok()).collect())
}
