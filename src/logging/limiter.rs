//! Fewer of the same: for messages that a guest or a remote host can cause at will.

use std::time::Duration;

use crate::base::Instant;

/// Lets `burst` messages through in each `period`. One for each place in the code that reports; pure, the clock is an
/// argument.
#[derive(Clone, Debug)]
pub struct Limiter {
    period: Duration,
    burst: u32,
    /// When the current period began.
    since: Instant,
    passed: u32,
    suppressed: u64,
}

impl Limiter {
    pub const fn new(burst: u32, period: Duration) -> Limiter {
        Limiter { period, burst, since: Instant::ZERO, passed: 0, suppressed: 0 }
    }

    /// `None`: say nothing. `Some(n)`: say it, and that `n` like it were left out before, if any.
    pub fn allow(&mut self, now: Instant) -> Option<u64> {
        if now.since(self.since) >= self.period {
            self.since = now;
            self.passed = 0;
        }
        if self.passed >= self.burst {
            self.suppressed += 1;
            return None;
        }
        self.passed += 1;
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_the_rest_is_counted() {
        let mut limiter = Limiter::new(2, Duration::from_secs(10));
        let at = |s: u64| Instant::from_nanos(s * 1_000_000_000);
        assert_eq!(limiter.allow(at(100)), Some(0));
        assert_eq!(limiter.allow(at(101)), Some(0));
        assert_eq!(limiter.allow(at(102)), None);
        assert_eq!(limiter.allow(at(109)), None);
        assert_eq!(limiter.allow(at(110)), Some(2));
        assert_eq!(limiter.allow(at(110)), Some(0));
        assert_eq!(limiter.allow(at(110)), None);
        assert_eq!(limiter.allow(at(500)), Some(1));
    }
}
