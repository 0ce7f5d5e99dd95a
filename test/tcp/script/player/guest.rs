//! The guest's side of a script.

use std::time::Instant as Wall;

use spelt::wire::{Gso, Offload};

use super::super::parse::{Expected, Host};
use super::super::rules::before;
use super::super::segment::{ACK, Bases, Came, Number, SYN, Said, Segment, Told, Window};
use super::{PATIENCE, Player, link_mss};
use crate::world::pattern_from;

/// Payload of the segments that fill windows, and the MSS of handshakes for which a script names none: numbers stay round.
const SEGMENT: u16 = 1000;

impl Player {
    /// The handshake, in zero time, with what `syn` says of the guest's SYN.
    pub(super) fn connect(&mut self, by_guest: bool, syn: &Segment) -> Result<(), String> {
        let mut syn = syn.clone();
        syn.seq = Some((Number::Relative(0), Number::Relative(0)));
        if syn.mss == Said::Unmentioned {
            syn.mss = Said::Is(Some(SEGMENT));
        }
        let mut ack = Segment::new(ACK);
        ack.seq = Some((Number::Relative(1), Number::Relative(1)));
        ack.ack = Some(Number::Relative(1));
        // A first SYN echoes nothing (RFC 7323 §3.2), what follows the latest.
        let stamp = syn.stamps.given().map(|s| s.0);
        let stamps = |echo| stamp.map_or(Said::Unmentioned, |value| Said::Is((value, echo)));
        ack.stamps = stamps(Number::Latest);
        if by_guest {
            syn.stamps = stamps(Number::Absolute(0));
            self.send(&[syn]);
            let mut answer = Segment::new(SYN | ACK);
            answer.ack = Some(Number::Relative(1));
            self.engine(&expected(answer))?;
            self.send(&[ack]);
            self.quiet()?;
            return self.host(Host::Accepts);
        }
        self.host(Host::Connects)?;
        self.engine(&expected(Segment::new(SYN)))?;
        syn.flags |= ACK;
        syn.ack = Some(Number::Relative(1));
        syn.stamps = stamps(Number::Latest);
        self.send(&[syn]);
        ack.stamps = Said::Unmentioned;
        self.engine(&expected(ack))
    }

    /// One batch.
    pub(super) fn send(&mut self, batch: &[Segment]) {
        let mut frames = Vec::new();
        let mut offload = Offload::NONE;
        for s in batch {
            let c = self.compose(s);
            let told = format!("guest  {}", Told(&c, self.bases_of_guest()));
            self.say(told);
            let ports = (s.source_port.unwrap_or(self.guest_port), s.destination_port.unwrap_or(self.remote_port));
            if ports == (self.guest_port, self.remote_port) {
                let mut heard = c.clone();
                heard.heed(&s.raw);
                self.rules.note(&heard);
            }
            frames.push(c.frame(self.v.v6, ports, &s.raw));
            if let Some(size) = s.gso {
                offload.gso = Gso::Tcp(size);
            }
        }
        self.w.guest_sends_with(&frames, offload);
    }

    fn compose(&mut self, s: &Segment) -> Came {
        if let Some(Window::Is(n)) = s.window {
            self.window = n;
        }
        let (from, to) =
            s.seq.map_or((self.guest.next, self.guest.next), |(a, b)| (self.guest.find(a), self.guest.find(b)));
        let first = self.guest.isn.wrapping_add(1);
        let at = i64::from(from.wrapping_sub(first) as i32) + i64::from(s.has(SYN));
        let mut c = Came {
            flags: s.flags,
            seq: from,
            ack: s.ack.map_or(0, |n| self.engine.find(n)),
            window: self.window,
            urgent: s.urgent.unwrap_or(0),
            mss: s.mss.given().map(|m| m.unwrap_or(link_mss(self.v.v6))),
            scale: s.scale.given().copied(),
            sack_ok: s.sack_ok.given().is_some(),
            payload: pattern_from(at as u64, to.wrapping_sub(from) as usize),
            ..Came::default()
        };
        if let Said::Is((value, echo)) = s.stamps {
            c.stamps = Some((self.guest_stamp(value), self.engine_stamp(echo)));
        }
        if let Said::Is(blocks) = &s.sacks {
            c.sacks = blocks.iter().map(|(a, b)| (self.engine.find(*a), self.engine.find(*b))).collect();
        }
        if c.has(SYN) {
            self.syn = c.clone();
        }
        let end = c.end();
        if !before(end, self.guest.next) {
            self.guest.next = end;
        }
        c
    }

    fn bases_of_guest(&self) -> Bases {
        let b = self.bases();
        Bases { seq: b.ack, ack: b.seq, stamp: b.echo, echo: b.stamp }
    }

    pub(super) fn guest_stamp(&self, n: Number) -> u32 {
        match n {
            Number::Absolute(n) => n,
            Number::Relative(n) | Number::Next(n) => self.v.stamps.wrapping_add(n as u32),
            Number::Latest => self.v.stamps,
        }
    }

    pub(super) fn engine_stamp(&self, n: Number) -> u32 {
        let (first, last) = self.rules.stamps();
        match n {
            Number::Absolute(n) => n,
            Number::Relative(n) | Number::Next(n) => first.unwrap_or(0).wrapping_add(n as u32),
            Number::Latest => last.unwrap_or(0),
        }
    }

    /// Sends until the window is full and stays so. Whatever the engine says meanwhile is to be ACKs.
    pub(super) fn fill(&mut self) -> Result<(), String> {
        let end = Wall::now() + PATIENCE;
        let mut quiet = 0;
        while quiet < 20 {
            if Wall::now() > end {
                return Err("the window is never full".to_owned());
            }
            let room = self.rules.edge().map_or(0, |e| e.wrapping_sub(self.guest.next) as i32).max(0);
            let mut left = room.min(i32::from(SEGMENT) * 30);
            let mut batch = Vec::new();
            while left > 0 {
                let len = left.min(i32::from(SEGMENT));
                let mut s = Segment::new(ACK);
                s.seq = Some((Number::Next(0), Number::Next(i64::from(len))));
                s.ack = Some(Number::Next(0));
                batch.push(s);
                left -= len;
            }
            quiet = if batch.is_empty() { quiet + 1 } else { 0 };
            if !batch.is_empty() {
                self.send(&batch);
            }
            self.turn(u64::from(quiet > 0))?;
            if let Some(c) = self.queue.drain(..).find(|c| c.flags != ACK || !c.payload.is_empty()) {
                return Err(format!("not an ACK: {c:?}"));
            }
        }
        Ok(())
    }
}

fn expected(segment: Segment) -> Expected {
    Expected { after: None, any: false, segment }
}
