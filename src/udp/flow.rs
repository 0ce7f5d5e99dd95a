//! One flow: its host socket and what is remembered about it.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use crate::base::{Addr, Endpoint, Instant};
use crate::flow::{FlowKey, Traffic, Via};
use crate::fwd::Outbound;
use crate::guest::SentHeader;
use crate::sys::fields::{self, SendFields};
use crate::sys::{dgram, socket};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Guest,
    Host,
}

#[derive(Debug)]
pub struct Flow {
    pub socket: Socket,
    /// The peer the socket is connected to.
    pub target: Endpoint,
    pub started_by: Side,
    pub via: Via,
    /// Who sent last, and how often that changed since the first datagram.
    last_from: Side,
    turns: u8,
    pub born: Instant,
    pub last_used: Instant,
    pub traffic: Traffic,
    pub sent: Option<SentHeader>,
    pub fields: Option<SendFields>,
    /// `UDP_GRO` is on.
    pub coalesces: bool,
    /// Large buffers came lately: receive straight into areas of the link.
    pub large: bool,
    /// In the run queue.
    pub queued: bool,
}

impl Flow {
    pub fn new(socket: Socket, target: Endpoint, started_by: Side, now: Instant) -> Flow {
        Flow {
            socket,
            target,
            started_by,
            via: Via::NOTHING,
            last_from: started_by,
            turns: 0,
            born: now,
            last_used: now,
            traffic: Traffic::default(),
            sent: None,
            fields: None,
            coalesces: false,
            large: false,
            queued: false,
        }
    }

    /// To the target of its forward, and back.
    pub fn passed(&self) -> (u64, u64) {
        (self.traffic.to_guest.bytes, self.traffic.from_guest.bytes)
    }

    /// Nobody has answered yet.
    pub fn is_one_way(&self) -> bool {
        self.turns == 0
    }

    /// Whether they have answered each other.
    pub fn state(&self) -> &'static str {
        match self.turns {
            0 => "one-way",
            1 => "answered",
            _ => "both-ways",
        }
    }

    /// Counts a datagram or a batch of them.
    pub fn note(&mut self, from: Side, now: Instant) {
        if from != self.last_from {
            self.last_from = from;
            self.turns = self.turns.saturating_add(1);
        }
        self.last_used = now;
    }

    /// True if the send failed for want of a source address that the host has, and there is one again. Only the flow of a guest
    /// may come from another; a peer outside knows that of its own.
    pub fn renew(&self, e: &io::Error, scope: u32) -> bool {
        socket::is_of_source(e) && self.started_by == Side::Guest && self.renew_source(scope, socket::has_address)
    }

    /// See [`socket::renew_source`].
    pub fn renew_source(&self, scope: u32, has: impl FnOnce(IpAddr) -> bool) -> bool {
        socket::renew_source(&self.socket, self.target.to_std_scoped(scope), scope, has)
    }

    /// How long the flow lives without a datagram; see the module's theory of operation.
    pub fn timeout(&self, key: &FlowKey, short: Duration, long: Duration) -> Duration {
        let service = match self.started_by {
            Side::Guest => key.remote.port,
            Side::Host => key.guest.port,
        };
        // There and back and there again: a second exchange.
        if self.turns < 2 && service < 1024 { short } else { long }
    }
}

/// A socket for a flow that the guest started: bound to `port` if that is free, connected to `target`.
///
/// # Errors
/// The kernel's; from `connect` they tell about the route.
pub fn open(port: u16, target: Endpoint, outbound: &Outbound, binding: &Mutex<()>) -> io::Result<Socket> {
    let socket = new_socket(target.addr.is_v4())?;
    let (device, own) = outbound.binding(&target.addr);
    if let Some(device) = device {
        socket.bind_device(Some(device.to_bytes()))?;
    }
    let _guard = alone(binding);
    bind_preferring(&socket, own, port)?;
    dgram::connect(&socket, target.to_std_scoped(outbound.scope), outbound.scope)?;
    // From here on other flows of the same guest port may share it: connected sockets are told apart by their peers.
    socket.set_reuse_address(true)?;
    Ok(socket)
}

