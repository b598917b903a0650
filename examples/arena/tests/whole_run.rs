//! The program as people run it: real processes, real matches, real pictures.

use arena::render::Image;
use shard_composer::Composer;
use shardkit::manifest::Manifest;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

const ARENA: &str = env!("CARGO_BIN_EXE_arena");

/// The processes that run this very file: each test has a link of its own.
fn processes_of(program: &Path) -> Vec<String> {
    let programs = fs::read_dir("/proc").unwrap().flatten();
    let runs = |pid: &str| fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == program);
    programs.map(|entry| entry.file_name().to_string_lossy().into_owned()).filter(|pid| runs(pid)).collect()
}

/// Waits a moment for processes that are on their way out.
fn assert_none_is_left(program: &Path) {
    let begin = Instant::now();
    while !processes_of(program).is_empty() {
        assert!(begin.elapsed() < Duration::from_secs(5), "left behind: {:?}", processes_of(program));
        thread::sleep(Duration::from_millis(20));
    }
}

/// A folder with the program and its manifest. The program is a hard link: a copy would be open for writing while another
/// test forks, and the kernel does not run what anyone may still write to.
fn install() -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let program = folder.path().canonicalize().unwrap().join("arena");
    fs::hard_link(ARENA, &program).unwrap();
    fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("arena.toml"), folder.path().join("arena.toml"))
        .unwrap();
    (folder, program)
}

#[test]
fn a_run_plays_its_matches_leaves_pictures_and_no_process() {
    let (folder, program) = install();
    let out = folder.path().join("pictures");
    let run = Command::new(&program)
        .args(["--matches", "2", "--seconds", "3", "--out"])
        .arg(&out)
        .current_dir("/")
        .output()
        .unwrap();
    let (text, errors) = (String::from_utf8(run.stdout).unwrap(), String::from_utf8(run.stderr).unwrap());
    assert!(run.status.success(), "{text}\n{errors}");
    for part in [
        "2 of 2 matches played",
        "match   1   3.0 s",
        "match   2   3.0 s",
        "mistypes the password: denied",
        "held off for",
    ] {
        assert!(text.contains(part), "no {part:?} in\n{text}");
    }
    let picture = |name: &str| Image::from_png(&fs::read(out.join(name)).unwrap()).unwrap();
    let (sheet, highlights) = (picture("arena.png"), picture("arena-highlights.png"));
    assert!(sheet.width > highlights.width, "the sheet shows both matches");
    assert_eq!(picture("arena-live.png").width, highlights.width);
    assert_none_is_left(&program);
}

#[test]
fn ctrl_c_ends_a_run_cleanly() {
    let (_folder, program) = install();
    let mut run = Command::new(&program)
        .args(["--matches", "2", "--out"])
        .arg(program.with_file_name("out"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    thread::sleep(Duration::from_millis(1_500));
    // `kill` as people type it: no test needs unsafe code for that.
    let interrupted =
        Command::new("sh").args(["-c", "kill -INT $0", &run.id().to_string()]).status().unwrap();
    assert!(interrupted.success());
    let begin = Instant::now();
    let status = run.wait().unwrap();
    assert_eq!(status.code(), Some(130));
    assert!(begin.elapsed() < Duration::from_secs(5), "it took {:?} to end", begin.elapsed());
    assert_none_is_left(&program);
}

#[test]
fn a_composer_that_is_killed_leaves_no_shard() {
    let (_folder, program) = install();
    let mut run = Command::new(&program)
        .args(["--matches", "1", "--out"])
        .arg(program.with_file_name("out"))
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    thread::sleep(Duration::from_millis(1_500));
    assert!(processes_of(&program).len() > 6, "program, helper and five shards");
    run.kill().unwrap();
    run.wait().unwrap();
    assert_none_is_left(&program);
}

#[test]
fn forty_matches_that_nobody_plays_are_served_and_end() {
    let (_folder, program) = install();
    let manifest = Manifest::read(program.with_file_name("arena.toml")).unwrap();
    let composer = Composer::builder(manifest).launcher(&program).start().unwrap();
    composer.wait_warm(Duration::from_secs(20)).unwrap();
    let sessions: Vec<_> = (0..40).map(|_| composer.compose("default").unwrap()).collect();
    // Beyond the lobby's time, so that the bots play and the film runs.
    thread::sleep(Duration::from_millis(3_000));
    assert!(sessions.iter().all(|session| session.ending().is_none()), "a match was lost");
    for session in sessions {
        assert!(session.end(Duration::from_secs(5)), "a match did not end");
    }
    for _ in 0..160 {
        assert!(composer.compose("default").unwrap().end(Duration::from_secs(5)));
    }
    let faulty = |shard: &shard_composer::ShardInfo| {
        let stats = composer.stats(shard.id).unwrap();
        stats.counter(shard_runtime::stats::Counter::HandlerErrors) > 0
    };
    assert!(!composer.shards().iter().any(faulty), "a handler failed");
    composer.shut_down();
    assert_none_is_left(&program);
}
