//! What the program relies on the kernel for, one fact a test: when one of these fails, the kernel is not what the rest was
//! written for.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use spelt::sys::iov::{Gather, Scatter};
use spelt::sys::splice::Pipe;
use spelt::sys::{socket, sockopt, unix};

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

/// A UNIX stream that carries one pattern for ever, in copies and in lent pages, and books about what was read of it.
struct Lending {
    to: UnixStream,
    reader: UnixStream,
    pipe: Pipe,
    memory: Vec<u8>,
    /// Bytes that are in the pipe, and that ever went into the socket and out of it.
    piped: usize,
    sent: usize,
    read: usize,
    /// Of those sent.
    lent: usize,
    seed: u64,
}

impl Lending {
    const PERIOD: usize = 251;
    /// Of parts of a page, a page and its neighbours, what the kernel puts into one buffer of a copy, and more.
    const SIZES: [usize; 10] = [1, 60, 1400, 4095, 4096, 4097, 9000, 32_768, 65_549, 200_000];

    fn new(seed: u64) -> Lending {
        let (to, reader) = UnixStream::pair().unwrap();
        to.set_nonblocking(true).unwrap();
        sockopt::set(to.as_fd(), libc::SOL_SOCKET, libc::SO_SNDBUF, 512 << 10).unwrap();
        reader.set_nonblocking(true).unwrap();
        let pipe = Pipe::new().unwrap();
        pipe.resize(256 << 10).unwrap();
        let memory = (0..1 << 20).map(|i| (i % Lending::PERIOD) as u8).collect();
        Lending { to, reader, pipe, memory, piped: 0, sent: 0, read: 0, lent: 0, seed }
    }

    fn chance(&mut self, below: usize) -> usize {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.seed >> 33) as usize % below
    }

    fn size(&mut self) -> usize {
        Lending::SIZES[self.chance(Lending::SIZES.len())]
    }

    /// Where in memory the pattern goes on from byte `position` of the stream, in one of many pages.
    fn place(&mut self, position: usize) -> usize {
        self.chance(3000) * Lending::PERIOD + position % Lending::PERIOD
    }

    /// One call's worth of the stream; false: the socket takes no more.
    fn write(&mut self) -> bool {
        let len = self.size();
        if self.piped > 0 {
            // Not always all of what is in the pipe, nor whole pages.
            let done = self.pipe.drain(self.to.as_fd(), len.min(self.piped));
            let n = count(&done);
            (self.piped, self.sent, self.lent) = (self.piped - n, self.sent + n, self.lent + n);
            return done.is_ok();
        }
        let (copied, one, other) = (self.chance(2) == 0, self.place(self.sent), self.place(self.sent + len));
        let pieces = [Gather::new(&self.memory[one..one + len]), Gather::new(&self.memory[other..other + 100])];
        if copied {
            let done = socket::send(self.to.as_fd(), &pieces);
            self.sent += count(&done);
            return done.is_ok();
        }
        self.piped = self.pipe.lend(&pieces).unwrap();
        true
    }

    /// Reads a part of what there is, which is as it should be; false: there was nothing.
    fn read(&mut self) -> bool {
        let mut room = vec![0; self.size()];
        let done = self.reader.read(&mut room);
        let n = count(&done);
        let expected = self.read % Lending::PERIOD;
        assert!(room[..n] == self.memory[expected..expected + n], "after {} bytes", self.read);
        self.read += n;
        done.is_ok()
    }

    fn assert_counted(&self) {
        let (counted, left) = (unix::unread(self.to.as_fd()).unwrap(), self.sent - self.read);
        assert!(counted >= left, "{counted} bytes counted, {left} not read, {} read", self.read);
    }
}

/// Bytes that a call moved. The only reason for none is that it would wait.
fn count(done: &std::io::Result<usize>) -> usize {
    done.as_ref().map_or_else(|e| assert_eq!(e.kind(), ErrorKind::WouldBlock), |n| assert!(*n > 0));
    *done.as_ref().unwrap_or(&0)
}

/// Pages that are lent to a UNIX stream are written again when this count says that they have been read.
#[test]
fn a_unix_stream_counts_no_less_than_its_reader_has_not_read() {
    let mut lending = Lending::new(7);
    for _ in 0..1000 {
        for _ in 0..lending.chance(60) {
            if !lending.write() {
                break;
            }
            lending.assert_counted();
        }
        // Now and then all of it.
        for _ in 0..lending.chance(300) {
            if !lending.read() {
                assert_eq!((lending.sent, unix::unread(lending.to.as_fd()).unwrap()), (lending.read, 0));
                break;
            }
            lending.assert_counted();
        }
    }
    let (lent, copied) = (lending.lent, lending.sent - lending.lent);
    assert!(lent > 32 << 20 && copied > 32 << 20, "{lent} bytes lent and {copied} copied are few");
}
