//! New connections, from the guest and from the host.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use mio::Interest;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::conn::{Conn, State};
use super::seq::Seq;
use super::*;
use crate::base::Endpoint;
use crate::flow::Heir;
use crate::guest::{Facts, ToGuest};
use crate::sys::{is_exhaustion, watch};
use crate::wire::{Packet, TcpFlags, TcpHeader};

/// A half-open flow may be thrown out for a new one after this long, or at once if such are half of all.
const EMBRYONIC_MIN: Duration = Duration::from_secs(1);
/// An established one after this long without a segment.
const IDLE_MIN: Duration = Duration::from_secs(30);

impl Tcp {
    /// A segment that belongs to no flow.
    pub(super) fn unknown(
        &mut self,
        packet: &Packet,
        t: &TcpHeader,
        key: &FlowKey,
        facts: &Facts<'_>,
        link: &mut dyn ToGuest,
        timers: &mut Wheel,
    ) {
        if t.flags.contains(TcpFlags::RST) {
            return;
        }
        // RFC 9293 §3.9.2.3: nothing to or from a group address is answered, RST included.
        let silent = if t.src_port == 0 || t.dst_port == 0 {
            Some(DropReason::PortZero)
        } else if !packet.dst.is_unicast() {
            Some(DropReason::DestinationAddress)
        } else if !packet.src.is_unicast() {
            Some(DropReason::SourceAddress)
        } else if t.flags.contains(TcpFlags::SYN | TcpFlags::FIN) {
            // No stack sends that, only scanners do; Linux ignores it too.
            Some(DropReason::TcpUnacceptable)
        } else {
            None
        };
        if let Some(reason) = silent {
            return self.counters.drop(reason);
        }
        let outcome = if !t.flags.contains(TcpFlags::SYN) || t.flags.contains(TcpFlags::ACK) {
            Err(DropReason::NoFlow)
        } else {
            self.connect(t, key, facts, link, timers)
        };
        if let Err(reason) = outcome {
            self.counters.drop(reason);
            self.refuse(t, packet.payload_len, key, facts, link);
        }
    }

    /// What is over and has the same name is replaced.
    fn connect(
        &mut self,
        t: &TcpHeader,
        key: &FlowKey,
        facts: &Facts<'_>,
        link: &mut dyn ToGuest,
        timers: &mut Wheel,
    ) -> Result<(), DropReason> {
        let start = self.start(key, facts.now);
        if let Some(id) = self.flows.find(key) {
            self.remove(id);
            // Its successor is ours as well.
            self.flows.elsewhere(key, Heir::Us);
        }
        self.make_room(facts, link)?;
        let target = facts.nat.to_host(key.remote);
        let id = self.flows.next_id();
        let conn = Conn::from_guest_syn(t, &start, facts.now);
        let started = self.open(target).and_then(|s| {
            let done = start_connect(&s, target, self.outbound.scope)?;
            self.register(&s, id)?;
            Ok((s, done))
        });
        match started {
            Ok((socket, connected)) => {
                self.add(*key, conn, socket, facts.now);
                if connected {
                    self.connected(id, facts, link, timers);
                }
                self.arm(id, facts.now, timers);
                Ok(())
            }
            Err(e) if is_exhaustion(&e) => Err(DropReason::HostResources),
            Err(e) => {
                self.explain(key, Seq(t.seq), &e, facts, link);
                Err(DropReason::HostSend)
            }
        }
    }

    /// A connection that a listener accepted, of the forward `via`: `guest` is to be told that `remote` wants to connect.
    ///
    /// # Errors
    /// Why there will be no flow; the socket is reset.
    pub fn from_listener(
        &mut self,
        socket: Socket,
        (key, via): (FlowKey, Via),
        facts: &Facts<'_>,
        link: &mut dyn ToGuest,
        timers: &mut Wheel,
    ) -> Result<(), DropReason> {
        let outcome = self.accept(&socket, &key, facts, link);
        match outcome {
            Ok(conn) => {
                let id = self.add(key, conn, socket, facts.now);
                self.ledger.begin(via);
                if let Some(flow) = self.flows.get_mut(id) {
                    flow.via = via;
                }
                self.send_syn(id, facts, link);
                self.arm(id, facts.now, timers);
                Ok(())
            }
            Err(reason) => {
                let _ = socket::set_reset_on_close(socket.as_fd());
                self.counters.drop(reason);
                Err(reason)
            }
        }
    }

