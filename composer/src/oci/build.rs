//! Making an image of a program: the program, the libraries that it needs, and nothing else. An archive in image layout.
//!
//! ```text
//! /app/PROGRAM        the entry point; beside it what was included
//! /lib/shard/*.so     its libraries, in LD_LIBRARY_PATH
//! /lib64/ld-linux-…   its loader, where the program names it
//! ```
//!
//! Invariant: the archive depends on the contents of the files and on nothing else: not on times, owners, folders or the
//! order in which the file system lists them. So the same input has the same digest.

use super::digest::sha256;
use super::elf;
use super::error::OciError;
use oci_spec::OciSpecError;
use oci_spec::image::{
    Arch, ConfigBuilder, Descriptor, Digest, ImageConfigurationBuilder, ImageIndexBuilder,
    ImageManifestBuilder, MediaType, OciLayoutBuilder, Os, PlatformBuilder, RootFsBuilder,
};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The folder of the program.
const APP: &str = "app";
/// The folder of its libraries.
const LIBRARIES: &str = "lib/shard";

/// What an image is to be made of.
#[derive(Clone, Debug, Default)]
pub struct Order {
    /// The program.
    pub program: PathBuf,
    /// Arguments that it always gets, before those of the manifest.
    pub args: Vec<String>,
    /// Files that are to be beside it.
    pub include: Vec<PathBuf>,
}

/// A file of the image.
struct Content {
    bytes: Vec<u8>,
    executable: bool,
}

/// Makes an image and writes its archive to `output`. Gives the digest that names it.
///
/// # Errors
/// If the program is none or lacks a library, or a file can't be read or written.
pub fn build(order: &Order, output: &Path) -> Result<String, OciError> {
    let program = fs::read(&order.program).map_err(OciError::io(&order.program))?;
    let needs = elf::needs(&order.program, &program)?;
    let name = file_name(&order.program)?;
    let mut files = BTreeMap::new();
    for file in &order.include {
        add(&mut files, Path::new(APP).join(file_name(file)?), file, false)?;
    }
    for (name, file) in &needs.libraries {
        add(&mut files, Path::new(LIBRARIES).join(name), file, true)?;
    }
    if let Some(loader) = &needs.loader {
        let place = loader.strip_prefix("/").unwrap_or(loader).to_owned();
        add(&mut files, place, loader, true)?;
    }
    let place = Path::new(APP).join(&name);
    if files.insert(place, Content { bytes: program, executable: true }).is_some() {
        return Err(twice(&order.program));
    }
    let layer = layer(&files).map_err(OciError::io(output))?;

    let mut entry = vec![format!("/{APP}/{name}")];
    entry.extend(order.args.iter().cloned());
    let libraries = (!needs.libraries.is_empty()).then(|| format!("LD_LIBRARY_PATH=/{LIBRARIES}"));
    let documents = documents(layer, needs.arch, entry, libraries.into_iter().collect());
    let (digest, documents) = documents.map_err(|error| OciError::document("the image", error))?;
    // Beside, and then in one step: who reads it meanwhile sees the old one, or the new one.
    let mut beside = output.as_os_str().to_owned();
    beside.push(format!(".{}", std::process::id()));
    let beside = PathBuf::from(beside);
    let written = archive(&documents).and_then(|bytes| {
        let mut file = fs::File::create(&beside)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&beside, output)
    });
    if let Err(error) = written {
        let _ = fs::remove_file(&beside);
        return Err(OciError::io(output)(error));
    }
    Ok(digest)
}

fn file_name(path: &Path) -> Result<String, OciError> {
    let name = path.file_name().and_then(|name| name.to_str());
    let what = "its name is no text that an image can have".to_owned();
    name.map(str::to_owned).ok_or(OciError::Program { path: path.to_owned(), what })
}

