//! What is shown of flows.

use super::*;
use crate::flow::{Look, Protocol, View};

impl Icmp {
    /// Every flow.
    pub fn views(&self, look: &Look) -> impl Iterator<Item = View> + '_ {
        let look = *look;
        self.table.iter().map(move |(_, key, flow)| flow.view(key, &look))
    }
}

impl Flow {
    fn view(&self, key: &FlowKey, look: &Look) -> View {
        let state = if self.traffic.to_guest.frames == 0 { "one-way" } else { "answered" };
        View {
            host: look.ends(&self.socket),
            by_guest: true,
            traffic: self.traffic,
            waits_for: self.queued.then_some("turn or link"),
            ..View::new(Protocol::Echo, (key.guest, key.remote), (self.born, self.last_used), state, look)
        }
    }
}
