use super::*;
use crate::processes::ProcessId;
use std::process::{Command, Stdio};

impl Groups {
    /// As on a host without any.
    pub(crate) fn absent() -> Self {
        Self::at(None, Refusals::default())
    }
}

fn limits() -> Limits {
    Limits { memory_bytes: 64 << 20, processes: 16, beside: 0, cores: Vec::new(), rdma: Some(false) }
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
    let other = Limits { memory_bytes: 0, processes: 20, cores: vec![1], rdma: Some(true), ..limits() };
    assert_eq!(limits().or(other.clone()), Limits { cores: Vec::new(), ..other });
}
