//! `shardctl` as a person types it.

use rustix::process::{Pid, Signal, kill_process};
use shard_tests::{alive, manifest_text, wait_until};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;

/// The program, built beside this test's own.
fn shardctl() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let folder = Path::new(env!("CARGO_BIN_EXE_misfit")).parent().expect("a folder");
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "-p", "shard-composer", "--bin", "shardctl", "--target-dir"]);
        build.arg(folder.parent().expect("a target folder"));
        if folder.ends_with("release") {
            build.arg("--release");
        }
        assert!(build.status().expect("cargo runs").success());
        folder.join("shardctl")
    })
}

/// A folder with a manifest and a place for the socket.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let misfit = Path::new(env!("CARGO_BIN_EXE_misfit"));
        std::fs::write(folder.path().join("echo.toml"), manifest_text(misfit, &["echo"], "capacity = 8"))
            .expect("a manifest");
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn up(&self) -> Child {
        let mut up = Command::new(shardctl());
        up.arg("up").arg(self.path("echo.toml")).arg("--socket").arg(self.path("socket"));
        let child = up.stderr(Stdio::null()).spawn().expect("shardctl starts");
        wait_until("it answers", || self.ask(&["ps"]).status.success());
        child
    }

    fn ask(&self, words: &[&str]) -> Output {
        let mut ask = Command::new(shardctl());
        ask.args(words).arg("--socket").arg(self.path("socket")).output().expect("shardctl runs")
    }

    fn shards(&self) -> Vec<u32> {
        let ps: serde_json::Value =
            serde_json::from_slice(&self.ask(&["ps", "--json"]).stdout).expect("JSON");
        let shards = ps["shards"].as_array().expect("shards");
        shards
            .iter()
            .filter_map(|shard| shard["pid"].as_u64())
            .filter(|pid| *pid != 0)
            .map(|pid| pid as u32)
            .collect()
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn a_running_application_is_listed_watched_used_and_ended() {
    let place = Place::new();
    let mut up = place.up();
    wait_until("the shard is ready", || text(&place.ask(&["ps"])).contains("ready"));

    let composed = place.ask(&["compose"]);
    assert!(composed.status.success(), "{}", text(&composed));
    let session = String::from_utf8_lossy(&composed.stdout).trim().to_owned();
    assert!(text(&place.ask(&["ps"])).contains(&session));
    let top = text(&place.ask(&["top", "--once", "--interval-ms", "50"]));
    assert!(top.contains("transit p50") && top.contains("messages/s"), "{top}");
    let link = |from: &str, to: &str| top.lines().any(|line| line.starts_with(from) && line.contains(to));
    assert!(link("embedder", "echo ") && link("echo ", "embedder"), "each direction is a link: {top}");
    assert!(place.ask(&["end", &session]).status.success());
    assert_eq!(place.ask(&["end", &session]).status.code(), Some(1));
    assert_eq!(place.ask(&["compose", "nothing"]).status.code(), Some(1));

    let mut second = Command::new(shardctl());
    let second = second.arg("up").arg(place.path("echo.toml")).arg("--socket").arg(place.path("socket"));
    let refused = second.output().expect("it runs");
    assert!(text(&refused).contains("another `shardctl up`"), "{}", text(&refused));

    let shards = place.shards();
    kill_process(Pid::from_child(&up), Signal::INT).expect("it is there");
    assert!(up.wait().expect("it ends").success());
    assert!(shards.iter().all(|pid| !alive(*pid)), "a shard is left");
    assert!(!place.path("socket").exists());
}

#[test]
fn a_killed_shardctl_leaves_no_shard_and_its_socket_is_taken_over() {
    let place = Place::new();
    let mut up = place.up();
    wait_until("the shard is ready", || text(&place.ask(&["ps"])).contains("ready"));
    let shards = place.shards();
    assert!(!shards.is_empty());
    up.kill().expect("it is there");
    up.wait().expect("it ends");
    wait_until("all shards are gone", || shards.iter().all(|pid| !alive(*pid)));
    let mut again = place.up();
    kill_process(Pid::from_child(&again), Signal::TERM).expect("it is there");
    assert!(again.wait().expect("it ends").success());
}

#[test]
fn a_socket_takes_no_files_place_and_no_folder_that_others_can_fill_is_believed() {
    let place = Place::new();
    std::fs::write(place.path("socket"), "mine").unwrap();
    let mut up = Command::new(shardctl());
    let refused = up.arg("up").arg(place.path("echo.toml")).arg("--socket").arg(place.path("socket"));
    let refused = text(&refused.output().expect("it runs"));
    assert!(refused.contains("no socket") && refused.contains("another --socket"), "{refused}");
    assert_eq!(std::fs::read(place.path("socket")).unwrap(), b"mine");

    let shared = place.path(&format!("shardctl-{}", rustix::process::geteuid().as_raw()));
    std::fs::create_dir(&shared).unwrap();
    std::fs::set_permissions(&shared, std::fs::Permissions::from_mode(0o777)).unwrap();
    let echo = place.path("echo.toml");
    for words in [&["up", echo.to_str().unwrap()][..], &["ps"], &["ps", "--app", "a"]] {
        let mut shardctl = Command::new(shardctl());
        let shardctl = shardctl.args(words).env("TMPDIR", place.folder.path()).env_remove("XDG_RUNTIME_DIR");
        let refused = text(&shardctl.output().expect("it runs"));
        assert!(refused.contains("another user can change it"), "{words:?}: {refused}");
    }
}

#[test]
fn another_user_is_turned_away_and_the_log_says_who() {
    const NOBODY: u32 = 65_534;
    if !rustix::process::geteuid().is_root() {
        return println!("not tested: only root can be someone else");
    }
    let place = Place::new();
    let mode = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("it is ours");
    };
    mode(place.folder.path(), 0o755);
    // It may lie where others can't look.
    let program = place.path("shardctl");
    std::fs::copy(shardctl(), &program).expect("a copy");
    let log = place.path("log");
    let mut up = Command::new(shardctl());
    up.arg("up").arg(place.path("echo.toml")).arg("--socket").arg(place.path("socket")).arg("--json-logs");
    let mut up = up.stderr(std::fs::File::create(&log).expect("a file")).spawn().expect("shardctl starts");
    wait_until("it answers", || place.ask(&["ps"]).status.success());
    let ask = || {
        let mut ask = Command::new(&program);
        ask.args(["ps", "--socket"]).arg(place.path("socket")).uid(NOBODY).gid(NOBODY);
        ask.output().expect("it runs")
    };
    // The file keeps others out …
    let refused = ask();
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused).contains("Permission denied"), "{}", text(&refused));
    // … and where someone has opened it, the kernel's word on who calls does.
    mode(&place.path("socket"), 0o666);
    let refused = ask();
    assert!(!refused.status.success(), "{}", text(&refused));
    let mut told = String::new();
    wait_until("it is told", || {
        told = std::fs::read_to_string(&log).unwrap_or_default();
        told.contains("turned away")
    });
    let line = told.lines().find(|line| line.contains("turned away")).expect("it was just there");
    let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
    assert!(line["reason"].as_str().is_some_and(|who| who.ends_with("of user 65534")), "{line}");
    assert!(place.ask(&["ps"]).status.success());
    kill_process(Pid::from_child(&up), Signal::TERM).expect("it is there");
    assert!(up.wait().expect("it ends").success());
}

