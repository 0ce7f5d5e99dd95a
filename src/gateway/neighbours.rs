//! Stations that the host has on its links keep their MACs: for the guest's caches, captures and rules they are who they
//! are, whether the guest sits behind us or on that link itself.

use super::Gateway;
use crate::base::{Addr, Instant, Mac, RateLimit};
use crate::fwd::Nat;
use crate::guest::{Facts, L2, ToGuest};

impl Gateway {
    /// The host's kernel has found the station at `addr`, or lost it. What is new is announced (RFC 5227 §2.3, RFC 4861
    /// §7.2.6).
    ///
    /// In a flood some announcements are left out. No harm: what the guest sends to a MAC of yesterday still comes to us,
    /// and goes where its IP destination says.
    pub fn neighbour(
        &mut self,
        addr: Addr,
        mac: Option<Mac>,
        now: Instant,
        (l2, nat): (&mut L2, &Nat),
        link: &mut dyn ToGuest,
    ) {
        if !Gateway::adopt(addr, mac, (l2, nat)) {
            return;
        }
        let facts = Facts { now, l2, nat };
        // The guest would take a claim to an address of its own for a conflict (RFC 5227 §2.4, RFC 4862 §5.4.4).
        if !self.is_guests(&addr, &facts) && self.announcements.allow(now) {
            self.announce(&addr, &facts, link);
        }
    }

    /// The same before the guest's start: what it has not asked for it need not unlearn. True if it is new to the table.
    pub fn adopt(addr: Addr, mac: Option<Mac>, (l2, nat): (&mut L2, &Nat)) -> bool {
        !nat.is_taken(&addr) && l2.neighbours.set(addr, mac)
    }
}

/// A link coming up on the host finds its neighbours one by one; a scan of a network by the guest finds hundreds.
pub(super) fn rate() -> RateLimit {
    RateLimit::new(50, 100)
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use crate::base::{Addr, Mac, PerFamily};
    use crate::wire::arp::{self, Arp};
    use crate::wire::ndp::{self, Message, NaFlags};

    const STATION: Mac = Mac([2, 0, 0, 0, 0, 0x10]);
    const OTHER: Mac = Mac([2, 0, 0, 0, 0, 0x11]);

    #[test]
    fn new_changed_and_lost_ipv4_neighbours_are_announced() {
        let mut t = Bench::new();
        for (known, announced) in [(Some(STATION), STATION), (Some(OTHER), OTHER), (None, OUR_MAC)] {
            let sent = t.neighbour("192.0.2.10", known);
            assert_eq!(sent.len(), 1);
            assert_eq!((&sent[0][..6], &sent[0][6..12]), (&[0xff; 6][..], &announced.0[..]));
            let expect = Arp {
                op: arp::REQUEST,
                sender_mac: announced,
                sender: a("192.0.2.10"),
                target_mac: Mac::ZERO,
                target: a("192.0.2.10"),
            };
            assert_eq!(arp::parse(&sent[0][14..]), Some(expect));
            assert!(t.neighbour("192.0.2.10", known).is_empty(), "no news");
        }
    }

    #[test]
    fn new_changed_and_lost_ipv6_neighbours_are_announced() {
        let mut t = Bench::new();
        for (known, announced) in [(Some(STATION), STATION), (Some(OTHER), OTHER), (None, OUR_MAC)] {
            let sent = t.neighbour("2001:db8::10", known);
            let na = icmpv6(&sent[0]);
            assert_eq!((na.src, na.dst, &sent[0][6..12]), (a("2001:db8::10"), a("ff02::1"), &announced.0[..]));
            let target = a("2001:db8::10");
            assert_eq!(na.parse(), Some(Message::NeighborAdvertisement { target, flags: NaFlags::OVERRIDE }));
            assert_eq!(ndp::options_of(&na.body[24..]), [(2, &[&[2, 1][..], &announced.0].concat()[..])]);
        }
    }

    #[test]
    fn answers_carry_the_neighbours_mac() {
        let mut t = Bench::new();
        t.neighbour("192.0.2.10", Some(STATION));
        t.neighbour("2001:db8::10", Some(STATION));
        let ask = Arp {
            op: arp::REQUEST,
            sender_mac: GUEST_MAC,
            sender: a("192.0.2.7"),
            target_mac: Mac::ZERO,
            target: a("192.0.2.10"),
        };
        let sent = t.arp(&ask.emit(GUEST_MAC, Mac::BROADCAST));
        assert_eq!(arp::parse(&sent[0][14..]).unwrap().sender_mac, STATION);
        let ask = ndp::neighbor_solicitation(&a("2001:db8::10"), GUEST_MAC);
        let sent = t.answer(&icmpv6_frame("fe80::7", "ff02::1:ff00:10", 255, ask)).unwrap();
        assert_eq!(ndp::options_of(&icmpv6(&sent[0]).body[24..]), [(2, &[&[2, 1][..], &STATION.0].concat()[..])]);
    }

    #[test]
    fn translated_addresses_stay_ours() {
        let mut t = Bench::new();
        t.nat.gateway = PerFamily::new(Some(a("192.0.2.1")), Some(a("fe80::1")));
        t.nat.map_host_loopback = t.nat.gateway;
        for addr in ["192.0.2.1", "fe80::1"] {
            assert!(t.neighbour(addr, Some(STATION)).is_empty());
            assert_eq!(t.l2.mac_for(&a(addr)), OUR_MAC);
        }
        t.nat.map_host_loopback = PerFamily::default();
        for addr in ["192.0.2.1", "fe80::1"] {
            assert_eq!(t.neighbour(addr, Some(STATION)).len(), 1);
            assert_eq!(t.l2.mac_for(&a(addr)), STATION);
        }
    }

    #[test]
    fn nobody_is_announced_under_the_guests_address() {
        let mut t = Bench::new();
        t.l2.guest_v4 = Some(a("192.0.2.8"));
        for addr in ["192.0.2.7", "192.0.2.8", "2001:db8::7"] {
            assert!(t.neighbour(addr, Some(STATION)).is_empty(), "{addr}");
        }
    }

    #[test]
    fn a_flood_is_announced_in_part_and_learnt_in_full() {
        let mut t = Bench::new();
        let addr = |n: u8| Addr::v4([10, 0, 0, n]).to_string();
        let announced: usize = (0..250).map(|n| t.neighbour(&addr(n), Some(STATION)).len()).sum();
        assert_eq!(announced, 100);
        assert!((0..250).all(|n| t.l2.mac_for(&a(&addr(n))) == STATION));
        t.advance(1);
        assert_eq!(t.neighbour("10.0.1.1", Some(STATION)).len(), 1);
    }
}
