//! Questions about what the kernel has, which change nothing.
//!
//! System calls: seccomp.

use std::io;

use super::result;

/// Whether a filter of system calls can end a call that it does not allow.
///
/// # Errors
/// `ENOSYS` or `EINVAL` where there are no filters, `EOPNOTSUPP` where they cannot do that.
pub fn seccomp_filter() -> io::Result<()> {
    let action: u32 = libc::SECCOMP_RET_TRAP;
    // SAFETY: the kernel reads one integer from `action`, which lives until the call returns.
    result(unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, &raw const action) })?;
    Ok(())
}
