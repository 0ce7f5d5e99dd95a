//! What is shown of flows.

use super::*;
use crate::base::Instant;
use crate::flow::{Protocol, Sight, View};

impl Icmp {
    /// Every flow.
    pub fn views(&self, now: Instant) -> impl Iterator<Item = Sight<'_>> {
        self.table.iter().map(move |(_, key, flow)| flow.view(key, now))
    }
}

impl Flow {
    fn view(&self, key: &FlowKey, now: Instant) -> Sight<'_> {
        let state = if self.traffic.to_guest.frames == 0 { "one-way" } else { "answered" };
        let view = View {
            by_guest: true,
            traffic: self.traffic,
            waits_for: self.queued.then_some("turn or link"),
            ..View::new(Protocol::Echo, (key.guest, key.remote), (self.born, self.last_used), state, now)
        };
        Sight { view, host: Some(&self.socket), client: None }
    }
}
