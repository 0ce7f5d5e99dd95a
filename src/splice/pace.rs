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
    /// Bytes moved since the source last paused, and since when.
    burst: u64,
    began_at: Instant,
    moved_at: Instant,
    /// A burst this long is bulk.
    long: u64,
    /// Only large amounts are reported.
    pub coarse: bool,
}

impl Pace {
    /// A source that sends nothing for so long pauses.
    pub const PAUSE: Duration = Duration::from_millis(2);

    pub fn new() -> Pace {
        let never = Instant::from_nanos(0);
        Pace { burst: 0, began_at: never, moved_at: never, long: LONG_BYTES, coarse: false }
    }

    /// Another one whenever something has moved.
    pub fn mark(&self) -> u64 {
        self.moved_at.as_nanos() ^ self.burst << 32
    }

    /// So much was moved just now.
    pub fn moved(&mut self, bytes: u64, now: Instant) {
        if bytes == 0 {
            return;
        }
        if now.since(self.moved_at) > Pace::PAUSE {
            self.burst = 0;
        }
        if self.burst == 0 {
            self.began_at = now;
        }
        self.burst += bytes;
        self.moved_at = now;
    }

    /// If it is time to have arrivals reported in large amounts: in what comes within half a pause, at the burst's speed.
    pub fn report_bytes(&self, now: Instant) -> Option<i32> {
        if self.coarse || self.burst < self.long {
            return None;
        }
        let elapsed = now.since(self.began_at).as_nanos().max(1);
        let amount = u128::from(self.burst) * (Pace::PAUSE.as_nanos() / 2) / elapsed;
        (amount >= REPORT_MIN_BYTES).then_some(amount.min(REPORT_MAX_BYTES) as i32)
    }

    /// To be asked [`Pace::PAUSE`] after a coarse report was asked for, and again as long as it is false: true if the
    /// source pauses, and what it has sent last may be waiting.
    pub fn has_paused(&mut self, now: Instant) -> bool {
        let paused = now.since(self.moved_at) >= Pace::PAUSE;
        if paused {
            // A pause after much more than made it a long one costs next to nothing, and hardly ends a message.
            let worth_it = self.burst >= WORTH_IT * LONG_BYTES;
            self.long = if worth_it { LONG_BYTES } else { (self.long * 4).min(LONG_MAX_BYTES) };
            self.coarse = false;
            self.burst = 0;
        }
        paused
    }
}

/// Below this, at 256 MB a second, waking up costs little.
const REPORT_MIN_BYTES: u128 = 256 << 10;
/// Beyond it little is gained.
const REPORT_MAX_BYTES: u128 = 4 << 20;
/// At the speed at which this matters, some 5 ms of transfer.
const LONG_BYTES: u64 = 32 << 20;
/// Times that for a pause to be of no account: some 40 ms.
const WORTH_IT: u64 = 8;
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
        assert_eq!(pace.report_bytes(at(31)), None);
        pace.moved(MIB, at(31));
        assert!(pace.report_bytes(at(32)).is_some());
        let mut pace = Pace::new();
        (0..1000).for_each(|n| pace.moved(16 * MIB, at(n * 5)));
        assert_eq!(pace.report_bytes(at(5000)), None);
    }

    #[test]
    fn the_amount_is_what_comes_within_a_millisecond() {
        let after = |ms: u64| {
            let mut pace = Pace::new();
            (0..=ms).for_each(|n| pace.moved(64 * MIB / ms, at(n)));
            pace.report_bytes(at(ms))
        };
        assert_eq!(after(1), Some(4 << 20));
        let slower = after(32).unwrap();
        assert!((2 << 20..3 << 20).contains(&slower), "{slower}");
        assert_eq!(after(1024), None);
    }

    #[test]
    fn who_pauses_after_long_bursts_needs_longer_ones() {
        let mut pace = Pace::new();
        pace.moved(32 * MIB, at(1));
        assert!(pace.report_bytes(at(1)).is_some());
        pace.coarse = true;
        assert!(!pace.has_paused(at(2)) && pace.coarse);
        assert!(pace.has_paused(at(3)) && !pace.coarse);
        pace.moved(127 * MIB, at(4));
        assert_eq!(pace.report_bytes(at(4)), None);
        pace.moved(MIB, at(5));
        assert!(pace.report_bytes(at(5)).is_some());
        pace.coarse = true;
        pace.moved(256 * MIB, at(6));
        assert!(pace.has_paused(at(8)));
        pace.moved(32 * MIB, at(9));
        assert!(pace.report_bytes(at(9)).is_some());
    }
}
