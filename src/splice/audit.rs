//! Looks for sockets that nothing will ever move again, and for books that do not balance. For tests and watchdogs.

use std::os::fd::AsRawFd;

use super::Splice;
use super::datagram::Datagrams;
use super::stream::{CLIENT, Streams, TARGET};
use crate::base::{Kind, Token};
use crate::flow::{Awaited, Belief};

impl Splice {
    /// What no event, timer or queue would cure, or what is miscounted; `Ok` if there is no such thing.
    ///
    /// # Errors
    /// The first fault found, in words.
    #[doc(hidden)]
    pub fn audit(&self) -> Result<(), String> {
        self.streams.audit()?;
        self.datagrams.audit()
    }

    /// What sockets are believed not to have.
    #[doc(hidden)]
    pub fn beliefs(&self, all: &mut Vec<Belief>) {
        self.streams.beliefs(all);
        self.datagrams.beliefs(all);
    }
}

impl Streams {
    fn audit(&self) -> Result<(), String> {
        let (mut bytes, mut pipes) = (0, 0);
        for (id, flow) in self.flows.iter() {
            let listed = self.queue.contains(&id) || self.starved.contains(&id);
            if flow.queued != listed {
                return Err(format!("{flow:?} is queued or not, and said to be otherwise"));
            }
            for side in [CLIENT, TARGET] {
                let lane = &flow.lanes[side];
                let held = lane.held();
                (bytes, pipes) = (bytes + held.0, pipes + held.1);
                if !flow.connecting && !flow.shut[side] && lane.can_move() && !listed {
                    return Err(format!("{flow:?} could move, and does not"));
                }
            }
        }
        self.means.audit(bytes, pipes)
    }

    fn beliefs(&self, all: &mut Vec<Belief>) {
        for (id, flow) in self.flows.iter().filter(|(_, flow)| !flow.queued) {
            let mut add = |side: usize, awaited, mark| {
                all.push(Belief {
                    token: super::stream::token(side, id),
                    fd: flow.sockets[side].as_raw_fd(),
                    awaited,
                    mark,
                });
            };
            if flow.connecting {
                add(TARGET, Awaited::Room, 0);
                continue;
            }
            for side in [CLIENT, TARGET] {
                let lane = &flow.lanes[side];
                if lane.blocked {
                    add(1 - side, Awaited::Room, lane.pace.mark());
                } else if lane.is_dry() {
                    add(side, Awaited::Arrival, lane.pace.mark());
                }
            }
        }
    }
}

impl Datagrams {
    fn audit(&self) -> Result<(), String> {
        let queued = |token: Token| self.queue.contains(&token) || self.starved.contains(&token);
        for (id, _, flow) in self.flows.iter() {
            if [CLIENT, TARGET].into_iter().any(|side| flow.queued[side] != queued(super::datagram::token(side, id))) {
                return Err(format!("{flow:?} is queued or not, and said to be otherwise"));
            }
        }
        match self.listeners.iter().find(|(id, l)| l.queued != queued(super::listen::token(*id))) {
            Some((_, listener)) => Err(format!("{listener:?} is queued or not, and said to be otherwise")),
            None => Ok(()),
        }
    }

    fn beliefs(&self, all: &mut Vec<Belief>) {
        let awaited = Awaited::Arrival;
        for (id, _, flow) in self.flows.iter() {
            for side in [CLIENT, TARGET].into_iter().filter(|side| !flow.queued[*side]) {
                let (fd, mark) = (flow.sockets[side].as_raw_fd(), flow.last_used.as_nanos());
                all.push(Belief { token: super::datagram::token(side, id), fd, awaited, mark });
            }
        }
        for (id, listener) in self.listeners.iter().filter(|(_, listener)| !listener.queued) {
            let token = Token::new(Kind::SpliceListenUdp, id.index, id.generation);
            all.push(Belief { token, fd: listener.socket.as_raw_fd(), awaited, mark: self.inbox.calls() });
        }
    }
}
