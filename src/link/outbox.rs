//! Frames on their way into a socket, in memory of ours until it has taken them.
//!
//! Each lies in one piece, its length in front: [prefix][headers][payload]. Payload is received right where its frame will
//! be, the headers are written in front of it. Memory is given out in one direction and begins anew when all has left, which
//! is after nearly every flush.

use std::collections::VecDeque;

use arrayvec::ArrayVec;

use super::framing::{PREFIX_LEN, prefix};
use crate::guest::{LinkFull, SLOTS_MAX};
use crate::sys::iov::{Gather, Scatter};
use crate::wire::emit::HEAD_MAX;

/// Frames that one system call takes at most.
pub const PIECES_MAX: usize = 256;

/// Memory for all frames.
const MEMORY_BYTES: usize = 1 << 20;
/// In front of each payload: its frame's headers and prefix. Whole cache lines.
const HEADROOM: usize = (PREFIX_LEN + HEAD_MAX).next_multiple_of(LINE);
const LINE: usize = 64;
/// An Ethernet frame without its checksum is no shorter (IEEE 802.3 §3.2.8): zeros follow what is. Some virtual network cards
/// take nothing shorter (b166).
const FRAME_MIN: usize = 60;

/// Frames that wait, oldest first.
#[derive(Debug)]
pub struct Outbox {
    memory: Vec<u8>,
    waiting: VecDeque<Waiting>,
    /// Bytes of the oldest frame, prefix included, that have left.
    begun: usize,
    /// Bytes that wait, prefixes included.
    bytes: usize,
    /// Where free memory begins.
    end: usize,
    areas: Areas,
}

/// A frame that waits: where its prefix is, and the length of both.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    at: usize,
    len: usize,
}

/// A reservation: `count` areas of `stride` bytes with room for `len` payload bytes each, `next` of them used up.
#[derive(Clone, Copy, Debug, Default)]
struct Areas {
    start: usize,
    stride: usize,
    len: usize,
    next: usize,
    count: usize,
}

impl Areas {
    /// Where the payload of the `i`-th begins.
    fn payload(&self, i: usize) -> usize {
        self.start + i * self.stride + HEADROOM
    }
}

impl Outbox {
    pub fn new() -> Outbox {
        Outbox {
            memory: vec![0; MEMORY_BYTES],
            waiting: VecDeque::new(),
            begun: 0,
            bytes: 0,
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

    /// Throws away what waits, and what of the oldest frame has not left.
    pub fn clear(&mut self) {
        self.waiting.clear();
        (self.begun, self.bytes, self.end) = (0, 0, 0);
        self.areas = Areas::default();
    }

    /// Up to `areas` areas for `len` bytes of payload; returns how many.
    pub fn reserve(&mut self, areas: usize, len: usize) -> usize {
        let stride = (HEADROOM + len.max(FRAME_MIN)).next_multiple_of(LINE);
        let count = areas.min((self.memory.len() - self.end) / stride).min(SLOTS_MAX);
        self.areas = Areas { start: self.end, stride, len, next: 0, count };
        count
    }

    /// The areas not used yet.
    pub fn areas(&mut self) -> ArrayVec<Scatter<'_>, SLOTS_MAX> {
        let Areas { stride, len, next, count, .. } = self.areas;
        if next == count {
            return ArrayVec::new();
        }
        let from = self.areas.payload(next) - HEADROOM;
        let all = &mut self.memory[from..from + (count - next) * stride];
        all.chunks_exact_mut(stride).map(|area| Scatter::new(&mut area[HEADROOM..HEADROOM + len])).collect()
    }

    /// The first `len` bytes of the next area.
    pub fn payload(&self, len: usize) -> &[u8] {
        let at = self.areas.payload(self.areas.next);
        &self.memory[at..at + len]
    }

    /// Makes a frame of `head` and the first `len` bytes of the next area, and returns it.
    ///
    /// # Panics
    /// If no area is left, or `head` is longer than [`HEAD_MAX`].
    pub fn commit(&mut self, head: &[u8], len: usize) -> &[u8] {
        assert!(self.areas.next < self.areas.count);
        let payload = self.areas.payload(self.areas.next);
        self.areas.next += 1;
        self.end = self.areas.start + self.areas.next * self.areas.stride;
        let frame = payload - head.len();
        self.memory[frame..payload].copy_from_slice(head);
        self.enqueue(frame, head.len() + len)
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
        let at = self.end + PREFIX_LEN;
        let end = (at + frame.len().max(FRAME_MIN)).next_multiple_of(LINE);
        if end > self.memory.len() {
            return Err(LinkFull);
        }
        self.end = end;
        self.memory[at..at + frame.len()].copy_from_slice(frame);
        Ok(self.enqueue(at, frame.len()))
    }

    fn enqueue(&mut self, at: usize, len: usize) -> &[u8] {
        let padded = len.max(FRAME_MIN);
        self.memory[at + len..at + padded].fill(0);
        let start = at - PREFIX_LEN;
        self.memory[start..at].copy_from_slice(&prefix(padded));
        self.waiting.push_back(Waiting { at: start, len: PREFIX_LEN + padded });
        self.bytes += PREFIX_LEN + padded;
        &self.memory[at..at + padded]
    }

    /// What a stream is to carry next: the rest of the oldest frame, then others, each with its prefix.
    pub fn stream(&self) -> ArrayVec<Gather<'_>, PIECES_MAX> {
        let mut skip = self.begun;
        let piece = |w: &Waiting| {
            let from = std::mem::take(&mut skip);
            Gather::new(&self.memory[w.at + from..w.at + w.len])
        };
        self.waiting.iter().take(PIECES_MAX).map(piece).collect()
    }

