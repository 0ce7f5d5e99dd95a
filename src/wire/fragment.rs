//! Cutting a packet that is larger than the guest's MTU into fragments (RFC 791 §2.3, RFC 8200 §4.5).

use std::ops::Range;

use super::checksum::Sum;
use super::emit::{self, Head, IpFields};
use super::{ETH_LEN, IPV4_LEN, IPV6_LEN, PROTO_FRAGMENT};

/// Length of the IPv6 fragment header, and the unit of offsets in both families.
const UNIT: usize = 8;

/// Calls `each` with the headers (Ethernet on) of every fragment, in order, and the part of the transport segment that
/// follows them, until it returns false. `l4_len`: the segment with its header; its checksum must be complete. `id`:
/// the same for all fragments and for no other packet of these addresses for a while; IPv4 takes the low 16 bits.
pub fn cut(
    f: &IpFields,
    proto: u8,
    l4_len: usize,
    mtu: u16,
    id: u32,
    mut each: impl FnMut(&Head, Range<usize>) -> bool,
) {
    let overhead = if f.src.is_v4() { IPV4_LEN } else { IPV6_LEN + UNIT };
    let most = (usize::from(mtu).saturating_sub(overhead) & !(UNIT - 1)).max(UNIT);
    let mut at = 0;
    loop {
        let end = l4_len.min(at + most);
        let head = fragment_head(f, proto, at, end - at, end < l4_len, id);
        if !each(&head, at..end) || end == l4_len {
            break;
        }
        at = end;
    }
}

fn fragment_head(f: &IpFields, proto: u8, at: usize, len: usize, more: bool, id: u32) -> Head {
    let mut head = Head::new();
    if f.src.is_v4() {
        emit::ip(&mut head, &IpFields { id: id as u16, ..*f }, proto, len);
        let ip = &mut head[ETH_LEN..];
        // Flags: don't-fragment cleared, more-fragments on all but the last.
        let field = (at / UNIT) as u16 | u16::from(more) << 13;
        ip[6..8].copy_from_slice(&field.to_be_bytes());
        ip[10..12].fill(0);
        let sum = Sum::new().add(ip).checksum();
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
    } else {
        emit::ip(&mut head, f, PROTO_FRAGMENT, UNIT + len);
        let field = at as u16 | u16::from(more);
        let mut h = [0; UNIT];
        h[0] = proto;
        h[2..4].copy_from_slice(&field.to_be_bytes());
        h[4..8].copy_from_slice(&id.to_be_bytes());
        head.try_extend_from_slice(&h).expect("HEAD_MAX has room for a fragment header");
    }
    head
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Addr, Mac};
    use crate::wire::{PROTO_UDP, Parsed, parse};

    #[test]
    fn fragments_cover_the_segment_and_fit() {
        for v4 in [true, false] {
            let (src, dst) = if v4 {
                (Addr::v4([10, 0, 0, 1]), Addr::v4([10, 0, 0, 2]))
            } else {
                (Addr::v6([0x20; 16]), Addr::v6([0x21; 16]))
            };
            let f = IpFields { src_mac: Mac([2; 6]), dst_mac: Mac([4; 6]), src, dst, ttl: 9, tos: 4, id: 0 };
            for (l4_len, mtu) in [(1481, 1500), (4000, 1281), (65_515, 1500), (65_000, 9001), (3000, 68)] {
                let (mut next, mut last) = (0, false);
                cut(&f, PROTO_UDP, l4_len, mtu, 0x1_2345, |head, range| {
                    let mut frame = head.to_vec();
                    frame.resize(head.len() + range.len(), 0);
                    assert!(frame.len() - ETH_LEN <= usize::from(mtu));
                    let Ok(Parsed::Fragment(fr)) = parse(&frame, frame.len()) else { panic!("no fragment") };
                    assert!(!last && range.start == next && fr.offset == next && fr.data_len == range.len());
                    assert_eq!(fr.id, if v4 { 0x2345 } else { 0x1_2345 });
                    assert_eq!((fr.protocol, fr.data), (PROTO_UDP, head.len()));
                    last = !fr.more;
                    next = range.end;
                    true
                });
                assert!(last && next == l4_len);
            }
        }
    }
}
