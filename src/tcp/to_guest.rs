//! Segments to the guest.

use std::io;
use std::os::fd::AsFd;

use arrayvec::ArrayVec;

use super::conn::State;
use super::seq::Seq;
use super::*;
use crate::guest::{Areas, Facts, Fill, PIECES_MAX, Reservation, Room, ToGuest, errors};
use crate::sys::iov::Scatter;
use crate::sys::is_exhaustion;
use crate::wire::checksum::Sum;
use crate::wire::emit::{self, Head, PayloadSum, TcpFields, TcpTrain};
use crate::wire::{Csum, ETH_LEN, Gso, Offload, STAMP_LEN, SackBlocks, TcpFlags, TcpHeader, TcpOptions};

/// Bytes of one peek at most: a few large frames stay in the cache between the socket's copy and the link's.
pub(super) const PEEK_BYTES: usize = 256 << 10;

/// Why a flow stopped moving data to the guest.
pub(super) enum Stop {
    /// The socket's queue is empty.
    HostData,
    HostEnd,
    /// The guest takes no more.
    GuestWindow,
    /// The link takes no more.
    Link,
    /// It is somebody else's turn.
    Budget,
    /// The host has no memory for it.
    Memory,
    Failed(io::Error),
}

impl Tcp {
    /// Moves what the socket has and the guest takes, and tells of what is behind it.
    pub(super) fn push(&mut self, id: Id, facts: &Facts<'_>, link: &mut dyn ToGuest) {
        if !self.push_some(id, facts, link)
            && let Some(errno) = self.flows.get(id).and_then(|flow| flow.failed)
        {
            self.host_failed(id, &io::Error::from_raw_os_error(errno.get().into()), facts, link);
        }
    }

    /// True: there may be more, for which it is not the time. The flow may be gone afterwards.
    fn push_some(&mut self, id: Id, facts: &Facts<'_>, link: &mut dyn ToGuest) -> bool {
        let Some(flow) = self.flows.get(id) else { return false };
        if flow.conn.state() != State::Established {
            return false;
        }
        let mut waits = false;
        if flow.readable && !flow.conn.host_has_ended() && flow.socket.is_some() {
            let stop = self.push_data(id, facts, link);
            waits = matches!(stop, Stop::Link | Stop::Budget | Stop::Memory);
            match stop {
                // What is under way may make room. Nobody asks for a window that stays shut.
                Stop::GuestWindow if self.flow(id).failed.is_some() => return self.flow(id).conn.in_flight() > 0,
                Stop::HostData | Stop::HostEnd if self.flow(id).failed.is_some() => return false,
                // An end that hides behind bytes peeked before (old kernels) is looked for after each ACK.
                Stop::HostData => {
                    let flow = self.flow(id);
                    flow.readable = flow.read_closed && flow.conn.in_flight() > 0;
                }
                Stop::HostEnd => self.flow(id).conn.host_ended(),
                Stop::GuestWindow => {
                    if let Err(e) = self.wait_for_window(id, facts) {
                        self.host_failed(id, &e, facts, link);
                        return false;
                    }
                }
                Stop::Link => self.park(id, true),
                Stop::Budget => self.park(id, false),
                Stop::Memory => self.starve(id),
                Stop::Failed(e) => {
                    self.host_failed(id, &e, facts, link);
                    return false;
                }
            }
        }
        let flow = self.flow(id);
        if flow.conn.fin_due() {
            self.offer(id);
            let flow = self.flow(id);
            flow.ack_owed = false;
            let nxt = flow.conn.nxt();
            self.send_bare(id, nxt, TcpFlags::FIN | TcpFlags::ACK, facts, link);
            self.flow(id).conn.sent_fin(facts.now);
        } else if flow.conn.host_has_ended() {
            flow.conn.wait_for_window(facts.now);
        }
        waits
    }

