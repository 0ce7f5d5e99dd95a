//! Segments of the guest: into the state machine, payload into the socket.

use std::io;
use std::net::Shutdown;
use std::os::fd::AsFd;

use arrayvec::ArrayVec;

use super::conn::{State, Verdict};
use super::*;
use crate::base::Endpoint;
use crate::guest::{Facts, Frame, Lane, ToGuest};
use crate::sys::iov::Gather;
use crate::sys::is_exhaustion;
use crate::wire::{Gso, Packet, TcpFlags, TcpHeader, Transport};

/// Payload pieces of one `sendmsg`: a batch of whole frames, or fewer that lie in many pieces.
const PIECES: usize = 192;

/// A flow is [`Lane::Bulk`] once so much has come between two acknowledgments: more than a frame, and with a few others like
/// it there would be no more in what a link brings at a time.
const BULK_BYTES: u32 = 96 << 10;
/// And until, for a second at least, there was no such burst and less than this came,
const BULK_BYTES_A_SECOND: usize = 1 << 20;
const SECOND: Duration = Duration::from_secs(1);
/// but as often as this without a pause, and at last as little as this: then it is one of questions and answers, and nothing
/// waits in a queue behind what was read. After a pause a window may.
const EXCHANGES: u32 = 16;
const PAUSE: Duration = Duration::from_millis(200);
const LITTLE_BYTES: u32 = 16 << 10;

