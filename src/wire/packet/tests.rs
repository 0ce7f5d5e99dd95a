use super::*;
use etherparse::PacketBuilder;

fn ip(frame: &[u8]) -> Packet {
    match parse(frame, frame.len()) {
        Ok(Parsed::Ip(p)) => p,
        other => panic!("{other:?}"),
    }
}

fn tcp4(options: &[u8], payload: &[u8]) -> Vec<u8> {
    let b = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
        .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 33)
        .tcp(1000, 80, 7, 900)
        .syn()
        .options_raw(options)
        .unwrap();
    let mut f = Vec::new();
    b.write(&mut f, payload).unwrap();
    f
}

#[test]
fn tcp_over_ipv4_with_padding() {
    let mut f = tcp4(&[2, 4, 5, 180, 1, 3, 3, 7], b"hi");
    f.extend([0; 6]);
    let p = ip(&f);
    let Transport::Tcp(t) = p.transport else { panic!() };
    assert_eq!(
        (t.src_port, t.dst_port, t.seq, t.window, t.options.mss, t.options.window_scale),
        (1000, 80, 7, 900, Some(1460), Some(7))
    );
    assert_eq!((p.ttl, p.payload_len, &f[p.payload..p.payload + p.payload_len]), (33, 2, &b"hi"[..]));
    let sum = p.checksum_sum(&f, &Offload::NONE).unwrap().add(b"hi");
    assert!(sum.is_valid());
}

#[test]
fn lying_tcp_options_end_the_list() {
    for (options, mss) in [
        (&[2, 40, 5, 180][..], None),
        (&[2, 0, 5, 180], None),
        (&[2, 4, 0, 0, 9, 1, 1, 1], Some(0)),
        (&[30, 4, 9, 9, 2, 4, 5, 0], Some(1280)),
        (&[2, 3, 5, 1], None),
    ] {
        let f = tcp4(options, b"");
        let Transport::Tcp(t) = ip(&f).transport else { panic!() };
        assert_eq!(t.options.mss, mss, "{options:?}");
    }
}

#[test]
fn d29_udp_length_trims_and_refuses() {
    let b =
        PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]).ipv6([0x20; 16], [0x21; 16], 5).udp(53, 54);
    let mut f = Vec::new();
    b.write(&mut f, b"12345678").unwrap();
    let p = ip(&f);
    assert!(p.checksum_sum(&f, &Offload::NONE).unwrap().add(b"12345678").is_valid());
    f[14 + 40 + 6..14 + 40 + 8].fill(0);
    assert!(ip(&f).checksum_sum(&f, &Offload::NONE).is_none(), "no checksum was made");
    f[14 + 40 + 5] = 8 + 3;
    assert_eq!(ip(&f).payload_len, 3);
    for bad in [7, 17] {
        f[14 + 40 + 5] = bad;
        assert_eq!(parse(&f, f.len()).unwrap_err(), DropReason::TransportHeader);
    }
}

#[test]
fn d5_extension_headers_are_walked() {
    let mut f = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x86, 0xdd];
    f.extend([0x60, 0, 0, 0, 0, 8 + 8 + 8, 0, 64]);
    f.extend([0x20; 16]);
    f.extend([0x21; 16]);
    f.extend([60, 0, 1, 4, 0, 0, 0, 0]);
    f.extend([17, 0, 1, 4, 0, 0, 0, 0]);
    f.extend([0, 5, 0, 6, 0, 8, 1, 1]);
    let p = ip(&f);
    assert!(matches!(p.transport, Transport::Udp(UdpHeader { src_port: 5, dst_port: 6 })));
    // The second header claims more than the packet holds.
    f[14 + 40 + 8 + 1] = 9;
    assert_eq!(parse(&f, f.len()).unwrap_err(), DropReason::ExtensionHeader);
    // A fragment header.
    f[14 + 40 + 8 + 1] = 0;
    f[14 + 40] = 44;
    f[14 + 40 + 8 + 2..14 + 40 + 8 + 4].copy_from_slice(&[0x00, 0x09]);
    let Parsed::Fragment(fr) = parse(&f, f.len()).unwrap() else { panic!() };
    assert_eq!(
        (fr.offset, fr.more, fr.protocol, fr.unfragmentable_len, fr.next_header_at, fr.data_len),
        (8, true, 17, 48, 54, 8)
    );
}

#[test]
fn d29_wrong_version_and_lengths() {
    let f = tcp4(&[], b"");
    let with = |at: usize, v: u8| {
        let mut g = f.clone();
        g[at] = v;
        parse(&g, g.len()).unwrap_err()
    };
    assert_eq!(with(14, 0x65), DropReason::IpHeader);
    assert_eq!(with(14, 0x44), DropReason::IpHeader);
    assert_eq!(with(17, 200), DropReason::IpHeader);
    assert_eq!(with(22, 1), DropReason::IpChecksum);
    assert_eq!(with(6, 3), DropReason::SourceMac);
    assert_eq!(with(12, 0x81), DropReason::EtherType);
    assert_eq!(parse(&f[..10], 10).unwrap_err(), DropReason::FrameLength);
}

proptest::proptest! {
    #[test]
    fn any_bytes_parse_or_are_refused(mut f in proptest::collection::vec(proptest::num::u8::ANY, 0..200), kind in 0..3usize) {
        if f.len() > 15 {
            let t = [ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_ARP][kind];
            f[12..14].copy_from_slice(&t.to_be_bytes());
            f[6] &= 0xfe;
            f[14] = if kind == 0 { 0x45 } else { 0x60 };
        }
        if let Ok(Parsed::Ip(p)) = parse(&f, f.len()) {
            assert!(p.payload + p.payload_len <= f.len());
            let _ = p.checksum_sum(&f, &Offload::NONE);
        }
    }
}
