//! Links by RDMA under faults: wires that are cut, queue pairs that break, peers that lie, devices that go.
//!
//! Needs two RDMA devices, rxe0 and rxe1, at the two ends of a wire between roce0 and roce1, and the right to cut it:
//! `cargo run --release -p soft-roce -- test` runs it in a guest that has them.

mod authority;
mod hosts;

use authority::Authority;
use hosts::{Host, PATIENCE, key, link, pump, until};
use shard_runtime::id::LinkId;
use shard_runtime::inbox::{Inbound, Inbox};
use shard_runtime::outbox::{Outbound, Outbox};
use shard_runtime::rdma::{RDMA_VERSION, Rdma, RdmaEnd, RdmaError};
use shard_runtime::remote::{End, RemoteKind, RemoteLink};
use shard_runtime::ring::{Ring, RingReader, RingWriter};
use shard_runtime::verbs::{
    Batch, Completions, Depth, DeviceError, Domain, QueuePair, Registration, Status, VerbsError, Wish, Work,
    choose,
};
use shard_runtime::wake::{Bell, create_bell};
use std::fs;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

const LINK: LinkId = LinkId(3);
const RING: usize = 16 << 10;
/// The specification states these: so soon a peer that died is noticed …
const NOTICED: Duration = Duration::from_secs(1);
/// … and so soon silence is: a wire that was cut, a device that went.
const SILENCE_NOTICED: Duration = Duration::from_secs(5);

/// The tests share devices and wire: one at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn run(program: &str, arguments: &str) {
    let output = Command::new(program).args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "{program} {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

fn ip(arguments: &str) {
    run("ip", arguments);
}

