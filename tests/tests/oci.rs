//! Components as OCI images, run by a real OCI runtime. Without one, each test says so and passes.

use shard_composer::Composer;
use shard_composer::oci::{Cache, Limits, Runtime};
use shard_tests::{PATIENCE, alive, embedder, image_of, ready_shard, status, wait_until};
use shardkit::manifest::Manifest;
use shardkit::prelude::*;
use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

fn misfit() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_misfit"))
}

/// The folder with an image of the misfit and the cache, for all tests.
fn place() -> Option<&'static Path> {
    static PLACE: OnceLock<Option<tempfile::TempDir>> = OnceLock::new();
    PLACE.get_or_init(|| image_of(misfit())).as_ref().map(tempfile::TempDir::path)
}

fn manifest(image: &Path, way: &str, extra: &str) -> String {
    format!(
        "[application]\nname = \"containers\"\n[component.echo]\nimage = \"oci:{}\"\nargs = [\"{way}\"]\n{extra}\n\
         [component.echo.in]\nask = {{ type = \"bytes\", reply = \"bytes\", max = \"64KiB\" }}\n\
         [embedder.out]\necho = \"echo.ask\"\n",
        image.display()
    )
}

fn start(place: &Path, text: &str) -> Composer {
    let manifest = Manifest::parse(text, "oci.toml").unwrap_or_else(|error| panic!("{error}"));
    let builder = Composer::builder(manifest).launcher(misfit()).image_cache(place.join("cache")).quiet(true);
    builder.start().unwrap_or_else(|error| panic!("{error}"))
}

fn ask(composer: &Composer, question: &[u8]) -> Vec<u8> {
    let port = composer.output::<Bytes, Bytes>("echo").unwrap();
    let session = composer.compose("default").unwrap();
    session.send(&port, &Bytes(question.to_vec())).unwrap();
    let mail = session.receive(PATIENCE).unwrap();
    mail.message().payload().to_vec()
}

/// A process and all below it, the lowest last.
fn family(pid: u32) -> Vec<u32> {
    let mut family = vec![pid];
    let mut at = 0;
    while let Some(pid) = family.get(at) {
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        family.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
        at += 1;
    }
    family
}

#[test]
fn a_shard_in_a_container_answers_and_reaches_nothing_else() {
    let Some(place) = place() else { return };
    let composer = start(place, &manifest(&place.join("image.tar"), "echo", ""));
    let shard = ready_shard(&composer, "echo");
    assert_eq!(ask(&composer, b"hello"), b"hello");

    let pid = *family(shard.pid).last().unwrap();
    assert_ne!(pid, shard.pid);
    let status = status(pid);
    assert_eq!(status["NoNewPrivs"], "1");
    assert_eq!(status["Seccomp"], "2");
    for set in ["CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb"] {
        assert_eq!(status[set], "0000000000000000", "{set}");
    }
    if rustix::process::geteuid().is_root() {
        assert_eq!(status["Uid"].split_whitespace().next(), Some("65534"));
    }
    for space in ["user", "pid", "ipc", "mnt", "net", "uts"] {
        let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/{space}")).unwrap();
        assert_ne!(of("self"), of(&pid.to_string()), "{space}");
    }
    let root = PathBuf::from(format!("/proc/{pid}/root"));
    assert!(root.join("app/misfit").is_file());
    assert!(!root.join("etc/shadow").exists());
    let mounts = fs::read_to_string(format!("/proc/{pid}/mounts")).unwrap();
    let top = mounts.lines().find(|line| line.split(' ').nth(1) == Some("/")).unwrap();
    assert!(top.split(' ').nth(3).unwrap().split(',').any(|option| option == "ro"), "{top}");
    let mut sockets = 0;
    for fd in fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten() {
        let target = fs::read_link(fd.path()).unwrap_or_default();
        let target = target.to_string_lossy();
        sockets += usize::from(target.starts_with("socket:"));
        let known = ["socket:", "/memfd:", "/dev/null", "/null", "anon_inode:", "pipe:"];
        assert!(known.iter().any(|known| target.contains(known)), "{target}");
    }
    assert_eq!(sockets, 1);
}

#[test]
fn a_container_makes_no_namespaces_and_opens_no_sockets_but_of_its_own_network() {
    let Some(place) = place() else { return };
    let composer = start(place, &manifest(&place.join("image.tar"), "echo", ""));
    assert_eq!(ask(&composer, b"climb"), b"ip routes");
}

