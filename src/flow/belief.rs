//! What an engine believes of its sockets while it waits: for a watchdog, which asks the kernel whether it is so.

use std::os::fd::RawFd;

use crate::base::Token;

/// A socket that nothing is to be done with until there is an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Belief {
    pub token: Token,
    pub fd: RawFd,
    pub awaited: Awaited,
    /// Another one whenever something was done with the socket.
    pub mark: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Awaited {
    /// Something to read, or an error.
    Arrival,
    /// More of a stream than these bytes at the head of its queue, or its end unless that has come.
    Bytes { seen: usize, end: bool },
    /// Room for what is to be sent.
    Room,
}
