//! One timer wheel for all flows: arming is a push, a deadline costs at most one move per level (Varghese and Lauck,
//! scheme 7). Entries are not cancelled: whoever is woken checks whether the deadline is still its own. Those of flows that have
//! gone before their time, as most of a flood do, or that wait for something else by now, are swept out when there are many
//! ([`Wheel::retain`]).

use crate::base::{Instant, Token};

const LEVELS: usize = 6;
const SLOTS: u64 = 64;
const SLOT_BITS: u32 = 6;
/// One tick, as a power of two of nanoseconds: about 1.05 ms, the grain of epoll's timeout.
const TICK_BITS: u32 = 20;
/// Room for so many entries is kept in an empty slot. A slot of a higher level has what seconds or minutes of new flows
/// armed, and is not filled again before the level has gone round: kept, all of them would be as large as the busiest.
const KEPT: usize = 64;
/// So many entries, of 24 bytes each, are never too many.
const MANY: usize = 4096;

/// Deadlines and whom to wake. Never early, late by at most one tick plus the wait of the caller.
#[derive(Debug)]
pub struct Wheel {
    /// Ticks up to and including this one have been expired.
    now: u64,
    /// Bit s of `occupied[l]`: slot s of level l has entries.
    occupied: [u64; LEVELS],
    slots: Vec<Vec<Entry>>,
    /// Entries.
    len: usize,
    /// More entries than this are many.
    many: usize,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    tick: u64,
    token: Token,
}

impl Wheel {
    pub fn new(now: Instant) -> Wheel {
        Wheel {
            now: now.as_nanos() >> TICK_BITS,
            occupied: [0; LEVELS],
            slots: vec![Vec::new(); LEVELS * SLOTS as usize],
            len: 0,
            many: MANY,
        }
    }

    /// Wakes `token` once `at` has passed; the farthest deadline is about two years, later ones are cut to it.
    pub fn arm(&mut self, at: Instant, token: Token) {
        let tick = tick(at).max(self.now + 1);
        self.len += 1;
        self.put(Entry { tick: tick.min(self.now + (1 << (SLOT_BITS * LEVELS as u32)) - 1), token });
    }

    /// Deadlines, those included that nobody needs any more.
    pub fn entries(&self) -> usize {
        self.len
    }

    /// Twice as many deadlines as were of use when that was last looked at: time for [`Wheel::retain`].
    pub fn has_many(&self) -> bool {
        self.len > self.many
    }

    /// Forgets the deadlines of those who are not there any more (`None`), or who need just the one at this time
    /// ([`Instant::FAR`]: all of them). Takes as long as a look at each.
    pub fn retain(&mut self, needs: impl Fn(Token) -> Option<Instant>) {
        let soon = self.now + 1;
        let is_needed = |e: &Entry| needs(e.token).is_some_and(|at| at == Instant::FAR || e.tick == tick(at).max(soon));
        self.len = 0;
        for (at, slot) in self.slots.iter_mut().enumerate().filter(|(_, slot)| !slot.is_empty()) {
            slot.retain(is_needed);
            if slot.capacity() > KEPT.max(2 * slot.len()) {
                slot.shrink_to(slot.len().max(KEPT));
            }
            if slot.is_empty() {
                self.occupied[at / SLOTS as usize] &= !(1 << (at as u64 % SLOTS));
            }
            self.len += slot.len();
        }
        self.many = MANY.max(2 * self.len);
    }

    /// When to call [`Wheel::expire`] next: not later than the first deadline, possibly earlier. `None` if nothing is armed.
    pub fn next(&self) -> Option<Instant> {
        // A level's first occupied slot after the current position bounds its deadlines from below.
        (0..LEVELS)
            .filter(|l| self.occupied[*l] != 0)
            .map(|l| {
                let shift = SLOT_BITS * l as u32;
                let here = self.now >> shift;
                let ahead = self.occupied[l].rotate_right(((here + 1) % SLOTS) as u32).trailing_zeros();
                (here + 1 + u64::from(ahead)) << shift
            })
            .min()
            .map(|tick| Instant::from_nanos(tick << TICK_BITS))
    }

    /// Moves time forward and appends the tokens whose deadlines have passed to `due`.
    pub fn expire(&mut self, now: Instant, due: &mut Vec<Token>) {
        let target = now.as_nanos() >> TICK_BITS;
        while let Some(next) = self.next().map(|i| i.as_nanos() >> TICK_BITS) {
            if next > target {
                break;
            }
            self.now = next;
            for level in (0..LEVELS).rev() {
                let shift = SLOT_BITS * level as u32;
                if next & ((1 << shift) - 1) != 0 {
                    continue;
                }
                let slot = (next >> shift) % SLOTS;
                if self.occupied[level] & 1 << slot == 0 {
                    continue;
                }
                self.occupied[level] &= !(1 << slot);
                let at = level * SLOTS as usize + slot as usize;
                let mut entries = std::mem::take(&mut self.slots[at]);
                for e in entries.drain(..) {
                    if e.tick <= next {
                        self.len -= 1;
                        due.push(e.token);
                    } else {
                        self.put(e);
                    }
                }
                // Keep the allocation unless an entry came back to this very slot, or it is large.
                if self.slots[at].is_empty() && entries.capacity() <= KEPT {
                    self.slots[at] = entries;
                }
            }
        }
        self.now = self.now.max(target);
    }

