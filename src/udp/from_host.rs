//! Datagrams from the sockets to the guest.

use std::io;
use std::os::fd::AsFd;

use super::{BUDGET, LARGE, SLOTS, Side, Udp, WANT_MIN, token};
use crate::flow::Id;
use crate::guest::{Facts, Room, ToGuest};
use crate::sys::is_exhaustion;

impl Udp {
    /// Reads a flow's socket until it is empty, the budget is used up or the link is full.
    pub(super) fn read(&mut self, id: Id, facts: &Facts<'_>, link: &mut dyn ToGuest) {
        let mut left = BUDGET;
        let mut failures = 0;
        while left > 0 {
            // What is not read waits in the socket.
            if link.room() != Room::Free {
                self.link_full = true;
                break;
            }
            let Some((flow, key)) = self.table.get(id).zip(self.table.key(id)) else { return };
            let key = *key;
            let result = if flow.large {
                match self.framer.receive_large(flow, &key, facts, link, &mut self.counters) {
                    // It has room, but never for the longest datagram there may be. Others are shorter, or can be cut.
                    None if link.room() == Room::Free => {
                        self.expect_large(id, false);
                        continue;
                    }
                    None => {
                        self.link_full = true;
                        break;
                    }
                    Some(r) => r.map(|l| (l.asked, l.got, l.bytes, l.full, !l.odd)),
                }
            } else {
                let want = self.want.min(left);
                let got = self.framer.inbox.receive(flow.socket.as_fd(), want, false);
                got.map(|n| {
                    let (bytes, full) = self.framer.deliver_batch(n, &key, facts, link, &mut self.counters);
                    (want, n, bytes, full, true)
                })
            };
            match result {
                Ok((want, got, bytes, full, areas_fit)) => {
                    self.touch(id, Side::Host, (got, bytes), facts);
                    left = left.saturating_sub(got.max(1) * (1 + bytes / got.max(1) / LARGE));
                    self.expect_large(id, areas_fit && bytes / got.max(1) >= LARGE);
                    self.link_full |= full;
                    if full {
                        break;
                    }
                    if got < want {
                        self.want = (self.want / 2).max(WANT_MIN);
                        return;
                    }
                    self.want = (self.want * 2).min(SLOTS);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e) => {
                    failures += 1;
                    self.relay.drain(flow, &key, facts, link);
                    // Errors of earlier datagrams are cleared by telling us, and are few.
                    if is_exhaustion(&e) || failures > 8 {
                        return self.starve(id);
                    }
                }
            }
        }
        self.enqueue(id);
    }

    fn expect_large(&mut self, id: Id, large: bool) {
        if let Some(flow) = self.table.get_mut(id) {
            flow.large = large;
        }
    }

    fn starve(&mut self, id: Id) {
        if let Some(flow) = self.table.get_mut(id)
            && !std::mem::replace(&mut flow.queued, true)
        {
            self.starved.push(token(id));
        }
    }

    fn enqueue(&mut self, id: Id) {
        if let Some(flow) = self.table.get_mut(id)
            && !std::mem::replace(&mut flow.queued, true)
        {
            self.queue.push_back(token(id));
        }
    }
}