#[test]
fn a_wrong_manifest_is_one_clear_error() {
    let place = Place::new();
    std::fs::write(place.path("wrong.toml"), "[application]\nname = \"x\"\n[component.a]\nprogam = \"y\"\n")
        .unwrap();
    let output = Command::new(shardctl()).arg("up").arg(place.path("wrong.toml")).output().expect("it runs");
    assert_eq!(output.status.code(), Some(2));
    let says = text(&output);
    assert!(says.contains("wrong.toml:4:") && says.contains("program"), "{says}");
}

#[test]
fn a_trace_is_replayed_and_the_last_line_is_one_object() {
    let place = Place::new();
    let rows: String = (0..40).map(|n| format!("{},{}\n", f64::from(n) * 0.5, 1 + n % 3)).collect();
    std::fs::write(place.path("trace.csv"), format!("start,duration\n{rows}")).unwrap();
    let mut replay = Command::new(shardctl());
    replay.arg("replay").arg("--trace").arg(place.path("trace.csv")).args(["--speed", "20", "--json"]);
    let output = replay.arg(place.path("echo.toml")).output().expect("it runs");
    assert!(output.status.success(), "{}", text(&output));
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let last: serde_json::Value =
        serde_json::from_str(printed.lines().last().expect("a line")).expect("JSON");
    assert_eq!(
        (&last["sessions"], &last["failed"], &last["refused"]),
        (&40.into(), &0.into(), &0.into()),
        "{last}"
    );
    for field in ["compose_p50_us", "compose_p99_us", "compose_max_us"] {
        assert!(last[field].as_f64().is_some_and(|us| us > 0.1), "{last}");
    }
}

#[test]
fn schema_check_and_doctor_print_what_they_promise() {
    let run = |words: &[&str]| Command::new(shardctl()).args(words).output().expect("it runs");
    let schema: serde_json::Value = serde_json::from_slice(&run(&["schema"]).stdout).expect("JSON");
    assert!(schema["properties"]["component"].is_object());
    let doctor = text(&run(&["doctor"]));
    assert!(doctor.contains("membarrier") && doctor.contains("node 0"), "{doctor}");
    let place = Place::new();
    let host = place.path("host.toml");
    std::fs::write(&host, "probe = false\n[node.0]\nprocessors = '0-1'\n[gpu.first]\nmemory = '8GiB'")
        .unwrap();
    let host = host.display().to_string();
    let doctor = text(&run(&["doctor", "--json", "--host", &host]));
    let lines: Vec<serde_json::Value> =
        doctor.lines().map(|line| serde_json::from_str(line).expect("one JSON object a line")).collect();
    assert_eq!(lines[0]["inventory"]["gpus"][0]["memory_bytes"], 8_u64 << 30);
    assert!(lines.iter().any(|line| line["limit"]["what"] == "memory.max"), "{doctor}");
    std::fs::write(&host, "[node.0]\nprocessor = '0'").unwrap();
    let refused = run(&["doctor", "--host", &host]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("host.toml:2:1: unknown key `processor`"));
    assert!(run(&["check", &place.path("echo.toml").display().to_string()]).status.success());
}
