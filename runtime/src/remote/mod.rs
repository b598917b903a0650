//! A shard's links to other hosts: how they are made, kept and mended, for all kinds in one place.
//!
//! ```text
//!   Remote ── listener
//!     ├ strangers: streams whose link is not known yet
//!     ├ links: Idle ──▶ Greeting ──▶ Up ─┐      kind rdma: a queue pair, and the stream as its alarm
//!     │          ▲                       │      kind tcp:  the stream carries the frames
//!     │          └────── broken ─────────┘
//!     └ one epoll for all of them: what a shard with such links sleeps on
//! ```
//!
//! Each link has an end that connects and an end that accepts. Whichever end notices that a link broke lets go of its
//! queue pair or stream; the connecting end begins anew after a while that grows, and frames go on from where the
//! receiver stands (see [`crate::rdma`] and [`crate::tcp`]).
//!
//! Invariant: nothing of a link is sent or taken before both ends have proved who they are and have agreed on the
//! link. Nothing here blocks, and all runs on the thread that calls [`Remote::carry`].

mod greeting;

pub use greeting::{Hello, REMOTE_VERSION, RemoteKind, Say};

use crate::clock::now_ns;
use crate::id::LinkId;
use crate::inbox::Inbox;
use crate::outbox::Outbox;
use crate::rate::{Meter, Rate};
use crate::rdma::{Rdma, RdmaError};
use crate::secure::{Identity, Secure, SecureError};
use crate::tcp::{Tcp, TcpError};
use crate::wake::LINKS_MAX;
use greeting::Greeting;
use mio::event::Source;
use mio::net::TcpListener;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::io::{self, ErrorKind, Read};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Both ends have agreed on a link within this time, or begin anew.
pub const GREETING_NS: u64 = 5_000_000_000;
/// A link by RDMA on which nothing comes asks this often whether its peer is there.
pub const PING_NS: u64 = 250_000_000;
/// The first attempt to mend a link comes after about so long …
const RETRY_NS: u64 = 10_000_000;
/// … and each next one after twice as long, up to this.
const RETRY_NS_MAX: u64 = 1_000_000_000;
/// So many streams may be there whose link is not known yet.
const STRANGERS_MAX: usize = 64;
/// A shard that spins looks at its sockets every so many rounds; at its queue pairs in every round.
const SOCKET_ROUNDS: u32 = 16;

const LISTENER: Token = Token(usize::MAX - 1);
const COMPLETIONS: Token = Token(usize::MAX - 2);
const STRANGER: usize = 1 << 20;

/// What both ends know a link by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LinkKey(pub [u8; 16]);

/// Which end of a link this is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// It connects to the other one, who listens there.
    Connects(SocketAddr),
    /// It waits for the other one.
    Accepts,
}

/// A link to a shard on another host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteLink {
    /// What both ends know it by.
    pub key: LinkKey,
    /// How it is carried.
    pub kind: RemoteKind,
    /// The name of the node that the other end is on, as its certificate says it.
    pub node: String,
    /// Which end this is.
    pub end: End,
}

