//! A UNIX socket behind which a virtual machine is: a stream of frames, each behind its length, or a frame a message.
//!
//! *Clients.* One at a time. With a listener, one that goes may be followed by another, or by itself again; the half of a
//! frame that it has left behind, in either direction, goes with it, and what it has not read is lost as on any wire. A second
//! one is closed at once. Without a listener there was one connection from the start, and nothing follows it.
//!
//! *From the guest.* One read takes what the socket has, as far as a pass goes. A length that no frame can have ends the
//! connection: nothing behind it could be understood. Checksums are taken for granted: the frames have been in memory all
//! the way, and a guest whose network card promises to finish them leaves them unfinished (libkrun).
//!
//! *To the guest.* Frames gather until there are [`FLUSH_BYTES`], or until the turn ends, and leave in one call. While the
//! socket is full they stay: no payload is taken on any more ([`Room::Full`]), so nothing is lost; answers of ours, which
//! are small, are taken as long as there is memory.
//!
//! A VFKT message, with which vfkit greets, is no frame.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;

use arrayvec::ArrayVec;

use super::framing::BadLength;
use super::outbox::Outbox;
use super::{Accepted, Batch, Door, Input, ROOMS, Tee, framing};
use crate::base::Instant;
use crate::guest::{Areas, Caps, Fill, LinkFull, Room, ToGuest};
use crate::sys::iov::Scatter;
use crate::sys::unix::Kind;
use crate::sys::{is_exhaustion, process, socket, sockopt, unix};
use crate::wire::checksum::Sum;
use crate::wire::{Csum, FRAME_MAX, Gso, Offload};

/// Frames wait until there are this many bytes of them: enough for one call to be worth its price, little enough to be in
/// the cache still.
const FLUSH_BYTES: usize = 64 << 10;
/// Send buffer to ask for; an ordinary user gets what `net.core.wmem_max` allows. The kernel doubles it, and fills it by half
/// as much again at most (`unix_stream_sendmsg`).
const BUFFER_BYTES: i32 = 512 << 10;
/// How vfkit, and who is started in its stead, greets the other end of a datagram socket.
const GREETING: &[u8] = b"VFKT";

/// Frames of the guest as they come: see the module about their checksums.
const VOUCHED_FOR: Offload = Offload { csum: Csum::Valid, gso: Gso::None };

/// The socket of one guest.
#[derive(Debug)]
pub struct Socket {
    door: Door,
    client: Option<Client>,
    out: Outbox,
    caps: Caps,
    tee: Tee,
    /// Frames that no message could hold.
    lost: u64,
}

#[derive(Debug)]
struct Client {
    fd: OwnedFd,
    kind: Kind,
    /// For messages.
    pid: Option<i32>,
    /// The socket is full; its event will tell when it is not.
    blocked: bool,
    /// No event will tell when there is room: the kernel had no memory.
    stuck: bool,
    /// The same of what it has sent.
    unread: bool,
    /// The other end will send nothing more; what it has sent is to be read to its end.
    ending: bool,
    /// The other end takes nothing any more.
    gone: bool,
    /// A frame's length that ended the connection.
    fault: Option<BadLength>,
}

/// The client has gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone;

impl Socket {
    /// Waits for clients.
    pub fn listening(listener: UnixListener, mtu: u16, tee: Tee) -> Socket {
        Socket::new(Door::new(Some(listener)), None, mtu, tee)
    }

    /// Has its one client already, at the other end of `fd`, a socket of this kind.
    pub fn connected(fd: OwnedFd, kind: Kind, mtu: u16, tee: Tee) -> Socket {
        Socket::new(Door::new(None), Some(Client::new(fd, kind)), mtu, tee)
    }

    fn new(door: Door, client: Option<Client>, mtu: u16, tee: Tee) -> Socket {
        let caps = Caps { csum: false, tso: false, uso: false, mtu };
        Socket { door, client, out: Outbox::new(), caps, tee, lost: 0 }
    }

    /// The listener, to poll for readability.
    pub fn listener(&self) -> Option<RawFd> {
        self.door.fd()
    }

    /// The client's connection, to poll for both directions.
    pub fn client(&self) -> Option<RawFd> {
        self.client.as_ref().map(|c| c.fd.as_raw_fd())
    }

    /// True if there is a client whose end is closed, whether that was told or not.
    pub fn has_lost_client(&self) -> bool {
        self.client.as_ref().is_some_and(|c| c.gone || process::is_hung_up(&c.fd))
    }

    /// See [`Door::accept`].
    pub fn accept(&mut self, now: Instant) -> Accepted {
        let present = self.client.as_ref().map(|c| c.pid);
        self.door.accept(present, now, |fd| self.client = Some(Client::new(fd, Kind::Stream)))
    }

