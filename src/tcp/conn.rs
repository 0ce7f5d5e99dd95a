//! The TCP state machine towards the guest (RFC 9293). Pure: segments, facts and a clock come in, a [`Verdict`] comes out.
//! It holds no payload: what the guest has not acknowledged lies in the host socket's receive queue.

use std::time::Duration;

use super::rtt::Rtt;
use super::seq::Seq;
use crate::base::{DropReason, Instant};
use crate::wire::{TcpFlags, TcpHeader};

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
pub struct Limits {
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
    /// Resend from the oldest unacknowledged byte on, [`Conn::resend_len`] bytes; or the SYN or FIN.
    pub resend: bool,
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

/// Which part of a segment's payload is new and in order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accepted {
    pub skip: usize,
    pub take: usize,
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
    rtt: Rtt,
    /// When to resend or to probe; [`Instant::FAR`] when nothing is outstanding.
    resend_at: Instant,
    last_heard: Instant,
    mss: u16,
    our_mss: u16,
    snd_shift: u8,
    rcv_shift: u8,
    scaling: bool,
    dup_acks: u8,
    retries: u8,
    keepalives: u8,
    after_timeout: bool,
    fin_sent: bool,
    guest_fin: bool,
    closed_first: bool,
}

/// The window of a SYN of ours: the most the field holds, kept as a promise once the guest has answered.
const SYN_WINDOW: u16 = u16::MAX;

/// Without an MSS option (RFC 9293 §3.7.1), and the least we ever send: a smaller claim would turn one write into a storm
/// of frames (SACK Panic, CVE-2019-11479, taught kernels a floor of this kind).
const MSS_DEFAULT: u16 = 536;
const MSS_FLOOR: u16 = 88;

/// Tries before the peer is given up: those of Linux for SYNs and for data (tcp(7), tcp_syn_retries, tcp_retries2).
const SYN_RETRIES: u8 = 6;
const DATA_RETRIES: u8 = 15;

/// RFC 9293 §3.8.4: two hours of silence before a keep-alive probe; then Linux's spacing and count.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(7200);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(75);
const KEEPALIVE_PROBES: u8 = 9;

/// The guest link is a wire of no length: a second FIN comes at once or never, so minutes of 2·MSL would only hold memory.
const TIME_WAIT: Duration = Duration::from_secs(2);

impl Conn {
    /// For a SYN of the guest; the host's connect is under way.
    pub fn from_guest_syn(t: &TcpHeader, iss: Seq, limits: &Limits, now: Instant) -> Conn {
        let mut c = Conn::new(State::Connecting, iss, limits, now);
        c.irs = Seq(t.seq);
        c.rcv_nxt = c.irs + 1;
        c.adv = c.rcv_nxt;
        c.peer_options(t, limits);
        c
    }

    /// For a connection accepted on the host; the SYN is to be sent to the guest.
    pub fn from_host_accept(iss: Seq, limits: &Limits, now: Instant) -> Conn {
        let mut c = Conn::new(State::SynSent, iss, limits, now);
        c.rcv_shift = limits.shift;
        c
    }

    fn new(state: State, iss: Seq, limits: &Limits, now: Instant) -> Conn {
        Conn {
            state,
            una: iss,
            nxt: iss,
            wnd: 0,
            max_wnd: 0,
            wl1: Seq(0),
            wl2: iss,
            rcv_nxt: Seq(0),
            adv: Seq(0),
            irs: Seq(0),
            fin: None,
            recover: None,
            burst: 0,
            resent: iss,
            rtt: Rtt::new(),
            resend_at: Instant::FAR,
            last_heard: now,
            mss: MSS_DEFAULT.min(limits.mss),
            our_mss: limits.mss,
            snd_shift: 0,
            rcv_shift: 0,
            scaling: false,
            dup_acks: 0,
            retries: 0,
            keepalives: 0,
            after_timeout: false,
            fin_sent: false,
            guest_fin: false,
            closed_first: false,
        }
    }

