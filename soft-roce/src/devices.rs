//! RDMA devices in software: made and removed, in a guest or on this host.

use crate::host::{self, privileged, run};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

/// The interface that leads nowhere.
const DUMMY: &str = "roce";
/// Both ends of the wire inside of one host.
const ENDS: [&str; 2] = ["roce0", "roce1"];
/// RoCE's largest packet, 4,096 bytes, and its headers.
const MTU: &str = "4200";
const READY_TIMEOUT: Duration = Duration::from_secs(30);

/// Which devices to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Setup {
    /// `rxe0` on an interface that leads nowhere.
    Dummy,
    /// `rxe0` and `rxe1` on the two ends of a wire inside of this host.
    Veth,
    /// `rxe0` on a guest's end of the wire between two guests.
    Wire {
        /// Which guest: 1 or 2.
        host: u8,
    },
    /// A device on an interface that is there already.
    On {
        /// The interface.
        interface: String,
    },
}

impl Setup {
    /// The same as arguments of `soft-roce up`.
    pub(crate) fn arguments(&self) -> Vec<String> {
        match self {
            Self::Dummy => vec!["--layout".into(), "single".into()],
            Self::Veth => vec!["--layout".into(), "veth".into()],
            Self::Wire { host } => vec!["--layout".into(), "pair".into(), "--host".into(), host.to_string()],
            Self::On { interface } => vec!["--interface".into(), interface.clone()],
        }
    }
}

/// The address of a guest, or of an end of the wire: `end` is 1 or 2.
pub fn address(end: u8) -> String {
    format!("10.77.0.{end}")
}

/// Makes the devices and waits until they can be used.
///
/// # Errors
/// The kernel has no `rdma_rxe`, names are taken, rights are missing: each tells the command that failed.
pub fn up(setup: &Setup) -> Result<()> {
    load_driver()?;
    match setup {
        Setup::Dummy => {
            ip(&["link", "add", DUMMY, "type", "dummy"])?;
            start(DUMMY, Some(1))?;
            attach("rxe0", DUMMY)
        }
        Setup::Veth => {
            ip(&["link", "add", ENDS[0], "type", "veth", "peer", "name", ENDS[1]])?;
            // Both ends have an address of this host: without these, packets from oneself are dropped.
            for interface in ["all", "default", ENDS[0], ENDS[1]] {
                let folder = Path::new("/proc/sys/net/ipv4/conf").join(interface);
                fs::write(folder.join("accept_local"), "1").context("accept_local can't be set")?;
                fs::write(folder.join("rp_filter"), "0").context("rp_filter can't be set")?;
            }
            start(ENDS[0], Some(1))?;
            start(ENDS[1], Some(2))?;
            attach("rxe0", ENDS[0])?;
            attach("rxe1", ENDS[1])
        }
        Setup::Wire { host } => {
            let interface = wire_interface()?;
            start(&interface, Some(*host))?;
            attach("rxe0", &interface)
        }
        Setup::On { interface } => {
            if !Path::new("/sys/class/net").join(interface).exists() {
                bail!("there is no interface {interface}; `ip link` lists them");
            }
            let free = (0..).map(|number| format!("rxe{number}"));
            let name = free.into_iter().find(|name| !Path::new("/sys/class/infiniband").join(name).exists());
            attach(&name.context("no free name")?, interface)
        }
    }
}

/// Removes all software devices of this host, and the interfaces that [`up`] made.
///
/// # Errors
/// Rights are missing.
pub fn down() -> Result<Vec<String>> {
    let mut removed = Vec::new();
    for name in names() {
        // A device of software has no device below it on a bus.
        if !Path::new("/sys/class/infiniband").join(&name).join("device").exists() {
            run(privileged("rdma").args(["link", "delete", &name]))?;
            removed.push(name);
        }
    }
    for interface in [DUMMY, ENDS[0]] {
        if Path::new("/sys/class/net").join(interface).exists() {
            ip(&["link", "delete", interface])?;
            removed.push(interface.to_owned());
        }
    }
    Ok(removed)
}

/// The RDMA devices of this host.
pub fn names() -> Vec<String> {
    let entries = fs::read_dir("/sys/class/infiniband").ok();
    let mut names: Vec<_> = entries
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

fn load_driver() -> Result<()> {
    if Path::new("/sys/module/rdma_rxe").exists() {
        return Ok(());
    }
    run(privileged("modprobe").arg("rdma_rxe")).map(drop).context(
        "this kernel has no soft-RoCE driver (rdma_rxe); use guests: `soft-roce run`, `soft-roce demo`",
    )
}

fn start(interface: &str, end: Option<u8>) -> Result<()> {
    ip(&["link", "set", interface, "mtu", MTU, "up"])?;
    if let Some(end) = end {
        ip(&["address", "add", &format!("{}/24", address(end)), "dev", interface])?;
    }
    Ok(())
}

fn attach(device: &str, interface: &str) -> Result<()> {
    run(privileged("rdma").args(["link", "add", device, "type", "rxe", "netdev", interface]))?;
    let deadline = Instant::now() + READY_TIMEOUT;
    while !usable(device) {
        if Instant::now() > deadline {
            bail!(
                "device {device} on {interface} has no active port with an IPv4 address after {} s",
                READY_TIMEOUT.as_secs()
            );
        }
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Whether the port is active and has a RoCE v2 entry with an IPv4-mapped address.
fn usable(device: &str) -> bool {
    let port = Path::new("/sys/class/infiniband").join(device).join("ports/1");
    let read = |path: &str| fs::read_to_string(port.join(path)).unwrap_or_default();
    read("state").contains("ACTIVE")
        && (0..16).any(|index| {
            read(&format!("gids/{index}")).starts_with("0000:0000:0000:0000:0000:ffff:")
                && read(&format!("gid_attrs/types/{index}")).contains("RoCE v2")
        })
}

/// The guest's end of the wire: the only interface on a bus.
fn wire_interface() -> Result<String> {
    let entries = fs::read_dir("/sys/class/net").context("no interfaces")?;
    let mut names = entries.flatten().filter(|entry| entry.path().join("device").exists());
    let name = names.next().context("this guest has no wire to another one")?;
    Ok(name.file_name().to_string_lossy().into_owned())
}

fn ip(arguments: &[&str]) -> Result<()> {
    let program = host::program_path("ip").context("`ip` is missing: apt-get install iproute2")?;
    let mut command: Command = privileged(&program.to_string_lossy());
    run(command.args(arguments)).map(drop)
}
