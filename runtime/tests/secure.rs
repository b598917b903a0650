//! Whoever is not of the cluster is turned away with a named error, in bounded time, and what is altered or cut off
//! on the way is never taken for what was sent.

mod authority;

use authority::Authority;
use proptest::prelude::*;
use rcgen::{ExtendedKeyUsagePurpose, date_time_ymd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use shard_runtime::secure::{Identity, PROTOCOL, Secure, SecureError};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, LazyLock};
use std::thread;
use std::time::{Duration, Instant};

const DEADLINE: Duration = Duration::from_secs(5);

struct World {
    ours: Authority,
    other: Authority,
    a: Identity,
    b: Identity,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let (ours, other) = (Authority::new(), Authority::new());
    let [a, b] = ["a", "b"].map(|name| ours.identity(name));
    World { ours, other, a, b }
});

fn streams() -> [TcpStream; 2] {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    [stream, listener.accept().unwrap().0]
}

/// Both ends of a stream between `a`, which connects, and `b`, whose handshakes are done.
fn proven([of_a, of_b]: [TcpStream; 2]) -> [Secure; 2] {
    let mut a = Secure::connect(of_a, &WORLD.a, "b").unwrap();
    let mut b = Secure::accept(of_b, &WORLD.b).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| a.handshake(DEADLINE).unwrap());
        b.handshake(DEADLINE).unwrap();
    });
    [a, b]
}

/// Waits until the stream may go on.
fn wait(secure: &Secure) {
    let flags = if secure.wants_write() { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
    let ready = poll(&mut [PollFd::new(secure.stream(), flags)], Some(&Timespec { tv_sec: 5, tv_nsec: 0 }));
    assert_ne!(ready, Ok(0), "nothing goes on");
}

/// Everything that comes, until the stream is closed or an error.
fn read_all(secure: &mut Secure) -> (Vec<u8>, Result<(), SecureError>) {
    let (mut all, mut some) = (Vec::new(), vec![0; 10_000]);
    loop {
        match secure.read(&mut some) {
            Ok(0) => return (all, Ok(())),
            Ok(read) => all.extend(&some[..read]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => wait(secure),
            Err(error) => return (all, Err(named(error))),
        }
    }
}

fn named(error: std::io::Error) -> SecureError {
    match error.get_ref().is_some_and(|inner| inner.is::<SecureError>()) {
        true => *error.into_inner().unwrap().downcast().unwrap(),
        false => SecureError::Stream(error),
    }
}

fn write_all(secure: &mut Secure, mut bytes: &[u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        match secure.write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => wait(secure),
            Err(error) => return Err(error),
        }
    }
    while secure.wants_write() {
        match secure.flush() {
            Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error),
            _ => wait(secure),
        }
    }
    Ok(())
}

fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes as u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

/// The variant's name, of an error whose message says what to do.
fn variant(error: &SecureError) -> String {
    assert!(error.to_string().contains("; "), "no cure: {error}");
    format!("{error:?}").chars().take_while(|letter| letter.is_alphanumeric()).collect()
}

/// A peer that is made of parts that do not fit.
struct Stranger {
    certificate: Option<[String; 2]>,
    protocols: Vec<&'static str>,
}

impl Stranger {
    fn new(certificate: [String; 2]) -> Self {
        Self { certificate: Some(certificate), protocols: vec![PROTOCOL] }
    }

