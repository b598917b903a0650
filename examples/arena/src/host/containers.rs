//! The same game with every component in a container.
//!
//! The image is made of this very program; the manifest is the usual one, with the image in the place of the program.

use shard_composer::oci::{self, build};
use shardkit::manifest::Manifest;
use shardkit::prelude::*;
use std::path::Path;
use std::{env, fs};

/// The file that the image is written to.
const IMAGE: &str = "arena-oci.tar";
/// The file that the manifest is written to, beside it.
const MANIFEST: &str = "arena-oci.toml";
/// What only a program of the host can be: a container is neither forked nor frozen.
const NATIVE_ALONE: [&str; 3] = ["program", "frozen", "zygote"];

/// Makes the image and a manifest for it in `folder`.
pub(super) fn manifest(usual: &Path, folder: &Path) -> Result<Manifest> {
    let order = oci::Order { program: env::current_exe()?, ..oci::Order::default() };
    let digest = build(&order, &folder.join(IMAGE))?;
    println!("image       {} {digest}", folder.join(IMAGE).display());

    let mut manifest: toml::Table = fs::read_to_string(usual)?.parse()?;
    manifest.remove("generic");
    let components = manifest.get_mut("component").and_then(toml::Value::as_table_mut);
    for (_, component) in components.into_iter().flat_map(|all| all.iter_mut()) {
        if let Some(component) = component.as_table_mut() {
            component.retain(|key, _| !NATIVE_ALONE.contains(&key));
            component.insert("image".into(), format!("oci:{IMAGE}").into());
        }
    }
    let file = folder.join(MANIFEST);
    fs::write(&file, toml::to_string(&manifest)?)?;
    Ok(Manifest::read(&file)?)
}
