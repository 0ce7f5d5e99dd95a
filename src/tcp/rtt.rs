//! Retransmission timeout from measured round trips (RFC 6298).

use std::time::Duration;

use super::seq::Seq;
use crate::base::Instant;

/// Below Linux's delayed-ACK time a timeout would fire for segments that are merely not acknowledged yet.
const RTO_MIN: Duration = Duration::from_millis(200);
const RTO_INITIAL: Duration = Duration::from_secs(1);
/// §5.7: where a second was too short, or the path is lossy.
const RTO_AFTER_LOST_SYN: Duration = Duration::from_secs(3);
const RTO_MAX: Duration = Duration::from_secs(120);

/// Smoothed round trip, variance and back-off. 24 bytes.
#[derive(Clone, Debug)]
pub struct Rtt {
    /// Microseconds; 0: no sample yet.
    srtt_us: u32,
    var_us: u32,
    /// A segment being timed: the sequence number that acknowledges it, and when it left. One at a time is enough here.
    timed: Option<Timed>,
    back_off: u8,
    /// The handshake has cost a timeout.
    lost_syn: bool,
}

#[derive(Clone, Copy, Debug)]
struct Timed {
    end: Seq,
    /// Microseconds, truncated: differences are what counts.
    at_us: u32,
}

impl Rtt {
    pub fn new() -> Rtt {
        Rtt { srtt_us: 0, var_us: 0, timed: None, back_off: 0, lost_syn: false }
    }

    /// A segment that ends before `end` was sent for the first time.
    pub fn time(&mut self, end: Seq, now: Instant) {
        if self.timed.is_none() {
            self.timed = Some(Timed { end, at_us: micros(now) });
        }
    }

    /// Everything before `ack` is acknowledged. `clean`: nothing was resent, so a sample is unambiguous (§3, Karn).
    pub fn acked(&mut self, ack: Seq, clean: bool, now: Instant) {
        self.back_off = 0;
        let Some(t) = self.timed.filter(|t| ack >= t.end) else { return };
        self.timed = None;
        if !clean {
            return;
        }
        let took = micros(now).wrapping_sub(t.at_us);
        // A clock that was behind that of whoever sent it says nothing.
        if took < 1 << 31 {
            self.sample(Duration::from_micros(took.into()));
        }
    }

    /// A measured round trip.
    pub fn sample(&mut self, took: Duration) {
        let sample = took.as_micros().clamp(1, 60_000_000) as u32;
        if self.srtt_us == 0 {
            self.srtt_us = sample;
            self.var_us = sample / 2;
        } else {
            // §2.3: beta 1/4, alpha 1/8.
            self.var_us = self.var_us - self.var_us / 4 + self.srtt_us.abs_diff(sample) / 4;
            self.srtt_us = self.srtt_us - self.srtt_us / 8 + sample / 8;
        }
    }

    /// §5.5: the timer fired.
    pub fn back_off(&mut self) {
        self.back_off = (self.back_off + 1).min(16);
        self.timed = None;
    }

    /// The handshake is over, but a SYN was sent more than once.
    pub fn connected_late(&mut self) {
        self.lost_syn = true;
    }

    /// The peer has shown that it is there.
    pub fn answered(&mut self) {
        self.back_off = 0;
    }

    /// `None`: no sample yet.
    pub fn smoothed(&self) -> Option<Duration> {
        (self.srtt_us > 0).then(|| Duration::from_micros(self.srtt_us.into()))
    }

    pub fn timeout(&self) -> Duration {
        let base = if self.srtt_us == 0 {
            if self.lost_syn { RTO_AFTER_LOST_SYN } else { RTO_INITIAL }
        } else {
            Duration::from_micros(u64::from(self.srtt_us) + 4 * u64::from(self.var_us)).max(RTO_MIN)
        };
        (base * (1u32 << self.back_off)).min(RTO_MAX)
    }
}

fn micros(now: Instant) -> u32 {
    (now.as_nanos() / 1000) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_samples_and_backs_off() {
        let mut r = Rtt::new();
        let t0 = Instant::from_nanos(5_000_000_000);
        assert_eq!(r.timeout(), Duration::from_secs(1));
        r.time(Seq(10), t0);
        r.acked(Seq(5), true, t0 + Duration::from_millis(50));
        r.acked(Seq(10), true, t0 + Duration::from_millis(100));
        assert_eq!(r.timeout(), Duration::from_millis(300));
        r.back_off();
        r.back_off();
        assert_eq!(r.timeout(), Duration::from_millis(1200));
        for _ in 0..40 {
            r.back_off();
        }
        assert_eq!(r.timeout(), RTO_MAX);
        r.acked(Seq(10), false, t0);
        assert_eq!(r.timeout(), Duration::from_millis(300));
    }

    #[test]
    fn never_below_the_floor() {
        let mut r = Rtt::new();
        let t0 = Instant::from_nanos(5_000_000_000);
        r.time(Seq(1), t0);
        r.acked(Seq(1), true, t0 + Duration::from_micros(30));
        assert_eq!(r.timeout(), RTO_MIN);
    }
}
