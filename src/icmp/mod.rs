//! Echo through the host's ping sockets (`SOCK_DGRAM`, `IPPROTO_ICMP`): a reply comes only if the host got one.
//!
//! # Goals
//! `ping`, `traceroute -I` and `ping` to a dead host say in the guest what they would say on the host. Nothing is forged:
//! sequence, payload, TTL and TOS pass through both ways; the identifier does on the wire when no other ping socket of
//! the host has it, and is mapped back in any case. Errors about a request reach the guest from who reported them,
//! quoting the request as the guest wrote it.
//!
//! # Flows
//! One socket per family, guest source, destination and identifier, connected to the destination
//! [`crate::fwd::Nat::address_to_host`] names. The kernel does not compare the sender of a reply with the address a ping
//! socket is connected to: this is done here, except for groups, where everybody may answer.
//!
//! # Timers
//! A flow lives [`Config::timeout`] (60 s, RFC 5508 REQ-1 asks for at least that) after its last packet; the deadline is
//! re-armed lazily. A full table or a lack of descriptors removes the flow unused for longest.
//!
//! # Paths
//! From the guest: one `sendmsg` of header and pieces. To the guest: `recvmmsg` into slots with headroom, the identifier
//! put back, a full checksum (ICMP has no offload), fragments above the MTU.
//!
//! # Limits
//! Echo requests only (RFC 792, RFC 4443 §4); other types are counted and dropped. Who may open ping sockets is a setting
//! of the host (`net.ipv4.ping_group_range`, for both families).
//!
//! System calls: socket, setsockopt, getsockopt (path MTU), bind, connect (one socket a flow), epoll_ctl, sendmsg (to the
//! host), recvmmsg (replies), recvmsg (error queue), close.

mod audit;
mod flow;
mod to_guest;
mod view;

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use arrayvec::ArrayVec;
use mio::unix::SourceFd;
use mio::{Interest, Registry};

use crate::base::{Addr, Counters, DropReason, Endpoint, Kind, RateLimit, Token};
use crate::flow::{FlowKey, Id, KeySecret, Pending, Ready, Table, Wheel};
use crate::fwd::Outbound;
use crate::guest::{Facts, Frame, IcmpErrors, SentHeader, ToGuest, send_fields};
use crate::sys::dgram::{self, Inbox};
use crate::sys::errqueue::QUOTE_MAX;
use crate::sys::fields::path_mtu;
use crate::sys::iov::Gather;
use crate::sys::{is_exhaustion, socket, watch};
use crate::wire::icmp::{ECHO_V4, ECHO_V6, ICMP_LEN, quote_max};
use crate::wire::{Packet, Transport};

use flow::Flow;

/// What the engine is told once.
#[derive(Clone, Debug)]
pub struct Config {
    /// Flows at most; each needs a descriptor.
    pub limit: usize,
    /// Life of an idle flow.
    pub timeout: Duration,
    pub outbound: Outbound,
}

impl Default for Config {
    fn default() -> Self {
        Config { limit: 1024, timeout: Duration::from_secs(60), outbound: Outbound::default() }
    }
}

/// The engine: all echo flows.
pub struct Icmp {
    registry: Registry,
    config: Config,
    table: Table<Flow>,
    inbox: Inbox,
    errors: IcmpErrors,
    /// What came back of a request, and the same as the guest wrote it.
    quote: Box<[u8; QUOTE_MAX]>,
    original: Vec<u8>,
    scratch: Vec<u8>,
    fragment_id: u32,
    /// Flows that may have more to read.
    queue: VecDeque<Id>,
    /// Those for whose replies the host had no memory.
    starved: Vec<Id>,
    link_full: bool,
    hint: RateLimit,
    counters: Counters,
}

/// Replies read from one socket before others have their turn.
const BUDGET: usize = 32;
const SLOTS: usize = 8;

impl Icmp {
    /// `registry`: of the poll that delivers events with tokens of kind `Icmp`.
    pub fn new(registry: Registry, secret: KeySecret, config: Config) -> Icmp {
        let nobody = Endpoint::new(Addr::V4_UNSPECIFIED, 0);
        let fragment_id = secret.hash(&FlowKey { guest: nobody, remote: nobody }) as u32;
        Icmp {
            registry,
            table: Table::new(secret, config.limit),
            config,
            inbox: Inbox::new(SLOTS),
            errors: IcmpErrors::default(),
            quote: Box::new([0; QUOTE_MAX]),
            original: Vec::new(),
            scratch: Vec::new(),
            fragment_id,
            queue: VecDeque::new(),
            starved: Vec::new(),
            link_full: false,
            hint: RateLimit::every(Duration::from_secs(60), 1),
            counters: Counters::default(),
        }
    }

