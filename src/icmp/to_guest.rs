//! Replies and errors from ping sockets to the guest.

use std::io;
use std::os::fd::AsFd;

use super::{BUDGET, Icmp, SLOTS};
use crate::base::{Addr, DropReason};
use crate::flow::{FlowKey, Id};
use crate::guest::errors::reporter;
use crate::guest::{Facts, LinkFull, Room, ToGuest, counted};
use crate::sys::dgram::Meta;
use crate::sys::errqueue::{self, HostError, Origin};
use crate::wire::checksum::Sum;
use crate::wire::emit::{self, Head, IpFields};
use crate::wire::icmp::{self, ECHO_REPLY_V4, ECHO_REPLY_V6, ErrorKind, ICMP_LEN};
use crate::wire::{self, Offload, PROTO_ICMPV6, fragment, ip_len};

/// Errors taken from one socket's queue in one go; the kernel's queue is bounded by the receive buffer.
const DRAIN_MAX: usize = 64;

impl Icmp {
    /// Reads a flow's socket until it is empty, the budget is used up or the link is full.
    pub(super) fn read(&mut self, id: Id, facts: &Facts<'_>, link: &mut dyn ToGuest) {
        let (mut failed, mut starves) = (false, false);
        for _ in 0..BUDGET / SLOTS {
            if link.room() != Room::Free {
                self.link_full = true;
                break;
            }
            let Some((flow, key)) = self.table.get(id).zip(self.table.key(id)) else { return };
            let (key, target) = (*key, flow.target);
            match self.inbox.receive(flow.socket.as_fd(), SLOTS, true) {
                Ok(n) => {
                    if let Some(flow) = self.table.get_mut(id) {
                        flow.last_used = facts.now;
                        let bytes = (0..n).map(|i| self.inbox.meta(i).len.saturating_sub(ICMP_LEN)).sum();
                        flow.traffic.to_guest.add(n, bytes);
                    }
                    for i in 0..n {
                        self.link_full |= self.reply(i, &key, target, facts, link).is_err();
                    }
                    if self.link_full {
                        break;
                    }
                    if n < SLOTS {
                        return;
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                // A pending error, cleared by telling us: once more, then after a while.
                Err(_) if std::mem::replace(&mut failed, true) => {
                    starves = true;
                    break;
                }
                Err(_) => self.drain_errors(id, facts, link),
            }
        }
        if let Some(flow) = self.table.get_mut(id)
            && !std::mem::replace(&mut flow.queued, true)
        {
            if starves { self.starved.push(id) } else { self.queue.push_back(id) }
        }
    }

    /// Empties the error queue of a flow's socket towards the guest.
    pub(super) fn drain_errors(&mut self, id: Id, facts: &Facts<'_>, link: &mut dyn ToGuest) {
        for _ in 0..DRAIN_MAX {
            let Some(flow) = self.table.get(id) else { return };
            let Ok(Some(e)) = errqueue::next(flow.socket.as_fd(), &mut self.quote) else { return };
            self.relay(id, &e, facts, link);
        }
    }

    /// Tells the guest of an error about one of a flow's requests. What came back of it is in `self.quote`.
    fn relay(&mut self, id: Id, e: &HostError, facts: &Facts<'_>, link: &mut dyn ToGuest) {
        let Some((flow, key)) = self.table.get(id).zip(self.table.key(id)) else { return };
        let family = key.guest.addr.family();
        let (Some(kind), Some(sent)) = (ErrorKind::relayed(family, e.kind, e.code, e.info), &flow.sent) else { return };
        // A local error was the answer to a send, which told the guest already. An error without the request's header
        // cannot be told from one about another request.
        if e.origin == Origin::Local || e.quoted < ICMP_LEN {
            return;
        }
        let (l4, body) = self.quote[..e.quoted].split_at(ICMP_LEN);
        let l4 = as_the_guest_wrote(l4, body, key, body.len() == sent.body_len());
        sent.quote(&mut self.original, Some(l4), body, false);
        let from = reporter(facts, e.offender.map(Addr::from), flow.target, key.remote.addr);
        self.errors.send(facts, link, (from, key.guest.addr), kind, &self.original);
    }

    /// As if the host had reported this error about a request of the guest's, of which `quote` came back. For tests.
    pub fn report(&mut self, key: &FlowKey, e: &HostError, quote: &[u8], facts: &Facts<'_>, link: &mut dyn ToGuest) {
        let Some(id) = self.table.find(key) else { return };
        let quoted = quote.len().min(self.quote.len());
        self.quote[..quoted].copy_from_slice(&quote[..quoted]);
        self.relay(id, &HostError { quoted, ..*e }, facts, link);
    }

    /// Sends the `i`-th received message to the guest.
    fn reply(
        &mut self,
        i: usize,
        key: &FlowKey,
        target: Addr,
        facts: &Facts<'_>,
        link: &mut dyn ToGuest,
    ) -> Result<(), LinkFull> {
        let meta = self.inbox.meta(i);
        let v4 = key.guest.addr.is_v4();
        let Some(src) = sender(&meta, key, target, facts) else {
            self.counters.drop(DropReason::SourceAddress);
            return Ok(());
        };
        let Some((l4, body)) = self.inbox.payload(i).split_at_checked(ICMP_LEN) else { return Ok(()) };
        if l4[0] != (if v4 { ECHO_REPLY_V4 } else { ECHO_REPLY_V6 }) || meta.truncated {
            return Ok(());
        }
        let f = IpFields {
            src_mac: facts.l2.mac_for(&src),
            dst_mac: facts.l2.guest_mac,
            src,
            dst: key.guest.addr,
            ttl: meta.ttl.unwrap_or(emit::TTL),
            tos: meta.tos,
            id: 0,
        };
        let identifier = key.guest.port.to_be_bytes();
        let mut l4 = [l4[0], l4[1], 0, 0, identifier[0], identifier[1], l4[6], l4[7]];
        let proto = icmp::seal(&f, &mut l4, body);
        let body_len = body.len();
        let mtu = link.caps().mtu;
        if ip_len(key.guest.addr.family()) + ICMP_LEN + body_len <= usize::from(mtu) {
            let mut head = Head::new();
            emit::ip(&mut head, &f, proto, ICMP_LEN + body_len);
            head.try_extend_from_slice(&l4).expect("HEAD_MAX has room for an ICMP header");
            let frame = self.inbox.framed(i, &head, ICMP_LEN, body_len);
            let sent = link.send(frame, Offload::NONE);
            return counted(sent, head.len() + body_len, &mut self.counters);
        }
        self.fragment_id = self.fragment_id.wrapping_add(1);
        let l4 = self.inbox.framed(i, &l4, ICMP_LEN, body_len);
        let (scratch, mut sent, mut bytes) = (&mut self.scratch, Ok(()), 0);
        fragment::cut(&f, proto, l4.len(), mtu, self.fragment_id, |head, range| {
            scratch.clear();
            scratch.extend_from_slice(head);
            scratch.extend_from_slice(&l4[range]);
            bytes += scratch.len();
            sent = link.send(scratch, Offload::NONE);
            sent.is_ok()
        });
        counted(sent, bytes, &mut self.counters)
    }
}

/// The source to show for a reply, or `None` if it came from somebody who was not asked.
fn sender(meta: &Meta, key: &FlowKey, target: Addr, facts: &Facts<'_>) -> Option<Addr> {
    let from = Addr::from(meta.from?.ip());
    if from == target {
        return Some(key.remote.addr);
    }
    // Whether an IPv4 address is a directed broadcast only the routing table knows: then strangers' replies are lost.
    if !target.is_multicast() && !target.is_limited_broadcast() {
        return None;
    }
    facts.nat.to_guest(from, Some(key.guest.addr))
}

/// The header of a request that came back, with the guest's identifier and a checksum that fits it.
fn as_the_guest_wrote(l4: &[u8], body: &[u8], key: &FlowKey, whole: bool) -> [u8; ICMP_LEN] {
    let mut out = [0; ICMP_LEN];
    out.copy_from_slice(l4);
    let (old, new) = (wire::be16(&out, 4), key.guest.port);
    out[4..6].copy_from_slice(&new.to_be_bytes());
    let checksum = if whole && !key.guest.addr.is_v4() {
        // The pseudo-header has addresses of the guest's side.
        out[2..4].fill(0);
        let len = ICMP_LEN + body.len();
        Sum::pseudo(&key.guest.addr, &key.remote.addr, PROTO_ICMPV6, len).add(&out).add(body).checksum()
    } else {
        // RFC 1624 §3, equation 3: HC' = ~(~HC + ~m + m').
        Sum::new().add_u16(!wire::be16(&out, 2)).add_u16(!old).add_u16(new).checksum()
    };
    out[2..4].copy_from_slice(&checksum.to_be_bytes());
    out
}
