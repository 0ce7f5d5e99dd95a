//! One pair of queues and its queue of the tap: a thread that carries frames both ways.
//!
//! Each pass takes a number of frames either way; when there are none it says to both that it waits, looks once more, and
//! sleeps. While all buffers for frames from the guest are with the program, the tap is not read.

use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use spelt::wire::vnet::VNET_V1_LEN;

use super::Stop;
use super::checks::Agreed;
use super::memory::{ENTRIES, Memory};
use super::ring::Ring;
use super::to_guest::{self, ToGuest};

pub struct Pair {
    memory: Arc<Memory>,
    tap: File,
    /// Where frames to the guest go: the same queue of the tap, or another one.
    out: File,
    to_guest: ToGuest,
    from_guest: Ring,
    /// Entries whose buffers are ours. The last one that came back goes first: the cache knows it.
    free: Vec<u16>,
    count: Count,
}

#[derive(Default)]
pub struct Count {
    frames_out: u64,
    bytes_out: u64,
    reads: u64,
    kicks_out: u64,
    /// How often the program had all buffers.
    waits: u64,
    wakeups: u64,
    back: to_guest::Count,
}

impl Pair {
    pub fn new(memory: &Arc<Memory>, nth: usize, agreed: Agreed, join: bool, (tap, out): (File, File)) -> Result<Pair> {
        let ring = |index| Ring::new(memory, index, agreed.event_index());
        Ok(Pair {
            memory: Arc::clone(memory),
            tap,
            out,
            to_guest: ToGuest::new(memory, ring(2 * nth)?, agreed, join),
            from_guest: ring(2 * nth + 1)?,
            free: (0..ENTRIES).collect(),
            count: Count::default(),
        })
    }

    pub fn rings(&self) -> [&Ring; 2] {
        [&self.to_guest.ring, &self.from_guest]
    }

    /// Carries frames until told to stop. Returns what was counted.
    pub fn carry(mut self, stop: &Stop) -> Result<Count> {
        self.to_guest.ring.kick()?;
        while !stop.is_told() {
            let (out, back) = (self.send()?, self.to_guest.deliver(&self.out)?);
            if !out && !back {
                self.wait(stop)?;
            }
        }
        self.count.kicks_out = self.from_guest.kicks;
        self.count.back = self.to_guest.count();
        Ok(self.count)
    }

    fn wait(&mut self, stop: &Stop) -> Result<()> {
        // Of a full ring a good part has to come back before it is worth it to go on.
        let full = self.free.is_empty();
        if self.to_guest.ring.listen(1) || full && self.from_guest.listen(ENTRIES / 4) {
            self.rings().into_iter().for_each(Ring::ignore);
            return Ok(());
        }
        self.count.waits += u64::from(full);
        let tap = if full { PollFlags::empty() } else { PollFlags::POLLIN };
        let mut polled = [
            PollFd::new(self.tap.as_fd(), tap),
            PollFd::new(self.to_guest.ring.told(), PollFlags::POLLIN),
            PollFd::new(self.from_guest.told(), PollFlags::POLLIN),
            PollFd::new(stop.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut polled, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        self.count.wakeups += 1;
        let [tap, back, out, _] = polled.map(|one| one.revents().unwrap_or(PollFlags::empty()));
        ensure!(!tap.contains(PollFlags::POLLERR), "the tap is gone");
        for (ring, told) in [(&self.to_guest.ring, back), (&self.from_guest, out)] {
            if !told.is_empty() {
                ring.call.read().or_else(|error| if error == Errno::EAGAIN { Ok(0) } else { Err(error) })?;
            }
            ring.ignore();
        }
        Ok(())
    }

    /// Frames of the guest, as many as one pass takes. Returns whether there may be more.
    fn send(&mut self) -> Result<bool> {
        while let Some((id, _)) = self.from_guest.take()? {
            self.free.push(id);
        }
        let mut quiet = 0;
        for _ in 0..PASS {
            let Some(id) = self.free.last().copied() else {
                self.from_guest.kick()?;
                return Ok(false);
            };
            self.count.reads += 1;
            let place = self.from_guest.place;
            let len = match self.memory.read_from(&self.tap, place.buffer(id), place.room) {
                Ok(len) => len,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.from_guest.kick()?;
                    return Ok(false);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error).context("cannot read the tap"),
            };
            self.free.pop();
            self.from_guest.offer(id, len, false);
            self.count.frames_out += 1;
            self.count.bytes_out += len.saturating_sub(VNET_V1_LEN) as u64;
            quiet += len;
            if quiet >= QUIET_BYTES {
                self.from_guest.kick()?;
                quiet = 0;
            }
        }
        self.from_guest.kick()?;
        Ok(true)
    }
}

impl Count {
    pub fn add(&mut self, other: &Count) {
        self.frames_out += other.frames_out;
        self.bytes_out += other.bytes_out;
        self.reads += other.reads;
        self.kicks_out += other.kicks_out;
        self.waits += other.waits;
        self.wakeups += other.wakeups;
        self.back.add(&other.back);
    }

    pub fn json(&self) -> String {
        let Count { frames_out, bytes_out, reads, kicks_out, waits, wakeups, back } = self;
        let out = format!(
            r#"{{"frames":{frames_out},"bytes":{bytes_out},"reads":{reads},"kicks":{kicks_out},"waits":{waits}}}"#
        );
        format!(r#""to_program":{out},"from_program":{},"wakeups":{wakeups}"#, back.json())
    }
}

/// Frames either way before the other way has its turn.
pub const PASS: usize = 64;
/// Bytes that may be offered before the program is told: it may be asleep, and there is another processor.
const QUIET_BYTES: usize = 64 << 10;
