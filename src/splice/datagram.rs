//! UDP flows: a socket connected to the client and one connected to the target.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Interest, Registry};
use socket2::Socket;

use super::listen::Listener;
use super::stream::{CLIENT, TARGET};
use super::{Config, First, Namespaces};
use crate::base::{Counters, DropReason, Endpoint, Instant, Kind, Token};
use crate::flow::{Amount, Id, KeySecret, Ledger, Protocol, Ready, Sight, Slab, Table, Traffic, Via, View, Wheel};
use crate::fwd::Side;
use crate::sys::dgram::{self, Inbox};
use crate::sys::iov::Gather;
use crate::sys::sockets::{Bind, Transport, Wanted};
use crate::sys::{is_exhaustion, sockopt, watch};

/// All flows and listening sockets.
#[derive(Debug)]
pub struct Datagrams {
    registry: Registry,
    pub(super) flows: Table<Flow, Key>,
    pub(super) listeners: Slab<Listener>,
    ledger: Ledger,
    short: Duration,
    long: Duration,
    pub(super) inbox: Inbox,
    /// Sockets that may have more to read.
    pub(super) queue: VecDeque<Token>,
    /// Those that wait for memory of the host's.
    pub(super) starved: Vec<Token>,
    /// `UDP_SEGMENT` works, as far as is known.
    segments: bool,
    /// Datagrams to ask for in the next receive call.
    want: usize,
}

/// Whose datagrams belong together: the same pair of endpoints may exist in both namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    origin: Side,
    client: Endpoint,
    local: Endpoint,
}

#[derive(Debug)]
pub(super) struct Flow {
    /// Towards the client, and towards the target.
    pub(super) sockets: [Socket; 2],
    /// The target's port.
    service: u16,
    via: Via,
    /// Who sent last, and how often that changed since the first datagram.
    last_from: usize,
    turns: u8,
    born: Instant,
    pub(super) last_used: Instant,
    /// What each of them has sent.
    sent: [Amount; 2],
    /// In the run queue, or waiting for memory.
    pub(super) queued: [bool; 2],
}

/// A datagram of a client, not yet given to a flow.
#[derive(Debug)]
pub struct Stray {
    pub from: Endpoint,
    pub local: Endpoint,
    pub payload: Vec<u8>,
}

/// Datagrams read from one socket before others have their turn.
pub const BUDGET: usize = 256;
/// Slots of the receive batch.
pub const SLOTS: usize = 64;
const WANT_MIN: usize = 4;
/// Strays handled in one go; more arrive only from clients that send without waiting.
pub const STRAYS_MAX: usize = 4 * SLOTS;
/// A flow used both ways within this time does not make room for another.
const BUSY: Duration = Duration::from_secs(1);

impl Datagrams {
    pub fn new(registry: Registry, secret: KeySecret, config: &Config) -> Datagrams {
        Datagrams {
            registry,
            flows: Table::new(secret, config.udp_limit),
            listeners: Slab::default(),
            ledger: Ledger::default(),
            short: config.short,
            long: config.long,
            inbox: Inbox::new(SLOTS),
            queue: VecDeque::new(),
            starved: Vec::new(),
            segments: true,
            want: WANT_MIN,
        }
    }

    pub fn set_limit(&mut self, limit: usize) {
        self.flows.set_limit(limit);
    }

    pub fn has(&self, id: Id) -> bool {
        self.flows.contains(id)
    }

    pub fn len(&self) -> usize {
        self.flows.len()
    }

