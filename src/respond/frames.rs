//! Questions and answers as frames: read with every check the RFCs ask of a receiver, each under a name, and written. Pure.

use arrayvec::ArrayVec;

use super::reason::Reason;
use crate::base::{Addr, DropReason, Mac};
use crate::wire::arp::{self, Arp, FRAME_MIN};
use crate::wire::checksum::Sum;
use crate::wire::emit::{self, Head, IpFields};
use crate::wire::ndp::{self, Message, NaFlags};
use crate::wire::{ETH_LEN, IPV6_LEN, PROTO_ICMPV6, Packet, Parsed, Transport};

/// Everything that is sent: 60 bytes of ARP, or a message of 32 bytes with its headers.
pub type Frame = ArrayVec<u8, 86>;

/// Somebody wants to know who has the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    pub target: Addr,
    /// Unspecified: whether the address is free (RFC 4862 §5.4, RFC 5227 §2.1.1).
    pub source: Addr,
    pub source_mac: Mac,
}

/// Reads a neighbour solicitation; `len` is the whole frame's length.
///
/// # Errors
/// Why it is to be ignored.
pub fn solicitation(frame: &[u8], len: usize) -> Result<Question, Reason> {
    let (packet, body) = icmpv6(frame, len)?;
    // RFC 4861 §7.1.1, in its order.
    check_message(&packet, body, ndp::NEIGHBOR_SOLICITATION)?;
    let target = target(body)?;
    let has_source_ll = ndp::has_source_link_layer(&body[24..]).ok_or(Reason::Options)?;
    if packet.dst != target && packet.dst != ndp::solicited_node(&target) {
        return Err(Reason::Destination);
    }
    if packet.src.is_unspecified() && (has_source_ll || packet.dst == target) {
        return Err(Reason::Probe);
    }
    Ok(Question { target, source: packet.src, source_mac: packet.src_mac })
}

/// Reads an advertisement: the target, and which station says so.
///
/// # Errors
/// Why it is to be ignored.
pub fn advertisement(frame: &[u8], len: usize) -> Result<(Addr, Mac), Reason> {
    let (packet, body) = icmpv6(frame, len)?;
    check_message(&packet, body, ndp::NEIGHBOR_ADVERTISEMENT)?;
    let target = target(body)?;
    match ndp::parse(&packet.src, &packet.dst, packet.ttl, body) {
        Some(Message::NeighborAdvertisement { .. }) => Ok((target, packet.src_mac)),
        _ => Err(Reason::Malformed),
    }
}

/// Reads an ARP request.
///
/// # Errors
/// Why it is to be ignored.
pub fn arp_request(frame: &[u8], len: usize) -> Result<Question, Reason> {
    let (source_mac, arp) = arp_packet(frame, len, arp::REQUEST)?;
    if arp.sender == arp.target {
        return Err(Reason::ArpAnnouncement);
    }
    let is_host = |a: &Addr| a.is_unicast() && !a.is_loopback();
    if !is_host(&arp.target) || !(arp.sender == Addr::V4_UNSPECIFIED || is_host(&arp.sender)) {
        return Err(Reason::ArpMalformed);
    }
    Ok(Question { target: arp.target, source: arp.sender, source_mac })
}

/// Reads an ARP reply: whose it is, and which station says so.
///
/// # Errors
/// Why it is to be ignored.
pub fn arp_reply(frame: &[u8], len: usize) -> Result<(Addr, Mac), Reason> {
    let (source_mac, arp) = arp_packet(frame, len, arp::REPLY)?;
    if arp.sender.is_unicast() { Ok((arp.sender, source_mac)) } else { Err(Reason::ArpMalformed) }
}

fn icmpv6(frame: &[u8], len: usize) -> Result<(Packet, &[u8]), Reason> {
    if frame.len() < len {
        return Err(Reason::Length);
    }
    let Parsed::Ip(packet) = crate::wire::parse(frame, len)? else { return Err(Reason::IpHeader) };
    // Extension headers would be a fragment's (RFC 6980) or nobody's.
    if packet.src.is_v4() || packet.l4 != ETH_LEN + IPV6_LEN || !matches!(packet.transport, Transport::Icmp(_)) {
        return Err(Reason::IpHeader);
    }
    Ok((packet, &frame[packet.l4..packet.payload + packet.payload_len]))
}

fn check_message(packet: &Packet, body: &[u8], kind: u8) -> Result<(), Reason> {
    if packet.ttl != ndp::HOP_LIMIT {
        return Err(Reason::HopLimit);
    }
    if !Sum::pseudo(&packet.src, &packet.dst, PROTO_ICMPV6, body.len()).add(body).is_valid() {
        return Err(Reason::Checksum);
    }
    if body.len() < 24 || body[0] != kind || body[1] != 0 { Err(Reason::Malformed) } else { Ok(()) }
}

/// Of a message with 24 bytes or more.
fn target(body: &[u8]) -> Result<Addr, Reason> {
    let target = Addr::v6(body[8..24].try_into().expect("16 bytes"));
    // An IPv4 address in the form of IPv6 is no neighbour's, and would be taken for IPv4 from here on.
    if !target.is_unicast() || target.is_v4() || target.is_loopback() { Err(Reason::Malformed) } else { Ok(target) }
}

