//! splice(2) between stream sockets, by way of a pipe: pages change hands and no byte is copied.
//!
//! System calls: pipe2, fcntl (`F_SETPIPE_SZ`), splice, close.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::faults::{self, Call};
use super::{result, unbroken};

/// A pipe that holds pages between two sockets. Neither end blocks.
#[derive(Debug)]
pub struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
}

impl Pipe {
    /// A pipe with the kernel's default capacity: 16 pages, or 2 for a user who has too many pipes already.
    ///
    /// # Errors
    /// The kernel's: `EMFILE`, `ENFILE`.
    pub fn new() -> io::Result<Pipe> {
        faults::may_fail(Call::Pipe, -1)?;
        let mut ends = [0; 2];
        // SAFETY: the kernel writes two descriptors to the array.
        result(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC | libc::O_NONBLOCK) })?;
        // SAFETY: both descriptors are new, open and nobody else's.
        let [reader, writer] = ends.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
        Ok(Pipe { reader, writer })
    }

    /// Asks for room for `bytes` / 4096 pages, and returns the bytes there are now.
    ///
    /// # Errors
    /// `EPERM` above `pipe-max-size`, or when the user's pipes would exceed `pipe-user-pages-soft` (pipe(7)).
    pub fn resize(&self, bytes: usize) -> io::Result<usize> {
        let bytes = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
        // SAFETY: F_SETPIPE_SZ takes an int and touches no memory of ours.
        result(unsafe { libc::fcntl(self.writer.as_raw_fd(), libc::F_SETPIPE_SZ, bytes) })
    }

    /// Moves up to `max` bytes from a non-blocking socket into the pipe. 0: end of stream, or urgent data next.
    ///
    /// # Errors
    /// The kernel's, `WouldBlock` when the socket's queue is empty or the pipe is full.
    pub fn fill(&self, from: BorrowedFd<'_>, max: usize) -> io::Result<usize> {
        splice(from, self.writer.as_fd(), from, max)
    }

    /// Moves up to `max` bytes from the pipe to a non-blocking socket. Raises SIGPIPE as write(2) does.
    ///
    /// # Errors
    /// The kernel's, `WouldBlock` when the socket's buffer is full or the pipe is empty.
    pub fn drain(&self, to: BorrowedFd<'_>, max: usize) -> io::Result<usize> {
        splice(self.reader.as_fd(), to, to, max)
    }
}

/// `socket`: which of both is no pipe.
fn splice(from: BorrowedFd<'_>, to: BorrowedFd<'_>, socket: BorrowedFd<'_>, max: usize) -> io::Result<usize> {
    const FLAGS: libc::c_uint = libc::SPLICE_F_MOVE | libc::SPLICE_F_NONBLOCK;
    let (from, to) = (from.as_raw_fd(), to.as_raw_fd());
    let max = faults::some(Call::Splice, socket.as_raw_fd(), max);
    unbroken(|| {
        faults::may_fail(Call::Splice, socket.as_raw_fd())?;
        // SAFETY: both offsets are null, as pipes and sockets demand; no memory of ours is touched.
        result(unsafe { libc::splice(from, std::ptr::null_mut(), to, std::ptr::null_mut(), max, FLAGS) })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    #[test]
    fn bytes_pass_through_and_ends_are_told() {
        let (mut a, from) = UnixStream::pair().unwrap();
        let (to, mut b) = UnixStream::pair().unwrap();
        from.set_nonblocking(true).unwrap();
        to.set_nonblocking(true).unwrap();
        let pipe = Pipe::new().unwrap();
        assert_eq!(pipe.fill(from.as_fd(), 100).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        a.write_all(b"hello").unwrap();
        assert_eq!(pipe.fill(from.as_fd(), 100).unwrap(), 5);
        assert_eq!(pipe.drain(to.as_fd(), 100).unwrap(), 5);
        assert_eq!(pipe.drain(to.as_fd(), 100).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let mut got = [0; 5];
        b.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"hello");
        drop(a);
        assert_eq!(pipe.fill(from.as_fd(), 100).unwrap(), 0);
    }

    #[test]
    fn capacity_is_what_was_asked_for_or_an_error() {
        let pipe = Pipe::new().unwrap();
        assert_eq!(pipe.resize(8 * 4096).unwrap(), 8 * 4096);
        assert!(pipe.resize(usize::MAX).is_err());
    }
}
