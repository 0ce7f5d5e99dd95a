//! Neighbour solicitations: as with ARP, every neighbour is us (RFC 4861 §7.2).

use super::Gateway;
use super::frames::send_icmpv6;
use crate::base::{Addr, DropReason};
use crate::guest::{Facts, ToGuest};
use crate::wire::Packet;
use crate::wire::ndp::{self, Message, NaFlags};

impl Gateway {
    /// `message`: from the ICMPv6 type on, its checksum verified.
    pub(super) fn answer_ndp(
        &mut self,
        packet: &Packet,
        message: &[u8],
        facts: &Facts<'_>,
        link: &mut dyn ToGuest,
    ) -> Result<(), DropReason> {
        let message = ndp::parse(&packet.src, &packet.dst, packet.ttl, message).ok_or(DropReason::Ndp)?;
        if self.is_ours(&packet.src, facts) {
            self.defend(&packet.src, facts, link);
            return Err(DropReason::Ndp);
        }
        match message {
            Message::NeighborSolicitation { target } => self.answer_solicitation(&target, packet, facts, link),
            Message::RouterSolicitation => self.answer_router_solicitation(packet, facts, link),
            Message::NeighborAdvertisement { target, .. } => {
                if self.is_ours(&target, facts) {
                    self.defend(&target, facts, link);
                }
                Ok(())
            }
            // The guest is no router of ours.
            Message::RouterAdvertisement | Message::Redirect => Err(DropReason::Ndp),
        }
    }

