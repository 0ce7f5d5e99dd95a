//! A tap device: one frame a read, one frame a write, each behind a virtio-net header where the kernel gave us one.
//!
//! A frame is written when it is committed, while its payload is in the cache: the kernel delivers it to the guest's
//! stack before `writev` returns, so there is nothing to gain by waiting.
//!
//! A device may have several queues. All that are ours are read; all frames are written to one. The kernel puts a flow's
//! frames from the guest into the queue that the flow was last written to, so flows gravitate to that one, and in the
//! others is little more than what nobody has answered yet. A flood that nobody answers may be in the same one, and then
//! the others' frames would wait behind its, or be lost at the queue's end: frames are written to another queue from then
//! on, and the flows that are answered follow. Which costs each of them some reordering, so it must be worth it: TCP, which
//! slows down by itself, is no flood, and a load that has followed to the new queue is left alone for longer each time.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use super::{Batch, Input, Tee};
use crate::guest::{Areas, Caps, Fill, LinkFull, Room, SLOTS_MAX, ToGuest};
use crate::sys::iov::{Gather, Scatter};
use crate::sys::tap as sys;
use crate::wire::checksum::Sum;
use crate::wire::vnet::{self, VNET_LEN};
use crate::wire::{ETH_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6, FRAME_MAX, IPV6_LEN, Offload, PROTO_TCP, be16};

/// So many full passes in a row are no burst: windows that we offer are read in fewer.
const PRESSED: u32 = 16;
/// As many as it takes at most, after loads that have followed: a second or two of small datagrams.
const PRESSED_MAX: u32 = 4096;

/// Payload memory: as many areas as fit.
const ARENA_BYTES: usize = 1 << 20;

/// The guest's end is a network interface in its namespace; this is the other.
#[derive(Debug)]
pub struct Tap {
    /// Of each queue; at least one.
    fds: Vec<OwnedFd>,
    /// What may have frames: the others were empty when they were read last, and no event has come since.
    ready: Vec<bool>,
    /// To be read first: each in its turn, lest a busy one keep the others waiting.
    first: usize,
    /// Passes of each queue that have ended with a frame that is not TCP because the batch was full, since the queue was
    /// last empty.
    pressed: Vec<u32>,
    /// So many make us write elsewhere.
    patience: u32,
    /// Where frames are written, and were before.
    out: usize,
    left: Option<usize>,
    vnet: bool,
    caps: Caps,
    arena: Vec<u8>,
    /// Areas reserved: size of each, how many are committed, how many there are.
    area_len: usize,
    next: usize,
    areas: usize,
    tee: Tee,
    /// The kernel takes no frames. It has reasons to only where somebody has made the device's send buffer small.
    stuck: bool,
    /// Frames that it did not take at all.
    lost: u64,
}

impl Tap {
    /// `fds`: queues of one nonblocking tap, at least one; `vnet`: it has the virtio-net header, ten bytes.
    pub fn new(fds: Vec<OwnedFd>, vnet: bool, caps: Caps, tee: Tee) -> Tap {
        let (pressed, ready) = (vec![0; fds.len()], vec![true; fds.len()]);
        Tap {
            fds,
            ready,
            first: 0,
            pressed,
            patience: PRESSED,
            out: 0,
            left: None,
            vnet,
            caps,
            arena: vec![0; ARENA_BYTES],
            area_len: 1,
            next: 0,
            areas: 0,
            tee,
            stuck: false,
            lost: 0,
        }
    }

    /// Reads frames until the batch is full or all queues are empty.
    ///
    /// # Errors
    /// The device is gone.
    pub fn receive(&mut self, batch: &mut Batch) -> io::Result<Input> {
        for _ in 0..self.fds.len() {
            let queue = self.first;
            self.first = (queue + 1) % self.fds.len();
            if !self.ready[queue] {
                continue;
            }
            if self.receive_from(queue, batch)? == Input::More {
                self.press(queue, batch);
                return Ok(Input::More);
            }
            (self.ready[queue], self.pressed[queue]) = (false, 0);
        }
        Ok(Input::Drained)
    }

    /// A queue has frames, as an event has told.
    pub fn readable(&mut self, queue: usize) {
        if let Some(ready) = self.ready.get_mut(queue) {
            *ready = true;
        }
    }