    /// The client is gone, or to go: nothing of it remains but the flows of its guest.
    pub fn disconnect(&mut self, batch: &mut Batch, now: Instant) {
        if let Some(client) = self.client.take() {
            let why = client.fault.map(|BadLength(len)| format!("it sent a frame of {len} bytes, which no frame has"));
            self.door.left(client.pid, why, now);
        }
        self.lost += self.out.clear() as u64;
        batch.forget_stream();
    }

    /// Frames of the client, until the batch is full or there are no more.
    pub fn receive(&mut self, batch: &mut Batch) -> Input {
        let input = match &self.client {
            None => return Input::Drained,
            Some(Client { kind: Kind::Stream, .. }) => self.receive_stream(batch),
            Some(_) => self.receive_messages(batch),
        };
        match &self.client {
            Some(c) if c.gone && input == Input::Drained => Input::Gone,
            _ => input,
        }
    }

    fn receive_stream(&mut self, batch: &mut Batch) -> Input {
        loop {
            // What an earlier pass had no room for.
            match self.take_frames(batch) {
                Err(Gone) => return Input::Gone,
                Ok(()) if !batch.is_empty() => return Input::More,
                Ok(()) => {}
            }
            let Some(client) = &self.client else { return Input::Drained };
            let ending = client.ending;
            let room = batch.stream_room();
            let asked = room.len();
            let got = match socket::receive(client.fd.as_fd(), room) {
                Ok(0) => return Input::Gone,
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Input::Drained,
                Err(e) if is_exhaustion(&e) => return self.read_later(),
                Err(_) => return Input::Gone,
            };
            batch.stream_came(got);
            match self.take_frames(batch) {
                Err(Gone) => return Input::Gone,
                // A short read has emptied the queue (epoll(7)), unless descriptors come with a frame, which none does; it says
                // nothing of an end that was told before it.
                Ok(()) if got < asked && !ending && !batch.is_full() => return Input::Drained,
                Ok(()) if !batch.is_empty() => return Input::More,
                Ok(()) => {}
            }
        }
    }

    /// Moves the whole frames at the front of the stream into the batch, as far as it has room.
    fn take_frames(&mut self, batch: &mut Batch) -> Result<(), Gone> {
        while !batch.is_full() {
            match framing::front(batch.stream()) {
                Ok(Some(len)) => {
                    self.tee.from_guest(&batch.stream()[framing::PREFIX_LEN..][..len]);
                    batch.take_from_stream(framing::PREFIX_LEN, len, VOUCHED_FOR);
                }
                Ok(None) => break,
                Err(bad) => {
                    if let Some(client) = &mut self.client {
                        client.fault = Some(bad);
                    }
                    return Err(Gone);
                }
            }
        }
        Ok(())
    }

    fn receive_messages(&mut self, batch: &mut Batch) -> Input {
        while let Some(client) = self.client.as_ref().filter(|_| !batch.is_full()) {
            let mut rooms: ArrayVec<Scatter<'_>, ROOMS> = batch.rooms().map(Scatter::new).collect();
            let asked = rooms.len();
            if asked == 0 {
                break;
            }
            let lens = match unix::receive_many(client.fd.as_fd(), &mut rooms) {
                Ok(lens) => lens,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Input::Drained,
                Err(e) if is_exhaustion(&e) => return self.read_later(),
                Err(_) => return Input::Gone,
            };
            drop(rooms);
            // A connection's end, which is told over and over.
            let ended = client.kind == Kind::SeqPacket && lens.contains(&0);
            for len in lens.iter().copied().take_while(|len| !(ended && *len == 0)) {
                let message = &batch.room()[..len.min(FRAME_MAX)];
                if message == GREETING {
                    log::debug!("the client greets");
                } else {
                    self.tee.from_guest(message);
                }
                // What is too long, too short or a greeting is no frame; the parser counts it.
                batch.push_room(len.min(FRAME_MAX + 1), VOUCHED_FOR);
            }
            if ended {
                return if batch.is_empty() { Input::Gone } else { Input::More };
            }
            if lens.len() < asked {
                return Input::Drained;
            }
        }
        Input::More
    }

    /// What there is to read stays where it is; see [`Socket::is_stuck`].
    fn read_later(&mut self) -> Input {
        if let Some(client) = &mut self.client {
            client.unread = true;
        }
        Input::Drained
    }

    /// The client will send nothing more.
    pub fn ending(&mut self) {
        if let Some(client) = &mut self.client {
            client.ending = true;
        }
    }

    /// The socket takes more.
    pub fn writable(&mut self) {
        if let Some(client) = &mut self.client {
            (client.blocked, client.stuck, client.unread) = (false, false, false);
        }
        self.transmit();
    }

