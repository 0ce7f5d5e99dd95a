//! Frames as any guest could send them: what the parser says of one is so, and etherparse says the same. Fragments, too, beside
//! a reassembly that is too simple to be wrong.

use std::collections::BTreeMap;
use std::time::Duration;

use etherparse::{NetHeaders, PacketHeaders, TcpHeader, TcpOptionElement, TransportHeader};
use spelt::base::{Addr, DropReason, Instant, Mac};
use spelt::guest::Frame;
use spelt::guest::reassembly::{Limits, Reassembly, Whole};
use spelt::wire::checksum::Sum;
use spelt::wire::emit::{self, Head, IpFields};
use spelt::wire::{self, ETH_LEN, FRAME_MAX, IPV4_LEN, Offload, PROTO_FRAGMENT, PROTO_TCP, Packet, Parsed};
use spelt::wire::{SackBlocks, TcpFlags, TcpOptions, Timestamps, Transport};

/// A frame, and how much of it the private copy has: nothing is made up of what is not there.
pub fn any(data: &[u8]) {
    let [how, frame @ ..] = data else { return };
    let mut frame = frame.to_vec();
    if how & 1 != 0 {
        make_checksum_right(&mut frame);
    }
    check(&frame);
    let part = frame.len() * usize::from(how >> 1) / 127;
    if let Ok(parsed) = wire::parse(&frame[..part], frame.len()) {
        let whole = wire::parse(&frame, frame.len()).expect("what is clear from a part is clear from the whole");
        assert_eq!(format!("{parsed:?}"), format!("{whole:?}"));
        if let Parsed::Ip(p) = parsed {
            assert!(p.payload <= part);
        }
    }
}

/// Whatever follows an IPv6 header, which names the first of it.
pub fn extensions(data: &[u8]) {
    let [next, rest @ ..] = data else { return };
    let mut head = Head::new();
    emit::ip(&mut head, &fields(false), *next, rest.len().min(65_535));
    check(&[&head, &rest[..rest.len().min(65_535)]].concat());
}

/// A segment with these flags and options; what is left over is its payload.
pub fn tcp_options(data: &[u8]) {
    let [flags, len, rest @ ..] = data else { return };
    let len = usize::from(len & 15).min(10) * 4;
    let (options, payload) = rest.split_at(rest.len().min(len));
    let mut segment = vec![0; 20 + len];
    segment[..4].copy_from_slice(&[0x12, 0x34, 0, 80]);
    (segment[12], segment[13]) = (((20 + len) << 2) as u8, *flags);
    segment[20..20 + options.len()].copy_from_slice(options);
    segment.extend_from_slice(&payload[..payload.len().min(1400)]);
    for v4 in [true, false] {
        let mut head = Head::new();
        emit::ip(&mut head, &fields(v4), PROTO_TCP, segment.len());
        check(&[&head, &segment[..]].concat());
    }
}

fn fields(v4: bool) -> IpFields {
    let addr = |n: u8| {
        if v4 { Addr::v4([10, 0, 0, n]) } else { Addr::v6([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, n]) }
    };
    IpFields { src_mac: Mac([2; 6]), dst_mac: Mac([4; 6]), src: addr(2), dst: addr(1), ttl: 64, tos: 0, id: 0 }
}

/// Hardly a frame would be seen behind its header otherwise.
fn make_checksum_right(frame: &mut [u8]) {
    let Some(ip) = frame.get_mut(ETH_LEN..).filter(|ip| ip.len() >= IPV4_LEN) else { return };
    let len = usize::from(ip[0] & 15) * 4;
    if let Some(header) = ip.get_mut(..len).filter(|h| h.len() >= IPV4_LEN) {
        header[10..12].fill(0);
        let sum = Sum::new().add(header).checksum();
        header[10..12].copy_from_slice(&sum.to_be_bytes());
    }
}

