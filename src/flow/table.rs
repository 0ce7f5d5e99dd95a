//! The owner of one protocol's flows: a slab with generations, an index by key, and an order of last use, so that the
//! oldest idle flow can make room.

use std::hash::Hash;

use hashbrown::HashTable;

use super::{FlowKey, KeySecret, Share};

/// Names one flow for its lifetime: a reused slot has another generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Id {
    pub index: u32,
    pub generation: u32,
}

#[derive(Debug)]
struct Slot<T, K> {
    generation: u32,
    /// Neighbours in the order of use; for a vacant slot `next` is the next vacant one.
    prev: u32,
    next: u32,
    flow: Option<(K, T)>,
}

/// Who is to have a flow that nobody has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heir {
    /// The packet in hand begins none.
    Nobody,
    /// We, until [`Table::settle`] at least.
    Us,
    /// This one, from now on.
    Worker(usize),
    /// This one, if it wants to.
    Asked(usize),
}

/// Flows of one protocol. At most `limit` of them.
#[derive(Debug)]
pub struct Table<T, K = FlowKey> {
    slots: Vec<Slot<T, K>>,
    index: HashTable<u32>,
    secret: KeySecret,
    vacant: u32,
    oldest: u32,
    newest: u32,
    limit: usize,
    /// What other workers may know; `None`: there are none.
    share: Option<Share>,
    /// Keys that are ours although there is no flow yet.
    claims: Vec<K>,
}

const NIL: u32 = u32::MAX;

impl<T, K: Copy + Eq + Hash> Table<T, K> {
    pub fn new(secret: KeySecret, limit: usize) -> Table<T, K> {
        Table {
            slots: Vec::new(),
            index: HashTable::new(),
            secret,
            vacant: NIL,
            oldest: NIL,
            newest: NIL,
            limit,
            share: None,
            claims: Vec::new(),
        }
    }

    /// Other workers have flows too: from now on they know of ours, and we of theirs.
    pub fn enlist(&mut self, share: Share) {
        self.share = Some(share);
    }

    /// Another worker, if one has the flow, or is to have it.
    pub fn elsewhere(&mut self, key: &K, heir: Heir) -> Option<usize> {
        let share = self.share.as_ref()?;
        if self.find(key).is_some() {
            return None;
        }
        let heir = match heir {
            Heir::Nobody => return share.other(key),
            // Whoever that is decides, for there may be nothing to have.
            Heir::Asked(worker) => return share.other(key).or_else(|| (worker != share.worker()).then_some(worker)),
            Heir::Us => share.worker(),
            Heir::Worker(worker) => worker,
        };
        let other = share.claim(key, heir);
        if other.is_none() {
            self.claims.push(*key);
        }
        other
    }

    /// Lets go of the keys of flows that were not made after all.
    pub fn settle(&mut self) {
        while let Some(key) = self.claims.pop() {
            self.disown(&key);
        }
    }

    pub fn len(&self) -> usize {
        self.index.len()
    }

    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    pub fn is_full(&self) -> bool {
        self.index.len() >= self.limit
    }