    fn parts(&self) -> Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
        let [certificate, key] = self.certificate.as_ref()?;
        let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
        Some((vec![certificate], PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap()))
    }

    fn protocols(&self) -> Vec<Vec<u8>> {
        self.protocols.iter().map(|name| name.as_bytes().to_vec()).collect()
    }

    /// Goes through the handshake as one that connects, and says something.
    fn call(&self, mut stream: TcpStream) {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(WORLD.ours.roots.as_bytes()).unwrap()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match self.parts() {
            Some((chain, key)) => config.with_client_auth_cert(chain, key).unwrap(),
            None => config.with_no_client_auth(),
        };
        config.alpn_protocols = self.protocols();
        let mut tls = ClientConnection::new(Arc::new(config), "b".try_into().unwrap()).unwrap();
        let mut stream = rustls::Stream::new(&mut tls, &mut stream);
        let _ = stream.write_all(b"let me in").and_then(|()| stream.read(&mut [0; 100]));
    }

    /// Goes through the handshake as one that accepts, and asks for no certificate.
    fn answer(&self, mut stream: TcpStream) {
        let (chain, key) = self.parts().unwrap();
        let mut config =
            ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_protocol_versions(&[&rustls::version::TLS13])
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(chain, key)
                .unwrap();
        config.alpn_protocols = self.protocols();
        let mut tls = ServerConnection::new(Arc::new(config)).unwrap();
        let mut stream = rustls::Stream::new(&mut tls, &mut stream);
        let _ = stream.write_all(b"come in").and_then(|()| stream.read(&mut [0; 100]));
    }
}

/// What `secure` says of a peer that does what `peer` does.
fn verdict(mut secure: Secure, stream: TcpStream, peer: impl FnOnce(TcpStream) + Send) -> SecureError {
    thread::scope(|scope| {
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        scope.spawn(|| peer(stream));
        let begun = Instant::now();
        let error = secure.handshake(DEADLINE).expect_err("let in");
        assert!(begun.elapsed() < DEADLINE, "not in time");
        assert_eq!(secure.peer_name(), None);
        drop(secure);
        error
    })
}

fn of_caller(peer: impl FnOnce(TcpStream) + Send) -> SecureError {
    let [caller, ours] = streams();
    verdict(Secure::accept(ours, &WORLD.b).unwrap(), caller, peer)
}

fn of_answerer(peer: impl FnOnce(TcpStream) + Send) -> SecureError {
    let [ours, answerer] = streams();
    verdict(Secure::connect(ours, &WORLD.a, "b").unwrap(), answerer, peer)
}

fn strangers(name: &str) -> Vec<(&'static str, Stranger)> {
    let (ours, other) = (&WORLD.ours, &WORLD.other);
    let long_ago = date_time_ymd(2001, 1, 1);
    let one_day = date_time_ymd(4000, 1, 1);
    let protocols = |protocols| Stranger { protocols, ..Stranger::new(ours.issue(&[name], |_| {})) };
    vec![
        ("NotOfCluster", Stranger::new(other.issue(&[name], |_| {}))),
        ("OutOfDate", Stranger::new(ours.issue(&[name], |params| params.not_after = long_ago))),
        ("OutOfDate", Stranger::new(ours.issue(&[name], |params| params.not_before = one_day))),
        ("NoNode", Stranger::new(ours.issue(&[name, "c"], |_| {}))),
        ("Protocol", protocols(vec!["shard-link/0"])),
        ("Protocol", protocols(vec![])),
    ]
}

#[test]
fn two_nodes_of_the_cluster_know_each_other_by_name() {
    let [mut a, mut b] = proven(streams());
    assert_eq!((a.peer_name(), b.peer_name()), (Some("b"), Some("a")));
    assert_eq!((WORLD.a.name(), WORLD.b.name()), ("a", "b"));
    write_all(&mut a, b"hello").unwrap();
    a.close().unwrap();
    let (said, end) = read_all(&mut b);
    assert_eq!(said, b"hello");
    end.expect("a clean close is no error");
    assert_eq!(b.read(&mut [0]).unwrap(), 0);
}

