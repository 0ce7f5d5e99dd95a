//! One client of the control socket: lines that come in pieces, and replies that leave in pieces.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;

use crate::base::Instant;

/// A longer line is no request.
pub const LINE_BYTES_MAX: usize = 64 << 10;
/// Read in one go.
const ROOM_BYTES: usize = 16 << 10;

#[derive(Debug)]
pub struct Session {
    stream: UnixStream,
    input: Vec<u8>,
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
        Session { stream, input: Vec::new(), output: Vec::new(), sent: 0, ended: false, last_used: now }
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
            match self.stream.read(&mut room) {
                Ok(0) => self.ended = true,
                Ok(n) => self.input.extend_from_slice(&room[..n]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
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
