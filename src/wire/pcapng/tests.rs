//! Golden bytes, and a reader that follows the draft and trusts nothing.

use proptest::prelude::*;

use super::*;

fn word(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(b[at..at + 4].try_into().unwrap())
}

/// Blocks: type and body. Checks both lengths.
fn blocks(mut bytes: &[u8]) -> Vec<(u32, Vec<u8>)> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let len = word(bytes, 4) as usize;
        assert!(len.is_multiple_of(4) && len >= 12);
        assert_eq!(word(bytes, len - 4) as usize, len);
        all.push((word(bytes, 0), bytes[8..len - 4].to_vec()));
        bytes = &bytes[len..];
    }
    all
}

/// Options: code and value. Checks that padding is zero and that the end is the end.
fn options(mut bytes: &[u8]) -> Vec<(u16, Vec<u8>)> {
    let mut all = Vec::new();
    loop {
        let (code, len) = (word(bytes, 0) as u16, (word(bytes, 0) >> 16) as usize);
        let padded = len.next_multiple_of(4);
        assert!(bytes[4 + len..4 + padded].iter().all(|b| *b == 0));
        if code == END {
            assert_eq!((len, bytes.len()), (0, 4));
            return all;
        }
        all.push((code, bytes[4..4 + len].to_vec()));
        bytes = &bytes[4 + padded..];
    }
}

#[test]
fn the_beginning_in_bytes() {
    let mut out = Vec::new();
    section(&mut out, "a", "Linux");
    interface(&mut out, "eth0", 96);
    #[rustfmt::skip]
    let expected = [
        0x0a, 0x0d, 0x0d, 0x0a, 52, 0, 0, 0, 0x4d, 0x3c, 0x2b, 0x1a, 1, 0, 0, 0,
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        3, 0, 5, 0, b'L', b'i', b'n', b'u', b'x', 0, 0, 0, 4, 0, 1, 0, b'a', 0, 0, 0, 0, 0, 0, 0, 52, 0, 0, 0,
        1, 0, 0, 0, 40, 0, 0, 0, 1, 0, 0, 0, 96, 0, 0, 0,
        2, 0, 4, 0, b'e', b't', b'h', b'0', 9, 0, 1, 0, 9, 0, 0, 0, 0, 0, 0, 0, 40, 0, 0, 0,
    ];
    assert_eq!(out, expected);
}

#[test]
fn the_end_says_how_many_are_missing() {
    let mut out = Vec::new();
    let (start, end) = (Duration::from_nanos(1), Duration::new(5, 7));
    statistics(&mut out, &Statistics { start, end, received: 10, dropped: 3 });
    assert_eq!(out.len(), STATISTICS_LEN);
    let all = blocks(&out);
    let counts = |code| options(&all[0].1[12..]).into_iter().find(|(c, _)| *c == code).unwrap().1;
    assert_eq!((counts(ISB_IFRECV), counts(ISB_IFDROP)), (10_u64.to_le_bytes().into(), 3_u64.to_le_bytes().into()));
}

proptest! {
    #[test]
    fn what_is_written_can_be_read(
        frames in proptest::collection::vec(
            (proptest::collection::vec(any::<u8>(), 0..200), 0..70_000_usize, any::<u64>(), any::<u32>(),
             proptest::option::of(".{0,40}"), any::<bool>()),
            0..20,
        )
    ) {
        let mut out = Vec::new();
        let packet_of = |(bytes, more, time, lost, comment, inbound): &'_ (Vec<u8>, usize, u64, u32, Option<String>, bool)| {
            let direction = if *inbound { Direction::Inbound } else { Direction::Outbound };
            (Duration::from_nanos(*time), bytes.clone(), bytes.len() + more, u64::from(*lost), comment.clone(), direction)
        };
        for (time, bytes, len, lost, comment, direction) in frames.iter().map(packet_of) {
            packet(&mut out, &Packet { time, len, bytes: &bytes, direction, lost, comment: comment.as_deref() });
        }
        let read = blocks(&out);
        prop_assert_eq!(read.len(), frames.len());
        for ((kind, body), (time, bytes, len, lost, comment, direction)) in read.iter().zip(frames.iter().map(packet_of)) {
            let nanoseconds = u64::from(word(body, 4)) << 32 | u64::from(word(body, 8));
            prop_assert_eq!((*kind, word(body, 0), Duration::from_nanos(nanoseconds)), (6, 0, time));
            prop_assert_eq!((word(body, 12) as usize, word(body, 16) as usize), (bytes.len(), len));
            prop_assert_eq!(&body[20..20 + bytes.len()], &bytes);
            let mut expected = Vec::new();
            expected.extend(comment.map(|text| (COMMENT, text.into_bytes())));
            expected.push((EPB_FLAGS, (direction as u32).to_le_bytes().to_vec()));
            expected.extend((lost > 0).then(|| (EPB_DROPCOUNT, lost.to_le_bytes().to_vec())));
            prop_assert_eq!(options(&body[20 + bytes.len().next_multiple_of(4)..]), expected);
        }
    }
}