    /// The guest takes no more. With nothing under way somebody must ask for its window again, but only if there is more.
    ///
    /// # Errors
    /// The connection's, which nobody else will find: this look has taken it.
    fn wait_for_window(&mut self, id: Id, facts: &Facts<'_>) -> io::Result<()> {
        let flow = self.flow(id);
        if flow.conn.in_flight() == 0
            && flow.spent == 0
            && let Some(s) = &flow.socket
        {
            let more = socket::peek(s.as_fd(), &mut [Scatter::new(&mut [0])]);
            self.reseek(id);
            match more {
                // An end that was announced is there to be told of, whatever this look has found.
                Err(e) if e.kind() == io::ErrorKind::WouldBlock && !self.flow(id).read_closed => {
                    self.flow(id).readable = false;
                    return Ok(());
                }
                Err(e) if e.kind() != io::ErrorKind::WouldBlock && !is_exhaustion(&e) => return Err(e),
                _ => {}
            }
        }
        self.flow(id).conn.wait_for_window(facts.now);
        Ok(())
    }

    /// For callers that have just seen the flow.
    pub(super) fn flow(&mut self, id: Id) -> &mut Flow {
        self.flows.get_mut(id).expect("the caller has just used it")
    }

    fn park(&mut self, id: Id, on_link: bool) {
        let flow = self.flow(id);
        if !flow.queued {
            flow.queued = true;
            if on_link { self.on_link.push(id) } else { self.run_queue.push_back(id) }
        }
    }

    fn push_data(&mut self, id: Id, facts: &Facts<'_>, link: &mut dyn ToGuest) -> Stop {
        let mut budget = self.budget(id);
        loop {
            if self.flow(id).spent > 0 || !self.find_place(id) {
                return Stop::Memory;
            }
            let conn = &self.flow(id).conn;
            let mut room = conn.room() as usize;
            let key = *self.flows.key(id).expect("the caller has just used it");
            if !self.peek_offset[key.guest.addr.family()] {
                room = room.min(SCRATCH_BYTES.saturating_sub(self.flow(id).conn.in_flight() as usize));
            }
            if room == 0 || self.flow(id).conn.window_is_silly() {
                return Stop::GuestWindow;
            }
            if budget == 0 {
                return Stop::Budget;
            }
            let want = room.min(PEEK_BYTES).min(budget);
            if self.flow(id).ack_owed {
                self.offer(id);
            }
            let at = self.flow(id).conn.nxt();
            let got = match self.send_payload(id, &key, at, want, facts, link) {
                Ok(got) => got,
                Err(stop) => return stop,
            };
            let flow = self.flow(id);
            // What is held ahead of a hole is told by an ACK without payload.
            flow.ack_owed &= flow.conn.has_blocks_to_tell();
            flow.conn.sent(got.sent as u32, facts.now);
            flow.traffic.to_guest.add(got.frames, got.sent);
            if got.sent < got.peeked {
                self.reseek(id);
                return Stop::Link;
            }
            budget -= got.sent;
            // A short read empties the queue (epoll(7)); an end or error behind the data needs one more look, and so does
            // urgent data, at which every read stops (tcp(7)).
            let flow = self.flow(id);
            if got.peeked < got.room && !flow.read_closed && !flow.urgent {
                return Stop::HostData;
            }
        }
    }

    /// Bytes that the flow may move now.
    pub(super) fn budget(&mut self, id: Id) -> usize {
        let again = self.mover.replace(id) == Some(id);
        self.attentive = if again { self.attentive.saturating_sub(1) } else { ATTENTIVE };
        if self.attentive > 0 { SHORT_BUDGET_BYTES } else { BUDGET_BYTES }
    }

