//! What workers know of each other, and how they talk.
//!
//! Each worker is a thread with an engine of its own: its queues of the link, its flows, its timers. The first one has in
//! addition what there is only one of: the gateway, listening sockets, the way past the link, the hypervisor's requests. What
//! reaches a worker and is another's goes there as a message, by value; nothing of a flow is shared but the knowledge of who
//! has it ([`Directory`]).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::{io, mem};

use mio::{Poll, Registry, Waker};
use socket2::Socket;

use crate::base::{Addr, Counters, Kind, Mac, Token};
use crate::flow::{Directory, FlowKey, KeySecret, Share};
use crate::guest::{Copies, Frame, L2};
use crate::link::Rings;
use crate::{tcp, udp};

/// What one worker has for another.
pub(super) enum Message {
    /// Frames of the guest, of flows that you have.
    Frames(Copies),
    /// A connection that a listener accepted.
    Connection(Socket, FlowKey),
    /// What the guest has shown of itself; to the first worker.
    Seen(Seen),
    /// Who is who; from the first worker.
    Known(Box<L2>),
    /// How much have you counted?
    Count(Sender<Counters>),
    /// These rings are yours now, and events of them have this generation.
    Rings(Box<Rings>, u32),
    /// Give the rings back.
    Recall(Sender<Box<Rings>>),
    /// The hypervisor has gone.
    Unplugged,
    /// Give your flows to the first worker.
    Leave(Sender<Flows>),
    /// A part of the guest's memory is gone; to the first worker, who will see.
    MemoryLost,
    Stop,
}

/// All flows of a worker.
pub(super) struct Flows {
    pub tcp: Vec<tcp::Moving>,
    pub udp: Vec<udp::Moving>,
}

/// What a guest shows of itself in its frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub mac: Mac,
    v4: Option<Addr>,
    v6: Option<Addr>,
    link_local: Option<Addr>,
}

impl Seen {
    pub fn of(l2: &L2) -> Seen {
        Seen { mac: l2.guest_mac, v4: l2.guest_v4, v6: l2.guest_v6, link_local: l2.guest_link_local }
    }

    pub fn apply(self, l2: &mut L2) {
        let Seen { mac, v4, v6, link_local } = self;
        (l2.guest_mac, l2.guest_v4, l2.guest_v6, l2.guest_link_local) = (mac, v4, v6, link_local);
    }
}

/// What an engine needs before it has anything else.
pub struct Seat {
    pub(super) poll: Poll,
    /// `None`: there are no other workers.
    pub(super) crew: Option<Crew>,
}

impl Seat {
    /// Descriptors of one worker beside those of its flows and queues: its event loop, what wakes it, the engines' ways to
    /// the event loop.
    pub const DESCRIPTORS: usize = 8;

    /// For a worker without others.
    ///
    /// # Errors
    /// The kernel's.
    pub fn alone() -> io::Result<Seat> {
        Ok(Seat { poll: Poll::new()?, crew: None })
    }

    /// For `workers` of them, the first one first.
    ///
    /// # Errors
    /// The kernel's.
    pub fn for_crew(workers: usize) -> io::Result<Vec<Seat>> {
        if workers <= 1 {
            return Ok(vec![Seat::alone()?]);
        }
        let (mut polls, mut peers, mut inboxes) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..workers {
            let poll = Poll::new()?;
            let (sender, inbox) = channel();
            let waker = Waker::new(poll.registry(), mio::Token(Token::only(Kind::Crew).to_usize()))?;
            let registry = poll.registry().try_clone()?;
            peers.push(Peer { sender, waker, registry, queued: AtomicUsize::new(0), used: AtomicUsize::new(0) });
            polls.push(poll);
            inboxes.push(inbox);
        }
        let shared = Arc::new(Shared { peers, reserved: Reserved::default() });
        let directory = Arc::new(Directory::new(KeySecret::random().map_err(io::Error::other)?));
        let seat = |(me, (poll, inbox))| {
            let parcels = (0..workers).map(|_| Copies::default()).collect();
            let (shared, directory) = (shared.clone(), directory.clone());
            Seat {
                poll,
                crew: Some(Crew { me, shared, directory, inbox, parcels, told: None, next: 0, able: 1, lent: 0 }),
            }
        };
        Ok(polls.into_iter().zip(inboxes).enumerate().map(seat).collect())
    }
}

/// One worker's part of the talk.
pub(super) struct Crew {
    pub me: usize,
    shared: Arc<Shared>,
    directory: Arc<Directory>,
    inbox: Receiver<Message>,
    /// Frames that go to the others when the pass is over.
    parcels: Vec<Copies>,
    /// What the others know of the guest.
    pub told: Option<Seen>,
    /// Who gets the next connection.
    next: usize,
    /// Those who have a queue to the guest, a bit each.
    pub able: u32,
    /// Those who have rings of a hypervisor's.
    pub lent: u32,
}

struct Shared {
    peers: Vec<Peer>,
    reserved: Reserved,
}

struct Peer {
    sender: Sender<Message>,
    waker: Waker,
    registry: Registry,
    /// Bytes of frames on their way.
    queued: AtomicUsize,
    /// Descriptors of its flows.
    used: AtomicUsize,
}

/// Bytes of frames that may be on their way to one worker.
const QUEUED_MAX: usize = 4 << 20;

