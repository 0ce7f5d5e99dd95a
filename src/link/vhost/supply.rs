//! Buffers that the driver has given us to fill: taken from their ring ahead of need, used in order.
//!
//! A frame lies in one buffer, or, where that was agreed on, in as many as it takes (virtio 1.2 §5.1.6.4). Of a reservation
//! each area begins in a buffer of its own: there is room for the headers first, then for payload, which the kernel writes straight
//! to where the guest will find it.

use std::collections::VecDeque;
use std::ops::Range;

use arrayvec::ArrayVec;

use super::ring::{Broken, Chain, Ring};
use crate::guest::{Areas, PIECES_MAX, SLOTS_MAX};
use crate::sys::memory::{DirtyLog, GuestMemory, Piece};
use crate::wire::checksum::Sum;
use crate::wire::vnet::VNET_V1_LEN;

/// Taken from the ring and not used yet.
#[derive(Debug, Default)]
pub struct Supply {
    buffers: VecDeque<Buffer>,
    /// Of all buffers, in order.
    pieces: VecDeque<Piece>,
    /// What was reserved and not committed yet, by places in the two above.
    areas: ArrayVec<Area, SLOTS_MAX>,
    /// How many of `areas` are used, and how many pieces were taken away since places were written down.
    next: usize,
    gone: usize,
    head_len: usize,
    payload_len: usize,
    /// The last frame did not fill its area, so none of the others may be used.
    ended: bool,
    /// See [`Supply::fits`].
    fits: Option<usize>,
    scratch: Vec<Piece>,
}

#[derive(Clone, Copy, Debug)]
struct Buffer {
    id: u16,
    pieces: usize,
    room: usize,
    /// Of the ring's table.
    entries: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Place {
    buffer: usize,
    piece: usize,
}

#[derive(Clone, Debug)]
struct Area {
    buffers: Range<usize>,
    pieces: Range<usize>,
}

/// Why there are no buffers for a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Short {
    /// The driver has offered no more. It will.
    Empty,
    /// It never will be: the next buffer is too small and no frame may lie in several, or the ring is full of buffers and all
    /// of them are too small, or they are in too many pieces.
    TooSmall,
    /// Nothing in the ring can be relied on, or there is none.
    Broken,
}

impl From<Broken> for Short {
    fn from(_: Broken) -> Short {
        Short::Broken
    }
}

/// What buffers come from, and how they may be used.
#[derive(Debug)]
pub struct Source<'a> {
    pub ring: &'a mut Ring,
    pub memory: &'a GuestMemory,
    pub log: Option<&'a DirtyLog>,
    /// Several buffers make a frame.
    pub mergeable: bool,
}

impl Supply {
    /// Buffers taken and not used.
    pub fn len(&self) -> usize {
        self.buffers.len()
    }

    /// The longest frame that the driver's buffers hold, once it is known that there are longer ones.
    pub fn fits(&self) -> Option<usize> {
        self.fits
    }

    /// Nothing was taken, and nothing is known.
    pub fn clear(&mut self) {
        *self = Supply::default();
    }

    /// Reserves up to `areas` areas for `payload_len` bytes behind a header, the driver's and `head_len` bytes; returns how
    /// many.
    ///
    /// # Errors
    /// [`Short`]: there is none.
    pub fn reserve(
        &mut self,
        from: &mut Source<'_>,
        areas: usize,
        head_len: usize,
        payload_len: usize,
    ) -> Result<usize, Short> {
        self.cancel();
        (self.head_len, self.payload_len) = (head_len, payload_len);
        let len = VNET_V1_LEN + head_len + payload_len;
        let mut place = Place::default();
        while self.areas.len() < areas.min(SLOTS_MAX) {
            let found = self.find(from, place, len);
            match found {
                Ok(area) if area.pieces.end <= PIECES_MAX => {
                    place = Place { buffer: area.buffers.end, piece: area.pieces.end };
                    self.areas.push(area);
                }
                _ if !self.areas.is_empty() => break,
                Ok(area) => {
                    // It may not need all pieces of its last buffer.
                    let room = self.pieces.range(..PIECES_MAX).map(Piece::len).sum();
                    if room < len {
                        return Err(self.too_small(place, room));
                    }
                    self.areas.push(area);
                    break;
                }
                Err(short) => return Err(short),
            }
        }
        Ok(self.areas.len())
    }

