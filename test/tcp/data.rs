//! Payload both ways: content, segments and super-frames, windows, what is sent again.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};
use std::time::Duration;

use spelt::guest::{Caps, Lane};
use spelt::wire::{Csum, Gso};

use crate::world::{Guest, World, pattern};
use crate::{LOOPBACKS, connected, connected_to, inbound, read_all};

#[test]
fn content_both_ways_and_both_ends() {
    for address in LOOPBACKS {
        for peek_offset in [true, false] {
            let mut w = World::plain();
            if !peek_offset {
                w.tcp.forgo_peek_offset();
            }
            let (mut g, mut server) = connected_to(&mut w, address, 4000);
            g.send(&mut w, ".P", b"question");
            w.turn(0);
            let mut buf = [0; 8];
            server.read_exact(&mut buf).unwrap();
            assert_eq!(&buf, b"question");
            let data = pattern(100_000);
            server.write_all(&data).unwrap();
            assert_eq!(g.read(&mut w, data.len()), data);
            drop(server);
            w.until("the FIN", |w| w.link.sent.iter().any(|(f, _)| f[f.len() - 7] & 1 == 1));
            let seen = w.seen();
            g.take(&seen);
            assert_eq!(w.tcp.views(w.now()).next().unwrap().view.waits_for, None);
            g.send(&mut w, "F.", b"");
            w.settle();
            w.skip(Duration::from_secs(3));
            w.turn(0);
            assert!(w.tcp.is_empty());
        }
    }
}

#[test]
fn inbound_connection_is_answered_in_the_same_way() {
    for address in LOOPBACKS {
        let mut w = World::plain();
        let mut client = inbound(&mut w, address);
        client.write_all(b"early").unwrap();
        let mut g = Guest::accept(&mut w);
        assert_eq!(g.read(&mut w, 5), b"early");
        g.send(&mut w, "F.", b"late");
        assert_eq!(read_all(&mut client), b"late");
    }
}

/// What we write decides which queue of a tap a flow's frames come through: those of a transfer must not be in front of everybody's.
#[test]
fn a_flow_is_bulk_from_its_first_large_burst_on_until_it_is_one_of_questions_and_answers() {
    let mut w = World::offloading(65520);
    w.freeze();
    let (mut g, mut server) = connected(&mut w);
    let mut burst = |w: &mut World, bytes: usize| {
        for part in pattern(bytes).chunks(50_000) {
            g.send(w, ".", part);
        }
        w.turn(0);
        server.read_exact(&mut vec![0; bytes]).unwrap();
        w.link.lane
    };
    assert_eq!(burst(&mut w, 80_000), Lane::Common);
    assert_eq!(burst(&mut w, 80_000), Lane::Common);
    assert_eq!(burst(&mut w, 100_000), Lane::Bulk);
    // More than a megabyte a second, in however small bursts.
    for _ in 0..400 {
        w.skip(Duration::from_millis(8));
        assert_eq!(burst(&mut w, 10_000), Lane::Bulk);
    }
    // After silence, what has come may be the first of a window, however little it is.
    for bytes in [1, 50_000, 1] {
        w.skip(Duration::from_secs(5));
        assert_eq!(burst(&mut w, bytes), Lane::Bulk);
    }
    w.skip(Duration::from_secs(5));
    assert_eq!(burst(&mut w, 100_000), Lane::Bulk);
    // A second of questions and answers.
    let asked: Vec<Lane> = (0..30)
        .map(|_| {
            w.skip(Duration::from_millis(50));
            burst(&mut w, 100)
        })
        .collect();
    assert_eq!(asked, [&[Lane::Bulk; 20][..], &[Lane::Common; 10]].concat());
    assert_eq!(burst(&mut w, 100_000), Lane::Bulk);
    server.write_all(b"answer").unwrap();
    assert_eq!((g.read(&mut w, 6), w.link.lane), (b"answer".to_vec(), Lane::Bulk));
}

/// What the guest agrees to may be more than its card has buffers for, which its card knows.
#[test]
fn segments_fit_the_frames_of_the_link() {
    for (address, headers) in LOOPBACKS.into_iter().zip([40, 60]) {
        let mut w = World::new(Caps { csum: false, tso: false, uso: false, mtu: 65520 }, 1000);
        let listener = TcpListener::bind(address).unwrap();
        let mut g = Guest::new(4000, listener.local_addr().unwrap());
        g.mss = 65_460;
        g.connect(&mut w);
        let mut server = listener.accept().unwrap().0;
        for mtu in [65520, 1500, 576] {
            w.link.caps.mtu = mtu;
            server.write_all(&pattern(200_000)).unwrap();
            let (mut all, mut longest) = (Vec::new(), 0);
            w.until("all of it", |w| {
                let seen = w.seen();
                longest = seen.iter().map(|s| s.payload.len()).max().unwrap_or(0).max(longest);
                all.extend(g.take(&seen));
                if !seen.is_empty() {
                    g.ack(w);
                }
                all.len() == 200_000
            });
            assert!(all == pattern(200_000));
            assert_eq!(longest, (usize::from(mtu) - headers).min(65_460));
        }
    }
}