#[test]
fn no_stranger_gets_in() {
    for (expected, stranger) in strangers("a") {
        let error = of_caller(|stream| stranger.call(stream));
        assert_eq!(variant(&error), expected, "{error}");
    }
    let anonymous = Stranger { certificate: None, protocols: vec![PROTOCOL] };
    assert_eq!(variant(&of_caller(|stream| anonymous.call(stream))), "NoCertificate");
    let only_servers = |params: &mut rcgen::CertificateParams| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    };
    let half = Stranger::new(WORLD.ours.issue(&["a"], only_servers));
    assert_eq!(variant(&of_caller(|stream| half.call(stream))), "Certificate");
    let wildcard = Stranger::new(WORLD.ours.issue(&["*.a"], |_| {}));
    assert_eq!(variant(&of_caller(|stream| wildcard.call(stream))), "NoNode");
}

#[test]
fn no_stranger_is_taken_for_the_one_that_was_called() {
    for (expected, stranger) in strangers("b") {
        let error = of_answerer(|stream| stranger.answer(stream));
        assert_eq!(variant(&error), expected, "{error}");
    }
    let another = Stranger::new(WORLD.ours.issue(&["c"], |_| {}));
    let error = of_answerer(|stream| another.answer(stream));
    assert_eq!(variant(&error), "WrongName");
    assert!(error.to_string().starts_with("b was expected and"), "{error}");
    // Right but for the first byte, which only a node of ours says.
    let silent = Stranger::new(WORLD.ours.issue(&["b"], |_| {}));
    assert_eq!(variant(&of_answerer(|stream| silent.answer(stream))), "Protocol");
}

#[test]
fn who_is_turned_away_learns_it_before_sending_anything() {
    let other = WORLD.other.issue(&["a"], |_| {});
    // Believes in our authority, and is of another.
    let a =
        Identity::from_pem(other[0].as_bytes(), other[1].as_bytes(), WORLD.other.roots.as_bytes()).unwrap();
    let [of_a, of_b] = streams();
    let mut a = Secure::connect(of_a, &a, "b").unwrap();
    let mut b = Secure::accept(of_b, &WORLD.b).unwrap();
    thread::scope(|scope| {
        let refused = scope.spawn(move || variant(&b.handshake(DEADLINE).unwrap_err()));
        assert_eq!(variant(&a.handshake(DEADLINE).unwrap_err()), "NotOfCluster");
        assert_eq!(refused.join().unwrap(), "Refused");
    });

    // The one that accepts finds it out last: the one that connects is not done before.
    let [of_a, of_b] = streams();
    let mut b = Secure::accept(of_b, &WORLD.b).unwrap();
    thread::scope(|scope| {
        scope.spawn(move || assert!(b.handshake(DEADLINE).is_err()));
        let both = [WORLD.ours.roots.as_str(), WORLD.other.roots.as_str()].concat();
        let a = Identity::from_pem(other[0].as_bytes(), other[1].as_bytes(), both.as_bytes()).unwrap();
        let mut a = Secure::connect(of_a, &a, "b").unwrap();
        assert_eq!(a.write(b"too early").unwrap_err().kind(), ErrorKind::WouldBlock);
        assert_eq!(variant(&a.handshake(DEADLINE).unwrap_err()), "Refused");
        assert_eq!(a.peer_name(), None);
    });
}

#[test]
fn what_is_no_tls_is_named_at_both_ends() {
    let said: [&[u8]; 3] = [b"GET / HTTP/1.1\r\n\r\n", &[1, 0, 0, 0].repeat(4), &[0; 100]];
    for bytes in said {
        let say = |mut stream: TcpStream| {
            let _ = stream.write_all(bytes).and_then(|()| stream.read(&mut [0; 1000]));
        };
        assert_eq!(variant(&of_caller(say)), "PlainText");
        assert_eq!(variant(&of_answerer(say)), "PlainText");
        let slowly = |mut stream: TcpStream| {
            stream.set_nodelay(true).unwrap();
            let _ = bytes.iter().try_for_each(|byte| stream.write_all(&[*byte]));
            let _ = stream.read(&mut [0; 1000]);
        };
        assert_eq!(variant(&of_caller(slowly)), "PlainText");
    }
}

