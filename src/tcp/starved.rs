//! What the kernel has had no memory for. No event tells when it has, so those flows are tried again after a while. What comes
//! from the guest meanwhile is held, within the window; what comes from the host stays in its socket.

use std::os::fd::AsFd;

use super::*;
use crate::guest::{Facts, ToGuest};
use crate::sys::is_exhaustion;

impl Tcp {
    /// True if [`Tcp::retry`] is to be called after a while.
    pub fn is_starved(&self) -> bool {
        !self.starved.is_empty()
    }

    /// The host may have memory again.
    pub fn retry(&mut self, facts: &Facts<'_>, link: &mut dyn ToGuest, timers: &mut Wheel) {
        for id in std::mem::take(&mut self.starved) {
            let Some(flow) = self.flows.get_mut(id) else { continue };
            flow.starved = false;
            self.discard(id);
            if self.flows.get(id).is_some_and(|f| !f.held.is_empty()) {
                self.drain(id, facts, link);
            }
            self.push(id, facts, link);
            self.arm(id, facts.now, timers);
        }
    }

    pub(super) fn starve(&mut self, id: Id) {
        if let Some(flow) = self.flows.get_mut(id)
            && !std::mem::replace(&mut flow.starved, true)
        {
            self.starved.push(id);
        }
    }

    /// Removes acknowledged bytes from the receive queue. They are there, because they were peeked. False if some stay for now:
    /// the queue does not begin with what the guest has not acknowledged, and must not be peeked into.
    pub(super) fn discard(&mut self, id: Id) -> bool {
        let Some(flow) = self.flows.get_mut(id) else { return true };
        let Some(socket) = &flow.socket else { return true };
        while flow.spent > 0 {
            match socket::discard(socket.as_fd(), flow.spent) {
                Err(e) if is_exhaustion(&e) => {
                    self.starve(id);
                    return false;
                }
                Ok(0) | Err(_) => flow.spent = 0,
                Ok(some) => flow.spent -= some.min(flow.spent),
            }
        }
        true
    }

    /// Has the next peek start behind what was sent, unless it does.
    pub(super) fn find_place(&mut self, id: Id) -> bool {
        !self.flows.get(id).is_some_and(|f| f.astray) || self.reseek(id)
    }

    /// After a peek whose data was not all sent, or a resend: the next peek is of new data again. False: it would be of others.
    pub(super) fn reseek(&mut self, id: Id) -> bool {
        let Some(flow) = self.flows.get(id) else { return true };
        let found = self.seek(id, flow.conn.in_flight());
        if let Some(flow) = self.flows.get_mut(id) {
            flow.astray = !found;
        }
        found
    }
}
