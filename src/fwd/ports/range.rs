//! Inclusive port ranges.

/// `first <= last`, and never port 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub first: u16,
    pub last: u16,
}

impl Range {
    pub const ALL: Range = Range { first: 1, last: u16::MAX };

    pub fn contains(&self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }

    /// What remains without `holes`, which may overlap and are left sorted.
    pub fn without(self, holes: &mut [Range]) -> Vec<Range> {
        holes.sort_by_key(|h| h.first);
        let mut rest = Vec::new();
        // Wider than a port, so that "after 65535" is a value.
        let mut next = u32::from(self.first);
        for hole in holes.iter().filter(|h| h.last >= self.first && h.first <= self.last) {
            if u32::from(hole.first) > next {
                rest.push(Range { first: next as u16, last: hole.first - 1 });
            }
            next = next.max(u32::from(hole.last) + 1);
        }
        if next <= u32::from(self.last) {
            rest.push(Range { first: next as u16, last: self.last });
        }
        rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn r(first: u16, last: u16) -> Range {
        Range { first, last }
    }

    #[test]
    fn holes_are_cut_out() {
        assert_eq!(r(1, 10).without(&mut []), [r(1, 10)]);
        assert_eq!(r(1, 10).without(&mut [r(5, 6), r(2, 5)]), [r(1, 1), r(7, 10)]);
        assert_eq!(r(5, 10).without(&mut [r(1, 5), r(10, 20)]), [r(6, 9)]);
        assert_eq!(r(5, 10).without(&mut [r(1, 4), r(11, 20)]), [r(5, 10)]);
        assert_eq!(r(5, 10).without(&mut [r(1, 65535)]), []);
        assert_eq!(Range::ALL.without(&mut [r(1, 60000), r(32768, 60999)]), [r(61000, 65535)]);
        assert_eq!(Range::ALL.without(&mut [r(65535, 65535)]), [r(1, 65534)]);
    }
}
