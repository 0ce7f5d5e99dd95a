//! One pass over a frame's headers, into a small `Copy` value that everything later decides from.

use super::checksum::Sum;
use super::vnet::{Csum, Offload};
use super::*;
use crate::base::{Addr, DropReason, Mac};

/// What a frame holds.
#[derive(Clone, Copy, Debug)]
pub enum Parsed {
    /// An ARP packet, behind the Ethernet header.
    Arp { src_mac: Mac },
    /// A whole IP packet.
    Ip(Packet),
    /// A part of one, to be reassembled first.
    Fragment(Fragment),
}

/// A whole IP packet's headers, checked for structure. All offsets are into the frame.
#[derive(Clone, Copy, Debug)]
pub struct Packet {
    pub src_mac: Mac,
    pub dst_mac: Mac,
    pub src: Addr,
    pub dst: Addr,
    /// TTL or hop limit.
    pub ttl: u8,
    /// TOS or traffic class: DSCP and ECN.
    pub tos: u8,
    /// IPv4 don't-fragment flag; true for IPv6.
    pub dont_fragment: bool,
    /// Where the IP header starts.
    pub l3: usize,
    /// Where the transport header starts.
    pub l4: usize,
    /// Where the transport payload starts, and its length; padding after the packet is left out.
    pub payload: usize,
    pub payload_len: usize,
    pub transport: Transport,
}

#[derive(Clone, Copy, Debug)]
pub enum Transport {
    Tcp(TcpHeader),
    Udp(UdpHeader),
    /// ICMP over IPv4 or ICMPv6 over IPv6; the payload begins after the first four bytes of the header.
    Icmp(IcmpHeader),
    /// Another protocol number.
    Other(u8),
}

bitflags::bitflags! {
    /// TCP control bits (RFC 9293 §3.1).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct TcpFlags: u8 {
        const FIN = 0x01;
        const SYN = 0x02;
        const RST = 0x04;
        const PSH = 0x08;
        const ACK = 0x10;
        const URG = 0x20;
        const ECE = 0x40;
        const CWR = 0x80;
    }
}

#[derive(Clone, Copy, Debug)]
pub struct TcpHeader {
    pub src_port: u16,
    pub dst_port: u16,
    pub seq: u32,
    pub ack: u32,
    pub flags: TcpFlags,
    /// As on the wire, unscaled.
    pub window: u16,
    pub options: TcpOptions,
    pub sack: SackPlace,
}

#[derive(Clone, Copy, Debug)]
pub struct UdpHeader {
    pub src_port: u16,
    pub dst_port: u16,
}

#[derive(Clone, Copy, Debug)]
pub struct IcmpHeader {
    pub kind: u8,
    pub code: u8,
}

/// One fragment of an IPv4 or IPv6 packet.
#[derive(Clone, Copy, Debug)]
pub struct Fragment {
    pub src: Addr,
    pub dst: Addr,
    /// IPv4 identification, zero-extended, or the IPv6 fragment header's.
    pub id: u32,
    pub protocol: u8,
    /// Of this fragment's data in the original packet, in bytes.
    pub offset: usize,
    pub more: bool,
    /// Where the IP header starts in the frame, and how long the part before the fragment's data is: the
    /// unfragmentable part without the IPv6 fragment header.
    pub l3: usize,
    pub unfragmentable_len: usize,
    /// IPv6: where the next-header byte that names the fragment header stands. Unused for IPv4.
    pub next_header_at: usize,
    /// Where the fragment's data stands in the frame.
    pub data: usize,
    pub data_len: usize,
}

