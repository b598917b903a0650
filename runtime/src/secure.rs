//! A TCP stream whose two ends have proved who they are, and that nobody on the way can read or alter.
//!
//! TLS 1.3 with a certificate on both sides, each checked against the roots of the cluster's own authority and no
//! others. A node's certificate carries exactly one DNS name: the node's. The one that connects says whom it
//! expects; the one that accepts asks [`Secure::peer_name`] and decides.
//!
//! Invariant: no byte of a link is sent or taken before the peer has proved who it is. In TLS 1.3 the connecting side
//! is done before its own certificate has been looked at, so the accepting side says one byte once it has: until then
//! the connecting side sends nothing either, and a refusal reaches it as a named error.
//!
//! What waits inside is bounded: [`BUFFER_BYTES_MAX`] each way and a few records. No session is resumed, no data comes early.

use crate::tcp;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, ClientConnection, Connection, InvalidMessage,
    RootCertStore, ServerConfig, ServerConnection,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, DnsName, PrivateKeyDer, ServerName, UnixTime};
use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What is spoken over the stream, and its version: a peer that speaks another is refused.
pub const PROTOCOL: &str = "shard-link/1";
/// So many bytes wait inside at the most, each way, besides the records that TLS is at.
pub const BUFFER_BYTES_MAX: usize = 64 << 10;
/// After so many bytes without any content the peer is playing games.
const BYTES_WITHOUT_CONTENT_MAX: usize = 256 << 10;
const RECORD_HEADER_BYTES: usize = 5;
/// The accepting side's first byte: the peer's certificate is good.
const WELCOME: u8 = 1;

/// Why an identity can't be used, or a stream not be trusted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SecureError {
    /// A file of the identity.
    #[error("{}: can't be read: {cause}; name a file that this process may read", file.display())]
    File {
        /// Which one.
        file: PathBuf,
        /// What the system says.
        cause: io::Error,
    },
    /// What should be PEM.
    #[error("{from}: {cause}; it must hold {wanted} in PEM")]
    Pem {
        /// The file, or what the bytes were given as.
        from: String,
        /// What is wrong.
        cause: String,
        /// What should be there.
        wanted: &'static str,
    },
    /// The key is not the certificate's.
    #[error(
        "{key} does not belong to {certificates}: {cause}; give the key that the certificate was made for"
    )]
    Key {
        /// Where the certificate came from.
        certificates: String,
        /// Where the key came from.
        key: String,
        /// What is wrong.
        cause: String,
    },
    /// This is no node's name.
    #[error("`{name}` can't be a node's name; use a DNS name such as `node-1`")]
    Name {
        /// What was given.
        name: String,
    },
    /// A certificate must name its node.
    #[error(
        "the certificate of {whose} does not name one node but: {names}; issue one with exactly one DNS name, the node's, without `*`"
    )]
    NoNode {
        /// Whose certificate.
        whose: String,
        /// The names that it carries.
        names: String,
    },
    /// Another authority issued it, or none.
    #[error(
        "the certificate of {whose} is not of this cluster: {cause}; issue it by the authority whose roots both nodes hold"
    )]
    NotOfCluster {
        /// Whose certificate.
        whose: String,
        /// What is wrong.
        cause: String,
    },
    /// Its time is over, or has not come.
    #[error("the certificate of {whose} is out of date: {cause}; renew it, or set the clock that is wrong")]
    OutOfDate {
        /// Whose certificate.
        whose: String,
        /// What is wrong.
        cause: String,
    },
    /// The certificate is of the cluster and yet not good for a link.
    #[error(
        "the certificate of {whose} is not good for a link: {cause}; issue one for server and client authentication"
    )]
    Certificate {
        /// Whose certificate.
        whose: String,
        /// What is wrong.
        cause: String,
    },
    /// Somebody else answered.
    #[error("{expected} was expected and {found} answered; correct the address or the certificate")]
    WrongName {
        /// The node that was wanted.
        expected: String,
        /// What its certificate says.
        found: String,
    },
    /// The peer did not say who it is.
    #[error("{peer} showed no certificate; give it an identity of this cluster")]
    NoCertificate {
        /// Its address.
        peer: String,
    },
    /// The peer is another program, or of another version.
    #[error("{peer} does not speak `{PROTOCOL}`; run the same version at both ends")]
    Protocol {
        /// Its name or address.
        peer: String,
    },
    /// What comes is no TLS.
    #[error("{peer} speaks plain text or something else that is no TLS; make both ends of the link secure")]
    PlainText {
        /// Its name or address.
        peer: String,
    },
    /// The peer does not want us.
    #[error("{peer} refused this end: {cause}; its log says why, most likely this end's certificate")]
    Refused {
        /// Its name or address.
        peer: String,
        /// The alert that it sent.
        cause: String,
    },
    /// Somebody changed bytes on the way.
    #[error(
        "what came from {peer} was altered on its way; look for what stands between the two, then connect anew"
    )]
    Altered {
        /// Its name or address.
        peer: String,
    },
    /// Not what TLS allows, or we do.
    #[error("{peer} broke the rules: {cause}; run the same version at both ends, then connect anew")]
    Broken {
        /// Its name or address.
        peer: String,
        /// What is wrong.
        cause: String,
    },
    /// The stream ended and nobody had closed it.
    #[error(
        "the stream from {peer} ended in the middle: the node, its process or the way to it is gone; connect anew"
    )]
    Truncated {
        /// Its name or address.
        peer: String,
    },
    /// Nobody proved anything in time.
    #[error("{peer} did not prove who it is within {deadline_ms} ms; see that it runs and is secure too")]
    Deadline {
        /// Its name or address.
        peer: String,
        /// How long it had.
        deadline_ms: u128,
    },
    /// The stream itself.
    #[error(transparent)]
    Stream(#[from] io::Error),
}

