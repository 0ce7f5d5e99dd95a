//! The one link that an instance has, or none: a guest of which only loopback is forwarded, socket to socket.

use std::io;
use std::os::fd::RawFd;

use super::Gone;
use super::{Accepted, Batch, Card, Memory, Socket, Talk, Tap, Tee, Vhost, Watch};
use crate::base::Instant;
use crate::guest::{Areas, Caps, Fill, Lane, LinkFull, Room, ToGuest};
use crate::wire::Offload;
use crate::wire::checksum::Sum;

/// The link of this instance.
#[derive(Debug)]
pub enum Link {
    Tap(Box<Tap>),
    Socket(Box<Socket>),
    Vhost(Box<Vhost>),
    /// Rings that another thread's link lends to this one, or none now.
    Card(Box<Card>),
    /// The engine is a part of another program, which has the guest's end.
    Memory(Box<Memory>),
    /// Frames to the guest are lost, and none come from it.
    None,
}

/// Why a pass over the input ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// Nothing more is queued: wait for the next event.
    Drained,
    /// The batch has enough: there may be more.
    More,
    /// The client of a socket has gone: see [`Link::disconnect`]. The batch may have its last frames.
    Gone,
}

impl Link {
    /// Reads frames until the batch is full or the queue empty.
    ///
    /// # Errors
    /// The device is gone.
    pub fn receive(&mut self, batch: &mut Batch) -> io::Result<Input> {
        match self {
            Link::Tap(tap) => tap.receive(batch),
            Link::Socket(socket) => Ok(socket.receive(batch)),
            Link::Vhost(card) => Ok(card.receive(batch)),
            Link::Card(card) => Ok(card.receive(batch)),
            Link::Memory(memory) => Ok(memory.receive(batch)),
            Link::None => Ok(Input::Drained),
        }
    }

    /// The descriptor of this place in [`Link::fds`] has frames, or an end.
    pub fn readable(&mut self, place: usize) {
        if let Link::Tap(tap) = self {
            tap.readable(place);
        }
    }

    /// True unless there is no way for frames, now or later.
    pub fn exists(&self) -> bool {
        !matches!(self, Link::None)
    }

    /// What its frames pass; without a link there are none.
    pub fn tee(&mut self) -> Option<&mut Tee> {
        match self {
            Link::Tap(tap) => Some(tap.tee()),
            Link::Socket(socket) => Some(socket.tee()),
            Link::Vhost(card) => Some(card.tee()),
            Link::Card(card) => Some(card.tee()),
            Link::Memory(memory) => Some(memory.tee()),
            Link::None => None,
        }
    }

    /// What to poll for frames, or for what the other end has to say, now.
    pub fn fds(&self) -> Vec<RawFd> {
        match self {
            Link::Tap(tap) => tap.fds(),
            Link::Socket(socket) => socket.client().into_iter().collect(),
            Link::Vhost(card) => card.client().into_iter().collect(),
            Link::Card(_) | Link::Memory(_) | Link::None => Vec::new(),
        }
    }

    /// What to poll for clients.
    pub fn listener(&self) -> Option<RawFd> {
        match self {
            Link::Socket(socket) => socket.listener(),
            Link::Vhost(card) => card.listener(),
            _ => None,
        }
    }

    /// See [`Socket::has_lost_client`].
    pub fn has_lost_client(&self) -> bool {
        match self {
            Link::Socket(socket) => socket.has_lost_client(),
            Link::Vhost(card) => card.has_lost_client(),
            Link::Tap(_) | Link::Card(_) | Link::Memory(_) | Link::None => false,
        }
    }

    /// See [`Socket::accept`].
    pub fn accept(&mut self, now: Instant) -> Accepted {
        match self {
            Link::Socket(socket) => socket.accept(now),
            Link::Vhost(card) => card.accept(now),
            _ => Accepted::Nobody,
        }
    }

    /// See [`Socket::disconnect`].
    pub fn disconnect(&mut self, batch: &mut Batch, now: Instant) {
        match self {
            Link::Socket(socket) => socket.disconnect(batch, now),
            Link::Vhost(card) => card.disconnect(batch, now),
            Link::Card(card) => card.disconnect(batch),
            Link::Tap(_) | Link::Memory(_) | Link::None => {}
        }
    }