    /// Learns what a buffer holds where a frame may not lie in several, before there is a frame for it.
    ///
    /// # Errors
    /// [`Short::Broken`], or there is none.
    pub fn measure(&mut self, from: &mut Source<'_>) -> Result<(), Short> {
        if !from.mergeable && self.fits.is_none() {
            if self.buffers.is_empty() {
                self.take(from)?;
            }
            self.note(self.buffers[0].room);
        }
        Ok(())
    }

    /// Buffers from `place` on for `len` bytes.
    fn find(&mut self, from: &mut Source<'_>, place: Place, len: usize) -> Result<Area, Short> {
        let (mut end, mut room) = (place, 0);
        let most = if from.mergeable { BUFFERS_MAX } else { 1 };
        while room < len {
            if end.buffer - place.buffer == most {
                return Err(self.too_small(place, room));
            }
            if end.buffer == self.buffers.len() {
                match self.take(from) {
                    Err(Short::Empty) if self.is_all(from.ring) => return Err(self.too_small(place, room)),
                    taken => taken?,
                }
            }
            let buffer = self.buffers[end.buffer];
            room += buffer.room;
            end = Place { buffer: end.buffer + 1, piece: end.piece + buffer.pieces };
        }
        Ok(Area { buffers: place.buffer..end.buffer, pieces: place.piece..end.piece })
    }

    /// True if the ring has no place for another buffer while we have these. A driver that never fills its ring is waited for.
    fn is_all(&self, ring: &Ring) -> bool {
        let entries = || self.buffers.iter().map(|buffer| buffer.entries);
        entries().min().is_some_and(|least| entries().sum::<usize>() + least > usize::from(ring.num()))
    }

    /// From `place` on no more than `room` bytes lie in one frame.
    fn too_small(&mut self, place: Place, room: usize) -> Short {
        // What lies behind others says nothing about the next frame.
        if place.buffer == 0 {
            self.note(room);
        }
        Short::TooSmall
    }

    fn note(&mut self, room: usize) {
        let fits = room.saturating_sub(VNET_V1_LEN);
        self.fits = Some(self.fits.map_or(fits, |before| before.min(fits)));
    }

    /// One more buffer from the ring.
    fn take(&mut self, from: &mut Source<'_>) -> Result<(), Short> {
        match from.ring.take(from.memory, &mut self.scratch)? {
            None => Err(Short::Empty),
            // It cannot be given back before those in front of it, and a frame over it could not be told from others.
            Some(Chain { len: 0, .. }) => Err(Short::Broken),
            Some(Chain { id, len, entries }) => {
                self.buffers.push_back(Buffer { id, pieces: self.scratch.len(), room: len, entries });
                self.pieces.extend(self.scratch.drain(..));
                Ok(())
            }
        }
    }

