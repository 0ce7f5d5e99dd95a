//! What holds of every segment of the engine, whatever a script says: no script repeats it, none can forget it.

use std::time::Duration;

use super::segment::{ACK, Came, FIN, RST, SYN};
use crate::world::pattern_from;

/// What both sides have said so far, as far as later segments are bound by it.
pub struct Rules {
    /// What the link carries without options.
    link_mss: usize,
    guest: Syn,
    engine: Syn,
    /// Numbers are in force: no further SYN changes anything.
    agreed: bool,
    guest_isn: u32,
    engine_isn: u32,
    /// Behind the last number that the guest has sent, and the right edge of its window.
    guest_end: Option<u32>,
    guest_edge: Option<u32>,
    /// The right edge of the engine's window.
    edge: Option<u32>,
    /// The engine's clock of timestamps: first and last value, and when it was the first.
    clock: Option<(u32, Duration)>,
    stamp: Option<u32>,
}

/// What a SYN has offered.
#[derive(Clone, Copy, Default)]
struct Syn {
    mss: Option<u16>,
    scale: Option<u8>,
    sack_ok: bool,
    stamps: bool,
}

impl Rules {
    pub fn new(link_mss: usize, guest_isn: u32, engine_isn: u32) -> Rules {
        Rules {
            link_mss,
            guest: Syn::default(),
            engine: Syn::default(),
            agreed: false,
            guest_isn,
            engine_isn,
            guest_end: None,
            guest_edge: None,
            edge: None,
            clock: None,
            stamp: None,
        }
    }

    /// The right edge the engine has offered.
    pub fn edge(&self) -> Option<u32> {
        self.edge
    }

    /// The handshake is over.
    pub fn agreed(&self) -> bool {
        self.agreed
    }

    /// The engine's first and last timestamp.
    pub fn stamps(&self) -> (Option<u32>, Option<u32>) {
        (self.clock.map(|c| c.0), self.stamp)
    }

    /// Payload and options of a segment to the guest at most (RFC 9293 §3.7.1). The engine makes none of less than 88 bytes,
    /// whatever the guest asks for.
    pub fn mss(&self) -> usize {
        usize::from(self.guest.mss.unwrap_or(536)).clamp(88, self.link_mss)
    }

    /// Takes note of a segment of the guest.
    pub fn note(&mut self, c: &Came) {
        if c.has(SYN) && !self.agreed && c.seq == self.guest_isn {
            self.guest = Syn { mss: c.mss, scale: c.scale, sack_ok: c.sack_ok, stamps: c.stamps.is_some() };
        }
        self.guest_end = Some(self.guest_end.map_or(c.end(), |e| later(e, c.end())));
        if c.has(ACK) {
            self.agreed |= !c.has(SYN) && self.edge.is_some();
            let shift = if c.has(SYN) { 0 } else { self.shifts().0 };
            let edge = c.ack.wrapping_add(u32::from(c.window) << shift);
            self.guest_edge = Some(self.guest_edge.map_or(edge, |e| later(e, edge)));
        }
    }

    /// In force only if both have offered it (RFC 7323 §2.2); the guest's, then the engine's.
    fn shifts(&self) -> (u8, u8) {
        let both = self.guest.scale.is_some() && self.engine.scale.is_some();
        let shift = |s: Option<u8>| if both { s.unwrap_or(0).min(14) } else { 0 };
        (shift(self.guest.scale), shift(self.engine.scale))
    }

    /// A segment of the engine; `written`: bytes the host has sent, `clock`: time since any start.
    ///
    /// # Errors
    /// The rule it breaks.
    pub fn check(&mut self, c: &Came, written: usize, clock: Duration) -> Result<(), String> {
        if c.flags & (1 << 5 | 1 << 6 | 1 << 7) != 0 {
            return Err("URG, ECE or CWR".to_owned());
        }
        if c.has(RST) {
            return if c.payload.is_empty() { Ok(()) } else { Err("a RST with data".to_owned()) };
        }
        self.options(c, clock)?;
        self.payload(c, written)?;
        if !c.has(ACK) {
            return if c.has(SYN) { Ok(()) } else { Err("RFC 9293 §3.10.7: neither ACK, SYN nor RST".to_owned()) };
        }
        if self.guest_end.is_none_or(|end| before(end, c.ack)) {
            return Err("acknowledges what the guest has not sent".to_owned());
        }
        // A FIN may come when the window is full.
        if self.edge.is_some_and(|e| before(e.wrapping_add(1), c.ack)) {
            return Err("RFC 9293 §3.10.7.4: acknowledges what lies beyond the window".to_owned());
        }
        let shift = if c.has(SYN) { 0 } else { self.shifts().1 };
        let edge = c.ack.wrapping_add(u32::from(c.window) << shift);
        if self.edge.is_some_and(|e| before(edge, e)) {
            return Err("RFC 9293 §3.8.6: the right edge of the window moves left".to_owned());
        }
        self.edge = Some(edge);
        self.agreed |= !c.has(SYN);
        Ok(())
    }

