use super::*;
use crate::link::framing;

fn text(pieces: &[Gather<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    pieces.iter().for_each(|p| p.copy_to(&mut out));
    out
}

/// All frames of a stream.
fn frames(mut stream: &[u8]) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    while let Some(len) = framing::front(stream).unwrap() {
        out.push(stream[PREFIX_LEN..PREFIX_LEN + len].to_vec());
        stream = &stream[PREFIX_LEN + len..];
    }
    assert!(stream.is_empty());
    out
}

fn areas_left(out: &mut Outbox) -> usize {
    let mut areas = guest::Areas::new();
    out.areas(&mut areas);
    areas.len()
}

#[test]
fn areas_become_frames_behind_pushed_ones() {
    let mut out = Outbox::new();
    out.push(&[1; 60]).unwrap();
    assert_eq!(out.reserve(3, 54, 100), 3);
    let mut areas = guest::Areas::new();
    out.areas(&mut areas);
    assert!(areas.len() == 3 && areas.iter().all(|area| area.len() == 100));
    drop(areas);
    assert_eq!(out.commit(&[2; 54], 0), [&[2; 54][..], &[0; 6]].concat());
    assert_eq!(areas_left(&mut out), 2);
    assert_eq!(out.payload(7).len(), 7);
    out.commit(&[3; 50], 100);
    out.cancel();
    out.push(&[4; 61]).unwrap();
    let lens: Vec<_> = frames(&text(&out.stream())).iter().map(|f| (f[0], f.len())).collect();
    assert_eq!(lens, [(1, 60), (2, 60), (3, 150), (4, 61)]);
    assert_eq!(out.messages().iter().map(Gather::len).collect::<Vec<_>>(), [60, 60, 150, 61]);
    out.messages_left(3);
    assert_eq!((out.messages().len(), out.bytes()), (1, 65));
}

#[test]
fn more_pieces_than_a_call_takes_go_once_each() {
    let mut out = Outbox::new();
    for n in 0..320u16 {
        if n % 64 == 0 {
            assert_eq!(out.reserve(64, 54, 100), 64);
        }
        out.commit(&[n.to_be_bytes(), [0; 2]].concat(), 0);
        if n % 64 == 63 {
            out.cancel();
        }
    }
    let mut all = Vec::new();
    while out.bytes() > 0 {
        let piece = text(&out.stream());
        out.bytes_left(piece.len());
        all.extend(piece);
    }
    let numbers: Vec<u16> = frames(&all).iter().map(|f| u16::from_be_bytes([f[0], f[1]])).collect();
    assert!(numbers.into_iter().eq(0..320));
}

#[test]
fn whole_frames_in_a_row_are_one_piece() {
    let mut out = Outbox::new();
    assert_eq!(out.reserve(64, 54, 1460), 64);
    for n in 0..64 {
        out.commit(&[n; 54], 1460);
    }
    out.cancel();
    assert_eq!(out.stream().iter().map(Gather::len).collect::<Vec<_>>(), [64 * 1518]);
    out.bytes_left(1000);
    assert_eq!(out.stream().iter().map(Gather::len).collect::<Vec<_>>(), [64 * 1518 - 1000]);
}

#[test]
fn memory_is_free_again_when_all_has_left() {
    let mut out = Outbox::new();
    let mut pushed = 0;
    while out.push(&[7; 1514]).is_ok() {
        pushed += 1;
    }
    assert!(pushed == MEMORY_BYTES / 1518 && out.reserve(1, 54, 1460) == 0, "{pushed}");
    while !out.is_empty() {
        let n = out.messages().len();
        out.messages_left(n);
    }
    assert_eq!((out.bytes(), out.reserve(64, 54, 1460)), (0, 64));
    out.commit(&[0; 54], 1460);
    let bytes = out.bytes();
    // Somebody still has areas.
    out.bytes_left(bytes);
    assert_eq!(areas_left(&mut out), 63);
    assert_eq!(out.end, 1518);
    out.cancel();
    assert_eq!(out.end, 0);
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(32))]

    /// Whoever takes the stream in whatever portions reads what was sent, as the ring goes round.
    #[test]
    fn a_stream_taken_in_any_portions_is_whole(
        sizes in proptest::collection::vec((14usize..65_000, 1usize..6), 1..80),
        portions in proptest::collection::vec(1usize..300_000, 1..80),
    ) {
        let mut out = Outbox::new();
        let (mut expected, mut got) = (Vec::new(), Vec::new());
        let mut portions = portions.iter().cycle();
        for (n, (len, count)) in sizes.iter().enumerate() {
            for i in 0..out.reserve(*count, 54, *len) {
                let fill = (n + i) as u8;
                let at = out.place(out.areas.payload(i));
                out.ring[at..at + len].fill(fill);
                expected.push(out.commit(&[fill; 54], if i % 2 == 1 { len / 2 } else { *len }).to_vec());
            }
            out.cancel();
            if let Ok(frame) = out.push(&vec![n as u8; 14 + n]) {
                expected.push(frame.to_vec());
            }
            let portion = (*portions.next().unwrap()).min(out.stream().iter().map(Gather::len).sum());
            got.extend_from_slice(&text(&out.stream())[..portion]);
            out.bytes_left(portion);
        }
        got.extend(text(&out.stream()));
        let waiting: usize = out.stream().iter().map(Gather::len).sum();
        proptest::prop_assert_eq!(waiting, out.bytes());
        proptest::prop_assert_eq!(frames(&got), expected);
    }
}
