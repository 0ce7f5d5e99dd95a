//! vhost-user: the guest's network card is ours, and its memory is shared with us. Frames cross in no socket at all.
//!
//! *The conversation.* The hypervisor connects, as to any machine's socket, and says what it and the guest's driver have agreed
//! on, where the memory is and where the rings are ([`device`], [`message`]). It is listened to between passes over the rings,
//! so nothing that it takes away is in use. A request that we do not know, or that makes no sense, is refused and changes
//! nothing; only what is no message at all ends the connection. The process goes on in any case.
//!
//! *From the guest.* A pass takes chains of descriptors from the rings ([`ring`]). Small frames are copied whole; of large ones the
//! first bytes, in which all headers are, and the rest is handed on where it is: the kernel sends it from there. Chains go back
//! when the pass has been dealt with. What is decided is decided on the copy.
//!
//! *To the guest.* The driver's buffers are taken ahead of need ([`supply`]) and lent to whoever receives from the host, so that the
//! kernel writes payload to where the guest will find it. A frame over several buffers is published at once. When there
//! are too few, [`Room::Full`] says so, and the driver's kick when there are more; small frames wait here meanwhile.
//!
//! *Notifications.* While a ring is worked on its other side is not told, nor tells; whoever waits says so and looks once more.
//!
//! The guest is not trusted, and neither is what it can do to its memory while we look: see [`crate::sys::memory`].

mod device;
#[cfg(test)]
mod driver;
mod message;
mod ring;
mod supply;

use std::collections::VecDeque;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;

pub use self::device::Watch;
use self::device::{Device, GUEST_CSUM, GUEST_TSO, GUEST_USO, MERGEABLE, Outcome, Queue, RINGS};
use self::message::{End, Inbox};
use self::ring::Broken;
use self::supply::{Short, Supply, part};
use super::socket::Gone;
use super::{Accepted, Batch, Door, Input, Tee};
use crate::base::Instant;
use crate::guest::{Areas, Caps, FRAME_PIECES, Fill, LinkFull, Room, ToGuest};
use crate::sys::memory::{GuestMemory, Piece};
use crate::sys::{process, unix};
use crate::wire::checksum::Sum;
use crate::wire::vnet::{self, VNET_V1_LEN};
use crate::wire::{ETHERTYPE_IPV6, FRAME_MAX, Gso, Offload, be16};

/// Frames up to this length are copied whole: to hand on one more piece costs more.
const COPY_WHOLE: usize = 2048;
/// Of longer ones these bytes: more than all headers that are looked at.
const COPY_HEAD: usize = 256;
/// Bytes of small frames that may wait for buffers.
const WAITING_BYTES: usize = 1 << 20;
/// Chains of one pass, those that make no sense included.
const CHAINS: usize = 256;
/// Log lines about broken rings.
const BROKEN_TOLD: u64 = 10;
/// The ring to the guest, of the first pair.
const TO_GUEST: usize = 0;
/// Entries that a ring to the guest needs for frames of 64 KiB in buffers of the usual size, some of them at a time.
const LARGE_RING: u16 = 128;

/// The card of one guest.
#[derive(Debug)]
pub struct Vhost {
    door: Door,
    session: Option<Session>,
    device: Device,
    mtu: u16,
    tee: Tee,
    /// No buffer is left; the driver's kick will tell when there is one.
    full: bool,
    /// Small frames that wait for buffers, with their headers, and the bytes of them: a burst of answers may be longer than the
    /// ring, and who does not get one asks again after a second.
    waiting: VecDeque<([u8; VNET_V1_LEN], Vec<u8>)>,
    waiting_bytes: usize,
    /// The pair whose ring is looked at first.
    first: usize,
    /// Frames that waited in vain.
    lost: u64,
    /// Chains that made no sense, and rings.
    faults: u64,
    broken: u64,
    pieces: Vec<Piece>,
}

#[derive(Debug)]
struct Session {
    fd: OwnedFd,
    inbox: Inbox,
    pid: Option<i32>,
    /// Why we end it.
    fault: Option<String>,
}

/// How far the conversation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Talk {
    /// A request was dealt with. What is to be polled may have changed: see [`Vhost::polling`].
    More,
    /// There is no more now.
    Silence,
    /// The other end is gone, or to go.
    Gone,
}

impl Vhost {
    /// Descriptors that a hypervisor may give us to keep, and those that come with one request.
    pub const DESCRIPTORS: usize = 3 * RINGS + message::FDS_MAX;

    /// Waits for a hypervisor. `listener`: nonblocking.
    pub fn listening(listener: UnixListener, mtu: u16, tee: Tee) -> Vhost {
        Vhost::new(Door::new(Some(listener)), None, mtu, tee)
    }

    /// Talks to the one at the other end of `fd`, a connected stream socket.
    pub fn connected(fd: OwnedFd, mtu: u16, tee: Tee) -> Vhost {
        Vhost::new(Door::new(None), Some(Session::new(fd)), mtu, tee)
    }

