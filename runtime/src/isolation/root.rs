//! The root that a shard sees: a list of what to make and what to mount, prepared as text that the kernel takes.
//!
//! ```text
//! /            tmpfs, read-only                    /usr /lib /lib64 /bin /sbin   the host's, read-only
//! /program     the component's, read-only          /etc/ld.so.cache              the host's, read-only
//! /tmp         tmpfs, small                        /dev                          null zero full urandom random
//! /proc        of its own pid namespace            and what the component declares
//! ```
//!
//! Invariant: nothing that is mounted is writable but `/tmp` and what stands under `write`. What a device node takes is no
//! change of a file system: the nodes themselves can't be changed, even by who owns them.

use super::{Allow, IsolationError};
use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The most that can be mounted into a root.
pub(super) const BINDS_MAX: usize = 256;

/// What every program needs that is linked dynamically.
const SYSTEM: [&str; 7] = ["/usr", "/lib", "/lib64", "/lib32", "/bin", "/sbin", "/etc/ld.so.cache"];
/// What a program with a network reads to find others.
const NETWORK: [&str; 8] = [
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/nsswitch.conf",
    "/etc/gai.conf",
    // Not all of `/etc/ssl`, where a host keeps its keys.
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
    "/etc/pki/ca-trust/extracted",
    "/etc/ca-certificates",
];
/// Devices without any power.
const DEVICES: [&str; 5] = ["/dev/null", "/dev/zero", "/dev/full", "/dev/urandom", "/dev/random"];
/// What links over RDMA need: the nodes, and what the kernel tells of the devices.
const RDMA_DEVICES: &str = "/dev/infiniband";
const RDMA_READ: [&str; 3] = ["/sys", "/etc/libibverbs.d", "/run/udev"];
/// Where the new root is put together: any folder that is there.
const BASES: [&str; 5] = ["/tmp", "/run", "/var", "/usr", "/proc"];

/// Something to make in the new root. Paths are relative to it.
pub(super) enum Make {
    Folder(CString),
    File(CString),
    Link { to: CString, at: CString },
}

/// Something of the host's to mount there.
pub(super) struct Bind {
    pub(super) from: CString,
    pub(super) at: CString,
    pub(super) writable: bool,
    pub(super) device: bool,
    path: PathBuf,
}

/// See the head of this file.
pub(super) struct Root {
    pub(super) base: CString,
    pub(super) make: Vec<Make>,
    pub(super) binds: Vec<Bind>,
}

impl Root {
    pub(super) fn new(allow: &Allow, program: &Path) -> Result<Self, IsolationError> {
        let base = BASES.into_iter().find(|base| Path::new(base).is_dir()).unwrap_or("/proc");
        let mut root = Self { base: text(Path::new(base)), make: Vec::new(), binds: Vec::new() };
        for folder in ["tmp", "proc", "dev"] {
            root.make.push(Make::Folder(text(Path::new(folder))));
        }
        for path in SYSTEM.iter().map(Path::new) {
            match fs::read_link(path) {
                // A link in the host's root into `/usr`.
                Ok(to) => {
                    let to = to.strip_prefix("/").unwrap_or(&to).to_owned();
                    root.make.push(Make::Link { to: text(&to), at: text(inside(path)) });
                }
                Err(_) => root.bind_if_there(path, false, false),
            }
        }
        for path in DEVICES {
            root.bind_if_there(Path::new(path), true, true);
        }
        if allow.network {
            for path in NETWORK {
                root.bind_if_there(Path::new(path), false, false);
            }
        }
        if allow.rdma {
            root.bind_if_there(Path::new(RDMA_DEVICES), true, true);
            for path in RDMA_READ {
                root.bind_if_there(Path::new(path), false, false);
            }
        }
        root.bind(program, false, false)?;
        for (paths, writable, device) in
            [(&allow.read, false, false), (&allow.write, true, false), (&allow.devices, true, true)]
        {
            for path in paths {
                root.bind(path, writable, device)?;
            }
        }
        Ok(root)
    }

    /// What of the host's is seen in it, and whether it can be written.
    pub(super) fn seen(&self) -> impl Iterator<Item = (&Path, bool)> {
        self.binds.iter().map(|bind| (bind.path.as_path(), bind.writable))
    }

    fn bind_if_there(&mut self, path: &Path, writable: bool, device: bool) {
        // What a host does not have, its programs do not need.
        let _ = self.bind(path, writable, device);
    }

    fn bind(&mut self, path: &Path, writable: bool, device: bool) -> Result<(), IsolationError> {
        let refused = |source| IsolationError::Path { path: path.to_owned(), source };
        let climbs = path.components().any(|part| part == std::path::Component::ParentDir);
        if !path.is_absolute() || climbs || path.parent().is_none() {
            return Err(refused(io::Error::from(io::ErrorKind::InvalidInput)));
        }
        if self.binds.len() == BINDS_MAX {
            return Err(refused(io::Error::from(io::ErrorKind::QuotaExceeded)));
        }
        let kind = fs::metadata(path).map_err(refused)?;
        let mut parents: Vec<&Path> = inside(path).ancestors().skip(1).collect();
        parents.pop();
        self.make.extend(parents.into_iter().rev().map(|parent| Make::Folder(text(parent))));
        let at = text(inside(path));
        self.make.push(if kind.is_dir() { Make::Folder(at.clone()) } else { Make::File(at.clone()) });
        self.binds.push(Bind { from: text(path), at, writable, device, path: path.to_owned() });
        Ok(())
    }
}

/// A path of the host's as one relative to the new root.
fn inside(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}

fn text(path: &Path) -> CString {
    // A path that the kernel gave, or that was looked up, holds no zero byte; any other is not found.
    CString::new(path.as_os_str().as_bytes()).unwrap_or_default()
}