    /// Leaves a queue that is never empty to whoever fills it.
    fn press(&mut self, queue: usize, batch: &Batch) {
        if batch.frames().next_back().is_some_and(|last| is_tcp(last.head)) {
            return;
        }
        self.pressed[queue] = self.pressed[queue].saturating_add(1);
        if queue != self.out || self.pressed[queue] < self.patience {
            return;
        }
        let Some(quiet) = self.pressed.iter().position(|passes| *passes == 0) else { return };
        let followed = self.left.is_some_and(|left| self.pressed[left] == 0);
        self.patience = if followed { (2 * self.patience).min(PRESSED_MAX) } else { PRESSED };
        (self.left, self.out) = (Some(self.out), quiet);
    }

    fn receive_from(&mut self, queue: usize, batch: &mut Batch) -> io::Result<Input> {
        let skip = if self.vnet { VNET_LEN } else { 0 };
        while !batch.is_full() {
            let room = batch.room();
            let n = match sys::read(self.fds[queue].as_fd(), room) {
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(Input::Drained),
                Err(e) => return Err(e),
            };
            let offload = match room.first_chunk::<VNET_LEN>() {
                Some(h) if self.vnet => vnet::read(h),
                _ => Some(Offload::NONE),
            };
            // A length or header the device cannot give leaves nothing to forward.
            let (Some(len), Some(offload)) = (n.checked_sub(skip), offload) else { continue };
            self.tee.from_guest(&room[skip..n]);
            batch.push(skip, len.min(FRAME_MAX + 1), offload);
        }
        Ok(Input::More)
    }

    /// To be called when nobody is left in the guest's namespace. Destroying a device waits for an RCU grace period, some
    /// 20 ms of the caller's time; left to its namespace, it goes when the kernel tears that down, in the background.
    pub fn abandon(&self) {
        // A device that is gone already needs nothing.
        let _ = crate::sys::tun::make_persistent(&self.fds[0]);
    }

    pub fn tee(&mut self) -> &mut Tee {
        &mut self.tee
    }

    /// Ends a loop turn.
    pub fn flush(&mut self) {
        self.tee.flush();
    }

    /// Frames and bytes that it took.
    pub fn sent(&self) -> (u64, u64) {
        self.tee.sent()
    }

    /// What to poll: each queue.
    pub fn fds(&self) -> Vec<RawFd> {
        self.fds.iter().map(AsRawFd::as_raw_fd).collect()
    }

    /// It takes frames again, or should have.
    pub fn writable(&mut self) {
        self.stuck = false;
    }

    /// No event may tell when it goes on: [`Tap::writable`] is to be called after a while.
    pub fn is_stuck(&self) -> bool {
        self.stuck
    }

    /// Frames that it did not take, and never will.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// True if the frame is on its way; false if it is lost.
    fn wrote(&mut self, outcome: io::Result<usize>) -> Result<bool, LinkFull> {
        match outcome {
            Ok(_) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                self.stuck = true;
                Err(LinkFull)
            }
            // The interface is down, or the kernel had no memory for the frame: lost on the wire, as on any.
            Err(_) => {
                self.lost += 1;
                Ok(false)
            }
        }
    }
}

impl ToGuest for Tap {
    fn caps(&self) -> Caps {
        self.caps
    }

    fn room(&self) -> Room {
        if self.stuck { Room::Full } else { Room::Free }
    }

    fn send(&mut self, frame: &[u8], offload: Offload) -> Result<(), LinkFull> {
        let header = vnet_header(frame, offload);
        let both = [Gather::new(&header), Gather::new(frame)];
        let outcome = sys::write(self.fds[self.out].as_fd(), if self.vnet { &both } else { &both[1..] });
        if self.wrote(outcome)? {
            self.tee.to_guest(frame, &[]);
        }
        Ok(())
    }

    fn reserve(&mut self, areas: usize, _: usize, len: usize, _: Fill) -> usize {
        self.area_len = len.max(1);
        self.next = 0;
        self.areas = areas.min(self.arena.len() / self.area_len).min(SLOTS_MAX);
        self.areas
    }

