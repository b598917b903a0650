//! How long a shard in a container takes to be ready, against `crun run` of the same program in the same configuration to
//! the first line that it prints. Both in turns, in one run.
//!
//! `cargo run --release -p shard-composer --example oci_launch -- 100`. Where both versions of control groups are mounted, a
//! bare crun does not run: put `unshare -m sh -c "umount -l /sys/fs/cgroup/unified; …"` around it.
//!
//! The composer's time is longer than to the line: from the launch until the shard is ready, after Hello, Welcome and wiring to
//! the composer. The line is printed before the first of these.

use serde_json::Value;
use shard_composer::Composer;
use shard_composer::core::ShardState;
use shard_composer::oci::{Order, Runtime, build};
use shardkit::manifest::Manifest;
use shardkit::prelude::*;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

struct Idle;

impl Shard for Idle {
    fn on_message(&mut self, _: Message<'_>, _: &mut Context<'_>) -> Result<()> {
        Ok(())
    }
}

fn main() -> Result<()> {
    shard_composer::take_over();
    let argument = std::env::args().nth(1).unwrap_or_default();
    if argument == "shard" {
        println!("here");
        return shardkit::run(|_| Ok(Idle));
    }
    measure(argument.parse().unwrap_or(50))
}

fn measure(count: usize) -> Result<()> {
    let folder = std::env::temp_dir().join(format!("oci-launch-{}", std::process::id()));
    fs::create_dir(&folder)?;
    let me = std::env::current_exe()?;
    build(&Order { program: me.clone(), ..Order::default() }, &folder.join("image.tar"))?;
    let text = "[application]\nname = 'launch'\n[component.idle]\nimage = 'oci:image.tar'\nargs = ['shard']\nwarm = 0\nmax = 1";
    let manifest = Manifest::parse(text, folder.join("launch.toml"))?;
    let runtime = Runtime::find(None, None)?;
    println!("{runtime}, {count} launches each");
    let start = || {
        Composer::builder(manifest.clone())
            .launcher(&me)
            .image_cache(folder.join("cache"))
            .quiet(true)
            .start()
    };
    let composer = start()?;
    let bundle = bare_bundle(&folder)?;
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..count {
        bare.push(bare_launch(runtime.path(), &folder, &bundle)?);
        let session = composer.compose("default")?;
        let shards = composer.shards();
        assert!(shards.iter().any(|shard| shard.state == ShardState::Ready));
        session.end(Duration::from_secs(5));
        for shard in shards {
            composer.drain(shard.id, Duration::from_secs(5));
        }
        while !composer.shards().is_empty() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    ours.extend(composer.starts("idle").into_iter().map(|start| start.took));
    composer.shut_down();
    fs::remove_dir_all(&folder)?;
    for (name, times) in [("shard ready", &mut ours), ("bare, to its line", &mut bare)] {
        times.sort();
        let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize];
        println!("{name:18} p50 {:?} p99 {:?}", at(0.5), at(0.99));
    }
    println!(
        "ratio of the p50   {:.3}",
        ours[ours.len() / 2].as_secs_f64() / bare[bare.len() / 2].as_secs_f64()
    );
    Ok(())
}

/// The composer's configuration, with the files where they really are, and where a user of the container can get at them.
fn bare_bundle(folder: &Path) -> Result<std::path::PathBuf> {
    let bundle = folder.join("bare");
    fs::create_dir(&bundle)?;
    for entry in fs::read_dir(folder.join("cache"))? {
        let entry = entry?.path();
        if entry.join("config.json").is_file() {
            fs::copy(entry.join("config.json"), bundle.join("config.json"))?;
        } else {
            let copied =
                Command::new("cp").arg("-r").arg(entry.join("rootfs")).arg(bundle.join("rootfs")).status()?;
            assert!(copied.success());
        }
    }
    let mut config: Value = serde_json::from_slice(&fs::read(bundle.join("config.json"))?)?;
    config["root"]["path"] = "rootfs".into();
    fs::write(bundle.join("config.json"), config.to_string())?;
    Ok(bundle)
}

fn bare_launch(runtime: &Path, folder: &Path, bundle: &Path) -> Result<Duration> {
    let begin = Instant::now();
    let mut crun = Command::new(runtime)
        .arg("--root")
        .arg(folder.join("state"))
        .args(["--cgroup-manager=disabled", "run", "--bundle"])
        .arg(bundle)
        .arg("bare")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    BufReader::new(crun.stdout.take().expect("piped")).read_line(&mut line)?;
    let took = begin.elapsed();
    let ended = crun.wait_with_output()?;
    if line != "here\n" {
        return Err(Error::new(format!("a bare runtime failed: {}", String::from_utf8_lossy(&ended.stderr))));
    }
    Ok(took)
}