/// Reads the headers at the start of a frame. `head`: a private copy of the frame's beginning, long enough for all
/// headers; `frame_len`: the whole frame's length; `offload`: what came with it.
///
/// Transport checksums are not verified here because the payload may be elsewhere; see [`Packet::checksum_sum`].
///
/// # Errors
/// The reason to count when the frame is not to be forwarded.
pub fn parse(head: &[u8], frame_len: usize) -> Result<Parsed, DropReason> {
    if head.len() < ETH_LEN || !(ETH_LEN..=FRAME_MAX).contains(&frame_len) {
        return Err(DropReason::FrameLength);
    }
    let mac = |at: usize| Mac([head[at], head[at + 1], head[at + 2], head[at + 3], head[at + 4], head[at + 5]]);
    let (dst_mac, src_mac) = (mac(0), mac(6));
    if !src_mac.is_unicast() {
        return Err(DropReason::SourceMac);
    }
    match be16(head, 12) {
        ETHERTYPE_IPV4 => parse_v4(head, frame_len, src_mac, dst_mac),
        ETHERTYPE_IPV6 => parse_v6(head, frame_len, src_mac, dst_mac),
        ETHERTYPE_ARP => Ok(Parsed::Arp { src_mac }),
        _ => Err(DropReason::EtherType),
    }
}

fn parse_v4(head: &[u8], frame_len: usize, src_mac: Mac, dst_mac: Mac) -> Result<Parsed, DropReason> {
    let ip = &head[ETH_LEN..];
    if ip.len() < IPV4_LEN || ip[0] >> 4 != 4 {
        return Err(DropReason::IpHeader);
    }
    let header_len = usize::from(ip[0] & 15) * 4;
    let total = usize::from(be16(ip, 2));
    if header_len < IPV4_LEN || ip.len() < header_len || total < header_len || ETH_LEN + total > frame_len {
        return Err(DropReason::IpHeader);
    }
    if !Sum::new().add(&ip[..header_len]).is_valid() {
        return Err(DropReason::IpChecksum);
    }
    let src = Addr::v4([ip[12], ip[13], ip[14], ip[15]]);
    let dst = Addr::v4([ip[16], ip[17], ip[18], ip[19]]);
    // RFC 1122 §3.2.1.3: sources that no host may use. 0.0.0.0 passes here for DHCP.
    check_addresses(&src, &dst)?;
    let flags = be16(ip, 6);
    let protocol = ip[9];
    let more = flags & 0x2000 != 0;
    let offset = usize::from(flags & 0x1fff) * 8;
    let l4 = ETH_LEN + header_len;
    let l4_len = total - header_len;
    if more || offset != 0 {
        return Ok(Parsed::Fragment(Fragment {
            src,
            dst,
            id: u32::from(be16(ip, 4)),
            protocol,
            offset,
            more,
            l3: ETH_LEN,
            unfragmentable_len: header_len,
            next_header_at: 0,
            data: l4,
            data_len: l4_len,
        }));
    }
    let packet = Packet {
        src_mac,
        dst_mac,
        src,
        dst,
        ttl: ip[8],
        tos: ip[1],
        dont_fragment: flags & 0x4000 != 0,
        l3: ETH_LEN,
        l4,
        payload: l4,
        payload_len: l4_len,
        transport: Transport::Other(protocol),
    };
    packet.with_transport(head, protocol).map(Parsed::Ip)
}

