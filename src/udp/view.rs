//! What is shown of flows.

use super::flow::{Flow, Side};
use super::*;
use crate::flow::{Look, Protocol, View};

impl Udp {
    /// Every flow.
    pub fn views(&self, look: &Look) -> impl Iterator<Item = View> + '_ {
        let look = *look;
        self.table.iter().map(move |(_, key, flow)| flow.view(key, &look))
    }
}

impl Flow {
    fn view(&self, key: &FlowKey, look: &Look) -> View {
        View {
            host: look.ends(&self.socket),
            by_guest: self.started_by == Side::Guest,
            traffic: self.traffic,
            waits_for: self.queued.then_some("turn or link"),
            ..View::new(Protocol::Udp, (key.guest, key.remote), (self.born, self.last_used), self.state(), look)
        }
    }
}
