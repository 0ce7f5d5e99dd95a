//! What is known of targets that have to be asked for behind: asked, there, or absent. Pure.
//!
//! | state | from | to |
//! | --- | --- | --- |
//! | asking | a question, or a keep-alive | there: an answer; absent: `tries` times `timeout` without one |
//! | there | an answer, asked for or not | asking: a question after `ttl`; with keep-alive by itself, a little before |
//! | absent | | asking: a question after `absent`; there: an answer that nobody asked for |
//!
//! *Timers*: one deadline for each that is asking, or kept alive; what else ends in time is looked at when it matters.
//! *Limits*: [`SESSIONS_MAX`] targets. What nobody has asked for has a part of them only ([`super::unasked`]), until somebody
//! asks: it is as the rest then. When there is no room for a question, what is over goes, and what is absent; then what nobody
//! has asked for. The rest stays, and who scans a network gets no answers for a while. For what nobody asked for, only what is
//! over goes.

use std::collections::{BTreeSet, HashMap};

use arrayvec::ArrayVec;

use super::frames::Question;
use super::rules::Patience;
use super::unasked::Unasked;
use crate::base::{Addr, Instant, Mac};

pub const SESSIONS_MAX: usize = 4096;
/// Who waits for one target's answer at a time.
pub const WAITING_MAX: usize = 4;

/// A target on the link that its questions come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    pub uplink: usize,
    pub target: Addr,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// So many questions more.
    Asking {
        left: u32,
        waiting: ArrayVec<Question, WAITING_MAX>,
        known: bool,
    },
    There,
    Absent,
}

#[derive(Clone, Debug)]
struct Session {
    state: State,
    until: Instant,
    /// Its place among the deadlines, if it has one.
    wake: Option<Instant>,
    /// Index of the link behind.
    behind: u32,
    /// Who has told of it, if nobody has asked.
    by: Option<Mac>,
}

impl Session {
    /// It counts for nothing any more.
    fn is_over(&self, now: Instant) -> bool {
        !matches!(self.state, State::Asking { .. }) && self.until <= now
    }
}

/// What to do about a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Answer,
    /// Ask behind, on the link with this index; the question waits.
    Ask(u32),
    /// It waits.
    Wait,
    Absent,
    Full,
}

/// What time has brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Due {
    Ask(Key, u32),
    /// Nobody has answered; it was there before, if so. How many questions have waited.
    Gone(Key, bool, usize),
}

#[derive(Debug, Default)]
pub struct Sessions {
    all: HashMap<Key, Session>,
    due: BTreeSet<(Instant, Key)>,
    unasked: Unasked,
    swept: Instant,
    /// The same, for what nobody has asked for: who says much must not keep questions from having room made.
    swept_for_unasked: Instant,
}

impl Sessions {
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// What is known now. A state that is over counts for nothing.
    pub fn step(&self, key: &Key, now: Instant) -> Option<Step> {
        let session = self.all.get(key)?;
        match session.state {
            State::Asking { known: true, .. } => Some(Step::Answer),
            State::Asking { .. } => Some(Step::Wait),
            _ if session.is_over(now) => None,
            State::There => Some(Step::Answer),
            State::Absent => Some(Step::Absent),
        }
    }

    /// A question about a target that is not known, or is being asked for: `behind` names the link to ask on.
    pub fn ask(&mut self, key: Key, question: Question, behind: u32, patience: &Patience, now: Instant) -> Step {
        if let Some(Session { state: State::Asking { waiting, .. }, .. }) = self.all.get_mut(&key) {
            // Who asks twice is answered once; of too many, who has waited longest will ask again.
            if !waiting.iter().any(|w| (w.source, w.source_mac) == (question.source, question.source_mac)) {
                if waiting.is_full() {
                    waiting.remove(0);
                }
                waiting.push(question);
            }
            return Step::Wait;
        }
        if !self.has_room(&key, None, now) {
            return Step::Full;
        }
        let waiting = [question].into_iter().collect();
        let state = State::Asking { left: patience.tries.max(1) - 1, waiting, known: false };
        let until = now + patience.timeout;
        self.put(key, Session { state, until, wake: Some(until), behind, by: None });
        Step::Ask(behind)
    }

    /// Somebody has asked for what is known.
    pub fn asked(&mut self, key: &Key) {
        if let Some(station) = self.all.get_mut(key).and_then(|session| session.by.take()) {
            self.unasked.leave(station);
        }
    }

    /// An answer for it is no surprise: somebody has asked, or we do.
    pub fn is_wanted(&self, key: &Key) -> bool {
        self.all.get(key).is_some_and(|s| s.by.is_none() || matches!(s.state, State::Asking { .. }))
    }

