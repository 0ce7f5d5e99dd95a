//! Socket options whose value is an integer.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::faults::{self, Call};
use super::result;

/// Sets an option.
///
/// # Errors
/// The kernel's.
pub fn set(fd: BorrowedFd<'_>, level: i32, name: i32, value: i32) -> io::Result<()> {
    faults::may_fail(Call::SetOption, fd.as_raw_fd())?;
    // SAFETY: the kernel reads one int from `value`, which lives on this stack.
    result(unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const value).cast(), size_of::<i32>() as _) })?;
    Ok(())
}

/// Reads an option.
///
/// # Errors
/// The kernel's.
pub fn get(fd: BorrowedFd<'_>, level: i32, name: i32) -> io::Result<i32> {
    faults::may_fail(Call::GetOption, fd.as_raw_fd())?;
    let mut value = 0i32;
    let mut len = size_of::<i32>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes to `value`, which has as many.
    result(unsafe { libc::getsockopt(fd.as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut len) })?;
    Ok(value)
}
