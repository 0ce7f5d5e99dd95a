//! What of a guest's packet is carried over to the host's socket, and what is kept of it for an error that may come back.

use arrayvec::ArrayVec;

use crate::sys::fields::SendFields;
use crate::wire::checksum::Sum;
use crate::wire::{self, Csum, IPV4_LEN, IPV6_LEN, Packet};

/// IP header and first eight transport bytes of the last packet a flow sent.
#[derive(Clone, Debug)]
pub struct SentHeader {
    bytes: ArrayVec<u8, LEN_MAX>,
    /// Where the transport header starts.
    l4: u8,
    /// Bytes behind the eight of the transport header.
    body_len: u16,
    /// The length fields do not say so: the packet was cut, or its extension headers left out.
    lengths_differ: bool,
    /// The transport checksum was left to the host.
    partial: bool,
}

impl SentHeader {
    /// `l4`: the first eight bytes of the transport header; `body_len`: how many bytes of the packet followed them in
    /// the datagram that went out, which for a segmented frame is one segment.
    pub fn new(p: &Packet, head: &[u8], l4: [u8; 8], body_len: usize, csum: Csum) -> SentHeader {
        let mut bytes = ArrayVec::new();
        let whole = p.l4 - p.l3 <= LEN_MAX - l4.len();
        // Long IPv6 extension headers are left out: no receiver of an error looks for a flow in them.
        let ip_len = if whole { p.l4 - p.l3 } else { IPV6_LEN };
        bytes.extend(head[p.l3..p.l3 + ip_len].iter().copied());
        if !whole {
            bytes[6] = match p.transport {
                wire::Transport::Udp(_) => wire::PROTO_UDP,
                wire::Transport::Tcp(_) => wire::PROTO_TCP,
                wire::Transport::Icmp(_) => wire::PROTO_ICMPV6,
                wire::Transport::Other(n) => n,
            };
        }
        bytes.extend(l4);
        let sent = p.payload - p.l4 + p.payload_len;
        SentHeader {
            bytes,
            l4: ip_len as u8,
            body_len: body_len as u16,
            lengths_differ: !whole || sent != l4.len() + body_len,
            partial: matches!(csum, Csum::Partial { .. }),
        }
    }

    /// Bytes behind the first eight of the transport header.
    pub fn body_len(&self) -> usize {
        usize::from(self.body_len)
    }

    /// Writes the packet as the guest wrote it, as far as it is known, into `out` (cleared first). `l4`: the transport
    /// header, if the one that came back is better than the last one sent; `body`: what came back behind it.
    pub fn quote(&self, out: &mut Vec<u8>, l4: Option<[u8; 8]>, body: &[u8], udp: bool) {
        out.clear();
        out.extend_from_slice(&self.bytes);
        out.extend_from_slice(body);
        let at = usize::from(self.l4);
        if let Some(l4) = l4 {
            out[at..at + 8].copy_from_slice(&l4);
        }
        let v4 = out[0] >> 4 == 4;
        // More came back than the last datagram held: the error is about an earlier one, of unknown length.
        let longer = body.len() > usize::from(self.body_len);
        let body_len = usize::from(self.body_len).max(body.len());
        if longer || self.lengths_differ {
            let l4_len = 8 + body_len;
            if v4 {
                out[2..4].copy_from_slice(&((at + l4_len) as u16).to_be_bytes());
                out[10..12].fill(0);
                let sum = Sum::new().add(&out[..at]).checksum();
                out[10..12].copy_from_slice(&sum.to_be_bytes());
            } else {
                out[4..6].copy_from_slice(&((at - IPV6_LEN + l4_len) as u16).to_be_bytes());
            }
            if udp {
                out[at + 4..at + 6].copy_from_slice(&(l4_len as u16).to_be_bytes());
            }
        }
        if udp && (longer || self.lengths_differ || self.partial) {
            self.restore_udp_checksum(out, v4, body.len() == body_len);
        }
    }

    fn restore_udp_checksum(&self, out: &mut [u8], v4: bool, whole: bool) {
        let at = usize::from(self.l4);
        out[at + 6..at + 8].fill(0);
        if whole {
            let addresses = if v4 { &out[12..IPV4_LEN] } else { &out[8..IPV6_LEN] };
            let l4_len = out.len() - at;
            let sum = Sum::new().add(addresses).add_u16(u16::from(wire::PROTO_UDP)).add_u32(l4_len as u32);
            let value = match sum.add(&out[at..]).checksum() {
                0 => 0xffff,
                v => v,
            };
            out[at + 6..at + 8].copy_from_slice(&value.to_be_bytes());
        }
    }
}