    /// The target has answered, or its route says that it is there; or `by` has told of it, and nobody has asked. Returns who
    /// has waited, and whether it is news; `None`: there is no room.
    pub fn found(
        &mut self,
        key: Key,
        behind: u32,
        by: Option<Mac>,
        patience: &Patience,
        now: Instant,
    ) -> Option<(ArrayVec<Question, WAITING_MAX>, bool)> {
        if !self.has_room(&key, by, now) {
            return None;
        }
        // Whoever was first keeps its place.
        let by = self.all.get(&key).map_or(by, |session| session.by);
        let until = now + patience.ttl;
        let wake = patience.keep_alive.then(|| now + (patience.ttl - lead(patience)));
        Some(match self.put(key, Session { state: State::There, until, wake, behind, by }) {
            Some(Session { state: State::Asking { waiting, known, .. }, .. }) => (waiting, !known),
            Some(Session { state: State::There, until, .. }) => (ArrayVec::new(), until <= now),
            _ => (ArrayVec::new(), true),
        })
    }

    /// An answer on this link is of use to somebody: it was asked for there.
    pub fn is_expected(&self, key: &Key, behind: u32) -> bool {
        self.all.get(key).is_some_and(|s| s.behind == behind)
    }

    /// The next thing whose time has come.
    pub fn next_due(&mut self, now: Instant, patience: impl Fn(&Key) -> Patience) -> Option<Due> {
        let (_, key) = self.due.first().copied().filter(|(at, _)| *at <= now)?;
        let patience = patience(&key);
        let session = self.all.get(&key)?.clone();
        let (left, waiting, known) = match session.state {
            State::Asking { left, waiting, known } => (left, waiting, known),
            // To be kept alive.
            State::There | State::Absent => (patience.tries.max(1), ArrayVec::new(), true),
        };
        if left == 0 {
            let waited = waiting.len();
            self.put(key, Session { state: State::Absent, until: now + patience.absent, wake: None, ..session });
            return Some(Due::Gone(key, known, waited));
        }
        let (state, until) = (State::Asking { left: left - 1, waiting, known }, now + patience.timeout);
        let behind = session.behind;
        self.put(key, Session { state, until, wake: Some(until), ..session });
        Some(Due::Ask(key, behind))
    }

