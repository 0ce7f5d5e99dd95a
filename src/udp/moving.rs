//! Flows that go from one worker to another.

use std::os::fd::AsRawFd;

use mio::unix::SourceFd;

use super::Udp;
use super::flow::Flow;
use crate::flow::{FlowKey, Heir, Id, Share, Wheel};
use crate::guest::{Facts, ToGuest};

/// A flow on its way.
pub struct Moving {
    key: FlowKey,
    flow: Flow,
}

impl Udp {
    /// There are other workers, which have flows as well. To be called before the first flow.
    pub fn enlist(&mut self, share: Share) {
        self.table.enlist(share);
    }

    /// See [`crate::flow::Table::elsewhere`].
    pub fn elsewhere(&mut self, key: &FlowKey, heir: Heir) -> Option<usize> {
        self.table.elsewhere(key, heir)
    }

    /// See [`crate::flow::Table::settle`].
    pub fn settle_claims(&mut self) {
        self.table.settle();
    }

    /// Gives all flows away, to be adopted by `worker`.
    pub fn leave(&mut self, worker: usize, facts: &Facts<'_>, link: &mut dyn ToGuest) -> Vec<Moving> {
        self.flush(facts, link);
        let ids: Vec<Id> = self.table.iter().map(|(id, ..)| id).collect();
        let leave = |id| {
            let (key, flow) = self.table.give(id, worker)?;
            let _ = self.registry.deregister(&mut SourceFd(&flow.socket.as_raw_fd()));
            Some(Moving { key, flow })
        };
        let all = ids.into_iter().filter_map(leave).collect();
        self.guest_ports.clear();
        all
    }

    /// Goes on with a flow that another worker had. One for which there is no room ends.
    pub fn adopt(&mut self, moving: Moving, facts: &Facts<'_>, link: &mut dyn ToGuest, timers: &mut Wheel) {
        let Moving { key, mut flow } = moving;
        flow.queued = false;
        let (via, passed) = (flow.via, flow.passed());
        let made = self.make_room(facts).and_then(|()| self.insert(key, flow, link.caps().uso, facts, timers));
        if let Err(reason) = made {
            self.ledger.bytes(via, passed);
            self.counters.drop(reason);
            self.table.disown(&key);
        }
    }
}