#[test]
fn a_close_before_the_proof_with_more_behind_it_does_not_keep_anyone() {
    let alert = [21, 3, 3, 0, 2, 1, 0];
    let say = |mut stream: TcpStream| {
        let _ = stream.write_all(&alert.repeat(1000)).and_then(|()| stream.read(&mut [0; 1000]));
    };
    for error in [of_caller(say), of_answerer(say)] {
        assert_eq!(variant(&error), "Broken", "{error}");
    }
}

#[test]
fn a_handshake_that_never_ends_is_over_at_its_deadline() {
    // Silent, and one that says a long hello byte by byte.
    let hello = [&[22, 3, 1, 1, 0, 1, 0, 0, 252, 3, 3][..], &[7; 200]].concat();
    for said in [&[][..], &hello] {
        let [mut peer, ours] = streams();
        let mut ours = Secure::accept(ours, &WORLD.b).unwrap();
        thread::scope(|scope| {
            scope.spawn(move || {
                for byte in said {
                    if peer.write_all(&[*byte]).is_err() {
                        return;
                    }
                    thread::sleep(Duration::from_millis(20));
                }
                let _ = peer.read(&mut [0]);
            });
            let (begun, deadline) = (Instant::now(), Duration::from_millis(300));
            let error = ours.handshake(deadline).unwrap_err();
            assert_eq!(variant(&error), "Deadline");
            assert!((deadline..deadline * 4).contains(&begun.elapsed()), "{:?}", begun.elapsed());
            drop(ours);
        });
    }
}

/// Between the two ends: what goes from the connecting one to the other passes `change`, which says false to cut the
/// stream off. The way back is left alone.
fn relayed(mut change: impl FnMut(usize, &mut [u8]) -> bool + Send + 'static) -> [TcpStream; 2] {
    let ([a, mut of_a], [mut of_b, b]) = (streams(), streams());
    let (mut back_from, mut back_to) = (of_b.try_clone().unwrap(), of_a.try_clone().unwrap());
    thread::spawn(move || {
        let _ = std::io::copy(&mut back_from, &mut back_to);
        let _ = back_to.shutdown(Shutdown::Write);
    });
    thread::spawn(move || {
        let (mut at, mut some) = (0, [0; 1500]);
        while let Ok(read @ 1..) = of_a.read(&mut some) {
            if !change(at, &mut some[..read]) || of_b.write_all(&some[..read]).is_err() {
                break;
            }
            at += read;
        }
        let _ = of_b.shutdown(Shutdown::Write);
        // What still comes is thrown away, so that nobody waits for room.
        while let Ok(1..) = of_a.read(&mut some) {}
    });
    [a, b]
}

/// Sends over a stream that is relayed; what came, and how it ended.
fn send_relayed(
    sent: &[u8],
    change: impl FnMut(usize, &mut [u8]) -> bool + Send + 'static,
) -> (Vec<u8>, Result<(), SecureError>) {
    let [of_a, of_b] = relayed(change);
    let mut a = Secure::connect(of_a, &WORLD.a, "b").unwrap();
    let mut b = Secure::accept(of_b, &WORLD.b).unwrap();
    thread::scope(|scope| {
        scope.spawn(move || {
            let result = a.handshake(DEADLINE).map_err(std::io::Error::from);
            if result.and_then(|()| write_all(&mut a, sent)).is_ok() {
                let _ = a.close();
            }
            let _ = a.stream().shutdown(Shutdown::Write);
            // Its socket stays until the other end has seen all of it.
            let _ = poll(
                &mut [PollFd::new(a.stream(), PollFlags::IN)],
                Some(&Timespec { tv_sec: 5, tv_nsec: 0 }),
            );
        });
        let result =
            b.handshake(DEADLINE).map_or_else(|error| (Vec::new(), Err(error)), |()| read_all(&mut b));
        drop(b);
        result
    })
}

