//! What is shown of flows.

use super::*;
use crate::flow::{Look, Protocol, View};
use crate::sys::socket;

impl Icmp {
    /// Every flow.
    pub fn views(&self, look: &Look) -> impl Iterator<Item = View> + '_ {
        let look = *look;
        self.table.iter().map(move |(_, key, flow)| flow.view(key, &look))
    }
}

impl Flow {
    fn view(&self, key: &FlowKey, look: &Look) -> View {
        View {
            protocol: Protocol::Echo,
            guest: key.guest,
            remote: key.remote,
            host: if look.host_ends { socket::ends(&self.socket) } else { None },
            by_guest: true,
            state: if self.traffic.to_guest.frames == 0 { "one-way" } else { "answered" },
            age: look.now.since(self.born),
            idle: look.now.since(self.last_used),
            traffic: self.traffic,
            rtt: None,
            resent: 0,
            waits_for: self.queued.then_some("turn or link"),
        }
    }
}