fn check(frame: &[u8]) {
    let theirs = PacketHeaders::from_ethernet_slice(frame);
    match wire::parse(frame, frame.len()) {
        Ok(Parsed::Ip(p)) => {
            assert!(p.l3 == ETH_LEN && p.l3 < p.l4 && p.l4 <= p.payload && p.payload + p.payload_len <= frame.len());
            assert!(!p.src.is_multicast() && !p.src.is_loopback() && !p.dst.is_loopback());
            if let Ok(theirs) = theirs {
                compare(&p, frame, &theirs);
            }
        }
        Ok(Parsed::Fragment(f)) => {
            assert!(f.l3 + f.unfragmentable_len <= f.data && f.data + f.data_len <= frame.len());
            assert!((f.offset != 0 || f.more) && f.offset.is_multiple_of(8) && f.next_header_at < f.data);
            if let Some(NetHeaders::Ipv4(ip, _)) = theirs.ok().and_then(|t| t.net) {
                assert_eq!((f.id, f.protocol), (u32::from(ip.identification), ip.protocol.0));
                assert_eq!((f.offset, f.more), (usize::from(ip.fragment_offset.byte_offset()), ip.more_fragments));
            }
        }
        Ok(Parsed::Arp { src_mac }) => assert!(src_mac.is_unicast() && frame[12..14] == [8, 6]),
        Err(reason) => {
            assert!(reason != DropReason::FrameLength || !(ETH_LEN..=FRAME_MAX).contains(&frame.len()));
            if let Ok(PacketHeaders {
                net: Some(NetHeaders::Ipv4(..)), transport: Some(TransportHeader::Tcp(_)), ..
            }) = theirs
            {
                assert!(!matches!(reason, DropReason::IpHeader | DropReason::TransportHeader), "{reason:?}");
            }
        }
    }
}

/// Both have read the packet: so they agree.
fn compare(p: &Packet, frame: &[u8], theirs: &PacketHeaders<'_>) {
    let (src, dst, ttl) = match theirs.net.as_ref().expect("a network header") {
        NetHeaders::Ipv4(ip, _) => (Addr::v4(ip.source), Addr::v4(ip.destination), ip.time_to_live),
        NetHeaders::Ipv6(ip, _) => (Addr::v6(ip.source), Addr::v6(ip.destination), ip.hop_limit),
        NetHeaders::Arp(_) => panic!("an IP packet is no ARP"),
    };
    assert_eq!((p.src, p.dst, p.ttl), (src, dst, ttl));
    let payload = &frame[p.payload..p.payload + p.payload_len];
    match (&p.transport, &theirs.transport) {
        (Transport::Tcp(h), Some(TransportHeader::Tcp(t))) => {
            assert_eq!((h.src_port, h.dst_port, h.seq), (t.source_port, t.destination_port, t.sequence_number));
            assert_eq!((h.ack, h.window), (t.acknowledgment_number, t.window_size));
            assert_eq!(h.flags.contains(TcpFlags::SYN), t.syn);
            assert_eq!(payload, theirs.payload.slice());
            if let Some(known) = options(t) {
                assert_eq!((h.options, SackBlocks::read(p.sack(frame))), known);
            }
            let sum = match theirs.net.as_ref() {
                Some(NetHeaders::Ipv4(ip, _)) => t.calc_checksum_ipv4(ip, payload),
                Some(NetHeaders::Ipv6(ip, _)) => t.calc_checksum_ipv6(ip, payload),
                _ => return,
            };
            // Theirs is made of the fields that they know, which reserved bits are none of.
            if frame[p.l4 + 12] & 0x0e == 0 {
                same_verdict(p, frame, sum.expect("it is short enough"), t.checksum);
            }
        }
        (Transport::Udp(h), Some(TransportHeader::Udp(u))) => {
            assert_eq!((h.src_port, h.dst_port), (u.source_port, u.destination_port));
            // Theirs ends with the packet, ours where the header says.
            assert!(payload.len() + 8 == usize::from(u.length) && theirs.payload.slice().starts_with(payload));
            let sum = match theirs.net.as_ref() {
                Some(NetHeaders::Ipv4(ip, _)) => u.calc_checksum_ipv4(ip, payload),
                Some(NetHeaders::Ipv6(ip, _)) => u.calc_checksum_ipv6(ip, payload),
                _ => return,
            };
            same_verdict(p, frame, sum.expect("it is short enough"), u.checksum);
        }
        // Of extension headers it takes each once, in the order that RFC 8200 §4.1 recommends, and no more.
        (_, None) if !p.src.is_v4() => {}
        (Transport::Tcp(_) | Transport::Udp(_), other) => panic!("etherparse says {other:?}"),
        // They read protocols that we do not: authentication headers, ICMP of the other family.
        (Transport::Icmp(_) | Transport::Other(_), _) => {}
    }
}

