//! Places in a table for what nobody has asked for: a part of the table, and for one station a part of that. Pure.
//!
//! An address costs who makes it up nothing, and a MAC little. So the part is what is certain: the rest of a table is for what
//! was asked for, whatever stations say. The share keeps a single one from what others may say.

use std::collections::HashMap;

use super::sessions::SESSIONS_MAX;
use crate::base::Mac;

/// In one table.
pub const UNASKED_MAX: usize = SESSIONS_MAX / 2;
/// Of one station.
pub const SHARE_MAX: usize = UNASKED_MAX / 8;

/// The places that are taken, by the MAC of who has told.
#[derive(Debug, Default)]
pub struct Unasked {
    shares: HashMap<Mac, usize>,
    all: usize,
}

impl Unasked {
    pub fn has_room(&self, station: Mac) -> bool {
        self.all < UNASKED_MAX && self.shares.get(&station).is_none_or(|taken| *taken < SHARE_MAX)
    }

    pub fn enter(&mut self, station: Mac) {
        *self.shares.entry(station).or_default() += 1;
        self.all += 1;
    }

    /// To be called once for each [`Unasked::enter`].
    pub fn leave(&mut self, station: Mac) {
        if let Some(taken) = self.shares.get_mut(&station) {
            *taken -= 1;
            self.all -= 1;
            if *taken == 0 {
                self.shares.remove(&station);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::station;
    use super::*;

    #[test]
    fn one_station_has_its_share_and_all_have_their_part() {
        let mut unasked = Unasked::default();
        let mut take = |n| {
            let mut taken = 0;
            while unasked.has_room(station(n)) {
                unasked.enter(station(n));
                taken += 1;
            }
            taken
        };
        assert_eq!((1..=9).map(&mut take).collect::<Vec<_>>(), [[SHARE_MAX; 8].as_slice(), &[0]].concat());
        unasked.leave(station(3));
        assert!(unasked.has_room(station(9)) && unasked.has_room(station(3)) && !unasked.has_room(station(4)));
        for n in [1, 2, 4, 5, 6, 7, 8] {
            (0..SHARE_MAX).for_each(|_| unasked.leave(station(n)));
        }
        (1..SHARE_MAX).for_each(|_| unasked.leave(station(3)));
        assert_eq!((unasked.all, unasked.shares.len()), (0, 0), "nothing is remembered of who has gone");
    }
}
