//! Events of host sockets, to whom they concern.

use mio::event::Event;

use super::engine::Engine;
use crate::base::{Endpoint, Instant};
use crate::flow::{FlowKey, Id};
use crate::guest::Facts;
use crate::listen::Accepted;
use crate::tcp::Ready;

impl Engine {
    pub(super) fn tcp_event(&mut self, id: Id, event: &Event, now: Instant) {
        let ready = Ready {
            readable: event.is_readable(),
            writable: event.is_writable(),
            read_closed: event.is_read_closed(),
            error: event.is_error(),
        };
        let facts = Facts { now, l2: &self.l2, nat: &self.nat };
        self.tcp.from_host(id, ready, &facts, &mut self.tap, &mut self.timers);
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
            let known = if from.addr.is_v4() { self.l2.guest_v4 } else { self.l2.guest_v6 };
            let source = self.nat.to_guest(from.addr, known);
            let Some(source) = source else {
                let _ = client.set_linger(Some(std::time::Duration::ZERO));
                continue;
            };
            let Some(guest) = listener.target.or_else(|| self.l2.guest_addr(&source)) else {
                let _ = client.set_linger(Some(std::time::Duration::ZERO));
                continue;
            };
            let key =
                FlowKey { guest: Endpoint::new(guest, listener.target_port), remote: Endpoint::new(source, from.port) };
            // What is refused is reset and counted there.
            let _ = self.tcp.from_listener(client, key, &facts, &mut self.tap, &mut self.timers);
        }
    }
}
