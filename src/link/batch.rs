//! Frames of one pass over a link's input.

use std::ops::Range;
use std::sync::Arc;

use arrayvec::ArrayVec;

use crate::guest::Frame;
use crate::sys::memory::{GuestMemory, Lent, Piece};
use crate::wire::vnet::VNET_LEN;
use crate::wire::{FRAME_MAX, Offload};

/// Frames of one pass at most: as many of the usual 1500 bytes as one read of a stream brings.
pub const FRAMES: usize = 192;

/// A pass ends once it has this many bytes: enough to be worth one `sendmsg`, little enough to be still in the
/// second-level cache when it is sent. Without the limit the translator took a quarter more processor time per byte.
const PASS_BYTES: usize = 256 << 10;

/// Room for one frame and its offload header, in whole cache lines.
const ROOM: usize = (VNET_LEN + FRAME_MAX).next_multiple_of(LINE);
/// Frames start on cache lines.
const LINE: usize = 64;
/// Rooms there are while the batch is empty: what one `recvmmsg` may fill.
pub const ROOMS: usize = 16;

/// Private memory for a pass of frames, one behind the other. Pages that no frame has touched cost nothing; the default has
/// no memory at all.
#[derive(Default)]
pub struct Batch {
    memory: Vec<u8>,
    frames: ArrayVec<Received, FRAMES>,
    bytes: usize,
    /// Where the room for the next frame starts.
    next: usize,
    /// Of a stream: what came and is not a frame yet. It outlives [`Batch::clear`].
    stream: Range<usize>,
    /// Payload that was left in the guest's memory.
    lent: Lent,
}

#[derive(Clone, Copy)]
struct Received {
    at: usize,
    len: usize,
    offload: Offload,
    /// Of `lent`: what follows elsewhere.
    rest: (usize, usize),
}

impl Batch {
    pub fn new() -> Batch {
        Batch { memory: vec![0; ROOMS * ROOM], ..Batch::default() }
    }

    pub fn clear(&mut self) {
        self.frames.clear();
        self.bytes = 0;
        self.next = 0;
        self.lent.clear();
    }

    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// Of all frames.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    pub fn is_full(&self) -> bool {
        self.frames.is_full() || self.bytes >= PASS_BYTES
    }

    /// Room for the next frame.
    ///
    /// # Panics
    /// If the batch is full.
    pub fn room(&mut self) -> &mut [u8] {
        &mut self.memory[self.next..self.next + ROOM]
    }

    /// Rooms for the next frames, in order, as many as there are.
    pub fn rooms(&mut self) -> impl Iterator<Item = &mut [u8]> {
        let most = self.frames.remaining_capacity();
        self.memory[self.next..].chunks_exact_mut(ROOM).take(most)
    }

    /// The first room not yet used holds a frame of `len` bytes now, `start` bytes into it; the next one begins behind it.
    pub fn push(&mut self, start: usize, len: usize, offload: Offload) {
        debug_assert!(start + len <= ROOM);
        self.keep(self.next + start, len, offload);
        self.next += (start + len).next_multiple_of(LINE);
    }

    /// As [`Batch::push`], for a frame of which only the first `len` bytes were copied; the others are in `rest`.
    pub fn push_lent(
        &mut self,
        len: usize,
        offload: Offload,
        memory: &Arc<GuestMemory>,
        rest: impl Iterator<Item = Piece>,
    ) {
        let from = self.lent.len();
        for piece in rest {
            self.bytes += piece.len();
            self.lent.push(memory, piece);
        }
        self.push(0, len, offload);
        if let Some(frame) = self.frames.last_mut() {
            frame.rest = (from, self.lent.len());
        }
    }

    /// The same for one of [`Batch::rooms`], after which the others keep their places.
    pub fn push_room(&mut self, len: usize, offload: Offload) {
        self.keep(self.next, len, offload);
        self.next += ROOM;
    }

    /// Room for more of a stream, behind what is left of it. There must be no frames.
    pub fn stream_room(&mut self) -> &mut [u8] {
        debug_assert!(self.is_empty());
        self.memory.copy_within(self.stream.clone(), 0);
        self.stream = 0..self.stream.len();
        &mut self.memory[self.stream.end..][..PASS_BYTES]
    }

    /// `n` bytes have come into [`Batch::stream_room`].
    pub fn stream_came(&mut self, n: usize) {
        self.stream.end += n;
    }

    /// What came of the stream and is not taken yet.
    pub fn stream(&self) -> &[u8] {
        &self.memory[self.stream.clone()]
    }

    /// Takes `skip` bytes and then a frame of `len` off the front of the stream.
    ///
    /// # Panics
    /// If the batch is full.
    pub fn take_from_stream(&mut self, skip: usize, len: usize, offload: Offload) {
        debug_assert!(skip + len <= self.stream.len());
        self.keep(self.stream.start + skip, len, offload);
        self.stream.start += skip + len;
    }

    /// Another stream begins: nothing of the last one may be taken for the beginning of this.
    pub fn forget_stream(&mut self) {
        self.stream = 0..0;
    }

    fn keep(&mut self, at: usize, len: usize, offload: Offload) {
        self.bytes += len;
        self.frames.push(Received { at, len, offload, rest: (0, 0) });
    }

    pub fn frames(&self) -> impl DoubleEndedIterator<Item = Frame<'_>> + '_ {
        let frame = |r: &Received| Frame {
            head: &self.memory[r.at..r.at + r.len],
            rest: self.lent.get(r.rest.0, r.rest.1),
            offload: r.offload,
        };
        self.frames.iter().map(frame)
    }
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Batch({} frames)", self.frames.len())
    }
}

// What ends a pass leaves room for the frame that follows, and a stream's rest is never more than one frame.
const _: () = assert!(PASS_BYTES + FRAMES * LINE + 2 * ROOM <= ROOMS * ROOM);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_lie_behind_each_other() {
        let mut batch = Batch::new();
        for n in 0..3u8 {
            batch.room()[..100].fill(n);
            batch.push(10, 90, Offload::NONE);
        }
        assert!(batch.frames().zip(0u8..).all(|(f, n)| f.head == [n; 90]));
        assert_eq!(batch.next, 3 * 128);
        batch.clear();
        assert!(batch.is_empty());
    }

    #[test]
    fn full_passes_stay_within_the_memory() {
        let mut batch = Batch::new();
        while !batch.is_full() {
            let n = batch.room().len();
            batch.push(n - FRAME_MAX, FRAME_MAX, Offload::NONE);
        }
        batch.clear();
        while !batch.is_full() {
            batch.room();
            batch.push(0, 65, Offload::NONE);
        }
        assert_eq!(batch.len(), FRAMES);
        batch.clear();
        assert_eq!(batch.rooms().count(), ROOMS);
    }

    #[test]
    fn a_streams_rest_goes_to_the_front() {
        let mut batch = Batch::new();
        batch.stream_room()[..10].copy_from_slice(b"xxfirst-ab");
        batch.stream_came(10);
        batch.take_from_stream(2, 6, Offload::NONE);
        assert_eq!(batch.frames().next().unwrap().head, b"first-");
        batch.clear();
        assert_eq!(batch.stream(), b"ab");
        batch.stream_room()[..1].copy_from_slice(b"c");
        batch.stream_came(1);
        assert_eq!(batch.stream(), b"abc");
        batch.forget_stream();
        assert!(batch.stream().is_empty());
    }
}
