//! Port forwarding changed while we run, in the words that passt, pasta and their client pesto have for it.
//!
//! Nobody has written this protocol down; what follows was seen of passt, pasta and pesto 0.0~git20261002.cba3570, by talking to
//! each of them.
//!
//! # The protocol
//! A UNIX stream socket, all numbers big-endian. *The server speaks first*, as soon as it is the client's turn, and serves one
//! client at a time, so that what the client read is still true when it writes:
//!
//! | bytes | |
//! | --- | --- |
//! | 8 | `basil:s` and a NUL |
//! | 4, 4, 4 | version (2), bytes of a table's name (128), of an interface's (16) |
//! | | *each table:* |
//! | 1 | id: 1 for what listens on the host (`HOST`), 3 for what listens in the namespace (`SPLICE`, pasta only) |
//! | 128 | name, padded with NULs, with one at least |
//! | 4 | what rules may be: 1 IPv4, 2 IPv6, 4 TCP, 8 UDP, 16 follow the other side (pasta only), 32 one interface only |
//! | 4 | number of rules |
//! | 56 × n | rules |
//! | | *in the end:* |
//! | 1 | 0 |
//!
//! A rule has the address to listen at (16 bytes, IPv4 mapped; all zero: any of IPv6, or of both), the target's address (16;
//! zero: whichever the guest has), the interface (16, padded with NULs, with one at least), first and last port, the first one's
//! target (2 each), the IP protocol (1), and flags (1): 1 any address of both families by one socket, 2 best effort, 4 only
//! while the target port is in use.
//!
//! *The client writes* every table as it is to be: id (1), number of rules (4), rules; then 0. Tables that it leaves out are
//! empty from then on. A client with nothing to change closes at once. passt and pasta take 255 rules a table; they close the
//! connection when they have carried it out, and reset it if they refuse: for a rule that makes no sense, two that conflict, or
//! an unknown table. But there is no answer: pesto does not wait, and ends well even if a port cannot be bound. passt and pasta
//! then stop at that port, and keep the rule.
//!
//! # What we do differently
//! *All or nothing.* What an update asks for is in force when the connection is closed, or nothing of it is; what is in
//! both, the old rules and the new, is not touched.
//!
//! *An answer*, behind the end of what others know: `spelt:a`, a NUL, the length (4 bytes) and the text of what is wrong, empty
//! if nothing is. pesto is not there any more to see it; ours is, and exits with 1.
//!
//! *Who may*: the owner and root, by the file's mode and by what the kernel says of the client.
//!
//! # A client's course
//! Greeted, with the tables as they are then; heard, until its update is complete, it closes, or says what is not of the
//! protocol; answered; gone. *Timers*: [`LIFE`] for all of it, because others wait. *Limits*: one client, whose message has
//! [`codec::MESSAGE_BYTES_MAX`] at most. A thread of its own, confined as the workers are, which does no more to traffic than
//! the request itself.
//!
//! System calls: accept4, getsockopt (`SO_PEERCRED`), ioctl (`FIONBIO`), epoll_ctl, epoll_wait, read or recvfrom, write,
//! shutdown, close; futex (the worker's answer).

// Public for the client, and for the fuzz targets, which have bytes that no client sends.
pub mod codec;

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use super::service::Owner;
use crate::base::{Clock, Instant};
use crate::sys::unix;
use codec::{MESSAGE_BYTES_MAX, Table, Update};

/// What carries out the requests.
pub trait Backend {
    /// # Errors
    /// A worker does not answer.
    fn tables(&self) -> Result<Vec<Table>, String>;

    /// Has every table be as it says, or leaves all as they are.
    ///
    /// # Errors
    /// Which rule cannot be had, and why.
    fn replace(&self, updates: Vec<Update>, client: i32) -> Result<(), String>;
}

/// From a client's turn to its end.
pub const LIFE: Duration = Duration::from_secs(10);
/// Until the next attempt to accept a client that could not be.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// Descriptors: the socket, its loop, the client and one that is turned away.
pub const DESCRIPTORS: usize = 4;

/// The socket, and whoever's turn it is.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    owner: Owner,
    poll: Poll,
    clock: Clock,
}

const LISTENER: Token = Token(0);
const CLIENT: Token = Token(1);
/// Read in one go.
const ROOM_BYTES: usize = 16 << 10;

impl Server {
    /// # Errors
    /// The kernel's.
    pub fn new(listener: UnixListener, owner: Owner) -> io::Result<Server> {
        listener.set_nonblocking(true)?;
        let poll = Poll::new()?;
        poll.registry().register(&mut SourceFd(&listener.as_raw_fd()), LISTENER, Interest::READABLE)?;
        Ok(Server { listener, owner, poll, clock: Clock::start() })
    }

