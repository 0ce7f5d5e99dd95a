//! A virtual machine's stream, cut wherever the kernel likes: frames in are frames out, until a length that none has.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use spelt::guest::{Room, ToGuest};
use spelt::link::{Batch, Input, Socket, Tee};
use spelt::sys::unix::Kind;
use spelt::wire::{ETH_LEN, FRAME_MAX, Offload};

/// How it is cut, then the stream.
pub fn stream(data: &[u8]) {
    let [cut, data @ ..] = data else { return };
    let data = &data[..data.len().min(64 << 10)];
    let (ours, mut theirs) = UnixStream::pair().expect("a pair of sockets");
    theirs.set_nonblocking(true).expect("a socket");
    let mut link = Socket::connected(OwnedFd::from(ours), Kind::Stream, 1500, Tee::default());
    let (mut batch, mut got) = (Batch::new(), Vec::new());
    let (expected, ends) = reference(data);
    let mut gone = false;
    for piece in data.chunks(usize::from(*cut) * 7 + 1) {
        theirs.write_all(piece).expect("room for a piece");
        gone = !take(&mut link, &mut batch, &mut got);
        if gone {
            break;
        }
    }
    assert_eq!((got.len(), gone), (expected.len(), ends));
    assert!(got.iter().zip(&expected).all(|(a, b)| a == b));
    if !gone {
        answer(&mut link, &mut theirs, &got);
    }
    link.disconnect(&mut batch, spelt::base::Instant::ZERO);
    assert_eq!(link.room(), Room::Nobody);
}

/// The frames in it, and whether it ends in what is none.
fn reference(mut data: &[u8]) -> (Vec<&[u8]>, bool) {
    let mut frames = Vec::new();
    while let Some((prefix, rest)) = data.split_first_chunk::<4>() {
        let len = u32::from_be_bytes(*prefix) as usize;
        if !(ETH_LEN..=FRAME_MAX).contains(&len) {
            return (frames, true);
        }
        let Some(frame) = rest.get(..len) else { break };
        frames.push(frame);
        data = &rest[len..];
    }
    (frames, false)
}

/// False: the link has had enough.
fn take(link: &mut Socket, batch: &mut Batch, got: &mut Vec<Vec<u8>>) -> bool {
    loop {
        batch.clear();
        let input = link.receive(batch);
        got.extend(batch.frames().map(|f| f.head.to_vec()));
        match input {
            Input::More => {}
            Input::Drained => return true,
            Input::Gone => return false,
        }
    }
}

/// What came goes back, and is the same on the other side.
fn answer(link: &mut Socket, theirs: &mut UnixStream, frames: &[Vec<u8>]) {
    let mut expected = Vec::new();
    for frame in frames {
        if link.send(frame, Offload::NONE).is_ok() {
            // As short as no frame on a wire is.
            let len = frame.len().max(60);
            expected.extend((len as u32).to_be_bytes());
            expected.extend(frame);
            expected.resize(expected.len() + len - frame.len(), 0);
        }
    }
    let (mut seen, mut room) = (Vec::new(), vec![0; 64 << 10]);
    loop {
        let _ = link.flush();
        match theirs.read(&mut room) {
            Ok(n) if n > 0 => seen.extend_from_slice(&room[..n]),
            _ => break,
        }
        link.writable();
    }
    assert_eq!(seen, expected);
}
