//! Sequence numbers: compared modulo 2^32 (RFC 9293 §3.4).

use std::cmp::Ordering;
use std::ops::{Add, AddAssign, Sub};

/// A TCP sequence number. Ordering is meaningful between numbers less than 2^31 apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seq(pub u32);

impl Seq {
    /// Bytes from `earlier` to `self`; zero if `earlier` is later.
    pub fn since(self, earlier: Seq) -> u32 {
        let d = self.0.wrapping_sub(earlier.0);
        if d as i32 >= 0 { d } else { 0 }
    }

    pub fn max(self, other: Seq) -> Seq {
        if self > other { self } else { other }
    }

    pub fn min(self, other: Seq) -> Seq {
        if self < other { self } else { other }
    }
}

impl PartialOrd for Seq {
    fn partial_cmp(&self, other: &Seq) -> Option<Ordering> {
        Some((self.0.wrapping_sub(other.0) as i32).cmp(&0))
    }
}

impl Add<u32> for Seq {
    type Output = Seq;
    fn add(self, n: u32) -> Seq {
        Seq(self.0.wrapping_add(n))
    }
}

impl AddAssign<u32> for Seq {
    fn add_assign(&mut self, n: u32) {
        *self = *self + n;
    }
}

impl Sub<u32> for Seq {
    type Output = Seq;
    fn sub(self, n: u32) -> Seq {
        Seq(self.0.wrapping_sub(n))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wraps() {
        let a = Seq(u32::MAX - 1);
        let b = a + 5;
        assert_eq!(b, Seq(3));
        assert!(a < b && b - 5 == a);
        assert_eq!((b.since(a), a.since(b), a.max(b)), (5, 0, b));
    }
}
