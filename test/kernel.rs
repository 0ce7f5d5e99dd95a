//! What the program relies on the kernel for, one fact a test: when one of these fails, the kernel is not what the rest was
//! written for.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use spelt::sys::iov::{Gather, Scatter};
use spelt::sys::socket;

/// A connected pair over loopback: ours, nonblocking, and the peer's.
fn pair(address: &str) -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind(address).unwrap();
    let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (ours, _) = listener.accept().unwrap();
    ours.set_nonblocking(true).unwrap();
    peer.set_nodelay(true).unwrap();
    (ours, peer)
}

const BOTH: [&str; 2] = ["127.0.0.1:0", "[::1]:0"];

fn peek(s: &TcpStream, n: usize) -> std::io::Result<Vec<u8>> {
    let mut room = vec![0; n];
    let got = socket::peek(s.as_fd(), &mut [Scatter::new(&mut room)])?;
    room.truncate(got);
    Ok(room)
}

/// Waits until `n` bytes are queued behind the peek offset 0.
fn await_queued(s: &TcpStream, n: usize) {
    for _ in 0..500 {
        if s.peek(&mut vec![0; n]).is_ok_and(|got| got >= n) {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("{n} bytes did not arrive");
}

fn next_event(poll: &mut Poll, events: &mut Events) -> bool {
    poll.poll(events, Some(Duration::from_millis(300))).unwrap();
    !events.is_empty()
}

#[test]
fn peeking_moves_the_offset_forward_and_discarding_moves_it_back() {
    for address in BOTH {
        let (ours, mut peer) = pair(address);
        peer.write_all(b"abcdefghij").unwrap();
        await_queued(&ours, 10);
        socket::set_peek_offset(ours.as_fd(), 0).unwrap();
        assert_eq!(peek(&ours, 4).unwrap(), b"abcd");
        assert_eq!(peek(&ours, 2).unwrap(), b"ef");
        assert_eq!(socket::discard(ours.as_fd(), 3).unwrap(), 3);
        assert_eq!(peek(&ours, 9).unwrap(), b"ghij");
        assert_eq!(peek(&ours, 9).unwrap_err().kind(), ErrorKind::WouldBlock);
        socket::set_peek_offset(ours.as_fd(), 0).unwrap();
        assert_eq!(peek(&ours, 9).unwrap(), b"defghij");
    }
}

#[test]
fn the_end_of_stream_shows_behind_peeked_data() {
    for address in BOTH {
        let (ours, mut peer) = pair(address);
        peer.write_all(b"last").unwrap();
        peer.shutdown(Shutdown::Write).unwrap();
        await_queued(&ours, 4);
        socket::set_peek_offset(ours.as_fd(), 0).unwrap();
        assert_eq!(peek(&ours, 9).unwrap(), b"last");
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(peek(&ours, 9).unwrap(), b"");
    }
}

#[test]
fn new_data_makes_an_edge_although_peeked_data_is_still_queued() {
    let (ours, mut peer) = pair(BOTH[0]);
    let mut poll = Poll::new().unwrap();
    let mut events = Events::with_capacity(4);
    poll.registry().register(&mut SourceFd(&ours.as_raw_fd()), Token(1), Interest::READABLE).unwrap();
    socket::set_peek_offset(ours.as_fd(), 0).unwrap();
    for part in [b"one", b"two"] {
        peer.write_all(part).unwrap();
        assert!(next_event(&mut poll, &mut events));
        assert_eq!(peek(&ours, 9).unwrap(), part);
    }
    poll.poll(&mut events, Some(Duration::from_millis(50))).unwrap();
    assert!(events.is_empty(), "queued but peeked data must not spin");
}

#[test]
fn a_short_read_needs_no_second_look_because_later_data_makes_an_edge() {
    let (ours, mut peer) = pair(BOTH[0]);
    let mut poll = Poll::new().unwrap();
    let mut events = Events::with_capacity(4);
    poll.registry().register(&mut SourceFd(&ours.as_raw_fd()), Token(1), Interest::READABLE).unwrap();
    peer.write_all(b"x").unwrap();
    assert!(next_event(&mut poll, &mut events));
    let mut buffer = [0; 10];
    assert_eq!((&ours).read(&mut buffer).unwrap(), 1);
    peer.shutdown(Shutdown::Write).unwrap();
    assert!(next_event(&mut poll, &mut events));
    assert!(events.iter().next().unwrap().is_read_closed());
}

#[test]
fn a_socket_that_was_full_tells_when_it_is_not() {
    let (ours, mut peer) = pair(BOTH[0]);
    let mut poll = Poll::new().unwrap();
    let mut events = Events::with_capacity(4);
    let interest = Interest::READABLE | Interest::WRITABLE;
    poll.registry().register(&mut SourceFd(&ours.as_raw_fd()), Token(1), interest).unwrap();
    let block = vec![7; 1 << 20];
    let mut sent = 0;
    loop {
        match socket::send(ours.as_fd(), &[Gather::new(&block)]) {
            Ok(n) => sent += n,
            Err(e) => break assert_eq!(e.kind(), ErrorKind::WouldBlock),
        }
        assert!(sent < 1 << 30);
    }
    // The edge of the registration itself.
    poll.poll(&mut events, Some(Duration::ZERO)).unwrap();
    let mut sink = vec![0; 1 << 20];
    let mut got = 0;
    while got < sent {
        got += peer.read(&mut sink).unwrap();
    }
    assert!(next_event(&mut poll, &mut events));
    assert!(events.iter().next().unwrap().is_writable());
}

#[test]
fn free_send_space_shrinks_with_what_is_queued() {
    let (ours, _peer) = pair(BOTH[0]);
    let before = socket::send_space(ours.as_fd()).unwrap();
    assert!(before > 0);
    let block = vec![7; 1 << 20];
    while socket::send(ours.as_fd(), &[Gather::new(&block)]).is_ok() {}
    assert!(socket::send_space(ours.as_fd()).unwrap() < before / 4);
}

#[test]
fn data_that_came_before_a_reset_is_still_there() {
    let (ours, mut peer) = pair(BOTH[0]);
    peer.write_all(b"before").unwrap();
    await_queued(&ours, 6);
    socket::set_reset_on_close(peer.as_fd()).unwrap();
    drop(peer);
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(peek(&ours, 9).unwrap(), b"before");
    assert_eq!(socket::discard(ours.as_fd(), 6).unwrap(), 6);
    assert_eq!(peek(&ours, 9).unwrap_err().kind(), ErrorKind::ConnectionReset);
}
