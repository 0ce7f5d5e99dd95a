//! What workers know of each other, and how they talk.
//!
//! Each worker is a thread with an engine of its own: its queues of the link, its flows, its timers. The first one has in
//! addition what there is only one of: the gateway, listening sockets, the way past the link, the hypervisor's requests. What
//! reaches a worker and is another's goes there as a message, by value; nothing of a flow is shared but the knowledge of who
//! has it ([`Directory`]).

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::{io, mem};

use mio::{Poll, Registry, Waker};
use socket2::Socket;

use super::desk::{self, Clerk, Desk};
use super::share::Flows;
use crate::base::{Addr, Counters, Kind, Mac, Token};
use crate::flow::{Directory, FlowKey, KeySecret, Share, Via};
use crate::fwd::{Nat, Outbound};
use crate::guest::reassembly::Whole;
use crate::guest::{Copies, Frame, L2};
use crate::link::Rings;
use crate::{tcp, udp};

/// What one worker has for another.
pub(super) enum Message {
    /// Frames of the guest, of flows that you have.
    Frames(Copies),
    /// A packet that came in fragments, of such a flow.
    Whole(Box<Whole>),
    /// A connection that a listener accepted.
    Connection(Socket, FlowKey, Via),
    /// A forward is no more.
    Forget(Via),
    /// What the guest has shown of itself, and what it had shown when you were told last; to the first worker.
    Seen(Seen, Seen),
    /// Who is who; from the first worker.
    Known(Box<L2>),
    /// The host's network is another now; from the first worker.
    Network(Box<Leading>),
    /// Which of these addresses of the guest have your flows?
    Uses(Vec<Addr>, Sender<Vec<Addr>>),
    /// How much have you counted?
    Count(Sender<Counters>),
    /// These rings are yours now, and events of them have this generation.
    Rings(Box<Rings>, u32),
    /// Give the rings back.
    Recall(Sender<Box<Rings>>),
    /// The hypervisor has gone.
    Unplugged,
    /// Give your flows to the first worker.
    Leave(Sender<Leaving>),
    /// The driver has kicked a ring that you have; to the first worker.
    Kicked(usize),
    /// The driver has broken a ring of mine; to the first worker, who will see which.
    Broken,
    /// A part of the guest's memory is gone; to the first worker, who will see.
    MemoryLost,
    Stop,
}

impl Message {
    /// Bytes and connections that it holds.
    fn weight(&self) -> (usize, usize) {
        match self {
            Message::Frames(copies) => (copies.bytes(), 0),
            Message::Whole(whole) => (whole.frame.len(), 0),
            Message::Connection(..) => (0, 1),
            _ => (0, 0),
        }
    }
}

/// All flows of a worker.
pub(super) struct Leaving {
    pub tcp: Vec<tcp::Moving>,
    pub udp: Vec<udp::Moving>,
}

/// Where packets of the guest go.
#[derive(Clone, Debug)]
pub(super) struct Leading {
    pub nat: Nat,
    pub outbound: Outbound,
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

    /// Changes what has changed since `told`: the rest others may know better.
    pub fn apply(self, told: Seen, l2: &mut L2) {
        let Seen { mac, v4, v6, link_local } = self;
        if mac != told.mac {
            l2.guest_mac = mac;
        }
        if v4 != told.v4 {
            l2.guest_v4 = v4;
        }
        if v6 != told.v6 {
            l2.guest_v6 = v6;
        }
        if link_local != told.link_local {
            l2.guest_link_local = link_local;
        }
    }
}

/// What an engine needs before it has anything else.
pub struct Seat {
    pub(super) poll: Poll,
    /// `None`: there are no other workers.
    pub(super) crew: Option<Crew>,
    pub(super) desk: Option<Desk>,
}

impl Seat {
    /// Descriptors of one worker beside those of its flows and queues: its event loop, what wakes it, the engines' ways to
    /// the event loop.
    pub const DESCRIPTORS: usize = 8;