fn add(
    files: &mut BTreeMap<PathBuf, Content>,
    place: PathBuf,
    file: &Path,
    executable: bool,
) -> Result<(), OciError> {
    let bytes = fs::read(file).map_err(OciError::io(file))?;
    match files.insert(place, Content { bytes, executable }) {
        None => Ok(()),
        Some(_) => Err(twice(file)),
    }
}

fn twice(file: &Path) -> OciError {
    let what = "another file of the image has the same name".to_owned();
    OciError::Program { path: file.to_owned(), what }
}

/// The archive of the files, with the folders that they are in.
fn layer(files: &BTreeMap<PathBuf, Content>) -> io::Result<Vec<u8>> {
    let mut folders = BTreeSet::new();
    for file in files.keys() {
        folders.extend(
            file.ancestors().skip(1).filter(|folder| !folder.as_os_str().is_empty()).map(Path::to_owned),
        );
    }
    // Where the container has file systems of its own.
    folders.extend(["dev", "proc", "tmp"].map(PathBuf::from));
    let mut archive = tar::Builder::new(Vec::new());
    for folder in folders {
        let mut header = header(0, 0o755);
        header.set_entry_type(tar::EntryType::Directory);
        archive.append_data(&mut header, folder, io::empty())?;
    }
    for (path, content) in files {
        let mode = if content.executable { 0o755 } else { 0o644 };
        archive.append_data(&mut header(content.bytes.len(), mode), path, &content.bytes[..])?;
    }
    archive.into_inner()
}

fn header(size: usize, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_size(size as u64);
    header.set_mode(mode);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

/// The files of an image layout, and the digest that names the image.
fn documents(
    layer: Vec<u8>,
    arch: Arch,
    entry: Vec<String>,
    env: Vec<String>,
) -> Result<(String, BTreeMap<String, Vec<u8>>), OciSpecError> {
    let mut blobs = BTreeMap::new();
    let mut blob = |kind: MediaType, bytes: Vec<u8>| {
        let (digest, size) = (sha256(&bytes), bytes.len() as u64);
        blobs.insert(format!("blobs/{}", digest.replace(':', "/")), bytes);
        Ok::<_, OciSpecError>(Descriptor::new(kind, size, Digest::from_str(&digest)?))
    };
    let unpacked = sha256(&layer);
    let layer = blob(MediaType::ImageLayer, layer)?;
    let config =
        ConfigBuilder::default().entrypoint(entry).env(env).working_dir(format!("/{APP}")).build()?;
    let config = ImageConfigurationBuilder::default()
        .architecture(arch.clone())
        .os(Os::Linux)
        .config(config)
        .rootfs(RootFsBuilder::default().typ("layers").diff_ids(vec![unpacked]).build()?)
        .build()?;
    let config = blob(MediaType::ImageConfig, config.to_string()?.into_bytes())?;
    let manifest = ImageManifestBuilder::default()
        .schema_version(2_u32)
        .media_type(MediaType::ImageManifest)
        .config(config)
        .layers(vec![layer])
        .build()?;
    let mut manifest = blob(MediaType::ImageManifest, manifest.to_string()?.into_bytes())?;
    manifest.set_platform(Some(PlatformBuilder::default().os(Os::Linux).architecture(arch).build()?));
    let digest = manifest.digest().to_string();
    let index = ImageIndexBuilder::default()
        .schema_version(2_u32)
        .media_type(MediaType::ImageIndex)
        .manifests(vec![manifest])
        .build()?;
    let layout = OciLayoutBuilder::default().image_layout_version("1.0.0".to_owned()).build()?;
    blobs.insert("index.json".to_owned(), index.to_string()?.into_bytes());
    blobs.insert("oci-layout".to_owned(), layout.to_string()?.into_bytes());
    Ok((digest, blobs))
}

fn archive(files: &BTreeMap<String, Vec<u8>>) -> io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, bytes) in files {
        archive.append_data(&mut header(bytes.len(), 0o644), path, &bytes[..])?;
    }
    archive.into_inner()
}
