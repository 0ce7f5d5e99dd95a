//! Segments that come late, or not at all, in either direction: SACK (RFC 2018, RFC 6675), and timestamps beside it.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use etherparse::TcpOptionElement;
use spelt::base::DropReason;

use crate::world::{Guest, Seen, World, pattern};
use crate::{LOOPBACKS, read_all};

const SEGMENT: usize = 1000;

/// A guest that permits SACK, connected to a server.
fn sacking(w: &mut World, address: &str) -> (Guest, TcpStream) {
    let listener = TcpListener::bind(address).unwrap();
    let mut g = Guest::new(4000, listener.local_addr().unwrap());
    g.syn_options = vec![TcpOptionElement::SelectiveAcknowledgementPermitted];
    g.connect(w);
    let server = listener.accept().unwrap().0;
    server.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    (g, server)
}

/// The order in which `n` segments arrive.
fn shuffled(n: usize, mut seed: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    for i in (1..n).rev() {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        order.swap(i, (seed >> 33) as usize % (i + 1));
    }
    order
}

#[test]
fn segments_in_any_order_make_the_same_stream() {
    for (seed, address) in (0..12).zip(LOOPBACKS.into_iter().cycle()) {
        let mut w = World::plain();
        let (mut g, mut server) = sacking(&mut w, address);
        let data = pattern(15 * SEGMENT);
        let parts: Vec<&[u8]> = data.chunks(SEGMENT).collect();
        let start = g.nxt;
        let at = |i: usize| start.wrapping_add((i * SEGMENT) as u32);
        // The last part ends the stream; in one batch or one by one.
        let order = shuffled(parts.len(), seed);
        let frame = |i: &usize| g.frame_at(if i + 1 == parts.len() { "F." } else { "." }, at(*i), parts[*i]);
        let frames: Vec<Vec<u8>> = order.iter().map(frame).collect();
        frames.chunks(if seed % 3 == 0 { frames.len() } else { 1 }).for_each(|run| w.guest_sends(run));
        w.turn(0);
        assert_eq!(read_all(&mut server), data, "seed {seed}");
        assert_eq!(w.tcp.counters().dropped(DropReason::TcpOutOfOrder), 0);
        g.nxt = at(15).wrapping_add(1);
        assert_eq!(w.seen().last().unwrap().ack, g.nxt, "all is acknowledged");
    }
}

#[test]
fn guest_hears_what_came_ahead() {
    let mut w = World::plain();
    let (g, _server) = sacking(&mut w, LOOPBACKS[0]);
    let at = |n: u32| g.nxt.wrapping_add(n);
    for (seq, blocks) in [(2000, vec![(2000, 3000)]), (5000, vec![(5000, 6000), (2000, 3000)])] {
        w.guest_sends(&[g.frame_at(".", at(seq), &pattern(SEGMENT))]);
        w.turn(0);
        let seen = w.seen();
        let expected: Vec<_> = blocks.into_iter().map(|(from, to)| (at(from), at(to))).collect();
        assert_eq!((seen.len(), seen[0].ack, &seen[0].blocks), (1, g.nxt, &expected));
    }
    // With data on its way to the guest as well: the blocks have an ACK of their own.
    assert_eq!(w.tcp.counters().dropped(DropReason::TcpOutOfOrder), 0);
}

#[test]
fn guest_without_sack_gets_duplicates_and_its_data_is_held_all_the_same() {
    let mut w = World::plain();
    let (mut g, mut server) = crate::connected(&mut w);
    let first = g.frame(".", &[1; 500]);
    let others: Vec<_> = (2..6).map(|n| g.frame(".", &[n; 500])).collect();
    w.guest_sends(&others);
    let seen = w.seen();
    assert_eq!(seen.iter().filter(|s| s.ack == seen[0].ack && s.blocks.is_empty()).count(), 3);
    w.guest_sends(&[first]);
    w.turn(0);
    assert_eq!(w.seen().last().unwrap().ack, g.nxt);
    let mut got = [0; 2500];
    server.read_exact(&mut got).unwrap();
    assert!(got.chunks(500).zip(1..).all(|(part, n)| part.iter().all(|b| *b == n)));
}

/// More than a buffer is long passes while one byte after another is missing.
#[test]
fn holes_again_and_again() {
    let mut w = World::plain();
    let (mut g, mut server) = sacking(&mut w, LOOPBACKS[1]);
    let data = pattern(3 << 20);
    let reader = std::thread::spawn(move || read_all(&mut server));
    for part in data.chunks(20 * SEGMENT) {
        let mut frames: Vec<_> = part.chunks(SEGMENT).map(|c| g.frame(".", c)).collect();
        let late = frames.remove(0);
        w.guest_sends(&frames);
        w.guest_sends(&[late]);
        w.until("room", |w| {
            let seen = w.seen();
            g.take(&seen);
            g.edge.wrapping_sub(g.nxt) as i32 >= 20 * SEGMENT as i32
        });
    }
    g.send(&mut w, "F.", b"");
    w.turn(0);
    assert_eq!(reader.join().unwrap(), data);
    assert_eq!(w.tcp.counters().drops().count(), 0);
}