impl From<SecureError> for io::Error {
    fn from(error: SecureError) -> Self {
        let kind = match error {
            SecureError::Stream(error) => return error,
            SecureError::Truncated { .. } => ErrorKind::UnexpectedEof,
            SecureError::Deadline { .. } => ErrorKind::TimedOut,
            _ => ErrorKind::InvalidData,
        };
        Self::new(kind, error)
    }
}

/// Who this node is, and whom it believes. Cheap to clone.
#[derive(Clone)]
pub struct Identity {
    name: String,
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_struct("Identity").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Identity {
    /// From PEM files: this node's certificate with those between it and a root behind it, its private key, and the
    /// roots of the cluster's authority.
    ///
    /// # Errors
    /// The file that is wrong, why, and what to do.
    pub fn from_files(certificates: &Path, key: &Path, roots: &Path) -> Result<Self, SecureError> {
        let read =
            |file: &Path| std::fs::read(file).map_err(|cause| SecureError::File { file: file.into(), cause });
        let contents = [read(certificates)?, read(key)?, read(roots)?];
        let names = [certificates, key, roots].map(|file| file.display().to_string());
        Self::new(names, [&contents[0], &contents[1], &contents[2]])
    }

    /// From the same in memory.
    ///
    /// # Errors
    /// As [`Identity::from_files`].
    pub fn from_pem(certificates: &[u8], key: &[u8], roots: &[u8]) -> Result<Self, SecureError> {
        let names = ["the node's certificate", "the node's key", "the cluster's roots"].map(String::from);
        Self::new(names, [certificates, key, roots])
    }

    fn new([of_chain, of_key, of_roots]: [String; 3], pem: [&[u8]; 3]) -> Result<Self, SecureError> {
        let chain = certificates(&of_chain, pem[0])?;
        let key = PrivateKeyDer::from_pem_slice(pem[1]).map_err(|cause| SecureError::Pem {
            from: of_key.clone(),
            cause: cause.to_string(),
            wanted: "a private key",
        })?;
        let mut roots = RootCertStore::empty();
        for root in certificates(&of_roots, pem[2])? {
            roots.add(root).map_err(|cause| SecureError::Pem {
                from: of_roots.clone(),
                cause: cause.to_string(),
                wanted: "certificates of an authority",
            })?;
        }

        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let roots = Arc::new(roots);
        let unusable = |cause: &dyn fmt::Display| SecureError::Pem {
            from: of_roots.clone(),
            cause: cause.to_string(),
            wanted: "certificates of an authority",
        };
        let of_servers = WebPkiServerVerifier::builder_with_provider(roots.clone(), provider.clone())
            .build()
            .map_err(|cause| unusable(&cause))?;
        let of_clients = WebPkiClientVerifier::builder_with_provider(roots, provider.clone())
            .build()
            .map_err(|cause| unusable(&cause))?;

        // An own certificate that no peer would take is found here, not at the first link.
        let name = only_name(&of_chain, &chain[0])?;
        let server_name =
            ServerName::try_from(name.clone()).map_err(|_| SecureError::Name { name: name.clone() })?;
        let (now, between) = (UnixTime::now(), &chain[1..]);
        of_servers
            .verify_server_cert(&chain[0], between, &server_name, &[], now)
            .map(drop)
            .and_then(|()| of_clients.verify_client_cert(&chain[0], between, now).map(drop))
            .map_err(|error| from_tls(error, &of_chain, false))?;

        let wrong_key = |cause: rustls::Error| SecureError::Key {
            certificates: of_chain.clone(),
            key: of_key.clone(),
            cause: cause.to_string(),
        };
        let versions = &[&rustls::version::TLS13];
        let mut client = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(versions)
            .expect("the provider has suites of TLS 1.3")
            .with_webpki_verifier(of_servers)
            .with_client_auth_cert(chain.clone(), key.clone_key())
            .map_err(wrong_key)?;
        client.alpn_protocols = vec![PROTOCOL.into()];
        client.resumption = rustls::client::Resumption::disabled();
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .expect("the provider has suites of TLS 1.3")
            .with_client_cert_verifier(of_clients)
            .with_single_cert(chain, key)
            .map_err(wrong_key)?;
        server.alpn_protocols = vec![PROTOCOL.into()];
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        Ok(Self { name, client: Arc::new(client), server: Arc::new(server) })
    }

    /// The node's name, as its certificate says it.
    pub fn name(&self) -> &str {
        &self.name
    }
}

fn certificates(from: &str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, SecureError> {
    let wrong = |cause: String| SecureError::Pem { from: from.into(), cause, wanted: "certificates" };
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|cause| wrong(cause.to_string()))?;
    if found.is_empty() { Err(wrong("no certificate in it".into())) } else { Ok(found) }
}

/// The one name that a certificate carries, in lower case.
fn only_name(whose: &str, certificate: &CertificateDer<'_>) -> Result<String, SecureError> {
    let parsed = webpki::EndEntityCert::try_from(certificate)
        .map_err(|cause| SecureError::Certificate { whose: whose.into(), cause: cause.to_string() })?;
    let names: Vec<&str> = parsed.valid_dns_names().collect();
    match names[..] {
        [name] if !name.contains('*') => Ok(name.to_ascii_lowercase()),
        [] => Err(SecureError::NoNode { whose: whose.into(), names: "nobody".into() }),
        _ => Err(SecureError::NoNode { whose: whose.into(), names: names.join(", ") }),
    }
}

/// Says what an error of TLS means here. `first`: nothing that the peer said made sense so far.
fn from_tls(error: rustls::Error, peer: &str, first: bool) -> SecureError {
    use CertificateError as C;
    use rustls::Error as E;
    let (whose, peer, cause) = (peer.to_string(), peer.to_string(), error.to_string());
    match error {
        E::InvalidCertificate(error) => match error {
            C::Expired | C::ExpiredContext { .. } | C::NotValidYet | C::NotValidYetContext { .. } => {
                SecureError::OutOfDate { whose, cause }
            }
            C::UnknownIssuer | C::BadSignature => SecureError::NotOfCluster { whose, cause },
            C::NotValidForNameContext { expected, presented } => {
                SecureError::WrongName { expected: expected.to_str().into(), found: presented.join(", ") }
            }
            _ => SecureError::Certificate { whose, cause },
        },
        E::NoCertificatesPresented => SecureError::NoCertificate { peer },
        E::NoApplicationProtocol | E::AlertReceived(AlertDescription::NoApplicationProtocol) => {
            SecureError::Protocol { peer }
        }
        E::AlertReceived(alert) => SecureError::Refused { peer, cause: format!("{alert:?}") },
        E::InvalidMessage(InvalidMessage::InvalidContentType) if first => SecureError::PlainText { peer },
        E::DecryptError => SecureError::Altered { peer },
        _ => SecureError::Broken { peer, cause },
    }
}

/// One end of an authenticated and encrypted stream: see the head of this file. It reads and writes as a
/// non-blocking stream does; both also drive the handshake. After an error it is of no more use.
pub struct Secure {
    stream: TcpStream,
    tls: Connection,
    /// Whom the connecting side wants.
    expected: Option<String>,
    /// Its address, until it has a name.
    peer: String,
    /// The peer has proved who it is and has taken our proof.
    proven: bool,
    /// What the socket gave and TLS has not taken yet.
    incoming: Box<[u8]>,
    rest: Range<usize>,
    /// Bytes since something came of them.
    without_content: usize,
}

impl fmt::Debug for Secure {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_struct("Secure")
            .field("peer", &self.peer)
            .field("proven", &self.proven)
            .finish_non_exhaustive()
    }
}

