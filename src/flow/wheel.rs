//! One timer wheel for all flows: arming is a push, a deadline costs at most one move per level (Varghese and Lauck,
//! scheme 7). Entries are not cancelled: whoever is woken checks whether the deadline is still its own.

use crate::base::{Instant, Token};

const LEVELS: usize = 6;
const SLOTS: u64 = 64;
const SLOT_BITS: u32 = 6;
/// One tick, as a power of two of nanoseconds: about 1.05 ms, the grain of epoll's timeout.
const TICK_BITS: u32 = 20;
/// Room for so many entries is kept in an empty slot. A slot of a higher level has what seconds or minutes of new flows
/// armed, and is not filled again before the level has gone round: kept, all of them would be as large as the busiest.
const KEPT: usize = 64;

/// Deadlines and whom to wake. Never early, late by at most one tick plus the wait of the caller.
#[derive(Debug)]
pub struct Wheel {
    /// Ticks up to and including this one have been expired.
    now: u64,
    /// Bit s of `occupied[l]`: slot s of level l has entries.
    occupied: [u64; LEVELS],
    slots: Vec<Vec<Entry>>,
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
        }
    }

    /// Wakes `token` once `at` has passed; the farthest deadline is about two years, later ones are cut to it.
    pub fn arm(&mut self, at: Instant, token: Token) {
        let tick = ((at.as_nanos() >> TICK_BITS) + 1).max(self.now + 1);
        self.put(Entry { tick: tick.min(self.now + (1 << (SLOT_BITS * LEVELS as u32)) - 1), token });
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
                    if e.tick <= next { due.push(e.token) } else { self.put(e) }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Kind;
    use std::time::Duration;

    fn token(n: u32) -> Token {
        Token::new(Kind::Tcp, n, 0)
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
