//! UDP: one connected host socket per flow of the guest.
//!
//! # Goals
//! Datagrams arrive as they were sent: boundaries, source port, TTL, TOS with ECN, don't-fragment. Errors of the host's
//! network reach the guest as the ICMP messages a router would have sent, so that traceroute, tracepath and "port
//! unreachable" work. Small packets are cheap: system calls are shared by batches both ways.
//!
//! # Flows
//! The key is the pair of endpoints in the guest's packets. A flow begins with the first datagram of either side:
//! * from the guest ([`Udp::from_guest`]): a socket bound to the guest's source port if that is free (64 flows share
//!   it at most), else to one of the kernel's choice, connected to the target that [`crate::fwd::Nat`] names;
//! * from the host ([`Udp::from_listener`]): a socket bound to the address and port the peer sent to, connected to the
//!   peer, so that the guest's answer comes from where the peer expects it. The kernel prefers it to the listening socket
//!   from then on; what reached either socket in between is handed on, none lost, but not always in order.
//!
//! Datagrams of clients on the host's loopback may be another engine's, which answers them without the link: those that
//! [`Config::hand_back`] names are read here and handed back ([`Udp::handed_back`]), and no flow begins.
//!
//! A listening socket shares its port only while a flow of ours binds the same one: for the rest of its life nobody else
//! can bind to it, neither another instance nor a thief.
//!
//! Between `bind` and `connect` a socket hears everybody; what came then to a flow the guest began is thrown away.
//!
//! # Timers
//! One deadline per flow, re-armed lazily when it fires. RFC 4787 REQ-5 wants mappings to live two minutes at least,
//! shorter only for well-known ports. So: a flow to a port below 1024 (DNS, NTP) with less than a second exchange lives
//! `short` (30 s as Linux's conntrack has it), all others `long` (120 s); traffic of either side prolongs (REQ-6 asks for
//! outbound; inbound too is what conntrack does). A full table or a lack of descriptors removes the flow unused for
//! longest, unless that was in use within the last second: then the newcomer is refused. Of a full table a flow that
//! nobody has answered goes in any case, so that a flood throws out itself.
//!
//! # From the guest
//! Small datagrams of one flow are staged and leave at [`Udp::flush`] or when another flow, other header fields or a
//! large datagram come: equal sizes in a row as one `UDP_SEGMENT` send, all runs in one `sendmmsg`. Large datagrams and
//! USO frames go straight from the frame's memory. Where the kernel refuses `UDP_SEGMENT` (device without checksum
//! offload, segment above the path MTU) datagrams go one by one. What a socket's full buffer refuses is dropped and
//! counted: UDP has no other answer.
//!
//! Don't-fragment is honoured (`IP_PMTUDISC_DO`): the guest learns the path MTU as from a router (RFC 1191, RFC 8201).
//! Two exceptions, where the host fragments: packets the guest fragmented itself, and packets above 1500 bytes with an
//! ordinary TTL, which guests send without a thought when their link MTU is 65520, and would lose.
//!
//! Broadcast and multicast leave as the routing table says; copies for listeners on the host are left on
//! (`IP_MULTICAST_LOOP`), but listening sockets of ours do not take groups that others joined, so nothing comes back.
//!
//! # To the guest
//! Readable socket: `recvmmsg` into private slots with room for headers in front, each sent as one contiguous frame; when
//! buffers become large, straight into areas of the link. `UDP_GRO` is on where the link takes USO: a coalesced buffer is
//! one frame. Datagrams above the MTU are fragmented. A flow yields after 256 datagrams and goes on in
//! [`Udp::resume`]; so it does when the link is full, and what was read and not taken is counted as dropped.
//!
//! # Limits
//! Flows: the table's limit. Memory: about 300 bytes a flow beside the kernel's socket; 64 slots of 64 KiB, touched only as far
//! as datagrams reach; what is handed back, 1280 datagrams a turn at most. Replies to multicast from other addresses than the group are not recognised (RFC 4787 §5 filtering).
//! A listening port below `ip_unprivileged_port_start` needs CAP_NET_BIND_SERVICE kept, for its flows bind it again.
//!
//! System calls: socket, setsockopt, getsockopt (path MTU), bind, connect (one socket a flow), getsockname, fcntl
//! (listening sockets, once), epoll_ctl (registration), sendmsg, sendmmsg (to the host), recvmmsg (from the host), recvmsg
//! (error queue), close.

