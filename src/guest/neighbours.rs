//! Whose MAC is not ours, as the guest sees its link.

use crate::base::{Addr, Mac};

/// Addresses and their MACs. Sorted: a handful of entries is found faster than a hash is made, and no choice of addresses
/// makes it slow.
#[derive(Clone, Debug, Default)]
pub struct Neighbours(Vec<(Addr, Mac)>);

impl Neighbours {
    pub fn mac(&self, addr: &Addr) -> Option<Mac> {
        if self.0.is_empty() {
            return None;
        }
        self.find(addr).ok().map(|i| self.0[i].1)
    }

    /// From now on `addr` has this MAC, or none of its own. True if that is new. A full table takes no new address.
    pub fn set(&mut self, addr: Addr, mac: Option<Mac>) -> bool {
        match (self.find(&addr), mac) {
            (Ok(i), Some(mac)) => std::mem::replace(&mut self.0[i].1, mac) != mac,
            (Ok(i), None) => {
                self.0.remove(i);
                true
            }
            (Err(i), Some(mac)) if self.0.len() < Neighbours::MAX => {
                self.0.insert(i, (addr, mac));
                true
            }
            (Err(_), _) => false,
        }
    }

    fn find(&self, addr: &Addr) -> Result<usize, usize> {
        self.0.binary_search_by(|(a, _)| a.cmp(addr))
    }

    /// Four times what the kernel keeps of one family by default (gc_thresh3).
    pub const MAX: usize = 4096;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn mac(n: u8) -> Mac {
        Mac([2, 0, 0, 0, 0, n])
    }

    proptest::proptest! {
        #[test]
        fn is_a_map(changes in proptest::collection::vec((0..20u8, proptest::option::of(0..3u8)), 0..200)) {
            let (mut table, mut model) = (Neighbours::default(), BTreeMap::new());
            for (last, m) in changes {
                let addr = Addr::v4([192, 0, 2, last]);
                let before = match m {
                    Some(m) => model.insert(addr, mac(m)),
                    None => model.remove(&addr),
                };
                proptest::prop_assert_eq!(table.set(addr, m.map(mac)), before != m.map(mac));
            }
            for last in 0..20 {
                let addr = Addr::v4([192, 0, 2, last]);
                proptest::prop_assert_eq!(table.mac(&addr), model.get(&addr).copied());
            }
        }
    }

    #[test]
    fn full_table_refuses_new_addresses_only() {
        let mut table = Neighbours::default();
        let addr = |i: usize| Addr::v4([10, 0, (i >> 8) as u8, i as u8]);
        for i in 0..Neighbours::MAX {
            assert!(table.set(addr(i), Some(mac(1))));
        }
        assert!(!table.set(addr(Neighbours::MAX), Some(mac(1))));
        assert_eq!(table.mac(&addr(Neighbours::MAX)), None);
        assert!(table.set(addr(7), Some(mac(2))));
        assert!(table.set(addr(8), None));
        assert!(table.set(addr(Neighbours::MAX), Some(mac(1))));
    }
}
