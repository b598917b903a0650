//! What two ends of a link between hosts say to each other: any bytes are a message or an error, and a message comes
//! back as it went.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shard_runtime::remote::Say;

fuzz_target!(|data: &[u8]| {
    if let Ok(say) = Say::decode(data) {
        let bytes = postcard::to_stdvec(&say).unwrap();
        assert_eq!(Say::decode(&bytes), Ok(say));
    }
});
