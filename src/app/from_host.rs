//! Events of host sockets, to whom they concern.

use std::time::Duration;

use socket2::Socket;

use super::engine::Engine;
use super::local::{Client, Way, reset};
use crate::base::{Endpoint, Instant, Kind, Token};
use crate::flow::{Id, Ready};
use crate::fwd::Side;
use crate::guest::Facts;
use crate::listen::Accepted;

impl Engine {
    /// One event of a socket on the host's side.
    pub(super) fn host_event(&mut self, token: Token, ready: Ready, now: Instant) {
        let id = Id { index: token.index, generation: token.generation };
        if token.kind == Kind::ListenUdp {
            self.seek_guest(now);
        }
        let facts = Facts { now, l2: &self.l2, nat: &self.nat };
        match token.kind {
            Kind::Tcp => self.tcp.from_host(id, ready, &facts, &mut self.link, &mut self.timers),
            Kind::Udp => self.udp.from_host(id, ready, &facts, &mut self.link),
            Kind::Icmp => self.icmp.from_host(id, ready, &facts, &mut self.link),
            Kind::ListenUdp => self.udp.from_listener(id, ready, &facts, &mut self.link, &mut self.timers),
            Kind::ListenTcp => self.accept(id, now),
            Kind::SpliceClient
            | Kind::SpliceTarget
            | Kind::SpliceUdpClient
            | Kind::SpliceUdpTarget
            | Kind::SpliceListenUdp => self.splice_event(token, ready, now),
            Kind::Neighbours => self.neighbours_changed(now),
            Kind::Follow => self.follow_event(token, now),
            Kind::Api | Kind::ApiClient => self.api_event(token, now),
            _ => {}
        }
    }

    /// One due timer of a flow, or of what else comes from the host.
    pub(super) fn flow_timer(&mut self, token: Token, now: Instant) {
        let id = Id { index: token.index, generation: token.generation };
        let facts = Facts { now, l2: &self.l2, nat: &self.nat };
        match token.kind {
            Kind::Tcp => self.tcp.on_timer(id, &facts, &mut self.link, &mut self.timers),
            Kind::Udp => self.udp.on_timer(id, &facts, &mut self.timers),
            Kind::Icmp => self.icmp.on_timer(id, &facts, &mut self.timers),
            Kind::Neighbours => self.neighbours_changed(now),
            Kind::Follow => self.follow_timer(token, now),
            Kind::ListenTcp => std::mem::take(&mut self.ports.stuck).into_iter().for_each(|id| self.accept(id, now)),
            Kind::SpliceClient | Kind::SpliceTarget | Kind::SpliceUdpClient => {
                if let Some(splice) = &mut self.splice {
                    splice.on_timer(token, now, &mut self.timers);
                }
            }
            Kind::ApiClient => self.api_timer(token, now),
            _ => {}
        }
    }

    /// Deadlines of flows that have gone, or that need them no more, take memory until they come.
    pub(super) fn forget_deadlines(&mut self) {
        if !self.timers.has_many() {
            return;
        }
        let Engine { timers, tcp, udp, icmp, splice, .. } = self;
        timers.retain(|token| {
            let id = Id { index: token.index, generation: token.generation };
            let is_there = match token.kind {
                // One for each retransmission that was not needed would pile up until the keep-alive.
                Kind::Tcp => return tcp.armed(id),
                Kind::Udp => udp.has(id),
                Kind::Icmp => icmp.has(id),
                Kind::SpliceUdpClient => splice.as_ref().is_some_and(|splice| splice.has_udp(id)),
                _ => true,
            };
            is_there.then_some(Instant::FAR)
        });
    }

    fn neighbours_changed(&mut self, now: Instant) {
        let Some(neighbours) = &mut self.neighbours else { return };
        self.neighbours_new = true;
        let again = neighbours.from_host(now, &mut |addr, mac| {
            self.gateway.neighbour(addr, mac, now, (&mut self.l2, &self.nat), &mut self.link);
        });
        if let Some(at) = again {
            self.timers.arm(at, Token::only(Kind::Neighbours));
        }
    }

    /// Clients that wait at a listener become flows, as many as one turn may take.
    pub(super) fn accept(&mut self, id: Id, now: Instant) {
        for _ in 0..ACCEPTS_MAX {
            let (Some(listener), Some(acceptor)) = (self.ports.tcp.get(id), &mut self.ports.acceptor) else { return };
            let way = Way::from(listener);
            let (client, from) = match acceptor.accept(listener) {
                Accepted::Client(client, from) => {
                    self.ports.forwarding.forwards.hit(way.forward);
                    (client, from)
                }
                Accepted::Turned => continue,
                Accepted::Empty => return,
                Accepted::Stuck => return self.accept_later(id, now),
            };
            let local = way.on == Side::Guest || from.addr.is_loopback() || !self.link.exists();
            match if local { self.join(client, from, way, now) } else { Client::Other(client) } {
                Client::Led => {}
                Client::Other(client) => self.lead_to_link(client, from, way, now),
            }
        }
        if !self.ports.waiting.contains(&id) {
            self.ports.waiting.push_back(id);
        }
    }

    /// No event tells when the host has descriptors again.
    pub(super) fn accept_later(&mut self, id: Id, now: Instant) {
        if self.ports.stuck.is_empty() {
            self.timers.arm(now + STUCK_PERIOD, Token::only(Kind::ListenTcp));
        }
        if !self.ports.stuck.contains(&id) {
            self.ports.stuck.push(id);
        }
    }

    fn lead_to_link(&mut self, client: Socket, from: Endpoint, way: Way, now: Instant) {
        self.seek_guest(now);
        let facts = Facts { now, l2: &self.l2, nat: &self.nat };
        match facts.inbound(from, way.target, way.target_port) {
            Ok(key) => self.lead_inbound(client, (key, way.forward.via()), now),
            Err(reason) => {
                reset(&client);
                self.counters.drop(reason);
            }
        }
    }

    /// Goes on with the listeners whose clients were too many for one turn.
    pub(super) fn accept_waiting(&mut self, now: Instant) {
        for _ in 0..self.ports.waiting.len().min(WAITING_MAX) {
            if let Some(id) = self.ports.waiting.pop_front() {
                self.accept(id, now);
            }
        }
    }
}

/// Between two attempts at a listener for whose clients the host has no descriptor.
const STUCK_PERIOD: Duration = Duration::from_millis(100);
/// Clients taken from one listener before others have their turn.
const ACCEPTS_MAX: usize = 64;
/// Listeners with clients left over that are visited in one turn.
const WAITING_MAX: usize = 16;