/// 0 and 0xffff are the same number.
fn same_verdict(p: &Packet, frame: &[u8], expected: u16, found: u16) {
    let Some(sum) = p.checksum_sum(frame, &Offload::NONE) else { return };
    let valid = sum.add(&frame[p.payload..p.payload + p.payload_len]).is_valid();
    assert_eq!(valid, expected % 0xffff == found % 0xffff, "{expected:#x} {found:#x}");
}

/// The options of a segment, if etherparse understands all that there are.
fn options(t: &TcpHeader) -> Option<(TcpOptions, SackBlocks)> {
    let (mut known, mut sack) = (TcpOptions::default(), SackBlocks::default());
    for option in t.options_iterator() {
        match option.ok()? {
            TcpOptionElement::MaximumSegmentSize(n) if t.syn => known.mss = Some(n),
            TcpOptionElement::WindowScale(n) if t.syn => known.window_scale = Some(n),
            TcpOptionElement::SelectiveAcknowledgementPermitted if t.syn => known.sack_permitted = true,
            TcpOptionElement::Timestamp(value, echo) => known.timestamps = Some(Timestamps { value, echo }),
            TcpOptionElement::SelectiveAcknowledgement(first, others) => {
                sack = SackBlocks::default();
                sack.push(first);
                others.into_iter().flatten().for_each(|block| assert!(sack.push(block)));
            }
            _ => {}
        }
    }
    Some((known, sack))
}

const NOW: Instant = Instant::from_nanos(5_000_000_000);
const TIGHT: Limits = Limits { bytes: 8000, datagrams: 3, fragments: 5 };
/// A number for experiments (RFC 3692): whatever it carries is a packet.
const EXPERIMENT: u8 = 253;

/// Four bytes a fragment.
pub fn fragments(data: &[u8]) {
    let (mut tight, mut ample) = (Reassembly::new(TIGHT), Reassembly::default());
    let mut models: BTreeMap<u8, Model> = BTreeMap::new();
    let mut now = NOW;
    for step in data.chunks_exact(4).take(400) {
        let part = Part::new([step[0], step[1], step[2], step[3]]);
        let frame = part.frame();
        let Ok(Parsed::Fragment(f)) = wire::parse(&frame, frame.len()) else {
            assert!(part.start == 0 && !part.more, "{part:?}");
            continue;
        };
        let frame = Frame { head: &frame, rest: &[], offload: Offload::NONE };
        let outcome = ample.add(&f, &frame, NOW);
        let model = models.entry(part.key).or_default();
        if model.expect(&part, outcome) {
            models.remove(&part.key);
        }
        now = now + Duration::from_secs(u64::from(step[0] >> 3));
        let _ = tight.add(&f, &frame, now);
        assert!(tight.bytes() <= TIGHT.bytes, "{} bytes are kept", tight.bytes());
    }
    tight.expire(now + Duration::from_secs(61));
    ample.expire(now + Duration::from_secs(61));
    assert_eq!((tight.bytes(), ample.bytes()), (0, 0));
}

/// One fragment.
#[derive(Debug)]
struct Part {
    /// Family and identification.
    key: u8,
    start: usize,
    end: usize,
    more: bool,
    /// It says something else than others of the same place would.
    other: bool,
}

