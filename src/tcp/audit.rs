//! Looks for flows that nothing will ever move again, and for books that do not balance. For tests and debug watchdogs.

use std::os::fd::AsRawFd;

use super::conn::State;
use super::*;
use crate::flow::{Awaited, Belief};

impl Tcp {
    /// What no event, timer or queue would cure, or what is miscounted; `Ok` if there is no such thing.
    ///
    /// # Errors
    /// The first fault found, in words.
    #[doc(hidden)]
    pub fn audit(&self) -> Result<(), String> {
        let held: usize = self.flows.iter().map(|(_, _, f)| f.held.len()).sum();
        if held != self.held_total {
            return Err(format!("{held} bytes are held, the count says {}", self.held_total));
        }
        let with_holes = self.flows.iter().filter(|(_, _, f)| f.ahead.is_some()).count();
        if with_holes != self.with_holes {
            return Err(format!("{with_holes} flows hold data ahead of a hole, the count says {}", self.with_holes));
        }
        let half_open = self.flows.iter().filter(|(_, _, f)| f.half_open).count();
        if half_open != self.half_open {
            return Err(format!("{half_open} flows are half open, the count says {}", self.half_open));
        }
        for (id, key, flow) in self.flows.iter() {
            if let Some(fault) = self.fault(id, flow) {
                return Err(format!("{}: {fault}: {:?}", key.guest.port, flow.conn));
            }
        }
        Ok(())
    }

    /// Flows that wait for the link.
    #[doc(hidden)]
    pub fn waits_for_link(&self) -> bool {
        self.on_link.iter().any(|id| self.flows.get(*id).is_some())
    }

    /// Flows noted in TIME-WAIT, those that have gone included.
    #[doc(hidden)]
    pub fn noted_in_time_wait(&self) -> usize {
        self.waiting.len()
    }

    /// What sockets are believed not to have.
    #[doc(hidden)]
    pub fn beliefs(&self, all: &mut Vec<Belief>) {
        for (id, _, flow) in self.flows.iter() {
            let Some(socket) = &flow.socket else { continue };
            let conn = &flow.conn;
            let mut add = |awaited, mark| all.push(Belief { token: token(id), fd: socket.as_raw_fd(), awaited, mark });
            if conn.state() == State::Connecting || !flow.held.is_empty() && !flow.starved {
                add(Awaited::Room, u64::from(conn.rcv_nxt().0) << 32 | flow.held.len() as u64);
            }
            let reads = conn.state() == State::Established && !conn.host_has_ended();
            if reads && !flow.readable && !flow.queued && !flow.starved {
                let seen = conn.in_flight() as usize + flow.spent;
                let mark = u64::from(conn.una().0) << 32 | u64::from(conn.nxt().0);
                add(Awaited::Bytes { seen, end: flow.read_closed }, mark);
            }
        }
    }

    fn fault(&self, id: Id, flow: &Flow) -> Option<&'static str> {
        let conn = &flow.conn;
        let established = conn.state() == State::Established;
        if flow.queued && !self.run_queue.contains(&id) && !self.on_link.contains(&id) {
            return Some("said to be queued, but is not");
        }
        if flow.ack_owed && !self.owed.contains(&id) {
            return Some("owes an ACK nobody will send");
        }
        if conn.holds_ahead() != flow.ahead.is_some() {
            return Some("has a hole or not, and memory otherwise");
        }
        if conn.deadline() < flow.armed {
            return Some("its deadline is not armed");
        }
        if established && conn.una() != conn.nxt() && !conn.has_timer() {
            return Some("has data under way and no timer");
        }
        if flow.starved && !self.starved.contains(&id) {
            return Some("said to wait for memory, but does not");
        }
        if flow.spent > 0 && !flow.starved && flow.socket.is_some() {
            return Some("has acknowledged bytes in its queue that nobody will remove");
        }
        if established && flow.readable && !conn.host_has_ended() && !flow.queued && !flow.starved && !conn.has_timer()
        {
            return Some("has data to read and waits for nothing");
        }
        if conn.fin_due() {
            return Some("has a FIN to send and does not");
        }
        let half_open = matches!(conn.state(), State::Connecting | State::SynSent | State::SynReceived);
        if half_open != flow.half_open {
            return Some("is half open or not, and counted otherwise");
        }
        if conn.state() == State::TimeWait && !conn.has_timer() {
            return Some("stays in TIME-WAIT for ever");
        }
        if conn.state() == State::Closed && flow.held.is_empty() {
            return Some("is over and still here");
        }
        if conn.guest_has_ended() && flow.held.is_empty() && !flow.shut {
            return Some("has not passed the guest's FIN on");
        }
        None
    }
}
