//! What the event loop hears of. Edge-triggered: an event says that something has changed, once.
//!
//! System calls: epoll_ctl.

use std::io;
use std::os::fd::RawFd;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};

use super::faults::{self, Call};

/// # Errors
/// The kernel's: `ENOMEM`, `ENOSPC`.
pub fn add(registry: &Registry, fd: RawFd, token: Token, interest: Interest) -> io::Result<()> {
    faults::may_fail(Call::Watch, fd)?;
    registry.register(&mut SourceFd(&fd), token, interest)?;
    faults::watched(registry, fd, token, interest);
    Ok(())
}

/// Of something else from now on. What can be told now is told now.
///
/// # Errors
/// It is not registered.
pub fn change(registry: &Registry, fd: RawFd, token: Token, interest: Interest) -> io::Result<()> {
    registry.reregister(&mut SourceFd(&fd), token, interest)?;
    faults::watched(registry, fd, token, interest);
    Ok(())
}