    /// Ends a loop turn.
    ///
    /// # Errors
    /// [`Gone`].
    pub fn flush(&mut self) -> Result<(), Gone> {
        if self.client.as_ref().is_some_and(|c| !c.stuck) {
            self.transmit();
        }
        self.tee.flush();
        if self.client.as_ref().is_some_and(|c| c.gone) { Err(Gone) } else { Ok(()) }
    }

    /// No event may tell when it goes on: [`Socket::writable`] is to be called after a while, and it is to be read.
    pub fn is_stuck(&self) -> bool {
        self.client.as_ref().is_some_and(|c| (c.stuck || c.unread) && !c.gone)
    }

    /// Whether the frames that wait do so for the socket.
    ///
    /// # Errors
    /// They do not.
    pub fn audit(&self) -> Result<(), String> {
        match &self.client {
            Some(c) if !(self.out.is_empty() || c.blocked || c.stuck || c.gone) => {
                Err(format!("{} bytes wait for nothing", self.out.bytes()))
            }
            None if !self.out.is_empty() => Err("frames wait for nobody".into()),
            _ => Ok(()),
        }
    }

    pub fn tee(&mut self) -> &mut Tee {
        &mut self.tee
    }

    /// Frames and bytes that it took.
    pub fn sent(&self) -> (u64, u64) {
        self.tee.sent()
    }

    /// Frames that it took and could not send.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Hands what waits to the socket, as much as that takes.
    fn transmit(&mut self) {
        let Some(client) = self.client.as_mut().filter(|c| !c.blocked && !c.gone) else { return };
        while !self.out.is_empty() {
            match client.send(&mut self.out) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    client.blocked = true;
                    break;
                }
                Err(e) if is_exhaustion(&e) => {
                    client.stuck = true;
                    break;
                }
                Err(e) if e.raw_os_error() == Some(libc::EMSGSIZE) => {
                    self.out.messages_left(1);
                    self.lost += 1;
                }
                Err(_) => {
                    client.gone = true;
                    return;
                }
            }
        }
    }
}

impl Client {
    fn new(fd: OwnedFd, kind: Kind) -> Client {
        // More than asked for is never given, and less works too.
        let _ = sockopt::set(fd.as_fd(), libc::SOL_SOCKET, libc::SO_SNDBUF, BUFFER_BYTES);
        let pid = unix::peer_pid(&fd);
        Client { fd, kind, pid, blocked: false, stuck: false, unread: false, ending: false, gone: false, fault: None }
    }

    /// One call's worth of what waits.
    fn send(&mut self, out: &mut Outbox) -> io::Result<()> {
        let fd = self.fd.as_fd();
        if self.kind == Kind::Stream {
            let n = socket::send(fd, &out.stream())?;
            out.bytes_left(n);
        } else {
            let n = unix::send_many(fd, &out.messages())?;
            out.messages_left(n);
        }
        Ok(())
    }
}

impl ToGuest for Socket {
    fn caps(&self) -> Caps {
        self.caps
    }

    fn room(&self) -> Room {
        match &self.client {
            Some(c) if c.gone => Room::Nobody,
            Some(c) if c.blocked || c.stuck => Room::Full,
            Some(_) => Room::Free,
            None => Room::Nobody,
        }
    }

    fn send(&mut self, frame: &[u8], _: Offload) -> Result<(), LinkFull> {
        if self.room() == Room::Nobody {
            return Err(LinkFull);
        }
        if self.out.bytes() >= FLUSH_BYTES {
            self.transmit();
        }
        self.tee.to_guest(self.out.push(frame)?, &[]);
        Ok(())
    }

    fn reserve(&mut self, areas: usize, head_len: usize, len: usize, _: Fill) -> usize {
        if self.out.bytes() >= FLUSH_BYTES {
            self.transmit();
        }
        if self.room() != Room::Free {
            return 0;
        }
        let reserved = self.out.reserve(areas, head_len, len);
        if reserved > 0 {
            return reserved;
        }
        self.transmit();
        let reserved = if self.room() == Room::Free { self.out.reserve(areas, head_len, len) } else { 0 };
        if let Some(client) = self.client.as_mut().filter(|c| reserved == 0 && !c.blocked) {
            client.stuck = true;
        }
        reserved
    }

    fn areas<'a>(&'a mut self, list: &mut Areas<'a>) {
        self.out.areas(list);
    }

    fn sum(&self, len: usize) -> Sum {
        Sum::new().add(self.out.payload(len))
    }

    fn commit(&mut self, head: &[u8], len: usize, _: Offload) -> Result<(), LinkFull> {
        self.tee.to_guest(self.out.commit(head, len), &[]);
        Ok(())
    }

    fn cancel(&mut self) {
        self.out.cancel();
    }
}

#[cfg(test)]
mod tests;
