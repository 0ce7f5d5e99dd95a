//! What no frame to the guest may be, by somebody else's reading: etherparse's.

use etherparse::{IpNumber, NetHeaders, PacketHeaders, TransportHeader};

/// Structure, lengths and checksums of a whole frame that asks for no offload.
pub fn frame(frame: &[u8]) {
    assert!(frame[6] & 1 == 0 && frame[6..12] != [0; 6], "a station sends it");
    if frame[12..14] == [8, 6] {
        assert!(etherparse::ArpPacketSlice::from_slice(&frame[14..]).is_ok() && frame.len() >= 60);
        return;
    }
    let p = PacketHeaders::from_ethernet_slice(frame).expect("a frame that parses");
    let (net, payload) = (p.net.expect("an IP packet"), p.payload.slice());
    let is_part = match &net {
        NetHeaders::Ipv4(ip, _) => {
            assert_eq!(ip.header_checksum, ip.calc_header_checksum());
            fits(usize::from(ip.total_len), frame.len() - 14);
            ip.is_fragmenting_payload()
        }
        NetHeaders::Ipv6(ip, extensions) => {
            fits(usize::from(ip.payload_length), frame.len() - 54);
            extensions.is_fragmenting_payload()
        }
        NetHeaders::Arp(_) => panic!("ARP has an EtherType of its own"),
    };
    if !is_part {
        transport(&net, p.transport.as_ref(), payload);
    }
}

/// A frame is as long as what it carries, or padded to what is the least on a wire.
fn fits(len: usize, room: usize) {
    assert!(len == room || len < room && room <= 46, "{len} bytes in {room}");
}

fn transport(net: &NetHeaders, header: Option<&TransportHeader>, payload: &[u8]) {
    let (found, expected) = match (net, header.expect("a transport header")) {
        (NetHeaders::Ipv4(ip, _), TransportHeader::Tcp(t)) => (t.checksum, t.calc_checksum_ipv4(ip, payload).ok()),
        (NetHeaders::Ipv6(ip, _), TransportHeader::Tcp(t)) => (t.checksum, t.calc_checksum_ipv6(ip, payload).ok()),
        (NetHeaders::Ipv4(ip, _), TransportHeader::Udp(u)) => (u.checksum, u.calc_checksum_ipv4(ip, payload).ok()),
        (NetHeaders::Ipv6(ip, _), TransportHeader::Udp(u)) => (u.checksum, u.calc_checksum_ipv6(ip, payload).ok()),
        (NetHeaders::Ipv4(ip, _), TransportHeader::Icmpv4(i)) => {
            assert_eq!(ip.protocol, IpNumber::ICMP);
            (i.checksum, Some(i.icmp_type.calc_checksum(payload)))
        }
        (NetHeaders::Ipv6(ip, _), TransportHeader::Icmpv6(i)) => {
            (i.checksum, i.icmp_type.calc_checksum(ip.source, ip.destination, payload).ok())
        }
        other => panic!("{other:?}"),
    };
    let expected = expected.expect("a length that has a checksum");
    // 0 and 0xffff are the same number, but that a UDP checksum of 0 says that there is none.
    assert_eq!(found % 0xffff, expected % 0xffff, "the checksum is {found:#x}, not {expected:#x}");
    assert!(found != 0 || !matches!(header, Some(TransportHeader::Udp(_))));
}
