//! Sets of ports, as large as they can be: 8 KiB.

use crate::fwd::Proto;

const WORDS: usize = 65536 / 64;

#[derive(Clone, PartialEq, Eq)]
pub struct PortSet(Box<[u64; WORDS]>);

/// The ports that are in use in one namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bound {
    /// Listened to.
    pub tcp: PortSet,
    /// Bound by sockets that take datagrams of anybody.
    pub udp: PortSet,
}

impl Bound {
    pub fn of(&mut self, proto: Proto) -> &mut PortSet {
        match proto {
            Proto::Tcp => &mut self.tcp,
            Proto::Udp => &mut self.udp,
        }
    }

    pub fn clear(&mut self) {
        self.tcp.clear();
        self.udp.clear();
    }
}

impl Default for PortSet {
    fn default() -> Self {
        PortSet(Box::new([0; WORDS]))
    }
}

impl PortSet {
    pub fn insert(&mut self, port: u16) {
        self.0[usize::from(port / 64)] |= 1 << (port % 64);
    }

    pub fn remove(&mut self, port: u16) {
        self.0[usize::from(port / 64)] &= !(1 << (port % 64));
    }

    pub fn contains(&self, port: u16) -> bool {
        self.0[usize::from(port / 64)] & 1 << (port % 64) != 0
    }

    pub fn clear(&mut self) {
        self.0.fill(0);
    }

    pub fn add(&mut self, other: &PortSet) {
        for (a, b) in self.0.iter_mut().zip(other.0.iter()) {
            *a |= b;
        }
    }

    pub fn subtract(&mut self, other: &PortSet) {
        for (a, b) in self.0.iter_mut().zip(other.0.iter()) {
            *a &= !b;
        }
    }

    /// Those from `first` to `last`, ascending.
    pub fn within(&self, first: u16, last: u16) -> impl Iterator<Item = u16> + '_ {
        (first / 64..=last / 64).flat_map(move |w| {
            let mut rest = self.0[usize::from(w)];
            std::iter::from_fn(move || {
                let bit = rest.trailing_zeros();
                rest &= rest.wrapping_sub(1);
                (bit < 64).then(|| w * 64 + bit as u16)
            })
            .filter(move |p| (first..=last).contains(p))
        })
    }
}

impl FromIterator<u16> for PortSet {
    fn from_iter<I: IntoIterator<Item = u16>>(ports: I) -> Self {
        let mut set = PortSet::default();
        ports.into_iter().for_each(|p| set.insert(p));
        set
    }
}

impl std::fmt::Debug for PortSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.within(0, u16::MAX)).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    proptest::proptest! {
        #[test]
        fn holds_what_a_set_of_numbers_holds(
            put in proptest::collection::vec(0u16.., 0..80),
            taken in proptest::collection::vec(0u16.., 0..20),
            (first, last) in (0u16.., 0u16..),
        ) {
            let (first, last) = (first.min(last), first.max(last));
            let mut set: PortSet = put.iter().copied().collect();
            let mut model: BTreeSet<u16> = put.iter().copied().collect();
            for p in taken.iter().chain(put.first()) {
                set.remove(*p);
                model.remove(p);
            }
            proptest::prop_assert!(set.within(first, last).eq(model.range(first..=last).copied()));
            proptest::prop_assert!(model.iter().all(|p| set.contains(*p)));
        }
    }

    #[test]
    fn the_ends_belong_to_it() {
        let set: PortSet = [0, 63, 64, 65535].into_iter().collect();
        assert_eq!(set.within(0, 65535).collect::<Vec<_>>(), [0, 63, 64, 65535]);
        assert_eq!(set.within(63, 64).collect::<Vec<_>>(), [63, 64]);
        assert!(set.within(65534, 65534).next().is_none());
    }
}
