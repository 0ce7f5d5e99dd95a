use std::io::{Read, Write};
use std::os::unix::net::{UnixDatagram, UnixStream};

use super::*;
use crate::guest::Reservation;
use crate::link::framing::prefix;
use crate::sys::fdpass;

const MTU: u16 = 65520;

fn frame(n: u8, len: usize) -> Vec<u8> {
    vec![n; len]
}

fn framed(frame: &[u8]) -> Vec<u8> {
    [&prefix(frame.len())[..], frame].concat()
}

/// A listening link, and where it listens.
fn listening() -> (Socket, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(dir.path().join("s")).unwrap();
    listener.set_nonblocking(true).unwrap();
    (Socket::listening(listener, MTU, Tee::default()), dir)
}

fn connect(link: &mut Socket, dir: &tempfile::TempDir) -> UnixStream {
    let client = UnixStream::connect(dir.path().join("s")).unwrap();
    assert_eq!(link.accept(Instant::ZERO), Accepted::Client);
    client
}

/// A link with its client.
fn connected() -> (Socket, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (Socket::connected(ours.into(), Kind::Stream, MTU, Tee::default()), theirs)
}

/// First byte and length of each frame that has come, and how the last pass ended.
fn received(link: &mut Socket, batch: &mut Batch) -> (Vec<(u8, usize)>, Input) {
    let mut all = Vec::new();
    loop {
        batch.clear();
        let input = link.receive(batch);
        for f in batch.frames() {
            assert!(f.head.iter().all(|b| *b == f.head[0]));
            assert_eq!(f.offload, VOUCHED_FOR);
            all.push((f.head[0], f.len()));
        }
        if input != Input::More {
            return (all, input);
        }
    }
}

/// Everything the client can read now.
fn taken(client: &mut UnixStream) -> Vec<u8> {
    client.set_nonblocking(true).unwrap();
    let mut out = Vec::new();
    let _ = client.read_to_end(&mut out);
    out
}

#[test]
fn frames_arrive_however_the_stream_is_cut() {
    let (mut link, mut client) = connected();
    let mut batch = Batch::new();
    let stream: Vec<u8> =
        [(1, 14), (2, 60), (3, FRAME_MAX), (4, 1514)].iter().flat_map(|(n, len)| framed(&frame(*n, *len))).collect();
    let mut got = Vec::new();
    for cut in [1, 3, 2, 70, 5, 30_000] {
        let (now, rest) = stream.split_at(cut.min(stream.len()));
        client.write_all(now).unwrap();
        got.extend(received(&mut link, &mut batch).0);
        client.write_all(rest).unwrap();
        let (more, input) = received(&mut link, &mut batch);
        got.extend(more);
        assert_eq!(input, Input::Drained);
        assert_eq!(got, [(1, 14), (2, 60), (3, FRAME_MAX), (4, 1514)], "{cut}");
        got.clear();
    }
}

#[test]
fn more_frames_than_a_pass_takes_are_not_forgotten() {
    let (mut link, mut client) = connected();
    let all: Vec<u8> = (0..255u8).flat_map(|n| framed(&frame(n, 64))).collect();
    client.write_all(&all).unwrap();
    let (got, input) = received(&mut link, &mut Batch::new());
    assert_eq!((got.len(), input), (255, Input::Drained));
    assert!(got.iter().zip(0u8..).all(|(f, n)| *f == (n, 64)));
}

#[test]
fn d7_d30_half_a_frame_is_not_left_to_the_next_client() {
    let (mut link, dir) = listening();
    let mut batch = Batch::new();
    for half in [&framed(&frame(9, 1000))[..500], &[0, 0], &[], &[0, 0, 3, 0xe8]] {
        let mut client = connect(&mut link, &dir);
        client.write_all(&framed(&frame(1, 99))).unwrap();
        client.write_all(half).unwrap();
        drop(client);
        // As the event says that tells of both.
        link.ending();
        assert_eq!(received(&mut link, &mut batch), (vec![(1, 99)], Input::Gone));
        link.disconnect(&mut batch, Instant::ZERO);
    }
    let mut client = connect(&mut link, &dir);
    client.write_all(&framed(&frame(2, 77))).unwrap();
    assert_eq!(received(&mut link, &mut batch), (vec![(2, 77)], Input::Drained));
}

#[test]
fn half_a_frame_to_a_client_that_went_is_not_sent_to_the_next() {
    let (mut link, dir) = listening();
    let mut batch = Batch::new();
    let client = connect(&mut link, &dir);
    while link.room() == Room::Free {
        link.send(&frame(1, 60_000), Offload::NONE).unwrap();
        link.flush().unwrap();
    }
    drop(client);
    link.writable();
    assert_eq!(received(&mut link, &mut batch).1, Input::Gone);
    link.disconnect(&mut batch, Instant::ZERO);
    assert_eq!((link.room(), link.send(&frame(1, 60), Offload::NONE)), (Room::Nobody, Err(LinkFull)));
    let mut client = connect(&mut link, &dir);
    link.send(&frame(2, 60), Offload::NONE).unwrap();
    link.flush().unwrap();
    assert_eq!(taken(&mut client), framed(&frame(2, 60)));
}

#[test]
fn lengths_of_no_frame_end_the_connection_after_what_came_before() {
    for bad in [0, 13, FRAME_MAX as u32 + 1, u32::MAX] {
        let (mut link, mut client) = connected();
        client.write_all(&framed(&frame(5, 60))).unwrap();
        client.write_all(&bad.to_be_bytes()).unwrap();
        client.write_all(&framed(&frame(6, 60))).unwrap();
        assert_eq!(received(&mut link, &mut Batch::new()), (vec![(5, 60)], Input::Gone), "{bad}");
    }
}