    /// It is to be asked things by the control thread.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn open_desk(&mut self) -> io::Result<Clerk> {
        let (desk, clerk) = desk::pair(self.poll.registry())?;
        self.desk = Some(desk);
        Ok(clerk)
    }

    /// For a worker without others.
    ///
    /// # Errors
    /// The kernel's.
    pub fn alone() -> io::Result<Seat> {
        Ok(Seat { poll: Poll::new()?, crew: None, desk: None })
    }

    /// For `workers` of them, the first one first.
    ///
    /// # Errors
    /// The kernel's.
    pub fn for_crew(workers: usize) -> io::Result<Vec<Seat>> {
        if workers <= 1 {
            return Ok(vec![Seat::alone()?]);
        }
        let secret = || KeySecret::random().map_err(io::Error::other);
        let (mut polls, mut peers, mut inboxes) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..workers {
            let poll = Poll::new()?;
            let (sender, inbox) = channel();
            peers.push(Peer::new(&poll, sender)?);
            polls.push(poll);
            inboxes.push(inbox);
        }
        let shared = Arc::new(Shared {
            peers,
            reserved: Reserved::default(),
            lent: AtomicUsize::new(0),
            directory: Arc::new(Directory::new(secret()?)),
            isn_secret: secret()?,
            binding: Arc::default(),
        });
        let crew = |me, inbox| Crew {
            me,
            shared: shared.clone(),
            inbox,
            parcels: (0..workers).map(|_| Copies::default()).collect(),
            told: None,
            next: 0,
            able: 1,
            lent: 0,
            reservations: HashMap::new(),
        };
        let seat = |(me, (poll, inbox))| Seat { poll, crew: Some(crew(me, inbox)), desk: None };
        Ok(polls.into_iter().zip(inboxes).enumerate().map(seat).collect())
    }
}

/// One worker's part of the talk.
pub(super) struct Crew {
    pub me: usize,
    shared: Arc<Shared>,
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
    /// How many listening sockets each reserved port has.
    reservations: HashMap<u16, usize>,
}

struct Shared {
    peers: Vec<Peer>,
    reserved: Reserved,
    /// Descriptors that flows lend to ports.
    lent: AtomicUsize,
    directory: Arc<Directory>,
    /// A guest that uses the name of a connection again, at another worker perhaps, compares sequence numbers.
    isn_secret: KeySecret,
    /// See [`udp::Config::binding`].
    binding: Arc<Mutex<()>>,
}

struct Peer {
    sender: Sender<Message>,
    waker: Waker,
    registry: Registry,
    /// Bytes of frames, and connections, on their way to it.
    queued: AtomicUsize,
    coming: AtomicUsize,
    /// Its flows by kind.
    flows: [AtomicUsize; Flows::KINDS],
}

impl Peer {
    fn new(poll: &Poll, sender: Sender<Message>) -> io::Result<Peer> {
        Ok(Peer {
            sender,
            waker: Waker::new(poll.registry(), mio::Token(Token::only(Kind::Crew).to_usize()))?,
            registry: poll.registry().try_clone()?,
            queued: AtomicUsize::new(0),
            coming: AtomicUsize::new(0),
            flows: Default::default(),
        })
    }

    /// What it has, or will have in a moment.
    fn flows(&self) -> Flows {
        let mut flows = Flows::from(self.flows.each_ref().map(|n| n.load(Ordering::Relaxed)));
        flows.tcp += self.coming.load(Ordering::Relaxed);
        flows
    }
}

/// Bytes of frames that may be on their way to one worker, and connections.
const QUEUED_MAX: usize = 4 << 20;
const COMING_MAX: usize = 256;

impl Crew {
    /// For the flows of the protocol with this number.
    pub fn share(&self, protocol: u8) -> Share {
        Share::new(&self.shared.directory, self.me, protocol)
    }

    pub fn isn_secret(&self) -> KeySecret {
        self.shared.isn_secret.clone()
    }

    pub fn binding(&self) -> Arc<Mutex<()>> {
        self.shared.binding.clone()
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
        let (bytes, connections) = message.weight();
        peer.queued.fetch_add(bytes, Ordering::Relaxed);
        peer.coming.fetch_add(connections, Ordering::Relaxed);
        // One that has ended needs nothing any more.
        if peer.sender.send(message).is_ok() {
            self.wake(worker);
        }
    }

    /// Has a worker look at its messages.
    pub fn wake(&self, worker: usize) {
        // It fails for want of memory at most, and then there is an event already.
        let _ = self.shared.peers[worker].waker.wake();
    }

