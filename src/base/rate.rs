//! A token bucket: so many a second, a few at once.

use std::time::Duration;

use super::Instant;

/// Allows `per_second` events in the long run and `burst` at once.
#[derive(Clone, Debug)]
pub struct RateLimit {
    /// Time one event costs.
    cost: Duration,
    /// How far `level` may lie before now.
    depth: Duration,
    /// The bucket is full when this lies `depth` or more before now, and empty when it is now.
    level: Instant,
}

impl RateLimit {
    /// A full bucket. Both numbers are at least one.
    pub fn new(per_second: u32, burst: u32) -> RateLimit {
        RateLimit::every(Duration::from_secs(1) / per_second.max(1), burst)
    }

    /// One event each `period`, and `burst` at once.
    pub fn every(period: Duration, burst: u32) -> RateLimit {
        RateLimit { cost: period, depth: period * burst.max(1), level: Instant::ZERO }
    }

    /// True if an event may happen now; it is then counted.
    pub fn allow(&mut self, now: Instant) -> bool {
        let floor = Instant::from_nanos(now.as_nanos().saturating_sub(self.depth.as_nanos() as u64));
        let level = self.level.max(floor) + self.cost;
        if level > now {
            return false;
        }
        self.level = level;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn burst_then_rate() {
        let mut r = RateLimit::new(10, 3);
        let t = |ms: u64| Instant::from_nanos((10_000 + ms) * 1_000_000);
        let allowed = |r: &mut RateLimit, ms: u64| (0..20).filter(|_| r.allow(t(ms))).count();
        assert_eq!(allowed(&mut r, 0), 3);
        assert_eq!(allowed(&mut r, 99), 0);
        assert_eq!(allowed(&mut r, 100), 1);
        assert_eq!(allowed(&mut r, 350), 2);
        assert_eq!(allowed(&mut r, 5000), 3);
    }
}