impl Secure {
    /// The connecting side, over a stream that is made non-blocking. `expected_peer` is the name of the node that
    /// must answer. The handshake begins; reading, writing or [`Secure::handshake`] goes on with it.
    ///
    /// # Errors
    /// The name is none, or the descriptor is no socket.
    pub fn connect(stream: TcpStream, identity: &Identity, expected_peer: &str) -> Result<Self, SecureError> {
        let expected = expected_peer.to_ascii_lowercase();
        let name =
            DnsName::try_from(expected.clone()).map_err(|_| SecureError::Name { name: expected.clone() })?;
        let tls = ClientConnection::new(identity.client.clone(), ServerName::DnsName(name));
        Self::new(stream, tls.map(Connection::from), Some(expected))
    }

    /// The accepting side, over a stream that is made non-blocking.
    ///
    /// # Errors
    /// The descriptor is no socket.
    pub fn accept(stream: TcpStream, identity: &Identity) -> Result<Self, SecureError> {
        let tls = ServerConnection::new(identity.server.clone());
        Self::new(stream, tls.map(Connection::from), None)
    }

    fn new(
        stream: TcpStream,
        tls: Result<Connection, rustls::Error>,
        expected: Option<String>,
    ) -> Result<Self, SecureError> {
        tcp::prepare(&stream)?;
        let address = || stream.peer_addr().map_or_else(|_| "the peer".into(), |address| address.to_string());
        let peer = expected.clone().unwrap_or_else(address);
        let mut tls = tls.map_err(|error| from_tls(error, &peer, false))?;
        tls.set_buffer_limit(Some(BUFFER_BYTES_MAX));
        let incoming = vec![0; BUFFER_BYTES_MAX].into();
        Ok(Self { stream, tls, expected, peer, proven: false, incoming, rest: 0..0, without_content: 0 })
    }

