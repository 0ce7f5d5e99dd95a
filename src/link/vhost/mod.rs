//! vhost-user: the guest's network card is ours, and its memory is shared with us. Frames cross in no socket at all.
//!
//! *The conversation.* The hypervisor connects, as to any machine's socket, and says what it and the guest's driver have agreed
//! on, where the memory is and where the rings are ([`device`], [`message`]). It is listened to between passes over the rings,
//! so nothing that it takes away is in use. A request that we do not know, or that makes no sense, is refused and changes
//! nothing; only what is no message at all ends the connection. The process goes on whatever is said. What a hypervisor can do
//! to it with descriptors that it gave: [`crate::sys::event::prepare`].
//!
//! *From the guest.* A pass takes chains of descriptors from the rings ([`ring`]). Small frames are copied whole; of large ones the
//! first bytes, in which all headers are, and the rest is handed on where it is: the kernel sends it from there. Chains go back
//! when the pass has been dealt with. What is decided is decided on the copy.
//!
//! *To the guest.* The driver's buffers are taken ahead of need ([`supply`]) and lent to whoever receives from the host, so that the
//! kernel writes payload to where the guest will find it. A frame over several buffers is published at once. When there
//! are too few, [`Room::Full`] says so, and the driver's kick when there are more; small frames wait here meanwhile. Those that
//! no buffers would ever hold are lost: what buffers hold is learned, and frames are made for that.
//!
//! *Notifications.* While a ring is worked on its other side is not told, nor tells; whoever waits says so and looks once more.
//!
//! *Several threads.* All that it takes to work on a ring belongs to whoever has its [`Rings`], and is moved, never shared: there is
//! no lock, and nothing is looked at by two. Of `n` threads the one that has the conversation keeps each `n`th pair, the
//! first among them, and lends the others ([`Vhost::lend`]) to threads that have a [`Card`] for them and no conversation. A
//! request may change anything, so all rings are called back before it is dealt with, and lent again afterwards. What stays
//! shared is made for it: the guest's memory, to which nobody has references, and the log of what was written there,
//! whose bits are set atomically.
//!
//! The guest is not trusted, and neither is what it can do to its memory while we look: see [`crate::sys::memory`].

mod card;
mod device;
#[cfg(test)]
mod driver;
mod message;
mod ring;
mod rings;
mod supply;

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;

pub use self::card::Card;
pub use self::device::Watch;
use self::device::{Device, Outcome};
use self::message::{End, Inbox};
pub use self::rings::Rings;
use self::rings::{PAIRS, Pairs, RINGS};
use super::socket::Gone;
use super::{Accepted, Batch, Door, Input, Tee};
use crate::base::Instant;
use crate::guest::{Areas, Caps, Fill, LinkFull, Room, ToGuest};
use crate::sys::{process, unix};
use crate::wire::Offload;
use crate::wire::checksum::Sum;

/// The card of one guest.
#[derive(Debug)]
pub struct Vhost {
    door: Door,
    session: Option<Session>,
    device: Device,
    card: Card,
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
    /// Queue pairs there can be.
    pub const PAIRS: usize = rings::PAIRS;
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
        let mut card = Card::new(mtu, tee);
        card.adopt(Rings::whole());
        Vhost { door, session, device: Device::default(), card }
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

    /// The client is gone, or to go, and its memory with it. `batch` must be done with, and all rings be here.
    pub fn disconnect(&mut self, batch: &mut Batch, now: Instant) {
        debug_assert!(self.card.rings.is_whole());
        if let Some(session) = self.session.take() {
            self.door.left(session.pid, session.fault, now);
        }
        self.device.forget(&mut self.card.rings);
        self.card.disconnect(batch);
    }

