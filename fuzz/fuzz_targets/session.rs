//! Any payload of a session frame, and any control message, decodes to something or nothing.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shard_runtime::session::{Open, Rejection};

fuzz_target!(|data: &[u8]| {
    if let Some(open) = Open::decode(data) {
        assert!(open.routes().count() <= shard_runtime::session::ROUTES_MAX);
    }
    if let Some(rejection) = Rejection::decode(data) {
        assert_eq!(rejection.encode(), data);
    }
});
