//! The kernel, typed: the only place that holds `unsafe`, but for the call of a checksum made for newer processors. Functions
//! return `io::Result` with the kernel's errno and do one thing each.

pub mod blocked;
pub mod calls;
pub mod caps;
pub mod dgram;
pub mod errqueue;
pub mod event;
#[cfg(feature = "faults")]
pub mod faults;
#[cfg(not(feature = "faults"))]
#[path = "no_faults.rs"]
pub mod faults;
pub mod fdpass;
pub mod fields;
pub mod iov;
pub mod landlock;
pub mod memory;
pub mod mounts;
pub mod names;
pub mod netlink;
pub mod netns;
pub mod output;
pub mod packet;
pub mod pidfd;
pub mod probe;
pub mod process;
pub mod readiness;
pub mod service;
pub mod sigbus;
pub mod signal;
pub mod socket;
pub mod sockets;
pub mod sockopt;
pub mod splice;
pub mod tap;
pub mod terminal;
pub mod text;
pub mod tun;
pub mod unix;
pub mod watch;

use std::io;

/// What a system call returned, or its errno: failure is a negative number.
fn result(returned: impl TryInto<usize>) -> io::Result<usize> {
    returned.try_into().map_err(|_| io::Error::last_os_error())
}

/// Makes a call again that a signal interrupted. None of those for data waits, so none should be.
fn unbroken<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

/// True if the host has no more descriptors, memory or epoll watches: somebody's going would help.
pub fn is_exhaustion(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS | libc::ENOSPC))
}
