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
        // RFC 6864 §4.1: an identification only where there may be fragments.
        h[6] = if f.id == 0 { 0x40 } else { 0 };
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
pub struct TcpFields {
    pub src: Endpoint,
    pub dst: Endpoint,
    pub seq: u32,
    pub ack: u32,
    pub flags: TcpFlags,
    /// As on the wire, already scaled.
    pub window: u16,
    pub options: TcpOptions,
    pub sack: SackBlocks,
}

/// The headers of a TCP segment with `payload_len` bytes of payload. Returns the checksum state for the offload header.
pub fn tcp(out: &mut Head, macs: (Mac, Mac), tos: u8, t: &TcpFields, payload_len: usize, sum: PayloadSum) -> Csum {
    let mut train = TcpTrain::new(macs, tos, t);
    let csum = train.segment(t.seq, t.flags, payload_len, sum);
    push(out, train.head());
    csum
}

/// The headers of segments in a row, which differ in sequence number, flags, length and checksum only: what they have in
/// common is summed once.
#[derive(Debug)]
pub struct TcpTrain<'a> {
    fields: &'a TcpFields,
    ip: IpFields,
    head: Head,
    /// Where the TCP header starts.
    l4: usize,
    /// Payload bytes that the IP header counts now.
    payload_len: usize,
    /// Over the pseudo-header, and over that and the TCP header with zeros for sequence number, flags and checksum.
    pseudo: Sum,
    common: Sum,
}

impl<'a> TcpTrain<'a> {
    /// `fields` without sequence number and flags.
    pub fn new(macs: (Mac, Mac), tos: u8, fields: &'a TcpFields) -> TcpTrain<'a> {
        let (src, dst) = (fields.src.addr, fields.dst.addr);
        let ip = IpFields { src_mac: macs.0, dst_mac: macs.1, src, dst, ttl: TTL, tos, id: 0 };
        let (pseudo, common) = (Sum::new(), Sum::new());
        TcpTrain { fields, ip, head: Head::new(), l4: 0, payload_len: 0, pseudo, common }
    }

    /// Sets the headers for a segment with `payload_len` bytes of payload, for [`TcpTrain::head`] to return. Returns the
    /// checksum state for the offload header.
    pub fn segment(&mut self, seq: u32, flags: TcpFlags, payload_len: usize, sum: PayloadSum) -> Csum {
        if self.head.is_empty() || payload_len != self.payload_len {
            self.begin(payload_len);
        }
        let (value, state) = match sum {
            PayloadSum::Partial => {
                (self.pseudo.folded(), Csum::Partial { start: self.l4 as u16, offset: TCP_CHECKSUM as u16 })
            }
            PayloadSum::Of(payload) => {
                let own = self.common.add_u32(seq).add_u16(u16::from(flags.bits()));
                (own.add_u16(payload.folded()).checksum(), Csum::Complete)
            }
        };
        let h = &mut self.head[self.l4..];
        h[4..8].copy_from_slice(&seq.to_be_bytes());
        h[13] = flags.bits();
        h[TCP_CHECKSUM..TCP_CHECKSUM + 2].copy_from_slice(&value.to_be_bytes());
        state
    }

    /// The headers of the last [`TcpTrain::segment`].
    pub fn head(&self) -> &[u8] {
        &self.head
    }

    fn begin(&mut self, payload_len: usize) {
        let t = self.fields;
        let options = t.options.write(&t.sack);
        let l4_len = TCP_LEN + options.len() + payload_len;
        self.head.clear();
        ip(&mut self.head, &self.ip, PROTO_TCP, l4_len);
        self.l4 = self.head.len();
        let mut h = [0u8; TCP_LEN];
        h[0..2].copy_from_slice(&t.src.port.to_be_bytes());
        h[2..4].copy_from_slice(&t.dst.port.to_be_bytes());
        h[8..12].copy_from_slice(&t.ack.to_be_bytes());
        h[12] = ((TCP_LEN + options.len()) as u8 / 4) << 4;
        h[14..16].copy_from_slice(&t.window.to_be_bytes());
        push(&mut self.head, &h);
        push(&mut self.head, &options);
        self.payload_len = payload_len;
        self.pseudo = Sum::pseudo(&self.ip.src, &self.ip.dst, PROTO_TCP, l4_len);
        self.common = self.pseudo.add(&self.head[self.l4..]);
    }
}

/// Where the checksum stands in a TCP header.
const TCP_CHECKSUM: usize = 16;

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
    let pseudo = Sum::pseudo(&f.src, &f.dst, PROTO_UDP, l4_len);
    let (value, state) = match sum {
        PayloadSum::Partial => (pseudo.folded(), Csum::Partial { start: at as u16, offset: UDP_CHECKSUM as u16 }),
        PayloadSum::Of(payload) => {
            let value = pseudo.add(&out[at..]).add_u16(payload.folded()).checksum();
            // RFC 768: an all-zero checksum means none was made.
            (if value == 0 { 0xffff } else { value }, Csum::Complete)
        }
    };
    out[at + UDP_CHECKSUM..at + UDP_CHECKSUM + 2].copy_from_slice(&value.to_be_bytes());
    state
}

/// Where the checksum stands in a UDP header.
const UDP_CHECKSUM: usize = 6;

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
                options: TcpOptions { mss: Some(1460), ..TcpOptions::default() },
                sack: SackBlocks::default(),
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

    proptest::proptest! {
        /// Whatever came before them, segments of a train are those that would have been made one by one.
        #[test]
        fn a_train_is_made_of_segments(
            segments in proptest::collection::vec((proptest::num::u32::ANY, 0..64u8, 0..70usize, proptest::bool::ANY), 1..9),
            six: bool,
        ) {
            let (a, b) = if six { (v6(1), v6(2)) } else { (Addr::v4([10, 0, 0, 1]), Addr::v4([10, 0, 0, 2])) };
            let fields = TcpFields {
                src: Endpoint::new(a, 80), dst: Endpoint::new(b, 4000), seq: 0, ack: 0x0102_0304,
                flags: TcpFlags::empty(), window: 777, options: TcpOptions { window_scale: Some(8), ..TcpOptions::default() }, sack: SackBlocks::default(),
            };
            let macs = (Mac([2; 6]), Mac([4; 6]));
            let mut train = TcpTrain::new(macs, 3, &fields);
            for (seq, flags, len, partial) in segments {
                let flags = TcpFlags::from_bits_retain(flags);
                let sum = if partial { PayloadSum::Partial } else { PayloadSum::Of(Sum::new().add(&vec![7; len])) };
                let csum = train.segment(seq, flags, len, sum);
                let mut alone = Head::new();
                let expected = tcp(&mut alone, macs, 3, &TcpFields { seq, flags, ..fields }, len, sum);
                proptest::prop_assert_eq!((train.head(), csum), (&alone[..], expected));
                if !partial {
                    let frame = [&alone[..], &vec![7; len]].concat();
                    let l4 = ETH_LEN + if six { IPV6_LEN } else { IPV4_LEN };
                    let whole = Sum::pseudo(&a, &b, PROTO_TCP, frame.len() - l4).add(&frame[l4..]);
                    proptest::prop_assert!(whole.is_valid());
                }
            }
        }
    }
}
