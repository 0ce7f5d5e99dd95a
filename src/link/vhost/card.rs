//! The way of frames to and from the guest, over the pairs of rings that this card has: all of the guest's, or those that were lent
//! to it. See [`super`].

mod buffers;

use std::collections::VecDeque;

use super::device::{GUEST_CSUM, GUEST_TSO, GUEST_USO};
use super::ring::Broken;
use super::rings::{PAIRS, Pairs, Rings};
use super::supply::{Short, part};
use crate::guest::{Areas, Caps, FRAME_PIECES, Fill, LinkFull, Room, ToGuest};
use crate::link::socket::Gone;
use crate::link::{Batch, Input, Tee};
use crate::sys::memory::{GuestMemory, Piece};
use crate::wire::checksum::Sum;
use crate::wire::vnet::{self, VNET_V1_LEN};
use crate::wire::{ETH_LEN, ETHERTYPE_IPV6, FRAME_MAX, Gso, Offload, be16};

/// Frames up to this length are copied whole: to hand on one more piece costs more.
pub const COPY_WHOLE: usize = 2048;
/// Of longer ones these bytes: more than all headers that are looked at.
const COPY_HEAD: usize = 256;
/// Bytes of small frames that may wait for buffers.
pub const WAITING_BYTES: usize = 1 << 20;
/// Where large frames were agreed on, drivers have buffers for them, behind the header (virtio 1.2 §5.1.6.3.1).
const LARGE_FRAME: usize = 65_562 - VNET_V1_LEN;
/// Whoever has an address takes packets of this length (RFC 1122 §3.3.2): shorter buffers are no reason to make shorter ones.
const MTU_LEAST: usize = 576;
/// Chains of one pass, those that make no sense included.
const CHAINS: usize = 256;
/// Log lines about broken rings.
const BROKEN_TOLD: u64 = 10;
/// Entries that a ring to the guest needs for frames of 64 KiB in buffers of the usual size, some of them at a time.
const LARGE_RING: u16 = 128;

/// Frames to and from the guest.
#[derive(Debug)]
pub struct Card {
    pub(super) rings: Rings,
    /// Found when rings come, go or change: the pairs that may have frames, the ring to the guest, and whether it takes any.
    sources: Pairs,
    outlet: usize,
    ready: bool,
    mtu: u16,
    tee: Tee,
    /// The rings are with the first worker, and will come back.
    away: bool,
    /// See [`Card::has_broken`].
    broke: bool,
    /// The driver tells only when there are several buffers; see [`Card::is_stuck`].
    patient: bool,
    /// Where the driver's buffers ended when they were used up last.
    full_at: Option<u16>,
    /// No buffer is left; the driver's kick will tell when there is one.
    full: bool,
    /// Areas were asked for that no buffers make. Shorter ones may be had at once.
    too_long: bool,
    /// Small frames that wait for buffers, with their headers, and the bytes of them: a burst of answers may be longer than the
    /// ring, and who does not get one asks again after a second.
    waiting: VecDeque<([u8; VNET_V1_LEN], Vec<u8>)>,
    pub(super) waiting_bytes: usize,
    /// The pair whose ring is looked at first.
    first: usize,
    /// Frames that waited in vain, or that no buffer holds.
    lost: u64,
    /// Chains that made no sense, and rings.
    faults: u64,
    broken: u64,
    pieces: Vec<Piece>,
}

impl Card {
    /// Has no rings yet.
    pub fn new(mtu: u16, tee: Tee) -> Card {
        Card {
            rings: Rings::default(),
            sources: Pairs::NONE,
            outlet: 0,
            ready: false,
            mtu,
            tee,
            away: false,
            patient: false,
            full_at: None,
            full: false,
            too_long: false,
            broke: false,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            first: 0,
            lost: 0,
            faults: 0,
            broken: 0,
            pieces: Vec::new(),
        }
    }

