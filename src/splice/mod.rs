//! The splice path: sockets of two network namespaces joined, without Layer 2.
//!
//! # Goals
//! Connections between loopback of one namespace and programs in the other at the cost of two sockets and no copy. This
//! engine knows nothing of namespaces: it gets clients, targets, and a way to make sockets ([`Sockets`]) in each.
//!
//! # TCP
//! A client that a listener accepted ([`Splice::tcp`]) waits until the connect to its target ends: what it sends meanwhile
//! stays in its socket. Then each direction is a *lane* (`lane`) that moves bytes until one of the sockets would block.
//! A lane reads in one of three ways:
//! * *copy*: up to 16 KiB through a buffer of ours: two system calls a message, the least latency. What the target does not
//!   take is kept (16 MiB for all lanes together);
//! * *splice*: after a read that filled the buffer: pages go through a borrowed pipe, up to 1 MiB a turn;
//! * *peek*, when all pipes are lent or too much is kept: copy, send, and take from the queue only what was sent.
//!
//! A lane whose target is full waits for its writability and nothing else; edges of the source do not make it try. So a
//! stalled receiver costs no cycles, and keeps at most one pipe; 32 of them leave the others the third way.
//!
//! Ends: when all before it has been sent, an end of stream is passed on (`shutdown`); when both lanes have ended, both
//! sockets are closed. A reset or timeout of one side, seen in an event or a call, is passed on as a reset after what that
//! side had sent before, as far as the other takes it at once. A failed connect resets the client.
//!
//! Urgent data is delivered in line.
//!
//! # UDP
//! A flow begins with a datagram that reached a listening socket ([`Splice::udp`], or a socket of ours: [`Splice::listen_udp`]).
//! It has a socket bound to the address the client sent to and connected to the client, so that answers come from there
//! (127.0.0.9 answers from 127.0.0.9), and one connected to the target. The kernel prefers the first to the listening
//! socket from then on; what reached either in between is handed on. Datagrams move in batches, boundaries kept; equal sizes
//! leave as one `UDP_SEGMENT` send, coalesced ones as they came (`UDP_GRO`). Errors (nobody listens) end with us. A full
//! send buffer drops, counted.
//!
//! # Timers
//! TCP: none to end a connection, both ends being kernels on this host, which do not die silently; one a bulk transfer, to
//! see whether it pauses (`pace`). UDP: one deadline per flow as for all UDP here
//! (RFC 4787 REQ-5): `short` for a flow to a port below 1024 without a second exchange, `long` for any other; traffic of
//! either side prolongs.
//!
//! # Fairness
//! A lane yields after 1 MiB, a UDP socket after 256 datagrams; [`Splice::run_pending`] goes on with them.
//!
//! # Limits
//! Two descriptors a flow. A full table, or a lack of descriptors: TCP newcomers are reset; for UDP the flow unused for
//! longest makes room, unless it was in use within the last second. Pipes: 32, up to 1 MiB each, four kept when idle.
//!
//! System calls: those of [`crate::sys::sockets`] (or of whoever makes sockets), connect, setsockopt, getsockname
//! (listening, once), epoll_ctl, read, sendmsg, splice, pipe2, fcntl (`F_SETPIPE_SZ`; listening, once), recvmsg and
//! recvfrom (peek and discard; the error queue), getpeername (a reset during connect), shutdown, recvmmsg, sendmmsg, close.

mod audit;
mod datagram;
mod lane;
mod listen;
mod pace;
mod pipes;
mod stream;

#[cfg(test)]
mod tests;

use std::io;
use std::time::Duration;

use mio::Registry;
use socket2::Socket;

use crate::base::{Counters, DropReason, Endpoint, Instant, Kind, Token};
use crate::flow::{Id, KeySecret, Ledger, Pending, Ready, Sight, Via, Wheel};
use crate::fwd::Side;
use crate::sys::sockets::Sockets;
use datagram::Datagrams;
pub use listen::Rule;
use stream::{CLIENT, Streams, TARGET};

