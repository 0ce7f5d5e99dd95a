//! TCP between the guest's segments and native sockets of the host.
//!
//! # Theory of operation
//!
//! A connection of the guest ends here and another begins at a host socket; between them payload is never kept, except
//! for a remainder and what comes ahead of a hole (both below). *Guest to host*: the payload of consecutive segments
//! goes from where the link put it into one `sendmsg`. *Host to guest*: bytes are peeked from the socket's receive
//! queue (`MSG_PEEK` at `SO_PEEK_OFF`) straight into the link's slots and stay queued until the guest acknowledges
//! them; then they are discarded without copying (`MSG_TRUNC`). The kernel's receive queue is the retransmission
//! buffer, its autotuning our flow control.
//!
//! ## What an ACK to the guest means
//!
//! That the host's kernel has accepted the bytes, or that we hold them. Waiting for the remote peer's own ACK instead
//! would make the guest carry the whole path's bandwidth-delay product through a link that has none, need a timer per
//! flow to poll `TCP_INFO`, and still promise nothing about the remote application. The cost is bounded: what is
//! acknowledged but not delivered is at most the socket's send buffer, which the kernel sizes to twice its congestion
//! window (so about one bandwidth-delay product waits unsent, as it would in any program's socket), and a remainder of at
//! most one window. Cutting the unsent part further with `TCP_NOTSENT_LOWAT` (256 KiB, 1 MiB) was tried: it cost 15 to 25 %
//! of the throughput over loopback. A reset or timeout of the host's connection becomes a RST to the guest as soon as the
//! kernel reports it; but behind bytes that came before it and wait for the guest's part in the handshake, for their turn, for
//! the link, or for room that an acknowledgement under way may make.
//!
//! ## The window we offer
//!
//! What the socket has free, by the kernel's accounting with a quarter taken off for overhead, plus [`HOLD_BYTES`]. The
//! second term lets the guest overrun the socket a little: only a full socket makes the kernel grow its buffer
//! (`SOCK_NOSPACE`) and report writability later, so without it a delayed path would never come to speed. What does not
//! fit is the *remainder*: held here, sent first when the socket is writable, and never more than was offered. Once all
//! remainders together have [`HELD_TOTAL_BYTES`], new offers shrink. Offers that were made before still hold, of each of any
//! number of flows; so from [`HELD_MAX_BYTES`] on a flow holds no more than [`HELD_EACH_BYTES`], window or not, and the rest
//! is dropped, as a kernel drops what it has no memory for. It takes hundreds of servers that do not read to get there. The
//! guest's kernel tries again at intervals that double, so a connection waits at most as long again as its server did not
//! read; one whose server reads has what it needs to go on.
//!
//! ## Loss on the guest's link
//!
//! It hardly loses or reorders, but where it does nobody should wait for a timeout. What comes ahead of a hole is held, within
//! half a MiB a flow and 32 MiB for all of a worker, and the guest is told by SACK blocks, or by
//! duplicate ACKs if it does not know SACK. What the guest misses is found by its SACK blocks (RFC 6675), or by three
//! duplicate ACKs (RFC 6582): the holes alone are peeked again, each once. There is no congestion window: the guest's own
//! window bounds what is under way. Timestamps (RFC 7323), if the guest offers them, tell old segments from new ones, measure
//! round trips of what was sent twice, and a needless timeout from a loss (RFC 3522).
//!
//! ## States and timers
//!
//! [`State`]. One deadline per connection on the common wheel: retransmission (RFC 6298, from 200 ms), window probe
//! (RFC 9293 §3.8.6.1), keep-alive (two hours), the short TIME-WAIT. The host's connect is timed by the kernel.
//!
//! ## Waiting
//!
//! A flow with readable data that does not move waits for the guest's window (cured by its ACK or the probe timer), for
//! the link (cured by [`Tcp::link_ready`]), or for its turn in the run queue. One with a remainder waits for the socket. For
//! which the kernel has no memory, it waits for [`Tcp::retry`].
//!
//! ## Limits
//!
//! The table's. In a full one a connection in TIME-WAIT makes room first, then the oldest that is half open (after a second,
//! or at once if half of all are: a flood throws out itself), then whoever has been idle for longest, half a minute at
//! least; else the newcomer is refused. Those thrown out are reset on both sides. A lack of descriptors refuses newcomers.
//!
//! ## Not supported
//!
//! Urgent data (delivered in line), ECN, Fast Open: the guest link neither loses nor delays, and on the host side the kernel
//! does all of them.
//!
//! System calls: socket, setsockopt, bind, connect, epoll_ctl (one socket a flow), sendmsg (data to the host), recvmsg
//! (peek), recvfrom (discard), getsockopt (`SO_MEMINFO`, `SO_ERROR`), shutdown, close.

