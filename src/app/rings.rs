//! Which worker has which rings of the guest's card.
//!
//! Rings move by value. They are all with the first worker while a request of the hypervisor is dealt with, for that may take
//! away what they lie in; then each pair goes to its worker. Flows of one that has no pair any more go to the first.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::mpsc::channel;

use mio::unix::SourceFd;
use mio::{Interest, Registry};

use super::crew::Message;
use super::engine::Engine;
use crate::base::{Instant, Kind, Token};
use crate::link::{Link, Rings, Watch};

impl Engine {
    /// Has all rings come here, at the first worker. Waits for the others, none of whom ever waits.
    pub(super) fn recall_rings(&mut self) {
        let (Link::Vhost(card), Some(crew)) = (&mut self.link, &mut self.crew) else { return };
        let lent = std::mem::take(&mut crew.lent);
        let recall = |worker: usize| {
            let (sender, rings) = channel();
            crew.send(worker, Message::Recall(sender));
            (worker, rings)
        };
        let all: Vec<_> = crew.others().filter(|worker| lent & 1 << worker != 0).map(recall).collect();
        for (worker, rings) in all {
            if let Ok(rings) = rings.recv() {
                card.take_back(worker, crew.len(), *rings);
            }
        }
    }

    /// Gives each worker its rings, at the first one.
    pub(super) fn deal_rings(&mut self) {
        let (Link::Vhost(card), Some(crew)) = (&self.link, &mut self.crew) else { return };
        let running = card.running(crew.len());
        // Without the first pair there is no card; flows wait where they are.
        if running & 1 == 0 {
            return;
        }
        let stranded = std::mem::replace(&mut crew.able, running) & !running;
        for worker in crew.others().filter(|worker| stranded & 1 << worker != 0) {
            self.adopt_flows_of(worker);
        }
        let (Link::Vhost(card), Some(crew)) = (&mut self.link, &mut self.crew) else { return };
        for worker in crew.others().filter(|worker| running & 1 << worker != 0) {
            let rings = card.lend(worker, crew.len());
            crew.send(worker, Message::Rings(Box::new(rings), self.plugged_in));
        }
        crew.lent = running & !1;
    }

    /// These are ours now, at another worker.
    pub(super) fn take_rings(&mut self, rings: Box<Rings>, generation: u32) {
        if let Link::Card(card) = &mut self.link {
            card.adopt(*rings);
        }
        self.plugged_in = generation;
        // What waits in them may never be told of again.
        (self.link_has_more, self.link_takes) = (true, true);
    }

    pub(super) fn give_rings_back(&mut self) -> Box<Rings> {
        // Nothing of the memory may stay in use.
        self.batch.clear();
        match &mut self.link {
            Link::Card(card) => Box::new(card.give_back()),
            _ => Box::default(),
        }
    }

    /// The link has failed at the end of a turn.
    pub(super) fn link_lost(&mut self, now: Instant) -> io::Result<()> {
        match (&self.link, &self.crew) {
            // The conversation is the first worker's.
            (Link::Card(_), Some(crew)) => crew.send(0, Message::MemoryLost),
            _ => self.hear_out_client(now)?,
        }
        Ok(())
    }

    /// A ring that is given up takes its pair with it, and the worker who has no other one can send nothing.
    pub(super) fn tell_of_broken_rings(&mut self) {
        if self.link.has_broken() {
            self.crew.iter().for_each(|crew| crew.send(0, Message::Broken));
        }
    }

    /// Has the kicks of each ring wake the worker who has it.
    pub(super) fn watch_rings(&mut self) {
        for change in self.link.polling() {
            let done = match &change {
                Watch::Begin(fd, ring) => {
                    let token = Token::new(Kind::Ring, *ring as u32, self.plugged_in);
                    let token = mio::Token(token.to_usize());
                    self.registry_of(*ring).register(&mut SourceFd(fd), token, Interest::READABLE)
                }
                Watch::End(fd, ring) => self.registry_of(*ring).deregister(&mut SourceFd(&fd.as_raw_fd())),
            };
            if let Err(e) = done {
                log::warn!("cannot follow a ring of the guest: {e}");
            }
        }
    }

    fn registry_of(&self, ring: usize) -> &Registry {
        match &self.crew {
            Some(crew) => crew.registry(ring / 2 % crew.len()),
            None => self.poll.registry(),
        }
    }
}
