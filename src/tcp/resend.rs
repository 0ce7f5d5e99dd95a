//! What is sent to the guest once more.

use super::conn::State;
use super::to_guest::{PEEK_BYTES, fields};
use super::*;
use crate::guest::{Facts, ToGuest};
use crate::wire::TcpFlags;

impl Tcp {
    /// Sends again what the guest misses.
    pub(super) fn resend(&mut self, id: Id, facts: &Facts<'_>, link: &mut dyn ToGuest) {
        let Some(flow) = self.flows.get(id) else { return };
        match flow.conn.state() {
            State::SynReceived | State::SynSent => return self.send_syn(id, facts, link),
            State::Established => {}
            _ => return,
        }
        if flow.conn.resend_is_fin() {
            self.send_bare(id, flow.conn.una(), TcpFlags::FIN | TcpFlags::ACK, facts, link);
            return;
        }
        let Some(key) = self.flows.key(id).copied() else { return };
        if self.flow(id).spent > 0 {
            return;
        }
        let mut left = PEEK_BYTES;
        let mut moved = false;
        while left > 0
            && let Some((from, len)) = self.flow(id).conn.next_hole()
        {
            let want = left.min(len as usize);
            let una = self.flow(id).conn.una();
            // Whatever stops it, the timer tries again.
            if !self.seek(id, from.since(una)) {
                break;
            }
            moved = true;
            let Ok(got) = self.send_payload(id, &key, from, want, facts, link) else { break };
            let flow = self.flow(id);
            flow.conn.resent(from, got.sent as u32);
            flow.resent = flow.resent.saturating_add(got.frames as u32);
            if got.sent < want {
                break;
            }
            left -= want;
        }
        if moved {
            self.reseek(id);
        }
    }

    /// SYN or SYN-ACK, the same each time but for the clock.
    pub(super) fn send_syn(&mut self, id: Id, facts: &Facts<'_>, link: &mut dyn ToGuest) {
        let Some(flow) = self.flows.get(id) else { return };
        let answer = flow.conn.state() == State::SynReceived;
        if answer && flow.conn.offered() == 0 {
            self.offer(id);
        }
        let Some(key) = self.flows.key(id).copied() else { return };
        let flow = self.flow(id);
        let flags = if answer { TcpFlags::SYN | TcpFlags::ACK } else { TcpFlags::SYN };
        let mut fields = fields(&key, &mut flow.conn, flags, facts.now);
        fields.seq = flow.conn.una().0;
        fields.options = flow.conn.syn_options(facts.now);
        self.emit(&key, &fields, facts, link);
    }

    /// SYNs that the guest has not answered, once more, beside their timers: it could not hear them until now.
    pub fn repeat_syns(&mut self, facts: &Facts<'_>, link: &mut dyn ToGuest) {
        for at in 0..self.embryonic.len() {
            let id = self.embryonic[at];
            if self.flows.get(id).is_some_and(|f| f.conn.state() == State::SynSent) {
                self.send_syn(id, facts, link);
            }
        }
    }
}