    /// Deals with one request. All rings must be here.
    pub fn converse(&mut self, now: Instant) -> Talk {
        let Some(session) = &mut self.session else { return Talk::Silence };
        let mut request = match session.inbox.receive(&session.fd) {
            Ok(Some(request)) => request,
            Ok(None) => return Talk::Silence,
            Err(end) => return session.end(end),
        };
        log::debug!("vhost-user: {}", request.name());
        debug_assert!(self.card.rings.is_whole());
        let outcome = self.device.handle(&mut self.card.rings, &mut request);
        self.card.changed();
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
        self.card.writable();
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

    /// Takes out the rings of worker `worker` of `of`, to be sent to its thread (in a box: they are large): of pair `p` if `p % of ==
    /// worker`. Between turns of the loop, and not for worker 0, which is this one. All have to come back before the next
    /// request is dealt with.
    pub fn lend(&mut self, worker: usize, of: usize) -> Rings {
        debug_assert!(0 < worker && worker < of);
        let rings = self.card.rings.split(Pairs::of_worker(worker, of));
        self.card.changed();
        rings
    }

    /// They are back, to be worked on here until they are lent again.
    pub fn take_back(&mut self, worker: usize, of: usize, rings: Rings) {
        debug_assert_eq!(rings.pairs, Pairs::of_worker(worker, of));
        self.card.rings.join(rings);
        self.card.changed();
    }

    /// Which of `of` workers have a pair both of whose rings run, as bits. All rings must be here.
    pub fn running(&self, of: usize) -> u32 {
        let rings = &self.card.rings;
        debug_assert!(rings.is_whole());
        (0..PAIRS).filter(|pair| rings.runs(*pair)).fold(0, |all, pair| all | 1 << (pair % of))
    }

    /// See [`Card::receive`].
    pub fn receive(&mut self, batch: &mut Batch) -> Input {
        self.card.receive(batch)
    }

    /// See [`Card::release`].
    pub fn release(&mut self) {
        self.card.release();
    }

    /// See [`Card::writable`].
    pub fn writable(&mut self) {
        self.card.writable();
    }

    /// Ends a loop turn.
    ///
    /// # Errors
    /// [`Gone`].
    pub fn flush(&mut self) -> Result<(), Gone> {
        let flushed = self.card.flush();
        match &mut self.session {
            Some(session) if flushed.is_err() => {
                session.fault = Some("it has taken away memory that was in use".into());
                Err(Gone)
            }
            _ => Ok(()),
        }
    }

    pub fn card(&self) -> &Card {
        &self.card
    }

    /// See [`Card::is_stuck`].
    pub fn is_stuck(&self) -> bool {
        self.card.is_stuck()
    }

    pub fn tee(&mut self) -> &mut Tee {
        self.card.tee()
    }

    /// See [`Card::sent`].
    pub fn sent(&self) -> (u64, u64) {
        self.card.sent()
    }

    /// See [`Card::lost`].
    pub fn lost(&self) -> u64 {
        self.card.lost()
    }

    /// See [`Card::faults`].
    pub fn faults(&self) -> u64 {
        self.card.faults()
    }
}

/// All of it is the card's.
impl ToGuest for Vhost {
    fn caps(&self) -> Caps {
        self.card.caps()
    }

    fn room(&self) -> Room {
        if self.session.is_none() { Room::Nobody } else { self.card.room() }
    }

    fn send(&mut self, frame: &[u8], offload: Offload) -> Result<(), LinkFull> {
        self.card.send(frame, offload)
    }

    fn reserve(&mut self, areas: usize, head_len: usize, len: usize, fill: Fill) -> usize {
        self.card.reserve(areas, head_len, len, fill)
    }

    fn areas<'a>(&'a mut self, list: &mut Areas<'a>) {
        self.card.areas(list);
    }

    fn sum(&self, len: usize) -> Sum {
        self.card.sum(len)
    }

    fn commit(&mut self, head: &[u8], len: usize, offload: Offload) -> Result<(), LinkFull> {
        self.card.commit(head, len, offload)
    }

    fn cancel(&mut self) {
        self.card.cancel();
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

#[cfg(test)]
mod tests;