mod audit;
mod conn;
mod create;
mod from_guest;
mod from_host;
mod holes;
mod moving;
mod ranges;
mod resend;
mod rtt;
mod seq;
mod starved;
mod to_guest;
mod view;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::num::NonZeroU8;
use std::time::Duration;

use socket2::Socket;

use crate::base::{Addr, Counters, DropReason, Family, Instant, Kind, PerFamily, Token};
use crate::flow::{FlowKey, Id, KeySecret, Ledger, Ready, Table, Traffic, Via, Wheel};
use crate::fwd::Outbound;
use crate::guest::{Caps, IcmpErrors};
use crate::sys::socket;
use crate::wire::{TCP_LEN, ip_len};
use conn::{AHEAD_BYTES, Conn, Start};

pub use conn::State;
pub use moving::Moving;

/// Window offered beyond what the socket has free.
pub const HOLD_BYTES: u32 = 256 << 10;
/// All remainders of one worker together, before new offers shrink.
pub const HELD_TOTAL_BYTES: usize = 64 << 20;
/// And before each flow must do with this.
pub const HELD_MAX_BYTES: usize = 96 << 20;
/// At least one segment of any link.
pub const HELD_EACH_BYTES: usize = 64 << 10;
/// All that is held ahead of holes, of one worker; [`AHEAD_BYTES`] a flow that has one.
const AHEAD_TOTAL_BYTES: usize = 32 << 20;
/// Window offered at most.
const WINDOW_MAX: u32 = 4 << 20;
/// Our window shift: 4 MiB in 16 bits.
const WINDOW_SHIFT: u8 = 8;
/// Bytes one flow may move to the guest before others have their turn: some 0.4 ms.
const BUDGET_BYTES: usize = 1 << 20;
/// And while others have something now and then: for so many turns that is taken for granted.
const SHORT_BUDGET_BYTES: usize = 256 << 10;
const ATTENTIVE: u32 = 64;

/// All TCP flows.
pub struct Tcp {
    flows: Table<Flow>,
    registry: mio::Registry,
    isn_secret: KeySecret,
    outbound: Outbound,
    mtu: u16,
    peek_offset: PerFamily<bool>,
    /// Where bytes go that were peeked before, on kernels without a peek offset.
    scratch: Vec<u8>,
    /// Flows that owe an ACK at the next flush.
    owed: Vec<Id>,
    /// Flows that have used up their budget.
    run_queue: VecDeque<Id>,
    /// Who moved bytes to the guest last, and for how many of its turns others seem to wait for the end of each.
    mover: Option<Id>,
    attentive: u32,
    /// Flows that wait for the link to take frames.
    on_link: Vec<Id>,
    /// Flows that wait for memory of the host's; see [`Tcp::retry`].
    starved: Vec<Id>,
    /// Flows whose handshake may not be complete, oldest first.
    embryonic: VecDeque<Id>,
    /// Flows whose handshake is not complete.
    half_open: usize,
    /// Flows in TIME-WAIT, oldest first.
    waiting: VecDeque<Id>,
    held_total: usize,
    ledger: Ledger,
    /// Flows with an [`Flow::ahead`].
    with_holes: usize,
    errors: IcmpErrors,
    counters: Counters,
}