    /// Changes how many there may be; those beyond the new limit stay until a newcomer takes their place.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    pub fn find(&self, key: &K) -> Option<Id> {
        let index = *self.index.find(self.secret.hash(key), |i| self.key_at(*i) == Some(key))?;
        Some(Id { index, generation: self.slots[index as usize].generation })
    }

    /// The id that the next [`Table::insert`] returns: for a token that must be registered first.
    pub fn next_id(&self) -> Id {
        match self.slots.get(self.vacant as usize) {
            Some(s) => Id { index: self.vacant, generation: s.generation },
            None => Id { index: self.slots.len() as u32, generation: 0 },
        }
    }

    /// Adds a flow as the most recently used one. `None` (and the flow dropped) if the key is taken. Whether there is room is
    /// the caller's business: who has made some may find a table that [`Table::is_full`] all the same, for its limit may be
    /// lower than what there is already.
    pub fn insert(&mut self, key: K, flow: T) -> Option<Id> {
        if self.find(&key).is_some() {
            return None;
        }
        let id = self.next_id();
        if id.index == self.slots.len() as u32 {
            self.slots.push(Slot { generation: 0, prev: NIL, next: NIL, flow: None });
        } else {
            self.vacant = self.slots[id.index as usize].next;
        }
        self.slots[id.index as usize].flow = Some((key, flow));
        self.link_newest(id.index);
        let (secret, slots) = (&self.secret, &self.slots);
        self.index.insert_unique(secret.hash(&key), id.index, |i| {
            secret.hash(&slots[*i as usize].flow.as_ref().expect("indexed flows exist").0)
        });
        self.share.iter().for_each(|share| share.take(&key));
        Some(id)
    }

    pub fn contains(&self, id: Id) -> bool {
        self.get(id).is_some()
    }

    pub fn get(&self, id: Id) -> Option<&T> {
        let s = self.slots.get(id.index as usize)?;
        if s.generation != id.generation { None } else { s.flow.as_ref().map(|f| &f.1) }
    }

    pub fn get_mut(&mut self, id: Id) -> Option<&mut T> {
        let s = self.slots.get_mut(id.index as usize)?;
        if s.generation != id.generation { None } else { s.flow.as_mut().map(|f| &mut f.1) }
    }

    /// Every flow, in no order.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut T> + '_ {
        self.slots.iter_mut().filter_map(|s| s.flow.as_mut().map(|(_, flow)| flow))
    }

    pub fn key(&self, id: Id) -> Option<&K> {
        self.get(id)?;
        self.key_at(id.index)
    }

    pub fn remove(&mut self, id: Id) -> Option<(K, T)> {
        let (key, flow) = self.take_out(id)?;
        self.share.iter().for_each(|share| share.release(&key));
        Some((key, flow))
    }

    /// Removes a flow that another worker has from now on.
    pub fn give(&mut self, id: Id, worker: usize) -> Option<(K, T)> {
        let (key, flow) = self.take_out(id)?;
        self.share.iter().for_each(|share| share.give(&key, worker));
        Some((key, flow))
    }

    /// A flow that we were given has perhaps not become one of ours.
    pub fn disown(&self, key: &K) {
        if self.find(key).is_none() {
            self.share.iter().for_each(|share| share.release(key));
        }
    }

    fn take_out(&mut self, id: Id) -> Option<(K, T)> {
        self.get(id)?;
        let hash = self.secret.hash(self.key_at(id.index)?);
        self.index.find_entry(hash, |i| *i == id.index).ok()?.remove();
        self.unlink(id.index);
        let s = &mut self.slots[id.index as usize];
        s.generation = (s.generation + 1) % crate::base::Token::GENERATIONS;
        s.next = self.vacant;
        self.vacant = id.index;
        s.flow.take()
    }

    /// Marks the flow as used just now.
    pub fn touch(&mut self, id: Id) {
        if self.newest != id.index && self.get(id).is_some() {
            self.unlink(id.index);
            self.link_newest(id.index);
        }
    }

    /// The flow unused for longest.
    pub fn oldest(&self) -> Option<Id> {
        let s = self.slots.get(self.oldest as usize)?;
        Some(Id { index: self.oldest, generation: s.generation })
    }

    /// All flows, oldest use first.
    pub fn iter(&self) -> impl Iterator<Item = (Id, &K, &T)> + '_ {
        let mut at = self.oldest;
        std::iter::from_fn(move || {
            let index = at;
            let s = self.slots.get(index as usize)?;
            at = s.next;
            s.flow.as_ref().map(|(k, f)| (Id { index, generation: s.generation }, k, f))
        })
    }

    fn key_at(&self, index: u32) -> Option<&K> {
        self.slots.get(index as usize)?.flow.as_ref().map(|f| &f.0)
    }

    fn link_newest(&mut self, i: u32) {
        self.slots[i as usize].prev = self.newest;
        self.slots[i as usize].next = NIL;
        match self.slots.get_mut(self.newest as usize) {
            Some(s) => s.next = i,
            None => self.oldest = i,
        }
        self.newest = i;
    }

    fn unlink(&mut self, i: u32) {
        let (prev, next) = (self.slots[i as usize].prev, self.slots[i as usize].next);
        match self.slots.get_mut(prev as usize) {
            Some(s) => s.next = next,
            None => self.oldest = next,
        }
        match self.slots.get_mut(next as usize) {
            Some(s) => s.prev = prev,
            None => self.newest = prev,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::base::{Addr, Endpoint};
    use crate::flow::Directory;

    fn key(n: u16) -> FlowKey {
        let a = Addr::v4([10, 0, 0, 1]);
        FlowKey { guest: Endpoint::new(a, n), remote: Endpoint::new(a, 80) }
    }

    fn table(limit: usize) -> Table<u16> {
        Table::new(KeySecret::fixed([7; 16]), limit)
    }

    #[test]
    fn stale_ids_find_nothing() {
        let mut t = table(10);
        let expected = t.next_id();
        let a = t.insert(key(1), 1).unwrap();
        assert_eq!(a, expected);
        assert_eq!(t.remove(a), Some((key(1), 1)));
        let expected = t.next_id();
        let b = t.insert(key(2), 2).unwrap();
        assert_eq!((a.index, expected), (b.index, b));
        assert_eq!((t.get(a), t.get(b), t.find(&key(1)), t.find(&key(2))), (None, Some(&2), None, Some(b)));
        assert_eq!(t.remove(a), None);
    }

    #[test]
    fn duplicate_is_refused() {
        let mut t = table(2);
        assert!(t.insert(key(1), 1).is_some() && t.insert(key(1), 1).is_none());
    }

    #[test]
    fn one_may_take_the_place_of_another_in_a_table_beyond_its_limit() {
        let mut t = table(3);
        let ids: Vec<Id> = (0..3).map(|n| t.insert(key(n), n).unwrap()).collect();
        t.set_limit(1);
        t.remove(ids[0]);
        assert!(t.is_full() && t.insert(key(3), 3).is_some());
        assert_eq!(t.len(), 3);
    }

    #[test]
    fn oldest_follows_use() {
        let mut t = table(10);
        let ids: Vec<Id> = (0..4).map(|n| t.insert(key(n), n).unwrap()).collect();
        t.touch(ids[0]);
        t.remove(ids[2]);
        assert_eq!(t.iter().map(|f| *f.2).collect::<Vec<_>>(), [1, 3, 0]);
        assert_eq!(t.oldest(), Some(ids[1]));
        for id in ids {
            t.remove(id);
        }
        assert_eq!((t.oldest(), t.len()), (None, 0));
    }

    #[test]
    fn workers_know_of_each_others_flows() {
        let directory = Arc::new(Directory::new(KeySecret::fixed([3; 16])));
        let worker = |n| {
            let mut t = table(10);
            t.enlist(Share::new(&directory, n, 6));
            t
        };
        let (mut a, mut b) = (worker(0), worker(1));
        assert_eq!((a.elsewhere(&key(1), Heir::Us), b.elsewhere(&key(1), Heir::Us)), (None, Some(0)));
        let id = a.insert(key(1), 1).unwrap();
        a.settle();
        assert_eq!(b.elsewhere(&key(1), Heir::Nobody), Some(0));
        assert_eq!((a.elsewhere(&key(2), Heir::Us), b.elsewhere(&key(2), Heir::Asked(0))), (None, Some(0)));
        a.settle();
        assert_eq!(b.elsewhere(&key(2), Heir::Nobody), None);
        let (k, flow) = a.give(id, 1).unwrap();
        assert_eq!(a.elsewhere(&key(1), Heir::Us), Some(1));
        let id = b.insert(k, flow).unwrap();
        b.remove(id);
        assert_eq!(a.elsewhere(&key(1), Heir::Nobody), None);
        assert_eq!((b.elsewhere(&key(3), Heir::Asked(0)), a.elsewhere(&key(3), Heir::Asked(0))), (Some(0), None));
        assert_eq!((a.elsewhere(&key(4), Heir::Worker(1)), b.elsewhere(&key(4), Heir::Us)), (Some(1), None));
    }

    proptest::proptest! {
        #[test]
        fn behaves_like_a_map(ops in proptest::collection::vec((0..3u8, 0..20u16), 0..200)) {
            let mut t = table(12);
            let mut model: Vec<u16> = Vec::new();
            for (op, n) in ops {
                match op {
                    0 => {
                        let fits = !model.contains(&n);
                        assert_eq!(t.insert(key(n), n).is_some(), fits);
                        if fits { model.push(n); }
                    }
                    1 => if let Some(id) = t.find(&key(n)) {
                        t.remove(id);
                        model.retain(|m| *m != n);
                    },
                    _ => if let Some(id) = t.find(&key(n)) {
                        t.touch(id);
                        model.retain(|m| *m != n);
                        model.push(n);
                    },
                }
                assert_eq!(t.iter().map(|f| *f.2).collect::<Vec<_>>(), model.clone());
                assert_eq!(t.is_full(), model.len() >= 12);
            }
        }
    }
}
