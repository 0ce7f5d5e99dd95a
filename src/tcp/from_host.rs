//! Events of host sockets: connects that end, remainders that drain, data and ends for the guest.

use std::io;
use std::os::fd::AsFd;

use super::conn::{State, Verdict};
use super::*;
use crate::guest::{Facts, Room, ToGuest};
use crate::sys::iov::{Gather, Scatter};
use crate::sys::is_exhaustion;

impl Flow {
    fn has_more_to_move(&self) -> bool {
        let waits_for_ack = self.conn.state() == State::Established && self.readable && self.conn.in_flight() > 0;
        (self.queued || waits_for_ack) && !self.conn.host_has_ended()
    }
}

impl Tcp {
    /// An event on the flow's socket. A stale id is ignored.
    pub fn from_host(&mut self, id: Id, ready: Ready, facts: &Facts<'_>, link: &mut dyn ToGuest, timers: &mut Wheel) {
        let Some(flow) = self.flows.get_mut(id) else { return };
        flow.urgent |= ready.urgent;
        if flow.conn.state() == State::Connecting {
            if ready.writable || ready.error || ready.read_closed {
                // Data may have come with the handshake's end.
                flow.readable = ready.readable;
                flow.read_closed = ready.read_closed;
                self.connect_ended(id, facts, link, timers);
            }
            return;
        }
        flow.readable |= ready.readable || ready.read_closed;
        flow.read_closed |= ready.read_closed || ready.error;
        if ready.writable && !flow.held.is_empty() {
            self.drain(id, facts, link);
        }
        if ready.readable || ready.read_closed {
            self.flows.touch(id);
            self.push(id, facts, link);
        }
        // Behind what waits for its turn, for the link or for an ACK, the error is found when that has been moved.
        if ready.error
            && self.flows.get(id).is_some_and(|flow| !flow.has_more_to_move())
            && let Some(e) = self.error(id)
        {
            self.host_failed(id, &e, facts, link);
        }
        self.arm(id, facts.now, timers);
    }

    /// A deadline of the flow has passed, perhaps an outdated one.
    pub fn on_timer(&mut self, id: Id, facts: &Facts<'_>, link: &mut dyn ToGuest, timers: &mut Wheel) {
        let Some(flow) = self.flows.get_mut(id) else { return };
        if facts.now < flow.armed {
            return;
        }
        flow.armed = Instant::FAR;
        if flow.conn.deadline() <= facts.now && link.room() == Room::Full && flow.conn.postpone(facts.now) {
            // What it has not read yet is not lost.
        } else if flow.conn.deadline() <= facts.now {
            let mut v = Verdict::default();
            flow.conn.on_timer(facts.now, &mut v);
            if v.ack {
                self.send_probe(id, facts, link);
                v.ack = false;
            }
            self.act(id, &v, &[], facts, link);
        } else {
            flow.laps = flow.laps.saturating_add(1);
        }
        self.arm(id, facts.now, timers);
    }

    /// Flows that had used up their budget have another turn.
    pub fn run_pending(&mut self, facts: &Facts<'_>, link: &mut dyn ToGuest, timers: &mut Wheel) {
        for _ in 0..self.run_queue.len() {
            let Some(id) = self.run_queue.pop_front() else { return };
            if let Some(flow) = self.flows.get_mut(id) {
                flow.queued = false;
                self.push(id, facts, link);
                self.arm(id, facts.now, timers);
            }
        }
    }

    /// The link takes frames again.
    pub fn link_ready(&mut self, facts: &Facts<'_>, link: &mut dyn ToGuest, timers: &mut Wheel) {
        for id in std::mem::take(&mut self.on_link) {
            if let Some(flow) = self.flows.get_mut(id) {
                flow.queued = false;
                self.push(id, facts, link);
                self.arm(id, facts.now, timers);
            }
        }
    }

    /// The error of the flow's socket, if it is the guest's turn to hear of it: what came before is the guest's, but while
    /// it has not answered it takes no data. Once it has, the bytes are read, then the error behind them.
    fn error(&mut self, id: Id) -> Option<io::Error> {
        let flow = self.flows.get(id)?;
        let socket = flow.socket.as_ref()?;
        if matches!(flow.conn.state(), State::SynReceived | State::SynSent) {
            match socket::peek(socket.as_fd(), &mut [Scatter::new(&mut [0])]) {
                Ok(n) if n > 0 => {
                    let found = self.seek(id, 0);
                    self.flows.get_mut(id)?.astray = !found;
                    return None;
                }
                // It is found once the guest has answered, as what came before it is.
                Err(e) if is_exhaustion(&e) => return None,
                Err(e) if e.kind() != io::ErrorKind::WouldBlock => return Some(e),
                _ => {}
            }
        }
        socket.take_error().ok().flatten()
    }