struct Flow {
    conn: Conn,
    /// `None` in TIME-WAIT.
    socket: Option<Socket>,
    /// The remainder: taken from the guest, not yet by the socket.
    held: VecDeque<u8>,
    /// What came ahead of a hole, each byte where its sequence number says.
    ahead: Option<Box<holes::Ring>>,
    /// When the wheel wakes this flow next.
    armed: Instant,
    /// How often the wheel woke it for nothing; see [`Tcp::arm`].
    laps: u8,
    /// May have data or an end to read.
    readable: bool,
    /// An end or an error is to be read after the data.
    read_closed: bool,
    /// The host's connection has failed as something was to be sent by it: the guest hears of it behind what came before.
    failed: Option<NonZeroU8>,
    /// The peer uses urgent data, so a short read need not mean that the queue is empty.
    urgent: bool,
    /// `None`: its lane is the common one.
    bulk: Option<Box<from_guest::Bulk>>,
    /// The handshake with the guest is not complete; counted in [`Tcp::half_open`].
    half_open: bool,
    ack_owed: bool,
    queued: bool,
    /// In the list of those that wait for memory.
    starved: bool,
    /// Acknowledged bytes that are still at the head of the socket's queue: the kernel had no memory to remove them.
    spent: usize,
    /// The next peek would not start behind what was sent.
    astray: bool,
    shut: bool,
    by_guest: bool,
    via: Via,
    born: Instant,
    traffic: Traffic,
    /// Frames sent again.
    resent: u32,
}

impl Tcp {
    /// `mtu`: the guest link's; `limit`: flows at most.
    pub fn new(
        registry: mio::Registry,
        secret: KeySecret,
        isn_secret: KeySecret,
        outbound: Outbound,
        mtu: u16,
        limit: usize,
    ) -> Tcp {
        let peek_offset = PerFamily::new(has_peek_offset(Family::V4), has_peek_offset(Family::V6));
        let scratch = if peek_offset.v4 && peek_offset.v6 { Vec::new() } else { vec![0; SCRATCH_BYTES] };
        Tcp {
            flows: Table::new(secret, limit),
            registry,
            isn_secret,
            outbound,
            mtu,
            peek_offset,
            scratch,
            owed: Vec::new(),
            run_queue: VecDeque::new(),
            mover: None,
            attentive: 0,
            on_link: Vec::new(),
            starved: Vec::new(),
            embryonic: VecDeque::new(),
            half_open: 0,
            waiting: VecDeque::new(),
            held_total: 0,
            ledger: Ledger::default(),
            with_holes: 0,
            errors: IcmpErrors::default(),
            counters: Counters::default(),
        }
    }

    /// As on a kernel without `SO_PEEK_OFF` for TCP. For tests: before the first flow.
    #[doc(hidden)]
    pub fn forgo_peek_offset(&mut self) {
        self.peek_offset = PerFamily::new(false, false);
        self.scratch = vec![0; SCRATCH_BYTES];
    }

    /// For sockets that are opened from now on.
    pub fn set_outbound(&mut self, outbound: Outbound) {
        self.outbound = outbound;
    }

    /// Flows there may be from now on; those beyond stay.
    pub fn set_limit(&mut self, limit: usize) {
        self.flows.set_limit(limit);
    }

    /// Segments of the guest that were not accepted.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Flows now, those in TIME-WAIT included.
    pub fn len(&self) -> usize {
        self.flows.len()
    }

    /// When the wheel is to wake this flow next; it needs no other deadline. `None`: there is no such flow.
    pub fn armed(&self, id: Id) -> Option<Instant> {
        self.flows.get(id).map(|flow| flow.armed)
    }