/// The guest's TTL, TOS and don't-fragment for a datagram socket that has `old`. `size`: of one IP packet, in bytes.
///
/// Don't-fragment is honoured, so that the guest learns the path MTU (RFC 1191, RFC 8201), with two exceptions: what the
/// guest fragmented itself, and large packets with an ordinary TTL, which a guest whose link MTU is large sends without
/// knowing, or to a group. A flow keeps an exception, so that sizes in turn do not cost a system call each.
pub fn send_fields(p: &Packet, size: usize, old: Option<&SendFields>) -> SendFields {
    // No error comes back from a group (RFC 1112 §7.2), and its TTL is one unless somebody says otherwise.
    let ordinary =
        !p.dst.is_unicast() || p.ttl > PROBE_TTL && (size > COMMON_MTU || old.is_some_and(|f| !f.refuse_oversized));
    SendFields { ttl: p.ttl, tos: p.tos, refuse_oversized: p.dont_fragment && !ordinary }
}

/// A path probe (traceroute, tracepath) counts TTLs up from one; other packets start at 64 or above.
const PROBE_TTL: u8 = 32;
/// Ethernet's. Above it nobody probes for path MTU with ordinary traffic.
pub const COMMON_MTU: usize = 1500;

/// The longest IPv4 header and eight bytes.
const LEN_MAX: usize = 68;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Addr, Mac};
    use crate::wire::emit::{self, Head, IpFields, PayloadSum};
    use crate::wire::{ETH_LEN, Parsed};

    fn frame(v4: bool, payload: &[u8], sum: PayloadSum) -> Vec<u8> {
        let (src, dst) = if v4 {
            (Addr::v4([10, 0, 0, 1]), Addr::v4([10, 0, 0, 2]))
        } else {
            (Addr::v6([0x20; 16]), Addr::v6([0x21; 16]))
        };
        let f = IpFields { src_mac: Mac([2; 6]), dst_mac: Mac([4; 6]), src, dst, ttl: 9, tos: 4, id: 7 };
        let mut head = Head::new();
        emit::udp(&mut head, &f, (5, 6), payload.len(), sum);
        [&head, payload].concat()
    }

    fn sent(frame: &[u8], body_len: usize, csum: Csum) -> SentHeader {
        let Ok(Parsed::Ip(p)) = wire::parse(frame, frame.len()) else { panic!() };
        SentHeader::new(&p, frame, frame[p.l4..p.l4 + 8].try_into().unwrap(), body_len, csum)
    }

    #[test]
    fn what_goes_to_a_group_is_not_refused_for_its_size() {
        for (dst, refuses) in [([239, 1, 2, 3], false), ([10, 0, 0, 2], true)] {
            let f = IpFields {
                src_mac: Mac([2; 6]),
                dst_mac: Mac([4; 6]),
                src: Addr::v4([10, 0, 0, 1]),
                dst: Addr::v4(dst),
                ttl: 1,
                tos: 0,
                id: 0,
            };
            let mut head = Head::new();
            emit::udp(&mut head, &f, (5, 6), 2000, PayloadSum::Partial);
            let frame = [&head, &[0; 2000][..]].concat();
            let Ok(Parsed::Ip(p)) = wire::parse(&frame, frame.len()) else { panic!() };
            assert_eq!(send_fields(&p, 2028, None).refuse_oversized, refuses);
        }
    }

    #[test]
    fn the_quote_is_what_the_guest_would_have_put_on_a_wire() {
        for v4 in [true, false] {
            let payload = b"twelve bytes";
            let complete = frame(v4, payload, PayloadSum::Of(Sum::new().add(payload)));
            let mut out = Vec::new();
            sent(&complete, 12, Csum::Complete).quote(&mut out, None, payload, true);
            assert_eq!(out, complete[ETH_LEN..]);
            // Only a part of it came back.
            sent(&complete, 12, Csum::Complete).quote(&mut out, None, b"twel", true);
            assert_eq!(out, complete[ETH_LEN..complete.len() - 8]);
            // The guest left the checksum to us.
            let partial = frame(v4, payload, PayloadSum::Partial);
            sent(&partial, 12, Csum::Partial { start: 0, offset: 0 }).quote(&mut out, None, payload, true);
            assert_eq!(out, complete[ETH_LEN..]);
            // It was one segment of a larger frame.
            let double = frame(v4, b"twelve bytestwelve bytes", PayloadSum::Partial);
            sent(&double, 12, Csum::Partial { start: 0, offset: 0 }).quote(&mut out, None, payload, true);
            assert_eq!(out, complete[ETH_LEN..]);
        }
    }
}
