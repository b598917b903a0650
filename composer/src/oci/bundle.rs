//! What an OCI runtime is told of a shard's container.
//!
//! Of an image, or of the configuration that comes with a bundle, it takes what is to be run, with which environment and in
//! which folder. All else is the composer's: a read-only root, namespaces of its own, one user who is nobody outside, no
//! capabilities, and no descriptor but the control socket.

use super::cache::Cache;
use super::error::OciError;
use super::limits::Limits;
use super::root::parts;
use super::runtime::Runtime;
use super::seccomp;
use oci_spec::OciSpecError;
use oci_spec::runtime::{
    Capabilities, LinuxBuilder, LinuxCapabilitiesBuilder, LinuxIdMappingBuilder, LinuxNamespaceBuilder,
    LinuxNamespaceType, Mount, MountBuilder, PosixRlimit, PosixRlimitBuilder, PosixRlimitType,
    ProcessBuilder, RootBuilder, Spec, SpecBuilder, UserBuilder, get_default_maskedpaths,
    get_default_readonly_paths,
};
use rustix::process::{getegid, geteuid};
use serde::{Deserialize, Serialize};
use shard_runtime::contain::{PROCESSES_BESIDE, ROOTFS};
use shard_runtime::control::{CONTROL_ENV, PROTOCOL_VERSION};
use shardkit::application::Program;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Who root of a container is outside, if the composer is root: the user and the group that own nothing.
const NOBODY: u32 = 65_534;
/// Where programs are looked for in a container whose image does not say.
const PATH_DEFAULT: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Where a container is kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ContainerPlace {
    pub(crate) bundle: PathBuf,
    pub(crate) rootfs: PathBuf,
}

/// A container that can be started any number of times.
#[derive(Clone, Debug)]
pub(crate) struct Container {
    /// The OCI runtime.
    pub(crate) runtime: PathBuf,
    pub(crate) arguments: Vec<String>,
    /// Its configuration and its files.
    pub(crate) place: ContainerPlace,
}

/// What is run in it.
struct Run {
    rootfs: PathBuf,
    /// The program and the arguments that always come first.
    entry: Vec<String>,
    /// Those that come next if the manifest has none.
    arguments: Vec<String>,
    env: Vec<String>,
    folder: PathBuf,
}

/// Unpacks an image if that was not done before, and writes down how it is run. It may have so many `processes` also where
/// no control group counts them.
pub(crate) fn prepare(
    image: &Path,
    program: &Program,
    processes: u32,
    runtime: &Runtime,
    cache: &Cache,
) -> Result<Container, OciError> {
    let run = if is_bundle(image) { of_bundle(image)? } else { of_image(image, cache)? };
    // At each launch no link is followed any more: what is found now is what is run.
    let rootfs = run.rootfs.canonicalize().map_err(OciError::io(&run.rootfs))?;
    let config = spec(run, program, processes).and_then(|spec| Ok(serde_json::to_string(&spec)?));
    let config = config.map_err(|error| match error {
        Error::Oci(error) => error,
        error => OciError::document("config.json", error),
    })?;
    let bundle = cache.bundle(&config)?;
    let bundle = bundle.canonicalize().map_err(OciError::io(&bundle))?;
    let place = ContainerPlace { bundle, rootfs };
    Ok(Container { runtime: runtime.path().to_owned(), arguments: runtime.arguments(), place })
}

fn is_bundle(image: &Path) -> bool {
    image.join("config.json").is_file() && !image.join("oci-layout").is_file()
}

fn of_bundle(bundle: &Path) -> Result<Run, OciError> {
    let file = bundle.join("config.json");
    let max = Limits::default().document_bytes;
    let opened = File::open(&file).map_err(OciError::io(&file))?;
    let mut text = Vec::new();
    opened.take(max + 1).read_to_end(&mut text).map_err(OciError::io(&file))?;
    if text.len() as u64 > max {
        let (what, limit) = ("bytes of config.json", "Limits::document_bytes");
        return Err(OciError::TooLarge { what, max, limit });
    }
    let spec: Spec =
        serde_json::from_slice(&text).map_err(|error| OciError::document("config.json", error))?;
    let root = spec.root().as_ref().map_or(Path::new("rootfs"), |root| root.path().as_path());
    // What is above it is none of its business.
    let rootfs = bundle.join(parts(root)?.iter().collect::<PathBuf>());
    let rootfs = rootfs.canonicalize().map_err(OciError::io(&rootfs))?;
    if !rootfs.starts_with(bundle.canonicalize().map_err(OciError::io(bundle))?) {
        return Err(OciError::Outside { entry: root.to_owned() });
    }
    let process = spec.process().as_ref();
    let args = process.and_then(|process| process.args().clone()).unwrap_or_default();
    let (entry, arguments) = args.split_at(args.len().min(1));
    Ok(Run {
        rootfs,
        entry: entry.to_vec(),
        arguments: arguments.to_vec(),
        env: process.and_then(|process| process.env().clone()).unwrap_or_default(),
        folder: process.map_or_else(|| "/".into(), |process| process.cwd().clone()),
    })
}

