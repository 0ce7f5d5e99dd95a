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
use virtio_bindings::virtio_net as net;

use super::Stop;
use super::checks::{self, Agreed};
use super::memory::{ENTRIES, Memory};
use super::ring::Ring;

pub struct Pair {
    memory: Arc<Memory>,
    agreed: Agreed,
    tap: File,
    to_guest: Ring,
    from_guest: Ring,
    /// Entries whose buffers are ours. The last one that came back goes first: the cache knows it.
    free: Vec<u16>,
    /// Of the frame at hand: entries, and bytes in each.
    buffers: Vec<(u16, usize)>,
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
    frames_in: u64,
    bytes_in: u64,
    buffers: u64,
    kicks_in: u64,
    /// Frames the tap did not take: its interface is down.
    refused: u64,
    wakeups: u64,
}

impl Pair {
    pub fn new(memory: &Arc<Memory>, nth: usize, agreed: Agreed, tap: File) -> Result<Pair> {
        let ring = |index| Ring::new(memory, index, agreed.event_index());
        let mut to_guest = ring(2 * nth)?;
        for id in 0..ENTRIES {
            to_guest.offer(id, to_guest.place.room, true);
        }
        Ok(Pair {
            memory: Arc::clone(memory),
            agreed,
            tap,
            to_guest,
            from_guest: ring(2 * nth + 1)?,
            free: (0..ENTRIES).collect(),
            buffers: Vec::new(),
            count: Count::default(),
        })
    }

    pub fn rings(&self) -> [&Ring; 2] {
        [&self.to_guest, &self.from_guest]
    }

    /// Carries frames until told to stop. Returns what was counted.
    pub fn carry(mut self, stop: &Stop) -> Result<Count> {
        self.to_guest.kick()?;
        while !stop.is_told() {
            let (out, back) = (self.send()?, self.deliver()?);
            if !out && !back {
                self.wait(stop)?;
            }
        }
        (self.count.kicks_out, self.count.kicks_in) = (self.from_guest.kicks, self.to_guest.kicks);
        Ok(self.count)
    }

    fn wait(&mut self, stop: &Stop) -> Result<()> {
        // Of a full ring a good part has to come back before it is worth it to go on.
        let full = self.free.is_empty();
        if self.to_guest.listen(1) || full && self.from_guest.listen(ENTRIES / 4) {
            self.rings().into_iter().for_each(Ring::ignore);
            return Ok(());
        }
        self.count.waits += u64::from(full);
        let tap = if full { PollFlags::empty() } else { PollFlags::POLLIN };
        let mut polled = [
            PollFd::new(self.tap.as_fd(), tap),
            PollFd::new(self.to_guest.told(), PollFlags::POLLIN),
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
        for (ring, told) in [(&self.to_guest, back), (&self.from_guest, out)] {
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

    /// Frames for the guest, as many as one pass takes. Returns whether there may be more.
    fn deliver(&mut self) -> Result<bool> {
        for _ in 0..PASS {
            if !self.take_frame()? {
                return Ok(false);
            }
            let bytes: usize = self.buffers.iter().map(|(_, len)| len).sum();
            ensure!(bytes > VNET_V1_LEN, "a frame of {bytes} bytes, its header included");
            let place = self.to_guest.place;
            let parts = self.buffers.iter().map(|(id, len)| (place.buffer(*id), *len));
            self.count.refused += u64::from(self.memory.write_to(&self.tap, parts).is_err());
            self.count.frames_in += 1;
            self.count.bytes_in += (bytes - VNET_V1_LEN) as u64;
            self.count.buffers += self.buffers.len() as u64;
            for (id, _) in self.buffers.drain(..) {
                self.to_guest.offer(id, place.room, true);
            }
            self.to_guest.kick()?;
        }
        Ok(true)
    }

    /// Takes the buffers of the next frame. Returns whether there is one.
    fn take_frame(&mut self) -> Result<bool> {
        let Some(first) = self.to_guest.take()? else { return Ok(false) };
        self.buffers.push(first);
        let at = self.to_guest.place.buffer(first.0);
        ensure!((VNET_V1_LEN..=self.to_guest.place.room).contains(&first.1), "{} bytes in a buffer", first.1);
        let mut header = [0; VNET_V1_LEN];
        self.memory.read(at, &mut header);
        let count = usize::from(u16::from_le_bytes([header[10], header[11]]));
        checks::check(&header, &self.agreed)?;
        for nth in 1..count {
            let next = self.to_guest.take()?.with_context(|| format!("of {count} buffers {nth} have come"))?;
            ensure!((1..=self.to_guest.place.room).contains(&next.1), "{} bytes in a buffer", next.1);
            self.buffers.push(next);
        }
        if u32::from(header[0]) & net::VIRTIO_NET_HDR_F_DATA_VALID != 0 {
            checks::vouch(&self.memory, at, first.1, &mut header);
        }
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
        self.frames_in += other.frames_in;
        self.bytes_in += other.bytes_in;
        self.buffers += other.buffers;
        self.kicks_in += other.kicks_in;
        self.refused += other.refused;
        self.wakeups += other.wakeups;
    }

    pub fn json(&self) -> String {
        let Count { frames_out, bytes_out, reads, kicks_out, waits, wakeups, .. } = self;
        let Count { frames_in, bytes_in, buffers, kicks_in, refused, .. } = self;
        let out = format!(
            r#"{{"frames":{frames_out},"bytes":{bytes_out},"reads":{reads},"kicks":{kicks_out},"waits":{waits}}}"#
        );
        let back = format!(
            r#"{{"frames":{frames_in},"bytes":{bytes_in},"buffers":{buffers},"kicks":{kicks_in},"refused":{refused}}}"#
        );
        format!(r#""to_program":{out},"from_program":{back},"wakeups":{wakeups}"#)
    }
}

/// Frames either way before the other way has its turn.
const PASS: usize = 64;
/// Bytes that may be offered before the program is told: it may be asleep, and there is another processor.
const QUIET_BYTES: usize = 64 << 10;
