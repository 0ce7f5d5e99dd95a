//! Listening UDP sockets that this engine reads itself: those in the guest's namespace.

use std::io::{self, ErrorKind};
use std::os::fd::AsFd;

use socket2::Socket;

use super::datagram::{BUDGET, Datagrams, SLOTS, Stray};
use super::{First, Namespaces};
use crate::base::{Addr, Counters, DropReason, Endpoint, Instant, Kind, Token};
use crate::flow::{Id, Ready, Via, Wheel};
use crate::fwd::{Local, Side};
use crate::sys::{errqueue, is_exhaustion, sockopt};

/// Where datagrams that reach a listening socket go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The namespace the socket is in.
    pub origin: Side,
    /// The address in the other namespace; `None`: the same loopback address that the client sent to.
    pub addr: Option<Addr>,
    pub port: u16,
    /// Interface of a link-local address, or 0.
    pub scope: u32,
    /// Whose socket it is.
    pub via: Via,
}

#[derive(Debug)]
pub struct Listener {
    pub(super) socket: Socket,
    rule: Rule,
    /// The port it is bound to.
    port: u16,
    /// In the run queue.
    pub(super) queued: bool,
}

impl Datagrams {
    /// Takes over a bound socket.
    pub fn listen(&mut self, socket: Socket, rule: Rule) -> io::Result<Id> {
        let bound = socket.local_addr()?;
        socket.set_nonblocking(true)?;
        // The flows' sockets bind the same port.
        socket.set_reuse_address(true)?;
        sockopt::set(socket.as_fd(), libc::IPPROTO_IP, libc::IP_PKTINFO, 1)?;
        if bound.is_ipv6() {
            sockopt::set(socket.as_fd(), libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)?;
        }
        self.register(&socket, token(self.listeners.next_id()))?;
        let port = bound.as_socket().map_or(0, |a| a.port());
        Ok(self.listeners.insert(Listener { socket, rule, port, queued: false }))
    }

    /// Closes a listening socket; flows that began there live on.
    pub fn unlisten(&mut self, id: Id) {
        if let Some(listener) = self.listeners.remove(id) {
            self.deregister(&listener.socket);
        }
    }

    /// Reads a listening socket until it is empty or the budget is used up.
    pub fn listener_event(
        &mut self,
        id: Id,
        ready: Ready,
        namespaces: &mut Namespaces<'_>,
        now: Instant,
        timers: &mut Wheel,
        counters: &mut Counters,
    ) {
        if !ready.readable && !ready.error {
            return;
        }
        let (mut batch, mut starves) = (Vec::new(), false);
        for _ in 0..BUDGET / SLOTS {
            let Some(listener) = self.listeners.get(id) else { return };
            let (rule, port) = (listener.rule, listener.port);
            let got = match self.inbox.receive(listener.socket.as_fd(), SLOTS, true) {
                Ok(n) => n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                Err(e) if is_exhaustion(&e) => {
                    starves = true;
                    break;
                }
                Err(_) => {
                    // A pending error, cleared by telling us; nobody to tell it to.
                    let mut quote = [0; errqueue::QUOTE_MAX];
                    while errqueue::next(listener.socket.as_fd(), &mut quote).is_ok_and(|e| e.is_some()) {}
                    continue;
                }
            };
            self.copy_out(got, port, &mut batch);
            for Stray { from, local, payload } in batch.drain(..) {
                let Some(addr) = rule.addr.or_else(|| Local::to_host(&from.addr, local.addr)) else {
                    counters.drop(DropReason::Disabled);
                    continue;
                };
                let target = Endpoint::new(addr, rule.port);
                let Rule { origin, scope, via, .. } = rule;
                let first = First { origin, from, local, payload: &payload, target, scope, via };
                // What is refused is counted there.
                let _ = self.first(&first, namespaces, now, timers, counters);
            }
            if got < SLOTS {
                return;
            }
        }
        if let Some(listener) = self.listeners.get_mut(id)
            && !std::mem::replace(&mut listener.queued, true)
        {
            if starves { self.starved.push(token(id)) } else { self.queue.push_back(token(id)) }
        }
    }

    /// A listening socket that had used up its budget has another turn.
    pub fn resume_listener(
        &mut self,
        id: Id,
        namespaces: &mut Namespaces<'_>,
        now: Instant,
        timers: &mut Wheel,
        counters: &mut Counters,
    ) {
        if let Some(listener) = self.listeners.get_mut(id) {
            listener.queued = false;
            let ready = Ready { readable: true, ..Ready::default() };
            self.listener_event(id, ready, namespaces, now, timers, counters);
        }
    }

    /// Opening a flow uses the inbox for what came to its socket, so that what is to be handled cannot stay there.
    fn copy_out(&self, n: usize, port: u16, batch: &mut Vec<Stray>) {
        for i in 0..n {
            let meta = self.inbox.meta(i);
            if let (Some(from), Some(local)) = (meta.from, meta.local) {
                let local = Endpoint::new(local.into(), port);
                batch.push(Stray { from: from.into(), local, payload: self.inbox.payload(i).to_vec() });
            }
        }
    }
}

pub(super) fn token(id: Id) -> Token {
    Token::new(Kind::SpliceListenUdp, id.index, id.generation)
}