fn parse_v6(head: &[u8], frame_len: usize, src_mac: Mac, dst_mac: Mac) -> Result<Parsed, DropReason> {
    let ip = &head[ETH_LEN..];
    if ip.len() < IPV6_LEN || ip[0] >> 4 != 6 {
        return Err(DropReason::IpHeader);
    }
    let end = ETH_LEN + IPV6_LEN + usize::from(be16(ip, 4));
    if end > frame_len {
        return Err(DropReason::IpHeader);
    }
    let addr = |at: usize| Addr::v6(ip[at..at + 16].try_into().expect("16 bytes"));
    let (src, dst) = (addr(8), addr(24));
    if src.is_v4() || dst.is_v4() {
        return Err(if src.is_v4() { DropReason::SourceAddress } else { DropReason::DestinationAddress });
    }
    check_addresses(&src, &dst)?;
    let tos = (be16(ip, 0) >> 4) as u8;

    let (next, at) = match extension_headers(head, end)? {
        Chain::Transport { protocol, at } => (protocol, at),
        Chain::Fragment { at, named_at } => {
            let field = be16(head, at + 2);
            return Ok(Parsed::Fragment(Fragment {
                src,
                dst,
                id: be32(head, at + 4),
                protocol: head[at],
                offset: usize::from(field & 0xfff8),
                more: field & 1 != 0,
                l3: ETH_LEN,
                unfragmentable_len: at - ETH_LEN,
                next_header_at: named_at,
                data: at + FRAGMENT_LEN,
                data_len: end - (at + FRAGMENT_LEN),
            }));
        }
    };
    let packet = Packet {
        src_mac,
        dst_mac,
        src,
        dst,
        ttl: ip[7],
        tos,
        dont_fragment: true,
        l3: ETH_LEN,
        l4: at,
        payload: at,
        payload_len: end - at,
        transport: Transport::Other(next),
    };
    packet.with_transport(head, next).map(Parsed::Ip)
}

/// Where a chain of extension headers leads, `at` bytes into the frame.
enum Chain {
    Transport {
        protocol: u8,
        at: usize,
    },
    /// To a fragment header, whole; `named_at`: the next-header byte that names it.
    Fragment {
        at: usize,
        named_at: usize,
    },
}

/// Walks the headers behind the IPv6 header, each naming the next (RFC 8200 §4). `end`: of the packet, in the frame.
fn extension_headers(head: &[u8], end: usize) -> Result<Chain, DropReason> {
    let mut next_at = ETH_LEN + 6;
    let mut next = head[next_at];
    let mut at = ETH_LEN + IPV6_LEN;
    for _ in 0..EXTENSION_HEADERS_MAX {
        let fixed = || if at + 8 <= end.min(head.len()) { Ok(()) } else { Err(DropReason::ExtensionHeader) };
        let len = match next {
            PROTO_FRAGMENT => {
                fixed()?;
                // An atomic fragment is a whole packet (RFC 6946).
                if be16(head, at + 2) & 0xfff9 != 0 {
                    return Ok(Chain::Fragment { at, named_at: next_at });
                }
                FRAGMENT_LEN
            }
            _ if is_extension(next) => {
                fixed()?;
                // RFC 8200 §4.4: a routing header with segments left is for a router; we are none.
                if next == ROUTING && head[at + 3] != 0 {
                    return Err(DropReason::ExtensionHeader);
                }
                // In units of 8 bytes, not counting the first.
                (usize::from(head[at + 1]) + 1) * 8
            }
            NO_NEXT_HEADER => return Err(DropReason::Protocol),
            _ => break,
        };
        next = head[at];
        next_at = at;
        at += len;
        if at > end || at > head.len() {
            return Err(DropReason::ExtensionHeader);
        }
    }
    if is_extension(next) { Err(DropReason::ExtensionHeader) } else { Ok(Chain::Transport { protocol: next, at }) }
}

/// Extension headers walked before giving up: more than any sender uses (RFC 8504 §5.3 suggests a limit).
const EXTENSION_HEADERS_MAX: usize = 8;

const ROUTING: u8 = 43;
const FRAGMENT_LEN: usize = 8;
const NO_NEXT_HEADER: u8 = 59;

/// Hop-by-hop options, routing, fragment, destination options, mobility, HIP, shim6.
fn is_extension(protocol: u8) -> bool {
    matches!(protocol, 0 | ROUTING | PROTO_FRAGMENT | 60 | 135 | 139 | 140)
}

fn check_addresses(src: &Addr, dst: &Addr) -> Result<(), DropReason> {
    if src.is_loopback() || src.is_multicast() || src.is_limited_broadcast() {
        return Err(DropReason::SourceAddress);
    }
    if dst.is_loopback() || dst.is_unspecified() {
        return Err(DropReason::DestinationAddress);
    }
    Ok(())
}

