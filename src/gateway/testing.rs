//! A gateway on a link in memory, and etherparse as the judge of every frame it sends.

use std::net::IpAddr;
use std::time::Duration;

use etherparse::{NetHeaders, PacketBuilder, PacketHeaders, TransportHeader};

use super::{Config, Gateway};
use crate::base::{Addr, DropReason, Endpoint, Instant, Mac, PerFamily};
use crate::fwd::Nat;
use crate::guest::mock::MockLink;
use crate::guest::{Facts, Frame, L2, Neighbours};
use crate::wire::checksum::Sum;
use crate::wire::{self, ETHERTYPE_ARP, Offload, PROTO_ICMPV6, Packet, Parsed, be16, ndp};

pub(super) const OUR_MAC: Mac = Mac([0x9a, 0x55, 0x9a, 0x55, 0x9a, 0x55]);
pub(super) const GUEST_MAC: Mac = Mac([0x52, 0x54, 0, 1, 2, 3]);

pub(super) fn a(s: &str) -> Addr {
    s.parse::<IpAddr>().unwrap().into()
}

pub(super) fn config() -> Config {
    Config {
        our_mac: OUR_MAC,
        gateway: PerFamily::new(Some(a("192.0.2.1")), Some(a("2001:db8::1"))),
        our_link_local: Some(a("fe80::1")),
        assigned: PerFamily::new(Some((a("192.0.2.7"), 24)), Some((a("2001:db8::7"), 64))),
        mtu: Some(1500),
        dns: vec![a("192.0.2.53"), a("2001:db8::53")],
        search: vec!["example.com".into(), "lab.example.com".into()],
        hostname: Some("guest".into()),
        fqdn: Some("guest.example.com".into()),
        arp: true,
        ndp: true,
        ra: true,
        dhcp: true,
        dhcpv6: true,
        prefix_is_hosts: false,
        leases_end: false,
        dns_in_dhcp: true,
        search_in_dhcp: true,
        v4: true,
        v6: true,
        seed: 7,
    }
}

pub(super) struct Bench {
    pub gateway: Gateway,
    pub link: MockLink,
    pub l2: L2,
    pub nat: Nat,
    pub now: Instant,
}

impl Bench {
    pub fn new() -> Bench {
        Bench::with(config())
    }

    pub fn with(config: Config) -> Bench {
        let now = Instant::from_nanos(5_000_000_000);
        let l2 = L2 {
            our_mac: OUR_MAC,
            guest_mac: GUEST_MAC,
            guest_v4: None,
            guest_v6: None,
            guest_link_local: None,
            neighbours: Neighbours::default(),
        };
        Bench { gateway: Gateway::new(config, now), link: MockLink::default(), l2, nat: Nat::default(), now }
    }

    pub fn advance(&mut self, seconds: u64) {
        self.now = self.now + Duration::from_secs(seconds);
    }

    /// Frames sent since the last call, each looked through by etherparse.
    pub fn take(&mut self) -> Vec<Vec<u8>> {
        assert!(self.link.sent.iter().all(|(_, o)| *o == Offload::NONE));
        let sent = self.link.take();
        sent.iter().for_each(|f| judge(f, &self.l2));
        sent
    }

    pub fn arp(&mut self, frame: &[u8]) -> Vec<Vec<u8>> {
        let facts = Facts { now: self.now, l2: &self.l2, nat: &self.nat };
        let frame = Frame { head: frame, rest: &[], offload: Offload::NONE };
        let result = self.gateway.arp(&frame, &facts, &mut self.link);
        let sent = self.take();
        assert!(result.is_err() || sent.len() <= 1);
        sent
    }

    pub fn answer(&mut self, frame: &[u8]) -> Result<Vec<Vec<u8>>, DropReason> {
        self.answer_with(frame, Offload::NONE)
    }

    pub fn answer_with(&mut self, frame: &[u8], offload: Offload) -> Result<Vec<Vec<u8>>, DropReason> {
        let p = packet(frame);
        assert!(self.gateway.claims(&p));
        let facts = Facts { now: self.now, l2: &self.l2, nat: &self.nat };
        let frame = Frame { head: frame, rest: &[], offload };
        self.gateway.answer(&p, &frame, &facts, &mut self.link)?;
        Ok(self.take())
    }

    pub fn announce(&mut self, addr: &str) -> Vec<u8> {
        let facts = Facts { now: self.now, l2: &self.l2, nat: &self.nat };
        self.gateway.announce(&a(addr), &facts, &mut self.link);
        self.take().remove(0)
    }

    pub fn neighbour(&mut self, addr: &str, mac: Option<Mac>) -> Vec<Vec<u8>> {
        self.gateway.neighbour(a(addr), mac, self.now, (&mut self.l2, &self.nat), &mut self.link);
        self.take()
    }

    pub fn start(&mut self) -> Vec<Vec<u8>> {
        let facts = Facts { now: self.now, l2: &self.l2, nat: &self.nat };
        self.gateway.start(&facts, &mut self.link);
        self.take()
    }