impl Crew {
    /// For the flows of the protocol with this number.
    pub fn share(&self, protocol: u8) -> Share {
        Share::new(&self.directory, self.me, protocol)
    }

    /// Workers, this one included.
    pub fn len(&self) -> usize {
        self.shared.peers.len()
    }

    /// One bit for each.
    pub fn all(&self) -> u32 {
        (1 << self.len()) - 1
    }

    /// All workers but this.
    pub fn others(&self) -> impl Iterator<Item = usize> + use<> {
        let me = self.me;
        (0..self.len()).filter(move |worker| *worker != me)
    }

    pub fn send(&self, worker: usize, message: Message) {
        let peer = &self.shared.peers[worker];
        // One that has ended needs nothing any more.
        if peer.sender.send(message).is_ok() {
            let _ = peer.waker.wake();
        }
    }

    /// The next message of the others.
    pub fn receive(&self) -> Option<Message> {
        let message = self.inbox.try_recv().ok()?;
        if let Message::Frames(copies) = &message {
            self.shared.peers[self.me].queued.fetch_sub(copies.bytes(), Ordering::Relaxed);
        }
        Some(message)
    }

    /// Keeps a copy for `worker`. False: too much is on its way there.
    pub fn pack(&mut self, worker: usize, frame: &Frame<'_>) -> bool {
        let parcel = &mut self.parcels[worker];
        let queued = self.shared.peers[worker].queued.load(Ordering::Relaxed) + parcel.bytes();
        let fits = queued + frame.len() <= QUEUED_MAX;
        if fits {
            parcel.push(frame);
        }
        fits
    }

    /// Sends what was packed.
    pub fn send_parcels(&mut self) {
        for worker in 0..self.parcels.len() {
            if !self.parcels[worker].is_empty() {
                let copies = mem::take(&mut self.parcels[worker]);
                self.shared.peers[worker].queued.fetch_add(copies.bytes(), Ordering::Relaxed);
                self.send(worker, Message::Frames(copies));
            }
        }
    }

    /// Tells how many descriptors our flows have, and learns of the others'.
    pub fn share_descriptors(&self, ours: usize) -> usize {
        self.shared.peers[self.me].used.store(ours, Ordering::Relaxed);
        self.descriptors_of_others()
    }

    pub fn descriptors_of_others(&self) -> usize {
        self.others().map(|worker| self.shared.peers[worker].used.load(Ordering::Relaxed)).sum()
    }

    /// Whose the next connection is: in turn, among those who can reach the guest.
    pub fn choose(&mut self) -> usize {
        for _ in 0..self.len() {
            self.next = (self.next + 1) % self.len();
            if self.able & 1 << self.next != 0 {
                return self.next;
            }
        }
        0
    }

    /// For descriptors that `worker` is to hear of.
    pub fn registry(&self, worker: usize) -> &Registry {
        &self.shared.peers[worker].registry
    }

    /// Ports of the guest whose UDP flows are all the first worker's.
    pub fn reserved(&self) -> &Reserved {
        &self.shared.reserved
    }
}

/// A set of ports, to which some are added now and then.
pub(super) struct Reserved(Vec<AtomicU64>);

impl Default for Reserved {
    fn default() -> Self {
        Reserved((0..1024).map(|_| AtomicU64::new(0)).collect())
    }
}

impl Reserved {
    pub fn add(&self, port: u16) {
        self.0[usize::from(port) / 64].fetch_or(1 << (port % 64), Ordering::Relaxed);
    }

    pub fn has(&self, port: u16) -> bool {
        self.0[usize::from(port) / 64].load(Ordering::Relaxed) & 1 << (port % 64) != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Offload;

    fn crew(workers: usize) -> Vec<Crew> {
        Seat::for_crew(workers).unwrap().into_iter().filter_map(|seat| seat.crew).collect()
    }

    #[test]
    fn one_worker_needs_no_crew() {
        assert!(crew(1).is_empty());
    }

    #[test]
    fn what_is_on_its_way_is_bounded() {
        let mut crew = crew(2);
        let head = vec![0; 1 << 20];
        let frame = Frame { head: &head, rest: &[], offload: Offload::NONE };
        let taken = |crew: &mut Crew| {
            let taken = (0..6).filter(|_| crew.pack(1, &frame)).count();
            crew.send_parcels();
            taken
        };
        assert_eq!(taken(&mut crew[0]), 4);
        assert_eq!(taken(&mut crew[0]), 0);
        assert!(matches!(crew[1].receive(), Some(Message::Frames(copies)) if copies.frames().count() == 4));
        assert_eq!(taken(&mut crew[0]), 4);
    }

    #[test]
    fn connections_go_round_among_those_who_can_reach_the_guest() {
        let mut crew = crew(4);
        crew[0].able = 0b1011;
        assert_eq!((0..4).map(|_| crew[0].choose()).collect::<Vec<_>>(), [1, 3, 0, 1]);
    }

    #[test]
    fn descriptors_of_the_others_are_known() {
        let crew = crew(3);
        crew[1].share_descriptors(7);
        assert_eq!((crew[0].share_descriptors(5), crew[2].descriptors_of_others()), (7, 12));
    }

    #[test]
    fn ports_are_reserved_one_by_one() {
        let ports = Reserved::default();
        ports.add(65535);
        assert!(ports.has(65535) && !ports.has(65534) && !ports.has(63));
    }
}
