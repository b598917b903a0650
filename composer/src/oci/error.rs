//! What is wrong with an image.

use std::io;
use std::path::{Path, PathBuf};

/// Why an image can't be read, unpacked, made or run.
#[derive(Debug, thiserror::Error)]
pub enum OciError {
    /// A file can't be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// It is neither of the forms that can be read.
    #[error(
        "{} is no image: a folder with `oci-layout` (an image layout) or `config.json` (a bundle), or an uncompressed archive of an image layout or of `docker save`, is expected", path.display()
    )]
    NoImage {
        /// What was named.
        path: PathBuf,
    },
    /// A document in it is not what it should be.
    #[error("{document} of the image is wrong: {what}")]
    Document {
        /// Which.
        document: String,
        /// What is wrong.
        what: String,
    },
    /// Something that the image names is not in it.
    #[error("the image names `{blob}`, but has no such file; save it again")]
    Missing {
        /// What it names.
        blob: String,
    },
    /// A file is not what its digest says.
    #[error("`{blob}` is damaged or forged: its digest is {found}")]
    Digest {
        /// Which it should be.
        blob: String,
        /// Which it is.
        found: String,
    },
    /// A file is not as large as the image says.
    #[error("`{blob}` has {found} bytes, but the image says {said}")]
    Size {
        /// Its digest.
        blob: String,
        /// What the image says.
        said: u64,
        /// What it has; where it is longer than what is said, how much was read.
        found: u64,
    },
    /// Something is larger than is taken.
    #[error("the image has more than {max} {what}; raise `{limit}` if you trust it")]
    TooLarge {
        /// Of what.
        what: &'static str,
        /// How much is taken.
        max: u64,
        /// The limit.
        limit: &'static str,
    },
    /// An entry's path leads out of the image.
    #[error("the entry `{}` would be written outside of the image", entry.display())]
    Outside {
        /// Its path.
        entry: PathBuf,
    },
    /// A link leads out of the image.
    #[error("the entry `{}` is a link to `{}`, which is outside of the image", entry.display(), target.display())]
    LinkOutside {
        /// The link.
        entry: PathBuf,
        /// Where it leads.
        target: PathBuf,
    },
    /// A hard link names nothing, or no file.
    #[error("the entry `{}` is a link to `{}`, which is no file of the image", entry.display(), target.display())]
    LinkToNothing {
        /// The link.
        entry: PathBuf,
        /// What it names.
        target: PathBuf,
    },
    /// A device node, a pipe or something else that no image needs.
    #[error("the entry `{}` is {kind}, and an image may have files, folders and links only", entry.display())]
    Kind {
        /// Its path.
        entry: PathBuf,
        /// What it is.
        kind: String,
    },
    /// An archive's header is wrong.
    #[error("a layer or archive is damaged: {what}")]
    Damaged {
        /// In what.
        what: String,
    },
    /// A layer is packed in a way that is not known here.
    #[error("a layer is of the type `{media_type}`; save the image with layers as tar or gzip")]
    Packing {
        /// Its type.
        media_type: String,
    },
    /// No image in it is for this machine.
    #[error("none of the images in it is for {wanted}; there are {found}")]
    Platform {
        /// This machine.
        wanted: String,
        /// What there is.
        found: String,
    },
    /// There are several images, and nothing says which.
    #[error("it holds {0} images; save the one that you mean alone")]
    Several(usize),
    /// There is no program in it.
    #[error("the image has no entry point; name a program in `args`")]
    NoEntryPoint,
    /// The folder of the cache can be written by others.
    #[error("the cache {} belongs to someone else, or others may write to it; make it yours alone (chmod 700), or name another in XDG_CACHE_HOME", path.display())]
    Cache {
        /// The folder.
        path: PathBuf,
    },
    /// No OCI runtime is installed.
    #[error(
        "no OCI runtime: {looked}; install one (`apt-get install crun`), or name it in SHARD_OCI_RUNTIME, with `Builder::oci_runtime` or in the manifest's `oci_runtime`"
    )]
    NoRuntime {
        /// Where it was looked for.
        looked: String,
    },
    /// The OCI runtime that was named can't run shards.
    #[error(
        "{runtime} can't run shards: it puts a container into control groups of its own, where no limit of its component holds, and nothing tells it not to; install crun (`apt-get install crun`), and name that, or none"
    )]
    Unfit {
        /// What it says of itself, and where it is.
        runtime: String,
    },
    /// A program is not what an image can be made of.
    #[error("{}: {what}", path.display())]
    Program {
        /// The program.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
}

impl OciError {
    pub(super) fn io(path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        let path = path.as_ref().to_owned();
        move |source| Self::Io { path, source }
    }

    pub(super) fn errno(path: impl AsRef<Path>) -> impl FnOnce(rustix::io::Errno) -> Self {
        let path = path.as_ref().to_owned();
        move |errno| Self::Io { path, source: errno.into() }
    }

    pub(super) fn document(document: &str, what: impl ToString) -> Self {
        Self::Document { document: document.to_owned(), what: what.to_string() }
    }

    /// What went wrong while an archive was read: it may be what one of the readers below found.
    pub(super) fn reading(error: io::Error) -> Self {
        error.downcast().unwrap_or_else(Self::damaged)
    }

    pub(super) fn damaged(what: impl ToString) -> Self {
        Self::Damaged { what: what.to_string() }
    }
}