mod audit;
mod errors;
mod flow;
mod from_guest;
mod from_host;
mod listen;
mod moving;
mod sources;
mod stage;
mod to_guest;
mod view;

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Interest, Registry};
use socket2::Socket;

use crate::base::{Addr, Counters, DropReason, Endpoint, Kind, Token};
use crate::flow::{FlowKey, Id, KeySecret, Ledger, Pending, Ready, Slab, Table, Wheel};
use crate::fwd::Outbound;
use crate::guest::{Facts, Frame, ToGuest};
use crate::sys::errqueue::HostError;
use crate::sys::{is_exhaustion, sockopt, watch};
use crate::wire::{Packet, Transport};

use errors::Relay;
use flow::{Flow, Side};
use listen::Listener;
pub use listen::{HandedBack, Rule};
pub use moving::Moving;
use stage::Stage;
use to_guest::Framer;

/// What the engine is told once.
#[derive(Clone, Debug)]
pub struct Config {
    /// Flows at most; each needs a descriptor.
    pub limit: usize,
    /// Life of an idle flow without a second exchange, to a well-known port (`nf_conntrack_udp_timeout`).
    pub short: Duration,
    /// Life of any other idle flow (`nf_conntrack_udp_timeout_stream`).
    pub long: Duration,
    pub outbound: Outbound,
    /// Clients of listening sockets that are another engine's: see [`Udp::handed_back`].
    pub hand_back: HandBack,
    /// Held while a flow's socket is bound and not connected: until then it keeps its port for itself, and another worker's flow
    /// of the same port of the guest would get another one.
    pub binding: Arc<Mutex<()>>,
}

/// Whose datagrams are not for the link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HandBack {
    #[default]
    Nobody,
    /// Clients on the host's loopback.
    Loopback,
    /// There is no link.
    Everybody,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            limit: 4096,
            short: Duration::from_secs(30),
            long: Duration::from_secs(120),
            outbound: Outbound::default(),
            hand_back: HandBack::Nobody,
            binding: Arc::default(),
        }
    }
}

/// The engine: all UDP flows and listening sockets.
pub struct Udp {
    registry: Registry,
    config: Config,
    table: Table<Flow>,
    /// How many flows each port of the guest has.
    guest_ports: HashMap<u16, u32>,
    listeners: Slab<Listener>,
    /// By the port they are bound to.
    listening: HashMap<u16, Vec<Id>>,
    ledger: Ledger,
    stage: Stage,
    framer: Framer,
    relay: Relay,
    handed_back: Vec<HandedBack>,
    /// Tokens of sockets that may have more to read.
    queue: VecDeque<Token>,
    /// Those that wait for memory of the host's.
    starved: Vec<Token>,
    /// Reading stopped for want of room in the link.
    link_full: bool,
    /// `UDP_SEGMENT` works, as far as is known.
    segments: bool,
    /// Datagrams to ask for in the next receive call.
    want: usize,
    counters: Counters,
}

/// Datagrams read from one socket before others have their turn.
const BUDGET: usize = 256;
/// Slots of the receive batch.
const SLOTS: usize = 64;
const WANT_MIN: usize = 4;
/// Flows of one worker that share one source port on the host: each bind to it walks all sockets of the port (`udp_lib_get_port`; at
/// 10,000 it takes longer than a millisecond), as each datagram that arrives does before Linux 6.13.
const SHARERS_MAX: u32 = 512;
/// A flow used both ways within this time does not make room for another.
const BUSY: Duration = Duration::from_secs(1);
/// A buffer that is worth an area of the link.
const LARGE: usize = 16 * 1024;

