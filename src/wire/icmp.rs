//! ICMP errors to the guest (RFC 792, RFC 1812 §4.3.2, RFC 4443 §2.4), quoting the guest's own bytes unchanged.

use super::checksum::Sum;
use super::emit::{self, Head, IpFields};
use super::{ETH_LEN, IPV4_LEN, IPV6_LEN, PROTO_ICMP, PROTO_ICMPV6};
use crate::base::Family;

pub const ECHO_V4: u8 = 8;
pub const ECHO_REPLY_V4: u8 = 0;
pub const ECHO_V6: u8 = 128;
pub const ECHO_REPLY_V6: u8 = 129;

/// Length of every ICMP header here: type, code, checksum, four bytes that depend on the type.
pub const ICMP_LEN: usize = 8;

/// Type, code and second word of an ICMP error, in the numbers of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorKind {
    pub kind: u8,
    pub code: u8,
    /// MTU of a too-big message, zero of the others.
    pub rest: u32,
}

impl ErrorKind {
    pub fn net_unreachable(f: Family) -> ErrorKind {
        by_family(f, (3, 0), (1, 0))
    }

    pub fn host_unreachable(f: Family) -> ErrorKind {
        by_family(f, (3, 1), (1, 3))
    }

    pub fn port_unreachable(f: Family) -> ErrorKind {
        by_family(f, (3, 3), (1, 4))
    }

    /// Communication administratively prohibited (RFC 1812 §5.2.7.1, RFC 4443 §3.1).
    pub fn prohibited(f: Family) -> ErrorKind {
        by_family(f, (3, 13), (1, 1))
    }

    /// Fragmentation needed (RFC 1191 §4, MTU in the low 16 bits) or packet too big (RFC 4443 §3.2).
    pub fn too_big(f: Family, mtu: u32) -> ErrorKind {
        match f {
            Family::V4 => ErrorKind { kind: 3, code: 4, rest: mtu.min(0xffff) },
            Family::V6 => ErrorKind { kind: 2, code: 0, rest: mtu },
        }
    }

    /// An error that reached the host, as it is to reach the guest; `info` is the MTU of a too-big message. `None` for
    /// what a guest has no use for (redirects, source quench) or that speaks of headers the guest did not write.
    pub fn relayed(f: Family, kind: u8, code: u8, info: u32) -> Option<ErrorKind> {
        match (f, kind, code) {
            (Family::V4, 3, 4) | (Family::V6, 2, _) => Some(ErrorKind::too_big(f, info)),
            (Family::V4, 3, 0..=15) | (Family::V4, 11, 0) | (Family::V6, 1, 0..=7) | (Family::V6, 3, 0) => {
                Some(ErrorKind { kind, code, rest: 0 })
            }
            // Unrecognized next header: where the guest's own header names it, not where the quoting router saw it.
            (Family::V6, 4, 1) => Some(ErrorKind { kind, code, rest: 6 }),
            _ => None,
        }
    }

    /// The same for a guest of the other family than `f`, which is the error's (RFC 7915 §4.2, §5.2): the packets differ
    /// by the length of their IP headers, and what has no counterpart is not told.
    pub fn translated(f: Family, kind: u8, code: u8, info: u32) -> Option<ErrorKind> {
        const LONGER: u32 = (IPV6_LEN - IPV4_LEN) as u32;
        let (kind, code, rest) = match (f, kind, code) {
            (Family::V4, 3, 4) => return Some(ErrorKind::too_big(Family::V6, info.saturating_add(LONGER))),
            (Family::V6, 2, _) => return Some(ErrorKind::too_big(Family::V4, info.saturating_sub(LONGER))),
            (Family::V4, 3, 0 | 1 | 5..=8 | 11 | 12) => (1, 0, 0),
            (Family::V4, 3, 2) => (4, 1, 6),
            (Family::V4, 3, 3) => (1, 4, 0),
            (Family::V4, 3, 9 | 10 | 13 | 15) => (1, 1, 0),
            (Family::V4, 11, 0) => (3, 0, 0),
            (Family::V6, 1, 0 | 2 | 3) => (3, 1, 0),
            (Family::V6, 1, 1) => (3, 10, 0),
            (Family::V6, 1, 4) => (3, 3, 0),
            (Family::V6, 3, 0) => (11, 0, 0),
            (Family::V6, 4, 1) => (3, 2, 0),
            _ => return None,
        };
        Some(ErrorKind { kind, code, rest })
    }
}

/// How many bytes of the original packet an error quotes at most: the error must not exceed 576 bytes (RFC 1812
/// §4.3.2.3) or the minimum IPv6 MTU (RFC 4443 §2.4 c).
pub fn quote_max(f: Family) -> usize {
    match f {
        Family::V4 => 576 - IPV4_LEN - ICMP_LEN,
        Family::V6 => 1280 - IPV6_LEN - ICMP_LEN,
    }
}

/// Writes a whole frame with an ICMP error into `out` (cleared first). `f.src` is who reports, `f.dst` who is told; both
/// of one family. `original` starts at the IP header of the packet in question, as the sender wrote it; what is over
/// [`quote_max`] is left out.
pub fn error(out: &mut Vec<u8>, f: &IpFields, kind: ErrorKind, original: &[u8]) {
    let family = f.src.family();
    let quote = &original[..original.len().min(quote_max(family))];
    let mut icmp = [0; ICMP_LEN];
    icmp[0] = kind.kind;
    icmp[1] = kind.code;
    icmp[4..8].copy_from_slice(&kind.rest.to_be_bytes());
    message(out, f, icmp, quote);
}

