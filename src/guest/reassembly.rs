//! Reassembly of fragments from the guest (RFC 791 §3.2, RFC 815, RFC 8200 §4.5). Pure and bounded.
//!
//! Goals: any cut in any order gives the packet back; memory stays under [`Limits`] whatever arrives; nothing that
//! attacks filters by overlapping passes. So every overlap discards the datagram together with its fragments still to
//! come (RFC 5722 §4, which we apply to IPv4 as well); only exact duplicates are ignored (RFC 8200 §4.5 allows it).
//!
//! A datagram starts with its first fragment to arrive and lives for 30 s (IPv4: RFC 1122 §3.3.2 asks 60 to 120 s of
//! hosts; Linux uses 30 s and so do we, being in the path and not at its end) or 60 s (IPv6: RFC 8200 §4.5). Deadlines
//! are looked at whenever a fragment arrives: no timer is needed, since nobody waits for a datagram that is late. The
//! datagram begun first makes room when a limit is reached. Atomic fragments (RFC 6946) never come here.

use std::time::Duration;

use super::Frame;
use crate::base::{Addr, Counters, DropReason, Instant};
use crate::wire::checksum::Sum;
use crate::wire::{self, Fragment, IPV6_LEN, Packet, Parsed};

/// Bounds of what is kept.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Payload of all datagrams together.
    pub bytes: usize,
    pub datagrams: usize,
    /// Of one datagram: 64 KiB over the smallest MTU in use (576 bytes) makes 120.
    pub fragments: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { bytes: 4 << 20, datagrams: 64, fragments: 256 }
    }
}

/// A packet put together again.
#[derive(Clone, Debug)]
pub struct Whole {
    /// The frame: Ethernet and IP header of the first fragment, lengths, flags and checksum made right.
    pub frame: Vec<u8>,
    /// Its headers. `dont_fragment` is false: the sender has fragmented, so a host may as well.
    pub packet: Packet,
}

/// Datagrams in the making.
#[derive(Debug, Default)]
pub struct Reassembly {
    limits: Limits,
    /// In the order of their first fragments.
    partial: Vec<Partial>,
    bytes: usize,
    scratch: Vec<u8>,
    counters: Counters,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Key {
    src: Addr,
    dst: Addr,
    id: u32,
    /// RFC 791 has it in the key, RFC 8200 does not; 0 for IPv6.
    protocol: u8,
}

#[derive(Debug)]
struct Partial {
    key: Key,
    deadline: Instant,
    /// The frame up to the fragmentable part, once the fragment at offset 0 came.
    head: Vec<u8>,
    data: Vec<u8>,
    /// Start and end of each fragment, ascending.
    parts: Vec<(u32, u32)>,
    /// Length of the fragmentable part, once the last fragment came.
    total: Option<usize>,
    /// Overlap or contradiction seen: whatever comes is discarded until the deadline.
    poisoned: bool,
}

impl Reassembly {
    pub fn new(limits: Limits) -> Reassembly {
        Reassembly { limits, ..Reassembly::default() }
    }

    /// Takes one fragment; gives the packet if it was the last one missing.
    ///
    /// # Errors
    /// The reason to count for this frame. Fragments lost with it or by lack of time and room are counted in
    /// [`Reassembly::counters`].
    pub fn add(&mut self, f: &Fragment, frame: &Frame<'_>, now: Instant) -> Result<Option<Whole>, DropReason> {
        self.expire(now);
        let key = Key { src: f.src, dst: f.dst, id: f.id, protocol: if f.src.is_v4() { f.protocol } else { 0 } };
        let at = match self.partial.iter().position(|p| p.key == key) {
            Some(at) => at,
            None => self.begin(key, now),
        };
        if self.partial[at].poisoned {
            return Err(DropReason::FragmentInvalid);
        }
        let (start, end) = (f.offset, f.offset + f.data_len);
        let misfit = f.data_len == 0 || (f.more && !f.data_len.is_multiple_of(8)) || end + header_len(f) > PACKET_MAX;
        let p = &mut self.partial[at];
        let data = frame.contiguous(f.data, f.data_len, &mut self.scratch);
        match p.place(start as u32, end as u32, f.more, data) {
            _ if misfit || data.len() != f.data_len => {
                self.poison(at);
                return Err(DropReason::FragmentInvalid);
            }
            Place::Duplicate => return Ok(None),
            Place::Refused => {
                self.poison(at);
                return Err(DropReason::FragmentInvalid);
            }
            Place::New(_) if p.parts.len() >= self.limits.fragments => {
                self.poison(at);
                return Err(DropReason::FragmentInvalid);
            }
            Place::New(index) => p.parts.insert(index, (start as u32, end as u32)),
        }
        if !f.more {
            p.total = Some(end);
        }
        let old = p.data.len();
        if old < end {
            p.data.resize(end, 0);
        }
        self.bytes += p.data.len() - old;
        p.data[start..end].copy_from_slice(data);
        if start == 0 {
            p.head = first_head(f, frame);
        }
        if p.is_complete() {
            return self.finish(at);
        }
        self.make_room(key);
        Ok(None)
    }