    /// An ICMP message of the guest that the gateway did not claim; its checksum has been verified.
    ///
    /// # Errors
    /// Why it was not forwarded; the caller counts it.
    pub fn from_guest(
        &mut self,
        packet: &Packet,
        frame: &Frame<'_>,
        facts: &Facts<'_>,
        link: &mut dyn ToGuest,
        timers: &mut Wheel,
    ) -> Result<(), DropReason> {
        let Transport::Icmp(header) = packet.transport else { return Err(DropReason::Protocol) };
        if header.kind != (if packet.src.is_v4() { ECHO_V4 } else { ECHO_V6 }) || header.code != 0 {
            return Err(DropReason::IcmpType);
        }
        if !packet.src.is_unicast() {
            return Err(DropReason::SourceAddress);
        }
        let mut small = Vec::new();
        let &[i0, i1, s0, s1] = frame.contiguous(packet.payload, packet.payload_len.min(4), &mut small) else {
            return Err(DropReason::TransportHeader);
        };
        let identifier = u16::from_be_bytes([i0, i1]);
        let key =
            FlowKey { guest: Endpoint::new(packet.src, identifier), remote: Endpoint::new(packet.dst, identifier) };
        let id = match self.table.find(&key) {
            Some(id) => id,
            None => self.open(&key, packet, frame, facts, link, timers)?,
        };
        self.table.touch(id);
        let flow = self.table.get_mut(id).ok_or(DropReason::NoFlow)?;
        flow.last_used = facts.now;
        let body_len = packet.payload_len - 4;
        flow.traffic.from_guest.add(1, body_len);
        let fields = send_fields(packet, packet.payload + packet.payload_len - packet.l3, flow.fields.as_ref());
        if flow.fields != Some(fields) {
            // A refused TOS or TTL is not worth the request.
            let _ = fields.apply(flow.socket.as_fd(), packet.src.is_v4(), flow.fields.as_ref());
            flow.fields = Some(fields);
        }
        let checksum = &frame.head[packet.l4 + 2..packet.l4 + 4];
        let l4 = [header.kind, 0, checksum[0], checksum[1], i0, i1, s0, s1];
        flow.sent = Some(SentHeader::new(packet, frame.head, l4, body_len, frame.offload.csum));
        self.send(id, l4, &frame.pieces(packet.payload + 4, body_len), facts, link)
    }

    /// An event of a flow's socket: errors first, then replies.
    pub fn from_host(&mut self, id: Id, ready: Ready, facts: &Facts<'_>, link: &mut dyn ToGuest) {
        if ready.error {
            self.drain_errors(id, facts, link);
        }
        if ready.readable || ready.error {
            self.read(id, facts, link);
        }
    }

    /// A deadline of a flow came: it goes, or it was used and gets another.
    pub fn on_timer(&mut self, id: Id, facts: &Facts<'_>, timers: &mut Wheel) {
        let Some(flow) = self.table.get(id) else { return };
        let end = flow.last_used + self.config.timeout;
        if end > facts.now {
            timers.arm(end, token(id));
        } else {
            self.close(id);
        }
    }

    /// Whether, and when, to call [`Icmp::resume`].
    pub fn pending(&self) -> Pending {
        Pending::of(!self.queue.is_empty(), self.link_full)
    }

    /// True if [`Icmp::retry`] is to be called after a while: no event tells when the kernel has memory again.
    pub fn is_starved(&self) -> bool {
        !self.starved.is_empty()
    }

    /// The host may have memory again: sockets that wait for it are pending now.
    pub fn retry(&mut self) {
        self.queue.extend(self.starved.drain(..));
    }

    /// Goes on with sockets that used up their budget or met a full link: one turn each.
    pub fn resume(&mut self, facts: &Facts<'_>, link: &mut dyn ToGuest) {
        self.link_full = false;
        for _ in 0..self.queue.len() {
            if self.link_full {
                break;
            }
            let Some(id) = self.queue.pop_front() else { break };
            if let Some(flow) = self.table.get_mut(id) {
                flow.queued = false;
                self.read(id, facts, link);
            }
        }
    }

    /// For sockets that are opened from now on.
    pub fn set_outbound(&mut self, outbound: Outbound) {
        self.config.outbound = outbound;
        let scope = self.config.outbound.scope;
        for (_, _, flow) in self.table.iter() {
            flow.renew_source(scope);
        }
    }

    /// Flows there may be from now on; those beyond stay.
    pub fn set_limit(&mut self, limit: usize) {
        self.table.set_limit(limit);
    }