    /// See [`Vhost::converse`].
    pub fn converse(&mut self, now: Instant) -> Talk {
        match self {
            Link::Vhost(card) => card.converse(now),
            _ => Talk::Silence,
        }
    }

    /// See [`Vhost::polling`].
    pub fn polling(&mut self) -> Vec<Watch> {
        match self {
            Link::Vhost(card) => card.polling(),
            _ => Vec::new(),
        }
    }

    /// The end of a guest in this process's memory.
    pub fn memory(&mut self) -> Option<&mut Memory> {
        match self {
            Link::Memory(memory) => Some(memory),
            _ => None,
        }
    }

    /// The frames of the last pass are done with.
    pub fn release(&mut self) {
        match self {
            Link::Vhost(card) => card.release(),
            Link::Card(card) => card.release(),
            _ => {}
        }
    }

    /// See [`Card::has_broken`].
    pub fn has_broken(&mut self) -> bool {
        match self {
            Link::Card(card) => card.has_broken(),
            _ => false,
        }
    }

    /// See [`Socket::ending`].
    pub fn ending(&mut self) {
        if let Link::Socket(socket) = self {
            socket.ending();
        }
    }

    /// It takes frames again.
    pub fn writable(&mut self) {
        match self {
            Link::Socket(socket) => socket.writable(),
            Link::Vhost(card) => card.writable(),
            Link::Card(card) => card.writable(),
            Link::Tap(tap) => tap.writable(),
            Link::Memory(memory) => memory.writable(),
            Link::None => {}
        }
    }

    /// See [`Socket::is_stuck`], [`Card::is_stuck`].
    pub fn is_stuck(&self) -> bool {
        match self {
            Link::Socket(socket) => socket.is_stuck(),
            Link::Vhost(card) => card.is_stuck(),
            Link::Card(card) => card.is_stuck(),
            Link::Tap(tap) => tap.is_stuck(),
            Link::Memory(_) | Link::None => false,
        }
    }

    /// See [`Tap::abandon`].
    pub fn abandon(&self) {
        if let Link::Tap(tap) = self {
            tap.abandon();
        }
    }

    /// Ends a loop turn.
    ///
    /// # Errors
    /// The client of a socket has gone: see [`Link::disconnect`].
    pub fn flush(&mut self) -> Result<(), Gone> {
        match self {
            Link::Tap(tap) => tap.flush(),
            Link::Socket(socket) => return socket.flush(),
            Link::Vhost(card) => return card.flush(),
            Link::Card(card) => return card.flush(),
            Link::Memory(memory) => memory.flush(),
            Link::None => {}
        }
        Ok(())
    }

    /// Frames and bytes that it took.
    pub fn sent(&self) -> (u64, u64) {
        match self {
            Link::Tap(tap) => tap.sent(),
            Link::Socket(socket) => socket.sent(),
            Link::Vhost(card) => card.sent(),
            Link::Card(card) => card.sent(),
            Link::Memory(memory) => memory.sent(),
            Link::None => (0, 0),
        }
    }

    /// Frames of the guest that could not be read.
    pub fn faults(&self) -> u64 {
        match self {
            Link::Vhost(card) => card.faults(),
            Link::Card(card) => card.faults(),
            _ => 0,
        }
    }

    /// Whether what waits in it waits for something.
    ///
    /// # Errors
    /// What does not, in words.
    pub fn audit(&self) -> Result<(), String> {
        match self {
            Link::Socket(socket) => socket.audit(),
            Link::Vhost(card) => card.card().audit(),
            Link::Card(card) => card.audit(),
            Link::Tap(_) | Link::Memory(_) | Link::None => Ok(()),
        }
    }

    /// See [`Card::overlooked`].
    pub fn overlooked(&self) -> Option<u64> {
        match self {
            Link::Vhost(card) => card.card().overlooked(),
            Link::Card(card) => card.overlooked(),
            _ => None,
        }
    }