    /// Peeks up to `want` bytes and sends them as segments from `seq` on.
    pub(super) fn send_payload(
        &mut self,
        id: Id,
        key: &FlowKey,
        seq: Seq,
        want: usize,
        facts: &Facts<'_>,
        link: &mut dyn ToGuest,
    ) -> Result<Got, Stop> {
        let caps = link.caps();
        let skip = seq.since(self.flow(id).conn.una()) as usize;
        let flow = self.flows.get_mut(id).expect("the caller has just used it");
        let options = if flow.conn.is_stamped() { STAMP_LEN } else { 0 };
        let mss = segment_payload(flow.conn.mss(), &key.remote.addr, options, &caps);
        let size = frame_payload(mss, &key.remote.addr, options, caps.tso && caps.csum);
        let head_len = ETH_LEN + ip_len(key.remote.addr.family()) + TCP_LEN + options;
        link.steer(flow.lane(facts.now));
        let mut reservation =
            Reservation::new(link, want.div_ceil(size), head_len, size, Fill::Stream).ok_or(Stop::Link)?;
        let socket = flow.socket.as_ref().ok_or(Stop::HostEnd)?;
        let skip = if self.peek_offset[key.guest.addr.family()] { 0 } else { skip };
        let room = want.min(reservation.left() * size);
        let peeked = {
            let mut areas = Areas::new();
            reservation.areas(&mut areas);
            cut(&mut areas, room);
            match peek_after(socket, &mut self.scratch, skip, areas) {
                Ok(0) => return Err(Stop::HostEnd),
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Err(Stop::HostData),
                Err(e) if is_exhaustion(&e) => return Err(Stop::Memory),
                Err(e) => return Err(Stop::Failed(e)),
            }
        };
        let macs = (facts.l2.mac_for(&key.remote.addr), facts.l2.guest_mac);
        let fields = fields(key, &mut flow.conn, TcpFlags::ACK, facts.now);
        let mut train = TcpTrain::new(macs, 0, &fields);
        let (mut sent, mut frames) = (0, 0);
        while sent < peeked {
            let len = size.min(peeked - sent);
            // RFC 9293 §3.9.1.2: PSH where the sender's data ends for now.
            let push = sent + len == peeked && (peeked < room || room == want);
            let flags = if push { TcpFlags::ACK | TcpFlags::PSH } else { TcpFlags::ACK };
            let csum = train.segment((seq + sent as u32).0, flags, len, reservation.payload_sum(len));
            let gso = if len > usize::from(mss) { Gso::Tcp(mss) } else { Gso::None };
            if reservation.commit(train.head(), len, Offload { csum, gso }).is_err() {
                break;
            }
            sent += len;
            frames += 1;
        }
        Ok(Got { peeked, sent, frames, room })
    }

    /// Where the next peek starts, if it is the kernel that skips: both would skip twice. False: where it would have.
    pub(super) fn seek(&self, id: Id, offset: u32) -> bool {
        let Some((flow, key)) = self.flows.get(id).zip(self.flows.key(id)) else { return true };
        let socket = flow.socket.as_ref().filter(|_| self.peek_offset[key.guest.addr.family()]);
        socket.is_none_or(|s| socket::set_peek_offset(s.as_fd(), offset as usize).is_ok())
    }

    /// The ACKs owed since the last flush, one per flow. A full link takes them too, for they are small; those that it does
    /// not take are owed until it does.
    pub fn flush(&mut self, facts: &Facts<'_>, link: &mut dyn ToGuest) {
        let mut owed = std::mem::take(&mut self.owed);
        owed.retain(|id| {
            if self.flows.get(*id).is_none_or(|f| !f.ack_owed) {
                return false;
            }
            self.offer(*id);
            let refused = !self.send_ack(*id, facts, link) && link.room() == Room::Full;
            if refused && let Some(flow) = self.flows.get_mut(*id) {
                flow.ack_owed = true;
            }
            refused
        });
        self.owed = owed;
    }

    pub(super) fn offer(&mut self, id: Id) {
        let Some(flow) = self.flows.get(id) else { return };
        let space = self.space(flow);
        self.flow(id).conn.offer(space);
    }

