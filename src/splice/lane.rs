//! One direction of a connection: whatever moves bytes from one socket to the other.

use std::io::{self, ErrorKind};
use std::os::fd::AsFd;

use socket2::Socket;

use super::pace::Pace;
use super::pipes::Pipes;
use crate::base::Instant;
use crate::sys::iov::{Gather, Scatter};
use crate::sys::splice::Pipe;
use crate::sys::{is_exhaustion, socket};

/// What all lanes share.
#[derive(Debug)]
pub struct Means {
    pub pipes: Pipes,
    /// Bytes pass through here when they are copied; nothing stays.
    scratch: Box<[u8]>,
    /// All remainders together.
    held_bytes: usize,
}

impl Means {
    /// Makes every small read look before it takes.
    #[cfg(test)]
    pub fn forbid_holding(&mut self) {
        self.held_bytes = HELD_MAX_BYTES;
    }

    /// Whether so much is held.
    ///
    /// # Errors
    /// What the books say instead.
    pub fn audit(&self, bytes: usize, pipes: usize) -> Result<(), String> {
        match (self.held_bytes, self.pipes.lent()) {
            books if books == (bytes, pipes) => Ok(()),
            books => Err(format!("{bytes} bytes and {pipes} pipes are held, the books say {books:?}")),
        }
    }

    pub fn new() -> Means {
        Means { pipes: Pipes::new(), scratch: vec![0; SCRATCH_BYTES].into(), held_bytes: 0 }
    }
}

/// One direction. The flags are beliefs about edge-triggered readiness: true until the kernel says otherwise.
#[derive(Debug)]
pub struct Lane {
    held: Held,
    /// The source may have data or an end to read.
    pub readable: bool,
    /// The source's end, or an error, is to be read after the data.
    pub read_closed: bool,
    /// The target takes nothing until it is reported writable.
    pub blocked: bool,
    /// The source uses urgent data: splice stops in front of it and a short read need not mean that the queue is empty.
    pub urgent: bool,
    /// Much came last time.
    bulk: bool,
    /// The end of the source's stream has been read.
    ended: bool,
    /// Bytes at the head of the source's queue that the target has: the kernel had no memory to remove them.
    spent: usize,
    /// The kernel had no memory in this turn.
    starved: bool,
    pub pace: Pace,
}

/// Taken from the source and not yet by the target.
#[derive(Debug)]
enum Held {
    Nothing,
    /// What remains of a small read, from an index on.
    Bytes(Box<[u8]>, usize),
    /// So many bytes in a pipe.
    Piped(Pipe, usize),
}

/// Why a lane stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// An event will say when it can go on.
    Waits,
    /// It has moved its budget and can go on.
    Budget,
    /// The host has no memory for it; no event will say when it has.
    Starved,
    /// All of the source's stream, to its end, has been given to the target.
    Ended,
}

/// A read that stays below this is copied: cheaper than two trips through a pipe.
const SMALL_BYTES: usize = 16 << 10;
/// Moved by one call when data is plenty. Pages in a pipe may be large, so that its capacity says little about bytes.
const CHUNK_BYTES: usize = 1 << 20;
/// Copied by one call when no pipe can be had.
const SCRATCH_BYTES: usize = 64 << 10;
/// Remainders of small reads at most, all lanes together. Beyond it lanes look before they take.
const HELD_MAX_BYTES: usize = 16 << 20;

impl Lane {
    pub fn new() -> Lane {
        Lane {
            held: Held::Nothing,
            readable: false,
            read_closed: false,
            blocked: false,
            urgent: false,
            bulk: false,
            ended: false,
            spent: 0,
            starved: false,
            pace: Pace::new(),
        }
    }

    /// True if [`Lane::pump`] would make a system call.
    pub fn can_move(&self) -> bool {
        !self.blocked && (self.holds() || self.spent > 0 || self.readable && !self.ended)
    }

    /// Moves until one of the sockets would block, or `budget` bytes are gone.
    ///
    /// # Errors
    /// Of either socket: the connection is over.
    pub fn pump(
        &mut self,
        from: &Socket,
        to: &Socket,
        budget: usize,
        means: &mut Means,
        now: Instant,
    ) -> (usize, io::Result<Stop>) {
        let mut left = budget;
        let stop = self.pump_within(from, to, &mut left, means);
        let moved = budget - left;
        self.pace.moved(moved as u64, now);
        (moved, stop)
    }

    fn pump_within(&mut self, from: &Socket, to: &Socket, left: &mut usize, means: &mut Means) -> io::Result<Stop> {
        self.starved = false;
        loop {
            self.give(to, means)?;
            if self.starved {
                return Ok(Stop::Starved);
            }
            if self.blocked {
                return Ok(Stop::Waits);
            }
            if self.ended {
                return Ok(Stop::Ended);
            }
            if !self.readable {
                return Ok(Stop::Waits);
            }
            if *left == 0 {
                return Ok(Stop::Budget);
            }
            let taken = if self.spent == 0 { self.take(from, to, means)? } else { 0 };
            self.remove(from)?;
            *left = left.saturating_sub(taken);
        }
    }

    /// Bytes and pipes that it holds.
    pub fn held(&self) -> (usize, usize) {
        match &self.held {
            Held::Nothing => (0, 0),
            Held::Bytes(bytes, _) => (bytes.len(), 0),
            Held::Piped(..) => (0, 1),
        }
    }

    /// True if an event is to tell of more from the source.
    pub fn is_dry(&self) -> bool {
        !self.readable && !self.blocked && !self.ended
    }

