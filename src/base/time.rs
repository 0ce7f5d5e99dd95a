//! The clock as a value: read once a loop turn, passed to everything that decides by time.

use std::ops::{Add, Sub};
use std::time::Duration;

/// Monotonic time in nanoseconds since an arbitrary start. Pure code takes it as an argument; only [`Clock`] reads it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(u64);

impl Instant {
    pub const ZERO: Instant = Instant(0);
    /// Later than every deadline.
    pub const FAR: Instant = Instant(u64::MAX);

    pub const fn from_nanos(ns: u64) -> Instant {
        Instant(ns)
    }

    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Time since `earlier`, zero if `earlier` is later.
    pub fn since(self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Instant {
    type Output = Instant;
    fn add(self, d: Duration) -> Instant {
        Instant(self.0.saturating_add(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Instant> for Instant {
    type Output = Duration;
    fn sub(self, earlier: Instant) -> Duration {
        self.since(earlier)
    }
}

/// The one reader of the system's monotonic clock.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: std::time::Instant,
}

impl Clock {
    /// What it says at its start: an hour, so that "a while ago" never underflows, and every [`super::RateLimit`] begins
    /// with all it allows at once.
    pub const BEGIN: Instant = Instant(3_600_000_000_000);

    pub fn start() -> Clock {
        Clock { start: std::time::Instant::now() }
    }

    /// From now on it is this much later. For tests.
    pub fn skip(&mut self, time: Duration) {
        self.start -= time;
    }

    /// Time since [`Clock::start`], after [`Clock::BEGIN`].
    pub fn now(&self) -> Instant {
        Clock::BEGIN + self.start.elapsed()
    }
}
