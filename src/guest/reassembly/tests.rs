use super::*;
use crate::base::Mac;
use crate::wire::emit::{self, Head, IpFields, PayloadSum};
use crate::wire::{ETH_LEN, Offload, PROTO_UDP, Transport, fragment};
use proptest::prelude::*;

const NOW: Instant = Instant::from_nanos(5_000_000_000);

fn fields(v4: bool) -> IpFields {
    let (src, dst) = if v4 {
        (Addr::v4([10, 0, 0, 1]), Addr::v4([10, 0, 0, 2]))
    } else {
        (Addr::v6([0x20; 16]), Addr::v6([0x21; 16]))
    };
    IpFields { src_mac: Mac([2; 6]), dst_mac: Mac([4; 6]), src, dst, ttl: 9, tos: 4, id: 0 }
}

/// UDP header and payload with a right checksum.
fn segment(v4: bool, payload: &[u8]) -> Vec<u8> {
    let mut head = Head::new();
    let f = fields(v4);
    emit::udp(&mut head, &f, (5, 6), payload.len(), PayloadSum::Of(Sum::new().add(payload)));
    let at = ETH_LEN + if v4 { 20 } else { 40 };
    [&head[at..], payload].concat()
}

fn fragments(v4: bool, segment: &[u8], mtu: u16, id: u32) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    fragment::cut(&fields(v4), PROTO_UDP, segment.len(), mtu, id, |head, range| {
        out.push([head, &segment[range]].concat());
        true
    });
    out
}

fn add(r: &mut Reassembly, frame: &[u8], now: Instant) -> Result<Option<Whole>, DropReason> {
    let Ok(Parsed::Fragment(f)) = wire::parse(frame, frame.len()) else { panic!("not a fragment") };
    r.add(&f, &Frame { head: frame, rest: &[], offload: Offload::NONE }, now)
}

fn payload_of(w: &Whole) -> &[u8] {
    let p = &w.packet;
    let sum = p.checksum_sum(&w.frame, &Offload::NONE).unwrap();
    let payload = &w.frame[p.payload..p.payload + p.payload_len];
    assert!(sum.add(payload).is_valid() && matches!(p.transport, Transport::Udp(_)) && !p.dont_fragment);
    payload
}

fn bytes(n: usize, seed: u32) -> Vec<u8> {
    (0..n as u32).map(|i| ((i ^ seed).wrapping_mul(2_654_435_761) >> 11) as u8).collect()
}

proptest! {
    #[test]
    fn any_cut_in_any_order_with_duplicates_gives_the_packet(
        v4: bool, len in 100..20_000usize, mtu in 80..5000u16, order in any::<u64>(), dup in any::<prop::sample::Index>()
    ) {
        let payload = bytes(len, 7);
        let mut frames = fragments(v4, &segment(v4, &payload), mtu, 77);
        prop_assume!(frames.len() > 1 && frames.len() < 200);
        let again = dup.get(&frames).clone();
        let n = frames.len();
        // A cheap shuffle, then a duplicate that is not the last to arrive.
        for i in (1..n).rev() {
            frames.swap(i, (order.rotate_left(i as u32 % 64) % (i as u64 + 1)) as usize);
        }
        let first = frames.iter().position(|f| *f == again).unwrap();
        if first + 1 < n {
            frames.insert(first + 1, again);
        }
        let mut r = Reassembly::default();
        let mut whole = None;
        for (i, f) in frames.iter().enumerate() {
            let got = add(&mut r, f, NOW).unwrap();
            assert_eq!(got.is_some(), i + 1 == frames.len());
            whole = got;
        }
        assert_eq!(payload_of(&whole.unwrap()), &payload[..]);
        assert_eq!((r.bytes(), r.partial.len()), (0, 0));
    }

    #[test]
    fn a_reference_model_agrees(
        v4: bool, parts in proptest::collection::vec((0..12usize, 1..4usize, any::<bool>(), 0..2u8), 1..14)
    ) {
        // Model: a map of bytes; a fragment that touches a known byte without being an exact duplicate, or that
        // contradicts the end, spoils everything.
        let mut seen: Vec<(usize, usize, bool, u8)> = Vec::new();
        let mut spoiled = false;
        let mut r = Reassembly::default();
        for (at, len, more, fill) in parts {
            // Offset zero without more to come would be no fragment.
            let more = more || at == 0;
            let frame = raw(v4, at * 8, &vec![fill; len * 8], more);
            let got = add(&mut r, &frame, NOW);
            let part = (at, at + len, more, fill);
            if spoiled {
                assert_eq!(got.unwrap_err(), DropReason::FragmentInvalid);
                continue;
            }
            let known_end = seen.iter().find(|s| !s.2).map(|s| s.1);
            let duplicate = seen.iter().any(|s| (s.0, s.1, s.3) == (part.0, part.1, part.3)
                && (s.2 == part.2 || (part.2 && Some(part.1) == known_end)));
            let clash = seen.iter().any(|s| s.0 < part.1 && part.0 < s.1)
                || known_end.is_some_and(|e| part.1 > e || (!more && part.1 != e))
                || (!more && seen.iter().any(|s| s.1 > part.1));
            if duplicate {
                assert!(got.unwrap().is_none());
            } else if clash {
                spoiled = true;
                assert_eq!(got.unwrap_err(), DropReason::FragmentInvalid);
            } else {
                seen.push(part);
                let end = seen.iter().find(|s| !s.2).map(|s| s.1);
                let covered: usize = seen.iter().map(|s| s.1 - s.0).sum();
                if end == Some(covered) {
                    // Complete: handed on, or refused by the parser for what the bytes say.
                    seen.clear();
                    assert_eq!(r.partial.len(), 0);
                    let _ = got;
                } else {
                    assert!(got.unwrap().is_none());
                }
            }
        }
    }

    #[test]
    fn memory_stays_bounded(
        parts in proptest::collection::vec((0..200u32, 0..8191usize, 1..180usize, any::<bool>()), 1..400)
    ) {
        let limits = Limits { bytes: 200_000, datagrams: 10, fragments: 20 };
        let mut r = Reassembly::new(limits);
        for (id, at, len, more) in parts {
            let mut frame = raw(true, at * 8, &vec![1; len * 8], more);
            frame[ETH_LEN + 4..ETH_LEN + 6].copy_from_slice(&(id as u16).to_be_bytes());
            fix_checksum(&mut frame);
            if matches!(wire::parse(&frame, frame.len()), Ok(Parsed::Fragment(_))) {
                let _ = add(&mut r, &frame, NOW);
            }
            assert!(r.bytes() <= limits.bytes && r.partial.len() <= limits.datagrams);
            assert_eq!(r.bytes(), r.partial.iter().map(|p| p.data.len()).sum::<usize>());
            assert!(r.partial.iter().all(|p| p.parts.len() <= limits.fragments));
        }
    }
}