/// Writes a whole frame with an ICMP message into `out` (cleared first): `icmp` with a checksum of zero, then `body`.
pub fn message(out: &mut Vec<u8>, f: &IpFields, mut icmp: [u8; ICMP_LEN], body: &[u8]) {
    let len = ICMP_LEN + body.len();
    let proto = seal(f, &mut icmp, body);
    let mut head = Head::new();
    emit::ip(&mut head, f, proto, len);
    out.clear();
    out.extend_from_slice(&head);
    out.extend_from_slice(&icmp);
    out.extend_from_slice(body);
}

/// Fills in the checksum of an ICMP header and returns the protocol number of its family. ICMPv6 sums the
/// pseudo-header too (RFC 4443 §2.3).
pub fn seal(f: &IpFields, icmp: &mut [u8; ICMP_LEN], body: &[u8]) -> u8 {
    icmp[2..4].fill(0);
    let (proto, sum) = match f.src.family() {
        Family::V4 => (PROTO_ICMP, Sum::new()),
        Family::V6 => (PROTO_ICMPV6, Sum::pseudo(&f.src, &f.dst, PROTO_ICMPV6, ICMP_LEN + body.len())),
    };
    let sum = sum.add(&icmp[..]).add(body).checksum();
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    proto
}

/// Length of the frame around an error with the longest quote.
pub const ERROR_FRAME_MAX: usize = ETH_LEN + 1280;

fn by_family(f: Family, v4: (u8, u8), v6: (u8, u8)) -> ErrorKind {
    let (kind, code) = match f {
        Family::V4 => v4,
        Family::V6 => v6,
    };
    ErrorKind { kind, code, rest: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Addr, Mac};
    use etherparse::{PacketHeaders, TransportHeader};

    fn fields(v4: bool) -> IpFields {
        let (src, dst) = if v4 {
            (Addr::v4([192, 0, 2, 1]), Addr::v4([192, 0, 2, 7]))
        } else {
            (Addr::v6([0x20; 16]), Addr::v6([0x21; 16]))
        };
        IpFields { src_mac: Mac([2; 6]), dst_mac: Mac([4; 6]), src, dst, ttl: 64, tos: 0, id: 0 }
    }

    #[test]
    fn d32_etherparse_agrees_and_the_quote_is_unchanged() {
        let original: Vec<u8> = (0..2000u32).map(|i| (i * 7) as u8).collect();
        for (v4, whole, quoted) in [(true, 576, 548), (false, 1280, 1232)] {
            let f = fields(v4);
            let mut out = Vec::new();
            error(&mut out, &f, ErrorKind::too_big(f.src.family(), 1400), &original);
            assert_eq!(out.len(), ETH_LEN + whole);
            assert!(out.len() <= ERROR_FRAME_MAX);
            let p = PacketHeaders::from_ethernet_slice(&out).unwrap();
            let body = p.payload.slice();
            assert_eq!(body, &original[..quoted]);
            match p.transport.unwrap() {
                TransportHeader::Icmpv4(h) => {
                    assert_eq!(h.checksum, h.icmp_type.calc_checksum(body));
                    assert!(matches!(
                        h.icmp_type,
                        etherparse::Icmpv4Type::DestinationUnreachable(
                            etherparse::icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1400 }
                        )
                    ));
                }
                TransportHeader::Icmpv6(h) => {
                    let expect = h.icmp_type.calc_checksum([0x20; 16], [0x21; 16], body).unwrap();
                    assert_eq!(h.checksum, expect);
                    assert!(matches!(h.icmp_type, etherparse::Icmpv6Type::PacketTooBig { mtu: 1400 }));
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn d13_short_originals_are_quoted_without_padding() {
        let f = fields(true);
        let mut out = vec![1, 2, 3];
        error(&mut out, &f, ErrorKind::port_unreachable(Family::V4), &[0x45; 28]);
        assert_eq!(out.len(), ETH_LEN + IPV4_LEN + ICMP_LEN + 28);
        assert_eq!(&out[ETH_LEN + IPV4_LEN..][..2], &[3, 3]);
    }

    #[test]
    fn what_is_relayed() {
        use Family::{V4, V6};
        for (f, kind, code, expect) in [
            (V4, 3, 3, Some((3, 3, 0))),
            (V4, 3, 4, Some((3, 4, 900))),
            (V4, 11, 0, Some((11, 0, 0))),
            (V4, 5, 1, None),
            (V4, 4, 0, None),
            (V6, 1, 4, Some((1, 4, 0))),
            (V6, 2, 0, Some((2, 0, 900))),
            (V6, 3, 0, Some((3, 0, 0))),
            (V6, 137, 0, None),
        ] {
            let got = ErrorKind::relayed(f, kind, code, 900).map(|k| (k.kind, k.code, k.rest));
            assert_eq!(got, expect, "{f:?} {kind}/{code}");
        }
    }

    #[test]
    fn what_is_told_to_a_guest_of_the_other_family() {
        use Family::{V4, V6};
        for (f, kind, code, expect) in [
            (V4, 3, 0, Some((1, 0, 0))),
            (V4, 3, 3, Some((1, 4, 0))),
            (V4, 3, 4, Some((2, 0, 1420))),
            (V4, 3, 13, Some((1, 1, 0))),
            (V4, 3, 14, None),
            (V4, 11, 0, Some((3, 0, 0))),
            (V4, 5, 0, None),
            (V6, 1, 0, Some((3, 1, 0))),
            (V6, 1, 4, Some((3, 3, 0))),
            (V6, 2, 0, Some((3, 4, 1380))),
            (V6, 3, 0, Some((11, 0, 0))),
            (V6, 1, 5, None),
        ] {
            let got = ErrorKind::translated(f, kind, code, 1400).map(|k| (k.kind, k.code, k.rest));
            assert_eq!(got, expect, "{f:?} {kind}/{code}");
        }
    }
}
