//! Looks for sockets that nothing will ever move again, and for books that do not balance. For tests and watchdogs.

use std::os::fd::AsRawFd;

use super::{Udp, token};
use crate::base::{Kind, Token};
use crate::flow::{Awaited, Belief, Id};

impl Udp {
    /// What no event, timer or queue would cure, or what is miscounted; `Ok` if there is no such thing.
    ///
    /// # Errors
    /// The first fault found, in words.
    #[doc(hidden)]
    pub fn audit(&self) -> Result<(), String> {
        if self.stage.flow.is_some() {
            return Err("datagrams are staged and nobody sends them".into());
        }
        let ports: u32 = self.guest_ports.values().sum();
        if ports as usize != self.table.len() {
            return Err(format!("{ports} flows have ports, and there are {}", self.table.len()));
        }
        let queued = |token: Token| self.queue.contains(&token) || self.starved.contains(&token);
        for (id, key, flow) in self.table.iter() {
            if flow.queued && !queued(token(id)) {
                return Err(format!("{key:?} is said to be queued, but is not"));
            }
        }
        for (id, listener) in self.listeners.iter() {
            if listener.queued && !queued(listening(id)) {
                return Err(format!("port {} is said to be queued, but is not", listener.port));
            }
        }
        Ok(())
    }

    /// Sockets that wait for the link.
    #[doc(hidden)]
    pub fn waits_for_link(&self) -> bool {
        self.link_full && !self.queue.is_empty()
    }

    /// What sockets are believed not to have.
    #[doc(hidden)]
    pub fn beliefs(&self, all: &mut Vec<Belief>) {
        let awaited = Awaited::Arrival;
        for (id, _, flow) in self.table.iter().filter(|(.., flow)| !flow.queued) {
            let mark = flow.last_used.as_nanos();
            all.push(Belief { token: token(id), fd: flow.socket.as_raw_fd(), awaited, mark });
        }
        for (id, listener) in self.listeners.iter().filter(|(_, listener)| !listener.queued) {
            let mark = self.framer.inbox.calls();
            all.push(Belief { token: listening(id), fd: listener.socket.as_raw_fd(), awaited, mark });
        }
    }
}

fn listening(id: Id) -> Token {
    Token::new(Kind::ListenUdp, id.index, id.generation)
}
