//! Which flows there are: segments of none, floods, a full table, stale events, the way in and out.

use std::io::Write;
use std::net::TcpListener;
use std::time::Duration;

use spelt::base::DropReason;
use spelt::flow::{Id, Ready};
use spelt::guest::Caps;

use crate::moving::time_wait;
use crate::world::{Guest, Seen, World};
use crate::{LOOPBACKS, connected, connected_to};

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

/// SYNs to a listener that accepts nobody.
#[test]
fn flood_of_syns_throws_out_itself() {
    let mut w = World::new(Caps { csum: false, tso: false, uso: false, mtu: 1500 }, 20);
    let (mut g, mut server) = connected(&mut w);
    w.skip(Duration::from_secs(3600));
    w.turn(0);
    w.seen();
    let deaf = TcpListener::bind(LOOPBACKS[0]).unwrap();
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

/// RFC 9293 §3.10.7.1.
#[test]
fn d32_segments_of_no_flow_are_refused_as_the_rfc_says() {
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

fn one(w: &mut World, g: &Guest, flags: &str, payload: &[u8]) -> Vec<Seen> {
    w.guest_sends(&[g.frame_at(flags, g.nxt, payload)]);
    w.turn(0);
    w.seen()
}

/// RFC 9293 §3.9.2.3; and port 0 is nobody's.
#[test]
fn upstream_2024_08_group_addresses_and_port_zero_are_not_answered() {
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
fn d3_syn_ack_is_sent_again_exactly() {
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

/// A guest may keep one of them there by sending its FIN again and again.
#[test]
fn those_in_time_wait_are_not_noted_for_ever() {
    let mut w = World::plain();
    let old = time_wait(&mut w);
    let fin = old.nxt.wrapping_sub(1);
    for n in 0..200 {
        let (mut g, server) = connected_to(&mut w, LOOPBACKS[0], 5000 + n);
        drop(server);
        w.until("the FIN", |w| !w.link.sent.is_empty());
        let seen = w.seen();
        g.take(&seen);
        g.send(&mut w, "F.", b"");
        w.guest_sends(&[old.frame_at("F.", fin, b"")]);
        w.skip(Duration::from_secs(1));
        w.turn(0);
        w.seen();
    }
    assert!(w.tcp.len() < 5 && w.tcp.noted_in_time_wait() < 80, "{:?}, {}", w.tcp, w.tcp.noted_in_time_wait());
}

/// Each exchange arms a deadline of which nothing becomes.
#[test]
fn a_flow_has_no_more_deadlines_the_longer_it_lives() {
    let mut w = World::plain();
    let (mut g, mut server) = connected(&mut w);
    w.freeze();
    for _ in 0..6000 {
        server.write_all(b"?").unwrap();
        assert_eq!(g.read(&mut w, 1), b"?");
        w.skip(Duration::from_millis(300));
        w.turn(0);
        if w.timers.has_many() {
            let World { timers, tcp, .. } = &mut w;
            timers.retain(|t| tcp.armed(Id { index: t.index, generation: t.generation }));
            assert!(timers.entries() < 10);
        }
    }
    assert!(w.timers.entries() < 5000);
    w.skip(Duration::from_secs(7300));
    w.turn(0);
    assert!(!w.seen().is_empty(), "its keep-alive came");
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

/// As when other workers, or other protocols, have taken the rest.
#[test]
fn newcomer_finds_room_when_there_are_more_flows_than_there_may_be() {
    let mut w = World::plain();
    let flows: Vec<_> = (0..5).map(|n| connected_to(&mut w, LOOPBACKS[0], 4000 + n)).collect();
    w.tcp.set_limit(2);
    w.skip(Duration::from_secs(60));
    w.seen();
    let mut late = Guest::new(5000, flows[0].1.local_addr().unwrap());
    late.send(&mut w, "S", b"");
    // Whoever has been idle for longest makes room, nobody else.
    let resets: Vec<_> = w.seen().iter().filter(|s| s.has('R')).map(|s| s.dst_port).collect();
    assert_eq!((resets, w.tcp.len()), (vec![4000], 5));
}
