//! Codecs on messages like a game's: what encoding and decoding cost, and how many bytes go over the link.
//!
//! ```sh
//! cargo bench -p shard-bench --bench codec -- --warm-up-time 0.3 --measurement-time 1
//! ```
//!
//! All encode into a buffer that is used again, as a shard does. `postcard` and `bitcode-serde` work on any serde
//! type; `bitcode` and `wincode` need derives of their own. The sizes are printed first.

#![allow(missing_docs, reason = "criterion's macros make public functions")]

use criterion::{
    BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::fmt::Debug;
use std::hint::black_box;

macro_rules! message {
    ($(#[$doc:meta])* $name:ident { $($field:ident: $ty:ty),* $(,)? }) => {
        $(#[$doc])*
        #[derive(
            Clone, Debug, PartialEq, Serialize, Deserialize, bitcode::Encode, bitcode::Decode, wincode::SchemaWrite,
            wincode::SchemaRead,
        )]
        struct $name { $($field: $ty),* }
    };
}

message!(
    /// What a player does in one frame.
    Input { player: u32, sequence: u32, tick: u64, movement: [f32; 2], aim: [f32; 2], buttons: u16 }
);
message!(Player {
    id: u32,
    position: [f32; 3],
    velocity: [f32; 3],
    yaw: f32,
    health: u16,
    score: u16,
    alive: bool
});
message!(Shot { owner: u32, position: [f32; 3] });
message!(
    /// What everyone is told of the world, 60 times a second.
    World { tick: u64, players: Vec<Player>, shots: Vec<Shot> }
);
message!(Item { id: u64, name: String, count: u32, price: u64, tags: Vec<String> });
message!(
    /// A whole inventory: about 4 KiB, mostly text.
    Inventory { owner: String, items: Vec<Item> }
);

fn input() -> Input {
    Input {
        player: 3,
        sequence: 48_211,
        tick: 48_213,
        movement: [0.7, -0.7],
        aim: [0.25, 0.96],
        buttons: 0b101,
    }
}

fn world() -> World {
    let at = |n: u32| [n as f32 * 1.37, 0.5, n as f32 * -2.11];
    let player = |n: u32| Player {
        id: n,
        position: at(n + 1),
        velocity: at(n + 7),
        yaw: n as f32 * 0.8,
        health: 100 - n as u16,
        score: 12 * n as u16,
        alive: n != 2,
    };
    let shot = |n: u32| Shot { owner: n % 8, position: at(n + 3) };
    World { tick: 48_213, players: (0..8).map(player).collect(), shots: (0..20).map(shot).collect() }
}

fn inventory() -> Inventory {
    let item = |n: u64| Item {
        id: 0xC0FF_EE00 + n,
        name: format!("Greatsword of the {n}th dawn, slightly used"),
        count: 1 + n as u32 % 9,
        price: 1_000 + 37 * n,
        tags: vec!["weapon".into(), "two-handed".into(), format!("tier-{}", n % 5)],
    };
    Inventory { owner: "someone@example.org".into(), items: (0..41).map(item).collect() }
}

type Group<'a> = BenchmarkGroup<'a, WallTime>;

/// Measures one codec on one message, after it has shown that the message survives it.
fn codec<T: PartialEq + Debug>(
    group: &mut Group<'_>,
    name: &str,
    message: &T,
    mut encode: impl FnMut(&T, &mut Vec<u8>),
    mut decode: impl FnMut(&[u8]) -> T,
) {
    let mut bytes = Vec::with_capacity(64 << 10);
    encode(message, &mut bytes);
    assert_eq!(&decode(&bytes), message, "{name} gives back what it took");
    eprintln!("size {name}: {} B", bytes.len());
    group.throughput(Throughput::Elements(1));
    group.bench_function(format!("{name}/decode"), |b| b.iter(|| decode(black_box(&bytes))));
    group.bench_function(format!("{name}/encode"), |b| {
        b.iter(|| {
            encode(black_box(message), &mut bytes);
            black_box(bytes.len())
        })
    });
}

/// All codecs on one message.
macro_rules! codecs {
    ($criterion:expr, $name:literal, $message:expr) => {{
        let message = $message;
        let mut group = $criterion.benchmark_group($name);
        eprintln!("{}:", $name);
        serde_codecs(&mut group, &message);
        let mut buffer = bitcode::Buffer::new();
        let mut decoder = bitcode::Buffer::new();
        codec(
            &mut group,
            "bitcode",
            &message,
            |message, bytes| {
                bytes.clear();
                bytes.extend_from_slice(buffer.encode(message));
            },
            |bytes| decoder.decode(bytes).expect("its own bytes"),
        );
        codec(
            &mut group,
            "wincode",
            &message,
            |message, bytes| {
                bytes.clear();
                wincode::serialize_into(&mut *bytes, message).expect("room");
            },
            |bytes| wincode::deserialize(bytes).expect("its own bytes"),
        );
        group.finish();
    }};
}

fn serde_codecs<T: Serialize + DeserializeOwned + PartialEq + Debug>(group: &mut Group<'_>, message: &T) {
    let mut slice = vec![0; 64 << 10];
    codec(
        group,
        "postcard",
        message,
        |message, bytes| {
            // Into a slice, as into a loan; its length is all that the vector shows.
            let written = postcard::to_slice(message, &mut slice).expect("room");
            bytes.clear();
            bytes.extend_from_slice(written);
        },
        |bytes| postcard::from_bytes(bytes).expect("its own bytes"),
    );
    codec(
        group,
        "bitcode-serde",
        message,
        |message, bytes| *bytes = bitcode::serialize(message).expect("a message of plain data"),
        |bytes| bitcode::deserialize(bytes).expect("its own bytes"),
    );
}

fn messages(criterion: &mut Criterion) {
    codecs!(criterion, "input", input());
    codecs!(criterion, "world", world());
    codecs!(criterion, "inventory", inventory());
}

criterion_group!(benches, messages);
criterion_main!(benches);