impl Tcp {
    /// Consecutive segments of one flow, in order of arrival; checksums have been verified.
    pub fn from_guest(
        &mut self,
        mut run: &[(Packet, Frame<'_>)],
        facts: &Facts<'_>,
        link: &mut dyn ToGuest,
        timers: &mut Wheel,
    ) {
        while let Some((packet, _)) = run.first() {
            let Transport::Tcp(t) = packet.transport else { return };
            let key =
                FlowKey { guest: Endpoint::new(packet.src, t.src_port), remote: Endpoint::new(packet.dst, t.dst_port) };
            let done = match self.flows.find(&key) {
                Some(id) if !self.is_replaced_by(id, &t) => self.known(id, run, facts, link, timers),
                _ => {
                    self.unknown(packet, &t, &key, facts, link, timers);
                    1
                }
            };
            run = &run[done..];
        }
    }

    fn is_replaced_by(&self, id: Id, t: &TcpHeader) -> bool {
        t.flags & (TcpFlags::SYN | TcpFlags::ACK | TcpFlags::RST) == TcpFlags::SYN
            && self.flows.get(id).is_some_and(|f| f.held.is_empty() && f.conn.may_be_replaced_by(t))
    }

    /// Returns how many segments of the run were dealt with, at least one.
    fn known(
        &mut self,
        id: Id,
        run: &[(Packet, Frame<'_>)],
        facts: &Facts<'_>,
        link: &mut dyn ToGuest,
        timers: &mut Wheel,
    ) -> usize {
        self.flows.touch(id);
        let place = (self.with_holes + 1) * AHEAD_BYTES as usize <= AHEAD_TOTAL_BYTES;
        let mut room = self.room_if_held_is_full(id);
        let Some(flow) = self.flows.get_mut(id) else { return 1 };
        let had_hole = flow.ahead.is_some();
        flow.conn.may_hold(place || had_hole);
        let mut pieces: ArrayVec<Gather<'_>, PIECES> = ArrayVec::new();
        let (mut v, mut last, mut done, mut bytes) = (Verdict::default(), None, 0, 0);
        for (packet, frame) in run {
            let Transport::Tcp(mut t) = packet.transport else { break };
            let mut len = packet.payload_len;
            let wire_size = if let Gso::Tcp(size) = frame.offload.gso { usize::from(size) } else { packet.payload_len };
            // Whether the payload lies in more pieces than there is room for must be known before it is accepted.
            let parts = frame.pieces(packet.payload, packet.payload_len);
            if parts.len() > pieces.remaining_capacity() {
                break;
            }
            done += 1;
            // RFC 1337 §3: the guest does not know the connection any more, whose remainder is still the server's.
            if t.flags.contains(TcpFlags::RST) && flow.conn.state() == State::TimeWait && !flow.held.is_empty() {
                self.counters.drop(DropReason::TcpResetInvalid);
                continue;
            }
            if cut_to(&mut room, &mut t, &mut len) {
                self.counters.drop(DropReason::TcpHeldFull);
                v.ack = true;
                if len == 0 {
                    continue;
                }
            }
            last = Some((t, len));
            match flow.conn.on_segment(&t, packet.sack(frame.head), len, wire_size, facts.now, &mut v) {
                Ok(a) => {
                    bytes += a.take;
                    let taken = frame.pieces(packet.payload + a.skip, a.take);
                    if a.ahead { flow.hold(seq::Seq(t.seq), taken) } else { pieces.extend(taken) }
                }
                Err(reason) => self.counters.drop(reason),
            }
            if v.reset_by_guest || v.refuse || v.stored.is_some() || flow.conn.state() == State::Closed {
                break;
            }
        }
        if flow.has_become_bulk(bytes, facts.now) {
            link.diverts();
        }
        flow.traffic.from_guest.add(done, bytes);
        self.with_holes += usize::from(flow.ahead.is_some() && !had_hole);
        if v.refuse
            && let Some((t, len)) = last
            && let Some(key) = self.flows.key(id).copied()
        {
            self.refuse(&t, len, &key, facts, link);
        }
        self.act(id, &v, &pieces, facts, link);
        self.arm(id, facts.now, timers);
        done.max(1)
    }

    /// Carries out what the state machine decided. The flow may be gone afterwards.
    pub(super) fn act(
        &mut self,
        id: Id,
        v: &Verdict,
        pieces: &[Gather<'_>],
        facts: &Facts<'_>,
        link: &mut dyn ToGuest,
    ) {
        if v.abort {
            return self.reset_both(id, facts, link);
        }
        let Some(flow) = self.flows.get_mut(id) else { return };
        if v.acked > 0 {
            flow.spent += v.acked as usize;
            self.discard(id);
        }
        let Some(flow) = self.flows.get_mut(id) else { return };
        if v.established && flow.half_open {
            flow.half_open = false;
            self.half_open -= 1;
        }
        let delivered = if pieces.is_empty() { Ok(()) } else { self.deliver(id, pieces) };
        let stored = self.deliver_stored(id, v.stored.filter(|_| delivered.is_ok()));
        let delivered = delivered.and(stored);
        if v.reset_by_guest {
            if let Some(s) = self.flows.get(id).and_then(|f| f.socket.as_ref()) {
                let _ = socket::set_reset_on_close(s.as_fd());
            }
            return self.remove(id);
        }
        if let Err(e) = delivered {
            return self.send_failed(id, &e, facts, link);
        }
        if v.guest_fin {
            self.shut_when_drained(id);
        }
        if v.resend {
            self.resend(id, facts, link);
        }
        for _ in 0..v.dup_acks {
            self.send_ack(id, facts, link);
        }
        // Duplicates repeat the old window; data accepted beside them needs an ACK with a new one.
        if v.ack {
            self.owe_ack(id);
        }
        if v.established || v.may_send || v.acked > 0 {
            self.push(id, facts, link);
        }
        self.settle(id, facts, link);
    }

    /// Lets go of what is over towards the guest: the socket, or all, but not before the remainder has left for it.
    /// True if nothing is left to be done with the socket.
    pub(super) fn settle(&mut self, id: Id, facts: &Facts<'_>, link: &mut dyn ToGuest) -> bool {
        let Some(flow) = self.flows.get(id) else { return true };
        let (state, drained) = (flow.conn.state(), flow.held.is_empty());
        if !matches!(state, State::Closed | State::TimeWait) {
            return false;
        }
        if flow.ack_owed && state == State::TimeWait {
            self.send_ack(id, facts, link);
        }
        if drained && state == State::Closed {
            self.remove(id);
        } else if drained
            && let Some(flow) = self.flows.get_mut(id)
            && flow.socket.take().is_some()
        {
            self.waits(id);
        }
        drained
    }

    /// Hands payload to the socket; what it does not take becomes the flow's remainder.
    pub(super) fn deliver(&mut self, id: Id, pieces: &[Gather<'_>]) -> io::Result<()> {
        let Some(flow) = self.flows.get_mut(id) else { return Ok(()) };
        let Some(socket) = flow.socket.as_ref().filter(|_| flow.failed.is_none()) else { return Ok(()) };
        let (mut sent, mut starves) = (0, false);
        if flow.held.is_empty() {
            match socket::send(socket.as_fd(), pieces) {
                Ok(n) => sent = n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) if is_exhaustion(&e) => starves = true,
                Err(e) => return Err(e),
            }
        }
        let mut tail = Vec::new();
        for p in pieces {
            let skip = sent.min(p.len());
            sent -= skip;
            p.skip(skip).copy_to(&mut tail);
        }
        if !tail.is_empty() {
            self.held_total += tail.len();
            flow.held.extend(tail);
        }
        if starves {
            self.starve(id);
        }
        Ok(())
    }

    /// Passes the guest's FIN on, after everything that came before it.
    pub(super) fn shut_when_drained(&mut self, id: Id) {
        let Some(flow) = self.flows.get_mut(id) else { return };
        if flow.conn.guest_has_ended() && flow.held.is_empty() && !flow.shut {
            flow.shut = true;
            if let Some(s) = &flow.socket {
                // The peer may have reset meanwhile; that is reported by the socket's own event.
                let _ = s.shutdown(Shutdown::Write);
            }
        }
    }

    pub(super) fn owe_ack(&mut self, id: Id) {
        if let Some(flow) = self.flows.get_mut(id)
            && !flow.ack_owed
        {
            flow.ack_owed = true;
            self.owed.push(id);
        }
    }

    /// How much more the guest may send, counted from what it has sent.
    pub(super) fn space(&self, flow: &Flow) -> u32 {
        let hold = if self.held_total > HELD_TOTAL_BYTES { HOLD_BYTES / 16 } else { HOLD_BYTES };
        (free(flow) as u32).saturating_add(hold.saturating_sub(flow.held.len() as u32)).min(WINDOW_MAX)
    }

    /// What is taken of a flow that is not to hold more than its share.
    fn room_if_held_is_full(&self, id: Id) -> Option<usize> {
        let room = |flow: &Flow| free(flow) + HELD_EACH_BYTES.saturating_sub(flow.held.len());
        (self.held_total >= HELD_MAX_BYTES).then(|| self.flows.get(id).map_or(0, room))
    }
}

/// Of a flow that is [`Lane::Bulk`]. Most are not, so it has memory of its own.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bulk {
    /// When so much had come that it stays so for another second, and what has come since.
    at: Instant,
    bytes: usize,
    /// When something came last, and how often without a pause.
    last: Instant,
    times: u32,
}

impl Bulk {
    fn since(at: Instant) -> Bulk {
        Bulk { at, bytes: 0, last: at, times: 0 }
    }
}

impl Flow {
    /// After segments of the guest with `bytes` that were taken. True if frames of the flow are to come by another way from now
    /// on.
    fn has_become_bulk(&mut self, bytes: usize, now: Instant) -> bool {
        let much = self.conn.untold() >= BULK_BYTES;
        let Some(bulk) = &mut self.bulk else {
            self.bulk = much.then(|| Box::new(Bulk::since(now)));
            return much;
        };
        if bytes > 0 {
            bulk.times = if now - bulk.last > PAUSE { 1 } else { bulk.times.saturating_add(1) };
            (bulk.bytes, bulk.last) = (bulk.bytes + bytes, now);
        }
        if much || bulk.bytes >= BULK_BYTES_A_SECOND {
            **bulk = Bulk::since(now);
        }
        false
    }

    /// Of a segment that is sent now.
    pub(super) fn lane(&mut self, now: Instant) -> Lane {
        let untold = self.conn.untold();
        self.bulk.take_if(|bulk| now - bulk.at > SECOND && bulk.times >= EXCHANGES && untold < LITTLE_BYTES);
        if self.bulk.is_some() { Lane::Bulk } else { Lane::Common }
    }
}

/// Leaves of a segment's `len` bytes what there is room for, which becomes less. True if that is not all of them.
fn cut_to(room: &mut Option<usize>, t: &mut TcpHeader, len: &mut usize) -> bool {
    let Some(room) = room else { return false };
    let is_cut = *len > *room;
    if is_cut {
        // The front of it, as if it had been sent so: one that never fits as a whole must not wait for ever.
        (*len, t.flags) = (*room, t.flags - (TcpFlags::FIN | TcpFlags::PSH));
    }
    *room -= *len;
    is_cut
}

/// What the flow's socket takes now, by the kernel's accounting with a quarter taken off for overhead.
fn free(flow: &Flow) -> usize {
    match &flow.socket {
        Some(s) if flow.held.is_empty() => socket::send_space(s.as_fd()).unwrap_or(0) / 4 * 3,
        _ => 0,
    }
}
