//! Output to the guest: payload areas are reserved, filled by the kernel, and committed or rolled back on drop.

use arrayvec::ArrayVec;

use crate::base::{Counters, DropReason};
use crate::sys::iov::Scatter;
use crate::wire::Offload;
use crate::wire::checksum::Sum;
use crate::wire::emit::PayloadSum;

/// Payload areas one reservation can have.
pub const SLOTS_MAX: usize = 64;
/// Pieces that all areas of a reservation together can have.
pub const PIECES_MAX: usize = 320;

/// What areas consist of, in order: to receive into.
pub type Areas<'a> = ArrayVec<Scatter<'a>, PIECES_MAX>;

/// How areas are going to be filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// One behind the other: only the last that is used may have room left.
    Stream,
    /// A message in each, however short.
    Messages,
}

/// What a frame to the guest belongs to, for links where it decides what the guest's own frames wait behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lane {
    #[default]
    Common,
    /// A flow with so much under way from the guest that others should not have to wait behind it.
    Bulk,
}

/// What the link can take off our hands. All lengths in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caps {
    /// Partial checksums are finished by the link.
    pub csum: bool,
    /// Frames with [`crate::wire::Gso::Tcp`] are segmented by the link or taken whole by the guest.
    pub tso: bool,
    /// The same for [`crate::wire::Gso::Udp`].
    pub uso: bool,
    /// IP MTU of the guest link.
    pub mtu: u16,
}

/// The link takes no more frames now; it will say when it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkFull;

/// Whether a link takes frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    Free,
    /// Not now: the guest does not read. Nothing that it was sent is lost, and an event will tell when it reads again. It may
    /// take small frames of ours still.
    Full,
    /// There is no guest now; an event will tell when one comes.
    Nobody,
}

/// Counts what became of a frame of `len_bytes` to the guest, and passes it on.
///
/// # Errors
/// As given.
pub fn counted(sent: Result<(), LinkFull>, len_bytes: usize, counters: &mut Counters) -> Result<(), LinkFull> {
    match sent {
        Ok(()) => {
            counters.frames_to_guest += 1;
            counters.bytes_to_guest += len_bytes as u64;
        }
        Err(LinkFull) => counters.drop(DropReason::LinkFull),
    }
    sent
}

/// The guest link as an engine sees it. Implemented by links; engines use [`Reservation`] and [`ToGuest::send`].
pub trait ToGuest {
    fn caps(&self) -> Caps;

    /// Asked by those who can leave what they have where it is, before they take it.
    fn room(&self) -> Room {
        Room::Free
    }

    /// The next frame or reservation, and only that, is of this lane. Most links have one way for all.
    fn steer(&mut self, _: Lane) {}

    /// Frames of a flow that were common so far will be bulk from the next one on.
    fn diverts(&mut self) {}

    /// Sends a whole frame (Ethernet header included) from ordinary memory.
    ///
    /// # Errors
    /// [`LinkFull`]: the frame was not sent.
    fn send(&mut self, frame: &[u8], offload: Offload) -> Result<(), LinkFull>;

    /// Reserves up to `areas` payload areas of `len` bytes each, for frames whose headers have `head_len` bytes, and
    /// returns how many there are; use [`Reservation`]. None while there is [`Room::Free`]: areas so long are never to be had,
    /// and shorter ones may be.
    fn reserve(&mut self, areas: usize, head_len: usize, len: usize, fill: Fill) -> usize;

    /// Appends the areas reserved and not yet committed, in order, to `list`. With [`Fill::Messages`] all
    /// are of as many pieces.
    fn areas<'a>(&'a mut self, list: &mut Areas<'a>);

    /// Sum over the first `len` bytes of the next area, for links without checksum offload.
    fn sum(&self, len: usize) -> Sum;

    /// Sends `head` and the first `len` bytes of the next area as one frame; the area is used up either way.
    ///
    /// # Errors
    /// [`LinkFull`]: the frame was not sent.
    fn commit(&mut self, head: &[u8], len: usize, offload: Offload) -> Result<(), LinkFull>;

    /// Gives back all areas not committed.
    fn cancel(&mut self);
}

/// Payload areas of the link, given back on drop unless committed.
pub struct Reservation<'a> {
    link: &'a mut dyn ToGuest,
    left: usize,
}

impl<'a> Reservation<'a> {
    /// Up to `areas` areas of `len` bytes, behind headers of `head_len`; `None` if the link has none to give now, or of that
    /// length.
    pub fn new(
        link: &'a mut dyn ToGuest,
        areas: usize,
        head_len: usize,
        len: usize,
        fill: Fill,
    ) -> Option<Reservation<'a>> {
        let left = link.reserve(areas.min(SLOTS_MAX), head_len, len, fill);
        (left > 0).then_some(Reservation { link, left })
    }

    /// Areas left.
    pub fn left(&self) -> usize {
        self.left
    }

    /// Appends the areas left to `list`, to receive into.
    pub fn areas<'b>(&'b mut self, list: &mut Areas<'b>) {
        self.link.areas(list);
    }

    /// How to make the transport checksum of a frame with `len` payload bytes in the next area.
    pub fn payload_sum(&self, len: usize) -> PayloadSum {
        if self.link.caps().csum { PayloadSum::Partial } else { PayloadSum::Of(self.link.sum(len)) }
    }

    /// Sends the next area with `head` before it.
    ///
    /// # Errors
    /// [`LinkFull`]: the frame was not sent; the area is used up all the same.
    pub fn commit(&mut self, head: &[u8], len: usize, offload: Offload) -> Result<(), LinkFull> {
        debug_assert!(self.left > 0);
        self.left -= 1;
        self.link.commit(head, len, offload)
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        self.link.cancel();
    }
}
