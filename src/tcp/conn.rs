//! The TCP state machine towards the guest (RFC 9293). Pure: segments, facts and a clock come in, a [`Verdict`] comes out.
//! It holds no payload: what the guest has not acknowledged lies in the host socket's receive queue.
//!
//! Here are the states, creation and end of a connection; in `receive` what comes from the guest and the window offered to
//! it, in `ahead` what of it came ahead of a hole; in `send` the room it gives and the numbers of what is sent; in `recovery`
//! acknowledgements, retransmission, timers, and in `sacked` which parts need not be sent again; in `stamps` timestamps.

mod ahead;
mod receive;
mod recovery;
mod sacked;
mod send;
mod stamps;

use std::time::Duration;

use super::ranges::Ranges;
use super::rtt::Rtt;
use super::seq::Seq;
use crate::base::Instant;
use crate::wire::{STAMP_LEN, TcpHeader, TcpOptions};
use ahead::Ahead;
use stamps::Stamps;

pub use ahead::AHEAD_BYTES;

/// Where a connection stands towards the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The guest's SYN is here; the host's connect has not ended.
    Connecting,
    /// The host is connected and the guest has our SYN-ACK.
    SynReceived,
    /// The host side was accepted and the guest has our SYN.
    SynSent,
    /// Data may flow; either direction may have ended already.
    Established,
    /// Both directions ended, we first: a repeated FIN is still acknowledged (RFC 9293 §3.6.1).
    TimeWait,
    /// Nothing more to do.
    Closed,
}

/// What a connection begins with; lengths in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    /// Our initial sequence number, and what is added to our timestamps.
    pub iss: Seq,
    pub stamp_offset: u32,
    /// Largest segment payload that fits the guest link's MTU.
    pub mss: u16,
    /// Our window shift, offered when we may offer one.
    pub shift: u8,
}

/// What is to be done after one or more segments; merged over a run of segments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Payload bytes newly acknowledged: remove them from the head of the socket's queue.
    pub acked: u32,
    /// The handshake with the guest just completed.
    pub established: bool,
    /// An ACK is owed to the guest.
    pub ack: bool,
    /// ACKs owed at once and one by one, for segments ahead of a hole (RFC 5681 §3.2).
    pub dup_acks: u8,
    /// Resend what [`Conn::next_hole`] says; or the SYN or FIN.
    pub resend: bool,
    /// Behind the payload of the last segment, these bytes that were held are in order now.
    pub stored: Option<Stored>,
    /// The guest has sent its FIN, after all data.
    pub guest_fin: bool,
    /// The guest may take more than before.
    pub may_send: bool,
    /// The guest has reset the connection.
    pub reset_by_guest: bool,
    /// Answer the last segment with a RST (RFC 9293 §3.10.7.1); the connection stays.
    pub refuse: bool,
    /// Nothing comes any more: reset both sides.
    pub abort: bool,
}

/// Which part of a segment's payload is new.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accepted {
    pub skip: usize,
    pub take: usize,
    /// It is to be held: something is missing before it.
    pub ahead: bool,
}

/// Bytes of the guest that were held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    pub from: Seq,
    pub len: u32,
}

/// One connection. Sequence variables are named as in RFC 9293 §3.3.1.
#[derive(Clone, Debug)]
pub struct Conn {
    state: State,
    /// Oldest byte the guest has not acknowledged: the head of the host socket's queue.
    una: Seq,
    /// Next byte to send, and the highest ever sent.
    nxt: Seq,
    /// The guest's window in bytes, from `wl2` on; `wl1`, `wl2`: the segment that set it.
    wnd: u32,
    max_wnd: u32,
    wl1: Seq,
    wl2: Seq,
    rcv_nxt: Seq,
    /// Right edge of the window we offered; never moves left.
    adv: Seq,
    irs: Seq,
    /// Our FIN's sequence number, once the host side has ended.
    fin: Option<Seq>,
    /// Data up to here was outstanding when a loss was found (RFC 6582); new holes below it are resent at once.
    recover: Option<Seq>,
    /// How far from `una` on a recovery resends: a segment, and after a timeout as much more as is acknowledged (slow
    /// start, RFC 5681 §3.1).
    burst: u32,
    /// End of what the recovery has resent already: no byte goes twice before the timer says so.
    resent: Seq,
    /// `None` as long as all comes in order, both ways.
    loss: Option<Box<Loss>>,
    stamps: Stamps,
    rtt: Rtt,
    /// When to resend or to probe; [`Instant::FAR`] when nothing is outstanding.
    resend_at: Instant,
    last_heard: Instant,
    mss: u16,
    our_mss: u16,
    snd_shift: u8,
    rcv_shift: u8,
    scaling: bool,
    /// Both SYNs permitted SACK.
    sack: bool,
    may_hold: bool,
    dup_acks: u8,
    retries: u8,
    keepalives: u8,
    after_timeout: bool,
    fin_sent: bool,
    guest_fin: bool,
    closed_first: bool,
}

/// What is known of segments that came out of order, or not at all.
#[derive(Clone, Debug, Default)]
struct Loss {
    /// What the guest has of that which it has not acknowledged.
    sacked: Ranges,
    /// What is held of the guest's.
    ahead: Ahead,
    /// A duplicate that the guest is to hear of.
    duplicate: Option<(Seq, Seq)>,
}

impl Conn {
    /// For a SYN of the guest; the host's connect is under way.
    pub fn from_guest_syn(t: &TcpHeader, start: &Start, now: Instant) -> Conn {
        let mut c = Conn::new(State::Connecting, start, now);
        c.irs = Seq(t.seq);
        c.rcv_nxt = c.irs + 1;
        c.adv = c.rcv_nxt;
        c.peer_options(t, start.shift, now);
        c
    }