#[test]
fn d24_slow_reader_gets_everything() {
    slow_reader(&mut World::plain(), Some(7), false);
}

#[test]
fn d24_slow_reader_gets_everything_without_window_scaling() {
    slow_reader(&mut World::plain(), None, false);
}

#[test]
fn remainder_outlives_the_guest_side() {
    slow_reader(&mut World::plain(), Some(7), true);
}

/// Everything the window let the guest send arrives, however slowly it is read; the window opens again by itself.
fn slow_reader(w: &mut World, scale: Option<u8>, close_early: bool) {
    let listener = TcpListener::bind(LOOPBACKS[0]).unwrap();
    socket2::SockRef::from(&listener).set_recv_buffer_size(4096).unwrap();
    let mut g = Guest::new(4000, listener.local_addr().unwrap());
    g.scale = scale;
    g.connect(w);
    let mut server = listener.accept().unwrap().0;
    let data = pattern(12_000_000);
    let mut sent = g.fill_up(w, &data);
    assert!(sent > 100_000 && sent < data.len(), "{sent}");
    // Now all is read, and no probe of the guest helps.
    server.set_nonblocking(true).unwrap();
    let mut got = Vec::new();
    let mut buf = vec![0; 1 << 20];
    let total = if close_early { sent } else { data.len() };
    if close_early {
        // Both ends are over for the guest while the remainder still waits for the server.
        server.shutdown(Shutdown::Write).unwrap();
        w.until("the FIN", |w| {
            let seen = w.seen();
            g.take(&seen);
            seen.iter().any(|s| s.has('F'))
        });
        g.send(w, "F.", b"");
        w.settle();
        // Nor does it hurt that the guest has forgotten the connection, and begins one of the same name.
        let mut again = g.clone();
        again.send(w, "S", b"");
        w.settle();
        let challenge = w.seen().pop().unwrap();
        w.guest_sends(&[g.frame_at("R", challenge.ack, b"")]);
        w.settle();
    }
    w.until("the server to get it all", |w| {
        while let Ok(n @ 1..) = server.read(&mut buf) {
            got.extend_from_slice(&buf[..n]);
        }
        if !close_early {
            sent += g.fill(w, &data[sent..]);
        }
        got.len() >= total
    });
    assert!(got == data[..total], "content");
    if close_early {
        w.until("the end", |w| {
            w.skip(Duration::from_millis(100));
            w.tcp.is_empty()
        });
        assert_eq!(server.read(&mut buf).unwrap(), 0);
    }
}

/// tcp(7): a read stops at urgent data, although there is more.
#[test]
fn urgent_data_is_delivered_in_line() {
    let mut w = World::plain();
    let (mut g, mut server) = connected(&mut w);
    server.write_all(b"abc").unwrap();
    socket2::SockRef::from(&server).send_out_of_band(b"!").unwrap();
    server.write_all(b"def").unwrap();
    assert_eq!(g.read(&mut w, 7), b"abc!def");
}

#[test]
fn b107_segments_without_offloads_are_whole_and_summed() {
    for address in LOOPBACKS {
        let mut w = World::plain();
        let (mut g, mut server) = connected_to(&mut w, address, 4000);
        server.write_all(&pattern(20_000)).unwrap();
        w.settle();
        let seen = w.seen();
        assert_eq!(g.take(&seen), pattern(20_000));
        let mss = if g.v6 { 1440 } else { 1460 };
        assert!(seen.iter().all(|s| s.payload.len() <= mss && s.offload.gso == Gso::None));
        assert!(seen.last().unwrap().has('P'), "PSH where the data ends");
    }
}

/// RFC 9293 §3.7.1 has no floor for the option; a division by what is left after rounding once ended a process.
#[test]
fn d1_segments_for_a_guest_that_takes_hardly_any() {
    for mss in 0..5 {
        for mut w in [World::plain(), World::offloading(1500)] {
            let listener = TcpListener::bind(LOOPBACKS[0]).unwrap();
            let mut g = Guest::new(4000, listener.local_addr().unwrap());
            g.mss = mss;
            g.connect(&mut w);
            let mut server = listener.accept().unwrap().0;
            server.write_all(&pattern(20_000)).unwrap();
            assert_eq!(g.read(&mut w, 20_000), pattern(20_000));
        }
    }
}

