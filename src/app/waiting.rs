//! How long the event loop waits, and what it tries again although nothing has told it to.

use std::time::Duration;

use super::engine::Engine;
use crate::base::Instant;
use crate::flow::Pending;
use crate::guest::Facts;
use crate::splice::Splice;

/// Between two attempts to do what the kernel had no memory for, or the guest too few buffers.
const STUCK: Duration = Duration::from_millis(10);

impl Engine {
    /// `None`: until there is an event.
    pub(super) fn wait(&self) -> Option<Duration> {
        let splice = self.splice.as_ref().map_or(Pending::Nothing, Splice::pending);
        let turn = [self.udp.pending(), self.icmp.pending(), splice].contains(&Pending::Turn);
        let waiting = !self.ports.waiting.is_empty() || !self.due.is_empty();
        if self.link_has_more || self.tcp.has_pending() || turn || waiting {
            return Some(Duration::ZERO);
        }
        let timer = self.timers.next().map(|at| at.since(self.clock.now()));
        let timer = if cfg!(debug_assertions) { Engine::patience(timer) } else { timer };
        if !self.is_stuck() {
            return timer;
        }
        let stuck = self.stuck_until.since(self.clock.now()).min(STUCK);
        Some(timer.map_or(stuck, |timer| timer.min(stuck)))
    }

    /// Has what no event will tell of try again, if it is time to. True if the link is to be.
    pub(super) fn try_again(&mut self, now: Instant) -> bool {
        if !self.is_stuck() {
            self.stuck_until = Instant::FAR;
            return false;
        }
        if self.stuck_until == Instant::FAR {
            self.stuck_until = now + STUCK;
        }
        if now < self.stuck_until {
            return false;
        }
        self.stuck_until = Instant::FAR;
        let facts = Facts { now, l2: &self.l2, nat: &self.nat };
        self.tcp.retry(&facts, &mut self.link, &mut self.timers);
        self.udp.retry();
        self.icmp.retry();
        self.splice.iter_mut().for_each(Splice::retry);
        let link = self.link.is_stuck();
        self.link_has_more |= link;
        link
    }

    fn is_stuck(&self) -> bool {
        self.link.is_stuck()
            || self.tcp.is_starved()
            || self.udp.is_starved()
            || self.icmp.is_starved()
            || self.splice.as_ref().is_some_and(Splice::is_starved)
    }
}
