//! Unpacked images, each under its digest, for all composers of one user.
//!
//! ```text
//! images/
//!   sha256-1f…/rootfs      its files, read-only
//!   sha256-1f…/image.json  its configuration
//!   bundle-07…/config.json what an OCI runtime is told of a container, named by its own digest
//!   .new-PID-N             what process PID is unpacking
//! ```
//!
//! Invariant: what has its final name is whole, was checked, and is never written again. Whoever unpacks does it beside,
//! and renames; of several who do it at once the first wins, and the others throw theirs away.

use super::digest::{hex, sha256};
use super::error::OciError;
use super::image::Image;
use super::limits::Limits;
use super::root::discard;
use crate::folders::own_folder;
use oci_spec::image::ImageConfiguration;
use rustix::io::Errno;
use std::env;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// See the head of this file.
#[derive(Clone, Debug)]
pub struct Cache {
    folder: PathBuf,
}

/// An image that is in the cache.
#[derive(Clone, Debug)]
pub struct Unpacked {
    /// The folder with its files.
    pub rootfs: PathBuf,
    /// What it says of how it is run.
    pub config: ImageConfiguration,
}

impl Cache {
    /// The user's: `shard/images` in `XDG_CACHE_HOME`, in `.cache` of the home, or else a folder of the user's own among
    /// the temporary ones.
    ///
    /// # Errors
    /// If it can't be made, or is not the user's alone.
    pub fn of_user() -> Result<Self, OciError> {
        let folder = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let cache = folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache")));
        Self::at(match cache {
            Some(cache) => cache.join("shard/images"),
            None => env::temp_dir().join(format!("shard-images-{}", rustix::process::geteuid().as_raw())),
        })
    }

    /// In this folder, which is made if it is missing.
    ///
    /// # Errors
    /// If it can't be made, or is not this user's alone.
    pub fn at(folder: impl Into<PathBuf>) -> Result<Self, OciError> {
        let folder = folder.into();
        if !own_folder(&folder).map_err(OciError::io(&folder))? {
            return Err(OciError::Cache { path: folder });
        }
        let cache = Self { folder };
        cache.sweep();
        Ok(cache)
    }

    /// The image's files: from the last time, or unpacked now.
    ///
    /// # Errors
    /// As [`Image::open`] and [`Image::unpack`].
    pub fn unpacked(&self, path: &Path, limits: Limits) -> Result<Unpacked, OciError> {
        let image = Image::open(path, limits)?;
        let hex = hex(image.digest()).ok_or_else(|| OciError::document("the image", "it has no digest"))?;
        let place = self.folder.join(format!("sha256-{hex}"));
        if !place.exists() {
            self.make(&place, |new| {
                let rootfs = new.join("rootfs");
                fs::create_dir(&rootfs).map_err(OciError::io(&rootfs))?;
                image.unpack(&rootfs)?;
                let file = new.join("image.json");
                let text =
                    image.config().to_string().map_err(|e| OciError::document("the configuration", e))?;
                fs::write(&file, text).map_err(OciError::io(&file))
            })?;
        }
        Ok(Unpacked { rootfs: place.join("rootfs"), config: image.config().clone() })
    }

    /// The bundle with this `config.json`, without its files.
    pub(super) fn bundle(&self, config: &str) -> Result<PathBuf, OciError> {
        let digest = sha256(config.as_bytes());
        let place = self.folder.join(format!("bundle-{}", hex(&digest).unwrap_or_default()));
        if !place.exists() {
            self.make(&place, |new| {
                let file = new.join("config.json");
                fs::write(&file, config).map_err(OciError::io(&file))
            })?;
        }
        Ok(place)
    }

    /// Makes a folder beside, and gives it its name when it is whole.
    fn make(&self, place: &Path, fill: impl FnOnce(&Path) -> Result<(), OciError>) -> Result<(), OciError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        // Relaxed: only that no two have the same number counts.
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let new = self.folder.join(format!(".new-{}-{number}", std::process::id()));
        DirBuilder::new().mode(0o700).create(&new).map_err(OciError::io(&new))?;
        let made = fill(&new).and_then(|()| {
            match rustix::fs::renameat_with(
                rustix::fs::CWD,
                &new,
                rustix::fs::CWD,
                place,
                rustix::fs::RenameFlags::NOREPLACE,
            ) {
                // Someone else was faster, with the same.
                Err(Errno::EXIST | Errno::NOTEMPTY) => Ok(()),
                other => other.map_err(OciError::errno(place)),
            }
        });
        if new.exists() {
            discard(&new);
        }
        made
    }

    /// Removes what was left by those who died while they unpacked.
    fn sweep(&self) {
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let pid =
                name.to_str().and_then(|name| name.strip_prefix(".new-")?.split('-').next()?.parse().ok());
            if pid.is_some_and(|pid: u32| !Path::new("/proc").join(pid.to_string()).exists()) {
                discard(&entry.path());
            }
        }
    }
}
