//! ARP: we are every neighbour the guest can have, so nearly every question gets an answer (RFC 826, RFC 5227).

use super::Gateway;
use super::frames::send_frame;
use crate::base::{Addr, DropReason};
use crate::guest::{Facts, ToGuest};
use crate::wire::arp::{self, Arp};

impl Gateway {
    pub(super) fn answer_arp(
        &mut self,
        ask: &Arp,
        facts: &Facts<'_>,
        link: &mut dyn ToGuest,
    ) -> Result<(), DropReason> {
        if !ask.sender_mac.is_unicast() {
            return Err(DropReason::Arp);
        }
        // RFC 5227 §1.1: whatever its operation, a packet with somebody's address as sender claims that address.
        if self.is_ours(&ask.sender, facts) {
            self.defend(&ask.sender, facts, link);
            return Err(DropReason::Arp);
        }
        match ask.op {
            // What we asked for at start; the caller has read the MAC from the Ethernet header.
            arp::REPLY => Ok(()),
            arp::REQUEST if self.answers_arp(ask, facts) => {
                let mac = facts.l2.mac_for(&ask.target);
                let reply = Arp {
                    op: arp::REPLY,
                    sender_mac: mac,
                    sender: ask.target,
                    target_mac: ask.sender_mac,
                    target: ask.sender,
                };
                send_frame(&reply.emit(mac, ask.sender_mac), link)
            }
            _ => Err(DropReason::Arp),
        }
    }

    fn answers_arp(&self, ask: &Arp, facts: &Facts<'_>) -> bool {
        // RFC 5227 §2.1.1: a probe asks whether the address is free. All but ours are, as far as the guest is concerned.
        if ask.sender == Addr::V4_UNSPECIFIED {
            return self.is_ours(&ask.target, facts);
        }
        // An announcement (§2.3) tells, it does not ask.
        ask.sender != ask.target && ask.sender.is_unicast() && self.is_neighbour(&ask.target, facts)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use crate::base::{Mac, PerFamily};
    use crate::gateway::Config;

    fn ask(op: u16, sender: &str, target: &str) -> Arp {
        Arp { op, sender_mac: GUEST_MAC, sender: a(sender), target_mac: Mac::ZERO, target: a(target) }
    }

    fn answer(t: &mut Bench, ask: Arp) -> Option<Arp> {
        let frame = ask.emit(GUEST_MAC, Mac::BROADCAST);
        let sent = t.arp(&frame);
        assert!(sent.len() <= 1);
        sent.first().map(|f| {
            assert_eq!(f.len(), 60);
            assert_eq!(&f[12..14], [8, 6]);
            assert_eq!(&f[..6], GUEST_MAC.0, "unicast to the asker");
            assert_eq!(&f[6..12], OUR_MAC.0);
            assert!(f[42..].iter().all(|b| *b == 0));
            arp::parse(&f[14..]).unwrap()
        })
    }

    #[test]
    fn any_neighbour_is_us() {
        for target in ["192.0.2.1", "192.0.2.99", "198.51.100.1", "10.0.0.255"] {
            let reply = answer(&mut Bench::new(), ask(arp::REQUEST, "192.0.2.7", target)).unwrap();
            let expect = Arp {
                op: arp::REPLY,
                sender_mac: OUR_MAC,
                sender: a(target),
                target_mac: GUEST_MAC,
                target: a("192.0.2.7"),
            };
            assert_eq!(reply, expect);
        }
    }

    #[test]
    fn nobody_answers_for_the_guest_or_for_groups() {
        for target in ["192.0.2.7", "192.0.2.255", "255.255.255.255", "224.0.0.1", "127.0.0.1", "0.0.0.0", "10.9.9.9"] {
            let mut t = Bench::new();
            t.l2.guest_v4 = Some(a("10.9.9.9"));
            assert_eq!(answer(&mut t, ask(arp::REQUEST, "10.9.9.9", target)), None, "{target}");
        }
    }

    #[test]
    fn probes_are_answered_for_our_own_addresses_only() {
        let mut t = Bench::new();
        t.nat.map_host_loopback = PerFamily::new(Some(a("192.0.2.50")), None);
        for (target, answered) in
            [("192.0.2.1", true), ("192.0.2.50", true), ("192.0.2.7", false), ("192.0.2.51", false)]
        {
            let reply = answer(&mut t, ask(arp::REQUEST, "0.0.0.0", target));
            assert_eq!(reply.map(|r| (r.sender, r.target)), answered.then(|| (a(target), a("0.0.0.0"))), "{target}");
        }
    }

    #[test]
    fn announcements_and_replies_are_left_alone() {
        let mut t = Bench::new();
        assert_eq!(answer(&mut t, ask(arp::REQUEST, "192.0.2.30", "192.0.2.30")), None);
        assert_eq!(answer(&mut t, ask(arp::REPLY, "192.0.2.7", "192.0.2.1")), None);
        assert_eq!(answer(&mut t, ask(3, "192.0.2.7", "192.0.2.1")), None);
        assert_eq!(answer(&mut t, ask(arp::REQUEST, "224.0.0.1", "192.0.2.1")), None);
        let group = Arp { sender_mac: Mac::BROADCAST, ..ask(arp::REQUEST, "192.0.2.7", "192.0.2.1") };
        assert_eq!(answer(&mut t, group), None);
    }

    #[test]
    fn a_claim_to_our_address_is_contested_once_in_ten_seconds() {
        let mut t = Bench::new();
        let claim = ask(arp::REQUEST, "192.0.2.1", "192.0.2.1").emit(GUEST_MAC, Mac::BROADCAST);
        let sent = t.arp(&claim);
        let announced = arp::parse(&sent[0][14..]).unwrap();
        assert_eq!(
            (announced.sender_mac, announced.sender, announced.target),
            (OUR_MAC, a("192.0.2.1"), a("192.0.2.1"))
        );
        assert_eq!(&sent[0][..6], [0xff; 6]);
        t.advance(9);
        assert!(t.arp(&claim).is_empty());
        t.advance(2);
        assert_eq!(t.arp(&claim).len(), 1);
    }

    #[test]
    fn switched_off_or_without_ipv4_nothing_is_answered() {
        let off = [Config { arp: false, ..config() }, Config { v4: false, ..config() }];
        for c in off {
            assert_eq!(answer(&mut Bench::with(c), ask(arp::REQUEST, "192.0.2.7", "192.0.2.1")), None);
        }
    }

    proptest::proptest! {
        #[test]
        fn any_frame_is_answered_or_refused(body in proptest::collection::vec(proptest::num::u8::ANY, 0..64), valid: bool) {
            let mut f = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 6];
            f.extend_from_slice(&body);
            if valid && f.len() > 22 {
                f[14..22].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, 1]);
            }
            let sent = Bench::new().arp(&f);
            assert!(sent.iter().all(|f| f.len() == 60));
        }
    }
}
