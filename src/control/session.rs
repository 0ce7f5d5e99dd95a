//! One client of the control socket: lines that come in pieces, perhaps with a descriptor, and replies that leave in pieces.

use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use crate::base::Instant;
use crate::sys::fdpass;

/// A longer line is no request.
pub const LINE_BYTES_MAX: usize = 64 << 10;
/// Read in one go.
const ROOM_BYTES: usize = 16 << 10;

#[derive(Debug)]
pub struct Session {
    stream: UnixStream,
    input: Vec<u8>,
    /// The last one that came: with the beginning of a request that needs one, or before.
    pub descriptor: Option<OwnedFd>,
    output: Vec<u8>,
    /// Bytes of the output that the socket has taken.
    sent: usize,
    ended: bool,
    pub last_used: Instant,
}

/// What is there to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// A line, without its end.
    Line(Vec<u8>),
    /// More has to come, or to leave, first.
    Wait,
    Gone,
}

impl Session {
    /// `stream` is non-blocking.
    pub fn new(stream: UnixStream, now: Instant) -> Session {
        Session {
            stream,
            input: Vec::new(),
            descriptor: None,
            output: Vec::new(),
            sent: 0,
            ended: false,
            last_used: now,
        }
    }

    /// The next request. One at a time: while a reply is on its way no other is read.
    pub fn step(&mut self) -> Step {
        if let Err(e) = self.flush() {
            return if e.kind() == io::ErrorKind::WouldBlock { Step::Wait } else { Step::Gone };
        }
        loop {
            if let Some(end) = self.input.iter().position(|b| *b == b'\n') {
                let mut line: Vec<u8> = self.input.drain(..=end).collect();
                line.pop();
                return Step::Line(line);
            }
            if self.input.len() > LINE_BYTES_MAX {
                return Step::Gone;
            }
            if self.ended {
                // A last line need not have an end.
                return if self.input.is_empty() { Step::Gone } else { Step::Line(std::mem::take(&mut self.input)) };
            }
            let mut room = [0; ROOM_BYTES];
            match fdpass::recv_one_now(self.stream.as_fd(), &mut room) {
                Ok((0, _)) => self.ended = true,
                Ok((n, descriptor)) => {
                    self.input.extend_from_slice(&room[..n]);
                    self.descriptor = descriptor.or(self.descriptor.take());
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Step::Wait,
                Err(_) => return Step::Gone,
            }
        }
    }

    /// To be sent as the socket takes it.
    pub fn reply(&mut self, line: &[u8]) {
        self.output.extend_from_slice(line);
    }

    /// Sends what is left of replies, as far as the client takes it.
    ///
    /// # Errors
    /// `WouldBlock`; the kernel's.
    pub fn flush(&mut self) -> io::Result<()> {
        while self.sent < self.output.len() {
            match self.stream.write(&self.output[self.sent..]) {
                Ok(n) => self.sent += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        // A large reply's memory goes back.
        (self.output, self.sent) = (Vec::new(), 0);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn pair() -> (Session, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        (Session::new(ours, Instant::ZERO), theirs)
    }

    #[test]
    fn lines_come_in_pieces_and_several_at_once() {
        let (mut session, mut client) = pair();
        assert_eq!(session.step(), Step::Wait);
        client.write_all(b"on").unwrap();
        assert_eq!(session.step(), Step::Wait);
        client.write_all(b"e\ntwo\nthr").unwrap();
        assert_eq!((session.step(), session.step()), (Step::Line(b"one".into()), Step::Line(b"two".into())));
        assert_eq!(session.step(), Step::Wait);
        client.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!((session.step(), session.step()), (Step::Line(b"thr".into()), Step::Gone));
    }

    #[test]
    fn the_last_descriptor_is_kept() {
        let (mut session, client) = pair();
        let ends: Vec<_> = (0..2).map(|_| nix::unistd::pipe().unwrap()).collect();
        for (_, write) in &ends {
            fdpass::send(client.as_fd(), b"request\n", Some(write.as_fd())).unwrap();
        }
        fdpass::send(client.as_fd(), b"another\n", None).unwrap();
        let steps: Vec<_> = (0..4).map(|_| session.step()).collect();
        let line = |text: &[u8]| Step::Line(text.into());
        assert_eq!(steps, [line(b"request"), line(b"request"), line(b"another"), Step::Wait]);
        let mut kept = std::fs::File::from(session.descriptor.take().unwrap());
        drop(session);
        kept.write_all(b"x").unwrap();
        drop(kept);
        let (mut got, mut lost) = (Vec::new(), Vec::new());
        for ((read, write), text) in ends.into_iter().zip([&mut lost, &mut got]) {
            drop(write);
            std::fs::File::from(read).read_to_end(text).unwrap();
        }
        assert_eq!((got.as_slice(), lost.as_slice()), (&b"x"[..], &b""[..]));
    }

    #[test]
    fn who_does_not_read_is_not_read() {
        let (mut session, mut client) = pair();
        client.write_all(b"next\n").unwrap();
        session.reply(&vec![b'x'; 1 << 20]);
        assert_eq!(session.step(), Step::Wait);
        let mut got = vec![0; 1 << 20];
        let reader = std::thread::spawn(move || client.read_exact(&mut got).map(|()| client));
        let line = loop {
            match session.step() {
                Step::Wait => std::thread::sleep(std::time::Duration::from_millis(1)),
                step => break step,
            }
        };
        assert_eq!(line, Step::Line(b"next".into()));
        reader.join().unwrap().unwrap();
    }

    #[test]
    fn an_endless_line_is_no_request() {
        let (mut session, mut client) = pair();
        let mut step = Step::Wait;
        for _ in 0..10 {
            client.write_all(&[b'x'; ROOM_BYTES]).unwrap();
            step = session.step();
            if step == Step::Gone {
                break;
            }
        }
        assert_eq!(step, Step::Gone);
    }
}
