//! What is shown of flows.

use super::flow::{Flow, Side};
use super::*;
use crate::flow::{Look, Protocol, View};
use crate::sys::socket;

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
            protocol: Protocol::Udp,
            guest: key.guest,
            remote: key.remote,
            host: if look.host_ends { socket::ends(&self.socket) } else { None },
            by_guest: self.started_by == Side::Guest,
            state: self.state(),
            age: look.now.since(self.born),
            idle: look.now.since(self.last_used),
            traffic: self.traffic,
            rtt: None,
            resent: 0,
            waits_for: self.queued.then_some("turn or link"),
        }
    }
}
