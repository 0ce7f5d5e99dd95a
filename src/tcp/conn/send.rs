//! What the guest takes: the room in its window, and the numbers of what is sent into it (RFC 9293 §3.8).

use super::super::seq::Seq;
use super::{Conn, State};
use crate::base::Instant;

impl Conn {
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

    pub(super) fn fin_acked(&self) -> bool {
        self.fin_sent && self.fin.is_some_and(|f| self.una > f)
    }

    /// The number a segment without data bears: the next to send, unless the guest has taken back window that was used
    /// already. Beyond its window it would drop our ACK unread, and with both sides full nothing would ever move again.
    pub fn bare_seq(&self) -> Seq {
        let edge = self.wl2 + self.wnd;
        if self.state != State::Established || self.nxt <= edge { self.nxt } else { self.una.max(edge) }
    }

    /// A sequence number the guest has acknowledged: a segment with it is answered and changes nothing.
    pub fn probe_seq(&self) -> Seq {
        self.una - 1
    }
}