#[test]
fn super_frames_say_how_they_are_to_be_cut() {
    for address in LOOPBACKS {
        let mut w = World::offloading(1500);
        let (mut g, mut server) = connected_to(&mut w, address, 4000);
        g.mss = 1460;
        server.write_all(&pattern(60_000)).unwrap();
        w.settle();
        let seen = w.seen();
        assert_eq!(g.take(&seen), pattern(60_000));
        let mss = if g.v6 { 1440 } else { 1460 };
        for s in seen.iter().filter(|s| !s.payload.is_empty()) {
            let at = if g.v6 { 54 } else { 34 };
            assert_eq!(s.offload.csum, Csum::Partial { start: at, offset: 16 });
            let gso = if s.payload.len() > mss { Gso::Tcp(mss as u16) } else { Gso::None };
            assert_eq!(s.offload.gso, gso);
            assert!(s.frame.len() <= 14 + 65535);
        }
        assert!(seen.iter().any(|s| s.payload.len() > 10_000));
    }
}

/// RFC 9293 §3.8.1: the same bytes under the same numbers.
#[test]
fn what_is_sent_again_is_what_was_sent() {
    for peek_offset in [true, false] {
        let mut w = World::plain();
        if !peek_offset {
            w.tcp.forgo_peek_offset();
        }
        let (mut g, mut server) = connected(&mut w);
        server.write_all(&pattern(10_000)).unwrap();
        w.settle();
        let first = w.seen();
        // Nothing arrived. After the timeout the guest acknowledges segment by segment.
        w.skip(Duration::from_secs(1));
        w.turn(0);
        let mut again = Vec::new();
        let mut me = g.clone();
        w.until("the rest", |w| {
            let seen = w.seen();
            again.extend(me.take(&seen));
            if !seen.is_empty() {
                me.ack(w);
            }
            again.len() >= 10_000
        });
        assert_eq!(again, pattern(10_000));
        assert_eq!(g.take(&first), again);
        // And the stream goes on behind it.
        server.write_all(b"more").unwrap();
        assert_eq!(me.read(&mut w, 4), b"more");
    }
}

/// What is sent again leaves nothing behind that what comes next would be looked for from.
#[test]
fn what_follows_a_loss_is_what_was_written() {
    for peek_offset in [true, false] {
        let mut w = World::plain();
        if !peek_offset {
            w.tcp.forgo_peek_offset();
        }
        let (mut g, mut server) = connected(&mut w);
        let data = pattern(6000);
        server.write_all(&data[..100]).unwrap();
        w.settle();
        w.skip(Duration::from_secs(1));
        w.turn(0);
        let mut got = g.read(&mut w, 100);
        w.link.room = 1;
        server.write_all(&data[100..]).unwrap();
        w.settle();
        w.link.room = usize::MAX;
        w.link_ready();
        got.extend(g.read(&mut w, 5900));
        assert!(got == data, "{peek_offset}");
    }
}

#[test]
fn three_duplicates_bring_back_one_segment() {
    let mut w = World::plain();
    let (mut g, mut server) = connected(&mut w);
    server.write_all(&pattern(14_600)).unwrap();
    w.settle();
    let first = w.seen();
    assert!(first.len() >= 10);
    for _ in 0..8 {
        g.ack(&mut w);
    }
    let again = w.seen();
    assert_eq!(again.len(), 1);
    assert_eq!((again[0].seq, &again[0].payload), (first[0].seq, &first[0].payload));
}

#[test]
fn full_link_loses_nothing_and_goes_on() {
    for peek_offset in [true, false] {
        let mut w = World::plain();
        if !peek_offset {
            w.tcp.forgo_peek_offset();
        }
        let (mut g, mut server) = connected(&mut w);
        let data = pattern(60_000);
        server.write_all(&data).unwrap();
        let mut got = Vec::new();
        for room in [0, 3, 0, 1, 7, 100, usize::MAX] {
            w.link.room = room;
            w.link_ready();
            w.turn(2);
            let seen = w.seen();
            assert!(seen.iter().filter(|s| !s.payload.is_empty()).all(|s| s.seq.wrapping_sub(g.rcv) as i32 >= 0));
            got.extend(g.take(&seen));
        }
        assert!(got == data, "{} bytes", got.len());
    }
}

#[test]
fn closed_window_is_probed_and_opens() {
    let mut w = World::plain();
    let (mut g, mut server) = connected(&mut w);
    g.window = 0;
    g.ack(&mut w);
    server.write_all(b"hello").unwrap();
    w.settle();
    assert!(w.seen().iter().all(|s| s.payload.is_empty()));
    for _ in 0..3 {
        w.skip(Duration::from_secs(9));
        w.turn(0);
        let seen = w.seen();
        assert_eq!((seen.len(), seen[0].seq, seen[0].flags.as_str()), (1, g.rcv.wrapping_sub(1), "."));
    }
    g.window = 100;
    g.ack(&mut w);
    assert_eq!(g.read(&mut w, 5), b"hello");
}