    /// Works on these rings from now on; it must have none. What came meanwhile may never be told of: they are to be looked
    /// at once.
    pub fn adopt(&mut self, rings: Rings) {
        debug_assert_eq!(self.rings.pairs, Pairs::NONE);
        self.rings = rings;
        self.away = false;
        self.changed();
        self.writable();
    }

    /// True if this ring is here.
    pub fn has(&self, ring: usize) -> bool {
        self.rings.pairs.has(ring / 2)
    }

    /// True if the driver has broken a ring since the last call.
    pub fn has_broken(&mut self) -> bool {
        std::mem::take(&mut self.broke)
    }

    /// The rings, with nothing in them undone: another thread goes on with them. Between turns of the loop only, when all frames
    /// of the guest are released. Small frames that wait for buffers stay here: rings are away only while the
    /// hypervisor says something, mostly about interrupts, and those frames answer what nobody would ask again soon. If none come
    /// back, [`Card::disconnect`] counts them.
    pub fn give_back(&mut self) -> Rings {
        self.rings.publish_all();
        let rings = std::mem::take(&mut self.rings);
        self.away = rings.pairs != Pairs::NONE;
        self.full = false;
        self.changed();
        rings
    }

    /// The guest has gone, with all that waits for it.
    pub fn disconnect(&mut self, batch: &mut Batch) {
        batch.clear();
        (self.away, self.full) = (false, false);
        self.lost += self.waiting.len() as u64;
        self.waiting.clear();
        self.waiting_bytes = 0;
        self.changed();
    }

    /// Finds the ways of frames after any change in the rings. True if those to the guest take another one now.
    pub(super) fn changed(&mut self) -> bool {
        let before = self.outlet;
        self.sources = self.rings.sources();
        (self.outlet, self.ready) = self.rings.outlet();
        let moved = self.outlet != before;
        if moved {
            self.rings.publish(before);
            self.full = false;
        }
        moved
    }

    /// Frames of the guest, until the batch is full or there are no more. Only a pass that finds nothing ends the work.
    pub fn receive(&mut self, batch: &mut Batch) -> Input {
        let mut left = CHAINS;
        loop {
            for pair in self.sources.beginning_at(self.first) {
                let ring = from_guest(pair);
                if self.receive_from(ring, batch, &mut left).is_err() {
                    self.give_up_source(ring);
                }
            }
            self.first = (self.first + 1) % PAIRS;
            // While these are worked on nobody need be told of more: the next pass looks by itself.
            if !batch.is_empty() || left == 0 {
                return Input::More;
            }
            if !self.listen() {
                return Input::Drained;
            }
        }
    }

    fn receive_from(&mut self, queue: usize, batch: &mut Batch, left: &mut usize) -> Result<(), Broken> {
        let whole = self.tee.wants_whole();
        let (queue, memory, log) = self.rings.parts(queue);
        let discard = !queue.runs();
        let Some(ring) = &mut queue.ring else { return Ok(()) };
        while *left > 0 && !batch.is_full() {
            self.pieces.clear();
            let Some(chain) = ring.take(memory, &mut self.pieces)? else { return Ok(()) };
            *left -= 1;
            ring.ignore(log);
            ring.done(chain.id, 0, log);
            // Of a ring that is switched off frames are lost, as of an interface.
            if discard {
                continue;
            }
            let pieces = || self.pieces.iter().copied();
            let mut header = [0; VNET_V1_LEN];
            copy(memory, part(pieces(), 0, VNET_V1_LEN), &mut header);
            let len = chain.len.checked_sub(VNET_V1_LEN).filter(|len| *len <= FRAME_MAX);
            let offload = vnet::read_v1(&header);
            let (Some(len), Some(offload)) = (len, offload.filter(|o| is_cut_sensibly(o, chain.len))) else {
                self.faults += 1;
                continue;
            };
            let few = part(pieces(), VNET_V1_LEN + COPY_HEAD, len).count() < FRAME_PIECES;
            let copied = if len <= COPY_WHOLE || whole || !few { len } else { COPY_HEAD };
            let room = batch.room();
            copy(memory, part(pieces(), VNET_V1_LEN, copied), room);
            self.tee.from_guest_in_part(&room[..copied], len - copied);
            batch.push_lent(copied, offload, memory, part(pieces(), VNET_V1_LEN + copied, len - copied));
        }
        Ok(())
    }