/// Why a link is not up.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// The stream, or who is at its other end.
    #[error("{0}")]
    Stream(io::Error),
    /// As the other end has it.
    #[error("the other end refuses the link: {0}")]
    Refused(String),
    /// The other end is not what was agreed on.
    #[error("the other end does not fit: {0}; the link is refused")]
    Unfit(String),
    /// Nothing was agreed on in time.
    #[error("the other end did not agree on the link within {} s", GREETING_NS / 1_000_000_000)]
    Late,
    /// Kind `rdma`.
    #[error(transparent)]
    Rdma(#[from] RdmaError),
    /// Kind `tcp`.
    #[error(transparent)]
    Tcp(#[from] TcpError),
    /// This shard has no RDMA device.
    #[error("links of kind rdma are not to be had here: {0}")]
    NoRdma(String),
    /// The other end made a new stream, as it noticed the break first.
    #[error("the other end began anew")]
    Anew,
}

impl RemoteError {
    /// Whether the other end broke the rules: then the link stays closed.
    pub fn is_lie(&self) -> bool {
        match self {
            Self::Rdma(error) => error.is_lie(),
            Self::Tcp(error) => matches!(error, TcpError::Record { .. }),
            _ => false,
        }
    }
}

impl From<io::Error> for RemoteError {
    fn from(error: io::Error) -> Self {
        Self::Stream(error)
    }
}

impl From<SecureError> for RemoteError {
    fn from(error: SecureError) -> Self {
        Self::Stream(io::Error::other(error))
    }
}

/// What became of a link.
#[derive(Debug)]
pub enum News {
    /// Frames go.
    Up,
    /// It broke; it is being mended.
    Down(RemoteError),
    /// The other end broke the rules: it stays closed.
    Closed(RemoteError),
}

enum State {
    /// Nothing before then; for ever at the end that accepts.
    Idle {
        until_ns: u64,
    },
    Greeting(Box<Greeting>),
    /// Kind `rdma`: the stream carries nothing more, and its end is the fastest alarm.
    Alarm(Box<Secure>),
    /// Kind `tcp`.
    Stream,
    Closed,
}

struct Link {
    what: RemoteLink,
    state: State,
    tcp: Tcp,
    retry_ns: u64,
    /// It is among those whose streams are looked at in the next round.
    listed: bool,
    /// All that it waits for is that its frames are read: no reason not to sleep.
    reads: bool,
}

/// All links of a shard to other hosts: see the head of this file.
pub struct Remote {
    identity: Identity,
    poll: Poll,
    events: Events,
    listener: Option<TcpListener>,
    rdma: Result<Rdma, String>,
    links: Vec<Option<Box<Link>>>,
    by_key: HashMap<LinkKey, LinkId>,
    strangers: Vec<Option<Box<Greeting>>>,
    /// Links whose streams have something to do.
    listed: Vec<LinkId>,
    news: Vec<(LinkId, News)>,
    /// What all links together may send; `None` without a bound.
    meter: Option<Box<Meter>>,
    rounds: u32,
    ping_ns: u64,
    due_ns: u64,
    random: u64,
}

impl Remote {
    /// Without links. `rdma` is what links of kind `rdma` use, or why there can be none.
    ///
    /// # Errors
    /// The system has no descriptor left.
    pub fn new(identity: Identity, rdma: Result<Rdma, String>) -> io::Result<Self> {
        let poll = Poll::new()?;
        if let Ok(rdma) = &rdma {
            let fd = rdma.as_fd().as_raw_fd();
            SourceFd(&fd).register(poll.registry(), COMPLETIONS, Interest::READABLE)?;
        }
        Ok(Self {
            identity,
            poll,
            events: Events::with_capacity(256),
            listener: None,
            rdma,
            links: Vec::new(),
            by_key: HashMap::new(),
            strangers: Vec::new(),
            listed: Vec::new(),
            news: Vec::new(),
            meter: None,
            rounds: 0,
            ping_ns: 0,
            due_ns: 0,
            random: now_ns() | 1,
        })
    }

    /// Listens for the other ends of links; says where.
    ///
    /// # Errors
    /// The address is taken, or not this host's.
    pub fn listen(&mut self, address: SocketAddr) -> io::Result<SocketAddr> {
        let mut listener = TcpListener::bind(address)?;
        self.poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        let address = listener.local_addr()?;
        self.listener = Some(listener);
        Ok(address)
    }

    /// Adds a link, whose halves are in inbox and outbox under the same number. It comes up by itself.
    ///
    /// # Panics
    /// If the number is taken.
    pub fn attach(&mut self, id: LinkId, what: RemoteLink) {
        let at = usize::from(id.0);
        assert!(at < LINKS_MAX, "{id:?} is beyond the {LINKS_MAX} links of a shard");
        if self.links.len() <= at {
            self.links.resize_with(at + 1, || None);
        }
        assert!(self.links[at].is_none(), "{id:?} is taken");
        self.by_key.insert(what.key, id);
        let mut state = State::Idle { until_ns: if matches!(what.end, End::Accepts) { u64::MAX } else { 0 } };
        if let (RemoteKind::Rdma, Err(why)) = (what.kind, &self.rdma) {
            state = State::Closed;
            self.news.push((id, News::Closed(RemoteError::NoRdma(why.clone()))));
        }
        let tcp = Tcp::new();
        self.links[at] =
            Some(Box::new(Link { what, state, tcp, retry_ns: RETRY_NS, listed: false, reads: false }));
        self.due_ns = 0;
    }

    /// Holds all links together to a rate, or to none: see [`crate::rate`]. The bucket is full at first.
    pub fn set_rate(&mut self, rate: Option<Rate>) {
        self.meter = rate.map(|rate| Box::new(Meter::new(rate, now_ns())));
        // Whoever waited for the meter before asks the new one, or nobody.
        for at in 0..self.links.len() {
            self.go_on(LinkId(at as u16));
        }
    }

    /// The rate that all links together are held to, if any.
    pub fn rate(&self) -> Option<Rate> {
        self.meter.as_deref().map(Meter::rate)
    }

    /// For how long frames have waited because of the rate, in nanoseconds.
    pub fn held_ns(&self) -> u64 {
        self.meter.as_deref().map_or(0, Meter::held_ns)
    }

    /// Removes a link.
    pub fn detach(&mut self, id: LinkId) {
        self.let_go(id);
        if let Some(link) = self.links.get_mut(usize::from(id.0)).and_then(Option::take) {
            self.by_key.remove(&link.what.key);
        }
        self.listed.retain(|listed| *listed != id);
        if let Ok(rdma) = &mut self.rdma {
            rdma.remove(id);
        }
    }

    /// Breaks a link as a fault would: its queue pair goes into the state ERROR, or its stream is shut. It is noticed, and
    /// mended, like any other break.
    pub fn break_off(&mut self, id: LinkId) {
        let Some(link) = self.links.get(usize::from(id.0)).and_then(Option::as_deref) else { return };
        if let (State::Alarm(_), Ok(rdma)) = (&link.state, &mut self.rdma) {
            rdma.break_off(id);
        }
        if let Some(stream) = link.tcp.stream() {
            // One that has ended is broken already.
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }

    /// What links of kind `rdma` use.
    pub fn rdma(&mut self) -> Option<&mut Rdma> {
        self.rdma.as_mut().ok()
    }

    /// What became of a link since this was last asked.
    pub fn take_news(&mut self) -> Option<(LinkId, News)> {
        (!self.news.is_empty()).then(|| self.news.remove(0))
    }

    /// One round: carries what there is, both ways, without waiting; makes and mends links. True if frames or room came:
    /// a reason not to sleep.
    #[inline]
    pub fn carry(&mut self, inbox: &mut Inbox, outbox: &mut Outbox) -> bool {
        self.rounds = self.rounds.wrapping_add(1);
        self.round(inbox, outbox, self.rounds.is_multiple_of(SOCKET_ROUNDS))
    }

    /// As [`carry`](Self::carry), and looks at the sockets too: after sleeping.
    pub fn carry_now(&mut self, inbox: &mut Inbox, outbox: &mut Outbox) -> bool {
        self.round(inbox, outbox, true)
    }

    /// Before sleeping: arms everything, and carries once more. False if something came.
    pub fn prepare_to_park(&mut self, inbox: &mut Inbox, outbox: &mut Outbox) -> bool {
        if let Ok(rdma) = &mut self.rdma {
            rdma.look_after_device();
            if let Err(error) = rdma.arm() {
                rdma.fail_all(&error.to_string());
            }
        }
        let came = self.carry_now(inbox, outbox);
        // A link that still has something to do is no place to sleep; one that waits for its socket is not listed.
        let reads = |id: &LinkId| self.links[usize::from(id.0)].as_deref().is_some_and(|link| link.reads);
        !came && self.listed.iter().all(reads)
    }

    /// When something is due, in nanoseconds of the monotonic clock: sleep no longer.
    pub fn due_ns(&self) -> u64 {
        self.meter.as_deref().map_or(self.due_ns, |meter| self.due_ns.min(meter.due_ns()))
    }

    /// What becomes readable when something comes, for a thread that waits for it.
    ///
    /// # Errors
    /// The system has no descriptor left.
    pub fn watch(&self) -> io::Result<OwnedFd> {
        self.as_fd().try_clone_to_owned()
    }

    fn round(&mut self, inbox: &mut Inbox, outbox: &mut Outbox, sockets: bool) -> bool {
        let mut news = false;
        // Before the completion queue is looked at: its event is taken here, and would not come again.
        if sockets {
            self.take_events();
            let now = now_ns();
            if now >= self.due_ns {
                self.tend(now);
            }
        }
        if let Some(meter) = &mut self.meter {
            meter.turn_to(now_ns());
            if let Some(id) = meter.due() {
                self.go_on(id);
            }
        }
        while let Some(id) = outbox.take_published() {
            self.go_on(id);
        }
        if let Ok(rdma) = &mut self.rdma {
            news |= rdma.carry_within(inbox, outbox, self.meter.as_deref_mut());
            while let Some((id, error)) = self.rdma.as_mut().ok().and_then(Rdma::take_broken) {
                self.fail(id, error.into());
            }
        }
        let mut at = 0;
        while at < self.listed.len() {
            let id = self.listed[at];
            if self.still_reads(id, inbox) {
                at += 1;
                continue;
            }
            let served = self.serve(id, inbox, outbox);
            if let Ok(Served::More | Served::Reads) = served {
                let reads = matches!(served, Ok(Served::Reads));
                if let Some(link) = self.links[usize::from(id.0)].as_deref_mut() {
                    link.reads = reads;
                }
                news |= !reads;
                at += 1;
                continue;
            }
            self.listed.swap_remove(at);
            if let Some(link) = self.links[usize::from(id.0)].as_deref_mut() {
                link.listed = false;
            }
            if let Err(error) = served {
                self.fail(id, error);
            }
        }
        news
    }

    /// Has a link's frames looked at in this round.
    fn go_on(&mut self, id: LinkId) {
        match self.links.get(usize::from(id.0)).and_then(Option::as_deref).map(|link| link.what.kind) {
            Some(RemoteKind::Rdma) => {
                if let Ok(rdma) = &mut self.rdma {
                    rdma.published(id);
                }
            }
            Some(RemoteKind::Tcp) => self.list(id),
            None => {}
        }
    }

    /// Has a link's stream looked at in this round.
    fn list(&mut self, id: LinkId) {
        if let Some(link) = self.links.get_mut(usize::from(id.0)).and_then(Option::as_deref_mut) {
            link.reads = false;
            if !std::mem::replace(&mut link.listed, true) {
                self.listed.push(id);
            }
        }
    }

    /// Whether all that a link waits for is that more of its frames are read, and nothing else came for it.
    fn still_reads(&self, id: LinkId, inbox: &mut Inbox) -> bool {
        let link = self.links[usize::from(id.0)].as_deref().filter(|link| link.reads);
        link.is_some_and(|link| inbox.get_mut(id).is_some_and(|inbound| link.tcp.has_told(inbound)))
    }

    fn take_events(&mut self) {
        // An interrupted call, or one that fails, brings its events with the next.
        let mut events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        if self.poll.poll(&mut events, Some(std::time::Duration::ZERO)).is_ok() {
            for event in &events {
                match event.token() {
                    LISTENER => self.accept(),
                    COMPLETIONS => {}
                    Token(at) if at >= STRANGER => self.hear_stranger(at - STRANGER),
                    Token(at) => self.list(LinkId(at as u16)),
                }
            }
        }
        self.events = events;
    }

    /// What is due: streams that were silent too long, links to be mended, pings.
    fn tend(&mut self, now: u64) {
        for at in 0..self.strangers.len() {
            if self.strangers[at].as_ref().is_some_and(|stranger| now - stranger.since_ns > GREETING_NS) {
                self.strangers[at] = None;
            }
        }
        for at in 0..self.links.len() {
            let id = LinkId(at as u16);
            let Some(link) = self.links[at].as_deref() else { continue };
            match (&link.state, &link.what.end) {
                (State::Idle { until_ns }, End::Connects(address)) if now >= *until_ns => {
                    let address = *address;
                    if let Err(error) = self.begin(id, address, now) {
                        self.fail(id, error);
                    }
                }
                (State::Greeting(greeting), _) if now - greeting.since_ns > GREETING_NS => {
                    self.fail(id, RemoteError::Late);
                }
                _ => {}
            }
        }
        if now >= self.ping_ns {
            self.ping_ns = now + PING_NS;
            for at in 0..self.links.len() {
                let up = self.links[at].as_deref().is_some_and(|link| matches!(link.state, State::Alarm(_)));
                if let Ok(rdma) = &mut self.rdma
                    && up
                {
                    rdma.ping(LinkId(at as u16));
                }
            }
        }
        self.due_ns = self.next_due();
    }

    fn next_due(&self) -> u64 {
        let of_link = |link: &Link| match &link.state {
            State::Idle { until_ns } => *until_ns,
            State::Greeting(greeting) => greeting.since_ns + GREETING_NS,
            State::Alarm(_) => self.ping_ns,
            State::Stream | State::Closed => u64::MAX,
        };
        let links = self.links.iter().flatten().map(|link| of_link(link));
        let strangers = self.strangers.iter().flatten().map(|stranger| stranger.since_ns + GREETING_NS);
        links.chain(strangers).min().unwrap_or(u64::MAX)
    }

    /// Connects to the other end.
    fn begin(&mut self, id: LinkId, address: SocketAddr, now: u64) -> Result<(), RemoteError> {
        let stream = mio::net::TcpStream::connect(address)?;
        let stream = TcpStream::from(OwnedFd::from(stream));
        let link = self.links[usize::from(id.0)].as_deref_mut().expect("a link that is there");
        let secure = Secure::connect(stream, &self.identity, &link.what.node)?;
        register(&self.poll, &secure, usize::from(id.0))?;
        link.state = State::Greeting(Box::new(Greeting::new(secure, true, now)));
        self.list(id);
        Ok(())
    }

    fn accept(&mut self) {
        loop {
            let Some(Ok((stream, _))) = self.listener.as_ref().map(TcpListener::accept) else { return };
            let stream = TcpStream::from(OwnedFd::from(stream));
            let at = self.place_for_stranger();
            let Ok(secure) = Secure::accept(stream, &self.identity) else { continue };
            if register(&self.poll, &secure, STRANGER + at).is_err() {
                continue;
            }
            self.strangers[at] = Some(Box::new(Greeting::new(secure, false, now_ns())));
            self.due_ns = 0;
            self.hear_stranger(at);
        }
    }

    /// A free place; if there is none, that of the one who has been silent for the longest: whoever comes with a purpose
    /// is through in milliseconds.
    fn place_for_stranger(&mut self) -> usize {
        if let Some(free) = self.strangers.iter().position(Option::is_none) {
            return free;
        }
        if self.strangers.len() < STRANGERS_MAX {
            self.strangers.push(None);
            return self.strangers.len() - 1;
        }
        let since = |at: &usize| self.strangers[*at].as_ref().map_or(0, |stranger| stranger.since_ns);
        let oldest = (0..STRANGERS_MAX).min_by_key(since).unwrap_or(0);
        self.strangers[oldest] = None;
        oldest
    }

    /// Goes on with a stream whose link is not known yet.
    fn hear_stranger(&mut self, at: usize) {
        let Some(stranger) = self.strangers.get_mut(at).and_then(Option::as_mut) else { return };
        match stranger.hear() {
            Ok(None) => {}
            Ok(Some(Say::Hello(hello))) => {
                if let Some(stranger) = self.strangers[at].take() {
                    self.introduce(stranger, hello);
                }
            }
            // Whoever it is has no link: nobody here to be told.
            Ok(Some(_)) | Err(_) => self.strangers[at] = None,
        }
    }

    /// Finds out whose other end a stream is.
    fn introduce(&mut self, mut greeting: Box<Greeting>, hello: Hello) {
        let id = self.by_key.get(&hello.key).copied();
        let link = id.and_then(|id| self.links[usize::from(id.0)].as_deref());
        let fits = |link: &Link| {
            matches!(link.what.end, End::Accepts)
                && !matches!(link.state, State::Closed)
                && greeting.secure.peer_name() == Some(link.what.node.as_str())
        };
        let (Some(id), true) = (id, link.is_some_and(fits)) else {
            // The same words for a link that is not there and for one of another node: a stranger learns nothing.
            let _ = greeting.say(&Say::Refused("there is no such link for this node".into()));
            return;
        };
        if link.is_some_and(|link| matches!(link.state, State::Alarm(_) | State::Stream)) {
            self.fail(id, RemoteError::Anew);
        }
        self.let_go(id);
        let _ = deregister(&self.poll, &greeting.secure);
        if let Err(error) = register(&self.poll, &greeting.secure, usize::from(id.0)) {
            return self.fail(id, error.into());
        }
        (greeting.since_ns, greeting.heard) = (now_ns(), Some(hello));
        let Some(link) = self.links[usize::from(id.0)].as_deref_mut() else { return };
        link.state = State::Greeting(greeting);
        self.list(id);
    }

    /// Lets go of what carries a link; it goes on with the next.
    fn let_go(&mut self, id: LinkId) {
        let Some(link) = self.links.get_mut(usize::from(id.0)).and_then(Option::as_deref_mut) else { return };
        // A stream that is dropped leaves the poll by itself.
        link.tcp.disconnect();
        link.state = State::Idle { until_ns: u64::MAX };
        if let Some(meter) = &mut self.meter {
            meter.leave(id);
        }
        if let Ok(rdma) = &mut self.rdma {
            rdma.disconnect(id);
        }
    }

    #[cold]
    fn fail(&mut self, id: LinkId, error: RemoteError) {
        self.let_go(id);
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let random = self.random;
        let Some(link) = self.links[usize::from(id.0)].as_deref_mut() else { return };
        if error.is_lie() {
            link.state = State::Closed;
            self.news.push((id, News::Closed(error)));
            return;
        }
        if matches!(link.what.end, End::Connects(_)) {
            // Between half and all of the while, so that ends that broke together do not come back together.
            let while_ns = link.retry_ns / 2 + random % (link.retry_ns / 2);
            link.state = State::Idle { until_ns: now_ns() + while_ns };
            link.retry_ns = (link.retry_ns * 2).min(RETRY_NS_MAX);
        }
        self.due_ns = 0;
        self.news.push((id, News::Down(error)));
    }
}

impl Remote {
    /// Goes on with a link's stream.
    fn serve(&mut self, id: LinkId, inbox: &mut Inbox, outbox: &mut Outbox) -> Result<Served, RemoteError> {
        let Some(link) = self.links[usize::from(id.0)].as_deref_mut() else { return Ok(Served::Rests) };
        match &mut link.state {
            State::Idle { .. } | State::Closed => Ok(Served::Rests),
            State::Alarm(secure) => match secure.read(&mut [0]) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(Served::Rests),
                Err(error) => Err(error.into()),
                Ok(0) => Err(io::Error::from(ErrorKind::UnexpectedEof).into()),
                Ok(_) => Err(RemoteError::Unfit("it speaks out of turn".into())),
            },
            State::Stream => {
                // It says the same of what came and of what was not read yet: look again.
                let meter = self.meter.as_deref_mut().map(|meter| (meter, id));
                let more = link.tcp.carry_within(outbox.get_mut(id), inbox.get_mut(id), meter)?;
                let rests = inbox.get_mut(id).is_none_or(|inbound| link.tcp.rests(inbound));
                if more {
                    inbox.expect(id);
                    return Ok(Served::More);
                }
                Ok(if rests { Served::Rests } else { Served::Reads })
            }
            State::Greeting(_) => {
                if self.greet(id, inbox, outbox)? {
                    self.up(id)?;
                    return Ok(Served::More);
                }
                Ok(Served::Rests)
            }
        }
    }

    /// Goes on with meeting the other end; true when both have agreed.
    fn greet(&mut self, id: LinkId, inbox: &mut Inbox, outbox: &mut Outbox) -> Result<bool, RemoteError> {
        let Some(link) = self.links[usize::from(id.0)].as_deref_mut() else { return Ok(false) };
        let Link { what, state: State::Greeting(greeting), .. } = link else { return Ok(false) };
        let is_rdma = what.kind == RemoteKind::Rdma;
        let mut heard = greeting.heard.take();
        while heard.is_none() && !greeting.agreed {
            match greeting.hear()? {
                Some(Say::Hello(hello)) if greeting.connects => heard = Some(hello),
                Some(Say::Refused(why)) if greeting.connects => return Err(RemoteError::Refused(why)),
                Some(Say::Ready) if !greeting.connects && greeting.said && is_rdma => greeting.agreed = true,
                Some(_) => return Err(RemoteError::Unfit("it speaks out of turn".into())),
                None if greeting.connects && !greeting.said && greeting.secure.peer_name().is_some() => {
                    let hello = hello(id, what, &mut self.rdma, inbox, outbox)?;
                    greeting.said = true;
                    greeting.say(&Say::Hello(hello))?;
                }
                None => return Ok(false),
            }
        }
        if let Some(theirs) = heard {
            let fit = check(id, what, &theirs, inbox, outbox);
            if greeting.connects {
                fit?;
                if let (Ok(rdma), Some(end)) = (&mut self.rdma, &theirs.rdma) {
                    rdma.connect(id, outbox.get_mut(id), end)?;
                    greeting.say(&Say::Ready)?;
                }
                greeting.agreed = true;
            } else {
                let answer = fit.and_then(|()| {
                    let hello = hello(id, what, &mut self.rdma, inbox, outbox)?;
                    if let (Ok(rdma), Some(end)) = (&mut self.rdma, &theirs.rdma) {
                        rdma.connect(id, outbox.get_mut(id), end)?;
                    }
                    Ok(hello)
                });
                greeting.said = true;
                match answer {
                    Ok(hello) => greeting.say(&Say::Hello(hello))?,
                    Err(error) => {
                        greeting.say(&Say::Refused(error.to_string()))?;
                        return Err(error);
                    }
                }
                greeting.agreed = !is_rdma;
                if is_rdma {
                    // Its `Ready` may be there already, and no event would tell.
                    return self.greet(id, inbox, outbox);
                }
            }
        }
        greeting.flush()?;
        Ok(greeting.agreed && greeting.is_said())
    }

    /// Both ends have agreed: frames may go.
    fn up(&mut self, id: LinkId) -> Result<(), RemoteError> {
        let Some(link) = self.links[usize::from(id.0)].as_deref_mut() else { return Ok(()) };
        let State::Greeting(greeting) = std::mem::replace(&mut link.state, State::Stream) else {
            return Ok(());
        };
        link.retry_ns = RETRY_NS;
        match (link.what.kind, &mut self.rdma) {
            (RemoteKind::Rdma, Ok(rdma)) => {
                link.state = State::Alarm(Box::new(greeting.secure));
                rdma.start(id);
            }
            _ => link.tcp.connect(greeting.secure)?,
        }
        self.due_ns = 0;
        self.news.push((id, News::Up));
        Ok(())
    }
}

/// What this end says of a link.
fn hello(
    id: LinkId,
    what: &RemoteLink,
    rdma: &mut Result<Rdma, String>,
    inbox: &mut Inbox,
    outbox: &mut Outbox,
) -> Result<Hello, RemoteError> {
    let rdma = match (what.kind, rdma) {
        (RemoteKind::Tcp, _) => None,
        (RemoteKind::Rdma, Ok(rdma)) => Some(rdma.prepare(id, outbox.get_mut(id), inbox.get_mut(id))?),
        (RemoteKind::Rdma, Err(why)) => return Err(RemoteError::NoRdma(why.clone())),
    };
    let (in_ring_bytes, out_ring_bytes) = rings(id, inbox, outbox);
    Ok(Hello { version: REMOTE_VERSION, key: what.key, kind: what.kind, in_ring_bytes, out_ring_bytes, rdma })
}

/// The sizes of a link's rings at this end.
fn rings(id: LinkId, inbox: &mut Inbox, outbox: &mut Outbox) -> (u64, u64) {
    let incoming = inbox.get_mut(id).map_or(0, |link| link.reader().ring().capacity());
    let outgoing = outbox.get_mut(id).map_or(0, |link| link.writer().ring().capacity());
    (incoming as u64, outgoing as u64)
}

/// Whether the other end is what was agreed on.
fn check(
    id: LinkId,
    what: &RemoteLink,
    theirs: &Hello,
    inbox: &mut Inbox,
    outbox: &mut Outbox,
) -> Result<(), RemoteError> {
    let unfit = |text: String| Err(RemoteError::Unfit(text));
    if theirs.version != REMOTE_VERSION {
        return unfit(format!(
            "it speaks version {} of links between hosts, this is {REMOTE_VERSION}; run the same release on both",
            theirs.version
        ));
    }
    if theirs.key != what.key {
        return unfit("it means another link".into());
    }
    if theirs.kind != what.kind || theirs.rdma.is_some() != (what.kind == RemoteKind::Rdma) {
        return unfit(format!("its link is of kind {}, this one of kind {}", theirs.kind, what.kind));
    }
    let (in_ring, out_ring) = rings(id, inbox, outbox);
    if (theirs.out_ring_bytes, theirs.in_ring_bytes) != (in_ring, out_ring) {
        return unfit(format!(
            "its rings have {} bytes out and {} in, where this end has {in_ring} in and {out_ring} out",
            theirs.out_ring_bytes, theirs.in_ring_bytes
        ));
    }
    Ok(())
}

enum Served {
    /// Something came: look again in the next round.
    More,
    /// Look again when more of its frames were read.
    Reads,
    /// Nothing to do before its socket, or its owner, says so.
    Rests,
}

impl AsFd for Remote {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the poll's descriptor lives as long as the poll, which this borrow holds.
        unsafe { BorrowedFd::borrow_raw(self.poll.as_raw_fd()) }
    }
}

