//! The TCP engine against real sockets on loopback: what a guest sees on its link, what a server sees in its socket.

#[path = "common/stack.rs"]
mod stack;
#[path = "common/world.rs"]
mod world;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::Duration;

use proptest::prelude::*;
use spelt::base::DropReason;
use spelt::flow::{Id, Ready};
use spelt::guest::Caps;
use spelt::wire::{Csum, Gso};
use world::{Guest, Seen, World, pattern};

const LOOPBACKS: [&str; 2] = ["127.0.0.1:0", "[::1]:0"];

/// A guest connected to a server.
fn connected_to(w: &mut World, address: &str, port: u16) -> (Guest, TcpStream) {
    let listener = TcpListener::bind(address).unwrap();
    let mut g = Guest::new(port, listener.local_addr().unwrap());
    g.connect(w);
    let server = listener.accept().unwrap().0;
    server.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    (g, server)
}

fn connected(w: &mut World) -> (Guest, TcpStream) {
    connected_to(w, LOOPBACKS[0], 4000)
}

/// A client on the host whose connection waits for the guest's answer.
fn inbound(w: &mut World, address: &str) -> TcpStream {
    let listener = TcpListener::bind(address).unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    assert!(w.client_came(listener.accept().unwrap().0, 80));
    client
}

fn read_all(s: &mut TcpStream) -> Vec<u8> {
    let mut out = Vec::new();
    s.read_to_end(&mut out).unwrap();
    out
}

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

#[test]
fn refused_connect_becomes_a_reset() {
    let port = TcpListener::bind(LOOPBACKS[0]).unwrap().local_addr().unwrap();
    let mut w = World::plain();
    let mut g = Guest::new(4000, port);
    g.send(&mut w, "S", b"");
    w.until("the RST", |w| !w.link.sent.is_empty());
    let seen = w.seen();
    assert_eq!((seen.len(), seen[0].flags.as_str(), seen[0].ack, seen[0].window), (1, "R.", g.nxt, 0));
    assert!(w.tcp.is_empty());
}