    /// Gives back what the lane has borrowed; the bytes are lost.
    pub fn release(&mut self, means: &mut Means) {
        match std::mem::replace(&mut self.held, Held::Nothing) {
            Held::Nothing => {}
            Held::Bytes(bytes, _) => means.held_bytes -= bytes.len(),
            Held::Piped(pipe, _) => means.pipes.discard(pipe),
        }
    }

    fn holds(&self) -> bool {
        !matches!(self.held, Held::Nothing)
    }

    /// Sends what is held.
    fn give(&mut self, to: &Socket, means: &mut Means) -> io::Result<()> {
        while !self.blocked && self.holds() {
            let given = match &self.held {
                Held::Nothing => return Ok(()),
                Held::Bytes(bytes, at) => socket::send(to.as_fd(), &[Gather::new(&bytes[*at..])]),
                Held::Piped(pipe, n) => pipe.drain(to.as_fd(), *n),
            };
            match given {
                Ok(n) => self.given(n, means),
                Err(e) if e.kind() == ErrorKind::WouldBlock => self.blocked = true,
                Err(e) if is_exhaustion(&e) => {
                    self.starved = true;
                    break;
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn given(&mut self, n: usize, means: &mut Means) {
        let left = match &mut self.held {
            Held::Nothing => return,
            Held::Bytes(bytes, at) => {
                *at += n;
                bytes.len() - *at
            }
            Held::Piped(_, left) => {
                *left -= n;
                *left
            }
        };
        if left > 0 {
            return;
        }
        match std::mem::replace(&mut self.held, Held::Nothing) {
            Held::Nothing => {}
            Held::Bytes(bytes, _) => means.held_bytes -= bytes.len(),
            Held::Piped(pipe, _) => means.pipes.put(pipe),
        }
    }

    /// Reads once, by the means that suits; returns the bytes.
    fn take(&mut self, from: &Socket, to: &Socket, means: &mut Means) -> io::Result<usize> {
        let bulk = self.bulk && !self.urgent;
        match bulk.then(|| means.pipes.take()).flatten() {
            Some(pipe) => self.splice(pipe, from, to, means),
            None if bulk || means.held_bytes + SMALL_BYTES > HELD_MAX_BYTES => self.pass_peeked(from, to, means),
            None => self.copy(from, to, means),
        }
    }

    fn splice(&mut self, pipe: Pipe, from: &Socket, to: &Socket, means: &mut Means) -> io::Result<usize> {
        match pipe.fill(from.as_fd(), CHUNK_BYTES) {
            Ok(0) => {
                means.pipes.put(pipe);
                // Urgent data in front of an end reads as an end (tcp_read_sock stops there): ask again.
                let n = self.copy(from, to, means)?;
                self.urgent |= n > 0;
                Ok(n)
            }
            Ok(n) => {
                self.bulk = n >= SMALL_BYTES;
                self.held = Held::Piped(pipe, n);
                Ok(n)
            }
            Err(e) => {
                means.pipes.put(pipe);
                self.nothing(e)
            }
        }
    }

    fn copy(&mut self, from: &Socket, to: &Socket, means: &mut Means) -> io::Result<usize> {
        let n = match socket::receive(from.as_fd(), &mut means.scratch[..SMALL_BYTES]) {
            Ok(n) => n,
            Err(e) => return self.nothing(e),
        };
        self.has_read(n, SMALL_BYTES);
        if n == 0 {
            return Ok(0);
        }
        let sent = self.try_send(to, &means.scratch[..n])?;
        if sent < n {
            let bytes: Box<[u8]> = means.scratch[sent..n].into();
            means.held_bytes += bytes.len();
            self.held = Held::Bytes(bytes, 0);
        }
        Ok(n)
    }

    /// Copies without taking what the target does not: a stalled lane holds nothing.
    fn pass_peeked(&mut self, from: &Socket, to: &Socket, means: &mut Means) -> io::Result<usize> {
        let n = match socket::peek(from.as_fd(), &mut [Scatter::new(&mut means.scratch)]) {
            Ok(n) => n,
            Err(e) => return self.nothing(e),
        };
        let sent = if n > 0 { self.try_send(to, &means.scratch[..n])? } else { 0 };
        self.spent = sent;
        if sent == n {
            self.has_read(n, SCRATCH_BYTES);
        }
        Ok(sent)
    }

    /// Removes what was peeked and sent.
    fn remove(&mut self, from: &Socket) -> io::Result<()> {
        while self.spent > 0 {
            match socket::discard(from.as_fd(), self.spent) {
                Ok(n) => self.spent = self.spent.saturating_sub(n.max(1)),
                Err(e) if is_exhaustion(&e) => {
                    self.starved = true;
                    break;
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Draws conclusions from a read of `n` bytes into room for more or as many.
    fn has_read(&mut self, n: usize, room: usize) {
        self.ended = n == 0;
        self.bulk = n >= SMALL_BYTES;
        // A short read means that the queue was empty (epoll(7)); what comes later makes another event.
        if n < room && !self.read_closed && !self.urgent {
            self.readable = false;
        }
    }

    fn nothing(&mut self, e: io::Error) -> io::Result<usize> {
        match e.kind() {
            ErrorKind::WouldBlock => self.readable = false,
            ErrorKind::Interrupted => {}
            _ if is_exhaustion(&e) => self.starved = true,
            _ => return Err(e),
        }
        Ok(0)
    }

    /// Sends; what did not go blocks the lane.
    fn try_send(&mut self, to: &Socket, bytes: &[u8]) -> io::Result<usize> {
        match socket::send(to.as_fd(), &[Gather::new(bytes)]) {
            Ok(n) => {
                self.blocked = n < bytes.len();
                Ok(n)
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                self.blocked = true;
                Ok(0)
            }
            Err(e) if is_exhaustion(&e) => {
                self.starved = true;
                Ok(0)
            }
            Err(e) => Err(e),
        }
    }
}
