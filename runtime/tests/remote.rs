//! Links to other hosts come up by themselves, mend themselves, and refuse whoever does not fit.

mod authority;
mod hosts;

use authority::Authority;
use hosts::{Host, PATIENCE, key, link, pump, until, without_rdma};
use shard_runtime::id::LinkId;
use shard_runtime::remote::{End, GREETING_NS, News, RemoteError, RemoteKind, RemoteLink};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const LINK: LinkId = LinkId(3);
const RING: usize = 16 << 10;

fn two() -> [Host; 2] {
    let authority = Authority::new();
    ["left", "right"].map(|name| Host::new(authority.identity(name), without_rdma()))
}

fn listen(host: &mut Host) -> SocketAddr {
    host.remote.listen("127.0.0.1:0".parse().unwrap()).unwrap()
}

#[test]
fn a_link_comes_up_and_carries_both_ways() {
    let [mut left, mut right] = two();
    let address = listen(&mut right);
    left.attach(LINK, link(RemoteKind::Tcp, "right", End::Connects(address)), RING);
    right.attach(LINK, link(RemoteKind::Tcp, "left", End::Accepts), RING);
    pump(&mut left, &mut right, LINK, 2_000, |_, _| {});
    assert!(left.ups == 1 && right.ups == 1 && left.downs.is_empty() && right.downs.is_empty());
}

/// A relay that can cut the wire: streams through it end at once, and none begins while it is cut.
fn relay(to: SocketAddr) -> (SocketAddr, Arc<AtomicBool>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, cut) = (listener.local_addr().unwrap(), Arc::new(AtomicBool::new(false)));
    let is_cut = Arc::clone(&cut);
    thread::spawn(move || {
        while let Ok((from, _)) = listener.accept() {
            if is_cut.load(Ordering::Relaxed) {
                continue;
            }
            let Ok(onward) = TcpStream::connect(to) else { continue };
            from.set_nodelay(true).unwrap();
            onward.set_nodelay(true).unwrap();
            for (mut from, mut to) in [
                (from.try_clone().unwrap(), onward.try_clone().unwrap()),
                (onward.try_clone().unwrap(), from.try_clone().unwrap()),
            ] {
                let is_cut = Arc::clone(&is_cut);
                from.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
                thread::spawn(move || {
                    let mut bytes = [0; 4096];
                    while !is_cut.load(Ordering::Relaxed) {
                        match from.read(&mut bytes) {
                            Ok(read) if read > 0 && to.write_all(&bytes[..read]).is_ok() => {}
                            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                            _ => break,
                        }
                    }
                    let _ = (from.shutdown(std::net::Shutdown::Both), to.shutdown(std::net::Shutdown::Both));
                });
            }
        }
    });
    (address, cut)
}

#[test]
fn ten_thousand_messages_cross_while_the_stream_is_cut_ten_times() {
    let [mut left, mut right] = two();
    let (address, cut) = relay(listen(&mut right));
    left.attach(LINK, link(RemoteKind::Tcp, "right", End::Connects(address)), RING);
    right.attach(LINK, link(RemoteKind::Tcp, "left", End::Accepts), RING);
    let mut cuts = 0;
    pump(&mut left, &mut right, LINK, 10_000, |left, _| {
        // Each time with frames under way: in the middle of a thousand.
        if left.got >= cuts * 1_000 + 500 && left.downs.len() == cuts as usize && cuts < 10 {
            cut.store(true, Ordering::Relaxed);
            cuts += 1;
        } else if left.downs.len() >= cuts as usize {
            cut.store(false, Ordering::Relaxed);
        }
    });
    assert_eq!(cuts, 10);
    assert!(left.downs.len() >= 10 && left.ups >= 10, "{} downs, {} ups", left.downs.len(), left.ups);
}

/// Both ends, until one of them says why it is down.
fn why(left: &mut Host, right: &mut Host) -> String {
    let start = Instant::now();
    while left.downs.is_empty() {
        left.turn();
        right.turn();
        assert!(start.elapsed() < PATIENCE, "nobody says why");
    }
    left.downs.remove(0)
}

#[test]
fn who_does_not_fit_is_refused_by_name() {
    type Change = fn(&mut RemoteLink, &mut usize);
    let cases: [(&str, Change, &str); 4] = [
        ("another key", |link, _| link.key = key(9), "no such link"),
        ("another node", |link, _| link.node = "elsewhere".into(), "elsewhere"),
        ("another ring", |_, ring| *ring *= 2, "its rings have"),
        ("a peer that is not meant", |_, _| (), "no such link"),
    ];
    for (what, change, expected) in cases {
        let [mut left, mut right] = two();
        let (mut of_left, mut ring) =
            (link(RemoteKind::Tcp, "right", End::Connects(listen(&mut right))), RING);
        change(&mut of_left, &mut ring);
        left.attach(LINK, of_left, ring);
        let meant = if what == "a peer that is not meant" { "middle" } else { "left" };
        right.attach(LINK, link(RemoteKind::Tcp, meant, End::Accepts), RING);
        let why = why(&mut left, &mut right);
        assert!(why.contains(expected), "{what}: {why}");
    }
}

