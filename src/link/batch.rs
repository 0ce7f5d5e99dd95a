//! Frames of one pass over a link's input.

use arrayvec::ArrayVec;

use crate::guest::Frame;
use crate::wire::vnet::VNET_LEN;
use crate::wire::{FRAME_MAX, Offload};

/// Frames of one pass at most.
pub const FRAMES: usize = 32;

/// A pass ends once it has this many bytes: enough to be worth one `sendmsg`, little enough to be still in the
/// second-level cache when it is sent. Without the limit the translator took a quarter more processor time per byte.
const PASS_BYTES: usize = 256 << 10;

/// Room for one frame and its offload header, in whole cache lines.
const STRIDE: usize = (VNET_LEN + FRAME_MAX).next_multiple_of(64);

/// Private memory for a pass of frames. Pages that no frame has touched cost nothing; the default has no memory at all.
#[derive(Default)]
pub struct Batch {
    memory: Vec<u8>,
    frames: ArrayVec<Received, FRAMES>,
    bytes: usize,
}

#[derive(Clone, Copy)]
struct Received {
    /// Where the frame proper starts in its room, and its length.
    start: usize,
    len: usize,
    offload: Offload,
}

impl Batch {
    pub fn new() -> Batch {
        Batch { memory: vec![0; FRAMES * STRIDE], frames: ArrayVec::new(), bytes: 0 }
    }

    pub fn clear(&mut self) {
        self.frames.clear();
        self.bytes = 0;
    }

    pub fn len(&self) -> usize {
        self.frames.len()
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
        let at = self.frames.len() * STRIDE;
        &mut self.memory[at..at + STRIDE]
    }

    /// The room handed out last now holds a frame of `len` bytes, `start` bytes into it.
    pub fn push(&mut self, start: usize, len: usize, offload: Offload) {
        debug_assert!(start + len <= STRIDE);
        self.bytes += len;
        self.frames.push(Received { start, len, offload });
    }

    pub fn frames(&self) -> impl Iterator<Item = Frame<'_>> + '_ {
        self.frames.iter().enumerate().map(|(i, r)| {
            let at = i * STRIDE + r.start;
            Frame { head: &self.memory[at..at + r.len], rest: &[], offload: r.offload }
        })
    }
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Batch({} frames)", self.frames.len())
    }
}
