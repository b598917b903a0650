//! A red team: shards that were taken over try to get out, with real processes. In each case their neighbours go on.
//!
//! Where the host allows no user namespaces to this process there is nothing to attack; the tests say so and pass.

use rustix::process::Signal;
use shard_composer::core::{ShardState, Tier};
use shard_composer::{Composer, ReceiveError};
use shard_runtime::control::CONTROL_ENV;
use shard_runtime::isolation::{Measure, TASKS_MAX, probe};
use shard_runtime::process::INHERITED;
use shard_tests::attack::{Attack, ask};
use shard_tests::{
    PATIENCE, alive, descriptors, embedder, kill, manifest_text, parent, ready_shard, sources, start, status,
    wait_until,
};
use shardkit::manifest::Manifest;
use shardkit::prelude::Bytes;
use std::fs;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

fn intruder() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_intruder"))
}

/// One composer at a time: they share two processors on most machines that test. `None`, with a reason printed, where
/// shards can't be isolated.
fn alone() -> Option<MutexGuard<'static, ()>> {
    static ONE: Mutex<()> = Mutex::new(());
    let alone = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let absent = probe().unwrap().into_iter().filter_map(|probed| probed.absent);
    let needed = [Measure::User, Measure::Mount, Measure::Pid, Measure::Net, Measure::Root, Measure::Seccomp];
    match absent.into_iter().find(|absent| needed.contains(&absent.measure)) {
        None => Some(alone),
        Some(missing) => {
            println!("not tested: this host does not allow it: {missing}; {}", missing.mend());
            None
        }
    }
}

/// A composer with an intruder and a neighbour.
fn composer(way: &str, extra: &str) -> Composer {
    start(intruder(), &manifest_text(intruder(), &[way, "echo"], extra))
}

/// An intruder beside a neighbour.
fn attack(way: &str, extra: &str) -> Attack {
    Attack::begin(intruder(), &manifest_text(intruder(), &[way, "echo"], extra))
}

/// An intruder whose partner the neighbour is, too.
fn attack_on_a_partner(way: &str, extra: &str) -> Attack {
    let text = manifest_text(intruder(), &[way, "echo"], &format!("capacity = 8\nmax = 1\n{extra}"));
    let link = "{ to = \"echo.echo-ask\", ring = \"16KiB\" }";
    Attack::begin(intruder(), &format!("{text}\n[component.{way}.out]\nneighbour = {link}\n"))
}

/// The log says that the shards of this component are isolated: what they are refused is between them and the kernel.
fn isolation_is_told(attack: &Attack, component: &str) {
    attack.log.line("shard is launched", &[("component", component), ("reason", "ready")]);
    attack.log.line("its limits", &[("component", component), ("isolated", "true")]);
}

/// The neighbour answers.
fn echoes(composer: &Composer) {
    assert_eq!(ask(composer, "echo", "still there?"), "still there?");
}

/// Without isolation the attack works, or the test above it shows nothing.
fn works_without_isolation(attack: &str) {
    let composer = composer("attack", "isolation = \"none\"");
    let answer = ask(&composer, "attack", attack);
    assert!(answer.starts_with("done"), "{attack} does not even work without isolation: {answer}");
}

fn children(pid: u32) -> Vec<u32> {
    let pids =
        fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|child| parent(*child) == Some(pid)).collect()
}

