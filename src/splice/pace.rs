//! How often a bulk transfer wakes us: per packet, or per megabyte.
//!
//! A socket that receives at full speed reports every arrival, and a process that only moves pages to another socket is
//! back asleep before the next one: half of its time goes into waking up. After a long burst the kernel is asked to report
//! only larger amounts (`SO_RCVLOWAT`; it reports an end, an error and a full buffer all the same). The price is the end of
//! a burst that is not the end of the stream: less than that amount waits until a timer notices. Hence only long bursts,
//! and a connection that keeps pausing after long bursts is given up on.

use std::time::Duration;

use crate::base::Instant;

/// One direction's.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Bytes moved since the source last paused.
    burst: u64,
    moved_at: Instant,
    /// A burst this long is bulk.
    long: u64,
    /// Only [`Pace::REPORT_BYTES`] at a time are reported.
    pub coarse: bool,
}

impl Pace {
    /// Arrivals reported together.
    pub const REPORT_BYTES: i32 = 1 << 20;
    /// A source that sends nothing for so long pauses.
    pub const PAUSE: Duration = Duration::from_millis(2);

    pub fn new() -> Pace {
        Pace { burst: 0, moved_at: Instant::from_nanos(0), long: LONG_BYTES, coarse: false }
    }

    /// So much was moved just now.
    pub fn moved(&mut self, bytes: u64, now: Instant) {
        if bytes == 0 {
            return;
        }
        if now.since(self.moved_at) > Pace::PAUSE {
            self.burst = 0;
        }
        self.burst += bytes;
        self.moved_at = now;
    }

    /// True if it is time to have arrivals reported in large amounts.
    pub fn is_bulk(&self) -> bool {
        !self.coarse && self.burst >= self.long
    }

    /// To be asked [`Pace::PAUSE`] after a coarse report was asked for, and again as long as it is false: true if the
    /// source pauses, and what it has sent last may be waiting.
    pub fn has_paused(&mut self, now: Instant) -> bool {
        let paused = now.since(self.moved_at) >= Pace::PAUSE;
        if paused {
            self.coarse = false;
            self.burst = 0;
            self.long = (self.long * 4).min(LONG_MAX_BYTES);
        }
        paused
    }
}

/// At the speed at which this matters, some 5 ms of transfer.
const LONG_BYTES: u64 = 32 << 20;
const LONG_MAX_BYTES: u64 = 1 << 40;

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(1_000_000_000 + ms * 1_000_000)
    }

    #[test]
    fn a_long_burst_is_bulk_and_many_short_ones_are_not() {
        let mut pace = Pace::new();
        (0..31).for_each(|n| pace.moved(MIB, at(n)));
        assert!(!pace.is_bulk());
        pace.moved(MIB, at(31));
        assert!(pace.is_bulk());
        let mut pace = Pace::new();
        (0..1000).for_each(|n| pace.moved(16 * MIB, at(n * 5)));
        assert!(!pace.is_bulk());
    }

    #[test]
    fn who_pauses_after_long_bursts_needs_longer_ones() {
        let mut pace = Pace::new();
        pace.moved(32 * MIB, at(1));
        pace.coarse = true;
        assert!(!pace.has_paused(at(2)) && pace.coarse);
        assert!(pace.has_paused(at(3)) && !pace.coarse);
        pace.moved(127 * MIB, at(4));
        assert!(!pace.is_bulk());
        pace.moved(MIB, at(5));
        assert!(pace.is_bulk());
    }
}