fn arp_packet(frame: &[u8], len: usize, op: u16) -> Result<(Mac, Arp), Reason> {
    if frame.len() < len {
        return Err(Reason::Length);
    }
    let Parsed::Arp { src_mac } = crate::wire::parse(frame, len)? else { return Err(Reason::ArpMalformed) };
    let arp = arp::parse(&frame[ETH_LEN..]).filter(|arp| arp.op == op).ok_or(Reason::ArpMalformed)?;
    Ok((src_mac, arp))
}

impl From<DropReason> for Reason {
    fn from(reason: DropReason) -> Reason {
        match reason {
            DropReason::FrameLength => Reason::Length,
            DropReason::SourceMac => Reason::SourceMac,
            DropReason::SourceAddress => Reason::SourceAddress,
            DropReason::DestinationAddress => Reason::Destination,
            DropReason::TransportHeader => Reason::Malformed,
            _ => Reason::IpHeader,
        }
    }
}

/// The answer to `question`: that its target is at `mac`.
pub fn answer(question: &Question, mac: Mac, router: bool) -> Frame {
    let Question { target, source, source_mac } = question;
    if target.is_v4() {
        let reply = Arp { op: arp::REPLY, sender_mac: mac, sender: *target, target_mac: *source_mac, target: *source };
        return arp_frame(&reply, *source_mac);
    }
    let router = if router { NaFlags::ROUTER } else { NaFlags::empty() };
    if source.is_unspecified() {
        // RFC 4861 §7.2.4: who has no address yet hears it with all nodes, and nobody has been answered.
        return advertise(
            target,
            &ndp::ALL_NODES,
            Mac::multicast_for(&ndp::ALL_NODES),
            NaFlags::OVERRIDE | router,
            mac,
        );
    }
    advertise(target, source, *source_mac, NaFlags::SOLICITED | NaFlags::OVERRIDE | router, mac)
}

/// Says to all that `addr` is at `mac`, without having been asked (RFC 4861 §7.2.6, RFC 5227 §2.3).
pub fn announcement(addr: &Addr, mac: Mac, router: bool, as_reply: bool) -> Frame {
    if addr.is_v4() {
        let (op, target_mac) = if as_reply { (arp::REPLY, mac) } else { (arp::REQUEST, Mac::ZERO) };
        return arp_frame(&Arp { op, sender_mac: mac, sender: *addr, target_mac, target: *addr }, Mac::BROADCAST);
    }
    let router = if router { NaFlags::ROUTER } else { NaFlags::empty() };
    advertise(addr, &ndp::ALL_NODES, Mac::multicast_for(&ndp::ALL_NODES), NaFlags::OVERRIDE | router, mac)
}

/// Asks who has `target`, as `source`.
pub fn ask(source: &Addr, target: &Addr, mac: Mac) -> Frame {
    if target.is_v4() {
        let ask = Arp { op: arp::REQUEST, sender_mac: mac, sender: *source, target_mac: Mac::ZERO, target: *target };
        return arp_frame(&ask, Mac::BROADCAST);
    }
    let group = ndp::solicited_node(target);
    icmpv6_frame(source, &group, (mac, Mac::multicast_for(&group)), ndp::neighbor_solicitation(target, mac))
}

/// The source is the target: hypervisors, and some routers, take one that speaks for another address for a forgery.
fn advertise(target: &Addr, dst: &Addr, dst_mac: Mac, flags: NaFlags, mac: Mac) -> Frame {
    icmpv6_frame(target, dst, (mac, dst_mac), ndp::neighbor_advertisement(target, flags, mac))
}

fn arp_frame(arp: &Arp, dst: Mac) -> Frame {
    let bytes: [u8; FRAME_MIN] = arp.emit(arp.sender_mac, dst);
    bytes.into_iter().collect()
}