    fn areas<'a>(&'a mut self, list: &mut Areas<'a>) {
        let (from, to) = (self.next * self.area_len, self.areas * self.area_len);
        list.extend(self.arena[from..to].chunks_exact_mut(self.area_len).map(Scatter::new));
    }

    fn sum(&self, len: usize) -> Sum {
        let at = self.next * self.area_len;
        Sum::new().add(&self.arena[at..at + len])
    }

    fn commit(&mut self, head: &[u8], len: usize, offload: Offload) -> Result<(), LinkFull> {
        let at = self.next * self.area_len;
        self.next += 1;
        let header = vnet_header(head, offload);
        let all = [Gather::new(&header), Gather::new(head), Gather::new(&self.arena[at..at + len])];
        let outcome = sys::write(self.fds[self.out].as_fd(), if self.vnet { &all } else { &all[1..] });
        if self.wrote(outcome)? {
            self.tee.to_guest(head, &self.arena[at..at + len]);
        }
        Ok(())
    }

    fn cancel(&mut self) {
        self.areas = 0;
        self.next = 0;
    }
}

/// Unless there are headers between, which few frames have.
fn is_tcp(frame: &[u8]) -> bool {
    match frame.len() >= ETH_LEN + IPV6_LEN {
        true if be16(frame, 12) == ETHERTYPE_IPV6 => frame[ETH_LEN + 6] == PROTO_TCP,
        true => be16(frame, 12) == ETHERTYPE_IPV4 && frame[ETH_LEN + 9] == PROTO_TCP,
        false => false,
    }
}

fn vnet_header(head: &[u8], offload: Offload) -> [u8; VNET_LEN] {
    let v6 = head.len() >= 14 && be16(head, 12) == ETHERTYPE_IPV6;
    vnet::write(&offload, v6, head.len())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;

    /// What is read and written a frame at a time is as good as a tap.
    #[test]
    fn one_that_takes_nothing_is_full_until_it_is_tried_again() {
        let (ours, guest) = UnixDatagram::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let caps = Caps { csum: false, tso: false, uso: false, mtu: 1500 };
        let mut tap = Tap::new(vec![ours.into()], false, caps, Tee::default());
        let taken = (0..10_000).take_while(|_| tap.send(&[1; 60], Offload::NONE).is_ok()).count();
        assert!(taken < 10_000 && tap.is_stuck() && tap.room() == Room::Full);
        guest.recv(&mut [0; 60]).unwrap();
        tap.writable();
        assert_eq!((tap.room(), tap.send(&[1; 60], Offload::NONE), tap.lost()), (Room::Free, Ok(()), 0));
    }

    /// A load fills queue 0: `follows` where we write, or stays. Returns where we write in the end, and the passes it took.
    fn flooded(protocol: u8, follows: bool) -> (usize, u32) {
        let caps = Caps { csum: false, tso: false, uso: false, mtu: 1500 };
        let (ends, guest): (Vec<_>, Vec<_>) = (0..2).map(|_| UnixDatagram::pair().unwrap()).unzip();
        ends.iter().for_each(|end| end.set_nonblocking(true).unwrap());
        let mut tap = Tap::new(ends.into_iter().map(Into::into).collect(), false, caps, Tee::default());
        let mut frame = [0; 60];
        (frame[12], frame[ETH_LEN + 9]) = (8, protocol);
        let mut batch = Batch::new();
        for passes in 0..3 * PRESSED {
            if !follows && tap.out == 1 {
                return (1, passes);
            }
            let queue = if follows { tap.out } else { 0 };
            while !batch.is_full() {
                guest[queue].send(&frame).unwrap();
                tap.receive_from(queue, &mut batch).unwrap();
            }
            tap.press(queue, &batch);
            batch.clear();
            if follows {
                // What it has left is empty before long.
                tap.pressed[1 - tap.out] = 0;
            }
        }
        (tap.out, tap.patience)
    }

    #[test]
    fn a_flood_is_left_to_its_queue() {
        assert_eq!(flooded(17, false), (1, PRESSED));
    }

    #[test]
    fn tcp_is_no_flood() {
        assert_eq!(flooded(PROTO_TCP, false), (0, PRESSED));
    }

    #[test]
    fn a_load_that_follows_is_left_alone_for_longer_each_time() {
        // 16 passes, then 32.
        assert_eq!(flooded(17, true), (0, 2 * PRESSED));
    }

    #[test]
    fn what_is_not_taken_is_counted() {
        let (ours, guest) = UnixDatagram::pair().unwrap();
        let caps = Caps { csum: false, tso: false, uso: false, mtu: 1500 };
        let mut tap = Tap::new(vec![ours.into()], false, caps, Tee::default());
        drop(guest);
        assert_eq!((tap.send(&[1; 60], Offload::NONE), tap.lost(), tap.sent().0), (Ok(()), 1, 0));
    }
}