impl Udp {
    /// `registry`: of the poll that delivers events with tokens of kind `Udp` and `ListenUdp`.
    pub fn new(registry: Registry, secret: KeySecret, config: Config) -> Udp {
        // Not to be guessed (RFC 7739), as the secret is not.
        let nobody = Endpoint::new(Addr::V6_UNSPECIFIED, 0);
        let fragment_id = secret.hash(&FlowKey { guest: nobody, remote: nobody }) as u32;
        Udp {
            registry,
            table: Table::new(secret, config.limit),
            guest_ports: HashMap::new(),
            config,
            listeners: Slab::default(),
            listening: HashMap::new(),
            ledger: Ledger::default(),
            stage: Stage::default(),
            framer: Framer::new(SLOTS, fragment_id),
            relay: Relay::default(),
            handed_back: Vec::new(),
            queue: VecDeque::new(),
            starved: Vec::new(),
            link_full: false,
            segments: true,
            want: WANT_MIN,
            counters: Counters::default(),
        }
    }

    /// One datagram of the guest, or a USO frame; its checksum has been verified. Call [`Udp::flush`] after the batch.
    ///
    /// # Errors
    /// Why the frame was not forwarded; the caller counts it.
    pub fn from_guest(
        &mut self,
        packet: &Packet,
        frame: &Frame<'_>,
        facts: &Facts<'_>,
        link: &mut dyn ToGuest,
        timers: &mut Wheel,
    ) -> Result<(), DropReason> {
        let Transport::Udp(udp) = packet.transport else { return Err(DropReason::Protocol) };
        if udp.src_port == 0 || udp.dst_port == 0 {
            return Err(DropReason::PortZero);
        }
        if !packet.src.is_unicast() {
            return Err(DropReason::SourceAddress);
        }
        let key =
            FlowKey { guest: Endpoint::new(packet.src, udp.src_port), remote: Endpoint::new(packet.dst, udp.dst_port) };
        let id = match self.table.find(&key) {
            Some(id) => id,
            None => self.open(&key, packet, frame, facts, link, timers)?,
        };
        self.forward(id, packet, frame, facts, link)
    }

    /// Sends what [`Udp::from_guest`] has staged.
    pub fn flush(&mut self, facts: &Facts<'_>, link: &mut dyn ToGuest) {
        if let Some(id) = self.stage.flow {
            self.send_staged(id, facts, link);
            self.stage.clear();
        }
    }

    /// An event of a flow's socket: errors first, then datagrams until there are no more or the budget is used up.
    pub fn from_host(&mut self, id: Id, ready: Ready, facts: &Facts<'_>, link: &mut dyn ToGuest) {
        let Some((flow, key)) = self.table.get(id).zip(self.table.key(id)) else { return };
        if ready.error {
            self.relay.drain(flow, key, facts, link);
        }
        if ready.readable || ready.error {
            self.read(id, facts, link);
        }
    }

    /// As if the host had reported this error about what a flow has sent, and `quote` had come back with it. For tests.
    pub fn report(&mut self, key: &FlowKey, e: (&HostError, &[u8]), facts: &Facts<'_>, link: &mut dyn ToGuest) {
        if let Some(flow) = self.table.find(key).and_then(|id| self.table.get(id)) {
            self.relay.report(e, flow, key, facts, link);
        }
    }

    /// A deadline of a flow came: it goes, or it was used and gets another.
    pub fn on_timer(&mut self, id: Id, facts: &Facts<'_>, timers: &mut Wheel) {
        let Some((flow, key)) = self.table.get(id).zip(self.table.key(id)) else { return };
        let end = flow.last_used + flow.timeout(key, self.config.short, self.config.long);
        if end > facts.now || self.stage.flow == Some(id) {
            timers.arm(end, token(id));
        } else {
            self.close(id);
        }
    }