    pub fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }

    /// True if a flow has work that no event will announce.
    pub fn has_pending(&self) -> bool {
        !self.run_queue.is_empty()
    }

    /// How a connection begins now. Initial sequence number (RFC 9293 §3.4.1, RFC 6528): a keyed hash of the connection plus a
    /// clock of 4 µs ticks. Another part of the hash keeps timestamps apart (RFC 7323 §7.1), and the same for a connection
    /// after this one, which must not seem older (RFC 6191).
    fn start(&self, key: &FlowKey, now: Instant) -> Start {
        let hash = self.isn_secret.hash(key);
        let mtu = if self.mtu == 0 { 1500 } else { usize::from(self.mtu) };
        let clock = seq::Seq(hash as u32) + (now.as_nanos() / 4000) as u32;
        // RFC 9293 §3.6.1: beyond all numbers of what it replaces. The clock, with 250 kB a second, may lag behind them.
        let before = self.flows.find(key).and_then(|id| self.flows.get(id)).map(|f| f.conn.nxt() + 1);
        Start {
            iss: before.map_or(clock, |b| clock.max(b)),
            stamp_offset: (hash >> 32) as u32,
            mss: mtu.saturating_sub(ip_len(key.guest.addr.family()) + TCP_LEN).max(1) as u16,
            shift: WINDOW_SHIFT,
        }
    }

    /// Arms the wheel for the flow's next deadline. Entries are never cancelled, so that of a connection which is gone
    /// must not stay for the two hours of a keep-alive: young connections are looked at often, old ones ever more rarely.
    fn arm(&mut self, id: Id, now: Instant, timers: &mut Wheel) {
        let Some(flow) = self.flows.get_mut(id) else { return };
        let lap = Duration::from_secs(8 << flow.laps.min(10));
        let at = flow.conn.deadline().min(now + lap);
        if at < flow.armed {
            flow.armed = at;
            timers.arm(at, token(id));
        }
    }

    /// Notes a flow in TIME-WAIT.
    fn waits(&mut self, id: Id) {
        while self.waiting.front().is_some_and(|i| self.flows.get(*i).is_none()) {
            self.waiting.pop_front();
        }
        note(&mut self.waiting, &self.flows, id);
    }

    /// Ends a flow on our side without a word to the guest; closing the socket deregisters it.
    fn remove(&mut self, id: Id) {
        if let Some((_, flow)) = self.flows.remove(id) {
            self.ledger.bytes(flow.via, flow.passed());
            self.held_total -= flow.held.len();
            self.with_holes -= usize::from(flow.ahead.is_some());
            self.half_open -= usize::from(flow.half_open);
        }
    }
}

impl std::fmt::Debug for Tcp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tcp({} flows)", self.flows.len())
    }
}

/// Appends a flow to a list from which those that have gone are taken only at the front, but when there are many.
fn note(list: &mut VecDeque<Id>, flows: &Table<Flow>, id: Id) {
    if list.len() > 2 * flows.len() + 64 {
        list.retain(|i| flows.get(*i).is_some());
    }
    list.push_back(id);
}

fn token(id: Id) -> Token {
    Token::new(Kind::Tcp, id.index, id.generation)
}

/// Bytes peeked over and over on old kernels at most: the flight is bounded by it there.
const SCRATCH_BYTES: usize = 1 << 20;

/// Whether the kernel peeks from an offset (`SO_PEEK_OFF`) at TCP of this family: 6.9 for IPv4, 6.11 for IPv6.
pub fn has_peek_offset(family: Family) -> bool {
    use std::os::fd::AsFd;
    let domain = if family == Family::V4 { socket2::Domain::IPV4 } else { socket2::Domain::IPV6 };
    Socket::new(domain, socket2::Type::STREAM, Some(socket2::Protocol::TCP))
        .is_ok_and(|s| socket::set_peek_offset(s.as_fd(), 0).is_ok())
}

/// Largest payload of a segment to the guest behind `options` bytes of TCP options: what was agreed on, if a frame of its link
/// holds that.
fn segment_payload(mss: u16, remote: &Addr, options: usize, caps: &Caps) -> u16 {
    let headers = (ip_len(remote.family()) + TCP_LEN + options) as u16;
    mss.min(caps.mtu.saturating_sub(headers).max(1))
}

/// Largest payload of one frame, given that of a segment and whether the link segments for us.
fn frame_payload(mss: u16, remote: &Addr, options: usize, tso: bool) -> usize {
    let mss = usize::from(mss);
    if !tso {
        return mss;
    }
    // The 16-bit length of an IP packet. With IPv6 it does not count the IP header, but virtio 1.2 §5.1.6.3.1 does.
    let most = 65535 - ip_len(remote.family()) - TCP_LEN - options;
    if most < mss { most } else { most / mss * mss }
}
