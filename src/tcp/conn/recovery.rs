//! What acknowledgements, their absence and the clock say: loss and its repair (RFC 5681, RFC 6582, RFC 6298), probes of
//! a closed window, keep-alive.

use std::time::Duration;

use super::super::ranges::Ranges;
use super::super::seq::Seq;
use super::{Conn, State, Verdict};
use crate::base::Instant;
use crate::wire::TcpHeader;

impl Conn {
    pub(super) fn on_progress(&mut self, t: &TcpHeader, now: Instant, v: &mut Verdict) {
        let ack = Seq(t.ack);
        let fin_acked = self.fin_sent && self.fin.is_some_and(|f| ack > f);
        let progress = ack.since(self.una);
        v.acked += progress - u32::from(fin_acked);
        self.una = ack;
        let clean = self.retries == 0 && self.recover.is_none();
        self.rtt.acked(ack, clean, now);
        if !clean && let Some(age) = self.echo_age(t, now) {
            self.rtt.sample(age);
        }
        self.forget_sacked_before_una();
        // It must not fall behind by so much that it seems to be ahead.
        self.resent = self.una.max(self.resent);
        self.retries = 0;
        self.dup_acks = 0;
        self.resend_at = if self.una == self.nxt { Instant::FAR } else { now + self.rtt.timeout() };
        let late = self.after_timeout && self.was_only_late(t);
        match self.recover {
            Some(r) if ack < r && late => {
                self.recover = None;
                self.after_timeout = false;
            }
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

    /// The intervals of the probes say nothing about the path, and the next probe is not due any more. What was under way
    /// when the guest took its window back, it has thrown away; waiting for the backed-off timer would stall for minutes.
    pub(super) fn on_window_opened(&mut self, now: Instant, v: &mut Verdict) {
        self.rtt.answered();
        if self.una == self.nxt {
            self.resend_at = Instant::FAR;
        } else if !v.resend {
            self.resend_at = now + self.rtt.timeout();
            self.give_up_flight(v);
        }
    }

    /// RFC 5681 §3.2: the third duplicate means loss; only the hole is resent, once.
    pub(super) fn on_duplicate_ack(&mut self, v: &mut Verdict) {
        self.dup_acks = self.dup_acks.saturating_add(1);
        if self.dup_acks == 3 && self.recover.is_none() {
            self.start_recovery(false, v);
        }
    }

    /// All that is under way is taken for lost, even what the guest has said to have: it may take that back (RFC 2018 §8).
    fn give_up_flight(&mut self, v: &mut Verdict) {
        if let Some(loss) = &mut self.loss {
            loss.sacked = Ranges::default();
            self.forget_idle_loss();
        }
        self.start_recovery(true, v);
    }

    pub(super) fn start_recovery(&mut self, after_timeout: bool, v: &mut Verdict) {
        self.recover = Some(self.nxt);
        self.after_timeout = after_timeout;
        self.burst = u32::from(self.mss);
        // After a timeout all goes again; else what the recovery before has sent again is under way.
        self.resent = if after_timeout { self.una } else { self.una.max(self.resent) };
        self.dup_acks = 0;
        v.resend = true;
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
                    self.times_out(now);
                    self.give_up_flight(v);
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

    /// Puts the retransmission of data off, if it is due: the guest cannot have had the chance to acknowledge it. False if
    /// something else is due.
    pub fn postpone(&mut self, now: Instant) -> bool {
        let due = self.state == State::Established && self.una != self.nxt && self.resend_at <= now;
        if due {
            self.resend_at = now + self.rtt.timeout();
        }
        due
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

    /// True if something is resent or probed by a timer.
    pub fn has_timer(&self) -> bool {
        self.resend_at != Instant::FAR
    }

    /// When [`Conn::on_timer`] wants to be called.
    pub fn deadline(&self) -> Instant {
        match self.state {
            State::Established => self.resend_at.min(self.keepalive_at()),
            _ => self.resend_at,
        }
    }
}

/// Tries before the peer is given up: for SYNs four minutes, where three are the least (RFC 9293 §3.8.3), for data as many as
/// in Linux (tcp(7), tcp_retries2).
const SYN_RETRIES: u8 = 7;
const DATA_RETRIES: u8 = 15;

/// RFC 9293 §3.8.4: two hours of silence before a keep-alive probe; then Linux's spacing and count.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(7200);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(75);
const KEEPALIVE_PROBES: u8 = 9;