    pub fn timer(&mut self) -> Vec<Vec<u8>> {
        let facts = Facts { now: self.now, l2: &self.l2, nat: &self.nat };
        let next = self.gateway.on_timer(&facts, &mut self.link);
        assert_eq!(next, self.gateway.next_timer());
        self.take()
    }
}

pub(super) fn packet(frame: &[u8]) -> Packet {
    match wire::parse(frame, frame.len()) {
        Ok(Parsed::Ip(p)) => p,
        other => panic!("{other:?}"),
    }
}

/// Structure and checksums by somebody else's reading.
fn judge(frame: &[u8], l2: &L2) {
    if be16(frame, 12) == ETHERTYPE_ARP {
        assert!(etherparse::ArpPacketSlice::from_slice(&frame[14..]).is_ok());
        let sender = wire::arp::parse(&frame[14..]).unwrap();
        assert_eq!((sender.sender_mac, &frame[6..12]), (l2.mac_for(&sender.sender), &sender.sender_mac.0[..]));
        return;
    }
    assert_eq!(frame[6..12], l2.mac_for(&packet(frame).src).0);
    let p = PacketHeaders::from_ethernet_slice(frame).unwrap();
    let payload = p.payload.slice();
    match (p.net.unwrap(), p.transport.unwrap()) {
        (NetHeaders::Ipv4(ip, _), TransportHeader::Udp(udp)) => {
            assert_eq!(ip.header_checksum, ip.calc_header_checksum());
            assert_eq!(usize::from(ip.total_len), frame.len() - 14);
            assert_eq!(udp.checksum, udp.calc_checksum_ipv4(&ip, payload).unwrap());
        }
        (NetHeaders::Ipv6(ip, _), TransportHeader::Udp(udp)) => {
            assert_eq!(usize::from(ip.payload_length), frame.len() - 54);
            assert_eq!(udp.checksum, udp.calc_checksum_ipv6(&ip, payload).unwrap());
        }
        (NetHeaders::Ipv6(ip, _), TransportHeader::Icmpv6(icmp)) => {
            assert_eq!(ip.hop_limit, 255);
            let sum = icmp.icmp_type.calc_checksum(ip.source, ip.destination, payload).unwrap();
            assert_eq!(icmp.checksum, sum);
        }
        other => panic!("{other:?}"),
    }
}

/// An ICMPv6 frame as sent to the guest.
pub(super) struct Icmpv6 {
    pub dst_mac: Mac,
    pub src: Addr,
    pub dst: Addr,
    pub body: Vec<u8>,
}

impl Icmpv6 {
    pub fn parse(&self) -> Option<ndp::Message> {
        ndp::parse(&self.src, &self.dst, 255, &self.body)
    }
}

pub(super) fn icmpv6(frame: &[u8]) -> Icmpv6 {
    let p = packet(frame);
    Icmpv6 { dst_mac: p.dst_mac, src: p.src, dst: p.dst, body: frame[p.l4..].to_vec() }
}

/// A guest's ICMPv6 frame; the checksum is filled in.
pub(super) fn icmpv6_frame(src: &str, dst: &str, hop_limit: u8, mut body: Vec<u8>) -> Vec<u8> {
    body[2..4].fill(0);
    let sum = Sum::pseudo(&a(src), &a(dst), PROTO_ICMPV6, body.len()).add(&body).checksum();
    body[2..4].copy_from_slice(&sum.to_be_bytes());
    let (src, dst) = (a(src).to_v6().unwrap().octets(), a(dst).to_v6().unwrap().octets());
    let b = PacketBuilder::ethernet2(GUEST_MAC.0, [0x33, 0x33, 0, 0, 0, 2]).ipv6(src, dst, hop_limit);
    let mut f = Vec::new();
    b.write(&mut f, etherparse::IpNumber::IPV6_ICMP, &body).unwrap();
    f
}

/// A guest's UDP frame.
pub(super) fn udp_frame(src: &str, dst: &str, src_port: u16, dst_port: u16, payload: &[u8]) -> Vec<u8> {
    let b = PacketBuilder::ethernet2(GUEST_MAC.0, [0xff; 6]);
    let b = match (a(src).to_ip(), a(dst).to_ip()) {
        (IpAddr::V4(s), IpAddr::V4(d)) => b.ipv4(s.octets(), d.octets(), 64),
        (IpAddr::V6(s), IpAddr::V6(d)) => b.ipv6(s.octets(), d.octets(), 64),
        _ => panic!("two families"),
    };
    let mut f = Vec::new();
    b.udp(src_port, dst_port).write(&mut f, payload).unwrap();
    f
}

/// Addresses and payload of a UDP frame as sent to the guest.
pub(super) fn udp(frame: &[u8]) -> (Mac, Endpoint, Endpoint, Vec<u8>) {
    let p = packet(frame);
    let wire::Transport::Udp(h) = p.transport else { panic!() };
    let payload = frame[p.payload..p.payload + p.payload_len].to_vec();
    (p.dst_mac, Endpoint::new(p.src, h.src_port), Endpoint::new(p.dst, h.dst_port), payload)
}