/// Checks in the kernel's own files that a process is isolated as shards are.
fn is_isolated(pid: u32) {
    let status = status(pid);
    assert_eq!(status["NoNewPrivs"], "1");
    assert_eq!(status["Seccomp"], "2");
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(status[set], "0000000000000000", "{set}");
    }
    let users: Vec<&str> = status["Uid"].split_whitespace().collect();
    assert!(users.iter().all(|user| *user != "0"), "{users:?}");
    for space in ["user", "mnt", "pid", "ipc", "net", "uts", "cgroup"] {
        let link = |who: &str| fs::read_link(format!("/proc/{who}/ns/{space}")).unwrap();
        assert_ne!(link(&pid.to_string()), link("self"), "{space} namespace");
    }
    let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
    for mount in mounts.lines() {
        let fields: Vec<&str> = mount.split(' ').collect();
        let (point, options) = (fields[4], fields[5]);
        assert!(point == "/tmp" || options.split(',').any(|option| option == "ro"), "{mount}");
        assert!(options.contains("nosuid"), "{mount}");
    }
    let mut open: Vec<u32> = fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap())
        .collect();
    open.sort_unstable();
    // The last is the control socket, whose number is another in what was forked.
    assert!(open.len() == 4 && open[..3] == [0, 1, 2], "descriptors {open:?}");
    let socket = fs::read_link(format!("/proc/{pid}/fd/{}", open[3])).unwrap();
    assert!(socket.to_string_lossy().starts_with("socket:"), "{socket:?}");
    let variables = fs::read(format!("/proc/{pid}/environ")).unwrap();
    for variable in variables.split(|byte| *byte == 0).filter(|variable| !variable.is_empty()) {
        let name = String::from_utf8_lossy(variable.split(|byte| *byte == b'=').next().unwrap());
        assert!(INHERITED.contains(&&*name) || name == CONTROL_ENV, "the composer's variable {name}");
    }
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let tasks = limits.lines().find(|line| line.starts_with("Max processes")).unwrap();
    assert_eq!(tasks.split_whitespace().nth(2), Some(&*TASKS_MAX.to_string()), "{tasks}");
}

#[test]
fn isolation_is_read_back_from_the_kernel_whatever_a_shard_is_made_from() {
    let Some(_alone) = alone() else { return };
    let zygote = manifest_text(intruder(), &["cold", "forked", "spare"], "")
        .replace("args = [\"forked\"]", "args = [\"forked\"]\nzygote = true");
    let generic = format!(
        "[generic.any]\nprogram = \"{}\"\nargs = [\"any\"]\ncomponents = [\"spare\"]\nspares = 1\n",
        intruder().display()
    );
    let composer = start(intruder(), &(zygote + &generic));
    for way in ["cold", "forked", "spare"] {
        println!("{way}");
        is_isolated(ready_shard(&composer, way).pid);
    }
    assert_eq!(
        composer.starts("forked").first().map(|start| start.tier.to_string()).as_deref(),
        Some("zygote")
    );
    // The C library of what it forked takes its number for the shard's own first thread's.
    let zygote = sources(&composer).into_iter().find(|source| source.name == "forked").unwrap();
    let number: u64 = status(zygote.pid)["NSpid"].split_whitespace().last().unwrap().parse().unwrap();
    assert!(number > TASKS_MAX, "thread {number} of a shard is taken for its first one");
}

#[test]
fn a_shard_can_not_read_what_the_host_keeps() {
    let Some(_alone) = alone() else { return };
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    fs::write(&secret, "secret").unwrap();
    let me = format!("/proc/{}/environ", std::process::id());
    let paths = [
        "/etc/shadow",
        "/etc/passwd",
        secret.to_str().unwrap(),
        &me,
        "/proc/cmdline",
        "/dev/mem",
        "/dev/kmsg",
    ];
    let attack = attack("attack", "");
    attack.all_are_refused("reads what the host keeps", &paths.map(|path| format!("read {path}")));
    isolation_is_told(&attack, "attack");
    works_without_isolation(&format!("read {}", secret.display()));
}

#[test]
fn a_shard_can_not_write_to_the_hosts_file_system() {
    let Some(_alone) = alone() else { return };
    let folder = tempfile::tempdir().unwrap();
    let kept = folder.path().join("kept");
    fs::write(&kept, "kept").unwrap();
    let attack = attack("attack", "");
    let program = intruder().display();
    let paths = [
        "/shard-was-here",
        "/etc/shard-was-here",
        "/usr/shard-was-here",
        "/dev/shard-was-here",
        "/proc/sys/kernel/hostname",
        "/proc/self/oom_score_adj",
        "/proc/self/uid_map",
    ];
    let mut attacks: Vec<String> = paths.iter().map(|path| format!("write {path}")).collect();
    attacks.push(format!("write {program}"));
    attacks.push(format!("remove {program}"));
    attacks.push(format!("remove {}", kept.display()));
    attack.all_are_refused("writes to the host's file system", &attacks);
    // What it writes to its own folder is not the host's.
    assert!(attack.ask("attack", "write /tmp/shard-was-here").starts_with("done"));
    isolation_is_told(&attack, "attack");
    for path in paths.iter().take(4).chain(&["/tmp/shard-was-here"]) {
        assert!(!Path::new(path).exists(), "{path} is there");
    }
    assert_eq!(fs::read(&kept).unwrap(), b"kept");
    works_without_isolation(&format!("write {}", kept.display()));
}