/// A socket for a flow that a peer on the host's side started: answers from the address and port the peer sent to.
///
/// # Errors
/// The kernel's.
pub fn open_inbound(local: Endpoint, peer: Endpoint, scope: u32, binding: &Mutex<()>) -> io::Result<Socket> {
    let socket = new_socket(peer.addr.is_v4())?;
    socket.set_reuse_address(true)?;
    let _guard = alone(binding);
    socket.bind(&local.to_std_scoped(scope).into())?;
    dgram::connect(&socket, peer.to_std_scoped(scope), scope)?;
    Ok(socket)
}

fn alone(binding: &Mutex<()>) -> MutexGuard<'_, ()> {
    binding.lock().unwrap_or_else(PoisonError::into_inner)
}

fn new_socket(v4: bool) -> io::Result<Socket> {
    let domain = if v4 { Domain::IPV4 } else { Domain::IPV6 };
    let socket = socket::open(domain, Type::DGRAM, Some(Protocol::UDP))?;
    if !v4 {
        socket.set_only_v6(true)?;
    }
    fields::ask_for_details(socket.as_fd(), v4)?;
    Ok(socket)
}

fn bind_preferring(socket: &Socket, own: Addr, port: u16) -> io::Result<()> {
    let to = |port| socket.bind(&Endpoint::new(own, port).to_std_scoped(0).into());
    let Err(e) = to(port) else { return Ok(()) };
    match e.raw_os_error() {
        // Taken, by another flow of the guest's port or by a listener of ours perhaps: those share. Alone we do not.
        Some(libc::EADDRINUSE) => {
            socket.set_reuse_address(true)?;
            to(port).or_else(|_| to(0))
        }
        // A privileged port.
        Some(libc::EACCES) => to(0),
        _ => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    fn loopback(v4: bool) -> UdpSocket {
        UdpSocket::bind(if v4 { "127.0.0.1:0" } else { "[::1]:0" }).unwrap()
    }

    fn port_of(s: &Socket) -> u16 {
        s.local_addr().unwrap().as_socket().unwrap().port()
    }

    #[test]
    fn the_guest_port_is_kept_for_every_peer_and_given_up_when_a_stranger_has_it() {
        for v4 in [true, false] {
            let (a, b) = (loopback(v4), loopback(v4));
            let free =
                port_of(&open(0, a.local_addr().unwrap().into(), &Outbound::default(), &Mutex::default()).unwrap());
            let one = open(free, a.local_addr().unwrap().into(), &Outbound::default(), &Mutex::default()).unwrap();
            let two = open(free, b.local_addr().unwrap().into(), &Outbound::default(), &Mutex::default()).unwrap();
            assert_eq!((port_of(&one), port_of(&two)), (free, free));
            let taken = a.local_addr().unwrap().port();
            let other = open(taken, b.local_addr().unwrap().into(), &Outbound::default(), &Mutex::default()).unwrap();
            assert!(port_of(&other) != taken && port_of(&other) != 0);
        }
    }

    #[test]
    fn second_exchanges_and_high_ports_live_longer() {
        let (short, long) = (Duration::from_secs(30), Duration::from_secs(120));
        let peer = loopback(true);
        let target: Endpoint = peer.local_addr().unwrap().into();
        let key = |port| FlowKey { guest: Endpoint::new(target.addr, 5000), remote: Endpoint::new(target.addr, port) };
        let mut f = Flow::new(
            open(0, target, &Outbound::default(), &Mutex::default()).unwrap(),
            target,
            Side::Guest,
            Instant::ZERO,
        );
        for (from, expect) in [(Side::Guest, short), (Side::Host, short), (Side::Host, short), (Side::Guest, long)] {
            f.note(from, Instant::ZERO);
            assert_eq!((f.timeout(&key(53), short, long), f.timeout(&key(5353), short, long)), (expect, long));
        }
    }
}