    /// As [`Tcp::emit`].
    pub(super) fn send_ack(&mut self, id: Id, facts: &Facts<'_>, link: &mut dyn ToGuest) -> bool {
        let Some(flow) = self.flows.get_mut(id) else { return true };
        flow.ack_owed = false;
        let seq = flow.conn.bare_seq();
        self.send_bare(id, seq, TcpFlags::ACK, facts, link)
    }

    /// An ACK with an old sequence number: the guest must answer it with its own ACK and window.
    pub(super) fn send_probe(&mut self, id: Id, facts: &Facts<'_>, link: &mut dyn ToGuest) {
        let Some(flow) = self.flows.get(id) else { return };
        let seq = flow.conn.probe_seq();
        self.send_bare(id, seq, TcpFlags::ACK, facts, link);
    }

    /// RFC 9293 §3.10.7: a RST the guest accepts in any state: exactly at its next expected byte, with an ACK.
    pub(super) fn send_reset(&mut self, id: Id, facts: &Facts<'_>, link: &mut dyn ToGuest) {
        let Some(key) = self.flows.key(id).copied() else { return };
        if let Some(fields) = reset_fields(&key, &mut self.flow(id).conn, facts.now) {
            self.emit(&key, &fields, facts, link);
        }
    }

    /// The same for a connection that is in no table.
    pub(super) fn send_reset_of(&self, key: &FlowKey, conn: &mut Conn, facts: &Facts<'_>, link: &mut dyn ToGuest) {
        if let Some(fields) = reset_fields(key, conn, facts.now) {
            self.emit(key, &fields, facts, link);
        }
    }

    /// RFC 9293 §3.10.7.1: the RST for a segment that no connection wants.
    pub(super) fn refuse(
        &mut self,
        t: &TcpHeader,
        payload_len: usize,
        key: &FlowKey,
        facts: &Facts<'_>,
        link: &mut dyn ToGuest,
    ) {
        let len = payload_len as u32
            + u32::from(t.flags.contains(TcpFlags::SYN))
            + u32::from(t.flags.contains(TcpFlags::FIN));
        let (seq, ack, flags) = if t.flags.contains(TcpFlags::ACK) {
            (t.ack, 0, TcpFlags::RST)
        } else {
            (0, t.seq.wrapping_add(len), TcpFlags::RST | TcpFlags::ACK)
        };
        let fields = TcpFields {
            src: key.remote,
            dst: key.guest,
            seq,
            ack,
            flags,
            window: 0,
            options: TcpOptions::NONE,
            sack: SackBlocks::NONE,
        };
        self.emit(key, &fields, facts, link);
    }

    /// Before the RST for a connect that failed: the ICMP error that tells why, quoting the SYN.
    pub(super) fn explain(
        &mut self,
        key: &FlowKey,
        syn: Seq,
        e: &io::Error,
        facts: &Facts<'_>,
        link: &mut dyn ToGuest,
    ) {
        let family = key.remote.addr.family();
        let Some(kind) = errors::refusal(e, family, || None).filter(|_| !refused_by_peer(e)) else { return };
        // What the guest sent, as far as it needs it: RFC 792 asks for the header and eight bytes behind it.
        let fields = TcpFields {
            src: key.guest,
            dst: key.remote,
            seq: syn.0,
            ack: 0,
            flags: TcpFlags::SYN,
            window: 0,
            options: TcpOptions::NONE,
            sack: SackBlocks::NONE,
        };
        let mut original = Head::new();
        emit::tcp(&mut original, (facts.l2.guest_mac, facts.l2.our_mac), 0, &fields, 0, PayloadSum::Of(Sum::new()));
        let target = facts.nat.address_to_host(key.remote.addr);
        let reporter = errors::reporter(facts, None, target, key.remote.addr);
        self.errors.send(facts, link, (reporter, key.guest.addr), kind, &original[ETH_LEN..]);
    }

