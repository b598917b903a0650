//! Any text is a host file or an error; a host that it declares can be given out and taken back.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shard_composer::resources::{Allocator, HostFile, Inventory};
use shardkit::application::Needs;

fuzz_target!(|text: &str| {
    let file = match HostFile::parse(text, "fuzz.toml") {
        Ok(file) => file,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    let Ok(inventory) = file.apply(Inventory::empty()) else { return };
    let mut allocator = Allocator::new(vec![inventory]).expect("it was checked");
    let fresh = format!("{allocator:?}");
    let needs = Needs {
        cores: 1,
        share_millicores: 500,
        memory_bytes: 1,
        huge_pages_bytes: 1,
        processes: 64,
        realtime: 10,
        gpu_memory_bytes: 1,
        bandwidth_bits_per_s: 1,
        disk_read_bytes_per_s: 1,
        disk_write_bytes_per_s: 1,
    };
    for needs in [Needs::default(), needs, Needs { cores: 0, huge_pages_bytes: 0, ..needs }] {
        match allocator.allocate_all(&[needs, needs]) {
            Ok(grants) => grants.into_iter().for_each(|grant| allocator.release(grant)),
            Err(shortage) => assert!(!shortage.missing.is_empty()),
        }
    }
    assert_eq!(format!("{allocator:?}"), fresh);
});