    fn new(door: Door, session: Option<Session>, mtu: u16, tee: Tee) -> Vhost {
        Vhost {
            door,
            session,
            device: Device::default(),
            mtu,
            tee,
            full: false,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            lost: 0,
            first: 0,
            faults: 0,
            broken: 0,
            pieces: Vec::new(),
        }
    }

    /// The listener, to poll for readability.
    pub fn listener(&self) -> Option<RawFd> {
        self.door.fd()
    }

    /// The connection, to poll for readability.
    pub fn client(&self) -> Option<RawFd> {
        self.session.as_ref().map(|s| s.fd.as_raw_fd())
    }

    /// True if there is a client whose end is closed, whether that was told or not.
    pub fn has_lost_client(&self) -> bool {
        self.session.as_ref().is_some_and(|s| s.fault.is_some() || process::is_hung_up(&s.fd))
    }

    /// See [`Door::accept`].
    pub fn accept(&mut self, now: Instant) -> Accepted {
        let present = self.session.as_ref().map(|s| s.pid);
        self.door.accept(present, now, |fd| self.session = Some(Session::new(fd)))
    }

    /// The client is gone, or to go, and its memory with it. `batch` must be done with.
    pub fn disconnect(&mut self, batch: &mut Batch, now: Instant) {
        batch.clear();
        if let Some(session) = self.session.take() {
            self.door.left(session.pid, session.fault, now);
        }
        self.device.forget();
        self.full = false;
        self.lost += self.waiting.len() as u64;
        self.waiting.clear();
        self.waiting_bytes = 0;
    }

    /// Deals with one request.
    pub fn converse(&mut self, now: Instant) -> Talk {
        let Some(session) = &mut self.session else { return Talk::Silence };
        let mut request = match session.inbox.receive(&session.fd) {
            Ok(Some(request)) => request,
            Ok(None) => return Talk::Silence,
            Err(end) => return session.end(end),
        };
        log::debug!("vhost-user: {}", request.name());
        let outcome = self.device.handle(&mut request);
        let status = |failed: bool| u64::from(failed).to_ne_bytes().to_vec();
        let acknowledged = request.needs_reply && self.device.acknowledges();
        let answer = match outcome {
            Outcome::Answer(body) => Some(body),
            Outcome::Done => acknowledged.then(|| status(false)),
            Outcome::Refused(why) => {
                let what = format!("{} was refused: {why}", request.name());
                self.door.tell(now, || format!("vhost-user: {what}"));
                if !acknowledged && request.is_always_answered() {
                    session.fault = Some(what);
                    return Talk::Gone;
                }
                acknowledged.then(|| status(true))
            }
        };
        let sent = answer.map_or(Ok(()), |body| message::reply(&session.fd, &request, &body));
        let talk = sent.map_or_else(|end| session.end(end), |()| Talk::More);
        // There may be a ring now that has buffers.
        self.writable();
        talk
    }

    /// What has changed in what is to be polled, oldest first.
    pub fn polling(&mut self) -> Vec<Watch> {
        std::mem::take(&mut self.device.polling)
    }

    /// True if a kick of this ring tells of buffers, false if of frames.
    pub fn is_to_guest(ring: usize) -> bool {
        ring.is_multiple_of(2)
    }

