//! One value for each address family.

use std::ops::{Index, IndexMut};

use super::{Addr, Family};

/// A pair indexed by [`Family`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PerFamily<T> {
    pub v4: T,
    pub v6: T,
}

impl<T> PerFamily<T> {
    pub fn new(v4: T, v6: T) -> PerFamily<T> {
        PerFamily { v4, v6 }
    }
}

impl PerFamily<Option<Addr>> {
    /// True if `addr` is the value of its own family.
    pub fn is(&self, addr: &Addr) -> bool {
        self[addr.family()] == Some(*addr)
    }
}

impl<T> Index<Family> for PerFamily<T> {
    type Output = T;
    fn index(&self, f: Family) -> &T {
        match f {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }
}

impl<T> IndexMut<Family> for PerFamily<T> {
    fn index_mut(&mut self, f: Family) -> &mut T {
        match f {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }
}
