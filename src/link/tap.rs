//! A tap device: one frame a read, one frame a write, each behind a virtio-net header where the kernel gave us one.
//!
//! A frame is written when it is committed, while its payload is in the cache: the kernel delivers it to the guest's
//! stack before `writev` returns, so there is nothing to gain by waiting.
//!
//! A device may have several queues, and all that are ours are read. The kernel puts a flow's frames from the guest into the
//! queue that the flow was last written to, so what we write decides what waits behind what. Each [`Lane`] has a queue to be
//! written to: one for the windows of flows that transfer at full speed, one for everything else, which is read first. In the
//! other queues is little more than what nobody has answered yet.
//!
//! A flood that nobody answers may be in the same queue as a lane, and then the lane's frames would wait behind its, or be
//! lost at the queue's end: they are written to another queue from then on, and the flows that are answered follow. Which costs
//! each of them some reordering, so it must be worth it: TCP, which slows down by itself, is no flood, and a load that has
//! followed to the new queue is left alone for longer each time.

#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use super::batch::FRAMES;
use super::{Batch, Input, Tee};
use crate::guest::{Areas, Caps, Fill, Lane, LinkFull, Room, SLOTS_MAX, ToGuest};
use crate::sys::iov::{Gather, Scatter};
use crate::sys::tap as sys;
use crate::wire::checksum::Sum;
use crate::wire::vnet::{self, VNET_LEN};
use crate::wire::{ETH_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6, FRAME_MAX, IPV6_LEN, Offload, PROTO_TCP, be16};

/// So many full passes in a row are no burst: windows that we offer are read in fewer. In short passes.
const PRESSED: u32 = 16 * SHORTS;
/// As many as it takes at most, after loads that have followed: a second or two of small datagrams.
const PRESSED_MAX: u32 = 4096 * SHORTS;
/// What one pass takes from a queue at most: frames and bytes.
type Portion = (usize, usize);
/// All that a batch has room for.
const WHOLE: Portion = (usize::MAX, usize::MAX);
/// From another queue while the common lane's has frames now and then: 192 datagrams of a flood take some half a
/// millisecond.
const SHORT: Portion = (16, 128 << 10);
/// Short passes that are as much as a whole one, of frames that are not large.
const SHORTS: u32 = (FRAMES / SHORT.0) as u32;
/// For how many passes that is taken for granted.
const ATTENTIVE: u32 = 64;
/// After a flow has left the common lane, full passes in a row of its queue before others have a turn: a window. So much of
/// the flow may be there still, and would be overtaken.
const IN_A_ROW: u32 = 16;

/// Payload memory: as many areas as fit.
const ARENA_BYTES: usize = 1 << 20;