#[test]
fn the_end_of_a_container_is_seen_and_another_is_started() {
    let Some(place) = place() else { return };
    let composer = start(place, &manifest(&place.join("image.tar"), "echo", ""));
    let first = ready_shard(&composer, "echo");
    let inner = *family(first.pid).last().unwrap();
    let pid = rustix::process::Pid::from_raw(inner as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    wait_until("another is ready", || ready_shard(&composer, "echo").pid != first.pid);
    assert_eq!(ask(&composer, b"again"), b"again");
    // What the composer kills is the whole of it.
    let family = family(ready_shard(&composer, "echo").pid);
    assert!(family.len() >= 2, "{family:?}");
    drop(composer);
    wait_until("all are gone", || family.iter().all(|pid| !alive(*pid)));
}

#[test]
fn a_killed_composer_leaves_no_container_behind() {
    let Some(place) = place() else { return };
    let text = manifest(&place.join("image.tar"), "echo", "warm = 3");
    let (mut embedder, line) =
        embedder(Command::new(misfit()).arg("embed-warm").arg(place.join("cache")), &text);
    assert_eq!(line, "warm\n");
    let family = family(embedder.id());
    // The composer, its helper, and for each shard the runtime and the shard.
    assert!(family.len() >= 2 + 3 * 2, "{family:?}");
    embedder.kill().unwrap();
    embedder.wait().unwrap();
    wait_until("all are gone", || family.iter().all(|pid| !alive(*pid)));
}

#[test]
fn a_bundle_is_run_as_an_image_is() {
    let Some(place) = place() else { return };
    let cache = Cache::at(place.join("cache")).unwrap();
    let unpacked = cache.unpacked(&place.join("image.tar"), Limits::default()).unwrap();

    let bundle = tempfile::tempdir().unwrap();
    let copied =
        Command::new("cp").arg("-r").arg(&unpacked.rootfs).arg(bundle.path().join("rootfs")).status();
    assert!(copied.unwrap().success());
    // What it asks for beyond its program counts for nothing.
    fs::write(
        bundle.path().join("config.json"),
        r#"{"ociVersion":"1.0.2","root":{"path":"rootfs"},"process":{"user":{"uid":0,"gid":0},"args":["/app/misfit"],
            "env":["LD_LIBRARY_PATH=/lib/shard"],"cwd":"/"},"mounts":[{"destination":"/host","type":"bind","source":"/"}]}"#,
    )
    .unwrap();
    let composer = start(place, &manifest(bundle.path(), "echo", ""));
    assert_eq!(ask(&composer, b"hello"), b"hello");
    let pid = *family(ready_shard(&composer, "echo").pid).last().unwrap();
    assert!(!Path::new(&format!("/proc/{pid}/root/host")).exists());
}

#[test]
fn a_runtime_or_an_image_that_is_missing_is_named_with_the_cure() {
    let folder = tempfile::tempdir().unwrap();
    let parse = |image: &str| Manifest::parse(&manifest(Path::new(image), "echo", ""), "oci.toml").unwrap();
    let builder = Composer::builder(parse("nowhere.tar")).launcher(misfit()).image_cache(folder.path());
    let error = builder.oci_runtime("/nowhere/crun").start().err().unwrap().to_string();
    assert!(
        error.contains("component `echo`: no OCI runtime") && error.contains("apt-get install crun"),
        "{error}"
    );
    if Runtime::find(None, None).is_ok() {
        let builder = Composer::builder(parse("nowhere.tar")).launcher(misfit()).image_cache(folder.path());
        let error = builder.start().err().unwrap().to_string();
        assert!(error.contains("nowhere.tar: No such file"), "{error}");
    }
}

#[test]
fn a_runtime_that_moves_containers_out_of_their_groups_is_refused_by_name() {
    // The real one where it is installed, and in any case a program that is none.
    for (runtime, says) in [("runc", "runc version"), ("ls", "ls ")] {
        match Runtime::find(Some(Path::new(runtime)), None).map_err(|error| error.to_string()) {
            Err(error) if error.contains("is not there") => println!("not tested: {error}"),
            Err(error) => {
                assert!(error.contains(says) && error.contains("control groups"), "{error}");
                assert!(error.contains("apt-get install crun"), "{error}");
            }
            Ok(found) => panic!("{found} is taken"),
        }
    }
}

#[test]
fn what_a_container_prints_arrives_and_the_streams_stay_their_owners() {
    let Some(place) = place() else { return };
    let log = place.join("log");
    let owner = |path: &Path| {
        let found = fs::metadata(path).unwrap();
        (found.uid(), found.gid())
    };
    let null = owner(Path::new("/dev/null"));
    let text = manifest(&place.join("image.tar"), "panic", "");
    let mut embedder = Command::new(misfit())
        .arg("embed-loud")
        .arg(place.join("cache"))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    embedder.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    wait_until("its panic is told", || fs::read_to_string(&log).unwrap().contains("as asked"));
    embedder.kill().unwrap();
    embedder.wait().unwrap();
    assert_eq!(owner(Path::new("/dev/null")), null);
    assert_eq!(owner(&log), (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()));
}

#[test]
fn a_container_that_does_not_run_is_reported() {
    let Some(place) = place() else { return };
    let composer = start(place, &manifest(&place.join("image.tar"), "exit", ""));
    assert!(composer.wait_warm(Duration::from_secs(1)).is_err());
}
