//! What the guest is told without having asked: whose address is ours, and the questions we ask it.

use std::time::Duration;

use super::Gateway;
use super::frames::{send_frame, send_icmpv6};
use crate::base::{Addr, DropReason, Mac};
use crate::guest::{Facts, ToGuest};
use crate::wire::arp::{self, Arp};
use crate::wire::ndp::{self, NaFlags};

impl Gateway {
    /// Tells the guest which MAC stands for `addr` now: a gratuitous ARP request (RFC 5227 §2.3) or an unsolicited
    /// neighbour advertisement (RFC 4861 §7.2.6). A full link loses it; the guest will ask.
    pub fn announce(&mut self, addr: &Addr, facts: &Facts<'_>, link: &mut dyn ToGuest) {
        let _ = if addr.is_v4() { self.announce_v4(addr, facts, link) } else { self.announce_v6(addr, facts, link) };
    }

    /// RFC 5227 §2.4 (c): somebody else uses our address. We keep it and say so, but not in a duel without end.
    pub(super) fn defend(&mut self, addr: &Addr, facts: &Facts<'_>, link: &mut dyn ToGuest) {
        if self.defended.is_none_or(|at| facts.now.since(at) >= DEFEND_INTERVAL) {
            self.defended = Some(facts.now);
            self.announce(addr, facts, link);
        }
    }

    /// Asks for the guest's own addresses, to learn its MAC and that it is there.
    pub(super) fn ask_for_guest(&mut self, facts: &Facts<'_>, link: &mut dyn ToGuest) {
        // Without an address of ours the request would be a probe, which the guest takes for a conflict (RFC 5227 §2.1.1).
        if let (Some((guest, _)), Some(gateway), true) =
            (self.config.assigned.v4, self.config.gateway.v4, self.config.arp && self.config.v4)
        {
            let mac = facts.l2.mac_for(&gateway);
            let ask = Arp { op: arp::REQUEST, sender_mac: mac, sender: gateway, target_mac: Mac::ZERO, target: guest };
            let _ = send_frame(&ask.emit(mac, Mac::BROADCAST), link);
        }
        if let (Some((guest, _)), Some(ours), true) =
            (self.config.assigned.v6, self.config.our_link_local, self.config.ndp && self.config.v6)
        {
            // RFC 4861 §7.2.2: to the group of the address asked for.
            let ask = ndp::neighbor_solicitation(&guest, facts.l2.mac_for(&ours));
            let _ = send_icmpv6(&ours, &ndp::solicited_node(&guest), Mac::BROADCAST, ask, facts, link);
        }
    }

    fn announce_v4(&self, addr: &Addr, facts: &Facts<'_>, link: &mut dyn ToGuest) -> Result<(), DropReason> {
        if !(self.config.arp && self.config.v4) {
            return Ok(());
        }
        let mac = facts.l2.mac_for(addr);
        let tell = Arp { op: arp::REQUEST, sender_mac: mac, sender: *addr, target_mac: Mac::ZERO, target: *addr };
        send_frame(&tell.emit(mac, Mac::BROADCAST), link)
    }

    pub(super) fn announce_v6(&self, addr: &Addr, facts: &Facts<'_>, link: &mut dyn ToGuest) -> Result<(), DropReason> {
        if !(self.config.ndp && self.config.v6) {
            return Ok(());
        }
        let tell =
            ndp::neighbor_advertisement(addr, NaFlags::OVERRIDE | self.router_flag(addr), facts.l2.mac_for(addr));
        send_icmpv6(addr, &ndp::ALL_NODES, Mac::BROADCAST, tell, facts, link)
    }

    /// RFC 4861 §4.4: set for addresses of a router; hosts drop one that clears it from their default routers.
    pub(super) fn router_flag(&self, addr: &Addr) -> NaFlags {
        if self.config.is_router(addr) { NaFlags::ROUTER } else { NaFlags::empty() }
    }
}

/// RFC 5227 §1.1.
const DEFEND_INTERVAL: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use crate::base::PerFamily;
    use crate::gateway::Config;

    #[test]
    fn announcements_per_family() {
        let mut t = Bench::new();
        let sent = t.announce("192.0.2.33");
        let arp = arp::parse(&sent[14..]).unwrap();
        assert_eq!((arp.op, arp.sender, arp.target), (arp::REQUEST, a("192.0.2.33"), a("192.0.2.33")));
        assert_eq!((arp.sender_mac, arp.target_mac), (OUR_MAC, Mac::ZERO));
        assert_eq!((&sent[..6], &sent[6..12]), (&[0xff; 6][..], &OUR_MAC.0[..]));

        let sent = t.announce("2001:db8::33");
        let na = icmpv6(&sent);
        assert_eq!((na.src, na.dst, na.dst_mac), (a("2001:db8::33"), a("ff02::1"), Mac([0x33, 0x33, 0, 0, 0, 1])));
        let expect = Some(ndp::Message::NeighborAdvertisement { target: a("2001:db8::33"), flags: NaFlags::OVERRIDE });
        assert_eq!(na.parse(), expect);
    }

    #[test]
    fn upstream_2025_09_start_asks_for_the_guest_in_both_families() {
        let mut t = Bench::with(Config { ra: false, ..config() });
        let sent = t.start();
        assert_eq!(sent.len(), 2);
        let arp = arp::parse(&sent[0][14..]).unwrap();
        assert_eq!((arp.op, arp.sender, arp.target), (arp::REQUEST, a("192.0.2.1"), a("192.0.2.7")));
        assert_eq!(&sent[0][..6], [0xff; 6]);
        let ns = icmpv6(&sent[1]);
        assert_eq!((ns.src, ns.dst), (a("fe80::1"), a("ff02::1:ff00:7")));
        assert_eq!(ns.dst_mac, Mac([0x33, 0x33, 0xff, 0, 0, 7]));
        assert_eq!(ns.parse(), Some(ndp::Message::NeighborSolicitation { target: a("2001:db8::7") }));
        assert_eq!(ndp::options_of(&ns.body[24..]), [(1, &[&[1, 1][..], &OUR_MAC.0].concat()[..])]);
    }

    #[test]
    fn start_is_silent_where_there_is_nothing_to_ask() {
        let none = Config { assigned: PerFamily::default(), ra: false, ..config() };
        let no_gateway = Config { gateway: PerFamily::default(), our_link_local: None, ra: false, ..config() };
        for c in [none, no_gateway] {
            assert!(Bench::with(c).start().is_empty());
        }
    }
}
