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

#[test]
fn areas_become_frames_behind_pushed_ones() {
    let mut out = Outbox::new();
    out.push(&[1; 60]).unwrap();
    assert_eq!(out.reserve(3, 54, 100), 3);
    for area in out.areas() {
        assert_eq!(area.len(), 100);
    }
    assert_eq!(out.commit(&[2; 54], 0), [&[2; 54][..], &[0; 6]].concat());
    assert_eq!(out.areas().len(), 2);
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
    assert_eq!(out.areas().len(), 63);
    assert_eq!(out.end, 1518);
    out.cancel();
    assert_eq!(out.end, 0);
}

#[test]
fn what_is_lent_is_not_written_over() {
    let mut out = Outbox::new();
    let mut lent = 0;
    while out.push(&[1; 30_000]).is_ok() {
        let bytes = out.bytes();
        out.lent(bytes);
        lent += bytes;
    }
    assert!(lent > MEMORY_BYTES - 60_000 && out.ring.iter().filter(|b| **b == 1).count() > lent - 1000);
    out.outstanding(lent - 30_004);
    out.push(&[2; 29_000]).unwrap();
    assert_eq!((out.end % out.ring.len(), out.push(&[2; 29_000])), (29_004, Err(LinkFull)));
    // What left before is returned before.
    let bytes = out.bytes();
    out.bytes_left(bytes);
    assert!(out.has_lent());
    out.outstanding(0);
    assert_eq!((out.has_lent(), out.end), (false, 0));
}

#[test]
fn what_is_lent_is_left_to_who_has_it() {
    let mut out = Outbox::new();
    out.push(&[1; 100]).unwrap();
    out.lent(104);
    let pages = out.ring.as_ptr();
    out.push(&[1; 100]).unwrap();
    out.clear();
    assert!(out.is_empty() && !out.has_lent() && out.ring.as_ptr() != pages);
}

/// The first `n` bytes that wait: where they are in the ring.
fn places(out: &Outbox, mut n: usize) -> Vec<std::ops::Range<usize>> {
    let (mut skip, mut found) = (out.begun, Vec::new());
    for w in &out.waiting {
        let at = out.place(w.at) + skip;
        let len = (w.len - std::mem::take(&mut skip)).min(n);
        found.push(at..at + len);
        n -= len;
    }
    found
}

/// What a reader has not read yet: a copy, or pages that were lent to it.
enum Queued {
    Copy(Vec<u8>),
    Pages(Vec<std::ops::Range<usize>>),
}

impl Queued {
    fn read(&self, out: &Outbox) -> Vec<u8> {
        match self {
            Queued::Copy(bytes) => bytes.clone(),
            Queued::Pages(places) => places.iter().flat_map(|p| out.ring[p.clone()].to_vec()).collect(),
        }
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(32))]

    /// Whoever takes the stream, copied or lent, in whatever portions, and reads it late, reads what was sent.
    #[test]
    fn a_stream_taken_in_any_portions_is_whole(
        sizes in proptest::collection::vec((14usize..65_000, 1usize..6), 1..80),
        portions in proptest::collection::vec((1usize..300_000, proptest::bool::ANY), 1..80),
        late in 0usize..1_500_000,
    ) {
        let mut out = Outbox::new();
        let (mut expected, mut got) = (Vec::new(), Vec::new());
        let (mut queue, mut queued) = (VecDeque::new(), 0);
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
            let (portion, lend) = portions.next().unwrap();
            let portion = (*portion).min(out.stream().iter().map(Gather::len).sum());
            let places = places(&out, portion);
            queued += portion;
            if *lend {
                out.lent(portion);
                queue.push_back((portion, Queued::Pages(places)));
            } else {
                queue.push_back((portion, Queued::Copy(Queued::Pages(places).read(&out))));
                out.bytes_left(portion);
            }
            while queued > late {
                let (len, front) = queue.pop_front().unwrap();
                got.extend(front.read(&out));
                queued -= len;
            }
            out.outstanding(queued);
        }
        queue.iter().for_each(|(_, q)| got.extend(q.read(&out)));
        got.extend(text(&out.stream()));
        let waiting: usize = out.stream().iter().map(Gather::len).sum();
        proptest::prop_assert_eq!(waiting, out.bytes());
        proptest::prop_assert_eq!(frames(&got), expected);
    }
}
