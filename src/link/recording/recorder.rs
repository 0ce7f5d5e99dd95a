//! A worker's part in a capture: frames of this turn.

use std::sync::Arc;

use super::queue::Record;
use super::{Recording, wall_clock};
use crate::base::DropReason;
use crate::sys::iov::Gather;
use crate::wire::pcapng::Direction;
use crate::wire::{self, Parsed};

/// So much of a turn is handed in before its end: what stays in the second-level cache.
const STAGE_BYTES: usize = 256 << 10;
/// While a frame of the guest is dealt with nothing is handed in: more frames than these are lost.
pub const STAGE_BYTES_MAX: usize = 2 << 20;

#[derive(Debug)]
pub struct Recorder {
    recording: Arc<Recording>,
    /// A [`Record`] and a frame, one behind the other.
    staged: Vec<u8>,
    lost: u64,
    /// Where the record of the frame is that is being dealt with.
    open: Option<usize>,
    unwanted: bool,
}

impl Recorder {
    pub fn new(recording: Arc<Recording>) -> Recorder {
        Recorder { recording, staged: Vec::new(), lost: 0, open: None, unwanted: false }
    }

    pub fn id(&self) -> u64 {
        self.recording.id
    }

    /// A frame of the guest, in parts, about to be dealt with.
    pub fn from_guest(&mut self, head: &[u8], rest: &[Gather<'_>], parsed: &Result<Parsed, DropReason>) {
        if self.recording.pick.takes(parsed, head) {
            self.open = self.stage(Direction::Outbound, head, rest);
        }
    }

    /// What became of the last one. `Some`: it was dropped.
    pub fn dealt_with(&mut self, reason: Option<DropReason>) {
        if let Some(at) = self.open.take() {
            Record::set_reason(&mut self.staged, at, reason);
        }
    }

    /// A frame that the link took; `head` has at least all of its headers.
    pub fn to_guest(&mut self, head: &[u8], payload: &[u8]) {
        let pick = &self.recording.pick;
        if pick.is_everything() || pick.takes(&wire::parse(head, head.len() + payload.len()), head) {
            self.stage(Direction::Inbound, head, &[Gather::new(payload)]);
        }
    }

    /// Hands in what there is, up to the frame that is being dealt with. False: nobody wants it.
    pub fn flush(&mut self) -> bool {
        let ready = self.open.unwrap_or(self.staged.len());
        if self.lost > 0 || ready > 0 {
            self.unwanted |= !self.recording.put(&self.staged[..ready], std::mem::take(&mut self.lost));
            self.staged.drain(..ready);
            self.open = self.open.map(|_| 0);
        } else {
            // One whose filter nothing fits must not stay for ever.
            self.unwanted |= self.recording.is_stopped();
        }
        !self.unwanted
    }

    /// Where its record is, if there was room.
    fn stage(&mut self, direction: Direction, head: &[u8], rest: &[Gather<'_>]) -> Option<usize> {
        if self.open.is_none() && self.staged.len() >= STAGE_BYTES {
            self.flush();
        }
        if self.unwanted {
            return None;
        }
        if self.staged.len() >= STAGE_BYTES_MAX {
            self.lost += 1;
            return None;
        }
        let len = head.len() + rest.iter().map(Gather::len).sum::<usize>();
        let mut left = self.recording.snaplen.map_or(len, |most| len.min(most as usize));
        let time = wall_clock().as_nanos() as u64;
        let record = Record { time, len: len as u32, kept: left as u32, lost: 0, direction, reason: None };
        let at = self.staged.len();
        self.staged.extend(record.to_bytes());
        for piece in std::iter::once(Gather::new(head)).chain(rest.iter().copied()) {
            let part = piece.first(left);
            part.copy_to(&mut self.staged);
            left -= part.len();
        }
        Some(at)
    }
}
