//! Headers of frames to the guest, written into a small array in front of payload that stays where it is.

use arrayvec::ArrayVec;

use super::checksum::Sum;
use super::packet::TcpFlags;
use super::vnet::Csum;
use super::*;
use crate::base::{Addr, Endpoint, Mac};

/// Room for Ethernet, the longest IP header we write (IPv6 and a fragment header) and the longest TCP header.
pub const HEAD_MAX: usize = ETH_LEN + IPV6_LEN + 8 + 60;

/// The headers of one frame.
pub type Head = ArrayVec<u8, HEAD_MAX>;

/// TTL and hop limit of frames that do not carry on somebody else's.
pub const TTL: u8 = 64;

/// Addresses and IP fields of a frame to the guest.
#[derive(Clone, Copy, Debug)]
pub struct IpFields {
    pub src_mac: Mac,
    pub dst_mac: Mac,
    pub src: Addr,
    pub dst: Addr,
    pub ttl: u8,
    pub tos: u8,
    /// IPv4 identification; only fragments need one (RFC 6864 §4.1).
    pub id: u16,
}

/// Ethernet and IP header for a transport segment of `l4_len` bytes, don't-fragment set.
///
/// # Panics
/// In debug builds if `l4_len` does not fit the length field.
pub fn ip(out: &mut Head, f: &IpFields, proto: u8, l4_len: usize) {
    ethernet(out, f.src_mac, f.dst_mac, if f.src.is_v4() { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 });
    ip_only(out, f, proto, l4_len);
}

/// Ethernet II header.
pub fn ethernet(out: &mut Head, src: Mac, dst: Mac, ethertype: u16) {
    push(out, &dst.0);
    push(out, &src.0);
    push(out, &ethertype.to_be_bytes());
}

fn ip_only(out: &mut Head, f: &IpFields, proto: u8, l4_len: usize) {
    if f.src.is_v4() {
        debug_assert!(IPV4_LEN + l4_len <= 65535);
        let mut h = [0u8; IPV4_LEN];
        h[0] = 0x45;
        h[1] = f.tos;
        h[2..4].copy_from_slice(&((IPV4_LEN + l4_len) as u16).to_be_bytes());
        h[4..6].copy_from_slice(&f.id.to_be_bytes());
        h[6] = 0x40; // DF
        h[8] = f.ttl;
        h[9] = proto;
        h[12..16].copy_from_slice(f.src.wire());
        h[16..20].copy_from_slice(f.dst.wire());
        let sum = Sum::new().add(&h).checksum();
        h[10..12].copy_from_slice(&sum.to_be_bytes());
        push(out, &h);
    } else {
        debug_assert!(l4_len <= 65535);
        let mut h = [0u8; IPV6_LEN];
        h[0] = 0x60 | f.tos >> 4;
        h[1] = f.tos << 4;
        h[4..6].copy_from_slice(&(l4_len as u16).to_be_bytes());
        h[6] = proto;
        h[7] = f.ttl;
        h[8..24].copy_from_slice(f.src.wire());
        h[24..40].copy_from_slice(f.dst.wire());
        push(out, &h);
    }
}

/// How the transport checksum is to be made.
#[derive(Clone, Copy, Debug)]
pub enum PayloadSum {
    /// Leave it partial: the link finishes it.
    Partial,
    /// Complete it with this sum over the payload.
    Of(Sum),
}

/// Fields of a TCP segment to the guest.
#[derive(Clone, Copy, Debug)]
pub struct TcpFields<'a> {
    pub src: Endpoint,
    pub dst: Endpoint,
    pub seq: u32,
    pub ack: u32,
    pub flags: TcpFlags,
    /// As on the wire, already scaled.
    pub window: u16,
    /// Whole options, padded to a multiple of four.
    pub options: &'a [u8],
}

