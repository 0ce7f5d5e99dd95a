//! How many questions, or answers that nobody asked for, of one source are heard. Pure.

use std::collections::HashMap;

use crate::base::{Instant, Mac, RateLimit};

/// Sources that have a share of their own; when there are more at a time, those that come later share one.
pub const SOURCES_MAX: usize = 256;

/// A share for each source, by the MAC it sends from: an IP address costs a liar nothing, and the answer goes to the MAC.
#[derive(Debug)]
pub struct Limits {
    per_second: u32,
    burst: u32,
    sources: HashMap<Mac, Share>,
    others: RateLimit,
}

#[derive(Debug)]
struct Share {
    limit: RateLimit,
    last: Instant,
}

/// A source that was silent for as long as this has its whole share again, and need not be remembered.
const SILENT: std::time::Duration = std::time::Duration::from_secs(2);

impl Limits {
    /// What one source may say in a second; twice that at once after a while of silence.
    pub fn new(per_second: u32) -> Limits {
        let burst = per_second.saturating_mul(2);
        let others = RateLimit::new(per_second, burst);
        Limits { per_second, burst, sources: HashMap::new(), others }
    }

    /// True if it may be heard now; it is then counted.
    pub fn allow(&mut self, source: Mac, now: Instant) -> bool {
        if !self.sources.contains_key(&source) && self.sources.len() >= SOURCES_MAX {
            self.sources.retain(|_, share| now.since(share.last) < SILENT);
            if self.sources.len() >= SOURCES_MAX {
                return self.others.allow(now);
            }
        }
        let fresh = || Share { limit: RateLimit::new(self.per_second, self.burst), last: now };
        let share = self.sources.entry(source).or_insert_with(fresh);
        share.last = now;
        share.limit.allow(now)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::testing::station;
    use super::*;
    use crate::base::Clock;

    #[test]
    fn each_source_has_its_share() {
        let mut limits = Limits::new(10);
        let heard = |limits: &mut Limits, n, now| (0..100).filter(|_| limits.allow(station(n), now)).count();
        assert_eq!(heard(&mut limits, 1, Clock::BEGIN), 20);
        assert_eq!(heard(&mut limits, 2, Clock::BEGIN), 20);
        assert_eq!(heard(&mut limits, 1, Clock::BEGIN + Duration::from_secs(1)), 10);
    }

    #[test]
    fn a_crowd_shares_one_and_takes_bounded_memory() {
        let mut limits = Limits::new(10);
        let heard = (0..2000).filter(|n| limits.allow(station(*n), Clock::BEGIN)).count();
        assert_eq!((heard, limits.sources.len()), (SOURCES_MAX + 20, SOURCES_MAX));
        assert!(limits.allow(station(5000), Clock::BEGIN + SILENT), "those who have gone make room");
    }
}
