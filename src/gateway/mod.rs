//! The gateway: one end of the guest link that answers for the whole network behind it.
//!
//! # Goals
//! The guest configures itself and finds every neighbour without knowing that there is only one station on its link. A
//! responder is a claim ([`Gateway::claims`]) and a function from a message to at most one frame; nothing is read from or
//! written to the host. Malformed messages are refused by the rules of their RFCs and counted by [`DropReason`].
//!
//! # Parts
//! - `arp`, `ndp`: questions for link-layer addresses. We answer for all unicast neighbours, except the guest's own
//!   addresses; probes (RFC 5227, RFC 4862) fail for the addresses we use ourselves, and for no others.
//! - `ra`: router advertisements, asked for and periodic.
//! - `dhcp`, `dhcpv6`: servers with one lease, which never ends unless what they give may change. They keep no state: whoever
//!   asks gets the assigned address, so nothing is lost at a restart and nothing can be exhausted.
//! - `change`: what the guest is told is another now, and what it was told before is withdrawn.
//! - `announce`: what the guest is told unasked.
//! - `neighbours`: stations on the host's links, which the guest sees under their own MACs; everybody else has ours.
//!
//! # State and timers
//! One timer: the next advertisement to all nodes. [`Gateway::start`] sends one at once, two more follow within 32 s, then
//! one every 200 to 600 s (RFC 4861 §6.2.4). Solicited ones: three to single hosts in 3 s, all others share one to all
//! nodes every 3 s. Claims to our own addresses are contested once in 10 s (RFC 5227 §2.4). Changes of neighbours are
//! announced at most 100 at once and 50 in a second.
//!
//! # Limits
//! Replies fit the smallest MTU: 576 bytes for DHCP unless the client allows more, 1280 for IPv6; search lists are cut to
//! what fits. Messages that come in fragments reach us reassembled or not at all. DHCPv6 relays are not served.
//!
//! What a guest does while it comes up and nobody has to answer (probes for its own addresses, announcements) is counted
//! like everything unanswered, under `arp` and `ndp`.
//!
//! System calls: none.

mod announce;
mod arp;
mod change;
mod config;
mod dhcp;
mod dhcpv6;
mod frames;
mod ndp;
mod neighbours;
mod ra;
#[cfg(test)]
mod testing;

pub use config::Config;

use crate::base::{Addr, DropReason, Instant, RateLimit};
use crate::guest::{Facts, Frame, ToGuest};
use crate::wire::arp::ARP_LEN;
use crate::wire::{self, ETH_LEN, Packet, Transport};

/// The responders of one guest link.
#[derive(Debug)]
pub struct Gateway {
    config: Config,
    ra: ra::Schedule,
    withdrawn: change::Withdrawn,
    /// When a claim to one of our addresses was last contested.
    defended: Option<Instant>,
    /// Of changes in the host's neighbour table.
    announcements: RateLimit,
    /// Of questions for a guest that has not said anything yet.
    searches: RateLimit,
}