fn open(device: &str, links_max: usize) -> Rdma {
    // A port that was down comes up a moment after its interface.
    let wish = Wish { device: Some(device.into()), address: None };
    let start = Instant::now();
    loop {
        match choose(&wish) {
            Ok(device) => return Rdma::open(&device, links_max).unwrap(),
            Err(error) => assert!(start.elapsed() < PATIENCE, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Two hosts with a link between them.
fn two() -> [Host; 2] {
    let authority = Authority::new();
    let mut hosts = [("left", "rxe0"), ("right", "rxe1")]
        .map(|(name, device)| Host::new(authority.identity(name), Ok(open(device, 8))));
    let [left, right] = &mut hosts;
    let address = right.remote.listen("127.0.0.1:0".parse().unwrap()).unwrap();
    left.attach(LINK, link(RemoteKind::Rdma, "right", End::Connects(address)), RING);
    right.attach(LINK, link(RemoteKind::Rdma, "left", End::Accepts), RING);
    hosts
}

#[test]
#[ignore = "needs RDMA devices: cargo run --release -p soft-roce -- test"]
fn a_link_comes_up_and_carries_both_ways() {
    let _alone = alone();
    let [mut left, mut right] = two();
    pump(&mut left, &mut right, LINK, 2_000, |_, _| {});
    assert!(left.ups == 1 && right.ups == 1, "{:?} {:?}", left.downs, right.downs);
}

#[test]
#[ignore = "needs RDMA devices: cargo run --release -p soft-roce -- test"]
fn ten_thousand_messages_cross_while_the_wire_is_cut_and_a_queue_pair_forced_into_error() {
    let _alone = alone();
    let [mut left, mut right] = two();
    let (mut cuts, mut cut_since) = (0, None::<Instant>);
    pump(&mut left, &mut right, LINK, 10_000, |left, _| match cut_since {
        // Until it was noticed, so that frames under way are lost.
        Some(since) if left.downs.len() >= cuts as usize || since.elapsed() > SILENCE_NOTICED => {
            ip("link set roce1 up");
            cut_since = None;
        }
        None if left.got >= cuts * 480 + 250 && cuts < 20 && left.sent > left.got => {
            if cuts.is_multiple_of(2) {
                ip("link set roce1 down");
                cut_since = Some(Instant::now());
            } else {
                left.remote.break_off(LINK);
            }
            cuts += 1;
        }
        _ => {}
    });
    assert_eq!(cuts, 20);
    assert!(left.ups > 20, "{} ups; {:?}", left.ups, left.downs);
}

#[test]
#[ignore = "needs RDMA devices: cargo run --release -p soft-roce -- test"]
fn a_wire_that_is_cut_under_an_idle_link_is_noticed_in_time() {
    let _alone = alone();
    let [mut left, mut right] = two();
    pump(&mut left, &mut right, LINK, 10, |_, _| {});
    // The connection over which they met is not cut: only the queue pair can tell.
    ip("link set roce1 down");
    let start = Instant::now();
    until(&mut left, |left| !left.downs.is_empty());
    let noticed = start.elapsed();
    ip("link set roce1 up");
    println!("noticed after {noticed:?}: {}", left.downs[0]);
    assert!(noticed < SILENCE_NOTICED, "{noticed:?}");
    pump(&mut left, &mut right, LINK, 20, |_, _| {});
}

#[test]
#[ignore = "needs RDMA devices: cargo run --release -p soft-roce -- test"]
fn messages_cross_a_wire_that_loses_and_delays() {
    let _alone = alone();
    let [mut left, mut right] = two();
    pump(&mut left, &mut right, LINK, 10, |_, _| {});
    run("tc", "qdisc add dev roce0 root netem delay 1ms 1ms loss 1%");
    pump(&mut left, &mut right, LINK, 2_000, |_, _| {});
    run("tc", "qdisc del dev roce0 root");
    println!("{} breaks: {:?}", left.downs.len(), left.downs);
}

#[test]
#[ignore = "needs RDMA devices: cargo run --release -p soft-roce -- test"]
fn a_peer_that_ends_is_noticed_at_once() {
    let _alone = alone();
    let [mut left, mut right] = two();
    pump(&mut left, &mut right, LINK, 10, |_, _| {});
    drop(right);
    let start = Instant::now();
    until(&mut left, |left| !left.downs.is_empty());
    println!("noticed after {:?}: {}", start.elapsed(), left.downs[0]);
    assert!(start.elapsed() < NOTICED);
}

/// One end without a control connection.
struct Bare {
    inbox: Inbox,
    outbox: Outbox,
    rdma: Rdma,
}

impl Bare {
    fn new(device: &str) -> Self {
        let mut inbox = Inbox::new(Bell::map(&create_bell("bell").unwrap()).unwrap());
        let mut outbox = Outbox::new();
        let ring = || Ring::new(Ring::create("ring", RING).unwrap().map(true).unwrap(), RING);
        outbox.attach(LINK, Outbound::carried(RingWriter::new(ring()), 1000));
        inbox.attach(LINK, Inbound::new(RingReader::vouched(ring()), inbox.ringer(), 1000));
        Self { inbox, outbox, rdma: open(device, 1) }
    }

    fn prepare(&mut self) -> RdmaEnd {
        self.rdma.prepare(LINK, self.outbox.get_mut(LINK), self.inbox.get_mut(LINK)).unwrap()
    }

    fn connect(&mut self, end: &RdmaEnd) -> Result<(), RdmaError> {
        self.rdma.connect(LINK, self.outbox.get_mut(LINK), end)?;
        self.rdma.start(LINK);
        Ok(())
    }

    fn send(&mut self) {
        use shard_runtime::frame::Header;
        use shard_runtime::id::{PortId, SessionId};
        self.outbox.send(LINK, Header::new(SessionId::new(1, 1), PortId(0)), &[7; 100]).unwrap().unwrap();
        self.outbox.flush();
        while let Some(link) = self.outbox.take_published() {
            self.rdma.published(link);
        }
    }

    /// Carries until the link breaks.
    fn broken(&mut self) -> RdmaError {
        let start = Instant::now();
        loop {
            self.rdma.carry(&mut self.inbox, &mut self.outbox);
            if let Some((_, error)) = self.rdma.take_broken() {
                return error;
            }
            assert!(start.elapsed() < PATIENCE, "nothing breaks");
        }
    }
}

#[test]
#[ignore = "needs RDMA devices: cargo run --release -p soft-roce -- test"]
fn what_arrived_before_a_break_is_read_even_if_nothing_follows() {
    struct Count(u32);
    impl shard_runtime::inbox::Receiver for Count {
        fn message(&mut self, _: LinkId, _: &shard_runtime::frame::Header, _: &[u8]) {
            self.0 += 1;
        }
        fn drained(&mut self, _: LinkId, _: usize) {}
        fn broken(&mut self, link: LinkId, error: shard_runtime::ring::RingError) {
            panic!("{link:?}: {error}");
        }
    }
    let _alone = alone();
    let (mut left, mut right) = (Bare::new("rxe0"), Bare::new("rxe1"));
    let (of_left, of_right) = (left.prepare(), right.prepare());
    right.connect(&of_left).unwrap();
    left.connect(&of_right).unwrap();
    left.send();
    left.rdma.carry(&mut left.inbox, &mut left.outbox);
    // It arrives, and its completion waits in the queue when the queue pair is taken down.
    std::thread::sleep(Duration::from_millis(200));
    right.rdma.disconnect(LINK);
    let mut count = Count(0);
    right.rdma.carry(&mut right.inbox, &mut right.outbox);
    right.inbox.poll(&mut count);
    assert_eq!(count.0, 1);
    // And it does not come again.
    let (of_left, of_right) = (left.prepare(), right.prepare());
    assert!(of_right.received > 0);
    right.connect(&of_left).unwrap();
    left.connect(&of_right).unwrap();
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(200) {
        left.rdma.carry(&mut left.inbox, &mut left.outbox);
        right.rdma.carry(&mut right.inbox, &mut right.outbox);
        right.inbox.poll(&mut count);
    }
    assert_eq!(count.0, 1);
}

#[test]
#[ignore = "needs RDMA devices: cargo run --release -p soft-roce -- test"]
fn a_wrong_key_or_address_breaks_the_link_by_name_and_writes_nothing() {
    let _alone = alone();
    for change in [
        |end: &mut RdmaEnd| end.ring.as_mut().unwrap().key ^= 1,
        |end: &mut RdmaEnd| {
            end.ring.as_mut().unwrap().address += 1 << 20;
        },
    ] {
        let (mut left, mut right) = (Bare::new("rxe0"), Bare::new("rxe1"));
        let (of_left, mut of_right) = (left.prepare(), right.prepare());
        change(&mut of_right);
        right.connect(&of_left).unwrap();
        left.connect(&of_right).unwrap();
        left.send();
        let start = Instant::now();
        let error = left.broken();
        assert!(matches!(error, RdmaError::Status(Status::REMOTE_ACCESS)), "{error}");
        assert!(start.elapsed() < NOTICED);
        assert!(error.to_string().contains("key or bounds"), "{error}");
    }
}

#[test]
#[ignore = "needs RDMA devices: cargo run --release -p soft-roce -- test"]
fn a_key_is_worth_nothing_on_another_queue_pair() {
    let _alone = alone();
    let (mut left, mut right, mut thief) = (Bare::new("rxe0"), Bare::new("rxe1"), Bare::new("rxe0"));
    let (of_left, of_right) = (left.prepare(), right.prepare());
    right.connect(&of_left).unwrap();
    left.connect(&of_right).unwrap();
    // A peer of the same host that knows key and address, and has a queue pair of its own to it.
    let mut door = Bare { rdma: open("rxe1", 1), ..Bare::new("rxe1") };
    let (of_thief, mut of_door) = (thief.prepare(), door.prepare());
    of_door.ring = of_right.ring;
    door.connect(&of_thief).unwrap();
    thief.connect(&of_door).unwrap();
    thief.send();
    let error = thief.broken();
    assert!(matches!(error, RdmaError::Status(Status::REMOTE_ACCESS)), "{error}");
}

#[test]
#[ignore = "needs RDMA devices: cargo run --release -p soft-roce -- test"]
fn an_endpoint_message_that_lies_is_refused_by_name() {
    let _alone = alone();
    type Lie = fn(&mut RdmaEnd);
    let lies: [(Lie, &str); 7] = [
        (|end| end.version = RDMA_VERSION + 1, "speaks version"),
        (|end| end.ring = None, "offers no ring"),
        (|end| end.ring.as_mut().unwrap().bytes *= 2, "were agreed on"),
        (|end| end.ring.as_mut().unwrap().address = u64::MAX - 5, "does not end"),
        (|end| end.window = 1 << 20, "window"),
        (|end| end.received = 16, "says that it received"),
        (|end| end.received = u64::MAX, "says that it received"),
    ];
    let (mut left, mut right) = (Bare::new("rxe0"), Bare::new("rxe1"));
    for (lie, expected) in lies {
        left.prepare();
        let mut end = right.prepare();
        lie(&mut end);
        let error = left.connect(&end).unwrap_err();
        assert!(error.to_string().contains(expected) && error.is_lie(), "{error}");
    }
    // And after all of them the honest one works.
    let (of_left, of_right) = (left.prepare(), right.prepare());
    right.connect(&of_left).unwrap();
    left.connect(&of_right).unwrap();
}

/// Two queue pairs of one device, connected to each other.
struct Wired {
    domain: Arc<Domain>,
    completions: Arc<Completions>,
    near: QueuePair,
    _far: QueuePair,
    memory: Registration,
}

/// Bytes that are sent and written.
fn memory() -> shard_runtime::memory::Memory {
    Ring::create("bytes", RING).unwrap().map(true).unwrap()
}

fn wired(receives: u32) -> Wired {
    let device = choose(&Wish { device: Some("rxe0".into()), address: None }).unwrap();
    let domain = Domain::new(device.context()).unwrap();
    let completions = Completions::new(device.context(), 64).unwrap();
    let depth = Depth { send: 8, receive: 8 };
    let [near, far] =
        [1, 2].map(|sequence| QueuePair::new(&device, &domain, &completions, depth, sequence).unwrap());
    far.post_receives(100, receives).unwrap();
    far.connect(&near.local()).unwrap();
    near.connect(&far.local()).unwrap();
    let memory = Registration::new(&domain, &memory(), 0, RING, true).unwrap();
    Wired { domain, completions, near, _far: far, memory }
}

impl Wired {
    /// The status of the request numbered 1.
    fn status_of(&self, work: Work) -> Status {
        self.near.post(&[work]).unwrap();
        let (start, mut status, mut batch) = (Instant::now(), None, Batch::default());
        while status.is_none() {
            self.completions.poll(&mut batch).unwrap();
            status = batch.find(|completion| completion.id == 1).map(|completion| completion.status);
            assert!(start.elapsed() < PATIENCE, "no completion");
        }
        status.unwrap()
    }

    fn write(&self) -> Work {
        let to = Some((self.memory.address(), self.memory.remote_key()));
        Work { id: 1, from: Some(self.memory.slice(0, 600)), to, immediate: None, signalled: true }
    }
}

#[test]
#[ignore = "needs RDMA devices: cargo run --release -p soft-roce -- test"]
fn every_status_that_can_be_provoked_has_its_name() {
    let _alone = alone();
    let said = |status: Status, expected: &str| {
        assert!(status.to_string().contains(expected), "{status} where `{expected}` was due");
    };
    let wire = wired(1);
    assert_eq!(wire.status_of(wire.write()), Status::SUCCESS);
    // A key that is none of the peer's.
    let mut stranger = wire.write();
    stranger.to = stranger.to.map(|(address, key)| (address, key ^ 0x100));
    assert_eq!(wire.status_of(stranger), Status::REMOTE_ACCESS);
    // After an error everything else is flushed.
    assert_eq!(wire.status_of(wire.write()), Status::FLUSHED);
    // The peer has no receive request left.
    let wire = wired(0);
    let note = Work { id: 1, from: None, to: None, immediate: Some(7), signalled: true };
    assert_eq!(wire.status_of(note), Status::NOT_READY);
    // More than the peer's request holds. Other devices than soft-RoCE may call it invalid.
    let wire = wired(1);
    let message = Work { to: None, immediate: Some(7), ..wire.write() };
    said(wire.status_of(message), "could not do it");
    // Memory that is not registered any more. Other devices may say so.
    let wire = wired(1);
    let gone = Registration::new(&wire.domain, &memory(), 0, RING, false).unwrap().slice(0, 600);
    said(wire.status_of(Work { from: Some(gone), ..wire.write() }), "can't do that");
}

#[test]
#[ignore = "needs RDMA devices: cargo run --release -p soft-roce -- test"]
fn a_peer_that_is_not_there_is_given_up_by_name() {
    let _alone = alone();
    let (mut left, mut right) = (Bare::new("rxe0"), Bare::new("rxe1"));
    let (of_left, of_right) = (left.prepare(), right.prepare());
    right.connect(&of_left).unwrap();
    left.connect(&of_right).unwrap();
    right.rdma.remove(LINK);
    left.send();
    let start = Instant::now();
    let error = left.broken();
    println!("after {:?}: {error}", start.elapsed());
    assert!(matches!(error, RdmaError::Status(Status::NO_ANSWER)), "{error}");
    assert!(start.elapsed() < NOTICED);
}

#[test]
#[ignore = "needs RDMA devices: cargo run --release -p soft-roce -- test"]
fn ends_with_different_packets_agree_on_the_smaller() {
    let _alone = alone();
    ip("link set roce1 mtu 1500");
    let packets =
        choose(&Wish { device: Some("rxe1".into()), address: None }).map(|device| device.mtu_bytes());
    let [mut left, mut right] = two();
    pump(&mut left, &mut right, LINK, 500, |_, _| {});
    let downs = left.downs.clone();
    drop((left, right));
    ip("link set roce1 mtu 4200");
    assert_eq!((packets.unwrap(), downs), (1024, vec![]));
}

#[test]
#[ignore = "needs RDMA devices: cargo run --release -p soft-roce -- test"]
fn a_device_that_can_not_be_used_says_why() {
    let _alone = alone();
    let why = |device: &str| {
        let wish = Wish { device: Some(device.into()), address: None };
        match choose(&wish) {
            Err(error @ DeviceError::Refused { .. }) => error.to_string(),
            other => panic!("{device}: {:?}", other.map(|device| device.why().to_owned())),
        }
    };
    assert!(why("mlx5_0").contains("there is no mlx5_0"), "{}", why("mlx5_0"));
    ip("link set roce0 down");
    let down = why("rxe0");
    ip("link set roce0 up");
    assert!(down.contains("it is down"), "{down}");
    ip("address flush dev roce0");
    let nameless = why("rxe0");
    ip("address add 10.77.0.1/24 dev roce0");
    assert!(nameless.contains("its address table has no"), "{nameless}");
    let elsewhere = Wish { device: Some("rxe0".into()), address: Some("192.0.2.7".parse().unwrap()) };
    open("rxe0", 1);
    let error = choose(&elsewhere).map(|device| device.why().to_owned()).unwrap_err().to_string();
    assert!(error.contains("192.0.2.7") && error.contains("10.77.0.1"), "{error}");
}

#[test]
#[ignore = "needs RDMA devices: cargo run --release -p soft-roce -- test"]
fn too_little_lockable_memory_is_named_with_what_is_needed() {
    let _alone = alone();
    const LIMITED: &str = "SHARD_TEST_LIMITED";
    if std::env::var_os(LIMITED).is_none() {
        // Root may lock what it likes: run this test once more as somebody else, with a limit.
        run("chmod", "-R a+rw /dev/infiniband");
        let own = std::env::current_exe().unwrap();
        let command = format!(
            "ulimit -l 8 && {LIMITED}=1 exec setpriv --reuid 65534 --regid 65534 --clear-groups {} --ignored --exact {}",
            own.display(),
            "too_little_lockable_memory_is_named_with_what_is_needed"
        );
        let output = Command::new("sh").args(["-c", &command]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        return;
    }
    let mut bare = Bare::new("rxe0");
    let error = bare.rdma.prepare(LINK, bare.outbox.get_mut(LINK), bare.inbox.get_mut(LINK)).unwrap_err();
    assert!(matches!(error, RdmaError::Verbs(VerbsError::LockedMemory { .. })), "{error}");
    assert!(error.to_string().contains("ulimit -l"), "{error}");
}

fn open_files() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

fn memory_kb(field: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn kernel_objects() -> String {
    let output = Command::new("rdma").args(["resource", "show"]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
#[ignore = "needs RDMA devices: cargo run --release -p soft-roce -- test"]
fn a_thousand_connects_and_teardowns_leak_nothing() {
    let _alone = alone();
    let (mut left, mut right) = (Bare::new("rxe0"), Bare::new("rxe1"));
    let mut once = || {
        let (of_left, of_right) = (left.prepare(), right.prepare());
        right.connect(&of_left).unwrap();
        left.connect(&of_right).unwrap();
    };
    (0..50).for_each(|_| once());
    let before = (open_files(), kernel_objects(), memory_kb("VmPin:"));
    let resident = memory_kb("VmRSS:");
    (0..1000).for_each(|_| once());
    assert_eq!((open_files(), kernel_objects(), memory_kb("VmPin:")), before);
    let grown = memory_kb("VmRSS:").saturating_sub(resident);
    assert!(grown < 1024, "{grown} KiB more are resident");
}

#[test]
#[ignore = "needs RDMA devices: cargo run --release -p soft-roce -- test"]
fn a_thousand_links_work_in_one_process() {
    let _alone = alone();
    const LINKS: u16 = 1000;
    let bytes = 4096;
    let end = |device| {
        let inbox = Inbox::new(Bell::map(&create_bell("bell").unwrap()).unwrap());
        Bare { inbox, outbox: Outbox::new(), rdma: open(device, LINKS.into()) }
    };
    let (mut left, mut right) = (end("rxe0"), end("rxe1"));
    let ring = || Ring::new(Ring::create("ring", bytes).unwrap().map(true).unwrap(), bytes);
    for id in (0..LINKS).map(LinkId) {
        left.outbox.attach(id, Outbound::carried(RingWriter::new(ring()), 100));
        right.inbox.attach(id, Inbound::new(RingReader::vouched(ring()), right.inbox.ringer(), 100));
        let of_left = left.rdma.prepare(id, left.outbox.get_mut(id), None).unwrap();
        let of_right = right.rdma.prepare(id, None, right.inbox.get_mut(id)).unwrap();
        left.rdma.connect(id, left.outbox.get_mut(id), &of_right).unwrap();
        right.rdma.connect(id, None, &of_left).unwrap();
        left.rdma.start(id);
        right.rdma.start(id);
    }
    struct Count(Vec<u32>);
    impl shard_runtime::inbox::Receiver for Count {
        fn message(&mut self, link: LinkId, _: &shard_runtime::frame::Header, payload: &[u8]) {
            assert_eq!(payload, self.0[usize::from(link.0)].to_le_bytes());
            self.0[usize::from(link.0)] += 1;
        }
        fn drained(&mut self, _: LinkId, _: usize) {}
        fn broken(&mut self, link: LinkId, error: shard_runtime::ring::RingError) {
            panic!("{link:?}: {error}");
        }
    }
    let (mut count, start) = (Count(vec![0; LINKS.into()]), Instant::now());
    for number in 0..5u32 {
        for id in (0..LINKS).map(LinkId) {
            use shard_runtime::frame::Header;
            use shard_runtime::id::{PortId, SessionId};
            let header = Header::new(SessionId::new(1, 1), PortId(0));
            left.outbox.send(id, header, &number.to_le_bytes()).unwrap().unwrap();
        }
        while count.0.iter().any(|got| *got <= number) {
            left.outbox.flush();
            while let Some(link) = left.outbox.take_published() {
                left.rdma.published(link);
            }
            left.rdma.carry(&mut left.inbox, &mut left.outbox);
            right.rdma.carry(&mut right.inbox, &mut right.outbox);
            right.inbox.poll(&mut count);
            for end in [&mut left, &mut right] {
                assert!(end.rdma.take_broken().is_none(), "a link broke");
            }
            assert!(start.elapsed() < PATIENCE, "round {number} does not arrive");
        }
    }
}

#[test]
#[ignore = "needs RDMA devices: cargo run --release -p soft-roce -- test"]
fn links_of_both_kinds_live_in_one_shard() {
    let _alone = alone();
    let [mut left, mut right] = two();
    let other = LinkId(9);
    let address = left.remote.listen("127.0.0.1:0".parse().unwrap()).unwrap();
    right.attach(
        other,
        RemoteLink { key: key(2), ..link(RemoteKind::Tcp, "left", End::Connects(address)) },
        RING,
    );
    left.attach(other, RemoteLink { key: key(2), ..link(RemoteKind::Tcp, "right", End::Accepts) }, RING);
    pump(&mut left, &mut right, LINK, 300, |_, _| {});
    pump(&mut left, &mut right, other, 600, |_, _| {});
    assert_eq!((left.ups, right.ups), (2, 2));
}

/// The last: it takes the devices away.
#[test]
#[ignore = "needs RDMA devices, and takes them away"]
fn zz_a_device_that_disappears_breaks_its_links_by_name() {
    let _alone = alone();
    let [mut left, mut right] = two();
    pump(&mut left, &mut right, LINK, 10, |_, _| {});
    // The interface goes, and the device with it; that ends when nobody has the device open any more.
    let mut remove = Command::new("ip").args(["link", "delete", "roce0"]).spawn().unwrap();
    let start = Instant::now();
    until(&mut left, |left| !left.downs.is_empty());
    println!("noticed after {:?}: {}", start.elapsed(), left.downs[0]);
    assert!(start.elapsed() < SILENCE_NOTICED, "{:?}", start.elapsed());
    drop((left, right));
    remove.wait().unwrap();
    let gone = Instant::now();
    let why = loop {
        match choose(&Wish { device: Some("rxe0".into()), address: None }) {
            Err(error @ DeviceError::None) => break error.to_string(),
            Err(DeviceError::Refused { .. }) => {}
            other => panic!("{:?}", other.map(|device| device.why().to_owned())),
        }
        assert!(gone.elapsed() < PATIENCE, "the device stays");
    };
    assert!(why.contains("no RDMA device"), "{why}");
}
