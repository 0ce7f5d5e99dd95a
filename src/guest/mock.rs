//! A guest link in memory, for tests and benches: what is sent is kept, what it can do is set by hand. (For a program with the engine
//! in it there is `link::Memory`.)

use std::collections::VecDeque;

use super::{Areas, Caps, Fill, Lane, LinkFull, SLOTS_MAX, ToGuest};
use crate::sys::iov::Scatter;
use crate::wire::Offload;
use crate::wire::checksum::Sum;

/// Collects the frames sent to the guest.
#[derive(Debug)]
pub struct MockLink {
    pub caps: Caps,
    /// Frames taken, oldest first.
    pub sent: Vec<(Vec<u8>, Offload)>,
    /// Frames it still takes and areas it still gives; `usize::MAX` for no limit, 0 for a full link.
    pub room: usize,
    /// Payload of its longest area.
    pub longest: usize,
    /// Whose the last frame was that it took.
    pub lane: Lane,
    /// Whose the next is, and the reservation there is.
    next: Lane,
    reserved: Lane,
    areas: VecDeque<Vec<u8>>,
}

impl Default for MockLink {
    /// No offloads, MTU 65520, never full.
    fn default() -> MockLink {
        MockLink::new(Caps { csum: false, tso: false, uso: false, mtu: 65520 })
    }
}

impl MockLink {
    pub fn new(caps: Caps) -> MockLink {
        let (lane, next, reserved) = Default::default();
        let (room, longest) = (usize::MAX, usize::MAX);
        MockLink { caps, sent: Vec::new(), room, longest, lane, next, reserved, areas: VecDeque::new() }
    }

    /// Frames sent since the last call, without their offload metadata.
    pub fn take(&mut self) -> Vec<Vec<u8>> {
        self.sent.drain(..).map(|(frame, _)| frame).collect()
    }

    /// Areas reserved and neither committed nor given back; 0 whenever no reservation is alive.
    pub fn reserved(&self) -> usize {
        self.areas.len()
    }

    fn push(&mut self, frame: Vec<u8>, offload: Offload, lane: Lane) -> Result<(), LinkFull> {
        if self.room == 0 {
            return Err(LinkFull);
        }
        if self.room != usize::MAX {
            self.room -= 1;
        }
        self.sent.push((frame, offload));
        self.lane = lane;
        Ok(())
    }
}

impl ToGuest for MockLink {
    fn caps(&self) -> Caps {
        self.caps
    }

    fn steer(&mut self, lane: Lane) {
        self.next = lane;
    }

    fn send(&mut self, frame: &[u8], offload: Offload) -> Result<(), LinkFull> {
        let lane = std::mem::take(&mut self.next);
        self.push(frame.to_vec(), offload, lane)
    }

    fn reserve(&mut self, areas: usize, _: usize, len: usize, _: Fill) -> usize {
        self.reserved = std::mem::take(&mut self.next);
        let n = if len > self.longest { 0 } else { areas.min(SLOTS_MAX).min(self.room) };
        self.areas = (0..n).map(|_| vec![0; len]).collect();
        n
    }

    fn areas<'a>(&'a mut self, list: &mut Areas<'a>) {
        list.extend(self.areas.iter_mut().map(|a| Scatter::new(a)));
    }

    fn sum(&self, len: usize) -> Sum {
        self.areas.front().map_or(Sum::new(), |a| Sum::new().add(&a[..len]))
    }

    fn commit(&mut self, head: &[u8], len: usize, offload: Offload) -> Result<(), LinkFull> {
        let area = self.areas.pop_front().ok_or(LinkFull)?;
        let mut frame = head.to_vec();
        frame.extend_from_slice(&area[..len]);
        self.push(frame, offload, self.reserved)
    }

    fn cancel(&mut self) {
        self.areas.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::Reservation;

    #[test]
    fn committed_areas_become_frames_and_the_rest_is_given_back() {
        let mut link = MockLink::default();
        {
            let mut r = Reservation::new(&mut link, 3, 4, 4, Fill::Stream).unwrap();
            let mut areas = Areas::new();
            r.areas(&mut areas);
            assert_eq!(areas.len(), 3);
            drop(areas);
            assert_eq!(r.left(), 3);
            r.commit(b"head", 2, Offload::NONE).unwrap();
            assert_eq!(r.left(), 2);
        }
        assert_eq!(link.reserved(), 0);
        assert_eq!(link.take(), [b"head\0\0".to_vec()]);
    }

    #[test]
    fn a_full_link_refuses() {
        let mut link = MockLink { room: 1, ..MockLink::default() };
        assert_eq!(link.send(b"a", Offload::NONE), Ok(()));
        assert_eq!(link.send(b"b", Offload::NONE), Err(LinkFull));
        assert!(Reservation::new(&mut link, 1, 4, 1, Fill::Stream).is_none());
        assert_eq!(link.sent.len(), 1);
    }
}
