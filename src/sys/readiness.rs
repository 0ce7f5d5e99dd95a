//! Whether descriptors are ready, asked and not told. Not for the data path, which hears of it by events.
//!
//! System calls: poll, ioctl (`FIONREAD`).

use std::io;
use std::os::fd::RawFd;

use super::result;

/// What is asked of a descriptor, and the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Asked(libc::pollfd);

impl Asked {
    /// Whether there is something to read, or room to write.
    pub fn new(fd: RawFd, write: bool) -> Asked {
        let events = if write { libc::POLLOUT } else { libc::POLLIN | libc::POLLRDHUP };
        Asked(libc::pollfd { fd, events, revents: 0 })
    }

    /// It is so, or something has happened that would be heard of as well: an error or the end of all.
    pub fn is_ready(&self) -> bool {
        self.0.revents != 0
    }

    /// The other end sends nothing more, or all is over.
    pub fn has_ended(&self) -> bool {
        self.0.revents & (libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR) != 0
    }
}

/// # Errors
/// The kernel's.
pub fn ask(list: &mut [Asked]) -> io::Result<()> {
    // SAFETY: Asked is laid out as the pollfd it holds, and pointer and length describe `list`.
    result(unsafe { libc::poll(list.as_mut_ptr().cast(), list.len() as _, 0) })?;
    Ok(())
}

/// Bytes in the receive queue of a stream.
///
/// # Errors
/// The kernel's.
pub fn queued(fd: RawFd) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the kernel writes one int.
    result(unsafe { libc::ioctl(fd, libc::FIONREAD, &raw mut bytes) })?;
    Ok(usize::try_from(bytes).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn the_kernel_answers_for_each() {
        let (mut a, b) = UnixStream::pair().unwrap();
        let look = || {
            let mut list = [Asked::new(b.as_raw_fd(), false), Asked::new(b.as_raw_fd(), true)];
            ask(&mut list).unwrap();
            list.map(|a| (a.is_ready(), a.has_ended()))
        };
        assert_eq!(look(), [(false, false), (true, false)]);
        a.write_all(b"abc").unwrap();
        assert_eq!((look()[0], queued(b.as_raw_fd()).unwrap()), ((true, false), 3));
        drop(a);
        assert_eq!(look()[0], (true, true));
    }
}
