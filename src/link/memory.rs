//! A link without a descriptor, for an engine that is a part of another program: that puts the guest's frames in and takes out
//! those to the guest, on the engine's own thread.
//!
//! *From the guest.* Up to [`QUEUE`] frames wait for the next turn; more are refused. Their checksums are verified.
//!
//! *To the guest.* As with a socket, frames wait in 1 MiB of memory. When that is full, payload stays in the host's sockets
//! ([`Room::Full`]) until frames have been taken out; nothing is lost but datagrams for which the host has no room either.

use std::collections::VecDeque;

use super::outbox::Outbox;
use super::{Batch, Input, Tee};
use crate::guest::{Areas, Caps, Fill, LinkFull, Room, ToGuest};
use crate::wire::checksum::Sum;
use crate::wire::{FRAME_MAX, Offload};

/// Frames of the guest that may wait.
pub const QUEUE: usize = 256;

/// Both directions of a guest's link.
#[derive(Debug)]
pub struct Memory {
    from_guest: VecDeque<Vec<u8>>,
    out: Outbox,
    /// Somebody has been refused, and waits to hear that there is room.
    full: bool,
    caps: Caps,
    tee: Tee,
}

impl Memory {
    /// No offloads: each frame to the guest is complete and no longer than `mtu` (of IP, in bytes) allows.
    pub fn new(mtu: u16, tee: Tee) -> Memory {
        let caps = Caps { csum: false, tso: false, uso: false, mtu };
        Memory { from_guest: VecDeque::new(), out: Outbox::new(), full: false, caps, tee }
    }

    /// A frame of the guest, for [`Memory::receive`].
    ///
    /// # Errors
    /// [`LinkFull`]: too many wait.
    pub fn put(&mut self, frame: &[u8]) -> Result<(), LinkFull> {
        if self.from_guest.len() >= QUEUE {
            return Err(LinkFull);
        }
        // One that is too long stays so: it is refused by name where frames are parsed.
        self.from_guest.push_back(frame[..frame.len().min(FRAME_MAX + 1)].to_vec());
        Ok(())
    }

    /// The oldest frame to the guest, and whether somebody waits for the room that it leaves.
    pub fn take(&mut self) -> Option<(Vec<u8>, bool)> {
        let mut frame = Vec::new();
        self.out.oldest()?.copy_to(&mut frame);
        self.out.messages_left(1);
        Some((frame, self.full))
    }

    pub fn receive(&mut self, batch: &mut Batch) -> Input {
        while !batch.is_full() {
            let Some(frame) = self.from_guest.pop_front() else { return Input::Drained };
            batch.room()[..frame.len()].copy_from_slice(&frame);
            batch.push(0, frame.len(), Offload::NONE);
            self.tee.from_guest(&frame);
        }
        Input::More
    }

    /// Frames have been taken out.
    pub fn writable(&mut self) {
        self.full = false;
    }

    /// Ends a loop turn.
    pub fn flush(&mut self) {
        self.tee.flush();
    }

    pub fn tee(&mut self) -> &mut Tee {
        &mut self.tee
    }

    /// Frames and bytes that it took.
    pub fn sent(&self) -> (u64, u64) {
        self.tee.sent()
    }
}

impl ToGuest for Memory {
    fn caps(&self) -> Caps {
        self.caps
    }

    fn room(&self) -> Room {
        if self.full { Room::Full } else { Room::Free }
    }

    fn send(&mut self, frame: &[u8], _: Offload) -> Result<(), LinkFull> {
        let sent = self.out.push(frame);
        self.full |= sent.is_err();
        self.tee.to_guest(sent?, &[]);
        Ok(())
    }

    fn reserve(&mut self, areas: usize, head_len: usize, len: usize, _: Fill) -> usize {
        if self.full {
            return 0;
        }
        let reserved = self.out.reserve(areas, head_len, len);
        self.full = reserved == 0;
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
mod tests {
    use super::*;
    use crate::guest::Reservation;

    fn link() -> Memory {
        Memory::new(1500, Tee::default())
    }

    #[test]
    fn frames_of_the_guest_come_in_order_and_are_bounded() {
        let (mut link, mut batch) = (link(), Batch::new());
        for n in 0..QUEUE {
            assert_eq!(link.put(&[n as u8; 60]), Ok(()));
        }
        assert_eq!(link.put(&[0; 60]), Err(LinkFull));
        let mut seen = Vec::new();
        loop {
            batch.clear();
            let input = link.receive(&mut batch);
            seen.extend(batch.frames().map(|f| (f.head[0], f.len())));
            if input == Input::Drained {
                break;
            }
        }
        let expected: Vec<_> = (0..QUEUE).map(|n| (n as u8, 60)).collect();
        assert_eq!(seen, expected);
        assert_eq!(link.put(&[0; 60]), Ok(()));
    }

    #[test]
    fn what_no_frame_can_be_is_one_byte_too_long() {
        let (mut link, mut batch) = (link(), Batch::new());
        link.put(&vec![0; FRAME_MAX + 1000]).unwrap();
        assert_eq!(link.receive(&mut batch), Input::Drained);
        assert_eq!(batch.frames().next().unwrap().len(), FRAME_MAX + 1);
    }

    #[test]
    fn full_memory_refuses_until_frames_are_taken_and_the_link_told() {
        let mut link = link();
        let mut committed = 0;
        while let Some(mut r) = Reservation::new(&mut link, 8, 54, 1446, Fill::Stream) {
            while r.left() > 0 {
                r.commit(&[committed as u8; 54], 1446, Offload::NONE).unwrap();
                committed += 1;
            }
        }
        assert!(committed > 600, "{committed}");
        assert_eq!(link.room(), Room::Full);
        let (frame, waited_for) = link.take().unwrap();
        assert_eq!((frame.len(), frame[0], waited_for), (1500, 0, true));
        assert!(Reservation::new(&mut link, 1, 54, 1446, Fill::Stream).is_none(), "it was not told");
        link.writable();
        assert_eq!(link.room(), Room::Free);
        let rest: Vec<_> = std::iter::from_fn(|| link.take()).map(|(frame, _)| frame[0]).collect();
        let expected: Vec<_> = (1..committed).map(|n| n as u8).collect();
        assert_eq!(rest, expected);
        assert!(Reservation::new(&mut link, 1, 54, 1446, Fill::Stream).is_some());
    }

    #[test]
    fn short_frames_are_padded() {
        let mut link = link();
        link.send(&[7; 42], Offload::NONE).unwrap();
        assert_eq!(link.take().unwrap().0.len(), 60);
        assert_eq!(link.take(), None);
    }
}