fn fix_checksum(frame: &mut [u8]) {
    let ip = &mut frame[ETH_LEN..ETH_LEN + 20];
    ip[10..12].fill(0);
    let sum = Sum::new().add(ip).checksum();
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
}

/// A fragment at any offset.
fn raw(v4: bool, at: usize, data: &[u8], more: bool) -> Vec<u8> {
    let mut out = Vec::new();
    // Cut one from a segment long enough that a part starts at `at`, then patch the offset field.
    fragment::cut(&fields(v4), PROTO_UDP, data.len(), 9000, 1, |head, _| {
        out = [head, data].concat();
        true
    });
    let field_at = ETH_LEN + if v4 { 6 } else { 42 };
    let field = if v4 { (at / 8) as u16 | u16::from(more) << 13 } else { at as u16 | u16::from(more) };
    out[field_at..field_at + 2].copy_from_slice(&field.to_be_bytes());
    if v4 {
        fix_checksum(&mut out);
    }
    out
}

#[test]
fn overlaps_spoil_the_datagram_and_what_follows() {
    for v4 in [true, false] {
        let mut frames = fragments(v4, &segment(v4, &bytes(4000, 1)), 1280, 9);
        let mut r = Reassembly::default();
        add(&mut r, &frames[0], NOW).unwrap();
        let last = frames[0].len() - 1;
        frames[0][last] ^= 1;
        assert_eq!(add(&mut r, &frames[0], NOW).unwrap_err(), DropReason::FragmentInvalid);
        for f in &frames[1..] {
            assert_eq!(add(&mut r, f, NOW).unwrap_err(), DropReason::FragmentInvalid);
        }
        assert_eq!((r.bytes(), r.counters().dropped(DropReason::FragmentInvalid)), (0, 1));
    }
}

#[test]
fn time_runs_out() {
    for (v4, life) in [(true, LIFE_V4), (false, LIFE_V6)] {
        let payload = bytes(4000, 1);
        let frames = fragments(v4, &segment(v4, &payload), 1280, 9);
        let n = frames.len();
        let mut r = Reassembly::default();
        for f in &frames[..n - 1] {
            assert!(add(&mut r, f, NOW).unwrap().is_none());
        }
        let almost = NOW + (life - Duration::from_millis(1));
        let mut late = Reassembly::default();
        for f in &frames[..n - 1] {
            add(&mut late, f, NOW).unwrap();
        }
        assert_eq!(payload_of(&add(&mut r, &frames[n - 1], almost).unwrap().unwrap()), payload);
        assert!(add(&mut late, &frames[n - 1], NOW + life).unwrap().is_none());
        assert_eq!(late.counters().dropped(DropReason::FragmentTimeout), n as u64 - 1);
    }
}

#[test]
fn misaligned_and_oversized_parts_are_refused() {
    for v4 in [true, false] {
        for (at, len, more) in [(0, 12, true), (65_528, 64, false), (65_528, 8, true)] {
            let mut r = Reassembly::default();
            let got = add(&mut r, &raw(v4, at, &vec![0; len], more), NOW);
            assert_eq!(got.unwrap_err(), DropReason::FragmentInvalid, "{at} {len}");
        }
    }
}
