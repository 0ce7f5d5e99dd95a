//! Addresses that routers are told of again and again. Pure.
//!
//! *Limits*: [`ANNOUNCED_MAX`]. What nobody has asked for has its part of them ([`super::unasked`]), until somebody does.

use std::collections::BTreeMap;

use super::sessions::Key;
use super::unasked::{UNASKED_MAX, Unasked};
use crate::base::Mac;

pub const ANNOUNCED_MAX: usize = 4096;
const _: () = assert!(UNASKED_MAX <= ANNOUNCED_MAX / 2);

#[derive(Debug, Default)]
pub struct Announced {
    /// Who has told of it, if nobody has asked.
    all: BTreeMap<Key, Option<Mac>>,
    unasked: Unasked,
}

impl Announced {
    /// If there is room. `by`: who has told of it, if nobody has asked.
    pub fn add(&mut self, key: Key, by: Option<Mac>) {
        if self.all.contains_key(&key) {
            if by.is_none() {
                self.asked(&key);
            }
        } else if self.all.len() < ANNOUNCED_MAX && by.is_none_or(|station| self.has_room(station)) {
            self.all.insert(key, by);
            by.iter().for_each(|station| self.unasked.enter(*station));
        }
    }

    /// There is room for another that this station tells of unasked.
    pub fn has_room(&self, station: Mac) -> bool {
        self.all.len() < ANNOUNCED_MAX && self.unasked.has_room(station)
    }

    /// Forgets those that nobody has asked for, but for these.
    pub fn keep_unasked(&mut self, stays: impl Fn(&Key) -> bool) {
        let unasked = &mut self.unasked;
        self.all.retain(|key, by| {
            let goes = by.filter(|_| !stays(key));
            goes.iter().for_each(|station| unasked.leave(*station));
            goes.is_none()
        });
    }

    /// Somebody has asked for it.
    pub fn asked(&mut self, key: &Key) {
        if let Some(station) = self.all.get_mut(key).and_then(Option::take) {
            self.unasked.leave(station);
        }
    }

    pub fn remove(&mut self, key: &Key) {
        self.asked(key);
        self.all.remove(key);
    }

    pub fn keys(&self) -> impl Iterator<Item = Key> + '_ {
        self.all.keys().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{a, station};
    use super::super::unasked::SHARE_MAX;
    use super::*;
    use crate::base::Addr;

    fn key(n: usize) -> Key {
        let mut o = *a("2001:db8::").octets();
        o[8..].copy_from_slice(&n.to_be_bytes());
        Key { uplink: 0, target: Addr::v6(o) }
    }

    #[test]
    fn what_nobody_asked_for_leaves_room_for_the_rest() {
        let mut announced = Announced::default();
        (0..1000).for_each(|n| announced.add(key(n), Some(station(1))));
        assert_eq!(announced.keys().count(), SHARE_MAX);
        (0..2 * ANNOUNCED_MAX).for_each(|n| announced.add(key(n), Some(station(n as u16 % 100))));
        assert_eq!(announced.keys().count(), UNASKED_MAX);
        (10_000..20_000).for_each(|n| announced.add(key(n), None));
        assert_eq!(announced.keys().count(), ANNOUNCED_MAX);
    }

    #[test]
    fn those_that_have_gone_make_room() {
        let mut announced = Announced::default();
        (0..SHARE_MAX).for_each(|n| announced.add(key(n), Some(station(1))));
        announced.asked(&key(0));
        announced.add(key(1000), Some(station(1)));
        assert!(!announced.has_room(station(1)));
        announced.keep_unasked(|k| *k == key(1));
        assert!(announced.keys().eq([key(0), key(1)]));
        (1000..2000).for_each(|n| announced.add(key(n), Some(station(1))));
        assert_eq!(announced.keys().count(), SHARE_MAX + 1);
    }

    #[test]
    fn what_is_asked_for_later_is_as_the_rest() {
        let mut announced = Announced::default();
        (0..SHARE_MAX).for_each(|n| announced.add(key(n), Some(station(1))));
        announced.add(key(1000), Some(station(1)));
        assert!(!announced.keys().any(|k| k == key(1000)));
        announced.asked(&key(0));
        announced.add(key(1), None);
        announced.remove(&key(2));
        (1000..2000).for_each(|n| announced.add(key(n), Some(station(1))));
        assert_eq!(announced.keys().count(), SHARE_MAX + 2);
    }
}