    /// The next message of the others.
    pub fn receive(&self) -> Option<Message> {
        let message = self.inbox.try_recv().ok()?;
        let ((bytes, connections), peer) = (message.weight(), &self.shared.peers[self.me]);
        peer.queued.fetch_sub(bytes, Ordering::Relaxed);
        peer.coming.fetch_sub(connections, Ordering::Relaxed);
        Some(message)
    }

    /// True if `worker` can take so many bytes more.
    pub fn has_room(&self, worker: usize, bytes: usize) -> bool {
        let queued = self.shared.peers[worker].queued.load(Ordering::Relaxed) + self.parcels[worker].bytes();
        queued + bytes <= QUEUED_MAX
    }

    /// Keeps a copy for `worker`. False: too much is on its way there.
    pub fn pack(&mut self, worker: usize, frame: &Frame<'_>) -> bool {
        let fits = self.has_room(worker, frame.len());
        if fits {
            self.parcels[worker].push(frame);
        }
        fits
    }

    /// Sends what was packed.
    pub fn send_parcels(&mut self) {
        for worker in 0..self.parcels.len() {
            if !self.parcels[worker].is_empty() {
                let copies = mem::take(&mut self.parcels[worker]);
                self.send(worker, Message::Frames(copies));
            }
        }
    }

    /// Tells how many flows we have, and learns of the others'.
    pub fn share_flows(&self, ours: &Flows) -> Flows {
        let told = &self.shared.peers[self.me].flows;
        told.iter().zip(ours.all()).for_each(|(told, n)| told.store(n, Ordering::Relaxed));
        self.flows_of_others()
    }

    pub fn flows_of_others(&self) -> Flows {
        let flows = self.others().map(|worker| self.shared.peers[worker].flows());
        let coming = self.shared.peers[self.me].coming.load(Ordering::Relaxed);
        flows.fold(Flows { tcp: coming, ..Flows::default() }, |sum, flows| sum.with(&flows))
    }

    /// Descriptors that flows lend to ports, of which only the first worker knows by itself.
    pub fn lent(&self, ours: usize) -> usize {
        if self.me == 0 {
            self.shared.lent.store(ours, Ordering::Relaxed);
        }
        self.shared.lent.load(Ordering::Relaxed)
    }

    /// Whose the next connection is: in turn, among those who can reach the guest and have not too many to look at.
    pub fn choose(&mut self) -> usize {
        for _ in 0..self.len() {
            self.next = (self.next + 1) % self.len();
            let coming = self.shared.peers[self.next].coming.load(Ordering::Relaxed);
            if self.able & 1 << self.next != 0 && coming < COMING_MAX {
                return self.next;
            }
        }
        self.me
    }

    /// For descriptors that `worker` is to hear of.
    pub fn registry(&self, worker: usize) -> &Registry {
        &self.shared.peers[worker].registry
    }

    /// True if new UDP flows of this port of the guest are the first worker's.
    pub fn is_reserved(&self, port: u16) -> bool {
        self.shared.reserved.has(port)
    }

    /// A listening socket has these ports, on the host's side and the guest's.
    pub fn reserve(&mut self, ports: [u16; 2]) {
        for port in ports {
            *self.reservations.entry(port).or_default() += 1;
            self.shared.reserved.set(port, true);
        }
    }

    /// It is closed.
    pub fn unreserve(&mut self, ports: [u16; 2]) {
        for port in ports {
            let Some(n) = self.reservations.get_mut(&port) else { continue };
            *n -= 1;
            if *n == 0 {
                self.reservations.remove(&port);
                self.shared.reserved.set(port, false);
            }
        }
    }
}

/// A set of ports. Only the first worker changes it.
struct Reserved(Vec<AtomicU64>);

impl Default for Reserved {
    fn default() -> Self {
        Reserved((0..1024).map(|_| AtomicU64::new(0)).collect())
    }
}

impl Reserved {
    fn set(&self, port: u16, on: bool) {
        let (word, bit) = (&self.0[usize::from(port) / 64], 1 << (port % 64));
        if on {
            word.fetch_or(bit, Ordering::Relaxed)
        } else {
            word.fetch_and(!bit, Ordering::Relaxed)
        };
    }

    fn has(&self, port: u16) -> bool {
        self.0[usize::from(port) / 64].load(Ordering::Relaxed) & 1 << (port % 64) != 0
    }
}

#[cfg(test)]
mod tests;
