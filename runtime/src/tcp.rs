//! What carries a link over a TCP stream, where there is no shared memory and no RDMA.
//!
//! The sender writes its frames into a ring of its own; from there they go, at the same positions, into the ring that
//! the receiver reads. Heads come back. A stream carries one link, or a pair, one each way.
//!
//! ```text
//! record:  kind (4 B)  bytes (4 B)  position (8 B)  [bytes of frames]        all little-endian
//!   RESUME   the first on each stream: how far the sender of this record has received
//!   FRAMES   whole frames, for the ring at `position`
//!   SKIP     padding of `bytes` at `position`: its content does not travel
//!   HEAD     everything before `position` may be overwritten
//! ```
//!
//! Invariant: the reader is vouched for exactly what arrived whole, in order, without a gap. So a new stream goes on
//! from what the other end says that it received: nothing is lost, nothing comes twice, nothing is torn.

use crate::id::LinkId;
use crate::inbox::Inbound;
use crate::outbox::Outbound;
use crate::rate::Meter;
use crate::ring::Ring;
use crate::secure::Secure;
use rustix::net::sockopt;
use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

const RECORD_BYTES: usize = 16;
/// The records around a run of frames: before it, and for the padding behind it.
const RUN_RECORDS_BYTES: u64 = 2 * RECORD_BYTES as u64;
/// So much waits for the stream at the most before frames stay in their ring.
const OUTGOING_BYTES_MAX: usize = 256 << 10;
/// So much is read at once.
const READ_BYTES: usize = 64 << 10;
/// So often is read in one go, so that a fast sender does not keep the shard here.
const READS_MAX: usize = 16;

/// After so long without a word the peer's host is asked whether it is still there,
const KEEPALIVE_IDLE: Duration = Duration::from_secs(1);
/// then again after so long each time,
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(1);
/// and after so many questions without an answer it is gone.
const KEEPALIVE_PROBES: u32 = 3;
/// What was sent is acknowledged within this time, or the peer is gone. That holds for a full window too: a peer that
/// lives and does not read for so long loses its stream, and goes on over another one.
const ACKNOWLEDGED_WITHIN: Duration = Duration::from_secs(3);

const RESUME: u32 = 1;
const FRAMES: u32 = 2;
const SKIP: u32 = 3;
const HEAD: u32 = 4;

/// Why a stream ended. The link may go on over another one, unless the peer broke the rules.
#[derive(Debug, thiserror::Error)]
pub enum TcpError {
    /// The other end is gone, or the way to it.
    #[error("the stream ended: {0}")]
    Stream(#[from] io::Error),
    /// A record that no peer of ours sends.
    #[error(
        "the peer broke the stream: record of kind {kind} with {bytes} bytes at position {position}, where {expected} was due; the link is closed, restart the shard at its other end"
    )]
    Record {
        /// Its kind.
        kind: u32,
        /// Its bytes.
        bytes: u32,
        /// Its position.
        position: u64,
        /// The position that was due.
        expected: u64,
    },
}

/// What carries the bytes: in order, both ways, never blocking.
pub trait Stream: Read + Write + Send + fmt::Debug {
    /// The socket, to wait for.
    fn socket(&self) -> &TcpStream;

    /// Whether it waits for the socket to take bytes. `more`: its owner has bytes that it did not take.
    fn waits(&self, more: bool) -> bool;
}

impl Stream for TcpStream {
    fn socket(&self) -> &TcpStream {
        self
    }

    fn waits(&self, more: bool) -> bool {
        more
    }
}

impl Stream for Secure {
    fn socket(&self) -> &TcpStream {
        self.stream()
    }

    fn waits(&self, more: bool) -> bool {
        // Before the peer has proved who it is nothing more can go, so nothing waits for room.
        self.wants_write() || (more && self.peer_name().is_some())
    }
}

/// Makes a stream one that a link can use: it does not block, sends at once, and a dead peer is noticed within
/// seconds.
///
/// # Errors
/// The descriptor is no TCP socket.
pub fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(stream, KEEPALIVE_PROBES)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_user_timeout(stream, ACKNOWLEDGED_WITHIN.as_millis() as u32)?;
    Ok(())
}

/// One end of a TCP link, or of a pair: see the head of this file.
#[derive(Debug, Default)]
pub struct Tcp {
    stream: Option<Box<dyn Stream>>,
    outgoing: Vec<u8>,
    /// How much of it the stream has taken.
    outgoing_at: usize,
    /// What was read last; a record's beginning is held at the front until the rest comes.
    incoming: Vec<u8>,
    held: usize,
    /// The frames that come now: how many bytes are missing.
    missing: u64,
    /// Where the next bytes of frames go.
    filled: u64,
    /// Up to here frames arrived whole.
    received: u64,
    /// Up to here frames were handed to the stream.
    sent: u64,
    /// The other end said how far it has received.
    resumed: bool,
    /// What the other end was told of room.
    head_told: u64,
    /// What the other end told of room.
    told: u64,
}

impl Tcp {
    /// Without a stream: frames wait.
    pub fn new() -> Self {
        Self::default()
    }