    /// The frames of the last pass are done with.
    pub fn release(&mut self) {
        for pair in self.sources.iter() {
            self.rings.publish(from_guest(pair));
        }
    }

    /// Asks to be told of the guest's frames. True: there are some already.
    fn listen(&mut self) -> bool {
        let mut more = false;
        for pair in self.sources.iter() {
            let ring = from_guest(pair);
            let (queue, _, log) = self.rings.parts(ring);
            match queue.ring.as_mut().map(|ring| ring.listen(log)) {
                Some(Ok(now)) => more |= now,
                Some(Err(Broken)) => self.give_up_source(ring),
                None => {}
            }
        }
        more
    }

    fn give_up_source(&mut self, ring: usize) {
        // Its pair is none to send through any more. What waits may go through another.
        if self.give_up(ring) {
            self.writable();
        }
    }

    /// As [`Card::changed`].
    fn give_up(&mut self, ring: usize) -> bool {
        self.rings.publish(ring);
        self.rings.queues[ring].give_up();
        self.broke = true;
        // A guest can do it over and over.
        self.broken += 1;
        if self.broken <= BROKEN_TOLD {
            log::warn!(ring = ring; "the guest's driver has broken its ring {ring}: it is not used until it is set up again");
        }
        self.changed()
    }

    /// Ends a loop turn.
    ///
    /// # Errors
    /// [`Gone`]: memory that was in use is.
    pub fn flush(&mut self) -> Result<(), Gone> {
        self.rings.publish(self.outlet);
        self.tee.flush();
        if self.rings.memory.is_lost() { Err(Gone) } else { Ok(()) }
    }

    pub fn tee(&mut self) -> &mut Tee {
        &mut self.tee
    }

    /// Frames and bytes that it took.
    pub fn sent(&self) -> (u64, u64) {
        self.tee.sent()
    }

    /// Frames that it took and lost.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Frames of the guest that could not be read.
    pub fn faults(&self) -> u64 {
        self.faults
    }

    /// Whether the frames that wait do so for buffers.
    ///
    /// # Errors
    /// They do not.
    pub fn audit(&self) -> Result<(), String> {
        let bytes: usize = self.waiting.iter().map(|(_, frame)| frame.len()).sum();
        if bytes != self.waiting_bytes {
            return Err(format!("{bytes} bytes wait, the books say {}", self.waiting_bytes));
        }
        if bytes > 0 && self.ready && !self.full && !self.away {
            return Err(format!("{bytes} bytes wait for nothing"));
        }
        Ok(())
    }

    /// True if rings have something now that we have not looked at, or buffers that we have waited for: a mark that changes when
    /// we do.
    pub fn overlooked(&self) -> Option<u64> {
        let frames = |pair: usize| self.rings.queues[from_guest(pair)].ring.as_ref().filter(|ring| ring.has_more());
        let buffers =
            self.rings.queues[self.outlet].ring.as_ref().filter(|ring| self.full && !self.patient && ring.has_more());
        self.sources.iter().filter_map(frames).chain(buffers).map(|ring| 1 | u64::from(ring.seen()) << 1).next()
    }
}

impl ToGuest for Card {
    fn caps(&self) -> Caps {
        let csum = self.rings.has(GUEST_CSUM);
        let large = csum && self.rings.queues[self.outlet].num >= LARGE_RING;
        let (tso, uso) = (self.rings.has(GUEST_TSO), self.rings.has(GUEST_USO));
        // A frame that no buffer holds would be lost without a word.
        let fits = self.rings.queues[self.outlet].supply.fits().unwrap_or(FRAME_MAX);
        let large = large && fits >= LARGE_FRAME;
        let most = fits.saturating_sub(ETH_LEN).clamp(MTU_LEAST, usize::from(u16::MAX)) as u16;
        Caps { csum, tso: large && tso, uso: large && uso, mtu: self.mtu.min(most) }
    }