#[test]
fn a_shard_reaches_no_network() {
    let Some(_alone) = alone() else { return };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let name = format!("shard-test-{}", std::process::id());
    let _named = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    let attacks = [format!("connect {}", listener.local_addr().unwrap()), format!("connect-abstract {name}")];
    let attack = attack("attack", "");
    attack.all_are_refused("connects to the network", &attacks);
    isolation_is_told(&attack, "attack");
    for attack in &attacks {
        works_without_isolation(attack);
    }
}

#[test]
fn a_shard_has_no_call_that_reaches_beyond_it_by_an_argument() {
    let Some(_alone) = alone() else { return };
    let name = format!("shard-test-datagram-{}", std::process::id());
    let _named = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    // With the host's network, where names of sockets are the host's.
    let attack = attack("attack", "allow = { network = true }");
    let attacks = [format!("datagram {name}"), "forget-parent".into(), "watch".into(), "sockets".into()];
    attack.all_are_refused("reaches beyond itself by an argument", &attacks);
    isolation_is_told(&attack, "attack");
    for attack in &attacks {
        works_without_isolation(attack);
    }
}

#[test]
fn a_device_can_be_used_and_not_changed_even_by_its_owner() {
    let Some(_alone) = alone() else { return };
    let folder = tempfile::tempdir().unwrap();
    // It has files of the composer's user, so it is that user.
    let attack = attack("attack", &format!("allow = {{ read = [\"{}\"] }}", folder.path().display()));
    assert!(attack.ask("attack", "write /dev/null").starts_with("done"));
    let before = fs::metadata("/dev/null").unwrap().permissions();
    attack.all_are_refused("changes a device", &["mode /dev/null".into()]);
    assert_eq!(fs::metadata("/dev/null").unwrap().permissions(), before);
}