#[test]
fn reset_of_the_guest_reaches_the_server() {
    let mut w = World::plain();
    let (mut g, mut server) = connected(&mut w);
    g.send(&mut w, ".", b"last words");
    g.send(&mut w, "R", b"");
    w.settle();
    assert!(w.tcp.is_empty());
    let mut buf = [0; 10];
    server.read_exact(&mut buf).unwrap();
    assert_eq!(&buf, b"last words");
    assert_eq!(server.read(&mut buf).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[test]
fn data_before_a_reset_in_the_same_batch_is_delivered() {
    let mut w = World::plain();
    let (mut g, mut server) = connected(&mut w);
    let frames = [g.frame(".", b"last words"), g.frame("R", b"")];
    w.guest_sends(&frames);
    let mut buf = [0; 10];
    server.read_exact(&mut buf).unwrap();
    assert_eq!(&buf, b"last words");
}

#[test]
fn reset_of_the_server_reaches_the_guest() {
    let mut w = World::plain();
    let (mut g, server) = connected(&mut w);
    g.send(&mut w, ".", b"unread");
    w.turn(0);
    w.seen();
    // Closing with unread data resets (RFC 1122 §4.2.2.13).
    drop(server);
    w.until("the RST", |w| !w.link.sent.is_empty());
    let s = w.seen().pop().unwrap();
    assert_eq!((s.flags.as_str(), s.seq, s.ack), ("R.", g.rcv, g.nxt));
    assert!(w.tcp.is_empty());
}

/// An HTTP server that refuses an upload answers, closes and resets; the answer still counts.
#[test]
fn answer_before_a_reset_is_delivered() {
    let mut w = World::plain();
    let (mut g, mut server) = connected(&mut w);
    g.send(&mut w, ".", b"unread");
    w.turn(0);
    w.seen();
    server.write_all(b"413").unwrap();
    drop(server);
    // The next segment meets the reset before any event is looked at.
    g.send(&mut w, ".", b"more");
    w.settle();
    let seen = w.seen();
    assert_eq!(g.take(&seen), b"413");
    assert!(seen.last().unwrap().has('R'));
}

#[test]
fn half_close_of_the_guest_leaves_the_answer() {
    let mut w = World::plain();
    let (mut g, mut server) = connected(&mut w);
    g.send(&mut w, "F.", b"request");
    assert_eq!(read_all(&mut server), b"request");
    server.write_all(&pattern(3000)).unwrap();
    assert_eq!(g.read(&mut w, 3000), pattern(3000));
    drop(server);
    w.until("the FIN", |w| !w.link.sent.is_empty());
    let seen = w.seen();
    g.take(&seen);
    assert!(seen.last().unwrap().has('F'));
    g.ack(&mut w);
    w.turn(0);
    assert!(w.tcp.is_empty());
}

/// Upstream resets such connections.
#[test]
fn client_may_half_close_before_the_guest_has_answered() {
    let mut w = World::plain();
    let mut client = inbound(&mut w, LOOPBACKS[0]);
    client.write_all(b"request").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    w.until("the SYN", |w| !w.link.sent.is_empty());
    let syn = w.link.sent.clone();
    w.settle();
    assert_eq!(w.link.sent, syn);
    let mut g = Guest::accept(&mut w);
    w.turn(0);
    let seen = w.seen();
    assert_eq!(g.take(&seen), b"request");
    assert!(seen.last().unwrap().has('F'));
    g.send(&mut w, "F.", b"answer");
    assert_eq!(read_all(&mut client), b"answer");
}

#[test]
fn client_that_resets_before_the_guest_has_answered() {
    let mut w = World::plain();
    let client = inbound(&mut w, LOOPBACKS[0]);
    w.seen();
    socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    w.until("the RST", |w| !w.link.sent.is_empty());
    assert_eq!(w.seen()[0].flags, "R");
    assert!(w.tcp.is_empty());
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
    let mut sent = 0;
    // Never read: the guest sends what the window takes, until that is nothing.
    let mut quiet = 0;
    while quiet < 20 {
        let n = g.fill(w, &data[sent..]);
        sent += n;
        quiet = if n == 0 { quiet + 1 } else { 0 };
        w.turn(1);
    }
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

#[test]
fn slow_reader_gets_everything() {
    slow_reader(&mut World::plain(), Some(7), false);
}

#[test]
fn slow_reader_gets_everything_without_window_scaling() {
    slow_reader(&mut World::plain(), None, false);
}

#[test]
fn remainder_outlives_the_guest_side() {
    slow_reader(&mut World::plain(), Some(7), true);
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
fn segments_without_offloads_are_whole_and_summed() {
    for address in LOOPBACKS {
        let mut w = World::plain();
        let (mut g, mut server) = connected_to(&mut w, address, 4000);
        server.write_all(&pattern(20_000)).unwrap();
        w.settle();
        let seen = w.seen();
        assert_eq!(g.take(&seen), pattern(20_000));
        let mss = if g.v6 { 1440 } else { 1460 };
        assert!(seen.iter().all(|s| s.payload.len() <= mss && s.offload.gso == Gso::None));
        assert!(seen.last().unwrap().has('P'), "PSH where the data ends (b107)");
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

#[test]
fn stale_ids_are_ignored() {
    let mut w = World::plain();
    let (mut g, _server) = connected(&mut w);
    g.send(&mut w, "R", b"");
    let stale = Id { index: 0, generation: 0 };
    let all = Ready { readable: true, writable: true, read_closed: true, error: true, urgent: true };
    w.event(stale, all);
    w.timer(stale);
    w.event(Id { index: 77, generation: 3 }, all);
    assert!(w.link.sent.is_empty() && w.tcp.is_empty());
    let (mut g, mut server) = connected_to(&mut w, LOOPBACKS[0], 4001);
    w.event(stale, all);
    w.timer(stale);
    server.write_all(b"alive").unwrap();
    assert_eq!(g.read(&mut w, 5), b"alive");
}

/// SYNs to a listener that never answers: its backlog is full.
#[test]
fn flood_of_syns_throws_out_itself() {
    let mut w = World::new(Caps { csum: false, tso: false, uso: false, mtu: 1500 }, 20);
    let (mut g, mut server) = connected(&mut w);
    w.skip(Duration::from_secs(3600));
    w.turn(0);
    w.seen();
    let target = TcpListener::bind(LOOPBACKS[0]).unwrap().local_addr().unwrap();
    let deaf = TcpListener::bind(LOOPBACKS[0]).unwrap();
    let _ = target;
    for port in 5000..5100 {
        Guest::new(port, deaf.local_addr().unwrap()).send(&mut w, "S", b"");
        assert!(w.tcp.len() <= 20);
        w.tcp.audit().unwrap();
    }
    // The last ones are there, the first were told.
    assert!(w.seen().iter().any(|s| s.has('R') && s.dst_port == 5000));
    server.write_all(b"alive").unwrap();
    assert_eq!(g.read(&mut w, 5), b"alive");
}

#[test]
fn full_table_of_live_flows_refuses() {
    let mut w = World::new(Caps { csum: false, tso: false, uso: false, mtu: 1500 }, 3);
    let flows: Vec<_> = (0..3).map(|n| connected_to(&mut w, LOOPBACKS[0], 4000 + n)).collect();
    w.seen();
    let mut late = Guest::new(5000, flows[0].1.local_addr().unwrap());
    late.send(&mut w, "S", b"");
    assert_eq!(w.seen()[0].flags, "R.");
    assert_eq!(w.tcp.counters().dropped(DropReason::FlowTableFull), 1);
    // Whoever is idle for long makes room.
    w.skip(Duration::from_secs(60));
    late.send(&mut w, "S", b"");
    assert_eq!(w.tcp.len(), 3);
    assert!(w.seen().iter().any(|s| s.has('R') && s.dst_port == 4000));
}

fn one(w: &mut World, g: &Guest, flags: &str, payload: &[u8]) -> Vec<Seen> {
    w.guest_sends(&[g.frame_at(flags, g.nxt, payload)]);
    w.turn(0);
    w.seen()
}

/// RFC 9293 §3.10.7.1.
#[test]
fn segments_of_no_flow_are_refused_as_the_rfc_says() {
    let mut w = World::plain();
    let mut g = Guest::new(4000, "127.0.0.1:9".parse().unwrap());
    g.rcv = 77;
    let s = one(&mut w, &g, ".", b"abc").remove(0);
    assert_eq!((s.flags.as_str(), s.seq, s.ack), ("R", 77, 0));
    // A bare FIN counts.
    for (flags, payload, len) in [("F", &b""[..], 1), ("F", b"abc", 4), ("", b"ab", 2)] {
        let s = one(&mut w, &g, flags, payload).remove(0);
        assert_eq!((s.flags.as_str(), s.seq, s.ack), ("R.", 0, g.nxt.wrapping_add(len)));
    }
    for flags in ["R", "R.", "SF", "SR"] {
        assert!(one(&mut w, &g, flags, b"").is_empty(), "{flags}");
    }
    assert!(w.tcp.is_empty());
}

/// RFC 9293 §3.9.2.3; and port 0 is nobody's.
#[test]
fn group_addresses_and_port_zero_are_not_answered() {
    let mut w = World::plain();
    for flags in ["S", ".", "F"] {
        let mut g = Guest::new(4000, "127.0.0.1:9".parse().unwrap());
        let mut f = g.frame(flags, b"");
        f[30..34].copy_from_slice(&[224, 0, 0, 1]);
        f[24..26].fill(0);
        let sum = spelt::wire::checksum::Sum::new().add(&f[14..34]).checksum();
        f[24..26].copy_from_slice(&sum.to_be_bytes());
        w.guest_sends(&[f]);
        g.remote = 0;
        g.send(&mut w, flags, b"");
    }
    assert!(w.link.sent.is_empty() && w.tcp.is_empty());
}

#[test]
fn syn_ack_is_sent_again_exactly() {
    let mut w = World::plain();
    let listener = TcpListener::bind(LOOPBACKS[0]).unwrap();
    let mut g = Guest::new(4000, listener.local_addr().unwrap());
    g.send(&mut w, "S", b"");
    w.until("the SYN-ACK", |w| !w.link.sent.is_empty());
    let first = w.seen().remove(0);
    assert_eq!((first.mss, first.scale), (Some(1460), Some(8)));
    for wait in [1, 2, 4] {
        w.skip(Duration::from_secs(wait) + Duration::from_millis(5));
        w.turn(0);
        assert_eq!(w.seen().remove(0).frame, first.frame);
    }
    // A SYN again draws it again.
    g.nxt = g.nxt.wrapping_sub(1);
    g.send(&mut w, "S", b"");
    assert_eq!(w.seen().remove(0).frame, first.frame);
}

#[test]
fn time_wait_makes_room_for_a_new_connection() {
    let mut w = World::plain();
    let listener = TcpListener::bind(LOOPBACKS[0]).unwrap();
    let mut g = Guest::new(4000, listener.local_addr().unwrap());
    g.connect(&mut w);
    drop(listener.accept().unwrap());
    w.until("the FIN", |w| !w.link.sent.is_empty());
    let seen = w.seen();
    g.take(&seen);
    g.send(&mut w, "F.", b"");
    w.settle();
    assert_eq!((w.seen().len(), w.tcp.len()), (1, 1));
    g.nxt = g.nxt.wrapping_add(100_000);
    g.connect(&mut w);
    assert_eq!(w.tcp.len(), 1);
}

#[test]
fn handshake_floods_and_churn_leave_nothing_behind() {
    let mut w = World::plain();
    let listener = TcpListener::bind(LOOPBACKS[0]).unwrap();
    for n in 0..300 {
        let mut g = Guest::new(10_000 + n, listener.local_addr().unwrap());
        g.connect(&mut w);
        let server = listener.accept().unwrap().0;
        g.send(&mut w, "F.", b"x");
        drop(server);
        w.settle_briefly();
        w.seen();
        g.send(&mut w, "R", b"");
    }
    w.skip(Duration::from_secs(600));
    w.until("the last flow to go", |w| {
        w.skip(Duration::from_secs(10));
        w.tcp.is_empty()
    });
}

#[test]
fn smoltcp_echo_both_ways_over_ipv4() {
    stack::echo(false, 5 << 20, 0, 1);
}

#[test]
fn smoltcp_echo_both_ways_over_ipv6() {
    stack::echo(true, 5 << 20, 0, 2);
}

#[test]
fn smoltcp_echo_survives_loss_reordering_and_duplication() {
    for seed in 0..3 {
        stack::echo(seed % 2 == 1, 1 << 20, 10, 77 + seed);
    }
}

#[derive(Clone, Debug)]
enum Op {
    /// Flags, sequence number and acknowledgment (from the right ones), window, payload length.
    Segment(String, i32, i32, u16, usize),
    Batch(usize),
    ServerWrites(usize),
    ServerReads,
    ServerShuts,
    ServerResets,
    LinkTakes(usize),
    TimePasses(u64),
    /// The guest takes what was sent and acknowledges it.
    GuestReads,
}

fn op() -> impl Strategy<Value = Op> {
    let off = || prop_oneof![5 => Just(0), 2 => -3000..3000, 1 => any::<i32>()];
    let flags = prop_oneof![6 => Just("."), 2 => Just("F."), 1 => Just("S"), 1 => Just("S."), 1 => Just("R"), 1 => Just("SF"), 1 => Just("")];
    let window = prop_oneof![Just(0), Just(65535), any::<u16>()];
    prop_oneof![
        6 => (flags, off(), off(), window, prop_oneof![Just(0), 0..1460usize])
            .prop_map(|(f, s, a, w, n)| Op::Segment(f.to_owned(), s, a, w, n)),
        2 => (1..100usize).prop_map(Op::Batch),
        3 => (1..200_000usize).prop_map(Op::ServerWrites),
        2 => Just(Op::ServerReads),
        1 => Just(Op::ServerShuts),
        1 => Just(Op::ServerResets),
        2 => prop_oneof![Just(usize::MAX), Just(0), 1..20usize].prop_map(Op::LinkTakes),
        2 => prop_oneof![Just(250), Just(3000), Just(200_000)].prop_map(Op::TimePasses),
        4 => Just(Op::GuestReads),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever guest, server and link do: no panic, and after each turn the audit finds no flow that nothing will move.
    #[test]
    fn nothing_stalls_and_nothing_breaks(
        inbound_first: bool, tso: bool, peek_offset: bool, ops in proptest::collection::vec(op(), 1..40)
    ) {
        let mut w = if tso { World::offloading(65520) } else { World::plain() };
        if !peek_offset {
            w.tcp.forgo_peek_offset();
        }
        let (mut g, server) = if inbound_first {
            let client = inbound(&mut w, LOOPBACKS[0]);
            (Guest::accept(&mut w), client)
        } else {
            connected(&mut w)
        };
        server.set_nonblocking(true).unwrap();
        let mut server = Some(server);
        let mut buf = vec![0; 1 << 20];
        for op in ops {
            match op {
                Op::Segment(flags, seq, ack, window, len) => {
                    let mut odd = g.clone();
                    odd.rcv = g.rcv.wrapping_add(ack as u32);
                    odd.window = window;
                    w.guest_sends(&[odd.frame_at(&flags, g.nxt.wrapping_add(seq as u32), &buf[..len])]);
                    if flags == "." && seq == 0 && ack == 0 {
                        g.nxt = g.nxt.wrapping_add(len as u32);
                    }
                }
                Op::Batch(n) => {
                    let frames: Vec<_> = (0..n).map(|_| g.frame(".", &buf[..1460])).collect();
                    w.guest_sends(&frames);
                }
                Op::ServerWrites(n) => {
                    let _ = server.as_mut().map(|s| s.write(&buf[..n]));
                }
                Op::ServerReads => {
                    let _ = server.as_mut().map(|s| s.read(&mut buf));
                }
                Op::ServerShuts => {
                    let _ = server.as_ref().map(|s| s.shutdown(Shutdown::Write));
                }
                Op::ServerResets => {
                    if let Some(s) = server.take() {
                        socket2::SockRef::from(&s).set_linger(Some(Duration::ZERO)).unwrap();
                    }
                }
                Op::LinkTakes(n) => {
                    w.link.room = n;
                    w.link_ready();
                }
                Op::TimePasses(ms) => w.skip(Duration::from_millis(ms)),
                Op::GuestReads => {
                    let seen = w.seen();
                    g.take(&seen);
                    g.ack(&mut w);
                }
            }
            w.turn(0);
        }
        // However it stands: with a guest that is gone for good, everything goes.
        w.link.room = usize::MAX;
        w.link_ready();
        drop(server);
        for _ in 0..3000 {
            if w.tcp.is_empty() {
                break;
            }
            w.skip(Duration::from_secs(60));
            w.turn(0);
        }
        prop_assert!(w.tcp.is_empty());
    }
}