    fn room(&self) -> Room {
        if self.full || self.away {
            Room::Full
        } else if !self.ready {
            Room::Nobody
        } else {
            Room::Free
        }
    }

    fn send(&mut self, frame: &[u8], offload: Offload) -> Result<(), LinkFull> {
        let header = header(frame, offload);
        let sent = if self.waiting.is_empty() {
            self.with_buffers(|supply, from| supply.send(from, header, frame))
        } else {
            Err(Short::Empty)
        };
        match sent {
            Ok(()) => {}
            // Nothing would ever tell that there is room for it: whoever sends goes on as after any loss.
            Err(Short::TooSmall) => {
                self.lost += 1;
                return Ok(());
            }
            Err(Short::Empty | Short::Broken) => self.put_off(header, frame)?,
        }
        self.tee.to_guest(frame, &[]);
        Ok(())
    }

    fn reserve(&mut self, areas: usize, head_len: usize, len: usize, fill: Fill) -> usize {
        if self.full {
            return 0;
        }
        // Buffers behind a message that is shorter than its area would be used before those in front of them.
        let areas = if fill == Fill::Messages { 1 } else { areas };
        let reserved = self.with_buffers(|supply, from| supply.reserve(from, areas, head_len, len));
        self.too_long |= reserved == Err(Short::TooSmall);
        reserved.unwrap_or(0)
    }

    fn areas<'a>(&'a mut self, list: &mut Areas<'a>) {
        self.rings.queues[self.outlet].supply.areas(&self.rings.memory, list);
    }

    fn sum(&self, len: usize) -> Sum {
        self.rings.queues[self.outlet].supply.sum(&self.rings.memory, len)
    }

    fn commit(&mut self, head: &[u8], len: usize, offload: Offload) -> Result<(), LinkFull> {
        let mut payload = Vec::new();
        let shown = self.tee.wants_payload();
        if shown {
            self.rings.queues[self.outlet].supply.copy(&self.rings.memory, len, &mut payload);
        }
        let header = header(head, offload);
        let (supply, mut from) = self.supply().ok_or(LinkFull)?;
        if !supply.commit(&mut from, header, head, len) {
            return Err(LinkFull);
        }
        if shown {
            self.tee.to_guest(head, &payload);
        } else {
            self.tee.to_guest_in_part(head, len);
        }
        Ok(())
    }

    fn cancel(&mut self) {
        self.rings.queues[self.outlet].supply.cancel();
        self.rings.publish(self.outlet);
    }
}

/// The ring of a pair that the guest's frames are in.
fn from_guest(pair: usize) -> usize {
    2 * pair + 1
}

/// Copies what lies in `pieces` to the beginning of `to`.
fn copy(memory: &GuestMemory, pieces: impl Iterator<Item = Piece>, to: &mut [u8]) {
    let mut at = 0;
    for piece in pieces {
        memory.copy_from(piece, &mut to[at..]);
        at += piece.len();
    }
}

/// A host's kernel cuts no frame into more datagrams (`UDP_MAX_SEGMENTS`), and neither does any other.
fn is_cut_sensibly(offload: &Offload, len: usize) -> bool {
    match offload.gso {
        Gso::Udp(size) => len <= usize::from(size) * 128 + COPY_HEAD,
        Gso::Tcp(_) | Gso::None => true,
    }
}

fn header(head: &[u8], offload: Offload) -> [u8; VNET_V1_LEN] {
    let v6 = head.len() >= 14 && be16(head, 12) == ETHERTYPE_IPV6;
    vnet::write_v1(&offload, v6, head.len())
}

#[cfg(test)]
mod tests;
