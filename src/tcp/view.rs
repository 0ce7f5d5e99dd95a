//! What is shown of connections.

use super::conn::State;
use super::*;
use crate::flow::{Protocol, Sight, View};

impl Tcp {
    /// Every connection.
    pub fn views(&self, now: Instant) -> impl Iterator<Item = Sight<'_>> {
        self.flows.iter().map(move |(_, key, flow)| flow.view(key, now))
    }

    /// Adds what has come by forwards.
    pub fn passed(&self, sums: &mut Ledger) {
        sums.add_living(&self.ledger, self.flows.iter().map(|(_, _, flow)| (flow.via, flow.passed())));
    }

    /// A forward is no more.
    pub fn forget(&mut self, via: Via) {
        self.ledger.forget(via, self.flows.values_mut().map(|flow| &mut flow.via));
    }
}

impl Flow {
    /// To the target of its forward, and back.
    pub(super) fn passed(&self) -> (u64, u64) {
        (self.traffic.to_guest.bytes, self.traffic.from_guest.bytes)
    }

    fn view(&self, key: &FlowKey, now: Instant) -> Sight<'_> {
        let times = (self.born, self.conn.last_heard());
        let view = View {
            by_guest: self.by_guest,
            traffic: self.traffic,
            rtt: self.conn.rtt(),
            resent: self.resent,
            waits_for: self.waits_for(),
            ..View::new(Protocol::Tcp, (key.guest, key.remote), times, self.state(), now)
        };
        Sight { view, host: self.socket.as_ref(), client: None }
    }

    /// As netstat(8) names it, seen from here.
    fn state(&self) -> &'static str {
        match (self.conn.state(), self.conn.guest_has_ended(), self.conn.host_has_ended()) {
            (State::Connecting, ..) => "connecting",
            (State::SynReceived, ..) => "syn-received",
            (State::SynSent, ..) => "syn-sent",
            (State::Established, false, false) => "established",
            (State::Established, true, false) => "guest-closed",
            (State::Established, false, true) => "host-closed",
            (State::Established, true, true) => "closing",
            (State::TimeWait, ..) => "time-wait",
            (State::Closed, ..) => "closed",
        }
    }

    fn waits_for(&self) -> Option<&'static str> {
        let established = self.conn.state() == State::Established;
        if !self.held.is_empty() {
            Some("host to take data")
        } else if self.ahead.is_some() {
            Some("missing data of the guest")
        } else if self.queued {
            Some("turn or link")
        } else if established && self.readable && !self.conn.host_has_ended() && self.conn.room() == 0 {
            Some("guest's window")
        } else {
            None
        }
    }
}
