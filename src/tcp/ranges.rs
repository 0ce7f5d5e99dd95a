//! Sequence numbers that have arrived behind a hole.

use arrayvec::ArrayVec;

use super::seq::Seq;

/// Ranges at most: what does not find a place is as if it had not been heard of, and is sent again.
const RANGES_MAX: usize = 16;

/// Half-open ranges in ascending order, which neither overlap nor touch; all within 2^31 of each other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges {
    list: ArrayVec<(Seq, Seq), RANGES_MAX>,
}

impl Ranges {
    /// Adds `from..to`, which is not empty. False if there is no place for one more.
    pub fn add(&mut self, from: Seq, to: Seq) -> bool {
        let first = self.list.iter().position(|r| r.1 >= from).unwrap_or(self.list.len());
        let after = self.list[first..].iter().position(|r| r.0 > to).map_or(self.list.len(), |n| first + n);
        if first == after {
            return self.list.try_insert(first, (from, to)).is_ok();
        }
        let whole = (self.list[first].0.min(from), self.list[after - 1].1.max(to));
        self.list.drain(first + 1..after);
        self.list[first] = whole;
        true
    }

    /// Everything before `edge` is of no interest any more.
    pub fn forget_before(&mut self, edge: Seq) {
        self.list.retain(|r| r.1 > edge);
        if let Some(r) = self.list.first_mut() {
            r.0 = r.0.max(edge);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The range that `seq` lies in.
    pub fn find(&self, seq: Seq) -> Option<(Seq, Seq)> {
        self.list.iter().copied().find(|r| r.0 <= seq && seq < r.1)
    }

    /// The first range that begins behind `seq`.
    pub fn next_after(&self, seq: Seq) -> Option<(Seq, Seq)> {
        self.list.iter().copied().find(|r| r.0 > seq)
    }

    pub fn iter(&self) -> impl Iterator<Item = (Seq, Seq)> + '_ {
        self.list.iter().copied()
    }

    /// Bytes in all ranges.
    pub fn bytes(&self) -> u32 {
        self.list.iter().map(|r| r.1.since(r.0)).sum()
    }

    /// Where the last range begins that has more than `bytes` bytes, its own included, or `ranges` ranges from it on.
    /// What is missing before it is lost, not late (RFC 6675 §4, `IsLost`).
    pub fn lost_before(&self, bytes: u32, ranges: usize) -> Option<Seq> {
        let mut above = 0;
        for (i, r) in self.list.iter().rev().enumerate() {
            above += r.1.since(r.0);
            if above > bytes || i + 1 >= ranges {
                return Some(r.0);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BASE: u32 = u32::MAX - 100;

    fn at(n: u8) -> Seq {
        Seq(BASE) + u32::from(n)
    }

    #[test]
    fn lost_is_what_enough_has_overtaken() {
        let mut r = Ranges::default();
        assert_eq!(r.lost_before(20, 3), None);
        for (from, to) in [(10, 20), (30, 40)] {
            assert!(r.add(at(from), at(to)));
        }
        assert_eq!((r.bytes(), r.lost_before(20, 3), r.lost_before(19, 3)), (20, None, Some(at(10))));
        assert!(r.add(at(50), at(51)));
        assert_eq!((r.lost_before(20, 3), r.lost_before(10, 3)), (Some(at(10)), Some(at(30))));
    }

    #[test]
    fn one_too_many_is_not_taken() {
        let mut r = Ranges::default();
        assert!((0..RANGES_MAX as u8).all(|n| r.add(at(4 * n), at(4 * n + 2))));
        assert!(!r.add(at(200), at(201)) && r.add(at(2), at(4)) && r.add(at(200), at(201)));
    }

    proptest! {
        /// The same as a set of numbers would be.
        #[test]
        fn a_set_in_few_words(adds in proptest::collection::vec((0..60u8, 1..9u8), 0..12), edge in 0..70u8) {
            let mut r = Ranges::default();
            let mut set = std::collections::BTreeSet::new();
            for (from, len) in adds {
                prop_assert!(r.add(at(from), at(from + len)));
                set.extend(from..from + len);
            }
            r.forget_before(at(edge));
            set.retain(|n| *n >= edge);
            prop_assert_eq!(r.bytes() as usize, set.len());
            prop_assert_eq!(r.is_empty(), set.is_empty());
            for n in 0..80 {
                prop_assert_eq!(r.find(at(n)).is_some(), set.contains(&n));
                let next = (n + 1..90).find(|m| set.contains(m) && !set.contains(&(m - 1)) || *m == edge && set.contains(m));
                prop_assert_eq!(r.next_after(at(n)).map(|r| r.0), next.map(at));
            }
            prop_assert!(r.list.windows(2).all(|w| w[0].1 < w[1].0));
        }
    }
}
