//! One connection.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use super::codec::{self, Guest, REQUEST_BYTES_MAX, Request};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Asking,
    Answering,
    /// We are done, the client is not.
    Ending,
    Gone,
}

#[derive(Debug)]
pub(super) struct Client {
    stream: UnixStream,
    pub state: State,
    request: Vec<u8>,
    answer: Vec<u8>,
    /// Bytes of the answer that the socket has taken.
    sent: usize,
}

impl Client {
    /// `stream` is non-blocking.
    pub fn new(stream: UnixStream) -> Client {
        Client { stream, state: State::Asking, request: Vec::new(), answer: Vec::new(), sent: 0 }
    }

    /// Reads on. `None`: the request is not complete yet, or will never be.
    pub fn ask(&mut self, guest: &Guest) -> Option<Result<Request, String>> {
        loop {
            let mut piece = [0; REQUEST_BYTES_MAX];
            let room = REQUEST_BYTES_MAX - self.request.len();
            let ended = match read(&mut self.stream, &mut piece[..room]) {
                Got::Bytes(n) => {
                    self.request.extend_from_slice(&piece[..n]);
                    false
                }
                Got::End => true,
                Got::Later => return None,
                Got::Broken => {
                    self.state = State::Gone;
                    return None;
                }
            };
            let decoded = codec::decode(&self.request, ended, guest);
            if decoded.is_some() {
                self.request = Vec::new();
                return decoded;
            }
        }
    }

    pub fn answer(&mut self, answer: Vec<u8>) {
        self.answer = answer;
        self.state = State::Answering;
    }

    /// Sends and discards as far as it goes. True: there is nothing left to do.
    pub fn go_on(&mut self) -> bool {
        if self.state == State::Answering {
            self.send();
        }
        if self.state == State::Ending {
            self.discard();
        }
        self.state == State::Gone
    }

    fn send(&mut self) {
        while self.sent < self.answer.len() {
            match self.stream.write(&self.answer[self.sent..]) {
                Ok(n) => self.sent += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => {
                    self.state = State::Gone;
                    return;
                }
            }
        }
        self.answer = Vec::new();
        self.state = if self.stream.shutdown(Shutdown::Write).is_ok() { State::Ending } else { State::Gone };
    }

    fn discard(&mut self) {
        let mut piece = [0; REQUEST_BYTES_MAX];
        for _ in 0..DISCARDS_MAX {
            match read(&mut self.stream, &mut piece) {
                Got::Bytes(_) => {}
                Got::Later => return,
                Got::End | Got::Broken => break,
            }
        }
        self.state = State::Gone;
    }
}

/// Reads that a client may cost us after its answer.
const DISCARDS_MAX: usize = 64;

enum Got {
    Bytes(usize),
    End,
    Later,
    Broken,
}

fn read(stream: &mut UnixStream, into: &mut [u8]) -> Got {
    loop {
        return match stream.read(into) {
            Ok(0) => Got::End,
            Ok(n) => Got::Bytes(n),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Got::Later,
            Err(_) => Got::Broken,
        };
    }
}
