//! The socket to the program: a stream of frames with their lengths in front, or one frame a datagram.

use std::io::{Error, IoSlice, Read, Result, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

use anyhow::{Context, bail};
use socket2::{Domain, SockAddr, Type};

/// A connected, non-blocking socket.
pub struct Socket {
    inner: socket2::Socket,
    kind: Type,
}

impl Socket {
    pub fn connect(path: &Path) -> anyhow::Result<Socket> {
        let inner = socket2::Socket::new(Domain::UNIX, Type::STREAM, None)?;
        inner.connect(&SockAddr::unix(path)?).with_context(|| format!("cannot connect to {}", path.display()))?;
        Socket::new(inner)
    }

    /// A descriptor that whoever started us has left open for us.
    pub fn given(fd: RawFd) -> anyhow::Result<Socket> {
        if fd <= libc::STDERR_FILENO {
            bail!("descriptor {fd} is not for a socket");
        }
        // SAFETY: it is ours by the caller's word, and nothing in this process has opened or closed anything of this
        // number; if it is not open, the first system call on it says so.
        Socket::new(socket2::Socket::from(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    fn new(inner: socket2::Socket) -> anyhow::Result<Socket> {
        inner.set_nonblocking(true)?;
        let kind = inner.r#type()?;
        Ok(Socket { inner, kind })
    }

    pub fn is_stream(&self) -> bool {
        self.kind == Type::STREAM
    }

    pub fn kind(&self) -> &'static str {
        match self.kind {
            Type::STREAM => "stream",
            Type::DGRAM => "dgram",
            _ => "seqpacket",
        }
    }

    /// Sends bytes of a stream. Returns how many went.
    pub fn send_bytes(&mut self, parts: &[IoSlice]) -> Result<usize> {
        self.inner.write_vectored(parts)
    }

    /// Receives bytes of a stream. Returns how many; 0 is its end.
    pub fn receive_bytes(&mut self, room: &mut [u8]) -> Result<usize> {
        self.inner.read(room)
    }

    /// Sends each frame, in two parts, as a datagram. Returns how many went.
    pub fn send_frames(&mut self, frames: &[[IoSlice; 2]]) -> Result<usize> {
        // SAFETY: all zeros is a valid msghdr: no name, no vectors, no control data.
        let mut messages: [libc::mmsghdr; FRAMES] = unsafe { std::mem::zeroed() };
        for (message, frame) in messages.iter_mut().zip(frames) {
            message.msg_hdr.msg_iov = frame.as_ptr().cast_mut().cast();
            message.msg_hdr.msg_iovlen = frame.len();
        }
        let count = frames.len().min(FRAMES) as libc::c_uint;
        // SAFETY: the first `count` messages point to two vectors of readable bytes each (an IoSlice has the layout of
        // an iovec), all of which outlive the call.
        let done = unsafe { libc::sendmmsg(self.inner.as_raw_fd(), messages.as_mut_ptr(), count, libc::MSG_NOSIGNAL) };
        usize::try_from(done).map_err(|_| Error::last_os_error())
    }

    /// Receives datagrams, one into each `stride` of the room, and appends their lengths.
    pub fn receive_frames(&mut self, room: &mut [u8], stride: usize, lengths: &mut Vec<usize>) -> Result<usize> {
        // SAFETY: all zeros is a valid msghdr and a valid iovec: nothing to point to.
        let (mut messages, mut parts): ([libc::mmsghdr; FRAMES], [libc::iovec; FRAMES]) =
            unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
        let mut count = 0;
        for ((message, part), room) in messages.iter_mut().zip(&mut parts).zip(room.chunks_exact_mut(stride)) {
            (part.iov_base, part.iov_len) = (room.as_mut_ptr().cast(), room.len());
            (message.msg_hdr.msg_iov, message.msg_hdr.msg_iovlen) = (&raw mut *part, 1);
            count += 1;
        }
        // SAFETY: each of the first `count` messages points to one vector of room, all of which outlive the call.
        let done = unsafe {
            libc::recvmmsg(
                self.inner.as_raw_fd(),
                messages.as_mut_ptr(),
                count,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        let done = usize::try_from(done).map_err(|_| Error::last_os_error())?;
        lengths.extend(messages[..done].iter().map(|message| message.msg_len as usize));
        Ok(done)
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }
}

/// Datagrams of one system call.
pub const FRAMES: usize = 64;