    fn answer_solicitation(
        &self,
        target: &Addr,
        packet: &Packet,
        facts: &Facts<'_>,
        link: &mut dyn ToGuest,
    ) -> Result<(), DropReason> {
        // RFC 4862 §5.4.3: without a source the guest asks whether the address is free; all but ours are. §7.2.4 of
        // RFC 4861 has the answer go to all nodes, unsolicited.
        if packet.src.is_unspecified() {
            return if self.is_ours(target, facts) {
                self.announce_v6(target, facts, link)
            } else {
                Err(DropReason::Ndp)
            };
        }
        if !self.is_neighbour(target, facts) {
            return Err(DropReason::Ndp);
        }
        let flags = NaFlags::SOLICITED | NaFlags::OVERRIDE | self.router_flag(target);
        let answer = ndp::neighbor_advertisement(target, flags, facts.l2.mac_for(target));
        // Source and target are one: some hosts and firewalls distrust advertisements that speak for another address.
        send_icmpv6(target, &packet.src, packet.src_mac, answer, facts, link)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use crate::base::{Mac, PerFamily};
    use crate::gateway::Config;
    use crate::wire::Offload;

    fn solicit(src: &str, target: &str) -> Vec<u8> {
        let mut b = ndp::neighbor_solicitation(&a(target), GUEST_MAC);
        if src == "::" {
            b.truncate(24);
        }
        icmpv6_frame(src, &ndp::solicited_node(&a(target)).to_string(), 255, b)
    }

    #[test]
    fn any_neighbour_is_us_and_speaks_for_itself() {
        for (target, flags) in [
            ("fe80::1", NaFlags::all()),
            ("2001:db8::1", NaFlags::all()),
            ("2001:db8::99", NaFlags::SOLICITED | NaFlags::OVERRIDE),
            ("2620:0:1::5", NaFlags::SOLICITED | NaFlags::OVERRIDE),
            ("fe80::77", NaFlags::SOLICITED | NaFlags::OVERRIDE),
        ] {
            let sent = Bench::new().answer(&solicit("fe80::7", target)).unwrap();
            let na = icmpv6(&sent[0]);
            assert_eq!((na.src, na.dst, na.dst_mac), (a(target), a("fe80::7"), GUEST_MAC));
            assert_eq!(na.parse(), Some(Message::NeighborAdvertisement { target: a(target), flags }));
            assert_eq!(sent[0].len(), 86);
            assert_eq!(ndp::options_of(&na.body[24..]), [(2, &[&[2, 1][..], &OUR_MAC.0].concat()[..])]);
        }
    }

    #[test]
    fn d11_nobody_answers_for_the_guest_itself() {
        let mut t = Bench::new();
        t.l2.guest_link_local = Some(a("fe80::7"));
        t.l2.guest_v6 = Some(a("2001:db8::abcd"));
        for target in ["2001:db8::7", "2001:db8::abcd", "fe80::7", "::1"] {
            assert_eq!(t.answer(&solicit("fe80::7", target)), Err(DropReason::Ndp), "{target}");
        }
    }

    #[test]
    fn duplicate_detection_finds_our_addresses_taken_and_all_others_free() {
        let mut t = Bench::new();
        for ours in ["fe80::1", "2001:db8::1"] {
            let sent = t.answer(&solicit("::", ours)).unwrap();
            let na = icmpv6(&sent[0]);
            assert_eq!((na.src, na.dst, na.dst_mac), (a(ours), a("ff02::1"), Mac([0x33, 0x33, 0, 0, 0, 1])));
            let flags = NaFlags::ROUTER | NaFlags::OVERRIDE;
            assert_eq!(na.parse(), Some(Message::NeighborAdvertisement { target: a(ours), flags }));
        }
        for free in ["2001:db8::7", "fe80::7", "2001:db8::99"] {
            assert_eq!(t.answer(&solicit("::", free)), Err(DropReason::Ndp), "{free}");
        }
        t.nat.dns_forward = PerFamily::new(None, Some(a("2001:db8::53")));
        assert_eq!(t.answer(&solicit("::", "2001:db8::53")).unwrap().len(), 1);
    }

    #[test]
    fn d12_invalid_messages_are_refused() {
        let mut t = Bench::new();
        let good = solicit("fe80::7", "fe80::1");
        let with = |at: usize, v: u8| {
            let mut f = good.clone();
            f[at] = v;
            f
        };
        assert_eq!(t.answer(&with(21, 64)), Err(DropReason::Ndp), "hop limit");
        assert_eq!(t.answer(&with(56, 0x12)), Err(DropReason::TransportChecksum));
        let forwarded = icmpv6_frame("fe80::7", "fe80::1", 255, vec![137; 48]);
        assert_eq!(t.answer(&forwarded), Err(DropReason::Ndp), "redirect");
        let off = Config { ndp: false, ..config() };
        assert_eq!(Bench::with(off).answer(&good), Err(DropReason::Disabled));
    }

    #[test]
    fn nobody_answers_for_an_ipv4_address_in_the_form_of_ipv6() {
        for target in [[192, 0, 2, 1], [192, 0, 2, 99], [0; 4]] {
            let mut message = vec![135, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];
            message.extend_from_slice(&target);
            let mut t = Bench::new();
            assert_eq!(t.answer(&icmpv6_frame("fe80::7", "ff02::1:ff00:1", 255, message)), Err(DropReason::Ndp));
        }
    }

    #[test]
    fn a_vouched_for_checksum_is_not_verified() {
        let mut t = Bench::new();
        let mut f = solicit("fe80::7", "fe80::1");
        f[56] ^= 0xff;
        let partial = Offload { csum: crate::wire::Csum::Valid, ..Offload::NONE };
        assert_eq!(t.answer_with(&f, partial).unwrap().len(), 1);
    }

    #[test]
    fn a_claim_to_our_address_is_contested() {
        let mut t = Bench::new();
        let claim = ndp::neighbor_advertisement(&a("fe80::1"), NaFlags::OVERRIDE, GUEST_MAC);
        let sent = t.answer(&icmpv6_frame("fe80::1", "ff02::1", 255, claim)).unwrap_err();
        assert_eq!(sent, DropReason::Ndp);
        assert_eq!(icmpv6(&t.take()[0]).src, a("fe80::1"));
        let claim = ndp::neighbor_advertisement(&a("fe80::1"), NaFlags::OVERRIDE, GUEST_MAC);
        t.advance(11);
        assert_eq!(t.answer(&icmpv6_frame("fe80::7", "ff02::1", 255, claim)).unwrap().len(), 1);
    }
}