/// The guest's end is a network interface in its namespace; this is the other.
#[derive(Debug)]
pub struct Tap {
    /// Of each queue; at least one.
    fds: Vec<OwnedFd>,
    /// What may have frames: the others were empty when they were read last, and no event has come since.
    ready: Vec<bool>,
    /// Which of the queues other than the common lane's is read first: each in its turn, lest a busy one keep the others
    /// waiting.
    first: usize,
    /// The last batch was full of the common lane's queue, so that it is the others' turn.
    had_its_turn: bool,
    /// How often it may be again nevertheless; `None`: nobody has asked for that since others were read.
    row_left: Option<u32>,
    /// For so many passes of other queues to come, somebody seems to wait for the end of each.
    attentive: u32,
    /// Of each queue: passes that did not empty it and ended with a frame that is not TCP, since it was last empty; in short
    /// ones.
    pressed: Vec<u32>,
    /// Of each [`Lane`].
    ways: [Way; 2],
    /// Whose the next frame or reservation is, and the queue of the reservation there is.
    lane: Lane,
    reserved: usize,
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

/// Where the frames of a lane are written.
#[derive(Clone, Copy, Debug)]
struct Way {
    /// The queue, and the one before.
    out: usize,
    left: Option<usize>,
    /// So many pressed passes make us write elsewhere.
    patience: u32,
}

impl Tap {
    /// `fds`: queues of one nonblocking tap, at least one; `vnet`: it has the virtio-net header, ten bytes.
    pub fn new(fds: Vec<OwnedFd>, vnet: bool, caps: Caps, tee: Tee) -> Tap {
        let (pressed, ready) = (vec![0; fds.len()], vec![true; fds.len()]);
        let ways = [0, 1 % fds.len()].map(|out| Way { out, left: None, patience: PRESSED });
        Tap {
            fds,
            ready,
            first: 0,
            had_its_turn: false,
            row_left: None,
            attentive: 0,
            pressed,
            ways,
            lane: Lane::Common,
            reserved: 0,
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

    /// Reads frames until the batch has enough or all queues are empty.
    ///
    /// # Errors
    /// The device is gone.
    pub fn receive(&mut self, batch: &mut Batch) -> io::Result<Input> {
        // The common lane's queue has the first turn or the last, the others theirs between.
        let common = self.ways[Lane::Common as usize].out;
        let (first, count) = (self.first, self.fds.len());
        let before = (!self.had_its_turn).then_some(common);
        let others = (first..first + count).map(|place| place % count).filter(|queue| *queue != common);
        for queue in before.into_iter().chain(others).chain([common]) {
            if self.ready[queue] && self.receive_turn(queue, queue == common, batch)? == Input::More {
                return Ok(Input::More);
            }
        }
        Ok(Input::Drained)
    }

    fn receive_turn(&mut self, queue: usize, common: bool, batch: &mut Batch) -> io::Result<Input> {
        let before = batch.len();
        // Who has filled a batch alone does not wait for the end of a pass.
        let short = !common && self.attentive > 0 && !self.had_its_turn;
        let input = self.receive_from(queue, batch, if short { SHORT } else { WHOLE })?;
        if !common {
            self.row_left = None;
            self.attentive = self.attentive.saturating_sub(1);
        } else if batch.len() > before {
            self.attentive = ATTENTIVE;
        }
        if input == Input::Drained {
            self.emptied(queue, common);
            return Ok(input);
        }
        let tcp = batch.frames().next_back().is_some_and(|last| is_tcp(last.head));
        if !tcp {
            self.press(queue, if short { 1 } else { SHORTS });
        }
        let again = tcp && self.row_left.is_some_and(|left| left > 0);
        self.had_its_turn = common && !again;
        if common {
            self.row_left = self.row_left.map(|left| left.saturating_sub(1));
        } else {
            self.first = queue + 1;
        }
        Ok(input)
    }

    fn emptied(&mut self, queue: usize, common: bool) {
        (self.ready[queue], self.pressed[queue]) = (false, 0);
        let [one, bulk] = self.ways;
        if common {
            (self.had_its_turn, self.row_left) = (false, None);
        } else if bulk.out == one.out {
            // A flood had left no queue for each lane. Should it come back, it has to be a longer one.
            let patience = (2 * bulk.patience).min(PRESSED_MAX);
            self.ways[Lane::Bulk as usize] = Way { out: queue, left: Some(one.out), patience };
        }
    }

    /// A queue has frames, as an event has told.
    pub fn readable(&mut self, queue: usize) {
        if let Some(ready) = self.ready.get_mut(queue) {
            *ready = true;
        }
    }

    /// Leaves a queue that is never empty to whoever fills it.
    fn press(&mut self, queue: usize, passes: u32) {
        self.pressed[queue] = self.pressed[queue].saturating_add(passes);
        for lane in 0..self.ways.len() {
            let (way, other) = (self.ways[lane], self.ways[1 - lane].out);
            if way.out != queue || self.pressed[queue] < way.patience {
                continue;
            }
            // One of its own, if there is one.
            let quiet = |free: &usize| self.pressed[*free] == 0;
            let Some(out) = (0..self.fds.len()).filter(quiet).min_by_key(|free| *free == other) else { return };
            let followed = way.left.is_some_and(|left| self.pressed[left] == 0);
            let patience = if followed { (2 * way.patience).min(PRESSED_MAX) } else { PRESSED };
            self.ways[lane] = Way { out, left: Some(queue), patience };
        }
    }

    /// The queue for the next frame or reservation.
    fn way(&mut self) -> usize {
        self.ways[std::mem::take(&mut self.lane) as usize].out
    }

    fn receive_from(&mut self, queue: usize, batch: &mut Batch, portion: Portion) -> io::Result<Input> {
        let skip = if self.vnet { VNET_LEN } else { 0 };
        let before = (batch.len(), batch.bytes());
        while !batch.is_full() && batch.len() - before.0 < portion.0 && batch.bytes() - before.1 < portion.1 {
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

    fn steer(&mut self, lane: Lane) {
        self.lane = lane;
    }

    fn diverts(&mut self) {
        if self.row_left.is_none() {
            (self.row_left, self.had_its_turn) = (Some(IN_A_ROW), false);
        }
    }

    fn send(&mut self, frame: &[u8], offload: Offload) -> Result<(), LinkFull> {
        let header = vnet_header(frame, offload);
        let both = [Gather::new(&header), Gather::new(frame)];
        let out = self.way();
        let outcome = sys::write(self.fds[out].as_fd(), if self.vnet { &both } else { &both[1..] });
        if self.wrote(outcome)? {
            self.tee.to_guest(frame, &[]);
        }
        Ok(())
    }

    fn reserve(&mut self, areas: usize, _: usize, len: usize, _: Fill) -> usize {
        self.reserved = self.way();
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
        let outcome = sys::write(self.fds[self.reserved].as_fd(), if self.vnet { &all } else { &all[1..] });
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
