//! Reading and writing an open tap device.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::iov::Gather;
use super::result;

/// One frame, cut to the room.
///
/// # Errors
/// The kernel's, `WouldBlock` when none is queued.
pub fn read(fd: BorrowedFd<'_>, room: &mut [u8]) -> io::Result<usize> {
    // SAFETY: pointer and length describe `room`, which is ours to write.
    result(unsafe { libc::read(fd.as_raw_fd(), room.as_mut_ptr().cast(), room.len()) })
}

/// One frame, from its pieces.
///
/// # Errors
/// The kernel's.
pub fn write(fd: BorrowedFd<'_>, pieces: &[Gather<'_>]) -> io::Result<usize> {
    // SAFETY: the list lives through the call and each piece is readable by Gather's contract.
    result(unsafe { libc::writev(fd.as_raw_fd(), Gather::as_raw(pieces), pieces.len() as i32) })
}
