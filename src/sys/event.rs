//! Event descriptors (eventfd(2)) by which we tell somebody else.
//!
//! System calls: fcntl (once each), write.

use std::io;
use std::os::fd::AsFd;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::write;

/// Never to wait, whatever `fd` is: whoever gave it may have filled it.
///
/// # Errors
/// The kernel's.
pub fn prepare(fd: &impl AsFd) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

/// Tells. One that takes nothing has been told already, or does not want to hear.
pub fn tell(fd: &impl AsFd) {
    let _ = write(fd, &1u64.to_ne_bytes());
}
