//! TCP connections: an accepted socket and one connected in the other namespace.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

use mio::{Interest, Registry};
use socket2::Socket;

use super::lane::{Lane, Means, Stop};
use super::pace::Pace;
use crate::base::{Addr, Counters, DropReason, Endpoint, Instant, Kind, Token};
use crate::flow::{Amount, Id, Ledger, Protocol, Ready, Sight, Slab, Traffic, Via, View, Wheel};
use crate::sys::sockets::{Sockets, Transport, Wanted};
use crate::sys::{is_exhaustion, socket, sockopt, watch};

/// All connections.
#[derive(Debug)]
pub struct Streams {
    registry: Registry,
    pub(super) flows: Slab<Flow>,
    limit: usize,
    ledger: Ledger,
    pub(super) means: Means,
    /// Connections that have used up their budget.
    pub(super) queue: VecDeque<Id>,
    /// Connections that wait for memory of the host's.
    pub(super) starved: Vec<Id>,
}

#[derive(Debug)]
pub(super) struct Flow {
    /// Client and target.
    pub(super) sockets: [Socket; 2],
    /// What each of them sends.
    pub(super) lanes: [Lane; 2],
    /// The target has not answered yet: what the client sends waits in its socket.
    pub(super) connecting: bool,
    /// The end of this side's stream was passed on.
    pub(super) shut: [bool; 2],
    /// In the run queue, or waiting for memory.
    pub(super) queued: bool,
    target: Endpoint,
    via: Via,
    born: Instant,
    last_used: Instant,
    /// What each of them has sent, in runs and bytes.
    sent: [Amount; 2],
}

pub const CLIENT: usize = 0;
pub const TARGET: usize = 1;
/// Bytes a lane may move before others have their turn.
const BUDGET_BYTES: usize = 1 << 20;

impl Streams {
    pub fn new(registry: Registry, limit: usize) -> Streams {
        let (queue, starved) = (VecDeque::new(), Vec::new());
        let (flows, ledger) = (Slab::default(), Ledger::default());
        Streams { registry, flows, limit, ledger, means: Means::new(), queue, starved }
    }

    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    pub fn len(&self) -> usize {
        self.flows.len()
    }

    pub fn has_pending(&self) -> bool {
        !self.queue.is_empty()
    }

    pub fn is_starved(&self) -> bool {
        !self.starved.is_empty()
    }

    /// The host may have memory again.
    pub fn retry(&mut self) {
        self.queue.extend(self.starved.drain(..));
    }

    /// Connects a client to its target. On failure the client is reset.
    pub fn open(
        &mut self,
        client: Socket,
        (target, scope): (Endpoint, u32),
        via: Via,
        sockets: &mut dyn Sockets,
        now: Instant,
    ) -> Result<(), DropReason> {
        if self.flows.len() >= self.limit {
            reset(&client);
            return Err(DropReason::FlowTableFull);
        }
        let made = self.connect(&client, target, scope, sockets);
        match made {
            Ok(socket) => {
                self.ledger.begin(via);
                self.flows.insert(Flow {
                    target,
                    via,
                    born: now,
                    last_used: now,
                    sent: Default::default(),
                    sockets: [client, socket],
                    lanes: [Lane::new(), Lane::new()],
                    connecting: true,
                    shut: [false; 2],
                    queued: false,
                });
                Ok(())
            }
            Err(e) => {
                reset(&client);
                Err(if is_exhaustion(&e) { DropReason::HostResources } else { DropReason::HostSend })
            }
        }
    }

    fn connect(
        &mut self,
        client: &Socket,
        target: Endpoint,
        scope: u32,
        sockets: &mut dyn Sockets,
    ) -> io::Result<Socket> {
        let wanted = Wanted { transport: Transport::Tcp, family: target.addr.family(), bind: None };
        let socket = sockets.make(&wanted)?;
        prepare(client)?;
        prepare(&socket)?;
        match socket::connect(&socket, &target.to_std_scoped(scope).into()) {
            Err(e) if e.raw_os_error() != Some(libc::EINPROGRESS) => return Err(e),
            _ => {}
        }
        let id = self.flows.next_id();
        self.register(client, CLIENT, id)?;
        self.register(&socket, TARGET, id)?;
        Ok(socket)
    }