    /// The peer's name, as soon as it is proved.
    pub fn peer_name(&self) -> Option<&str> {
        self.proven.then_some(&self.peer)
    }

    /// The stream below, to wait for.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Whether encrypted bytes wait until the stream takes them.
    pub fn wants_write(&self) -> bool {
        self.tls.wants_write()
    }

    /// Blocks until both ends have proved who they are.
    ///
    /// # Errors
    /// Why they have not; at the latest after `deadline`.
    pub fn handshake(&mut self, deadline: Duration) -> Result<(), SecureError> {
        let until = Instant::now() + deadline;
        while !self.prove()? {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(SecureError::Deadline {
                    peer: self.peer.clone(),
                    deadline_ms: deadline.as_millis(),
                });
            }
            let flags = if self.wants_write() { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
            let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
            match poll(&mut [PollFd::new(&self.stream, flags)], Some(&left)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(io::Error::from(error).into()),
            }
        }
        Ok(())
    }

    /// Says to the peer that nothing more comes. What the socket does not take at once goes with [`Write::flush`].
    ///
    /// # Errors
    /// The stream ended.
    pub fn close(&mut self) -> Result<(), SecureError> {
        self.tls.send_close_notify();
        self.push()
    }

    /// Goes on with the handshake, without waiting; true when it is done.
    fn prove(&mut self) -> Result<bool, SecureError> {
        while !self.proven {
            self.push()?;
            if self.tls.is_handshaking() {
                if !self.pull()? {
                    return Ok(false);
                }
                continue;
            }
            if self.tls.alpn_protocol() != Some(PROTOCOL.as_bytes()) {
                return Err(self.turn_away(SecureError::Protocol { peer: self.peer.clone() }));
            }
            let certificate = self.tls.peer_certificates().and_then(<[_]>::first);
            let name = match certificate {
                Some(certificate) => only_name(&self.peer, certificate),
                None => Err(SecureError::NoCertificate { peer: self.peer.clone() }),
            };
            let name = name.map_err(|error| self.turn_away(error))?;
            let mut byte = [0];
            match &self.expected {
                Some(expected) if *expected != name => {
                    let error = SecureError::WrongName { expected: expected.clone(), found: name };
                    return Err(self.turn_away(error));
                }
                Some(_) => match self.tls.reader().read(&mut byte) {
                    Ok(1) if byte[0] == WELCOME => {}
                    Ok(0) => {
                        return Err(SecureError::Refused {
                            peer: name,
                            cause: "it closed the stream".into(),
                        });
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        if !self.pull()? {
                            return Ok(false);
                        }
                        continue;
                    }
                    _ => return Err(self.turn_away(SecureError::Protocol { peer: name })),
                },
                None => self.tls.writer().write_all(&[WELCOME])?,
            }
            (self.peer, self.proven) = (name, true);
            self.push()?;
        }
        Ok(true)
    }

