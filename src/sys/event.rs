//! Event descriptors (eventfd(2)) by which we tell somebody else.
//!
//! System calls: fstat and fcntl (once each), write.

use std::io;
use std::os::fd::AsFd;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::stat::{SFlag, fstat};
use nix::unistd::write;

/// # Errors
/// `fd` is none by which one could tell or be told: only event descriptors, pipes and sockets are.
pub fn check(fd: &impl AsFd) -> io::Result<()> {
    let kind = SFlag::from_bits_truncate(fstat(fd)?.st_mode) & SFlag::S_IFMT;
    match kind {
        SFlag::S_IFIFO | SFlag::S_IFSOCK => Ok(()),
        // An anonymous inode has no kind.
        none if none.is_empty() => Ok(()),
        _ => Err(io::Error::other("it is no event descriptor")),
    }
}

/// Not to wait for whoever gave it and has filled it. `O_NONBLOCK` belongs to what `fd` refers to, not to our number for it
/// (fcntl(2)), so the giver can take it back, and have the next write wait for ever. That harms nobody else: a process serves
/// one hypervisor, and SIGKILL ends it. A look before each write would cost a call for each notification, and leave a gap.
///
/// # Errors
/// As [`check`], or the kernel's.
pub fn prepare(fd: &impl AsFd) -> io::Result<()> {
    check(fd)?;
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

/// Tells. One that takes nothing has been told already, or does not want to hear.
pub fn tell(fd: &impl AsFd) {
    let _ = write(fd, &1u64.to_ne_bytes());
}