impl Part {
    fn new([which, at, len, how]: [u8; 4]) -> Part {
        let start = usize::from(at) << if how & 32 == 0 { 3 } else { 8 };
        let len = (usize::from(len) * 8).saturating_sub(usize::from(how >> 2 & 7));
        Part { key: which & 7, start, end: start + len, more: how & 1 != 0, other: how & 2 != 0 }
    }

    fn content(&self) -> Vec<u8> {
        (self.start..self.end).map(|i| byte(i) ^ u8::from(self.other)).collect()
    }

    fn frame(&self) -> Vec<u8> {
        let (v4, id) = (self.key & 1 != 0, u32::from(self.key >> 1));
        let (mut head, content) = (Head::new(), self.content());
        if v4 {
            emit::ip(&mut head, &IpFields { id: id as u16, ..fields(v4) }, EXPERIMENT, content.len());
            let field = (self.start / 8) as u16 | u16::from(self.more) << 13;
            head[ETH_LEN + 6..ETH_LEN + 8].copy_from_slice(&field.to_be_bytes());
            make_checksum_right(&mut head);
            return [&head, &content[..]].concat();
        }
        emit::ip(&mut head, &fields(v4), PROTO_FRAGMENT, 8 + content.len());
        let field = self.start as u16 | u16::from(self.more);
        [&head, &[EXPERIMENT, 0][..], &field.to_be_bytes(), &id.to_be_bytes(), &content].concat()
    }
}

fn byte(at: usize) -> u8 {
    (at.wrapping_mul(40_503) >> 7) as u8 & 0xfe
}

/// Start, end, whether it says something else, whether there is more.
type Known = (usize, usize, bool, bool);

/// A datagram of which parts have come that do not touch each other.
#[derive(Default)]
struct Model {
    parts: Vec<Known>,
    end: Option<usize>,
    /// An overlap, a contradiction or a misfit came: nothing may come of it.
    spoilt: bool,
    /// The same bytes came as the last of all and as not the last, which can be taken either way.
    odd: bool,
}

impl Model {
    /// True: the packet is complete.
    fn expect(&mut self, part: &Part, outcome: Result<Option<Whole>, DropReason>) -> bool {
        let (start, end) = (part.start, part.end);
        let known = |more| self.parts.contains(&(start, end, part.other, more)) && !self.spoilt;
        self.odd |= known(!part.more);
        if self.odd {
            return matches!(outcome, Ok(Some(_)));
        }
        if known(part.more) {
            assert!(matches!(outcome, Ok(None)), "a part that came twice is no news: {outcome:?}");
            return false;
        }
        let header = if part.key & 1 != 0 { IPV4_LEN } else { 0 };
        self.spoilt |= start == end || (part.more && !end.is_multiple_of(8)) || end + header > 65_535;
        self.spoilt |= self.parts.iter().any(|p| p.0 < end && start < p.1);
        self.spoilt |= self.end.is_some_and(|e| end > e || !part.more);
        self.spoilt |= !part.more && self.parts.iter().any(|p| p.1 > end);
        self.spoilt |= self.parts.len() >= Limits::default().fragments;
        if self.spoilt {
            assert!(!matches!(outcome, Ok(Some(_))), "a packet of parts that contradict each other");
            return false;
        }
        self.parts.push((start, end, part.other, part.more));
        if !part.more {
            self.end = Some(end);
        }
        let covered: usize = self.parts.iter().map(|p| p.1 - p.0).sum();
        let whole = outcome.expect("a part that fits");
        assert_eq!(whole.is_some(), self.end == Some(covered));
        whole.is_some_and(|w| self.is_right(&w))
    }

    fn is_right(&self, whole: &Whole) -> bool {
        let p = &whole.packet;
        let payload = &whole.frame[p.payload..p.payload + p.payload_len];
        let mut expected = vec![0; self.end.unwrap_or(0)];
        for (start, end, other, _) in &self.parts {
            (*start..*end).for_each(|i| expected[i] = byte(i) ^ u8::from(*other));
        }
        assert_eq!(payload, expected);
        check(&whole.frame);
        true
    }
}