/// What the engine is told once.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Flows at most; each needs two descriptors.
    pub tcp_limit: usize,
    pub udp_limit: usize,
    /// Life of an idle UDP flow without a second exchange, to a well-known port (`nf_conntrack_udp_timeout`).
    pub short: Duration,
    /// Life of any other idle UDP flow (`nf_conntrack_udp_timeout_stream`).
    pub long: Duration,
}

/// Makers of sockets in either namespace.
pub struct Namespaces<'a> {
    pub host: &'a mut dyn Sockets,
    pub guest: &'a mut dyn Sockets,
}

/// A datagram that reached a listening socket.
#[derive(Clone, Copy, Debug)]
pub struct First<'a> {
    /// The namespace in which the flow begins.
    pub origin: Side,
    pub from: Endpoint,
    /// Where it was sent to; answers come from there.
    pub local: Endpoint,
    pub payload: &'a [u8],
    /// In the other namespace.
    pub target: Endpoint,
    /// Interface of a link-local target, or 0.
    pub scope: u32,
    /// The forward that the listening socket belongs to.
    pub via: Via,
}

/// The engine: all spliced flows.
pub struct Splice {
    streams: Streams,
    datagrams: Datagrams,
    counters: Counters,
}

impl Splice {
    /// Descriptors of all pipes, beside those of flows.
    pub const PIPE_DESCRIPTORS: usize = 2 * pipes::PIPES_MAX;

