//! What a shard with RDMA links can reach from its isolation, with real processes and a real device: it can use its own
//! queue pairs, and none of what is not its own.
//!
//! Needs a device, which the guests of the test bed have: `cargo run --release -p soft-roce -- test isolation`.

use shard_composer::Composer;
use shard_composer::core::ShardState;
use shard_tests::attack::{Attack, ask_on};
use shard_tests::{manifest_text, ready_shard};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

fn intruder() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_intruder"))
}

fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An attacker and a neighbour that both may use the device.
fn attack(extra: &str) -> Attack {
    let text = manifest_text(intruder(), &["attack", "echo", "victim"], "")
        .replace("start_timeout_ms = 1000", "start_timeout_ms = 20000")
        .replace("args = [\"attack\"]", &format!("args = [\"attack\"]\nallow.rdma = true\n{extra}"))
        .replace("args = [\"victim\"]", "args = [\"victim\"]\nallow.rdma = true");
    Attack::begin(intruder(), &text)
}

fn done(composer: &Composer, session: &shard_composer::Session, component: &str, question: &str) -> String {
    let answer = ask_on(composer, session, component, question);
    println!("{component}: {question}: {answer}");
    let told = answer.strip_prefix("done: \"").and_then(|told| told.strip_suffix('"'));
    told.unwrap_or_else(|| panic!("{question}: {answer}")).to_owned()
}

#[test]
#[ignore = "needs RDMA devices: cargo run --release -p soft-roce -- test"]
fn a_shard_with_rdma_links_uses_its_device_and_reaches_no_socket_no_file_and_no_interface() {
    let _alone = alone();
    let attack = attack("");
    let session = attack.composer.compose("attack").unwrap();
    done(&attack.composer, &session, "attack", "rdma-open");
    done(&attack.composer, &session, "attack", "rdma-write");
    drop(session);
    let questions = ["connect 127.0.0.1:22", "netlink", "read /etc/shadow", "write /sys/class/net/lo/mtu"];
    attack.all_are_refused("with RDMA: sockets, files, interfaces", &questions.map(str::to_owned));
}

#[test]
#[ignore = "needs RDMA devices: cargo run --release -p soft-roce -- test"]
fn a_neighbours_memory_can_not_be_written_with_its_key_or_a_guessed_one() {
    let _alone = alone();
    let attack = attack("");
    let composer = &attack.composer;
    let (mine, theirs) = (composer.compose("attack").unwrap(), composer.compose("victim").unwrap());
    let window = done(composer, &theirs, "victim", "rdma-open");
    done(composer, &theirs, "victim", "rdma-write");
    done(composer, &mine, "attack", "rdma-open");
    for way in ["rdma-key", "rdma-guess", "rdma-intrude"] {
        let answer = ask_on(composer, &mine, "attack", &format!("{way} {window}"));
        println!("{way}: {answer}");
        assert!(answer.starts_with("refused"), "{way}: {answer}");
        attack.felt(way);
        // Nothing is there that it has not written, and its link still works.
        assert_eq!(done(composer, &theirs, "victim", "rdma-look"), "600 bytes are its own");
        done(composer, &theirs, "victim", "rdma-write");
    }
    attack.is_over();
}

#[test]
#[ignore = "needs RDMA devices: cargo run --release -p soft-roce -- test"]
fn a_shard_gets_no_more_of_the_device_than_its_group_may_have_and_its_neighbour_still_does() {
    let _alone = alone();
    let attack = attack("");
    let composer = &attack.composer;
    let (mine, theirs) = (composer.compose("attack").unwrap(), composer.compose("victim").unwrap());
    let many = done(composer, &mine, "attack", "rdma-hoard");
    let many: usize = many.split(' ').next().and_then(|many| many.parse().ok()).unwrap();
    assert!(many > 0 && many < 4_096, "{many}");
    attack.felt("takes all of the device");
    done(composer, &theirs, "victim", "rdma-open");
    done(composer, &theirs, "victim", "rdma-write");
    assert_eq!(ready_shard(composer, "attack").state, ShardState::Ready);
    attack.is_over();
}