    pub fn views(&self, now: Instant) -> impl Iterator<Item = Sight<'_>> {
        self.flows.iter().map(move |(_, key, flow)| flow.view(key, now))
    }

    pub fn passed(&self, sums: &mut Ledger) {
        sums.add_living(&self.ledger, self.flows.iter().map(|(_, _, flow)| (flow.via, flow.passed())));
    }

    pub fn forget(&mut self, via: Via) {
        self.ledger.forget(via, self.flows.values_mut().map(|flow| &mut flow.via));
    }

    pub fn has_pending(&self) -> bool {
        !self.queue.is_empty()
    }

    /// A datagram that reached a listening socket. What reached the new flow's socket before that was connected is handled
    /// after it.
    pub fn first(
        &mut self,
        first: &First<'_>,
        namespaces: &mut Namespaces<'_>,
        now: Instant,
        timers: &mut Wheel,
        counters: &mut Counters,
    ) -> Result<(), DropReason> {
        let mut strays = Vec::new();
        let outcome = self.one(first, namespaces, &mut strays, now, timers);
        let mut at = 0;
        while at < strays.len().min(STRAYS_MAX) {
            let Stray { from, local, payload } = std::mem::replace(&mut strays[at], Stray::none(first));
            let next = First { from, local, payload: &payload, ..*first };
            if let Err(reason) = self.one(&next, namespaces, &mut strays, now, timers) {
                counters.drop(reason);
            }
            at += 1;
        }
        for _ in at..strays.len() {
            counters.drop(DropReason::FlowTableFull);
        }
        outcome.inspect_err(|reason| counters.drop(*reason))
    }

    fn one(
        &mut self,
        first: &First<'_>,
        namespaces: &mut Namespaces<'_>,
        strays: &mut Vec<Stray>,
        now: Instant,
        timers: &mut Wheel,
    ) -> Result<(), DropReason> {
        let key = Key { origin: first.origin, client: first.from, local: first.local };
        let id = match self.flows.find(&key) {
            Some(id) => id,
            None => self.open(key, first, namespaces, strays, now, timers)?,
        };
        self.touch(id, CLIENT, (1, first.payload.len()), now);
        let target = &self.flows.get(id).ok_or(DropReason::NoFlow)?.sockets[TARGET];
        send(target, first.payload)
    }

    /// An event of one of a flow's sockets; `side`: which.
    pub fn event(&mut self, side: usize, id: Id, ready: Ready, now: Instant, counters: &mut Counters) {
        if ready.readable || ready.error {
            self.pass_on(side, id, now, counters);
        }
    }

    /// A deadline of a flow came: it goes, or it was used and gets another.
    pub fn on_timer(&mut self, id: Id, now: Instant, timers: &mut Wheel) {
        let Some(flow) = self.flows.get(id) else { return };
        let end = flow.last_used + flow.timeout(self.short, self.long);
        if end > now {
            timers.arm(end, token(CLIENT, id));
        } else {
            self.close(id);
        }
    }

    /// A flow's socket that had used up its budget has another turn.
    pub fn resume(&mut self, side: usize, id: Id, now: Instant, counters: &mut Counters) {
        if let Some(flow) = self.flows.get_mut(id) {
            flow.queued[side] = false;
            self.pass_on(side, id, now, counters);
        }
    }

    pub fn register(&self, socket: &Socket, token: Token) -> io::Result<()> {
        watch::add(&self.registry, socket.as_raw_fd(), mio::Token(token.to_usize()), Interest::READABLE)
    }

    pub fn deregister(&self, socket: &Socket) {
        // Closing does that as well, unless there is a duplicate of the descriptor.
        let _ = self.registry.deregister(&mut SourceFd(&socket.as_raw_fd()));
    }

    fn open(
        &mut self,
        key: Key,
        first: &First<'_>,
        namespaces: &mut Namespaces<'_>,
        strays: &mut Vec<Stray>,
        now: Instant,
        timers: &mut Wheel,
    ) -> Result<Id, DropReason> {
        if self.flows.is_full() && !self.evict(true, now) {
            return Err(DropReason::FlowTableFull);
        }
        let mut made = pair(first, namespaces);
        if made.as_ref().is_err_and(is_exhaustion) && self.evict(false, now) {
            made = pair(first, namespaces);
        }
        let sockets =
            made.map_err(|e| if is_exhaustion(&e) { DropReason::HostResources } else { DropReason::HostSend })?;
        self.collect_strays(&sockets[CLIENT], first, strays);
        let id = self.flows.next_id();
        for side in [CLIENT, TARGET] {
            // A flow is served without it too.
            let _ = sockopt::set(sockets[side].as_fd(), libc::SOL_UDP, libc::UDP_GRO, 1);
            self.register(&sockets[side], token(side, id)).map_err(|_| DropReason::HostResources)?;
        }
        let flow = Flow {
            sockets,
            service: first.target.port,
            via: first.via,
            last_from: CLIENT,
            turns: 0,
            born: now,
            last_used: now,
            sent: Default::default(),
            queued: [false; 2],
        };
        timers.arm(now + flow.timeout(self.short, self.long), token(CLIENT, id));
        let id = self.flows.insert(key, flow).ok_or(DropReason::FlowTableFull)?;
        self.ledger.begin(first.via);
        Ok(id)
    }

    /// What reached the client's new socket between `bind` and `connect`, from whomever, was meant for the listening socket.
    fn collect_strays(&mut self, socket: &Socket, first: &First<'_>, strays: &mut Vec<Stray>) {
        while strays.len() < STRAYS_MAX {
            let Ok(n) = self.inbox.receive(socket.as_fd(), SLOTS, true) else { return };
            for i in 0..n {
                let from = self.inbox.meta(i).from.map_or(first.from, Endpoint::from);
                strays.push(Stray { from, local: first.local, payload: self.inbox.payload(i).to_vec() });
            }
            if n < SLOTS {
                return;
            }
        }
    }

    /// Reads one side's socket until it is empty or the budget is used up, and sends all on to the other.
    fn pass_on(&mut self, side: usize, id: Id, now: Instant, counters: &mut Counters) {
        let (mut left, mut starves) = (BUDGET, false);
        while left > 0 {
            let Some(flow) = self.flows.get(id) else { return };
            let (from, to) = (&flow.sockets[side], &flow.sockets[1 - side]);
            let want = self.want.min(left);
            match self.inbox.receive(from.as_fd(), want, false) {
                Ok(n) => {
                    forward(&self.inbox, to, n, &mut self.segments, counters);
                    let bytes = (0..n).map(|i| self.inbox.meta(i).len).sum();
                    self.touch(id, side, (n, bytes), now);
                    if n < want {
                        self.want = (n + 1).next_power_of_two().clamp(WANT_MIN, SLOTS);
                        return;
                    }
                    self.want = (want * 2).min(SLOTS);
                    left -= n;
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                Err(e) if is_exhaustion(&e) => {
                    starves = true;
                    break;
                }
                // Nobody listens at the other end, or the like. It is told once, and UDP has nobody to tell it to.
                Err(_) => left -= 1,
            }
        }
        if let Some(flow) = self.flows.get_mut(id)
            && !std::mem::replace(&mut flow.queued[side], true)
        {
            if starves { self.starved.push(token(side, id)) } else { self.queue.push_back(token(side, id)) }
        }
    }

    /// Removes the flow unused for longest, unless it is in use. `one_way`: or nobody has answered it, so that a flood of
    /// datagrams throws out itself.
    fn evict(&mut self, one_way: bool, now: Instant) -> bool {
        let Some(id) = self.flows.oldest() else { return false };
        let idle = self.flows.get(id).is_some_and(|f| now.since(f.last_used) >= BUSY || one_way && f.turns == 0);
        if idle {
            self.close(id);
        }
        idle
    }

    fn close(&mut self, id: Id) {
        if let Some((_, flow)) = self.flows.remove(id) {
            self.ledger.bytes(flow.via, flow.passed());
            flow.sockets.iter().for_each(|s| self.deregister(s));
        }
    }

    /// Moves the flow to the end of the order of use, but not for every datagram.
    fn touch(&mut self, id: Id, from: usize, (messages, bytes): (usize, usize), now: Instant) {
        if let Some(flow) = self.flows.get_mut(id) {
            flow.sent[from].add(messages, bytes);
            let stale = now.since(flow.last_used) > BUSY / 10;
            if from != flow.last_from {
                flow.last_from = from;
                flow.turns = flow.turns.saturating_add(1);
            }
            flow.last_used = now;
            if stale {
                self.flows.touch(id);
            }
        }
    }
}

