//! Flows that peers on the host's side begin, through listening sockets.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;

use socket2::Socket;

use super::flow::{self, Flow, Side};
use super::{BUDGET, HandBack, SLOTS, Udp};
use crate::base::{Addr, DropReason, Endpoint, Kind, Token};
use crate::flow::{Id, Via, Wheel};
use crate::guest::{Facts, Room, ToGuest};
use crate::sys::dgram::Meta;
use crate::sys::{errqueue, is_exhaustion, sockopt};

/// Where datagrams that reach a listening socket go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The guest's address, if not the one it is known by.
    pub guest: Option<Addr>,
    pub guest_port: u16,
    /// Whose socket it is.
    pub via: Via,
}

/// A datagram of a client to whom another engine answers, if anybody does.
#[derive(Debug)]
pub struct HandedBack {
    pub rule: Rule,
    pub from: Endpoint,
    /// Where it was sent to.
    pub local: Endpoint,
    pub payload: Vec<u8>,
}

#[derive(Debug)]
pub struct Listener {
    pub socket: Socket,
    pub rule: Rule,
    /// The port it is bound to.
    pub port: u16,
    /// In the run queue.
    pub queued: bool,
}

/// A datagram that came to a flow's socket before that was connected, and is another's.
struct Stray {
    from: Endpoint,
    local: Endpoint,
    payload: Vec<u8>,
    meta: Meta,
}

/// Strays handled in one go; more arrive only from peers that send without waiting.
const STRAYS_MAX: usize = 4 * SLOTS;

/// Datagrams handed back in one turn, but for those of the call that reached this. Each may have 64 KiB.
const HANDED_BACK_MAX: usize = 4 * BUDGET;

impl Listener {
    pub fn new(socket: Socket, rule: Rule) -> io::Result<Listener> {
        let bound = socket.local_addr()?;
        socket.set_nonblocking(true)?;
        // Two sockets may be bound to one port if both have it (udp(7) is silent, net/ipv4/inet_connection_sock.c is not),
        // and the later one gets the datagrams: see `Udp::sharing`.
        socket.set_reuse_address(false)?;
        let fd = socket.as_fd();
        sockopt::set(fd, libc::IPPROTO_IP, libc::IP_PKTINFO, 1)?;
        sockopt::set(fd, libc::IPPROTO_IP, libc::IP_RECVTTL, 1)?;
        sockopt::set(fd, libc::IPPROTO_IP, libc::IP_RECVTOS, 1)?;
        // Without this a socket bound to no address hears every group that anybody on the host has joined, and with it
        // the guest's own multicast.
        sockopt::set(fd, libc::IPPROTO_IP, libc::IP_MULTICAST_ALL, 0)?;
        if bound.is_ipv6() {
            for name in [libc::IPV6_RECVPKTINFO, libc::IPV6_RECVHOPLIMIT, libc::IPV6_RECVTCLASS] {
                sockopt::set(fd, libc::IPPROTO_IPV6, name, 1)?;
            }
            sockopt::set(fd, libc::IPPROTO_IPV6, IPV6_MULTICAST_ALL, 0)?;
        }
        let port = bound.as_socket().map_or(0, |a| a.port());
        Ok(Listener { socket, rule, port, queued: false })
    }
}

/// linux/in6.h; not in libc for every target.
const IPV6_MULTICAST_ALL: i32 = 29;

