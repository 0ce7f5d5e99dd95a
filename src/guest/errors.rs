//! ICMP errors to the guest: who they come from, and how many a second.

use std::io;

use super::{Facts, ToGuest};
use crate::base::{Addr, Family, RateLimit};
use crate::wire::Offload;
use crate::wire::emit::{self, IpFields};
use crate::wire::icmp::{self, ErrorKind};

/// Sends ICMP errors, rate limited (RFC 1812 §4.3.2.8, RFC 4443 §2.4 f).
#[derive(Debug)]
pub struct IcmpErrors {
    limit: RateLimit,
    frame: Vec<u8>,
}

impl Default for IcmpErrors {
    fn default() -> Self {
        IcmpErrors { limit: RateLimit::new(PER_SECOND, BURST), frame: Vec::with_capacity(icmp::ERROR_FRAME_MAX) }
    }
}

impl IcmpErrors {
    /// Tells `guest` that `reporter` could not deliver `original`: a packet of the guest's from its IP header on, as the
    /// guest wrote it. False if the rate limit or a full link swallowed the message: errors are never queued.
    pub fn send(
        &mut self,
        facts: &Facts<'_>,
        link: &mut dyn ToGuest,
        (reporter, guest): (Addr, Addr),
        kind: ErrorKind,
        original: &[u8],
    ) -> bool {
        if !self.limit.allow(facts.now) {
            return false;
        }
        let f = IpFields {
            src_mac: facts.l2.mac_for(&reporter),
            dst_mac: facts.l2.guest_mac,
            src: reporter,
            dst: guest,
            ttl: emit::TTL,
            tos: 0,
            id: 0,
        };
        icmp::error(&mut self.frame, &f, kind, original);
        link.send(&self.frame, Offload::NONE).is_ok()
    }

    /// Tells `guest` that the host's kernel refused, with `e`, to send `original` to `remote`, if there is anything to
    /// tell. `mtu`: the path MTU, asked for only if it matters.
    pub fn refused(
        &mut self,
        e: &io::Error,
        mtu: impl FnOnce() -> Option<u32>,
        (remote, guest): (Addr, Addr),
        original: &[u8],
        facts: &Facts<'_>,
        link: &mut dyn ToGuest,
    ) {
        // RFC 1122 §3.2.2: no errors about what went to a group.
        if remote.is_unicast()
            && let Some(kind) = refusal(e, remote.family(), mtu)
        {
            let from = reporter(facts, None, remote, remote);
            self.send(facts, link, (from, guest), kind, original);
        }
    }
}

/// The address an error comes from, as the guest is to see it. `offender`: who reported it to the host, if anybody did;
/// `target`: where the datagram went on the host's side; `remote`: the same as the guest wrote it.
pub fn reporter(facts: &Facts<'_>, offender: Option<Addr>, target: Addr, remote: Addr) -> Addr {
    let family = remote.family();
    if offender == Some(target) && remote.is_unicast() {
        return remote;
    }
    let own = || {
        let link_local = facts.nat.our_link_local.filter(|_| !remote.is_v4());
        facts.nat.gateway[family].or(link_local).unwrap_or(remote)
    };
    match offender.filter(|o| o.family() == family && o.is_unicast()) {
        Some(o) => facts.nat.to_guest(o, facts.l2.guest_addr(&o)).unwrap_or_else(own),
        None => own(),
    }
}

/// What to tell the guest when the host's kernel refused to send. `mtu`: the path MTU, asked for only if it matters.
/// `None`: nothing a guest could act on.
pub fn refusal(e: &io::Error, f: Family, mtu: impl FnOnce() -> Option<u32>) -> Option<ErrorKind> {
    match e.raw_os_error()? {
        libc::ENETUNREACH | libc::ENETDOWN => Some(ErrorKind::net_unreachable(f)),
        libc::EHOSTUNREACH | libc::EHOSTDOWN => Some(ErrorKind::host_unreachable(f)),
        libc::ECONNREFUSED => Some(ErrorKind::port_unreachable(f)),
        // A prohibiting route or a packet filter.
        libc::EACCES | libc::EPERM => Some(ErrorKind::prohibited(f)),
        libc::EMSGSIZE => mtu().map(|mtu| ErrorKind::too_big(f, mtu)),
        _ => None,
    }
}

const PER_SECOND: u32 = 1000;
const BURST: u32 = 100;
