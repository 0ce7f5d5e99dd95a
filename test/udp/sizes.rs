//! Datagrams that are long, or longer than a link takes.

use super::*;

/// Longer than any datagram over IPv4, and two of them are more than a send takes.
#[test]
fn a_uso_frame_of_the_longest_datagrams_ends() {
    let mut w = world(FULL);
    let server = loopback(false);
    let to = Endpoint::new(gateway(false), server.local_addr().unwrap().port());
    let payload = bytes(65_527);
    for size in [65_508, 65_520, 65_526] {
        let offload = Offload { csum: Csum::Partial { start: 54, offset: 6 }, gso: Gso::Udp(size) };
        w.send(&datagram(40_002, to, 64, &payload), offload).unwrap();
        let mut buf = vec![0; 70_000];
        for part in payload.chunks(size.into()) {
            let n = server.recv(&mut buf).unwrap();
            assert!(buf[..n] == *part, "{n} bytes");
        }
    }
}

#[test]
fn datagrams_above_the_mtu_are_fragmented() {
    for (v4, caps) in [(true, PLAIN), (false, PLAIN), (true, Caps { mtu: 1500, ..FULL })] {
        let mut w = world(caps);
        let server = loopback(v4);
        let to = Endpoint::new(gateway(v4), server.local_addr().unwrap().port());
        let from = Endpoint::new(guest(v4), 40_004);
        w.send(&datagram(from.port, to, 64, b"go"), Offload::NONE).unwrap();
        w.flush();
        let peer = server.recv_from(&mut [0; 10]).unwrap().1;
        // The largest is large enough for an area, and must come out all the same.
        let longest: &[usize] = if v4 { &[] } else { &[65_508, 65_527, 65_527] };
        for len in [1473, 4000, 65_507, 40_000, 3000].iter().chain(longest).copied() {
            let payload = bytes(len);
            server.send_to(&payload, peer).unwrap();
            let mut reassembly = Reassembly::default();
            let mut whole = None;
            while whole.is_none() {
                let got = w.pump(1);
                assert!(!got.is_empty(), "{len} bytes did not arrive");
                for (f, offload) in got {
                    assert!(f.len() <= ETH_LEN + 1500 && offload == Offload::NONE);
                    let Ok(Parsed::Fragment(part)) = wire::parse(&f, f.len()) else { panic!("no fragment") };
                    let frame = Frame { head: &f, rest: &[], offload };
                    whole = reassembly.add(&part, &frame, w.now()).unwrap().or(whole);
                }
            }
            let (_, src, dst, back) = udp(&whole.unwrap().frame, &Offload::NONE);
            assert_eq!((src, dst, back), (to, from, payload));
        }
    }
}

/// RFC 6864 §4: with an identification of its own, and without don't-fragment, if that may matter.
#[test]
fn what_is_longer_than_common_links_take_may_be_fragmented_inside() {
    let mut w = world(FULL);
    let server = loopback(true);
    let to = Endpoint::new(gateway(true), server.local_addr().unwrap().port());
    w.send(&datagram(40_004, to, 64, b"go"), Offload::NONE).unwrap();
    w.flush();
    let peer = server.recv_from(&mut [0; 10]).unwrap().1;
    let mut ids = Vec::new();
    for len in [1472, 1473, 1473, 40_000] {
        server.send_to(&bytes(len), peer).unwrap();
        let (frame, offload) = w.pump(1).remove(0);
        udp(&frame, &offload);
        let (id, dont_fragment) = (u16::from_be_bytes([frame[18], frame[19]]), frame[20] & 0x40 != 0);
        assert_eq!((id == 0, dont_fragment), (len <= 1472, len <= 1472), "{len}");
        ids.push(id);
    }
    assert!(ids[1] != ids[2]);
}

#[test]
fn a_large_datagram_of_the_guest_arrives_whole() {
    for v4 in [true, false] {
        let mut w = world(FULL);
        let server = loopback(v4);
        let to = Endpoint::new(gateway(v4), server.local_addr().unwrap().port());
        let payload = bytes(60_000);
        w.send(&datagram(40_005, to, 64, &payload), Offload::NONE).unwrap();
        let mut buf = vec![0; 70_000];
        let n = server.recv(&mut buf).unwrap();
        assert_eq!(buf[..n], payload);
    }
}