    /// Goes on over a new stream, which is made non-blocking.
    ///
    /// # Errors
    /// The descriptor is no socket.
    pub fn connect(&mut self, stream: impl Stream + 'static) -> io::Result<()> {
        prepare(stream.socket())?;
        self.disconnect();
        self.incoming.resize(READ_BYTES, 0);
        self.record(RESUME, 0, self.received);
        // Whatever was told on the stream before may not have arrived.
        self.head_told = 0;
        self.stream = Some(Box::new(stream));
        // A stream that is broken already is found by the next `carry`.
        let _ = self.flush();
        Ok(())
    }

    /// Lets the stream go. What had not arrived whole is sent again over the next one.
    pub fn disconnect(&mut self) -> Option<Box<dyn Stream>> {
        self.outgoing.clear();
        self.outgoing_at = 0;
        (self.held, self.missing, self.resumed) = (0, 0, false);
        self.stream.take()
    }

    /// The stream's socket, to wait for.
    pub fn stream(&self) -> Option<&TcpStream> {
        self.stream.as_deref().map(Stream::socket)
    }

    /// Whether bytes wait until the stream takes them.
    pub fn waits(&self) -> bool {
        let more = self.outgoing_at < self.outgoing.len();
        self.stream.as_deref().is_some_and(|stream| stream.waits(more))
    }

    /// Whether there is nothing to do before the socket, or the owner of the outbound link, says so: all that came was
    /// read, and its room told.
    pub fn rests(&self, inbound: &mut Inbound) -> bool {
        inbound.reader().ring().head() == self.received && self.head_told == self.received
    }

    /// Whether the other end was told of all room that there is.
    pub fn has_told(&self, inbound: &mut Inbound) -> bool {
        inbound.reader().ring().head() == self.head_told
    }

    /// Moves what there is, both ways, without waiting. `outbound` is the link whose frames go out here, `inbound` the
    /// one whose frames come in. True if frames or room came in, or not all was read: then the inbox should look at the link,
    /// and nobody sleep before `carry` was called again. For what was not read may be inside the stream already,
    /// where no socket tells of it.
    ///
    /// # Errors
    /// The stream ended, or the peer broke the rules. The stream is let go then.
    pub fn carry(
        &mut self,
        outbound: Option<&mut Outbound>,
        inbound: Option<&mut Inbound>,
    ) -> Result<bool, TcpError> {
        self.carry_within(outbound, inbound, None)
    }

    /// As [`carry`](Self::carry), with frames going out only as the meter allows the link of this number.
    ///
    /// # Errors
    /// As [`carry`](Self::carry).
    pub fn carry_within(
        &mut self,
        mut outbound: Option<&mut Outbound>,
        mut inbound: Option<&mut Inbound>,
        mut meter: Option<(&mut Meter, LinkId)>,
    ) -> Result<bool, TcpError> {
        if self.stream.is_none() {
            return Ok(false);
        }
        let before = (self.received, self.told);
        let result = self.receive(&mut outbound, &mut inbound).and_then(|all| {
            if let Some(inbound) = inbound {
                self.tell_head(inbound.reader().ring().head());
            }
            // What is gathered at once is bounded, so that there may be more when the stream has taken it.
            loop {
                if let Some(outbound) = &mut outbound {
                    self.gather(outbound, &mut meter);
                }
                if self.outgoing.is_empty() {
                    return Ok(all);
                }
                self.flush()?;
                if !self.outgoing.is_empty() {
                    return Ok(all);
                }
            }
        });
        if result.is_err() {
            self.disconnect();
        }
        result.map(|all| !all || (self.received, self.told) != before)
    }

    fn record(&mut self, kind: u32, bytes: u32, position: u64) {
        self.outgoing.extend(kind.to_le_bytes());
        self.outgoing.extend(bytes.to_le_bytes());
        self.outgoing.extend(position.to_le_bytes());
    }

    /// Puts what was published behind what waits for the stream, as far as it is paid for.
    fn gather(&mut self, outbound: &mut Outbound, meter: &mut Option<(&mut Meter, LinkId)>) {
        let tail = outbound.writer().published();
        let ring = outbound.writer().ring();
        while self.resumed && self.sent < tail && self.outgoing.len() < OUTGOING_BYTES_MAX {
            let mut most = u64::MAX;
            if let Some((meter, id)) = meter {
                let least = run_of_frames(ring, self.sent, tail, 0).0 - self.sent + RUN_RECORDS_BYTES;
                let Some(allowed) = meter.allows(*id, least, tail - self.sent) else { return };
                most = allowed - RUN_RECORDS_BYTES;
            }
            let before = self.outgoing.len();
            let (run, padding) = run_of_frames(ring, self.sent, tail, most);
            if run > self.sent {
                self.record(FRAMES, (run - self.sent) as u32, self.sent);
                ring.append_data(self.sent, (run - self.sent) as usize, &mut self.outgoing);
            }
            if padding > 0 {
                self.record(SKIP, padding as u32, run);
            }
            self.sent = run + padding;
            if let Some((meter, id)) = meter {
                meter.take(*id, (self.outgoing.len() - before) as u64);
            }
        }
        if let Some((meter, id)) = meter {
            meter.leave(*id);
        }
    }