fn register(poll: &Poll, secure: &Secure, token: usize) -> io::Result<()> {
    let fd = secure.stream().as_raw_fd();
    SourceFd(&fd).register(poll.registry(), Token(token), Interest::READABLE | Interest::WRITABLE)
}

fn deregister(poll: &Poll, secure: &Secure) -> io::Result<()> {
    let fd = secure.stream().as_raw_fd();
    SourceFd(&fd).deregister(poll.registry())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wake::{Bell, create_bell};

    type Lie = fn(&mut Hello);

    #[test]
    fn an_end_that_does_not_fit_is_named() {
        let mut inbox = Inbox::new(Bell::map(&create_bell("bell").unwrap()).unwrap());
        let mut outbox = Outbox::new();
        let what = RemoteLink {
            key: LinkKey([1; 16]),
            kind: RemoteKind::Tcp,
            node: "right".into(),
            end: End::Accepts,
        };
        let honest = Hello {
            version: REMOTE_VERSION,
            key: what.key,
            kind: what.kind,
            in_ring_bytes: 0,
            out_ring_bytes: 0,
            rdma: None,
        };
        let mut why = |change: Lie| {
            let mut theirs = honest.clone();
            change(&mut theirs);
            check(LinkId(1), &what, &theirs, &mut inbox, &mut outbox).map_err(|error| error.to_string())
        };
        assert_eq!(why(|_| ()), Ok(()));
        let lies: [(Lie, &str); 5] = [
            (|hello| hello.version += 1, "speaks version 2"),
            (|hello| hello.key = LinkKey([2; 16]), "another link"),
            (|hello| hello.kind = RemoteKind::Rdma, "of kind rdma, this one of kind tcp"),
            (|hello| hello.in_ring_bytes = 4096, "its rings have 0 bytes out and 4096 in"),
            (|hello| hello.out_ring_bytes = u64::MAX, "its rings have"),
        ];
        for (lie, expected) in lies {
            let error = why(lie).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