    /// RFC 7323 §2.2: both shifts are in force only if both SYNs had the option; shifts above 14 count as 14 (§2.3).
    fn peer_options(&mut self, t: &TcpHeader, limits: &Limits) {
        self.mss = t.mss.unwrap_or(MSS_DEFAULT).max(MSS_FLOOR).min(limits.mss);
        self.scaling = t.window_scale.is_some();
        self.snd_shift = t.window_scale.unwrap_or(0).min(14);
        self.rcv_shift = if self.scaling { limits.shift } else { 0 };
        // The window field of a SYN is not scaled.
        self.wnd = u32::from(t.window);
        self.max_wnd = self.wnd;
        self.wl1 = Seq(t.seq);
    }

    pub fn state(&self) -> State {
        self.state
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

    /// One segment of the guest. `wire_size`: payload bytes of each segment the guest's kernel would have put on a wire.
    ///
    /// # Errors
    /// The reason why the segment, or the part of it that was not accepted, is dropped. `v` is valid all the same.
    pub fn on_segment(
        &mut self,
        t: &TcpHeader,
        payload_len: usize,
        wire_size: usize,
        now: Instant,
        v: &mut Verdict,
    ) -> Result<Accepted, DropReason> {
        match self.state {
            State::Connecting => return self.while_connecting(t, v),
            State::SynSent => return self.while_syn_sent(t, now, v),
            State::Closed => return Err(DropReason::NoFlow),
            State::SynReceived | State::Established | State::TimeWait => {}
        }
        let seq = Seq(t.seq);
        let len = payload_len as u32;
        let end = seq + len + u32::from(t.flags.contains(TcpFlags::FIN));
        if t.flags.contains(TcpFlags::RST) {
            return self.on_reset(seq, v);
        }
        if t.flags.contains(TcpFlags::SYN) {
            if self.state != State::SynReceived || seq != self.irs {
                // RFC 5961 §4.2: a challenge ACK, whatever the sequence number.
                v.ack = true;
            } else if t.flags.contains(TcpFlags::ACK) && Seq(t.ack) == self.nxt {
                // The end of a simultaneous open (RFC 9293 §3.5, figure 7): the guest has our SYN, we have had its.
                self.una = self.nxt;
                self.wl2 = self.una;
                self.establish(now, v);
                v.ack = true;
                return Ok(Accepted::default());
            } else {
                v.resend = true;
            }
            return Err(DropReason::TcpUnacceptable);
        }
        if !t.flags.contains(TcpFlags::ACK) {
            return Err(DropReason::TcpUnacceptable);
        }
        if seq > self.adv {
            v.ack = true;
            return Err(DropReason::TcpBeyondWindow);
        }
        self.last_heard = now;
        self.keepalives = 0;
        self.on_ack(t, seq, payload_len == 0 && end == seq, now, v)?;
        self.on_payload(t, seq, len, wire_size as u32, v, now)
    }

    fn while_connecting(&mut self, t: &TcpHeader, v: &mut Verdict) -> Result<Accepted, DropReason> {
        // Only a RST for the SYN, or the SYN again, can be meant: nothing was sent yet that could be acknowledged.
        if t.flags.contains(TcpFlags::RST) && Seq(t.seq) == self.rcv_nxt {
            v.reset_by_guest = true;
            self.state = State::Closed;
        }
        Err(DropReason::TcpUnacceptable)
    }

    /// RFC 9293 §3.10.7.3.
    fn while_syn_sent(&mut self, t: &TcpHeader, now: Instant, v: &mut Verdict) -> Result<Accepted, DropReason> {
        let acks_syn = t.flags.contains(TcpFlags::ACK) && Seq(t.ack) == self.nxt;
        if t.flags.contains(TcpFlags::ACK) && !acks_syn {
            v.refuse = !t.flags.contains(TcpFlags::RST);
            return Err(DropReason::TcpUnacceptable);
        }
        if t.flags.contains(TcpFlags::RST) {
            if !acks_syn {
                return Err(DropReason::TcpResetInvalid);
            }
            v.reset_by_guest = true;
            self.state = State::Closed;
            return Ok(Accepted::default());
        }
        if !t.flags.contains(TcpFlags::SYN) {
            return Err(DropReason::TcpUnacceptable);
        }
        self.last_heard = now;
        self.irs = Seq(t.seq);
        self.rcv_nxt = self.irs + 1;
        self.adv = self.rcv_nxt + u32::from(SYN_WINDOW);
        let limits = Limits { mss: self.our_mss, shift: self.rcv_shift };
        self.peer_options(t, &limits);
        if acks_syn {
            self.una = self.nxt;
            self.wl2 = self.una;
            self.establish(now, v);
            v.ack = true;
        } else {
            // Simultaneous open: the guest connects to the very port pair we connect from. Our SYN again, now with an ACK.
            self.state = State::SynReceived;
            v.resend = true;
        }
        Ok(Accepted::default())
    }

    fn establish(&mut self, now: Instant, v: &mut Verdict) {
        self.state = State::Established;
        self.rtt.acked(self.una, self.retries == 0, now);
        self.retries = 0;
        self.resend_at = Instant::FAR;
        v.established = true;
        v.may_send = true;
    }

    /// RFC 5961 §3.2: only a RST exactly at the next expected byte resets.
    fn on_reset(&mut self, seq: Seq, v: &mut Verdict) -> Result<Accepted, DropReason> {
        if seq == self.rcv_nxt {
            self.state = State::Closed;
            v.reset_by_guest = true;
            return Ok(Accepted::default());
        }
        v.ack |= seq > self.rcv_nxt && seq < self.adv;
        Err(DropReason::TcpResetInvalid)
    }

    fn on_ack(&mut self, t: &TcpHeader, seq: Seq, pure: bool, now: Instant, v: &mut Verdict) -> Result<(), DropReason> {
        let ack = Seq(t.ack);
        if self.state == State::SynReceived {
            if ack != self.nxt {
                v.refuse = true;
                return Err(DropReason::TcpUnacceptable);
            }
            self.una = ack;
            self.establish(now, v);
            self.set_window(t, seq, ack);
            return Ok(());
        }
        // RFC 9293 §3.10.7.4 and RFC 5961 §5.2: an ACK of what was never sent, or of long ago, is answered and ignored.
        let oldest = self.una - self.max_wnd;
        if ack.0.wrapping_sub(oldest.0) > self.nxt.0.wrapping_sub(oldest.0) {
            v.ack = true;
            return Err(DropReason::TcpUnacceptable);
        }
        let window_before = self.wnd;
        let room_before = self.room();
        if ack >= self.una && (self.wl1 < seq || (self.wl1 == seq && self.wl2 <= ack)) {
            self.set_window(t, seq, ack);
        }
        if ack > self.una {
            self.on_progress(ack, now, v);
        } else if ack == self.una && pure && self.una != self.nxt && self.wnd == window_before {
            self.on_duplicate_ack(v);
        }
        if self.wnd == 0 && self.una != self.nxt {
            // It answers, so it lives: a closed window is no reason to give up (RFC 9293 §3.8.6.1).
            self.retries = self.retries.min(1);
        }
        if window_before == 0 && self.wnd > 0 && self.state == State::Established {
            self.on_window_opened(now, v);
        }
        v.may_send |= self.room() > room_before;
        Ok(())
    }

    /// The intervals of the probes say nothing about the path, and the next probe is not due any more. What was under way
    /// when the guest took its window back, it has thrown away; waiting for the backed-off timer would stall for minutes.
    fn on_window_opened(&mut self, now: Instant, v: &mut Verdict) {
        self.rtt.answered();
        if self.una == self.nxt {
            self.resend_at = Instant::FAR;
        } else if !v.resend {
            self.resend_at = now + self.rtt.timeout();
            self.start_recovery(true, v);
        }
    }

    fn set_window(&mut self, t: &TcpHeader, seq: Seq, ack: Seq) {
        self.wnd = u32::from(t.window) << self.snd_shift;
        self.max_wnd = self.max_wnd.max(self.wnd);
        self.wl1 = seq;
        self.wl2 = ack;
    }

    fn on_progress(&mut self, ack: Seq, now: Instant, v: &mut Verdict) {
        let fin_acked = self.fin_sent && self.fin.is_some_and(|f| ack > f);
        let progress = ack.since(self.una);
        v.acked += progress - u32::from(fin_acked);
        self.una = ack;
        self.rtt.acked(ack, self.retries == 0 && self.recover.is_none(), now);
        self.retries = 0;
        self.dup_acks = 0;
        self.resend_at = if self.una == self.nxt { Instant::FAR } else { now + self.rtt.timeout() };
        match self.recover {
            Some(r) if ack < r => {
                // RFC 6582 §3.2: a partial ACK names the next hole.
                if self.after_timeout {
                    self.burst = (self.burst + progress).min(1 << 20);
                }
                v.resend = true;
            }
            Some(_) => {
                self.recover = None;
                self.after_timeout = false;
            }
            None => {}
        }
        if fin_acked && self.guest_fin {
            self.finish(now);
        }
    }

    /// RFC 5681 §3.2: the third duplicate means loss; only the hole is resent, once.
    fn on_duplicate_ack(&mut self, v: &mut Verdict) {
        self.dup_acks = self.dup_acks.saturating_add(1);
        if self.dup_acks == 3 && self.recover.is_none() {
            self.start_recovery(false, v);
        }
    }

    fn start_recovery(&mut self, after_timeout: bool, v: &mut Verdict) {
        self.recover = Some(self.nxt);
        self.after_timeout = after_timeout;
        self.burst = u32::from(self.mss);
        self.resent = self.una;
        self.dup_acks = 0;
        v.resend = true;
    }

    fn on_payload(
        &mut self,
        t: &TcpHeader,
        seq: Seq,
        len: u32,
        wire_size: u32,
        v: &mut Verdict,
        now: Instant,
    ) -> Result<Accepted, DropReason> {
        let fin = t.flags.contains(TcpFlags::FIN);
        let end = seq + len + u32::from(fin);
        if end <= self.rcv_nxt && (end != seq || seq < self.rcv_nxt) {
            // Every old segment, a keep-alive probe included, is answered (RFC 9293 §3.10.7.4).
            v.ack = true;
            return if len > 0 { Err(DropReason::TcpUnacceptable) } else { Ok(Accepted::default()) };
        }
        if end == seq {
            return Ok(Accepted::default());
        }
        if self.guest_fin {
            v.ack = true;
            return Err(DropReason::TcpUnacceptable);
        }
        if seq > self.rcv_nxt {
            // As many duplicates as the segments of a super-frame would have drawn, but no more than mean loss.
            let segments = len.max(1).div_ceil(wire_size.max(1));
            v.dup_acks = (u32::from(v.dup_acks) + segments).min(3) as u8;
            return Err(DropReason::TcpOutOfOrder);
        }
        let skip = self.rcv_nxt.since(seq);
        let take = len.saturating_sub(skip).min(self.adv.since(self.rcv_nxt));
        self.rcv_nxt += take;
        v.ack = true;
        if skip + take < len {
            return if take == 0 {
                Err(DropReason::TcpBeyondWindow)
            } else {
                Ok(Accepted { skip: skip as usize, take: take as usize })
            };
        }
        if fin {
            self.rcv_nxt += 1;
            self.adv = self.adv.max(self.rcv_nxt);
            self.guest_fin = true;
            self.closed_first = self.fin_sent;
            v.guest_fin = true;
            if self.fin_acked() {
                self.finish(now);
            }
        }
        Ok(Accepted { skip: skip as usize, take: take as usize })
    }

    fn finish(&mut self, now: Instant) {
        if self.closed_first {
            self.state = State::TimeWait;
            self.resend_at = now + TIME_WAIT;
        } else {
            self.state = State::Closed;
        }
    }

    /// Bytes the guest would take now.
    pub fn room(&self) -> u32 {
        if self.state != State::Established || self.fin_sent || self.after_timeout {
            return 0;
        }
        (self.wl2 + self.wnd).since(self.nxt)
    }

    /// True if it is better to wait for a larger window (RFC 9293 §3.8.6.2.1): less than a segment fits, less than half
    /// of the largest window, and an ACK is still to come.
    pub fn window_is_silly(&self) -> bool {
        let room = self.room();
        self.una != self.nxt && room < u32::from(self.mss) && room < self.max_wnd / 2
    }

    /// Bytes sent and not acknowledged, SYN and FIN not counted: where the next peek is to start.
    pub fn in_flight(&self) -> u32 {
        self.data_end().since(self.una)
    }

    fn data_end(&self) -> Seq {
        match self.fin {
            Some(f) if self.fin_sent => f,
            _ => self.nxt,
        }
    }

    /// `n` new payload bytes were sent.
    pub fn sent(&mut self, n: u32, now: Instant) {
        if n == 0 {
            return;
        }
        // RFC 6298 §5.1. With nothing outstanding a deadline can only be that of a window probe.
        if self.una == self.nxt || self.resend_at == Instant::FAR {
            self.resend_at = now + self.rtt.timeout();
        }
        self.nxt += n;
        self.rtt.time(self.nxt, now);
    }

    /// The host side has ended after all data that was sent: our FIN is due.
    pub fn host_ended(&mut self) {
        if self.fin.is_none() {
            self.fin = Some(self.nxt);
        }
    }

    /// True if our FIN is to be sent now. It takes one number of the window, as data does.
    pub fn fin_due(&self) -> bool {
        self.state == State::Established && !self.fin_sent && self.fin == Some(self.nxt) && self.room() > 0
    }

    pub fn sent_fin(&mut self, now: Instant) {
        self.fin_sent = true;
        self.sent(1, now);
    }

    pub fn host_has_ended(&self) -> bool {
        self.fin.is_some()
    }

    pub fn guest_has_ended(&self) -> bool {
        self.guest_fin
    }

    fn fin_acked(&self) -> bool {
        self.fin_sent && self.fin.is_some_and(|f| self.una > f)
    }

    /// Where a resend starts: at the oldest unacknowledged byte, or behind what this recovery has resent before.
    pub fn resend_seq(&self) -> Seq {
        self.una.max(self.resent)
    }

    /// Payload bytes to resend from [`Conn::resend_seq`] on.
    pub fn resend_len(&self) -> u32 {
        (self.una + self.burst.min(self.in_flight())).since(self.resend_seq())
    }

    /// `n` bytes from [`Conn::resend_seq`] on were sent again.
    pub fn resent(&mut self, n: u32) {
        self.resent = self.resend_seq() + n;
    }

    /// The oldest unacknowledged sequence number is our FIN's.
    pub fn resend_is_fin(&self) -> bool {
        self.fin_sent && self.fin == Some(self.una)
    }

    /// Data waits on the host side but the guest's window is shut: probe it (RFC 9293 §3.8.6.1).
    pub fn wait_for_window(&mut self, now: Instant) {
        if self.una == self.nxt && self.resend_at == Instant::FAR && self.state == State::Established {
            self.resend_at = now + self.rtt.timeout();
        }
    }

    /// The deadline has passed. `v.ack` asks for a probe: an ACK with [`Conn::probe_seq`].
    pub fn on_timer(&mut self, now: Instant, v: &mut Verdict) {
        if self.resend_at <= now {
            self.resend_at = Instant::FAR;
            return match self.state {
                State::TimeWait => self.state = State::Closed,
                State::SynReceived | State::SynSent => self.on_timeout(SYN_RETRIES, now, v),
                State::Established if self.una != self.nxt => {
                    self.start_recovery(true, v);
                    self.on_timeout(DATA_RETRIES, now, v);
                }
                State::Established if self.room() == 0 && !self.fin_sent => {
                    v.ack = true;
                    self.rtt.back_off();
                    self.resend_at = now + self.rtt.timeout();
                }
                _ => {}
            };
        }
        if self.state == State::Established && self.keepalive_at() <= now {
            self.keepalives += 1;
            v.abort = self.keepalives > KEEPALIVE_PROBES;
            v.ack = !v.abort;
        }
    }

    fn on_timeout(&mut self, limit: u8, now: Instant, v: &mut Verdict) {
        self.retries += 1;
        if self.retries > limit {
            v.abort = true;
            v.resend = false;
            return;
        }
        v.resend = true;
        self.rtt.back_off();
        self.resend_at = now + self.rtt.timeout();
    }

    fn keepalive_at(&self) -> Instant {
        self.last_heard + KEEPALIVE_IDLE + KEEPALIVE_INTERVAL * u32::from(self.keepalives)
    }

    /// True if our window field counts in units of 2^shift.
    #[cfg(test)]
    pub(super) fn scaled(&self) -> bool {
        self.rcv_shift > 0
    }

    /// True if something is resent or probed by a timer.
    pub(super) fn has_timer(&self) -> bool {
        self.resend_at != Instant::FAR
    }

    /// When [`Conn::on_timer`] wants to be called.
    pub fn deadline(&self) -> Instant {
        match self.state {
            State::Established => self.resend_at.min(self.keepalive_at()),
            _ => self.resend_at,
        }
    }

    /// Moves the offered window's right edge to `space` bytes from here, or leaves it: it never moves left
    /// (RFC 9293 §3.8.6). Small moves are withheld (§3.8.6.2.2).
    pub fn offer(&mut self, space: u32) {
        let edge = self.rcv_nxt + space.min(65535 << self.rcv_shift);
        let gain = edge.since(self.adv);
        if gain >= u32::from(self.our_mss).min(space / 2).max(1 << self.rcv_shift) {
            self.adv = edge;
        }
    }

    /// True if a window update is worth a frame of its own: the edge would move by `least` bytes, or by half of all that
    /// can be offered (RFC 9293 §3.8.6.2.2), which without scaling, or when memory is short, is less.
    pub fn offer_is_worth(&self, space: u32, least: u32) -> bool {
        let most = space.min(65535 << self.rcv_shift);
        (self.rcv_nxt + most).since(self.adv) >= least.min(most / 2).max(1 << self.rcv_shift)
    }

    /// Bytes of window the guest may still fill.
    pub fn offered(&self) -> u32 {
        self.adv.since(self.rcv_nxt)
    }

    /// The window field: scaled, or not scaled for a SYN. Rounded up, and what that adds is a promise too: rounded down,
    /// the right edge would move left and right as data comes in (RFC 7323 §2.4).
    pub fn window_field(&mut self, syn: bool) -> u16 {
        if self.state == State::SynSent {
            return SYN_WINDOW;
        }
        let shift = if syn { 0 } else { self.rcv_shift };
        let field = u16::try_from(self.offered().div_ceil(1 << shift)).unwrap_or(u16::MAX);
        self.adv = self.adv.max(self.rcv_nxt + (u32::from(field) << shift));
        field
    }

    pub fn una(&self) -> Seq {
        self.una
    }

    pub fn nxt(&self) -> Seq {
        self.nxt
    }

    /// The number a segment without data bears: the next to send, unless the guest has taken back window that was used
    /// already. Beyond its window it would drop our ACK unread, and with both sides full nothing would ever move again.
    pub fn bare_seq(&self) -> Seq {
        let edge = self.wl2 + self.wnd;
        if self.state != State::Established || self.nxt <= edge { self.nxt } else { self.una.max(edge) }
    }

    pub fn rcv_nxt(&self) -> Seq {
        self.rcv_nxt
    }

    /// A sequence number the guest has acknowledged: a segment with it is answered and changes nothing.
    pub fn probe_seq(&self) -> Seq {
        self.una - 1
    }

    /// When the guest last sent an acceptable segment.
    pub fn last_heard(&self) -> Instant {
        self.last_heard
    }

    pub fn mss(&self) -> u16 {
        self.mss
    }

    /// What our SYN offers: MSS, and the window shift if we may offer one.
    pub fn syn_options(&self) -> (u16, Option<u8>) {
        let may_scale = self.state == State::SynSent || self.scaling;
        (self.our_mss, may_scale.then_some(self.rcv_shift))
    }

    /// True if a SYN with this number may replace what is left of the connection (RFC 9293 §3.10.7.4, RFC 6191).
    pub fn may_be_replaced_by(&self, syn: Seq) -> bool {
        self.state == State::Closed || (self.state == State::TimeWait && syn > self.rcv_nxt)
    }
}
