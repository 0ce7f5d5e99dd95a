//! Looks for sockets that nothing will ever move again. For tests and watchdogs.

use std::os::fd::AsRawFd;

use super::{Icmp, token};
use crate::flow::{Awaited, Belief};

impl Icmp {
    /// What no event, timer or queue would cure; `Ok` if there is no such thing.
    ///
    /// # Errors
    /// The first fault found, in words.
    #[doc(hidden)]
    pub fn audit(&self) -> Result<(), String> {
        for (id, key, flow) in self.table.iter() {
            if flow.queued && !self.queue.contains(&id) && !self.starved.contains(&id) {
                return Err(format!("{key:?} is said to be queued, but is not"));
            }
        }
        Ok(())
    }

    /// Sockets that wait for the link.
    #[doc(hidden)]
    pub fn waits_for_link(&self) -> bool {
        self.link_full && !self.queue.is_empty()
    }

    /// What sockets are believed not to have.
    #[doc(hidden)]
    pub fn beliefs(&self, all: &mut Vec<Belief>) {
        for (id, _, flow) in self.table.iter().filter(|(.., flow)| !flow.queued) {
            let (fd, mark) = (flow.socket.as_raw_fd(), flow.last_used.as_nanos());
            all.push(Belief { token: token(id), fd, awaited: Awaited::Arrival, mark });
        }
    }
}