    /// Serves for as long as the process lives.
    ///
    /// # Errors
    /// Polling failed.
    pub fn run(mut self, backend: &dyn Backend) -> io::Result<()> {
        let mut events = Events::with_capacity(2);
        loop {
            // Who came while another had its turn is there already, and its event gone.
            let patience = loop {
                match self.accept() {
                    Ok(stream) => self.serve(stream, backend)?,
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => break None,
                    // There may be a descriptor for it later, and no event.
                    Err(_) => break Some(LOOK_AGAIN),
                }
            };
            wait(&mut self.poll, &mut events, patience)?;
        }
    }

    fn accept(&self) -> io::Result<UnixStream> {
        loop {
            match self.listener.accept() {
                Ok((stream, _)) if self.owner.admits(&stream) => return Ok(stream),
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// From its turn to its end. What goes wrong with a client is its own affair.
    fn serve(&mut self, stream: UnixStream, backend: &dyn Backend) -> io::Result<()> {
        let until = self.clock.now() + LIFE;
        let interest = Interest::READABLE | Interest::WRITABLE;
        let watched = stream
            .set_nonblocking(true)
            .and_then(|()| self.poll.registry().register(&mut SourceFd(&stream.as_raw_fd()), CLIENT, interest));
        if watched.is_err() {
            return Ok(());
        }
        let client = unix::peer_pid(&stream).unwrap_or_default();
        let mut talk = Talk { stream, poll: &mut self.poll, clock: &self.clock, until };
        let greeting = backend.tables().and_then(|tables| codec::hello(&tables).map_err(|e| e.to_string()));
        let greeting = match greeting {
            Ok(greeting) => greeting,
            Err(why) => {
                log::warn!("cannot tell pesto what is forwarded: {why}");
                return Ok(());
            }
        };
        if !talk.say(&greeting)? {
            return Ok(());
        }
        let outcome = match talk.hear()? {
            Heard::Nothing => return Ok(()),
            Heard::Updates(updates) => backend.replace(updates, client),
            Heard::Nonsense(what) => Err(format!("this is no request of pesto's: {what}")),
        };
        if let Err(why) = &outcome {
            log::warn!("forwards stay as they are, pesto (pid {client}) asked for what cannot be: {why}");
        }
        // pesto itself has gone.
        if talk.say(&codec::answer(&outcome))? {
            let _ = talk.stream.shutdown(Shutdown::Write);
        }
        Ok(())
    }
}

/// One client.
struct Talk<'a> {
    stream: UnixStream,
    poll: &'a mut Poll,
    clock: &'a Clock,
    until: Instant,
}

enum Heard {
    Updates(Vec<Update>),
    Nonsense(codec::Wrong),
    /// It has gone, or its time is over.
    Nothing,
}

impl Talk<'_> {
    /// False: it does not listen.
    fn say(&mut self, bytes: &[u8]) -> io::Result<bool> {
        let mut left = bytes;
        while !left.is_empty() {
            match self.stream.write(left) {
                Ok(n) => left = &left[n..],
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    if !self.wait()? {
                        return Ok(false);
                    }
                }
                Err(_) => return Ok(false),
            }
        }
        Ok(true)
    }

    fn hear(&mut self) -> io::Result<Heard> {
        let mut message = Vec::new();
        let mut room = [0; ROOM_BYTES];
        loop {
            match self.stream.read(&mut room) {
                Ok(0) => return Ok(Heard::Nothing),
                Ok(n) => message.extend_from_slice(&room[..n]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    if !self.wait()? {
                        return Ok(Heard::Nothing);
                    }
                    continue;
                }
                Err(_) => return Ok(Heard::Nothing),
            }
            match codec::read_update(&message) {
                Ok(Some(updates)) => return Ok(Heard::Updates(updates)),
                Ok(None) if message.len() < MESSAGE_BYTES_MAX => {}
                Ok(None) => return Ok(Heard::Nonsense(codec::Wrong::Tables)),
                Err(wrong) => return Ok(Heard::Nonsense(wrong)),
            }
        }
    }

    /// Until there is something to do. False: its time is over.
    fn wait(&mut self) -> io::Result<bool> {
        let now = self.clock.now();
        if now >= self.until {
            return Ok(false);
        }
        wait(self.poll, &mut Events::with_capacity(2), Some(self.until.since(now)))?;
        Ok(true)
    }
}

fn wait(poll: &mut Poll, events: &mut Events, patience: Option<Duration>) -> io::Result<()> {
    match poll.poll(events, patience) {
        Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests;
