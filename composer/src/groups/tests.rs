use super::*;
use crate::processes::ProcessId;
use shardkit::application::Needs;
use std::process::{Command, Stdio};

impl Groups {
    /// As on a host without any.
    pub(crate) fn absent() -> Self {
        Self::at(None, Refusals::default())
    }
}

fn limits() -> Limits {
    Limits {
        memory_bytes: 64 << 20,
        processes: 16,
        beside: 0,
        weight: 100,
        cores: Vec::new(),
        rdma: Some(false),
        disks: Disks::default(),
    }
}

#[test]
fn what_a_composer_that_is_gone_has_left_is_killed_and_removed_and_what_lives_is_not() {
    let Ok(own) = place::own_group() else { return };
    let living = Groups::prepare();
    let Some(folder) = living.place.as_ref().map(|place| place.folder.path.clone()) else {
        println!("not tested: this process can't make groups");
        return;
    };
    let base = living.place.as_ref().map_or(own, |place| place.base.clone());
    let left = base.join(format!("shards-{}-left", std::process::id()));
    fs::create_dir(&left).and_then(|()| fs::create_dir(left.join("7"))).unwrap();
    let mut child = Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap();
    fs::write(left.join("7/cgroup.procs"), child.id().to_string()).unwrap();
    drop(Groups::prepare());
    assert!(!left.exists());
    assert!(!child.wait().unwrap().success(), "it was not killed");
    assert!(folder.exists(), "a living composer's groups were removed");
    drop(living);
    assert!(!folder.exists());
}

#[test]
fn a_group_goes_with_its_process_and_takes_along_what_that_left() {
    let mut groups = Groups::prepare();
    let Some(folder) = groups.place.as_ref().map(|place| place.folder.path.clone()) else {
        println!("not tested: this process can't make groups");
        return;
    };
    let process = ProcessId(1);
    groups.make(process, limits()).expect("a group");
    let group = folder.join("1");
    let mut child = Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap();
    fs::write(group.join("cgroup.procs"), child.id().to_string()).unwrap();
    assert_eq!(groups.stopped(process).map(|stopped| stopped.left), Some(1));
    groups.remove(process);
    assert!(!child.wait().unwrap().success(), "it was not killed");
    for _ in 0..2_000 {
        groups.sweep();
        std::thread::sleep(std::time::Duration::from_millis(1));
        if !group.exists() {
            return;
        }
    }
    panic!("the group is still there");
}

#[test]
fn a_host_without_control_groups_is_told_of_once_and_shards_have_none() {
    let mut refusals = Refusals::default();
    refusals.no_groups(&io::ErrorKind::NotFound.into());
    assert!(refusals.has("control groups"));
    let mut groups = Groups::at(None, refusals);
    assert!(groups.make(ProcessId(1), limits()).is_none());
    assert!(!groups.freeze(ProcessId(1), true));
    assert_eq!(groups.stopped(ProcessId(1)), None);
    groups.remove(ProcessId(1));
}

#[test]
fn a_shard_without_a_declaration_has_no_limit_of_memory_and_no_rdma() {
    let files = Limits { memory_bytes: 0, ..limits() }.files(&["rxe0".into()]);
    let text = |name: &str| files.iter().find(|(_, file, _)| *file == name).map(|(.., text)| text.as_str());
    assert_eq!(text("memory.max"), Some("max"));
    assert_eq!(text("pids.max"), Some("16"));
    assert_eq!(text("rdma.max"), Some("rxe0 hca_handle=0 hca_object=0"));
    let disks = Disks { read: 5 << 20, disks: ["8:0".into()].into(), ..Disks::default() };
    let more = Limits {
        processes: 20,
        weight: 250,
        cores: vec![1],
        rdma: Some(true),
        disks,
        memory_bytes: 0,
        beside: 0,
    };
    assert_eq!(text("io.max"), None);
    let bounds: Vec<_> = more.files(&[]).into_iter().filter(|(_, file, _)| *file == "io.max").collect();
    assert_eq!(bounds, [("io", "io.max", "8:0 rbps=5242880 wbps=max".to_owned())]);
    assert_eq!(limits().or(more.clone()), Limits { cores: Vec::new(), disks: Disks::default(), ..more });
}

#[test]
fn a_shard_weighs_in_proportion_to_the_processors_that_it_was_given() {
    let weight =
        |cores, share_millicores| limits::weight(&Needs { cores, share_millicores, ..Needs::default() });
    assert_eq!([weight(0, 250), weight(0, 1), weight(1, 0), weight(2, 500)], [250, 1, 1000, 2500]);
    assert_eq!(weight(0, 0), 100, "who asks for nothing weighs what the kernel gives");
    assert_eq!([weight(11, 0), weight(u32::MAX, u32::MAX)], [10_000; 2], "the kernel has no more");
}

#[test]
fn what_is_on_no_disk_is_named_and_what_is_in_memory_has_no_bound() {
    let paths = ["/proc/self/exe", "/proc/self/status", "/dev/shm", "/nowhere"].map(Path::new);
    assert_eq!(Disks::below(0, 0, paths), Disks::default(), "who asks for no bound has none");
    let disks = Disks::below(1 << 20, 0, paths);
    println!("{disks:?}");
    assert!(disks.without.contains(&"/proc/self/status".into()));
    assert!(!disks.without.iter().any(|path| path.starts_with("/dev") || path.starts_with("/nowhere")));
    let mut refusals = Refusals::default();
    disks.without.iter().for_each(|path| refusals.no_disk(path));
    assert!(refusals.has("how fast disks are read and written (io.max) below /proc/self/status"));
}

#[test]
fn each_limit_of_control_groups_is_tried_and_what_is_absent_has_a_mend() {
    let tried = tried(Vec::new());
    let names: Vec<_> = tried.iter().map(|tried| tried.what).collect();
    assert_eq!(names, ["cgroup.freeze", "cpu.weight", "memory.max", "pids.max", "io.max", "rdma.max"]);
    for tried in tried {
        println!("{tried:?}");
        assert!(!tried.evidence.is_empty() && tried.mend.is_none_or(|mend| !mend.is_empty()));
    }
}