    fn register(&self, socket: &Socket, side: usize, id: Id) -> io::Result<()> {
        let interest = Interest::READABLE | Interest::WRITABLE | Interest::PRIORITY;
        watch::add(&self.registry, socket.as_raw_fd(), mio::Token(token(side, id).to_usize()), interest)
    }

    /// An event of one of a connection's sockets; `side`: which.
    pub fn event(
        &mut self,
        side: usize,
        id: Id,
        ready: Ready,
        (now, timers): (Instant, &mut Wheel),
        counters: &mut Counters,
    ) {
        let Some(flow) = self.flows.get_mut(id) else {
            return;
        };
        let lane = &mut flow.lanes[side];
        lane.readable |= ready.readable || ready.read_closed;
        lane.read_closed |= ready.read_closed || ready.error;
        lane.urgent |= ready.urgent;
        if ready.writable {
            flow.lanes[1 - side].blocked = false;
        }
        if ready.error {
            if side == TARGET && flow.connecting {
                counters.drop(DropReason::HostSend);
            }
            return self.fail(side, id, now);
        }
        if side == TARGET && ready.writable {
            flow.connecting = false;
        }
        self.run(id, now, timers);
    }

    /// Connections that had used up their budget have another turn.
    pub fn run_pending(&mut self, now: Instant, timers: &mut Wheel) {
        for _ in 0..self.queue.len() {
            let Some(id) = self.queue.pop_front() else { return };
            if let Some(flow) = self.flows.get_mut(id) {
                flow.queued = false;
                self.run(id, now, timers);
            }
        }
    }

    /// Moves what can be moved in both directions.
    fn run(&mut self, id: Id, now: Instant, timers: &mut Wheel) {
        let Some(flow) = self.flows.get_mut(id) else { return };
        if flow.connecting {
            return;
        }
        let (mut again, mut starves) = (false, false);
        for side in [CLIENT, TARGET] {
            if flow.shut[side] || !flow.lanes[side].can_move() {
                continue;
            }
            let (from, to) = (&flow.sockets[side], &flow.sockets[1 - side]);
            let (moved, stop) = flow.lanes[side].pump(from, to, BUDGET_BYTES, &mut self.means, now);
            if moved > 0 {
                flow.sent[side].add(1, moved);
                flow.last_used = now;
            }
            match stop {
                Ok(Stop::Waits) => {
                    let lane = &mut flow.lanes[side];
                    if lane.is_dry()
                        && let Some(bytes) = lane.pace.report_bytes(now)
                        && report(from, bytes)
                    {
                        lane.pace.coarse = true;
                        timers.arm(now + Pace::PAUSE, token(side, id));
                    }
                }
                Ok(Stop::Budget) => again = true,
                Ok(Stop::Starved) => starves = true,
                Ok(Stop::Ended) => {
                    flow.shut[side] = true;
                    // When both have ended, closing says the same.
                    if !flow.shut[1 - side] {
                        let _ = to.shutdown(std::net::Shutdown::Write);
                    }
                }
                Err(_) => {
                    // What the other side has sent may not have been told of yet.
                    let other = &mut flow.lanes[1 - side];
                    (other.readable, other.read_closed, other.blocked) = (true, true, false);
                    return self.fail(1 - side, id, now);
                }
            }
        }
        if flow.shut == [true; 2] {
            self.remove(id);
        } else if (again || starves) && !std::mem::replace(&mut flow.queued, true) {
            if again { self.queue.push_back(id) } else { self.starved.push(id) }
        }
    }

    /// Time to see whether a bulk transfer pauses.
    pub fn on_timer(&mut self, side: usize, id: Id, now: Instant, timers: &mut Wheel) {
        let Some(flow) = self.flows.get_mut(id) else {
            return;
        };
        if !flow.lanes[side].pace.coarse {
            return;
        }
        if !flow.lanes[side].pace.has_paused(now) {
            timers.arm(now + Pace::PAUSE, token(side, id));
        } else if !report(&flow.sockets[side], 1) {
            // What it has sent last would wait for ever.
            flow.lanes[side].pace.coarse = true;
            timers.arm(now + Pace::PAUSE, token(side, id));
        }
    }