/// The headers of a TCP segment with `payload_len` bytes of payload. Returns the checksum state for the offload header.
pub fn tcp(out: &mut Head, macs: (Mac, Mac), tos: u8, t: &TcpFields<'_>, payload_len: usize, sum: PayloadSum) -> Csum {
    let l4_len = TCP_LEN + t.options.len() + payload_len;
    let f = IpFields { src_mac: macs.0, dst_mac: macs.1, src: t.src.addr, dst: t.dst.addr, ttl: TTL, tos, id: 0 };
    ip(out, &f, PROTO_TCP, l4_len);
    let at = out.len();
    let mut h = [0u8; TCP_LEN];
    h[0..2].copy_from_slice(&t.src.port.to_be_bytes());
    h[2..4].copy_from_slice(&t.dst.port.to_be_bytes());
    h[4..8].copy_from_slice(&t.seq.to_be_bytes());
    h[8..12].copy_from_slice(&t.ack.to_be_bytes());
    h[12] = ((TCP_LEN + t.options.len()) as u8 / 4) << 4;
    h[13] = t.flags.bits();
    h[14..16].copy_from_slice(&t.window.to_be_bytes());
    push(out, &h);
    push(out, t.options);
    finish_checksum(out, at, 16, &f, PROTO_TCP, l4_len, sum)
}

/// The headers of a UDP datagram with `payload_len` bytes of payload.
pub fn udp(out: &mut Head, f: &IpFields, ports: (u16, u16), payload_len: usize, sum: PayloadSum) -> Csum {
    let l4_len = UDP_LEN + payload_len;
    ip(out, f, PROTO_UDP, l4_len);
    let at = out.len();
    let mut h = [0u8; UDP_LEN];
    h[0..2].copy_from_slice(&ports.0.to_be_bytes());
    h[2..4].copy_from_slice(&ports.1.to_be_bytes());
    h[4..6].copy_from_slice(&(l4_len as u16).to_be_bytes());
    push(out, &h);
    finish_checksum(out, at, 6, f, PROTO_UDP, l4_len, sum)
}

fn finish_checksum(
    out: &mut Head,
    at: usize,
    field: usize,
    f: &IpFields,
    proto: u8,
    l4_len: usize,
    sum: PayloadSum,
) -> Csum {
    let pseudo = Sum::pseudo(&f.src, &f.dst, proto, l4_len);
    let (value, state) = match sum {
        PayloadSum::Partial => (pseudo.folded(), Csum::Partial { start: at as u16, offset: field as u16 }),
        PayloadSum::Of(payload) => {
            let value = pseudo.add(&out[at..]).add_u16(payload.folded()).checksum();
            // RFC 768: an all-zero checksum means none was made.
            (if value == 0 && proto == PROTO_UDP { 0xffff } else { value }, Csum::Complete)
        }
    };
    out[at + field..at + field + 2].copy_from_slice(&value.to_be_bytes());
    state
}

fn push(out: &mut Head, bytes: &[u8]) {
    out.try_extend_from_slice(bytes).expect("HEAD_MAX holds the longest headers");
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{PacketHeaders, TransportHeader};

    fn v6(last: u8) -> Addr {
        Addr::v6([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last])
    }

    #[test]
    fn etherparse_agrees_on_tcp() {
        for (a, b) in [(Addr::v4([10, 0, 0, 1]), Addr::v4([10, 0, 0, 2])), (v6(1), v6(2))] {
            let payload = b"some odd payload!";
            let t = TcpFields {
                src: Endpoint::new(a, 80),
                dst: Endpoint::new(b, 4000),
                seq: 0xdead_beef,
                ack: 0x0102_0304,
                flags: TcpFlags::ACK | TcpFlags::PSH,
                window: 777,
                options: &[2, 4, 5, 180],
            };
            let mut head = Head::new();
            let state = tcp(
                &mut head,
                (Mac([2; 6]), Mac([4; 6])),
                0x12,
                &t,
                payload.len(),
                PayloadSum::Of(Sum::new().add(payload)),
            );
            assert_eq!(state, Csum::Complete);
            let mut f = head.to_vec();
            f.extend(payload);
            let p = PacketHeaders::from_ethernet_slice(&f).unwrap();
            let Some(TransportHeader::Tcp(h)) = p.transport else { panic!() };
            assert_eq!(
                (h.source_port, h.destination_port, h.sequence_number, h.window_size),
                (80, 4000, 0xdead_beef, 777)
            );
            let expect = match p.net.unwrap() {
                etherparse::NetHeaders::Ipv4(ip, _) => {
                    assert_eq!(ip.header_checksum, ip.calc_header_checksum());
                    h.calc_checksum_ipv4(&ip, payload).unwrap()
                }
                etherparse::NetHeaders::Ipv6(ip, _) => h.calc_checksum_ipv6(&ip, payload).unwrap(),
                _ => panic!(),
            };
            assert_eq!(h.checksum, expect);
        }
    }
}