    /// Takes over a bound UDP socket that waits for datagrams to hand to the guest; events come with the kind `ListenUdp`
    /// and the returned id.
    ///
    /// # Errors
    /// The kernel's.
    pub fn listen(&mut self, socket: Socket, rule: Rule) -> io::Result<Id> {
        let id = self.listeners.next_id();
        let listener = Listener::new(socket, rule)?;
        let token = mio::Token(Token::new(Kind::ListenUdp, id.index, id.generation).to_usize());
        watch::add(&self.registry, listener.socket.as_raw_fd(), token, Interest::READABLE)?;
        self.listening.entry(listener.port).or_default().push(id);
        Ok(self.listeners.insert(listener))
    }

    /// Closes a listening socket; flows that began there live on. Returns its port on the host and the guest's.
    pub fn unlisten(&mut self, id: Id) -> Option<[u16; 2]> {
        let listener = self.listeners.remove(id)?;
        if let Entry::Occupied(mut ids) = self.listening.entry(listener.port) {
            ids.get_mut().retain(|other| *other != id);
            if ids.get().is_empty() {
                ids.remove();
            }
        }
        let _ = self.registry.deregister(&mut SourceFd(&listener.socket.as_raw_fd()));
        Some([listener.port, listener.rule.guest_port])
    }

    /// An event of a listening socket.
    pub fn from_listener(
        &mut self,
        id: Id,
        ready: Ready,
        facts: &Facts<'_>,
        link: &mut dyn ToGuest,
        timers: &mut Wheel,
    ) {
        // One that has not been read to its end yet waits for its turn: others may be before it.
        let waits = !self.link_full && self.listeners.get(id).is_none_or(|l| l.queued);
        if !waits && (ready.readable || ready.error) {
            self.accept(id, facts, link, timers);
        }
    }

    /// Datagrams that the last calls of [`Udp::from_listener`] and [`Udp::resume`] found to be another engine's.
    pub fn handed_back(&mut self) -> Vec<HandedBack> {
        std::mem::take(&mut self.handed_back)
    }

    /// For sockets that are opened from now on.
    pub fn set_outbound(&mut self, outbound: Outbound) {
        self.config.outbound = outbound;
        self.renew_sources();
    }

    /// Flows there may be from now on; those beyond stay.
    pub fn set_limit(&mut self, limit: usize) {
        self.table.set_limit(limit);
    }

    /// Whether, and when, to call [`Udp::resume`].
    pub fn pending(&self) -> Pending {
        Pending::of(!self.queue.is_empty(), self.link_full)
    }

    /// True if [`Udp::retry`] is to be called after a while: the kernel has had no memory to give us what is there, and no event
    /// tells when it has.
    pub fn is_starved(&self) -> bool {
        !self.starved.is_empty()
    }

    /// The host may have memory again: sockets that wait for it are pending now.
    pub fn retry(&mut self) {
        self.queue.extend(self.starved.drain(..));
    }

    /// Goes on with sockets that used up their budget or met a full link: one turn each.
    pub fn resume(&mut self, facts: &Facts<'_>, link: &mut dyn ToGuest, timers: &mut Wheel) {
        self.link_full = false;
        for _ in 0..self.queue.len() {
            if self.link_full || self.has_handed_back_enough() {
                break;
            }
            let Some(token) = self.queue.pop_front() else { break };
            let id = Id { index: token.index, generation: token.generation };
            if token.kind == Kind::ListenUdp {
                if let Some(l) = self.listeners.get_mut(id) {
                    l.queued = false;
                }
                self.accept(id, facts, link, timers);
            } else if let Some(flow) = self.table.get_mut(id) {
                flow.queued = false;
                self.read(id, facts, link);
            }
        }
    }

