//! UNIX sockets that carry a guest's frames. No call here waits, whatever the descriptor's own mode: that may be shared with
//! whoever gave it to us.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use arrayvec::ArrayVec;
use nix::sys::socket::{getpeername, getsockopt, sockopt};

use super::dgram::zeroed_header;
use super::faults::{self, Call};
use super::iov::{Gather, Scatter};
use super::{result, unbroken};

/// Messages one call carries at most.
pub const MESSAGES_MAX: usize = 64;

/// Whether bytes or messages cross a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Stream,
    Datagram,
    /// Datagrams over a connection.
    SeqPacket,
}

/// What kind of connected UNIX socket this is.
///
/// # Errors
/// A sentence without its subject, which the caller knows better: what is wrong with it.
pub fn kind(fd: BorrowedFd<'_>) -> Result<Kind, &'static str> {
    use nix::sys::socket::SockType;
    let kind = match getsockopt(&fd, sockopt::SockType) {
        Ok(SockType::Stream) => Kind::Stream,
        Ok(SockType::Datagram) => Kind::Datagram,
        Ok(SockType::SeqPacket) => Kind::SeqPacket,
        Ok(_) => return Err("is a socket that carries no frames"),
        Err(nix::Error::EBADF) => return Err("is not open"),
        Err(_) => return Err("is no socket"),
    };
    match getpeername::<nix::sys::socket::SockaddrStorage>(fd.as_raw_fd()) {
        Ok(_) => Ok(kind),
        Err(_) => Err("is a socket that is not connected"),
    }
}

/// The process at the other end, as it is known here; `None` if the kernel does not say.
pub fn peer_pid(fd: &impl AsFd) -> Option<i32> {
    getsockopt(fd, sockopt::PeerCredentials).ok().map(|c| c.pid()).filter(|pid| *pid > 0)
}

/// The user at the other end, as it is known here.
pub fn peer_uid(fd: &impl AsFd) -> Option<u32> {
    getsockopt(fd, sockopt::PeerCredentials).ok().map(|c| c.uid())
}

/// Bytes of a stream; 0 is its end.
///
/// # Errors
/// The kernel's, `WouldBlock` when none are queued.
pub fn receive(fd: BorrowedFd<'_>, room: &mut [u8]) -> io::Result<usize> {
    // SAFETY: pointer and length describe `room`, which is ours to write.
    result(unsafe { libc::recv(fd.as_raw_fd(), room.as_mut_ptr().cast(), room.len(), libc::MSG_DONTWAIT) })
}

/// A message for each of the rooms, in order, as long as there are any. Returns their lengths, that of the room and one
/// more for a message that was longer.
///
/// # Errors
/// The kernel's for the first message, `WouldBlock` when none is queued.
pub fn receive_many(fd: BorrowedFd<'_>, rooms: &mut [Scatter<'_>]) -> io::Result<ArrayVec<usize, MESSAGES_MAX>> {
    let fd = fd.as_raw_fd();
    let count = faults::some(Call::ReceiveMessages, fd, rooms.len().min(MESSAGES_MAX));
    let iov = Scatter::as_raw(rooms);
    let mut headers: ArrayVec<libc::mmsghdr, MESSAGES_MAX> = (0..count).map(|_| zeroed_header()).collect();
    for (i, m) in headers.iter_mut().enumerate() {
        m.msg_hdr.msg_iov = iov.wrapping_add(i);
        m.msg_hdr.msg_iovlen = 1;
    }
    let got = unbroken(|| {
        faults::may_fail(Call::ReceiveMessages, fd)?;
        let (list, len) = (headers.as_mut_ptr(), headers.len() as _);
        // SAFETY: each header points to one iovec of `rooms`, which are writable and ours alone by Scatter's contract; the
        // headers live on this stack.
        result(unsafe { libc::recvmmsg(fd, list, len, libc::MSG_DONTWAIT as _, std::ptr::null_mut()) })
    })?;
    let len = |m: &libc::mmsghdr| m.msg_len as usize + usize::from(m.msg_hdr.msg_flags & libc::MSG_TRUNC != 0);
    Ok(headers[..got].iter().map(len).collect())
}

/// Sends each piece as a message of its own, in order, and returns how many the socket took.
///
/// # Errors
/// The kernel's for the first message, `WouldBlock` when there is no room for it.
pub fn send_many(fd: BorrowedFd<'_>, messages: &[Gather<'_>]) -> io::Result<usize> {
    let fd = fd.as_raw_fd();
    let count = faults::some(Call::SendMessages, fd, messages.len().min(MESSAGES_MAX));
    let iov = Gather::as_raw(messages).cast_mut();
    let mut headers: ArrayVec<libc::mmsghdr, MESSAGES_MAX> = (0..count).map(|_| zeroed_header()).collect();
    for (i, m) in headers.iter_mut().enumerate() {
        m.msg_hdr.msg_iov = iov.wrapping_add(i);
        m.msg_hdr.msg_iovlen = 1;
    }
    unbroken(|| {
        faults::may_fail(Call::SendMessages, fd)?;
        let (list, len) = (headers.as_mut_ptr(), headers.len() as _);
        // SAFETY: each header points to one iovec of `messages`, readable by Gather's contract; the kernel writes to the
        // headers only, which live on this stack.
        result(unsafe { libc::sendmmsg(fd, list, len, (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as _) })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

    #[test]
    fn kinds_are_told_apart() {
        let (stream, _other) = UnixStream::pair().unwrap();
        let (datagram, _another) = UnixDatagram::pair().unwrap();
        assert_eq!(kind(stream.as_fd()), Ok(Kind::Stream));
        assert_eq!(kind(datagram.as_fd()), Ok(Kind::Datagram));
        assert_eq!(kind(super::super::fdpass::pair().unwrap().0.as_fd()), Ok(Kind::SeqPacket));
        assert_eq!(kind(UnixDatagram::unbound().unwrap().as_fd()), Err("is a socket that is not connected"));
        assert_eq!(kind(std::io::stdin().as_fd()).map_err(|_| ()), Err(()));
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("s")).unwrap();
        assert_eq!(kind(listener.as_fd()), Err("is a socket that is not connected"));
        assert_eq!(peer_pid(&stream), Some(std::process::id() as i32));
    }

    #[test]
    fn messages_keep_their_bounds() {
        let (a, b) = UnixDatagram::pair().unwrap();
        let sent = send_many(a.as_fd(), &[Gather::new(b"one"), Gather::new(b""), Gather::new(b"longer")]).unwrap();
        assert_eq!(sent, 3);
        let (mut x, mut y, mut z, mut rest) = ([0; 4], [0; 4], [0; 4], [0; 4]);
        let mut rooms = [&mut x, &mut y, &mut z, &mut rest].map(|r| Scatter::new(r));
        assert_eq!(receive_many(b.as_fd(), &mut rooms).unwrap()[..], [3, 0, 5]);
        let mut rooms = [Scatter::new(&mut rest)];
        assert_eq!(receive_many(b.as_fd(), &mut rooms).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert_eq!((&x[..3], &z), (&b"one"[..], b"long"));
    }
}
