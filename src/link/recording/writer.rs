//! The thread that writes: queues become blocks, blocks become bytes of files and pipes.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::EventFd;

use super::queue::{Record, State};
use super::{Recording, wall_clock};
use crate::base::{Clock, Instant};
use crate::wire::pcapng::{self, Packet, STATISTICS_LEN, Statistics};

/// How long the reader of a capture that was stopped may take nothing.
pub const PATIENCE: Duration = Duration::from_secs(1);
/// Written in one go: others have their turn.
const CHUNK: usize = 256 << 10;

/// A new capture.
pub(super) struct Order {
    pub recording: Arc<Recording>,
    pub output: File,
    pub limit: Option<u64>,
}

/// What captures say of where they come from.
#[derive(Debug)]
pub(super) struct Section {
    pub application: String,
    pub os: String,
    pub interface: String,
}

pub struct Writer {
    bell: Arc<EventFd>,
    orders: Receiver<Order>,
    section: Section,
    clock: Clock,
    jobs: Vec<Job>,
}

impl Writer {
    pub(super) fn new(bell: Arc<EventFd>, orders: Receiver<Order>, section: Section) -> Writer {
        Writer { bell, orders, section, clock: Clock::start(), jobs: Vec::new() }
    }

    /// Writes for as long as the process lives.
    ///
    /// # Errors
    /// Polling failed.
    pub fn run(mut self) -> io::Result<()> {
        loop {
            while let Ok(order) = self.orders.try_recv() {
                self.jobs.push(Job::new(order, &self.section));
            }
            let now = self.clock.now();
            let mut at = 0;
            while let Some(job) = self.jobs.get_mut(at) {
                if job.work(now) == Step::Over {
                    self.jobs.swap_remove(at).close();
                } else {
                    at += 1;
                }
            }
            self.wait()?;
        }
    }

    /// For a bell, room in a pipe, a reader's end, or somebody's patience.
    fn wait(&mut self) -> io::Result<()> {
        let now = self.clock.now();
        let busy = self.jobs.iter().any(|job| job.step == Step::More);
        let patience = self.jobs.iter().filter_map(|job| job.deadline).map(|at| at.since(now)).min();
        let timeout = match patience {
            _ if busy => PollTimeout::ZERO,
            // Not a moment too early.
            Some(left) => PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX),
            None => PollTimeout::NONE,
        };
        let mut fds = vec![PollFd::new(self.bell.as_fd(), PollFlags::POLLIN)];
        fds.extend(self.jobs.iter().map(Job::polled));
        match poll(&mut fds, timeout) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
        let gone: Vec<bool> =
            fds[1..].iter().map(|fd| fd.revents().is_some_and(|e| e.contains(PollFlags::POLLERR))).collect();
        self.jobs.iter_mut().zip(gone).for_each(|(job, gone)| job.gone |= gone);
        // Nothing to read: it has not rung.
        let _ = self.bell.read();
        Ok(())
    }
}

/// What is left to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    More,
    /// The output takes no more for now.
    Full,
    /// Nothing is queued.
    Idle,
    Over,
}

struct Job {
    recording: Arc<Recording>,
    output: File,
    limit: Option<u64>,
    /// Whole blocks, and how much of them is written.
    blocks: Vec<u8>,
    written: usize,
    /// Bytes of earlier blocks.
    before: u64,
    /// Memory that is exchanged with the queue's.
    frames: Vec<u8>,
    /// The last block is among the others.
    complete: bool,
    step: Step,
    /// The reader has.
    gone: bool,
    /// When it is given up, if nothing more can be written until then.
    deadline: Option<Instant>,
}

impl Job {
    fn new(order: Order, section: &Section) -> Job {
        let Order { recording, output, limit } = order;
        let mut blocks = Vec::new();
        pcapng::section(&mut blocks, &section.application, &section.os);
        pcapng::interface(&mut blocks, &section.interface, recording.snaplen.unwrap_or(0));
        Job {
            recording,
            output,
            limit,
            blocks,
            written: 0,
            before: 0,
            frames: Vec::new(),
            complete: false,
            step: Step::More,
            gone: false,
            deadline: None,
        }
    }

