//! An image as it is delivered: an image layout or what `docker save` writes, as a folder or an archive.
//!
//! Invariant: an [`Image`]'s configuration and list of layers were checked against their digests; its layers are checked
//! while they are unpacked.

use super::digest::{Checked, hex, sha256};
use super::error::OciError;
use super::limits::{Budget, Limits};
use super::root::Root;
use super::store::Store;
use super::unpack::{Bounded, apply};
use flate2::bufread::MultiGzDecoder;
use oci_spec::image::{Arch, Descriptor, ImageConfiguration, ImageIndex, ImageManifest, MediaType, Os};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

/// How deep indices may name indices.
const INDICES_MAX: usize = 4;
/// How a stream packed by gzip begins.
const GZIP: [u8; 2] = [0x1f, 0x8b];
/// How a stream packed by zstd begins.
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// See the head of this file.
pub struct Image {
    store: Store,
    limits: Limits,
    /// What names it: the digest of its manifest, or of its configuration where it has none.
    digest: String,
    config: ImageConfiguration,
    layers: Vec<Layer>,
}

/// One layer of an image.
#[derive(Clone, Debug)]
pub struct Layer {
    file: PathBuf,
    /// Digest and size of the file, if the image says them.
    packed: Option<(String, u64)>,
    /// The digest of what is in it.
    unpacked: String,
}

/// An entry of `manifest.json`, as `docker save` writes it.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: PathBuf,
    layers: Vec<PathBuf>,
}

impl Image {
    /// Opens an image and reads its documents.
    ///
    /// # Errors
    /// If it is none, is damaged, is for another machine, or is larger than allowed.
    pub fn open(path: &Path, limits: Limits) -> Result<Self, OciError> {
        let store = Store::open(path, &limits)?;
        if store.has("oci-layout") {
            Self::layout(store, limits)
        } else if store.has("manifest.json") {
            Self::saved(store, limits)
        } else {
            Err(OciError::NoImage { path: path.to_owned() })
        }
    }

    /// What names it: two images with the same digest are the same.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    pub(super) fn config(&self) -> &ImageConfiguration {
        &self.config
    }

    fn layout(store: Store, limits: Limits) -> Result<Self, OciError> {
        let index = store.document(Path::new("index.json"), limits.document_bytes)?;
        let mut index: ImageIndex = parse("index.json", &index)?;
        for _ in 0..INDICES_MAX {
            let chosen = choose(index.manifests())?;
            let digest = chosen.digest().to_string();
            let document = blob(&store, &limits, &digest, Some(chosen.size()))?;
            if is_index(chosen.media_type()) {
                index = parse(&digest, &document)?;
                continue;
            }
            let manifest: ImageManifest = parse(&digest, &document)?;
            let config = manifest.config();
            let config_digest = config.digest().to_string();
            let config: ImageConfiguration =
                parse(&config_digest, &blob(&store, &limits, &config_digest, Some(config.size()))?)?;
            let layers = manifest.layers().iter().map(|layer| {
                let digest = layer.digest().to_string();
                Ok((blob_path(&digest)?, Some((digest, layer.size()))))
            });
            let layers = layers.collect::<Result<Vec<_>, OciError>>()?;
            return Self::new(store, limits, digest, config, layers);
        }
        Err(OciError::document("index.json", "indices name indices without an end"))
    }

    fn saved(store: Store, limits: Limits) -> Result<Self, OciError> {
        let saved = store.document(Path::new("manifest.json"), limits.document_bytes)?;
        let saved: Vec<Saved> = parse("manifest.json", &saved)?;
        let [saved] = <[Saved; 1]>::try_from(saved).map_err(|all| OciError::Several(all.len()))?;
        let document = store.document(&saved.config, limits.document_bytes)?;
        // The archive names it by its digest, which is the image's name as well.
        let digest = sha256(&document);
        let said = saved.config.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        if hex(&digest) != Some(said) {
            return Err(OciError::Digest { blob: saved.config.display().to_string(), found: digest });
        }
        let config = parse("the configuration", &document)?;
        let layers = saved.layers.into_iter().map(|file| (file, None)).collect();
        Self::new(store, limits, digest, config, layers)
    }

    fn new(
        store: Store,
        limits: Limits,
        digest: String,
        config: ImageConfiguration,
        files: Vec<(PathBuf, Option<(String, u64)>)>,
    ) -> Result<Self, OciError> {
        let found = (config.os().clone(), config.architecture().clone());
        if found != this_machine() {
            return Err(platform(&[found]));
        }
        let unpacked = config.rootfs().diff_ids();
        if unpacked.len() != files.len() {
            let what = format!("it has {} layers and {} digests of them", files.len(), unpacked.len());
            return Err(OciError::document("the configuration", what));
        }
        if files.len() > limits.layers {
            let max = limits.layers as u64;
            return Err(OciError::TooLarge { what: "layers", max, limit: "Limits::layers" });
        }
        let layers = files.into_iter().zip(unpacked);
        let layers = layers
            .map(|((file, packed), unpacked)| match hex(unpacked) {
                Some(_) => Ok(Layer { file, packed, unpacked: unpacked.clone() }),
                None => Err(OciError::document("the configuration", format!("`{unpacked}` is no digest"))),
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { store, limits, digest, config, layers })
    }

    /// Unpacks all layers into an empty folder. On an error, what is there is not to be used.
    ///
    /// # Errors
    /// If a layer is missing, damaged or hostile, or the image is larger than allowed.
    pub fn unpack(&self, folder: &Path) -> Result<(), OciError> {
        let root = Root::open(folder)?;
        let budget = Budget::new(self.limits);
        for layer in &self.layers {
            self.unpack_layer(layer, &root, &budget)?;
        }
        root.close()
    }

    fn unpack_layer(&self, layer: &Layer, root: &Root, budget: &Budget) -> Result<(), OciError> {
        let file = self.store.read(&layer.file)?;
        let Some((digest, size)) = &layer.packed else {
            // What is in it is checked.
            return unpack_stream(BufReader::new(file), &layer.unpacked, root, budget).map(drop);
        };
        let packed = BufReader::new(Checked::new(file, digest, Some(*size)));
        unpack_stream(packed, &layer.unpacked, root, budget)?.into_inner().finish().map(drop)
    }
}