    fn tell_head(&mut self, head: u64) {
        if head != self.head_told {
            self.head_told = head;
            self.record(HEAD, 0, head);
        }
    }

    fn flush(&mut self) -> Result<(), TcpError> {
        let Some(stream) = &mut self.stream else { return Ok(()) };
        while self.outgoing_at < self.outgoing.len() {
            match stream.write(&self.outgoing[self.outgoing_at..]) {
                Ok(0) => return Err(io::Error::from(ErrorKind::WriteZero).into()),
                Ok(written) => self.outgoing_at += written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.outgoing.clear();
        self.outgoing_at = 0;
        match stream.flush() {
            Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Reads what there is; false if there may be more.
    fn receive(
        &mut self,
        outbound: &mut Option<&mut Outbound>,
        inbound: &mut Option<&mut Inbound>,
    ) -> Result<bool, TcpError> {
        for _ in 0..READS_MAX {
            let Some(stream) = &mut self.stream else { return Ok(true) };
            match stream.read(&mut self.incoming[self.held..]) {
                Ok(0) => return Err(io::Error::from(ErrorKind::UnexpectedEof).into()),
                Ok(read) => {
                    let mut incoming = std::mem::take(&mut self.incoming);
                    let end = self.held + read;
                    let rest = self.take_records(&incoming[..end], outbound, inbound)?;
                    incoming.copy_within(end - rest..end, 0);
                    (self.incoming, self.held) = (incoming, rest);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(false)
    }

    /// Takes what came; says how many bytes at the end are the beginning of a record.
    fn take_records(
        &mut self,
        mut rest: &[u8],
        outbound: &mut Option<&mut Outbound>,
        inbound: &mut Option<&mut Inbound>,
    ) -> Result<usize, TcpError> {
        loop {
            if self.missing > 0 {
                let now = (self.missing as usize).min(rest.len());
                let Some(link) = inbound else { break };
                link.reader().ring().write_data(self.filled, &rest[..now]);
                rest = &rest[now..];
                self.filled += now as u64;
                self.missing -= now as u64;
                if self.missing > 0 {
                    break;
                }
                self.arrived(link, self.filled);
            }
            let Some((record, behind)) = rest.split_first_chunk::<RECORD_BYTES>() else { break };
            rest = behind;
            let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|byte| record[at + byte]));
            let position = u64::from(word(8)) | u64::from(word(12)) << 32;
            self.take_record(word(0), word(4), position, outbound, inbound)?;
        }
        Ok(rest.len())
    }

    fn take_record(
        &mut self,
        kind: u32,
        bytes: u32,
        position: u64,
        outbound: &mut Option<&mut Outbound>,
        inbound: &mut Option<&mut Inbound>,
    ) -> Result<(), TcpError> {
        let wrong = |expected| Err(TcpError::Record { kind, bytes, position, expected });
        match (kind, outbound, inbound) {
            (RESUME, Some(outbound), _) => {
                // It can't have received what was not sent, nor have lost what it gave back.
                if self.resumed || position > self.sent || position < outbound.writer().ring().head() {
                    return wrong(self.sent);
                }
                (self.sent, self.resumed) = (position, true);
            }
            (RESUME, None, _) if position == 0 => {}
            (HEAD, Some(outbound), _) => {
                let ring = outbound.writer().ring();
                if position > self.sent || position < ring.head() {
                    return wrong(ring.head());
                }
                ring.set_head(position);
                self.told = position;
            }
            (FRAMES | SKIP, _, Some(link)) => {
                let reader = link.reader();
                let (room_to, edge) = (reader.room_to(), reader.ring().to_edge(self.received));
                let end = self.received + u64::from(bytes);
                let fits =
                    position == self.received && bytes > 0 && bytes.is_multiple_of(16) && end <= room_to;
                if !fits || (kind == SKIP && u64::from(bytes) != edge) {
                    return wrong(self.received);
                }
                if kind == SKIP {
                    reader.ring().write_padding(position, bytes);
                    self.arrived(link, end);
                } else {
                    (self.filled, self.missing) = (position, u64::from(bytes));
                }
            }
            _ => return wrong(0),
        }
        Ok(())
    }

    fn arrived(&mut self, link: &mut Inbound, position: u64) {
        self.received = position;
        link.reader().vouch(position);
    }
}

/// The frames from `from` on, up to `tail` or the next padding, and no more than `most` bytes of them if that is not the
/// first: where they end, and how long the padding is.
fn run_of_frames(ring: &Ring, from: u64, tail: u64, most: u64) -> (u64, u64) {
    let mut end = from;
    while end < tail {
        match ring.own_frame(end) {
            (extent, true) => return (end, extent),
            (extent, false) if end > from && end - from + extent > most => return (end, 0),
            (extent, false) => end += extent,
        }
    }
    (end, 0)
}