    /// The end of a reader is told without being asked for.
    fn polled(&self) -> PollFd<'_> {
        let events = if self.step == Step::Full { PollFlags::POLLOUT } else { PollFlags::empty() };
        PollFd::new(self.output.as_fd(), events)
    }

    fn work(&mut self, now: Instant) -> Step {
        self.step = if self.gone {
            log::info!("capture {} has ended: its reader is gone", self.recording.id);
            Step::Over
        } else if self.written < self.blocks.len() {
            self.write(now)
        } else if self.complete {
            log::debug!("capture {} has ended", self.recording.id);
            Step::Over
        } else {
            self.before += self.blocks.len() as u64;
            (self.written, self.deadline) = (0, None);
            self.blocks.clear();
            self.next()
        };
        self.step
    }

    /// The next blocks.
    fn next(&mut self) -> Step {
        self.frames.clear();
        let state = self.recording.take(&mut self.frames);
        if self.frames.is_empty() {
            if state == State::Open {
                return Step::Idle;
            }
            self.complete();
        } else if !self.make_blocks() {
            self.recording.stop();
            self.complete();
        }
        Step::More
    }

    /// False: not all of them may be written.
    fn make_blocks(&mut self) -> bool {
        let mut left = &self.frames[..];
        let mut comment = String::new();
        while let Some((record, bytes, rest)) = Record::split(left) {
            left = rest;
            comment.clear();
            if let Some(reason) = record.reason {
                comment = format!("dropped: {}: {}", reason.name(), reason.meaning());
            }
            let whole = self.blocks.len();
            let packet = Packet {
                time: Duration::from_nanos(record.time),
                len: record.len as usize,
                bytes,
                direction: record.direction,
                lost: record.lost,
                comment: (!comment.is_empty()).then_some(&comment),
            };
            pcapng::packet(&mut self.blocks, &packet);
            let then = self.before + (self.blocks.len() + STATISTICS_LEN) as u64;
            if self.limit.is_some_and(|limit| then > limit) {
                self.blocks.truncate(whole);
                return false;
            }
        }
        true
    }

    /// The last block.
    fn complete(&mut self) {
        let counts = self.recording.counts();
        let received = counts.frames + counts.lost;
        let (start, end) = (self.recording.began, wall_clock());
        pcapng::statistics(&mut self.blocks, &Statistics { start, end, received, dropped: counts.lost });
        self.complete = true;
    }

    fn write(&mut self, now: Instant) -> Step {
        let end = self.blocks.len().min(self.written + CHUNK);
        match self.output.write(&self.blocks[self.written..end]) {
            Ok(0) => self.fail(&io::ErrorKind::WriteZero.into()),
            Ok(n) => {
                self.written += n;
                self.deadline = None;
                Step::More
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Step::More,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.wait_for_room(now),
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => {
                self.gone = true;
                Step::More
            }
            Err(e) => self.fail(&e),
        }
    }

    fn wait_for_room(&mut self, now: Instant) -> Step {
        if !self.recording.is_stopped() {
            return Step::Full;
        }
        let deadline = *self.deadline.get_or_insert(now + PATIENCE);
        if deadline > now {
            return Step::Full;
        }
        log::warn!("capture {} has ended before all was written: its reader takes nothing", self.recording.id);
        Step::Over
    }

    fn fail(&self, e: &io::Error) -> Step {
        log::warn!("capture {} has ended: it cannot be written: {e}", self.recording.id);
        let part = (self.written - whole_blocks(&self.blocks, self.written)) as u64;
        // Whoever reads it would stumble over a block that is cut short. A pipe has no length.
        if part > 0
            && let Ok(found) = self.output.metadata()
            && found.is_file()
        {
            let _ = self.output.set_len(found.len().saturating_sub(part));
        }
        Step::Over
    }

    /// The output first: whoever waits for the end finds it closed.
    fn close(self) {
        let Job { recording, output, .. } = self;
        drop(output);
        recording.end();
    }
}

/// Bytes of the blocks that end at `written` or before.
fn whole_blocks(blocks: &[u8], written: usize) -> usize {
    let mut at = 0;
    while let Some(len) = blocks.get(at + 4..at + 8) {
        let next = at + u32::from_le_bytes([len[0], len[1], len[2], len[3]]) as usize;
        if next > written {
            break;
        }
        at = next;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_file_is_cut() {
        let mut blocks = Vec::new();
        pcapng::section(&mut blocks, "a", "b");
        let first = blocks.len();
        pcapng::interface(&mut blocks, "eth0", 0);
        for (written, whole) in
            [(0, 0), (first - 1, 0), (first, first), (first + 5, first), (blocks.len(), blocks.len())]
        {
            assert_eq!(whole_blocks(&blocks, written), whole);
        }
    }
}
