//! The rings of a card, or some of them, with all that it takes to work on them. They belong to whoever has the value: nobody
//! else looks at them meanwhile, and they go from one thread to another by being moved.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::device::LOG_ALL;
use super::ring::{Addresses, Ring};
use super::supply::Supply;
use crate::sys::event;
use crate::sys::memory::{DirtyLog, GuestMemory};

/// Queue pairs there can be.
pub const PAIRS: usize = 8;
/// Rings: of each pair first the one to the guest, then the one from it.
pub const RINGS: usize = 2 * PAIRS;

/// Some of the pairs: a bit for each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pairs(u8);

const _: () = assert!(PAIRS == u8::BITS as usize);

impl Pairs {
    pub const NONE: Pairs = Pairs(0);
    pub const ALL: Pairs = Pairs(u8::MAX);

    /// Those of one worker: every `of`th.
    pub fn of_worker(worker: usize, of: usize) -> Pairs {
        (0..PAIRS).filter(|pair| pair % of == worker).collect()
    }

    pub fn with(self, others: Pairs) -> Pairs {
        Pairs(self.0 | others.0)
    }

    pub fn without(self, others: Pairs) -> Pairs {
        Pairs(self.0 & !others.0)
    }

    pub fn has(self, pair: usize) -> bool {
        self.0 & 1 << pair != 0
    }

    pub fn iter(self) -> impl Iterator<Item = usize> {
        self.beginning_at(0)
    }

    /// All of them in a circle that begins at `first`. Costs nothing for those that are not there.
    pub fn beginning_at(self, first: usize) -> impl Iterator<Item = usize> {
        let mut left = self.0.rotate_right(first as u32);
        std::iter::from_fn(move || {
            let next = left.trailing_zeros() as usize;
            left &= left.checked_sub(1)?;
            Some((first + next) % PAIRS)
        })
    }
}

impl FromIterator<usize> for Pairs {
    fn from_iter<T: IntoIterator<Item = usize>>(pairs: T) -> Pairs {
        Pairs(pairs.into_iter().fold(0, |all, pair| all | 1 << pair))
    }
}

/// Rings, the memory that they are about, and what was agreed on. The ones of pairs that are somewhere else are as if they had never
/// been spoken of.
///
/// Descriptors that the driver kicks are in here, and whoever has the rings may poll them: they are closed by a request, which
/// says so first ([`super::Watch::End`]), or when this is dropped.
#[derive(Debug, Default)]
pub struct Rings {
    /// Those that are here.
    pub(super) pairs: Pairs,
    pub(super) queues: [Queue; RINGS],
    pub(super) memory: Arc<GuestMemory>,
    pub(super) log: Option<Arc<DirtyLog>>,
    pub(super) features: u64,
}

impl Rings {
    /// Those of all pairs.
    pub(super) fn whole() -> Rings {
        Rings { pairs: Pairs::ALL, ..Rings::default() }
    }

    /// None is anywhere else.
    pub(super) fn is_whole(&self) -> bool {
        self.pairs == Pairs::ALL
    }

    pub(super) fn has(&self, features: u64) -> bool {
        self.features & features == features
    }

    /// The queue, the memory and the log, for those who work with all three.
    pub(super) fn parts(&mut self, queue: usize) -> (&mut Queue, &Arc<GuestMemory>, Option<&DirtyLog>) {
        let log = self.log.as_deref().filter(|_| self.features & LOG_ALL != 0);
        (&mut self.queues[queue], &self.memory, log)
    }

    /// See [`Queue::publish`].
    pub(super) fn publish(&mut self, queue: usize) {
        let (queue, _, log) = self.parts(queue);
        queue.publish(log);
    }

    pub(super) fn publish_all(&mut self) {
        (0..RINGS).for_each(|ring| self.publish(ring));
    }

    /// Both rings of this pair run.
    pub(super) fn runs(&self, pair: usize) -> bool {
        self.queues[2 * pair..][..2].iter().all(Queue::runs)
    }

    /// Pairs from which the guest's frames may come.
    pub(super) fn sources(&self) -> Pairs {
        self.pairs.iter().filter(|pair| self.queues[2 * pair + 1].ring.is_some()).collect()
    }

    /// The ring that frames to the guest go into, and whether they can.
    pub(super) fn outlet(&self) -> (usize, bool) {
        let first = self.pairs.iter().next().unwrap_or(0);
        let mut candidates = self.pairs.iter();
        // A card whose very first pair does not run is switched off: drivers use the others in addition only.
        let found =
            if first == 0 { Some(0).filter(|_| self.runs(0)) } else { candidates.find(|pair| self.runs(*pair)) };
        (2 * found.unwrap_or(first), found.is_some())
    }

    /// Takes some of the pairs away, which must be here.
    pub(super) fn split(&mut self, pairs: Pairs) -> Rings {
        debug_assert_eq!(self.pairs.with(pairs), self.pairs);
        let (memory, log) = (self.memory.clone(), self.log.clone());
        let mut part = Rings { memory, log, features: self.features, ..Rings::default() };
        self.hand_over(pairs, &mut part);
        part
    }

    /// Puts all pairs of `part` back to where they were taken from.
    pub(super) fn join(&mut self, mut part: Rings) {
        part.hand_over(part.pairs, self);
    }

    fn hand_over(&mut self, pairs: Pairs, to: &mut Rings) {
        for pair in pairs.iter() {
            for ring in [2 * pair, 2 * pair + 1] {
                // Somebody else may go on with it at once.
                self.publish(ring);
                to.queues[ring] = std::mem::take(&mut self.queues[ring]);
            }
        }
        (self.pairs, to.pairs) = (self.pairs.without(pairs), to.pairs.with(pairs));
    }
}

/// One ring and what belongs to it.
#[derive(Debug, Default)]
pub struct Queue {
    pub num: u16,
    pub base: u16,
    pub at: Option<Addresses>,
    pub kick: Option<OwnedFd>,
    pub call: Option<OwnedFd>,
    pub error: Option<OwnedFd>,
    pub enabled: bool,
    /// Told to run; it does when `ring` is there.
    pub started: bool,
    pub ring: Option<Ring>,
    /// Buffers taken from it ahead of need.
    pub supply: Supply,
}

impl Queue {
    /// Frames go through it.
    pub fn runs(&self) -> bool {
        self.ring.is_some() && self.enabled
    }

    /// Makes what was done the driver's, and tells it if it wants to know.
    pub fn publish(&mut self, log: Option<&DirtyLog>) {
        if self.ring.as_mut().is_some_and(|ring| ring.publish(log))
            && let Some(call) = &self.call
        {
            event::tell(call);
        }
    }

    /// Nothing in the ring can be relied on: it is not used until it is set up again.
    pub fn give_up(&mut self) {
        self.leave();
        self.started = false;
        if let Some(error) = &self.error {
            event::tell(error);
        }
    }

    /// The ring is left as it is, to be found again.
    pub fn leave(&mut self) {
        if let Some(ring) = self.ring.take() {
            self.base = ring.base().wrapping_sub(self.supply.len() as u16);
        }
        self.supply.clear();
    }
}
