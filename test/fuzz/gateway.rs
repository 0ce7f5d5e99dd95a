//! Questions of a guest to its neighbours and servers, in any bytes: at most one answer each, which is a frame, right by
//! etherparse's and dhcproto's reading, and no longer than whoever asked can take.

use std::net::IpAddr;

use dhcproto::{Decodable, v4, v6};
use spelt::base::{Addr, DropReason, Instant, Mac, PerFamily};
use spelt::fwd::Nat;
use spelt::gateway::{Config, Gateway};
use spelt::guest::mock::MockLink;
use spelt::guest::{Facts, Frame, L2, Neighbours};
use spelt::wire::checksum::Sum;
use spelt::wire::emit::{self, Head, IpFields, PayloadSum};
use spelt::wire::{self, ETH_LEN, IPV4_LEN, Offload, PROTO_ICMPV6, Parsed, UDP_LEN, dhcp, ndp};

use super::judge;

pub const OUR_MAC: Mac = Mac([0x9a, 0x55, 0x9a, 0x55, 0x9a, 0x55]);
pub const GUEST_MAC: Mac = Mac([0x52, 0x54, 0, 1, 2, 3]);
const NOW: Instant = Instant::from_nanos(5_000_000_000);
/// What IPv6 asks of every link (RFC 8200 §5).
const MTU6: usize = 1280;
/// What DHCP may take for granted (RFC 2131 §2), and what fits every Ethernet.
const DHCP_LEN: std::ops::RangeInclusive<usize> = 576..=1500;

/// How the server is set up, then what a client sends it.
pub fn dhcp(data: &[u8]) {
    let [how, payload @ ..] = data else { return };
    let payload = &payload[..payload.len().min(1472)];
    let mut bench = Bench::new(*how);
    let sent = bench.ask_udp(("0.0.0.0", 68), ("255.255.255.255", dhcp::SERVER_PORT), payload);
    let Some(frame) = sent else { return };
    let ask = dhcp::parse(payload).expect("what was answered was read");
    let allowed = usize::from(ask.option_u16(dhcp::opt::MAX_SIZE).unwrap_or(0).min(bench.link.caps.mtu));
    assert!(frame.len() - ETH_LEN <= allowed.clamp(*DHCP_LEN.start(), *DHCP_LEN.end()), "{} bytes", frame.len());
    let answer = v4::Message::from_bytes(&frame[ETH_LEN + IPV4_LEN + UDP_LEN..]).expect("dhcproto reads it");
    assert_eq!(answer.opcode(), v4::Opcode::BootReply);
    assert_eq!(answer.xid().to_be_bytes(), payload[4..8]);
    assert_eq!(answer.flags(), v4::Flags::new(u16::from_be_bytes([payload[10], payload[11]])));
}

pub fn dhcpv6(data: &[u8]) {
    let [how, payload @ ..] = data else { return };
    let payload = &payload[..payload.len().min(1400)];
    let sent = Bench::new(*how).ask_udp(("fe80::7", 546), ("ff02::1:2", 547), payload);
    let Some(frame) = sent else { return };
    assert!(frame.len() - ETH_LEN <= MTU6, "{} bytes", frame.len());
    let answer = v6::Message::from_bytes(&frame[ETH_LEN + 48..]).expect("dhcproto reads it");
    assert!(matches!(answer.msg_type(), v6::MessageType::Reply | v6::MessageType::Advertise));
    assert_eq!(answer.xid(), payload[1..4]);
    assert!(answer.opts().get(v6::OptionCode::ServerId).is_some());
}

/// ARP and neighbour discovery, by the second byte: a frame's content, or an ICMPv6 message from and to addresses that
/// could ask.
pub fn ndp(data: &[u8]) {
    let [how, kind, body @ ..] = data else { return };
    let body = &body[..body.len().min(1400)];
    let mut bench = Bench::new(*how);
    if kind & 1 != 0 {
        return bench.ask_arp(body);
    }
    let src = ["fe80::7", "2001:db8::7", "::", "2001:db8::9"][usize::from(kind >> 1 & 3)];
    let dst = ["ff02::1", "ff02::2", "ff02::1:ff00:1", "fe80::1"][usize::from(kind >> 3 & 3)];
    // Anything else is not neighbour discovery (RFC 4861 §6.1.1).
    let hop_limit = if kind & 0x80 == 0 { ndp::HOP_LIMIT } else { 64 };
    let Some((first, rest)) = body.split_first() else { return };
    let mut message = [&[ndp::ROUTER_SOLICITATION + first % 5, 0, 0, 0], rest].concat();
    let (src, dst) = (addr(src), addr(dst));
    let sum = Sum::pseudo(&src, &dst, PROTO_ICMPV6, message.len()).add(&message).checksum();
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut head = Head::new();
    emit::ip(&mut head, &IpFields { ttl: hop_limit, ..fields(src, dst) }, PROTO_ICMPV6, message.len());
    if let Some(frame) = bench.ask(&[&head, &message[..]].concat()) {
        assert!(hop_limit == ndp::HOP_LIMIT && frame.len() - ETH_LEN <= MTU6);
        assert_eq!(frame[ETH_LEN + 7], ndp::HOP_LIMIT);
        assert!([ndp::ROUTER_ADVERTISEMENT, ndp::NEIGHBOR_ADVERTISEMENT].contains(&frame[ETH_LEN + 40]));
    }
}

