//! Any bytes are an image or an error, and any bytes are a layer or an error; nothing is written outside.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sha2::{Digest, Sha256};
use shard_composer::oci::{Image, Limits, OciError};
use std::fs;

const LIMITS: Limits =
    Limits { unpacked_bytes: 1 << 20, entries: 256, layers: 4, document_bytes: 1 << 16, archive_entries: 64 };

/// An archive as `docker save` writes it, with these bytes as its layer.
fn around(layer: &[u8]) -> Vec<u8> {
    let hex = |bytes: &[u8]| Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let config = format!(
        r#"{{"architecture":"{arch}","os":"linux","rootfs":{{"type":"layers","diff_ids":["sha256:{}"]}}}}"#,
        hex(layer)
    );
    let name = format!("{}.json", hex(config.as_bytes()));
    let manifest = format!(r#"[{{"Config":"{name}","Layers":["l"]}}]"#);
    let mut archive = tar::Builder::new(Vec::new());
    for (path, bytes) in [("l", layer), (&name, config.as_bytes()), ("manifest.json", manifest.as_bytes())] {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, path, bytes).unwrap();
    }
    archive.into_inner().unwrap()
}

fn unpack(bytes: &[u8]) -> Result<(), OciError> {
    let folder = tempfile::tempdir().unwrap();
    let (file, root) = (folder.path().join("image.tar"), folder.path().join("root"));
    fs::write(&file, bytes).unwrap();
    fs::create_dir(&root).unwrap();
    let done = Image::open(&file, LIMITS).and_then(|image| image.unpack(&root));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    done
}

fuzz_target!(|data: &[u8]| {
    for bytes in [data, &around(data)] {
        if let Err(error) = unpack(bytes) {
            assert!(!error.to_string().is_empty());
        }
    }
});