    /// Appends the payload of all areas left to `list`.
    pub fn areas<'a>(&self, memory: &'a GuestMemory, list: &mut Areas<'a>) {
        for i in self.next..self.areas.len() {
            for piece in self.payload(i, self.payload_len) {
                list.push(memory.scatter(piece));
            }
        }
    }

    /// The pieces of the first `len` bytes of the payload of area `i`.
    fn payload(&self, i: usize, len: usize) -> impl Iterator<Item = Piece> + '_ {
        let Range { start, end } = self.areas[i].pieces.clone();
        let pieces = self.pieces.range(start - self.gone..end - self.gone);
        part(pieces.copied(), VNET_V1_LEN + self.head_len, len)
    }

    /// Sum over the first `len` bytes of the next area.
    pub fn sum(&self, memory: &GuestMemory, len: usize) -> Sum {
        let mut copy = Vec::with_capacity(len);
        self.copy(memory, len, &mut copy);
        Sum::new().add(&copy)
    }

    /// Copies the first `len` bytes of the payload of the next area to `out`.
    pub fn copy(&self, memory: &GuestMemory, len: usize, out: &mut Vec<u8>) {
        self.payload(self.next, len).for_each(|piece| memory.gather(piece).copy_to(out));
    }

    /// Makes a frame of `head` and the first `len` bytes of the next area. False: it could not be.
    pub fn commit(&mut self, from: &mut Source<'_>, vnet: [u8; VNET_V1_LEN], head: &[u8], len: usize) -> bool {
        let Some(area) = self.areas.get(self.next).cloned() else { return false };
        if self.ended || head.len() != self.head_len || len > self.payload_len {
            return false;
        }
        self.next += 1;
        let used = self.fill(from, vnet, &[head], VNET_V1_LEN + head.len() + len);
        self.ended = used < area.buffers.len();
        true
    }

    /// Gives the areas back that were not committed.
    pub fn cancel(&mut self) {
        self.areas.clear();
        (self.next, self.gone, self.ended) = (0, 0, false);
    }

    /// Makes a frame of a copy of `frame`.
    ///
    /// # Errors
    /// [`Short`]: it was not.
    pub fn send(&mut self, from: &mut Source<'_>, vnet: [u8; VNET_V1_LEN], frame: &[u8]) -> Result<(), Short> {
        let len = VNET_V1_LEN + frame.len();
        self.find(from, Place::default(), len)?;
        self.fill(from, vnet, &[frame], len);
        Ok(())
    }

    /// Writes the driver's header and `parts` to the first buffers, which get `len` bytes altogether, and gives those back that
    /// have any. Returns how many.
    fn fill(&mut self, from: &mut Source<'_>, mut vnet: [u8; VNET_V1_LEN], parts: &[&[u8]], len: usize) -> usize {
        let (mut used, mut pieces, mut left) = (0, 0, len);
        while left > 0 {
            left -= left.min(self.buffers[used].room);
            pieces += self.buffers[used].pieces;
            used += 1;
        }
        vnet[VNET_V1_LEN - 2..].copy_from_slice(&(used as u16).to_le_bytes());
        let mut at = 0;
        for bytes in std::iter::once(&vnet[..]).chain(parts.iter().copied()) {
            let mut done = 0;
            for piece in part(self.pieces.range(..pieces).copied(), at, bytes.len()) {
                from.memory.copy_to(piece, &bytes[done..]);
                done += piece.len();
            }
            at += bytes.len();
        }
        if let Some(log) = from.log {
            for piece in part(self.pieces.range(..pieces).copied(), 0, len) {
                log.mark(from.memory.address(piece), piece.len());
            }
        }
        let mut left = len;
        for buffer in self.buffers.drain(..used) {
            let here = left.min(buffer.room);
            from.ring.done(buffer.id, here as u32, from.log);
            left -= here;
        }
        self.pieces.drain(..pieces);
        self.gone += pieces;
        used
    }
}

/// The `len` bytes from byte `at` on of what lies in `pieces`.
pub fn part(pieces: impl Iterator<Item = Piece>, mut at: usize, mut len: usize) -> impl Iterator<Item = Piece> {
    pieces.filter_map(move |piece| {
        let part = piece.skip(at).first(len);
        at = at.saturating_sub(piece.len());
        len -= part.len();
        (!part.is_empty()).then_some(part)
    })
}

/// Buffers of one frame: what 64 KiB take of the smallest that drivers give.
const BUFFERS_MAX: usize = 1024;
