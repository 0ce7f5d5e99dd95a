//! Sockets that wait for somebody to begin: in the host's namespace for the guest's services, in the guest's for the
//! host's.
//!
//! [`Forwards`] are the books: rules, their open ports, and after a look at the ports in use ([`crate::host::SockDiag`])
//! which to open and to close. Ports are opened
//! * at start by [`open_all`]: a rule that names its ports has all of them or ends the program; rules made from `all` or
//!   from exclusions have those that can be had, and share a number of descriptors, lowest ports first, so that a small
//!   limit leaves out the least known ones and connections still have theirs. One sentence tells what was left out;
//! * later by [`open_rule`] (one rule, all or nothing) and by [`open_port`] (a port of an `auto` rule), in the running
//!   engine.
//!
//! Accepting: when descriptors run out, a spare one is given up to accept and reset the client, so that nobody waits in
//! the backlog of a program that cannot serve, and the listener stays drained, as edge-triggered polling requires. Where
//! the host has run out and not only we, the spare may be lost to others: then the caller tries again in a while.
//!
//! Limits: sockets of a rule are one dual-stack socket a port, or one of its address's family. Only where a kernel refuses
//! to bind to the guest's loopback device each family's loopback address has a socket of its own.
//!
//! System calls: those of [`crate::sys::sockets`] (to bind); accept4, setsockopt (`SO_LINGER`, `SO_REUSEADDR`), close,
//! socket (the spare).

mod accept;
mod forwards;
mod open;

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use socket2::Socket;

use crate::base::Addr;
use crate::flow::Id;
use crate::fwd::{Proto, Side};

pub use accept::{Accepted, Acceptor};
pub use forwards::{Change, Forward, ForwardId, Forwards, Rest, Status, TakenOut};
pub use open::{Failure, LeftOut, Options, errno, open_all, open_port, open_rule};

/// A bound socket and where its traffic goes.
#[derive(Debug)]
pub struct Listener {
    pub socket: Socket,
    pub proto: Proto,
    /// Where it listens.
    pub on: Side,
    pub port: u16,
    /// Port on the other side.
    pub target_port: u16,
    /// Address there; `None`: whichever the guest uses.
    pub target: Option<Addr>,
    /// Whose port it is.
    pub forward: ForwardId,
}

impl AsRawFd for Listener {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// A listening socket of a running engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handle {
    pub proto: Proto,
    pub on: Side,
    pub id: Id,
}

/// A port that could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("Failed to bind port {port} ({source})")]
pub struct BindError {
    pub port: u16,
    pub source: Reason,
}

/// The kernel's errno as its plain text, without Rust's "(os error N)".
#[derive(Debug)]
pub struct Reason(pub io::Error);

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.raw_os_error() {
            Some(n) => f.write_str(nix::errno::Errno::from_raw(n).desc()),
            None => self.0.fmt(f),
        }
    }
}

impl std::error::Error for Reason {}