    /// Frames to the guest, and datagrams lost after [`Udp::from_guest`] had accepted them or on the way from the host.
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
        // The flow that makes room may be the one staged.
        self.flush(facts, link);
        let target = facts.nat.to_host(key.remote);
        self.make_room(facts)?;
        let sharers = self.guest_ports.get(&key.guest.port).copied().unwrap_or(0);
        let port = if sharers < SHARERS_MAX { key.guest.port } else { 0 };
        let mut opened = self.sharing(port, || flow::open(port, target, &self.config.outbound, &self.config.binding));
        if opened.as_ref().is_err_and(is_exhaustion) && self.evict(false, facts) {
            opened = self.sharing(port, || flow::open(port, target, &self.config.outbound, &self.config.binding));
        }
        let socket = match opened {
            Ok(socket) => socket,
            Err(e) if is_exhaustion(&e) => return Err(DropReason::HostResources),
            Err(e) => {
                let mut scratch = Vec::new();
                let original = frame.quote(packet, &mut scratch);
                self.relay.refused_flow(&e, key, original, facts, link);
                return Err(DropReason::HostSend);
            }
        };
        // What came before the socket was connected may be from anybody.
        while self.framer.inbox.receive(socket.as_fd(), SLOTS, false).is_ok_and(|n| n == SLOTS) {}
        let flow = Flow::new(socket, target, Side::Guest, facts.now);
        self.insert(*key, flow, link.caps().uso, facts, timers)
    }

    fn insert(
        &mut self,
        key: FlowKey,
        mut flow: Flow,
        coalesce: bool,
        facts: &Facts<'_>,
        timers: &mut Wheel,
    ) -> Result<Id, DropReason> {
        if coalesce {
            flow.coalesces = sockopt::set(flow.socket.as_fd(), libc::SOL_UDP, libc::UDP_GRO, 1).is_ok();
        }
        let token = token(self.table.next_id());
        let mio_token = mio::Token(token.to_usize());
        watch::add(&self.registry, flow.socket.as_raw_fd(), mio_token, Interest::READABLE)
            .map_err(|_| DropReason::HostResources)?;
        let end = facts.now + flow.timeout(&key, self.config.short, self.config.long);
        let id = self.table.insert(key, flow).ok_or(DropReason::FlowTableFull)?;
        *self.guest_ports.entry(key.guest.port).or_default() += 1;
        timers.arm(end, token);
        Ok(id)
    }

    fn make_room(&mut self, facts: &Facts<'_>) -> Result<(), DropReason> {
        if self.table.is_full() && !self.evict(true, facts) {
            return Err(DropReason::FlowTableFull);
        }
        // There are more than there may be, for others have taken the rest: let them become fewer.
        if self.table.is_full() {
            self.evict(true, facts);
        }
        Ok(())
    }

    /// Removes the flow unused for longest, unless it is in use. `one_way`: or nobody has answered it, so that a flood of
    /// datagrams to nowhere throws out itself.
    fn evict(&mut self, one_way: bool, facts: &Facts<'_>) -> bool {
        let Some(id) = self.table.oldest() else { return false };
        let idle =
            self.table.get(id).is_some_and(|f| facts.now.since(f.last_used) >= BUSY || one_way && f.is_one_way());
        if idle {
            self.close(id);
        }
        idle
    }

    fn close(&mut self, id: Id) {
        if let Some((key, flow)) = self.table.remove(id) {
            self.ledger.bytes(flow.via, flow.passed());
            if let Entry::Occupied(mut sharers) = self.guest_ports.entry(key.guest.port) {
                *sharers.get_mut() -= 1;
                if *sharers.get() == 0 {
                    sharers.remove();
                }
            }
            // Closing removes it from epoll as well; only a duplicate of the descriptor would keep it there.
            let _ = self.registry.deregister(&mut SourceFd(&flow.socket.as_raw_fd()));
        }
    }

    /// Counts messages, and moves the flow to the end of the order of use, but not for every packet.
    fn touch(&mut self, id: Id, from: Side, (messages, bytes): (usize, usize), facts: &Facts<'_>) {
        if let Some(flow) = self.table.get_mut(id) {
            match from {
                Side::Guest => flow.traffic.from_guest.add(messages, bytes),
                Side::Host => flow.traffic.to_guest.add(messages, bytes),
            }
            let stale = facts.now.since(flow.last_used) > BUSY / 10;
            flow.note(from, facts.now);
            if stale {
                self.table.touch(id);
            }
        }
    }
}

fn token(id: Id) -> Token {
    Token::new(Kind::Udp, id.index, id.generation)
}
