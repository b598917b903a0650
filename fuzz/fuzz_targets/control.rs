//! Any packet is a control message or an error, in both directions, and a message comes back as it went.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shard_runtime::control::{FromShard, ToShard, decode};
use shardkit::application::Component;

fuzz_target!(|data: &[u8]| {
    if let Ok(message) = decode::<FromShard>(data) {
        let packet = postcard::to_stdvec(&message).unwrap();
        assert_eq!(decode::<FromShard>(&packet).unwrap(), message);
    }
    if let Ok(message) = decode::<ToShard>(data) {
        let packet = postcard::to_stdvec(&message).unwrap();
        assert_eq!(decode::<ToShard>(&packet).unwrap(), message);
        if let ToShard::Welcome(welcome) = message {
            let _ = decode::<Component>(&welcome.spec);
        }
    }
    let _ = decode::<Component>(data);
});