impl Packet {
    fn with_transport(mut self, head: &[u8], protocol: u8) -> Result<Packet, DropReason> {
        let l4_len = self.payload_len;
        let v4 = self.src.is_v4();
        let need = match protocol {
            PROTO_TCP => TCP_LEN,
            PROTO_UDP => UDP_LEN,
            PROTO_ICMP if v4 => 4,
            PROTO_ICMPV6 if !v4 => 4,
            // ICMP of the other family is no protocol here.
            _ => return Ok(self),
        };
        let h = head.get(self.l4..).filter(|h| h.len() >= need && l4_len >= need).ok_or(DropReason::TransportHeader)?;
        let header_len = match protocol {
            PROTO_TCP => {
                let len = usize::from(h[12] >> 4) * 4;
                if len < TCP_LEN || len > l4_len || len > h.len() {
                    return Err(DropReason::TransportHeader);
                }
                self.transport = Transport::Tcp(tcp_header(&h[..len]));
                len
            }
            PROTO_UDP => {
                // RFC 768: the length field counts the header; bytes after it are not payload.
                let len = usize::from(be16(h, 4));
                if len < UDP_LEN || len > l4_len {
                    return Err(DropReason::TransportHeader);
                }
                self.payload_len = len;
                self.transport = Transport::Udp(UdpHeader { src_port: be16(h, 0), dst_port: be16(h, 2) });
                UDP_LEN
            }
            _ => {
                self.transport = Transport::Icmp(IcmpHeader { kind: h[0], code: h[1] });
                4
            }
        };
        self.payload = self.l4 + header_len;
        self.payload_len -= header_len;
        Ok(self)
    }

    /// The SACK blocks of a TCP segment, of the slice that [`parse`] read; empty: it has none.
    pub fn sack<'a>(&self, head: &'a [u8]) -> &'a [u8] {
        let Transport::Tcp(TcpHeader { sack, .. }) = self.transport else { return &[] };
        let start = self.l4 + usize::from(sack.at);
        &head[start..start + usize::from(sack.len)]
    }

    /// The sum that must be valid once the payload is added to it, or `None` when there is nothing to verify: the
    /// checksum is still to be filled in, is vouched for, or is absent (UDP).
    ///
    /// `head` is the slice [`parse`] read. The header part has even length, so payload bytes can be added in order.
    pub fn checksum_sum(&self, head: &[u8], offload: &Offload) -> Option<Sum> {
        if offload.csum != Csum::Complete {
            return None;
        }
        let proto = match self.transport {
            Transport::Tcp(_) => PROTO_TCP,
            // None was made (RFC 768). IPv6 allows that to tunnels only, which a middlebox must let pass (RFC 6936 §5).
            Transport::Udp(_) if be16(head, self.l4 + 6) == 0 => return None,
            Transport::Udp(_) => PROTO_UDP,
            Transport::Icmp(_) if self.src.is_v4() => return Some(Sum::new().add(&head[self.l4..self.payload])),
            Transport::Icmp(_) => PROTO_ICMPV6,
            Transport::Other(_) => return None,
        };
        let l4_len = self.payload - self.l4 + self.payload_len;
        Some(Sum::pseudo(&self.src, &self.dst, proto, l4_len).add(&head[self.l4..self.payload]))
    }
}

fn tcp_header(h: &[u8]) -> TcpHeader {
    let flags = TcpFlags::from_bits_retain(h[13]);
    let (options, sack) = TcpOptions::read(&h[TCP_LEN..], flags.contains(TcpFlags::SYN));
    TcpHeader {
        src_port: be16(h, 0),
        dst_port: be16(h, 2),
        seq: be32(h, 4),
        ack: be32(h, 8),
        flags,
        window: be16(h, 14),
        options,
        sack,
    }
}

#[cfg(test)]
mod tests;
