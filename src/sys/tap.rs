//! Reading and writing an open tap device.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::faults::{self, Call};
use super::iov::Gather;
use super::{result, unbroken};

/// One frame, cut to the room.
///
/// # Errors
/// The kernel's, `WouldBlock` when none is queued.
pub fn read(fd: BorrowedFd<'_>, room: &mut [u8]) -> io::Result<usize> {
    let fd = fd.as_raw_fd();
    unbroken(|| {
        faults::may_fail(Call::TapRead, fd)?;
        // SAFETY: pointer and length describe `room`, which is ours to write.
        result(unsafe { libc::read(fd, room.as_mut_ptr().cast(), room.len()) })
    })
}

/// One frame, from its pieces.
///
/// # Errors
/// The kernel's.
pub fn write(fd: BorrowedFd<'_>, pieces: &[Gather<'_>]) -> io::Result<usize> {
    let fd = fd.as_raw_fd();
    unbroken(|| {
        faults::may_fail(Call::TapWrite, fd)?;
        // SAFETY: the list lives through the call and each piece is readable by Gather's contract.
        result(unsafe { libc::writev(fd, Gather::as_raw(pieces), pieces.len() as i32) })
    })
}