    pub fn deadline(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Forgets all that was found, or is being asked for, on links that are not there any more.
    pub fn forget_links(&mut self, is_there: impl Fn(u32) -> bool) {
        self.retain(|s| is_there(s.behind));
    }

    /// A deadline, and a station's place, belong to a session and go with it.
    fn put(&mut self, key: Key, session: Session) -> Option<Session> {
        let (wake, by) = (session.wake, session.by);
        let before = self.all.insert(key, session);
        if let Some(session) = &before {
            leave(&key, session, &mut self.due, &mut self.unasked);
        }
        if let Some(at) = wake {
            self.due.insert((at, key));
        }
        if let Some(station) = by {
            self.unasked.enter(station);
        }
        before
    }

    /// There is room for what was asked for, or for what `by` tells of; or the key has a place already. All of them are looked
    /// at ten times a second at most.
    fn has_room(&mut self, key: &Key, by: Option<Mac>, now: Instant) -> bool {
        if self.is_free(by) || self.all.contains_key(key) {
            return true;
        }
        let asked = by.is_none();
        let swept = if asked { &mut self.swept } else { &mut self.swept_for_unasked };
        if now.since(*swept) >= SWEEP {
            *swept = now;
            let goes = |s: &Session| s.is_over(now) || asked && s.state == State::Absent;
            self.retain(|s| !goes(s));
            // For those, too, that come before the next time.
            if asked && self.all.len() > SESSIONS_MAX - ROOM {
                self.retain(|s| s.by.is_none());
            }
        }
        self.is_free(by)
    }

    fn is_free(&self, by: Option<Mac>) -> bool {
        self.all.len() < SESSIONS_MAX && by.is_none_or(|station| self.unasked.has_room(station))
    }

    fn retain(&mut self, stays: impl Fn(&Session) -> bool) {
        let Sessions { due, unasked, .. } = self;
        self.all.retain(|key, session| {
            let stays = stays(session);
            if !stays {
                leave(key, session, due, unasked);
            }
            stays
        });
    }
}

/// What stands elsewhere for a session goes with it.
fn leave(key: &Key, session: &Session, due: &mut BTreeSet<(Instant, Key)>, unasked: &mut Unasked) {
    if let Some(at) = session.wake {
        due.remove(&(at, *key));
    }
    if let Some(station) = session.by {
        unasked.leave(station);
    }
}

const SWEEP: std::time::Duration = std::time::Duration::from_millis(100);
/// Places that questions are to find then.
const ROOM: usize = SESSIONS_MAX / 8;

/// How long before the end of what was found it is asked for again: long enough for all tries, half the time at most.
fn lead(patience: &Patience) -> std::time::Duration {
    (patience.timeout * patience.tries.max(1)).min(patience.ttl / 2)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::testing::{THEIR_MAC, a, station};
    use super::super::unasked::{SHARE_MAX, UNASKED_MAX};
    use super::*;
    use crate::base::Clock;

    const BEHIND: u32 = 7;

    fn key(n: u32) -> Key {
        let mut o = *a("2001:db8::").octets();
        o[12..].copy_from_slice(&n.to_be_bytes());
        Key { uplink: 0, target: Addr::v6(o) }
    }

    fn question(source: &str) -> Question {
        Question { target: a("2001:db8::1"), source: a(source), source_mac: THEIR_MAC }
    }

    fn at(ms: u64) -> Instant {
        Clock::BEGIN + Duration::from_millis(ms)
    }

    /// What was asked for has answered.
    fn told(s: &mut Sessions, key: Key, p: &Patience, now: Instant) -> (ArrayVec<Question, WAITING_MAX>, bool) {
        s.found(key, BEHIND, None, p, now).unwrap()
    }

    fn due(s: &mut Sessions, patience: Patience, ms: u64) -> Option<Due> {
        s.next_due(at(ms), |_| patience)
    }

    #[test]
    fn who_waits_is_answered_when_the_target_answers() {
        let (mut s, p) = (Sessions::default(), Patience::default());
        assert_eq!(s.step(&key(1), at(0)), None);
        assert_eq!(s.ask(key(1), question("fe80::7"), BEHIND, &p, at(0)), Step::Ask(BEHIND));
        assert_eq!(s.ask(key(1), question("fe80::7"), BEHIND, &p, at(10)), Step::Wait);
        assert_eq!(s.ask(key(1), question("fe80::8"), BEHIND, &p, at(10)), Step::Wait);
        let (waiting, news) = told(&mut s, key(1), &p, at(20));
        assert_eq!((waiting.len(), news), (2, true));
        assert_eq!((s.step(&key(1), at(30_000)), s.step(&key(1), at(30_020))), (Some(Step::Answer), None));
        assert_eq!(s.deadline(), None, "nothing wakes us");
        assert!(!told(&mut s, key(1), &p, at(30_000)).1, "no news");
    }

    #[test]
    fn three_tries_and_then_it_is_absent() {
        let (mut s, p) = (Sessions::default(), Patience::default());
        s.ask(key(1), question("fe80::7"), BEHIND, &p, at(0));
        assert_eq!(due(&mut s, p, 499), None);
        assert_eq!(due(&mut s, p, 500), Some(Due::Ask(key(1), BEHIND)));
        assert_eq!(due(&mut s, p, 1000), Some(Due::Ask(key(1), BEHIND)));
        assert_eq!(due(&mut s, p, 1500), Some(Due::Gone(key(1), false, 1)));
        assert_eq!((s.step(&key(1), at(1600)), s.deadline()), (Some(Step::Absent), None));
        assert_eq!(s.step(&key(1), at(31_500)), None);
        assert!(s.is_expected(&key(1), BEHIND) && !s.is_expected(&key(1), 8));
        assert!(told(&mut s, key(1), &p, at(2000)).1, "it has come late");
        assert_eq!(s.step(&key(1), at(2000)), Some(Step::Answer));
    }

    #[test]
    fn what_is_kept_alive_is_asked_for_before_its_end() {
        let (mut s, p) = (Sessions::default(), Patience { keep_alive: true, ..Patience::default() });
        told(&mut s, key(1), &p, at(0));
        assert_eq!(s.deadline(), Some(at(28_500)));
        assert_eq!(due(&mut s, p, 28_500), Some(Due::Ask(key(1), BEHIND)));
        assert_eq!(s.step(&key(1), at(28_600)), Some(Step::Answer), "as long as it is not gone");
        assert!(!told(&mut s, key(1), &p, at(28_600)).1);
        assert_eq!(due(&mut s, p, 57_100), Some(Due::Ask(key(1), BEHIND)));
        for ms in [57_600, 58_100] {
            assert_eq!(due(&mut s, p, ms), Some(Due::Ask(key(1), BEHIND)));
        }
        assert_eq!(due(&mut s, p, 58_600), Some(Due::Gone(key(1), true, 0)));
        assert_eq!(s.step(&key(1), at(58_700)), Some(Step::Absent));
    }

    #[test]
    fn who_scans_takes_bounded_memory_and_nobodys_place() {
        let (mut s, p) = (Sessions::default(), Patience::default());
        told(&mut s, key(0), &p, at(0));
        for n in 1..SESSIONS_MAX as u32 {
            assert_eq!(s.ask(key(n), question("fe80::7"), BEHIND, &p, at(0)), Step::Ask(BEHIND));
        }
        assert_eq!(s.ask(key(9999), question("fe80::7"), BEHIND, &p, at(0)), Step::Full);
        for ms in [500, 1000, 1500] {
            while due(&mut s, p, ms).is_some() {}
        }
        assert_eq!(s.ask(key(9999), question("fe80::7"), BEHIND, &p, at(1500)), Step::Ask(BEHIND));
        assert_eq!((s.step(&key(0), at(1500)), s.len()), (Some(Step::Answer), 2));
    }

    #[test]
    fn what_nobody_asked_for_has_a_part_and_makes_room_for_questions() {
        let (mut s, p) = (Sessions::default(), Patience::default());
        let tell = |s: &mut Sessions, n: usize, by, ms| {
            s.found(key(n as u32), BEHIND, Some(station(by)), &p, at(ms)).is_some()
        };
        let said = (0..1000).filter(|n| tell(&mut s, *n, 0, 0)).count();
        assert_eq!(said, SHARE_MAX);
        assert!(tell(&mut s, 0, 0, 10) && !tell(&mut s, 1000, 0, 10), "again, but no more");
        let said = (2000..10_000).filter(|n| tell(&mut s, *n, (n % 100) as u16 + 1, 20)).count();
        assert_eq!((said + SHARE_MAX, s.len()), (UNASKED_MAX, UNASKED_MAX));
        s.asked(&key(0));
        let asks = |s: &mut Sessions, n: usize, ms| s.ask(key(n as u32), question("fe80::7"), BEHIND, &p, at(ms));
        for n in 20_000..20_000 + SESSIONS_MAX - 1 {
            assert_eq!(asks(&mut s, n, 100), Step::Ask(BEHIND), "{n}");
        }
        assert_eq!((s.step(&key(0), at(100)), s.step(&key(2000), at(100))), (Some(Step::Answer), None));
        assert_eq!(asks(&mut s, 30_000, 300), Step::Full, "all of them were asked for");
        assert!(!tell(&mut s, 30_000, 0, 300));
        assert!(s.unasked.has_room(station(0)));
    }

    #[test]
    fn what_nobody_asked_for_is_forgotten_when_it_is_over() {
        let (mut s, p) = (Sessions::default(), Patience { keep_alive: true, ..Patience::default() });
        let tell = |s: &mut Sessions, n, p: &Patience, ms| {
            s.found(key(n), BEHIND, Some(station(1)), p, at(ms)).map(|(_, news)| news)
        };
        let all = SHARE_MAX as u32;
        (0..all).for_each(|n| assert_eq!(tell(&mut s, n, &p, 0), Some(true)));
        assert!(!s.is_wanted(&key(0)) && !s.is_wanted(&key(all)));
        assert_eq!(due(&mut s, p, 28_500), Some(Due::Ask(key(0), BEHIND)));
        assert!(s.is_wanted(&key(0)), "we have asked");
        assert_eq!(tell(&mut s, 0, &Patience::default(), 28_600), Some(false));
        assert!(!s.is_wanted(&key(0)) && s.all[&key(0)].by == Some(station(1)), "its place is still the station's");
        assert_eq!(tell(&mut s, all, &p, 28_600), None);
        for ms in [28_500, 29_000, 29_500, 30_000] {
            while due(&mut s, p, ms).is_some() {}
        }
        assert_eq!(tell(&mut s, all, &p, 60_100), Some(true), "those that did not answer have gone");
        assert_eq!(s.len(), 1);
    }

    #[test]
    fn links_that_go_take_their_sessions_along() {
        let (mut s, p) = (Sessions::default(), Patience { keep_alive: true, ..Patience::default() });
        told(&mut s, key(1), &p, at(0));
        s.ask(key(2), question("fe80::7"), 8, &p, at(0));
        s.forget_links(|index| index == 8);
        assert_eq!((s.step(&key(1), at(1)), s.step(&key(2), at(1))), (None, Some(Step::Wait)));
        assert_eq!(s.deadline(), Some(at(500)));
    }
}