#[test]
fn a_component_reaches_what_it_declares_and_no_more() {
    let Some(_alone) = alone() else { return };
    let folder = tempfile::tempdir().unwrap();
    let [read, write, other] = ["read", "write", "other"].map(|name| folder.path().join(name));
    for file in [&read, &write, &other] {
        fs::write(file, "text").unwrap();
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let allow = format!(
        "allow = {{ read = [\"{}\"], write = [\"{}\"], network = true, syscalls = [\"sethostname\"] }}",
        read.display(),
        write.display()
    );
    let attack = attack("attack", &allow);
    let done = |question: &str| {
        let answer = attack.ask("attack", question);
        assert!(answer.starts_with("done"), "{question}: {answer}");
    };
    done(&format!("read {}", read.display()));
    done(&format!("write {}", write.display()));
    done(&format!("connect {}", listener.local_addr().unwrap()));
    assert_eq!(fs::read(&write).unwrap(), b"textx");
    // It may be called, and the kernel still says no.
    let attacks =
        [format!("write {}", read.display()), format!("read {}", other.display()), "host-name x".into()];
    attack.all_are_refused("reaches for what it has not declared", &attacks);
}

#[test]
fn a_shard_that_traces_is_killed_and_the_reason_is_told() {
    let Some(_alone) = alone() else { return };
    let attack = attack("attack", "");
    let composer = &attack.composer;
    let victim = ready_shard(composer, "echo");
    let port = composer.output::<Bytes, Bytes>("attack").unwrap();
    let session = composer.compose("attack").unwrap();
    session.send(&port, &Bytes(format!("trace {}", victim.pid).into())).unwrap();
    attack.felt("traces a neighbour");
    wait_until("its session ends", || session.ending().is_some());
    assert!(matches!(session.receive(Duration::ZERO), Err(ReceiveError::Over(_))));
    let ending = session.ending().map(|ending| ending.to_string()).unwrap_or_default();
    println!("{ending}");
    assert!(ending.contains("signal 31") && ending.contains("system call"), "{ending}");
    assert!(alive(victim.pid));
    let fields =
        [("component", "attack"), ("sessions", &*session.id().to_string()), ("reason", "a system call")];
    attack.log.line("shard was killed by signal 31", &fields);
    attack.log.line("session lost", &[("component", "attack"), ("session", &session.id().to_string())]);
    attack.is_over();
    // Without isolation it is a neighbour that is stopped.
    let stopped = victim_of_ours();
    works_without_isolation(&format!("trace {stopped}"));
    kill(stopped, Signal::KILL);
}

#[test]
fn a_shard_can_not_signal_its_neighbours_nor_its_composer() {
    let Some(_alone) = alone() else { return };
    let attack = attack("attack", "");
    let victim = ready_shard(&attack.composer, "echo");
    let helper = parent(victim.pid).unwrap();
    let victims = [victim.pid, helper, std::process::id()];
    attack.all_are_refused("signals its neighbour", &victims.map(|pid| format!("signal {pid}")));
    isolation_is_told(&attack, "attack");
    assert!(alive(victim.pid) && alive(helper));
    works_without_isolation(&format!("signal {}", victim_of_ours()));
}

/// A process of this one that may be killed.
fn victim_of_ours() -> u32 {
    Command::new("sleep").arg("1000").spawn().expect("it starts").id()
}

#[test]
fn a_shard_has_no_descriptor_but_its_own_and_opens_no_others() {
    let Some(_alone) = alone() else { return };
    let composer = composer("attack", "");
    let answer = ask(&composer, "attack", "descriptors");
    // The fourth is its look at the folder of descriptors.
    let expected = r#"done: "0,1,2,3,4 /proc/1/fd/1,/proc/self/fd/1,/proc/self/fd/2""#;
    println!("{answer}");
    assert_eq!(answer, expected, "they are `/dev/null`, because it is quiet");
    echoes(&composer);
}

#[test]
fn a_shard_can_not_shrink_grow_or_punch_holes_into_the_memory_that_it_shares() {
    let Some(_alone) = alone() else { return };
    let attack = attack("maul", "");
    attack.felt("truncates, grows, punches holes");
    let told = mauled(&attack.composer);
    let regions: Vec<&str> = told.split(' ').collect();
    assert!(regions.len() == 3 && regions.iter().all(|region| region.ends_with(":nothing")), "{told}");
    attack.log.line("shard failed", &[("component", "maul"), ("reason", ":nothing")]);
    attack.is_over();
    // The seals hold without isolation too. Holes it can punch then.
    let told = mauled(&composer("maul", "isolation = \"none\""));
    for region in told.split(' ') {
        assert!(
            region.ends_with(":punched+removed") || region.ends_with(":punched+allocated+removed"),
            "{told}"
        );
    }
}

/// What a shard could do to the regions that it was handed.
fn mauled(composer: &Composer) -> String {
    ready_shard(composer, "echo");
    wait_until("it tells what it could do", || composer.fault("maul").is_some());
    let told = composer.fault("maul").unwrap();
    println!("{told}");
    told
}

#[test]
fn what_a_shard_prints_arrives_and_it_has_no_stream_of_its_composers() {
    let Some(_alone) = alone() else { return };
    let log = tempfile::NamedTempFile::new().unwrap();
    let misfit = Path::new(env!("CARGO_BIN_EXE_misfit"));
    // It panics at its first message.
    let text = manifest_text(misfit, &["echo"], "").replace("args = [\"echo\"]", "args = [\"panic\"]");
    let text = text.replace("composition.echo", "composition.default");
    let errors = log.reopen().unwrap();
    let (mut embedder, line) = embedder(Command::new(misfit).arg("embed-loud").stderr(errors), &text);
    assert_eq!(line, "warm\n");
    let shards = children(embedder.id()).into_iter().flat_map(children).collect::<Vec<_>>();
    for stream in shards.iter().flat_map(|shard| [1, 2].map(|fd| format!("/proc/{shard}/fd/{fd}"))) {
        // It may have panicked meanwhile.
        let target = fs::read_link(&stream).unwrap_or_else(|_| "pipe:".into());
        assert!(target.to_string_lossy().starts_with("pipe:"), "{stream}: {}", target.display());
    }
    wait_until("its panic is told", || fs::read_to_string(&log).unwrap().contains("as asked"));
    embedder.kill().unwrap();
    embedder.wait().unwrap();
}

#[test]
fn what_a_shard_leaves_behind_dies_with_it() {
    let Some(_alone) = alone() else { return };
    // A shard of its own, and one that shares its zygote's namespaces but for this.
    for extra in ["", "zygote = true"] {
        let attack = attack("attack", extra);
        let shard = ready_shard(&attack.composer, "attack");
        assert!(attack.ask("attack", "leave-children").starts_with("done"));
        let left = children(shard.pid);
        assert_eq!(left.len(), 3);
        kill(shard.pid, Signal::KILL);
        attack.felt("leaves children behind");
        wait_until("all are gone", || left.iter().all(|pid| !alive(*pid)));
        attack.log.line("shard was killed by signal 9", &[("component", "attack")]);
        attack.is_over();
    }
}

#[test]
fn a_shard_that_forks_without_end_is_bounded_and_its_children_die_with_it() {
    let Some(_alone) = alone() else { return };
    for extra in ["", "zygote = true"] {
        let attack = attack("attack", extra);
        let shard = ready_shard(&attack.composer, "attack");
        let answer = attack.ask("attack", "fork");
        let forked: u64 = answer.trim_start_matches("done: ").parse().unwrap_or_else(|_| panic!("{answer}"));
        println!("{forked} processes");
        assert!(forked > 0 && forked < TASKS_MAX, "{forked} processes");
        attack.felt("forks without end");
        let left = children(shard.pid);
        assert_eq!(left.len() as u64, forked);
        kill(shard.pid, Signal::KILL);
        wait_until("all are gone", || left.iter().all(|pid| !alive(*pid)));
        echoes(&attack.composer);
        attack.is_over();
    }
}

#[test]
fn a_shard_that_never_reads_its_control_socket_holds_up_nobody() {
    let Some(_alone) = alone() else { return };
    let attack = attack("deaf", "stop_timeout_ms = 200");
    let deaf = ready_shard(&attack.composer, "deaf");
    attack.felt("never reads its control socket");
    let error = attack.composer.compose_within("deaf", Duration::from_millis(300)).err();
    assert!(error.is_some(), "it can't open a session");
    echoes(&attack.composer);
    let id = deaf.id.to_string();
    attack.composer.shut_down();
    assert!(!alive(deaf.pid));
    attack.log.line("shard is killed", &[("component", "deaf"), ("shard", &id), ("reason", "did not")]);
    attack.is_over();
}

#[test]
fn a_message_on_a_session_that_is_not_its_senders_reaches_nobody() {
    let Some(_alone) = alone() else { return };
    let attack = attack("foreign", "");
    let composer = &attack.composer;
    ready_shard(composer, "foreign");
    attack.felt("sends on sessions that are not its own");
    let port = composer.output::<Bytes, Bytes>("echo").unwrap();
    let session = composer.compose("echo").unwrap_or_else(|error| panic!("{error}"));
    for round in 0..200_u32 {
        let text = round.to_string();
        session
            .send(&port, &Bytes(text.clone().into()))
            .unwrap_or_else(|error| panic!("{error} {:?}", session.ending()));
        let mail = session.receive(PATIENCE).unwrap_or_else(|error| panic!("after {round}: {error}"));
        assert_eq!(mail.message().payload(), text.as_bytes());
    }
    let more = session.receive(Duration::from_millis(100));
    assert!(matches!(more, Err(ReceiveError::Timeout)), "something else came, or the session ended");
    attack.log.line("what the shard sent was refused", &[("component", "foreign"), ("by", "embedder")]);
    attack.is_over();
}

#[test]
fn a_shard_that_floods_the_embedder_holds_up_nobody() {
    let Some(_alone) = alone() else { return };
    let attack = attack("flood", "");
    ready_shard(&attack.composer, "flood");
    attack.felt("floods its ring to the embedder");
    let line =
        attack.log.line("what the shard sent was refused", &[("component", "flood"), ("by", "embedder")]);
    println!("{line}");
    attack.log.line("protocol and is killed", &[("component", "flood"), ("reason", "floods the embedder")]);
    attack.log.line("shard is killed", &[("component", "flood"), ("reason", "the protocol")]);
    attack.is_over();
}

#[test]
fn a_shard_that_floods_its_partner_and_reads_nothing_holds_up_nobody() {
    let Some(_alone) = alone() else { return };
    let attack = attack_on_a_partner("flood-partner", "");
    ready_shard(&attack.composer, "flood-partner");
    attack.log.line("has refused messages of its partners", &[("component", "echo")]);
    attack.felt("floods its ring to a partner");
    attack.is_over();
}

#[test]
fn a_shard_that_floods_its_composer_is_killed_and_the_others_go_on() {
    let Some(_alone) = alone() else { return };
    for (way, error) in [("flood-composer", "things a second"), ("babble", "only a composer")] {
        let attack = attack(way, "");
        attack.felt("floods its ring to the composer");
        let line = attack.log.line("control link broken", &[("component", way), ("error", error)]);
        let shard = line["shard"].to_string();
        let shard = shard.trim_matches('"');
        attack.log.line("shard is killed", &[("shard", shard), ("reason", "the protocol")]);
        // What it says of handlers that fail does not fill the log.
        let told = attack.log.all().iter().filter(|line| line["message"] == "handler failed").count();
        assert!(told < 200, "{told} lines");
        attack.is_over();
    }
}

#[test]
fn a_shard_that_sends_descriptors_is_killed_by_name_and_none_is_kept() {
    let Some(_alone) = alone() else { return };
    for (way, reason) in [("give", "1 descriptors"), ("pour", "more than 4 descriptors")] {
        let attack = attack(way, "");
        attack.log.line("is killed", &[("component", way), ("reason", reason)]);
        attack.felt("sends descriptors");
        let few = descriptors();
        // It is started again and again, with growing pauses.
        std::thread::sleep(Duration::from_millis(500));
        wait_until("no more descriptors than before", || descriptors() <= few + 8);
        assert!(attack.composer.fault(way).unwrap_or_default().contains("descriptors"));
        attack.is_over();
    }
}

#[test]
fn descriptors_that_a_shard_hoards_keep_nobody_from_being_started() {
    let Some(_alone) = alone() else { return };
    for extra in ["", "zygote = true"] {
        let attack = attack("attack", extra);
        println!("{}", attack.ask("attack", "hoard"));
        attack.felt("hoards descriptors under way");
        let echo = ready_shard(&attack.composer, "echo");
        kill(echo.pid, Signal::KILL);
        wait_until("the neighbour is replaced", || {
            attack
                .composer
                .shards()
                .iter()
                .any(|s| s.component == "echo" && s.id != echo.id && s.state == ShardState::Ready)
        });
        echoes(&attack.composer);
        if !extra.is_empty() {
            let from = attack.composer.starts("echo").last().map(|start| start.tier);
            assert_eq!(from, Some(Tier::Zygote), "its zygote could not send it");
        }
        attack.is_over();
    }
}

#[test]
fn a_shard_that_scribbles_over_all_that_it_can_write_loses_itself_alone() {
    let Some(_alone) = alone() else { return };
    let seed = match std::env::var("SHARD_SEED").ok().and_then(|seed| seed.parse().ok()) {
        Some(seed) => seed,
        None => std::time::UNIX_EPOCH.elapsed().map_or(1, |since| since.as_nanos() as u64),
    };
    println!("SHARD_SEED={seed}");
    let attack = attack_on_a_partner("scribble", &format!("env = {{ SHARD_SEED = \"{seed}\" }}"));
    for _ in 0..3 {
        attack.felt("scribbles over all that it can write");
        // Whoever looks at its statistics sees nonsense, and nothing worse.
        println!("{:?} {:?}", attack.composer.shards(), attack.composer.links());
    }
    attack.log.line("broken", &[("component", "scribble")]);
    attack.log.line("shard is killed", &[("component", "scribble"), ("reason", "the protocol")]);
    attack.is_over();
}

#[test]
fn a_descriptor_that_takes_a_minute_to_close_keeps_nobody_waiting() {
    let Some(_alone) = alone() else { return };
    let attack = attack("linger", "allow = { network = true }");
    attack.log.line("process does not keep to the protocol", &[("component", "linger")]);
    // Who reaps and launches is at work.
    let echo = ready_shard(&attack.composer, "echo");
    kill(echo.pid, Signal::KILL);
    wait_until("there is another", || ready_shard(&attack.composer, "echo").pid != echo.pid);
    attack.felt("sends what takes a minute to close");
    attack.is_over();
}

#[test]
fn a_shard_that_accuses_its_partners_without_end_ends_no_session_but_its_own() {
    let Some(_alone) = alone() else { return };
    let attack = attack_on_a_partner("accuse", "");
    attack.log.line("shard has broken a link", &[("component", "echo")]);
    let echo = ready_shard(&attack.composer, "echo").pid;
    // It says so as soon as it is wired, and so does the one that comes after it.
    let witnesses = || -> Vec<String> {
        let lines = attack.log.all();
        let accusations = lines.iter().filter(|line| line["message"] == "shard has broken a link");
        accusations.map(|line| line["witness"].to_string()).collect()
    };
    wait_until("five of them have accused", || witnesses().len() >= 5);
    let shards: std::collections::BTreeSet<_> = witnesses().into_iter().collect();
    assert!(shards.len() >= 5, "one of them accuses again and again: {shards:?}");
    attack.felt("accuses its partners");
    assert_eq!(ready_shard(&attack.composer, "echo").pid, echo, "its partner was killed for it");
    attack.is_over();
}

#[test]
fn bells_and_wake_words_that_a_shard_rubs_out_cost_time_and_no_message() {
    let Some(_alone) = alone() else { return };
    let attack = attack("rub", "");
    ready_shard(&attack.composer, "rub");
    attack.felt("rubs out doorbells and wake words");
    isolation_is_told(&attack, "rub");
    attack.is_over();
}

#[test]
fn a_path_that_is_declared_and_not_there_is_named() {
    let Some(_alone) = alone() else { return };
    let text = manifest_text(intruder(), &["attack"], "allow.read = [\"/nowhere/to/be/found\"]");
    let manifest = Manifest::parse(&text, "isolation.toml").unwrap();
    let started = Composer::builder(manifest).launcher(intruder()).quiet(true).start();
    let error = started.err().expect("it can't start").to_string();
    assert!(error.contains("`attack`") && error.contains("/nowhere/to/be/found"), "{error}");
}

#[test]
fn what_a_host_does_not_allow_is_left_out_and_the_rest_is_done() {
    const INSIDE: &str = "SHARD_TEST_WITHOUT_USERS";
    let test = "what_a_host_does_not_allow_is_left_out_and_the_rest_is_done";
    if std::env::var_os(INSIDE).is_none() {
        let Some(_alone) = alone() else { return };
        // The run below, where no user namespace can be made any more.
        let script = "echo 0 > /proc/sys/user/max_user_namespaces && exec \"$0\" --exact \"$1\" --nocapture";
        let me = std::env::current_exe().expect("this program");
        let mut unshare = Command::new("unshare");
        unshare.args(["--user", "--map-root-user", "sh", "-c", script]).arg(me).arg(test).env(INSIDE, "1");
        match unshare.output() {
            Ok(run) => assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stdout)),
            Err(error) => println!("not tested: there is no program `unshare` ({error})"),
        }
        return;
    }
    let probed = probe().unwrap();
    let absent = |measure| probed.iter().find(|probed| probed.measure == measure).unwrap().absent;
    let users = absent(Measure::User).expect("there are none");
    assert!(users.mend().contains("user.max_user_namespaces"), "{}", users.mend());
    for measure in
        [Measure::NoNewPrivileges, Measure::Capabilities, Measure::Seccomp, Measure::Root, Measure::Pid]
    {
        assert!(absent(measure).is_none(), "{measure}");
    }
    let attack = attack("attack", "");
    let status = status(ready_shard(&attack.composer, "attack").pid);
    assert_eq!([&status["NoNewPrivs"], &status["Seccomp"]], ["1", "2"]);
    assert_eq!(status["CapEff"], "0000000000000000");
    let files = ["read /etc/shadow".into(), "write /usr/shard-was-here".into()];
    attack.all_are_refused("files, without user namespaces", &files);
}
