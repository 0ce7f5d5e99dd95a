//! What a script expects of the engine, and what there is.

use std::time::Instant as Wall;

use super::super::parse::Expected;
use super::super::rules::{Rules, before};
use super::super::segment::{Came, FIN, Number, PSH, SYN, Said, Segment, Window};
use super::{Numbers, PATIENCE, Player, link_mss};

impl Player {
    pub(super) fn engine(&mut self, e: &Expected) -> Result<(), String> {
        if e.segment.anew {
            self.begin_anew(e.segment.beyond)?;
        }
        if !e.any {
            return self.train(&e.segment);
        }
        for _ in 0..3 {
            self.turn(0)?;
        }
        while let Some(c) = self.queue.front() {
            let elsewhere = e.segment.seq.is_some_and(|(at, _)| self.engine.find(at) != c.seq);
            if elsewhere || self.differs(c, &e.segment, true).is_some() {
                return Ok(());
            }
            self.queue.pop_front();
        }
        Ok(())
    }

    /// One segment, or several that cover the numbers in order, full-sized but for the last.
    fn train(&mut self, s: &Segment) -> Result<(), String> {
        let end = s.seq.map(|(_, end)| self.engine.find(end));
        let mut at = s.seq.map(|(start, _)| self.engine.find(start));
        loop {
            self.await_one()?;
            let c = self.queue.pop_front().expect("it came");
            let behind = c.seq.wrapping_add(c.payload.len() as u32);
            let last = end.is_none_or(|end| behind == end);
            let begun = at.is_none_or(|at| at == c.seq);
            let full = c.payload.len() + c.options_len == self.rules.mss();
            let what = if !begun {
                Some("seq")
            } else if let Some(what) = self.differs(&c, s, last) {
                Some(what)
            } else if !last && (c.payload.is_empty() || !full) {
                Some("the end")
            } else {
                None
            };
            if let Some(what) = what {
                return Err(format!("{what} differs: {}", self.told(&c)));
            }
            if last {
                return Ok(());
            }
            at = Some(behind);
        }
    }

    fn await_one(&mut self) -> Result<(), String> {
        let end = Wall::now() + PATIENCE;
        let mut ms = 0;
        while self.queue.is_empty() {
            self.turn(ms)?;
            ms = 1;
            if Wall::now() > end {
                return Err("nothing came".to_owned());
            }
        }
        Ok(())
    }

    /// What of a segment is not as it was to be; position apart. PSH and FIN are expected of the last of a row.
    fn differs(&self, c: &Came, s: &Segment, last: bool) -> Option<&'static str> {
        let want = if last { s.flags } else { s.flags & !FIN };
        if c.flags & !PSH != want & !PSH || last && s.has(PSH) && !c.has(PSH) {
            return Some("a flag");
        }
        if s.ack.is_some_and(|n| self.guest.find(n) != c.ack) {
            return Some("ack");
        }
        let window = match s.window {
            None => true,
            Some(Window::Is(n)) => c.window == n,
            Some(Window::AtLeast(n)) => c.window >= n,
            Some(Window::Below(n)) => c.window < n,
        };
        if !window {
            return Some("win");
        }
        let mss = match s.mss {
            Said::Unmentioned => true,
            Said::Absent => c.mss.is_none(),
            Said::Is(n) => c.mss == Some(n.unwrap_or(link_mss(self.v.v6))),
        };
        if !mss {
            return Some("mss");
        }
        if !agrees(&s.scale, c.scale.as_ref()) {
            return Some("wscale");
        }
        if !agrees(&s.sack_ok, c.sack_ok.then_some(&())) {
            return Some("sackok");
        }
        let stamps = match (&s.stamps, c.stamps) {
            (Said::Unmentioned, _) | (Said::Absent, None) => true,
            (Said::Is((value, echo)), Some((v, e))) => {
                let value_is = *value == Number::Latest || self.engine_stamp(*value) == v;
                value_is && (*echo == Number::Latest || self.guest_stamp(*echo) == e)
            }
            _ => false,
        };
        if !stamps {
            return Some("ts");
        }
        let blocks =
            |b: &Vec<(Number, Number)>| b.iter().map(|(a, b)| (self.guest.find(*a), self.guest.find(*b))).collect();
        let sacks: Said<Vec<(u32, u32)>> = match &s.sacks {
            Said::Unmentioned => Said::Unmentioned,
            Said::Absent => Said::Absent,
            Said::Is(b) => Said::Is(blocks(b)),
        };
        let came = (!c.sacks.is_empty()).then_some(&c.sacks);
        if !agrees(&sacks, came) { Some("sack") } else { None }
    }

    /// The engine's next SYN begins another connection: its numbers, and the guest's data behind its last SYN.
    fn begin_anew(&mut self, beyond: bool) -> Result<(), String> {
        self.await_one()?;
        let c = self.queue.front().expect("it came").clone();
        if !c.has(SYN) {
            return Err(format!("no SYN: {}", self.told(&c)));
        }
        if beyond && !before(self.engine.next, c.seq) {
            return Err(format!("not beyond the numbers before it: {}", self.told(&c)));
        }
        self.engine = Numbers::new(c.seq);
        self.rules = Rules::new(usize::from(link_mss(self.v.v6)), self.syn.seq, c.seq);
        self.rules.note(&self.syn);
        self.written = 0;
        self.read_at = self.syn.seq.wrapping_sub(self.guest.isn) as usize;
        self.take_note(&c)
    }
}

fn agrees<T: PartialEq>(said: &Said<T>, came: Option<&T>) -> bool {
    match said {
        Said::Unmentioned => true,
        Said::Absent => came.is_none(),
        Said::Is(t) => came == Some(t),
    }
}