fn icmpv6_frame(src: &Addr, dst: &Addr, (src_mac, dst_mac): (Mac, Mac), mut message: Vec<u8>) -> Frame {
    let sum = Sum::pseudo(src, dst, PROTO_ICMPV6, message.len()).add(&message).checksum();
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let fields = IpFields { src_mac, dst_mac, src: *src, dst: *dst, ttl: ndp::HOP_LIMIT, tos: 0, id: 0 };
    let mut head = Head::new();
    emit::ip(&mut head, &fields, PROTO_ICMPV6, message.len());
    head.into_iter().chain(message).collect()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{OUR_MAC, THEIR_MAC, a, ask_v4, solicit};
    use super::*;

    #[test]
    fn a_solicitation_is_read_whatever_its_source() {
        for source in ["fe80::7", "2001:db8::7", "::"] {
            let frame = solicit(source, "2001:db8:1::5");
            let expect = Question { target: a("2001:db8:1::5"), source: a(source), source_mac: THEIR_MAC };
            assert_eq!(solicitation(&frame, frame.len()), Ok(expect));
        }
    }

    /// Changes bytes of a solicitation, checksum put right unless that is what is wrong.
    fn changed(at: usize, byte: u8) -> Result<Question, Reason> {
        let mut frame = solicit("fe80::7", "2001:db8:1::5");
        frame[at] = byte;
        if !(56..58).contains(&at) {
            super::super::testing::mend_checksum(&mut frame);
        }
        solicitation(&frame, frame.len())
    }

    #[test]
    fn bad_ones_have_a_name_each() {
        for (at, byte, reason) in [
            (6, 0x33, Reason::SourceMac),
            (14, 0x40, Reason::IpHeader),
            (18, 9, Reason::Length),
            (20, 60, Reason::IpHeader),
            (21, 254, Reason::HopLimit),
            (22, 0xff, Reason::SourceAddress),
            (53, 6, Reason::Destination),
            (55, 1, Reason::Malformed),
            (57, 0, Reason::Checksum),
            (62, 0xff, Reason::Malformed),
            (79, 0, Reason::Options),
            (79, 2, Reason::Options),
        ] {
            let found = changed(at, byte).unwrap_err();
            // What is longer than the frame is told by the parser of all frames as a fault of the header.
            let expected = if at == 18 { Reason::IpHeader } else { reason };
            assert_eq!(found, expected, "byte {at}");
        }
        let frame = solicit("fe80::7", "2001:db8:1::5");
        assert_eq!(solicitation(&frame[..60], 86), Err(Reason::Length));
    }

    #[test]
    fn d12_probes_have_no_link_layer_address_and_go_to_the_group() {
        let mut frame = solicit("::", "2001:db8:1::5");
        assert_eq!(frame.len(), 78);
        frame.extend([1, 1, 2, 0, 0, 0, 0, 2]);
        frame[19] = 32;
        super::super::testing::mend_checksum(&mut frame);
        assert_eq!(solicitation(&frame, frame.len()), Err(Reason::Probe));
    }

    #[test]
    fn answers_come_from_the_target() {
        let question = |source: &str| Question { target: a("2001:db8:1::5"), source: a(source), source_mac: THEIR_MAC };
        let frame = answer(&question("fe80::7"), OUR_MAC, false);
        assert_eq!(frame.len(), 86);
        let (packet, body) = icmpv6(&frame, frame.len()).unwrap();
        assert_eq!((packet.src, packet.dst, packet.ttl), (a("2001:db8:1::5"), a("fe80::7"), 255));
        assert_eq!((packet.src_mac, packet.dst_mac), (OUR_MAC, THEIR_MAC));
        assert_eq!(body[4], 0x60, "S and O");
        assert_eq!(ndp::options_of(&body[24..]), [(2, &[&[2, 1][..], &OUR_MAC.0].concat()[..])]);
        assert_eq!(advertisement(&frame, frame.len()), Ok((a("2001:db8:1::5"), OUR_MAC)));

        let frame = answer(&question("::"), OUR_MAC, true);
        let (packet, body) = icmpv6(&frame, frame.len()).unwrap();
        assert_eq!((packet.dst, packet.dst_mac), (a("ff02::1"), Mac([0x33, 0x33, 0, 0, 0, 1])));
        assert_eq!(body[4], 0xa0, "R and O");
    }

    #[test]
    fn arp_is_asked_and_answered() {
        let frame = ask_v4("192.0.2.7", "192.0.2.9");
        let question = arp_request(&frame, frame.len()).unwrap();
        assert_eq!((question.source, question.target), (a("192.0.2.7"), a("192.0.2.9")));
        let reply = answer(&question, OUR_MAC, true);
        assert_eq!((reply.len(), arp_reply(&reply, 60)), (60, Ok((a("192.0.2.9"), OUR_MAC))));
        for (source, target, reason) in [
            ("192.0.2.7", "192.0.2.7", Reason::ArpAnnouncement),
            ("192.0.2.7", "224.0.0.1", Reason::ArpMalformed),
            ("127.0.0.1", "192.0.2.9", Reason::ArpMalformed),
        ] {
            let frame = ask_v4(source, target);
            assert_eq!(arp_request(&frame, frame.len()), Err(reason), "{source} {target}");
        }
        assert_eq!(arp_request(&reply, 60), Err(Reason::ArpMalformed), "a reply");
    }

    #[test]
    fn announcements_have_both_forms() {
        let parsed = |as_reply| arp::parse(&announcement(&a("192.0.2.9"), OUR_MAC, false, as_reply)[14..]).unwrap();
        let (request, reply) = (parsed(false), parsed(true));
        assert_eq!((request.op, request.target_mac, request.sender), (arp::REQUEST, Mac::ZERO, request.target));
        assert_eq!((reply.op, reply.target_mac, reply.sender), (arp::REPLY, OUR_MAC, reply.target));
        let frame = announcement(&a("2001:db8::9"), OUR_MAC, false, false);
        let (packet, body) = icmpv6(&frame, frame.len()).unwrap();
        assert_eq!((packet.src, packet.dst, body[4]), (a("2001:db8::9"), a("ff02::1"), 0x20));
    }
}