    /// Discards datagrams whose time is over.
    pub fn expire(&mut self, now: Instant) {
        let (bytes, counters) = (&mut self.bytes, &mut self.counters);
        self.partial.retain(|p| {
            let keep = p.deadline > now;
            if !keep {
                *bytes -= p.data.len();
                p.count_loss(counters, DropReason::FragmentTimeout);
            }
            keep
        });
    }

    /// Fragments that were taken and lost later.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn begin(&mut self, key: Key, now: Instant) -> usize {
        if self.partial.len() >= self.limits.datagrams.max(1) {
            self.drop_at(0);
        }
        let life = if key.src.is_v4() { LIFE_V4 } else { LIFE_V6 };
        self.partial.push(Partial {
            key,
            deadline: now + life,
            head: Vec::new(),
            data: Vec::new(),
            parts: Vec::new(),
            total: None,
            poisoned: false,
        });
        self.partial.len() - 1
    }

    /// The oldest others go until the bytes fit; a datagram alone always fits a sane limit.
    fn make_room(&mut self, keep: Key) {
        while self.bytes > self.limits.bytes {
            let victim = self.partial.iter().position(|p| p.key != keep && !p.data.is_empty());
            self.drop_at(victim.unwrap_or(0));
        }
    }

    fn drop_at(&mut self, at: usize) {
        let p = self.partial.remove(at);
        self.bytes -= p.data.len();
        p.count_loss(&mut self.counters, DropReason::FragmentTimeout);
    }

    fn poison(&mut self, at: usize) {
        let p = &mut self.partial[at];
        p.count_loss(&mut self.counters, DropReason::FragmentInvalid);
        self.bytes -= p.data.len();
        p.poisoned = true;
        p.head = Vec::new();
        p.data = Vec::new();
        p.parts = Vec::new();
    }

    fn finish(&mut self, at: usize) -> Result<Option<Whole>, DropReason> {
        let mut p = self.partial.remove(at);
        self.bytes -= p.data.len();
        let lengths = p.head.len() - wire::ETH_LEN + p.data.len();
        let ip = &mut p.head[wire::ETH_LEN..];
        if p.key.src.is_v4() {
            ip[2..4].copy_from_slice(&(lengths as u16).to_be_bytes());
            ip[6..8].fill(0);
            ip[10..12].fill(0);
            let sum = Sum::new().add(ip).checksum();
            ip[10..12].copy_from_slice(&sum.to_be_bytes());
        } else {
            ip[4..6].copy_from_slice(&((lengths - IPV6_LEN) as u16).to_be_bytes());
        }
        let mut frame = p.head;
        frame.extend_from_slice(&p.data);
        match wire::parse(&frame, frame.len())? {
            Parsed::Ip(packet) => Ok(Some(Whole { frame, packet: Packet { dont_fragment: false, ..packet } })),
            // A fragment header inside the reassembled part.
            _ => Err(DropReason::FragmentInvalid),
        }
    }
}

enum Place {
    /// Goes before the part of this index.
    New(usize),
    Duplicate,
    Refused,
}

impl Partial {
    fn place(&self, start: u32, end: u32, more: bool, data: &[u8]) -> Place {
        let total = self.total.map(|t| t as u32);
        if total.is_some_and(|t| end > t || (!more && end != t)) {
            return Place::Refused;
        }
        let index = self.parts.partition_point(|p| p.0 < start);
        if let Some(p) = self.parts.get(index)
            && *p == (start, end)
            && (more || total.is_some())
        {
            // A duplicate is one only if it says the same.
            let same = self.data.get(start as usize..end as usize) == Some(data);
            return if same { Place::Duplicate } else { Place::Refused };
        }
        let overlaps = self.parts.get(index).is_some_and(|p| p.0 < end)
            || index.checked_sub(1).is_some_and(|i| self.parts[i].1 > start);
        let beyond_last = !more && self.parts.last().is_some_and(|p| p.1 > end);
        if overlaps || beyond_last { Place::Refused } else { Place::New(index) }
    }

    fn is_complete(&self) -> bool {
        // Parts never overlap, so their lengths add up to what is covered.
        let covered: usize = self.parts.iter().map(|p| (p.1 - p.0) as usize).sum();
        self.total == Some(covered)
    }

    fn count_loss(&self, counters: &mut Counters, reason: DropReason) {
        for _ in &self.parts {
            counters.drop(reason);
        }
    }
}

/// Ethernet header and unfragmentable part, the chain of next headers closed over the fragment header.
fn first_head(f: &Fragment, frame: &Frame<'_>) -> Vec<u8> {
    let mut head = frame.head[..f.l3 + f.unfragmentable_len].to_vec();
    if !f.src.is_v4() {
        head[f.next_header_at] = f.protocol;
    }
    head
}

/// What counts towards the 16-bit length besides the fragmentable part.
fn header_len(f: &Fragment) -> usize {
    if f.src.is_v4() { f.unfragmentable_len } else { f.unfragmentable_len - IPV6_LEN }
}

const PACKET_MAX: usize = 65_535;
const LIFE_V4: Duration = Duration::from_secs(30);
const LIFE_V6: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests;