#[test]
fn a_host_of_another_authority_is_refused() {
    let [mut left, mut right] =
        ["left", "right"].map(|name| Host::new(Authority::new().identity(name), without_rdma()));
    left.attach(LINK, link(RemoteKind::Tcp, "right", End::Connects(listen(&mut right))), RING);
    right.attach(LINK, link(RemoteKind::Tcp, "left", End::Accepts), RING);
    let why = why(&mut left, &mut right);
    assert!(why.contains("right"), "{why}");
}

#[test]
fn without_rdma_its_links_say_why_and_others_work() {
    let [mut left, mut right] = two();
    let address = listen(&mut right);
    let rdma = LinkId(8);
    left.attach(rdma, link(RemoteKind::Rdma, "right", End::Connects(address)), RING);
    match left.remote.take_news() {
        Some((id, News::Closed(error @ RemoteError::NoRdma(_)))) if id == rdma => {
            assert!(error.to_string().contains("no device in this test"), "{error}");
        }
        other => panic!("{other:?}"),
    }
    left.attach(
        LINK,
        RemoteLink { key: key(1), ..link(RemoteKind::Tcp, "right", End::Connects(address)) },
        RING,
    );
    right.attach(LINK, RemoteLink { key: key(1), ..link(RemoteKind::Tcp, "left", End::Accepts) }, RING);
    pump(&mut left, &mut right, LINK, 100, |_, _| {});
}

#[test]
fn a_peer_that_says_nothing_is_given_up_in_time() {
    let [mut left, _] = two();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let end = End::Connects(silent.local_addr().unwrap());
    left.attach(LINK, link(RemoteKind::Tcp, "right", end), RING);
    let start = Instant::now();
    until(&mut left, |left| !left.downs.is_empty());
    assert!(left.downs[0].contains("did not agree"), "{}", left.downs[0]);
    assert!(start.elapsed() < Duration::from_nanos(2 * GREETING_NS), "{:?}", start.elapsed());
}

#[test]
fn nobody_there_is_tried_again_until_somebody_is() {
    let [mut left, mut right] = two();
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    left.attach(LINK, link(RemoteKind::Tcp, "right", End::Connects(address)), RING);
    until(&mut left, |left| left.downs.len() >= 3);
    right.remote.listen(address).unwrap();
    right.attach(LINK, link(RemoteKind::Tcp, "left", End::Accepts), RING);
    pump(&mut left, &mut right, LINK, 100, |_, _| {});
}

#[test]
fn a_shard_that_pauses_and_does_not_read_can_sleep() {
    let [mut left, mut right] = two();
    let address = listen(&mut right);
    left.attach(LINK, link(RemoteKind::Tcp, "right", End::Connects(address)), RING);
    right.attach(LINK, link(RemoteKind::Tcp, "left", End::Accepts), RING);
    pump(&mut left, &mut right, LINK, 10, |_, _| {});
    assert!(left.send(LINK));
    // The message comes, and is not read: nothing is left to do but to wait.
    let (start, mut asleep) = (Instant::now(), 0);
    while asleep < 100 {
        left.turn();
        let sleeps = right.remote.prepare_to_park(&mut right.inbox, &mut right.outbox);
        asleep = if sleeps { asleep + 1 } else { 0 };
        assert!(start.elapsed() < PATIENCE, "it never sleeps");
    }
    // And when it is read, the other end learns of the room.
    until(&mut right, |right| right.got == 11);
    pump(&mut left, &mut right, LINK, 200, |_, _| {});
}

#[test]
fn strangers_cost_nobody_a_link() {
    let [mut left, mut right] = two();
    let address = listen(&mut right);
    // More than are kept, some silent, some not, and all before the one that is meant.
    let strangers: Vec<_> = (0..100).map(|_| TcpStream::connect(address).unwrap()).collect();
    for mut stranger in strangers.iter().step_by(2) {
        let _ = stranger.write_all(&[0x16, 3, 1]);
    }
    left.attach(LINK, link(RemoteKind::Tcp, "right", End::Connects(address)), RING);
    right.attach(LINK, link(RemoteKind::Tcp, "left", End::Accepts), RING);
    pump(&mut left, &mut right, LINK, 100, |_, _| {});
}