    /// Lets the peer know, as far as the socket takes it.
    fn turn_away(&mut self, error: SecureError) -> SecureError {
        let _ = self.close();
        error
    }

    /// Hands encrypted bytes to the socket, as many as it takes.
    fn push(&mut self) -> Result<(), SecureError> {
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut self.stream) {
                Ok(0) => return Err(io::Error::from(ErrorKind::WriteZero).into()),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Takes encrypted bytes from the socket; false if there are none.
    fn pull(&mut self) -> Result<bool, SecureError> {
        while self.rest.is_empty() {
            match self.stream.read(&mut self.incoming) {
                Ok(0) => return Err(SecureError::Truncated { peer: self.peer.clone() }),
                Ok(read) => self.rest = 0..read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        let first = self.without_content < RECORD_HEADER_BYTES && self.tls.is_handshaking();
        let taken = self.tls.read_tls(&mut &self.incoming[self.rest.clone()])?;
        self.rest.start += taken;
        self.without_content += taken;
        match self.tls.process_new_packets() {
            Ok(state) if state.plaintext_bytes_to_read() > 0 => self.without_content = 0,
            Ok(_) if self.without_content > BYTES_WITHOUT_CONTENT_MAX => {
                let cause = format!("more than {BYTES_WITHOUT_CONTENT_MAX} bytes without any content");
                return Err(SecureError::Broken { peer: self.peer.clone(), cause });
            }
            Ok(_) => {}
            Err(error) => {
                // Its alert tells the peer why.
                let _ = self.push();
                return Err(from_tls(error, &self.peer, first));
            }
        }
        self.push()?;
        Ok(true)
    }
}

impl Read for Secure {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        if !self.prove()? {
            return Err(ErrorKind::WouldBlock.into());
        }
        loop {
            match self.tls.reader().read(to) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if !self.pull()? {
                        return Err(error);
                    }
                }
                result => return result,
            }
        }
    }
}

impl Write for Secure {
    /// Takes bytes only while none wait inside.
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        if !self.prove()? {
            return Err(ErrorKind::WouldBlock.into());
        }
        self.flush()?;
        let taken = self.tls.writer().write(from)?;
        self.push()?;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.push()?;
        if self.wants_write() { Err(ErrorKind::WouldBlock.into()) } else { Ok(()) }
    }
}