#[test]
fn a_second_client_is_turned_away_and_the_first_goes_on() {
    let (mut link, dir) = listening();
    let mut first = connect(&mut link, &dir);
    let mut second = UnixStream::connect(dir.path().join("s")).unwrap();
    assert_eq!(link.accept(Instant::ZERO), Accepted::Nobody);
    assert!(!link.has_lost_client());
    assert_eq!(second.read(&mut [0]).unwrap(), 0);
    first.write_all(&framed(&frame(1, 60))).unwrap();
    assert_eq!(received(&mut link, &mut Batch::new()), (vec![(1, 60)], Input::Drained));
    drop(first);
    assert!(link.has_lost_client());
}

#[test]
fn what_a_slow_client_leaves_waits_and_nothing_is_lost() {
    let (mut link, mut client) = connected();
    let mut sent = 0;
    // Payload is taken while there is room.
    loop {
        let Some(mut r) = Reservation::new(&mut link, 4, 54, 60_000, Fill::Stream) else { break };
        r.commit(&frame(1, 54), 60_000, Offload::NONE).unwrap();
        sent += 1;
        drop(r);
        link.flush().unwrap();
    }
    assert!(link.room() == Room::Full && sent >= 3, "{sent}");
    // Answers are taken still, but not without end.
    let mut answers = 0;
    while link.send(&frame(2, 60), Offload::NONE).is_ok() {
        answers += 1;
    }
    assert!(answers > 1000, "{answers}");
    let (mut stream, mut got) = (Vec::new(), Vec::new());
    while got.len() < sent + answers {
        stream.extend(taken(&mut client));
        link.writable();
        while let Some(len) = framing::front(&stream).unwrap() {
            got.push((stream[framing::PREFIX_LEN], len));
            stream.drain(..framing::PREFIX_LEN + len);
        }
    }
    assert!(got[..sent].iter().all(|f| *f == (1, 60_054)) && got[sent..].iter().all(|f| *f == (2, 60)));
    assert!(stream.is_empty() && link.room() == Room::Free && !link.is_stuck());
    assert!(Reservation::new(&mut link, 4, 54, 60_000, Fill::Stream).is_some());
}

#[test]
fn b166_frames_are_padded_with_zeros() {
    let (mut link, mut client) = connected();
    link.send(&frame(1, 61), Offload::NONE).unwrap();
    let mut r = Reservation::new(&mut link, 1, 42, 100, Fill::Messages).unwrap();
    r.commit(&frame(2, 42), 3, Offload::NONE).unwrap();
    drop(r);
    link.flush().unwrap();
    let got = taken(&mut client);
    assert_eq!(got[..65], framed(&frame(1, 61)));
    assert_eq!((got.len(), &got[65..69], &got[69 + 45..]), (65 + 64, &prefix(60)[..], &[0; 15][..]));
}

#[test]
fn messages_are_frames() {
    let (ours, theirs) = UnixDatagram::pair().unwrap();
    let mut link = Socket::connected(ours.into(), Kind::Datagram, MTU, Tee::default());
    let mut batch = Batch::new();
    theirs.send(b"VFKT").unwrap();
    for n in 1..40u8 {
        theirs.send(&frame(n, 60 + usize::from(n))).unwrap();
        link.send(&frame(n, 60 + usize::from(n)), Offload::NONE).unwrap();
    }
    // The greeting is left to the parser, which takes it for no frame; so are these.
    for len in [1, FRAME_MAX + 100] {
        theirs.send(&vec![b'x'; len]).unwrap();
    }
    let mut lens = Vec::new();
    loop {
        batch.clear();
        let input = link.receive(&mut batch);
        lens.extend(batch.frames().map(|f| f.len()));
        if input == Input::Drained {
            break;
        }
    }
    assert_eq!((lens.len(), lens[0], lens[1], lens[40], lens[41]), (42, 4, 61, 1, FRAME_MAX + 1));
    link.flush().unwrap();
    theirs.set_nonblocking(true).unwrap();
    let mut room = [0; 200];
    for n in 1..40u8 {
        assert_eq!(theirs.recv(&mut room).unwrap(), 60 + usize::from(n));
    }
    drop(theirs);
    link.send(&frame(1, 60), Offload::NONE).unwrap();
    assert_eq!(link.flush(), Err(Gone));
    assert_eq!(received(&mut link, &mut batch).1, Input::Gone);
}

#[test]
fn a_connection_with_messages_has_an_end() {
    let (ours, theirs) = fdpass::pair().unwrap();
    let mut link = Socket::connected(ours, Kind::SeqPacket, MTU, Tee::default());
    let mut batch = Batch::new();
    for n in 1..4u8 {
        fdpass::send(theirs.as_fd(), &frame(n, 99), None).unwrap();
    }
    assert_eq!(received(&mut link, &mut batch), (vec![(1, 99), (2, 99), (3, 99)], Input::Drained));
    fdpass::send(theirs.as_fd(), &frame(4, 99), None).unwrap();
    drop(theirs);
    assert_eq!(received(&mut link, &mut batch), (vec![(4, 99)], Input::Gone));
}

#[test]
fn a_full_datagram_socket_waits_too() {
    let (ours, theirs) = UnixDatagram::pair().unwrap();
    let mut link = Socket::connected(ours.into(), Kind::Datagram, MTU, Tee::default());
    let mut sent = 0;
    while link.room() == Room::Free {
        link.send(&frame(1, 30_000), Offload::NONE).unwrap();
        link.flush().unwrap();
        sent += 1;
    }
    let mut room = vec![0; 40_000];
    for n in 0..sent {
        assert_eq!(theirs.recv(&mut room).unwrap(), 30_000);
        if n == sent / 2 {
            link.writable();
        }
    }
    assert!(link.room() == Room::Free && link.lost() == 0);
}
