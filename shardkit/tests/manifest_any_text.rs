//! Whatever the text, reading a manifest ends soon, with a manifest or an error, and never in a panic.

use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use shardkit::manifest::{MANIFEST_BYTES_MAX, Manifest};
use std::time::{Duration, Instant};

/// A manifest that uses every key, to mutate.
const VALID: &str = r#"[application]
name = "arena"
cycles = false
[component.auth]
program = "arena"
args = ["auth", "x"]
env = { RUST_LOG = "info" }
capacity = 64
warm = 1
max = 4
cores = 0
share = 0.5
huge_pages = 0
memory = "64MiB"
gpu_memory = 1024
bandwidth = "1Gbit/s"
wait = { spin_us = 50 }
tick_hz = 60.0
start_timeout_ms = 5000
stop_timeout_ms = 1000
config = { a = [1, 2.5, "x", 1979-05-27T07:32:00Z], b = { c = true } }
[component.auth.in]
login = { type = "Login", reply = "Verdict", max = "4KiB" }
[component.physics]
program = "./physics"
wait = "park"
[component.physics.out]
world = { to = ["render.world", "embedder.world"], type = "World", ring = "1MiB" }
login = "auth.login"
[component.render]
program = "render"
in.world = "World"
[embedder]
in.world = "World"
out.login = ["auth.login"]
[composition.match]
entry = ["auth", "physics"]
[composition.all]
"#;

/// Reads `text`, and shows the error if there is one: showing it must not panic either.
fn read(text: &[u8]) {
    if let Err(error) = Manifest::parse_bytes(text, "any.toml") {
        assert!(error.to_string().len() < 4_000, "an error of {} bytes", error.to_string().len());
    }
}

/// One change of a text: so many bytes from a place on are replaced by others.
fn change() -> impl Strategy<Value = (prop::sample::Index, usize, Vec<u8>)> {
    let pieces = prop::sample::select(vec![
        "0",
        "-1",
        "9",
        "99999999999999999999",
        "nan",
        "\"",
        "'",
        "[",
        "]",
        "{",
        "}",
        ".",
        "=",
        "\n",
        " ",
        "#",
        "a",
        "é",
        "embedder",
        "auth",
        "physics.world",
        "[component.x]",
        "true",
        "\u{1b}",
        "\"\"\"",
        "\\u0000",
        "1e400",
        "0x",
    ]);
    let bytes = prop_oneof![
        pieces.prop_map(|piece| piece.as_bytes().to_vec()),
        prop::collection::vec(any::<u8>(), 0..4)
    ];
    (any::<prop::sample::Index>(), 0..12_usize, bytes)
}

proptest! {
    // What fails is kept, with its seed, in a file beside this one, and tried first from then on.
    #![proptest_config(ProptestConfig {
        cases: 2_000,
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_bytes_give_a_manifest_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        read(&bytes);
    }

    #[test]
    fn any_text_gives_a_manifest_or_an_error(text in "\\PC*") {
        read(text.as_bytes());
    }

    #[test]
    fn a_mutated_manifest_gives_a_manifest_or_an_error(changes in prop::collection::vec(change(), 1..6)) {
        let mut text = VALID.as_bytes().to_vec();
        for (at, removed, bytes) in changes {
            let from = at.index(text.len() + 1);
            let to = (from + removed).min(text.len());
            text.splice(from..to, bytes);
        }
        read(&text);
    }

    #[test]
    fn lines_in_any_order_give_a_manifest_or_an_error(lines in prop::collection::vec(any::<prop::sample::Index>(), 0..40)) {
        let all: Vec<&str> = VALID.lines().collect();
        let text: Vec<&str> = lines.iter().map(|at| all[at.index(all.len())]).collect();
        read(text.join("\n").as_bytes());
    }
}

#[test]
fn the_manifest_that_is_mutated_is_valid() {
    Manifest::parse(VALID, "valid.toml").unwrap();
}

#[test]
fn the_largest_hostile_texts_are_read_in_bounded_time() {
    let fill = |piece: &str| piece.repeat(MANIFEST_BYTES_MAX / piece.len());
    let head =
        "[application]\nname = 'x'\n[component.a]\nprogram = 'p'\nin.x = 'X'\n[component.b]\nprogram = 'p'\n";
    let below = |from: &str, piece: &str| {
        format!("{head}{from}{}", piece.repeat((MANIFEST_BYTES_MAX - 200) / piece.len()))
    };
    let numbered = |line: &dyn Fn(usize) -> String| {
        let mut text = head.to_owned();
        (0..)
            .map(line)
            .take_while(|line| {
                text += line;
                text.len() < MANIFEST_BYTES_MAX - 100
            })
            .count();
        text
    };
    let texts = [
        fill("["),
        fill("{"),
        fill("a."),
        fill("[a]\n"),
        fill("="),
        fill("\n="),
        fill("\""),
        fill("'"),
        fill("\\"),
        fill("#\r"),
        fill("a={"),
        fill("a=["),
        fill("é"),
        fill("\u{0}"),
        fill("[[a]]\n"),
        fill("a=1\n"),
        fill("\"\"\"\n"),
        "x".repeat(MANIFEST_BYTES_MAX),
        below("", "x"),
        below("args = [", "'',"),
        below("args = ", "["),
        below("out.y = [", "'a.x',"),
        below("out.y = '", "z"),
        below("config.", "a."),
        below("in.", "y."),
        below("\"", "x"),
        numbered(&|n| format!("in.i{n} = 'X'\n")),
        numbered(&|n| format!("out.o{n} = 'a.x'\n")),
        numbered(&|n| format!("[component.c{n}]\nprogram='p'\n")),
        numbered(&|n| format!("[composition.c{n}]\n")),
        numbered(&|n| format!("env.E{n} = ''\n")),
        numbered(&|n| format!("config.a{n}.b.c.d.e.f = 1\n")),
        numbered(&|n| format!("k{n} = 1\n")),
    ];
    for text in texts {
        assert!(text.len() <= MANIFEST_BYTES_MAX);
        let start = Instant::now();
        read(text.as_bytes());
        let took = start.elapsed();
        let shown: String = text.chars().skip(text.chars().count().min(head.len())).take(30).collect();
        println!("{took:>12.1?} {shown:?}");
        assert!(took < Duration::from_secs(10), "{took:?} for {shown:?}");
    }
}