    /// For a connection accepted on the host; the SYN is to be sent to the guest.
    pub fn from_host_accept(start: &Start, now: Instant) -> Conn {
        let mut c = Conn::new(State::SynSent, start, now);
        c.rcv_shift = start.shift;
        c
    }

    fn new(state: State, start: &Start, now: Instant) -> Conn {
        Conn {
            state,
            una: start.iss,
            nxt: start.iss,
            wnd: 0,
            max_wnd: 0,
            wl1: Seq(0),
            wl2: start.iss,
            rcv_nxt: Seq(0),
            adv: Seq(0),
            irs: Seq(0),
            fin: None,
            recover: None,
            burst: 0,
            resent: start.iss,
            loss: None,
            stamps: Stamps::new(start.stamp_offset),
            rtt: Rtt::new(),
            resend_at: Instant::FAR,
            last_heard: now,
            mss: MSS_DEFAULT.min(start.mss),
            our_mss: start.mss,
            snd_shift: 0,
            rcv_shift: 0,
            scaling: false,
            sack: false,
            may_hold: false,
            dup_acks: 0,
            retries: 0,
            keepalives: 0,
            after_timeout: false,
            fin_sent: false,
            guest_fin: false,
            closed_first: false,
        }
    }

    /// RFC 7323 §2.2: both shifts are in force only if both SYNs had the option; shifts above 14 count as 14 (§2.3). The same
    /// goes for timestamps (§3.2) and SACK (RFC 2018 §2). A segment size does not count options (RFC 9293 §3.7.1).
    fn peer_options(&mut self, t: &TcpHeader, shift: u8, now: Instant) {
        let theirs = &t.options;
        self.agree_on_stamps(t, now);
        let options = if self.stamps.on { STAMP_LEN as u16 } else { 0 };
        self.mss = theirs.mss.unwrap_or(MSS_DEFAULT).max(MSS_FLOOR).min(self.our_mss).saturating_sub(options).max(1);
        self.sack = theirs.sack_permitted;
        self.scaling = theirs.window_scale.is_some();
        self.snd_shift = theirs.window_scale.unwrap_or(0).min(14);
        self.rcv_shift = if self.scaling { shift } else { 0 };
        // The window field of a SYN is not scaled.
        self.wnd = u32::from(t.window);
        self.max_wnd = self.wnd;
        self.wl1 = Seq(t.seq);
    }

    /// The host's connect succeeded: our SYN-ACK goes out.
    pub fn host_connected(&mut self, now: Instant) {
        debug_assert_eq!(self.state, State::Connecting);
        self.state = State::SynReceived;
        self.sent_syn(now);
    }

    /// Our SYN or SYN-ACK was sent for the first time.
    pub fn sent_syn(&mut self, now: Instant) {
        self.nxt = self.una + 1;
        self.rtt.time(self.nxt, now);
        self.resend_at = now + self.rtt.timeout();
    }

    /// What our SYN offers: of what has to be offered by both, what the guest has offered, if it has spoken.
    pub fn syn_options(&self, now: Instant) -> TcpOptions {
        let first = self.state == State::SynSent;
        TcpOptions {
            mss: Some(self.our_mss),
            window_scale: (first || self.scaling).then_some(self.rcv_shift),
            sack_permitted: first || self.sack,
            timestamps: self.stamp(now),
        }
    }

    /// True if this SYN may replace what is left of the connection (RFC 9293 §3.10.7.4, RFC 6191).
    pub fn may_be_replaced_by(&self, syn: &TcpHeader) -> bool {
        let newer = || self.is_newer_than_all(syn) || (Seq(syn.seq) > self.rcv_nxt && !self.is_older_than_some(syn));
        self.state == State::Closed || (self.state == State::TimeWait && newer())
    }

    fn forget_idle_loss(&mut self) {
        let idle = |l: &Loss| l.sacked.is_empty() && l.ahead.is_empty() && l.duplicate.is_none();
        self.loss.take_if(|loss| idle(loss));
    }

    fn finish(&mut self, now: Instant) {
        if self.closed_first {
            self.state = State::TimeWait;
            self.resend_at = now + TIME_WAIT;
        } else {
            self.state = State::Closed;
        }
    }

    pub fn state(&self) -> State {
        self.state
    }

    pub fn host_has_ended(&self) -> bool {
        self.fin.is_some()
    }

    pub fn guest_has_ended(&self) -> bool {
        self.guest_fin
    }

    pub fn una(&self) -> Seq {
        self.una
    }

    pub fn nxt(&self) -> Seq {
        self.nxt
    }

    pub fn rcv_nxt(&self) -> Seq {
        self.rcv_nxt
    }

    /// When the guest last sent an acceptable segment.
    pub fn last_heard(&self) -> Instant {
        self.last_heard
    }

    /// The round trip to the guest.
    pub fn rtt(&self) -> Option<Duration> {
        self.rtt.smoothed()
    }

    pub fn mss(&self) -> u16 {
        self.mss
    }

    /// True if our window field counts in units of 2^shift.
    #[cfg(test)]
    pub(super) fn scaled(&self) -> bool {
        self.rcv_shift > 0
    }
}

/// Without an MSS option (RFC 9293 §3.7.1), and the least we ever send: a smaller claim would turn one write into a storm
/// of frames (SACK Panic, CVE-2019-11479, taught kernels a floor of this kind).
const MSS_DEFAULT: u16 = 536;
const MSS_FLOOR: u16 = 88;

/// The guest link is a wire of no length: a second FIN comes at once or never, so minutes of 2·MSL would only hold memory.
const TIME_WAIT: Duration = Duration::from_secs(2);