    /// Frames of the guest, until the batch is full or there are no more. Only a pass that finds nothing ends the work.
    pub fn receive(&mut self, batch: &mut Batch) -> Input {
        let mut left = CHAINS;
        loop {
            for i in 0..RINGS / 2 {
                let queue = 2 * ((self.first + i) % (RINGS / 2)) + 1;
                if self.receive_from(queue, batch, &mut left).is_err() {
                    self.give_up(queue);
                }
            }
            self.first = (self.first + 1) % (RINGS / 2);
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
        let whole = self.tee.wants_payload();
        let (queue, memory, log) = self.device.parts(queue);
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
        for ring in (1..RINGS).step_by(2) {
            self.device.publish(ring);
        }
    }

    /// Asks to be told of the guest's frames. True: there are some already.
    fn listen(&mut self) -> bool {
        let mut more = false;
        for ring in (1..RINGS).step_by(2) {
            let (queue, _, log) = self.device.parts(ring);
            match queue.ring.as_mut().map(|ring| ring.listen(log)) {
                Some(Ok(now)) => more |= now,
                Some(Err(Broken)) => self.give_up(ring),
                None => {}
            }
        }
        more
    }

    fn give_up(&mut self, ring: usize) {
        self.device.publish(ring);
        self.device.queues[ring].give_up();
        // A guest can do it over and over.
        self.broken += 1;
        if self.broken <= BROKEN_TOLD {
            log::warn!("the guest's driver has broken its ring {ring}: it is not used until it is set up again");
        }
    }

    /// There may be buffers again.
    pub fn writable(&mut self) {
        self.full = false;
        while let Some((header, frame)) = self.waiting.pop_front() {
            if self.with_buffers(|supply, from| supply.send(from, header, &frame)).is_none() {
                self.waiting.push_front((header, frame));
                return;
            }
            self.waiting_bytes -= frame.len();
        }
    }

    /// A small frame may wait for buffers, if there are not too many.
    fn put_off(&mut self, header: [u8; VNET_V1_LEN], frame: &[u8]) -> Result<(), LinkFull> {
        let small = frame.len() <= COPY_WHOLE && self.waiting_bytes + frame.len() <= WAITING_BYTES;
        if !small || self.room() == Room::Nobody {
            return Err(LinkFull);
        }
        self.waiting.push_back((header, frame.to_vec()));
        self.waiting_bytes += frame.len();
        Ok(())
    }

    /// Ends a loop turn.
    ///
    /// # Errors
    /// [`Gone`].
    pub fn flush(&mut self) -> Result<(), Gone> {
        self.device.publish(TO_GUEST);
        self.tee.flush();
        match &mut self.session {
            Some(session) if self.device.memory.is_lost() => {
                session.fault = Some("it has taken away memory that was in use".into());
                Err(Gone)
            }
            _ => Ok(()),
        }
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

    /// Where buffers come from.
    fn supply(&mut self) -> Option<(&mut Supply, supply::Source<'_>)> {
        let mergeable = self.device.has(MERGEABLE);
        let (queue, memory, log) = self.device.parts(TO_GUEST);
        let Queue { ring: Some(ring), supply, .. } = queue else { return None };
        Some((supply, supply::Source { ring, memory, log, mergeable }))
    }

    /// Does what needs buffers, once more if some have come meanwhile. `None`: there are none.
    fn with_buffers<T>(
        &mut self,
        mut act: impl FnMut(&mut Supply, &mut supply::Source<'_>) -> Result<T, Short>,
    ) -> Option<T> {
        if self.room() == Room::Nobody {
            return None;
        }
        loop {
            let (supply, mut from) = self.supply()?;
            let short = match act(supply, &mut from) {
                Ok(done) => return Some(done),
                Err(short) => short,
            };
            // The driver may wait for what we have put off.
            self.device.publish(TO_GUEST);
            let (_, from) = self.supply()?;
            match (short, from.ring.listen(from.log)) {
                (Short::Broken, _) | (_, Err(Broken)) => {
                    self.give_up(TO_GUEST);
                    return None;
                }
                (Short::Empty, Ok(true)) => {}
                (Short::Empty | Short::TooSmall, Ok(_)) => {
                    self.full = true;
                    return None;
                }
            }
        }
    }
}

impl Session {
    fn new(fd: OwnedFd) -> Session {
        let pid = unix::peer_pid(&fd);
        Session { fd, inbox: Inbox::default(), pid, fault: None }
    }

    fn end(&mut self, end: End) -> Talk {
        self.fault = match end {
            End::Closed => None,
            End::NoMessage(_) | End::Failed(_) => Some(end.to_string()),
        };
        Talk::Gone
    }
}

impl ToGuest for Vhost {
    fn caps(&self) -> Caps {
        let csum = self.device.has(GUEST_CSUM);
        let large = csum && self.device.queues[TO_GUEST].num() >= LARGE_RING;
        let (tso, uso) = (self.device.has(GUEST_TSO), self.device.has(GUEST_USO));
        Caps { csum, tso: large && tso, uso: large && uso, mtu: self.mtu }
    }

    fn room(&self) -> Room {
        if self.session.is_none() || !self.device.is_ready() {
            Room::Nobody
        } else if self.full {
            Room::Full
        } else {
            Room::Free
        }
    }

    fn send(&mut self, frame: &[u8], offload: Offload) -> Result<(), LinkFull> {
        let header = header(frame, offload);
        if !self.waiting.is_empty() || self.with_buffers(|supply, from| supply.send(from, header, frame)).is_none() {
            self.put_off(header, frame)?;
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
        self.with_buffers(|supply, from| supply.reserve(from, areas, head_len, len)).unwrap_or(0)
    }

    fn areas<'a>(&'a mut self, list: &mut Areas<'a>) {
        self.device.queues[TO_GUEST].supply.areas(&self.device.memory, list);
    }

    fn sum(&self, len: usize) -> Sum {
        self.device.queues[TO_GUEST].supply.sum(&self.device.memory, len)
    }

    fn commit(&mut self, head: &[u8], len: usize, offload: Offload) -> Result<(), LinkFull> {
        let mut payload = Vec::new();
        if self.tee.wants_payload() {
            self.device.queues[TO_GUEST].supply.copy(&self.device.memory, len, &mut payload);
        }
        let header = header(head, offload);
        let (supply, mut from) = self.supply().ok_or(LinkFull)?;
        if !supply.commit(&mut from, header, head, len) {
            return Err(LinkFull);
        }
        if payload.is_empty() {
            self.tee.to_guest_in_part(head, len);
        } else {
            self.tee.to_guest(head, &payload);
        }
        Ok(())
    }

    fn cancel(&mut self) {
        self.device.queues[TO_GUEST].supply.cancel();
        self.device.publish(TO_GUEST);
    }
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