#[test]
fn many_holes_do_not_take_all_memory() {
    let mut w = World::plain();
    let mut guests: Vec<_> = (0..100).map(|_| sacking_at(&mut w)).collect();
    for (g, _) in &mut guests {
        let frame = g.frame_at(".", g.nxt.wrapping_add(10), b"ahead");
        w.guest_sends(&[frame]);
    }
    assert_eq!(w.tcp.counters().dropped(DropReason::TcpOutOfOrder), 36, "64 of half a MiB are held");
    // What was held makes room again, at the end of the hole or of the flow.
    for (g, _) in &mut guests[..40] {
        g.send(&mut w, ".", b"0123456789ahead");
    }
    for (g, _) in &mut guests[40..60] {
        g.send(&mut w, "R", b"");
    }
    w.turn(0);
    w.tcp.audit().unwrap();
    for (g, _) in &mut guests[64..] {
        let frame = g.frame_at(".", g.nxt.wrapping_add(10), b"ahead");
        w.guest_sends(&[frame]);
    }
    assert_eq!(w.tcp.counters().dropped(DropReason::TcpOutOfOrder), 36);
    w.tcp.audit().unwrap();
}

fn sacking_at(w: &mut World) -> (Guest, TcpStream) {
    sacking(w, LOOPBACKS[0])
}

/// The blocks of a guest that has these segments, which are in order, behind a hole.
fn blocks_of<'a>(segments: impl Iterator<Item = &'a Seen>) -> Vec<(u32, u32)> {
    let mut blocks: Vec<(u32, u32)> = Vec::new();
    for s in segments {
        let end = s.seq.wrapping_add(s.payload.len() as u32);
        match blocks.last_mut() {
            Some(last) if last.1 == s.seq => last.1 = end,
            _ => blocks.push((s.seq, end)),
        }
    }
    blocks
}

#[test]
fn only_what_was_lost_is_sent_again() {
    for (address, peek_offset) in [(LOOPBACKS[0], true), (LOOPBACKS[1], true), (LOOPBACKS[0], false)] {
        let mut w = World::plain();
        if !peek_offset {
            w.tcp.forgo_peek_offset();
        }
        let (mut g, mut server) = sacking(&mut w, address);
        let data = pattern(40_000);
        server.write_all(&data).unwrap();
        let mut seen = Vec::new();
        w.until("the flight", |w| {
            seen.extend(w.seen().into_iter().filter(|s| !s.payload.is_empty()));
            seen.iter().map(|s| s.payload.len()).sum::<usize>() == data.len()
        });
        let lost = [0, 5, 6, 11];
        let came = || seen.iter().enumerate().filter(|(i, _)| !lost.contains(i)).map(|(_, s)| s);
        let blocks = blocks_of(came());
        assert_eq!(blocks.len(), 3);
        g.options =
            vec![TcpOptionElement::SelectiveAcknowledgement(blocks[2], [Some(blocks[1]), Some(blocks[0]), None])];
        g.ack(&mut w);
        let again: Vec<_> = w.seen().into_iter().filter(|s| !s.payload.is_empty()).collect();
        let bytes: usize = again.iter().map(|s| s.payload.len()).sum();
        assert_eq!(bytes, lost.iter().map(|i| seen[*i].payload.len()).sum::<usize>(), "only what was lost, and once");
        let mut all: Vec<&Seen> = came().chain(&again).collect();
        all.sort_by_key(|s| s.seq.wrapping_sub(g.rcv));
        assert_eq!(all.iter().flat_map(|s| s.payload.clone()).collect::<Vec<_>>(), data);
        // And what comes then is new.
        g.rcv = g.rcv.wrapping_add(data.len() as u32);
        g.options.clear();
        g.ack(&mut w);
        server.write_all(b"more").unwrap();
        assert_eq!(g.read(&mut w, 4), b"more");
    }
}

#[test]
fn stamped_segments_are_shorter_by_their_option() {
    for mtu in [1500, 65520] {
        let mut w = World::offloading(mtu);
        let listener = TcpListener::bind(LOOPBACKS[0]).unwrap();
        let mut g = Guest::new(4000, listener.local_addr().unwrap());
        g.mss = mtu - 40;
        g.syn_options = vec![TcpOptionElement::Timestamp(7, 0)];
        g.connect(&mut w);
        g.options = vec![TcpOptionElement::Timestamp(8, 0)];
        let mut server = listener.accept().unwrap().0;
        server.write_all(&pattern(300_000)).unwrap();
        g.window = u16::MAX;
        g.ack(&mut w);
        w.until("a full segment", |w| w.link.sent.iter().any(|(f, _)| f.len() > 30_000));
        for s in w.seen() {
            assert!([7, 8].contains(&s.stamp.unwrap().1));
            let size =
                if let spelt::wire::Gso::Tcp(size) = s.offload.gso { usize::from(size) } else { s.payload.len() };
            assert!(size <= usize::from(mtu) - 52 && s.frame.len() <= 65_535 + 14, "{size}, {}", s.frame.len());
        }
    }
}