    fn put(&mut self, e: Entry) {
        let ahead = e.tick - self.now;
        let level = ((63 - ahead.leading_zeros()) / SLOT_BITS) as usize;
        let slot = (e.tick >> (SLOT_BITS * level as u32)) % SLOTS;
        self.occupied[level] |= 1 << slot;
        self.slots[level * SLOTS as usize + slot as usize].push(e);
    }
}

/// The first that is not before this time.
fn tick(at: Instant) -> u64 {
    (at.as_nanos() >> TICK_BITS) + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Kind;
    use std::time::Duration;

    fn token(n: u32) -> Token {
        Token::new(Kind::Tcp, n, 0)
    }

    #[test]
    fn a_flood_of_those_that_have_gone_takes_no_more_than_twice_what_is_there() {
        let now = Instant::from_nanos(77_777_777_777);
        let mut w = Wheel::new(now);
        let (mut looks, mut due) = (0, Vec::new());
        let is_there = |t: Token| t.index.is_multiple_of(1000);
        for n in 0..1_000_000 {
            w.arm(now + Duration::from_secs(120) + Duration::from_micros(n), token(n as u32));
            if w.has_many() {
                w.retain(|t| is_there(t).then_some(Instant::FAR));
                looks += 1;
            }
            assert!(w.len <= MANY + 1);
        }
        assert!(looks < 400, "{looks}");
        let kept: usize = w.slots.iter().map(Vec::capacity).sum();
        assert!(kept < 4 * MANY, "{kept}");
        w.expire(now + Duration::from_secs(240), &mut due);
        assert_eq!(due.iter().filter(|t| is_there(**t)).count(), 1000);
        assert_eq!((w.len, w.next()), (0, None));
    }

    #[test]
    fn who_needs_one_keeps_that_alone() {
        let now = Instant::from_nanos(77_777_777_777);
        let mut w = Wheel::new(now);
        let after = |ms| now + Duration::from_millis(ms);
        for ms in [0, 200, 7_200_000, 7_200_200, 7_200_400] {
            w.arm(after(ms), token(1));
        }
        w.arm(Instant::ZERO, token(2));
        for ms in [100, 300] {
            w.arm(after(ms), token(3));
        }
        w.retain(|t| [None, Some(after(200)), Some(Instant::ZERO), Some(Instant::FAR)][t.index as usize]);
        let mut due = Vec::new();
        w.expire(after(400), &mut due);
        due.sort_by_key(|t| t.index);
        assert_eq!((due, w.entries()), (vec![token(1), token(2), token(3), token(3)], 0));
    }

    proptest::proptest! {
        #[test]
        fn never_early_and_never_forgotten(
            arms in proptest::collection::vec((0..200_000_000_000u64, 0..5_000_000_000u64), 1..100)
        ) {
            let mut now = Instant::from_nanos(77_777_777_777);
            let mut w = Wheel::new(now);
            let mut open = std::collections::HashMap::new();
            let mut due = Vec::new();
            for (n, (ahead, step)) in arms.into_iter().enumerate() {
                let at = now + Duration::from_nanos(ahead);
                w.arm(at, token(n as u32));
                open.insert(n as u32, at);
                now = now + Duration::from_nanos(step);
                w.expire(now, &mut due);
                for t in due.drain(..) {
                    assert!(open.remove(&t.index).unwrap() <= now);
                }
                for at in open.values() {
                    assert!(*at + Duration::from_millis(3) > now, "late");
                }
            }
            // Sleeping until `next` each time reaches every deadline.
            let mut turns = 0;
            while let Some(next) = w.next() {
                turns += 1;
                assert!(turns < 2000);
                now = now.max(next);
                w.expire(now, &mut due);
            }
            for t in due.drain(..) {
                assert!(open.remove(&t.index).unwrap() <= now);
            }
            assert!(open.is_empty());
        }
    }

    /// A thousand connections a second, each of which asks to be woken in eight seconds, for as long as the slots that hold
    /// these take to go round.
    #[test]
    fn what_many_flows_armed_is_given_back() {
        let mut now = Instant::from_nanos(1_000_000_000);
        let (mut w, mut due) = (Wheel::new(now), Vec::new());
        for second in 0..300u32 {
            for n in 0..1000 {
                w.arm(now + Duration::from_secs(8), token(second * 1000 + n));
                now = now + Duration::from_millis(1);
                w.expire(now, &mut due);
            }
        }
        let room: usize = w.slots.iter().map(Vec::capacity).sum();
        assert!(room < 9 * 1000 * 4 + KEPT * LEVELS * SLOTS as usize, "room for {room} entries");
    }

    #[test]
    fn next_is_close() {
        let now = Instant::from_nanos(1_000_000_000);
        let mut w = Wheel::new(now);
        assert_eq!(w.next(), None);
        w.arm(now + Duration::from_millis(40), token(1));
        let wait = w.next().unwrap().since(now);
        assert!(wait >= Duration::from_millis(40) && wait <= Duration::from_millis(43), "{wait:?}");
    }
}
