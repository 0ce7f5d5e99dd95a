//! Frames on their way into a socket, in memory of ours until it has taken them.
//!
//! Each lies in one piece, its length in front: `[prefix][headers][payload]`. Payload is received right where its frame will
//! be, the headers are written in front of it, and the next frame begins where it ends: many frames are one piece.
//!
//! The memory is a ring, given out in order and free again in order. When nothing waits it begins anew, which is after nearly
//! every flush to a reader that keeps up: then the same few pages stay in the cache. (To lend the socket these pages instead of
//! having them copied, by vmsplice(2), saves us a copy, but costs the reader more than that: it finds them in no cache.)

use std::collections::VecDeque;

use arrayvec::ArrayVec;

use super::framing::{PREFIX_LEN, prefix};
use crate::guest::{self, LinkFull, SLOTS_MAX};
use crate::sys::iov::{Gather, Scatter};

/// Pieces that one system call takes at most.
pub const PIECES_MAX: usize = 256;

/// Memory for all frames.
pub const MEMORY_BYTES: usize = 1 << 20;
/// An Ethernet frame without its checksum is no shorter (IEEE 802.3 §3.2.8): zeros follow what is. Some virtual network cards
/// take nothing shorter (b166).
const FRAME_MIN: usize = 60;

/// Frames that wait, oldest first. Positions count on for ever; the ring's length divides them into places.
#[derive(Debug)]
pub struct Outbox {
    ring: Vec<u8>,
    waiting: VecDeque<Waiting>,
    /// Bytes of the oldest frame, prefix included, that have left.
    begun: usize,
    /// Bytes that wait, prefixes included.
    bytes: usize,
    /// Everything before this position is free, and so is everything from `end` on, as far as the ring goes.
    free: usize,
    end: usize,
    areas: Areas,
}

/// A frame that waits: the position of its prefix, and the length of both.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    at: usize,
    len: usize,
}

/// A reservation: `count` areas of `stride` bytes, each with room for a prefix, headers, and then `len` bytes of payload.
#[derive(Clone, Copy, Debug, Default)]
struct Areas {
    start: usize,
    stride: usize,
    headroom: usize,
    len: usize,
    next: usize,
    count: usize,
}

impl Areas {
    /// The position of the payload of the `i`-th.
    fn payload(&self, i: usize) -> usize {
        self.start + i * self.stride + self.headroom
    }
}