impl Flow {
    fn view(&self, key: &Key, now: Instant) -> Sight<'_> {
        let state = match self.turns {
            0 => "one-way",
            1 => "answered",
            _ => "both-ways",
        };
        let view = View {
            by_guest: key.origin == Side::Guest,
            traffic: Traffic { from_guest: self.sent[CLIENT], to_guest: self.sent[TARGET] },
            waits_for: self.queued.contains(&true).then_some("turn"),
            ..View::new(Protocol::UdpSplice, (key.client, key.local), (self.born, self.last_used), state, now)
        };
        Sight { view, host: Some(&self.sockets[TARGET]), client: None }
    }

    /// To the target, and back.
    fn passed(&self) -> (u64, u64) {
        (self.sent[CLIENT].bytes, self.sent[TARGET].bytes)
    }

    /// How long the flow lives without a datagram; see the module's theory of operation.
    fn timeout(&self, short: Duration, long: Duration) -> Duration {
        // There and back and there again: a second exchange.
        if self.turns < 2 && self.service < 1024 { short } else { long }
    }
}

impl Stray {
    fn none(first: &First<'_>) -> Stray {
        Stray { from: first.from, local: first.local, payload: Vec::new() }
    }
}

pub(super) fn token(side: usize, id: Id) -> Token {
    let kind = if side == CLIENT { Kind::SpliceUdpClient } else { Kind::SpliceUdpTarget };
    Token::new(kind, id.index, id.generation)
}

