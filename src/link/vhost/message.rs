//! Messages of the vhost-user protocol on their socket: a header of twelve bytes, a body, descriptors. Numbers are in the
//! machine's byte order.
//!
//! They are taken as they come, in parts if need be, and nothing waits for the rest.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};

use vhost::vhost_user::message::FrontendReq;

use crate::sys::iov::Gather;
use crate::sys::{fdpass, socket};

/// Bytes of the header.
const HEADER: usize = 12;
/// Longest body that is read, if only to be refused. What the protocol has is far shorter.
const BODY_MAX: usize = 64 << 10;
/// Descriptors with one message: as many as there may be regions of memory.
pub const FDS_MAX: usize = 32;

const VERSION_MASK: u32 = 3;
const VERSION: u32 = 1;
const REPLY: u32 = 4;
const NEED_REPLY: u32 = 8;

/// What the other end wants.
#[derive(Debug)]
pub struct Request {
    /// As it came: it may be one that nobody knows.
    code: u32,
    /// It wants to hear whether it was done, if that was agreed on.
    pub needs_reply: bool,
    body: Vec<u8>,
    pub fds: Vec<OwnedFd>,
}

impl Request {
    pub fn code(&self) -> Option<FrontendReq> {
        FrontendReq::try_from(self.code).ok()
    }

    /// For messages to the user.
    pub fn name(&self) -> String {
        self.code().map_or_else(|| format!("request {}", self.code), |code| format!("{code:?}"))
    }

    /// The body's numbers of 32 bits, if there are just as many.
    pub fn u32s<const N: usize>(&self) -> Option<[u32; N]> {
        if self.body.len() != 4 * N {
            return None;
        }
        let mut numbers = [0; N];
        for (number, raw) in numbers.iter_mut().zip(self.body.as_chunks().0) {
            *number = u32::from_ne_bytes(*raw);
        }
        Some(numbers)
    }

    /// The same with 64 bits.
    pub fn u64s<const N: usize>(&self) -> Option<[u64; N]> {
        if self.body.len() != 8 * N { None } else { self.u64s_from(0) }
    }

    /// `N` numbers of 64 bits from byte `at` on, if the body has so many.
    pub fn u64s_from<const N: usize>(&self, at: usize) -> Option<[u64; N]> {
        let bytes = self.body.get(at..at.checked_add(8 * N)?)?;
        let mut numbers = [0; N];
        for (number, raw) in numbers.iter_mut().zip(bytes.as_chunks().0) {
            *number = u64::from_ne_bytes(*raw);
        }
        Some(numbers)
    }

    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// True if the other end waits for the answer, whether it says so or not: there is none by which it could be told no.
    pub fn is_always_answered(&self) -> bool {
        matches!(self.code(), Some(FrontendReq::SET_LOG_BASE | FrontendReq::GET_VRING_BASE))
    }

    /// The one descriptor that came, if it was one.
    pub fn fd(&mut self) -> Option<OwnedFd> {
        if self.fds.len() == 1 { self.fds.pop() } else { None }
    }

    #[cfg(test)]
    pub fn for_test(code: u32, body: Vec<u8>, fds: Vec<OwnedFd>) -> Request {
        Request { code, needs_reply: true, body, fds }
    }
}

/// Why no more can be made of a connection.
#[derive(Debug, thiserror::Error)]
pub enum End {
    /// The other end has closed it.
    #[error("it was closed")]
    Closed,
    #[error("what came is no message of the vhost-user protocol: {0}")]
    NoMessage(String),
    #[error("it failed")]
    Failed(#[from] io::Error),
}

/// The message that is coming in.
#[derive(Debug, Default)]
pub struct Inbox {
    header: [u8; HEADER],
    /// Bytes of the header, then of the body, that are there.
    have: usize,
    body: Vec<u8>,
    fds: Vec<OwnedFd>,
}

impl Inbox {
    /// The next message; `None`: it is not all there yet.
    ///
    /// # Errors
    /// [`End`].
    pub fn receive(&mut self, from: &impl AsFd) -> Result<Option<Request>, End> {
        loop {
            let room = if self.have < HEADER {
                &mut self.header[self.have..]
            } else {
                let done = self.have - HEADER;
                if done == self.body.len() {
                    return Ok(Some(self.finish()));
                }
                &mut self.body[done..]
            };
            match fdpass::recv_now(from.as_fd(), room, &mut self.fds) {
                Ok(0) => return Err(End::Closed),
                Ok(n) => self.have += n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(e) if e.raw_os_error() == Some(libc::ECONNRESET) => return Err(End::Closed),
                Err(e) => return Err(End::Failed(e)),
            }
            if self.fds.len() > FDS_MAX {
                return Err(End::NoMessage(format!("it has more than {FDS_MAX} descriptors")));
            }
            if self.have == HEADER {
                self.begin_body()?;
            }
        }
    }

    fn begin_body(&mut self) -> Result<(), End> {
        let flags = self.word(4);
        let len = self.word(8) as usize;
        if flags & VERSION_MASK != VERSION {
            return Err(End::NoMessage(format!("version {} instead of {VERSION}", flags & VERSION_MASK)));
        }
        if len > BODY_MAX {
            return Err(End::NoMessage(format!("a length of {len} bytes")));
        }
        self.body = vec![0; len];
        Ok(())
    }

    fn finish(&mut self) -> Request {
        self.have = 0;
        Request {
            code: self.word(0),
            needs_reply: self.word(4) & NEED_REPLY != 0,
            body: std::mem::take(&mut self.body),
            fds: std::mem::take(&mut self.fds),
        }
    }

    fn word(&self, at: usize) -> u32 {
        let [a, b, c, d] = [0, 1, 2, 3].map(|i| self.header[at + i]);
        u32::from_ne_bytes([a, b, c, d])
    }
}

/// Answers `request`. One that does not take the answer at once does not read: it is not waited for.
///
/// # Errors
/// [`End`].
pub fn reply(to: &impl AsFd, request: &Request, body: &[u8]) -> Result<(), End> {
    let mut message = Vec::with_capacity(HEADER + body.len());
    for word in [request.code, VERSION | REPLY, body.len() as u32] {
        message.extend(word.to_ne_bytes());
    }
    message.extend(body);
    match socket::send(to.as_fd(), &[Gather::new(&message)]) {
        Ok(n) if n == message.len() => Ok(()),
        Ok(_) => Err(End::Failed(io::Error::other("it does not read our answers"))),
        Err(e) if e.kind() == ErrorKind::WouldBlock => {
            Err(End::Failed(io::Error::other("it does not read our answers")))
        }
        Err(e) if e.raw_os_error() == Some(libc::EPIPE) => Err(End::Closed),
        Err(e) => Err(End::Failed(e)),
    }
}