    fn accept(
        &mut self,
        socket: &Socket,
        key: &FlowKey,
        facts: &Facts<'_>,
        link: &mut dyn ToGuest,
    ) -> Result<Conn, DropReason> {
        let start = self.start(key, facts.now);
        if let Some(id) = self.flows.find(key) {
            // The same client port again before the guest side has finished: only what is over may be replaced.
            if self.flows.get(id).is_none_or(|f| f.conn.state() != State::TimeWait || !f.held.is_empty()) {
                return Err(DropReason::NoFlow);
            }
            self.remove(id);
        }
        self.make_room(facts, link)?;
        let id = self.flows.next_id();
        prepare(socket, self.peek_offset[key.guest.addr.family()])
            .and_then(|()| self.register(socket, id))
            .map_err(|_| DropReason::HostResources)?;
        let mut conn = Conn::from_host_accept(&start, facts.now);
        conn.sent_syn(facts.now);
        Ok(conn)
    }

    fn add(&mut self, key: FlowKey, conn: Conn, socket: Socket, now: Instant) -> Id {
        let flow = Flow {
            by_guest: conn.state() == State::Connecting,
            via: Via::NOTHING,
            born: now,
            traffic: Traffic::default(),
            resent: 0,
            conn,
            socket: Some(socket),
            held: VecDeque::new(),
            ahead: None,
            armed: Instant::FAR,
            laps: 0,
            readable: false,
            read_closed: false,
            failed: None,
            urgent: false,
            bulk: None,
            half_open: true,
            ack_owed: false,
            queued: false,
            starved: false,
            spent: 0,
            astray: false,
            shut: false,
        };
        let id = self.flows.insert(key, flow).expect("room was made and the key was free");
        self.forget_grown_up();
        note(&mut self.embryonic, &self.flows, id);
        self.half_open += 1;
        id
    }

    /// Leaves a half-open flow, if there is one, at the front of the queue of such.
    fn forget_grown_up(&mut self) {
        while self.embryonic.front().is_some_and(|i| !self.flows.get(*i).is_some_and(|f| f.half_open)) {
            self.embryonic.pop_front();
        }
    }

    /// Makes room in a full table: the oldest half-open flow goes first, so that a flood of SYNs throws out itself, then
    /// whoever has been idle for longest.
    pub(super) fn make_room(&mut self, facts: &Facts<'_>, link: &mut dyn ToGuest) -> Result<(), DropReason> {
        if !self.flows.is_full() {
            return Ok(());
        }
        // What is over, and only waits for a FIN that will hardly come again, makes room before anything that lives.
        while let Some(id) = self.waiting.pop_front() {
            if self.flows.get(id).is_some() {
                self.remove(id);
                return Ok(());
            }
        }
        self.forget_grown_up();
        let idle = |id: &Id, least| {
            self.flows.get(*id).is_some_and(|f| facts.now.since(f.conn.last_heard()) >= least).then_some(*id)
        };
        // While a flood fills the table within that second, an established flow that is merely idle must not pay for it.
        let flood = self.half_open * 2 >= self.flows.len();
        let young = if flood { Duration::ZERO } else { EMBRYONIC_MIN };
        let victim = (self.embryonic.front().and_then(|i| idle(i, young)))
            .or_else(|| self.flows.oldest().and_then(|i| idle(&i, IDLE_MIN)));
        let id = victim.ok_or(DropReason::FlowTableFull)?;
        self.reset_both(id, facts, link);
        Ok(())
    }

    fn open(&self, target: Endpoint) -> io::Result<Socket> {
        let family = target.addr.family();
        let domain = if family == Family::V4 { Domain::IPV4 } else { Domain::IPV6 };
        let socket = socket::open(domain, Type::STREAM, Some(Protocol::TCP))?;
        prepare(&socket, self.peek_offset[family])?;
        let (device, source) = self.outbound.binding(&target.addr);
        if let Some(device) = device {
            socket.bind_device(Some(device.to_bytes()))?;
        }
        if !source.is_unspecified() {
            socket.bind(&SockAddr::from(Endpoint::new(source, 0).to_std()))?;
        }
        Ok(socket)
    }

    pub(super) fn register(&self, socket: &Socket, id: Id) -> io::Result<()> {
        let interest = Interest::READABLE | Interest::WRITABLE | Interest::PRIORITY;
        watch::add(&self.registry, socket.as_raw_fd(), mio::Token(token(id).to_usize()), interest)
    }
}

/// Options of every socket a flow owns.
fn prepare(socket: &Socket, peek_offset: bool) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    // The remote's death is ours to notice: the guest's own probes are answered here.
    socket.set_keepalive(true)?;
    // Urgent data stays where it is in the stream: a byte taken out would shift every position after it (RFC 6093 §6).
    socket.set_out_of_band_inline(true)?;
    if peek_offset {
        socket::set_peek_offset(socket.as_fd(), 0)?;
    }
    Ok(())
}

/// True if the connection is there at once, as on loopback; false if it is under way.
fn start_connect(socket: &Socket, target: Endpoint, scope: u32) -> io::Result<bool> {
    match socket::connect(socket, &target.to_std_scoped(scope).into()) {
        Ok(()) => Ok(true),
        Err(e) if e.raw_os_error() == Some(libc::EINPROGRESS) => Ok(false),
        Err(e) => Err(e),
    }
}
