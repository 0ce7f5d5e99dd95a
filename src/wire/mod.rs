//! Bytes ⇄ typed views. Pure: no I/O, no clock, no state.

pub mod arp;
pub mod checksum;
pub mod dhcp;
pub mod dhcpv6;
pub mod emit;
pub mod fragment;
pub mod icmp;
pub mod name;
pub mod ndp;
mod packet;
pub mod pcap;
pub mod pcapng;
mod tcp_options;
pub mod vnet;

use crate::base::Family;

pub use packet::{Fragment, IcmpHeader, Packet, Parsed, TcpFlags, TcpHeader, Transport, UdpHeader, parse};
pub use tcp_options::{
    SACK_BLOCKS_MAX, SACK_BLOCKS_MAX_STAMPED, STAMP_LEN, SackBlocks, SackPlace, TcpOptions, Timestamps,
};
pub use vnet::{Csum, Gso, Offload};

/// Length of an Ethernet II header.
pub const ETH_LEN: usize = 14;
pub const ETHERTYPE_IPV4: u16 = 0x0800;
pub const ETHERTYPE_ARP: u16 = 0x0806;
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
pub const IPV4_LEN: usize = 20;
pub const IPV6_LEN: usize = 40;
pub const TCP_LEN: usize = 20;
pub const UDP_LEN: usize = 8;

pub const PROTO_ICMP: u8 = 1;
pub const PROTO_TCP: u8 = 6;
pub const PROTO_UDP: u8 = 17;
pub const PROTO_ICMPV6: u8 = 58;
/// The IPv6 fragment header, where a protocol number stands.
pub const PROTO_FRAGMENT: u8 = 44;

/// Longest Ethernet frame the program handles: header and the largest IP packet. The length field of IPv6 does not count
/// its header.
pub const FRAME_MAX: usize = ETH_LEN + IPV6_LEN + 65535;

/// Length of an IP header without options or extension headers.
pub const fn ip_len(family: Family) -> usize {
    match family {
        Family::V4 => IPV4_LEN,
        Family::V6 => IPV6_LEN,
    }
}

/// Big-endian 16 bits at `at`; callers have checked the length.
pub(crate) fn be16(b: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([b[at], b[at + 1]])
}

/// Big-endian 32 bits at `at`; callers have checked the length.
pub(crate) fn be32(b: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}
