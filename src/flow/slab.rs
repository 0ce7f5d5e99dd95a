//! Things named by an [`Id`] that have neither key nor age: listening sockets, spliced connections.

use super::Id;
use crate::base::Token;

/// Slots with generations: the id of a thing that is gone finds nothing.
#[derive(Debug)]
pub struct Slab<T> {
    slots: Vec<(u32, Option<T>)>,
    vacant: Vec<u32>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Slab { slots: Vec::new(), vacant: Vec::new() }
    }
}

impl<T> Slab<T> {
    /// The id that the next [`Slab::insert`] returns: for a token that must be registered first.
    pub fn next_id(&self) -> Id {
        match self.vacant.last() {
            Some(index) => Id { index: *index, generation: self.slots[*index as usize].0 },
            None => Id { index: self.slots.len() as u32, generation: 0 },
        }
    }

    pub fn insert(&mut self, thing: T) -> Id {
        let id = self.next_id();
        match self.vacant.pop() {
            Some(index) => self.slots[index as usize].1 = Some(thing),
            None => self.slots.push((0, Some(thing))),
        }
        id
    }

    pub fn iter(&self) -> impl Iterator<Item = (Id, &T)> + '_ {
        let named = |(index, (generation, thing)): (usize, &'_ (u32, Option<T>))| {
            let id = Id { index: index as u32, generation: *generation };
            thing.as_ref().map(|_| id)
        };
        self.slots.iter().enumerate().filter_map(named).filter_map(|id| Some((id, self.get(id)?)))
    }

    /// Every thing, in no order.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut T> + '_ {
        self.slots.iter_mut().filter_map(|(_, thing)| thing.as_mut())
    }

    pub fn get(&self, id: Id) -> Option<&T> {
        let (generation, thing) = self.slots.get(id.index as usize)?;
        if *generation == id.generation { thing.as_ref() } else { None }
    }

    pub fn get_mut(&mut self, id: Id) -> Option<&mut T> {
        let (generation, thing) = self.slots.get_mut(id.index as usize)?;
        if *generation == id.generation { thing.as_mut() } else { None }
    }

    pub fn remove(&mut self, id: Id) -> Option<T> {
        self.get(id)?;
        let (generation, thing) = &mut self.slots[id.index as usize];
        *generation = (*generation + 1) % Token::GENERATIONS;
        self.vacant.push(id.index);
        thing.take()
    }

    pub fn len(&self) -> usize {
        self.slots.len() - self.vacant.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_name_one_thing_only() {
        let mut s = Slab::default();
        let a = s.insert('a');
        let next = s.next_id();
        let b = s.insert('b');
        assert_eq!(next, b);
        assert_eq!(s.remove(a), Some('a'));
        assert_eq!((s.remove(a), s.get(a), s.len()), (None, None, 1));
        let c = s.insert('c');
        assert_eq!(c.index, a.index);
        assert_eq!((s.get(a), s.get(c), s.get(b)), (None, Some(&'c'), Some(&'b')));
        assert_eq!(s.get_mut(a), None);
        assert_eq!(s.get_mut(c), Some(&mut 'c'));
    }

    #[test]
    fn generations_fit_a_token() {
        let mut s = Slab::default();
        let id = s.insert(0);
        s.slots[0].0 = Token::GENERATIONS - 1;
        s.remove(Id { generation: Token::GENERATIONS - 1, ..id });
        assert_eq!(s.next_id().generation, 0);
    }
}
