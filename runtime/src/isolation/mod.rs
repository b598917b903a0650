//! Isolation of a shard: what its process can reach.
//!
//! A shard gets user, mount, pid, ipc, net, uts and cgroup namespaces of its own, a root that can only be read and holds
//! its program, what the dynamic loader needs and what its component declares ([`Allow`]), no capability and no way to
//! get one, a list of system calls (`filter`), a Landlock ruleset, and no descriptor but the standard streams and its
//! control socket.
//!
//! All that needs memory or thought is prepared before the process is there ([`Isolation::new`]);
//! what runs in it until its program does are system calls (`enter`).
//!
//! Invariant: a measure that this host refuses is left out and told ([`Absent`]), never silently; none of the others is
//! left out with it.

mod enter;
mod filter;
mod landlock;
mod probe;
mod root;

pub(crate) use enter::{Enter, FIRST_FD, Fork, Identity, Outcome, set_attributes};
pub use filter::{is_syscall, syscall_names};
pub use probe::{Probed, probe};

use ::landlock::ABI;
use rustix::process::geteuid;
use seccompiler::BpfProgram;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// The most processes and threads that an isolated shard can have, threads of its own included.
pub const TASKS_MAX: u64 = 512;
/// The same of a zygote and all shards that are forked from it together.
pub const ZYGOTE_TASKS_MAX: u64 = 16_384;
/// What an isolated shard can keep in its `/tmp`, in bytes. It counts as the shard's memory.
pub const TMP_BYTES: u64 = 16 << 20;
/// The user and group that a shard runs as where the composer is root: they own nothing.
pub const NOBODY: u32 = 65_534;

/// What a component's shards may reach besides the rings that they are handed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Allow {
    /// Files and folders that they may read and execute.
    pub read: Vec<PathBuf>,
    /// Files and folders that they may also write.
    pub write: Vec<PathBuf>,
    /// Device nodes that they may use.
    pub devices: Vec<PathBuf>,
    /// Whether they have the host's network.
    pub network: bool,
    /// Whether they have links over RDMA: the host's network namespace, without which the device can't be used, and
    /// its nodes; no sockets.
    pub rdma: bool,
    /// System calls besides those that every shard may make, by name.
    pub syscalls: Vec<String>,
}

/// One thing that isolation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[repr(u8)]
pub enum Measure {
    /// A user namespace, without which an unprivileged composer can make no other.
    User,
    /// A mount namespace.
    Mount,
    /// A pid namespace: it can name no other process, and whatever it started dies with it.
    Pid,
    /// An ipc namespace.
    Ipc,
    /// A net namespace without any interface.
    Net,
    /// A uts namespace: it does not know the host's name for its own to change.
    Uts,
    /// A cgroup namespace: it does not see where in the host's tree it is.
    Cgroup,
    /// A user that owns nothing, where the composer is root.
    Nobody,
    /// A root of its own, which can only be read.
    Root,
    /// A `/proc` of its own pid namespace.
    Proc,
    /// No new privileges by exec.
    NoNewPrivileges,
    /// No capabilities, none to be had.
    Capabilities,
    /// A bound on its processes and threads.
    Tasks,
    /// A filter of system calls.
    Seccomp,
    /// A Landlock ruleset.
    Landlock,
}

impl Measure {
    /// All of them, in the order in which they are taken.
    pub const ALL: [Self; 15] = [
        Self::User,
        Self::Mount,
        Self::Pid,
        Self::Ipc,
        Self::Net,
        Self::Uts,
        Self::Cgroup,
        Self::Nobody,
        Self::Root,
        Self::Proc,
        Self::NoNewPrivileges,
        Self::Capabilities,
        Self::Tasks,
        Self::Seccomp,
        Self::Landlock,
    ];
    pub(crate) const COUNT: usize = Self::ALL.len();
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Measure {
    /// What it is called.
    pub const fn name(self) -> &'static str {
        match self {
            Self::User => "user namespace",
            Self::Mount => "mount namespace",
            Self::Pid => "pid namespace",
            Self::Ipc => "ipc namespace",
            Self::Net => "net namespace",
            Self::Uts => "uts namespace",
            Self::Cgroup => "cgroup namespace",
            Self::Nobody => "a user that owns nothing",
            Self::Root => "read-only root",
            Self::Proc => "proc of its own",
            Self::NoNewPrivileges => "no new privileges",
            Self::Capabilities => "no capabilities",
            Self::Tasks => "bound on processes",
            Self::Seccomp => "system call filter",
            Self::Landlock => "Landlock ruleset",
        }
    }
}

/// A measure that a host does not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Absent {
    /// Which.
    pub measure: Measure,
    /// The number of the kernel's error.
    pub errno: i32,
}

impl Absent {
    /// What would mend it: the command, or the setting of whatever this process runs in.
    pub fn mend(&self) -> String {
        self.mend_of(Path::new("/"))
    }