    fn connect_ended(&mut self, id: Id, facts: &Facts<'_>, link: &mut dyn ToGuest, timers: &mut Wheel) {
        let Some(socket) = self.flows.get(id).and_then(|f| f.socket.as_ref()) else { return };
        match socket.take_error() {
            Ok(None) => self.connected(id, facts, link, timers),
            Ok(Some(e)) | Err(e) => self.host_failed(id, &e, facts, link),
        }
    }

    pub(super) fn connected(&mut self, id: Id, facts: &Facts<'_>, link: &mut dyn ToGuest, timers: &mut Wheel) {
        let Some(flow) = self.flows.get_mut(id) else { return };
        flow.conn.host_connected(facts.now);
        self.send_syn(id, facts, link);
        self.arm(id, facts.now, timers);
    }

    /// The host's connection failed or was reset: the guest hears of it now.
    pub(super) fn host_failed(&mut self, id: Id, e: &io::Error, facts: &Facts<'_>, link: &mut dyn ToGuest) {
        if let Some(flow) = self.flows.get(id)
            && flow.conn.state() == State::Connecting
            && let Some(key) = self.flows.key(id).copied()
        {
            let seq = flow.conn.rcv_nxt() - 1;
            self.explain(&key, seq, e, facts, link);
        }
        self.send_reset(id, facts, link);
        self.remove(id);
    }

    /// Nothing, and no end, can be sent by the host's connection any more. What the peer sent before it closed or reset is
    /// still the guest's: an early answer, most often. It may have to wait for its turn, or for the link.
    pub(super) fn send_failed(&mut self, id: Id, e: &io::Error, facts: &Facts<'_>, link: &mut dyn ToGuest) {
        let Some(flow) = self.flows.get_mut(id) else { return };
        self.held_total -= std::mem::take(&mut flow.held).len();
        (flow.readable, flow.shut) = (true, true);
        // All that a connection can have are below 256.
        let errno = e.raw_os_error().and_then(|errno| NonZeroU8::new(errno.try_into().ok()?));
        flow.failed = errno.or(NonZeroU8::new(libc::EPIPE as u8));
        self.push(id, facts, link);
    }

    /// Gives a flow up: a RST to either side.
    pub(super) fn reset_both(&mut self, id: Id, facts: &Facts<'_>, link: &mut dyn ToGuest) {
        self.send_reset(id, facts, link);
        if let Some(s) = self.flows.get(id).and_then(|f| f.socket.as_ref()) {
            let _ = socket::set_reset_on_close(s.as_fd());
        }
        self.remove(id);
    }

    /// Sends the remainder on, and tells the guest of the window it opens.
    pub(super) fn drain(&mut self, id: Id, facts: &Facts<'_>, link: &mut dyn ToGuest) {
        let Some(flow) = self.flows.get_mut(id) else { return };
        let Some(socket) = &flow.socket else { return };
        while !flow.held.is_empty() {
            let (a, b) = flow.held.as_slices();
            match socket::send(socket.as_fd(), &[Gather::new(a), Gather::new(b)]) {
                Ok(n) => {
                    flow.held.drain(..n);
                    self.held_total -= n;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if is_exhaustion(&e) => {
                    self.starve(id);
                    break;
                }
                Err(e) => return self.send_failed(id, &e, facts, link),
            }
        }
        if let Some(flow) = self.flows.get_mut(id).filter(|f| f.held.is_empty()) {
            flow.held.shrink_to_fit();
        }
        self.shut_when_drained(id);
        if self.settle(id, facts, link) {
            return;
        }
        let Some(flow) = self.flows.get(id) else { return };
        let space = self.space(flow);
        // RFC 9293 §3.8.6.2.2: no small updates.
        if !flow.conn.guest_has_ended() && flow.conn.offer_is_worth(space, HOLD_BYTES / 4) {
            self.owe_ack(id);
        }
    }
}