impl Outbox {
    pub fn new() -> Outbox {
        Outbox {
            ring: vec![0; MEMORY_BYTES],
            waiting: VecDeque::new(),
            begun: 0,
            bytes: 0,
            free: 0,
            end: 0,
            areas: Areas::default(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Bytes that wait.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Throws away what waits, and what of the oldest frame has not left; returns how many frames.
    pub fn clear(&mut self) -> usize {
        let frames = self.waiting.len();
        self.waiting.clear();
        (self.begun, self.bytes, self.areas) = (0, 0, Areas::default());
        self.begin_anew();
        frames
    }

    /// Up to `areas` areas for `len` bytes of payload behind headers of up to `head_len` bytes; returns how many.
    pub fn reserve(&mut self, areas: usize, head_len: usize, len: usize) -> usize {
        let headroom = PREFIX_LEN + head_len;
        let stride = headroom + len.max(FRAME_MIN);
        let wanted = areas.min(SLOTS_MAX).min(self.ring.len() / stride);
        // What is left behind `end`, and else what is free in front.
        let count = |position: usize| {
            let free = (self.free + self.ring.len()).saturating_sub(position);
            wanted.min(free.min(self.ring.len() - position % self.ring.len()) / stride)
        };
        let (here, anew) = (self.end, self.end.next_multiple_of(self.ring.len()));
        let start = if count(here) >= wanted.min(count(anew)) { here } else { anew };
        self.areas = Areas { start, stride, headroom, len, next: 0, count: count(start) };
        self.areas.count
    }

    /// Appends the areas not used yet to `list`.
    pub fn areas<'a>(&'a mut self, list: &mut guest::Areas<'a>) {
        let Areas { stride, headroom, len, next, count, .. } = self.areas;
        if next == count {
            return;
        }
        let from = self.place(self.areas.payload(next) - headroom);
        let all = &mut self.ring[from..from + (count - next) * stride];
        list.extend(all.chunks_exact_mut(stride).map(|area| Scatter::new(&mut area[headroom..headroom + len])));
    }

    /// The first `len` bytes of the next area.
    pub fn payload(&self, len: usize) -> &[u8] {
        let at = self.place(self.areas.payload(self.areas.next));
        &self.ring[at..at + len]
    }

    /// Makes a frame of `head` and the first `len` bytes of the next area, and returns it.
    ///
    /// # Panics
    /// If no area is left, or `head` is longer than was reserved.
    pub fn commit(&mut self, head: &[u8], len: usize) -> &[u8] {
        assert!(self.areas.next < self.areas.count && PREFIX_LEN + head.len() <= self.areas.headroom);
        let payload = self.areas.payload(self.areas.next);
        self.areas.next += 1;
        let (from, to) = (self.place(payload - head.len()), self.place(payload));
        self.ring[from..to].copy_from_slice(head);
        self.enqueue(payload - head.len(), head.len() + len)
    }

    /// Ends the reservation.
    pub fn cancel(&mut self) {
        self.areas = Areas::default();
        self.begin_anew();
    }

    /// Appends a copy of a whole frame, and returns it.
    ///
    /// # Errors
    /// [`LinkFull`]: there is no memory left for it.
    pub fn push(&mut self, frame: &[u8]) -> Result<&[u8], LinkFull> {
        if self.reserve(1, 0, frame.len()) == 0 {
            return Err(LinkFull);
        }
        let at = self.areas.payload(0);
        self.areas = Areas::default();
        let from = self.place(at);
        self.ring[from..from + frame.len()].copy_from_slice(frame);
        Ok(self.enqueue(at, frame.len()))
    }

    /// A frame of `len` bytes at this position, behind room for its prefix, is ready to go.
    fn enqueue(&mut self, at: usize, len: usize) -> &[u8] {
        let padded = len.max(FRAME_MIN);
        let from = self.place(at);
        let frame = from..from + padded;
        self.ring[from + len..frame.end].fill(0);
        self.ring[from - PREFIX_LEN..from].copy_from_slice(&prefix(padded));
        self.waiting.push_back(Waiting { at: at - PREFIX_LEN, len: PREFIX_LEN + padded });
        self.bytes += PREFIX_LEN + padded;
        self.end = at + padded;
        &self.ring[frame]
    }

    /// What a stream is to carry next: the rest of the oldest frame, then others, each with its prefix.
    pub fn stream(&self) -> ArrayVec<Gather<'_>, PIECES_MAX> {
        let mut out: ArrayVec<Gather<'_>, PIECES_MAX> = ArrayVec::new();
        let mut waiting = self.waiting.iter();
        let Some(first) = waiting.next() else { return out };
        let mut piece = first.at + self.begun..first.at + first.len;
        for w in waiting {
            let joined = w.at == piece.end && w.at % self.ring.len() != 0;
            if !joined {
                out.push(self.gather(&piece));
                if out.is_full() {
                    return out;
                }
                piece.start = w.at;
            }
            piece.end = w.at + w.len;
        }
        out.push(self.gather(&piece));
        out
    }

    /// The oldest frames, without prefixes.
    pub fn messages(&self) -> ArrayVec<Gather<'_>, PIECES_MAX> {
        let piece = |w: &Waiting| self.gather(&(w.at + PREFIX_LEN..w.at + w.len));
        self.waiting.iter().take(PIECES_MAX).map(piece).collect()
    }

    /// The oldest frame, without its prefix.
    pub fn oldest(&self) -> Option<Gather<'_>> {
        self.waiting.front().map(|w| self.gather(&(w.at + PREFIX_LEN..w.at + w.len)))
    }

    fn gather(&self, positions: &std::ops::Range<usize>) -> Gather<'_> {
        let at = self.place(positions.start);
        Gather::new(&self.ring[at..at + positions.len()])
    }

    /// `n` bytes of [`Outbox::stream`] have left.
    pub fn bytes_left(&mut self, n: usize) {
        self.begun += n;
        self.bytes -= n;
        while let Some(first) = self.waiting.front().copied() {
            self.free = first.at + self.begun.min(first.len);
            if self.begun < first.len {
                break;
            }
            self.begun -= first.len;
            self.waiting.pop_front();
            if self.begun == 0 {
                break;
            }
        }
        self.begin_anew();
    }

    /// The `n` oldest frames have left.
    pub fn messages_left(&mut self, n: usize) {
        let bytes = self.waiting.iter().take(n).map(|w| w.len).sum();
        self.bytes_left(bytes);
    }

    /// All has left: the ring begins anew, unless somebody still has areas of it.
    fn begin_anew(&mut self) {
        if self.waiting.is_empty() && self.areas.next == self.areas.count {
            (self.free, self.end) = (0, 0);
        }
    }

    /// Where a position is.
    fn place(&self, position: usize) -> usize {
        position % self.ring.len()
    }
}

#[cfg(test)]
mod tests;
