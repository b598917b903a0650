//! Any bytes are a manifest or an error, in bounded time.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shardkit::manifest::Manifest;

fuzz_target!(|data: &[u8]| {
    if let Err(error) = Manifest::parse_bytes(data, "fuzz.toml") {
        assert!(!error.to_string().is_empty());
    }
});
