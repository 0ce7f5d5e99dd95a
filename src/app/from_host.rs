//! Events of host sockets, to whom they concern.

use std::time::Duration;

use super::engine::Engine;
use crate::base::{Instant, Kind, Token};
use crate::flow::{Id, Ready};
use crate::guest::Facts;
use crate::listen::Accepted;

impl Engine {
    /// One event of a socket on the host's side.
    pub(super) fn host_event(&mut self, token: Token, ready: Ready, now: Instant) {
        let id = Id { index: token.index, generation: token.generation };
        let facts = Facts { now, l2: &self.l2, nat: &self.nat };
        match token.kind {
            Kind::Tcp => self.tcp.from_host(id, ready, &facts, &mut self.tap, &mut self.timers),
            Kind::Udp => self.udp.from_host(id, ready, &facts, &mut self.tap),
            Kind::Icmp => self.icmp.from_host(id, ready, &facts, &mut self.tap),
            Kind::ListenUdp => self.udp.from_listener(id, ready, &facts, &mut self.tap, &mut self.timers),
            Kind::ListenTcp => self.accept(token.index as usize, now),
            Kind::Neighbours => self.neighbours_changed(now),
            _ => {}
        }
    }

    /// One due timer of a flow, or of what else comes from the host.
    pub(super) fn flow_timer(&mut self, token: Token, now: Instant) {
        let id = Id { index: token.index, generation: token.generation };
        let facts = Facts { now, l2: &self.l2, nat: &self.nat };
        match token.kind {
            Kind::Tcp => self.tcp.on_timer(id, &facts, &mut self.tap, &mut self.timers),
            Kind::Udp => self.udp.on_timer(id, &facts, &mut self.timers),
            Kind::Icmp => self.icmp.on_timer(id, &facts, &mut self.timers),
            Kind::Neighbours => self.neighbours_changed(now),
            _ => {}
        }
    }

    fn neighbours_changed(&mut self, now: Instant) {
        let Some(neighbours) = &mut self.neighbours else { return };
        let again = neighbours.from_host(now, &mut |addr, mac| {
            self.gateway.neighbour(addr, mac, now, (&mut self.l2, &self.nat), &mut self.tap);
        });
        if let Some(at) = again {
            self.timers.arm(at, Token::only(Kind::Neighbours));
        }
    }

    /// Every client that waits at a listener becomes a flow to the guest.
    pub(super) fn accept(&mut self, index: usize, now: Instant) {
        let (Some(listener), Some(acceptor)) = (self.listeners.get(index), &mut self.acceptor) else { return };
        let facts = Facts { now, l2: &self.l2, nat: &self.nat };
        loop {
            let (client, from) = match acceptor.accept(listener) {
                Accepted::Client(client, from) => (client, from),
                Accepted::Turned => continue,
                Accepted::Empty => return,
            };
            let key = match facts.inbound(from, listener.target, listener.target_port) {
                Ok(key) => key,
                Err(reason) => {
                    let _ = client.set_linger(Some(Duration::ZERO));
                    self.counters.drop(reason);
                    continue;
                }
            };
            // What is refused is reset and counted there.
            let _ = self.tcp.from_listener(client, key, &facts, &mut self.tap, &mut self.timers);
        }
    }
}
