//! A program that embeds the composer: it starts `hello`'s manifest, composes a session, and talks to its shard.
//!
//! `cargo build -p hello && cargo run -p embed`

use shard_composer::Composer;
use shardkit::manifest::Manifest;
use shardkit::prelude::*;
use std::path::Path;
use std::time::{Duration, Instant};

fn main() -> Result<()> {
    // This program is its own launch helper: started as one, it does not come back from here.
    shard_composer::take_over();

    let manifest = std::env::args().nth(1).unwrap_or_else(|| "examples/hello/hello.toml".into());
    let composer = Composer::builder(Manifest::read(Path::new(&manifest))?)
        .launcher(std::env::current_exe()?)
        .start()?;
    composer.wait_warm(Duration::from_secs(5))?;
    let ask = composer.output::<Bytes, Bytes>("ask")?;

    let start = Instant::now();
    let session = composer.compose("default")?;
    println!(
        "session {} composed in {:?}, {} cold shards",
        session.id(),
        start.elapsed(),
        session.cold_shards()
    );

    for text in ["hello", "shard"] {
        let start = Instant::now();
        session.send(&ask, &Bytes(text.into()))?;
        let mail = session.receive(Duration::from_secs(1))?;
        let answer = String::from_utf8_lossy(mail.message().payload()).into_owned();
        println!("{text} -> {answer} in {:?}", start.elapsed());
    }
    Ok(())
}