pub fn addr(s: &str) -> Addr {
    s.parse::<IpAddr>().expect("an address").into()
}

fn fields(src: Addr, dst: Addr) -> IpFields {
    IpFields { src_mac: GUEST_MAC, dst_mac: Mac::BROADCAST, src, dst, ttl: 64, tos: 0, id: 0 }
}

/// A gateway on a link in memory.
struct Bench {
    gateway: Gateway,
    link: MockLink,
    l2: L2,
    nat: Nat,
}

impl Bench {
    /// Bits of `how`: much to tell, a host name too long for a message, an address outside the gateway's subnet, a small link.
    fn new(how: u8) -> Bench {
        let mut config = config();
        if how & 1 != 0 {
            config.search = (0..40).map(|n| format!("{}.{n}.example.com", "label".repeat(8))).collect();
            config.dns = (0..9).map(|n| addr(&format!("2001:db8::{n}"))).collect();
        }
        if how & 2 != 0 {
            let name = format!("{0}.{0}.{0}.example", "x".repeat(60));
            (config.hostname, config.fqdn) = (Some(name.clone()), Some(name));
        }
        if how & 4 != 0 {
            config.assigned.v4 = Some((addr("198.51.100.7"), 32));
        }
        let mut link = MockLink::default();
        if how & 8 != 0 {
            (link.caps.mtu, config.mtu) = (1280, Some(1280));
        }
        let l2 = L2 {
            our_mac: OUR_MAC,
            guest_mac: GUEST_MAC,
            guest_v4: None,
            guest_v6: None,
            guest_link_local: None,
            neighbours: Neighbours::default(),
        };
        Bench { gateway: Gateway::new(config, NOW), link, l2, nat: Nat::default() }
    }

    fn ask_udp(&mut self, from: (&str, u16), to: (&str, u16), payload: &[u8]) -> Option<Vec<u8>> {
        let mut head = Head::new();
        let sum = PayloadSum::Of(Sum::new().add(payload));
        emit::udp(&mut head, &fields(addr(from.0), addr(to.0)), (from.1, to.1), payload.len(), sum);
        self.ask(&[&head, payload].concat())
    }

    /// The answer, if there is one.
    fn ask(&mut self, frame: &[u8]) -> Option<Vec<u8>> {
        let Ok(Parsed::Ip(packet)) = wire::parse(frame, frame.len()) else { panic!("a packet") };
        assert!(self.gateway.claims(&packet));
        let facts = Facts { now: NOW, l2: &self.l2, nat: &self.nat };
        let frame = Frame { head: frame, rest: &[], offload: Offload::NONE };
        let outcome = self.gateway.answer(&packet, &frame, &facts, &mut self.link);
        self.sent(outcome)
    }

    fn ask_arp(&mut self, body: &[u8]) {
        let frame = [&[0xff; 6], &GUEST_MAC.0[..], &[8, 6], body].concat();
        let facts = Facts { now: NOW, l2: &self.l2, nat: &self.nat };
        let frame = Frame { head: &frame, rest: &[], offload: Offload::NONE };
        let outcome = self.gateway.arp(&frame, &facts, &mut self.link);
        self.sent(outcome);
    }

    /// Nothing is sent and refused; an answer is one frame.
    fn sent(&mut self, outcome: Result<(), DropReason>) -> Option<Vec<u8>> {
        let mut sent = self.link.take();
        sent.iter().for_each(|f| judge::frame(f));
        assert!(sent.len() <= 1, "{} answers", sent.len());
        assert!(outcome.is_ok() || sent.is_empty() || outcome == Err(DropReason::Arp), "{outcome:?}");
        sent.pop()
    }
}

pub fn config() -> Config {
    Config {
        our_mac: OUR_MAC,
        gateway: PerFamily::new(Some(addr("192.0.2.1")), Some(addr("2001:db8::1"))),
        our_link_local: Some(addr("fe80::1")),
        assigned: PerFamily::new(Some((addr("192.0.2.7"), 24)), Some((addr("2001:db8::7"), 64))),
        mtu: Some(1500),
        dns: vec![addr("192.0.2.53"), addr("2001:db8::53")],
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