    /// One side was reset or has timed out: what it sent before goes to the other as far as that takes it now, then a
    /// reset.
    fn fail(&mut self, side: usize, id: Id, now: Instant) {
        if let Some(flow) = self.flows.get_mut(id)
            && flow.may_have_come_from(side)
            && !flow.shut[side]
        {
            // No more will come, so that the kernel's receive buffer bounds this.
            let (from, to) = (&flow.sockets[side], &flow.sockets[1 - side]);
            let _ = flow.lanes[side].pump(from, to, usize::MAX, &mut self.means, now);
        }
        self.abort(id);
    }

    /// Ends a connection with a reset to both sides.
    fn abort(&mut self, id: Id) {
        if let Some(flow) = self.flows.get(id) {
            flow.sockets.iter().for_each(reset);
        }
        self.remove(id);
    }

    /// Closing the sockets takes them out of epoll.
    fn remove(&mut self, id: Id) {
        if let Some(mut flow) = self.flows.remove(id) {
            self.ledger.bytes(flow.via, flow.passed());
            flow.lanes.iter_mut().for_each(|l| l.release(&mut self.means));
        }
    }

    pub fn views(&self, now: Instant) -> impl Iterator<Item = Sight<'_>> {
        self.flows.iter().map(move |(_, flow)| flow.view(now))
    }

    pub fn passed(&self, sums: &mut Ledger) {
        sums.add_living(&self.ledger, self.flows.iter().map(|(_, flow)| (flow.via, flow.passed())));
    }

    pub fn forget(&mut self, via: Via) {
        self.ledger.forget(via, self.flows.values_mut().map(|flow| &mut flow.via));
    }

    #[cfg(test)]
    pub fn means(&mut self) -> &mut Means {
        &mut self.means
    }
}

impl Flow {
    fn view(&self, now: Instant) -> Sight<'_> {
        let nobody = Endpoint::new(Addr::unspecified(self.target.addr.family()), 0);
        let state = match (self.connecting, self.shut) {
            (true, _) => "connecting",
            (false, [false, false]) => "established",
            (false, _) => "half-closed",
        };
        let view = View {
            traffic: Traffic { from_guest: self.sent[CLIENT], to_guest: self.sent[TARGET] },
            waits_for: if self.queued {
                Some("turn")
            } else if self.lanes.iter().any(|lane| lane.blocked) {
                Some("a side to take data")
            } else {
                None
            },
            ..View::new(Protocol::TcpSplice, (nobody, self.target), (self.born, self.last_used), state, now)
        };
        Sight { view, host: Some(&self.sockets[TARGET]), client: Some(&self.sockets[CLIENT]) }
    }

    /// To the target, and back.
    fn passed(&self) -> (u64, u64) {
        (self.sent[CLIENT].bytes, self.sent[TARGET].bytes)
    }

    /// True if bytes of this side may be there for the other. Between two kernels a connection is made, used and reset
    /// before we hear that it was made.
    fn may_have_come_from(&self, side: usize) -> bool {
        // getpeername(2) knows no peer before the target has answered.
        !self.connecting || side == TARGET || self.sockets[TARGET].peer_addr().is_ok()
    }
}

pub(super) fn token(side: usize, id: Id) -> Token {
    let kind = if side == CLIENT { Kind::SpliceClient } else { Kind::SpliceTarget };
    Token::new(kind, id.index, id.generation)
}

/// Has arrivals reported when there are `bytes` of them; what is there already is reported at once.
fn report(socket: &Socket, bytes: i32) -> bool {
    sockopt::set(socket.as_fd(), libc::SOL_SOCKET, libc::SO_RCVLOWAT, bytes).is_ok()
}

/// Closing it will send a RST.
fn reset(socket: &Socket) {
    let _ = socket::set_reset_on_close(socket.as_fd());
}

fn prepare(socket: &Socket) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    // Urgent data taken out of the stream would be lost: it is handed on in line (RFC 6093 §6).
    socket.set_out_of_band_inline(true)
}
