//! How connections end: resets, half-closes, refusals.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

use spelt::sys::readiness;

use crate::world::{Guest, World, pattern};
use crate::{LOOPBACKS, connected, inbound, read_all};

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

/// What came before a reset may be more than one turn is for.
#[test]
fn all_that_came_before_a_reset_is_delivered() {
    let mut w = World::offloading(65520);
    let (mut g, mut server) = connected(&mut w);
    server.set_nonblocking(true).unwrap();
    // The kernel lets the socket's buffer grow as the guest acknowledges.
    w.until("a flow that waits for its turn", |w| {
        while server.write(&[0; 65536]).is_ok() {}
        let seen = w.seen();
        g.take(&seen);
        g.ack(w);
        w.tcp.has_pending()
    });
    g.send(&mut w, ".", b"unread");
    while server.write(&[0; 65536]).is_ok() {}
    let seen = w.seen();
    g.take(&seen);
    g.ack(&mut w);
    let came = readiness::queued(w.tcp.views(w.now()).next().unwrap().host.unwrap().as_raw_fd()).unwrap();
    drop(server);
    let mut got = 0;
    w.until("the RST", |w| {
        let seen = w.seen();
        got += g.take(&seen).len();
        g.ack(w);
        seen.iter().any(|s| s.has('R'))
    });
    assert_eq!(got, came);
}

/// Nor does it overtake them where the link is full.
#[test]
fn a_reset_waits_behind_what_waits_for_the_link() {
    reset_behind_a_full_link(|w, _, server| {
        drop(server);
        w.settle();
    });
}

/// The same if a segment of the guest is what meets the reset.
#[test]
fn a_reset_that_a_segment_meets_waits_as_well() {
    reset_behind_a_full_link(|w, g, server| {
        w.settle();
        drop(server);
        for _ in 0..3 {
            g.send(w, ".", b"more");
            w.turn(1);
        }
    });
}

/// `close`: the server closes, with data unread, while what it has sent waits for the link.
fn reset_behind_a_full_link(close: impl FnOnce(&mut World, &mut Guest, TcpStream)) {
    let mut w = World::plain();
    let (mut g, mut server) = connected(&mut w);
    g.send(&mut w, ".", b"unread");
    w.turn(0);
    w.seen();
    w.link.room = 3;
    let data = pattern(20_000);
    server.write_all(&data).unwrap();
    close(&mut w, &mut g, server);
    w.link.room = usize::MAX;
    w.link_ready();
    w.until("the RST", |w| w.link.sent.len() > 14);
    let seen = w.seen();
    assert!(g.take(&seen) == data);
    assert!(seen.last().unwrap().has('R') && w.tcp.is_empty());
}

/// Room that acknowledgements under way will make is there for what came before a reset.
#[test]
fn a_reset_waits_for_acknowledgements() {
    for by_event in [true, false] {
        let mut w = World::plain();
        let (mut g, mut server) = connected(&mut w);
        g.window = 20;
        g.send(&mut w, ".", b"unread");
        let data = pattern(20_000);
        server.write_all(&data).unwrap();
        drop(server);
        if by_event {
            w.settle();
        } else {
            w.turn(1);
        }
        for _ in 0..3 {
            g.send(&mut w, ".", b"more");
            w.turn(1);
        }
        let mut got = Vec::new();
        w.until("the RST", |w| {
            let seen = w.seen();
            got.extend(g.take(&seen));
            g.ack(w);
            seen.iter().any(|s| s.has('R'))
        });
        assert!(got == data, "{} bytes", got.len());
        assert!(w.tcp.is_empty());
    }
}

/// A server that answers while the guest's upload fills all there is on the way, and closes.
#[test]
fn an_answer_comes_before_the_reset_that_a_remainder_meets() {
    let mut w = World::plain();
    let listener = TcpListener::bind(LOOPBACKS[0]).unwrap();
    socket2::SockRef::from(&listener).set_recv_buffer_size(4096).unwrap();
    let mut g = Guest::new(4000, listener.local_addr().unwrap());
    g.connect(&mut w);
    let mut server = listener.accept().unwrap().0;
    g.fill_up(&mut w, &pattern(12_000_000));
    w.seen();
    server.write_all(b"413").unwrap();
    drop(server);
    w.until("the RST", |w| w.tcp.is_empty());
    let seen = w.seen();
    assert_eq!(g.take(&seen), b"413");
    assert!(seen.last().unwrap().has('R'));
}

/// Else a stream that its end alone delimits would seem to be whole.
#[test]
fn a_reset_that_a_look_behind_a_shut_window_finds_is_a_reset() {
    let mut w = World::plain();
    let (mut g, mut server) = connected(&mut w);
    g.send(&mut w, ".", b"unread");
    server.write_all(b"all that there is room for").unwrap();
    assert_eq!(g.read(&mut w, 26), b"all that there is room for");
    g.window = 0;
    g.ack(&mut w);
    w.settle();
    drop(server);
    w.settle();
    w.skip(Duration::from_secs(1));
    w.settle();
    g.window = 1000;
    g.ack(&mut w);
    w.settle();
    let seen = w.seen();
    assert!(seen.iter().any(|s| s.has('R')) && !seen.iter().any(|s| s.has('F')), "{seen:?}");
    assert!(w.tcp.is_empty());
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

/// What a client like `nc -N` does; some translators reset such connections.
#[test]
fn d26_client_may_half_close_before_the_guest_has_answered() {
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

#[test]
fn bytes_of_a_client_that_resets_before_the_guest_has_answered() {
    let mut w = World::plain();
    let mut client = inbound(&mut w, LOOPBACKS[0]);
    client.write_all(b"request").unwrap();
    socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    w.settle();
    let mut g = Guest::accept(&mut w);
    w.turn(0);
    let seen = w.seen();
    assert_eq!(g.take(&seen), b"request");
    assert!(seen.last().unwrap().has('R'), "{seen:?}");
    assert!(w.tcp.is_empty());
}
