//! What is shown of flows.

use super::flow::{Flow, Side};
use super::*;
use crate::base::Instant;
use crate::flow::{Protocol, Sight, Via, View};

impl Udp {
    /// Every flow.
    pub fn views(&self, now: Instant) -> impl Iterator<Item = Sight<'_>> {
        self.table.iter().map(move |(_, key, flow)| flow.view(key, now))
    }

    /// Adds what has come by forwards.
    pub fn passed(&self, sums: &mut Ledger) {
        sums.add_living(&self.ledger, self.table.iter().map(|(_, _, flow)| (flow.via, flow.passed())));
    }

    /// A forward is no more.
    pub fn forget(&mut self, via: Via) {
        self.ledger.forget(via, self.table.values_mut().map(|flow| &mut flow.via));
    }
}

impl Flow {
    fn view(&self, key: &FlowKey, now: Instant) -> Sight<'_> {
        let view = View {
            by_guest: self.started_by == Side::Guest,
            traffic: self.traffic,
            waits_for: self.queued.then_some("turn or link"),
            ..View::new(Protocol::Udp, (key.guest, key.remote), (self.born, self.last_used), self.state(), now)
        };
        Sight { view, host: Some(&self.socket), client: None }
    }
}