    /// The same, with the kernel's settings as they stand below a root.
    pub fn mend_of(&self, root: &Path) -> String {
        let needs_users =
            [Measure::Cgroup, Measure::Root, Measure::Proc, Measure::Capabilities, Measure::Tasks];
        let setting =
            |path: &str| std::fs::read_to_string(root.join(path)).ok().map(|text| text.trim().to_owned());
        match self.measure {
            Measure::User if setting("proc/sys/user/max_user_namespaces").as_deref() == Some("0") => {
                "sysctl -w user.max_user_namespaces=10000".into()
            }
            Measure::User if setting("proc/sys/kernel/unprivileged_userns_clone").as_deref() == Some("0") => {
                "sysctl -w kernel.unprivileged_userns_clone=1".into()
            }
            Measure::User | Measure::Mount | Measure::Root | Measure::Capabilities
                if setting("proc/sys/kernel/apparmor_restrict_unprivileged_userns").as_deref() == Some("1") =>
            {
                "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile with `userns` for the launch helper".into()
            }
            Measure::User | Measure::Mount | Measure::Pid | Measure::Ipc | Measure::Net | Measure::Uts => {
                "run the composer outside of the container, or in one whose seccomp and AppArmor profiles allow user namespaces".into()
            }
            measure if needs_users.contains(&measure) && self.errno == libc::EPERM => {
                "what mends the user namespace, or an ordinary user instead of root, mends it".into()
            }
            Measure::Cgroup => "a kernel with CONFIG_CGROUPS (4.6 or later)".into(),
            Measure::Nobody => format!("map the user {NOBODY} into the container, or run the composer as an ordinary user"),
            Measure::Root => "a kernel with mount_setattr (5.12 or later)".into(),
            Measure::Proc => "a container whose own /proc has no masked paths (docker: --security-opt systempaths=unconfined)".into(),
            Measure::Tasks => "run the composer as an ordinary user, or give its shards control groups with `pids.max`".into(),
            Measure::Seccomp => "a kernel with CONFIG_SECCOMP_FILTER".into(),
            Measure::Landlock => "boot with `landlock` in `lsm=` (kernel 5.13 or later, CONFIG_SECURITY_LANDLOCK)".into(),
            Measure::NoNewPrivileges | Measure::Capabilities => "a container whose seccomp profile allows prctl and capset".into(),
        }
    }
}

impl fmt::Display for Absent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.measure, io::Error::from_raw_os_error(self.errno))
    }
}

/// Why a shard's isolation can't be prepared.
#[derive(Debug, thiserror::Error)]
pub enum IsolationError {
    /// A path that its component declares is not there.
    #[error("`{path}`, which the component may reach, can't be: {source}")]
    Path {
        /// The path.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The filter of system calls can't be made.
    #[error("the filter of system calls can't be compiled: {0}")]
    Filter(String),
}

impl IsolationError {
    /// What kind of error it is where there are only the kernel's.
    pub fn kind(&self) -> io::ErrorKind {
        match self {
            Self::Path { source, .. } => source.kind(),
            Self::Filter(_) => io::ErrorKind::Unsupported,
        }
    }
}

/// How the shards of one component are isolated: prepared once, used for each.
pub struct Isolation {
    allow: Allow,
    pub(crate) zygote: bool,
    root: root::Root,
    filters: Vec<BpfProgram>,
    identity: Identity,
}

impl Isolation {
    /// Prepares the isolation of what runs `program`; a zygote may besides fork itself into namespaces.
    ///
    /// # Errors
    /// When a path that is declared is not there.
    pub fn new(allow: &Allow, program: &Path, zygote: bool) -> Result<Self, IsolationError> {
        let filters = filter::compile(&allow.syscalls, allow.network, zygote)
            .map_err(|error| IsolationError::Filter(error.to_string()))?;
        let root = root::Root::new(allow, program)?;
        // Files that a component declares belong to someone who may use them: the composer's user.
        let is_nobody = geteuid().is_root() && allow.read.is_empty() && allow.write.is_empty();
        let identity = if is_nobody { Identity { uid: NOBODY, gid: NOBODY } } else { Identity::own() };
        Ok(Self { allow: allow.clone(), zygote, root, filters, identity })
    }

    /// What is made anew for each process.
    ///
    /// # Errors
    /// No descriptor or memory is left. That is no refusal of the host, and nothing is left out for it.
    pub(crate) fn ready(&self) -> io::Result<Enter<'_>> {
        let mut absent = Vec::new();
        let (ruleset, added) = match landlock::ruleset(&self.allow, &self.root) {
            Ok((ruleset, added)) => (ruleset, added),
            Err(errno @ (libc::EMFILE | libc::ENFILE | libc::ENOMEM)) => {
                return Err(io::Error::from_raw_os_error(errno));
            }
            Err(errno) => {
                absent.push(Absent { measure: Measure::Landlock, errno });
                (None, 0)
            }
        };
        Enter::new(self, ruleset, added, absent)
    }

    /// The namespaces that it gets, as flags of `clone3`.
    pub(crate) fn namespaces(&self) -> u64 {
        let mut flags = libc::CLONE_NEWUSER
            | libc::CLONE_NEWNS
            | libc::CLONE_NEWPID
            | libc::CLONE_NEWIPC
            | libc::CLONE_NEWUTS;
        if !self.allow.network && !self.allow.rdma {
            flags |= libc::CLONE_NEWNET;
        }
        flags as u64
    }
}

/// The version of Landlock that the kernel has; 0 for none.
pub fn landlock_abi() -> i32 {
    /// `LANDLOCK_CREATE_RULESET_VERSION`
    const VERSION: libc::c_long = 1;
    // SAFETY: with this flag it takes no memory, and only says a number.
    let version = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, 0_usize, 0_usize, VERSION) };
    version.max(0) as i32
}

/// The newest version of Landlock that is asked for.
const LANDLOCK_ABI: ABI = ABI::V6;

/// A ruleset's descriptor.
type Ruleset = Option<OwnedFd>;
