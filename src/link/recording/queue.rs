//! A capture, as its workers and its writer share it: frames that wait, how many there were, how far it has come.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::eventfd::EventFd;

use super::{Pick, wall_clock, writer};
use crate::base::DropReason;
use crate::wire::pcapng::Direction;

/// In the queue, at most.
pub const QUEUE_BYTES: usize = 4 << 20;

#[derive(Debug)]
pub struct Recording {
    pub id: u64,
    pub pick: Pick,
    /// Bytes of a frame that are kept.
    pub snaplen: Option<u32>,
    /// Since the epoch.
    pub began: Duration,
    queue: Mutex<Queue>,
    over: Condvar,
    bell: Arc<EventFd>,
}

#[derive(Debug)]
struct Queue {
    /// A [`Record`] and a frame, one behind the other.
    bytes: Vec<u8>,
    /// Frames that found no room since the last one that did.
    lost: u64,
    counts: Counts,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Open,
    /// Nothing is to come any more, but what is queued is to be written.
    Stopping,
    Over,
}

/// Frames that fit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub frames: u64,
    /// Of those frames, whether they are kept or not.
    pub bytes: u64,
    /// Frames that could not be recorded; they are not among the others.
    pub lost: u64,
}

impl Counts {
    #[must_use]
    pub fn with(&self, other: &Counts) -> Counts {
        Counts { frames: self.frames + other.frames, bytes: self.bytes + other.bytes, lost: self.lost + other.lost }
    }
}

impl Recording {
    pub fn new(id: u64, pick: Pick, snaplen: Option<u32>, bell: Arc<EventFd>) -> Recording {
        let queue = Queue { bytes: Vec::new(), lost: 0, counts: Counts::default(), state: State::Open };
        let (queue, over) = (Mutex::new(queue), Condvar::new());
        Recording { id, pick, snaplen, began: wall_clock(), queue, over, bell }
    }

    /// Queues frames, each behind its `Record`, and counts those that find no room, beside `lost` others. False: no more are
    /// wanted.
    pub fn put(&self, mut frames: &[u8], lost: u64) -> bool {
        let mut queue = self.queue();
        if queue.state != State::Open {
            return false;
        }
        let was_empty = queue.bytes.is_empty();
        while let Some((record, frame, rest)) = Record::split(frames) {
            queue.add(record, frame);
            frames = rest;
        }
        queue.lost += lost;
        queue.counts.lost += lost;
        if was_empty && !queue.bytes.is_empty() {
            ring(&self.bell);
        }
        true
    }

    /// Exchanges what is queued with `empty`.
    pub fn take(&self, empty: &mut Vec<u8>) -> State {
        let mut queue = self.queue();
        std::mem::swap(&mut queue.bytes, empty);
        queue.state
    }

    pub fn counts(&self) -> Counts {
        self.queue().counts
    }

    /// Nothing more is to come.
    pub fn stop(&self) {
        let mut queue = self.queue();
        if queue.state == State::Open {
            queue.state = State::Stopping;
            ring(&self.bell);
        }
    }

    /// Its output is closed.
    pub fn end(&self) {
        let mut queue = self.queue();
        (queue.state, queue.bytes) = (State::Over, Vec::new());
        self.over.notify_all();
    }

    /// Nothing more is to come, or has been asked for.
    pub fn is_stopped(&self) -> bool {
        self.queue().state != State::Open
    }

    pub fn is_over(&self) -> bool {
        self.queue().state == State::Over
    }

    /// Waits for the end of one that was stopped. False: its file keeps the writer waiting.
    pub fn wait(&self) -> bool {
        let patience = writer::PATIENCE * 2;
        let waited = self.over.wait_timeout_while(self.queue(), patience, |queue| queue.state != State::Over);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn add(&mut self, mut record: Record, frame: &[u8]) {
        if self.bytes.len() + Record::LEN + frame.len() > QUEUE_BYTES {
            self.lost += 1;
            self.counts.lost += 1;
            return;
        }
        self.counts.frames += 1;
        self.counts.bytes += u64::from(record.len);
        record.lost = std::mem::take(&mut self.lost);
        self.bytes.extend(record.to_bytes());
        self.bytes.extend_from_slice(frame);
    }
}

/// An edge for each: the count need not be read at once, and is full after 2^64.
pub fn ring(bell: &EventFd) {
    let _ = bell.write(1);
}

/// What stands before a frame in memory of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Nanoseconds since the epoch.
    pub time: u64,
    /// The whole frame's.
    pub len: u32,
    /// Bytes that follow.
    pub kept: u32,
    pub lost: u64,
    pub direction: Direction,
    pub reason: Option<DropReason>,
}

impl Record {
    pub const LEN: usize = 26;
    /// Where [`Record::reason`] is.
    const REASON_AT: usize = 25;
    const FORWARDED: u8 = u8::MAX;

    pub fn to_bytes(self) -> [u8; Record::LEN] {
        let mut b = [0; Record::LEN];
        b[..8].copy_from_slice(&self.time.to_le_bytes());
        b[8..12].copy_from_slice(&self.len.to_le_bytes());
        b[12..16].copy_from_slice(&self.kept.to_le_bytes());
        b[16..24].copy_from_slice(&self.lost.to_le_bytes());
        b[24] = self.direction as u8;
        b[Record::REASON_AT] = Record::code(self.reason);
        b
    }

    /// The first record, its frame, and what follows. `None`: there is none.
    pub fn split(bytes: &[u8]) -> Option<(Record, &[u8], &[u8])> {
        let (b, rest) = bytes.split_first_chunk::<{ Record::LEN }>()?;
        let word = |at: usize| u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
        let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        let record = Record {
            time: long(0),
            len: word(8),
            kept: word(12),
            lost: long(16),
            direction: if b[24] == Direction::Inbound as u8 { Direction::Inbound } else { Direction::Outbound },
            reason: DropReason::ALL.get(usize::from(b[Record::REASON_AT])).copied(),
        };
        let (frame, rest) = rest.split_at_checked(record.kept as usize)?;
        Some((record, frame, rest))
    }

    /// Changes the reason of the record that starts there.
    pub fn set_reason(bytes: &mut [u8], at: usize, reason: Option<DropReason>) {
        bytes[at + Record::REASON_AT] = Record::code(reason);
    }

    fn code(reason: Option<DropReason>) -> u8 {
        reason.map_or(Record::FORWARDED, |reason| reason as u8)
    }
}

const _: () = assert!(DropReason::ALL.len() < Record::FORWARDED as usize);
