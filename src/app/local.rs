//! The way past the link: clients on loopback of either side, joined to sockets of the other.

use std::os::fd::AsFd;

use socket2::Socket;

use super::engine::Engine;
use crate::base::{DropReason, Endpoint, Instant, PerFamily, Token};
use crate::flow::Ready;
use crate::fwd::{Local, Side};
use crate::listen::{ForwardId, Listener};
use crate::splice::{First, Namespaces};
use crate::sys::socket;

/// What became of an accepted client.
pub(super) enum Client {
    /// It has its way.
    Led,
    /// It is for the link.
    Other(Socket),
}

impl Engine {
    /// Joins a client of a listener to a socket of the other side, if that is its way.
    pub(super) fn join(&mut self, client: Socket, from: Endpoint, listener: Way, now: Instant) -> Client {
        let Some(splice) = &mut self.splice else { return self.no_way(client, listener.on) };
        let own = client.local_addr().ok().and_then(|a| a.as_socket()).map(Endpoint::from);
        let Some(own) = own else { return self.no_way(client, listener.on) };
        let target = match listener.on {
            Side::Host => {
                let guest = PerFamily::new(self.l2.guest_v4, self.l2.guest_v6);
                self.local.to_guest(&from.addr, own.addr, listener.target, &guest)
            }
            Side::Guest => listener.target.or_else(|| Local::to_host(&from.addr, own.addr)),
        };
        let Some(addr) = target else { return self.no_way(client, listener.on) };
        let f = &mut self.ports.forwarding;
        let sockets = f.namespace(listener.on.other()).sockets.as_mut();
        // What is refused is reset and counted there.
        let _ =
            splice.tcp(client, (Endpoint::new(addr, listener.target_port), 0), listener.forward.via(), sockets, now);
        Client::Led
    }

    /// One event of a socket that is joined to another.
    pub(super) fn splice_event(&mut self, token: Token, ready: Ready, now: Instant) {
        let Some(splice) = &mut self.splice else { return };
        let f = &mut self.ports.forwarding;
        let mut both = Namespaces { host: f.host.sockets.as_mut(), guest: f.guest.sockets.as_mut() };
        splice.event(token, ready, &mut both, now, &mut self.timers);
    }

    /// Goes on with joined sockets that had used up their budget.
    pub(super) fn run_splice(&mut self, now: Instant) {
        let Some(splice) = &mut self.splice else { return };
        let f = &mut self.ports.forwarding;
        let mut both = Namespaces { host: f.host.sockets.as_mut(), guest: f.guest.sockets.as_mut() };
        splice.run_pending(&mut both, now, &mut self.timers);
    }

    /// Datagrams of loopback clients that reached the host's listening sockets.
    pub(super) fn join_datagrams(&mut self, now: Instant) {
        for datagram in self.udp.handed_back() {
            let guest = PerFamily::new(self.l2.guest_v4, self.l2.guest_v6);
            let rule = datagram.rule;
            let to = self.local.to_guest(&datagram.from.addr, datagram.local.addr, rule.guest, &guest);
            let (Some(splice), Some(addr)) = (&mut self.splice, to) else {
                self.counters.drop(DropReason::Disabled);
                continue;
            };
            let first = First {
                origin: Side::Host,
                from: datagram.from,
                local: datagram.local,
                payload: &datagram.payload,
                target: Endpoint::new(addr, rule.guest_port),
                scope: 0,
                via: rule.via,
            };
            let f = &mut self.ports.forwarding;
            let mut both = Namespaces { host: f.host.sockets.as_mut(), guest: f.guest.sockets.as_mut() };
            let timers = &mut self.timers;
            // What is refused is counted there.
            let _ = self.udp.sharing(datagram.local.port, || splice.udp(&first, &mut both, now, timers));
        }
    }

    /// A client of the host goes through the link if there is one; a client of the guest has only this way.
    fn no_way(&mut self, client: Socket, on: Side) -> Client {
        if on == Side::Host && self.link.exists() {
            return Client::Other(client);
        }
        reset(&client);
        self.counters.drop(DropReason::Disabled);
        Client::Led
    }
}

/// What a listener says about its clients.
#[derive(Clone, Copy, Debug)]
pub(super) struct Way {
    pub on: Side,
    pub target: Option<crate::base::Addr>,
    pub target_port: u16,
    pub forward: ForwardId,
}

impl From<&Listener> for Way {
    fn from(l: &Listener) -> Way {
        Way { on: l.on, target: l.target, target_port: l.target_port, forward: l.forward }
    }
}

/// Closing it will send a RST.
pub(super) fn reset(client: &Socket) {
    let _ = socket::set_reset_on_close(client.as_fd());
}