    /// As [`Tcp::emit`].
    pub(super) fn send_bare(
        &mut self,
        id: Id,
        seq: Seq,
        flags: TcpFlags,
        facts: &Facts<'_>,
        link: &mut dyn ToGuest,
    ) -> bool {
        let Some(key) = self.flows.key(id).copied() else { return true };
        let flow = self.flow(id);
        link.steer(flow.lane(facts.now));
        let mut fields = fields(&key, &mut flow.conn, flags, facts.now);
        fields.seq = seq.0;
        fields.sack = flow.conn.sack_blocks();
        self.emit(&key, &fields, facts, link)
    }

    /// A segment without payload. False: the link did not take it. It is lost like any frame then, and a timer makes up for it.
    pub(super) fn emit(&self, key: &FlowKey, fields: &TcpFields, facts: &Facts<'_>, link: &mut dyn ToGuest) -> bool {
        let macs = (facts.l2.mac_for(&key.remote.addr), facts.l2.guest_mac);
        let mut head = Head::new();
        emit::tcp(&mut head, macs, 0, fields, 0, PayloadSum::Of(Sum::new()));
        link.send(&head, Offload { csum: Csum::Complete, gso: Gso::None }).is_ok()
    }
}

/// The peer's own RST is passed on as what it was.
fn refused_by_peer(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::ECONNREFUSED | libc::ECONNRESET))
}

/// What one call of [`Tcp::send_payload`] did, in bytes but for the frames.
pub(super) struct Got {
    peeked: usize,
    pub sent: usize,
    pub frames: usize,
    room: usize,
}

/// `None`: there is nothing to reset.
fn reset_fields(key: &FlowKey, conn: &mut Conn, now: Instant) -> Option<TcpFields> {
    if matches!(conn.state(), State::TimeWait | State::Closed) {
        return None;
    }
    let mut fields = fields(key, conn, TcpFlags::RST | TcpFlags::ACK, now);
    if conn.state() == State::SynSent {
        fields.flags = TcpFlags::RST;
    }
    fields.seq = conn.bare_seq().0;
    fields.window = 0;
    Some(fields)
}

pub(super) fn fields(key: &FlowKey, conn: &mut Conn, flags: TcpFlags, now: Instant) -> TcpFields {
    let ack = if flags.contains(TcpFlags::ACK) { conn.ack_field() } else { 0 };
    TcpFields {
        src: key.remote,
        dst: key.guest,
        seq: conn.nxt().0,
        ack,
        flags,
        window: conn.window_field(flags.contains(TcpFlags::SYN)),
        options: conn.options(now),
        sack: SackBlocks::NONE,
    }
}

/// Shortens the areas to `bytes` in all.
fn cut(areas: &mut Areas<'_>, mut bytes: usize) {
    for i in 0..areas.len() {
        areas[i].truncate(bytes);
        bytes -= areas[i].len();
        if bytes == 0 {
            return areas.truncate(i + 1);
        }
    }
}

/// Peeks behind the first `skip` bytes of the queue; `skip` is 0 where the kernel keeps the offset.
fn peek_after(socket: &Socket, scratch: &mut [u8], skip: usize, mut areas: Areas<'_>) -> io::Result<usize> {
    if skip == 0 {
        return socket::peek(socket.as_fd(), &mut areas);
    }
    let mut all: ArrayVec<Scatter<'_>, { PIECES_MAX + 1 }> = ArrayVec::new();
    all.push(Scatter::new(&mut scratch[..skip]));
    all.extend(areas);
    match socket::peek(socket.as_fd(), &mut all)? {
        0 => Ok(0),
        // All that is queued was seen before: more data, or the end, which only an emptied queue shows.
        n if n <= skip => Err(io::ErrorKind::WouldBlock.into()),
        n => Ok(n - skip),
    }
}
