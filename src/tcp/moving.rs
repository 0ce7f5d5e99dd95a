//! Flows that go from one worker to another.

use std::os::fd::{AsFd, AsRawFd};

use mio::unix::SourceFd;

use super::conn::State;
use super::*;
use crate::flow::{Heir, Share};
use crate::guest::{Facts, ToGuest};

/// A flow on its way.
pub struct Moving {
    key: FlowKey,
    flow: Flow,
}

impl Tcp {
    /// There are other workers, which have flows as well. To be called before the first flow.
    pub fn enlist(&mut self, share: Share) {
        self.flows.enlist(share);
    }

    /// See [`Table::elsewhere`].
    pub fn elsewhere(&mut self, key: &FlowKey, heir: Heir) -> Option<usize> {
        self.flows.elsewhere(key, heir)
    }

    /// See [`Table::settle`].
    pub fn settle_claims(&mut self) {
        self.flows.settle();
    }

    /// See [`Table::disown`].
    pub fn disown(&self, key: &FlowKey) {
        self.flows.disown(key);
    }

    /// Gives all flows away, to be adopted by `worker`.
    pub fn leave(&mut self, worker: usize) -> Vec<Moving> {
        let ids: Vec<Id> = self.flows.iter().map(|(id, ..)| id).collect();
        let leave = |id| {
            let (key, flow) = self.flows.give(id, worker)?;
            if let Some(socket) = &flow.socket {
                let _ = self.registry.deregister(&mut SourceFd(&socket.as_raw_fd()));
            }
            Some(Moving { key, flow })
        };
        let all = ids.into_iter().filter_map(leave).collect();
        (self.held_total, self.with_holes, self.half_open) = (0, 0, 0);
        all
    }

    /// Goes on with a flow that another worker had. One for which there is no room, or whose
    /// name is taken, is reset on both sides.
    pub fn adopt(&mut self, moving: Moving, facts: &Facts<'_>, link: &mut dyn ToGuest, timers: &mut Wheel) {
        if self.flows.find(&moving.key).is_some() || self.make_room(facts, link).is_err() {
            return self.turn_away(moving, facts, link);
        }
        let Moving { key, mut flow } = moving;
        let id = self.flows.next_id();
        let watched = flow.socket.as_ref().map_or(Ok(()), |socket| self.register(socket, id));
        let owes = std::mem::take(&mut flow.ack_owed);
        (flow.armed, flow.laps, flow.queued, flow.starved) = (Instant::FAR, 0, false, false);
        if flow.half_open {
            self.embryonic.push_back(id);
        }
        // With a remainder, it is noted when that has left.
        if flow.conn.state() == State::TimeWait && flow.held.is_empty() {
            self.waits(id);
        }
        self.half_open += usize::from(flow.half_open);
        self.held_total += flow.held.len();
        self.with_holes += usize::from(flow.ahead.is_some());
        self.flows.insert(key, flow).expect("nobody has the key");
        if watched.is_err() {
            return self.reset_both(id, facts, link);
        }
        if owes {
            self.owe_ack(id);
        }
        self.discard(id);
        self.push(id, facts, link);
        self.arm(id, facts.now, timers);
    }

    fn turn_away(&mut self, moving: Moving, facts: &Facts<'_>, link: &mut dyn ToGuest) {
        let Moving { key, mut flow } = moving;
        if let Some(socket) = &flow.socket {
            let _ = socket::set_reset_on_close(socket.as_fd());
        }
        self.ledger.bytes(flow.via, flow.passed());
        self.send_reset_of(&key, &mut flow.conn, facts, link);
        self.flows.disown(&key);
        self.counters.drop(DropReason::FlowTableFull);
    }
}
