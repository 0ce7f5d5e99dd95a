//! ARP over Ethernet for IPv4 (RFC 826).

use super::{ETH_LEN, ETHERTYPE_ARP, ETHERTYPE_IPV4, be16};
use crate::base::{Addr, Mac};

pub const REQUEST: u16 = 1;
pub const REPLY: u16 = 2;

/// Bytes of an Ethernet/IPv4 ARP packet.
pub const ARP_LEN: usize = 28;

/// Shortest Ethernet frame without its checksum (IEEE 802.3): what is shorter is padded with zeros.
pub const FRAME_MIN: usize = 60;

const HTYPE_ETHERNET: u16 = 1;

/// An ARP packet. `sender` and `target` are IPv4 addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arp {
    /// [`REQUEST`], [`REPLY`] or another operation.
    pub op: u16,
    pub sender_mac: Mac,
    pub sender: Addr,
    /// Meaningless in requests (RFC 5227 §1.1).
    pub target_mac: Mac,
    pub target: Addr,
}

/// Reads the packet after the Ethernet header; trailing padding is ignored. `None` if it is cut short or for other
/// hardware or protocol types or address lengths.
pub fn parse(b: &[u8]) -> Option<Arp> {
    let b = b.get(..ARP_LEN)?;
    if be16(b, 0) != HTYPE_ETHERNET || be16(b, 2) != ETHERTYPE_IPV4 || b[4] != 6 || b[5] != 4 {
        return None;
    }
    let mac = |at: usize| Mac([b[at], b[at + 1], b[at + 2], b[at + 3], b[at + 4], b[at + 5]]);
    let addr = |at: usize| Addr::v4([b[at], b[at + 1], b[at + 2], b[at + 3]]);
    Some(Arp { op: be16(b, 6), sender_mac: mac(8), sender: addr(14), target_mac: mac(18), target: addr(24) })
}

impl Arp {
    /// The whole frame, from `src` to `dst`, padded.
    pub fn emit(&self, src: Mac, dst: Mac) -> [u8; FRAME_MIN] {
        let mut f = [0; FRAME_MIN];
        f[..6].copy_from_slice(&dst.0);
        f[6..12].copy_from_slice(&src.0);
        f[12..14].copy_from_slice(&ETHERTYPE_ARP.to_be_bytes());
        let b = &mut f[ETH_LEN..];
        b[..2].copy_from_slice(&HTYPE_ETHERNET.to_be_bytes());
        b[2..4].copy_from_slice(&ETHERTYPE_IPV4.to_be_bytes());
        b[4..6].copy_from_slice(&[6, 4]);
        b[6..8].copy_from_slice(&self.op.to_be_bytes());
        b[8..14].copy_from_slice(&self.sender_mac.0);
        b[14..18].copy_from_slice(&self.sender.octets()[12..]);
        b[18..24].copy_from_slice(&self.target_mac.0);
        b[24..28].copy_from_slice(&self.target.octets()[12..]);
        f
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOLDEN: [u8; FRAME_MIN] = [
        0x52, 0x54, 0, 1, 2, 3, 0x9a, 0x55, 0x9a, 0x55, 0x9a, 0x55, 8, 6, // Ethernet
        0, 1, 8, 0, 6, 4, 0, 2, // Ethernet, IPv4, reply
        0x9a, 0x55, 0x9a, 0x55, 0x9a, 0x55, 192, 0, 2, 1, // sender
        0x52, 0x54, 0, 1, 2, 3, 192, 0, 2, 7, // target
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];

    fn golden() -> Arp {
        Arp {
            op: REPLY,
            sender_mac: Mac([0x9a, 0x55, 0x9a, 0x55, 0x9a, 0x55]),
            sender: Addr::v4([192, 0, 2, 1]),
            target_mac: Mac([0x52, 0x54, 0, 1, 2, 3]),
            target: Addr::v4([192, 0, 2, 7]),
        }
    }

    #[test]
    fn golden_bytes_both_ways() {
        let a = golden();
        assert_eq!(a.emit(a.sender_mac, a.target_mac), GOLDEN);
        assert_eq!(parse(&GOLDEN[ETH_LEN..]), Some(a));
    }

    #[test]
    fn etherparse_reads_what_we_write() {
        let a = golden();
        let f = a.emit(a.sender_mac, a.target_mac);
        let p = etherparse::ArpPacketSlice::from_slice(&f[ETH_LEN..]).unwrap();
        assert_eq!(p.operation(), etherparse::ArpOperation::REPLY);
        assert_eq!((p.sender_hw_addr(), p.sender_protocol_addr()), (&a.sender_mac.0[..], &[192, 0, 2, 1][..]));
        assert_eq!((p.target_hw_addr(), p.target_protocol_addr()), (&a.target_mac.0[..], &[192, 0, 2, 7][..]));
    }

    #[test]
    fn other_types_and_lengths_are_refused() {
        for (at, value) in [(1, 6), (2, 0x86), (4, 8), (5, 16)] {
            let mut b = GOLDEN[ETH_LEN..].to_vec();
            b[at] = value;
            assert_eq!(parse(&b), None, "byte {at}");
        }
        assert_eq!(parse(&GOLDEN[ETH_LEN..ETH_LEN + 27]), None);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(b in proptest::collection::vec(proptest::num::u8::ANY, 0..64)) {
            if let Some(a) = parse(&b) {
                assert_eq!(a.emit(Mac::ZERO, Mac::ZERO)[ETH_LEN..ETH_LEN + ARP_LEN], b[..ARP_LEN]);
            }
        }
    }
}
