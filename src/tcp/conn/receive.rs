//! What the guest sends: acceptability, handshake, payload, and the window offered for more (RFC 9293 §3.10.7).

use super::super::seq::Seq;
use super::{Accepted, Conn, State, TIME_WAIT, Verdict};
use crate::base::{DropReason, Instant};
use crate::wire::{TcpFlags, TcpHeader};

impl Conn {
    /// One segment of the guest. `sack`: its SACK blocks, as they stand there. `wire_size`: payload bytes of each segment the guest's kernel would have put on a wire.
    ///
    /// # Errors
    /// The reason why the segment, or the part of it that was not accepted, is dropped. `v` is valid all the same.
    pub fn on_segment(
        &mut self,
        t: &TcpHeader,
        sack: &[u8],
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
        if self.is_from_the_past(t, now) {
            v.ack = true;
            return Err(DropReason::TcpTimestamp);
        }
        if t.flags.contains(TcpFlags::SYN) {
            return self.on_syn(t, now, v);
        }
        if !t.flags.contains(TcpFlags::ACK) {
            return Err(DropReason::TcpUnacceptable);
        }
        if seq > self.adv {
            v.ack = true;
            return Err(DropReason::TcpBeyondWindow);
        }
        self.note_stamp(t, end, now);
        self.last_heard = now;
        self.keepalives = 0;
        self.on_ack(t, sack, (seq, end), now, v)?;
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
        self.peer_options(t, self.rcv_shift, now);
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
        if self.retries > 0 {
            self.rtt.connected_late();
        }
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

    fn on_syn(&mut self, t: &TcpHeader, now: Instant, v: &mut Verdict) -> Result<Accepted, DropReason> {
        if self.state != State::SynReceived || Seq(t.seq) != self.irs {
            // RFC 5961 §4.2: a challenge ACK, whatever the sequence number.
            v.ack = true;
        } else if t.flags.contains(TcpFlags::ACK) && Seq(t.ack) == self.nxt {
            // The end of a simultaneous open (RFC 9293 §3.5, figure 7): the guest has our SYN, we have had its. The window that
            // counts is that of this segment (§3.10.7.4), not scaled as in any SYN (RFC 7323 §2.2).
            self.una = self.nxt;
            self.wnd = u32::from(t.window);
            self.max_wnd = self.max_wnd.max(self.wnd);
            (self.wl1, self.wl2) = (Seq(t.seq), self.una);
            self.establish(now, v);
            v.ack = true;
            return Ok(Accepted::default());
        } else {
            v.resend = true;
        }
        Err(DropReason::TcpUnacceptable)
    }

    /// `sack`: as in [`Conn::on_segment`]; `seq`, `end`: what the segment occupies.
    fn on_ack(
        &mut self,
        t: &TcpHeader,
        sack: &[u8],
        (seq, end): (Seq, Seq),
        now: Instant,
        v: &mut Verdict,
    ) -> Result<(), DropReason> {
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
        let pure = end == seq;
        // RFC 9293 §3.10.7.4 and RFC 5961 §5.2: an ACK of what was never sent, or of long ago, is answered and ignored.
        let oldest = self.una - self.max_wnd;
        if ack.0.wrapping_sub(oldest.0) > self.nxt.0.wrapping_sub(oldest.0) {
            v.ack = true;
            return Err(DropReason::TcpUnacceptable);
        }
        let window_before = self.wnd;
        let room_before = self.room();
        // All of it came before: what told the window now in force may have overtaken it.
        let old = seq < self.rcv_nxt && end <= self.rcv_nxt;
        if ack >= self.una && !old && (self.wl1 < seq || (self.wl1 == seq && self.wl2 <= ack)) {
            self.set_window(t, seq, ack);
        }
        let progress = ack > self.una;
        if progress {
            self.on_progress(t, now, v);
        }
        let news = self.note_sacked(sack);
        // RFC 6675 §2: where there is SACK, an ACK that tells nothing new is no sign of loss.
        let duplicate = !progress && ack == self.una && pure && self.una != self.nxt && self.wnd == window_before;
        if duplicate && (news || !self.sack) {
            self.on_duplicate_ack(v);
        }
        if news || progress {
            self.on_sacked(news, v);
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

    fn set_window(&mut self, t: &TcpHeader, seq: Seq, ack: Seq) {
        self.wnd = u32::from(t.window) << self.snd_shift;
        self.max_wnd = self.max_wnd.max(self.wnd);
        self.wl1 = seq;
        self.wl2 = ack;
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
            if fin && self.state == State::TimeWait {
                self.resend_at = now + TIME_WAIT;
            }
            self.note_duplicate(seq, seq + len);
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
            if self.sack {
                // At once, and once is enough: its blocks tell all (RFC 6675 §5).
                v.ack = true;
                return self.hold(seq, len, fin);
            }
            // As many duplicates as the segments of a super-frame would have drawn, but no more than mean loss.
            let segments = len.max(1).div_ceil(wire_size.max(1));
            v.dup_acks = (u32::from(v.dup_acks) + segments).min(3) as u8;
            return self.hold(seq, len, fin);
        }
        let skip = self.rcv_nxt.since(seq);
        let take = len.saturating_sub(skip).min(self.adv.since(self.rcv_nxt));
        self.rcv_nxt += take;
        v.ack = true;
        let cut = skip + take < len;
        if cut && take == 0 {
            return Err(DropReason::TcpBeyondWindow);
        }
        if (fin && !cut) || self.catch_up(v) {
            self.forget_ahead();
            self.rcv_nxt += 1;
            self.adv = self.adv.max(self.rcv_nxt);
            self.guest_fin = true;
            self.closed_first = self.fin_sent;
            v.guest_fin = true;
            if self.fin_acked() {
                self.finish(now);
            }
        }
        Ok(Accepted { skip: skip as usize, take: take as usize, ahead: false })
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
}

/// The window of a SYN of ours: the most the field holds, kept as a promise once the guest has answered.
const SYN_WINDOW: u16 = u16::MAX;