    /// `registry`: of the poll that delivers events with tokens whose kinds begin with `Splice`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new(registry: Registry, secret: KeySecret, config: Config) -> io::Result<Splice> {
        Ok(Splice {
            streams: Streams::new(registry.try_clone()?, config.tcp_limit),
            datagrams: Datagrams::new(registry, secret, &config),
            counters: Counters::default(),
        })
    }

    /// Flows there may be from now on; those beyond stay.
    pub fn set_limits(&mut self, tcp: usize, udp: usize) {
        self.streams.set_limit(tcp);
        self.datagrams.set_limit(udp);
    }

    /// A client that a listener accepted, non-blocking, to be led to `target` in the namespace of `sockets`; `scope`: the
    /// interface of a link-local target, or 0; `via`: the forward it came by.
    ///
    /// # Errors
    /// Why there is no flow; the client has been reset, and it is counted.
    pub fn tcp(
        &mut self,
        client: Socket,
        (target, scope): (Endpoint, u32),
        via: Via,
        sockets: &mut dyn Sockets,
        now: Instant,
    ) -> Result<(), DropReason> {
        self.streams.open(client, (target, scope), via, sockets, now).inspect_err(|reason| self.counters.drop(*reason))
    }

    /// A datagram that reached a listening socket of somebody else's: the first of a client, or one of a few more until its
    /// flow's own socket takes over.
    ///
    /// # Errors
    /// Why it was not forwarded; it is counted.
    pub fn udp(
        &mut self,
        first: &First<'_>,
        namespaces: &mut Namespaces<'_>,
        now: Instant,
        timers: &mut Wheel,
    ) -> Result<(), DropReason> {
        self.datagrams.first(first, namespaces, now, timers, &mut self.counters)
    }

    /// Takes over a bound UDP socket; its events have the kind `SpliceListenUdp` and the returned id.
    ///
    /// # Errors
    /// The kernel's.
    pub fn listen_udp(&mut self, socket: Socket, rule: Rule) -> io::Result<Id> {
        self.datagrams.listen(socket, rule)
    }

    /// Closes such a socket; flows that began there live on.
    pub fn unlisten_udp(&mut self, id: Id) {
        self.datagrams.unlisten(id);
    }

    /// An event of any socket of ours. A stale token is ignored.
    pub fn event(
        &mut self,
        token: Token,
        ready: Ready,
        namespaces: &mut Namespaces<'_>,
        now: Instant,
        timers: &mut Wheel,
    ) {
        let id = id(token);
        let counters = &mut self.counters;
        match token.kind {
            Kind::SpliceClient => self.streams.event(CLIENT, id, ready, (now, timers), counters),
            Kind::SpliceTarget => self.streams.event(TARGET, id, ready, (now, timers), counters),
            Kind::SpliceUdpClient => self.datagrams.event(CLIENT, id, ready, now, counters),
            Kind::SpliceUdpTarget => self.datagrams.event(TARGET, id, ready, now, counters),
            Kind::SpliceListenUdp => self.datagrams.listener_event(id, ready, namespaces, now, timers, counters),
            _ => {}
        }
    }

    /// A deadline that was armed with a token of one of our kinds.
    pub fn on_timer(&mut self, token: Token, now: Instant, timers: &mut Wheel) {
        match token.kind {
            Kind::SpliceClient => self.streams.on_timer(CLIENT, id(token), now, timers),
            Kind::SpliceTarget => self.streams.on_timer(TARGET, id(token), now, timers),
            _ => self.datagrams.on_timer(id(token), now, timers),
        }
    }

    /// Whether, and when, to call [`Splice::run_pending`].
    pub fn pending(&self) -> Pending {
        Pending::of(self.streams.has_pending() || self.datagrams.has_pending(), false)
    }

    /// Goes on with sockets that had used up their budget: one turn each.
    pub fn run_pending(&mut self, namespaces: &mut Namespaces<'_>, now: Instant, timers: &mut Wheel) {
        self.streams.run_pending(now, timers);
        for _ in 0..self.datagrams.queue.len() {
            let Some(token) = self.datagrams.queue.pop_front() else { break };
            let (id, counters) = (id(token), &mut self.counters);
            match token.kind {
                Kind::SpliceListenUdp => self.datagrams.resume_listener(id, namespaces, now, timers, counters),
                Kind::SpliceUdpClient => self.datagrams.resume(CLIENT, id, now, counters),
                _ => self.datagrams.resume(TARGET, id, now, counters),
            }
        }
    }

    /// True if [`Splice::retry`] is to be called after a while: the kernel has had no memory for some of what there is to do, and
    /// no event tells when it has.
    pub fn is_starved(&self) -> bool {
        self.streams.is_starved() || !self.datagrams.starved.is_empty()
    }

    /// The host may have memory again: all that waits for it is pending now.
    pub fn retry(&mut self) {
        self.streams.retry();
        self.datagrams.queue.extend(self.datagrams.starved.drain(..));
    }

    /// Every flow.
    pub fn views(&self, now: Instant) -> impl Iterator<Item = Sight<'_>> {
        self.streams.views(now).chain(self.datagrams.views(now))
    }

    /// Adds what has come by forwards.
    pub fn passed(&self, sums: &mut Ledger) {
        self.streams.passed(sums);
        self.datagrams.passed(sums);
    }

    /// A forward is no more.
    pub fn forget(&mut self, via: Via) {
        self.streams.forget(via);
        self.datagrams.forget(via);
    }

    /// Clients refused and datagrams lost.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Flows there are.
    pub fn len(&self) -> usize {
        self.tcp_len() + self.udp_len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Connections there are.
    pub fn tcp_len(&self) -> usize {
        self.streams.len()
    }

    /// UDP flows there are.
    pub fn has_udp(&self, id: Id) -> bool {
        self.datagrams.has(id)
    }

    pub fn udp_len(&self) -> usize {
        self.datagrams.len()
    }
}

impl std::fmt::Debug for Splice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Splice({} TCP flows, {} UDP flows)", self.streams.len(), self.datagrams.len())
    }
}

impl Namespaces<'_> {
    /// Where a flow begins, and where its target is.
    fn of(&mut self, origin: Side) -> (&mut dyn Sockets, &mut dyn Sockets) {
        match origin {
            Side::Host => (self.host, self.guest),
            Side::Guest => (self.guest, self.host),
        }
    }
}

fn id(token: Token) -> Id {
    Id { index: token.index, generation: token.generation }
}