impl Udp {
    /// Reads a listening socket until it is empty or the budget is used up.
    pub(super) fn accept(&mut self, id: Id, facts: &Facts<'_>, link: &mut dyn ToGuest, timers: &mut Wheel) {
        let (mut left, mut starves) = (BUDGET / SLOTS, false);
        let mut strays = Vec::new();
        while left > 0 && !self.has_handed_back_enough() {
            left -= 1;
            if link.room() != Room::Free {
                self.link_full = true;
                break;
            }
            let Some(l) = self.listeners.get(id) else { return };
            let (rule, port) = (l.rule, l.port);
            let got = match self.framer.inbox.receive(l.socket.as_fd(), SLOTS, true) {
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e) if is_exhaustion(&e) => {
                    starves = true;
                    break;
                }
                Err(_) => {
                    // A pending error, cleared by telling us; nobody to tell it to.
                    let mut quote = [0; errqueue::QUOTE_MAX];
                    while errqueue::next(l.socket.as_fd(), &mut quote).is_ok_and(|e| e.is_some()) {}
                    continue;
                }
            };
            let batch = self.framer.inbox.slots().min(got);
            for i in 0..batch {
                let meta = self.framer.inbox.meta(i);
                let Some(from) = meta.from else { continue };
                // Opening a flow uses the inbox for strays: keep what is still to be handled.
                match self.known(rule, from.into(), facts) {
                    Ok(flow) => self.hand_over(flow, i, &meta, facts, link),
                    Err(Refused::NoFlow) => {
                        strays.extend((i..batch).filter_map(|n| self.stray(n, port)));
                        break;
                    }
                    Err(Refused::For(reason)) => self.counters.drop(reason),
                }
            }
            self.settle(rule, &mut strays, facts, link, timers);
            if self.link_full {
                break;
            }
            if got < SLOTS {
                return;
            }
        }
        if let Some(l) = self.listeners.get_mut(id)
            && !std::mem::replace(&mut l.queued, true)
        {
            let token = Token::new(Kind::ListenUdp, id.index, id.generation);
            if starves { self.starved.push(token) } else { self.queue.push_back(token) }
        }
    }

    /// The `n`-th datagram of the inbox, that came to this port.
    fn stray(&self, n: usize, port: u16) -> Option<Stray> {
        let meta = self.framer.inbox.meta(n);
        let (from, local) = (meta.from?.into(), Endpoint::new(meta.local?.into(), port));
        Some(Stray { from, local, payload: self.framer.inbox.payload(n).to_vec(), meta })
    }

    fn is_handed_back(&self, from: &Endpoint) -> bool {
        match self.config.hand_back {
            HandBack::Nobody => false,
            HandBack::Loopback => from.addr.is_loopback(),
            HandBack::Everybody => true,
        }
    }

    /// What is handed back is kept in memory until the end of the turn: listeners beyond this wait for the next one.
    pub(super) fn has_handed_back_enough(&self) -> bool {
        self.handed_back.len() >= HANDED_BACK_MAX
    }

    /// Opens a flow's socket that is to be bound to `port` as well, if we listen there.
    pub fn sharing<T>(&self, port: u16, open: impl FnOnce() -> T) -> T {
        let ours = || self.listening.get(&port).into_iter().flatten().filter_map(|id| self.listeners.get(*id));
        ours().for_each(|l| drop(l.socket.set_reuse_address(true)));
        let opened = open();
        ours().for_each(|l| drop(l.socket.set_reuse_address(false)));
        opened
    }

    /// Handles datagrams that were set aside, in order, opening flows as needed.
    fn settle(
        &mut self,
        rule: Rule,
        strays: &mut Vec<Stray>,
        facts: &Facts<'_>,
        link: &mut dyn ToGuest,
        timers: &mut Wheel,
    ) {
        let mut at = 0;
        while at < strays.len() && at < STRAYS_MAX {
            let Stray { from, local, meta, .. } = strays[at];
            let scope = meta.from.and_then(|from| if let SocketAddr::V6(a) = from { Some(a.scope_id()) } else { None });
            if self.is_handed_back(&from) {
                let payload = std::mem::take(&mut strays[at].payload);
                self.handed_back.push(HandedBack { rule, from, local, payload });
                at += 1;
                continue;
            }
            let flow = match self.known(rule, from, facts) {
                Err(Refused::NoFlow) => self.open_inbound(rule, (from, local, scope), strays, facts, link, timers),
                other => other,
            };
            match flow {
                Ok(flow) => {
                    let Stray { payload, mut meta, .. } = std::mem::replace(&mut strays[at], Stray::nobody());
                    meta.len = payload.len();
                    meta.segment = 0;
                    self.framer.inbox.fill(0, &payload);
                    self.hand_over(flow, 0, &meta, facts, link);
                }
                Err(Refused::For(reason)) => self.counters.drop(reason),
                Err(Refused::NoFlow) => {}
            }
            at += 1;
        }
        for _ in at..strays.len() {
            self.counters.drop(DropReason::FlowTableFull);
        }
        strays.clear();
    }

    fn hand_over(&mut self, id: Id, i: usize, meta: &Meta, facts: &Facts<'_>, link: &mut dyn ToGuest) {
        let Some(key) = self.table.key(id).copied() else { return };
        self.touch(id, Side::Host, (1, meta.len), facts);
        self.link_full |= self.framer.deliver(i, meta, &key, facts, link, &mut self.counters).is_err();
    }

    /// The flow of a datagram from `from`, if there is one.
    fn known(&self, rule: Rule, from: Endpoint, facts: &Facts<'_>) -> Result<Id, Refused> {
        if self.is_handed_back(&from) {
            return Err(Refused::NoFlow);
        }
        let key = facts.inbound(from, rule.guest, rule.guest_port).map_err(Refused::For)?;
        match self.table.find(&key) {
            Some(id) if self.table.get(id).is_some_and(|f| f.target == from) => Ok(id),
            // None, or one of another peer that looks the same to the guest: it makes way.
            _ => Err(Refused::NoFlow),
        }
    }

    fn open_inbound(
        &mut self,
        rule: Rule,
        (from, local, scope): (Endpoint, Endpoint, Option<u32>),
        strays: &mut Vec<Stray>,
        facts: &Facts<'_>,
        link: &mut dyn ToGuest,
        timers: &mut Wheel,
    ) -> Result<Id, Refused> {
        let key = facts.inbound(from, rule.guest, rule.guest_port).map_err(Refused::For)?;
        self.flush(facts, link);
        if let Some(other) = self.table.find(&key) {
            self.close(other);
        }
        self.make_room(facts).map_err(Refused::For)?;
        // The zone of a link-local client is that of the interface it came by (RFC 4007 §6).
        let scope = scope.filter(|scope| *scope != 0).unwrap_or(self.config.outbound.scope);
        let mut opened = self.sharing(local.port, || flow::open_inbound(local, from, scope, &self.config.binding));
        if opened.as_ref().is_err_and(is_exhaustion) && self.evict(false, facts) {
            opened = self.sharing(local.port, || flow::open_inbound(local, from, scope, &self.config.binding));
        }
        let socket = opened.map_err(|_| Refused::For(DropReason::HostResources))?;
        self.collect_strays(&socket, from, local, strays);
        let mut flow = Flow::new(socket, from, Side::Host, facts.now);
        flow.via = rule.via;
        let id = self.insert(key, flow, link.caps().uso, facts, timers).map_err(Refused::For)?;
        self.ledger.begin(rule.via);
        Ok(id)
    }

    /// What reached the new socket between `bind` and `connect`, from whomever, was meant for the listening socket.
    fn collect_strays(&mut self, socket: &Socket, from: Endpoint, local: Endpoint, strays: &mut Vec<Stray>) {
        while strays.len() < STRAYS_MAX {
            let Ok(n) = self.framer.inbox.receive(socket.as_fd(), SLOTS, true) else { return };
            for i in 0..n {
                let meta = self.framer.inbox.meta(i);
                strays.push(Stray {
                    from: meta.from.map_or(from, Endpoint::from),
                    local,
                    payload: self.framer.inbox.payload(i).to_vec(),
                    meta,
                });
            }
            if n < SLOTS {
                return;
            }
        }
    }
}

impl Stray {
    fn nobody() -> Stray {
        let nowhere = Endpoint::new(Addr::V4_UNSPECIFIED, 0);
        Stray { from: nowhere, local: nowhere, payload: Vec::new(), meta: Meta::default() }
    }
}

enum Refused {
    /// A flow must be opened first.
    NoFlow,
    For(DropReason),
}
