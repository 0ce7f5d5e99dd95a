//! Connections that go on at another worker.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener};
use std::time::Duration;

use spelt::base::DropReason;

use crate::world::{Guest, World, pattern};
use crate::{LOOPBACKS, connected, connected_to, inbound, read_all};

/// The worker that all flows have gone to; there is one at least. What the guest has not looked at yet it finds there.
fn moved(w: &mut World) -> World {
    let mut other = w.beside(1000);
    other.link.sent.append(&mut w.link.sent);
    assert_ne!(w.move_all_to(&mut other), 0);
    // What the first one had noted of them means nothing any more.
    w.settle_briefly();
    assert!(w.tcp.is_empty() && w.link.sent.is_empty());
    other
}

#[test]
fn connection_that_finds_no_room_is_reset_on_both_sides() {
    for address in LOOPBACKS {
        let mut w = World::plain();
        let (g, mut server) = connected_to(&mut w, address, 4000);
        let mut full = w.beside(2);
        let _flows: Vec<_> = (0..2).map(|n| connected_to(&mut full, address, 5000 + n)).collect();
        full.seen();
        assert_eq!(w.move_all_to(&mut full), 1);
        let seen = full.seen();
        assert_eq!((seen.len(), seen[0].dst_port, seen[0].flags.as_str()), (1, 4000, "R."));
        assert_eq!((seen[0].seq, seen[0].ack), (g.rcv, g.nxt));
        assert_eq!(server.read(&mut [0; 10]).unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert_eq!((full.tcp.len(), full.tcp.counters().dropped(DropReason::FlowTableFull)), (2, 1));
    }
}

#[test]
fn data_passes_both_ways() {
    for address in LOOPBACKS {
        for peek_offset in [true, false] {
            let mut w = World::plain();
            if !peek_offset {
                w.tcp.forgo_peek_offset();
            }
            let (mut g, mut server) = connected_to(&mut w, address, 4000);
            server.write_all(b"before").unwrap();
            assert_eq!(g.read(&mut w, 6), b"before");
            w.seen();
            let mut w = moved(&mut w);
            if !peek_offset {
                w.tcp.forgo_peek_offset();
            }
            server.write_all(&pattern(100_000)).unwrap();
            assert_eq!(g.read(&mut w, 100_000), pattern(100_000));
            g.send(&mut w, "F.", b"late");
            assert_eq!(read_all(&mut server), b"late");
        }
    }
}

#[test]
fn connection_ends_where_it_has_gone_to() {
    let mut w = World::plain();
    let (mut g, server) = connected(&mut w);
    let mut w = moved(&mut w);
    drop(server);
    w.until("the FIN", |w| !w.link.sent.is_empty());
    let seen = w.seen();
    g.take(&seen);
    g.send(&mut w, "F.", b"");
    w.settle();
    w.skip(Duration::from_secs(3));
    w.turn(0);
    assert!(w.tcp.is_empty());
}

#[test]
fn what_came_to_the_socket_on_the_way_is_delivered() {
    let mut w = World::plain();
    let (mut g, mut server) = connected(&mut w);
    // No turn between: it is the other one that hears of it.
    server.write_all(b"meanwhile").unwrap();
    let mut w = moved(&mut w);
    assert_eq!(g.read(&mut w, 9), b"meanwhile");
}

#[test]
fn what_was_under_way_is_sent_again() {
    for peek_offset in [true, false] {
        let mut w = World::plain();
        if !peek_offset {
            w.tcp.forgo_peek_offset();
        }
        let (mut g, mut server) = connected(&mut w);
        server.write_all(&pattern(10_000)).unwrap();
        w.settle();
        // Nothing of it arrived.
        assert!(!w.seen().is_empty());
        let mut other = w.beside(1000);
        if !peek_offset {
            other.tcp.forgo_peek_offset();
        }
        assert_eq!(w.move_all_to(&mut other), 1);
        other.skip(Duration::from_secs(1));
        assert_eq!(g.read(&mut other, 10_000), pattern(10_000));
    }
}

#[test]
fn remainder_is_delivered() {
    let mut w = World::plain();
    let listener = TcpListener::bind(LOOPBACKS[0]).unwrap();
    socket2::SockRef::from(&listener).set_recv_buffer_size(4096).unwrap();
    let mut g = Guest::new(4000, listener.local_addr().unwrap());
    g.connect(&mut w);
    let mut server = listener.accept().unwrap().0;
    let data = pattern(12_000_000);
    let sent = g.fill_up(&mut w, &data);
    w.seen();
    let mut w = moved(&mut w);
    // What the kernel has comes without our help.
    server.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let mut got = Vec::new();
    assert_eq!(server.read_to_end(&mut got).unwrap_err().kind(), ErrorKind::WouldBlock);
    assert!(got.len() < sent, "there is no remainder");
    server.set_nonblocking(true).unwrap();
    let mut buf = vec![0; 1 << 20];
    w.until("the remainder", |_| {
        while let Ok(n @ 1..) = server.read(&mut buf) {
            got.extend_from_slice(&buf[..n]);
        }
        got.len() >= sent
    });
    assert!(got == data[..sent], "content");
}

#[test]
fn owed_acknowledgement_is_sent() {
    let mut w = World::plain();
    let (mut g, _server) = connected(&mut w);
    w.seen();
    g.send(&mut w, ".", b"question");
    assert!(w.link.sent.is_empty(), "nothing is owed");
    let mut w = moved(&mut w);
    w.turn(0);
    let seen = w.seen();
    assert_eq!((seen.len(), seen[0].flags.as_str(), seen[0].ack), (1, ".", g.nxt));
}

#[test]
fn half_open_connection_of_the_guest_is_completed() {
    for address in LOOPBACKS {
        let mut w = World::plain();
        let listener = TcpListener::bind(address).unwrap();
        let mut g = Guest::new(4000, listener.local_addr().unwrap());
        g.send(&mut w, "S", b"");
        let mut w = moved(&mut w);
        g.connected(&mut w);
        g.send(&mut w, "F.", b"request");
        assert_eq!(read_all(&mut listener.accept().unwrap().0), b"request");
    }
}

#[test]
fn half_open_connection_of_a_client_is_completed() {
    for address in LOOPBACKS {
        let mut w = World::plain();
        let mut client = inbound(&mut w, address);
        client.write_all(b"early").unwrap();
        let mut w = moved(&mut w);
        let mut g = Guest::accept(&mut w);
        assert_eq!(g.read(&mut w, 5), b"early");
        g.send(&mut w, "F.", b"late");
        assert_eq!(read_all(&mut client), b"late");
    }
}

#[test]
fn unanswered_syn_is_sent_again() {
    let mut w = World::plain();
    let _client = inbound(&mut w, LOOPBACKS[0]);
    let first = w.seen().remove(0);
    let mut w = moved(&mut w);
    w.turn(0);
    assert!(w.link.sent.is_empty());
    w.skip(Duration::from_secs(1) + Duration::from_millis(5));
    w.turn(0);
    let again = w.seen().remove(0);
    assert_eq!((again.seq, again.window, again.flags), (first.seq, first.window, first.flags));
}

#[test]
fn half_open_connections_are_the_first_to_make_room() {
    let mut w = World::plain();
    let _client = inbound(&mut w, LOOPBACKS[0]);
    w.seen();
    let mut full = w.beside(1);
    assert_eq!(w.move_all_to(&mut full), 1);
    full.skip(Duration::from_secs(2));
    let listener = TcpListener::bind(LOOPBACKS[0]).unwrap();
    Guest::new(4000, listener.local_addr().unwrap()).send(&mut full, "S", b"");
    let first = full.seen().remove(0);
    assert_eq!((first.dst_port, first.flags.as_str(), full.tcp.len()), (80, "R", 1));
}

#[test]
fn half_closed_connection_brings_the_answer() {
    let mut w = World::plain();
    let (mut g, mut server) = connected(&mut w);
    g.send(&mut w, "F.", b"request");
    assert_eq!(read_all(&mut server), b"request");
    w.settle_briefly();
    w.seen();
    let mut w = moved(&mut w);
    server.write_all(&pattern(3000)).unwrap();
    server.shutdown(Shutdown::Write).unwrap();
    assert_eq!(g.read(&mut w, 3000), pattern(3000));
    w.until("the end", |w| {
        let seen = w.seen();
        g.take(&seen);
        g.ack(w);
        w.tcp.is_empty()
    });
}

/// A connection in TIME-WAIT, and its guest.
pub fn time_wait(w: &mut World) -> Guest {
    let (mut g, server) = connected(w);
    drop(server);
    w.until("the FIN", |w| !w.link.sent.is_empty());
    let seen = w.seen();
    g.take(&seen);
    g.send(w, "F.", b"");
    w.settle();
    assert_eq!((w.seen().len(), w.tcp.len()), (1, 1));
    g
}

#[test]
fn time_wait_ends() {
    let mut w = World::plain();
    time_wait(&mut w);
    let mut w = moved(&mut w);
    w.turn(0);
    assert_eq!(w.tcp.len(), 1);
    w.skip(Duration::from_secs(3));
    w.turn(0);
    assert!(w.tcp.is_empty());
}

#[test]
fn time_wait_makes_room_for_a_connection_of_its_name() {
    let mut w = World::plain();
    let mut g = time_wait(&mut w);
    let listener = TcpListener::bind(("127.0.0.1", g.remote)).unwrap();
    let mut w = moved(&mut w);
    g.nxt = g.nxt.wrapping_add(100_000);
    g.connect(&mut w);
    listener.accept().unwrap();
    assert_eq!(w.tcp.len(), 1);
}

#[test]
fn time_wait_makes_room_for_any_connection() {
    let mut w = World::plain();
    time_wait(&mut w);
    let mut full = w.beside(1);
    assert_eq!(w.move_all_to(&mut full), 1);
    connected_to(&mut full, LOOPBACKS[0], 5000);
    assert_eq!(full.tcp.len(), 1);
}