impl Gateway {
    pub fn new(config: Config, now: Instant) -> Gateway {
        let ra = ra::Schedule::new(config.seed, now);
        Gateway {
            config,
            ra,
            withdrawn: change::Withdrawn::default(),
            defended: None,
            announcements: neighbours::rate(),
            searches: RateLimit::new(1, 1),
        }
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The guest is there, or there again: asks who it is, and advertises the router.
    pub fn start(&mut self, facts: &Facts<'_>, link: &mut dyn ToGuest) {
        self.ask_for_guest(facts, link);
        self.start_advertising(facts, link);
    }

    /// Something is for a guest whose MAC nobody knows: asks for it, once a second at most (RFC 1122 §2.3.2.1).
    pub fn seek(&mut self, facts: &Facts<'_>, link: &mut dyn ToGuest) {
        if self.searches.allow(facts.now) {
            self.ask_for_guest(facts, link);
        }
    }

    /// Takes an ARP frame.
    ///
    /// # Errors
    /// Why there was no answer.
    pub fn arp(&mut self, frame: &Frame<'_>, facts: &Facts<'_>, link: &mut dyn ToGuest) -> Result<(), DropReason> {
        if !(self.config.arp && self.config.v4) {
            return Err(DropReason::Disabled);
        }
        let mut scratch = Vec::new();
        let packet = wire::arp::parse(frame.contiguous(ETH_LEN, ARP_LEN, &mut scratch)).ok_or(DropReason::Arp)?;
        self.answer_arp(&packet, facts, link)
    }

    /// True if the packet is for [`Gateway::answer`], whether that is switched on or not: what a guest says to its
    /// neighbours and servers is not for the network behind us.
    pub fn claims(&self, packet: &Packet) -> bool {
        service(packet).is_some()
    }

    /// Takes a packet that was claimed.
    ///
    /// # Errors
    /// Why there was no answer.
    pub fn answer(
        &mut self,
        packet: &Packet,
        frame: &Frame<'_>,
        facts: &Facts<'_>,
        link: &mut dyn ToGuest,
    ) -> Result<(), DropReason> {
        let service = service(packet).filter(|s| self.serves(*s)).ok_or(DropReason::Disabled)?;
        let mut scratch = Vec::new();
        let head_len = packet.payload - packet.l4;
        let segment = frame.contiguous(packet.l4, head_len + packet.payload_len, &mut scratch);
        if segment.len() < head_len + packet.payload_len {
            return Err(DropReason::TransportHeader);
        }
        let payload = &segment[head_len..];
        if packet.checksum_sum(frame.head, &frame.offload).is_some_and(|sum| !sum.add(payload).is_valid()) {
            return Err(DropReason::TransportChecksum);
        }
        match service {
            Service::Ndp => self.answer_ndp(packet, segment, facts, link),
            Service::Dhcp => dhcp::answer(&self.config, packet, payload, facts, link),
            Service::Dhcpv6 => dhcpv6::answer(&self.config, packet, payload, facts, link),
        }
    }

    fn serves(&self, service: Service) -> bool {
        match service {
            Service::Ndp => self.config.ndp && self.config.v6,
            Service::Dhcp => self.config.dhcp_addresses().is_some(),
            Service::Dhcpv6 => self.config.serves_dhcpv6(),
        }
    }

    /// True for addresses that mean us, so that the guest must not take them: where the guest could, packets to the
    /// gateway or to a mapped address would not reach it.
    fn is_ours(&self, addr: &Addr, facts: &Facts<'_>) -> bool {
        let nat = facts.nat;
        self.config.is_router(addr)
            || nat.map_host_loopback.is(addr)
            || nat.map_guest_addr.is(addr)
            || nat.dns_forward.is(addr)
    }

    fn is_guests(&self, addr: &Addr, facts: &Facts<'_>) -> bool {
        let l2 = facts.l2;
        self.config.assigned[addr.family()].is_some_and(|(guest, _)| guest == *addr)
            || [l2.guest_v4, l2.guest_v6, l2.guest_link_local].contains(&Some(*addr))
    }

    /// True if `addr` can belong to a station other than the guest; all of them are us.
    fn is_neighbour(&self, addr: &Addr, facts: &Facts<'_>) -> bool {
        addr.is_unicast()
            && !addr.is_loopback()
            && !self.config.is_directed_broadcast(addr)
            && (self.is_ours(addr, facts) || !self.is_guests(addr, facts))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Service {
    Ndp,
    Dhcp,
    Dhcpv6,
}

fn service(packet: &Packet) -> Option<Service> {
    let v4 = packet.dst.is_v4();
    match packet.transport {
        Transport::Icmp(h) if !v4 && (wire::ndp::ROUTER_SOLICITATION..=wire::ndp::REDIRECT).contains(&h.kind) => {
            Some(Service::Ndp)
        }
        Transport::Udp(h) if v4 && h.dst_port == wire::dhcp::SERVER_PORT => Some(Service::Dhcp),
        // RFC 8415 §18.4: clients reach servers by multicast.
        Transport::Udp(h) if !v4 && h.dst_port == wire::dhcpv6::SERVER_PORT && packet.dst.is_multicast() => {
            Some(Service::Dhcpv6)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::testing::*;

    #[test]
    fn only_our_protocols_are_claimed() {
        let g = Bench::new().gateway;
        let claims = |f: &[u8]| g.claims(&packet(f));
        assert!(claims(&icmpv6_frame("fe80::7", "ff02::2", 255, vec![133, 0, 0, 0, 0, 0, 0, 0])));
        assert!(claims(&udp_frame("0.0.0.0", "255.255.255.255", 68, 67, b"")));
        assert!(claims(&udp_frame("fe80::7", "ff02::1:2", 546, 547, b"")));
        assert!(!claims(&icmpv6_frame("fe80::7", "fe80::1", 255, vec![128, 0, 0, 0, 0, 0, 0, 0])), "echo");
        assert!(!claims(&icmpv6_frame("fe80::7", "ff02::16", 255, vec![143, 0, 0, 0, 0, 0, 0, 0])), "MLD");
        assert!(!claims(&udp_frame("192.0.2.7", "192.0.2.1", 67, 68, b"")));
        assert!(!claims(&udp_frame("2001:db8::7", "2001:db8::9", 546, 547, b"")));
        assert!(!claims(&udp_frame("2001:db8::7", "2001:db8::9", 68, 67, b"")));
    }

    proptest::proptest! {
        #[test]
        fn any_payload_is_answered_or_refused(b in proptest::collection::vec(proptest::num::u8::ANY, 0..600), kind in 133..138u8) {
            let mut t = Bench::new();
            let _ = t.answer(&udp_frame("0.0.0.0", "255.255.255.255", 68, 67, &b));
            let _ = t.answer(&udp_frame("fe80::7", "ff02::1:2", 546, 547, &b));
            let mut icmp = vec![kind, 0, 0, 0];
            icmp.extend_from_slice(&b);
            let _ = t.answer(&icmpv6_frame("fe80::7", "ff02::1:ff00:1", 255, icmp));
            for f in t.take() {
                packet(&f);
            }
        }

        #[test]
        fn any_dhcp_options_are_answered_or_refused(o in proptest::collection::vec(proptest::num::u8::ANY, 0..300), kind: u8) {
            let mut b = vec![1, 1, 6, 0];
            b.extend_from_slice(&[0; 24]);
            b.extend_from_slice(&[2, 0, 0, 0, 0, 9]);
            b.resize(236, 0);
            b.extend_from_slice(&[99, 130, 83, 99, 53, 1, kind % 10]);
            b.extend_from_slice(&o);
            let mut t = Bench::new();
            if let Ok(sent) = t.answer(&udp_frame("0.0.0.0", "255.255.255.255", 68, 67, &b)) {
                assert!(sent.iter().all(|f| f.len() <= 1514));
            }
        }

        #[test]
        fn any_dhcpv6_options_are_answered_or_refused(o in proptest::collection::vec(proptest::num::u8::ANY, 0..300), kind in 0..13u8) {
            let b = [&[kind, 1, 2, 3, 0, 1, 0, 4, 9, 9, 9, 9][..], &o].concat();
            if let Ok(sent) = Bench::new().answer(&udp_frame("fe80::7", "ff02::1:2", 546, 547, &b)) {
                assert!(sent.iter().all(|f| f.len() <= 14 + 1280));
            }
        }
    }
}
