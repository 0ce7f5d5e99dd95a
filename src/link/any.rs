//! The one link that an instance has, or none: a guest of which only loopback is forwarded, socket to socket.

use std::io;
use std::os::fd::RawFd;

use arrayvec::ArrayVec;

use super::{Batch, Input, Tap};
use crate::guest::{Caps, LinkFull, SLOTS_MAX, ToGuest};
use crate::sys::iov::Scatter;
use crate::wire::Offload;
use crate::wire::checksum::Sum;

/// The link of this instance.
#[derive(Debug)]
pub enum Link {
    Tap(Tap),
    /// Frames to the guest are lost, and none come from it.
    None,
}

impl Link {
    /// Reads frames until the batch is full or the queue empty.
    ///
    /// # Errors
    /// The device is gone.
    pub fn receive(&mut self, batch: &mut Batch) -> io::Result<Input> {
        match self {
            Link::Tap(tap) => tap.receive(batch),
            Link::None => Ok(Input::Drained),
        }
    }

    /// What to poll.
    pub fn fd(&self) -> Option<RawFd> {
        match self {
            Link::Tap(tap) => Some(std::os::fd::AsRawFd::as_raw_fd(tap)),
            Link::None => None,
        }
    }

    /// See [`Tap::abandon`].
    pub fn abandon(&self) {
        if let Link::Tap(tap) = self {
            tap.abandon();
        }
    }

    /// Ends a loop turn.
    pub fn flush(&mut self) {
        if let Link::Tap(tap) = self {
            tap.flush();
        }
    }

    /// Frames and bytes that it took.
    pub fn sent(&self) -> (u64, u64) {
        match self {
            Link::Tap(tap) => (tap.frames_to_guest, tap.bytes_to_guest),
            Link::None => (0, 0),
        }
    }
}

impl ToGuest for Link {
    fn caps(&self) -> Caps {
        match self {
            Link::Tap(tap) => tap.caps(),
            Link::None => Caps { csum: false, tso: false, uso: false, mtu: ETHERNET_MTU },
        }
    }

    fn send(&mut self, frame: &[u8], offload: Offload) -> Result<(), LinkFull> {
        match self {
            Link::Tap(tap) => tap.send(frame, offload),
            Link::None => Ok(()),
        }
    }

    fn reserve(&mut self, areas: usize, len: usize) -> usize {
        match self {
            Link::Tap(tap) => tap.reserve(areas, len),
            Link::None => 0,
        }
    }

    fn areas(&mut self) -> ArrayVec<Scatter<'_>, SLOTS_MAX> {
        match self {
            Link::Tap(tap) => tap.areas(),
            Link::None => ArrayVec::new(),
        }
    }

    fn sum(&self, len: usize) -> Sum {
        match self {
            Link::Tap(tap) => tap.sum(len),
            Link::None => Sum::new(),
        }
    }

    fn commit(&mut self, head: &[u8], len: usize, offload: Offload) -> Result<(), LinkFull> {
        match self {
            Link::Tap(tap) => tap.commit(head, len, offload),
            Link::None => Ok(()),
        }
    }

    fn cancel(&mut self) {
        if let Link::Tap(tap) = self {
            tap.cancel();
        }
    }
}

/// What nobody asks for.
const ETHERNET_MTU: u16 = 1500;