/// A socket that answers the client from where it sent to, and one to the target.
fn pair(first: &First<'_>, namespaces: &mut Namespaces<'_>) -> io::Result<[Socket; 2]> {
    let (ours, theirs) = namespaces.of(first.origin);
    let wanted = |at: Endpoint, bind| Wanted { transport: Transport::Udp, family: at.addr.family(), bind };
    let client = ours.make(&wanted(first.from, Some(Bind { only_v6: true, ..Bind::to(first.local) })))?;
    dgram::connect(&client, first.from.to_std_scoped(0), 0)?;
    let target = theirs.make(&wanted(first.target, None))?;
    dgram::connect(&target, first.target.to_std_scoped(first.scope), first.scope)?;
    Ok([client, target])
}

/// One datagram. An error of an earlier one may be pending, and is cleared by telling us.
fn send(to: &Socket, payload: &[u8]) -> Result<(), DropReason> {
    let once = || dgram::send(to.as_fd(), &[Gather::new(payload)], 0);
    match once() {
        Err(e) if e.kind() == ErrorKind::ConnectionRefused => once(),
        other => other,
    }
    .map_err(|_| DropReason::HostSend)
}

/// Sends the first `n` received buffers; what the socket does not take is dropped: UDP has no other answer.
fn forward(inbox: &Inbox, to: &Socket, n: usize, segments: &mut bool, counters: &mut Counters) {
    let mut at = 0;
    let mut retried = false;
    while at < n {
        let meta = inbox.meta(at);
        let coalesced = meta.segment != 0 && meta.len > usize::from(meta.segment);
        if coalesced && !*segments {
            for datagram in inbox.payload(at).chunks(meta.segment.into()) {
                send(to, datagram).unwrap_or_else(|reason| counters.drop(reason));
            }
            at += 1;
            continue;
        }
        match inbox.forward(to.as_fd(), at..n, *segments) {
            Ok(sent) => (at, retried) = (at + sent, false),
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                (at..n).for_each(|_| counters.drop(DropReason::HostSend));
                return;
            }
            Err(_) if !retried => retried = true,
            // No checksum offload on the way, or a segment above the path MTU (udp(7)).
            Err(e) if *segments && matches!(e.raw_os_error(), Some(libc::EINVAL | libc::EIO | libc::EMSGSIZE)) => {
                *segments = false;
            }
            Err(_) => {
                counters.drop(DropReason::HostSend);
                (at, retried) = (at + 1, false);
            }
        }
    }
}