fn flip(at: usize) -> impl FnMut(usize, &mut [u8]) -> bool + Send + 'static {
    move |from, bytes| {
        if let Some(byte) = at.checked_sub(from).and_then(|at| bytes.get_mut(at)) {
            *byte ^= 0x10;
        }
        true
    }
}

#[test]
fn a_flipped_byte_in_the_middle_of_the_stream_is_found() {
    let sent = pattern(200_000);
    let (came, end) = send_relayed(&sent, flip(100_000));
    assert_eq!(variant(&end.unwrap_err()), "Altered");
    assert!(sent.starts_with(&came) && !came.is_empty(), "{} bytes came", came.len());
    let (came, end) = send_relayed(&sent, |_, _| true);
    end.unwrap();
    assert_eq!(came, sent);
}

#[test]
fn a_stream_that_is_cut_off_is_no_closed_one() {
    let sent = pattern(200_000);
    for at in [60_000, 190_000] {
        let (came, end) = send_relayed(&sent, move |from, _| from < at);
        assert_eq!(variant(&end.unwrap_err()), "Truncated");
        assert!(sent.starts_with(&came) && came.len() < sent.len());
    }
    // Between two records too, when everything that was sent has come.
    let [mut a, mut b] = proven(streams());
    write_all(&mut a, &sent[..100]).unwrap();
    drop(a);
    let (came, end) = read_all(&mut b);
    assert_eq!((came.as_slice(), variant(&end.unwrap_err()).as_str()), (&sent[..100], "Truncated"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// In the handshake as in what follows: either nobody minds the byte, or the stream ends with a named error.
    #[test]
    fn a_flipped_byte_anywhere_never_makes_something_else_of_what_was_sent(at in 0usize..6000) {
        let sent = pattern(4000);
        let (came, end) = send_relayed(&sent, flip(at));
        match end {
            Ok(()) => prop_assert_eq!(came, sent),
            Err(error) => {
                prop_assert!(sent.starts_with(&came));
                prop_assert!(!matches!(error, SecureError::Stream(_)), "{error:?}");
                variant(&error);
            }
        }
    }

    /// Bytes that may look like records.
    #[test]
    fn garbage_is_turned_away(kind in 20u8..25, bytes in proptest::collection::vec(any::<u8>(), 1..3000)) {
        let said = [&[kind, 3, 3, (bytes.len() >> 8) as u8, bytes.len() as u8][..], &bytes].concat();
        let say = |mut stream: TcpStream| {
            let _ = stream.write_all(&said);
            let _ = stream.shutdown(Shutdown::Write);
            let _ = stream.read_to_end(&mut Vec::new());
        };
        variant(&of_caller(say));
        variant(&of_answerer(say));
    }
}

#[test]
fn large_transfers_both_ways_at_once_through_small_sockets() {
    const BYTES: usize = 6 << 20;
    let small = streams();
    for stream in &small {
        sockopt::set_socket_send_buffer_size(stream, 32 << 10).unwrap();
        sockopt::set_socket_recv_buffer_size(stream, 32 << 10).unwrap();
    }
    let [a, b] = proven(small);
    let [of_a, of_b] = [pattern(BYTES), pattern(BYTES + 7)];
    let run = |mut secure: Secure, sent: &[u8], expected: &[u8]| {
        let (mut left, mut came, mut some) = (sent, Vec::<u8>::new(), vec![0; 50_000]);
        while !left.is_empty() || secure.wants_write() || came.len() < expected.len() {
            let mut went_on = false;
            match secure.write(left) {
                Ok(written) => (left, went_on) = (&left[written..], written > 0),
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
            }
            match secure.read(&mut some) {
                Ok(read) => {
                    came.extend(&some[..read]);
                    went_on |= read > 0;
                }
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
            }
            if !went_on && (secure.wants_write() || came.len() < expected.len()) {
                wait(&secure);
            }
        }
        assert!(came == expected, "something else came");
        secure
    };
    thread::scope(|scope| {
        let other = scope.spawn(|| run(a, &of_a, &of_b));
        let b = run(b, &of_b, &of_a);
        drop((other.join().unwrap(), b));
    });
}

#[test]
fn nothing_is_taken_while_the_peer_does_not_read() {
    let [mut a, _b] = proven(streams());
    let (block, mut taken, mut refused) = (pattern(1 << 20), 0, 0);
    while refused < 2 {
        match a.write(&block) {
            Ok(written) => taken += written,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                refused += 1;
                assert!(a.wants_write());
            }
            Err(error) => panic!("{error}"),
        }
        // Sockets grow to some megabytes; whatever is taken beyond them would be kept inside.
        assert!(taken < 64 << 20, "memory grows");
    }
}

#[test]
fn an_identity_that_no_peer_would_take_is_refused_at_once() {
    let (ours, other) = (&WORLD.ours, &WORLD.other);
    let [certificate, key] = ours.issue(&["a"], |_| {});
    let expired = ours.issue(&["a"], |params| params.not_after = date_time_ymd(2001, 1, 1));
    let two = ours.issue(&["a", "b"], |_| {});
    let none = ours.issue(&[], |_| {});
    let only_clients =
        ours.issue(&["a"], |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]);
    let only_servers =
        ours.issue(&["a"], |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]);
    let cases = [
        ("Pem", ["", &key, &ours.roots]),
        ("Pem", ["no PEM at all", &key, &ours.roots]),
        ("Pem", [&certificate, &certificate, &ours.roots]),
        ("Pem", [&certificate, &key, ""]),
        ("Pem", [&certificate, &key, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]),
        ("Key", [&certificate, &expired[1], &ours.roots]),
        ("NotOfCluster", [&certificate, &key, &other.roots]),
        ("OutOfDate", [&expired[0], &expired[1], &ours.roots]),
        ("NoNode", [&two[0], &two[1], &ours.roots]),
        ("NoNode", [&none[0], &none[1], &ours.roots]),
        ("Certificate", [&only_clients[0], &only_clients[1], &ours.roots]),
        ("Certificate", [&only_servers[0], &only_servers[1], &ours.roots]),
    ];
    for (expected, pem) in cases {
        let [certificate, key, roots] = pem.map(str::as_bytes);
        let error = Identity::from_pem(certificate, key, roots).expect_err(expected);
        assert_eq!(variant(&error), expected, "{error}");
    }
    let name = Secure::connect(streams().into_iter().next().unwrap(), &WORLD.a, "not a name");
    assert_eq!(variant(&name.unwrap_err()), "Name");
}

#[test]
fn an_error_of_a_file_names_it() {
    let folder = std::env::temp_dir().join(format!("shard-secure-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let [certificate, key] = WORLD.ours.issue(&["a"], |_| {});
    let files = [("node.pem", certificate), ("node.key", key), ("roots.pem", WORLD.ours.roots.clone())];
    let files = files.map(|(name, content)| {
        let file = folder.join(name);
        std::fs::write(&file, content).unwrap();
        file
    });
    let load = || Identity::from_files(&files[0], &files[1], &files[2]);
    assert_eq!(load().unwrap().name(), "a");
    for file in &files {
        let content = std::fs::read(file).unwrap();
        for broken in [Some(&b"nothing"[..]), None] {
            match broken {
                Some(bytes) => std::fs::write(file, bytes).unwrap(),
                None => std::fs::remove_file(file).unwrap(),
            }
            let error = load().unwrap_err();
            assert!(error.to_string().contains(file.to_str().unwrap()), "{error}");
            assert_eq!(variant(&error), if broken.is_some() { "Pem" } else { "File" });
        }
        std::fs::write(file, content).unwrap();
    }
    std::fs::remove_dir_all(folder).unwrap();
}