    /// The oldest frames, without prefixes.
    pub fn messages(&self) -> ArrayVec<Gather<'_>, PIECES_MAX> {
        let piece = |w: &Waiting| Gather::new(&self.memory[w.at + PREFIX_LEN..w.at + w.len]);
        self.waiting.iter().take(PIECES_MAX).map(piece).collect()
    }

    /// `n` bytes of [`Outbox::stream`] have left.
    pub fn bytes_left(&mut self, n: usize) {
        self.begun += n;
        self.bytes -= n;
        while let Some(first) = self.waiting.front().filter(|w| w.len <= self.begun) {
            self.begun -= first.len;
            self.waiting.pop_front();
        }
        self.begin_anew();
    }

    /// The `n` oldest frames have left.
    pub fn messages_left(&mut self, n: usize) {
        self.bytes -= self.waiting.drain(..n).map(|w| w.len).sum::<usize>();
        self.begin_anew();
    }

    /// All has left: the memory is free again, unless somebody still has areas of it.
    fn begin_anew(&mut self) {
        if self.waiting.is_empty() && self.areas.next == self.areas.count {
            self.end = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::framing;

    fn text(pieces: &[Gather<'_>]) -> Vec<u8> {
        let mut out = Vec::new();
        pieces.iter().for_each(|p| p.copy_to(&mut out));
        out
    }

    /// All frames of a stream.
    fn frames(mut stream: &[u8]) -> Vec<Vec<u8>> {
        let mut out = Vec::new();
        while let Some(len) = framing::front(stream).unwrap() {
            out.push(stream[PREFIX_LEN..PREFIX_LEN + len].to_vec());
            stream = &stream[PREFIX_LEN + len..];
        }
        assert!(stream.is_empty());
        out
    }

    #[test]
    fn areas_become_frames_behind_pushed_ones() {
        let mut out = Outbox::new();
        out.push(&[1; 60]).unwrap();
        assert_eq!(out.reserve(3, 100), 3);
        for area in out.areas() {
            assert_eq!(area.len(), 100);
        }
        assert_eq!(out.commit(&[2; 54], 0), [&[2; 54][..], &[0; 6]].concat());
        assert_eq!(out.areas().len(), 2);
        assert_eq!(out.payload(7).len(), 7);
        out.commit(&[3; 54], 100);
        out.cancel();
        out.push(&[4; 61]).unwrap();
        let lens: Vec<_> = frames(&text(&out.stream())).iter().map(|f| (f[0], f.len())).collect();
        assert_eq!(lens, [(1, 60), (2, 60), (3, 154), (4, 61)]);
        assert_eq!(out.messages().iter().map(Gather::len).collect::<Vec<_>>(), [60, 60, 154, 61]);
        out.messages_left(3);
        assert_eq!((out.messages().len(), out.bytes()), (1, 65));
    }

    #[test]
    fn memory_is_free_again_when_all_has_left() {
        let mut out = Outbox::new();
        let mut pushed = 0;
        while out.push(&[7; 1514]).is_ok() {
            pushed += 1;
        }
        assert!(pushed > 600 && out.reserve(1, 1460) == 0, "{pushed}");
        while !out.is_empty() {
            let n = out.messages().len();
            out.messages_left(n);
        }
        assert_eq!((out.bytes(), out.reserve(64, 1460)), (0, 64));
        out.commit(&[0; 54], 1460);
        let bytes = out.bytes();
        // Somebody still has areas.
        out.bytes_left(bytes);
        assert_eq!(out.areas().len(), 63);
        out.cancel();
        assert_eq!(out.end, 0);
    }

    proptest::proptest! {
        #[test]
        fn a_stream_taken_in_any_portions_is_whole(
            lens in proptest::collection::vec(14usize..3000, 1..50),
            portions in proptest::collection::vec(1usize..5000, 1..50),
        ) {
            let mut out = Outbox::new();
            let mut expected = Vec::new();
            for (n, len) in lens.iter().enumerate() {
                let frame = vec![n as u8; *len];
                expected.push(out.push(&frame).unwrap().to_vec());
            }
            let mut got = Vec::new();
            for n in portions.iter().cycle() {
                let next = text(&out.stream());
                let n = (*n).min(next.len());
                got.extend_from_slice(&next[..n]);
                out.bytes_left(n);
                if out.is_empty() {
                    break;
                }
            }
            proptest::prop_assert_eq!(frames(&got), expected);
            proptest::prop_assert_eq!((out.bytes(), out.begun, out.end), (0, 0, 0));
        }
    }
}
