//! What the test bed needs of this host, and how it is got: Debian's packages.

use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A program, and the package that brings it.
const PROGRAMS: [(&str, &str); 8] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("busybox", "busybox-static"),
    ("cpio", "cpio"),
    ("modprobe", "kmod"),
    ("ip", "iproute2"),
    ("rdma", "iproute2"),
    ("ib_write_lat", "perftest"),
    ("ibv_devinfo", "ibverbs-utils"),
];

/// Packages that bring libraries only, and one file of each.
const LIBRARIES: [(&str, &str); 3] = [
    ("libibverbs.so.1", "libibverbs1"),
    ("librdmacm.so.1", "librdmacm1"),
    ("libibverbs/librxe-rdmav34.so", "ibverbs-providers"),
];

/// The packages that are missing here.
pub(crate) fn missing() -> Vec<&'static str> {
    let mut missing = Vec::new();
    let programs = PROGRAMS.iter().filter(|(program, _)| program_path(program).is_none());
    let libraries = LIBRARIES.iter().filter(|(file, _)| {
        !["/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib"]
            .iter()
            .any(|at| Path::new(at).join(file).exists())
    });
    for (_, package) in programs.chain(libraries) {
        if !missing.contains(package) {
            missing.push(*package);
        }
    }
    missing
}

/// Installs what is missing.
pub(crate) fn install() -> Result<()> {
    let missing = missing();
    if missing.is_empty() {
        return Ok(());
    }
    let cure = format!("apt-get install --no-install-recommends {}", missing.join(" "));
    install_packages(&missing).with_context(|| format!("packages are missing; type: {cure}"))?;
    let still = self::missing();
    if !still.is_empty() {
        bail!("still missing after the installation: {}; type: {cure}", still.join(" "));
    }
    Ok(())
}

/// Installs packages.
pub(crate) fn install_packages(packages: &[&str]) -> Result<()> {
    eprintln!("soft-roce: installing {}", packages.join(" "));
    let install = || apt(&["install", "--yes", "--no-install-recommends"], packages);
    install().or_else(|_| {
        // The lists may be old.
        let _ = apt(&["update"], &[]);
        install()
    })
}

fn apt(verb: &[&str], packages: &[&str]) -> Result<()> {
    let mut command = privileged("apt-get");
    command.args(verb).args(packages).env("DEBIAN_FRONTEND", "noninteractive");
    run(&mut command).map(drop)
}

/// A command that needs root's rights.
pub(crate) fn privileged(program: &str) -> Command {
    if rustix::process::geteuid().is_root() {
        Command::new(program)
    } else {
        let mut command = Command::new("sudo");
        command.args(["--non-interactive", program]);
        command
    }
}

/// Runs it to its end; a failure tells the command and what it said.
pub(crate) fn run(command: &mut Command) -> Result<Output> {
    let shown = format!("{command:?}").replace('"', "");
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("`{shown}` can't be started"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("`{shown}` failed ({}): {}", output.status, said.trim());
    }
    Ok(output)
}

/// Where a program is, also in the folders that only root's path holds.
pub(crate) fn program_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    folders.map(|folder| folder.join(program)).find(|path| path.is_file())
}

/// Where the kernel and the initial file system are kept between runs.
pub(crate) fn cache() -> Result<PathBuf> {
    let base = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")))
        .unwrap_or_else(std::env::temp_dir);
    let cache = base.join("soft-roce");
    std::fs::create_dir_all(&cache).with_context(|| format!("{} can't be made", cache.display()))?;
    Ok(cache)
}