    fn options(&mut self, c: &Came, clock: Duration) -> Result<(), String> {
        let answer = c.has(SYN | ACK);
        if !c.has(SYN) && (c.mss.is_some() || c.scale.is_some() || c.sack_ok) {
            return Err("an option that belongs to a SYN".to_owned());
        }
        if c.has(SYN) {
            let guest = self.guest;
            if answer && (c.scale.is_some() && guest.scale.is_none() || c.sack_ok && !guest.sack_ok) {
                return Err("RFC 7323 §2.2, RFC 2018 §2: answers an option that was not offered".to_owned());
            }
            if c.scale.is_some_and(|s| s > 14) {
                return Err("RFC 7323 §2.3: a shift above 14".to_owned());
            }
            self.engine = Syn { mss: c.mss, scale: c.scale, sack_ok: c.sack_ok, stamps: c.stamps.is_some() };
        }
        // RFC 7323 §3.2: on every segment, or on none but a first SYN.
        let agreed = self.guest.stamps && self.engine.stamps;
        let first_syn = c.has(SYN) && !answer;
        if c.stamps.is_some() != agreed && !first_syn {
            return Err(format!("RFC 7323 §3.2: timestamps {}", if agreed { "are missing" } else { "not agreed on" }));
        }
        if let Some((value, _)) = c.stamps {
            self.stamp(value, clock)?;
        }
        let sack_agreed = self.guest.sack_ok && self.engine.sack_ok;
        if !c.sacks.is_empty() && !sack_agreed {
            return Err("RFC 2018 §4: SACK blocks not agreed on".to_owned());
        }
        for (n, (from, to)) in c.sacks.iter().enumerate() {
            // The first may be a duplicate below the ACK (RFC 2883).
            let below = before(*from, c.ack.wrapping_add(1)) && n > 0;
            if below || !before(*from, *to) || self.guest_end.is_none_or(|end| before(end, *to)) {
                return Err("RFC 2018 §4: a block of what was not received".to_owned());
            }
            if self.edge.is_none_or(|edge| before(edge, *to)) {
                return Err("RFC 9293 §3.10.7.4: a block of what lies beyond the window".to_owned());
            }
        }
        Ok(())
    }

    /// RFC 7323 §5.4: monotonic, between one tick a second and one a millisecond.
    fn stamp(&mut self, value: u32, clock: Duration) -> Result<(), String> {
        let (first, since) = *self.clock.get_or_insert((value, clock));
        if self.stamp.is_some_and(|s| before(value, s)) {
            return Err("RFC 7323 §5.4: a timestamp that is older than the last".to_owned());
        }
        self.stamp = Some(value);
        let ticks = u64::from(value.wrapping_sub(first));
        let (most, least) = ((clock - since).as_millis() as u64 + 1, (clock - since).as_secs().saturating_sub(1));
        if ticks > most || ticks < least {
            return Err(format!("RFC 7323 §5.4: {ticks} ticks in {most} ms"));
        }
        Ok(())
    }

    fn payload(&self, c: &Came, written: usize) -> Result<(), String> {
        let len = c.payload.len();
        if len > 0 {
            let from = c.seq.wrapping_sub(self.engine_isn.wrapping_add(1)) as usize;
            if from.saturating_add(len) > written {
                return Err("data that the host has not written".to_owned());
            }
            if c.payload != pattern_from(from as u64, len) {
                return Err("other data than the host has written".to_owned());
            }
            if len + c.options_len > self.mss() {
                let options = c.options_len;
                return Err(format!("RFC 9293 §3.7.1: {len} bytes and {options} of options, MSS {}", self.mss()));
            }
        }
        if (len > 0 || c.has(FIN)) && self.guest_edge.is_none_or(|edge| before(edge, c.end())) {
            return Err("RFC 9293 §3.8: beyond the window of the guest".to_owned());
        }
        Ok(())
    }
}

/// Modulo 2^32 (RFC 9293 §3.4).
pub fn before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

pub fn later(a: u32, b: u32) -> u32 {
    if before(a, b) { b } else { a }
}