/// Unpacks one layer, whatever it is packed with, and gives back what it came from.
fn unpack_stream<R: BufRead>(
    mut packed: R,
    digest: &str,
    root: &Root,
    budget: &Budget,
) -> Result<R, OciError> {
    let start = packed.fill_buf().map_err(OciError::reading)?;
    if start.starts_with(&GZIP) {
        return Ok(unpack_tar(MultiGzDecoder::new(packed), digest, root, budget)?.into_inner());
    }
    if start.starts_with(&ZSTD) {
        return Err(OciError::Packing { media_type: "zstd".into() });
    }
    unpack_tar(packed, digest, root, budget)
}

fn unpack_tar<R: Read>(stream: R, digest: &str, root: &Root, budget: &Budget) -> Result<R, OciError> {
    let bounded = Bounded { inner: stream, budget };
    let mut archive = tar::Archive::new(Checked::new(bounded, digest, None));
    apply(archive.entries().map_err(OciError::reading)?, root, budget)?;
    Ok(archive.into_inner().finish()?.inner)
}

fn parse<T: DeserializeOwned>(document: &str, bytes: &[u8]) -> Result<T, OciError> {
    serde_json::from_slice(bytes).map_err(|error| OciError::document(document, error))
}

/// A document that is named by its digest.
fn blob(store: &Store, limits: &Limits, digest: &str, size: Option<u64>) -> Result<Vec<u8>, OciError> {
    let bytes = store.document(&blob_path(digest)?, limits.document_bytes)?;
    let found = bytes.len() as u64;
    if let Some(said) = size.filter(|said| *said != found) {
        return Err(OciError::Size { blob: digest.to_owned(), said, found });
    }
    let found = sha256(&bytes);
    if found != digest {
        return Err(OciError::Digest { blob: digest.to_owned(), found });
    }
    Ok(bytes)
}

fn blob_path(digest: &str) -> Result<PathBuf, OciError> {
    let hex = hex(digest)
        .ok_or_else(|| OciError::document("the image", format!("`{digest}` is no sha256 digest")))?;
    Ok(Path::new("blobs/sha256").join(hex))
}

fn is_index(kind: &MediaType) -> bool {
    match kind {
        MediaType::ImageIndex => true,
        MediaType::Other(other) => other == "application/vnd.docker.distribution.manifest.list.v2+json",
        _ => false,
    }
}

fn this_machine() -> (Os, Arch) {
    (Os::Linux, Arch::default())
}

/// The one that is for this machine.
fn choose(all: &[Descriptor]) -> Result<&Descriptor, OciError> {
    let (os, arch) = this_machine();
    let fits = |one: &&Descriptor| {
        one.platform().as_ref().is_none_or(|of| *of.os() == os && *of.architecture() == arch)
    };
    let mut fitting: Vec<&Descriptor> = all.iter().filter(fits).collect();
    if fitting.iter().any(|one| one.platform().is_some()) {
        fitting.retain(|one| one.platform().is_some());
    }
    // One image with several names.
    fitting.dedup_by(|one, other| one.digest() == other.digest());
    match fitting[..] {
        [one] => Ok(one),
        [] => {
            let platforms = all.iter().filter_map(|one| one.platform().as_ref());
            let found: Vec<_> = platforms.map(|of| (of.os().clone(), of.architecture().clone())).collect();
            Err(platform(&found))
        }
        _ => Err(OciError::Several(fitting.len())),
    }
}

fn platform(found: &[(Os, Arch)]) -> OciError {
    let text = |(os, arch): &(Os, Arch)| format!("{os}/{arch}");
    let found: Vec<String> = found.iter().take(20).map(text).collect();
    let found = if found.is_empty() { "none".into() } else { found.join(", ") };
    OciError::Platform { wanted: text(&this_machine()), found }
}
