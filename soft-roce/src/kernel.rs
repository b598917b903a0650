//! The guest's kernel: Debian's stock one, fetched and unpacked, never installed; and the initial file system with
//! the drivers that a guest needs.

use crate::host;
use anyhow::{Context, Result, bail};
use std::collections::HashSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Loaded in this order, each with what it needs. Without a provider of crc32, `rdma link add` fails.
const MODULES: [&str; 17] = [
    "virtio_pci",
    "virtio_net",
    "virtio_console",
    "9pnet_virtio",
    "9p",
    "dummy",
    "veth",
    "sch_netem",
    "crc32_generic",
    "crc32-pclmul",
    "ib_uverbs",
    "rdma_ucm",
    "rdma_rxe",
    "sch_tbf",
    "overlay",
    "loop",
    "ext4",
];
const INIT: &str = include_str!("../guest/init");

/// What QEMU boots.
#[derive(Debug, Clone)]
pub(crate) struct Kernel {
    pub(crate) version: String,
    pub(crate) image: PathBuf,
    pub(crate) initial_files: PathBuf,
}

impl Kernel {
    /// From the cache, or fetched.
    pub(crate) fn get(cache: &Path) -> Result<Self> {
        let root = match fs::read_dir(cache.join("kernels")).ok().and_then(newest) {
            Some(root) => root,
            None => fetch(cache)?,
        };
        let version = only_entry(&root.join("lib/modules"))?;
        let image = root.join("boot").join(format!("vmlinuz-{version}"));
        let initial_files = root.join("initial-files.cpio");
        let kernel = Self { version, image, initial_files };
        kernel.pack(&root)?;
        Ok(kernel)
    }

    /// Writes the initial file system: busybox, the modules in their order, and the first program.
    fn pack(&self, root: &Path) -> Result<()> {
        let staging = tempfile::tempdir()?;
        let at = staging.path();
        for folder in ["bin", "modules", "proc", "sys", "dev", "host", "root"] {
            fs::create_dir(at.join(folder))?;
        }
        let busybox = host::program_path("busybox").context("busybox is missing")?;
        fs::copy(busybox, at.join("bin/busybox"))?;
        let mut order = String::new();
        for module in self.modules(root)? {
            let name = module.file_name().context("a module without a name")?;
            fs::copy(&module, at.join("modules").join(name))
                .with_context(|| format!("{} can't be copied", module.display()))?;
            order.push_str(&format!("{}\n", name.to_string_lossy()));
        }
        fs::write(at.join("modules/order"), order)?;
        fs::write(at.join("init"), INIT)?;
        host::run(Command::new("chmod").arg("755").arg(at.join("init")))?;
        archive(at, &self.initial_files)
    }

    fn modules(&self, root: &Path) -> Result<Vec<PathBuf>> {
        let modprobe = host::program_path("modprobe").context("modprobe is missing")?;
        let mut seen = HashSet::new();
        let mut modules = Vec::new();
        for module in MODULES {
            let output =
                host::run(Command::new(&modprobe).args(["--dirname".as_ref(), root.as_os_str()]).args([
                    "--set-version",
                    &self.version,
                    "--show-depends",
                    module,
                ]))
                .with_context(|| format!("kernel {} has no module {module}", self.version))?;
            // Each line: `insmod PATH OPTIONS`, or `builtin NAME`.
            for line in String::from_utf8_lossy(&output.stdout).lines() {
                let path =
                    line.strip_prefix("insmod ").and_then(|rest| Some(&rest[..rest.rfind(".ko")? + 3]));
                if let Some(path) = path
                    && seen.insert(path.to_owned())
                {
                    modules.push(PathBuf::from(path));
                }
            }
        }
        Ok(modules)
    }
}

/// The kernel that was unpacked last.
fn newest(entries: fs::ReadDir) -> Option<PathBuf> {
    let mut roots: Vec<_> =
        entries.flatten().map(|entry| entry.path()).filter(|root| root.join("whole").exists()).collect();
    roots.sort();
    roots.pop()
}

fn only_entry(folder: &Path) -> Result<String> {
    let mut names =
        fs::read_dir(folder)?.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.next().with_context(|| format!("{} is empty", folder.display()))
}

/// Fetches Debian's kernel package and unpacks it into the cache.
fn fetch(cache: &Path) -> Result<PathBuf> {
    let package = package().or_else(|_| {
        host::run(host::privileged("apt-get").arg("update"))?;
        package()
    })?;
    eprintln!("soft-roce: fetching {package}");
    let loading = tempfile::tempdir_in(cache)?;
    host::run(Command::new("apt-get").args(["download", &package]).current_dir(loading.path()))
        .with_context(|| format!("the kernel can't be fetched; try: apt-get download {package}"))?;
    let file = loading.path().join(only_entry(loading.path())?);
    let unpacked = loading.path().join("unpacked");
    host::run(Command::new("dpkg").arg("-x").arg(&file).arg(&unpacked))?;
    let version = only_entry(&unpacked.join("lib/modules"))?;
    let depmod = host::program_path("depmod").context("depmod is missing")?;
    host::run(Command::new(depmod).arg("--basedir").arg(&unpacked).arg(&version))?;
    // Whole only when everything is there: another process may have been faster.
    fs::write(unpacked.join("whole"), "")?;
    let root = cache.join("kernels").join(&version);
    fs::create_dir_all(cache.join("kernels"))?;
    if fs::rename(&unpacked, &root).is_err() && !root.join("whole").exists() {
        bail!("{} can't be put in place; remove it and try again", root.display());
    }
    Ok(root)
}

/// The newest kernel of the 6.1 series: `rdma_rxe` of newer ones drops completions when many queue pairs are used.
fn package() -> Result<String> {
    let output = host::run(Command::new("apt-cache").args([
        "search",
        "--names-only",
        r"^linux-image-6\.1\.0-[0-9]+-amd64$",
    ]))?;
    let names = String::from_utf8_lossy(&output.stdout).into_owned();
    let number =
        |name: &str| name.strip_prefix("linux-image-6.1.0-")?.strip_suffix("-amd64")?.parse::<u32>().ok();
    let newest = names.lines().filter_map(|line| line.split(' ').next()).max_by_key(|name| number(name));
    newest.map(str::to_owned).context(
        "no kernel of the 6.1 series for amd64 is on offer here; the test bed needs Debian 12's package sources",
    )
}

/// An archive of a folder, as the kernel reads it.
fn archive(folder: &Path, to: &Path) -> Result<()> {
    let names = host::run(Command::new("find").arg(".").current_dir(folder))?.stdout;
    let whole = tempfile::NamedTempFile::new_in(to.parent().context("no folder for the archive")?)?;
    let mut cpio = Command::new("cpio")
        .args(["--create", "--format=newc", "--owner=0:0", "--quiet"])
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(whole.reopen()?)
        .spawn()
        .context("cpio can't be started")?;
    cpio.stdin.take().context("cpio without input")?.write_all(&names)?;
    if !cpio.wait()?.success() {
        bail!("cpio failed");
    }
    whole.persist(to)?;
    Ok(())
}