fn of_image(image: &Path, cache: &Cache) -> Result<Run, OciError> {
    let unpacked = cache.unpacked(image, Limits::default())?;
    let config = unpacked.config.config().clone().unwrap_or_default();
    let folder = config.working_dir().clone().filter(|folder| !folder.is_empty());
    Ok(Run {
        rootfs: unpacked.rootfs,
        entry: config.entrypoint().clone().unwrap_or_default(),
        arguments: config.cmd().clone().unwrap_or_default(),
        env: config.env().clone().unwrap_or_default(),
        folder: folder.map_or_else(|| "/".into(), PathBuf::from),
    })
}

/// The environment: the image's, with the component's over it.
fn environment(own: Vec<String>, program: &Program) -> Vec<String> {
    let control = (CONTROL_ENV.to_owned(), PROTOCOL_VERSION.to_string());
    let mut env = vec![PATH_DEFAULT.to_owned()];
    let added = program.env.iter().cloned().chain([control]).map(|(name, value)| format!("{name}={value}"));
    for var in own.into_iter().chain(added) {
        let name = var.split('=').next().unwrap_or_default();
        env.retain(|other| other.split('=').next() != Some(name));
        env.push(var);
    }
    env
}

fn spec(run: Run, program: &Program, processes: u32) -> Result<Spec, Error> {
    let mut args = run.entry;
    args.extend(if program.args.is_empty() { run.arguments } else { program.args.clone() });
    if args.is_empty() {
        return Err(Error::Oci(OciError::NoEntryPoint));
    }
    let none = Capabilities::new;
    let capabilities = LinuxCapabilitiesBuilder::default()
        .bounding(none())
        .effective(none())
        .inheritable(none())
        .permitted(none())
        .ambient(none())
        .build()?;
    let process = ProcessBuilder::default()
        .terminal(false)
        .user(UserBuilder::default().uid(0_u32).gid(0_u32).build()?)
        .args(args)
        .env(environment(run.env, program))
        .cwd(run.folder)
        .capabilities(capabilities)
        .rlimits(rlimits(processes)?)
        .no_new_privileges(true)
        .build()?;
    let (user, group) = (geteuid(), getegid());
    let map = |outside: u32| {
        LinuxIdMappingBuilder::default().container_id(0_u32).host_id(outside).size(1_u32).build()
    };
    // A user who is not root can give away nobody but itself.
    let outside = if user.is_root() { (NOBODY, NOBODY) } else { (user.as_raw(), group.as_raw()) };
    use LinuxNamespaceType::{Cgroup, Ipc, Mount, Network, Pid, User, Uts};
    let namespaces: Result<Vec<_>, _> = [User, Pid, Ipc, Mount, Network, Uts, Cgroup]
        .into_iter()
        .map(|kind| LinuxNamespaceBuilder::default().typ(kind).build())
        .collect();
    let linux = LinuxBuilder::default()
        .namespaces(namespaces?)
        .uid_mappings(vec![map(outside.0)?])
        .gid_mappings(vec![map(outside.1)?])
        .masked_paths(get_default_maskedpaths())
        .readonly_paths(get_default_readonly_paths())
        .seccomp(seccomp::profile().map_err(Error::Oci)?)
        .build()?;
    Ok(SpecBuilder::default()
        .version("1.0.2")
        .root(RootBuilder::default().path(ROOTFS).readonly(true).build()?)
        .process(process)
        .hostname("shard")
        .mounts(mounts()?)
        .linux(linux)
        .build()?)
}

/// How many processes its user may have in there, and no core files, which the host would get. Where a control group
/// counts them that is reached first, and tells: so it is one more than the group allows, as the runtime counts here too where
/// it is the same user's.
fn rlimits(processes: u32) -> Result<Vec<PosixRlimit>, OciSpecError> {
    let limit = |kind, most: u64| PosixRlimitBuilder::default().typ(kind).hard(most).soft(most).build();
    let most = u64::from(processes) + u64::from(PROCESSES_BESIDE) + 1;
    Ok(vec![limit(PosixRlimitType::RlimitNproc, most)?, limit(PosixRlimitType::RlimitCore, 0)?])
}

/// The kernel's file systems, as far as a shard needs them, and a little room to write in memory.
fn mounts() -> Result<Vec<Mount>, OciSpecError> {
    let mount = |place: &str, kind: &str, options: &[&str]| {
        let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
        MountBuilder::default().destination(place).typ(kind).source(kind).options(options).build()
    };
    Ok(vec![
        mount("/proc", "proc", &["nosuid", "noexec", "nodev"])?,
        mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"])?,
        mount("/tmp", "tmpfs", &["nosuid", "nodev", "noexec", "mode=1777", "size=65536k"])?,
    ])
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Oci(OciError),
    #[error(transparent)]
    Spec(#[from] OciSpecError),
    #[error(transparent)]
    Json(#[from] serde_json::Error),
}