    /// Frames to the guest, and replies lost on the way to it.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Flows there are.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    pub fn has(&self, id: Id) -> bool {
        self.table.contains(id)
    }

    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    fn open(
        &mut self,
        key: &FlowKey,
        packet: &Packet,
        frame: &Frame<'_>,
        facts: &Facts<'_>,
        link: &mut dyn ToGuest,
        timers: &mut Wheel,
    ) -> Result<Id, DropReason> {
        if self.table.is_full() && !self.evict() {
            return Err(DropReason::FlowTableFull);
        }
        let target = facts.nat.address_to_host(key.remote.addr);
        let mut opened = flow::open(key.guest.port, target, &self.config.outbound);
        if opened.as_ref().is_err_and(out_of_resources) && self.evict() {
            opened = flow::open(key.guest.port, target, &self.config.outbound);
        }
        let socket = match opened {
            Ok(socket) => socket,
            Err(flow::OpenError::Forbidden) => {
                if self.hint.allow(facts.now) {
                    log::warn!(
                        "ping from the guest dropped: this host does not let this user's groups open ping sockets. \
                         To allow it: sysctl -w net.ipv4.ping_group_range=\"0 2147483647\""
                    );
                }
                return Err(DropReason::HostSend);
            }
            Err(e) if out_of_resources(&e) => return Err(DropReason::HostResources),
            Err(flow::OpenError::Io(e)) => {
                let mut scratch = Vec::new();
                let original = frame.quote(packet, &mut scratch);
                let ends = (key.remote.addr, key.guest.addr);
                self.errors.refused(&e, || None, ends, original, facts, link);
                return Err(DropReason::HostSend);
            }
        };
        let flow = Flow::new(socket, target, facts.now);
        let token = token(self.table.next_id());
        watch::add(&self.registry, flow.socket.as_raw_fd(), mio::Token(token.to_usize()), Interest::READABLE)
            .map_err(|_| DropReason::HostResources)?;
        let id = self.table.insert(*key, flow).ok_or(DropReason::FlowTableFull)?;
        timers.arm(facts.now + self.config.timeout, token);
        Ok(id)
    }

    fn send(
        &mut self,
        id: Id,
        l4: [u8; ICMP_LEN],
        body: &[Gather<'_>],
        facts: &Facts<'_>,
        link: &mut dyn ToGuest,
    ) -> Result<(), DropReason> {
        // The kernel puts in its identifier and checksum.
        let mut pieces: ArrayVec<Gather<'_>, 24> = ArrayVec::new();
        pieces.push(Gather::new(&l4));
        pieces.try_extend_from_slice(body).map_err(|_| DropReason::FrameLength)?;
        for attempt in 0..3 {
            let Some((flow, key)) = self.table.get(id).zip(self.table.key(id)) else { break };
            let Err(e) = dgram::send(flow.socket.as_fd(), &pieces, 0) else { return Ok(()) };
            if attempt == 0 && e.kind() != io::ErrorKind::WouldBlock {
                // Perhaps an error about an earlier request, cleared by telling us; if not, it comes again.
                self.drain_errors(id, facts, link);
                continue;
            }
            if attempt == 1 && socket::is_of_source(&e) && flow.renew_source(self.config.outbound.scope) {
                continue;
            }
            let mut copy = Vec::new();
            body.iter().for_each(|p| p.first(quote_max(key.guest.addr.family()) - copy.len()).copy_to(&mut copy));
            if let Some(sent) = &flow.sent {
                sent.quote(&mut self.original, None, &copy, false);
                let mtu = || path_mtu(flow.socket.as_fd(), key.remote.addr.is_v4()).ok();
                let ends = (key.remote.addr, key.guest.addr);
                self.errors.refused(&e, mtu, ends, &self.original, facts, link);
            }
            break;
        }
        Err(DropReason::HostSend)
    }

    /// Removes the flow unused for longest: all it can lose is the answer to one request.
    fn evict(&mut self) -> bool {
        let oldest = self.table.oldest();
        if let Some(id) = oldest {
            self.close(id);
        }
        oldest.is_some()
    }

    fn close(&mut self, id: Id) {
        if let Some((_, flow)) = self.table.remove(id) {
            // Closing removes it from epoll as well; only a duplicate of the descriptor would keep it there.
            let _ = self.registry.deregister(&mut SourceFd(&flow.socket.as_raw_fd()));
        }
    }
}

fn token(id: Id) -> Token {
    Token::new(Kind::Icmp, id.index, id.generation)
}

fn out_of_resources(e: &flow::OpenError) -> bool {
    match e {
        flow::OpenError::Forbidden => false,
        flow::OpenError::Io(e) => is_exhaustion(e),
    }
}
