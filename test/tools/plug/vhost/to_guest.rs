//! The ring to the guest: frames that have come go to the tap, and their buffers back to the program.

use std::fs::File;
use std::ops::Range;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use spelt::wire::vnet::VNET_V1_LEN;
use virtio_bindings::virtio_net as net;

use super::checks::{self, Agreed};
use super::memory::{ENTRIES, Memory};
use super::pair::PASS;
use super::ring::Ring;
use crate::plug::join::{Output, Segment, Written};

pub struct ToGuest {
    memory: Arc<Memory>,
    pub ring: Ring,
    agreed: Agreed,
    /// Consecutive segments become one frame.
    join: bool,
    /// Of this pass: frames, their buffers (entries, and bytes in each), and copies of what may be joined.
    frames: Vec<Frame>,
    buffers: Vec<(u16, usize)>,
    room: Vec<u8>,
    /// Entries whose buffers are ours.
    spent: Vec<u16>,
    count: Count,
}

struct Frame {
    buffers: Range<usize>,
    copy: Option<Range<usize>>,
}

#[derive(Default)]
pub struct Count {
    frames: u64,
    bytes: u64,
    buffers: u64,
    kicks: u64,
    written: Written,
}

impl ToGuest {
    pub fn new(memory: &Arc<Memory>, mut ring: Ring, agreed: Agreed, join: bool) -> ToGuest {
        for id in 0..ENTRIES {
            ring.offer(id, ring.place.room, true);
        }
        ToGuest {
            memory: Arc::clone(memory),
            ring,
            agreed,
            join,
            frames: Vec::new(),
            buffers: Vec::new(),
            room: Vec::new(),
            spent: Vec::new(),
            count: Count::default(),
        }
    }

    /// Frames for the guest, as many as one pass takes. Returns whether there may be more.
    pub fn deliver(&mut self, tap: &File) -> Result<bool> {
        self.frames.clear();
        self.buffers.clear();
        self.room.clear();
        let mut more = true;
        while more && self.frames.len() < PASS {
            more = self.take_frame()?;
        }
        let mut output = Output::new(tap, VNET_V1_LEN, &mut self.count.written);
        for frame in &self.frames {
            let segment = frame.copy.clone().and_then(|copy| Segment::of(&self.room[copy]));
            if let Some(segment) = segment {
                output.join(segment);
            } else {
                let place = self.ring.place;
                let buffers = self.buffers[frame.buffers.clone()].iter();
                output.other(|tap| self.memory.write_to(tap, buffers.map(|(id, len)| (place.buffer(*id), *len))));
            }
        }
        output.finish();
        self.count.frames += self.frames.len() as u64;
        self.count.buffers += self.buffers.len() as u64;
        self.spent.extend(self.buffers.iter().map(|(id, _)| *id));
        self.refill()?;
        Ok(more)
    }

    /// As Linux does: when half of them are gone.
    fn refill(&mut self) -> Result<()> {
        if self.spent.len() < usize::from(ENTRIES / 2) {
            return Ok(());
        }
        for id in self.spent.drain(..) {
            self.ring.offer(id, self.ring.place.room, true);
        }
        self.ring.kick()
    }

    /// Takes the buffers of the next frame. Returns whether there is one.
    fn take_frame(&mut self) -> Result<bool> {
        let Some(first) = self.ring.take()? else { return Ok(false) };
        let room = self.ring.place.room;
        let at = self.ring.place.buffer(first.0);
        let start = self.buffers.len();
        ensure!((VNET_V1_LEN + 1..=room).contains(&first.1), "{} bytes in the first buffer of a frame", first.1);
        self.buffers.push(first);
        let mut header = [0; VNET_V1_LEN];
        self.memory.read(at, &mut header);
        checks::check(&header, &self.agreed)?;
        let count = usize::from(u16::from_le_bytes([header[10], header[11]]));
        for nth in 1..count {
            let next = self.ring.take()?.with_context(|| format!("of {count} buffers {nth} have come"))?;
            ensure!((1..=room).contains(&next.1), "{} bytes in a further buffer of a frame", next.1);
            self.buffers.push(next);
        }
        let bytes: usize = self.buffers[start..].iter().map(|(_, len)| len).sum();
        self.count.bytes += (bytes - VNET_V1_LEN) as u64;
        let frame = Frame { buffers: start..self.buffers.len(), copy: self.copy(at, first.1, &header) };
        self.frames.push(frame);
        if u32::from(header[0]) & net::VIRTIO_NET_HDR_F_DATA_VALID != 0 {
            checks::vouch(&self.memory, at, first.1, &mut header);
        }
        Ok(true)
    }

    /// A copy of a frame that may be joined with others: its checksum need not be verified, and it is not large already.
    fn copy(&mut self, at: usize, len: usize, header: &[u8; VNET_V1_LEN]) -> Option<Range<usize>> {
        let is_valid =
            u32::from(header[0]) & (net::VIRTIO_NET_HDR_F_DATA_VALID | net::VIRTIO_NET_HDR_F_NEEDS_CSUM) != 0;
        let is_small = u32::from(header[1]) == net::VIRTIO_NET_HDR_GSO_NONE && header[10..] == 1u16.to_le_bytes();
        if !self.join || !is_valid || !is_small {
            return None;
        }
        let start = self.room.len();
        self.room.resize(start + len - VNET_V1_LEN, 0);
        self.memory.read(at + VNET_V1_LEN, &mut self.room[start..]);
        Some(start..self.room.len())
    }

    /// What was counted.
    pub fn count(self) -> Count {
        Count { kicks: self.ring.kicks, ..self.count }
    }
}

impl Count {
    pub fn add(&mut self, other: &Count) {
        self.frames += other.frames;
        self.bytes += other.bytes;
        self.buffers += other.buffers;
        self.kicks += other.kicks;
        self.written.writes += other.written.writes;
        self.written.refused += other.written.refused;
    }

    pub fn json(&self) -> String {
        let (Count { frames, bytes, buffers, kicks, .. }, Written { writes, refused }) = (self, &self.written);
        let of_tap = format!(r#""writes":{writes},"refused":{refused}"#);
        format!(r#"{{"frames":{frames},"bytes":{bytes},"buffers":{buffers},"kicks":{kicks},{of_tap}}}"#)
    }
}