    /// Frames that it took, or should have, and lost.
    pub fn lost(&self) -> u64 {
        match self {
            Link::Socket(socket) => socket.lost(),
            Link::Vhost(card) => card.lost(),
            Link::Card(card) => card.lost(),
            Link::Tap(tap) => tap.lost(),
            Link::Memory(_) | Link::None => 0,
        }
    }
}

impl ToGuest for Link {
    fn caps(&self) -> Caps {
        match self {
            Link::Tap(tap) => tap.caps(),
            Link::Socket(socket) => socket.caps(),
            Link::Vhost(card) => card.caps(),
            Link::Card(card) => card.caps(),
            Link::Memory(memory) => memory.caps(),
            Link::None => Caps { csum: false, tso: false, uso: false, mtu: ETHERNET_MTU },
        }
    }

    fn room(&self) -> Room {
        match self {
            Link::Tap(tap) => tap.room(),
            Link::Socket(socket) => socket.room(),
            Link::Vhost(card) => card.room(),
            Link::Card(card) => card.room(),
            Link::Memory(memory) => memory.room(),
            Link::None => Room::Free,
        }
    }

    fn steer(&mut self, lane: Lane) {
        if let Link::Tap(tap) = self {
            tap.steer(lane);
        }
    }

    fn diverts(&mut self) {
        if let Link::Tap(tap) = self {
            tap.diverts();
        }
    }

    fn send(&mut self, frame: &[u8], offload: Offload) -> Result<(), LinkFull> {
        match self {
            Link::Tap(tap) => tap.send(frame, offload),
            Link::Socket(socket) => socket.send(frame, offload),
            Link::Vhost(card) => card.send(frame, offload),
            Link::Card(card) => card.send(frame, offload),
            Link::Memory(memory) => memory.send(frame, offload),
            Link::None => Ok(()),
        }
    }

    fn reserve(&mut self, areas: usize, head_len: usize, len: usize, fill: Fill) -> usize {
        match self {
            Link::Tap(tap) => tap.reserve(areas, head_len, len, fill),
            Link::Socket(socket) => socket.reserve(areas, head_len, len, fill),
            Link::Vhost(card) => card.reserve(areas, head_len, len, fill),
            Link::Card(card) => card.reserve(areas, head_len, len, fill),
            Link::Memory(memory) => memory.reserve(areas, head_len, len, fill),
            Link::None => 0,
        }
    }

    fn areas<'a>(&'a mut self, list: &mut Areas<'a>) {
        match self {
            Link::Tap(tap) => tap.areas(list),
            Link::Socket(socket) => socket.areas(list),
            Link::Vhost(card) => card.areas(list),
            Link::Card(card) => card.areas(list),
            Link::Memory(memory) => memory.areas(list),
            Link::None => {}
        }
    }

    fn sum(&self, len: usize) -> Sum {
        match self {
            Link::Tap(tap) => tap.sum(len),
            Link::Socket(socket) => socket.sum(len),
            Link::Vhost(card) => card.sum(len),
            Link::Card(card) => card.sum(len),
            Link::Memory(memory) => memory.sum(len),
            Link::None => Sum::new(),
        }
    }

    fn commit(&mut self, head: &[u8], len: usize, offload: Offload) -> Result<(), LinkFull> {
        match self {
            Link::Tap(tap) => tap.commit(head, len, offload),
            Link::Socket(socket) => socket.commit(head, len, offload),
            Link::Vhost(card) => card.commit(head, len, offload),
            Link::Card(card) => card.commit(head, len, offload),
            Link::Memory(memory) => memory.commit(head, len, offload),
            Link::None => Ok(()),
        }
    }

    fn cancel(&mut self) {
        match self {
            Link::Tap(tap) => tap.cancel(),
            Link::Socket(socket) => socket.cancel(),
            Link::Vhost(card) => card.cancel(),
            Link::Card(card) => card.cancel(),
            Link::Memory(memory) => memory.cancel(),
            Link::None => {}
        }
    }
}

/// What nobody asks for.
const ETHERNET_MTU: u16 = 1500;
